/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The codec of messages: strict in what it reads, since whatever cannot be read may have told of a write (R37).  There
 * is exactly one encoding of every message; anything else, however slightly different, is refused. */
#include "coherence/message.h"

#include <string.h>

#include "nearcache.h"

enum { ENVELOPE_VERSION = '1', BODY_FORMAT = 1, FLAG_VALUE = 1u << 0, FLAG_ASKS = 1u << 1 };

/* ---------------------------------------------------------------- writing */

static void append_u64(struct near__buffer *b, uint64_t number)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(number >> (8 * i));
    near__buffer_append(b, bytes, sizeof(bytes));
}

static void append_bytes(struct near__buffer *b, const void *bytes, size_t size)
{
    near__buffer_append_varint(b, size);
    near__buffer_append(b, bytes, size);
}

void near__message_encode(struct near__buffer *b, const struct near__message *m, const void *const *keys,
                          const size_t *key_sizes)
{
    near__buffer_append_byte(b, BODY_FORMAT);
    near__buffer_append_byte(b, (unsigned char)m->operation);
    append_u64(b, m->sender);
    append_u64(b, m->write_id);
    append_u64(b, (uint64_t)m->sent_ns);
    append_u64(b, m->host);
    near__buffer_append_byte(b, m->has_value ? FLAG_VALUE : m->asks ? FLAG_ASKS : 0);
    near__buffer_append_varint(b, m->key_count);
    for (size_t i = 0; i < m->key_count; i++)
        append_bytes(b, keys[i], key_sizes[i]);
    if (!m->has_value)
        return;
    append_bytes(b, m->value, m->value_size);
    near__buffer_append_varint(b, (uint64_t)(m->ttl_ms + 1));
}

/* ---------------------------------------------------------------- reading */

/* What is left to read; once bad, nothing more is read. */
struct input {
    const unsigned char *at, *end;
    int bad;
};

static unsigned read_byte(struct input *in)
{
    if (in->bad || in->at == in->end) {
        in->bad = 1;
        return 0;
    }
    return *in->at++;
}

static uint64_t read_u64(struct input *in)
{
    uint64_t number = 0;
    for (int i = 0; i < 8; i++)
        number |= (uint64_t)read_byte(in) << (8 * i);
    return number;
}

/* LEB128 in its shortest form. */
static uint64_t read_varint(struct input *in)
{
    uint64_t number = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        unsigned byte = read_byte(in);
        number |= (uint64_t)(byte & 0x7f) << shift;
        if (byte & 0x80)
            continue;
        if ((shift > 0 && byte == 0) || (shift == 63 && byte > 1))
            in->bad = 1;
        return number;
    }
    in->bad = 1;
    return 0;
}

static const unsigned char *read_bytes(struct input *in, uint64_t size)
{
    const unsigned char *bytes = in->at;
    if (in->bad || size > (uint64_t)(in->end - in->at)) {
        in->bad = 1;
        return NULL;
    }
    in->at += size;
    return bytes;
}

/* Digits up to `stop` (0: up to the end), without leading zeros; Redis's integers end at 2^63-1. */
static uint64_t read_decimal(struct input *in, unsigned char stop)
{
    uint64_t number = 0;
    const unsigned char *first = in->at;
    while (!in->bad && in->at < in->end && *in->at >= '0' && *in->at <= '9') {
        unsigned digit = *in->at++ - '0';
        if (number > ((uint64_t)INT64_MAX - digit) / 10)
            in->bad = 1;
        number = number * 10 + digit;
    }
    if (in->at == first || (*first == '0' && in->at - first > 1))
        in->bad = 1;
    if (stop ? read_byte(in) != stop : in->at != in->end)
        in->bad = 1;
    return number;
}

static void read_keys(struct input *in, struct near__message *m)
{
    uint64_t count = read_varint(in);
    if (count > NEAR_MESSAGE_KEYS_MAX || (count == 0) != (m->operation == NEAR_MESSAGE_CLEAR))
        in->bad = 1;
    m->key_count = (size_t)count;
    m->keys = in->at;
    for (uint64_t i = 0; i < count && !in->bad; i++) {
        uint64_t size = read_varint(in);
        if (size > NEAR_KEY_MAX)
            in->bad = 1;
        read_bytes(in, size);
    }
    m->end = in->at;
}

static void read_value(struct input *in, struct near__message *m)
{
    m->value_size = (size_t)read_varint(in);
    m->value = read_bytes(in, m->value_size);
    uint64_t ttl = read_varint(in);
    if (ttl > (uint64_t)INT64_MAX)
        in->bad = 1;
    m->ttl_ms = (int64_t)ttl - 1;
}

static void read_body(struct input *in, struct near__message *m)
{
    if (read_byte(in) != BODY_FORMAT)
        in->bad = 1;
    unsigned operation = read_byte(in);
    if (operation < NEAR_MESSAGE_SET || operation >= NEAR_MESSAGE_OPERATIONS_)
        in->bad = 1;
    m->operation = (enum near__message_operation)operation;
    m->sender = read_u64(in);
    m->write_id = read_u64(in);
    m->sent_ns = (int64_t)read_u64(in);
    m->host = read_u64(in);
    unsigned flags = read_byte(in);
    if (flags > FLAG_ASKS || (flags == FLAG_ASKS && m->operation != NEAR_MESSAGE_SET))
        in->bad = 1;
    read_keys(in, m);
    m->has_value = flags == FLAG_VALUE;
    m->asks = flags == FLAG_ASKS;
    if (m->has_value)
        read_value(in, m);
}

int near__message_decode(const void *payload, size_t size, struct near__message *ret)
{
    if (!size)
        return -1;
    struct input in = {.at = payload, .end = (const unsigned char *)payload + size};
    memset(ret, 0, sizeof(*ret));
    ret->ttl_ms = -1;
    if (read_byte(&in) != ENVELOPE_VERSION)
        return -1;
    ret->position = read_decimal(&in, ':');
    if (in.bad)
        return -1;
    read_body(&in, ret);
    return in.bad || in.at != in.end ? -1 : 0;
}

int near__message_next_key(const struct near__message *m, const unsigned char **cursor, const void **ret_key,
                           size_t *ret_size)
{
    struct input in = {.at = *cursor ? *cursor : m->keys, .end = m->end};
    if (in.at == in.end)
        return 0;
    size_t size = (size_t)read_varint(&in);
    const unsigned char *key = read_bytes(&in, size);
    if (in.bad)
        return 0;
    *ret_key = key;
    *ret_size = size;
    *cursor = in.at;
    return 1;
}

int near__message_decode_proof(const void *payload, size_t size, uint64_t *ret_nonce, uint64_t *ret_position,
                               const void **ret_history, size_t *ret_size)
{
    if (!size)
        return -1;
    struct input in = {.at = payload, .end = (const unsigned char *)payload + size};
    if (read_byte(&in) != 'P')
        return -1;
    *ret_nonce = read_decimal(&in, ':');
    const unsigned char *second = in.bad ? NULL : memchr(in.at, ':', (size_t)(in.end - in.at));
    *ret_position = in.bad ? 0 : read_decimal(&in, second ? ':' : 0);
    *ret_history = in.at;
    *ret_size = (size_t)(in.end - in.at);
    return in.bad || (second && *ret_size == 0) ? -1 : 0;
}

int near__message_decode_answer(const void *payload, size_t size, uint64_t *ret_roll, const void **ret_name,
                                size_t *ret_size)
{
    if (!size)
        return -1;
    struct input in = {.at = payload, .end = (const unsigned char *)payload + size};
    if (read_byte(&in) != 'A')
        return -1;
    *ret_roll = read_decimal(&in, ':');
    *ret_name = in.at;
    *ret_size = (size_t)(in.end - in.at);
    return in.bad ? -1 : 0;
}

void near__message_encode_held(unsigned char *at, uint32_t hash, unsigned held)
{
    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(hash >> (8 * i));
    at[4] = (unsigned char)held;
    at[5] = (unsigned char)(held >> 8);
}

int near__message_decode_held(const void *report, size_t size, size_t *cursor, uint32_t *ret_hash, unsigned *ret_held)
{
    const unsigned char *at = (const unsigned char *)report + *cursor;
    if (size % NEAR_MESSAGE_HELD != 0)
        return -1;
    if (*cursor == size)
        return 0;
    *ret_hash = at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
    *ret_held = at[4] | (unsigned)at[5] << 8;
    *cursor += NEAR_MESSAGE_HELD;
    return 1;
}
