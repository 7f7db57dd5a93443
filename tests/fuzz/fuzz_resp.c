/* SPDX-License-Identifier: BSD-3-Clause
 * Replies of a server, read by remote/resp.c (hiredis's reader, fenced in) and by a second reader that is written down
 * here straight from the protocol.  Both must see the same values; and in whatever pieces the bytes come, the values
 * are the same. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memmem */
#endif
#include <inttypes.h>
#include <string.h>

#include "fuzz/fuzz.h"
#include "remote/resp.h"

enum { BULK_MAX = 1000, DEPTH = 3, ELEMENTS = 65536 };

/* ---------------------------------------------------------------- the second reader */

enum state { GOOD, MORE, BAD };

/* Values as text, so that two readers' can be compared: "[…]" arrays, "=5:bytes" strings and so on. */
struct text {
    char *bytes;
    size_t size, room;
};

static void put(struct text *t, const void *bytes, size_t size)
{
    while (t->size + size > t->room) {
        t->room = t->room ? t->room * 2 : 256;
        t->bytes = realloc(t->bytes, t->room);
        FUZZ_CHECK(t->bytes);
    }
    if (size)
        memcpy(t->bytes + t->size, bytes, size);
    t->size += size;
}

static void put_sized(struct text *t, char kind, const char *bytes, size_t size)
{
    char head[32];
    put(t, head, (size_t)snprintf(head, sizeof(head), "%c%zu:", kind, size));
    put(t, bytes, size);
}

static void put_number(struct text *t, int64_t number)
{
    char head[32];
    put(t, head, (size_t)snprintf(head, sizeof(head), "#%" PRId64 ";", number));
}

struct reader {
    const char *at, *end;
};

/* A line without its end. */
static enum state line(struct reader *r, const char **ret, size_t *ret_size)
{
    const char *end = memmem(r->at, (size_t)(r->end - r->at), "\r\n", 2);
    if (!end)
        return MORE;
    *ret = r->at;
    *ret_size = (size_t)(end - r->at);
    r->at = end + 2;
    return GOOD;
}

/* Decimal, as a server writes it: no plus, no leading zeros, 64 bits. */
static int decimal(const char *text, size_t size, int64_t *ret)
{
    uint64_t number = 0;
    size_t i = size && text[0] == '-';
    int negative = i == 1;
    if (size == i || (text[i] == '0' && (size > i + 1 || negative)))
        return 0;
    for (; i < size; i++) {
        unsigned digit = (unsigned char)text[i] - '0';
        if (digit > 9 || number > ((uint64_t)INT64_MAX + (uint64_t)negative - digit) / 10)
            return 0;
        number = number * 10 + digit;
    }
    *ret = (int64_t)(negative ? 0 - number : number);
    return 1;
}

static enum state value(struct reader *r, int depth, struct text *t);

static enum state bulk(struct reader *r, int64_t size, struct text *t)
{
    if (size == -1) {
        put(t, "~", 1);
        return GOOD;
    }
    if (size < 0 || size > BULK_MAX)
        return BAD;
    if (r->end - r->at < size + 2)
        return MORE;
    if (memcmp(r->at + size, "\r\n", 2) != 0)
        return BAD;
    put_sized(t, '=', r->at, (size_t)size);
    r->at += size + 2;
    return GOOD;
}

static enum state array(struct reader *r, int64_t count, int depth, struct text *t)
{
    enum state state = GOOD;
    if (count == -1) {
        put(t, "~", 1);
        return GOOD;
    }
    if (count < 0 || count > ELEMENTS || depth > DEPTH)
        return BAD;
    put(t, "[", 1);
    for (int64_t i = 0; i < count && state == GOOD; i++)
        state = value(r, depth + 1, t);
    put(t, "]", 1);
    return state;
}

static enum state read_value(struct reader *r, int depth, struct text *t)
{
    const char *text;
    size_t size;
    int64_t number = 0;
    if (r->at == r->end)
        return MORE;
    char kind = *r->at++;
    if (!strchr("+-:$*", kind) || !kind)
        return BAD;
    enum state state = line(r, &text, &size);
    if (state != GOOD)
        return state;
    if (kind == '+' || kind == '-') {
        put_sized(t, kind, text, size);
        return GOOD;
    }
    if (!decimal(text, size, &number))
        return BAD;
    if (kind == ':') {
        put_number(t, number);
        return GOOD;
    }
    return kind == '$' ? bulk(r, number, t) : array(r, number, depth, t);
}

/* What is too deep is refused once it is there. */
static enum state value(struct reader *r, int depth, struct text *t)
{
    enum state state = read_value(r, depth, t);
    return state == GOOD && depth > DEPTH ? BAD : state;
}

/* ---------------------------------------------------------------- ours */

static void put_reply(struct text *t, const struct near__reply *reply)
{
    switch (reply->type) {
    case REDIS_REPLY_STRING:
        put_sized(t, '=', reply->data, reply->size);
        break;
    case REDIS_REPLY_STATUS:
        put_sized(t, '+', reply->data, reply->size);
        break;
    case REDIS_REPLY_ERROR:
        put_sized(t, '-', reply->data, reply->size);
        break;
    case REDIS_REPLY_INTEGER:
        put_number(t, reply->integer);
        break;
    case REDIS_REPLY_NIL:
        put(t, "~", 1);
        break;
    default:
        FUZZ_CHECK(reply->type == REDIS_REPLY_ARRAY);
        put(t, "[", 1);
        for (size_t i = 0; i < reply->count; i++)
            put_reply(t, reply->element[i]);
        put(t, "]", 1);
    }
}

/* Feeds the bytes in pieces (0: all at once) and gathers the values; returns how it ended. */
static enum state read_ours(const uint8_t *data, size_t size, size_t piece, struct text *t, size_t *ret_values)
{
    struct near__alloc alloc;
    struct near__resp resp;
    int got = 0;
    near__alloc_init(&alloc, NULL);
    FUZZ_CHECK(near__resp_init(&resp, &alloc, BULK_MAX) == NEAR_OK);
    for (size_t at = 0; at < size && got >= 0;) {
        size_t part = piece && piece < size - at ? piece : size - at;
        struct near__reply *reply = NULL;
        FUZZ_CHECK(near__resp_feed(&resp, data + at, part) == 0);
        at += part;
        while ((got = near__resp_next(&resp, &reply)) == 1) {
            put_reply(t, reply);
            near__reply_free(reply);
            ++*ret_values;
        }
    }
    FUZZ_CHECK(got >= 0 || (resp.fault.status < 0 && resp.fault.text[0]));
    near__resp_fini(&resp);
    return got < 0 ? BAD : MORE;
}

static void compare(const uint8_t *data, size_t size)
{
    struct text theirs = {0}, ours = {0};
    struct reader r = {(const char *)data, (const char *)data + size};
    enum state state = GOOD;
    size_t values = 0, good = 0;
    for (; state == GOOD && r.at < r.end; values += state == GOOD) {
        good = theirs.size;
        state = value(&r, 0, &theirs);
    }
    if (state != GOOD)
        theirs.size = good;
    size_t our_values = 0;
    enum state our_state = read_ours(data, size, 0, &ours, &our_values);
    FUZZ_CHECK(our_values == values && ours.size == theirs.size);
    FUZZ_CHECK(!theirs.size || memcmp(ours.bytes, theirs.bytes, theirs.size) == 0);
    FUZZ_CHECK((our_state == BAD) == (state == BAD));
    free(theirs.bytes);
    free(ours.bytes);
}

static void in_pieces(const uint8_t *data, size_t size, size_t piece)
{
    struct text once = {0}, pieces = {0};
    size_t once_values = 0, piece_values = 0;
    enum state state = read_ours(data, size, 0, &once, &once_values);
    enum state piece_state = read_ours(data, size, piece, &pieces, &piece_values);
    FUZZ_CHECK(state == piece_state && once_values == piece_values && once.size == pieces.size);
    FUZZ_CHECK(!once.size || memcmp(once.bytes, pieces.bytes, once.size) == 0);
    free(once.bytes);
    free(pieces.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    compare(data, size);
    in_pieces(data, size, 1);
    in_pieces(data, size, 7);
    return 0;
}
