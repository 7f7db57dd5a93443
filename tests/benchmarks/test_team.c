/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Threads of the benchmarks: what they do before the measured time is left out, also of one that sleeps through it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "bench_team.h"

#define WARM_OPS 1000000u
#define WARMUP_S 0.02
#define SECONDS 0.1
#define LATE_S 0.5

static void count(struct bench_seat *seat, uint64_t ops)
{
    seat->ops += ops;
    near__histogram_record(&seat->times, ops);
}

/* The second thread comes back when all is over, as on a machine with very many threads a processor. */
static void work(struct bench_seat *seat)
{
    count(seat, WARM_OPS);
    if (seat->number == 1)
        bench_sleep(LATE_S);
    while (bench_seat_goes_on(seat)) {
        count(seat, 1);
        bench_sleep(0.001);
    }
}

static void test_the_warm_up_is_left_out(void **state)
{
    struct bench_team team = {.threads = 2};
    struct bench_seat sum = {.number = 0};
    (void)state;
    struct bench_seat *seats = bench_team_run(&team, WARMUP_S, SECONDS, work);
    assert_non_null(seats);
    double rate = bench_team_sum(seats, team.threads, &sum);
    assert_in_range(seats[0].ops, 1, WARM_OPS - 1);
    assert_int_equal(seats[1].ops, 0);
    assert_int_equal(near__histogram_count(&sum.times), sum.ops);
    assert_true(team.measured_ns >= (int64_t)(SECONDS * 1e9));
    assert_true(rate > 0 && rate <= (double)sum.ops / SECONDS);
    free(seats);
}

static void count_once(struct bench_seat *seat)
{
    seat->ops++;
}

static void test_what_is_not_measured_has_no_rate(void **state)
{
    struct bench_team team = {.threads = 2};
    struct bench_seat sum = {.number = 0};
    (void)state;
    struct bench_seat *seats = bench_team_run(&team, 0, 0, count_once);
    assert_non_null(seats);
    assert_true(bench_team_sum(seats, team.threads, &sum) == 0);
    assert_int_equal(sum.ops, 2);
    free(seats);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_warm_up_is_left_out),
        cmocka_unit_test(test_what_is_not_measured_has_no_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
