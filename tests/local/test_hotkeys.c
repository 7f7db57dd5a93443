/* SPDX-License-Identifier: BSD-3-Clause
 * Hot keys: the counters against exact counts, and what a tier tells about reads that are known. */
#include "local/local_fixture.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/random.h"
#include "local/hotkeys.h"
#include "support/seed.h"

#define COUNTERS 128 /* for up to 32 keys */
#define TOP 32

static struct near__alloc alloc;
static uint64_t seed;
static near_hot_key top[256];

static const near_hot_key *told(size_t count, const void *key, size_t key_size)
{
    for (size_t i = 0; i < count; i++)
        if (top[i].key_size == key_size && memcmp(top[i].key, key, key_size) == 0)
            return &top[i];
    return NULL;
}

/* ---------------------------------------------------------------- the counters alone */

#define MODEL_KEYS 3000u
#define MODEL_READS 16000u /* before anything is halved */

/* Log-uniform: key k with a share of about 1 / k. */
static uint32_t draw(uint64_t *random)
{
    uint32_t top_bit = near__random_below(random, 11);
    return ((1u << top_bit) + near__random_below(random, 1u << top_bit)) % MODEL_KEYS;
}

static void check_against(const uint64_t *exact, uint64_t all, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t key;
        memcpy(&key, top[i].key, 4);
        double share = (double)exact[key] / (double)all;
        assert_true(top[i].share_min <= share + 1e-9 && share <= top[i].share_max + 1e-9);
        assert_true(top[i].share_max - top[i].share_min <= 1.0 / COUNTERS);
        assert_true(i == 0 || top[i].share_min <= top[i - 1].share_min);
    }
    for (uint32_t key = 0; key < MODEL_KEYS; key++)
        if (exact[key] > 3 * all / COUNTERS) /* of which at least two parts in three are known, more than others can
                                                have */
            assert_non_null(told(count, &key, 4));
}

static void test_the_counters_are_right_about_a_skewed_stream(void **state)
{
    size_t cost;
    uint64_t random = seed, all = 0, *exact = calloc(MODEL_KEYS, sizeof(*exact));
    struct near__hotkeys *hot = near__hotkeys_create(&alloc, TOP, &cost);
    (void)state;
    assert_non_null(hot);
    assert_true(cost < 64 * 1024);
    assert_int_equal(near__hotkeys_top(hot, TOP, top), 0);
    for (uint32_t i = 0; i < MODEL_READS; i++) {
        uint32_t key = draw(&random);
        uint64_t weight = 1 + near__random_below(&random, 3);
        exact[key] += weight;
        all += weight;
        near__hotkeys_see(hot, &key, 4, weight);
        if (i % 500 == 499)
            check_against(exact, all, near__hotkeys_top(hot, TOP, top));
    }
    assert_int_equal(near__hotkeys_top(hot, 5, top), 5);
    assert_int_equal(near__hotkeys_top(hot, 256, top), TOP);
    near__hotkeys_destroy(&alloc, hot);
    free(exact);
}

/* It is always the smallest counter that changes hands. */
static void test_what_becomes_hot_later_is_told(void **state)
{
    size_t cost;
    struct near__hotkeys *hot = near__hotkeys_create(&alloc, TOP, &cost);
    (void)state;
    for (uint32_t i = 0; i < 3 * COUNTERS; i++)
        near__hotkeys_see(hot, &i, 4, 1);
    for (uint32_t i = 0; i < 6 * COUNTERS; i++)
        near__hotkeys_see(hot, i % 2 ? "one" : "two", 3, 1);
    assert_int_equal(near__hotkeys_top(hot, 2, top), 2);
    assert_true(told(2, "one", 3) && told(2, "two", 3));
    assert_true(top[1].share_min > 0.3 && top[1].share_max < 0.36);
    near__hotkeys_destroy(&alloc, hot);
}

static void test_what_is_long_ago_counts_less(void **state)
{
    size_t cost;
    struct near__hotkeys *hot = near__hotkeys_create(&alloc, TOP, &cost);
    (void)state;
    for (uint32_t i = 0; i < 1000000; i++)
        near__hotkeys_see(hot, i < 900000 ? "old" : "new", 3, 10);
    size_t count = near__hotkeys_top(hot, TOP, top);
    assert_int_equal(count, 2);
    assert_memory_equal(top[0].key, "new", 3);
    assert_true(top[0].share_min > 0.9);
    near__hotkeys_destroy(&alloc, hot);
}

/* ---------------------------------------------------------------- in a tier */

static void start(struct fixture *f, uint32_t keys)
{
    fixture_init(f);
    f->config.hot_keys = keys;
    fixture_start(f);
}

static void read_key(struct fixture *f, struct near__reader *reader, const void *key, size_t key_size)
{
    struct near__view view;
    near__local_copy(f->local, reader, key, key_size, ANY_BOUND, 0, NULL, 0, &view);
}

static size_t ask(struct fixture *f)
{
    size_t count = 99;
    assert_int_equal(near__local_hot_keys(f->local, 256, top, &count), NEAR_OK);
    return count;
}

/* Every 64th read would be the same key; and the jumps of the count are not in the statistics. */
static void test_the_period_of_the_reads_does_not_matter(void **state)
{
    struct fixture f;
    near_stats stats = {.size = sizeof(stats)};
    uint64_t hits = 0;
    (void)state;
    start(&f, 64);
    for (int i = 0; i < 64; i++) {
        char key[8];
        snprintf(key, sizeof(key), "key%02d", i);
        assert_int_equal(put(&f, key, "v", 1), 1);
    }
    for (int round = 0; round < 8000; round++) {
        for (int i = 0; i < 64; i++, hits++) {
            char key[6] = {'k', 'e', 'y', (char)('0' + i / 10), (char)('0' + i % 10), 0};
            read_key(&f, f.reader, key, 5);
        }
        near__local_keep(f.local);
        if (round % 100 == 0) {
            near__local_stats(f.local, &stats);
            assert_int_equal(stats.local_hits, hits);
        }
    }
    assert_int_equal(ask(&f), 64);
    assert_true(top[0].share_max < 2.0 / 64);
    assert_true(top[63].share_min > 0.5 / 64);
    fixture_close(&f);
}

/* Half of the reads find nothing; long keys are not told, but are reads; any byte may be in a key, or none. */
static void test_misses_and_odd_keys_count(void **state)
{
    static char longest[NEAR_HOT_KEY_MAX], longer[NEAR_HOT_KEY_MAX + 1];
    static const char binary[] = {0, 1, 0, -1};
    struct fixture f;
    (void)state;
    start(&f, 8);
    memset(longest, 'l', sizeof(longest));
    memset(longer, 'l', sizeof(longer));
    assert_int_equal(put(&f, "there", "v", 1), 1);
    for (int i = 0; i < 60000; i++) {
        read_key(&f, f.reader, "there", 5);
        read_key(&f, f.reader, "there", 5);
        read_key(&f, f.reader, longer, sizeof(longer));
        read_key(&f, f.reader,
                 i % 3 == 0   ? longest
                 : i % 3 == 1 ? binary
                              : "",
                 i % 3 == 0   ? sizeof(longest)
                 : i % 3 == 1 ? 4
                              : 0);
        if (i % 100 == 0)
            near__local_keep(f.local);
    }
    assert_int_equal(ask(&f), 4);
    const near_hot_key *there = told(4, "there", 5), *bytes = told(4, binary, 4), *none = told(4, "", 0);
    const near_hot_key *just = told(4, longest, sizeof(longest));
    assert_true(there && bytes && none && just);
    assert_true(there->share_min > 0.4 && there->share_max < 0.6);
    assert_true(bytes->share_min > 1.0 / 24 && none->share_min > 1.0 / 24 && just->share_min > 1.0 / 24);
    assert_true(bytes->share_max < 1.0 / 8 && none->share_max < 1.0 / 8 && just->share_max < 1.0 / 8);
    fixture_close(&f);
}

/* One read in ten finds nothing, and what is noted is taken up at once. */
static void test_the_rarer_kind_of_reads_has_its_share(void **state)
{
    struct fixture f;
    uint64_t random = seed;
    (void)state;
    start(&f, 8);
    assert_int_equal(put(&f, "there", "v", 1), 1);
    for (int i = 0; i < 800000; i++) {
        int found = near__random_below(&random, 10) != 0;
        read_key(&f, f.reader, found ? "there" : "absent", found ? 5 : 6);
        if (i % 4 == 0)
            ask(&f);
    }
    assert_int_equal(ask(&f), 2);
    assert_memory_equal(top[1].key, "absent", 6);
    assert_true(top[1].share_min > 0.093 && top[1].share_max < 0.107);
    fixture_close(&f);
}

/* ---------------------------------------------------------------- more than one thread */

#define BUSY_READS 1000000u
#define IDLE_READS 10000u

static void *be_busy(void *arg)
{
    struct fixture *f = arg;
    struct near__reader *reader = near__local_reader(f->local);
    for (uint32_t i = 0; i < BUSY_READS; i++)
        read_key(f, reader, "busiest", 7);
    return NULL;
}

/* The busy thread's ring is full long before it is drained, the idle one's often has nothing: their shares are those of
 * their reads all the same. */
static void test_shares_are_of_the_reads_not_of_the_samples(void **state)
{
    struct fixture f;
    pthread_t thread;
    (void)state;
    start(&f, 8);
    assert_int_equal(put(&f, "busiest", "v", 1), 1);
    assert_int_equal(put(&f, "idle", "v", 2), 1);
    assert_int_equal(pthread_create(&thread, NULL, be_busy, &f), 0);
    pthread_join(thread, NULL);
    for (uint32_t i = 0; i < IDLE_READS; i++) {
        read_key(&f, f.reader, "idle", 4);
        if (i % 10 == 0)
            near__local_keep(f.local);
    }
    assert_int_equal(ask(&f), 2);
    assert_memory_equal(top[0].key, "busiest", 7);
    assert_true(top[0].share_min > 0.989 && top[0].share_max < 0.9905);
    assert_true(top[1].share_min > 0.0095 && top[1].share_max < 0.011);
    fixture_close(&f);
}

static _Atomic(int) stop;

static void *read_on(void *arg)
{
    struct fixture *f = arg;
    struct near__reader *reader = near__local_reader(f->local);
    uint64_t random = seed ^ (uintptr_t)reader;
    while (!atomic_load(&stop)) {
        uint32_t key = draw(&random);
        read_key(f, reader, &key, 1 + key % 4);
    }
    return NULL;
}

static void test_answers_while_others_read(void **state)
{
    struct fixture f;
    pthread_t thread[3];
    (void)state;
    fixture_init(&f);
    f.config.hot_keys = 16;
    f.config.manual = 0;
    fixture_start(&f);
    atomic_store(&stop, 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, read_on, &f), 0);
    for (size_t asked = 0, answered = 0; asked < 300 || !answered; asked++) {
        size_t count = 0;
        int status = near__local_hot_keys(f.local, 16, top, &count);
        assert_true(status == NEAR_OK || status == NEAR_ERR_TIMEOUT); /* the keeper may be held up for long */
        assert_true(count <= 16);
        for (size_t i = 0; i < count; i++)
            assert_true(top[i].key_size >= 1 && top[i].key_size <= 4 && top[i].share_min <= top[i].share_max);
        answered += count > 0;
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < 3; i++)
        pthread_join(thread[i], NULL);
    fixture_close(&f);
}

static void test_off_there_is_no_answer(void **state)
{
    struct fixture f;
    size_t count = 7;
    (void)state;
    fixture_open(&f);
    assert_int_equal(near__local_hot_keys(f.local, 1, top, &count), NEAR_ERR_UNSUPPORTED);
    assert_int_equal(count, 7);
    fixture_close(&f);
    start(&f, 3);
    assert_int_equal(ask(&f), 0);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_counters_are_right_about_a_skewed_stream),
        cmocka_unit_test(test_what_becomes_hot_later_is_told),
        cmocka_unit_test(test_what_is_long_ago_counts_less),
        cmocka_unit_test(test_the_period_of_the_reads_does_not_matter),
        cmocka_unit_test(test_misses_and_odd_keys_count),
        cmocka_unit_test(test_the_rarer_kind_of_reads_has_its_share),
        cmocka_unit_test(test_shares_are_of_the_reads_not_of_the_samples),
        cmocka_unit_test(test_answers_while_others_read),
        cmocka_unit_test(test_off_there_is_no_answer),
    };
    seed = test_seed();
    near__alloc_init(&alloc, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
