/* SPDX-License-Identifier: BSD-3-Clause
 * When a grace period begins: not while a section stands still, as long as that can be waited for (rcu.c, "The moment"). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "local/local_fixture.h"
#include "local/rcu.h"

#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* A thread inside a section, which leaves when it is told to. */
static _Atomic(int) inside, may_leave, left;
static pthread_t holder;

static void *holds(void *unused)
{
    (void)unused;
    near__local_section_enter();
    inside = 1;
    while (!may_leave)
        sched_yield();
    near__local_section_leave();
    left = 1;
    return NULL;
}

static void let_leave(void)
{
    may_leave = 1;
    while (!left)
        sched_yield();
}

/* What the library and liburcu do while they wait: the library sleeps for a moment (linked with --wrap), liburcu polls nothing. */
static unsigned moments, wakes, polls, leaves_at; /* the moment at which it leaves */
static void (*in_moment)(void);

long __real_syscall(long number, ...);
long __wrap_syscall(long number, void *word, int operation, uint32_t value, const struct timespec *time);
long __wrap_syscall(long number, void *word, int operation, uint32_t value, const struct timespec *time)
{
    if (word != &near__rcu_moment)
        return __real_syscall(number, word, operation, value, time, NULL, 0);
    if (operation == FUTEX_WAKE_PRIVATE) {
        wakes++;
        return 1;
    }
    assert_int_equal(operation, FUTEX_WAIT_PRIVATE);
    assert_int_equal(value, near__rcu_moment);
    assert_true(time->tv_sec == 0 && time->tv_nsec < 1000000);
    if (in_moment)
        in_moment();
    if (++moments == leaves_at)
        let_leave();
    return 0;
}

__attribute__((visibility("default"))) int poll(struct pollfd *files, nfds_t count, int ms); /* liburcu's, too */
int poll(struct pollfd *files, nfds_t count, int ms)
{
    if (count)
        return (int)__real_syscall(SYS_poll, files, count, ms);
    polls++;
    let_leave();
    return 0;
}

static void wait_for_holder(unsigned at)
{
    inside = may_leave = left = 0;
    moments = polls = wakes = 0;
    leaves_at = at;
    assert_int_equal(pthread_create(&holder, NULL, holds, NULL), 0);
    while (!inside)
        sched_yield();
    near__local_synchronize();
    assert_true(left);
    pthread_join(holder, NULL);
}

static void test_a_grace_period_begins_when_no_section_stands_still(void **state)
{
    (void)state;
    near__local_section_enter(); /* registers this thread, too */
    near__local_section_leave();
    for (unsigned at = 1; at < 20; at += 6) { /* threads whose records liburcu gives to the next */
        wait_for_holder(at);
        assert_int_equal(moments, at);
        assert_int_equal(polls, 0);
    }
}

static void test_a_section_that_never_moves_is_left_to_liburcu(void **state)
{
    (void)state;
    wait_for_holder(0);
    assert_in_range(moments, 1, 1000);
    assert_true(polls > 0);
}

/* Whoever has filled on the processor that the waiting thread has let go of wakes it, once; whoever has on another leaves it alone. */
static void fill_here(void)
{
    near__rcu_filled();
    near__rcu_filled();
    assert_int_equal(near__rcu_moment, 0);
}
static struct fixture f; /* its keeper is this thread */
static void fill_a_tier(void)
{
    assert_true(put(&f, "k", "v", ++f.config.seed));
    assert_int_equal(near__rcu_moment, 0);
}
static void fill_elsewhere(void)
{
    uint32_t there = near__rcu_moment + 1;
    near__rcu_moment = there;
    near__rcu_filled();
    assert_int_equal(near__rcu_moment, there);
}

static void test_a_moment_is_given_on_the_processor_that_waits_for_it(void **state)
{
    (void)state;
    cpu_set_t before, here;
    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    CPU_ZERO(&here);
    CPU_SET((size_t)sched_getcpu(), &here);
    assert_int_equal(sched_setaffinity(0, sizeof(here), &here), 0);
    in_moment = fill_here;
    wait_for_holder(3);
    assert_int_equal(wakes, 3);
    fixture_open(&f);
    in_moment = fill_a_tier;
    wait_for_holder(3);
    assert_int_equal(wakes, 3);
    fixture_close(&f);
    in_moment = fill_elsewhere;
    wait_for_holder(3);
    assert_int_equal(wakes, 0);
    in_moment = NULL;
    near__rcu_filled(); /* nobody waits any more */
    assert_int_equal(wakes, 0);
    assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
}

static void test_nobody_waits_for_sections_that_have_ended(void **state)
{
    (void)state;
    moments = polls = wakes = 0;
    near__local_synchronize();
    assert_int_equal(moments, 0);
    assert_int_equal(polls, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_grace_period_begins_when_no_section_stands_still),
        cmocka_unit_test(test_a_section_that_never_moves_is_left_to_liburcu),
        cmocka_unit_test(test_a_moment_is_given_on_the_processor_that_waits_for_it),
        cmocka_unit_test(test_nobody_waits_for_sections_that_have_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
