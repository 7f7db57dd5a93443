/* SPDX-License-Identifier: BSD-3-Clause
 * The table of flights by itself: who leads, who joins, who must not. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <uthash.h>

#include "base/random.h"
#include "load/flight.h"
#include "support/allocfail.h"
#include "support/seed.h"

#define SECOND NEAR_NS_PER_S

struct room {
    struct allocfail hooks;
    struct near__alloc alloc;
    struct near__clock clock;
    struct near__shared_owner owner;
    struct near__flights *flights;
};

static int setup(void **state)
{
    static struct room room;
    memset(&room, 0, sizeof(room));
    allocfail_init(&room.hooks);
    near__alloc_init(&room.alloc, &room.hooks.hooks);
    room.owner.alloc = &room.alloc;
    *state = &room;
    return near__flights_create(&room.alloc, &room.clock, &room.flights);
}

static int teardown(void **state)
{
    struct room *room = *state;
    near__flights_destroy(room->flights);
    return allocfail_blocks(&room->hooks) != 0 || atomic_load(&room->owner.outstanding) != 0;
}

static const struct near__ticket before = {.floor = 7, .generation = 1, .stripe = 3};

static enum near__flight_role enter(struct room *room, const char *key, struct near__ticket ticket,
                                    struct near__flight **ret)
{
    return near__flight_enter(room->flights, key, strlen(key), ticket, SECOND, ret);
}

static struct near__shared *share(struct room *room, const char *text)
{
    void *copy = near__memdup(&room->alloc, text, strlen(text));
    return near__shared_create(&room->owner, copy, strlen(text), NEAR_NEVER);
}

static void land_and_leave(struct room *room, struct near__flight *flight, int status, struct near__shared *shared)
{
    near__flight_land(room->flights, flight, status, shared);
    near__flight_leave(room->flights, flight);
    near__shared_unref(shared);
}

static void test_R16_second_reader_joins_and_shares_the_result(void **state)
{
    struct room *room = *state;
    struct near__flight *lead, *join;
    struct near__shared *shared = NULL;
    int status = 99;
    assert_int_equal(enter(room, "k", before, &lead), NEAR_FLIGHT_LEAD);
    assert_int_equal(enter(room, "k", before, &join), NEAR_FLIGHT_JOIN);
    land_and_leave(room, lead, NEAR_OK, share(room, "value"));
    assert_int_equal(near__flight_wait(room->flights, join, INT64_MAX / 2, &status, &shared), 1);
    assert_int_equal(status, NEAR_OK);
    assert_memory_equal(shared->data, "value", 5);
    near__shared_unref(shared);
    near__flight_leave(room->flights, join);
}

static void test_other_key_leads_its_own_flight(void **state)
{
    struct room *room = *state;
    struct near__flight *a, *b, *empty;
    assert_int_equal(enter(room, "a", before, &a), NEAR_FLIGHT_LEAD);
    assert_int_equal(enter(room, "b", before, &b), NEAR_FLIGHT_LEAD);
    assert_int_equal(near__flight_enter(room->flights, NULL, 0, before, SECOND, &empty), NEAR_FLIGHT_LEAD);
    land_and_leave(room, a, NEAR_MISS, NULL);
    land_and_leave(room, b, NEAR_MISS, NULL);
    land_and_leave(room, empty, NEAR_MISS, NULL);
}

/* Whatever changed the key's ticket (an acknowledged write, a message, a drop) ends joining. */
static void refuses_to_join(struct room *room, struct near__ticket after)
{
    struct near__flight *old, *fresh, *third;
    assert_int_equal(enter(room, "k", before, &old), NEAR_FLIGHT_LEAD);
    assert_int_equal(enter(room, "k", after, &fresh), NEAR_FLIGHT_LEAD);
    assert_int_equal(enter(room, "k", after, &third), NEAR_FLIGHT_JOIN);
    assert_ptr_equal(third, fresh);
    land_and_leave(room, old, NEAR_MISS, NULL); /* the old one landing does not disturb the new one */
    assert_int_equal(enter(room, "k", after, &third), NEAR_FLIGHT_JOIN);
    near__flight_leave(room->flights, third);
    near__flight_leave(room->flights, third);
    land_and_leave(room, fresh, NEAR_MISS, NULL);
}

static void test_R17_reader_after_a_write_does_not_join_an_older_flight(void **state)
{
    refuses_to_join(*state, (struct near__ticket){.floor = 8, .generation = 1, .stripe = 3});
}

static void test_R17_reader_after_an_unnumbered_invalidation_does_not_join(void **state)
{
    refuses_to_join(*state, (struct near__ticket){.floor = 7, .generation = 2, .stripe = 3});
}

/* A read that must not join (bound 0) takes the older flight's place: who comes later joins it, not the older one. */
static void test_R54_a_solo_fetch_ends_joining_of_older_ones(void **state)
{
    struct room *room = *state;
    struct near__flight *old, *solo, *later;
    assert_int_equal(enter(room, "k", before, &old), NEAR_FLIGHT_LEAD);
    assert_int_equal(near__flight_enter(room->flights, "k", 1, before, 0, &solo), NEAR_FLIGHT_LEAD);
    land_and_leave(room, solo, NEAR_MISS, NULL);
    assert_int_equal(enter(room, "k", before, &later), NEAR_FLIGHT_LEAD);
    land_and_leave(room, later, NEAR_MISS, NULL);
    land_and_leave(room, old, NEAR_MISS, NULL);
}

/* The same when there is no memory for a flight. */
static void test_R52_without_memory_nobody_joins_an_older_flight(void **state)
{
    struct room *room = *state;
    struct near__flight *old, *none, *later;
    assert_int_equal(enter(room, "k", before, &old), NEAR_FLIGHT_LEAD);
    allocfail_at(&room->hooks, 1);
    assert_int_equal(near__flight_enter(room->flights, "k", 1, before, 0, &none), NEAR_FLIGHT_NOMEM);
    allocfail_at(&room->hooks, 0);
    assert_int_equal(enter(room, "k", before, &later), NEAR_FLIGHT_LEAD);
    land_and_leave(room, later, NEAR_MISS, NULL);
    land_and_leave(room, old, NEAR_MISS, NULL);
}

static void test_R52_every_failing_allocation_is_survived(void **state)
{
    struct room *room = *state;
    for (uint64_t n = 1;; n++) {
        struct near__flight *flight;
        allocfail_at(&room->hooks, n);
        enum near__flight_role role = enter(room, "k", before, &flight);
        int struck = allocfail_struck(&room->hooks) != 0;
        allocfail_at(&room->hooks, 0);
        if (role == NEAR_FLIGHT_LEAD)
            land_and_leave(room, flight, NEAR_MISS, NULL);
        if (!struck)
            break;
    }
}

static void test_flight_older_than_the_bound_is_not_joined(void **state)
{
    struct room *room = *state;
    _Atomic(int64_t) now = 5 * SECOND;
    struct near__flight *old, *join, *fresh;
    room->clock.virtual_ns = &now;
    assert_int_equal(enter(room, "k", before, &old), NEAR_FLIGHT_LEAD);
    now = 6 * SECOND - 1;
    assert_int_equal(enter(room, "k", before, &join), NEAR_FLIGHT_JOIN);
    now = 6 * SECOND;
    assert_int_equal(enter(room, "k", before, &fresh), NEAR_FLIGHT_LEAD);
    near__flight_leave(room->flights, join);
    land_and_leave(room, old, NEAR_MISS, NULL);
    land_and_leave(room, fresh, NEAR_MISS, NULL);
}

static void test_waiter_leaves_at_its_own_deadline(void **state)
{
    struct room *room = *state;
    struct near__flight *lead, *join;
    struct near__shared *shared;
    int status;
    enter(room, "k", before, &lead);
    enter(room, "k", before, &join);
    int64_t deadline = near__now(&room->clock) + NEAR_NS_PER_MS;
    assert_int_equal(near__flight_wait(room->flights, join, deadline, &status, &shared), 0);
    assert_true(near__now(&room->clock) >= deadline);
    near__flight_leave(room->flights, join);
    land_and_leave(room, lead, NEAR_MISS, NULL);
}

/* ---------------------------------------------------------------- many flights */

/* What the table asks memory for, beside its flights, which are small. */
struct largest {
    near_allocator real;
    size_t size;
};

static void *allocate(void *arg, size_t size)
{
    struct largest *l = arg;
    l->size = size > l->size ? size : l->size;
    return l->real.allocate(l->real.arg, size);
}

static void *reallocate(void *arg, void *memory, size_t size)
{
    struct largest *l = arg;
    return l->real.reallocate(l->real.arg, memory, size);
}

static void release(void *arg, void *memory)
{
    struct largest *l = arg;
    l->real.release(l->real.arg, memory);
}

/* One near_mget has as many flights as it has keys: a table whose lists do not become more costs the square of them. */
static void test_the_table_grows_with_what_is_under_way(void **state)
{
    enum { FLIGHTS = 50000, LISTS = 256 }; /* a table's least: each of the 32 has some fifteen hundred flights */
    struct room *room = *state;
    static struct near__flight *flights[FLIGHTS];
    struct largest largest = {.real = room->hooks.hooks};
    near_allocator hooks = {allocate, reallocate, release, &largest};
    near__flights_destroy(room->flights);
    near__alloc_init(&room->alloc, &hooks);
    assert_int_equal(near__flights_create(&room->alloc, &room->clock, &room->flights), NEAR_OK);
    largest.size = 0;
    for (uint32_t i = 0; i < FLIGHTS; i++)
        assert_int_equal(near__flight_enter(room->flights, &i, sizeof(i), before, SECOND, &flights[i]),
                         NEAR_FLIGHT_LEAD);
    for (uint32_t i = 0; i < FLIGHTS; i++)
        land_and_leave(room, flights[i], NEAR_MISS, NULL);
    near__flights_destroy(room->flights);
    near__alloc_init(&room->alloc, &room->hooks.hooks);
    assert_int_equal(near__flights_create(&room->alloc, &room->clock, &room->flights), NEAR_OK);
    assert_true(largest.size >= LISTS * sizeof(UT_hash_bucket));
}

/* ---------------------------------------------------------------- many threads */

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define ROUNDS 3000
#else
#define ROUNDS 20000
#endif
#define THREADS 8

struct torture {
    struct room *room;
    uint64_t seed;
    _Atomic(uint64_t) version; /* what a fetch that begins now would see at the least */
    _Atomic(uint64_t) joined;
    _Atomic(int) wrong;
};

static void lead_one(struct torture *t, struct near__flight *flight)
{
    uint64_t seen = atomic_load(&t->version);
    void *copy = near__memdup(&t->room->alloc, &seen, sizeof(seen));
    land_and_leave(t->room, flight, NEAR_OK, near__shared_create(&t->room->owner, copy, sizeof(seen), NEAR_NEVER));
}

static void join_one(struct torture *t, struct near__flight *flight, uint64_t floor)
{
    struct near__shared *shared = NULL;
    int status;
    if (near__flight_wait(t->room->flights, flight, INT64_MAX / 2, &status, &shared) && shared) {
        if (*(uint64_t *)shared->data < floor)
            t->wrong = 1;
        near__shared_unref(shared);
        t->joined++;
    }
    near__flight_leave(t->room->flights, flight);
}

static void *fly_about(void *arg)
{
    struct torture *t = arg;
    uint64_t random = t->seed + (uint64_t)(uintptr_t)pthread_self();
    for (int i = 0; i < ROUNDS; i++) {
        if (near__random_below(&random, 16) == 0)
            atomic_fetch_add(&t->version, 1); /* a write, acknowledged: from now on older flights must not be joined */
        uint64_t floor = atomic_load(&t->version);
        struct near__ticket ticket = {.floor = floor};
        char key[2] = {(char)('a' + near__random_below(&random, 3)), 0};
        struct near__flight *flight;
        if (enter(t->room, key, ticket, &flight) == NEAR_FLIGHT_LEAD)
            lead_one(t, flight);
        else
            join_one(t, flight, floor);
    }
    return NULL;
}

static void test_R17_no_thread_ever_gets_a_result_from_before_its_ticket(void **state)
{
    struct torture t = {.room = *state, .seed = test_seed()};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, fly_about, &t), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(t.wrong, 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_R16_second_reader_joins_and_shares_the_result),
        TEST(test_other_key_leads_its_own_flight),
        TEST(test_R17_reader_after_a_write_does_not_join_an_older_flight),
        TEST(test_R17_reader_after_an_unnumbered_invalidation_does_not_join),
        TEST(test_R54_a_solo_fetch_ends_joining_of_older_ones),
        TEST(test_R52_without_memory_nobody_joins_an_older_flight),
        TEST(test_R52_every_failing_allocation_is_survived),
        TEST(test_flight_older_than_the_bound_is_not_joined),
        TEST(test_waiter_leaves_at_its_own_deadline),
        TEST(test_the_table_grows_with_what_is_under_way),
        TEST(test_R17_no_thread_ever_gets_a_result_from_before_its_ticket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
