/* SPDX-License-Identifier: BSD-3-Clause
 * RESP2 on top of hiredis's reader (0.14 to 1.x).  See resp.h.
 *
 * The reader parses a bulk string only when all of it is there, and keeps waiting in between whatever length was
 * announced.  One observation makes a check of the header possible without knowing the reader's inside: every other
 * line (status, error, integer, array header) is consumed as soon as it is complete.  So when the reader wants more
 * although a complete line is in front of it, that line is the header of a bulk string (bulk_header). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memmem */
#endif
#include "remote/resp.h"

#include <inttypes.h>
#include <string.h>

enum {
    ARRAY_MAX = 65536, /* elements of one array; SCAN returns a few hundred, seldom thousands */
    DEPTH_MAX = 3,
    NODES_MAX = 131072, /* of one reply, everything included */
    LINE_MAX_ = 65536,  /* a line without its end */
    FIRST_ELEMENTS = 8,
    BULK_LIMIT = 512 << 20 /* Redis's own limit */
};

/* ---------------------------------------------------------------- commands */

void near__output_init(struct near__output *o, const struct near__alloc *alloc)
{
    memset(o, 0, sizeof *o);
    near__buffer_init(&o->bytes, alloc);
}

void near__output_fini(struct near__output *o)
{
    near__free(o->bytes.alloc, o->segments);
    near__buffer_fini(&o->bytes);
    o->segments = NULL;
    o->count = o->capacity = 0;
}

static struct near__segment *add_segment(struct near__output *o)
{
    if (o->count == o->capacity) {
        size_t capacity = o->capacity ? o->capacity * 2 : 2;
        struct near__segment *grown = near__realloc(o->bytes.alloc, o->segments, capacity * sizeof *grown);
        if (!grown) {
            o->failed = 1;
            return NULL;
        }
        o->segments = grown;
        o->capacity = capacity;
    }
    return &o->segments[o->count++];
}

static void add_bytes(struct near__output *o, const void *bytes, size_t size)
{
    size_t before = o->bytes.size;
    near__buffer_append(&o->bytes, bytes, size);
    if (o->bytes.failed) {
        o->failed = 1;
        return;
    }
    struct near__segment *last = o->count ? &o->segments[o->count - 1] : NULL;
    if (last && !last->external) {
        last->size += size;
    } else {
        if (!(last = add_segment(o)))
            return;
        *last = (struct near__segment){NULL, before, size};
    }
    o->size += size;
}

/* By hand: snprintf was an eighth of the instructions of a near_mset. */
static void add_header(struct near__output *o, char kind, uint64_t number)
{
    char text[24], *at = text + sizeof text;
    *--at = '\n';
    *--at = '\r';
    do
        *--at = (char)('0' + number % 10);
    while (number /= 10);
    *--at = kind;
    add_bytes(o, at, (size_t)(text + sizeof text - at));
}

void near__output_command(struct near__output *o, unsigned arguments)
{
    add_header(o, '*', arguments);
}

void near__output_argument(struct near__output *o, const void *bytes, size_t size)
{
    add_header(o, '$', size);
    if (size < NEAR_OUTPUT_COPY_MAX) {
        if (size)
            add_bytes(o, bytes, size);
    } else {
        struct near__segment *s = add_segment(o);
        if (!s)
            return;
        *s = (struct near__segment){bytes, 0, size};
        o->size += size;
    }
    add_bytes(o, "\r\n", 2);
}

void near__output_text(struct near__output *o, const char *text)
{
    near__output_argument(o, text, strlen(text));
}

void near__output_number(struct near__output *o, int64_t number)
{
    char text[24];
    int n = snprintf(text, sizeof text, "%" PRId64, number);
    near__output_argument(o, text, (size_t)n);
}

void near__output_unsigned(struct near__output *o, uint64_t number)
{
    char text[24];
    int n = snprintf(text, sizeof text, "%" PRIu64, number);
    near__output_argument(o, text, (size_t)n);
}

int near__output_login(struct near__output *o, const char *username, const char *password)
{
    if (!username && !password)
        return 0;
    near__output_command(o, username ? 3 : 2);
    near__output_text(o, "AUTH");
    if (username)
        near__output_text(o, username);
    near__output_text(o, password ? password : "");
    return 1;
}

void near__output_joined(struct near__output *o, const void *first, size_t first_size, const void *second,
                         size_t second_size)
{
    add_header(o, '$', (uint64_t)first_size + second_size);
    if (first_size)
        add_bytes(o, first, first_size);
    if (second_size)
        add_bytes(o, second, second_size);
    add_bytes(o, "\r\n", 2);
}

int near__output_gather(const struct near__output *o, struct near__cursor at, struct iovec *ret, int max,
                        size_t bytes_max)
{
    int n = 0;
    while (n < max && bytes_max > 0 && at.segment < o->count) {
        const struct near__segment *s = &o->segments[at.segment];
        const char *base = s->external ? s->external : (const char *)o->bytes.data + s->offset;
        size_t size = s->size - at.offset;
        if (size > bytes_max)
            size = bytes_max;
        ret[n++] = (struct iovec){(char *)base + at.offset, size};
        bytes_max -= size;
        at = (struct near__cursor){at.segment + 1, 0};
    }
    return n;
}

void near__output_advance(const struct near__output *o, struct near__cursor *at, size_t bytes)
{
    while (bytes > 0) {
        size_t left = o->segments[at->segment].size - at->offset;
        if (bytes < left) {
            at->offset += bytes;
            return;
        }
        bytes -= left;
        *at = (struct near__cursor){at->segment + 1, 0};
    }
}

/* ---------------------------------------------------------------- replies */

void near__reply_free(struct near__reply *reply)
{
    if (!reply)
        return;
    for (size_t i = 0; i < reply->count; i++)
        near__reply_free(reply->element[i]);
    near__free(reply->alloc, reply->element);
    if (reply->data_is_apart)
        near__free(reply->alloc, reply->data);
    near__free(reply->alloc, reply);
}

void *near__reply_take(struct near__reply *reply)
{
    void *data = reply->data;
    reply->data = NULL;
    reply->data_is_apart = 0;
    return data;
}

int near__reply_is(const struct near__reply *reply, const char *text)
{
    return (reply->type == REDIS_REPLY_STRING || reply->type == REDIS_REPLY_STATUS) && reply->size == strlen(text) &&
           memcmp(reply->data, text, reply->size) == 0;
}

/* The first fault is the cause; later ones are its consequences. */
static void refuse(struct near__resp *r, int status, const char *text)
{
    if (!r->fault.status)
        near__fault_set(&r->fault, status, "%s", text);
}

static void refuse_length(struct near__resp *r, uint64_t length)
{
    if (length <= BULK_LIMIT)
        refuse(r, NEAR_ERR_TOO_LARGE, "the value in the remote tier exceeds value_max");
    else
        refuse(r, NEAR_ERR_PROTOCOL, "a bulk string is too long");
}

static int depth(const redisReadTask *task)
{
    int n = 0;
    while ((task = task->parent) != NULL)
        n++;
    return n;
}

/* Puts a reply into its parent, whose element array grows with what has arrived, never with what was announced. */
static int attach(const redisReadTask *task, struct near__reply *reply)
{
    struct near__reply *parent = task->parent ? task->parent->obj : NULL;
    if (!parent)
        return 0;
    if (parent->count == parent->capacity) {
        size_t capacity = parent->capacity ? parent->capacity * 2 : FIRST_ELEMENTS;
        void *grown = near__realloc(parent->alloc, parent->element, capacity * sizeof(struct near__reply *));
        if (!grown)
            return -1;
        parent->element = grown;
        parent->capacity = capacity;
    }
    parent->element[parent->count++] = reply;
    return 0;
}

/* A node with room for `extra` bytes behind it. */
static struct near__reply *new_reply(const redisReadTask *task, size_t extra)
{
    struct near__resp *r = task->privdata;
    if (++r->nodes > NODES_MAX || depth(task) > DEPTH_MAX) {
        refuse(r, NEAR_ERR_PROTOCOL, "the reply has too many parts");
        return NULL;
    }
    struct near__reply *reply = near__alloc_zero(r->alloc, sizeof *reply + extra);
    if (!reply) {
        refuse(r, NEAR_ERR_NOMEM, "out of memory for a reply");
        return NULL;
    }
    reply->alloc = r->alloc;
    reply->type = task->type;
    return reply;
}

static void *finish(const redisReadTask *task, struct near__reply *reply)
{
    if (attach(task, reply) == 0)
        return reply;
    refuse(task->privdata, NEAR_ERR_NOMEM, "out of memory for a reply");
    near__reply_free(reply);
    return NULL;
}

/* hiredis does not look at the two bytes behind a bulk string; they are in its buffer. */
static void *create_string(const redisReadTask *task, char *bytes, size_t size)
{
    struct near__resp *r = task->privdata;
    int is_bulk = task->type == REDIS_REPLY_STRING;
    if (is_bulk && size > r->bulk_max) { /* all of it came at once, so that nobody had to wait for more */
        refuse_length(r, size);
        return NULL;
    }
    if (is_bulk && (bytes[size] != '\r' || bytes[size + 1] != '\n')) {
        refuse(r, NEAR_ERR_PROTOCOL, "a bulk string is longer than announced");
        return NULL;
    }
    int apart = is_bulk && !task->parent; /* may be taken away */
    struct near__reply *reply = new_reply(task, apart ? 0 : size + 1);
    if (!reply)
        return NULL;
    reply->data = apart ? near__alloc(r->alloc, size + 1) : (char *)(reply + 1);
    if (!reply->data) {
        refuse(r, NEAR_ERR_NOMEM, "out of memory for a value");
        near__reply_free(reply);
        return NULL;
    }
    reply->data_is_apart = apart;
    reply->size = size;
    memcpy(reply->data, bytes, size);
    reply->data[size] = '\0';
    return finish(task, reply);
}

#if HIREDIS_MAJOR >= 1
typedef size_t element_count;
#else
typedef int element_count;
#endif

static void *create_array(const redisReadTask *task, element_count elements)
{
    if (elements > ARRAY_MAX) {
        refuse(task->privdata, NEAR_ERR_PROTOCOL, "an array is too long");
        return NULL;
    }
    struct near__reply *reply = new_reply(task, 0);
    return reply ? finish(task, reply) : NULL;
}

static void *create_integer(const redisReadTask *task, long long number)
{
    struct near__reply *reply = new_reply(task, 0);
    if (!reply)
        return NULL;
    reply->integer = number;
    return finish(task, reply);
}

static void *create_nil(const redisReadTask *task)
{
    struct near__reply *reply = new_reply(task, 0);
    if (!reply)
        return NULL;
    reply->type = REDIS_REPLY_NIL; /* "*-1" comes as a nil array */
    return finish(task, reply);
}

#if HIREDIS_MAJOR >= 1 /* RESP3 was not asked for */
static void *create_double(const redisReadTask *task, double number, char *bytes, size_t size)
{
    (void)number, (void)bytes, (void)size;
    refuse(task->privdata, NEAR_ERR_PROTOCOL, "a RESP3 type in a RESP2 stream");
    return NULL;
}
static void *create_bool(const redisReadTask *task, int truth)
{
    (void)truth;
    refuse(task->privdata, NEAR_ERR_PROTOCOL, "a RESP3 type in a RESP2 stream");
    return NULL;
}
#endif

static void free_object(void *reply)
{
    near__reply_free(reply);
}

static redisReplyObjectFunctions functions = {
    .createString = create_string,
    .createArray = create_array,
    .createInteger = create_integer,
    .createNil = create_nil,
#if HIREDIS_MAJOR >= 1
    .createDouble = create_double,
    .createBool = create_bool,
#endif
    .freeObject = free_object,
};

int near__resp_init(struct near__resp *r, const struct near__alloc *alloc, size_t bulk_max)
{
    memset(r, 0, sizeof *r);
    r->alloc = alloc;
    r->bulk_max = bulk_max < BULK_LIMIT ? bulk_max : BULK_LIMIT;
    r->reader = redisReaderCreateWithFunctions(&functions);
    if (!r->reader)
        return NEAR_ERR_NOMEM;
    r->reader->privdata = r;
    return NEAR_OK;
}

void near__resp_fini(struct near__resp *r)
{
    if (r->reader)
        redisReaderFree(r->reader);
    r->reader = NULL;
}

int near__resp_feed(struct near__resp *r, const void *bytes, size_t size)
{
    if (r->fault.status)
        return -1;
    if (redisReaderFeed(r->reader, bytes, size) == REDIS_OK)
        return 0;
    refuse(r, NEAR_ERR_NOMEM, "out of memory for the read buffer");
    return -1;
}

/* The reader wants more: may it have it?  0, or -1 with the fault set. */
static int bulk_header(struct near__resp *r)
{
    const char *from = r->reader->buf + r->reader->pos;
    size_t size = r->reader->len - r->reader->pos;
    const char *end = size ? memmem(from, size < LINE_MAX_ ? size : LINE_MAX_, "\r\n", 2) : NULL;
    if (!end) {
        if (size < LINE_MAX_)
            return 0;
        refuse(r, NEAR_ERR_PROTOCOL, "a line does not end");
        return -1;
    }
    uint64_t length = 0;
    while (from < end && *from >= '0' && *from <= '9' && length <= BULK_LIMIT)
        length = length * 10 + (uint64_t)(*from++ - '0');
    if (length <= r->bulk_max)
        return 0;
    refuse_length(r, length);
    return -1;
}

int near__resp_next(struct near__resp *r, struct near__reply **ret)
{
    void *reply = NULL;
    if (r->fault.status)
        return -1;
    if (redisReaderGetReply(r->reader, &reply) != REDIS_OK) {
        refuse(r, NEAR_ERR_PROTOCOL, r->reader->errstr);
        return -1;
    }
    if (reply) {
        r->nodes = 0;
        *ret = reply;
        return 1;
    }
    return bulk_header(r);
}
