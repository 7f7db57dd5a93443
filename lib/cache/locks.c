/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Locks for applications: checks the arguments and lets lib/load/redlock.c ask the caches' servers.  Each request
 * enters and leaves its cache, so that a cache may be closed while a lock is waited for or held. */
#include <string.h>

#include "cache/cache.h"
#include "load/redlock.h"

struct near_held_lock {
    struct near__lock lock;
    struct near__alloc alloc; /* the first cache's, which may be closed before the lock is given back */
    struct near__clock clock;
    near_cache **caches;
    unsigned char bytes[]; /* the caches, then the name */
};

static void run_on(void *arg, size_t server, struct near__request *request, int64_t deadline_ns)
{
    struct near_held_lock *held = arg;
    struct near__impl *impl = near__enter(held->caches[server], &request->status);
    if (!impl)
        return;
    if (impl->remote)
        near__remote_run(impl->remote, request, 1, deadline_ns);
    else
        request->status = NEAR_ERR_UNSUPPORTED;
    near__leave(impl);
}

static int options_copy(const near_lock_options *options, near_lock_options *ret)
{
    near_lock_options_init(ret);
    if (options) {
        int status = near__struct_copy(ret, sizeof(*ret), options, options->size);
        if (status != NEAR_OK)
            return status;
    }
    if (ret->flags & ~(uint32_t)NEAR_LOCK_TRY || ret->ttl_ms < NEAR_LOCK_TTL_MIN_MS ||
        ret->ttl_ms > NEAR_LOCK_TTL_MAX_MS || !ret->retry_ms || ret->retry_ms > NEAR_LOCK_TTL_MAX_MS ||
        !ret->server_timeout_ms || ret->drift_permille > 500)
        return NEAR_ERR_INVALID;
    return NEAR_OK;
}

/* Allocated with the first cache's hooks; tells the deadline by its clock and time-out. */
static int create(near_cache *const *caches, size_t count, const void *name, size_t name_size,
                  const near_lock_options *options, int64_t *ret_deadline_ns, struct near_held_lock **ret)
{
    int status;
    struct near__impl *impl = near__enter(caches[0], &status);
    if (!impl)
        return status;
    size_t caches_size = count * sizeof(near_cache *);
    struct near_held_lock *held = near__alloc_zero(&impl->alloc, sizeof(*held) + caches_size + name_size);
    if (held) {
        held->alloc = impl->alloc;
        held->clock = impl->clock;
        near_call call = {.timeout_ms = options->timeout_ms};
        *ret_deadline_ns = near__deadline(impl, &call);
    }
    near__leave(impl);
    if (!held)
        return NEAR_ERR_NOMEM;
    held->caches = memcpy(held->bytes, caches, caches_size);
    if (name_size)
        memcpy(held->bytes + caches_size, name, name_size);
    held->lock = (struct near__lock){.clock = &held->clock,
                                     .servers = {.run = run_on, .arg = held, .count = count},
                                     .name = held->bytes + caches_size,
                                     .name_size = name_size,
                                     .options = *options};
    *ret = held;
    return NEAR_OK;
}

enum act { TAKING, EXTENDING, GIVING_BACK };

static _Atomic(uint64_t) *counter_of(struct near__call_counters *c, enum act act, int status)
{
    if (act == TAKING)
        return status == NEAR_OK ? &c->locks_taken : status == NEAR_LOCKED ? &c->locks_refused : &c->locks_failed;
    if (status == NEAR_ERR_LOCK_LOST)
        return &c->locks_lost;
    return act == EXTENDING && status == NEAR_OK ? &c->locks_extended : NULL;
}

/* In the first cache's statistics, unless it is closed by now. */
static void count_end(struct near_held_lock *held, enum act act, int status, int64_t started_ns)
{
    int refusal;
    struct near__impl *impl = near__enter(held->caches[0], &refusal);
    if (!impl)
        return;
    _Atomic(uint64_t) *counter = counter_of(&impl->counters, act, status);
    if (counter)
        near__add(counter);
    if (act == TAKING && status == NEAR_OK)
        near__histogram_record(&impl->lock_ns, (uint64_t)(near__now(&held->clock) - started_ns));
    near__leave(impl);
}

static void destroy(struct near_held_lock *held)
{
    struct near__alloc alloc = held->alloc;
    near__free(&alloc, held);
}

static int is_any_missing(near_cache *const *caches, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!caches[i])
            return 1;
    return 0;
}

int near_redlock(near_cache *const *caches, size_t count, const void *name, size_t name_size,
                 const near_lock_options *options, near_held_lock **ret_lock)
{
    near_lock_options mine;
    int64_t deadline_ns = 0;
    int status = near__key_check(name, name_size);
    if (!caches || !count || count > NEAR_LOCK_SERVERS_MAX || is_any_missing(caches, count) || !ret_lock)
        return NEAR_ERR_INVALID;
    if (status == NEAR_OK && name_size > NEAR_KEY_MAX - strlen(NEAR_FENCE_SUFFIX))
        status = NEAR_ERR_TOO_LARGE;
    if (status != NEAR_OK || (status = options_copy(options, &mine)) != NEAR_OK)
        return status;
    struct near_held_lock *held = NULL;
    status = create(caches, count, name, name_size, &mine, &deadline_ns, &held);
    if (status != NEAR_OK || !held) /* the second is what the compiler does not see from the first */
        return status;
    int64_t started_ns = near__now(&held->clock);
    status = near__lock_acquire(&held->lock, deadline_ns);
    count_end(held, TAKING, status, started_ns);
    if (status == NEAR_OK)
        *ret_lock = held;
    else
        destroy(held);
    return status;
}

int near_lock(near_cache *cache, const void *name, size_t name_size, const near_lock_options *options,
              near_held_lock **ret_lock)
{
    return near_redlock(&cache, 1, name, name_size, options, ret_lock);
}

int near_lock_extend(near_held_lock *held, uint32_t ttl_ms)
{
    if (!held || (ttl_ms && (ttl_ms < NEAR_LOCK_TTL_MIN_MS || ttl_ms > NEAR_LOCK_TTL_MAX_MS)))
        return NEAR_ERR_INVALID;
    int status = near__lock_extend(&held->lock, ttl_ms ? ttl_ms : held->lock.options.ttl_ms);
    count_end(held, EXTENDING, status, 0);
    return status;
}

uint64_t near_lock_fence(const near_held_lock *held)
{
    return held ? held->lock.fence : 0;
}

int64_t near_lock_valid_ms(const near_held_lock *held)
{
    if (!held)
        return 0;
    int64_t left_ns = held->lock.valid_until_ns - near__now(&held->clock);
    return left_ns > 0 ? left_ns / NEAR_NS_PER_MS : 0;
}

int near_unlock(near_held_lock *held)
{
    if (!held)
        return NEAR_ERR_INVALID;
    int status = near__lock_release(&held->lock);
    count_end(held, GIVING_BACK, status, 0);
    destroy(held);
    return status;
}
