/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "base/histogram.h"
#include "base/random.h"
#include "support/seed.h"

static struct near__histogram *make(void)
{
    struct near__histogram *h = calloc(1, sizeof *h);
    assert_non_null(h);
    return h;
}

static int compare(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

static void test_an_empty_one_says_zero(void **state)
{
    struct near__histogram *h = make();
    near_quantiles q;
    (void)state;
    near__histogram_quantiles(h, &q);
    assert_int_equal(q.count, 0);
    assert_int_equal(q.max, 0);
    assert_int_equal(near__histogram_at(h, 0.5), 0);
    free(h);
}

/* One value at a time: what comes back is not below it and at most 1/64 above, bucket edges included. */
static void test_one_value_comes_back_within_its_error(void **state)
{
    uint64_t seed = test_seed();
    (void)state;
    for (unsigned bit = 0; bit < 41; bit++)
        for (int step = -2; step <= 40; step++) {
            uint64_t value = (UINT64_C(1) << bit) + (uint64_t)step;
            if (step > 2)
                value = (UINT64_C(1) << bit) + (near__random_next(&seed) & ((UINT64_C(1) << bit) - 1));
            if (value >= UINT64_C(1) << 41)
                continue;
            struct near__histogram *h = make();
            near__histogram_record(h, value);
            near__histogram_record(h, UINT64_C(1) << 41); /* so that the maximum does not help */
            uint64_t seen = near__histogram_at(h, 0.5);
            assert_true(seen >= value);
            assert_true(seen - value <= value / 64);
            free(h);
        }
}

static void test_quantiles_match_a_sorted_list_within_the_error(void **state)
{
    enum { COUNT = 20000 };
    static const double quantiles[] = {0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999, 1};
    static uint64_t values[COUNT];
    uint64_t seed = test_seed();
    struct near__histogram *h = make();
    (void)state;
    for (int i = 0; i < COUNT; i++) {
        values[i] = near__random_next(&seed) >> (24 + near__random_below(&seed, 30));
        near__histogram_record(h, values[i]);
    }
    qsort(values, COUNT, sizeof values[0], compare);
    for (size_t i = 0; i < sizeof quantiles / sizeof quantiles[0]; i++) {
        double exact_rank = quantiles[i] * COUNT;
        size_t rank = (size_t)exact_rank + ((double)(size_t)exact_rank < exact_rank);
        uint64_t exact = values[rank ? rank - 1 : 0], seen = near__histogram_at(h, quantiles[i]);
        assert_true(seen >= exact);
        assert_true(seen - exact <= exact / 64);
    }
    assert_true(near__histogram_at(h, 1) == values[COUNT - 1]);
    assert_int_equal(near__histogram_count(h), COUNT);
    free(h);
}

static void test_values_beyond_the_range_count_in_the_last_bucket(void **state)
{
    struct near__histogram *h = make();
    near_quantiles q;
    (void)state;
    near__histogram_record(h, UINT64_MAX);
    near__histogram_record(h, UINT64_C(1) << 50);
    near__histogram_record(h, 7);
    near__histogram_quantiles(h, &q);
    assert_int_equal(q.count, 3);
    assert_true(q.max == UINT64_MAX);
    assert_true(q.p99 == UINT64_MAX);
    assert_true(q.p50 >= UINT64_C(1) << 41);
    assert_int_equal(near__histogram_at(h, 0.1), 7);
    assert_int_equal(near__histogram_at(h, -1), 7);
    assert_true(near__histogram_at(h, 2) == UINT64_MAX);
    free(h);
}

static void test_merging_equals_recording_in_one(void **state)
{
    uint64_t seed = test_seed();
    struct near__histogram *one = make(), *a = make(), *b = make();
    (void)state;
    for (int i = 0; i < 5000; i++) {
        uint64_t value = near__random_next(&seed) >> near__random_below(&seed, 60);
        near__histogram_record(one, value);
        near__histogram_record(i % 2 ? a : b, value);
    }
    near__histogram_merge(a, b);
    for (size_t i = 0; i < NEAR_HISTOGRAM_ROWS * NEAR_HISTOGRAM_SUB; i++)
        assert_int_equal(atomic_load(&one->bucket[i]), atomic_load(&a->bucket[i]));
    assert_true(atomic_load(&one->max) == atomic_load(&a->max));
    free(one);
    free(a);
    free(b);
}

enum { THREADS = 4, RECORDS = 20000 };

static void *record_many(void *h)
{
    for (uint64_t i = 1; i <= RECORDS; i++)
        near__histogram_record(h, i);
    return NULL;
}

static void test_no_record_is_lost_between_threads(void **state)
{
    struct near__histogram *h = make();
    pthread_t threads[THREADS];
    (void)state;
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, record_many, h), 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(near__histogram_count(h), THREADS * RECORDS);
    assert_int_equal(near__histogram_at(h, 1), RECORDS);
    free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_empty_one_says_zero),
        cmocka_unit_test(test_one_value_comes_back_within_its_error),
        cmocka_unit_test(test_quantiles_match_a_sorted_list_within_the_error),
        cmocka_unit_test(test_values_beyond_the_range_count_in_the_last_bucket),
        cmocka_unit_test(test_merging_equals_recording_in_one),
        cmocka_unit_test(test_no_record_is_lost_between_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
