/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nearcache-bench storm: what does one process that writes very many keys cost itself, Redis and everybody else?
 *
 * One process writes, the others hold some of the keys in their local tiers and do nothing but listen.  The same keys
 * are written in three ways, in turn: one by one; as batches whose values travel with the messages, which have a
 * message a key; as plain batches, whose messages have up to 64 keys.  Told are the rate, what each listener receives,
 * and processor time per key: the writer's, one listener's, Redis's.
 *
 *      writer     open, write all   wait for all   times, write all again, times   end
 *      listener   open              fetch, wait                                    wait until all is applied, tell
 *
 * All processes are forked before any of them opens anything; they share one page of numbers. */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench_child.h"
#include "bench_options.h"
#include "bench_redis.h"
#include "bench_report.h"
#include "bench_wire.h"
#include "nearcache.h"

#define LISTENERS_MAX 31u
#define KEY_SIZE_MAX 32u
#define PATIENCE_MS 60000u
#define PREFIX "nearcache-bench:storm:"

static const struct way {
    const char *name;
    int single, values;
} ways[] = {
    {"near_set, one by one", 1, 0},
    {"near_mset, values travel", 0, 1},
    {"near_mset", 0, 0},
};
#define WAYS (sizeof(ways) / sizeof(*ways))

enum phase { OPENING, HOLDING, WRITING, WRITTEN };

/* What one listener tells; written by it alone. */
struct listener {
    _Alignas(128) _Atomic(int) ready; /* 1: holds its keys, 2: has told */
    uint64_t messages, bytes;
    int64_t cpu_ns;
};

struct board {
    _Atomic(int) phase, failed;
    struct listener listener[LISTENERS_MAX];
    /* the writer's results */
    int64_t taken_ns, cpu_ns;
    double redis_cpu_ns;
};

struct storm {
    struct bench_common *common;
    const char *uri;
    uint64_t processes, keys, batch, value_size, held;
    struct bench_endpoint endpoint;
    struct bench_redis redis;
    struct board *board;
};

/* Figures of one way, one for each run. */
struct figures {
    double *keys_s, *messages, *bytes, *writer_ns, *listener_ns, *redis_ns;
};

/* ---------------------------------------------------------------- small things */

static void *fail(struct board *board)
{
    atomic_store(&board->failed, 1);
    return NULL;
}

static int64_t cpu_ns(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * NEAR_NS_PER_S +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * INT64_C(1000);
}

/* Seconds from INFO, as nanoseconds; 0: it does not tell. */
static double redis_cpu_ns(redisContext *context)
{
    double seconds = 0;
    redisReply *reply = redisCommand(context, "INFO cpu");
    for (const char *at = reply && reply->type == REDIS_REPLY_STRING ? reply->str : ""; *at;) {
        if (strncmp(at, "used_cpu_sys:", 13) == 0 || strncmp(at, "used_cpu_user:", 14) == 0)
            seconds += strtod(strchr(at, ':') + 1, NULL);
        const char *end = strchr(at, '\n');
        at = end ? end + 1 : "";
    }
    freeReplyObject(reply);
    return seconds * 1e9;
}

/* Not measured, so it may look again and again.  0: somebody has failed. */
static int wait_for(struct board *board, _Atomic(int) *word, int least)
{
    int64_t until_ns = near__clock_kernel(CLOCK_MONOTONIC) + PATIENCE_MS * NEAR_NS_PER_MS;
    while (atomic_load(word) < least) {
        if (atomic_load(&board->failed) || near__clock_kernel(CLOCK_MONOTONIC) > until_ns)
            return fail(board) != NULL;
        nanosleep(&(struct timespec){.tv_nsec = NEAR_NS_PER_MS}, NULL);
    }
    return 1;
}

static near_cache *open_cache(const struct storm *storm, const struct way *way)
{
    near_options options;
    near_cache *cache = NULL;
    near_options_init(&options);
    options.prefix = PREFIX;
    options.timeout_ms = PATIENCE_MS;
    options.message_value_max = way->values ? (uint32_t)storm->value_size : 0;
    options.message_values = NEAR_VALUES_ALWAYS;
    if (near_open(storm->uri, &options, &cache, NULL) != NEAR_OK)
        return fail(storm->board);
    if (near_wait_ready(cache, PATIENCE_MS, NULL) != NEAR_OK)
        fail(storm->board);
    return cache;
}

/* Keys, and values that all are the same. */
struct items {
    char (*name)[KEY_SIZE_MAX];
    void *value;
    near_item *item;
};

static struct items make_items(const struct storm *storm)
{
    struct items items = {.name = bench_alloc(storm->keys * sizeof(*items.name)),
                          .value = bench_alloc(storm->value_size),
                          .item = bench_alloc(storm->keys * sizeof(*items.item))};
    memset(items.value, 'v', storm->value_size);
    memset(items.item, 0, storm->keys * sizeof(*items.item));
    for (uint64_t i = 0; i < storm->keys; i++) {
        int size = snprintf(items.name[i], KEY_SIZE_MAX, "key:%010llu", (unsigned long long)i);
        items.item[i] =
            (near_item){.key = items.name[i], .key_size = (size_t)size, .data = items.value, .size = storm->value_size};
    }
    return items;
}

static void free_items(struct items *items)
{
    free(items->name);
    free(items->value);
    free(items->item);
}

/* ---------------------------------------------------------------- the processes */

static near_stats stats_of(near_cache *cache)
{
    near_stats stats = {.size = sizeof(stats)};
    (void)near_stats_get(cache, &stats);
    return stats;
}

static void hold(const struct storm *storm, near_cache *cache, near_item *item)
{
    for (uint64_t at = 0; at < storm->held; at += 64) {
        size_t count = storm->held - at < 64 ? (size_t)(storm->held - at) : 64;
        if (near_mget(cache, item + at, count, NULL) != NEAR_OK)
            fail(storm->board);
        for (size_t i = 0; i < count; i++)
            near_release(&item[at + i].value);
    }
}

static void be_listener(const struct storm *storm, const struct way *way, unsigned number)
{
    struct board *board = storm->board;
    struct listener *listener = &board->listener[number];
    near_cache *cache = open_cache(storm, way);
    struct items items = make_items(storm);
    if (cache && wait_for(board, &board->phase, HOLDING)) {
        hold(storm, cache, items.item);
        if (near_check(cache, PATIENCE_MS, NULL) != NEAR_OK) /* behind the messages of what was written first */
            fail(board);
        near_stats before = stats_of(cache);
        int64_t cpu_before_ns = cpu_ns();
        atomic_store(&listener->ready, 1);
        int written = wait_for(board, &board->phase, WRITTEN);
        if (written && near_check(cache, PATIENCE_MS, NULL) != NEAR_OK) /* behind every message */
            fail(board);
        near_stats after = stats_of(cache);
        listener->cpu_ns = cpu_ns() - cpu_before_ns;
        listener->messages = after.messages - before.messages;
        listener->bytes = after.bytes_received - before.bytes_received;
        atomic_store(&listener->ready, 2);
    }
    free_items(&items);
    if (cache)
        (void)near_close(cache);
}

static void write_all(const struct storm *storm, const struct way *way, near_cache *cache, near_item *item)
{
    int status = NEAR_OK;
    for (uint64_t at = 0; way->single && at < storm->keys && status == NEAR_OK; at++)
        status = near_set(cache, item[at].key, item[at].key_size, item[at].data, item[at].size, NULL, NULL);
    for (uint64_t at = 0; !way->single && at < storm->keys && status == NEAR_OK; at += storm->batch)
        status = near_mset(cache, item + at,
                           (size_t)(storm->keys - at < storm->batch ? storm->keys - at : storm->batch), NULL, NULL);
    if (status != NEAR_OK)
        fail(storm->board);
}

static void measure(const struct storm *storm, const struct way *way, near_cache *cache, near_item *item,
                    redisContext *context)
{
    struct board *board = storm->board;
    atomic_store(&board->phase, WRITING);
    double redis_before_ns = redis_cpu_ns(context);
    int64_t cpu_before_ns = cpu_ns(), begun_ns = near__clock_kernel(CLOCK_MONOTONIC);
    write_all(storm, way, cache, item);
    board->taken_ns = near__clock_kernel(CLOCK_MONOTONIC) - begun_ns;
    board->cpu_ns = cpu_ns() - cpu_before_ns;
    board->redis_cpu_ns = redis_cpu_ns(context) - redis_before_ns;
}

static void be_writer(const struct storm *storm, const struct way *way)
{
    char error[256];
    struct board *board = storm->board;
    near_cache *cache = open_cache(storm, way);
    redisContext *context = bench_wire_connect(&storm->endpoint, error, sizeof(error));
    struct items items = make_items(storm);
    if (!context)
        fail(board);
    if (cache && context) {
        static const struct way plain = {"", 0, 0};
        write_all(storm, &plain, cache, items.item);
        atomic_store(&board->phase, HOLDING);
        int ready = 1;
        for (unsigned i = 0; i + 1 < storm->processes; i++)
            ready = ready && wait_for(board, &board->listener[i].ready, 1);
        if (ready)
            measure(storm, way, cache, items.item, context);
        atomic_store(&board->phase, WRITTEN);
        for (unsigned i = 0; ready && i + 1 < storm->processes; i++) /* what follows is not to be counted */
            ready = wait_for(board, &board->listener[i].ready, 2);
        (void)near_clear(cache, NEAR_CLEAR_KEYS, NULL, NULL);
    }
    if (context)
        redisFree(context);
    free_items(&items);
    if (cache)
        (void)near_close(cache);
}

/* One run of one way; 0, or -1 with a text written. */
static int run_fleet(const struct storm *storm, const struct way *way)
{
    pid_t pid[LISTENERS_MAX + 1];
    char error[128];
    struct board *board = storm->board;
    unsigned processes = (unsigned)storm->processes;
    memset(board, 0, sizeof(*board));
    for (unsigned i = 0; i < processes; i++) {
        pid[i] = bench_child_fork();
        if (pid[i] == 0) {
            if (i + 1 < processes)
                be_listener(storm, way, i);
            else
                be_writer(storm, way);
            _exit(0);
        }
        if (pid[i] < 0)
            fail(board);
    }
    for (unsigned i = 0; i < processes; i++) {
        if (pid[i] < 0)
            continue;
        bench_child_wait(pid[i], error, sizeof(error));
        if (*error) {
            bench_say("%s", error);
            fail(board);
        }
    }
    if (board->failed)
        bench_say("%s: a process has failed, or Redis", way->name);
    return board->failed ? -1 : 0;
}

/* ---------------------------------------------------------------- results */

static void gather(const struct storm *storm, unsigned run, struct figures *f)
{
    const struct board *board = storm->board;
    double keys = (double)storm->keys, listeners = (double)(storm->processes - 1), messages = 0, bytes = 0, cpu = 0;
    for (unsigned i = 0; i + 1 < storm->processes; i++) {
        messages += (double)board->listener[i].messages;
        bytes += (double)board->listener[i].bytes;
        cpu += (double)board->listener[i].cpu_ns;
    }
    f->keys_s[run] = keys * 1e9 / (double)board->taken_ns;
    f->messages[run] = messages / listeners;
    f->bytes[run] = bytes / listeners / keys;
    f->writer_ns[run] = (double)board->cpu_ns / keys;
    f->listener_ns[run] = cpu / listeners / keys;
    f->redis_ns[run] = board->redis_cpu_ns / keys;
}

static void add_row(struct bench_report *report, const struct storm *storm, const struct way *way, struct figures *f)
{
    size_t runs = storm->common->runs;
    struct bench_row *row = bench_report_row(report);
    double keys_s = bench_median(f->keys_s, runs), messages = bench_median(f->messages, runs);
    bench_row_text(row, "way", "way", way->name);
    bench_row_real(row, "keys_per_second", "keys/s", 1, 0, keys_s);
    bench_row_real(row, "messages", "messages", 1, 0, messages);
    bench_row_real(row, "messages_per_second", "messages/s", 1, 0, messages * keys_s / (double)storm->keys);
    bench_row_real(row, "bytes_per_key", "bytes/key", 1, 1, bench_median(f->bytes, runs));
    bench_row_real(row, "writer_cpu_ns_per_key", "writer ns/key", 1, 0, bench_median(f->writer_ns, runs));
    bench_row_real(row, "listener_cpu_ns_per_key", "listener ns/key", 1, 0, bench_median(f->listener_ns, runs));
    bench_row_real(row, "redis_cpu_ns_per_key", "Redis ns/key", 1, 0, bench_median(f->redis_ns, runs));
}

static int report_all(const struct storm *storm, struct figures *figures)
{
    struct bench_report report;
    bench_report_init(&report, storm->common);
    bench_row_count(&report.setting, "processes", NULL, storm->processes);
    bench_row_count(&report.setting, "keys", NULL, storm->keys);
    bench_row_count(&report.setting, "batch", NULL, storm->batch);
    bench_row_count(&report.setting, "value_size", NULL, storm->value_size);
    bench_row_count(&report.setting, "held", NULL, storm->held);
    for (size_t w = 0; w < WAYS; w++)
        add_row(&report, storm, &ways[w], &figures[w]);
    int status = bench_report_write(&report);
    bench_report_fini(&report);
    return status;
}

/* ---------------------------------------------------------------- */

static int parse(struct storm *storm)
{
    const struct bench_option rows[] = {
        {"uri", "URI", BENCH_TEXT, &storm->uri, 0, 0, "a Redis of your own [a private one]"},
        {"processes", "N", BENCH_COUNT, &storm->processes, 2, LISTENERS_MAX + 1, "one writes, the others listen"},
        {"keys", "N", BENCH_SIZE, &storm->keys, 1, 10000000, "written in each run"},
        {"batch", "N", BENCH_SIZE, &storm->batch, 1, 1000000, "keys of one near_mset"},
        {"value-size", "BYTES", BENCH_SIZE, &storm->value_size, 1, 65536, ""},
        {"held", "N", BENCH_SIZE, &storm->held, 0, 10000000, "keys that each listener holds, at most --keys"},
        {NULL, NULL, BENCH_FLAG, NULL, 0, 0, NULL},
    };
    int status =
        bench_options_parse(storm->common, rows, "Very many writes at once: messages, bytes and processor time.");
    if (status >= 0)
        return status;
    if (storm->held > storm->keys)
        storm->held = storm->keys;
    return storm->uri ? bench_endpoint_option(storm->uri, &storm->endpoint) : -1;
}

/* Three arrays of runs for each figure of each way, in one piece. */
static double *make_figures(struct figures figures[WAYS], size_t runs)
{
    double *all = bench_alloc(WAYS * 6 * runs * sizeof(*all)), *at = all;
    for (size_t w = 0; w < WAYS; w++) {
        double **arrays[] = {&figures[w].keys_s,    &figures[w].messages,    &figures[w].bytes,
                             &figures[w].writer_ns, &figures[w].listener_ns, &figures[w].redis_ns};
        for (size_t i = 0; i < 6; i++, at += runs)
            *arrays[i] = at;
    }
    return all;
}

static int run_all(const struct storm *storm, struct figures *figures)
{
    for (unsigned run = 0; run < storm->common->runs; run++) {
        for (size_t w = 0; w < WAYS; w++) {
            if (run_fleet(storm, &ways[w]) != 0)
                return -1;
            gather(storm, run, &figures[w]);
        }
        bench_progress(storm->common, "run %u of %u", run + 1, (unsigned)storm->common->runs);
    }
    return 0;
}

int bench_storm(struct bench_common *common)
{
    struct storm storm = {
        .common = common, .processes = 4, .keys = 100 << 10, .batch = 10 << 10, .value_size = 100, .held = 10 << 10};
    struct figures figures[WAYS];
    char error[256];
    int status = parse(&storm);
    if (status >= 0)
        return status;
    int is_private = !storm.uri;
    if (is_private && bench_redis_start(&storm.redis, error, sizeof(error)) != 0) {
        bench_say("%s", error);
        return BENCH_FAILED;
    }
    if (is_private) {
        storm.uri = storm.redis.uri;
        (void)bench_endpoint_parse(storm.uri, &storm.endpoint);
    }
    double *all = make_figures(figures, common->runs);
    storm.board = mmap(NULL, sizeof(*storm.board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    status = BENCH_FAILED;
    if (storm.board != MAP_FAILED && run_all(&storm, figures) == 0)
        status = report_all(&storm, figures);
    free(all);
    if (is_private)
        bench_redis_stop(&storm.redis);
    return status;
}
