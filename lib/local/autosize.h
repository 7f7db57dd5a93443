/* SPDX-License-Identifier: BSD-3-Clause
 * How large should the tier be?  Decides for a wanted hit ratio, within limits, and under memory pressure; the essay is
 * in autosize.c.  The keeper asks and carries out; everybody may change the wishes and read what was decided. */
#ifndef NEAR_LOCAL_AUTOSIZE_H
#define NEAR_LOCAL_AUTOSIZE_H
#include <stdatomic.h>
#include <stdint.h>
#include "base/pressure.h"
#include "nearcache.h"

/* What the curve tells (near__tap_advise_size). */
struct near__advice {
    uint64_t samples;  /* reads of the sample, ever */
    double expected;   /* hit ratio at the present size; below 0: nothing is known */
    uint64_t reaching; /* least bytes with the ratio asked for, within the limits; 0: none reaches it */
    uint64_t ample;    /* the same for a ratio a little above it; 0: likewise */
};

/* What there is at a moment. */
struct near__auto_view {
    int64_t now_ns;
    uint64_t size;                               /* the budget, bytes */
    uint64_t used;                               /* of it, without what waits to be freed */
    uint64_t fixed;                              /* of that, what no eviction gives back */
    const struct near__pressure_level *pressure; /* NULL: nobody wants to know */
    const struct near__advice *advice;           /* NULL: not now */
};

struct near__autosize {
    /* Wishes: written by anybody, each alone, looked at anew each time; relaxed, all: an old one is used once more at
     * worst. */
    _Atomic(uint32_t) hit_permille;         /* 0: off */
    _Atomic(uint64_t) bytes_min, bytes_max; /* bytes_max 0: by_hand */
    _Atomic(uint64_t) by_hand;              /* the size that was set last by somebody else */
    _Atomic(uint32_t) hands;                /* times that this was done */
    /* What was decided: written by the keeper; relaxed, all: statistics. */
    _Atomic(uint64_t) wanted, cap, expected_permille, grown, shrunk, pressed;
    _Atomic(uint32_t) reason; /* a near_auto_reason */
    /* the keeper's alone */
    int64_t target_due_ns, recovery_due_ns;
    near_auto_reason why; /* of the goal */
    uint64_t goal;        /* what the target asked for, step by step; 0: not begun */
    uint64_t samples;     /* at the last decision */
    uint64_t least;       /* the largest of the smaller sizes that were enough lately */
    uint32_t smaller;     /* how often in a row a smaller size was enough */
    uint32_t hands_seen;
};

void near__autosize_init(struct near__autosize *autosize, uint64_t size);
/* The limits in force.  fixed: no size below twice that is of any use. */
void near__autosize_limits(const struct near__autosize *autosize, uint64_t fixed, uint64_t *ret_min, uint64_t *ret_max);
/* The curve should be asked: hit ratios `reaching` and `ample`. */
int near__autosize_wants_advice(const struct near__autosize *autosize, int64_t now_ns);
void near__autosize_ratios(const struct near__autosize *autosize, double *ret_reaching, double *ret_ample);
/* The size that the tier should have now; view->size: leave it. */
uint64_t near__autosize_decide(struct near__autosize *autosize, const struct near__auto_view *view);
/* The tier has it. */
void near__autosize_done(struct near__autosize *autosize, uint64_t before, uint64_t size);
/* Somebody else has set the size.  Any thread. */
void near__autosize_set_by_hand(struct near__autosize *autosize, uint64_t size);
uint64_t near__autosize_by_hand(const struct near__autosize *autosize);
int near__autosize_is_on(const struct near__autosize *autosize);

#endif
