/* SPDX-License-Identifier: BSD-3-Clause
 * The public API: what every function returns for good and for bad input, on each kind of remote tier.  The same cases
 * run on memory://, on "local:" and, where one can be started, on a real Redis. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "local/reader.h"
#include "local/wide.h"
#include "nearcache.h"
#include "support/allocfail.h"
#include "support/redis_server.h"
#include "support/wait.h"

enum kind { MEMORY, LOCAL, REDIS };

struct stack {
    enum kind kind;
    struct redis_server *server;
    near_cache *cache;
};

static struct redis_server *server; /* one for the whole program */

enum { PATIENCE_MS = 60000 }; /* only ends a test that has failed */

/* Without options: deadlines that a busy machine does not meet. */
static near_cache *open_with(const char *uri, const near_options *options)
{
    near_cache *cache = NULL;
    near_error error = {0};
    near_options patient;
    near_options_init(&patient);
    patient.timeout_ms = patient.connect_timeout_ms = PATIENCE_MS;
    patient.message_values = NEAR_VALUES_NEVER; /* what others hold is not for a heartbeat's timing to decide */
    int status = near_open(uri, options ? options : &patient, &cache, &error);
    if (status != NEAR_OK)
        print_error("near_open(%s): %s: %s\n", uri, near_status_name(status), error.text);
    assert_int_equal(status, NEAR_OK);
    assert_int_equal(near_wait_ready(cache, PATIENCE_MS, &error), NEAR_OK);
    return cache;
}

static int setup_kind(void **state, enum kind kind, const char *uri)
{
    static struct stack stack;
    stack = (struct stack){.kind = kind};
    if (uri)
        stack.cache = open_with(uri, NULL);
    *state = &stack;
    return 0;
}

static int setup_memory(void **state)
{
    return setup_kind(state, MEMORY, "memory://api");
}
static int setup_local(void **state)
{
    return setup_kind(state, LOCAL, "local:");
}
static int setup_redis(void **state)
{
    if (server)
        redis_server_command(server, "FLUSHALL", NULL);
    return setup_kind(state, REDIS, server ? redis_server_uri_unix(server) : NULL);
}

static int teardown(void **state)
{
    struct stack *stack = *state;
    return stack->cache && near_close(stack->cache) != NEAR_OK;
}

static near_cache *cache_of(void **state)
{
    struct stack *stack = *state;
    if (!stack->cache)
        skip();
    return stack->cache;
}

static int set(near_cache *c, const char *key, const char *value)
{
    return near_set(c, key, strlen(key), value, strlen(value), NULL, NULL);
}

static void expect(near_cache *c, const char *key, const char *value)
{
    near_value got;
    int status = near_get(c, key, strlen(key), NULL, &got);
    if (!value) {
        assert_int_equal(status, NEAR_MISS);
        return;
    }
    assert_int_equal(status, NEAR_OK);
    assert_int_equal(got.size, strlen(value));
    assert_memory_equal(got.data, value, got.size);
    near_release(&got);
}

/* ---------------------------------------------------------------- values */

static void test_get_returns_what_was_set(void **state)
{
    near_cache *c = cache_of(state);
    expect(c, "k", NULL);
    assert_int_equal(set(c, "k", "one"), NEAR_OK);
    expect(c, "k", "one");
    assert_int_equal(set(c, "k", "two"), NEAR_OK);
    expect(c, "k", "two");
    assert_int_equal(near_del(c, "k", 1, NULL), NEAR_OK);
    expect(c, "k", NULL);
    assert_int_equal(near_del(c, "k", 1, NULL), NEAR_MISS);
}

static void test_keys_and_values_are_binary_and_may_be_empty(void **state)
{
    near_cache *c = cache_of(state);
    static const unsigned char bytes[] = {0, 1, '\r', '\n', '$', 255, 0};
    near_value got;
    assert_int_equal(near_set(c, NULL, 0, bytes, sizeof(bytes), NULL, NULL), NEAR_OK);
    assert_int_equal(near_set(c, bytes, sizeof(bytes), NULL, 0, NULL, NULL), NEAR_OK);
    for (int pass = 0; pass < 2; pass++) { /* from the local tier, then from the remote one */
        assert_int_equal(near_get(c, "", 0, NULL, &got), NEAR_OK);
        assert_int_equal(got.size, sizeof(bytes));
        assert_memory_equal(got.data, bytes, sizeof(bytes));
        near_release(&got);
        assert_int_equal(near_get(c, bytes, sizeof(bytes), NULL, &got), NEAR_OK);
        assert_int_equal(got.size, 0);
        near_release(&got);
        if (((struct stack *)*state)->kind == LOCAL)
            break;
        assert_int_equal(near_drop(c, "", 0), NEAR_OK);
        assert_int_equal(near_drop(c, bytes, sizeof(bytes)), NEAR_OK);
    }
}

static void test_source_tells_where_a_value_came_from(void **state)
{
    near_cache *c = cache_of(state);
    near_value got;
    memset(&got, 0, sizeof(got));
    assert_true(
        wait_until((near_release(&got), set(c, "k", "v") == NEAR_OK && near_get(c, "k", 1, NULL, &got) == NEAR_OK &&
                                            got.source == NEAR_FROM_LOCAL),
                   PATIENCE_MS)); /* a busy machine may let the proof age */
    near_release(&got);
    near_drop(c, "k", 1);
    assert_int_equal(near_peek(c, "k", 1, &got), NEAR_MISS);
    assert_int_equal(near_get(c, "k", 1, NULL, &got), NEAR_OK);
    assert_int_equal(got.source, NEAR_FROM_REMOTE);
    near_release(&got);
    assert_int_equal(near_peek(c, "k", 1, &got), NEAR_OK);
    near_release(&got);
}

/* A write that nobody competes with is kept, the first one after near_wait_ready included, though its own message comes
 * at the same moment on another connection.  So slow to lose patience that a busy machine changes nothing. */
static void test_own_write_without_competition_is_kept(void **state)
{
    enum { ROUNDS = 20, WRITES = 200 };
    struct stack *stack = *state;
    cache_of(state);
    near_options options;
    near_options_init(&options);
    options.bound_ms = 120000;
    options.connect_timeout_ms = options.timeout_ms = 60000;
    for (int round = 0; round < ROUNDS; round++) {
        near_cache *c = open_with(stack->kind == REDIS ? redis_server_uri_unix(server) : "memory://kept", &options);
        near_stats stats = {.size = sizeof(stats)};
        for (uint64_t i = 1; i <= WRITES; i++) {
            near_value got;
            assert_int_equal(set(c, "k", "v"), NEAR_OK);
            assert_int_equal(near_peek(c, "k", 1, &got), NEAR_OK);
            near_release(&got);
        }
        assert_int_equal(near_stats_get(c, &stats), NEAR_OK);
        assert_int_equal(stats.fills, WRITES);
        assert_int_equal(stats.fills_refused_order + stats.fills_refused_space, 0);
        assert_int_equal(near_close(c), NEAR_OK);
    }
}

static void test_get_copy_truncates_and_tells_the_whole_size(void **state)
{
    near_cache *c = cache_of(state);
    char buffer[8] = "-------";
    size_t size = 99;
    set(c, "k", "hello");
    assert_int_equal(near_get_copy(c, "k", 1, NULL, buffer, 3, &size), NEAR_TRUNCATED);
    assert_int_equal(size, 5);
    assert_memory_equal(buffer, "hel----", 7);
    assert_int_equal(near_get_copy(c, "k", 1, NULL, buffer, 8, &size), NEAR_OK);
    assert_memory_equal(buffer, "hello", 5);
    assert_int_equal(near_get_copy(c, "k", 1, NULL, NULL, 0, &size), NEAR_TRUNCATED);
    assert_int_equal(near_get_copy(c, "none", 4, NULL, buffer, 8, &size), NEAR_MISS);
    assert_int_equal(near_get_copy(c, "k", 1, NULL, buffer, 8, NULL), NEAR_ERR_INVALID);
}

/* However much room the caller says there is: sizes and what speaks against an entry are compared in one step. */
static void test_get_copy_into_any_room_serves_what_may_be_served(void **state)
{
    static const size_t rooms[] = {100, 1 << 20, (UINT32_C(1) << 30) - 1, UINT32_C(1) << 30, SIZE_MAX / 2, SIZE_MAX};
    static const char *keys[] = {"0123456789abcdef", "k", "a key of more than sixteen bytes"};
    static char value[4096], got[4096];
    near_cache *c = cache_of(state);
    memset(value, 'v', sizeof(value));
    for (size_t k = 0; k < sizeof(keys) / sizeof(keys[0]); k++)
        for (size_t i = 0; i < sizeof(rooms) / sizeof(rooms[0]); i++)
            for (size_t size = 0; size <= sizeof(value); size = size < 150 ? size + 1 : size * 2 + 7) {
                size_t told = 0, key_size = strlen(keys[k]), room = rooms[i] < size ? size : rooms[i];
                near_write write = {.size = sizeof(write), .ttl_ms = size % 3 ? 0 : 3600000};
                memset(got, '-', sizeof(got));
                assert_int_equal(near_set(c, keys[k], key_size, value, size, &write, NULL), NEAR_OK);
                assert_int_equal(near_get_copy(c, keys[k], key_size, NULL, got, room, &told), NEAR_OK);
                assert_int_equal(told, size);
                assert_memory_equal(got, value, size);
                assert_true(size == sizeof(got) || got[size] == '-');
                assert_int_equal(near_clear(c, 0, NULL, NULL), NEAR_OK);
                assert_int_equal(near_get_copy(c, keys[k], key_size, NULL, got, room, &told), NEAR_MISS);
            }
}

static void test_pinned_value_survives_overwriting_and_dropping(void **state)
{
    near_cache *c = cache_of(state);
    near_value held;
    set(c, "k", "first");
    assert_int_equal(near_get(c, "k", 1, NULL, &held), NEAR_OK);
    set(c, "k", "second");
    near_drop(c, "k", 1);
    assert_memory_equal(held.data, "first", 5);
    near_release(&held);
    near_release(&held); /* a second time is harmless */
    near_release(NULL);
}

static void *release_elsewhere(void *value)
{
    near_release(value);
    return NULL;
}

static void test_owned_value_may_be_released_by_another_thread(void **state)
{
    near_cache *c = cache_of(state);
    near_value held;
    pthread_t thread;
    set(c, "k", "mine");
    assert_int_equal(near_get(c, "k", 1, NULL, &held), NEAR_OK);
    assert_int_equal(near_own(&held), NEAR_OK);
    assert_int_equal(near_own(&held), NEAR_OK);
    assert_memory_equal(held.data, "mine", 4);
    pthread_create(&thread, NULL, release_elsewhere, &held);
    pthread_join(thread, NULL);
    assert_int_equal(near_own(&held), NEAR_ERR_INVALID);
}

static void test_a_timeout_of_0_is_now(void **state)
{
    near_cache *c = cache_of(state);
    near_error error;
    int is_local = ((struct stack *)*state)->kind == LOCAL;
    assert_true(wait_until(near_wait_ready(c, 0, NULL) == NEAR_OK, PATIENCE_MS));
    assert_int_equal(near_check(c, 0, &error), is_local ? NEAR_OK : NEAR_ERR_TIMEOUT);
}

static void test_drops_counts_calls_not_copies(void **state)
{
    near_cache *c = cache_of(state);
    near_stats before = {.size = sizeof(before)}, after = {.size = sizeof(after)};
    set(c, "k", "v");
    assert_int_equal(near_stats_get(c, &before), NEAR_OK);
    for (int i = 0; i < 3; i++) /* the second and third find nothing */
        assert_int_equal(near_drop(c, "k", 1), NEAR_OK);
    assert_int_equal(near_stats_get(c, &after), NEAR_OK);
    assert_int_equal(after.drops - before.drops, 3);
}

static void test_more_values_held_than_pins(void **state)
{
    near_cache *c = cache_of(state);
    near_value held[200];
    set(c, "k", "v");
    for (int i = 0; i < 200; i++)
        assert_int_equal(near_get(c, "k", 1, NULL, &held[i]), NEAR_OK);
    near_drop(c, "k", 1);
    for (int i = 0; i < 200; i++) {
        assert_memory_equal(held[i].data, "v", 1);
        near_release(&held[i]);
    }
}

/* ---------------------------------------------------------------- conditions and numbers */

static int set_if(near_cache *c, const char *key, const char *value, uint32_t flags, int64_t ttl_ms)
{
    near_write write;
    near_write_init(&write);
    write.flags = flags;
    write.ttl_ms = ttl_ms;
    return near_set(c, key, strlen(key), value, strlen(value), &write, NULL);
}

static void test_conditions_of_set(void **state)
{
    near_cache *c = cache_of(state);
    assert_int_equal(set_if(c, "k", "a", NEAR_SET_IF_PRESENT, 0), NEAR_UNMET);
    expect(c, "k", NULL);
    assert_int_equal(set_if(c, "k", "a", NEAR_SET_IF_ABSENT, 0), NEAR_OK);
    assert_int_equal(set_if(c, "k", "b", NEAR_SET_IF_ABSENT, 0), NEAR_UNMET);
    expect(c, "k", "a");
    assert_int_equal(set_if(c, "k", "b", NEAR_SET_IF_PRESENT, 0), NEAR_OK);
    expect(c, "k", "b");
    assert_int_equal(set_if(c, "k", "c", NEAR_SET_IF_PRESENT | NEAR_SET_IF_ABSENT, 0), NEAR_ERR_INVALID);
    assert_int_equal(set_if(c, "k", "c", 1u << 20, 0), NEAR_ERR_INVALID);
    assert_int_equal(set_if(c, "k", "c", 0, -1), NEAR_ERR_INVALID);
    assert_int_equal(set_if(c, "k", "c", 0, INT64_MAX), NEAR_ERR_INVALID);
    expect(c, "k", "b");
}

static int64_t ttl_of(near_cache *c, const char *key)
{
    near_value got;
    assert_int_equal(near_get(c, key, strlen(key), NULL, &got), NEAR_OK);
    int64_t ttl = got.ttl_ms;
    near_release(&got);
    return ttl;
}

static void test_time_to_live(void **state)
{
    near_cache *c = cache_of(state);
    set_if(c, "k", "v", 0, 100000);
    assert_true(ttl_of(c, "k") > 50000 && ttl_of(c, "k") <= 100000);
    set_if(c, "k", "w", NEAR_SET_KEEP_TTL, 0);
    assert_true(ttl_of(c, "k") > 50000 && ttl_of(c, "k") <= 100000);
    assert_int_equal(near_expire(c, "k", 1, 200000, NULL), NEAR_OK);
    assert_true(ttl_of(c, "k") > 150000);
    assert_int_equal(near_expire(c, "k", 1, 0, NULL), NEAR_OK);
    assert_int_equal(ttl_of(c, "k"), -1);
    assert_int_equal(near_expire(c, "none", 4, 1000, NULL), NEAR_MISS);
    assert_int_equal(near_expire(c, "k", 1, -1, NULL), NEAR_ERR_INVALID);
    set(c, "k", "x");
    assert_int_equal(ttl_of(c, "k"), -1);
}

static void test_incr(void **state)
{
    near_cache *c = cache_of(state);
    int64_t number = 0;
    assert_int_equal(near_incr(c, "n", 1, 5, NULL, &number), NEAR_OK);
    assert_int_equal(number, 5);
    assert_int_equal(near_incr(c, "n", 1, -7, NULL, &number), NEAR_OK);
    assert_int_equal(number, -2);
    expect(c, "n", "-2");
    set(c, "n", "9223372036854775807");
    assert_int_equal(near_incr(c, "n", 1, 1, NULL, &number), NEAR_ERR_OVERFLOW);
    expect(c, "n", "9223372036854775807");
    for (const char *const *bad = (const char *const[]){"x", "1x", " 1", "01", "+1", "1.0", "", NULL}; *bad; bad++) {
        set(c, "n", *bad);
        assert_int_equal(near_incr(c, "n", 1, 1, NULL, &number), NEAR_ERR_OVERFLOW);
        expect(c, "n", *bad);
    }
    assert_int_equal(near_set(c, "n", 1, "5", 2, NULL, NULL), NEAR_OK); /* with a zero byte behind the digit */
    assert_int_equal(near_incr(c, "n", 1, 1, NULL, &number), NEAR_ERR_OVERFLOW);
    assert_int_equal(number, -2);
    assert_int_equal(near_incr(c, "m", 1, 1, NULL, NULL), NEAR_OK);
}

static void test_compare_and_set(void **state)
{
    near_cache *c = cache_of(state);
    assert_int_equal(near_cas(c, "k", 1, "", 0, "v", 1, NULL, NULL), NEAR_MISS);
    set(c, "k", "old");
    assert_int_equal(near_cas(c, "k", 1, "older", 5, "new", 3, NULL, NULL), NEAR_UNMET);
    assert_int_equal(near_cas(c, "k", 1, "ol", 2, "new", 3, NULL, NULL), NEAR_UNMET);
    expect(c, "k", "old");
    assert_int_equal(near_cas(c, "k", 1, "old", 3, "new", 3, NULL, NULL), NEAR_OK);
    expect(c, "k", "new");
    near_write write;
    near_write_init(&write);
    write.flags = NEAR_SET_IF_ABSENT;
    assert_int_equal(near_cas(c, "k", 1, "new", 3, "x", 1, &write, NULL), NEAR_ERR_INVALID);
}

/* ---------------------------------------------------------------- many */

static void test_mset_mget_mdel_with_a_status_per_key(void **state)
{
    near_cache *c = cache_of(state);
    char names[150][8];
    near_item items[150];
    memset(items, 0, sizeof(items));
    for (int i = 0; i < 150; i++) {
        items[i].key_size = (size_t)snprintf(names[i], sizeof(names[i]), "key%d", i);
        items[i].key = items[i].data = names[i];
        items[i].size = items[i].key_size;
    }
    assert_int_equal(near_mset(c, items, 150, NULL, NULL), NEAR_OK);
    for (int i = 0; i < 150; i += 3) {
        if (i % 2)
            near_drop(c, names[i], strlen(names[i]));
        else
            near_del(c, names[i], strlen(names[i]), NULL);
    }
    int local = ((struct stack *)*state)->kind == LOCAL;
    assert_int_equal(near_mget(c, items, 150, NULL), NEAR_OK);
    for (int i = 0; i < 150; i++) {
        int gone = i % 3 == 0 && (i % 2 == 0 || local);
        assert_int_equal(items[i].status, gone ? NEAR_MISS : NEAR_OK);
        if (!gone) {
            assert_int_equal(items[i].value.size, strlen(names[i]));
            assert_memory_equal(items[i].value.data, names[i], strlen(names[i]));
        }
        near_release(&items[i].value);
    }
    assert_int_equal(near_mdel(c, items, 150, NULL), NEAR_OK);
    for (int i = 0; i < 150; i++)
        expect(c, names[i], NULL);
    assert_int_equal(near_mget(c, items, 0, NULL), NEAR_OK);
    assert_int_equal(near_mset(c, NULL, 0, NULL, NULL), NEAR_OK);
    assert_int_equal(near_mget(c, NULL, 3, NULL), NEAR_ERR_INVALID);
}

static void expect_statuses(const near_item *items, size_t count, int status)
{
    for (size_t i = 0; i < count; i++)
        assert_int_equal(items[i].status, status);
}

enum { UNTOUCHED = 77 };

/* The call as a whole fails: every item says so, and may be released. */
static void expect_all_fail(near_cache *c, near_item *items, size_t count, const near_call *call, int status)
{
    for (int which = 0; which < 3; which++) {
        for (size_t i = 0; i < count; i++) {
            items[i].status = UNTOUCHED;
            memset(&items[i].value, 0x55, sizeof(items[i].value));
        }
        int got = which == 0   ? near_mget(c, items, count, call)
                  : which == 1 ? near_mset(c, items, count, NULL, call)
                               : near_mdel(c, items, count, call);
        assert_int_equal(got, status);
        expect_statuses(items, count, status);
        for (size_t i = 0; which == 0 && i < count; i++)
            near_release(&items[i].value);
    }
}

static void test_batch_that_fails_as_a_whole_says_so_for_every_item(void **state)
{
    struct stack *stack = *state;
    near_cache *c = cache_of(state);
    near_call bad = {.size = 3};
    near_item items[3] = {{.key = "a", .key_size = 1}, {.key = NULL, .key_size = 1}, {.key = "c", .key_size = 1}};
    expect_all_fail(c, items, 3, NULL, NEAR_ERR_INVALID);
    items[1].key = "b";
    expect_all_fail(c, items, 3, &bad, NEAR_ERR_INVALID);
    assert_int_equal(near_close(c), NEAR_OK);
    stack->cache = NULL;
    expect_all_fail(c, items, 3, NULL, NEAR_ERR_CLOSED);
}

/* Whichever allocation of a batch fails, no item is left without a status. */
static int batch_with_failure(near_cache *c, struct allocfail *hooks, int which, uint64_t n)
{
    near_item items[3] = {{.key = "a", .key_size = 1, .data = "1", .size = 1, .status = UNTOUCHED},
                          {.key = "b", .key_size = 1, .data = "2", .size = 1, .status = UNTOUCHED},
                          {.key = "c", .key_size = 1, .data = "3", .size = 1, .status = UNTOUCHED}};
    near_call call;
    near_call_init(&call);
    call.flags = NEAR_BYPASS_LOCAL;
    allocfail_at(hooks, n);
    int status = which == 0   ? near_mget(c, items, 3, &call)
                 : which == 1 ? near_mset(c, items, 3, NULL, &call)
                              : near_mdel(c, items, 3, &call);
    int struck = allocfail_struck(hooks) > 0;
    allocfail_at(hooks, 0);
    int failed = 0;
    for (int i = 0; i < 3; i++) {
        assert_int_not_equal(items[i].status, UNTOUCHED);
        failed += items[i].status < 0;
        near_release(&items[i].value);
    }
    assert_int_equal(failed > 0, status < 0);
    return struck;
}

static void test_R52_batch_without_memory_says_so_for_every_item(void **state)
{
    (void)state;
    static struct allocfail hooks;
    allocfail_init(&hooks);
    near_options options;
    near_options_init(&options);
    options.allocator = hooks.hooks;
    near_cache *c = open_with("memory://batch-nomem", &options);
    for (int which = 0; which < 3; which++) {
        int struck = 0;
        /* more than a batch needs: the library's threads allocate now and then, too */
        for (uint64_t n = 1; n < 40; n++)
            struck += batch_with_failure(c, &hooks, which, n);
        assert_true(struck > 1);
    }
    assert_int_equal(near_close(c), NEAR_OK);
    assert_int_equal(allocfail_blocks(&hooks), 0);
}

static void test_one_bad_key_does_not_spoil_a_batch(void **state)
{
    near_cache *c = cache_of(state);
    static char huge[NEAR_KEY_MAX + 1];
    near_item items[3] = {{.key = "a", .key_size = 1, .data = "1", .size = 1},
                          {.key = huge, .key_size = sizeof(huge), .data = "2", .size = 1},
                          {.key = "b", .key_size = 1, .data = "3", .size = 1}};
    assert_int_equal(near_mset(c, items, 3, NULL, NULL), NEAR_ERR_TOO_LARGE);
    assert_int_equal(items[0].status, NEAR_OK);
    assert_int_equal(items[1].status, NEAR_ERR_TOO_LARGE);
    assert_int_equal(items[2].status, NEAR_OK);
    assert_int_equal(near_mget(c, items, 3, NULL), NEAR_ERR_TOO_LARGE);
    assert_int_equal(items[1].status, NEAR_ERR_TOO_LARGE);
    assert_memory_equal(items[2].value.data, "3", 1);
    for (int i = 0; i < 3; i++)
        near_release(&items[i].value);
}

/* ---------------------------------------------------------------- limits, calls, the whole cache */

static void test_limits_are_checked_before_anything_is_sent(void **state)
{
    near_cache *c = cache_of(state);
    static char key[NEAR_KEY_MAX + 1];
    near_stats before = {.size = sizeof(before)}, after = {.size = sizeof(after)};
    near_value got;
    near_stats_get(c, &before);
    assert_int_equal(near_set(c, key, sizeof(key), "v", 1, NULL, NULL), NEAR_ERR_TOO_LARGE);
    assert_int_equal(near_get(c, key, sizeof(key), NULL, &got), NEAR_ERR_TOO_LARGE);
    assert_int_equal(near_set(c, "k", 1, key, (size_t)NEAR_VALUE_MAX + 1, NULL, NULL), NEAR_ERR_TOO_LARGE);
    assert_int_equal(near_set(c, NULL, 1, "v", 1, NULL, NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_set(c, "k", 1, NULL, 1, NULL, NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_get(c, NULL, 1, NULL, &got), NEAR_ERR_INVALID);
    assert_int_equal(near_get(c, "k", 1, NULL, NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_get(NULL, "k", 1, NULL, &got), NEAR_ERR_INVALID);
    near_stats_get(c, &after);
    assert_int_equal(after.writes, before.writes);
    assert_int_equal(near_set(c, key, NEAR_KEY_MAX, "v", 1, NULL, NULL), NEAR_OK);
    assert_int_equal(near_get(c, key, NEAR_KEY_MAX, NULL, &got), NEAR_OK);
    near_release(&got);
}

/* Whatever was wrong: who releases what he has not got does no harm. */
static void test_a_value_that_was_not_got_may_be_released(void **state)
{
    near_cache *caches[] = {NULL, cache_of(state)};
    for (size_t i = 0; i < 2; i++) {
        static const near_value nothing;
        near_value got[3];
        memset(got, 0xff, sizeof(got));
        assert_true(near_get(caches[i], NULL, 1, NULL, &got[0]) < 0);
        assert_true(near_peek(caches[i], NULL, 1, &got[1]) < 0);
        assert_true(near_get_or_load(caches[i], NULL, 1, NULL, NULL, NULL, &got[2]) < 0);
        for (size_t k = 0; k < 3; k++) {
            assert_memory_equal(&got[k], &nothing, sizeof(nothing));
            near_release(&got[k]);
        }
    }
}

static void test_call_structure_is_checked(void **state)
{
    near_cache *c = cache_of(state);
    struct {
        near_call call;
        unsigned char more[8];
    } large = {.call = {.size = sizeof(large)}};
    near_value got;
    set(c, "k", "v");
    assert_int_equal(near_get(c, "k", 1, &large.call, &got), NEAR_OK);
    near_release(&got);
    large.more[3] = 1;
    assert_int_equal(near_get(c, "k", 1, &large.call, &got), NEAR_ERR_INVALID);
    near_release(&got);
    near_call call;
    near_call_init(&call);
    call.flags = 1u << 30;
    assert_int_equal(near_get(c, "k", 1, &call, &got), NEAR_ERR_INVALID);
    near_call_init(&call);
    call.reserved = 1;
    assert_int_equal(near_get(c, "k", 1, &call, &got), NEAR_ERR_INVALID);
    call = (near_call){.size = 3};
    assert_int_equal(near_get(c, "k", 1, &call, &got), NEAR_ERR_INVALID);
    call = (near_call){.size = sizeof(size_t) + sizeof(uint32_t), .flags = 0, .timeout_ms = 77, .reserved = 77};
    assert_int_equal(near_get(c, "k", 1, &call, &got), NEAR_OK);
    near_release(&got);
}

static void test_bypass_and_no_fill(void **state)
{
    near_cache *c = cache_of(state);
    near_call call;
    near_value got;
    near_call_init(&call);
    call.flags = NEAR_NO_FILL;
    assert_int_equal(near_set(c, "k", 1, "v", 1, NULL, &call), NEAR_OK);
    assert_int_equal(near_peek(c, "k", 1, &got), NEAR_MISS);
    assert_int_equal(near_get(c, "k", 1, &call, &got), NEAR_OK);
    near_release(&got);
    assert_int_equal(near_peek(c, "k", 1, &got), NEAR_MISS);
    call.flags = NEAR_BYPASS_LOCAL;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(near_get(c, "k", 1, &call, &got), NEAR_OK);
        assert_int_equal(got.source, NEAR_FROM_REMOTE);
        near_release(&got);
    }
    assert_int_equal(near_peek(c, "k", 1, &got), NEAR_OK);
    near_release(&got);
}

static void test_value_too_large_for_the_local_tier_is_served_and_not_kept(void **state)
{
    struct stack *stack = *state;
    cache_of(state);
    near_options options;
    near_options_init(&options);
    options.local_value_max = 100;
    near_cache *c = open_with(stack->kind == REDIS ? redis_server_uri_unix(server) : "memory://api", &options);
    char big[101];
    near_value got;
    memset(big, 'x', sizeof(big));
    assert_int_equal(near_set(c, "big", 3, big, sizeof(big), NULL, NULL), NEAR_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(near_get(c, "big", 3, NULL, &got), NEAR_OK);
        assert_int_equal(got.size, sizeof(big));
        assert_int_equal(got.source, NEAR_FROM_REMOTE);
        near_release(&got);
    }
    assert_int_equal(near_close(c), NEAR_OK);
}

/* What "local:" cannot keep is not written, and the older value is gone. */
static void test_a_write_that_the_local_tier_has_no_room_for_says_so(void **state)
{
    (void)state;
    static char big[256 * 1024]; /* above an eighth of the budget, the largest that is kept */
    near_options options;
    near_value got;
    near_options_init(&options);
    options.local_bytes = 1u << 20;
    near_cache *c = open_with("local:?prefix=p", &options);
    assert_int_equal(near_set(c, "k", 1, "v", 1, NULL, NULL), NEAR_OK);
    assert_int_equal(near_set(c, "k", 1, big, sizeof(big), NULL, NULL), NEAR_ERR_FULL);
    assert_int_equal(near_get(c, "k", 1, NULL, &got), NEAR_MISS);
    assert_int_equal(near_clear(c, NEAR_CLEAR_KEYS, NULL, NULL), NEAR_ERR_INVALID); /* there is no remote tier */
    assert_int_equal(near_close(c), NEAR_OK);
}

static void test_open_tells_of_certificates_that_cannot_be_read(void **state)
{
    (void)state;
    near_cache *cache;
    near_error error;
    int status = near_open("rediss://localhost?tls_ca_file=/nowhere/at/all", NULL, &cache, &error);
    assert_int_equal(status, near_has_feature("tls") ? NEAR_ERR_TLS : NEAR_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.text, near_has_feature("tls") ? "/nowhere/at/all" : "TLS"));
}

/* An option that would do nothing, and more than that: who sets it believes that the connection is encrypted. */
static void test_open_refuses_certificates_for_what_is_not_encrypted(void **state)
{
    static const char *const uris[] = {
        "redis://localhost?tls_ca_file=/a",
        "unix:///nowhere?tls_ca_dir=/a",
        "memory://x?tls_server_name=a",
        "local:?tls_verify=no",
    };
    (void)state;
    for (size_t i = 0; i < sizeof(uris) / sizeof(uris[0]); i++) {
        near_cache *cache;
        near_error error;
        assert_int_equal(near_open(uris[i], NULL, &cache, &error), NEAR_ERR_OPTION);
        assert_non_null(strstr(error.text, "only rediss:// and rediss-sentinel:// are encrypted"));
        assert_non_null(strstr(error.text, "tls_"));
    }
}

#ifdef NEAR_X86_ASSEMBLER
static void expect_bytes(near_cache *c, const char *key, size_t key_size, const unsigned char *value, size_t size)
{
    unsigned char buffer[1300];
    near_item item = {.key = key, .key_size = key_size};
    near_value got;
    size_t told;
    memset(buffer, 0x55, sizeof(buffer));
    assert_int_equal(near_get_copy(c, key, key_size, NULL, buffer + 1, size, &told), NEAR_OK);
    assert_int_equal(told, size);
    assert_memory_equal(buffer + 1, value, size);
    assert_true(buffer[0] == 0x55 && buffer[1 + size] == 0x55);
    assert_int_equal(near_get(c, key, key_size, NULL, &got), NEAR_OK);
    assert_int_equal(got.size, size);
    assert_memory_equal(got.data, value, size);
    near_release(&got);
    assert_int_equal(near_mget(c, &item, 1, NULL), NEAR_OK);
    assert_memory_equal(item.value.data, value, size);
    near_release(&item.value);
}

/* Keys of all short sizes and one more at each end, so many that buckets are full; values of all sizes that are copied
 * without a call. */
static void read_all_sizes(near_cache *c, const unsigned char *value)
{
    char key[18];
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < 1200; i++) {
            size_t key_size = 7 + i % 11;
            snprintf(key, sizeof(key), "%04zu------------", i);
            if (pass == 0)
                assert_int_equal(near_set(c, key, key_size, value + i % 7, i, NULL, NULL), NEAR_OK);
            else
                expect_bytes(c, key, key_size, value + i % 7, i);
            key[0] = 'x'; /* nobody's */
            near_value got;
            assert_int_equal(near_get(c, key, key_size, NULL, &got), NEAR_MISS);
        }
}

/* What this processor can do beyond any x86-64, and the same without it. */
static void test_hits_are_the_same_on_every_processor(void **state)
{
    static const int widths[] = {NEAR_WIDTH_ANY, NEAR_WIDTH_HALF, NEAR_WIDTH_LINE};
    unsigned char value[1300];
    near_cache *c;
    (void)state;
    for (size_t i = 0; i < sizeof(value); i++)
        value[i] = (unsigned char)(i * 131 >> 3);
    assert_int_equal(near_open("local:?local_bytes=64m", NULL, &c, NULL), NEAR_OK);
    assert_int_equal(near_set(c, "first", 5, "v", 1, NULL, NULL), NEAR_OK); /* a reader: it is known now, */
    expect(c, "first", "v");                                                /* and remembered as the last */
    assert_ptr_equal(near__reader_last.name, c);
    const int has = near__has_width;
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]) && widths[i] <= has; i++) {
        near__has_width = widths[i];
        near__reader_remember(c, near__reader_last.reader, 1);
        read_all_sizes(c, value);
    }
    near__has_width = has;
    near__reader_remember(c, near__reader_last.reader, 1);
    assert_int_equal(near_close(c), NEAR_OK);
}
#endif

static void test_clear_empties_every_local_tier(void **state)
{
    near_cache *c = cache_of(state);
    near_value got;
    set(c, "k", "v");
    assert_int_equal(near_clear(c, 0, NULL, NULL), NEAR_OK);
    assert_int_equal(near_peek(c, "k", 1, &got), NEAR_MISS);
    expect(c, "k", ((struct stack *)*state)->kind == LOCAL ? NULL : "v");
    assert_int_equal(near_clear(c, NEAR_CLEAR_KEYS, NULL, NULL), NEAR_ERR_INVALID); /* no prefix */
    assert_int_equal(near_clear(c, 1u << 9, NULL, NULL), NEAR_ERR_INVALID);
}

static void test_clear_keys_removes_only_the_prefix(void **state)
{
    struct stack *stack = *state;
    cache_of(state);
    near_options options;
    near_options_init(&options);
    options.prefix = "p*[x]:";
    near_cache *c = open_with(stack->kind == REDIS ? redis_server_uri_unix(server) : "memory://api", &options);
    uint64_t removed = 0;
    char key[16];
    set(stack->cache, "p*x:kept", "v");
    set(stack->cache, "other", "v");
    for (int i = 0; i < 2500; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(set(c, key, "v"), NEAR_OK);
    }
    assert_int_equal(near_clear(c, NEAR_CLEAR_KEYS, NULL, &removed), NEAR_OK);
    assert_int_equal(removed, 2500);
    expect(c, "k7", NULL);
    expect(stack->cache, "p*x:kept", "v");
    expect(stack->cache, "other", "v");
    assert_int_equal(near_close(c), NEAR_OK);
}

static void test_limits_change_at_run_time(void **state)
{
    near_cache *c = cache_of(state);
    near_stats stats = {.size = sizeof(stats)};
    assert_int_equal(near_set_local_bytes(c, 8 << 20), NEAR_OK);
    assert_int_equal(near_set_local_entries(c, 1000), NEAR_OK);
    assert_int_equal(near_stats_get(c, &stats), NEAR_OK);
    assert_int_equal(stats.local_bytes_limit, 8 << 20);
    assert_int_equal(stats.local_entries_limit, 1000);
    assert_int_equal(near_set_local_bytes(c, 1), NEAR_ERR_OPTION);
    assert_int_equal(near_set_bound(c, 0), NEAR_ERR_OPTION);
    assert_int_equal(near_set_bound(c, 250), NEAR_OK);
    near_cache *stale = open_with("memory://bounded?unproven=serve_stale&stale_ms=2s", NULL);
    assert_int_equal(near_set_bound(stale, 2000), NEAR_OK);
    assert_int_equal(near_set_bound(stale, 2001), NEAR_ERR_OPTION); /* as near_open would have it */
    assert_int_equal(near_close(stale), NEAR_OK);
}

static void test_check_and_wait_ready(void **state)
{
    near_cache *c = cache_of(state);
    near_error error = {0};
    int status = near_check(c, 5000, &error);
    if (status != NEAR_OK)
        print_error("%s\n", error.text);
    assert_int_equal(status, NEAR_OK);
    assert_int_equal(near_wait_ready(c, 5000, &error), NEAR_OK);
}

/* A wrong password may become right, so it is waited for; near_check has it at once. */
static void test_a_wrong_password_is_told(void **state)
{
    (void)state;
    near_cache *c;
    near_error error = {0};
    near_options options;
    if (!server)
        skip();
    near_options_init(&options);
    options.username = "nobody";
    options.password = "wrong";
    assert_int_equal(near_open(redis_server_uri_unix(server), &options, &c, NULL), NEAR_OK);
    assert_int_equal(near_check(c, PATIENCE_MS, &error), NEAR_ERR_AUTH);
    assert_non_null(strstr(error.text, "WRONGPASS"));
    assert_true(
        wait_until(near_wait_ready(c, 0, &error) == NEAR_ERR_TIMEOUT && strstr(error.text, "WRONGPASS"), PATIENCE_MS));
    assert_int_equal(near_close(c), NEAR_OK);
}

/* Of a loop's 64 steps each is timed sometimes: every 1024th would always be the same one. */
static void test_what_is_timed_keeps_step_with_no_loop(void **state)
{
    enum { STEPS = 64, ROUNDS = 16384 };
    near_cache *c = cache_of(state);
    uint64_t hits = 0, writes = 0;
    char buffer[1];
    size_t size;
    near_stats s = {.size = sizeof(s)};
    set(c, "k", "v");
    expect(c, "k", "v"); /* now the thread's reader is known */
    struct near__reader *reader = near__reader_last.reader;
    uint32_t timed = reader->hit_times;
    for (int round = 0; round < ROUNDS; round++)
        for (int step = 0; step < STEPS; step++) {
            uint32_t hit_times = reader->hit_times, quick_writes = reader->quick_writes;
            assert_int_equal(near_get_copy(c, "k", 1, NULL, buffer, sizeof(buffer), &size), NEAR_OK);
            set(c, "k", "v");
            hits |= (uint64_t)(reader->hit_times != hit_times) << step;
            writes |= (uint64_t)(reader->quick_writes > quick_writes) << step;
        }
    assert_int_equal(hits, UINT64_MAX);
    assert_int_equal(writes, UINT64_MAX);
    assert_in_range(reader->hit_times - timed, STEPS * ROUNDS / NEAR_TIMED_OF, STEPS * ROUNDS / 900);
    assert_int_equal(near_stats_get(c, &s), NEAR_OK);
    assert_int_equal(s.local_hits, STEPS * ROUNDS + 1);
}

static void test_statistics_add_up(void **state)
{
    near_cache *c = cache_of(state);
    near_stats s = {.size = sizeof(s)};
    near_value got;
    char text[32768];
    set(c, "k", "v");
    for (int i = 0; i < 4100; i++)
        expect(c, "k", "v");
    near_get(c, "none", 4, NULL, &got);
    assert_int_equal(near_stats_get(c, &s), NEAR_OK);
    assert_int_equal(s.local_hits, 4100);
    assert_int_equal(s.gets, 4101);
    assert_int_equal(s.local_misses, 1);
    assert_int_equal(s.miss_absent, 1);
    assert_int_equal(s.writes, 1);
    assert_int_equal(s.local_entries, 1);
    assert_true(s.hit_ns.count >= 4 && s.hit_ns.p50 > 0 && s.hit_ns.max >= s.hit_ns.p99);
    assert_int_equal(s.proven, 1);
    for (int format = NEAR_FORMAT_INFO; format <= NEAR_FORMAT_OPENMETRICS; format++) {
        size_t length = near_stats_render(&s, (near_format)format, "a\"b\\c\n", text, sizeof(text));
        assert_int_equal(length, strlen(text));
        assert_non_null(strstr(text, "local_hits"));
        assert_non_null(strstr(text, "lru"));
        char small[10];
        assert_int_equal(near_stats_render(&s, (near_format)format, "a\"b\\c\n", small, sizeof(small)), length);
        assert_int_equal(small[9], 0);
        assert_int_equal(near_stats_render(&s, (near_format)format, "a\"b\\c\n", NULL, 0), length);
    }
    assert_int_equal(near_stats_render(&s, (near_format)(NEAR_FORMAT_OPENMETRICS + 1), "c", text, sizeof(text)), 0);
    assert_string_equal(text, "");
    assert_int_equal(near_stats_render(NULL, NEAR_FORMAT_INFO, "c", text, sizeof(text)), 0);
    s.size = 0;
    assert_int_equal(near_stats_render(&s, NEAR_FORMAT_INFO, "c", text, sizeof(text)), 0);
    assert_int_equal(near_stats_get(c, &s), NEAR_ERR_INVALID);
    struct {
        size_t size;
        uint64_t local_bytes, canary;
    } small = {.size = 2 * sizeof(uint64_t), .canary = 42};
    assert_int_equal(near_stats_get(c, (near_stats *)(void *)&small), NEAR_OK);
    assert_true(small.local_bytes > 0 && small.canary == 42);
}

/* What comes out is UTF-8 whatever the name is: nobody else would read it. */
static void test_a_name_that_is_not_utf_8_does_no_harm(void **state)
{
    static const struct {
        const char *name, *json, *metrics;
    } rows[] = {
        {"gr\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80", "gr\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80",
         "gr\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"\xff|\xc3(|\x80|\xe2\x82", "?|?(|?|??", "?|?(|?|??"},
        {"\xc0\xaf|\xe0\x80\xaf|\xed\xa0\x80|\xf4\x90\x80\x80|\xf0\x80\x80\xaf", "??|???|???|????|????",
         "??|???|???|????|????"},
        {"\xe2\"\\\n", "?\\\"\\\\\\n", "?\\\"\\\\\\n"},
        {"\t\x7f", "\\u0009\x7f", "\t\x7f"},
    };
    near_stats s = {.size = sizeof(s)};
    char text[65536], wanted[128];
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        near_stats_render(&s, NEAR_FORMAT_JSON, rows[i].name, text, sizeof(text));
        snprintf(wanted, sizeof(wanted), "{\"name\":\"%s\",", rows[i].json);
        assert_memory_equal(text, wanted, strlen(wanted));
        near_stats_render(&s, NEAR_FORMAT_OPENMETRICS, rows[i].name, text, sizeof(text));
        snprintf(wanted, sizeof(wanted), "nearcache_local_bytes{cache=\"%s\"} 0\n", rows[i].metrics);
        assert_non_null(strstr(text, wanted));
    }
}

static void test_advice_needs_the_curve_and_a_size(void **state)
{
    near_cache *c = cache_of(state), *learning;
    near_options options;
    double ratio = -1;
    assert_int_equal(near_advise(c, 1 << 20, 0, &ratio), NEAR_ERR_UNSUPPORTED);
    assert_int_equal(near_advise(c, 0, 0, &ratio), NEAR_ERR_INVALID);
    assert_int_equal(near_advise(c, 1 << 20, 0, NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_advise(NULL, 1 << 20, 0, &ratio), NEAR_ERR_INVALID);
    near_options_init(&options);
    options.curve = 1;
    assert_int_equal(near_open("local:", &options, &learning, NULL), NEAR_OK);
    assert_int_equal(near_advise(learning, 16 << 20, 0, &ratio), NEAR_MISS);
    assert_true(ratio < 0);
    assert_int_equal(near_set(learning, "k", 1, "v", 1, NULL, NULL), NEAR_OK);
    for (int i = 0; i < 10; i++)
        expect(learning, "k", "v");
    assert_int_equal(near_advise(learning, 16 << 20, 0, &ratio), NEAR_OK);
    assert_true(ratio > 0.85);
    assert_int_equal(near_advise(learning, 1, 10, &ratio), NEAR_OK); /* not even the fixed part fits */
    assert_true(ratio < 0.15);
    assert_int_equal(near_close(learning), NEAR_OK);
    assert_int_equal(near_advise(learning, 16 << 20, 0, &ratio), NEAR_ERR_CLOSED);
}

/* On the way that hits take, too: two keys in turn, one of which would never be the 64th. */
static void test_automatic_size_is_asked_for_and_told(void **state)
{
    near_cache *c = cache_of(state), *sized;
    near_options options;
    near_stats s = {.size = sizeof(s)};
    char text[32768];
    assert_int_equal(near_set_auto_size(c, 900, 1 << 20, 0), NEAR_ERR_UNSUPPORTED);
    assert_int_equal(near_set_auto_size(NULL, 900, 1 << 20, 0), NEAR_ERR_INVALID);
    assert_int_equal(near_set_auto_size(c, 1001, 1 << 20, 0), NEAR_ERR_OPTION);
    assert_int_equal(near_set_auto_size(c, 900, 1, 0), NEAR_ERR_OPTION);
    assert_int_equal(near_set_auto_size(c, 900, 2 << 20, 1 << 20), NEAR_ERR_OPTION);
    near_options_init(&options);
    options.auto_hit_permille = 900;
    options.auto_bytes_min = options.local_bytes + 1;
    assert_int_equal(near_open("local:", &options, &sized, NULL), NEAR_ERR_OPTION);
    options.auto_bytes_min = 2 << 20;
    options.auto_bytes_max = 1 << 20;
    assert_int_equal(near_open("local:", &options, &sized, NULL), NEAR_ERR_OPTION);
    options.auto_bytes_max = 0;
    assert_int_equal(near_open("local:", &options, &sized, NULL), NEAR_OK);
    double ratio;
    assert_int_equal(near_advise(sized, 16 << 20, 0, &ratio), NEAR_MISS); /* the curve comes with it */
    for (int i = 0; i < 10000; i++) { /* its thread makes its first round when it gets the processor */
        assert_int_equal(near_stats_get(sized, &s), NEAR_OK);
        if (s.auto_reason == NEAR_AUTO_LEARNING)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    assert_int_equal(s.auto_reason, NEAR_AUTO_LEARNING);
    assert_true(near_stats_render(&s, NEAR_FORMAT_OPENMETRICS, "c", text, sizeof(text)) > 0);
    assert_non_null(strstr(text, "nearcache_auto_reason{cache=\"c\",reason=\"learning\"} 1\n"));
    assert_non_null(strstr(text, "nearcache_auto_cap_bytes{cache=\"c\"} 0\n"));
    /* as near_open has it, with the size that was said last */
    assert_int_equal(near_set_auto_size(sized, 900, options.local_bytes + 1, 0), NEAR_ERR_OPTION);
    assert_int_equal(near_set_auto_size(sized, 900, options.local_bytes, 0), NEAR_OK);
    assert_int_equal(near_set_local_bytes(sized, options.local_bytes + 1), NEAR_OK);
    assert_int_equal(near_set_auto_size(sized, 900, options.local_bytes + 1, 0), NEAR_OK);
    assert_int_equal(near_set_auto_size(sized, 0, options.local_bytes + 2, 0), NEAR_OK); /* it ends */
    assert_int_equal(near_set_auto_size(sized, 0, 1 << 20, 0), NEAR_OK);
    assert_int_equal(near_set_auto_size(sized, 0, 0, 0), NEAR_OK); /* it ends, whatever the limits are */
    assert_int_equal(near_set_auto_size(sized, 0, 2 << 20, 1 << 20), NEAR_OK);
    assert_int_equal(near_close(sized), NEAR_OK);
    assert_int_equal(near_set_auto_size(sized, 0, 1 << 20, 0), NEAR_ERR_CLOSED);
}

/* Reads that find nothing are requests like the others, on the way that hits take, too. */
static void test_misses_are_learnt_from(void **state)
{
    near_cache *learning;
    near_options options;
    near_hot_key top[4];
    double ratio = -1;
    size_t count = 0;
    (void)state;
    near_options_init(&options);
    options.curve = 1;
    options.hot_keys = 4;
    assert_int_equal(near_open("local:", &options, &learning, NULL), NEAR_OK);
    assert_int_equal(near_set(learning, "a-key-that-is", 13, "v", 1, NULL, NULL), NEAR_OK);
    expect(learning, "a-key-that-is", "v");
    for (int i = 0; i < 2000; i++) {
        char key[24];
        near_value value;
        int size = snprintf(key, sizeof(key), "absent-%d", i);
        assert_int_equal(near_get(learning, key, (size_t)size, NULL, &value), NEAR_MISS);
        assert_int_equal(near_get(learning, "never-there", 11, NULL, &value), NEAR_MISS);
        if (i % 100 == 0)
            assert_int_equal(near_hot_keys(learning, 4, top, &count), NEAR_OK);
    }
    assert_int_equal(near_hot_keys(learning, 4, top, &count), NEAR_OK);
    assert_true(count > 0 && top[0].key_size == 11 && memcmp(top[0].key, "never-there", 11) == 0);
    assert_int_equal(near_advise(learning, 16 << 20, 0, &ratio), NEAR_OK);
    assert_true(ratio < 0.6); /* at any size those keys are missed the first time */
    assert_int_equal(near_close(learning), NEAR_OK);
}

static void test_hot_keys_are_told(void **state)
{
    near_cache *c = cache_of(state), *learning;
    near_options options;
    near_hot_key top[4];
    near_stats stats = {.size = sizeof stats};
    size_t count = 9;
    assert_int_equal(near_hot_keys(c, 4, top, &count), NEAR_ERR_UNSUPPORTED);
    assert_int_equal(near_hot_keys(NULL, 4, top, &count), NEAR_ERR_INVALID);
    assert_int_equal(near_hot_keys(c, 0, top, &count), NEAR_ERR_INVALID);
    assert_int_equal(near_hot_keys(c, 4, NULL, &count), NEAR_ERR_INVALID);
    assert_int_equal(near_hot_keys(c, 4, top, NULL), NEAR_ERR_INVALID);
    near_options_init(&options);
    options.hot_keys = 257;
    assert_int_equal(near_open("local:", &options, &learning, NULL), NEAR_ERR_OPTION);
    options.hot_keys = 4;
    assert_int_equal(near_open("local:", &options, &learning, NULL), NEAR_OK);
    assert_int_equal(near_hot_keys(learning, 4, top, &count), NEAR_OK);
    assert_int_equal(count, 0);
    assert_int_equal(near_set(learning, "even", 4, "v", 1, NULL, NULL), NEAR_OK);
    assert_int_equal(near_set(learning, "odd", 3, "v", 1, NULL, NULL), NEAR_OK);
    for (int i = 1; i <= 40000; i++) {
        expect(learning, "even", "v");
        expect(learning, "odd", "v");
        if (i % 1000 == 0)
            assert_int_equal(near_hot_keys(learning, 4, top, &count), NEAR_OK);
    }
    assert_int_equal(count, 2);
    assert_true(top[0].share_min < 0.65 && top[1].share_min > 0.35);
    assert_true(top[0].key_size + top[1].key_size == 7);
    assert_int_equal(near_stats_get(learning, &stats), NEAR_OK);
    assert_int_equal(stats.local_hits, 80000);
    assert_int_equal(near_close(learning), NEAR_OK);
    assert_int_equal(near_hot_keys(learning, 4, top, &count), NEAR_ERR_CLOSED);
}

/* ---------------------------------------------------------------- closing */

static void test_R51_calls_after_close_are_refused(void **state)
{
    struct stack *stack = *state;
    near_cache *c = cache_of(state);
    near_value got;
    near_stats stats = {.size = sizeof(stats)};
    size_t size;
    near_item item = {.key = "k", .key_size = 1};
    near_error error;
    set(c, "k", "v");
    assert_int_equal(near_close(c), NEAR_OK);
    stack->cache = NULL;
    assert_int_equal(near_get(c, "k", 1, NULL, &got), NEAR_ERR_CLOSED);
    assert_int_equal(near_get_copy(c, "k", 1, NULL, NULL, 0, &size), NEAR_ERR_CLOSED);
    assert_int_equal(near_peek(c, "k", 1, &got), NEAR_ERR_CLOSED);
    assert_int_equal(near_drop(c, "k", 1), NEAR_ERR_CLOSED);
    assert_int_equal(set(c, "k", "v"), NEAR_ERR_CLOSED);
    assert_int_equal(near_del(c, "k", 1, NULL), NEAR_ERR_CLOSED);
    assert_int_equal(near_expire(c, "k", 1, 1, NULL), NEAR_ERR_CLOSED);
    assert_int_equal(near_incr(c, "k", 1, 1, NULL, NULL), NEAR_ERR_CLOSED);
    assert_int_equal(near_cas(c, "k", 1, "v", 1, "w", 1, NULL, NULL), NEAR_ERR_CLOSED);
    assert_int_equal(near_mget(c, &item, 1, NULL), NEAR_ERR_CLOSED);
    assert_int_equal(near_mset(c, &item, 1, NULL, NULL), NEAR_ERR_CLOSED);
    assert_int_equal(near_mdel(c, &item, 1, NULL), NEAR_ERR_CLOSED);
    assert_int_equal(near_clear(c, 0, NULL, NULL), NEAR_ERR_CLOSED);
    assert_int_equal(near_set_local_bytes(c, 8 << 20), NEAR_ERR_CLOSED);
    assert_int_equal(near_set_local_entries(c, 5), NEAR_ERR_CLOSED);
    assert_int_equal(near_set_bound(c, 100), NEAR_ERR_CLOSED);
    assert_int_equal(near_check(c, 100, &error), NEAR_ERR_CLOSED);
    assert_int_equal(near_wait_ready(c, 100, &error), NEAR_ERR_CLOSED);
    assert_int_equal(near_stats_get(c, &stats), NEAR_ERR_CLOSED);
    assert_int_equal(near_close(c), NEAR_ERR_CLOSED);
    assert_int_equal(near_close(NULL), NEAR_ERR_INVALID);
}

static void test_close_is_refused_while_values_are_held(void **state)
{
    near_cache *c = cache_of(state);
    near_value pinned, owned;
    near_stats stats = {.size = sizeof(stats)};
    set(c, "k", "v");
    near_stats_get(c, &stats);
    assert_int_equal(stats.values_held, 0);
    assert_int_equal(near_get(c, "k", 1, NULL, &pinned), NEAR_OK);
    assert_int_equal(near_close(c), NEAR_ERR_BUSY);
    near_stats_get(c, &stats);
    assert_int_equal(stats.values_held, 1);
    assert_int_equal(near_get(c, "k", 1, NULL, &owned), NEAR_OK);
    near_release(&pinned);
    assert_int_equal(near_own(&owned), NEAR_OK);
    assert_int_equal(near_close(c), NEAR_ERR_BUSY);
    near_release(&owned);
    expect(c, "k", "v"); /* still in use */
}

static void *release_each(void *arg)
{
    near_value *value = arg;
    for (int i = 0; i < 2; i++)
        near_release(&value[i]);
    return NULL;
}

/* One that points into the cache, and a copy, for all pins are in use: whichever goes last, the thread that closes may
 * free everything (ThreadSanitizer tells). */
static void test_close_comes_after_what_others_have_released(void **state)
{
    (void)state;
    for (int copy_first = 0; copy_first < 2; copy_first++) {
        near_cache *c = open_with("local:", NULL);
        near_value pinned[NEAR_PINS], value[2];
        pthread_t thread;
        int status;
        set(c, "k", "v");
        for (int i = 0; i < NEAR_PINS; i++)
            assert_int_equal(near_get(c, "k", 1, NULL, &pinned[i]), NEAR_OK);
        assert_int_equal(near_get(c, "k", 1, NULL, &value[!copy_first]), NEAR_OK);
        near_release(&pinned[0]);
        assert_int_equal(near_get(c, "k", 1, NULL, &value[copy_first]), NEAR_OK);
        for (int i = 0; i < 2; i++)
            assert_int_equal(near_own(&value[i]), NEAR_OK);
        for (int i = 1; i < NEAR_PINS; i++)
            near_release(&pinned[i]);
        assert_int_equal(pthread_create(&thread, NULL, release_each, value), 0);
        while ((status = near_close(c)) == NEAR_ERR_BUSY)
            ;
        assert_int_equal(status, NEAR_OK);
        pthread_join(thread, NULL);
    }
}

/* What the library does to its own connections is not a fault of theirs. */
static void keep_warning(void *arg, int level, const char *room, const char *text)
{
    (void)room;
    if (level <= 4 /* error or warning */)
        snprintf(arg, 200, "%s", text);
}

static void test_close_logs_no_warning(void **state)
{
    struct stack *stack = *state;
    cache_of(state);
    static char warning[200];
    near_options options;
    near_options_init(&options);
    options.log = keep_warning;
    options.log_arg = warning;
    options.log_level = 4;
    for (int round = 0; round < 20; round++) {
        near_cache *c = open_with(stack->kind == REDIS ? redis_server_uri_unix(server) : "memory://quiet", &options);
        warning[0] = 0; /* the busy machine's, if any */
        assert_int_equal(near_close(c), NEAR_OK);
        assert_string_equal(warning, "");
    }
}

/* ---------------------------------------------------------------- opening */

static void test_a_memory_store_lives_as_long_as_a_cache_names_it(void **state)
{
    (void)state;
    near_cache *first = open_with("memory://lasting", NULL), *second = open_with("memory://lasting", NULL);
    assert_int_equal(set(first, "k", "v"), NEAR_OK);
    assert_int_equal(near_close(first), NEAR_OK);
    expect(second, "k", "v");
    assert_int_equal(near_close(second), NEAR_OK);
    near_cache *third = open_with("memory://lasting", NULL);
    expect(third, "k", NULL);
    assert_int_equal(near_close(third), NEAR_OK);
}

static void test_bad_uris_and_options_are_refused_with_a_text(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",          "redis",           "http://x", "redis://h:99999",   "redis://h/x", "redis://[",
        "memory://", "memory://a?no=1", "unix://",  "local:?bound_ms=0", "redis://h:",  "local:whatever"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        near_cache *cache = (near_cache *)&bad; /* what the caller has left there */
        near_error error = {0};
        int status = near_open(bad[i], NULL, &cache, &error);
        if (status >= 0)
            print_error("accepted: %s\n", bad[i]);
        assert_true(status == NEAR_ERR_URI || status == NEAR_ERR_OPTION);
        assert_int_equal(error.status, status);
        assert_true(strlen(error.text) > 5);
        assert_null(cache);
    }
    assert_int_equal(near_open(NULL, NULL, NULL, NULL), NEAR_ERR_INVALID);
}

static void *allocate_nothing(void *arg, size_t size)
{
    (void)arg;
    (void)size;
    return NULL;
}

/* Nothing of a structure is used before its size has been looked at, its allocator least of all. */
static void test_open_refuses_options_that_were_not_initialised(void **state)
{
    static const size_t sizes[] = {0, 1, sizeof(near_options) + 8, SIZE_MAX};
    union {
        near_options options;
        unsigned char bytes[sizeof(near_options) + 64];
    } garbage;
    near_cache *cache = NULL;
    near_error error;
    (void)state;
    memset(&garbage, 0xff, sizeof(garbage));
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        garbage.options.size = sizes[i];
        assert_int_equal(near_open("local:", &garbage.options, &cache, &error), NEAR_ERR_OPTION);
        assert_non_null(strstr(error.text, "options: "));
        assert_null(cache);
    }
    near_options_init(&garbage.options);
    garbage.options.allocator.arg = &garbage;
    garbage.options.allocator.allocate = allocate_nothing;
    assert_int_equal(near_open("local:", &garbage.options, &cache, &error), NEAR_ERR_OPTION);
    assert_string_equal(error.text, "the allocator's three functions go together");
}

static void test_uri_parameters_override_options(void **state)
{
    (void)state;
    near_options options;
    near_stats stats = {.size = sizeof(stats)};
    near_options_init(&options);
    options.local_entries = 7;
    near_cache *c = open_with("local:?local_bytes=16m&local_entries=99", &options);
    near_stats_get(c, &stats);
    assert_int_equal(stats.local_bytes_limit, 16 << 20);
    assert_int_equal(stats.local_entries_limit, 99);
    assert_int_equal(near_close(c), NEAR_OK);
}

static void test_R52_every_failing_allocation_is_survived(void **state)
{
    (void)state;
    struct allocfail hooks;
    allocfail_init(&hooks);
    near_options options;
    near_options_init(&options);
    options.allocator = hooks.hooks;
    options.local_bytes = 1 << 20;
    int opened = 0;
    for (uint64_t n = 1; !opened; n++) {
        near_cache *c = NULL;
        near_error error = {0};
        allocfail_at(&hooks, n);
        int status = near_open("local:", &options, &c, &error);
        uint64_t struck = allocfail_struck(&hooks);
        if (status == NEAR_OK) {
            set(c, "k", "v");
            near_value got;
            if (near_get(c, "k", 1, NULL, &got) == NEAR_OK)
                near_release(&got);
            struck = allocfail_struck(&hooks);
            assert_int_equal(near_close(c), NEAR_OK);
        } else {
            assert_int_equal(status, NEAR_ERR_NOMEM);
        }
        allocfail_at(&hooks, 0);
        assert_int_equal(allocfail_blocks(&hooks), 0);
        opened = !struck;
    }
}

static void test_library_describes_itself(void **state)
{
    (void)state;
    assert_string_equal(near_version(), NEAR_VERSION_STRING);
    assert_int_equal(near_has_feature("no such thing"), 0);
    assert_int_equal(near_has_feature(NULL), 0);
}

/* ---------------------------------------------------------------- */

static int group_setup(void **state)
{
    (void)state;
    if (redis_server_available())
        server = redis_server_start(NULL);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    redis_server_free(server);
    return 0;
}

#define CASE(function, kind)                                                                                           \
    {                                                                                                                  \
#function "_on_" #kind, function, setup_##kind, teardown, NULL                                                 \
    }
#define WITH_A_REMOTE_TIER(function) CASE(function, memory), CASE(function, redis)
#define EVERYWHERE(function) WITH_A_REMOTE_TIER(function), CASE(function, local)

int main(void)
{
    const struct CMUnitTest tests[] = {
        EVERYWHERE(test_get_returns_what_was_set),
        EVERYWHERE(test_keys_and_values_are_binary_and_may_be_empty),
        WITH_A_REMOTE_TIER(test_source_tells_where_a_value_came_from),
        WITH_A_REMOTE_TIER(test_own_write_without_competition_is_kept),
        EVERYWHERE(test_get_copy_truncates_and_tells_the_whole_size),
        CASE(test_get_copy_into_any_room_serves_what_may_be_served, local),
        EVERYWHERE(test_pinned_value_survives_overwriting_and_dropping),
        EVERYWHERE(test_owned_value_may_be_released_by_another_thread),
        EVERYWHERE(test_more_values_held_than_pins),
        EVERYWHERE(test_drops_counts_calls_not_copies),
        EVERYWHERE(test_a_timeout_of_0_is_now),
        EVERYWHERE(test_conditions_of_set),
        EVERYWHERE(test_time_to_live),
        EVERYWHERE(test_incr),
        EVERYWHERE(test_compare_and_set),
        EVERYWHERE(test_mset_mget_mdel_with_a_status_per_key),
        EVERYWHERE(test_batch_that_fails_as_a_whole_says_so_for_every_item),
        cmocka_unit_test(test_R52_batch_without_memory_says_so_for_every_item),
        EVERYWHERE(test_one_bad_key_does_not_spoil_a_batch),
        EVERYWHERE(test_limits_are_checked_before_anything_is_sent),
        EVERYWHERE(test_a_value_that_was_not_got_may_be_released),
        EVERYWHERE(test_call_structure_is_checked),
        WITH_A_REMOTE_TIER(test_bypass_and_no_fill),
        WITH_A_REMOTE_TIER(test_value_too_large_for_the_local_tier_is_served_and_not_kept),
        cmocka_unit_test(test_a_write_that_the_local_tier_has_no_room_for_says_so),
        EVERYWHERE(test_clear_empties_every_local_tier),
        WITH_A_REMOTE_TIER(test_clear_keys_removes_only_the_prefix),
        EVERYWHERE(test_limits_change_at_run_time),
        EVERYWHERE(test_check_and_wait_ready),
        cmocka_unit_test(test_a_wrong_password_is_told),
        cmocka_unit_test_setup_teardown(test_what_is_timed_keeps_step_with_no_loop, setup_local, teardown),
        EVERYWHERE(test_statistics_add_up),
        EVERYWHERE(test_advice_needs_the_curve_and_a_size),
        EVERYWHERE(test_automatic_size_is_asked_for_and_told),
        EVERYWHERE(test_hot_keys_are_told),
        cmocka_unit_test(test_misses_are_learnt_from),
        EVERYWHERE(test_R51_calls_after_close_are_refused),
        EVERYWHERE(test_close_is_refused_while_values_are_held),
        cmocka_unit_test(test_close_comes_after_what_others_have_released),
        WITH_A_REMOTE_TIER(test_close_logs_no_warning),
        cmocka_unit_test(test_a_memory_store_lives_as_long_as_a_cache_names_it),
        cmocka_unit_test(test_bad_uris_and_options_are_refused_with_a_text),
        cmocka_unit_test(test_open_tells_of_certificates_that_cannot_be_read),
        cmocka_unit_test(test_open_refuses_certificates_for_what_is_not_encrypted),
#ifdef NEAR_X86_ASSEMBLER
        cmocka_unit_test(test_hits_are_the_same_on_every_processor),
#endif
        cmocka_unit_test(test_open_refuses_options_that_were_not_initialised),
        cmocka_unit_test(test_uri_parameters_override_options),
        cmocka_unit_test(test_R52_every_failing_allocation_is_survived),
        cmocka_unit_test(test_a_name_that_is_not_utf_8_does_no_harm),
        cmocka_unit_test(test_library_describes_itself),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
