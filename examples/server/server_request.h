/* SPDX-License-Identifier: BSD-3-Clause
 * Requests of RESP2: arrays of bulk strings, and the inline commands that people type.
 *
 * The parser is fed the bytes received so far, keeps its place between calls, so that a large request that comes in
 * many pieces is looked at once, and believes no length before the bytes are there. */
#ifndef SERVER_REQUEST_H
#define SERVER_REQUEST_H
#include <stddef.h>
#include <stdint.h>

#define REQUEST_INLINE_MAX 65536u
#define REQUEST_ARGUMENTS_MAX (1024u * 1024u)

struct span {
    size_t offset; /* from the begin of the request */
    size_t size;
};

struct request {
    struct span *argv;
    size_t argc, argv_capacity;
    size_t begin;    /* where the request begins in the input */
    size_t position; /* how far the input has been read; the next request begins here once this one is ready */
    int64_t left;    /* arguments to come; -1: not begun */
    int64_t bulk;    /* size of the argument to come; -1: its length has not been read */
};

struct request_limits {
    size_t bulk_max;    /* one argument */
    size_t request_max; /* one whole request */
};

enum request_state {
    REQUEST_READY, /* argv is complete; call request_next when done with it */
    REQUEST_MORE,  /* more bytes are needed */
    REQUEST_BAD,   /* the stream makes no sense; the connection must be closed */
    REQUEST_NO_MEMORY
};

void request_init(struct request *r);
void request_fini(struct request *r);
/* Reads on in data[0 … size).  Inline arguments are unquoted in place.  *ret_error is set when REQUEST_BAD. */
enum request_state request_parse(struct request *r, char *data, size_t size, const struct request_limits *limits,
                                 const char **ret_error);
/* Forgets the finished request; the next one begins behind it. */
void request_next(struct request *r);
/* Goes back to a request that began at begin, to parse it once more; not for inline ones, which are unquoted in
 * place. */
void request_rewind(struct request *r, size_t begin);
/* Tells that everything before the current request left the input; returns how much that is. */
size_t request_rebase(struct request *r);

#endif
