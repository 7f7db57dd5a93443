/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A hot key that is old every second.  Without early refresh some readers wait for each load; with XFetch (one reader
 * by chance refreshes before the end) or stale-while-revalidate (the old value at once, one refresh behind) none does
 * after the first. */
#include <nearcache.h>

#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "loading/figures.h"

enum { THREADS_MAX = 64 };
static const char *const usage = "usage: early-refresh [options] [URI]\n"
                                 "Reads one key that is old again and again, and counts who had to wait for a load.\n"
                                 "Default URI: $REDIS_URL, or memory://early-refresh.\n"
                                 "  --mode MODE      xfetch, stale (stale-while-revalidate) or none (xfetch)\n"
                                 "  --ttl-ms N       how long a value is fresh (20 to 60000; 1000)\n"
                                 "  --load-ms N      how long the source takes (0 to 10000; 50)\n"
                                 "  --rounds N       how many lives of a value to watch (1 to 10000; 5)\n"
                                 "  --threads N      (1 to 64; 4)\n"
                                 "  --rate N         gets a second of all threads (100 to 10000000; 50000)\n"
                                 "  --json           one closing line of figures\n"
                                 "  --help           this text\n";

static struct {
    unsigned ttl_ms, load_ms, rounds, threads, rate;
    const char *uri, *mode;
    int json;
    near_cache *cache;
    near_load options;
    _Atomic(uint32_t) begun, loads, waited, errors, stale; /* begun and loads: loads that have begun, and ended */
    _Atomic(uint64_t) gets;
    int64_t started_us, end_us;
} our = {.ttl_ms = 1000, .load_ms = 50, .rounds = 5, .threads = 4, .rate = 50000, .mode = "xfetch"};

static int load(void *arg, const near_load_request *request, near_loaded *loaded)
{
    char text[32];
    (void)arg;
    (void)request;
    figures_sleep_ms(our.load_ms);
    int size = snprintf(text, sizeof(text), "%u", 1 + atomic_fetch_add(&our.begun, 1));
    atomic_fetch_add(&our.loads, 1); /* one at a time: the version is how many have ended */
    return near_loaded_value(loaded, text, (size_t)size);
}

/* Whether a load was waited for: the value is of one that had not ended when the get began.  A get that joined another
 * thread's mere question to the server (NEAR_FROM_FLIGHT, too) has an older one. */
static int waited(const near_value *value, uint32_t ended_before)
{
    char text[32];
    if (value->source != NEAR_FROM_LOADER && value->source != NEAR_FROM_FLIGHT)
        return 0;
    snprintf(text, sizeof(text), "%.*s", (int)value->size, (const char *)value->data);
    return strtoul(text, NULL, 10) > ended_before;
}

static void get_once(int first)
{
    near_value value;
    uint32_t ended_before = our.loads;
    int status = near_get_or_load(our.cache, "hot", 3, load, NULL, &our.options, &value);
    if (status < 0 || status == NEAR_MISS)
        atomic_fetch_add(&our.errors, 1);
    else if (!first && waited(&value, ended_before))
        atomic_fetch_add(&our.waited, 1);
    if (status == NEAR_STALE)
        atomic_fetch_add(&our.stale, 1);
    near_release(&value);
}

/* Keeps to its share of the rate, a millisecond's worth at a time.  What the machine had no time for is made up for, if
 * need be after the end: some gets are always later than the last value's life. */
static void *read_on(void *arg)
{
    uint64_t done = 0;
    int64_t now_us;
    (void)arg;
    do {
        now_us = figures_now_us();
        int64_t at_us = now_us < our.end_us ? now_us : our.end_us;
        uint64_t due = (uint64_t)(at_us - our.started_us) * our.rate / our.threads / 1000000;
        for (; done < due; done++)
            get_once(0);
        figures_sleep_ms(1);
    } while (now_us < our.end_us);
    atomic_fetch_add(&our.gets, done);
    return NULL;
}

static int parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"mode", 1, NULL, 'm'},   {"ttl-ms", 1, NULL, 'l'},  {"load-ms", 1, NULL, 's'},
        {"rounds", 1, NULL, 'r'}, {"threads", 1, NULL, 't'}, {"rate", 1, NULL, 'a'},
        {"json", 0, NULL, 'j'},   {"help", 0, NULL, 'h'},    {NULL, 0, NULL, 0}};
    int wrong = 0;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 'm':
            our.mode = optarg;
            break;
        case 'l':
            wrong |= figures_number(optarg, 20, 60000, &our.ttl_ms);
            break;
        case 's':
            wrong |= figures_number(optarg, 0, 10000, &our.load_ms);
            break;
        case 'r':
            wrong |= figures_number(optarg, 1, 10000, &our.rounds);
            break;
        case 't':
            wrong |= figures_number(optarg, 1, THREADS_MAX, &our.threads);
            break;
        case 'a':
            wrong |= figures_number(optarg, 100, 10000000, &our.rate);
            break;
        case 'j':
            our.json = 1;
            break;
        case 'h':
            fputs(usage, stdout);
            exit(0);
        default:
            wrong = 1;
        }
    }
    near_load_init(&our.options);
    our.options.ttl_ms = our.ttl_ms;
    our.options.timeout_ms = 60000;
    if (strcmp(our.mode, "stale") == 0)
        our.options.stale_ms = 60000;
    if (strcmp(our.mode, "xfetch") != 0)
        our.options.early_permille = 0;
    wrong |= strcmp(our.mode, "xfetch") != 0 && strcmp(our.mode, "stale") != 0 && strcmp(our.mode, "none") != 0;
    our.uri = optind < argc ? argv[optind] : getenv("REDIS_URL") ? getenv("REDIS_URL") : "memory://early-refresh";
    return wrong || argc - optind > 1 ? -1 : 0;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS_MAX];
    near_error error = {0};
    near_options options;
    if (parse(argc, argv) != 0)
        return fputs(usage, stderr), 2;
    near_options_init(&options);
    options.prefix = "early-refresh:"; /* nobody else's key is removed */
    if (near_open(our.uri, &options, &our.cache, &error) != NEAR_OK || figures_serves(our.cache, &error) != NEAR_OK)
        return fprintf(stderr, "early-refresh: %s\n", error.text), 1;
    near_del(our.cache, "hot", 3, NULL);
    get_once(1);
    our.started_us = figures_now_us();
    our.end_us = our.started_us + (int64_t)our.ttl_ms * our.rounds * 1000;
    for (unsigned i = 0; i < our.threads; i++)
        if (pthread_create(&threads[i], NULL, read_on, NULL) != 0)
            return perror("early-refresh"), 1;
    for (unsigned i = 0; i < our.threads; i++)
        pthread_join(threads[i], NULL);
    near_stats stats = {.size = sizeof(stats)};
    near_stats_get(our.cache, &stats);
    printf("%s: %llu gets in %u lives of %u ms, %u loads of %u ms; gets that waited for a load: %u\n", our.mode,
           (unsigned long long)our.gets, our.rounds, our.ttl_ms, our.loads, our.load_ms, our.waited);
    if (our.json)
        printf("{\"example\":\"early-refresh\",\"mode\":\"%s\",\"threads\":%u,\"gets\":%llu,\"loads\":%u,\"refreshes_"
               "early\":%llu,"
               "\"stale\":%u,\"waited\":%u,\"errors\":%u}\n",
               our.mode, our.threads, (unsigned long long)our.gets, our.loads,
               (unsigned long long)stats.refreshes_early, our.stale, our.waited, our.errors);
    return near_close(our.cache) != NEAR_OK || our.errors;
}
