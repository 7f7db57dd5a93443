/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The keys that were read last, for a snapshot to warm another process with.
 *
 * Two walks over the tier (walk.c).  The first counts entries by age, which tells the age that the youngest `most` of
 * them have at most; the second copies keys of at most that age, and of just that age only as many as the younger ones
 * leave room for: very many may have it, and those that come first in the tier must not take the place of hotter ones.
 * Both reckon from the same tick, by which an entry can only become younger meanwhile. */
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
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
    size_t of_oldest; /* room for so many more of that age */
    size_t most, count;
    struct hot *hot;
    struct near__buffer bytes;
};

static void visit(void *arg, const struct near__entry *entry)
{
    struct walk *walk = arg;
    uint32_t age = near__entry_age(entry, walk->tick);
    if (!walk->hot) {
        walk->ages[age]++;
        return;
    }
    if (age > walk->oldest || (age == walk->oldest && !walk->of_oldest) || walk->count == walk->most)
        return;
    walk->of_oldest -= age == walk->oldest;
    size_t size = near__entry_key_size(entry);
    walk->hot[walk->count++] = (struct hot){.age = age, .size = (uint32_t)size, .offset = walk->bytes.size};
    near__buffer_append(&walk->bytes, entry->bytes, size);
}

static void walk_all(struct near__local *local, struct walk *walk)
{
    uint64_t at = 0;
    do
        at = near__tier_walk(local, at, STEP_BUCKETS, visit, walk);
    while (at);
}

static int by_age(const void *a, const void *b)
{
    uint32_t x = ((const struct hot *)a)->age, y = ((const struct hot *)b)->age;
    return (x > y) - (x < y);
}

/* After the first walk: the age that `most` entries have at most, how many have, and how many of them just that. */
static void choose(struct walk *walk)
{
    uint64_t younger = 0;
    for (walk->oldest = 0; walk->oldest < AGES - 1; walk->oldest++) {
        if (younger + walk->ages[walk->oldest] >= walk->most)
            break;
        younger += walk->ages[walk->oldest];
    }
    uint64_t entries = younger + walk->ages[walk->oldest];
    walk->most = entries < walk->most ? (size_t)entries : walk->most;
    walk->of_oldest = walk->most - (size_t)younger;
}

int near__local_hottest(struct near__local *local, size_t most, near__local_hottest_fn fn, void *arg)
{
    struct walk walk = {.most = most, .ages = near__alloc_zero(local->alloc, AGES * sizeof(*walk.ages))};
    int status = NEAR_ERR_NOMEM;
    near__buffer_init(&walk.bytes, local->alloc);
    walk.tick = near__tier_tick(local, near__now(local->clock));
    if (walk.ages) {
        walk_all(local, &walk);
        choose(&walk);
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
