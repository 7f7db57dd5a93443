/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The public functions on single keys and on the whole cache: check the arguments, call one function. */
#include <string.h>

#include "base/compiler.h"
#include "base/options.h"
#include "base/random.h"
#include "cache/short_way.h"

#define TTL_MAX_MS INT64_C(3153600000000) /* a hundred years; Redis refuses what overflows its clock */
#define CALL_FLAGS (NEAR_BYPASS_LOCAL | NEAR_NO_FILL | NEAR_ALLOW_STALE | NEAR_REQUIRE_FRESH | NEAR_WRITE_BARRIER)
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
    if (status == NEAR_OK && ret->flags & NEAR_REQUIRE_FRESH && ret->flags & NEAR_ALLOW_STALE)
        return NEAR_ERR_INVALID;
    if (status == NEAR_OK && ret->barrier &&
        (!(ret->flags & NEAR_WRITE_BARRIER) || ret->barrier->size < sizeof(size_t)))
        return NEAR_ERR_INVALID;
    return status;
}

int near__read_call_copy(const near_call *call, near_call *ret)
{
    int status = near__call_copy(call, ret);
    return status == NEAR_OK && ret->flags & NEAR_WRITE_BARRIER ? NEAR_ERR_INVALID : status;
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

/* ---------------------------------------------------------------- reading */

/* Three ways lead through a read.  The short one, in near_get and near_get_copy, is for a hit of a short key with
 * nothing particular about it, where it nearly always is: no terms of the call's own, no expiry close by, a fresh
 * proof.  It makes no call at all, and whatever it does not want to decide it leaves, having changed nothing, to the
 * middle one.  That looks into all places of any key, times one hit in so many, knows a miss that ends here, and leaves
 * everything else to the long one.  Between them stands the miss of a key of which there is no trace, where there is no
 * remote tier to ask.  Each looks from the beginning, and is one section in which the impl is loaded and the entry is
 * found. */

/* A thread's first call makes its reader, outside any section: that may block and allocate. */
struct near__reader *near__reader_for(near_cache *cache, int *ret_status)
{
    struct near__reader *reader;
    if (near__reader_known(cache->serial, &reader))
        return reader;
    struct near__impl *impl = near__enter(cache, ret_status);
    if (!impl)
        return NULL;
    reader = near__local_reader(impl->local);
    if (!reader)
        *ret_status = NEAR_ERR_NOMEM;
    near__leave(impl);
    return reader;
}

static void pin_and_give(near_value *value, struct near__reader *reader, struct near__entry *entry)
{
    near__short_pin(value, reader, entry,
                    near__entry_has_expiry(entry) ? near__hit_ttl_ms(reader->local, entry, 0) : -1);
}

/* The local part of a read, inside a section. */
static enum near__local_result get_locally(struct near__impl *impl, struct near__reader *reader, const void *key,
                                           size_t key_size, const near_call *call, near_value *ret_value)
{
    struct near__entry *entry;
    int64_t now_ns, started_ns = near__reader_is_due(reader) ? near__now(&impl->clock) : 0;
    int64_t bound_ns = near__read_bound(impl, call);
    enum near__local_result result =
        near__hit_look(impl->local, key, key_size, bound_ns, near__read_stale_bound(impl, call), &entry, &now_ns);
    if (near__local_is_served(result)) {
        if (near__hit_hold(impl->local, reader, entry, &ret_value->private_[0], &ret_value->data))
            near__short_give(ret_value, reader, entry,
                             near__entry_has_expiry(entry) ? near__hit_ttl_ms(impl->local, entry, now_ns) : -1);
        else
            result = NEAR_LOCAL_ABSENT; /* no memory for a copy */
    }
    near__hit_count(reader, result);
    near__hit_show(impl->local, reader, key, key_size, entry, result);
    if (started_ns && result == NEAR_LOCAL_HIT)
        near__local_time_hit(reader, near__now(&impl->clock) - started_ns);
    return result;
}

static int status_of_hit(enum near__local_result result)
{
    return result == NEAR_LOCAL_HIT ? NEAR_OK : NEAR_STALE;
}

/* The long way, with checked arguments. */
static int get_checked(near_cache *cache, const void *key, size_t key_size, const near_call *call,
                       near_value *ret_value)
{
    enum near__local_result result = NEAR_LOCAL_ABSENT;
    int status;
    struct near__reader *reader = near__reader_for(cache, &status);
    if (!reader)
        return status;
    near__rcu_enter();
    struct near__impl *impl = near__impl_in_section(cache);
    if (impl && call->flags & NEAR_BYPASS_LOCAL) {
        near__local_count(reader, NEAR_COUNT_GETS);
        near__local_count(reader, NEAR_COUNT_BYPASSED);
    } else if (impl) {
        result = get_locally(impl, reader, key, key_size, call, ret_value);
    }
    int served = near__local_is_served(result);
    int over = !impl || served || !impl->remote; /* without a remote tier a miss ends here, too */
    if (!over)
        near__count_call(impl);
    near__rcu_leave();
    if (over)
        return !impl ? near__shell_refusal(cache) : served ? status_of_hit(result) : NEAR_MISS;
    status = near__read_miss(impl, reader, key, key_size, call, ret_value);
    near__leave(impl);
    return status;
}

/* Before a fresh read of one key.  Without a local copy there is nothing to wait for, and none that comes from now on
 * will do: it may be of a fetch from before the call. */
static int fence(near_cache *cache, const void *key, size_t key_size, near_call *call)
{
    struct near__view view;
    int status = NEAR_OK;
    struct near__reader *reader = near__reader_for(cache, &status);
    struct near__impl *impl = reader ? near__enter(cache, &status) : NULL;
    if (!impl)
        return status;
    if (near__local_look(impl->local, reader, key, key_size, &view) == NEAR_LOCAL_HIT) {
        near__local_unpin(reader, &view);
        near__read_fence(impl, call);
    } else if (impl->remote) {
        call->flags |= NEAR_BYPASS_LOCAL;
    }
    near__leave(impl);
    return NEAR_OK;
}

NEAR_APART int get_the_long_way(near_cache *cache, const void *key, size_t key_size, const near_call *call,
                                near_value *ret_value)
{
    near_call mine;
    int status = near__key_check(key, key_size);
    if (!ret_value)
        return NEAR_ERR_INVALID;
    memset(ret_value, 0, sizeof(*ret_value));
    if (!cache)
        return NEAR_ERR_INVALID;
    if (status != NEAR_OK || (status = near__read_call_copy(call, &mine)) != NEAR_OK)
        return status;
    if ((mine.flags & (NEAR_REQUIRE_FRESH | NEAR_BYPASS_LOCAL)) == NEAR_REQUIRE_FRESH &&
        (status = fence(cache, key, key_size, &mine)) != NEAR_OK)
        return status;
    return get_checked(cache, key, key_size, &mine, ret_value);
}

/* When the short way has found nothing, in a section of its own, so that hits keep no register for it.  1: without a
 * remote tier the miss of a key of which there is no trace ends here; it is counted. */
static int is_missed_at_once(near_cache *cache, const void *key, size_t key_size)
{
    struct near__short_way way;
    if (!near__short_begin(cache, &way))
        return 0;
    const struct near__local *local = way.reader->local;
    const struct near__impl *impl = near__impl_in_section(cache);
    int is_miss = impl && !impl->remote && !local->taps && near__index_is_nowhere(&local->index, key, key_size);
    if (is_miss)
        near__reader_add(way.reader, NEAR_COUNT_ABSENT, 1);
    near__short_leave(&way);
    return is_miss;
}

struct near__reader *near__short_recall(near_cache *cache)
{
    struct near__reader *reader;
    if (!near__reader_known(cache->serial, &reader))
        return NULL;
    if (near__rcu_is_quick())
        near__reader_remember(cache, reader, cache->by_counter);
    return reader;
}

static inline struct near__reader *recall(near_cache *cache)
{
    return near__likely(near__reader_last.name == cache) ? near__reader_last.reader : near__short_recall(cache);
}

/* The middle way. */
struct middle_way {
    struct near__short_way at;
    struct near__impl *impl;
    int64_t started_ns; /* 0: it is not timed */
};
enum middle { MIDDLE_HIT, MIDDLE_MISS, MIDDLE_UNDECIDED };

/* A read that was to be timed and is a miss: the one after so many hits at most is timed in its stead.  Otherwise each
 * miss before the next hit would go the middle way, and look at the clock for nothing. */
#define TIMED_LATER 32

/* 0: it ends here, outside. */
static int begin_middle_way(near_cache *cache, const void *key, size_t key_size, const near_call *call,
                            struct middle_way *way)
{
    if (!cache || call || near__key_check(key, key_size) != NEAR_OK || !(way->at.reader = recall(cache)) ||
        !near__rcu_enter_quickly(&way->at.place, 0))
        return 0;
    way->impl = near__impl_in_section(cache);
    int is_due = way->impl && near__reader_is_due(way->at.reader);
    if (!way->impl || (is_due && way->at.reader->local->taps)) { /* the long way shows it */
        near__rcu_leave_quickly(way->at.place, 0);
        return 0;
    }
    way->started_ns = is_due ? near__now(&way->impl->clock) : 0;
    return 1;
}

static enum middle end_middle_way(const struct middle_way *way, enum middle result)
{
    if (result == MIDDLE_HIT)
        near__reader_add_hit(way->at.reader);
    else if (result == MIDDLE_MISS)
        near__hit_count_miss(way->at.reader, NEAR_LOCAL_ABSENT);
    if (result == MIDDLE_MISS && way->started_ns)
        near__reader_put_off(way->at.reader, 1 + near__random_below(&way->at.reader->random, TIMED_LATER));
    if (result == MIDDLE_HIT && way->started_ns)
        near__local_time_hit(way->at.reader, near__now(&way->impl->clock) - way->started_ns);
    near__rcu_leave_quickly(way->at.place, 0);
    return result;
}

/* A plain hit, or NULL with what it is instead: without a remote tier the miss of a key that is nowhere ends here. */
static struct near__entry *look_on_middle_way(const struct middle_way *way, const void *key, size_t key_size,
                                              size_t size_max, size_t *ret_size, enum middle *ret_instead)
{
    struct near__local *local = way->at.reader->local;
    int is_absent;
    struct near__entry *entry = near__hit_anywhere(local, key, key_size, size_max, ret_size, &is_absent);
    *ret_instead = is_absent && !way->impl->remote && !local->taps ? MIDDLE_MISS : MIDDLE_UNDECIDED;
    return entry;
}

static enum middle get_the_middle_way(near_cache *cache, const void *key, size_t key_size, const near_call *call,
                                      near_value *ret_value)
{
    struct middle_way way;
    enum middle instead;
    size_t size;
    if (!ret_value || !begin_middle_way(cache, key, key_size, call, &way))
        return MIDDLE_UNDECIDED;
    struct near__entry *entry = look_on_middle_way(&way, key, key_size, NEAR_ENTRY_VALUE_MAX, &size, &instead);
    if (!entry)
        return end_middle_way(&way, instead);
    if (!way.at.reader->pins_free)
        return end_middle_way(&way, MIDDLE_UNDECIDED);
    pin_and_give(ret_value, way.at.reader, entry);
    return end_middle_way(&way, MIDDLE_HIT);
}

static int missed(near_value *ret_value)
{
    memset(ret_value, 0, sizeof(*ret_value));
    return NEAR_MISS;
}

NEAR_APART int get_by_any_key(near_cache *cache, const void *key, size_t key_size, const near_call *call,
                              near_value *ret_value)
{
    enum middle result = get_the_middle_way(cache, key, key_size, call, ret_value);
    if (near__likely(result == MIDDLE_HIT))
        return NEAR_OK;
    return result == MIDDLE_MISS ? missed(ret_value) : get_the_long_way(cache, key, key_size, call, ret_value);
}

NEAR_APART int get_nothing(near_cache *cache, const void *key, size_t key_size, near_value *ret_value)
{
    if (ret_value && is_missed_at_once(cache, key, key_size))
        return missed(ret_value);
    return get_by_any_key(cache, key, key_size, NULL, ret_value);
}

/* The end of the short way for an entry with an expiry, whose time to live takes a look at the clock. */
NEAR_APART int get_perishable(struct near__short_way way, struct near__entry *entry, near_value *ret_value)
{
    pin_and_give(ret_value, way.reader, entry);
    near__short_end(&way);
    return NEAR_OK;
}

/* The short way; width, a constant.  The arguments are looked at where they are used, which costs less than in a
 * row, and the other ways begin where this one ends. */
NEAR_INLINE int get_shortly(near_cache *cache, const void *key, size_t key_size, near_value *ret_value, int width)
{
    struct near__short_way way;
    size_t size;
    if (near__unlikely(!key) || near__unlikely(!near__short_begin(cache, &way)))
        return get_by_any_key(cache, key, key_size, NULL, ret_value);
    struct near__entry *entry = near__hit_plain(way.reader->local, key, key_size, width, NEAR_ENTRY_VALUE_MAX, &size);
    if (near__unlikely(!entry)) {
        near__short_leave(&way);
        return get_nothing(cache, key, key_size, ret_value);
    }
    if (near__unlikely(!way.reader->pins_free) || near__unlikely(!ret_value)) {
        near__short_leave(&way);
        return get_by_any_key(cache, key, key_size, NULL, ret_value);
    }
    if (near__unlikely(near__entry_has_expiry(entry)))
        return get_perishable(way, entry, ret_value);
    near__hit_pin(way.reader, entry, &ret_value->private_[0], &ret_value->data);
    near__short_give(ret_value, way.reader, entry, -1);
    near__short_end(&way);
    return NEAR_OK;
}

int near_get(near_cache *cache, const void *key, size_t key_size, const near_call *call, near_value *ret_value)
{
    if (near__unlikely(call != NULL) || near__unlikely(!near__hash_is_short(key_size)))
        return get_by_any_key(cache, key, key_size, call, ret_value);
    if (near__likely(near__reader_last.name_with_line == cache))
        return get_shortly(cache, key, key_size, ret_value, NEAR_WIDTH_LINE);
    if (near__likely(near__reader_last.name_with_less == cache))
        return get_shortly(cache, key, key_size, ret_value, NEAR_WIDTH_LESS);
    return get_by_any_key(cache, key, key_size, NULL, ret_value);
}

NEAR_APART int copy_the_long_way(near_cache *cache, const void *key, size_t key_size, const near_call *call,
                                 void *buffer, size_t capacity, size_t *ret_size)
{
    near_value value;
    if (!ret_size || (!buffer && capacity))
        return NEAR_ERR_INVALID;
    int status = get_the_long_way(cache, key, key_size, call, &value);
    if (status != NEAR_OK && status != NEAR_STALE)
        return status;
    if (value.size && capacity)
        memcpy(buffer, value.data, value.size < capacity ? value.size : capacity);
    *ret_size = value.size;
    if (value.size > capacity)
        status = NEAR_TRUNCATED;
    near_release(&value);
    return status;
}

static enum middle copy_the_middle_way(near_cache *cache, const void *key, size_t key_size, const near_call *call,
                                       void *buffer, size_t capacity, size_t *ret_size)
{
    struct middle_way way;
    enum middle instead;
    size_t size;
    if (!ret_size || (!buffer && capacity) || !begin_middle_way(cache, key, key_size, call, &way))
        return MIDDLE_UNDECIDED;
    const struct near__entry *entry = look_on_middle_way(&way, key, key_size, capacity, &size, &instead);
    if (!entry)
        return end_middle_way(&way, instead);
    if (size)
        memcpy(buffer, entry->bytes + key_size, size);
    *ret_size = size;
    return end_middle_way(&way, MIDDLE_HIT);
}

NEAR_APART int copy_by_any_key(near_cache *cache, const void *key, size_t key_size, const near_call *call, void *buffer,
                               size_t capacity, size_t *ret_size)
{
    enum middle result = copy_the_middle_way(cache, key, key_size, call, buffer, capacity, ret_size);
    if (near__likely(result == MIDDLE_HIT))
        return NEAR_OK;
    return result == MIDDLE_MISS ? NEAR_MISS
                                 : copy_the_long_way(cache, key, key_size, call, buffer, capacity, ret_size);
}

NEAR_APART int copy_nothing(near_cache *cache, const void *key, size_t key_size, void *buffer, size_t capacity,
                            size_t *ret_size)
{
    if (buffer && ret_size && is_missed_at_once(cache, key, key_size))
        return NEAR_MISS;
    return copy_by_any_key(cache, key, key_size, NULL, buffer, capacity, ret_size);
}

/* As get_shortly, into a buffer that is large enough.  capacity may be anything: what near__hit_plain then lets pass is
 * larger than near__copy copies. */
NEAR_INLINE int copy_shortly(near_cache *cache, const void *key, size_t key_size, void *buffer, size_t capacity,
                             size_t *ret_size, int width)
{
    struct near__short_way way;
    size_t size;
    if (near__unlikely(!key) || near__unlikely(!near__short_begin(cache, &way)))
        return copy_by_any_key(cache, key, key_size, NULL, buffer, capacity, ret_size);
    const struct near__entry *entry = near__hit_plain(way.reader->local, key, key_size, width, capacity, &size);
    if (near__unlikely(!entry)) {
        near__short_leave(&way);
        return copy_nothing(cache, key, key_size, buffer, capacity, ret_size);
    }
    if (near__unlikely(!buffer) || near__unlikely(!ret_size) ||
        near__unlikely(!near__copy(buffer, (const unsigned char *)entry + key_size + NEAR_ENTRY_HEADER, size, width))) {
        near__short_leave(&way);
        return copy_by_any_key(cache, key, key_size, NULL, buffer, capacity, ret_size);
    }
    *ret_size = size;
    near__short_end(&way);
    return NEAR_OK;
}

int near_get_copy(near_cache *cache, const void *key, size_t key_size, const near_call *call, void *buffer,
                  size_t capacity, size_t *ret_size)
{
    if (near__unlikely(call != NULL) || near__unlikely(!near__hash_is_short(key_size)))
        return copy_by_any_key(cache, key, key_size, call, buffer, capacity, ret_size);
    if (near__likely(near__reader_last.name_with_line == cache))
        return copy_shortly(cache, key, key_size, buffer, capacity, ret_size, NEAR_WIDTH_LINE);
    if (near__likely(near__reader_last.name_with_less == cache))
        return copy_shortly(cache, key, key_size, buffer, capacity, ret_size, NEAR_WIDTH_LESS);
    return copy_by_any_key(cache, key, key_size, NULL, buffer, capacity, ret_size);
}

int near_peek(near_cache *cache, const void *key, size_t key_size, near_value *ret_value)
{
    static const near_call defaults = {.size = sizeof(defaults)};
    int status = near__key_check(key, key_size);
    if (!ret_value)
        return NEAR_ERR_INVALID;
    memset(ret_value, 0, sizeof(*ret_value));
    if (!cache)
        return NEAR_ERR_INVALID;
    if (status != NEAR_OK)
        return status;
    struct near__reader *reader = near__reader_for(cache, &status);
    if (!reader)
        return status;
    near__rcu_enter();
    struct near__impl *impl = near__impl_in_section(cache);
    status = NEAR_MISS;
    if (!impl) {
        status = near__shell_refusal(cache);
    } else {
        enum near__local_result result = get_locally(impl, reader, key, key_size, &defaults, ret_value);
        if (near__local_is_served(result))
            status = status_of_hit(result);
    }
    near__rcu_leave();
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
    near__local_remove(impl, key, key_size, NEAR_CAUSE_DROP);
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
    if (request->value_size > impl->options.value_max || request->expected_size > impl->options.value_max) {
        status = NEAR_ERR_TOO_LARGE;
    } else {
        int64_t deadline_ns = impl->remote ? near__deadline(impl, call) : 0;
        status = near__write_through(impl, request, deadline_ns, !(call->flags & NEAR_NO_FILL));
        status = near__write_barrier(impl, call, deadline_ns, status);
    }
    near__leave(impl);
    return status;
}

/* The short way of a plain SET without a remote tier: see only.c.  One in so many takes the long way, where it is
 * timed.  0: nothing has been written, or it is to be tried again. */
static int set_quickly(near_cache *cache, const void *key, size_t key_size, const void *value, size_t value_size,
                       int64_t ttl_ms)
{
    struct near__short_way way = {.reader = cache ? recall(cache) : NULL};
    if (near__unlikely(!way.reader) || !near__rcu_enter_quickly(&way.place, 0))
        return 0;
    struct near__impl *impl = near__impl_in_section(cache);
    int done = impl && !impl->remote && value_size <= impl->options.value_max &&
               !near__reader_times_write(way.reader) &&
               near__local_put(impl->local, way.reader, key, key_size, value, value_size, ttl_ms);
    if (done)
        near__reader_add(way.reader, NEAR_COUNT_WRITES, 1);
    near__rcu_leave_quickly(way.place, 0);
    return done;
}

int near_set(near_cache *cache, const void *key, size_t key_size, const void *value, size_t value_size,
             const near_write *write, const near_call *call)
{
    near_call my_call;
    near_write my_write;
    int status = near__key_check(key, key_size);
    if (status == NEAR_OK)
        status = !value && value_size ? NEAR_ERR_INVALID : near__write_copy(write, &my_write);
    if (near__likely(status == NEAR_OK && !call && value) && !my_write.flags &&
        set_quickly(cache, key, key_size, value, value_size, my_write.ttl_ms ? my_write.ttl_ms : -1))
        return NEAR_OK;
    if (status != NEAR_OK || (status = near__call_copy(call, &my_call)) != NEAR_OK)
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

int near_incr(near_cache *cache, const void *key, size_t key_size, int64_t delta, const near_call *call,
              int64_t *ret_number)
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

/* Removing the keys may take all the time that there is, and then everybody still has to be told. */
static int clear_keys(struct near__impl *impl, int64_t deadline_ns, uint64_t *removed)
{
    int64_t left_ns = deadline_ns - near__now(&impl->clock);
    int status = near__remote_clear_keys(impl->remote, deadline_ns - (left_ns > 0 ? left_ns / 4 : 0), removed);
    return status < 0 && *removed ? NEAR_ERR_UNKNOWN : status; /* some are gone and others are not */
}

static int clear_entered(struct near__impl *impl, uint32_t flags, const near_call *call, uint64_t *ret_removed)
{
    int64_t deadline_ns = near__deadline(impl, call);
    int keys = NEAR_OK;
    uint64_t removed = 0;
    if (flags & NEAR_CLEAR_KEYS) {
        if (!impl->remote || !impl->options.prefix || !impl->options.prefix[0])
            return NEAR_ERR_INVALID;
        keys = clear_keys(impl, deadline_ns, &removed);
    }
    /* also after a removal that stopped half-way: what is gone there must go here */
    struct near__request request = {.operation = NEAR_OP_CLEAR};
    int status = near__write_through(impl, &request, deadline_ns, 0);
    if (status < 0 && (removed || keys == NEAR_ERR_UNKNOWN)) {
        near__local_clear(impl->local);
        keys = NEAR_ERR_UNKNOWN;
    }
    if (ret_removed)
        *ret_removed = removed;
    status = near__write_barrier(impl, call, deadline_ns, status);
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
    near__local_resize(impl->local, change_entries ? NEAR_LIMIT_KEPT : bytes,
                       change_entries ? entries : NEAR_LIMIT_KEPT);
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

int near_set_auto_size(near_cache *cache, uint32_t hit_permille, uint64_t bytes_min, uint64_t bytes_max)
{
    int status;
    if (!cache)
        return NEAR_ERR_INVALID;
    if (!option_in_range("auto_hit_permille", hit_permille))
        return NEAR_ERR_OPTION;
    if (hit_permille && (!option_in_range("auto_bytes_min", bytes_min) ||
                         !option_in_range("auto_bytes_max", bytes_max) || (bytes_max && bytes_min > bytes_max)))
        return NEAR_ERR_OPTION;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return status;
    status = near__local_set_auto(impl->local, hit_permille, bytes_min, bytes_max);
    near__leave(impl);
    return status;
}

int near_advise(near_cache *cache, uint64_t bytes, uint64_t entries, double *ret_hit_ratio)
{
    int status;
    if (!cache || !ret_hit_ratio || (!bytes && !entries))
        return NEAR_ERR_INVALID;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return status;
    status = near__local_advise(impl->local, entries ? entries : UINT64_MAX, bytes ? bytes : UINT64_MAX, ret_hit_ratio);
    near__leave(impl);
    return status;
}

int near_hot_keys(near_cache *cache, size_t most, near_hot_key *ret_keys, size_t *ret_count)
{
    int status;
    if (!cache || !ret_keys || !most || !ret_count)
        return NEAR_ERR_INVALID;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return status;
    status = near__local_hot_keys(impl->local, most, ret_keys, ret_count);
    near__leave(impl);
    return status;
}

int near_set_bound(near_cache *cache, uint32_t bound_ms)
{
    int status;
    if (!option_in_range("bound_ms", bound_ms))
        return NEAR_ERR_OPTION;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return status;
    status = NEAR_OK;
    if (impl->options.unproven == NEAR_UNPROVEN_SERVE_STALE && bound_ms > impl->options.stale_ms)
        status = NEAR_ERR_OPTION;
    else if (impl->coherence) /* it knows whether a longer bound would bring a withdrawn proof back */
        near__coherence_set_bound(impl->coherence, bound_ms);
    else
        near__local_set_bound(impl->local, (int64_t)bound_ms * NEAR_NS_PER_MS);
    near__leave(impl);
    return status;
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
        status = near__coherence_wait(impl->coherence, near__now(&impl->clock) + (int64_t)timeout_ms * NEAR_NS_PER_MS,
                                      error);
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
    stats->writes += load(&c->writes); /* to what the local tier has counted */
    stats->writes_unmet = load(&c->writes_unmet);
    stats->writes_failed = load(&c->writes_failed);
    stats->writes_unknown = load(&c->writes_unknown);
    stats->values_sent = load(&c->values_sent);
    stats->values_held = near__values_held(impl);
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
    stats->tls_files_refused = remote.tls_files_refused;
    stats->breaker_open = remote.breaker_open;
}

static void stats_of_helpers(struct near__impl *impl, near_stats *stats)
{
    const struct near__call_counters *c = &impl->counters;
    stats->locks_taken = load(&c->locks_taken);
    stats->locks_refused = load(&c->locks_refused);
    stats->locks_failed = load(&c->locks_failed);
    stats->locks_extended = load(&c->locks_extended);
    stats->locks_lost = load(&c->locks_lost);
    near__histogram_quantiles(&impl->lock_ns, &stats->lock_ns);
    stats->warm_keys = load(&c->warm_keys);
    stats->warm_found = load(&c->warm_found);
    stats->warm_missing = load(&c->warm_missing);
    stats->warm_errors = load(&c->warm_errors);
    stats->snapshot_status = near__snapshot_status(impl);
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
    near__sources_stats(impl, &all);
    near__loading_stats(impl, &all);
    stats_of_helpers(impl, &all);
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
