/* SPDX-License-Identifier: BSD-3-Clause
 * The two threads as they run in earnest: real clock, real waiting, several user threads, faults at any moment. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "coherence/process.h"
#include "support/seed.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { ROUNDS = 40 };
#else
enum { ROUNDS = 150 };
#endif
enum { KEYS = 4, COLD = 200, WRITERS = 2, READERS = 2 };
#define PATIENCE_NS (60 * NEAR_NS_PER_S) /* of the tests: far longer than anything takes, even on a busy machine */

static int64_t soon(struct world *w)
{
    return near__now(&w->clock) + PATIENCE_NS;
}

static void assert_ready(struct process *p)
{
    near_error error = {0};
    if (near__coherence_wait(p->coherence, soon(p->world), &error) != NEAR_OK)
        fail_msg("not ready: %s", error.text);
}

/* ---------------------------------------------------------------- the threads themselves */

static int read_text(const char *path, char *text, size_t capacity)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return -1;
    size_t size = fread(text, 1, capacity - 1, file);
    fclose(file);
    text[size] = 0;
    return 0;
}

/* How many of this process's threads have that name, and block every signal that can be blocked. */
static int threads_named(const char *name)
{
    DIR *tasks = opendir("/proc/self/task");
    int found = 0;
    assert_non_null(tasks);
    for (struct dirent *task; (task = readdir(tasks));) {
        char path[300], text[4096];
        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", task->d_name);
        if (read_text(path, text, sizeof(text)) < 0 || strncmp(text, name, strlen(name)) != 0)
            continue;
        snprintf(path, sizeof(path), "/proc/self/task/%s/status", task->d_name);
        assert_int_equal(read_text(path, text, sizeof(text)), 0);
        const char *blocked = strstr(text, "SigBlk:");
        assert_non_null(blocked);
        uint64_t mask = strtoull(blocked + 7, NULL, 16);
        /* all 64 but KILL, STOP and the two that the C library keeps for itself */
        assert_int_equal(mask | UINT64_C(1) << 8 | UINT64_C(1) << 18 | UINT64_C(3) << 31, UINT64_MAX);
        found++;
    }
    closedir(tasks);
    return found;
}

static void test_R53_threads_have_names_and_block_all_signals(void **state)
{
    (void)state;
    struct world w;
    struct process p;
    world_open_real(&w);
    process_open(&p, &w, 0);
    assert_ready(&p);
    assert_int_equal(threads_named("near-sub"), 1);
    while (threads_named("near-prove") == 0) /* it names itself when it first runs */
        ;
    process_close(&p);
    assert_int_equal(threads_named("near-sub") + threads_named("near-prove"), 0);
    world_close(&w);
}

/* With an hour's bound and a minute to connect, closing must not wait for anything of that. */
static void test_close_ends_promptly_whatever_is_under_way(void **state)
{
    (void)state;
    static const enum near__memory_fault faults[] = {NEAR_FAULT_NONE,          NEAR_FAULT_SILENCE,
                                                     NEAR_FAULT_REFUSE,        NEAR_FAULT_HOLD_REPLIES,
                                                     NEAR_FAULT_HOLD_REQUESTS, NEAR_FAULT_HOLD_MESSAGES};
    for (size_t i = 0; i < 2 * sizeof(faults) / sizeof(faults[0]); i++) {
        struct world w;
        struct process p;
        world_open_real(&w);
        w.bound_ms = 3600000;
        w.connect_timeout_ms = 600000;
        if (i % 2)
            near__memory_fault(w.store, faults[i / 2], 0, -1);
        process_open(&p, &w, 0);
        if (i % 2 == 0) {
            assert_ready(&p);
            near__memory_fault(w.store, faults[i / 2], 0, -1);
            near_error error;
            near__coherence_check(p.coherence, near__now(&w.clock) + 20 * NEAR_NS_PER_MS, &error);
        }
        int64_t started_ns = near__now(&w.clock);
        process_close(&p);
        assert_true(near__now(&w.clock) - started_ns < PATIENCE_NS);
        world_close(&w);
    }
}

static void test_wait_and_check_say_what_is_wrong(void **state)
{
    (void)state;
    struct world w;
    struct process p;
    near_error error = {0};
    world_open_real(&w);
    near__memory_fault(w.store, NEAR_FAULT_REFUSE, 0, -1);
    process_open(&p, &w, 0);
    while (!strstr(error.text, "refused"))
        assert_int_equal(near__coherence_wait(p.coherence, near__now(&w.clock) + 20 * NEAR_NS_PER_MS, &error),
                         NEAR_ERR_TIMEOUT);
    assert_int_equal(near__coherence_check(p.coherence, near__now(&w.clock) + NEAR_NS_PER_MS, &error),
                     NEAR_ERR_UNAVAILABLE);
    near__memory_fault(w.store, NEAR_FAULT_REFUSE, 0, 0);
    assert_ready(&p);
    uint64_t proofs = process_stats(&p).proofs;
    assert_int_equal(near__coherence_check(p.coherence, soon(&w), &error), NEAR_OK);
    assert_true(process_stats(&p).proofs > proofs); /* a round trip of its own */
    process_close(&p);
    world_close(&w);
}

/* A break that a user's thread sees in a reply reaches the subscriber, which may be waiting for a message, at once. */
static void test_R10_break_seen_in_a_reply_wakes_the_subscriber(void **state)
{
    (void)state;
    struct world w;
    struct process p;
    world_open_real(&w);
    w.bound_ms = 3600000; /* heartbeats are seldom */
    process_open(&p, &w, 0);
    assert_ready(&p);
    process_set(&p, "k", 1);
    near__memory_set_position(w.store, "", near__memory_position(w.store, "") - 1);
    process_fetch(&p, "k");
    assert_ready(&p);
    assert_int_equal(process_stats(&p).position_regressions, 1);
    assert_true(process_stats(&p).suspicions >= 1);
    process_close(&p);
    world_close(&w);
}

/* ---------------------------------------------------------------- everything at once */

struct storm {
    struct world world;
    struct process process[WRITERS]; /* writer i lives in process i, readers in both */
    _Atomic(uint64_t) written[KEYS]; /* last acknowledged; key k is written by writer k % WRITERS alone */
    _Atomic(int) over;
    _Atomic(uint64_t) hits, violations;
};

struct part {
    struct storm *storm;
    pthread_t thread;
    uint64_t random;
    int number;
};

static const char *const names[KEYS] = {"a", "b", "c", "d"};

/* Told at the end, by the thread that may fail the test. */
static void violate(struct storm *s, const char *what, int key, uint64_t before, uint64_t after)
{
    atomic_fetch_add(&s->violations, 1);
    fprintf(stderr, "%s %" PRIu64 " of %s is followed by %" PRIu64 "\n", what, before, names[key], after);
}

static void *write_on(void *arg)
{
    struct part *part = arg;
    struct storm *s = part->storm;
    for (uint64_t value = 1; !atomic_load(&s->over); value++) {
        int key = part->number + WRITERS * (int)near__random_below(&part->random, KEYS / WRITERS);
        process_set(&s->process[part->number], names[key], value);
        atomic_store(&s->written[key], value);
        uint64_t found;
        if (process_hit(&s->process[part->number], names[key], &found) && found < value)
            violate(s, "own write", key, value, found);
        struct timespec pause = {.tv_nsec = 200000};
        nanosleep(&pause, NULL);
    }
    return NULL;
}

static void *read_on(void *arg)
{
    struct part *part = arg;
    struct storm *s = part->storm;
    struct process *p = &s->process[part->number % WRITERS];
    uint64_t seen[KEYS] = {0}, found;
    while (!atomic_load(&s->over)) {
        int key = (int)near__random_below(&part->random, KEYS);
        if (process_hit(p, names[key], &found))
            atomic_fetch_add(&s->hits, 1);
        else
            found = process_fetch(p, names[key]);
        if (found < seen[key])
            violate(s, "read", key, seen[key], found);
        seen[key] = found;
    }
    return NULL;
}

static void *break_things(void *arg)
{
    struct part *part = arg;
    struct storm *s = part->storm;
    for (int i = 0; i < ROUNDS; i++) {
        switch (near__random_below(&part->random, 6)) {
        case 0:
            near__memory_disconnect_channels(s->world.store);
            break;
        case 1:
            near__memory_fault(s->world.store, NEAR_FAULT_DROP_MESSAGES, 0, 2);
            break;
        case 2:
            near__memory_fault(s->world.store, NEAR_FAULT_HOLD_MESSAGES, 0, 20);
            break;
        case 3:
            near__memory_inject_message(s->world.store, "garbage", 7);
            break;
        case 4:
            near__memory_duplicate_next_message(s->world.store);
            break;
        default:
            near__memory_restart(s->world.store, 0);
            break;
        }
        /* now and then long enough for a repair */
        struct timespec pause = {.tv_nsec = (i % 10 ? 5 : 60) * NEAR_NS_PER_MS};
        nanosleep(&pause, NULL);
        near__memory_fault(s->world.store, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
    }
    atomic_store(&s->over, 1);
    return NULL;
}

static void assert_converged(struct storm *s)
{
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < WRITERS; i++) {
            near_error error = {0};
            if (near__coherence_check(s->process[i].coherence, soon(&s->world), &error) != NEAR_OK)
                fail_msg("no recovery: %s", error.text);
        }
    for (int i = 0; i < WRITERS; i++)
        for (int k = 0; k < KEYS; k++) {
            uint64_t found, last = atomic_load(&s->written[k]);
            if (process_hit(&s->process[i], names[k], &found))
                assert_int_equal(found, last);
            assert_int_equal(process_fetch(&s->process[i], names[k]), last);
        }
}

/* Nobody reads or writes these again, so they are there to be repaired whenever something breaks. */
static void keep_cold_keys(struct process *p)
{
    char key[16];
    for (uint64_t i = 0; i < COLD; i++) {
        snprintf(key, sizeof(key), "cold-%u", (unsigned)i);
        process_set(p, key, i);
    }
}

static void assert_cold_keys(struct process *p)
{
    char key[16];
    for (uint64_t i = 0, found; i < COLD; i++) {
        snprintf(key, sizeof(key), "cold-%u", (unsigned)i);
        if (process_hit(p, key, &found))
            assert_int_equal(found, i);
    }
}

static void test_G1_G2_G4_hold_with_threads_and_faults(void **state)
{
    (void)state;
    struct storm *s = calloc(1, sizeof(*s));
    struct part parts[WRITERS + READERS + 1];
    uint64_t random = test_seed();
    world_open_real(&s->world);
    for (int i = 0; i < WRITERS; i++) {
        s->world.repair_rate = i % 2 ? 1000000 : 0;
        process_open(&s->process[i], &s->world, 0);
    }
    for (int i = 0; i < WRITERS; i++)
        assert_ready(&s->process[i]);
    keep_cold_keys(&s->process[1]);
    for (int i = 0; i < WRITERS + READERS + 1; i++) {
        void *(*work)(void *) = i < WRITERS ? write_on : i < WRITERS + READERS ? read_on : break_things;
        parts[i] =
            (struct part){.storm = s, .random = near__random_next(&random), .number = i < WRITERS ? i : i - WRITERS};
        assert_int_equal(pthread_create(&parts[i].thread, NULL, work, &parts[i]), 0);
    }
    for (int i = 0; i < WRITERS + READERS + 1; i++)
        pthread_join(parts[i].thread, NULL);
    assert_int_equal(atomic_load(&s->violations), 0);
    assert_converged(s);
    assert_cold_keys(&s->process[1]);
    uint64_t compared = 0;
    for (int i = 0; i < WRITERS; i++) {
        compared += process_stats(&s->process[i]).repair_compared;
        process_close(&s->process[i]);
    }
    print_message("# %" PRIu64 " hits, %" PRIu64 " entries compared after faults\n", atomic_load(&s->hits), compared);
    world_close(&s->world);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_R53_threads_have_names_and_block_all_signals),
        cmocka_unit_test(test_close_ends_promptly_whatever_is_under_way),
        cmocka_unit_test(test_wait_and_check_say_what_is_wrong),
        cmocka_unit_test(test_R10_break_seen_in_a_reply_wakes_the_subscriber),
        cmocka_unit_test(test_G1_G2_G4_hold_with_threads_and_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
