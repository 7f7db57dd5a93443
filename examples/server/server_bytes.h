/* SPDX-License-Identifier: BSD-3-Clause
 * A queue of bytes that grows as bytes really arrive, never by what somebody promises to send. */
#ifndef SERVER_BYTES_H
#define SERVER_BYTES_H
#include <stddef.h>

struct bytes {
    char *data;
    size_t start, end, capacity; /* [start, end) is what is queued */
    size_t limit;                /* most bytes queued; going beyond sets failed */
    int failed;                  /* sticky: no memory, or beyond the limit; later appends do nothing */
};

static inline size_t bytes_size(const struct bytes *b)
{
    return b->end - b->start;
}

/* Makes room for size more bytes behind the end.  0, or -1 with failed set. */
int bytes_reserve(struct bytes *b, size_t size);
void bytes_append(struct bytes *b, const void *data, size_t size);
/* Forgets size bytes at the start; gives memory back when a large queue has run empty. */
void bytes_consume(struct bytes *b, size_t size);
void bytes_fini(struct bytes *b);

#endif
