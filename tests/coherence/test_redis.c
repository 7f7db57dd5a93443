/* SPDX-License-Identifier: BSD-3-Clause
 * The same recoveries on a real server: what memory:// pretends, Redis does. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coherence/process.h"
#include "support/redis_server.h"
#include "support/wait.h"

enum { PATIENCE_MS = 60000 }; /* only ends a test that has failed */

static struct redis_server *server;

struct stage {
    struct world world;
    struct process a, b;
};

static void assert_ready(struct process *p)
{
    near_error error = {0};
    if (near__coherence_wait(p->coherence, near__now(&p->world->clock) + PATIENCE_MS * NEAR_NS_PER_MS, &error) !=
        NEAR_OK)
        fail_msg("not ready: %s", error.text);
}

/* A proof that begins after this call: every message published before has been applied. */
static void assert_checked(struct process *p)
{
    near_error error = {0};
    if (near__coherence_check(p->coherence, near__now(&p->world->clock) + PATIENCE_MS * NEAR_NS_PER_MS, &error) !=
        NEAR_OK)
        fail_msg("no proof: %s", error.text);
}

static int set_up(void **state)
{
    struct stage *s = calloc(1, sizeof(*s));
    *state = s;
    if (!s || !server)
        return 0;
    world_open_redis(&s->world, redis_server_uri_unix(server));
    process_open(&s->a, &s->world, 0);
    process_open(&s->b, &s->world, 0);
    assert_ready(&s->a);
    assert_ready(&s->b);
    return 0;
}

static int tear_down(void **state)
{
    struct stage *s = *state;
    process_close(&s->a);
    process_close(&s->b);
    if (server)
        world_close(&s->world);
    free(s);
    return 0;
}

#define NEEDS_REDIS()                                                                                                  \
    do {                                                                                                               \
        if (!server)                                                                                                   \
            skip();                                                                                                    \
    } while (0)

/* B writes, A reads and keeps. */
static void share(struct stage *s, const char *key, uint64_t value)
{
    uint64_t found = 0;
    assert_checked(&s->b);
    process_set(&s->b, key, value);
    assert_checked(&s->a);
    /* a proof may come in between and make it suspect */
    for (int i = 0; i < 1000 && !process_hit(&s->a, key, &found); i++) {
        assert_int_equal(process_fetch(&s->a, key), value);
        assert_ready(&s->a);
    }
    assert_int_equal(found, value);
}

static void assert_no_old_hit(struct process *p, const char *key, uint64_t value)
{
    uint64_t found;
    if (process_hit(p, key, &found))
        assert_int_equal(found, value);
}

static uint64_t subscriptions(struct process *p)
{
    return process_stats(p).subscriptions;
}

static void test_message_crosses_a_real_server(void **state)
{
    NEEDS_REDIS();
    struct stage *s = *state;
    share(s, "k", 1);
    process_set(&s->b, "k", 2);
    assert_checked(&s->a);
    assert_no_old_hit(&s->a, "k", 2);
    assert_int_equal(process_fetch(&s->a, "k"), 2);
    near_stats stats = process_stats(&s->a);
    assert_true(stats.messages >= 2 && stats.message_gaps == 0 && stats.messages_bad == 0);
    assert_int_equal(stats.invalidation_ns.count, stats.messages); /* one host */
}

static void test_R21_killed_subscription_without_a_missed_write_keeps_entries(void **state)
{
    NEEDS_REDIS();
    struct stage *s = *state;
    uint64_t found = 0;
    share(s, "k", 1);
    uint64_t before = subscriptions(&s->a), suspicions = process_stats(&s->a).suspicions;
    redis_server_command(server, "CLIENT", "KILL", "TYPE", "pubsub", NULL);
    assert_true(wait_until(subscriptions(&s->a) > before, PATIENCE_MS));
    assert_checked(&s->a);
    assert_int_equal(process_stats(&s->a).suspicions, suspicions);
    assert_true(wait_until(process_hit(&s->a, "k", &found), PATIENCE_MS)); /* nobody has fetched it */
    assert_int_equal(found, 1);
}

static void test_R35_R10_FLUSHALL_and_lost_position_are_noticed(void **state)
{
    NEEDS_REDIS();
    struct stage *s = *state;
    share(s, "k", 1);
    redis_server_command(server, "FLUSHALL", NULL);
    assert_checked(&s->a);
    assert_no_old_hit(&s->a, "k", 0);
    assert_int_equal(process_fetch(&s->a, "k"), 0);
    share(s, "k", 2);
    redis_server_command(server, "SET", "nearcache:pos:", "17", NULL); /* far below */
    process_fetch(&s->a, "k");
    assert_int_equal(process_stats(&s->a).position_regressions, 1);
    assert_checked(&s->a);
    share(s, "k", 3);
}

static void test_R24_stopped_server_lets_the_proof_lapse_and_nothing_is_lost(void **state)
{
    NEEDS_REDIS();
    struct stage *s = *state;
    uint64_t found;
    share(s, "k", 1);
    redis_server_pause(server);
    assert_true(wait_until(!process_hit(&s->a, "k", &found), PATIENCE_MS));
    redis_server_resume(server);
    assert_checked(&s->a);
    assert_true(wait_until(process_hit(&s->a, "k", &found), PATIENCE_MS)); /* nobody has fetched it */
    assert_int_equal(found, 1);
}

static void test_R31_R35_restarted_server_is_another_one(void **state)
{
    NEEDS_REDIS();
    struct stage *s = *state;
    for (int keep = 0; keep <= 1; keep++) {
        share(s, "k", 1 + (uint64_t)keep);
        uint64_t changes = process_stats(&s->a).server_changes;
        assert_int_equal(redis_server_restart(server, keep), 0);
        assert_true(wait_until(process_stats(&s->a).server_changes > changes, PATIENCE_MS));
        assert_checked(&s->a);
        assert_no_old_hit(&s->a, "k", keep ? 2 : 0);
        assert_int_equal(process_fetch(&s->a, "k"), keep ? 2 : 0);
    }
    share(s, "k", 5);
}

static void test_R37_garbage_on_the_channel_is_survived(void **state)
{
    NEEDS_REDIS();
    struct stage *s = *state;
    share(s, "k", 1);
    assert_string_equal(redis_server_command(server, "PUBLISH", "nearcache:0:", "garbage", NULL), "2");
    assert_true(wait_until(process_stats(&s->a).messages_bad == 1, PATIENCE_MS));
    assert_checked(&s->a);
    assert_checked(&s->b);
    share(s, "k", 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_message_crosses_a_real_server),
        TEST(test_R21_killed_subscription_without_a_missed_write_keeps_entries),
        TEST(test_R35_R10_FLUSHALL_and_lost_position_are_noticed),
        TEST(test_R24_stopped_server_lets_the_proof_lapse_and_nothing_is_lost),
        TEST(test_R31_R35_restarted_server_is_another_one),
        TEST(test_R37_garbage_on_the_channel_is_survived),
    };
    if (redis_server_available())
        server = redis_server_start(NULL);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    redis_server_free(server);
    return failed;
}
