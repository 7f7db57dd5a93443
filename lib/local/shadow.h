/* SPDX-License-Identifier: BSD-3-Clause
 * Two small caches without values, one LRU and one S3-FIFO, that are shown the same sample of the requests: what the
 * policy `adaptive` decides by.  One thread at a time. */
#ifndef NEAR_LOCAL_SHADOW_H
#define NEAR_LOCAL_SHADOW_H
#include <stddef.h>
#include <stdint.h>
#include "base/alloc.h"

struct near__shadow;

/* What a request was. */
enum near__seen {
    NEAR_SEEN_HIT,  /* a read that was answered: the key exists */
    NEAR_SEEN_MISS, /* a read that was not: a fill follows if the key exists */
    NEAR_SEEN_FILL  /* not a read */
};

/* For at most `entries` entries each.  NULL: no memory. */
struct near__shadow *near__shadow_create(const struct near__alloc *alloc, uint32_t entries, size_t *ret_cost);
void near__shadow_destroy(const struct near__alloc *alloc, struct near__shadow *shadow);

/* Only keys whose hash is below this concern it. */
uint64_t near__shadow_below(const struct near__shadow *shadow);
/* The real cache has that many entries; the sample follows it. */
void near__shadow_scale(struct near__shadow *shadow, uint64_t entries);
void near__shadow_see(struct near__shadow *shadow, uint64_t hash, enum near__seen seen);
/* Which of the two answers more: 1 S3-FIFO, -1 LRU, 0 not clear. */
int near__shadow_verdict(const struct near__shadow *shadow);
/* Hits so far, of the reads seen. */
struct near__shadow_tally {
    uint64_t reads, lru_hits, s3fifo_hits;
};
struct near__shadow_tally near__shadow_tally(const struct near__shadow *shadow);

#endif
