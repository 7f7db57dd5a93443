/* SPDX-License-Identifier: BSD-3-Clause
 * A growing run of bytes.  A failed append leaves the buffer as it was and sticks in `failed`, so that a series of
 * appends is checked once at its end. */
#ifndef NEAR_BASE_BUFFER_H
#define NEAR_BASE_BUFFER_H
#include <stddef.h>
#include <stdint.h>
#include "base/alloc.h"

struct near__buffer {
    const struct near__alloc *alloc;
    unsigned char *data;
    size_t size, capacity;
    int failed;
};

void near__buffer_init(struct near__buffer *b, const struct near__alloc *alloc);
void near__buffer_fini(struct near__buffer *b);
void near__buffer_append(struct near__buffer *b, const void *bytes, size_t size);
void near__buffer_append_byte(struct near__buffer *b, unsigned char byte);
void near__buffer_append_varint(struct near__buffer *b, uint64_t number); /* LEB128 */
void near__buffer_consume(struct near__buffer *b, size_t size);           /* drop from the front */
void *near__buffer_reserve(struct near__buffer *b, size_t size);          /* room behind size; NULL on failure */

#endif
