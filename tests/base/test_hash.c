/* SPDX-License-Identifier: BSD-3-Clause
 * The hashes: every length is keyed, and keys that count, as keys do, meet no more often than chance has it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/hash.h"
#include "base/random.h"

static void test_the_seed_changes_every_length(void **state)
{
    static const char key[64] = "a key";
    struct near__secrets one = near__secrets(1), two = near__secrets(2);
    (void)state;
    for (size_t size = 0; size <= sizeof(key); size++) {
        assert_true(near__hash(key, size, 1) != near__hash(key, size, 2));
        assert_true(near__key_hash(key, size, &one) != near__key_hash(key, size, &two));
    }
}

/* Words of a short key overlap: those of "aaaaaaaa" and "aaaaaaaaa" are the same. */
static void test_the_size_is_part_of_a_short_key(void **state)
{
    static const char key[] = "aaaaaaaaaaaaaaaa";
    struct near__secrets secrets = near__secrets(1);
    (void)state;
    for (size_t a = NEAR_HASH_SHORT_MIN; a <= NEAR_HASH_SHORT_MAX; a++)
        for (size_t b = NEAR_HASH_SHORT_MIN; b < a; b++)
            assert_true(near__key_hash(key, a, &secrets) != near__key_hash(key, b, &secrets));
}

static void test_every_bit_of_a_short_key_changes_both_halves(void **state)
{
    struct near__secrets secrets = near__secrets(1);
    (void)state;
    for (size_t size = NEAR_HASH_SHORT_MIN; size <= NEAR_HASH_SHORT_MAX; size++) {
        unsigned char key[NEAR_HASH_SHORT_MAX] = "0123456789abcde";
        uint64_t before = near__key_hash(key, size, &secrets);
        for (size_t bit = 0; bit < 8 * size; bit++) {
            key[bit / 8] ^= (unsigned char)(1u << bit % 8);
            uint64_t changed = near__key_hash(key, size, &secrets) ^ before;
            assert_true(changed >> 32 && (changed & 0xffffffff));
            key[bit / 8] ^= (unsigned char)(1u << bit % 8);
        }
    }
}

/* ---------------------------------------------------------------- keys that count */

#define KEYS 65536u
#define BUCKETS (KEYS / 4)
#define SLOTS 8
#define SEEDS 64

/* The n-th key of a kind; its size. */
static size_t make_key(unsigned kind, unsigned n, unsigned char key[32])
{
    switch (kind) {
    case 0:
        return (size_t)snprintf((char *)key, 32, "key:%012u", n);
    case 1:
        return (size_t)snprintf((char *)key, 32, "%08x", n);
    case 2:
        return (size_t)snprintf((char *)key, 32, "kkkkkkkk%08x", n);
    case 3:
        return (size_t)snprintf((char *)key, 32, "user:%u:x", n + 100000);
    case 4:
        memset(key, 0, 16);
        memcpy(key, &n, sizeof(n));
        return 16; /* a number at either end */
    case 5:
        memset(key, 0, 16);
        memcpy(key + 8, &n, sizeof(n));
        return 16;
    default:
        memset(key, 0, 16);
        key[7] = (unsigned char)n;
        key[15] = (unsigned char)(n >> 8);
        return 16;
    }
}
#define KINDS 7

/* Keys beyond the eighth of their bucket, and keys that meet another one's tag there. */
static void count_meetings(unsigned kind, uint64_t seed, unsigned *ret_beyond, unsigned *ret_same)
{
    static uint16_t tag[BUCKETS][64];
    static unsigned char count[BUCKETS];
    struct near__secrets secrets = near__secrets(seed);
    memset(count, 0, sizeof(count));
    *ret_beyond = *ret_same = 0;
    for (unsigned n = 0; n < KEYS; n++) {
        unsigned char key[32];
        size_t size = make_key(kind, n, key);
        uint64_t hash = near__key_hash(key, size, &secrets), bucket = (hash >> 32) * BUCKETS >> 32;
        for (unsigned i = 0; i < count[bucket]; i++)
            *ret_same += tag[bucket][i] == (uint16_t)hash;
        *ret_beyond += count[bucket] >= SLOTS;
        if (count[bucket] < 64)
            tag[bucket][count[bucket]++] = (uint16_t)hash;
    }
}

/* By chance 2.1 % of the keys are beyond the eighth at four a bucket (the mean of max(0, X - 8) over 4, X of Poisson's
 * distribution: 0.0084 of the keys), and two in a hundred thousand or so have the tag of another. */
static void test_keys_that_count_fill_buckets_evenly(void **state)
{
    unsigned most_beyond = 0, most_same = 0;
    (void)state;
    double chance = 0, share = exp(-4.0);
    for (int x = 1; x < 64; x++) {
        share *= 4.0 / x;
        chance += x > SLOTS ? (x - SLOTS) * share / 4 : 0;
    }
    for (unsigned kind = 0; kind < KINDS; kind++)
        for (uint64_t seed = 1; seed <= SEEDS; seed++) {
            unsigned beyond, same;
            count_meetings(kind, seed, &beyond, &same);
            if (beyond > most_beyond)
                most_beyond = beyond;
            if (same > most_same)
                most_same = same;
            if (beyond > 1.5 * chance * KEYS || same > 32)
                print_error("kind %u, seed %u: %u beyond the eighth, %u with another's tag\n", kind, (unsigned)seed,
                            beyond, same);
            assert_true(beyond <= 1.5 * chance * KEYS && same <= 32);
        }
    print_message("of %u keys at most %u beyond the eighth (by chance %.0f), %u with another's tag\n", KEYS,
                  most_beyond, chance * KEYS, most_same);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_seed_changes_every_length),
        cmocka_unit_test(test_the_size_is_part_of_a_short_key),
        cmocka_unit_test(test_every_bit_of_a_short_key_changes_both_halves),
        cmocka_unit_test(test_keys_that_count_fill_buckets_evenly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
