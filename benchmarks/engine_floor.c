/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The floor: what remains when the index is perfect.  An array of entries in which a key's number is its place; a read
 * compares the key and copies the value.  No store with an index can be quicker on the same keys, so the distance to it is what
 * an index costs. */
#include <stdio.h>
#include <stdlib.h>

#include "bench_entry.h"

struct floor {
    char *entries;
    size_t stride;
    struct bench_engine_config config;
};

static struct bench_entry *entry_of(const struct floor *floor, uint64_t number)
{
    return (struct bench_entry *)(void *)(floor->entries + number * floor->stride);
}

static void *open_floor(const struct bench_engine_config *config, char *error, size_t capacity)
{
    struct floor *floor = calloc(1, sizeof(*floor));
    if (floor) {
        floor->config = *config;
        floor->stride = bench_entry_stride(config);
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
    (void)thread;
    return bench_entry_read(entry_of(store, key.number), key, buffer, capacity);
}

static int set(void *store, unsigned thread, struct bench_key key, const void *value, size_t size)
{
    struct floor *floor = store;
    (void)thread;
    if (size > floor->config.value_size)
        return -1;
    bench_entry_write(entry_of(floor, key.number), key, value, size);
    return 1;
}

static uint64_t memory(void *store, uint64_t *ret_entries)
{
    struct floor *floor = store;
    *ret_entries = 0;
    for (uint64_t i = 0; i < floor->config.keys; i++)
        *ret_entries += entry_of(floor, i)->size != 0;
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
