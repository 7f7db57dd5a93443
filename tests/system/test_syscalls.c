/* SPDX-License-Identifier: BSD-3-Clause
 * Every entry point, with the n-th system call failing, for every n: on a real Redis (unix socket, and TCP by a name
 * that has to be resolved) and on memory://.
 *
 * Each entry point is run once unbroken, which tells how many calls there are; then once for each of them with that one
 * failing, in a way that the seed draws from those that the call has; then, for a part of the numbers, with all later
 * calls of the same function failing too, for as long as the entry point runs.  Whatever thread makes the n-th call:
 * the subscriber's and the keeper's fail as the caller's do.  Every time must hold:
 *
 *   - it returns, with a status that its documentation has; where only one call failed, long before its deadline;
 *   - nobody spins while calls fail;
 *   - what it says of a write is true: acknowledged and there, or not changed, or unknown;
 *   - afterwards the cache becomes ready by itself, reads, writes and keeps again, with as many descriptors as before;
 *   - after closing no memory and no descriptor is left.
 *
 * NEAR_TEST_ROUNDS=n: n times as many ways (each round has another seed). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/allocfail.h"
#include "support/redis_server.h"
#include "support/seed.h"
#include "support/sysfail.h"
#include "system/stack.h"

enum {
    /* by then every connection that a call has lost is back: pauses end after 20 ms, dialling after a second */
    RESTORED_MS = 3000,
    LONG_MS = 2 * PATIENCE_MS, /* deadline where one call fails: nothing may come near it */
    SHORT_MS = 25,             /* where calls go on failing */
    CALLS_PER_MS = 400,        /* more is spinning; an idle machine makes a tenth of them at most */
};

struct world {
    char uri[160];
    struct allocfail memory;
    near_options options;
    near_cache *cache;
    near_source *source;
    near_error error; /* of the call that failed */
    char path[128];   /* of a file of keys */
    char journal[144];
    int descriptors; /* of the ready cache */
    int number;      /* of the present run: values differ from run to run */
    int lasting;
    _Atomic(int) stored, accepted;
};

struct entry {
    const char *name;
    int (*call)(struct world *w);
    void (*before)(struct world *w);            /* not under fire; may be NULL */
    void (*after)(struct world *w, int status); /* what must hold besides; may be NULL */
    const int *statuses;                        /* beside NEAR_OK */
    int needs_redis;
};

/* ---------------------------------------------------------------- descriptors */

static int descriptors(void)
{
    int n = 0;
    DIR *folder = opendir("/proc/self/fd");
    assert_non_null(folder);
    while (readdir(folder))
        n++;
    closedir(folder);
    return n;
}

/* What they are, for whoever reads of a failure. */
static void print_descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    assert_non_null(folder);
    for (struct dirent *one; (one = readdir(folder));) {
        char target[128];
        ssize_t size = readlinkat(dirfd(folder), one->d_name, target, sizeof(target) - 1);
        if (size > 0)
            print_error("descriptor %s: %.*s\n", one->d_name, (int)size, target);
    }
    closedir(folder);
}

/* ---------------------------------------------------------------- statuses, as nearcache.h has them */

#define REMOTE_TIER NEAR_ERR_NOMEM, NEAR_ERR_TIMEOUT, NEAR_ERR_UNAVAILABLE, NEAR_ERR_IO, NEAR_ERR_PROTOCOL
static const int of_reads[] = {REMOTE_TIER, 0};
static const int of_writes[] = {REMOTE_TIER, NEAR_ERR_UNKNOWN, 0};
static const int of_loads[] = {NEAR_ERR_LOAD,  NEAR_ERR_LOAD_TIMEOUT, NEAR_ERR_TIMEOUT,
                               NEAR_ERR_NOMEM, NEAR_ERR_SYSTEM,       0};
static const int of_open[] = {NEAR_ERR_NOMEM, NEAR_ERR_SYSTEM, 0};
static const int of_locks[] = {REMOTE_TIER, NEAR_ERR_UNKNOWN, NEAR_ERR_SYSTEM, NEAR_LOCKED, NEAR_ERR_LOCK_LOST, 0};
static const int of_checks[] = {REMOTE_TIER, NEAR_ERR_UNKNOWN, NEAR_ERR_SYSTEM, NEAR_ERR_UNPROVEN, NEAR_ERR_RESOLVE, 0};
static const int of_waiting[] = {NEAR_ERR_TIMEOUT, 0};
static const int of_files[] = {NEAR_ERR_SYSTEM, NEAR_ERR_NOMEM, 0};
static const int of_warming[] = {REMOTE_TIER, NEAR_ERR_SYSTEM, NEAR_ERR_SNAPSHOT, 0};
static const int of_source_open[] = {NEAR_ERR_NOMEM, NEAR_ERR_SYSTEM, NEAR_ERR_JOURNAL, 0};
static const int of_source_writes[] = {NEAR_PENDING, NEAR_ERR_NOMEM, NEAR_ERR_TIMEOUT, NEAR_ERR_JOURNAL, 0};
static const int of_source_close[] = {NEAR_PENDING, NEAR_ERR_TIMEOUT, 0};
static const int of_nothing[] = {0};

static int is_documented(const struct entry *e, int status)
{
    if (status == NEAR_OK)
        return 1;
    for (const int *s = e->statuses; *s; s++)
        if (*s == status)
            return 1;
    return 0;
}

/* ---------------------------------------------------------------- worlds */

static void open_cache(struct world *w)
{
    near_error error = {0};
    int status = near_open(w->uri, &w->options, &w->cache, &error);
    if (status != NEAR_OK)
        print_error("open %s: %s: %s\n", w->uri, near_status_name(status), error.text);
    assert_int_equal(status, NEAR_OK);
}

static void require_ready(struct world *w)
{
    near_error error = {0};
    int status = near_wait_ready(w->cache, PATIENCE_MS, &error);
    if (status != NEAR_OK)
        print_error("wait_ready: %s: %s\n", near_status_name(status), error.text);
    assert_int_equal(status, NEAR_OK);
}

/* As many as at the first time.  That count may have been one of a name server's thread too high; then fewer are there
 * for good, and count from now on.  More for good is a leak. */
static void require_descriptors(struct world *w)
{
    if (!w->descriptors)
        w->descriptors = descriptors();
    if (!wait_until(descriptors() == w->descriptors, RESTORED_MS) && descriptors() < w->descriptors)
        w->descriptors = descriptors();
    if (!wait_until(descriptors() == w->descriptors, PATIENCE_MS)) {
        print_descriptors();
        fail_msg("%d descriptors, expected %d", descriptors(), w->descriptors);
    }
}

/* Reads, writes and keeps again, with as many descriptors as before. */
static void require_working(struct world *w)
{
    char value[32];
    snprintf(value, sizeof(value), "works%d", w->number);
    require_ready(w);
    assert_true(wait_until(put_with(w->cache, "works", value, 0, PATIENCE_MS) == NEAR_OK, PATIENCE_MS));
    assert_string_equal(look_with(w->cache, "works", NEAR_BYPASS_LOCAL | NEAR_NO_FILL, PATIENCE_MS, 0), value);
    assert_true(wait_until(strcmp(look(w->cache, "works"), value) == 0 && strcmp(peek(w->cache, "works"), value) == 0,
                           PATIENCE_MS));
    require_descriptors(w);
}

/* Whoever looks, looks at the same: the local tier is no other than the server (after a write of unknown fate: in the
 * end). */
static const char *settled(struct world *w, const char *key)
{
    const char *there = "", *here = "";
    int same =
        wait_until(strcmp(here = look_with(w->cache, key, 0, PATIENCE_MS, 0),
                          there = look_with(w->cache, key, NEAR_BYPASS_LOCAL | NEAR_NO_FILL, PATIENCE_MS, 0)) == 0,
                   PATIENCE_MS);
    if (!same)
        fail_msg("%s: %s here, %s there", key, here, there);
    return there;
}

static void close_cache(struct world *w)
{
    if (w->cache)
        assert_int_equal(near_close(w->cache), NEAR_OK);
    w->cache = NULL;
}

static const char *text(struct world *w, const char *word)
{
    static __thread char texts[4][32];
    static __thread unsigned next;
    char *at = texts[next++ % 4];
    snprintf(at, 32, "%s%d", word, w->number);
    return at;
}

static void require_put(struct world *w, const char *key, const char *value)
{
    assert_true(wait_until(put_with(w->cache, key, value, 0, PATIENCE_MS) == NEAR_OK, PATIENCE_MS));
}

/* ---------------------------------------------------------------- open, close */

static int call_open(struct world *w)
{
    return near_open(w->uri, &w->options, &w->cache, &w->error);
}

static void after_open(struct world *w, int status)
{
    if (status != NEAR_OK)
        assert_int_not_equal(w->error.text[0], 0);
}

static int call_open_and_wait(struct world *w)
{
    int status = call_open(w);
    return status == NEAR_OK ? near_wait_ready(w->cache, w->options.timeout_ms, &w->error) : status;
}

static void open_ready(struct world *w)
{
    open_cache(w);
    require_working(w);
}

static int call_close(struct world *w)
{
    int status = near_close(w->cache);
    w->cache = NULL;
    return status;
}

/* ---------------------------------------------------------------- one key */

static void before_read(struct world *w)
{
    require_put(w, "k", text(w, "v"));
    assert_int_equal(near_drop(w->cache, "k", 1), NEAR_OK);
}

static void before_held_read(struct world *w)
{
    require_put(w, "k", text(w, "v"));
    assert_string_equal(look(w->cache, "k"), text(w, "v"));
}

static int get_with(struct world *w, uint32_t flags)
{
    near_value value;
    near_call call;
    near_call_init(&call);
    call.flags = flags;
    int status = near_get(w->cache, "k", 1, &call, &value);
    if (status == NEAR_OK) {
        assert_int_equal(value.size, strlen(text(w, "v")));
        assert_memory_equal(value.data, text(w, "v"), value.size);
    }
    near_release(&value);
    return status;
}

static int call_get(struct world *w)
{
    return get_with(w, 0);
}
static int call_get_fresh(struct world *w)
{
    return get_with(w, NEAR_REQUIRE_FRESH);
}

static int call_get_copy(struct world *w)
{
    char buffer[32];
    size_t size = 0;
    int status = near_get_copy(w->cache, "k", 1, NULL, buffer, sizeof(buffer), &size);
    if (status == NEAR_OK)
        assert_memory_equal(buffer, text(w, "v"), size);
    return status;
}

static void before_write(struct world *w)
{
    require_put(w, "k", text(w, "old"));
    require_put(w, "n", "41");
    assert_string_equal(settled(w, "k"), text(w, "old"));
}

/* What a write said is what happened. */
static void judge_write(struct world *w, int status, const char *key, const char *old, const char *new)
{
    const char *now = settled(w, key);
    const char *wanted = status == NEAR_OK ? new : status == NEAR_ERR_UNKNOWN &&strcmp(now, new) == 0 ? new : old;
    if (strcmp(now, wanted) != 0)
        fail_msg("%s: \"%s\" is there, expected \"%s\"", near_status_name(status), now, wanted);
}

static int call_set(struct world *w)
{
    return put(w->cache, "k", text(w, "new"));
}
static void after_set(struct world *w, int status)
{
    judge_write(w, status, "k", text(w, "old"), text(w, "new"));
}
static int call_del(struct world *w)
{
    return near_del(w->cache, "k", 1, NULL);
}
static void after_del(struct world *w, int status)
{
    judge_write(w, status, "k", text(w, "old"), MISS);
}
static int call_expire(struct world *w)
{
    return near_expire(w->cache, "k", 1, 100000, NULL);
}
static void after_expire(struct world *w, int status)
{
    judge_write(w, status, "k", text(w, "old"), text(w, "old"));
}

static int call_incr(struct world *w)
{
    int64_t number = 0;
    int status = near_incr(w->cache, "n", 1, 1, NULL, &number);
    if (status == NEAR_OK)
        assert_int_equal(number, 42);
    return status;
}
static void after_incr(struct world *w, int status)
{
    judge_write(w, status, "n", "41", "42");
}

static int call_cas(struct world *w)
{
    const char *old = text(w, "old"), *new = text(w, "new");
    return near_cas(w->cache, "k", 1, old, strlen(old), new, strlen(new), NULL, NULL);
}

/* ---------------------------------------------------------------- many keys */

enum { MANY = 5 };
static const char *const many_keys[MANY] = {"m0", "m1", "m2", "m3", "m4"};

static void before_many(struct world *w)
{
    for (int i = 0; i < MANY; i++) {
        require_put(w, many_keys[i], text(w, "old"));
        assert_int_equal(near_drop(w->cache, many_keys[i], 2), NEAR_OK);
    }
}

static near_item *items(struct world *w, const char *word)
{
    static near_item many[MANY];
    static char value[32];
    snprintf(value, sizeof(value), "%s", text(w, word));
    memset(many, 0, sizeof(many));
    for (int i = 0; i < MANY; i++)
        many[i] = (near_item){.key = many_keys[i], .key_size = 2, .data = value, .size = strlen(value)};
    return many;
}

static void judge_items(const near_item *many, int status)
{
    int first = NEAR_OK;
    for (int i = MANY; i-- > 0;)
        if (many[i].status < 0)
            first = many[i].status;
    assert_int_equal(status, first);
}

static int call_mget(struct world *w)
{
    near_item *many = items(w, "old");
    int status = near_mget(w->cache, many, MANY, NULL);
    for (int i = 0; i < MANY; i++) {
        if (many[i].status == NEAR_OK)
            assert_memory_equal(many[i].value.data, many[i].data, many[i].size);
        near_release(&many[i].value);
    }
    judge_items(many, status);
    return status;
}

static int write_many(struct world *w, near_item *many, const char *new)
{
    int status = new ? near_mset(w->cache, many, MANY, NULL, NULL) : near_mdel(w->cache, many, MANY, NULL);
    judge_items(many, status);
    return status;
}

static int many_status[MANY];
static int call_mset(struct world *w)
{
    near_item *many = items(w, "new");
    int status = write_many(w, many, "new");
    for (int i = 0; i < MANY; i++)
        many_status[i] = many[i].status;
    return status;
}
static int call_mdel(struct world *w)
{
    near_item *many = items(w, "new");
    int status = write_many(w, many, NULL);
    for (int i = 0; i < MANY; i++)
        many_status[i] = many[i].status;
    return status;
}
static void after_mset(struct world *w, int status)
{
    (void)status;
    for (int i = 0; i < MANY; i++)
        judge_write(w, many_status[i], many_keys[i], text(w, "old"), text(w, "new"));
}
static void after_mdel(struct world *w, int status)
{
    (void)status;
    for (int i = 0; i < MANY; i++)
        judge_write(w, many_status[i], many_keys[i], text(w, "old"), MISS);
}

/* ---------------------------------------------------------------- threads that share a connection */

static struct caller callers[4];

static int call_threads(struct world *w)
{
    int worst = NEAR_OK;
    static char value[32];
    snprintf(value, sizeof(value), "%s", text(w, "new"));
    for (int i = 0; i < 4; i++) {
        callers[i] = (struct caller){.cache = w->cache, .key = many_keys[i], .value = i % 2 ? value : NULL};
        caller_start(&callers[i]);
    }
    for (int i = 0; i < 4; i++) {
        caller_end(&callers[i]);
        if (i % 2 && callers[i].status < 0)
            worst = callers[i].status;
    }
    return worst;
}

static void after_threads(struct world *w, int status)
{
    (void)status;
    judge_write(w, callers[1].status, many_keys[1], text(w, "old"), text(w, "new"));
    judge_write(w, callers[3].status, many_keys[3], text(w, "old"), text(w, "new"));
    for (int i = 0; i < 4; i += 2)
        if (strcmp(callers[i].got, text(w, "old")) != 0 && callers[i].got[0] != '(')
            fail_msg("read \"%s\"", callers[i].got);
}

/* ---------------------------------------------------------------- loading */

static int loader(void *arg, const near_load_request *request, near_loaded *loaded)
{
    struct world *w = arg;
    (void)request;
    return near_loaded_value(loaded, text(w, "v"), strlen(text(w, "v")));
}

static int bulk_loader(void *arg, const near_load_request *requests, near_loaded *const *loaded, size_t count)
{
    for (size_t i = 0; i < count; i++)
        assert_int_equal(loader(arg, &requests[i], loaded[i]), NEAR_OK);
    return NEAR_OK;
}

static void before_load(struct world *w)
{
    static const near_call patient = {.size = sizeof(near_call), .timeout_ms = PATIENCE_MS};
    for (int i = 0; i < MANY; i++)
        assert_true(wait_until(near_del(w->cache, many_keys[i], 2, &patient) >= 0, PATIENCE_MS));
}

static near_load load_options(struct world *w)
{
    near_load load;
    near_load_init(&load);
    load.ttl_ms = 1000000;
    load.timeout_ms = w->options.timeout_ms;
    load.lease_ms = 200;
    load.flags = NEAR_LOAD_TAGS;
    return load;
}

static int call_load(struct world *w)
{
    near_value value;
    near_load load = load_options(w);
    int status = near_get_or_load(w->cache, many_keys[0], 2, loader, w, &load, &value);
    if (status == NEAR_OK)
        assert_memory_equal(value.data, text(w, "v"), value.size);
    near_release(&value);
    return status;
}

static int call_bulk_load(struct world *w)
{
    near_item *many = items(w, "v");
    near_load load = load_options(w);
    int status = near_mget_or_load(w->cache, many, MANY, bulk_loader, w, &load);
    for (int i = 0; i < MANY; i++) {
        if (many[i].status == NEAR_OK)
            assert_memory_equal(many[i].value.data, many[i].data, many[i].value.size);
        near_release(&many[i].value);
    }
    judge_items(many, status);
    return status;
}

static int call_tag(struct world *w)
{
    return near_invalidate_tag(w->cache, "tag", 3, NULL);
}

/* ---------------------------------------------------------------- the whole cache */

static int call_clear(struct world *w)
{
    return near_clear(w->cache, 0, NULL, NULL);
}
static int call_clear_keys(struct world *w)
{
    uint64_t removed = 0;
    return near_clear(w->cache, NEAR_CLEAR_KEYS, NULL, &removed);
}
static void after_clear_keys(struct world *w, int status)
{
    if (status == NEAR_OK)
        assert_string_equal(settled(w, "k"), MISS);
}

static int call_check(struct world *w)
{
    int status = near_check(w->cache, w->options.timeout_ms, &w->error);
    if (status < 0)
        assert_int_not_equal(w->error.text[0], 0);
    return status;
}

static int call_resize(struct world *w)
{
    near_stats stats = {.size = sizeof(stats)};
    int status = near_set_local_bytes(w->cache, w->number % 2 ? 4 << 20 : 8 << 20);
    assert_int_equal(near_stats_get(w->cache, &stats), NEAR_OK);
    return status;
}

static int call_lock(struct world *w)
{
    near_lock_options options;
    near_held_lock *lock = NULL;
    near_lock_options_init(&options);
    options.ttl_ms = 1000; /* what could not be given back ends soon */
    options.timeout_ms = w->lasting ? SHORT_MS : LONG_MS;
    options.server_timeout_ms = w->lasting ? SHORT_MS : 500;
    int status = near_lock(w->cache, "lock", 4, &options, &lock);
    if (status != NEAR_OK) {
        assert_null(lock);
        return status;
    }
    assert_true(near_lock_fence(lock) > 0);
    status = near_lock_extend(lock, 0);
    int unlocked = near_unlock(lock);
    return status != NEAR_OK ? status : unlocked;
}

static void after_lock(struct world *w, int status)
{
    near_held_lock *lock = NULL;
    near_lock_options options;
    (void)status;
    near_lock_options_init(&options);
    options.timeout_ms = PATIENCE_MS;
    options.retry_ms = 5;
    options.server_timeout_ms = 10000;
    options.ttl_ms = 60000;
    assert_int_equal(near_lock(w->cache, "lock", 4, &options, &lock), NEAR_OK);
    assert_int_equal(near_unlock(lock), NEAR_OK);
}

/* ---------------------------------------------------------------- warming */

static void before_save(struct world *w)
{
    require_put(w, "k", text(w, "v"));
    assert_true(wait_until(strcmp(look(w->cache, "k"), text(w, "v")) == 0, PATIENCE_MS));
}

static int call_save(struct world *w)
{
    uint64_t keys = 0;
    return near_warm_save(w->cache, w->path, 0, &keys, &w->error);
}

/* The new file could not be locked, looked at, emptied or taken away. */
static int left_the_new_file(void)
{
    static const char *const calls[] = {"flock", "stat", "ftruncate", "unlink"}; /* fstat is one of them */
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (strstr(sysfail_what(), calls[i]))
            return 1;
    return 0;
}

/* The file is replaced whole or not at all, and nothing lies about beside it; what does the next save takes. */
static void after_save(struct world *w, int status)
{
    near_warm_result result = {.size = sizeof(result)};
    char new_path[160];
    if (status != NEAR_OK)
        assert_int_not_equal(w->error.text[0], 0);
    if (access(w->path, F_OK) == 0)
        assert_int_equal(near_warm_file(w->cache, w->path, NULL, &result, NULL), NEAR_OK);
    snprintf(new_path, sizeof(new_path), "%s.new", w->path);
    if (left_the_new_file())
        assert_int_equal(call_save(w), NEAR_OK);
    assert_int_not_equal(access(new_path, F_OK), 0);
}

static void before_warm_file(struct world *w)
{
    before_save(w);
    assert_int_equal(call_save(w), NEAR_OK);
    assert_int_equal(near_drop(w->cache, "k", 1), NEAR_OK);
}

static int call_warm_file(struct world *w)
{
    near_warm_result result = {.size = sizeof(result)};
    return near_warm_file(w->cache, w->path, NULL, &result, &w->error);
}

static int call_warm_keys(struct world *w)
{
    near_warm_result result = {.size = sizeof(result)};
    const near_key keys[] = {{"k", 1}, {"m0", 2}, {"m1", 2}};
    return near_warm_keys(w->cache, keys, 3, NULL, &result);
}

static int call_warm_scan(struct world *w)
{
    near_warm_result result = {.size = sizeof(result)};
    return near_warm_scan(w->cache, "m*", NULL, &result);
}

/* ---------------------------------------------------------------- sources */

static int store(void *arg, near_update *updates, size_t count, uint32_t timeout_ms)
{
    struct world *w = arg;
    (void)timeout_ms;
    for (size_t i = 0; i < count; i++) {
        int number = 0;
        if (updates[i].data && sscanf(updates[i].data, "%d", &number) == 1 && number > w->stored)
            w->stored = number;
    }
    return NEAR_OK;
}

static int open_source(struct world *w, int behind)
{
    near_source_options options;
    near_source_options_init(&options);
    options.store = store;
    options.store_arg = w;
    options.flags = behind ? NEAR_SOURCE_BEHIND : 0;
    options.journal = behind ? w->journal : NULL;
    options.delay_ms = 1;
    options.retry_min_ms = 1;
    options.retry_max_ms = 10;
    return near_source_open(w->cache, &options, &w->source, &w->error);
}

static int call_source_open(struct world *w)
{
    return open_source(w, 1);
}

static int shut_source(struct world *w, uint32_t timeout_ms)
{
    int status = near_source_close(w->source, timeout_ms, 0);
    if (status == NEAR_OK || status == NEAR_PENDING)
        w->source = NULL;
    return status;
}

/* Whatever was said yes to gets to the source, now or after the next open. */
static void require_stored(struct world *w)
{
    near_error error = {0};
    if (!w->source) {
        int status = open_source(w, 1);
        if (status != NEAR_OK)
            fail_msg("the source does not open again: %s: %s", near_status_name(status), error.text);
    }
    assert_int_equal(near_source_flush(w->source, PATIENCE_MS), NEAR_OK);
    if (w->stored < w->accepted)
        fail_msg("update %d was accepted, the source has %d", w->accepted, w->stored);
    assert_int_equal(shut_source(w, PATIENCE_MS), NEAR_OK);
}

static void after_source_open(struct world *w, int status)
{
    if (status != NEAR_OK)
        assert_int_not_equal(w->error.text[0], 0);
    require_stored(w);
}

static void before_source(struct world *w)
{
    assert_int_equal(open_source(w, 1), NEAR_OK);
}

/* A journal that holds something: its source was away. */
static int refuse_store(void *arg, near_update *updates, size_t count, uint32_t timeout_ms)
{
    (void)arg, (void)updates, (void)count, (void)timeout_ms;
    return NEAR_ERR_UNAVAILABLE;
}

static int source_set(struct world *w, const char *key, size_t size)
{
    static __thread char value[1 << 20];
    int number = ++w->number;
    memset(value, '.', size);
    int digits = snprintf(value, 32, "%d", number);
    value[digits] = ' ';
    int status = near_source_set(w->source, key, strlen(key), value, size, NULL, NULL);
    if (status == NEAR_OK || status == NEAR_PENDING)
        w->accepted = number;
    return status;
}

static void journalled(struct world *w,
                       int (*store_of)(void *arg, near_update *updates, size_t count, uint32_t timeout_ms),
                       near_source_options *ret)
{
    near_source_options_init(ret);
    ret->store = store_of;
    ret->store_arg = w;
    ret->flags = NEAR_SOURCE_BEHIND;
    ret->journal = w->journal;
}

/* On a busy machine the short deadlines strike; then a key is still to be forgotten. */
static void before_replay(struct world *w)
{
    near_source_options options;
    journalled(w, refuse_store, &options);
    assert_int_equal(near_source_open(w->cache, &options, &w->source, &w->error), NEAR_OK);
    assert_true(wait_until(source_set(w, "s", 100) >= 0, PATIENCE_MS));
    assert_true(wait_until(shut_source(w, 1) == NEAR_PENDING, PATIENCE_MS));
    FILE *file = fopen(w->journal, "a");
    assert_non_null(file);
    for (int i = 0; i < 6000; i++) /* more than is read at once */
        fputs("a torn end, which somebody has to look behind", file);
    fclose(file);
}

static int call_source_set(struct world *w)
{
    int worst = NEAR_OK;
    for (int i = 0; i < 3; i++) {
        int status = source_set(w, "s", 100);
        if (status)
            worst = status;
    }
    return worst;
}

/* So much that the journal is rewritten. */
static int call_source_set_large(struct world *w)
{
    int worst = NEAR_OK;
    for (int i = 0; i < 12; i++) {
        int status = source_set(w, "s", 1 << 20);
        if (status)
            worst = status;
    }
    return worst;
}

/* The journal takes updates again without being opened again. */
static void after_source_set(struct world *w, int status)
{
    (void)status;
    if (!wait_until(source_set(w, "s", 100) >= 0, PATIENCE_MS))
        fail_msg("the source takes nothing any more");
    require_stored(w);
}

static int call_source_flush(struct world *w)
{
    int status = near_source_flush(w->source, w->options.timeout_ms);
    return status;
}
static void before_source_flush(struct world *w)
{
    before_source(w);
    assert_true(source_set(w, "s", 100) >= 0);
}
static void after_source_flush(struct world *w, int status)
{
    (void)status;
    require_stored(w);
}

static int call_source_close(struct world *w)
{
    return shut_source(w, w->options.timeout_ms);
}

static void before_through(struct world *w)
{
    assert_int_equal(open_source(w, 0), NEAR_OK);
}
static int call_through(struct world *w)
{
    return source_set(w, "s", 100);
}
static void after_through(struct world *w, int status)
{
    char begin[32];
    /* what was pending has been forgotten by all */
    assert_int_equal(near_source_flush(w->source, PATIENCE_MS), NEAR_OK);
    assert_int_equal(shut_source(w, PATIENCE_MS), NEAR_OK);
    if (status == NEAR_OK || status == NEAR_PENDING)
        assert_int_equal(w->stored, w->number);
    snprintf(begin, sizeof(begin), "%d ", w->number);
    const char *now = settled(w, "s");
    if (status == NEAR_OK && strncmp(now, begin, strlen(begin)) != 0)
        fail_msg("acknowledged, but %.20s is there", now);
}

/* ---------------------------------------------------------------- the list */

static const struct entry openers[] = {
    {"near_open", call_open, NULL, after_open, of_open, 0},
    {"near_open and near_wait_ready", call_open_and_wait, NULL, NULL,
     (const int[]){NEAR_ERR_NOMEM, NEAR_ERR_SYSTEM, NEAR_ERR_TIMEOUT, 0}, 0},
    {"near_close", call_close, open_ready, NULL, of_nothing, 0},
};

static const struct entry entries[] = {
    {"near_get", call_get, before_read, NULL, of_reads, 0},
    {"near_get, fresh", call_get_fresh, before_held_read, NULL, of_reads, 0},
    {"near_get_copy", call_get_copy, before_read, NULL, of_reads, 0},
    {"near_set", call_set, before_write, after_set, of_writes, 0},
    {"near_del", call_del, before_write, after_del, of_writes, 0},
    {"near_expire", call_expire, before_write, after_expire, of_writes, 0},
    {"near_incr", call_incr, before_write, after_incr, of_writes, 0},
    {"near_cas", call_cas, before_write, after_set, of_writes, 0},
    {"near_mget", call_mget, before_many, NULL, of_reads, 0},
    {"near_mset", call_mset, before_many, after_mset, of_writes, 0},
    {"near_mdel", call_mdel, before_many, after_mdel, of_writes, 0},
    {"four threads", call_threads, before_many, after_threads, of_writes, 0},
    {"near_get_or_load", call_load, before_load, NULL, of_loads, 0},
    {"near_mget_or_load", call_bulk_load, before_load, NULL, of_loads, 0},
    {"near_invalidate_tag", call_tag, NULL, NULL, of_writes, 0},
    {"near_clear", call_clear, NULL, NULL, of_writes, 0},
    {"near_clear, keys", call_clear_keys, before_write, after_clear_keys, of_writes, 0},
    {"near_check", call_check, NULL, NULL, of_checks, 0},
    {"near_set_local_bytes", call_resize, NULL, NULL, of_nothing, 0},
    {"near_lock", call_lock, NULL, after_lock, of_locks, 0},
    {"near_warm_save", call_save, before_save, after_save, of_files, 0},
    {"near_warm_file", call_warm_file, before_warm_file, NULL, of_warming, 0},
    {"near_warm_keys", call_warm_keys, before_many, NULL, of_reads, 0},
    {"near_warm_scan", call_warm_scan, before_many, NULL, of_reads, 0},
    {"write-through", call_through, before_through, after_through, of_source_writes, 0},
    {"near_source_open", call_source_open, NULL, after_source_open, of_source_open, 0},
    {"near_source_open, replay", call_source_open, before_replay, after_source_open, of_source_open, 0},
    {"write-behind", call_source_set, before_source, after_source_set, of_source_writes, 0},
    {"write-behind, large", call_source_set_large, before_source, after_source_set, of_source_writes, 0},
    {"near_source_flush", call_source_flush, before_source_flush, after_source_flush, of_waiting, 0},
    {"near_source_close", call_source_close, before_source_flush, after_source_flush, of_source_close, 0},
};

/* ---------------------------------------------------------------- running */

static uint64_t seed;
static char line[512]; /* what was run last */

static const char *context(const struct world *w, const struct entry *e, uint64_t n, int status)
{
    snprintf(line, sizeof(line), "%s on %.10s…, call %llu fails%s (%s), seed %llu: %s %s", e->name, w->uri,
             (unsigned long long)n, w->lasting ? " and those after it" : "", sysfail_what(), (unsigned long long)seed,
             near_status_name(status), w->error.text);
    return line;
}

/* Runs it once under fire and judges. */
static void run(struct world *w, const struct entry *e, uint64_t n)
{
    w->number += 1;
    if (e->before)
        e->before(w);
    w->error = (near_error){0};
    int64_t begun = wait_now_ms();
    (w->lasting ? sysfail_from : sysfail_at)(n, seed + n);
    int status = e->call(w);
    sysfail_off();
    int64_t taken = wait_now_ms() - begun;
    const char *said = context(w, e, n, status);
    if (getenv("NEAR_TEST_VERBOSE"))
        print_message("# %s, %lld ms, %llu calls\n", said, (long long)taken, (unsigned long long)sysfail_calls());
    if (!is_documented(e, status))
        fail_msg("%s: not documented", said);
    if (taken > PATIENCE_MS || (!w->lasting && status == NEAR_ERR_TIMEOUT))
        fail_msg("%s: only after %lld ms", said, (long long)taken);
    if (sysfail_calls() > CALLS_PER_MS * ((uint64_t)taken + 10))
        fail_msg("%s: %llu calls in %lld ms", said, (unsigned long long)sysfail_calls(), (long long)taken);
    if (e->after)
        e->after(w, status);
}

static uint64_t calls_of(struct world *w, const struct entry *e)
{
    run(w, e, 0);
    return sysfail_calls();
}

/* Every number where there are few; another part of them in every round where there are many. */
static uint64_t step(const struct world *w, uint64_t last)
{
    return 1 + (UNDER_TSAN ? last / 6 : last / (w->lasting ? 5 : 48));
}

static unsigned rounds(void)
{
    const char *text = getenv("NEAR_TEST_ROUNDS");
    return text ? (unsigned)atoi(text) : 1;
}

static void require_nothing_left(struct world *w, int before)
{
    assert_int_equal(allocfail_blocks(&w->memory), 0);
    if (!wait_until(descriptors() == before, PATIENCE_MS)) /* a name server's thread may still be at work */
        fail_msg("%d descriptors are left", descriptors() - before);
}

static struct world *present; /* until world_free */

/* Not on the stack: where a test has failed its cache still runs. */
static struct world *world_new(const char *uri, int lasting)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    present = w;
    snprintf(w->uri, sizeof(w->uri), "%s", uri);
    snprintf(w->path, sizeof(w->path), "%s/nearcache-syscalls.%ld", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
             (long)getpid());
    snprintf(w->journal, sizeof(w->journal), "%s.journal", w->path);
    allocfail_init(&w->memory);
    stack_options(&w->options);
    w->options.allocator = w->memory.hooks;
    w->options.prefix = "sys:";
    w->options.connections = 1;
    w->options.backoff_min_ms = 1;
    w->options.backoff_max_ms = 5;
    w->options.timeout_ms = lasting ? SHORT_MS : LONG_MS;
    w->lasting = lasting;
    return w;
}

static void world_free(struct world *w, int before)
{
    close_cache(w);
    unlink(w->path);
    unlink(w->journal);
    require_nothing_left(w, before);
    present = NULL;
    free(w);
}

static void every_opener(const char *uri, int lasting)
{
    for (size_t i = 0; i < sizeof(openers) / sizeof(*openers); i++) {
        struct world *w = world_new(uri, lasting);
        int before = descriptors();
        uint64_t n = 0, last = 0;
        do {
            if (n == 0)
                last = calls_of(w, &openers[i]);
            else
                run(w, &openers[i], n);
            if (w->cache)
                require_working(w);
            close_cache(w);
            require_nothing_left(w, before);
            n += step(w, last);
        } while (n <= last + 2);
        world_free(w, before);
    }
}

static void every_entry(const char *uri, int lasting)
{
    struct world *w = world_new(uri, lasting);
    int before = descriptors();
    open_ready(w);
    for (size_t i = 0; i < sizeof(entries) / sizeof(*entries); i++) {
        uint64_t last = calls_of(w, &entries[i]);
        require_working(w);
        for (uint64_t n = 1 + seed % step(w, last); n <= last + 2; n += step(w, last)) {
            run(w, &entries[i], n);
            require_working(w);
        }
    }
    world_free(w, before);
}

static struct redis_server *server;

static void under_fire(const char *uri)
{
    for (unsigned r = 0; r < rounds(); r++, seed += 1000003) {
        every_opener(uri, 0);
        every_entry(uri, 0);
        every_opener(uri, 1);
        every_entry(uri, 1);
    }
}

static void test_memory_any_call_may_fail(void **state)
{
    (void)state;
    under_fire("memory://syscalls");
}

static void test_redis_any_call_may_fail(void **state)
{
    (void)state;
    if (!server)
        skip();
    under_fire(redis_server_uri_unix(server));
}

/* A name, so that there is something to resolve. */
static void test_redis_over_tcp_any_call_may_fail(void **state)
{
    (void)state;
    char uri[80];
    if (!server)
        skip();
    snprintf(uri, sizeof(uri), "redis://localhost:%d", redis_server_port(server));
    for (unsigned r = 0; r < rounds(); r++, seed += 1000003) {
        every_opener(uri, 0);
        every_opener(uri, 1);
    }
}

/* ---------------------------------------------------------------- what was found so */

static void test_journal_takes_updates_again_after_its_disk_has_failed(void **state)
{
    (void)state;
    struct world *w = world_new("memory://syscalls", 0);
    int before = descriptors();
    open_ready(w);
    before_source(w);
    sysfail_function_at("fdatasync", 1, EIO, 0);
    assert_int_equal(source_set(w, "s", 100), NEAR_ERR_JOURNAL);
    sysfail_off();
    after_source_set(w, NEAR_ERR_JOURNAL);
    world_free(w, before);
}

/* After a loss of power the journal would have no name, or its name would be the old file's. */
static void test_journal_whose_folder_is_not_on_the_disk_takes_nothing(void **state)
{
    (void)state;
    struct world *w = world_new("memory://syscalls", 0);
    int before = descriptors();
    near_source_options options;
    open_ready(w);
    for (int is_there = 0; is_there < 2; is_there++) {
        sysfail_function_at("open", 2, EACCES, 0); /* the file, its folder */
        assert_int_equal(open_source(w, 1), NEAR_ERR_JOURNAL);
        assert_non_null(strstr(w->error.text, "folder"));
        sysfail_function_at("fsync", is_there ? 1 : 2, EIO, 0);
        if (!is_there)
            unlink(w->journal);
        assert_int_equal(open_source(w, 1), NEAR_ERR_JOURNAL);
        assert_non_null(strstr(w->error.text, "folder"));
        sysfail_function_at("fsync", is_there ? 1 : 2, EINVAL, 0); /* a file system that has nothing to do */
        if (!is_there)
            unlink(w->journal);
        assert_int_equal(open_source(w, 1), NEAR_OK);
        sysfail_off();
        assert_int_equal(shut_source(w, PATIENCE_MS), NEAR_OK);
    }
    journalled(w, store, &options);
    options.retry_min_ms = options.retry_max_ms = 1;
    assert_int_equal(near_source_open(w->cache, &options, &w->source, NULL), NEAR_OK);
    /* both at once: the queue's threads, too, try to replace the journal as soon as it is broken */
    sysfail_function_at("fdatasync", 1, EIO, 0);
    sysfail_function_every("open", 2, EACCES); /* the new file, the folder */
    assert_int_equal(source_set(w, "s", 100), NEAR_ERR_JOURNAL);
    assert_int_equal(source_set(w, "s", 100), NEAR_ERR_JOURNAL);
    assert_true(sysfail_struck() > 1);
    sysfail_off();
    after_source_set(w, NEAR_ERR_JOURNAL);
    world_free(w, before);
}

/* What is queued must not be called safe when the journal has lost it. */
static void test_close_does_not_promise_what_a_broken_journal_cannot_keep(void **state)
{
    (void)state;
    struct world *w = world_new("memory://syscalls", 0);
    int before = descriptors();
    near_source_options options;
    open_ready(w);
    journalled(w, refuse_store, &options);
    options.retry_min_ms = options.retry_max_ms = 1;
    assert_int_equal(near_source_open(w->cache, &options, &w->source, NULL), NEAR_OK);
    sysfail_function_at("fdatasync", 1, EIO, 1);
    sysfail_function_every("fsync", 1, EIO); /* nor is there a new file, whichever thread tries it */
    assert_int_equal(source_set(w, "s", 100), NEAR_ERR_JOURNAL);
    assert_int_equal(shut_source(w, 1), NEAR_ERR_TIMEOUT);
    sysfail_off();
    assert_true(wait_until(shut_source(w, 1) == NEAR_PENDING, PATIENCE_MS)); /* into a new file */
    w->accepted = w->number;
    require_stored(w);
    world_free(w, before);
}

static uint64_t function_calls(const char *function)
{
    const char *name;
    uint64_t calls, struck;
    for (unsigned i = 0; (name = sysfail_function(i, &calls, &struck)); i++)
        if (strcmp(name, function) == 0)
            return calls;
    fail_msg("%s is not among the functions", function);
    return 0;
}

/* Also while nothing else wakes the queue's thread: everything waits for its delay, or for a source that is away. */
static void test_journal_reaches_the_disk_every_second_whatever_is_waited_for(void **state)
{
    (void)state;
    struct world *w = world_new("memory://syscalls", 0);
    int before = descriptors();
    near_source_options options;
    open_ready(w);
    journalled(w, store, &options);
    options.journal_sync = NEAR_JOURNAL_EVERY_SECOND;
    options.delay_ms = 3600000;
    assert_int_equal(near_source_open(w->cache, &options, &w->source, NULL), NEAR_OK);
    sysfail_at(0, 0); /* counts */
    uint64_t first = function_calls("fdatasync");
    assert_int_equal(source_set(w, "s", 100), NEAR_OK);
    assert_true(wait_until(function_calls("fdatasync") > first, PATIENCE_MS));
    /* until the thread has looked again and found nothing new; earlier, the rest proves less */
    nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 500000000}, NULL);
    uint64_t second = function_calls("fdatasync");
    assert_int_equal(source_set(w, "t", 100), NEAR_OK);
    assert_true(wait_until(function_calls("fdatasync") > second, 20000));
    sysfail_off();
    assert_int_equal(shut_source(w, PATIENCE_MS), NEAR_OK);
    world_free(w, before);
}

static void test_journal_that_cannot_be_read_or_looked_at_is_refused(void **state)
{
    (void)state;
    struct world *w = world_new("memory://syscalls", 0);
    int before = descriptors();
    open_ready(w);
    sysfail_function_at("stat", 1, EIO, 1);
    assert_int_equal(open_source(w, 1), NEAR_ERR_JOURNAL);
    sysfail_off();
    before_replay(w);
    sysfail_function_at("pread", 3, EIO, 0); /* header, records, the look behind */
    assert_int_equal(open_source(w, 1), NEAR_ERR_JOURNAL);
    assert_int_equal(sysfail_struck(), 1);
    sysfail_off();
    require_stored(w);
    world_free(w, before);
}

static void test_write_that_breaks_off_ends_long_before_its_deadline(void **state)
{
    (void)state;
    if (!server)
        skip();
    struct world *w = world_new(redis_server_uri_unix(server), 0);
    int before = descriptors();
    size_t size = 8 << 20; /* more than a socket takes at once */
    char *value = calloc(1, size);
    assert_non_null(value);
    open_ready(w);
    int64_t begun = wait_now_ms();
    int status = NEAR_OK;
    for (uint64_t n = 2; status == NEAR_OK && n < 100; n++) { /* other threads send, too */
        sysfail_function_at("sendmsg", n, ENOBUFS, 0);
        status = near_set(w->cache, "large", 5, value, size, NULL, NULL);
    }
    sysfail_off();
    assert_int_equal(status, NEAR_ERR_UNKNOWN);
    assert_true(wait_now_ms() - begun < PATIENCE_MS);
    require_working(w);
    free(value);
    world_free(w, before);
}

static void test_poll_without_kernel_memory_does_not_spin(void **state)
{
    (void)state;
    if (!server)
        skip();
    struct world *w = world_new(redis_server_uri_unix(server), 1);
    int before = descriptors();
    open_ready(w);
    redis_server_pause(server);
    int64_t begun = wait_now_ms();
    sysfail_function_at("ppoll", 1, ENOMEM, 1);
    assert_string_equal(look_with(w->cache, "away", NEAR_BYPASS_LOCAL, 200, 0), "(NEAR_ERR_TIMEOUT)");
    sysfail_off();
    assert_true(sysfail_calls() < CALLS_PER_MS / 10 * (uint64_t)(wait_now_ms() - begun));
    redis_server_resume(server);
    require_working(w);
    world_free(w, before);
}

static near_stats stats_of(near_cache *cache)
{
    near_stats stats = {.size = sizeof(stats)};
    assert_int_equal(near_stats_get(cache, &stats), NEAR_OK);
    return stats;
}

/* Entries' memory comes from the kernel where the application has no allocator of its own.  What it does not give is
 * not kept; what it does not take back is still counted, and offered to it again. */
static void test_kernel_that_gives_or_takes_no_memory(void **state)
{
    (void)state;
    static const char value[1000];
    near_cache *cache;
    near_value got;
    assert_int_equal(near_open("local:?local_bytes=16m", NULL, &cache, NULL), NEAR_OK);
    sysfail_function_at("mmap", 1, ENOMEM, 1);
    assert_int_equal(near_set(cache, "k", 1, value, sizeof(value), NULL, NULL), NEAR_ERR_FULL);
    assert_int_equal(near_get(cache, "k", 1, NULL, &got), NEAR_MISS);
    assert_true(sysfail_struck() > 0);
    sysfail_off();
    for (uint32_t key = 0; key < 12000; key++)
        assert_int_equal(near_set(cache, &key, sizeof(key), value, sizeof(value), NULL, NULL), NEAR_OK);
    sysfail_function_at("madvise", 1, EINVAL, 1);
    assert_int_equal(near_set_local_bytes(cache, 4 << 20), NEAR_OK);
    assert_true(wait_until(stats_of(cache).local_entries < 4000 && sysfail_struck() > 2, LONG_MS));
    assert_true(stats_of(cache).local_bytes > 8 << 20);
    sysfail_off();
    assert_true(wait_until(stats_of(cache).local_bytes <= 5 << 20, LONG_MS));
    assert_int_equal(near_set(cache, "k", 1, value, sizeof(value), NULL, NULL), NEAR_OK);
    assert_int_equal(near_close(cache), NEAR_OK);
}

/* Otherwise the scenarios do not get where they are meant to get.  The others depend on the machine, or on what else
 * went wrong. */
static const char *const required[] = {
    "socket", "connect", "recv",        "sendmsg",   "ppoll",      "eventfd",        "read",
    "write",  "open",    "flock",       "pread",     "fdatasync",  "fsync",          "ftruncate",
    "rename", "close",   "getaddrinfo", "getrandom", "futex wait", "pthread_create", "pthread_cond_timedwait",
    "mmap",   "madvise"};

static void test_every_function_was_called(void **state)
{
    (void)state;
    uint64_t made, failed;
    const char *name;
    if (!server)
        skip();
    for (unsigned i = 0; (name = sysfail_function(i, &made, &failed)); i++) {
        print_message("# %-24s %8llu calls, %6llu failed\n", name, (unsigned long long)made,
                      (unsigned long long)failed);
        for (size_t r = 0; r < sizeof(required) / sizeof(*required); r++)
            if (strcmp(name, required[r]) == 0 && !made)
                fail_msg("%s was never called", name);
    }
}

/* What a test that has failed leaves must not make the next ones fail: a fault, a server that stands still, a cache
 * whose threads make calls, a source that holds the journal, and the journal itself. */
static int tidy(void **state)
{
    struct world *w = present;
    (void)state;
    sysfail_off();
    if (server)
        redis_server_resume(server);
    if (!w)
        return 0;
    present = NULL;
    if (w->source)
        near_source_close(w->source, 1, NEAR_SOURCE_DISCARD);
    if (w->cache)
        near_close(w->cache); /* refuses where a value is still held */
    unlink(w->path);
    unlink(w->journal);
    return 0;
}

/* Whose cure is missing, should the test have failed. */
static int tell_last(void **state)
{
    print_error("last: %s\n", line);
    return tidy(state);
}

static int group_setup(void **state)
{
    (void)state;
    seed = test_seed();
    server = redis_server_available() ? redis_server_start(NULL) : NULL;
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    redis_server_free(server);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_journal_takes_updates_again_after_its_disk_has_failed, tidy),
        cmocka_unit_test_teardown(test_journal_whose_folder_is_not_on_the_disk_takes_nothing, tidy),
        cmocka_unit_test_teardown(test_close_does_not_promise_what_a_broken_journal_cannot_keep, tidy),
        cmocka_unit_test_teardown(test_journal_reaches_the_disk_every_second_whatever_is_waited_for, tidy),
        cmocka_unit_test_teardown(test_journal_that_cannot_be_read_or_looked_at_is_refused, tidy),
        cmocka_unit_test_teardown(test_write_that_breaks_off_ends_long_before_its_deadline, tidy),
        cmocka_unit_test_teardown(test_poll_without_kernel_memory_does_not_spin, tidy),
        cmocka_unit_test_teardown(test_kernel_that_gives_or_takes_no_memory, tidy),
        cmocka_unit_test_teardown(test_memory_any_call_may_fail, tell_last),
        cmocka_unit_test_teardown(test_redis_any_call_may_fail, tell_last),
        cmocka_unit_test_teardown(test_redis_over_tcp_any_call_may_fail, tell_last),
        cmocka_unit_test(test_every_function_was_called),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
