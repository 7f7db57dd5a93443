/* SPDX-License-Identifier: BSD-3-Clause
 * The named races (docs/races.md) on a real Redis.  A reaches it through a proxy that does to the bytes what the test
 * says, B directly.
 *
 * Nothing here waits and hopes.  Either a condition is waited for, or the promise itself is checked: a read that begins
 * later than the bound after B's write returned must not return the old value, however slow the machine is. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nearcache.h"
#include "support/proxy.h"
#include "support/redis_server.h"
#include "support/resp_client.h"
#include "system/stack.h"

enum { BOUND_MS = 250 };

struct world {
    struct redis_server *server;
    struct proxy *proxy;
    char prefix[16];
    near_cache *a, *b; /* A behind the proxy, B not */
    int admin;         /* a connection for tests that shut everybody out; -1: none */
};
static struct world world;

/* ---------------------------------------------------------------- scenery */

/* A connection that stays open while nobody else gets in. */
static const char *admin(int fd, size_t count, const char *const *arguments)
{
    static struct resp_text text;
    size_t sizes[8];
    for (size_t i = 0; i < count && i < 8; i++)
        sizes[i] = strlen(arguments[i]);
    text.size = 0;
    if (resp_send(fd, count, arguments, sizes) < 0 || resp_read(fd, &text) < 0)
        return "(no answer)";
    return text.data;
}
#define ADMIN(fd, ...) admin(fd, sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *), (const char *[]){__VA_ARGS__})

static int group_setup(void **state)
{
    (void)state;
    if (!redis_server_available())
        return 0;
    world.server = redis_server_start(NULL);
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
    struct world *w = &world;
    *state = w;
    if (!w->server)
        return 0;
    snprintf(w->prefix, sizeof(w->prefix), "r%u:", ++number);
    w->admin = -1;
    w->a = stack_redis(proxy_uri_unix(w->proxy), w->prefix, BOUND_MS);
    w->b = stack_redis(redis_server_uri_unix(w->server), w->prefix, BOUND_MS);
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    if (!w->server)
        return 0;
    for (int kind = PROXY_ANY; kind < PROXY_KINDS_; kind++) {
        for (int side = 0; side < PROXY_SIDES_; side++) {
            proxy_mode(w->proxy, (enum proxy_kind)kind, (enum proxy_side)side,
                       kind == PROXY_ANY ? PROXY_PASS : PROXY_INHERIT);
            proxy_cut(w->proxy, (enum proxy_kind)kind, (enum proxy_side)side, -1, 0);
        }
    }
    proxy_refuse(w->proxy, 0);
    proxy_backend(w->proxy, redis_server_uri_unix(w->server));
    if (w->admin >= 0) {
        ADMIN(w->admin, "CONFIG", "SET", "maxclients", "1000", "requirepass", "");
        close(w->admin);
    }
    redis_server_command(w->server, "CONFIG", "SET", "maxmemory", "0", NULL);
    redis_server_command(w->server, "REPLICAOF", "NO", "ONE", NULL);
    stack_close(w->a);
    stack_close(w->b);
    w->a = w->b = NULL;
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

/* What the server has, in the words of look(). */
static const char *server_has(struct redis_server *server, const char *name)
{
    const char *text = redis_server_command(server, "GET", name, NULL);
    return strcmp(text, "(nil)") == 0 ? MISS : text;
}

/* A has key locally. */
static void cache_in_a(struct world *w, const char *key, const char *value)
{
    assert_int_equal(put(w->b, key, value), NEAR_OK);
    assert_true(wait_until(strcmp(look(w->a, key), value) == 0 && strcmp(peek(w->a, key), value) == 0, PATIENCE_MS));
}

/* Reads until the new value comes.  The old one only while the bound allows it; other answers (errors) are no lie. */
static void expect_within_bound(near_cache *cache, const char *key, const char *old, const char *new_value,
                                int64_t acked_ms, int64_t bound_ms)
{
    int64_t end_ms = wait_now_ms() + PATIENCE_MS;
    for (;;) {
        int64_t begun_ms = wait_now_ms();
        const char *text = look_with(cache, key, 0, 100, 0);
        if (strcmp(text, new_value) == 0)
            return;
        if (strcmp(text, old) == 0)
            assert_in_range(begun_ms - acked_ms, 0, bound_ms);
        assert_true(begun_ms < end_ms);
        wait_a_moment();
    }
}

static void expect_recovery(struct world *w, near_cache *cache, const char *key)
{
    near_error error = {0};
    /* the first try may still meet the breaker: the heartbeat that closes it can be proven before its own reply is
     * read */
    if (!wait_until(near_check(cache, PATIENCE_MS, &error) == NEAR_OK, PATIENCE_MS))
        print_error("near_check: %s\n", error.text);
    stack_check(cache);
    assert_string_equal(look(cache, key), server_has(w->server, full(w, key)));
}

static void wait_disconnected(near_cache *cache, uint64_t before)
{
    assert_true(wait_until(stack_stats(cache).disconnections > before, PATIENCE_MS));
}

/* ---------------------------------------------------------------- writes */

/* A writer may write keys but not publish.  Written first, published second: the server has v2 and nobody was told. */
static void test_R12_write_without_channel_rights_changes_nothing(void **state)
{
    struct world *w = world_of(state);
    near_cache *writer = NULL;
    near_options options;
    near_error error = {0};
    char uri[200];
    cache_in_a(w, "k", "v1");
    redis_server_command(w->server, "ACL", "SETUSER", "mute", "reset", "on", ">pw", "~*", "+@all", "resetchannels",
                         NULL);
    snprintf(uri, sizeof(uri), "unix://mute:pw@%s", redis_server_socket(w->server));
    stack_options(&options);
    options.prefix = w->prefix;
    assert_int_equal(near_open(uri, &options, &writer, NULL), NEAR_OK);
    assert_int_equal(put(writer, "k", "v2"), NEAR_ERR_DENIED);
    assert_int_equal(drop_everywhere(writer, "k"), NEAR_ERR_DENIED);
    assert_string_equal(server_has(w->server, full(w, "k")), "v1");
    assert_string_equal(look(w->a, "k"), "v1");
    assert_string_equal(look(writer, "k"), "v1"); /* it reads through: it may not listen either */
    assert_string_equal(peek(writer, "k"), MISS);
    assert_int_equal(near_check(writer, 5000, &error), NEAR_ERR_DENIED);
    assert_non_null(strstr(error.text, "channel"));
    stack_close(writer);
    redis_server_command(w->server, "ACL", "DELUSER", "mute", NULL);
}

/* The server is out of memory.  A half-done script: told but not written is harmless, written but not told is not; a
 * removal that works without being told leaves v1 in A. */
static void test_R12_out_of_memory_is_all_or_nothing(void **state)
{
    struct world *w = world_of(state);
    cache_in_a(w, "k", "v1");
    redis_server_command(w->server, "CONFIG", "SET", "maxmemory", "1", NULL);
    assert_int_equal(put(w->b, "k", "v2"), NEAR_ERR_FULL);
    assert_string_equal(server_has(w->server, full(w, "k")), "v1");
    stack_wait_proof(w->a); /* heartbeats go on */
    assert_string_equal(look(w->a, "k"), "v1");
    assert_int_equal(drop_everywhere(w->b, "k"), NEAR_OK);
    stack_wait_proof(w->a);
    assert_string_equal(look(w->a, "k"), MISS);
    redis_server_command(w->server, "CONFIG", "SET", "maxmemory", "0", NULL);
    cache_in_a(w, "k", "v3");
}

/* One set through a connection that is cut after n bytes; what A may say depends on what it was told. */
static void set_with_cut(struct world *w, near_cache *cache, enum proxy_side side, int64_t bytes, int reset)
{
    char value[32];
    int64_t end_ms = wait_now_ms() + PATIENCE_MS;
    while (strncmp(bypass(cache, "k"), "v", 1) != 0) /* connected again */
        assert_true(wait_now_ms() < end_ms);
    snprintf(value, sizeof(value), "v%d-%d-%d", (int)side, (int)bytes, reset);
    const char *before = server_has(w->server, full(w, "k"));
    char old[64];
    snprintf(old, sizeof(old), "%s", before);
    proxy_cut(w->proxy, PROXY_DATA, side, bytes, reset);
    int status = put(cache, "k", value);
    proxy_cut(w->proxy, PROXY_DATA, side, -1, 0);
    switch (status) {
    case NEAR_OK:
        assert_string_equal(server_has(w->server, full(w, "k")), value);
        assert_string_equal(look(cache, "k"), value);
        break;
    case NEAR_ERR_UNKNOWN:
        assert_string_equal(peek(cache, "k"), MISS);
        break;
    case NEAR_ERR_IO:
    case NEAR_ERR_UNAVAILABLE:
    case NEAR_ERR_TIMEOUT: /* nothing was changed */
        assert_string_equal(server_has(w->server, full(w, "k")), old);
        break;
    default:
        assert_string_equal(near_status_name(status), "one of those above");
    }
    assert_true(wait_until(strcmp(look(cache, "k"), server_has(w->server, full(w, "k"))) == 0, PATIENCE_MS));
}

static int64_t bytes_of_one_set(struct world *w, near_cache *cache, enum proxy_side side)
{
    assert_int_equal(put(cache, "k", "v00-000-0"), NEAR_OK); /* the server knows the script from here on */
    uint64_t before = proxy_passed(w->proxy, PROXY_DATA, side);
    assert_int_equal(put(cache, "k", "v00-000-1"), NEAR_OK);
    return (int64_t)(proxy_passed(w->proxy, PROXY_DATA, side) - before);
}

/* The data connection is cut after every possible number of bytes of a write, or of its reply.  Old value kept, or new
 * one believed: peek hits where the fate is unknown, or A and the server disagree in the end. */
static void test_R13_write_cut_at_every_byte(void **state)
{
    struct world *w = world_of(state);
    near_options options; /* few heartbeats: they use the connection too */
    stack_options(&options);
    options.prefix = w->prefix;
    options.bound_ms = 60000;
    options.connections = 1;
    options.backoff_min_ms = options.backoff_max_ms = 1;
    stack_close(w->a);
    assert_int_equal(near_open(proxy_uri_unix(w->proxy), &options, &w->a, NULL), NEAR_OK);
    assert_int_equal(near_wait_ready(w->a, PATIENCE_MS, NULL), NEAR_OK);
    for (int side = 0; side < PROXY_SIDES_; side++) {
        int64_t most = bytes_of_one_set(w, w->a, (enum proxy_side)side);
        assert_in_range(most, 5, 1000);
        for (int64_t n = 1; n <= most; n += INSTRUMENTED ? 11 : side == PROXY_TO_SERVER ? 2 : 1)
            set_with_cut(w, w->a, (enum proxy_side)side, n, (int)(n / 2 % 2));
        assert_true(proxy_cut_done(w->proxy, PROXY_DATA, (enum proxy_side)side) > 0);
    }
    assert_true(stack_stats(w->a).writes_unknown > 0);
}

/* A read through a connection that breaks inside its reply, at every byte: an error or the whole value, never a part of
 * it. */
static void test_R13_reply_cut_at_every_byte_is_an_error(void **state)
{
    struct world *w = world_of(state);
    assert_int_equal(put(w->b, "k", "value-of-twenty-bytes"), NEAR_OK);
    for (int64_t n = 1; n < 60; n += INSTRUMENTED ? 9 : 1) {
        proxy_cut(w->proxy, PROXY_DATA, PROXY_TO_CLIENT, n, 0);
        const char *text = bypass(w->a, "k");
        if (strcmp(text, "(NEAR_ERR_IO)") != 0 && strcmp(text, "(NEAR_ERR_UNAVAILABLE)") != 0)
            assert_string_equal(text, "value-of-twenty-bytes");
        proxy_cut(w->proxy, PROXY_DATA, PROXY_TO_CLIENT, -1, 0);
        assert_true(wait_until(strcmp(bypass(w->a, "k"), "value-of-twenty-bytes") == 0, PATIENCE_MS));
    }
}

struct impatient {
    pthread_t thread;
    near_cache *cache;
    int number, wrong;
};

static void *impatient_main(void *arg)
{
    struct impatient *t = arg;
    char key[8];
    snprintf(key, sizeof(key), "k%d", t->number);
    const char *text = look_with(t->cache, key, NEAR_BYPASS_LOCAL, 20, 0);
    if (strcmp(text, "(NEAR_ERR_TIMEOUT)") != 0 && strcmp(text, key) != 0 && strncmp(text, "(NEAR_ERR_", 10) != 0)
        t->wrong = 1;
    return NULL;
}

/* The server stops, calls run into their deadlines, the server goes on and answers all of them; other keys are asked
 * for on the same connections.  Replies taken in turn: a key gets another key's value. */
static void test_R15_late_reply_is_nobody_elses(void **state)
{
    enum { KEYS = 6 };
    struct world *w = world_of(state);
    struct impatient threads[KEYS];
    char key[16];
    for (int i = 0; i < KEYS; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(put(w->b, key, key), NEAR_OK);
    }
    for (int round = 0; round < 8; round++) {
        redis_server_pause(w->server);
        for (int i = 0; i < KEYS; i++) {
            threads[i] = (struct impatient){.cache = w->a, .number = i};
            assert_int_equal(pthread_create(&threads[i].thread, NULL, impatient_main, &threads[i]), 0);
        }
        for (int i = 0; i < KEYS; i++)
            pthread_join(threads[i].thread, NULL);
        redis_server_resume(w->server);
        for (int i = KEYS - 1; i >= 0; i--) {
            assert_int_equal(threads[i].wrong, 0);
            snprintf(key, sizeof(key), "k%d", i);
            const char *text = look_with(w->a, key, NEAR_BYPASS_LOCAL, 0, 0);
            if (strncmp(text, "(NEAR_ERR_", 10) != 0)
                assert_string_equal(text, key);
        }
    }
    assert_true(stack_stats(w->a).timeouts > 0);
}

/* ---------------------------------------------------------------- delivery */

/* The server closes A's subscription, A cannot come back yet, B writes.  Without withdrawing: look says v1. */
static void test_R21_killed_subscription(void **state)
{
    struct world *w = world_of(state);
    cache_in_a(w, "k", "v1");
    cache_in_a(w, "untouched", "u");
    uint64_t before = stack_stats(w->a).disconnections;
    proxy_refuse(w->proxy, 1);
    redis_server_command(w->server, "CLIENT", "KILL", "TYPE", "pubsub", NULL);
    wait_disconnected(w->a, before);
    assert_int_equal(put(w->b, "k", "v2"), NEAR_OK);
    assert_string_equal(peek(w->a, "k"), MISS);
    assert_string_equal(look(w->a, "k"), "v2"); /* by the data connection, which is still there */
    proxy_refuse(w->proxy, 0);
    expect_recovery(w, w->a, "k");
}

/* B writes at the very moment of the kill, again and again; A comes back by itself.  An entry from before: look says an
 * old one. */
static void test_R21_writes_around_reconnections(void **state)
{
    struct world *w = world_of(state);
    char value[16];
    for (int i = 0; i < 10; i++) {
        snprintf(value, sizeof(value), "v%d", i);
        cache_in_a(w, "k", value);
        proxy_kill(w->proxy, PROXY_SUB, i % 2);
        snprintf(value, sizeof(value), "w%d", i);
        assert_int_equal(put(w->b, "k", value), NEAR_OK);
        stack_check(w->a);
        assert_string_equal(look(w->a, "k"), value);
    }
}

/* The subscription's network swallows everything, nothing is closed.  Without a bound on the proof's age: v1 for
 * ever. */
static void test_R24_swallowed_subscription_ends_with_the_bound(void **state)
{
    struct world *w = world_of(state);
    cache_in_a(w, "k", "v1");
    proxy_mode(w->proxy, PROXY_SUB, PROXY_TO_CLIENT, PROXY_SWALLOW);
    assert_int_equal(put(w->b, "k", "v2"), NEAR_OK);
    expect_within_bound(w->a, "k", "v1", "v2", wait_now_ms(), BOUND_MS);
    proxy_mode(w->proxy, PROXY_SUB, PROXY_TO_CLIENT, PROXY_INHERIT);
    /* the old subscription has lost bytes for good: it must have been given up or found out */
    expect_recovery(w, w->a, "k");
}

/* The whole server stops (SIGSTOP): nothing is closed, nothing answers.  Hits end with the bound, calls at their
 * deadlines. */
static void test_R24_stopped_server(void **state)
{
    struct world *w = world_of(state);
    cache_in_a(w, "k", "v1");
    redis_server_pause(w->server);
    int64_t paused_ms = wait_now_ms();
    assert_true(wait_until(strcmp(peek(w->a, "k"), MISS) == 0, PATIENCE_MS));
    assert_string_equal(look_with(w->a, "k", 0, 50, 0), "(NEAR_ERR_TIMEOUT)");
    assert_true(wait_until(wait_now_ms() - paused_ms > BOUND_MS, PATIENCE_MS));
    assert_string_equal(peek(w->a, "k"), MISS);
    redis_server_resume(w->server);
    expect_recovery(w, w->a, "k");
}

/* Somebody in between answers PINGs by itself, but messages do not come.  A PONG that is not ours taken for one: v1 for
 * ever. */
static void test_R25_pong_of_somebody_else(void **state)
{
    struct world *w = world_of(state);
    static const char *const pongs[] = {"*2\r\n$4\r\npong\r\n$0\r\n\r\n", "*2\r\n$4\r\npong\r\n$1\r\n1\r\n",
                                        "*2\r\n$4\r\npong\r\n$19\r\n1234567890123456789\r\n"};
    cache_in_a(w, "k", "v1");
    proxy_mode(w->proxy, PROXY_SUB, PROXY_TO_CLIENT, PROXY_SWALLOW);
    assert_int_equal(put(w->b, "k", "v2"), NEAR_OK);
    int64_t acked_ms = wait_now_ms();
    for (int i = 0; wait_now_ms() - acked_ms <= BOUND_MS; i++) {
        proxy_inject(w->proxy, PROXY_SUB, pongs[i % 3], strlen(pongs[i % 3]));
        wait_a_moment();
    }
    expect_within_bound(w->a, "k", "v1", "v2", acked_ms, BOUND_MS);
    assert_string_equal(peek(w->a, "k"), MISS);
    proxy_mode(w->proxy, PROXY_SUB, PROXY_TO_CLIENT, PROXY_INHERIT);
    expect_recovery(w, w->a, "k");
}

static void *endless_script(void *arg)
{
    redis_server_command(arg, "EVAL", "while true do end", "0", NULL);
    return NULL;
}

/* A script runs without end; everybody, subscribers' PINGs included, gets -BUSY.  BUSY taken for a PONG: peek hits all
 * the time. */
static void test_R27_endless_script(void **state)
{
    struct world *w = world_of(state);
    pthread_t thread;
    cache_in_a(w, "k", "v1");
    redis_server_command(w->server, "CONFIG", "SET", "busy-reply-threshold", "10", NULL);
    assert_int_equal(pthread_create(&thread, NULL, endless_script, w->server), 0);
    assert_true(wait_until(strncmp(redis_server_command(w->server, "GET", "x", NULL), "-BUSY", 5) == 0, PATIENCE_MS));
    assert_true(wait_until(strcmp(peek(w->a, "k"), MISS) == 0, PATIENCE_MS));
    int64_t end_ms = wait_now_ms() + 2 * BOUND_MS;
    while (wait_now_ms() < end_ms) { /* and it does not come back while PINGs are answered like that */
        assert_string_equal(peek(w->a, "k"), MISS);
        const char *text = look_with(w->a, "k", 0, 100, 0);
        assert_true(strcmp(text, "(NEAR_ERR_SCRIPT_BUSY)") == 0 || strcmp(text, "(NEAR_ERR_TIMEOUT)") == 0 ||
                    strcmp(text, "(NEAR_ERR_IO)") == 0 || strcmp(text, "(NEAR_ERR_UNAVAILABLE)") == 0);
        wait_a_moment();
    }
    redis_server_command(w->server, "SCRIPT", "KILL", NULL);
    pthread_join(thread, NULL);
    expect_recovery(w, w->a, "k");
}

/* One message is taken out of the stream; nothing is closed.  Without numbers: v1 for ever. */
static void test_R30_message_taken_out_of_the_stream(void **state)
{
    struct world *w = world_of(state);
    cache_in_a(w, "the-key", "v1");
    proxy_delete(w->proxy, PROXY_SUB, "the-key", 1);
    assert_int_equal(put(w->b, "the-key", "v2"), NEAR_OK);
    expect_within_bound(w->a, "the-key", "v1", "v2", wait_now_ms(), BOUND_MS);
    assert_int_equal(proxy_edited(w->proxy, PROXY_SUB), 1);
    stack_check(w->a);
    assert_string_equal(look(w->a, "the-key"), "v2");
    assert_true(stack_stats(w->a).message_gaps > 0);
}

/* Two servers behind one address; one kind of connection moves to the other.  Two halves of two servers taken for one
 * whole: what happens on the server that is not listened to is never heard, and look says its old value for ever. */
static void move_one_kind(void **state, enum proxy_kind kind)
{
    struct world *w = world_of(state);
    struct redis_server *other = redis_server_start(NULL);
    assert_non_null(other);
    near_cache *there = stack_redis(redis_server_uri_unix(other), w->prefix, BOUND_MS);
    cache_in_a(w, "k", "v1");
    assert_int_equal(put(there, "k", "w1"), NEAR_OK);
    proxy_backend(w->proxy, redis_server_uri_unix(other));
    proxy_kill(w->proxy, kind, 0);
    assert_int_equal(put(there, "k", "w2"), NEAR_OK);
    assert_int_equal(put(w->b, "k", "v2"), NEAR_OK);
    int64_t written_ms = wait_now_ms();
    int64_t end_ms = written_ms + PATIENCE_MS;
    for (;;) { /* until all of A has moved: it finds out by itself */
        int64_t begun_ms = wait_now_ms();
        const char *text = look_with(w->a, "k", 0, 100, 0);
        if (strcmp(text, "v1") == 0 || strcmp(text, "w1") == 0)
            assert_in_range(begun_ms - written_ms, 0, BOUND_MS);
        if (strcmp(text, "w2") == 0 && strcmp(peek(w->a, "k"), "w2") == 0 && stack_stats(w->a).proven)
            break;
        assert_true(begun_ms < end_ms);
        wait_a_moment();
    }
    assert_int_equal(put(there, "k", "w3"), NEAR_OK); /* and from here on it hears that server */
    stack_check(w->a);
    assert_string_equal(look(w->a, "k"), "w3");
    assert_true(stack_stats(w->a).server_changes > 0);
    stack_close(there);
    stack_close(w->a);
    w->a = NULL;
    redis_server_free(other);
}

static void test_R31_data_connections_move_alone(void **state)
{
    move_one_kind(state, PROXY_DATA);
}
static void test_R31_subscription_moves_alone(void **state)
{
    move_one_kind(state, PROXY_SUB);
}

/* A planned failover: the master becomes the replica of the new one, and the address leads there.  Nothing closes the
 * subscription to the old one, which hears of everything by replication, heartbeats included, and so proves what it
 * should.  But requests are answered by the new one, and nothing that they bring is kept: no hit any more. */
static void test_R31_subscription_that_stays_behind_with_a_replica(void **state)
{
    struct world *w = world_of(state);
    struct redis_server_options at_once = {.config = "repl-diskless-sync-delay 0\n"};
    struct redis_server *other = redis_server_start(&at_once);
    char port[16];
    assert_non_null(other);
    snprintf(port, sizeof(port), "%d", redis_server_port(other));
    cache_in_a(w, "k", "v1");
    redis_server_command(w->server, "REPLICAOF", "127.0.0.1", port, NULL);
    proxy_backend(w->proxy, redis_server_uri_unix(other));
    assert_true(wait_until(
        strstr(redis_server_command(w->server, "INFO", "replication", NULL), "master_link_status:up"), PATIENCE_MS));
    assert_true(wait_until(put(w->a, "k", "w1") == NEAR_OK && strcmp(peek(w->a, "k"), "w1") == 0, PATIENCE_MS));
    assert_true(stack_stats(w->a).server_changes > 0);
    stack_check(w->a);
    assert_string_equal(peek(w->a, "k"), "w1");
    stack_close(w->a);
    w->a = NULL;
    redis_server_free(other);
}

/* A and the other side, which is a master of its own, write at the same position; then A's server takes that one's
 * history over, is master again, and closes no connection meanwhile.  All between two heartbeats of A: the same server,
 * run id and position as before, so look says lost, for ever. */
static void test_R32_server_that_was_a_replica_between_two_heartbeats(void **state)
{
    enum { LONG_BOUND_MS = 60000 };
    struct world *w = world_of(state);
    struct redis_server_options at_once = {.config = "repl-diskless-sync-delay 0\n"};
    struct redis_server *other = redis_server_start(&at_once);
    char port[16];
    assert_non_null(other);
    snprintf(port, sizeof(port), "%d", redis_server_port(w->server));
    assert_int_equal(put(w->b, "k", "v1"), NEAR_OK);
    redis_server_command(w->server, "CONFIG", "SET", "repl-diskless-sync-delay", "0", NULL);
    redis_server_command(other, "REPLICAOF", "127.0.0.1", port, NULL);
    assert_true(wait_until(strcmp(server_has(other, full(w, "k")), "v1") == 0, PATIENCE_MS));
    redis_server_command(other, "REPLICAOF", "NO", "ONE", NULL);
    stack_close(w->a);
    w->a = stack_redis(proxy_uri_unix(w->proxy), w->prefix, LONG_BOUND_MS);
    near_cache *there = stack_redis(redis_server_uri_unix(other), w->prefix, BOUND_MS);
    cache_in_a(w, "k", "lost");
    assert_int_equal(put(there, "k", "survived"), NEAR_OK);
    stack_close(there);
    stack_close(w->b); /* it would tell of what it sees */
    w->b = NULL;
    snprintf(port, sizeof(port), "%d", redis_server_port(other));
    redis_server_command(w->server, "REPLICAOF", "127.0.0.1", port, NULL);
    assert_true(wait_until(strcmp(server_has(w->server, full(w, "k")), "survived") == 0, PATIENCE_MS));
    redis_server_command(w->server, "REPLICAOF", "NO", "ONE", NULL);
    stack_check(w->a); /* a heartbeat */
    assert_string_equal(look(w->a, "k"), "survived");
    assert_true(stack_stats(w->a).server_changes > 0);
    assert_true(
        wait_until(strcmp(look(w->a, "k"), "survived") == 0 && strcmp(peek(w->a, "k"), "survived") == 0, PATIENCE_MS));
    redis_server_free(other);
}

/* redis-cli changes things past us.  SET and DEL: the local time to live bounds them.  FLUSHALL: the next heartbeat
 * finds the position gone.  Otherwise look says v1 for ever. */
static void test_R35_foreign_commands(void **state)
{
    enum { LOCAL_TTL_MS = 200 };
    struct world *w = world_of(state);
    near_options options;
    stack_options(&options);
    options.prefix = w->prefix;
    options.local_ttl_ms = LOCAL_TTL_MS;
    stack_close(w->a);
    assert_int_equal(near_open(proxy_uri_unix(w->proxy), &options, &w->a, NULL), NEAR_OK);
    assert_int_equal(near_wait_ready(w->a, PATIENCE_MS, NULL), NEAR_OK);
    cache_in_a(w, "k", "v1");
    redis_server_command(w->server, "SET", full(w, "k"), "v2", NULL);
    expect_within_bound(w->a, "k", "v1", "v2", wait_now_ms(), LOCAL_TTL_MS);
    redis_server_command(w->server, "DEL", full(w, "k"), NULL);
    expect_within_bound(w->a, "k", "v2", MISS, wait_now_ms(), LOCAL_TTL_MS);
    cache_in_a(w, "k", "v3");
    redis_server_command(w->server, "EXPIRE", full(w, "k"), "0", NULL);
    expect_within_bound(w->a, "k", "v3", MISS, wait_now_ms(), LOCAL_TTL_MS);
}

static void test_R35_flushall_and_restarts(void **state)
{
    struct world *w = world_of(state);
    cache_in_a(w, "k", "v1");
    redis_server_command(w->server, "FLUSHALL", NULL);
    stack_check(w->a);
    assert_string_equal(peek(w->a, "k"), MISS);
    assert_string_equal(look(w->a, "k"), MISS);
    for (int keep = 0; keep < 2; keep++) {
        cache_in_a(w, "k", "v1");
        assert_int_equal(redis_server_restart(w->server, keep), 0);
        assert_string_equal(server_has(w->server, full(w, "k")), keep ? "v1" : MISS);
        redis_server_command(w->server, "SET", full(w, "k"), "v2", NULL); /* before anybody is back */
        assert_true(wait_until(stack_stats(w->a).server_changes > (uint64_t)keep, PATIENCE_MS));
        expect_recovery(w, w->a, "k");
        assert_string_equal(look(w->a, "k"), "v2");
        assert_true(wait_until(stack_stats(w->b).server_changes > (uint64_t)keep, PATIENCE_MS));
        expect_recovery(w, w->b, "k");
    }
}

/* Somebody publishes on our channel by hand.  Ignored: it may have told of a write; believed: numbers fly away. */
static void test_R37_garbage_on_the_channel(void **state)
{
    static const char *const garbage[] = {
        "", "garbage", "2:a message of the future", "19007199254740991:", "1", "P1:2"};
    struct world *w = world_of(state);
    char channel[64];
    snprintf(channel, sizeof(channel), "nearcache:0:%s", w->prefix);
    for (size_t i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
        cache_in_a(w, "k", "v1");
        cache_in_a(w, "later", "v1");
        uint64_t bad = stack_stats(w->a).messages_bad, kept = stack_stats(w->a).repair_kept;
        assert_string_equal(redis_server_command(w->server, "PUBLISH", channel, garbage[i], NULL), "2");
        assert_true(wait_until(stack_stats(w->a).messages_bad > bad, PATIENCE_MS));
        stack_check(w->a);
        /* suspect, unless it has been compared with the server meanwhile */
        assert_true(strcmp(peek(w->a, "k"), MISS) == 0 || stack_stats(w->a).repair_kept > kept);
        cache_in_a(w, "k", "v2"); /* and everything goes on */
    }
}

/* ---------------------------------------------------------------- refusals */

/* All connections but the admin's are closed, and the server takes no new one for one reason or another.  Nothing old
 * is served, the call's status says why, and when the reason is gone everything recovers by itself. */
static void refused(struct world *w, int fd, const char *status, const char *const *kill, size_t kill_count)
{
    char expected[64];
    near_error error = {0};
    ADMIN(fd, "CLIENT", "KILL", "TYPE", "pubsub");
    if (kill)
        admin(fd, kill_count, kill);
    wait_disconnected(w->a, 0);
    assert_string_equal(peek(w->a, "k"), MISS);
    snprintf(expected, sizeof(expected), "(%s)", status);
    if (kill) {
        const char *text = "";
        if (!wait_until(strcmp(text = look(w->a, "k"), expected) == 0, PATIENCE_MS))
            assert_string_equal(text, expected);
    }
    int64_t end_ms = wait_now_ms() + 2 * BOUND_MS;
    while (wait_now_ms() < end_ms) {
        assert_string_equal(peek(w->a, "k"), MISS);
        wait_a_moment();
    }
    assert_int_equal(near_wait_ready(w->a, 1, &error), NEAR_ERR_TIMEOUT);
    assert_true(error.text[0] != 0);
}

/* And A without the proxy, which does not pass on words that come with an end of stream, and with a breaker, which
 * keeps them. */
static int open_admin(struct world *w)
{
    near_options options;
    stack_options(&options);
    options.prefix = w->prefix;
    options.bound_ms = BOUND_MS;
    options.breaker_failures = 3;
    stack_close(w->a);
    assert_int_equal(near_open(redis_server_uri_unix(w->server), &options, &w->a, NULL), NEAR_OK);
    assert_int_equal(near_wait_ready(w->a, PATIENCE_MS, NULL), NEAR_OK);
    w->admin = resp_connect_unix(redis_server_socket(w->server), 10000);
    assert_true(w->admin >= 0);
    return w->admin;
}

static const char *const kill_normal[] = {"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"};

static void test_R38_too_many_clients(void **state)
{
    struct world *w = world_of(state);
    int fd = open_admin(w);
    cache_in_a(w, "k", "v1");
    assert_string_equal(ADMIN(fd, "CONFIG", "SET", "maxclients", "1"), "OK");
    refused(w, fd, "NEAR_ERR_MAX_CLIENTS", kill_normal, 6);
    assert_string_equal(ADMIN(fd, "CONFIG", "SET", "maxclients", "1000"), "OK");
    expect_recovery(w, w->a, "k");
}

static void test_R38_password_set_at_run_time(void **state)
{
    struct world *w = world_of(state);
    int fd = open_admin(w);
    cache_in_a(w, "k", "v1");
    assert_string_equal(ADMIN(fd, "CONFIG", "SET", "requirepass", "secret"), "OK");
    refused(w, fd, "NEAR_ERR_AUTH", kill_normal, 6);
    assert_string_equal(ADMIN(fd, "CONFIG", "SET", "requirepass", ""), "OK");
    expect_recovery(w, w->a, "k");
}

/* The user may no longer listen: reads go through, writes are refused, nothing is served locally. */
static void test_R38_channel_rights_removed(void **state)
{
    struct world *w = world_of(state);
    int fd = open_admin(w);
    cache_in_a(w, "k", "v1");
    assert_string_equal(ADMIN(fd, "ACL", "SETUSER", "default", "resetchannels"), "OK");
    refused(w, fd, "", NULL, 0);
    assert_string_equal(look(w->a, "k"), "v1");
    assert_int_equal(put(w->a, "k", "v2"), NEAR_ERR_DENIED);
    assert_string_equal(look(w->a, "k"), "v1");
    assert_string_equal(ADMIN(fd, "ACL", "SETUSER", "default", "allchannels"), "OK");
    expect_recovery(w, w->a, "k");
}

/* What a read leaves in the local tier. */
static const char *look_and_peek(struct world *w, const char *key)
{
    look(w->a, key);
    return peek(w->a, key);
}

/* A data connection is made just when the user may not ask who the server is (INFO); the subscription sees nothing of
 * it.  Used for ever: proofs go on, but nothing that is read can be kept. */
static void test_R38_connection_made_without_rights_is_made_anew(void **state)
{
    struct world *w = world_of(state);
    near_options options;
    int fd = open_admin(w);
    stack_options(&options);
    options.prefix = w->prefix;
    options.connections = 1;
    stack_close(w->a);
    assert_int_equal(near_open(proxy_uri_unix(w->proxy), &options, &w->a, NULL), NEAR_OK);
    assert_int_equal(near_wait_ready(w->a, PATIENCE_MS, NULL), NEAR_OK);
    cache_in_a(w, "k", "v1");
    assert_string_equal(ADMIN(fd, "ACL", "SETUSER", "default", "-info"), "OK");
    proxy_kill(w->proxy, PROXY_DATA, 0);
    assert_true(wait_until(strcmp(bypass(w->a, "k"), "v1") == 0, PATIENCE_MS));
    assert_string_equal(look(w->a, "j"), MISS);
    assert_int_equal(put(w->b, "j", "v1"), NEAR_OK);
    assert_string_equal(ADMIN(fd, "ACL", "SETUSER", "default", "+info"), "OK");
    assert_true(wait_until(strcmp(look_and_peek(w, "j"), "v1") == 0, PATIENCE_MS));
}

/* The user itself is removed. */
static void test_R38_user_removed(void **state)
{
    struct world *w = world_of(state);
    char uri[200];
    int fd = open_admin(w);
    assert_string_equal(ADMIN(fd, "ACL", "SETUSER", "alice", "on", ">pw", "~*", "&*", "+@all"), "OK");
    snprintf(uri, sizeof(uri), "unix://alice:pw@%s", redis_server_socket(w->server));
    stack_close(w->a);
    w->a = stack_redis(uri, w->prefix, BOUND_MS);
    cache_in_a(w, "k", "v1");
    uint64_t before = stack_stats(w->a).disconnections;
    assert_string_equal(ADMIN(fd, "ACL", "DELUSER", "alice"), "1"); /* closes her connections */
    wait_disconnected(w->a, before);
    assert_string_equal(peek(w->a, "k"), MISS);
    assert_true(wait_until(strcmp(look(w->a, "k"), "(NEAR_ERR_AUTH)") == 0, PATIENCE_MS));
    assert_string_equal(ADMIN(fd, "ACL", "SETUSER", "alice", "on", ">pw", "~*", "&*", "+@all"), "OK");
    expect_recovery(w, w->a, "k");
}

#define RACE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RACE(test_R12_write_without_channel_rights_changes_nothing),
        RACE(test_R12_out_of_memory_is_all_or_nothing),
        RACE(test_R13_write_cut_at_every_byte),
        RACE(test_R13_reply_cut_at_every_byte_is_an_error),
        RACE(test_R15_late_reply_is_nobody_elses),
        RACE(test_R21_killed_subscription),
        RACE(test_R21_writes_around_reconnections),
        RACE(test_R24_swallowed_subscription_ends_with_the_bound),
        RACE(test_R24_stopped_server),
        RACE(test_R25_pong_of_somebody_else),
        RACE(test_R27_endless_script),
        RACE(test_R30_message_taken_out_of_the_stream),
        RACE(test_R31_data_connections_move_alone),
        RACE(test_R31_subscription_moves_alone),
        RACE(test_R31_subscription_that_stays_behind_with_a_replica),
        RACE(test_R32_server_that_was_a_replica_between_two_heartbeats),
        RACE(test_R35_foreign_commands),
        RACE(test_R35_flushall_and_restarts),
        RACE(test_R37_garbage_on_the_channel),
        RACE(test_R38_too_many_clients),
        RACE(test_R38_password_set_at_run_time),
        RACE(test_R38_channel_rights_removed),
        RACE(test_R38_connection_made_without_rights_is_made_anew),
        RACE(test_R38_user_removed),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
