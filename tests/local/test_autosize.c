/* SPDX-License-Identifier: BSD-3-Clause
 * The automatic size: what it decides, from a curve and a pressure of our own, second by second in virtual time; then
 * the same in a tier, with requests and with files that stand for the kernel's. */
#include "local/local_fixture.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "base/random.h"
#include "local/tier.h"
#include "support/folder.h"
#include "support/seed.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

/* ---------------------------------------------------------------- a curve and a pressure of our own */

struct world {
    struct near__autosize a;
    int64_t now_ns;
    uint64_t size, used_most; /* used: what there is of data, at most */
    uint64_t samples, samples_a_second;
    double half;  /* bytes with a hit ratio of one half: ratio = bytes / (bytes + half) */
    double noise; /* of the ratio that is told, at random */
    uint64_t random;
    int pressure_matters;
    struct near__pressure_level pressure;
    unsigned changes;
};

static void begin(struct world *w, uint64_t size, uint32_t permille, uint64_t min, uint64_t max)
{
    memset(w, 0, sizeof(*w));
    w->now_ns = 1000 * SEC;
    w->size = size;
    w->used_most = UINT64_MAX;
    w->samples_a_second = 1000;
    w->random = 5;
    w->pressure.limit = NEAR_PRESSURE_NO_LIMIT;
    near__autosize_init(&w->a, size);
    atomic_store(&w->a.bytes_min, min);
    atomic_store(&w->a.bytes_max, max);
    atomic_store(&w->a.hit_permille, permille);
}

static double ratio_of(struct world *w, double bytes)
{
    double noise = ((double)near__random_below(&w->random, 1000001) / 500000.0 - 1) * w->noise;
    return bytes / (bytes + w->half) + noise;
}

/* The least size with a ratio, within the limits; the same noise wherever one asks. */
static uint64_t least(const struct world *w, double ratio, double noise, uint64_t min, uint64_t max)
{
    double needed = ratio - noise < 1 ? w->half * (ratio - noise) / (1 - (ratio - noise)) : INFINITY;
    if (needed > (double)max)
        return 0;
    return needed < (double)min ? min : (uint64_t)needed + 1;
}

static uint64_t used_now(const struct world *w)
{
    return w->size < w->used_most ? w->size : w->used_most;
}

static void second(struct world *w)
{
    struct near__advice advice;
    struct near__auto_view view = {.now_ns = w->now_ns, .size = w->size, .used = used_now(w), .fixed = MIB / 4};
    w->samples += w->samples_a_second;
    if (near__autosize_wants_advice(&w->a, w->now_ns)) {
        uint64_t min, max;
        double reaching, ample, told = ratio_of(w, (double)w->size),
                                noise = told - (double)w->size / ((double)w->size + w->half);
        near__autosize_limits(&w->a, view.fixed, &min, &max);
        near__autosize_ratios(&w->a, &reaching, &ample);
        advice = (struct near__advice){w->samples, told, least(w, reaching, noise, min, max),
                                       least(w, ample, noise, min, max)};
        view.advice = &advice;
    }
    view.pressure = w->pressure_matters ? &w->pressure : NULL;
    uint64_t size = near__autosize_decide(&w->a, &view);
    if (size != w->size) {
        near__autosize_done(&w->a, w->size, size);
        w->changes++;
    }
    w->size = size;
    w->now_ns += SEC;
}

static void seconds(struct world *w, int count)
{
    while (count--)
        second(w);
}

static near_auto_reason reason(const struct world *w)
{
    return (near_auto_reason)atomic_load(&w->a.reason);
}

/* ---------------------------------------------------------------- the target */

#define NEEDED(half, permille) ((half) * (permille) / (1000.0 - (permille)))

static void test_it_finds_the_smallest_size_that_reaches_the_target(void **state)
{
    static const uint32_t targets[] = {300, 500, 800, 900, 970};
    (void)state;
    for (size_t t = 0; t < sizeof(targets) / sizeof(targets[0]); t++) {
        for (uint64_t from = 16 * MIB; from <= 16 * GIB; from *= 32) {
            struct world w;
            begin(&w, from, targets[t], MIB, 64 * GIB);
            w.half = 64.0 * MIB;
            seconds(&w, 3600);
            double needed = NEEDED(w.half, targets[t]), ample = NEEDED(w.half, targets[t] + 5.0);
            assert_true((double)w.size >= needed && (double)w.size <= ample * 8 / 7 + MIB);
            assert_int_equal(reason(&w), NEAR_AUTO_REACHED);
            /* and stays there */
            uint64_t size = w.size;
            seconds(&w, 3600);
            assert_int_equal(w.size, size);
        }
    }
}

static void test_noise_does_not_move_it(void **state)
{
    struct world w;
    uint64_t seed = test_seed();
    (void)state;
    begin(&w, 1 * GIB, 800, MIB, 4 * GIB);
    w.half = 64.0 * MIB;
    w.noise = 0.002;
    w.random = seed;
    seconds(&w, 7200);
    unsigned changes = w.changes;
    seconds(&w, 7200);
    print_message("# changes in the first two hours %u, in the next two %u\n", changes, w.changes - changes);
    assert_true(w.changes - changes <= 3);
    assert_true((double)w.size > NEEDED(w.half, 790.0) && (double)w.size < NEEDED(w.half, 820.0));
}

static void test_it_steps(void **state)
{
    struct world w;
    (void)state;
    begin(&w, 64 * MIB, 900, MIB, 64 * GIB);
    w.half = 1.0 * GIB;
    for (int i = 0; i < 600; i++) {
        uint64_t before = w.size;
        second(&w);
        assert_true(w.size <= 2 * before && w.size >= before - before / 4);
    }
    assert_true(w.size > 9 * GIB);
    w.half = 10.0 * MIB; /* now much less is enough */
    for (int i = 0; i < 3600; i++) {
        uint64_t before = w.size;
        second(&w);
        assert_true(w.size <= before && w.size >= before - before / 4);
    }
    assert_true(w.size < 120 * MIB);
}

static void test_it_needs_reads_to_decide(void **state)
{
    struct world w;
    (void)state;
    begin(&w, 64 * MIB, 900, MIB, GIB);
    w.half = 32.0 * MIB;
    w.samples_a_second = 100;
    seconds(&w, 40);
    assert_int_equal(w.size, 64 * MIB);
    assert_int_equal(reason(&w), NEAR_AUTO_LEARNING);
    seconds(&w, 20);
    assert_true(w.size > 64 * MIB);
    /* no reads: whatever the curve says, nothing moves */
    w.samples_a_second = 0;
    seconds(&w, 30);
    uint64_t size = w.size;
    w.half = 1.0 * GIB;
    seconds(&w, 3600);
    assert_int_equal(w.size, size);
    assert_int_equal(reason(&w), NEAR_AUTO_LEARNING);
}

static void test_it_does_not_grow_before_it_is_full(void **state)
{
    struct world w;
    (void)state;
    begin(&w, 64 * MIB, 900, MIB, GIB);
    w.half = 32.0 * MIB;
    w.used_most = 40 * MIB;
    seconds(&w, 600);
    assert_int_equal(w.size, 64 * MIB);
    assert_int_equal(reason(&w), NEAR_AUTO_NOT_FULL);
    w.used_most = UINT64_MAX;
    seconds(&w, 600);
    assert_true(w.size > 280 * MIB);
}

static void test_an_unreachable_target_has_the_largest_size(void **state)
{
    struct world w;
    (void)state;
    begin(&w, 64 * MIB, 1000, MIB, 256 * MIB);
    w.half = 32.0 * MIB;
    seconds(&w, 600);
    assert_int_equal(w.size, 256 * MIB);
    assert_int_equal(reason(&w), NEAR_AUTO_UNREACHABLE);
    assert_int_equal(atomic_load(&w.a.wanted), 256 * MIB);
}

static void test_limits_hold_and_may_change(void **state)
{
    struct world w;
    (void)state;
    begin(&w, 64 * MIB, 100, 8 * MIB, 256 * MIB); /* 3.5 MiB would do */
    w.half = 32.0 * MIB;
    seconds(&w, 3600);
    assert_true(w.size >= 8 * MIB && w.size <= 8 * MIB * 8 / 7);
    atomic_store(&w.a.bytes_min, 20 * MIB);
    second(&w);
    assert_int_equal(w.size, 20 * MIB);
    atomic_store(&w.a.hit_permille, 1000);
    seconds(&w, 600);
    assert_int_equal(w.size, 256 * MIB);
    atomic_store(&w.a.bytes_max, 100 * MIB);
    second(&w);
    assert_int_equal(w.size, 100 * MIB);
    atomic_store(&w.a.hit_permille, 0); /* off: it stays */
    seconds(&w, 60);
    assert_int_equal(w.size, 100 * MIB);
    assert_int_equal(reason(&w), NEAR_AUTO_OFF);
}

/* ---------------------------------------------------------------- pressure */

static void press(struct world *w, uint64_t used, uint64_t limit)
{
    w->pressure_matters = 1;
    w->pressure = (struct near__pressure_level){.used = used, .limit = limit, .known = 1};
}

static void test_pressure_shrinks_fast_and_recovery_is_slow(void **state)
{
    struct world w;
    (void)state;
    begin(&w, GIB, 900, 16 * MIB, GIB);
    w.half = 100.0 * MIB;
    press(&w, 500 * MIB, 1000 * MIB);
    seconds(&w, 3600);
    uint64_t steady = w.size;
    assert_true(steady > 880 * MIB);
    w.pressure.used = 940 * MIB;
    for (int i = 0; i < 5; i++) {
        uint64_t before = w.size;
        second(&w);
        assert_int_equal(w.size, before - before / 4);
        assert_int_equal(reason(&w), NEAR_AUTO_PRESSED);
    }
    seconds(&w, 20);
    assert_int_equal(w.size, 16 * MIB); /* not further than the least */
    assert_int_equal(atomic_load(&w.a.pressed), 25);
    w.pressure.used = 500 * MIB;
    seconds(&w, 29);
    assert_int_equal(w.size, 16 * MIB);
    assert_int_equal(reason(&w), NEAR_AUTO_RECOVERING);
    for (int i = 0; i < 600; i++) {
        uint64_t before = w.size;
        second(&w);
        assert_true(w.size >= before && w.size <= before + before / 16 + 1);
    }
    assert_true(w.size > 16 * MIB * 20 && w.size < steady); /* 1.0625 to the 60th is 38 */
    seconds(&w, 600);
    assert_int_equal(w.size, steady);
    assert_int_equal(reason(&w), NEAR_AUTO_REACHED);
}

/* What was not used goes at once: giving it up gives nothing back. */
static void test_pressure_takes_a_part_of_what_is_used(void **state)
{
    struct world w;
    (void)state;
    begin(&w, GIB, 1000, 16 * MIB, GIB);
    w.half = 100.0 * MIB;
    w.used_most = 64 * MIB;
    press(&w, 940 * MIB, 1000 * MIB);
    second(&w);
    assert_int_equal(w.size, 48 * MIB);
}

static void test_what_counts_as_pressure(void **state)
{
    static const struct {
        struct near__pressure_level level;
        int pressed;
    } cases[] = {
        {{.used = 937, .limit = 1000}, 0},
        {{.used = 938, .limit = 1000}, 1},
        {{.used = 2000, .limit = 1000}, 1},
        {{.used = 800, .limit = 1000, .throttled = 1}, 1},
        {{.used = 799, .limit = 1000, .throttled = 100}, 0}, /* the page cache met the limit */
        {{.used = 10, .limit = 1000, .stalled_permille = 99}, 0},
        {{.used = 10, .limit = 1000, .stalled_permille = 100}, 1},
        {{.used = 0, .limit = NEAR_PRESSURE_NO_LIMIT, .stalled_permille = 100}, 1},
        {{.used = UINT64_MAX, .limit = NEAR_PRESSURE_NO_LIMIT, .throttled = 5}, 0},
        {{.used = 0, .limit = 0}, 1}, /* memory.max 0 */
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct world w;
        begin(&w, 64 * MIB, 1000, MIB, 64 * MIB);
        w.half = MIB;
        w.pressure_matters = 1;
        w.pressure = cases[i].level;
        second(&w);
        assert_int_equal(w.size < 64 * MIB, cases[i].pressed);
        w.pressure_matters = 0; /* nobody wants to know */
        begin(&w, 64 * MIB, 1000, MIB, 64 * MIB);
        second(&w);
        assert_int_equal(w.size, 64 * MIB);
    }
}

/* A group with 1000 MiB of which others use 600: the tier and the limit do not chase each other. */
static void test_growth_ends_before_the_pressure_begins(void **state)
{
    struct world w;
    (void)state;
    begin(&w, 64 * MIB, 1000, 16 * MIB, 64 * GIB);
    w.half = 100.0 * MIB;
    w.pressure_matters = 1;
    for (int i = 0; i < 3600; i++) {
        press(&w, 600 * MIB + w.size, 1000 * MIB);
        second(&w);
    }
    assert_int_equal(atomic_load(&w.a.pressed), 0);
    assert_true(w.size > 240 * MIB && w.size <= 275 * MIB);
    assert_int_equal(reason(&w), NEAR_AUTO_NO_ROOM);
    /* the others take 100 MiB more: it gives way, then stays */
    for (int i = 0; i < 3600; i++) {
        press(&w, 700 * MIB + w.size, 1000 * MIB);
        second(&w);
    }
    uint64_t pressed = atomic_load(&w.a.pressed);
    assert_true(pressed >= 1 && pressed <= 3);
    assert_true(w.size > 120 * MIB && w.size <= 238 * MIB);
    unsigned changes = w.changes;
    for (int i = 0; i < 3600; i++) {
        press(&w, 700 * MIB + w.size, 1000 * MIB);
        second(&w);
    }
    assert_true(w.changes - changes <= 2);
}

/* ---------------------------------------------------------------- by hand */

static void set_by_hand(struct world *w, uint64_t size)
{
    w->size = size;
    near__autosize_set_by_hand(&w->a, size);
}

static void test_a_size_set_by_hand_counts_and_is_gone_on_from(void **state)
{
    struct world w;
    (void)state;
    begin(&w, 64 * MIB, 500, 8 * MIB, 256 * MIB);
    w.half = 32.0 * MIB;
    seconds(&w, 3600);
    uint64_t steady = w.size;
    set_by_hand(&w, 200 * MIB);
    seconds(&w, 30);
    assert_int_equal(w.size, 200 * MIB);
    assert_int_equal(reason(&w), NEAR_AUTO_BY_HAND);
    seconds(&w, 3600);
    assert_true(w.size <= steady + steady / 7);
    set_by_hand(&w, 2 * GIB); /* outside of the limits, for a while */
    seconds(&w, 30);
    assert_int_equal(w.size, 2 * GIB);
    seconds(&w, 2);
    assert_int_equal(w.size, 256 * MIB);
    /* memory that is short does not wait */
    set_by_hand(&w, 200 * MIB);
    press(&w, 990 * MIB, 1000 * MIB);
    second(&w);
    assert_int_equal(w.size, 150 * MIB);
    assert_int_equal(reason(&w), NEAR_AUTO_PRESSED);
    press(&w, 100 * MIB, 1000 * MIB);
    set_by_hand(&w, 200 * MIB); /* whoever sets it knows better than what is left of the pressure */
    second(&w);
    assert_int_equal(w.size, 200 * MIB);
}

static void test_without_a_largest_size_the_one_by_hand_is_it(void **state)
{
    struct world w;
    (void)state;
    begin(&w, 64 * MIB, 1000, 8 * MIB, 0);
    w.half = 32.0 * MIB;
    seconds(&w, 600);
    assert_int_equal(w.size, 64 * MIB);
    set_by_hand(&w, 128 * MIB);
    seconds(&w, 600);
    assert_int_equal(w.size, 128 * MIB);
    set_by_hand(&w, 32 * MIB);
    seconds(&w, 600);
    assert_int_equal(w.size, 32 * MIB);
    assert_int_equal(reason(&w), NEAR_AUTO_UNREACHABLE);
}

/* ---------------------------------------------------------------- in a tier */

#define GROUP "/sys/fs/cgroup/web"
#define VALUE 2000

static char root[64];

static void write_group(uint64_t used, const char *limit)
{
    char text[32];
    snprintf(text, sizeof(text), "%llu\n", (unsigned long long)used);
    folder_write(root, GROUP "/memory.current", text);
    folder_write(root, GROUP "/memory.max", limit);
}

static void make_group(void)
{
    folder_make(root, sizeof(root));
    folder_write(root, "/proc/self/cgroup", "0::/web\n");
    folder_write(root, "/proc/self/mountinfo", "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    write_group(100 * MIB, "1048576000\n");
}

static void open_tier(struct fixture *f, uint32_t permille)
{
    make_group();
    fixture_init(f);
    f->config.bytes_max = 32 * MIB;
    f->config.auto_hit_permille = permille;
    f->config.auto_bytes_min = 2 * MIB;
    f->config.auto_bytes_max = 0;
    f->config.auto_pressure = 1;
    f->config.pressure_root = root;
    fixture_start(f);
}

static void close_tier(struct fixture *f)
{
    fixture_close(f);
    folder_remove(root);
}

/* Reads of keys of which `often` are read four times out of five and the others of `all` equally; a second is so many
 * of them. */
static void play(struct fixture *f, uint64_t *random, int count, uint32_t often, uint32_t all, unsigned reads)
{
    static const char value[VALUE];
    for (; count--; near__clock_advance(&f->now_ns, SEC)) {
        for (unsigned i = 0; i < reads; i++) {
            uint32_t key =
                near__random_below(random, 5) ? near__random_below(random, often) : near__random_below(random, all);
            struct near__view view;
            if (near__local_copy(f->local, f->reader, &key, 4, ANY_BOUND, 0, NULL, 0, &view) != NEAR_LOCAL_HIT)
                near__local_install(f->local, f->reader, near__local_ticket(f->local, &key, 4), &key, 4, value, VALUE,
                                    1, -1, near__now(&f->clock));
        }
        near__local_keep(f->local);
    }
}

/* 2000 keys of 2 KB have four reads in five, 12000 the rest.  For a ratio of 0.78 the first 2000 must be there: some 5
 * MB. */
static void test_a_tier_shrinks_to_what_is_enough(void **state)
{
    struct fixture f;
    uint64_t random = test_seed();
    (void)state;
    open_tier(&f, 780);
    play(&f, &random, 400, 2000, 12000, 2000);
    near_stats s = stats_of(&f);
    print_message("# %llu bytes for 0.78, expected 0.%03llu, shrunk %llu times\n",
                  (unsigned long long)s.local_bytes_limit, (unsigned long long)s.auto_expected_permille,
                  (unsigned long long)s.auto_shrunk);
    assert_true(s.local_bytes_limit > 4 * MIB && s.local_bytes_limit < 9 * MIB);
    assert_true(s.auto_expected_permille >= 780 && s.auto_shrunk > 2 && s.auto_grown <= 1);
    assert_true(s.local_bytes <= s.local_bytes_limit + MIB);
    assert_int_equal(s.auto_reason, NEAR_AUTO_REACHED);
    /* the hit ratio is what was promised */
    near_stats before = stats_of(&f);
    play(&f, &random, 20, 2000, 12000, 2000);
    s = stats_of(&f);
    double ratio = (double)(s.local_hits - before.local_hits) / (double)(s.gets - before.gets);
    assert_true(ratio > 0.77);
    /* another load, which needs nearly all */
    play(&f, &random, 900, 12000, 12000, 2000);
    s = stats_of(&f);
    print_message("# %llu bytes for 0.78 of another load\n", (unsigned long long)s.local_bytes_limit);
    assert_true(s.local_bytes_limit > 18 * MIB && s.auto_grown >= 1);
    close_tier(&f);
}

static void test_a_tier_gives_memory_back(void **state)
{
    struct fixture f;
    uint64_t random = test_seed();
    (void)state;
    open_tier(&f, 1000);
    play(&f, &random, 60, 12000, 12000, 2000);
    near_stats s = stats_of(&f);
    assert_int_equal(s.local_bytes_limit, 32 * MIB);
    assert_true(s.local_bytes > 20 * MIB);
    write_group(990 * MIB, "1048576000\n");
    play(&f, &random, 4, 12000, 12000, 200);
    s = stats_of(&f);
    assert_true(s.local_bytes_limit < 11 * MIB && s.local_bytes < 12 * MIB);
    assert_int_equal(s.auto_reason, NEAR_AUTO_PRESSED);
    assert_int_equal(s.auto_pressed, 4);
    play(&f, &random, 20, 12000, 12000, 200);
    s = stats_of(&f);
    /* twice what the tier itself takes is the least */
    assert_true(s.local_bytes_limit < 5 * MIB && s.local_bytes < 6 * MIB);
    /* nonsense in the files is no pressure */
    folder_write(root, GROUP "/memory.max", "many\n");
    play(&f, &random, 25, 12000, 12000, 200);
    s = stats_of(&f);
    assert_int_equal(s.auto_reason, NEAR_AUTO_RECOVERING);
    play(&f, &random, 900, 12000, 12000, 200);
    s = stats_of(&f);
    assert_int_equal(s.auto_cap_bytes, 0);
    assert_int_equal(s.local_bytes_limit, 32 * MIB);
    close_tier(&f);
}

/* The files are looked at once a second however often the keeper comes. */
static void test_the_keeper_looks_once_a_second(void **state)
{
    struct fixture f;
    (void)state;
    open_tier(&f, 1000);
    write_group(990 * MIB, "1048576000\n");
    for (int i = 0; i < 50; i++) {
        near__local_keep(f.local);
        near__clock_advance(&f.now_ns, 100 * MS);
    }
    assert_int_equal(stats_of(&f).auto_pressed, 5);
    close_tier(&f);
}

/* near_set_local_bytes and near_set_local_entries meanwhile. */
static void test_a_tier_resized_by_hand(void **state)
{
    struct fixture f;
    uint64_t random = test_seed();
    (void)state;
    open_tier(&f, 1000);
    play(&f, &random, 60, 12000, 12000, 2000);
    near__local_resize(f.local, 16 * MIB, NEAR_LIMIT_KEPT);
    assert_int_equal(stats_of(&f).local_bytes_limit, 16 * MIB);
    play(&f, &random, 2, 12000, 12000, 2000);
    assert_int_equal(stats_of(&f).local_bytes_limit, 16 * MIB);
    assert_int_equal(stats_of(&f).auto_reason, NEAR_AUTO_BY_HAND);
    play(&f, &random, 100, 12000, 12000, 2000);
    assert_int_equal(stats_of(&f).local_bytes_limit, 16 * MIB); /* the largest now */
    assert_int_equal(stats_of(&f).auto_reason, NEAR_AUTO_UNREACHABLE);
    near__local_resize(f.local, NEAR_LIMIT_KEPT, 100);
    play(&f, &random, 1, 12000, 12000, 2000);
    near_stats s = stats_of(&f);
    assert_int_equal(s.local_bytes_limit, 16 * MIB);
    assert_int_equal(s.local_entries_limit, 100);
    assert_int_not_equal(s.auto_reason, NEAR_AUTO_BY_HAND);
    assert_int_equal(near__local_set_auto(f.local, 0, 2 * MIB, 0), NEAR_OK);
    play(&f, &random, 1, 12000, 12000, 200);
    assert_int_equal(stats_of(&f).auto_reason, NEAR_AUTO_OFF);
    close_tier(&f);
    fixture_open(&f);
    assert_int_equal(near__local_set_auto(f.local, 900, 2 * MIB, 0), NEAR_ERR_UNSUPPORTED);
    fixture_close(&f);
}

/* The keeper's own thread does the same. */
static void test_the_thread_does_it(void **state)
{
    struct fixture f;
    (void)state;
    make_group();
    fixture_init(&f);
    f.config.bytes_max = 32 * MIB;
    f.config.auto_hit_permille = 1000;
    f.config.auto_bytes_min = 2 * MIB;
    f.config.auto_pressure = 1;
    f.config.pressure_root = root;
    f.config.manual = 0;
    fixture_start(&f);
    write_group(990 * MIB, "1048576000\n");
    for (int i = 0; i < 6000 && stats_of(&f).auto_pressed < 3; i++) { /* a minute at most */
        near__clock_advance(&f.now_ns, 100 * MS);
        nanosleep(&(struct timespec){.tv_nsec = 10 * NEAR_NS_PER_MS}, NULL);
    }
    assert_true(stats_of(&f).auto_pressed >= 3);
    assert_true(stats_of(&f).local_bytes_limit < 32 * MIB);
    close_tier(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_finds_the_smallest_size_that_reaches_the_target),
        cmocka_unit_test(test_noise_does_not_move_it),
        cmocka_unit_test(test_it_steps),
        cmocka_unit_test(test_it_needs_reads_to_decide),
        cmocka_unit_test(test_it_does_not_grow_before_it_is_full),
        cmocka_unit_test(test_an_unreachable_target_has_the_largest_size),
        cmocka_unit_test(test_limits_hold_and_may_change),
        cmocka_unit_test(test_pressure_shrinks_fast_and_recovery_is_slow),
        cmocka_unit_test(test_pressure_takes_a_part_of_what_is_used),
        cmocka_unit_test(test_what_counts_as_pressure),
        cmocka_unit_test(test_growth_ends_before_the_pressure_begins),
        cmocka_unit_test(test_a_size_set_by_hand_counts_and_is_gone_on_from),
        cmocka_unit_test(test_without_a_largest_size_the_one_by_hand_is_it),
        cmocka_unit_test(test_a_tier_shrinks_to_what_is_enough),
        cmocka_unit_test(test_a_tier_gives_memory_back),
        cmocka_unit_test(test_the_keeper_looks_once_a_second),
        cmocka_unit_test(test_a_tier_resized_by_hand),
        cmocka_unit_test(test_the_thread_does_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
