/* SPDX-License-Identifier: BSD-3-Clause
 * The keyed hash of keys: XXH3, 64 bits, with a random seed per cache so that hostile keys cannot meet on purpose. */
#ifndef NEAR_BASE_HASH_H
#define NEAR_BASE_HASH_H
#define XXH_INLINE_ALL
#include <xxhash.h>
static inline uint64_t near__hash(const void *key, size_t size, uint64_t seed)
{
    return XXH3_64bits_withSeed(key, size, seed);
}
#endif
