/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nearcache-bench replay: a recorded trace through the local tier, a key that is missed being set, beside exact LRU of
 * the same size.
 *
 *      --entries N   the limit counts entries; sizes of the trace are left aside and values are small
 *      --bytes SIZE  the limit counts bytes: of the local tier everything (local_bytes), of exact LRU keys and values
 *      alone
 *
 * A value above an eighth of the bytes is kept by neither, so that what they differ by is what they evict; such
 * requests are counted.
 *
 * Policies are the choices of the option of that name; under the volatile ones every key has a time to live, since
 * nothing else would ever make room.
 *
 * Every run has a tier of its own, in a process of its own, and what is compared runs in turn.
 *
 * Several threads take the requests in the trace's order, a few at a time, from a place that they share: whoever falls
 * behind has a few old ones left and no more, so all of them are where one thread would be.  Exact LRU always runs in
 * one. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_child.h"
#include "bench_lru.h"
#include "bench_options.h"
#include "bench_report.h"
#include "bench_spread.h"
#include "bench_team.h"
#include "bench_trace.h"
#include "nearcache.h"

#define SMALL_VALUE 8u
#define CLAIM 16u    /* requests taken at once: many enough that the shared place is no bottleneck */
#define KEPT_PART 8u /* of the bytes is the largest value that is kept: the default of the option local_value_max */
#define TTL_MS INT64_C(86400000)

struct policy;
struct cell;

struct replay {
    struct bench_common *common;
    const char *path, *format_text, *policy_text;
    struct policy *policies; /* as named by policy_text; run NULL: their end */
    enum bench_format format;
    struct bench_counts entries, bytes, threads;
    struct bench_trace trace;
    uint64_t bytes_requested; /* sizes of all requests together */
    int curve;
    char *value;       /* as large as the largest that is set; its content does not matter */
    struct cell *cell; /* one a row of the result */
    unsigned cells;
};

/* One policy at one size, with so many threads. */
struct cell {
    uint64_t entries, bytes; /* limit; the other is 0 */
    uint64_t value_max;      /* of those that are kept */
    unsigned threads;
    const struct policy *policy;
    struct score *score; /* one a run */
};

/* One run of it. */
struct play {
    const struct replay *replay;
    const struct cell *cell;
    const near_write *write;
    near_cache *cache;
    _Atomic(uint64_t) hit_bytes;
    /* request that nobody has taken; threads that only read the rest do not share its line */
    _Alignas(128) _Atomic(size_t) next;
};

/* What a run comes to; goes through a pipe. */
struct score {
    double hits, errors, hit_bytes;
    double evictions, entries; /* ended for space; there at the end */
    double not_kept;           /* requests whose value was too large, or found no room */
    double advised;            /* by near_advise for the size played; below 0: not asked */
    double rate;               /* requests a second */
    int failed;                /* which has been said */
};

struct policy {
    char name[32];
    int (*run)(struct play *play, struct score *ret);
};

static size_t value_size(const struct cell *cell, const struct bench_request *request)
{
    return cell->entries ? SMALL_VALUE : request->size;
}

static int is_too_large(const struct cell *cell, const struct bench_request *request)
{
    return value_size(cell, request) > cell->value_max;
}

/* With a limit of so many bytes; 0: sizes are left aside. */
static uint64_t value_max(uint64_t bytes)
{
    near_options options;
    near_options_init(&options);
    if (!bytes)
        return SMALL_VALUE;
    return bytes / KEPT_PART < options.value_max ? bytes / KEPT_PART : options.value_max;
}

/* ---------------------------------------------------------------- nearcache */

/* What finds no room is a miss and no failure.  near_set has waited for room by itself then. */
static int fill(const struct play *play, const char *key, size_t key_size, const struct bench_request *request,
                struct bench_seat *seat)
{
    int status = NEAR_ERR_FULL;
    if (!is_too_large(play->cell, request))
        status = near_set(play->cache, key, key_size, play->replay->value, value_size(play->cell, request), play->write,
                          NULL);
    if (status != NEAR_ERR_FULL)
        return status;
    seat->refused++;
    return NEAR_OK;
}

static void replay_request(struct play *play, const struct bench_request *request, struct bench_seat *seat,
                           uint64_t *hit_bytes)
{
    const struct bench_trace *trace = &play->replay->trace;
    const char *key = trace->bytes + trace->begin[request->key];
    size_t key_size = trace->begin[request->key + 1] - trace->begin[request->key];
    near_value value;
    int status = near_get(play->cache, key, key_size, NULL, &value);
    if (status == NEAR_OK) {
        near_release(&value);
        seat->hits++;
        *hit_bytes += request->size;
        return;
    }
    if (status == NEAR_MISS)
        status = fill(play, key, key_size, request, seat);
    seat->errors += status != NEAR_OK;
}

static void replay_share(struct bench_seat *seat)
{
    struct play *play = seat->team->arg;
    const struct bench_trace *trace = &play->replay->trace;
    uint64_t hit_bytes = 0;
    size_t at;
    /* relaxed: only who takes what; the trace was there before the threads */
    while ((at = atomic_fetch_add_explicit(&play->next, CLAIM, memory_order_relaxed)) < trace->requests) {
        size_t end = trace->requests - at < CLAIM ? trace->requests : at + CLAIM;
        seat->ops += end - at;
        for (; at < end; at++)
            replay_request(play, &trace->request[at], seat, &hit_bytes);
    }
    atomic_fetch_add_explicit(&play->hit_bytes, hit_bytes, memory_order_relaxed); /* relaxed: read after the join */
}

static int open_tier(struct play *play)
{
    near_options options;
    near_error error = {0};
    const struct bench_trace *trace = &play->replay->trace;
    const struct cell *cell = play->cell;
    near_options_init(&options);
    options.local_entries = cell->entries;
    options.local_value_max = cell->value_max;
    options.curve = (uint32_t)play->replay->curve;
    options.local_bytes = cell->bytes
                              ? cell->bytes
                              : (UINT64_C(64) << 20) + 256 * (uint64_t)trace->distinct + trace->begin[trace->distinct];
    if (near_option_set(&options, "policy", cell->policy->name, &error) == NEAR_OK &&
        near_open("local:", &options, &play->cache, &error) == NEAR_OK)
        return 1;
    bench_say("%s", error.text);
    return 0;
}

static void look_at_tier(const struct play *play, struct score *ret)
{
    near_stats stats = {.size = sizeof(stats)};
    (void)near_stats_get(play->cache, &stats);
    ret->evictions = (double)stats.evictions;
    ret->entries = (double)stats.local_entries;
    if (near_advise(play->cache, play->cell->bytes, play->cell->entries, &ret->advised) != NEAR_OK)
        ret->advised = -1;
}

static double rate_since(const struct play *play, int64_t began_ns)
{
    return (double)play->replay->trace.requests * 1e9 / (double)(bench_now() - began_ns);
}

static int run_nearcache(struct play *play, struct score *ret)
{
    unsigned threads = play->cell->threads;
    struct bench_team team = {.threads = threads, .arg = play};
    near_write write;
    near_write_init(&write);
    write.ttl_ms = strncmp(play->cell->policy->name, "volatile", strlen("volatile")) == 0 ? TTL_MS : 0;
    play->write = &write;
    if (!open_tier(play))
        return -1;
    struct bench_seat *sum = bench_alloc(sizeof(*sum));
    int64_t began_ns = bench_now();
    struct bench_seat *seats = bench_team_run(&team, 0, 0, replay_share);
    ret->rate = rate_since(play, began_ns);
    if (seats)
        (void)bench_team_sum(seats, threads, sum);
    look_at_tier(play, ret);
    ret->hits = (double)sum->hits;
    ret->errors = (double)sum->errors;
    ret->hit_bytes = (double)play->hit_bytes;
    ret->not_kept = (double)sum->refused;
    int failed = !seats;
    free(seats);
    free(sum);
    (void)near_close(play->cache);
    return failed ? -1 : 0;
}

/* ---------------------------------------------------------------- exact LRU */

static int run_exact(struct play *play, struct score *ret)
{
    const struct bench_trace *trace = &play->replay->trace;
    const struct cell *cell = play->cell;
    struct bench_lru lru;
    uint64_t sets = 0;
    bench_lru_init(&lru, trace->distinct, cell->entries, cell->bytes);
    int64_t began_ns = bench_now();
    for (size_t i = 0; i < trace->requests; i++) {
        const struct bench_request *request = &trace->request[i];
        if (bench_lru_get(&lru, request->key)) {
            ret->hits++;
            ret->hit_bytes += request->size;
        } else if (is_too_large(cell, request)) {
            ret->not_kept++;
        } else {
            bench_lru_put(&lru, request->key,
                          trace->begin[request->key + 1] - trace->begin[request->key] + value_size(cell, request));
            sets++;
        }
    }
    ret->rate = rate_since(play, began_ns);
    ret->evictions = (double)(sets - lru.entries);
    ret->entries = (double)lru.entries;
    ret->advised = -1;
    bench_lru_fini(&lru);
    return 0;
}

/* ---------------------------------------------------------------- options */

/* 1 when name is one of the choices, which are separated by '|'. */
static int is_choice(const char *choices, const char *name, size_t size)
{
    while (*choices) {
        size_t length = strcspn(choices, "|");
        if (length == size && memcmp(choices, name, size) == 0)
            return 1;
        choices += length + (choices[length] == '|');
    }
    return 0;
}

static const char *policy_choices(void)
{
    const near_option_info *info;
    for (size_t i = 0; (info = near_option_info_at(i)) != NULL; i++) {
        if (strcmp(info->name, "policy") == 0)
            return info->choices;
    }
    return "";
}

/* The policy at *text, which moves behind it; run NULL: there is no such policy. */
static struct policy next_policy(const char **text)
{
    static const char exact[] = "exact-lru";
    struct policy policy = {.run = NULL};
    size_t size = strcspn(*text, ",");
    if (size < sizeof(policy.name)) {
        memcpy(policy.name, *text, size);
        if (strcmp(policy.name, exact) == 0)
            policy.run = run_exact;
        else if (is_choice(policy_choices(), *text, size))
            policy.run = run_nearcache;
    }
    *text += size;
    *text += **text == ',';
    return policy;
}

static int parse_policies(struct replay *replay)
{
    const char *text = replay->policy_text;
    size_t room = 2;
    for (const char *comma = text; (comma = strchr(comma, ',')) != NULL; comma++)
        room++;
    struct policy *policy = replay->policies = bench_alloc(room * sizeof(*policy));
    for (; *text; policy++) {
        *policy = next_policy(&text);
        if (!policy->run)
            return bench_options_refuse("policy", replay->policy_text,
                                        "must name policies of the local tier, or exact-lru");
    }
    policy->run = NULL;
    return -1;
}

static int parse_format(struct replay *replay)
{
    static const char *const formats[] = {
        [BENCH_FORMAT_AUTO] = "auto", [BENCH_FORMAT_TEXT] = "text", [BENCH_FORMAT_ORACLE] = "oracleGeneral"};
    for (unsigned i = 0; i < sizeof(formats) / sizeof(*formats); i++) {
        if (strcmp(formats[i], replay->format_text) == 0) {
            replay->format = (enum bench_format)i;
            return 1;
        }
    }
    return 0;
}

static int parse(struct replay *replay)
{
    const struct bench_option rows[] = {
        {"trace", "FILE", BENCH_TEXT, &replay->path, 0, 0, "the trace; may be packed by gzip, xz or zstd"},
        {"format", "FORMAT", BENCH_TEXT, &replay->format_text, 0, 0, "text (key [size] a line), oracleGeneral or auto"},
        {"entries", "N[,N…]", BENCH_COUNTS, &replay->entries, 1, 1u << 30, "sizes of the cache in entries"},
        {"bytes", "SIZE[,SIZE…]", BENCH_COUNTS, &replay->bytes, 1 << 20, 1e12,
         "or in bytes (k, m, g may follow); no value above an eighth is kept"},
        {"policy", "NAME[,NAME…]", BENCH_TEXT, &replay->policy_text, 0, 0,
         "lru, s3fifo and the option's other choices, exact-lru for reference"},
        {"curve", NULL, BENCH_FLAG, &replay->curve, 0, 0,
         "also what near_advise says for each size (advised_hit_ratio)"},
        {"threads", "N[,N…]", BENCH_COUNTS, &replay->threads, 1, BENCH_THREADS_MAX,
         "threads that take the requests in the trace's order"},
        {NULL, NULL, BENCH_FLAG, NULL, 0, 0, NULL},
    };
    int status = bench_options_parse(replay->common, rows,
                                     "Hit ratio on an access trace, which every run plays once from an empty cache.");
    if (status >= 0)
        return status;
    if (!replay->path || !!replay->entries.count == !!replay->bytes.count) {
        bench_say("replay needs --trace FILE and either --entries N or --bytes N");
        return BENCH_USAGE;
    }
    if (!parse_format(replay))
        return bench_options_refuse("format", replay->format_text, "must be text, oracleGeneral or auto");
    return parse_policies(replay);
}

/* ---------------------------------------------------------------- runs */

static void body(const void *arg, void *result)
{
    struct play play = *(const struct play *)arg;
    struct score *score = result;
    score->failed = play.cell->policy->run(&play, score) != 0;
}

/* The run's score; an exit status. */
static int run_cell(struct replay *replay, const struct cell *cell, unsigned run)
{
    const struct play play = {.replay = replay, .cell = cell};
    const char *policy = cell->policy->name;
    struct score *score = &cell->score[run];
    char error[128];
    bench_child_run(body, &play, score, sizeof(*score), error, sizeof(error));
    if (*error)
        bench_say("%s: %s", policy, error);
    if (score->errors > 0)
        bench_say("%s: %.0f failed calls", policy, score->errors);
    bench_progress(replay->common, "run %u of %u  %s: %.0f hits", run + 1, (unsigned)replay->common->runs, policy,
                   score->hits);
    return *error || score->failed || score->errors > 0 ? BENCH_FAILED : BENCH_OK;
}

static int run_all(struct replay *replay)
{
    int status = BENCH_OK;
    for (unsigned run = 0; run < replay->common->runs; run++) {
        for (unsigned cell = 0; cell < replay->cells && status == BENCH_OK; cell++)
            status = run_cell(replay, &replay->cell[cell], run);
    }
    return status;
}

/* ---------------------------------------------------------------- results */

/* One column of the scores, factor times. */
static double *column_of(const struct score *score, size_t runs, size_t offset, double factor)
{
    double *numbers = bench_alloc(runs * sizeof(*numbers));
    for (size_t run = 0; run < runs; run++) {
        memcpy(&numbers[run], (const char *)&score[run] + offset, sizeof(*numbers));
        numbers[run] *= factor;
    }
    return numbers;
}

static double median_of(const struct score *score, size_t runs, size_t offset)
{
    double *numbers = column_of(score, runs, offset, 1);
    double median = bench_median(numbers, runs);
    free(numbers);
    return median;
}
#define MEDIAN(score, runs, field) median_of(score, runs, offsetof(struct score, field))

/* The spread is in points, not in per cent of the ratio. */
static void add_hits(struct bench_row *row, const struct score *score, size_t runs, double requests)
{
    double *ratios = column_of(score, runs, offsetof(struct score, hits), 1 / requests);
    bench_row_list(row, "hit_ratio_runs", ratios, runs);
    bench_row_real(row, "hit_ratio", "hits %", 100, 2, bench_median(ratios, runs));
    bench_row_real(row, "hit_ratio_min", NULL, 1, 0, ratios[0]);
    bench_row_real(row, "hit_ratio_max", NULL, 1, 0, ratios[runs - 1]);
    bench_row_real(row, "hit_ratio_spread", "spread", 100, 2, ratios[runs - 1] - ratios[0]);
    free(ratios);
}

static void add_speed(struct bench_row *row, const struct score *score, size_t runs)
{
    double *rates = column_of(score, runs, offsetof(struct score, rate), 1);
    bench_row_rates(row, rates, runs, "Mreq/s", 1e-6, 2);
    free(rates);
}

static void add_row(struct bench_report *report, const struct replay *replay, const struct cell *cell)
{
    const struct score *score = cell->score;
    size_t runs = replay->common->runs;
    double bytes = (double)replay->bytes_requested, advised = MEDIAN(score, runs, advised);
    struct bench_row *row = bench_report_row(report);
    bench_row_text(row, "policy", "policy", cell->policy->name);
    bench_row_text(row, "unit", NULL, cell->entries ? "entries" : "bytes");
    bench_row_count(row, "limit", cell->entries ? "entries" : "bytes", cell->entries ? cell->entries : cell->bytes);
    bench_row_count(row, "threads", "threads", cell->threads);
    bench_row_count(row, "requests", "requests", replay->trace.requests);
    bench_row_count(row, "distinct", "distinct", replay->trace.distinct);
    add_hits(row, score, runs, (double)replay->trace.requests);
    bench_row_real(row, "byte_hit_ratio", "of bytes %", 100, 2, bytes > 0 ? MEDIAN(score, runs, hit_bytes) / bytes : 0);
    if (advised >= 0)
        bench_row_real(row, "advised_hit_ratio", "advised %", 100, 2, advised);
    else if (replay->curve)
        bench_row_none(row, "advised_hit_ratio", "advised %");
    add_speed(row, score, runs);
    bench_row_real(row, "evictions", NULL, 1, 0, MEDIAN(score, runs, evictions));
    bench_row_real(row, "entries", NULL, 1, 0, MEDIAN(score, runs, entries));
    bench_row_real(row, "not_kept", "not kept", 1, 0, MEDIAN(score, runs, not_kept));
    bench_row_real(row, "errors", NULL, 1, 0, MEDIAN(score, runs, errors));
}

static int report_all(const struct replay *replay)
{
    struct bench_report report;
    bench_report_init(&report, replay->common);
    bench_row_text(&report.setting, "trace", NULL, replay->path);
    bench_row_count(&report.setting, "requests", NULL, replay->trace.requests);
    bench_row_count(&report.setting, "distinct", NULL, replay->trace.distinct);
    for (unsigned cell = 0; cell < replay->cells; cell++)
        add_row(&report, replay, &replay->cell[cell]);
    int status = bench_report_write(&report);
    bench_report_fini(&report);
    return status;
}

/* ---------------------------------------------------------------- */

static void add_cells(struct replay *replay, uint64_t entries, uint64_t bytes, unsigned threads)
{
    for (const struct policy *policy = replay->policies; policy->run; policy++)
        replay->cell[replay->cells++] =
            (struct cell){.entries = entries,
                          .bytes = bytes,
                          .value_max = value_max(bytes),
                          .policy = policy,
                          .threads = policy->run == run_exact ? 1 : threads,
                          .score = bench_alloc(replay->common->runs * sizeof(struct score))};
}

static void lay_out(struct replay *replay)
{
    const struct bench_counts *sizes = replay->entries.count ? &replay->entries : &replay->bytes;
    unsigned policies = 0;
    while (replay->policies[policies].run)
        policies++;
    replay->cell = bench_alloc(sizes->count * replay->threads.count * policies * sizeof(*replay->cell));
    for (unsigned s = 0; s < sizes->count; s++) {
        for (unsigned t = 0; t < replay->threads.count; t++)
            add_cells(replay, sizes == &replay->entries ? sizes->number[s] : 0,
                      sizes == &replay->bytes ? sizes->number[s] : 0, (unsigned)replay->threads.number[t]);
    }
}

static int play_all(struct replay *replay)
{
    lay_out(replay);
    int status = run_all(replay);
    if (status == BENCH_OK)
        status = report_all(replay);
    for (unsigned cell = 0; cell < replay->cells; cell++)
        free(replay->cell[cell].score);
    free(replay->cell);
    return status;
}

static void measure_sizes(struct replay *replay)
{
    uint64_t largest = SMALL_VALUE, kept = SMALL_VALUE;
    for (size_t i = 0; i < replay->trace.requests; i++) {
        uint32_t size = replay->trace.request[i].size;
        replay->bytes_requested += size;
        largest = size > largest ? size : largest;
    }
    for (unsigned s = 0; s < replay->bytes.count; s++) {
        uint64_t max = value_max(replay->bytes.number[s]);
        kept = max > kept ? max : kept;
    }
    replay->value = bench_alloc(largest < kept ? largest : kept);
}

int bench_replay(struct bench_common *common)
{
    struct replay replay = {.common = common,
                            .format_text = "auto",
                            .policy_text = "lru,exact-lru",
                            .threads = {.count = 1, .number = {1}}};
    char error[PATH_MAX + 256];
    int status = parse(&replay);
    if (status < 0 && bench_trace_read(replay.path, replay.format, &replay.trace, error, sizeof(error)) != 0) {
        bench_say("%s", error);
        status = BENCH_FAILED;
    }
    if (status >= 0) {
        free(replay.policies);
        return status;
    }
    measure_sizes(&replay);
    status = play_all(&replay);
    free(replay.value);
    free(replay.policies);
    bench_trace_free(&replay.trace);
    return status;
}
