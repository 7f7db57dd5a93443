/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Write-behind that survives a kill.  Threads of a process update counters; the "database" (a shared table) gets them
 * from the queue.
 *
 *   1. Half-way the database stalls, and in the middle of the stall the process is killed.
 *   2. A second process opens the journal and brings the rest to the database: nothing acknowledged may be missing.
 *   3. A third one does the remaining updates.  Every counter must end at its last update. */
#include <nearcache.h>

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "loading/figures.h"

enum { THREADS_MAX = 64 };
static const char *const usage =
    "usage: write-behind [options] [URI]\n"
    "Updates counters through a queue with a journal; the process is killed while the database stalls.\n"
    "Default URI: $REDIS_URL, or memory://write-behind.  Keys begin with write-behind: and are removed at the end.\n"
    "  --updates N    updates (1000 to 100000000; 1000000)\n"
    "  --keys N       counters (1 to 1000000; 10000)\n"
    "  --threads N    threads that update (1 to 64; 4)\n"
    "  --stall-ms N   how long the database stalls (10 to 60000; 2000)\n"
    "  --sync POLICY  always, second or never: when the journal is on the disk (never: a kill loses nothing)\n"
    "  --journal PATH the journal, a new file; default: a file of its own, removed at the end\n"
    "  --json         one closing line of figures\n"
    "  --help         this text\n";

/* What all the processes see. */
struct shared {
    _Atomic(uint32_t) stalled, pending, errors;
    _Atomic(uint64_t) done, backwards, batches, stored, coalesced, replayed;
    _Atomic(uint32_t) counters[]; /* two for each key: acknowledged, in the database */
};
static struct {
    unsigned updates, keys, threads, stall_ms, sync;
    const char *uri, *journal;
    int json;
    struct shared *shared;
    near_source *source;
} our = {.updates = 1000000, .keys = 10000, .threads = 4, .stall_ms = 2000, .sync = NEAR_JOURNAL_NEVER};

static _Atomic(uint32_t) *acknowledged(uint32_t key)
{
    return &our.shared->counters[2 * (size_t)key];
}
static _Atomic(uint32_t) *database(uint32_t key)
{
    return &our.shared->counters[2 * (size_t)key + 1];
}

static void pause_ms(unsigned ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void complain(const char *what, const char *why)
{
    fprintf(stderr, "write-behind: %s: %s\n", what, why);
    atomic_fetch_add(&our.shared->errors, 1);
}

/* ---------------------------------------------------------------- the database */

static int store(void *arg, near_update *updates, size_t count, uint32_t timeout_ms)
{
    (void)arg;
    (void)timeout_ms;
    if (atomic_load(&our.shared->done) >= our.updates / 2 && atomic_exchange(&our.shared->stalled, 1) == 0)
        pause_ms(our.stall_ms);
    for (size_t i = 0; i < count; i++) {
        uint32_t key, number;
        memcpy(&key, updates[i].key, sizeof key);
        memcpy(&number, updates[i].data, sizeof number);
        if (atomic_load(database(key)) > number)
            atomic_fetch_add(&our.shared->backwards, 1);
        atomic_store(database(key), number);
    }
    return NEAR_OK;
}

/* ---------------------------------------------------------------- a process */

/* Thread t owns the keys t, t + threads, …, so that a key's updates have an order. */
static void *update(void *arg)
{
    uint32_t key = *(unsigned *)arg;
    for (uint32_t mine = key; atomic_load(&our.shared->done) < our.updates; mine += our.threads) {
        if (mine >= our.keys)
            mine = key;
        uint32_t number = atomic_load(acknowledged(mine)) + 1;
        int status = near_source_set(our.source, &mine, sizeof mine, &number, sizeof number, NULL, NULL);
        if (status < 0) {
            complain("update", near_status_text(status));
            break;
        }
        atomic_fetch_add(&our.shared->pending, status == NEAR_PENDING);
        atomic_store(acknowledged(mine), number);
        atomic_fetch_add(&our.shared->done, 1);
    }
    return NULL;
}

static void add_figures(near_cache *cache, int updates)
{
    near_stats stats = {.size = sizeof stats};
    if (near_stats_get(cache, &stats) != NEAR_OK)
        return;
    atomic_fetch_add(&our.shared->batches, stats.source_batches);
    atomic_fetch_add(&our.shared->stored, stats.source_stored);
    if (!updates) /* all that it stored came from the journal */
        atomic_store(&our.shared->replayed, stats.source_stored);
    atomic_fetch_add(&our.shared->coalesced, stats.source_coalesced);
}

static int open_source(near_cache **ret_cache, near_error *error)
{
    near_source_options options;
    near_options cache_options;
    near_options_init(&cache_options);
    cache_options.timeout_ms = 60000;
    cache_options.prefix = "write-behind:";
    near_source_options_init(&options);
    options.flags = NEAR_SOURCE_BEHIND;
    options.store = store;
    options.journal = our.journal;
    options.journal_sync = our.sync;
    int status = near_open(our.uri, &cache_options, ret_cache, error);
    if (status == NEAR_OK)
        status = figures_serves(*ret_cache, error);
    return status == NEAR_OK ? near_source_open(*ret_cache, &options, &our.source, error) : status;
}

static void run_process(int updates)
{
    near_cache *cache = NULL;
    near_error error = {0};
    pthread_t threads[THREADS_MAX];
    unsigned numbers[THREADS_MAX];
    if (open_source(&cache, &error) != NEAR_OK) {
        complain("open", error.text);
        _exit(1);
    }
    for (unsigned i = 0; updates && i < our.threads; i++) {
        numbers[i] = i;
        if (pthread_create(&threads[i], NULL, update, &numbers[i]) != 0)
            _exit(1);
    }
    for (unsigned i = 0; updates && i < our.threads; i++)
        pthread_join(threads[i], NULL);
    int status = near_source_flush(our.source, 600000);
    add_figures(cache, updates);
    if (status == NEAR_OK)
        status = near_source_close(our.source, 60000, 0);
    if (status != NEAR_OK)
        complain("close", near_status_text(status));
    near_clear(cache, NEAR_CLEAR_KEYS, NULL, NULL); /* the database has them all */
    near_close(cache);
    _exit(status != NEAR_OK);
}

static pid_t start(int updates)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        run_process(updates);
    if (pid < 0)
        complain("fork", strerror(errno));
    return pid;
}

/* Whether it is over, and still to be waited for. */
static int is_over(pid_t pid)
{
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != 0;
}

/* 1: it was ended by the signal, or, with 0, ended well. */
static int ended(pid_t pid, int by)
{
    int how;
    while (waitpid(pid, &how, 0) < 0)
        if (errno != EINTR)
            return 0;
    return by ? WIFSIGNALED(how) && WTERMSIG(how) == by : WIFEXITED(how) && WEXITSTATUS(how) == 0;
}

/* ---------------------------------------------------------------- the story */

struct outcome {
    uint64_t killed_after;
    unsigned lost, wrong;
    double seconds;
};

static unsigned behind_database(int exactly)
{
    unsigned n = 0;
    for (uint32_t key = 0; key < our.keys; key++) {
        uint32_t has = atomic_load(database(key)), should = atomic_load(acknowledged(key));
        n += exactly ? has != should : has < should;
    }
    return n;
}

/* An update that was accepted but not acknowledged when the process died may be in the database: the next number is
 * after it. */
static void take_over(void)
{
    for (uint32_t key = 0; key < our.keys; key++)
        if (atomic_load(database(key)) > atomic_load(acknowledged(key)))
            atomic_store(acknowledged(key), atomic_load(database(key)));
}

static int tell(struct outcome *o)
{
    double began = now_s();
    pid_t pid = start(1);
    if (pid < 0)
        return -1;
    while (!atomic_load(&our.shared->stalled) && !atomic_load(&our.shared->errors) && !is_over(pid))
        pause_ms(1);
    pause_ms(our.stall_ms / 2);
    kill(pid, SIGKILL);
    int killed = ended(pid, SIGKILL);
    if (atomic_load(&our.shared->errors)) /* it has said why */
        return -1;
    if (!killed)
        return fputs("write-behind: the first process was not killed\n", stderr), -1;
    o->killed_after = atomic_load(&our.shared->done);
    if ((pid = start(0)) < 0 || !ended(pid, 0))
        return -1;
    o->lost = behind_database(0);
    take_over();
    if ((pid = start(1)) < 0 || !ended(pid, 0))
        return -1;
    o->wrong = behind_database(1);
    o->seconds = now_s() - began;
    return 0;
}

static void report(const struct outcome *o)
{
    const struct shared *s = our.shared;
    unsigned long long done = atomic_load(&s->done), replayed = atomic_load(&s->replayed);
    if (our.json)
        printf("{\"example\":\"write-behind\",\"updates\":%llu,\"keys\":%u,\"threads\":%u,\"killed_after\":%llu,"
               "\"replayed\":%llu,\"lost\":%u,\"wrong\":%u,\"backwards\":%llu,\"batches\":%llu,\"stored\":%llu,"
               "\"coalesced\":%llu,\"seconds\":%.3f,\"errors\":%u}\n",
               done, our.keys, our.threads, (unsigned long long)o->killed_after, replayed, o->lost, o->wrong,
               (unsigned long long)atomic_load(&s->backwards), (unsigned long long)atomic_load(&s->batches),
               (unsigned long long)atomic_load(&s->stored), (unsigned long long)atomic_load(&s->coalesced), o->seconds,
               atomic_load(&s->errors));
    else
        printf("%llu updates of %u counters by %u threads in %.1f s\n"
               "killed after %llu acknowledged updates, in a stall of %u ms\n"
               "the journal gave back %llu counters; acknowledged and lost: %u; wrong at the end: %u\n",
               done, our.keys, our.threads, o->seconds, (unsigned long long)o->killed_after, our.stall_ms, replayed,
               o->lost, o->wrong);
}

/* ---------------------------------------------------------------- main */

static int policy(const char *text)
{
    static const char *const names[] = {"always", "second", "never"};
    for (unsigned i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0)
            return our.sync = i, 0;
    return fprintf(stderr, "write-behind: %s is no policy\n", text), -1;
}

static int parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"updates", 1, NULL, 'u'},  {"keys", 1, NULL, 'k'}, {"threads", 1, NULL, 't'},
        {"stall-ms", 1, NULL, 's'}, {"sync", 1, NULL, 'y'}, {"journal", 1, NULL, 'l'},
        {"json", 0, NULL, 'j'},     {"help", 0, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int bad = 0;
    for (int c; !bad && (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'u':
            bad = figures_number(optarg, 1000, 100000000, &our.updates);
            break;
        case 'k':
            bad = figures_number(optarg, 1, 1000000, &our.keys);
            break;
        case 't':
            bad = figures_number(optarg, 1, THREADS_MAX, &our.threads);
            break;
        case 's':
            bad = figures_number(optarg, 10, 60000, &our.stall_ms);
            break;
        case 'y':
            bad = policy(optarg);
            break;
        case 'l':
            our.journal = optarg;
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
    if (!bad && our.threads > our.keys)
        bad = (fputs("write-behind: more threads than keys\n", stderr), -1);
    if (bad || argc - optind > 1)
        return fputs(usage, stderr), -1;
    our.uri = argc > optind ? argv[optind] : getenv("REDIS_URL") ? getenv("REDIS_URL") : "memory://write-behind";
    return 0;
}

int main(int argc, char **argv)
{
    char own[] = "/tmp/write-behind-XXXXXX";
    struct outcome outcome = {0};
    if (parse(argc, argv) != 0)
        return 2;
    size_t size = sizeof *our.shared + 2 * (size_t)our.keys * sizeof(uint32_t);
    our.shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (our.shared == MAP_FAILED)
        return perror("write-behind: mmap"), 1;
    if (our.journal && access(our.journal, F_OK) == 0) /* what is in it would go to this run's database */
        return fprintf(stderr, "write-behind: %s is there already; another run may have left updates in it\n",
                       our.journal),
               1;
    int own_file = our.journal ? -1 : mkstemp(own);
    if (!our.journal && own_file < 0)
        return perror("write-behind: a file for the journal"), 1;
    if (own_file >= 0) {
        close(own_file);
        our.journal = own;
    }
    int failed = tell(&outcome) != 0;
    if (!failed)
        report(&outcome);
    if (own_file >= 0)
        unlink(own);
    return failed || outcome.lost || outcome.wrong || atomic_load(&our.shared->backwards) ||
           atomic_load(&our.shared->errors);
}
