/* SPDX-License-Identifier: BSD-3-Clause
 * The processor's own counter of time, for the hit path.
 *
 * A look at it costs a third of a call of the kernel's clock, and it lags behind nothing: CLOCK_MONOTONIC itself is
 * computed from it.  It is used only where the kernel does the same (clock source "tsc": constant rate, the same on all
 * processors), and only for a question whose answer leaves room: is a moment that was computed with half of the bound
 * to spare over?
 *
 * ticks.c keeps its rate; see there. */
#ifndef NEAR_LOCAL_TICKS_H
#define NEAR_LOCAL_TICKS_H
#include <stdint.h>
#include "base/clock.h"

#define NEAR_TICKS_NEVER 0     /* a moment that is over */
#define NEAR_TICKS_ALWAYS (-1) /* one that never is */

#ifdef NEAR_TICKS_HOOK
int64_t near__ticks_for_test(void);
#endif

/* The counter; where there is none that can be trusted, no moment is ever given out, so its value does not matter. */
static inline int64_t near__ticks(void)
{
#if defined(NEAR_TICKS_HOOK)
    return near__ticks_for_test();
#elif defined(__x86_64__)
    return (int64_t)__builtin_ia32_rdtsc();
#else
    return 0;
#endif
}

/* Is it what the kernel's own clock is computed from?  Reads a file; -1: it cannot be read, as at the limit of
 * descriptors. */
int near__ticks_are_trusted(void);

/* What is known of the counter's rate.  One thread at a time. */
struct near__rate {
    int64_t ticks, ns; /* where measuring began */
    double per_ns;     /* what was measured last; 0: nothing yet */
    int usable;
};

void near__rate_init(struct near__rate *rate, const struct near__clock *clock);
/* at_ns in ticks, rather too early than too late; NEAR_TICKS_NEVER when that cannot be told. */
int64_t near__rate_moment(struct near__rate *rate, const struct near__clock *clock, int64_t at_ns);

#endif
