/* SPDX-License-Identifier: BSD-3-Clause
 * Warming: from a list, a snapshot and a scan; what is kept follows the ordinary rules, and nothing from a damaged file
 * is believed. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/cache.h"
#include "remote/memory.h"
#include "support/allocfail.h"
#include "support/redis_server.h"
#include "support/wait.h"

enum { PATIENCE_MS = 60000, KEYS = 300 };

struct place {
    char uri[128], folder[64], path[96];
    _Atomic(int64_t) now_ns;
    near_cache *old, *fresh; /* the one that knows what is hot, and the one to be warmed */
    struct redis_server *server;
    struct allocfail hooks;
};

static near_cache *open_cache(struct place *p, const char *prefix, _Atomic(int64_t) *virtual_ns)
{
    near_options options;
    near_error error = {0};
    near_cache *cache = NULL;
    near_options_init(&options);
    options.local_bytes = 4 << 20;
    options.timeout_ms = PATIENCE_MS;
    options.bound_ms = 3600000;
    options.prefix = prefix;
    options.allocator = p->hooks.hooks;
    options.log_level = 0;
    if (near__cache_open(p->uri, &options, virtual_ns, &cache, &error) != NEAR_OK ||
        near_wait_ready(cache, PATIENCE_MS, &error) != NEAR_OK)
        fail_msg("%s", error.text);
    return cache;
}

static struct place *begin(const char *uri)
{
    struct place *p = calloc(1, sizeof(*p));
    allocfail_init(&p->hooks);
    snprintf(p->uri, sizeof p->uri, "%s", uri);
    snprintf(p->folder, sizeof p->folder, "/tmp/nearcache-warm-XXXXXX");
    assert_non_null(mkdtemp(p->folder));
    snprintf(p->path, sizeof p->path, "%s/hot", p->folder);
    p->old = open_cache(p, "a*[?]:", NULL);
    p->fresh = open_cache(p, "a*[?]:", NULL);
    return p;
}

static int setup(void **state)
{
    static unsigned number;
    char uri[64];
    snprintf(uri, sizeof uri, "memory://warm%u", number++);
    *state = begin(uri);
    return 0;
}

static void finish(struct place *p)
{
    assert_int_equal(near_close(p->old), NEAR_OK);
    assert_int_equal(near_close(p->fresh), NEAR_OK);
    assert_int_equal(allocfail_blocks(&p->hooks), 0);
    unlink(p->path);
    rmdir(p->folder);
    free(p);
}

static int teardown(void **state)
{
    finish(*state);
    return 0;
}

static void fill(struct place *p)
{
    char key[32];
    for (int i = 0; i < KEYS; i++) {
        int size = snprintf(key, sizeof key, "key:%d", i);
        assert_int_equal(near_set(p->old, key, (size_t)size, "v", 1, NULL, NULL), NEAR_OK);
    }
}

static int is_local(near_cache *cache, const char *key)
{
    near_value value;
    int status = near_peek(cache, key, strlen(key), &value);
    near_release(&value);
    return status == NEAR_OK;
}

static unsigned count_local(near_cache *cache)
{
    char key[32];
    unsigned n = 0;
    for (int i = 0; i < KEYS; i++) {
        snprintf(key, sizeof key, "key:%d", i);
        n += (unsigned)is_local(cache, key);
    }
    return n;
}

static near_stats stats_of(near_cache *cache)
{
    near_stats stats = {.size = sizeof(stats)};
    assert_int_equal(near_stats_get(cache, &stats), NEAR_OK);
    return stats;
}

/* All that `from` has kept (NULL: all keys) is local.  Two keys whose hashes agree in bucket and tag displace each
 * other: with these numbers that happens once in 1,500 tiers, and is counted. */
static void assert_all_local(near_cache *cache, near_cache *from)
{
    uint64_t all = KEYS - (from ? stats_of(from).evictions : 0), lost = stats_of(cache).evictions;
    assert_in_range(lost, 0, 2);
    assert_in_range(count_local(cache), all - lost, all);
}

static near_warm_result no_result(void)
{
    return (near_warm_result){.size = sizeof(near_warm_result)};
}

static void test_list_is_read_into_the_local_tier(void **state)
{
    struct place *p = *state;
    near_warm_result result = no_result();
    const near_key keys[] = {{"key:1", 5}, {"nothing", 7}, {"key:2", 5}};
    fill(p);
    assert_int_equal(near_warm_keys(p->fresh, keys, 3, NULL, &result), NEAR_OK);
    assert_true(is_local(p->fresh, "key:1") && is_local(p->fresh, "key:2"));
    assert_int_equal(count_local(p->fresh), 2);
    assert_int_equal(result.keys, 3);
    assert_int_equal(result.found, 2);
    assert_int_equal(result.missing, 1);
    assert_int_equal(result.total, 3);
    assert_int_equal(near_warm_keys(p->fresh, NULL, 1, NULL, NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_warm_keys(NULL, keys, 3, NULL, NULL), NEAR_ERR_INVALID);
}

/* By the age that access stamps tell: the last keys written and read come first. */
static void test_snapshot_has_the_hottest_first_and_warms_another(void **state)
{
    struct place *p = *state;
    uint64_t saved = 0;
    near_error error = {0};
    near_warm_result result = no_result();
    char key[32];
    fill(p);
    for (int i = 0; i < 20; i++) { /* hot: read after everything was written */
        snprintf(key, sizeof key, "key:%d", i * 3);
        assert_true(is_local(p->old, key));
    }
    assert_int_equal(near_warm_save(p->old, p->path, 25, &saved, &error), NEAR_OK);
    assert_int_equal(saved, 25);
    assert_int_equal(near_warm_file(p->fresh, p->path, NULL, &result, &error), NEAR_OK);
    assert_int_equal(result.found, 25);
    unsigned hot = 0;
    for (int i = 0; i < 20; i++) {
        snprintf(key, sizeof key, "key:%d", i * 3);
        hot += (unsigned)is_local(p->fresh, key);
    }
    assert_int_equal(hot, 20);
    assert_int_equal(near_warm_save(p->old, p->path, 0, &saved, NULL), NEAR_OK);
    assert_int_equal(saved, count_local(p->old));
    assert_int_equal(near_warm_file(p->fresh, p->path, NULL, NULL, NULL), NEAR_OK);
    assert_all_local(p->fresh, p->old);
}

static void test_scan_reads_what_matches_behind_the_prefix(void **state)
{
    struct place *p = *state;
    near_warm_result result = no_result();
    near_cache *outside = open_cache(p, "", NULL);
    fill(p);
    near_set(outside, "aXX:key:1", 9, "v", 1, NULL, NULL); /* the prefix is no pattern */
    assert_int_equal(near_warm_scan(p->fresh, "key:[12]?", NULL, &result), NEAR_OK);
    assert_int_equal(result.found, 20);
    assert_int_equal(count_local(p->fresh), 20);
    assert_true(is_local(p->fresh, "key:10") && is_local(p->fresh, "key:29"));
    assert_int_equal(near_warm_scan(p->fresh, "*", NULL, &result), NEAR_OK);
    assert_all_local(p->fresh, NULL);
    assert_int_equal(result.errors, 0);
    assert_int_equal(near_warm_scan(p->fresh, NULL, NULL, NULL), NEAR_ERR_INVALID);
    near_close(outside);
}

static int stop_at(void *arg, const near_warm_result *so_far)
{
    assert_int_equal(so_far->size, sizeof(*so_far));
    return so_far->keys >= *(uint64_t *)arg;
}

static void test_progress_stops_it_and_keys_max_ends_it(void **state)
{
    struct place *p = *state;
    near_warm_options options;
    near_warm_result result = no_result();
    uint64_t most = 20;
    fill(p);
    near_warm_options_init(&options);
    options.batch = 10;
    options.progress = stop_at;
    options.progress_arg = &most;
    assert_int_equal(near_warm_scan(p->fresh, "*", &options, &result), NEAR_PENDING);
    assert_int_equal(result.keys, 20);
    options.progress = NULL;
    options.keys_max = 35;
    assert_int_equal(near_warm_scan(p->fresh, "*", &options, &result), NEAR_OK);
    assert_int_equal(result.keys, 35);
    options.batch = 4097;
    assert_int_equal(near_warm_scan(p->fresh, "*", &options, &result), NEAR_ERR_INVALID);
}

static int refuse_scans(void *arg, const near_warm_result *so_far)
{
    (void)so_far;
    near__memory_fault(arg, NEAR_FAULT_REFUSE, 0, -1);
    return 0;
}

/* Then nothing more is asked for, which would fail here: the key is local, the server refuses. */
static void test_keys_max_that_is_met_at_the_end_of_a_page_ends_a_scan(void **state)
{
    struct place *p = *state;
    struct near__memory_store *store = near__memory_ref(p->uri + strlen("memory://"), NULL, NULL);
    near_warm_options options;
    near_warm_result result = no_result();
    near_value value;
    char key[32];
    fill(p);
    for (int i = 0; i < 600; i++) { /* another page */
        int size = snprintf(key, sizeof key, "other:%d", i);
        assert_int_equal(near_set(p->old, key, (size_t)size, "v", 1, NULL, NULL), NEAR_OK);
    }
    assert_int_equal(near_get(p->fresh, "key:0", 5, NULL, &value), NEAR_OK);
    near_release(&value);
    near_warm_options_init(&options);
    options.keys_max = 1;
    options.progress = refuse_scans;
    options.progress_arg = store;
    int status = near_warm_scan(p->fresh, "key:0", &options, &result);
    near__memory_fault(store, NEAR_FAULT_REFUSE, 0, 0);
    near__memory_unref(store);
    assert_int_equal(status, NEAR_OK);
    assert_int_equal(result.found, 1);
}

struct timed {
    _Atomic(int64_t) *now_ns;
    int64_t begun_ns;
    uint64_t per_second, early;
};

/* Time goes on only here; whoever asks for more keys than the time allows is early. */
static int tick(void *arg, const near_warm_result *so_far)
{
    struct timed *t = arg;
    double allowed = (double)(atomic_load(t->now_ns) - t->begun_ns) / 1e9 * (double)t->per_second + 10;
    t->early += (double)so_far->keys > allowed + 0.5;
    near__clock_advance(t->now_ns, 5 * NEAR_NS_PER_MS);
    return 0;
}

static void test_rate_limit_holds(void **state)
{
    struct place *p = *state;
    near_warm_options options;
    near_warm_result result = no_result();
    atomic_init(&p->now_ns, 3600 * NEAR_NS_PER_S);
    fill(p);
    near_cache *cache = open_cache(p, "a*[?]:", &p->now_ns);
    struct timed timed = {.now_ns = &p->now_ns, .begun_ns = atomic_load(&p->now_ns), .per_second = 1000};
    near_warm_options_init(&options);
    options.batch = 10;
    options.keys_per_second = 1000;
    options.progress = tick;
    options.progress_arg = &timed;
    assert_int_equal(near_warm_scan(cache, "*", &options, &result), NEAR_OK);
    assert_int_equal(result.keys, KEYS);
    assert_int_equal(timed.early, 0);
    assert_true(atomic_load(&p->now_ns) - timed.begun_ns >= (KEYS - 10) * NEAR_NS_PER_MS);
    near_close(cache);
}

/* A batch is under way when its key is written: the older value must not stay. */
static void test_D_write_beside_a_warming_wins(void **state)
{
    struct place *p = *state;
    near_value value;
    const near_key key = {"key:1", 5};
    fill(p);
    for (int i = 0; i < 50; i++) {
        char text[16];
        int size = snprintf(text, sizeof text, "%d", i);
        assert_int_equal(near_warm_keys(p->fresh, &key, 1, NULL, NULL), NEAR_OK);
        assert_int_equal(near_set(p->fresh, "key:1", 5, text, (size_t)size, NULL, NULL), NEAR_OK);
        assert_int_equal(near_warm_keys(p->fresh, &key, 1, NULL, NULL), NEAR_OK);
        assert_int_equal(near_get(p->fresh, "key:1", 5, NULL, &value), NEAR_OK);
        assert_int_equal(value.size, size);
        assert_memory_equal(value.data, text, value.size);
        near_release(&value);
    }
}

static void test_J_damaged_or_foreign_file_is_refused_whole(void **state)
{
    struct place *p = *state;
    near_error error = {0};
    unsigned char bytes[4096];
    fill(p);
    assert_int_equal(near_warm_save(p->old, p->path, 20, NULL, NULL), NEAR_OK);
    int fd = open(p->path, O_RDWR);
    ssize_t size = read(fd, bytes, sizeof bytes);
    assert_true(size > 32);
    for (ssize_t at = 0; at < size; at++) { /* any byte changed, or everything from there missing */
        if (at >= 12 && at < 16)
            continue; /* means nothing yet */
        unsigned char wrong = bytes[at] ^ 0x41;
        assert_int_equal(pwrite(fd, &wrong, 1, at), 1);
        assert_int_equal(near_warm_file(p->fresh, p->path, NULL, NULL, &error), NEAR_ERR_SNAPSHOT);
        assert_non_null(strstr(error.text, "damaged"));
        assert_int_equal(pwrite(fd, &bytes[at], 1, at), 1);
    }
    for (ssize_t at = size - 1; at >= 0; at -= 3) {
        assert_int_equal(ftruncate(fd, at), 0);
        assert_int_equal(near_warm_file(p->fresh, p->path, NULL, NULL, &error), NEAR_ERR_SNAPSHOT);
    }
    close(fd);
    assert_int_equal(count_local(p->fresh), 0);
    assert_int_equal(near_warm_file(p->fresh, "/nowhere/hot", NULL, NULL, &error), NEAR_ERR_SYSTEM);
    assert_int_equal(near_warm_save(p->old, "/nowhere/hot", 0, NULL, &error), NEAR_ERR_SYSTEM);
    assert_int_equal(near_warm_file(p->fresh, p->folder, NULL, NULL, &error), NEAR_ERR_SNAPSHOT);
}

/* A path that names something large by mistake: no memory is asked for all of it. */
static void test_J_a_foreign_file_is_not_read_to_its_end(void **state)
{
    struct place *p = *state;
    const int64_t size = INT64_C(64) << 20;
    int fd = open(p->path, O_RDWR | O_CREAT, 0600);
    assert_int_equal(ftruncate(fd, size), 0); /* without taking room on the disk */
    close(fd);
    assert_int_equal(near_warm_file(p->fresh, p->path, NULL, NULL, NULL), NEAR_ERR_SNAPSHOT);
    assert_true(allocfail_peak_bytes(&p->hooks) < size);
}

/* A snapshot that damage has made large, likewise. */
static void test_J_a_snapshot_larger_than_its_keys_is_not_read_to_its_end(void **state)
{
    struct place *p = *state;
    const int64_t size = INT64_C(64) << 20;
    fill(p);
    assert_int_equal(near_warm_save(p->old, p->path, 20, NULL, NULL), NEAR_OK);
    assert_int_equal(truncate(p->path, size), 0);
    assert_int_equal(near_warm_file(p->fresh, p->path, NULL, NULL, NULL), NEAR_ERR_SNAPSHOT);
    assert_true(allocfail_peak_bytes(&p->hooks) < size);
}

static void test_J_a_pipe_is_refused_and_not_waited_for(void **state)
{
    struct place *p = *state;
    near_error error = {0};
    assert_int_equal(mkfifo(p->path, 0600), 0);
    assert_int_equal(near_warm_file(p->fresh, p->path, NULL, NULL, &error), NEAR_ERR_SNAPSHOT);
    assert_non_null(strstr(error.text, "no plain file"));
}

static void test_nth_allocation_failing_unwinds(void **state)
{
    struct place *p = *state;
    fill(p);
    assert_int_equal(near_warm_save(p->old, p->path, 20, NULL, NULL), NEAR_OK);
    for (int what = 0; what < 3; what++) {
        for (uint64_t n = 1; n < 200; n++) { /* other threads allocate too */
            allocfail_at(&p->hooks, n);
            int status = what == 0   ? near_warm_save(p->old, p->path, 20, NULL, NULL)
                         : what == 1 ? near_warm_file(p->fresh, p->path, NULL, NULL, NULL)
                                     : near_warm_scan(p->fresh, "key:1?", NULL, NULL);
            int struck = allocfail_struck(&p->hooks) != 0;
            allocfail_at(&p->hooks, 0);
            assert_true(status == NEAR_OK || status == NEAR_ERR_NOMEM);
            if (!struck)
                break;
        }
    }
}

/* ---------------------------------------------------------------- the option snapshot */

static near_cache *open_with_snapshot(struct place *p, const char *uri, void (*change)(near_options *options))
{
    near_options options;
    near_error error = {0};
    near_cache *cache = NULL;
    near_options_init(&options);
    options.timeout_ms = PATIENCE_MS;
    options.bound_ms = 3600000;
    options.prefix = "a*[?]:";
    options.allocator = p->hooks.hooks;
    options.snapshot = p->path;
    if (change)
        change(&options);
    if (near_open(uri, &options, &cache, &error) != NEAR_OK)
        fail_msg("%s", error.text);
    return cache;
}

static int64_t status_of(near_cache *cache)
{
    return stats_of(cache).snapshot_status;
}

static size_t read_whole(const char *path, char *bytes, size_t capacity)
{
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, bytes, capacity);
    if (fd >= 0)
        close(fd);
    return n > 0 ? (size_t)n : 0;
}

static void test_close_writes_the_snapshot_and_the_next_open_reads_it(void **state)
{
    struct place *p = *state;
    fill(p);
    near_cache *first = open_with_snapshot(p, p->uri, NULL);
    assert_int_equal(near_wait_ready(first, PATIENCE_MS, NULL), NEAR_OK);
    assert_int_equal(status_of(first), NEAR_MISS); /* there was none */
    assert_int_equal(near_warm_scan(first, "key:1?", NULL, NULL), NEAR_OK);
    assert_int_equal(near_close(first), NEAR_OK);
    near_cache *second = open_with_snapshot(p, p->uri, NULL);
    assert_true(wait_until(status_of(second) == NEAR_OK, PATIENCE_MS));
    assert_int_equal(count_local(second), 10);
    near_stats stats = stats_of(second);
    assert_int_equal(stats.warm_keys, 10);
    assert_int_equal(stats.warm_found, 10);
    assert_int_equal(stats.warm_missing + stats.warm_errors, 0);
    assert_int_equal(near_close(second), NEAR_OK);
}

static void two_keys(near_options *options)
{
    options->snapshot_keys = 2;
}
static void not_at_open(near_options *options)
{
    options->snapshot_load = 0;
}
static void in_nowhere(near_options *options)
{
    options->snapshot = "/nowhere/hot";
}
static void slowly(near_options *options)
{
    options->snapshot_rate = 1;
}

static void test_snapshot_has_as_many_keys_as_wanted_and_waits_if_wanted(void **state)
{
    struct place *p = *state;
    fill(p);
    near_cache *first = open_with_snapshot(p, p->uri, two_keys);
    assert_int_equal(near_wait_ready(first, PATIENCE_MS, NULL), NEAR_OK);
    assert_int_equal(near_warm_scan(first, "*", NULL, NULL), NEAR_OK);
    assert_int_equal(near_close(first), NEAR_OK);
    near_cache *second = open_with_snapshot(p, p->uri, not_at_open);
    assert_int_equal(near_wait_ready(second, PATIENCE_MS, NULL), NEAR_OK);
    assert_int_equal(status_of(second), NEAR_MISS);
    assert_int_equal(near_warm_file(second, p->path, NULL, NULL, NULL), NEAR_OK); /* on demand */
    assert_int_equal(count_local(second), 2);
    assert_int_equal(near_close(second), NEAR_OK);
}

static void test_J_damaged_snapshot_is_told_and_replaced(void **state)
{
    struct place *p = *state;
    fill(p);
    int fd = open(p->path, O_RDWR | O_CREAT, 0600);
    assert_int_equal(write(fd, "NEARKEYSnonsense", 16), 16);
    close(fd);
    near_cache *cache = open_with_snapshot(p, p->uri, NULL);
    assert_true(wait_until(status_of(cache) != NEAR_PENDING, PATIENCE_MS));
    assert_int_equal(status_of(cache), NEAR_ERR_SNAPSHOT);
    assert_int_equal(near_warm_scan(cache, "key:1?", NULL, NULL), NEAR_OK); /* nothing else is the worse for it */
    assert_int_equal(near_close(cache), NEAR_OK);
    assert_int_equal(near_warm_file(p->fresh, p->path, NULL, NULL, NULL), NEAR_OK);
    assert_int_equal(count_local(p->fresh), 10);
}

/* A file is replaced only by a better one. */
static void test_an_unread_or_empty_tier_leaves_the_snapshot_alone(void **state)
{
    struct place *p = *state;
    static char before[65536], after[65536];
    fill(p);
    assert_int_equal(near_warm_save(p->old, p->path, 0, NULL, NULL), NEAR_OK);
    size_t size = read_whole(p->path, before, sizeof(before));
    near_cache *away = open_with_snapshot(p, "unix:///nowhere/redis.sock", NULL);
    assert_int_equal(status_of(away), NEAR_PENDING);
    assert_int_equal(near_close(away), NEAR_OK); /* at once: it does not wait for a server */
    near_cache *slow = open_with_snapshot(p, p->uri, slowly);
    assert_true(wait_until(stats_of(slow).warm_keys > 0, PATIENCE_MS)); /* a first batch */
    assert_int_equal(status_of(slow), NEAR_PENDING);
    assert_int_equal(near_close(slow), NEAR_OK);
    near_cache *idle = open_with_snapshot(p, p->uri, not_at_open);
    assert_int_equal(near_close(idle), NEAR_OK);
    assert_int_equal(read_whole(p->path, after, sizeof(after)), size);
    assert_memory_equal(before, after, size);
}

static void test_what_cannot_be_written_is_told_by_close(void **state)
{
    struct place *p = *state;
    near_value value;
    fill(p);
    near_cache *cache = open_with_snapshot(p, p->uri, in_nowhere);
    assert_int_equal(near_wait_ready(cache, PATIENCE_MS, NULL), NEAR_OK);
    assert_int_equal(near_warm_scan(cache, "key:1?", NULL, NULL), NEAR_OK);
    assert_int_equal(near_get(cache, "key:10", 6, NULL, &value), NEAR_OK);
    assert_int_equal(near_close(cache), NEAR_ERR_BUSY); /* nothing is written then */
    near_release(&value);
    assert_int_equal(near_close(cache), NEAR_UNSAVED);
    assert_int_equal(near_close(cache), NEAR_ERR_CLOSED); /* it is closed nevertheless */
}

static void test_a_cache_that_stays_open_goes_on_reading(void **state)
{
    struct place *p = *state;
    near_value value;
    fill(p);
    assert_int_equal(near_warm_save(p->old, p->path, 0, NULL, NULL), NEAR_OK);
    near_cache *cache = open_with_snapshot(p, p->uri, NULL);
    assert_int_equal(near_get(cache, "key:10", 6, NULL, &value), NEAR_OK);
    assert_int_equal(near_close(cache), NEAR_ERR_BUSY);
    assert_true(wait_until(status_of(cache) == NEAR_OK, PATIENCE_MS));
    assert_all_local(cache, p->old);
    near_release(&value);
    assert_int_equal(near_close(cache), NEAR_OK);
}

/* ---------------------------------------------------------------- two who close */

static struct rival {
    near_cache *cache; /* NULL: nobody comes between */
    pthread_t thread;
    _Atomic(int) status; /* NEAR_PENDING until it has returned */
} rival;

static void *rival_main(void *arg)
{
    (void)arg;
    atomic_store(&rival.status, near_close(rival.cache));
    return NULL;
}

/* Where a close that was refused is about to let the reading of the snapshot go on, another close comes, and has a
 * moment to do what it can. */
int __real_access(const char *path, int mode);
int __wrap_access(const char *path, int mode);
int __wrap_access(const char *path, int mode)
{
    static _Atomic(int) came;
    if (rival.cache && !atomic_exchange(&came, 1)) {
        assert_int_equal(pthread_create(&rival.thread, NULL, rival_main, NULL), 0);
        wait_until(atomic_load(&rival.status) != NEAR_PENDING, 300); /* it cannot, or else the worse */
    }
    return __real_access(path, mode);
}

/* Threads of this process that read a snapshot. */
static int count_warm(void)
{
    DIR *tasks = opendir("/proc/self/task");
    int count = 0;
    for (struct dirent *e; tasks && (e = readdir(tasks));) {
        char path[300], name[32] = "";
        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", e->d_name);
        FILE *file = fopen(path, "r");
        count += file && fgets(name, sizeof(name), file) && strcmp(name, "near-warm\n") == 0;
        if (file)
            fclose(file);
    }
    closedir(tasks);
    return count;
}

static void test_a_second_close_does_not_meet_the_restart_of_the_first(void **state)
{
    struct place *p = *state;
    near_value value;
    fill(p);
    assert_int_equal(near_warm_save(p->old, p->path, 0, NULL, NULL), NEAR_OK);
    near_cache *cache = open_with_snapshot(p, p->uri, slowly);
    assert_true(wait_until(stats_of(cache).warm_keys > 0, PATIENCE_MS));
    assert_int_equal(near_get(cache, "key:10", 6, NULL, &value), NEAR_OK);
    atomic_store(&rival.status, NEAR_PENDING);
    rival.cache = cache;
    assert_int_equal(near_close(cache), NEAR_ERR_BUSY);
    pthread_join(rival.thread, NULL);
    rival.cache = NULL;
    assert_int_equal(rival.status, NEAR_ERR_BUSY);
    assert_true(wait_until(count_warm() == 1, PATIENCE_MS)); /* one that was joined may be seen for a moment still */
    near_release(&value);
    assert_int_equal(near_close(cache), NEAR_OK);
    assert_true(wait_until(count_warm() == 0, PATIENCE_MS));
}

static void test_snapshot_without_a_remote_tier_is_refused(void **state)
{
    near_options options;
    near_error error = {0};
    near_cache *cache = NULL;
    (void)state;
    near_options_init(&options);
    options.snapshot = "/nowhere/hot";
    assert_int_equal(near_open("local:", &options, &cache, &error), NEAR_ERR_OPTION);
    assert_non_null(strstr(error.text, "snapshot"));
    assert_int_equal(near_open("memory://s?snapshot=", NULL, &cache, &error), NEAR_ERR_OPTION);
}

static void test_redis_list_snapshot_and_scan(void **state)
{
    (void)state;
    near_warm_result result = no_result();
    if (!redis_server_available())
        skip();
    struct redis_server *server = redis_server_start(NULL);
    assert_non_null(server);
    struct place *p = begin(redis_server_uri_unix(server));
    fill(p);
    redis_server_command(server, "SET", "aXX:key:1", "foreign", NULL);
    assert_int_equal(near_warm_scan(p->fresh, "key:[12]?", NULL, &result), NEAR_OK);
    assert_true(result.found >= 20); /* a scan may tell a key twice */
    assert_int_equal(count_local(p->fresh), 20);
    assert_int_equal(near_warm_save(p->old, p->path, 0, NULL, NULL), NEAR_OK);
    assert_int_equal(near_warm_file(p->fresh, p->path, NULL, &result, NULL), NEAR_OK);
    assert_int_equal(result.found, count_local(p->old));
    assert_all_local(p->fresh, p->old);
    redis_server_kill(server);
    near_warm_options options;
    near_warm_options_init(&options);
    options.timeout_ms = 200;
    assert_true(near_warm_scan(p->fresh, "*", &options, NULL) < 0);
    finish(p);
    redis_server_free(server);
}

static _Atomic(unsigned) signals;
static void count_signal(int number)
{
    (void)number;
    atomic_fetch_add(&signals, 1);
}

/* An error, and not the signal that the kernel has for it. */
static void test_I_snapshot_at_the_process_s_limit_for_files_raises_no_signal(void **state)
{
    struct place *p = *state;
    near_error error = {0};
    struct rlimit before, small;
    fill(p);
    void (*handler)(int) = signal(SIGXFSZ, count_signal);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 40;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int status = near_warm_save(p->old, p->path, 0, NULL, &error);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(status, NEAR_ERR_SYSTEM);
    assert_non_null(strstr(error.text, strerror(EFBIG)));
    assert_int_equal(atomic_load(&signals), 0);
    assert_int_equal(access(p->path, F_OK), -1);
}

/* Of the whole program, the library included. */
static _Atomic(int) killed_in_fsync;
int fsync(int fd)
{
    if (atomic_load(&killed_in_fsync))
        raise(SIGKILL);
    return (int)syscall(SYS_fsync, fd);
}

static void be_killed_while_saving(const char *path)
{
    near_cache *cache;
    if (near_open("memory://killed", NULL, &cache, NULL) != NEAR_OK ||
        near_wait_ready(cache, PATIENCE_MS, NULL) != NEAR_OK || near_set(cache, "k", 1, "v", 1, NULL, NULL) != NEAR_OK)
        _exit(1);
    atomic_store(&killed_in_fsync, 1);
    near_warm_save(cache, path, 0, NULL, NULL);
    _exit(2);
}

static unsigned files_in(const char *folder)
{
    unsigned n = 0;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));)
        n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

/* Kills in the middle of saving: the old file is whole, what they leave behind does not pile up, and goes. */
static void test_killed_saves_leave_the_old_file_and_do_not_pile_up(void **state)
{
    enum { KILLS = 3 };
    (void)state;
    char folder[] = "/tmp/nearcache-warm-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/hot", folder);
    for (int i = 0; i < KILLS; i++) { /* no cache is open here yet, which would make forking delicate */
        int how = 0;
        pid_t child = fork();
        if (child == 0)
            be_killed_while_saving(path);
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
        assert_int_equal(files_in(folder), 1);
    }
    near_cache *cache = NULL;
    assert_int_equal(near_open("memory://survivor", NULL, &cache, NULL), NEAR_OK);
    assert_int_equal(near_wait_ready(cache, PATIENCE_MS, NULL), NEAR_OK);
    assert_int_equal(near_set(cache, "k", 1, "v", 1, NULL, NULL), NEAR_OK);
    assert_int_equal(near_warm_save(cache, path, 0, NULL, NULL), NEAR_OK);
    assert_int_equal(files_in(folder), 1);
    assert_int_equal(near_warm_file(cache, path, NULL, NULL, NULL), NEAR_OK);
    assert_int_equal(near_close(cache), NEAR_OK);
    unlink(path);
    assert_int_equal(rmdir(folder), 0);
}

/* Something else under the new file's name, or another process that is writing it: left alone, and no hindrance. */
static void test_J_a_new_file_that_is_not_ours_is_left_alone(void **state)
{
    struct place *p = *state;
    char new_path[sizeof(p->path) + 8], victim[sizeof(p->path) + 8], text[16];
    fill(p);
    snprintf(new_path, sizeof new_path, "%s.new", p->path);
    snprintf(victim, sizeof victim, "%s.victim", p->path);
    int fd = open(victim, O_RDWR | O_CREAT, 0600);
    assert_int_equal(write(fd, "precious", 8), 8);
    for (int way = 0; way < 4; way++) {
        int held = -1;
        if (way < 2)
            assert_int_equal(way ? link(victim, new_path) : symlink(victim, new_path), 0);
        else if (way == 2)
            assert_int_equal(mkfifo(new_path, 0600), 0);
        else
            assert_true((held = open(new_path, O_RDWR | O_CREAT, 0600)) >= 0 && flock(held, LOCK_EX) == 0);
        assert_int_equal(near_warm_save(p->old, p->path, 0, NULL, NULL), NEAR_OK);
        assert_int_equal(files_in(p->folder), 3);
        assert_int_equal(unlink(new_path), 0);
        assert_int_equal(near_warm_file(p->fresh, p->path, NULL, NULL, NULL), NEAR_OK);
        if (held >= 0)
            close(held);
    }
    assert_int_equal(pread(fd, text, sizeof text, 0), 8);
    assert_memory_equal(text, "precious", 8);
    close(fd);
    unlink(victim);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed_saves_leave_the_old_file_and_do_not_pile_up), /* first */
        TEST(test_list_is_read_into_the_local_tier),
        TEST(test_snapshot_has_the_hottest_first_and_warms_another),
        TEST(test_I_snapshot_at_the_process_s_limit_for_files_raises_no_signal),
        TEST(test_scan_reads_what_matches_behind_the_prefix),
        TEST(test_progress_stops_it_and_keys_max_ends_it),
        TEST(test_keys_max_that_is_met_at_the_end_of_a_page_ends_a_scan),
        TEST(test_rate_limit_holds),
        TEST(test_D_write_beside_a_warming_wins),
        TEST(test_J_damaged_or_foreign_file_is_refused_whole),
        TEST(test_J_a_foreign_file_is_not_read_to_its_end),
        TEST(test_J_a_snapshot_larger_than_its_keys_is_not_read_to_its_end),
        TEST(test_J_a_pipe_is_refused_and_not_waited_for),
        TEST(test_J_a_new_file_that_is_not_ours_is_left_alone),
        TEST(test_nth_allocation_failing_unwinds),
        TEST(test_close_writes_the_snapshot_and_the_next_open_reads_it),
        TEST(test_snapshot_has_as_many_keys_as_wanted_and_waits_if_wanted),
        TEST(test_J_damaged_snapshot_is_told_and_replaced),
        TEST(test_an_unread_or_empty_tier_leaves_the_snapshot_alone),
        TEST(test_what_cannot_be_written_is_told_by_close),
        TEST(test_a_cache_that_stays_open_goes_on_reading),
        TEST(test_a_second_close_does_not_meet_the_restart_of_the_first),
        cmocka_unit_test(test_snapshot_without_a_remote_tier_is_refused),
        cmocka_unit_test(test_redis_list_snapshot_and_scan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
