/* SPDX-License-Identifier: BSD-3-Clause
 * The hands of eviction: where they go, and how their thresholds find the age that one entry in so many has. */
#include "local/local_fixture.h"

#include <stdlib.h>

#include "base/random.h"
#include "local/hand.h"
#include "support/seed.h"

/* ---------------------------------------------------------------- stretches */

/* Buckets are only pointed to, never read. */
static struct near__tables make_tables(uint64_t first, uint64_t second)
{
    struct near__tables tables = {.spans = second ? 2 : 1};
    const uint64_t counts[] = {first, second};
    for (unsigned t = 0; t < tables.spans; t++) {
        tables.span[t].count = counts[t];
        tables.span[t].bucket = aligned_alloc(64, counts[t] * sizeof(struct near__bucket));
        assert_non_null(tables.span[t].bucket);
    }
    return tables;
}

static void free_tables(struct near__tables *tables)
{
    for (unsigned t = 0; t < tables->spans; t++)
        free(tables->span[t].bucket);
}

static unsigned table_of(const struct near__tables *tables, const struct near__bucket *bucket)
{
    const struct near__span *span = &tables->span[0];
    return bucket >= span->bucket && bucket < span->bucket + span->count ? 0 : 1;
}

static void one_round(const struct near__tables *tables, uint64_t from)
{
    struct near__course course = near__course_of(tables);
    unsigned char *seen[2] = {calloc(tables->span[0].count, 1), calloc(tables->span[1].count + 1, 1)};
    for (uint64_t claim = from; claim < from + course.stretches; claim++) {
        struct near__bucket *end, *bucket = near__course_claim(&course, tables, claim, &end);
        unsigned t = table_of(tables, bucket);
        assert_in_range(end - bucket, NEAR_HAND_LINE, NEAR_STRETCH);
        for (; bucket < end; bucket++) {
            assert_true(bucket < tables->span[t].bucket + tables->span[t].count);
            assert_int_equal(seen[t][bucket - tables->span[t].bucket]++, 0);
        }
    }
    for (unsigned t = 0; t < tables->spans; t++)
        for (uint64_t b = 0; b < tables->span[t].count; b++)
            assert_int_equal(seen[t][b], 1);
    free(seen[0]);
    free(seen[1]);
}

static void test_every_bucket_is_claimed_once_in_a_round(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    for (unsigned i = 0; i < 200; i++) {
        uint64_t first = 64 + NEAR_PLACES * near__random_below(&random, 3000);
        uint64_t second = i % 2 ? 64 + NEAR_PLACES * near__random_below(&random, 3000) : 0;
        struct near__tables tables = make_tables(first, second);
        one_round(&tables, 0);
        one_round(&tables, near__random_next(&random) >> 16); /* anywhere: a round has no beginning */
        free_tables(&tables);
    }
}

/* Claims in a row that are in the same half of so many stretches. */
static unsigned most_in_a_row(const struct near__tables *tables, uint64_t stretches)
{
    struct near__course course = near__course_of(tables);
    const struct near__bucket *middle = tables->span[0].bucket + (stretches + 1) / 2 * NEAR_STRETCH;
    unsigned in_a_row = 0, most = 0;
    int was_upper = -1;
    assert_int_equal(course.stretches, stretches);
    for (uint64_t claim = 0; claim < 2 * stretches; claim++) {
        struct near__bucket *end;
        int is_upper = near__course_claim(&course, tables, claim, &end) >= middle;
        in_a_row = is_upper == was_upper ? in_a_row + 1 : 1;
        was_upper = is_upper;
        most = in_a_row > most ? in_a_row : most;
    }
    return most;
}

/* A migration empties one half first: who meets nothing there is soon in the other. */
static void test_claims_do_not_stay_in_one_half(void **state)
{
    (void)state;
    const uint64_t largest = 1000;
    struct near__tables tables = make_tables(largest * NEAR_STRETCH, 0);
    for (uint64_t stretches = 2; stretches <= largest; stretches++) {
        tables.span[0].count = stretches * NEAR_STRETCH;
        assert_in_range(most_in_a_row(&tables, stretches), 1, 8); /* of 32 that an eviction may look at: evict.c */
    }
    free_tables(&tables);
}

static void test_what_is_ahead_goes_on_in_the_next_stretch(void **state)
{
    (void)state;
    static struct near__bucket bucket[2 * NEAR_STRETCH];
    struct near__hand hand = {.bucket = bucket, .end = bucket + NEAR_STRETCH};
    hand.next = bucket + NEAR_STRETCH + NEAR_STRETCH / 2;
    hand.next_end = hand.next + NEAR_PLACES;
    for (; hand.bucket < hand.end; hand.bucket++)
        for (unsigned i = 1; i <= NEAR_HAND_LINE; i++) {
            struct near__bucket *plain = hand.bucket + i;
            assert_ptr_equal(near__hand_ahead(&hand, i), plain < hand.end ? plain : hand.next + (plain - hand.end));
        }
}

/* ---------------------------------------------------------------- thresholds */

/* Looks at entries of ages from 0 to `most` ticks, each as likely, as evict.c does, for so many evictions.  How many it
 * looked at for each, and which threshold it had: means, as both go up and down. */
struct looks {
    double looked, age;
};
static struct looks look(struct near__hand *hand, uint64_t *random, uint32_t most, unsigned one_in, unsigned evictions)
{
    uint64_t all = 0, ages = 0;
    for (unsigned i = 0; i < evictions; i++) {
        unsigned looked = 0;
        int was_old = 0;
        while (looked < 4 * one_in && !was_old) {
            looked++;
            was_old = near__random_below(random, most + 1) >= hand->threshold >> NEAR_THRESHOLD_SHIFT;
        }
        near__hand_steer(hand, looked, was_old, one_in);
        all += looked;
        ages += hand->threshold >> NEAR_THRESHOLD_SHIFT;
    }
    return (struct looks){(double)all / evictions, (double)ages / evictions / most};
}

static void find(uint64_t *random, uint32_t from, uint32_t most, unsigned one_in)
{
    struct near__hand hand = {.threshold = from};
    const unsigned evictions = 20000;
    look(&hand, random, most, one_in, 4000);
    struct looks mean = look(&hand, random, most, one_in, evictions);
    assert_true(mean.looked > 0.9 * one_in && mean.looked < 1.1 * one_in);
    assert_true(mean.age > 1 - 1.0 / one_in - 0.1 && mean.age < 1);
}

static void test_the_threshold_finds_the_age_of_one_in_so_many(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    static const uint32_t most[] = {40, 1024, 60000};
    static const unsigned one_in[] = {6, 8, 16};
    for (unsigned m = 0; m < 3; m++)
        for (unsigned o = 0; o < 3; o++) {
            find(&random, 0, most[m], one_in[o]);
            find(&random, most[m] << NEAR_THRESHOLD_SHIFT, most[m], one_in[o]);
            find(&random, NEAR_THRESHOLD_MAX, most[m], one_in[o]);
        }
}

static void test_the_threshold_stays_within_its_bounds(void **state)
{
    (void)state;
    struct near__hand hand = {.threshold = 0};
    near__hand_steer(&hand, 64, 0, 16);
    assert_int_equal(hand.threshold, 0);
    for (unsigned i = 0; i < 100000; i++)
        near__hand_steer(&hand, 1, 1, 16);
    assert_int_equal(hand.threshold, NEAR_THRESHOLD_MAX);
    for (unsigned i = 0; i < 1000; i++)
        near__hand_steer(&hand, 24, 0, 6);
    assert_true(hand.threshold < 512);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_bucket_is_claimed_once_in_a_round),
        cmocka_unit_test(test_claims_do_not_stay_in_one_half),
        cmocka_unit_test(test_what_is_ahead_goes_on_in_the_next_stretch),
        cmocka_unit_test(test_the_threshold_finds_the_age_of_one_in_so_many),
        cmocka_unit_test(test_the_threshold_stays_within_its_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
