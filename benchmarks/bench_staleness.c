/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nearcache-bench staleness: how long after a write do other processes still have the old value?
 *
 * One process writes, the others hold the key in their local tiers and look at it again and again with near_peek, which never
 * touches the network; the first look that does not find the old value any more is the effect.  In the same round, and over the
 * same server, a bare PUBLISH goes to a thread in each of those processes that does nothing but wait for it: what is left between the two
 * is nearcache's own share (a look's distance included; it is measured, too).
 *
 *      writer      wait for all          write, take times      wait for all      PUBLISH, take times    wait for all
 *      reader      fetch, tell           look … gone: time      tell
 *      its thread                                               message: time, tell
 *
 * All processes are forked before any of them opens anything.  They share one page of numbers and one clock. */
#include <signal.h>
#include <stdatomic.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/histogram.h"
#include "base/random.h"
#include "bench_child.h"
#include "bench_options.h"
#include "bench_redis.h"
#include "bench_spread.h"
#include "bench_ticks.h"
#include "bench_wire.h"
#include "nearcache.h"

#define PROCESSES_MAX 32u
#define CHANNEL "nearcache-bench:bare"
#define KEY "nearcache-bench:staleness"
#define WITNESS "nearcache-bench:witness" /* never written: while it is served, the local tier is */
#define READY_MS 10000u
#define WAIT_NS (10 * NEAR_NS_PER_S)
#define LOOK_NS 2000 /* asked for between two looks; the kernel makes more of it */
#define PAUSE_NS 1000000u
#define PERCENTILES 101u

/* What one reader tells; written by it alone.  Rounds begin at 1. */
struct reader {
    _Alignas(128) _Atomic(uint64_t) ready, gone, heard; /* rounds: value fetched, old value gone, message heard */
    _Atomic(int64_t) gone_ns, heard_ns;
    _Atomic(int) valid; /* this round's gone_ns counts */
    _Atomic(uint64_t) looks;
    _Atomic(int64_t) looked_ns;
};

struct board {
    _Atomic(int) end, failed;
    struct reader reader[PROCESSES_MAX];
    /* the writer's results */
    uint64_t rounds, discarded, lost, before_return;
    struct near__histogram from_send, from_return, bare_from_send, bare_from_return, write;
    char error[256];
};

struct staleness {
    struct bench_common *common;
    const char *uri;
    uint64_t processes, value_size;
    struct bench_endpoint endpoint;
    struct bench_redis redis;
    struct board *board;
};

/* ---------------------------------------------------------------- small things */

static void fail(struct board *board, const char *text)
{
    if (!atomic_exchange_explicit(&board->failed, 1, memory_order_acq_rel))
        snprintf(board->error, sizeof(board->error), "%s", text);
}

static int is_over(struct board *board)
{
    /* acquire: pairs with fail's and the writer's; what was told before it is there */
    return atomic_load_explicit(&board->end, memory_order_acquire) || atomic_load_explicit(&board->failed, memory_order_acquire);
}

static void doze(long ns)
{
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

static near_cache *open_cache(const struct staleness *staleness)
{
    near_options options;
    near_error error = {0};
    near_cache *cache = NULL;
    near_options_init(&options);
    if (near_open(staleness->uri, &options, &cache, &error) != NEAR_OK ||
        near_wait_ready(cache, READY_MS, &error) != NEAR_OK) {
        fail(staleness->board, error.text);
        return NULL;
    }
    return cache;
}

/* ---------------------------------------------------------------- readers */

struct listener {
    const struct staleness *staleness;
    struct reader *reader;
};

/* A subscriber as bare as can be. */
static void *listen_to_channel(void *arg)
{
    struct listener *listener = arg;
    struct board *board = listener->staleness->board;
    char error[128];
    redisContext *context = bench_wire_connect(&listener->staleness->endpoint, error, sizeof(error));
    redisReply *reply = context ? redisCommand(context, "SUBSCRIBE " CHANNEL) : NULL;
    if (!reply)
        fail(board, "cannot subscribe");
    freeReplyObject(reply);
    while (reply && !is_over(board) && redisGetReply(context, (void **)&reply) == REDIS_OK) {
        int64_t now = bench_now();
        if (reply->type == REDIS_REPLY_ARRAY && reply->elements == 3 && reply->element[2]->type == REDIS_REPLY_STRING) {
            atomic_store_explicit(&listener->reader->heard_ns, now, memory_order_relaxed); /* published by the following */
            /* release: pairs with the writer's wait_for */
            atomic_store_explicit(&listener->reader->heard, strtoull(reply->element[2]->str, NULL, 10), memory_order_release);
        }
        freeReplyObject(reply);
    }
    if (context)
        redisFree(context);
    return NULL;
}

/* The version in the local tier, 0 when the key is not there. */
static uint64_t look(near_cache *cache, const char *key)
{
    near_value value;
    uint64_t version = 0;
    if (near_peek(cache, key, strlen(key), &value) == NEAR_OK) {
        memcpy(&version, value.data, value.size < sizeof(version) ? value.size : sizeof(version));
        near_release(&value);
    }
    return version;
}

/* Brings the version into the local tier; 0: the end came first. */
static int fetch(near_cache *cache, const char *key, uint64_t version, struct board *board)
{
    near_value value;
    while (!is_over(board)) {
        if (near_get(cache, key, strlen(key), NULL, &value) == NEAR_OK)
            near_release(&value);
        if (look(cache, key) == version)
            return 1;
        doze(50000);
    }
    return 0;
}

/* Looks until the old version is gone. */
static void wait_for_effect(near_cache *cache, struct reader *reader, uint64_t version, struct board *board)
{
    int64_t began = bench_now(), now = began;
    uint64_t looks = 0;
    while (!is_over(board)) {
        int old = look(cache, KEY) == version;
        now = bench_now(); /* after the look: never too early */
        if (!old)
            break;
        looks++;
        doze(LOOK_NS);
    }
    /* relaxed, all: published by the writer's round counter below */
    atomic_store_explicit(&reader->gone_ns, now, memory_order_relaxed);
    atomic_store_explicit(&reader->valid, look(cache, WITNESS) == 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&reader->looks, looks, memory_order_relaxed);
    atomic_fetch_add_explicit(&reader->looked_ns, now - began, memory_order_relaxed);
}

static void be_reader(const struct staleness *staleness, unsigned number)
{
    struct board *board = staleness->board;
    struct reader *reader = &board->reader[number];
    struct listener listener = {.staleness = staleness, .reader = reader};
    pthread_t thread;
    prctl(PR_SET_TIMERSLACK, 1UL); /* short sleeps are short */
    near_cache *cache = open_cache(staleness);
    if (!cache)
        return;
    if (pthread_create(&thread, NULL, listen_to_channel, &listener) != 0) {
        fail(board, "cannot make a thread");
        return;
    }
    for (uint64_t round = 1; fetch(cache, KEY, round, board) && fetch(cache, WITNESS, 1, board); round++) {
        /* release, both: pair with the writer's wait_for */
        atomic_store_explicit(&reader->ready, round, memory_order_release);
        wait_for_effect(cache, reader, round, board);
        atomic_store_explicit(&reader->gone, round, memory_order_release);
    }
    pthread_join(thread, NULL);
    (void)near_close(cache);
}

/* ---------------------------------------------------------------- the writer */

static int set_version(near_cache *cache, const char *key, uint64_t version, size_t size)
{
    char *value = bench_alloc(size);
    memcpy(value, &version, sizeof(version));
    int status = near_set(cache, key, strlen(key), value, size, NULL, NULL);
    free(value);
    return status;
}

enum what { READY, GONE, HEARD };

static uint64_t told(struct reader *reader, enum what what)
{
    _Atomic(uint64_t) *word = what == READY ? &reader->ready : what == GONE ? &reader->gone : &reader->heard;
    return atomic_load_explicit(word, memory_order_acquire); /* acquire: pairs with the release of each; their times are there */
}

/* Until every reader has told that round; 0: it takes too long. */
static int wait_for(const struct staleness *staleness, enum what what, uint64_t round)
{
    int64_t deadline = bench_now() + WAIT_NS;
    for (unsigned i = 0; i + 1 < staleness->processes; i++) {
        while (told(&staleness->board->reader[i], what) < round) {
            if (is_over(staleness->board) || bench_now() > deadline)
                return 0;
            doze(20000);
        }
    }
    return 1;
}

static void record(struct near__histogram *histogram, int64_t ns)
{
    near__histogram_record(histogram, ns > 0 ? (uint64_t)ns : 0);
}

static void collect_effects(const struct staleness *staleness, int64_t sent_ns, int64_t returned_ns)
{
    struct board *board = staleness->board;
    record(&board->write, returned_ns - sent_ns);
    for (unsigned i = 0; i + 1 < staleness->processes; i++) {
        struct reader *reader = &board->reader[i];
        int64_t gone_ns = atomic_load_explicit(&reader->gone_ns, memory_order_relaxed); /* relaxed: wait_for has acquired */
        if (!atomic_load_explicit(&reader->valid, memory_order_relaxed) || gone_ns < sent_ns) {
            board->discarded++; /* freshness was not proven, or the copy had been evicted */
            continue;
        }
        record(&board->from_send, gone_ns - sent_ns);
        record(&board->from_return, gone_ns - returned_ns);
        board->before_return += gone_ns < returned_ns;
    }
}

/* 0: no answer. */
static int publish(const struct staleness *staleness, redisContext *context, uint64_t round)
{
    struct board *board = staleness->board;
    int64_t sent_ns = bench_now();
    redisReply *reply = redisCommand(context, "PUBLISH " CHANNEL " %llu", (unsigned long long)round);
    int64_t returned_ns = bench_now();
    if (!reply)
        return 0;
    freeReplyObject(reply);
    if (!wait_for(staleness, HEARD, round)) {
        board->lost++;
        return 1;
    }
    for (unsigned i = 0; i + 1 < staleness->processes; i++) {
        int64_t heard_ns = atomic_load_explicit(&board->reader[i].heard_ns, memory_order_relaxed); /* relaxed: as above */
        record(&board->bare_from_send, heard_ns - sent_ns);
        record(&board->bare_from_return, heard_ns - returned_ns);
    }
    return 1;
}

static void clear_results(struct board *board)
{
    board->rounds = board->discarded = board->lost = board->before_return = 0;
    memset(&board->from_send, 0, sizeof(board->from_send));
    memset(&board->from_return, 0, sizeof(board->from_return));
    memset(&board->bare_from_send, 0, sizeof(board->bare_from_send));
    memset(&board->bare_from_return, 0, sizeof(board->bare_from_return));
    memset(&board->write, 0, sizeof(board->write));
}

static void write_rounds(const struct staleness *staleness, near_cache *cache, redisContext *context)
{
    const struct bench_common *common = staleness->common;
    struct board *board = staleness->board;
    uint64_t state = common->seed;
    int64_t warm_ns = INT64_MAX, end_ns = INT64_MAX;
    for (uint64_t round = 1; bench_now() < end_ns; round++) {
        if (!wait_for(staleness, READY, round)) {
            fail(board, "a reader does not get the value");
            return;
        }
        if (round == 1) {
            warm_ns = bench_now() + (int64_t)(common->warmup * 1e9);
            end_ns = warm_ns + (int64_t)(common->seconds * 1e9);
        }
        if (bench_now() > warm_ns) {
            clear_results(board);
            warm_ns = INT64_MAX;
        }
        doze((long)near__random_below(&state, PAUSE_NS)); /* not in step with the looks */
        int64_t sent_ns = bench_now();
        int status = set_version(cache, KEY, round + 1, staleness->value_size);
        int64_t returned_ns = bench_now();
        if (status != NEAR_OK) {
            fail(board, near_status_text(status));
            return;
        }
        if (!wait_for(staleness, GONE, round)) {
            fail(board, "a write has no effect in another process");
            return;
        }
        collect_effects(staleness, sent_ns, returned_ns);
        if (!publish(staleness, context, round)) {
            fail(board, "Redis does not answer");
            return;
        }
        board->rounds++;
    }
}

static void be_writer(const struct staleness *staleness)
{
    struct board *board = staleness->board;
    char error[256] = "";
    near_cache *cache = open_cache(staleness);
    redisContext *context = bench_wire_connect(&staleness->endpoint, error, sizeof(error));
    if (!cache || !context) {
        fail(board, error); /* open_cache has told its own */
        return;
    }
    if (set_version(cache, WITNESS, 1, staleness->value_size) != NEAR_OK ||
        set_version(cache, KEY, 1, staleness->value_size) != NEAR_OK)
        fail(board, "cannot write");
    else
        write_rounds(staleness, cache, context);
    atomic_store_explicit(&board->end, 1, memory_order_release); /* pairs with is_over */
    freeReplyObject(redisCommand(context, "PUBLISH " CHANNEL " 0")); /* wakes the listeners */
    redisFree(context);
    (void)near_del(cache, KEY, strlen(KEY), NULL);
    (void)near_del(cache, WITNESS, strlen(WITNESS), NULL);
    (void)near_close(cache);
}

/* ---------------------------------------------------------------- runs */

/* One run; 0, or -1 with a text written. */
static int run_fleet(const struct staleness *staleness)
{
    pid_t pid[PROCESSES_MAX];
    char error[128], first[128] = "";
    struct board *board = staleness->board;
    unsigned processes = (unsigned)staleness->processes;
    memset(board, 0, sizeof(*board));
    for (unsigned i = 0; i < processes; i++) {
        pid[i] = bench_child_fork();
        if (pid[i] == 0) {
            if (i + 1 < processes)
                be_reader(staleness, i);
            else
                be_writer(staleness);
            _exit(0);
        }
    }
    /* The writer, the last one, ends the others; when it died itself they must be told.  A listener may not see the end of a run
     * that failed: its subscription is silent. */
    for (unsigned i = processes; i-- > 0;) {
        if (pid[i] < 0) {
            fail(board, "cannot start a process");
            continue;
        }
        if (atomic_load_explicit(&board->failed, memory_order_acquire) && i + 1 < processes)
            kill(pid[i], SIGKILL);
        bench_child_wait(pid[i], error, sizeof(error));
        if (*error && !*first && !atomic_load_explicit(&board->failed, memory_order_acquire)) {
            memcpy(first, error, sizeof(first));
            fail(board, first);
        }
    }
    if (board->failed)
        bench_say("%s", board->error);
    return board->failed ? -1 : 0;
}

/* ---------------------------------------------------------------- results */

/* A kind of delay over all runs. */
struct delay {
    const char *name;
    size_t offset; /* in the board */
    struct near__histogram all;
    near_quantiles *times;
};

static struct delay delays[] = {
    {"nearcache: write's send to effect", offsetof(struct board, from_send), {0}, NULL},
    {"nearcache: write's return to effect", offsetof(struct board, from_return), {0}, NULL},
    {"bare: PUBLISH's send to message", offsetof(struct board, bare_from_send), {0}, NULL},
    {"bare: PUBLISH's return to message", offsetof(struct board, bare_from_return), {0}, NULL},
    {"nearcache: the write itself", offsetof(struct board, write), {0}, NULL},
};
#define DELAYS (sizeof(delays) / sizeof(*delays))

struct totals {
    uint64_t rounds, discarded, lost, before_return, looks;
    int64_t looked_ns;
};

static void gather(const struct staleness *staleness, unsigned run, struct totals *totals)
{
    const struct board *board = staleness->board;
    for (size_t d = 0; d < DELAYS; d++) {
        const struct near__histogram *histogram = (const void *)((const char *)board + delays[d].offset);
        near__histogram_merge(&delays[d].all, histogram);
        near__histogram_quantiles(histogram, &delays[d].times[run]);
    }
    totals->rounds += board->rounds;
    totals->discarded += board->discarded;
    totals->lost += board->lost;
    totals->before_return += board->before_return;
    for (unsigned i = 0; i < PROCESSES_MAX; i++) {
        totals->looks += board->reader[i].looks;
        totals->looked_ns += board->reader[i].looked_ns;
    }
}

static void add_row(struct bench_report *report, const struct staleness *staleness, const struct delay *delay)
{
    double percentile[PERCENTILES];
    struct bench_row *row = bench_report_row(report);
    bench_row_text(row, "delay", "delay", delay->name);
    bench_row_count(row, "processes", NULL, staleness->processes);
    bench_row_count(row, "samples", "samples", near__histogram_count(&delay->all));
    bench_row_times(row, delay->times, staleness->common->runs, 1e-3);
    for (unsigned p = 0; p < PERCENTILES; p++)
        percentile[p] = (double)near__histogram_at(&delay->all, p / 100.0);
    bench_row_list(row, "ns_percentiles", percentile, PERCENTILES);
}

static int report_all(const struct staleness *staleness, const struct totals *totals)
{
    struct bench_report report;
    bench_report_init(&report, staleness->common);
    struct bench_row *setting = &report.setting;
    bench_row_count(setting, "processes", NULL, staleness->processes);
    bench_row_count(setting, "value_size", NULL, staleness->value_size);
    bench_row_count(setting, "rounds", NULL, totals->rounds);
    bench_row_count(setting, "effects_before_return", NULL, totals->before_return);
    bench_row_count(setting, "discarded", NULL, totals->discarded);
    bench_row_count(setting, "messages_lost", NULL, totals->lost);
    bench_row_real(setting, "ns_between_looks", NULL, 1, 0,
                   totals->looks ? (double)totals->looked_ns / (double)totals->looks : 0);
    for (size_t d = 0; d < DELAYS; d++)
        add_row(&report, staleness, &delays[d]);
    int status = bench_report_write(&report);
    bench_report_fini(&report);
    return status;
}

/* ---------------------------------------------------------------- */

static int parse(struct staleness *staleness)
{
    const struct bench_option rows[] = {
        {"uri", "URI", BENCH_TEXT, &staleness->uri, 0, 0, "a Redis of your own [a private one]"},
        {"processes", "N", BENCH_COUNT, &staleness->processes, 2, PROCESSES_MAX, "one writes, the others look [3]"},
        {"value-size", "BYTES", BENCH_SIZE, &staleness->value_size, 8, 1 << 20, "[100]"},
        {NULL, NULL, BENCH_FLAG, NULL, 0, 0, NULL},
    };
    int status = bench_options_parse(staleness->common, rows, "Delay from a write to its effect in other processes.");
    if (status >= 0)
        return status;
    if (staleness->uri && !bench_endpoint_parse(staleness->uri, &staleness->endpoint)) {
        bench_say("--uri: must be redis://[user:password@]host[:port][/db] or unix:///path");
        return BENCH_USAGE;
    }
    return -1;
}

static int run_all(const struct staleness *staleness, struct totals *totals)
{
    for (unsigned run = 0; run < staleness->common->runs; run++) {
        if (run_fleet(staleness) != 0)
            return -1;
        gather(staleness, run, totals);
        bench_progress(staleness->common, "run %u of %u  %llu writes", run + 1, (unsigned)staleness->common->runs,
                       (unsigned long long)staleness->board->rounds);
    }
    return 0;
}

int bench_staleness(struct bench_common *common)
{
    struct staleness staleness = {.common = common, .processes = 3, .value_size = 100};
    struct totals totals = {0};
    char error[256];
    common->seconds = 2;
    int status = parse(&staleness);
    if (status >= 0)
        return status;
    int is_private = !staleness.uri;
    if (is_private && bench_redis_start(&staleness.redis, error, sizeof(error)) != 0) {
        bench_say("%s", error);
        return BENCH_FAILED;
    }
    if (is_private) {
        staleness.uri = staleness.redis.uri;
        (void)bench_endpoint_parse(staleness.uri, &staleness.endpoint);
    }
    staleness.board = mmap(NULL, sizeof(*staleness.board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (size_t d = 0; d < DELAYS; d++)
        delays[d].times = bench_alloc(common->runs * sizeof(*delays[d].times));
    status = BENCH_FAILED;
    if (staleness.board != MAP_FAILED && run_all(&staleness, &totals) == 0)
        status = report_all(&staleness, &totals);
    for (size_t d = 0; d < DELAYS; d++)
        free(delays[d].times);
    if (is_private)
        bench_redis_stop(&staleness.redis);
    return status;
}
