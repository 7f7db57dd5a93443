/* SPDX-License-Identifier: BSD-3-Clause
 * Memory of small entries: the arena alone, and in a tier whose mix of sizes changes. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pthread_timedjoin_np */
#endif
#include "local/local_fixture.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/pages.h"
#include "base/random.h"
#include "local/tier.h"
#include "support/seed.h"
#include "support/wait.h"

#define MIB (INT64_C(1) << 20)
#define KEEP (16 << 10)

/* Straight to the depot: a stock that may keep nothing. */
static void give_back(struct near__arena *arena, unsigned class, void *block)
{
    struct near__stock none = {.keep = 0};
    near__arena_give(arena, &none, class, block);
}

/* ---------------------------------------------------------------- the kernel's answers (linked with --wrap) */

void *__real_mmap(void *address, size_t size, int protection, int flags, int file, off_t offset);
void *__real_mmap64(void *address, size_t size, int protection, int flags, int file, off_t offset);
int __real_madvise(void *address, size_t size, int advice);
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int file, off_t offset);
void *__wrap_mmap64(void *address, size_t size, int protection, int flags, int file, off_t offset);
int __wrap_madvise(void *address, size_t size, int advice);
long __real_sysconf(int name);
long __wrap_sysconf(int name);

static _Atomic(int) maps_left = INT32_MAX, refused_advice = -1;
static _Atomic(unsigned) maps_refused, advice_refused;
static size_t large_page;     /* 0: pages are as large as they are */
static int has_no_huge_pages; /* as a kernel that was built without them, a real-time one for instance */

/* A mapping that is held up until it is let go; whoever asks for it has the arena's locks meanwhile. */
static _Atomic(int) hold_maps, maps_held;

/* Called with each mapping that is asked for and each page that is given back, if there is one. */
static void (*at_map)(void), (*at_give)(void);

static int may_map(void)
{
    if (at_map)
        at_map();
    while (hold_maps) {
        maps_held = 1;
        sched_yield();
    }
    if (maps_left <= 0) {
        maps_refused++;
        return 0;
    }
    maps_left--;
    return 1;
}

void *__wrap_mmap(void *address, size_t size, int protection, int flags, int file, off_t offset)
{
    return may_map() ? __real_mmap(address, size, protection, flags, file, offset) : MAP_FAILED;
}

/* by its other name */
void *__wrap_mmap64(void *address, size_t size, int protection, int flags, int file, off_t offset)
{
    return may_map() ? __real_mmap64(address, size, protection, flags, file, offset) : MAP_FAILED;
}

int __wrap_madvise(void *address, size_t size, int advice)
{
    if (at_give && advice == MADV_DONTNEED)
        at_give();
    if (has_no_huge_pages && (advice == MADV_HUGEPAGE || advice == MADV_NOHUGEPAGE)) {
        errno = EINVAL;
        return -1;
    }
    if (large_page && advice == MADV_DONTNEED) { /* whole pages, from where one begins */
        if ((uintptr_t)address % large_page) {
            errno = EINVAL;
            return -1;
        }
        size = (size + large_page - 1) / large_page * large_page;
    }
    if (advice != refused_advice)
        return __real_madvise(address, size, advice);
    advice_refused++;
    return -1;
}

long __wrap_sysconf(int name)
{
    return large_page && name == _SC_PAGESIZE ? (long)large_page : __real_sysconf(name);
}

/* ---------------------------------------------------------------- alone */

static struct near__alloc alloc;
static struct near__arena *arena;
static _Atomic(int64_t) memory;

static void open_arena(int huge)
{
    near__alloc_init(&alloc, NULL);
    atomic_store(&memory, 0);
    assert_int_equal(near__arena_open(&alloc, huge, &memory, &arena), NEAR_OK);
}

static void *take(struct near__stock *stock, unsigned class, int64_t most)
{
    void *got = near__arena_pop(arena, stock, class);
    return got ? got : near__arena_take(arena, stock, class, KEEP, most);
}

static void test_classes_hold_their_sizes_with_little_waste(void **state)
{
    (void)state;
    open_arena(0);
    size_t size = NEAR_ENTRY_HEADER;
    int64_t before = 0;
    for (; near__arena_class(arena, size) != NEAR_CLASS_NONE; size++) {
        int64_t cost = near__arena_cost(arena, near__arena_class(arena, size));
        assert_true(cost >= (int64_t)size);
        assert_true(cost >= before);
        assert_true(cost <= (int64_t)(size < 64 ? size + 8 : size + size / 7 + 8));
        before = cost;
    }
    assert_true(size > 2000);
    assert_true(near__arena_cost(arena, near__arena_class(arena, NEAR_ENTRY_HEADER + 16 + 100)) <= 130);
    near__arena_close(arena);
}

/* Two lines, and both in the 128 bytes that processors like to fetch together. */
static void test_an_entry_of_16_and_100_bytes_lies_in_one_pair_of_lines(void **state)
{
    static struct near__stock stock;
    (void)state;
    open_arena(0);
    size_t size = near__entry_size_for(16, 100, near__entry_flags_for(16, 100, 0, 0));
    assert_int_equal(size, 128);
    unsigned class = near__arena_class(arena, size);
    for (unsigned i = 0; i < 300; i++) { /* some slabs */
        void *got = take(&stock, class, INT64_MAX);
        assert_non_null(got);
        assert_int_equal((uintptr_t)got % 128, 0);
    }
    near__arena_close(arena);
}

#define BLOCKS 4000
static struct {
    unsigned char *memory;
    size_t size;
    unsigned char mark;
} block[BLOCKS];

static void check_block(unsigned i)
{
    for (size_t b = 0; b < block[i].size; b++)
        assert_int_equal(block[i].memory[b], block[i].mark);
}

/* Two stocks that get and give one another's blocks; all memory goes back in the end. */
static void take_and_give(int huge)
{
    static struct near__stock stock[2];
    uint64_t random = test_seed();
    open_arena(huge);
    memset(stock, 0, sizeof(stock));
    memset(block, 0, sizeof(block));
    int64_t empty = near__arena_held(arena);
    for (int step = 0; step < SCALE(200000, 40000); step++) {
        unsigned i = near__random_below(&random, BLOCKS), s = near__random_below(&random, 3);
        if (block[i].memory) {
            check_block(i);
            unsigned class = near__arena_class(arena, block[i].size);
            if (s < 2)
                near__arena_give(arena, &stock[s], class, block[i].memory);
            else
                give_back(arena, class, block[i].memory);
            block[i].memory = NULL;
            continue;
        }
        block[i].size = 24 + near__random_below(&random, 2040 - 24);
        block[i].mark = (unsigned char)step;
        block[i].memory = take(&stock[s % 2], near__arena_class(arena, block[i].size), INT64_MAX);
        assert_non_null(block[i].memory);
        assert_true(near__pointer_fits(block[i].memory));
        memset(block[i].memory, block[i].mark, block[i].size);
        assert_true(stock[s % 2].weight <= KEEP + KEEP / 2); /* a batch more */
    }
    for (unsigned i = 0; i < BLOCKS; i++)
        if (block[i].memory) {
            check_block(i);
            give_back(arena, near__arena_class(arena, block[i].size), block[i].memory);
        }
    near__arena_settle(arena, &stock[0]);
    near__arena_settle(arena, &stock[1]);
    near__arena_trim(arena, INT64_MAX, 0);
    assert_int_equal(near__arena_held(arena), atomic_load(&memory));
    assert_true(near__arena_held(arena) <= empty + 16 * 1024 + huge * 2 * MIB); /* the list of chunks */
    near__arena_close(arena);
}

static void test_blocks_do_not_overlap_and_all_come_back(void **state)
{
    (void)state;
    take_and_give(0);
    take_and_give(1);
}

static void hold_to_the_limit(int huge)
{
    struct near__stock stock = {.weight = 0};
    int64_t most = 9 * MIB, taken = 0;
    open_arena(huge);
    unsigned class = near__arena_class(arena, 140);
    while (take(&stock, class, most)) {
        taken += near__arena_cost(arena, class);
        assert_true(near__arena_held(arena) <= most);
    }
    assert_true(taken > most - MIB / 16); /* it was used */
    assert_int_equal(near__arena_wanted(arena), NEAR_SLAB_SIZE);
    assert_int_equal(near__arena_wanted(arena), 0);
    near__arena_close(arena);
}

static void test_what_is_held_stays_below_the_limit(void **state)
{
    (void)state;
    hold_to_the_limit(0);
    hold_to_the_limit(1);
}

static int mappings(void)
{
    int lines = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    assert_non_null(file);
    for (int c; (c = fgetc(file)) != EOF;)
        lines += c == '\n';
    fclose(file);
    return lines;
}

#define MANY 64

/* A process may have 65,530 of them, and 32,768 chunks are 64 GiB. */
static void fill_many_chunks(int huge)
{
    struct near__stock stock = {.first = {NULL}};
    open_arena(huge);
    unsigned class = near__arena_class(arena, NEAR_SMALL_MAX);
    assert_non_null(take(&stock, class, INT64_MAX));
    int before = mappings();
    while (near__arena_held(arena) < MANY * 2 * MIB)
        assert_non_null(take(&stock, class, INT64_MAX));
    assert_in_range(mappings(), 0, (uintmax_t)before + MANY / 4);
    near__arena_close(arena);
}

static void test_chunks_are_few_mappings(void **state)
{
    (void)state;
    if (SCALE(0, 1))
        skip(); /* a sanitizer maps more beside each chunk */
    fill_many_chunks(0);
    fill_many_chunks(1);
}

/* ---------------------------------------------------------------- in a tier */

static unsigned char pattern[8192];

static const unsigned char *value_of(uint64_t n, size_t size)
{
    return pattern + n % (sizeof(pattern) - size);
}

static int fill_one(struct fixture *f, struct near__reader *reader, uint64_t n, size_t size)
{
    struct near__ticket t = near__local_ticket(f->local, &n, sizeof(n));
    return near__local_install(f->local, reader, t, &n, sizeof(n), value_of(n, size), size, n + 1, -1, NEAR_NEVER);
}

/* Right or not there. */
static int read_one(struct fixture *f, struct near__reader *reader, uint64_t n)
{
    unsigned char got[8192];
    struct near__view view;
    if (near__local_copy(f->local, reader, &n, sizeof(n), ANY_BOUND, 0, got, sizeof(got), &view) != NEAR_LOCAL_HIT)
        return 0;
    assert_int_equal(memcmp(got, value_of(n, view.size), view.size), 0);
    return 1;
}

static void make_pattern(void)
{
    uint64_t random = 5;
    for (size_t i = 0; i < sizeof(pattern); i++)
        pattern[i] = (unsigned char)near__random_next(&random);
}

static int64_t resident(void)
{
    long pages = 0, unused;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%ld %ld", &unused, &pages), 2);
    fclose(file);
    return pages * sysconf(_SC_PAGESIZE);
}

static size_t size_in(unsigned mix, uint64_t *random)
{
    static const size_t sizes[] = {100, 1000, 40, 2000, 300, 16};
    switch (mix % 8) {
    case 6:
        return near__random_below(random, 2000);
    case 7:
        return near__random_below(random, 10) ? near__random_below(random, 200) : near__random_below(random, 8000);
    default:
        return sizes[mix % 8];
    }
}

static void check_queues(struct near__local *local)
{
    int64_t live = atomic_load(&local->budget.used) - atomic_load(&local->budget.retired) -
                   atomic_load(&local->budget.kept) - atomic_load(&local->budget.fixed) -
                   (int64_t)atomic_load(&local->index_bytes) - near__budget_idle(local, NEAR_IDLE_ROOM);
    if (local->queues)
        assert_int_equal(atomic_load(&local->queue_bytes[0]) + atomic_load(&local->queue_bytes[1]), live);
}

/* One mix: two budgets' worth of it.  How many bytes of values are there in the end. */
static int64_t fill_with(struct fixture *f, unsigned mix, uint64_t *n, uint64_t *random, int64_t max)
{
    uint64_t first = *n;
    int64_t refused = 0, filled = 0, there = 0;
    for (int64_t bytes = 0; bytes < 2 * max; (*n)++) {
        size_t size = size_in(mix, random);
        bytes += (int64_t)size + 48;
        filled++;
        if (!fill_one(f, f->reader, *n, size)) {
            refused++;
            near__local_keep(f->local);
        }
        if (*n % 512 == 0) {
            near__local_keep(f->local);
            assert_true((int64_t)stats_of(f).local_bytes <= max + MIB);
        }
        if (*n % 7 == 0)
            read_one(f, f->reader, first + near__random_below(random, (uint32_t)(*n - first + 1)));
    }
    assert_true(refused < filled / 20 + 64);
    near__local_keep(f->local);
    for (uint64_t k = first; k < *n; k++) {
        struct near__view view;
        if (near__local_get(f->local, f->reader, &k, sizeof(k), ANY_BOUND, 0, &view) != NEAR_LOCAL_HIT)
            continue;
        assert_int_equal(memcmp(view.data, value_of(k, view.size), view.size), 0);
        there += (int64_t)view.size + (int64_t)sizeof(k) + (int64_t)NEAR_ENTRY_HEADER;
        near__local_unpin(f->reader, &view);
    }
    return there;
}

/* Whatever the mix was before, the budget is used for the present one, and the process is no larger than is counted. */
static void change_mixes(uint32_t policy)
{
    struct fixture f;
    uint64_t n = 0, random = test_seed();
    const int64_t max = SCALE(8, 4) * MIB;
    fixture_init(&f);
    f.config.bytes_max = (uint64_t)max;
    f.config.policy = policy;
    int64_t before = resident();
    fixture_start(&f);
    for (unsigned mix = 0; mix < 8; mix++) {
        int64_t there = fill_with(&f, mix, &n, &random, max);
        near_stats s = stats_of(&f);
        int64_t fixed = (int64_t)s.local_index_bytes + atomic_load(&f.local->budget.fixed);
        assert_true((int64_t)s.local_bytes <= max + MIB);
        /* what S3-FIFO has proved useful before stays: there all that is live counts */
        int64_t live = policy == NEAR_POLICY_LRU
                           ? there
                           : atomic_load(&f.local->queue_bytes[0]) + atomic_load(&f.local->queue_bytes[1]);
        print_message("# mix %u: %ld of %ld KiB beside the index are entries, %lu KiB in memory\n", mix,
                      (long)live / 1024, (long)(max - fixed) / 1024, (unsigned long)s.local_bytes / 1024);
        assert_true(live > (max - fixed) * 6 / 10);
        if (SCALE(1, 0)) /* with what malloc keeps of tables that were freed */
            assert_true(resident() - before < (int64_t)s.local_bytes + 8 * MIB);
        check_queues(f.local);
    }
    fixture_close(&f);
}

static void test_F_changing_mixes_of_sizes_leave_no_holes(void **state)
{
    (void)state;
    change_mixes(NEAR_POLICY_LRU);
    if (SCALE(1, 0)) /* the same steps, and it takes minutes */
        change_mixes(NEAR_POLICY_S3FIFO);
}

static void test_F_a_lowered_budget_gives_memory_back(void **state)
{
    struct fixture f;
    (void)state;
    int64_t before = resident();
    fixture_open_sized(&f, 64 * (uint64_t)MIB);
    uint64_t n = 0;
    for (; stats_of(&f).local_bytes < 60 * (uint64_t)MIB; n++) {
        fill_one(&f, f.reader, n, 100);
        if (n % 4096 == 0)
            near__local_keep(f.local);
    }
    int64_t full = resident();
    near__local_resize(f.local, 8 * (uint64_t)MIB, 0);
    assert_true(wait_until((near__local_keep(f.local), (int64_t)stats_of(&f).local_bytes <= 9 * MIB), 30000));
    if (SCALE(1, 0)) {
        assert_true(full - before > 40 * MIB);
        assert_true(resident() - before < 16 * MIB);
    }
    uint64_t found = 0;
    for (uint64_t k = 0; k < n; k++)
        found += (uint64_t)read_one(&f, f.reader, k);
    assert_int_equal(found, stats_of(&f).local_entries);
    assert_true(found > 20000);
    fixture_close(&f);
}

/* While there is work, empty slabs are kept for it: given back and taken again they would cost the huge page that they
 * are part of. */
/* A slab that is given back takes nothing along that is beside it. */
static void test_pages_may_be_larger_than_slabs(void **state)
{
    struct fixture f;
    (void)state;
    large_page = 4 * NEAR_SLAB_SIZE;
    fixture_open_sized(&f, 16 * (uint64_t)MIB);
    uint64_t n = 0, found = 0;
    for (; stats_of(&f).local_bytes < 15 * (uint64_t)MIB; n++) {
        fill_one(&f, f.reader, n, 100);
        if (n % 4096 == 0)
            near__local_keep(f.local);
    }
    near__local_resize(f.local, 4 * (uint64_t)MIB, 0);
    assert_true(wait_until((near__local_keep(f.local), (int64_t)stats_of(&f).local_bytes <= 5 * MIB), 30000));
    for (uint64_t k = 0; k < n; k++)
        found += (uint64_t)read_one(&f, f.reader, k);
    assert_int_equal(found, stats_of(&f).local_entries);
    fixture_close(&f);
    large_page = 0;
}

static void test_empty_slabs_are_kept_while_there_is_work(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open_sized(&f, 8 * (uint64_t)MIB);
    uint64_t n = 0;
    while (fill_one(&f, f.reader, n, 100)) /* up to the ceiling: nothing is reclaimed meanwhile */
        n++;
    near__blocks_tend(f.local, 0); /* what was wanted */
    int64_t held = near__arena_held(f.local->arena);
    assert_true(near__blocks_total(f.local) > 8 * MIB);
    for (uint64_t k = 0; k <= n; k++)
        near__local_invalidate(f.local, &k, sizeof(k), k + 2, NEAR_CAUSE_MESSAGE);
    near__reclaim(f.local, 1);
    near__blocks_tend(f.local, 0);
    assert_int_equal(near__arena_held(f.local->arena), held);
    near__blocks_tend(f.local, 1);
    assert_true(near__arena_held(f.local->arena) < held / 2);
    fixture_close(&f);
}

/* Of chunks that are not to be huge the kernel is told so, whatever it does by default. */
static void test_small_pages_stay_small(void **state)
{
    struct near__stock stock = {.first = {NULL}};
    char line[256];
    int is_ours = 0, is_small = 0;
    unsigned long from, to;
    (void)state;
    open_arena(0);
    uintptr_t at = (uintptr_t)take(&stock, near__arena_class(arena, 100), INT64_MAX);
    assert_int_not_equal(at, 0);
    FILE *file = fopen("/proc/self/smaps", "r");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            is_ours = at >= from && at < to;
        else if (is_ours && strncmp(line, "VmFlags:", 8) == 0)
            is_small = strstr(line, " nh") != NULL;
    }
    fclose(file);
    near__arena_close(arena);
    assert_true(is_small);
}

/* Of this process, in KiB; -1: this kernel does not tell. */
static long huge_pages(void)
{
    char line[256];
    long kib = -1;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    if (!file)
        return -1;
    while (fgets(line, sizeof(line), file))
        if (sscanf(line, "AnonHugePages: %ld kB", &kib) == 1)
            break;
    fclose(file);
    return kib;
}

/* In a tier of 64 MiB that gets no huge pages: it works as it does with them, counts what it has and gives it back. */
static void fill_and_shrink(int kernel_has_none)
{
    struct fixture f;
    if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) != 0)
        skip();
    has_no_huge_pages = kernel_has_none;
    int64_t before = resident();
    long huge_before = huge_pages();
    fixture_open_sized(&f, 64 * (uint64_t)MIB);
    uint64_t n = 0, found = 0;
    for (; stats_of(&f).evictions < 10000; n++) {
        fill_one(&f, f.reader, n, 100);
        if (n % 4096 == 0)
            near__local_keep(f.local);
        assert_true((int64_t)stats_of(&f).local_bytes <= 64 * MIB + 64 * MIB / 20);
    }
    assert_true(huge_pages() <= huge_before); /* none has come */
    if (SCALE(1, 0))
        assert_in_range(resident() - before, 58 * MIB, stats_of(&f).local_bytes + (uint64_t)MIB);
    near__local_resize(f.local, 8 * (uint64_t)MIB, 0);
    assert_true(wait_until((near__local_keep(f.local), (int64_t)stats_of(&f).local_bytes <= 9 * MIB), 30000));
    if (SCALE(1, 0))
        assert_true(resident() - before < 12 * MIB);
    for (uint64_t k = 0; k < n; k++)
        found += (uint64_t)read_one(&f, f.reader, k);
    assert_int_equal(found, stats_of(&f).local_entries);
    assert_true(found > 20000);
    fixture_close(&f);
    has_no_huge_pages = 0;
    (void)prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
}

/* The kernel has none for us. */
static void test_F_without_huge_pages_all_is_counted_and_given_back(void **state)
{
    (void)state;
    fill_and_shrink(0);
}

/* The kernel has never heard of them. */
static void test_F_a_kernel_without_huge_pages_gets_its_memory_back(void **state)
{
    (void)state;
    fill_and_shrink(1);
}

/* Fills without memory are refused, and nothing else. */
static void test_R52_the_kernel_may_refuse_memory(void **state)
{
    struct fixture f;
    (void)state;
    for (int maps = 0; maps < SCALE(4, 2); maps++) {
        fixture_open_sized(&f, 64 * (uint64_t)MIB);
        maps_left = maps;
        maps_refused = 0;
        uint64_t n = 0, refused = 0, found = 0;
        for (; n < SCALE(60000, 20000); n++)
            refused += !fill_one(&f, f.reader, n, 100);
        assert_true(maps_refused > 0 && refused > 0);
        near_stats s = stats_of(&f);
        assert_int_equal(s.fills_refused_space, refused);
        for (uint64_t k = 0; k < n; k++)
            found += (uint64_t)read_one(&f, f.reader, k);
        assert_int_equal(found, s.local_entries);
        maps_left = INT32_MAX;
        near__local_keep(f.local);
        assert_int_equal(fill_one(&f, f.reader, n, 100), 1);
        assert_int_equal(read_one(&f, f.reader, n), 1);
        fixture_close(&f);
    }
}

/* What the kernel does not take back is counted as held, and used again. */
static void memory_that_stays(int advice)
{
    struct fixture f;
    fixture_open_sized(&f, 64 * (uint64_t)MIB);
    uint64_t n = 0;
    for (; stats_of(&f).local_bytes < 60 * (uint64_t)MIB; n++)
        fill_one(&f, f.reader, n, 100);
    refused_advice = advice;
    advice_refused = 0;
    near__local_clear(f.local);
    near__local_keep(f.local);
    near__local_keep(f.local);
    assert_true(advice_refused > 0);
    assert_int_equal(stats_of(&f).local_entries, 0);
    assert_true(stats_of(&f).local_bytes > 58 * (uint64_t)MIB);
    refused_advice = -1;
    near__local_keep(f.local);
    assert_true(stats_of(&f).local_bytes < 8 * (uint64_t)MIB);
    assert_int_equal(fill_one(&f, f.reader, n, 100), 1);
    assert_int_equal(read_one(&f, f.reader, n), 1);
    fixture_close(&f);
}

static void test_what_the_kernel_leaves_is_counted(void **state)
{
    (void)state;
    memory_that_stays(MADV_DONTNEED);
    memory_that_stays(MADV_NOHUGEPAGE);
}

/* ---------------------------------------------------------------- moving */

static void sum_costs(void *arg, const struct near__entry *entry)
{
    *(int64_t *)arg += near__arena_cost(arena, near__arena_class(arena, near__entry_size(entry)));
}

/* What is counted as memory is the sum of what there is, and what is counted as used as well. */
static void check_used(struct fixture *f)
{
    assert_int_equal(atomic_load(&f->local->budget.memory),
                     atomic_load(&f->local->budget.fixed) + (int64_t)atomic_load(&f->local->index_bytes) +
                         atomic_load(&f->local->large_bytes) + near__arena_held(f->local->arena));
    struct near__local *local = f->local;
    int64_t live = 0;
    arena = local->arena;
    for (uint64_t at = near__tier_walk(local, 0, 64, sum_costs, &live); at;
         at = near__tier_walk(local, at, 64, sum_costs, &live))
        ;
    assert_int_equal(atomic_load(&local->budget.used) - near__budget_idle(local, NEAR_IDLE_ROOM) -
                         near__budget_idle(local, NEAR_IDLE_SPARE),
                     atomic_load(&local->budget.fixed) + (int64_t)atomic_load(&local->index_bytes) + live);
    assert_int_equal(near__budget_retired(local), 0);
}

static void fill_and_keep(struct fixture *f, uint64_t n, size_t size)
{
    assert_int_equal(fill_one(f, f->reader, n, size), 1);
    if (n % 512 == 0)
        near__local_keep(f->local); /* the index grows */
}

/* Three of four entries go; the others are moved together, are what they were, and the counts are exact. */
static void move_together(uint32_t policy, int pinned)
{
    struct fixture f;
    struct near__view view = {.pin = NULL};
    fixture_init(&f);
    f.config.bytes_max = 8 * (uint64_t)MIB;
    f.config.policy = policy;
    fixture_start(&f);
    uint64_t random = test_seed(), n = 0, there = 0, kept = 0;
    for (; stats_of(&f).local_bytes < 6 * (uint64_t)MIB; n++)
        fill_and_keep(&f, n, n % 2 ? 100 : 300);
    for (uint64_t k = 0; k < n; k++)
        if (near__random_below(&random, 4))
            near__local_invalidate(f.local, &k, sizeof(k), n + 1, NEAR_CAUSE_MESSAGE);
        else if (pinned && !view.pin &&
                 near__local_get(f.local, f.reader, &k, sizeof(k), ANY_BOUND, 0, &view) == NEAR_LOCAL_HIT)
            kept = k; /* the first that no full bucket has pushed out */
    assert_int_equal(view.pin != NULL, pinned);
    near__local_keep(f.local);
    int64_t before = near__arena_held(f.local->arena);
    near__arena_starve(f.local->arena, 5 * MIB);
    near__local_keep(f.local);
    near__local_keep(f.local);
    assert_true(atomic_load(&f.local->keeper.moved) > 1000);
    assert_true(near__arena_held(f.local->arena) < before / 3);
    if (pinned) { /* the old copy, whether it was moved or not */
        assert_int_equal(memcmp(view.data, value_of(kept, view.size), view.size), 0);
        near__local_unpin(f.reader, &view);
        near__local_keep(f.local);
    }
    for (uint64_t k = 0; k < n; k++)
        there += (uint64_t)read_one(&f, f.reader, k);
    assert_true(there > n / 5 && there < n / 3);
    assert_int_equal(there, stats_of(&f).local_entries);
    check_queues(f.local);
    check_used(&f);
    fixture_close(&f);
}

static void test_R49_moved_entries_are_counted_once(void **state)
{
    (void)state;
    move_together(NEAR_POLICY_LRU, 0);
    move_together(NEAR_POLICY_S3FIFO, 0);
    move_together(NEAR_POLICY_ADAPTIVE, 1);
}

/* Somebody sits on one small block in each of many slabs, as sleeping threads and held values may. */
static void sit(struct near__arena *where, unsigned class, unsigned slabs, void **ret_taken)
{
    struct near__stock stock = {.weight = 0};
    unsigned each = (unsigned)((int64_t)NEAR_SLAB_SIZE / near__arena_cost(where, class)), all = slabs * each;
    void **taken = calloc(all, sizeof(*taken));
    for (unsigned i = 0; i < all; i++) {
        taken[i] = near__arena_pop(where, &stock, class);
        if (!taken[i])
            taken[i] = near__arena_take(where, &stock, class, 1, INT64_MAX);
        assert_non_null(taken[i]);
    }
    for (unsigned i = 0; i < all; i++)
        if (i % each == 0)
            ret_taken[i / each] = taken[i];
        else
            give_back(where, class, taken[i]);
    near__arena_settle(where, &stock);
    free(taken);
}

/* Holes that nothing can be moved out of hold more than what is beyond the budget: then entries go, and fills go on. */
static void test_R49_holes_do_not_refuse_fills_for_good(void **state)
{
    enum { SLABS = 150 };
    struct fixture f;
    void *taken[SLABS];
    (void)state;
    fixture_open_sized(&f, 8 * (uint64_t)MIB);
    sit(f.local->arena, near__arena_class(f.local->arena, 24), SLABS, taken);
    uint64_t n = 0;
    unsigned in_a_row = 0;
    for (; n < SCALE(40000, 20000); n++) {
        if (fill_one(&f, f.reader, n, 900 + n % 100)) {
            in_a_row = 0;
            continue;
        }
        assert_true(in_a_row++ < 3);
        near__local_keep(f.local);
        assert_true((int64_t)stats_of(&f).local_bytes <= 9 * MIB);
    }
    for (unsigned i = 0; i < SLABS; i++)
        give_back(f.local->arena, near__arena_class(f.local->arena, 24), taken[i]);
    check_queues(f.local);
    fixture_close(&f);
}

/* Large entries come where small ones were, all at once and without a pause in which nobody wants anything. */
/* ---------------------------------------------------------------- stopped with a lock */

static struct fixture stopped_in;
static _Atomic(int) has_filled, may_leave, has_read;

static void *fills_and_leaves(void *unused)
{
    struct near__reader *reader = near__local_reader(stopped_in.local);
    (void)unused;
    assert_int_equal(fill_one(&stopped_in, reader, 1, 100), 1);
    has_filled = 1; /* and has some free blocks of that size now */
    while (!may_leave)
        sched_yield();
    return NULL;
}

static void *fills_until_stopped(void *unused)
{
    struct near__reader *reader = near__local_reader(stopped_in.local);
    (void)unused;
    for (uint64_t n = 2; !maps_held; n++)
        (void)fill_one(&stopped_in, reader, n, 100);
    return NULL;
}

static void *reads_first(void *unused)
{
    (void)unused;
    has_read = near__local_reader(stopped_in.local) != NULL;
    return NULL;
}

/* One thread stands in the kernel with the locks of a size and of the pool, another exits, and a third one's first read
 * does not wait. */
static void test_R49_an_exit_waits_for_nobody_who_fills(void **state)
{
    pthread_t leaver, filler, newcomer;
    (void)state;
    fixture_open_sized(&stopped_in, 64 * (uint64_t)MIB);
    has_filled = may_leave = has_read = maps_held = 0;
    pthread_create(&leaver, NULL, fills_and_leaves, NULL);
    while (!has_filled)
        sched_yield();
    hold_maps = 1;
    pthread_create(&filler, NULL, fills_until_stopped, NULL);
    while (!maps_held)
        sched_yield();
    may_leave = 1;
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 20;
    int gone = pthread_timedjoin_np(leaver, NULL, &deadline) == 0;
    pthread_create(&newcomer, NULL, reads_first, NULL);
    int read = wait_until(has_read, 20000);
    hold_maps = 0;
    pthread_join(filler, NULL);
    pthread_join(newcomer, NULL);
    if (!gone)
        pthread_join(leaver, NULL);
    assert_true(gone && read);
    fixture_close(&stopped_in);
}

static void test_R49_large_entries_find_room_among_slabs(void **state)
{
    struct fixture f;
    (void)state;
    fixture_init(&f);
    f.config.bytes_max = 8 * (uint64_t)MIB;
    f.config.value_max = MIB;
    fixture_start(&f);
    uint64_t n = 0;
    for (; stats_of(&f).evictions < 1000; n++)
        if (!fill_one(&f, f.reader, n, 60))
            near__local_keep(f.local);
    unsigned refused = 0;
    for (unsigned i = 0; i < 2000; i++, n++)
        if (!fill_one(&f, f.reader, n, 6000)) {
            refused++;
            near__local_keep(f.local);
        }
    assert_true(refused < 200);
    assert_true(atomic_load(&f.local->large_bytes) > 5 * MIB);
    assert_true((int64_t)stats_of(&f).local_bytes <= 9 * MIB);
    fixture_close(&f);
}

/* ---------------------------------------------------------------- while a limit is lowered */

/* Slabs that were chosen to go are all that has free blocks: above the limit one of them stays for whoever needs a
 * block, and otherwise none. */
static void test_R49_a_slab_that_was_to_go_stays_for_who_finds_no_other(void **state)
{
    enum { SLABS = 40 };
    void *taken[SLABS], *more[NEAR_SLAB_SIZE / 128];
    struct near__stock stock = {.weight = 0};
    (void)state;
    open_arena(0);
    unsigned class = near__arena_class(arena, 128),
             blocks = (unsigned)((int64_t)NEAR_SLAB_SIZE / near__arena_cost(arena, class)), n = 0;
    sit(arena, class, SLABS, taken);
    near__arena_trim(arena, 0, 0);
    assert_true(near__arena_choose(arena, 1) >= SLABS - 2);
    int64_t held = near__arena_held(arena);
    while (n < 2 * blocks && (more[n] = take(&stock, class, held)) != NULL)
        n++;
    assert_true(n < 2 * blocks);
    assert_true(near__arena_is_starved(arena) && near__arena_wanted(arena) > 0);
    void *got = take(&stock, class, held - 1);
    assert_non_null(got);
    assert_false(near__arena_is_leaving(got));
    assert_false(near__arena_is_starved(arena));
    give_back(arena, class, got);
    while (n)
        give_back(arena, class, more[--n]);
    near__arena_unchoose(arena, 1);
    for (unsigned i = 0; i < SLABS; i++)
        give_back(arena, class, taken[i]);
    near__arena_settle(arena, &stock);
    near__arena_trim(arena, 0, 0);
    assert_true(near__arena_held(arena) < (int64_t)NEAR_SLAB_SIZE + 8192);
    near__arena_close(arena);
}

static unsigned gives;

static void *asks(void *unused)
{
    (void)unused;
    (void)near__arena_has_empty(arena);
    return NULL;
}

/* In the middle of the kernel's taking back of a slab another thread gets the pool's mutex. */
static void ask_meanwhile(void)
{
    pthread_t other;
    struct timespec deadline;
    at_give = NULL;
    gives++;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 20;
    assert_int_equal(pthread_create(&other, NULL, asks, NULL), 0);
    assert_int_equal(pthread_timedjoin_np(other, NULL, &deadline), 0);
}

static void test_R49_nobody_waits_while_the_kernel_takes_memory_back(void **state)
{
    void *taken[3];
    (void)state;
    open_arena(0);
    unsigned class = near__arena_class(arena, 128);
    sit(arena, class, 3, taken);
    for (unsigned i = 0; i < 3; i++)
        give_back(arena, class, taken[i]);
    gives = 0;
    at_give = ask_meanwhile;
    near__arena_trim(arena, 0, 0);
    at_give = NULL;
    assert_int_equal(gives, 1);
    assert_true(near__arena_held(arena) < (int64_t)NEAR_SLAB_SIZE);
    near__arena_close(arena);
}

static struct fixture lowered;
static unsigned met, kept_meanwhile;

/* The table for fewer entries is being mapped: the entries fit in already, but for the table that it will replace. */
static void fill_meanwhile(void)
{
    at_map = NULL;
    met++;
    for (uint64_t n = 0; n < 200; n++)
        kept_meanwhile += (unsigned)fill_one(&lowered, lowered.reader, 1000000 + n, 100);
    at_map = fill_meanwhile;
}

static void test_F_fills_go_on_while_the_index_becomes_smaller(void **state)
{
    (void)state;
    fixture_open_sized(&lowered, 160 * (uint64_t)MIB);
    for (uint64_t n = 0; n < 600000; n++) {
        (void)fill_one(&lowered, lowered.reader, n, 30);
        if (n % 4096 == 0)
            near__local_keep(lowered.local);
    }
    near__local_keep(lowered.local);
    uint64_t index = stats_of(&lowered).local_index_bytes;
    assert_true(index > 7 * (uint64_t)MIB);
    near__local_resize(lowered.local, 32 * (uint64_t)MIB, 0);
    near__local_resize(lowered.local, 16 * (uint64_t)MIB, 0);
    met = kept_meanwhile = 0;
    at_map = fill_meanwhile;
    near__local_keep(lowered.local);
    at_map = NULL;
    assert_true(stats_of(&lowered).local_index_bytes < index / 2);
    assert_true(met > 0);
    assert_int_equal(kept_meanwhile, 200 * met);
    assert_true(
        wait_until((near__local_keep(lowered.local), (int64_t)stats_of(&lowered).local_bytes <= 17 * MIB), 30000));
    assert_int_equal(atomic_load(&lowered.local->budget.max), 16 * MIB);
    fixture_close(&lowered);
}

/* ---------------------------------------------------------------- threads and the keeper */

static struct fixture shared;
static _Atomic(int) stop;
static _Atomic(uint64_t) hits, newest;

static void *reads(void *arg)
{
    uint64_t random = (uint64_t)(uintptr_t)arg;
    struct near__reader *reader = near__local_reader(shared.local);
    while (!atomic_load(&stop)) {
        uint64_t last = atomic_load(&newest);
        hits += (uint64_t)read_one(&shared, reader,
                                   last - near__random_below(&random, (uint32_t)(last < 20000 ? last + 1 : 20000)));
        if (near__random_below(&random, 50) == 0) {
            uint64_t k = last - near__random_below(&random, 100);
            near__local_invalidate(shared.local, &k, sizeof(k), k + 2, NEAR_CAUSE_MESSAGE);
        }
    }
    return NULL;
}

/* Entries are moved while they are read, pinned, replaced and removed. */
static void test_entries_may_be_moved_under_readers(void **state)
{
    pthread_t thread[2];
    uint64_t n = 0, random = test_seed();
    (void)state;
    fixture_init(&shared);
    shared.clock.virtual_ns = NULL;
    shared.config.bytes_max = 8 * (uint64_t)MIB;
    shared.config.policy = NEAR_POLICY_ADAPTIVE;
    shared.config.manual = 0;
    fixture_start(&shared);
    for (uintptr_t i = 0; i < 2; i++)
        pthread_create(&thread[i], NULL, reads, (void *)(i + 1));
    for (unsigned mix = 0; mix < SCALE(7, 2); mix++) {
        for (int64_t bytes = 0; bytes < SCALE(16, 8) * MIB; n++) {
            size_t size = size_in(mix, &random);
            bytes += (int64_t)size + 48;
            if (!fill_one(&shared, shared.reader, n, size) && near__local_has_no_room(shared.local, size))
                near__local_await_room(shared.local, 20);
            atomic_store(&newest, n);
            assert_true(atomic_load(&shared.local->budget.memory) <= 9 * MIB); /* whatever the keeper does meanwhile */
        }
        assert_true((int64_t)stats_of(&shared).local_bytes <= 9 * MIB);
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    assert_true(atomic_load(&hits) > 0);
    fixture_close(&shared);
}

static void find_one(void *arg, const struct near__entry *entry)
{
    *(const struct near__entry **)arg = entry;
}

/* Ten million entries would be ten million misses of the processor's caches. */
static void test_closing_reads_no_entry_of_the_arena(void **state)
{
    struct fixture f;
    const struct near__entry *entry = NULL;
    (void)state;
    fixture_open_sized(&f, 8 * (uint64_t)MIB);
    assert_true(put(&f, "k", "v", 1));
    for (uint64_t at = 0; (at = near__tier_walk(f.local, at, 64, find_one, &entry)) != 0;)
        ;
    assert_non_null(entry);
    void *chunk = (void *)((uintptr_t)entry & ~(uintptr_t)(NEAR_HUGE_PAGE - 1));
    assert_int_equal(mprotect(chunk, NEAR_HUGE_PAGE, PROT_NONE), 0); /* a read would end the program */
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes_hold_their_sizes_with_little_waste),
        cmocka_unit_test(test_an_entry_of_16_and_100_bytes_lies_in_one_pair_of_lines),
        cmocka_unit_test(test_blocks_do_not_overlap_and_all_come_back),
        cmocka_unit_test(test_what_is_held_stays_below_the_limit),
        cmocka_unit_test(test_chunks_are_few_mappings),
        cmocka_unit_test(test_F_changing_mixes_of_sizes_leave_no_holes),
        cmocka_unit_test(test_F_a_lowered_budget_gives_memory_back),
        cmocka_unit_test(test_pages_may_be_larger_than_slabs),
        cmocka_unit_test(test_empty_slabs_are_kept_while_there_is_work),
        cmocka_unit_test(test_small_pages_stay_small),
        cmocka_unit_test(test_F_without_huge_pages_all_is_counted_and_given_back),
        cmocka_unit_test(test_F_a_kernel_without_huge_pages_gets_its_memory_back),
        cmocka_unit_test(test_R52_the_kernel_may_refuse_memory),
        cmocka_unit_test(test_what_the_kernel_leaves_is_counted),
        cmocka_unit_test(test_R49_moved_entries_are_counted_once),
        cmocka_unit_test(test_R49_holes_do_not_refuse_fills_for_good),
        cmocka_unit_test(test_R49_large_entries_find_room_among_slabs),
        cmocka_unit_test(test_R49_an_exit_waits_for_nobody_who_fills),
        cmocka_unit_test(test_R49_a_slab_that_was_to_go_stays_for_who_finds_no_other),
        cmocka_unit_test(test_R49_nobody_waits_while_the_kernel_takes_memory_back),
        cmocka_unit_test(test_F_fills_go_on_while_the_index_becomes_smaller),
        cmocka_unit_test(test_entries_may_be_moved_under_readers),
        cmocka_unit_test(test_closing_reads_no_entry_of_the_arena),
    };
    make_pattern();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
