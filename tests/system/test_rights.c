/* SPDX-License-Identifier: BSD-3-Clause
 * The rights of an ACL user: what is missing is told as a rule, and the rule is enough for everything. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "nearcache.h"
#include "support/group_server.h"
#include "system/stack.h"

static pthread_mutex_t told_lock = PTHREAD_MUTEX_INITIALIZER;
static char told[4096]; /* the last rule that was logged */

static void note_rule(void *arg, int level, const char *component, const char *text)
{
    const char *rule = strstr(text, "needed: ACL SETUSER ");
    (void)arg;
    (void)level;
    (void)component;
    if (!rule)
        return;
    pthread_mutex_lock(&told_lock);
    snprintf(told, sizeof(told), "%s", rule + strlen("needed: "));
    pthread_mutex_unlock(&told_lock);
}

static near_cache *open_logging(const char *user, const char *prefix, int tracked, near_log_fn log, uint32_t level)
{
    near_options options;
    near_cache *cache;
    char uri[200];
    stack_options(&options);
    options.prefix = prefix;
    options.log = log;
    options.log_level = level;
    options.track = tracked ? NEAR_TRACK_BCAST : NEAR_TRACK_NONE;
    snprintf(uri, sizeof(uri), "unix://%s:pw@%s", user, redis_server_socket(server));
    assert_int_equal(near_open(uri, &options, &cache, NULL), NEAR_OK);
    return cache;
}

static near_cache *open_as(const char *user, const char *prefix, int tracked)
{
    return open_logging(user, prefix, tracked, note_rule, 7);
}

/* Runs a rule as it stands, as an administrator would who pastes it. */
static void grant(char *rule)
{
    const char *words[100];
    size_t count = 0, sizes[100];
    for (char *word = strtok(rule, " "); word; word = strtok(NULL, " ")) {
        assert_true(count < 100);
        sizes[count] = strlen(word);
        words[count++] = word;
    }
    const char *answer = redis_server_command_argv(server, count, words, sizes, NULL);
    assert_string_equal(answer, "OK");
}

static int load(void *arg, const near_load_request *request, near_loaded *loaded)
{
    (void)arg;
    (void)request;
    near_loaded_tag(loaded, "tag", 3);
    return near_loaded_value(loaded, "loaded", 6);
}

static int fail_to_load(void *arg, const near_load_request *request, near_loaded *loaded)
{
    (void)arg;
    (void)request;
    (void)loaded;
    return -1;
}

/* Every kind of request that the library makes. */
static void do_everything(near_cache *c)
{
    const near_load tagged = {.size = sizeof(tagged), .flags = NEAR_LOAD_TAGS, .ttl_ms = 60000};
    near_item items[2] = {{.key = "a", .key_size = 1, .data = "1", .size = 1},
                          {.key = "b", .key_size = 1, .data = "2", .size = 1}};
    near_write write = {.size = sizeof(write), .ttl_ms = 60000};
    near_call barrier;
    near_held_lock *lock;
    near_warm_result warmed = {.size = sizeof(warmed)};
    near_value value = {0};
    char name[300];
    size_t size;
    int64_t number;
    assert_int_equal(near_set(c, "k", 1, "v", 1, &write, NULL), NEAR_OK);
    write = (near_write){.size = sizeof(write), .flags = NEAR_SET_KEEP_TTL};
    assert_int_equal(near_set(c, "k", 1, "w", 1, &write, NULL), NEAR_OK);
    assert_string_equal(bypass(c, "k"), "w");
    assert_int_equal(near_expire(c, "k", 1, 50000, NULL), NEAR_OK);
    assert_int_equal(near_expire(c, "k", 1, 0, NULL), NEAR_OK);
    assert_int_equal(near_cas(c, "k", 1, "w", 1, "x", 1, NULL, NULL), NEAR_OK);
    assert_int_equal(near_incr(c, "n", 1, 5, NULL, &number), NEAR_OK);
    assert_int_equal(near_incr(c, "n", 1, -7, NULL, &number), NEAR_OK);
    assert_int_equal(near_mset(c, items, 2, NULL, NULL), NEAR_OK);
    assert_int_equal(near_mdel(c, items, 2, NULL), NEAR_OK);
    assert_int_equal(near_del(c, "k", 1, NULL), NEAR_OK);
    assert_int_equal(near_get_or_load(c, "l", 1, load, NULL, &tagged, &value), NEAR_OK);
    near_release(&value);
    assert_int_equal(near_invalidate_tag(c, "tag", 3, NULL), NEAR_OK);
    assert_int_equal(near_get_or_load(c, "l", 1, load, NULL, &tagged, &value), NEAR_OK);
    near_release(&value);
    assert_int_equal(near_get_or_load(c, "m", 1, fail_to_load, NULL, NULL, &value), NEAR_ERR_LOAD);
    assert_int_equal(near_namespace_key(c, "n", 1, "k", 1, NULL, name, sizeof(name), &size), NEAR_OK);
    assert_int_equal(near_namespace_invalidate(c, "n", 1, NULL), NEAR_OK);
    near_call_init(&barrier);
    barrier.flags = NEAR_WRITE_BARRIER;
    barrier.timeout_ms = PATIENCE_MS;
    assert_int_equal(near_set(c, "k", 1, "v", 1, NULL, &barrier), NEAR_OK);
    assert_int_equal(near_lock(c, "lock", 4, NULL, &lock), NEAR_OK);
    assert_int_equal(near_lock_extend(lock, 10000), NEAR_OK);
    assert_int_equal(near_unlock(lock), NEAR_OK);
    assert_int_equal(near_warm_scan(c, "*", NULL, &warmed), NEAR_OK);
    assert_true(warmed.found > 0);
    assert_int_equal(near_clear(c, NEAR_CLEAR_KEYS, NULL, NULL), NEAR_OK);
    assert_int_equal(near_check(c, PATIENCE_MS, NULL), NEAR_OK);
}

/* A user who may nothing but log in; the prefix is long, as real ones are. */
static void pass_with_the_rule(int tracked)
{
    static const char prefix[] = "service-with-a-long-name:production:eu-central-1:catalogue:*:";
    near_error error = {0};
    redis_server_command(server, "ACL", "SETUSER", "two", "reset", "on", ">pw", NULL);
    near_cache *cache = open_as("two", prefix, tracked);
    assert_int_equal(near_check(cache, PATIENCE_MS, &error), NEAR_ERR_DENIED);
    print_message("# %s\n# %s\n", error.text, told);
    assert_non_null(strstr(error.text, "the log has the rule"));
    pthread_mutex_lock(&told_lock);
    grant(told);
    pthread_mutex_unlock(&told_lock);
    assert_true(wait_until(near_check(cache, PATIENCE_MS, &error) == NEAR_OK, PATIENCE_MS));
    assert_int_equal(near_wait_ready(cache, PATIENCE_MS, &error), NEAR_OK);
    do_everything(cache);
    stack_close(cache);
    redis_server_command(server, "ACL", "DELUSER", "two", NULL);
}

static void test_the_rule_that_is_told_is_enough_for_everything(void **state)
{
    NEEDS_SERVER();
    pass_with_the_rule(0);
}

static void test_the_rule_that_is_told_is_enough_with_tracking(void **state)
{
    NEEDS_SERVER();
    pass_with_the_rule(1);
}

/* Without a log function, or with one that is not told errors, the text must not send anybody to the log. */
static void test_nobody_is_sent_to_a_log_that_has_nothing(void **state)
{
    NEEDS_SERVER();
    redis_server_command(server, "ACL", "SETUSER", "two", "reset", "on", ">pw", NULL);
    for (int silent = 0; silent < 2; silent++) {
        near_error error = {0};
        near_cache *cache = open_logging("two", "p:", 0, silent ? note_rule : NULL, silent ? 2 : 7);
        assert_int_equal(near_check(cache, PATIENCE_MS, &error), NEAR_ERR_DENIED);
        print_message("# %s\n", error.text);
        assert_null(strstr(error.text, "the log has the rule"));
        assert_non_null(strstr(error.text, "near_options.log, with log_level 3 or more, gets the rule"));
        stack_close(cache);
    }
    redis_server_command(server, "ACL", "DELUSER", "two", NULL);
}

/* As a user who may do everything else. */
static near_cache *open_without(const char *right)
{
    redis_server_command(server, "ACL", "SETUSER", "two", "reset", "on", ">pw", "~*", "&*", "+@all", right, NULL);
    return open_as("two", "p:", 0);
}

/* Each right that something depends on is missed by near_check when it is taken away. */
static void test_each_missing_right_is_found(void **state)
{
    static const char *const rights[] = {"-eval", "-evalsha", "-get",     "-set",  "-del",     "-incrby", "-publish",
                                         "-pttl", "-exists",  "-pexpire", "-time", "-persist", "-hset",   "-hgetall",
                                         "-hdel", "-hget",    "-incr",    "-decr", "-decrby"};
    int missed = 0;
    NEEDS_SERVER();
    for (size_t i = 0; i < sizeof(rights) / sizeof(rights[0]); i++) {
        near_error error = {0};
        near_cache *cache = open_without(rights[i]);
        if (near_check(cache, PATIENCE_MS, &error) != NEAR_ERR_DENIED) {
            print_error("%s: %d %s\n", rights[i], error.status, error.text);
            missed++;
        }
        stack_close(cache);
    }
    assert_int_equal(missed, 0);
    redis_server_command(server, "ACL", "DELUSER", "two", NULL);
}

static int anybody_is_in_a_transaction(void)
{
    const char *clients = redis_server_command(server, "CLIENT", "LIST", "TYPE", "normal", NULL);
    for (const char *at = clients; (at = strstr(at, " multi=")); at++)
        if (strncmp(at, " multi=-1 ", 10) != 0)
            return 1;
    return 0;
}

/* What docs/coherence.md says may be missing: near_check passes, and leaves connections that serve. */
static void test_what_nothing_depends_on_may_be_missing(void **state)
{
    static const char *const rights[] = {"-multi",          "-discard",         "-mget",      "-select",
                                         "-client|setname", "-client|no-evict", "-config|get"};
    NEEDS_SERVER();
    for (size_t i = 0; i < sizeof(rights) / sizeof(rights[0]); i++) {
        near_error error = {0};
        near_cache *cache = open_without(rights[i]);
        int checked = near_check(cache, PATIENCE_MS, &error);
        print_message("# %s: %s\n", rights[i], checked == NEAR_OK ? "not needed" : error.text);
        assert_int_equal(checked, NEAR_OK);
        assert_false(anybody_is_in_a_transaction());
        for (int n = 0; n < 8; n++) /* on whichever connection */
            assert_int_equal(near_set(cache, "k", 1, "v", 1, NULL, NULL), NEAR_OK);
        assert_string_equal(bypass(cache, "k"), "v");
        stack_close(cache);
    }
    redis_server_command(server, "ACL", "DELUSER", "two", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_rule_that_is_told_is_enough_for_everything),
        cmocka_unit_test(test_the_rule_that_is_told_is_enough_with_tracking),
        cmocka_unit_test(test_nobody_is_sent_to_a_log_that_has_nothing),
        cmocka_unit_test(test_each_missing_right_is_found),
        cmocka_unit_test(test_what_nothing_depends_on_may_be_missing),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
