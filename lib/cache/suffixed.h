/* SPDX-License-Identifier: BSD-3-Clause
 * The name of what lies beside a key: the key and a suffix.  Short ones, as nearly all are, take no allocation; long
 * ones are not put on the stack, which is the caller's and may be small. */
#ifndef NEAR_CACHE_SUFFIXED_H
#define NEAR_CACHE_SUFFIXED_H
#include <string.h>
#include "base/alloc.h"

#define NEAR_SUFFIXED_SHORT 256

struct near__suffixed {
    unsigned char *bytes; /* NULL: no memory, and size is 0 */
    size_t size;
    unsigned char own[NEAR_SUFFIXED_SHORT];
};

static inline void near__suffixed_init(struct near__suffixed *s, const struct near__alloc *alloc, const void *key,
                                       size_t key_size, const char *suffix)
{
    size_t more = strlen(suffix), size = key_size + more;
    s->bytes = size <= sizeof(s->own) ? s->own : near__alloc(alloc, size);
    s->size = s->bytes ? size : 0;
    if (!s->bytes)
        return;
    if (key_size)
        memcpy(s->bytes, key, key_size);
    memcpy(s->bytes + key_size, suffix, more);
}

static inline void near__suffixed_fini(struct near__suffixed *s, const struct near__alloc *alloc)
{
    if (s->bytes != s->own)
        near__free(alloc, s->bytes);
}

#endif
