/* SPDX-License-Identifier: BSD-3-Clause
 * Threads that stop, come and go, fork: R48, R49, R50 at the room's level, and promise A's "stopped ones included". */
#include "local/local_fixture.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "local/tier.h"
#include "support/allocfail.h"
#include "support/wait.h"

static void open_real(struct fixture *f, int manual)
{
    fixture_init(f);
    f->clock.virtual_ns = NULL;
    f->config.manual = manual;
    f->config.bytes_max = 1 << 20;
    fixture_start(f);
}

static int fill_at(struct fixture *f, struct near__reader *reader, uint64_t n, uint64_t position)
{
    static const unsigned char value[100];
    struct near__ticket t = near__local_ticket(f->local, &n, sizeof(n));
    return near__local_install(f->local, reader, t, &n, sizeof(n), value, sizeof(value), position, -1, 0);
}

static int fill_number(struct fixture *f, struct near__reader *reader, uint64_t n)
{
    return fill_at(f, reader, n, n + 1);
}

/* ---------------------------------------------------------------- stopped threads */

static _Atomic(int) inside, leave;

static void *stays_in_a_section(void *arg)
{
    (void)arg;
    near__local_section_enter();
    atomic_store(&inside, 1);
    while (!atomic_load(&leave))
        wait_a_moment();
    near__local_section_leave();
    return NULL;
}

static void *makes_a_reader(void *arg)
{
    return near__local_reader(arg);
}

/* Fills until one is refused for want of room; asserts the budget all the way. */
static uint64_t fill_until_refused(struct fixture *f, uint64_t n)
{
    while (fill_number(f, f->reader, n)) {
        assert_true(stats_of(f).local_bytes <= 2 << 20);
        assert_true(++n < 1000000);
    }
    return n;
}

static void reads_and_removals_go_on(struct fixture *f, uint64_t last)
{
    uint64_t key = last - 1;
    struct near__view view;
    pthread_t thread;
    void *other;
    assert_int_equal(near__local_get(f->local, f->reader, &key, sizeof(key), ANY_BOUND, 0, &view), NEAR_LOCAL_HIT);
    near__local_unpin(f->reader, &view);
    assert_int_equal(near__local_invalidate(f->local, &key, sizeof(key), last + 10, NEAR_CAUSE_MESSAGE), 1);
    assert_int_equal(near__local_get(f->local, f->reader, &key, sizeof(key), ANY_BOUND, 0, &view), NEAR_LOCAL_ABSENT);
    pthread_create(&thread, NULL, makes_a_reader, f->local); /* a new thread is not held up either */
    pthread_join(thread, &other);
    assert_non_null(other);
}

static void test_R49_a_reader_stopped_in_a_section_stops_fills_at_the_budget_and_nothing_else(void **state)
{
    struct fixture f;
    pthread_t thread;
    (void)state;
    open_real(&f, 0);
    atomic_store(&inside, 0);
    atomic_store(&leave, 0);
    pthread_create(&thread, NULL, stays_in_a_section, NULL);
    assert_true(wait_until(atomic_load(&inside), 10000));
    uint64_t n = fill_until_refused(&f, 0);
    assert_true(stats_of(&f).fills_refused_space > 0);
    reads_and_removals_go_on(&f, n);
    near__local_clear(f.local);
    atomic_store(&leave, 1);
    pthread_join(thread, NULL);
    assert_true(wait_until(fill_number(&f, f.reader, ++n), 10000)); /* and all is well again */
    fixture_close(&f);
}

static void test_a_stopped_keeper_stops_fills_at_the_budget_and_nothing_else(void **state)
{
    struct fixture f;
    (void)state;
    open_real(&f, 1); /* nobody calls near__local_keep */
    uint64_t n = fill_until_refused(&f, 0);
    reads_and_removals_go_on(&f, n);
    near__local_keep(f.local);
    assert_int_equal(fill_number(&f, f.reader, ++n), 1);
    fixture_close(&f);
}

static void *keeps_once(void *arg)
{
    near__local_keep(arg);
    return NULL;
}

static int is_taken(struct fixture *f)
{
    return atomic_load(&f->local->budget.phase) & 1;
}

static void test_R48_nothing_is_freed_under_a_reader_in_its_section(void **state)
{
    struct fixture f;
    pthread_t keeper;
    uint64_t key = 7;
    (void)state;
    open_real(&f, 1);
    assert_int_equal(fill_number(&f, f.reader, key), 1);
    near__local_section_enter();
    uint64_t hash = near__key_hash(&key, sizeof(key), &f.local->index.secrets);
    struct near__entry *entry = near__index_find(&f.local->index, hash, &key, sizeof(key));
    assert_non_null(entry);
    assert_int_equal(near__local_invalidate(f.local, &key, sizeof(key), 100, NEAR_CAUSE_MESSAGE), 1);
    pthread_create(&keeper, NULL, keeps_once, f.local);
    assert_true(wait_until(is_taken(&f), 10000));
    for (int i = 0; i < 30; i++) { /* it has what it wants, and must not touch it */
        wait_a_moment();
        assert_true(stats_of(&f).local_retired_bytes > 0);
        assert_int_equal(memcmp(entry->bytes, &key, sizeof(key)), 0);
    }
    near__local_section_leave();
    pthread_join(keeper, NULL);
    assert_int_equal(stats_of(&f).local_retired_bytes, 0);
    fixture_close(&f);
}

/* The keeper stands in the middle of a migration for ever: both tables stay in use. */
static void test_a_keeper_stopped_in_a_migration_leaves_both_tables_in_use(void **state)
{
    struct fixture f;
    struct near__view view;
    (void)state;
    open_real(&f, 1);
    for (uint64_t n = 0; n < 250; n++)
        assert_int_equal(fill_number(&f, f.reader, n), 1);
    const struct near__tables *old = near__index_tables(&f.local->index);
    struct near__bucket *buckets = aligned_alloc(NEAR_GROUP_SIZE, 100 * sizeof(*buckets));
    memset(buckets, 0, 100 * sizeof(*buckets));
    struct near__tables both = {.span = {old->span[0], {buckets, 100}}, .spans = 2, .target = 1};
    atomic_store(&f.local->index.tables, &both);
    struct near__moment moment = near__tier_moment(f.local);
    near__local_section_enter();
    for (uint64_t b = 0; b < old->span[0].count / 2; b++)
        near__index_move(&f.local->index, &old->span[0].bucket[b], &both.span[1], &moment);
    near__local_section_leave();
    unsigned found = 0;
    for (uint64_t n = 0; n < 250; n++)
        if (near__local_get(f.local, f.reader, &n, sizeof(n), ANY_BOUND, 0, &view) == NEAR_LOCAL_HIT) {
            near__local_unpin(f.reader, &view);
            found++;
        }
    assert_int_equal(found, stats_of(&f).local_entries);
    assert_true(found > 200);
    for (uint64_t n = 0; n < 250; n++)
        assert_int_equal(fill_at(&f, f.reader, n, 1000 + n), 1); /* replaces in whichever table it was */
    assert_true(stats_of(&f).local_entries <= 250);
    for (uint64_t n = 0; n < 250; n++) {
        near__local_invalidate(f.local, &n, sizeof(n), 2000, NEAR_CAUSE_MESSAGE);
        assert_int_equal(near__local_get(f.local, f.reader, &n, sizeof(n), ANY_BOUND, 0, &view), NEAR_LOCAL_ABSENT);
    }
    assert_int_equal(stats_of(&f).local_entries, 0);
    atomic_store(&f.local->index.tables, (struct near__tables *)(uintptr_t)old);
    free(buckets);
    fixture_close(&f);
}

/* ---------------------------------------------------------------- pins of threads that are gone */

static void *pins_and_exits(void *arg)
{
    struct fixture *f = arg;
    struct near__reader *reader = near__local_reader(f->local);
    struct near__view view;
    uint64_t key = 7;
    for (int i = 0; i < 3; i++)
        assert_int_equal(near__local_get(f->local, reader, &key, sizeof(key), ANY_BOUND, 0, &view), NEAR_LOCAL_HIT);
    return NULL;
}

static void test_a_thread_that_exits_drops_its_pins(void **state)
{
    struct fixture f;
    pthread_t thread;
    uint64_t key = 7;
    (void)state;
    open_real(&f, 1);
    assert_int_equal(fill_number(&f, f.reader, key), 1);
    pthread_create(&thread, NULL, pins_and_exits, &f);
    pthread_join(thread, NULL);
    assert_int_equal(near__local_pinned(f.local), 0);
    assert_int_equal(near__local_invalidate(f.local, &key, sizeof(key), 100, NEAR_CAUSE_MESSAGE), 1);
    near__local_keep(f.local);
    assert_int_equal(stats_of(&f).local_retired_bytes, 0);
    assert_int_equal(stats_of(&f).local_hits, 3); /* what it counted stays */
    fixture_close(&f);
}

static void *reads_once(void *arg)
{
    struct fixture *f = arg;
    struct near__reader *reader = near__local_reader(f->local);
    struct near__view view;
    uint64_t key = 7;
    if (near__local_get(f->local, reader, &key, sizeof(key), ANY_BOUND, 0, &view) == NEAR_LOCAL_HIT)
        near__local_unpin(reader, &view);
    return NULL;
}

static void test_short_threads_by_the_ten_thousands_leave_nothing_behind(void **state)
{
    struct fixture f;
    const int threads = SCALE(50000, 2000);
    (void)state;
    open_real(&f, 0);
    assert_int_equal(fill_number(&f, f.reader, 7), 1);
    uint64_t bytes = 0;
    for (int i = 0; i < threads; i++) {
        pthread_t thread[2];
        pthread_create(&thread[0], NULL, reads_once, &f);
        pthread_create(&thread[1], NULL, reads_once, &f);
        pthread_join(thread[0], NULL);
        pthread_join(thread[1], NULL);
        if (i == 200)
            bytes = stats_of(&f).local_bytes;
    }
    assert_true(stats_of(&f).local_bytes <= bytes + 2 * sizeof(struct near__reader));
    assert_int_equal(stats_of(&f).local_hits, 2 * (uint64_t)threads);
    fixture_close(&f);
}

static _Atomic(int) read_once, tier_closed;

static void *outlives_the_tier(void *arg)
{
    reads_once(arg);
    atomic_store(&read_once, 1);
    while (!atomic_load(&tier_closed))
        wait_a_moment();
    return NULL;
}

static void test_a_thread_may_exit_after_the_tier_was_closed(void **state)
{
    struct fixture f, g;
    pthread_t thread;
    (void)state;
    open_real(&f, 0);
    open_real(&g, 0);
    atomic_store(&read_once, 0);
    atomic_store(&tier_closed, 0);
    pthread_create(&thread, NULL, outlives_the_tier, &f);
    assert_true(wait_until(atomic_load(&read_once), 10000));
    fixture_close(&f);
    atomic_store(&tier_closed, 1);
    pthread_join(thread, NULL);
    fixture_close(&g);
}

/* ---------------------------------------------------------------- waiting for room */

#define PATIENCE_MS 60000

static void *awaits_room(void *arg)
{
    near__local_await_room(((struct fixture *)arg)->local, PATIENCE_MS);
    return NULL;
}

/* Memory waits for a reader; who waits for room goes on as soon as the keeper has freed it, not when its patience
 * ends. */
static void test_who_awaits_room_is_told_when_something_was_freed(void **state)
{
    static char value[100 << 10];
    struct fixture f;
    pthread_t thread;
    (void)state;
    open_real(&f, 0);
    near__local_section_enter();
    for (uint64_t n = 1; n < 100 && !near__local_has_no_room(f.local, sizeof(value)); n++)
        near__local_install(f.local, f.reader, ticket(&f, "k"), "k", 1, value, sizeof(value), n, -1, NEAR_NEVER);
    assert_true(near__local_has_no_room(f.local, sizeof(value)));
    int64_t begun_ns = near__clock_kernel(CLOCK_MONOTONIC);
    assert_int_equal(pthread_create(&thread, NULL, awaits_room, &f), 0);
    assert_true(wait_until(atomic_load(&f.local->keeper.awaited) == 1, 30000));
    near__local_section_leave();
    pthread_join(thread, NULL);
    assert_true(near__clock_kernel(CLOCK_MONOTONIC) - begun_ns < PATIENCE_MS * MS);
    while (near__local_has_no_room(f.local, sizeof(value)))
        near__local_await_room(f.local, PATIENCE_MS); /* what was freed first need not be enough */
    near__local_await_room(f.local, PATIENCE_MS);     /* what is left to free, or nothing: does not wait long */
    assert_true(near__clock_kernel(CLOCK_MONOTONIC) - begun_ns < PATIENCE_MS * MS);
    fixture_close(&f);
}

/* A budget was lowered, and slabs that are empty by now are still in memory: that is worth waiting for, too. */
static void test_who_awaits_room_waits_for_slabs_to_go(void **state)
{
    struct fixture f;
    pthread_t thread;
    (void)state;
    fixture_open_sized(&f, 16 << 20);
    for (uint64_t n = 0; n < 60000; n++)
        fill_number(&f, f.reader, n);
    for (uint64_t n = 0; n < 60000; n++)
        near__local_invalidate(f.local, &n, sizeof(n), n + 2, NEAR_CAUSE_MESSAGE);
    near__reclaim(f.local, 1);
    near__local_resize(f.local, 4 << 20, 0);
    assert_int_equal(near__budget_retired(f.local), 0);
    assert_false(near__blocks_are_awaited(f.local));
    assert_true(near__local_has_no_room(f.local, 100));
    f.local->keeper.runs = 1; /* as far as anybody can tell */
    assert_int_equal(pthread_create(&thread, NULL, awaits_room, &f), 0);
    assert_true(wait_until(atomic_load(&f.local->keeper.awaited) == 1, 30000));
    assert_true(wait_until((near__keeper_tell_freed(f.local), atomic_load(&f.local->keeper.awaited) == 0), 30000));
    pthread_join(thread, NULL);
    f.local->keeper.runs = 0;
    fixture_close(&f);
}

static void test_one_thread_may_use_more_tiers_than_it_can_remember(void **state)
{
    struct fixture f[20];
    (void)state;
    for (int i = 0; i < 20; i++)
        open_real(&f[i], 1);
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 20; i++) {
            assert_true(near__local_reader(f[i].local) == f[i].reader);
            assert_true(near__local_reader_known(f[i].local) == f[i].reader);
        }
    for (int i = 0; i < 20; i++)
        fixture_close(&f[i]);
}

/* ---------------------------------------------------------------- fork */

static void child_opens_a_tier(void)
{
    struct fixture f;
    near__local_fork_child();
    open_real(&f, 0);
    for (uint64_t n = 0; n < 20000; n++)
        fill_number(&f, f.reader, n);
    uint64_t fills = stats_of(&f).fills;
    near__local_close(f.local);
    _exit(fills > 1000 ? 0 : 1);
}

static void test_R50_a_child_may_open_a_tier_of_its_own(void **state)
{
    struct fixture f;
    (void)state;
#if defined(__SANITIZE_THREAD__)
    skip(); /* it does not support threads in the child of a process with threads */
#endif
    open_real(&f, 0);
    for (int i = 0; i < SCALE(50, 5); i++) {
        for (uint64_t n = 0; n < 500; n++)
            fill_number(&f, f.reader, n + 500 * (uint64_t)i);
        int quiet = near__local_fork_prepare();
        pid_t child = fork();
        if (quiet)
            near__local_fork_release();
        if (child == 0) {
            alarm(60);
            if (quiet)
                child_opens_a_tier();
            _exit(0);
        }
        int status = -1;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    fixture_close(&f);
}

static void test_fork_during_an_endless_grace_period_is_refused_in_time(void **state)
{
    struct fixture f;
    pthread_t thread;
    (void)state;
    open_real(&f, 0);
    atomic_store(&inside, 0);
    atomic_store(&leave, 0);
    pthread_create(&thread, NULL, stays_in_a_section, NULL);
    assert_true(wait_until(atomic_load(&inside), 10000));
    fill_until_refused(&f, 0); /* wakes the keeper, which then waits for ever */
    assert_true(wait_until(!near__local_fork_prepare() || (near__local_fork_release(), 0), 10000));
    atomic_store(&leave, 1);
    pthread_join(thread, NULL);
    assert_true(wait_until(near__local_fork_prepare(), 10000));
    near__local_fork_release();
    fixture_close(&f);
}

/* ---------------------------------------------------------------- timed hits */

static void test_hit_times_of_all_threads_are_merged(void **state)
{
    static struct near__histogram into;
    struct fixture f;
    (void)state;
    open_real(&f, 1);
    for (int i = 0; i < 100; i++)
        near__local_time_hit(f.reader, 1000);
    near__local_hit_times(f.local, &into);
    assert_int_equal(near__histogram_count(&into), 100);
    memset(&into, 0, sizeof(into));
    for (int i = 0; i < 2000; i++)
        near__local_time_hit(f.reader, INT64_MAX);
    near__local_hit_times(f.local, &into);
    assert_int_equal(near__histogram_count(&into), NEAR_TIMED_HITS);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_R49_a_reader_stopped_in_a_section_stops_fills_at_the_budget_and_nothing_else),
        cmocka_unit_test(test_a_stopped_keeper_stops_fills_at_the_budget_and_nothing_else),
        cmocka_unit_test(test_R48_nothing_is_freed_under_a_reader_in_its_section),
        cmocka_unit_test(test_a_keeper_stopped_in_a_migration_leaves_both_tables_in_use),
        cmocka_unit_test(test_a_thread_that_exits_drops_its_pins),
        cmocka_unit_test(test_short_threads_by_the_ten_thousands_leave_nothing_behind),
        cmocka_unit_test(test_a_thread_may_exit_after_the_tier_was_closed),
        cmocka_unit_test(test_who_awaits_room_is_told_when_something_was_freed),
        cmocka_unit_test(test_who_awaits_room_waits_for_slabs_to_go),
        cmocka_unit_test(test_one_thread_may_use_more_tiers_than_it_can_remember),
        cmocka_unit_test(test_R50_a_child_may_open_a_tier_of_its_own),
        cmocka_unit_test(test_fork_during_an_endless_grace_period_is_refused_in_time),
        cmocka_unit_test(test_hit_times_of_all_threads_are_merged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
