/* SPDX-License-Identifier: BSD-3-Clause
 * Requests over Redis: commands out, replies in, and what may be tried again.
 *
 *     FETCH    GET position, PTTL key, GET key, GET position      plain commands, no script: the most frequent request
 *     PROVE    the heartbeat script
 *     ROLL     the roll script; ANSWER is a plain PUBLISH, LEAVE an HDEL
 *     SETs     without a condition, up to 64 in a row: one run of the set script, and one message if the bodies allow
 *             it
 *     DELs     likewise, if the bodies allow it: one run of the delete script, one message
 *     LEASE    the lease script
 *     FILL, RELEASE   the fill script
 *     COMPAREs  up to 256 in a row: one run of the compare script
 *     others   the write script
 *
 * The four commands of a FETCH are not one step for the server.  Equal positions say that no write by us came in
 * between, so value and time to live belong to exactly that position; otherwise the reply is `inexact`.
 *
 * Tried again, within the deadline:
 *     what was never sent               any request, as long as the pool says so
 *     a FETCH, LEASE or COMPARE whose connection broke   once
 *     NOSCRIPT                          with the script's text; nothing was executed.  (Requests of a batch may then
 *                                      run
 *                                       in another order than given; each is still atomic.  SETs without a condition
 *                                       may not, since the last one of a key shall win: where they need more than one
 *                                       run they are sent with the text at once.)
 * A write that was sent and not answered is UNKNOWN and is never sent again. */
#include "remote/redis.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/mutant.h"
#include "base/sha1.h"
#include "remote/members.h"

#define VALUE_SLACK ((size_t)1 << 20) /* above value_max: channel messages carry a value and more */

enum {
    TRIES_MAX = 6,
    CALLS_INLINE = 4,
    PENDING = 1000,
    NEEDS_TEXT = 1001,
    TOGETHER_MAX = 64,          /* keys of one run of a script, 0.3 ms, during which the server does nothing else */
    TOGETHER_BYTES = 64 * 1024, /* and values, beyond which another run costs little in comparison */
    COMPARED_MAX = 256          /* keys of one run of the compare script, 0.3 ms */
};

/* ---------------------------------------------------------------- which requests are one command */

static int is_pending(const struct near__request *q)
{
    return q->status == PENDING || q->status == NEEDS_TEXT;
}

/* Nothing is lost when it is asked again; a lease is given to the same owner again. */
static int is_read(const struct near__request *q)
{
    return q->operation == NEAR_OP_FETCH || q->operation == NEAR_OP_LEASE || q->operation == NEAR_OP_COMPARE;
}

static int is_plain_set(const struct near__request *q)
{
    return q->operation == NEAR_OP_SET && q->flags == 0;
}

/* One of several DELs that may be told together. */
static int is_plain_del(const struct near__request *q)
{
    return q->operation == NEAR_OP_DEL && q->flags == 0 && q->body_shared != 0;
}

static int is_alike(const struct near__request *a, const struct near__request *b)
{
    return a->operation == b->operation && a->flags == b->flags && a->status == b->status && a->ttl_ms == b->ttl_ms &&
           a->body_shared == b->body_shared;
}

/* Whether the last of n has the key of another one: at one position they would have no order. */
static int is_again(const struct near__request *requests, size_t n)
{
    const struct near__request *last = &requests[n - 1];
    for (size_t i = 0; i + 1 < n; i++)
        if (requests[i].key_size == last->key_size && memcmp(requests[i].key, last->key, last->key_size) == 0)
            return 1;
    return 0;
}

static size_t compared_together(const struct near__request *requests, size_t count)
{
    size_t n = 1;
    while (n < count && n < COMPARED_MAX && requests[n].operation == NEAR_OP_COMPARE &&
           requests[n].status == requests[0].status)
        n++;
    return n;
}

/* How many of these, the first one included, which is pending, go into one command. */
static size_t together(const struct near__request *requests, size_t count)
{
    const struct near__request *first = &requests[0];
    size_t n = 1, bytes = first->value_size + first->key_size;
    if (first->operation == NEAR_OP_COMPARE)
        return compared_together(requests, count);
    if (!is_plain_set(first) && !is_plain_del(first))
        return 1;
    while (n < count && n < TOGETHER_MAX && is_alike(first, &requests[n]) &&
           (bytes += requests[n].value_size + requests[n].key_size) <= TOGETHER_BYTES &&
           !(first->body_shared && !NEAR_MUTANT(REPEATED_KEY_TOLD_ONCE) && is_again(requests, n + 1)))
        n++;
    return n;
}

/* ---------------------------------------------------------------- commands */

static const char *operation_name(enum near__operation operation)
{
    switch (operation) {
    case NEAR_OP_SET:
        return "SET";
    case NEAR_OP_DEL:
        return "DEL";
    case NEAR_OP_EXPIRE:
        return "EXPIRE";
    case NEAR_OP_INCR:
        return "INCR";
    case NEAR_OP_CAS:
        return "CAS";
    case NEAR_OP_LOCK:
        return "LOCK";
    case NEAR_OP_EXTEND:
        return "EXTEND";
    case NEAR_OP_UNLOCK:
        return "UNLOCK";
    case NEAR_OP_FILL:
        return "FILL";
    case NEAR_OP_RELEASE:
        return "RELEASE";
    case NEAR_OP_TAG:
        return "TAG";
    default:
        return "CLEAR";
    }
}

static int is_lock(const struct near__request *q)
{
    return q->operation == NEAR_OP_LOCK || q->operation == NEAR_OP_EXTEND || q->operation == NEAR_OP_UNLOCK;
}

/* As the newest servers take it. */
static const struct near__script *newest_script_for(const struct near__request *q)
{
    const struct near__script *s = &near__script_write;
    enum near__operation operation = q->operation;
    if (is_plain_set(q))
        s = &near__script_set;
    else if (is_plain_del(q))
        s = &near__script_delete;
    else if (operation == NEAR_OP_PROVE)
        s = &near__script_prove;
    else if (operation == NEAR_OP_ROLL)
        s = &near__script_roll;
    else if (operation == NEAR_OP_LEASE)
        s = &near__script_lease;
    else if (operation == NEAR_OP_FILL || operation == NEAR_OP_RELEASE || operation == NEAR_OP_TAG)
        s = &near__script_fill;
    else if (operation == NEAR_OP_DEL || operation == NEAR_OP_EXPIRE || operation == NEAR_OP_CLEAR)
        s = &near__script_write_always;
    return s;
}

static int knows_flags(const struct near__redis *r)
{
    return !atomic_load_explicit(&r->no_script_flags, memory_order_relaxed); /* relaxed: see the field */
}

static const struct near__script *script_for(const struct near__redis *r, const struct near__request *q)
{
    const struct near__script *s = newest_script_for(q);
    return s->without_flags && !knows_flags(r) ? s->without_flags : s;
}

/* EVALSHA sha | EVAL text, and the number of keys. */
static void write_script(struct near__output *o, const struct near__script *s, int with_text, unsigned keys,
                         unsigned arguments)
{
    if (NEAR_MUTANT(WRITE_UNTOLD) || NEAR_MUTANT(WRITTEN_BEFORE_TOLD)) {
        s = near__script_mutant(s);
        with_text = 1;
    }
    near__output_command(o, 3 + keys + arguments);
    near__output_text(o, with_text ? "EVAL" : "EVALSHA");
    near__output_text(o, with_text ? s->text : s->sha1);
    near__output_unsigned(o, keys);
}

static void write_key(const struct near__redis *r, struct near__output *o, const struct near__request *q)
{
    near__output_joined(o, r->prefix, r->prefix_size, q->key, q->key_size);
}

static void write_fetch(const struct near__redis *r, struct near__output *o, const struct near__request *q,
                        struct near__call *call)
{
    near__output_command(o, 2);
    near__output_text(o, "GET");
    near__output_text(o, r->position_key);
    near__call_command(call, o->size);
    near__output_command(o, 2);
    near__output_text(o, "PTTL");
    write_key(r, o, q);
    near__call_command(call, o->size);
    near__output_command(o, 2);
    near__output_text(o, "GET");
    write_key(r, o, q);
    near__call_command(call, o->size);
    near__output_command(o, 2);
    near__output_text(o, "GET");
    near__output_text(o, r->position_key);
}

static void write_members_key(const struct near__redis *r, struct near__output *o)
{
    near__output_joined(o, r->prefix, r->prefix_size, NEAR_MEMBERS_NAME, strlen(NEAR_MEMBERS_NAME));
}

static void write_prove(const struct near__redis *r, struct near__output *o, const struct near__request *q,
                        int with_text)
{
    char *channel = near__private_channel(r->host.alloc, r->channel, q->body, q->body_size);
    if (!channel) {
        o->failed = 1;
        return;
    }
    write_script(o, script_for(r, q), with_text, 2, 5);
    near__output_text(o, r->position_key);
    write_members_key(r, o);
    near__output_text(o, channel);
    near__output_unsigned(o, (uint64_t)q->number);
    near__output_unsigned(o, q->known);
    near__output_argument(o, q->body, q->body_size);
    near__output_number(o, q->ttl_ms);
    near__free(r->host.alloc, channel);
}

static void write_roll(const struct near__redis *r, struct near__output *o, const struct near__request *q,
                       int with_text)
{
    struct near__word name, value;
    unsigned gone = 0;
    for (size_t at = 0; near__members_next(q->value, q->value_size, &at, &name, &value); gone++)
        ;
    write_script(o, script_for(r, q), with_text, 2, 4 + 2 * gone);
    near__output_text(o, r->position_key);
    write_members_key(r, o);
    near__output_text(o, r->channel);
    near__output_argument(o, q->body, q->body_size);
    near__output_unsigned(o, q->known);
    near__output_number(o, NEAR_MEMBERS_LIFE_MS);
    for (size_t at = 0; near__members_next(q->value, q->value_size, &at, &name, &value);) {
        near__output_argument(o, name.at, name.size);
        near__output_argument(o, value.at, value.size);
    }
}

/* A plain command: nothing is written, so nothing has to be one step with it. */
static void write_answer(const struct near__redis *r, struct near__output *o, const struct near__request *q)
{
    char head[24];
    char *channel = near__private_channel(r->host.alloc, r->channel, q->body, q->body_size);
    if (!channel) {
        o->failed = 1;
        return;
    }
    int size = snprintf(head, sizeof head, "A%" PRId64 ":", q->number);
    near__output_command(o, 3);
    near__output_text(o, "PUBLISH");
    near__output_text(o, channel);
    near__output_joined(o, head, (size_t)size, q->value, q->value_size);
    near__free(r->host.alloc, channel);
}

static void write_leave(const struct near__redis *r, struct near__output *o, const struct near__request *q)
{
    near__output_command(o, 3);
    near__output_text(o, "HDEL");
    write_members_key(r, o);
    near__output_argument(o, q->body, q->body_size);
}

/* One message for several requests: see near__request.body_shared. */
static void write_shared_body(const struct near__redis *r, struct near__output *o, const struct near__request *q,
                              size_t count)
{
    struct near__buffer b;
    near__buffer_init(&b, r->host.alloc);
    near__buffer_append(&b, q->body, q->body_shared);
    near__buffer_append_varint(&b, count);
    for (size_t i = 0; i < count; i++)
        near__buffer_append(&b, (const unsigned char *)q[i].body + q->body_shared + 1,
                            q[i].body_size - q->body_shared - 1);
    if (b.failed)
        o->failed = 1;
    else
        near__output_joined(o, b.data, b.size, NULL, 0); /* which copies: the buffer is gone when it is sent */
    near__buffer_fini(&b);
}

static void write_keys(const struct near__redis *r, struct near__output *o, const struct near__request *q, size_t count)
{
    near__output_text(o, r->position_key);
    for (size_t i = 0; i < count; i++)
        write_key(r, o, &q[i]);
    near__output_text(o, r->channel);
}

static void write_sets(const struct near__redis *r, struct near__output *o, const struct near__request *q, size_t count,
                       int with_text)
{
    unsigned n = (unsigned)count, told = q->body_shared && !NEAR_MUTANT(ONE_MESSAGE_A_KEY) ? 1 : n;
    write_script(o, &near__script_set, with_text, 1 + n, 3 + told + n);
    write_keys(r, o, q, count);
    near__output_number(o, q->ttl_ms);
    near__output_unsigned(o, told);
    if (told == 1 && n > 1)
        write_shared_body(r, o, q, count);
    else
        for (size_t i = 0; i < count; i++)
            near__output_argument(o, q[i].body, q[i].body_size);
    for (size_t i = 0; i < count; i++)
        near__output_argument(o, q[i].value, q[i].value_size);
}

static void write_dels(const struct near__redis *r, struct near__output *o, const struct near__request *q, size_t count,
                       int with_text)
{
    write_script(o, script_for(r, q), with_text, 1 + (unsigned)count, 2);
    write_keys(r, o, q, count);
    write_shared_body(r, o, q, count);
}

/* A value no longer than its digest is its own, and no digest: the first character tells which. */
static void write_expected(struct near__output *o, const struct near__request *q)
{
    char digest[1 + NEAR_SHA1_HEX];
    if (q->value_size <= NEAR_SHA1_HEX) {
        near__output_joined(o, "=", 1, q->value, q->value_size);
        return;
    }
    digest[0] = '#';
    near__sha1_hex(q->value, q->value_size, digest + 1);
    near__output_argument(o, digest, sizeof digest);
}

static void write_compares(const struct near__redis *r, struct near__output *o, const struct near__request *q,
                           size_t count, int with_text)
{
    unsigned n = (unsigned)count;
    write_script(o, &near__script_compare, with_text, 1 + n, n);
    near__output_text(o, r->position_key);
    for (size_t i = 0; i < count; i++)
        write_key(r, o, &q[i]);
    for (size_t i = 0; i < count; i++)
        write_expected(o, &q[i]);
}

static void write_lock(const struct near__redis *r, struct near__output *o, const struct near__request *q,
                       int with_text)
{
    size_t suffix = strlen(NEAR_FENCE_SUFFIX);
    char *counter = near__alloc(r->host.alloc, q->key_size + suffix);
    if (!counter) {
        o->failed = 1;
        return;
    }
    if (q->key_size)
        memcpy(counter, q->key, q->key_size);
    memcpy(counter + q->key_size, NEAR_FENCE_SUFFIX, suffix);
    write_script(o, &near__script_lock, with_text, 2, 4);
    write_key(r, o, q);
    near__output_joined(o, r->prefix, r->prefix_size, counter, q->key_size + suffix);
    near__output_text(o, operation_name(q->operation));
    near__output_argument(o, q->value, q->value_size);
    near__output_number(o, q->ttl_ms);
    near__output_unsigned(o, q->known);
    near__free(r->host.alloc, counter);
}

static void write_condition(struct near__output *o, uint32_t flags)
{
    char text[8] = "";
    if (flags & NEAR_DEL_ANNOUNCE)
        strcat(text, "A");
    if (flags & NEAR_SET_IF_ABSENT)
        strcat(text, "NX");
    if (flags & NEAR_SET_IF_PRESENT)
        strcat(text, "XX");
    if (flags & NEAR_SET_KEEP_TTL)
        strcat(text, "K");
    near__output_text(o, text);
}

static void write_write(const struct near__redis *r, struct near__output *o, const struct near__request *q,
                        int with_text)
{
    unsigned keys = q->operation == NEAR_OP_CLEAR ? 1 : 2;
    unsigned extra = q->operation == NEAR_OP_CAS                                   ? 2
                     : q->operation == NEAR_OP_SET || q->operation == NEAR_OP_INCR ? 1
                                                                                   : 0;
    write_script(o, script_for(r, q), with_text, keys, 5 + extra);
    near__output_text(o, r->position_key);
    if (keys == 2)
        write_key(r, o, q);
    near__output_text(o, operation_name(q->operation));
    near__output_text(o, r->channel);
    near__output_argument(o, q->body, q->body_size);
    write_condition(o, q->flags);
    near__output_number(o, q->ttl_ms);
    if (q->operation == NEAR_OP_INCR)
        near__output_number(o, q->number);
    else if (extra)
        near__output_argument(o, q->value, q->value_size);
    if (extra == 2)
        near__output_argument(o, q->expected, q->expected_size);
}

static void write_lease(const struct near__redis *r, struct near__output *o, const struct near__request *q,
                        int with_text)
{
    char how[3], *at = how;
    if (q->flags & NEAR_LEASE_FORCE)
        *at++ = 'F';
    if (q->flags & NEAR_LEASE_TAGGED)
        *at++ = 'T';
    *at = '\0';
    write_script(o, &near__script_lease, with_text, 2, 5);
    near__output_text(o, r->position_key);
    write_key(r, o, q);
    near__output_argument(o, q->expected, q->expected_size);
    near__output_number(o, q->ttl_ms);
    near__output_number(o, q->number);
    near__output_text(o, how);
    near__output_argument(o, r->prefix, r->prefix_size);
}

static void write_fill(const struct near__redis *r, struct near__output *o, const struct near__request *q,
                       int with_text)
{
    int fill = q->operation == NEAR_OP_FILL;
    write_script(o, &near__script_fill, with_text, 2, fill ? 9 : 7);
    near__output_text(o, r->position_key);
    write_key(r, o, q);
    near__output_text(o, operation_name(q->operation));
    near__output_text(o, r->channel);
    near__output_argument(o, q->body, q->body_size);
    near__output_argument(o, q->expected, q->expected_size);
    near__output_number(o, q->ttl_ms);
    near__output_text(o, q->flags & (NEAR_FILL_ABSENT | NEAR_RELEASE_ABSENT) ? "A" : "");
    near__output_argument(o, r->prefix, r->prefix_size);
    if (!fill)
        return;
    near__output_argument(o, q->value, q->value_size);
    near__output_argument(o, q->extra, q->extra_size);
}

/* One call for `count` requests, of `whole` in the batch; the end of its last command is the caller's to tell. */
static void write_requests(const struct near__redis *r, struct near__output *o, const struct near__request *q,
                           size_t count, size_t whole, struct near__call *call)
{
    if (q->operation == NEAR_OP_FETCH)
        write_fetch(r, o, q, call);
    else if (q->operation == NEAR_OP_PROVE)
        write_prove(r, o, q, q->status == NEEDS_TEXT);
    else if (q->operation == NEAR_OP_ROLL)
        write_roll(r, o, q, q->status == NEEDS_TEXT);
    else if (q->operation == NEAR_OP_ANSWER)
        write_answer(r, o, q);
    else if (q->operation == NEAR_OP_LEAVE)
        write_leave(r, o, q);
    else if (is_lock(q))
        write_lock(r, o, q, q->status == NEEDS_TEXT);
    else if (q->operation == NEAR_OP_LEASE)
        write_lease(r, o, q, q->status == NEEDS_TEXT);
    else if (q->operation == NEAR_OP_FILL || q->operation == NEAR_OP_RELEASE || q->operation == NEAR_OP_TAG)
        write_fill(r, o, q, q->status == NEEDS_TEXT);
    else if (q->operation == NEAR_OP_COMPARE)
        write_compares(r, o, q, count, q->status == NEEDS_TEXT);
    else if (is_plain_set(q))
        write_sets(r, o, q, count, q->status == NEEDS_TEXT || count < whole);
    else if (is_plain_del(q))
        write_dels(r, o, q, count, q->status == NEEDS_TEXT);
    else
        write_write(r, o, q, q->status == NEEDS_TEXT);
}

/* ---------------------------------------------------------------- replies */

static void set_fault(struct near__request *q, const struct near__fault *fault)
{
    q->status = fault->status;
    memcpy(q->detail, fault->text, sizeof q->detail);
}

/* A decimal number of at most 2^63 - 1 and nothing else. */
static int parse_position(const struct near__reply *reply, uint64_t *ret)
{
    uint64_t n = 0;
    if (reply->type == REDIS_REPLY_NIL) {
        *ret = 0;
        return 0;
    }
    if (reply->type != REDIS_REPLY_STRING || reply->size == 0 || reply->size > 18)
        return -1;
    for (size_t i = 0; i < reply->size; i++) {
        if (reply->data[i] < '0' || reply->data[i] > '9')
            return -1;
        n = n * 10 + (uint64_t)(reply->data[i] - '0');
    }
    *ret = n;
    return 0;
}

static int parse_number(const struct near__reply *reply, int64_t *ret)
{
    uint64_t n = 0;
    size_t i = 0;
    if (reply->type != REDIS_REPLY_STRING || reply->size == 0 || reply->size > 20)
        return -1;
    int negative = reply->data[0] == '-';
    for (i = (size_t)negative; i < reply->size; i++) {
        if (reply->data[i] < '0' || reply->data[i] > '9')
            return -1;
        uint64_t digit = (uint64_t)(reply->data[i] - '0');
        if (n > (UINT64_MAX - digit) / 10)
            return -1;
        n = n * 10 + digit;
    }
    if (i == (size_t)negative || n > (uint64_t)INT64_MAX + (uint64_t)negative)
        return -1;
    *ret = negative ? (int64_t)(0 - n) : (int64_t)n;
    return 0;
}

static void malformed(struct near__request *q, const struct near__reply *reply)
{
    struct near__fault fault;
    near__reply_fault(reply, &fault);
    /* only a write that the server says it refused did not happen */
    if (fault.status == NEAR_ERR_PROTOCOL && !is_read(q))
        fault.status = NEAR_ERR_UNKNOWN;
    set_fault(q, &fault);
}

/* A time that is left, -1: none.  Anybody may have given a key more of it than nanoseconds can tell; nobody waits for
 * the difference. */
#define TIME_MOST_MS (INT64_C(1) << 42) /* 139 years */
static int64_t time_left(int64_t ms)
{
    return ms < 0 ? -1 : ms < TIME_MOST_MS ? ms : TIME_MOST_MS;
}

/* The connection's own limit (bulk_max) is above it, as it has to let messages and lists of tags pass. */
static int is_too_large(const struct near__redis *r, struct near__request *q, const struct near__reply *value)
{
    struct near__fault fault;
    if (value->size <= r->host.options->value_max)
        return 0;
    near__fault_set(&fault, NEAR_ERR_TOO_LARGE, "the value in the remote tier exceeds value_max");
    set_fault(q, &fault);
    return 1;
}

static void read_fetch(const struct near__redis *r, struct near__request *q, struct near__call *call)
{
    struct near__reply *ttl = call->reply[1], *value = call->reply[2];
    uint64_t before, after;
    for (int i = 0; i < 4; i++)
        if (call->reply[i]->type == REDIS_REPLY_ERROR) {
            malformed(q, call->reply[i]);
            return;
        }
    if (parse_position(call->reply[0], &before) != 0 || parse_position(call->reply[3], &after) != 0) {
        struct near__fault fault;
        near__fault_set(&fault, NEAR_ERR_PROTOCOL, "the position key holds something else");
        set_fault(q, &fault);
        return;
    }
    if (ttl->type != REDIS_REPLY_INTEGER || (value->type != REDIS_REPLY_STRING && value->type != REDIS_REPLY_NIL)) {
        malformed(q, ttl->type != REDIS_REPLY_INTEGER ? ttl : value);
        return;
    }
    q->position = after;
    q->inexact = before != after;
    if (value->type == REDIS_REPLY_NIL) {
        q->status = NEAR_MISS;
        return;
    }
    /* -1: none; -2: the key came between, so its time to live is not known: let it be over */
    q->ttl_left_ms = ttl->integer < -1 ? 0 : time_left(ttl->integer);
    if (is_too_large(r, q, value))
        return;
    q->value_out_size = value->size;
    q->value_out = near__reply_take(value);
    q->status = NEAR_OK;
}

static int is_integer(const struct near__reply *reply)
{
    return reply->type == REDIS_REPLY_INTEGER;
}

static int is_pair(const struct near__reply *reply)
{
    return reply->type == REDIS_REPLY_ARRAY && reply->count == 2;
}

static void read_prove(struct near__request *q, struct near__call *call)
{
    struct near__reply *reply = call->reply[0];
    int listed = is_pair(reply);
    int64_t epoch = 0;
    if (parse_position(listed ? reply->element[0] : reply, &q->position) != 0 ||
        (listed && parse_number(reply->element[1], &epoch) != 0)) {
        q->position = 0;
        malformed(q, reply);
        return;
    }
    q->fence = (uint64_t)epoch;
    q->status = NEAR_OK;
}

static void read_number(struct near__request *q, struct near__call *call)
{
    if (is_integer(call->reply[0]))
        q->status = NEAR_OK;
    else
        malformed(q, call->reply[0]);
}

static int is_lease(struct near__request *q, const struct near__reply *reply)
{
    int64_t fence;
    if (reply->type != REDIS_REPLY_ARRAY || reply->count != 9)
        return 0;
    struct near__reply **e = reply->element;
    if (!is_integer(e[0]) || e[0]->integer < NEAR_LEASE_FRESH || e[0]->integer > NEAR_LEASE_ABSENT ||
        parse_position(e[1], &q->position) != 0 || !is_integer(e[2]) || !is_integer(e[3]) ||
        parse_number(e[4], &fence) != 0 || !is_integer(e[5]) || !is_integer(e[6]) || e[7]->type != REDIS_REPLY_STRING ||
        e[8]->type != REDIS_REPLY_STRING)
        return 0;
    q->fence = (uint64_t)fence;
    return e[0]->integer != NEAR_LEASE_FRESH || e[6]->integer == 1;
}

/* A nested string is part of its reply, so it is copied.  0: no memory. */
static int copy_out(const struct near__redis *r, const struct near__reply *reply, void **ret, size_t *ret_size)
{
    *ret = near__memdup(r->host.alloc, reply->data, reply->size);
    *ret_size = *ret ? reply->size : 0;
    return *ret != NULL;
}

static void read_roll(const struct near__redis *r, struct near__request *q, struct near__call *call)
{
    struct near__reply *reply = call->reply[0];
    if (!is_pair(reply) || parse_position(reply->element[0], &q->position) != 0 ||
        reply->element[1]->type != REDIS_REPLY_STRING) {
        q->position = 0;
        malformed(q, reply);
        return;
    }
    q->status = copy_out(r, reply->element[1], &q->value_out, &q->value_out_size) ? NEAR_OK : NEAR_ERR_NOMEM;
}

static void read_lease(const struct near__redis *r, struct near__request *q, const struct near__call *call)
{
    struct near__reply *reply = call->reply[0];
    if (!is_lease(q, reply)) {
        q->position = 0;
        malformed(q, reply);
        return;
    }
    struct near__reply **e = reply->element;
    q->lease = (enum near__lease)e[0]->integer;
    q->ttl_left_ms = time_left(e[2]->integer);
    q->lease_left_ms = e[3]->integer < 0 ? 0 : time_left(e[3]->integer);
    q->exists = e[5]->integer != 0;
    int value = e[6]->integer != 0, extra = e[8]->size != 0;
    if (value && is_too_large(r, q, e[7]))
        return;
    q->status = NEAR_OK;
    if ((value && !copy_out(r, e[7], &q->value_out, &q->value_out_size)) ||
        (extra && !copy_out(r, e[8], &q->extra_out, &q->extra_out_size))) {
        near__free(r->host.alloc, q->value_out);
        q->value_out = NULL;
        q->status = NEAR_ERR_NOMEM;
    }
}

static void read_write(struct near__request *q, struct near__call *call)
{
    static const int outcomes[] = {NEAR_OK, NEAR_MISS, NEAR_UNMET};
    struct near__reply *reply = call->reply[0];
    int good = reply->type == REDIS_REPLY_ARRAY && reply->count == 4 &&
               reply->element[0]->type == REDIS_REPLY_INTEGER && reply->element[0]->integer >= 0 &&
               reply->element[0]->integer <= 2 && parse_position(reply->element[1], &q->position) == 0 &&
               reply->element[2]->type == REDIS_REPLY_INTEGER &&
               parse_number(reply->element[3], &q->result_number) == 0;
    if (!good) {
        q->position = 0;
        malformed(q, reply);
        return;
    }
    q->status = outcomes[reply->element[0]->integer];
    q->ttl_left_ms = time_left(reply->element[2]->integer);
}

/* The part of the answer that is about this SET. */
static void read_set(struct near__request *q, const struct near__reply *reply)
{
    if (reply->type != REDIS_REPLY_INTEGER || reply->integer <= 0) {
        malformed(q, reply);
        return;
    }
    q->position = (uint64_t)reply->integer;
    q->ttl_left_ms = q->ttl_ms ? q->ttl_ms : -1;
    q->status = NEAR_OK;
}

static void read_sets(struct near__request *q, size_t count, const struct near__call *call)
{
    const struct near__reply *reply = call->reply[0];
    int good = reply->type == REDIS_REPLY_ARRAY && reply->count == count;
    for (size_t i = 0; i < count; i++) {
        if (good)
            read_set(&q[i], reply->element[i]);
        else
            malformed(&q[i], reply);
    }
}

/* A position, and for each of so many requests a number in that range. */
static int is_list(const struct near__reply *reply, size_t count, int64_t least, int64_t most, uint64_t *ret_position)
{
    int good = reply->type == REDIS_REPLY_ARRAY && reply->count == count + 1 &&
               parse_position(reply->element[0], ret_position) == 0;
    for (size_t i = 0; good && i < count; i++) {
        const struct near__reply *e = reply->element[i + 1];
        good = is_integer(e) && e->integer >= least && e->integer <= most;
    }
    return good;
}

static void read_dels(struct near__request *q, size_t count, const struct near__call *call)
{
    const struct near__reply *reply = call->reply[0];
    uint64_t position = 0;
    int good = is_list(reply, count, 0, 1, &position);
    for (size_t i = 0; i < count; i++) {
        if (!good) {
            malformed(&q[i], reply);
            continue;
        }
        q[i].position = position;
        q[i].status = reply->element[i + 1]->integer ? NEAR_MISS : NEAR_OK;
    }
}

static void read_compares(struct near__request *q, size_t count, const struct near__call *call)
{
    const struct near__reply *reply = call->reply[0];
    uint64_t position = 0;
    int good = is_list(reply, count, -3, INT64_MAX, &position);
    for (size_t i = 0; i < count; i++) {
        if (!good) {
            malformed(&q[i], reply);
            continue;
        }
        int64_t left_ms = reply->element[i + 1]->integer;
        q[i].position = position;
        q[i].status = left_ms == -2 ? NEAR_MISS : left_ms == -3 ? NEAR_UNMET : NEAR_OK;
        q[i].ttl_left_ms = time_left(left_ms);
    }
}

/* NOSCRIPT, or flags that an old server does not know: the request goes again.  with_flags: this one may have had them;
 * by now another one's answer may have told. */
static int needs_another_form(struct near__redis *r, struct near__request *q, const struct near__reply *reply,
                              int was_text, int with_flags)
{
    if (reply->type != REDIS_REPLY_ERROR || q->operation == NEAR_OP_FETCH)
        return 0;
    if (!was_text && near__error_is_noscript(reply->data)) {
        q->status = NEEDS_TEXT;
        return 1;
    }
    if (was_text && with_flags && near__error_is_flags(reply->data) && newest_script_for(q)->without_flags) {
        atomic_store_explicit(&r->no_script_flags, 1, memory_order_relaxed);
        q->status = NEEDS_TEXT;
        return 1;
    }
    return 0;
}

static void read_answer(struct near__redis *r, struct near__request *q, size_t count, struct near__call *call,
                        int with_flags)
{
    int again = 0;
    for (size_t i = 0; i < count; i++)
        again = needs_another_form(r, &q[i], call->reply[0], q[i].status == NEEDS_TEXT, with_flags);
    if (again)
        return;
    if (q->operation == NEAR_OP_FETCH)
        read_fetch(r, q, call);
    else if (q->operation == NEAR_OP_PROVE)
        read_prove(q, call);
    else if (q->operation == NEAR_OP_ROLL)
        read_roll(r, q, call);
    else if (q->operation == NEAR_OP_ANSWER || q->operation == NEAR_OP_LEAVE)
        read_number(q, call);
    else if (q->operation == NEAR_OP_LEASE)
        read_lease(r, q, call);
    else if (q->operation == NEAR_OP_COMPARE)
        read_compares(q, count, call);
    else if (is_plain_set(q))
        read_sets(q, count, call);
    else if (is_plain_del(q))
        read_dels(q, count, call);
    else
        read_write(q, call);
}

/* ---------------------------------------------------------------- running */

/* What became of a call without an answer; leaves the request pending when it may be tried again. */
static void read_silence(struct near__request *q, const struct near__call *call, const struct near__job *job, int again,
                         int *fetch_retries)
{
    struct near__fault fault = job->fault;
    int lost = call->outcome == NEAR_CALL_LOST;
    if (!lost && again)
        return;
    if (lost && is_read(q) && again && fault.status == NEAR_ERR_IO && *fetch_retries > 0)
        return;
    if (lost && !is_read(q))
        fault.status = NEAR_ERR_UNKNOWN;
    set_fault(q, &fault);
}

/* The server's part may have changed under the connection: its label is worth nothing any more.  A master of a cluster
 * that is now a replica does not say READONLY: it says MOVED, of all keys.  One that misses its replicas may do so
 * because they have another master now: the sentinels know, and will tell it only some time later. */
static int says_changed(const struct near__redis *r, const struct near__request *q)
{
    return q->status == NEAR_ERR_READONLY || q->status == NEAR_ERR_LOADING || q->status == NEAR_ERR_AUTH ||
           (q->status == NEAR_ERR_UNAVAILABLE && strncmp(q->detail, "MASTERDOWN", 10) == 0) ||
           (q->status == NEAR_ERR_MOVED && strncmp(q->detail, "MOVED", 5) == 0) ||
           (r->host.target.sentinels && strncmp(q->detail, "NOREPLICAS", 10) == 0);
}

static void free_replies(struct near__call *calls, size_t count)
{
    for (size_t i = 0; i < count; i++)
        for (unsigned k = 0; k < calls[i].got; k++)
            near__reply_free(calls[i].reply[k]);
}

/* The end of one command, which was for `count` requests. */
static void settle(struct near__redis *r, struct near__request *q, size_t count, struct near__call *call,
                   const struct near__job *job, int with_flags, int again, int *fetch_retries)
{
    int answered = call->outcome == NEAR_CALL_ANSWERED;
    for (size_t i = 0; i < count; i++) {
        q[i].sent_ns = job->sent_ns;
        if (answered)
            q[i].server = job->server;
        else
            read_silence(&q[i], call, job, again, fetch_retries);
    }
    if (!answered)
        return;
    read_answer(r, q, count, call, with_flags);
    if (!says_changed(r, q))
        return;
    if (r->host.target.sentinels)
        near__sentinels_doubt(r->host.target.sentinels, job->told_by);
    near__pool_renew(r->pool);
}

/* Writes every pending request; returns the number of commands. */
static size_t write_all(struct near__redis *r, struct near__output *o, const struct near__request *requests,
                        size_t count, struct near__call *calls)
{
    size_t n = 0;
    for (size_t i = 0, size; i < count; i += size) {
        size = 1;
        if (!is_pending(&requests[i]))
            continue;
        size = together(&requests[i], count - i);
        struct near__call *call = &calls[n++];
        *call = (struct near__call){0};
        write_requests(r, o, &requests[i], size, count, call);
        near__call_command(call, o->size);
    }
    return n;
}

/* Sends every pending request once. */
static void run_once(struct near__redis *r, struct near__request *requests, size_t count, struct near__call *calls,
                     int64_t deadline_ns, int *fetch_retries)
{
    struct near__job job;
    memset(&job, 0, sizeof job);
    near__output_init(&job.output, r->host.alloc);
    job.calls = calls;
    job.deadline_ns = deadline_ns;
    int with_flags = knows_flags(r);
    job.count = write_all(r, &job.output, requests, count, calls);
    int again = 0, lost = 0;
    if (job.output.failed) {
        near__fault_set(&job.fault, NEAR_ERR_NOMEM, "out of memory for the commands");
        for (size_t i = 0; i < job.count; i++)
            calls[i].outcome = NEAR_CALL_UNSENT;
    } else {
        again = near__pool_run(r->pool, &job);
    }
    struct near__call *call = calls;
    for (size_t i = 0, size; i < count; i += size) {
        size = 1;
        if (!is_pending(&requests[i]))
            continue;
        size = together(&requests[i], count - i);
        lost |= call->outcome == NEAR_CALL_LOST;
        settle(r, &requests[i], size, call++, &job, with_flags, again, fetch_retries);
    }
    free_replies(calls, job.count);
    near__output_fini(&job.output);
    *fetch_retries -= lost;
}

static size_t pending(const struct near__request *requests, size_t count)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        n += (size_t)is_pending(&requests[i]);
    return n;
}

static void give_up(struct near__request *requests, size_t count, int status, const char *text)
{
    struct near__fault fault;
    near__fault_set(&fault, status, "%s", text);
    for (size_t i = 0; i < count; i++)
        if (is_pending(&requests[i]))
            set_fault(&requests[i], &fault);
}

static void redis_run(struct near__remote *remote, struct near__request *requests, size_t count, int64_t deadline_ns)
{
    struct near__redis *r = (struct near__redis *)remote;
    struct near__call inlined[CALLS_INLINE], *calls = inlined;
    int fetch_retries = 1;
    for (size_t i = 0; i < count; i++)
        near__request_reset(&requests[i], PENDING);
    if (count > CALLS_INLINE && !(calls = near__alloc(r->host.alloc, count * sizeof *calls))) {
        give_up(requests, count, NEAR_ERR_NOMEM, "out of memory for the calls");
        return;
    }
    for (int try = 0; try < TRIES_MAX && pending(requests, count) > 0; try++)
        run_once(r, requests, count, calls, deadline_ns, &fetch_retries);
    give_up(requests, count, NEAR_ERR_UNAVAILABLE, "the connection broke again and again");
    if (calls != inlined)
        near__free(r->host.alloc, calls);
}

/* ---------------------------------------------------------------- the rest of the table */

static void redis_stats(struct near__remote *remote, struct near__remote_stats *ret)
{
    struct near__redis *r = (struct near__redis *)remote;
    /* relaxed: counters, not of one instant */
    ret->requests = atomic_load_explicit(&r->host.requests, memory_order_relaxed);
    ret->connections_opened = atomic_load_explicit(&r->host.opened, memory_order_relaxed);
    ret->connections_lost = atomic_load_explicit(&r->host.lost, memory_order_relaxed);
    ret->timeouts = atomic_load_explicit(&r->host.timeouts, memory_order_relaxed);
    ret->bytes_sent = atomic_load_explicit(&r->host.bytes_sent, memory_order_relaxed);
    ret->bytes_received = atomic_load_explicit(&r->host.bytes_received, memory_order_relaxed);
    ret->tls_files_refused = near__tls_files_refused(r->host.target.tls);
    ret->breaker_open = (uint32_t)near__pool_breaker_open(r->pool);
}

static void redis_interrupt(struct near__remote *remote)
{
    struct near__redis *r = (struct near__redis *)remote;
    uint64_t one = 1;
    /* release: pairs with the acquire loads of closing; whoever sees the descriptor readable sees it set */
    atomic_store_explicit(&r->host.closing, 1, memory_order_release);
    while (write(r->host.interrupt_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
    near__pool_interrupt(r->pool);
}

static void redis_abandon(struct near__remote *remote)
{
    near__descriptors_abandon(&((struct near__redis *)remote)->host.descriptors);
}

static void redis_close(struct near__remote *remote)
{
    struct near__redis *r = (struct near__redis *)remote;
    const struct near__alloc *alloc = r->host.alloc;
    near__pool_close(r->pool);
    near__target_fini(&r->host.target);
    near__descriptors_close(&r->host.descriptors, r->host.interrupt_fd);
    near__free(alloc, r->position_key);
    near__free(alloc, r->channel);
    near__free(alloc, r);
}

static const struct near__remote_table table = {
    .close = redis_close,
    .run = redis_run,
    .channel_open = near__redis_channel_open,
    .channel_read = near__redis_channel_read,
    .channel_ping = near__redis_channel_ping,
    .channel_wake = near__redis_channel_wake,
    .channel_server = near__redis_channel_server,
    .channel_close = near__redis_channel_close,
    .check = near__redis_check,
    .clear_keys = near__redis_clear_keys,
    .scan = near__redis_scan,
    .stats = redis_stats,
    .interrupt = redis_interrupt,
    .abandon = redis_abandon,
};

static void init_host(struct near__host *h, const struct near__remote_config *config)
{
    const near_options *o = config->options;
    uint64_t largest = o->value_max < NEAR_VALUE_MAX ? o->value_max : NEAR_VALUE_MAX;
    h->alloc = config->alloc;
    h->clock = config->clock;
    h->log = config->log;
    h->options = o;
    h->username = o->username ? o->username : config->uri->username;
    h->password = o->password ? o->password : config->uri->password;
    h->database = config->uri->database;
    h->bulk_max = (size_t)largest + VALUE_SLACK;
    h->interrupt_fd = -1;
    near__target_init(&h->target, config->clock, config->uri,
                      o->connect_timeout_ms > o->timeout_ms ? o->connect_timeout_ms : o->timeout_ms, &h->descriptors);
}

static int open_sentinels(struct near__host *h, const struct near__remote_config *config, near_error *error)
{
    struct near__target *t = &h->target;
    snprintf(t->name, sizeof t->name, "master %.90s", config->options->sentinel_master);
    t->sentinels = near__sentinels_open(config->uri, config->options, h->alloc, h->clock, t->user_timeout_ms, t->tls,
                                        &h->descriptors);
    return t->sentinels ? NEAR_OK : near__fail(error, NEAR_ERR_NOMEM, "out of memory");
}

static int open_parts(struct near__redis *r, const struct near__remote_config *config, near_error *error)
{
    struct near__host *h = &r->host;
    h->interrupt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (h->interrupt_fd < 0)
        return near__fail(error, NEAR_ERR_SYSTEM, "eventfd: %m");
    near__descriptors_add(&h->descriptors, h->interrupt_fd);
    r->prefix = config->options->prefix ? config->options->prefix : "";
    r->prefix_size = strlen(r->prefix);
    r->position_key = near__position_key(h->alloc, r->prefix);
    r->channel = near__shared_channel(h->alloc, h->database, r->prefix);
    if (!r->position_key || !r->channel || near__pool_open(h, &r->pool) != NEAR_OK)
        return near__fail(error, NEAR_ERR_NOMEM, "out of memory");
    int status = NEAR_OK;
    if (config->uri->kind == NEAR_URI_TLS)
        status = near__tls_open(config->options, h->alloc, h->log, &h->target.tls, error);
    if (status == NEAR_OK && config->uri->sentinels)
        status = open_sentinels(h, config, error);
    return status;
}

int near__redis_open(const struct near__remote_config *config, struct near__remote **ret, near_error *error)
{
    struct near__redis *r = near__alloc_zero(config->alloc, sizeof *r);
    if (!r)
        return near__fail(error, NEAR_ERR_NOMEM, "out of memory");
    r->remote.table = &table;
    init_host(&r->host, config);
    int status = open_parts(r, config, error);
    if (status != NEAR_OK) {
        redis_close(&r->remote);
        return status;
    }
    *ret = &r->remote;
    return NEAR_OK;
}
