/* SPDX-License-Identifier: BSD-3-Clause
 * Looks at buckets, and copies, with each width that this processor has. */
#include "local/local_fixture.h"

#include <sys/mman.h>

#include "base/random.h"
#include "local/hit.h"
#include "local/wide_registers.h"
#include "support/seed.h"

static int has(int width)
{
#ifdef NEAR_WIDE_LINES
    if (width == NEAR_WIDTH_LINE)
        return __builtin_cpu_supports("avx512bw") != 0;
    if (width == NEAR_WIDTH_HALF)
        return __builtin_cpu_supports("avx2") != 0;
#endif
    return width == NEAR_WIDTH_ANY;
}

static const int widths[] = {NEAR_WIDTH_ANY, NEAR_WIDTH_HALF, NEAR_WIDTH_LINE};
enum { WIDTHS = sizeof(widths) / sizeof(widths[0]) };

static uint64_t look(const struct near__bucket *bucket, uint64_t tag, int width)
{
    switch (width) { /* each with a constant, as the hit path has it */
    case NEAR_WIDTH_LINE:
        return near__bucket_look(bucket, tag, NEAR_WIDTH_LINE);
    case NEAR_WIDTH_HALF:
        return near__bucket_look(bucket, tag, NEAR_WIDTH_HALF);
    default:
        return near__bucket_look(bucket, tag, NEAR_WIDTH_ANY);
    }
}

static uint64_t look_slowly(const struct near__bucket *bucket, uint64_t tag)
{
    for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++) {
        uint64_t word = atomic_load(&bucket->slot[i]);
        if (near__word_tag(word) == (uint16_t)tag)
            return word;
    }
    return 0;
}

/* Words in which the tag stands where tags are, or elsewhere, or not at all; tags with each bit, and with none, for
 * which a look says an empty slot or nothing; a tag with a hash above it. */
static void test_each_width_finds_the_first_word_of_the_tag(void **state)
{
    (void)state;
    static struct near__bucket bucket;
    uint64_t random = test_seed(), found = 0;
    for (int round = 0; round < 200000; round++) {
        uint64_t tag = near__random_below(&random, 4) ? near__random_next(&random) & 0xffff
                                                      : near__random_below(&random, 3) * 0x7fff;
        for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++) {
            uint64_t word = near__random_next(&random) >> 16, kind = near__random_below(&random, 8);
            if (kind == 0)
                word |= tag << NEAR_WORD_TAG_SHIFT;
            else if (kind < 4)
                word = (tag * 0x100010001u & NEAR_WORD_POINTER) | (tag ^ 1u << kind) << NEAR_WORD_TAG_SHIFT;
            else if (kind < 6)
                word |= near__random_next(&random) << NEAR_WORD_TAG_SHIFT;
            atomic_store(&bucket.slot[i], kind == 6 ? 0 : word);
        }
        uint64_t expected = look_slowly(&bucket, tag), hash = near__random_next(&random) << 16 | tag;
        for (int i = 0; i < WIDTHS; i++)
            if (has(widths[i]))
                assert_int_equal(look(&bucket, hash, widths[i]), expected);
        found += expected != 0;
    }
    assert_in_range(found, 1000, 199999);
}

static int copy(void *to, const void *from, size_t size, int width)
{
    switch (width) {
    case NEAR_WIDTH_LINE:
        return near__copy(to, from, size, NEAR_WIDTH_LINE);
    case NEAR_WIDTH_HALF:
        return near__copy(to, from, size, NEAR_WIDTH_HALF);
    default:
        return near__copy(to, from, size, NEAR_WIDTH_ANY);
    }
}

/* Two pages, and nothing before and behind them. */
static unsigned char *fenced_pages(size_t page)
{
    unsigned char *at = mmap(NULL, 4 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(at != MAP_FAILED);
    assert_int_equal(mprotect(at + page, 2 * page, PROT_READ | PROT_WRITE), 0);
    return at + page;
}

static void expect_copied(unsigned char *to, const unsigned char *from, size_t size, int width)
{
    memset(to, 0x55, size);
    assert_int_equal(copy(to, from, size, width), size <= NEAR_COPY_MAX);
    if (size <= NEAR_COPY_MAX)
        assert_memory_equal(to, from, size);
}

/* Of each size, at both ends of memory that one may touch. */
static void test_each_width_copies_what_it_is_told_and_touches_no_more(void **state)
{
    (void)state;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), all = 2 * page;
    unsigned char *from = fenced_pages(page), *to = fenced_pages(page);
    for (size_t i = 0; i < all; i++)
        from[i] = (unsigned char)(i * 131 >> 3);
    for (int i = 0; i < WIDTHS; i++)
        for (size_t size = 0; has(widths[i]) && size <= NEAR_COPY_MAX + 1; size++) {
            to[size] = 0xaa;
            expect_copied(to, from + all - size, size, widths[i]);
            assert_int_equal(to[size], 0xaa);
            to[all - size - 1] = 0xaa;
            expect_copied(to + all - size, from, size, widths[i]);
            assert_int_equal(to[all - size - 1], 0xaa);
        }
    munmap(from - page, 4 * page);
    munmap(to - page, 4 * page);
}

/* The assembler cleans up behind itself, and a compiler that uses wide registers must know of it. */
static void test_wide_registers_keep_what_they_hold(void **state)
{
    (void)state;
    static struct near__bucket bucket;
    static const uint64_t numbers[4] = {1, 2, 4, 6}, expected[4] = {2, 3, 5, 7};
    unsigned char from[128] = {1}, to[128];
    uint64_t after[4];
    if (!has(NEAR_WIDTH_HALF) || !wide_registers_are_used())
        skip();
    wide_numbers_across_look(&bucket, 1, numbers, after);
    assert_memory_equal(after, expected, sizeof(expected));
    wide_numbers_across_copy(to, from, sizeof(to), numbers, after);
    assert_memory_equal(after, expected, sizeof(expected));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_width_finds_the_first_word_of_the_tag),
        cmocka_unit_test(test_each_width_copies_what_it_is_told_and_touches_no_more),
        cmocka_unit_test(test_wide_registers_keep_what_they_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
