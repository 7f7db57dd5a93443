/* SPDX-License-Identifier: BSD-3-Clause
 * The codec: whatever is written can be read, and nothing else can (R37). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/random.h"
#include "coherence/message.h"
#include "nearcache.h"
#include "support/seed.h"

enum { KEYS_MAX = 40 };

static struct near__alloc alloc;

/* A message with its keys, as a writer has it. */
struct sample {
    struct near__message m;
    unsigned char bytes[KEYS_MAX][300];
    const void *keys[KEYS_MAX];
    size_t sizes[KEYS_MAX];
    unsigned char value[300];
};

static void make_sample(struct sample *s, uint64_t *random)
{
    memset(s, 0, sizeof(*s));
    s->m.position = near__random_next(random) >> (1 + near__random_below(random, 62));
    s->m.operation = (enum near__message_operation)(1 + near__random_below(random, NEAR_MESSAGE_OPERATIONS_ - 1));
    s->m.sender = near__random_next(random);
    s->m.write_id = near__random_next(random);
    s->m.host = near__random_next(random);
    s->m.sent_ns = (int64_t)near__random_next(random);
    s->m.key_count = s->m.operation == NEAR_MESSAGE_CLEAR ? 0 : 1 + near__random_below(random, KEYS_MAX);
    for (size_t i = 0; i < s->m.key_count; i++) {
        s->sizes[i] = near__random_below(random, sizeof(s->bytes[i]));
        s->keys[i] = s->bytes[i];
        for (size_t j = 0; j < s->sizes[i]; j++)
            s->bytes[i][j] = (unsigned char)near__random_next(random);
    }
    s->m.has_value = near__random_below(random, 2) == 0;
    s->m.asks = !s->m.has_value && s->m.operation == NEAR_MESSAGE_SET && near__random_below(random, 2) == 0;
    s->m.value = s->value;
    s->m.value_size = s->m.has_value ? near__random_below(random, sizeof(s->value)) : 0;
    s->m.ttl_ms = s->m.has_value && near__random_below(random, 2) ? (int64_t)near__random_below(random, 1000000) : -1;
}

static void encode(struct near__buffer *b, const struct sample *s)
{
    char head[32];
    near__buffer_init(b, &alloc);
    near__buffer_append(b, head, (size_t)snprintf(head, sizeof(head), "1%" PRIu64 ":", s->m.position));
    near__message_encode(b, &s->m, s->keys, s->sizes);
    assert_int_equal(b->failed, 0);
}

static void assert_same(const struct sample *s, const struct near__message *m)
{
    assert_int_equal(m->position, s->m.position);
    assert_int_equal(m->operation, s->m.operation);
    assert_int_equal(m->sender, s->m.sender);
    assert_int_equal(m->write_id, s->m.write_id);
    assert_int_equal(m->host, s->m.host);
    assert_int_equal(m->sent_ns, s->m.sent_ns);
    assert_int_equal(m->has_value, s->m.has_value);
    assert_int_equal(m->asks, s->m.asks);
    assert_int_equal(m->ttl_ms, s->m.ttl_ms);
    assert_int_equal(m->key_count, s->m.key_count);
    if (m->has_value) {
        assert_int_equal(m->value_size, s->m.value_size);
        assert_memory_equal(m->value, s->value, s->m.value_size);
    }
    const unsigned char *cursor = NULL;
    const void *key;
    size_t size, i = 0;
    while (near__message_next_key(m, &cursor, &key, &size)) {
        assert_true(i < s->m.key_count);
        assert_int_equal(size, s->sizes[i]);
        assert_memory_equal(key, s->bytes[i], size);
        i++;
    }
    assert_int_equal(i, s->m.key_count);
}

static void test_what_is_encoded_decodes_equal(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    for (int i = 0; i < 3000; i++) {
        struct sample s;
        struct near__buffer b;
        struct near__message m;
        make_sample(&s, &random);
        encode(&b, &s);
        assert_int_equal(near__message_decode(b.data, b.size, &m), 0);
        assert_same(&s, &m);
        near__buffer_fini(&b);
    }
}

/* Every prefix, and every message with something behind it, is refused: there is one encoding. */
static void test_R37_truncated_or_extended_messages_are_malformed(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    for (int i = 0; i < 100; i++) {
        struct sample s;
        struct near__buffer b;
        struct near__message m;
        make_sample(&s, &random);
        encode(&b, &s);
        for (size_t size = 0; size < b.size; size++) {
            unsigned char *exact = near__memdup(&alloc, b.data, size); /* so that reading beyond is seen */
            assert_int_equal(near__message_decode(exact, size, &m), -1);
            near__free(&alloc, exact);
        }
        near__buffer_append_byte(&b, 0);
        assert_int_equal(near__message_decode(b.data, b.size, &m), -1);
        near__buffer_fini(&b);
    }
}

/* Random damage never leads outside the payload, and what still decodes can be walked. */
static void test_R37_damaged_messages_never_crash(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    for (int i = 0; i < 20000; i++) {
        struct sample s;
        struct near__buffer b;
        struct near__message m;
        const unsigned char *cursor = NULL;
        const void *key;
        size_t size, count = 0;
        make_sample(&s, &random);
        encode(&b, &s);
        for (unsigned n = 1 + near__random_below(&random, 4); n > 0; n--)
            b.data[near__random_below(&random, (uint32_t)b.size)] = (unsigned char)near__random_next(&random);
        unsigned char *exact = near__memdup(&alloc, b.data, b.size);
        if (near__message_decode(exact, b.size, &m) == 0) {
            while (near__message_next_key(&m, &cursor, &key, &size))
                count++;
            assert_int_equal(count, m.key_count);
        }
        near__free(&alloc, exact);
        near__buffer_fini(&b);
    }
}

static void test_R37_random_bytes_never_crash(void **state)
{
    (void)state;
    uint64_t random = test_seed();
    struct near__message m;
    for (int i = 0; i < 20000; i++) {
        size_t size = near__random_below(&random, 100);
        unsigned char *bytes = near__alloc(&alloc, size);
        for (size_t j = 0; j < size; j++)
            bytes[j] = (unsigned char)near__random_next(&random);
        if (size > 4 && i % 2)
            memcpy(bytes, "17:\1", 4);
        near__message_decode(bytes, size, &m);
        near__free(&alloc, bytes);
    }
}

static int decode_bytes(const unsigned char *body, size_t size, const char *head)
{
    struct near__buffer b;
    struct near__message m;
    near__buffer_init(&b, &alloc);
    near__buffer_append(&b, head, strlen(head));
    near__buffer_append(&b, body, size);
    int result = near__message_decode(b.data, b.size, &m);
    near__buffer_fini(&b);
    return result;
}

static void test_R37_other_versions_and_numbers_are_malformed(void **state)
{
    (void)state;
    unsigned char body[40] = {1, NEAR_MESSAGE_SET, [34] = 0, 1, 1, 'k'};
    const size_t size = 38;
    assert_int_equal(decode_bytes(body, size, "17:"), 0);
    assert_int_equal(decode_bytes(body, size, "10:"), 0);
    assert_int_equal(decode_bytes(body, size, "19223372036854775807:"), 0);
    static const char *const heads[] = {"",
                                        "1",
                                        "1:",
                                        "27:",
                                        "07:",
                                        "107:",
                                        "1-7:",
                                        "1+7:",
                                        "17",
                                        "17 :",
                                        "1 7:",
                                        "17::",
                                        "19223372036854775808:",
                                        "118446744073709551616:",
                                        "199999999999999999999999:"};
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
        assert_int_equal(decode_bytes(body, size, heads[i]), -1);
    static const struct {
        int at, byte;
    } changes[] = {{0, 0},   {0, 2},
                   {1, 0},   {1, NEAR_MESSAGE_OPERATIONS_},
                   {1, 255}, {1, NEAR_MESSAGE_CLEAR},
                   {34, 3},  {34, 4},
                   {34, 1},  {35, 0},
                   {35, 2},  {36, 2},
                   {36, 0},  {36, 0x81}};
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        unsigned char changed[sizeof(body)];
        memcpy(changed, body, sizeof(body));
        changed[changes[i].at] = (unsigned char)changes[i].byte;
        assert_int_equal(decode_bytes(changed, size, "17:"), -1);
    }
    body[34] = 2; /* who asks what was held has written a value */
    assert_int_equal(decode_bytes(body, size, "17:"), 0);
    body[1] = NEAR_MESSAGE_DEL;
    assert_int_equal(decode_bytes(body, size, "17:"), -1);
}

static void test_too_many_or_too_long_keys_are_malformed(void **state)
{
    (void)state;
    static unsigned char long_key[NEAR_KEY_MAX + 1];
    static const void *keys[NEAR_MESSAGE_KEYS_MAX + 1];
    static size_t sizes[NEAR_MESSAGE_KEYS_MAX + 1];
    for (int i = 0; i < 4; i++) {
        struct near__message m = {.operation = NEAR_MESSAGE_DEL, .key_count = 1}, decoded;
        keys[0] = long_key;
        sizes[0] = i == 1 ? sizeof(long_key) : i == 0 ? sizeof(long_key) - 1 : 0;
        if (i >= 2)
            m.key_count = i == 2 ? NEAR_MESSAGE_KEYS_MAX : NEAR_MESSAGE_KEYS_MAX + 1;
        for (size_t k = 1; k < m.key_count; k++)
            keys[k] = long_key;
        struct near__buffer b;
        near__buffer_init(&b, &alloc);
        near__buffer_append(&b, "17:", 3);
        near__message_encode(&b, &m, keys, sizes);
        assert_int_equal(b.failed, 0);
        assert_int_equal(near__message_decode(b.data, b.size, &decoded), i % 2 ? -1 : 0);
        near__buffer_fini(&b);
    }
}

static void test_R25_proofs_are_read_exactly(void **state)
{
    (void)state;
    uint64_t nonce, position;
    const void *history;
    size_t size;
    assert_int_equal(near__message_decode_proof("P12:34", 6, &nonce, &position, &history, &size), 0);
    assert_int_equal(nonce, 12);
    assert_int_equal(position, 34);
    assert_int_equal(size, 0);
    assert_int_equal(near__message_decode_proof("P12:34:0a:1", 11, &nonce, &position, &history, &size), 0);
    assert_int_equal(nonce, 12);
    assert_int_equal(position, 34);
    assert_int_equal(size, 4);
    assert_memory_equal(history, "0a:1", 4);
    assert_int_equal(near__message_decode_proof("P9223372036854775807:0", 22, &nonce, &position, &history, &size), 0);
    static const char *const bad[] = {"",
                                      "P",
                                      "P:",
                                      "P1:",
                                      "P:1",
                                      "p1:1",
                                      "P1:1 ",
                                      "P1 :1",
                                      "P01:1",
                                      "P1:01",
                                      "P1:1:",
                                      "P-1:1",
                                      "1:1",
                                      "P1::1",
                                      "P1:1 :1",
                                      "P1:9223372036854775808",
                                      "P1:9223372036854775808:1"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(near__message_decode_proof(bad[i], strlen(bad[i]), &nonce, &position, &history, &size), -1);
}

int main(void)
{
    near__alloc_init(&alloc, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_encoded_decodes_equal),
        cmocka_unit_test(test_R37_truncated_or_extended_messages_are_malformed),
        cmocka_unit_test(test_R37_damaged_messages_never_crash),
        cmocka_unit_test(test_R37_random_bytes_never_crash),
        cmocka_unit_test(test_R37_other_versions_and_numbers_are_malformed),
        cmocka_unit_test(test_too_many_or_too_long_keys_are_malformed),
        cmocka_unit_test(test_R25_proofs_are_read_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
