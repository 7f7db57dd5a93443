/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the benchmarks stand on: draws follow their distributions, tapes their mix, values tell whose they are, and
 * exact LRU is exact. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "bench_draw.h"
#include "bench_keys.h"
#include "bench_lru.h"
#include "support/seed.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define DRAWS 200000
#else
#define DRAWS 2000000
#endif

/* Pearson's statistic over ranks, those at the end put together until each expects at least 20 draws; standardised
 * after Wilson and Hilferty, so that it is a normal deviate: beyond 5 once in three million runs. */
static double deviate(const struct bench_draw *draw, const double *probability, uint64_t seed)
{
    uint64_t *seen = calloc(draw->count, sizeof(*seen));
    double chi = 0, expected = 0, observed = 0;
    int cells = 0;
    assert_non_null(seen);
    for (int i = 0; i < DRAWS; i++) {
        uint32_t rank = bench_draw_rank(draw, &seed);
        assert_in_range(rank, 0, draw->count - 1);
        seen[rank]++;
    }
    for (uint32_t rank = 0; rank < draw->count; rank++) {
        expected += probability[rank] * DRAWS;
        observed += (double)seen[rank];
        if (expected >= 20 || rank + 1 == draw->count) {
            chi += (observed - expected) * (observed - expected) / (expected > 0 ? expected : 1);
            cells += expected > 0;
            expected = observed = 0;
        }
    }
    free(seen);
    double freedom = cells - 1, variance = 2 / (9 * freedom);
    return (cbrt(chi / freedom) - (1 - variance)) / sqrt(variance);
}

static void check_zipf(double theta, uint32_t count, double drawn_as)
{
    struct bench_dist dist = {.shape = BENCH_ZIPF, .theta = drawn_as};
    double *probability = calloc(count, sizeof(*probability)), sum = 0;
    struct bench_draw draw;
    assert_non_null(probability);
    for (uint32_t rank = count; rank-- > 0;)
        sum += pow(rank + 1.0, -theta);
    for (uint32_t rank = 0; rank < count; rank++)
        probability[rank] = pow(rank + 1.0, -theta) / sum;
    bench_draw_init(&draw, &dist, count, 1);
    double z = deviate(&draw, probability, test_seed());
    print_message("# zipf %g of %u drawn as %g: deviate %.2f\n", theta, count, drawn_as, z);
    if (theta == drawn_as)
        assert_true(fabs(z) < 5);
    else
        assert_true(z > 5); /* the test sees a small error */
    bench_draw_fini(&draw);
    free(probability);
}

static void test_zipf_passes_chi_square(void **state)
{
    (void)state;
    check_zipf(0.99, 1000, 0.99);
    check_zipf(0.99, 100000, 0.99);
    check_zipf(1, 1000, 1); /* where the formulas have a gap */
    check_zipf(0.5, 1000, 0.5);
    check_zipf(2.5, 50, 2.5);
    check_zipf(0.99, 2, 0.99);
}

static void test_chi_square_sees_a_wrong_exponent(void **state)
{
    (void)state;
    check_zipf(0.99, 1000, 0.97);
}

static void test_uniform_and_hotspot_pass_chi_square(void **state)
{
    static const uint32_t count = 1000;
    double probability[1000];
    struct bench_draw draw;
    struct bench_dist dist;
    (void)state;
    assert_true(bench_dist_parse("uniform", &dist));
    for (uint32_t rank = 0; rank < count; rank++)
        probability[rank] = 1.0 / count;
    bench_draw_init(&draw, &dist, count, 1);
    assert_true(fabs(deviate(&draw, probability, test_seed())) < 5);
    bench_draw_fini(&draw);

    assert_true(bench_dist_parse("hotspot:0.2,0.8", &dist));
    for (uint32_t rank = 0; rank < count; rank++)
        probability[rank] = rank < count / 5 ? 0.8 / (count / 5) : 0.2 / (count - count / 5);
    bench_draw_init(&draw, &dist, count, 1);
    assert_true(fabs(deviate(&draw, probability, test_seed())) < 5);
    bench_draw_fini(&draw);
}

static void test_ranks_are_scattered_over_all_keys(void **state)
{
    struct bench_dist dist = {.shape = BENCH_UNIFORM};
    struct bench_draw draw;
    char seen[1000] = {0};
    unsigned in_place = 0;
    (void)state;
    bench_draw_init(&draw, &dist, 1000, test_seed());
    for (unsigned i = 0; i < 1000; i++) {
        seen[draw.key[i]]++;
        in_place += draw.key[i] == i;
    }
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(seen[i], 1);
    assert_in_range(in_place, 0, 20);
    bench_draw_fini(&draw);
}

static void test_tape_has_the_mix(void **state)
{
    struct bench_dist dist = {.shape = BENCH_UNIFORM};
    struct bench_draw draw;
    struct bench_tape tape;
    unsigned writes = 0;
    (void)state;
    bench_draw_init(&draw, &dist, 100, 1);
    bench_tape_init(&tape, 1 << 16, &draw, 0.25, test_seed());
    for (uint32_t i = 0; i < tape.count; i++) {
        assert_in_range(tape.word[i] & ~BENCH_WRITE, 0, 99);
        writes += tape.word[i] >> 31;
    }
    assert_in_range(writes, (1 << 14) - 700, (1 << 14) + 700); /* six deviations */
    bench_tape_fini(&tape);
    bench_draw_fini(&draw);
}

static void test_a_value_belongs_to_its_key_alone(void **state)
{
    unsigned char value[100];
    (void)state;
    for (size_t size = 1; size <= sizeof(value); size++) {
        bench_value_write(value, size, 77, 5);
        assert_true(bench_value_belongs(value, size, 77));
        assert_false(bench_value_belongs(value, size, 78));
        value[size - 1] ^= 1;
        if (size <= 8 || size > 16) /* a changed version is another value, of the same key */
            assert_false(bench_value_belongs(value, size, 77));
    }
}

/* ---------------------------------------------------------------- exact LRU against a list that is searched */

#define MODEL_KEYS 40u

struct model {
    uint32_t key[MODEL_KEYS + 1];
    uint64_t size[MODEL_KEYS + 1];
    unsigned count;
};

static int model_get(struct model *model, uint32_t key)
{
    for (unsigned i = 0; i < model->count; i++) {
        if (model->key[i] != key)
            continue;
        uint64_t size = model->size[i];
        memmove(&model->key[1], &model->key[0], i * sizeof(*model->key));
        memmove(&model->size[1], &model->size[0], i * sizeof(*model->size));
        model->key[0] = key;
        model->size[0] = size;
        return 1;
    }
    return 0;
}

static uint64_t model_bytes(const struct model *model)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < model->count; i++)
        bytes += model->size[i];
    return bytes;
}

static void model_put(struct model *model, uint32_t key, uint64_t size, uint64_t entries_max, uint64_t bytes_max)
{
    if (bytes_max && size > bytes_max)
        return;
    memmove(&model->key[1], &model->key[0], model->count * sizeof(*model->key));
    memmove(&model->size[1], &model->size[0], model->count * sizeof(*model->size));
    model->key[0] = key;
    model->size[0] = size;
    model->count++;
    while ((entries_max && model->count > entries_max) || (bytes_max && model_bytes(model) > bytes_max))
        model->count--;
}

static void compare_with_model(uint64_t entries_max, uint64_t bytes_max)
{
    struct model model = {.count = 0};
    struct bench_lru lru;
    uint64_t random = test_seed();
    bench_lru_init(&lru, MODEL_KEYS, entries_max, bytes_max);
    for (int i = 0; i < 20000; i++) {
        uint32_t key = near__random_below(&random, MODEL_KEYS);
        int there = model_get(&model, key);
        assert_int_equal(bench_lru_get(&lru, key), there);
        if (!there) {
            uint64_t size = 1 + near__random_below(&random, 30);
            model_put(&model, key, size, entries_max, bytes_max);
            bench_lru_put(&lru, key, size);
        }
        assert_int_equal(lru.entries, model.count);
        assert_int_equal(lru.bytes, model_bytes(&model));
    }
    bench_lru_fini(&lru);
}

static void test_exact_lru_is_exact(void **state)
{
    (void)state;
    compare_with_model(10, 0);
    compare_with_model(1, 0);
    compare_with_model(0, 100);
    compare_with_model(0, 15); /* some values never fit */
    compare_with_model(12, 100);
}

static void test_wrong_distributions_are_refused(void **state)
{
    static const char *const wrong[] = {
        "",         "zipf",      "zipf:",    "zipf:0",      "zipf:-1",      "zipf:x",        "zipf:0.9x",
        "zipf:nan", "uniform:1", "hotspot:", "hotspot:0.2", "hotspot:0.2,", "hotspot:0,0.5", "hotspot:0.2,1.5",
        "normal"};
    struct bench_dist dist;
    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
        assert_false(bench_dist_parse(wrong[i], &dist));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zipf_passes_chi_square),
        cmocka_unit_test(test_chi_square_sees_a_wrong_exponent),
        cmocka_unit_test(test_uniform_and_hotspot_pass_chi_square),
        cmocka_unit_test(test_ranks_are_scattered_over_all_keys),
        cmocka_unit_test(test_tape_has_the_mix),
        cmocka_unit_test(test_a_value_belongs_to_its_key_alone),
        cmocka_unit_test(test_exact_lru_is_exact),
        cmocka_unit_test(test_wrong_distributions_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
