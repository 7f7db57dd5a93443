/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pthread_setaffinity_np */
#endif
#include "bench_team.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

struct start {
    struct bench_seat *seat;
    void (*work)(struct bench_seat *seat);
    pthread_barrier_t *barrier;
    pthread_t thread;
};

static void clear_counts(struct bench_seat *seat)
{
    seat->ops = seat->gets = seat->hits = seat->sets = seat->fills = seat->refused = 0;
    memset(&seat->times, 0, sizeof(seat->times)); /* errors and wrong values of the warm-up stay */
}

void bench_seat_turn(struct bench_seat *seat, int phase)
{
    if (phase == BENCH_MEASURE || seat->seen == BENCH_WARMUP)
        clear_counts(seat);
    seat->seen = phase;
}

/* The n-th processor of those we may use, round and round; only advice. */
static void pin(unsigned n)
{
    cpu_set_t ours, one;
    if (sched_getaffinity(0, sizeof(ours), &ours) != 0)
        return;
    int left = (int)(n % (unsigned)CPU_COUNT(&ours)), cpu = 0;
    while (!CPU_ISSET(cpu, &ours) || left-- > 0)
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    (void)pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
}

static void *run(void *arg)
{
    struct start *start = arg;
    pin(start->seat->number);
    pthread_barrier_wait(start->barrier);
    start->work(start->seat);
    return NULL;
}

static struct bench_seat *make_seats(struct bench_team *team)
{
    struct bench_seat *seats = aligned_alloc(_Alignof(struct bench_seat), team->threads * sizeof(*seats));
    if (!seats)
        return NULL;
    memset(seats, 0, team->threads * sizeof(*seats));
    for (unsigned i = 0; i < team->threads; i++) {
        seats[i].team = team;
        seats[i].number = i;
        seats[i].seen = BENCH_WARMUP;
    }
    return seats;
}

static void lead(struct bench_team *team, double warmup, double seconds)
{
    if (seconds <= 0)
        return;
    bench_sleep(warmup);
    int64_t began_ns = bench_now();
    atomic_store_explicit(&team->phase, BENCH_MEASURE, memory_order_relaxed); /* relaxed, both: nothing else is told */
    bench_sleep(seconds);
    atomic_store_explicit(&team->phase, BENCH_END, memory_order_relaxed);
    team->measured_ns = bench_now() - began_ns;
}

struct bench_seat *bench_team_run(struct bench_team *team, double warmup, double seconds,
                                  void (*work)(struct bench_seat *seat))
{
    struct start starts[BENCH_THREADS_MAX];
    pthread_barrier_t barrier;
    struct bench_seat *seats = make_seats(team);
    if (!seats || pthread_barrier_init(&barrier, NULL, team->threads + 1) != 0) {
        free(seats);
        return NULL;
    }
    atomic_store_explicit(&team->phase, BENCH_WARMUP, memory_order_relaxed); /* relaxed: threads are made after it */
    for (unsigned i = 0; i < team->threads; i++) {
        starts[i] = (struct start){.seat = &seats[i], .work = work, .barrier = &barrier};
        if (pthread_create(&starts[i].thread, NULL, run, &starts[i]) != 0) {
            bench_say("cannot make %u threads", team->threads);
            exit(BENCH_FAILED); /* those that were made wait at the barrier */
        }
    }
    pthread_barrier_wait(&barrier);
    lead(team, warmup, seconds);
    for (unsigned i = 0; i < team->threads; i++)
        pthread_join(starts[i].thread, NULL);
    pthread_barrier_destroy(&barrier);
    return seats;
}

double bench_team_sum(const struct bench_seat *seats, unsigned threads, struct bench_seat *ret)
{
    int64_t measured_ns = seats->team->measured_ns;
    for (unsigned i = 0; i < threads; i++) {
        const struct bench_seat *seat = &seats[i];
        ret->ops += seat->ops;
        ret->gets += seat->gets;
        ret->hits += seat->hits;
        ret->sets += seat->sets;
        ret->fills += seat->fills;
        ret->refused += seat->refused;
        ret->errors += seat->errors;
        ret->wrong += seat->wrong;
        near__histogram_merge(&ret->times, &seat->times);
    }
    return measured_ns > 0 ? (double)ret->ops * 1e9 / (double)measured_ns : 0;
}
