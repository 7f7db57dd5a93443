/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A stampede: many threads of many processes want one cold key at once.  With near_get_or_load the source is asked
 * once; without protection (get, and on a miss load and set) nearly everybody asks it.  With --kill the process that
 * loads is killed in the middle, and another one takes over when its lease has ended. */
#include <nearcache.h>

#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loading/figures.h"
#include "support/redis_server.h"

enum { PROCESSES_MAX = 64, THREADS_MAX = 256, WAITS_MAX = 1 << 20 };
static const char *const usage =
    "usage: stampede [options] [URI]\n"
    "Processes and threads that want one cold key at once: how often is the source asked?\n"
    "Default URI: $REDIS_URL, or a private redis-server.\n"
    "  --processes N     (1 to 64; 4)\n"
    "  --threads N       of each process (1 to 256; 16)\n"
    "  --gets N          of each thread (1 to 1000000; 1000)\n"
    "  --load-ms N       how long the source takes (0 to 60000; 100)\n"
    "  --lease-ms N      how long others wait for a process that died (10 to 60000; 1000)\n"
    "  --unprotected     get, and on a miss load and set\n"
    "  --kill            kill the process that loads first\n"
    "  --json            one closing line of figures\n"
    "  --help            this text\n";

/* What all the processes see. */
struct shared {
    _Atomic(uint32_t) ready, go, loads, errors, waits;
    _Atomic(uint64_t) gets;
    _Atomic(int) loading_pid;
    uint32_t wait_us[WAITS_MAX]; /* of gets that the local tier did not answer */
};
static struct {
    unsigned processes, threads, gets, load_ms, lease_ms;
    int unprotected, kill, json;
    const char *uri;
    struct shared *shared;
    near_cache *cache;
} our = {.processes = 4, .threads = 16, .gets = 1000, .load_ms = 100, .lease_ms = 1000};

static const char key[] = "stampede:hot";

/* ---------------------------------------------------------------- the source */

static size_t ask_source(char *text, size_t size)
{
    unsigned n = 1 + atomic_fetch_add(&our.shared->loads, 1);
    int nobody = 0;
    atomic_compare_exchange_strong(&our.shared->loading_pid, &nobody, (int)getpid());
    figures_sleep_ms(our.load_ms);
    return (size_t)snprintf(text, size, "answer %u", n);
}

static int load(void *arg, const near_load_request *request, near_loaded *loaded)
{
    char text[32];
    (void)arg;
    (void)request;
    return near_loaded_value(loaded, text, ask_source(text, sizeof(text)));
}

/* What programs do that know of no stampede. */
static int get_load_set(near_value *value)
{
    char text[32];
    int status = near_get(our.cache, key, sizeof(key) - 1, NULL, value);
    if (status != NEAR_MISS)
        return status;
    status = near_set(our.cache, key, sizeof(key) - 1, text, ask_source(text, sizeof(text)), NULL, NULL);
    return status == NEAR_OK ? near_get(our.cache, key, sizeof(key) - 1, NULL, value) : status;
}

/* ---------------------------------------------------------------- a process */

static void note_wait(int64_t us)
{
    uint32_t at = atomic_fetch_add(&our.shared->waits, 1);
    if (at < WAITS_MAX)
        our.shared->wait_us[at] = (uint32_t)us;
}

static void *want(void *arg)
{
    near_load options;
    near_load_init(&options);
    options.timeout_ms = 60000;
    options.lease_ms = our.lease_ms;
    (void)arg;
    atomic_fetch_add(&our.shared->ready, 1);
    while (!atomic_load(&our.shared->go))
        figures_sleep_ms(1);
    for (unsigned i = 0; i < our.gets; i++) {
        near_value value;
        int64_t started = figures_now_us();
        int status = our.unprotected ? get_load_set(&value)
                                     : near_get_or_load(our.cache, key, sizeof(key) - 1, load, NULL, &options, &value);
        if (status != NEAR_OK)
            atomic_fetch_add(&our.shared->errors, 1);
        else if (value.source != NEAR_FROM_LOCAL || i == 0)
            note_wait(figures_now_us() - started);
        near_release(&value);
    }
    atomic_fetch_add(&our.shared->gets, our.gets);
    return NULL;
}

static int run_process(void)
{
    pthread_t threads[THREADS_MAX];
    near_error error = {0};
    if (near_open(our.uri, NULL, &our.cache, &error) != NEAR_OK || figures_serves(our.cache, &error) != NEAR_OK) {
        fprintf(stderr, "stampede: %s\n", error.text);
        return 1;
    }
    for (unsigned i = 0; i < our.threads; i++)
        if (pthread_create(&threads[i], NULL, want, NULL) != 0)
            return 1;
    for (unsigned i = 0; i < our.threads; i++)
        pthread_join(threads[i], NULL);
    return near_close(our.cache) != NEAR_OK;
}

/* ---------------------------------------------------------------- all of them */

/* Whether one of them is over, which is still to be waited for. */
static int one_has_ended(void)
{
    siginfo_t info = {0};
    return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != 0;
}

/* Starts them together; returns how many failed (the one that was to be killed does not count). */
static int run_all(void)
{
    unsigned left = 0;
    for (; left < our.processes; left++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(run_process());
        if (pid < 0)
            break;
    }
    int failed = (int)(our.processes - left);
    while (atomic_load(&our.shared->ready) < left * our.threads && !one_has_ended())
        figures_sleep_ms(1);
    atomic_store(&our.shared->go, 1);
    while (our.kill && !atomic_load(&our.shared->loading_pid) && !one_has_ended()) /* without a server nobody loads */
        figures_sleep_ms(1);
    int victim = our.kill ? atomic_load(&our.shared->loading_pid) : 0;
    if (victim)
        kill(victim, SIGKILL);
    for (int status; left > 0; left--) {
        pid_t pid = wait(&status);
        failed += pid != victim && status != 0;
    }
    return failed;
}

static void forget_key(void)
{
    near_cache *cache;
    if (near_open(our.uri, NULL, &cache, NULL) != NEAR_OK)
        return;
    near_del(cache, key, sizeof(key) - 1, NULL);
    near_close(cache);
}

static void report(void)
{
    struct shared *s = our.shared;
    size_t waits = s->waits < WAITS_MAX ? s->waits : WAITS_MAX;
    double p50 = figures_quantile_ms(s->wait_us, waits, 500), p99 = figures_quantile_ms(s->wait_us, waits, 990);
    printf(
        "%u processes of %u threads, %llu gets of one cold key, %s%s: the source was asked %u times, and took %u ms\n",
        our.processes, our.threads, (unsigned long long)s->gets, our.unprotected ? "unprotected" : "near_get_or_load",
        our.kill ? ", the loading process killed" : "", s->loads, our.load_ms);
    printf("%zu gets waited: half of them at most %.1f ms, 99 of 100 at most %.1f ms; errors: %u\n", waits, p50, p99,
           s->errors);
    if (our.json)
        printf("{\"example\":\"stampede\",\"protected\":%s,\"killed\":%d,\"processes\":%u,\"threads\":%u,\"gets\":%llu,"
               "\"load_ms\":%u,"
               "\"loads\":%u,\"waits\":%zu,\"wait_ms_p50\":%.2f,\"wait_ms_p99\":%.2f,\"errors\":%u}\n",
               our.unprotected ? "false" : "true", our.kill, our.processes, our.threads, (unsigned long long)s->gets,
               our.load_ms, s->loads, waits, p50, p99, s->errors);
}

static int parse(int argc, char **argv)
{
    static const struct option options[] = {{"processes", 1, NULL, 'p'}, {"threads", 1, NULL, 't'},
                                            {"gets", 1, NULL, 'g'},      {"load-ms", 1, NULL, 'l'},
                                            {"lease-ms", 1, NULL, 'e'},  {"unprotected", 0, NULL, 'u'},
                                            {"kill", 0, NULL, 'k'},      {"json", 0, NULL, 'j'},
                                            {"help", 0, NULL, 'h'},      {NULL, 0, NULL, 0}};
    int wrong = 0;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 'p':
            wrong |= figures_number(optarg, 1, PROCESSES_MAX, &our.processes);
            break;
        case 't':
            wrong |= figures_number(optarg, 1, THREADS_MAX, &our.threads);
            break;
        case 'g':
            wrong |= figures_number(optarg, 1, 1000000, &our.gets);
            break;
        case 'l':
            wrong |= figures_number(optarg, 0, 60000, &our.load_ms);
            break;
        case 'e':
            wrong |= figures_number(optarg, 10, 60000, &our.lease_ms);
            break;
        case 'u':
            our.unprotected = 1;
            break;
        case 'k':
            our.kill = 1;
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
    our.uri = optind < argc ? argv[optind] : getenv("REDIS_URL");
    return wrong || argc - optind > 1 || (our.kill && (our.unprotected || our.processes < 2)) ? -1 : 0;
}

int main(int argc, char **argv)
{
    if (parse(argc, argv) != 0)
        return fputs(usage, stderr), 2;
    struct redis_server *server = our.uri ? NULL : redis_server_start(NULL);
    if (!our.uri && !server)
        return fputs("stampede: no redis-server to start; give a URI\n", stderr), 1;
    if (server)
        our.uri = redis_server_uri_unix(server);
    if (strncasecmp(our.uri, "local:", 6) == 0 || strncasecmp(our.uri, "memory:", 7) == 0)
        return fprintf(stderr, "stampede: %s: this example needs a remote tier that its processes share\n", our.uri), 1;
    our.shared = mmap(NULL, sizeof(*our.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (our.shared == MAP_FAILED)
        return perror("stampede"), 1;
    if (!server)
        forget_key();
    int failed = run_all();
    if (!failed)
        report();
    redis_server_free(server);
    return failed || our.shared->errors;
}
