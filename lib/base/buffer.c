/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/buffer.h"

#include <string.h>

void near__buffer_init(struct near__buffer *b, const struct near__alloc *alloc)
{
    *b = (struct near__buffer){.alloc = alloc};
}

void near__buffer_fini(struct near__buffer *b)
{
    near__free(b->alloc, b->data);
    *b = (struct near__buffer){.alloc = b->alloc};
}

/* Doubling keeps a long series of appends linear. */
static int grow(struct near__buffer *b, size_t needed)
{
    size_t capacity = b->capacity ? b->capacity : 64;
    while (capacity < needed)
        capacity = capacity > SIZE_MAX / 2 ? needed : capacity * 2;
    unsigned char *data = near__realloc(b->alloc, b->data, capacity);
    if (!data)
        return 0;
    b->data = data;
    b->capacity = capacity;
    return 1;
}

void *near__buffer_reserve(struct near__buffer *b, size_t size)
{
    if (b->failed)
        return NULL;
    if (size > SIZE_MAX - b->size || (b->size + size > b->capacity && !grow(b, b->size + size)) ||
        (!b->data && !grow(b, 1))) {
        b->failed = 1;
        return NULL;
    }
    return b->data + b->size;
}

void near__buffer_append(struct near__buffer *b, const void *bytes, size_t size)
{
    if (!size)
        return;
    void *room = near__buffer_reserve(b, size);
    if (!room)
        return;
    memcpy(room, bytes, size);
    b->size += size;
}

void near__buffer_append_byte(struct near__buffer *b, unsigned char byte)
{
    near__buffer_append(b, &byte, 1);
}

void near__buffer_append_varint(struct near__buffer *b, uint64_t number)
{
    unsigned char bytes[10];
    size_t size = 0;
    do {
        bytes[size] = (unsigned char)(number & 0x7f);
        number >>= 7;
        if (number)
            bytes[size] |= 0x80;
        size++;
    } while (number);
    near__buffer_append(b, bytes, size);
}

void near__buffer_consume(struct near__buffer *b, size_t size)
{
    if (size > b->size)
        size = b->size;
    b->size -= size;
    if (size && b->size)
        memmove(b->data, b->data + size, b->size);
}
