/* SPDX-License-Identifier: BSD-3-Clause
 * What is told of whole buckets at once: which entries are old enough to go, and that a key is in none of its
 * places. */
#include "local/local_fixture.h"

#include "base/random.h"
#include "local/glance.h"
#include "support/seed.h"

/* ---------------------------------------------------------------- old enough */

#define ERA NEAR_ENTRY_ERA_STEP
#define PLAIN (UINT64_C(1000) << NEAR_HEAD_SHIFT)

static uint64_t memory[NEAR_BUCKET_SLOTS][4]; /* of an entry each */
static struct near__bucket bucket;

static struct near__entry *entry_of(unsigned slot)
{
    return (struct near__entry *)(void *)memory[slot];
}

static void set_slot(unsigned i, uint64_t head, uint16_t stamp, uint64_t flags)
{
    atomic_store(&entry_of(i)->head, head);
    atomic_store(&entry_of(i)->access, stamp);
    atomic_store(&bucket.slot[i], (uint64_t)(uintptr_t)entry_of(i) | flags | UINT64_C(0xabcd) << NEAR_WORD_TAG_SHIFT);
}

static unsigned bits_slowly(uint16_t base, uint16_t bar)
{
    unsigned old = 0;
    for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++)
        if (atomic_load(&bucket.slot[i]) & NEAR_WORD_VISIBLE &&
            (uint16_t)(base - atomic_load(&entry_of(i)->access)) >= bar)
            old |= 1u << i;
    return old;
}

/* Ages of all sizes, equal to the bar among them, and slots without an entry. */
static void test_a_glance_tells_what_a_look_at_each_tells(void **state)
{
    (void)state;
    uint64_t random = test_seed(), found = 0;
    for (int round = 0; round < 100000; round++) {
        uint16_t base = (uint16_t)near__random_next(&random),
                 bar = (uint16_t)(1 + near__random_below(&random, UINT16_MAX));
        for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++) {
            uint64_t kind = near__random_below(&random, 4),
                     head = PLAIN + (near__random_below(&random, 1u << 20) << NEAR_HEAD_SHIFT);
            uint16_t age = (uint16_t)(near__random_below(&random, 3) ? near__random_next(&random)
                                                                     : bar - 1 + near__random_below(&random, 3));
            set_slot(i, head | ERA | 16, (uint16_t)(base - age), kind ? NEAR_WORD_VISIBLE : 0);
            if (kind == 1)
                atomic_store(&bucket.slot[i], 0);
        }
        assert_int_equal(near__glance(&bucket, ERA, PLAIN, base, bar), bits_slowly(base, bar));
        found += bits_slowly(base, bar) != 0;
    }
    assert_in_range(found, 1000, 99999);
}

/* Each slot by itself, beside plain ones. */
static void expect_odd(uint64_t head)
{
    for (unsigned odd = 0; odd < NEAR_BUCKET_SLOTS; odd++) {
        for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++)
            set_slot(i, PLAIN | ERA | 16, 0, NEAR_WORD_VISIBLE);
        assert_int_equal(near__glance(&bucket, ERA, PLAIN, 50, 100), 0);
        set_slot(odd, head, 0, NEAR_WORD_VISIBLE);
        assert_int_equal(near__glance(&bucket, ERA, PLAIN, 50, 100), NEAR_GLANCE_ODD);
        set_slot(odd, head, 0, 0); /* tentative: nobody's yet */
        assert_int_equal(near__glance(&bucket, ERA, PLAIN, 50, 100), 0);
    }
}

static void test_a_glance_tells_when_age_is_not_all(void **state)
{
    (void)state;
    expect_odd(PLAIN | 2 * ERA | 16); /* another era */
    expect_odd(PLAIN | 16);           /* likewise, none of whose bits is set */
    expect_odd(PLAIN | ERA | NEAR_ENTRY_EXPIRES | NEAR_ENTRY_PREFIX | 16);
    expect_odd((PLAIN - (UINT64_C(1) << NEAR_HEAD_SHIFT)) | ERA | 16); /* forsaken */
}

static void test_bits_are_counted_by_byte(void **state)
{
    (void)state;
    for (unsigned x = 0; x <= UINT16_MAX; x++)
        assert_int_equal(near__count_bits(x),
                         (unsigned)__builtin_popcount(x >> 8) << 8 | (unsigned)__builtin_popcount(x & 0xff));
}

/* ---------------------------------------------------------------- nowhere */

static struct near__bucket table[2][NEAR_PLACES] __attribute__((aligned(NEAR_GROUP_SIZE)));

/* A word with the key's tag in each slot of each place, visible and tentative. */
static void test_a_key_is_somewhere_if_its_tag_is_in_one_of_its_places(void **state)
{
    (void)state;
    struct near__tables tables = {
        .spans = 1, .span = {{.bucket = table[0], .count = NEAR_PLACES}, {.bucket = table[1], .count = NEAR_PLACES}}};
    struct near__index index = {.secrets = near__secrets(7)};
    atomic_store(&index.tables, &tables);
    const char *key = "a key of 20 or so";
    uint64_t hash = near__hash_short(key, 12, &index.secrets);
    assert_true(near__index_is_nowhere(&index, key, 12));
    for (unsigned b = 0; b < NEAR_PLACES; b++)
        for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++)
            for (uint64_t flags = 0; flags <= NEAR_WORD_VISIBLE; flags++) {
                _Atomic(uint64_t) *slot = &table[0][b].slot[i];
                atomic_store(slot, near__hash_tag(hash) << NEAR_WORD_TAG_SHIFT | 64 | flags);
                assert_false(near__index_is_nowhere(&index, key, 12));
                atomic_store(slot, (near__hash_tag(hash) ^ 1) << NEAR_WORD_TAG_SHIFT | 64 | flags);
                assert_true(near__index_is_nowhere(&index, key, 12));
                atomic_store(slot, 0);
            }
    tables.spans = 2; /* it may be in the other table */
    assert_false(near__index_is_nowhere(&index, key, 12));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_glance_tells_what_a_look_at_each_tells),
        cmocka_unit_test(test_a_glance_tells_when_age_is_not_all),
        cmocka_unit_test(test_bits_are_counted_by_byte),
        cmocka_unit_test(test_a_key_is_somewhere_if_its_tag_is_in_one_of_its_places),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
