/* SPDX-License-Identifier: BSD-3-Clause
 * What nearcache-check says: the line every second, violations with the history that shows them, the end, JSON. */
#include "check.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nearcache.h"

struct sums {
    uint64_t checked, local, shared, remote, copied, absent, errors, skipped, outdated, writes, failed, unknown,
        barriers, unapplied;
    near_quantiles staleness;
};

static void sum_process(const struct check_process *p, struct sums *s, struct near__histogram *staleness)
{
    for (int i = 0; i < CHECK_READERS; i++) {
        const struct check_reader *r = &p->reader[i];
        s->checked += atomic_load(&r->checked);
        s->local += atomic_load(&r->local);
        s->shared += atomic_load(&r->shared);
        s->remote += atomic_load(&r->remote);
        s->copied += atomic_load(&r->copied);
        s->absent += atomic_load(&r->absent);
        s->errors += atomic_load(&r->errors);
        s->skipped += atomic_load(&r->skipped);
        s->outdated += atomic_load(&r->outdated);
        near__histogram_merge(staleness, &r->staleness);
    }
    for (int i = 0; i < CHECK_WRITERS; i++) {
        s->writes += atomic_load(&p->writer[i].writes);
        s->failed += atomic_load(&p->writer[i].failed);
        s->unknown += atomic_load(&p->writer[i].unknown);
        s->barriers += atomic_load(&p->writer[i].barriers);
        s->unapplied += atomic_load(&p->writer[i].unapplied);
    }
}

static struct sums sum_all(const struct check *c)
{
    static struct near__histogram staleness;
    struct sums s = {0};
    memset(&staleness, 0, sizeof staleness);
    for (uint32_t p = 0; p < c->board->processes; p++)
        sum_process(&c->board->process[p], &s, &staleness);
    near__histogram_quantiles(&staleness, &s.staleness);
    return s;
}

uint64_t check_gauge_sum(const struct check *c, enum check_gauge gauge)
{
    uint64_t sum = 0;
    for (uint32_t p = 0; p < c->board->processes; p++)
        sum += atomic_load(&c->board->process[p].gauge[gauge]) + atomic_load(&c->board->process[p].total[gauge]);
    return sum;
}

static uint64_t faults_total(const struct check *c)
{
    uint64_t sum = 0;
    for (int i = 0; i < CHECK_FAULT_KINDS; i++)
        sum += c->fault_count[i];
    return sum;
}

static double seconds(const struct check *c, int64_t ns)
{
    return (double)(ns - c->board->started_ns) / 1e9;
}
static double ms(uint64_t ns)
{
    return (double)ns / 1e6;
}

static void print_faults(uint64_t set, const char *none)
{
    const char *between = "";
    for (int i = 0; i < CHECK_FAULT_KINDS; i++)
        if (set >> i & 1) {
            printf("%s%s", between, check_fault_name(i));
            between = " ";
        }
    if (set == 0)
        printf("%s", none);
}

void check_report_begin(const struct check *c)
{
    const struct check_options *o = &c->options;
    printf("nearcache %s: %d processes of %d reading and %d writing threads, bound %d ms, %d s, seed %" PRIu64 "\n",
           near_version(), o->processes, o->threads, o->writers, o->bound_ms, o->duration_s, o->seed);
    fflush(stdout);
}

void check_report_second(const struct check *c)
{
    struct sums s = sum_all(c);
    printf("%4.0f s  %11" PRIu64 " reads checked  %8" PRIu64 " writes  %5" PRIu64
           " faults  staleness max %7.1f ms  %" PRIu64 " violations  ",
           seconds(c, check_now()), s.checked, s.writes, faults_total(c), ms(s.staleness.max),
           check_violations(c->board));
    print_faults(atomic_load(&c->board->faults_on), "");
    printf("\n");
    fflush(stdout);
}

/* ---------------------------------------------------------------- violations */

static void print_version(const struct check *c, const struct check_note *n, uint64_t version)
{
    if (version == 0)
        printf("no value");
    else if (c->board->slot[n->slot].kind == CHECK_RECORD && record_removes(version))
        printf("version %" PRIu64 " (a removal)", version);
    else
        printf("version %" PRIu64, version);
}

static void print_write(const struct check *c, const struct check_note *n, const struct check_note_write *w)
{
    printf("  %+12.6f s  process %u, writer %u begins to write ", seconds(c, w->begin_ns), w->writer >> 16,
           w->writer & 0xffff);
    print_version(c, n, w->version);
    if (w->acked_ns > 0)
        printf("\n  %+12.6f s    it is acknowledged\n", seconds(c, w->acked_ns));
    else
        printf(w->acked_ns == CHECK_FAILED ? "; it is reported as not done\n" : "; its end is not noted\n");
}

static const char *source_text(const struct check_note *n)
{
    const char *from = n->source == NEAR_FROM_LOCAL    ? "from the local tier"
                       : n->source == NEAR_FROM_REMOTE ? "from Redis"
                       : n->source == NEAR_FROM_LOADER ? "from the source"
                       : n->source == NEAR_FROM_FLIGHT ? "from another thread's fetch"
                                                       : "as a copy";
    return n->status != NEAR_MISS ? from : n->source == NEAR_FROM_REMOTE ? "a miss in Redis" : "a miss";
}

static void print_read(const struct check *c, const struct check_note *n)
{
    printf("  %+12.6f s  process %u, thread %u begins to read\n", seconds(c, n->begin_ns), n->process + 1,
           n->thread + 1);
    printf("  %+12.6f s    it gets ", seconds(c, n->end_ns));
    print_version(c, n, n->version);
    printf(", %s\n", source_text(n));
}

static void print_why(const struct check *c, const struct check_note *n)
{
    switch (n->kind) {
    case CHECK_STALE:
        printf("  a newer version had been acknowledged %.3f ms before the read began; the bound is %.0f ms\n",
               (double)n->extra / 1e6, (double)n->bound_ns / 1e6);
        break;
    case CHECK_BACKWARDS:
        printf("  the process had already seen ");
        print_version(c, n, n->newer);
        printf("\n");
        break;
    case CHECK_BARRIER:
        printf("  a barrier behind version %" PRIu64 " was complete before\n", n->newer);
        break;
    case CHECK_LOST:
        printf("  version %" PRIu64 " had been acknowledged before\n", n->newer);
        break;
    case CHECK_SURVIVOR:
        printf("  data were lost %.3f ms before, on purpose; what survived is ", (double)n->extra / 1e6);
        print_version(c, n, n->newer);
        printf("\n");
        break;
    case CHECK_DAMAGED:
        printf(n->newer ? "  only %" PRIu64 " have been written\n" : "  no value of this key (%" PRId64 " bytes)\n",
               n->newer ? n->newer : (uint64_t)n->extra);
        break;
    case CHECK_EXPIRED:
        printf("  its time to live had ended %.3f ms before the read began\n", (double)n->extra / 1e6);
        break;
    default:
        break;
    }
}

static int by_begin(const void *a, const void *b)
{
    const struct check_note_write *x = a, *y = b;
    return x->begin_ns < y->begin_ns ? -1 : x->begin_ns > y->begin_ns;
}

static void print_missing(unsigned missing)
{
    static const struct {
        enum check_missing bit;
        const char *text;
    } rows[] = {
        {CHECK_MISSING_SERVER, "the server does not start again, or takes no command"},
        {CHECK_MISSING_PROCESS, "the process is not there"},
        {CHECK_MISSING_UPDATES, "it writes no statistics"},
        {CHECK_MISSING_PROVEN, "it is not proven fresh"},
        {CHECK_MISSING_PROOFS, "it has no new proof"},
        {CHECK_MISSING_HITS, "nothing is served from its local tier"},
        {CHECK_MISSING_SWEEP, "it has not read every key at the end"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (missing & rows[i].bit)
            printf("  %s\n", rows[i].text);
}

/* The process has no read of its own to show: a write, the last sweep, a statistic. */
static void print_circumstance(const struct check_note *n)
{
    if (n->kind == CHECK_LOST)
        printf("  a write that comes after version %" PRId64 " did not find it\n", n->extra);
    else if (n->kind == CHECK_FINAL)
        printf("  it reads version %" PRId64 " (0: no value)\n", n->extra);
    else if (n->kind == CHECK_DAMAGED)
        printf("  what Redis has is no value of this key\n");
    else if (n->kind == CHECK_LATE)
        printf("  %.3f ms\n", (double)n->extra / 1e6);
    else if (n->kind == CHECK_BUDGET)
        printf("  %" PRId64 " bytes\n", n->extra);
    else if (n->kind == CHECK_RECOVERY)
        print_missing((unsigned)n->extra);
}

static void print_note(const struct check *c, struct check_note *n)
{
    static const char *const kinds[] = {"a record", "an expiring record", "a counter", "a loaded record",
                                        "a loaded record with a tag"};
    printf("VIOLATION: %s, ", check_violation_names[n->kind]);
    if (n->process < CHECK_PROCESSES)
        printf("process %u, ", n->process + 1);
    else
        printf("Redis, ");
    printf("%+.6f s, seed %" PRIu64 "\n", seconds(c, n->end_ns), c->options.seed);
    if (n->slot < CHECK_SLOTS)
        printf("  key k%u.%u, %s\n", n->slot, n->generation, kinds[c->board->slot[n->slot].kind]);
    qsort(n->write, n->writes, sizeof n->write[0], by_begin);
    for (uint32_t i = 0; i < n->writes; i++)
        print_write(c, n, &n->write[i]);
    if (n->begin_ns) {
        print_read(c, n);
        print_why(c, n);
    } else {
        print_circumstance(n);
    }
    printf("  faults that were on: ");
    print_faults(n->faults, "none");
    printf("\n");
}

void check_report_violations(struct check *c)
{
    for (uint32_t i = 0; i < atomic_load(&c->board->note_count); i++)
        if (!(c->printed >> i & 1) && atomic_load(&c->board->note[i].ready)) { /* of one that was killed meanwhile it
                                                                                  never is */
            c->printed |= UINT64_C(1) << i;
            print_note(c, &c->board->note[i]);
        }
    fflush(stdout);
}

/* ---------------------------------------------------------------- the end */

void check_report_end(const struct check *c)
{
    struct sums s = sum_all(c);
    printf("\nreads checked: %" PRIu64 " (%" PRIu64 " from the local tier, %" PRIu64 " from Redis, %" PRIu64
           " from another thread's fetch or the source, %" PRIu64 " copies, %" PRIu64 " misses)\n",
           s.checked, s.local, s.remote, s.shared, s.copied, s.absent);
    printf("writes: %" PRIu64 " acknowledged, %" PRIu64 " not done, %" PRIu64
           " of unknown fate; reads that failed: %" PRIu64 "\n",
           s.writes, s.failed, s.unknown, s.errors);
    printf("barriers among them: %" PRIu64 " complete, %" PRIu64 " not within their deadline\n", s.barriers,
           s.unapplied);
    printf("faults: %" PRIu64, faults_total(c));
    for (int i = 0; i < CHECK_FAULT_KINDS; i++)
        if (c->fault_count[i])
            printf(", %s %" PRIu64, check_fault_name(i), c->fault_count[i]);
    printf("\n");
    printf("outdated values read: %" PRIu64
           "; outdated for %.3f ms (half), %.3f ms (99 %%), %.3f ms (most); bound %d ms\n",
           s.outdated, ms(s.staleness.p50), ms(s.staleness.p99), ms(s.staleness.max), c->options.bound_ms);
    printf("freshness lost and proven again: %" PRIu64 " times\n", check_gauge_sum(c, CHECK_RECOVERIES));
    for (int i = 0; i < CHECK_VIOLATIONS; i++)
        if (atomic_load(&c->board->violations[i]))
            printf("%s: %" PRIu64 "\n", check_violation_names[i], atomic_load(&c->board->violations[i]));
    printf("violations: %" PRIu64 "\n", check_violations(c->board));
    if (c->unjudged)
        printf("NOT CHECKED: what %" PRIu64 " reads of the last sweep should have got; Redis did not say\n",
               c->unjudged);
}

static void json_faults(FILE *out, const struct check *c)
{
    const char *between = "";
    fprintf(out, "  \"faults_by_kind\": {");
    for (int i = 0; i < CHECK_FAULT_KINDS; i++)
        if (c->fault_count[i]) {
            fprintf(out, "%s\"%s\": %" PRIu64, between, check_fault_name(i), c->fault_count[i]);
            between = ", ";
        }
    fprintf(out, "},\n");
}

/* What goes to the standard output is JSON alone: the rest goes where messages go. */
static FILE *open_apart(void)
{
    int fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    if (fd < 0)
        return NULL;
    FILE *out = fdopen(fd, "w");
    if (!out)
        close(fd);
    else if (dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
        fclose(out), out = NULL;
    return out;
}

int check_report_open_json(struct check *c, const char *path)
{
    c->json = strcmp(path, "-") == 0 ? open_apart() : fopen(path, "we");
    return c->json ? 0 : -1;
}

int check_report_json(struct check *c)
{
    struct sums s = sum_all(c);
    const struct {
        const char *name;
        uint64_t number;
    } rows[] = {
        {"seed", c->options.seed},
        {"processes", (uint64_t)c->options.processes},
        {"threads", (uint64_t)c->options.threads},
        {"writers", (uint64_t)c->options.writers},
        {"reads_checked", s.checked},
        {"reads_local", s.local},
        {"reads_remote", s.remote},
        {"reads_shared", s.shared},
        {"reads_copied", s.copied},
        {"reads_absent", s.absent},
        {"reads_failed", s.errors},
        {"reads_skipped", s.skipped},
        {"reads_outdated", s.outdated},
        {"writes", s.writes},
        {"writes_failed", s.failed},
        {"unknown_writes", s.unknown},
        {"barriers", s.barriers},
        {"barriers_incomplete", s.unapplied},
        {"faults", faults_total(c)},
        {"data_losses", c->losses},
        {"recoveries", check_gauge_sum(c, CHECK_RECOVERIES)},
        {"server_changes", check_gauge_sum(c, CHECK_SERVER_CHANGES)},
        {"position_regressions", check_gauge_sum(c, CHECK_REGRESSIONS)},
        {"suspicions", check_gauge_sum(c, CHECK_SUSPICIONS)},
        {"message_gaps", check_gauge_sum(c, CHECK_GAPS)},
        {"disconnections", check_gauge_sum(c, CHECK_DISCONNECTIONS)},
        {"proofs", check_gauge_sum(c, CHECK_PROOFS)},
        {"violations", check_violations(c->board)},
        {"final_unjudged", c->unjudged},
        {"bound_ms", (uint64_t)c->options.bound_ms},
    };
    FILE *out = c->json;
    fprintf(out, "{\n  \"version\": \"%s\",\n  \"duration_s\": %.3f,\n", near_version(),
            (double)(c->stopped_ns - c->board->started_ns) / 1e9);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        fprintf(out, "  \"%s\": %" PRIu64 ",\n", rows[i].name, rows[i].number);
    json_faults(out, c);
    fprintf(out, "  \"staleness_ms_p50\": %.3f,\n  \"staleness_ms_p99\": %.3f,\n  \"staleness_ms_max\": %.3f\n}\n",
            ms(s.staleness.p50), ms(s.staleness.p99), ms(s.staleness.max));
    int failed = ferror(out);
    c->json = NULL;
    return fclose(out) == 0 && !failed ? 0 : -1;
}
