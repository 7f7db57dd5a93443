/* SPDX-License-Identifier: BSD-3-Clause
 * The checks of conformance.h; linked with conformance_memory.c or conformance_redis.c. */
#include "memory/conformance.h"
#include <stdlib.h>

#define SUBJECT                                                                                                        \
    struct subject *subject = *state;                                                                                  \
    if (!subject)                                                                                                      \
        skip();                                                                                                        \
    struct side *a = &subject->a;                                                                                      \
    struct side *b = &subject->b;                                                                                      \
    (void)a;                                                                                                           \
    (void)b;

/* Runs a write without a value and returns its status. */
static int act(struct side *s, enum near__operation operation, const char *key, struct near__request *ret)
{
    *ret = side_request(operation, key);
    return side_run(s, ret);
}

static int set_flags(struct side *s, const char *key, const char *value, uint32_t flags, int64_t ttl_ms,
                     struct near__request *ret)
{
    *ret = side_set_request(key, value);
    ret->flags = flags;
    ret->ttl_ms = ttl_ms;
    return side_run(s, ret);
}

static int incr(struct side *s, const char *key, int64_t delta, struct near__request *ret)
{
    *ret = side_request(NEAR_OP_INCR, key);
    ret->number = delta;
    return side_run(s, ret);
}

static int cas(struct side *s, const char *key, const char *expected, const char *value, uint32_t flags, int64_t ttl_ms,
               struct near__request *ret)
{
    *ret = side_set_request(key, value);
    ret->operation = NEAR_OP_CAS;
    ret->expected = expected;
    ret->expected_size = strlen(expected);
    ret->flags = flags;
    ret->ttl_ms = ttl_ms;
    return side_run(s, ret);
}

static int expire(struct side *s, const char *key, int64_t ttl_ms, struct near__request *ret)
{
    *ret = side_request(NEAR_OP_EXPIRE, key);
    ret->ttl_ms = ttl_ms;
    return side_run(s, ret);
}

static int prove(struct side *s, const char *private_name, int64_t nonce, uint64_t known, struct near__request *ret)
{
    *ret = (struct near__request){.operation = NEAR_OP_PROVE,
                                  .number = nonce,
                                  .known = known,
                                  .body = private_name,
                                  .body_size = strlen(private_name)};
    return side_run(s, ret);
}

/* The time to live that a read reports; -2: a miss. */
static int64_t ttl_of(struct side *s, const char *key)
{
    struct near__request q = side_request(NEAR_OP_FETCH, key);
    if (side_run(s, &q) == NEAR_MISS)
        return -2;
    assert_int_equal(q.status, NEAR_OK);
    near__free(&s->alloc, q.value_out);
    return q.ttl_left_ms;
}

static void assert_ttl(int64_t ttl_ms, int64_t expected_ms)
{
    assert_in_range(ttl_ms, expected_ms - 20000, expected_ms); /* a slow machine may take its time */
}

static uint64_t position_of(struct side *s)
{
    struct near__request q;
    act(s, NEAR_OP_FETCH, "no such key", &q);
    assert_int_equal(q.status, NEAR_MISS);
    assert_int_equal(q.inexact, 0);
    return q.position;
}

static void becomes_miss(struct subject *subject, const char *key)
{
    for (int i = 0; i < 3000 && ttl_of(&subject->a, key) != -2; i++)
        subject->pass_ms(subject, 10);
    side_expect(&subject->a, key, NULL);
}

/* ---------------------------------------------------------------- values */

static void test_what_is_written_is_read_by_everybody(void **state)
{
    SUBJECT;
    static const char nasty[] = "\0\r\n$-1\r\n*0\r\n\xff\xfe 100%";
    struct near__request q;
    side_expect(a, "k", NULL);
    side_set(a, "k", "v");
    side_expect(a, "k", "v");
    side_expect(b, "k", "v");
    side_set(b, "k", "");
    side_expect(a, "k", "");
    side_set(a, "", "the empty key");
    side_expect(b, "", "the empty key");
    q = (struct near__request){.operation = NEAR_OP_SET,
                               .key = nasty,
                               .key_size = sizeof nasty,
                               .value = nasty,
                               .value_size = sizeof nasty,
                               .body = nasty,
                               .body_size = sizeof nasty};
    assert_int_equal(side_run(a, &q), NEAR_OK);
    q.operation = NEAR_OP_FETCH;
    assert_int_equal(side_run(b, &q), NEAR_OK);
    assert_int_equal(q.value_out_size, sizeof nasty);
    assert_memory_equal(q.value_out, nasty, sizeof nasty);
    near__free(&b->alloc, q.value_out);
}

static void test_large_keys_and_values_pass_unchanged(void **state)
{
    SUBJECT;
    size_t size = (size_t)3 << 20;
    char *bytes = malloc(size);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)(i * 2654435761u >> 13);
    struct near__request q = {.operation = NEAR_OP_SET,
                              .key = bytes,
                              .key_size = NEAR_KEY_MAX,
                              .value = bytes,
                              .value_size = size,
                              .body = "b",
                              .body_size = 1};
    assert_int_equal(side_run(a, &q), NEAR_OK);
    q.operation = NEAR_OP_FETCH;
    assert_int_equal(side_run(b, &q), NEAR_OK);
    assert_int_equal(q.value_out_size, size);
    assert_int_equal(memcmp(q.value_out, bytes, size), 0);
    near__free(&b->alloc, q.value_out);
    free(bytes);
}

static void test_J_value_far_above_value_max_is_refused_and_the_next_read_is_fine(void **state)
{
    SUBJECT;
    size_t size = (size_t)3 << 20; /* the Redis side needs some room for messages, so "far" */
    char *value = malloc(size + 1);
    memset(value, 'x', size);
    value[size] = 0;
    side_set(a, "big", value);
    side_set(a, "small", "s");
    struct near__request q;
    assert_int_equal(act(&subject->small, NEAR_OP_FETCH, "big", &q), NEAR_ERR_TOO_LARGE);
    assert_null(q.value_out);
    side_expect(&subject->small, "small", "s");
    side_expect(a, "big", value);
    free(value);
}

static void test_prefix_is_a_part_of_the_key_and_nothing_more(void **state)
{
    SUBJECT;
    side_set(a, "k", "mine");
    side_expect(&subject->other, "k", NULL);
    side_expect(&subject->other, CONFORMANCE_PREFIX "k", "mine");
    side_set(&subject->other, CONFORMANCE_PREFIX "k", "yours");
    side_expect(a, "k", "yours");
}

static void test_R35_foreign_writes_are_seen_and_not_numbered(void **state)
{
    SUBJECT;
    uint64_t position = side_set(a, "k", "v");
    subject->foreign_set(subject, CONFORMANCE_PREFIX "k", "foreign", 7);
    side_expect(a, "k", "foreign");
    assert_int_equal(position_of(a), position);
}

/* ---------------------------------------------------------------- conditions */

static void test_set_if_absent_and_if_present(void **state)
{
    SUBJECT;
    struct near__request q;
    assert_int_equal(set_flags(a, "k", "x", NEAR_SET_IF_PRESENT, 0, &q), NEAR_UNMET);
    side_expect(a, "k", NULL);
    assert_int_equal(set_flags(a, "k", "one", NEAR_SET_IF_ABSENT, 0, &q), NEAR_OK);
    assert_int_equal(set_flags(b, "k", "two", NEAR_SET_IF_ABSENT, 0, &q), NEAR_UNMET);
    assert_int_equal(q.ttl_left_ms, -1);
    side_expect(a, "k", "one");
    assert_int_equal(set_flags(b, "k", "three", NEAR_SET_IF_PRESENT, 0, &q), NEAR_OK);
    side_expect(a, "k", "three");
}

static void test_compare_and_set(void **state)
{
    SUBJECT;
    struct near__request q;
    assert_int_equal(cas(a, "k", "", "x", 0, 0, &q), NEAR_MISS);
    side_set(a, "k", "one");
    assert_int_equal(cas(a, "k", "on", "x", 0, 0, &q), NEAR_UNMET);
    assert_int_equal(cas(a, "k", "one ", "x", 0, 0, &q), NEAR_UNMET);
    assert_int_equal(cas(a, "k", "one", "", 0, 0, &q), NEAR_OK);
    side_expect(b, "k", "");
    assert_int_equal(cas(b, "k", "", "three", 0, 0, &q), NEAR_OK);
    side_expect(a, "k", "three");
}

static void test_del_says_whether_there_was_something(void **state)
{
    SUBJECT;
    struct near__request q;
    assert_int_equal(act(a, NEAR_OP_DEL, "k", &q), NEAR_MISS);
    side_set(a, "k", "v");
    assert_int_equal(act(b, NEAR_OP_DEL, "k", &q), NEAR_OK);
    side_expect(a, "k", NULL);
    assert_int_equal(act(a, NEAR_OP_DEL, "k", &q), NEAR_MISS);
}

/* ---------------------------------------------------------------- counters */

static void test_incr_counts_from_nothing_and_both_ways(void **state)
{
    SUBJECT;
    struct near__request q;
    assert_int_equal(incr(a, "n", 5, &q), NEAR_OK);
    assert_int_equal(q.result_number, 5);
    assert_int_equal(q.ttl_left_ms, -1);
    assert_int_equal(incr(b, "n", -7, &q), NEAR_OK);
    assert_int_equal(q.result_number, -2);
    side_expect(a, "n", "-2");
    assert_int_equal(incr(b, "n", 0, &q), NEAR_OK);
    assert_int_equal(q.result_number, -2);
    side_set(a, "n", "9223372036854775806");
    assert_int_equal(incr(a, "n", 1, &q), NEAR_OK);
    assert_true(q.result_number == INT64_MAX);
    side_expect(a, "n", "9223372036854775807");
    side_set(a, "n", "-9007199254740993"); /* not a double */
    assert_int_equal(incr(a, "n", -1, &q), NEAR_OK);
    assert_true(q.result_number == INT64_C(-9007199254740994));
    assert_int_equal(incr(a, "max", INT64_MAX, &q), NEAR_OK);
    assert_true(q.result_number == INT64_MAX);
    assert_int_equal(incr(a, "min", INT64_MIN, &q), NEAR_OK);
    assert_true(q.result_number == INT64_MIN);
}

static void test_incr_refuses_what_is_no_integer_and_what_overflows(void **state)
{
    SUBJECT;
    static const char *const bad[] = {"",
                                      " 1",
                                      "1 ",
                                      "+1",
                                      "01",
                                      "-0",
                                      "-",
                                      "1.0",
                                      "1e3",
                                      "abc",
                                      "0x10",
                                      "9223372036854775808",
                                      "-9223372036854775809",
                                      "99999999999999999999999999"};
    struct near__request q;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint64_t position = side_set(a, "n", bad[i]);
        assert_int_equal(incr(a, "n", 1, &q), NEAR_ERR_OVERFLOW);
        side_expect(a, "n", bad[i]);
        assert_int_equal(position_of(a), position);
    }
    side_set(a, "n", "9223372036854775807");
    assert_int_equal(incr(a, "n", 1, &q), NEAR_ERR_OVERFLOW);
    side_set(a, "n", "-9223372036854775808");
    assert_int_equal(incr(a, "n", -1, &q), NEAR_ERR_OVERFLOW);
    assert_int_equal(incr(a, "n", INT64_MIN, &q), NEAR_ERR_OVERFLOW);
    side_expect(a, "n", "-9223372036854775808");
    assert_int_equal(incr(a, "n", INT64_MAX, &q), NEAR_OK);
    assert_int_equal(q.result_number, -1);
}

/* ---------------------------------------------------------------- time to live */

static void test_G_time_to_live_is_reported_and_ends(void **state)
{
    SUBJECT;
    struct near__request q;
    assert_int_equal(set_flags(a, "long", "v", 0, 100000, &q), NEAR_OK);
    assert_ttl(q.ttl_left_ms, 100000);
    assert_ttl(ttl_of(b, "long"), 100000);
    assert_int_equal(set_flags(a, "short", "v", 0, 30, &q), NEAR_OK);
    becomes_miss(subject, "short");
    assert_int_equal(act(a, NEAR_OP_DEL, "short", &q), NEAR_MISS);
    assert_int_equal(set_flags(a, "short", "v", NEAR_SET_IF_ABSENT, 0, &q), NEAR_OK);
    assert_int_equal(ttl_of(a, "short"), -1);
    assert_int_equal(set_flags(a, "far", "v", 0, INT64_C(3153600000000), &q), NEAR_OK); /* a hundred years */
    assert_ttl(ttl_of(a, "far"), INT64_C(3153600000000));
}

static void test_set_drops_the_time_to_live_unless_told_to_keep_it(void **state)
{
    SUBJECT;
    struct near__request q;
    set_flags(a, "k", "v", 0, 100000, &q);
    assert_int_equal(set_flags(b, "k", "w", NEAR_SET_KEEP_TTL, 0, &q), NEAR_OK);
    assert_ttl(q.ttl_left_ms, 100000);
    assert_ttl(ttl_of(a, "k"), 100000);
    assert_int_equal(set_flags(b, "k", "x", NEAR_SET_KEEP_TTL | NEAR_SET_IF_PRESENT, 0, &q), NEAR_OK);
    assert_ttl(ttl_of(a, "k"), 100000);
    side_expect(a, "k", "x");
    assert_int_equal(set_flags(b, "k", "y", 0, 0, &q), NEAR_OK);
    assert_int_equal(q.ttl_left_ms, -1);
    assert_int_equal(ttl_of(a, "k"), -1);
    assert_int_equal(set_flags(b, "new", "v", NEAR_SET_KEEP_TTL, 0, &q), NEAR_OK);
    assert_int_equal(ttl_of(a, "new"), -1);
}

static void test_incr_keeps_and_cas_sets_the_time_to_live(void **state)
{
    SUBJECT;
    struct near__request q;
    set_flags(a, "n", "1", 0, 100000, &q);
    assert_int_equal(incr(b, "n", 1, &q), NEAR_OK);
    assert_ttl(q.ttl_left_ms, 100000);
    assert_ttl(ttl_of(a, "n"), 100000);
    assert_int_equal(cas(a, "n", "2", "3", NEAR_SET_KEEP_TTL, 0, &q), NEAR_OK);
    assert_ttl(q.ttl_left_ms, 100000);
    assert_int_equal(cas(a, "n", "3", "4", 0, 200000, &q), NEAR_OK);
    assert_ttl(q.ttl_left_ms, 200000);
    assert_ttl(ttl_of(b, "n"), 200000);
    assert_int_equal(cas(a, "n", "4", "5", 0, 0, &q), NEAR_OK);
    assert_int_equal(q.ttl_left_ms, -1);
    assert_int_equal(ttl_of(b, "n"), -1);
}

static void test_R20_expire_sets_shortens_and_takes_away(void **state)
{
    SUBJECT;
    struct near__request q;
    assert_int_equal(expire(a, "k", 1000, &q), NEAR_MISS);
    uint64_t position = side_set(a, "k", "v");
    assert_int_equal(expire(a, "k", 200000, &q), NEAR_OK);
    assert_int_equal(q.position, position + 1);
    assert_ttl(ttl_of(b, "k"), 200000);
    assert_int_equal(expire(b, "k", 100000, &q), NEAR_OK);
    assert_ttl(ttl_of(a, "k"), 100000);
    assert_int_equal(expire(b, "k", 0, &q), NEAR_OK);
    assert_int_equal(ttl_of(a, "k"), -1);
    assert_int_equal(expire(b, "k", 0, &q), NEAR_OK); /* nothing to take away: the key exists all the same */
    assert_int_equal(expire(b, "k", 20, &q), NEAR_OK);
    becomes_miss(subject, "k");
}

/* ---------------------------------------------------------------- positions */

static void test_I6_writes_are_numbered_without_holes_whoever_writes(void **state)
{
    SUBJECT;
    struct near__request q;
    assert_int_equal(position_of(a), 0);
    uint64_t position = side_set(a, "k", "v");
    assert_true(position > 0);
    assert_int_equal(side_set(b, "n", "1"), ++position);
    assert_int_equal(set_flags(a, "k", "w", NEAR_SET_IF_ABSENT, 0, &q), NEAR_UNMET);
    assert_int_equal(q.position, position);
    assert_int_equal(incr(b, "n", 1, &q), NEAR_OK);
    assert_int_equal(q.position, ++position);
    assert_int_equal(cas(b, "k", "no", "x", 0, 0, &q), NEAR_UNMET);
    assert_int_equal(q.position, position);
    assert_int_equal(cas(a, "k", "v", "x", 0, 0, &q), NEAR_OK);
    assert_int_equal(q.position, ++position);
    assert_int_equal(expire(a, "k", 100000, &q), NEAR_OK);
    assert_int_equal(q.position, ++position);
    assert_int_equal(expire(a, "absent", 100000, &q), NEAR_MISS);
    assert_int_equal(q.position, position);
    assert_int_equal(act(a, NEAR_OP_CLEAR, "", &q), NEAR_OK);
    assert_int_equal(q.position, ++position);
    assert_int_equal(side_del(b, "k"), ++position);
    assert_int_equal(act(b, NEAR_OP_DEL, "k", &q), NEAR_MISS);
    assert_int_equal(q.position, position);
    assert_int_equal(act(a, NEAR_OP_FETCH, "n", &q), NEAR_OK);
    assert_int_equal(q.position, position);
    near__free(&a->alloc, q.value_out);
    assert_int_equal(position_of(&subject->other), 0); /* each prefix has its own */
}

static void test_R10_position_that_was_lost_does_not_begin_below(void **state)
{
    SUBJECT;
    uint64_t before = side_set(a, "k", "v");
    subject->pass_ms(subject, 2);
    subject->flushall(subject);
    assert_int_equal(position_of(a), 0);
    side_expect(a, "k", NULL);
    assert_true(side_set(a, "k", "v") > before);
}

/* ---------------------------------------------------------------- messages */

static void test_R11_every_write_and_nothing_else_is_a_message_in_order(void **state)
{
    SUBJECT;
    struct near__request q;
    struct near__channel *ca = side_subscribe(a, "pa"), *cb = side_subscribe(b, "pb"),
                         *co = side_subscribe(&subject->other, "po");
    uint64_t position = side_set(a, "set", "1");
    set_flags(a, "set", "x", NEAR_SET_IF_ABSENT, 0, &q);
    incr(b, "set", 1, &q);
    cas(b, "set", "2", "x", 0, 0, &q);
    incr(a, "set", 1, &q); /* not an integer */
    assert_int_equal(q.status, NEAR_ERR_OVERFLOW);
    expire(a, "set", 100000, &q);
    side_del(b, "set");
    act(a, NEAR_OP_DEL, "gone", &q);
    act(a, NEAR_OP_CLEAR, "clear", &q);
    struct {
        struct side *side;
        struct near__channel *channel;
    } readers[] = {{a, ca}, {b, cb}};
    for (int r = 0; r < 2; r++) {
        for (unsigned i = 0; i < 5; i++)
            side_hear_message(readers[r].side, readers[r].channel, position + i, "set");
        side_hear_message(readers[r].side, readers[r].channel, position + 5, "clear");
        near__channel_ping(readers[r].side->remote, readers[r].channel, "end", side_deadline(a));
        side_hear(readers[r].side, readers[r].channel, NEAR_CHANNEL_PONG, "end");
    }
    near__channel_ping(subject->other.remote, co, "nothing", side_deadline(a));
    side_hear(&subject->other, co, NEAR_CHANNEL_PONG, "nothing");
    near__channel_close(a->remote, ca);
    near__channel_close(b->remote, cb);
    near__channel_close(subject->other.remote, co);
}

static void test_body_of_a_message_may_be_any_bytes(void **state)
{
    SUBJECT;
    unsigned char body[700];
    char head[32];
    for (size_t i = 0; i < sizeof body; i++)
        body[i] = (unsigned char)(i * 7);
    struct near__channel *c = side_subscribe(b, "pb");
    struct near__request q = {.operation = NEAR_OP_CLEAR, .body = body, .body_size = sizeof body};
    assert_int_equal(side_run(a, &q), NEAR_OK);
    struct near__channel_message m;
    near__channel_read(b->remote, c, side_deadline(b), &m);
    assert_int_equal(m.event, NEAR_CHANNEL_MESSAGE);
    int size = snprintf(head, sizeof head, "1%llu:", (unsigned long long)q.position);
    assert_int_equal(m.payload_size, (size_t)size + sizeof body);
    assert_memory_equal(m.payload, head, (size_t)size);
    assert_memory_equal((const char *)m.payload + size, body, sizeof body);
    near__channel_close(b->remote, c);
}

static void test_B_pong_comes_after_every_message_of_before_the_ping(void **state)
{
    SUBJECT;
    struct near__channel *c = side_subscribe(b, "pb");
    for (int i = 0; i < 20; i++) {
        char nonce[16];
        snprintf(nonce, sizeof nonce, "%d", i);
        uint64_t position = side_set(a, "k", "v");
        assert_int_equal(near__channel_ping(b->remote, c, nonce, side_deadline(b)), NEAR_OK);
        side_hear_message(b, c, position, "k");
        side_hear(b, c, NEAR_CHANNEL_PONG, nonce);
    }
    near__channel_close(b->remote, c);
}

static void test_wake_and_deadline_end_a_read(void **state)
{
    SUBJECT;
    struct near__channel *c = side_subscribe(b, "pb");
    near__channel_wake(b->remote, c);
    side_hear(b, c, NEAR_CHANNEL_IDLE, NULL);
    side_hear_nothing(b, c);
    uint64_t position = side_set(a, "k", "v");
    side_hear_message(b, c, position, "k");
    near__channel_close(b->remote, c);
}

/* ---------------------------------------------------------------- heartbeats */

static void test_R25_heartbeat_reaches_its_own_process_with_nonce_and_position(void **state)
{
    SUBJECT;
    struct near__request q;
    char text[128];
    struct near__channel *ca = side_subscribe(a, "pa"), *cb = side_subscribe(b, "pb");
    uint64_t position = side_set(a, "k", "v");
    assert_int_equal(prove(a, "pa", INT64_C(1234567890123456789), position, &q), NEAR_OK);
    assert_int_equal(q.position, position);
    assert_true(q.sent_ns <= near__now(&a->clock));
    side_hear_message(a, ca, position, "k");
    /* and what the second part of the server's identity is by now, where it has one */
    const char *history = strchr(near__channel_server(a->remote, ca), '-');
    snprintf(text, sizeof text, "P1234567890123456789:%llu%s%s", (unsigned long long)position, history ? ":" : "",
             history ? history + 1 : "");
    side_hear(a, ca, NEAR_CHANNEL_PRIVATE, text);
    side_hear_message(b, cb, position, "k");
    near__channel_ping(b->remote, cb, "n", side_deadline(b));
    side_hear(b, cb, NEAR_CHANNEL_PONG, "n");
    assert_int_equal(side_set(b, "k", "w"), position + 1); /* a heartbeat is no write */
    near__channel_close(a->remote, ca);
    near__channel_close(b->remote, cb);
}

static void test_R10_heartbeat_lifts_a_position_that_is_behind_or_gone(void **state)
{
    SUBJECT;
    struct near__request q;
    assert_int_equal(prove(a, "pa", 1, 0, &q), NEAR_OK); /* gone: there never was one */
    uint64_t position = q.position;
    assert_true(position > 0);
    assert_int_equal(position_of(b), position);
    assert_int_equal(prove(a, "pa", 2, position, &q), NEAR_OK);
    assert_int_equal(q.position, position);
    assert_int_equal(prove(a, "pa", 3, position + 1, &q), NEAR_OK);
    assert_true(q.position > position + 1);
    uint64_t lifted = q.position;
    assert_int_equal(prove(b, "pb", 4, position + 1, &q), NEAR_OK); /* one lift serves the herd */
    assert_int_equal(q.position, lifted);
    assert_int_equal(side_set(b, "k", "v"), lifted + 1);
    subject->flushall(subject);
    assert_int_equal(prove(a, "pa", 5, lifted + 1, &q), NEAR_OK);
    assert_true(q.position > lifted + 1);
    assert_int_equal(position_of(b), q.position);
}

static void test_R31_replies_and_subscriptions_name_the_same_server(void **state)
{
    SUBJECT;
    struct near__request q;
    struct near__channel *c = side_subscribe(a, "pa");
    uint64_t server = near__server_id(near__channel_server(a->remote, c));
    assert_true(server != 0);
    act(b, NEAR_OP_FETCH, "k", &q);
    assert_true(q.server == server);
    q = side_set_request("k", "v");
    assert_int_equal(side_run(a, &q), NEAR_OK);
    assert_true(q.server == server);
    assert_int_equal(prove(a, "pa", 1, 0, &q), NEAR_OK);
    assert_true(q.server == server);
    near__channel_close(a->remote, c);
}

/* ---------------------------------------------------------------- the rest */

/* ---------------------------------------------------------------- locks */

static int lock_op(struct side *s, enum near__operation operation, const char *token, int64_t ttl_ms, uint64_t least,
                   struct near__request *ret)
{
    *ret = side_set_request("lock", token);
    ret->operation = operation;
    ret->ttl_ms = ttl_ms;
    ret->known = least;
    return side_run(s, ret);
}

static void test_lock_has_one_owner_until_it_is_given_back(void **state)
{
    SUBJECT;
    struct near__request q;
    assert_int_equal(lock_op(a, NEAR_OP_LOCK, "A", 100000, 0, &q), NEAR_OK);
    int64_t first = q.result_number;
    assert_ttl(q.ttl_left_ms, 100000);
    assert_true(first > 0);
    assert_int_equal(lock_op(b, NEAR_OP_LOCK, "B", 100000, 0, &q), NEAR_UNMET);
    assert_ttl(q.ttl_left_ms, 100000);
    /* the answer was lost: the same number again */
    assert_int_equal(lock_op(a, NEAR_OP_LOCK, "A", 200000, 0, &q), NEAR_OK);
    assert_int_equal(q.result_number, first);
    assert_ttl(q.ttl_left_ms, 200000);
    assert_int_equal(lock_op(b, NEAR_OP_UNLOCK, "B", 0, 0, &q), NEAR_UNMET);
    assert_int_equal(lock_op(b, NEAR_OP_EXTEND, "B", 1, 0, &q), NEAR_UNMET);
    assert_int_equal(lock_op(a, NEAR_OP_UNLOCK, "A", 0, 0, &q), NEAR_OK);
    assert_int_equal(lock_op(a, NEAR_OP_UNLOCK, "A", 0, 0, &q), NEAR_MISS);
    assert_int_equal(lock_op(a, NEAR_OP_EXTEND, "A", 1000, 0, &q), NEAR_MISS);
    assert_int_equal(lock_op(b, NEAR_OP_LOCK, "B", 100000, 0, &q), NEAR_OK);
    assert_int_equal(q.result_number, first + 1);
}

static void test_lock_ends_with_its_time_and_extend_prolongs_it(void **state)
{
    SUBJECT;
    struct near__request q;
    assert_int_equal(lock_op(a, NEAR_OP_LOCK, "A", 50, 0, &q), NEAR_OK);
    becomes_miss(subject, "lock");
    assert_int_equal(lock_op(b, NEAR_OP_LOCK, "B", 100000, 0, &q), NEAR_OK);
    assert_int_equal(lock_op(b, NEAR_OP_EXTEND, "B", 0, 0, &q), NEAR_OK);
    assert_ttl(q.ttl_left_ms, 100000);
    assert_int_equal(lock_op(b, NEAR_OP_EXTEND, "B", 300000, 0, &q), NEAR_OK);
    assert_ttl(q.ttl_left_ms, 300000);
    assert_int_equal(lock_op(a, NEAR_OP_EXTEND, "A", 300000, 0, &q), NEAR_UNMET);
}

static void test_lock_counter_is_raised_by_the_owner_and_never_falls(void **state)
{
    SUBJECT;
    struct near__request q;
    assert_int_equal(lock_op(a, NEAR_OP_LOCK, "A", 100000, 0, &q), NEAR_OK);
    int64_t first = q.result_number;
    assert_int_equal(lock_op(b, NEAR_OP_EXTEND, "B", 0, (uint64_t)first + 100, &q), NEAR_UNMET);
    assert_int_equal(lock_op(a, NEAR_OP_EXTEND, "A", 0, (uint64_t)first + 7, &q), NEAR_OK);
    assert_int_equal(q.result_number, first + 7);
    assert_int_equal(lock_op(a, NEAR_OP_EXTEND, "A", 0, 1, &q), NEAR_OK);
    assert_int_equal(q.result_number, first + 7);
    assert_int_equal(lock_op(a, NEAR_OP_UNLOCK, "A", 0, 0, &q), NEAR_OK);
    assert_int_equal(lock_op(b, NEAR_OP_LOCK, "B", 100000, 0, &q), NEAR_OK);
    assert_int_equal(q.result_number, first + 8);
    subject->pass_ms(subject, 5);
    subject->flushall(subject); /* lost: it begins at the server's time */
    assert_int_equal(lock_op(b, NEAR_OP_LOCK, "B", 100000, 0, &q), NEAR_OK);
    assert_true(q.result_number > first + 8);
}

/* Nothing has happened then: the lock is free as before. */
static void test_lock_whose_counter_is_no_number_is_refused(void **state)
{
    static const char *const counters[] = {"word", "", "9223372036854775807"};
    SUBJECT;
    struct near__request q;
    for (size_t i = 0; i < sizeof counters / sizeof counters[0]; i++) {
        side_set(a, "lock:fence", counters[i]);
        assert_int_equal(lock_op(b, NEAR_OP_LOCK, "B", 100000, 0, &q), NEAR_ERR_OVERFLOW);
        assert_int_equal(lock_op(b, NEAR_OP_UNLOCK, "B", 0, 0, &q), NEAR_MISS);
    }
    side_set(a, "lock:fence", "41");
    assert_int_equal(lock_op(b, NEAR_OP_LOCK, "B", 100000, 0, &q), NEAR_OK);
    assert_int_equal(q.result_number, 42);
}

static void test_locks_are_neither_numbered_nor_announced(void **state)
{
    SUBJECT;
    struct near__request q;
    struct near__channel *channel = side_subscribe(b, "p");
    uint64_t before = side_set(a, "k", "v");
    side_hear_message(b, channel, before, "k");
    assert_int_equal(lock_op(a, NEAR_OP_LOCK, "A", 100000, 0, &q), NEAR_OK);
    assert_int_equal(lock_op(a, NEAR_OP_UNLOCK, "A", 0, 0, &q), NEAR_OK);
    uint64_t after = side_set(a, "k", "v");
    side_hear_message(b, channel, after, "k");
    assert_int_equal(after, before + 1);
    near__channel_close(b->remote, channel);
}

static void test_del_that_announces_is_heard_although_there_was_nothing(void **state)
{
    SUBJECT;
    struct near__request q;
    struct near__channel *channel = side_subscribe(b, "p");
    uint64_t before = side_set(a, "k", "v");
    side_hear_message(b, channel, before, "k");
    assert_int_equal(act(a, NEAR_OP_DEL, "nothing", &q), NEAR_MISS);
    q = side_request(NEAR_OP_DEL, "nothing");
    q.flags = NEAR_DEL_ANNOUNCE;
    assert_int_equal(side_run(a, &q), NEAR_OK);
    assert_int_equal(q.position, before + 1);
    side_hear_message(b, channel, before + 1, "nothing");
    near__channel_close(b->remote, channel);
}

/* ---------------------------------------------------------------- */

static void test_batch_gives_each_request_its_own_result(void **state)
{
    SUBJECT;
    side_set(a, "text", "abc");
    struct near__request q[7] = {side_set_request("k", "v"),         side_request(NEAR_OP_FETCH, "k"),
                                 side_request(NEAR_OP_INCR, "text"), side_request(NEAR_OP_FETCH, "none"),
                                 side_request(NEAR_OP_DEL, "k"),     side_request(NEAR_OP_DEL, "k"),
                                 side_request(NEAR_OP_FETCH, "k")};
    static const int expected[7] = {NEAR_OK, NEAR_OK, NEAR_ERR_OVERFLOW, NEAR_MISS, NEAR_OK, NEAR_MISS, NEAR_MISS};
    near__remote_run(a->remote, q, 7, side_deadline(a));
    for (int i = 0; i < 7; i++) {
        assert_int_equal(q[i].status, expected[i]);
        if (q[i].value_out)
            assert_memory_equal(q[i].value_out, "v", 1);
        near__free(&a->alloc, q[i].value_out);
    }
    assert_int_equal(q[4].position, q[0].position + 1);
}

static int compare(struct side *s, const char *key, const char *value, struct near__request *ret)
{
    *ret = side_request(NEAR_OP_COMPARE, key);
    ret->value = value;
    ret->value_size = strlen(value);
    return side_run(s, ret);
}

/* Values around the size from which on their digest goes in their place; one that looks like a digest; one that is
 * empty. */
static void test_compare_tells_whether_a_value_is_still_there(void **state)
{
    SUBJECT;
    static const char *const values[] = {"",
                                         "short",
                                         "0123456789012345678901234567890123456789",
                                         "01234567890123456789012345678901234567890",
                                         "da39a3ee5e6b4b0d3255bfef95601890afd80709",
                                         "#da39a3ee5e6b4b0d3255bfef95601890afd80709"};
    struct near__request q;
    enum { VALUES = sizeof values / sizeof *values };
    for (int i = 0; i < VALUES; i++) {
        side_set(b, "k", values[i]);
        for (int k = 0; k < VALUES; k++)
            assert_int_equal(compare(a, "k", values[k], &q), i == k ? NEAR_OK : NEAR_UNMET);
        assert_int_equal(q.position, position_of(a));
    }
    assert_int_equal(compare(a, "absent", "", &q), NEAR_MISS);
    assert_int_equal(compare(a, "k", values[VALUES - 1], &q), NEAR_OK);
    assert_int_equal(q.ttl_left_ms, -1);
    assert_null(q.value_out);
    q = side_set_request("k", "v");
    q.ttl_ms = 60000;
    assert_int_equal(side_run(b, &q), NEAR_OK);
    uint64_t position = q.position;
    assert_int_equal(compare(a, "k", "v", &q), NEAR_OK);
    assert_ttl(q.ttl_left_ms, 60000);
    assert_int_equal(q.position, position); /* a read is not numbered */
    assert_true(q.server != 0);
}

static void test_many_compares_have_their_own_results(void **state)
{
    SUBJECT;
    enum { MANY = 600 };
    struct near__request *q = calloc(MANY, sizeof *q);
    char(*keys)[16] = calloc(MANY, sizeof *keys);
    assert_non_null(q);
    assert_non_null(keys);
    for (int i = 0; i < MANY; i++) {
        snprintf(keys[i], sizeof keys[i], "k%d", i);
        if (i % 3)
            side_set(b, keys[i], i % 3 == 1 ? "same" : "other");
        q[i] = side_request(i == 300 ? NEAR_OP_FETCH : NEAR_OP_COMPARE, keys[i]);
        q[i].value = "same";
        q[i].value_size = 4;
    }
    near__remote_run(a->remote, q, MANY, side_deadline(a));
    for (int i = 0; i < MANY; i++)
        assert_int_equal(q[i].status, i % 3 == 0 ? NEAR_MISS : i % 3 == 1 ? NEAR_OK : NEAR_UNMET);
    free(keys);
    free(q);
}

static void test_clear_keys_removes_the_prefix_and_tells_nobody(void **state)
{
    SUBJECT;
    char key[16];
    uint64_t removed = 0, position = 0;
    struct near__channel *c = side_subscribe(b, "pb");
    for (int i = 0; i < 300; i++) {
        snprintf(key, sizeof key, "k%d", i);
        position = side_set(a, key, "v");
    }
    side_set(&subject->other, "aXXXb:k1", "matched by a careless pattern");
    assert_int_equal(near__remote_clear_keys(a->remote, side_deadline(a), &removed), NEAR_OK);
    assert_int_equal(removed, 300);
    side_expect(a, "k0", NULL);
    side_expect(&subject->other, "aXXXb:k1", "matched by a careless pattern");
    assert_int_equal(position_of(a), position);
    for (int i = 0; i < 300; i++)
        side_hear(b, c, NEAR_CHANNEL_MESSAGE, NULL);
    near__channel_ping(b->remote, c, "end", side_deadline(b));
    side_hear(b, c, NEAR_CHANNEL_PONG, "end");
    assert_int_equal(near__remote_clear_keys(a->remote, side_deadline(a), &removed), NEAR_OK);
    assert_int_equal(removed, 0);
    near__channel_close(b->remote, c);
}

static void test_H_deadline_of_the_past_means_not_sent(void **state)
{
    SUBJECT;
    struct near__request q = side_set_request("k", "v");
    near__remote_run(a->remote, &q, 1, near__now(&a->clock) - 1);
    assert_int_equal(q.status, NEAR_ERR_TIMEOUT);
    side_expect(b, "k", NULL);
    assert_int_equal(position_of(b), 0);
}

static void test_check_finds_nothing_wrong_and_leaves_nothing(void **state)
{
    SUBJECT;
    near_error error = {0};
    uint64_t removed, position = side_set(a, "k", "v");
    assert_int_equal(near__remote_check(a->remote, side_deadline(a), &error), NEAR_OK);
    assert_int_equal(position_of(a), position);
    assert_int_equal(near__remote_clear_keys(a->remote, side_deadline(a), &removed), NEAR_OK);
    assert_int_equal(removed, 1);
}

static void test_stats_count_requests(void **state)
{
    SUBJECT;
    struct near__remote_stats before, after;
    near__remote_stats(a->remote, &before);
    for (int i = 0; i < 5; i++)
        side_set(a, "k", "v");
    near__remote_stats(a->remote, &after);
    assert_int_equal(after.requests, before.requests + 5);
    assert_true(after.bytes_sent > before.bytes_sent);
    assert_true(after.connections_opened >= 1);
    assert_int_equal(after.connections_lost, 0);
}

static void test_interrupted_remote_refuses_everything(void **state)
{
    SUBJECT;
    struct near__request q = side_set_request("k", "v");
    struct near__channel *c;
    near_error error;
    near__remote_interrupt(a->remote);
    assert_int_equal(side_run(a, &q), NEAR_ERR_CLOSED);
    assert_int_equal(act(a, NEAR_OP_FETCH, "k", &q), NEAR_ERR_CLOSED);
    assert_int_equal(near__channel_open(a->remote, "pa", side_deadline(a), &c, &error), NEAR_ERR_CLOSED);
    side_expect(b, "k", NULL);
}

/* ---------------------------------------------------------------- loading */

static struct near__request lease_request(const char *key, const char *owner, uint32_t flags)
{
    struct near__request q = side_request(NEAR_OP_LEASE, key);
    q.expected = owner;
    q.expected_size = strlen(owner);
    q.ttl_ms = 60000;
    q.number = 100000; /* old this long before its end */
    q.flags = flags;
    return q;
}

/* Runs it and frees what it gives; the lease. */
static enum near__lease lease(struct side *s, const char *key, const char *owner, uint32_t flags,
                              struct near__request *q)
{
    *q = lease_request(key, owner, flags);
    assert_int_equal(side_run(s, q), NEAR_OK);
    near__free(&s->alloc, q->value_out);
    near__free(&s->alloc, q->extra_out);
    return q->lease;
}

static int end_lease(struct side *s, enum near__operation operation, const char *key, const char *owner, uint32_t flags,
                     int64_t ttl_ms, struct near__request *q)
{
    *q = side_request(operation, key);
    q->expected = owner;
    q->expected_size = strlen(owner);
    q->flags = flags;
    q->ttl_ms = ttl_ms;
    q->value = "loaded";
    q->value_size = 6;
    return side_run(s, q);
}

static void test_R16_one_lease_at_a_time_and_its_fill(void **state)
{
    SUBJECT;
    struct near__request q;
    struct near__channel *channel = side_subscribe(b, "pb");
    assert_int_equal(lease(a, "k", "A", 0, &q), NEAR_LEASE_GOT);
    uint64_t fence = q.fence;
    assert_int_equal(q.exists, 0);
    assert_int_equal(lease(b, "k", "B", 0, &q), NEAR_LEASE_HELD);
    assert_in_range(q.lease_left_ms, 40000, 60000);
    assert_int_equal(lease(a, "k", "A", 0, &q), NEAR_LEASE_GOT); /* the answer was lost: the same owner asks again */
    assert_true(q.fence > fence);
    side_hear_nothing(b, channel);
    assert_int_equal(end_lease(b, NEAR_OP_FILL, "k", "B", 0, 0, &q), NEAR_UNMET);
    side_expect(b, "k", NULL);
    assert_int_equal(end_lease(a, NEAR_OP_FILL, "k", "A", NEAR_FILL_ABSENT, 500000, &q), NEAR_OK);
    assert_ttl(q.ttl_left_ms, 500000);
    side_hear_message(b, channel, q.position, "k");
    side_expect(b, "k", "loaded");
    assert_int_equal(lease(b, "k", "B", 0, &q), NEAR_LEASE_FRESH);
    assert_ttl(q.ttl_left_ms, 500000);
    assert_int_equal(q.position, position_of(b));
    assert_int_equal(lease(b, "k", "B", NEAR_LEASE_FORCE, &q), NEAR_LEASE_GOT);
    assert_int_equal(q.value_out_size, 6); /* with the old value */
    near__channel_close(b->remote, channel);
}

static void test_an_old_value_is_leased_and_given(void **state)
{
    SUBJECT;
    struct near__request q = side_set_request("k", "v");
    q.ttl_ms = 90000;
    assert_int_equal(side_run(a, &q), NEAR_OK);
    assert_int_equal(lease(a, "k", "A", 0, &q), NEAR_LEASE_GOT);
    assert_int_equal(q.value_out_size, 1);
    assert_int_equal(q.exists, 1);
    assert_int_equal(lease(b, "k", "B", 0, &q), NEAR_LEASE_HELD);
    assert_int_equal(q.value_out_size, 1);
}

static void test_R01_every_write_makes_a_load_void(void **state)
{
    SUBJECT;
    struct near__request q;
    enum near__operation operations[] = {NEAR_OP_SET, NEAR_OP_DEL, NEAR_OP_INCR, NEAR_OP_EXPIRE, NEAR_OP_CAS};
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        side_set(b, "k", "1");
        assert_int_equal(lease(a, "k", "A", NEAR_LEASE_FORCE, &q), NEAR_LEASE_GOT);
        q = side_request(operations[i], "k");
        q.value = "2";
        q.value_size = 1;
        q.expected = "1";
        q.expected_size = 1;
        q.number = 1;
        assert_int_equal(side_run(b, &q), NEAR_OK);
        assert_int_equal(end_lease(a, NEAR_OP_FILL, "k", "A", 0, 0, &q), NEAR_UNMET);
        side_expect(b, "k", operations[i] == NEAR_OP_DEL ? NULL : operations[i] == NEAR_OP_EXPIRE ? "1" : "2");
    }
}

static void test_R17_removing_what_is_absent_but_leased_is_told(void **state)
{
    SUBJECT;
    struct near__request q;
    struct near__channel *channel = side_subscribe(b, "pb");
    assert_int_equal(lease(a, "k", "A", 0, &q), NEAR_LEASE_GOT);
    uint64_t before = position_of(a);
    assert_int_equal(act(b, NEAR_OP_DEL, "k", &q), NEAR_MISS);
    assert_true(q.position > before);
    side_hear_message(b, channel, q.position, "k");
    assert_int_equal(act(b, NEAR_OP_DEL, "k", &q), NEAR_MISS); /* and now there is nothing to tell */
    side_hear_nothing(b, channel);
    assert_int_equal(end_lease(a, NEAR_OP_FILL, "k", "A", NEAR_FILL_ABSENT, 0, &q), NEAR_UNMET);
    near__channel_close(b->remote, channel);
}

static void test_released_leases_and_remembered_absence(void **state)
{
    SUBJECT;
    struct near__request q;
    assert_int_equal(lease(a, "k", "A", 0, &q), NEAR_LEASE_GOT);
    assert_int_equal(end_lease(b, NEAR_OP_RELEASE, "k", "B", 0, 0, &q), NEAR_UNMET);
    assert_int_equal(end_lease(a, NEAR_OP_RELEASE, "k", "A", 0, 0, &q), NEAR_OK);
    assert_int_equal(lease(b, "k", "B", 0, &q), NEAR_LEASE_GOT);
    assert_int_equal(end_lease(b, NEAR_OP_RELEASE, "k", "B", NEAR_RELEASE_ABSENT, 50000, &q), NEAR_OK);
    assert_int_equal(lease(a, "k", "A", 0, &q), NEAR_LEASE_ABSENT);
    assert_in_range(q.lease_left_ms, 30000, 50000);
    assert_int_equal(lease(a, "k", "A", NEAR_LEASE_FORCE, &q), NEAR_LEASE_GOT); /* as over a fresh value */
    assert_int_equal(lease(b, "k", "B", NEAR_LEASE_FORCE, &q), NEAR_LEASE_HELD);
    assert_int_equal(end_lease(a, NEAR_OP_RELEASE, "k", "A", NEAR_RELEASE_ABSENT, 50000, &q), NEAR_OK);
    side_set(b, "k", "made"); /* R19 */
    q = lease_request("k", "A", 0);
    assert_int_equal(side_run(a, &q), NEAR_OK);
    assert_int_equal(q.lease, NEAR_LEASE_FRESH);
    assert_memory_equal(q.value_out, "made", 4);
    near__free(&a->alloc, q.value_out);
    side_del(b, "k");
    assert_int_equal(lease(a, "k", "A", 0, &q), NEAR_LEASE_GOT);
    /* gone from the source while it is here: removed */
    end_lease(a, NEAR_OP_FILL, "k", "A", 0, 0, &q);
    assert_int_equal(lease(a, "k", "A", NEAR_LEASE_FORCE, &q), NEAR_LEASE_GOT);
    assert_int_equal(end_lease(a, NEAR_OP_RELEASE, "k", "A", NEAR_RELEASE_ABSENT, 0, &q), NEAR_OK);
    side_expect(b, "k", NULL);
    assert_int_equal(lease(b, "k", "B", 0, &q), NEAR_LEASE_GOT);
}

static void test_lease_ends_by_itself(void **state)
{
    SUBJECT;
    struct near__request q = lease_request("k", "A", 0);
    q.ttl_ms = 50;
    assert_int_equal(side_run(a, &q), NEAR_OK);
    for (int i = 0; i < 3000 && lease(b, "k", "B", 0, &q) != NEAR_LEASE_GOT; i++)
        subject->pass_ms(subject, 10);
    assert_int_equal(q.lease, NEAR_LEASE_GOT);
    assert_int_equal(end_lease(a, NEAR_OP_FILL, "k", "A", 0, 0, &q), NEAR_UNMET); /* too late */
    assert_int_equal(end_lease(b, NEAR_OP_FILL, "k", "B", 0, 0, &q), NEAR_OK);
}

static int fill_tagged(struct side *s, const char *key, const char *owner, uint64_t read, struct near__request *q)
{
    char extra[64];
    int size = snprintf(extra, sizeof extra, "%llu%cabc%cred%cblue%c", (unsigned long long)read, 0, 0, 0, 0);
    *q = side_request(NEAR_OP_FILL, key);
    q->expected = owner;
    q->expected_size = strlen(owner);
    q->value = "loaded";
    q->value_size = 6;
    q->extra = extra;
    q->extra_size = (size_t)size;
    return side_run(s, q);
}

/* A tag's key holds the position of its last invalidation. */
static void invalidate(struct side *s, const char *tag, uint64_t position)
{
    char key[64], value[24];
    snprintf(key, sizeof key, NEAR_TAG_PREFIX "%s", tag);
    snprintf(value, sizeof value, "%llu", (unsigned long long)position);
    side_set(s, key, value);
}

static void test_tags_make_a_value_void(void **state)
{
    SUBJECT;
    struct near__request q;
    side_set(a, "any", "v"); /* there is a position */
    assert_int_equal(lease(a, "k", "A", 0, &q), NEAR_LEASE_GOT);
    uint64_t read = q.position;
    assert_int_equal(fill_tagged(a, "k", "A", read, &q), NEAR_OK);
    assert_int_equal(lease(b, "k", "B", NEAR_LEASE_TAGGED, &q), NEAR_LEASE_FRESH);
    assert_true(q.extra_out_size > 10);
    invalidate(b, "blue", read + 1);
    assert_int_equal(lease(b, "k", "B", 0, &q), NEAR_LEASE_FRESH); /* who does not ask is not told */
    assert_int_equal(lease(b, "k", "B", NEAR_LEASE_TAGGED, &q), NEAR_LEASE_GOT);
    assert_int_equal(q.value_out_size, 0);
    assert_int_equal(q.exists, 1);
    assert_int_equal(fill_tagged(b, "k", "B", read, &q), NEAR_UNMET); /* loaded before the invalidation */
    assert_int_equal(end_lease(b, NEAR_OP_RELEASE, "k", "B", 0, 0, &q), NEAR_OK);
    assert_int_equal(lease(a, "k", "A", NEAR_LEASE_TAGGED, &q), NEAR_LEASE_GOT);
    assert_int_equal(fill_tagged(a, "k", "A", q.position, &q), NEAR_OK);
    assert_int_equal(lease(b, "k", "B", NEAR_LEASE_TAGGED, &q), NEAR_LEASE_FRESH);
    side_del(b, NEAR_TAG_PREFIX "red"); /* evicted, say: it may have been invalidated */
    assert_int_equal(lease(b, "k", "B", NEAR_LEASE_TAGGED, &q), NEAR_LEASE_GOT);
    struct near__channel *channel = side_subscribe(b, "pb");
    q = side_request(NEAR_OP_TAG, NEAR_TAG_PREFIX "green");
    q.ttl_ms = 60000;
    assert_int_equal(side_run(a, &q), NEAR_OK);
    char number[24];
    snprintf(number, sizeof number, "%llu", (unsigned long long)q.position);
    side_hear_message(b, channel, q.position, NEAR_TAG_PREFIX "green");
    side_expect(b, NEAR_TAG_PREFIX "green", number); /* the write's own position */
    assert_ttl(ttl_of(b, NEAR_TAG_PREFIX "green"), 60000);
    near__channel_close(b->remote, channel);
    side_set(b, "k", "plain"); /* a plain write has no tags */
    assert_int_equal(lease(b, "k", "B", NEAR_LEASE_TAGGED, &q), NEAR_LEASE_FRESH);
    assert_int_equal(q.extra_out_size, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, conformance_setup, conformance_teardown)
        TEST(test_what_is_written_is_read_by_everybody),
        TEST(test_large_keys_and_values_pass_unchanged),
        TEST(test_J_value_far_above_value_max_is_refused_and_the_next_read_is_fine),
        TEST(test_prefix_is_a_part_of_the_key_and_nothing_more),
        TEST(test_R35_foreign_writes_are_seen_and_not_numbered),
        TEST(test_set_if_absent_and_if_present),
        TEST(test_compare_and_set),
        TEST(test_del_says_whether_there_was_something),
        TEST(test_incr_counts_from_nothing_and_both_ways),
        TEST(test_incr_refuses_what_is_no_integer_and_what_overflows),
        TEST(test_G_time_to_live_is_reported_and_ends),
        TEST(test_set_drops_the_time_to_live_unless_told_to_keep_it),
        TEST(test_incr_keeps_and_cas_sets_the_time_to_live),
        TEST(test_R20_expire_sets_shortens_and_takes_away),
        TEST(test_I6_writes_are_numbered_without_holes_whoever_writes),
        TEST(test_R10_position_that_was_lost_does_not_begin_below),
        TEST(test_R11_every_write_and_nothing_else_is_a_message_in_order),
        TEST(test_body_of_a_message_may_be_any_bytes),
        TEST(test_B_pong_comes_after_every_message_of_before_the_ping),
        TEST(test_wake_and_deadline_end_a_read),
        TEST(test_R25_heartbeat_reaches_its_own_process_with_nonce_and_position),
        TEST(test_R10_heartbeat_lifts_a_position_that_is_behind_or_gone),
        TEST(test_R31_replies_and_subscriptions_name_the_same_server),
        TEST(test_lock_has_one_owner_until_it_is_given_back),
        TEST(test_lock_ends_with_its_time_and_extend_prolongs_it),
        TEST(test_lock_counter_is_raised_by_the_owner_and_never_falls),
        TEST(test_lock_whose_counter_is_no_number_is_refused),
        TEST(test_locks_are_neither_numbered_nor_announced),
        TEST(test_del_that_announces_is_heard_although_there_was_nothing),
        TEST(test_batch_gives_each_request_its_own_result),
        TEST(test_compare_tells_whether_a_value_is_still_there),
        TEST(test_many_compares_have_their_own_results),
        TEST(test_clear_keys_removes_the_prefix_and_tells_nobody),
        TEST(test_H_deadline_of_the_past_means_not_sent),
        TEST(test_check_finds_nothing_wrong_and_leaves_nothing),
        TEST(test_stats_count_requests),
        TEST(test_R16_one_lease_at_a_time_and_its_fill),
        TEST(test_an_old_value_is_leased_and_given),
        TEST(test_R01_every_write_makes_a_load_void),
        TEST(test_R17_removing_what_is_absent_but_leased_is_told),
        TEST(test_released_leases_and_remembered_absence),
        TEST(test_lease_ends_by_itself),
        TEST(test_tags_make_a_value_void),
        TEST(test_interrupted_remote_refuses_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
