/* SPDX-License-Identifier: BSD-3-Clause
 * Promise F: everything the tier allocates stays within its budget plus 5 % or 1 MiB, whichever is more; the
 * budget may change while it runs. */
#include "local/local_fixture.h"

#include <malloc.h>
#include <pthread.h>

#include "base/random.h"
#include "local/tier.h"
#include "support/allocfail.h"
#include "support/wait.h"

#define MIB (INT64_C(1) << 20)

static int64_t limit_of(int64_t max)
{
    return max + (max / 20 > MIB ? max / 20 : MIB);
}

static struct allocfail counting; /* an independent witness */

static uint32_t policy; /* of the tiers that open_counted makes */

static void open_counted(struct fixture *f, uint64_t bytes)
{
    fixture_init(f);
    allocfail_init(&counting);
    near__alloc_init(&f->alloc, &counting.hooks);
    f->config.bytes_max = bytes;
    f->config.policy = policy;
    f->config.curve = policy == NEAR_POLICY_ADAPTIVE; /* the most that there can be beside entries */
    f->config.hot_keys = policy == NEAR_POLICY_ADAPTIVE ? 16 : 0;
}

static int64_t ttl_ms = -1; /* of the fills */

static int fill_one(struct fixture *f, struct near__reader *reader, uint64_t n, size_t size)
{
    static const unsigned char value[1 << 20];
    struct near__ticket t = near__local_ticket(f->local, &n, sizeof(n));
    return near__local_install(f->local, reader, t, &n, sizeof(n), value, size, n + 1, ttl_ms, near__now(&f->clock));
}

static void check(struct fixture *f, int64_t limit)
{
    near_stats s = stats_of(f);
    assert_true((int64_t)s.local_bytes <= limit);
    assert_true(allocfail_bytes(&counting) <= (int64_t)s.local_bytes); /* nothing is uncounted */
}

static void fill_all_sizes(void)
{
    static const uint64_t budgets[] = {1, 3, 16, 64};
    for (size_t b = 0; b < 4; b++) {
        struct fixture f;
        uint64_t random = b, kept = 0;
        int64_t limit = limit_of((int64_t)budgets[b] * MIB);
        open_counted(&f, budgets[b] << 20);
        fixture_start(&f);
        for (uint64_t n = 0; n < SCALE(60000, 10000); n++) {
            uint32_t kind = near__random_below(&random, 100);
            size_t size = kind < 70   ? near__random_below(&random, 200)
                          : kind < 99 ? near__random_below(&random, 4000)
                                      : near__random_below(&random, 1 << 20);
            kept += (uint64_t)fill_one(&f, f.reader, n, size);
            if (n % 100 == 0)
                near__local_keep(f.local);
            if (n % 16 == 0)
                check(&f, limit);
        }
        assert_true(kept > SCALE(30000, 5000));
        near__local_keep(f.local);
        near_stats s = stats_of(&f);
        assert_true((int64_t)s.local_bytes <= (int64_t)budgets[b] * MIB); /* at rest: the budget itself */
        if (b < 2)                                                        /* used, not just obeyed */
            assert_true((int64_t)s.local_bytes > (int64_t)budgets[b] * MIB * 3 / 4);
        fixture_close(&f);
        assert_int_equal(allocfail_blocks(&counting), 0);
    }
}

static void test_F_fills_of_all_sizes_stay_within_the_budget(void **state)
{
    (void)state;
    fill_all_sizes();
}

/* The memory of queues and ghosts is part of it. */
static void test_F_the_budget_holds_with_every_policy(void **state)
{
    (void)state;
    for (policy = 1; policy < NEAR_POLICIES; policy++) {
        ttl_ms = IS_VOLATILE(policy) ? 1000000 : -1; /* else nothing would make room */
        fill_all_sizes();
    }
    policy = NEAR_POLICY_LRU;
    ttl_ms = -1;
}

/* Of what a large tier holds the index has its part, also when it has just grown. */
static void test_a_large_index_is_20_bytes_an_entry_at_most(void **state)
{
    struct fixture f;
    uint64_t n = 0, first;
    (void)state;
    open_counted(&f, 256 << 20);
    fixture_start(&f);
    first = stats_of(&f).local_index_bytes;
    while (stats_of(&f).local_index_bytes < first * 5 / 4) {
        for (int i = 0; i < 1024; i++)
            fill_one(&f, f.reader, n++, 8);
        near__local_keep(f.local);
    }
    near_stats s = stats_of(&f);
    print_message("# %.1f bytes an entry for the index of %lu\n", (double)s.local_index_bytes / (double)s.local_entries,
                  (unsigned long)s.local_entries);
    assert_true((double)s.local_index_bytes < 20.2 * (double)s.local_entries);
    fixture_close(&f);
}

static void test_F_the_index_grows_and_shrinks_sixteen_fold_within_the_budget(void **state)
{
    struct fixture f;
    uint64_t n = 0;
    (void)state;
    open_counted(&f, 1 << 20);
    fixture_start(&f);
    for (int round = 0; round < 2; round++) {
        for (int64_t mib = 1; mib <= 16; mib *= 2) { /* up: nothing is dropped for it */
            uint64_t evicted = stats_of(&f).evictions, entries = stats_of(&f).local_entries;
            near__local_resize(f.local, (uint64_t)(mib * MIB), 0);
            near__local_keep(f.local);
            assert_int_equal(stats_of(&f).evictions, evicted);
            assert_int_equal(stats_of(&f).local_entries, entries);
            for (int i = 0; i < SCALE(200000, 40000); i++) {
                fill_one(&f, f.reader, n++, 8);
                if (i % 512 == 0)
                    near__local_keep(f.local);
                if (i % 64 == 0)
                    check(&f, limit_of(mib * MIB));
            }
        }
        near_stats high = stats_of(&f);
        near__local_resize(f.local, 1 << 20, 0);
        for (int i = 0; i < 1000; i++) { /* calls go on before the keeper comes */
            fill_one(&f, f.reader, n++, 8);
            check(&f, limit_of(16 * MIB));
        }
        near__local_keep(f.local);
        near__local_keep(f.local);
        near_stats low = stats_of(&f);
        assert_true((int64_t)low.local_bytes <= MIB);
        assert_true(low.local_index_bytes * 4 < high.local_index_bytes);
        assert_true(low.local_entries * 24 > high.local_entries); /* what still fits stays */
        for (int i = 0; i < 2000; i++) {
            fill_one(&f, f.reader, n++, 8);
            check(&f, limit_of(MIB));
        }
    }
    fixture_close(&f);
    assert_int_equal(allocfail_blocks(&counting), 0);
}

/* Were each of them in a line of the index of its own, that would push a small hot set out of the processor's cache. */
static void test_the_index_of_few_entries_is_made_for_them_when_they_are_calm(void **state)
{
    enum { FEW = 20000 };
    struct fixture f;
    uint64_t n = 0;
    (void)state;
    fixture_open_sized(&f, 256u << 20);
    uint64_t empty = stats_of(&f).local_index_bytes;
    atomic_fetch_add(&f.now_ns, 10 * SEC);
    near__local_keep(f.local);
    assert_int_equal(stats_of(&f).local_index_bytes, empty); /* the first burst is still to come */
    while (n < FEW)
        fill_one(&f, f.reader, n++, 8);
    near__local_keep(f.local);
    assert_int_equal(stats_of(&f).local_index_bytes, empty);
    atomic_fetch_add(&f.now_ns, 1 * SEC);
    near__local_keep(f.local);
    assert_in_range(stats_of(&f).local_index_bytes, FEW * 64 / 4, FEW * 64 * 2 / 3);
    assert_in_range(stats_of(&f).local_entries, FEW - FEW / 100, FEW); /* of a bucket that is full one goes */
    while (n < 3 * FEW)
        fill_one(&f, f.reader, n++, 8);
    near__local_keep(f.local);
    /* the next burst finds as much room, but for the allocator's rounding */
    assert_in_range(stats_of(&f).local_index_bytes, empty - 8192, empty + 8192);
    fixture_close(&f);
}

/* What was cleared is filled again at once: the table waits for that. */
static void test_the_index_is_not_made_smaller_when_the_tier_is_cleared(void **state)
{
    struct fixture f;
    const uint64_t many = SCALE(400000, 60000);
    uint64_t n = 0;
    (void)state;
    fixture_open_sized(&f, 256u << 20);
    for (uint64_t round = 1; round <= 3; round++) {
        for (; n < round * many; n++) {
            fill_one(&f, f.reader, n, 8);
            if (n % 512 == 0)
                near__local_keep(f.local);
        }
        assert_true(stats_of(&f).local_entries >= many - many / 1000);
        assert_true(stats_of(&f).evictions <= many / 1000);
        atomic_fetch_add(&f.now_ns, 10 * SEC); /* calm, and then not */
        near__local_keep(f.local);
        uint64_t index = stats_of(&f).local_index_bytes;
        near__local_clear(f.local);
        near__local_keep(f.local);
        assert_int_equal(stats_of(&f).local_entries, 0);
        assert_int_equal(stats_of(&f).local_index_bytes, index);
    }
    atomic_fetch_add(&f.now_ns, 10 * SEC); /* nobody comes */
    near__local_keep(f.local);
    assert_true(stats_of(&f).local_index_bytes <= (256u << 20) / 64 + MIB);
    fixture_close(&f);
}

/* Called in the place of near__index_move: a burst of fills, so many for each bucket that is moved. */
static struct {
    struct fixture *f;
    uint64_t next, end;
    unsigned each;
    uint64_t moved;
} burst;

/* Likewise, before the next bucket: while the keeper has no processor, so many keys are read again and again. */
static struct {
    struct fixture *f;
    uint64_t keys;
} stall;

static uint64_t count_read(struct fixture *f, uint64_t keys)
{
    uint64_t found = 0;
    for (uint64_t n = 0; n < keys; n++) {
        unsigned char value[8];
        struct near__view view;
        found += near__local_copy(f->local, f->reader, &n, sizeof(n), ANY_BOUND, 0, value, sizeof(value), &view) ==
                 NEAR_LOCAL_HIT;
    }
    return found;
}

static void stall_and_read(void)
{
    uint64_t keys = stall.keys;
    stall.keys = 0;
    for (int i = 0; keys && i < 12; i++) {
        near__clock_advance(&stall.f->now_ns, SEC / 2);
        assert_int_equal(count_read(stall.f, keys), keys);
    }
}

void __real_near__index_move(struct near__index *index, struct near__bucket *bucket, const struct near__span *to,
                             const struct near__moment *moment);
void __wrap_near__index_move(struct near__index *index, struct near__bucket *bucket, const struct near__span *to,
                             const struct near__moment *moment);
void __wrap_near__index_move(struct near__index *index, struct near__bucket *bucket, const struct near__span *to,
                             const struct near__moment *moment)
{
    stall_and_read();
    __real_near__index_move(index, bucket, to, moment);
    burst.moved++;
    for (unsigned i = 0; burst.next < burst.end && i < burst.each; i++)
        fill_one(burst.f, burst.f->reader, burst.next++, 8);
}

/* The index is being made for the few entries that there are, and then come many. */
static void test_a_burst_that_begins_while_the_index_is_made_smaller_turns_it_back(void **state)
{
    enum { FEW = 2000, MANY = 60000 };
    struct fixture f;
    (void)state;
    fixture_open_sized(&f, 64u << 20);
    uint64_t empty = stats_of(&f).local_index_bytes;
    for (uint64_t n = 0; n < FEW; n++)
        fill_one(&f, f.reader, n, 8);
    near__local_keep(f.local);
    atomic_fetch_add(&f.now_ns, 1 * SEC);
    burst.moved = 0;
    burst.f = &f;
    burst.next = FEW;
    burst.end = FEW + MANY;
    burst.each = 20;
    near__local_keep(f.local);
    burst.each = 0;
    assert_int_equal(burst.next, burst.end);
    near_stats stats = stats_of(&f);
    print_message("# %lu buckets moved, %lu evicted\n", (unsigned long)burst.moved, (unsigned long)stats.evictions);
    assert_true(stats.local_index_bytes >= empty);
    assert_true(stats.evictions <= MANY / 1000);
    assert_int_equal(stats.local_entries + stats.evictions, FEW + MANY);
    assert_int_equal(count_read(&f, FEW + MANY), stats.local_entries); /* each of them is found */
    fixture_close(&f);
}

static void test_a_keeper_that_stalls_in_a_move_takes_nothing_for_idle(void **state)
{
    enum { FEW = 2000 };
    struct fixture f;
    (void)state;
    fixture_init(&f);
    f.config.bytes_max = 64u << 20;
    f.config.idle_ms = 1000;
    fixture_start(&f);
    uint64_t empty = stats_of(&f).local_index_bytes;
    for (uint64_t n = 0; n < FEW; n++)
        assert_int_equal(fill_one(&f, f.reader, n, 8), 1);
    near__local_keep(f.local);
    near__clock_advance(&f.now_ns, SEC / 2 + SEC / 8); /* calm */
    assert_int_equal(count_read(&f, FEW), FEW);
    stall.f = &f;
    stall.keys = FEW;
    near__local_keep(f.local);
    assert_int_equal(stall.keys, 0);
    assert_true(stats_of(&f).local_index_bytes < empty);
    assert_int_equal(stats_of(&f).local_entries, FEW);
    assert_int_equal(count_read(&f, FEW), FEW);
    fixture_close(&f);
}

/* Of entries of a few bytes the index is a quarter: its last enlargement must come while there is room for it, and then
 * costs nobody; and where no entry may go for it there is none. */
static void test_no_entry_goes_for_a_larger_index(void **state)
{
    static const near_policy policies[] = {NEAR_POLICY_LRU, NEAR_POLICY_VOLATILE_LRU};
    (void)state;
    for (uint64_t budget = 4 * MIB; budget <= 6 * MIB; budget += SCALE(MIB / 2, 2 * MIB)) {
        for (size_t p = 0; p < sizeof(policies) / sizeof(policies[0]); p++) {
            struct fixture f;
            fixture_init(&f);
            f.config.bytes_max = budget;
            f.config.policy = policies[p];
            fixture_start(&f);
            uint64_t most = 0, n = 0, entries;
            /* until a fill brings no more entries; one that finds nobody who may go looks at hundreds of buckets */
            for (unsigned unkept = 0; unkept < SCALE(2000, 300); n++) {
                fill_one(&f, f.reader, n, 4);
                entries = stats_of(&f).local_entries;
                unkept = entries > most ? 0 : unkept + 1;
                most = entries > most ? entries : most;
                if (n % 64 == 0)
                    near__local_keep(f.local);
            }
            for (uint64_t more = 0; more < most / SCALE(4, 100); more++, n++) {
                fill_one(&f, f.reader, n, 4);
                if (n % 64 == 0)
                    near__local_keep(f.local);
                entries = stats_of(&f).local_entries;
                if (entries < most - most / 10)
                    fail_msg("%lu of %lu entries are left in %lu bytes", entries, most, budget);
            }
            if (policies[p] == NEAR_POLICY_VOLATILE_LRU)
                assert_int_equal(stats_of(&f).evictions, 0); /* none has a time to live */
            fixture_close(&f);
        }
    }
}

/* With few entries their mean size is that of what threads have reserved: nothing.  The index must not be made for as
 * many as that. */
static void test_a_few_entries_do_not_make_the_index_large(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open_sized(&f, 64u << 20);
    uint64_t empty = stats_of(&f).local_index_bytes;
    for (uint64_t n = 0; n < 10; n++)
        fill_one(&f, f.reader, n, 8);
    int64_t reserved = near__budget_live(f.local) * 2 / 3 - 10; /* so that the mean is a byte */
    atomic_fetch_add(&f.local->budget.entries, reserved);
    near__local_keep(f.local);
    assert_int_equal(stats_of(&f).local_index_bytes, empty);
    atomic_fetch_sub(&f.local->budget.entries, reserved);
    fixture_close(&f);
}

/* Entries become small in a tier that is full, so that the index becomes dense and has no room to grow. */
static void test_a_denser_index_is_not_paid_for_with_more_entries_than_it_is_worth(void **state)
{
    struct fixture f;
    uint64_t n = 0, most = 0, entries = 0;
    (void)state;
    fixture_open_sized(&f, 8u << 20);
    for (; n < 120000; n++) {
        fill_one(&f, f.reader, n, 100);
        if (n % 64 == 0)
            near__local_keep(f.local);
    }
    for (; n < 700000; n++) {
        fill_one(&f, f.reader, n, 4);
        if (n % 64)
            continue;
        near__local_keep(f.local);
        entries = stats_of(&f).local_entries;
        most = entries > most ? entries : most;
        if (entries < most - most / 10)
            fail_msg("%lu of %lu entries are left", entries, most);
    }
    print_message("# %lu entries, index %lu\n", entries, stats_of(&f).local_index_bytes);
    fixture_close(&f);
}

/* malloc would keep what was a table, and nobody counts what it keeps. */
static void test_F_tables_are_not_in_the_heap(void **state)
{
    struct fixture f;
    (void)state;
    if (SCALE(0, 1))
        skip(); /* sanitizers have a heap of their own */
    fixture_open_sized(&f, 16u << 20);
    size_t heap = mallinfo2().uordblks + mallinfo2().hblkhd;
    for (uint64_t n = 0; n < 60000; n++) {
        fill_one(&f, f.reader, n, 8);
        if (n % 64 == 0)
            near__local_keep(f.local);
    }
    size_t more = mallinfo2().uordblks + mallinfo2().hblkhd - heap;
    uint64_t index = stats_of(&f).local_index_bytes;
    print_message("# index %lu bytes, heap %zu more\n", (unsigned long)index, more);
    assert_in_range(index, MIB / 2, 2 * MIB - 1);
    assert_true(more < index / 4);
    fixture_close(&f);
}

static void test_F_a_full_tier_still_takes_large_values(void **state)
{
    struct fixture f;
    (void)state;
    open_counted(&f, 16 << 20);
    fixture_start(&f);
    for (uint64_t n = 0; n < 120000; n++) {
        fill_one(&f, f.reader, n, 50);
        if (n % 2000 == 0)
            near__local_keep(f.local);
    }
    for (uint64_t n = 0; n < 20; n++) {
        near__local_keep(f.local);
        assert_int_equal(fill_one(&f, f.reader, 1000000 + n, 500000), 1);
        check(&f, limit_of(16 * MIB));
    }
    fixture_close(&f);
}

/* What is evicted for it is free after a grace period only, and until then there is not as much room above the budget
 * as it needs.  So it is refused once, but not for ever; with an arena perhaps once more, until slabs are empty. */
static void test_F_a_full_tier_takes_values_that_are_larger_than_its_slack(void **state)
{
    static const uint64_t budgets[] = {8, 16};
    for (size_t b = 0; b < 2; b++) {
        struct fixture f;
        int64_t max = (int64_t)budgets[b] * MIB;
        size_t size = b == 0 ? 1 << 20 : 1000000; /* the slack is 1 MiB less a sixteenth */
        (void)state;
        if (b == 0) { /* with malloc alone, then with an arena */
            open_counted(&f, (uint64_t)max);
        } else {
            fixture_init(&f);
            f.config.bytes_max = (uint64_t)max;
        }
        fixture_start(&f);
        uint64_t n = 0, entries;
        for (; n < 300000; n++) {
            fill_one(&f, f.reader, n, 50);
            if (n % 2000 == 0)
                near__local_keep(f.local);
        }
        entries = stats_of(&f).local_entries;
        assert_true((int64_t)stats_of(&f).local_bytes > max - max / 20);
        for (int i = 0; i < 4; i++) {
            int tries = 0;
            near__local_keep(f.local);
            for (n++; tries < 5 && !fill_one(&f, f.reader, n, size); tries++) {
                assert_true((int64_t)stats_of(&f).local_bytes <= limit_of(max));
                near__local_keep(f.local);
            }
            assert_true(tries <= (b == 0 ? 1 : 2));
        }
        assert_true(stats_of(&f).local_entries > entries / 3); /* no more has gone than had to */
        fixture_close(&f);
    }
}

/* ---------------------------------------------------------------- with the keeper and two fillers at once */

static struct fixture shared;
static _Atomic(int) stop;
static pthread_mutex_t peak_mutex = PTHREAD_MUTEX_INITIALIZER;
static int64_t peak; /* under it: a sample from before is not noted afterwards */

static void note_peak(void)
{
    pthread_mutex_lock(&peak_mutex);
    int64_t used = (int64_t)stats_of(&shared).local_bytes;
    peak = used > peak ? used : peak;
    pthread_mutex_unlock(&peak_mutex);
}

static int64_t take_peak(void)
{
    pthread_mutex_lock(&peak_mutex);
    int64_t was = peak;
    peak = 0;
    pthread_mutex_unlock(&peak_mutex);
    return was;
}

static void *fills(void *arg)
{
    uint64_t n = (uint64_t)(uintptr_t)arg << 40, random = n + 1;
    struct near__reader *reader = near__local_reader(shared.local);
    while (!atomic_load(&stop)) {
        fill_one(&shared, reader, n++, near__random_below(&random, 400));
        note_peak();
    }
    return NULL;
}

/* Once within, always within.  What threads hold in advance counts: statistics leave it out, but it may be spent. */
static int is_settled(int64_t max)
{
    return atomic_load(&shared.local->budget.used) <= near__budget_ceiling(max);
}

static void test_F_concurrent_fills_and_resizing_stay_within_the_budget(void **state)
{
    static const int64_t steps[] = {1, 16, 2, 32, 1, 8};
    pthread_t thread[2];
    (void)state;
    open_counted(&shared, 1 << 20);
    shared.clock.virtual_ns = NULL;
    shared.config.manual = 0;
    fixture_start(&shared);
    atomic_store(&stop, 0);
    for (uintptr_t i = 0; i < 2; i++)
        pthread_create(&thread[i], NULL, fills, (void *)(i + 1));
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        int64_t before = (int64_t)stats_of(&shared).local_bytes_limit, max = steps[i] * MIB;
        near__local_resize(shared.local, (uint64_t)max, 0);
        assert_true(wait_until(is_settled(max), 60000)); /* the way down takes its time, in bounded steps */
        assert_true(take_peak() <= limit_of(before > max ? before : max));
        uint64_t fills_before = stats_of(&shared).fills;
        assert_true(wait_until(stats_of(&shared).fills > fills_before + SCALE(20000, 2000), 60000));
        assert_true(take_peak() <= limit_of(max));
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    fixture_close(&shared);
    assert_int_equal(allocfail_blocks(&counting), 0);
}

/* A limit that was lowered is not yet the keeper's round: until that has evicted, fills find room as before. */
static void test_F_fills_go_on_while_a_limit_is_lowered(void **state)
{
    struct fixture f;
    near_stats s;
    (void)state;
    open_counted(&f, 16 * MIB);
    fixture_start(&f);
    uint64_t n = 0;
    for (; stats_of(&f).evictions < 100; n++) {
        fill_one(&f, f.reader, n, 400);
        if (n % 200 == 0)
            near__local_keep(f.local);
    }
    near__local_keep(f.local);
    for (int round = 0; round < 2; round++) { /* bytes, then entries */
        uint64_t refused = stats_of(&f).fills_refused_space;
        near__local_resize(f.local, round ? NEAR_LIMIT_KEPT : (uint64_t)(2 * MIB), round ? 100 : NEAR_LIMIT_KEPT);
        s = stats_of(&f);
        assert_true(round ? s.local_entries_limit == 100 : s.local_bytes_limit == (uint64_t)(2 * MIB));
        for (int i = 0; i < 100; i++)
            fill_one(&f, f.reader, n++, 400);
        assert_int_equal(stats_of(&f).fills_refused_space, refused);
        near__local_keep(f.local);
        s = stats_of(&f);
        assert_true((int64_t)s.local_bytes <= 2 * MIB);
        assert_true(!round || s.local_entries <= 100);
    }
    near__local_resize(f.local, (uint64_t)(16 * MIB), 0); /* up at once */
    for (int i = 0; i < 100; i++)
        fill_one(&f, f.reader, n++, 400);
    /* without the keeper's round the index is small: some find their bucket full */
    assert_true(stats_of(&f).local_entries > 150);
    fixture_close(&f);
    assert_int_equal(allocfail_blocks(&counting), 0);
}

/* Whoever lowers a limit that is not reached need not wait for the keeper: it is not passed from then on. */
static void test_F_a_limit_that_is_lowered_above_what_there_is_holds_at_once(void **state)
{
    struct fixture f;
    (void)state;
    open_counted(&f, 16 * MIB);
    fixture_start(&f);
    uint64_t n = 0;
    while (n < 100)
        fill_one(&f, f.reader, n++, 400);
    near__local_resize(f.local, NEAR_LIMIT_KEPT, 150);
    while (n < 400)
        fill_one(&f, f.reader, n++, 400);
    assert_in_range(stats_of(&f).local_entries, 100, 150);
    near__local_resize(f.local, (uint64_t)(2 * MIB), 0);
    while (n < 20000) {
        fill_one(&f, f.reader, n++, 4000);
        check(&f, limit_of(2 * MIB));
    }
    near__local_keep(f.local);
    assert_true((int64_t)stats_of(&f).local_bytes <= 2 * MIB);
    fixture_close(&f);
    assert_int_equal(allocfail_blocks(&counting), 0);
}

/* ---------------------------------------------------------------- cleared */

static struct near__local *watched;
static int64_t left; /* entries, when the first one was freed; -1: none was yet */

/* 32 MiB, with an allocator that counts and does something beside it. */
static void start_watched(struct fixture *f, void *(*allocate)(void *arg, size_t size),
                          void (*release)(void *arg, void *memory))
{
    open_counted(f, 32 * MIB);
    near_allocator hooks = counting.hooks;
    hooks.allocate = allocate;
    hooks.release = release;
    near__alloc_init(&f->alloc, &hooks);
    fixture_start(f);
}

static void looks_when_it_releases(void *arg, void *memory)
{
    if (watched && left < 0)
        left = atomic_load(&watched->budget.entries);
    counting.hooks.release(arg, memory);
}

/* As long as all of it is retired and nothing free there is no room for fills. */
static void test_F_what_was_cleared_is_freed_bit_by_bit(void **state)
{
    struct fixture f;
    (void)state;
    start_watched(&f, counting.hooks.allocate, looks_when_it_releases);
    for (uint64_t n = 0; stats_of(&f).evictions < 1000; n++) {
        fill_one(&f, f.reader, n, 400);
        if (n % 4096 == 0)
            near__local_keep(f.local);
    }
    near__local_keep(f.local); /* nothing is retired any more */
    int64_t entries = (int64_t)stats_of(&f).local_entries;
    left = -1;
    near__local_clear(f.local);
    watched = f.local;
    near__local_keep(f.local);
    watched = NULL;
    assert_int_equal(stats_of(&f).local_entries, 0);
    assert_true(left > entries * 9 / 10);
    fixture_close(&f);
    assert_int_equal(allocfail_blocks(&counting), 0);
}

/* ---------------------------------------------------------------- lowered while the index grows */

static int64_t most_seen; /* entries that there were while the limit in force was what is wanted */

static void *lowers_when_it_allocates(void *arg, size_t size)
{
    if (watched && size > 4096) /* the new table */
        near__local_resize(watched, (uint64_t)(2 * MIB), 0);
    return counting.hooks.allocate(arg, size);
}

static void sees_how_many_there_are(void *arg, void *memory)
{
    int64_t entries = watched ? atomic_load(&watched->budget.entries) : 0;
    if (watched && atomic_load(&watched->budget.max) <= 2 * MIB && entries > most_seen)
        most_seen = entries;
    counting.hooks.release(arg, memory);
}

/* Then, too, it comes down bit by bit, and fills find room all the time. */
static void test_F_a_limit_that_is_lowered_while_the_index_grows_comes_down_in_steps(void **state)
{
    struct fixture f;
    (void)state;
    start_watched(&f, lowers_when_it_allocates, sees_how_many_there_are);
    for (uint64_t n = 0; n < 50000; n++)
        fill_one(&f, f.reader, n, 400);
    int64_t entries = (int64_t)stats_of(&f).local_entries;
    watched = f.local;
    near__local_keep(f.local);
    watched = NULL;
    assert_int_equal(stats_of(&f).local_bytes_limit, 2 * MIB);
    assert_true(stats_of(&f).local_bytes <= (uint64_t)limit_of(2 * MIB));
    assert_true(most_seen < entries / 2);
    fixture_close(&f);
}

/* ---------------------------------------------------------------- what threads hold in advance */

/* All that counts as entries is what a thread holds in advance, and it holds no bytes. */
static void test_F_a_limit_is_lowered_when_there_are_no_entries_but_those_held_in_advance(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    f.config.manual = 0;
    f.config.bytes_max = (uint64_t)(256 * MIB);
    fixture_start(&f);
    for (uint64_t n = 0; n < 10; n++) /* the last one's bytes are more than a thread may hold */
        assert_int_equal(fill_one(&f, f.reader, n, n < 9 ? 100 : 90000), 1);
    for (uint64_t n = 0; n < 10; n++)
        near__local_invalidate(f.local, &n, sizeof(n), n + 2, NEAR_CAUSE_MESSAGE);
    assert_true(near__budget_idle(f.local, NEAR_IDLE_ENTRIES) > 0);
    assert_int_equal(near__budget_idle(f.local, NEAR_IDLE_ROOM), 0);
    near__local_resize(f.local, (uint64_t)MIB, 0);
    assert_true(wait_until((int64_t)stats_of(&f).local_bytes <= 2 * MIB, 30000));
    fixture_close(&f);
}

#define HOLDERS 6
static pthread_barrier_t filled, looked;

static void *fills_and_idles(void *arg)
{
    uint64_t first = (uint64_t)(uintptr_t)arg << 40;
    struct near__reader *reader = near__local_reader(shared.local);
    for (uint64_t n = 0; n < SCALE(20000, 4000); n++)
        fill_one(&shared, reader, first + n, n % 300);
    pthread_barrier_wait(&filled);
    pthread_barrier_wait(&looked);
    return NULL;
}

static int64_t held(void)
{
    return near__budget_idle(shared.local, NEAR_IDLE_ROOM) + near__budget_idle(shared.local, NEAR_IDLE_SPARE);
}

static int is_all_freed(void)
{
    return stats_of(&shared).local_retired_bytes == 0;
}

static void test_F_what_threads_hold_in_advance_is_little_is_counted_and_ends_with_them(void **state)
{
    static const int64_t max = 8 * MIB;
    pthread_t thread[HOLDERS];
    (void)state;
    open_counted(&shared, (uint64_t)max);
    shared.clock.virtual_ns = NULL;
    shared.config.manual = 0;
    shared.config.entries_max = 20000;
    fixture_start(&shared);
    pthread_barrier_init(&filled, NULL, HOLDERS + 1);
    pthread_barrier_init(&looked, NULL, HOLDERS + 1);
    for (uintptr_t i = 0; i < HOLDERS; i++)
        pthread_create(&thread[i], NULL, fills_and_idles, (void *)(i + 1));
    pthread_barrier_wait(&filled); /* they have evicted, and all of them are idle and alive */
    assert_true(stats_of(&shared).evictions > 0);
    assert_true(held() <= max / 256);
    assert_true(near__budget_idle(shared.local, NEAR_IDLE_ENTRIES) <= 20000 / 512);
    assert_true(wait_until(is_all_freed(), 60000)); /* what was handed back to an idle thread does not stay there */
    near_stats s = stats_of(&shared);
    assert_true(allocfail_bytes(&counting) <= (int64_t)s.local_bytes);
    assert_true((int64_t)s.local_bytes <= max);
    assert_true(s.local_entries <= 20000);
    pthread_barrier_wait(&looked);
    for (int i = 0; i < HOLDERS; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(held(), 0);
    assert_int_equal(near__budget_idle(shared.local, NEAR_IDLE_ENTRIES), 0);
    pthread_barrier_destroy(&filled);
    pthread_barrier_destroy(&looked);
    fixture_close(&shared);
    assert_int_equal(allocfail_blocks(&counting), 0);
}

static void *fills_once_and_later(void *arg)
{
    uint64_t first = (uint64_t)(uintptr_t)arg << 40;
    struct near__reader *reader = near__local_reader(shared.local);
    fill_one(&shared, reader, first, 10);
    pthread_barrier_wait(&filled);
    pthread_barrier_wait(&looked);
    for (uint64_t n = 1; n < 50; n++)
        fill_one(&shared, reader, first + n, 10);
    return NULL;
}

/* What idle threads were given under a limit that was far above takes nothing from the one that is asked for, and is
 * not spent when they come back. */
static void test_F_what_idle_threads_hold_takes_no_entries_from_a_lowered_limit(void **state)
{
    pthread_t thread[HOLDERS];
    uint64_t n = 0;
    (void)state;
    open_counted(&shared, 16 * MIB);
    fixture_start(&shared);
    pthread_barrier_init(&filled, NULL, HOLDERS + 1);
    pthread_barrier_init(&looked, NULL, HOLDERS + 1);
    for (uintptr_t i = 0; i < HOLDERS; i++)
        pthread_create(&thread[i], NULL, fills_once_and_later, (void *)(i + 1));
    pthread_barrier_wait(&filled);
    while (n < 500)
        assert_int_equal(fill_one(&shared, shared.reader, n++, 10), 1);
    assert_true(near__budget_idle(shared.local, NEAR_IDLE_ENTRIES) > 100); /* more than the limit that comes */
    near__local_resize(shared.local, NEAR_LIMIT_KEPT, 100);
    near__local_keep(shared.local);
    assert_in_range(stats_of(&shared).local_entries, 90, 100);
    while (n < 700)
        assert_int_equal(fill_one(&shared, shared.reader, n++, 10), 1);
    assert_in_range(stats_of(&shared).local_entries, 90, 100);
    assert_int_equal(stats_of(&shared).local_entries_limit, 100);
    while (n < 800) /* for each of the later ones several go: what is evicted for a fill was not lent */
        fill_one(&shared, shared.reader, n++, 300000);
    assert_int_equal(atomic_load(&shared.local->budget.entries_wanted),
                     100 + near__budget_idle(shared.local, NEAR_IDLE_ENTRIES));
    while (n < 1000)
        fill_one(&shared, shared.reader, n++, 10);
    pthread_barrier_wait(&looked);
    for (int i = 0; i < HOLDERS; i++)
        pthread_join(thread[i], NULL);
    assert_in_range(stats_of(&shared).local_entries, 90, 100);
    assert_int_equal(near__budget_idle(shared.local, NEAR_IDLE_ENTRIES), 0);
    assert_int_equal(atomic_load(&shared.local->budget.entries_max), 100); /* nothing is lent any more */
    near__local_keep(shared.local);
    assert_int_equal(atomic_load(&shared.local->budget.entries_max), 100);
    pthread_barrier_destroy(&filled);
    pthread_barrier_destroy(&looked);
    fixture_close(&shared);
    assert_int_equal(allocfail_blocks(&counting), 0);
}

/* ---------------------------------------------------------------- what one entry costs */

static int fill_small(struct fixture *f, uint64_t n)
{
    char key[16] = {0}, value[100] = {0};
    memcpy(key, &n, sizeof(n));
    struct near__ticket t = near__local_ticket(f->local, key, sizeof(key));
    return near__local_install(f->local, f->reader, t, key, sizeof(key), value, sizeof(value), 1, ttl_ms, NEAR_NEVER);
}

/* Bytes beside the index of so many entries of 16 + 100 bytes; *ret_index: bytes of the index. */
static int64_t cost_of_small(uint64_t entries, int64_t *ret_index)
{
    struct fixture f;
    fixture_init(&f);
    f.config.bytes_max = 32 * (uint64_t)MIB; /* too little for huge pages, which come whole */
    f.config.entries_max = entries;
    fixture_start(&f);
    int64_t empty = (int64_t)(stats_of(&f).local_bytes - stats_of(&f).local_index_bytes);
    for (uint64_t n = 0; n < entries; n++) {
        assert_int_equal(fill_small(&f, n), 1);
        if (n % 1024 == 0)
            near__local_keep(f.local);
    }
    near__local_keep(f.local);
    near_stats s = stats_of(&f);
    assert_true(s.local_entries >= entries - entries / 50); /* buckets that were full have cost the others */
    assert_int_equal(s.local_retired_bytes, 0);
    int64_t each = ((int64_t)(s.local_bytes - s.local_index_bytes) - empty) / (int64_t)s.local_entries;
    *ret_index = (int64_t)s.local_index_bytes;
    fixture_close(&f);
    return each;
}

/* What docs/local-tier.md says: 12 bytes of header, and 8 in front with an expiry.  An index that knows how many
 * entries there may be does not double for the last of them. */
static void test_small_entries_cost_what_the_manual_says(void **state)
{
    int64_t index;
    const uint64_t entries = 80000;
    (void)state;
    int64_t each = cost_of_small(entries, &index);
    if (SCALE(1, 0)) /* sanitizers have an allocator of their own */
        assert_in_range(each, 128, 130);
    assert_true(index <= (int64_t)entries * 17 + 8192);
    ttl_ms = 1000000;
    each = cost_of_small(entries, &index);
    ttl_ms = -1;
    if (SCALE(1, 0))
        assert_in_range(each, 136, 138);
}

/* When bytes are what limits the entries, the index takes no more of them than it has to; and a large one begins where
 * a huge page does. */
static void test_the_index_of_a_tier_that_is_full_of_bytes_is_dense(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open_sized(&f, 32 * (uint64_t)MIB);
    for (uint64_t n = 0; n < 300000; n++) {
        (void)fill_small(&f, n); /* refused while room is made for a table */
        if (n % 256 == 0)
            near__local_keep(f.local);
    }
    near__local_keep(f.local);
    near_stats s = stats_of(&f);
    const struct near__tables *tables = atomic_load(&f.local->index.tables);
    /* tenths of a byte; buckets of 64 bytes for 4.4 to 4.9 */
    assert_in_range(s.local_index_bytes * 10 / s.local_entries, 130, 146);
    assert_true(s.local_index_bytes > 2 * MIB);
    assert_in_range((uintptr_t)tables->span[0].bucket % (2 * MIB), 1, 4095); /* behind the table's head */
    fixture_close(&f);
}

/* The keeper lowers the limit as fast as others evict: excess is what a fill always meets.  It lets many go, and gets
 * in. */
static void test_F_a_fill_that_evicted_enough_does_not_wait_for_the_keeper(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open_sized(&f, 8 * (uint64_t)MIB);
    uint64_t n = 0;
    while (stats_of(&f).evictions == 0)
        (void)fill_small(&f, n++);
    near__local_keep(f.local);
    for (int i = 0; i < 100; i++) {
        near_stats before = stats_of(&f);
        int64_t live = atomic_load(&f.local->budget.used) - atomic_load(&f.local->budget.retired);
        atomic_store(&f.local->budget.max, live - 100000); /* as the keeper does, step by step */
        assert_int_equal(fill_small(&f, n++), 1);
        assert_true(stats_of(&f).local_entries + 15 <= before.local_entries);
        near__reclaim(f.local, 1);
    }
    fixture_close(&f);
}

/* In entries, all of one size. */
static int64_t freed_by_a_fill(struct fixture *f, uint64_t *n)
{
    const int64_t cost = near__block_estimate(f->local, near__entry_size_for(sizeof(*n), 100, 0));
    int64_t retired = near__budget_retired(f->local), evicted = (int64_t)stats_of(f).evictions;
    assert_true(fill_one(f, f->reader, ++*n, 100));
    evicted = (int64_t)stats_of(f).evictions - evicted; /* one, or another one because its bucket was full */
    return evicted - (near__budget_retired(f->local) - retired) / cost;
}

static struct near__entry *first_of(const struct fixture *f, enum near__bags which)
{
    return atomic_load(&f->reader->share.bag[which].first);
}

/* What a thread has retired comes back to it.  One for one is enough as long as it is used up when the next comes;
 * otherwise more wait than are needed. */
static void test_a_fill_frees_what_one_has_retired_and_more_when_it_is_behind(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t n = 0;
    fixture_init(&f);
    f.config.bytes_max = 64 << 20;
    f.config.entries_max = 1000;
    fixture_start(&f);
    f.local->manual = 0; /* rounds are ours, and hand back as the keeper's do */
    while (n < 1100)
        assert_true(fill_one(&f, f.reader, ++n, 100));
    assert_int_equal(freed_by_a_fill(&f, &n), 0); /* nothing has come back yet */
    assert_true(near__reclaim(f.local, 0));
    for (int i = 0; i < 10; i++)
        assert_int_equal(freed_by_a_fill(&f, &n), 1);
    assert_true(near__reclaim(f.local, 0));
    int64_t more = 0;
    for (int i = 0; i < 48; i++)
        more += freed_by_a_fill(&f, &n) - 1;
    assert_int_equal(more, 48 / 16); /* another one now and then */
    assert_true(first_of(&f, NEAR_BAG_NOW) && first_of(&f, NEAR_BAG_NEXT));
    for (int i = 0; i < 100 && first_of(&f, NEAR_BAG_NEXT); i++)
        freed_by_a_fill(&f, &n);
    assert_non_null(first_of(&f, NEAR_BAG_NOW));
    for (int i = 0; i < 5; i++)
        assert_int_equal(freed_by_a_fill(&f, &n), 1);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_F_fills_of_all_sizes_stay_within_the_budget),
        cmocka_unit_test(test_F_the_budget_holds_with_every_policy),
        cmocka_unit_test(test_a_large_index_is_20_bytes_an_entry_at_most),
        cmocka_unit_test(test_F_the_index_grows_and_shrinks_sixteen_fold_within_the_budget),
        cmocka_unit_test(test_the_index_of_few_entries_is_made_for_them_when_they_are_calm),
        cmocka_unit_test(test_the_index_is_not_made_smaller_when_the_tier_is_cleared),
        cmocka_unit_test(test_a_keeper_that_stalls_in_a_move_takes_nothing_for_idle),
        cmocka_unit_test(test_a_burst_that_begins_while_the_index_is_made_smaller_turns_it_back),
        cmocka_unit_test(test_no_entry_goes_for_a_larger_index),
        cmocka_unit_test(test_a_few_entries_do_not_make_the_index_large),
        cmocka_unit_test(test_F_tables_are_not_in_the_heap),
        cmocka_unit_test(test_a_denser_index_is_not_paid_for_with_more_entries_than_it_is_worth),
        cmocka_unit_test(test_F_a_full_tier_still_takes_large_values),
        cmocka_unit_test(test_F_a_full_tier_takes_values_that_are_larger_than_its_slack),
        cmocka_unit_test(test_F_concurrent_fills_and_resizing_stay_within_the_budget),
        cmocka_unit_test(test_F_fills_go_on_while_a_limit_is_lowered),
        cmocka_unit_test(test_F_a_limit_that_is_lowered_above_what_there_is_holds_at_once),
        cmocka_unit_test(test_F_a_fill_that_evicted_enough_does_not_wait_for_the_keeper),
        cmocka_unit_test(test_F_what_was_cleared_is_freed_bit_by_bit),
        cmocka_unit_test(test_F_a_limit_that_is_lowered_while_the_index_grows_comes_down_in_steps),
        cmocka_unit_test(test_F_a_limit_is_lowered_when_there_are_no_entries_but_those_held_in_advance),
        cmocka_unit_test(test_F_what_threads_hold_in_advance_is_little_is_counted_and_ends_with_them),
        cmocka_unit_test(test_F_what_idle_threads_hold_takes_no_entries_from_a_lowered_limit),
        cmocka_unit_test(test_small_entries_cost_what_the_manual_says),
        cmocka_unit_test(test_the_index_of_a_tier_that_is_full_of_bytes_is_dense),
        cmocka_unit_test(test_a_fill_frees_what_one_has_retired_and_more_when_it_is_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
