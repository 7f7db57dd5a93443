/* SPDX-License-Identifier: BSD-3-Clause
 * near_get_or_load over the whole stack: on memory://, on "local:" and on a real Redis.  Loaders are held by the tests
 * themselves, so that every order of events is the test's own; nothing here waits for time to pass. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "cache/loading.h"
#include "load/fresh.h"
#include "load/load_pair.h"
#include "load/load_source.h"
#include "local/tier.h"
#include "support/allocfail.h"
#include "support/wait.h"

enum { THREADS = 16 };

/* ---------------------------------------------------------------- one load */

static void test_loads_once_and_keeps(void **state)
{
    struct pair *p = pair_of(state);
    struct source s;
    source_init(&s, "one");
    assert_string_equal(load(p->a, KEY, &s), "one");
    assert_string_equal(load(p->a, KEY, &s), "one");
    assert_int_equal(source_loads(&s), 1);
    assert_string_equal(got(p->a, KEY), "one");
    assert_int_equal(stats_of(p->a).loads, 1);
    assert_int_equal(stats_of(p->a).loads_unkept, 0);
    if (p->b) {
        assert_string_equal(load(p->b, KEY, &s), "one");
        assert_int_equal(source_loads(&s), 1);
        assert_true(s.fence > 0);
    }
    if (p->kind == REDIS) { /* plain for everybody else, and nothing is left beside it */
        assert_string_equal(redis_server_command(pair_server, "GET", KEY, NULL), "one");
        assert_string_equal(
            redis_server_command(pair_server, "EXISTS", KEY ":nearcache-lease", KEY ":nearcache-tags", NULL), "0");
        assert_string_equal(redis_server_command(pair_server, "PTTL", KEY, NULL), "-1");
    }
}

static void test_R16_threads_share_one_load(void **state)
{
    struct pair *p = pair_of(state);
    struct source s;
    struct reader readers[THREADS];
    source_init(&s, "one");
    source_hold(&s, 1);
    for (int i = 0; i < THREADS; i++)
        reader_start(&readers[i], p->a, &s, NULL);
    source_wait_inside(&s, 1);
    while (stats_of(p->a).flights_joined < THREADS - 1)
        wait_a_moment();
    source_hold(&s, 0);
    for (int i = 0; i < THREADS; i++)
        assert_string_equal(reader_end(&readers[i]), "one");
    assert_int_equal(source_loads(&s), 1);
}

/* Both processes' readers wait for one load; those of the other one are woken by the message of the fill. */
static void test_R16_processes_share_one_load(void **state)
{
    struct pair *p = pair_of(state);
    struct source s;
    struct reader readers[THREADS];
    if (!p->b)
        skip();
    source_init(&s, "one");
    source_hold(&s, 1);
    reader_start(&readers[0], p->a, &s, NULL);
    source_wait_inside(&s, 1);
    for (int i = 1; i < THREADS; i++)
        reader_start(&readers[i], i % 2 ? p->b : p->a, &s, NULL);
    while (stats_of(p->b).load_waits < 1)
        wait_a_moment();
    source_hold(&s, 0);
    for (int i = 0; i < THREADS; i++)
        assert_string_equal(reader_end(&readers[i]), "one");
    assert_int_equal(source_loads(&s), 1);
    assert_true(stats_of(p->b).load_waits <= 4); /* nobody asks again and again */
}

/* ---------------------------------------------------------------- against writers */

static void test_R17_get_after_a_write_does_not_join_an_older_load(void **state)
{
    struct pair *p = pair_of(state);
    struct source s;
    struct reader reader;
    source_init(&s, "old");
    source_hold(&s, 1);
    reader_start(&reader, p->a, &s, NULL);
    source_wait_inside(&s, 1);
    assert_int_equal(set(p->a, KEY, "new"), NEAR_OK);
    assert_string_equal(load(p->a, KEY, &s), "new"); /* while the older load is still there */
    source_hold(&s, 0);
    reader_end(&reader);
    assert_string_equal(load(p->a, KEY, &s), "new");
    assert_string_equal(got(p->a, KEY), "new");
    assert_int_equal(stats_of(p->a).loads_unkept, 1);
    if (p->kind == REDIS)
        assert_string_equal(redis_server_command(pair_server, "GET", KEY, NULL), "new");
}

/* The key is absent all the time: only the lease tells that the load is void. */
static void test_R17_get_after_a_removal_loads_again(void **state)
{
    struct pair *p = pair_of(state);
    struct source s;
    struct reader reader, later;
    source_init(&s, "old");
    source_hold(&s, 1);
    reader_start(&reader, p->a, &s, NULL);
    source_wait_inside(&s, 1);
    pthread_mutex_lock(&s.mutex);
    snprintf(s.value, sizeof(s.value), "new");
    pthread_mutex_unlock(&s.mutex);
    assert_int_equal(near_del(p->a, KEY, KEY_SIZE, NULL), NEAR_MISS);
    reader_start(&later, p->a, &s, NULL);
    source_wait_inside(&s, 2);
    source_hold(&s, 0);
    assert_string_equal(reader_end(&later), "new");
    reader_end(&reader);
    assert_string_equal(load(p->a, KEY, &s), "new");
    assert_int_equal(source_loads(&s), 2);
}

/* The lease has ended by itself, too: the removal finds nothing at all, gets no number of its own, and is a removal for
 * all that.  A source may have changed before it. */
static void test_R17_removal_that_finds_neither_key_nor_lease_voids_the_load(void **state)
{
    struct pair *p = pair_of(state);
    struct source s;
    struct reader reader, later;
    near_load brief;
    near_load_init(&brief);
    brief.lease_ms = 1;
    source_init(&s, "old");
    source_hold(&s, 1);
    assert_int_equal(set(p->a, "other", "x"), NEAR_OK);
    /* known as of now: that the removal finds the same is no news */
    assert_string_equal(got(p->a, KEY), "(NEAR_MISS)");
    reader_start(&reader, p->a, &s, &brief);
    source_wait_inside(&s, 1);
    int64_t over_ns = near__clock_kernel(CLOCK_MONOTONIC) + 3 * NEAR_NS_PER_MS; /* the lease was given before this */
    while (near__clock_kernel(CLOCK_MONOTONIC) < over_ns)
        wait_a_moment();
    pthread_mutex_lock(&s.mutex);
    snprintf(s.value, sizeof(s.value), "new");
    pthread_mutex_unlock(&s.mutex);
    assert_int_equal(near_del(p->a, KEY, KEY_SIZE, NULL), NEAR_MISS);
    reader_start(&later, p->a, &s, &brief);
    while (source_loads(&s) < 2 && stats_of(p->a).flights_joined == 0)
        wait_a_moment();
    source_hold(&s, 0);
    assert_string_equal(reader_end(&later), "new");
    reader_end(&reader);
    assert_int_equal(stats_of(p->a).flights_joined, 0);
}

static void test_R01_fill_does_not_overwrite_another_process_s_write(void **state)
{
    struct pair *p = pair_of(state);
    struct source s;
    struct reader reader;
    if (!p->b)
        skip();
    for (int how = 0; how < 4; how++) {
        near_item item = {.key = KEY, .key_size = KEY_SIZE, .data = "new", .size = 3};
        source_init(&s, "old");
        source_hold(&s, 1);
        assert_true(near_del(p->b, KEY, KEY_SIZE, NULL) >= 0);
        near_drop(p->a, KEY, KEY_SIZE); /* the message may take its time */
        reader_start(&reader, p->a, &s, NULL);
        source_wait_inside(&s, 1);
        if (how == 0)
            assert_int_equal(set(p->b, KEY, "new"), NEAR_OK);
        else if (how == 1)
            assert_int_equal(near_mset(p->b, &item, 1, NULL, NULL), NEAR_OK);
        else if (how == 2)
            assert_int_equal(near_incr(p->b, KEY, KEY_SIZE, 7, NULL, NULL), NEAR_OK);
        else
            assert_int_equal(near_del(p->b, KEY, KEY_SIZE, NULL), NEAR_MISS); /* absent, but told: the load is void */
        source_hold(&s, 0);
        reader_end(&reader);
        const char *now = how == 2 ? "7" : how == 3 ? "(NEAR_MISS)" : "new";
        assert_string_equal(got(p->b, KEY), now);
        near_drop(p->a, KEY, KEY_SIZE);
        assert_string_equal(got(p->a, KEY), now);
    }
    assert_int_equal(stats_of(p->a).loads_unkept, 4);
}

static void test_foreign_creation_is_not_overwritten(void **state)
{
    struct pair *p = pair_of(state);
    struct source s;
    struct reader reader;
    if (p->kind != REDIS)
        skip();
    source_init(&s, "loaded");
    source_hold(&s, 1);
    reader_start(&reader, p->a, &s, NULL);
    source_wait_inside(&s, 1);
    redis_server_command(pair_server, "SET", KEY, "foreign", NULL);
    source_hold(&s, 0);
    reader_end(&reader);
    assert_string_equal(redis_server_command(pair_server, "GET", KEY, NULL), "foreign");
    assert_string_equal(redis_server_command(pair_server, "EXISTS", KEY ":nearcache-lease", NULL), "0");
}

/* ---------------------------------------------------------------- answers */

static void test_R18_errors_are_not_absence(void **state)
{
    struct pair *p = pair_of(state);
    struct source s;
    source_init(&s, "one");
    s.answer = -5;
    assert_string_equal(load(p->a, KEY, &s), "(NEAR_ERR_LOAD)");
    assert_string_equal(load(p->a, KEY, &s), "(NEAR_ERR_LOAD)");
    assert_int_equal(source_loads(&s), 2);
    s.answer = NEAR_OK;
    assert_string_equal(load(p->a, KEY, &s), "one");
    assert_int_equal(stats_of(p->a).loads_failed, 2);
}

static void test_a_failed_load_wakes_the_next_process(void **state)
{
    struct pair *p = pair_of(state);
    struct source failing, good;
    struct reader first, second;
    if (!p->b)
        skip();
    source_init(&failing, "");
    source_init(&good, "one");
    failing.answer = -1;
    source_hold(&failing, 1);
    reader_start(&first, p->a, &failing, NULL);
    source_wait_inside(&failing, 1);
    reader_start(&second, p->b, &good, NULL);
    while (stats_of(p->b).load_waits < 1)
        wait_a_moment();
    source_hold(&failing, 0);
    assert_string_equal(reader_end(&first), "(NEAR_ERR_LOAD)");
    assert_string_equal(reader_end(&second), "one"); /* long before the lease's end */
}

/* A source that has not got the key, which is remembered for long. */
static void begin_absent(struct source *s, const char *value, near_load *options)
{
    near_load_init(options);
    options->absent_ms = 1000 * LONG_MS;
    source_init(s, value);
    s->answer = NEAR_MISS;
}

static void test_R19_absence_is_remembered_until_creation(void **state)
{
    struct pair *p = pair_of(state);
    struct source s;
    near_load options;
    begin_absent(&s, "one", &options);
    for (int i = 0; i < 3; i++)
        assert_string_equal(load_with(p->a, KEY, &s, &options), "(NEAR_MISS)");
    assert_int_equal(source_loads(&s), 1);
    assert_int_equal(stats_of(p->a).absent_hits, 2);
    if (p->b) /* the other process learns of it from the server */
        assert_string_equal(load_with(p->b, KEY, &s, &options), "(NEAR_MISS)");
    assert_int_equal(source_loads(&s), 1);
    near_cache *writer = p->b ? p->b : p->a;
    assert_int_equal(set(writer, KEY, "made"), NEAR_OK);
    assert_string_equal(load_with(writer, KEY, &s, &options), "made");
    if (p->b) /* within the bound; here: as soon as its message is there */
        assert_true(wait_until(strcmp(load_with(p->a, KEY, &s, &options), "made") == 0, LONG_MS));
    assert_int_equal(near_del(writer, KEY, KEY_SIZE, NULL), NEAR_OK); /* absence is not remembered over a removal */
    s.answer = NEAR_OK;
    assert_string_equal(load_with(writer, KEY, &s, &options), "one");
}

/* Somebody who knows better, because he has just made it there, is not told what the source said before. */
static void test_refresh_loads_over_a_remembered_absence(void **state)
{
    struct pair *p = pair_of(state);
    struct source s;
    near_load options;
    begin_absent(&s, "one", &options);
    assert_string_equal(load_with(p->a, KEY, &s, &options), "(NEAR_MISS)");
    s.answer = NEAR_OK;
    assert_string_equal(load_with(p->a, KEY, &s, &options), "(NEAR_MISS)");
    options.flags = NEAR_LOAD_REFRESH;
    assert_string_equal(load_with(p->a, KEY, &s, &options), "one");
    assert_int_equal(source_loads(&s), 2);
    options.flags = 0;
    assert_string_equal(load_with(p->a, KEY, &s, &options), "one"); /* and it is kept, for everybody */
    if (p->b)
        assert_true(wait_until(strcmp(load_with(p->b, KEY, &s, &options), "one") == 0, LONG_MS));
    assert_int_equal(source_loads(&s), 2);
}

/* Namespaces make keys of any length; without a remote tier there is nobody else who remembers. */
static void test_absence_is_remembered_of_long_keys(void **state)
{
    struct pair *p = pair_of(state);
    struct source s;
    near_load options;
    char key[201];
    begin_absent(&s, "", &options);
    memset(key, 'k', sizeof(key) - 1);
    key[sizeof(key) - 1] = 0;
    for (int i = 0; i < 3; i++)
        assert_string_equal(load_with(p->a, key, &s, &options), "(NEAR_MISS)");
    assert_int_equal(source_loads(&s), 1);
    assert_int_equal(stats_of(p->a).absent_hits, 2);
    key[0] = 'l'; /* the absence of one only */
    assert_string_equal(load_with(p->a, key, &s, &options), "(NEAR_MISS)");
    assert_int_equal(source_loads(&s), 2);
    assert_int_equal(set(p->a, key, "made"), NEAR_OK);
    assert_string_equal(load_with(p->a, key, &s, &options), "made");
}

static void test_absence_is_not_remembered_unless_asked(void **state)
{
    struct pair *p = pair_of(state);
    struct source s;
    source_init(&s, "one");
    s.answer = NEAR_MISS;
    assert_string_equal(load(p->a, KEY, &s), "(NEAR_MISS)");
    s.answer = NEAR_OK;
    assert_string_equal(load(p->a, KEY, &s), "one");
}

static void small_values(near_options *options)
{
    options->value_max = 1024;
}

static int nonsense(void *arg, const near_load_request *request, near_loaded *loaded)
{
    static char large[2048];
    (void)request;
    switch (*(int *)arg) {
    case 0:
        return NEAR_OK; /* without a value */
    case 1:
        return 77; /* what is that? */
    case 2:
        return NEAR_UNCHANGED; /* there is no old value */
    case 3:
        near_loaded_value(loaded, "v", 1);
        return NEAR_MISS; /* both */
    case 4:
        near_loaded_value(loaded, "v", 1);
        near_loaded_ttl(loaded, -1);
        return NEAR_OK;
    case 5:
        near_loaded_value(loaded, NULL, 3);
        return NEAR_OK;
    case 6:
        near_loaded_value(loaded, large, sizeof(large));
        return NEAR_OK; /* above value_max */
    case 7:
        near_loaded_value(loaded, "v", 1);
        near_loaded_ttl(loaded, 0);
        return NEAR_OK;
    case 8:
        near_loaded_value(loaded, "v", 1);
        near_loaded_ttl(loaded, INT64_MAX);
        return NEAR_OK;
    case 9:
        near_loaded_value(loaded, large, 1);
        near_loaded_value(loaded, large, sizeof(large));
        return NEAR_OK;
    case 10:
        near_loaded_ttl(loaded, -5);
        return NEAR_MISS;
    case 11:
        near_loaded_value(loaded, "v", 1);
        return NEAR_UNCHANGED; /* both */
    case 12:
        near_loaded_value(loaded, "v", 1);
        near_loaded_answer(loaded, NEAR_STALE);
        return NEAR_OK;
    default:
        near_loaded_value(loaded, "v", 1);
        return INT32_MIN; /* whatever the number, it failed */
    }
}
enum { NONSENSE = 14 };

static int status_of_nonsense(int which)
{
    return which == 6 || which == 9 ? NEAR_ERR_TOO_LARGE : which == 13 ? NEAR_ERR_LOAD : NEAR_ERR_LOADER;
}

static void test_nonsense_is_told_and_changes_nothing(void **state)
{
    struct pair *p = pair_of(state);
    struct source s;
    near_value value;
    near_load again;
    near_load_init(&again);
    again.flags = NEAR_LOAD_REFRESH;
    source_init(&s, "one");
    for (int i = 0; i < NONSENSE; i++) {
        assert_int_equal(near_get_or_load(p->a, KEY, KEY_SIZE, nonsense, &i, NULL, &value), status_of_nonsense(i));
        assert_null(value.data);
        assert_string_equal(got(p->b ? p->b : p->a, KEY), "(NEAR_MISS)");
    }
    assert_string_equal(load(p->a, KEY, &s), "one"); /* nobody waits for a lease */
    for (int i = 0; i < NONSENSE; i++) {
        if (i == 2)
            continue; /* now there is one */
        assert_int_equal(near_get_or_load(p->a, KEY, KEY_SIZE, nonsense, &i, &again, &value), status_of_nonsense(i));
        assert_null(value.data);
        assert_string_equal(got(p->a, KEY), "one");
        assert_string_equal(got(p->b ? p->b : p->a, KEY), "one");
    }
    assert_string_equal(load_with(p->a, KEY, &s, &again), "one");
    assert_int_equal(source_loads(&s), 2);
    assert_int_equal(near_loaded_value(NULL, "v", 1), NEAR_ERR_INVALID);
    assert_int_equal(near_loaded_ttl(NULL, 1), NEAR_ERR_INVALID);
}

static void test_bad_arguments(void **state)
{
    struct pair *p = pair_of(state);
    struct source s;
    near_value value;
    near_load o;
    source_init(&s, "one");
    assert_int_equal(near_get_or_load(NULL, KEY, KEY_SIZE, load_from, &s, NULL, &value), NEAR_ERR_INVALID);
    assert_int_equal(near_get_or_load(p->a, KEY, KEY_SIZE, load_from, &s, NULL, NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_get_or_load(p->a, NULL, 1, load_from, &s, NULL, &value), NEAR_ERR_INVALID);
    /* no loader anywhere */
    assert_int_equal(near_get_or_load(p->a, KEY, KEY_SIZE, NULL, NULL, NULL, &value), NEAR_ERR_INVALID);
    assert_int_equal(near_set_loader(p->a, NULL, NULL, NULL), NEAR_ERR_INVALID);
    static char key[NEAR_KEY_MAX];
    assert_int_equal(near_get_or_load(p->a, key, sizeof(key), load_from, &s, NULL, &value), NEAR_ERR_TOO_LARGE);
    assert_int_equal(near_get_or_load(p->a, key, 65520, load_from, &s, NULL, &value), NEAR_ERR_TOO_LARGE);
    assert_int_equal(near_get_or_load(p->a, key, 65519, NULL, NULL, NULL, &value), NEAR_ERR_INVALID); /* no loader */
    for (int i = 0; i < 15; i++) {
        near_load_init(&o);
        if (i == 0)
            o.ttl_ms = -1;
        if (i == 1)
            o.flags = 1u << 31;
        if (i == 2)
            o.jitter_permille = 1001;
        if (i == 3)
            o.stale_ms = UINT32_MAX;
        if (i == 4)
            o.size = 3;
        if (i == 5)
            o.ttl_ms = INT64_MAX;
        if (i == 6)
            o.ttl_ms = INT64_MIN;
        if (i == 7)
            o.fail_ms = (uint32_t)-1;
        if (i == 8)
            o.retry_ms = (uint32_t)-1;
        if (i == 9)
            o.absent_ms = (uint32_t)-1;
        if (i == 10)
            o.soft_timeout_ms = (uint32_t)-1;
        if (i == 11)
            o.hard_timeout_ms = (uint32_t)-1;
        if (i == 12)
            o.lease_ms = (uint32_t)-1;
        if (i == 13)
            o.timeout_ms = (uint32_t)-1;
        if (i == 14)
            o.early_permille = 1000001;
        assert_int_equal(near_get_or_load(p->a, KEY, KEY_SIZE, load_from, &s, &o, &value), NEAR_ERR_INVALID);
        assert_int_equal(near_set_loader(p->a, load_from, &s, &o), NEAR_ERR_INVALID);
    }
    assert_int_equal(source_loads(&s), 0);
}

static void test_the_cache_s_own_loader(void **state)
{
    struct pair *p = pair_of(state);
    struct source first, second;
    near_value value;
    source_init(&first, "first");
    source_init(&second, "second");
    assert_int_equal(near_set_loader(p->a, load_from, &first, NULL), NEAR_OK);
    assert_int_equal(near_get_or_load(p->a, "x", 1, NULL, NULL, NULL, &value), NEAR_OK);
    assert_memory_equal(value.data, "first", 5);
    assert_int_equal(value.source, NEAR_FROM_LOADER);
    near_release(&value);
    assert_int_equal(near_set_loader(p->a, load_from, &second, NULL), NEAR_OK);
    assert_int_equal(near_get_or_load(p->a, "y", 1, NULL, NULL, NULL, &value), NEAR_OK);
    assert_memory_equal(value.data, "second", 6);
    near_release(&value);
}

/* A loader may load another key by the same cache, with one thread for all loaders. */
static near_cache *nested_cache;
static int nested(void *arg, const near_load_request *request, near_loaded *loaded)
{
    near_value inner;
    int status = near_get_or_load(nested_cache, "inner", 5, load_from, arg, NULL, &inner);
    (void)request;
    if (status == NEAR_OK)
        near_loaded_value(loaded, inner.data, inner.size);
    near_release(&inner);
    return status;
}
static void test_a_loader_may_load(void **state)
{
    struct source s;
    near_value value;
    (void)state;
    source_init(&s, "inner value");
    assert_int_equal(near_open("memory://nested?load_threads=1", NULL, &nested_cache, NULL), NEAR_OK);
    assert_int_equal(near_wait_ready(nested_cache, LONG_MS, NULL), NEAR_OK);
    assert_int_equal(near_get_or_load(nested_cache, "outer", 5, nested, &s, NULL, &value), NEAR_OK);
    assert_int_equal(value.size, 11);
    near_release(&value);
    assert_int_equal(near_close(nested_cache), NEAR_OK);
}

/* ---------------------------------------------------------------- what comes between an absence and its note */

static void (*before_note)(near_cache *c);
static near_cache *noted;

int __real_near__local_write_if(struct near__impl *impl, struct near__request *request, struct near__ticket ticket);
int __wrap_near__local_write_if(struct near__impl *impl, struct near__request *request, struct near__ticket ticket);
int __wrap_near__local_write_if(struct near__impl *impl, struct near__request *request, struct near__ticket ticket)
{
    int status = __real_near__local_write_if(impl, request, ticket);
    if (before_note)
        before_note(noted);
    return status;
}

static void drops(near_cache *c)
{
    assert_int_equal(near_drop(c, KEY, KEY_SIZE), NEAR_OK);
}
static void clears(near_cache *c)
{
    assert_int_equal(near_clear(c, 0, NULL, NULL), NEAR_OK);
}

static void test_R19_absence_does_not_outlive_what_was_dropped_or_cleared_before_it_was_noted(void **state)
{
    struct pair *p = pair_of(state);
    void (*const what[])(near_cache *) = {drops, clears};
    noted = p->a;
    for (int i = 0; i < 2; i++) {
        struct source s;
        near_load options;
        source_init(&s, "");
        s.answer = NEAR_MISS;
        near_load_init(&options);
        options.absent_ms = 1000 * LONG_MS;
        before_note = what[i];
        assert_string_equal(load_with(p->a, KEY, &s, &options), "(NEAR_MISS)");
        before_note = NULL;
        assert_string_equal(load_with(p->a, KEY, &s, &options), "(NEAR_MISS)");
        assert_int_equal(source_loads(&s), 2);
        assert_string_equal(load_with(p->a, KEY, &s, &options), "(NEAR_MISS)");
        assert_int_equal(source_loads(&s), 2); /* now it is remembered */
        assert_true(near_del(p->a, KEY, KEY_SIZE, NULL) >= 0);
    }
}

/* ---------------------------------------------------------------- tags */

struct tagged {
    struct source source;
    const char *tags[3];
};

static int load_tagged(void *arg, const near_load_request *request, near_loaded *loaded)
{
    struct tagged *t = arg;
    for (int i = 0; i < 3 && t->tags[i]; i++)
        near_loaded_tag(loaded, t->tags[i], strlen(t->tags[i]));
    return load_from(&t->source, request, loaded);
}

static const char *load_tags_with(near_cache *c, const char *key, struct tagged *t, uint32_t more_flags)
{
    static __thread char text[160];
    near_value value;
    near_load options;
    near_load_init(&options);
    options.flags = NEAR_LOAD_TAGS | more_flags;
    int status = near_get_or_load(c, key, strlen(key), load_tagged, t, &options, &value);
    snprintf(text, sizeof(text), "(%s)", near_status_name(status));
    if (status == NEAR_OK)
        snprintf(text, sizeof(text), "%.*s", (int)value.size, (const char *)value.data);
    near_release(&value);
    return text;
}

static const char *load_tags(near_cache *c, const char *key, struct tagged *t)
{
    return load_tags_with(c, key, t, 0);
}

static void says(struct tagged *t, const char *value)
{
    pthread_mutex_lock(&t->source.mutex);
    snprintf(t->source.value, sizeof(t->source.value), "%s", value);
    pthread_mutex_unlock(&t->source.mutex);
}

static void test_invalidated_tag_makes_its_values_old_and_no_others(void **state)
{
    struct pair *p = pair_of(state);
    struct tagged red = {.tags = {"red", "all"}}, blue = {.tags = {"blue", "all"}}, bare = {.tags = {NULL}};
    source_init(&red.source, "red 1");
    source_init(&blue.source, "blue 1");
    source_init(&bare.source, "bare 1");
    for (int i = 0; i < 3; i++) {
        assert_string_equal(load_tags(p->a, "r", &red), "red 1");
        assert_string_equal(load_tags(p->a, "b", &blue), "blue 1");
        assert_string_equal(load_tags(p->a, "x", &bare), "bare 1");
    }
    assert_int_equal(source_loads(&red.source) + source_loads(&blue.source) + source_loads(&bare.source), 3);
    if (p->b) {
        assert_string_equal(load_tags(p->b, "r", &red), "red 1"); /* from the pair_server, with its tags */
        near_stats first = stats_of(p->b);
        assert_string_equal(load_tags(p->b, "r", &red), "red 1");
        assert_int_equal(stats_of(p->b).requests, first.requests); /* now everything is here */
        assert_int_equal(source_loads(&red.source), 1);
    }
    says(&red, "red 2");
    says(&blue, "blue 2");
    says(&bare, "bare 2");
    near_cache *writer = p->b ? p->b : p->a;
    assert_int_equal(near_invalidate_tag(writer, "red", 3, NULL), NEAR_OK);
    assert_string_equal(load_tags(writer, "r", &red), "red 2"); /* at once in the process that did it */
    assert_true(wait_until(strcmp(load_tags(p->a, "r", &red), "red 2") == 0, LONG_MS));
    assert_string_equal(load_tags(p->a, "b", &blue), "blue 1");
    assert_string_equal(load_tags(p->a, "x", &bare), "bare 1");
    assert_int_equal(source_loads(&red.source), 2);
    assert_int_equal(near_invalidate_tag(writer, "all", 3, NULL), NEAR_OK);
    assert_true(wait_until(strcmp(load_tags(p->a, "b", &blue), "blue 2") == 0, LONG_MS));
    assert_string_equal(load_tags(p->a, "x", &bare), "bare 1");
    assert_int_equal(source_loads(&blue.source), 2);
}

/* However many values have the tag: one write, one message, and nothing is walked or removed. */
static void test_a_thousand_values_become_old_by_one_message(void **state)
{
    struct pair *p = pair_of(state);
    struct tagged t = {.tags = {"red"}};
    char key[16];
    enum { VALUES = 1000 };
    if (!p->b)
        skip();
    source_init(&t.source, "old");
    for (int i = 0; i < VALUES; i++) {
        snprintf(key, sizeof(key), "v%d", i);
        assert_string_equal(load_tags(p->a, key, &t), "old");
    }
    assert_true(wait_until(stats_of(p->b).messages >= VALUES, LONG_MS));
    near_stats before = stats_of(p->a), other = stats_of(p->b);
    says(&t, "new");
    assert_int_equal(near_invalidate_tag(p->a, "red", 3, NULL), NEAR_OK);
    near_stats after = stats_of(p->a);
    assert_int_equal(after.writes, before.writes + 1);
    assert_int_equal(after.local_entries + 1 >= before.local_entries, 1);
    assert_true(wait_until(stats_of(p->b).messages == other.messages + 1, LONG_MS));
    for (int i = 0; i < VALUES; i++) {
        snprintf(key, sizeof(key), "v%d", i);
        assert_string_equal(load_tags(p->a, key, &t), "new");
    }
    assert_int_equal(source_loads(&t.source), 2 * VALUES);
}

static uint32_t stripe_of(near_cache *c, const char *prefix, const char *key, const char *suffix)
{
    char whole[64];
    int size = snprintf(whole, sizeof(whole), "%s%s%s", prefix, key, suffix);
    return near__local_ticket(c->owned->local, whole, (size_t)size).stripe;
}

/* Without a remote tier a load writes the value's tags and their list before the value.  Where their keys share a
 * stripe with the value's they are no reason not to keep it. */
static void test_a_tagged_value_is_kept_whatever_stripe_its_tags_are_in(void **state)
{
    struct pair *p = pair_of(state);
    enum { KINDS = 3 }; /* the list, a tag, both */
    unsigned number = 0;
    for (int kind = 0; kind < KINDS; kind++) {
        char key[16], tag[16];
        struct tagged t = {.tags = {tag}};
        uint32_t value;
        do {
            snprintf(key, sizeof(key), "v%u", number++);
            value = stripe_of(p->a, "", key, "");
        } while (kind != 1 && stripe_of(p->a, "", key, NEAR_TAGS_SUFFIX) != value);
        do
            snprintf(tag, sizeof(tag), "t%u", number++);
        while (kind != 0 && stripe_of(p->a, NEAR_TAG_PREFIX, tag, "") != value);
        source_init(&t.source, "one");
        assert_string_equal(load_tags(p->a, key, &t), "one");
        assert_string_equal(load_tags(p->a, key, &t), "one");
        assert_int_equal(source_loads(&t.source), 1);
        says(&t, "two");
        assert_int_equal(near_invalidate_tag(p->a, tag, strlen(tag), NULL), NEAR_OK);
        assert_string_equal(load_tags(p->a, key, &t), "two");
        assert_string_equal(load_tags(p->a, key, &t), "two");
        assert_int_equal(source_loads(&t.source), 2);
    }
}

/* Who was told what was loaded is not told what was there before it any more: that another key was written meanwhile,
 * or dropped, says nothing of this one, though they share a stripe. */
static void test_C_what_a_refresh_has_told_is_kept_whatever_comes_of_its_stripe(void **state)
{
    struct pair *p = pair_of(state);
    char other[16];
    unsigned number = 0;
    near_load options;
    near_load_init(&options);
    options.flags = NEAR_LOAD_REFRESH;
    do
        snprintf(other, sizeof(other), "o%u", number++);
    while (stripe_of(p->a, "", other, "") != stripe_of(p->a, "", KEY, ""));
    for (int absent = 0; absent < 2; absent++) {
        for (int how = 0; how < 3; how++) {
            struct source s;
            struct reader reader;
            source_init(&s, "new");
            s.answer = absent ? NEAR_MISS : NEAR_OK;
            source_hold(&s, 1);
            assert_int_equal(set(p->a, KEY, "old"), NEAR_OK);
            reader_start(&reader, p->a, &s, &options);
            source_wait_inside(&s, 1);
            if (how == 0)
                assert_int_equal(set(p->a, other, "x"), NEAR_OK);
            else if (how == 1)
                assert_int_equal(near_incr(p->a, other, strlen(other), 1, NULL, NULL), NEAR_ERR_OVERFLOW);
            if (how >= 1)
                assert_int_equal(near_drop(p->a, other, strlen(other)), NEAR_OK);
            source_hold(&s, 0);
            assert_string_equal(reader_end(&reader), absent ? "(NEAR_MISS)" : "new");
            assert_string_equal(got(p->a, KEY), absent ? "(NEAR_MISS)" : "new");
        }
    }
    assert_int_equal(stats_of(p->a).loads_unkept, 0);
}

static void *tagged_refresher(void *arg)
{
    struct reader *r = arg;
    snprintf(r->got, sizeof(r->got), "%s",
             load_tags_with(r->cache, r->key, (struct tagged *)r->source, NEAR_LOAD_REFRESH));
    return NULL;
}

/* And so are the tags that it has told, whatever stripe they are in: the same value may have others than before. */
static void test_C_tags_that_a_refresh_has_told_are_kept_whatever_comes_of_its_stripe(void **state)
{
    struct pair *p = pair_of(state);
    enum { KINDS = 4 }; /* in the value's stripe: nothing else, the list, the tag, both */
    unsigned number = 0;
    for (int kind = 0; kind < KINDS; kind++) {
        char key[16], tag[16], other[16];
        struct tagged t = {.tags = {"before"}};
        struct reader r = {.cache = p->a, .key = key, .source = (struct source *)&t};
        uint32_t value;
        do {
            snprintf(key, sizeof(key), "v%u", number++);
            value = stripe_of(p->a, "", key, "");
        } while (kind & 1 && stripe_of(p->a, "", key, NEAR_TAGS_SUFFIX) != value);
        do
            snprintf(tag, sizeof(tag), "t%u", number++);
        while (kind & 2 && stripe_of(p->a, NEAR_TAG_PREFIX, tag, "") != value);
        do
            snprintf(other, sizeof(other), "o%u", number++);
        while (stripe_of(p->a, "", other, "") != value);
        source_init(&t.source, "same");
        assert_string_equal(load_tags(p->a, key, &t), "same");
        t.tags[0] = tag;
        source_hold(&t.source, 1);
        assert_int_equal(pthread_create(&r.thread, NULL, tagged_refresher, &r), 0);
        source_wait_inside(&t.source, 1);
        assert_int_equal(set(p->a, other, "x"), NEAR_OK);
        source_hold(&t.source, 0);
        assert_string_equal(reader_end(&r), "same");
        assert_string_equal(load_tags(p->a, key, &t), "same");
        assert_int_equal(source_loads(&t.source), 2);
        says(&t, "new");
        assert_int_equal(near_invalidate_tag(p->a, tag, strlen(tag), NULL), NEAR_OK);
        assert_string_equal(load_tags(p->a, key, &t), "new");
    }
}

/* The key itself was written, if only to the same value or with another end: that is newer than what was loaded. */
static void test_C_a_refresh_does_not_replace_what_was_written_meanwhile(void **state)
{
    struct pair *p = pair_of(state);
    near_load options;
    near_load_init(&options);
    options.flags = NEAR_LOAD_REFRESH;
    for (int how = 0; how < 4; how++) {
        struct source s;
        struct reader reader;
        source_init(&s, "loaded");
        source_hold(&s, 1);
        assert_int_equal(set(p->a, KEY, "same"), NEAR_OK);
        reader_start(&reader, p->a, &s, &options);
        source_wait_inside(&s, 1);
        if (how == 1)
            assert_int_equal(near_drop(p->a, KEY, KEY_SIZE), NEAR_OK);
        else if (how == 2)
            assert_int_equal(near_clear(p->a, 0, NULL, NULL), NEAR_OK);
        if (how == 3)
            assert_int_equal(near_expire(p->a, KEY, KEY_SIZE, 1000 * LONG_MS, NULL), NEAR_OK);
        else
            assert_int_equal(set(p->a, KEY, "same"), NEAR_OK);
        source_hold(&s, 0);
        assert_string_equal(reader_end(&reader), "loaded");
        assert_string_equal(got(p->a, KEY), "same");
    }
}

/* The tags are known only when the loader answers; its answer is from before the invalidation. */
static void *tagged_reader(void *arg)
{
    struct reader *r = arg;
    snprintf(r->got, sizeof(r->got), "%s", load_tags(r->cache, KEY, (struct tagged *)r->source));
    return NULL;
}
static void test_R01_tag_invalidated_during_the_load_counts(void **state)
{
    struct pair *p = pair_of(state);
    struct tagged t = {.tags = {"red"}};
    source_init(&t.source, "old");
    for (int round = 0; round < 2; round++) { /* the tag is new, then it is known */
        source_hold(&t.source, 1);
        says(&t, "old");
        struct reader r = {.cache = p->a, .source = (struct source *)&t};
        assert_int_equal(pthread_create(&r.thread, NULL, tagged_reader, &r), 0);
        source_wait_inside(&t.source, 1);
        says(&t, "new");
        assert_int_equal(near_invalidate_tag(p->b ? p->b : p->a, "red", 3, NULL), NEAR_OK);
        source_hold(&t.source, 0);
        reader_end(&r);
        assert_string_equal(load_tags(p->a, KEY, &t), "new");
        assert_true(near_del(p->a, KEY, KEY_SIZE, NULL) >= 0);
    }
}

/* A load that is not kept leaves the tags of the value that is: they are the same bytes, with other tags. */
static void test_R01_tags_of_a_load_that_is_not_kept_are_not_either(void **state)
{
    struct pair *p = pair_of(state);
    struct tagged slow = {.tags = {"older"}}, fast = {.tags = {"newer"}};
    struct reader r = {.cache = p->a, .source = (struct source *)&slow};
    source_init(&slow.source, "same");
    source_init(&fast.source, "same");
    source_hold(&slow.source, 1);
    assert_int_equal(pthread_create(&r.thread, NULL, tagged_reader, &r), 0);
    source_wait_inside(&slow.source, 1);
    assert_int_equal(set(p->a, KEY, "between"), NEAR_OK);
    assert_int_equal(near_del(p->a, KEY, KEY_SIZE, NULL), NEAR_OK);
    assert_string_equal(load_tags(p->a, KEY, &fast), "same");
    source_hold(&slow.source, 0);
    assert_string_equal(reader_end(&r), "same");
    says(&fast, "new");
    assert_int_equal(near_invalidate_tag(p->a, "newer", 5, NULL), NEAR_OK);
    assert_string_equal(load_tags(p->a, KEY, &fast), "new");
}

/* The same though the tag's number has gone meanwhile, as if it had been evicted. */
static void test_R01_tag_invalidated_during_the_load_counts_without_its_number(void **state)
{
    struct pair *p = pair_of(state);
    struct tagged t = {.tags = {"red"}};
    struct reader r = {.cache = p->a, .source = (struct source *)&t};
    source_init(&t.source, "old");
    source_hold(&t.source, 1);
    assert_int_equal(pthread_create(&r.thread, NULL, tagged_reader, &r), 0);
    source_wait_inside(&t.source, 1);
    says(&t, "new");
    assert_int_equal(near_invalidate_tag(p->a, "red", 3, NULL), NEAR_OK);
    assert_int_equal(near_drop(p->a, NEAR_TAG_PREFIX "red", strlen(NEAR_TAG_PREFIX "red")), NEAR_OK);
    source_hold(&t.source, 0);
    reader_end(&r);
    assert_string_equal(load_tags(p->a, KEY, &t), "new");
}

/* The key's own ticket is the same before and after. */
static void test_R17_get_after_a_tag_s_invalidation_does_not_join_an_older_load(void **state)
{
    struct pair *p = pair_of(state);
    struct tagged t = {.tags = {"red"}};
    source_init(&t.source, "old");
    source_hold(&t.source, 1);
    struct reader r = {.cache = p->a, .source = (struct source *)&t}, later = r;
    assert_int_equal(pthread_create(&r.thread, NULL, tagged_reader, &r), 0);
    source_wait_inside(&t.source, 1);
    says(&t, "new");
    assert_int_equal(near_invalidate_tag(p->a, "red", 3, NULL), NEAR_OK);
    assert_int_equal(pthread_create(&later.thread, NULL, tagged_reader, &later), 0);
    while (source_loads(&t.source) < 2 && stats_of(p->a).flights_joined == 0 && stats_of(p->a).load_waits == 0)
        wait_a_moment();
    source_hold(&t.source, 0);
    reader_end(&r);
    assert_string_equal(reader_end(&later), "new");
    assert_int_equal(stats_of(p->a).flights_joined, 0);
}

static void test_an_unchanged_value_keeps_its_tags(void **state)
{
    struct pair *p = pair_of(state);
    struct tagged t = {.tags = {"red"}};
    source_init(&t.source, "one");
    assert_string_equal(load_tags_with(p->a, KEY, &t, 0), "one");
    t.tags[0] = NULL;
    t.source.answer = NEAR_UNCHANGED;
    assert_string_equal(load_tags_with(p->a, KEY, &t, NEAR_LOAD_REFRESH), "one");
    assert_string_equal(t.source.old, "one");
    t.source.answer = NEAR_OK;
    says(&t, "two");
    assert_string_equal(load_tags_with(p->a, KEY, &t, 0), "one");
    assert_int_equal(near_invalidate_tag(p->a, "red", 3, NULL), NEAR_OK);
    assert_string_equal(load_tags_with(p->a, KEY, &t, 0), "two");
}

/* Another time to live is still the same value, made from the same things. */
static void test_another_time_to_live_keeps_the_tags(void **state)
{
    static const int64_t lives[] = {3600000, 0};
    struct pair *p = pair_of(state);
    struct tagged t = {.tags = {"red"}};
    source_init(&t.source, "old");
    for (size_t i = 0; i < 2; i++) {
        says(&t, "old");
        assert_int_equal(near_invalidate_tag(p->a, "red", 3, NULL), NEAR_OK);
        assert_string_equal(load_tags(p->a, KEY, &t), "old");
        assert_int_equal(near_expire(p->a, KEY, KEY_SIZE, lives[i], NULL), NEAR_OK);
        assert_string_equal(load_tags(p->a, KEY, &t), "old");
        says(&t, "new");
        assert_int_equal(near_invalidate_tag(p->a, "red", 3, NULL), NEAR_OK);
        assert_string_equal(load_tags(p->a, KEY, &t), "new");
    }
}

static void test_a_plain_write_has_no_tags(void **state)
{
    struct pair *p = pair_of(state);
    struct tagged t = {.tags = {"red"}};
    source_init(&t.source, "loaded");
    assert_string_equal(load_tags(p->a, KEY, &t), "loaded");
    assert_int_equal(set(p->a, KEY, "written"), NEAR_OK);
    if (p->b) {
        assert_string_equal(load_tags(p->a, KEY, &t), "written");
        assert_int_equal(near_invalidate_tag(p->a, "red", 3, NULL), NEAR_OK);
        assert_string_equal(load_tags(p->a, KEY, &t), "written");
        assert_int_equal(source_loads(&t.source), 1);
    }
}

static int bad_tag(void *arg, const near_load_request *request, near_loaded *loaded)
{
    static const char zero[3] = "a\0b";
    static char large[NEAR_TAG_MAX + 1];
    (void)request;
    near_loaded_value(loaded, "v", 1);
    memset(large, 'x', sizeof(large));
    switch (*(int *)arg) {
    case 0:
        return near_loaded_tag(loaded, "", 0), NEAR_OK;
    case 1:
        return near_loaded_tag(loaded, zero, sizeof(zero)), NEAR_OK;
    case 2:
        return near_loaded_tag(loaded, large, sizeof(large)), NEAR_OK;
    default:
        for (unsigned i = 0; i <= NEAR_TAGS_MAX; i++)
            near_loaded_tag(loaded, "t", 1);
        return NEAR_OK;
    }
}
static void test_bad_tags_are_told_and_change_nothing(void **state)
{
    struct pair *p = pair_of(state);
    struct tagged t = {.tags = {"red"}};
    near_value value;
    near_load options;
    near_load_init(&options);
    source_init(&t.source, "v");
    /* nobody asked for tags */
    assert_int_equal(near_get_or_load(p->a, KEY, KEY_SIZE, load_tagged, &t, &options, &value), NEAR_ERR_LOADER);
    options.flags = NEAR_LOAD_TAGS;
    for (int i = 0; i < 4; i++)
        assert_int_equal(near_get_or_load(p->a, KEY, KEY_SIZE, bad_tag, &i, &options, &value), NEAR_ERR_LOADER);
    assert_string_equal(got(p->a, KEY), "(NEAR_MISS)");
    static char large[NEAR_TAG_MAX + 1];
    assert_int_equal(near_invalidate_tag(p->a, large, sizeof(large), NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_invalidate_tag(p->a, "", 0, NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_invalidate_tag(p->a, NULL, 1, NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_loaded_tag(NULL, "t", 1), NEAR_ERR_INVALID);
    assert_int_equal(near_invalidate_tag(p->a, "nobody has it", 13, NULL), NEAR_OK);
}

/* ---------------------------------------------------------------- memory */

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    for (size_t n = 1;; n++) {
        struct allocfail hooks;
        struct source s;
        near_options options;
        near_cache *c = NULL;
        near_value value = {0};
        near_load brief;
        near_load_init(&brief);
        brief.lease_ms = 20; /* one that could not even be given back ends by itself */
        allocfail_init(&hooks);
        near_options_init(&options);
        options.allocator = hooks.hooks;
        source_init(&s, "one");
        assert_int_equal(near_open("memory://nomem", &options, &c, NULL), NEAR_OK);
        assert_int_equal(near_wait_ready(c, LONG_MS, NULL), NEAR_OK);
        allocfail_at(&hooks, n);
        int status = near_get_or_load(c, KEY, KEY_SIZE, load_from, &s, &brief, &value);
        uint64_t failed = allocfail_struck(&hooks);
        allocfail_at(&hooks, 0);
        near_release(&value);
        assert_true(status == NEAR_OK || status == NEAR_ERR_NOMEM || status == NEAR_ERR_LOAD);
        assert_string_equal(load(c, KEY, &s), "one"); /* nothing is broken */
        assert_int_equal(near_close(c), NEAR_OK);
        assert_int_equal(allocfail_blocks(&hooks), 0);
        if (!failed)
            break;
    }
}

/* ---------------------------------------------------------------- hits that are to be looked at */

enum { SOME = 20 }; /* few enough that none but the first is timed */

static near_load fresh_for(int64_t ttl_ms)
{
    near_load options;
    near_load_init(&options);
    options.ttl_ms = ttl_ms;
    return options;
}

/* Without a remote tier the keeper tells the time, and from then on hits of what expires go the short way; but for a
 * thread's first one, which is timed. */
static void await_the_short_way(const struct pair *p)
{
    near_write write;
    near_write_init(&write);
    write.ttl_ms = LONG_MS;
    assert_int_equal(near_set(p->a, "another", 7, "any", 3, &write, NULL), NEAR_OK);
    assert_string_equal(got(p->a, "another"), "any");
    const struct near__impl *impl = near__impl_in_section(p->a);
    if (p->kind == LOCAL && impl->local->by_counter)
        assert_true(wait_until(atomic_load(&impl->gate->time_ticks) != NEAR_TICKS_NEVER, LONG_MS));
}

static void test_a_hit_that_has_become_old_is_served_as_such(void **state)
{
    struct pair *p = pair_of(state);
    static struct source s; /* a refresh may outlive the test */
    near_load options = fresh_for(1);
    options.stale_ms = LONG_MS;
    await_the_short_way(p);
    source_init(&s, "one");
    assert_string_equal(load_with(p->a, KEY, &s, &options), "one");
    source_hold(&s, 1); /* the refresh of the first one lasts */
    assert_true(wait_until(strcmp(load_with(p->a, KEY, &s, &options), "stale one") == 0, LONG_MS));
    for (int i = 0; p->kind == LOCAL && i < SOME; i++) /* elsewhere these hits do not go the short way */
        assert_string_equal(load_with(p->a, KEY, &s, &options), "stale one");
    source_hold(&s, 0);
}

/* A loader that took an hour, as far as anybody knows: what is fresh for a minute is refreshed early, nearly always. */
static void test_a_hit_may_be_the_one_that_refreshes_early(void **state)
{
    enum { HOUR_S = 3600 };
    struct pair *p = pair_of(state);
    static struct source s; /* a refresh may outlive the test */
    near_load options = fresh_for(LONG_MS);
    await_the_short_way(p);
    source_init(&s, "one");
    assert_string_equal(load_with(p->a, KEY, &s, &options), "one");
    struct near__loading *l = near__loading_known(near__impl_in_section(p->a));
    near__pace_add(&l->pace, near_version_of(KEY, KEY_SIZE), HOUR_S * NEAR_NS_PER_S);
    for (int i = 0; i < SOME; i++)
        assert_string_equal(load_with(p->a, KEY, &s, &options), "one");
    assert_true(stats_of(p->a).refreshes_early > 0);
    assert_true(wait_until(source_loads(&s) > 1, LONG_MS));
}

static void test_a_hit_is_served_where_there_is_a_loader_alone(void **state)
{
    struct pair *p = pair_of(state);
    struct source s;
    near_value value;
    source_init(&s, "one");
    for (int i = 0; i < 3; i++)
        assert_string_equal(load(p->a, KEY, &s), "one");
    assert_int_equal(near_get_or_load(p->a, KEY, KEY_SIZE, NULL, NULL, NULL, &value), NEAR_ERR_INVALID);
    near_load options = fresh_for(LONG_MS);
    options.jitter_permille = 1001;
    assert_string_equal(load_with(p->a, KEY, &s, &options), "(NEAR_ERR_INVALID)");
    options.jitter_permille = 0;
    options.flags = NEAR_LOAD_REFRESH;
    assert_string_equal(load_with(p->a, KEY, &s, &options), "one");
    assert_int_equal(source_loads(&s), 2);
}

/* ---------------------------------------------------------------- arithmetic */

static void test_early_refresh_has_the_chance_of_xfetch(void **state)
{
    int64_t age = -1;
    int early = 0;
    uint64_t random = 42;
    (void)state;
    enum { TRIES = 200000 };
    for (int i = 0; i < TRIES; i++) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
        /* 200 ms left, loads take 100 ms, beta 1: exp(-2) = 0.1353 */
        early += near__fresh(0, 200 * NEAR_NS_PER_MS, 0, 100 * NEAR_NS_PER_MS, 1000, random, &age) == NEAR_FRESH_EARLY;
    }
    assert_in_range(early, TRIES * 0.130, TRIES * 0.141);
    assert_int_equal(near__fresh(0, 200, 0, 0, 1000, 0, &age), NEAR_FRESH);    /* nothing was measured yet */
    assert_int_equal(near__fresh(0, 200, 0, 1000000, 0, 0, &age), NEAR_FRESH); /* switched off */
    assert_int_equal(near__fresh(250, 300, 100, 0, 1000, 0, &age), NEAR_FRESH_OLD);
    assert_int_equal(age, 50);
    assert_int_equal(near__fresh(INT64_MAX / 2, NEAR_NEVER, 100, 1, 1000, 0, &age), NEAR_FRESH);
}

static void test_jitter_only_shortens(void **state)
{
    int64_t least = INT64_MAX, most = 0;
    uint64_t random = 7;
    (void)state;
    for (int i = 0; i < 10000; i++) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
        int64_t ttl = near__jittered(10000, 100, random >> 16);
        least = ttl < least ? ttl : least;
        most = ttl > most ? ttl : most;
    }
    assert_in_range(least, 9000, 9010);
    assert_in_range(most, 9990, 10000);
    assert_int_equal(near__jittered(1, 1000, 1), 1);
}

/* The same when somebody else wants the inner key already, and its load waits for the only thread: the loader does
 * it. */
struct busy {
    near_cache *cache;
    struct source inner, outer; /* outer: holds the loader until the inner load is on its way */
};
static int load_outer(void *arg, const near_load_request *request, near_loaded *loaded)
{
    struct busy *b = arg;
    near_value inner;
    load_from(&b->outer, request, loaded);
    int status = near_get_or_load(b->cache, "inner", 5, load_from, &b->inner, NULL, &inner);
    if (status == NEAR_OK)
        near_loaded_value(loaded, inner.data, inner.size);
    near_release(&inner);
    return status;
}
static void *outer_main(void *arg)
{
    struct busy *b = arg;
    near_value value;
    int status = near_get_or_load(b->cache, "outer", 5, load_outer, b, NULL, &value);
    near_release(&value);
    return status == NEAR_OK ? b : NULL;
}

static void test_a_loader_does_what_it_would_wait_for(void **state)
{
    (void)state;
    struct busy b = {.cache = NULL};
    struct reader inner;
    near_options options;
    pthread_t outer;
    void *done;
    near_options_init(&options);
    options.load_threads = 1;
    options.timeout_ms = options.bound_ms = LONG_MS;
    assert_int_equal(near_open("memory://busy", &options, &b.cache, NULL), NEAR_OK);
    assert_int_equal(near_wait_ready(b.cache, LONG_MS, NULL), NEAR_OK);
    source_init(&b.inner, "in");
    source_init(&b.outer, "out");
    source_hold(&b.outer, 1);
    assert_int_equal(pthread_create(&outer, NULL, outer_main, &b), 0);
    source_wait_inside(&b.outer, 1);
    inner = (struct reader){.cache = b.cache, .source = &b.inner, .key = "inner"};
    assert_int_equal(pthread_create(&inner.thread, NULL, reader_main, &inner), 0);
    assert_true(wait_until(strcmp(got(b.cache, "inner:nearcache-lease"), "(NEAR_MISS)") != 0, LONG_MS));
    source_hold(&b.outer, 0);
    pthread_join(outer, &done);
    assert_ptr_equal(done, &b);
    assert_string_equal(reader_end(&inner), "in");
    assert_int_equal(source_loads(&b.inner), 1);
    assert_int_equal(near_close(b.cache), NEAR_OK);
}

/* A thread of the parent's is making its cache's loader ready at the moment of fork(): the child's own caches load all
 * the same. */
struct stopper {
    _Atomic(int) armed, stopped;
};
static __thread int may_stop;

static void *stop_allocate(void *arg, size_t size)
{
    struct stopper *s = arg;
    if (may_stop && atomic_load(&s->armed)) {
        atomic_store(&s->stopped, 1);
        while (atomic_load(&s->armed))
            wait_a_moment();
    }
    return malloc(size);
}

static void *stop_reallocate(void *arg, void *memory, size_t size)
{
    (void)arg;
    return realloc(memory, size);
}

static void stop_release(void *arg, void *memory)
{
    (void)arg;
    free(memory);
}

static int load_nothing(void *arg, const near_load_request *request, near_loaded *loaded)
{
    (void)arg, (void)request, (void)loaded;
    return NEAR_MISS;
}

static void *first_loader_main(void *arg)
{
    may_stop = 1;
    return near_set_loader(arg, load_nothing, NULL, NULL) == NEAR_OK ? arg : NULL;
}

static void test_a_child_forked_during_another_s_first_load_can_load(void **state)
{
    (void)state;
#if defined(__SANITIZE_THREAD__)
    skip(); /* ThreadSanitizer does not support threads in a forked child */
#endif
    struct stopper stopper = {0};
    near_options options;
    near_cache *cache;
    pthread_t thread;
    void *set;
    int status;
    near_options_init(&options);
    options.allocator = (near_allocator){stop_allocate, stop_reallocate, stop_release, &stopper};
    assert_int_equal(near_open("memory://forked-first-load", &options, &cache, NULL), NEAR_OK);
    assert_int_equal(near_drop(cache, KEY, KEY_SIZE), NEAR_OK);
    atomic_store(&stopper.armed, 1);
    assert_int_equal(pthread_create(&thread, NULL, first_loader_main, cache), 0);
    while (!atomic_load(&stopper.stopped))
        wait_a_moment();
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        near_cache *own;
        alarm(LONG_MS / 1000);
        if (near_open("local:", NULL, &own, NULL) != NEAR_OK)
            _exit(1);
        _exit(near_set_loader(own, load_nothing, NULL, NULL) == NEAR_OK ? 0 : 2);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    atomic_store(&stopper.armed, 0);
    pthread_join(thread, &set);
    assert_ptr_equal(set, cache);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(near_close(cache), NEAR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_ALL(test_loads_once_and_keeps),
        ON_ALL(test_R16_threads_share_one_load),
        ON_ALL(test_R16_processes_share_one_load),
        ON_ALL(test_R17_get_after_a_write_does_not_join_an_older_load),
        ON_ALL(test_R17_get_after_a_removal_loads_again),
        ON_ALL(test_R17_removal_that_finds_neither_key_nor_lease_voids_the_load),
        ON_ALL(test_R01_fill_does_not_overwrite_another_process_s_write),
        ON_ALL(test_foreign_creation_is_not_overwritten),
        ON_ALL(test_R18_errors_are_not_absence),
        ON_ALL(test_a_failed_load_wakes_the_next_process),
        ON_ALL(test_R19_absence_is_remembered_until_creation),
        ON_ALL(test_refresh_loads_over_a_remembered_absence),
        ON_ALL(test_absence_is_remembered_of_long_keys),
        ON_ALL(test_absence_is_not_remembered_unless_asked),
        ON_ALL(test_nonsense_is_told_and_changes_nothing),
        ON_ALL(test_bad_arguments),
        ON_ALL(test_the_cache_s_own_loader),
        ON_ALL(test_invalidated_tag_makes_its_values_old_and_no_others),
        ON_ALL(test_a_thousand_values_become_old_by_one_message),
        ON_ALL(test_a_tagged_value_is_kept_whatever_stripe_its_tags_are_in),
        ON_ALL(test_C_what_a_refresh_has_told_is_kept_whatever_comes_of_its_stripe),
        ON_ALL(test_C_tags_that_a_refresh_has_told_are_kept_whatever_comes_of_its_stripe),
        ON_ALL(test_C_a_refresh_does_not_replace_what_was_written_meanwhile),
        ON_ALL(test_R01_tag_invalidated_during_the_load_counts),
        ON_ALL(test_R01_tags_of_a_load_that_is_not_kept_are_not_either),
        ON_ALL(test_R01_tag_invalidated_during_the_load_counts_without_its_number),
        ON_ALL(test_R17_get_after_a_tag_s_invalidation_does_not_join_an_older_load),
        ON_ALL(test_an_unchanged_value_keeps_its_tags),
        ON_ALL(test_another_time_to_live_keeps_the_tags),
        ON_ALL(test_a_plain_write_has_no_tags),
        ON_ALL(test_bad_tags_are_told_and_change_nothing),
        {"test_R19_absence_does_not_outlive_what_was_dropped_or_cleared_before_it_was_noted local",
         test_R19_absence_does_not_outlive_what_was_dropped_or_cleared_before_it_was_noted, pair_setup_local,
         pair_teardown, NULL},
        ON_ALL(test_a_hit_that_has_become_old_is_served_as_such),
        ON_ALL(test_a_hit_may_be_the_one_that_refreshes_early),
        ON_ALL(test_a_hit_is_served_where_there_is_a_loader_alone),
        cmocka_unit_test(test_a_loader_may_load),
        cmocka_unit_test(test_a_loader_does_what_it_would_wait_for),
        cmocka_unit_test(test_a_child_forked_during_another_s_first_load_can_load),
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_early_refresh_has_the_chance_of_xfetch),
        cmocka_unit_test(test_jitter_only_shortens),
    };
    pair_memory_uri = "memory://get_or_load";
    pair_options = small_values;
    return RUN_BESIDE_REDIS(tests);
}
