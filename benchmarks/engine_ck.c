/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Concurrency Kit's ck_ht: readers without locks, one writer at a time behind a mutex, as its manual asks for; replaced
 * entries are freed through ck_epoch.  Never evicts. */
#include <ck_epoch.h>
#include <ck_ht.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "bench_engine.h"

#define POLL_EVERY 256 /* writes between two attempts to free */

struct entry {
    ck_epoch_entry_t epoch; /* first: entry_of */
    uint32_t key_size, value_size;
    char bytes[]; /* key, value */
};

struct table {
    ck_ht_t ht; /* written under mutex */
    ck_epoch_t epoch;
    pthread_mutex_t mutex;
    uint64_t writes, bytes;    /* under mutex */
    ck_epoch_record_t *record; /* one a thread, and one for writers, under mutex */
    unsigned threads;
};

/* ck_ht frees old tables through its allocator: at once, or when readers have left them. */
struct block {
    ck_epoch_entry_t epoch;
    char bytes[];
};
static ck_epoch_record_t *writer; /* of the only table that is open; under its mutex */

static void free_block(ck_epoch_entry_t *epoch)
{
    free(epoch);
}

static void *ht_malloc(size_t size)
{
    struct block *block = malloc(sizeof(*block) + size);
    return block ? block->bytes : NULL;
}

static void ht_free(void *memory, size_t size, bool defer)
{
    struct block *block = (struct block *)(void *)((char *)memory - offsetof(struct block, bytes));
    (void)size;
    if (defer)
        ck_epoch_call(writer, &block->epoch, free_block);
    else
        free(block);
}

static struct ck_malloc allocator = {.malloc = ht_malloc, .free = ht_free};

static void hash(ck_ht_hash_t *ret, const void *key, size_t size, uint64_t seed)
{
    ret->value = near__hash(key, size, seed);
}

static void close_table(void *store)
{
    struct table *table = store;
    ck_ht_iterator_t iterator = CK_HT_ITERATOR_INITIALIZER;
    ck_ht_entry_t *slot;
    ck_epoch_barrier(writer);
    while (ck_ht_next(&table->ht, &iterator, &slot))
        free(ck_ht_entry_value(slot));
    ck_ht_destroy(&table->ht);
    pthread_mutex_destroy(&table->mutex);
    free(table->record);
    free(table);
}

static void *open_table(const struct bench_engine_config *config, char *error, size_t capacity)
{
    void *memory = aligned_alloc(128, (sizeof(struct table) + 127) & ~(size_t)127);
    struct table *table = memory;
    size_t size = (config->threads + 1) * sizeof(*table->record);
    if (table) {
        memset(table, 0, sizeof(*table));
        table->threads = config->threads;
        table->record = aligned_alloc(128, (size + 127) & ~(size_t)127);
    }
    if (!table || !table->record ||
        !ck_ht_init(&table->ht, CK_HT_MODE_BYTESTRING, hash, &allocator, config->keys < 64 ? 64 : config->keys, 0)) {
        snprintf(error, capacity, "out of memory");
        if (table)
            free(table->record);
        free(table);
        return NULL;
    }
    pthread_mutex_init(&table->mutex, NULL);
    ck_epoch_init(&table->epoch);
    for (unsigned i = 0; i <= config->threads; i++)
        ck_epoch_register(&table->epoch, &table->record[i], NULL);
    writer = &table->record[config->threads];
    return table;
}

static int64_t get(void *store, unsigned thread, struct bench_key key, void *buffer, size_t capacity)
{
    struct table *table = store;
    ck_ht_hash_t h;
    ck_ht_entry_t slot;
    int64_t size = BENCH_ABSENT;
    ck_ht_hash(&h, &table->ht, key.bytes, (uint16_t)key.size);
    ck_epoch_begin(&table->record[thread], NULL);
    ck_ht_entry_key_set(&slot, key.bytes, (uint16_t)key.size);
    if (ck_ht_get_spmc(&table->ht, h, &slot)) {
        const struct entry *entry = ck_ht_entry_value(&slot);
        size = entry->value_size;
        memcpy(buffer, entry->bytes + entry->key_size, entry->value_size < capacity ? entry->value_size : capacity);
    }
    (void)ck_epoch_end(&table->record[thread], NULL);
    return size;
}

static void replaced_locked(struct table *table, struct entry *old)
{
    table->bytes -= sizeof(*old) + old->key_size + old->value_size;
    ck_epoch_call(writer, &old->epoch, free_block);
}

static int set(void *store, unsigned thread, struct bench_key key, const void *value, size_t size)
{
    struct table *table = store;
    struct entry *entry = malloc(sizeof(*entry) + key.size + size);
    ck_ht_hash_t h;
    ck_ht_entry_t slot;
    (void)thread;
    if (!entry)
        return -1;
    entry->key_size = key.size;
    entry->value_size = (uint32_t)size;
    memcpy(entry->bytes, key.bytes, key.size);
    memcpy(entry->bytes + key.size, value, size);
    ck_ht_hash(&h, &table->ht, entry->bytes, (uint16_t)key.size); /* outside the lock: only the seed is read */
    ck_ht_entry_set(&slot, h, entry->bytes, (uint16_t)key.size, entry);
    pthread_mutex_lock(&table->mutex);
    int good = ck_ht_set_spmc(&table->ht, h, &slot);
    if (good) {
        table->bytes += sizeof(*entry) + key.size + size;
        if (!ck_ht_entry_empty(&slot))
            replaced_locked(table, ck_ht_entry_value(&slot));
        if (++table->writes % POLL_EVERY == 0)
            (void)ck_epoch_poll(writer);
    }
    pthread_mutex_unlock(&table->mutex);
    if (!good)
        free(entry);
    return good ? 1 : -1;
}

static uint64_t memory(void *store, uint64_t *ret_entries)
{
    struct table *table = store;
    *ret_entries = ck_ht_count(&table->ht);
    return table->bytes + *ret_entries * 2 * sizeof(ck_ht_entry_t);
}

const struct bench_engine bench_engine_ck = {
    .name = "ck-ht",
    .sentence = "Concurrency Kit's hash table: one writer, many readers, ck_epoch; never evicts",
    .open = open_table,
    .close = close_table,
    .get = get,
    .set = set,
    .memory = memory,
};
