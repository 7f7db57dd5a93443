/* SPDX-License-Identifier: BSD-3-Clause
 * The named races (docs/races.md) of processes and threads: killed, stopped, forked, closed under load, signalled.
 *
 * Helpers are this program again, started with a word on the command line; see main. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "nearcache.h"
#include "support/allocfail.h"
#include "support/group_server.h"
#include "support/proxy.h"
#include "system/stack.h"

enum { BOUND_MS = 200, HELPER_LIFE_S = 300 };

static char prefix[16]; /* of the present test */

static int setup(void **state)
{
    static unsigned number;
    (void)state;
    snprintf(prefix, sizeof(prefix), "p%u:", ++number);
    return 0;
}

static near_cache *open_here(void)
{
    if (!server)
        skip();
    return stack_redis(redis_server_uri_unix(server), prefix, BOUND_MS);
}

static const char *server_has(const char *key)
{
    char name[64];
    snprintf(name, sizeof(name), "%s%s", prefix, key);
    const char *text = redis_server_command(server, "GET", name, NULL);
    return strcmp(text, "(nil)") == 0 ? MISS : text;
}

/* ---------------------------------------------------------------- helpers */

struct helper {
    pid_t pid;
    int in, out; /* its stdin, its stdout */
};

static struct helper start_helper(const char *role, const char *uri)
{
    int in[2], out[2];
    struct helper h = {0};
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    h.pid = fork();
    assert_true(h.pid >= 0);
    if (h.pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        execl("/proc/self/exe", "helper", role, uri, prefix, NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    h.in = in[1];
    h.out = out[0];
    return h;
}

/* The helper's next line; its end is a failure of the test. */
static const char *hear(struct helper *h)
{
    static char line[128];
    size_t size = 0;
    while (size + 1 < sizeof(line) && read(h->out, &line[size], 1) == 1 && line[size] != '\n')
        size++;
    line[size] = 0;
    return line;
}

static const char *ask(struct helper *h, char command)
{
    assert_int_equal(write(h->in, &command, 1), 1);
    return hear(h);
}

/* Closes its stdin and returns how it ended. */
static int end_helper(struct helper *h)
{
    int status = -1;
    close(h->in);
    assert_int_equal(waitpid(h->pid, &status, 0), h->pid);
    close(h->out);
    return status;
}

static void kill_helper(struct helper *h)
{
    kill(h->pid, SIGKILL);
    end_helper(h);
}

static near_cache *helper_open(const char *uri, const char *name)
{
    near_cache *cache = NULL;
    near_options options;
    near_error error = {0};
    stack_options(&options);
    options.prefix = prefix;
    options.client_name = name;
    options.bound_ms = BOUND_MS;
    options.connections = 1;
    options.timeout_ms = PATIENCE_MS;
    if (near_open(uri, &options, &cache, &error) != NEAR_OK || near_wait_ready(cache, PATIENCE_MS, &error) != NEAR_OK) {
        fprintf(stderr, "helper: %s\n", error.text);
        _exit(1);
    }
    return cache;
}

/* Writes once before it is watched, so that what is watched is the write alone. */
static int writer_main(const char *uri)
{
    near_cache *cache = helper_open(uri, "writer");
    if (put(cache, "k", "before") != NEAR_OK)
        return 1;
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        return 77;
    raise(SIGUSR1);
    int status = put(cache, "k", "after");
    raise(SIGUSR2);
    return status != NEAR_OK;
}

static int reader_main(const char *uri)
{
    near_cache *cache = helper_open(uri, "reader");
    char command;
    while (read(0, &command, 1) == 1) {
        if (command == 'r')
            dprintf(1, "%s\n", look(cache, "k"));
        else
            dprintf(1, "%s\n", peek(cache, "k"));
    }
    return near_close(cache) != NEAR_OK;
}

/* ---------------------------------------------------------------- R11 */

/* The writer is about to write, and stands still.  0: there is no ptrace here. */
static int writer_is_ready(const struct helper *h)
{
    int status;
    assert_int_equal(waitpid(h->pid, &status, 0), h->pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        return 0;
    assert_true(WIFSTOPPED(status) && WSTOPSIG(status) == SIGUSR1);
    ptrace(PTRACE_SETOPTIONS, h->pid, NULL, (void *)(intptr_t)PTRACE_O_EXITKILL);
    return 1;
}

/* Lets it go on through so many boundaries of system calls, then kills it.  1: its write had not returned yet. */
static int kill_writer_after(struct helper *h, int stops)
{
    int status, returned = 0;
    for (int i = 0; i < stops && !returned; i++) {
        assert_int_equal(ptrace(PTRACE_SYSCALL, h->pid, NULL, NULL), 0);
        assert_int_equal(waitpid(h->pid, &status, 0), h->pid);
        assert_true(WIFSTOPPED(status));
        returned = WSTOPSIG(status) == SIGUSR2;
    }
    kill_helper(h);
    return !returned;
}

/* A writer is killed at each boundary of a system call of its write.  Written in one step and told in another:
 * somewhere in between the server has the new value and A the old one, for ever. */
static void test_R11_writer_killed_at_every_step_of_a_write(void **state)
{
    (void)state;
    near_cache *a = open_here();
    int stops = 0, unreturned = 1, before = 0, after = 0, watched = 1;
    for (; unreturned; stops += INSTRUMENTED ? 3 : 1) {
        char value[64];
        struct helper writer = start_helper("writer", redis_server_uri_unix(server));
        if (!(watched = writer_is_ready(&writer)))
            break;
        assert_true(
            wait_until(strcmp(look(a, "k"), "before") == 0 && strcmp(peek(a, "k"), "before") == 0, PATIENCE_MS));
        unreturned = kill_writer_after(&writer, stops);
        /* all that it had sent has been executed when the server has seen its end */
        assert_true(
            wait_until(!strstr(redis_server_command(server, "CLIENT", "LIST", NULL), "name=writer"), PATIENCE_MS));
        stack_wait_proof(a);
        snprintf(value, sizeof(value), "%s", server_has("k"));
        assert_string_equal(look(a, "k"), value);
        before += strcmp(value, "before") == 0;
        after += strcmp(value, "after") == 0;
    }
    stack_close(a);
    if (!watched)
        skip();
    assert_true(before > 0); /* it was killed before the write, */
    assert_true(after > 0);  /* and after it */
    assert_true(stops > 3);
}

/* ---------------------------------------------------------------- R28, R29 */

/* A process stops for longer than its bound; meanwhile its subscription overflows at the server and is dropped, and B
 * writes.  Whoever trusts the clock of the last message: it says v1 after it has gone on. */
static void test_R28_overflowing_subscription_of_a_stopped_process(void **state)
{
    enum { BIG = 60000, COUNT = 80 };
    static char key[BIG];
    char channel[64];
    (void)state;
    near_cache *b = open_here();
    redis_server_command(server, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 0 0", NULL);
    assert_int_equal(put(b, "k", "v1"), NEAR_OK);
    struct helper reader = start_helper("reader", redis_server_uri_unix(server));
    assert_string_equal(ask(&reader, 'r'), "v1");
    assert_true(wait_until(strcmp(ask(&reader, 'p'), "v1") == 0, PATIENCE_MS));
    snprintf(channel, sizeof(channel), "nearcache:0:%s", prefix);
    kill(reader.pid, SIGSTOP);
    memset(key, 'k', sizeof(key));
    for (int i = 0; i < COUNT; i++) {
        snprintf(key, sizeof(key), "%d", i);
        assert_int_equal(near_set(b, key, sizeof(key), "x", 1, NULL, NULL), NEAR_OK);
    }
    assert_true(
        wait_until(strstr(redis_server_command(server, "PUBSUB", "NUMSUB", channel, NULL), "\n1"), PATIENCE_MS));
    assert_int_equal(put(b, "k", "v2"), NEAR_OK);
    int64_t acked_ms = wait_now_ms();
    assert_true(wait_until(wait_now_ms() - acked_ms > BOUND_MS, PATIENCE_MS));
    kill(reader.pid, SIGCONT);
    assert_string_equal(ask(&reader, 'r'), "v2");
    /* subscribed again, and serving; what was read before that is not kept */
    assert_true(wait_until(strcmp(ask(&reader, 'r'), "v2") == 0 && strcmp(ask(&reader, 'p'), "v2") == 0, PATIENCE_MS));
    assert_int_equal(end_helper(&reader), 0);
    redis_server_command(server, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60", NULL);
    stack_close(b);
}

/* The process's thread of that name; 0: none. */
static pid_t thread_of(pid_t process, const char *name)
{
    char path[64], text[32];
    pid_t found = 0;
    snprintf(path, sizeof(path), "/proc/%d/task", (int)process);
    DIR *tasks = opendir(path);
    for (struct dirent *entry; tasks && (entry = readdir(tasks));) {
        snprintf(path, sizeof(path), "/proc/%d/task/%.20s/comm", (int)process, entry->d_name);
        FILE *file = fopen(path, "re");
        if (file && fgets(text, sizeof(text), file) && strncmp(text, name, strlen(name)) == 0)
            found = (pid_t)atoi(entry->d_name);
        if (file)
            fclose(file);
    }
    if (tasks)
        closedir(tasks);
    return found;
}

/* Whether the stopped thread sits in poll, where it holds no lock of anybody's. */
static int is_in_poll(pid_t process, pid_t thread)
{
    char path[64];
    long number = -1;
    snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", (int)process, (int)thread);
    FILE *file = fopen(path, "re");
    int read = file && fscanf(file, "%ld", &number) == 1;
    if (file)
        fclose(file);
    return read && (number == 7 || number == 271); /* poll, ppoll on x86-64 */
}

/* Stops one thread; 0: no ptrace, or no /proc/…/syscall, here. */
static int stop_thread(pid_t process, pid_t thread)
{
    if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) != 0)
        return 0;
    for (int tries = 0; tries < 1000; tries++) {
        if (ptrace(PTRACE_INTERRUPT, thread, NULL, NULL) != 0 || waitpid(thread, NULL, __WALL) != thread)
            return 0;
        if (is_in_poll(process, thread))
            return 1;
        ptrace(PTRACE_CONT, thread, NULL, NULL);
        wait_a_moment();
    }
    ptrace(PTRACE_INTERRUPT, thread, NULL, NULL);
    waitpid(thread, NULL, __WALL);
    ptrace(PTRACE_DETACH, thread, NULL, NULL);
    return 0;
}

/* Only the subscriber thread gets no time; link, process and heartbeats are healthy.  A proof that any other thread
 * could renew: it says v1 for ever. */
static void test_R29_starved_subscriber_thread(void **state)
{
    (void)state;
    near_cache *b = open_here();
    assert_int_equal(put(b, "k", "v1"), NEAR_OK);
    struct helper reader = start_helper("reader", redis_server_uri_unix(server));
    assert_true(wait_until(strcmp(ask(&reader, 'r'), "v1") == 0 && strcmp(ask(&reader, 'p'), "v1") == 0, PATIENCE_MS));
    pid_t thread = thread_of(reader.pid, "near-sub");
    int stopped = thread && stop_thread(reader.pid, thread);
    if (stopped) {
        assert_int_equal(put(b, "k", "v2"), NEAR_OK);
        int64_t acked_ms = wait_now_ms();
        for (int64_t begun_ms = 0; begun_ms - acked_ms <= 2 * BOUND_MS;) {
            begun_ms = wait_now_ms();
            if (strcmp(ask(&reader, 'r'), "v2") != 0)
                assert_in_range(begun_ms - acked_ms, 0, BOUND_MS);
        }
        assert_string_equal(ask(&reader, 'p'), MISS);
        ptrace(PTRACE_DETACH, thread, NULL, NULL);
        assert_true(
            wait_until(strcmp(ask(&reader, 'p'), "v2") == 0 || strcmp(ask(&reader, 'r'), "v2") != 0, PATIENCE_MS));
        assert_string_equal(ask(&reader, 'r'), "v2");
    }
    assert_int_equal(end_helper(&reader), 0);
    stack_close(b);
    if (!stopped)
        skip();
}

/* ---------------------------------------------------------------- R49 */

static sem_t stopped_here, go_on;

/* Goes on by itself long after the test has failed: closing the cache waits for this thread. */
static void stop_in_handler(int signal_number)
{
    int saved = errno;
    struct timespec until;
    (void)signal_number;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 4 * PATIENCE_MS / 1000;
    sem_post(&stopped_here);
    while (sem_timedwait(&go_on, &until) != 0 && errno == EINTR)
        ;
    errno = saved;
}

struct looper {
    pthread_t thread;
    near_cache *cache;
    _Atomic(int) *stop;
    _Atomic(int) rounds, wrong;
    int number;
};

/* The local tier alone: a miss that goes on to the remote tier takes locks, and whoever is stopped with those does stop
 * others. */
static void *hit_loop(void *arg)
{
    struct looper *l = arg;
    near_value value;
    while (!atomic_load(l->stop)) {
        int status = near_peek(l->cache, "hot", 3, &value);
        if (status == NEAR_OK && (value.size != 3 || memcmp(value.data, "hot", 3) != 0))
            atomic_store(&l->wrong, 1);
        near_release(&value);
        atomic_fetch_add(&l->rounds, 1);
    }
    return NULL;
}

enum {
    BUDGET = 2 << 20,
    SLACK = 1 << 20,
    BESIDES = 1 << 20 /* what is not the local tier, undelivered messages above all */
};

/* Returns the most that was allocated meanwhile. */
static int64_t write_much(near_cache *cache, const struct allocfail *memory)
{
    int64_t most = 0;
    static char value[1000];
    char key[24];
    memset(value, 'x', sizeof(value));
    for (int i = 0; i < (INSTRUMENTED ? 1000 : 4000); i++) {
        snprintf(key, sizeof(key), "key%d", i % 500);
        assert_int_equal(near_set(cache, key, strlen(key), value, sizeof(value), NULL, NULL), NEAR_OK);
        if (allocfail_bytes(memory) > most)
            most = allocfail_bytes(memory);
    }
    return most;
}

/* A reader is stopped at an arbitrary instruction of a hit (by a signal whose handler waits), and others write at full
 * speed.  Reclamation waits for it; without a cap what is retired grows without bound, or writers wait for the
 * reader. */
static void test_R49_stopped_reader_stops_nobody_else(void **state)
{
    struct stack *s = *state;
    int64_t most = 0;
    static _Atomic(int) stop;       /* static, as the loopers: a test that failed leaves the threads behind */
    static struct allocfail memory; /* counts what is really allocated */
    near_options options;
    allocfail_init(&memory);
    stack_options(&options);
    options.timeout_ms = options.connect_timeout_ms = 3600000;
    options.local_bytes = BUDGET;
    options.allocator = memory.hooks;
    stack_reopen_a(s, &options);
    static struct looper victim, other;
    victim = (struct looper){.cache = s->a, .stop = &stop};
    other = victim;
    sem_init(&stopped_here, 0, 0);
    sem_init(&go_on, 0, 0);
    assert_true(signal(SIGUSR1, stop_in_handler) != SIG_ERR);
    assert_int_equal(pthread_create(&victim.thread, NULL, hit_loop, &victim), 0);
    assert_int_equal(pthread_create(&other.thread, NULL, hit_loop, &other), 0);
    /* a thread's first call allocates, under a lock, and is no hit */
    assert_true(wait_until(atomic_load(&victim.rounds) > 0 && atomic_load(&other.rounds) > 0, PATIENCE_MS));
    for (int round = 0; round < 8; round++) {
        /* so that it is stopped in a hit; a fill may be refused until the keeper has caught up */
        assert_true(
            wait_until(put(s->a, "hot", "hot") == NEAR_OK && strcmp(peek(s->a, "hot"), "hot") == 0, PATIENCE_MS));
        pthread_kill(victim.thread, SIGUSR1);
        while (sem_wait(&stopped_here) != 0)
            ;
        int before = atomic_load(&other.rounds);
        int64_t bytes = write_much(s->a, &memory);
        most = bytes > most ? bytes : most;
        assert_true(wait_until(atomic_load(&other.rounds) > before, PATIENCE_MS));
        sem_post(&go_on);
    }
    atomic_store(&stop, 1);
    pthread_join(victim.thread, NULL);
    pthread_join(other.thread, NULL);
    signal(SIGUSR1, SIG_DFL);
    assert_int_equal(victim.wrong + other.wrong, 0);
    assert_in_range(most, 1, BUDGET + SLACK + BESIDES);
    assert_true(wait_until(stack_stats(s->a).local_retired_bytes == 0, PATIENCE_MS));
    assert_true(wait_until(put(s->a, "key1", "kept again") == NEAR_OK && strcmp(peek(s->a, "key1"), "kept again") == 0,
                           PATIENCE_MS)); /* a fill may be refused until the keeper has caught up */
}

/* ---------------------------------------------------------------- R50 */

/* Says what it saw first that was not what it should be. */
static void expect_in_loop(struct looper *l, const char *what, const char *got, const char *wanted)
{
    if (strcmp(got, wanted) != 0 && !atomic_exchange(&l->wrong, 1))
        print_error("%s says %s, not %s\n", what, got, wanted);
}

static void *load_loop(void *arg)
{
    struct looper *l = arg;
    char key[16], value[16];
    for (int i = 0; !atomic_load(l->stop); i++) {
        snprintf(key, sizeof(key), "k%d-%d", l->number, i % 10);
        snprintf(value, sizeof(value), "v%d", i);
        expect_in_loop(l, "put", near_status_name(put(l->cache, key, value)), "NEAR_OK");
        expect_in_loop(l, "look", look(l->cache, key), value);
        expect_in_loop(l, "bypass", bypass(l->cache, key), value);
        atomic_fetch_add(&l->rounds, 1);
    }
    return NULL;
}

/* 0: as it should be; otherwise the number of what is wrong. */
static int child_of_fork(near_cache *parents, const char *uri)
{
    near_value value;
    near_error error;
    near_cache *own = NULL;
    alarm(HELPER_LIFE_S);
    if (near_get(parents, "k", 1, NULL, &value) != NEAR_ERR_FORKED ||
        near_set(parents, "k", 1, "x", 1, NULL, NULL) != NEAR_ERR_FORKED)
        return 10;
    if (near_wait_ready(parents, 1, &error) != NEAR_ERR_FORKED || near_close(parents) != NEAR_ERR_FORKED)
        return 11;
    if (INSTRUMENTED) /* the sanitizers' own allocator may be locked by a thread that does not exist here */
        return 0;
    int status = near_open(uri, NULL, &own, &error);
    if (status == NEAR_ERR_FORKED)
        return 1; /* liburcu was busy at the fork: said, and allowed now and then */
    if (status != NEAR_OK)
        return 12;
    if (near_wait_ready(own, 4 * PATIENCE_MS, &error) != NEAR_OK)
        return 13;
    if (put(own, "child", "c") != NEAR_OK || strcmp(look(own, "child"), "c") != 0)
        return 14;
    return near_close(own) == NEAR_OK ? 0 : 15;
}

static void fork_under_load(near_cache *cache, const char *uri)
{
    enum { THREADS = 3, FORKS = INSTRUMENTED ? 5 : 20 };
    struct looper loops[THREADS] = {0};
    _Atomic(int) stop = 0;
    int usable = 0;
    for (int i = 0; i < THREADS; i++) {
        loops[i].cache = cache;
        loops[i].stop = &stop;
        loops[i].number = i;
        assert_int_equal(pthread_create(&loops[i].thread, NULL, load_loop, &loops[i]), 0);
    }
    for (int i = 0; i < FORKS; i++) {
        int status = -1, rounds = atomic_load(&loops[0].rounds);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            _exit(child_of_fork(cache, uri));
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        assert_in_range(WEXITSTATUS(status), 0, 1);
        usable += WEXITSTATUS(status) == 0;
        assert_true(wait_until(atomic_load(&loops[0].rounds) > rounds, PATIENCE_MS)); /* the parent goes on */
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(loops[i].thread, NULL);
        assert_int_equal(loops[i].wrong, 0); /* nobody else has written to our connections, or read from them */
    }
    assert_true(usable > 0);
    near_stats stats = stack_stats(cache);
    assert_int_equal(stats.connections_lost, 0);
    assert_int_equal(stats.disconnections, 0);
}

/* Deadlines that only a broken library meets: on a busy machine nothing may time out or be given up here. */
static near_cache *open_patiently(const char *uri)
{
    near_cache *cache = NULL;
    near_error error = {0};
    near_options options;
    stack_options(&options);
    options.prefix = prefix;
    options.timeout_ms = options.connect_timeout_ms = 60000;
    assert_int_equal(near_open(uri, &options, &cache, &error), NEAR_OK);
    assert_int_equal(near_wait_ready(cache, PATIENCE_MS, &error), NEAR_OK);
    return cache;
}

/* Children are forked while threads are in the middle of everything.  A child that uses the parent's sockets: replies
 * go astray and connections break; one that takes inherited locks: it hangs (and is ended by its alarm). */
static void test_R50_fork_storm_under_load(void **state)
{
    (void)state;
    if (!server)
        skip();
    near_cache *a = open_patiently(redis_server_uri_unix(server));
    fork_under_load(a, redis_server_uri_unix(server));
    stack_close(a);
}

static void test_R50_fork_storm_in_memory(void **state)
{
    (void)state;
    near_cache *a = open_patiently("memory://fork");
    fork_under_load(a, "memory://fork");
    stack_close(a);
}

/* ---------------------------------------------------------------- R51 */

static int is_fine_while_closing(int status)
{
    return status == NEAR_OK || status == NEAR_MISS || status == NEAR_ERR_CLOSED || status == NEAR_ERR_UNKNOWN;
}

static void *until_closed(void *arg)
{
    struct looper *l = arg;
    near_stats stats = {.size = sizeof(stats)};
    char key[16];
    int status = NEAR_OK;
    for (int i = 0; status != NEAR_ERR_CLOSED; i++) {
        near_value value;
        near_item items[2] = {{.key = "a", .key_size = 1}, {.key = "b", .key_size = 1}};
        snprintf(key, sizeof(key), "k%d", i % 7);
        status = near_get(l->cache, key, strlen(key), NULL, &value);
        int wrong = !is_fine_while_closing(status);
        near_release(&value);
        if (i % 4 == l->number)
            wrong |= !is_fine_while_closing(put(l->cache, key, "v"));
        if (i % 16 == 0)
            wrong |= !is_fine_while_closing(near_mget(l->cache, items, 2, NULL));
        near_release(&items[0].value);
        near_release(&items[1].value);
        if (i % 64 == 0)
            wrong |= !is_fine_while_closing(near_stats_get(l->cache, &stats));
        if (wrong)
            atomic_store(&l->wrong, 1);
        atomic_fetch_add(&l->rounds, 1);
    }
    return NULL;
}

static void close_under_load(const char *uri, int rounds)
{
    enum { THREADS = 4 };
    for (int round = 0; round < rounds; round++) {
        struct looper loops[THREADS] = {0};
        near_cache *cache = open_patiently(uri);
        int status;
        for (int i = 0; i < THREADS; i++) {
            loops[i].cache = cache;
            loops[i].number = i;
            assert_int_equal(pthread_create(&loops[i].thread, NULL, until_closed, &loops[i]), 0);
        }
        assert_true(wait_until(atomic_load(&loops[round % THREADS].rounds) > round, PATIENCE_MS));
        /* somebody held a value just then; the cache is open again */
        while ((status = near_close(cache)) == NEAR_ERR_BUSY)
            ;
        assert_int_equal(status, NEAR_OK);
        for (int i = 0; i < THREADS; i++) {
            pthread_join(loops[i].thread, NULL);
            assert_int_equal(loops[i].wrong, 0);
        }
        assert_string_equal(look(cache, "k1"), "(NEAR_ERR_CLOSED)");
        assert_int_equal(near_close(cache), NEAR_ERR_CLOSED);
    }
}

/* A cache is closed while threads are in every kind of call.  Freed under them: a crash (ASan, TSan); not interrupted:
 * close waits for deadlines. */
static void test_R51_close_under_load(void **state)
{
    (void)state;
    close_under_load("memory://close", INSTRUMENTED ? 5 : 20);
    if (server)
        close_under_load(redis_server_uri_unix(server), INSTRUMENTED ? 5 : 20);
}

/* The server hangs, calls are waiting for it.  Close waits for their deadlines and no longer. */
static void test_R51_close_beside_a_hanging_server(void **state)
{
    struct caller readers[3];
    (void)state;
    near_cache *a = open_here();
    redis_server_pause(server);
    for (int i = 0; i < 3; i++) {
        readers[i] = (struct caller){.cache = a, .key = "k", .flags = NEAR_BYPASS_LOCAL, .timeout_ms = 300};
        caller_start(&readers[i]);
    }
    assert_true(wait_until(stack_stats(a).gets >= 3, PATIENCE_MS));
    assert_int_equal(near_close(a), NEAR_OK);
    for (int i = 0; i < 3; i++) {
        caller_end(&readers[i]);
        assert_string_equal(readers[i].got, "(NEAR_ERR_TIMEOUT)");
    }
    redis_server_resume(server);
}

/* ---------------------------------------------------------------- R53 */

/* Every thread of the library blocks every signal there is; a process-directed signal is the host's. */
static int blocks_all(const char *task)
{
    char path[64], line[128];
    unsigned long long mask = 0;
    snprintf(path, sizeof(path), "/proc/self/task/%.20s/status", task);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "SigBlk: %llx", &mask) == 1)
            break;
    if (file)
        fclose(file);
    for (int number = 1; number <= 31; number++)
        if (number != SIGKILL && number != SIGSTOP && !(mask >> (number - 1) & 1))
            return 0;
    return 1;
}

static int library_threads_block_all(void)
{
    char path[64], name[32];
    int threads = 0, open = 0;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *entry; tasks && (entry = readdir(tasks));) {
        snprintf(path, sizeof(path), "/proc/self/task/%.20s/comm", entry->d_name);
        FILE *file = fopen(path, "re");
        if (file && fgets(name, sizeof(name), file) && strncmp(name, "near-", 5) == 0) {
            threads++;
            open += !blocks_all(entry->d_name);
        }
        if (file)
            fclose(file);
    }
    if (tasks)
        closedir(tasks);
    return threads >= 3 && !open; /* subscriber, prover, keeper */
}

/* The host takes its signals with sigtimedwait and leaves their dispositions alone: one that a thread of the library
 * took would end the process. */
static int signals_main(const char *uri)
{
    static const int numbers[] = {SIGUSR1, SIGTERM, SIGINT, SIGHUP, SIGALRM, SIGPROF, SIGQUIT};
    sigset_t set;
    char key[16];
    near_cache *cache = helper_open(uri, "host");
    if (!wait_until(library_threads_block_all(), PATIENCE_MS))
        return 2;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        sigaddset(&set, numbers[i]);
    /* after the open: what the library's threads inherited does not help them */
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    for (int i = 0; i < 200; i++) {
        int number = numbers[(size_t)i % (sizeof(numbers) / sizeof(numbers[0]))];
        snprintf(key, sizeof(key), "k%d", i);
        if (kill(getpid(), number) != 0 || put(cache, key, "v") != NEAR_OK)
            return 3;
        if (sigtimedwait(&set, NULL, &(struct timespec){.tv_sec = 10}) != number)
            return 4;
    }
    return near_close(cache) != NEAR_OK;
}

/* SIGPIPE keeps its default, which ends the process, while peers close at every moment. */
static int sigpipe_main(const char *uri)
{
    char command;
    if (signal(SIGPIPE, SIG_DFL) == SIG_ERR)
        return 1;
    near_cache *cache = helper_open(uri, "host");
    while (read(0, &command, 1) == 1) {
        for (int i = 0; i < 20; i++) {
            put(cache, "k", "v");
            bypass(cache, "k");
        }
        dprintf(1, "done\n");
    }
    return near_close(cache) != NEAR_OK;
}

static void test_R53_signals_are_the_hosts(void **state)
{
    (void)state;
    if (!server)
        skip();
    struct helper host = start_helper("signals", redis_server_uri_unix(server));
    int status = end_helper(&host);
    assert_false(WIFSIGNALED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_R53_closed_peers_raise_no_sigpipe(void **state)
{
    (void)state;
    if (!server)
        skip();
    struct proxy *proxy = proxy_start(redis_server_uri_unix(server));
    assert_non_null(proxy);
    struct helper host = start_helper("sigpipe", proxy_uri_unix(proxy));
    for (int i = 0; i < 20; i++) {
        assert_int_equal(write(host.in, "g", 1), 1);
        proxy_kill(proxy, (enum proxy_kind)(i % PROXY_KINDS_), i % 2);
        assert_string_equal(hear(&host), "done");
    }
    int status = end_helper(&host);
    assert_false(WIFSIGNALED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    proxy_free(proxy);
}

static int helper_main(const char *role, const char *uri)
{
    alarm(HELPER_LIFE_S); /* whatever happens to the test */
    if (strcmp(role, "writer") == 0)
        return writer_main(uri);
    if (strcmp(role, "reader") == 0)
        return reader_main(uri);
    if (strcmp(role, "signals") == 0)
        return signals_main(uri);
    return sigpipe_main(uri);
}

#define RACE(name) cmocka_unit_test_setup(name, setup)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        RACE(test_R11_writer_killed_at_every_step_of_a_write),
        RACE(test_R28_overflowing_subscription_of_a_stopped_process),
        RACE(test_R29_starved_subscriber_thread),
        cmocka_unit_test_setup_teardown(test_R49_stopped_reader_stops_nobody_else, stack_setup, stack_teardown),
        RACE(test_R50_fork_storm_under_load),
        RACE(test_R50_fork_storm_in_memory),
        RACE(test_R51_close_under_load),
        RACE(test_R51_close_beside_a_hanging_server),
        RACE(test_R53_signals_are_the_hosts),
        RACE(test_R53_closed_peers_raise_no_sigpipe),
    };
    if (argc == 4) {
        snprintf(prefix, sizeof(prefix), "%s", argv[3]);
        return helper_main(argv[1], argv[2]);
    }
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
