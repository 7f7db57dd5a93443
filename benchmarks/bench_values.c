/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nearcache-bench values: what does it cost, and save, that small values travel with the messages of their writes?
 *
 * One cache writes a set of keys over and over.  The others either read every key after each round of writes, or none
 * of them ever (they hold other things).  In turn with no value travelling, with the values of keys that others have
 * lately held (the default), and with all.  Told are the share of writes that took their value along, the bytes that
 * each of the others receives for a write, fetches included, and of their reads those that had to be fetched.
 *
 * All caches are in this process, each with its own local tier, connections and threads, so one thread can let them
 * take turns. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bench_options.h"
#include "bench_redis.h"
#include "bench_report.h"
#include "bench_ticks.h"
#include "bench_wire.h"
#include "nearcache.h"

#define READERS_MAX 32u
#define KEY_SIZE_MAX 32u
#define PREFIX "nearcache-bench:values:"
#define PATIENCE_MS 60000u

static const struct way {
    const char *who, *how;
    int held;
    uint32_t values;
} ways[] = {
    {"nobody else", "never", 0, NEAR_VALUES_NEVER},      {"nobody else", "adaptive", 0, NEAR_VALUES_ADAPTIVE},
    {"nobody else", "always", 0, NEAR_VALUES_ALWAYS},    {"all others", "never", 1, NEAR_VALUES_NEVER},
    {"all others", "adaptive", 1, NEAR_VALUES_ADAPTIVE}, {"all others", "always", 1, NEAR_VALUES_ALWAYS},
};
#define WAYS (sizeof(ways) / sizeof(*ways))

struct values {
    struct bench_common *common;
    const char *uri;
    uint64_t readers, keys, value_size;
    struct bench_redis redis;
};

/* One way, one for each run. */
struct figures {
    double *writes_s, *carried, *bytes, *fetched;
};

/* Everything counted so far, of the writer and of the readers together. */
struct counted {
    uint64_t writes, carried, bytes, reads, fetches;
    int64_t at_ns;
};

struct fleet {
    const struct values *values;
    const struct way *way;
    near_cache *writer, *reader[READERS_MAX];
    char *value;
    int failed;
};

/* ---------------------------------------------------------------- a fleet */

static near_cache *open_cache(struct fleet *fleet)
{
    near_options options;
    near_error error = {0};
    near_cache *cache = NULL;
    near_options_init(&options);
    options.prefix = PREFIX;
    options.timeout_ms = PATIENCE_MS;
    options.message_value_max = (uint32_t)fleet->values->value_size;
    options.message_values = fleet->way->values;
    if (near_open(fleet->values->uri, &options, &cache, &error) != NEAR_OK ||
        near_wait_ready(cache, PATIENCE_MS, &error) != NEAR_OK) {
        bench_say("%s", error.text);
        fleet->failed = 1;
    }
    return cache;
}

static void fleet_open(struct fleet *fleet)
{
    fleet->value = bench_alloc(fleet->values->value_size);
    memset(fleet->value, 'v', fleet->values->value_size);
    fleet->writer = open_cache(fleet);
    for (uint64_t r = 0; r < fleet->values->readers && !fleet->failed; r++)
        fleet->reader[r] = open_cache(fleet);
}

static void fleet_close(struct fleet *fleet)
{
    if (fleet->writer && !fleet->failed)
        (void)near_clear(fleet->writer, NEAR_CLEAR_KEYS, NULL, NULL);
    for (uint64_t r = 0; r < fleet->values->readers; r++)
        if (fleet->reader[r])
            (void)near_close(fleet->reader[r]);
    if (fleet->writer)
        (void)near_close(fleet->writer);
    free(fleet->value);
}

static void do_round(struct fleet *fleet)
{
    const struct values *values = fleet->values;
    char key[KEY_SIZE_MAX];
    near_value value;
    for (uint64_t k = 0; k < values->keys && !fleet->failed; k++) {
        size_t size = (size_t)snprintf(key, sizeof(key), "key:%llu", (unsigned long long)k);
        fleet->failed = near_set(fleet->writer, key, size, fleet->value, values->value_size, NULL, NULL) != NEAR_OK;
    }
    for (uint64_t k = 0; k < values->keys && fleet->way->held; k++) {
        size_t size = (size_t)snprintf(key, sizeof(key), "key:%llu", (unsigned long long)k);
        for (uint64_t r = 0; r < values->readers && !fleet->failed; r++) {
            fleet->failed = near_get(fleet->reader[r], key, size, NULL, &value) != NEAR_OK;
            near_release(&value);
        }
    }
}

static struct counted count(const struct fleet *fleet)
{
    near_stats stats = {.size = sizeof(stats)};
    struct counted counted = {.at_ns = bench_now()};
    (void)near_stats_get(fleet->writer, &stats);
    counted.writes = stats.writes;
    counted.carried = stats.values_sent;
    for (uint64_t r = 0; r < fleet->values->readers; r++) {
        (void)near_stats_get(fleet->reader[r], &stats);
        counted.bytes += stats.bytes_received;
        counted.reads += stats.gets;
        counted.fetches += stats.remote_hits + stats.remote_misses;
    }
    return counted;
}

/* One run of one way; 0, or -1 when something failed. */
static int run_way(const struct values *values, const struct way *way, unsigned run, struct figures *f)
{
    struct fleet fleet = {.values = values, .way = way};
    fleet_open(&fleet);
    int64_t begun_ns = bench_now(), warm_ns = begun_ns + (int64_t)(values->common->warmup * 1e9);
    while (!fleet.failed && bench_now() < warm_ns)
        do_round(&fleet);
    if (!fleet.failed) {
        struct counted before = count(&fleet);
        int64_t end_ns = before.at_ns + (int64_t)(values->common->seconds * 1e9);
        do
            do_round(&fleet);
        while (!fleet.failed && bench_now() < end_ns);
        struct counted after = count(&fleet);
        double writes = (double)(after.writes - before.writes), reads = (double)(after.reads - before.reads);
        f->writes_s[run] = writes * 1e9 / (double)(after.at_ns - before.at_ns);
        f->carried[run] = 100 * (double)(after.carried - before.carried) / writes;
        f->bytes[run] = (double)(after.bytes - before.bytes) / writes / (double)values->readers;
        f->fetched[run] = reads > 0 ? 100 * (double)(after.fetches - before.fetches) / reads : 0;
    }
    fleet_close(&fleet);
    if (fleet.failed)
        bench_say("%s, %s: a cache has failed, or Redis", way->who, way->how);
    return fleet.failed ? -1 : 0;
}

/* ---------------------------------------------------------------- results */

static void add_row(struct bench_report *report, const struct values *values, const struct way *way, struct figures *f)
{
    size_t runs = values->common->runs;
    struct bench_row *row = bench_report_row(report);
    bench_row_text(row, "held_by", "held by", way->who);
    bench_row_text(row, "message_values", "values travel", way->how);
    bench_row_real(row, "writes_per_second", "writes/s", 1, 0, bench_median(f->writes_s, runs));
    bench_row_real(row, "carried_percent", "with value, %", 1, 1, bench_median(f->carried, runs));
    bench_row_real(row, "bytes_per_write", "bytes/write and reader", 1, 1, bench_median(f->bytes, runs));
    bench_row_real(row, "fetched_percent", "reads fetched, %", 1, 1, bench_median(f->fetched, runs));
}

static int report_all(const struct values *values, struct figures *figures)
{
    struct bench_report report;
    bench_report_init(&report, values->common);
    bench_row_count(&report.setting, "readers", NULL, values->readers);
    bench_row_count(&report.setting, "keys", NULL, values->keys);
    bench_row_count(&report.setting, "value_size", NULL, values->value_size);
    for (size_t w = 0; w < WAYS; w++)
        add_row(&report, values, &ways[w], &figures[w]);
    int status = bench_report_write(&report);
    bench_report_fini(&report);
    return status;
}

/* ---------------------------------------------------------------- */

static int parse(struct values *values)
{
    const struct bench_option rows[] = {
        {"uri", "URI", BENCH_TEXT, &values->uri, 0, 0, "a Redis of your own [a private one]"},
        {"readers", "N", BENCH_COUNT, &values->readers, 1, READERS_MAX, "caches beside the writer's"},
        {"keys", "N", BENCH_SIZE, &values->keys, 1, 1000000, "written in each round"},
        {"value-size", "BYTES", BENCH_SIZE, &values->value_size, 1, 65536, ""},
        {NULL, NULL, BENCH_FLAG, NULL, 0, 0, NULL},
    };
    struct bench_endpoint endpoint;
    int status = bench_options_parse(values->common, rows,
                                     "Values that travel with the messages of their writes: bytes and fetches.");
    if (status >= 0)
        return status;
    return values->uri ? bench_endpoint_option(values->uri, &endpoint) : -1;
}

static int run_all(const struct values *values, struct figures *figures)
{
    for (unsigned run = 0; run < values->common->runs; run++) {
        for (size_t w = 0; w < WAYS; w++)
            if (run_way(values, &ways[w], run, &figures[w]) != 0)
                return -1;
        bench_progress(values->common, "run %u of %u", run + 1, (unsigned)values->common->runs);
    }
    return 0;
}

int bench_values(struct bench_common *common)
{
    struct values values = {.common = common, .readers = 3, .keys = 100, .value_size = 100};
    struct figures figures[WAYS];
    char error[256];
    common->seconds = 2;
    common->warmup = 1; /* until it is known who holds what: some heartbeats */
    int status = parse(&values);
    if (status >= 0)
        return status;
    int is_private = !values.uri;
    if (is_private && bench_redis_start(&values.redis, error, sizeof(error)) != 0) {
        bench_say("%s", error);
        return BENCH_FAILED;
    }
    if (is_private)
        values.uri = values.redis.uri;
    double *all = bench_alloc(WAYS * 4 * common->runs * sizeof(*all)), *at = all;
    for (size_t w = 0; w < WAYS; w++, at += 4 * common->runs)
        figures[w] = (struct figures){at, at + common->runs, at + 2 * common->runs, at + 3 * common->runs};
    status = BENCH_FAILED;
    if (run_all(&values, figures) == 0)
        status = report_all(&values, figures);
    free(all);
    if (is_private)
        bench_redis_stop(&values.redis);
    return status;
}
