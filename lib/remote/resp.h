/* SPDX-License-Identifier: BSD-3-Clause
 * RESP2: commands out (own formatter) and replies in (hiredis's reader, fenced in).
 *
 * hiredis believes every length it is told.  Here a reply has a budget: a bulk string may be so long, an array may
 * have so many elements, so deep, and a reply so many nodes; what exceeds it is refused on sight of its header, before
 * anything is allocated for it.  Replies are built with the cache's allocator; hiredis's own read buffer grows only
 * with bytes that have arrived. */
#ifndef NEAR_REMOTE_RESP_H
#define NEAR_REMOTE_RESP_H
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <hiredis/hiredis.h>
#include "base/alloc.h"
#include "base/buffer.h"
#include "remote/fault.h"

/* ---- commands ---- */

/* Bytes to be sent.  Arguments from NEAR_OUTPUT_COPY_MAX on are not copied: their memory must outlive the output. */
#define NEAR_OUTPUT_COPY_MAX 16384

struct near__segment {
    const void *external; /* NULL: in bytes, from offset */
    size_t offset, size;
};
struct near__output {
    struct near__buffer bytes;
    struct near__segment *segments;
    size_t count, capacity;
    uint64_t size; /* of all segments */
    int failed;    /* an allocation failed; sticks */
};
/* How far an output has been sent. */
struct near__cursor {
    size_t segment, offset;
};

void near__output_init(struct near__output *o, const struct near__alloc *alloc);
void near__output_fini(struct near__output *o);
/* A command: its number of arguments, then each of them. */
void near__output_command(struct near__output *o, unsigned arguments);
void near__output_argument(struct near__output *o, const void *bytes, size_t size);
void near__output_text(struct near__output *o, const char *text);
void near__output_number(struct near__output *o, int64_t number);
void near__output_unsigned(struct near__output *o, uint64_t number);
/* One argument made of two parts (prefix and key). */
void near__output_joined(struct near__output *o, const void *first, size_t first_size, const void *second,
                         size_t second_size);
/* AUTH [user] password.  0: both are NULL, and nothing was written. */
int near__output_login(struct near__output *o, const char *username, const char *password);
/* What is to be sent next: fills at most max vectors with at most bytes_max bytes, returns how many. */
int near__output_gather(const struct near__output *o, struct near__cursor at, struct iovec *ret, int max,
                        size_t bytes_max);
void near__output_advance(const struct near__output *o, struct near__cursor *at, size_t bytes);

/* ---- replies ---- */

struct near__reply {
    const struct near__alloc *alloc;
    int type; /* REDIS_REPLY_… */
    int data_is_apart;
    int64_t integer;
    size_t size;
    char *data; /* STRING, STATUS, ERROR: size bytes and a NUL */
    size_t count, capacity;
    struct near__reply **element;
};

void near__reply_free(struct near__reply *reply); /* NULL is fine */
/* Takes the bytes of a top-level bulk string away from its reply; near__free them. */
void *near__reply_take(struct near__reply *reply);
int near__reply_is(const struct near__reply *reply, const char *text); /* string or status equal to text */

struct near__resp {
    redisReader *reader;
    const struct near__alloc *alloc;
    size_t bulk_max;
    size_t nodes;             /* of the reply that is being read */
    struct near__fault fault; /* why the next call fails; sticks */
};

/* NEAR_OK or NEAR_ERR_NOMEM. */
int near__resp_init(struct near__resp *r, const struct near__alloc *alloc, size_t bulk_max);
void near__resp_fini(struct near__resp *r);
/* 0, or -1: see fault. */
int near__resp_feed(struct near__resp *r, const void *bytes, size_t size);
/* 1 and a reply for the caller to free, 0: incomplete, -1: see fault (nothing more can be read). */
int near__resp_next(struct near__resp *r, struct near__reply **ret);

#endif
