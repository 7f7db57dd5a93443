/* SPDX-License-Identifier: BSD-3-Clause
 * track=bcast on a real Redis: writers that know nothing of us, and every way in which their reports may be lost
 * (docs/races.md, R35 and R39 to R45).  A reaches the server through a proxy.  The random faults are in
 * tests/coherence/test_simulation.c. */
#define _GNU_SOURCE /* memmem */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nearcache.h"
#include "support/proxy.h"
#include "support/redis_server.h"
#include "system/stack.h"

enum { BOUND_MS = 250, HOURS_MS = 2 * 3600 * 1000 };

struct world {
    struct redis_server *server;
    struct proxy *proxy;
    char prefix[16];
    near_cache *a;
};
static struct world world;

static near_cache *open_tracking(const char *uri, const char *prefix)
{
    near_options options;
    near_cache *cache = NULL;
    near_error error = {0};
    stack_options(&options);
    options.bound_ms = BOUND_MS;
    options.prefix = prefix;
    options.track = NEAR_TRACK_BCAST;
    assert_int_equal(near_open(uri, &options, &cache, &error), NEAR_OK);
    if (near_wait_ready(cache, PATIENCE_MS, &error) != NEAR_OK)
        fail_msg("not ready: %s", error.text);
    return cache;
}

static int group_setup(void **state)
{
    (void)state;
    if (!redis_server_available())
        return 0;
    struct redis_server_options options = {.acl = "user default on nopass ~* &* +@all\n"
                                                  "user deaf on >secret ~* resetchannels &nearcache:* +@all\n"
                                                  "user poor on >secret ~* &* +@all -client|tracking\n"};
    world.server = redis_server_start(&options);
    world.proxy = world.server ? proxy_start(redis_server_uri_unix(world.server)) : NULL;
    return world.proxy ? 0 : -1;
}

static int group_teardown(void **state)
{
    (void)state;
    proxy_free(world.proxy);
    redis_server_free(world.server);
    return 0;
}

static int setup(void **state)
{
    static unsigned number;
    *state = &world;
    if (!world.server)
        return 0;
    snprintf(world.prefix, sizeof(world.prefix), "t%u:", ++number);
    world.a = open_tracking(proxy_uri_unix(world.proxy), world.prefix);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    if (!world.server)
        return 0;
    for (int kind = PROXY_ANY; kind < PROXY_KINDS_; kind++)
        for (int side = 0; side < PROXY_SIDES_; side++)
            proxy_mode(world.proxy, (enum proxy_kind)kind, (enum proxy_side)side,
                       kind == PROXY_ANY ? PROXY_PASS : PROXY_INHERIT);
    proxy_refuse(world.proxy, 0);
    redis_server_command(world.server, "CONFIG", "SET", "maxmemory", "0", NULL);
    stack_close(world.a);
    world.a = NULL;
    return 0;
}

static struct world *world_of(void **state)
{
    struct world *w = *state;
    if (!w->server)
        skip();
    return w;
}

static const char *full(const struct world *w, const char *key)
{
    return stack_name(w->prefix, key);
}

/* As redis-cli would. */
static void foreign_set(struct world *w, const char *key, const char *value)
{
    assert_string_equal(redis_server_command(w->server, "SET", full(w, key), value, NULL), "OK");
}

/* A has key locally. */
static void cache_in_a(struct world *w, const char *key, const char *value)
{
    foreign_set(w, key, value);
    assert_true(wait_until(strcmp(look(w->a, key), value) == 0 && strcmp(peek(w->a, key), value) == 0, PATIENCE_MS));
}

static uint64_t reports(struct world *w)
{
    return stack_stats(w->a).messages_foreign;
}
static uint64_t disconnections(struct world *w)
{
    return stack_stats(w->a).disconnections;
}

/* After a proof that began after the foreign write returned, the old value is not served (the bound, without its
 * time). */
static void expect_seen(struct world *w, const char *key, const char *now)
{
    stack_check(w->a);
    const char *local = peek(w->a, key);
    assert_true(strcmp(local, MISS) == 0 || strcmp(local, now) == 0);
    assert_string_equal(look(w->a, key), now);
}

/* ---------------------------------------------------------------- what foreign writers do */

static void test_R35_foreign_commands_are_seen(void **state)
{
    struct world *w = world_of(state);
    cache_in_a(w, "k", "one");
    foreign_set(w, "k", "two");
    expect_seen(w, "k", "two");
    cache_in_a(w, "k", "three");
    redis_server_command(w->server, "APPEND", full(w, "k"), "!", NULL);
    expect_seen(w, "k", "three!");
    cache_in_a(w, "k", "four");
    redis_server_command(w->server, "DEL", full(w, "k"), NULL);
    expect_seen(w, "k", MISS);
    cache_in_a(w, "k", "five");
    foreign_set(w, "other", "renamed");
    redis_server_command(w->server, "RENAME", full(w, "other"), full(w, "k"), NULL);
    expect_seen(w, "k", "renamed");
    cache_in_a(w, "k", "six");
    redis_server_command(w->server, "EVAL", "redis.call('SET',KEYS[1],'seven')", "1", full(w, "k"), NULL);
    expect_seen(w, "k", "seven");
    cache_in_a(w, "k", "eight");
    redis_server_command(w->server, "FLUSHALL", NULL);
    expect_seen(w, "k", MISS);
}

static void test_R20_R35_a_foreign_EXPIRE_that_shortens_is_seen(void **state)
{
    struct world *w = world_of(state);
    cache_in_a(w, "k", "one");
    redis_server_command(w->server, "PEXPIRE", full(w, "k"), "1", NULL);
    assert_true(
        wait_until(strcmp(redis_server_command(w->server, "EXISTS", full(w, "k"), NULL), "0") == 0, PATIENCE_MS));
    expect_seen(w, "k", MISS);
}

/* The server's memory comes and goes by what its clients hold, so it is asked for more until a key of ours has gone. */
static int has_evicted(struct world *w, uint64_t reports_before, const char *big)
{
    redis_server_command(w->server, "APPEND", "outside", big, NULL);
    return reports(w) > reports_before;
}

static void test_R35_eviction_on_the_server_is_seen(void **state)
{
    struct world *w = world_of(state);
    enum { KEYS = 200 };
    char key[16], big[1001];
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    for (int i = 0; i < KEYS; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        foreign_set(w, key, "here");
        look(w->a, key);
    }
    stack_check(w->a);
    uint64_t before = reports(w);
    char limit[32];
    snprintf(limit, sizeof(limit), "%lld", redis_server_info(w->server, "memory", "used_memory") - 8192);
    redis_server_command(w->server, "CONFIG", "SET", "maxmemory-policy", "allkeys-random", NULL);
    redis_server_command(w->server, "CONFIG", "SET", "maxmemory", limit, NULL);
    assert_true(wait_until(has_evicted(w, before, big), PATIENCE_MS));
    redis_server_command(w->server, "CONFIG", "SET", "maxmemory", "0", NULL);
    redis_server_command(w->server, "CONFIG", "SET", "maxmemory-policy", "noeviction", NULL);
    stack_check(w->a);
    for (int i = 0; i < KEYS; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        if (strcmp(redis_server_command(w->server, "EXISTS", full(w, key), NULL), "0") == 0)
            assert_string_equal(peek(w->a, key), MISS);
    }
}

static void test_R42_R43_our_own_writes_are_reported_and_kept_at_the_next_read(void **state)
{
    struct world *w = world_of(state);
    uint64_t before = reports(w);
    assert_int_equal(put(w->a, "k", "one"), NEAR_OK);
    assert_string_equal(look(w->a, "k"), "one");
    assert_true(wait_until(reports(w) > before, PATIENCE_MS)); /* nothing tells it from a foreign write */
    assert_true(wait_until(strcmp(look(w->a, "k"), "one") == 0 && strcmp(peek(w->a, "k"), "one") == 0, PATIENCE_MS));
    foreign_set(w, "k", "two");
    expect_seen(w, "k", "two");
}

/* ---------------------------------------------------------------- fills */

static void test_R01_R19_a_fill_that_a_foreign_write_overtakes_is_not_kept(void **state)
{
    struct world *w = world_of(state);
    struct caller reader;
    for (int absent = 0; absent <= 1; absent++) {
        redis_server_command(w->server, "DEL", full(w, "k"), NULL);
        if (!absent)
            foreign_set(w, "k", "old");
        stack_check(w->a);
        proxy_mode(w->proxy, PROXY_DATA, PROXY_TO_CLIENT, PROXY_HOLD);
        uint64_t before = reports(w);
        caller_get(&reader, w->a, "k");
        assert_true(
            wait_until(stack_stats(w->a).flights_joined + proxy_held(w->proxy, PROXY_DATA, PROXY_TO_CLIENT) > 40,
                       PATIENCE_MS)); /* the reply, or a heartbeat's and the reply */
        foreign_set(w, "k", "new");
        assert_true(wait_until(reports(w) > before, PATIENCE_MS));
        proxy_mode(w->proxy, PROXY_DATA, PROXY_TO_CLIENT, PROXY_INHERIT);
        caller_end(&reader);
        expect_seen(w, "k", "new");
    }
}

/* ---------------------------------------------------------------- reports that are lost */

static void test_R39_a_write_while_the_subscription_is_away_is_not_missed(void **state)
{
    struct world *w = world_of(state);
    cache_in_a(w, "k", "old");
    uint64_t before = disconnections(w);
    proxy_refuse(w->proxy, 1);
    redis_server_command(w->server, "CLIENT", "KILL", "TYPE", "pubsub", NULL);
    assert_true(wait_until(disconnections(w) > before, PATIENCE_MS));
    foreign_set(w, "k", "new");
    proxy_refuse(w->proxy, 0);
    expect_seen(w, "k", "new");
    assert_true(wait_until(proxy_connections(w->proxy, PROXY_TRACK) == 1, PATIENCE_MS)); /* the old one went with it */
}

static void test_R22_R40_a_fill_from_before_the_new_subscription_is_not_kept(void **state)
{
    struct world *w = world_of(state);
    struct caller reader;
    foreign_set(w, "k", "old");
    stack_check(w->a);
    uint64_t before = stack_stats(w->a).subscriptions;
    proxy_mode(w->proxy, PROXY_DATA, PROXY_TO_CLIENT, PROXY_HOLD);
    caller_get(&reader, w->a, "k");
    assert_true(wait_until(proxy_held(w->proxy, PROXY_DATA, PROXY_TO_CLIENT) > 40, PATIENCE_MS));
    proxy_refuse(w->proxy, 1);
    assert_int_equal(proxy_kill(w->proxy, PROXY_SUB, 0), 1);
    foreign_set(w, "k", "new"); /* nobody hears it */
    proxy_refuse(w->proxy, 0);
    assert_true(wait_until(stack_stats(w->a).subscriptions > before, PATIENCE_MS));
    proxy_mode(w->proxy, PROXY_DATA, PROXY_TO_CLIENT, PROXY_INHERIT);
    caller_end(&reader);
    expect_seen(w, "k", "new");
}

static void test_R41_the_control_connection_takes_the_subscription_with_it(void **state)
{
    struct world *w = world_of(state);
    cache_in_a(w, "k", "old");
    uint64_t before = disconnections(w);
    assert_int_equal(proxy_kill(w->proxy, PROXY_TRACK, 1), 1);
    foreign_set(w, "k", "new");
    expect_seen(w, "k", "new");
    assert_true(disconnections(w) > before);
}

static const char *track_id(struct world *w)
{
    static char id[32];
    const char *list = redis_server_command(w->server, "CLIENT", "LIST", NULL), *line = list;
    for (; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (memmem(line, strcspn(line, "\n"), "-track", 6) && sscanf(line, "id=%31s", id) == 1)
            return id;
    return "0";
}

/* Only TRACKINGINFO can tell: the subscription is in good health, and the end of the control connection never
 * arrives. */
static void test_R39_R41_tracking_that_ended_silently_is_noticed(void **state)
{
    struct world *w = world_of(state);
    cache_in_a(w, "k", "old");
    proxy_mode(w->proxy, PROXY_TRACK, PROXY_TO_CLIENT, PROXY_SWALLOW);
    proxy_mode(w->proxy, PROXY_TRACK, PROXY_TO_SERVER, PROXY_SWALLOW);
    assert_string_equal(redis_server_command(w->server, "CLIENT", "KILL", "ID", track_id(w), NULL), "1");
    foreign_set(w, "k", "new");
    int64_t written_ms = wait_now_ms();
    for (;;) { /* the promise itself: the old value not beyond the bound */
        int64_t begun_ms = wait_now_ms();
        if (strcmp(peek(w->a, "k"), "old") == 0)
            assert_in_range(begun_ms - written_ms, 0, BOUND_MS);
        if (begun_ms - written_ms > 2 * BOUND_MS)
            break;
        wait_a_moment();
    }
    proxy_mode(w->proxy, PROXY_TRACK, PROXY_TO_CLIENT, PROXY_INHERIT);
    proxy_mode(w->proxy, PROXY_TRACK, PROXY_TO_SERVER, PROXY_INHERIT);
    expect_seen(w, "k", "new");
}

static void test_R26_one_PING_is_outstanding_however_many_attempts_fail(void **state)
{
    struct world *w = world_of(state);
    stack_check(w->a);
    uint64_t before = disconnections(w), most = 0, held;
    proxy_mode(w->proxy, PROXY_SUB, PROXY_TO_SERVER, PROXY_HOLD);
    while (disconnections(w) == before) { /* a second, eight times the patience of an attempt */
        held = proxy_held(w->proxy, PROXY_SUB, PROXY_TO_SERVER);
        if (disconnections(w) == before) /* otherwise it may be what the next connection begins with */
            most = held > most ? held : most;
        wait_a_moment();
    }
    assert_in_range(most, 1, 50); /* *2 $4 PING $19 nonce: 41 */
    proxy_mode(w->proxy, PROXY_SUB, PROXY_TO_SERVER, PROXY_INHERIT);
    cache_in_a(w, "k", "again");
}

static void inject(struct world *w, const char *bytes)
{
    assert_int_equal(proxy_inject(w->proxy, PROXY_SUB, bytes, strlen(bytes)), 1);
}

static void test_R44_a_report_without_keys_means_everything(void **state)
{
    struct world *w = world_of(state);
    cache_in_a(w, "k", "old");
    uint64_t before = reports(w), fetched = stack_stats(w->a).remote_hits, lost = disconnections(w);
    inject(w, "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n$-1\r\n");
    assert_true(wait_until(reports(w) > before, PATIENCE_MS));
    assert_string_equal(look(w->a, "k"), "old");
    assert_int_equal(stack_stats(w->a).remote_hits, fetched + 1);
    /* others' keys */
    inject(w, "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*3\r\n$6\r\nforget\r\n$1\r\nx\r\n$0\r\n\r\n");
    stack_check(w->a);
    assert_int_equal(disconnections(w), lost);
    inject(w, "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n:7\r\n"); /* and what is no report */
    assert_true(wait_until(disconnections(w) > lost, PATIENCE_MS));
    cache_in_a(w, "k", "again");
}

/* ---------------------------------------------------------------- whole prefix, rights, options */

static void test_without_a_prefix_everything_is_tracked_and_kept(void **state)
{
    struct world *w = world_of(state);
    near_cache *all = open_tracking(redis_server_uri_unix(w->server), "");
    redis_server_command(w->server, "SET", "bare", "one", NULL);
    stack_check(all); /* its report has come */
    assert_true(
        wait_until(strcmp(look(all, "bare"), "one") == 0 && strcmp(peek(all, "bare"), "one") == 0, PATIENCE_MS));
    uint64_t first = stack_stats(all).messages_foreign;
    stack_check(all); /* writes a scratch key */
    uint64_t second = stack_stats(all).messages_foreign;
    assert_int_equal(put(all, "mine", "x"), NEAR_OK);
    stack_check(all);
    assert_int_equal(stack_stats(all).messages_foreign - second, second - first + 1); /* the key, not its position */
    assert_string_equal(peek(all, "bare"), "one");
    redis_server_command(w->server, "SET", "bare", "two", NULL);
    stack_check(all);
    assert_string_equal(look(all, "bare"), "two");
    stack_close(all);
}

static void refused(struct world *w, const char *user, int status, const char *rule)
{
    near_options options;
    near_cache *cache;
    near_error error = {0};
    stack_options(&options);
    options.track = NEAR_TRACK_BCAST;
    options.username = user;
    options.password = "secret";
    assert_int_equal(near_open(redis_server_uri_unix(w->server), &options, &cache, &error), NEAR_OK);
    assert_int_equal(near_check(cache, HOURS_MS, &error), status); /* which does not wait for them to pass */
    if (!strstr(error.text, rule))
        fail_msg("%s", error.text);
    stack_close(cache);
}

static void test_missing_rights_are_named_at_once(void **state)
{
    struct world *w = world_of(state);
    refused(w, "deaf", NEAR_ERR_DENIED, "&__redis__:invalidate");
    refused(w, "poor", NEAR_ERR_DENIED, "+client|tracking");
}

static void test_track_needs_a_remote_tier(void **state)
{
    near_cache *cache;
    near_error error = {0};
    (void)state;
    assert_int_equal(near_open("local:?track=bcast", NULL, &cache, &error), NEAR_ERR_OPTION);
    assert_int_equal(near_open("memory://tracked?track=bcast", NULL, &cache, &error), NEAR_OK);
    assert_int_equal(near_wait_ready(cache, PATIENCE_MS, &error), NEAR_OK);
    stack_close(cache);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_R35_foreign_commands_are_seen),
        TEST(test_R20_R35_a_foreign_EXPIRE_that_shortens_is_seen),
        TEST(test_R35_eviction_on_the_server_is_seen),
        TEST(test_R42_R43_our_own_writes_are_reported_and_kept_at_the_next_read),
        TEST(test_R01_R19_a_fill_that_a_foreign_write_overtakes_is_not_kept),
        TEST(test_R39_a_write_while_the_subscription_is_away_is_not_missed),
        TEST(test_R22_R40_a_fill_from_before_the_new_subscription_is_not_kept),
        TEST(test_R41_the_control_connection_takes_the_subscription_with_it),
        TEST(test_R39_R41_tracking_that_ended_silently_is_noticed),
        TEST(test_R26_one_PING_is_outstanding_however_many_attempts_fail),
        TEST(test_R44_a_report_without_keys_means_everything),
        TEST(test_without_a_prefix_everything_is_tracked_and_kept),
        TEST(test_missing_rights_are_named_at_once),
        cmocka_unit_test(test_track_needs_a_remote_tier),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
