/* SPDX-License-Identifier: BSD-3-Clause
 * Results: rows of named figures, written as a table for people, as JSON with the environment, and as CSV. */
#ifndef NEAR_BENCH_REPORT_H
#define NEAR_BENCH_REPORT_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "bench.h"

#define BENCH_FIELDS_MAX 32

enum bench_field_kind { BENCH_FIELD_NONE, BENCH_FIELD_TEXT, BENCH_FIELD_COUNT, BENCH_FIELD_REAL, BENCH_FIELD_LIST };

struct bench_field {
    const char *name;
    const char *heading; /* in the table; NULL: not there */
    enum bench_field_kind kind;
    int decimals;     /* in the table */
    double factor;    /* of a real in the table: 100 for per cent, 1e-6 for millions */
    const char *text; /* owner: lives as long as the report */
    uint64_t count;
    double real;
    double *list; /* owner: the row */
    size_t items;
};

struct bench_row {
    unsigned fields;
    struct bench_field field[BENCH_FIELDS_MAX];
};

struct bench_report {
    const struct bench_common *common;
    struct bench_row setting; /* what was measured: "configuration" in JSON */
    struct bench_row *row;
    size_t rows;
};

void bench_report_init(struct bench_report *report, const struct bench_common *common);
void bench_report_fini(struct bench_report *report);
struct bench_row *bench_report_row(struct bench_report *report);

/* heading NULL: not in the table. */
void bench_row_text(struct bench_row *row, const char *name, const char *heading, const char *text);
void bench_row_count(struct bench_row *row, const char *name, const char *heading, uint64_t count);
void bench_row_real(struct bench_row *row, const char *name, const char *heading, double factor, int decimals,
                    double real);
/* What other rows have and this one has not: a column without a figure, not in JSON. */
void bench_row_none(struct bench_row *row, const char *name, const char *heading);
/* Only in JSON; copies the list. */
void bench_row_list(struct bench_row *row, const char *name, const double *list, size_t items);
/* NULL when the row has no such field. */
const struct bench_field *bench_row_find(const struct bench_row *row, const char *name);
/* 0 when the row has no such number. */
double bench_row_number(const struct bench_row *row, const char *name);
const char *bench_row_word(const struct bench_row *row, const char *name);

/* Before anything is measured: whether the files that are wanted can be written.  An exit status. */
int bench_report_check(const struct bench_common *common);
/* Table on stdout (unless JSON or CSV go there), JSON, CSV and plots where they are wanted.  An exit status. */
int bench_report_write(struct bench_report *report);

#endif
