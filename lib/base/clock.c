/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/clock.h"

void near__clock_advance(_Atomic(int64_t) *virtual_ns, int64_t by_ns)
{
    /* seq_cst: pairs with near__now, so that whatever a test did before is seen by threads that see the new time */
    atomic_fetch_add_explicit(virtual_ns, by_ns, memory_order_seq_cst);
}

void near__clock_sleep(const struct near__clock *clock, int64_t at_ns)
{
    for (int64_t left; (left = at_ns - near__now(clock)) > 0;) {
        int64_t nap = clock->virtual_ns ? NEAR_NS_PER_MS : left;
        nanosleep(&(struct timespec){.tv_sec = nap / NEAR_NS_PER_S, .tv_nsec = nap % NEAR_NS_PER_S}, NULL);
    }
}
