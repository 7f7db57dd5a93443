/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/condition.h"

#define VIRTUAL_NAP_NS (2 * NEAR_NS_PER_MS)

void near__condition_init(pthread_cond_t *cond)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

void near__condition_wait(const struct near__clock *clock, pthread_cond_t *cond, pthread_mutex_t *lock, int64_t at_ns)
{
    if (at_ns == NEAR_NEVER) {
        pthread_cond_wait(cond, lock);
        return;
    }
    if (clock->virtual_ns)
        at_ns = near__clock_kernel(CLOCK_MONOTONIC) + VIRTUAL_NAP_NS;
    struct timespec at = {.tv_sec = at_ns / NEAR_NS_PER_S, .tv_nsec = at_ns % NEAR_NS_PER_S};
    if (at_ns > 0)
        pthread_cond_timedwait(cond, lock, &at);
}
