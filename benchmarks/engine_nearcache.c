/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The library's local tier, through the public header alone: near_get_copy and near_set on a cache without a remote
 * tier. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_engine.h"
#include "nearcache.h"

#define BATCH_MAX 256

/* Room for the index and for small allocations' rounding, so that the limit on entries is the one that counts. */
static uint64_t generous(const struct bench_engine_config *config)
{
    uint64_t entries = config->entries ? config->entries : config->keys;
    return (UINT64_C(256) << 20) + 2 * entries * (config->key_size + config->value_size + 128u);
}

static void *open_cache(const struct bench_engine_config *config, char *text, size_t capacity)
{
    near_options options;
    near_error error = {0};
    near_cache *cache = NULL;
    near_options_init(&options);
    options.local_bytes = config->bytes ? config->bytes : generous(config);
    options.local_entries = config->entries;
    if (near_open("local:", &options, &cache, &error) != NEAR_OK)
        snprintf(text, capacity, "%s", error.text);
    return cache;
}

static void close_cache(void *store)
{
    (void)near_close(store);
}

static int64_t get(void *store, unsigned thread, struct bench_key key, void *buffer, size_t capacity)
{
    size_t size;
    (void)thread;
    int status = near_get_copy(store, key.bytes, key.size, NULL, buffer, capacity, &size);
    if (status == NEAR_OK)
        return (int64_t)size;
    return status == NEAR_MISS ? BENCH_ABSENT : BENCH_BROKEN;
}

static int put(near_cache *cache, struct bench_key key, const void *value, size_t size, const near_write *write)
{
    int status = near_set(cache, key.bytes, key.size, value, size, write, NULL);
    return status == NEAR_OK ? 1 : status == NEAR_ERR_FULL ? 0 : -1;
}

static int set(void *store, unsigned thread, struct bench_key key, const void *value, size_t size)
{
    (void)thread;
    return put(store, key, value, size, NULL);
}

/* An hour: nothing expires while it is measured, and every hit has to know that. */
static int set_for_an_hour(void *store, unsigned thread, struct bench_key key, const void *value, size_t size)
{
    static const near_write write = {.size = sizeof(write), .ttl_ms = 3600000};
    (void)thread;
    return put(store, key, value, size, &write);
}

static void take(near_item *item, struct bench_slot *slot)
{
    slot->size = item->status == NEAR_MISS ? BENCH_ABSENT : BENCH_BROKEN;
    if (item->status == NEAR_OK) {
        slot->size = (int64_t)item->value.size;
        memcpy(slot->buffer, item->value.data, item->value.size < slot->capacity ? item->value.size : slot->capacity);
    }
    near_release(&item->value);
}

static void mget(void *store, unsigned thread, const struct bench_key *keys, size_t count, struct bench_slot *slots)
{
    near_item items[BATCH_MAX];
    (void)thread;
    while (count) {
        size_t some = count < BATCH_MAX ? count : BATCH_MAX;
        for (size_t i = 0; i < some; i++)
            items[i] = (near_item){.key = keys[i].bytes, .key_size = keys[i].size};
        (void)near_mget(store, items, some, NULL); /* each item has its own status */
        for (size_t i = 0; i < some; i++)
            take(&items[i], &slots[i]);
        keys += some;
        slots += some;
        count -= some;
    }
}

static uint64_t memory(void *store, uint64_t *ret_entries)
{
    near_stats stats = {.size = sizeof(stats)};
    (void)near_stats_get(store, &stats);
    *ret_entries = stats.local_entries;
    return stats.local_bytes;
}

#define NEARCACHE(name_, sentence_, set_)                                                                              \
    {                                                                                                                  \
        .name = name_, .sentence = sentence_, .evicts = 1, .tends = 1, .open = open_cache, .close = close_cache,       \
        .get = get, .set = set_, .mget = mget, .memory = memory                                                        \
    }

const struct bench_engine bench_engine_nearcache =
    NEARCACHE("nearcache", "this library's local tier (near_get_copy, near_set, near_mget)", set);
const struct bench_engine bench_engine_perishable =
    NEARCACHE("nearcache-ttl", "the same, every entry with a time to live", set_for_an_hour);
