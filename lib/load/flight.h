/* SPDX-License-Identifier: BSD-3-Clause
 * Flights: one fetch of a key at a time in a process.
 *
 * The first thread that misses a key leads a flight, the others join it and share its result.  A flight is identified
 * by the key *and* the ticket that the key had when the flight began: whatever taught this process something about the
 * key's order since (an acknowledged write, a message, a drop) has changed the ticket, and then a new flight begins
 * beside the old one (R17).  A flight older than the reader's staleness bound is not joined either: its answer may be
 * from before. */
#ifndef NEAR_LOAD_FLIGHT_H
#define NEAR_LOAD_FLIGHT_H
#include <stddef.h>
#include <stdint.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "local/local.h"

struct near__flights;
struct near__flight;

/* A value fetched from the remote tier, shared by the threads that waited for it.  Immutable once published. */
struct near__shared {
    _Atomic(uint32_t) references;
    struct near__shared_owner *owner;
    void *data; /* of owner->alloc */
    size_t size;
    int64_t expires_ns;
};
/* Who the values belong to, so that close can tell whether any are outstanding. */
struct near__shared_owner {
    const struct near__alloc *alloc;
    _Atomic(uint64_t) outstanding;
};

/* Takes over data; NULL without memory (data is still the caller's). */
struct near__shared *near__shared_create(struct near__shared_owner *owner, void *data, size_t size, int64_t expires_ns);
void near__shared_ref(struct near__shared *shared);
void near__shared_unref(struct near__shared *shared); /* NULL is fine; any thread */
/* The value's life was over when a reader began: a flight may be joined that has its value already, and whose leader is
 * held up.  Then it is not this reader's to have (R20). */
int near__shared_was_over(const struct near__shared *shared, int64_t began_ns);
/* There is a value, and it can still be had at until_ns, or now if that is later. */
int near__shared_lasts(const struct near__shared *shared, int64_t until_ns, int64_t now_ns);

int near__flights_create(const struct near__alloc *alloc, const struct near__clock *clock, struct near__flights **ret);
void near__flights_destroy(struct near__flights *flights); /* none may be under way */

enum near__flight_role { NEAR_FLIGHT_LEAD = 1, NEAR_FLIGHT_JOIN = 2, NEAR_FLIGHT_NOMEM = 3 };
/* Leads or joins (bound_ns 0: always leads).  The flight must be given back with near__flight_leave by either.
 * NOMEM: there is no flight. */
enum near__flight_role near__flight_enter(struct near__flights *flights, const void *key, size_t key_size,
                                          struct near__ticket ticket, int64_t bound_ns, struct near__flight **ret);
/* The result; shared may be NULL (a miss, an error).  Takes its own reference.  The first landing counts: returns 1, a
 * later one (a load that was given up comes back after all) 0. */
int near__flight_land(struct near__flights *flights, struct near__flight *flight, int status,
                      struct near__shared *shared);
/* A joiner waits: 1 with the leader's result (*ret_shared has a reference of the caller's, or NULL), 0 at the
 * deadline. */
int near__flight_wait(struct near__flights *flights, struct near__flight *flight, int64_t deadline_ns, int *ret_status,
                      struct near__shared **ret_shared);
void near__flight_leave(struct near__flights *flights, struct near__flight *flight);
/* One more reference, for a thread that will land the flight later than its caller leaves it. */
void near__flight_ref(struct near__flights *flights, struct near__flight *flight);

/* ---- flights of loads: an old value that may be served meanwhile, and an end that does not depend on who loads */

/* What a reader that waits for a load may find.  Both values have a reference of the reader's, or are NULL. */
struct near__landing {
    int landed; /* 0: the wait ended before */
    int status; /* when landed */
    struct near__shared *shared, *old;
    int queued; /* not landed: its load waits for a worker, which the caller is */
};
/* Tells the waiters of an old value (takes its own reference); only the first offer counts. */
void near__flight_offer(struct near__flights *flights, struct near__flight *flight, struct near__shared *old);
/* When the flight lands with NEAR_ERR_LOAD_TIMEOUT if nobody has landed it; whoever waits sees to it. */
void near__flight_limit(struct near__flights *flights, struct near__flight *flight, int64_t limit_ns);
/* The load is in the queue of workers. */
void near__flight_queued(struct near__flights *flights, struct near__flight *flight);
/* How long a reader waits. */
struct near__patience {
    int64_t deadline_ns;
    int64_t soft_ns; /* the same once there is an old value, offered or */
    int has_old;     /* the reader's own */
    /* an offered value ends the wait at once while more than this is left of its life; NEAR_NEVER: never */
    int64_t at_once_ns;
    int is_worker; /* the wait ends when the load is in the queue of workers: once for each near__flight_queued */
};
struct near__landing near__flight_wait_load(struct near__flights *flights, struct near__flight *flight,
                                            const struct near__patience *patience);

#endif
