/* SPDX-License-Identifier: BSD-3-Clause
 * Flights: one fetch of a key at a time in a process.
 *
 * The first thread that misses a key leads a flight, the others join it and share its result.  A flight is identified by
 * the key *and* the ticket that the key had when the flight began: whatever taught this process something about the key's
 * order since (an acknowledged write, a message, a drop) has changed the ticket, and then a new flight begins beside the
 * old one (R17).  A flight older than the reader's staleness bound is not joined either: its answer may be from before. */
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

int near__flights_create(const struct near__alloc *alloc, const struct near__clock *clock, struct near__flights **ret);
void near__flights_destroy(struct near__flights *flights); /* none may be under way */

enum near__flight_role { NEAR_FLIGHT_LEAD = 1, NEAR_FLIGHT_JOIN = 2, NEAR_FLIGHT_NOMEM = 3 };
/* Leads or joins (bound_ns 0: always leads).  The flight must be given back with near__flight_leave by either.
 * NOMEM: there is no flight. */
enum near__flight_role near__flight_enter(struct near__flights *flights, const void *key, size_t key_size,
                                          struct near__ticket ticket, int64_t bound_ns, struct near__flight **ret);
/* The leader's result; shared may be NULL (a miss, an error).  Takes its own reference. */
void near__flight_land(struct near__flights *flights, struct near__flight *flight, int status, struct near__shared *shared);
/* A joiner waits: 1 with the leader's result (*ret_shared has a reference of the caller's, or NULL), 0 at the deadline. */
int near__flight_wait(struct near__flights *flights, struct near__flight *flight, int64_t deadline_ns, int *ret_status,
                      struct near__shared **ret_shared);
void near__flight_leave(struct near__flights *flights, struct near__flight *flight);

#endif
