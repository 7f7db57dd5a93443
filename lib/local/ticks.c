/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How fast the processor's counter runs.
 *
 * Measured against CLOCK_MONOTONIC between two looks at least SPAN_NS and at most a minute or so apart; a look that was
 * interrupted is done again.  What that lacks (LOOK_TICKS in SPAN_NS: below a thousandth) and what the kernel slews its
 * clock (500 ppm at most) stay far below the twentieth by which every moment is drawn near; a reader would have to be
 * wrong by half of its bound to serve what it should not.
 *
 * The kernel may give up on the counter later, when it finds processors whose counters differ, which no rate tells.
 * The keeper asks it once a minute (keeper.c), and until it says yes again no moment is given out.
 *
 * A counter whose rate is ever found to have changed by more than a twentieth is not used any more (a virtual machine
 * moved to another host).
 *
 * A stopped process and a paused virtual machine do not stop the counter, or the kernel's clock, which is computed from
 * it, would stand still with it.  Some sleep states of a machine reset the counter, and the kernel goes on from there:
 * moments that were told before do not come for long.  That of the time is told anew with the keeper's next round, that
 * of a proof with the next proof, or taken back when the proof lapses by the kernel's clock (near__proof_tick). */
#include "local/ticks.h"

#include <stdio.h>
#include <string.h>

#define SPAN_NS (100 * NEAR_NS_PER_MS)
#define SPAN_MAX_NS (60 * NEAR_NS_PER_S) /* then measuring begins anew, so that a change shows */
#define LOOK_TICKS 100000 /* some 30 us: more between two readings of the counter means that something came between */
#define LOOKS 4

#if defined(__x86_64__)
int near__ticks_are_trusted(void)
{
    char name[16] = "";
    FILE *file = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");
    if (!file)
        return -1;
    int trusted = fgets(name, sizeof(name), file) && strcmp(name, "tsc\n") == 0;
    fclose(file);
    return trusted;
}
#else
int near__ticks_are_trusted(void)
{
    return 0;
}
#endif

/* Counter and clock at one time; the counter's reading is the earlier.  0: always interrupted. */
static int look(const struct near__clock *clock, int64_t *ret_ticks, int64_t *ret_ns)
{
    for (int i = 0; i < LOOKS; i++) {
        *ret_ticks = near__ticks();
        *ret_ns = near__now(clock);
        if (near__ticks() - *ret_ticks < LOOK_TICKS)
            return 1;
    }
    return 0;
}

void near__rate_init(struct near__rate *rate, const struct near__clock *clock)
{
    /* a virtual clock (tests) does not run with the counter */
    *rate = (struct near__rate){.usable = !clock->virtual_ns && near__ticks_are_trusted() > 0};
    if (rate->usable)
        rate->usable = look(clock, &rate->ticks, &rate->ns);
}

static void measure(struct near__rate *rate, int64_t ticks, int64_t now_ns)
{
    int64_t span_ns = now_ns - rate->ns;
    if (span_ns < SPAN_NS)
        return;
    double per_ns = (double)(ticks - rate->ticks) / (double)span_ns;
    if (per_ns <= 0 || (rate->per_ns > 0 && (per_ns < rate->per_ns * 0.95 || per_ns > rate->per_ns * 1.05)))
        rate->usable = 0;
    rate->per_ns = per_ns;
    if (span_ns > SPAN_MAX_NS) {
        rate->ticks = ticks;
        rate->ns = now_ns;
    }
}

int64_t near__rate_moment(struct near__rate *rate, const struct near__clock *clock, int64_t at_ns)
{
    int64_t ticks, now_ns;
    if (!rate->usable || !look(clock, &ticks, &now_ns))
        return NEAR_TICKS_NEVER;
    measure(rate, ticks, now_ns);
    if (!rate->usable || rate->per_ns <= 0 || at_ns <= now_ns || at_ns - now_ns > SPAN_MAX_NS)
        return NEAR_TICKS_NEVER;
    return ticks + (int64_t)((double)(at_ns - now_ns) * 0.95 * rate->per_ns);
}
