/* SPDX-License-Identifier: BSD-3-Clause
 * Promises B to J of the README, each by its letter, through the public API.  (A has a program of its own; the races
 * behind each promise have theirs in tests/system.) */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cache/cache.h"
#include "nearcache.h"
#include "remote/memory.h"
#include "support/allocfail.h"
#include "support/redis_server.h"
#include "support/wait.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SCALE 1
#else
#define SCALE 10
#endif

#define MS NEAR_NS_PER_MS
enum { PATIENCE_MS = 60000 }; /* only ends a test that has failed */

/* A store and the faults of it, with its own clock. */
struct world {
    struct near__alloc alloc;
    struct near__clock clock;
    _Atomic(int64_t) now;
    struct near__memory_store *store;
};

static void world_init(struct world *w, const char *name)
{
    near__alloc_init(&w->alloc, NULL);
    atomic_store(&w->now, 1000 * NEAR_NS_PER_S);
    w->clock.virtual_ns = &w->now;
    w->store = near__memory_ref(name, &w->alloc, &w->clock);
    assert_non_null(w->store);
}

static near_cache *open_in(struct world *w, const char *uri)
{
    near_cache *cache;
    near_error error = {0};
    int status = near__cache_open(uri, NULL, &w->now, &cache, &error);
    if (status != NEAR_OK)
        print_error("%s\n", error.text);
    assert_int_equal(status, NEAR_OK);
    near_stats stats = {.size = sizeof(stats)};
    assert_true(wait_until(near_stats_get(cache, &stats) == NEAR_OK && stats.proven, PATIENCE_MS));
    return cache;
}

/* Without options: deadlines that a busy machine does not meet. */
static near_cache *open_plain(const char *uri, const near_options *options)
{
    near_cache *cache;
    near_error error = {0};
    near_options patient;
    near_options_init(&patient);
    patient.timeout_ms = patient.connect_timeout_ms = PATIENCE_MS;
    patient.message_values = NEAR_VALUES_NEVER; /* what others hold is not for a heartbeat's timing to decide */
    int status = near_open(uri, options ? options : &patient, &cache, &error);
    if (status == NEAR_OK)
        status = near_wait_ready(cache, PATIENCE_MS, &error);
    if (status != NEAR_OK)
        print_error("%s\n", error.text);
    assert_int_equal(status, NEAR_OK);
    return cache;
}

static int set(near_cache *c, const char *key, const char *value)
{
    return near_set(c, key, strlen(key), value, strlen(value), NULL, NULL);
}

/* The value as a string in a static buffer; the status's name when there is none. */
static const char *get(near_cache *c, const char *key)
{
    static __thread char text[256];
    near_value got;
    int status = near_get(c, key, strlen(key), NULL, &got);
    if (status != NEAR_OK && status != NEAR_STALE)
        return near_status_name(status);
    snprintf(text, sizeof(text), "%.*s", (int)got.size, (const char *)got.data);
    near_release(&got);
    return text;
}

static int is_local(near_cache *c, const char *key)
{
    near_value got;
    int status = near_peek(c, key, strlen(key), &got);
    near_release(&got);
    return status == NEAR_OK;
}

/* ---------------------------------------------------------------- B */

/* The reader's messages stand still; another process writes.  Up to the bound the old value may be served, from then on
 * not. */
static void test_B_no_hit_is_older_than_the_bound(void **state)
{
    (void)state;
    struct world w = {0};
    world_init(&w, "promise-b");
    near_cache *reader = open_in(&w, "memory://promise-b?bound_ms=200ms");
    near_cache *writer = open_in(&w, "memory://promise-b?bound_ms=200ms");
    assert_int_equal(set(writer, "k", "old"), NEAR_OK);
    assert_string_equal(get(reader, "k"), "old");
    near__memory_fault(w.store, NEAR_FAULT_HOLD_MESSAGES, 0, -1);
    assert_int_equal(set(writer, "k", "new"), NEAR_OK);
    assert_true(is_local(reader, "k"));
    near__clock_advance(&w.now, 201 * MS);
    assert_false(is_local(reader, "k"));
    assert_string_equal(get(reader, "k"), "new");
    near__memory_fault(w.store, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
    assert_int_equal(near_close(reader), NEAR_OK);
    assert_int_equal(near_close(writer), NEAR_OK);
    near__memory_unref(w.store);
}

static void test_B_a_tighter_bound_counts_for_one_call(void **state)
{
    (void)state;
    struct world w = {0};
    near_value got;
    near_call call;
    world_init(&w, "promise-b2");
    near_cache *c = open_in(&w, "memory://promise-b2?bound_ms=10s");
    set(c, "k", "v");
    near__memory_fault(w.store, NEAR_FAULT_HOLD_MESSAGES, 0, -1);
    near__clock_advance(&w.now, 500 * MS);
    near_call_init(&call);
    call.bound_ms = 400;
    assert_int_equal(near_get(c, "k", 1, &call, &got), NEAR_OK);
    assert_int_equal(got.source, NEAR_FROM_REMOTE);
    near_release(&got);
    call.bound_ms = 5000;
    assert_int_equal(near_get(c, "k", 1, &call, &got), NEAR_OK);
    assert_int_equal(got.source, NEAR_FROM_LOCAL);
    near_release(&got);
    near__memory_fault(w.store, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
    assert_int_equal(near_close(c), NEAR_OK);
    near__memory_unref(w.store);
}

/* What a read does while nothing proves the local copy: the option unproven, and a call's own wish.  "k" is "old" here,
 * "new" in the store. */
struct unproven {
    struct world w;
    near_cache *reader, *writer;
};

static void unproven_begin(struct unproven *u, const char *option)
{
    char uri[128];
    memset(u, 0, sizeof(*u));
    world_init(&u->w, "unproven");
    snprintf(uri, sizeof(uri), "memory://unproven?bound_ms=200ms&stale_ms=10s&unproven=%s", option);
    u->writer = open_in(&u->w, "memory://unproven");
    u->reader = open_in(&u->w, uri);
    assert_int_equal(set(u->writer, "k", "old"), NEAR_OK);
    assert_string_equal(get(u->reader, "k"), "old");
    near__memory_fault(u->w.store, NEAR_FAULT_HOLD_MESSAGES, 0, -1);
    assert_int_equal(set(u->writer, "k", "new"), NEAR_OK);
    near__clock_advance(&u->w.now, 201 * MS);
}

static void unproven_end(struct unproven *u)
{
    near__memory_fault(u->w.store, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
    assert_int_equal(near_close(u->reader), NEAR_OK);
    assert_int_equal(near_close(u->writer), NEAR_OK);
    near__memory_unref(u->w.store);
}

/* "status value" of every way to read "k", which must all say the same; a look at the local tier alone apart. */
static const char *read_in_all_ways(near_cache *c, uint32_t flags)
{
    static char text[3][64];
    char buffer[16];
    size_t size = 0;
    near_value got;
    near_item item = {.key = "k", .key_size = 1};
    near_call call;
    near_call_init(&call);
    call.flags = flags | NEAR_NO_FILL;
    int status = near_get(c, "k", 1, &call, &got);
    snprintf(text[0], sizeof(text[0]), "%s %.*s", near_status_name(status), (int)got.size,
             got.size ? (const char *)got.data : "");
    near_release(&got);
    status = near_get_copy(c, "k", 1, &call, buffer, sizeof(buffer), &size);
    snprintf(text[1], sizeof(text[1]), "%s %.*s", near_status_name(status), (int)size, buffer);
    int whole = near_mget(c, &item, 1, &call);
    assert_int_equal(whole, item.status < 0 ? item.status : NEAR_OK);
    snprintf(text[2], sizeof(text[2]), "%s %.*s", near_status_name(item.status), (int)item.value.size,
             item.value.size ? (const char *)item.value.data : "");
    near_release(&item.value);
    assert_string_equal(text[1], text[0]);
    assert_string_equal(text[2], text[0]);
    return text[0];
}

static int peek(near_cache *c)
{
    near_value got;
    int status = near_peek(c, "k", 1, &got);
    near_release(&got);
    return status;
}

static void test_B_without_a_proof_reads_go_through(void **state)
{
    (void)state;
    struct unproven u;
    unproven_begin(&u, "read_through");
    assert_int_equal(peek(u.reader), NEAR_MISS);
    assert_string_equal(read_in_all_ways(u.reader, NEAR_ALLOW_STALE), "NEAR_STALE old");
    assert_string_equal(read_in_all_ways(u.reader, 0), "NEAR_OK new");
    unproven_end(&u);
}

static void test_B_without_a_proof_reads_are_stale(void **state)
{
    (void)state;
    struct unproven u;
    near_value got;
    char buffer[2];
    size_t size;
    unproven_begin(&u, "serve_stale");
    assert_string_equal(read_in_all_ways(u.reader, 0), "NEAR_STALE old");
    assert_int_equal(peek(u.reader), NEAR_STALE);
    assert_int_equal(near_get_copy(u.reader, "k", 1, NULL, buffer, sizeof(buffer), &size), NEAR_TRUNCATED);
    near__clock_advance(&u.w.now, 9 * NEAR_NS_PER_S);
    assert_int_equal(near_get(u.reader, "k", 1, NULL, &got), NEAR_STALE);
    near_release(&got);
    near__clock_advance(&u.w.now, 1 * NEAR_NS_PER_S); /* the last proof is older than stale_ms */
    assert_int_equal(peek(u.reader), NEAR_MISS);
    assert_string_equal(read_in_all_ways(u.reader, 0), "NEAR_OK new");
    unproven_end(&u);
}

static void test_B_without_a_proof_reads_fail(void **state)
{
    (void)state;
    struct unproven u;
    near_value got;
    unproven_begin(&u, "fail");
    assert_int_equal(peek(u.reader), NEAR_MISS);
    assert_string_equal(read_in_all_ways(u.reader, 0), "NEAR_ERR_UNPROVEN ");
    assert_string_equal(read_in_all_ways(u.reader, NEAR_ALLOW_STALE), "NEAR_STALE old");
    /* nothing may be taken for absence */
    assert_int_equal(near_get(u.reader, "absent", 6, NULL, &got), NEAR_ERR_UNPROVEN);
    assert_int_equal(set(u.reader, "k", "newer"), NEAR_OK);
    unproven_end(&u);
}

/* ---------------------------------------------------------------- C */

#define WRITERS 2
#define READERS 4

struct race {
    near_cache *cache;
    _Atomic(uint64_t) acknowledged, seen;
    _Atomic(int) stop, back, behind;
    _Atomic(uint64_t) reads;
};

static uint64_t read_number(struct race *r, uint64_t fallback)
{
    near_value got;
    uint64_t number = fallback;
    if (near_get(r->cache, "k", 1, NULL, &got) == NEAR_OK)
        memcpy(&number, got.data, sizeof(number));
    near_release(&got);
    return number;
}

static void raise_to(_Atomic(uint64_t) *at, uint64_t number)
{
    uint64_t now = atomic_load(at);
    while (now < number && !atomic_compare_exchange_weak(at, &now, number))
        ;
}

static void *read_on(void *arg)
{
    struct race *r = arg;
    while (!atomic_load(&r->stop)) {
        uint64_t floor = atomic_load(&r->acknowledged), seen = atomic_load(&r->seen);
        uint64_t number = read_number(r, UINT64_MAX);
        if (number == UINT64_MAX)
            continue;
        r->behind |= number < floor;
        r->back |= number < seen;
        raise_to(&r->seen, number);
        atomic_fetch_add(&r->reads, 1);
    }
    return NULL;
}

/* Writes rising numbers here and from another process in turn; drops, bypasses and evictions stir. */
static void stir(struct race *r, near_cache *other, int rounds)
{
    near_value got;
    near_call bypass;
    near_call_init(&bypass);
    bypass.flags = NEAR_BYPASS_LOCAL;
    for (uint64_t n = 1; n <= (uint64_t)rounds; n++) {
        assert_int_equal(near_set(n % 3 ? r->cache : other, "k", 1, &n, sizeof(n), NULL, NULL), NEAR_OK);
        if (n % 3)
            atomic_store(&r->acknowledged, n); /* read-your-writes is for writes of this process */
        if (n % 5 == 0)
            near_drop(r->cache, "k", 1);
        if (n % 7 == 0 && near_get(r->cache, "k", 1, &bypass, &got) == NEAR_OK) {
            uint64_t number;
            memcpy(&number, got.data, sizeof(number));
            raise_to(&r->seen, number);
            near_release(&got);
        }
    }
}

static void monotonic_on(const char *uri)
{
    struct race r = {.cache = open_plain(uri, NULL)};
    near_cache *other = open_plain(uri, NULL);
    pthread_t threads[READERS];
    for (int i = 0; i < READERS; i++)
        pthread_create(&threads[i], NULL, read_on, &r);
    assert_int_equal(near_set(r.cache, "k", 1, &(uint64_t){0}, sizeof(uint64_t), NULL, NULL), NEAR_OK);
    assert_true(wait_until(r.reads > 0, PATIENCE_MS)); /* the readers are at it */
    stir(&r, other, 400 * SCALE);
    atomic_store(&r.stop, 1);
    for (int i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    if (r.behind || r.back)
        print_error("%s%s\n", r.behind ? "a read missed this process's own write; " : "",
                    r.back ? "a read went back" : "");
    assert_false(r.behind || r.back);
    assert_int_equal(near_close(other), NEAR_OK);
    assert_int_equal(near_close(r.cache), NEAR_OK);
}

static void test_C_reads_never_go_back_on_memory(void **state)
{
    (void)state;
    monotonic_on("memory://promise-c");
}

static void test_C_reads_never_go_back_on_redis(void **state)
{
    (void)state;
    if (!redis_server_available())
        skip();
    struct redis_server *server = redis_server_start(NULL);
    monotonic_on(redis_server_uri_unix(server));
    redis_server_free(server);
}

/* ---------------------------------------------------------------- D */

static void *get_in_thread(void *arg)
{
    get(arg, "k");
    return NULL;
}

static void test_D_a_slow_fill_does_not_resurrect(void **state)
{
    (void)state;
    struct world w = {0};
    pthread_t thread;
    world_init(&w, "promise-d");
    near_cache *reader = open_in(&w, "memory://promise-d");
    near_cache *writer = open_in(&w, "memory://promise-d");
    set(writer, "k", "old");
    near__memory_fault(w.store, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_FETCH, 1);
    pthread_create(&thread, NULL, get_in_thread, reader);
    assert_int_equal(near__memory_wait_held(w.store, NEAR_FAULT_HOLD_REPLIES, 1, PATIENCE_MS), 0);
    set(writer, "k", "new");
    near_stats stats = {.size = sizeof(stats)};
    assert_true(wait_until(near_stats_get(reader, &stats) == NEAR_OK && stats.messages >= 2, PATIENCE_MS));
    near__memory_release_one(w.store, NEAR_FAULT_HOLD_REPLIES);
    pthread_join(thread, NULL);
    assert_false(is_local(reader, "k"));
    assert_string_equal(get(reader, "k"), "new");
    assert_int_equal(near_close(reader), NEAR_OK);
    assert_int_equal(near_close(writer), NEAR_OK);
    near__memory_unref(w.store);
}

/* ---------------------------------------------------------------- E */

static void test_E_a_write_of_unknown_fate_says_so_and_leaves_no_copy(void **state)
{
    (void)state;
    struct world w = {0};
    world_init(&w, "promise-e");
    near_cache *c = open_in(&w, "memory://promise-e");
    set(c, "k", "old");
    assert_true(is_local(c, "k"));
    near__memory_fault(w.store, NEAR_FAULT_DROP_REPLIES, NEAR_OP_SET, 1);
    assert_int_equal(set(c, "k", "new"), NEAR_ERR_UNKNOWN);
    assert_false(is_local(c, "k"));
    assert_string_equal(get(c, "k"), "new"); /* here it did happen */
    assert_int_equal(near_close(c), NEAR_OK);
    near__memory_unref(w.store);
}

static void test_E_an_acknowledged_write_is_in_redis(void **state)
{
    (void)state;
    if (!redis_server_available())
        skip();
    struct redis_server *server = redis_server_start(NULL);
    near_cache *c = open_plain(redis_server_uri_unix(server), NULL);
    for (int i = 0; i < 100; i++) {
        char text[16];
        snprintf(text, sizeof(text), "%d", i);
        assert_int_equal(set(c, "k", text), NEAR_OK);
        assert_string_equal(redis_server_command(server, "GET", "k", NULL), text);
    }
    assert_int_equal(near_close(c), NEAR_OK);
    redis_server_free(server);
}

/* ---------------------------------------------------------------- F */

static void test_F_memory_stays_within_the_budget(void **state)
{
    (void)state;
    struct allocfail hooks;
    near_options options;
    near_stats stats = {.size = sizeof(stats)};
    char value[3000];
    uint64_t limits[] = {4 << 20, 16 << 20, 2 << 20};
    memset(value, 'x', sizeof(value));
    allocfail_init(&hooks);
    near_options_init(&options);
    options.allocator = hooks.hooks;
    options.local_bytes = 8 << 20;
    near_cache *c = open_plain("local:", &options);
    uint64_t limit = options.local_bytes;
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 16000 + 1000 * SCALE; i++) { /* some 24 MB */
            char key[32];
            int size = snprintf(key, sizeof(key), "%d:%d", round, i);
            near_set(c, key, (size_t)size, value, (size_t)(i * 37 % (int)sizeof(value)), NULL, NULL);
            if (i % 64)
                continue;
            near_stats_get(c, &stats);
            uint64_t slack = limit / 20 > (1 << 20) ? limit / 20 : 1 << 20;
            if (stats.local_bytes_limit == limit)
                assert_in_range(stats.local_bytes, 0, limit + slack);
        }
        assert_true(stats.evictions > 0);
        if (round == 3)
            break;
        limit = limits[round];
        near_set_local_bytes(c, limit);
        uint64_t slack = 1 << 20;
        assert_true(
            wait_until(near_stats_get(c, &stats) == NEAR_OK && stats.local_bytes <= limit + slack, PATIENCE_MS));
        /* what was asked of the allocator agrees: nothing is left out of the account */
        assert_in_range((uint64_t)allocfail_bytes(&hooks), 0, limit + slack + (1 << 20));
    }
    assert_int_equal(near_close(c), NEAR_OK);
    assert_int_equal(allocfail_blocks(&hooks), 0);
}

/* ---------------------------------------------------------------- G */

static void test_G_expired_is_gone(void **state)
{
    (void)state;
    struct world w = {0};
    near_write write;
    world_init(&w, "promise-g");
    near_cache *c = open_in(&w, "memory://promise-g?bound_ms=1h");
    near_write_init(&write);
    write.ttl_ms = 1000;
    assert_int_equal(near_set(c, "k", 1, "v", 1, &write, NULL), NEAR_OK);
    near__clock_advance(&w.now, 900 * MS);
    assert_string_equal(get(c, "k"), "v");
    near_drop(c, "k", 1);
    assert_string_equal(get(c, "k"), "v"); /* fetched: has what is left, not a new second */
    near__clock_advance(&w.now, 99 * MS);
    assert_string_equal(get(c, "k"), "v");
    near__clock_advance(&w.now, 1 * MS);
    assert_false(is_local(c, "k"));
    assert_string_equal(get(c, "k"), "NEAR_MISS");
    assert_int_equal(near_close(c), NEAR_OK);
    near__memory_unref(w.store);
}

/* ---------------------------------------------------------------- H */

static int64_t now_ns(void)
{
    return near__clock_kernel(CLOCK_MONOTONIC);
}

static int read_fails(near_cache *c)
{
    near_value got;
    int status = near_get(c, "k", 1, NULL, &got);
    near_release(&got);
    return status < 0;
}

static void test_H_redis_away_is_a_state(void **state)
{
    (void)state;
    if (!redis_server_available())
        skip();
    struct redis_server *server = redis_server_start(NULL);
    char uri[512];
    near_stats stats = {.size = sizeof(stats)};
    snprintf(uri, sizeof(uri), "%s?timeout_ms=300ms&bound_ms=200ms", redis_server_uri_unix(server));
    near_cache *c = open_plain(uri, NULL);
    set(c, "k", "v");
    redis_server_pause(server);
    int64_t started = now_ns();
    near_value got;
    int status = near_get(c, "other", 5, NULL, &got);
    assert_true(status < 0);
    assert_true(now_ns() - started < 10 * NEAR_NS_PER_S);    /* a deadline, not a speed */
    assert_true(wait_until(!is_local(c, "k"), PATIENCE_MS)); /* the proof runs out */
    redis_server_resume(server);
    assert_true(wait_until(strcmp(get(c, "k"), "v") == 0 && is_local(c, "k"), PATIENCE_MS));
    redis_server_kill(server);
    assert_true(wait_until(read_fails(c) && near_stats_get(c, &stats) == NEAR_OK && stats.breaker_open, PATIENCE_MS));
    assert_int_equal(redis_server_up(server), 0);
    assert_true(wait_until(set(c, "k", "again") == NEAR_OK, PATIENCE_MS));
    assert_true(wait_until(is_local(c, "k") || strcmp(get(c, "k"), "again") != 0, PATIENCE_MS));
    assert_int_equal(near_close(c), NEAR_OK);
    redis_server_free(server);
}

static void test_H_a_cache_opens_while_redis_is_down(void **state)
{
    (void)state;
    if (!redis_server_available())
        skip();
    struct redis_server *server = redis_server_start(NULL);
    near_cache *c;
    near_error error = {0};
    redis_server_kill(server);
    assert_int_equal(near_open(redis_server_uri_unix(server), NULL, &c, &error), NEAR_OK);
    assert_true(set(c, "k", "v") < 0);
    assert_int_equal(near_wait_ready(c, 50, &error), NEAR_ERR_TIMEOUT);
    assert_true(strlen(error.text) > 0);
    assert_int_equal(redis_server_up(server), 0);
    assert_true(wait_until(set(c, "k", "v") == NEAR_OK, PATIENCE_MS));
    assert_int_equal(near_close(c), NEAR_OK);
    redis_server_free(server);
}

/* ---------------------------------------------------------------- I */

static void *one_call(void *arg)
{
    get(arg, "k");
    return NULL;
}

static void test_I_threads_come_and_go_without_a_trace(void **state)
{
    (void)state;
    near_stats before = {.size = sizeof(before)}, after = {.size = sizeof(after)};
    near_cache *c = open_plain("local:", NULL);
    set(c, "k", "v");
    for (int i = 0; i < 2000 * SCALE; i++) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, one_call, c), 0);
        pthread_join(thread, NULL);
        if (i == 100)
            near_stats_get(c, &before);
    }
    near_stats_get(c, &after);
    /* records are used again; the index may have become smaller, since nothing but one key is there */
    assert_int_equal(after.local_bytes - after.local_index_bytes, before.local_bytes - before.local_index_bytes);
    assert_int_equal(after.local_hits, (uint64_t)2000 * SCALE);
    assert_int_equal(near_close(c), NEAR_OK);
}

/* What a thread keeps for itself until it ends. */
struct kept {
    near_cache *cache;
    near_value value;
    int close_status; /* while the value is held: by the destructor */
    char text[8];
};
static pthread_key_t kept_key;

static void end_kept(void *arg)
{
    struct kept *kept = arg;
    kept->close_status = near_close(kept->cache);
    if (kept->close_status == NEAR_ERR_BUSY)
        snprintf(kept->text, sizeof(kept->text), "%.*s", (int)kept->value.size, (const char *)kept->value.data);
    near_release(&kept->value);
}

static void *keep_until_the_end(void *arg)
{
    struct kept *kept = arg;
    assert_int_equal(near_get(kept->cache, "k", 1, NULL, &kept->value), NEAR_OK);
    assert_int_equal(kept->value.source, NEAR_FROM_LOCAL);
    pthread_setspecific(kept_key, kept);
    return NULL;
}

static void *keep_and_forget(void *arg)
{
    near_value value;
    assert_int_equal(near_get(arg, "k", 1, NULL, &value), NEAR_OK);
    return NULL;
}

/* The library's own destructor comes before theirs, since its key was made earlier. */
static void test_I_a_value_is_held_until_the_thread_has_released_it_at_its_end(void **state)
{
    (void)state;
    struct kept kept = {.cache = open_plain("local:", NULL)};
    pthread_t thread;
    set(kept.cache, "k", "v");
    assert_int_equal(pthread_key_create(&kept_key, end_kept), 0);
    assert_int_equal(pthread_create(&thread, NULL, keep_until_the_end, &kept), 0);
    pthread_join(thread, NULL);
    assert_int_equal(kept.close_status, NEAR_ERR_BUSY);
    assert_string_equal(kept.text, "v");
    assert_int_equal(pthread_create(&thread, NULL, keep_and_forget, kept.cache), 0);
    pthread_join(thread, NULL);
    assert_int_equal(near_close(kept.cache), NEAR_OK);
    pthread_key_delete(kept_key);
}

static void test_I_every_descriptor_closes_on_exec(void **state)
{
    (void)state;
    if (!redis_server_available())
        skip();
    struct redis_server *server = redis_server_start(NULL);
    int before[256] = {0}, ours = 0;
    for (int fd = 0; fd < 256; fd++)
        before[fd] = fcntl(fd, F_GETFD) >= 0;
    near_cache *c = open_plain(redis_server_uri(server), NULL);
    set(c, "k", "v");
    for (int fd = 0; fd < 256; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (flags < 0 || before[fd])
            continue;
        ours++;
        assert_true(flags & FD_CLOEXEC);
    }
    assert_true(ours >= 2); /* a data connection and a subscription */
    assert_int_equal(near_close(c), NEAR_OK);
    for (int fd = 0; fd < 256; fd++)
        assert_int_equal(fcntl(fd, F_GETFD) >= 0, before[fd]);
    redis_server_free(server);
}

static void test_I_two_caches_live_side_by_side(void **state)
{
    (void)state;
    near_cache *a = open_plain("memory://promise-i-a", NULL), *b = open_plain("memory://promise-i-b", NULL);
    set(a, "k", "of a");
    set(b, "k", "of b");
    for (int i = 0; i < 100; i++) {
        assert_string_equal(get(a, "k"), "of a");
        assert_string_equal(get(b, "k"), "of b");
    }
    assert_int_equal(near_close(a), NEAR_OK);
    assert_string_equal(get(b, "k"), "of b");
    assert_int_equal(near_close(b), NEAR_OK);
}

static int child_of_fork(near_cache *inherited)
{
    near_cache *fresh;
    near_value got;
    if (near_get(inherited, "k", 1, NULL, &got) != NEAR_ERR_FORKED || set(inherited, "k", "x") != NEAR_ERR_FORKED ||
        near_close(inherited) != NEAR_ERR_FORKED)
        return 10;
    int status = near_open("memory://promise-i-child", NULL, &fresh, NULL);
    if (status == NEAR_ERR_FORKED)
        return 0; /* allowed when the parent was inside a grace period */
    if (status != NEAR_OK || near_wait_ready(fresh, PATIENCE_MS, NULL) != NEAR_OK || set(fresh, "k", "v") != NEAR_OK)
        return 11;
    if (strcmp(get(fresh, "k"), "v") != 0 || near_close(fresh) != NEAR_OK)
        return 12;
    return 0;
}

static void test_I_child_of_fork_is_refused_and_may_open_its_own(void **state)
{
    (void)state;
#if defined(__SANITIZE_THREAD__)
    skip(); /* ThreadSanitizer does not support threads in a forked child */
#endif
    near_cache *c = open_plain("memory://promise-i-fork", NULL);
    set(c, "k", "v");
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            alarm(4 * PATIENCE_MS / 1000);
            _exit(child_of_fork(c));
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
    assert_string_equal(get(c, "k"), "v");
    assert_int_equal(near_close(c), NEAR_OK);
}

/* A plugin that links the library is unloaded while a thread that has used it lives on and ends later. */
struct plugin {
    void *handle;
    int (*open)(const char *, const near_options *, near_cache **, near_error *);
    int (*set)(near_cache *, const void *, size_t, const void *, size_t, const near_write *, const near_call *);
    int (*close)(near_cache *);
    near_cache *cache;
    _Atomic(int) used, unloaded;
};

static void *use_then_outlive(void *arg)
{
    struct plugin *p = arg;
    p->set(p->cache, "k", 1, "v", 1, NULL, NULL);
    atomic_store(&p->used, 1);
    while (!atomic_load(&p->unloaded))
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    return NULL;
}

static void test_I_dlclose_then_thread_exit(void **state)
{
    (void)state;
    char path[4096];
    const char *top = getenv("top_builddir");
    struct plugin p = {0};
    pthread_t thread;
    snprintf(path, sizeof(path), "%s/.libs/libnearcache.so", top ? top : ".");
    p.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!p.handle) {
        print_message("no shared library here: %s\n", dlerror());
        skip();
    }
    *(void **)&p.open = dlsym(p.handle, "near_open");
    *(void **)&p.set = dlsym(p.handle, "near_set");
    *(void **)&p.close = dlsym(p.handle, "near_close");
    assert_true(p.open && p.set && p.close);
    assert_int_equal(p.open("local:", NULL, &p.cache, NULL), NEAR_OK);
    pthread_create(&thread, NULL, use_then_outlive, &p);
    while (!atomic_load(&p.used))
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    assert_int_equal(p.close(p.cache), NEAR_OK);
    dlclose(p.handle);
    atomic_store(&p.unloaded, 1);
    pthread_join(thread, NULL);
}

/* ---------------------------------------------------------------- J */

static void test_J_a_hostile_message_loses_nothing(void **state)
{
    (void)state;
    struct world w = {0};
    near_stats stats = {.size = sizeof(stats)};
    world_init(&w, "promise-j");
    near_cache *c = open_in(&w, "memory://promise-j");
    set(c, "k", "v");
    static const char *const bad[] = {"",      "1",      "1:", "1x:", "2123:body", "199999999999999999999999:x",
                                      "1-5:x", "garbage"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        near__memory_inject_message(w.store, bad[i], strlen(bad[i]));
        assert_true(wait_until(near_stats_get(c, &stats) == NEAR_OK && stats.messages_bad == i + 1, PATIENCE_MS));
        assert_string_equal(get(c, "k"), "v");
    }
    /* and serves again, as soon as time has brought the next proof */
    assert_true(
        wait_until((near__clock_advance(&w.now, MS), strcmp(get(c, "k"), "v") == 0 && is_local(c, "k")), PATIENCE_MS));
    assert_int_equal(near_close(c), NEAR_OK);
    near__memory_unref(w.store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_B_no_hit_is_older_than_the_bound),
        cmocka_unit_test(test_B_a_tighter_bound_counts_for_one_call),
        cmocka_unit_test(test_B_without_a_proof_reads_go_through),
        cmocka_unit_test(test_B_without_a_proof_reads_are_stale),
        cmocka_unit_test(test_B_without_a_proof_reads_fail),
        cmocka_unit_test(test_C_reads_never_go_back_on_memory),
        cmocka_unit_test(test_C_reads_never_go_back_on_redis),
        cmocka_unit_test(test_D_a_slow_fill_does_not_resurrect),
        cmocka_unit_test(test_E_a_write_of_unknown_fate_says_so_and_leaves_no_copy),
        cmocka_unit_test(test_E_an_acknowledged_write_is_in_redis),
        cmocka_unit_test(test_F_memory_stays_within_the_budget),
        cmocka_unit_test(test_G_expired_is_gone),
        cmocka_unit_test(test_H_redis_away_is_a_state),
        cmocka_unit_test(test_H_a_cache_opens_while_redis_is_down),
        cmocka_unit_test(test_I_threads_come_and_go_without_a_trace),
        cmocka_unit_test(test_I_a_value_is_held_until_the_thread_has_released_it_at_its_end),
        cmocka_unit_test(test_I_every_descriptor_closes_on_exec),
        cmocka_unit_test(test_I_two_caches_live_side_by_side),
        cmocka_unit_test(test_I_child_of_fork_is_refused_and_may_open_its_own),
        cmocka_unit_test(test_I_dlclose_then_thread_exit),
        cmocka_unit_test(test_J_a_hostile_message_loses_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
