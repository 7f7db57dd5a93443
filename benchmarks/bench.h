/* SPDX-License-Identifier: BSD-3-Clause
 * What every subcommand of nearcache-bench has in common: its options, its texts on stderr, its exit statuses.
 *
 *      nearcache-bench.c        which subcommand
 *      bench_<subcommand>.c     one question each: local, remote, staleness, outage, storm, values, invalidate, replay,
 *                               resize
 *      bench_options            rows of options: parsing and help
 *      bench_draw, bench_keys   which key comes next; the keys' and values' bytes
 *      bench_team               pinned threads, one start, warm-up, end
 *      bench_ticks              short times
 *      engine_*                 what is compared by `local`, behind six functions
 *      bench_redis              a private redis-server; bench_wire: plain hiredis
 *      bench_trace, bench_lru   access traces; the exact LRU that they are compared with
 *      bench_report             rows of results: as a table, JSON, CSV; bench_plot: as pictures
 *
 * Everything here runs before or after the measured part, unless it says so. */
#ifndef NEAR_BENCH_H
#define NEAR_BENCH_H
#include <stddef.h>
#include <stdint.h>

enum { BENCH_OK = 0, BENCH_FAILED = 1, BENCH_USAGE = 2 }; /* exit statuses */

#define BENCH_THREADS_MAX 256u

/* Common options that do not mean something to every subcommand. */
enum {
    BENCH_HAS_RUNS = 1,
    BENCH_HAS_SECONDS = 2,
    BENCH_HAS_WARMUP = 4,
    BENCH_HAS_SEED = 8,
    BENCH_HAS_PLOT = 16, /* there are pictures of it: bench_plot.c */
    BENCH_HAS_ALL = 31
};

/* What the command line says to every subcommand. */
struct bench_common {
    const char *subcommand;
    unsigned takes;                /* which of those this one has; the others are unknown to it */
    const char *json, *csv, *plot; /* NULL: not wanted */
    uint64_t runs;
    double seconds, warmup;
    uint64_t seed;
    int progress, no_huge_pages;
    int argc;
    char **argv;
};

int bench_local(struct bench_common *common);
int bench_remote(struct bench_common *common);
int bench_staleness(struct bench_common *common);
int bench_outage(struct bench_common *common);
int bench_storm(struct bench_common *common);
int bench_values(struct bench_common *common);
int bench_replay(struct bench_common *common);
int bench_resize(struct bench_common *common);
int bench_invalidate(struct bench_common *common);

/* The program's version on stdout; an exit status. */
int bench_version(void);
/* "nearcache-bench: …" and a newline on stderr. */
void bench_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same when --progress was given. */
void bench_progress(const struct bench_common *common, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Memory or the end of the program, which has nothing to save. */
void *bench_alloc(size_t size);
/* Median of count numbers, which it sorts. */
double bench_median(double *numbers, size_t count);

#endif
