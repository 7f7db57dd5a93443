/* SPDX-License-Identifier: BSD-3-Clause
 * resp-server's parser: in whatever pieces a stream comes it is the same requests, every argument lies inside the
 * stream, a request written down as an array is read as what it was, and of streams without quotes a second reader,
 * written down here straight from the protocol, reads the same. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memmem */
#endif
#include <ctype.h>
#include <string.h>

#include "fuzz/fuzz.h"
#include "server/server_request.h"

static const struct request_limits limits = {.bulk_max = 1000, .request_max = 3000};

struct seen {
    char *bytes; /* the requests as arrays */
    size_t size, room, requests;
};

static void add(struct seen *s, const void *bytes, size_t size)
{
    while (s->size + size > s->room) {
        s->room = s->room ? s->room * 2 : 256;
        s->bytes = realloc(s->bytes, s->room);
        FUZZ_CHECK(s->bytes);
    }
    if (size)
        memcpy(s->bytes + s->size, bytes, size);
    s->size += size;
}

static void note(struct seen *s, const struct request *r, const char *data, size_t arrived)
{
    char head[32];
    if (!r->argc)
        return; /* nothing was asked */
    add(s, head, (size_t)snprintf(head, sizeof(head), "*%zu\r\n", r->argc));
    for (size_t i = 0; i < r->argc; i++) {
        FUZZ_CHECK(r->begin + r->argv[i].offset + r->argv[i].size <= arrived);
        add(s, head, (size_t)snprintf(head, sizeof(head), "$%zu\r\n", r->argv[i].size));
        add(s, data + r->begin + r->argv[i].offset, r->argv[i].size);
        add(s, "\r\n", 2);
    }
    s->requests++;
}

/* The bytes that have arrived move to the front when a request is done, as in the server. */
static enum request_state read_stream(const uint8_t *bytes, size_t size, size_t piece, struct seen *s)
{
    char *data = malloc(size ? size : 1);
    size_t held = 0, at = 0;
    const char *error = NULL;
    enum request_state state = REQUEST_MORE;
    struct request r;
    FUZZ_CHECK(data);
    request_init(&r);
    while (at < size && state == REQUEST_MORE) {
        size_t part = piece && piece < size - at ? piece : size - at;
        memcpy(data + held, bytes + at, part);
        held += part;
        at += part;
        while ((state = request_parse(&r, data, held, &limits, &error)) == REQUEST_READY) {
            FUZZ_CHECK(r.position <= held && r.position > r.begin);
            note(s, &r, data, held);
            request_next(&r);
        }
        size_t gone = request_rebase(&r);
        memmove(data, data + gone, held - gone);
        held -= gone;
    }
    FUZZ_CHECK(state != REQUEST_BAD || error);
    request_fini(&r);
    free(data);
    return state;
}

static void expect_same(const struct seen *a, const struct seen *b)
{
    FUZZ_CHECK(a->requests == b->requests && a->size == b->size);
    FUZZ_CHECK(!a->size || memcmp(a->bytes, b->bytes, a->size) == 0);
}

/* ---------------------------------------------------------------- the second reader */

enum state { GOOD, MORE, BAD, UNKNOWN };

struct reader {
    const char *at, *end;
};

/* "<kind><number>\r\n", the line of at most 32 bytes behind the kind. */
static enum state number(struct reader *r, char kind, long long *ret)
{
    char digits[40] = "";
    if (r->at == r->end)
        return MORE;
    if (*r->at != kind)
        return BAD;
    const char *from = r->at + 1, *end = memchr(from, '\n', (size_t)(r->end - from));
    size_t size = (size_t)((end ? end : r->end) - from);
    if (size >= 32)
        return BAD;
    if (!end)
        return MORE;
    memcpy(digits, from, size);
    size_t sign = digits[0] == '-', count = strspn(digits + sign, "0123456789");
    if (!count || count > 18 || sign + count + 1 != size || digits[size - 1] != '\r')
        return BAD;
    *ret = strtoll(digits, NULL, 10);
    r->at = end + 1;
    return GOOD;
}

static enum state bulk(struct reader *r, const char *begin, struct seen *s)
{
    char head[32];
    long long size;
    enum state state = number(r, '$', &size);
    if (state != GOOD)
        return state;
    if (size < 0 || size > (long long)limits.bulk_max ||
        (size_t)(r->at - begin) + (size_t)size + 2 > limits.request_max)
        return BAD;
    if (r->end - r->at < size + 2)
        return MORE;
    if (memcmp(r->at + size, "\r\n", 2) != 0)
        return BAD;
    add(s, head, (size_t)snprintf(head, sizeof(head), "$%lld\r\n", size));
    add(s, r->at, (size_t)size + 2);
    r->at += size + 2;
    return GOOD;
}

static enum state array(struct reader *r, struct seen *s)
{
    char head[32];
    const char *begin = r->at;
    long long count;
    enum state state = number(r, '*', &count);
    if (state != GOOD)
        return state;
    if (count > (long long)REQUEST_ARGUMENTS_MAX)
        return BAD;
    if (count > 0)
        add(s, head, (size_t)snprintf(head, sizeof(head), "*%lld\r\n", count));
    for (long long i = 0; i < count && state == GOOD; i++)
        state = bulk(r, begin, s);
    s->requests += state == GOOD && count > 0;
    return state;
}

/* Words of a line. */
static enum state words(struct reader *r, struct seen *s)
{
    char head[32];
    const char *end = memchr(r->at, '\n', (size_t)(r->end - r->at));
    struct seen words = {0};
    size_t count = 0;
    if (!end)
        return MORE;
    if (memchr(r->at, '"', (size_t)(end - r->at)) || memchr(r->at, '\'', (size_t)(end - r->at)))
        return UNKNOWN;
    for (const char *word = r->at, *stop; word < end; word = stop) {
        for (stop = word; stop < end && !isspace((unsigned char)*stop); stop++)
            ;
        if (stop > word) {
            add(&words, head, (size_t)snprintf(head, sizeof(head), "$%zu\r\n", (size_t)(stop - word)));
            add(&words, word, (size_t)(stop - word));
            add(&words, "\r\n", 2);
            count++;
        } else {
            stop++;
        }
    }
    if (count)
        add(s, head, (size_t)snprintf(head, sizeof(head), "*%zu\r\n", count));
    add(s, words.bytes, words.size);
    s->requests += count > 0;
    free(words.bytes);
    r->at = end + 1;
    return GOOD;
}

static void compare(const uint8_t *data, size_t size, const struct seen *ours, enum request_state our_state)
{
    struct reader r = {(const char *)data, (const char *)data + size};
    struct seen theirs = {0};
    enum state state = GOOD;
    size_t good = 0;
    while (state == GOOD && r.at < r.end) {
        good = theirs.size;
        state = *r.at == '*' ? array(&r, &theirs) : words(&r, &theirs);
    }
    theirs.size = state == GOOD ? theirs.size : good;
    if (state == UNKNOWN) {
        FUZZ_CHECK(ours->size >= theirs.size);
    } else {
        expect_same(ours, &theirs);
        FUZZ_CHECK((state == BAD) == (our_state == REQUEST_BAD));
    }
    FUZZ_CHECK(!theirs.size || memcmp(ours->bytes, theirs.bytes, theirs.size) == 0);
    free(theirs.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct seen whole = {0}, pieces = {0}, again = {0};
    enum request_state state = read_stream(data, size, 0, &whole);
    FUZZ_CHECK(read_stream(data, size, 1, &pieces) == state);
    expect_same(&whole, &pieces);
    compare(data, size, &whole, state);
    /* as arrays they may exceed the limit of a request, which inline ones do not have */
    if (read_stream((const uint8_t *)whole.bytes, whole.size, 0, &again) != REQUEST_BAD)
        expect_same(&whole, &again);
    free(whole.bytes);
    free(pieces.bytes);
    free(again.bytes);
    return 0;
}
