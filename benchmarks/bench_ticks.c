/* SPDX-License-Identifier: BSD-3-Clause */
#include "bench_ticks.h"

#include <errno.h>

#define CALIBRATION_NS (20 * NEAR_NS_PER_MS)
#define PAIRS 10000

void bench_ticks_calibrate(struct bench_scale *ret)
{
    int64_t begin = bench_now(), end;
    uint64_t first = bench_ticks(), last;
    ret->empty = UINT64_MAX;
    for (int i = 0; i < PAIRS; i++) {
        uint64_t from = bench_ticks(), to = bench_ticks();
        if (to - from < ret->empty)
            ret->empty = to - from;
    }
    do {
        end = bench_now();
        last = bench_ticks();
    } while (end - begin < CALIBRATION_NS);
    ret->ns = (double)(end - begin) / (double)(last - first);
}

void bench_sleep(double seconds)
{
    int64_t end = bench_now() + (int64_t)(seconds * (double)NEAR_NS_PER_S);
    struct timespec until = {.tv_sec = end / NEAR_NS_PER_S, .tv_nsec = end % NEAR_NS_PER_S};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        ;
}
