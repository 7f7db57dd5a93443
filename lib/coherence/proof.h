/* SPDX-License-Identifier: BSD-3-Clause
 * What the two threads of the coherence room share: its state, and the transitions of suspicion and proof (proof.c).
 * The argument is at the head of coherence.c. */
#ifndef NEAR_COHERENCE_PROOF_H
#define NEAR_COHERENCE_PROOF_H
#include <pthread.h>
#include "base/histogram.h"
#include "coherence/coherence.h"

/* Why entries may be wrong although no message says so.  The next complete proof cures whatever has gathered. */
enum near__suspicion {
    NEAR_SUSPECT_START = 1u << 0,  /* nothing has been proven yet */
    NEAR_SUSPECT_LOST = 1u << 1,   /* the subscription was lost: messages may have been missed */
    NEAR_SUSPECT_GAP = 1u << 2,    /* positions say that messages were missed */
    NEAR_SUSPECT_ORDER = 1u << 3,  /* positions went backwards, or the server was no master: another history */
    NEAR_SUSPECT_SERVER = 1u << 4, /* another server, or the same one restarted */
    NEAR_SUSPECT_MESSAGE = 1u << 5 /* a message that cannot be read or has no number: it may have told of anything */
};
/* These may mean that the server's history is another one than before: a new incarnation begins. */
#define NEAR_SUSPECT_HISTORY (NEAR_SUSPECT_GAP | NEAR_SUSPECT_ORDER | NEAR_SUSPECT_SERVER | NEAR_SUSPECT_MESSAGE)
/* These say so: the next proof must be above everything seen before. */
#define NEAR_SUSPECT_LIFT (NEAR_SUSPECT_ORDER | NEAR_SUSPECT_SERVER)

/* The proof under way. */
struct near__attempt {
    uint64_t nonce;   /* 0: none */
    int64_t begun_ns; /* before both the PING and the heartbeat were sent: what the proof will count from */
    uint64_t checks;  /* that had begun by then */
    uint64_t known;   /* the proof's position must not be below: it covers whatever had been seen by then */
    uint64_t position;
    int answered; /* the heartbeat's reply said OK */
    int arrived;  /* the heartbeat itself came on the subscription, with `position` */
    int pong;
};

enum { NEAR_NAME_SIZE = 20, NEAR_ANSWERS_MAX = 64 };

/* What others hold: demand.c. */
enum { NEAR_DEMAND_NOTES = 256, NEAR_DEMAND_STRIPES = 4096, NEAR_DEMAND_REPORTS = 4 };
struct near__demand_note {
    uint64_t sender;     /* whose writes */
    uint32_t hash;       /* of the key */
    uint16_t told, held; /* messages since the note was made, and those that found an entry; held 0: no note */
};
struct near__demand {
    struct near__demand_note notes[NEAR_DEMAND_NOTES]; /* (l) by the hash; first come */
    _Atomic(unsigned) noted;                           /* (a) how many; changed under lock */
    _Atomic(uint32_t) credit[NEAR_DEMAND_STRIPES];     /* (a) values that may travel */
};
/* To one writer, by the prover. */
struct near__demand_report {
    char name[NEAR_NAME_SIZE]; /* of its private channel */
    size_t size;
    unsigned char bytes[NEAR_DEMAND_NOTES * NEAR_MESSAGE_HELD];
};

/* A barrier of another process that is to be answered. */
struct near__answer {
    char name[NEAR_NAME_SIZE]; /* of the asker's private channel */
    uint64_t roll;
};
struct near__roll;
struct near__member;
struct near__batch; /* repair.c */
enum near__repair_stage { NEAR_REPAIR_REST = 0, NEAR_REPAIR_PAUSE, NEAR_REPAIR_SEND, NEAR_REPAIR_SETTLE };

/* Comparing what is suspect with the remote tier: repair.c.  (p): the prover alone. */
struct near__repair {
    uint32_t rate;                      /* (c) keys a second; 0: what becomes suspect is dropped */
    unsigned wanted;                    /* (l) runs asked for */
    unsigned run;                       /* (p) the last one begun */
    enum near__repair_stage stage;      /* (p) */
    int64_t due_ns, sent_ns;            /* (p) */
    unsigned failures;                  /* (p) batches in a row that came to nothing */
    struct near__suspects walk, before; /* (p) where it is, and was before the batch */
    struct near__batch *batch;          /* (p) NULL: resting */
};

/* Who may touch what: (c) constant after opening, (a) any thread, atomically, (s) the subscriber alone, (l) under
 * `lock`. The lock is never held across anything that waits, and no hit ever takes it. */
struct near__coherence {
    const struct near__alloc *alloc;                            /* (c) */
    const struct near__clock *clock;                            /* (c) */
    const struct near__log *log;                                /* (c) */
    struct near__local *local;                                  /* (c) */
    struct near__remote *remote;                                /* (c) */
    struct near__gate *gate;                                    /* (c) the pointer; who writes its fields: local.h */
    uint64_t sender, host;                                      /* (c) */
    int64_t backoff_min_ns, backoff_max_ns, connect_timeout_ns; /* (c) */
    char private_name[NEAR_NAME_SIZE];                          /* (c) */
    int manual, tracking;                                       /* (c) */
    void (*heard)(void *arg, const void *key, size_t key_size); /* (c) see coherence.h */
    void *heard_arg;                                            /* (c) */

    /* (a) the local tier's positions are relative to base - 1; 0: not fixed yet; written by the subscriber */
    _Atomic(uint64_t) base;
    _Atomic(uint64_t) highest;     /* (a) highest position seen in a reply or proof; messages could be anybody's */
    _Atomic(uint64_t) incarnation; /* (a) raised by suspicions: the server's history may be new; 0: no proof yet */
    _Atomic(uint64_t) server_id;   /* (a) of the server subscribed to; written by the subscriber */
    _Atomic(uint64_t) next_write;  /* (a) */

    uint64_t last;      /* (s) position of the last message or proof; 0: none yet */
    int anchored;       /* (s) a proof said where we are, and messages followed without a hole since */
    uint64_t announced; /* (s) highest position of a message that followed so: floors are no higher */
    char server[128];   /* (s) identity of the server of the last subscription */
    /* (s) when the attempt began whose heartbeat came last: whatever comes now was written later; 0: none */
    int64_t heard_ns;
    int64_t pinged_ns;     /* (s) with tracking: when the PING was sent that is not answered yet; 0: none */
    int64_t unanswered_ns; /* (s) when the first attempt began that the subscription left unanswered; 0: none */

    pthread_mutex_t lock;
    pthread_cond_t changed;                 /* anything below changed */
    struct near__channel *channel;          /* (l) set and closed by the subscriber only */
    int stopping;                           /* (l) */
    unsigned suspicion;                     /* (l) 0: nothing suspicious since the last proof */
    uint64_t lift_to;                       /* (l) above everything seen before the last certain break */
    struct near__attempt attempt;           /* (l) */
    int asked, running;                     /* (l) a heartbeat is to be sent; is being sent */
    uint64_t asked_of;                      /* (l) server_id when it was */
    int astray;                             /* (l) another server has answered it: the subscription leads elsewhere */
    uint64_t next_nonce;                    /* (l) attempts are numbered, in steps */
    uint64_t proved_nonce;                  /* (l) of the last attempt that succeeded */
    uint64_t wanted_nonce;                  /* (l) somebody waits for this one or a later one: begin it at once */
    int64_t next_proof_ns;                  /* (l) when to begin the next attempt */
    int64_t reopen_ns;                      /* (l) when to try the next subscription */
    _Atomic(int) is_away;                   /* (a) the server is; a reply says that it is back.  Written under lock */
    unsigned open_failures, proof_failures; /* (l) since the last proof */
    int64_t proved_ns;                      /* (l) what the last proof counts from; NEAR_PROVED_NEVER */
    uint64_t random;                        /* (l) */
    /* barrier.c */
    struct near__answer answers[NEAR_ANSWERS_MAX]; /* (l) to be sent by the prover, oldest first */
    unsigned answer_count;                         /* (l) */
    struct near__roll *rolls;                      /* (l) barriers of this process that wait */
    uint64_t next_roll;                            /* (l) */
    struct near__member *members;                  /* (l) as the last roll told */
    size_t member_count;                           /* (l) */
    /* (l) which list of processes there is, on which server, in which history; 0: none */
    uint64_t list;
    int unheard;           /* (l) what the last heartbeats found was not told: there may be a list, with us on it */
    int64_t list_since_ns; /* (l) when it was first seen here */
    int64_t bound_max_ns;  /* (l) the longest bound that was ever seen, of anybody */
    near_error problem;    /* (l) the last one since the last proof */
    uint64_t checks;       /* (l) self-checks that have begun */
    uint64_t refused;      /* (l) how many had when the last attempt began that waiting does not cure */

    /* (a) statistics, relaxed, but for demand and repair, whose fields have letters of their own */
    _Atomic(uint64_t) messages, messages_own, messages_bad, messages_foreign, messages_kept, message_gaps;
    _Atomic(uint64_t) barriers, barriers_incomplete;
    _Atomic(uint64_t) proofs, proofs_failed, subscriptions, disconnections, suspicions;
    _Atomic(uint64_t) server_changes, position_regressions;
    struct near__demand demand;
    struct near__repair repair;
    _Atomic(uint64_t) repair_compared, repair_kept, repair_dropped;
    _Atomic(int64_t) applied_ns; /* when the last message had been applied; 0: none yet */
    struct near__histogram invalidation_ns;

    pthread_t subscriber_thread, prover_thread; /* (c) */
};

static inline void near__coherence_add(_Atomic(uint64_t) *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed); /* a statistic: no order needed */
}

/* coherence.c */
/* Fixes the base at the first position seen; 1 when the position can be expressed relative to it. */
int near__coherence_in_range(struct near__coherence *c, uint64_t position);
/* The server has jumped to that position, which cannot be expressed: moves the base, so that it is above everything
 * that was ever seen.  By the subscriber, after a new incarnation has begun; nothing, if there is no room. */
void near__coherence_rebase_locked(struct near__coherence *c, uint64_t position);
void near__coherence_raise_highest(struct near__coherence *c, uint64_t position);
/* 0 stays 0 (unknown); out of range becomes 0. */
uint64_t near__coherence_relative(const struct near__coherence *c, uint64_t position);
/* How long to pause after so many failures in a row: capped exponential, with jitter so that processes do not come back
 * as a herd. */
int64_t near__coherence_backoff_locked(struct near__coherence *c, unsigned failures);
/* The body of a barrier's message. */
void near__coherence_body_roll(struct near__coherence *c, uint64_t roll, struct near__buffer *b);

/* After a failed attempt to subscribe, or a loss: when to try again.  is_away: nobody was there to refuse it. */
void near__coherence_pause_locked(struct near__coherence *c, int is_away);
void near__coherence_wait_locked(struct near__coherence *c, int64_t until_ns);
/* Waits for a change, or in manual mode does the threads' work.  0 when it is no use to go on. */
int near__coherence_go_on_locked(struct near__coherence *c, int64_t deadline_ns);
/* Makes the subscriber look at its timers again. */
void near__coherence_kick_locked(struct near__coherence *c);

/* proof.c.  Durations derived from the staleness bound: between proofs, and for one. */
int64_t near__proof_interval_ns(const struct near__coherence *c);
int64_t near__proof_patience_ns(const struct near__coherence *c);
/* Withdraws the proof for the reasons given, cancels the attempt under way and asks for a new one. */
void near__proof_suspect_locked(struct near__coherence *c, unsigned reasons);
void near__proof_suspect(struct near__coherence *c, unsigned reasons);
/* Ages the gate's proof beyond bound_ns. */
void near__proof_withdraw_locked(struct near__coherence *c, int64_t bound_ns);
int near__proof_stands_locked(const struct near__coherence *c);
/* An attempt has failed that began after so many self-checks: those that began before need not wait any longer if it
 * was refused, which the same attempt will be again. */
void near__proof_refused_locked(struct near__coherence *c, int status, uint64_t checks);

enum near__tick {
    NEAR_TICK_WAIT,   /* nothing to do before *ret_due_ns */
    NEAR_TICK_PING,   /* an attempt has begun: send the PING with *ret_nonce */
    NEAR_TICK_SILENT, /* the subscription has answered nothing for too long: give it up */
    NEAR_TICK_ASTRAY  /* it is not to the server that answers requests: give it up */
};
enum near__tick near__proof_tick(struct near__coherence *c, int64_t *ret_due_ns, uint64_t *ret_nonce);
void near__proof_pong(struct near__coherence *c, const void *payload, size_t size);
void near__proof_arrived(struct near__coherence *c, const void *payload, size_t size);
/* The heartbeat's own reply (or failure). */
void near__proof_answered(struct near__coherence *c, const struct near__request *request);

/* barrier.c.  The heartbeat's reply told which list of processes there is (epoch 0: none). */
void near__barrier_listed_locked(struct near__coherence *c, uint64_t epoch, uint64_t server);
/* A barrier's message was applied: answers it soon. */
void near__barrier_called(struct near__coherence *c, const struct near__message *m);
/* An answer to a barrier of ours, on the private channel. */
void near__barrier_answered(struct near__coherence *c, const void *payload, size_t size);
void near__barrier_fini(struct near__coherence *c);

/* demand.c.  A message of `sender` that asks told of the key, and found an entry or not; the subscriber only. */
void near__demand_note(struct near__coherence *c, uint64_t sender, const void *key, size_t key_size, int held);
/* What is to be reported, to `most` writers at most; the others' turn comes next.  Returns how many. */
size_t near__demand_take_locked(struct near__coherence *c, struct near__demand_report *ret, size_t most);
/* Such a report has come. */
void near__demand_heard(struct near__coherence *c, const void *report, size_t size);

/* repair.c; all but the third are the prover's. */
void near__repair_init(struct near__coherence *c, uint32_t rate);
void near__repair_fini(struct near__coherence *c);
/* Something has become suspect: a run begins, or begins anew. */
void near__repair_want_locked(struct near__coherence *c);
int64_t near__repair_due_locked(const struct near__coherence *c);
void near__repair_step(struct near__coherence *c);

/* subscriber.c, prover.c: one step each; with wait, blocks until there is something to do.  1 when something was
 * done. */
int near__subscriber_step(struct near__coherence *c, int wait);
int near__prover_step(struct near__coherence *c, int wait);

#endif
