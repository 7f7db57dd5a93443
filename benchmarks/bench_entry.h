/* SPDX-License-Identifier: BSD-3-Clause
 * An entry of the engines that only show what an index costs: key and value in one block that stays where it is.
 *
 * A sequence number in each (odd while it is written) lets readers go without a lock. */
#ifndef NEAR_BENCH_ENTRY_H
#define NEAR_BENCH_ENTRY_H
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#include "bench_engine.h"

struct bench_entry {
    _Atomic(uint32_t) sequence;
    uint32_t size; /* 0: absent, otherwise the value's size + 1 */
    char bytes[];  /* key, value */
};

/* One for each key, in the order of their numbers. */
struct bench_entries {
    char *memory; /* zeroed by whoever opens it */
    size_t stride;
    uint64_t count;
    uint32_t value_max;
};

static inline struct bench_entries bench_entries_for(const struct bench_engine_config *config)
{
    size_t stride = (sizeof(struct bench_entry) + config->key_size + config->value_size + 7) & ~(size_t)7;
    return (struct bench_entries){.stride = stride, .count = config->keys, .value_max = config->value_size};
}

static inline struct bench_entry *bench_entry_at(const struct bench_entries *entries, uint64_t number)
{
    return (struct bench_entry *)(void *)(entries->memory + number * entries->stride);
}

/* As bench_engine.memory. */
static inline uint64_t bench_entries_count(const struct bench_entries *entries, uint64_t *ret_entries)
{
    *ret_entries = 0;
    for (uint64_t i = 0; i < entries->count; i++)
        *ret_entries += bench_entry_at(entries, i)->size != 0;
    return entries->count * entries->stride;
}

/* Readers may copy while a writer writes, and then throw the copy away; ThreadSanitizer is told by means of single
 * atomic bytes. */
static inline void bench_entry_copy(void *to, const void *from, size_t size)
{
#ifdef __SANITIZE_THREAD__
    for (size_t i = 0; i < size; i++)
        __atomic_store_n((char *)to + i, __atomic_load_n((const char *)from + i, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
#else
    memcpy(to, from, size);
#endif
}

static inline int bench_entry_is(const struct bench_entry *entry, struct bench_key key)
{
#ifdef __SANITIZE_THREAD__
    char bytes[256];
    bench_entry_copy(bytes, entry->bytes, key.size < sizeof(bytes) ? key.size : sizeof(bytes));
    return memcmp(bytes, key.bytes, key.size < sizeof(bytes) ? key.size : sizeof(bytes)) == 0;
#else
    return memcmp(entry->bytes, key.bytes, key.size) == 0;
#endif
}

/* As bench_engine.get. */
static inline int64_t bench_entry_read(struct bench_entry *entry, struct bench_key key, void *buffer, size_t capacity)
{
    uint32_t before, size;
    int same;
    do {
        /* acquire: pairs with the last store of bench_entry_write; the bytes are those of this number or later */
        before = atomic_load_explicit(&entry->sequence, memory_order_acquire);
        size = __atomic_load_n(&entry->size, __ATOMIC_RELAXED);
        same = size && size - 1 <= capacity && bench_entry_is(entry, key);
        if (same)
            bench_entry_copy(buffer, entry->bytes + key.size, size - 1);
        atomic_thread_fence(memory_order_acquire); /* the copy comes before the second look */
    } while (before & 1 || atomic_load_explicit(&entry->sequence, memory_order_relaxed) != before);
    return same ? (int64_t)size - 1 : BENCH_ABSENT;
}

/* By whoever has made the sequence odd, alone. */
static inline void bench_entry_fill(struct bench_entry *entry, uint32_t odd, struct bench_key key, const void *value,
                                    size_t size)
{
    /* the odd number comes before the bytes; pairs with the reader's fence */
    atomic_thread_fence(memory_order_release);
    bench_entry_copy(entry->bytes, key.bytes, key.size);
    bench_entry_copy(entry->bytes + key.size, value, size);
    __atomic_store_n(&entry->size, (uint32_t)size + 1, __ATOMIC_RELAXED);
    atomic_store_explicit(&entry->sequence, odd + 1, memory_order_release); /* pairs with the reader's acquire */
}

/* As bench_engine.set. */
static inline int bench_entry_write(const struct bench_entries *entries, struct bench_key key, const void *value,
                                    size_t size)
{
    struct bench_entry *entry = bench_entry_at(entries, key.number);
    uint32_t sequence = atomic_load_explicit(&entry->sequence, memory_order_relaxed);
    if (size > entries->value_max)
        return -1;
    /* odd: ours.  acquire: pairs with the release of the writer before. */
    while (sequence & 1 || !atomic_compare_exchange_weak_explicit(&entry->sequence, &sequence, sequence + 1,
                                                                  memory_order_acquire, memory_order_relaxed))
        sequence = atomic_load_explicit(&entry->sequence, memory_order_relaxed);
    bench_entry_fill(entry, sequence + 1, key, value, size);
    return 1;
}

#endif
