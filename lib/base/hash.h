/* SPDX-License-Identifier: BSD-3-Clause
 * Hashes.
 *
 * near__hash       XXH3, 64 bits, for whatever may be long or is written to disk: the same number for ever.
 * near__key_hash   what the local tier finds keys by, with secrets that every cache draws for itself, so that hostile
 *                  keys cannot meet on purpose.  It never leaves the process.  Keys of 8 to 16 bytes are hashed in a
 *                  dozen instructions on the hit path, all others by near__hash.
 *
 * Short keys are two words that may overlap: each is mixed with a secret of its own, their product is folded (both
 * halves, exclusive or), and so is the product of that and the size with a third secret.  One fold alone would map keys
 * that differ in one word like a counter to an arithmetic progression, which for one seed in twenty or so fills some
 * buckets and leaves others empty; the second one breaks it.  (Folded products are wyhash's; tests/base/test_hash.c
 * compares buckets and tags of counters with what chance gives.) */
#ifndef NEAR_BASE_HASH_H
#define NEAR_BASE_HASH_H
#include <stdint.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include "base/compiler.h"

static __attribute__((noinline, unused)) uint64_t near__hash(const void *key, size_t size, uint64_t seed)
{
    return XXH3_64bits_withSeed(key, size, seed);
}

#define NEAR_HASH_SHORT_MIN 8
#define NEAR_HASH_SHORT_MAX 16

struct near__secrets {
    uint64_t first, last, fold, seed;
};

/* What follows from a secret seed; knowing one of them does not tell the others. */
static inline struct near__secrets near__secrets(uint64_t seed)
{
    return (struct near__secrets){near__hash("first", 5, seed), near__hash("last", 4, seed),
                                  near__hash("fold", 4, seed) | 1, seed};
}

static inline int near__hash_is_short(size_t size)
{
    return size - NEAR_HASH_SHORT_MIN <= NEAR_HASH_SHORT_MAX - NEAR_HASH_SHORT_MIN;
}

/* Both halves of the product, exclusive or.  (gcc 12 takes the 128-bit product through memory.) */
NEAR_INLINE uint64_t near__fold_product(uint64_t a, uint64_t b)
{
#if defined(__x86_64__)
    uint64_t low, high;
    __asm__("mulq %3" : "=a"(low), "=d"(high) : "0"(a), "rm"(b) : "cc");
    return low ^ high;
#else
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
#endif
}

NEAR_INLINE uint64_t near__hash_short(const void *key, size_t size, const struct near__secrets *secrets)
{
    uint64_t first, last;
    memcpy(&first, key, sizeof(first));
    memcpy(&last, (const unsigned char *)key + size - 8, sizeof(last));
    return near__fold_product(near__fold_product(first ^ secrets->first, last ^ secrets->last) + size, secrets->fold);
}

static inline uint64_t near__key_hash(const void *key, size_t size, const struct near__secrets *secrets)
{
    return near__hash_is_short(size) ? near__hash_short(key, size, secrets) : near__hash(key, size, secrets->seed);
}
#endif
