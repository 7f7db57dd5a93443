/* SPDX-License-Identifier: BSD-3-Clause
 * The index: buckets of words, floors and generations.  The essay is at the head of index.c.
 *
 * Everything here runs inside a read section of the caller's, except near__index_ticket and the raising of floors. */
#ifndef NEAR_LOCAL_INDEX_H
#define NEAR_LOCAL_INDEX_H
#include <stdint.h>
#include "local/entry.h"
#include "local/order.h"
#include "local/step.h"

#define NEAR_BUCKET_SLOTS 8

struct near__bucket {
    _Alignas(64) _Atomic(uint64_t) slot[NEAR_BUCKET_SLOTS];
};
_Static_assert(sizeof(struct near__bucket) == 64, "a bucket is one cache line");

struct near__span {
    struct near__bucket *bucket;
    uint64_t count; /* any number up to 2^32 */
};

/* A view of the tables.  Never changes once published; replaced whole.
 *              spans                   target
 *   STEADY     {table}                 0
 *   PREPARE    {old, new}              0
 *   MIGRATE    {old, new}              1                                                                       */
struct near__tables {
    struct near__span span[2]; /* in the order in which they are scanned */
    unsigned spans, target;    /* target: where installs go */
    uint64_t serial;           /* never used twice in a tier: a pointer to a view that is gone may be used again */
};

/* What is known about the order of the keys of one stripe. */
struct near__stripe {
    _Atomic(uint64_t) floor;
    _Atomic(uint64_t) generation;
};

struct near__index {
    _Atomic(struct near__tables *) tables;
    uint64_t seed;
    struct near__stripe *stripes;
    uint64_t stripe_mask;
    _Atomic(uint64_t) cleared; /* counts as part of every stripe's generation */
};

/* Why an entry leaves. */
enum near__why { NEAR_WHY_EVICTED, NEAR_WHY_EXPIRED, NEAR_WHY_REPLACED, NEAR_WHY_INVALIDATED, NEAR_WHY_DROPPED, NEAR_WHY_MAX };

/* Defined in reclaim.c (and by the tests of index.c): takes an entry that has just been swapped out of its slot. */
void near__retire(struct near__index *index, struct near__entry *entry, enum near__why why);

/* hash bits: 63…32 bucket, 31…16 stripe, 15…0 tag */
static inline struct near__bucket *near__span_bucket(const struct near__span *span, uint64_t hash)
{
    return &span->bucket[((hash >> 32) * span->count) >> 32];
}
static inline struct near__stripe *near__index_stripe(const struct near__index *index, uint64_t hash)
{
    return &index->stripes[(hash >> 16) & index->stripe_mask];
}
static inline uint32_t near__index_generation(const struct near__index *index, const struct near__stripe *stripe)
{
    /* Two numbers that only grow: their sum is the same twice only if neither has changed in between. */
    return (uint32_t)(near__step_load(&stripe->generation) + near__step_load(&index->cleared));
}
static inline struct near__tables *near__index_tables(const struct near__index *index)
{
    /* acquire: pairs with the store that publishes the view; publishes its spans and zeroed buckets.  Which of two views an
     * operation gets does not matter: see "Two tables" in index.c. */
    return atomic_load_explicit(&index->tables, memory_order_acquire);
}

/* The visible entry of a key, or NULL. */
static inline struct near__entry *near__index_find(const struct near__index *index, uint64_t hash, const void *key,
                                                   size_t key_size)
{
    const struct near__tables *tables = near__index_tables(index);
    const uint64_t wanted = near__hash_tag(hash) << NEAR_WORD_TAG_SHIFT;
    for (unsigned t = 0; t < tables->spans; t++) {
        struct near__bucket *bucket = near__span_bucket(&tables->span[t], hash);
        for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++) {
            uint64_t word = near__step_look(&bucket->slot[i]);
            if ((word & ~(NEAR_WORD_POINTER)) != wanted) /* other tag, or tentative */
                continue;
            struct near__entry *entry = near__word_entry(word);
            __builtin_prefetch((const char *)entry + 64); /* the value; measured: 10 to 20 % more hits copied out */
            if (near__entry_is(entry, key, key_size))
                return entry;
        }
    }
    return NULL;
}

/* Makes entry visible if its position and the ticket's generation allow.  1: it is; 0: it is not, and is the caller's again. */
int near__index_install(struct near__index *index, struct near__entry *entry, uint64_t hash, uint32_t generation,
                        const struct near__moment *moment);
/* 1 an entry went, 0 none was there, -1 the one there is not below position.  position 0: below everything. */
int near__index_invalidate(struct near__index *index, uint64_t hash, const void *key, size_t key_size, uint64_t position,
                           enum near__why why);
/* Takes whatever is visible in the slot out if it is still `word`.  1: this call did. */
int near__index_unlink(struct near__index *index, _Atomic(uint64_t) *slot, uint64_t word, enum near__why why);
/* Moves what is in one bucket of the old table into the new one (the keeper, in MIGRATE). */
void near__index_move(struct near__index *index, struct near__bucket *old, const struct near__span *span,
                      const struct near__moment *moment);
/* Empties every bucket from first up to end of one span, tentative words included. */
void near__index_empty(struct near__index *index, const struct near__span *span, uint64_t first, uint64_t end,
                       enum near__why why);

#endif
