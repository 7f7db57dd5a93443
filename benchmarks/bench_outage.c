/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nearcache-bench outage: what hits Redis when it comes back after an outage?
 *
 * Some processes have all keys in their local tiers and read them, each so many times a second.  Redis, a private one,
 * saves its data and is killed; some of the keys are written in the meantime; after the outage it starts again from
 * what it had saved.  To the processes it is another server, so that nothing of what they have may be served unseen.
 * From then on, for `--window` seconds, it is counted what they ask of it: once as they are by default (what they have
 * is compared, many keys a request) and once with repair_rate=0 (a plain flush: it is fetched anew).
 *
 *      coordinator  fill Redis   all fetched?  warm-up   change some, SAVE, kill … start   window          end
 *      reader       fetch all    tell          read, so many a second, whatever happens ───────────────>   tell
 *
 * A value tells its version, so every read that begins later than the staleness bound after the start is checked: what
 * was changed must be read changed.  All processes are forked before any of them opens anything, and share one page of
 * numbers. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/random.h"
#include "bench_child.h"
#include "bench_keys.h"
#include "bench_options.h"
#include "bench_redis.h"
#include "bench_report.h"
#include "bench_ticks.h"
#include "bench_wire.h"
#include "nearcache.h"

#define PROCESSES_MAX 32u
#define KEY_SIZE 16u
#define MANY 64u /* keys of one near_mget */
#define READY_MS 10000u
#define PATIENCE_NS (60 * NEAR_NS_PER_S)
#define ENTRY_MORE 200u /* bytes of budget for an entry beside its value: generous, nothing shall be evicted */
#define BUDGET_MORE (16u << 20)
#define BOUND_MS 1000u
#define PROVEN_MS 1000u /* and until a process has noticed that the server is another one */

enum phase { FILLING, READING, COUNTING, OVER };

/* What one process tells, written by it alone. */
struct reader {
    _Alignas(128) _Atomic(int) filled, done;
    uint64_t requests, reads, hits, failed, wrong, kept, dropped; /* in the window; published by done */
};

struct board {
    _Atomic(int) phase, failed;
    _Atomic(int64_t) revived_ns;
    struct reader reader[PROCESSES_MAX];
    char error[256];
};

struct outage {
    struct bench_common *common;
    uint64_t processes, keys_count, value_size, rate;
    double outage, window, changed;
    const char *dist_text;
    struct bench_dist dist;
    struct bench_keys keys;
    struct bench_redis redis;
    struct board *board;
};

/* One kind of recovery, and its figures of every run. */
struct arm {
    const char *name, *repair_rate; /* NULL: the default */
    double *requests, *commands, *cpu_ms, *received, *sent, *hits, *kept, *dropped;
    uint64_t reads, failed, wrong;
};

static void fail(struct board *board, const char *text)
{
    if (!atomic_exchange_explicit(&board->failed, 1, memory_order_acq_rel))
        snprintf(board->error, sizeof(board->error), "%s", text);
}

static int has_failed(struct board *board)
{
    return atomic_load_explicit(&board->failed, memory_order_acquire); /* acquire: pairs with fail */
}

static int phase_of(struct board *board)
{
    return atomic_load_explicit(&board->phase, memory_order_acquire); /* acquire: pairs with the coordinator's */
}

/* ---------------------------------------------------------------- readers */

/* The share of the keys that is written during the outage, evenly spread. */
static int is_changed(const struct outage *o, uint32_t number)
{
    return (uint64_t)((double)(number + 1) * o->changed) > (uint64_t)((double)number * o->changed);
}

static near_cache *open_cache(const struct outage *o, const struct arm *arm)
{
    near_options options;
    near_error error = {0};
    near_cache *cache = NULL;
    near_options_init(&options);
    options.local_bytes = o->keys_count * (o->value_size + ENTRY_MORE) + BUDGET_MORE;
    options.bound_ms = BOUND_MS;
    if ((arm->repair_rate && near_option_set(&options, "repair_rate", arm->repair_rate, &error) != NEAR_OK) ||
        near_open(o->redis.uri, &options, &cache, &error) != NEAR_OK ||
        near_wait_ready(cache, READY_MS, &error) != NEAR_OK) {
        fail(o->board, error.text);
        return NULL;
    }
    return cache;
}

static void fetch_all(const struct outage *o, near_cache *cache)
{
    near_item items[MANY];
    for (uint64_t at = 0; at < o->keys_count; at += MANY) {
        size_t count = o->keys_count - at < MANY ? (size_t)(o->keys_count - at) : MANY;
        for (size_t i = 0; i < count; i++)
            items[i] = (near_item){.key = bench_key_bytes(&o->keys, (uint32_t)(at + i)), .key_size = KEY_SIZE};
        if (near_mget(cache, items, count, NULL) < 0) {
            fail(o->board, "cannot read the keys");
            return;
        }
        for (size_t i = 0; i < count; i++)
            if (items[i].status == NEAR_OK)
                near_release(&items[i].value);
    }
}

static void read_one(const struct outage *o, near_cache *cache, struct reader *reader, uint32_t number)
{
    near_value value;
    int64_t revived_ns = atomic_load_explicit(&o->board->revived_ns, memory_order_relaxed); /* relaxed: soon enough */
    int checked = revived_ns && bench_now() - revived_ns > (BOUND_MS + PROVEN_MS) * NEAR_NS_PER_MS;
    int status = near_get(cache, bench_key_bytes(&o->keys, number), KEY_SIZE, NULL, &value);
    reader->reads++;
    if (status != NEAR_OK) {
        reader->failed++;
        return;
    }
    uint64_t version;
    memcpy(&version, (const char *)value.data + 8, sizeof(version));
    reader->wrong += checked && version != (is_changed(o, number) ? 2 : 1);
    near_release(&value);
}

struct before {
    uint64_t requests, gets, hits, kept, dropped;
};

static struct before look(near_cache *cache)
{
    near_stats stats = {.size = sizeof(stats)};
    if (near_stats_get(cache, &stats) != NEAR_OK)
        return (struct before){0};
    /* what failed while the server was still taken for dead did not reach it */
    return (struct before){stats.requests - stats.remote_errors, stats.gets, stats.local_hits, stats.repair_kept,
                           stats.repair_dropped};
}

/* Reads due so far are done at once, then there is a pause: as a server's work comes. */
static void read_on(const struct outage *o, near_cache *cache, struct reader *reader, uint64_t seed)
{
    struct bench_draw draw;
    struct before before = {0};
    int counting = 0, phase;
    uint64_t done = 0;
    bench_draw_init(&draw, &o->dist, (uint32_t)o->keys_count, o->common->seed);
    int64_t began_ns = bench_now();
    while ((phase = phase_of(o->board)) != OVER && !has_failed(o->board)) {
        if (phase == COUNTING && !counting) {
            counting = 1;
            reader->reads = reader->failed = reader->wrong = 0;
            before = look(cache);
        }
        double due = (double)(bench_now() - began_ns) * 1e-9 * (double)o->rate;
        if ((double)done >= due) {
            bench_sleep(0.001);
            continue;
        }
        /* what waited for an outage is not made up for */
        done = (double)done + (double)o->rate * 0.1 < due ? (uint64_t)due : done + 1;
        read_one(o, cache, reader, bench_draw_key(&draw, &seed));
    }
    struct before after = look(cache);
    reader->requests = after.requests - before.requests;
    reader->hits = after.hits - before.hits;
    reader->kept = after.kept - before.kept;
    reader->dropped = after.dropped - before.dropped;
    bench_draw_fini(&draw);
}

static void be_reader(const struct outage *o, const struct arm *arm, unsigned number)
{
    struct reader *reader = &o->board->reader[number];
    near_cache *cache = open_cache(o, arm);
    if (!cache)
        return;
    fetch_all(o, cache);
    atomic_store_explicit(&reader->filled, 1, memory_order_release); /* pairs with wait_until_filled */
    read_on(o, cache, reader, o->common->seed * 1000 + number + 1);
    atomic_store_explicit(&reader->done, 1, memory_order_release); /* pairs with collect */
    (void)near_close(cache);
}

/* ---------------------------------------------------------------- the coordinator */

static int wait_until_filled(const struct outage *o)
{
    int64_t deadline = bench_now() + PATIENCE_NS;
    for (unsigned i = 0; i < o->processes; i++)
        while (!atomic_load_explicit(&o->board->reader[i].filled, memory_order_acquire)) {
            if (has_failed(o->board) || bench_now() > deadline)
                return 0;
            bench_sleep(0.005);
        }
    return 1;
}

static redisContext *connect_to(const struct outage *o)
{
    struct bench_endpoint endpoint;
    char error[256] = "";
    redisContext *context =
        bench_endpoint_parse(o->redis.uri, &endpoint) ? bench_wire_connect(&endpoint, error, sizeof(error)) : NULL;
    if (!context)
        fail(o->board, error);
    return context;
}

static int change_some(const struct outage *o, redisContext *context)
{
    char *value = bench_alloc(o->value_size);
    int good = 1;
    for (uint32_t number = 0; good && number < o->keys_count; number++) {
        if (!is_changed(o, number))
            continue;
        bench_value_write(value, o->value_size, number, 2);
        good = bench_wire_set(context, bench_key_bytes(&o->keys, number), KEY_SIZE, value, o->value_size);
    }
    free(value);
    return good;
}

/* The server goes, with all its data on disk, and comes back after the outage. */
static int break_down(struct outage *o)
{
    char error[256] = "";
    redisContext *context = connect_to(o);
    if (!context)
        return 0;
    int good = change_some(o, context);
    redisReply *reply = good ? redisCommand(context, "SAVE") : NULL;
    good = reply && reply->type == REDIS_REPLY_STATUS;
    freeReplyObject(reply);
    bench_redis_kill(&o->redis);
    redisFree(context);
    bench_sleep(o->outage);
    if (!good || bench_redis_revive(&o->redis, error, sizeof(error)) != 0) {
        fail(o->board, *error ? error : "Redis does not save its data");
        return 0;
    }
    return 1;
}

static void collect_from_server(const struct outage *o, struct arm *arm, unsigned run)
{
    redisContext *context = connect_to(o);
    if (!context)
        return;
    /* since it has started, that is, since the outage */
    arm->commands[run] = bench_wire_info_real(context, "stats", "total_commands_processed");
    arm->received[run] = bench_wire_info_real(context, "stats", "total_net_input_bytes");
    arm->sent[run] = bench_wire_info_real(context, "stats", "total_net_output_bytes");
    arm->cpu_ms[run] = 1e3 * (bench_wire_info_real(context, "cpu", "used_cpu_user") +
                              bench_wire_info_real(context, "cpu", "used_cpu_sys"));
    redisFree(context);
}

static void collect(const struct outage *o, struct arm *arm, unsigned run)
{
    uint64_t requests = 0, reads = 0, hits = 0, kept = 0, dropped = 0;
    for (unsigned i = 0; i < o->processes; i++) {
        const struct reader *reader = &o->board->reader[i];
        if (!atomic_load_explicit(&reader->done, memory_order_acquire))
            fail(o->board, "a process has not told its figures");
        requests += reader->requests;
        reads += reader->reads;
        hits += reader->hits;
        kept += reader->kept;
        dropped += reader->dropped;
        arm->failed += reader->failed;
        arm->wrong += reader->wrong;
    }
    arm->requests[run] = (double)requests;
    arm->hits[run] = reads ? (double)hits / (double)reads : 0;
    arm->kept[run] = (double)kept;
    arm->dropped[run] = (double)dropped;
    arm->reads += reads;
}

static void conduct(struct outage *o, struct arm *arm, unsigned run)
{
    struct board *board = o->board;
    if (!wait_until_filled(o)) {
        fail(board, "the processes do not get the keys");
        return;
    }
    atomic_store_explicit(&board->phase, READING, memory_order_release);
    bench_sleep(o->common->warmup);
    if (!break_down(o))
        return;
    atomic_store_explicit(&board->revived_ns, bench_now(), memory_order_relaxed); /* relaxed: seen soon enough */
    atomic_store_explicit(&board->phase, COUNTING, memory_order_release);
    bench_sleep(o->window);
    collect_from_server(o, arm, run);
}

static int fill_redis(const struct outage *o, char *error, size_t capacity)
{
    redisContext *context = connect_to(o);
    if (!context)
        return -1;
    int status = bench_wire_load(context, &o->keys, (uint32_t)o->keys_count, (size_t)o->value_size, error, capacity);
    redisFree(context);
    return status;
}

static void run_processes(struct outage *o, struct arm *arm, unsigned run)
{
    pid_t pid[PROCESSES_MAX];
    char error[128];
    for (unsigned i = 0; i < o->processes; i++) {
        pid[i] = bench_child_fork();
        if (pid[i] == 0) {
            be_reader(o, arm, i);
            _exit(0);
        }
        if (pid[i] < 0)
            fail(o->board, "cannot start a process");
    }
    conduct(o, arm, run);
    atomic_store_explicit(&o->board->phase, OVER, memory_order_release);
    for (unsigned i = 0; i < o->processes; i++) {
        if (pid[i] < 0)
            continue;
        bench_child_wait(pid[i], error, sizeof(error));
        if (*error)
            fail(o->board, error);
    }
}

/* 0, or -1 with a text written. */
static int run_arm(struct outage *o, struct arm *arm, unsigned run)
{
    char error[256] = "";
    memset(o->board, 0, sizeof(*o->board));
    if (bench_redis_start(&o->redis, error, sizeof(error)) != 0) {
        bench_say("%s", error);
        return -1;
    }
    if (fill_redis(o, error, sizeof(error)) == 0)
        run_processes(o, arm, run);
    else
        fail(o->board, error);
    bench_redis_stop(&o->redis);
    if (!has_failed(o->board))
        collect(o, arm, run);
    if (has_failed(o->board))
        bench_say("%s", o->board->error);
    return has_failed(o->board) ? -1 : 0;
}

/* ---------------------------------------------------------------- results */

#define FIGURES 8

static void lay_out(struct arm *arm, uint64_t runs)
{
    double **figure[FIGURES] = {&arm->requests, &arm->commands, &arm->cpu_ms, &arm->received,
                                &arm->sent,     &arm->hits,     &arm->kept,   &arm->dropped};
    for (unsigned i = 0; i < FIGURES; i++)
        *figure[i] = bench_alloc(runs * sizeof(double));
}

static void let_go(struct arm *arm)
{
    double *figure[FIGURES] = {arm->requests, arm->commands, arm->cpu_ms, arm->received,
                               arm->sent,     arm->hits,     arm->kept,   arm->dropped};
    for (unsigned i = 0; i < FIGURES; i++)
        free(figure[i]);
}

static void add_row(struct bench_report *report, struct arm *arm, double flushed)
{
    uint64_t runs = report->common->runs;
    double requests = bench_median(arm->requests, runs);
    struct bench_row *row = bench_report_row(report);
    bench_row_text(row, "recovery", "recovery", arm->name);
    bench_row_real(row, "requests", "requests", 1, 0, requests);
    if (flushed > 0)
        bench_row_real(row, "share_of_flush", "share of flush", 1, 3, requests / flushed);
    else
        bench_row_none(row, "share_of_flush", "share of flush");
    bench_row_real(row, "server_commands", "commands", 1, 0, bench_median(arm->commands, runs));
    bench_row_real(row, "server_cpu_ms", "server cpu ms", 1, 0, bench_median(arm->cpu_ms, runs));
    bench_row_real(row, "server_bytes_received", "MB in", 1e-6, 1, bench_median(arm->received, runs));
    bench_row_real(row, "server_bytes_sent", "MB out", 1e-6, 1, bench_median(arm->sent, runs));
    bench_row_real(row, "local_hit_ratio", "hits %", 100, 1, bench_median(arm->hits, runs));
    bench_row_real(row, "kept", "kept", 1, 0, bench_median(arm->kept, runs));
    bench_row_real(row, "dropped", "dropped", 1, 0, bench_median(arm->dropped, runs));
    bench_row_count(row, "reads", NULL, arm->reads);
    bench_row_count(row, "failed", "failed", arm->failed);
    bench_row_count(row, "wrong", "wrong", arm->wrong);
}

static int report_all(const struct outage *o, struct arm *flush, struct arm *repair)
{
    struct bench_report report;
    bench_report_init(&report, o->common);
    bench_row_count(&report.setting, "processes", NULL, o->processes);
    bench_row_count(&report.setting, "keys", NULL, o->keys_count);
    bench_row_count(&report.setting, "value_size", NULL, o->value_size);
    bench_row_count(&report.setting, "reads_per_second", NULL, o->rate);
    bench_row_text(&report.setting, "distribution", NULL, o->dist_text);
    bench_row_real(&report.setting, "outage_s", NULL, 1, 0, o->outage);
    bench_row_real(&report.setting, "window_s", NULL, 1, 0, o->window);
    bench_row_real(&report.setting, "changed", NULL, 1, 0, o->changed);
    double flushed = bench_median(flush->requests, o->common->runs);
    add_row(&report, flush, flushed);
    add_row(&report, repair, flushed);
    int status = bench_report_write(&report);
    bench_report_fini(&report);
    return flush->wrong || repair->wrong ? BENCH_FAILED : status;
}

/* ---------------------------------------------------------------- */

static int parse(struct outage *o, struct arm *repair)
{
    const struct bench_option rows[] = {
        {"processes", "N", BENCH_COUNT, &o->processes, 1, PROCESSES_MAX, "all of them read"},
        {"keys", "N", BENCH_COUNT, &o->keys_count, 1, 1 << 24, "in every process's local tier"},
        {"value-size", "BYTES", BENCH_SIZE, &o->value_size, 16, 1 << 20, ""},
        {"reads", "N", BENCH_COUNT, &o->rate, 1, 1 << 24, "a second and process"},
        {"dist", "NAME", BENCH_TEXT, &o->dist_text, 0, 0, "uniform, zipf:THETA, hotspot:SET,OPS"},
        {"outage", "SECONDS", BENCH_REAL, &o->outage, 0, 3600, ""},
        {"window", "SECONDS", BENCH_REAL, &o->window, 0.1, 3600, "counted from the end of the outage on"},
        {"changed", "SHARE", BENCH_REAL, &o->changed, 0, 1, "of the keys, written during the outage"},
        {"repair-rate", "N", BENCH_TEXT, &repair->repair_rate, 0, 0, "the option repair_rate [the library's default]"},
        {NULL, NULL, BENCH_FLAG, NULL, 0, 0, NULL},
    };
    int status = bench_options_parse(o->common, rows, "What hits Redis after an outage: repair beside a plain flush.");
    if (status >= 0)
        return status;
    if (!bench_dist_parse(o->dist_text, &o->dist))
        return bench_options_refuse("dist", o->dist_text, "uniform, zipf:THETA (0 to 10) or hotspot:SET,OPS (0 to 1)");
    return repair->repair_rate ? bench_options_check("repair-rate", "repair_rate", repair->repair_rate) : -1;
}

static int run_all(struct outage *o, struct arm *flush, struct arm *repair)
{
    for (unsigned run = 0; run < o->common->runs; run++) {
        if (run_arm(o, flush, run) != 0 || run_arm(o, repair, run) != 0)
            return -1;
        bench_progress(o->common, "run %u of %u", run + 1, (unsigned)o->common->runs);
    }
    return 0;
}

int bench_outage(struct bench_common *common)
{
    struct arm flush = {.name = "flush", .repair_rate = "0"}, repair = {.name = "repair"};
    struct outage o = {.common = common,
                       .processes = 4,
                       .keys_count = 100000,
                       .value_size = 100,
                       .rate = 5000,
                       .outage = 3,
                       .window = 10,
                       .changed = 0.01,
                       .dist_text = "zipf:0.99"};
    common->runs = 1;
    common->warmup = 2;
    int status = parse(&o, &repair);
    if (status >= 0)
        return status;
    o.board = mmap(NULL, sizeof(*o.board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (o.board == MAP_FAILED) {
        bench_say("out of memory");
        return BENCH_FAILED;
    }
    bench_keys_init(&o.keys, (uint32_t)o.keys_count, KEY_SIZE);
    lay_out(&flush, common->runs);
    lay_out(&repair, common->runs);
    status = run_all(&o, &flush, &repair) == 0 ? report_all(&o, &flush, &repair) : BENCH_FAILED;
    let_go(&flush);
    let_go(&repair);
    bench_keys_fini(&o.keys);
    munmap(o.board, sizeof(*o.board));
    return status;
}
