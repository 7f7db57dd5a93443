/* SPDX-License-Identifier: BSD-3-Clause
 * Messages that carry the value (message_value_max): who holds the key has the new value without a fetch.  The random
 * faults are in tests/coherence/test_simulation.c. */
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

enum { LARGEST = 64 };

static uint64_t fetches(near_cache *cache)
{
    near_stats stats = stack_stats(cache);
    return stats.remote_hits + stats.remote_misses;
}

static void cache_in(near_cache *cache, const char *key, const char *value)
{
    assert_true(wait_until(strcmp(look(cache, key), value) == 0 && strcmp(peek(cache, key), value) == 0, PATIENCE_MS));
}

/* A process that sends values; A and B of the stack do not. */
static near_cache *open_writer(struct stack *s)
{
    near_options options;
    stack_options(&options);
    options.timeout_ms = options.connect_timeout_ms = 3600000;
    options.message_value_max = LARGEST;
    options.message_values = NEAR_VALUES_ALWAYS;
    return stack_open(s, &options);
}

static void test_holder_gets_the_value_with_the_message(void **state)
{
    struct stack *s = *state;
    near_cache *writer = open_writer(s);
    assert_int_equal(put(writer, "k", "one"), NEAR_OK);
    cache_in(s->a, "k", "one");
    uint64_t before = fetches(s->a);
    assert_int_equal(put(writer, "k", "two"), NEAR_OK);
    assert_true(wait_until(strcmp(peek(s->a, "k"), "two") == 0, PATIENCE_MS));
    assert_string_equal(look(s->a, "k"), "two");
    near_item items[2] = {{.key = "k", .key_size = 1, .data = "three", .size = 5},
                          {.key = "l", .key_size = 1, .data = "x", .size = 1}};
    assert_int_equal(near_mset(writer, items, 2, NULL, NULL), NEAR_OK);
    assert_true(wait_until(strcmp(peek(s->a, "k"), "three") == 0, PATIENCE_MS));
    assert_int_equal(fetches(s->a), before);
    assert_int_equal(stack_stats(s->a).messages_kept, 2);
    stack_close(writer);
}

static void test_who_holds_nothing_is_only_told(void **state)
{
    struct stack *s = *state;
    near_cache *writer = open_writer(s);
    assert_int_equal(put(writer, "k", "one"), NEAR_OK);
    stack_fence(s, s->a);
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_int_equal(stack_stats(s->a).local_entries, 0);
    stack_close(writer);
}

static void test_what_is_too_large_or_conditional_invalidates(void **state)
{
    struct stack *s = *state;
    near_cache *writer = open_writer(s);
    char large[LARGEST + 2];
    memset(large, 'x', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    assert_int_equal(put(writer, "k", "one"), NEAR_OK);
    cache_in(s->a, "k", "one");
    assert_int_equal(put(writer, "k", large), NEAR_OK);
    stack_fence(s, s->a);
    assert_string_equal(peek(s->a, "k"), MISS);
    cache_in(s->a, "k", large);
    near_write write;
    near_write_init(&write);
    write.flags = NEAR_SET_KEEP_TTL; /* what is left of it is for the server to say */
    assert_int_equal(near_set(writer, "k", 1, "two", 3, &write, NULL), NEAR_OK);
    stack_fence(s, s->a);
    assert_string_equal(peek(s->a, "k"), MISS);
    assert_int_equal(stack_stats(s->a).messages_kept, 0);
    stack_close(writer);
}

/* The message is late: the key has lived for a while when it arrives. */
static void test_R20_value_in_a_message_dies_with_its_key(void **state)
{
    struct stack *s = *state;
    near_cache *writer = open_writer(s);
    assert_int_equal(put(writer, "k", "one"), NEAR_OK);
    cache_in(s->a, "k", "one");
    stack_hold(s, NEAR_FAULT_HOLD_MESSAGES, NEAR_OP_SET, -1);
    assert_int_equal(put_ttl(writer, "k", "two", 500), NEAR_OK);
    stack_skip(s, 450);
    stack_hold(s, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
    stack_fence(s, s->a);
    stack_skip(s, 100);
    assert_string_equal(stack_server(s, "k"), MISS);
    stack_fence(s, s->a);
    assert_string_equal(peek(s->a, "k"), MISS);

    /* the same to the millisecond, however much time the fences let pass */
    near_value value;
    assert_int_equal(put(writer, "l", "one"), NEAR_OK);
    cache_in(s->a, "l", "one");
    int64_t written_ns = atomic_load(&s->now_ns);
    stack_hold(s, NEAR_FAULT_HOLD_MESSAGES, NEAR_OP_SET, -1);
    assert_int_equal(put_ttl(writer, "l", "two", 100000), NEAR_OK);
    stack_skip(s, 450);
    stack_hold(s, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
    stack_fence(s, s->a);
    assert_int_equal(near_peek(s->a, "l", 1, &value), NEAR_OK);
    assert_memory_equal(value.data, "two", 3);
    assert_true(value.ttl_ms <= 100000 - (atomic_load(&s->now_ns) - written_ns) / NEAR_NS_PER_MS);
    near_release(&value);
    stack_close(writer);
}

static void test_values_travel_over_redis_and_a_refused_write_does_not(void **state)
{
    (void)state;
    struct redis_server_options with = {.acl = "user default on nopass ~* &* +@all\n"
                                               "user reader on >secret ~* &* +@all -set\n"
                                               "user keeper on >secret ~* &* +@all -del\n"};
    struct redis_server *server = redis_server_available() ? redis_server_start(&with) : NULL;
    if (!server)
        skip();
    near_options options;
    near_cache *a = stack_redis(redis_server_uri_unix(server), "v:", 1000), *b, *mute[2];
    const char *const users[] = {"reader", "keeper"};
    stack_options(&options);
    options.prefix = "v:";
    options.message_value_max = LARGEST;
    options.message_values = NEAR_VALUES_ALWAYS;
    assert_int_equal(near_open(redis_server_uri_unix(server), &options, &b, NULL), NEAR_OK);
    options.password = "secret";
    for (size_t i = 0; i < 2; i++) {
        options.username = users[i];
        assert_int_equal(near_open(redis_server_uri_unix(server), &options, &mute[i], NULL), NEAR_OK);
        assert_int_equal(near_wait_ready(mute[i], PATIENCE_MS, NULL), NEAR_OK);
    }
    assert_int_equal(near_wait_ready(b, PATIENCE_MS, NULL), NEAR_OK);
    assert_int_equal(put(b, "k", "one"), NEAR_OK);
    cache_in(a, "k", "one");
    uint64_t before = fetches(a);
    assert_int_equal(put_ttl(b, "k", "two", 60000), NEAR_OK);
    assert_true(wait_until(strcmp(peek(a, "k"), "two") == 0, PATIENCE_MS));
    assert_int_equal(fetches(a), before);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(put(mute[i], "k", "never"), NEAR_ERR_DENIED);
        stack_check(a);
        const char *local = peek(a, "k");
        assert_true(strcmp(local, "two") == 0 || strcmp(local, MISS) == 0);
        assert_string_equal(look(a, "k"), "two");
        stack_close(mute[i]);
    }
    stack_close(a);
    stack_close(b);
    redis_server_free(server);
}

static void test_values_and_tracking_exclude_each_other(void **state)
{
    (void)state;
    near_cache *cache;
    assert_int_equal(near_open("memory://values?track=bcast&message_values=always", NULL, &cache, NULL),
                     NEAR_ERR_OPTION);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, stack_setup, stack_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_holder_gets_the_value_with_the_message),
        TEST(test_who_holds_nothing_is_only_told),
        TEST(test_what_is_too_large_or_conditional_invalidates),
        TEST(test_R20_value_in_a_message_dies_with_its_key),
        cmocka_unit_test(test_values_travel_over_redis_and_a_refused_write_does_not),
        cmocka_unit_test(test_values_and_tracking_exclude_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
