/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* strchrnul */
#endif
#include "bench_options.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "bench_report.h"
#include "nearcache.h"

#define COMMON_ROWS 10 /* at most */

static void common_rows(struct bench_common *common, struct bench_option *rows)
{
    const struct {
        unsigned part; /* of common->takes; 0: every subcommand has it */
        struct bench_option row;
    } all[COMMON_ROWS] = {
        {BENCH_HAS_RUNS,
         {"runs", "N", BENCH_COUNT, &common->runs, 1, 1000, "repeats; figures are medians, with their spread"}},
        {BENCH_HAS_SECONDS, {"seconds", "S", BENCH_REAL, &common->seconds, 0.001, 86400, "measured time of each run"}},
        {BENCH_HAS_WARMUP,
         {"warmup", "S", BENCH_REAL, &common->warmup, 0, 86400, "time before it, left out of the figures"}},
        {BENCH_HAS_SEED, {"seed", "N", BENCH_COUNT, &common->seed, 0, 18e18, "of everything random"}},
        {0, {"json", "FILE", BENCH_TEXT, &common->json, 0, 0, "write results and environment as JSON; -: on stdout"}},
        {0, {"csv", "FILE", BENCH_TEXT, &common->csv, 0, 0, "write results as CSV; -: on stdout"}},
        {BENCH_HAS_PLOT,
         {"plot", "DIR", BENCH_TEXT, &common->plot, 0, 0,
          "write plots there, and draw them where gnuplot is installed"}},
        {0, {"progress", NULL, BENCH_FLAG, &common->progress, 0, 0, "tell what is going on (as on a terminal)"}},
        {0, {"no-huge-pages", NULL, BENCH_FLAG, &common->no_huge_pages, 0, 0, "as where the kernel gives none"}},
        {0, {NULL, NULL, BENCH_FLAG, NULL, 0, 0, NULL}},
    };
    for (size_t i = 0; i < COMMON_ROWS; i++) {
        if (!all[i].part || common->takes & all[i].part)
            *rows++ = all[i].row;
    }
}

static int within(const struct bench_option *row, double number)
{
    return number >= row->min && number <= row->max;
}

/* ---------------------------------------------------------------- help */

#define LEFT 26 /* columns of the options' names */

/* Not printf's width, which counts bytes: "…" has three. */
static void print_left(const char *text)
{
    int columns = 0;
    for (const char *byte = text; *byte; byte++)
        columns += (*byte & 0xc0) != 0x80;
    printf("  %s%*s", text, columns < LEFT ? LEFT - columns : 0, "");
}

static void print_size(uint64_t size)
{
    static const char *const units[] = {"", "k", "m", "g"};
    unsigned unit = 0;
    for (; size && size % 1024 == 0 && unit < 3; unit++)
        size /= 1024;
    printf("%" PRIu64 "%s", size, units[unit]);
}

static void print_counts(const struct bench_counts *counts)
{
    for (unsigned i = 0; i < counts->count; i++)
        printf("%s%" PRIu64, i ? "," : "", counts->number[i]);
}

/* A target outside its bounds, or without a text, has no default. */
static int has_default(const struct bench_option *row)
{
    switch (row->kind) {
    case BENCH_FLAG:
        return 0;
    case BENCH_COUNT:
    case BENCH_SIZE:
        return within(row, (double)*(uint64_t *)row->target);
    case BENCH_REAL:
        return within(row, *(double *)row->target);
    case BENCH_TEXT:
        return *(const char **)row->target != NULL;
    case BENCH_COUNTS:
        return ((struct bench_counts *)row->target)->count > 0;
    }
    return 0;
}

static void print_default(const struct bench_option *row)
{
    if (!has_default(row))
        return;
    fputs(" [", stdout);
    if (row->kind == BENCH_COUNT)
        printf("%" PRIu64, *(uint64_t *)row->target);
    else if (row->kind == BENCH_SIZE)
        print_size(*(uint64_t *)row->target);
    else if (row->kind == BENCH_REAL)
        printf("%.15g", *(double *)row->target);
    else if (row->kind == BENCH_TEXT)
        fputs(*(const char **)row->target, stdout);
    else
        print_counts(row->target);
    putchar(']');
}

static void print_row(const struct bench_option *row)
{
    char left[64];
    snprintf(left, sizeof(left), "--%s%s%s", row->name, row->argument ? " " : "", row->argument ? row->argument : "");
    print_left(left);
    const char *end = strchrnul(row->sentence, '\n');
    printf("%s%.*s", *row->sentence ? " " : "", (int)(end - row->sentence), row->sentence);
    print_default(row);
    if (*end)
        printf("\n  %*s %s", LEFT, "", end + 1);
    putchar('\n');
}

static void print_rows(const struct bench_option *rows)
{
    for (; rows->name; rows++)
        print_row(rows);
}

static int help(const struct bench_common *common, const struct bench_option *rows, const struct bench_option *shared,
                const char *sentence)
{
    printf("usage: nearcache-bench %s [OPTION…]\n\n%s\n\n", common->subcommand, sentence);
    print_rows(rows);
    putchar('\n');
    print_rows(shared);
    printf("  %-*s this text\n  %-*s the version\n", LEFT, "--help", LEFT, "--version");
    return BENCH_OK;
}

int bench_version(void)
{
    return printf("nearcache-bench %s\n", near_version()) > 0 ? BENCH_OK : BENCH_FAILED;
}

/* ---------------------------------------------------------------- parsing */

int bench_options_refuse(const char *name, const char *text, const char *wanted)
{
    bench_say("--%s %s: %s", name, text, wanted);
    return BENCH_USAGE;
}

static const struct bench_option *find(const struct bench_option *rows, const char *name, size_t size)
{
    for (; rows->name; rows++) {
        if (strlen(rows->name) == size && memcmp(rows->name, name, size) == 0)
            return rows;
    }
    return NULL;
}

/* A whole number; *ret_end is the first character after it. */
static int read_count(const char *text, uint64_t *ret, const char **ret_end)
{
    char *end;
    errno = 0;
    if (*text < '0' || *text > '9')
        return 0;
    *ret = strtoull(text, &end, 10);
    *ret_end = end;
    return errno == 0;
}

/* A number with k, m or g after it, perhaps. */
static int read_size(const char *text, uint64_t *ret, const char **ret_end)
{
    static const char units[] = "kmg";
    if (!read_count(text, ret, ret_end))
        return 0;
    const char *unit = **ret_end ? strchr(units, **ret_end | 0x20) : NULL;
    if (!unit)
        return 1;
    unsigned shift = 10 * (unsigned)(unit - units + 1);
    if (*ret > UINT64_MAX >> shift)
        return 0;
    *ret <<= shift;
    ++*ret_end;
    return 1;
}

static int read_counts(const struct bench_option *row, const char *text)
{
    struct bench_counts counts = {0};
    for (;;) {
        if (counts.count == sizeof(counts.number) / sizeof(*counts.number))
            return 0;
        uint64_t *number = &counts.number[counts.count++];
        if (!read_size(text, number, &text) || !within(row, (double)*number))
            return 0;
        if (!*text)
            break;
        if (*text++ != ',')
            return 0;
    }
    *(struct bench_counts *)row->target = counts;
    return 1;
}

static int read_real(const char *text, double *ret)
{
    char *end;
    errno = 0;
    *ret = strtod(text, &end);
    return end != text && !*end && errno == 0 && isfinite(*ret);
}

static int store(const struct bench_option *row, const char *text)
{
    const char *end = "";
    switch (row->kind) {
    case BENCH_FLAG:
        *(int *)row->target = 1;
        return 1;
    case BENCH_COUNT:
        return read_count(text, row->target, &end) && !*end && within(row, (double)*(uint64_t *)row->target);
    case BENCH_SIZE:
        return read_size(text, row->target, &end) && !*end && within(row, (double)*(uint64_t *)row->target);
    case BENCH_REAL:
        return read_real(text, row->target) && within(row, *(double *)row->target);
    case BENCH_TEXT:
        *(const char **)row->target = text;
        return *text != 0;
    case BENCH_COUNTS:
        return read_counts(row, text);
    }
    return 0;
}

static int refuse_number(const struct bench_option *row, const char *text)
{
    static const struct {
        const char *what, *more;
    } kinds[] = {[BENCH_COUNT] = {"a number", ""},
                 [BENCH_SIZE] = {"a number", " (k, m or g may follow it)"},
                 [BENCH_REAL] = {"a number", ""},
                 [BENCH_COUNTS] = {"up to 16 numbers", ", with commas between (k, m or g may follow each)"}};
    _Static_assert(sizeof(((struct bench_counts *)0)->number) == 16 * sizeof(uint64_t), "as many as the text says");
    char wanted[160] = "must not be empty";
    if (row->kind != BENCH_TEXT)
        snprintf(wanted, sizeof(wanted), "must be %s from %.15g to %.15g%s", kinds[row->kind].what, row->min, row->max,
                 kinds[row->kind].more);
    return bench_options_refuse(row->name, text, wanted);
}

int bench_options_parse(struct bench_common *common, const struct bench_option *rows, const char *sentence)
{
    struct bench_option shared[COMMON_ROWS];
    common_rows(common, shared);
    for (int i = 0; i < common->argc; i++) {
        const char *word = common->argv[i];
        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
            return help(common, rows, shared, sentence);
        if (strcmp(word, "--version") == 0)
            return bench_version();
        if (strncmp(word, "--", 2) != 0) {
            bench_say("%s: unexpected argument", word);
            return BENCH_USAGE;
        }
        size_t size = strcspn(word + 2, "=");
        const struct bench_option *row = find(rows, word + 2, size);
        if (!row)
            row = find(shared, word + 2, size);
        if (!row) {
            bench_say("%s: unknown option; see nearcache-bench %s --help", word, common->subcommand);
            return BENCH_USAGE;
        }
        const char *text = word[2 + size] ? word + 3 + size : NULL;
        if (!text && row->argument)
            text = common->argv[++i]; /* argv ends with NULL */
        if ((text != NULL) != (row->argument != NULL)) {
            bench_say("--%s: %s", row->name, row->argument ? "needs an argument" : "takes no argument");
            return BENCH_USAGE;
        }
        if (!store(row, text))
            return refuse_number(row, text);
    }
    if (common->no_huge_pages && prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) != 0) { /* children inherit it */
        bench_say("--no-huge-pages: %s", strerror(errno));
        return BENCH_FAILED;
    }
    if (common->json && common->csv && strcmp(common->json, common->csv) == 0)
        return bench_options_refuse("csv", common->csv, "is where the JSON goes");
    return bench_report_check(common) == BENCH_OK ? -1 : BENCH_FAILED;
}

int bench_options_check(const char *name, const char *option, const char *text)
{
    near_options options;
    near_error error = {0};
    near_options_init(&options);
    return near_option_set(&options, option, text, &error) == NEAR_OK ? -1
                                                                      : bench_options_refuse(name, text, error.text);
}
