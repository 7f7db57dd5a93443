/* SPDX-License-Identifier: BSD-3-Clause
 * memory:// with many threads: nothing lost, nothing out of order, nothing raced (run under ThreadSanitizer). */
#include "memory/side.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
#define WRITES 300
#define OPENINGS 100
#define FORKS 20
#else
#define WRITES 3000
#define OPENINGS 500
#define FORKS 100
#endif
#define WRITERS 4
#define READERS 2

struct crowd {
    struct side sides[READERS];
    uint64_t first; /* position of the first message after the subscriptions */
};

struct member {
    struct crowd *crowd;
    int number;
    pthread_t thread;
};

static void *writer_main(void *arg)
{
    struct member *me = arg;
    struct side *side = &me->crowd->sides[me->number % READERS];
    for (int i = 0; i < WRITES; i++) {
        struct near__request q[2] = {side_request(NEAR_OP_INCR, "n"), side_request(NEAR_OP_FETCH, "n")};
        q[0].number = 1;
        near__remote_run(side->remote, q, 2, side_deadline(side));
        assert_int_equal(q[0].status, NEAR_OK);
        assert_int_equal(q[1].status, NEAR_OK);
        assert_true(q[1].position >= q[0].position);
        near__free(&side->alloc, q[1].value_out);
    }
    return NULL;
}

/* Hears every message once, in the order of the positions, whatever the writers do. */
static void *reader_main(void *arg)
{
    struct member *me = arg;
    struct side *side = &me->crowd->sides[me->number];
    struct near__channel *channel = side_subscribe(side, "p");
    uint64_t next = me->crowd->first;
    side_set(side, "ready", "x");
    for (int heard = 0; heard < WRITERS * WRITES;) {
        struct near__channel_message m;
        unsigned long long position;
        near__channel_read(side->remote, channel, side_deadline(side), &m);
        assert_int_equal(m.event, NEAR_CHANNEL_MESSAGE);
        assert_int_equal(sscanf(m.payload, "1%llu:", &position), 1);
        if (next)
            assert_int_equal(position, next);
        next = position + 1;
        heard += ((const char *)m.payload)[m.payload_size - 1] == 'n';
    }
    near__channel_close(side->remote, channel);
    return NULL;
}

static void start(struct member *members, int count, struct crowd *crowd, void *(*run)(void *))
{
    for (int i = 0; i < count; i++) {
        members[i] = (struct member){.crowd = crowd, .number = i};
        assert_int_equal(pthread_create(&members[i].thread, NULL, run, &members[i]), 0);
    }
}

static void join(struct member *members, int count)
{
    for (int i = 0; i < count; i++)
        pthread_join(members[i].thread, NULL);
}

static void test_every_reader_hears_every_write_in_order(void **state)
{
    (void)state;
    struct crowd crowd = {.first = 0};
    struct member writers[WRITERS], readers[READERS];
    char total[32];
    for (int i = 0; i < READERS; i++)
        assert_int_equal(side_open(&crowd.sides[i], "crowd", "", NULL, NULL), NEAR_OK);
    struct near__memory_store *store = side_store(&crowd.sides[0]);
    start(readers, READERS, &crowd, reader_main);
    while (near__memory_requests(store, NEAR_OP_SET) < READERS) /* subscribed before the first write that counts */
        sched_yield();
    start(writers, WRITERS, &crowd, writer_main);
    join(writers, WRITERS);
    join(readers, READERS);
    snprintf(total, sizeof total, "%d", WRITERS * WRITES);
    side_expect(&crowd.sides[0], "n", total);
    near__memory_unref(store);
    for (int i = 0; i < READERS; i++)
        side_close(&crowd.sides[i]);
}

/* Stores come and go by name while others use them. */
static void *opener_main(void *arg)
{
    (void)arg;
    for (int i = 0; i < OPENINGS; i++) {
        struct side side;
        assert_int_equal(side_open(&side, i % 2 ? "odd" : "even", "", NULL, NULL), NEAR_OK);
        struct near__channel *channel = side_subscribe(&side, "p");
        side_set(&side, "k", "v");
        side_hear(&side, channel, NEAR_CHANNEL_MESSAGE, NULL);
        near__channel_close(side.remote, channel);
        side_close(&side);
    }
    return NULL;
}

static void test_stores_are_opened_and_closed_by_many(void **state)
{
    (void)state;
    struct member members[WRITERS];
    start(members, WRITERS, NULL, opener_main);
    join(members, WRITERS);
}

static void test_store_lives_as_long_as_somebody_holds_it(void **state)
{
    (void)state;
    struct side first, second;
    assert_int_equal(side_open(&first, "shared", "", NULL, NULL), NEAR_OK);
    side_set(&first, "k", "v");
    assert_int_equal(side_open(&second, "shared", "", NULL, NULL), NEAR_OK);
    side_close(&first);
    side_expect(&second, "k", "v");
    side_close(&second);
    assert_int_equal(side_open(&first, "shared", "", NULL, NULL), NEAR_OK);
    side_expect(&first, "k", NULL);
    side_close(&first);
}

static _Atomic(int) forking_is_over;

static void *churn_main(void *arg)
{
    (void)arg;
    while (!atomic_load(&forking_is_over)) {
        struct side side;
        assert_int_equal(side_open(&side, "churn", "", NULL, NULL), NEAR_OK);
        side_set(&side, "k", "v");
        side_close(&side);
    }
    return NULL;
}

/* In the child, whatever lock another thread of the parent held at the fork is nobody's any more. */
static int child_opens_its_own(struct side *parents)
{
    struct side own;
    struct near__request q = side_request(NEAR_OP_FETCH, "k");
    near__remote_abandon(parents->remote);
    if (side_open(&own, "churn", "", NULL, NULL) != NEAR_OK || side_run(&own, &q) != NEAR_MISS)
        return 1;
    q = side_set_request("k", "child");
    int status = side_run(&own, &q);
    side_close(&own);
    return status != NEAR_OK;
}

static void test_R50_child_has_stores_of_its_own(void **state)
{
    (void)state;
    struct member churn;
    struct side parents;
    assert_int_equal(side_open(&parents, "churn", "", NULL, NULL), NEAR_OK);
    side_set(&parents, "k", "parent");
    atomic_store(&forking_is_over, 0);
    start(&churn, 1, NULL, churn_main);
    for (int i = 0; i < FORKS; i++) {
        int status = -1;
        pid_t child = fork();
        if (child == 0) {
            alarm(60); /* a deadlock must not hang the test */
            _exit(child_opens_its_own(&parents));
        }
        waitpid(child, &status, 0);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    atomic_store(&forking_is_over, 1);
    join(&churn, 1);
    side_close(&parents);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_reader_hears_every_write_in_order),
        cmocka_unit_test(test_stores_are_opened_and_closed_by_many),
        cmocka_unit_test(test_store_lives_as_long_as_somebody_holds_it),
        cmocka_unit_test(test_R50_child_has_stores_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
