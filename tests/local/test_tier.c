/* SPDX-License-Identifier: BSD-3-Clause
 * The local tier's rules, one at a time, without threads. */
#include "local/local_fixture.h"

#include "local/tier.h"

static void test_a_value_comes_back_with_its_size_and_life(void **state)
{
    struct fixture f;
    struct near__view view;
    (void)state;
    fixture_open(&f);
    assert_int_equal(put_ttl(&f, "a", "one", 1, 5000), 1);
    assert_int_equal(near__local_get(f.local, f.reader, "a", 1, ANY_BOUND, 0, &view), NEAR_LOCAL_HIT);
    assert_int_equal(view.size, 3);
    assert_bytes(view.data, "one");
    assert_int_equal(view.expires_ns, atomic_load(&f.now_ns) + 5 * SEC);
    near__local_unpin(f.reader, &view);
    assert_null(view.pin);
    near__local_unpin(f.reader, &view); /* harmless */
    assert_int_equal(put(&f, "a", "two", 2), 1);
    assert_int_equal(near__local_get(f.local, f.reader, "a", 1, ANY_BOUND, 0, &view), NEAR_LOCAL_HIT);
    assert_int_equal(view.expires_ns, NEAR_NEVER);
    near__local_unpin(f.reader, &view);
    assert_string_equal(get(&f, "b"), "(absent)");
    fixture_close(&f);
}

static void test_keys_and_values_may_be_empty_and_contain_any_byte(void **state)
{
    struct fixture f;
    struct near__view view;
    char buffer[8];
    (void)state;
    fixture_open(&f);
    struct near__ticket t = near__local_ticket(f.local, "", 0);
    assert_int_equal(near__local_install(f.local, f.reader, t, "", 0, "", 0, 1, -1, 0), 1);
    assert_int_equal(near__local_copy(f.local, f.reader, "", 0, ANY_BOUND, 0, buffer, 8, &view), NEAR_LOCAL_HIT);
    assert_int_equal(view.size, 0);
    t = near__local_ticket(f.local, "\0\0", 2);
    assert_int_equal(near__local_install(f.local, f.reader, t, "\0\0", 2, "\0x\0", 3, 2, -1, 0), 1);
    assert_int_equal(near__local_copy(f.local, f.reader, "\0\0", 2, ANY_BOUND, 0, buffer, 2, &view), NEAR_LOCAL_HIT);
    assert_int_equal(view.size, 3); /* the whole, although only two bytes fit */
    assert_memory_equal(buffer, "\0x", 2);
    assert_int_equal(near__local_copy(f.local, f.reader, "\0", 1, ANY_BOUND, 0, buffer, 8, &view), NEAR_LOCAL_ABSENT);
    fixture_close(&f);
}

/* ---------------------------------------------------------------- order */

static void test_I1_older_never_replaces_newer(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    assert_int_equal(put(&f, "k", "v5", 5), 1);
    assert_int_equal(put(&f, "k", "v4", 4), 0);
    assert_string_equal(get(&f, "k"), "v5");
    assert_int_equal(put(&f, "k", "v5", 5), 1);
    assert_int_equal(put(&f, "k", "v6", 6), 1);
    assert_string_equal(get(&f, "k"), "v6");
    fixture_close(&f);
}

static void test_R04_an_invalidation_that_finds_nothing_stops_older_fills(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    struct near__ticket before = ticket(&f, "k");
    assert_int_equal(near__local_invalidate(f.local, "k", 1, 7, NEAR_CAUSE_MESSAGE), 0);
    assert_int_equal(put_ticket(&f, before, "k", "old", 6), 0);
    assert_string_equal(get(&f, "k"), "(absent)");
    assert_int_equal(put_ticket(&f, before, "k", "new", 7), 1); /* it contains the write at 7 */
    assert_string_equal(get(&f, "k"), "new");
    assert_int_equal(stats_of(&f).invalidations_absent, 1);
    fixture_close(&f);
}

static void test_R07_a_late_message_leaves_a_newer_entry(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    assert_int_equal(put(&f, "k", "v9", 9), 1);
    assert_int_equal(near__local_invalidate(f.local, "k", 1, 8, NEAR_CAUSE_MESSAGE), -1);
    assert_int_equal(near__local_invalidate(f.local, "k", 1, 9, NEAR_CAUSE_MESSAGE), -1); /* its own echo */
    assert_string_equal(get(&f, "k"), "v9");
    assert_int_equal(near__local_invalidate(f.local, "k", 1, 10, NEAR_CAUSE_MESSAGE), 1);
    assert_string_equal(get(&f, "k"), "(absent)");
    near_stats stats = stats_of(&f);
    assert_int_equal(stats.invalidations, 1);
    assert_int_equal(stats.invalidations_older, 2);
    fixture_close(&f);
}

static void test_R08_deleted_key_is_not_resurrected_by_slow_fill(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    assert_int_equal(put(&f, "k", "v1", 1), 1);
    struct near__ticket slow = ticket(&f, "k");
    assert_int_equal(near__local_invalidate(f.local, "k", 1, 2, NEAR_CAUSE_MESSAGE), 1);
    assert_int_equal(put_ticket(&f, slow, "k", "v1", 1), 0);
    assert_string_equal(get(&f, "k"), "(absent)");
    fixture_close(&f);
}

static void test_R03_eviction_does_not_forget_how_far_a_key_had_come(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    f.config.entries_max = 1;
    fixture_start(&f);
    struct near__ticket slow = ticket(&f, "k");
    assert_int_equal(put(&f, "k", "v5", 5), 1);
    assert_int_equal(put(&f, "other", "x", 6), 1); /* capacity 1: k goes */
    assert_string_equal(get(&f, "k"), "(absent)");
    assert_int_equal(put_ticket(&f, slow, "k", "v4", 4), 0);
    assert_string_equal(get(&f, "k"), "(absent)");
    assert_int_equal(put_ticket(&f, slow, "k", "v5", 5), 1);
    fixture_close(&f);
}

static void test_R02_a_ticket_from_before_an_unnumbered_invalidation_is_void_for_ever(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    struct near__ticket slow = ticket(&f, "k");
    assert_int_equal(near__local_invalidate(f.local, "k", 1, 0, NEAR_CAUSE_MESSAGE), 0);
    struct near__ticket fresh = ticket(&f, "k");
    assert_false(near__ticket_equal(slow, fresh));
    assert_int_equal(put_ticket(&f, fresh, "k", "new", 5), 1);
    assert_int_equal(put_ticket(&f, slow, "k", "old", 5), 0);
    assert_int_equal(put_ticket(&f, slow, "k", "old", 6), 0);
    fixture_close(&f);
}

static void test_I5_without_a_position_every_entry_goes(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    assert_int_equal(put(&f, "k", "v", 5), 1);
    assert_int_equal(near__local_invalidate(f.local, "k", 1, 0, NEAR_CAUSE_DROP), 1);
    assert_string_equal(get(&f, "k"), "(absent)");
    assert_int_equal(near__tier_ended(f.local, NEAR_WHY_DROPPED), 1);
    /* A6: what is offered or observed without a position does the same */
    assert_int_equal(put(&f, "k", "v", 5), 1);
    assert_int_equal(put(&f, "k", "w", 0), 0);
    assert_string_equal(get(&f, "k"), "(absent)");
    assert_int_equal(put(&f, "k", "v", 5), 1);
    struct near__ticket before = ticket(&f, "k");
    near__local_observe(f.local, "k", 1, 0);
    assert_string_equal(get(&f, "k"), "(absent)");
    assert_int_equal(put_ticket(&f, before, "k", "v", 9), 0);
    fixture_close(&f);
}

static void test_R54_what_was_observed_takes_older_entries_with_it(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    assert_int_equal(put(&f, "k", "v1", 1), 1);
    near__local_observe(f.local, "k", 1, 1);
    assert_string_equal(get(&f, "k"), "v1");
    near__local_observe(f.local, "k", 1, 2);
    assert_string_equal(get(&f, "k"), "(absent)");
    assert_int_equal(put(&f, "k", "v1", 1), 0);
    fixture_close(&f);
}

static void test_I4_a_refused_install_still_removes_what_is_older(void **state)
{
    struct fixture f;
    static char large[4096];
    (void)state;
    fixture_init(&f);
    f.config.value_max = 1000;
    fixture_start(&f);
    assert_int_equal(put(&f, "k", "v1", 1), 1);
    assert_int_equal(near__local_install(f.local, f.reader, ticket(&f, "k"), "k", 1, large, sizeof(large), 2, -1, 0),
                     0);
    assert_string_equal(get(&f, "k"), "(absent)");
    assert_int_equal(put(&f, "k", "v1", 1), 0);
    assert_int_equal(stats_of(&f).fills_refused_space, 1);
    fixture_close(&f);
}

/* What a cache without a remote tier numbers its writes by. */
static void test_a_stripe_has_one_number_at_a_time(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    struct near__ticket before = ticket(&f, "k"), now;
    uint64_t first = near__local_number(f.local, before.stripe);
    assert_int_equal(first, before.floor + 1);
    assert_int_equal(near__local_number(f.local, before.stripe), 0);
    now = ticket(&f, "k");
    assert_false(near__ticket_equal(before, now)); /* what is loaded now may be from before the write */
    near__local_numbered(f.local, before.stripe, first, 0);
    assert_true(near__ticket_equal(before, ticket(&f, "k")));

    uint64_t again = near__local_number(f.local, before.stripe);
    assert_int_equal(again, first); /* nobody knows it */
    assert_int_equal(put_ticket(&f, ticket(&f, "k"), "k", "v", again), 1);
    near__local_numbered(f.local, before.stripe, again, 1);
    assert_string_equal(get(&f, "k"), "v");
    assert_false(near__ticket_equal(now, ticket(&f, "k")));
    assert_int_equal(put_ticket(&f, now, "k", "loaded", again), 0);
    assert_true(near__local_number(f.local, before.stripe) > again);
    fixture_close(&f);
}

static void test_R17_tickets_change_with_everything_that_is_learnt_about_a_key(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    struct near__ticket t = ticket(&f, "k");
    assert_true(near__ticket_equal(t, ticket(&f, "k")));
    assert_int_equal(put(&f, "k", "v1", 1), 1); /* a write of our own, say */
    assert_false(near__ticket_equal(t, ticket(&f, "k")));
    t = ticket(&f, "k");
    near__local_observe(f.local, "k", 1, 2);
    assert_false(near__ticket_equal(t, ticket(&f, "k")));
    t = ticket(&f, "k");
    near__local_raise_watermark(f.local, 9);
    assert_false(near__ticket_equal(t, ticket(&f, "k")));
    t = ticket(&f, "k");
    near__local_clear(f.local);
    assert_false(near__ticket_equal(t, ticket(&f, "k")));
    fixture_close(&f);
}

static void test_a_position_out_of_range_is_unknown(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    assert_int_equal(put(&f, "k", "v", 5), 1);
    assert_int_equal(put(&f, "k", "w", UINT64_MAX), 0);
    assert_string_equal(get(&f, "k"), "(absent)");
    assert_int_equal(put(&f, "k", "v", NEAR_POSITION_MAX - 1), 1);
    near__local_observe(f.local, "k", 1, UINT64_MAX);
    assert_string_equal(get(&f, "k"), "(absent)");
    fixture_close(&f);
}

static void test_the_highest_positions_are_compared_like_others(void **state)
{
    struct fixture f;
    const uint64_t highest = NEAR_POSITION_MAX - 1;
    (void)state;
    fixture_open(&f);
    assert_int_equal(put(&f, "k", "older", highest - 1), 1);
    assert_int_equal(put(&f, "k", "newest", highest), 1);
    assert_int_equal(put(&f, "k", "older", highest - 1), 0);
    assert_string_equal(get(&f, "k"), "newest");
    assert_int_equal(near__local_invalidate(f.local, "k", 1, highest, NEAR_CAUSE_MESSAGE), -1);
    near__local_raise_watermark(f.local, highest);
    assert_string_equal(get(&f, "k"), "newest");
    assert_int_equal(put(&f, "l", "older", highest - 1), 0);
    assert_int_equal(near__local_invalidate(f.local, "k", 1, 0, NEAR_CAUSE_MESSAGE), 1);
    assert_string_equal(get(&f, "k"), "(absent)");
    fixture_close(&f);
}

/* ---------------------------------------------------------------- freshness */

static void test_I7_entries_below_the_watermark_are_suspect(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    assert_int_equal(put(&f, "a", "1", 4), 1);
    assert_int_equal(put(&f, "b", "2", 5), 1);
    near__local_raise_watermark(f.local, 5);
    near__local_raise_watermark(f.local, 3); /* never lowers it */
    assert_string_equal(get(&f, "a"), "(suspect)");
    assert_string_equal(get(&f, "b"), "2");
    assert_int_equal(put(&f, "c", "3", 4), 0);
    near__local_keep(f.local);
    assert_string_equal(get(&f, "a"), "(absent)"); /* it could never be served again */
    assert_string_equal(get(&f, "b"), "2");
    fixture_close(&f);
}

static void test_R47_a_hit_needs_a_proof_younger_than_the_bound(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    int64_t proved = atomic_load(&f.now_ns);
    atomic_store(&f.gate->proved_ns, proved);
    assert_int_equal(put(&f, "k", "v", 1), 1);
    near__clock_advance(&f.now_ns, 100 * MS - 1);
    assert_string_equal(get_bound(&f, "k", 100 * MS, 0), "v");
    near__clock_advance(&f.now_ns, 1);
    assert_string_equal(get_bound(&f, "k", 100 * MS, 0), "(unproven)");
    assert_string_equal(get_bound(&f, "k", 101 * MS, 0), "v"); /* the bound is the read's own */
    assert_string_equal(get_bound(&f, "k", 100 * MS, 101 * MS), "v");
    assert_int_equal(stats_of(&f).stale_served, 1);
    assert_string_equal(get_bound(&f, "absent", 100 * MS, 0), "(absent)");
    atomic_store(&f.gate->proved_ns, NEAR_PROVED_NEVER);
    assert_string_equal(get_bound(&f, "k", ANY_BOUND, ANY_BOUND), "(unproven)");
    fixture_close(&f);
}

static void test_a_lagging_clock_never_lengthens_bound_or_life(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    f.clock.virtual_ns = NULL; /* the kernel's clocks */
    fixture_start(&f);
    assert_int_equal(put(&f, "k", "v", 1), 1);
    for (uint64_t i = 0; i < 200; i++) {
        int64_t now = near__now(&f.clock);
        for (int64_t bound = 2 * MS; bound < 100 * SEC; bound *= 3) {
            atomic_store(&f.gate->proved_ns, now - bound);
            assert_string_equal(get_bound(&f, "k", bound, 0), "(unproven)"); /* over by the exact clock */
        }
        atomic_store(&f.gate->proved_ns, NEAR_PROVED_ALWAYS);
        int kept = put_ttl(&f, "t", "v", 2 + i, 3); /* not, when it was held up for longer than the life */
        now = near__now(&f.clock);                  /* after it was sent */
        while (near__now(&f.clock) - now < 4 * MS)
            ;
        assert_string_equal(get(&f, "t"), kept ? "(expired)" : "(absent)");
    }
    fixture_close(&f);
}

/* A virtual machine goes on after a pause of two seconds, and the coarse clock does not know it yet.  Judged by it:
 * served as if no time had passed. */
static void test_R47_a_coarse_clock_that_stands_still_prolongs_nothing(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    atomic_store(&f.gate->proved_ns, atomic_load(&f.now_ns));
    assert_int_equal(put(&f, "k", "v", 1), 1);
    assert_int_equal(put_ttl(&f, "t", "v", 1, 1500), 1);
    near__clock_advance(&f.now_ns, 2 * SEC);
    f.clock.virtual_lag_ns = 2 * SEC;
    assert_string_equal(get_bound(&f, "k", 1 * SEC, 0), "(unproven)");
    assert_string_equal(get_bound(&f, "t", 60 * SEC, 0), "(expired)");
    assert_string_equal(get_bound(&f, "k", 60 * SEC, 0), "v");
    fixture_close(&f);
}

/* ---------------------------------------------------------------- life */

static void test_G_expired_is_gone_to_the_millisecond(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    assert_int_equal(put_ttl(&f, "k", "v", 1, 3), 1);
    near__clock_advance(&f.now_ns, 3 * MS - 1);
    assert_string_equal(get(&f, "k"), "v");
    near__clock_advance(&f.now_ns, 1);
    assert_string_equal(get(&f, "k"), "(expired)");
    near__local_keep(f.local);
    assert_string_equal(get(&f, "k"), "(absent)");
    assert_int_equal(stats_of(&f).expirations, 1);
    fixture_close(&f);
}

static void test_R20_life_counts_from_the_sending_of_the_command(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open(&f);
    int64_t sent = atomic_load(&f.now_ns);
    near__clock_advance(&f.now_ns, 80 * MS); /* the reply took its time */
    assert_int_equal(near__local_install(f.local, f.reader, ticket(&f, "k"), "k", 1, "v", 1, 1, 100, sent), 1);
    assert_string_equal(get(&f, "k"), "v");
    near__clock_advance(&f.now_ns, 20 * MS);
    assert_string_equal(get(&f, "k"), "(expired)");
    assert_int_equal(near__local_install(f.local, f.reader, ticket(&f, "j"), "j", 1, "v", 1, 1, 100, sent), 0);
    assert_int_equal(near__local_install(f.local, f.reader, ticket(&f, "j"), "j", 1, "v", 1, 1, 0, sent), 0);
    fixture_close(&f);
}

static int64_t told_end(struct fixture *f, const char *key)
{
    struct near__view view;
    assert_int_equal(near__local_copy(f->local, f->reader, key, strlen(key), ANY_BOUND, 0, NULL, 0, &view),
                     NEAR_LOCAL_HIT);
    return view.expires_ns;
}

static void test_lives_of_weeks_and_years_end_in_time(void **state)
{
    static const int64_t days[] = {1, 12, 13, 25, 40, 50, 365, 10000};
    struct fixture f;
    (void)state;
    for (size_t i = 0; i < sizeof(days) / sizeof(days[0]); i++) {
        int64_t life_ms = days[i] * 86400000 + 7;
        fixture_open(&f);
        near__clock_advance(&f.now_ns, 3000 * SEC);
        int64_t end_ns = atomic_load(&f.now_ns) + life_ms * MS;
        assert_int_equal(put_ttl(&f, "k", "v", 1, life_ms), 1);
        assert_in_range(end_ns - told_end(&f, "k"), 0, 1023 * MS);
        near__clock_advance(&f.now_ns, life_ms / 2 * MS);
        for (int look = 0; look < 8; look++) { /* whenever it is asked */
            assert_in_range(end_ns - told_end(&f, "k"), 0, 1023 * MS);
            near__clock_advance(&f.now_ns, 128 * MS);
        }
        near__clock_advance(&f.now_ns, -8 * 128 * MS);
        near__clock_advance(&f.now_ns, (life_ms - life_ms / 2) * MS - 2000 * MS);
        assert_string_equal(get(&f, "k"), "v");
        near__clock_advance(&f.now_ns, 2000 * MS);
        assert_string_equal(get(&f, "k"), "(expired)");
        near__clock_advance(&f.now_ns, 10 * 86400 * SEC); /* not swept for ten days more */
        assert_string_equal(get(&f, "k"), "(expired)");
        fixture_close(&f);
    }
    /* without end is not the same as very long */
    fixture_open(&f);
    assert_int_equal(put_ttl(&f, "k", "v", 1, INT64_MAX), 1);
    assert_string_equal(get(&f, "k"), "v");
    fixture_close(&f);
}

/* The keeper does not come by for so long; then it takes what has ended, and nothing else. */
static void test_G_what_has_ended_is_told_from_what_has_not_after_weeks(void **state)
{
    static const int64_t days[] = {1, 6, 7, 11, 13, 24, 30, 50, 300};
    struct fixture f;
    (void)state;
    for (size_t i = 0; i < sizeof(days) / sizeof(days[0]); i++) {
        fixture_open(&f);
        near__clock_advance(&f.now_ns, 3000 * SEC);
        assert_int_equal(put_ttl(&f, "second", "v", 1, 1000), 1);
        assert_int_equal(put_ttl(&f, "12 days", "v", 1, 12 * INT64_C(86400000)), 1);
        assert_int_equal(put_ttl(&f, "year", "v", 1, 365 * INT64_C(86400000)), 1);
        assert_int_equal(put(&f, "always", "v", 1), 1);
        near__clock_advance(&f.now_ns, days[i] * 86400 * SEC);
        for (int kept = 0; kept < 2; kept++) {
            const char *gone = kept ? "(absent)" : "(expired)";
            assert_string_equal(get(&f, "second"), gone);
            assert_string_equal(get(&f, "12 days"), days[i] < 12 ? "v" : gone);
            assert_string_equal(get(&f, "year"), "v");
            assert_string_equal(get(&f, "always"), "v");
            near__local_keep(f.local);
        }
        assert_int_equal(put_ttl(&f, "second", "w", 2, 1000), 1);
        assert_string_equal(get(&f, "second"), "w");
        fixture_close(&f);
    }
}

/* Nor does it take what was written before it comes by again. */
static void test_what_is_written_after_weeks_lives(void **state)
{
    static const int64_t days[] = {1, 7, 11, 13, 24, 30, 50, 300};
    static const int64_t lives_ms[] = {5000, 3600000, 5 * INT64_C(86400000), 12 * INT64_C(86400000)};
    struct fixture f;
    (void)state;
    for (size_t i = 0; i < sizeof(days) / sizeof(days[0]); i++) {
        for (size_t j = 0; j < sizeof(lives_ms) / sizeof(lives_ms[0]); j++) {
            fixture_open(&f);
            near__clock_advance(&f.now_ns, days[i] * 86400 * SEC);
            assert_int_equal(put_ttl(&f, "k", "v", 1, lives_ms[j]), 1);
            assert_string_equal(get(&f, "k"), "v");
            near__clock_advance(&f.now_ns, 3 * SEC);
            assert_string_equal(get(&f, "k"), "v");
            near__local_keep(f.local);
            assert_string_equal(get(&f, "k"), "v");
            near__clock_advance(&f.now_ns, lives_ms[j] * MS - 3 * SEC);
            assert_string_equal(get(&f, "k"), "(expired)");
            fixture_close(&f);
        }
    }
}

static void test_a_local_copy_lives_no_longer_than_ttl_max(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    f.config.ttl_max_ms = 1000;
    fixture_start(&f);
    assert_int_equal(put(&f, "a", "v", 1), 1);
    assert_int_equal(put_ttl(&f, "b", "v", 1, 5000), 1);
    assert_int_equal(put_ttl(&f, "c", "v", 1, 500), 1);
    near__clock_advance(&f.now_ns, 999 * MS);
    assert_string_equal(get(&f, "a"), "v");
    assert_string_equal(get(&f, "b"), "v");
    assert_string_equal(get(&f, "c"), "(expired)");
    near__clock_advance(&f.now_ns, 1 * MS);
    assert_string_equal(get(&f, "a"), "(expired)");
    assert_string_equal(get(&f, "b"), "(expired)");
    fixture_close(&f);
}

/* Stamps are 16 bits: after a pause of 60 limits and more they seem young again. */
static void test_an_idle_copy_is_not_served_after_a_long_pause(void **state)
{
    (void)state;
    for (int64_t limits = 1; limits < 140; limits++) {
        struct fixture f;
        fixture_init(&f);
        f.config.idle_ms = 1000;
        fixture_start(&f);
        assert_int_equal(put(&f, "k", "v", 1), 1);
        near__clock_advance(&f.now_ns, limits * 1000 * MS); /* nothing of the process ran meanwhile */
        assert_string_equal(get(&f, "k"), "(expired)");
        if (limits % 2) { /* a write that comes before the keeper does not go with the rest */
            near__local_settle(f.local);
            assert_int_equal(put(&f, "j", "v", 2), 1);
            assert_string_equal(get(&f, "j"), "v");
        }
        near__local_keep(f.local);
        assert_string_equal(get(&f, "k"), "(absent)");
        assert_string_equal(get(&f, "j"), limits % 2 ? "v" : "(absent)");
        near__local_settle(f.local);
        assert_int_equal(put(&f, "k", "v", 2), 1);
        assert_string_equal(get(&f, "k"), "v");
        fixture_close(&f);
    }
}

static void test_an_idle_copy_is_dropped_and_a_read_one_is_not(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    f.config.idle_ms = 2000;
    fixture_start(&f);
    assert_int_equal(put(&f, "idle", "v", 1), 1);
    assert_int_equal(put(&f, "read", "v", 1), 1);
    for (int i = 0; i < 10; i++) {
        near__clock_advance(&f.now_ns, 1500 * MS);
        assert_string_equal(get(&f, "read"), "v");
    }
    assert_string_equal(get(&f, "idle"), "(expired)");
    near__local_keep(f.local);
    assert_string_equal(get(&f, "idle"), "(absent)");
    assert_string_equal(get(&f, "read"), "v");
    fixture_close(&f);
}

/* ---------------------------------------------------------------- in the middle of a sweep */

/* Called in the place of near__index_unlink: what happens just before the sweep takes its first victim, while its
 * moment becomes an old one. */
static struct {
    struct fixture *f;
    void (*happens)(struct fixture *f);
    int64_t pause_ns;
    int kept; /* of what was filled then */
} in_the_middle;

int __real_near__index_unlink(struct near__index *index, _Atomic(uint64_t) *slot, uint64_t word, enum near__why why);
int __wrap_near__index_unlink(struct near__index *index, _Atomic(uint64_t) *slot, uint64_t word, enum near__why why);
int __wrap_near__index_unlink(struct near__index *index, _Atomic(uint64_t) *slot, uint64_t word, enum near__why why)
{
    void (*happens)(struct fixture * f) = in_the_middle.happens;
    in_the_middle.happens = NULL;
    if (happens)
        happens(in_the_middle.f);
    return __real_near__index_unlink(index, slot, word, why);
}

enum { SOME = 100 }; /* in the buckets of one section */

static int put_some(struct fixture *f, char name)
{
    static uint64_t position; /* above all that any key of the same stripe had before */
    char key[16];
    int kept = 0;
    for (int i = 0; i < SOME; i++) {
        snprintf(key, sizeof(key), "%c%d", name, i);
        kept += put(f, key, "v", ++position);
    }
    return kept;
}

static int count_some(struct fixture *f, char name)
{
    char key[16];
    int found = 0;
    for (int i = 0; i < SOME; i++) {
        snprintf(key, sizeof(key), "%c%d", name, i);
        found += strcmp(get(f, key), "v") == 0;
    }
    return found;
}

static void clear_and_fill(struct fixture *f)
{
    near__local_clear(f->local);
    in_the_middle.kept = put_some(f, 'n');
}

static void test_a_clearing_in_the_middle_of_a_sweep_costs_nothing_that_comes_after_it(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open_sized(&f, 256u << 10);
    assert_int_equal(put_some(&f, 'o'), SOME);
    near__local_clear(f.local);
    in_the_middle.f = &f;
    in_the_middle.happens = clear_and_fill;
    near__local_keep(f.local);
    assert_null(in_the_middle.happens);
    assert_int_equal(in_the_middle.kept, SOME);
    assert_int_equal(count_some(&f, 'n'), SOME);
    near__local_keep(f.local);
    assert_int_equal(count_some(&f, 'n'), SOME);
    assert_int_equal(stats_of(&f).local_entries, SOME);
    fixture_close(&f);
}

static void pause_and_fill(struct fixture *f)
{
    near__clock_advance(&f->now_ns, in_the_middle.pause_ns);
    near__local_settle(f->local);
    in_the_middle.kept = put_some(f, 'n');
}

/* The keeper is kept off a processor for so long, and the others are not. */
static void test_a_pause_in_the_middle_of_a_sweep_costs_nothing_that_comes_after_it(void **state)
{
    (void)state;
    for (int64_t limits = 1; limits < 70; limits++) {
        struct fixture f;
        fixture_init(&f);
        f.config.idle_ms = 1000;
        f.config.bytes_max = 256u << 10;
        fixture_start(&f);
        assert_int_equal(put_some(&f, 'o'), SOME);
        near__clock_advance(&f.now_ns, 2 * SEC);
        in_the_middle.f = &f;
        in_the_middle.pause_ns = limits * SEC;
        in_the_middle.happens = pause_and_fill;
        near__local_keep(f.local);
        assert_null(in_the_middle.happens);
        assert_int_equal(in_the_middle.kept, SOME);
        int found = count_some(&f, 'n');
        if (found != SOME)
            print_error("%d limits: %d of %d\n", (int)limits, found, SOME);
        assert_int_equal(found, SOME);
        fixture_close(&f);
    }
}

/* ---------------------------------------------------------------- clearing */

static void test_clear_serves_nothing_that_was_there_and_fails_fills_under_way(void **state)
{
    struct fixture f;
    char key[32];
    (void)state;
    fixture_open(&f);
    for (uint64_t round = 0; round < 20; round++) { /* more than there are eras, with and without the keeper */
        for (int i = 0; i < 50; i++) {
            snprintf(key, sizeof(key), "%d of %d", i, (int)round);
            assert_int_equal(put(&f, key, "v", round + 1), 1);
        }
        struct near__ticket before = ticket(&f, "k");
        near__local_clear(f.local);
        for (uint64_t r = 0; r <= round; r++)
            for (int i = 0; i < 50; i++) {
                snprintf(key, sizeof(key), "%d of %d", i, (int)r);
                assert_string_equal(get(&f, key), "(absent)");
            }
        assert_int_equal(put_ticket(&f, before, "k", "v", round + 1), 0);
        assert_int_equal(put(&f, "k", "v", round + 1), 1); /* positions go on */
        assert_string_equal(get(&f, "k"), "v");
        if (round % 7 == 6)
            near__local_keep(f.local);
    }
    near__local_clear(f.local);
    near__local_keep(f.local);
    assert_int_equal(stats_of(&f).local_entries, 0);
    fixture_close(&f);
}

/* ---------------------------------------------------------------- pins */

static void test_R48_pinned_values_survive_removal_eviction_and_reclamation(void **state)
{
    struct fixture f;
    struct near__view view, other;
    (void)state;
    fixture_open(&f);
    assert_int_equal(put(&f, "k", "pinned value", 1), 1);
    assert_int_equal(near__local_get(f.local, f.reader, "k", 1, ANY_BOUND, 0, &view), NEAR_LOCAL_HIT);
    assert_int_equal(near__local_get(f.local, f.reader, "k", 1, ANY_BOUND, 0, &other), NEAR_LOCAL_HIT);
    assert_int_equal(near__local_invalidate(f.local, "k", 1, 2, NEAR_CAUSE_MESSAGE), 1);
    for (int i = 0; i < 3; i++) {
        near__local_keep(f.local);
        assert_bytes(view.data, "pinned value");
        assert_true(stats_of(&f).local_retired_bytes > 0);
    }
    near__local_unpin(f.reader, &other);
    near__local_keep(f.local);
    assert_bytes(view.data, "pinned value"); /* the second pin holds it still */
    struct near__owned *owned = near__local_own(f.local, f.reader, &view);
    assert_non_null(owned);
    near__local_keep(f.local);
    assert_bytes(view.data, "pinned value");
    assert_true(stats_of(&f).local_retired_bytes > 0);
    assert_int_equal(near__local_pinned(f.local), 1);
    near__local_disown(f.local, owned);
    assert_int_equal(near__local_pinned(f.local), 0);
    near__local_keep(f.local);
    assert_int_equal(stats_of(&f).local_retired_bytes, 0);
    fixture_close(&f);
}

static void test_the_sixty_fifth_pin_is_a_copy(void **state)
{
    struct fixture f;
    struct near__view view[70];
    struct near__owned *owned[70];
    (void)state;
    fixture_open(&f);
    assert_int_equal(put(&f, "k", "value", 1), 1);
    for (int i = 0; i < 70; i++)
        assert_int_equal(near__local_get(f.local, f.reader, "k", 1, ANY_BOUND, 0, &view[i]), NEAR_LOCAL_HIT);
    assert_int_equal(near__local_pinned(f.local), 70);
    assert_true(view[63].data == view[0].data);
    assert_true(view[64].data != view[0].data);
    assert_int_equal(near__local_invalidate(f.local, "k", 1, 2, NEAR_CAUSE_MESSAGE), 1);
    near__local_keep(f.local);
    for (int i = 0; i < 70; i++)
        assert_bytes(view[i].data, "value");
    for (int i = 0; i < 70; i++)
        assert_non_null(owned[i] = near__local_own(f.local, f.reader, &view[i]));
    near__local_keep(f.local);
    for (int i = 0; i < 70; i++)
        assert_bytes(view[i].data, "value");
    for (int i = 0; i < 70; i++)
        near__local_disown(f.local, owned[i]);
    assert_int_equal(near__local_pinned(f.local), 0);
    near__local_keep(f.local);
    assert_int_equal(stats_of(&f).local_retired_bytes, 0);
    fixture_close(&f);
}

static void test_many_keys_at_once_answer_as_one_at_a_time(void **state)
{
    struct fixture f;
    struct near__local_key keys[100];
    enum near__local_result results[100];
    struct near__view views[100];
    static char names[100][16];
    (void)state;
    fixture_open(&f);
    for (int i = 0; i < 100; i++) {
        snprintf(names[i], sizeof(names[i]), "k%d", i);
        keys[i] = (struct near__local_key){names[i], strlen(names[i])};
        if (i % 3)
            assert_int_equal(put(&f, names[i], names[i], (uint64_t)i + 1), 1);
    }
    near__local_get_many(f.local, f.reader, keys, 100, ANY_BOUND, 0, results, views);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(results[i], i % 3 ? NEAR_LOCAL_HIT : NEAR_LOCAL_ABSENT);
        if (i % 3) {
            assert_memory_equal(views[i].data, names[i], views[i].size);
            near__local_unpin(f.reader, &views[i]);
        }
    }
    assert_int_equal(near__local_pinned(f.local), 0);
    assert_int_equal(stats_of(&f).gets, 100);
    fixture_close(&f);
}

/* Reads of hot keys and writes of all others lie one tick apart: the border between them runs through very many. */
static void count_hot(void *arg, const void *key, size_t key_size)
{
    unsigned *told = arg;
    told[0] += key_size && *(const char *)key == 'h';
    told[1]++;
}

static void test_the_hottest_are_told_whatever_lies_before_them_in_the_tier(void **state)
{
    struct fixture f;
    char key[16];
    (void)state;
    fixture_init(&f);
    f.config.idle_ms = 1000; /* ticks are time then */
    fixture_start(&f);
    for (int i = 0; i < 10; i++) {
        snprintf(key, sizeof(key), "hot%d", i);
        assert_int_equal(put(&f, key, "v", 1), 1);
    }
    for (int i = 0; i < 1000; i++) {
        snprintf(key, sizeof(key), "cold%d", i);
        assert_int_equal(put(&f, key, "v", 1), 1);
    }
    near__clock_advance(&f.now_ns, 500 * MS);
    for (int i = 0; i < 10; i++) {
        snprintf(key, sizeof(key), "hot%d", i);
        assert_string_equal(get(&f, key), "v");
    }
    unsigned told[2] = {0, 0};
    assert_int_equal(near__local_hottest(f.local, 20, count_hot, told), NEAR_OK);
    assert_int_equal(told[0], 10);
    assert_int_equal(told[1], 20);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_value_comes_back_with_its_size_and_life),
        cmocka_unit_test(test_keys_and_values_may_be_empty_and_contain_any_byte),
        cmocka_unit_test(test_I1_older_never_replaces_newer),
        cmocka_unit_test(test_R04_an_invalidation_that_finds_nothing_stops_older_fills),
        cmocka_unit_test(test_R07_a_late_message_leaves_a_newer_entry),
        cmocka_unit_test(test_R08_deleted_key_is_not_resurrected_by_slow_fill),
        cmocka_unit_test(test_R03_eviction_does_not_forget_how_far_a_key_had_come),
        cmocka_unit_test(test_R02_a_ticket_from_before_an_unnumbered_invalidation_is_void_for_ever),
        cmocka_unit_test(test_I5_without_a_position_every_entry_goes),
        cmocka_unit_test(test_R54_what_was_observed_takes_older_entries_with_it),
        cmocka_unit_test(test_I4_a_refused_install_still_removes_what_is_older),
        cmocka_unit_test(test_R17_tickets_change_with_everything_that_is_learnt_about_a_key),
        cmocka_unit_test(test_a_stripe_has_one_number_at_a_time),
        cmocka_unit_test(test_a_position_out_of_range_is_unknown),
        cmocka_unit_test(test_the_highest_positions_are_compared_like_others),
        cmocka_unit_test(test_I7_entries_below_the_watermark_are_suspect),
        cmocka_unit_test(test_R47_a_hit_needs_a_proof_younger_than_the_bound),
        cmocka_unit_test(test_a_lagging_clock_never_lengthens_bound_or_life),
        cmocka_unit_test(test_R47_a_coarse_clock_that_stands_still_prolongs_nothing),
        cmocka_unit_test(test_G_expired_is_gone_to_the_millisecond),
        cmocka_unit_test(test_R20_life_counts_from_the_sending_of_the_command),
        cmocka_unit_test(test_lives_of_weeks_and_years_end_in_time),
        cmocka_unit_test(test_G_what_has_ended_is_told_from_what_has_not_after_weeks),
        cmocka_unit_test(test_what_is_written_after_weeks_lives),
        cmocka_unit_test(test_a_local_copy_lives_no_longer_than_ttl_max),
        cmocka_unit_test(test_an_idle_copy_is_dropped_and_a_read_one_is_not),
        cmocka_unit_test(test_an_idle_copy_is_not_served_after_a_long_pause),
        cmocka_unit_test(test_a_clearing_in_the_middle_of_a_sweep_costs_nothing_that_comes_after_it),
        cmocka_unit_test(test_a_pause_in_the_middle_of_a_sweep_costs_nothing_that_comes_after_it),
        cmocka_unit_test(test_clear_serves_nothing_that_was_there_and_fails_fills_under_way),
        cmocka_unit_test(test_R48_pinned_values_survive_removal_eviction_and_reclamation),
        cmocka_unit_test(test_the_sixty_fifth_pin_is_a_copy),
        cmocka_unit_test(test_many_keys_at_once_answer_as_one_at_a_time),
        cmocka_unit_test(test_the_hottest_are_told_whatever_lies_before_them_in_the_tier),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
