/* SPDX-License-Identifier: BSD-3-Clause
 * What is suspect after a fault is compared with the server: what is kept, what is not, how fast, in which order. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "coherence/proof.h"
#include "coherence/stage.h"

enum { RATE = 1000, MANY = 600 };

static int set_up(void **state)
{
    return stage_open(state, RATE);
}

static void set_untold(struct stage *s, const char *key, uint64_t value)
{
    near__memory_fault(s->world.store, NEAR_FAULT_DROP_MESSAGES, 0, -1);
    process_set(&s->b, key, value);
    near__memory_fault(s->world.store, NEAR_FAULT_DROP_MESSAGES, 0, 0);
}

/* A notices that it has missed a message, and proves anew; the repair is still to begin. */
static void lose_a_message(struct stage *s)
{
    set_untold(s, "lost", 1);
    process_prove(&s->a);
}

static uint64_t ran(struct stage *s, enum near__operation operation)
{
    return near__memory_requests(s->world.store, operation);
}

static void advance_to(struct stage *s, enum near__repair_stage stage)
{
    for (int i = 0; s->a.coherence->repair.stage != stage; i++) {
        assert_true(i < 10000);
        if (!near__prover_step(s->a.coherence, 0))
            world_advance(&s->world, NEAR_NS_PER_MS / 10);
    }
}

/* Lets what was sent be settled, before anything else is. */
static void settle_batch(struct stage *s)
{
    assert_int_equal(s->a.coherence->repair.stage, NEAR_REPAIR_SETTLE);
    near__prover_step(s->a.coherence, 0);
    assert_int_not_equal(s->a.coherence->repair.stage, NEAR_REPAIR_SETTLE);
}

/* ---------------------------------------------------------------- what is kept */

static void test_unchanged_values_are_kept_without_a_fetch_and_changed_ones_are_not(void **state)
{
    struct stage *s = *state;
    share(s, "same", 1);
    share(s, "changed", 2);
    share(s, "deleted", 3);
    set_untold(s, "changed", 20);
    near__memory_fault(s->world.store, NEAR_FAULT_DROP_MESSAGES, 0, 1);
    process_del(&s->b, "deleted");
    process_prove(&s->a);
    assert_no_hit(&s->a, "same"); /* suspect until it is known */
    near__local_keep(s->a.local);
    uint64_t fetched = ran(s, NEAR_OP_FETCH);
    process_repair(&s->a);
    assert_hit(&s->a, "same", 1);
    assert_no_hit(&s->a, "changed");
    assert_no_hit(&s->a, "deleted");
    assert_int_equal(ran(s, NEAR_OP_FETCH), fetched);
    assert_int_equal(process_stats(&s->a).repair_compared, 3);
    assert_int_equal(process_stats(&s->a).repair_kept, 1);
    assert_int_equal(process_stats(&s->a).repair_dropped, 2);
    process_set(&s->b, "same", 10); /* and messages are followed as ever */
    process_settle(&s->a);
    assert_no_hit(&s->a, "same");
}

/* Positions of the two histories do not compare; values do. */
static void test_after_a_loss_of_data_what_agrees_with_the_server_is_kept(void **state)
{
    struct stage *s = *state;
    share(s, "old", 1);
    share(s, "lost", 2);
    near__memory_snapshot(s->world.store);
    process_set(&s->b, "lost", 20);
    process_settle(&s->a);
    assert_int_equal(process_fetch(&s->a, "lost"), 20);
    near__memory_restart(s->world.store, 1);
    process_prove(&s->a);
    assert_int_equal(process_stats(&s->a).server_changes, 1);
    assert_no_hit(&s->a, "old");
    process_repair(&s->a);
    assert_hit(&s->a, "old", 1);
    assert_no_hit(&s->a, "lost");
    assert_int_equal(process_fetch(&s->a, "lost"), 2);
}

static void test_R20_time_to_live_is_the_servers(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    share(s, "stays", 2);
    struct near__buffer body;
    near__buffer_init(&body, &s->world.alloc);
    near__coherence_body(s->b.coherence, NEAR_MESSAGE_EXPIRE, "k", 1, &body);
    struct near__request q = {.operation = NEAR_OP_EXPIRE,
                              .key = "k",
                              .key_size = 1,
                              .ttl_ms = 2000,
                              .body = body.data,
                              .body_size = body.size};
    near__memory_fault(s->world.store, NEAR_FAULT_DROP_MESSAGES, 0, 1);
    near__remote_run(s->b.remote, &q, 1, NEAR_NEVER);
    near__buffer_fini(&body);
    assert_int_equal(q.status, NEAR_OK);
    process_prove(&s->a);
    process_repair(&s->a);
    assert_hit(&s->a, "k", 1);
    world_advance(&s->world, 2000 * NEAR_NS_PER_MS);
    process_prove(&s->a);
    assert_no_hit(&s->a, "k");
    assert_hit(&s->a, "stays", 2);
}

/* ---------------------------------------------------------------- races */

static void test_R01_message_that_comes_before_the_answer_is_settled_wins(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    lose_a_message(s);
    advance_to(s, NEAR_REPAIR_SETTLE); /* the server has said: the same */
    process_set(&s->b, "k", 2);
    near__subscriber_step(s->a.coherence, 0);
    near__subscriber_step(s->a.coherence, 0);
    settle_batch(s);
    assert_no_hit(&s->a, "k");
    process_repair(&s->a);
    assert_no_hit(&s->a, "k");
}

static void test_R08_answer_does_not_bring_back_what_was_cleared_meanwhile(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    lose_a_message(s);
    advance_to(s, NEAR_REPAIR_SETTLE);
    near__local_clear(s->a.local); /* without a position: who was asked before is refused by his ticket alone */
    settle_batch(s);
    assert_no_hit(&s->a, "k");
}

static void test_R10_answer_of_a_lost_history_is_not_kept(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    lose_a_message(s);
    advance_to(s, NEAR_REPAIR_SETTLE);
    near__memory_restart(s->world.store, 1);
    near__subscriber_step(s->a.coherence, 0); /* lost */
    while (process_stats(&s->a).server_changes == 0) {
        near__subscriber_step(s->a.coherence, 0);
        world_advance(&s->world, NEAR_NS_PER_MS);
    }
    settle_batch(s);
    assert_int_equal(process_stats(&s->a).repair_compared, 0);
    process_prove(&s->a);
    process_repair(&s->a);
    assert_no_hit(&s->a, "k");
}

static void test_R54_what_was_read_meanwhile_is_not_replaced_by_an_older_answer(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    lose_a_message(s);
    advance_to(s, NEAR_REPAIR_SETTLE);
    set_untold(s, "k", 2);
    assert_int_equal(process_fetch(&s->a, "k"), 2);
    settle_batch(s);
    assert_hit(&s->a, "k", 2);
}

static void test_second_fault_begins_the_repair_anew(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    share(s, "l", 1);
    assert_hit(&s->a, "k", 1); /* of the same age as l */
    lose_a_message(s);
    advance_to(s, NEAR_REPAIR_SETTLE);
    settle_batch(s);
    assert_hit(&s->a, "k", 1);
    set_untold(s, "l", 2);
    process_prove(&s->a);
    assert_no_hit(&s->a, "k");
    process_repair(&s->a);
    assert_hit(&s->a, "k", 1);
    assert_no_hit(&s->a, "l");
    assert_int_equal(process_stats(&s->a).suspicions, 1 + 2); /* the first proof's */
}

/* ---------------------------------------------------------------- order, pace, failures */

static const char *name_of(char text[16], int i)
{
    snprintf(text, 16, "key-%d", i);
    return text;
}

static void share_many(struct stage *s)
{
    char text[16];
    for (int i = 0; i < MANY; i++)
        share(s, name_of(text, i), 1 + (uint64_t)i);
}

static int count_served(struct stage *s)
{
    char text[16];
    uint64_t value;
    int served = 0;
    for (int i = 0; i < MANY; i++)
        served += process_hit(&s->a, name_of(text, i), &value);
    return served;
}

static void test_I_comparing_keeps_to_its_rate(void **state)
{
    struct stage *s = *state;
    share_many(s);
    lose_a_message(s);
    int64_t taken_ns = process_repair(&s->a);
    assert_int_equal(count_served(s), MANY);
    /* a pause is half of what the rate says at least, one and a half at most; none before the first batch, which has
     * 256 at most */
    assert_in_range(taken_ns / NEAR_NS_PER_MS, (MANY - 256) * 1000 / RATE / 2, MANY * 1000 / RATE * 3 / 2 + 100);
}

static void test_what_was_read_last_is_compared_first(void **state)
{
    struct stage *s = *state;
    enum { HOT = 30 };
    char text[16];
    share_many(s);
    for (int i = 0; i < HOT; i++)
        assert_hit(&s->a, name_of(text, i * (MANY / HOT)), 1 + (uint64_t)(i * (MANY / HOT)));
    lose_a_message(s);
    advance_to(s, NEAR_REPAIR_SETTLE);
    settle_batch(s);
    for (int i = 0; i < HOT; i++)
        assert_hit(&s->a, name_of(text, i * (MANY / HOT)), 1 + (uint64_t)(i * (MANY / HOT)));
    assert_true(count_served(s) < MANY / 2);
}

static void test_what_fails_is_tried_again(void **state)
{
    struct stage *s = *state;
    share_many(s);
    lose_a_message(s);
    near__memory_error(s->world.store, NEAR_OP_COMPARE, NEAR_ERR_REMOTE, 5);
    process_repair(&s->a);
    assert_int_equal(count_served(s), MANY);
}

static void test_what_fails_for_good_is_dropped_and_fetched(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    lose_a_message(s);
    near__memory_error(s->world.store, NEAR_OP_COMPARE, NEAR_ERR_DENIED, -1);
    uint64_t asked = ran(s, NEAR_OP_COMPARE);
    process_repair(&s->a);
    assert_no_hit(&s->a, "k");
    assert_int_equal(ran(s, NEAR_OP_COMPARE), asked);
    near__local_keep(s->a.local);
    near_stats stats = {.size = sizeof(stats)};
    near__local_stats(s->a.local, &stats);
    assert_int_equal(stats.local_entries, 0);
    assert_int_equal(process_fetch(&s->a, "k"), 1);
    assert_hit(&s->a, "k", 1);
}

static void test_without_a_rate_everything_suspect_goes_at_once(void **state)
{
    struct stage *s = *state;
    process_set(&s->a, "k", 1);
    process_settle(&s->b);
    assert_int_equal(process_fetch(&s->b, "k"), 1);
    near__memory_fault(s->world.store, NEAR_FAULT_DROP_MESSAGES, 0, -1);
    process_set(&s->a, "lost", 1);
    near__memory_fault(s->world.store, NEAR_FAULT_DROP_MESSAGES, 0, 0);
    uint64_t asked = ran(s, NEAR_OP_COMPARE);
    process_prove(&s->b);
    process_repair(&s->b);
    assert_no_hit(&s->b, "k");
    assert_int_equal(ran(s, NEAR_OP_COMPARE), asked);
    near__local_keep(s->b.local);
    near_stats stats = {.size = sizeof(stats)};
    near__local_stats(s->b.local, &stats);
    assert_int_equal(stats.local_entries, 0);
}

/* A batch larger than anything else that is suspect, and values that are left out. */
static void test_large_values_are_left_to_the_next_read(void **state)
{
    struct stage *s = *state;
    static char large[70000];
    share(s, "small", 1);
    struct near__ticket ticket = near__local_ticket(s->a.local, "large", 5);
    assert_int_equal(near__local_install(s->a.local, near__local_reader(s->a.local), ticket, "large", 5, large,
                                         sizeof(large), ticket.watermark + 10, -1, NEAR_NEVER),
                     1);
    lose_a_message(s);
    process_repair(&s->a);
    assert_int_equal(process_stats(&s->a).repair_compared, 1);
    assert_hit(&s->a, "small", 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, stage_close)
        TEST(test_unchanged_values_are_kept_without_a_fetch_and_changed_ones_are_not),
        TEST(test_after_a_loss_of_data_what_agrees_with_the_server_is_kept),
        TEST(test_R20_time_to_live_is_the_servers),
        TEST(test_R01_message_that_comes_before_the_answer_is_settled_wins),
        TEST(test_R08_answer_does_not_bring_back_what_was_cleared_meanwhile),
        TEST(test_R10_answer_of_a_lost_history_is_not_kept),
        TEST(test_R54_what_was_read_meanwhile_is_not_replaced_by_an_older_answer),
        TEST(test_second_fault_begins_the_repair_anew),
        TEST(test_I_comparing_keeps_to_its_rate),
        TEST(test_what_was_read_last_is_compared_first),
        TEST(test_what_fails_is_tried_again),
        TEST(test_what_fails_for_good_is_dropped_and_fetched),
        TEST(test_without_a_rate_everything_suspect_goes_at_once),
        TEST(test_large_values_are_left_to_the_next_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
