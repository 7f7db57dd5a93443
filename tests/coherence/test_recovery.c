/* SPDX-License-Identifier: BSD-3-Clause Everything that can hide a message, one by one, with a virtual clock: what is
 * withdrawn, what is cured, and what may stay. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coherence/barrier.h"
#include "coherence/proof.h"
#include "coherence/stage.h"
#include "local/ticks.h"
#include "support/allocfail.h"

static int set_up(void **state)
{
    return stage_open(state, 0);
}

static uint64_t proof_requests(struct stage *s)
{
    return near__memory_requests(s->world.store, NEAR_OP_PROVE);
}

/* ---------------------------------------------------------------- the ordinary day */

static void test_message_of_another_process_removes_the_old_value(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    process_set(&s->b, "k", 2);
    process_settle(&s->a);
    assert_no_hit(&s->a, "k");
    assert_int_equal(process_stats(&s->a).message_gaps, 0);
}

static void test_R06_own_message_leaves_the_own_value(void **state)
{
    struct stage *s = *state;
    process_set(&s->a, "k", 1);
    process_settle(&s->a);
    assert_hit(&s->a, "k", 1);
    assert_int_equal(process_stats(&s->a).messages_own, 1);
}

static void test_R05_own_write_acknowledged_late_loses_to_the_newer_message(void **state)
{
    struct stage *s = *state;
    struct command c;
    command_begin_set(&c, &s->a, "k", 1);
    command_run(&c);
    process_set(&s->b, "k", 2);
    process_settle(&s->a); /* own message, then B's */
    assert_int_equal(command_end(&c), NEAR_OK);
    assert_no_hit(&s->a, "k");
}

static void test_first_proof_of_a_new_process_disturbs_nobody(void **state)
{
    struct stage *s = *state;
    struct process late;
    share(s, "k", 1);
    uint64_t position = near__memory_position(s->world.store, "");
    process_open(&late, &s->world, 33);
    assert_int_equal(process_fetch(&late, "k"), 1); /* before it is subscribed */
    while (process_stats(&late).subscriptions == 0)
        near__coherence_step(late.coherence);
    assert_int_equal(process_fetch(&late, "k"), 1); /* before it is proven */
    process_prove(&late);
    assert_int_equal(process_fetch(&late, "k"), 1);
    assert_hit(&late, "k", 1);
    assert_int_equal(near__memory_position(s->world.store, ""), position);
    process_prove(&s->a);
    assert_hit(&s->a, "k", 1);
    process_close(&late);
}

/* With nothing known before, a break in the server's history is not to be seen: here a position lowered between reply
 * and proof. */
static void test_R10_reply_to_what_was_asked_before_the_first_proof_is_not_kept(void **state)
{
    struct stage *s = *state;
    struct process late;
    struct command c;
    for (uint64_t i = 1; i <= 50; i++)
        process_set(&s->b, "k", i);
    process_open(&late, &s->world, 33);
    while (process_stats(&late).subscriptions == 0)
        near__coherence_step(late.coherence);
    command_begin_fetch(&c, &late, "k");
    command_run(&c);
    near__memory_set_position(s->world.store, "", near__memory_position(s->world.store, "") - 25);
    process_prove(&late);
    command_end(&c);
    assert_no_hit(&late, "k");
    process_close(&late);
}

/* ---------------------------------------------------------------- the subscription lost */

static void lose(struct stage *s)
{
    near__memory_disconnect_channels(s->world.store);
    process_settle(&s->a);
    assert_int_equal(process_serves(&s->a), 0);
}

static void test_R21_reconnection_without_a_missed_write_keeps_every_entry(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    uint64_t suspicions = process_stats(&s->a).suspicions;
    lose(s);
    assert_no_hit(&s->a, "k");
    process_prove(&s->a);
    assert_hit(&s->a, "k", 1);
    assert_int_equal(process_stats(&s->a).suspicions, suspicions);
    assert_int_equal(process_stats(&s->a).disconnections, 1);
}

static void test_R21_write_missed_while_disconnected_makes_entries_suspect(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    near__memory_disconnect_channels(s->world.store);
    process_set(&s->b, "k", 2);
    process_prove(&s->a);
    assert_no_hit(&s->a, "k");
    assert_int_equal(process_fetch(&s->a, "k"), 2);
    assert_hit(&s->a, "k", 2);
}

/* "last" must not be forgotten at the reconnection and then follow the first message seen. */
static void test_R21_message_on_the_new_subscription_does_not_hide_those_missed(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    near__memory_disconnect_channels(s->world.store);
    process_set(&s->b, "k", 2); /* missed */
    while (process_stats(&s->a).subscriptions < 2) {
        near__coherence_step(s->a.coherence);
        world_advance(&s->world, NEAR_NS_PER_MS);
    }
    process_set(&s->b, "other", 3); /* first message on the new subscription, and last one before the proof */
    process_prove(&s->a);
    assert_no_hit(&s->a, "k");
}

static void test_R21_write_that_falls_between_is_followed_without_a_hole(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    share(s, "other", 1);
    near__memory_disconnect_channels(s->world.store);
    while (process_stats(&s->a).subscriptions < 2) {
        near__coherence_step(s->a.coherence);
        world_advance(&s->world, NEAR_NS_PER_MS);
    }
    process_set(&s->b, "other", 2); /* the next number: nothing was missed */
    process_prove(&s->a);
    assert_hit(&s->a, "k", 1);
    assert_no_hit(&s->a, "other");
}

static void test_R22_fill_begun_while_unsubscribed_is_not_served(void **state)
{
    struct stage *s = *state;
    struct command c;
    process_set(&s->b, "k", 1);
    lose(s);
    command_begin_fetch(&c, &s->a, "k");
    command_run(&c);            /* 1 */
    process_set(&s->b, "k", 2); /* the message is lost */
    process_prove(&s->a);
    command_end(&c);
    assert_int_equal(c.value, 1);
    assert_no_hit(&s->a, "k");
}

static void test_R23_nothing_is_served_while_reconnections_are_refused(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    near__memory_fault(s->world.store, NEAR_FAULT_REFUSE, 0, -1);
    near__memory_disconnect_channels(s->world.store);
    for (int i = 0; i < 200; i++) {
        process_settle(&s->a);
        assert_no_hit(&s->a, "k");
        world_advance(&s->world, 20 * NEAR_NS_PER_MS);
    }
    near_error error;
    assert_int_equal(near__coherence_wait(s->a.coherence, near__now(&s->world.clock) + 1, &error), NEAR_ERR_TIMEOUT);
    assert_non_null(strstr(error.text, "refused"));
    near__memory_fault(s->world.store, NEAR_FAULT_REFUSE, 0, 0);
    process_prove(&s->a);
}

static void test_R38_refused_subscriptions_are_retried_with_growing_pauses(void **state)
{
    struct stage *s = *state;
    near__memory_fault(s->world.store, NEAR_FAULT_REFUSE, 0, -1);
    near__memory_disconnect_channels(s->world.store);
    unsigned attempts = 0;
    for (int i = 0; i < 60000; i++) { /* a minute of virtual time; a step that opens is a step that does something */
        while (near__coherence_step(s->a.coherence))
            attempts++;
        world_advance(&s->world, NEAR_NS_PER_MS);
    }
    assert_in_range(attempts, 30, 100); /* pauses of at most 2 s, at least 1 s, after a short start */
}

/* What the subscription waits for, requests may notice earlier. */
static void test_subscription_does_not_wait_on_when_the_server_answers_again(void **state)
{
    struct stage *s = *state;
    near__memory_fault(s->world.store, NEAR_FAULT_REFUSE, 0, -1);
    near__memory_disconnect_channels(s->world.store);
    for (int i = 0; i < 10000; i++) { /* the pauses are seconds by now */
        process_settle(&s->a);
        world_advance(&s->world, NEAR_NS_PER_MS);
    }
    while (!near__coherence_step(s->a.coherence))
        world_advance(&s->world, NEAR_NS_PER_MS); /* the beginning of a pause */
    near__memory_fault(s->world.store, NEAR_FAULT_REFUSE, 0, 0);
    uint64_t subscriptions = process_stats(&s->a).subscriptions;
    world_advance(&s->world, 100 * NEAR_NS_PER_MS);
    process_settle(&s->a);
    assert_int_equal(process_stats(&s->a).subscriptions, subscriptions);
    process_fetch(&s->a, "k");
    world_advance(&s->world, 10 * NEAR_NS_PER_MS);
    process_settle(&s->a);
    assert_int_equal(process_stats(&s->a).subscriptions, subscriptions + 1);
}

/* ---------------------------------------------------------------- silence */

static void test_R24_silent_link_lets_the_proof_lapse_and_is_replaced(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    int64_t silent_ns = near__now(&s->world.clock);
    near__memory_fault(s->world.store, NEAR_FAULT_SILENCE, 0, -1);
    while (near__now(&s->world.clock) - silent_ns < 4 * NEAR_NS_PER_S) {
        process_settle(&s->a);
        if (near__now(&s->world.clock) - silent_ns >= TEST_BOUND_NS)
            assert_no_hit(&s->a, "k");
        world_advance(&s->world, 10 * NEAR_NS_PER_MS);
    }
    assert_int_equal(process_stats(&s->a).disconnections, 1);
    near__memory_fault(s->world.store, NEAR_FAULT_SILENCE, 0, 0);
    process_prove(&s->a);
    assert_hit(&s->a, "k", 1); /* nothing was written meanwhile */
}

/* A machine that was suspended may come back with its counter reset, long before the moment that hits go by. */
static void test_B_lapsed_proof_leaves_no_moment_of_the_counter(void **state)
{
    struct stage *s = *state;
    _Atomic(int64_t) *fresh_ticks = &near__local_gate(s->a.local)->fresh_ticks;
    share(s, "k", 1);
    process_prove(&s->a);
    near__memory_error(s->world.store, NEAR_OP_PROVE, NEAR_ERR_MISCONFIGURED, -1);
    atomic_store(fresh_ticks, INT64_MAX); /* the virtual clock has none */
    process_settle(&s->a);
    assert_true(atomic_load(fresh_ticks) == INT64_MAX);
    world_advance(&s->world, TEST_BOUND_NS);
    process_settle(&s->a);
    assert_true(atomic_load(fresh_ticks) == NEAR_TICKS_NEVER);
    assert_no_hit(&s->a, "k");
    near__memory_error(s->world.store, NEAR_OP_PROVE, NEAR_ERR_MISCONFIGURED, 0);
    process_prove(&s->a);
    assert_hit(&s->a, "k", 1);
}

static void test_R29_stopped_subscriber_lets_the_proof_lapse(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    process_set(&s->b, "k", 2);
    world_advance(&s->world, TEST_BOUND_NS); /* A does nothing all the time */
    assert_no_hit(&s->a, "k");
    process_prove(&s->a);
    assert_no_hit(&s->a, "k");
    assert_int_equal(process_stats(&s->a).message_gaps, 0);
}

/* The answer is late: the proof counts from before the question was sent. */
static void test_B_proof_counts_from_its_beginning(void **state)
{
    struct stage *s = *state;
    struct near__gate *gate = near__local_gate(s->a.local);
    share(s, "k", 1);
    world_advance(&s->world, near__proof_interval_ns(s->a.coherence));
    near__memory_fault(s->world.store, NEAR_FAULT_HOLD_MESSAGES, NEAR_OP_PROVE, 1);
    int64_t begun_ns = near__now(&s->world.clock);
    process_settle(&s->a);
    assert_int_equal(near__memory_held(s->world.store, NEAR_FAULT_HOLD_MESSAGES), 1);
    world_advance(&s->world, near__proof_patience_ns(s->a.coherence) - 1);
    near__memory_fault(s->world.store, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
    uint64_t proofs = process_stats(&s->a).proofs;
    while (process_stats(&s->a).proofs == proofs)
        assert_int_equal(near__coherence_step(s->a.coherence), 1);
    assert_int_equal(atomic_load(&gate->proved_ns), begun_ns);
}

/* ---------------------------------------------------------------- nonces */

/* Begins an attempt without sending its PING; returns the nonce. */
static uint64_t begin_attempt(struct stage *s)
{
    int64_t due_ns;
    uint64_t nonce = 0;
    world_advance(&s->world, near__proof_interval_ns(s->a.coherence));
    assert_int_equal(near__proof_tick(s->a.coherence, &due_ns, &nonce), NEAR_TICK_PING);
    return nonce;
}

static void say_pong(struct process *p, uint64_t nonce)
{
    char text[32];
    near__proof_pong(p->coherence, text, (size_t)snprintf(text, sizeof(text), "%" PRIu64, nonce));
}

static void say_proof(struct process *p, uint64_t nonce, uint64_t position)
{
    char text[64];
    near__proof_arrived(p->coherence, text,
                        (size_t)snprintf(text, sizeof(text), "P%" PRIu64 ":%" PRIu64, nonce, position));
}

static void test_R25_R27_only_the_current_nonce_proves(void **state)
{
    struct stage *s = *state;
    uint64_t nonce = begin_attempt(s), proofs = process_stats(&s->a).proofs;
    uint64_t position = near__memory_position(s->world.store, "");
    say_pong(&s->a, nonce); /* one half alone is nothing */
    say_pong(&s->a, nonce);
    say_proof(&s->a, nonce - 1, position);
    say_proof(&s->a, nonce + 1, position);
    say_proof(&s->a, 0, position);
    assert_int_equal(process_stats(&s->a).proofs, proofs);
    say_proof(&s->a, nonce, position);
    assert_int_equal(process_stats(&s->a).proofs, proofs + 1);
    say_pong(&s->a, nonce); /* late ones are nothing either */
    say_proof(&s->a, nonce, position);
    assert_int_equal(process_stats(&s->a).proofs, proofs + 1);
}

static void test_R25_R27_only_the_current_nonce_is_a_PONG(void **state)
{
    struct stage *s = *state;
    uint64_t nonce = begin_attempt(s), proofs = process_stats(&s->a).proofs;
    say_proof(&s->a, nonce, near__memory_position(s->world.store, ""));
    near__proof_pong(s->a.coherence, "", 0);
    near__proof_pong(s->a.coherence, "BUSY", 4);
    say_pong(&s->a, nonce - 1);
    say_pong(&s->a, 0);
    assert_int_equal(process_stats(&s->a).proofs, proofs);
    say_pong(&s->a, nonce);
    assert_int_equal(process_stats(&s->a).proofs, proofs + 1);
}

/* An attempt of A whose answer A never reads. */
static void prove_unheard(struct stage *s)
{
    world_advance(&s->world, near__proof_patience_ns(s->a.coherence));
    begin_attempt(s);
    assert_int_equal(near__prover_step(s->a.coherence, 0), 1);
}

/* A hears nothing, so it lifts from the same position twice, and the second lift must not lead to the number which B,
 * who has heard of the first and has written since, takes for the present one: B would not see that everything is
 * gone. */
static void test_R10_lifts_from_one_position_do_not_meet(void **state)
{
    struct stage *s = *state;
    /* ahead of the server's time, which would keep them apart as well */
    near__memory_set_position(s->world.store, "", near__memory_position(s->world.store, "") + UINT64_C(3600000000));
    process_prove(&s->a);
    process_prove(&s->b);
    for (uint64_t writes = 0; writes < 40; writes++) {
        near__memory_set_position(s->world.store, "", near__memory_position(s->world.store, "") - 1000);
        prove_unheard(s);
        process_set(&s->b, "k", 1);
        process_prove(&s->b);
        process_fetch(&s->b, "k");
        assert_hit(&s->b, "k", 1);
        for (uint64_t i = 0; i < writes; i++)
            process_set(&s->b, "other", i + 1);
        process_settle(&s->b);
        near__memory_flushall(s->world.store);
        prove_unheard(s);
        process_prove(&s->b);
        assert_no_hit(&s->b, "k");
        process_prove(&s->a);
    }
}

/* From the first barrier on there is a list of processes. */
static void begin_list(struct process *process)
{
    struct near__roll roll;
    near__roll_begin(process->coherence, &roll, INT64_MAX);
    near__roll_end(process->coherence, &roll);
}

/* B is long off everybody's list, so A's barrier waits for A alone; and A has not heard of B's last write yet. */
static void test_G7_barrier_waits_for_its_own_process(void **state)
{
    struct stage *s = *state;
    struct near__roll roll;
    struct near__barrier_result result;
    int64_t due_ns;
    share(s, "k", 1);
    begin_list(&s->a);
    for (int i = 0; i < 12; i++) {
        world_advance(&s->world, TEST_BOUND_NS / 4);
        process_prove(&s->a);
    }
    near__memory_fault(s->world.store, NEAR_FAULT_HOLD_MESSAGES, 0, -1);
    process_set(&s->b, "k", 2);
    near__roll_begin(s->a.coherence, &roll, INT64_MAX);
    process_settle(&s->a);
    assert_hit(&s->a, "k", 1);
    assert_int_equal(near__roll_look_locked(s->a.coherence, &roll, &result, &due_ns), 0);
    assert_int_equal(result.missing, 1);
    assert_int_equal(result.unlisted, 0);
    near__memory_fault(s->world.store, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
    process_settle(&s->a);
    assert_int_equal(near__roll_look_locked(s->a.coherence, &roll, &result, &due_ns), 1);
    assert_no_hit(&s->a, "k");
    near__roll_end(s->a.coherence, &roll);
}

/* A is not on the new list, and serves by a proof of before. */
static void test_G7_list_that_was_lost_is_not_believed(void **state)
{
    struct stage *s = *state;
    struct near__roll roll;
    struct near__barrier_result result;
    int64_t due_ns;
    begin_list(&s->b);
    for (int i = 0; i < 12; i++) {
        world_advance(&s->world, TEST_BOUND_NS / 4);
        process_prove(&s->a);
        process_prove(&s->b);
    }
    share(s, "k", 1);
    near__memory_foreign_del(s->world.store, ":nearcache-members", strlen(":nearcache-members"));
    process_set(&s->b, "k", 2);
    near__roll_begin(s->b.coherence, &roll, INT64_MAX);
    process_settle(&s->b);
    assert_int_equal(near__roll_look_locked(s->b.coherence, &roll, &result, &due_ns), 0);
    assert_int_equal(result.processes, 0);
    assert_int_equal(result.unlisted, 1);
    assert_hit(&s->a, "k", 1);
    world_advance(&s->world, due_ns - near__now(&s->world.clock));
    assert_int_equal(near__roll_look_locked(s->b.coherence, &roll, &result, &due_ns), 1);
    assert_no_hit(&s->a, "k");
    near__roll_end(s->b.coherence, &roll);
}

/* A's heartbeat has found the new list and told the bound of before, and A does not know, since the answer did not
 * come: a longer bound must not be used before it is told. */
static void test_G7_bound_that_grows_after_a_lost_answer_is_told_first(void **state)
{
    struct stage *s = *state;
    struct near__roll roll;
    struct near__barrier_result result;
    int64_t due_ns;
    share(s, "k", 1);
    begin_list(&s->b);
    near__memory_fault(s->world.store, NEAR_FAULT_DROP_REPLIES, NEAR_OP_PROVE, 1);
    world_advance(&s->world, TEST_BOUND_NS / 4);
    uint64_t proofs = process_stats(&s->a).proofs;
    process_settle(&s->a);
    assert_int_equal(process_stats(&s->a).proofs, proofs + 1);
    assert_hit(&s->a, "k", 1);
    near__coherence_set_bound(s->a.coherence, 3600000); /* and is stopped */
    process_set(&s->b, "k", 2);
    near__roll_begin(s->b.coherence, &roll, INT64_MAX);
    process_settle(&s->b);
    for (int looks = 0; looks < 3 && !near__roll_look_locked(s->b.coherence, &roll, &result, &due_ns); looks++)
        world_advance(&s->world, due_ns - near__now(&s->world.clock));
    assert_int_equal(near__roll_look_locked(s->b.coherence, &roll, &result, &due_ns), 1);
    assert_int_equal(result.processes, 1);
    assert_no_hit(&s->a, "k");
    near__roll_end(s->b.coherence, &roll);
    process_prove(&s->a);
    assert_int_equal(process_fetch(&s->a, "k"), 2);
    assert_hit(&s->a, "k", 2);
}

static void test_R25_halves_of_different_subscriptions_prove_nothing(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    uint64_t nonce = begin_attempt(s), proofs = process_stats(&s->a).proofs;
    say_proof(&s->a, nonce, near__memory_position(s->world.store, ""));
    near__memory_disconnect_channels(s->world.store);
    process_set(&s->b, "k", 2); /* missed */
    process_settle(&s->a);
    say_pong(&s->a, nonce);
    assert_int_equal(process_stats(&s->a).proofs, proofs);
    assert_no_hit(&s->a, "k");
}

static void test_R26_one_attempt_is_outstanding(void **state)
{
    struct stage *s = *state;
    world_advance(&s->world, near__proof_interval_ns(s->a.coherence));
    uint64_t requests = proof_requests(s);
    near__memory_fault(s->world.store, NEAR_FAULT_HOLD_MESSAGES, NEAR_OP_PROVE, -1);
    for (int i = 0; i < 10; i++) {
        process_settle(&s->a);
        world_advance(&s->world, near__proof_patience_ns(s->a.coherence) / 11);
    }
    assert_int_equal(proof_requests(s), requests + 1);
    for (int i = 0; i < 3; i++) { /* given up and repeated, one at a time */
        world_advance(&s->world, near__proof_patience_ns(s->a.coherence));
        process_settle(&s->a);
        assert_int_equal(proof_requests(s), requests + 2 + (uint64_t)i);
    }
    near__memory_fault(s->world.store, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
    process_prove(&s->a);
}

/* A message between the heartbeat and the PONG is later than the heartbeat's position, not a hole. */
static void test_I6_position_is_judged_when_the_heartbeat_is_read(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    uint64_t nonce = begin_attempt(s), proofs = process_stats(&s->a).proofs;
    assert_int_equal(near__prover_step(s->a.coherence, 0), 1);
    process_settle(&s->a);
    process_set(&s->b, "other", 2);
    process_settle(&s->a);
    say_pong(&s->a, nonce);
    assert_int_equal(process_stats(&s->a).proofs, proofs + 1);
    process_set(&s->b, "other", 3);
    process_prove(&s->a);
    assert_int_equal(process_stats(&s->a).message_gaps, 0);
    assert_hit(&s->a, "k", 1);
}

/* A hole after the heartbeat is not covered by its position: the attempt must not count. */
static void test_I6_hole_between_heartbeat_and_PONG_cancels_the_attempt(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    uint64_t nonce = begin_attempt(s), proofs = process_stats(&s->a).proofs;
    near__prover_step(s->a.coherence, 0);
    assert_int_equal(near__subscriber_step(s->a.coherence, 0), 1); /* reads the heartbeat */
    near__memory_fault(s->world.store, NEAR_FAULT_DROP_MESSAGES, 0, 1);
    process_set(&s->b, "k", 2); /* lost */
    process_set(&s->b, "other", 2);
    assert_int_equal(near__subscriber_step(s->a.coherence, 0), 1); /* reads the message after the hole */
    say_pong(&s->a, nonce);
    assert_int_equal(process_stats(&s->a).proofs, proofs);
    assert_no_hit(&s->a, "k");
    process_prove(&s->a);
    assert_no_hit(&s->a, "k");
}

/* ---------------------------------------------------------------- holes */

static void test_R30_lost_message_is_seen_at_the_next_message(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    near__memory_fault(s->world.store, NEAR_FAULT_DROP_MESSAGES, 0, 1);
    process_set(&s->b, "k", 2);
    process_settle(&s->a);
    assert_hit(&s->a, "k", 1); /* nobody can know yet; the bound holds it */
    process_set(&s->b, "other", 1);
    while (process_stats(&s->a).message_gaps == 0)
        assert_int_equal(near__coherence_step(s->a.coherence), 1);
    assert_no_hit(&s->a, "k");
    process_prove(&s->a);
    assert_no_hit(&s->a, "k");
    assert_int_equal(process_fetch(&s->a, "k"), 2);
    assert_hit(&s->a, "k", 2);
}

static void test_R30_lost_message_is_seen_at_the_next_heartbeat(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    near__memory_fault(s->world.store, NEAR_FAULT_DROP_MESSAGES, 0, 1);
    process_set(&s->b, "k", 2);
    world_advance(&s->world, near__proof_interval_ns(s->a.coherence));
    process_settle(&s->a);
    assert_no_hit(&s->a, "k");
    assert_int_equal(process_stats(&s->a).message_gaps, 1);
    process_prove(&s->a);
    assert_no_hit(&s->a, "k");
    assert_int_equal(process_stats(&s->a).message_gaps, 1);
}

static void test_duplicated_message_is_suspicious_and_recovered_from(void **state)
{
    struct stage *s = *state;
    near__memory_duplicate_next_message(s->world.store);
    process_set(&s->b, "k", 1);
    process_settle(&s->a);
    assert_int_equal(process_stats(&s->a).position_regressions, 1);
    process_prove(&s->a);
    assert_int_equal(process_fetch(&s->a, "k"), 1);
    assert_hit(&s->a, "k", 1);
}

static void inject_and_expect_suspicion(struct stage *s, const void *payload, size_t size)
{
    uint64_t suspicions = process_stats(&s->a).suspicions;
    share(s, "k", 1);
    near__memory_inject_message(s->world.store, payload, size);
    while (process_serves(&s->a))
        assert_int_equal(near__coherence_step(s->a.coherence), 1);
    assert_no_hit(&s->a, "k");
    process_prove(&s->a);
    assert_int_equal(process_stats(&s->a).suspicions, suspicions + 1);
    process_set(&s->b, "k", 1);
    process_prove(&s->b);
    process_prove(&s->a);
    share(s, "k", 2); /* and all is well again */
}

static void test_R37_garbage_makes_everything_suspect(void **state)
{
    struct stage *s = *state;
    inject_and_expect_suspicion(s, "garbage", 7);
    inject_and_expect_suspicion(s, "", 0);
    assert_int_equal(process_stats(&s->a).messages_bad, 2);
}

/* A well-formed message of ours, but with another envelope, version or operation. */
static void test_R37_messages_of_the_future_make_everything_suspect(void **state)
{
    struct stage *s = *state;
    struct near__buffer b;
    for (int i = 0; i < 4; i++) {
        near__buffer_init(&b, &s->world.alloc);
        near__buffer_append(&b, i == 0 ? "29:" : i == 3 ? "10:" : "19:", 3);
        near__coherence_body(s->b.coherence, NEAR_MESSAGE_SET, "x", 1, &b);
        if (i == 1)
            b.data[3] = 2;
        if (i == 2)
            b.data[4] = NEAR_MESSAGE_OPERATIONS_;
        inject_and_expect_suspicion(s, b.data, b.size);
        near__buffer_fini(&b);
    }
}

/* Somebody publishes a perfect message with an absurd number: time is lost, nothing else. */
static void test_J_hostile_position_poisons_nothing(void **state)
{
    struct stage *s = *state;
    uint64_t position = near__memory_position(s->world.store, "");
    for (int i = 0; i < 3; i++) {
        struct near__buffer b;
        char head[32];
        near__buffer_init(&b, &s->world.alloc);
        near__buffer_append(&b, head,
                            (size_t)snprintf(head, sizeof(head), "1%" PRIu64 ":", UINT64_C(9007199254740991) + i));
        near__coherence_body(s->b.coherence, i == 2 ? NEAR_MESSAGE_CLEAR : NEAR_MESSAGE_SET, "k", 1, &b);
        near__memory_inject_message(s->world.store, b.data, b.size);
        near__buffer_fini(&b);
    }
    process_settle(&s->a);
    process_prove(&s->a);
    process_prove(&s->b);
    process_prove(&s->a);
    assert_true(near__memory_position(s->world.store, "") < position + (UINT64_C(1) << 30));
    share(s, "k", 5);
    process_prove(&s->a);
    assert_hit(&s->a, "k", 5);
}

/* Whoever publishes nonsense without end costs time, not a heartbeat for each. */
static void test_H_nonsense_without_end_is_not_answered_at_its_rate(void **state)
{
    struct stage *s = *state;
    process_settle(&s->a);
    uint64_t before = proof_requests(s);
    for (int ms = 0; ms < 50; ms++, world_advance(&s->world, NEAR_NS_PER_MS))
        for (int i = 0; i < 20; i++) {
            near__memory_inject_message(s->world.store, "nonsense", 8);
            process_settle(&s->a);
        }
    assert_in_range(proof_requests(s) - before, 2, 11); /* one in 5 ms */
    process_prove(&s->a);
}

/* Somebody has set the number to one that no clock will tell in our time: nothing is served, nothing spins, and it
 * passes with the number. */
static void test_H_position_out_of_reach_is_asked_for_with_pauses(void **state)
{
    struct stage *s = *state;
    uint64_t position = near__memory_position(s->world.store, ""), before = proof_requests(s);
    near__memory_set_position(s->world.store, "", position + (UINT64_C(1) << 52));
    for (int ms = 0; ms < 3000; ms++, world_advance(&s->world, NEAR_NS_PER_MS))
        process_settle(&s->a);
    assert_int_equal(process_serves(&s->a), 0);
    assert_in_range(proof_requests(s) - before, 10, 40);
    near__memory_set_position(s->world.store, "", position);
    process_prove(&s->a);
    share(s, "k", 1);
}

/* ---------------------------------------------------------------- the server's history */

static void test_R10_lowered_position_is_seen_in_a_reply(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    share(s, "other", 1);
    uint64_t high = near__memory_position(s->world.store, "");
    near__memory_set_position(s->world.store, "", high - 1);
    assert_int_equal(process_fetch(&s->a, "other"), 1); /* its position is below the mark */
    assert_int_equal(process_stats(&s->a).position_regressions, 1);
    assert_int_equal(process_serves(&s->a), 0);
    process_prove(&s->a);
    assert_true(near__memory_position(s->world.store, "") > high);
    assert_no_hit(&s->a, "k");
    assert_no_hit(&s->a, "other");
    process_prove(&s->b);
    process_prove(&s->a);
    share(s, "k", 2); /* and new values are kept: no floor is in the way */
}

static void test_R10_lowered_position_is_seen_in_a_message(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    near__memory_set_position(s->world.store, "", near__memory_position(s->world.store, "") - 1);
    process_set(&s->b, "k", 2); /* the number of the entry's own write, once more */
    while (process_serves(&s->a))
        assert_int_equal(near__coherence_step(s->a.coherence), 1);
    assert_no_hit(&s->a, "k");
    process_prove(&s->a);
    assert_no_hit(&s->a, "k");
}

static void test_R10_lowered_position_is_seen_in_a_heartbeat(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    near__memory_set_position(s->world.store, "", near__memory_position(s->world.store, "") - 1);
    near__memory_fault(s->world.store, NEAR_FAULT_DROP_MESSAGES, 0, 1);
    process_set(&s->b, "k", 2); /* its message is lost, and its number is that of the entry */
    near__memory_set_position(s->world.store, "", near__memory_position(s->world.store, "") - 1);
    world_advance(&s->world, near__proof_interval_ns(s->a.coherence));
    process_settle(&s->a);
    assert_no_hit(&s->a, "k");
    assert_int_equal(process_fetch(&s->a, "k"), 2);
}

static void test_R35_FLUSHALL_is_seen_within_one_heartbeat(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    near__memory_flushall(s->world.store);
    world_advance(&s->world, near__proof_interval_ns(s->a.coherence));
    process_settle(&s->a);
    assert_no_hit(&s->a, "k");
    process_prove(&s->a);
    assert_no_hit(&s->a, "k");
    assert_int_equal(process_fetch(&s->a, "k"), 0);
}

static void test_R35_R31_restart_is_another_server(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    near__memory_restart(s->world.store, 0);
    process_prove(&s->a);
    assert_no_hit(&s->a, "k");
    assert_int_equal(process_stats(&s->a).server_changes, 1);
    process_prove(&s->b);
    process_prove(&s->a);
    share(s, "k", 2);
}

/* The lost write's number is given to another write of the same key: only a position above everything seen tells them
 * apart. */
static void test_R10_restart_that_lost_a_write_gives_its_number_again(void **state)
{
    struct stage *s = *state;
    process_prove(&s->b);
    near__memory_snapshot(s->world.store);
    share(s, "k", 1);
    uint64_t position = near__memory_position(s->world.store, "");
    near__memory_restart(s->world.store, 1);
    process_set(&s->b, "k", 2);
    assert_int_equal(near__memory_position(s->world.store, ""), position);
    process_prove(&s->a);
    assert_true(near__memory_position(s->world.store, "") > position);
    assert_no_hit(&s->a, "k");
    assert_int_equal(process_fetch(&s->a, "k"), 2);
    assert_hit(&s->a, "k", 2);
    assert_int_equal(process_stats(&s->a).position_regressions, 0);
}

/* A reply of the old server lands after the proof on the new one, whose position is still below the reply's. */
static void test_R10_reply_of_a_lost_history_is_not_kept(void **state)
{
    struct stage *s = *state;
    struct command c;
    near__memory_snapshot(s->world.store);
    for (uint64_t i = 1; i <= 50; i++)
        process_set(&s->b, "other", i);
    process_set(&s->b, "k", 1);
    command_begin_fetch(&c, &s->a, "k");
    command_run(&c); /* 1, at a position that nobody else here has seen in a reply */
    near__memory_restart(s->world.store, 1);
    process_prove(&s->a);
    command_end(&c);
    assert_no_hit(&s->a, "k");
    process_prove(&s->a);
    assert_no_hit(&s->a, "k");
    assert_int_equal(process_fetch(&s->a, "k"), 0);
}

/* The same without a restart: a hole is all that is seen of the lowered position, which is still above what A knew. */
static void test_R10_reply_from_before_a_hole_is_not_kept(void **state)
{
    struct stage *s = *state;
    struct command c;
    near__memory_disconnect_channels(s->world.store);
    for (uint64_t i = 1; i <= 50; i++)
        process_set(&s->b, "other", i);
    command_begin_set(&c, &s->a, "k", 1);
    command_run(&c);
    near__memory_set_position(s->world.store, "", near__memory_position(s->world.store, "") - 25);
    process_prove(&s->a);
    assert_int_equal(process_stats(&s->a).position_regressions, 0);
    command_end(&c);
    assert_no_hit(&s->a, "k");
}

static void test_R31_reply_of_another_server_has_no_position_and_hurts_nobody(void **state)
{
    struct stage *s = *state;
    struct command c;
    share(s, "other", 1);
    process_set(&s->b, "k", 1);
    process_settle(&s->a);
    command_begin_fetch(&c, &s->a, "k");
    command_run(&c);
    c.request.server ^= 1;
    c.request.position = 7; /* far below the mark, and no regression: it is not our server's */
    command_end(&c);
    assert_no_hit(&s->a, "k");
    assert_hit(&s->a, "other", 1);
    assert_int_equal(process_stats(&s->a).position_regressions, 0);
}

/* Heartbeats succeed but go elsewhere: no proof, and the subscription is made anew, perhaps to the right server. */
static void test_R31_heartbeat_that_does_not_arrive_proves_nothing(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    near__memory_fault(s->world.store, NEAR_FAULT_DROP_MESSAGES, NEAR_OP_PROVE, -1);
    for (int i = 0; i < 350; i++) {
        process_settle(&s->a);
        world_advance(&s->world, 10 * NEAR_NS_PER_MS);
        if (i == 150) {
            near_error error;
            assert_no_hit(&s->a, "k");
            assert_int_equal(near__coherence_check(s->a.coherence, near__now(&s->world.clock) + 1, &error),
                             NEAR_ERR_TIMEOUT);
            assert_non_null(strstr(error.text, "same server"));
        }
    }
    assert_true(process_stats(&s->a).disconnections >= 1);
    near__memory_fault(s->world.store, NEAR_FAULT_DROP_MESSAGES, 0, 0);
    process_prove(&s->a);
}

/* The server that answers requests is the master of the one subscribed to: messages and heartbeats come, but nothing
 * could be kept.  Where the next subscription leads to the same one it is made no more often than heartbeats go out. */
static void test_R31_subscription_to_another_server_than_requests_is_left(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    uint64_t before = process_stats(&s->a).disconnections;
    atomic_fetch_xor(&s->a.coherence->server_id, 1);
    for (int ms = 0; ms < 5000; ms++, world_advance(&s->world, NEAR_NS_PER_MS))
        process_settle(&s->a);
    assert_in_range(process_stats(&s->a).disconnections - before, 10, 20);
    atomic_fetch_xor(&s->a.coherence->server_id, 1);
    process_prove(&s->a);
    share(s, "k", 2);
}

/* While it was a replica it may have taken another history, up to the very same position. */
static void test_R32_server_that_was_a_replica_meanwhile_is_suspect(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    near__memory_error(s->world.store, NEAR_OP_PROVE, NEAR_ERR_READONLY, 1);
    world_advance(&s->world, near__proof_interval_ns(s->a.coherence));
    process_settle(&s->a);
    assert_no_hit(&s->a, "k");
    process_prove(&s->a);
    assert_no_hit(&s->a, "k");
}

static void test_H_failing_heartbeat_is_explained_and_lets_the_proof_lapse(void **state)
{
    struct stage *s = *state;
    near_error error;
    share(s, "k", 1);
    near__memory_error(s->world.store, NEAR_OP_PROVE, NEAR_ERR_MISCONFIGURED, -1);
    for (int i = 0; i < 100; i++) {
        process_settle(&s->a);
        world_advance(&s->world, TEST_BOUND_NS / 99);
    }
    assert_no_hit(&s->a, "k");
    assert_int_equal(near__coherence_check(s->a.coherence, near__now(&s->world.clock) + 1, &error),
                     NEAR_ERR_MISCONFIGURED);
    assert_non_null(strstr(error.text, "heartbeat failed"));
    assert_in_range(process_stats(&s->a).proofs_failed, 3, 20); /* retried, with pauses */
    near__memory_error(s->world.store, NEAR_OP_PROVE, NEAR_ERR_MISCONFIGURED, 0);
    process_prove(&s->a);
    assert_hit(&s->a, "k", 1); /* nothing was missed */
    assert_int_equal(near__coherence_check(s->a.coherence, near__now(&s->world.clock) + 1, &error), NEAR_OK);
}

/* ---------------------------------------------------------------- CLEAR, positions, the bound, opening */

static void send_clear(struct process *p)
{
    struct near__buffer b;
    near__buffer_init(&b, &p->world->alloc);
    near__coherence_body(p->coherence, NEAR_MESSAGE_CLEAR, NULL, 0, &b);
    struct near__request q = {.operation = NEAR_OP_CLEAR, .body = b.data, .body_size = b.size};
    near__remote_run(p->remote, &q, 1, near__now(&p->world->clock) + NEAR_NS_PER_S);
    assert_int_equal(q.status, NEAR_OK);
    near__buffer_fini(&b);
}

static void test_CLEAR_empties_every_process_and_spares_what_is_newer(void **state)
{
    struct stage *s = *state;
    struct command c;
    share(s, "k", 1);
    command_begin_fetch(&c, &s->a, "k");
    command_run(&c); /* before CLEAR, lands after it */
    send_clear(&s->b);
    assert_int_equal(process_fetch(&s->a, "other"), 0);
    process_set(&s->a, "new", 3); /* after CLEAR at the server, before its message is read */
    process_settle(&s->a);
    assert_no_hit(&s->a, "k");
    assert_hit(&s->a, "new", 3);
    command_end(&c);
    assert_no_hit(&s->a, "k");
    assert_int_equal(process_fetch(&s->a, "k"), 1);
    assert_hit(&s->a, "k", 1);
}

static void test_positions_are_relative_to_the_first_and_keep_their_order(void **state)
{
    struct stage *s = *state;
    struct near__coherence *c = s->a.coherence;
    uint64_t base = near__memory_position(s->world.store, "");
    assert_int_equal(near__coherence_relative(c, 0), 0);
    assert_true(near__coherence_relative(c, base) != 0);
    assert_int_equal(near__coherence_relative(c, base + 1), near__coherence_relative(c, base) + 1);
    assert_int_equal(near__coherence_relative(c, base - 1), near__coherence_relative(c, base) - 1);
    assert_int_equal(near__coherence_relative(c, 1), 0);                          /* far below: unknown */
    assert_int_equal(near__coherence_relative(c, base + (UINT64_C(1) << 47)), 0); /* far above: unknown */
    assert_int_equal(near__coherence_relative(c, UINT64_MAX), 0);
    assert_int_equal(near__coherence_relative(c, base + (UINT64_C(1) << 46)),
                     near__coherence_relative(c, base) + (UINT64_C(1) << 46));
    assert_true(near__coherence_relative(c, base + (UINT64_C(1) << 46)) < NEAR_POSITION_MAX);
}

/* A server without a clock of its own began to count in 1970; then it was told the time, and lost its position. */
static void test_H_server_whose_clock_was_decades_behind_is_followed(void **state)
{
    struct stage *s = *state;
    struct command late, later;
    share(s, "k", 1);
    share(s, "l", 1);
    command_begin_fetch(&late, &s->a, "k");
    command_run(&late);
    for (int i = 0; i < 3; i++) {
        uint64_t jump = near__memory_position(s->world.store, "") + (UINT64_C(1) << (47 + i));
        near__memory_set_position(s->world.store, "", jump);
        command_begin_fetch(&later, &s->a, "l");
        command_run(&later);
        process_prove(&s->b);
        process_prove(&s->a);
        assert_int_equal(command_end(&later), NEAR_OK);
        assert_no_hit(&s->a, "k");
        assert_no_hit(&s->a, "l");
        share(s, "k", 2 + (uint64_t)i);
        process_set(&s->b, "k", 9);
        process_settle(&s->a);
        assert_no_hit(&s->a, "k");
        share(s, "l", 1);
    }
    assert_int_equal(command_end(&late), NEAR_OK);
    assert_no_hit(&s->a, "k");
}

static void test_longer_bound_does_not_bring_a_withdrawn_proof_back(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    near__memory_fault(s->world.store, NEAR_FAULT_REFUSE, 0, -1);
    lose(s);
    near__coherence_set_bound(s->a.coherence, 3600000);
    assert_int_equal(process_serves(&s->a), 0);
    assert_no_hit(&s->a, "k");
    near__coherence_set_bound(s->a.coherence, 10);
    assert_int_equal(process_serves(&s->a), 0);
    near__memory_fault(s->world.store, NEAR_FAULT_REFUSE, 0, 0);
    process_prove(&s->a);
    world_advance(&s->world, 10 * NEAR_NS_PER_MS);
    assert_no_hit(&s->a, "k"); /* the bound in force */
}

static enum near__local_result look_up_stale(struct process *p, const char *key, int64_t stale_ns)
{
    struct near__view view;
    uint64_t value;
    return near__local_copy(p->local, near__local_reader(p->local), key, strlen(key), TEST_BOUND_NS, stale_ns, &value,
                            sizeof(value), &view);
}

/* Withdrawing keeps the age of the last proof, for reads that accept NEAR_STALE. */
static void test_H_stale_service_outlives_the_disconnection(void **state)
{
    struct stage *s = *state;
    share(s, "k", 1);
    near__memory_fault(s->world.store, NEAR_FAULT_REFUSE, 0, -1);
    lose(s);
    int64_t stale_ns = 30 * NEAR_NS_PER_S;
    assert_int_equal(look_up_stale(&s->a, "k", stale_ns), NEAR_LOCAL_STALE_HIT);
    world_advance(&s->world, stale_ns);
    assert_int_equal(look_up_stale(&s->a, "k", stale_ns), NEAR_LOCAL_UNPROVEN);
    near__memory_fault(s->world.store, NEAR_FAULT_REFUSE, 0, 0);
}

static void test_statistics_tell_the_proof_and_the_delay(void **state)
{
    struct stage *s = *state;
    struct process late;
    near_stats stats = process_stats(&s->a);
    assert_int_equal(stats.proven, 1);
    assert_int_equal(stats.proof_age_ms, 0);
    world_advance(&s->world, 50 * NEAR_NS_PER_MS);
    assert_int_equal(process_stats(&s->a).proof_age_ms, 50);
    process_set(&s->b, "k", 1);
    world_advance(&s->world, 3 * NEAR_NS_PER_MS);
    process_settle(&s->a);
    stats = process_stats(&s->a);
    assert_int_equal(stats.invalidation_ns.count, 1);
    assert_int_equal(stats.invalidation_ns.max, 3 * NEAR_NS_PER_MS);
    assert_int_equal(stats.message_applied_ns, near__now(&s->world.clock));
    world_advance(&s->world, TEST_BOUND_NS);
    assert_int_equal(process_stats(&s->a).proven, 0);
    process_open(&late, &s->world, 33);
    assert_int_equal(process_stats(&late).proof_age_ms, -1);
    process_close(&late);
}

static void test_R52_opening_unwinds_when_memory_fails(void **state)
{
    struct stage *s = *state;
    struct allocfail fail;
    struct near__alloc alloc;
    allocfail_init(&fail);
    near__alloc_init(&alloc, &fail.hooks);
    for (uint64_t n = 1;; n++) {
        struct near__coherence *c = NULL;
        struct near__coherence_config config = {.alloc = &alloc,
                                                .clock = &s->world.clock,
                                                .log = &s->world.log,
                                                .local = s->a.local,
                                                .remote = s->a.remote,
                                                .bound_ms = TEST_BOUND_MS,
                                                .connect_timeout_ms = 2000,
                                                .backoff_min_ms = 10,
                                                .backoff_max_ms = 20,
                                                .manual = 1};
        allocfail_at(&fail, n);
        int status = near__coherence_open(&config, &c, NULL);
        if (status == NEAR_OK)
            near__coherence_close(c);
        assert_int_equal(allocfail_blocks(&fail), 0);
        if (status == NEAR_OK)
            break;
        assert_int_equal(status, NEAR_ERR_NOMEM);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, stage_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_message_of_another_process_removes_the_old_value),
        TEST(test_R06_own_message_leaves_the_own_value),
        TEST(test_R05_own_write_acknowledged_late_loses_to_the_newer_message),
        TEST(test_first_proof_of_a_new_process_disturbs_nobody),
        TEST(test_R10_reply_to_what_was_asked_before_the_first_proof_is_not_kept),
        TEST(test_R21_reconnection_without_a_missed_write_keeps_every_entry),
        TEST(test_R21_write_missed_while_disconnected_makes_entries_suspect),
        TEST(test_R21_message_on_the_new_subscription_does_not_hide_those_missed),
        TEST(test_R21_write_that_falls_between_is_followed_without_a_hole),
        TEST(test_R22_fill_begun_while_unsubscribed_is_not_served),
        TEST(test_R23_nothing_is_served_while_reconnections_are_refused),
        TEST(test_R38_refused_subscriptions_are_retried_with_growing_pauses),
        TEST(test_subscription_does_not_wait_on_when_the_server_answers_again),
        TEST(test_R24_silent_link_lets_the_proof_lapse_and_is_replaced),
        TEST(test_B_lapsed_proof_leaves_no_moment_of_the_counter),
        TEST(test_R29_stopped_subscriber_lets_the_proof_lapse),
        TEST(test_B_proof_counts_from_its_beginning),
        TEST(test_R25_R27_only_the_current_nonce_proves),
        TEST(test_R25_R27_only_the_current_nonce_is_a_PONG),
        TEST(test_R10_lifts_from_one_position_do_not_meet),
        TEST(test_G7_barrier_waits_for_its_own_process),
        TEST(test_G7_bound_that_grows_after_a_lost_answer_is_told_first),
        TEST(test_G7_list_that_was_lost_is_not_believed),
        TEST(test_R25_halves_of_different_subscriptions_prove_nothing),
        TEST(test_R26_one_attempt_is_outstanding),
        TEST(test_I6_position_is_judged_when_the_heartbeat_is_read),
        TEST(test_I6_hole_between_heartbeat_and_PONG_cancels_the_attempt),
        TEST(test_R30_lost_message_is_seen_at_the_next_message),
        TEST(test_R30_lost_message_is_seen_at_the_next_heartbeat),
        TEST(test_duplicated_message_is_suspicious_and_recovered_from),
        TEST(test_R37_garbage_makes_everything_suspect),
        TEST(test_R37_messages_of_the_future_make_everything_suspect),
        TEST(test_J_hostile_position_poisons_nothing),
        TEST(test_H_nonsense_without_end_is_not_answered_at_its_rate),
        TEST(test_H_position_out_of_reach_is_asked_for_with_pauses),
        TEST(test_R10_lowered_position_is_seen_in_a_reply),
        TEST(test_R10_lowered_position_is_seen_in_a_message),
        TEST(test_R10_lowered_position_is_seen_in_a_heartbeat),
        TEST(test_R35_FLUSHALL_is_seen_within_one_heartbeat),
        TEST(test_R35_R31_restart_is_another_server),
        TEST(test_R10_restart_that_lost_a_write_gives_its_number_again),
        TEST(test_R10_reply_of_a_lost_history_is_not_kept),
        TEST(test_R10_reply_from_before_a_hole_is_not_kept),
        TEST(test_R31_reply_of_another_server_has_no_position_and_hurts_nobody),
        TEST(test_R31_heartbeat_that_does_not_arrive_proves_nothing),
        TEST(test_R31_subscription_to_another_server_than_requests_is_left),
        TEST(test_R32_server_that_was_a_replica_meanwhile_is_suspect),
        TEST(test_H_failing_heartbeat_is_explained_and_lets_the_proof_lapse),
        TEST(test_CLEAR_empties_every_process_and_spares_what_is_newer),
        TEST(test_positions_are_relative_to_the_first_and_keep_their_order),
        TEST(test_H_server_whose_clock_was_decades_behind_is_followed),
        TEST(test_longer_bound_does_not_bring_a_withdrawn_proof_back),
        TEST(test_H_stale_service_outlives_the_disconnection),
        TEST(test_statistics_tell_the_proof_and_the_delay),
        TEST(test_R52_opening_unwinds_when_memory_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
