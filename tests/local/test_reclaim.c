/* SPDX-License-Identifier: BSD-3-Clause
 * The way from retired to free (reclaim.c).  The test is the keeper, so rounds happen when it says so, and it does in
 * the middle of a grace period what others might do there.  Every entry that is freed is looked at: it was retired
 * before a grace period began that has ended, and nobody has it pinned. */
#include "local/local_fixture.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/random.h"
#include "local/rcu.h"
#include "local/tier.h"
#include "support/allocfail.h"
#include "support/seed.h"

/* ---------------------------------------------------------------- what is looked at */

enum { TRACED = 4096, HELD = 8, FIRST = 1000 };

static struct traced {
    struct near__entry *entry;
    unsigned retired_in; /* so many grace periods had begun */
} traced[TRACED];
static unsigned traced_count;
static unsigned begun, ended;                /* grace periods */
static const struct near__entry *held[HELD]; /* pinned by the test */
static unsigned too_early, freed_while_held, freed_while_recalled, freed_by_keeper;
static int64_t grace_each_ns, grace_ns; /* said to be taken by each grace period, and by all so far; whole seconds */
static void (*meanwhile)(void);         /* what others do in the middle of the next grace period; NULL: nothing */
static void (*at_the_walk)(void);       /* likewise, each time that the keeper is about to free an entry */
static void (*at_a_move)(void);         /* likewise, each time that a bucket is about to be moved */

static void trace_anew(void)
{
    traced_count = begun = ended = too_early = freed_while_held = freed_while_recalled = freed_by_keeper = 0;
    memset(held, 0, sizeof(held));
    meanwhile = at_the_walk = at_a_move = NULL;
}

void __real_near__retire(struct near__index *index, struct near__entry *entry, enum near__why why);
void __wrap_near__retire(struct near__index *index, struct near__entry *entry, enum near__why why);
void __wrap_near__retire(struct near__index *index, struct near__entry *entry, enum near__why why)
{
    assert_true(traced_count < TRACED);
    traced[traced_count++] = (struct traced){entry, begun};
    __real_near__retire(index, entry, why);
}

int64_t __real_near__block_free(struct near__local *local, struct near__reader *reader, struct near__entry *entry);
int64_t __wrap_near__block_free(struct near__local *local, struct near__reader *reader, struct near__entry *entry);
int64_t __wrap_near__block_free(struct near__local *local, struct near__reader *reader, struct near__entry *entry)
{
    for (unsigned i = 0; i < traced_count; i++)
        if (traced[i].entry == entry) {
            too_early += ended <= traced[i].retired_in;
            traced[i] = traced[--traced_count];
            break;
        }
    for (unsigned i = 0; i < HELD; i++)
        freed_while_held += held[i] == entry;
    freed_while_recalled += !reader && (int64_t)atomic_load(&local->budget.phase) < 0; /* the highest bit says so */
    freed_by_keeper += !reader;
    if (!reader && at_the_walk)
        at_the_walk();
    return __real_near__block_free(local, reader, entry);
}

void __real_near__rcu_synchronize(void);
void __wrap_near__rcu_synchronize(void);
void __wrap_near__rcu_synchronize(void)
{
    void (*once)(void) = meanwhile;
    begun++;
    meanwhile = NULL;
    if (once)
        once();
    __real_near__rcu_synchronize();
    ended = begun;
    grace_ns += grace_each_ns;
}

/* What is said to have been taken comes on top. */
int __real_clock_gettime(clockid_t id, struct timespec *ret);
int __wrap_clock_gettime(clockid_t id, struct timespec *ret);
int __wrap_clock_gettime(clockid_t id, struct timespec *ret)
{
    int failed = __real_clock_gettime(id, ret);
    ret->tv_sec += (time_t)(grace_ns / SEC);
    return failed;
}

void __real_near__index_move(struct near__index *index, struct near__bucket *old, const struct near__span *span,
                             const struct near__moment *moment);
void __wrap_near__index_move(struct near__index *index, struct near__bucket *old, const struct near__span *span,
                             const struct near__moment *moment);
void __wrap_near__index_move(struct near__index *index, struct near__bucket *old, const struct near__span *span,
                             const struct near__moment *moment)
{
    if (at_a_move)
        at_a_move();
    __real_near__index_move(index, old, span, moment);
}

/* ---------------------------------------------------------------- steps */

static struct fixture f;
static uint64_t newest, next_key;

static void start(void)
{
    trace_anew();
    newest = 0;
    fixture_init(&f);
}

static void add_one(uint64_t key, size_t size)
{
    static const char value[1 << 16];
    struct near__ticket ticket = near__local_ticket(f.local, &key, sizeof(key));
    assert_int_equal(
        near__local_install(f.local, f.reader, ticket, &key, sizeof(key), value, size, ++newest, -1, NEAR_NEVER), 1);
}

static int retire_one(uint64_t key)
{
    return near__local_invalidate(f.local, &key, sizeof(key), ++newest, NEAR_CAUSE_MESSAGE) == 1;
}

static void open_tier(void)
{
    fixture_start(&f);
    f.local->manual = 0; /* rounds are ours, and hand back as the keeper's do */
    for (uint64_t key = FIRST; key < FIRST + 100; key++)
        add_one(key, 50);
    next_key = FIRST;
}

/* Of those that open_tier has filled in: filling would take back what has come back. */
static void retire(uint64_t keys)
{
    for (; keys; keys--)
        assert_true(retire_one(next_key++));
}

/* How many came back. */
static int recycle(int most)
{
    near__rcu_enter();
    int freed = near__recycle(f.local, f.reader, most);
    near__rcu_leave();
    return freed;
}

static int64_t retired_bytes(void)
{
    return (int64_t)stats_of(&f).local_retired_bytes;
}

static void hold(unsigned i, uint64_t key, struct near__view *view)
{
    assert_int_equal(near__local_get(f.local, f.reader, &key, sizeof(key), ANY_BOUND, 0, view), NEAR_LOCAL_HIT);
    held[i] = atomic_load((_Atomic(struct near__entry *) *)view->pin);
}

static void let_go(unsigned i, struct near__view *view)
{
    held[i] = NULL;
    near__local_unpin(f.reader, view);
}

static void close_tier(void)
{
    f.local->manual = 1;
    fixture_close(&f);
    assert_int_equal(too_early, 0);
    assert_int_equal(freed_while_held, 0);
    assert_int_equal(freed_while_recalled, 0); /* a long walk: bags are the threads' again before it */
}

/* ---------------------------------------------------------------- bags */

static void test_what_is_retired_comes_back_after_one_grace_period(void **state)
{
    (void)state;
    start();
    open_tier();
    retire(3);
    assert_int_equal(recycle(10), 0);
    assert_true(near__reclaim(f.local, 0));
    assert_int_equal(begun, 1);
    assert_int_equal(recycle(10), 3);
    assert_int_equal(retired_bytes(), 0);
    assert_false(near__reclaim(f.local, 0)); /* nothing is left to wait for */
    assert_int_equal(begun, 1);
    close_tier();
}

static void retires_three(void)
{
    retire(3);
}

/* [b1] The one under way may have begun, for some reader, before they were taken out of their slots. */
static void test_what_is_retired_in_a_grace_period_waits_for_the_next(void **state)
{
    (void)state;
    start();
    open_tier();
    retire(2);
    meanwhile = retires_three;
    assert_true(near__reclaim(f.local, 0));
    assert_int_equal(recycle(10), 2);
    assert_true(near__reclaim(f.local, 0));
    assert_int_equal(recycle(10), 3);
    assert_int_equal(begun, 2);
    close_tier();
}

static void looks(void)
{
    assert_int_equal(recycle(10), 0);
}

/* [b1] Whatever the thread has seen of the phases. */
static void test_a_look_in_a_grace_period_or_none_for_long_changes_nothing(void **state)
{
    (void)state;
    start();
    open_tier();
    retire(2);
    meanwhile = looks;
    assert_true(near__reclaim(f.local, 0));
    retire(3);
    assert_int_equal(recycle(10), 2);
    meanwhile = retires_three;
    assert_true(near__reclaim(f.local, 0));
    retire(1); /* with those that were retired in the grace period */
    assert_int_equal(recycle(10), 3);
    for (int rounds = 0; rounds < 3; rounds++)
        assert_true(near__reclaim(f.local, 0));
    retire(2);
    assert_int_equal(recycle(10), 4);
    assert_true(near__reclaim(f.local, 0));
    assert_int_equal(recycle(10), 2);
    close_tier();
}

static void takes_in_vain(void)
{
    assert_int_equal(recycle(10), 0); /* what had come back already is recalled, too */
    retire(2);
}

/* [b2] A round that takes everything. */
static void test_what_is_recalled_is_freed_by_the_keeper_alone(void **state)
{
    (void)state;
    start();
    open_tier();
    retire(4);
    assert_true(near__reclaim(f.local, 0));
    assert_int_equal(recycle(1), 1);
    retire(5);
    meanwhile = takes_in_vain;
    assert_true(near__reclaim(f.local, 1));
    assert_int_equal(recycle(10), 0);
    assert_int_equal(f.local->keeper.stock.weight, 0); /* what it has freed is for everybody */
    assert_true(retired_bytes() > 0);                  /* the last two */
    assert_true(near__reclaim(f.local, 0));
    assert_int_equal(retired_bytes(), 0);
    retire(2); /* and all is as before */
    assert_true(near__reclaim(f.local, 0));
    assert_int_equal(recycle(10), 2);
    close_tier();
}

static void *retires_and_goes(void *arg)
{
    f.reader = near__local_reader(f.local);
    retire(*(uint64_t *)arg);
    return NULL;
}

static void test_what_a_thread_has_left_behind_is_freed(void **state)
{
    (void)state;
    struct near__reader *mine;
    pthread_t thread;
    uint64_t keys = 5;
    start();
    open_tier();
    mine = f.reader;
    assert_int_equal(pthread_create(&thread, NULL, retires_and_goes, &keys), 0);
    pthread_join(thread, NULL);
    assert_ptr_not_equal(f.reader, mine);
    f.reader = mine;
    assert_true(near__reclaim(f.local, 0)); /* is handed back to nobody */
    assert_true(retired_bytes() > 0 && near__reclaim_is_due(f.local));
    assert_true(near__reclaim(f.local, 1));
    assert_int_equal(retired_bytes(), 0);
    assert_false(near__reclaim_is_due(f.local));
    close_tier();
}

/* ---------------------------------------------------------------- room that is short */

enum { LARGE = 1000, MANY = 900 }; /* 3/4 of what is between budget and ceiling, and some more */

/* And no more than that yet. */
static void open_with_large(void)
{
    start();
    open_tier();
    for (uint64_t key = FIRST + MANY; key < FIRST + 2 * MANY; key++)
        add_one(key, LARGE);
    next_key = FIRST + MANY;
}

/* But for an eighth of the budget; nothing has to go for it. */
static void fill_up(void)
{
    int64_t max = atomic_load(&f.local->budget.max);
    uint64_t evicted = stats_of(&f).evictions;
    for (uint64_t key = FIRST + 10 * MANY; atomic_load(&f.local->budget.used) <= max - max / 8; key++)
        add_one(key, LARGE);
    assert_int_equal(stats_of(&f).evictions, evicted);
}

/* Whoever fills has it back, and uses it. */
static void test_short_room_is_handed_back_to_who_uses_it(void **state)
{
    (void)state;
    open_with_large();
    retire(MANY);
    fill_up();
    for (int rounds = 0; rounds < 3; rounds++) {
        near__reclaim_some(f.local);
        assert_int_equal(recycle(1), 1);
    }
    assert_int_equal(recycle(MANY / 2), MANY / 2); /* enough */
    for (int rounds = 0; rounds < 10; rounds++)
        near__reclaim_some(f.local);
    assert_int_equal(recycle(MANY), MANY - MANY / 2 - 3);
    close_tier();
}

static void test_room_that_stays_short_is_taken_from_who_does_not_use_it(void **state)
{
    (void)state;
    struct near__reader *mine;
    pthread_t thread;
    uint64_t keys = MANY;
    open_with_large();
    mine = f.reader;
    assert_int_equal(pthread_create(&thread, NULL, retires_and_goes, &keys), 0);
    pthread_join(thread, NULL);
    f.reader = mine;
    for (int rounds = 0; rounds < 10; rounds++) { /* there is room below the budget: it stands in nobody's way */
        near__reclaim_some(f.local);
        assert_true(retired_bytes() > MANY * LARGE);
    }
    fill_up();
    for (int rounds = 0; rounds < 3; rounds++) {
        near__reclaim_some(f.local);
        assert_true(retired_bytes() > MANY * LARGE);
    }
    near__reclaim_some(f.local);
    assert_int_equal(retired_bytes(), 0);
    close_tier();
}

/* A value that may come is as much as a large part of the budget. */
static void test_room_is_short_for_the_largest_value(void **state)
{
    (void)state;
    struct near__reader *mine;
    pthread_t thread;
    uint64_t keys = MANY;
    open_with_large();
    mine = f.reader;
    assert_int_equal(pthread_create(&thread, NULL, retires_and_goes, &keys), 0);
    pthread_join(thread, NULL);
    f.reader = mine;
    f.local->value_max = (uint64_t)(atomic_load(&f.local->budget.max) - atomic_load(&f.local->budget.used)) + 1;
    for (int rounds = 0; rounds < 4; rounds++) {
        assert_true(retired_bytes() > MANY * LARGE);
        near__reclaim_some(f.local);
    }
    assert_int_equal(retired_bytes(), 0);
    close_tier();
}

/* ---------------------------------------------------------------- pins */

static void open_and_hold(uint64_t key, struct near__view *view)
{
    start();
    open_tier();
    add_one(key, 50);
    hold(0, key, view);
}

static void test_only_what_is_pinned_is_kept(void **state)
{
    (void)state;
    struct near__view view;
    open_and_hold(7, &view);
    assert_true(retire_one(7));
    retire(3);
    assert_true(near__reclaim(f.local, 0)); /* [b3] finds it pinned, and takes everything */
    assert_int_equal(begun, 2);
    assert_int_equal(recycle(10), 0);
    retire(4); /* one that is known to be kept is no reason to do that again */
    assert_true(near__reclaim(f.local, 0));
    assert_int_equal(begun, 3);
    assert_int_equal(recycle(10), 4);
    assert_true(retired_bytes() > 0);
    let_go(0, &view);
    assert_true(near__reclaim(f.local, 0));
    assert_int_equal(begun, 3); /* its grace period was over */
    assert_int_equal(retired_bytes(), 0);
    close_tier();
}

static void take_a_second(void)
{
    grace_ns += SEC;
}

/* The walk over what is kept has a sixteenth of the time, and what else a round does is none of its business. */
static void test_what_is_kept_waits_as_long_as_its_own_walk_asks_for(void **state)
{
    (void)state;
    struct near__view views[2];
    open_and_hold(7, &views[0]);
    add_one(8, 50);
    hold(1, 8, &views[1]);
    assert_true(retire_one(7) && retire_one(8));
    near__reclaim(f.local, 0);
    retire(3);
    at_the_walk = take_a_second;
    assert_true(near__reclaim(f.local, 1)); /* three seconds, for others */
    let_go(0, &views[0]);
    assert_true(near__reclaim(f.local, 0)); /* looked at again at once, and that takes a second */
    let_go(1, &views[1]);
    near__clock_advance(&f.now_ns, 14 * SEC);
    assert_false(near__reclaim(f.local, 0));
    assert_true(retired_bytes() > 0);
    near__clock_advance(&f.now_ns, 2 * SEC);
    assert_true(near__reclaim(f.local, 0));
    assert_int_equal(retired_bytes(), 0);
    close_tier();
}

/* What is pinned and alive costs nothing: as a rule an application holds something all the time. */
static void test_pins_of_living_entries_change_nothing(void **state)
{
    (void)state;
    struct near__view view;
    open_and_hold(7, &view);
    retire(3);
    assert_true(near__reclaim(f.local, 0));
    assert_int_equal(begun, 1);
    assert_int_equal(recycle(10), 3);
    let_go(0, &view);
    close_tier();
}

/* ---------------------------------------------------------------- a thread that stands in a section */

static _Atomic(int) inside, leave;

static void wait_a_moment(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void *stands_in_a_section(void *unused)
{
    near__local_section_enter();
    atomic_store(&inside, 1);
    while (!atomic_load(&leave))
        wait_a_moment();
    near__local_section_leave();
    return unused;
}

static void *makes_a_round(void *unused)
{
    near__rcu_register();
    near__reclaim(f.local, 0);
    return unused;
}

static void test_R48_nothing_comes_back_while_a_reader_is_in_its_section(void **state)
{
    (void)state;
    pthread_t reader, keeper;
    start();
    open_tier();
    retire(3);
    atomic_store(&inside, 0);
    atomic_store(&leave, 0);
    assert_int_equal(pthread_create(&reader, NULL, stands_in_a_section, NULL), 0);
    while (!atomic_load(&inside))
        wait_a_moment();
    assert_int_equal(pthread_create(&keeper, NULL, makes_a_round, NULL), 0);
    while (atomic_load(&f.local->budget.phase) == 0)
        wait_a_moment();
    for (int i = 0; i < 30; i++) {
        wait_a_moment();
        assert_int_equal(recycle(10), 0);
    }
    atomic_store(&leave, 1);
    pthread_join(reader, NULL);
    pthread_join(keeper, NULL);
    assert_int_equal(recycle(10), 3);
    close_tier();
}

/* ---------------------------------------------------------------- everything in any order */

enum { KEYS = 40 };
static uint64_t random_state;
static struct near__view views[HELD];

static uint32_t below(uint32_t n)
{
    return near__random_below(&random_state, n);
}

static void do_anything(void);

static void some_of_it(void)
{
    for (uint32_t n = below(6); n; n--)
        do_anything();
}

static void do_anything(void)
{
    uint64_t key = below(KEYS);
    unsigned i = below(HELD);
    switch (below(5)) {
    case 0:
        (void)retire_one(key);
        break;
    case 1:
        (void)recycle((int)below(5) + 1);
        break;
    case 2:
        if (held[i])
            let_go(i, &views[i]);
        else if (retire_one(key) || below(2))
            add_one(key, below(20) ? 50 : 5000), hold(i, key, &views[i]);
        break;
    default:
        add_one(key, below(20) ? 50 : 5000);
        break;
    }
}

static void test_R48_nothing_is_freed_too_early_in_any_order(void **state)
{
    (void)state;
    start();
    random_state = test_seed();
    open_tier();
    for (int rounds = 0; rounds < SCALE(20000, 2000); rounds++) {
        some_of_it();
        if (below(2))
            meanwhile = some_of_it;
        if (below(2))
            at_the_walk = some_of_it;
        (void)near__reclaim(f.local, below(4) == 0);
        meanwhile = at_the_walk = NULL;
        assert_int_equal(too_early, 0);
        assert_int_equal(freed_while_held, 0);
    }
    for (unsigned i = 0; i < HELD; i++)
        if (held[i])
            let_go(i, &views[i]);
    near__reclaim(f.local, 1);
    near__reclaim(f.local, 1);
    assert_int_equal(retired_bytes(), 0);
    assert_int_equal(traced_count, 0); /* nothing is lost */
    close_tier();
}

/* ---------------------------------------------------------------- the end */

static void *retires_without_a_reader(void *unused)
{
    retire(1);
    return unused;
}

/* In every bag, among those that are kept and in the common limbo. */
static void test_what_is_on_its_way_is_freed_when_a_tier_is_closed(void **state)
{
    (void)state;
    struct allocfail counting;
    struct near__view view;
    pthread_t thread;
    start();
    allocfail_init(&counting);
    near__alloc_init(&f.alloc, &counting.hooks);
    open_tier();
    add_one(7, 50);
    hold(0, 7, &view);
    assert_true(retire_one(7));
    (void)near__reclaim(f.local, 0);
    assert_true(retired_bytes() > 0);
    retire(3);
    assert_true(near__reclaim(f.local, 0));
    assert_int_equal(recycle(1), 1);
    retire(3);
    assert_true(near__reclaim(f.local, 0));
    retire(2);
    meanwhile = retires_three;
    assert_true(near__reclaim(f.local, 0));
    assert_int_equal(pthread_create(&thread, NULL, retires_without_a_reader, NULL), 0);
    pthread_join(thread, NULL);
    assert_non_null(atomic_load(&f.local->limbo));
    for (unsigned bag = 0; bag < NEAR_BAG_MAX; bag++)
        assert_non_null(atomic_load(&f.reader->share.bag[bag].first));
    let_go(0, &view);
    close_tier();
    assert_int_equal(allocfail_blocks(&counting), 0);
}

static unsigned retirees, gone, begun_when_gone, taken_back, moved;
static void retires_them(void)
{
    for (unsigned i = 0; i < retirees; i++)
        gone += (unsigned)retire_one(next_key++); /* a full bucket may have displaced one or two */
    begun_when_gone = begun;
}

/* The index grows, and at its first grace period so many are retired that fills would soon be refused. */
static void grow(uint64_t bytes_max, unsigned retired, size_t size_of_others, void (*others)(void))
{
    start();
    f.config.bytes_max = bytes_max;
    fixture_start(&f);
    f.local->manual = 0;
    retirees = retired;
    gone = 0;
    next_key = FIRST;
    for (uint64_t key = FIRST; key < FIRST + retired; key++)
        add_one(key, 1000);
    for (uint64_t key = FIRST + retired; stats_of(&f).local_entries <= atomic_load(&f.local->index_entries_max); key++)
        add_one(key, size_of_others);
    uint64_t before = stats_of(&f).local_index_bytes;
    meanwhile = retires_them;
    at_a_move = others;
    near__tables_adapt(f.local);
    at_a_move = NULL;
    assert_true(stats_of(&f).local_index_bytes > before);
    assert_true(gone > retired - 20);
}

/* While the index grows a thread that fills has most of its room from what it retires: buckets are full.  It would find
 * nothing in its bags, and the keeper would walk over all of it, as long as the index is too small. */
static void test_what_is_retired_while_the_index_grows_is_handed_back(void **state)
{
    (void)state;
    grow(4u << 20, 300, 1, NULL);
    assert_int_equal(freed_by_keeper, 0);
    assert_true(recycle(TRACED) >= (int)gone);
    close_tier();
}

static void takes_some_back(void)
{
    if (++moved % 256 == 0)
        taken_back += (unsigned)recycle(50); /* more than it may keep as spare room */
}

/* Less and less is retired: somebody comes for it. */
static void test_what_is_being_used_up_is_left_to_who_uses_it(void **state)
{
    (void)state;
    /* with 620 bytes the tier is full: room is short as long as so much is retired */
    for (size_t size = 1; size <= 620; size += 619) {
        moved = taken_back = 0;
        grow(32u << 20, 2000, size, takes_some_back);
        print_message("# %u came back while %u buckets were moved\n", taken_back, moved);
        assert_true(taken_back >= 1500);
        assert_int_equal(freed_by_keeper, 0);
        close_tier();
    }
}

static void retires_some_more(void)
{
    if (++moved % 128 == 0)
        for (int i = 0; i < 20; i++)
            gone += (unsigned)retire_one(next_key++);
}

/* Fills are refused until they have room again: by a grace period, which takes as long as it likes, or in the new
 * table. */
static void test_the_index_grows_however_long_grace_periods_take(void **state)
{
    (void)state;
    moved = 0;
    grace_each_ns = 1000 * SEC;
    grow(32u << 20, 2000, 400, retires_some_more);
    grace_each_ns = 0;
    print_message("# %u grace periods\n", begun - begun_when_gone);
    assert_true(begun - begun_when_gone <= 4); /* one, and those of the views */
    close_tier();
}

/* Its thread does not come back for it: a grace period at each step would free nothing. */
static void test_what_nobody_comes_for_is_taken_away_while_the_index_grows(void **state)
{
    (void)state;
    grow(32u << 20, 2000, 1, NULL);
    print_message("# %u grace periods\n", begun - begun_when_gone);
    assert_true(begun - begun_when_gone < 20);
    assert_true(freed_by_keeper >= gone);
    close_tier();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_retired_comes_back_after_one_grace_period),
        cmocka_unit_test(test_what_is_retired_in_a_grace_period_waits_for_the_next),
        cmocka_unit_test(test_a_look_in_a_grace_period_or_none_for_long_changes_nothing),
        cmocka_unit_test(test_what_is_recalled_is_freed_by_the_keeper_alone),
        cmocka_unit_test(test_what_a_thread_has_left_behind_is_freed),
        cmocka_unit_test(test_short_room_is_handed_back_to_who_uses_it),
        cmocka_unit_test(test_room_that_stays_short_is_taken_from_who_does_not_use_it),
        cmocka_unit_test(test_room_is_short_for_the_largest_value),
        cmocka_unit_test(test_only_what_is_pinned_is_kept),
        cmocka_unit_test(test_what_is_kept_waits_as_long_as_its_own_walk_asks_for),
        cmocka_unit_test(test_pins_of_living_entries_change_nothing),
        cmocka_unit_test(test_R48_nothing_comes_back_while_a_reader_is_in_its_section),
        cmocka_unit_test(test_R48_nothing_is_freed_too_early_in_any_order),
        cmocka_unit_test(test_what_is_retired_while_the_index_grows_is_handed_back),
        cmocka_unit_test(test_what_is_being_used_up_is_left_to_who_uses_it),
        cmocka_unit_test(test_the_index_grows_however_long_grace_periods_take),
        cmocka_unit_test(test_what_nobody_comes_for_is_taken_away_while_the_index_grows),
        cmocka_unit_test(test_what_is_on_its_way_is_freed_when_a_tier_is_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
