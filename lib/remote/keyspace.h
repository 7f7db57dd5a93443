/* SPDX-License-Identifier: BSD-3-Clause
 * The keys of a memory:// store: bytes to bytes with a time to live.  No lock of its own: the store's protects it.
 * Times are nanoseconds of the store's clock. */
#ifndef NEAR_REMOTE_KEYSPACE_H
#define NEAR_REMOTE_KEYSPACE_H
#include <stddef.h>
#include <stdint.h>
#include <uthash.h>
#include "base/alloc.h"
#include "base/buffer.h"

struct near__record {
    UT_hash_handle hh;
    int64_t expire_ns; /* NEAR_NEVER: no time to live */
    void *value;
    size_t value_size;
    size_t key_size;
    unsigned char key[];
};

struct near__keyspace {
    const struct near__alloc *alloc;
    uint64_t seed;
    struct near__record *records; /* uthash's head; in order of insertion */
    struct near__record *sweep;   /* where the search for expired records goes on */
};

void near__keyspace_init(struct near__keyspace *ks, const struct near__alloc *alloc);
void near__keyspace_clear(struct near__keyspace *ks);

/* The record of a key, or NULL.  One whose time is over is removed by the way. */
struct near__record *near__keyspace_find(struct near__keyspace *ks, const void *key, size_t key_size, int64_t now_ns);
/* Sets a key.  NULL when memory fails: then nothing has changed. */
struct near__record *near__keyspace_put(struct near__keyspace *ks, const void *key, size_t key_size, const void *value,
                                        size_t value_size, int64_t expire_ns);
void near__keyspace_remove(struct near__keyspace *ks, struct near__record *record);
/* Removes what begins with prefix, returns how many that were alive. */
/* Appends size (a size_t) and key of what follows the prefix, for keys whose rest matches a pattern of Redis's kind (*
 * ? [set] \\), from record number `from` on.  Where the next page begins; 0: that was all. */
uint64_t near__keyspace_page(struct near__keyspace *ks, uint64_t from, const void *prefix, size_t prefix_size,
                             const char *pattern, int64_t now_ns, struct near__buffer *page);
uint64_t near__keyspace_remove_prefix(struct near__keyspace *ks, const void *prefix, size_t prefix_size,
                                      int64_t now_ns);
/* Makes into (initialised) the same as from.  0, or -1 when memory fails: then into is empty. */
int near__keyspace_copy(struct near__keyspace *into, const struct near__keyspace *from);
/* Looks at a few records and removes those whose time is over: called with each write, so that keys that nobody reads
 * any more do not pile up. */
void near__keyspace_sweep(struct near__keyspace *ks, int64_t now_ns);

/* A value as a decimal integer by Redis's rule: no blanks, no plus sign, no leading zeroes.  0, or -1. */
int near__keyspace_integer(const void *value, size_t size, int64_t *ret_number);

#endif
