/* SPDX-License-Identifier: BSD-3-Clause
 * How nearcache-check judges: for each rule of check_board.h a read that keeps it and one that breaks it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "check/check_board.h"
#include "nearcache.h"

enum {
    RECORD = 0,
    LOADED = 1,
    COUNTER = 2,
    EXPIRING = 5,
    COLD = 16 + 4,
    GENERATION = 1,
    PROCESS = 0,
    WRITER = 1 << 16 | 1
};
#define BOUND_NS (100 * CHECK_NS_PER_MS)
#define NOW_NS (1000 * CHECK_NS_PER_S) /* all times are made up */

struct world {
    struct check_board *board;
    struct check_judge *judge;
};

static int set_up(void **state)
{
    static struct world w;
    int fd;
    w.board = check_board_create(&fd);
    w.judge = calloc(1, sizeof *w.judge);
    if (!w.board || !w.judge)
        return -1;
    close(fd);
    w.board->processes = 1;
    w.board->bound_ns = BOUND_NS;
    w.judge->board = w.board;
    w.judge->reader = &w.board->process[PROCESS].reader[0];
    *state = &w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    free(w->judge);
    check_board_free(w->board);
    return 0;
}

static uint64_t count(const struct world *w, enum check_violation kind)
{
    return atomic_load(&w->board->violations[kind]);
}

static void assert_only(const struct world *w, enum check_violation kind, uint64_t number)
{
    assert_int_equal(count(w, kind), number);
    assert_int_equal(check_violations(w->board), number);
}

static void begin(struct world *w, uint32_t slot, uint64_t version)
{
    check_begin(w->board, slot, GENERATION, version, WRITER, NOW_NS);
    atomic_store(&check_key_of(w->board, slot, GENERATION)->sent, version);
}

/* ago_ms: the acknowledgement, and all that was before it, is so old. */
static void acked(struct world *w, uint32_t slot, uint64_t version, int64_t ago_ms)
{
    check_acked(w->board, slot, GENERATION, version, NOW_NS - ago_ms * CHECK_NS_PER_MS);
}

static void written(struct world *w, uint32_t slot, uint64_t version, int64_t ago_ms)
{
    begin(w, slot, version);
    acked(w, slot, version, ago_ms);
}

static void look(struct world *w, struct check_read *read, uint32_t slot)
{
    check_judge_begin(w->judge, read, slot, GENERATION);
    read->begin_ns = NOW_NS;
}

/* version 0: a miss */
static void got(struct world *w, struct check_read *read, uint64_t version, uint32_t source)
{
    char value[CHECK_VALUE_MAX];
    int size = 0;
    read->status = version ? NEAR_OK : NEAR_MISS;
    read->source = source;
    read->end_ns = NOW_NS;
    if (version && w->board->slot[read->slot].kind == CHECK_COUNTER)
        size = snprintf(value, sizeof value, "%lld", (long long)(version * (uint64_t)check_step(read->slot)));
    else if (version)
        size = (int)check_value(read->slot, GENERATION, version, value);
    check_judge_end(w->judge, read, value, (size_t)size);
}

static void reads(struct world *w, uint32_t slot, uint64_t version, uint32_t source)
{
    struct check_read read;
    look(w, &read, slot);
    got(w, &read, version, source);
}

/* ---------------------------------------------------------------- single reads */

static void test_the_newest_value_is_right(void **state)
{
    struct world *w = *state;
    written(w, RECORD, 1, 1000);
    written(w, RECORD, 2, 500);
    reads(w, RECORD, 2, NEAR_FROM_LOCAL);
    reads(w, RECORD, 2, NEAR_FROM_REMOTE);
    assert_int_equal(check_violations(w->board), 0);
}

static void test_within_the_bound_an_old_value_is_right(void **state)
{
    struct world *w = *state;
    written(w, RECORD, 1, 1000);
    written(w, RECORD, 2, 1);
    reads(w, RECORD, 1, NEAR_FROM_LOCAL);
    assert_int_equal(check_violations(w->board), 0);
    assert_int_equal(atomic_load(&w->judge->reader->outdated), 1);
}

static void test_beyond_the_bound_it_is_stale(void **state)
{
    struct world *w = *state;
    written(w, RECORD, 1, 1000);
    written(w, RECORD, 2, 100);
    reads(w, RECORD, 1, NEAR_FROM_LOCAL);
    assert_int_equal(check_violations(w->board), 0);
    written(w, RECORD, 2, 101);
    reads(w, RECORD, 1, NEAR_FROM_LOCAL);
    assert_only(w, CHECK_STALE, 1);
}

static void test_an_old_value_from_redis_is_a_lost_write(void **state)
{
    struct world *w = *state;
    written(w, RECORD, 1, 1000);
    written(w, RECORD, 2, 0);
    reads(w, RECORD, 1, NEAR_FROM_REMOTE);
    assert_only(w, CHECK_LOST, 1);
}

/* It may have come from the local tier; a call that could not look there, nor join a fetch, has it from Redis. */
static void test_a_copy_tells_its_source_by_the_calls_flags(void **state)
{
    struct world *w = *state;
    written(w, RECORD, 1, 1000);
    written(w, RECORD, 2, 0);
    reads(w, RECORD, 1, check_source(0, 0));
    reads(w, RECORD, 1, check_source(0, NEAR_NO_FILL));
    assert_int_equal(check_violations(w->board), 0);
    reads(w, RECORD, 1, check_source(0, NEAR_BYPASS_LOCAL));
    assert_only(w, CHECK_LOST, 1);
    assert_int_equal(check_source(NEAR_FROM_LOCAL, NEAR_BYPASS_LOCAL), NEAR_FROM_LOCAL); /* what was told counts */
}

static void test_a_miss_in_redis_of_a_written_value_is_a_lost_write(void **state)
{
    struct world *w = *state;
    written(w, COUNTER, 1, 0);
    reads(w, COUNTER, 0, check_source(0, 0));
    assert_int_equal(check_violations(w->board), 0); /* the write is within the bound */
    reads(w, COUNTER, 0, check_source(0, NEAR_BYPASS_LOCAL));
    assert_only(w, CHECK_LOST, 1);
}

static void test_a_miss_is_right_when_a_removal_may_be_seen(void **state)
{
    struct world *w = *state;
    written(w, RECORD, CHECK_REMOVES - 1, 1000);
    begin(w, RECORD, CHECK_REMOVES);
    reads(w, RECORD, 0, NEAR_FROM_REMOTE);
    assert_int_equal(check_violations(w->board), 0);
}

static void test_nobody_goes_back(void **state)
{
    struct world *w = *state;
    written(w, RECORD, 1, 0);
    written(w, RECORD, 2, 0);
    reads(w, RECORD, 2, NEAR_FROM_LOCAL);
    reads(w, RECORD, 1, NEAR_FROM_LOCAL);
    assert_only(w, CHECK_BACKWARDS, 1);
}

static void test_behind_a_barrier_nothing_older_is_read(void **state)
{
    struct world *w = *state;
    written(w, RECORD, 1, 0);
    written(w, RECORD, 2, 0);
    check_barred(w->board, RECORD, GENERATION, 2);
    reads(w, RECORD, 1, NEAR_FROM_LOCAL);
    assert_only(w, CHECK_BARRIER, 1);
}

static void test_a_write_that_was_not_done_is_not_seen(void **state)
{
    struct world *w = *state;
    written(w, RECORD, 1, 0);
    begin(w, RECORD, 2);
    atomic_store(&check_write_of(w->board, RECORD, GENERATION, 2)->acked_ns, CHECK_FAILED);
    reads(w, RECORD, 2, NEAR_FROM_REMOTE);
    assert_only(w, CHECK_PHANTOM, 1);
}

static void test_what_nobody_wrote_is_damage(void **state)
{
    struct world *w = *state;
    struct check_read read;
    written(w, RECORD, 1, 0);
    reads(w, RECORD, 2, NEAR_FROM_LOCAL);
    assert_only(w, CHECK_DAMAGED, 1);
    look(w, &read, RECORD);
    read.status = NEAR_OK;
    check_judge_end(w->judge, &read, "something else", 14);
    assert_only(w, CHECK_DAMAGED, 2);
}

static void test_what_has_expired_is_gone(void **state)
{
    struct world *w = *state;
    written(w, EXPIRING, 1, check_ttl_ms(EXPIRING, 1) + 10); /* as much as two clocks may differ */
    reads(w, EXPIRING, 1, NEAR_FROM_LOCAL);
    assert_int_equal(check_violations(w->board), 0);
    written(w, EXPIRING, 2, check_ttl_ms(EXPIRING, 2) + 11);
    reads(w, EXPIRING, 2, NEAR_FROM_LOCAL);
    assert_only(w, CHECK_EXPIRED, 1);
}

static void test_after_a_loss_only_what_survived_is_right(void **state)
{
    struct world *w = *state;
    struct check_key *key = check_key_of(w->board, RECORD, GENERATION);
    written(w, RECORD, 1, 1000);
    written(w, RECORD, 2, 1000);
    atomic_store(&key->survivor, 1);
    atomic_store(&key->frozen_ns, CHECK_LOSING);
    reads(w, RECORD, 2, NEAR_FROM_LOCAL);
    atomic_store(&key->frozen_ns, NOW_NS - BOUND_NS);
    reads(w, RECORD, 2, NEAR_FROM_LOCAL); /* a bound later, but not more */
    assert_int_equal(check_violations(w->board), 0);
    atomic_store(&key->frozen_ns, NOW_NS - BOUND_NS - 1);
    reads(w, RECORD, 1, NEAR_FROM_LOCAL);
    assert_int_equal(check_violations(w->board), 0);
    reads(w, RECORD, 2, NEAR_FROM_LOCAL);
    assert_only(w, CHECK_SURVIVOR, 1);
}

/* ---------------------------------------------------------------- what can be judged only later */

static void test_a_read_is_judged_again_when_the_acknowledgement_is_noted(void **state)
{
    struct world *w = *state;
    written(w, RECORD, 1, 1000);
    begin(w, RECORD, 2);
    reads(w, RECORD, 1, NEAR_FROM_LOCAL);
    check_judge_later(w->judge);
    assert_int_equal(check_violations(w->board), 0);
    acked(w, RECORD, 2, 200); /* its writer was stopped before it could say so */
    check_judge_later(w->judge);
    assert_only(w, CHECK_STALE, 1);
    check_judge_later(w->judge);
    assert_only(w, CHECK_STALE, 1);
}

/* Counters are written by all at once: many versions wait together, and the oldest of them is as good a witness as
 * any. */
static void test_of_many_overlapping_versions_none_is_dropped(void **state)
{
    struct world *w = *state;
    enum { VERSIONS = CHECK_LATER - 1 };
    written(w, COUNTER, 1, 1000);
    for (uint64_t v = 2; v <= VERSIONS + 1; v++)
        begin(w, COUNTER, v);
    for (uint64_t v = 1; v <= VERSIONS; v++)
        reads(w, COUNTER, v, NEAR_FROM_LOCAL);
    assert_int_equal(check_violations(w->board), 0);
    acked(w, COUNTER, 2, 200);
    check_judge_later(w->judge);
    assert_only(w, CHECK_STALE, 1); /* version 1 alone has a newer one that was acknowledged */
    acked(w, COUNTER, VERSIONS + 1, 200);
    check_judge_later(w->judge);
    assert_only(w, CHECK_STALE, VERSIONS);
}

static void test_when_there_is_no_place_the_hardest_tests_are_kept(void **state)
{
    struct world *w = *state;
    enum { VERSIONS = CHECK_LATER + 8 };
    written(w, COUNTER, 1, 1000);
    for (uint64_t v = 2; v <= VERSIONS + 1; v++)
        begin(w, COUNTER, v);
    for (uint64_t v = 1; v <= VERSIONS; v++)
        reads(w, COUNTER, v, NEAR_FROM_LOCAL);
    acked(w, COUNTER, VERSIONS + 1, 200);
    check_judge_later(w->judge);
    assert_only(w, CHECK_STALE, CHECK_LATER);
}

static void test_reads_with_bounds_of_their_own_wait_apart(void **state)
{
    struct world *w = *state;
    struct check_read fresh;
    written(w, COUNTER, 1, 1000);
    begin(w, COUNTER, 2);
    look(w, &fresh, COUNTER);
    fresh.bound_ns = 0; /* NEAR_REQUIRE_FRESH */
    got(w, &fresh, 1, NEAR_FROM_LOCAL);
    reads(w, COUNTER, 1, NEAR_FROM_LOCAL);
    check_acked(w->board, COUNTER, GENERATION, 2, fresh.begin_ns - 1);
    check_judge_later(w->judge);
    assert_only(w, CHECK_STALE, 1);
    assert_int_equal(atomic_load(&w->judge->reader->outdated), 2);
}

static void test_what_waited_is_not_compared_with_another_generation(void **state)
{
    struct world *w = *state;
    written(w, RECORD, 1, 1000);
    begin(w, RECORD, 2);
    reads(w, RECORD, 1, NEAR_FROM_LOCAL);
    atomic_store(&w->board->slot[RECORD].oldest, GENERATION + 1);
    acked(w, RECORD, 2, 200);
    check_judge_later(w->judge);
    assert_int_equal(check_violations(w->board), 0);
    assert_int_equal(w->judge->later_count[RECORD], 0);
}

/* ---------------------------------------------------------------- the end */

static int finally(struct world *w, uint32_t slot, uint64_t before, uint64_t found, uint64_t after)
{
    struct check_key *key = check_key_of(w->board, slot, GENERATION);
    atomic_store(&key->final[0], before);
    atomic_store(&w->board->process[PROCESS].swept_version[slot][GENERATION & 1], found);
    atomic_store(&key->final[1], after);
    return check_judge_final(w->board, PROCESS, slot, GENERATION);
}

static void test_at_the_end_everybody_has_what_redis_has(void **state)
{
    struct world *w = *state;
    assert_true(finally(w, COLD, 6, 6, 6));
    assert_true(finally(w, COLD, 6, 6, 7)); /* a write of unknown fate took effect */
    assert_true(finally(w, COLD, 6, 7, 7));
    assert_int_equal(check_violations(w->board), 0);
    written(w, COLD, 4, 2000);
    written(w, COLD, 5, 1000);
    assert_true(finally(w, COLD, 6, 5, 6));
    assert_only(w, CHECK_FINAL, 1);
    assert_int_equal(w->board->note[0].writes, 2); /* it shows what was read and what came after it */
    assert_int_equal(w->board->note[0].write[0].version, 4);
    assert_int_equal(w->board->note[0].write[1].version, 5);
}

static void test_what_redis_did_not_say_is_not_passed_over(void **state)
{
    struct world *w = *state;
    assert_false(finally(w, COLD, 0, 5, 6));
    assert_false(finally(w, COLD, 6, 5, 0));
    assert_false(finally(w, COLD, 6, 0, 6));
    assert_true(finally(w, COLD, CHECK_NO_VALUE, 5, CHECK_NO_VALUE)); /* told already, as damage */
    assert_int_equal(check_violations(w->board), 0);
}

static void test_an_expiring_value_may_vanish_and_nothing_else(void **state)
{
    struct world *w = *state;
    assert_true(finally(w, EXPIRING, 6, 6, 1));
    assert_true(finally(w, EXPIRING, 6, 1, 1));
    assert_int_equal(check_violations(w->board), 0);
    assert_true(finally(w, EXPIRING, 6, 1, 6)); /* a miss, and Redis has it all the time */
    assert_only(w, CHECK_FINAL, 1);
    assert_true(finally(w, EXPIRING, 1, 5, 1)); /* a copy that outlives it */
    assert_only(w, CHECK_FINAL, 2);
    atomic_store(&check_key_of(w->board, EXPIRING, GENERATION)->open, 4);
    assert_true(finally(w, EXPIRING, 1, 5, 1)); /* a write of unknown fate that came and went */
    assert_only(w, CHECK_FINAL, 2);
}

#define rule(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        rule(test_the_newest_value_is_right),
        rule(test_within_the_bound_an_old_value_is_right),
        rule(test_beyond_the_bound_it_is_stale),
        rule(test_an_old_value_from_redis_is_a_lost_write),
        rule(test_a_copy_tells_its_source_by_the_calls_flags),
        rule(test_a_miss_in_redis_of_a_written_value_is_a_lost_write),
        rule(test_a_miss_is_right_when_a_removal_may_be_seen),
        rule(test_nobody_goes_back),
        rule(test_behind_a_barrier_nothing_older_is_read),
        rule(test_a_write_that_was_not_done_is_not_seen),
        rule(test_what_nobody_wrote_is_damage),
        rule(test_what_has_expired_is_gone),
        rule(test_after_a_loss_only_what_survived_is_right),
        rule(test_a_read_is_judged_again_when_the_acknowledgement_is_noted),
        rule(test_of_many_overlapping_versions_none_is_dropped),
        rule(test_when_there_is_no_place_the_hardest_tests_are_kept),
        rule(test_reads_with_bounds_of_their_own_wait_apart),
        rule(test_what_waited_is_not_compared_with_another_generation),
        rule(test_at_the_end_everybody_has_what_redis_has),
        rule(test_what_redis_did_not_say_is_not_passed_over),
        rule(test_an_expiring_value_may_vanish_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
