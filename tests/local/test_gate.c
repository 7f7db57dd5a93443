/* SPDX-License-Identifier: BSD-3-Clause
 * The gate: what a proof and a bound come to for the hit path, and the processor's counter. */
#include "local/local_fixture.h"
#include "local/hit.h"

#define BOUND (200 * MS)

static int64_t fresh_ticks(const struct fixture *f)
{
    return atomic_load(&f->gate->fresh_ticks);
}

static void test_without_a_remote_tier_no_clock_is_needed(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    near__local_prove(f.local, NEAR_PROVED_ALWAYS);
    assert_int_equal(fresh_ticks(&f), NEAR_TICKS_ALWAYS);
    near__local_set_bound(f.local, BOUND);
    assert_int_equal(fresh_ticks(&f), NEAR_TICKS_ALWAYS);
    fixture_close(&f);
}

static void test_a_virtual_clock_gives_no_moment(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    near__local_set_bound(f.local, BOUND);
    near__local_prove(f.local, atomic_load(&f.now_ns));
    assert_int_equal(fresh_ticks(&f), NEAR_TICKS_NEVER);
    fixture_close(&f);
}

static void test_with_an_idle_limit_hits_always_ask_the_clock(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    f.config.idle_ms = 1000;
    fixture_start(&f);
    near__local_prove(f.local, NEAR_PROVED_ALWAYS);
    assert_int_equal(fresh_ticks(&f), NEAR_TICKS_NEVER);
    fixture_close(&f);
}

static void test_R47_the_moment_is_for_reads_with_the_caches_bound(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    near__local_set_bound(f.local, BOUND);
    atomic_store(&f.gate->fresh_ticks, 12345);
    assert_int_equal(near__hit_fresh(f.local, BOUND), 12345);
    assert_int_equal(near__hit_fresh(f.local, BOUND - 1), NEAR_TICKS_NEVER);
    assert_int_equal(near__hit_fresh(f.local, BOUND + 1), NEAR_TICKS_NEVER);
    fixture_close(&f);
}

/* ---------------------------------------------------------------- the kernel's clock and the counter */

/* A tier on the real clock; NULL where the counter is not used. */
static struct near__local *open_real(void)
{
    static struct near__clock clock;
    static struct near__alloc alloc;
    static struct near__log log;
    near__alloc_init(&alloc, NULL);
    struct near__local_config config = {
        .alloc = &alloc, .clock = &clock, .log = &log, .bytes_max = 1 << 20, .manual = 1};
    struct near__local *local;
    assert_int_equal(near__local_open(&config, &local), NEAR_OK);
    near__local_set_bound(local, BOUND);
    if (local->rate.usable)
        return local;
    print_message("the kernel does not use the processor's counter: skipped\n");
    near__local_close(local);
    return NULL;
}

static int64_t prove_now(struct near__local *local)
{
    int64_t now_ns = near__now(local->clock);
    near__local_prove(local, now_ns);
    return now_ns;
}

/* Proves until the rate is known, which takes a tenth of a second.  When the last proof was. */
static int64_t prove_until_fresh(struct near__local *local)
{
    int64_t proved_ns;
    do
        proved_ns = prove_now(local);
    while (local->rate.usable && atomic_load(&local->gate.fresh_ticks) == NEAR_TICKS_NEVER);
    return proved_ns;
}

static void test_R47_the_moment_is_never_later_than_half_of_the_bound(void **state)
{
    struct near__local *local = open_real();
    (void)state;
    if (!local)
        skip();
    for (int round = 0; round < 3; round++) {
        int64_t end_ns = prove_until_fresh(local) + BOUND / 2, fresh = atomic_load(&local->gate.fresh_ticks), looks = 0;
        for (;; looks++) {
            int64_t now_ns = near__now(local->clock);
            if (near__ticks() >= fresh)
                break;
            assert_true(now_ns < end_ns); /* read before the counter, so whatever came in between does no harm */
            assert_true(near__tier_ms(local, now_ns) <= atomic_load(&local->gate.fresh_ms));
        }
        print_message("%lld looks\n", (long long)looks);
    }
    near__local_close(local);
}

/* As above, of the time alone. */
static void test_G_the_moment_of_the_time_is_never_later_than_that(void **state)
{
    struct near__local *local = open_real();
    (void)state;
    if (!local)
        skip();
    near__tier_tell_time(local);
    assert_int_equal(atomic_load(&local->gate.time_ticks), NEAR_TICKS_NEVER); /* a proof that ends has a time */
    near__local_prove(local, NEAR_PROVED_ALWAYS);
    for (int round = 0; round < 3; round++) {
        do
            near__tier_tell_time(local);
        while (local->rate.usable && atomic_load(&local->gate.time_ticks) == NEAR_TICKS_NEVER);
        int64_t moment = atomic_load(&local->gate.time_ticks), looks = 0;
        for (;; looks++) {
            int64_t now_ns = near__now(local->clock);
            if (near__ticks() >= moment)
                break;
            assert_true(near__tier_ms(local, now_ns) < atomic_load(&local->gate.time_ms));
        }
        print_message("%lld looks\n", (long long)looks);
    }
    near__local_close(local);
}

static void test_R47_a_withdrawal_and_a_new_bound_end_the_moment(void **state)
{
    struct near__local *local = open_real();
    (void)state;
    if (!local)
        skip();
    (void)prove_until_fresh(local);
    near__local_withdraw(local, 0);
    assert_int_equal(atomic_load(&local->gate.fresh_ticks), NEAR_TICKS_NEVER);
    (void)prove_until_fresh(local);
    near__local_set_bound(local, BOUND * 2);
    assert_int_equal(atomic_load(&local->gate.fresh_ticks), NEAR_TICKS_NEVER);
    near__local_close(local);
}

/* The file that tells what the kernel takes its time from. */
static int is_counter_left, is_counter_hidden;
FILE *__real_fopen64(const char *path, const char *mode);
FILE *__wrap_fopen64(const char *path, const char *mode);
FILE *__wrap_fopen64(const char *path, const char *mode)
{
    if (!strstr(path, "clocksource") || (!is_counter_left && !is_counter_hidden))
        return __real_fopen64(path, mode);
    return is_counter_hidden ? NULL : __real_fopen64("/dev/null", mode);
}

static void test_a_counter_that_the_kernel_leaves_is_not_used_until_it_returns(void **state)
{
    struct near__local *local = open_real();
    (void)state;
    if (!local)
        skip();
    for (int round = 0; round < 2; round++) {
        (void)prove_until_fresh(local);
        is_counter_left = 1;
        local->keeper.counter_due_ns = 0; /* a minute later */
        near__local_keep(local);
        is_counter_left = 0;
        (void)prove_now(local);
        assert_int_equal(atomic_load(&local->gate.fresh_ticks), NEAR_TICKS_NEVER);
        near__local_keep(local); /* not a minute later */
        local->keeper.counter_due_ns = 0;
        is_counter_hidden = 1;
        near__local_keep(local); /* nor where the file cannot be read */
        is_counter_hidden = 0;
        (void)prove_now(local);
        assert_int_equal(atomic_load(&local->gate.fresh_ticks), NEAR_TICKS_NEVER);
        local->keeper.counter_due_ns = 0;
        near__local_keep(local);
    }
    near__local_close(local);
}

static void test_a_counter_whose_rate_changes_is_not_used_any_more(void **state)
{
    struct near__local *local = open_real();
    (void)state;
    if (!local)
        skip();
    (void)prove_until_fresh(local);
    local->rate.per_ns *= 1.2; /* as if it had run faster before */
    (void)prove_until_fresh(local);
    assert_int_equal(local->rate.usable, 0);
    assert_int_equal(atomic_load(&local->gate.fresh_ticks), NEAR_TICKS_NEVER);
    near__local_close(local);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_a_remote_tier_no_clock_is_needed),
        cmocka_unit_test(test_a_virtual_clock_gives_no_moment),
        cmocka_unit_test(test_with_an_idle_limit_hits_always_ask_the_clock),
        cmocka_unit_test(test_R47_the_moment_is_for_reads_with_the_caches_bound),
        cmocka_unit_test(test_R47_the_moment_is_never_later_than_half_of_the_bound),
        cmocka_unit_test(test_G_the_moment_of_the_time_is_never_later_than_that),
        cmocka_unit_test(test_R47_a_withdrawal_and_a_new_bound_end_the_moment),
        cmocka_unit_test(test_a_counter_that_the_kernel_leaves_is_not_used_until_it_returns),
        cmocka_unit_test(test_a_counter_whose_rate_changes_is_not_used_any_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
