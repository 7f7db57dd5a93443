/* SPDX-License-Identifier: BSD-3-Clause */
#include "bench_report.h"

#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench_environment.h"
#include "bench_json.h"
#include "bench_plot.h"

void bench_report_init(struct bench_report *report, const struct bench_common *common)
{
    *report = (struct bench_report){.common = common};
}

static void row_fini(struct bench_row *row)
{
    for (unsigned i = 0; i < row->fields; i++)
        free(row->field[i].list);
}

void bench_report_fini(struct bench_report *report)
{
    row_fini(&report->setting);
    for (size_t i = 0; i < report->rows; i++)
        row_fini(&report->row[i]);
    free(report->row);
}

struct bench_row *bench_report_row(struct bench_report *report)
{
    struct bench_row *rows = realloc(report->row, (report->rows + 1) * sizeof(*rows));
    if (!rows) {
        bench_say("out of memory");
        exit(BENCH_FAILED);
    }
    report->row = rows;
    memset(&rows[report->rows], 0, sizeof(*rows));
    return &rows[report->rows++];
}

/* ---------------------------------------------------------------- fields */

static struct bench_field *add(struct bench_row *row, const char *name, const char *heading, enum bench_field_kind kind)
{
    struct bench_field *field = &row->field[row->fields];
    if (row->fields < BENCH_FIELDS_MAX - 1)
        row->fields++;
    *field = (struct bench_field){.name = name, .heading = heading, .kind = kind};
    return field;
}

void bench_row_text(struct bench_row *row, const char *name, const char *heading, const char *text)
{
    add(row, name, heading, BENCH_FIELD_TEXT)->text = text;
}

void bench_row_count(struct bench_row *row, const char *name, const char *heading, uint64_t count)
{
    add(row, name, heading, BENCH_FIELD_COUNT)->count = count;
}

void bench_row_real(struct bench_row *row, const char *name, const char *heading, double factor, int decimals,
                    double real)
{
    struct bench_field *field = add(row, name, heading, BENCH_FIELD_REAL);
    field->real = isfinite(real) ? real : 0;
    field->factor = factor;
    field->decimals = decimals;
}

void bench_row_none(struct bench_row *row, const char *name, const char *heading)
{
    add(row, name, heading, BENCH_FIELD_NONE);
}

void bench_row_list(struct bench_row *row, const char *name, const double *list, size_t items)
{
    struct bench_field *field = add(row, name, NULL, BENCH_FIELD_LIST);
    field->list = bench_alloc(items * sizeof(*list));
    field->items = items;
    if (items)
        memcpy(field->list, list, items * sizeof(*list));
}

const struct bench_field *bench_row_find(const struct bench_row *row, const char *name)
{
    for (unsigned i = 0; i < row->fields; i++) {
        if (strcmp(row->field[i].name, name) == 0)
            return &row->field[i];
    }
    return NULL;
}

double bench_row_number(const struct bench_row *row, const char *name)
{
    const struct bench_field *field = bench_row_find(row, name);
    if (!field)
        return 0;
    return field->kind == BENCH_FIELD_COUNT ? (double)field->count : field->real;
}

const char *bench_row_word(const struct bench_row *row, const char *name)
{
    const struct bench_field *field = bench_row_find(row, name);
    return field && field->text ? field->text : "";
}

/* ---------------------------------------------------------------- JSON, CSV */

static void json_row(struct bench_json *json, const char *name, const struct bench_row *row)
{
    bench_json_open(json, name, '{');
    for (unsigned i = 0; i < row->fields; i++) {
        const struct bench_field *field = &row->field[i];
        if (field->kind == BENCH_FIELD_TEXT)
            bench_json_text(json, field->name, field->text);
        else if (field->kind == BENCH_FIELD_COUNT)
            bench_json_count(json, field->name, field->count);
        else if (field->kind == BENCH_FIELD_REAL)
            bench_json_real(json, field->name, field->real);
        else if (field->kind == BENCH_FIELD_LIST) {
            bench_json_open(json, field->name, '[');
            for (size_t k = 0; k < field->items; k++)
                bench_json_real(json, NULL, field->list[k]);
            bench_json_close(json);
        }
    }
    bench_json_close(json);
}

static void write_json(struct bench_report *report, FILE *out)
{
    struct bench_json json = {.out = out};
    bench_json_open(&json, NULL, '{');
    bench_json_text(&json, "program", "nearcache-bench");
    bench_json_text(&json, "subcommand", report->common->subcommand);
    bench_environment_write(&json, report->common);
    json_row(&json, "configuration", &report->setting);
    bench_json_open(&json, "results", '[');
    for (size_t i = 0; i < report->rows; i++)
        json_row(&json, NULL, &report->row[i]);
    bench_json_close(&json);
    bench_json_close(&json);
    fputc('\n', out);
}

static void csv_text(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"')
            fputc('"', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

static void csv_row(FILE *out, const struct bench_row *row, int heading)
{
    const char *comma = "";
    for (unsigned i = 0; i < row->fields; i++) {
        const struct bench_field *field = &row->field[i];
        if (field->kind == BENCH_FIELD_LIST)
            continue;
        fputs(comma, out);
        comma = ",";
        if (heading)
            fputs(field->name, out);
        else if (field->kind == BENCH_FIELD_TEXT)
            csv_text(out, field->text);
        else if (field->kind == BENCH_FIELD_COUNT)
            fprintf(out, "%" PRIu64, field->count);
        else if (field->kind == BENCH_FIELD_REAL)
            fprintf(out, "%.9g", field->real);
    }
    fputc('\n', out);
}

static void write_csv(struct bench_report *report, FILE *out)
{
    if (report->rows)
        csv_row(out, &report->row[0], 1);
    for (size_t i = 0; i < report->rows; i++)
        csv_row(out, &report->row[i], 0);
}

/* ---------------------------------------------------------------- table */

static int cell(char *text, size_t capacity, const struct bench_field *field)
{
    if (field->kind == BENCH_FIELD_NONE)
        return snprintf(text, capacity, "-");
    if (field->kind == BENCH_FIELD_TEXT)
        return snprintf(text, capacity, "%s", field->text);
    if (field->kind == BENCH_FIELD_COUNT)
        return snprintf(text, capacity, "%" PRIu64, field->count);
    return snprintf(text, capacity, "%.*f", field->decimals, field->real * field->factor);
}

static int width_of(const struct bench_report *report, unsigned column)
{
    char text[128];
    int width = (int)strlen(report->row[0].field[column].heading);
    for (size_t i = 0; i < report->rows; i++) {
        int size = cell(text, sizeof(text), &report->row[i].field[column]);
        width = size > width ? size : width;
    }
    return width;
}

static void table_line(const struct bench_row *row, const int *width, int heading, FILE *out)
{
    for (unsigned c = 0; c < row->fields; c++) {
        const struct bench_field *field = &row->field[c];
        char text[128];
        if (!field->heading)
            continue;
        if (heading)
            snprintf(text, sizeof(text), "%s", field->heading);
        else
            cell(text, sizeof(text), field);
        fprintf(out, field->kind == BENCH_FIELD_TEXT ? "%-*s  " : "%*s  ", width[c], text);
    }
    fputc('\n', out);
}

static void write_table(struct bench_report *report, FILE *out)
{
    int width[BENCH_FIELDS_MAX] = {0};
    if (!report->rows)
        return;
    for (unsigned c = 0; c < report->row[0].fields; c++) {
        if (report->row[0].field[c].heading)
            width[c] = width_of(report, c);
    }
    table_line(&report->row[0], width, 1, out);
    for (size_t i = 0; i < report->rows; i++)
        table_line(&report->row[i], width, 0, out);
}

/* ---------------------------------------------------------------- */

static int write_to(struct bench_report *report, const char *path, void (*write)(struct bench_report *, FILE *))
{
    int to_stdout = strcmp(path, "-") == 0;
    FILE *out = to_stdout ? stdout : fopen(path, "we");
    if (out) {
        write(report, out);
        int failed = fflush(out) != 0 || ferror(out);
        if (!to_stdout)
            failed |= fclose(out) != 0;
        if (!failed)
            return BENCH_OK;
    }
    bench_say("%s: %s", to_stdout ? "standard output" : path, strerror(errno));
    return BENCH_FAILED;
}

/* Without making anything: whoever reads a pipe must not see an end of it. */
static int check_path(const char *path, int folder)
{
    struct stat there;
    char *copy = strdup(path);
    errno = copy ? 0 : ENOMEM;
    if (copy && stat(path, &there) == 0) {
        if ((S_ISDIR(there.st_mode) != 0) != folder)
            errno = folder ? ENOTDIR : EISDIR;
        else
            (void)access(path, folder ? W_OK | X_OK : W_OK);
    } else if (copy && errno == ENOENT) {
        errno = 0;
        (void)access(dirname(copy), W_OK | X_OK);
    }
    if (errno)
        bench_say("%s: %s", path, strerror(errno));
    int status = errno ? BENCH_FAILED : BENCH_OK;
    free(copy);
    return status;
}

int bench_report_check(const struct bench_common *common)
{
    const char *files[] = {common->json, common->csv};
    for (size_t i = 0; i < 2; i++) {
        if (files[i] && strcmp(files[i], "-") != 0 && check_path(files[i], 0) != BENCH_OK)
            return BENCH_FAILED;
    }
    return common->plot ? check_path(common->plot, 1) : BENCH_OK;
}

int bench_report_write(struct bench_report *report)
{
    const struct bench_common *common = report->common;
    int status = BENCH_OK;
    int taken = (common->json && strcmp(common->json, "-") == 0) || (common->csv && strcmp(common->csv, "-") == 0);
    if (!taken)
        status |= write_to(report, "-", write_table);
    if (common->json)
        status |= write_to(report, common->json, write_json);
    if (common->csv)
        status |= write_to(report, common->csv, write_csv);
    if (common->plot)
        status |= bench_plot(report, common->plot);
    return status;
}
