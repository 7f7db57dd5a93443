/* SPDX-License-Identifier: BSD-3-Clause */
#include "check_sabotage.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "coherence/coherence.h"
#include "local/local.h"

enum sabotage {
    NONE,
    DEAF,
    AGELESS,
    FLOORLESS,
    FORGETFUL,
    DAMAGING,
    UNEXPIRING,
    UNSUSPECTING,
    HASTY,
    MISCOPYING,
    LOSING,
    LYING,
    BLOATED,
    DYING,
    TARDY,
    SABOTAGES
};

static const char *const names[SABOTAGES] = {
    [DEAF] = "deaf",                 /* messages about keys are not applied */
    [AGELESS] = "ageless",           /* the proof of freshness never ages */
    [FLOORLESS] = "floorless",       /* a fill does not ask whether something newer is known */
    [FORGETFUL] = "forgetful",       /* every other fill or acknowledged write leaves the old copy where it is */
    [DAMAGING] = "damaging",         /* now and then a bit of a copy is turned over */
    [UNEXPIRING] = "unexpiring",     /* copies never expire */
    [UNSUSPECTING] = "unsuspecting", /* lost messages make nothing suspect */
    [HASTY] = "hasty",               /* a barrier waits for nobody */
    [MISCOPYING] = "miscopying",     /* near_get_copy takes no notice of a call that must not look at the local tier */
    [LOSING] = "losing",             /* now and then a write says that it is done, and is not */
    [LYING] = "lying",               /* now and then one says that it is not done, and is */
    [BLOATED] = "bloated",           /* the local tier says that it holds more than it may */
    [DYING] = "dying",               /* the process ends */
    [TARDY] = "tardy",               /* a write, one in so many, takes sixteen seconds */
};

static enum sabotage active;
static _Atomic unsigned turn;

int check_sabotage_find(const char *name)
{
    for (int i = 1; i < SABOTAGES; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return 0;
}

void check_sabotage_begin(int number)
{
    active = (enum sabotage)number;
}

/* ---------------------------------------------------------------- in the place of the library's functions */

int __real_near__local_invalidate(struct near__local *local, const void *key, size_t key_size, uint64_t position,
                                  enum near__local_cause cause);
int __wrap_near__local_invalidate(struct near__local *local, const void *key, size_t key_size, uint64_t position,
                                  enum near__local_cause cause);
int __wrap_near__local_invalidate(struct near__local *local, const void *key, size_t key_size, uint64_t position,
                                  enum near__local_cause cause)
{
    if (active == DEAF && cause == NEAR_CAUSE_MESSAGE)
        return 0;
    return __real_near__local_invalidate(local, key, key_size, position, cause);
}

void __real_near__local_suspect(struct near__local *local, uint64_t position);
void __wrap_near__local_suspect(struct near__local *local, uint64_t position);
void __wrap_near__local_suspect(struct near__local *local, uint64_t position)
{
    if (active == AGELESS) { /* the first proof's: from now on the gate stands open, whatever is stored there later */
        struct near__gate *gate = near__local_gate(local);
        atomic_store(&gate->bound_ns, INT64_C(3600000000000));
    }
    if (active != UNSUSPECTING)
        __real_near__local_suspect(local, position);
}

int __real_near__coherence_barrier(struct near__coherence *c, int64_t deadline_ns, struct near__barrier_result *ret);
int __wrap_near__coherence_barrier(struct near__coherence *c, int64_t deadline_ns, struct near__barrier_result *ret);
int __wrap_near__coherence_barrier(struct near__coherence *c, int64_t deadline_ns, struct near__barrier_result *ret)
{
    return active == HASTY || __real_near__coherence_barrier(c, deadline_ns, ret);
}

int __real_near_get_copy(near_cache *cache, const void *key, size_t key_size, const near_call *call, void *buffer,
                         size_t capacity, size_t *ret_size);
int __wrap_near_get_copy(near_cache *cache, const void *key, size_t key_size, const near_call *call, void *buffer,
                         size_t capacity, size_t *ret_size);
int __wrap_near_get_copy(near_cache *cache, const void *key, size_t key_size, const near_call *call, void *buffer,
                         size_t capacity, size_t *ret_size)
{
    int deaf = active == MISCOPYING && call && call->flags & NEAR_BYPASS_LOCAL;
    return __real_near_get_copy(cache, key, key_size, deaf ? NULL : call, buffer, capacity, ret_size);
}

int __real_near_set(near_cache *cache, const void *key, size_t key_size, const void *value, size_t value_size,
                    const near_write *write, const near_call *call);
int __wrap_near_set(near_cache *cache, const void *key, size_t key_size, const void *value, size_t value_size,
                    const near_write *write, const near_call *call);
int __wrap_near_set(near_cache *cache, const void *key, size_t key_size, const void *value, size_t value_size,
                    const near_write *write, const near_call *call)
{
    int now = (active == LOSING || active == LYING) && atomic_fetch_add(&turn, 1) % 16 == 0;
    if (now && active == LOSING)
        return NEAR_OK;
    if (active == TARDY && atomic_fetch_add(&turn, 1) % 256 == 3)
        nanosleep(&(struct timespec){.tv_sec = 16}, NULL);
    int status = __real_near_set(cache, key, key_size, value, value_size, write, call);
    return now && status == NEAR_OK ? NEAR_ERR_UNAVAILABLE : status;
}

int __real_near_stats_get(near_cache *cache, near_stats *ret_stats);
int __wrap_near_stats_get(near_cache *cache, near_stats *ret_stats);
int __wrap_near_stats_get(near_cache *cache, near_stats *ret_stats)
{
    int status = __real_near_stats_get(cache, ret_stats);
    if (active == BLOATED)
        ret_stats->local_bytes = 4 * ret_stats->local_bytes_limit;
    if (active == DYING && ret_stats->local_hits > 0)
        _exit(1);
    return status;
}

struct install {
    struct near__ticket ticket;
    const void *value;
    uint64_t position;
    int64_t ttl_ms;
    char *copy;
};

static void spoil(struct install *x, struct near__local *local, const void *key, size_t key_size, size_t value_size)
{
    if (active == FLOORLESS) {
        x->ticket = near__local_ticket(local, key, key_size);
        if (x->position && x->position < x->ticket.floor)
            x->position = x->ticket.floor;
    }
    if (active == UNEXPIRING)
        x->ttl_ms = -1;
    if (active == DAMAGING && value_size > 0 && atomic_fetch_add(&turn, 1) % 16 == 0 &&
        (x->copy = malloc(value_size))) {
        memcpy(x->copy, x->value, value_size);
        x->copy[turn % value_size] ^= 1;
        x->value = x->copy;
    }
}

int __real_near__local_install(struct near__local *local, struct near__reader *reader, struct near__ticket ticket,
                               const void *key, size_t key_size, const void *value, size_t value_size,
                               uint64_t position, int64_t ttl_ms, int64_t sent_ns);
int __wrap_near__local_install(struct near__local *local, struct near__reader *reader, struct near__ticket ticket,
                               const void *key, size_t key_size, const void *value, size_t value_size,
                               uint64_t position, int64_t ttl_ms, int64_t sent_ns);
int __wrap_near__local_install(struct near__local *local, struct near__reader *reader, struct near__ticket ticket,
                               const void *key, size_t key_size, const void *value, size_t value_size,
                               uint64_t position, int64_t ttl_ms, int64_t sent_ns)
{
    struct install x = {.ticket = ticket, .value = value, .position = position, .ttl_ms = ttl_ms};
    int kept;
    if (active == FORGETFUL && atomic_fetch_add(&turn, 1) % 2 == 0)
        return 0;
    spoil(&x, local, key, key_size, value_size);
    kept = __real_near__local_install(local, reader, x.ticket, key, key_size, x.value, value_size, x.position, x.ttl_ms,
                                      sent_ns);
    free(x.copy);
    return kept;
}
