/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nearcache-bench remote: what a call costs that goes to Redis, beside the same call through plain hiredis with a
 * connection a thread.  nearcache's threads share its few connections.
 *
 *      hiredis    get     GET, the bytes copied out
 *      nearcache  read    near_get_copy past the local tier, nothing kept (NEAR_BYPASS_LOCAL, NEAR_NO_FILL)
 *      nearcache  fill    near_get_copy past the local tier, kept: a miss as a server has it
 *      nearcache  hit     near_get_copy of what is in the local tier and proven fresh
 *      hiredis    set     SET
 *      nearcache  set     near_set: written, numbered and published in one step, and kept here
 *
 * Every run has a process of its own; calls that go to Redis are all timed, hits one in 64. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "bench_child.h"
#include "bench_engine.h"
#include "bench_options.h"
#include "bench_redis.h"
#include "bench_spread.h"
#include "bench_team.h"
#include "bench_wire.h"
#include "nearcache.h"

#define READY_MS 5000u
#define BLOCK 64u

struct remote {
    struct bench_common *common;
    const char *uri, *dist_text;
    struct bench_counts threads;
    uint64_t keys_count, key_size, value_size, connections;
    struct bench_dist dist;
    struct bench_endpoint endpoint;

    struct bench_keys keys;
    struct bench_tape tape[BENCH_THREADS_MAX];
    unsigned tapes;
    struct bench_redis redis;
    struct bench_scale scale;
};

struct outcome {
    double rate;
    uint64_t errors;
    near_quantiles ns;
    char error[256];
};

/* What a run's threads share. */
struct session {
    const struct remote *remote;
    const struct operation *operation;
    near_cache *cache;
    redisContext *context[BENCH_THREADS_MAX];
};

struct operation {
    const char *client, *name;
    const char *label; /* of lines in pictures */
    int hit;           /* keys are brought into the local tier before; quick, so few calls are timed */
    uint32_t flags;    /* of near_call */
    int (*call)(struct session *session, unsigned thread, const char *key, size_t key_size, void *value, size_t size,
                const near_call *call);
};

/* ---------------------------------------------------------------- calls: 1 when done */

static int wire_get(struct session *session, unsigned thread, const char *key, size_t key_size, void *value,
                    size_t size, const near_call *call)
{
    (void)call;
    return bench_wire_get(session->context[thread], key, key_size, value, size) >= 0;
}

static int wire_set(struct session *session, unsigned thread, const char *key, size_t key_size, void *value,
                    size_t size, const near_call *call)
{
    (void)call;
    return bench_wire_set(session->context[thread], key, key_size, value, size);
}

static int cache_get(struct session *session, unsigned thread, const char *key, size_t key_size, void *value,
                     size_t size, const near_call *call)
{
    size_t whole;
    (void)thread;
    return near_get_copy(session->cache, key, key_size, call, value, size, &whole) == NEAR_OK;
}

static int cache_set(struct session *session, unsigned thread, const char *key, size_t key_size, void *value,
                     size_t size, const near_call *call)
{
    (void)thread;
    return near_set(session->cache, key, key_size, value, size, NULL, call) == NEAR_OK;
}

static const struct operation operations[] = {
    {"hiredis", "get", "hiredis GET", 0, 0, wire_get},
    {"nearcache", "read", "near_get, not kept", 0, NEAR_BYPASS_LOCAL | NEAR_NO_FILL, cache_get},
    {"nearcache", "fill", "near_get, miss", 0, NEAR_BYPASS_LOCAL, cache_get},
    {"nearcache", "hit", "near_get, hit", 1, 0, cache_get},
    {"hiredis", "set", "hiredis SET", 0, 0, wire_set},
    {"nearcache", "set", "near_set", 0, 0, cache_set},
};
#define OPERATIONS (sizeof(operations) / sizeof(*operations))

static int is_wire(const struct operation *operation)
{
    return operation->client[0] == 'h';
}

/* ---------------------------------------------------------------- one run, in a child */

static void work(struct bench_seat *seat)
{
    struct session *session = seat->team->arg;
    const struct remote *remote = session->remote;
    const struct operation *operation = session->operation;
    const struct bench_tape *tape = &remote->tape[seat->number];
    size_t size = remote->value_size;
    unsigned every = operation->hit ? BLOCK : 1;
    void *value = bench_alloc(size);
    near_call call;
    near_call_init(&call);
    call.flags = operation->flags;
    uint64_t random = seat->number;
    for (uint32_t at = 0; bench_seat_goes_on(seat);) {
        unsigned timed = near__random_below(&random, every), good = 0; /* in step with nothing */
        for (unsigned i = 0; i < every; i++) {
            uint64_t from = i == timed ? bench_ticks() : 0;
            const char *key = bench_key_bytes(&remote->keys, tape->word[at++ & (tape->count - 1)]);
            int done = operation->call(session, seat->number, key, remote->keys.size, value, size, &call);
            if (i == timed && done)
                near__histogram_record(&seat->times, bench_ticks_ns(&remote->scale, bench_ticks() - from));
            good += (unsigned)done;
        }
        seat->ops += good;
        seat->errors += every - good;
    }
    free(value);
}

static int warm(struct session *session, struct outcome *ret)
{
    const struct remote *remote = session->remote;
    void *value = bench_alloc(remote->value_size);
    size_t size;
    int status = NEAR_OK;
    for (uint32_t i = 0; status == NEAR_OK && i < remote->keys.count; i++)
        status = near_get_copy(session->cache, bench_key_bytes(&remote->keys, i), remote->keys.size, NULL, value,
                               remote->value_size, &size);
    free(value);
    if (status != NEAR_OK)
        snprintf(ret->error, sizeof(ret->error), "warming up: %s", near_status_text(status));
    return status == NEAR_OK;
}

static int open_session(struct session *session, unsigned threads, struct outcome *ret)
{
    const struct remote *remote = session->remote;
    near_options options;
    near_error error = {0};
    if (is_wire(session->operation)) {
        for (unsigned i = 0; i < threads; i++) {
            if (!(session->context[i] = bench_wire_connect(&remote->endpoint, ret->error, sizeof(ret->error))))
                return 0;
        }
        return 1;
    }
    near_options_init(&options);
    options.local_bytes = (UINT64_C(64) << 20) + 4 * remote->keys_count * (remote->key_size + remote->value_size + 128);
    if (remote->connections)
        options.connections = (uint32_t)remote->connections;
    if (near_open(remote->uri, &options, &session->cache, &error) != NEAR_OK ||
        near_wait_ready(session->cache, READY_MS, &error) != NEAR_OK) {
        snprintf(ret->error, sizeof(ret->error), "%s", error.text);
        return 0;
    }
    return !session->operation->hit || warm(session, ret);
}

static void close_session(struct session *session)
{
    if (session->cache)
        (void)near_close(session->cache);
    for (unsigned i = 0; i < BENCH_THREADS_MAX; i++) {
        if (session->context[i])
            redisFree(session->context[i]);
    }
}

struct plan {
    const struct remote *remote;
    const struct operation *operation;
    unsigned threads;
};

static void body(const void *arg, void *result)
{
    const struct plan *plan = arg;
    const struct bench_common *common = plan->remote->common;
    struct outcome *ret = result;
    struct session session = {.remote = plan->remote, .operation = plan->operation};
    struct bench_team team = {.threads = plan->threads, .scale = plan->remote->scale, .arg = &session};
    struct bench_seat *sum = bench_alloc(sizeof(*sum)), *seats;
    if (open_session(&session, plan->threads, ret)) {
        seats = bench_team_run(&team, common->warmup, common->seconds, work);
        if (seats)
            ret->rate = bench_team_sum(seats, plan->threads, sum);
        ret->errors = sum->errors;
        near__histogram_quantiles(&sum->times, &ret->ns);
        free(seats);
    }
    close_session(&session);
    free(sum);
}

/* ---------------------------------------------------------------- all runs */

static int run_one(const struct plan *plan, unsigned run, struct outcome *outcome)
{
    const struct bench_common *common = plan->remote->common;
    char error[128];
    bench_child_run(body, plan, outcome, sizeof(*outcome), error, sizeof(error));
    if (*error)
        snprintf(outcome->error, sizeof(outcome->error), "%s", error);
    bench_progress(common, "run %u of %u  %-20s %u threads  %10.0f a second", run + 1, (unsigned)common->runs,
                   plan->operation->label, plan->threads, outcome->rate);
    if (*outcome->error)
        bench_say("%s, %u threads: %s", plan->operation->label, plan->threads, outcome->error);
    else if (outcome->errors)
        bench_say("%s, %u threads: %llu failed calls", plan->operation->label, plan->threads,
                  (unsigned long long)outcome->errors);
    return *outcome->error || outcome->errors ? BENCH_FAILED : BENCH_OK;
}

static int run_all(const struct remote *remote, struct outcome *outcomes)
{
    unsigned runs = (unsigned)remote->common->runs, cells = (unsigned)OPERATIONS * remote->threads.count;
    int status = BENCH_OK;
    for (unsigned run = 0; run < runs; run++) {
        for (unsigned cell = 0; cell < cells; cell++) {
            struct plan plan = {.remote = remote,
                                .operation = &operations[cell % OPERATIONS],
                                .threads = (unsigned)remote->threads.number[cell / OPERATIONS]};
            status |= run_one(&plan, run, &outcomes[cell * runs + run]);
        }
    }
    return status;
}

static void add_row(struct bench_report *report, const struct remote *remote, const struct outcome *outcomes,
                    unsigned cell)
{
    unsigned runs = (unsigned)remote->common->runs;
    const struct operation *operation = &operations[cell % OPERATIONS];
    double *rates = bench_alloc(runs * sizeof(*rates)), errors = 0;
    near_quantiles *times = bench_alloc(runs * sizeof(*times));
    for (unsigned r = 0; r < runs; r++) {
        rates[r] = outcomes[cell * runs + r].rate;
        times[r] = outcomes[cell * runs + r].ns;
        errors += (double)outcomes[cell * runs + r].errors;
    }
    struct bench_row *row = bench_report_row(report);
    bench_row_text(row, "name", "call", operation->label);
    bench_row_text(row, "client", NULL, operation->client);
    bench_row_text(row, "operation", NULL, operation->name);
    bench_row_count(row, "threads", "threads", remote->threads.number[cell / OPERATIONS]);
    bench_row_rates(row, rates, runs, "ops/s", 1, 0);
    bench_row_times(row, times, runs, 1e-3);
    bench_row_real(row, "errors", NULL, 1, 0, errors);
    free(rates);
    free(times);
}

static int report_all(const struct remote *remote, const struct outcome *outcomes)
{
    struct bench_report report;
    bench_report_init(&report, remote->common);
    bench_row_count(&report.setting, "keys", NULL, remote->keys_count);
    bench_row_count(&report.setting, "key_size", NULL, remote->key_size);
    bench_row_count(&report.setting, "value_size", NULL, remote->value_size);
    bench_row_count(&report.setting, "connections", NULL, remote->connections);
    bench_row_text(&report.setting, "dist", NULL, remote->dist_text);
    for (unsigned cell = 0; cell < OPERATIONS * remote->threads.count; cell++)
        add_row(&report, remote, outcomes, cell);
    int status = bench_report_write(&report);
    bench_report_fini(&report);
    return status;
}

/* ---------------------------------------------------------------- */

static int parse(struct remote *remote)
{
    const struct bench_option rows[] = {
        {"uri", "URI", BENCH_TEXT, &remote->uri, 0, 0,
         "a Redis of your own (its keys k…k00000000 are overwritten) [a private one]"},
        {"threads", "N[,N…]", BENCH_COUNTS, &remote->threads, 1, BENCH_THREADS_MAX, "threads, pinned to processors"},
        {"keys", "N", BENCH_COUNT, &remote->keys_count, 1, 1u << 24, "different keys"},
        {"key-size", "BYTES", BENCH_SIZE, &remote->key_size, BENCH_KEY_SIZE_MIN, 65535, ""},
        {"value-size", "BYTES", BENCH_SIZE, &remote->value_size, 1, 1 << 20, ""},
        {"connections", "N", BENCH_COUNT, &remote->connections, 1, 64,
         "shared by nearcache's threads [the library's default]"},
        {"dist", "DIST", BENCH_TEXT, &remote->dist_text, 0, 0, "uniform, zipf:THETA, hotspot:SET,OPS"},
        {NULL, NULL, BENCH_FLAG, NULL, 0, 0, NULL},
    };
    int status = bench_options_parse(remote->common, rows, "Calls that go to Redis, beside plain hiredis.");
    if (status >= 0)
        return status;
    if (!bench_dist_parse(remote->dist_text, &remote->dist))
        return bench_options_refuse("dist", remote->dist_text,
                                    "uniform, zipf:THETA (0 to 10) or hotspot:SET,OPS (0 to 1)");
    return remote->uri ? bench_endpoint_option(remote->uri, &remote->endpoint) : -1;
}

static void prepare(struct remote *remote)
{
    struct bench_draw draw;
    bench_draw_init(&draw, &remote->dist, (uint32_t)remote->keys_count, remote->common->seed);
    bench_keys_init(&remote->keys, (uint32_t)remote->keys_count, (uint32_t)remote->key_size);
    for (unsigned i = 0; i < remote->threads.count; i++) {
        if (remote->threads.number[i] > remote->tapes)
            remote->tapes = (unsigned)remote->threads.number[i];
    }
    for (unsigned i = 0; i < remote->tapes; i++)
        bench_tape_init(&remote->tape[i], bench_tape_words(remote->keys_count), &draw, 0, remote->common->seed + 1 + i);
    bench_draw_fini(&draw);
    bench_ticks_calibrate(&remote->scale);
}

/* A server with the keys in it.  0, or -1 with a text in error. */
static int prepare_server(struct remote *remote, int is_private, char *error, size_t capacity)
{
    if (is_private) {
        if (bench_redis_start(&remote->redis, error, capacity) != 0)
            return -1;
        remote->uri = remote->redis.uri;
        (void)bench_endpoint_parse(remote->uri, &remote->endpoint);
    }
    redisContext *context = bench_wire_connect(&remote->endpoint, error, capacity);
    int status =
        context ? bench_wire_load(context, &remote->keys, remote->keys.count, remote->value_size, error, capacity) : -1;
    if (context)
        redisFree(context);
    if (status != 0 && is_private)
        bench_redis_stop(&remote->redis);
    return status;
}

int bench_remote(struct bench_common *common)
{
    static struct remote remote;
    char error[256] = "";
    remote = (struct remote){.common = common,
                             .dist_text = "uniform",
                             .threads = {.count = 2, .number = {1, 2}},
                             .keys_count = 10000,
                             .key_size = 16,
                             .value_size = 100};
    int status = parse(&remote);
    if (status >= 0)
        return status;
    int is_private = !remote.uri;
    prepare(&remote);
    status = BENCH_FAILED;
    if (prepare_server(&remote, is_private, error, sizeof(error)) == 0) {
        struct outcome *outcomes = bench_alloc(OPERATIONS * remote.threads.count * common->runs * sizeof(*outcomes));
        status = run_all(&remote, outcomes);
        status |= report_all(&remote, outcomes);
        free(outcomes);
        if (is_private)
            bench_redis_stop(&remote.redis);
    } else {
        bench_say("%s", error);
    }
    for (unsigned i = 0; i < remote.tapes; i++)
        bench_tape_fini(&remote.tape[i]);
    bench_keys_fini(&remote.keys);
    return status;
}
