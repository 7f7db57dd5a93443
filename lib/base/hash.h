/* SPDX-License-Identifier: BSD-3-Clause
 * The keyed hash of keys: XXH3, 64 bits, with a random seed per cache so that hostile keys cannot meet on purpose. */
#ifndef NEAR_BASE_HASH_H
#define NEAR_BASE_HASH_H
#include <stdint.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

static __attribute__((noinline, unused)) uint64_t near__hash(const void *key, size_t size, uint64_t seed)
{
    return XXH3_64bits_withSeed(key, size, seed);
}

/* The same number for keys of 9 to 16 bytes in some twenty instructions, for the hit path: XXH3 as its specification has it (section
 * "medium-small input"), with what depends on the seed alone computed before.  tests/base/test_hash.c compares the two. */
#define NEAR_HASH_SHORT_MIN 9
#define NEAR_HASH_SHORT_MAX 16

struct near__hash_flips {
    uint64_t first, last;
};

static inline struct near__hash_flips near__hash_flips(uint64_t seed)
{
    return (struct near__hash_flips){UINT64_C(0x6782737bea4239b9) + seed, UINT64_C(0xaf56bc3b0996523a) - seed};
}

/* Both halves of the product, exclusive or.  (gcc 12 takes the 128-bit product through memory.) */
static inline __attribute__((always_inline)) uint64_t near__fold_product(uint64_t a, uint64_t b)
{
#if defined(__x86_64__)
    uint64_t low, high;
    __asm__("mulq %3" : "=a"(low), "=d"(high) : "0"(a), "r"(b) : "cc");
    return low ^ high;
#else
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
#endif
}

static inline __attribute__((always_inline)) uint64_t near__hash_short(const void *key, size_t size,
                                                                       const struct near__hash_flips *flips)
{
    uint64_t first, last;
    memcpy(&first, key, sizeof(first));
    memcpy(&last, (const unsigned char *)key + size - 8, sizeof(last));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    first = __builtin_bswap64(first);
    last = __builtin_bswap64(last);
#endif
    first ^= flips->first;
    last ^= flips->last;
    uint64_t hash = size + __builtin_bswap64(first) + last + near__fold_product(first, last);
    hash ^= hash >> 37;
    hash *= UINT64_C(0x165667919e3779f9);
    return hash ^ hash >> 32;
}
#endif
