/* SPDX-License-Identifier: BSD-3-Clause
 * Barrier writes (NEAR_WRITE_BARRIER, promise G7): when one has returned, no process serves what was there before.
 * First on memory://, in a time of our own, where a barrier that returns without a step of time was answered by
 * everybody; then with processes on a real Redis that are stopped and killed.  The random faults are in
 * tests/coherence/test_simulation.c. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/random.h"
#include "nearcache.h"
#include "support/redis_server.h"
#include "support/seed.h"
#include "system/stack.h"

/* ---------------------------------------------------------------- a call with a barrier */

static near_barrier barrier; /* of the last one */

static near_call barrier_call(uint32_t timeout_ms)
{
    near_call call;
    near_barrier_init(&barrier);
    near_call_init(&call);
    call.flags = NEAR_WRITE_BARRIER;
    call.timeout_ms = timeout_ms;
    call.barrier = &barrier;
    return call;
}

static int put_everywhere(near_cache *cache, const char *key, const char *value, uint32_t timeout_ms)
{
    near_call call = barrier_call(timeout_ms);
    return near_set(cache, key, strlen(key), value, strlen(value), NULL, &call);
}

/* ---------------------------------------------------------------- memory:// */

struct putter {
    pthread_t thread;
    near_cache *cache;
    const char *value;
    int status;
    _Atomic(int) done;
};

static void *putter_main(void *arg)
{
    struct putter *p = arg;
    p->status = put_everywhere(p->cache, "k", p->value, 0);
    atomic_store(&p->done, 1);
    return NULL;
}

static void putter_start(struct putter *p, near_cache *cache, const char *value)
{
    *p = (struct putter){.cache = cache, .value = value};
    assert_int_equal(pthread_create(&p->thread, NULL, putter_main, p), 0);
}

/* Lets time pass until the put has returned, as it must with NEAR_OK; how long that took. */
static int64_t putter_pass(struct stack *s, struct putter *p)
{
    int64_t begun = atomic_load(&s->now_ns);
    while (!atomic_load(&p->done)) {
        stack_skip(s, 5);
        wait_a_moment();
    }
    pthread_join(p->thread, NULL);
    assert_int_equal(p->status, NEAR_OK);
    return atomic_load(&s->now_ns) - begun;
}

/* A first barrier makes the list; when it has returned the list is old enough for B, and a bound after its heartbeat
 * found it for A. */
static void settle(struct stack *s)
{
    struct putter first;
    putter_start(&first, s->b, "first");
    putter_pass(s, &first);
    stack_recover(s, s->a);
    stack_recover(s, s->b);
    stack_fence(s, s->a); /* its heartbeat has found the list */
    stack_skip(s, 1100);
    stack_recover(s, s->a);
    stack_recover(s, s->b);
    stack_fence(s, s->a);
    stack_fence(s, s->b);
}

static void cache_in(near_cache *cache, const char *key, const char *value)
{
    assert_true(wait_until(strcmp(look(cache, key), value) == 0 && strcmp(peek(cache, key), value) == 0, PATIENCE_MS));
}

static void test_G7_barrier_returns_when_everybody_has_answered(void **state)
{
    struct stack *s = *state;
    settle(s);
    cache_in(s->a, "k", "first");
    int64_t before = atomic_load(&s->now_ns);
    assert_int_equal(put_everywhere(s->b, "k", "second", 0), NEAR_OK);
    assert_true(strcmp(peek(s->a, "k"), "first") != 0);
    assert_string_equal(look(s->a, "k"), "second");
    assert_int_equal(barrier.processes, 1);
    assert_int_equal(barrier.missing, 0);
    assert_int_equal(barrier.unlisted, 0);
    assert_int_equal(atomic_load(&s->now_ns), before);
    assert_int_equal(put_everywhere(s->a, "k", "third", 0), NEAR_OK); /* who has never waited need not wait longer */
    assert_string_equal(look(s->b, "k"), "third");
    assert_int_equal(atomic_load(&s->now_ns), before);
    assert_int_equal(stack_stats(s->b).barriers, 2);
    assert_int_equal(stack_stats(s->b).messages_bad + stack_stats(s->a).messages_bad, 0);
}

static void test_G7_every_kind_of_write_has_a_barrier(void **state)
{
    struct stack *s = *state;
    int64_t number = 0;
    settle(s);
    near_call call = barrier_call(0);
    near_item items[2] = {{.key = "a", .key_size = 1, .data = "1", .size = 1},
                          {.key = "b", .key_size = 1, .data = "2", .size = 1}};
    assert_int_equal(near_mset(s->b, items, 2, NULL, &call), NEAR_OK);
    assert_int_equal(near_expire(s->b, "a", 1, 0, &call), NEAR_OK);
    assert_int_equal(near_incr(s->b, "a", 1, 1, &call, &number), NEAR_OK);
    assert_int_equal(near_cas(s->b, "a", 1, "2", 1, "3", 1, NULL, &call), NEAR_OK);
    assert_int_equal(near_cas(s->b, "a", 1, "2", 1, "3", 1, NULL, &call), NEAR_UNMET);
    assert_int_equal(near_del(s->b, "a", 1, &call), NEAR_OK);
    assert_int_equal(near_del(s->b, "a", 1, &call), NEAR_MISS);
    assert_int_equal(near_mdel(s->b, items, 2, &call), NEAR_OK);
    assert_int_equal(near_invalidate_tag(s->b, "t", 1, &call), NEAR_OK);
    assert_int_equal(near_clear(s->b, 0, &call, NULL), NEAR_OK);
    assert_int_equal(stack_stats(s->b).barriers, 11);
    assert_int_equal(barrier.processes, 1);
    assert_int_equal(barrier.missing, 0);
}

/* The message waits in the network.  Without time the barrier does not return; then at its deadline, with A missing;
 * and with a later deadline when A's bound is over. */
static void test_G7_who_has_not_heard_is_waited_for(void **state)
{
    struct stack *s = *state;
    struct putter putter;
    settle(s);
    cache_in(s->a, "k", "first");
    stack_hold(s, NEAR_FAULT_HOLD_MESSAGES, NEAR_OP_SET, -1);
    putter_start(&putter, s->b, "second");
    assert_true(wait_until(strcmp(stack_server(s, "k"), "second") == 0, PATIENCE_MS));
    int64_t begun = atomic_load(&s->now_ns);
    while (!atomic_load(&putter.done)) {
        int done = atomic_load(&putter.done); /* before the look, which may give either as long as the barrier waits */
        assert_true(strcmp(peek(s->a, "k"), "first") != 0 || !done);
        stack_skip(s, 5);
        wait_a_moment();
    }
    pthread_join(putter.thread, NULL);
    assert_int_equal(putter.status, NEAR_OK);
    assert_true(atomic_load(&s->now_ns) - begun >= 1000 * NEAR_NS_PER_MS);
    assert_string_equal(look(s->a, "k"), "second");
    stack_hold(s, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
}

/* Nobody waits for who has closed: the time stands still. */
static void test_G7_who_has_closed_is_not_waited_for(void **state)
{
    struct stack *s = *state;
    struct putter putter;
    settle(s);
    stack_close(s->a);
    s->a = NULL;
    putter_start(&putter, s->b, "second");
    assert_true(wait_until(atomic_load(&putter.done), PATIENCE_MS));
    pthread_join(putter.thread, NULL);
    assert_int_equal(putter.status, NEAR_OK);
    assert_int_equal(barrier.processes, 0);
    assert_int_equal(barrier.unlisted, 0);
}

/* A server that says nothing holds up no close: then A is like one that has died. */
static void test_G7_close_without_an_answer_of_the_server(void **state)
{
    struct stack *s = *state;
    struct putter putter;
    settle(s);
    near__memory_error(s->store, NEAR_OP_LEAVE, NEAR_ERR_MISCONFIGURED, 1);
    stack_close(s->a);
    s->a = NULL;
    putter_start(&putter, s->b, "second");
    int64_t waited_ns = putter_pass(s, &putter);
    assert_int_equal(barrier.processes, 1);
    assert_true(waited_ns >= 900 * NEAR_NS_PER_MS);
}

/* An answer that is lost costs time, nothing else. */
static void test_G7_lost_answer_costs_a_bound(void **state)
{
    struct stack *s = *state;
    struct putter putter;
    settle(s);
    stack_hold(s, NEAR_FAULT_DROP_MESSAGES, NEAR_OP_ANSWER, 1);
    putter_start(&putter, s->b, "second");
    int64_t waited_ns = putter_pass(s, &putter);
    assert_true(waited_ns >= 1000 * NEAR_NS_PER_MS);
}

/* A is not on the new list, and holds the old value by a proof of before. */
static void test_G7_lost_list_is_not_believed(void **state)
{
    struct stack *s = *state;
    struct putter putter;
    settle(s);
    cache_in(s->a, "k", "first");
    stack_hold(s, NEAR_FAULT_HOLD_MESSAGES, 0, -1); /* A hears nothing any more, and proves nothing */
    near__memory_foreign_del(s->store, ":nearcache-members", strlen(":nearcache-members"));
    putter_start(&putter, s->b, "second");
    assert_true(wait_until(strcmp(stack_server(s, "k"), "second") == 0, PATIENCE_MS));
    int64_t waited_ns = putter_pass(s, &putter);
    assert_true(waited_ns >= 1000 * NEAR_NS_PER_MS);
    assert_string_equal(look(s->a, "k"), "second");
    stack_hold(s, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
}

/* Nobody could be asked: only the time tells. */
static void test_G7_barrier_without_an_answer_of_the_server(void **state)
{
    struct stack *s = *state;
    struct putter putter;
    settle(s);
    near__memory_error(s->store, NEAR_OP_ROLL, NEAR_ERR_MISCONFIGURED, 1);
    putter_start(&putter, s->b, "second");
    int64_t waited_ns = putter_pass(s, &putter);
    assert_int_equal(barrier.processes, 0);
    assert_true(waited_ns >= 1000 * NEAR_NS_PER_MS);
}

/* A bound that grows is told before it is used: otherwise A's lease would be over for B, and not for A. */
static void test_G7_bound_that_grows_is_told_first(void **state)
{
    struct stack *s = *state;
    settle(s);
    cache_in(s->a, "k", "first");
    stack_hold(s, NEAR_FAULT_HOLD_REQUESTS, NEAR_OP_PROVE, -1);
    assert_int_equal(near_set_bound(s->a, 3600000), NEAR_OK);
    assert_string_equal(peek(s->a, "k"), MISS); /* until its heartbeat has said so */
    stack_hold(s, NEAR_FAULT_HOLD_REQUESTS, 0, 0);
    assert_true(wait_until(strcmp(peek(s->a, "k"), "first") == 0, PATIENCE_MS));
}

/* There was no list when A last heard of it, but the heartbeat under way may have found one and told the bound of
 * before. */
static void test_G7_bound_that_grows_during_a_heartbeat_is_told_first(void **state)
{
    struct stack *s = *state;
    stack_recover(s, s->a);
    stack_recover(s, s->b);
    assert_int_equal(near_set(s->b, "k", 1, "first", 5, NULL, NULL), NEAR_OK);
    cache_in(s->a, "k", "first");
    stack_hold(s, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_PROVE, -1);
    stack_skip(s, 300);
    stack_wait_held(s, NEAR_FAULT_HOLD_REPLIES, 2); /* B's, too */
    assert_string_equal(peek(s->a, "k"), "first");
    assert_int_equal(near_set_bound(s->a, 3600000), NEAR_OK);
    assert_string_equal(peek(s->a, "k"), MISS);
    stack_hold(s, NEAR_FAULT_HOLD_REPLIES, 0, 0);
    assert_true(wait_until(strcmp(peek(s->a, "k"), "first") == 0, PATIENCE_MS));
}

static void test_closing_leaves_the_list_on_redis(void **state)
{
    static const char *const list = "leave::nearcache-members";
    (void)state;
    struct redis_server *redis = redis_server_available() ? redis_server_start(NULL) : NULL;
    if (!redis)
        skip();
    near_cache *a = stack_redis(redis_server_uri_unix(redis), "leave:", 1000),
               *b = stack_redis(redis_server_uri_unix(redis), "leave:", 1000);
    assert_int_equal(put_everywhere(b, "k", "one", PATIENCE_MS), NEAR_OK);
    stack_check(a);
    stack_check(b);
    assert_string_equal(redis_server_command(redis, "HLEN", list, NULL), "3"); /* with the epoch */
    stack_close(a);
    assert_string_equal(redis_server_command(redis, "HLEN", list, NULL), "2");
    assert_int_equal(put_everywhere(b, "k", "two", PATIENCE_MS), NEAR_OK);
    assert_int_equal(barrier.processes, 0);
    stack_close(b);
    assert_string_equal(redis_server_command(redis, "HLEN", list, NULL), "1");
    redis_server_free(redis);
}

static void test_barrier_arguments(void **state)
{
    near_cache *cache = NULL;
    near_value value;
    (void)state;
    assert_int_equal(near_open("local:", NULL, &cache, NULL), NEAR_OK);
    assert_int_equal(put_everywhere(cache, "k", "v", 0), NEAR_OK); /* there is nobody else */
    assert_int_equal(barrier.processes + barrier.missing + barrier.unlisted, 0);
    near_call call = barrier_call(0);
    assert_int_equal(near_get(cache, "k", 1, &call, &value), NEAR_ERR_INVALID);
    near_item item = {.key = "k", .key_size = 1};
    assert_int_equal(near_mget(cache, &item, 1, &call), NEAR_ERR_INVALID);
    call.flags = 0;
    assert_int_equal(near_del(cache, "k", 1, &call), NEAR_ERR_INVALID); /* a result without a barrier */
    call = barrier_call(0);
    barrier.size = 4;
    assert_int_equal(near_del(cache, "k", 1, &call), NEAR_ERR_INVALID);
    barrier.size = offsetof(near_barrier, missing); /* an older program's */
    barrier.missing = 77;
    assert_int_equal(near_del(cache, "k", 1, &call), NEAR_OK);
    assert_int_equal(barrier.missing, 77);
    assert_int_equal(near_close(cache), NEAR_OK);
}

static void require_told_of_nobody(int status)
{
    assert_int_equal(status, NEAR_OK);
    assert_int_equal(barrier.processes + barrier.missing + barrier.unlisted, 0);
}

/* What the structure had from the call before would be taken for this one's. */
static void test_barrier_of_no_items_is_told_of_nobody(void **state)
{
    (void)state;
    near_cache *cache = NULL;
    assert_int_equal(near_open("memory://none", NULL, &cache, NULL), NEAR_OK);
    near_call call = barrier_call(0);
    barrier.processes = barrier.missing = barrier.unlisted = 7;
    require_told_of_nobody(near_mset(cache, NULL, 0, NULL, &call));
    barrier.processes = barrier.missing = barrier.unlisted = 7;
    require_told_of_nobody(near_mdel(cache, NULL, 0, &call));
    call.barrier = NULL;
    assert_int_equal(near_mset(cache, NULL, 0, NULL, &call), NEAR_OK);
    assert_int_equal(near_mset(cache, NULL, 0, NULL, NULL), NEAR_OK);
    assert_int_equal(near_close(cache), NEAR_OK);
}

/* ---------------------------------------------------------------- processes on a real Redis */

enum { READERS = 3, BOUND_MS = 1000 };

static struct redis_server *server; /* NULL: none to be had */
static char prefix[16];

/* What the readers and the test share. */
struct board {
    _Atomic(uint64_t) promised; /* the newest version whose barrier has returned */
    _Atomic(int) over;
    _Atomic(uint64_t) reads[READERS], local[READERS], old[READERS];
    _Atomic(int) ready[READERS];
};

static struct board *board;
static int board_fd = -1; /* a memory file that readers inherit */
static pid_t readers[READERS];

/* The version in the value: what a barrier has promised before the read began is not to be gone back behind. */
static void read_once(near_cache *cache, int number)
{
    char text[24] = "";
    near_value value;
    uint64_t promised = atomic_load(&board->promised);
    int status = near_get(cache, "k", 1, NULL, &value);
    if (status != NEAR_OK)
        return; /* Redis may be away */
    memcpy(text, value.data, value.size < sizeof(text) ? value.size : sizeof(text) - 1);
    atomic_fetch_add(&board->local[number], value.source == NEAR_FROM_LOCAL);
    near_release(&value);
    atomic_fetch_add(&board->reads[number], 1);
    if (strtoull(text, NULL, 10) < promised)
        atomic_fetch_add(&board->old[number], 1);
}

/* This program again (see main): under ThreadSanitizer a forked process has no threads. */
static int reader_main(int number, const char *uri)
{
    near_cache *cache = NULL;
    near_options options;
    stack_options(&options);
    options.bound_ms = BOUND_MS;
    options.prefix = prefix;
    options.timeout_ms = PATIENCE_MS;
    if (near_open(uri, &options, &cache, NULL) != NEAR_OK || near_wait_ready(cache, PATIENCE_MS, NULL) != NEAR_OK)
        return 1;
    atomic_store(&board->ready[number], 1);
    while (!atomic_load(&board->over))
        read_once(cache, number);
    return near_close(cache) != NEAR_OK;
}

static struct board *board_at(int fd)
{
    void *at = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return at == MAP_FAILED ? NULL : at;
}

static void reader_start(int number)
{
    char fd[16], which[16];
    snprintf(fd, sizeof(fd), "%d", board_fd);
    snprintf(which, sizeof(which), "%d", number);
    atomic_store(&board->ready[number], 0);
    readers[number] = fork();
    assert_true(readers[number] >= 0);
    if (readers[number] == 0) {
        execl("/proc/self/exe", "reader", which, redis_server_uri_unix(server), prefix, fd, NULL);
        _exit(127);
    }
}

static void reader_kill(int number)
{
    kill(readers[number], SIGKILL);
    assert_int_equal(waitpid(readers[number], NULL, 0), readers[number]);
}

static void readers_wait(void)
{
    for (int i = 0; i < READERS; i++)
        assert_true(wait_until(atomic_load(&board->ready[i]), PATIENCE_MS));
}

static int readers_setup(void **state)
{
    static unsigned number;
    (void)state;
    if (!redis_server_available())
        return 0;
    server = redis_server_start(NULL);
    snprintf(prefix, sizeof(prefix), "b%u:", ++number);
    board_fd = memfd_create("board", 0);
    if (!server || board_fd < 0 || ftruncate(board_fd, sizeof(*board)) != 0 || !(board = board_at(board_fd)))
        return -1;
    for (int i = 0; i < READERS; i++)
        reader_start(i);
    readers_wait();
    return 0;
}

static int readers_teardown(void **state)
{
    (void)state;
    if (!server)
        return 0;
    for (int i = 0; i < READERS; i++) {
        kill(readers[i], SIGKILL);
        waitpid(readers[i], NULL, 0);
    }
    munmap(board, sizeof(*board));
    close(board_fd);
    redis_server_free(server);
    server = NULL;
    return 0;
}

static near_cache *open_here(void)
{
    if (!server)
        skip();
    return stack_redis(redis_server_uri_unix(server), prefix, BOUND_MS);
}

static int write_version(near_cache *cache, uint64_t version, uint32_t timeout_ms)
{
    char text[24];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)version);
    int status = put_everywhere(cache, "k", text, timeout_ms);
    if (status == NEAR_OK)
        atomic_store(&board->promised, version);
    return status;
}

static uint64_t sum(_Atomic(uint64_t) counters[READERS])
{
    uint64_t all = 0;
    for (int i = 0; i < READERS; i++)
        all += atomic_load(&counters[i]);
    return all;
}

static int is_stopped(pid_t pid)
{
    int status = 0;
    return waitpid(pid, &status, WUNTRACED | WNOHANG) == pid && WIFSTOPPED(status);
}

/* While some are stopped, for less or more than their bound, and killed, every barrier returns, and nobody reads what
 * was before. */
static void test_G7_after_a_barrier_no_process_reads_what_was_before(void **state)
{
    (void)state;
    near_cache *cache = open_here();
    uint64_t random = test_seed(), version = 0;
    assert_int_equal(write_version(cache, ++version, PATIENCE_MS), NEAR_OK);
    for (int round = 0; round < 6; round++) {
        int victim = (int)near__random_below(&random, READERS), killed = near__random_below(&random, 4) == 0;
        for (int i = 0; i < 50; i++) /* everybody answers */
            assert_int_equal(write_version(cache, ++version, PATIENCE_MS), NEAR_OK);
        uint64_t local = atomic_load(&board->local[victim]);
        assert_true(wait_until(atomic_load(&board->local[victim]) > local, PATIENCE_MS)); /* it holds the value */
        kill(readers[victim], killed ? SIGKILL : SIGSTOP);
        for (int i = 0; i < 3; i++)
            assert_int_equal(write_version(cache, ++version, PATIENCE_MS), NEAR_OK);
        if (killed) {
            waitpid(readers[victim], NULL, 0);
            reader_start(victim);
            readers_wait();
        } else {
            kill(readers[victim], SIGCONT);
        }
        uint64_t reads = atomic_load(&board->reads[victim]);
        assert_true(wait_until(atomic_load(&board->reads[victim]) > reads, PATIENCE_MS));
    }
    print_message("# %llu barriers, %llu reads, %llu local\n", (unsigned long long)version,
                  (unsigned long long)sum(board->reads), (unsigned long long)sum(board->local));
    assert_int_equal(sum(board->old), 0);
    assert_true(sum(board->local) > 0);
    stack_close(cache);
}

/* Stops a reader and writes with a short deadline; when it is not missed, on a busy machine, it goes on. */
static int is_missed(near_cache *cache, int number)
{
    kill(readers[number], SIGSTOP);
    if (wait_until(is_stopped(readers[number]), PATIENCE_MS) &&
        write_version(cache, 3, BOUND_MS / 3) == NEAR_UNAPPLIED &&
        barrier.processes == READERS) /* Redis could be asked in time */
        return 1;
    kill(readers[number], SIGCONT);
    return 0;
}

/* With a deadline before its bound's end a stopped process is told to be missing; dead ones are forgotten after a
 * bound. */
static void test_G7_stopped_process_holds_a_barrier_up_for_its_bound(void **state)
{
    (void)state;
    near_cache *cache = open_here();
    assert_int_equal(write_version(cache, 1, PATIENCE_MS), NEAR_OK);
    assert_true(
        wait_until(write_version(cache, 2, PATIENCE_MS) == NEAR_OK && barrier.processes == READERS, PATIENCE_MS));
    assert_true(wait_until(is_missed(cache, 0), PATIENCE_MS)); /* not when the machine takes a bound for it */
    assert_int_equal(barrier.processes, READERS);
    assert_in_range(barrier.missing, 1, READERS); /* on a busy machine others may be late, too */
    assert_int_equal(barrier.unlisted, 0);
    assert_true(stack_stats(cache).barriers_incomplete >= 1);
    assert_int_equal(write_version(cache, 4, PATIENCE_MS), NEAR_OK);
    reader_kill(0);
    assert_true(
        wait_until(write_version(cache, 5, PATIENCE_MS) == NEAR_OK && barrier.processes == READERS - 1, PATIENCE_MS));
    assert_int_equal(sum(board->old), 0);
    stack_close(cache);
}

/* Redis goes: the write is unknown, and nobody was asked.  It comes back empty: the list is new. */
static void test_G7_redis_that_goes_and_comes_back(void **state)
{
    (void)state;
    near_cache *cache = open_here();
    assert_int_equal(write_version(cache, 1, PATIENCE_MS), NEAR_OK);
    redis_server_pause(server);
    int status = write_version(cache, 2, 100);
    assert_true(status == NEAR_ERR_UNKNOWN || status == NEAR_ERR_TIMEOUT);
    assert_int_equal(barrier.unlisted, 1);
    redis_server_resume(server);
    assert_true(wait_until(write_version(cache, 3, PATIENCE_MS) == NEAR_OK, PATIENCE_MS));
    atomic_store(&board->promised, 0); /* what Redis has lost nobody can read */
    assert_int_equal(redis_server_restart(server, 0), 0);
    assert_true(wait_until(write_version(cache, 4, PATIENCE_MS) == NEAR_OK, PATIENCE_MS));
    uint64_t reads = sum(board->reads);
    assert_true(wait_until(sum(board->reads) > reads + 100, PATIENCE_MS));
    assert_int_equal(sum(board->old), 0);
    stack_close(cache);
}

#define STACK(test) cmocka_unit_test_setup_teardown(test, stack_setup, stack_teardown)
#define READ_BY_PROCESSES(test) cmocka_unit_test_setup_teardown(test, readers_setup, readers_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        READ_BY_PROCESSES(test_G7_after_a_barrier_no_process_reads_what_was_before),
        READ_BY_PROCESSES(test_G7_stopped_process_holds_a_barrier_up_for_its_bound),
        READ_BY_PROCESSES(test_G7_redis_that_goes_and_comes_back),
        STACK(test_G7_barrier_returns_when_everybody_has_answered),
        STACK(test_G7_every_kind_of_write_has_a_barrier),
        STACK(test_G7_who_has_not_heard_is_waited_for),
        STACK(test_G7_lost_answer_costs_a_bound),
        STACK(test_G7_lost_list_is_not_believed),
        STACK(test_G7_barrier_without_an_answer_of_the_server),
        STACK(test_G7_bound_that_grows_is_told_first),
        STACK(test_G7_bound_that_grows_during_a_heartbeat_is_told_first),
        STACK(test_G7_who_has_closed_is_not_waited_for),
        STACK(test_G7_close_without_an_answer_of_the_server),
        cmocka_unit_test(test_closing_leaves_the_list_on_redis),
        cmocka_unit_test(test_barrier_arguments),
        cmocka_unit_test(test_barrier_of_no_items_is_told_of_nobody),
    };
    if (argc == 5) {
        snprintf(prefix, sizeof(prefix), "%s", argv[3]);
        board = board_at(atoi(argv[4]));
        return board ? reader_main(atoi(argv[1]), argv[2]) : 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
