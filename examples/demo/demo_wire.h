/* SPDX-License-Identifier: BSD-3-Clause
 * The other end of the wire: a small RESP2 client over a unix socket, with a deadline for each step. */
#ifndef DEMO_WIRE_H
#define DEMO_WIRE_H
#include <stddef.h>
#include <stdint.h>

struct wire {
    int fd; /* -1: not connected; any failure closes it */
    char *out, *in;
    size_t out_size, out_capacity, in_start, in_end, in_capacity;
};

enum wire_kind { WIRE_BROKEN = -1, WIRE_SIMPLE, WIRE_ERROR, WIRE_INTEGER, WIRE_BULK, WIRE_NIL, WIRE_ARRAY };

struct wire_reply {
    enum wire_kind kind;
    const char *data; /* text of a line or bytes of a bulk string; valid until the next wire_read */
    size_t size;      /* of an array: how many replies follow */
};

void wire_init(struct wire *wire);
void wire_close(struct wire *wire); /* also gives the memory back */
int wire_connect(struct wire *wire, const char *path);
/* Queues a command; sizes NULL: the arguments are texts. */
void wire_command(struct wire *wire, size_t count, const char *const *arguments, const size_t *sizes);
/* Sends what is queued.  0, or -1. */
int wire_flush(struct wire *wire, int64_t deadline_ns);
enum wire_kind wire_read(struct wire *wire, int64_t deadline_ns, struct wire_reply *ret);
/* One command of texts on a connection of its own.  Copies the reply's text.  WIRE_BROKEN when there is none in
 * time. */
enum wire_kind wire_ask(const char *path, int timeout_ms, char *text, size_t capacity, size_t count,
                        const char *const *arguments);

#endif
