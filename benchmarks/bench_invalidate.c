/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nearcache-bench invalidate: what it costs to make very many values old at once: how many messages, and how long hits
 * pause.
 *
 *      reader process                                writer process
 *      has --entries values of one tag (a namespace) invalidates that tag (namespace) once a round
 *      and a thread that reads other, fresh values
 *      and notes the longest hit of each window      the windows alternate: one with nothing, one with an invalidation
 *
 * "Processes" are two caches here; what they share is the remote tier (memory:// unless --uri names a Redis).  The
 * longest hit of a window is mostly the machine's own (an interrupt, another program): only beside the quiet windows
 * does it say anything. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_options.h"
#include "bench_report.h"
#include "bench_ticks.h"
#include "nearcache.h"

#define READY_MS 10000u
#define REACH_MS 5000u /* a server that has not answered by then is not there */
#define CALL_MS 60000u
#define BATCH 500u
#define OTHERS 1000u /* fresh values that are read meanwhile */

struct invalidate {
    struct bench_common *common;
    const char *uri;
    uint64_t entries, rounds, value_size, window_ms;
    near_cache *reader, *writer;
    char *value;
    _Atomic(int) over;
    _Atomic(uint64_t) longest; /* ticks; the reading thread raises it, the other one takes it at a window's end */
    uint64_t hits, wrong;
    struct bench_scale scale;
};

/* How a great many values belong together. */
struct method {
    const char *name;
    int (*fill)(struct invalidate *our, uint64_t first, uint64_t count);
    int (*invalidate)(struct invalidate *our);
};

/* ---------------------------------------------------------------- filling */

static void name_keys(near_item *items, char (*keys)[64], uint64_t first, uint64_t count)
{
    memset(items, 0, count * sizeof(*items));
    for (uint64_t i = 0; i < count; i++) {
        items[i].key_size = (size_t)snprintf(keys[i], sizeof(keys[i]), "item:%llu", (unsigned long long)(first + i));
        items[i].key = keys[i];
    }
}

static int load_tagged(void *arg, const near_load_request *requests, near_loaded *const *loaded, size_t count)
{
    const struct invalidate *our = arg;
    for (size_t i = 0; i < count; i++) {
        (void)requests;
        near_loaded_value(loaded[i], our->value, our->value_size);
        near_loaded_tag(loaded[i], "many", 4);
    }
    return NEAR_OK;
}

static int fill_tagged(struct invalidate *our, uint64_t first, uint64_t count)
{
    near_item items[BATCH];
    char keys[BATCH][64];
    near_load load;
    near_load_init(&load);
    load.flags = NEAR_LOAD_TAGS;
    load.timeout_ms = CALL_MS;
    name_keys(items, keys, first, count);
    int status = near_mget_or_load(our->reader, items, count, load_tagged, our, &load);
    for (uint64_t i = 0; i < count; i++)
        near_release(&items[i].value);
    return status;
}

static int fill_namespace(struct invalidate *our, uint64_t first, uint64_t count)
{
    near_item items[BATCH];
    char keys[BATCH][64], name[32];
    memset(items, 0, sizeof(items));
    for (uint64_t i = 0; i < count; i++) {
        int size = snprintf(name, sizeof(name), "item:%llu", (unsigned long long)(first + i));
        int status = near_namespace_key(our->reader, "many", 4, name, (size_t)size, NULL, keys[i], sizeof(keys[i]),
                                        &items[i].key_size);
        if (status != NEAR_OK)
            return status;
        items[i].key = keys[i];
        items[i].data = our->value;
        items[i].size = our->value_size;
    }
    return near_mset(our->reader, items, count, NULL, NULL);
}

static int invalidate_tag(struct invalidate *our)
{
    return near_invalidate_tag(our->writer, "many", 4, NULL);
}
static int invalidate_namespace(struct invalidate *our)
{
    return near_namespace_invalidate(our->writer, "many", 4, NULL);
}

static const struct method methods[] = {
    {"tag", fill_tagged, invalidate_tag},
    {"namespace", fill_namespace, invalidate_namespace},
};
#define METHODS (sizeof(methods) / sizeof(*methods))

static int fill(struct invalidate *our, const struct method *method)
{
    int status = NEAR_OK;
    for (uint64_t at = 0; at < our->entries && status == NEAR_OK; at += BATCH) {
        uint64_t left = our->entries - at;
        status = method->fill(our, at, left < BATCH ? left : BATCH);
        if (at % 100000 == 0)
            bench_progress(our->common, "%s: %llu of %llu entries", method->name, (unsigned long long)at,
                           (unsigned long long)our->entries);
    }
    for (unsigned i = 0; i < OTHERS && status == NEAR_OK; i++)
        status = near_set(our->reader, &i, sizeof(i), &i, sizeof(i), NULL, NULL);
    /* a message's round trip: those of the fills have arrived, and are counted by nobody */
    return status == NEAR_OK ? near_check(our->reader, READY_MS, NULL) : status;
}

/* ---------------------------------------------------------------- reading */

static void note(struct invalidate *our, uint64_t ticks)
{
    uint64_t before = atomic_load_explicit(&our->longest, memory_order_relaxed); /* a figure; nothing hangs on it */
    while (ticks > before && !atomic_compare_exchange_weak_explicit(&our->longest, &before, ticks, memory_order_relaxed,
                                                                    memory_order_relaxed))
        ;
}

static void *read_others(void *arg)
{
    struct invalidate *our = arg;
    while (!atomic_load_explicit(&our->over, memory_order_relaxed)) {
        for (unsigned i = 0; i < OTHERS; i++) {
            near_value value;
            uint64_t began = bench_ticks();
            int status = near_get(our->reader, &i, sizeof(i), NULL, &value);
            uint64_t ticks = bench_ticks() - began;
            our->hits++;
            our->wrong += status != NEAR_OK || value.size != sizeof(i) || memcmp(value.data, &i, sizeof(i)) != 0 ||
                          value.source != NEAR_FROM_LOCAL;
            near_release(&value);
            note(our, ticks);
        }
    }
    return NULL;
}

/* ---------------------------------------------------------------- measuring */

struct outcome {
    double *quiet_us, *busy_us, *call_us; /* of each round */
    double first_us;
    uint64_t messages, entries_before, entries_after;
};

static near_stats stats_of(near_cache *cache)
{
    near_stats stats = {.size = sizeof(stats)};
    near_stats_get(cache, &stats);
    return stats;
}

static double window_end(struct invalidate *our)
{
    return (double)bench_ticks_ns(&our->scale, atomic_exchange_explicit(&our->longest, 0, memory_order_relaxed)) / 1e3;
}

static void wait_for_message(struct invalidate *our, uint64_t before)
{
    int64_t until_ns = bench_now() + (int64_t)READY_MS * 1000000;
    while (stats_of(our->reader).messages == before && bench_now() < until_ns)
        bench_sleep(0.0005);
}

static int play_round(struct invalidate *our, const struct method *method, uint64_t round, struct outcome *o)
{
    double window = (double)our->window_ms / 1e3;
    window_end(our);
    bench_sleep(window);
    o->quiet_us[round] = window_end(our);
    uint64_t messages = stats_of(our->reader).messages;
    int64_t began_ns = bench_now();
    int status = method->invalidate(our);
    o->call_us[round] = (double)(bench_now() - began_ns) / 1e3;
    wait_for_message(our, messages);
    bench_sleep(window);
    o->busy_us[round] = window_end(our);
    o->messages += stats_of(our->reader).messages - messages;
    if (round == 0)
        o->first_us = o->busy_us[0];
    return status;
}

static int measure(struct invalidate *our, const struct method *method, struct outcome *o)
{
    pthread_t thread;
    int status = NEAR_OK;
    our->hits = our->wrong = 0;
    atomic_store(&our->over, 0);
    o->entries_before = stats_of(our->reader).local_entries;
    if (pthread_create(&thread, NULL, read_others, our) != 0)
        return NEAR_ERR_SYSTEM;
    for (uint64_t round = 0; round < our->rounds && status == NEAR_OK; round++)
        status = play_round(our, method, round, o);
    atomic_store(&our->over, 1);
    pthread_join(thread, NULL);
    o->entries_after = stats_of(our->reader).local_entries;
    return status;
}

static void add_row(struct bench_report *report, struct invalidate *our, const struct method *method, struct outcome *o)
{
    struct bench_row *row = bench_report_row(report);
    bench_row_text(row, "method", "by", method->name);
    bench_row_count(row, "entries", "entries", our->entries);
    bench_row_count(row, "rounds", "rounds", our->rounds);
    bench_row_real(row, "messages_per_invalidation", "messages each", 1, 2, (double)o->messages / (double)our->rounds);
    bench_row_count(row, "entries_before", "kept before", o->entries_before);
    bench_row_count(row, "entries_after", "and after", o->entries_after);
    bench_row_real(row, "call_us", "call us", 1, 1, bench_median(o->call_us, our->rounds));
    bench_row_real(row, "quiet_longest_hit_us", "longest hit us: quiet", 1, 1, bench_median(o->quiet_us, our->rounds));
    bench_row_real(row, "longest_hit_us", "invalidating", 1, 1, bench_median(o->busy_us, our->rounds));
    bench_row_real(row, "first_longest_hit_us", "the first time", 1, 1, o->first_us);
    bench_row_count(row, "hits", NULL, our->hits);
    bench_row_count(row, "wrong", "wrong", our->wrong);
}

/* ---------------------------------------------------------------- the command */

/* An exit status; what is wrong is written. */
static int open_cache(const struct invalidate *our, uint64_t bytes, near_cache **ret)
{
    near_error error = {0};
    near_options options;
    near_options_init(&options);
    options.local_bytes = bytes;
    options.bound_ms = 60000; /* a stopped machine is no reason to ask the server */
    options.timeout_ms = CALL_MS;
    options.prefix = "bench-invalidate:";
    int status = near_open(our->uri, &options, ret, &error);
    if (status != NEAR_OK) {
        bench_say("%s: %s", status == NEAR_ERR_OPTION ? "--entries times --value-size" : "--uri", error.text);
        return status == NEAR_ERR_URI || status == NEAR_ERR_OPTION ? BENCH_USAGE : BENCH_FAILED;
    }
    if (near_wait_ready(*ret, REACH_MS, &error) != NEAR_OK) {
        bench_say("--uri: cannot reach the remote tier: %s", error.text);
        return BENCH_FAILED;
    }
    return BENCH_OK;
}

/* The two caches, then the method on them; an exit status. */
static int play(struct invalidate *our, const struct method *method, struct outcome *o)
{
    int opened = open_cache(our, (UINT64_C(64) << 20) + our->entries * (600 + our->value_size), &our->reader);
    if (opened == BENCH_OK)
        opened = open_cache(our, UINT64_C(16) << 20, &our->writer);
    if (opened != BENCH_OK)
        return opened;
    int status = fill(our, method);
    if (status == NEAR_OK)
        status = measure(our, method, o);
    if (status != NEAR_OK)
        bench_say("%s: %s", method->name, near_status_text(status));
    near_clear(our->writer, NEAR_CLEAR_KEYS, NULL, NULL);
    return status == NEAR_OK ? BENCH_OK : BENCH_FAILED;
}

static int run_method(struct invalidate *our, const struct method *method, struct bench_report *report)
{
    struct outcome o = {0};
    o.quiet_us = bench_alloc(our->rounds * sizeof(double));
    o.busy_us = bench_alloc(our->rounds * sizeof(double));
    o.call_us = bench_alloc(our->rounds * sizeof(double));
    our->reader = our->writer = NULL;
    int status = play(our, method, &o);
    if (status == BENCH_OK)
        add_row(report, our, method, &o);
    if (our->writer)
        near_close(our->writer);
    if (our->reader)
        near_close(our->reader);
    free(o.quiet_us);
    free(o.busy_us);
    free(o.call_us);
    return status == BENCH_OK && our->wrong != 0 ? BENCH_FAILED : status;
}

int bench_invalidate(struct bench_common *common)
{
    static struct invalidate our;
    our = (struct invalidate){.common = common,
                              .uri = "memory://bench-invalidate",
                              .entries = 1000000,
                              .rounds = 20,
                              .value_size = 100,
                              .window_ms = 50};
    const struct bench_option rows[] = {
        {"entries", "N", BENCH_COUNT, &our.entries, 1, 1e8, "values of one tag, and keys of one namespace"},
        {"rounds", "N", BENCH_COUNT, &our.rounds, 1, 10000, "invalidations"},
        {"value-size", "BYTES", BENCH_SIZE, &our.value_size, 1, 65536, ""},
        {"window-ms", "MS", BENCH_COUNT, &our.window_ms, 1, 10000, "in which the longest hit is looked for"},
        {"uri", "URI", BENCH_TEXT, &our.uri, 0, 0,
         "the remote tier; keys with the prefix bench-invalidate: are removed"},
        {NULL, NULL, BENCH_FLAG, NULL, 0, 0, NULL},
    };
    int status = bench_options_parse(common, rows,
                                     "Makes very many values old at once: messages, and the longest hit meanwhile.");
    if (status >= 0)
        return status;
    if (strncmp(our.uri, "local:", strlen("local:")) == 0)
        return bench_options_refuse("uri", "local:", "must name a remote tier, which both caches share");
    struct bench_report report;
    char redacted[1024];
    near_uri_redact(our.uri, redacted, sizeof(redacted)); /* results are shown around */
    our.value = bench_alloc(our.value_size);
    memset(our.value, 'v', our.value_size);
    bench_ticks_calibrate(&our.scale);
    bench_report_init(&report, common);
    bench_row_text(&report.setting, "uri", NULL, redacted);
    bench_row_count(&report.setting, "window_ms", NULL, our.window_ms);
    bench_row_count(&report.setting, "value_size", NULL, our.value_size);
    status = BENCH_OK;
    for (size_t i = 0; i < METHODS && status == BENCH_OK; i++)
        status = run_method(&our, &methods[i], &report);
    if (report.rows)
        status |= bench_report_write(&report);
    bench_report_fini(&report);
    free(our.value);
    return status;
}
