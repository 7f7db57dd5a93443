/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nearcache-bench replay: a recorded trace through the local tier, a key that is missed being set, beside exact LRU of the same size.
 *
 *      --entries N   the limit counts entries; sizes of the trace are left aside and values are small
 *      --bytes SIZE  the limit counts bytes: of the local tier everything (local_bytes), of exact LRU keys and values alone
 *
 * A value above an eighth of the bytes is kept by neither, so that what they differ by is what they evict; such requests are counted.
 *
 * Policies are the choices of the option of that name; under the volatile ones every key has a time to live, since nothing else would
 * ever make room.
 *
 * Several threads take the requests in the trace's order, a few at a time, from a place that they share: whoever falls behind has a
 * few old ones left and no more, so all of them are where one thread would be.  Exact LRU always runs in one. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_lru.h"
#include "bench_options.h"
#include "bench_report.h"
#include "bench_team.h"
#include "bench_trace.h"
#include "nearcache.h"

#define SMALL_VALUE 8u
#define CLAIM 16u /* requests taken at once: many enough that the shared place is no bottleneck */
#define KEPT_PART 8u /* of the bytes is the largest value that is kept: the default of the option local_value_max */
#define TTL_MS INT64_C(86400000)

struct policy;

struct replay {
    struct bench_common *common;
    const char *path, *format_text, *policy_text;
    struct policy *policies; /* as named by policy_text; run NULL: their end */
    enum bench_format format;
    struct bench_counts entries, bytes, threads;
    struct bench_trace trace;
    uint64_t bytes_requested; /* sizes of all requests together */
    int curve;
    char *value; /* as large as the largest that is set; its content does not matter */
};

/* One policy at one size. */
struct play {
    const struct replay *replay;
    uint64_t entries, bytes; /* limit; the other is 0 */
    uint64_t value_max;      /* of those that are kept */
    unsigned threads;
    const char *policy;
    const near_write *write;
    near_cache *cache;
    double advised; /* by near_advise for the size played; below 0: not asked */
    _Atomic(uint64_t) hit_bytes;
    _Alignas(128) _Atomic(size_t) next; /* request that nobody has taken; threads that only read the rest do not share its line */
};

struct score {
    uint64_t hits, errors, hit_bytes;
    uint64_t evictions, entries; /* ended for space; there at the end */
    uint64_t not_kept;           /* requests whose value was too large, or found no room */
    double seconds;
};

struct policy {
    char name[32];
    int (*run)(struct play *play, struct score *ret);
};

static size_t value_size(const struct play *play, const struct bench_request *request)
{
    return play->entries ? SMALL_VALUE : request->size;
}

static int is_too_large(const struct play *play, const struct bench_request *request)
{
    return value_size(play, request) > play->value_max;
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
static int fill(const struct play *play, const char *key, size_t key_size, const struct bench_request *request, struct bench_seat *seat)
{
    int status = NEAR_ERR_FULL;
    if (!is_too_large(play, request))
        status = near_set(play->cache, key, key_size, play->replay->value, value_size(play, request), play->write, NULL);
    if (status != NEAR_ERR_FULL)
        return status;
    seat->refused++;
    return NEAR_OK;
}

static void replay_request(struct play *play, const struct bench_request *request, struct bench_seat *seat, uint64_t *hit_bytes)
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
    near_options_init(&options);
    options.local_entries = play->entries;
    options.local_value_max = play->value_max;
    options.curve = (uint32_t)play->replay->curve;
    options.local_bytes = play->bytes ? play->bytes
                                      : (UINT64_C(64) << 20) + 256 * (uint64_t)trace->distinct + trace->begin[trace->distinct];
    if (near_option_set(&options, "policy", play->policy, &error) == NEAR_OK &&
        near_open("local:", &options, &play->cache, &error) == NEAR_OK)
        return 1;
    bench_say("%s", error.text);
    return 0;
}

static int run_nearcache(struct play *play, struct score *ret)
{
    struct bench_team team = {.threads = play->threads, .arg = play};
    struct bench_seat *sum = bench_alloc(sizeof(*sum)), *seats;
    near_write write;
    near_write_init(&write);
    write.ttl_ms = strncmp(play->policy, "volatile", strlen("volatile")) == 0 ? TTL_MS : 0;
    play->write = &write;
    near_stats stats = {.size = sizeof(stats)};
    if (!open_tier(play)) {
        free(sum);
        return -1;
    }
    int64_t began = bench_now();
    seats = bench_team_run(&team, 0, 0, replay_share);
    ret->seconds = (double)(bench_now() - began) * 1e-9;
    if (seats)
        (void)bench_team_sum(seats, play->threads, sum);
    (void)near_stats_get(play->cache, &stats);
    if (near_advise(play->cache, play->bytes, play->entries, &play->advised) != NEAR_OK)
        play->advised = -1;
    ret->hits = sum->hits;
    ret->errors = sum->errors;
    ret->hit_bytes = play->hit_bytes;
    ret->evictions = stats.evictions;
    ret->not_kept = sum->refused;
    ret->entries = stats.local_entries;
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
    struct bench_lru lru;
    uint64_t sets = 0;
    bench_lru_init(&lru, trace->distinct, play->entries, play->bytes);
    int64_t began = bench_now();
    for (size_t i = 0; i < trace->requests; i++) {
        const struct bench_request *request = &trace->request[i];
        if (bench_lru_get(&lru, request->key)) {
            ret->hits++;
            ret->hit_bytes += request->size;
        } else if (is_too_large(play, request)) {
            ret->not_kept++;
        } else {
            bench_lru_put(&lru, request->key,
                          trace->begin[request->key + 1] - trace->begin[request->key] + value_size(play, request));
            sets++;
        }
    }
    ret->seconds = (double)(bench_now() - began) * 1e-9;
    ret->evictions = sets - lru.entries;
    ret->entries = lru.entries;
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
            return bench_options_refuse("policy", replay->policy_text, "must name policies of the local tier, or exact-lru");
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
        {"format", "FORMAT", BENCH_TEXT, &replay->format_text, 0, 0, "text (key [size] a line), oracleGeneral or auto [auto]"},
        {"entries", "N[,N…]", BENCH_COUNTS, &replay->entries, 1, 1u << 30, "sizes of the cache in entries"},
        {"bytes", "SIZE[,SIZE…]", BENCH_COUNTS, &replay->bytes, 1 << 20, 1e12, "or in bytes (k, m, g may follow); no value above an eighth is kept"},
        {"policy", "NAME[,NAME…]", BENCH_TEXT, &replay->policy_text, 0, 0,
         "lru, s3fifo and the option's other choices, exact-lru for reference [lru,exact-lru]"},
        {"curve", NULL, BENCH_FLAG, &replay->curve, 0, 0, "also what near_advise says for each size (advised_hit_ratio)"},
        {"threads", "N[,N…]", BENCH_COUNTS, &replay->threads, 1, BENCH_THREADS_MAX, "threads that take the requests in the trace's order [1]"},
        {NULL, NULL, BENCH_FLAG, NULL, 0, 0, NULL},
    };
    int status = bench_options_parse(replay->common, rows, "Hit ratio on an access trace.");
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

/* ---------------------------------------------------------------- runs and results */

static void add_row(struct bench_report *report, const struct play *play, const struct policy *policy, const struct score *score)
{
    const struct replay *replay = play->replay;
    double requests = (double)replay->trace.requests;
    struct bench_row *row = bench_report_row(report);
    bench_row_text(row, "policy", "policy", policy->name);
    bench_row_text(row, "unit", NULL, play->entries ? "entries" : "bytes");
    bench_row_count(row, "limit", play->entries ? "entries" : "bytes", play->entries ? play->entries : play->bytes);
    bench_row_count(row, "threads", "threads", play->threads);
    bench_row_count(row, "requests", "requests", replay->trace.requests);
    bench_row_count(row, "distinct", "distinct", replay->trace.distinct);
    bench_row_real(row, "hit_ratio", "hits %", 100, 2, (double)score->hits / requests);
    bench_row_real(row, "byte_hit_ratio", "of bytes %", 100, 2,
                   replay->bytes_requested ? (double)score->hit_bytes / (double)replay->bytes_requested : 0);
    if (play->advised >= 0)
        bench_row_real(row, "advised_hit_ratio", "advised %", 100, 2, play->advised);
    bench_row_real(row, "requests_per_second", "Mreq/s", 1e-6, 2, requests / score->seconds);
    bench_row_count(row, "evictions", NULL, score->evictions);
    bench_row_count(row, "entries", NULL, score->entries);
    bench_row_count(row, "not_kept", "not kept", score->not_kept);
    bench_row_count(row, "errors", NULL, score->errors);
}

static int play_size(struct replay *replay, struct bench_report *report, uint64_t entries, uint64_t bytes, unsigned threads)
{
    for (const struct policy *policy = replay->policies; policy->run; policy++) {
        struct play play = {.replay = replay, .entries = entries, .bytes = bytes, .value_max = value_max(bytes), .threads = threads,
                            .policy = policy->name, .advised = -1};
        struct score score = {0};
        if (policy->run == run_exact)
            play.threads = 1;
        if (policy->run(&play, &score) != 0)
            return BENCH_FAILED;
        add_row(report, &play, policy, &score);
        bench_progress(replay->common, "%s: %llu hits", policy->name, (unsigned long long)score.hits);
        if (score.errors) {
            bench_say("%s: %llu failed calls", policy->name, (unsigned long long)score.errors);
            return BENCH_FAILED;
        }
    }
    return BENCH_OK;
}

static int play_all(struct replay *replay)
{
    struct bench_report report;
    const struct bench_counts *sizes = replay->entries.count ? &replay->entries : &replay->bytes;
    int status = BENCH_OK;
    bench_report_init(&report, replay->common);
    bench_row_text(&report.setting, "trace", NULL, replay->path);
    bench_row_count(&report.setting, "requests", NULL, replay->trace.requests);
    bench_row_count(&report.setting, "distinct", NULL, replay->trace.distinct);
    for (unsigned s = 0; s < sizes->count; s++) {
        for (unsigned t = 0; t < replay->threads.count && status == BENCH_OK; t++)
            status = play_size(replay, &report, sizes == &replay->entries ? sizes->number[s] : 0,
                               sizes == &replay->bytes ? sizes->number[s] : 0, (unsigned)replay->threads.number[t]);
    }
    if (status == BENCH_OK)
        status = bench_report_write(&report);
    bench_report_fini(&report);
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
    struct replay replay = {.common = common, .format_text = "auto", .policy_text = "lru,exact-lru",
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
