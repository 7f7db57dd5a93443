/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nearcache-bench: measures the library beside what one would use instead.  Each subcommand answers one question:
 *
 *      local       how fast is the local tier, beside other hash tables and caches?
 *      remote      what does nearcache cost on the way to Redis, beside plain hiredis?
 *      staleness   how long after a write do other processes still have the old value?
 *      outage      what hits Redis when it comes back after an outage?
 *      invalidate  how many messages, and which pause of hits, when a million values become old at once?
 *      storm       what does a process that writes very many keys at once cost itself, Redis and the others?
 *      values      what does it cost and save that small values travel with the messages of their writes?
 *      replay      which hit ratio does it reach on a recorded trace, beside exact LRU?
 *      resize      what do reads come to while it is made smaller and larger?
 *
 * Figures are medians of several runs; what is compared is run in turn (A B C A B C …), so that ratios hold on a
 * machine whose speed changes.  docs/benchmarks.md says what each figure means. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "nearcache.h"

static const struct {
    const char *name;
    int (*run)(struct bench_common *common);
    unsigned takes;
    const char *sentence;
} subcommands[] = {
    {"local", bench_local, BENCH_HAS_ALL, "the local tier beside other tables and caches, one machine, no network"},
    {"remote", bench_remote, BENCH_HAS_ALL, "misses, hits and writes over a real Redis beside plain hiredis"},
    {"staleness", bench_staleness, BENCH_HAS_ALL,
     "delay from a write to its effect in other processes beside a bare PUBLISH"},
    {"outage", bench_outage, BENCH_HAS_RUNS | BENCH_HAS_WARMUP | BENCH_HAS_SEED,
     "requests that reach Redis after an outage: repair beside a plain flush"},
    {"invalidate", bench_invalidate, 0, "very many values made old at once: messages, and the longest hit meanwhile"},
    {"storm", bench_storm, BENCH_HAS_RUNS, "very many writes at once: messages, bytes and processor time"},
    {"values", bench_values, BENCH_HAS_RUNS | BENCH_HAS_SECONDS | BENCH_HAS_WARMUP,
     "values that travel with messages: bytes received, and reads that had to be fetched"},
    {"replay", bench_replay, BENCH_HAS_RUNS | BENCH_HAS_PLOT, "hit ratio on an access trace beside exact LRU"},
    {"resize", bench_resize, BENCH_HAS_RUNS | BENCH_HAS_SECONDS | BENCH_HAS_WARMUP | BENCH_HAS_SEED,
     "reads while the local tier is made smaller and larger again"},
};
#define SUBCOMMANDS (sizeof(subcommands) / sizeof(*subcommands))

static int usage(FILE *to)
{
    fputs("usage: nearcache-bench SUBCOMMAND [OPTION…]\n\n", to);
    for (size_t i = 0; i < SUBCOMMANDS; i++)
        fprintf(to, "  %-10s %s\n", subcommands[i].name, subcommands[i].sentence);
    fputs("\nOptions: nearcache-bench SUBCOMMAND --help\n", to);
    return to == stdout ? BENCH_OK : BENCH_USAGE;
}

int main(int argc, char **argv)
{
    struct bench_common common = {
        .runs = 3, .seconds = 0.5, .warmup = 0.2, .seed = 1, .argc = argc - 2, .argv = argv + 2};
    common.progress = isatty(STDERR_FILENO); /* somebody is waiting */
    signal(SIGPIPE, SIG_IGN);                /* hiredis 0.14 writes with write(2) */
    if (argc < 2)
        return usage(stderr);
    common.subcommand = argv[1];
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)
        return usage(stdout);
    if (strcmp(argv[1], "--version") == 0)
        return bench_version();
    for (size_t i = 0; i < SUBCOMMANDS; i++) {
        if (strcmp(subcommands[i].name, common.subcommand) != 0)
            continue;
        common.takes = subcommands[i].takes;
        return subcommands[i].run(&common);
    }
    bench_say("%s: there is no such subcommand", common.subcommand);
    return usage(stderr);
}
