/* SPDX-License-Identifier: BSD-3-Clause
 * Memory for small entries: the essay is at the head of arena.c. */
#ifndef NEAR_LOCAL_ARENA_H
#define NEAR_LOCAL_ARENA_H
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include "base/alloc.h"

struct near__arena;

#define NEAR_CLASSES_MAX 64
#define NEAR_CLASS_NONE NEAR_CLASSES_MAX /* too large for the arena */
#define NEAR_SLAB_SIZE (UINT64_C(16) << 10)
#define NEAR_SMALL_MAX 2040 /* bytes of the largest class */

/* Free blocks that a thread has at hand, by class.  The owner's alone.  All zero: empty. */
struct near__stock {
    void *first[NEAR_CLASSES_MAX];
    uint32_t count[NEAR_CLASSES_MAX];
    int64_t weight; /* of all of them: bytes, and what each of them may keep from going: see arena.c */
    int64_t keep;   /* most that may be kept, as was said last */
};

/* NEAR_OK or NEAR_ERR_NOMEM.  alloc is for the administration alone; blocks come from the kernel, in huge pages if that
 * is wanted and possible; then 2 MiB more than are used may be held.  memory: where what is held is added to what
 * others have; limits are of that. */
int near__arena_open(const struct near__alloc *alloc, int huge, _Atomic(int64_t) *memory, struct near__arena **ret);
/* Every block is gone afterwards.  NULL is fine. */
void near__arena_close(struct near__arena *arena);

/* What follows from a size.  An arena begins with it (i), since each fill asks several times. */
struct near__classes {
    uint8_t of[NEAR_SMALL_MAX / 8 + 1];
    uint32_t cost[NEAR_CLASSES_MAX];
};
static inline unsigned near__arena_class(const struct near__arena *arena, size_t size)
{
    return size <= NEAR_SMALL_MAX ? ((const struct near__classes *)(const void *)arena)->of[(size + 7) / 8]
                                  : NEAR_CLASS_NONE;
}
/* Bytes that a block of that class really takes: itself and its share of what a slab cannot use. */
static inline int64_t near__arena_cost(const struct near__arena *arena, unsigned class)
{
    return ((const struct near__classes *)(const void *)arena)->cost[class];
}
/* Slabs that are in memory, and the administration. */
int64_t near__arena_held(const struct near__arena *arena);

/* A block of that class, 8-byte aligned, from the stock; NULL: it has none.  Called by the stock's owner, as the next
 * two are. */
void *near__arena_pop(const struct near__arena *arena, struct near__stock *stock, unsigned class);
/* The same when there was none, from a batch.  NULL: no memory, or there would be more than `most` bytes of it; then
 * near__arena_wanted tells it, once.  keep: weight that the stock may have from now on, and half as much again after a
 * batch. */
void *near__arena_take(struct near__arena *arena, struct near__stock *stock, unsigned class, int64_t keep,
                       int64_t most);
/* Half of the class's blocks go to the depot when the stock weighs more than it may. */
void near__arena_give(struct near__arena *arena, struct near__stock *stock, unsigned class, void *block);
/* Gives back all of a stock, whose owner calls. */
void near__arena_settle(struct near__arena *arena, struct near__stock *stock);

/* ---------------------------------------------------------------- one thread's, the keeper's */

/* Somebody needs so many bytes that slabs hold; any thread. */
void near__arena_starve(struct near__arena *arena, int64_t bytes);
/* The most that somebody needs since it was last asked for, a slab for whoever found no block; 0: nobody. */
int64_t near__arena_wanted(struct near__arena *arena);
/* Somebody needs something, and nobody has asked for it yet; any thread. */
int near__arena_is_starved(const struct near__arena *arena);
/* A slab is empty. */
int near__arena_has_empty(struct near__arena *arena);
/* Chooses the emptiest slabs of each class, as many as the free blocks of the others can take over, and takes no more
 * blocks from them; without `all` none that was tried before and not forgiven since.  How many slabs. */
uint64_t near__arena_choose(struct near__arena *arena, int all);
/* The choice ends: blocks are taken from those that have not become empty.  tried: they were looked after in vain. */
void near__arena_unchoose(struct near__arena *arena, int tried);
/* The block's slab was chosen. */
int near__arena_is_leaving(const void *block);
/* Gives empty slabs back to the kernel until there are no more than `most` bytes of memory and no more than `spare` are
 * empty (and a huge page's), or none is left, or the kernel takes none. */
void near__arena_trim(struct near__arena *arena, int64_t most, uint64_t spare);

#endif
