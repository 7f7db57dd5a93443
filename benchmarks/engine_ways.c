/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One line and eight places: what the least cache by hash costs that evicts.  A bucket is one line of eight tags, eight
 * ages and a lock for those who write; its eight entries are its own and stay where they are.  A fill goes into the
 * place of the oldest of the bucket, so it chooses among eight ages in a line that it has to change in any case, and
 * overwrites memory that is there already: no sample, no candidate, no budget, no list, no grace period.  Readers look
 * and copy under the entry's sequence number, and note the age when it has changed.
 *
 * What it lacks: values of different sizes, limits that change, entries that can be held, an order beyond the bucket,
 * expiry.  Where a cache fills slower than this, that is what it pays for these. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/hash.h"
#include "bench_entry.h"
#include "bench_tags.h"

#define TICKS 1024 /* a turnover, as the library's (local/order.h) */
#define SPINS 64

struct bucket {
    _Alignas(64) _Atomic(uint16_t) tag[BENCH_TAGS]; /* 0: empty, or on its way; written last */
    /* the tick of the last use; relaxed: a lost store makes an entry look older */
    _Atomic(uint16_t) age[BENCH_TAGS];
    _Atomic(uint32_t) lock; /* 1: somebody writes */
};

struct seat {
    _Alignas(64) uint64_t fills; /* since the tick was advanced from here */
};

struct ways {
    struct bucket *buckets;
    uint64_t count;
    struct bench_entries entries; /* bucket by bucket */
    struct near__secrets secrets;
    struct seat *seats;
    uint64_t fills_a_tick; /* of one thread */
    _Alignas(64) _Atomic(uint32_t) tick;
};

static void close_ways(void *store)
{
    struct ways *ways = store;
    free(ways->buckets);
    free(ways->entries.memory);
    free(ways->seats);
    free(ways);
}

/* Without a limit twice as many as there are keys, so that few buckets overflow. */
static uint64_t places(const struct bench_engine_config *config, size_t stride)
{
    uint64_t by_bytes = config->bytes ? config->bytes / (stride + sizeof(struct bucket) / BENCH_TAGS) : UINT64_MAX;
    uint64_t by_count = config->entries ? config->entries : 2 * config->keys;
    return by_bytes < by_count ? by_bytes : by_count;
}

static void *open_ways(const struct bench_engine_config *config, char *error, size_t capacity)
{
    struct ways *ways = aligned_alloc(64, sizeof(*ways));
    if (ways) {
        *ways = (struct ways){.secrets = near__secrets(config->keys), .entries = bench_entries_for(config)};
        ways->count = places(config, ways->entries.stride) / BENCH_TAGS + 1;
        ways->entries.count = ways->count * BENCH_TAGS;
        ways->fills_a_tick = ways->entries.count / TICKS / config->threads + 1;
        ways->buckets = bench_huge(ways->count * sizeof(struct bucket));
        ways->entries.memory = bench_huge(ways->entries.count * ways->entries.stride);
        ways->seats = aligned_alloc(64, config->threads * sizeof(struct seat));
    }
    if (!ways || !ways->buckets || !ways->entries.memory || !ways->seats) {
        snprintf(error, capacity, "out of memory");
        if (ways)
            close_ways(ways);
        return NULL;
    }
    memset(ways->seats, 0, config->threads * sizeof(struct seat));
    return ways;
}

static inline struct bench_entry *entry_at(const struct ways *ways, uint64_t b, unsigned way)
{
    return bench_entry_at(&ways->entries, b * BENCH_TAGS + way);
}

static inline uint16_t now(const struct ways *ways)
{
    return (uint16_t)atomic_load_explicit(&ways->tick, memory_order_relaxed);
}

/* A store only when it changes something keeps the line of hot entries shared. */
static inline void touch(struct bucket *bucket, unsigned way, uint16_t tick)
{
    if (atomic_load_explicit(&bucket->age[way], memory_order_relaxed) != tick)
        atomic_store_explicit(&bucket->age[way], tick, memory_order_relaxed);
}

static int64_t get(void *store, unsigned thread, struct bench_key key, void *buffer, size_t capacity)
{
    struct ways *ways = store;
    uint64_t hash = near__key_hash(key.bytes, key.size, &ways->secrets), b = bench_home(hash, ways->count);
    struct bucket *bucket = &ways->buckets[b];
    (void)thread;
    for (unsigned bits = bench_match(bucket->tag, bench_tag_of(hash)); bits; bits = bench_match_rest(bits)) {
        unsigned way = bench_match_place(bits);
        int64_t size = bench_entry_read(entry_at(ways, b, way), key, buffer, capacity);
        if (size != BENCH_ABSENT) {
            touch(bucket, way, now(ways));
            return size;
        }
    }
    return BENCH_ABSENT;
}

/* ---------------------------------------------------------------- writing, under the bucket's lock */

static void lock(struct bucket *bucket)
{
    /* acquire: pairs with unlock */
    for (unsigned spins = 0; atomic_exchange_explicit(&bucket->lock, 1, memory_order_acquire); spins++)
        if (spins >= SPINS)
            sched_yield(); /* its owner has no processor */
}

static void unlock(struct bucket *bucket)
{
    atomic_store_explicit(&bucket->lock, 0, memory_order_release); /* pairs with lock */
}

/* The key's way, or an empty one, or the oldest. */
static unsigned way_locked(const struct ways *ways, const struct bucket *bucket, uint64_t b, uint16_t tag,
                           struct bench_key key)
{
    for (unsigned bits = bench_match(bucket->tag, tag); bits; bits = bench_match_rest(bits)) {
        unsigned way = bench_match_place(bits);
        if (bench_entry_is(entry_at(ways, b, way), key))
            return way;
    }
    unsigned empty = bench_match(bucket->tag, 0);
    if (empty)
        return bench_match_place(empty);
    uint16_t tick = now(ways);
    uint32_t oldest = 0;
    for (unsigned i = 0; i < BENCH_TAGS; i++) { /* the way in the lowest bits: one comparison, no branch */
        uint32_t age =
            (uint32_t)(uint16_t)(tick - atomic_load_explicit(&bucket->age[i], memory_order_relaxed)) * BENCH_TAGS + i;
        oldest = age > oldest ? age : oldest;
    }
    return oldest % BENCH_TAGS;
}

static void put_locked(const struct ways *ways, struct bucket *bucket, uint64_t b, uint16_t tag, struct bench_key key,
                       const void *value, size_t size)
{
    unsigned way = way_locked(ways, bucket, b, tag, key);
    struct bench_entry *entry = entry_at(ways, b, way);
    /* relaxed, both: all writers hold the lock */
    uint32_t odd = atomic_load_explicit(&entry->sequence, memory_order_relaxed) + 1;
    atomic_store_explicit(&entry->sequence, odd, memory_order_relaxed);
    bench_entry_fill(entry, odd, key, value, size);
    touch(bucket, way, now(ways));
    /* release: pairs with bench_match */
    atomic_store_explicit(&bucket->tag[way], tag, memory_order_release);
}

static int set(void *store, unsigned thread, struct bench_key key, const void *value, size_t size)
{
    struct ways *ways = store;
    uint64_t hash = near__key_hash(key.bytes, key.size, &ways->secrets), b = bench_home(hash, ways->count);
    struct bucket *bucket = &ways->buckets[b];
    if (size > ways->entries.value_max)
        return -1;
    lock(bucket);
    put_locked(ways, bucket, b, bench_tag_of(hash), key, value, size);
    unlock(bucket);
    if (++ways->seats[thread].fills >= ways->fills_a_tick) {
        ways->seats[thread].fills = 0;
        atomic_fetch_add_explicit(&ways->tick, 1, memory_order_relaxed); /* relaxed: only ages */
    }
    return 1;
}

static uint64_t memory(void *store, uint64_t *ret_entries)
{
    const struct ways *ways = store;
    return bench_entries_count(&ways->entries, ret_entries) + ways->count * sizeof(struct bucket);
}

const struct bench_engine bench_engine_ways = {
    .name = "eight-ways",
    .sentence = "one line of tags and ages and its own eight entries a bucket; the oldest of the bucket is overwritten",
    .evicts = 1,
    .open = open_ways,
    .close = close_ways,
    .get = get,
    .set = set,
    .memory = memory,
};
