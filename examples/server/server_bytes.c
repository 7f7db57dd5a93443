/* SPDX-License-Identifier: BSD-3-Clause */
#include "server_bytes.h"

#include <stdlib.h>
#include <string.h>

enum { BYTES_MIN = 4096, BYTES_KEEP = 256 * 1024 /* an empty queue larger than this is given back */ };

static void bytes_compact(struct bytes *b)
{
    if (b->start == 0)
        return;
    memmove(b->data, b->data + b->start, bytes_size(b));
    b->end -= b->start;
    b->start = 0;
}

int bytes_reserve(struct bytes *b, size_t size)
{
    size_t used = bytes_size(b), capacity = b->capacity ? b->capacity : BYTES_MIN;
    char *data;
    if (b->failed || size > b->limit || used > b->limit - size) {
        b->failed = 1;
        return -1;
    }
    if (b->capacity - b->end >= size)
        return 0;
    /* Moving costs what was consumed since the last move at most, when at least half is free space. */
    if (b->start >= b->capacity / 2 && b->capacity - used >= size) {
        bytes_compact(b);
        return 0;
    }
    while (capacity - used < size)
        capacity *= 2;
    if (!(data = malloc(capacity))) {
        b->failed = 1;
        return -1;
    }
    if (used > 0)
        memcpy(data, b->data + b->start, used);
    free(b->data);
    *b = (struct bytes){.data = data, .end = used, .capacity = capacity, .limit = b->limit};
    return 0;
}

void bytes_append(struct bytes *b, const void *data, size_t size)
{
    if (size == 0 || bytes_reserve(b, size) < 0)
        return;
    memcpy(b->data + b->end, data, size);
    b->end += size;
}

void bytes_consume(struct bytes *b, size_t size)
{
    b->start += size;
    if (b->start < b->end)
        return;
    b->start = b->end = 0;
    if (b->capacity > BYTES_KEEP) {
        free(b->data);
        b->data = NULL;
        b->capacity = 0;
    }
}

void bytes_fini(struct bytes *b)
{
    free(b->data);
    *b = (struct bytes){0};
}
