/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One line: what the least index by hash costs.  The array of `floor`, whose places are found in buckets of one line,
 * eight tags that are compared at once and eight places.  Nothing is ever removed or moved, so a reader needs no read
 * section, no proof, no clock, no stamp and no count: what a cache pays beyond this is what it pays for being one.
 * Buckets and entries are in huge pages.
 *
 * A bucket that is full goes on in the next one. */
#include <stdio.h>
#include <stdlib.h>

#include "base/hash.h"
#include "bench_entry.h"
#include "bench_tags.h"

#define LOAD 4 /* keys a bucket on average: 1 in 200 is in another than its own */

struct bucket {
    _Alignas(64) _Atomic(uint16_t) tag[BENCH_TAGS]; /* 0: empty, or on its way; written last */
    _Atomic(uint32_t) place[BENCH_TAGS];            /* a key's number + 1; 0: empty */
};

struct line {
    struct bucket *buckets;
    uint64_t count;
    struct bench_entries entries;
    struct near__secrets secrets;
};

static void close_line(void *store)
{
    struct line *line = store;
    free(line->buckets);
    free(line->entries.memory);
    free(line);
}

static void *open_line(const struct bench_engine_config *config, char *error, size_t capacity)
{
    struct line *line = calloc(1, sizeof(*line));
    if (line) {
        line->secrets = near__secrets(config->keys);
        line->count = config->keys / LOAD + 1;
        line->buckets = bench_huge(line->count * sizeof(struct bucket));
        line->entries = bench_entries_for(config);
        line->entries.memory = bench_huge(line->entries.count * line->entries.stride);
    }
    if (!line || !line->buckets || !line->entries.memory) {
        snprintf(error, capacity, "out of memory");
        if (line)
            close_line(line);
        return NULL;
    }
    return line;
}

/* Nobody has come past a bucket whose last slot is empty. */
static inline int is_full(const struct bucket *bucket)
{
    return atomic_load_explicit(&bucket->place[BENCH_TAGS - 1], memory_order_relaxed) != 0;
}

static int64_t get(void *store, unsigned thread, struct bench_key key, void *buffer, size_t capacity)
{
    const struct line *line = store;
    uint64_t hash = near__key_hash(key.bytes, key.size, &line->secrets);
    (void)thread;
    for (uint64_t b = bench_home(hash, line->count);; b = b + 1 < line->count ? b + 1 : 0) {
        const struct bucket *bucket = &line->buckets[b];
        for (unsigned bits = bench_match(bucket->tag, bench_tag_of(hash)); bits; bits = bench_match_rest(bits)) {
            uint32_t place = atomic_load_explicit(&bucket->place[bench_match_place(bits)], memory_order_relaxed);
            int64_t size = bench_entry_read(bench_entry_at(&line->entries, place - 1), key, buffer, capacity);
            if (size != BENCH_ABSENT)
                return size;
        }
        if (!is_full(bucket))
            return BENCH_ABSENT;
    }
}

/* The key's place, in the first slot that is empty; two threads may put the same there twice. */
static void enter(struct line *line, struct bench_key key)
{
    uint64_t hash = near__key_hash(key.bytes, key.size, &line->secrets);
    for (uint64_t b = bench_home(hash, line->count);; b = b + 1 < line->count ? b + 1 : 0)
        for (unsigned i = 0; i < BENCH_TAGS; i++) {
            struct bucket *bucket = &line->buckets[b];
            uint32_t place = 0;
            if (atomic_compare_exchange_strong_explicit(&bucket->place[i], &place, key.number + 1, memory_order_relaxed,
                                                        memory_order_relaxed)) {
                /* release: pairs with bench_match */
                atomic_store_explicit(&bucket->tag[i], bench_tag_of(hash), memory_order_release);
                return;
            }
            if (place == key.number + 1)
                return;
        }
}

static int set(void *store, unsigned thread, struct bench_key key, const void *value, size_t size)
{
    struct line *line = store;
    int done = bench_entry_write(&line->entries, key, value, size);
    (void)thread;
    if (done > 0)
        enter(line, key);
    return done;
}

static uint64_t memory(void *store, uint64_t *ret_entries)
{
    const struct line *line = store;
    return bench_entries_count(&line->entries, ret_entries) + line->count * sizeof(struct bucket);
}

const struct bench_engine bench_engine_line = {
    .name = "one-line",
    .sentence = "the array behind the least index by hash, a line of tags and places a bucket; never evicts or removes",
    .open = open_line,
    .close = close_line,
    .get = get,
    .set = set,
    .memory = memory,
};
