/* SPDX-License-Identifier: BSD-3-Clause
 * The online miss-ratio curve against exact LRU at many sizes: mean absolute error at most 0.02, whatever the load. */
#include "local/local_fixture.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/random.h"
#include "local/curve.h"
#include "local/tier.h"
#include "support/seed.h"

#define SAMPLE 16384 /* keys: what a tier of 32 MiB has */
#define REQUESTS SCALE(300000u, 60000u)

static struct near__alloc alloc;

static uint64_t hash_seed = 0x5eed;
static uint64_t hash_of(uint32_t key)
{
    uint64_t state = key ^ hash_seed;
    return near__random_next(&state) & ~UINT64_C(0xffff);
}
static uint64_t large; /* one key in 64 takes so much, on top; 350 bytes is the mean of the others */
static uint64_t bytes_of(uint32_t key)
{
    return 50 + key % 7 * 100 + (key % 64 == 63 ? large : 0);
}

/* ---------------------------------------------------------------- exact LRU: the distance of every request */

struct exact {
    uint32_t keys;
    uint64_t *tree_keys, *tree_bytes;
    uint32_t *last;               /* of a key; 0: not yet */
    uint64_t *by_keys, *by_bytes; /* of each request; UINT64_MAX: first */
};

static void add(uint64_t *tree, uint32_t at, uint64_t what)
{
    for (; at <= REQUESTS; at += at & -at)
        tree[at] += what;
}
static uint64_t sum(const uint64_t *tree, uint32_t at)
{
    uint64_t all = 0;
    for (; at; at -= at & -at)
        all += tree[at];
    return all;
}

static void measure(struct exact *e, const uint32_t *trace, uint32_t keys)
{
    *e = (struct exact){.keys = keys};
    e->tree_keys = calloc(REQUESTS + 1, sizeof(uint64_t));
    e->tree_bytes = calloc(REQUESTS + 1, sizeof(uint64_t));
    e->last = calloc(keys, sizeof(uint32_t));
    e->by_keys = calloc(REQUESTS, sizeof(uint64_t));
    e->by_bytes = calloc(REQUESTS, sizeof(uint64_t));
    for (uint32_t i = 0; i < REQUESTS; i++) {
        uint32_t k = trace[i], before = e->last[k];
        e->by_keys[i] = e->by_bytes[i] = UINT64_MAX;
        if (before) {
            e->by_keys[i] = sum(e->tree_keys, i) - sum(e->tree_keys, before - 1);
            e->by_bytes[i] = sum(e->tree_bytes, i) - sum(e->tree_bytes, before - 1);
            add(e->tree_keys, before, (uint64_t)-1);
            add(e->tree_bytes, before, -bytes_of(k));
        }
        e->last[k] = i + 1;
        add(e->tree_keys, i + 1, 1);
        add(e->tree_bytes, i + 1, bytes_of(k));
    }
}

static double ratio(const uint64_t *distance, uint64_t size)
{
    uint32_t hits = 0;
    for (uint32_t i = 0; i < REQUESTS; i++)
        hits += distance[i] <= size;
    return (double)hits / REQUESTS;
}

static void finish(struct exact *e)
{
    free(e->tree_keys);
    free(e->tree_bytes);
    free(e->last);
    free(e->by_keys);
    free(e->by_bytes);
}

/* ---------------------------------------------------------------- the curve on the same requests */

/* One of 32 requests is in a burst, and more at first, as in a tier. */
static int is_in_burst(uint32_t i)
{
    uint32_t one_in = i >> 15;
    return i / NEAR_BURST % (one_in < 4 ? 4 : one_in < 32 ? one_in : 32) == 1;
}

static void show(struct near__curve *curve, uint32_t i, uint64_t hash, uint64_t bytes)
{
    if (!is_in_burst(i)) {
        if (hash < near__curve_below(curve))
            near__curve_see(curve, hash, NEAR_SEEN_HIT, bytes, i + 1);
        return;
    }
    near__curve_see_burst(curve, hash, NEAR_SEEN_HIT, bytes, i + 1);
    if (near__bursts_is_full(near__curve_bursts(curve)))
        near__bursts_learn(near__curve_bursts(curve));
}

static void compare_sampled(const char *what, const uint32_t *trace, uint32_t keys, uint32_t sample, double most)
{
    struct exact exact;
    size_t cost;
    double error = 0, error_bytes = 0;
    int sizes = 0;
    struct near__curve *curve = near__curve_create(&alloc, sample, &cost);
    assert_true(cost < 1 << 20);
    measure(&exact, trace, keys);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        show(curve, i, hash_of(trace[i]), bytes_of(trace[i]));
        near__curve_expect(curve, near__curve_share(curve));
    }
    for (double size = keys / 1000.0; size < keys * 1.5; size *= 1.5, sizes++) {
        uint64_t entries = (uint64_t)size + 1, bytes = entries * (350 + large / 64);
        double by_entries = near__curve_hit_ratio(curve, entries, UINT64_MAX);
        double by_bytes = near__curve_hit_ratio(curve, UINT64_MAX, bytes);
        error += fabs(by_entries - ratio(exact.by_keys, entries));
        error_bytes += fabs(by_bytes - ratio(exact.by_bytes, bytes));
    }
    print_message("# %s, %u keys, sample of %u: mean absolute error %.4f by entries, %.4f by bytes\n", what, keys,
                  near__curve_keys(curve), error / sizes, error_bytes / sizes);
    assert_true(error / sizes <= most);
    assert_true(error_bytes / sizes <= most);
    finish(&exact);
    near__curve_destroy(&alloc, curve);
}

static void compare(const char *what, const uint32_t *trace, uint32_t keys, double most)
{
    compare_sampled(what, trace, keys, SAMPLE, most);
}

static uint32_t *make_zipf(uint32_t keys, double skew, uint64_t seed)
{
    double *sums = malloc(keys * sizeof(*sums)), total = 0;
    uint32_t *trace = malloc(REQUESTS * sizeof(*trace));
    for (uint32_t k = 0; k < keys; k++)
        sums[k] = total += pow(k + 1, -skew);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        double at = (double)(near__random_next(&seed) >> 11) * 0x1p-53 * total;
        uint32_t low = 0, high = keys - 1;
        while (low < high) {
            uint32_t middle = low + (high - low) / 2;
            if (sums[middle] < at)
                low = middle + 1;
            else
                high = middle;
        }
        trace[i] = low;
    }
    free(sums);
    return trace;
}

static void test_the_curve_is_that_of_exact_LRU(void **state)
{
    static const struct {
        uint32_t keys;
        double skew;
    } loads[] = {{1000, 0.9}, {20000, 0.99}, {60000, 0.7}};
    (void)state;
    for (size_t i = 0; i < sizeof(loads) / sizeof(loads[0]); i++) {
        uint32_t *trace = make_zipf(loads[i].keys, loads[i].skew, 60 + i);
        compare("zipf", trace, loads[i].keys, 0.02);
        free(trace);
    }
}

static void test_also_with_scans_loops_and_a_shifting_hot_set(void **state)
{
    uint32_t *trace = make_zipf(10000, 0.9, 70);
    (void)state;
    for (uint32_t i = 0; i < REQUESTS; i += 3)
        trace[i] = 10000 + i % 30000;
    compare("scans", trace, 40000, 0.02);
    for (uint32_t i = 0; i < REQUESTS; i++)
        trace[i] = i % 9000;
    compare("loop", trace, 9000, 0.02);
    free(trace);
    trace = make_zipf(5000, 0.8, 71);
    for (uint32_t i = 0; i < REQUESTS; i++)
        trace[i] += i / 20000 * 1000;
    compare("shift", trace, 5000 + (REQUESTS / 20000 + 1) * 1000, 0.02);
    free(trace);
}

/* Sixty keys have half of the reads: which of them are in the sample is chance, and so would be the curve. */
static void test_also_when_few_keys_have_half_of_the_reads(void **state)
{
    uint32_t *trace = malloc(REQUESTS * sizeof(*trace));
    uint64_t random = 73;
    (void)state;
    for (uint32_t i = 0; i < REQUESTS; i++)
        trace[i] = i % 2 ? near__random_below(&random, 60) : 60 + near__random_below(&random, 30000);
    for (uint64_t i = 1; i <= 6; i++) {
        hash_seed = i << 32;
        compare("two pools", trace, 30060, SCALE(0.006, 0.02));
    }
    free(trace);
}

/* Of Zipf 1.0 one key has a twelfth of the reads, and the first hundred nearly half. */
static void test_whichever_hot_keys_are_in_the_sample(void **state)
{
    static const struct {
        uint32_t keys;
        double skew;
    } loads[] = {{300000, 0.8}, {100000, 1.0}, {1000000, 0.99}};
    (void)state;
    for (size_t i = 0; i < sizeof(loads) / sizeof(loads[0]); i++) {
        uint32_t *trace = make_zipf(loads[i].keys, loads[i].skew, 80 + i);
        for (uint64_t seed = 1; seed <= 6; seed++) {
            hash_seed = seed << 32;
            compare("zipf", trace, loads[i].keys, SCALE(0.013, 0.03));
            compare_sampled("zipf", trace, loads[i].keys, 1024, SCALE(0.025, 0.06)); /* one in some hundred */
        }
        free(trace);
    }
}

/* The first bursts are all in the half of the time in which hot keys are read. */
static void test_also_when_bursts_meet_one_phase_of_the_load(void **state)
{
    uint32_t *trace = make_zipf(20000, 0.9, 74);
    (void)state;
    for (uint32_t i = 0; i < REQUESTS; i++)
        if (i / (2 * NEAR_BURST) % 2)
            trace[i] = i % 30000;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        hash_seed = seed << 32;
        compare("phases", trace, 30000, 0.02);
    }
    free(trace);
}

static void test_a_few_bursts_that_are_alike_prove_little(void **state)
{
    static struct near__bursts bursts;
    uint64_t random = 76;
    double variance;
    (void)state;
    for (unsigned n = 1; n <= 60; n++) {
        while (!near__bursts_is_full(&bursts))
            near__bursts_see(&bursts, hash_of(near__random_below(&random, 1000)), NEAR_SEEN_HIT, 100);
        near__bursts_learn(&bursts);
        double share = near__bursts_share(&bursts, &variance);
        assert_true(share > 0.35 && share < 0.45); /* 1 - exp(-512/1000) */
        if (n <= 3)
            assert_true(variance > 0.005);
    }
    assert_true(variance < 0.0001);
}

/* A hot key outside the sample, and no burst yet. */
static void test_reads_that_the_sample_misses_came_soon(void **state)
{
    size_t cost;
    uint64_t random = 77;
    struct near__curve *curve = near__curve_create(&alloc, 1024, &cost);
    (void)state;
    for (uint32_t i = 0; i < 100000; i++) {
        uint64_t hash = hash_of(near__random_below(&random, 20000));
        if (hash < near__curve_below(curve))
            near__curve_see(curve, hash, NEAR_SEEN_HIT, 100, 2 * i);
        near__curve_expect(curve, 2 * near__curve_share(curve)); /* the other one is the hot key's */
    }
    double ratio = near__curve_hit_ratio(curve, 100, UINT64_MAX);
    assert_true(ratio > 0.47 && ratio < 0.53);
    near__curve_destroy(&alloc, curve);
}

/* Eight threads loop, each over 400 keys of its own: in a burst of one of them all reads are soon ones, among the reads
 * of all none is. */
static void test_bursts_of_keys_that_one_thread_has_for_itself_are_odd(void **state)
{
    size_t cost;
    struct near__curve *curve = near__curve_create(&alloc, 1024, &cost);
    (void)state;
    for (uint32_t i = 0; i < 200000; i++) {
        uint32_t thread = i % 8;
        uint64_t hash = hash_of(thread * 400 + i / 8 % 400);
        if (thread == 0 && near__curve_share(curve) < 1)
            near__curve_see_burst(curve, hash, NEAR_SEEN_HIT, 100, i);
        else if (hash < near__curve_below(curve))
            near__curve_see(curve, hash, NEAR_SEEN_HIT, 100, i);
        near__curve_expect(curve, near__curve_share(curve));
        if (near__bursts_is_full(near__curve_bursts(curve)))
            near__bursts_learn(near__curve_bursts(curve));
    }
    double ratio = near__curve_hit_ratio(curve, 1000, UINT64_MAX);
    print_message("# odd: %.3f\n", ratio);
    assert_true(ratio < 0.1);
    near__curve_destroy(&alloc, curve);
}

static void test_also_where_a_few_values_have_most_of_the_bytes(void **state)
{
    uint32_t *trace = make_zipf(100000, 0.9, 75);
    (void)state;
    large = 60000;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        hash_seed = seed << 32;
        compare_sampled("large values", trace, 100000, 4096, 0.05);
    }
    large = 0;
    free(trace);
}

/* ---------------------------------------------------------------- keys that come and go */

enum { CHURN = 20000000, SET = 200000, ENTRY = 200, BUDGET = 4 << 20, OF_BUDGET = 2048 };

/* Half of the reads are for keys that never come again, the others for a random one of the trace. */
static void churn(struct near__curve *curve, const uint32_t *trace, uint32_t reads, uint64_t bytes)
{
    static uint32_t once = SET;
    uint64_t random = 90;
    for (uint32_t i = 0; i < reads; i++) {
        uint32_t key = i % 2 ? once++ : trace[near__random_below(&random, REQUESTS)];
        show(curve, i, hash_of(key), bytes);
        near__curve_expect(curve, near__curve_share(curve));
        if (i % 65536 == 0)
            near__curve_thicken(curve);
    }
}

/* Of LRU with so many entries: what was read in the last `reads` reads is there, and that is as many (Che, Tung and
 * Wang, 2002; exact for many independent reads). */
static double ratio_of_churn(const uint32_t *of_key, double entries)
{
    double reads = 0, step = SET, there, hits;
    for (; step > 1; step /= 2) {
        there = (reads + step) / 2;
        for (uint32_t k = 0; k < SET; k++)
            there -= of_key[k] ? expm1(-(reads + step) / 2 * of_key[k] / REQUESTS) : 0;
        reads += there < entries ? step : 0;
    }
    hits = 0;
    for (uint32_t k = 0; k < SET; k++)
        hits -= of_key[k] ? of_key[k] * expm1(-reads / 2 * of_key[k] / REQUESTS) : 0;
    return hits / 2 / REQUESTS;
}

static double error_of_churn(const struct near__curve *curve, const uint32_t *of_key)
{
    double error = 0;
    int sizes = 0;
    for (uint64_t size = BUDGET / 32; size <= 4 * BUDGET; size *= 2, sizes++)
        error += fabs(near__curve_hit_ratio(curve, UINT64_MAX, size) - ratio_of_churn(of_key, (double)size / ENTRY));
    return error / sizes;
}

/* A sample that is only ever thinned has a few keys of the set at last. */
static void test_also_after_tens_of_millions_of_keys_that_never_come_again(void **state)
{
    uint32_t *trace = make_zipf(SET, 0.9, 91), *of_key = calloc(SET, sizeof(*of_key));
    (void)state;
    for (uint32_t i = 0; i < REQUESTS; i++)
        of_key[trace[i]]++;
    for (uint64_t seed = 1; seed <= 2; seed++) {
        size_t cost;
        struct near__curve *curve = near__curve_create(&alloc, OF_BUDGET, &cost);
        hash_seed = seed << 32;
        near__curve_reach(curve, UINT64_MAX, 4 * BUDGET);
        churn(curve, trace, SCALE(CHURN, CHURN / 50), ENTRY);
        double error = error_of_churn(curve, of_key);
        print_message("# churn: 1/%.0f of the keys, mean absolute error %.4f\n", 1 / near__curve_share(curve), error);
        assert_true(error <= SCALE(0.02, 0.06));
        near__curve_destroy(&alloc, curve);
    }
    free(of_key);
    free(trace);
}

/* Of large entries it takes few to reach as far back, so more keys can be in the sample. */
static void test_a_sample_that_reaches_too_far_back_takes_more_keys(void **state)
{
    uint32_t *trace = make_zipf(SET, 0.9, 92);
    size_t cost;
    struct near__curve *curve = near__curve_create(&alloc, 1024, &cost);
    (void)state;
    near__curve_reach(curve, UINT64_MAX, 4 * BUDGET);
    churn(curve, trace, SCALE(4000000, 1000000), 100);
    double share = near__curve_share(curve);
    churn(curve, trace, SCALE(4000000, 1000000), 20 * 100);
    print_message("# 1/%.0f of the keys, with larger entries 1/%.0f\n", 1 / share, 1 / near__curve_share(curve));
    assert_true(near__curve_share(curve) >= 4 * share);
    assert_true(near__curve_keys(curve) <= 1024);
    near__curve_destroy(&alloc, curve);
    free(trace);
}

/* ---------------------------------------------------------------- in a tier */

static void replay_tier(struct fixture *f, const uint32_t *trace)
{
    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct near__view view;
        if (near__local_copy(f->local, f->reader, &trace[i], 4, ANY_BOUND, 0, NULL, 0, &view) == NEAR_LOCAL_HIT)
            continue;
        struct near__ticket t = near__local_ticket(f->local, &trace[i], 4);
        near__local_install(f->local, f->reader, t, &trace[i], 4, "value", 5, i + 1, -1, near__now(&f->clock));
    }
}

/* What the tier was asked for tells what other sizes would do, whatever the size it has. */
static void test_a_tier_advises(void **state)
{
    uint32_t *trace = make_zipf(20000, 0.9, 72);
    struct exact exact;
    struct fixture f;
    (void)state;
    measure(&exact, trace, 20000);
    fixture_init(&f);
    f.config.entries_max = 2000;
    f.config.bytes_max = 64u << 20;
    f.config.curve = 1;
    fixture_start(&f);
    double advised;
    assert_int_equal(near__local_advise(f.local, 100, UINT64_MAX, &advised), NEAR_MISS);
    replay_tier(&f, trace);
    for (uint64_t size = 250; size <= 16000; size *= 2) {
        assert_int_equal(near__local_advise(f.local, size, UINT64_MAX, &advised), NEAR_OK);
        print_message("# %lu entries: exact %.3f, advised %.3f\n", (unsigned long)size, ratio(exact.by_keys, size),
                      advised);
        assert_true(fabs(advised - ratio(exact.by_keys, size)) < 0.03);
    }
    fixture_close(&f);
    fixture_open(&f);
    assert_int_equal(near__local_advise(f.local, 100, UINT64_MAX, &advised), NEAR_ERR_UNSUPPORTED);
    fixture_close(&f);
    finish(&exact);
    free(trace);
}

/* Reads of what does not exist are misses at any size. */
static void test_what_does_not_exist_is_a_miss_at_any_size(void **state)
{
    struct fixture f;
    double advised;
    (void)state;
    fixture_init(&f);
    f.config.curve = 1;
    fixture_start(&f);
    assert_int_equal(put(&f, "there", "v", 1), 1);
    for (int i = 0; i < 1000; i++) {
        get(&f, "there");
        get(&f, "not there");
    }
    assert_int_equal(near__local_advise(f.local, 1000000, UINT64_MAX, &advised), NEAR_OK);
    assert_true(advised > 0.45 && advised < 0.55);
    fixture_close(&f);
}

enum { LIVES = 200000, HOUR_MS = 3600000 };
static void fill_with_lives(struct fixture *f, uint32_t keys, int64_t ttl_ms)
{
    static const char value[40];
    for (uint32_t key = 0; key < keys; key++) {
        struct near__ticket t = near__local_ticket(f->local, &key, 4);
        near__local_install(f->local, f->reader, t, &key, 4, value, sizeof(value), key + 1, ttl_ms,
                            near__now(&f->clock));
        if (key % 256 == 0)
            near__local_keep(f->local); /* the index grows */
    }
}

/* With so many keys of that life, or of none (-1). */
static void tier_with_lives(struct fixture *f, uint32_t keys, int64_t ttl_ms)
{
    fixture_init(f);
    f->config.curve = 1;
    f->config.bytes_max = 64u << 20;
    fixture_start(f);
    fill_with_lives(f, keys, ttl_ms);
}

/* How many of them a tier holds that has been made as small as that, while all are filled once more. */
static uint32_t entries_of_smaller(uint64_t bytes, int64_t ttl_ms)
{
    struct fixture f;
    near_stats stats = {.size = sizeof(stats)};
    tier_with_lives(&f, LIVES, ttl_ms);
    near__local_resize(f.local, bytes, NEAR_LIMIT_KEPT);
    do {
        near__local_keep(f.local);
        near__local_stats(f.local, &stats);
    } while (stats.local_resize_permille < 1000);
    fill_with_lives(&f, LIVES, ttl_ms);
    near__local_stats(f.local, &stats);
    fixture_close(&f);
    return (uint32_t)stats.local_entries;
}

/* A size in bytes means the entries that this tier would hold: header, expiry, rounding and index included. */
static void test_bytes_are_those_that_entries_take(void **state)
{
    const uint64_t small = 8u << 20;
    (void)state;
    for (int64_t ttl_ms = -1; ttl_ms <= HOUR_MS; ttl_ms += HOUR_MS + 1) {
        struct fixture f;
        uint64_t random = 5;
        uint32_t fit = entries_of_smaller(small, ttl_ms);
        tier_with_lives(&f, 2 * fit, ttl_ms);
        for (unsigned i = 0; i < 6 * fit; i++) {
            struct near__view view;
            uint32_t key = near__random_below(&random, 2 * fit);
            (void)near__local_copy(f.local, f.reader, &key, 4, ANY_BOUND, 0, NULL, 0, &view);
            if (i % 512 == 0)
                near__local_keep(f.local); /* takes what the rings have */
        }
        double advised;
        assert_int_equal(near__local_advise(f.local, UINT64_MAX, small, &advised), NEAR_OK);
        print_message("# time to live %ld ms: half of %u keys fit, advised %.3f\n", (long)ttl_ms, 2 * fit, advised);
        assert_true(fabs(advised - 0.5) < 0.012);
        fixture_close(&f);
    }
}

/* All keys are there, and a part of them in the sample. */
static void tier_with_a_sample(struct fixture *f, uint32_t keys, uint64_t bytes_max)
{
    fixture_init(f);
    f->config.curve = 1;
    f->config.bytes_max = bytes_max;
    fixture_start(f);
    for (uint32_t key = 0; key < keys; key++) {
        struct near__ticket t = near__local_ticket(f->local, &key, 4);
        assert_int_equal(
            near__local_install(f->local, f->reader, t, &key, 4, "value", 5, key + 1, -1, near__now(&f->clock)), 1);
        if (key % 256 == 0)
            near__local_keep(f->local); /* the index grows */
    }
    assert_true(near__curve_share(f->local->curve) < 0.5);
}

enum { KEYS = 12000 };
static void read_on(struct fixture *f, struct near__reader *reader, uint32_t reads)
{
    struct near__view view;
    static uint32_t key;
    for (; reads; reads--, key = (key + 7919) % KEYS)
        (void)near__local_copy(f->local, reader, &key, 4, ANY_BOUND, 0, NULL, 0, &view);
}

/* Of threads that are gone.  The test's own thread reads with them, so that rings fill as it says. */
enum { READERS_MAX = 8 };
struct readers {
    struct fixture *f;
    pthread_barrier_t all_have_one;
    _Atomic(unsigned) count;
    struct near__reader *of[READERS_MAX];
};
static void *get_reader(void *arg)
{
    struct readers *readers = arg;
    readers->of[atomic_fetch_add(&readers->count, 1)] = near__local_reader(readers->f->local);
    pthread_barrier_wait(&readers->all_have_one);
    return NULL;
}
static void get_readers(struct fixture *f, struct readers *ret, unsigned count)
{
    pthread_t thread[READERS_MAX];
    *ret = (struct readers){.f = f};
    pthread_barrier_init(&ret->all_have_one, NULL, count);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, get_reader, ret), 0);
    for (unsigned i = 0; i < count; i++)
        pthread_join(thread[i], NULL);
    pthread_barrier_destroy(&ret->all_have_one);
}

static void fill_once(struct fixture *f, uint32_t keys, size_t size)
{
    static const char value[4000];
    static uint32_t key;
    for (uint32_t i = 0; i < keys; i++, key++) {
        struct near__ticket t = near__local_ticket(f->local, &key, 4);
        near__local_install(f->local, f->reader, t, &key, 4, value, size, key + 1, -1, near__now(&f->clock));
        if (i % 1024 == 0)
            near__local_keep(f->local);
    }
}

/* The sample is as large as what the tier will be asked allows, and follows that. */
static void test_a_tier_keeps_its_sample_while_keys_come_and_go(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    f.config.curve = 1;
    f.config.bytes_max = 2u << 20;
    fixture_start(&f);
    fill_once(&f, SCALE(1000000, 400000), 40);
    double share = near__curve_share(f.local->curve);
    assert_true(share >= 1.0 / 256);
    fill_once(&f, SCALE(1000000, 400000), 4000);
    print_message("# 1/%.0f of the keys, with larger entries 1/%.0f\n", 1 / share,
                  1 / near__curve_share(f.local->curve));
    assert_true(near__curve_share(f.local->curve) >= 4 * share);
    fixture_close(&f);
}

/* Where nobody fills, rings are looked at by the keeper alone, and are full then, of a burst that goes on. */
static void test_a_burst_ends_and_costs_the_sample_nothing(void **state)
{
    struct fixture f;
    (void)state;
    tier_with_a_sample(&f, KEYS, 8u << 20);
    double share = near__curve_share(f.local->curve);
    unsigned in_bursts = 0, was_in_burst = 0;
    for (int round = 0; round < 200; round++) {
        read_on(&f, f.reader, 6000);
        near__local_keep(f.local);
        assert_false(was_in_burst && f.local->tapped.burst_of);
        was_in_burst = f.local->tapped.burst_of != NULL;
        in_bursts += was_in_burst;
        assert_true((f.local->tap_below == UINT64_MAX) == (f.local->tapped.burst_of != NULL));
    }
    print_message("# %u of 200 rounds were in bursts, which had %.0f reads\n", in_bursts,
                  near__curve_bursts(f.local->curve)->reads);
    assert_true(near__curve_bursts(f.local->curve)->reads > 1000);
    assert_true(in_bursts < 50);
    assert_true(near__curve_share(f.local->curve) == share);
    fixture_close(&f);
}

static void all_read_on(struct fixture *f, const struct readers *readers, uint32_t reads)
{
    for (unsigned i = 0; i < readers->count; i++)
        read_on(f, readers->of[i], reads);
}

/* All rings are full when a burst ends, those of its neighbours, too, and some are not emptied at once.  A burst may
 * end because its thread fills, or because somebody asks for advice. */
static void test_a_burst_ends_and_costs_its_neighbours_nothing(void **state)
{
    struct fixture f;
    struct readers readers;
    double advised;
    unsigned ended[2] = {0, 0};
    (void)state;
    tier_with_a_sample(&f, KEYS, 8u << 20);
    get_readers(&f, &readers, 4);
    double share = near__curve_share(f.local->curve);
    for (int round = 0; round < 600; round++) {
        all_read_on(&f, &readers, 3000);
        struct near__reader *before = f.local->tapped.burst_of;
        if (before) {
            int asked = round % 2;
            if (asked)
                assert_int_equal(near__local_advise(f.local, 100, UINT64_MAX, &advised), NEAR_OK);
            else
                near__tap_learn(f.local, before);
            assert_ptr_not_equal(f.local->tapped.burst_of, before);
            ended[asked]++;
        }
        all_read_on(&f, &readers, 3000);
        before = f.local->tapped.burst_of;
        near__local_keep(f.local);
        if (f.local->tapped.burst_of && !before) /* what they read before is none of it */
            assert_true(f.local->tapped.burst_from == f.local->tapped.reads);
    }
    assert_true(ended[0] > 3 && ended[1] > 3);
    assert_true(near__curve_share(f.local->curve) == share);
    fixture_close(&f);
}

/* What has been lost while there was no burst is too much: looks come sooner, and if that is not enough the sample
 * becomes smaller. */
static void test_rings_that_lose_are_looked_at_more_often_before_the_sample_becomes_smaller(void **state)
{
    struct fixture f;
    (void)state;
    tier_with_a_sample(&f, KEYS, 8u << 20);
    f.local->tapped.burst_due = UINT64_MAX;
    double share = near__curve_share(f.local->curve);
    assert_int_equal(near__tap_learn_all(f.local), 0);
    read_on(&f, f.reader, 40000);
    int soon_ms = near__tap_learn_all(f.local);
    assert_true(soon_ms > 0 && soon_ms < 100);
    assert_true(near__curve_share(f.local->curve) == share);
    read_on(&f, f.reader, 40000);
    assert_int_equal(near__tap_learn_all(f.local), soon_ms);
    assert_true(near__curve_share(f.local->curve) < share);
    for (int looks = 0; looks < 200; looks++) { /* as many as are noted again */
        read_on(&f, f.reader, 4000);
        assert_int_equal(near__tap_learn_all(f.local), soon_ms);
    }
    int looks = 0;
    for (; near__tap_learn_all(f.local); looks++)
        read_on(&f, f.reader, 100);
    assert_true(looks > 10 && looks < 100);
    fixture_close(&f);
}

/* The others lost less than they told: a part is left out, and a smaller sample would tell less. */
static void test_rings_that_lose_a_part_cost_no_sample(void **state)
{
    struct fixture f;
    struct readers readers;
    (void)state;
    tier_with_a_sample(&f, KEYS, 8u << 20);
    get_readers(&f, &readers, 4);
    f.local->tapped.burst_due = UINT64_MAX;
    double share = near__curve_share(f.local->curve);
    for (int round = 0; round < 20; round++) {
        all_read_on(&f, &readers, 6000);
        read_on(&f, f.reader, 20000);
        assert_true(near__tap_learn_all(f.local) > 0);
    }
    assert_true(near__curve_share(f.local->curve) == share);
    fixture_close(&f);
}

/* Few entries: the shadow of `adaptive` wants all keys, and with fewer for the curve not one less would be noted. */
static void test_rings_that_are_full_for_the_shadow_cost_no_sample(void **state)
{
    static const char value[8000];
    struct fixture f;
    (void)state;
    fixture_init(&f);
    f.config.curve = 1;
    f.config.policy = NEAR_POLICY_ADAPTIVE;
    f.config.bytes_max = 6u << 20;
    fixture_start(&f);
    for (uint32_t key = 0; key < 1400; key++) {
        struct near__ticket t = near__local_ticket(f.local, &key, 4);
        near__local_install(f.local, f.reader, t, &key, 4, value, sizeof(value), key + 1, -1, near__now(&f.clock));
    }
    near__local_keep(f.local);
    assert_true(near__shadow_below(f.local->shadow) == UINT64_MAX && near__curve_share(f.local->curve) == 1);
    for (int round = 0; round < 20; round++) {
        read_on(&f, f.reader, 20000);
        (void)near__tap_learn_all(f.local);
    }
    assert_true(near__curve_share(f.local->curve) == 1);
    fixture_close(&f);
}

/* Whoever holds it is done in a moment.  Where no curve waits for it the next round will do. */
static void test_rings_that_somebody_is_at_are_looked_at_soon(void **state)
{
    struct fixture f;
    (void)state;
    for (int curve = 0; curve <= 1; curve++) {
        fixture_init(&f);
        f.config.curve = curve;
        f.config.policy = NEAR_POLICY_ADAPTIVE;
        fixture_start(&f);
        atomic_store(&f.local->tap_busy, 1);
        int ms = near__tap_learn_all(f.local);
        assert_true(curve ? ms > 0 && ms < 100 : ms == 0);
        atomic_store(&f.local->tap_busy, 0);
        fixture_close(&f);
    }
}

static void test_a_burst_is_looked_after_less_often_the_longer_it_takes(void **state)
{
    struct fixture f;
    int ms = 0;
    (void)state;
    tier_with_a_sample(&f, KEYS, 8u << 20);
    for (int round = 0; round < 100 && !ms; round++) {
        read_on(&f, f.reader, 1000);
        ms = near__tap_learn_all(f.local);
    }
    assert_non_null(f.local->tapped.burst_of);
    for (int next_ms = 1; next_ms < 100; next_ms *= 2, ms = near__tap_learn_all(f.local))
        assert_int_equal(ms, next_ms);
    assert_int_equal(ms, 0);
    assert_non_null(f.local->tapped.burst_of);
    fixture_close(&f);
}

static void *read_in_a_burst(void *arg)
{
    struct fixture *f = arg;
    struct near__reader *reader = near__local_reader(f->local);
    for (int round = 0; round < 100 && f->local->tapped.burst_of != reader; round++) {
        read_on(f, reader, 1000);
        near__local_keep(f->local);
    }
    assert_ptr_equal(f->local->tapped.burst_of, reader);
    read_on(f, reader, 1500);
    return NULL;
}

static void test_a_burst_ends_though_its_thread_has_gone(void **state)
{
    struct fixture f;
    pthread_t thread;
    (void)state;
    tier_with_a_sample(&f, KEYS, 8u << 20);
    assert_int_equal(pthread_create(&thread, NULL, read_in_a_burst, &f), 0);
    pthread_join(thread, NULL);
    const struct near__reader *gone = f.local->tapped.burst_of;
    double before = near__curve_bursts(f.local->curve)->reads;
    for (int round = 0; round < 600 && f.local->tapped.burst_of == gone; round++) {
        read_on(&f, f.reader, 1000);
        near__local_keep(f.local);
    }
    assert_ptr_not_equal(f.local->tapped.burst_of, gone);
    assert_true(near__curve_bursts(f.local->curve)->reads > before); /* what it had read is learnt */
    fixture_close(&f);
}

/* Others have read so much that it is given up; its ring has not been looked at since it began. */
static void test_a_burst_that_is_overdue_is_learnt(void **state)
{
    struct fixture f;
    struct readers readers;
    (void)state;
    tier_with_a_sample(&f, KEYS, 8u << 20);
    get_readers(&f, &readers, 1);
    for (int round = 0; round < 100 && f.local->tapped.burst_of != f.reader; round++) {
        read_on(&f, f.reader, 1000);
        near__local_keep(f.local);
    }
    assert_ptr_equal(f.local->tapped.burst_of, f.reader);
    double before = near__curve_bursts(f.local->curve)->reads;
    read_on(&f, f.reader, 1500);
    read_on(&f, readers.of[0], 600000);
    near__tap_learn(f.local, readers.of[0]); /* it fills */
    assert_ptr_not_equal(f.local->tapped.burst_of, f.reader);
    assert_true(near__curve_bursts(f.local->curve)->reads > before + 900);
    fixture_close(&f);
}

/* Reads of threads that are alike and have all keys; rings are looked at after so many of each. */
static void compare_threads(unsigned threads, uint32_t reads_each, double most)
{
    enum { MANY = 50000 };
    uint32_t *trace = make_zipf(MANY, 0.9, 79);
    struct fixture f;
    struct readers readers;
    struct exact exact;
    struct near__view view;
    double advised;
    measure(&exact, trace, MANY);
    tier_with_a_sample(&f, MANY, 32u << 20);
    get_readers(&f, &readers, threads);
    for (uint32_t i = 0; i < SCALE(10, 50) * REQUESTS; i++) {
        struct near__reader *reader = readers.of[i / 100 % threads];
        (void)near__local_copy(f.local, reader, &trace[i % REQUESTS], 4, ANY_BOUND, 0, NULL, 0, &view);
        if (i % (threads * reads_each) == 0)
            near__local_keep(f.local);
    }
    print_message("# %u threads, looked at after %u reads of each: sample of %u keys\n", threads, reads_each,
                  near__curve_keys(f.local->curve));
    for (uint64_t size = 10; size <= 1000; size *= 10) { /* of larger ones the first use of keys is a part */
        assert_int_equal(near__local_advise(f.local, size, UINT64_MAX, &advised), NEAR_OK);
        print_message("# %lu entries: exact %.3f, advised %.3f\n", (unsigned long)size, ratio(exact.by_keys, size),
                      advised);
        assert_true(fabs(advised - ratio(exact.by_keys, size)) < most);
    }
    fixture_close(&f);
    finish(&exact);
    free(trace);
}

/* A long stretch of each ring is shown before the next: what its thread read again soon is soon. */
static void test_stretches_of_several_threads_are_shown_one_after_the_other(void **state)
{
    (void)state;
    compare_threads(READERS_MAX, 10000, SCALE(0.05, 0.08));
}

/* They are full most of the time, and tell nothing of what comes then: neither that it was read nor that time has
 * passed. */
static void test_rings_that_are_full_say_nothing_wrong(void **state)
{
    (void)state;
    compare_threads(2, 100000, SCALE(0.06, 0.1));
}

/* Few large entries: the shadow of `adaptive` sees all keys, so no request is a burst's alone. */
static void test_bursts_begin_also_where_the_shadow_sees_all_keys(void **state)
{
    static const char value[8000];
    struct fixture f;
    uint64_t random = 78;
    (void)state;
    fixture_init(&f);
    f.config.curve = 1;
    f.config.policy = NEAR_POLICY_ADAPTIVE;
    fixture_start(&f);
    for (uint32_t i = 0; i < 60000; i++) {
        struct near__view view;
        uint32_t key = near__random_below(&random, 20000);
        struct near__ticket t = near__local_ticket(f.local, &key, 4);
        if (near__local_copy(f.local, f.reader, &key, 4, ANY_BOUND, 0, NULL, 0, &view) != NEAR_LOCAL_HIT)
            near__local_install(f.local, f.reader, t, &key, 4, value, sizeof(value), i + 1, -1, near__now(&f.clock));
    }
    assert_true(near__shadow_below(f.local->shadow) == UINT64_MAX);
    assert_true(near__curve_share(f.local->curve) < 1);
    assert_true(near__curve_bursts(f.local->curve)->reads > 0);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_curve_is_that_of_exact_LRU),
        cmocka_unit_test(test_also_with_scans_loops_and_a_shifting_hot_set),
        cmocka_unit_test(test_also_when_few_keys_have_half_of_the_reads),
        cmocka_unit_test(test_whichever_hot_keys_are_in_the_sample),
        cmocka_unit_test(test_also_when_bursts_meet_one_phase_of_the_load),
        cmocka_unit_test(test_a_few_bursts_that_are_alike_prove_little),
        cmocka_unit_test(test_reads_that_the_sample_misses_came_soon),
        cmocka_unit_test(test_bursts_of_keys_that_one_thread_has_for_itself_are_odd),
        cmocka_unit_test(test_also_where_a_few_values_have_most_of_the_bytes),
        cmocka_unit_test(test_also_after_tens_of_millions_of_keys_that_never_come_again),
        cmocka_unit_test(test_a_sample_that_reaches_too_far_back_takes_more_keys),
        cmocka_unit_test(test_a_tier_advises),
        cmocka_unit_test(test_what_does_not_exist_is_a_miss_at_any_size),
        cmocka_unit_test(test_bytes_are_those_that_entries_take),
        cmocka_unit_test(test_a_tier_keeps_its_sample_while_keys_come_and_go),
        cmocka_unit_test(test_a_burst_ends_and_costs_the_sample_nothing),
        cmocka_unit_test(test_a_burst_ends_and_costs_its_neighbours_nothing),
        cmocka_unit_test(test_rings_that_lose_are_looked_at_more_often_before_the_sample_becomes_smaller),
        cmocka_unit_test(test_rings_that_lose_a_part_cost_no_sample),
        cmocka_unit_test(test_rings_that_are_full_for_the_shadow_cost_no_sample),
        cmocka_unit_test(test_rings_that_somebody_is_at_are_looked_at_soon),
        cmocka_unit_test(test_a_burst_is_looked_after_less_often_the_longer_it_takes),
        cmocka_unit_test(test_a_burst_ends_though_its_thread_has_gone),
        cmocka_unit_test(test_a_burst_that_is_overdue_is_learnt),
        cmocka_unit_test(test_stretches_of_several_threads_are_shown_one_after_the_other),
        cmocka_unit_test(test_rings_that_are_full_say_nothing_wrong),
        cmocka_unit_test(test_bursts_begin_also_where_the_shadow_sees_all_keys),
    };
    near__alloc_init(&alloc, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
