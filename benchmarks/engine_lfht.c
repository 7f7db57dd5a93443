/* SPDX-License-Identifier: BSD-3-Clause
 *
 * liburcu's lock-free hash table, read under the flavour bp: the best C table for many readers that Debian has.  No
 * order, no eviction.  As large as it needs to be from the start, as its manual recommends where the size is known. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define URCU_INLINE_SMALL_FUNCTIONS
#define _LGPL_SOURCE /* read sections inlined: liburcu's quickest form; sanitizers would complain about its inside */
#endif
#include <urcu-bp.h>
#include <urcu/rculfhash.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "bench_engine.h"

struct entry {
    struct cds_lfht_node node;
    struct rcu_head rcu;
    uint32_t key_size, value_size;
    char bytes[]; /* key, value */
};

struct lfht {
    struct cds_lfht *table;
    struct bench_engine_config config;
};

static struct entry *entry_of(struct cds_lfht_node *node)
{
    return caa_container_of(node, struct entry, node);
}

static int matches(struct cds_lfht_node *node, const void *arg)
{
    const struct bench_key *key = arg;
    const struct entry *entry = entry_of(node);
    return entry->key_size == key->size && memcmp(entry->bytes, key->bytes, key->size) == 0;
}

static void free_later(struct rcu_head *head)
{
    free(caa_container_of(head, struct entry, rcu));
}

static void *open_table(const struct bench_engine_config *config, char *error, size_t capacity)
{
    struct lfht *lfht = calloc(1, sizeof(*lfht));
    unsigned long buckets = 64;
    while (buckets < config->keys)
        buckets *= 2;
    if (lfht) {
        lfht->config = *config;
        lfht->table = cds_lfht_new(buckets, buckets, buckets, 0, NULL);
    }
    if (!lfht || !lfht->table) {
        snprintf(error, capacity, "out of memory");
        free(lfht);
        return NULL;
    }
    return lfht;
}

static void close_table(void *store)
{
    struct lfht *lfht = store;
    struct cds_lfht_iter iterator;
    struct cds_lfht_node *node;
    urcu_bp_read_lock();
    cds_lfht_for_each(lfht->table, &iterator, node)
    {
        if (cds_lfht_del(lfht->table, node) == 0)
            urcu_bp_call_rcu(&entry_of(node)->rcu, free_later);
    }
    urcu_bp_read_unlock();
    urcu_bp_barrier();
    (void)cds_lfht_destroy(lfht->table, NULL);
    free(lfht);
}

static int64_t get(void *store, unsigned thread, struct bench_key key, void *buffer, size_t capacity)
{
    struct lfht *lfht = store;
    struct cds_lfht_iter iterator;
    int64_t size = BENCH_ABSENT;
    (void)thread;
    urcu_bp_read_lock();
    cds_lfht_lookup(lfht->table, near__hash(key.bytes, key.size, 0), matches, &key, &iterator);
    struct cds_lfht_node *node = cds_lfht_iter_get_node(&iterator);
    if (node) {
        const struct entry *entry = entry_of(node);
        size = entry->value_size;
        memcpy(buffer, entry->bytes + key.size, entry->value_size < capacity ? entry->value_size : capacity);
    }
    urcu_bp_read_unlock();
    return size;
}

static int set(void *store, unsigned thread, struct bench_key key, const void *value, size_t size)
{
    struct lfht *lfht = store;
    struct entry *entry = malloc(sizeof(*entry) + key.size + size);
    (void)thread;
    if (!entry)
        return -1;
    cds_lfht_node_init(&entry->node);
    entry->key_size = key.size;
    entry->value_size = (uint32_t)size;
    memcpy(entry->bytes, key.bytes, key.size);
    memcpy(entry->bytes + key.size, value, size);
    urcu_bp_read_lock();
    struct cds_lfht_node *old =
        cds_lfht_add_replace(lfht->table, near__hash(key.bytes, key.size, 0), matches, &key, &entry->node);
    urcu_bp_read_unlock();
    if (old)
        urcu_bp_call_rcu(&entry_of(old)->rcu, free_later);
    return 1;
}

static uint64_t memory(void *store, uint64_t *ret_entries)
{
    struct lfht *lfht = store;
    long before, after;
    unsigned long count;
    urcu_bp_read_lock();
    cds_lfht_count_nodes(lfht->table, &before, &count, &after);
    urcu_bp_read_unlock();
    *ret_entries = count;
    return count *
           (sizeof(struct entry) + lfht->config.key_size + lfht->config.value_size + sizeof(struct cds_lfht_node));
}

const struct bench_engine bench_engine_lfht = {
    .name = "cds-lfht",
    .sentence = "liburcu's lock-free hash table, flavour bp; never evicts",
    .open = open_table,
    .close = close_table,
    .get = get,
    .set = set,
    .memory = memory,
};
