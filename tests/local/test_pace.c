/* SPDX-License-Identifier: BSD-3-Clause
 * The keeper leaves half of a processor to others while it lowers a limit (keeper.c, near__keeper_pace).  How long it worked is told to
 * it, and how long it would sleep is looked at, so no test depends on the speed of the machine. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "local/local_fixture.h"

#include <linux/futex.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "local/tier.h"

#define WORKED_NS (5 * NEAR_NS_PER_MS)

static unsigned rests, paces;
static int64_t rested_ns;

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
long __wrap_syscall(long number, ...)
{
    va_list list;
    long a[6];
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (number != SYS_futex || a[1] != FUTEX_WAIT_PRIVATE)
        return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    const struct timespec *patience = (const struct timespec *)a[3];
    rests++;
    rested_ns = patience->tv_sec * NEAR_NS_PER_S + patience->tv_nsec;
    return 0;
}

void __real_near__keeper_pace(struct near__local *local, int64_t *used_ns);
void __wrap_near__keeper_pace(struct near__local *local, int64_t *used_ns);
void __wrap_near__keeper_pace(struct near__local *local, int64_t *used_ns)
{
    paces++;
    __real_near__keeper_pace(local, used_ns);
}

static void test_the_keeper_rests_as_long_as_it_worked(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    f.local->manual = 0; /* nobody runs beside us, but rests are taken */
    int64_t before_ns = near__keeper_used_ns(), since_ns = before_ns - WORKED_NS;
    rests = 0;
    __real_near__keeper_pace(f.local, &since_ns);
    assert_int_equal(rests, 1);
    assert_true(rested_ns >= WORKED_NS && rested_ns - WORKED_NS <= near__keeper_used_ns() - before_ns);
    assert_true(since_ns >= before_ns); /* the next one is counted from here */
    int64_t ahead_ns = near__keeper_used_ns() + NEAR_NS_PER_S; /* too little work by far */
    __real_near__keeper_pace(f.local, &ahead_ns);
    assert_int_equal(rests, 1);
    f.local->manual = 1;
    fixture_close(&f);
}

static void test_who_is_waited_for_does_not_rest_on(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    f.local->manual = 0;
    atomic_store(&f.local->keeper.wake, 1);
    int64_t since_ns = near__keeper_used_ns() - WORKED_NS;
    __real_near__keeper_pace(f.local, &since_ns);
    assert_int_equal(atomic_load(&f.local->keeper.wake), 0); /* has been seen to */
    f.local->manual = 1;
    fixture_close(&f);
}

static void test_a_lowered_limit_is_followed_in_steps_between_which_the_keeper_may_rest(void **state)
{
    static const char value[100];
    struct fixture f;
    (void)state;
    fixture_open_sized(&f, 8u << 20);
    for (uint64_t n = 1; n < 60000; n++)
        (void)near__local_install(f.local, f.reader, near__local_ticket(f.local, &n, sizeof(n)), &n, sizeof(n), value, sizeof(value), n,
                                  -1, NEAR_NEVER);
    near__local_keep(f.local);
    uint64_t before = stats_of(&f).evictions, entries = stats_of(&f).local_entries;
    paces = 0;
    near__local_resize(f.local, 1u << 20, 0);
    near__local_keep(f.local);
    uint64_t evicted = stats_of(&f).evictions - before;
    assert_true(evicted > entries / 2);
    assert_true(paces * UINT64_C(512) >= evicted); /* 256 victims in a step at most */
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_keeper_rests_as_long_as_it_worked),
        cmocka_unit_test(test_who_is_waited_for_does_not_rest_on),
        cmocka_unit_test(test_a_lowered_limit_is_followed_in_steps_between_which_the_keeper_may_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
