/* SPDX-License-Identifier: BSD-3-Clause
 * Threads that do the same at the same time: pinned to processors, begun together, warmed up, measured, ended. */
#ifndef NEAR_BENCH_TEAM_H
#define NEAR_BENCH_TEAM_H
#include <stdatomic.h>
#include <stdint.h>

#include "base/histogram.h"
#include "bench_ticks.h"

enum bench_phase { BENCH_WARMUP, BENCH_MEASURE, BENCH_END };

struct bench_team {
    _Atomic(int) phase;
    unsigned threads;
    struct bench_scale scale;
    void *arg;
    int64_t measured_ns; /* how long BENCH_MEASURE was; 0: there was none */
};

/* What one thread counts; nobody else writes there. */
struct bench_seat {
    _Alignas(128) struct bench_team *team;
    unsigned number;
    int seen; /* phase */
    uint64_t ops, gets, hits, sets, fills, refused, errors, wrong;
    struct near__histogram times;
};

void bench_seat_turn(struct bench_seat *seat, int phase); /* of the following */

/* To be called between pieces of work.  0: the end has come.  When the measured time begins it clears the counts, or at
 * its end for a thread that had no processor in between. */
static inline int bench_seat_goes_on(struct bench_seat *seat)
{
    int phase = atomic_load_explicit(&seat->team->phase, memory_order_relaxed); /* relaxed: soon enough */
    if (__builtin_expect(phase != seat->seen, 0))
        bench_seat_turn(seat, phase);
    return phase != BENCH_END;
}

/* Runs `work` in that many threads.  work ends once bench_seat_goes_on says so, or earlier when there is nothing left
 * to do; seconds 0: no warm-up, and each thread works until it is done.  Returns the seats (free them), or NULL when
 * threads cannot be made.  Processors are taken in the order in which this process may use them. */
struct bench_seat *bench_team_run(struct bench_team *team, double warmup, double seconds,
                                  void (*work)(struct bench_seat *seat));
/* Sums of the seats' counts and times into a cleared one; operations a second of all together in the measured time.
 * The seats' team is still there. */
double bench_team_sum(const struct bench_seat *seats, unsigned threads, struct bench_seat *ret);

#endif
