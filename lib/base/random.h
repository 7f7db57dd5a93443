/* SPDX-License-Identifier: BSD-3-Clause
 * splitmix64: small, seedable, good enough for sampling and jitter; never for secrets. */
#ifndef NEAR_BASE_RANDOM_H
#define NEAR_BASE_RANDOM_H
#include <stdint.h>

static inline uint64_t near__random_next(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}
/* 0 … bound-1, bound > 0 (multiply-shift; bias below 2^-32) */
static inline uint32_t near__random_below(uint64_t *state, uint32_t bound)
{
    return (uint32_t)(((near__random_next(state) >> 32) * bound) >> 32);
}

/* Bytes from the kernel; 0 or -1. */
int near__random_seed(void *bytes, unsigned size);

#endif
