/* SPDX-License-Identifier: BSD-3-Clause
 * Namespaces on memory://, on "local:" and on a real Redis. */
#include "load/load_pair.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "load/load_source.h"
#include "support/allocfail.h"
#include "support/wait.h"

enum { GENERATION = 16 };

/* The stored key of one of a namespace, or "(STATUS)". */
static const char *key_of(near_cache *c, const char *name, const char *key)
{
    static __thread char text[4][256];
    static __thread unsigned turn;
    char *at = text[turn++ % 4];
    size_t size = 0;
    int status = near_namespace_key(c, name, strlen(name), key, strlen(key), NULL, at, 255, &size);
    if (status == NEAR_OK)
        at[size] = 0;
    else
        snprintf(at, 256, "(%s)", near_status_name(status));
    return at;
}

static int invalidate(near_cache *c, const char *name)
{
    return near_namespace_invalidate(c, name, strlen(name), NULL);
}

/* ---------------------------------------------------------------- what it is for */

static void test_invalidated_namespace_has_none_of_its_keys_any_more(void **state)
{
    struct pair *p = pair_of(state);
    near_cache *other = p->b ? p->b : p->a;
    assert_int_equal(set(p->a, key_of(p->a, "shop", "x"), "1"), NEAR_OK);
    assert_int_equal(set(p->a, key_of(p->a, "shop", "y"), "2"), NEAR_OK);
    assert_int_equal(set(p->a, key_of(p->a, "club", "x"), "3"), NEAR_OK);
    assert_int_equal(set(p->a, "x", "4"), NEAR_OK);
    assert_string_equal(got(other, key_of(other, "shop", "x")), "1"); /* in every process the same */
    assert_int_equal(invalidate(p->a, "shop"), NEAR_OK);
    assert_string_equal(got(p->a, key_of(p->a, "shop", "x")), "(NEAR_MISS)"); /* at once in the process that did it */
    assert_string_equal(got(p->a, key_of(p->a, "shop", "y")), "(NEAR_MISS)");
    assert_true(wait_until(strcmp(got(other, key_of(other, "shop", "x")), "(NEAR_MISS)") == 0, LONG_MS));
    assert_string_equal(got(other, key_of(other, "club", "x")), "3");
    assert_string_equal(got(other, "x"), "4");
    assert_int_equal(set(other, key_of(other, "shop", "x"), "5"), NEAR_OK);
    assert_string_equal(got(p->a, key_of(p->a, "shop", "x")), "5");
}

/* However many keys: one write, one message, and nothing is walked or removed. */
static void test_a_thousand_keys_become_old_by_one_message(void **state)
{
    struct pair *p = pair_of(state);
    char key[16];
    for (int i = 0; i < 1000; i++) {
        snprintf(key, sizeof(key), "%d", i);
        assert_int_equal(set(p->a, key_of(p->a, "many", key), "old"), NEAR_OK);
    }
    near_stats own = stats_of(p->a);
    assert_true(!p->b || wait_until(stats_of(p->b).messages >= own.writes, LONG_MS)); /* it has heard of all */
    near_stats before = stats_of(p->b ? p->b : p->a);
    assert_int_equal(invalidate(p->a, "many"), NEAR_OK);
    assert_int_equal(stats_of(p->a).writes, own.writes + 1);
    assert_int_equal(stats_of(p->a).local_entries, own.local_entries);
    if (p->b) {
        assert_true(wait_until(stats_of(p->b).messages > before.messages, LONG_MS));
        assert_int_equal(stats_of(p->b).messages, before.messages + 1);
    }
    for (int i = 0; i < 1000; i += 111) {
        snprintf(key, sizeof(key), "%d", i);
        assert_string_equal(got(p->a, key_of(p->a, "many", key)), "(NEAR_MISS)");
    }
}

static void test_an_inner_namespace_goes_with_the_outer(void **state)
{
    struct pair *p = pair_of(state);
    char inner[128];
    snprintf(inner, sizeof(inner), "%s", key_of(p->a, "shop", "section:7"));
    assert_int_equal(set(p->a, key_of(p->a, inner, "x"), "1"), NEAR_OK);
    assert_string_equal(got(p->a, key_of(p->a, inner, "x")), "1");
    assert_int_equal(invalidate(p->a, inner), NEAR_OK); /* it alone */
    assert_string_equal(key_of(p->a, "shop", "section:7"), inner);
    assert_string_equal(got(p->a, key_of(p->a, inner, "x")), "(NEAR_MISS)");
    assert_int_equal(set(p->a, key_of(p->a, inner, "x"), "2"), NEAR_OK);
    assert_int_equal(invalidate(p->a, "shop"), NEAR_OK);
    assert_string_not_equal(key_of(p->a, "shop", "section:7"), inner);
    assert_string_equal(got(p->a, key_of(p->a, key_of(p->a, "shop", "section:7"), "x")), "(NEAR_MISS)");
}

static void test_no_two_names_and_keys_are_one_stored_key(void **state)
{
    struct pair *p = pair_of(state);
    assert_string_not_equal(key_of(p->a, "a", "b:c"), key_of(p->a, "a:b", "c"));
    assert_string_not_equal(key_of(p->a, "a", ":"), key_of(p->a, "a:", ""));
    assert_string_equal(key_of(p->a, "a", "b") + GENERATION, ":a:b");
}

/* A generation that was lost must not come back, and neither must what it had. */
static void test_a_lost_generation_is_an_invalidation(void **state)
{
    struct pair *p = pair_of(state);
    char before[128];
    snprintf(before, sizeof(before), "%s", key_of(p->a, "shop", "x"));
    assert_int_equal(set(p->a, before, "1"), NEAR_OK);
    assert_int_equal(near_del(p->a, ":nearcache-ns:shop", 18, NULL), NEAR_OK); /* as an eviction would */
    assert_string_not_equal(key_of(p->a, "shop", "x"), before);
    assert_string_equal(got(p->a, key_of(p->a, "shop", "x")), "(NEAR_MISS)");
    for (int i = 0; i < 50; i++) {
        near_del(p->a, ":nearcache-ns:shop", 18, NULL);
        assert_string_not_equal(key_of(p->a, "shop", "x"), before);
    }
}

/* A load asks its source before the invalidation, and answers after it. */
static void test_R17_what_was_loading_meanwhile_is_not_read(void **state)
{
    struct pair *p = pair_of(state);
    struct source s;
    struct reader r;
    source_init(&s, "old");
    source_hold(&s, 1);
    char key[128];
    snprintf(key, sizeof(key), "%s", key_of(p->a, "shop", "k"));
    r = (struct reader){.cache = p->a, .source = &s, .key = key};
    assert_int_equal(pthread_create(&r.thread, NULL, reader_main, &r), 0);
    source_wait_inside(&s, 1);
    assert_int_equal(invalidate(p->a, "shop"), NEAR_OK);
    source_hold(&s, 0);
    assert_string_equal(reader_end(&r), "old"); /* it began before */
    source_init(&s, "new");
    assert_string_equal(load(p->a, key_of(p->a, "shop", "k"), &s), "new");
}

struct maker {
    pthread_t thread;
    near_cache *cache;
    char key[128];
};
static void *maker_main(void *arg)
{
    struct maker *m = arg;
    snprintf(m->key, sizeof(m->key), "%s", key_of(m->cache, "fresh", "x"));
    return NULL;
}
static void test_who_comes_at_the_same_time_makes_one_generation(void **state)
{
    enum { MAKERS = 8 };
    struct pair *p = pair_of(state);
    struct maker makers[MAKERS];
    for (int i = 0; i < MAKERS; i++) {
        makers[i].cache = p->b && i % 2 ? p->b : p->a;
        assert_int_equal(pthread_create(&makers[i].thread, NULL, maker_main, &makers[i]), 0);
    }
    for (int i = 0; i < MAKERS; i++)
        pthread_join(makers[i].thread, NULL);
    for (int i = 0; i < MAKERS; i++)
        assert_string_equal(makers[i].key, makers[0].key);
}

/* Without asking anybody, and others pay nothing. */
static void test_A_a_known_generation_is_a_local_hit(void **state)
{
    struct pair *p = pair_of(state);
    key_of(p->a, "shop", "x");
    near_stats before = stats_of(p->a);
    for (int i = 0; i < 100; i++)
        key_of(p->a, "shop", "x");
    near_stats after = stats_of(p->a);
    assert_int_equal(after.local_hits - before.local_hits, 100);
    assert_int_equal(after.local_misses, before.local_misses);
}

/* ---------------------------------------------------------------- bad input */

static void test_bad_arguments_are_told_and_change_nothing(void **state)
{
    struct pair *p = pair_of(state);
    char name[NEAR_NAMESPACE_MAX + 1], buffer[NEAR_KEY_MAX], before[128];
    size_t size = 77;
    near_call call;
    memset(name, 'n', sizeof(name));
    snprintf(before, sizeof(before), "%s", key_of(p->a, "n", "k"));
    near_call_init(&call);
    call.flags = 1u << 30;
    assert_int_equal(near_namespace_key(NULL, "n", 1, "k", 1, NULL, buffer, 99, &size), NEAR_ERR_INVALID);
    assert_int_equal(near_namespace_key(p->a, NULL, 1, "k", 1, NULL, buffer, 99, &size), NEAR_ERR_INVALID);
    assert_int_equal(near_namespace_key(p->a, "", 0, "k", 1, NULL, buffer, 99, &size), NEAR_ERR_INVALID);
    assert_int_equal(near_namespace_key(p->a, "n", 1, NULL, 1, NULL, buffer, 99, &size), NEAR_ERR_INVALID);
    assert_int_equal(near_namespace_key(p->a, "n", 1, "k", 1, NULL, NULL, 99, &size), NEAR_ERR_INVALID);
    assert_int_equal(near_namespace_key(p->a, "n", 1, "k", 1, NULL, buffer, 99, NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_namespace_key(p->a, "n", 1, "k", 1, &call, buffer, 99, &size), NEAR_ERR_INVALID);
    assert_int_equal(near_namespace_key(p->a, name, sizeof(name), "k", 1, NULL, buffer, 99, &size), NEAR_ERR_TOO_LARGE);
    assert_int_equal(near_namespace_key(p->a, "n", 1, buffer, NEAR_KEY_MAX - 18, NULL, buffer, sizeof(buffer), &size),
                     NEAR_ERR_TOO_LARGE);
    assert_int_equal(size, 77);
    assert_int_equal(near_namespace_key(p->a, name, NEAR_NAMESPACE_MAX, "k", 1, NULL, buffer, sizeof(buffer), &size),
                     NEAR_OK);
    assert_int_equal(size, NEAR_NAMESPACE_MAX + 19);
    assert_int_equal(near_namespace_invalidate(NULL, "n", 1, NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_namespace_invalidate(p->a, NULL, 1, NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_namespace_invalidate(p->a, "n", 0, NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_namespace_invalidate(p->a, name, sizeof(name), NULL), NEAR_ERR_TOO_LARGE);
    assert_int_equal(near_namespace_invalidate(p->a, "n", 1, &call), NEAR_ERR_INVALID);
    assert_string_equal(key_of(p->a, "n", "k"), before);
}

static void test_a_short_buffer_is_told_its_size(void **state)
{
    struct pair *p = pair_of(state);
    char buffer[32];
    size_t size = 0;
    memset(buffer, '#', sizeof(buffer));
    assert_int_equal(near_namespace_key(p->a, "n", 1, "k", 1, NULL, NULL, 0, &size), NEAR_TRUNCATED);
    assert_int_equal(size, GENERATION + 4);
    assert_int_equal(near_namespace_key(p->a, "n", 1, "k", 1, NULL, buffer, size - 1, &size), NEAR_TRUNCATED);
    assert_int_equal(buffer[0], '#');
    assert_int_equal(near_namespace_key(p->a, "n", 1, "k", 1, NULL, buffer, size, &size), NEAR_OK);
    assert_int_equal(buffer[size], '#');
    assert_memory_equal(buffer + GENERATION, ":n:k", 4);
    assert_int_equal(near_namespace_key(p->a, "n", 1, NULL, 0, NULL, buffer, sizeof(buffer), &size), NEAR_OK);
    assert_memory_equal(buffer + GENERATION, ":n:", 3);
}

/* Whatever the terms, it is the same one, also where there is no other tier to ask. */
static void test_any_flags_of_a_read_find_the_generation(void **state)
{
    static const uint32_t flags[] = {NEAR_BYPASS_LOCAL, NEAR_NO_FILL,       NEAR_BYPASS_LOCAL | NEAR_NO_FILL,
                                     NEAR_ALLOW_STALE,  NEAR_REQUIRE_FRESH, NEAR_BYPASS_LOCAL | NEAR_REQUIRE_FRESH};
    struct pair *p = pair_of(state);
    const char *plain = key_of(p->a, "n", "k");
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        char text[64];
        size_t size = 0;
        near_call call;
        near_call_init(&call);
        call.flags = flags[i];
        assert_int_equal(near_namespace_key(p->a, "n", 1, "k", 1, &call, text, sizeof(text), &size), NEAR_OK);
        assert_int_equal(size, strlen(plain));
        assert_memory_equal(text, plain, size);
    }
}

static void test_what_is_no_generation_is_told(void **state)
{
    static const char *const junk[] = {
        "", "1", "0123456789abcde", "0123456789ABCDEF", "0123456789abcdef0", "0123456789abcde\n"};
    struct pair *p = pair_of(state);
    for (size_t i = 0; i < sizeof(junk) / sizeof(*junk); i++) {
        assert_int_equal(set(p->a, ":nearcache-ns:n", junk[i]), NEAR_OK);
        assert_string_equal(key_of(p->a, "n", "k"), "(NEAR_ERR_WRONG_TYPE)");
        assert_string_equal(got(p->a, ":nearcache-ns:n"), junk[i]); /* it stays: it may be somebody's */
    }
    assert_int_equal(invalidate(p->a, "n"), NEAR_OK); /* and this mends it */
    assert_int_equal(strlen(key_of(p->a, "n", "k")), GENERATION + 4);
}

static near_cache *open_with(const char *uri)
{
    near_cache *cache = NULL;
    near_error error = {0};
    if (near_open(uri, NULL, &cache, &error) != NEAR_OK || near_wait_ready(cache, LONG_MS, &error) != NEAR_OK)
        fail_msg("%s: %s", uri, error.text);
    return cache;
}

/* The name and the key are as they should be; NEAR_ERR_TOO_LARGE would send whoever gets it looking there. */
static void test_cache_that_stores_no_generations_says_so(void **state)
{
    static const char *const uris[] = {"memory://narrow?value_max=15", "local:?value_max=15"};
    (void)state;
    for (size_t i = 0; i < sizeof(uris) / sizeof(*uris); i++) {
        near_cache *cache = open_with(uris[i]);
        assert_string_equal(key_of(cache, "n", "k"), "(NEAR_ERR_OPTION)");
        assert_int_equal(invalidate(cache, "n"), NEAR_ERR_OPTION);
        assert_int_equal(near_close(cache), NEAR_OK);
    }
    near_cache *wide = open_with("memory://narrow"), *narrow = open_with("memory://narrow?value_max=15"),
               *just = open_with("memory://narrow?value_max=16");
    assert_int_equal(strlen(key_of(wide, "n", "k")), GENERATION + 4);
    assert_string_equal(key_of(narrow, "n", "k"), "(NEAR_ERR_OPTION)"); /* what another has made, too */
    assert_string_equal(key_of(just, "n", "k"), key_of(wide, "n", "k"));
    assert_int_equal(set(wide, ":nearcache-ns:m", "something else"), NEAR_OK);
    assert_string_equal(key_of(just, "m", "k"), "(NEAR_ERR_WRONG_TYPE)");
    assert_int_equal(set(wide, ":nearcache-ns:o", "something else, and long"), NEAR_OK);
    assert_string_equal(key_of(just, "o", "k"), "(NEAR_ERR_WRONG_TYPE)");
    assert_int_equal(near_close(narrow), NEAR_OK);
    assert_int_equal(near_close(just), NEAR_OK);
    assert_int_equal(near_close(wide), NEAR_OK);
}

static void test_H_without_the_server_a_known_generation_may_be_used(void **state)
{
    struct pair *p = pair_of(state);
    near_call call;
    char buffer[64], before[64];
    size_t size = 0;
    near_value kept;
    if (p->kind != REDIS)
        skip();
    near_call_init(&call);
    call.timeout_ms = 300;
    snprintf(before, sizeof(before), "%s", key_of(p->a, "n", "k"));
    assert_true(wait_until(near_peek(p->a, ":nearcache-ns:n", 15, &kept) == NEAR_OK, LONG_MS));
    near_release(&kept);
    redis_server_kill(pair_server);
    assert_true(near_namespace_key(p->a, "other", 5, "k", 1, &call, buffer, sizeof(buffer), &size) < 0);
    call.flags = NEAR_ALLOW_STALE;
    int status = near_namespace_key(p->a, "n", 1, "k", 1, &call, buffer, sizeof(buffer), &size);
    assert_int_equal(status, NEAR_STALE);
    assert_memory_equal(buffer, before, size);
    call.flags = 0;
    assert_true(near_namespace_invalidate(p->a, "n", 1, &call) < 0);
    assert_int_equal(redis_server_restart(pair_server, 0), 0);
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    for (size_t n = 1;; n++) {
        struct allocfail hooks;
        near_options options;
        near_cache *c = NULL;
        allocfail_init(&hooks);
        near_options_init(&options);
        options.allocator = hooks.hooks;
        assert_int_equal(near_open("memory://namespaces-nomem", &options, &c, NULL), NEAR_OK);
        assert_int_equal(near_wait_ready(c, LONG_MS, NULL), NEAR_OK);
        near_del(c, ":nearcache-ns:n", 15, NULL); /* it is made anew each time */
        allocfail_at(&hooks, n);
        const char *key = key_of(c, "n", "k");
        assert_true(key[0] != '(' || strcmp(key, "(NEAR_ERR_NOMEM)") == 0);
        int status = invalidate(c, "n");
        assert_true(status == NEAR_OK || status == NEAR_ERR_NOMEM);
        uint64_t failed = allocfail_struck(&hooks);
        allocfail_at(&hooks, 0);
        assert_int_equal(set(c, key_of(c, "n", "k"), "v"), NEAR_OK); /* nothing is broken */
        assert_string_equal(got(c, key_of(c, "n", "k")), "v");
        assert_int_equal(near_close(c), NEAR_OK);
        assert_int_equal(allocfail_blocks(&hooks), 0);
        if (!failed)
            break;
    }
}

static void serve_stale_for_long(near_options *options)
{
    options->stale_ms = 10 * LONG_MS;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_ALL(test_invalidated_namespace_has_none_of_its_keys_any_more),
        ON_ALL(test_a_thousand_keys_become_old_by_one_message),
        ON_ALL(test_an_inner_namespace_goes_with_the_outer),
        ON_ALL(test_no_two_names_and_keys_are_one_stored_key),
        ON_ALL(test_a_lost_generation_is_an_invalidation),
        ON_ALL(test_R17_what_was_loading_meanwhile_is_not_read),
        ON_ALL(test_who_comes_at_the_same_time_makes_one_generation),
        ON_ALL(test_A_a_known_generation_is_a_local_hit),
        ON_ALL(test_bad_arguments_are_told_and_change_nothing),
        ON_ALL(test_a_short_buffer_is_told_its_size),
        ON_ALL(test_any_flags_of_a_read_find_the_generation),
        ON_ALL(test_what_is_no_generation_is_told),
        ON_ALL(test_H_without_the_server_a_known_generation_may_be_used),
        cmocka_unit_test(test_cache_that_stores_no_generations_says_so),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    pair_memory_uri = "memory://namespaces";
    pair_options = serve_stale_for_long;
    return RUN_BESIDE_REDIS(tests);
}
