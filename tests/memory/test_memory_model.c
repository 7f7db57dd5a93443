/* SPDX-License-Identifier: BSD-3-Clause
 * memory:// against a model so simple that it is right: an array of keys, a position, and a list of messages. */
#include "memory/side.h"
#include <inttypes.h>
#include <stdlib.h>
#include "base/random.h"
#include "remote/keyspace.h"
#include "support/allocfail.h"
#include "support/seed.h"

#if defined(__SANITIZE_THREAD__)
#define ROUNDS 20
#else
#define ROUNDS 200
#endif
#define STEPS 400
#define KEYS 8

/* ---------------------------------------------------------------- the model */

struct model_key {
    int exists;
    int64_t expire_ns; /* 0: never */
    char value[24];
};

struct model {
    uint64_t random;
    _Atomic(int64_t) now_ns;
    struct model_key keys[KEYS];
    uint64_t position;
    struct {
        uint64_t position;
        int key;
    } messages[STEPS];
    unsigned published, heard;
    struct side sides[2];
    struct near__channel *channel;
    struct near__memory_store *store;
};

static uint32_t below(struct model *m, uint32_t bound)
{
    return near__random_below(&m->random, bound);
}

static void name_key(char name[8], int key)
{
    snprintf(name, 8, "key%d", key);
}

static struct model_key *alive(struct model *m, int key)
{
    struct model_key *k = &m->keys[key];
    if (k->exists && k->expire_ns && m->now_ns >= k->expire_ns)
        k->exists = 0;
    return k->exists ? k : NULL;
}

static uint64_t model_write(struct model *m, int key)
{
    uint64_t first = (uint64_t)(m->now_ns / 1000);
    m->position = m->position ? m->position + 1 : first ? first : 1;
    m->messages[m->published].position = m->position;
    m->messages[m->published++].key = key;
    return m->position;
}

static void model_put(struct model *m, int key, const char *value, int64_t expire_ns)
{
    struct model_key *k = &m->keys[key];
    k->exists = 1;
    k->expire_ns = expire_ns;
    snprintf(k->value, sizeof k->value, "%s", value);
    model_write(m, key);
}

static int64_t model_ttl(const struct model *m, const struct model_key *k)
{
    return k->expire_ns ? (k->expire_ns - m->now_ns) / NEAR_NS_PER_MS : -1;
}

/* ---------------------------------------------------------------- one step */

static int64_t random_ttl(struct model *m)
{
    return below(m, 2) ? 0 : 1 + below(m, 50);
}

static int64_t expiry(const struct model *m, int64_t ttl_ms)
{
    return ttl_ms ? m->now_ns + ttl_ms * NEAR_NS_PER_MS : 0;
}

static void random_value(struct model *m, char value[24])
{
    if (below(m, 2))
        snprintf(value, 24, "%" PRId64, (int64_t)near__random_next(&m->random) >> below(m, 64));
    else
        snprintf(value, 24, "v%u", below(m, 4));
}

static int step_set(struct model *m, struct near__request *q, int key, char value[24])
{
    struct model_key *k = alive(m, key);
    q->value = value;
    q->value_size = strlen(value);
    q->flags = below(m, 3) ? 0 : below(m, 8);
    q->ttl_ms = q->flags & NEAR_SET_KEEP_TTL ? 0 : random_ttl(m);
    if (((q->flags & NEAR_SET_IF_ABSENT) && k) || ((q->flags & NEAR_SET_IF_PRESENT) && !k))
        return NEAR_UNMET;
    model_put(m, key, value, q->flags & NEAR_SET_KEEP_TTL ? k ? k->expire_ns : 0 : expiry(m, q->ttl_ms));
    return NEAR_OK;
}

static int step_cas(struct model *m, struct near__request *q, int key, char value[24])
{
    static char expected[24];
    struct model_key *k = alive(m, key);
    snprintf(expected, sizeof expected, "%s", k && below(m, 2) ? k->value : "v1");
    q->value = value;
    q->value_size = strlen(value);
    q->expected = expected;
    q->expected_size = strlen(expected);
    q->ttl_ms = random_ttl(m);
    if (!k)
        return NEAR_MISS;
    if (strcmp(k->value, expected) != 0)
        return NEAR_UNMET;
    model_put(m, key, value, expiry(m, q->ttl_ms));
    return NEAR_OK;
}

static int step_incr(struct model *m, struct near__request *q, int key)
{
    struct model_key *k = alive(m, key);
    int64_t number = 0;
    char text[24];
    q->number = (int64_t)near__random_next(&m->random) >> below(m, 64);
    if (k) {
        char *end;
        number = strtoll(k->value, &end, 10);
        if (*end || !*k->value)
            return NEAR_ERR_OVERFLOW;
    }
    if (__builtin_add_overflow(number, q->number, &number))
        return NEAR_ERR_OVERFLOW;
    snprintf(text, sizeof text, "%" PRId64, number);
    model_put(m, key, text, k ? k->expire_ns : 0);
    return NEAR_OK;
}

static int step_other(struct model *m, struct near__request *q, int key)
{
    struct model_key *k = alive(m, key);
    if (q->operation == NEAR_OP_FETCH)
        return k ? NEAR_OK : NEAR_MISS;
    if (q->operation != NEAR_OP_CLEAR && !k)
        return NEAR_MISS;
    if (q->operation == NEAR_OP_DEL)
        k->exists = 0;
    if (q->operation == NEAR_OP_EXPIRE) {
        q->ttl_ms = random_ttl(m);
        k->expire_ns = expiry(m, q->ttl_ms);
    }
    model_write(m, key);
    return NEAR_OK;
}

static void check_result(struct model *m, const struct near__request *q, int key, int expected)
{
    const struct model_key *k = alive(m, key);
    assert_int_equal(q->status, expected);
    assert_int_equal(q->position, m->position);
    if (q->status != NEAR_OK)
        return;
    if (q->operation == NEAR_OP_FETCH) {
        assert_int_equal(q->value_out_size, strlen(k->value));
        assert_memory_equal(q->value_out, k->value, q->value_out_size);
    }
    if (q->operation == NEAR_OP_INCR)
        assert_true(q->result_number == strtoll(k->value, NULL, 10));
    if (q->operation != NEAR_OP_DEL && q->operation != NEAR_OP_EXPIRE && q->operation != NEAR_OP_CLEAR)
        assert_int_equal(q->ttl_left_ms, model_ttl(m, k));
}

static void request_step(struct model *m)
{
    char name[8], value[24];
    int key = (int)below(m, KEYS), expected;
    struct side *side = &m->sides[below(m, 2)];
    name_key(name, key);
    random_value(m, value);
    struct near__request q = side_request((enum near__operation)(1 + below(m, NEAR_OP_CLEAR)), name);
    switch (q.operation) {
    case NEAR_OP_SET:
        expected = step_set(m, &q, key, value);
        break;
    case NEAR_OP_CAS:
        expected = step_cas(m, &q, key, value);
        break;
    case NEAR_OP_INCR:
        expected = step_incr(m, &q, key);
        break;
    default:
        expected = step_other(m, &q, key);
    }
    side_run(side, &q);
    check_result(m, &q, key, expected);
    near__free(&side->alloc, q.value_out);
}

static void hear_step(struct model *m)
{
    char name[8];
    if (m->heard == m->published) {
        side_hear_nothing(&m->sides[1], m->channel);
        return;
    }
    name_key(name, m->messages[m->heard].key);
    side_hear_message(&m->sides[1], m->channel, m->messages[m->heard].position, name);
    m->heard++;
}

static void prove_step(struct model *m)
{
    struct near__request q = {
        .operation = NEAR_OP_PROVE, .number = 1, .known = m->position + below(m, 2), .body = "x", .body_size = 1};
    side_run(&m->sides[0], &q);
    assert_int_equal(q.status, NEAR_OK);
    assert_true(q.position >= q.known && q.position > 0);
    if (q.known <= m->position && m->position)
        assert_int_equal(q.position, m->position);
    m->position = q.position;
}

static void flush_step(struct model *m)
{
    near__memory_flushall(m->store);
    memset(m->keys, 0, sizeof m->keys);
    m->position = 0;
}

static void step(struct model *m)
{
    uint32_t dice = below(m, 100);
    if (dice < 75)
        request_step(m);
    else if (dice < 90)
        hear_step(m);
    else if (dice < 95)
        near__clock_advance(&m->now_ns, below(m, 20) * NEAR_NS_PER_MS);
    else if (dice < 99)
        prove_step(m);
    else
        flush_step(m);
}

static void run_model(uint64_t seed)
{
    struct model m = {.random = seed, .now_ns = (int64_t)(seed % 3) * NEAR_NS_PER_S};
    struct allocfail count;
    allocfail_init(&count);
    for (int i = 0; i < 2; i++)
        assert_int_equal(side_open(&m.sides[i], "model", "p:", &m.now_ns, &count.hooks), NEAR_OK);
    m.store = side_store(&m.sides[0]);
    m.channel = side_subscribe(&m.sides[1], "private");
    for (int i = 0; i < STEPS; i++)
        step(&m);
    while (m.heard < m.published)
        hear_step(&m);
    near__channel_close(m.sides[1].remote, m.channel);
    near__memory_unref(m.store);
    side_close(&m.sides[0]);
    side_close(&m.sides[1]);
    assert_int_equal(allocfail_blocks(&count), 0);
}

static void test_random_operations_agree_with_a_simple_map(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    for (int i = 0; i < ROUNDS; i++)
        run_model(seed + (uint64_t)i);
}

/* ---------------------------------------------------------------- memory */

static void test_expired_keys_do_not_pile_up(void **state)
{
    (void)state;
    _Atomic(int64_t) now_ns = NEAR_NS_PER_S;
    struct allocfail count;
    struct side s;
    allocfail_init(&count);
    assert_int_equal(side_open(&s, "piles", "", &now_ns, &count.hooks), NEAR_OK);
    int64_t after_ten = 0;
    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < 100; i++) {
            char key[24];
            snprintf(key, sizeof key, "%d.%d", round, i); /* never seen again */
            struct near__request q = side_set_request(key, "some value");
            q.ttl_ms = 10;
            assert_int_equal(side_run(&s, &q), NEAR_OK);
        }
        near__clock_advance(&now_ns, 20 * NEAR_NS_PER_MS);
        if (round == 10)
            after_ten = allocfail_blocks(&count);
    }
    assert_true(allocfail_blocks(&count) <= after_ten + 300);
    side_close(&s);
    assert_int_equal(allocfail_blocks(&count), 0);
}

/* What was refused for want of memory has not happened; what was done is whole. */
static void expect_one_of(struct side *s, struct allocfail *a, const char *key, int status, const char *before,
                          const char *after)
{
    uint64_t from = a->fail_from;
    a->fail_from = 0; /* asking must not fail */
    assert_true(status == NEAR_OK || status == NEAR_ERR_NOMEM);
    side_expect(s, key, status == NEAR_OK ? after : before);
    a->fail_from = from;
}

static void try_requests(struct side *s, struct allocfail *a)
{
    char key[600];
    memset(key, 'k', sizeof key); /* longer than the room on the stack */
    key[sizeof key - 1] = 0;
    struct near__request q = side_set_request(key, "one");
    int status = side_run(s, &q);
    expect_one_of(s, a, key, status, NULL, "one");
    const char *before = status == NEAR_OK ? "one" : NULL;
    q.value = "two";
    status = side_run(s, &q);
    expect_one_of(s, a, key, status, before, "two");
    q = side_request(NEAR_OP_INCR, "n");
    q.number = 4;
    expect_one_of(s, a, "n", side_run(s, &q), NULL, "4");
    q = side_request(NEAR_OP_FETCH, "n");
    side_run(s, &q);
    near__free(&s->alloc, q.value_out);
    q = (struct near__request){.operation = NEAR_OP_PROVE, .body = "p", .body_size = 1};
    assert_int_equal(side_run(s, &q), NEAR_OK);
}

/* A message is read, or the channel says that it is lost: never silence. */
static void try_channel(struct side *s)
{
    struct near__channel *c;
    struct near__channel_message m = {0};
    near_error error;
    uint64_t removed;
    if (near__channel_open(s->remote, "p", side_deadline(s), &c, &error) != NEAR_OK)
        return;
    struct near__request q = side_request(NEAR_OP_CLEAR, "body");
    int written = side_run(s, &q) == NEAR_OK;
    near__channel_ping(s->remote, c, "end", side_deadline(s));
    for (int heard = 0; m.event != NEAR_CHANNEL_PONG && m.event != NEAR_CHANNEL_LOST; heard++) {
        near__channel_read(s->remote, c, side_deadline(s), &m);
        if (m.event == NEAR_CHANNEL_PONG)
            assert_int_equal(heard, written);
    }
    near__channel_close(s->remote, c);
    near__remote_clear_keys(s->remote, side_deadline(s), &removed);
}

static void try_everything(struct allocfail *a)
{
    _Atomic(int64_t) now_ns = NEAR_NS_PER_S;
    struct side s;
    int status = side_open(&s, "scarce", "prefix", &now_ns, &a->hooks);
    if (status != NEAR_OK) {
        assert_int_equal(status, NEAR_ERR_NOMEM);
        return;
    }
    struct near__memory_store *store = side_store(&s);
    for (int i = 0; i < 400; i++) { /* so many that uthash grows its own tables */
        char key[16];
        snprintf(key, sizeof key, "%d", i);
        struct near__request q = side_set_request(key, "v");
        expect_one_of(&s, a, key, side_run(&s, &q), NULL, "v");
    }
    try_requests(&s, a);
    try_channel(&s);
    near__memory_snapshot(store);
    near__memory_restart(store, 1);
    near__memory_impatient(store, 1);
    near__memory_fault(store, NEAR_FAULT_HOLD_REQUESTS, 0, -1);
    struct near__request q = side_set_request("held", "v");
    side_run(&s, &q);
    near__memory_unref(store);
    side_close(&s);
}

static void test_R52_any_allocation_may_fail(void **state)
{
    (void)state;
    struct allocfail a;
    allocfail_init(&a);
    try_everything(&a);
    uint64_t all = allocfail_calls(&a);
    for (uint64_t n = 1; n <= all; n += n < 30 || n + 80 > all ? 1 : 7) {
        allocfail_at(&a, n);
        try_everything(&a);
        assert_int_equal(allocfail_blocks(&a), 0);
        allocfail_from(&a, n);
        try_everything(&a);
        assert_int_equal(allocfail_blocks(&a), 0);
    }
}

/* A value with tags, which then is written anew by operation, at whose n-th allocation memory ends.  Whatever comes of
 * it, no value is there without the tags that it had or was to get: it would outlive their invalidation. */
static struct near__request tagged(enum near__operation operation, const char *value)
{
    static const char extra[] = "1\0abc\0red";
    struct near__request q = side_request(operation, "k");
    q.expected = "A";
    q.expected_size = 1;
    q.value = value;
    q.value_size = strlen(value);
    if (operation == NEAR_OP_FILL) {
        q.extra = extra;
        q.extra_size = sizeof extra;
    }
    q.ttl_ms = 60000;
    if (operation == NEAR_OP_RELEASE)
        q.flags = NEAR_RELEASE_ABSENT;
    return q;
}

static void get_lease(struct side *s)
{
    struct near__request q = tagged(NEAR_OP_LEASE, "");
    q.flags = NEAR_LEASE_FORCE;
    assert_int_equal(side_run(s, &q), NEAR_OK);
    assert_int_equal(q.lease, NEAR_LEASE_GOT);
    near__free(&s->alloc, q.value_out);
}

static int is_there(struct side *s, const char *key, const char *value)
{
    struct near__request q = side_request(NEAR_OP_FETCH, key);
    int status = side_run(s, &q);
    int is = status == NEAR_OK &&
             (!value || (q.value_out_size == strlen(value) && memcmp(q.value_out, value, q.value_out_size) == 0));
    near__free(&s->alloc, q.value_out);
    return is;
}

/* 0: no allocation failed. */
static int try_tagged(enum near__operation operation, uint64_t n, int before)
{
    _Atomic(int64_t) now_ns = NEAR_NS_PER_S;
    struct allocfail a;
    struct side s;
    allocfail_init(&a);
    assert_int_equal(side_open(&s, "tagged", "p:", &now_ns, &a.hooks), NEAR_OK);
    get_lease(&s);
    if (before) {
        struct near__request q = tagged(NEAR_OP_FILL, "before");
        assert_int_equal(side_run(&s, &q), NEAR_OK);
        get_lease(&s);
    }
    struct near__request q = tagged(operation, "after");
    allocfail_at(&a, n);
    int status = side_run(&s, &q);
    uint64_t struck = allocfail_struck(&a);
    allocfail_at(&a, 0);
    assert_int_equal(status, struck ? NEAR_ERR_NOMEM : NEAR_OK);
    if (is_there(&s, "k", "before") || (operation == NEAR_OP_FILL && is_there(&s, "k", NULL)))
        assert_true(is_there(&s, "k" NEAR_TAGS_SUFFIX, NULL));
    side_close(&s);
    assert_int_equal(allocfail_blocks(&a), 0);
    return struck != 0;
}

static void test_R52_without_memory_no_value_loses_its_tags(void **state)
{
    static const enum near__operation operations[] = {NEAR_OP_FILL, NEAR_OP_SET, NEAR_OP_RELEASE};
    (void)state;
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
        for (int before = 0; before < 2; before++)
            for (uint64_t n = 1; try_tagged(operations[i], n, before); n++)
                ;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_operations_agree_with_a_simple_map),
        cmocka_unit_test(test_expired_keys_do_not_pile_up),
        cmocka_unit_test(test_R52_any_allocation_may_fail),
        cmocka_unit_test(test_R52_without_memory_no_value_loses_its_tags),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
