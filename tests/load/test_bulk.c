/* SPDX-License-Identifier: BSD-3-Clause
 * near_mget_or_load on memory://, on "local:" and on a real Redis.  Loaders are held by the tests themselves; nothing
 * here waits for time to pass. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load/load_pair.h"
#include "load/load_source.h"
#include "support/allocfail.h"
#include "support/seed.h"
#include "support/wait.h"

enum { ITEMS_MAX = 300, VALUE_MAX = 65536 };

static void small_options(near_options *options)
{
    options->value_max = VALUE_MAX;
    options->load_refreshes = 1; /* a call for many keys is one */
}

/* ---------------------------------------------------------------- a source of many keys */

/* Answers key k with "<prefix>k", but a key that begins with
 *      m   is absent (told)        e   failed       n   has an answer that is not allowed
 *      b   is too large            u   of it nothing is told: the function's own answer counts */
struct shelf {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int held, inside, calls, keys, answer;
    char prefix[16];
    char asked[512]; /* by the last call: "k0 k1 " */
    uint64_t fence;
};

static void shelf_init(struct shelf *s, const char *prefix)
{
    memset(s, 0, sizeof(*s));
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->changed, NULL);
    snprintf(s->prefix, sizeof(s->prefix), "%s", prefix);
}
static void shelf_hold(struct shelf *s, int held)
{
    pthread_mutex_lock(&s->mutex);
    s->held = held;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mutex);
}
static void shelf_wait_inside(struct shelf *s, int n)
{
    pthread_mutex_lock(&s->mutex);
    while (s->inside < n)
        pthread_cond_wait(&s->changed, &s->mutex);
    pthread_mutex_unlock(&s->mutex);
}

static void shelf_tell(const near_load_request *request, const char *prefix, near_loaded *loaded)
{
    static char large[VALUE_MAX + 1];
    char value[160];
    const char *key = request->key;
    if (*key == 'm')
        near_loaded_answer(loaded, NEAR_MISS);
    else if (*key == 'e')
        near_loaded_answer(loaded, -7);
    else if (*key == 'n')
        near_loaded_answer(loaded, NEAR_UNCHANGED);
    else if (*key == 'b')
        near_loaded_value(loaded, large, sizeof(large));
    else if (*key != 'u') {
        snprintf(value, sizeof(value), "%s%.*s", prefix, (int)request->key_size, key);
        near_loaded_value(loaded, value, strlen(value));
    }
}

static int load_shelf(void *arg, const near_load_request *requests, near_loaded *const *loaded, size_t count)
{
    struct shelf *s = arg;
    char prefix[sizeof(s->prefix)];
    size_t at = 0;
    pthread_mutex_lock(&s->mutex);
    memcpy(prefix, s->prefix, sizeof(prefix)); /* the source is asked at once, the answer may take its time */
    s->calls++;
    s->inside++;
    s->keys += (int)count;
    s->fence = requests[0].fence;
    for (size_t i = 0; i < count && at < sizeof(s->asked) - 100; i++)
        at += (size_t)snprintf(s->asked + at, sizeof(s->asked) - at, "%.*s ", (int)requests[i].key_size,
                               (const char *)requests[i].key);
    pthread_cond_broadcast(&s->changed);
    while (s->held)
        pthread_cond_wait(&s->changed, &s->mutex);
    s->inside--;
    int answer = s->answer;
    pthread_mutex_unlock(&s->mutex);
    for (size_t i = 0; i < count; i++)
        shelf_tell(&requests[i], prefix, loaded[i]);
    return answer;
}

/* What a call gives: "value value (STATUS) ", stale values begin with "stale:". */
static int ask_with(near_cache *c, const char *const *keys, struct shelf *s, const near_load *options, char ret[512])
{
    near_item items[16] = {{0}};
    size_t count = 0, at = 0;
    for (; keys[count]; count++) {
        items[count].key = keys[count];
        items[count].key_size = strlen(keys[count]);
    }
    int status = near_mget_or_load(c, items, count, s ? load_shelf : NULL, s, options);
    for (size_t i = 0; i < count; i++) {
        const near_item *item = &items[i];
        if (item->status == NEAR_OK || item->status == NEAR_STALE)
            at += (size_t)snprintf(ret + at, 512 - at, "%s%.*s ", item->status == NEAR_STALE ? "stale:" : "",
                                   (int)item->value.size, (const char *)item->value.data);
        else
            at += (size_t)snprintf(ret + at, 512 - at, "(%s) ", near_status_name(item->status));
        near_release(&items[i].value);
    }
    return status;
}

#define KEYS(...)                                                                                                      \
    (const char *const[])                                                                                              \
    {                                                                                                                  \
        __VA_ARGS__, NULL                                                                                              \
    }
#define assert_asks(c, keys, s, options, status, text)                                                                 \
    do {                                                                                                               \
        char answer_[512];                                                                                             \
        int status_ = ask_with(c, keys, s, options, answer_);                                                          \
        assert_string_equal(answer_, text);                                                                            \
        assert_int_equal(status_, status);                                                                             \
    } while (0)

/* A call in a thread of its own. */
struct asker {
    pthread_t thread;
    near_cache *cache;
    struct shelf *shelf;
    const char *keys[8];
    char answer[512];
};
static void *asker_main(void *arg)
{
    struct asker *a = arg;
    ask_with(a->cache, a->keys, a->shelf, NULL, a->answer);
    return NULL;
}
static void asker_start(struct asker *a, near_cache *c, struct shelf *s, const char *const *keys)
{
    *a = (struct asker){.cache = c, .shelf = s};
    for (size_t i = 0; keys[i]; i++)
        a->keys[i] = keys[i];
    assert_int_equal(pthread_create(&a->thread, NULL, asker_main, a), 0);
}
static const char *asker_end(struct asker *a)
{
    pthread_join(a->thread, NULL);
    return a->answer;
}

/* ---------------------------------------------------------------- one call */

static void test_one_call_has_the_keys_that_neither_tier_has(void **state)
{
    struct pair *p = pair_of(state);
    struct shelf s;
    shelf_init(&s, "v:");
    assert_int_equal(set(p->a, "local", "here"), NEAR_OK);
    assert_int_equal(set(p->b ? p->b : p->a, "remote", "there"), NEAR_OK);
    assert_asks(p->a, KEYS("k0", "local", "k1", "remote", "k2", "k1"), &s, NULL, NEAR_OK,
                "v:k0 here v:k1 there v:k2 v:k1 ");
    assert_int_equal(s.calls, 1);
    assert_string_equal(s.asked, "k0 k1 k2 ");
    assert_int_equal(stats_of(p->a).loads, 3);
    assert_int_equal(stats_of(p->a).loads_unkept, 0);
    assert_asks(p->a, KEYS("k2", "k0", "k1"), &s, NULL, NEAR_OK, "v:k2 v:k0 v:k1 ");
    assert_string_equal(got(p->a, "k1"), "v:k1");
    if (p->b) {
        assert_asks(p->b, KEYS("k2", "k0", "k1"), &s, NULL, NEAR_OK, "v:k2 v:k0 v:k1 ");
        assert_true(s.fence > 0);
    }
    assert_int_equal(s.calls, 1);
    if (p->kind == REDIS) { /* plain for everybody else, and nothing is left beside it */
        assert_string_equal(redis_server_command(pair_server, "GET", "k2", NULL), "v:k2");
        assert_string_equal(
            redis_server_command(pair_server, "EXISTS", "k0:nearcache-lease", "k1:nearcache-lease", NULL), "0");
    }
}

static void test_each_key_is_told_its_own_end(void **state)
{
    struct pair *p = pair_of(state);
    struct shelf s;
    near_load options;
    near_load_init(&options);
    options.absent_ms = LONG_MS;
    shelf_init(&s, "v:");
    assert_asks(p->a, KEYS("k0", "m", "e", "n", "b", "u", "k1"), &s, &options, NEAR_ERR_LOAD,
                "v:k0 (NEAR_MISS) (NEAR_ERR_LOAD) (NEAR_ERR_LOADER) (NEAR_ERR_TOO_LARGE) (NEAR_ERR_LOADER) v:k1 ");
    assert_int_equal(s.calls, 1);
    assert_int_equal(stats_of(p->a).loads_failed, 4);
    assert_int_equal(stats_of(p->a).loads_absent, 1);
    s.answer = NEAR_MISS; /* of what nothing is told */
    assert_asks(p->a, KEYS("u", "k2"), &s, &options, NEAR_OK, "(NEAR_MISS) v:k2 ");
    s.answer = -1;
    assert_asks(p->a, KEYS("u2", "k3"), &s, &options, NEAR_ERR_LOAD, "(NEAR_ERR_LOAD) v:k3 ");
    /* what was kept, and absence, are not asked for again; errors are */
    near_cache *other = p->b ? p->b : p->a;
    assert_asks(other, KEYS("k0", "m", "u", "k1", "k2", "k3"), &s, &options, NEAR_OK,
                "v:k0 (NEAR_MISS) (NEAR_MISS) v:k1 v:k2 v:k3 ");
    assert_int_equal(s.calls, 3);
    assert_asks(other, KEYS("e"), &s, &options, NEAR_ERR_LOAD, "(NEAR_ERR_LOAD) ");
    assert_int_equal(s.calls, 4);
}

/* ---------------------------------------------------------------- together with others */

static void test_R16_threads_share_what_a_batch_loads(void **state)
{
    struct pair *p = pair_of(state);
    struct shelf s;
    struct asker first, second;
    shelf_init(&s, "v:");
    shelf_hold(&s, 1);
    asker_start(&first, p->a, &s, KEYS("k0", "k1"));
    shelf_wait_inside(&s, 1);
    asker_start(&second, p->a, &s, KEYS("k2", "k1", "k0"));
    shelf_wait_inside(&s, 2); /* its own key is on its way before it waits */
    shelf_hold(&s, 0);
    assert_string_equal(asker_end(&first), "v:k0 v:k1 ");
    assert_string_equal(asker_end(&second), "v:k2 v:k1 v:k0 ");
    assert_int_equal(s.keys, 3);
    assert_int_equal(stats_of(p->a).flights_joined, 2);
}

static void test_R16_keys_that_another_process_loads_are_waited_for(void **state)
{
    struct pair *p = pair_of(state);
    struct shelf theirs, ours;
    struct asker first, second;
    if (!p->b)
        skip();
    shelf_init(&theirs, "b:");
    shelf_init(&ours, "a:");
    shelf_hold(&theirs, 1);
    asker_start(&first, p->b, &theirs, KEYS("k1", "k3"));
    shelf_wait_inside(&theirs, 1);
    asker_start(&second, p->a, &ours, KEYS("k0", "k1", "k2", "k3"));
    while (stats_of(p->a).load_waits < 2 || stats_of(p->a).loads < 2)
        wait_a_moment();
    shelf_hold(&theirs, 0);
    assert_string_equal(asker_end(&first), "b:k1 b:k3 ");
    assert_string_equal(asker_end(&second), "a:k0 b:k1 a:k2 b:k3 ");
    assert_int_equal(ours.calls, 1);
    assert_string_equal(ours.asked, "k0 k2 ");
    assert_true(stats_of(p->a).load_waits <= 6); /* nobody asks again and again */
}

static void test_what_failed_elsewhere_is_loaded_here(void **state)
{
    struct pair *p = pair_of(state);
    struct shelf theirs, ours;
    struct asker first, asker;
    if (!p->b)
        skip();
    shelf_init(&ours, "a:");
    shelf_init(&theirs, "b:");
    shelf_hold(&theirs, 1);
    theirs.answer = -1;
    asker_start(&first, p->b, &theirs, KEYS("u1", "u2"));
    shelf_wait_inside(&theirs, 1);
    ours.answer = NEAR_MISS;
    asker_start(&asker, p->a, &ours, KEYS("k0", "u1", "u2"));
    while (stats_of(p->a).load_waits < 2)
        wait_a_moment();
    shelf_hold(&theirs, 0);
    assert_string_equal(asker_end(&first), "(NEAR_ERR_LOAD) (NEAR_ERR_LOAD) ");
    assert_string_equal(asker_end(&asker), "a:k0 (NEAR_MISS) (NEAR_MISS) "); /* long before the leases' end */
    assert_int_equal(ours.keys, 3);
}

/* ---------------------------------------------------------------- against writers */

static void test_R17_a_write_voids_its_key_and_no_other(void **state)
{
    struct pair *p = pair_of(state);
    struct shelf s;
    struct asker asker;
    shelf_init(&s, "old:");
    shelf_hold(&s, 1);
    asker_start(&asker, p->a, &s, KEYS("k0", "k1", "k2"));
    shelf_wait_inside(&s, 1);
    assert_int_equal(set(p->a, "k1", "new"), NEAR_OK);
    assert_asks(p->a, KEYS("k1"), &s, NULL, NEAR_OK, "new "); /* while the older load is still there */
    shelf_hold(&s, 0);
    asker_end(&asker);
    assert_asks(p->a, KEYS("k0", "k1", "k2"), &s, NULL, NEAR_OK, "old:k0 new old:k2 ");
    assert_string_equal(got(p->a, "k1"), "new");
    assert_int_equal(stats_of(p->a).loads_unkept, 1);
    assert_int_equal(s.calls, 1);
    if (p->kind == REDIS)
        assert_string_equal(redis_server_command(pair_server, "GET", "k1", NULL), "new");
}

static void test_R17_a_removal_during_the_load_makes_the_next_call_load(void **state)
{
    struct pair *p = pair_of(state);
    struct shelf s;
    struct asker first, later;
    shelf_init(&s, "old:");
    shelf_hold(&s, 1);
    asker_start(&first, p->a, &s, KEYS("k0", "k1"));
    shelf_wait_inside(&s, 1);
    pthread_mutex_lock(&s.mutex);
    snprintf(s.prefix, sizeof(s.prefix), "new:");
    pthread_mutex_unlock(&s.mutex);
    assert_int_equal(near_del(p->a, "k1", 2, NULL), NEAR_MISS);
    asker_start(&later, p->a, &s, KEYS("k1"));
    shelf_wait_inside(&s, 2);
    shelf_hold(&s, 0);
    assert_string_equal(asker_end(&later), "new:k1 ");
    asker_end(&first);
    assert_asks(p->a, KEYS("k0", "k1"), &s, NULL, NEAR_OK, "old:k0 new:k1 ");
}

static void test_a_refresh_keeps_what_the_source_calls_unchanged(void **state)
{
    struct pair *p = pair_of(state);
    struct shelf s;
    near_load options;
    near_load_init(&options);
    options.flags = NEAR_LOAD_REFRESH;
    shelf_init(&s, "v:");
    assert_int_equal(set(p->a, "n", "old"), NEAR_OK);
    assert_int_equal(set(p->a, "k", "old"), NEAR_OK);
    assert_asks(p->a, KEYS("n", "k"), &s, &options, NEAR_OK, "old v:k ");
    assert_asks(p->a, KEYS("n", "k"), &s, NULL, NEAR_OK, "old v:k ");
    assert_int_equal(s.calls, 1);
}

/* ---------------------------------------------------------------- behind the caller's back */

/* A value that set_old writes is old at once: less than the grace is left of it. */
static near_load old_at_once(void)
{
    near_load options;
    near_load_init(&options);
    options.ttl_ms = LONG_MS;
    options.stale_ms = LONG_MS;
    return options;
}
static void set_old(near_cache *c, const char *key, const char *value)
{
    near_write write;
    near_write_init(&write);
    write.ttl_ms = LONG_MS / 2;
    assert_int_equal(near_set(c, key, strlen(key), value, strlen(value), &write, NULL), NEAR_OK);
}
static void wait_for_calls(struct shelf *s, int calls)
{
    for (int now = -1; now < calls; wait_a_moment()) {
        pthread_mutex_lock(&s->mutex);
        now = s->calls - s->inside;
        pthread_mutex_unlock(&s->mutex);
    }
}

/* The one before may have an instant to go.  Not a call longer: without a server nobody tells a call that saw the old
 * value that it has been refreshed since. */
static void ask_until_refreshes(near_cache *c, const char *const *keys, struct shelf *s, const near_load *options,
                                uint64_t refreshes)
{
    char answer[512];
    while (stats_of(c).refreshes < refreshes)
        ask_with(c, keys, s, options, answer);
}

static void test_what_is_old_is_refreshed_by_one_call(void **state)
{
    struct pair *p = pair_of(state);
    struct shelf s;
    near_load options = old_at_once();
    shelf_init(&s, "v:");
    set_old(p->a, "k0", "old");
    set_old(p->a, "k1", "old");
    set_old(p->a, "k2", "old");
    shelf_hold(&s, 1);
    assert_asks(p->a, KEYS("k0", "k1", "k2", "k1"), &s, &options, NEAR_OK, "stale:old stale:old stale:old stale:old ");
    shelf_wait_inside(&s, 1);
    assert_string_equal(s.asked, "k0 k1 k2 ");
    assert_asks(p->a, KEYS("k2", "k0"), &s, &options, NEAR_OK, "stale:old stale:old "); /* it is under way */
    shelf_hold(&s, 0);
    while (stats_of(p->a).loads < 3 || strcmp(got(p->a, "k2"), "v:k2") != 0)
        wait_a_moment();
    assert_asks(p->a, KEYS("k0", "k1", "k2"), &s, &options, NEAR_OK, "v:k0 v:k1 v:k2 ");
    assert_int_equal(s.calls, 1);
    assert_int_equal(stats_of(p->a).refreshes, 3); /* where one may run at a time */
    assert_int_equal(stats_of(p->a).loads_unkept, 0);
    set_old(p->a, "k0", "old");
    ask_until_refreshes(p->a, KEYS("k0"), &s, &options, 4); /* and then the next */
    while (strcmp(got(p->a, "k0"), "v:k0") != 0)
        wait_a_moment();
    assert_int_equal(s.calls, 2);
    if (p->b)
        assert_true(s.fence > 0);
}

static void test_what_is_missing_does_not_wait_for_what_is_refreshed(void **state)
{
    struct pair *p = pair_of(state);
    struct shelf s;
    struct asker behind;
    near_load options = old_at_once();
    shelf_init(&s, "v:");
    set_old(p->a, "k1", "old");
    assert_int_equal(near_set_bulk_loader(p->a, load_shelf, &s, &options), NEAR_OK);
    shelf_hold(&s, 1);
    asker_start(&behind, p->a, NULL, KEYS("k0", "k1"));
    shelf_wait_inside(&s, 2);
    shelf_hold(&s, 0);
    assert_string_equal(asker_end(&behind), "v:k0 stale:old ");
    wait_for_calls(&s, 2);
    assert_int_equal(s.keys, 2);
}

static void test_R16_what_another_process_refreshes_is_left_to_it(void **state)
{
    struct pair *p = pair_of(state);
    struct shelf theirs, ours;
    near_load options = old_at_once();
    if (!p->b)
        skip();
    shelf_init(&theirs, "b:");
    shelf_init(&ours, "a:");
    set_old(p->a, "k0", "old");
    set_old(p->a, "k1", "old");
    assert_string_equal(got(p->b, "k1"), "old");
    shelf_hold(&theirs, 1);
    assert_asks(p->b, KEYS("k1"), &theirs, &options, NEAR_OK, "stale:old ");
    shelf_wait_inside(&theirs, 1);
    assert_asks(p->a, KEYS("k0", "k1"), &ours, &options, NEAR_OK, "stale:old stale:old ");
    wait_for_calls(&ours, 1);
    assert_string_equal(ours.asked, "k0 ");
    shelf_hold(&theirs, 0);
    while (strcmp(got(p->a, "k1"), "b:k1") != 0 || strcmp(got(p->a, "k0"), "a:k0") != 0)
        wait_a_moment();
    assert_int_equal(ours.keys, 1);
}

static void test_a_refresh_that_fails_changes_nothing_for_the_others(void **state)
{
    struct pair *p = pair_of(state);
    struct shelf s;
    near_load options = old_at_once();
    shelf_init(&s, "v:");
    set_old(p->a, "e", "old");
    set_old(p->a, "b", "old");
    set_old(p->a, "k", "old");
    assert_asks(p->a, KEYS("e", "b", "k"), &s, &options, NEAR_OK, "stale:old stale:old stale:old ");
    while (strcmp(got(p->a, "k"), "v:k") != 0 || stats_of(p->a).loads_failed < 2)
        wait_a_moment();
    assert_string_equal(got(p->a, "e"), "old");
    assert_string_equal(got(p->a, "b"), "old");
    assert_int_equal(s.calls, 1);
}

/* With a loader for single keys each refresh is one, and there may be one at a time. */
static void test_refreshes_above_the_limit_are_left_to_the_next_call(void **state)
{
    struct pair *p = pair_of(state);
    struct source one;
    near_load options = old_at_once();
    source_init(&one, "new");
    assert_int_equal(near_set_loader(p->a, load_from, &one, &options), NEAR_OK);
    set_old(p->a, "k0", "old");
    set_old(p->a, "k1", "old");
    source_hold(&one, 1);
    assert_asks(p->a, KEYS("k0", "k1"), NULL, NULL, NEAR_OK, "stale:old stale:old ");
    source_wait_inside(&one, 1);
    assert_int_equal(stats_of(p->a).refreshes, 1);
    assert_int_equal(stats_of(p->a).refreshes_skipped, 1);
    source_hold(&one, 0);
    while (strcmp(got(p->a, "k0"), "new") != 0)
        wait_a_moment();
    ask_until_refreshes(p->a, KEYS("k1"), NULL, NULL, 2);
    while (strcmp(got(p->a, "k1"), "new") != 0)
        wait_a_moment();
    assert_int_equal(source_loads(&one), 2);
}

/* Refreshes may be left undone for want of memory; then the next call tries. */
static void test_every_allocation_of_a_refresh_may_fail(void **state)
{
    (void)state;
    uint64_t failed = 1;
    for (size_t n = 1; failed; n++) {
        struct allocfail hooks;
        struct shelf s;
        near_options options;
        near_cache *c = NULL;
        near_load old = old_at_once();
        char answer[512];
        allocfail_init(&hooks);
        near_options_init(&options);
        options.allocator = hooks.hooks;
        shelf_init(&s, "v:");
        assert_int_equal(near_open("memory://bulk-nomem", &options, &c, NULL), NEAR_OK);
        assert_int_equal(near_wait_ready(c, LONG_MS, NULL), NEAR_OK);
        set_old(c, "k0", "old");
        set_old(c, "k1", "old");
        allocfail_at(&hooks, n);
        int status = ask_with(c, KEYS("k0", "k1"), &s, &old, answer);
        assert_true(status == NEAR_ERR_NOMEM || strcmp(answer, "stale:old stale:old ") == 0);
        assert_int_equal(near_close(c), NEAR_OK); /* waits for the refresh */
        failed = allocfail_struck(&hooks);
        assert_int_equal(allocfail_blocks(&hooks), 0);
    }
}

/* ---------------------------------------------------------------- the cache's own, and arguments */

static void test_the_cache_s_own_loaders_stand_in_for_each_other(void **state)
{
    struct pair *p = pair_of(state);
    struct shelf s;
    struct source one;
    near_value value;
    shelf_init(&s, "v:");
    source_init(&one, "one");
    assert_int_equal(near_set_bulk_loader(p->a, NULL, NULL, NULL), NEAR_ERR_INVALID);
    assert_asks(p->a, KEYS("k"), NULL, NULL, NEAR_ERR_INVALID, "(NEAR_ERR_INVALID) ");
    assert_int_equal(near_set_loader(p->a, load_from, &one, NULL), NEAR_OK);
    assert_asks(p->a, KEYS("k0", "k1"), NULL, NULL, NEAR_OK, "one one ");
    assert_int_equal(source_loads(&one), 2);
    assert_int_equal(near_set_bulk_loader(p->a, load_shelf, &s, NULL), NEAR_OK);
    assert_asks(p->a, KEYS("k2", "k3"), NULL, NULL, NEAR_OK, "v:k2 v:k3 ");
    assert_int_equal(s.calls, 1);
    assert_int_equal(near_get_or_load(p->a, "k4", 2, NULL, NULL, NULL, &value), NEAR_OK);
    assert_int_equal(value.size, 3);
    near_release(&value);
    if (!p->b)
        return;
    assert_int_equal(near_set_bulk_loader(p->b, load_shelf, &s, NULL), NEAR_OK); /* has no other */
    assert_int_equal(near_get_or_load(p->b, "k5", 2, NULL, NULL, NULL, &value), NEAR_OK);
    assert_memory_equal(value.data, "v:k5", 4);
    near_release(&value);
}

static void test_bad_arguments(void **state)
{
    struct pair *p = pair_of(state);
    static char long_key[NEAR_KEY_MAX + 1];
    struct shelf s;
    near_load bad;
    shelf_init(&s, "v:");
    memset(long_key, 'x', sizeof(long_key));
    near_item items[3] = {
        {.key = "k0", .key_size = 2}, {.key = long_key, .key_size = sizeof(long_key)}, {.key = "k1", .key_size = 2}};
    assert_int_equal(near_mget_or_load(NULL, items, 3, load_shelf, &s, NULL), NEAR_ERR_INVALID);
    assert_int_equal(items[2].status, NEAR_ERR_INVALID);
    assert_int_equal(near_mget_or_load(p->a, NULL, 3, load_shelf, &s, NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_mget_or_load(p->a, NULL, 0, load_shelf, &s, NULL), NEAR_OK);
    near_load_init(&bad);
    bad.ttl_ms = -1;
    assert_int_equal(near_mget_or_load(p->a, items, 3, load_shelf, &s, &bad), NEAR_ERR_INVALID);
    assert_int_equal(s.calls, 0);
    assert_int_equal(near_mget_or_load(p->a, items, 3, load_shelf, &s, NULL), NEAR_ERR_TOO_LARGE);
    assert_int_equal(items[0].status, NEAR_OK);
    assert_int_equal(items[1].status, NEAR_ERR_TOO_LARGE);
    assert_int_equal(items[2].status, NEAR_OK);
    for (int i = 0; i < 3; i++)
        near_release(&items[i].value);
    assert_int_equal(near_loaded_answer(NULL, NEAR_MISS), NEAR_ERR_INVALID);
}

/* How often the server had to read from any connection: a pipeline is a few reads, however many commands it has. */
static long long reads_of_the_server(void)
{
    return redis_server_info(pair_server, "stats", "total_reads_processed");
}

static void test_hundreds_of_keys_are_one_call_and_two_round_trips(void **state)
{
    struct pair *p = pair_of(state);
    static near_item items[ITEMS_MAX];
    static char keys[ITEMS_MAX][16];
    struct shelf s;
    shelf_init(&s, "v:");
    for (int i = 0; i < ITEMS_MAX; i++)
        items[i] = (near_item){.key = keys[i], .key_size = (size_t)snprintf(keys[i], sizeof(keys[i]), "k%d", i)};
    long long reads = p->kind == REDIS ? reads_of_the_server() : 0;
    assert_int_equal(near_mget_or_load(p->a, items, ITEMS_MAX, load_shelf, &s, NULL), NEAR_OK);
    if (p->kind == REDIS)
        assert_in_range(reads_of_the_server() - reads, 1, ITEMS_MAX / 2);
    for (int i = 0; i < ITEMS_MAX; i++) {
        assert_int_equal(items[i].value.size, items[i].key_size + 2);
        assert_memory_equal((const char *)items[i].value.data + 2, keys[i], items[i].key_size);
        assert_int_equal(items[i].value.source, NEAR_FROM_LOADER);
        near_release(&items[i].value);
    }
    assert_int_equal(s.calls, 1);
    assert_int_equal(s.keys, ITEMS_MAX);
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    for (size_t n = 1;; n++) {
        struct allocfail hooks;
        struct shelf s;
        near_options options;
        near_cache *c = NULL;
        near_load brief;
        char answer[512];
        near_load_init(&brief);
        brief.lease_ms = 20; /* one that could not even be given back ends by itself */
        allocfail_init(&hooks);
        near_options_init(&options);
        options.allocator = hooks.hooks;
        shelf_init(&s, "v:");
        assert_int_equal(near_open("memory://bulk-nomem", &options, &c, NULL), NEAR_OK);
        assert_int_equal(near_wait_ready(c, LONG_MS, NULL), NEAR_OK);
        allocfail_at(&hooks, n);
        int status = ask_with(c, KEYS("k0", "m", "k1"), &s, &brief, answer);
        uint64_t failed = allocfail_struck(&hooks);
        allocfail_at(&hooks, 0);
        assert_true(status == NEAR_OK || status == NEAR_ERR_NOMEM || status == NEAR_ERR_LOADER);
        assert_asks(c, KEYS("k0", "m", "k1"), &s, NULL, NEAR_OK, "v:k0 (NEAR_MISS) v:k1 "); /* nothing is broken */
        assert_int_equal(near_close(c), NEAR_OK);
        assert_int_equal(allocfail_blocks(&hooks), 0);
        if (!failed)
            break;
    }
}

/* ---------------------------------------------------------------- at random */

enum { KEYS_COUNT = 8, READERS = 4, ROUNDS = 300 };

/* Readers in both processes ask for overlapping batches in any order, writers change the source and then the cache. */
struct world {
    struct pair *pair;
    pthread_mutex_t writing[KEYS_COUNT];
    _Atomic(long) source[KEYS_COUNT];
    _Atomic(long) acknowledged[2][KEYS_COUNT]; /* by a writer of this process */
    _Atomic(int) wrong;
};
struct actor {
    pthread_t thread;
    struct world *world;
    unsigned which; /* whose process */
    int writes;
    uint64_t random;
};

static unsigned draw(struct actor *a, unsigned below)
{
    a->random = a->random * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (unsigned)(a->random >> 33) % below;
}

static int load_world(void *arg, const near_load_request *requests, near_loaded *const *loaded, size_t count)
{
    struct world *w = arg;
    for (size_t i = 0; i < count; i++) {
        char text[24];
        unsigned k = (unsigned)(*(const char *)requests[i].key - '0');
        int size = snprintf(text, sizeof(text), "%ld", atomic_load(&w->source[k]));
        near_loaded_value(loaded[i], text, (size_t)size);
    }
    return NEAR_OK;
}

static near_cache *cache_of(const struct actor *a)
{
    return a->which && a->world->pair->b ? a->world->pair->b : a->world->pair->a;
}

static void write_one(struct actor *a)
{
    struct world *w = a->world;
    unsigned k = draw(a, KEYS_COUNT);
    char key = (char)('0' + k), text[24];
    pthread_mutex_lock(&w->writing[k]);
    long number = atomic_fetch_add(&w->source[k], 1) + 1; /* the source first */
    int size = snprintf(text, sizeof(text), "%ld", number);
    int status = draw(a, 2) ? near_del(cache_of(a), &key, 1, NULL)
                            : near_set(cache_of(a), &key, 1, text, (size_t)size, NULL, NULL);
    if (status < 0)
        atomic_store(&w->wrong, 1);
    atomic_store(&w->acknowledged[w->pair->b ? a->which : 0][k], number);
    pthread_mutex_unlock(&w->writing[k]);
}

static long number_of(const near_item *item)
{
    char text[24] = "-1";
    if (item->status == NEAR_OK && item->value.size < sizeof(text))
        snprintf(text, sizeof(text), "%.*s", (int)item->value.size, (const char *)item->value.data);
    return strtol(text, NULL, 10);
}

static void read_some(struct actor *a)
{
    struct world *w = a->world;
    static const char names[] = "01234567";
    near_item items[KEYS_COUNT] = {{0}};
    long least[KEYS_COUNT];
    size_t count = 1 + draw(a, KEYS_COUNT);
    for (size_t i = 0; i < count; i++) { /* a key may be there twice */
        unsigned k = draw(a, KEYS_COUNT);
        items[i] = (near_item){.key = &names[k], .key_size = 1};
        least[i] = atomic_load(&w->acknowledged[w->pair->b ? a->which : 0][k]);
    }
    near_mget_or_load(cache_of(a), items, count, load_world, w, NULL);
    for (size_t i = 0; i < count; i++) {
        if (number_of(&items[i]) < least[i])
            atomic_store(&w->wrong, 1);
        near_release(&items[i].value);
    }
}

static void *actor_main(void *arg)
{
    struct actor *a = arg;
    for (int i = 0; i < ROUNDS; i++) {
        if (a->writes)
            write_one(a);
        else
            read_some(a);
    }
    return NULL;
}

static void test_R17_overlapping_batches_beside_writers_never_go_back(void **state)
{
    static struct world world;
    struct actor actors[READERS + 2];
    uint64_t seed = test_seed();
    memset(&world, 0, sizeof(world));
    world.pair = pair_of(state);
    for (int k = 0; k < KEYS_COUNT; k++)
        pthread_mutex_init(&world.writing[k], NULL);
    for (unsigned i = 0; i < READERS + 2; i++) {
        actors[i] = (struct actor){.world = &world, .which = i % 2, .writes = i >= READERS, .random = seed + i};
        assert_int_equal(pthread_create(&actors[i].thread, NULL, actor_main, &actors[i]), 0);
    }
    for (unsigned i = 0; i < READERS + 2; i++)
        pthread_join(actors[i].thread, NULL);
    assert_int_equal(atomic_load(&world.wrong), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_ALL(test_one_call_has_the_keys_that_neither_tier_has),
        ON_ALL(test_each_key_is_told_its_own_end),
        ON_ALL(test_R16_threads_share_what_a_batch_loads),
        ON_ALL(test_R16_keys_that_another_process_loads_are_waited_for),
        ON_ALL(test_what_failed_elsewhere_is_loaded_here),
        ON_ALL(test_R17_a_write_voids_its_key_and_no_other),
        ON_ALL(test_R17_a_removal_during_the_load_makes_the_next_call_load),
        ON_ALL(test_a_refresh_keeps_what_the_source_calls_unchanged),
        ON_ALL(test_what_is_old_is_refreshed_by_one_call),
        ON_ALL(test_what_is_missing_does_not_wait_for_what_is_refreshed),
        ON_ALL(test_R16_what_another_process_refreshes_is_left_to_it),
        ON_ALL(test_a_refresh_that_fails_changes_nothing_for_the_others),
        ON_ALL(test_refreshes_above_the_limit_are_left_to_the_next_call),
        cmocka_unit_test(test_every_allocation_of_a_refresh_may_fail),
        ON_ALL(test_the_cache_s_own_loaders_stand_in_for_each_other),
        ON_ALL(test_bad_arguments),
        ON_ALL(test_hundreds_of_keys_are_one_call_and_two_round_trips),
        ON_ALL(test_R17_overlapping_batches_beside_writers_never_go_back),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    pair_memory_uri = "memory://bulk";
    pair_options = small_options;
    return RUN_BESIDE_REDIS(tests);
}
