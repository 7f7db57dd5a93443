/* SPDX-License-Identifier: BSD-3-Clause
 * The pool of candidates against a plain list: who is the oldest, who is the youngest, who gets in.  Built twice, with vectors where
 * there are some and with loops. */
#include "local/local_fixture.h"

#include "base/random.h"
#include "local/candidates.h"
#include "support/seed.h"

struct model {
    struct near__candidate one[NEAR_CANDIDATES];
    unsigned count;
};

static unsigned age(uint16_t base, const struct near__candidate *one)
{
    return (uint16_t)(base - one->stamp);
}

static unsigned youngest_of(const struct model *m, uint16_t base)
{
    unsigned least = UINT16_MAX;
    for (unsigned i = 0; i < m->count; i++)
        least = age(base, &m->one[i]) < least ? age(base, &m->one[i]) : least;
    return least;
}

static unsigned oldest_of(const struct model *m, uint16_t base)
{
    unsigned most = 0;
    for (unsigned i = 0; i < m->count; i++)
        most = age(base, &m->one[i]) > most ? age(base, &m->one[i]) : most;
    return most;
}

static unsigned find(const struct model *m, uint64_t word, uint16_t stamp)
{
    unsigned i = 0;
    while (i < m->count && (m->one[i].word != word || m->one[i].stamp != stamp))
        i++;
    return i;
}

static void drop(struct model *m, unsigned i)
{
    m->one[i] = m->one[--m->count];
}

/* Which of several that are equally young had to go is the pool's to choose. */
static void follow(struct model *m, const struct near__candidates *pool, uint16_t base, unsigned least)
{
    for (unsigned i = 0; i < m->count; i++)
        if (age(base, &m->one[i]) == least && !near__candidates_has(pool, m->one[i].word, m->one[i].stamp)) {
            drop(m, i);
            return;
        }
    fail_msg("a pool that was full has lost none of its youngest");
}

static void add(struct near__candidates *pool, struct model *m, uint64_t random, uint16_t base)
{
    struct near__candidate one = {.slot = (_Atomic(uint64_t) *)(uintptr_t)(8 * (random % 64)), .word = 1 + random % 64};
    one.stamp = (uint16_t)(base - (random >> 8 & 1 ? (random >> 16) % 60000 : random >> 16 & 7));
    int bar = near__candidates_bar(pool, base);
    unsigned least = youngest_of(m, base);
    assert_int_equal(bar, m->count >= NEAR_CANDIDATES_FEW ? (int)least : -1);
    if ((int)age(base, &one) <= bar)
        return;
    int is_new = find(m, one.word, one.stamp) == m->count, was_full = m->count == NEAR_CANDIDATES;
    near__candidates_add(pool, one.slot, one.word, one.stamp, base);
    assert_true(near__candidates_has(pool, one.word, one.stamp));
    if (!is_new)
        return;
    if (was_full)
        follow(m, pool, base, least);
    m->one[m->count++] = one;
}

static void pick(struct near__candidates *pool, struct model *m, uint16_t base)
{
    struct near__candidate one;
    int any = near__candidates_pick(pool, base, &one);
    assert_int_equal(any, m->count > 0);
    if (!any)
        return;
    unsigned i = find(m, one.word, one.stamp);
    assert_true(i < m->count);
    assert_ptr_equal(one.slot, m->one[i].slot);
    assert_int_equal(age(base, &one), oldest_of(m, base));
    drop(m, i);
}

static void compare(const struct near__candidates *pool, const struct model *m)
{
    assert_int_equal(pool->count, m->count);
    assert_int_equal(__builtin_popcount(pool->used), m->count);
    for (unsigned i = 0; i < m->count; i++)
        assert_true(near__candidates_has(pool, m->one[i].word, m->one[i].stamp));
}

/* The tick goes on, and wraps; at times the pool runs dry, at others it is full for long. */
static void test_the_oldest_goes_and_the_youngest_makes_room(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    for (unsigned round = 0; round < 40; round++) {
        struct near__candidates pool;
        struct model m = {.count = 0};
        uint16_t base = (uint16_t)near__random_next(&random);
        near__candidates_clear(&pool);
        for (unsigned i = 0; i < 5000; i++) {
            uint64_t r = near__random_next(&random);
            if (r % 100 < 40 + 20 * (round % 3))
                add(&pool, &m, r >> 8, base);
            else
                pick(&pool, &m, base);
            compare(&pool, &m);
            base = (uint16_t)(base + (r >> 60 == 0)); /* slowly: no age passes the end of the numbers, as in a tier (order.h) */
        }
    }
}

/* Which of many stamps pass the bar, at every distance from it, around the wrap of the tick as well. */
static void test_stamps_that_are_older_than_the_bar_are_told(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    for (unsigned round = 0; round < 20000; round++) {
        _Alignas(16) uint16_t stamp[NEAR_STAMPS];
        uint64_t r = near__random_next(&random);
        uint16_t base = (uint16_t)r;
        int bar = (int)(r >> 16 & 1 ? r >> 20 & 0xffff : r >> 20 & 7);
        uint32_t expected = 0;
        for (unsigned i = 0; i < NEAR_STAMPS; i++) {
            uint64_t one = near__random_next(&random);
            unsigned back = (uint16_t)(one & 1 ? one >> 8 : (unsigned)bar + (one >> 8) % 5 - 2); /* far from it, or beside it */
            stamp[i] = (uint16_t)(base - back);
            expected |= (uint32_t)((int)back > bar) << i;
        }
        assert_int_equal(near__stamps_older(stamp, base, bar), expected);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stamps_that_are_older_than_the_bar_are_told),
        cmocka_unit_test(test_the_oldest_goes_and_the_youngest_makes_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
