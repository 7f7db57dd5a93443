/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nearcache-bench staleness: how long after a write do other processes still have the old value?
 *
 * One process writes, the others hold the key in their local tiers.  In the same round, and over the same server, a
 * bare PUBLISH goes to a thread in each process that does nothing but wait for it: what is left between the two is
 * nearcache's own share.  Which of the two comes first changes from round to round.  Last in each round is a write with
 * a barrier, of a key that nobody else has: how long it takes until everybody has answered.
 *
 * Nothing may run that measures while it is measured: on few processors a process that looks again and again is what
 * the message waits for, and a scheduler's quantum (3 to 4 ms) is then all that is seen.  So every process sleeps, the
 * writer too.  The subscriber notes itself when it has applied a message (near_stats.message_applied_ns), as the bare
 * thread notes when it has heard one; afterwards, when all is quiet again, each process is woken once, looks whether
 * the old value is gone indeed, and tells the noted time.
 *
 *   writer      ask: fetch    pause   write, take times    sleep    ask: look     (or)    PUBLISH, take times   sleep
 *   reader      fetch, tell           (subscriber: note)            look, tell
 *   its thread                                                                            message: note
 *
 * All processes are forked before any of them opens anything.  They share one page of numbers and one clock; they wait
 * for each other in the kernel (futex). */
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
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
#define BARRED "nearcache-bench:barred"
#define WITNESS "nearcache-bench:witness" /* never written: while it is served, the local tier is */
#define READY_MS 10000u
#define WAIT_NS (10 * NEAR_NS_PER_S)
#define PAUSE_NS 1000000u /* at random before a write, so that it is in step with nothing */
#define SETTLE_NS 1500000 /* asked for between a write and the look: by then, as a rule, all is over */
#define PERCENTILES 101u

/* What one process tells; written by it alone. */
struct reader {
    _Alignas(128) _Atomic(uint32_t) answered; /* the last question */
    _Atomic(uint64_t) heard;                  /* number of the last bare message */
    _Atomic(int64_t) heard_ns;
    _Atomic(int64_t) gone_ns; /* the answer to LOOK; STILL_THERE, NOT_SERVED */
};
#define STILL_THERE 0   /* the old value is */
#define NOT_SERVED (-1) /* nothing is, so that its absence says nothing */

enum question { FETCH, LOOK };

struct board {
    _Atomic(int) end, failed;
    _Alignas(128) _Atomic(uint32_t) asked;   /* futex: number of the question */
    enum question question;                  /* published by asked */
    uint64_t version;                        /* as above */
    _Alignas(128) _Atomic(uint32_t) answers; /* futex: answers to all questions so far */
    struct reader reader[PROCESSES_MAX];
    /* the writer's results */
    uint64_t rounds, discarded, lost, before_return, incomplete;
    struct near__histogram from_send, from_return, last_from_return, write, barrier;
    struct near__histogram bare_from_send, bare_from_return, bare_last_from_return, publish;
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
    return atomic_load_explicit(&board->end, memory_order_acquire) ||
           atomic_load_explicit(&board->failed, memory_order_acquire);
}

static void doze(long ns)
{
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

static void futex(_Atomic(uint32_t) *word, int operation, uint32_t value, int64_t patience_ns)
{
    struct timespec patience = {patience_ns / NEAR_NS_PER_S, patience_ns % NEAR_NS_PER_S};
    syscall(SYS_futex, word, operation, value, operation == FUTEX_WAIT ? &patience : NULL, NULL, 0);
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
    pthread_t thread;
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
            /* published by the following */
            atomic_store_explicit(&listener->reader->heard_ns, now, memory_order_relaxed);
            /* release: pairs with all_have_heard */
            atomic_store_explicit(&listener->reader->heard, strtoull(reply->element[2]->str, NULL, 10),
                                  memory_order_release);
        }
        freeReplyObject(reply);
    }
    if (context)
        redisFree(context);
    return NULL;
}

/* 0: there is none. */
static int start_listener(struct listener *listener)
{
    if (pthread_create(&listener->thread, NULL, listen_to_channel, listener) == 0)
        return 1;
    fail(listener->staleness->board, "cannot make a thread");
    return 0;
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

/* When the last message was applied here, if the version is gone. */
static int64_t look_for_effect(near_cache *cache, uint64_t version)
{
    near_stats stats = {.size = sizeof(stats)};
    if (look(cache, WITNESS) != 1)
        return NOT_SERVED;
    if (look(cache, KEY) == version || near_stats_get(cache, &stats) != NEAR_OK)
        return STILL_THERE;
    return stats.message_applied_ns;
}

/* Answers questions until the end. */
static void answer_all(near_cache *cache, struct reader *reader, struct board *board)
{
    uint32_t seen = 0;
    while (!is_over(board)) {
        /* acquire: pairs with ask; the question is there */
        uint32_t asked = atomic_load_explicit(&board->asked, memory_order_acquire);
        if (asked == seen) {
            futex(&board->asked, FUTEX_WAIT, seen, NEAR_NS_PER_S);
            continue;
        }
        seen = asked;
        if (board->question == LOOK)
            /* relaxed: published below */
            atomic_store_explicit(&reader->gone_ns, look_for_effect(cache, board->version), memory_order_relaxed);
        else if (!fetch(cache, KEY, board->version, board) || !fetch(cache, WITNESS, 1, board))
            return;
        atomic_store_explicit(&reader->answered, seen, memory_order_release); /* pairs with ask */
        atomic_fetch_add_explicit(&board->answers, 1, memory_order_release);  /* as above */
        futex(&board->answers, FUTEX_WAKE, 1, 0);
    }
}

static void be_reader(const struct staleness *staleness, unsigned number)
{
    struct reader *reader = &staleness->board->reader[number];
    struct listener listener = {.staleness = staleness, .reader = reader};
    near_cache *cache = open_cache(staleness);
    if (!cache || !start_listener(&listener))
        return;
    answer_all(cache, reader, staleness->board);
    pthread_join(listener.thread, NULL);
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

/* Asks all readers and waits for their answers; 0: it takes too long, or is over. */
static int ask(const struct staleness *staleness, enum question question, uint64_t version)
{
    struct board *board = staleness->board;
    int64_t deadline = bench_now() + WAIT_NS;
    uint32_t number = atomic_load_explicit(&board->asked, memory_order_relaxed) + 1; /* relaxed: the writer's own */
    board->question = question;
    board->version = version;
    atomic_store_explicit(&board->asked, number, memory_order_release); /* pairs with answer_all */
    futex(&board->asked, FUTEX_WAKE, PROCESSES_MAX, 0);
    for (unsigned i = 0; i + 1 < staleness->processes;) {
        /* acquire, both: pair with answer_all; the count first, so that an answer after the look changes it */
        uint32_t answers = atomic_load_explicit(&board->answers, memory_order_acquire);
        if (atomic_load_explicit(&board->reader[i].answered, memory_order_acquire) == number) {
            i++;
            continue;
        }
        if (is_over(board) || bench_now() > deadline)
            return 0;
        futex(&board->answers, FUTEX_WAIT, answers, NEAR_NS_PER_S);
    }
    return 1;
}

/* Until the old version is gone everywhere; 0: as ask. */
static int wait_for_effect(const struct staleness *staleness, uint64_t version)
{
    int64_t deadline = bench_now() + WAIT_NS;
    for (;;) {
        int there = 0;
        doze(SETTLE_NS);
        if (bench_now() > deadline || !ask(staleness, LOOK, version))
            return 0;
        for (unsigned i = 0; i + 1 < staleness->processes; i++) /* relaxed: ask has acquired */
            there |= atomic_load_explicit(&staleness->board->reader[i].gone_ns, memory_order_relaxed) == STILL_THERE;
        if (!there)
            return 1;
    }
}

/* Until every listener has heard that message; the writer's as well. */
static int all_have_heard(const struct staleness *staleness, uint64_t round)
{
    int64_t deadline = bench_now() + WAIT_NS;
    doze(SETTLE_NS);
    for (unsigned i = 0; i < staleness->processes; i++)
        while (atomic_load_explicit(&staleness->board->reader[i].heard, memory_order_acquire) < round) {
            if (is_over(staleness->board) || bench_now() > deadline)
                return 0;
            doze(SETTLE_NS);
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
    int64_t last_ns = 0;
    record(&board->write, returned_ns - sent_ns);
    for (unsigned i = 0; i + 1 < staleness->processes; i++) {
        /* relaxed: ask has acquired */
        int64_t gone_ns = atomic_load_explicit(&board->reader[i].gone_ns, memory_order_relaxed);
        if (gone_ns < sent_ns) {
            board->discarded++; /* freshness was not proven, or the copy had been evicted */
            continue;
        }
        record(&board->from_send, gone_ns - sent_ns);
        record(&board->from_return, gone_ns - returned_ns);
        board->before_return += gone_ns < returned_ns;
        last_ns = gone_ns > last_ns ? gone_ns : last_ns;
    }
    if (last_ns)
        record(&board->last_from_return, last_ns - returned_ns);
}

static int write_once(const struct staleness *staleness, near_cache *cache, uint64_t round)
{
    struct board *board = staleness->board;
    int64_t sent_ns = bench_now();
    int status = set_version(cache, KEY, round + 1, staleness->value_size);
    int64_t returned_ns = bench_now();
    if (status != NEAR_OK) {
        fail(board, near_status_text(status));
        return 0;
    }
    if (!wait_for_effect(staleness, round)) {
        fail(board, "a write has no effect in another process");
        return 0;
    }
    collect_effects(staleness, sent_ns, returned_ns);
    return 1;
}

static void collect_messages(const struct staleness *staleness, int64_t sent_ns, int64_t returned_ns)
{
    struct board *board = staleness->board;
    int64_t last_ns = 0;
    record(&board->publish, returned_ns - sent_ns);
    for (unsigned i = 0; i + 1 < staleness->processes; i++) { /* relaxed: all_have_heard has acquired */
        int64_t heard_ns = atomic_load_explicit(&board->reader[i].heard_ns, memory_order_relaxed);
        record(&board->bare_from_send, heard_ns - sent_ns);
        record(&board->bare_from_return, heard_ns - returned_ns);
        last_ns = heard_ns > last_ns ? heard_ns : last_ns;
    }
    record(&board->bare_last_from_return, last_ns - returned_ns);
}

static int publish_once(const struct staleness *staleness, redisContext *context, uint64_t round)
{
    struct board *board = staleness->board;
    int64_t sent_ns = bench_now();
    redisReply *reply = redisCommand(context, "PUBLISH " CHANNEL " %llu", (unsigned long long)round);
    int64_t returned_ns = bench_now();
    if (!reply) {
        fail(board, "Redis does not answer");
        return 0;
    }
    freeReplyObject(reply);
    if (all_have_heard(staleness, round))
        collect_messages(staleness, sent_ns, returned_ns);
    else
        board->lost++;
    return 1;
}

/* Complete, as a rule; one that was not has waited for its deadline and is counted apart. */
static int barrier_once(const struct staleness *staleness, near_cache *cache, uint64_t round)
{
    struct board *board = staleness->board;
    near_call call;
    near_call_init(&call);
    call.flags = NEAR_WRITE_BARRIER;
    call.timeout_ms = READY_MS;
    doze((long)PAUSE_NS);
    int64_t sent_ns = bench_now();
    int status = near_set(cache, BARRED, strlen(BARRED), &round, sizeof(round), NULL, &call);
    int64_t returned_ns = bench_now();
    if (status == NEAR_OK)
        record(&board->barrier, returned_ns - sent_ns);
    else if (status == NEAR_UNAPPLIED)
        board->incomplete++;
    else
        fail(board, near_status_text(status));
    return status == NEAR_OK || status == NEAR_UNAPPLIED;
}

static void clear_results(struct board *board)
{
    struct near__histogram *all[] = {
        &board->barrier, &board->from_send,      &board->from_return,      &board->last_from_return,
        &board->write,   &board->bare_from_send, &board->bare_from_return, &board->bare_last_from_return,
        &board->publish};
    board->rounds = board->discarded = board->lost = board->before_return = board->incomplete = 0;
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        memset(all[i], 0, sizeof(*all[i]));
}

/* One write and one bare message, in an order that changes. */
static int do_round(const struct staleness *staleness, near_cache *cache, redisContext *context, uint64_t round,
                    uint64_t *random)
{
    int bare_first = (int)(round & 1);
    for (int half = 0; half < 2; half++) {
        doze((long)near__random_below(random, PAUSE_NS));
        if ((half == 0) == bare_first ? !publish_once(staleness, context, round) : !write_once(staleness, cache, round))
            return 0;
    }
    return barrier_once(staleness, cache, round);
}

static void write_rounds(const struct staleness *staleness, near_cache *cache, redisContext *context)
{
    const struct bench_common *common = staleness->common;
    struct board *board = staleness->board;
    uint64_t state = common->seed;
    int64_t warm_ns = INT64_MAX, end_ns = INT64_MAX;
    for (uint64_t round = 1; bench_now() < end_ns; round++) {
        if (!ask(staleness, FETCH, round)) {
            fail(board, "a reader does not get the value");
            return;
        }
        if (round == 1)
            warm_ns = bench_now() + (int64_t)(common->warmup * 1e9);
        /* however long the last round before it took: the first barrier of all takes a bound */
        if (end_ns == INT64_MAX && bench_now() >= warm_ns) {
            clear_results(board);
            end_ns = bench_now() + (int64_t)(common->seconds * 1e9);
        }
        if (!do_round(staleness, cache, context, round, &state))
            return;
        board->rounds++;
    }
}

static void be_writer(const struct staleness *staleness)
{
    struct board *board = staleness->board;
    struct listener listener = {.staleness = staleness, .reader = &board->reader[staleness->processes - 1]};
    char error[256] = "";
    near_cache *cache = open_cache(staleness);
    redisContext *context = bench_wire_connect(&staleness->endpoint, error, sizeof(error));
    /* the writer's subscriber hears its own messages, so there is a bare one, too */
    if (!cache || !context || !start_listener(&listener)) {
        fail(board, error); /* others have told their own */
        return;
    }
    if (set_version(cache, WITNESS, 1, staleness->value_size) != NEAR_OK ||
        set_version(cache, KEY, 1, staleness->value_size) != NEAR_OK)
        fail(board, "cannot write");
    else
        write_rounds(staleness, cache, context);
    atomic_store_explicit(&board->end, 1, memory_order_release); /* pairs with is_over */
    futex(&board->asked, FUTEX_WAKE, PROCESSES_MAX, 0);
    freeReplyObject(redisCommand(context, "PUBLISH " CHANNEL " 0")); /* wakes the listeners */
    pthread_join(listener.thread, NULL);
    redisFree(context);
    (void)near_del(cache, KEY, strlen(KEY), NULL);
    (void)near_del(cache, BARRED, strlen(BARRED), NULL);
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
    /* The writer, the last one, ends the others; when it died itself they must be told.  A listener may not see the end
     * of a run that failed: its subscription is silent. */
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
    {"nearcache: write's return to the last effect", offsetof(struct board, last_from_return), {0}, NULL},
    {"nearcache: the write itself", offsetof(struct board, write), {0}, NULL},
    {"nearcache: a write with a barrier", offsetof(struct board, barrier), {0}, NULL},
    {"bare: PUBLISH's send to message", offsetof(struct board, bare_from_send), {0}, NULL},
    {"bare: PUBLISH's return to message", offsetof(struct board, bare_from_return), {0}, NULL},
    {"bare: PUBLISH's return to the last message", offsetof(struct board, bare_last_from_return), {0}, NULL},
    {"bare: the PUBLISH itself", offsetof(struct board, publish), {0}, NULL},
};
#define DELAYS (sizeof(delays) / sizeof(*delays))

struct totals {
    uint64_t rounds, discarded, lost, before_return, incomplete;
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
    totals->incomplete += board->incomplete;
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
    bench_row_count(setting, "barriers_incomplete", NULL, totals->incomplete);
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
        {"processes", "N", BENCH_COUNT, &staleness->processes, 2, PROCESSES_MAX, "one writes, the others have copies"},
        {"value-size", "BYTES", BENCH_SIZE, &staleness->value_size, 8, 1 << 20, ""},
        {NULL, NULL, BENCH_FLAG, NULL, 0, 0, NULL},
    };
    int status = bench_options_parse(staleness->common, rows, "Delay from a write to its effect in other processes.");
    if (status >= 0)
        return status;
    return staleness->uri ? bench_endpoint_option(staleness->uri, &staleness->endpoint) : -1;
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
    struct staleness staleness = {.common = common, .processes = 4, .value_size = 100};
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
