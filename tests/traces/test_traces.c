/* SPDX-License-Identifier: BSD-3-Clause
 * Hit ratios on real traces: the policies against exact LRU and against what libCacheSim says of others, and the curve
 * against exact LRU at every size.  Skips, loudly, where the traces are not.
 *
 * NEAR_TRACES names their folder; without it the folder shared/traces beside the source tree is tried.  `make check`
 * plays those of some hundred thousand requests, NEAR_TRACES_ALL=1 (make check-traces) the one of five million too.
 * Times are virtual and the keeper is called by hand, so a seed gives the same figures again. */
#include "local/local_fixture.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "bench_trace.h"
#include "support/seed.h"

#define MIB (UINT64_C(1) << 20)
#define KEEP_EVERY 1024 /* requests; a server would have the keeper's rounds every 100 ms */
#define LARGE 1000000   /* requests */

/* The means are promised of the whole table.  Of a part of it they have to come near, so that a policy that is broken
 * shows in make check, too; points. */
#define NEAR_THE_MEAN(rows_played) ((rows_played) == ROWS ? 0 : 0.05)
#define NEAR_THE_BEST(rows_played) ((rows_played) == ROWS ? 0 : 0.5)

/* ---------------------------------------------------------------- what others have */

/* Hit ratios in per cent, by libCacheSim, sizes ignored: its readme's policies that fit in memory as we do. */
enum column { LRU, FIFO, CLOCK, SIEVE, S3FIFO, WTINYLFU, ARC, TWOQ, SLRU, COLUMNS };
static const char *const columns[COLUMNS] = {"LRU",      "FIFO", "CLOCK", "SIEVE", "S3FIFO",
                                             "WTinyLFU", "ARC",  "2Q",    "SLRU"};

static const struct row {
    const char *trace;
    uint32_t entries;
    double others[COLUMNS]; /* below 0: not told */
} rows[] = {
    {"cache2k-web12", 137, {39.7, 37.6, 40.2, 40.2, 41.0, 37.0, 40.7, 41.6, 41.8}},
    {"cache2k-web12", 1375, {68.5, 64.5, 69.2, 71.7, 72.2, 70.5, 70.9, 71.5, 71.6}},
    {"cache2k-orm-busy", 76, {50.2, 49.8, 49.8, 40.2, 40.2, -1, 50.1, 42.6, 36.6}},
    {"cache2k-orm-busy", 763, {77.0, 75.9, 76.8, 70.5, 75.6, 59.5, 76.8, 76.5, 71.6}},
    {"cache2k-orm-busy", 7634, {88.0, 86.8, 87.7, 88.1, 88.9, 88.3, 88.0, 89.1, 88.0}},
    {"cloudphysics-sample", 48, {9.7, 8.8, 9.9, 11.9, 12.4, -1, 12.3, 13.1, 11.2}},
    {"cloudphysics-sample", 489, {16.2, 15.2, 16.3, 17.1, 17.0, 15.2, 17.2, 16.9, 16.9}},
    {"cloudphysics-sample", 4897, {19.5, 19.5, 19.6, 20.9, 24.8, 22.6, 22.7, 22.6, 21.0}},
    {"lirs-sprite", 70, {16.3, 17.0, 16.1, 19.3, 21.2, -1, 19.0, 20.6, 20.5}},
    {"lirs-sprite", 707, {86.5, 82.0, 86.4, 81.5, 86.1, 75.2, 85.5, 85.7, 85.9}},
    {"lirs-2_pools", 99, {21.8, 19.2, 23.7, 47.7, 44.6, -1, 46.5, 38.2, 38.5}},
    {"lirs-2_pools", 993, {54.4, 49.9, 54.4, 54.3, 54.4, 54.4, 54.3, 54.2, 54.4}},
    {"addr-gcc", 35, {75.2, 70.4, 74.8, 74.8, 75.3, -1, 75.5, 74.8, 73.9}},
    {"addr-gcc", 350, {91.8, 90.4, 91.7, 91.6, 91.6, 89.0, 91.8, 91.8, 91.6}},
    {"addr-gcc", 3507, {92.9, 92.8, 93.0, 92.9, 92.9, 92.0, 92.9, 92.9, 92.9}},
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))
#define ROW_MIN 100 /* entries, of the rows by which adaptive is judged */

static struct outcome {
    int played;
    double exact, lru, adaptive; /* per cent */
} outcomes[ROWS];

static struct curve_outcome {
    const char *trace;
    double error; /* mean, absolute; below 0: not played */
} curves[ROWS];
static unsigned curves_count;

static uint64_t seed;

/* ---------------------------------------------------------------- exact LRU at all sizes at once */

struct exact {
    uint64_t *hits; /* [d]: requests of keys that came again after d - 1 other keys; then summed up */
    uint32_t distinct;
    size_t requests;
};

static void tree_add(uint32_t *tree, size_t size, size_t at, uint32_t what)
{
    for (; at <= size; at += at & -at)
        tree[at] += what;
}
static uint32_t tree_sum(const uint32_t *tree, size_t at)
{
    uint32_t sum = 0;
    for (; at; at -= at & -at)
        sum += tree[at];
    return sum;
}

static void measure(struct exact *e, const struct bench_trace *trace)
{
    size_t n = trace->requests;
    uint32_t *tree = calloc(n + 1, sizeof(*tree)), *last = calloc(trace->distinct, sizeof(*last));
    *e = (struct exact){
        .hits = calloc(trace->distinct + 1, sizeof(*e->hits)), .distinct = trace->distinct, .requests = n};
    assert_true(tree && last && e->hits);
    for (size_t i = 1; i <= n; i++) {
        uint32_t key = trace->request[i - 1].key, before = last[key];
        if (before) {
            e->hits[tree_sum(tree, i - 1) - tree_sum(tree, before) + 1]++;
            tree_add(tree, n, before, (uint32_t)-1);
        }
        last[key] = (uint32_t)i;
        tree_add(tree, n, i, 1);
    }
    for (uint32_t d = 1; d <= e->distinct; d++)
        e->hits[d] += e->hits[d - 1];
    free(tree);
    free(last);
}

static double exact_ratio(const struct exact *e, uint32_t entries)
{
    return (double)e->hits[entries < e->distinct ? entries : e->distinct] / (double)e->requests;
}

/* ---------------------------------------------------------------- the tier */

static void open_tier(struct fixture *f, const struct bench_trace *trace, uint32_t entries, near_policy policy,
                      int curve)
{
    fixture_init(f);
    f->config.seed = seed;
    f->config.policy = policy;
    f->config.entries_max = entries;
    f->config.bytes_max = 64 * MIB + 256 * (uint64_t)trace->distinct;
    f->config.curve = (uint32_t)curve;
    fixture_start(f);
}

/* Misses are set.  Returns the hit ratio. */
static double play(struct fixture *f, const struct bench_trace *trace)
{
    size_t hits = 0;
    for (size_t i = 0; i < trace->requests; i++) {
        uint32_t k = trace->request[i].key;
        const char *key = trace->bytes + trace->begin[k];
        size_t size = trace->begin[k + 1] - trace->begin[k];
        struct near__view view;
        if (near__local_copy(f->local, f->reader, key, size, ANY_BOUND, 0, NULL, 0, &view) == NEAR_LOCAL_HIT)
            hits++;
        else
            (void)near__local_install(f->local, f->reader, near__local_ticket(f->local, key, size), key, size,
                                      "a value.", 8, 1, -1, NEAR_NEVER);
        if (i % KEEP_EVERY == 0)
            near__local_keep(f->local);
    }
    return (double)hits / (double)trace->requests;
}

static double ratio_of(const struct bench_trace *trace, uint32_t entries, near_policy policy)
{
    struct fixture f;
    open_tier(&f, trace, entries, policy, 0);
    double ratio = play(&f, trace);
    fixture_close(&f);
    return ratio;
}

/* Sizes from a thousandth to half of the distinct keys. */
static double curve_error(const struct bench_trace *trace, const struct exact *exact)
{
    static const uint32_t parts[] = {1000, 500, 200, 100, 50, 20, 10, 5, 2};
    struct fixture f;
    double error = 0;
    open_tier(&f, trace, trace->distinct / 10, NEAR_POLICY_LRU, 1);
    play(&f, trace);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        double advised;
        uint32_t entries = trace->distinct / parts[i];
        assert_int_equal(near__local_advise(f.local, entries, UINT64_MAX, &advised), NEAR_OK);
        error += fabs(advised - exact_ratio(exact, entries));
    }
    fixture_close(&f);
    return error / (sizeof(parts) / sizeof(parts[0]));
}

/* ---------------------------------------------------------------- all of them, once */

static int find_trace(const char *name, char *path, size_t size)
{
    const char *folder = getenv("NEAR_TRACES"), *source = getenv("top_srcdir");
    if (folder && *folder)
        snprintf(path, size, "%s/%s.txt.gz", folder, name);
    else
        snprintf(path, size, "%s/../shared/traces/%s.txt.gz", source ? source : ".", name);
    return access(path, R_OK) == 0;
}

static void play_trace(const char *name)
{
    struct bench_trace trace;
    struct exact exact;
    char path[4096], error[512];
    if (!find_trace(name, path, sizeof(path))) {
        print_message("# %s is not there: NOT TESTED (NEAR_TRACES names the folder)\n", path);
        return;
    }
    if (bench_trace_read(path, BENCH_FORMAT_AUTO, &trace, error, sizeof(error)) != 0)
        fail_msg("%s", error);
    const char *all = getenv("NEAR_TRACES_ALL");
    if (trace.requests > SCALE(LARGE, 110000) && !(all && *all)) {
        print_message("# %s has %zu requests: left to make check-traces\n", name, trace.requests);
        bench_trace_free(&trace);
        return;
    }
    measure(&exact, &trace);
    for (size_t r = 0; r < ROWS; r++) {
        if (strcmp(rows[r].trace, name) != 0)
            continue;
        outcomes[r] = (struct outcome){1, 100 * exact_ratio(&exact, rows[r].entries),
                                       100 * ratio_of(&trace, rows[r].entries, NEAR_POLICY_LRU),
                                       100 * ratio_of(&trace, rows[r].entries, NEAR_POLICY_ADAPTIVE)};
        print_message("# %-20s %5u entries: exact LRU %.2f, lru %.2f, adaptive %.2f\n", name, rows[r].entries,
                      outcomes[r].exact, outcomes[r].lru, outcomes[r].adaptive);
    }
    curves[curves_count] = (struct curve_outcome){name, curve_error(&trace, &exact)};
    print_message("# %-20s curve: mean absolute error %.4f\n", name, curves[curves_count].error);
    curves_count++;
    free(exact.hits);
    bench_trace_free(&trace);
}

static int play_all(void **state)
{
    (void)state;
    for (size_t r = 0; r < ROWS; r++)
        if (r == 0 || strcmp(rows[r].trace, rows[r - 1].trace) != 0)
            play_trace(rows[r].trace);
    return 0;
}

/* ---------------------------------------------------------------- what is promised */

static void need_traces(void)
{
    if (!curves_count)
        skip();
}

/* The table was made by another program: it is the same trace and the same exact LRU. */
static void test_exact_LRU_is_what_the_table_says(void **state)
{
    (void)state;
    need_traces();
    for (size_t r = 0; r < ROWS; r++)
        if (outcomes[r].played)
            assert_true(fabs(outcomes[r].exact - rows[r].others[LRU]) < 0.06);
}

static void test_lru_is_never_more_than_half_a_point_below_exact_LRU(void **state)
{
    (void)state;
    need_traces();
    for (size_t r = 0; r < ROWS; r++)
        if (outcomes[r].played && outcomes[r].lru < outcomes[r].exact - 0.5)
            fail_msg("%s (%u): %.2f, exact %.2f", rows[r].trace, rows[r].entries, outcomes[r].lru, outcomes[r].exact);
}

static void test_lru_is_not_below_exact_LRU_on_average(void **state)
{
    double lru = 0, exact = 0;
    size_t played = 0;
    (void)state;
    need_traces();
    for (size_t r = 0; r < ROWS; r++) {
        lru += outcomes[r].lru;
        exact += outcomes[r].exact;
        played += (size_t)outcomes[r].played;
    }
    print_message("# mean of %zu rows: lru %.3f, exact %.3f\n", played, lru / (double)played, exact / (double)played);
    assert_true((lru - exact) / (double)played >= -NEAR_THE_MEAN(played));
}

static void test_adaptive_is_on_average_at_least_the_best_of_the_others(void **state)
{
    double adaptive = 0, best = 0;
    int judged = 0, winner = 0;
    size_t played = 0;
    (void)state;
    need_traces();
    for (int c = 0; c < COLUMNS; c++) {
        double sum = 0;
        for (size_t r = 0; r < ROWS; r++)
            sum += outcomes[r].played && rows[r].entries >= ROW_MIN ? rows[r].others[c] : 0;
        if (sum > best) {
            best = sum;
            winner = c;
        }
    }
    for (size_t r = 0; r < ROWS; r++) {
        played += (size_t)outcomes[r].played;
        if (!outcomes[r].played || rows[r].entries < ROW_MIN)
            continue;
        adaptive += outcomes[r].adaptive;
        judged++;
    }
    print_message("# mean of %d rows: adaptive %.2f, the best is %s with %.2f\n", judged, adaptive / judged,
                  columns[winner], best / judged);
    assert_true(adaptive / judged >= best / judged - NEAR_THE_BEST(played));
}

static void test_adaptive_is_never_more_than_half_a_point_below_lru(void **state)
{
    (void)state;
    need_traces();
    for (size_t r = 0; r < ROWS; r++)
        if (outcomes[r].played && rows[r].entries >= ROW_MIN && outcomes[r].adaptive < outcomes[r].lru - 0.5)
            fail_msg("%s (%u): %.2f, lru %.2f", rows[r].trace, rows[r].entries, outcomes[r].adaptive, outcomes[r].lru);
}

static void test_the_curve_is_within_two_points_on_each_trace(void **state)
{
    (void)state;
    need_traces();
    for (unsigned i = 0; i < curves_count; i++)
        if (curves[i].error > 0.02)
            fail_msg("%s: %.4f", curves[i].trace, curves[i].error);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_LRU_is_what_the_table_says),
        cmocka_unit_test(test_lru_is_never_more_than_half_a_point_below_exact_LRU),
        cmocka_unit_test(test_lru_is_not_below_exact_LRU_on_average),
        cmocka_unit_test(test_adaptive_is_on_average_at_least_the_best_of_the_others),
        cmocka_unit_test(test_adaptive_is_never_more_than_half_a_point_below_lru),
        cmocka_unit_test(test_the_curve_is_within_two_points_on_each_trace),
    };
    seed = test_seed() | 1;
    return cmocka_run_group_tests(tests, play_all, NULL);
}
