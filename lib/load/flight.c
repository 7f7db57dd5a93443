/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The table of flights, in stripes: one mutex and one uthash table each.  A flight stays in its table until it lands or
 * until a newer flight of its key takes its place; threads that wait hold references.  Everything in a flight but its
 * key is protected by its stripe's mutex, which is held for a few instructions only and never across a fetch.
 *
 * Waiting is on the flight's own condition variable, by CLOCK_MONOTONIC.  With a virtual clock the wait also ends every
 * few milliseconds of real time to look at the clock again. */
#include "load/flight.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "base/condition.h"
#include "base/hash.h"
#include "base/mutant.h"

#define HASH_NONFATAL_OOM 1
#define uthash_malloc(size) near__alloc(flight_alloc, size)
#define uthash_free(memory, size) near__free(flight_alloc, memory)
#define uthash_nonfatal_oom(element) (element)->in_table = false
#include <uthash.h>

#define STRIPES 32u

struct near__flight {
    UT_hash_handle hh;
    pthread_cond_t landed_cond;
    struct near__ticket ticket;
    int64_t started_ns;
    unsigned references;
    bool in_table, landed, queued;
    int status;
    struct near__shared *shared;
    struct near__shared *old; /* offered */
    int64_t limit_ns;         /* NEAR_NEVER: none */
    unsigned stripe;
    size_t key_size;
    unsigned char key[];
};

struct stripe {
    pthread_mutex_t mutex;
    struct near__flight *table;
};

struct near__flights {
    const struct near__alloc *alloc;
    const struct near__clock *clock;
    struct stripe stripes[STRIPES];
};

/* ---------------------------------------------------------------- shared values */

struct near__shared *near__shared_create(struct near__shared_owner *owner, void *data, size_t size, int64_t expires_ns)
{
    struct near__shared *shared = near__alloc(owner->alloc, sizeof(*shared));
    if (!shared && !NEAR_MUTANT(UNCHECKED_ALLOCATION))
        return NULL;
    atomic_init(&shared->references, 1);
    shared->owner = owner;
    shared->data = data;
    shared->size = size;
    shared->expires_ns = expires_ns;
    atomic_fetch_add_explicit(&owner->outstanding, 1, memory_order_relaxed);
    return shared;
}

void near__shared_ref(struct near__shared *shared)
{
    /* relaxed: the caller holds a reference already */
    atomic_fetch_add_explicit(&shared->references, 1, memory_order_relaxed);
}

void near__shared_unref(struct near__shared *shared)
{
    /* acq_rel: every holder's reads come before the last one frees */
    if (!shared || atomic_fetch_sub_explicit(&shared->references, 1, memory_order_acq_rel) != 1)
        return;
    struct near__shared_owner *owner = shared->owner;
    const struct near__alloc *alloc = owner->alloc;
    near__free(alloc, shared->data);
    near__free(alloc, shared);
    /* release: pairs with the acquire in near_close, which frees what alloc points to; nothing of ours is touched
     * after */
    atomic_fetch_sub_explicit(&owner->outstanding, 1, memory_order_release);
}

int near__shared_was_over(const struct near__shared *shared, int64_t began_ns)
{
    return shared->expires_ns != NEAR_NEVER && shared->expires_ns <= began_ns && !NEAR_MUTANT(DEAD_VALUE_SHARED);
}

int near__shared_lasts(const struct near__shared *shared, int64_t until_ns, int64_t now_ns)
{
    return shared && shared->expires_ns > until_ns && shared->expires_ns > now_ns;
}

/* ---------------------------------------------------------------- the table */

int near__flights_create(const struct near__alloc *alloc, const struct near__clock *clock, struct near__flights **ret)
{
    struct near__flights *flights = near__alloc_zero(alloc, sizeof(*flights));
    if (!flights)
        return NEAR_ERR_NOMEM;
    flights->alloc = alloc;
    flights->clock = clock;
    for (unsigned i = 0; i < STRIPES; i++)
        pthread_mutex_init(&flights->stripes[i].mutex, NULL);
    *ret = flights;
    return NEAR_OK;
}

void near__flights_destroy(struct near__flights *flights)
{
    if (!flights)
        return;
    for (unsigned i = 0; i < STRIPES; i++)
        pthread_mutex_destroy(&flights->stripes[i].mutex);
    near__free(flights->alloc, flights);
}

static void free_flight(struct near__flights *flights, struct near__flight *flight)
{
    near__shared_unref(flight->shared);
    near__shared_unref(flight->old);
    pthread_cond_destroy(&flight->landed_cond);
    near__free(flights->alloc, flight);
}

static struct near__flight *new_flight(struct near__flights *flights, const void *key, size_t key_size,
                                       struct near__ticket ticket, unsigned stripe)
{
    struct near__flight *flight = near__alloc_zero(flights->alloc, sizeof(*flight) + key_size);
    if (!flight)
        return NULL;
    near__condition_init(&flight->landed_cond);
    flight->ticket = ticket;
    flight->started_ns = near__now(flights->clock);
    flight->references = 1;
    flight->limit_ns = NEAR_NEVER;
    flight->stripe = stripe;
    flight->key_size = key_size;
    if (key_size)
        memcpy(flight->key, key, key_size);
    return flight;
}

static void take_out_locked(struct near__flights *flights, struct stripe *stripe, struct near__flight *flight)
{
    const struct near__alloc *flight_alloc = flights->alloc;
    if (!flight->in_table)
        return;
    HASH_DELETE(hh, stripe->table, flight);
    flight->in_table = false;
}

static void put_in_locked(struct near__flights *flights, struct stripe *stripe, struct near__flight *flight,
                          unsigned hash)
{
    const struct near__alloc *flight_alloc = flights->alloc;
    flight->in_table = true; /* uthash_nonfatal_oom takes it back */
    HASH_ADD_KEYPTR_BYHASHVALUE(hh, stripe->table, flight->key, flight->key_size, hash, flight);
}

static bool may_join(const struct near__flights *flights, const struct near__flight *flight, struct near__ticket ticket,
                     int64_t bound_ns)
{
    if (NEAR_MUTANT(NOBODY_JOINS))
        return false;
    return (near__ticket_equal(flight->ticket, ticket) || NEAR_MUTANT(TICKET_IGNORED)) &&
           (near__now(flights->clock) - flight->started_ns < bound_ns || NEAR_MUTANT(FLIGHT_AGE_IGNORED));
}

enum near__flight_role near__flight_enter(struct near__flights *flights, const void *key, size_t key_size,
                                          struct near__ticket ticket, int64_t bound_ns, struct near__flight **ret)
{
    uint64_t whole = near__hash(key, key_size, 0);
    /* Different bits: a table whose keys have their low bits in common would use a part of its lists only, and find
     * that it does not help to have more of them. */
    unsigned hash = (unsigned)whole, index = (unsigned)(whole >> 32) % STRIPES;
    struct stripe *stripe = &flights->stripes[index];
    struct near__flight *flight;

    pthread_mutex_lock(&stripe->mutex);
    HASH_FIND_BYHASHVALUE(hh, stripe->table, key_size ? key : "", key_size, hash, flight);
    if (flight && may_join(flights, flight, ticket, bound_ns)) {
        flight->references++;
        pthread_mutex_unlock(&stripe->mutex);
        *ret = flight;
        return NEAR_FLIGHT_JOIN;
    }
    struct near__flight *fresh = new_flight(flights, key, key_size, ticket, index);
    if (flight) /* an older one of this key: those who wait keep it, nobody joins it any more */
        take_out_locked(flights, stripe, flight);
    if (fresh)
        put_in_locked(flights, stripe, fresh, hash);
    pthread_mutex_unlock(&stripe->mutex);
    *ret = fresh;
    return fresh ? NEAR_FLIGHT_LEAD : NEAR_FLIGHT_NOMEM;
}

static int land_locked(struct near__flights *flights, struct stripe *stripe, struct near__flight *flight, int status,
                       struct near__shared *shared)
{
    if (flight->landed)
        return 0;
    if (shared)
        near__shared_ref(shared);
    take_out_locked(flights, stripe, flight);
    flight->landed = true;
    flight->status = status;
    flight->shared = shared;
    pthread_cond_broadcast(&flight->landed_cond);
    return 1;
}

int near__flight_land(struct near__flights *flights, struct near__flight *flight, int status,
                      struct near__shared *shared)
{
    struct stripe *stripe = &flights->stripes[flight->stripe];
    pthread_mutex_lock(&stripe->mutex);
    int first = land_locked(flights, stripe, flight, status, shared);
    pthread_mutex_unlock(&stripe->mutex);
    return first;
}

int near__flight_wait(struct near__flights *flights, struct near__flight *flight, int64_t deadline_ns, int *ret_status,
                      struct near__shared **ret_shared)
{
    struct near__patience patience = {.deadline_ns = deadline_ns, .soft_ns = deadline_ns, .at_once_ns = NEAR_NEVER};
    struct near__landing landing = near__flight_wait_load(flights, flight, &patience);
    near__shared_unref(landing.old);
    if (landing.landed) {
        *ret_status = landing.status;
        *ret_shared = landing.shared;
    }
    return landing.landed;
}

static struct near__shared *referenced(struct near__shared *shared)
{
    if (shared)
        near__shared_ref(shared);
    return shared;
}

static int64_t wait_until_locked(const struct near__flight *flight, const struct near__patience *p, int64_t now_ns)
{
    const struct near__shared *old = flight->old;
    if (old && p->at_once_ns != NEAR_NEVER && old->expires_ns - now_ns > p->at_once_ns)
        return now_ns;
    return (p->has_old || near__shared_lasts(old, p->soft_ns, now_ns)) && p->soft_ns < p->deadline_ns ? p->soft_ns
                                                                                                      : p->deadline_ns;
}

struct near__landing near__flight_wait_load(struct near__flights *flights, struct near__flight *flight,
                                            const struct near__patience *patience)
{
    struct stripe *stripe = &flights->stripes[flight->stripe];
    struct near__landing landing = {0};
    pthread_mutex_lock(&stripe->mutex);
    while (!flight->landed) {
        int64_t now_ns = near__now(flights->clock);
        int64_t until_ns = wait_until_locked(flight, patience, now_ns);
        if (now_ns >= flight->limit_ns)
            land_locked(flights, stripe, flight, NEAR_ERR_LOAD_TIMEOUT, NULL);
        else if (now_ns >= until_ns || (landing.queued = patience->is_worker && flight->queued))
            break;
        else
            near__condition_wait(flights->clock, &flight->landed_cond, &stripe->mutex,
                                 until_ns < flight->limit_ns ? until_ns : flight->limit_ns);
    }
    flight->queued = flight->queued && !landing.queued;
    landing.landed = flight->landed;
    landing.status = flight->status;
    landing.shared = referenced(flight->shared);
    landing.old = referenced(flight->old);
    pthread_mutex_unlock(&stripe->mutex);
    return landing;
}

void near__flight_offer(struct near__flights *flights, struct near__flight *flight, struct near__shared *old)
{
    struct stripe *stripe = &flights->stripes[flight->stripe];
    pthread_mutex_lock(&stripe->mutex);
    if (!flight->old) {
        near__shared_ref(old);
        flight->old = old;
        pthread_cond_broadcast(&flight->landed_cond);
    }
    pthread_mutex_unlock(&stripe->mutex);
}

void near__flight_queued(struct near__flights *flights, struct near__flight *flight)
{
    struct stripe *stripe = &flights->stripes[flight->stripe];
    pthread_mutex_lock(&stripe->mutex);
    flight->queued = true;
    pthread_cond_broadcast(&flight->landed_cond);
    pthread_mutex_unlock(&stripe->mutex);
}

void near__flight_limit(struct near__flights *flights, struct near__flight *flight, int64_t limit_ns)
{
    struct stripe *stripe = &flights->stripes[flight->stripe];
    pthread_mutex_lock(&stripe->mutex);
    flight->limit_ns = limit_ns;
    pthread_cond_broadcast(&flight->landed_cond);
    pthread_mutex_unlock(&stripe->mutex);
}

void near__flight_ref(struct near__flights *flights, struct near__flight *flight)
{
    struct stripe *stripe = &flights->stripes[flight->stripe];
    pthread_mutex_lock(&stripe->mutex);
    flight->references++;
    pthread_mutex_unlock(&stripe->mutex);
}

void near__flight_leave(struct near__flights *flights, struct near__flight *flight)
{
    struct stripe *stripe = &flights->stripes[flight->stripe];
    pthread_mutex_lock(&stripe->mutex);
    bool last = --flight->references == 0;
    pthread_mutex_unlock(&stripe->mutex);
    if (last)
        free_flight(flights, flight);
}
