/* SPDX-License-Identifier: BSD-3-Clause
 * When a grace period begins: not while a section stands still, as long as that can be waited for (rcu.c, "The
 * moment"). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "local/local_fixture.h"

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

/* What the library and liburcu do while they wait: the library sleeps for a moment (linked with --wrap), liburcu polls
 * nothing. */
static unsigned moments, polls, leaves_at; /* the moment at which it leaves */

int __wrap_nanosleep(const struct timespec *time, struct timespec *left_over);
int __wrap_nanosleep(const struct timespec *time, struct timespec *left_over)
{
    (void)time, (void)left_over;
    if (++moments == leaves_at)
        let_leave();
    return 0;
}

__attribute__((visibility("default"))) int poll(struct pollfd *files, nfds_t count, int ms); /* liburcu's, too */
int poll(struct pollfd *files, nfds_t count, int ms)
{
    if (count)
        return (int)syscall(SYS_poll, files, count, ms);
    polls++;
    let_leave();
    return 0;
}

static void wait_for_holder(unsigned at)
{
    inside = may_leave = left = 0;
    moments = polls = 0;
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

static void test_nobody_waits_for_sections_that_have_ended(void **state)
{
    (void)state;
    moments = polls = 0;
    near__local_synchronize();
    assert_int_equal(moments, 0);
    assert_int_equal(polls, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_grace_period_begins_when_no_section_stands_still),
        cmocka_unit_test(test_a_section_that_never_moves_is_left_to_liburcu),
        cmocka_unit_test(test_nobody_waits_for_sections_that_have_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
