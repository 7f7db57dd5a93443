/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a careful user would write: 64 shards, each with a mutex, a chained hash table that grows, and a list in order
 * of use.  One allocation an entry, XXH3, the hash kept so that chains compare bytes once and growing hashes
 * nothing. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "bench_engine.h"

#define SHARDS 64
#define SHARD_BITS 6

struct entry {
    struct entry *chain;
    struct entry *newer, *older;
    uint64_t hash;
    uint32_t key_size, value_size;
    char bytes[]; /* key, value */
};

/* All under mutex. */
struct shard {
    _Alignas(128) pthread_mutex_t mutex;
    struct entry **bucket;
    uint64_t buckets; /* a power of two */
    struct entry *newest, *oldest;
    uint64_t count, bytes;
    uint64_t count_max, bytes_max; /* UINT64_MAX: no limit */
};

struct sharded {
    struct shard shard[SHARDS];
};

/* ---------------------------------------------------------------- the list */

static void unlink_locked(struct shard *shard, struct entry *entry)
{
    if (entry->newer)
        entry->newer->older = entry->older;
    else
        shard->newest = entry->older;
    if (entry->older)
        entry->older->newer = entry->newer;
    else
        shard->oldest = entry->newer;
}

static void link_locked(struct shard *shard, struct entry *entry)
{
    entry->newer = NULL;
    entry->older = shard->newest;
    if (shard->newest)
        shard->newest->newer = entry;
    else
        shard->oldest = entry;
    shard->newest = entry;
}

/* ---------------------------------------------------------------- the table */

static struct entry **bucket_locked(struct shard *shard, uint64_t hash)
{
    return &shard->bucket[hash & (shard->buckets - 1)];
}

/* The link that leads to the entry, or that ends the chain. */
static struct entry **find_locked(struct shard *shard, uint64_t hash, struct bench_key key)
{
    struct entry **link = bucket_locked(shard, hash);
    while (*link &&
           ((*link)->hash != hash || (*link)->key_size != key.size || memcmp((*link)->bytes, key.bytes, key.size) != 0))
        link = &(*link)->chain;
    return link;
}

static void grow_locked(struct shard *shard)
{
    uint64_t old_buckets = shard->buckets;
    struct entry **old = shard->bucket, **bucket = calloc(old_buckets * 2, sizeof(*bucket));
    if (!bucket)
        return; /* longer chains, then */
    shard->bucket = bucket;
    shard->buckets = old_buckets * 2;
    for (uint64_t b = 0; b < old_buckets; b++) {
        for (struct entry *entry = old[b], *next; entry; entry = next) {
            struct entry **head = bucket_locked(shard, entry->hash);
            next = entry->chain;
            entry->chain = *head;
            *head = entry;
        }
    }
    free(old);
}

static size_t cost_of(size_t key_size, size_t value_size)
{
    return sizeof(struct entry) + key_size + value_size + sizeof(struct entry *);
}

static void drop_locked(struct shard *shard, struct entry **link)
{
    struct entry *entry = *link;
    *link = entry->chain;
    unlink_locked(shard, entry);
    shard->count--;
    shard->bytes -= cost_of(entry->key_size, entry->value_size);
    free(entry);
}

static void evict_locked(struct shard *shard)
{
    struct entry *entry = shard->oldest;
    struct bench_key key = {.bytes = entry->bytes, .size = entry->key_size};
    drop_locked(shard, find_locked(shard, entry->hash, key));
}

/* ---------------------------------------------------------------- the engine */

static struct shard *shard_of(struct sharded *sharded, uint64_t hash)
{
    return &sharded->shard[hash >> (64 - SHARD_BITS)];
}

static void close_cache(void *store)
{
    struct sharded *sharded = store;
    for (unsigned i = 0; i < SHARDS; i++) {
        struct shard *shard = &sharded->shard[i];
        for (struct entry *entry = shard->newest, *older; entry; entry = older) {
            older = entry->older;
            free(entry);
        }
        free(shard->bucket);
        pthread_mutex_destroy(&shard->mutex);
    }
    free(sharded);
}

/* The limits of all together are the limit, but a shard keeps one entry at least. */
static uint64_t share_of(uint64_t entries, unsigned shard)
{
    return entries / SHARDS + (shard < entries % SHARDS);
}

static void *open_cache(const struct bench_engine_config *config, char *error, size_t capacity)
{
    int complete = 1;
    struct sharded *sharded = aligned_alloc(_Alignof(struct sharded), sizeof(*sharded));
    if (sharded) {
        memset(sharded, 0, sizeof(*sharded));
        for (unsigned i = 0; i < SHARDS; i++) {
            struct shard *shard = &sharded->shard[i];
            pthread_mutex_init(&shard->mutex, NULL);
            shard->buckets = 64;
            shard->bucket = calloc(shard->buckets, sizeof(*shard->bucket));
            shard->count_max = config->entries ? share_of(config->entries, i) : UINT64_MAX;
            shard->bytes_max = config->bytes ? config->bytes / SHARDS : UINT64_MAX;
            complete &= shard->bucket != NULL;
        }
        if (complete)
            return sharded;
        close_cache(sharded);
    }
    snprintf(error, capacity, "out of memory");
    return NULL;
}

static int64_t get(void *store, unsigned thread, struct bench_key key, void *buffer, size_t capacity)
{
    uint64_t hash = near__hash(key.bytes, key.size, 0);
    struct shard *shard = shard_of(store, hash);
    int64_t size = BENCH_ABSENT;
    (void)thread;
    pthread_mutex_lock(&shard->mutex);
    struct entry *entry = *find_locked(shard, hash, key);
    if (entry) {
        if (entry != shard->newest) {
            unlink_locked(shard, entry);
            link_locked(shard, entry);
        }
        size = entry->value_size;
        memcpy(buffer, entry->bytes + entry->key_size, entry->value_size < capacity ? entry->value_size : capacity);
    }
    pthread_mutex_unlock(&shard->mutex);
    return size;
}

static struct entry *make(uint64_t hash, struct bench_key key, const void *value, size_t size)
{
    struct entry *entry = malloc(sizeof(*entry) + key.size + size);
    if (!entry)
        return NULL;
    entry->hash = hash;
    entry->key_size = key.size;
    entry->value_size = (uint32_t)size;
    memcpy(entry->bytes, key.bytes, key.size);
    memcpy(entry->bytes + key.size, value, size);
    return entry;
}

static void insert_locked(struct shard *shard, struct entry *entry)
{
    struct entry **head = bucket_locked(shard, entry->hash);
    entry->chain = *head;
    *head = entry;
    link_locked(shard, entry);
    shard->count++;
    shard->bytes += cost_of(entry->key_size, entry->value_size);
    while ((shard->count > shard->count_max || shard->bytes > shard->bytes_max) && shard->oldest != entry)
        evict_locked(shard);
    if (shard->count > shard->buckets)
        grow_locked(shard);
}

static int set(void *store, unsigned thread, struct bench_key key, const void *value, size_t size)
{
    uint64_t hash = near__hash(key.bytes, key.size, 0);
    struct shard *shard = shard_of(store, hash);
    struct entry *entry = make(hash, key, value, size); /* outside the lock */
    (void)thread;
    if (!entry)
        return -1;
    pthread_mutex_lock(&shard->mutex);
    struct entry **link = find_locked(shard, hash, key);
    if (*link)
        drop_locked(shard, link);
    insert_locked(shard, entry);
    pthread_mutex_unlock(&shard->mutex);
    return 1;
}

static uint64_t memory(void *store, uint64_t *ret_entries)
{
    struct sharded *sharded = store;
    uint64_t bytes = sizeof(*sharded);
    *ret_entries = 0;
    for (unsigned i = 0; i < SHARDS; i++) {
        const struct shard *shard = &sharded->shard[i];
        *ret_entries += shard->count;
        bytes += shard->bytes + (shard->buckets - shard->count) * sizeof(struct entry *);
    }
    return bytes;
}

const struct bench_engine bench_engine_sharded = {
    .name = "sharded-lru",
    .sentence = "64 shards, each a mutex, a chained hash table and a list in order of use",
    .evicts = 1,
    .open = open_cache,
    .close = close_cache,
    .get = get,
    .set = set,
    .memory = memory,
};
