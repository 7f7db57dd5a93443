/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The public functions on single keys and on the whole cache: check the arguments, call one function. */
#include <string.h>

#include "base/options.h"
#include "cache/cache.h"

#define TTL_MAX_MS INT64_C(3153600000000) /* a hundred years; Redis refuses what overflows its clock */
#define CALL_FLAGS (NEAR_BYPASS_LOCAL | NEAR_NO_FILL | NEAR_ALLOW_STALE)
#define SET_FLAGS (NEAR_SET_IF_ABSENT | NEAR_SET_IF_PRESENT | NEAR_SET_KEEP_TTL)

/* ---------------------------------------------------------------- arguments */

int near__struct_copy(void *ret, size_t our_size, const void *from, size_t their_size)
{
    if (their_size < sizeof(size_t))
        return NEAR_ERR_INVALID;
    for (size_t i = our_size; i < their_size; i++) {
        if (((const unsigned char *)from)[i])
            return NEAR_ERR_INVALID;
    }
    memcpy(ret, from, their_size < our_size ? their_size : our_size);
    return NEAR_OK;
}

/* What the caller does not have is zero. */
static int copy_sized(void *ret, size_t our_size, const void *from, size_t their_size)
{
    memset(ret, 0, our_size);
    return from ? near__struct_copy(ret, our_size, from, their_size) : NEAR_OK;
}

int near__call_copy(const near_call *call, near_call *ret)
{
    int status = copy_sized(ret, sizeof(*ret), call, call ? call->size : 0);
    if (status == NEAR_OK && (ret->flags & ~(uint32_t)CALL_FLAGS || ret->reserved))
        return NEAR_ERR_INVALID;
    return status;
}

int near__write_copy(const near_write *write, near_write *ret)
{
    int status = copy_sized(ret, sizeof(*ret), write, write ? write->size : 0);
    if (status != NEAR_OK)
        return status;
    uint32_t both = NEAR_SET_IF_ABSENT | NEAR_SET_IF_PRESENT;
    if (ret->flags & ~(uint32_t)SET_FLAGS || ret->reserved || (ret->flags & both) == both)
        return NEAR_ERR_INVALID;
    if (ret->ttl_ms < 0 || ret->ttl_ms > TTL_MAX_MS || (ret->ttl_ms && ret->flags & NEAR_SET_KEEP_TTL))
        return NEAR_ERR_INVALID;
    return NEAR_OK;
}

int64_t near__deadline(const struct near__impl *impl, const near_call *call)
{
    int64_t timeout = call->timeout_ms ? (int64_t)call->timeout_ms * NEAR_NS_PER_MS : impl->timeout_ns;
    return near__now(&impl->clock) + timeout;
}

int near__key_check(const void *key, size_t key_size)
{
    if (!key && key_size)
        return NEAR_ERR_INVALID;
    return key_size > NEAR_KEY_MAX ? NEAR_ERR_TOO_LARGE : NEAR_OK;
}

/* ---------------------------------------------------------------- reading */

/* One in 64 of a thread's local hits is timed: two exact clocks on every hit would cost as much as the hit. */
static __thread unsigned hit_tick;

static int status_of_hit(enum near__local_result result)
{
    return result == NEAR_LOCAL_HIT ? NEAR_OK : NEAR_STALE;
}

static int is_hit(enum near__local_result result)
{
    return result == NEAR_LOCAL_HIT || result == NEAR_LOCAL_STALE_HIT;
}

/* The local part of a read, inside a section.  Returns 1 with *ret_status set when the read is over. */
static int get_locally(struct near__impl *impl, struct near__reader *reader, const void *key, size_t key_size,
                       const near_call *call, near_value *ret_value, int *ret_status)
{
    struct near__view view;
    if (call->flags & NEAR_BYPASS_LOCAL) {
        near__local_count(reader, NEAR_COUNT_GETS);
        near__local_count(reader, NEAR_COUNT_BYPASSED);
        return 0;
    }
    int timed = (++hit_tick & 63) == 0;
    int64_t started_ns = timed ? near__now(&impl->clock) : 0;
    enum near__local_result result = near__local_get(impl->local, reader, key, key_size, near__read_bound(impl, call),
                                                     near__read_stale_bound(impl, call), &view);
    if (!is_hit(result))
        return 0;
    near__value_from_view(ret_value, impl, reader, &view);
    if (timed)
        near__local_time_hit(reader, near__now(&impl->clock) - started_ns);
    *ret_status = status_of_hit(result);
    return 1;
}

/* A thread's first call makes its reader, outside any section: that may block and allocate. */
static int make_reader(struct near__impl *impl)
{
    return near__local_reader(impl->local) ? NEAR_OK : NEAR_ERR_NOMEM;
}

int near_get(near_cache *cache, const void *key, size_t key_size, const near_call *call, near_value *ret_value)
{
    static const near_call defaults = {.size = sizeof(defaults)};
    near_call copy;
    int status = near__key_check(key, key_size);
    if (!cache || !ret_value)
        return NEAR_ERR_INVALID;
    memset(ret_value, 0, sizeof(*ret_value));
    if (status != NEAR_OK || (call && (status = near__call_copy(call, &copy)) != NEAR_OK))
        return status;
    const near_call *mine = call ? &copy : &defaults;

    for (;;) {
        near__local_section_enter();
        struct near__impl *impl = near__impl_in_section(cache);
        struct near__reader *reader = impl ? near__local_reader_known(impl->local) : NULL;
        int over = !impl || (reader && get_locally(impl, reader, key, key_size, mine, ret_value, &status));
        if (!over)
            near__count_call(impl);
        near__local_section_leave();
        if (over)
            return impl ? status : near__shell_refusal(cache);
        int known = reader != NULL;
        status = known ? near__read_miss(impl, reader, key, key_size, mine, ret_value) : make_reader(impl);
        near__leave(impl);
        if (known || status != NEAR_OK)
            return status;
    }
}

/* Copies what fits; the status of the copy. */
static int copy_out(const near_value *value, void *buffer, size_t capacity, size_t *ret_size, int status)
{
    size_t size = value->size < capacity ? value->size : capacity;
    if (size)
        memcpy(buffer, value->data, size);
    *ret_size = value->size;
    return value->size > capacity ? NEAR_TRUNCATED : status;
}

int near_get_copy(near_cache *cache, const void *key, size_t key_size, const near_call *call, void *buffer, size_t capacity,
                  size_t *ret_size)
{
    near_value value;
    if (!ret_size || (!buffer && capacity))
        return NEAR_ERR_INVALID;
    int status = near_get(cache, key, key_size, call, &value);
    if (status != NEAR_OK && status != NEAR_STALE)
        return status;
    status = copy_out(&value, buffer, capacity, ret_size, status);
    near_release(&value);
    return status;
}

int near_peek(near_cache *cache, const void *key, size_t key_size, near_value *ret_value)
{
    int status = near__key_check(key, key_size);
    if (!cache || !ret_value)
        return NEAR_ERR_INVALID;
    memset(ret_value, 0, sizeof(*ret_value));
    if (status != NEAR_OK)
        return status;
    near_call call;
    near_call_init(&call);
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return status;
    struct near__reader *reader = near__local_reader(impl->local);
    if (!reader)
        status = NEAR_ERR_NOMEM;
    else if (!get_locally(impl, reader, key, key_size, &call, ret_value, &status))
        status = NEAR_MISS;
    near__leave(impl);
    return status;
}

int near_drop(near_cache *cache, const void *key, size_t key_size)
{
    int status = near__key_check(key, key_size);
    if (status != NEAR_OK)
        return status;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return status;
    near__local_invalidate(impl->local, key, key_size, 0, NEAR_CAUSE_DROP);
    near__add(&impl->counters.drops);
    near__leave(impl);
    return NEAR_OK;
}

/* ---------------------------------------------------------------- writing */

/* Enters the cache and runs one write.  call has been checked. */
static int run_write(near_cache *cache, struct near__request *request, const near_call *call)
{
    int status;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return status;
    if (request->value_size > impl->options.value_max || request->expected_size > impl->options.value_max)
        status = NEAR_ERR_TOO_LARGE;
    else
        status = near__write_through(impl, request, near__deadline(impl, call), !(call->flags & NEAR_NO_FILL));
    near__leave(impl);
    return status;
}

int near_set(near_cache *cache, const void *key, size_t key_size, const void *value, size_t value_size,
             const near_write *write, const near_call *call)
{
    near_call my_call;
    near_write my_write;
    int status = near__key_check(key, key_size);
    if (status == NEAR_OK && !value && value_size)
        status = NEAR_ERR_INVALID;
    if (status != NEAR_OK || (status = near__call_copy(call, &my_call)) != NEAR_OK ||
        (status = near__write_copy(write, &my_write)) != NEAR_OK)
        return status;
    struct near__request request = {.operation = NEAR_OP_SET,
                                    .key = key,
                                    .key_size = key_size,
                                    .value = value,
                                    .value_size = value_size,
                                    .flags = my_write.flags,
                                    .ttl_ms = my_write.ttl_ms};
    return run_write(cache, &request, &my_call);
}

int near_del(near_cache *cache, const void *key, size_t key_size, const near_call *call)
{
    near_call mine;
    int status = near__key_check(key, key_size);
    if (status != NEAR_OK || (status = near__call_copy(call, &mine)) != NEAR_OK)
        return status;
    struct near__request request = {.operation = NEAR_OP_DEL, .key = key, .key_size = key_size};
    return run_write(cache, &request, &mine);
}

int near_expire(near_cache *cache, const void *key, size_t key_size, int64_t ttl_ms, const near_call *call)
{
    near_call mine;
    int status = near__key_check(key, key_size);
    if (status != NEAR_OK || (status = near__call_copy(call, &mine)) != NEAR_OK)
        return status;
    if (ttl_ms < 0 || ttl_ms > TTL_MAX_MS)
        return NEAR_ERR_INVALID;
    struct near__request request = {.operation = NEAR_OP_EXPIRE, .key = key, .key_size = key_size, .ttl_ms = ttl_ms};
    return run_write(cache, &request, &mine);
}

int near_incr(near_cache *cache, const void *key, size_t key_size, int64_t delta, const near_call *call, int64_t *ret_number)
{
    near_call mine;
    int status = near__key_check(key, key_size);
    if (status != NEAR_OK || (status = near__call_copy(call, &mine)) != NEAR_OK)
        return status;
    struct near__request request = {.operation = NEAR_OP_INCR, .key = key, .key_size = key_size, .number = delta};
    status = run_write(cache, &request, &mine);
    if (status == NEAR_OK && ret_number)
        *ret_number = request.result_number;
    return status;
}

int near_cas(near_cache *cache, const void *key, size_t key_size, const void *expected, size_t expected_size,
             const void *value, size_t value_size, const near_write *write, const near_call *call)
{
    near_call my_call;
    near_write my_write;
    int status = near__key_check(key, key_size);
    if (status == NEAR_OK && ((!value && value_size) || (!expected && expected_size)))
        status = NEAR_ERR_INVALID;
    if (status != NEAR_OK || (status = near__call_copy(call, &my_call)) != NEAR_OK ||
        (status = near__write_copy(write, &my_write)) != NEAR_OK)
        return status;
    if (my_write.flags & (NEAR_SET_IF_ABSENT | NEAR_SET_IF_PRESENT))
        return NEAR_ERR_INVALID;
    struct near__request request = {.operation = NEAR_OP_CAS,
                                    .key = key,
                                    .key_size = key_size,
                                    .value = value,
                                    .value_size = value_size,
                                    .expected = expected,
                                    .expected_size = expected_size,
                                    .flags = my_write.flags,
                                    .ttl_ms = my_write.ttl_ms};
    return run_write(cache, &request, &my_call);
}

/* ---------------------------------------------------------------- the whole cache */

static int clear_entered(struct near__impl *impl, uint32_t flags, const near_call *call, uint64_t *ret_removed)
{
    int64_t deadline_ns = near__deadline(impl, call);
    int keys = NEAR_OK;
    uint64_t removed = 0;
    if (flags & NEAR_CLEAR_KEYS) {
        if (!impl->remote || !impl->options.prefix || !impl->options.prefix[0])
            return NEAR_ERR_INVALID;
        keys = near__remote_clear_keys(impl->remote, deadline_ns, &removed);
    }
    /* also after a removal that stopped half-way: what is gone there must go here */
    struct near__request request = {.operation = NEAR_OP_CLEAR};
    int status = near__write_through(impl, &request, deadline_ns, 0);
    if (ret_removed)
        *ret_removed = removed;
    return keys != NEAR_OK ? keys : status;
}

int near_clear(near_cache *cache, uint32_t flags, const near_call *call, uint64_t *ret_removed)
{
    near_call mine;
    int status = near__call_copy(call, &mine);
    if (status != NEAR_OK || flags & ~(uint32_t)NEAR_CLEAR_KEYS)
        return NEAR_ERR_INVALID;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return status;
    status = clear_entered(impl, flags, &mine, ret_removed);
    near__leave(impl);
    return status;
}

static int option_in_range(const char *name, uint64_t number)
{
    const near_option_info *row = near__option_find(name, strlen(name));
    return row && number >= row->min && number <= row->max;
}

/* Changes one limit of the local tier, leaving the other as it is. */
static int resize(near_cache *cache, const char *option, uint64_t bytes, uint64_t entries, int change_entries)
{
    int status;
    if (!option_in_range(option, change_entries ? entries : bytes))
        return NEAR_ERR_OPTION;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return status;
    near_stats stats = {.size = sizeof(stats)};
    near__local_stats(impl->local, &stats);
    near__local_resize(impl->local, change_entries ? stats.local_bytes_limit : bytes,
                       change_entries ? entries : stats.local_entries_limit);
    near__leave(impl);
    return NEAR_OK;
}

int near_set_local_bytes(near_cache *cache, uint64_t bytes)
{
    return resize(cache, "local_bytes", bytes, 0, 0);
}

int near_set_local_entries(near_cache *cache, uint64_t entries)
{
    return resize(cache, "local_entries", 0, entries, 1);
}

int near_set_bound(near_cache *cache, uint32_t bound_ms)
{
    int status;
    if (!option_in_range("bound_ms", bound_ms))
        return NEAR_ERR_OPTION;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return status;
    if (impl->coherence) /* it knows whether a longer bound would bring a withdrawn proof back */
        near__coherence_set_bound(impl->coherence, bound_ms);
    else
        atomic_store_explicit(&impl->gate->bound_ns, (int64_t)bound_ms * NEAR_NS_PER_MS, memory_order_release);
    near__leave(impl);
    return NEAR_OK;
}

int near_check(near_cache *cache, uint32_t timeout_ms, near_error *error)
{
    int status;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return near__fail(error, status, "%s", near_status_text(status));
    status = NEAR_OK;
    if (impl->remote) {
        int64_t deadline_ns = near__now(&impl->clock) + (int64_t)timeout_ms * NEAR_NS_PER_MS;
        status = near__remote_check(impl->remote, deadline_ns, error);
        if (status == NEAR_OK)
            status = near__coherence_check(impl->coherence, deadline_ns, error);
    }
    near__leave(impl);
    return status;
}

int near_wait_ready(near_cache *cache, uint32_t timeout_ms, near_error *error)
{
    int status;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return near__fail(error, status, "%s", near_status_text(status));
    status = NEAR_OK;
    if (impl->coherence)
        status = near__coherence_wait(impl->coherence, near__now(&impl->clock) + (int64_t)timeout_ms * NEAR_NS_PER_MS, error);
    near__leave(impl);
    return status;
}

/* ---------------------------------------------------------------- statistics and the library */

static uint64_t load(const _Atomic(uint64_t) *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed); /* a statistic */
}

static void stats_of_hits(const struct near__impl *impl, near_stats *stats)
{
    struct near__histogram *times = near__alloc_zero(&impl->alloc, sizeof(*times)); /* too large for a small stack */
    if (!times)
        return;
    near__local_hit_times(impl->local, times);
    near__histogram_quantiles(times, &stats->hit_ns);
    near__free(&impl->alloc, times);
}

static void stats_of_calls(const struct near__impl *impl, near_stats *stats)
{
    const struct near__call_counters *c = &impl->counters;
    stats->flights_joined = load(&c->flights_joined);
    stats->remote_hits = load(&c->remote_hits);
    stats->remote_misses = load(&c->remote_misses);
    stats->remote_errors = load(&c->remote_errors);
    stats->writes = load(&c->writes);
    stats->writes_unmet = load(&c->writes_unmet);
    stats->writes_failed = load(&c->writes_failed);
    stats->writes_unknown = load(&c->writes_unknown);
    stats->drops = load(&c->drops);
    near__histogram_quantiles(&impl->miss_ns, &stats->miss_ns);
    near__histogram_quantiles(&impl->write_ns, &stats->write_ns);
}

static void stats_of_remote(const struct near__impl *impl, near_stats *stats)
{
    struct near__remote_stats remote = {0};
    near__coherence_stats(impl->coherence, stats);
    near__remote_stats(impl->remote, &remote);
    stats->requests = remote.requests;
    stats->connections_opened = remote.connections_opened;
    stats->connections_lost = remote.connections_lost;
    stats->timeouts = remote.timeouts;
    stats->bytes_sent = remote.bytes_sent;
    stats->bytes_received = remote.bytes_received;
    stats->breaker_open = remote.breaker_open;
}

int near_stats_get(near_cache *cache, near_stats *stats)
{
    int status;
    if (!stats || stats->size < sizeof(size_t))
        return NEAR_ERR_INVALID;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return status;
    size_t size = stats->size;
    near_stats all = {.size = size};
    near__local_stats(impl->local, &all);
    stats_of_hits(impl, &all);
    stats_of_calls(impl, &all);
    all.proven = 1;
    if (impl->remote)
        stats_of_remote(impl, &all);
    near__leave(impl);
    memset(stats, 0, size);
    memcpy(stats, &all, size < sizeof(all) ? size : sizeof(all));
    return NEAR_OK;
}

const char *near_version(void)
{
    return NEAR_VERSION_STRING;
}

int near_has_feature(const char *name)
{
#ifdef HAVE_TLS
    if (name && strcmp(name, "tls") == 0)
        return 1;
#endif
    (void)name;
    return 0;
}
