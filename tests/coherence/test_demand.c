/* SPDX-License-Identifier: BSD-3-Clause
 * Values that travel only where somebody holds the key (demand.c): what makes a writer send them, and what makes it
 * stop.  That nothing of this can make a read wrong is for test_simulation.c, where half of the seeds send values
 * so. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coherence/process.h"
#include "coherence/proof.h"

enum { CREDIT = 16 }; /* as in demand.c */

struct stage {
    struct world world;
    struct process writer, reader, other;
    uint64_t value; /* the last one written */
};

static int set_up(void **state)
{
    struct stage *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    world_open(&s->world);
    s->world.options.message_value_max = 64; /* adaptive, by default */
    process_open(&s->writer, &s->world, 11);
    process_open(&s->reader, &s->world, 22);
    process_open(&s->other, &s->world, 33);
    process_prove(&s->writer);
    process_prove(&s->reader);
    process_prove(&s->other);
    *state = s;
    return 0;
}

static int tear_down(void **state)
{
    struct stage *s = *state;
    process_close(&s->writer);
    process_close(&s->reader);
    process_close(&s->other);
    world_close(&s->world);
    free(s);
    return 0;
}

static void set(struct stage *s, const char *key)
{
    process_set(&s->writer, key, ++s->value);
    process_settle(&s->reader);
    process_settle(&s->other);
}

/* 1 when the last write is here without a fetch. */
static int has(struct stage *s, struct process *p, const char *key)
{
    uint64_t found = 0;
    int hit = process_hit(p, key, &found);
    assert_true(!hit || found == s->value);
    return hit;
}

/* What was noted is reported with the next heartbeat, and heard. */
static void report(struct stage *s, struct process *p)
{
    process_prove(p);
    process_settle(&s->writer);
}

/* The key is held when it is written, and its writer hears of it. */
static void show_interest(struct stage *s, const char *key)
{
    assert_int_equal(process_fetch(&s->reader, key), s->value);
    set(s, key);
    report(s, &s->reader);
}

static void test_value_travels_once_somebody_held_the_key(void **state)
{
    struct stage *s = *state;
    set(s, "k");
    show_interest(s, "k");
    assert_false(has(s, &s->reader, "k"));
    assert_int_equal(process_fetch(&s->reader, "k"), s->value);
    for (int i = 0; i < CREDIT; i++) {
        set(s, "k");
        assert_true(has(s, &s->reader, "k"));
        assert_false(has(s, &s->other, "k")); /* who does not hold it is only told */
    }
    assert_int_equal(process_stats(&s->reader).messages_kept, CREDIT);
}

static void test_nothing_travels_while_nobody_holds_the_key(void **state)
{
    struct stage *s = *state;
    for (int i = 0; i < 100; i++) {
        set(s, "k");
        report(s, &s->reader);
        report(s, &s->other);
        assert_false(near__coherence_wants_value(s->writer.coherence, "k", 1));
    }
    assert_int_equal(atomic_load(&s->reader.coherence->demand.noted), 0);
}

/* It was held once and is written again and again, unread: at last the copy goes, and the values stay away. */
static void test_credit_ends_when_nobody_reads_any_more(void **state)
{
    struct stage *s = *state;
    set(s, "k");
    show_interest(s, "k");
    assert_int_equal(process_fetch(&s->reader, "k"), s->value);
    for (int i = 0; i <= CREDIT; i++)
        set(s, "k");
    assert_false(has(s, &s->reader, "k"));
    report(s, &s->reader); /* the copy that went was the last evidence */
    for (int i = 0; i < CREDIT; i++)
        set(s, "k");
    for (int i = 0; i < 10; i++) {
        report(s, &s->reader);
        assert_false(near__coherence_wants_value(s->writer.coherence, "k", 1));
        set(s, "k");
    }
}

/* Read once in a hundred writes: the values would cost more than the fetches. */
static void test_key_that_is_seldom_read_between_writes_does_not_count(void **state)
{
    struct stage *s = *state;
    set(s, "k");
    assert_int_equal(process_fetch(&s->reader, "k"), s->value);
    for (int i = 0; i < 100; i++)
        set(s, "k");
    report(s, &s->reader);
    assert_false(near__coherence_wants_value(s->writer.coherence, "k", 1));
}

/* Held at every one of ten writes: credit for all ten. */
static void test_credit_grows_with_the_evidence(void **state)
{
    struct stage *s = *state;
    set(s, "k");
    for (int i = 0; i < 10; i++) {
        assert_int_equal(process_fetch(&s->reader, "k"), s->value);
        set(s, "k");
    }
    report(s, &s->reader);
    int credit = 0;
    while (near__coherence_wants_value(s->writer.coherence, "k", 1))
        credit++;
    assert_int_equal(credit, 10 * CREDIT);
}

/* Each writer hears of its own writes only, and not of what it holds itself. */
static void test_report_goes_to_the_writer_alone(void **state)
{
    struct stage *s = *state;
    process_settle(&s->writer);
    set(s, "k");
    assert_int_equal(process_fetch(&s->writer, "k"), s->value);
    show_interest(s, "k");
    process_settle(&s->other);
    assert_int_equal(atomic_load(&s->writer.coherence->demand.noted), 0);
    assert_true(near__coherence_wants_value(s->writer.coherence, "k", 1));
    assert_false(near__coherence_wants_value(s->other.coherence, "k", 1));
    assert_false(near__coherence_wants_value(s->reader.coherence, "k", 1));
}

static void test_malformed_report_is_ignored(void **state)
{
    struct stage *s = *state;
    static const unsigned char report[2 * NEAR_MESSAGE_HELD] = {1, 0, 0, 0, 1, 0, 2, 0, 0, 0, 1, 0};
    for (size_t size = 0; size < sizeof(report); size++)
        if (size % NEAR_MESSAGE_HELD != 0)
            near__demand_heard(s->writer.coherence, report, size);
    for (size_t i = 0; i < NEAR_DEMAND_STRIPES; i++)
        assert_int_equal(atomic_load(&s->writer.coherence->demand.credit[i]), 0);
    near__demand_heard(s->writer.coherence, report, sizeof(report));
    assert_int_equal(atomic_load(&s->writer.coherence->demand.credit[1]), CREDIT);
    assert_int_equal(atomic_load(&s->writer.coherence->demand.credit[2]), CREDIT);
}

/* More writers and keys than a report has room for: each heartbeat takes some, and nothing is noted for ever. */
static void test_notes_are_handed_over_in_turn(void **state)
{
    struct stage *s = *state;
    static struct near__demand_report reports[NEAR_DEMAND_REPORTS];
    struct near__coherence *c = s->reader.coherence;
    for (uint32_t i = 0; i < 4000; i++)
        near__demand_note(c, 1 + i % 10, &i, sizeof(i), 1);
    unsigned noted = atomic_load(&c->demand.noted);
    assert_true(noted > NEAR_DEMAND_NOTES / 2 && noted <= NEAR_DEMAND_NOTES);
    size_t writers = 0, bytes = 0;
    for (size_t count; (count = near__demand_take_locked(c, reports, NEAR_DEMAND_REPORTS)) != 0; writers += count)
        for (size_t i = 0; i < count; i++)
            bytes += reports[i].size;
    assert_int_equal(writers, 10);
    assert_int_equal(bytes, noted * NEAR_MESSAGE_HELD);
    assert_int_equal(atomic_load(&c->demand.noted), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_value_travels_once_somebody_held_the_key),
        TEST(test_nothing_travels_while_nobody_holds_the_key),
        TEST(test_credit_ends_when_nobody_reads_any_more),
        TEST(test_key_that_is_seldom_read_between_writes_does_not_count),
        TEST(test_credit_grows_with_the_evidence),
        TEST(test_report_goes_to_the_writer_alone),
        TEST(test_malformed_report_is_ignored),
        TEST(test_notes_are_handed_over_in_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
