/* SPDX-License-Identifier: BSD-3-Clause
 * Loading: what get_or_load and its like share. */
#ifndef NEAR_CACHE_LOADING_H
#define NEAR_CACHE_LOADING_H
#include "cache/cache.h"
#include "load/fresh.h"
#include "load/notes.h"
#include "load/watch.h"
#include "load/workers.h"

/* A loader set with near_set_loader; constant once published. */
struct near__loader {
    struct near__loader *next; /* the one before; all stay until close, for a call may hold any */
    near_loader_fn fn;         /* one of the two */
    near_bulk_loader_fn bulk_fn;
    void *arg;
    near_load options;
};

struct near__load_counters {
    _Atomic(uint64_t) loads, failed, absent, unkept, waits, refreshes, early, skipped, stale, absent_hits;
};

/* Made by the first load, lives until close. */
struct near__loading {
    struct near__flights *flights;
    struct near__workers *workers;
    struct near__watches *watches;
    struct near__notes *notes;
    struct near__pace pace;
    _Atomic(struct near__loader *) loader;      /* the newest */
    _Atomic(struct near__loader *) bulk_loader; /* the same for many keys */
    _Atomic(uint32_t) refreshing;
    struct near__load_counters counters;
    struct near__histogram load_ns;
};

/* The cache's, made if need be; NULL without memory.  The call is counted. */
struct near__loading *near__loading_of(struct near__impl *impl);
static inline struct near__loading *near__loading_known(struct near__impl *impl)
{
    /* acquire: pairs with the release that published it */
    return atomic_load_explicit(&impl->loading, memory_order_acquire);
}

/* Checked and complete: a copy in *mine, or without options the defaults.  NULL: they are not valid. */
const near_load *near__load_options(const near_load *options, near_load *mine);
static inline int64_t near__load_grace_ms(const near_load *o)
{
    return o->stale_ms > o->fail_ms ? o->stale_ms : o->fail_ms;
}
/* Whether the local copy's end tells how old a value is: the option local_ttl_ms must not cut it below the grace. */
static inline int near__load_suits(const struct near__impl *impl, const near_load *options)
{
    uint32_t cut_ms = impl->options.local_ttl_ms;
    return !cut_ms || near__load_grace_ms(options) == 0 || cut_ms > near__load_grace_ms(options);
}
uint64_t near__load_random(void);

/* tags.c: a value's tags, as text and as parts (which point into the text). */
#define NEAR_TAGS_LIST_MAX (NEAR_TAGS_MAX * (NEAR_TAG_MAX + 1))
#define NEAR_TAGS_TEXT_MAX (NEAR_TAGS_LIST_MAX + 48)
struct near__tags {
    uint64_t position, hash;
    const char *list;
    size_t list_size;
};
size_t near__tags_describe(uint64_t position, const void *value, size_t value_size, const char *list, size_t list_size,
                           char ret[NEAR_TAGS_TEXT_MAX]);
int near__tags_parse(const void *text, size_t size, struct near__tags *ret); /* 0, or -1 for what is none */
int near__tags_next(const struct near__tags *tags, const char **cursor, size_t *ret_size); /* *cursor begins NULL */
/* Whether a local value's tags are known here, and none was invalidated since it was loaded. */
int near__tags_hold(struct near__impl *impl, struct near__reader *reader, const void *key, size_t key_size,
                    const void *value, size_t value_size);
/* A copy of the description that a key has locally; NULL: none, or no memory. */
void *near__tags_copy(struct near__impl *impl, const void *key, size_t key_size, size_t *ret_size);
/* Keeps a description beside a value that was just learnt, and what its tags' numbers are. */
struct near__learnt {
    const void *key;
    size_t key_size;
    struct near__ticket ticket; /* near__tags_ticket, from before the request was sent */
    uint64_t position;          /* local terms; without a remote tier unused, and so is sent_ns */
    int64_t ttl_ms, sent_ns;
};
#define NEAR_NO_STRIPE UINT32_MAX /* of a ticket for which there was no memory: nothing is learnt by it */
struct near__ticket near__tags_ticket(struct near__impl *impl, const void *key, size_t key_size);
/* Without a remote tier the floor that its write has left in its stripe is returned; 0: nothing was written. */
uint64_t near__tags_learn(struct near__impl *impl, const struct near__learnt *learnt, const char *text, size_t size);

/* What a loader has answered. */
struct near_loaded {
    const struct near__alloc *alloc;
    uint64_t value_max;
    void *data;
    size_t size;
    int has_value;
    int may_tag;
    unsigned tags;
    char list[NEAR_TAGS_LIST_MAX]; /* each tag and a zero */
    size_t list_size;
    int error;            /* of a near_loaded_… call: it decides, whatever the loader returns */
    int answered, answer; /* near_loaded_answer: instead of what the loader returns */
    int64_t ttl_ms;       /* 0: the options' */
};

/* One load on its way: begun by a reader, or behind its back, run by a worker. */
struct near__load {
    struct near__job job;    /* first */
    struct near__load *next; /* in near__refreshes */
    struct near__impl *impl;
    struct near__loading *loading;
    struct near__flight *flight; /* with a reference of its own */
    near_loader_fn fn;           /* one of the two */
    near_bulk_loader_fn bulk_fn;
    void *arg;
    near_load options;
    struct near__ticket ticket; /* of the key, when the load began */
    int behind, early;          /* a refresh: nobody waits; and the value is not even old */
    int leased, exists;
    uint64_t fence;
    struct near__shared *old; /* what there is; NULL: nothing */
    /* position when the lease was given, as the server tells it: what tags are compared with */
    uint64_t asked_at;
    void *tags; /* of the old value; NULL: none */
    size_t tags_size;
    char owner[40];
    size_t key_size;
    unsigned char key[];
};

/* load.c.  A load of a key, with a reference to the flight; NULL without memory. */
struct near__load *near__load_create(struct near__impl *impl, const void *key, size_t key_size,
                                     struct near__flight *flight);
void near__load_free(struct near__load *load);
/* Asks the server for the value or the lease; what the answer teaches is learnt.  Takes value and tags out of the
 * request. */
void near__load_ask(struct near__load *load, uint32_t flags, int64_t deadline_ns, struct near__request *ret);
/* The two halves of it, for who asks for many loads in one round trip. */
struct near__asked {
    struct near__sent sent;
    struct near__ticket tags_ticket;
};
struct near__asked near__load_ask_before(struct near__load *load, uint32_t flags, struct near__request *ret);
/* An old value (the reference is taken over) or NULL in place of what it had; who waits for the load may be served
 * it. */
void near__load_take_old(struct near__load *load, struct near__shared *old);
void near__load_ask_after(struct near__load *load, struct near__request *q, const struct near__asked *asked);
/* Loads that one call of their bulk loader shall do.  Room for `room` of them; NULL without memory. */
struct near__bulk *near__bulk_create(struct near__impl *impl, size_t room);
void near__bulk_add(struct near__bulk *bulk, struct near__load *load);
/* Hands them to a worker and takes them all over; none is fine.  On an error the flights have landed with it. */
void near__bulk_start(struct near__bulk *bulk);
/* Waits as near__flight_wait_load does.  A worker takes the flight's load out of the queue and does it, rather than
 * wait for one. */
struct near__landing near__load_wait(struct near__loading *l, struct near__flight *flight,
                                     struct near__patience patience);
/* Hands the load, which is counted as a call, to a worker.  On an error the flight has landed with it. */
void near__load_start(struct near__load *load);
/* Refreshes that one call of the reader's found due, in order; {0}: none.  All have the same loader.  Where it is a
 * bulk loader one call of it will have them all, and so they count as one for the option load_refreshes; otherwise each
 * as one. */
struct near__refreshes {
    struct near__load *first, *last;
    size_t count;
};
/* Hands them over; before the caller waits for anything, for others may have joined them already. */
void near__refreshes_start(struct near__refreshes *due);

#endif
