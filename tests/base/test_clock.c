/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/clock.h"
#include "base/hash.h"
#include "base/random.h"

static void test_virtual_time_moves_only_by_hand(void **state)
{
    _Atomic(int64_t) now = 5;
    struct near__clock clock = {.virtual_ns = &now};
    (void)state;
    assert_int_equal(near__now(&clock), 5);
    near__clock_advance(&now, NEAR_NS_PER_S);
    assert_int_equal(near__now(&clock), NEAR_NS_PER_S + 5);
    assert_int_equal(near__now_coarse(&clock), NEAR_NS_PER_S + 5);
    clock.virtual_lag_ns = NEAR_NS_PER_S;
    assert_int_equal(near__now(&clock), NEAR_NS_PER_S + 5);
    assert_int_equal(near__now_coarse(&clock), 5);
}

/* By how much it is behind is up to the machine, and nothing rests on it. */
static void test_coarse_time_is_never_ahead(void **state)
{
    struct near__clock clock = {.virtual_ns = NULL};
    (void)state;
    for (int i = 0; i < 10000; i++) {
        int64_t coarse = near__now_coarse(&clock);
        assert_true(coarse <= near__now(&clock));
    }
}

static void test_splitmix64_gives_the_published_numbers(void **state)
{
    uint64_t seed = 1234567;
    (void)state;
    assert_true(near__random_next(&seed) == UINT64_C(6457827717110365317));
    assert_true(near__random_next(&seed) == UINT64_C(3203168211198807973));
    for (int i = 0; i < 10000; i++) {
        assert_true(near__random_below(&seed, 7) < 7);
        assert_int_equal(near__random_below(&seed, 1), 0);
    }
}

static void test_seeds_from_the_kernel_differ(void **state)
{
    uint64_t a = 0, b = 0;
    (void)state;
    assert_int_equal(near__random_seed(&a, sizeof a), 0);
    assert_int_equal(near__random_seed(&b, sizeof b), 0);
    assert_true(a != b);
    assert_int_equal(near__random_seed(NULL, 0), 0);
}

static void test_hash_depends_on_every_byte_and_on_the_seed(void **state)
{
    unsigned char key[40] = {0};
    uint64_t plain = near__hash(key, sizeof key, 1);
    (void)state;
    assert_true(plain == near__hash(key, sizeof key, 1));
    assert_true(plain != near__hash(key, sizeof key, 2));
    assert_true(plain != near__hash(key, sizeof key - 1, 1));
    for (size_t i = 0; i < sizeof key; i++) {
        key[i] ^= 1;
        assert_true(plain != near__hash(key, sizeof key, 1));
        key[i] ^= 1;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_virtual_time_moves_only_by_hand),
        cmocka_unit_test(test_coarse_time_is_never_ahead),
        cmocka_unit_test(test_splitmix64_gives_the_published_numbers),
        cmocka_unit_test(test_seeds_from_the_kernel_differ),
        cmocka_unit_test(test_hash_depends_on_every_byte_and_on_the_seed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
