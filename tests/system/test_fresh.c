/* SPDX-License-Identifier: BSD-3-Clause
 * Fresh reads (NEAR_REQUIRE_FRESH, promise G6): every write that returned before the call began is seen, in whatever
 * process.  The random faults are in tests/coherence/test_simulation.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "nearcache.h"
#include "support/redis_server.h"
#include "system/stack.h"

static uint64_t fetches(near_cache *cache)
{
    near_stats stats = stack_stats(cache);
    return stats.remote_hits + stats.remote_misses;
}

static void cache_in(near_cache *cache, const char *key, const char *value)
{
    assert_true(wait_until(strcmp(look(cache, key), value) == 0 && strcmp(peek(cache, key), value) == 0, PATIENCE_MS));
}

/* A's copy is old, and may be: the message is still on its way.  The fresh read waits for its proof behind the message,
 * and when that does not come reads the remote tier. */
static void test_G6_fresh_read_sees_what_the_local_copy_does_not(void **state)
{
    struct stack *s = *state;
    assert_int_equal(put(s->b, "k", "old"), NEAR_OK);
    cache_in(s->a, "k", "old");
    stack_hold(s, NEAR_FAULT_HOLD_MESSAGES, NEAR_OP_SET, -1);
    assert_int_equal(put(s->b, "k", "new"), NEAR_OK);
    assert_string_equal(look(s->a, "k"), "old");
    struct caller fresh = {.cache = s->a, .key = "k", .flags = NEAR_REQUIRE_FRESH};
    caller_start(&fresh);
    uint64_t before = fetches(s->a);
    assert_true(wait_until((stack_skip(s, 10), fetches(s->a)) > before, PATIENCE_MS)); /* until it gives the proof up */
    caller_end(&fresh);
    assert_string_equal(fresh.got, "new");
    assert_true(strcmp(peek(s->a, "k"), "old") != 0); /* R54 */
    stack_hold(s, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
}

static void test_G6_fresh_read_fetches_nothing_when_the_copy_is_current(void **state)
{
    struct stack *s = *state;
    assert_int_equal(put(s->b, "k", "v"), NEAR_OK);
    cache_in(s->a, "k", "v");
    uint64_t before = fetches(s->a), proofs = stack_stats(s->a).proofs;
    assert_string_equal(look_with(s->a, "k", NEAR_REQUIRE_FRESH, 0, 0), "v");
    assert_int_equal(fetches(s->a), before);
    assert_true(stack_stats(s->a).proofs > proofs);
    near_item items[2] = {{.key = "k", .key_size = 1}, {.key = "absent", .key_size = 6}};
    near_call call;
    near_call_init(&call);
    call.flags = NEAR_REQUIRE_FRESH;
    proofs = stack_stats(s->a).proofs;
    assert_int_equal(near_mget(s->a, items, 2, &call), NEAR_OK);
    assert_int_equal(items[0].status, NEAR_OK);
    assert_int_equal(items[0].value.source, NEAR_FROM_LOCAL);
    assert_int_equal(items[1].status, NEAR_MISS);
    near_release(&items[0].value);
    assert_true(stack_stats(s->a).proofs > proofs);
}

/* A fetch that began before the call may have read before a write that returned before the call. */
static void test_G6_fresh_read_joins_no_older_fetch(void **state)
{
    struct stack *s = *state;
    struct caller slow;
    assert_int_equal(put(s->b, "k", "old"), NEAR_OK);
    stack_fence(s, s->a);
    stack_hold(s, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_FETCH, 1);
    caller_get(&slow, s->a, "k");
    stack_wait_held(s, NEAR_FAULT_HOLD_REPLIES, 1);
    stack_hold(s, NEAR_FAULT_HOLD_MESSAGES, NEAR_OP_SET, -1); /* nothing tells A */
    assert_int_equal(put(s->b, "k", "new"), NEAR_OK);
    assert_string_equal(look_with(s->a, "k", NEAR_REQUIRE_FRESH, 0, 0), "new");
    stack_hold(s, NEAR_FAULT_HOLD_REPLIES, 0, 0);
    stack_hold(s, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
    caller_end(&slow);
}

/* Waiters of one moment share a proof: the one under way is nobody's, the next one everybody's. */
static void test_G6_one_proof_serves_all_waiters(void **state)
{
    struct stack *s = *state;
    enum { READERS = 16 };
    struct caller readers[READERS];
    assert_int_equal(put(s->b, "k", "v"), NEAR_OK);
    cache_in(s->a, "k", "v");
    stack_hold(s, NEAR_FAULT_HOLD_MESSAGES, NEAR_OP_PROVE, -1);
    uint64_t proofs = stack_stats(s->a).proofs, fetched = fetches(s->a), gets = stack_stats(s->a).gets;
    for (int i = 0; i < READERS; i++) {
        readers[i] = (struct caller){.cache = s->a, .key = "k", .flags = NEAR_REQUIRE_FRESH};
        caller_start(&readers[i]);
    }
    stack_wait_held(s, NEAR_FAULT_HOLD_MESSAGES, 1);
    assert_int_equal(stack_stats(s->a).gets, gets); /* all are waiting, or on their way to it */
    stack_hold(s, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
    for (int i = 0; i < READERS; i++) {
        caller_end(&readers[i]);
        assert_string_equal(readers[i].got, "v");
    }
    assert_int_equal(fetches(s->a), fetched);
    assert_in_range(stack_stats(s->a).proofs - proofs, 1, READERS);
}

/* What the wait for a proof has taken is not given to the remote tier once more. */
static void test_H_fresh_read_ends_by_its_deadline(void **state)
{
    struct stack *s = *state;
    enum { TIMEOUT_MS = 100, HALF_MS = TIMEOUT_MS / 2 };
    struct caller fresh = {.cache = s->a, .key = "k", .flags = NEAR_REQUIRE_FRESH, .timeout_ms = TIMEOUT_MS};
    uint64_t errors = stack_stats(s->a).remote_errors;
    assert_int_equal(put(s->b, "k", "v"), NEAR_OK);
    cache_in(s->a, "k", "v");
    stack_hold(s, NEAR_FAULT_HOLD_MESSAGES, NEAR_OP_PROVE, -1);
    stack_hold(s, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_FETCH, 1);
    caller_start(&fresh);
    assert_true(wait_until((stack_skip(s, 1), near__memory_held(s->store, NEAR_FAULT_HOLD_REPLIES) > 0 ||
                                                  stack_stats(s->a).remote_errors > errors),
                           PATIENCE_MS));
    stack_skip(s, HALF_MS + 1); /* it had waited for half of its time before it asked */
    assert_true(wait_until(stack_stats(s->a).remote_errors > errors, PATIENCE_MS));
    stack_hold(s, NEAR_FAULT_HOLD_REPLIES, 0, 0);
    stack_hold(s, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
    caller_end(&fresh);
    assert_string_equal(fresh.got, "(NEAR_ERR_TIMEOUT)");
}

static void test_fresh_and_stale_exclude_each_other(void **state)
{
    struct stack *s = *state;
    assert_string_equal(look_with(s->a, "k", NEAR_REQUIRE_FRESH | NEAR_ALLOW_STALE, 0, 0), "(NEAR_ERR_INVALID)");
}

/* Two processes on a real server: B writes and returns, A reads fresh, at once. */
static void test_G6_fresh_reads_follow_writes_on_redis(void **state)
{
    (void)state;
    char value[16];
    struct redis_server *server = redis_server_available() ? redis_server_start(NULL) : NULL;
    if (!server)
        skip();
    near_cache *a = stack_redis(redis_server_uri_unix(server), "f:", 5000),
               *b = stack_redis(redis_server_uri_unix(server), "f:", 5000);
    for (int i = 0; i < 200; i++) {
        snprintf(value, sizeof(value), "%d", i);
        assert_int_equal(put(b, "k", value), NEAR_OK);
        assert_string_equal(look_with(a, "k", NEAR_REQUIRE_FRESH, 0, 0), value);
        assert_string_equal(look_with(a, "k", NEAR_REQUIRE_FRESH, 0, 0), value);
    }
    near_stats stats = stack_stats(a);
    assert_true(stats.local_hits > 0);
    stack_close(a);
    stack_close(b);
    redis_server_free(server);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, stack_setup, stack_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_G6_fresh_read_sees_what_the_local_copy_does_not),
        TEST(test_G6_fresh_read_fetches_nothing_when_the_copy_is_current),
        TEST(test_G6_fresh_read_joins_no_older_fetch),
        TEST(test_G6_one_proof_serves_all_waiters),
        TEST(test_H_fresh_read_ends_by_its_deadline),
        TEST(test_fresh_and_stale_exclude_each_other),
        cmocka_unit_test(test_G6_fresh_reads_follow_writes_on_redis),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
