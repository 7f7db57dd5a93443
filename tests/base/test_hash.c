/* SPDX-License-Identifier: BSD-3-Clause
 * The hash of keys: the inlined form for short ones gives the numbers of the documented one. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/hash.h"
#include "base/random.h"

static void test_short_keys_hash_as_others_do(void **state)
{
    unsigned char key[NEAR_HASH_SHORT_MAX];
    uint64_t random = 1;
    (void)state;
    for (size_t i = 0; i < sizeof(key); i++)
        key[i] = (unsigned char)near__random_next(&random);
    for (size_t size = NEAR_HASH_SHORT_MIN; size <= sizeof(key); size++)
        for (int round = 0; round < 8; round++) {
            uint64_t seed = round ? near__random_next(&random) : 0;
            struct near__hash_flips flips = near__hash_flips(seed);
            assert_true(near__hash_short(key, size, &flips) == near__hash(key, size, seed));
        }
}

static void test_the_seed_changes_every_length(void **state)
{
    static const char key[64] = "a key";
    (void)state;
    for (size_t size = 0; size <= sizeof(key); size++)
        assert_true(near__hash(key, size, 1) != near__hash(key, size, 2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_short_keys_hash_as_others_do),
        cmocka_unit_test(test_the_seed_changes_every_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
