/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Starting warm.  A process reads keys, some far more often than others, and saves which were hot.  Then the same reads
 * are done by a cache that starts cold, and by one that was warmed with the snapshot first: how many of the first reads
 * have to wait for the remote tier? */
#include <nearcache.h>

#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "loading/figures.h"

static const char *const usage =
    "usage: warm-start [options] [URI]\n"
    "Compares the first reads of a cold process with those of one that was warmed with a snapshot of hot keys.\n"
    "Default URI: $REDIS_URL, or memory://warm-start.  Keys begin with warm-start: and are removed at the end.\n"
    "  --keys N       keys in the remote tier (100 to 1000000; 10000)\n"
    "  --hot N        keys in the snapshot (1 to 1000000; 5000)\n"
    "  --reads N      reads of each process (100 to 100000000; 20000)\n"
    "  --rate N       keys a second while warming; 0: no limit (0 to 1000000; 0)\n"
    "  --snapshot PATH  where the snapshot is; default: a file of its own, removed at the end\n"
    "  --scan PATTERN warm with a scan for this pattern instead of the snapshot; it is for what follows warm-start:,\n"
    "                 so item:* means every key\n"
    "  --json         one closing line of figures\n"
    "  --help         this text\n";

static struct {
    unsigned keys, hot, reads, rate;
    const char *uri, *snapshot, *pattern;
    int json;
    unsigned errors;
} our = {.keys = 10000, .hot = 5000, .reads = 20000};

static double now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static int complain(const char *what, int status, const char *text)
{
    fprintf(stderr, "warm-start: %s: %s\n", what, text ? text : near_status_text(status));
    our.errors++;
    return -1;
}

/* A cache with nothing in it, as of a process that has just started. */
static near_cache *open_cold(void)
{
    near_cache *cache = NULL;
    near_options options;
    near_error error;
    near_options_init(&options);
    options.prefix = "warm-start:";
    int status = figures_shared(our.uri, &error);
    if (status == NEAR_OK)
        status = near_open(our.uri, &options, &cache, &error);
    if (cache && status == NEAR_OK && (status = figures_serves(cache, &error)) != NEAR_OK)
        near_close(cache);
    if (status != NEAR_OK)
        complain("open", status, error.text);
    return status == NEAR_OK ? cache : NULL;
}

/* The same series for every process: few keys are read often, most seldom. */
static unsigned draw(uint64_t *random)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    double u = (double)(*random >> 11) / (double)(UINT64_C(1) << 53);
    return (unsigned)(u * u * u * u * our.keys);
}

static size_t name_of(unsigned key, char name[24])
{
    return (size_t)snprintf(name, 24, "item:%07u", key);
}

static int fill(near_cache *cache)
{
    enum { BATCH = 100 };
    char names[BATCH][24];
    for (unsigned at = 0; at < our.keys; at += BATCH) {
        near_item items[BATCH] = {{0}};
        unsigned n = our.keys - at < BATCH ? our.keys - at : BATCH;
        for (unsigned i = 0; i < n; i++) {
            items[i].key = names[i];
            items[i].key_size = name_of(at + i, names[i]);
            items[i].data = names[i];
            items[i].size = items[i].key_size;
        }
        int status = near_mset(cache, items, n, NULL, NULL);
        if (status != NEAR_OK)
            return complain("fill", status, NULL);
    }
    return 0;
}

struct figures {
    double read_ms;
    uint64_t local, remote;
};

static int read_series(near_cache *cache, struct figures *ret)
{
    uint64_t random = 42;
    double began = now_ms();
    memset(ret, 0, sizeof *ret);
    for (unsigned i = 0; i < our.reads; i++) {
        char name[24];
        near_value value;
        size_t size = name_of(draw(&random), name);
        int status = near_get(cache, name, size, NULL, &value);
        if (status != NEAR_OK)
            return complain("read", status, NULL);
        *(value.source == NEAR_FROM_LOCAL ? &ret->local : &ret->remote) += 1;
        near_release(&value);
    }
    ret->read_ms = now_ms() - began;
    return 0;
}

static int show(void *arg, const near_warm_result *so_far)
{
    (void)arg;
    if (!our.json && isatty(STDERR_FILENO))
        fprintf(stderr, "\rwarming: %llu keys", (unsigned long long)so_far->keys);
    return 0;
}

/* A process of its own life: opens cold, perhaps warms itself, reads, perhaps saves. */
static int live(int warm, int save, struct figures *ret, near_warm_result *warmed, double *warm_ms)
{
    near_cache *cache = open_cold();
    near_error error = {0};
    near_warm_options options;
    int status = NEAR_OK;
    if (!cache)
        return -1;
    near_warm_options_init(&options);
    options.keys_per_second = our.rate;
    options.progress = show;
    double began = now_ms();
    if (warm)
        status = our.pattern ? near_warm_scan(cache, our.pattern, &options, warmed)
                             : near_warm_file(cache, our.snapshot, &options, warmed, &error);
    *warm_ms = now_ms() - began;
    if (warm && our.pattern && status == NEAR_OK && warmed->found == 0)
        fprintf(stderr, "warm-start: no key matches %s (the pattern is for what follows warm-start:)\n", our.pattern);
    int failed =
        status != NEAR_OK ? complain("warm", status, error.text[0] ? error.text : NULL) : read_series(cache, ret);
    if (!failed && save && (status = near_warm_save(cache, our.snapshot, our.hot, NULL, &error)) != NEAR_OK)
        failed = complain("save", status, error.text);
    near_close(cache);
    return failed;
}

static int parse(int argc, char **argv)
{
    static const struct option options[] = {{"keys", 1, NULL, 'k'}, {"hot", 1, NULL, 'o'},      {"reads", 1, NULL, 'r'},
                                            {"rate", 1, NULL, 'a'}, {"snapshot", 1, NULL, 's'}, {"scan", 1, NULL, 'p'},
                                            {"json", 0, NULL, 'j'}, {"help", 0, NULL, 'h'},     {NULL, 0, NULL, 0}};
    int bad = 0;
    for (int c; !bad && (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'k':
            bad = figures_number(optarg, 100, 1000000, &our.keys);
            break;
        case 'o':
            bad = figures_number(optarg, 1, 1000000, &our.hot);
            break;
        case 'r':
            bad = figures_number(optarg, 100, 100000000, &our.reads);
            break;
        case 'a':
            bad = figures_number(optarg, 0, 1000000, &our.rate);
            break;
        case 's':
            our.snapshot = optarg;
            break;
        case 'p':
            our.pattern = optarg;
            break;
        case 'j':
            our.json = 1;
            break;
        case 'h':
            exit(fputs(usage, stdout) < 0);
        default:
            bad = -1;
        }
    }
    if (bad || argc - optind > 1)
        return fputs(usage, stderr), -1;
    our.uri = argc > optind ? argv[optind] : getenv("REDIS_URL") ? getenv("REDIS_URL") : "memory://warm-start";
    return 0;
}

static void report(const struct figures *cold, const struct figures *warm, const near_warm_result *warmed,
                   double warm_ms)
{
    if (our.json)
        printf("{\"example\":\"warm-start\",\"keys\":%u,\"reads\":%u,\"warmed\":%llu,\"warm_ms\":%.3f,\"cold_remote\":%"
               "llu,"
               "\"warm_remote\":%llu,\"cold_ms\":%.3f,\"warm_read_ms\":%.3f,\"errors\":%u}\n",
               our.keys, our.reads, (unsigned long long)warmed->found, warm_ms, (unsigned long long)cold->remote,
               (unsigned long long)warm->remote, cold->read_ms, warm->read_ms, our.errors);
    else
        printf("%u reads of %u keys        waited for the remote tier      took\n"
               "started cold                %10llu reads          %10.1f ms\n"
               "warmed with %6llu keys     %10llu reads          %10.1f ms, and %.1f ms for warming\n",
               our.reads, our.keys, (unsigned long long)cold->remote, cold->read_ms, (unsigned long long)warmed->found,
               (unsigned long long)warm->remote, warm->read_ms, warm_ms);
}

int main(int argc, char **argv)
{
    char own[] = "/tmp/warm-start-XXXXXX";
    struct figures cold, warm;
    near_warm_result warmed = {.size = sizeof warmed};
    double ignored, warm_ms = 0;
    if (parse(argc, argv) != 0)
        return 2;
    int own_file = our.snapshot ? -1 : mkstemp(own);
    if (own_file >= 0) {
        close(own_file);
        our.snapshot = own;
    } else if (!our.snapshot) {
        return perror("warm-start: a file for the snapshot"), 1;
    }
    near_cache *keeper = open_cold(); /* writes the data; it also keeps a memory:// store alive */
    int failed = !keeper || fill(keeper) != 0 || live(0, 1, &cold, NULL, &ignored) != 0 ||
                 live(1, 0, &warm, &warmed, &warm_ms) != 0;
    if (!failed)
        report(&cold, &warm, &warmed, warm_ms);
    if (keeper) {
        near_clear(keeper, NEAR_CLEAR_KEYS, NULL, NULL);
        near_close(keeper);
    }
    if (own_file >= 0)
        unlink(own);
    return failed || our.errors;
}
