/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Locks among threads (or programs: start it several times) that change one counter by reading and writing it.
 *
 *   1. Without a lock updates get lost.  2. With it none does.  3. An owner that sleeps longer than its lock is valid
 *   comes back too late: the fencing number lets the counter's keeper refuse its write. */
#include <nearcache.h>

#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "loading/figures.h"

enum { SERVERS_MAX = NEAR_LOCK_SERVERS_MAX, THREADS_MAX = 64 };
static const char *const usage =
    "usage: lock [options] [URI…]\n"
    "Threads change one counter, first without, then with a lock.  One URI: a lock on that server; several, "
    "independent\n"
    "masters: Redlock over all of them, with the counter on the first.  Default: $REDIS_URL, or memory://lock.\n"
    "  --threads N    threads that change the counter (2 to 64; 4)\n"
    "  --rounds N     changes by each of them (1 to 100000; 50)\n"
    "  --ttl-ms N     the lock's time to live (10 to 86400000; 5000)\n"
    "  --json         one closing line of figures\n"
    "  --help         this text\n";

static struct {
    near_cache *caches[SERVERS_MAX];
    size_t count;
    unsigned threads, rounds, ttl_ms;
    int json, locked;
    uint64_t *waits_us; /* of every round with the lock */
    _Atomic(unsigned) acquired, errors;
} our = {.threads = 4, .rounds = 50, .ttl_ms = 5000};

static uint64_t now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static int complain(const char *what, int status)
{
    fprintf(stderr, "lock: %s: %s (%s)\n", what, near_status_text(status), near_status_name(status));
    atomic_fetch_add(&our.errors, 1);
    return 1;
}

/* ---------------------------------------------------------------- the counter, which cannot protect itself */

static long long read_counter(void)
{
    char text[32] = "";
    size_t size = 0;
    near_call call;
    near_call_init(&call);
    call.flags = NEAR_BYPASS_LOCAL;
    int status = near_get_copy(our.caches[0], "lock-example", 12, &call, text, sizeof text - 1, &size);
    if (status != NEAR_OK && status != NEAR_MISS)
        complain("reading the counter", status);
    return atoll(text);
}

static void write_counter(long long number)
{
    char text[32];
    int size = snprintf(text, sizeof text, "%lld", number);
    int status = near_set(our.caches[0], "lock-example", 12, text, (size_t)size, NULL, NULL);
    if (status != NEAR_OK)
        complain("writing the counter", status);
}

/* ---------------------------------------------------------------- threads */

static int take(unsigned ttl_ms, near_held_lock **ret)
{
    near_lock_options options;
    near_lock_options_init(&options);
    options.ttl_ms = ttl_ms;
    options.timeout_ms = 60000;
    options.retry_ms = 2;
    return near_redlock(our.caches, our.count, "lock-example-lock", 17, &options, ret);
}

static void *change(void *arg)
{
    uint64_t *waits_us = our.waits_us + (size_t)our.rounds * *(unsigned *)arg;
    for (unsigned i = 0; i < our.rounds; i++) {
        near_held_lock *lock = NULL;
        uint64_t began = now_us();
        int status = our.locked ? take(our.ttl_ms, &lock) : NEAR_OK;
        if (status != NEAR_OK) {
            complain("taking the lock", status);
            continue;
        }
        waits_us[i] = now_us() - began;
        long long counter = read_counter();
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL); /* what is to be done with it */
        write_counter(counter + 1);
        if (lock) {
            atomic_fetch_add(&our.acquired, 1);
            if ((status = near_unlock(lock)) != NEAR_OK)
                complain("giving the lock back", status);
        }
    }
    return NULL;
}

/* Once, before anything is counted.  Redlock refuses two caches of one server. */
static int can_lock(void)
{
    near_held_lock *lock;
    int status = take(our.ttl_ms, &lock);
    if (status == NEAR_OK)
        near_unlock(lock);
    else if (status == NEAR_ERR_INVALID && our.count > 1)
        fprintf(stderr, "lock: two of these URIs are the same server; Redlock needs independent ones\n");
    else
        complain("taking the lock", status);
    return status == NEAR_OK;
}

/* Returns how many updates got lost. */
static long long run(int locked)
{
    pthread_t threads[THREADS_MAX];
    unsigned numbers[THREADS_MAX], started = 0;
    our.locked = locked;
    write_counter(0);
    for (; started < our.threads; started++) {
        numbers[started] = started;
        if (pthread_create(&threads[started], NULL, change, &numbers[started]) != 0)
            break;
    }
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    if (started < our.threads)
        atomic_fetch_add(&our.errors, 1);
    return (long long)started * our.rounds - read_counter();
}

/* ---------------------------------------------------------------- the owner that oversleeps */

/* What a database does with "UPDATE … WHERE fence <= ?". */
static struct {
    uint64_t highest;
    const char *value;
} keeper;

static int keep(uint64_t fence, const char *value)
{
    if (fence < keeper.highest)
        return 0;
    keeper.highest = fence;
    keeper.value = value;
    return 1;
}

/* 1: the late write was refused. */
static int oversleep(void)
{
    near_held_lock *late, *next;
    int status = take(50, &late);
    if (status != NEAR_OK)
        return complain("taking the lock", status), 0;
    while (near_lock_valid_ms(late) > 0)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    if ((status = take(our.ttl_ms, &next)) != NEAR_OK) {
        complain("taking the lock after it ended", status);
        near_unlock(late);
        return 0;
    }
    int fresh = keep(near_lock_fence(next), "the next owner's");
    int refused = !keep(near_lock_fence(late), "the late owner's");
    int lost = near_unlock(late) == NEAR_ERR_LOCK_LOST;
    near_unlock(next);
    return fresh && refused && lost;
}

/* ---------------------------------------------------------------- main */

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int parse(int argc, char **argv)
{
    static const struct option options[] = {{"threads", 1, NULL, 't'}, {"rounds", 1, NULL, 'r'},
                                            {"ttl-ms", 1, NULL, 'l'},  {"json", 0, NULL, 'j'},
                                            {"help", 0, NULL, 'h'},    {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        int bad = 0;
        if (c == 't')
            bad = figures_number(optarg, 2, THREADS_MAX, &our.threads);
        else if (c == 'r')
            bad = figures_number(optarg, 1, 100000, &our.rounds);
        else if (c == 'l')
            bad = figures_number(optarg, NEAR_LOCK_TTL_MIN_MS, NEAR_LOCK_TTL_MAX_MS, &our.ttl_ms);
        else if (c == 'j')
            our.json = 1;
        else if (c == 'h')
            exit(fputs(usage, stdout) < 0);
        else
            bad = -1;
        if (bad)
            return fputs(usage, stderr), -1;
    }
    return argc - optind > SERVERS_MAX ? (fputs("lock: too many URIs\n", stderr), -1) : 0;
}

static int open_caches(int argc, char **argv)
{
    const char *fallback = getenv("REDIS_URL") ? getenv("REDIS_URL") : "memory://lock";
    int count = argc > optind ? argc - optind : 1;
    for (int i = 0; i < count; i++) {
        near_error error;
        if (near_open(argc > optind ? argv[optind + i] : fallback, NULL, &our.caches[our.count], &error) != NEAR_OK)
            return fprintf(stderr, "lock: %s\n", error.text), -1;
        our.count++;
        if (count == 1 && figures_serves(our.caches[0], &error) != NEAR_OK) /* of several a minority may be away */
            return fprintf(stderr, "lock: %s\n", error.text), -1;
    }
    return 0;
}

static void report(long long lost_without, long long lost_with, int refused)
{
    size_t n = (size_t)our.threads * our.rounds;
    qsort(our.waits_us, n, sizeof *our.waits_us, by_size);
    double p50 = (double)our.waits_us[n / 2] / 1000, p99 = (double)our.waits_us[n - 1 - n / 100] / 1000;
    if (!our.json)
        printf("%u threads, %u changes each, %zu server%s\n"
               "without a lock   %lld changes lost\n"
               "with the lock    %lld changes lost, waited %.1f ms (median), %.1f ms (p99)\n"
               "overslept owner  %s\n",
               our.threads, our.rounds, our.count, our.count > 1 ? "s" : "", lost_without, lost_with, p50, p99,
               refused ? "its late write was refused by the fencing number" : "NOT refused");
    else
        printf("{\"example\":\"lock\",\"servers\":%zu,\"threads\":%u,\"rounds\":%u,\"lost_without\":%lld,\"lost_with\":"
               "%lld,"
               "\"acquired\":%u,\"wait_ms_p50\":%.3f,\"wait_ms_p99\":%.3f,\"late_refused\":%d,\"errors\":%u}\n",
               our.count, our.threads, our.rounds, lost_without, lost_with, atomic_load(&our.acquired), p50, p99,
               refused, atomic_load(&our.errors));
}

int main(int argc, char **argv)
{
    if (parse(argc, argv) != 0)
        return 2;
    our.waits_us = calloc((size_t)our.threads * our.rounds, sizeof *our.waits_us);
    int failed = !our.waits_us || open_caches(argc, argv) != 0 || !can_lock();
    if (!failed) {
        long long without = run(0), with = run(1);
        int refused = oversleep();
        report(without, with, refused);
        failed = with != 0 || !refused || atomic_load(&our.errors) != 0;
    }
    for (size_t i = 0; i < our.count; i++)
        near_close(our.caches[i]);
    free(our.waits_us);
    return failed;
}
