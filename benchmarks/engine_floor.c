/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The floor: what remains when the index is perfect.  An array of entries in which a key's number is its place; a read
 * compares the key and copies the value.  No store with an index can be quicker on the same keys, so the distance to it
 * is what an index costs. */
#include <stdio.h>
#include <stdlib.h>

#include "bench_entry.h"

static void *open_floor(const struct bench_engine_config *config, char *error, size_t capacity)
{
    struct bench_entries *floor = malloc(sizeof(*floor));
    if (floor) {
        *floor = bench_entries_for(config);
        floor->memory = calloc(floor->count, floor->stride);
    }
    if (!floor || !floor->memory) {
        snprintf(error, capacity, "out of memory");
        free(floor);
        return NULL;
    }
    return floor;
}

static void close_floor(void *store)
{
    struct bench_entries *floor = store;
    free(floor->memory);
    free(floor);
}

static int64_t get(void *store, unsigned thread, struct bench_key key, void *buffer, size_t capacity)
{
    (void)thread;
    return bench_entry_read(bench_entry_at(store, key.number), key, buffer, capacity);
}

static int set(void *store, unsigned thread, struct bench_key key, const void *value, size_t size)
{
    (void)thread;
    return bench_entry_write(store, key, value, size);
}

static uint64_t memory(void *store, uint64_t *ret_entries)
{
    return bench_entries_count(store, ret_entries);
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
