/* SPDX-License-Identifier: BSD-3-Clause
 * The cache room: puts the rooms together.
 *
 * A near_cache is a *shell* that lives as long as the process and points to the *impl*, which lives from near_open to
 * near_close.  A call enters a read section, loads the impl and either finishes inside the section (a local hit) or
 * counts itself in impl->calls before it leaves the section (anything that may block).  near_close takes the impl out
 * of the shell, waits for a grace period, then for calls to reach zero: then nobody can hold the impl (R51).  fork's
 * child handler does the first step alone. */
#ifndef NEAR_CACHE_CACHE_H
#define NEAR_CACHE_CACHE_H
#include <pthread.h>
#include <stdatomic.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "base/histogram.h"
#include "base/log.h"
#include "base/uri.h"
#include "coherence/coherence.h"
#include "load/behind.h"
#include "load/flight.h"
#include "local/brief.h"
#include "local/local.h"
#include "nearcache.h"
#include "remote/remote.h"

enum near__shell_state { NEAR_SHELL_OPEN, NEAR_SHELL_CLOSED, NEAR_SHELL_FORKED };

struct near_cache {
    _Atomic(struct near__impl *) impl; /* NULL: see state */
    _Atomic(int) state;
    uint64_t serial;          /* of the impl's local tier: finds a thread's reader; never changes */
    int by_counter;           /* hits need no look at the kernel's clock: they may try the short way; never changes */
    struct near__impl *owned; /* under the registry's mutex: for near_close's way back and for fork */
    struct near_cache *next;  /* under the registry's mutex: every shell ever made, so that none is lost */
};

/* What the blocking calls count; the local tier counts the rest per thread. */
struct near__call_counters {
    _Atomic(uint64_t) flights_joined, remote_hits, remote_misses, remote_errors;
    _Atomic(uint64_t) writes, writes_unmet, writes_failed, writes_unknown, values_sent, drops;
    _Atomic(uint64_t) locks_taken, locks_refused, locks_failed, locks_extended, locks_lost;
    _Atomic(uint64_t) warm_keys, warm_found, warm_missing, warm_errors;
};

struct near__loading;      /* loading.h */
struct near__local_writes; /* only.c: writes of a cache without a remote tier */

struct near__impl {
    struct near__alloc alloc;
    struct near__clock clock;
    struct near__log log;
    near_options options;
    struct near__uri uri;
    struct near__local *local;
    struct near__gate *gate;
    struct near__remote *remote;       /* NULL: "local:" */
    struct near__coherence *coherence; /* NULL: "local:" */
    struct near__flights *flights;
    struct near__local_writes *local_writes; /* only with "local:" */
    struct near__shared_owner values;        /* values handed out that the remote tier gave */
    int64_t timeout_ns, stale_ns;
    int64_t unasked_stale_ns; /* stale_ns when reads may be served stale without asking for it, otherwise 0 */
    struct near__call_counters counters;
    struct near__histogram miss_ns, write_ns, lock_ns;
    struct near__snapshot *snapshot; /* NULL: not wanted */
    pthread_mutex_t sources_lock;
    struct near_source *sources; /* under sources_lock */
    struct near__behind_counters source_counters;
    _Atomic(struct near__loading *) loading; /* made by the first load */
    /* of loading: the cache's own, so that a child forked meanwhile can still load into its own caches */
    pthread_mutex_t making;
    _Atomic(uint64_t) tags_ended; /* invalidations of tags that have returned: see near__load_ticket */
    char apart[64];               /* a line of its own for calls, wherever the caller's allocator puts the impl */
    _Atomic(uint64_t) calls;      /* blocking calls under way */
    char apart_after[64];
};

/* lifecycle.c.  With virtual_ns (tests only) the cache lives in that time. */
int near__cache_open(const char *uri, const near_options *options, _Atomic(int64_t) *virtual_ns, near_cache **ret,
                     near_error *error);
/* The impl, counted as a blocking call; NULL with *ret_status NEAR_ERR_CLOSED or NEAR_ERR_FORKED. */
struct near__impl *near__enter(near_cache *cache, int *ret_status);
void near__leave(struct near__impl *impl);
/* Inside a read section: the impl or NULL. */
static inline struct near__impl *near__impl_in_section(near_cache *cache)
{
    /* acquire: pairs with the release in near_open */
    return atomic_load_explicit(&cache->impl, memory_order_acquire);
}
/* Likewise: is there one? */
NEAR_INLINE int near__is_open_in_section(near_cache *cache)
{
    return !near__brief_is_null(&cache->impl); /* acquire: as above */
}
/* Counts a blocking call; only inside the section in which impl was loaded. */
static inline void near__count_call(struct near__impl *impl)
{
    atomic_fetch_add_explicit(&impl->calls, 1, memory_order_relaxed);
}
int near__shell_refusal(const near_cache *cache);
/* The calling thread's reader, made at its first call: not inside a section.  NULL with *ret_status. */
struct near__reader *near__reader_for(near_cache *cache, int *ret_status);

/* Copies a caller's struct, of any size, over ours, which holds the defaults; what it has beyond ours must be zero. */
int near__struct_copy(void *ret, size_t our_size, const void *from, size_t their_size);
/* A checked, complete copy of what the caller passed or did not pass. */
int near__call_copy(const near_call *call, near_call *ret);
int near__read_call_copy(const near_call *call, near_call *ret); /* of a read */
int near__write_copy(const near_write *write, near_write *ret);
int64_t near__deadline(const struct near__impl *impl, const near_call *call);
static inline int near__key_check(const void *key, size_t key_size)
{
    if (!key && key_size)
        return NEAR_ERR_INVALID;
    return key_size > NEAR_KEY_MAX ? NEAR_ERR_TOO_LARGE : NEAR_OK;
}
static inline void near__add(_Atomic(uint64_t) *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed); /* a statistic: no order needed */
}

/* read.c: what a read does after the local tier has not answered and there is a remote one; the call is counted. */
int near__read_miss(struct near__impl *impl, struct near__reader *reader, const void *key, size_t key_size,
                    const near_call *call, near_value *ret_value);
/* The staleness bound of a read, and the second bound within which it may be served stale (0: it may not).  call may be
 * NULL. */
static inline int64_t near__read_bound(const struct near__impl *impl, const near_call *call)
{
    /* acquire: pairs with near__coherence_set_bound; whoever sees a longer bound sees the proof withdrawn before it */
    int64_t bound = atomic_load_explicit(&impl->gate->bound_ns, memory_order_acquire);
    if (call && call->bound_ms && (int64_t)call->bound_ms * NEAR_NS_PER_MS < bound)
        bound = (int64_t)call->bound_ms * NEAR_NS_PER_MS;
    return bound;
}
static inline int64_t near__read_stale_bound(const struct near__impl *impl, const near_call *call)
{
    if (call && call->flags & (NEAR_ALLOW_STALE | NEAR_REQUIRE_FRESH))
        return call->flags & NEAR_REQUIRE_FRESH ? 0 : impl->stale_ns;
    return impl->unasked_stale_ns;
}
/* near_value.state_ */
enum { NEAR_VALUE_NONE = 0, NEAR_VALUE_PINNED = 1, NEAR_VALUE_OWNED = 2, NEAR_VALUE_SHARED = 3 };
/* Milliseconds that are left. */
static inline int64_t near__ttl_at_ms(int64_t now_ns, int64_t expires_ns)
{
    return expires_ns > now_ns ? (expires_ns - now_ns) / NEAR_NS_PER_MS : 0;
}
/* The same from now on, by the exact clock (the coarse one lags: it would tell too much); -1: never ends. */
int64_t near__ttl_left_ms(const struct near__clock *clock, int64_t expires_ns);
static inline void near__value_from_view(near_value *value, struct near__impl *impl, struct near__reader *reader,
                                         const struct near__view *view)
{
    value->data = view->data;
    value->size = view->size;
    value->ttl_ms = view->expires_ns == NEAR_NEVER ? -1 : near__ttl_at_ms(view->now_ns, view->expires_ns);
    value->source = NEAR_FROM_LOCAL;
    value->state_ = NEAR_VALUE_PINNED;
    value->private_[0] = view->pin;
    value->private_[1] = reader;
    value->private_[2] = impl->local;
}
/* Takes over the reference. */
void near__value_from_shared(near_value *value, struct near__impl *impl, struct near__shared *shared, uint32_t source);
/* For NEAR_REQUIRE_FRESH: waits until the local tier may answer for the moment of this call; if it will not, the call
 * bypasses it.  Its time-out is then what is left of it. */
void near__read_fence(struct near__impl *impl, near_call *call);
/* Whether NEAR_UNPROVEN_FAIL forbids asking the remote tier now. */
int near__read_refused(const struct near__impl *impl, int64_t bound_ns);
/* What a FETCH request's reply means for the local tier and the counters; the value is kept when fill is set. */
void near__fetch_learn(struct near__impl *impl, struct near__reader *reader, struct near__ticket ticket,
                       const struct near__request *request, struct near__mark before, int fill);
/* The fetched value, taken over from the request; NULL without memory (and freed). */
struct near__shared *near__fetch_share(struct near__impl *impl, struct near__request *request);

/* batch.c: NEAR_OK or NEAR_ERR_INVALID; the call as a whole came to nothing, returns status; what the call returns
 * otherwise. */
int near__items_check(const near_item *items, size_t count, int values);
int near__items_fail(near_item *items, size_t count, int status);
int near__items_error(const near_item *items, size_t count);

/* write.c.  request has operation and arguments; returns the status for the caller. */
int near__write_through(struct near__impl *impl, struct near__request *request, int64_t deadline_ns, int fill);
/* The same for many, one round trip; each request's status is set. */
int near__write_many(struct near__impl *impl, struct near__request *requests, size_t count, int64_t deadline_ns,
                     int fill);

/* After a write with this status: with NEAR_WRITE_BARRIER waits for the other processes.  The status for the caller. */
int near__write_barrier(struct near__impl *impl, const near_call *call, int64_t deadline_ns, int status);
/* Of a call that had nothing to write: nobody is asked, and that is told. */
void near__write_barrier_none(const near_call *call);

/* source.c */
int near__sources_open(struct near__impl *impl);
void near__sources_abandon(const struct near__impl *impl); /* in a child after fork: closes their descriptors */
/* Values that have been handed out, and not come back. */
uint64_t near__values_held(const struct near__impl *impl);
void near__sources_stats(struct near__impl *impl, near_stats *stats);
/* The two halves of a write, for who puts a command of its own between them: what is known before it is sent, and what
 * its end means for the local tier. */
struct near__sent {
    struct near__ticket ticket;
    struct near__mark before;
};
struct near__sent near__write_before(struct near__impl *impl, const struct near__request *request);
void near__write_learn(struct near__impl *impl, const struct near__request *request, const struct near__sent *sent,
                       int fill);

/* loading.c */
void near__loading_destroy(struct near__impl *impl); /* no call is under way */
void near__loading_heard(void *impl, const void *key, size_t key_size);
void near__loading_stats(struct near__impl *impl, near_stats *stats);

/* warm.c: near_warm_save; the call is counted, or nobody else is left. */
int near__warm_save(struct near__impl *impl, const char *path, uint64_t keys_max, uint64_t *ret_keys,
                    near_error *error);

/* snapshot.c: the option snapshot.  All do nothing without it.  start: the cache is open; stop: before anybody looks
 * for pins. */
int near__snapshot_create(struct near__impl *impl, near_error *error);
void near__snapshot_start(struct near__impl *impl, near_cache *cache);
void near__snapshot_stop(struct near__impl *impl);
int near__snapshot_save(struct near__impl *impl); /* NEAR_OK or NEAR_UNSAVED; stopped, and no call is under way */
int near__snapshot_status(const struct near__impl *impl);
void near__snapshot_destroy(struct near__impl *impl);

/* only.c: the writes of a cache without a remote tier. */
int near__local_writes_create(struct near__impl *impl);
void near__local_writes_destroy(struct near__impl *impl);
/* request->position is then the floor of the key's stripe; 0: that is what it was. */
int near__local_write(struct near__impl *impl, struct near__request *request);
/* Removes a key from the local tier without a number, whether there is a remote tier or not. */
void near__local_remove(struct near__impl *impl, const void *key, size_t key_size, enum near__local_cause cause);
/* Only with "local:".  A removal or clearing that changed a ticket taken before may not have removed everything yet. */
int near__local_is_being_removed(struct near__impl *impl);
uint64_t near__local_invalidations(struct near__impl *impl); /* of tags: the number of the last one */
/* As near__local_write, unless something was learnt of the key since the ticket: then NEAR_UNMET.  What was learnt of
 * other keys of its stripe alone is none of it where ticket.value is known; otherwise it is. */
int near__local_write_if(struct near__impl *impl, struct near__request *request, struct near__ticket ticket);

#endif
