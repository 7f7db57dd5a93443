/* SPDX-License-Identifier: BSD-3-Clause
 * The short way through a read: the frame around near__hit_plain, for the calls that serve a hit without a call of
 * their own.
 *
 * It is one section, in which the cache is found open and the entry is found, by the reader that the thread used last;
 * that is remembered only where a section needs no barriers of its own.  Whoever does not get through has changed
 * nothing, and goes another way from the beginning. */
#ifndef NEAR_CACHE_SHORT_WAY_H
#define NEAR_CACHE_SHORT_WAY_H
#include "base/compiler.h"
#include "cache/cache.h"
#include "local/hit.h"

/* A thread's reader in a section in which the cache is open. */
struct near__short_way {
    struct near__reader *reader;
    struct near__rcu_place place;
};

NEAR_INLINE void near__short_leave(const struct near__short_way *way)
{
    near__rcu_leave_quickly(way->place, 1);
}

/* The cache is the one that the thread used last.  0: it ends here, outside.  Hits of a thread are timed one in so
 * many, on the middle way of near_get: two clocks on every hit would cost more than the hit. */
NEAR_INLINE int near__short_begin(near_cache *cache, struct near__short_way *way)
{
    way->reader = near__reader_last.reader;
    if (near__unlikely(!near__rcu_enter_quickly(&way->place, 1)))
        return 0;
    if (near__likely(near__is_open_in_section(cache)) && near__likely(!near__reader_is_due(way->reader)))
        return 1;
    near__short_leave(way);
    return 0;
}

NEAR_INLINE void near__short_end(const struct near__short_way *way)
{
    near__reader_add_hit(way->reader);
    near__short_leave(way);
}

/* api.c.  The thread's reader of the cache, which is now the one that it used last; NULL: it has never used it. */
struct near__reader *near__short_recall(near_cache *cache);

static inline void near__short_give(near_value *value, struct near__reader *reader, const struct near__entry *entry,
                                    int64_t ttl_ms)
{
    value->size = near__entry_value_size(entry);
    value->ttl_ms = ttl_ms;
    value->source = NEAR_FROM_LOCAL;
    value->state_ = NEAR_VALUE_PINNED;
    value->private_[1] = reader;
    value->private_[2] = reader->local;
}

/* A pin is free. */
static inline void near__short_pin(near_value *value, struct near__reader *reader, struct near__entry *entry,
                                   int64_t ttl_ms)
{
    near__hit_pin(reader, entry, &value->private_[0], &value->data);
    near__short_give(value, reader, entry, ttl_ms);
}

#endif
