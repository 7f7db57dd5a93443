/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A picture is a family of lines: rows with the same word in one column make a line, two more columns are x and y.  The
 * data files and scripts stay beside the pictures, so that anybody can draw them anew. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bench_plot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench_child.h"

struct picture {
    const char *subcommand;
    const char *name, *title;
    const char *line; /* column whose words name the lines */
    /* NULL: the quantiles of each row are the line; without y: a list, of which each row makes a line */
    const char *x, *x_label;
    const char *y, *y_label;
    const char *set; /* more for gnuplot */
    double factor;
};

static const struct picture pictures[] = {
    {"local", "throughput", "Throughput by threads", "engine", "threads", "threads", "ops_per_second",
     "million operations a second", "set logscale y", 1e-6},
    {"local", "latency", "Latency", "engine", NULL, "percentile", NULL, "nanoseconds", "set logscale y", 1},
    {"remote", "throughput", "Throughput by threads", "name", "threads", "threads", "ops_per_second",
     "operations a second", "set logscale y", 1},
    {"remote", "latency", "Latency", "name", NULL, "percentile", NULL, "nanoseconds", "set logscale y", 1},
    {"staleness", "staleness", "Delay after a write", "delay", "ns_percentiles", "microseconds", NULL, "percentile",
     "set logscale x; set yrange [0:100]", 1e-3},
    {"replay", "hit-ratio", "Hit ratio by size", "policy", "limit", "size of the cache", "hit_ratio", "hit ratio, %",
     "set logscale x; set yrange [0:100]", 100},
};

static const struct {
    const char *name;
    double percent;
} quantiles[] = {{"ns_p50", 50}, {"ns_p90", 90}, {"ns_p99", 99}, {"ns_p999", 99.9}};

/* ---------------------------------------------------------------- data */

/* A line has one number of threads, unless these are its x. */
static int is_same_line(const struct picture *picture, const struct bench_row *a, const struct bench_row *b)
{
    return strcmp(bench_row_word(a, picture->line), bench_row_word(b, picture->line)) == 0 &&
           (strcmp(picture->x, "threads") == 0 || bench_row_number(a, "threads") == bench_row_number(b, "threads"));
}

static void line_data(const struct bench_report *report, const struct picture *picture, size_t first, FILE *data)
{
    for (size_t i = first; i < report->rows; i++) {
        const struct bench_row *row = &report->row[i];
        if (is_same_line(picture, row, &report->row[first]))
            fprintf(data, "%.9g %.9g\n", bench_row_number(row, picture->x),
                    bench_row_number(row, picture->y) * picture->factor);
    }
}

static void quantile_data(const struct bench_row *row, FILE *data)
{
    for (size_t q = 0; q < sizeof(quantiles) / sizeof(*quantiles); q++)
        fprintf(data, "%zu %.9g\n", q, bench_row_number(row, quantiles[q].name));
}

/* A distribution: values against their rank in per cent. */
static void list_data(const struct bench_row *row, const struct picture *picture, FILE *data)
{
    const struct bench_field *field = bench_row_find(row, picture->x);
    for (size_t i = 0; field && i < field->items; i++)
        fprintf(data, "%.9g %zu\n", field->list[i] * picture->factor, i);
}

static int is_first(const struct bench_report *report, const struct picture *picture, size_t i)
{
    for (size_t k = 0; k < i; k++) {
        if (is_same_line(picture, &report->row[k], &report->row[i]))
            return 0;
    }
    return 1;
}

/* A text as gnuplot takes it literally. */
static void quote(FILE *script, const char *text)
{
    fputc('\'', script);
    for (; *text; text++) {
        if (*text == '\'')
            fputc('\'', script);
        fputc(*text, script);
    }
    fputc('\'', script);
}

/* Blocks of data, each with its title in a comment; returns how many, with their titles in the script's plot
 * command. */
static unsigned write_blocks(const struct bench_report *report, const struct picture *picture, FILE *data, FILE *script)
{
    unsigned blocks = 0;
    for (size_t i = 0; i < report->rows; i++) {
        const struct bench_row *row = &report->row[i];
        const char *line = bench_row_word(row, picture->line);
        char title[128];
        unsigned threads = (unsigned)bench_row_number(row, "threads");
        if (picture->y && strcmp(picture->x, "threads") == 0)
            threads = 0;
        if (picture->y && !is_first(report, picture, i))
            continue;
        snprintf(title, sizeof(title), threads ? "%s, %u thread%s" : "%s", line, threads, threads == 1 ? "" : "s");
        fprintf(data, "# %s\n", title);
        if (picture->y)
            line_data(report, picture, i, data);
        else if (picture->x)
            list_data(row, picture, data);
        else
            quantile_data(row, data);
        fputs("\n\n", data);
        fprintf(script, "%s'%s.dat' index %u title ", blocks ? ", \\\n     " : "plot ", picture->name, blocks);
        quote(script, title);
        blocks++;
    }
    fputc('\n', script);
    return blocks;
}

/* ---------------------------------------------------------------- scripts */

static FILE *open_in(const char *folder, const char *name, const char *suffix)
{
    char path[4096];
    if (snprintf(path, sizeof(path), "%s/%s%s", folder, name, suffix) >= (int)sizeof(path))
        return NULL;
    FILE *file = fopen(path, "we");
    if (!file)
        bench_say("%s: %s", path, strerror(errno));
    return file;
}

/* 1: not all of it was written, which is said.  file NULL: it was not opened, which has been said. */
static int close_in(FILE *file, const char *folder, const char *name, const char *suffix)
{
    if (!file)
        return 1;
    int failed = fflush(file) != 0 || ferror(file);
    if (failed)
        bench_say("%s/%s%s: %s", folder, name, suffix, strerror(errno));
    return (fclose(file) != 0) | failed;
}

static void write_script_head(const struct picture *picture, FILE *script)
{
    fprintf(script, "set title '%s'\nset xlabel '%s'\nset ylabel '%s'\n", picture->title, picture->x_label,
            picture->y_label);
    fprintf(script, "set key outside right\nset grid\nset style data %s\n%s\n",
            picture->x && !picture->y ? "lines" : "linespoints", picture->set);
    if (!picture->x)
        fputs("set xtics ('50' 0, '90' 1, '99' 2, '99.9' 3)\n", script);
    fprintf(script, "set terminal svg size 900,540\nset output '%s.svg'\n", picture->name);
}

static int write_picture(const struct bench_report *report, const struct picture *picture, const char *folder)
{
    FILE *data = open_in(folder, picture->name, ".dat"), *script = open_in(folder, picture->name, ".gnuplot");
    if (data && script) {
        write_script_head(picture, script);
        write_blocks(report, picture, data, script);
        fprintf(script, "set terminal png size 900,540\nset output '%s.png'\nreplot\n", picture->name);
    }
    return close_in(data, folder, picture->name, ".dat") | close_in(script, folder, picture->name, ".gnuplot");
}

/* Draws a script in its folder: 0 done, 127 no gnuplot, otherwise it failed. */
static int draw(const char *folder, const char *name)
{
    char script[64];
    int status = 0;
    snprintf(script, sizeof(script), "%s.gnuplot", name);
    pid_t child = bench_child_fork();
    if (child == 0) {
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        (void)dup2(null, STDOUT_FILENO);
        (void)dup2(null, STDERR_FILENO); /* it warns of every line with a single point */
        if (chdir(folder) != 0)
            _exit(1);
        execlp("gnuplot", "gnuplot", script, (char *)NULL);
        _exit(127);
    }
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return child > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int bench_plot(const struct bench_report *report, const char *folder)
{
    fflush(NULL);
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
        bench_say("%s: %s", folder, strerror(errno));
        return BENCH_FAILED;
    }
    int missing = 0;
    for (size_t i = 0; i < sizeof(pictures) / sizeof(*pictures); i++) {
        const struct picture *picture = &pictures[i];
        if (strcmp(picture->subcommand, report->common->subcommand) != 0)
            continue;
        if (write_picture(report, picture, folder) != 0)
            return BENCH_FAILED;
        int status = missing ? 127 : draw(folder, picture->name);
        missing |= status == 127;
        if (status && !missing) {
            bench_say("gnuplot failed; see for yourself: cd %s && gnuplot %s.gnuplot", folder, picture->name);
            return BENCH_FAILED;
        }
    }
    if (missing)
        bench_say("gnuplot is not installed; in %s, `gnuplot *.gnuplot` draws the pictures", folder);
    return BENCH_OK;
}
