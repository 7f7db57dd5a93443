/* SPDX-License-Identifier: BSD-3-Clause
 * Messages on the shared channel, heartbeats and answers: there is one encoding of each, and nothing outside the
 * payload is read. */
#include <string.h>

#include "base/alloc.h"
#include "coherence/message.h"
#include "fuzz/fuzz.h"

static int is_inside(const void *at, size_t size, const uint8_t *data, size_t data_size)
{
    const uint8_t *bytes = at;
    return bytes >= data && size <= data_size && bytes <= data + data_size - size;
}

/* What was read, written again, is what it was read from. */
static void write_again(const struct near__message *m, const uint8_t *data, size_t size)
{
    struct near__alloc alloc;
    struct near__buffer b;
    static const void *keys[NEAR_MESSAGE_KEYS_MAX];
    static size_t sizes[NEAR_MESSAGE_KEYS_MAX];
    const unsigned char *cursor = NULL;
    const uint8_t *body = memchr(data, ':', size);
    size_t count = 0;
    while (count < NEAR_MESSAGE_KEYS_MAX && near__message_next_key(m, &cursor, &keys[count], &sizes[count])) {
        FUZZ_CHECK(is_inside(keys[count], sizes[count], data, size));
        count++;
    }
    FUZZ_CHECK(count == m->key_count);
    FUZZ_CHECK(!m->has_value || is_inside(m->value, m->value_size, data, size));
    near__alloc_init(&alloc, NULL);
    near__buffer_init(&b, &alloc);
    near__message_encode(&b, m, keys, sizes);
    FUZZ_CHECK(!b.failed && body && b.size == size - (size_t)(body + 1 - data) &&
               memcmp(b.data, body + 1, b.size) == 0);
    near__buffer_fini(&b);
}

/* What follows an answer's number, or is the report of what was held. */
static void read_answer(const uint8_t *data, size_t size)
{
    uint64_t roll;
    const void *rest;
    size_t rest_size, cursor = 0, count = 0;
    uint32_t hash;
    unsigned held;
    unsigned char again[NEAR_MESSAGE_HELD];
    char text[64];
    if (near__message_decode_answer(data, size, &roll, &rest, &rest_size) != 0)
        return;
    int length = snprintf(text, sizeof(text), "A%llu:", (unsigned long long)roll);
    FUZZ_CHECK((size_t)length + rest_size == size && memcmp(text, data, (size_t)length) == 0);
    FUZZ_CHECK(rest == data + length);
    while (near__message_decode_held(rest, rest_size, &cursor, &hash, &held) > 0) {
        near__message_encode_held(again, hash, held);
        FUZZ_CHECK(memcmp(again, (const uint8_t *)rest + count++ * NEAR_MESSAGE_HELD, NEAR_MESSAGE_HELD) == 0);
    }
    FUZZ_CHECK(count == (rest_size % NEAR_MESSAGE_HELD == 0 ? rest_size / NEAR_MESSAGE_HELD : 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct near__message m;
    uint64_t nonce, position;
    const void *history;
    size_t history_size;
    char text[64];
    if (near__message_decode(data, size, &m) == 0)
        write_again(&m, data, size);
    if (near__message_decode_proof(data, size, &nonce, &position, &history, &history_size) == 0) {
        int length = snprintf(text, sizeof(text), "P%llu:%llu%s", (unsigned long long)nonce,
                              (unsigned long long)position, history_size ? ":" : "");
        FUZZ_CHECK((size_t)length + history_size == size && memcmp(text, data, (size_t)length) == 0);
        FUZZ_CHECK((const uint8_t *)history == data + length);
    }
    read_answer(data, size);
    return 0;
}
