/* SPDX-License-Identifier: BSD-3-Clause
 * Writes of a cache without a remote tier by many threads: the short way of a plain near_set and the long way of
 * everything else. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/cache.h"
#include "local/index.h"
#include "local/local.h"
#include "nearcache.h"

enum { THREADS = 4, ROUNDS = 4000, KEYS = 3, ERA = 1000000 };

static near_cache *open_only(void)
{
    near_cache *cache = NULL;
    assert_int_equal(near_open("local:", NULL, &cache, NULL), NEAR_OK);
    return cache;
}

static near_stats stats_of(near_cache *cache)
{
    near_stats stats = {.size = sizeof(stats)};
    assert_int_equal(near_stats_get(cache, &stats), NEAR_OK);
    return stats;
}

static int64_t number_of(near_cache *cache, const char *key)
{
    char text[32];
    size_t size;
    assert_int_equal(near_get_copy(cache, key, strlen(key), NULL, text, sizeof(text) - 1, &size), NEAR_OK);
    text[size] = 0;
    return strtoll(text, NULL, 10);
}

static int set_number(near_cache *cache, const char *key, int64_t number)
{
    char text[32];
    return near_set(cache, key, strlen(key), text, (size_t)snprintf(text, sizeof(text), "%" PRId64, number), NULL,
                    NULL);
}

static void run_threads(void *(*run)(void *), near_cache *cache)
{
    pthread_t thread[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, run, cache), 0);
    for (int i = 0; i < THREADS; i++) {
        void *failed = NULL;
        pthread_join(thread[i], &failed);
        assert_null(failed);
    }
}

/* ---------------------------------------------------------------- what depends on what is there */

static void *add_and_set_beside(void *arg)
{
    near_cache *cache = arg;
    for (int i = 0; i < ROUNDS; i++) {
        char key[32];
        snprintf(key, sizeof(key), "sum%d", i % KEYS);
        if (near_incr(cache, key, strlen(key), 1, NULL, NULL) != NEAR_OK)
            return arg;
        snprintf(key, sizeof(key), "beside%d", i % 100); /* of the same stripes, some of them */
        if (near_set(cache, key, strlen(key), key, strlen(key), NULL, NULL) != NEAR_OK)
            return arg;
    }
    return NULL;
}

static void test_no_increment_is_lost(void **state)
{
    near_cache *cache = open_only();
    (void)state;
    run_threads(add_and_set_beside, cache);
    int64_t sum = 0;
    for (int i = 0; i < KEYS; i++) {
        char key[32];
        snprintf(key, sizeof(key), "sum%d", i);
        sum += number_of(cache, key);
    }
    assert_int_equal(sum, THREADS * ROUNDS);
    assert_int_equal(near_close(cache), NEAR_OK);
}

struct contest {
    near_cache *cache;
    atomic_int over, added, failed;
};

static void *add_until_over(void *arg)
{
    struct contest *contest = arg;
    for (; !atomic_load(&contest->over); atomic_fetch_add(&contest->added, 1))
        if (near_incr(contest->cache, "contested", 9, 1, NULL, NULL) != NEAR_OK) {
            atomic_store(&contest->failed, 1);
            return arg;
        }
    return NULL;
}

/* What was set stays until something that has seen it comes: an increment that began on the older number must not
 * replace it. */
static void test_a_plain_set_is_not_overtaken_by_an_increment_of_what_was_there(void **state)
{
    struct contest contest = {.cache = open_only()};
    pthread_t adder;
    void *failed = NULL;
    (void)state;
    assert_int_equal(set_number(contest.cache, "contested", 0), NEAR_OK);
    assert_int_equal(pthread_create(&adder, NULL, add_until_over, &contest), 0);
    for (int64_t era = 1; era <= 100 * ROUNDS || atomic_load(&contest.added) < 100 * ROUNDS; era++) {
        assert_int_equal(set_number(contest.cache, "contested", era * ERA), NEAR_OK);
        int64_t number = 0; /* not read: while the other replaces it, a read may miss it */
        assert_int_equal(near_incr(contest.cache, "contested", 9, 1, NULL, &number), NEAR_OK);
        assert_int_equal(number / ERA, era);
        assert_false(atomic_load(&contest.failed));
    }
    atomic_store(&contest.over, 1);
    pthread_join(adder, &failed);
    assert_null(failed);
    assert_int_equal(near_close(contest.cache), NEAR_OK);
}

enum { REMOVALS = 20000 };

struct removal {
    near_cache *cache;
    int all; /* near_clear, not near_drop */
    atomic_int begun, ended;
};

/* Both go on at the same moment, where there are two processors. */
static void wait_for(atomic_int *round, int value)
{
    for (int looks = 0; atomic_load(round) < value; looks++)
        if (looks > 2000)
            sched_yield();
}

static void *removes(void *arg)
{
    struct removal *removal = arg;
    for (int round = 1; round <= REMOVALS; round++) {
        wait_for(&removal->begun, round);
        for (volatile int i = 0; i < round % 400; i++) /* any moment of the write beside it */
            ;
        int status = removal->all ? near_clear(removal->cache, 0, NULL, NULL) : near_drop(removal->cache, "k", 1);
        atomic_store(&removal->ended, round);
        if (status != NEAR_OK)
            return arg;
    }
    return NULL;
}

static atomic_int looks; /* of writes */

/* What happens when this thread's write has looked, and has not written yet; once. */
static __thread near_cache *removed_after_the_look;
static __thread int all_is;
/* Likewise: time passes. */
static __thread _Atomic(int64_t) *passes_after_the_look;
static __thread int64_t passing_ns;

enum near__local_result __real_near__local_look(struct near__local *local, struct near__reader *reader, const void *key,
                                                size_t key_size, struct near__view *view);
enum near__local_result __wrap_near__local_look(struct near__local *local, struct near__reader *reader, const void *key,
                                                size_t key_size, struct near__view *view);
enum near__local_result __wrap_near__local_look(struct near__local *local, struct near__reader *reader, const void *key,
                                                size_t key_size, struct near__view *view)
{
    enum near__local_result result = __real_near__local_look(local, reader, key, key_size, view);
    atomic_fetch_add(&looks, 1);
    near_cache *cache = removed_after_the_look;
    removed_after_the_look = NULL;
    if (cache)
        assert_int_equal(all_is ? near_clear(cache, 0, NULL, NULL) : near_drop(cache, "k", 1), NEAR_OK);
    if (passes_after_the_look)
        near__clock_advance(passes_after_the_look, passing_ns);
    passes_after_the_look = NULL;
    return result;
}

static void what_is_removed_after_the_look_does_not_come_back(int all)
{
    near_cache *cache = open_only();
    char byte;
    size_t size;
    assert_int_equal(set_number(cache, "k", 5), NEAR_OK);
    removed_after_the_look = cache;
    all_is = all;
    assert_int_equal(near_expire(cache, "k", 1, 60000, NULL), NEAR_MISS);
    assert_null(removed_after_the_look);
    assert_int_equal(near_get_copy(cache, "k", 1, NULL, &byte, 1, &size), NEAR_MISS);
    assert_int_equal(near_close(cache), NEAR_OK);
}

/* Whichever comes first, there is nothing afterwards: a write that has seen the value does not bring it back. */
static void what_is_removed_does_not_come_back(int all)
{
    struct removal removal = {.cache = open_only(), .all = all};
    pthread_t thread;
    void *failed = NULL;
    int came_back = 0;
    assert_int_equal(pthread_create(&thread, NULL, removes, &removal), 0);
    for (int round = 1; round <= REMOVALS; round++) {
        char byte;
        size_t size;
        assert_int_equal(set_number(removal.cache, "k", 5), NEAR_OK);
        atomic_store(&removal.begun, round);
        int status = near_expire(removal.cache, "k", 1, 60000, NULL);
        assert_true(status == NEAR_OK || status == NEAR_MISS);
        wait_for(&removal.ended, round);
        came_back += near_get_copy(removal.cache, "k", 1, NULL, &byte, 1, &size) != NEAR_MISS;
    }
    pthread_join(thread, &failed);
    assert_null(failed);
    assert_int_equal(came_back, 0);
    assert_int_equal(near_close(removal.cache), NEAR_OK);
}

static void test_what_is_dropped_does_not_come_back_by_a_write_that_has_seen_it(void **state)
{
    (void)state;
    what_is_removed_after_the_look_does_not_come_back(0);
    what_is_removed_does_not_come_back(0);
}

static void test_what_is_cleared_does_not_come_back_by_a_write_that_has_seen_it(void **state)
{
    (void)state;
    what_is_removed_after_the_look_does_not_come_back(1);
    what_is_removed_does_not_come_back(1);
}

/* ---------------------------------------------------------------- an index that grows */

/* Where the keeper is with "moved": it stops between m4 and m5 (index.c) until somebody has looked, or it may go on. */
static atomic_int moves, is_between, goes_on_after_looks;

static int is_moved_now(uint64_t word)
{
    return word && !near__word_is_tentative(word) && near__entry_is(near__word_entry(word), "moved", 5);
}

static _Atomic(uint64_t) *empty_slot(const struct near__bucket *home)
{
    unsigned empty = 0, place = 0;
    while (!(empty = near__bucket_scan(near__bucket_place(home, place), 0)))
        assert_true(++place < NEAR_PLACES);
    return near__match_slot(near__bucket_place(home, place), empty);
}

static void move_slowly(struct near__index *index, _Atomic(uint64_t) *slot, const struct near__span *span)
{
    uint64_t word = atomic_load(slot), hash = near__entry_hash(near__word_entry(word), &index->secrets);
    _Atomic(uint64_t) *to;
    atomic_store(&looks, 0);
    do /* the fillers go on, and one of them may have taken it */
        to = empty_slot(near__span_bucket(span, hash));
    while (!near__step_swap(to, 0, near__word_tentative(word))); /* m3 */
    assert_true(near__step_swap(slot, word, 0));                 /* m4 */
    atomic_store(&is_between, 1);
    while (atomic_load(&looks) < atomic_load(&goes_on_after_looks))
        sched_yield();
    if (!near__step_swap(to, near__word_tentative(word), word)) /* m5 */
        near__retire(index, near__word_entry(word), NEAR_WHY_EVICTED);
    atomic_store(&moves, 0);
}

void __real_near__index_move(struct near__index *index, struct near__bucket *bucket, const struct near__span *to,
                             const struct near__moment *moment);
void __wrap_near__index_move(struct near__index *index, struct near__bucket *bucket, const struct near__span *to,
                             const struct near__moment *moment);
void __wrap_near__index_move(struct near__index *index, struct near__bucket *bucket, const struct near__span *to,
                             const struct near__moment *moment)
{
    for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++)
        if (atomic_load(&moves) && is_moved_now(atomic_load(&bucket->slot[i])))
            move_slowly(index, &bucket->slot[i], to);
    __real_near__index_move(index, bucket, to, moment);
}

enum { GROWS_FROM = 2457, FILLERS = GROWS_FROM + 200 }; /* of 2 MiB */

/* A cache whose index grows, with the key "moved" in neither table until there have been so many looks. */
static near_cache *open_between_tables(int until_looks)
{
    near_options options;
    near_cache *cache = NULL;
    near_options_init(&options);
    options.local_bytes = 2u << 20;
    assert_int_equal(near_open("local:", &options, &cache, NULL), NEAR_OK);
    assert_int_equal(set_number(cache, "moved", 41), NEAR_OK);
    atomic_store(&goes_on_after_looks, until_looks);
    atomic_store(&is_between, 0);
    atomic_store(&moves, 1);
    for (int i = 0; i < FILLERS; i++) {
        char key[32];
        size_t size;
        snprintf(key, sizeof(key), "filler%d", i);
        assert_int_equal(set_number(cache, key, i), NEAR_OK);
        near_get_copy(cache, "moved", 5, NULL, key, sizeof(key), &size); /* where places are full, others go */
    }
    while (!atomic_load(&is_between))
        sched_yield();
    return cache;
}

static int increment(near_cache *cache)
{
    return near_incr(cache, "moved", 5, 1, NULL, NULL);
}
static int exchange(near_cache *cache)
{
    return near_cas(cache, "moved", 5, "41", 2, "42", 2, NULL, NULL);
}
static int prolong(near_cache *cache)
{
    return near_expire(cache, "moved", 5, 60000, NULL);
}
static int set_with(near_cache *cache, uint32_t flags)
{
    near_write write;
    near_write_init(&write);
    write.flags = flags;
    return near_set(cache, "moved", 5, "42", 2, &write, NULL);
}
static int set_if_absent(near_cache *cache)
{
    return set_with(cache, NEAR_SET_IF_ABSENT);
}
static int set_if_present(near_cache *cache)
{
    return set_with(cache, NEAR_SET_IF_PRESENT);
}

static const struct {
    int (*run)(near_cache *cache);
    int status;
    int64_t number;
} dependents[] = {{increment, NEAR_OK, 42},
                  {exchange, NEAR_OK, 42},
                  {prolong, NEAR_OK, 41},
                  {set_if_absent, NEAR_UNMET, 41},
                  {set_if_present, NEAR_OK, 42}};
enum { DEPENDENTS = sizeof(dependents) / sizeof(dependents[0]) };

static void await_move(void)
{
    while (atomic_load(&moves))
        sched_yield();
}

static void test_a_key_that_is_moved_is_not_taken_for_absent(void **state)
{
    (void)state;
    for (int i = 0; i < DEPENDENTS; i++) {
        near_cache *cache = open_between_tables(1);
        assert_int_equal(dependents[i].run(cache), dependents[i].status);
        await_move();
        assert_int_equal(number_of(cache, "moved"), dependents[i].number);
        assert_int_equal(near_close(cache), NEAR_OK);
    }
}

static void test_a_write_that_cannot_know_whether_its_key_is_there_changes_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < DEPENDENTS; i++) {
        near_cache *cache = open_between_tables(INT_MAX);
        assert_int_equal(dependents[i].run(cache), NEAR_ERR_TIMEOUT);
        atomic_store(&goes_on_after_looks, 0);
        await_move();
        assert_int_equal(number_of(cache, "moved"), 41);
        assert_int_equal(increment(cache), NEAR_OK); /* the stripe is free */
        assert_int_equal(near_close(cache), NEAR_OK);
    }
}

static void test_a_key_that_is_moved_is_deleted(void **state)
{
    (void)state;
    for (int stops = 0; stops < 2; stops++) {
        near_cache *cache = open_between_tables(stops ? INT_MAX : 1);
        char byte;
        size_t size;
        assert_int_equal(near_del(cache, "moved", 5, NULL), NEAR_OK);
        atomic_store(&goes_on_after_looks, 0);
        await_move();
        assert_int_equal(near_get_copy(cache, "moved", 5, NULL, &byte, 1, &size), NEAR_MISS);
        assert_int_equal(near_del(cache, "moved", 5, NULL), NEAR_MISS);
        assert_int_equal(near_close(cache), NEAR_OK);
    }
}

/* ---------------------------------------------------------------- memory */

static __thread int failures; /* of this thread's next allocations */

static void *allocate(void *unused, size_t size)
{
    (void)unused;
    return failures && failures-- ? NULL : malloc(size);
}
static void *reallocate(void *unused, void *memory, size_t size)
{
    (void)unused;
    return failures && failures-- ? NULL : realloc(memory, size);
}
static void release(void *unused, void *memory)
{
    (void)unused;
    free(memory);
}

/* With 64 values held a look takes a copy. */
static void test_a_key_whose_value_cannot_be_copied_is_not_taken_for_absent(void **state)
{
    enum { PINS = 64 };
    near_options options;
    near_value held[PINS];
    near_cache *cache = NULL;
    (void)state;
    near_options_init(&options);
    options.allocator = (near_allocator){.allocate = allocate, .reallocate = reallocate, .release = release};
    assert_int_equal(near_open("local:", &options, &cache, NULL), NEAR_OK);
    assert_int_equal(set_number(cache, "moved", 41), NEAR_OK);
    for (int i = 0; i < PINS; i++)
        assert_int_equal(near_get(cache, "moved", 5, NULL, &held[i]), NEAR_OK);
    for (int i = 0; i < DEPENDENTS; i++) {
        failures = 1;
        assert_int_equal(dependents[i].run(cache), NEAR_ERR_NOMEM);
        assert_int_equal(failures, 0);
        assert_int_equal(number_of(cache, "moved"), 41);
    }
    failures = 1;
    assert_int_equal(near_del(cache, "moved", 5, NULL), NEAR_OK);
    failures = 0;
    assert_int_equal(near_del(cache, "moved", 5, NULL), NEAR_MISS);
    for (int i = 0; i < PINS; i++)
        near_release(&held[i]);
    assert_int_equal(near_close(cache), NEAR_OK);
}

/* ---------------------------------------------------------------- order */

static void *set_own(void *arg)
{
    static atomic_int threads;
    near_cache *cache = arg;
    char key[32];
    snprintf(key, sizeof(key), "own%d", atomic_fetch_add(&threads, 1));
    /* the writes of one stripe have different numbers, or one of these would be refused or lost */
    for (int i = 0; i < ROUNDS; i++)
        if (set_number(cache, key, i) != NEAR_OK || number_of(cache, key) != i)
            return arg;
    return NULL;
}

static void test_each_thread_reads_what_it_has_set(void **state)
{
    near_cache *cache = open_only();
    (void)state;
    run_threads(set_own, cache);
    assert_int_equal(near_close(cache), NEAR_OK);
}

static void test_sets_deletes_and_sets_again(void **state)
{
    near_cache *cache = open_only();
    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        assert_int_equal(set_number(cache, "k", i), NEAR_OK);
        assert_int_equal(number_of(cache, "k"), i);
        if (i % 3 == 0)
            assert_int_equal(near_del(cache, "k", 1, NULL), NEAR_OK);
        if (i % 5 == 0)
            assert_int_equal(near_drop(cache, "k", 1), NEAR_OK);
        if (i % 7 == 0)
            assert_int_equal(near_clear(cache, 0, NULL, NULL), NEAR_OK);
    }
    assert_int_equal(near_close(cache), NEAR_OK);
}

/* ---------------------------------------------------------------- statistics, limits, close */

static void test_every_write_is_counted_and_some_are_timed(void **state)
{
    near_cache *cache = open_only();
    (void)state;
    run_threads(set_own, cache);
    near_stats stats = stats_of(cache);
    assert_int_equal(stats.writes, THREADS * ROUNDS);
    assert_int_equal(stats.fills, THREADS * ROUNDS);
    assert_in_range(stats.write_ns.count, THREADS * (ROUNDS / 1024), THREADS * ROUNDS - 1);
    assert_int_equal(near_close(cache), NEAR_OK);
}

static void test_the_short_way_knows_the_limits(void **state)
{
    static char large[5000];
    near_options options;
    near_cache *cache = NULL;
    (void)state;
    near_options_init(&options);
    options.value_max = sizeof(large) - 1;
    assert_int_equal(near_open("local:", &options, &cache, NULL), NEAR_OK);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(near_set(cache, "k", 1, large, sizeof(large) - 1, NULL, NULL), NEAR_OK);
        assert_int_equal(near_set(cache, "k", 1, large, sizeof(large), NULL, NULL), NEAR_ERR_TOO_LARGE);
        assert_int_equal(near_set(cache, NULL, 1, large, 1, NULL, NULL), NEAR_ERR_INVALID);
    }
    assert_int_equal(stats_of(cache).writes, 1000);
    assert_int_equal(near_close(cache), NEAR_OK);
}

/* ---------------------------------------------------------------- room that has to be waited for */

enum { FITS = 100000, SETS = 64, PATIENCE_MS = 60000 };

static char big[2 * FITS]; /* as a whole it is more than an eighth of 1 MiB */
static unsigned waits;
static int keeper_may; /* free what was replaced, once somebody waits for it */

void __real_near__local_await_room(struct near__local *local, int patience_ms);
void __wrap_near__local_await_room(struct near__local *local, int patience_ms);
void __wrap_near__local_await_room(struct near__local *local, int patience_ms)
{
    (void)patience_ms;
    if (!waits++ && keeper_may)
        near__local_section_leave();
    if (keeper_may)
        __real_near__local_await_room(local, PATIENCE_MS);
}

/* A small cache whose memory waits for a section of ours; *ret_status is that of the first write that had to wait. */
static near_cache *fill_until_one_waits(int may, int *ret_status)
{
    near_options options;
    near_cache *cache = NULL;
    near_options_init(&options);
    options.local_bytes = 1u << 20;
    assert_int_equal(near_open("local:", &options, &cache, NULL), NEAR_OK);
    keeper_may = may;
    waits = 0;
    near__local_section_enter();
    for (int i = 0; i < SETS && !waits; i++)
        *ret_status = near_set(cache, "k", 1, big, FITS, NULL, NULL);
    assert_true(waits > 0);
    return cache;
}

static void test_a_value_that_is_kept_in_the_end_is_not_counted_as_refused(void **state)
{
    int status;
    near_cache *cache = fill_until_one_waits(1, &status);
    (void)state;
    assert_int_equal(status, NEAR_OK);
    near_stats stats = stats_of(cache);
    assert_int_equal(stats.fills, stats.writes);
    assert_int_equal(stats.fills_refused_space + stats.fills_refused_order, 0);
    assert_int_equal(near_close(cache), NEAR_OK);
}

static _Atomic(int) refuses; /* the short way, which alone puts */
static _Atomic(unsigned) tries, refusals;

int __real_near__index_put(struct near__index *index, struct near__entry *entry, uint64_t hash,
                           const struct near__moment *moment);
int __wrap_near__index_put(struct near__index *index, struct near__entry *entry, uint64_t hash,
                           const struct near__moment *moment);
int __wrap_near__index_put(struct near__index *index, struct near__entry *entry, uint64_t hash,
                           const struct near__moment *moment)
{
    tries++;
    refusals += refuses != 0;
    return !refuses && __real_near__index_put(index, entry, hash, moment);
}

static void test_what_the_short_way_leaves_to_the_long_one_is_not_counted_as_refused(void **state)
{
    near_cache *cache = open_only();
    (void)state;
    refuses = 1;
    /* the first makes the thread known, the second is timed: both go the long way */
    for (int number = 1; number <= 3; number++)
        assert_int_equal(set_number(cache, "k", number), NEAR_OK);
    refuses = 0;
    near_stats stats = stats_of(cache);
    assert_true(refusals > 0);
    assert_int_equal(stats.fills, 3);
    assert_int_equal(stats.fills_refused_space + stats.fills_refused_order, 0);
    assert_int_equal(number_of(cache, "k"), 3);
    assert_int_equal(near_close(cache), NEAR_OK);
}

static int set_for(near_cache *cache, int64_t ttl_ms, uint32_t flags)
{
    near_write write;
    near_write_init(&write);
    write.ttl_ms = ttl_ms;
    write.flags = flags;
    return near_set(cache, "k", 1, "v", 1, &write, NULL);
}

static int64_t time_left(near_cache *cache)
{
    near_value value;
    assert_int_equal(near_get(cache, "k", 1, NULL, &value), NEAR_OK);
    int64_t left_ms = value.ttl_ms;
    near_release(&value);
    return left_ms;
}

/* The first makes the thread known, the second is timed: both go the long way. */
static void make_known(near_cache *cache)
{
    for (int number = 1; number <= 2; number++)
        assert_int_equal(set_number(cache, "k", number), NEAR_OK);
    tries = 0;
}

static void test_a_set_with_a_time_to_live_goes_the_short_way(void **state)
{
    enum { MINUTE = 60000, HOUR = 60 * MINUTE };
    near_cache *cache = open_only();
    (void)state;
    make_known(cache);
    assert_int_equal(set_for(cache, HOUR, 0), NEAR_OK);
    assert_in_range(time_left(cache), HOUR - MINUTE, HOUR);
    assert_int_equal(set_for(cache, MINUTE, 0), NEAR_OK);
    assert_in_range(time_left(cache), 1, MINUTE);
    assert_int_equal(set_for(cache, 0, 0), NEAR_OK);
    assert_int_equal(time_left(cache), -1);
    assert_int_equal(tries, 3);
    assert_int_equal(set_for(cache, -1, 0), NEAR_ERR_INVALID);
    assert_int_equal(set_for(cache, HOUR, NEAR_SET_IF_ABSENT), NEAR_UNMET);
    assert_int_equal(time_left(cache), -1);
    assert_int_equal(tries, 3);
    assert_int_equal(near_close(cache), NEAR_OK);
}

static void test_so_does_one_whose_copy_is_kept_for_so_long_at_most(void **state)
{
    enum { MOST = 60000 };
    near_options options;
    near_cache *cache = NULL;
    (void)state;
    near_options_init(&options);
    options.local_ttl_ms = MOST;
    assert_int_equal(near_open("local:", &options, &cache, NULL), NEAR_OK);
    make_known(cache);
    assert_int_equal(set_for(cache, 0, 0), NEAR_OK);
    assert_in_range(time_left(cache), 1, MOST);
    assert_int_equal(set_for(cache, MOST / 2, 0), NEAR_OK);
    assert_in_range(time_left(cache), 1, MOST / 2);
    assert_int_equal(tries, 2);
    assert_int_equal(near_close(cache), NEAR_OK);
}

static void test_a_value_that_is_not_kept_counts_once(void **state)
{
    int found_no_room;
    near_cache *cache = fill_until_one_waits(0, &found_no_room);
    (void)state;
    near_stats before = stats_of(cache);
    waits = 0;
    int is_too_large = near_set(cache, "k", 1, big, sizeof(big), NULL, NULL);
    near__local_section_leave();
    assert_int_equal(found_no_room, NEAR_ERR_FULL);
    assert_int_equal(before.fills_refused_space, 1);
    assert_int_equal(is_too_large, NEAR_ERR_FULL);
    assert_int_equal(waits, 0); /* there will never be room for it */
    assert_int_equal(stats_of(cache).fills_refused_space, 2);
    assert_int_equal(stats_of(cache).fills_refused_order, 0);
    assert_int_equal(near_close(cache), NEAR_OK);
}

/* ---------------------------------------------------------------- an end that stays */

#define LIFE_MS 1000

static _Atomic(int64_t) now_ns;

/* With a counter that ends in a second; most of a millisecond has passed since it was set. */
static near_cache *open_in_time(void)
{
    near_cache *cache = NULL;
    near_write write = {.size = sizeof(write), .ttl_ms = LIFE_MS};
    atomic_store(&now_ns, 1000 * NEAR_NS_PER_S);
    assert_int_equal(near__cache_open("local:", NULL, &now_ns, &cache, NULL), NEAR_OK);
    assert_int_equal(near_set(cache, "k", 1, "0", 1, &write, NULL), NEAR_OK);
    near__clock_advance(&now_ns, 700000);
    return cache;
}

static void ends_when_it_should(near_cache *cache)
{
    near_value value;
    atomic_store(&now_ns, 1000 * NEAR_NS_PER_S + LIFE_MS * NEAR_NS_PER_MS - 1);
    assert_int_equal(near_get(cache, "k", 1, NULL, &value), NEAR_OK);
    near_release(&value);
    near__clock_advance(&now_ns, 1);
    assert_int_equal(near_get(cache, "k", 1, NULL, &value), NEAR_MISS);
    assert_int_equal(near_close(cache), NEAR_OK);
}

/* Whatever is left is not counted in whole milliseconds from each write on: a counter that is raised a thousand times
 * in a millisecond would have no time left after it. */
static void test_writes_that_keep_a_time_to_live_leave_its_end(void **state)
{
    static const near_write kept = {.size = sizeof(kept), .flags = NEAR_SET_KEEP_TTL};
    near_cache *cache = open_in_time();
    int64_t number;
    (void)state;
    for (int i = 1; i <= 2 * LIFE_MS; i++) {
        assert_int_equal(near_incr(cache, "k", 1, 1, NULL, &number), NEAR_OK);
        assert_int_equal(number, i);
    }
    ends_when_it_should(cache);
    cache = open_in_time();
    for (int i = 0; i < LIFE_MS; i++) {
        assert_int_equal(near_set(cache, "k", 1, "a", 1, &kept, NULL), NEAR_OK);
        assert_int_equal(near_cas(cache, "k", 1, "a", 1, "b", 1, &kept, NULL), NEAR_OK);
    }
    ends_when_it_should(cache);
}

/* The write was the last thing before the end. */
static void test_a_write_whose_value_ends_after_the_look_has_been_done(void **state)
{
    near_cache *cache = open_in_time();
    int64_t number;
    char byte;
    size_t size;
    (void)state;
    passing_ns = LIFE_MS * NEAR_NS_PER_MS;
    passes_after_the_look = &now_ns;
    assert_int_equal(near_incr(cache, "k", 1, 1, NULL, &number), NEAR_OK);
    assert_int_equal(number, 1);
    assert_int_equal(near_get_copy(cache, "k", 1, NULL, &byte, 1, &size), NEAR_MISS);
    assert_int_equal(stats_of(cache).fills_refused_space, 0);
    assert_int_equal(near_incr(cache, "k", 1, 5, NULL, &number), NEAR_OK);
    assert_int_equal(number, 5);
    assert_int_equal(near_close(cache), NEAR_OK);
}

static void *set_until_closed(void *arg)
{
    int status;
    while ((status = near_set(arg, "k", 1, "v", 1, NULL, NULL)) == NEAR_OK)
        ;
    return status == NEAR_ERR_CLOSED ? NULL : arg;
}

static void test_R51_a_set_meets_the_close(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        near_cache *cache = open_only();
        pthread_t thread[2];
        for (int t = 0; t < 2; t++)
            assert_int_equal(pthread_create(&thread[t], NULL, set_until_closed, cache), 0);
        while (!stats_of(cache).writes)
            ;
        assert_int_equal(near_close(cache), NEAR_OK);
        for (int t = 0; t < 2; t++) {
            void *failed = NULL;
            pthread_join(thread[t], &failed);
            assert_null(failed);
        }
    }
}

/* Both ways of a miss: keys of the short way's sizes and others, with terms of the call's own and without.  Arguments
 * that a miss does not need are looked at all the same. */
static void test_a_miss_is_counted_and_leaves_nothing(void **state)
{
    static const char *const keys[] = {"", "short", "of-ten-chr", "a-key-of-more-than-sixteen-bytes"};
    static const near_call terms = {.size = sizeof(terms)};
    near_cache *cache = open_only();
    char buffer[8];
    (void)state;
    assert_int_equal(set_number(cache, "present-key", 1), NEAR_OK);
    assert_int_equal(number_of(cache, "present-key"), 1);
    uint64_t misses = 0;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        for (int own = 0; own < 2; own++) {
            near_value value;
            size_t size = 77, key_size = strlen(keys[i]);
            memset(&value, 0xff, sizeof(value));
            assert_int_equal(near_get(cache, keys[i], key_size, own ? &terms : NULL, &value), NEAR_MISS);
            assert_null(value.data);
            assert_int_equal(value.size, 0);
            near_release(&value);
            assert_int_equal(
                near_get_copy(cache, keys[i], key_size, own ? &terms : NULL, buffer, sizeof(buffer), &size), NEAR_MISS);
            assert_int_equal(near_get_copy(cache, keys[i], key_size, own ? &terms : NULL, NULL, sizeof(buffer), &size),
                             NEAR_ERR_INVALID);
            assert_int_equal(near_get_copy(cache, keys[i], key_size, own ? &terms : NULL, buffer, sizeof(buffer), NULL),
                             NEAR_ERR_INVALID);
            assert_int_equal(near_get(cache, keys[i], key_size, own ? &terms : NULL, NULL), NEAR_ERR_INVALID);
            misses += 2;
            near_stats stats = stats_of(cache);
            assert_int_equal(stats.miss_absent, misses);
            assert_int_equal(stats.local_misses, misses);
            assert_int_equal(stats.gets, misses + 1);
        }
    assert_int_equal(near_close(cache), NEAR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_miss_is_counted_and_leaves_nothing),
        cmocka_unit_test(test_no_increment_is_lost),
        cmocka_unit_test(test_a_plain_set_is_not_overtaken_by_an_increment_of_what_was_there),
        cmocka_unit_test(test_what_is_dropped_does_not_come_back_by_a_write_that_has_seen_it),
        cmocka_unit_test(test_what_is_cleared_does_not_come_back_by_a_write_that_has_seen_it),
        cmocka_unit_test(test_a_key_that_is_moved_is_not_taken_for_absent),
        cmocka_unit_test(test_a_write_that_cannot_know_whether_its_key_is_there_changes_nothing),
        cmocka_unit_test(test_a_key_that_is_moved_is_deleted),
        cmocka_unit_test(test_a_key_whose_value_cannot_be_copied_is_not_taken_for_absent),
        cmocka_unit_test(test_each_thread_reads_what_it_has_set),
        cmocka_unit_test(test_sets_deletes_and_sets_again),
        cmocka_unit_test(test_every_write_is_counted_and_some_are_timed),
        cmocka_unit_test(test_the_short_way_knows_the_limits),
        cmocka_unit_test(test_a_value_that_is_kept_in_the_end_is_not_counted_as_refused),
        cmocka_unit_test(test_what_the_short_way_leaves_to_the_long_one_is_not_counted_as_refused),
        cmocka_unit_test(test_a_set_with_a_time_to_live_goes_the_short_way),
        cmocka_unit_test(test_so_does_one_whose_copy_is_kept_for_so_long_at_most),
        cmocka_unit_test(test_a_value_that_is_not_kept_counts_once),
        cmocka_unit_test(test_writes_that_keep_a_time_to_live_leave_its_end),
        cmocka_unit_test(test_a_write_whose_value_ends_after_the_look_has_been_done),
        cmocka_unit_test(test_R51_a_set_meets_the_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
