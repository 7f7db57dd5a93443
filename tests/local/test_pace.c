/* SPDX-License-Identifier: BSD-3-Clause
 * The keeper leaves half of a processor to others while it lowers a limit (keeper.c, near__keeper_pace).  How long it
 * worked is told to it, and how long it would sleep is looked at, so no test depends on the speed of the machine. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "local/local_fixture.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <urcu-bp.h>

#include "local/tier.h"
#include "support/allocfail.h"

#define WORKED_NS (5 * NEAR_NS_PER_MS)

static unsigned rests, wakes, paces, grace_periods;
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
    wakes += number == SYS_futex && a[1] == FUTEX_WAKE_PRIVATE;
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

static void (*meanwhile)(void); /* what others do during a grace period; NULL: nothing */

void __real_near__rcu_synchronize(void);
void __wrap_near__rcu_synchronize(void);
void __wrap_near__rcu_synchronize(void)
{
    grace_periods++;
    if (meanwhile)
        meanwhile();
    __real_near__rcu_synchronize();
}

static int64_t used_more_ns, used_each_ns; /* what the clock of work goes on by with each look at it */

int64_t __real_near__keeper_used_ns(void);
int64_t __wrap_near__keeper_used_ns(void);
int64_t __wrap_near__keeper_used_ns(void)
{
    used_more_ns += used_each_ns;
    return __real_near__keeper_used_ns() + used_more_ns;
}

/* Many retired values that somebody holds: to look at them again and again must not be all that the keeper does. */
static void test_what_is_held_is_looked_at_in_a_part_of_the_time(void **state)
{
    struct fixture f;
    struct near__view view;
    (void)state;
    fixture_open(&f);
    assert_int_equal(put(&f, "k", "v1", 1), 1);
    assert_int_equal(near__local_get(f.local, f.reader, "k", 1, ANY_BOUND, 0, &view), NEAR_LOCAL_HIT);
    assert_int_equal(put(&f, "k", "v2", 2), 1);
    near__local_keep(f.local);
    assert_non_null(f.local->keeper.kept);
    used_each_ns = WORKED_NS;
    near__local_keep(f.local); /* takes so long */
    used_each_ns = 0;
    near__local_unpin(f.reader, &view);
    for (int64_t rested = 0; rested < 15 * WORKED_NS; rested += WORKED_NS) {
        near__local_keep(f.local);
        assert_non_null(f.local->keeper.kept);
        near__clock_advance(&f.now_ns, WORKED_NS);
    }
    near__clock_advance(&f.now_ns, WORKED_NS); /* its own work took something, too */
    near__local_keep(f.local);
    assert_null(f.local->keeper.kept);
    fixture_close(&f);
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
    assert_true(since_ns >= before_ns);                        /* the next one is counted from here */
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

static void *ends(void *unused)
{
    return unused;
}

/* A wake-up of somebody else's may be on its way: the keeper has taken it and not looked whether it is to stop.  So
 * that does not count. */
static void test_the_keeper_is_woken_to_stop_although_somebody_has_woken_it(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    assert_int_equal(pthread_create(&f.local->keeper.thread, NULL, ends, NULL), 0); /* in the keeper's place */
    f.local->keeper.runs = 1;
    atomic_store(&f.local->keeper.wake, 1);
    wakes = 0;
    near__keeper_stop(f.local);
    assert_int_equal(wakes, 1);
    assert_int_equal(atomic_load(&f.local->keeper.wake), 1);
    fixture_close(&f);
}

static void fill_small(struct fixture *f, uint64_t n)
{
    static const char value[100];
    (void)near__local_install(f->local, f->reader, near__local_ticket(f->local, &n, sizeof(n)), &n, sizeof(n), value,
                              sizeof(value), n, -1, NEAR_NEVER);
}

/* Full of small entries, with an index to match; the next number. */
static uint64_t fill_up(struct fixture *f, uint64_t numbers)
{
    for (uint64_t n = 1; n < numbers; n++) {
        fill_small(f, n);
        if (n % 1024 == 0)
            near__local_keep(f->local);
    }
    near__local_keep(f->local);
    return numbers;
}

/* Fills that go on beside retire all the time, so much that a quarter of what is above the limit is always retired.
 * One grace period for each few victims would take the keeper a hundred times as long as its victims do. */
static void test_a_lowered_limit_takes_a_grace_period_for_many_victims(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open_sized(&f, 16u << 20);
    (void)fill_up(&f, 150000);
    struct near__budget *budget = &f.local->budget;
    int64_t others = (near__budget_ceiling(4 << 20) - (4 << 20)) / 3, used = atomic_load(&budget->used);
    atomic_fetch_add(&budget->used, others);
    atomic_fetch_add(&budget->retired, others);
    near__local_resize(f.local, 4u << 20, 0);
    grace_periods = 0;
    near__local_keep(f.local);
    int64_t freed = used + others - atomic_load(&budget->used),
            quarter = (near__budget_ceiling(4 << 20) - (4 << 20)) / 4;
    assert_true(freed > 8 << 20);
    /* and those of new tables, of blocks that are moved, … */
    assert_in_range(grace_periods, freed / quarter / 4, 3 * freed / quarter);
    fixture_close(&f);
}

static struct fixture lowered;
static uint64_t next_number;
static int64_t within; /* the limit, once it was kept; 0: not yet */

static int64_t bytes_of_lowered(void)
{
    int64_t bytes = (int64_t)stats_of(&lowered).local_bytes, limit = (int64_t)stats_of(&lowered).local_bytes_limit;
    limit += limit / 20 > 1 << 20 ? limit / 20 : 1 << 20;
    if (bytes <= limit)
        within = limit;
    return bytes;
}

static void fills_beside(void)
{
    for (int i = 0; i < SCALE(10000, 500); i++) {
        int64_t bytes = bytes_of_lowered();
        assert_true(!within || bytes <= within);
        fill_small(&lowered, next_number++);
    }
}

/* The index of a tier that was large is given up when the limit in force is still above it: nobody must fill what it
 * leaves. */
static void test_F_a_lowered_limit_is_kept_once_it_was_reached(void **state)
{
    (void)state;
    struct allocfail counting;
    fixture_init(&lowered);
    allocfail_init(&counting);
    /* no arena: its slabs are given back later than what was in them */
    near__alloc_init(&lowered.alloc, &counting.hooks);
    lowered.config.bytes_max = 64u << 20;
    fixture_start(&lowered);
    next_number = fill_up(&lowered, SCALE(600000, 150000));
    near__local_resize(lowered.local, 2u << 20, 0);
    within = 0;
    meanwhile = fills_beside;
    near__local_keep(lowered.local);
    near__local_keep(lowered.local);
    meanwhile = NULL;
    assert_true(bytes_of_lowered() <= within);
    fixture_close(&lowered);
}

/* ---------------------------------------------------------------- large values */

static unsigned evictions, in_a_row, most_in_a_row; /* in one section */
static size_t large_copied, large_copied_inside;

int __real_near__evict_inside(struct near__local *local, struct near__hands *hands, const struct near__moment *moment);
int __wrap_near__evict_inside(struct near__local *local, struct near__hands *hands, const struct near__moment *moment);
int __wrap_near__evict_inside(struct near__local *local, struct near__hands *hands, const struct near__moment *moment)
{
    evictions++;
    if (++in_a_row > most_in_a_row)
        most_in_a_row = in_a_row;
    return __real_near__evict_inside(local, hands, moment);
}

void __real_near__rcu_pause(void);
void __wrap_near__rcu_pause(void);
void __wrap_near__rcu_pause(void)
{
    in_a_row = 0;
    __real_near__rcu_pause();
}

void *__real_memcpy(void *to, const void *from, size_t size);
void *__wrap_memcpy(void *to, const void *from, size_t size);
void *__wrap_memcpy(void *to, const void *from, size_t size)
{
    if (size >= 1 << 19) {
        large_copied += size;
        large_copied_inside += urcu_bp_read_ongoing() ? size : 0;
    }
    return __real_memcpy(to, from, size);
}

/* Thousands of victims, and a value that takes milliseconds to copy: a section that lasted as long would hold up every
 * grace period, and with it the fills of all others. */
static void test_a_large_value_holds_up_no_grace_period(void **state)
{
    enum { LARGE = 800000 };
    struct fixture f;
    char *value = calloc(1, LARGE);
    (void)state;
    fixture_open_sized(&f, 16u << 20);
    uint64_t n = fill_up(&f, 150000);
    evictions = in_a_row = most_in_a_row = 0;
    large_copied = large_copied_inside = 0;
    int kept = near__local_install(f.local, f.reader, near__local_ticket(f.local, &n, sizeof(n)), &n, sizeof(n), value,
                                   LARGE, n, -1, NEAR_NEVER);
    assert_true(evictions > 1000);
    assert_in_range(most_in_a_row, 1, 128);
    assert_true(!kept || large_copied >= LARGE);
    assert_int_equal(large_copied_inside, 0);
    free(value);
    fixture_close(&f);
}

/* Entries that are moved take their room above the limit, too: half of it is left to fills, whose victims need it until
 * they are freed. */
static void test_half_of_what_is_above_the_limit_is_left_to_fills(void **state)
{
    enum { COPY = 1000 };
    struct fixture f;
    int copies = 0;
    (void)state;
    fixture_open_sized(&f, 16u << 20);
    uint64_t n = fill_up(&f, 150000);
    while (near__budget_copy(f.local, COPY))
        copies++;
    int64_t max = 16 << 20, half = (near__budget_ceiling(max) - max) / 2;
    int64_t cost = near__block_estimate(f.local, near__entry_size_for(sizeof(n), 100, 0));
    assert_in_range(copies, half / COPY / 2, half / COPY + 10);
    uint64_t refused = stats_of(&f).fills_refused_space;
    for (int64_t bytes = 0; bytes < half - half / 8; bytes += cost)
        fill_small(&f, n++);
    assert_int_equal(stats_of(&f).fills_refused_space, refused);
    while (copies--)
        near__budget_uncopy(f.local, COPY);
    fixture_close(&f);
}

static void test_a_lowered_limit_is_followed_in_steps_between_which_the_keeper_may_rest(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open_sized(&f, 8u << 20);
    for (uint64_t n = 1; n < 60000; n++)
        fill_small(&f, n);
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
        cmocka_unit_test(test_the_keeper_is_woken_to_stop_although_somebody_has_woken_it),
        cmocka_unit_test(test_a_lowered_limit_takes_a_grace_period_for_many_victims),
        cmocka_unit_test(test_F_a_lowered_limit_is_kept_once_it_was_reached),
        cmocka_unit_test(test_a_large_value_holds_up_no_grace_period),
        cmocka_unit_test(test_what_is_held_is_looked_at_in_a_part_of_the_time),
        cmocka_unit_test(test_half_of_what_is_above_the_limit_is_left_to_fills),
        cmocka_unit_test(test_a_lowered_limit_is_followed_in_steps_between_which_the_keeper_may_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
