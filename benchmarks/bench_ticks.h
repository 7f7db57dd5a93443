/* SPDX-License-Identifier: BSD-3-Clause
 * Short times.  On x86-64 with a constant time-stamp counter a reading costs a third of clock_gettime; what a pair of
 * readings costs by itself is measured and taken off. */
#ifndef NEAR_BENCH_TICKS_H
#define NEAR_BENCH_TICKS_H
#include <stdint.h>

#include "base/clock.h"

#if defined(__x86_64__)
#include <x86intrin.h>
/* lfence: what was asked for before has been done, what comes after has not begun. */
static inline uint64_t bench_ticks(void)
{
    _mm_lfence();
    uint64_t ticks = __rdtsc();
    _mm_lfence();
    return ticks;
}
#else
static inline uint64_t bench_ticks(void)
{
    return (uint64_t)near__clock_kernel(CLOCK_MONOTONIC);
}
#endif

struct bench_scale {
    double ns;      /* of one tick */
    uint64_t empty; /* ticks between two readings with nothing in between */
};
/* Takes 20 ms; before any threads run. */
void bench_ticks_calibrate(struct bench_scale *ret);
static inline uint64_t bench_ticks_ns(const struct bench_scale *scale, uint64_t ticks)
{
    return ticks > scale->empty ? (uint64_t)((double)(ticks - scale->empty) * scale->ns) : 0;
}
static inline int64_t bench_now(void)
{
    return near__clock_kernel(CLOCK_MONOTONIC);
}
/* Sleeps; not before the time is over. */
void bench_sleep(double seconds);

#endif
