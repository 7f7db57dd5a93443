/* SPDX-License-Identifier: BSD-3-Clause
 * Options of the command line: one row each gives name, kind, bounds, where it goes and what the help says. */
#ifndef NEAR_BENCH_OPTIONS_H
#define NEAR_BENCH_OPTIONS_H
#include "bench.h"

enum bench_kind {
    BENCH_FLAG,   /* int *, set to 1 */
    BENCH_COUNT,  /* uint64_t * */
    BENCH_SIZE,   /* uint64_t *, with k, m or g after it */
    BENCH_REAL,   /* double * */
    BENCH_TEXT,   /* const char ** */
    BENCH_COUNTS, /* struct bench_counts *, separated by commas, k, m or g after each */
};

struct bench_counts {
    unsigned count;
    uint64_t number[16];
};

struct bench_option {
    const char *name;     /* without the dashes; NULL ends the rows */
    const char *argument; /* how the help calls it; NULL: a flag */
    enum bench_kind kind;
    void *target;
    double min, max;      /* of numbers */
    const char *sentence; /* of one line or two; the help puts what the target has by default behind the first */
};

/* Parses common->argv from its first element on: `rows`, then the common ones.  Returns -1 to go on, otherwise the exit
 * status (--help, --version, something wrong: the text is written). */
int bench_options_parse(struct bench_common *common, const struct bench_option *rows, const char *sentence);
/* Says what is wrong with an option's argument; BENCH_USAGE. */
int bench_options_refuse(const char *name, const char *text, const char *wanted);
/* -1: the library takes this text for an option of its own; otherwise as bench_options_refuse. */
int bench_options_check(const char *name, const char *option, const char *text);

#endif
