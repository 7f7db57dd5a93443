/* SPDX-License-Identifier: BSD-3-Clause
 * Waiting for something another thread or process does, without hoping: the condition is looked at again and again
 * until it holds.  The deadline only ends a test that has failed already, so it may be generous. */
#ifndef NEAR_TESTS_WAIT_H
#define NEAR_TESTS_WAIT_H
#include <stdint.h>
#include <time.h>

static inline int64_t wait_now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static inline void wait_a_moment(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* 1 as soon as condition is true, 0 when it is not within timeout_ms.  Use: assert_true(wait_until(n == 3, 10000)) */
#define wait_until(condition, timeout_ms)                                                                              \
    __extension__({                                                                                                    \
        int64_t wait_end_ = wait_now_ms() + (timeout_ms);                                                              \
        int wait_met_ = 0;                                                                                             \
        while (!(wait_met_ = !!(condition)) && wait_now_ms() < wait_end_)                                              \
            wait_a_moment();                                                                                           \
        wait_met_;                                                                                                     \
    })

#endif
