/* SPDX-License-Identifier: BSD-3-Clause
 * The named races (docs/races.md) on the whole stack, one interleaving at a time: two caches on one memory:// store are
 * two processes, the store holds or loses what the test says, and time moves only when the test moves it.
 *
 * Above each test: the interleaving, and what the test fails with when the cure is missing. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coherence/message.h"
#include "nearcache.h"
#include "support/allocfail.h"
#include "support/seed.h"
#include "system/stack.h"

#define REPLIES NEAR_FAULT_HOLD_REPLIES
#define REQUESTS NEAR_FAULT_HOLD_REQUESTS
#define MESSAGES NEAR_FAULT_HOLD_MESSAGES

/* A read of key by cache has been answered by the server and the answer is on its way. */
static void hold_read(struct stack *s, struct caller *c, near_cache *cache, const char *key, uint32_t flags)
{
    int before = near__memory_held(s->store, REPLIES);
    stack_hold(s, REPLIES, NEAR_OP_FETCH, 1);
    *c = (struct caller){.cache = cache, .key = key, .flags = flags};
    caller_start(c);
    stack_wait_held(s, REPLIES, before + 1);
}

static void let_one_go(struct stack *s, enum near__memory_fault fault, struct caller *c)
{
    near__memory_release_one(s->store, fault);
    caller_end(c);
}

/* A has key locally. */
static void cache_in_a(struct stack *s, const char *key, const char *value)
{
    assert_int_equal(put(s->b, key, value), NEAR_OK);
    stack_fence(s, s->a);
    assert_string_equal(look(s->a, key), value);
    assert_string_equal(peek(s->a, key), value);
}

/* Both subscriptions break, by themselves or with the server, and stay broken while time stands still. */
static void break_subscriptions(struct stack *s, void (*how)(struct near__memory_store *store))
{
    uint64_t a = stack_stats(s->a).disconnections, b = stack_stats(s->b).disconnections;
    how(s->store);
    assert_true(wait_until(stack_stats(s->a).disconnections > a, PATIENCE_MS));
    assert_true(wait_until(stack_stats(s->b).disconnections > b, PATIENCE_MS));
}

static void cut_subscriptions(struct stack *s)
{
    break_subscriptions(s, near__memory_disconnect_channels);
}

static void restart_with_loss(struct near__memory_store *store)
{
    near__memory_restart(store, 1);
}

/* ---------------------------------------------------------------- fills and writes */

/* A's GET reads v1, B writes v2, B's message reaches A, then A's reply.  Without I1/I3: peek says v1, for ever. */
static void test_R01_fill_that_meets_an_invalidation_is_not_kept(void **state)
{
    struct stack *s = *state;
    struct caller reader;
    cache_in_a(s, "k", "v1");
    hold_read(s, &reader, s->a, "k", NEAR_BYPASS_LOCAL);
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    stack_fence(s, s->a);
    assert_string_equal(peek(s->a, "k"), MISS);
    let_one_go(s, REPLIES, &reader);
    assert_string_equal(reader.got, "v1"); /* it began before the write: that is allowed */
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(look(s->a, "k"), "v2");
    assert_true(stack_stats(s->a).fills_refused_order > 0);
}

/* R01 with nothing of the key there: the message finds nothing to remove.  Without the floor: peek says v1. */
static void test_R04_invalidation_of_an_absent_key_stops_its_fill(void **state)
{
    struct stack *s = *state;
    struct caller reader;
    assert_int_equal(put(s->b, "k", "v1"), NEAR_OK);
    stack_fence(s, s->a);
    hold_read(s, &reader, s->a, "k", 0);
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    stack_fence(s, s->a);
    let_one_go(s, REPLIES, &reader);
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(look(s->a, "k"), "v2");
}

/* The first fill's place is invalidated, a second fill of the key begins, then the first completes.  With a reusable
 * placeholder it would complete onto the second's place: peek says v1. */
static void test_R02_fill_does_not_complete_into_another_fills_place(void **state)
{
    struct stack *s = *state;
    struct caller first, second;
    assert_int_equal(put(s->b, "k", "v1"), NEAR_OK);
    stack_fence(s, s->a);
    hold_read(s, &first, s->a, "k", 0);
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    stack_fence(s, s->a);
    hold_read(s, &second, s->a, "k", 0);
    let_one_go(s, REPLIES, &first);
    assert_string_equal(peek(s->a, "k"), MISS);
    let_one_go(s, REPLIES, &second);
    assert_string_equal(second.got, "v2");
    assert_string_equal(peek(s->a, "k"), "v2");
}

/* The whole tier turns over while the fill is under way.  What the invalidation left behind must not be evicted with
 * the entries: peek would say v1. */
static void test_R03_eviction_does_not_forget_an_invalidation(void **state)
{
    struct stack *s = *state;
    struct caller reader;
    char key[24];
    assert_int_equal(near_set_local_entries(s->a, 1), NEAR_OK);
    assert_int_equal(put(s->b, "k", "v1"), NEAR_OK);
    stack_fence(s, s->a);
    hold_read(s, &reader, s->a, "k", 0);
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    stack_fence(s, s->a);
    for (int i = 0; i < 2000; i++) {
        snprintf(key, sizeof(key), "other%d", i);
        assert_int_equal(put(s->a, key, "x"), NEAR_OK);
    }
    let_one_go(s, REPLIES, &reader);
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(look(s->a, "k"), "v2");
}

/* A's SET runs, B's SET runs, B's message is handled, then A's OK comes.  Installing at the OK: look says v1, for
 * ever. */
static void test_R05_own_write_overtaken_by_a_foreign_one_is_not_kept(void **state)
{
    struct stack *s = *state;
    struct caller writer;
    stack_hold(s, REPLIES, NEAR_OP_SET, 1);
    caller_set(&writer, s->a, "k", "v1");
    stack_wait_held(s, REPLIES, 1);
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    stack_fence(s, s->a);
    let_one_go(s, REPLIES, &writer);
    assert_int_equal(writer.status, NEAR_OK);
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(look(s->a, "k"), "v2");
}

/* Two threads of A write k; the first one's OK comes last, and no message repairs anything.  Without comparing
 * positions at the install: look says v1 after v2 was acknowledged. */
static void test_R06_two_own_writes_are_ordered_by_the_server(void **state)
{
    struct stack *s = *state;
    struct caller writer;
    stack_hold(s, MESSAGES, NEAR_OP_SET, -1);
    stack_hold(s, REPLIES, NEAR_OP_SET, 1);
    caller_set(&writer, s->a, "k", "v1");
    stack_wait_held(s, REPLIES, 1);
    assert_int_equal(put(s->a, "k", "v2"), NEAR_OK);
    assert_string_equal(look(s->a, "k"), "v2");
    let_one_go(s, REPLIES, &writer);
    assert_string_equal(look(s->a, "k"), "v2");
    assert_string_equal(peek(s->a, "k"), "v2");
    stack_hold(s, MESSAGES, 0, 0);
    stack_fence(s, s->a);
    assert_string_equal(peek(s->a, "k"), "v2"); /* its own echoes are no news */
}

/* A message that carries a value; as another version of the library might send it. */
static void inject_update(struct stack *s, uint64_t position, const char *key, const char *value)
{
    struct near__alloc alloc;
    near_allocator hooks = {0};
    struct near__buffer body;
    const void *keys[] = {key};
    const size_t sizes[] = {strlen(key)};
    struct near__message m = {.operation = NEAR_MESSAGE_SET,
                              .sender = 1,
                              .key_count = 1,
                              .has_value = 1,
                              .value = value,
                              .value_size = strlen(value),
                              .ttl_ms = -1};
    char head[32], payload[256];
    near__alloc_init(&alloc, &hooks);
    near__buffer_init(&body, &alloc);
    near__message_encode(&body, &m, keys, sizes);
    assert_false(body.failed);
    int size = snprintf(head, sizeof(head), "1%" PRIu64 ":", position);
    memcpy(payload, head, (size_t)size);
    memcpy(payload + size, body.data, body.size);
    near__memory_inject_message(s->store, payload, (size_t)size + body.size);
    near__buffer_fini(&body);
}

/* B writes v1 and v2, A reads v2, and only then do the messages come; the later one even with the value v1.  Applied as
 * they come, they remove or replace the newer entry: a fetch too many, or look says v1. */
static void test_R07_late_message_does_not_touch_a_newer_value(void **state)
{
    struct stack *s = *state;
    uint64_t first = near__memory_position(s->store, "") + 1;
    stack_hold(s, MESSAGES, NEAR_OP_SET, -1);
    assert_int_equal(put(s->b, "k", "v1"), NEAR_OK);
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    assert_string_equal(look(s->a, "k"), "v2");
    stack_hold(s, MESSAGES, 0, 0);
    stack_fence(s, s->a);
    assert_string_equal(peek(s->a, "k"), "v2");
    assert_int_equal(stack_stats(s->a).invalidations_older, 2);
    inject_update(s, first, "k", "v1");
    stack_fence(s, s->a);
    assert_string_equal(look(s->a, "k"), "v2");
    assert_int_equal(drop_everywhere(s->b, "k"), NEAR_OK);
    stack_fence(s, s->a);
    inject_update(s, first, "k", "v1");
    stack_fence(s, s->a);
    assert_string_equal(look(s->a, "k"), MISS);
}

/* GET reads v1, the key is deleted (by A itself, then by B), then the reply comes.  Without the floor: peek says v1. */
static void test_R08_deleted_key_is_not_resurrected_by_slow_fill(void **state)
{
    struct stack *s = *state;
    near_cache *deleters[] = {s->a, s->b};
    for (int i = 0; i < 2; i++) {
        struct caller reader;
        assert_int_equal(put(s->b, "k", "v1"), NEAR_OK);
        stack_fence(s, s->a);
        hold_read(s, &reader, s->a, "k", NEAR_BYPASS_LOCAL);
        assert_int_equal(drop_everywhere(deleters[i], "k"), NEAR_OK);
        stack_fence(s, s->a);
        let_one_go(s, REPLIES, &reader);
        assert_string_equal(peek(s->a, "k"), MISS);
        assert_string_equal(look(s->a, "k"), MISS);
    }
}

/* A's SET runs, the reply and the connection are lost.  Keeping the old value or the new one as if it were sure: peek
 * hits. */
static void test_R13_write_of_unknown_fate_leaves_no_local_copy(void **state)
{
    struct stack *s = *state;
    cache_in_a(s, "k", "v1");
    stack_hold(s, MESSAGES, NEAR_OP_SET, -1);
    stack_hold(s, NEAR_FAULT_DROP_REPLIES, NEAR_OP_SET, 1);
    assert_int_equal(put(s->a, "k", "v2"), NEAR_ERR_UNKNOWN);
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(look(s->a, "k"), "v2");
    assert_int_equal(stack_stats(s->a).writes_unknown, 1);
}

/* A gives up on a SET that is stuck on its way, B writes v2, then A's old request runs after all.  Whoever keeps v2
 * because "that write failed" disagrees with the server for ever: look says v2, the server v1. */
static void test_R14_zombie_write_reaches_everybody(void **state)
{
    struct stack *s = *state;
    struct caller writer = {.cache = s->a, .key = "k", .value = "v1", .timeout_ms = 100};
    cache_in_a(s, "k", "v0");
    stack_hold(s, REQUESTS, NEAR_OP_SET, 1);
    caller_start(&writer);
    stack_wait_held(s, REQUESTS, 1);
    stack_skip(s, 200);
    caller_end(&writer);
    assert_int_equal(writer.status, NEAR_ERR_UNKNOWN);
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    stack_fence(s, s->a);
    assert_string_equal(look(s->a, "k"), "v2");
    near__memory_release_one(s->store, REQUESTS);
    stack_fence(s, s->a);
    stack_fence(s, s->b);
    assert_string_equal(stack_server(s, "k"), "v1");
    assert_string_equal(look(s->a, "k"), "v1");
    assert_string_equal(look(s->b, "k"), "v1");
}

/* Many threads miss one key at once: after an invalidation, and after the whole tier was cleared.  Without flights: N
 * fetches. */
static void test_R16_stampede_is_one_fetch(void **state)
{
    enum { THREADS = 8 };
    struct stack *s = *state;
    struct caller readers[THREADS];
    for (int round = 0; round < 2; round++) {
        cache_in_a(s, "k", "v1");
        assert_int_equal(round ? near_clear(s->b, 0, NULL, NULL) : put(s->b, "k", "v2"), NEAR_OK);
        stack_fence(s, s->a);
        uint64_t fetched = near__memory_requests(s->store, NEAR_OP_FETCH);
        uint64_t joined = stack_stats(s->a).flights_joined;
        hold_read(s, &readers[0], s->a, "k", 0);
        for (int i = 1; i < THREADS; i++)
            caller_get(&readers[i], s->a, "k");
        assert_true(wait_until(stack_stats(s->a).flights_joined == joined + THREADS - 1, PATIENCE_MS));
        near__memory_release_one(s->store, REPLIES);
        for (int i = 0; i < THREADS; i++) {
            caller_end(&readers[i]);
            assert_string_equal(readers[i].got, round ? "v1" : "v2");
        }
        assert_int_equal(near__memory_requests(s->store, NEAR_OP_FETCH), fetched + 1);
    }
}

/* Reads in a thread of its own, which must fetch by itself: one that joined the held fetch would wait with it. */
static void expect_own_fetch(struct stack *s, struct caller *reader, const char *key, uint32_t flags, const char *value)
{
    uint64_t fetched = near__memory_requests(s->store, NEAR_OP_FETCH);
    *reader = (struct caller){.cache = s->a, .key = key, .flags = flags};
    caller_start(reader);
    assert_true(wait_until(near__memory_requests(s->store, NEAR_OP_FETCH) == fetched + 1, PATIENCE_MS));
    caller_end(reader);
    assert_string_equal(reader->got, value);
}

/* A fetch of v1 is under way, the thread writes v2 (acknowledged, not kept), then reads.  Joining the old flight: no
 * fetch of its own, and v1. */
static void test_R17_read_after_a_write_joins_no_older_fetch(void **state)
{
    struct stack *s = *state;
    struct caller old, reader;
    assert_int_equal(put(s->b, "k", "v1"), NEAR_OK);
    stack_fence(s, s->a);
    stack_hold(s, MESSAGES, NEAR_OP_SET, -1); /* no message tells A */
    hold_read(s, &old, s->a, "k", 0);
    assert_int_equal(put_with(s->a, "k", "v2", NEAR_NO_FILL, 0), NEAR_OK);
    expect_own_fetch(s, &reader, "k", 0, "v2");
    let_one_go(s, REPLIES, &old);
    assert_string_equal(look(s->a, "k"), "v2");
}

/* The same with a write that is kept locally, but cannot be served because the proof is too old: the install alone must
 * have changed the ticket.  Otherwise the read joins and gets v1. */
static void test_R17_kept_write_changes_the_ticket_too(void **state)
{
    struct stack *s = *state;
    struct caller old, reader;
    assert_int_equal(put(s->b, "k", "v1"), NEAR_OK);
    stack_fence(s, s->a);
    stack_hold(s, MESSAGES, NEAR_OP_SET, -1);
    stack_hold(s, MESSAGES, NEAR_OP_PROVE, -1);
    stack_skip(s, 900);
    hold_read(s, &old, s->a, "k", 0);
    assert_int_equal(put(s->a, "k", "v2"), NEAR_OK);
    stack_skip(s, 200); /* the flight is younger than the bound, the proof is not */
    assert_string_equal(peek(s->a, "k"), MISS);
    expect_own_fetch(s, &reader, "k", 0, "v2");
    let_one_go(s, REPLIES, &old);
}

/* A fetch is under way when the cache is cleared, or when it has become older than the reader's bound.  Joining: no
 * fetch of its own, and what was there before. */
static void test_R17_cleared_or_too_old_flight_is_not_joined(void **state)
{
    struct stack *s = *state;
    struct caller old, older, reader;
    assert_int_equal(put(s->b, "k", "v1"), NEAR_OK);
    stack_fence(s, s->a);
    hold_read(s, &old, s->a, "k", 0);
    assert_int_equal(near_clear(s->a, 0, NULL, NULL), NEAR_OK);
    expect_own_fetch(s, &reader, "k", NEAR_NO_FILL, "v1");
    hold_read(s, &older, s->a, "k", 0);
    stack_pass(s, 1100);
    expect_own_fetch(s, &reader, "k", 0, "v1");
    let_one_go(s, REPLIES, &old);
    let_one_go(s, REPLIES, &older);
}

/* The server answers with an error of each kind.  Taken for absence: look says NEAR_MISS, now or later. */
static void test_R18_errors_are_not_absence(void **state)
{
    static const int errors[] = {NEAR_ERR_LOADING, NEAR_ERR_SCRIPT_BUSY, NEAR_ERR_FULL,        NEAR_ERR_WRONG_TYPE,
                                 NEAR_ERR_MOVED,   NEAR_ERR_READONLY,    NEAR_ERR_REMOTE,      NEAR_ERR_PROTOCOL,
                                 NEAR_ERR_DENIED,  NEAR_ERR_AUTH,        NEAR_ERR_MAX_CLIENTS, NEAR_ERR_MISCONFIGURED};
    struct stack *s = *state;
    char expected[64];
    assert_int_equal(put(s->b, "k", "v1"), NEAR_OK);
    stack_fence(s, s->a);
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        near__memory_error(s->store, NEAR_OP_FETCH, errors[i], 1);
        snprintf(expected, sizeof(expected), "(%s)", near_status_name(errors[i]));
        assert_string_equal(bypass(s->a, "k"), expected);
        assert_string_equal(bypass(s->a, "k"), "v1");
    }
    assert_int_equal(stack_stats(s->a).remote_misses, 0);
}

/* A's GET finds nothing, B creates the key, its message comes, then A's nil.  Kept absence: look says NEAR_MISS for
 * ever. */
static void test_R19_absence_does_not_outlive_creation(void **state)
{
    struct stack *s = *state;
    struct caller reader;
    hold_read(s, &reader, s->a, "k", 0);
    assert_int_equal(put(s->b, "k", "v1"), NEAR_OK);
    stack_fence(s, s->a);
    let_one_go(s, REPLIES, &reader);
    assert_string_equal(reader.got, MISS);
    assert_string_equal(look(s->a, "k"), "v1");
}

/* A key expires at the server, of itself.  A copy without the server's time to live: look says v1 after the end. */
static void test_R20_copy_ends_with_its_key(void **state)
{
    struct stack *s = *state;
    assert_int_equal(put_ttl(s->b, "k", "v1", 2000), NEAR_OK);
    assert_string_equal(look(s->b, "k"), "v1");
    assert_string_equal(look(s->a, "k"), "v1");
    stack_pass(s, 1500);
    assert_string_equal(peek(s->a, "k"), "v1");
    assert_string_equal(peek(s->b, "k"), "v1");
    stack_pass(s, 500);
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(peek(s->b, "k"), MISS);
    assert_string_equal(look(s->a, "k"), MISS);
}

/* The reply takes longer than the key has to live.  Counted from the arrival: peek says v1 half a second after its
 * end. */
static void test_R20_time_to_live_counts_from_the_sending(void **state)
{
    struct stack *s = *state;
    struct caller reader;
    assert_int_equal(put_ttl(s->b, "k", "v1", 600), NEAR_OK);
    stack_fence(s, s->a);
    hold_read(s, &reader, s->a, "k", 0);
    stack_pass(s, 700);
    let_one_go(s, REPLIES, &reader);
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(look(s->a, "k"), MISS);
}

/* The leader of a fetch is held up with what it has got, the key's life ends, then another read joins.  Given the
 * leader's value: v1. */
static void test_R20_joined_fetch_brings_nothing_that_was_dead_before(void **state)
{
    struct stack *s = *state;
    struct caller leader, reader;
    assert_int_equal(put_ttl(s->b, "k", "v1", 300), NEAR_OK);
    stack_fence(s, s->a);
    hold_read(s, &leader, s->a, "k", 0);
    stack_pass(s, 400);
    uint64_t joined = stack_stats(s->a).flights_joined;
    caller_get(&reader, s->a, "k");
    assert_true(wait_until(stack_stats(s->a).flights_joined == joined + 1, PATIENCE_MS));
    let_one_go(s, REPLIES, &leader);
    caller_end(&reader);
    assert_string_equal(leader.got, "v1"); /* it began before the end: that is allowed */
    assert_string_equal(reader.got, MISS);
}

static int load_v2(void *arg, const near_load_request *request, near_loaded *loaded)
{
    (void)arg;
    (void)request;
    return near_loaded_value(loaded, "v2", 2);
}

static void *load_in_thread(void *arg)
{
    struct caller *c = arg;
    near_value value;
    c->status = near_get_or_load(c->cache, c->key, strlen(c->key), load_v2, NULL, NULL, &value);
    snprintf(c->got, sizeof(c->got), "%.*s", (int)value.size, c->status == NEAR_OK ? (const char *)value.data : "");
    near_release(&value);
    return NULL;
}

static void load_start(struct caller *c, near_cache *cache, const char *key)
{
    *c = (struct caller){.cache = cache, .key = key};
    assert_int_equal(pthread_create(&c->thread, NULL, load_in_thread, c), 0);
}

/* The same of reading through. */
static void test_R20_joined_load_brings_nothing_that_was_dead_before(void **state)
{
    struct stack *s = *state;
    struct caller leader, reader;
    assert_int_equal(put_ttl(s->b, "k", "v1", 300), NEAR_OK);
    stack_fence(s, s->a);
    stack_hold(s, REPLIES, NEAR_OP_LEASE, 1);
    load_start(&leader, s->a, "k");
    stack_wait_held(s, REPLIES, 1);
    stack_pass(s, 400);
    uint64_t joined = stack_stats(s->a).flights_joined;
    load_start(&reader, s->a, "k");
    assert_true(wait_until(stack_stats(s->a).flights_joined == joined + 1, PATIENCE_MS));
    let_one_go(s, REPLIES, &leader);
    caller_end(&reader);
    assert_string_equal(leader.got, "v1");
    assert_string_equal(reader.got, "v2");
}

/* B shortens a life that A believes endless.  Without a message of its own: look says v1 after the end. */
static void test_R20_shortened_life_is_told(void **state)
{
    struct stack *s = *state;
    cache_in_a(s, "k", "v1");
    assert_int_equal(near_expire(s->b, "k", 1, 500, NULL), NEAR_OK);
    stack_fence(s, s->a);
    assert_string_equal(look(s->a, "k"), "v1");
    stack_pass(s, 600);
    assert_string_equal(look(s->a, "k"), MISS);
}

/* The position moves while a FETCH reads (it is not atomic).  Kept: the copy may have another key's time to live, or
 * none. */
static void test_R20_fetch_that_was_not_of_one_moment_is_not_kept(void **state)
{
    struct stack *s = *state;
    assert_int_equal(put(s->b, "k", "v1"), NEAR_OK);
    stack_fence(s, s->a);
    stack_hold(s, NEAR_FAULT_INEXACT, NEAR_OP_FETCH, 1);
    assert_string_equal(look(s->a, "k"), "v1");
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(look(s->a, "k"), "v1");
    assert_string_equal(peek(s->a, "k"), "v1");
}

/* ---------------------------------------------------------------- delivery */

/* The subscription breaks, B writes v2, nobody tells A.  Without withdrawing at the loss: look says v1; without a
 * watermark at the return: the last look says v1. */
static void test_R21_writes_during_a_lost_subscription_are_seen(void **state)
{
    struct stack *s = *state;
    cache_in_a(s, "k", "v1");
    cut_subscriptions(s);
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(look_with(s->a, "k", NEAR_NO_FILL, 0, 0), "v2");
}

/* As above, but A does not read before it is back: the entry is there all the time and must not come back to life. */
static void test_R21_entry_from_before_a_lost_subscription_stays_dead(void **state)
{
    struct stack *s = *state;
    cache_in_a(s, "k", "v1");
    cut_subscriptions(s);
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    stack_recover(s, s->a);
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(look(s->a, "k"), "v2");
}

/* The counterpart: nothing was written meanwhile, so nothing is thrown away.  A tier that is wiped at every
 * reconnection: peek misses, and a fleet goes to Redis at once. */
static void test_R21_nothing_missed_nothing_lost(void **state)
{
    struct stack *s = *state;
    cache_in_a(s, "k", "v1");
    cache_in_a(s, "later", "v1"); /* so that k is older than the position that the proof will bring */
    cut_subscriptions(s);
    stack_recover(s, s->a);
    assert_string_equal(peek(s->a, "k"), "v1");
    assert_string_equal(peek(s->a, "later"), "v1");
}

/* A's GET reads v1 while unsubscribed, B writes v2 (no message for A), A subscribes again and is proven, then the reply
 * comes.  With a flush at the disconnection only: peek says v1, for ever. */
static void test_R22_fill_begun_while_unsubscribed_is_dead_on_arrival(void **state)
{
    struct stack *s = *state;
    struct caller reader;
    assert_int_equal(put(s->b, "k", "v1"), NEAR_OK);
    stack_fence(s, s->a);
    cut_subscriptions(s);
    hold_read(s, &reader, s->a, "k", 0);
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    stack_recover(s, s->a);
    let_one_go(s, REPLIES, &reader);
    assert_string_equal(reader.got, "v1");
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(look(s->a, "k"), "v2");
}

/* The server refuses every connection for minutes.  With a flush at the re-subscription only: peek says v1 all the
 * time. */
static void test_R23_refused_reconnection_serves_nothing_old(void **state)
{
    struct stack *s = *state;
    cache_in_a(s, "k", "v1");
    stack_hold(s, NEAR_FAULT_REFUSE, 0, -1);
    cut_subscriptions(s);
    for (int i = 0; i < 10; i++) {
        assert_string_equal(peek(s->a, "k"), MISS);
        assert_string_equal(look(s->a, "k"), "(NEAR_ERR_UNAVAILABLE)");
        stack_skip(s, 10000);
    }
    assert_int_equal(stack_stats(s->a).proven, 0);
    stack_hold(s, NEAR_FAULT_REFUSE, 0, 0);
    stack_recover(s, s->a);
    assert_string_equal(look(s->a, "k"), "v1");
}

/* Nothing arrives any more and nothing breaks; B writes v2.  Without a bound on the proof's age: look says v1 for
 * ever. */
static void test_R24_silent_subscription_ends_with_the_bound(void **state)
{
    struct stack *s = *state;
    cache_in_a(s, "k", "v1");
    stack_hold(s, MESSAGES, NEAR_OP_SET, -1);
    stack_hold(s, MESSAGES, NEAR_OP_PROVE, -1);
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    assert_string_equal(look(s->a, "k"), "v1"); /* within the bound */
    stack_skip(s, 1000);
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(look(s->a, "k"), "v2");
}

/* The whole link is silent: no answer to anything.  Reads end at their deadline with NEAR_ERR_TIMEOUT and nothing
 * old. */
static void test_R24_silent_link_gives_timeouts_not_old_values(void **state)
{
    struct stack *s = *state;
    struct caller reader = {.cache = s->a, .key = "k", .timeout_ms = 5000};
    cache_in_a(s, "k", "v1");
    stack_hold(s, NEAR_FAULT_SILENCE, 0, -1);
    stack_skip(s, 1000);
    assert_string_equal(peek(s->a, "k"), MISS);
    caller_start(&reader);
    for (int64_t until_ms = wait_now_ms() + PATIENCE_MS; stack_stats(s->a).remote_errors == 0;) {
        assert_true(wait_now_ms() < until_ms);
        stack_skip(s, 1000);
        wait_a_moment();
    }
    caller_end(&reader);
    assert_string_equal(reader.got, "(NEAR_ERR_TIMEOUT)");
    stack_hold(s, NEAR_FAULT_SILENCE, 0, 0);
    stack_recover(s, s->a);
    assert_string_equal(look(s->a, "k"), "v1");
}

/* PINGs are answered, but what the server publishes does not arrive (a proxy that answers by itself, another node).
 * With PONG alone as a proof: still proven after the bound, and look says v1. */
static void test_R25_pong_alone_proves_nothing(void **state)
{
    struct stack *s = *state;
    cache_in_a(s, "k", "v1");
    stack_hold(s, NEAR_FAULT_DROP_MESSAGES, NEAR_OP_PROVE, -1);
    stack_hold(s, NEAR_FAULT_DROP_MESSAGES, NEAR_OP_SET, -1);
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    for (int i = 0; i < 30; i++) { /* PINGs go out and are answered */
        stack_skip(s, 50);
        wait_a_moment();
    }
    assert_int_equal(stack_stats(s->a).proven, 0);
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(look(s->a, "k"), "v2");
}

/* A heartbeat answered after 300 ms proves what was true 300 ms ago.  Counted from its arrival: peek still hits at 1000
 * ms. */
static void test_R26_proof_counts_from_its_sending(void **state)
{
    struct stack *s = *state;
    cache_in_a(s, "k", "v1");
    stack_fence(s, s->a);
    stack_hold(s, MESSAGES, NEAR_OP_PROVE, -1);
    while (near__memory_held(s->store, MESSAGES) < 2) { /* A's and B's heartbeats are under way */
        stack_skip(s, 4);
        wait_a_moment();
    }
    uint64_t proofs = stack_stats(s->a).proofs;
    stack_skip(s, 300);
    near__memory_release_one(s->store, MESSAGES);
    near__memory_release_one(s->store, MESSAGES);
    assert_true(wait_until(stack_stats(s->a).proofs > proofs, PATIENCE_MS));
    assert_true(stack_stats(s->a).proof_age_ms >= 300);
    stack_skip(s, 1000 - stack_stats(s->a).proof_age_ms - 1);
    assert_string_equal(peek(s->a, "k"), "v1");
    stack_skip(s, 1);
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_int_equal(stack_stats(s->a).proofs, proofs + 1);
}

/* The server answers heartbeats with an error (BUSY during a long script, LOADING, NOPERM) and PINGs as ever.  Any
 * reply taken for a proof: still proven after the bound. */
static void test_R27_error_is_no_proof(void **state)
{
    static const int errors[] = {NEAR_ERR_SCRIPT_BUSY, NEAR_ERR_DENIED, NEAR_ERR_LOADING, NEAR_ERR_READONLY};
    struct stack *s = *state;
    cache_in_a(s, "k", "v1");
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        near__memory_error(s->store, NEAR_OP_PROVE, errors[i], -1);
        for (int round = 0; round < 16; round++) { /* whether PONG or error comes first is a matter of threads */
            uint64_t failed = stack_stats(s->a).proofs_failed;
            stack_skip(s, 1000);
            assert_string_equal(peek(s->a, "k"), MISS);
            assert_true(wait_until(stack_stats(s->a).proofs_failed > failed, PATIENCE_MS));
            assert_int_equal(stack_stats(s->a).proven, 0);
        }
        near__memory_error(s->store, NEAR_OP_PROVE, 0, 0);
        stack_recover(s, s->a);
        assert_string_equal(look(s->a, "k"), "v1");
    }
}

/* A backlog of messages waits in front of A's subscriber, which is alive but slow; everything is connected.  A proof
 * that overtakes the backlog: peek says v1 after the bound. */
static void test_R29_proof_does_not_overtake_a_backlog(void **state)
{
    struct stack *s = *state;
    cache_in_a(s, "k", "v1");
    stack_hold(s, MESSAGES, NEAR_OP_SET, 1); /* heartbeats and PONGs queue up behind it */
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    for (int i = 0; i < 30; i++) {
        stack_skip(s, 50);
        wait_a_moment();
    }
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(look(s->a, "k"), "v2");
    stack_hold(s, MESSAGES, 0, 0);
    stack_recover(s, s->a);
    assert_string_equal(look(s->a, "k"), "v2");
}

/* One message vanishes although nothing broke; the next message, or if there is none the next heartbeat, has a number
 * too high.  Without numbers: peek says v1 for ever. */
static void test_R30_lost_message_is_noticed_by_the_next(void **state)
{
    struct stack *s = *state;
    for (int by_message = 0; by_message < 2; by_message++) {
        cache_in_a(s, "k", "v1");
        uint64_t suspicions = stack_stats(s->a).suspicions;
        stack_hold(s, NEAR_FAULT_DROP_MESSAGES, NEAR_OP_SET, 1);
        assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
        if (by_message)
            assert_int_equal(put(s->b, "other", "x"), NEAR_OK);
        stack_fence(s, s->a);
        assert_string_equal(peek(s->a, "k"), MISS);
        assert_string_equal(look(s->a, "k"), "v2");
        assert_true(stack_stats(s->a).suspicions > suspicions);
    }
}

/* The network delivers a message twice.  Harmless for the value; tolerance for it would be a hole in the numbering. */
static void test_R30_doubled_message_does_no_harm(void **state)
{
    struct stack *s = *state;
    cache_in_a(s, "k", "v1");
    near__memory_duplicate_next_message(s->store);
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    stack_fence(s, s->a);
    assert_string_equal(look(s->a, "k"), "v2");
    assert_string_equal(peek(s->a, "k"), "v2");
}

/* The server restarts and has lost A's last write (number p); B writes the key anew, with the number p again.
 * Comparing numbers over the break: A's entry p survives message p and look says lost, for ever (R10, R33). */
static void test_R10_numbers_of_a_lost_history_do_not_count(void **state)
{
    struct stack *s = *state;
    assert_int_equal(put(s->a, "k", "v1"), NEAR_OK);
    near__memory_snapshot(s->store);
    assert_int_equal(put(s->a, "k", "lost"), NEAR_OK);
    assert_string_equal(peek(s->a, "k"), "lost");
    uint64_t lost = near__memory_position(s->store, "");
    break_subscriptions(s, restart_with_loss);
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    assert_int_equal(near__memory_position(s->store, ""), lost);
    stack_recover(s, s->a);
    assert_string_equal(look(s->a, "k"), "v2");
    stack_recover(s, s->b);
    assert_string_equal(look(s->b, "k"), "v2");
    assert_true(near__memory_position(s->store, "") > lost);
    assert_true(stack_stats(s->a).server_changes > 0);
    assert_int_equal(put(s->b, "k", "v3"), NEAR_OK); /* and nothing is refused from now on: floors are passed */
    stack_fence(s, s->a);
    assert_string_equal(look(s->a, "k"), "v3");
    assert_string_equal(peek(s->a, "k"), "v3");
}

/* A reply of the old history is under way while the server restarts and is proven anew.  Installed at its number: peek
 * says lost, and no message will ever remove it. */
static void test_R10_reply_of_a_lost_history_is_not_kept(void **state)
{
    struct stack *s = *state;
    struct caller reader;
    assert_int_equal(put(s->b, "k", "v1"), NEAR_OK);
    near__memory_snapshot(s->store);
    assert_int_equal(put(s->b, "k", "lost"), NEAR_OK);
    stack_fence(s, s->a);
    hold_read(s, &reader, s->a, "k", 0);
    break_subscriptions(s, restart_with_loss);
    stack_recover(s, s->a);
    let_one_go(s, REPLIES, &reader);
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(look(s->a, "k"), "v1");
}

/* redis-cli writes past us: FLUSHALL takes the position with it, which the next heartbeat shows.  Otherwise look says
 * v1 for ever. */
static void test_R35_flushall_is_noticed_by_the_heartbeat(void **state)
{
    struct stack *s = *state;
    cache_in_a(s, "k", "v1");
    near__memory_flushall(s->store);
    stack_fence(s, s->a);
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(look(s->a, "k"), MISS);
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    stack_fence(s, s->a);
    assert_string_equal(look(s->a, "k"), "v2");
}

/* A foreign SET or DEL has no message and no number: the local time to live is what bounds it.  Without it: look says
 * v1. */
static void test_R35_foreign_writes_are_bounded_by_the_local_time_to_live(void **state)
{
    struct stack *s = *state;
    near_options options;
    stack_options(&options);
    options.timeout_ms = options.connect_timeout_ms = 3600000;
    options.local_ttl_ms = 2000;
    stack_reopen_a(s, &options);
    cache_in_a(s, "k", "v1");
    cache_in_a(s, "gone", "v1");
    near__memory_foreign_set(s->store, "k", 1, "v2", 2);
    near__memory_foreign_del(s->store, "gone", 4);
    assert_string_equal(look(s->a, "k"), "v1");
    stack_pass(s, 2000);
    assert_string_equal(look(s->a, "k"), "v2");
    assert_string_equal(look(s->a, "gone"), MISS);
}

/* Garbage, a version of the future, and a message of a huge number come on the channel.  Ignored: a write it told of is
 * missed; believed: floors and watermark fly away and nothing is kept ever again (peek misses at the end). */
static void test_R37_unreadable_messages_cost_time_not_truth(void **state)
{
    static const char *const garbage[] = {
        "", "1", "garbage", "2999:", "1-5:", "199999999999999999999999:", "10:", "11:\1\1"};
    struct stack *s = *state;
    for (size_t i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
        cache_in_a(s, "k", "v1");
        cache_in_a(s, "later", "v1");
        uint64_t bad = stack_stats(s->a).messages_bad, kept = stack_stats(s->a).repair_kept;
        near__memory_inject_message(s->store, garbage[i], strlen(garbage[i]));
        assert_true(wait_until(stack_stats(s->a).messages_bad > bad, PATIENCE_MS));
        stack_fence(s, s->a);
        /* it may have told of k, which stays away until the prover has compared it */
        assert_true(strcmp(peek(s->a, "k"), MISS) == 0 ||
                    wait_until(stack_stats(s->a).repair_kept > kept, PATIENCE_MS));
        assert_string_equal(peek(s->a, "later"), "v1"); /* read when the server had done every write there is */
        assert_string_equal(look(s->a, "k"), "v1");
    }
    inject_update(s, UINT64_C(9007199254740991), "k", "v1");
    inject_update(s, (uint64_t)INT64_MAX, "other", "v1");
    stack_fence(s, s->a);
    cache_in_a(s, "k", "v3");
    cache_in_a(s, "other", "v3");
    assert_true(near__memory_position(s->store, "") < UINT64_C(9007199254740991));
}

/* Connections are refused in turn with every reason there is; then they are not.  Naive: "subscribed" and serving all
 * the time. */
static void test_R38_refused_subscription_is_a_state(void **state)
{
    struct stack *s = *state;
    near_error error = {0};
    cache_in_a(s, "k", "v1");
    stack_hold(s, NEAR_FAULT_REFUSE, 0, -1);
    cut_subscriptions(s);
    stack_skip(s, 30);
    assert_true(
        wait_until(near_wait_ready(s->a, 0, &error) == NEAR_ERR_TIMEOUT && strstr(error.text, "refused"), PATIENCE_MS));
    assert_string_equal(peek(s->a, "k"), MISS);
    stack_hold(s, NEAR_FAULT_REFUSE, 0, 0);
    stack_recover(s, s->a);
    assert_string_equal(look(s->a, "k"), "v1");
}

/* B writes v2, A has not heard of it; one thread of A sees v2 in the server's answer to this or that.  If the old entry
 * stays: another thread of A reads v1 afterwards. */
static void expect_not_back(struct stack *s)
{
    assert_string_equal(look(s->a, "k"), "v2");
    stack_hold(s, MESSAGES, 0, 0);
    stack_fence(s, s->a);
    cache_in_a(s, "k", "v1");
    stack_hold(s, MESSAGES, NEAR_OP_SET, -1);
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    assert_string_equal(peek(s->a, "k"), "v1");
}

static void test_R54_what_one_thread_has_seen_no_thread_unsees(void **state)
{
    struct stack *s = *state;
    near_item item = {.key = "k", .key_size = 1};
    near_call call;
    near_call_init(&call);
    call.flags = NEAR_BYPASS_LOCAL | NEAR_NO_FILL;
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    expect_not_back(s);
    assert_string_equal(bypass(s->a, "k"), "v2");
    expect_not_back(s);
    assert_string_equal(look_with(s->a, "k", NEAR_BYPASS_LOCAL, 0, 0), "v2");
    expect_not_back(s);
    stack_hold(s, NEAR_FAULT_INEXACT, NEAR_OP_FETCH, 1);
    assert_string_equal(bypass(s->a, "k"), "v2");
    expect_not_back(s);
    assert_int_equal(near_mget(s->a, &item, 1, &call), NEAR_OK);
    assert_memory_equal(item.value.data, "v2", 2);
    near_release(&item.value);
    expect_not_back(s);
    assert_int_equal(near_cas(s->a, "k", 1, "v1", 2, "v3", 2, NULL, NULL), NEAR_UNMET);
    expect_not_back(s);
    near_write write;
    near_write_init(&write);
    write.flags = NEAR_SET_IF_ABSENT;
    assert_int_equal(near_set(s->a, "k", 1, "v3", 2, &write, NULL), NEAR_UNMET);
    assert_string_equal(look(s->a, "k"), "v2");
    stack_hold(s, MESSAGES, 0, 0);
}

/* The same when the server has lost its position: the reply has no number to compare. */
static void test_R54_reply_without_a_number_removes_what_is_there(void **state)
{
    struct stack *s = *state;
    cache_in_a(s, "k", "v1");
    near__memory_foreign_set(s->store, "k", 1, "v2", 2);
    near__memory_set_position(s->store, "", 0);
    assert_string_equal(bypass(s->a, "k"), "v2");
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(look(s->a, "k"), "v2");
}

/* ---------------------------------------------------------------- threads and memory */

enum { STRESS_KEYS = 3, STRESS_ROUNDS = UNDER_TSAN ? 1500 : 15000 };
struct stress {
    near_cache *cache;
    _Atomic(int64_t) *seen; /* of this process, one a key: the newest number that some call has returned */
    uint64_t random;
    int writes;
    int64_t wrong;
};

static void raise_seen(_Atomic(int64_t) *seen, int64_t number)
{
    int64_t before = atomic_load(seen);
    while (before < number && !atomic_compare_exchange_weak(seen, &before, number))
        ;
}

static int64_t read_number(near_cache *cache, const char *key)
{
    char text[32];
    size_t size = 0;
    int status = near_get_copy(cache, key, 2, NULL, text, sizeof(text) - 1, &size);
    if (status == NEAR_MISS)
        return 0;
    assert_int_equal(status, NEAR_OK);
    text[size] = 0;
    return strtoll(text, NULL, 10);
}

static void *stress_main(void *arg)
{
    struct stress *t = arg;
    for (int i = 0; i < STRESS_ROUNDS; i++) {
        t->random = t->random * UINT64_C(6364136223846793005) + 1442695040888963407u;
        unsigned which = (unsigned)(t->random >> 33) % STRESS_KEYS;
        const char key[] = {'n', (char)('0' + which)};
        int64_t before = atomic_load(&t->seen[which]), number = 0;
        if (t->writes && (t->random >> 40) % 8 == 0)
            assert_int_equal(near_incr(t->cache, key, 2, 1, NULL, &number), NEAR_OK);
        else
            number = read_number(t->cache, key);
        if (number < before && !t->wrong)
            t->wrong = before - number;
        raise_seen(&t->seen[which], number);
    }
    return NULL;
}

/* Fills, messages, own writes and evictions of few keys at full speed from all sides.  Values count upwards in the
 * server's order, so a value below one that any call of the process had returned before this one began is a step back
 * (promise C). */
static void test_R46_no_interleaving_goes_back(void **state)
{
    enum { THREADS = 6 };
    struct stack *s = *state;
    static _Atomic(int64_t) seen[2][STRESS_KEYS];
    struct stress threads[THREADS];
    pthread_t ids[THREADS];
    uint64_t seed = test_seed();
    memset(seen, 0, sizeof(seen));
    assert_int_equal(near_set_local_entries(s->b, 2), NEAR_OK); /* B evicts all the time, A never */
    for (int i = 0; i < THREADS; i++) {
        threads[i] = (struct stress){
            .cache = i % 2 ? s->b : s->a, .seen = seen[i % 2], .random = seed + (uint64_t)i, .writes = i < 4};
        assert_int_equal(pthread_create(&ids[i], NULL, stress_main, &threads[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(ids[i], NULL);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(threads[i].wrong, 0);
    stack_fence(s, s->a);
    stack_fence(s, s->b);
    for (int i = 0; i < STRESS_KEYS; i++) {
        const char key[] = {'n', (char)('0' + i), 0};
        assert_int_equal(read_number(s->a, key), strtoll(stack_server(s, key), NULL, 10));
        assert_int_equal(read_number(s->b, key), strtoll(stack_server(s, key), NULL, 10));
    }
}

/* The proof's age at the very edge, for the cache's bound and for a call's tighter one, and a proof that returns after
 * a message was missed.  The steps inside one hit are tests/local's; here: peek says v1 one nanosecond too late, or
 * after the heal. */
static void test_R47_hit_compares_its_own_clock(void **state)
{
    struct stack *s = *state;
    cache_in_a(s, "k", "v1");
    stack_fence(s, s->a);
    stack_hold(s, MESSAGES, NEAR_OP_SET, -1);
    stack_hold(s, MESSAGES, NEAR_OP_PROVE, -1);
    assert_int_equal(put(s->b, "k", "v2"), NEAR_OK);
    int64_t age_ms = stack_stats(s->a).proof_age_ms;
    stack_skip(s, 400 - age_ms);
    assert_string_equal(look_with(s->a, "k", NEAR_NO_FILL, 0, 401), "v1");
    near__clock_advance(&s->now_ns, 600 * NEAR_NS_PER_MS - 1);
    assert_string_equal(peek(s->a, "k"), "v1");
    near__clock_advance(&s->now_ns, 1);
    assert_string_equal(peek(s->a, "k"), MISS);
    stack_hold(s, MESSAGES, 0, 0);
    stack_recover(s, s->a);
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_string_equal(look(s->a, "k"), "v2");
}

/* A value is held while its key is overwritten, evicted, cleared and the tier shrinks.  Handing out a bare pointer: the
 * bytes change (ASan: use after free). */
static void test_R48_held_value_stays_what_it_was(void **state)
{
    struct stack *s = *state;
    static char big[3000];
    char key[16];
    near_value held;
    memset(big, 'x', sizeof(big));
    assert_int_equal(near_set(s->a, "k", 1, big, sizeof(big), NULL, NULL), NEAR_OK);
    assert_int_equal(near_get(s->a, "k", 1, NULL, &held), NEAR_OK);
    assert_int_equal(held.source, NEAR_FROM_LOCAL);
    assert_int_equal(near_set_local_bytes(s->a, 1 << 20), NEAR_OK);
    for (int i = 0; i < 3000; i++) {
        snprintf(key, sizeof(key), "other%d", i % 1000);
        assert_int_equal(near_set(s->a, i % 3 ? key : "k", i % 3 ? strlen(key) : 1, big, 1000, NULL, NULL), NEAR_OK);
    }
    assert_int_equal(drop_everywhere(s->b, "k"), NEAR_OK);
    assert_int_equal(near_clear(s->b, 0, NULL, NULL), NEAR_OK);
    stack_fence(s, s->a);
    assert_int_equal(near_close(s->a), NEAR_ERR_BUSY);
    assert_int_equal(held.size, sizeof(big));
    assert_memory_equal(held.data, big, sizeof(big));
    near_release(&held);
}

/* Every allocation of a cache's life fails once.  Each call returns its result or NEAR_ERR_NOMEM, nothing leaks, and a
 * value that is returned is the right one. */
static int is_nomem(int status, struct allocfail *hooks)
{
    if (status == NEAR_ERR_NOMEM)
        assert_true(allocfail_struck(hooks) > 0);
    return status == NEAR_ERR_NOMEM;
}

static void expect_one_of(const char *text, struct allocfail *hooks, const char *value)
{
    if (strcmp(text, "(NEAR_ERR_NOMEM)") == 0)
        assert_true(allocfail_struck(hooks) > 0);
    else
        assert_string_equal(text, value);
}

static void use_with_failures(near_cache *cache, struct allocfail *hooks)
{
    near_item items[] = {{.key = "k1", .key_size = 2, .data = "m", .size = 1},
                         {.key = "k2", .key_size = 2, .data = "m", .size = 1}};
    int64_t number = 0;
    const char *expected = is_nomem(put(cache, "k1", "v1"), hooks) ? MISS : "v1";
    expect_one_of(look(cache, "k1"), hooks, expected);
    /* a value that is not the local tier's has memory of its own */
    expect_one_of(bypass(cache, "k1"), hooks, expected);
    expect_one_of(look(cache, "absent"), hooks, MISS);
    is_nomem(near_incr(cache, "n", 1, 1, NULL, &number), hooks);
    is_nomem(near_mset(cache, items, 2, NULL, NULL), hooks);
    for (int i = 0; i < 2; i++)
        expected = items[i].status == NEAR_OK ? "m" : expected;
    is_nomem(near_mget(cache, items, 2, NULL), hooks);
    for (int i = 0; i < 2; i++) {
        if (items[i].status == NEAR_OK)
            assert_true(items[i].value.size == 1 || items[i].value.size == 2);
        if (items[i].value.data && is_nomem(near_own(&items[i].value), hooks))
            items[i].status = NEAR_ERR_NOMEM;
        near_release(&items[i].value);
    }
    is_nomem(drop_everywhere(cache, "k1"), hooks);
    near_drop(cache, "k1", 2);
    is_nomem(near_clear(cache, 0, NULL, NULL), hooks);
}

static void life_with_failures(struct allocfail *hooks, const char *uri)
{
    near_cache *cache = NULL;
    near_options options;
    near_error error = {0};
    stack_options(&options);
    options.local_bytes = 1 << 20;
    options.allocator = hooks->hooks;
    int status = near_open(uri, &options, &cache, &error);
    if (status != NEAR_OK) {
        assert_int_equal(status, NEAR_ERR_NOMEM);
        assert_true(allocfail_struck(hooks) > 0);
        return;
    }
    /* whatever failed in the background is tried again */
    assert_int_equal(near_wait_ready(cache, PATIENCE_MS, &error), NEAR_OK);
    use_with_failures(cache, hooks);
    assert_int_equal(near_close(cache), NEAR_OK);
}

static void test_R52_every_allocation_may_fail(void **state)
{
    struct allocfail hooks;
    uint64_t n = 1, struck;
    (void)state;
    do {
        allocfail_init(&hooks);
        allocfail_at(&hooks, n);
        life_with_failures(&hooks, "memory://allocations");
        struck = allocfail_struck(&hooks);
        assert_int_equal(allocfail_blocks(&hooks), 0);
        n += INSTRUMENTED ? 3 : 1;
    } while (struck);
    assert_true(n > 20);
}

/* From some moment on there is no memory at all: calls say so, hits go on, close works. */
static void test_R52_life_without_memory(void **state)
{
    struct allocfail hooks;
    near_cache *cache = NULL;
    near_options options;
    (void)state;
    allocfail_init(&hooks);
    stack_options(&options);
    options.allocator = hooks.hooks;
    options.bound_ms = 60000;
    assert_int_equal(near_open("memory://no-memory", &options, &cache, NULL), NEAR_OK);
    assert_int_equal(near_wait_ready(cache, PATIENCE_MS, NULL), NEAR_OK);
    assert_int_equal(put(cache, "k", "v1"), NEAR_OK);
    assert_string_equal(peek(cache, "k"), "v1");
    allocfail_from(&hooks, 1);
    for (int i = 0; i < 100; i++)
        assert_string_equal(look(cache, "k"), "v1");
    assert_string_equal(look(cache, "absent"), MISS);
    assert_string_equal(bypass(cache, "k"), "(NEAR_ERR_NOMEM)");
    assert_string_equal(look(cache, "k"), "v1");
    assert_int_equal(put(cache, "k", "v2"), NEAR_ERR_NOMEM);
    allocfail_at(&hooks, 0);
    expect_one_of(look(cache, "k"), &hooks, "v1");
    assert_int_equal(near_close(cache), NEAR_OK);
    assert_int_equal(allocfail_blocks(&hooks), 0);
}

#define RACE(name) cmocka_unit_test_setup_teardown(name, stack_setup, stack_teardown)

/* ---------------------------------------------------------------- near_clear with NEAR_CLEAR_KEYS */

static near_cache *open_prefixed(struct stack *s)
{
    near_options options;
    near_options_init(&options);
    options.prefix = "cleared:";
    near_cache *cache = stack_open(s, &options);
    stack_recover(s, cache);
    return cache;
}

/* The keys are gone, but nobody could be told: nothing of them stays here, and the status says so. */
static void test_R13_keys_that_are_cleared_and_not_told_leave_no_local_copy(void **state)
{
    struct stack *s = *state;
    near_cache *cache = open_prefixed(s);
    uint64_t removed = 0;
    assert_int_equal(put(cache, "k", "v"), NEAR_OK);
    assert_string_equal(peek(cache, "k"), "v");
    near__memory_error(s->store, NEAR_OP_CLEAR, NEAR_ERR_UNAVAILABLE, 1);
    assert_int_equal(near_clear(cache, NEAR_CLEAR_KEYS, NULL, &removed), NEAR_ERR_UNKNOWN);
    assert_int_equal(removed, 1);
    assert_string_equal(peek(cache, "k"), MISS);
    assert_int_equal(near_clear(cache, NEAR_CLEAR_KEYS, NULL, &removed), NEAR_OK);
    assert_int_equal(near_close(cache), NEAR_OK);
}

struct clearer {
    near_cache *cache;
    int status;
    _Atomic(int) done;
};

static void *clear_for_a_second(void *arg)
{
    struct clearer *c = arg;
    near_call call;
    near_call_init(&call);
    call.timeout_ms = 1000;
    c->status = near_clear(c->cache, NEAR_CLEAR_KEYS, &call, NULL);
    atomic_store(&c->done, 1);
    return NULL;
}

/* A removal that takes all the time that there is leaves enough to tell of what it has removed. */
static void test_H_clearing_keys_leaves_time_to_tell_of_it(void **state)
{
    struct stack *s = *state;
    struct clearer c = {.cache = open_prefixed(s)};
    pthread_t thread;
    stack_hold(s, NEAR_FAULT_SILENCE, 0, -1);
    assert_int_equal(pthread_create(&thread, NULL, clear_for_a_second, &c), 0);
    for (int i = 0; i < 100; i++)
        wait_a_moment(); /* if it has not come to the removal by then it finds a server that answers */
    stack_hold(s, NEAR_FAULT_SILENCE, 0, 0);
    stack_skip(s, 760);
    int done = wait_until(atomic_load(&c.done), PATIENCE_MS);
    stack_skip(s, 10000);
    pthread_join(thread, NULL);
    assert_true(done);
    assert_int_equal(near__memory_requests(s->store, NEAR_OP_CLEAR), 1);
    stack_recover(s, c.cache);
    assert_int_equal(near_close(c.cache), NEAR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RACE(test_R13_keys_that_are_cleared_and_not_told_leave_no_local_copy),
        RACE(test_H_clearing_keys_leaves_time_to_tell_of_it),
        RACE(test_R01_fill_that_meets_an_invalidation_is_not_kept),
        RACE(test_R02_fill_does_not_complete_into_another_fills_place),
        RACE(test_R03_eviction_does_not_forget_an_invalidation),
        RACE(test_R04_invalidation_of_an_absent_key_stops_its_fill),
        RACE(test_R05_own_write_overtaken_by_a_foreign_one_is_not_kept),
        RACE(test_R06_two_own_writes_are_ordered_by_the_server),
        RACE(test_R07_late_message_does_not_touch_a_newer_value),
        RACE(test_R08_deleted_key_is_not_resurrected_by_slow_fill),
        RACE(test_R10_numbers_of_a_lost_history_do_not_count),
        RACE(test_R10_reply_of_a_lost_history_is_not_kept),
        RACE(test_R13_write_of_unknown_fate_leaves_no_local_copy),
        RACE(test_R14_zombie_write_reaches_everybody),
        RACE(test_R16_stampede_is_one_fetch),
        RACE(test_R17_read_after_a_write_joins_no_older_fetch),
        RACE(test_R17_kept_write_changes_the_ticket_too),
        RACE(test_R17_cleared_or_too_old_flight_is_not_joined),
        RACE(test_R18_errors_are_not_absence),
        RACE(test_R19_absence_does_not_outlive_creation),
        RACE(test_R20_copy_ends_with_its_key),
        RACE(test_R20_time_to_live_counts_from_the_sending),
        RACE(test_R20_joined_fetch_brings_nothing_that_was_dead_before),
        RACE(test_R20_joined_load_brings_nothing_that_was_dead_before),
        RACE(test_R20_shortened_life_is_told),
        RACE(test_R20_fetch_that_was_not_of_one_moment_is_not_kept),
        RACE(test_R21_writes_during_a_lost_subscription_are_seen),
        RACE(test_R21_entry_from_before_a_lost_subscription_stays_dead),
        RACE(test_R21_nothing_missed_nothing_lost),
        RACE(test_R22_fill_begun_while_unsubscribed_is_dead_on_arrival),
        RACE(test_R23_refused_reconnection_serves_nothing_old),
        RACE(test_R24_silent_subscription_ends_with_the_bound),
        RACE(test_R24_silent_link_gives_timeouts_not_old_values),
        RACE(test_R25_pong_alone_proves_nothing),
        RACE(test_R26_proof_counts_from_its_sending),
        RACE(test_R27_error_is_no_proof),
        RACE(test_R29_proof_does_not_overtake_a_backlog),
        RACE(test_R30_lost_message_is_noticed_by_the_next),
        RACE(test_R30_doubled_message_does_no_harm),
        RACE(test_R35_flushall_is_noticed_by_the_heartbeat),
        RACE(test_R35_foreign_writes_are_bounded_by_the_local_time_to_live),
        RACE(test_R37_unreadable_messages_cost_time_not_truth),
        RACE(test_R38_refused_subscription_is_a_state),
        RACE(test_R46_no_interleaving_goes_back),
        RACE(test_R47_hit_compares_its_own_clock),
        RACE(test_R48_held_value_stays_what_it_was),
        cmocka_unit_test(test_R52_every_allocation_may_fail),
        cmocka_unit_test(test_R52_life_without_memory),
        RACE(test_R54_what_one_thread_has_seen_no_thread_unsees),
        RACE(test_R54_reply_without_a_number_removes_what_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
