/* SPDX-License-Identifier: BSD-3-Clause
 * A write-behind source among kills: writers, and loaders in two processes, on a few keys; a store that is slow, fails
 * before or after it has done what it was asked for, and rejects.  The process is killed in the middle of it, again and
 * again.  Whenever the next one has flushed, the cache shows what the source has, or nothing.  So it does when Redis
 * has lost everything in the middle of it, and that was noticed. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "local/local_fixture.h"
#include "nearcache.h"
#include "support/redis_server.h"
#include "support/seed.h"
#include "support/wait.h"

enum { KEYS = 5, WRITERS = 3, BURST = 10, BURSTS = 20, ROUNDS = SCALE(25, 8), KILLS_MAX = 3, PATIENCE_MS = 60000 };

/* What all processes see.  A row is the number that was written, 0: none; numbers are never used again. */
static struct shared {
    _Atomic(uint64_t) row[KEYS];
    _Atomic(uint64_t) numbers, rejected;
    _Atomic(int) calm; /* the store does as it is told */
} * shared;

static char uri[128], folder[64], journal[96];
static struct redis_server *server;
static pid_t loader;
static near_cache *cache;
static near_source *source; /* of the process that has one */
static __thread uint32_t dice;

static uint32_t throw_of(uint32_t sides)
{
    dice = dice * 1664525 + 1013904223;
    return (dice >> 8) % sides;
}

static _Atomic(uint64_t) *row_of(const void *key)
{
    return &shared->row[*(const unsigned char *)key - '0'];
}

static uint64_t number_in(const void *data, size_t size)
{
    uint64_t number = 0;
    if (data && size == sizeof number)
        memcpy(&number, data, sizeof number);
    return number;
}

/* ---------------------------------------------------------------- the source */

static void store_one(near_update *u)
{
    enum { AWAY = 10, LOST = 10, REJECTS = 8 }; /* in a hundred */
    uint32_t luck = atomic_load(&shared->calm) ? 100 : throw_of(100);
    if (luck < AWAY) {
        u->status = NEAR_ERR_TIMEOUT;
        return;
    }
    if (luck < AWAY + REJECTS) {
        u->status = NEAR_ERR_REJECTED;
        atomic_fetch_add(&shared->rejected, 1);
        return;
    }
    atomic_store(row_of(u->key), number_in(u->data, u->size));
    if (luck < AWAY + REJECTS + LOST)
        u->status = NEAR_ERR_TIMEOUT;
}

static int store(void *arg, near_update *updates, size_t count, uint32_t timeout_ms)
{
    (void)arg;
    (void)timeout_ms;
    if (!atomic_load(&shared->calm) && throw_of(3) == 0)
        usleep(throw_of(3000));
    if (!atomic_load(&shared->calm) && throw_of(20) == 0)
        return NEAR_ERR_UNAVAILABLE;
    for (size_t i = 0; i < count; i++)
        store_one(&updates[i]);
    return NEAR_OK;
}

static void forget_dead_letter(void *arg, const near_update *update, int status)
{
    (void)arg;
    (void)update;
    (void)status;
}

static int load(void *arg, const near_load_request *request, near_loaded *loaded)
{
    uint64_t number = atomic_load(row_of(request->key));
    size_t size;
    uint32_t operation;
    (void)arg;
    if (throw_of(4) == 0)
        usleep(throw_of(1000));
    if (source &&
        near_source_peek(source, request->key, request->key_size, &number, sizeof number, &size, &operation) == NEAR_OK)
        number = operation == NEAR_UPDATE_SET ? number : 0;
    return number ? near_loaded_value(loaded, &number, sizeof number) : NEAR_MISS;
}

/* ---------------------------------------------------------------- processes */

/* Of a child. */
static void open_cache(void)
{
    near_options options;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that has failed leaves nobody behind */
    near_options_init(&options);
    options.local_bytes = 8 << 20;
    options.timeout_ms = PATIENCE_MS;
    options.log_level = 0;
    if (near_open(uri, &options, &cache, NULL) != NEAR_OK || near_wait_ready(cache, PATIENCE_MS, NULL) != NEAR_OK)
        _exit(2);
}

static void open_source(void)
{
    near_source_options options;
    near_source_options_init(&options);
    options.store = store;
    options.dead_letter = forget_dead_letter;
    options.journal = journal;
    options.journal_sync = NEAR_JOURNAL_NEVER;
    options.flags = NEAR_SOURCE_BEHIND;
    options.delay_ms = 0;
    options.retry_min_ms = 1;
    options.retry_max_ms = 4;
    if (near_source_open(cache, &options, &source, NULL) != NEAR_OK)
        _exit(3);
}

static void write_one(void)
{
    char key = (char)('0' + throw_of(KEYS));
    uint64_t number = atomic_fetch_add(&shared->numbers, 1) + 1;
    int status = throw_of(6) ? near_source_set(source, &key, 1, &number, sizeof number, NULL, NULL)
                             : near_source_del(source, &key, 1, NULL);
    if (status != NEAR_OK && status != NEAR_PENDING)
        _exit(4);
    if (throw_of(4) == 0)
        usleep(throw_of(1000));
}

static void *write_on(void *seed)
{
    dice = (uint32_t)(uintptr_t)seed;
    for (;;)
        write_one();
    return NULL;
}

static void *write_a_burst(void *seed)
{
    dice = (uint32_t)(uintptr_t)seed;
    for (int i = 0; i < BURST; i++)
        write_one();
    return NULL;
}

static void *load_on(void *seed)
{
    near_load options;
    near_load_init(&options);
    dice = (uint32_t)(uintptr_t)seed;
    for (;;) {
        char key = (char)('0' + throw_of(KEYS));
        near_value value = {.size = 0};
        (void)near_get_or_load(cache, &key, 1, load, NULL, &options, &value);
        near_release(&value);
        if (throw_of(8) == 0)
            usleep(200);
    }
    return NULL;
}

static pthread_t start(void *(*what)(void *), uint32_t seed)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, what, (void *)(uintptr_t)seed) != 0)
        _exit(5);
    return thread;
}

/* Runs until it is killed. */
static _Noreturn void victim(uint32_t seed)
{
    open_cache();
    open_source();
    for (uint32_t i = 0; i < WRITERS; i++)
        start(write_on, seed + i);
    start(load_on, seed + WRITERS);
    for (;;)
        pause();
}

/* The other process, that loads and has no source: likewise. */
static _Noreturn void other(uint32_t seed)
{
    open_cache();
    start(load_on, seed);
    for (;;)
        pause();
}

/* 0: what the cache has of the key is what the source has. */
static int differs(char key)
{
    near_call call;
    near_value value = {.size = 0};
    near_call_init(&call);
    call.flags = NEAR_REQUIRE_FRESH;
    int status = near_get(cache, &key, 1, &call, &value);
    uint64_t has = number_in(value.data, value.size), row = atomic_load(row_of(&key));
    near_release(&value);
    if (status == NEAR_MISS || (status == NEAR_OK && has == row))
        return 0;
    fprintf(stderr, "key %c: the cache has %llu (status %d), the source %llu\n", key, (unsigned long long)has, status,
            (unsigned long long)row);
    return 1;
}

/* Everything is stored, and forgotten. */
static void settle(void)
{
    int different = 0;
    atomic_store(&shared->calm, 1);
    if (near_source_flush(source, PATIENCE_MS) != NEAR_OK)
        _exit(6);
    for (int i = 0; i < KEYS; i++)
        different |= differs((char)('0' + i));
    if (different)
        _exit(1);
    atomic_store(&shared->calm, 0);
}

static uint64_t suspicions(void)
{
    near_stats stats = {.size = sizeof stats};
    if (near_stats_get(cache, &stats) != NEAR_OK)
        _exit(8);
    return stats.suspicions;
}

/* Redis loses everything, also of what is still queued.  When that has been noticed, the next update makes the source
 * look at it before that is stored. */
static void lose(void)
{
    uint64_t before = suspicions();
    redis_server_command(server, "FLUSHALL", NULL);
    if (!wait_until(suspicions() > before, PATIENCE_MS) || near_wait_ready(cache, PATIENCE_MS, NULL) != NEAR_OK)
        _exit(9);
    write_one();
}

/* Finds what the one before has left, writes a little, and ends in peace. */
static _Noreturn void successor(uint32_t seed)
{
    open_cache();
    open_source();
    settle();
    int loses = (int)throw_of(BURSTS);
    for (int i = 0; i < BURSTS; i++) {
        pthread_t writer[WRITERS];
        for (int w = 0; w < WRITERS; w++)
            writer[w] = start(write_a_burst, seed++);
        for (int w = 0; w < WRITERS; w++)
            pthread_join(writer[w], NULL);
        if (i == loses)
            lose();
        settle();
    }
    atomic_store(&shared->calm, 1);
    int status = near_source_close(source, PATIENCE_MS, 0);
    _exit(status == NEAR_OK && near_close(cache) == NEAR_OK ? 0 : 7);
}

/* ---------------------------------------------------------------- the test */

static int ended_with(pid_t pid)
{
    int how;
    assert_int_equal(waitpid(pid, &how, 0), pid);
    return how;
}

static void kill_in_the_middle(void)
{
    atomic_store(&shared->calm, 0);
    uint64_t until = atomic_load(&shared->numbers) + 50 + throw_of(400);
    uint32_t seed = throw_of(1 << 20);
    pid_t pid = fork();
    if (pid == 0)
        victim(seed);
    assert_true(wait_until(atomic_load(&shared->numbers) >= until, PATIENCE_MS));
    kill(pid, SIGKILL);
    int how = ended_with(pid);
    assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
}

static void test_whatever_is_killed_the_cache_ends_with_what_the_source_has(void **state)
{
    if (!*state)
        skip();
    uint32_t seed = throw_of(1 << 20);
    loader = fork();
    if (loader == 0)
        other(seed);
    for (int round = 0; round < ROUNDS; round++) {
        for (uint32_t kills = 1 + throw_of(KILLS_MAX); kills; kills--)
            kill_in_the_middle();
        seed = throw_of(1 << 20);
        pid_t pid = fork();
        if (pid == 0)
            successor(seed);
        assert_int_equal(ended_with(pid), 0);
    }
    assert_true(atomic_load(&shared->rejected) > 0);
}

static int setup(void **state)
{
    server = redis_server_available() ? redis_server_start(NULL) : NULL;
    *state = server;
    if (!server)
        return 0;
    dice = (uint32_t)test_seed();
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    snprintf(folder, sizeof folder, "/tmp/nearcache-kills-XXXXXX");
    if (shared == MAP_FAILED || !mkdtemp(folder))
        return -1;
    snprintf(uri, sizeof uri, "%s?prefix=kills:", redis_server_uri(server));
    snprintf(journal, sizeof journal, "%s/journal", folder);
    return 0;
}

static int teardown(void **state)
{
    char new[112];
    if (!*state)
        return 0;
    if (loader > 0) {
        kill(loader, SIGKILL);
        waitpid(loader, NULL, 0);
    }
    snprintf(new, sizeof new, "%s.new", journal);
    unlink(new);
    unlink(journal);
    rmdir(folder);
    munmap(shared, sizeof *shared);
    redis_server_free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_whatever_is_killed_the_cache_ends_with_what_the_source_has, setup,
                                        teardown),
    };
    return cmocka_run_group_tests_name("load/source_kills", tests, NULL, NULL);
}
