/* SPDX-License-Identifier: BSD-3-Clause
 * One process's side of a remote tier, for tests: a remote, its clock, and requests in one line. */
#ifndef NEAR_TESTS_SIDE_H
#define NEAR_TESTS_SIDE_H
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include "remote/memory.h"

#define SIDE_PATIENCE (30 * NEAR_NS_PER_S)

struct side {
    struct near__alloc alloc;
    struct near__clock clock;
    struct near__log log;
    struct near__uri uri;
    near_options options;
    struct near__remote *remote;
};

/* A remote of memory://name.  virtual_ns NULL: the kernel's clock; hooks NULL: malloc.  Returns near__remote_open's
 * status. */
static inline int side_open(struct side *s, const char *name, const char *prefix, _Atomic(int64_t) *virtual_ns,
                            const near_allocator *hooks)
{
    *s = (struct side){.clock = {.virtual_ns = virtual_ns},
                       .uri = {.kind = NEAR_URI_MEMORY, .path = (char *)(uintptr_t)name}};
    near__alloc_init(&s->alloc, hooks);
    near_options_init(&s->options);
    s->options.prefix = prefix;
    s->log.clock = &s->clock;
    struct near__remote_config config = {
        .alloc = &s->alloc, .clock = &s->clock, .log = &s->log, .uri = &s->uri, .options = &s->options};
    near_error error;
    return near__memory_open(&config, &s->remote, &error);
}

static inline void side_close(struct side *s)
{
    near__remote_close(s->remote);
    s->remote = NULL;
}

static inline struct near__memory_store *side_store(struct side *s)
{
    struct near__memory_store *store = near__memory_ref(s->uri.path, &s->alloc, &s->clock);
    assert_non_null(store);
    return store;
}

static inline int64_t side_deadline(struct side *s)
{
    return near__now(&s->clock) + SIDE_PATIENCE;
}

static inline int side_run(struct side *s, struct near__request *q)
{
    near__remote_run(s->remote, q, 1, side_deadline(s));
    return q->status;
}

/* A request about a NUL-terminated key; the key is the message too, so that messages can be told apart. */
static inline struct near__request side_request(enum near__operation operation, const char *key)
{
    return (struct near__request){
        .operation = operation, .key = key, .key_size = strlen(key), .body = key, .body_size = strlen(key)};
}

static inline struct near__request side_set_request(const char *key, const char *value)
{
    struct near__request q = side_request(NEAR_OP_SET, key);
    q.value = value;
    q.value_size = strlen(value);
    return q;
}

/* Returns the position of a successful write. */
static inline uint64_t side_set(struct side *s, const char *key, const char *value)
{
    struct near__request q = side_set_request(key, value);
    assert_int_equal(side_run(s, &q), NEAR_OK);
    return q.position;
}

static inline uint64_t side_del(struct side *s, const char *key)
{
    struct near__request q = side_request(NEAR_OP_DEL, key);
    assert_int_equal(side_run(s, &q), NEAR_OK);
    return q.position;
}

/* Asserts what a key holds; expected NULL: a miss. */
static inline void side_expect(struct side *s, const char *key, const char *expected)
{
    struct near__request q = side_request(NEAR_OP_FETCH, key);
    side_run(s, &q);
    if (!expected) {
        assert_int_equal(q.status, NEAR_MISS);
        assert_null(q.value_out);
        return;
    }
    assert_int_equal(q.status, NEAR_OK);
    assert_int_equal(q.value_out_size, strlen(expected));
    assert_memory_equal(q.value_out, expected, q.value_out_size);
    near__free(&s->alloc, q.value_out);
}

static inline struct near__channel *side_subscribe(struct side *s, const char *private_name)
{
    struct near__channel *channel = NULL;
    near_error error = {0};
    int status = near__channel_open(s->remote, private_name, side_deadline(s), &channel, &error);
    if (status != NEAR_OK)
        print_error("channel: %s\n", error.text);
    assert_int_equal(status, NEAR_OK);
    return channel;
}

/* The next thing on a channel is this one.  text may be NULL when it does not matter. */
static inline void side_hear(struct side *s, struct near__channel *channel, enum near__channel_event event,
                             const char *text)
{
    struct near__channel_message m;
    near__channel_read(s->remote, channel, side_deadline(s), &m);
    assert_int_equal(m.event, event);
    if (text) {
        char heard[256];
        snprintf(heard, sizeof heard, "%.*s", (int)m.payload_size, m.payload ? (const char *)m.payload : "");
        assert_string_equal(heard, text);
    }
}

static inline void side_hear_message(struct side *s, struct near__channel *channel, uint64_t position, const char *body)
{
    char text[256];
    snprintf(text, sizeof text, "1%llu:%s", (unsigned long long)position, body);
    side_hear(s, channel, NEAR_CHANNEL_MESSAGE, text);
}

/* Nothing is there to be read now. */
static inline void side_hear_nothing(struct side *s, struct near__channel *channel)
{
    struct near__channel_message m;
    near__channel_read(s->remote, channel, near__now(&s->clock), &m);
    assert_int_equal(m.event, NEAR_CHANNEL_IDLE);
}

#endif
