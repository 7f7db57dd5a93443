/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The keys that were read last, for a snapshot to warm another process with.
 *
 * Two walks over the index.  The first counts entries by age, which tells the age that the youngest `most` of them have at most;
 * the second copies keys of at most that age.  A walk goes through the hash's range in steps, each of a few buckets and in a
 * read section of its own, in every table that there is: order is preserved between sizes, so a table that is replaced between two steps
 * does no harm, but that an entry which moves may be met twice or not at all. */
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "local/rcu.h"
#include "local/tier.h"

#define STEP_BUCKETS 64u
#define AGES (1u << 16)

struct hot {
    uint32_t age, size;
    size_t offset; /* in bytes */
};

struct walk {
    uint16_t tick;
    uint32_t *ages; /* first walk: how many entries of each age */
    uint32_t oldest;
    size_t most, count;
    struct hot *hot;
    struct near__buffer bytes;
};

static void visit(struct walk *walk, const struct near__entry *entry)
{
    uint32_t age = near__entry_age(entry, walk->tick);
    if (!walk->hot) {
        walk->ages[age]++;
        return;
    }
    if (age > walk->oldest || walk->count == walk->most)
        return;
    size_t size = near__entry_key_size(entry);
    walk->hot[walk->count++] = (struct hot){.age = age, .size = (uint32_t)size, .offset = walk->bytes.size};
    near__buffer_append(&walk->bytes, entry->bytes, size);
}

static void visit_bucket(struct walk *walk, const struct near__bucket *bucket)
{
    for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++) {
        uint64_t word = near__step_load(&bucket->slot[i]);
        if (word && !near__word_is_tentative(word))
            visit(walk, near__word_entry(word));
    }
}

/* The buckets of the hashes from `at` on; where the next step begins, 0 after the last. */
static uint64_t step(struct near__local *local, struct walk *walk, uint64_t at)
{
    near__local_section_enter();
    const struct near__tables *tables = near__index_tables(&local->index);
    uint64_t largest = 1;
    for (unsigned i = 0; i < tables->spans; i++)
        if (tables->span[i].count > largest)
            largest = tables->span[i].count;
    uint64_t width = largest > STEP_BUCKETS ? UINT64_MAX / largest * STEP_BUCKETS : UINT64_MAX;
    int is_last = at > UINT64_MAX - width;
    uint64_t next = is_last ? 0 : at + width;
    for (unsigned i = 0; i < tables->spans; i++) {
        const struct near__span *span = &tables->span[i];
        uint64_t first = (uint64_t)(near__span_bucket(span, at) - span->bucket);
        uint64_t end = is_last ? span->count : (uint64_t)(near__span_bucket(span, next) - span->bucket);
        for (; first < end; first++)
            visit_bucket(walk, &span->bucket[first]);
    }
    near__local_section_leave();
    return next;
}

static void walk_all(struct near__local *local, struct walk *walk)
{
    uint64_t at = 0;
    walk->tick = near__tier_tick(local, near__now(local->clock));
    do
        at = step(local, walk, at);
    while (at);
}

static int by_age(const void *a, const void *b)
{
    uint32_t x = ((const struct hot *)a)->age, y = ((const struct hot *)b)->age;
    return (x > y) - (x < y);
}

/* After the first walk: the age that `most` entries have at most, and how many have. */
static size_t choose(struct walk *walk)
{
    uint64_t entries = 0;
    for (walk->oldest = 0; walk->oldest < AGES - 1; walk->oldest++) {
        entries += walk->ages[walk->oldest];
        if (entries >= walk->most)
            break;
    }
    return entries < walk->most ? (size_t)entries : walk->most;
}

int near__local_hottest(struct near__local *local, size_t most, near__local_hottest_fn fn, void *arg)
{
    struct walk walk = {.most = most, .ages = near__alloc_zero(local->alloc, AGES * sizeof(*walk.ages))};
    int status = NEAR_ERR_NOMEM;
    near__buffer_init(&walk.bytes, local->alloc);
    if (walk.ages) {
        walk_all(local, &walk);
        walk.most = choose(&walk);
        walk.hot = near__alloc(local->alloc, (walk.most + 1) * sizeof(*walk.hot));
    }
    if (walk.hot) {
        walk_all(local, &walk);
        status = walk.bytes.failed ? NEAR_ERR_NOMEM : NEAR_OK;
    }
    if (status == NEAR_OK) {
        qsort(walk.hot, walk.count, sizeof(*walk.hot), by_age);
        for (size_t i = 0; i < walk.count; i++)
            fn(arg, walk.bytes.data + walk.hot[i].offset, walk.hot[i].size);
    }
    near__buffer_fini(&walk.bytes);
    near__free(local->alloc, walk.hot);
    near__free(local->alloc, walk.ages);
    return status;
}
