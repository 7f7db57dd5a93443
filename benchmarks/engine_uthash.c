/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The least that one would write: uthash, a list in order of use, and one mutex around both. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "bench_engine.h"

struct entry {
    UT_hash_handle hh;
    struct entry *prev, *next; /* by use, the latest first */
    uint32_t key_size, value_size;
    char bytes[]; /* key, value */
};

struct cache {
    pthread_mutex_t mutex;
    struct entry *table, *list; /* under mutex, both */
    uint64_t count, bytes;
    struct bench_engine_config config;
};

static size_t cost_of(const struct entry *entry)
{
    return sizeof(*entry) + entry->key_size + entry->value_size;
}

static void *open_cache(const struct bench_engine_config *config, char *error, size_t capacity)
{
    struct cache *cache = calloc(1, sizeof(*cache));
    if (!cache) {
        snprintf(error, capacity, "out of memory");
        return NULL;
    }
    cache->config = *config;
    pthread_mutex_init(&cache->mutex, NULL);
    return cache;
}

static void drop_locked(struct cache *cache, struct entry *entry)
{
    HASH_DEL(cache->table, entry);
    DL_DELETE(cache->list, entry);
    cache->count--;
    cache->bytes -= cost_of(entry);
    free(entry);
}

static void close_cache(void *store)
{
    struct cache *cache = store;
    while (cache->list)
        drop_locked(cache, cache->list);
    pthread_mutex_destroy(&cache->mutex);
    free(cache);
}

static struct entry *find_locked(struct cache *cache, struct bench_key key)
{
    struct entry *entry;
    HASH_FIND(hh, cache->table, key.bytes, key.size, entry);
    return entry;
}

static int64_t get(void *store, unsigned thread, struct bench_key key, void *buffer, size_t capacity)
{
    struct cache *cache = store;
    int64_t size = BENCH_ABSENT;
    (void)thread;
    pthread_mutex_lock(&cache->mutex);
    struct entry *entry = find_locked(cache, key);
    if (entry) {
        if (entry != cache->list) {
            DL_DELETE(cache->list, entry);
            DL_PREPEND(cache->list, entry);
        }
        size = entry->value_size;
        memcpy(buffer, entry->bytes + entry->key_size, entry->value_size < capacity ? entry->value_size : capacity);
    }
    pthread_mutex_unlock(&cache->mutex);
    return size;
}

static int is_over(const struct cache *cache)
{
    const struct bench_engine_config *config = &cache->config;
    return (config->entries && cache->count > config->entries) || (config->bytes && cache->bytes > config->bytes);
}

static int set(void *store, unsigned thread, struct bench_key key, const void *value, size_t size)
{
    struct cache *cache = store;
    struct entry *entry = malloc(sizeof(*entry) + key.size + size);
    (void)thread;
    if (!entry)
        return -1;
    entry->key_size = key.size;
    entry->value_size = (uint32_t)size;
    memcpy(entry->bytes, key.bytes, key.size);
    memcpy(entry->bytes + key.size, value, size);
    pthread_mutex_lock(&cache->mutex);
    struct entry *old = find_locked(cache, key);
    if (old)
        drop_locked(cache, old);
    HASH_ADD_KEYPTR(hh, cache->table, entry->bytes, entry->key_size, entry);
    DL_PREPEND(cache->list, entry);
    cache->count++;
    cache->bytes += cost_of(entry);
    while (is_over(cache) && cache->list->prev != cache->list)
        drop_locked(cache, cache->list->prev); /* the list's head points back at its end */
    pthread_mutex_unlock(&cache->mutex);
    return 1;
}

static uint64_t memory(void *store, uint64_t *ret_entries)
{
    struct cache *cache = store;
    *ret_entries = cache->count;
    return cache->bytes + HASH_OVERHEAD(hh, cache->table) - cache->count * sizeof(UT_hash_handle);
}

const struct bench_engine bench_engine_uthash = {
    .name = "uthash-lru",
    .sentence = "uthash, a list in order of use, one mutex",
    .evicts = 1,
    .open = open_cache,
    .close = close_cache,
    .get = get,
    .set = set,
    .memory = memory,
};
