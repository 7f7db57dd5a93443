/* SPDX-License-Identifier: BSD-3-Clause
 * What the demo says: a line every second, a table at the end, the same as JSON. */
#include "demo.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { SUMS = HISTOGRAM_ROWS * HISTOGRAM_SUB };

struct totals {
    uint64_t reads; /* that returned a value */
    uint64_t local, remote, shared, errors, socket_reads, writes, writes_failed, writes_unknown;
    int64_t call_max_ns;
    struct board_quantiles hit, miss, write, outdated, socket;
    uint64_t outdated_max;
};

/* ---------------------------------------------------------------- sums */

typedef const struct board_histogram *(*choose_fn)(const struct board_actor *actor);

static const struct board_histogram *choose_hit(const struct board_actor *a)
{
    return &a->hit;
}
static const struct board_histogram *choose_miss(const struct board_actor *a)
{
    return &a->miss;
}
static const struct board_histogram *choose_write(const struct board_actor *a)
{
    return &a->write;
}
static const struct board_histogram *choose_outdated(const struct board_actor *a)
{
    return &a->outdated;
}

/* Actors [first, last] of processes [from, to]. */
static struct board_quantiles quantiles(const struct board *board, uint32_t from, uint32_t to, int first, int last,
                                        choose_fn choose)
{
    uint64_t sums[SUMS] = {0}, max = 0;
    struct board_quantiles q;
    for (uint32_t p = from; p <= to; p++)
        for (int i = first; i <= last; i++) {
            const struct board_histogram *h = choose(&board->process[p].actors[i]);
            uint64_t its_max = atomic_load(&h->max);
            histogram_merge(sums, h);
            max = its_max > max ? its_max : max;
        }
    q = histogram_quantiles(sums);
    q.max = max;
    q.p50 = q.p50 < max ? q.p50 : max; /* a bucket's upper end may lie above the largest number in it */
    q.p99 = q.p99 < max ? q.p99 : max;
    q.p999 = q.p999 < max ? q.p999 : max;
    return q;
}

static void add_actor(struct totals *t, const struct board_actor *a, int outside)
{
    int64_t call_max = atomic_load(&a->call_max_ns);
    uint64_t outdated = atomic_load(&a->outdated.max);
    uint64_t reads = atomic_load(&a->reads), errors = atomic_load(&a->errors);
    t->reads += reads > errors ? reads - errors : 0;
    t->local += atomic_load(&a->local);
    t->remote += atomic_load(&a->remote);
    t->shared += atomic_load(&a->shared);
    t->errors += errors;
    t->writes += atomic_load(&a->writes);
    t->writes_failed += atomic_load(&a->writes_failed);
    t->writes_unknown += atomic_load(&a->writes_unknown);
    if (outside)
        t->socket_reads += reads > errors ? reads - errors : 0;
    t->call_max_ns = call_max > t->call_max_ns ? call_max : t->call_max_ns;
    t->outdated_max = outdated > t->outdated_max ? outdated : t->outdated_max;
}

static struct totals totals_of(const struct board *board, uint32_t from, uint32_t to)
{
    struct totals t = {0};
    for (uint32_t p = from; p <= to; p++)
        for (int i = 0; i < BOARD_ACTORS; i++)
            add_actor(&t, &board->process[p].actors[i], i == BOARD_READERS + 1);
    return t;
}

static struct totals all_totals(const struct board *board)
{
    uint32_t last = board->processes - 1;
    struct totals t = totals_of(board, 0, last);
    t.hit = quantiles(board, 0, last, 0, BOARD_READERS - 1, choose_hit);
    t.miss = quantiles(board, 0, last, 0, BOARD_READERS - 1, choose_miss);
    t.write = quantiles(board, 0, last, BOARD_READERS, BOARD_READERS, choose_write);
    t.outdated = quantiles(board, 0, last, 0, BOARD_ACTORS - 1, choose_outdated);
    t.socket = quantiles(board, 0, last, BOARD_READERS + 1, BOARD_READERS + 1, choose_hit);
    return t;
}

static uint64_t gauge(const struct board *board, uint32_t process, enum gauge which)
{
    return atomic_load(&board->process[process].gauges[which]);
}

static uint64_t gauge_max(const struct board *board, enum gauge which)
{
    uint64_t max = 0;
    for (uint32_t p = 0; p < board->processes; p++)
        max = gauge(board, p, which) > max ? gauge(board, p, which) : max;
    return max;
}

static double percent(uint64_t part, uint64_t whole)
{
    return whole ? 100.0 * (double)part / (double)whole : 0;
}

/* ---------------------------------------------------------------- numbers people can read */

static const char *duration(uint64_t ns, char text[16])
{
    if (ns < 1000)
        snprintf(text, 16, "%" PRIu64 " ns", ns);
    else if (ns < 1000000)
        snprintf(text, 16, "%.3g us", (double)ns / 1e3);
    else if (ns < 1000000000)
        snprintf(text, 16, "%.3g ms", (double)ns / 1e6);
    else
        snprintf(text, 16, "%.2f s", (double)ns / 1e9);
    return text;
}

static const char *count(double number, char text[16])
{
    if (number < 1e4)
        snprintf(text, 16, "%.0f", number);
    else if (number < 1e6)
        snprintf(text, 16, "%.1f k", number / 1e3);
    else
        snprintf(text, 16, "%.2f M", number / 1e6);
    return text;
}

/* ---------------------------------------------------------------- while it runs */

void report_begin(const struct demo *demo)
{
    const struct board *b = demo->board;
    size_t bytes = 0;
    char text[16];
    for (uint32_t i = 0; i < b->record_count; i++)
        bytes += value_size(b, i) + b->records[i].key_size;
    if (demo->generated > 0)
        printf("%s generated records", count(b->record_count, text));
    else
        printf("%u Debian packages and %u of their files", demo->packages, demo->files);
    printf(" (%.1f MB) in Redis; %u servers with nearcache in front, %s of local tier each\n", (double)bytes / 1e6,
           b->processes, demo->options.local_bytes);
    printf("reads by Zipf's law in %u threads of each server and over its socket; %u records are being updated,"
           " %u times a second\n",
           b->readers, b->watched_count, b->updates_per_s * b->processes);
    printf("staleness bound %d ms; seed %" PRIu64
           "; Redis appends every write to its file before it answers, so killing"
           " it loses nothing\n",
           demo->options.bound_ms, b->seed);
    fflush(stdout);
}

static const char *fault_now(const struct demo *demo, char *text, size_t capacity)
{
    const struct fault *fault = faults_now(demo);
    char name[96];
    if (!fault)
        return "";
    snprintf(text, capacity, "%s%s", fault_name(fault, name, sizeof name),
             fault->state == FAULT_RECOVERING && fault->length_ns > 0 ? ": over, recovering" : "");
    return text;
}

/* A terminal's line is rewritten in place and must fit; what is done to the system gets a line of its own there. */
static void print_line(const char *line, const char *fault)
{
    static char fault_before[160];
    struct winsize size = {0};
    if (!isatty(STDOUT_FILENO)) {
        printf("%s  %s\n", line, fault);
    } else {
        if (strcmp(fault, fault_before) != 0 && *fault)
            printf("\r\033[K       %s\n", fault);
        snprintf(fault_before, sizeof fault_before, "%s", fault);
        if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
            size.ws_col = 80;
        printf("\r%.*s\033[K", size.ws_col - 1, line);
    }
    fflush(stdout);
}

void report_second(const struct demo *demo)
{
    static struct totals before;
    static int64_t before_ns;
    struct totals now = all_totals(demo->board);
    int64_t now_ns = board_now();
    double seconds = (double)(now_ns - (before_ns ? before_ns : demo->started_ns)) / 1e9;
    uint64_t inside = now.reads - before.reads - (now.socket_reads - before.socket_reads);
    char line[256], rate[16], hit[16], miss[16], delay[16], oldest[16], fault[160];
    snprintf(line, sizeof line,
             "%3.0f s %7s reads/s  hits %5.1f %%  violations %" PRIu64
             "  hit %-7s miss %-7s write to invalidation %-7s oldest %-7s",
             (double)(now_ns - demo->started_ns) / 1e9, count((double)(now.reads - before.reads) / seconds, rate),
             percent(now.local - before.local, inside), board_violations(demo->board), duration(now.hit.p50, hit),
             duration(now.miss.p50, miss), duration(gauge_max(demo->board, GAUGE_DELAY_P50), delay),
             duration(now.outdated_max, oldest));
    print_line(line, fault_now(demo, fault, sizeof fault));
    before = now;
    before_ns = now_ns;
}

/* ---------------------------------------------------------------- the table */

static double run_seconds(const struct demo *demo)
{
    return (double)(demo->stopped_ns - demo->started_ns) / 1e9;
}

static void print_processes(const struct demo *demo)
{
    const struct board *b = demo->board;
    printf("\n%-9s %12s %12s %12s %12s %8s %10s %10s %10s %12s\n", "process", "local hits/s", "Redis/s", "shared/s",
           "by socket/s", "hits", "entries", "memory", "writes/s", "invalidated");
    for (uint32_t p = 0; p < b->processes; p++) {
        struct totals t = totals_of(b, p, p);
        double s = run_seconds(demo);
        char text[6][16];
        printf("%-9u %12s %12s %12s %12s %6.1f %% %10s %7.1f MB %10s %12s\n", p + 1,
               count((double)t.local / s, text[0]), count((double)t.remote / s, text[1]),
               count((double)t.shared / s, text[2]), count((double)t.socket_reads / s, text[3]),
               percent(t.local, t.reads - t.socket_reads), count((double)gauge(b, p, GAUGE_ENTRIES), text[4]),
               (double)gauge(b, p, GAUGE_BYTES) / 1e6, count((double)t.writes / s, text[5]),
               count((double)gauge(b, p, GAUGE_INVALIDATIONS), (char[16]){0}));
    }
}

static void print_quantiles(const char *name, const struct board_quantiles *q)
{
    char text[4][16];
    printf("%-38s %10s %10s %10s %10s %12" PRIu64 "\n", name, duration(q->p50, text[0]), duration(q->p99, text[1]),
           duration(q->p999, text[2]), duration(q->max, text[3]), q->count);
}

static void print_latencies(const struct demo *demo, const struct totals *t)
{
    printf("\n%-38s %10s %10s %10s %10s %12s\n", "time of", "p50", "p99", "p99.9", "max", "count");
    print_quantiles("a local hit", &t->hit);
    print_quantiles("a miss (Redis, or another's fetch)", &t->miss);
    print_quantiles("a write, until acknowledged", &t->write);
    print_quantiles("16 pipelined reads over a socket", &t->socket);
    for (uint32_t p = 0; p < demo->board->processes; p++) {
        char name[48], text[3][16];
        snprintf(name, sizeof name, "write to invalidation, process %u", p + 1);
        printf("%-38s %10s %10s %10s %10s %12" PRIu64 "\n", name,
               duration(gauge(demo->board, p, GAUGE_DELAY_P50), text[0]),
               duration(gauge(demo->board, p, GAUGE_DELAY_P99), text[1]), "",
               duration(gauge(demo->board, p, GAUGE_DELAY_MAX), text[2]), gauge(demo->board, p, GAUGE_DELAY_COUNT));
    }
}

static void print_faults(const struct demo *demo)
{
    if (demo->fault_count > 0)
        printf("\n%-56s %10s %16s %14s\n", "fault", "at", "recovered after", "failed calls");
    for (int i = 0; i < demo->fault_count; i++) {
        const struct fault *f = &demo->faults[i];
        char name[96], after[16];
        int over = f->state == FAULT_OVER && f->recovered_ns > 0;
        printf("%-56s %8.1f s %16s %14" PRIu64 "\n", fault_name(f, name, sizeof name), (double)f->at_ns / 1e9,
               over ? duration((uint64_t)(f->recovered_ns - f->ended_ns), after) : "not",
               f->state == FAULT_OVER ? f->errors : 0);
    }
}

static void print_verdict(const struct demo *demo, const struct totals *t)
{
    const struct board *b = demo->board;
    char text[4][16];
    printf("\n%s reads judged, %" PRIu64 " writes acknowledged (%" PRIu64 " refused, %" PRIu64 " of unknown fate),"
           " longest call %s (deadline %d ms)\n",
           count((double)t->reads, text[0]), t->writes, t->writes_failed, t->writes_unknown,
           duration((uint64_t)t->call_max_ns, text[1]), DEMO_TIMEOUT_MS);
    printf("oldest value ever served: overwritten %s before the read began, bound %s; %" PRIu64
           " values served after their successor was acknowledged, p99 %s\n",
           duration(t->outdated_max, text[2]), duration((uint64_t)b->bound_ns, text[3]), t->outdated.count,
           duration(t->outdated.p99, (char[16]){0}));
    if (demo->sabotages > 0)
        printf("sabotage: %" PRIu64 " records overwritten behind everybody's back\n", demo->sabotages);
    for (int i = 0; i < VIOLATION_COUNT; i++)
        if (atomic_load(&b->violations[i]) > 0)
            printf("  %-26s %" PRIu64 "\n", violation_names[i], atomic_load(&b->violations[i]));
    for (uint32_t i = 0; i < BOARD_NOTES; i++) {
        char note[512];
        /* acquire: pairs with the release in board_violation */
        if (!atomic_load_explicit(&b->notes[i].ready, memory_order_acquire))
            continue;
        board_note_text(b, &b->notes[i], note, sizeof note);
        printf("    %s\n", note);
    }
    printf("violations: %" PRIu64 "\n", board_violations(b));
}

void report_end(const struct demo *demo)
{
    struct totals t = all_totals(demo->board);
    if (isatty(STDOUT_FILENO))
        printf("\n");
    print_processes(demo);
    print_latencies(demo, &t);
    print_faults(demo);
    print_verdict(demo, &t);
    fflush(stdout);
}

/* ---------------------------------------------------------------- JSON */

static void json_quantiles(FILE *file, const char *name, const struct board_quantiles *q)
{
    fprintf(file,
            "  \"%s\": {\"count\": %" PRIu64 ", \"p50\": %" PRIu64 ", \"p99\": %" PRIu64 ", \"p999\": %" PRIu64
            ", \"max\": %" PRIu64 "},\n",
            name, q->count, q->p50, q->p99, q->p999, q->max);
}

static void json_processes(FILE *file, const struct demo *demo)
{
    const struct board *b = demo->board;
    double s = run_seconds(demo);
    fprintf(file, "  \"processes\": [\n");
    for (uint32_t p = 0; p < b->processes; p++) {
        struct totals t = totals_of(b, p, p);
        fprintf(file,
                "    {\"local_hits_per_s\": %.0f, \"remote_per_s\": %.0f, \"shared_per_s\": %.0f,"
                " \"socket_reads_per_s\": %.0f, \"hit_percent\": %.3f, \"writes\": %" PRIu64
                ", \"invalidation_ns\": {\"count\": %" PRIu64 ", \"p50\": %" PRIu64 ", \"p99\": %" PRIu64
                ", \"max\": %" PRIu64 "}}%s\n",
                (double)t.local / s, (double)t.remote / s, (double)t.shared / s, (double)t.socket_reads / s,
                percent(t.local, t.reads - t.socket_reads), t.writes, gauge(b, p, GAUGE_DELAY_COUNT),
                gauge(b, p, GAUGE_DELAY_P50), gauge(b, p, GAUGE_DELAY_P99), gauge(b, p, GAUGE_DELAY_MAX),
                p + 1 < b->processes ? "," : "");
    }
    fprintf(file, "  ],\n");
}

static void json_faults(FILE *file, const struct demo *demo)
{
    fprintf(file, "  \"faults\": [\n");
    for (int i = 0; i < demo->fault_count; i++) {
        const struct fault *f = &demo->faults[i];
        char name[96];
        fprintf(file,
                "    {\"name\": \"%s\", \"at_s\": %.3f, \"recovered_ms\": %.0f, \"failed_calls\": %" PRIu64 "}%s\n",
                fault_name(f, name, sizeof name), (double)f->at_ns / 1e9,
                f->recovered_ns > 0 ? (double)(f->recovered_ns - f->ended_ns) / 1e6 : -1, f->errors,
                i + 1 < demo->fault_count ? "," : "");
    }
    fprintf(file, "  ],\n");
}

int report_json(const struct demo *demo, const char *path)
{
    const struct board *b = demo->board;
    struct totals t = all_totals(b);
    FILE *file = fopen(path, "we");
    if (!file)
        return -1;
    fprintf(file, "{\n  \"seconds\": %.3f, \"seed\": %" PRIu64 ", \"bound_ms\": %d, \"records\": %u,\n",
            run_seconds(demo), b->seed, demo->options.bound_ms, b->record_count);
    fprintf(file,
            "  \"reads\": %" PRIu64 ", \"reads_per_s\": %.0f, \"hit_percent\": %.3f, \"writes\": %" PRIu64
            ", \"writes_failed\": %" PRIu64 ", \"writes_unknown\": %" PRIu64 ", \"longest_call_ns\": %" PRId64 ",\n",
            t.reads, (double)t.reads / run_seconds(demo), percent(t.local, t.reads - t.socket_reads), t.writes,
            t.writes_failed, t.writes_unknown, t.call_max_ns);
    json_quantiles(file, "hit_ns", &t.hit);
    json_quantiles(file, "miss_ns", &t.miss);
    json_quantiles(file, "write_ns", &t.write);
    json_quantiles(file, "outdated_ns", &t.outdated);
    json_processes(file, demo);
    json_faults(file, demo);
    fprintf(file, "  \"violations\": {");
    for (int i = 0; i < VIOLATION_COUNT; i++)
        fprintf(file, "\"%s\": %" PRIu64 ", ", violation_names[i], atomic_load(&b->violations[i]));
    fprintf(file, "\"total\": %" PRIu64 "}\n}\n", board_violations(b));
    return fclose(file) == 0 ? 0 : -1;
}
