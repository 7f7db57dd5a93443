/* SPDX-License-Identifier: BSD-3-Clause */
#include "bench_environment.h"

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>
#include <uthash.h>
#include <xxhash.h>

#include "nearcache.h"

#define TEXT(x) TEXT_(x)
#define TEXT_(x) #x

/* The rest of the line of `path` that begins with `start`, without what leads up to it; "" when there is none. */
static void line_of(const char *path, const char *start, char *ret, size_t capacity)
{
    char line[512];
    FILE *file = fopen(path, "re");
    *ret = 0;
    while (file && !*ret && fgets(line, sizeof(line), file)) {
        if (strncmp(line, start, strlen(start)) != 0)
            continue;
        const char *text = line + strlen(start);
        text += strspn(text, " \t:");
        snprintf(ret, capacity, "%.*s", (int)strcspn(text, "\n"), text);
    }
    if (file)
        fclose(file);
}

/* The first line that a program prints; "" when there is no such program.  The command is ours, word for word. */
static void output_of(const char *command, char *ret, size_t capacity)
{
    FILE *pipe = popen(command, "re");
    *ret = 0;
    if (!pipe)
        return;
    if (!fgets(ret, (int)capacity, pipe))
        *ret = 0;
    pclose(pipe);
    ret[strcspn(ret, "\n")] = 0;
}

static void write_machine(struct bench_json *json, const struct bench_common *common)
{
    char text[256];
    struct utsname name;
    line_of("/proc/cpuinfo", "model name", text, sizeof(text));
    bench_json_text(json, "cpu_model", text);
    bench_json_count(json, "cores", (uint64_t)sysconf(_SC_NPROCESSORS_ONLN));
    line_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "", text, sizeof(text));
    bench_json_text(json, "governor", text);
    line_of("/sys/kernel/mm/transparent_hugepage/enabled", "", text, sizeof(text));
    bench_json_text(json, "transparent_hugepages", common->no_huge_pages ? "never in this process" : text);
    bench_json_count(json, "memory_bytes", (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE));
    if (uname(&name) != 0)
        memset(&name, 0, sizeof(name));
    snprintf(text, sizeof(text), "%s %s %s", name.sysname, name.release, name.machine);
    bench_json_text(json, "kernel", text);
    line_of("/proc/loadavg", "", text, sizeof(text));
    bench_json_text(json, "load_average_at_end", text);
}

static void write_versions(struct bench_json *json)
{
    char text[256];
    bench_json_open(json, "versions", '{');
    bench_json_text(json, "nearcache", near_version());
    bench_json_text(json, "compiler", __VERSION__);
    bench_json_text(json, "hiredis", TEXT(HIREDIS_MAJOR) "." TEXT(HIREDIS_MINOR) "." TEXT(HIREDIS_PATCH));
    bench_json_text(json, "uthash", TEXT(UTHASH_VERSION));
    bench_json_text(json, "xxhash", TEXT(XXH_VERSION_MAJOR) "." TEXT(XXH_VERSION_MINOR) "." TEXT(XXH_VERSION_RELEASE));
    bench_json_text(json, "liburcu", URCU_VERSION);
    output_of("redis-server --version 2> /dev/null", text, sizeof(text));
    bench_json_text(json, "redis_server", text);
    bench_json_close(json);
}

/* Where a word of the command line has a URI, which may have a password; NULL: it has none. */
static const char *uri_in(const char *word)
{
    const char *uri = strncmp(word, "--uri=", 6) == 0 ? word + 6 : word;
    return strstr(uri, "://") || strncmp(uri, "local:", 6) == 0 ? uri : NULL;
}

static void write_command(struct bench_json *json, const struct bench_common *common)
{
    bench_json_open(json, "command", '[');
    bench_json_text(json, NULL, "nearcache-bench");
    bench_json_text(json, NULL, common->subcommand);
    for (int i = 0; i < common->argc; i++) {
        char redacted[1024];
        const char *word = common->argv[i], *uri = uri_in(word);
        if (uri)
            near_uri_redact(uri, redacted, sizeof(redacted));
        bench_json_text(json, NULL, uri ? redacted : word);
    }
    bench_json_close(json);
}

/* Those that mean something to the subcommand. */
static void write_options(struct bench_json *json, const struct bench_common *common)
{
    if (common->takes & BENCH_HAS_SEED)
        bench_json_count(json, "seed", common->seed);
    if (common->takes & BENCH_HAS_RUNS)
        bench_json_count(json, "runs", common->runs);
    if (common->takes & BENCH_HAS_SECONDS)
        bench_json_real(json, "seconds", common->seconds);
    if (common->takes & BENCH_HAS_WARMUP)
        bench_json_real(json, "warmup", common->warmup);
}

void bench_environment_write(struct bench_json *json, const struct bench_common *common)
{
    char when[64];
    time_t now = time(NULL);
    struct tm utc;
    bench_json_open(json, "environment", '{');
    write_machine(json, common);
    write_versions(json);
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    bench_json_text(json, "finished", when);
    write_options(json, common);
    write_command(json, common);
    bench_json_close(json);
}
