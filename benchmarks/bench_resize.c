/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nearcache-bench resize: what reads come to while the local tier is made smaller and larger again under them.
 *
 *      large  --near_set_local_bytes-->  shrink  ->  small  --near_set_local_bytes-->  grow  ->  large again
 *
 * `shrink` lasts from the call until the tier is within its new limit and its index has come to rest, `grow` until nine
 * tenths of what it had and players ask for are there again (only with --fill-on-miss, otherwise until the index
 * rests); the others last --seconds each.  The players know nothing of it.  A change of size changes the hit ratio, and
 * with --fill-on-miss a miss costs ten hits, so each of the two is compared with the steady phases beside it: with the
 * slower one, with the faster one, and with what lies between them at the hit ratio that it had.  The time of a read is
 * linear in the hit ratio, so that is a straight line through both.
 *
 * The conductor sleeps between looks, SLICE_S apart; the players' counts are read then.  Each run has a process of its
 * own.
 *
 * A phase that has not ended after PHASE_S_MAX is cut off there and said to be; for `shrink` that is a failure.
 *
 * Where there are as many players as processors, the tier's own thread takes one of them from time to time, and on a
 * machine that others use everybody takes them from everybody.  So reads per second of the players' processor time are
 * told, too: what a read costs while two tables are in use; which part of a processor the rest of the process used; for
 * which part of the time players were ready to run and had none, as the kernel counts; and for which part they were
 * neither: then the tier has made them wait. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_child.h"
#include "bench_keys.h"
#include "bench_options.h"
#include "bench_report.h"
#include "bench_team.h"
#include "nearcache.h"

#define BLOCK 64u
#define SLICE_S 0.01
#define REST_SLICES 20 /* without a change of the index: it rests */
#define PHASE_S_MAX 20.0
#define FILL_ROUNDS 3
#define TTL_MS INT64_C(86400000)

enum phase { LARGE, SHRINK, SMALL, GROW, LARGE_AGAIN, PHASES };
static const char *const phase_names[PHASES] = {"large", "shrink", "small", "grow", "large again"};

struct resize {
    struct bench_common *common;
    struct bench_counts threads;
    uint64_t keys_count, key_size, value_size, bytes, factor;
    const char *dist_text, *policy;
    struct bench_dist dist;
    int fill;
    struct bench_keys keys;
    struct bench_tape tape[BENCH_THREADS_MAX];
    unsigned tapes;
};

/* What one player has done so far; it alone writes, the conductor reads. */
struct counts {
    _Alignas(128) _Atomic(uint64_t) ops;
    _Atomic(uint64_t) hits, errors;
    _Atomic(int) begun;
    clockid_t clock; /* of its processor time; set before begun, as is */
    pid_t thread;    /* its number */
};

struct bout {
    const struct resize *resize;
    near_cache *cache;
    unsigned threads;
    struct counts *counts;
    _Atomic(int) over;
    struct outcome *ret;
};

struct plan {
    const struct resize *resize;
    unsigned threads;
};

struct outcome {
    struct {
        /* of the slices of five: their rate, and the hit ratio of that one */
        double seconds, rate, hit_ratio, slowest, slowest_hits;
        /* of the players' time: without a processor; neither that nor with one */
        double ready, blocked;
        /* reads a second of processor time; of a processor, by the rest of the process */
        double cpu_rate, others;
        uint64_t entries, bytes, index_bytes; /* at its end */
    } phase[PHASES];
    uint64_t errors;
    unsigned cut; /* one bit a phase: it had not ended when it was cut off */
    char error[256];
};

/* ---------------------------------------------------------------- players */

static void add(_Atomic(uint64_t) *count, uint64_t n)
{
    /* relaxed: one writer, a statistic */
    atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + n, memory_order_relaxed);
}

/* Under the volatile policies every key has a time to live, since nothing else would ever make room. */
static int set(const struct bout *bout, const char *key, const void *value)
{
    static const near_write passing = {.size = sizeof(passing), .ttl_ms = TTL_MS};
    const struct resize *resize = bout->resize;
    const near_write *write = strncmp(resize->policy, "volatile", strlen("volatile")) == 0 ? &passing : NULL;
    int status = near_set(bout->cache, key, resize->keys.size, value, resize->value_size, write, NULL);
    return status == NEAR_OK || status == NEAR_ERR_FULL; /* memory waits for readers: a cache may do without */
}

static void work(struct bench_seat *seat)
{
    struct bout *bout = seat->team->arg;
    const struct resize *resize = bout->resize;
    const struct bench_tape *tape = &resize->tape[seat->number % resize->tapes];
    struct counts *counts = &bout->counts[seat->number];
    char *value = bench_alloc(resize->value_size), *buffer = bench_alloc(resize->value_size);
    (void)pthread_getcpuclockid(pthread_self(), &counts->clock);
    counts->thread = gettid();
    atomic_store_explicit(&counts->begun, 1, memory_order_release); /* release: pairs with players_cpu */
    /* relaxed: soon enough */
    for (uint32_t at = 0; !atomic_load_explicit(&bout->over, memory_order_relaxed); at += BLOCK) {
        const uint32_t *word = &tape->word[at & (tape->count - 1)];
        uint64_t hits = 0, errors = 0;
        for (unsigned i = 0; i < BLOCK; i++) {
            const char *key = bench_key_bytes(&resize->keys, word[i]);
            size_t size;
            __builtin_prefetch(bench_key_bytes(&resize->keys, word[i + BENCH_TAPE_MORE]));
            int status = near_get_copy(bout->cache, key, resize->keys.size, NULL, buffer, resize->value_size, &size);
            hits += status == NEAR_OK;
            errors += status < 0;
            if (status == NEAR_MISS && resize->fill)
                errors += !set(bout, key, value);
        }
        add(&counts->ops, BLOCK);
        add(&counts->hits, hits);
        add(&counts->errors, errors);
    }
    free(value);
    free(buffer);
}

/* ---------------------------------------------------------------- the conductor */

static int64_t clock_ns(clockid_t clock)
{
    struct timespec t = {0, 0};
    (void)clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t cpu_ns(const struct counts *player)
{
    return clock_ns(player->clock);
}

/* Nanoseconds for which a thread was ready to run and had no processor. */
static int64_t ready_ns(const struct counts *player)
{
    char path[64];
    long long ran = 0, ready = 0;
    snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", (int)player->thread);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0; /* a kernel that does not count */
    if (fscanf(file, "%lld %lld", &ran, &ready) != 2)
        ready = 0;
    fclose(file);
    return ready;
}

static int64_t of_players(const struct bout *bout, int64_t (*time_of)(const struct counts *player))
{
    int64_t sum = 0;
    for (unsigned i = 0; i < bout->threads; i++)
        if (atomic_load_explicit(&bout->counts[i].begun, memory_order_acquire)) /* acquire: pairs with work */
            sum += time_of(&bout->counts[i]);
    return sum;
}

struct look {
    int64_t at_ns, players_ns, process_ns, ready_ns; /* the second and third: processor time; the last of the players */
    uint64_t ops, hits, errors;
    near_stats stats;
};

static struct look look(const struct bout *bout)
{
    struct look now = {.at_ns = bench_now(),
                       .players_ns = of_players(bout, cpu_ns),
                       .process_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID),
                       .ready_ns = of_players(bout, ready_ns),
                       .stats = {.size = sizeof(near_stats)}};
    for (unsigned i = 0; i < bout->threads; i++) { /* relaxed, all: statistics */
        now.ops += atomic_load_explicit(&bout->counts[i].ops, memory_order_relaxed);
        now.hits += atomic_load_explicit(&bout->counts[i].hits, memory_order_relaxed);
        now.errors += atomic_load_explicit(&bout->counts[i].errors, memory_order_relaxed);
    }
    (void)near_stats_get(bout->cache, &now.stats);
    return now;
}

static double rate_between(const struct look *from, const struct look *to)
{
    return (double)(to->ops - from->ops) * 1e9 / (double)(to->at_ns - from->at_ns);
}

static double hits_between(const struct look *from, const struct look *to)
{
    return to->ops > from->ops ? (double)(to->hits - from->hits) / (double)(to->ops - from->ops) : 0;
}

/* How the players spent the time in between. */
static void share_out(struct bout *bout, enum phase phase, const struct look *from, const struct look *to)
{
    double all = (double)(to->at_ns - from->at_ns) * bout->threads, ran = (double)(to->players_ns - from->players_ns);
    double ready = (double)(to->ready_ns - from->ready_ns), blocked = all - ran - ready;
    bout->ret->phase[phase].ready = ready / all;
    bout->ret->phase[phase].blocked = blocked > 0 ? blocked / all : 0;
}

/* Different keys that the players read, again and again. */
static uint64_t keys_asked_for(const struct bout *bout)
{
    const struct resize *resize = bout->resize;
    unsigned char *asked = bench_alloc(resize->keys.count);
    uint64_t keys = 0;
    memset(asked, 0, resize->keys.count);
    for (unsigned t = 0; t < bout->threads && t < resize->tapes; t++)
        for (uint32_t i = 0; i < resize->tape[t].count; i++) {
            keys += !asked[resize->tape[t].word[i]];
            asked[resize->tape[t].word[i]] = 1;
        }
    free(asked);
    return keys;
}

/* What the tier has to have done for the phase to end; entries: as many as there were when it was large, of those that
 * are asked for. */
static int is_done(const struct bout *bout, enum phase phase, const struct look *now, uint64_t entries)
{
    if (phase == SHRINK)
        return now->stats.local_bytes <= now->stats.local_bytes_limit + now->stats.local_bytes_limit / 20 + (1 << 20);
    return !bout->resize->fill || now->stats.local_entries >= entries - entries / 10;
}

/* Looks until the phase is over; its figures are those up to the moment from which nothing happened any more. */
static void watch(struct bout *bout, enum phase phase, double seconds, uint64_t entries)
{
    struct look begin = look(bout), end = begin, slice = begin, before = begin, now;
    double slowest = 0;
    int steady = phase == LARGE || phase == SMALL || phase == LARGE_AGAIN, rested = 0, slices = 0, told = 0;
    do {
        bench_sleep(SLICE_S);
        now = look(bout);
        int moves =
            now.stats.local_index_bytes != before.stats.local_index_bytes || now.stats.local_resize_permille != 1000;
        int done = !steady && !moves && is_done(bout, phase, &now, entries);
        rested = done ? rested + 1 : 0;
        if (!rested)
            end = now;
        if (++slices % 5 == 0) {
            double rate = rate_between(&slice, &now);
            if (!rested && (!told || rate < slowest)) {
                told = 1;
                slowest = rate;
                bout->ret->phase[phase].slowest_hits = hits_between(&slice, &now);
            }
            slice = now;
        }
        before = now;
    } while (steady ? (double)(now.at_ns - begin.at_ns) < seconds * 1e9
                    : rested < REST_SLICES && (double)(now.at_ns - begin.at_ns) < PHASE_S_MAX * 1e9);
    if (end.at_ns == begin.at_ns) /* it was over before the first look */
        end = now;
    bout->ret->phase[phase].seconds = (double)(end.at_ns - begin.at_ns) * 1e-9;
    bout->ret->phase[phase].rate = rate_between(&begin, &end);
    bout->ret->phase[phase].slowest = told ? slowest : rate_between(&begin, &end); /* it was shorter */
    int64_t players_ns = end.players_ns - begin.players_ns, others_ns = end.process_ns - begin.process_ns - players_ns;
    bout->ret->phase[phase].cpu_rate = (double)(end.ops - begin.ops) * 1e9 / (double)(players_ns > 0 ? players_ns : 1);
    bout->ret->phase[phase].others = (double)others_ns / (double)(end.at_ns - begin.at_ns);
    share_out(bout, phase, &begin, &end);
    bout->ret->phase[phase].hit_ratio = hits_between(&begin, &end);
    if (!told)
        bout->ret->phase[phase].slowest_hits = bout->ret->phase[phase].hit_ratio;
    bout->ret->phase[phase].entries = end.stats.local_entries;
    bout->ret->phase[phase].bytes = end.stats.local_bytes;
    bout->ret->phase[phase].index_bytes = end.stats.local_index_bytes;
    if (!steady && rested < REST_SLICES)
        bout->ret->cut |= 1u << phase;
}

static void *conduct(void *arg)
{
    struct bout *bout = arg;
    const struct resize *resize = bout->resize;
    double seconds = resize->common->seconds;
    bench_sleep(resize->common->warmup);
    watch(bout, LARGE, seconds, 0);
    uint64_t entries = bout->ret->phase[LARGE].entries, asked_for = keys_asked_for(bout);
    if (asked_for < entries)
        entries = asked_for;
    (void)near_set_local_bytes(bout->cache, resize->bytes / resize->factor); /* within its range: parse() */
    watch(bout, SHRINK, 0, entries);
    watch(bout, SMALL, seconds, 0);
    (void)near_set_local_bytes(bout->cache, resize->bytes);
    watch(bout, GROW, 0, entries);
    watch(bout, LARGE_AGAIN, seconds, 0);
    bout->ret->errors += look(bout).errors;
    atomic_store_explicit(&bout->over, 1, memory_order_relaxed); /* relaxed: nothing else is told */
    return NULL;
}

/* ---------------------------------------------------------------- one run, in a child */

/* Until all are there, or as many as fit: a background index may not grow as fast as one thread fills it. */
static void fill(struct bout *bout)
{
    const struct resize *resize = bout->resize;
    char *value = bench_alloc(resize->value_size);
    size_t size;
    for (int round = 0; round < FILL_ROUNDS; round++) {
        for (uint32_t i = 0; i < resize->keys.count; i++) {
            const char *key = bench_key_bytes(&resize->keys, i);
            if (round == 0 ||
                near_get_copy(bout->cache, key, resize->keys.size, NULL, value, resize->value_size, &size) == NEAR_MISS)
                bout->ret->errors += (uint64_t)!set(bout, key, value);
        }
        bench_sleep(0.2); /* the index grows */
    }
    free(value);
}

static void body(const void *arg, void *result)
{
    const struct plan *plan = arg;
    struct bout bout = {.resize = plan->resize, .threads = plan->threads, .ret = result};
    near_options options;
    near_error error = {0};
    near_options_init(&options);
    options.local_bytes = plan->resize->bytes;
    if (near_option_set(&options, "policy", plan->resize->policy, &error) != NEAR_OK ||
        near_open("local:", &options, &bout.cache, &error) != NEAR_OK) {
        snprintf(bout.ret->error, sizeof(bout.ret->error), "%s", error.text);
        return;
    }
    fill(&bout);
    bout.counts = aligned_alloc(_Alignof(struct counts), plan->threads * sizeof(*bout.counts));
    memset(bout.counts, 0, plan->threads * sizeof(*bout.counts));
    pthread_t conductor;
    if (pthread_create(&conductor, NULL, conduct, &bout) != 0) {
        snprintf(bout.ret->error, sizeof(bout.ret->error), "cannot make threads");
    } else {
        struct bench_team team = {.threads = plan->threads, .arg = &bout};
        free(bench_team_run(&team, 0, 0, work));
        pthread_join(conductor, NULL);
    }
    free(bout.counts);
    (void)near_close(bout.cache);
}

/* ---------------------------------------------------------------- results */

/* Of a rate in the steady phases beside it, the lower one. */
#define STEADY(member)                                                                                                 \
    (phase != SHRINK && phase != GROW                          ? o->phase[phase].member                                \
     : o->phase[phase - 1].member < o->phase[phase + 1].member ? o->phase[phase - 1].member                            \
                                                               : o->phase[phase + 1].member)

/* Of two steady phases, what the rate would be at a hit ratio in between, or that of the nearer one. */
static double rate_at(const struct outcome *o, int one, int other, double hit_ratio)
{
    double from = o->phase[one].hit_ratio, to = o->phase[other].hit_ratio;
    double part = from == to ? 0.5 : (hit_ratio - from) / (to - from);
    part = part < 0 ? 0 : part > 1 ? 1 : part;
    return 1 / ((1 - part) / o->phase[one].rate + part / o->phase[other].rate);
}

static double expected(const struct outcome *o, int phase, double hit_ratio)
{
    return phase == SHRINK || phase == GROW ? rate_at(o, phase - 1, phase + 1, hit_ratio) : o->phase[phase].rate;
}

static double faster(const struct outcome *o, int phase)
{
    if (phase != SHRINK && phase != GROW)
        return o->phase[phase].rate;
    return o->phase[phase - 1].rate > o->phase[phase + 1].rate ? o->phase[phase - 1].rate : o->phase[phase + 1].rate;
}

#define MEDIAN(outcomes, runs, expression)                                                                             \
    __extension__({                                                                                                    \
        double numbers_[64];                                                                                           \
        for (uint64_t r_ = 0; r_ < (runs); r_++) {                                                                     \
            const struct outcome *o = &(outcomes)[r_];                                                                 \
            numbers_[r_] = (double)(expression);                                                                       \
        }                                                                                                              \
        bench_median(numbers_, (runs));                                                                                \
    })
#define RUNS_MAX 64

static void add_row(struct bench_report *report, unsigned threads, const struct outcome *outcomes, uint64_t runs,
                    int phase)
{
    struct bench_row *row = bench_report_row(report);
    bench_row_text(row, "phase", "phase", phase_names[phase]);
    bench_row_count(row, "threads", "threads", threads);
    bench_row_real(row, "seconds", "s", 1, 2, MEDIAN(outcomes, runs, o->phase[phase].seconds));
    bench_row_real(row, "ops_per_second", "Mops/s", 1e-6, 3, MEDIAN(outcomes, runs, o->phase[phase].rate));
    bench_row_real(row, "relative_to_steady", "of steady", 1, 2,
                   MEDIAN(outcomes, runs, o->phase[phase].rate / STEADY(rate)));
    bench_row_real(row, "relative_to_faster", "of the faster", 1, 2,
                   MEDIAN(outcomes, runs, o->phase[phase].rate / faster(o, phase)));
    bench_row_real(row, "relative_to_expected", "of expected", 1, 2,
                   MEDIAN(outcomes, runs, o->phase[phase].rate / expected(o, phase, o->phase[phase].hit_ratio)));
    bench_row_real(row, "slowest_slice", "slowest 50 ms", 1, 2,
                   MEDIAN(outcomes, runs, o->phase[phase].slowest / STEADY(rate)));
    bench_row_real(row, "slowest_slice_of_expected", "of expected", 1, 2,
                   MEDIAN(outcomes, runs, o->phase[phase].slowest / expected(o, phase, o->phase[phase].slowest_hits)));
    bench_row_real(row, "ready", "ready %", 100, 1, MEDIAN(outcomes, runs, o->phase[phase].ready));
    bench_row_real(row, "blocked", "blocked %", 100, 1, MEDIAN(outcomes, runs, o->phase[phase].blocked));
    bench_row_real(row, "relative_to_steady_by_cpu", "by cpu time", 1, 2,
                   MEDIAN(outcomes, runs, o->phase[phase].cpu_rate / STEADY(cpu_rate)));
    bench_row_real(row, "background_cpu", "background cpu", 1, 2, MEDIAN(outcomes, runs, o->phase[phase].others));
    bench_row_real(row, "hit_ratio", "hits %", 100, 2, MEDIAN(outcomes, runs, o->phase[phase].hit_ratio));
    bench_row_real(row, "entries", "entries", 1, 0, MEDIAN(outcomes, runs, o->phase[phase].entries));
    bench_row_real(row, "local_bytes", "MiB", 1.0 / (1 << 20), 1, MEDIAN(outcomes, runs, o->phase[phase].bytes));
    bench_row_real(row, "local_index_bytes", NULL, 1, 0, MEDIAN(outcomes, runs, o->phase[phase].index_bytes));
}

static int is_bad(const struct outcome *outcome, unsigned threads)
{
    for (int phase = 0; phase < PHASES; phase++)
        if (outcome->cut & 1u << phase)
            bench_say("%u threads: %s had not ended after %.0f s", threads, phase_names[phase], PHASE_S_MAX);
    if (*outcome->error || outcome->errors)
        bench_say("%u threads: %s, %llu failed calls", threads, outcome->error, (unsigned long long)outcome->errors);
    return *outcome->error || outcome->errors || outcome->cut & 1u << SHRINK;
}

static int run_all(const struct resize *resize, struct bench_report *report)
{
    uint64_t runs = resize->common->runs;
    struct outcome *outcomes = bench_alloc(resize->threads.count * runs * sizeof(*outcomes));
    int status = BENCH_OK;
    for (uint64_t r = 0; r < runs; r++) {
        for (unsigned t = 0; t < resize->threads.count; t++) {
            struct plan plan = {.resize = resize, .threads = (unsigned)resize->threads.number[t]};
            struct outcome *outcome = &outcomes[t * runs + r];
            char error[128];
            bench_child_run(body, &plan, outcome, sizeof(*outcome), error, sizeof(error));
            if (*error)
                snprintf(outcome->error, sizeof(outcome->error), "%s", error);
            if (is_bad(outcome, plan.threads))
                status = BENCH_FAILED;
            bench_progress(resize->common, "run %u of %u, %u threads", (unsigned)r + 1, (unsigned)runs, plan.threads);
        }
    }
    for (unsigned t = 0; t < resize->threads.count; t++)
        for (int phase = 0; phase < PHASES; phase++)
            add_row(report, (unsigned)resize->threads.number[t], &outcomes[t * runs], runs, phase);
    free(outcomes);
    return status;
}

/* ---------------------------------------------------------------- options */

static int parse(struct resize *resize)
{
    const struct bench_option rows[] = {
        {"local-bytes", "SIZE", BENCH_SIZE, &resize->bytes, 1 << 20, 1e12, "size when large"},
        {"factor", "N", BENCH_COUNT, &resize->factor, 2, 1u << 20, "small is so many times smaller"},
        {"threads", "N[,N…]", BENCH_COUNTS, &resize->threads, 1, BENCH_THREADS_MAX,
         "reading threads, pinned to processors"},
        {"keys", "N", BENCH_COUNT, &resize->keys_count, 1, 1u << 30, "different keys"},
        {"key-size", "BYTES", BENCH_SIZE, &resize->key_size, BENCH_KEY_SIZE_MIN, 65535, ""},
        {"value-size", "BYTES", BENCH_SIZE, &resize->value_size, 1, 1 << 20, ""},
        {"dist", "DIST", BENCH_TEXT, &resize->dist_text, 0, 0, "uniform, zipf:THETA, hotspot:SET,OPS"},
        {"policy", "NAME", BENCH_TEXT, &resize->policy, 0, 0, "choice of the option policy"},
        {"fill-on-miss", NULL, BENCH_FLAG, &resize->fill, 0, 0, "set a key that was not found"},
        {NULL, NULL, BENCH_FLAG, NULL, 0, 0, NULL},
    };
    int status =
        bench_options_parse(resize->common, rows, "Reads while the local tier is made smaller and larger again.");
    if (status >= 0)
        return status;
    if (!bench_dist_parse(resize->dist_text, &resize->dist))
        return bench_options_refuse("dist", resize->dist_text,
                                    "uniform, zipf:THETA (0 to 10) or hotspot:SET,OPS (0 to 1)");
    status = bench_options_check("policy", "policy", resize->policy);
    if (status >= 0)
        return status;
    if (resize->bytes / resize->factor < 1 << 20) {
        bench_say("--local-bytes divided by --factor must be at least 1m");
        return BENCH_USAGE;
    }
    if (resize->common->runs > RUNS_MAX) {
        bench_say("--runs: at most %d here", RUNS_MAX);
        return BENCH_USAGE;
    }
    return -1;
}

static void prepare(struct resize *resize)
{
    struct bench_draw draw;
    bench_draw_init(&draw, &resize->dist, (uint32_t)resize->keys_count, resize->common->seed);
    bench_keys_init(&resize->keys, (uint32_t)resize->keys_count, (uint32_t)resize->key_size);
    for (unsigned i = 0; i < resize->threads.count; i++)
        if (resize->threads.number[i] > resize->tapes)
            resize->tapes = (unsigned)resize->threads.number[i];
    for (unsigned i = 0; i < resize->tapes; i++)
        bench_tape_init(&resize->tape[i], bench_tape_words(resize->keys_count), &draw, 0, resize->common->seed + 1 + i);
    bench_draw_fini(&draw);
}

static void describe(struct bench_row *setting, const struct resize *resize)
{
    bench_row_count(setting, "keys", NULL, resize->keys_count);
    bench_row_count(setting, "key_size", NULL, resize->key_size);
    bench_row_count(setting, "value_size", NULL, resize->value_size);
    bench_row_count(setting, "local_bytes", NULL, resize->bytes);
    bench_row_count(setting, "factor", NULL, resize->factor);
    bench_row_text(setting, "dist", NULL, resize->dist_text);
    bench_row_text(setting, "policy", NULL, resize->policy);
    bench_row_count(setting, "fill_on_miss", NULL, (uint64_t)resize->fill);
}

int bench_resize(struct bench_common *common)
{
    static struct resize resize;
    struct bench_report report;
    resize = (struct resize){.common = common,
                             .dist_text = "zipf:0.99",
                             .policy = "lru",
                             .threads = {.count = 2, .number = {1, 2}},
                             .keys_count = 1000000,
                             .key_size = 16,
                             .value_size = 100,
                             .bytes = UINT64_C(256) << 20,
                             .factor = 16};
    int status = parse(&resize);
    if (status >= 0)
        return status;
    prepare(&resize);
    bench_report_init(&report, common);
    describe(&report.setting, &resize);
    status = run_all(&resize, &report);
    status |= bench_report_write(&report);
    bench_report_fini(&report);
    for (unsigned i = 0; i < resize.tapes; i++)
        bench_tape_fini(&resize.tape[i]);
    bench_keys_fini(&resize.keys);
    return status;
}
