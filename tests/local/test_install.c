/* SPDX-License-Identifier: BSD-3-Clause
 * What comes between any two steps of an install, and whether the entry is kept.
 *
 * index.c is compiled into this program with the hook of step.h; what comes in between happens at the n-th step, for
 * every n. */
#define NEAR_STEP_HOOK 1
#include "local/local_fixture.h"

#include "local/index.c"

#include <urcu-bp.h>

#include "local/tier.h"

enum { STEPS = 200 /* more than an install takes */ };

static struct fixture f;
static unsigned countdown; /* steps until something happens; 0: nothing will */
static void (*happens)(void);

static void step(void)
{
    if (countdown && --countdown == 0)
        happens();
}

/* Installs at position 6, over an older version, with what happens at the n-th step.  1: it did happen. */
static int install_around(void (*what)(void), unsigned n)
{
    countdown = 0;
    near__step_hook = step;
    fixture_open(&f);
    assert_int_equal(put(&f, "k", "old", 5), 1);
    struct near__ticket before = ticket(&f, "k");
    happens = what;
    countdown = n;
    put_ticket(&f, before, "k", "new", 6);
    int happened = countdown == 0;
    countdown = 0;
    return happened;
}

static void is_kept_whenever(void (*what)(void), const char *expected)
{
    unsigned times = 0;
    for (unsigned n = 1; n < STEPS; n++) {
        int happened = install_around(what, n);
        assert_string_equal(get(&f, "k"), happened ? expected : "new");
        times += (unsigned)happened;
        fixture_close(&f);
    }
    assert_in_range(times, 10, STEPS - 10); /* there were that many steps, and some n was beyond the last one */
}

static void echo(void)
{
    near__local_invalidate(f.local, "k", 1, 6, NEAR_CAUSE_MESSAGE);
}
static void older_message(void)
{
    near__local_invalidate(f.local, "k", 1, 4, NEAR_CAUSE_MESSAGE);
}
static void newer_message(void)
{
    near__local_invalidate(f.local, "k", 1, 7, NEAR_CAUSE_MESSAGE);
}
static void drop(void)
{
    near__local_invalidate(f.local, "k", 1, 0, NEAR_CAUSE_DROP);
}

/* A write's message and its reply come at the same moment.  An install that gives up when its tentative word is gone:
 * the acknowledged write is not kept, now and then. */
static void test_R05_own_echo_does_not_refuse_the_install(void **state)
{
    (void)state;
    is_kept_whenever(echo, "new");
}

static void test_R07_late_message_does_not_refuse_the_install(void **state)
{
    (void)state;
    is_kept_whenever(older_message, "new");
}

/* An install that tries again must still lose against what is newer. */
static void test_R05_newer_message_always_wins(void **state)
{
    (void)state;
    is_kept_whenever(newer_message, "(absent)");
}

static void test_R01_drop_always_wins(void **state)
{
    (void)state;
    is_kept_whenever(drop, "(absent)");
}

/* Who is in the way again and again does not hold the installer for ever (promise A's sister for writers). */
static void echo_again(void)
{
    echo();
    countdown = 3;
}

static void test_install_ends_though_the_echo_comes_again_and_again(void **state)
{
    (void)state;
    for (unsigned n = 1; n < 20; n++) {
        install_around(echo_again, n);
        const char *got = get(&f, "k");
        assert_string_not_equal(got, "old");
        fixture_close(&f);
    }
}

/* ---------------------------------------------------------------- clearing */

static int is_clearing; /* half way */

/* Comes between an entry's era and its install (linked with --wrap). */
void __real_near__queue_enter(struct near__local *local, struct near__entry *entry, uint64_t hash, int64_t bytes,
                              uint16_t tick);
void __wrap_near__queue_enter(struct near__local *local, struct near__entry *entry, uint64_t hash, int64_t bytes,
                              uint16_t tick);
void __wrap_near__queue_enter(struct near__local *local, struct near__entry *entry, uint64_t hash, int64_t bytes,
                              uint16_t tick)
{
    __real_near__queue_enter(local, entry, hash, bytes, tick);
    if (!is_clearing)
        return;
    is_clearing = 0;
    atomic_fetch_add(&local->era, NEAR_ENTRY_ERA_STEP);
    if (!urcu_bp_read_ongoing()) /* otherwise the keeper waits for us */
        near__local_keep(local);
}

/* A fill whose ticket was taken in the middle of a clearing may have the era before.  It must not come into a table
 * that was swept of that era: four clearings later, all of them before the keeper comes again, the entry would be of
 * the present one. */
static void test_a_fill_in_the_middle_of_a_clearing_does_not_outlive_its_era(void **state)
{
    (void)state;
    near__step_hook = step;
    fixture_init(&f);
    f.config.policy = NEAR_POLICY_S3FIFO;
    fixture_start(&f);
    near__step_increment(&f.local->index.cleared); /* the first half of near__local_clear */
    is_clearing = 1;
    put(&f, "k", "old", 5);
    assert_int_equal(is_clearing, 0);
    assert_string_equal(get(&f, "k"), "(absent)");
    near__local_keep(f.local);
    for (int i = 1; i < NEAR_ENTRY_ERAS; i++) {
        near__local_clear(f.local);
        assert_string_equal(get(&f, "k"), "(absent)");
    }
    fixture_close(&f);
}

static int is_lending;

/* Comes between an eviction and the fill that it was for (linked with --wrap). */
int __real_near__evict_inside(struct near__local *local, struct near__hands *hands, const struct near__moment *moment);
int __wrap_near__evict_inside(struct near__local *local, struct near__hands *hands, const struct near__moment *moment);
int __wrap_near__evict_inside(struct near__local *local, struct near__hands *hands, const struct near__moment *moment)
{
    int evicted = __real_near__evict_inside(local, hands, moment);
    if (is_lending)
        near__budget_lend(local);
    return evicted;
}

/* The keeper lends what idle threads hold.  What a fill has evicted for itself is spent at once: lent as well, it would
 * be room for another one, above the limit. */
static void test_F_what_was_evicted_for_a_fill_is_not_lent(void **state)
{
    static const uint64_t limits[] = {1, 2, 100};
    char key[2] = {0};
    (void)state;
    near__step_hook = step;
    for (size_t i = 0; i < sizeof(limits) / sizeof(*limits); i++) {
        fixture_init(&f);
        f.config.entries_max = limits[i];
        fixture_start(&f);
        is_lending = 1;
        for (int n = 1; n <= 200; n++) {
            key[0] = (char)n;
            assert_int_equal(put(&f, key, "x", (uint64_t)n), 1);
            assert_true(stats_of(&f).local_entries <= limits[i]);
            assert_int_equal(atomic_load(&f.local->budget.entries_max), limits[i]);
        }
        is_lending = 0;
        fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_R05_own_echo_does_not_refuse_the_install),
        cmocka_unit_test(test_R07_late_message_does_not_refuse_the_install),
        cmocka_unit_test(test_R05_newer_message_always_wins),
        cmocka_unit_test(test_R01_drop_always_wins),
        cmocka_unit_test(test_install_ends_though_the_echo_comes_again_and_again),
        cmocka_unit_test(test_a_fill_in_the_middle_of_a_clearing_does_not_outlive_its_era),
        cmocka_unit_test(test_F_what_was_evicted_for_a_fill_is_not_lent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
