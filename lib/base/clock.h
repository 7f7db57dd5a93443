/* SPDX-License-Identifier: BSD-3-Clause
 * The library's only source of time, so that tests can move it.
 *
 * A clock is a small table of functions; the real one reads the kernel's, a virtual one (tests) is moved by hand.
 * All times are nanoseconds of CLOCK_MONOTONIC as int64_t; deadlines are absolute. */
#ifndef NEAR_BASE_CLOCK_H
#define NEAR_BASE_CLOCK_H
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#define NEAR_NS_PER_MS INT64_C(1000000)
#define NEAR_NS_PER_S INT64_C(1000000000)
#define NEAR_NEVER INT64_MAX

struct near__clock {
    /* NULL: the kernel's.  Otherwise the virtual time, moved by tests with near__clock_advance. */
    _Atomic(int64_t) *virtual_ns;
    int64_t virtual_lag_ns; /* how far the coarse clock is behind it */
};

static inline int64_t near__clock_kernel(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * NEAR_NS_PER_S + ts.tv_nsec;
}

/* Exact time. */
static inline int64_t near__now(const struct near__clock *clock)
{
    if (clock->virtual_ns)
        return atomic_load_explicit(clock->virtual_ns, memory_order_seq_cst);
    return near__clock_kernel(CLOCK_MONOTONIC);
}

/* Coarse time, cheap: never ahead of near__now, usually a tick or two behind it, but for a moment seconds behind when a
 * virtual machine was paused.  So it may rank and estimate, and must decide nothing that anybody was promised. */
static inline int64_t near__now_coarse(const struct near__clock *clock)
{
    if (clock->virtual_ns)
        return atomic_load_explicit(clock->virtual_ns, memory_order_seq_cst) - clock->virtual_lag_ns;
    return near__clock_kernel(CLOCK_MONOTONIC_COARSE);
}

/* Sleeps until `at_ns`, by any clock; with a virtual one in short naps, since nobody wakes us when it moves. */
void near__clock_sleep(const struct near__clock *clock, int64_t at_ns);

void near__clock_advance(_Atomic(int64_t) *virtual_ns, int64_t by_ns);

#endif
