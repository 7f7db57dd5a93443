/* SPDX-License-Identifier: BSD-3-Clause
 * Inside of memory://: what memory.c (the remote's side) and memory_store.c, memory_command.c, memory_loads.c and
 * memory_faults.c (the server's side) share.
 *
 * Protection: r: the registry's lock; l: the store's lock; c: constant after it was made.  The registry's lock and a
 * store's lock are never held together. */
#ifndef NEAR_REMOTE_MEMORY_STORE_H
#define NEAR_REMOTE_MEMORY_STORE_H
#include <pthread.h>
#include "remote/keyspace.h"
#include "remote/memory.h"

#define NEAR_MEMORY_OPERATIONS (NEAR_OP_COMPARE + 1)
#define NEAR_MEMORY_NAME_MAX 48
/* A subscriber that is so far behind is disconnected, as Redis does by default (R28). */
#define NEAR_MEMORY_QUEUE_MAX ((size_t)32 << 20)

/* A prefix and its position.  Never freed before the store, so that remotes and mailboxes can point to it. */
struct near__place {
    struct near__place *next;    /* l */
    uint64_t position, snapshot; /* l; 0: there is none */
    size_t prefix_size;          /* c */
    const char *list;            /* c: the key of its list of processes */
    size_t list_size;            /* c */
    char prefix[];               /* c */
};

/* What waits in a mailbox: in the order in which it will be read. */
struct near__letter {
    struct near__letter *next;
    uint64_t number; /* copies of one message for several mailboxes have the same */
    enum near__channel_event event;
    enum near__operation operation; /* that published it */
    int held;                       /* it, and everything behind it, waits */
    int everything;                 /* FOREIGN: any key */
    size_t size;
    unsigned char bytes[];
};

/* What is put into mailboxes: an envelope and a body. */
struct near__sheet {
    enum near__channel_event event;
    enum near__operation operation;
    int held, everything;
    uint64_t number;
    const void *head, *body;
    size_t head_size, body_size;
};

/* The server's end of a channel.  All l, except c: place, alloc, private_name, server. */
struct near__mailbox {
    struct near__mailbox *next;
    struct near__place *place;
    const struct near__alloc *alloc; /* the channel owner's */
    struct near__letter *head, **tail;
    size_t bytes;
    int lost;                    /* the status with which the connection ended, 0: it stands */
    int tracks;                  /* foreign writes are reported; -1: they should be, and are not any more */
    struct near__letter *unread; /* with turns: PINGs that the server has not read yet, oldest first */
    int readable;                /* there were some when the turn began */
    char server[NEAR_MEMORY_NAME_MAX];
    char *private_name;
};

/* A request or a reply that a fault holds.  In the caller's frame, or, when the caller may leave before a held request
 * runs, on the heap. */
struct near__held {
    struct near__held *next;
    enum near__operation operation;
    int released;  /* 1: go on, -1: its connection broke */
    int abandoned; /* the caller has left; whoever takes it from the queue frees it */
    /* a held request only: */
    struct near__place *place;
    const struct near__alloc *value_alloc; /* for value_out; not used once abandoned */
    uint64_t value_max;
    struct near__request request; /* points into bytes */
    unsigned char bytes[];
};

struct near__memory_store {
    struct near__memory_store *next; /* r */
    unsigned refs;                   /* r */
    struct near__alloc alloc;        /* c: of whoever came first */
    struct near__clock clock;        /* c: that tells when keys expire */
    char *name;                      /* c */
    pthread_mutex_t lock;
    pthread_cond_t changed;              /* anything that somebody may wait for */
    struct near__keyspace keys;          /* l */
    struct near__keyspace snapshot;      /* l */
    struct near__place *places;          /* l */
    struct near__mailbox *mailboxes;     /* l */
    uint64_t letters;                    /* l: numbers given */
    uint64_t incarnation;                /* l: unique in the process */
    char identity[NEAR_MEMORY_NAME_MAX]; /* l */
    /* faults, all l; first index 0 of an operation means every one */
    int faults[NEAR_FAULT_MAX_][NEAR_MEMORY_OPERATIONS]; /* how many to strike, -1: all */
    struct {
        int status, count;
    } errors[NEAR_MEMORY_OPERATIONS];
    uint64_t ran[NEAR_MEMORY_OPERATIONS];
    struct near__held *requests, *replies; /* what is held, oldest first */
    int duplicate_next;
    int turns;                    /* reports wait for the end of the turn */
    struct near__letter *reports; /* of this turn */
    int impatient;
};

void near__memory_enter(struct near__memory_store *store);
void near__memory_leave(struct near__memory_store *store);
/* With the lock: sleeps until something changed, at most until deadline_ns of clock.  0: the deadline has passed. */
int near__memory_wait_locked(struct near__memory_store *store, const struct near__clock *clock, int64_t deadline_ns);

/* The rest is called with the lock. */
/* NULL: no memory */
struct near__place *near__memory_place_locked(struct near__memory_store *store, const char *prefix);
/* Whether a fault strikes now; counts it. */
int near__memory_strikes_locked(struct near__memory_store *store, enum near__memory_fault fault, int operation);
/* Runs a request as the server does: condition, number, message, write.  value_alloc NULL: nobody wants the value. */
void near__memory_execute_locked(struct near__memory_store *store, struct near__place *place, uint64_t value_max,
                                 const struct near__alloc *value_alloc, struct near__request *request);
/* What a caller gets that no reply reached: `status` for a read, "fate unknown" for a write. */
void near__memory_no_answer(const struct near__alloc *value_alloc, struct near__request *request, int read_status);
/* A PING is read: its PONG comes behind every message that was published before it; with turns see
 * near__memory_turn. */
void near__memory_ping_locked(struct near__memory_store *store, struct near__mailbox *mailbox, const char *nonce);
/* The key (with its prefix; NULL: every key) was written: reports it to those who track, now or at the end of the
 * turn. */
void near__memory_report_locked(struct near__memory_store *store, const void *key, size_t key_size);
void near__memory_break_locked(struct near__memory_store *store, struct near__mailbox *mailbox, int status);
/* To every subscriber of the prefix; to the one process whose private channel the request names. */
void near__memory_publish_locked(struct near__memory_store *store, struct near__place *place,
                                 struct near__sheet *sheet);
void near__memory_publish_private_locked(struct near__memory_store *store, struct near__place *place,
                                         const struct near__request *q);
/* Wakes everybody who waits for a change. */
void near__memory_changed_locked(struct near__memory_store *store);
/* The server is another process from now on. */
void near__memory_new_identity_locked(struct near__memory_store *store);
void near__memory_queue_held_locked(struct near__held **queue, struct near__held *held);
void near__memory_unqueue_held_locked(struct near__held **queue, struct near__held *held);
/* In the child after fork: the parent's stores are not ours.  Takes no lock. */
void near__memory_forget_all(void);

#endif
