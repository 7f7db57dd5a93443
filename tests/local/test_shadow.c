/* SPDX-License-Identifier: BSD-3-Clause
 * The two small caches that the policy adaptive decides by, against slow models of them. */
#include "local/local_fixture.h"

#include <stdlib.h>

#include "base/random.h"
#include "local/shadow.h"
#include "support/seed.h"

#define KEYS 600
#define ROOM 90

/* ---------------------------------------------------------------- slow models */

static struct model {
    uint64_t lru_used[KEYS]; /* 0: not there */
    uint64_t queued[KEYS], used[KEYS], order[KEYS];
    int where[KEYS], worth[KEYS]; /* 0 nowhere, 1 small, 2 main, 3 ghost */
    uint64_t now, fills, pushes;
} model;

static int oldest_of(const uint64_t *at, int where)
{
    int oldest = -1;
    for (int k = 0; k < KEYS; k++)
        if ((where < 0 ? at[k] != 0 : model.where[k] == where) && (oldest < 0 || at[k] < at[oldest]))
            oldest = k;
    return oldest;
}

static int count_of(int where)
{
    int count = 0;
    for (int k = 0; k < KEYS; k++)
        count += where < 0 ? model.lru_used[k] != 0 : model.where[k] == where;
    return count;
}

static void model_put(int key, int where)
{
    model.where[key] = where;
    model.queued[key] = model.fills;
    model.order[key] = ++model.pushes;
    model.used[key] = 0;
}

static void model_room(void)
{
    while (count_of(1) + count_of(2) >= ROOM) {
        int is_small = count_of(1) * 7 >= count_of(2), k = oldest_of(model.order, is_small ? 1 : 2);
        if (is_small && model.used[k] && (model.used[k] - model.queued[k]) * 16 > ROOM) {
            model.worth[k] = 0;
            model_put(k, 2);
        } else if (is_small) {
            model_put(k, 3);
            while (count_of(3) > ROOM - ROOM / 10)
                model.where[oldest_of(model.order, 3)] = 0;
        } else if (model.used[k] || model.worth[k]) {
            model.worth[k] += model.used[k] ? (model.worth[k] < 2) : -1;
            model_put(k, 2);
        } else {
            model.where[k] = 0;
        }
    }
}

static void model_fill(int key)
{
    model.lru_used[key] = ++model.now;
    if (count_of(-1) > ROOM)
        model.lru_used[oldest_of(model.lru_used, -1)] = 0;
    if (model.where[key] == 1 || model.where[key] == 2) {
        model.used[key] = model.fills + (model.fills == 0);
        return;
    }
    int to = model.where[key] == 3 ? 2 : 1;
    model.where[key] = 0;
    model.fills++;
    model_room();
    model.worth[key] = 0;
    model_put(key, to);
}

/* ---------------------------------------------------------------- tests */

static struct near__alloc alloc;

static uint64_t hash_of(uint32_t key)
{
    uint64_t state = key;
    return near__random_next(&state) & ~UINT64_C(0xffff);
}

static void test_hits_are_those_of_the_models(void **state)
{
    uint64_t random = test_seed(), reads = 0, lru_hits = 0, s3fifo_hits = 0;
    size_t cost;
    (void)state;
    near__alloc_init(&alloc, NULL);
    struct near__shadow *shadow = near__shadow_create(&alloc, 128, &cost);
    near__shadow_scale(shadow, ROOM);
    assert_true(near__shadow_below(shadow) == UINT64_MAX);
    for (int i = 0; i < 30000; i++) {
        uint32_t key = near__random_below(&random, KEYS);
        key = key * key / KEYS; /* low ones more often */
        if (i % 3 == 0)
            key = (uint32_t)(i / 3) % KEYS;
        int lru = model.lru_used[key] != 0, s3fifo = model.where[key] == 1 || model.where[key] == 2;
        int is_read = near__random_below(&random, 10) != 0;
        near__shadow_see(shadow, hash_of(key), is_read ? NEAR_SEEN_HIT : NEAR_SEEN_FILL);
        model_fill((int)key);
        reads += (uint64_t)is_read;
        lru_hits += (uint64_t)(is_read && lru);
        s3fifo_hits += (uint64_t)(is_read && s3fifo);
    }
    struct near__shadow_tally tally = near__shadow_tally(shadow);
    assert_int_equal(tally.reads, reads);
    assert_int_equal(tally.lru_hits, lru_hits);
    assert_int_equal(tally.s3fifo_hits, s3fifo_hits);
    assert_true(lru_hits > 1000 && s3fifo_hits > 1000 && lru_hits != s3fifo_hits);
    near__shadow_destroy(&alloc, shadow);
}

/* What does not exist is never filled, so no cache would answer it. */
static void test_misses_without_a_fill_bring_nothing_in(void **state)
{
    size_t cost;
    (void)state;
    near__alloc_init(&alloc, NULL);
    struct near__shadow *shadow = near__shadow_create(&alloc, 128, &cost);
    near__shadow_scale(shadow, ROOM);
    for (int i = 0; i < 100; i++)
        near__shadow_see(shadow, hash_of(7), NEAR_SEEN_MISS);
    assert_int_equal(near__shadow_tally(shadow).lru_hits, 0);
    near__shadow_see(shadow, hash_of(7), NEAR_SEEN_FILL);
    near__shadow_see(shadow, hash_of(7), NEAR_SEEN_HIT);
    assert_int_equal(near__shadow_tally(shadow).lru_hits, 1);
    assert_int_equal(near__shadow_tally(shadow).s3fifo_hits, 1);
    assert_int_equal(near__shadow_tally(shadow).reads, 101);
    near__shadow_destroy(&alloc, shadow);
}

/* Growing and shrinking over many orders of magnitude: the sample follows, and no node is lost or used twice (the
 * sanitizers look). */
static void test_the_sample_follows_the_size(void **state)
{
    uint64_t random = test_seed(), sizes[] = {100, 1000, 100000, 10000000, 50000, 300, 1, 4000};
    size_t cost;
    (void)state;
    near__alloc_init(&alloc, NULL);
    struct near__shadow *shadow = near__shadow_create(&alloc, 256, &cost);
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        near__shadow_scale(shadow, sizes[s]);
        double share = (double)near__shadow_below(shadow) / (double)UINT64_MAX;
        assert_true(share * (double)sizes[s] <= 256);
        assert_true(share > 0.99 || share * (double)sizes[s] >= 32);
        for (int i = 0; i < 20000; i++) {
            uint64_t hash = near__random_next(&random) & ~UINT64_C(0xffff);
            hash = (uint64_t)((double)hash * share);
            near__shadow_see(shadow, hash & ~UINT64_C(0xffff), (enum near__seen)near__random_below(&random, 3));
        }
    }
    near__shadow_destroy(&alloc, shadow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hits_are_those_of_the_models),
        cmocka_unit_test(test_misses_without_a_fill_bring_nothing_in),
        cmocka_unit_test(test_the_sample_follows_the_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
