/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The floor: what remains when the index is perfect.  An array of entries in which a key's number is its place; a read
 * compares the key and copies the value.  No store with an index can be quicker on the same keys, so the distance to it is what
 * an index costs.
 *
 * A sequence number in each entry (odd while it is written) lets readers go without a lock. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_engine.h"

struct entry {
    _Atomic(uint32_t) sequence;
    uint32_t size; /* 0: absent, otherwise the value's size + 1 */
    char bytes[];  /* key, value */
};

struct floor {
    char *entries;
    size_t stride;
    struct bench_engine_config config;
};

/* Readers may copy while a writer writes, and then throw the copy away; ThreadSanitizer is told by means of single atomic bytes. */
static void copy(void *to, const void *from, size_t size)
{
#ifdef __SANITIZE_THREAD__
    for (size_t i = 0; i < size; i++)
        __atomic_store_n((char *)to + i, __atomic_load_n((const char *)from + i, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
#else
    memcpy(to, from, size);
#endif
}

static int is_key(const struct entry *entry, struct bench_key key)
{
#ifdef __SANITIZE_THREAD__
    char bytes[256];
    copy(bytes, entry->bytes, key.size < sizeof(bytes) ? key.size : sizeof(bytes));
    return memcmp(bytes, key.bytes, key.size < sizeof(bytes) ? key.size : sizeof(bytes)) == 0;
#else
    return memcmp(entry->bytes, key.bytes, key.size) == 0;
#endif
}

static struct entry *entry_of(const struct floor *floor, struct bench_key key)
{
    return (struct entry *)(void *)(floor->entries + key.number * floor->stride);
}

static void *open_floor(const struct bench_engine_config *config, char *error, size_t capacity)
{
    struct floor *floor = calloc(1, sizeof(*floor));
    if (floor) {
        floor->config = *config;
        floor->stride = (sizeof(struct entry) + config->key_size + config->value_size + 7) & ~(size_t)7;
        floor->entries = calloc(config->keys, floor->stride);
    }
    if (!floor || !floor->entries) {
        snprintf(error, capacity, "out of memory");
        free(floor);
        return NULL;
    }
    return floor;
}

static void close_floor(void *store)
{
    struct floor *floor = store;
    free(floor->entries);
    free(floor);
}

static int64_t get(void *store, unsigned thread, struct bench_key key, void *buffer, size_t capacity)
{
    struct entry *entry = entry_of(store, key);
    uint32_t before, size;
    int same;
    (void)thread;
    do {
        /* acquire: pairs with the last store of set; the bytes are those of this number or later */
        before = atomic_load_explicit(&entry->sequence, memory_order_acquire);
        size = __atomic_load_n(&entry->size, __ATOMIC_RELAXED);
        same = size && size - 1 <= capacity && is_key(entry, key);
        if (same)
            copy(buffer, entry->bytes + key.size, size - 1);
        atomic_thread_fence(memory_order_acquire); /* the copy comes before the second look */
    } while (before & 1 || atomic_load_explicit(&entry->sequence, memory_order_relaxed) != before);
    return same ? (int64_t)size - 1 : BENCH_ABSENT;
}

static int set(void *store, unsigned thread, struct bench_key key, const void *value, size_t size)
{
    struct floor *floor = store;
    struct entry *entry = entry_of(floor, key);
    uint32_t sequence = atomic_load_explicit(&entry->sequence, memory_order_relaxed);
    (void)thread;
    if (size > floor->config.value_size)
        return -1;
    /* odd: ours.  acquire: pairs with the release of the writer before. */
    while (sequence & 1 || !atomic_compare_exchange_weak_explicit(&entry->sequence, &sequence, sequence + 1,
                                                                  memory_order_acquire, memory_order_relaxed))
        sequence = atomic_load_explicit(&entry->sequence, memory_order_relaxed);
    atomic_thread_fence(memory_order_release); /* the odd number comes before the bytes; pairs with get's fence */
    copy(entry->bytes, key.bytes, key.size);
    copy(entry->bytes + key.size, value, size);
    __atomic_store_n(&entry->size, (uint32_t)size + 1, __ATOMIC_RELAXED);
    atomic_store_explicit(&entry->sequence, sequence + 2, memory_order_release); /* pairs with get's acquire */
    return 1;
}

static uint64_t memory(void *store, uint64_t *ret_entries)
{
    struct floor *floor = store;
    *ret_entries = 0;
    for (uint64_t i = 0; i < floor->config.keys; i++)
        *ret_entries += ((struct entry *)(void *)(floor->entries + i * floor->stride))->size != 0;
    return floor->config.keys * floor->stride;
}

const struct bench_engine bench_engine_floor = {
    .name = "floor",
    .sentence = "an array with a perfect index: what no index can beat; never evicts",
    .open = open_floor,
    .close = close_floor,
    .get = get,
    .set = set,
    .memory = memory,
};
