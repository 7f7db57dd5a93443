/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Memory for small entries.
 *
 *      chunk (2 MiB of address space)      slab (16 KiB, one class)
 *      +------+------+------+-- --+        +--------+-------+-------+-------+-- --+-------+
 *      | slab | slab | slab | ... |        | header | block | block | block | ... | block |
 *      +------+------+------+-- --+        +--------+-------+-------+-------+-- --+-------+
 *
 *      thread's stock --batch--> depot of the class (mutex) --slab--> pool of empty slabs (mutex) --pages--> kernel
 *                     <--batch--                            <--slab--                             <--pages--
 *
 * Why.  malloc makes 160 bytes of an entry of 140, and eviction frees on one thread what another has allocated; both
 * its locks and its bookkeeping beside each block cost a fill more than the copy does.  Here a block has no header: its
 * class follows from the entry's size, its slab from its address.
 *
 * Classes.  Up to 256 bytes in steps of 8.  Above, a class is what a slab divided by a whole number gives, from 56 to 8
 * blocks, each about an eighth larger than the one before; so nothing is left over at the end of a slab.  Larger
 * entries are malloc's.
 *
 * Threads.  Each has a stock of blocks that it takes from and gives to without a lock; between stocks and depots go
 * batches.  A free block in the stock of a thread that sleeps, or has gone and not been followed by another, keeps a
 * slab from becoming empty, so in a stock it weighs WEIGHT more than its size, a 32nd of a slab.  All classes together
 * weigh no more than `keep`: 32 times that is what stocks can hold up.  The keeper has one for what it frees, too, so
 * that it does not take a lock for each block, and gives back all of it when it is done.
 *
 * Lines.  Blocks end where the slab ends, so those of 128 bytes begin at multiples of 128: two lines each, and both of
 * a pair that processors fetch together.  Behind a header of 64 bytes each would have its lines in two pairs, and a hit
 * among a million took 5 % longer.
 *
 * Budget.  held counts slabs that are in memory, whole: used, partly used, or empty and not yet given back.  It is part
 * of a count that others add to; who takes a slab says how much that may be at most, and a swap decides, so that what
 * two take at once does not pass it.  A block's cost is a slab divided by its blocks, so costs sum up to no less than
 * slabs that are full.
 *
 * Mixes that change.  When large entries come after small ones, slabs of the small class are full of holes and none is
 * empty.  Then the keeper chooses the emptiest, moves what is left in them into the holes of the others (blocks.c), and
 * has empty slabs.  Those holes are then all that fills have, and soon none.  Where more is held than may be, because a
 * limit was lowered, nobody waits for just those slabs: a fill that finds no other block takes one of them back.
 *
 * Sanitizers.  Free blocks are poisoned for AddressSanitizer, so that a use after free is found as it is with malloc.
 *
 * Locks, in this order.  As malloc's they make a fill wait for a fill; reads never come here, and neither do
 * invalidations: what they retire is pushed on a list (reclaim.c).  None is held while anything waits, for a grace
 * period or for Redis.
 *
 *      lock            protects                           held for                       taken inside
 *      depot's mutex   slabs of its class but `leaving`,  a batch; a look at the slabs   a read section
 *                      its lists and counts               that are partly used, choosing
 *      pool's mutex    empty slabs, chunks, what is held  one slab, the mapping of a     the depot's mutex
 *                                                         chunk; not what gives back
 *
 * A child of fork has no use for any of them: it may not use the parent's caches, and has mutexes of its own in those
 * that it opens.
 *
 * The kernel may refuse.  No mapping: the block is not there, the fill is refused.  No huge page: slabs are as good in
 * small ones.  Pages that it does not take back (they are locked into memory) are still held, and stay empty slabs.
 *
 * Huge pages.  A random read of an entry misses the TLB, too.  If they are wanted a new chunk becomes one huge page
 * where the kernel has one to give; it is in memory as a whole from the first touch on, so all of its slabs are held,
 * and empty ones among them are taken first.  The first slab that is given back ends that for its chunk: otherwise the
 * kernel might make it whole again behind our back.  (A kernel that was built without huge pages refuses all advice
 * about them, and then there is nothing to end.)  Where less than a chunk fits below what may be held, and where huge
 * pages are not wanted, slabs become part of memory one by one. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "local/arena.h"

#include "base/mutant.h"
#include "base/pages.h"
#include "local/entry.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, size) ((void)(memory), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(memory, size) ((void)(memory), (void)(size))
#endif

#define CHUNK_SIZE NEAR_HUGE_PAGE
#define CHUNK_SLABS (CHUNK_SIZE / NEAR_SLAB_SIZE)
#define HEADER 64
#define PAYLOAD (NEAR_SLAB_SIZE - HEADER)
#define FINE_MIN 16
#define FINE_MAX 256
#define FEWEST 8 /* blocks of the largest class */
_Static_assert(NEAR_SMALL_MAX == (PAYLOAD / FEWEST & ~UINT64_C(7)), "the largest class");
#define BLOCKS_MAX (PAYLOAD / FINE_MIN + 1)
#define WEIGHT ((int64_t)NEAR_SLAB_SIZE / 32)
#define BATCH_WEIGHT (INT64_C(16) << 10)
#define BATCH_MAX 32

struct block {
    struct block *next;
};

/* All under the class's mutex, but leaving. */
struct slab {
    struct slab *next, **link; /* in the depot's list, if a block is free; in the pool's, if it is empty */
    struct block *free;        /* given back */
    uint32_t free_count;       /* these, and those that were never taken */
    uint32_t fresh;            /* never taken: the last so many of the slab, whose end is theirs */
    uint32_t chunk;            /* which it is of */
    uint32_t tried;            /* something of it did not come back when it was chosen last */
    _Atomic(uint32_t) leaving; /* relaxed: only the keeper, who sets it, asks for it without the mutex */
};
_Static_assert(sizeof(struct slab) <= HEADER, "in front of the blocks");

struct depot {
    _Alignas(64) uint32_t size; /* (i), both; every fill reads it, so not in the line that batches write */
    uint32_t blocks;
    _Alignas(64) pthread_mutex_t mutex;
    struct slab *partial; /* blocks are taken from the first */
    struct slab *leaving; /* chosen, or full when it was; not taken from */
    uint64_t free_count;  /* blocks in `partial` */
};

struct chunk {
    char *memory;
    uint64_t absent[CHUNK_SLABS / 64]; /* slabs that hold no memory */
    int is_huge;
};

struct near__arena {
    struct near__classes class;
    const struct near__alloc *alloc;
    unsigned classes;
    int huge; /* wanted */
    struct depot depot[NEAR_CLASSES_MAX];
    _Alignas(64) pthread_mutex_t mutex; /* the pool's: what follows */
    struct slab *empty;                 /* in memory */
    uint64_t empty_count;
    struct chunk *chunk;
    size_t chunks, chunks_room;
    size_t absent_from;      /* no chunk before has an absent slab */
    _Atomic(int64_t) held;   /* changed under the mutex; relaxed: a count */
    _Atomic(int64_t) *total; /* (i) changed by others as well; relaxed: a count */
    _Atomic(int64_t) wanted; /* relaxed: tells the keeper, who is woken as well, what to look at */
    void *memory;
};
_Static_assert(offsetof(struct near__arena, class) == 0, "see near__arena_class");

/* ---------------------------------------------------------------- classes */

static void add_class(struct near__arena *arena, unsigned from, unsigned size)
{
    struct depot *depot = &arena->depot[arena->classes];
    depot->size = size;
    depot->blocks = (uint32_t)(PAYLOAD / size);
    arena->class.cost[arena->classes] = ((uint32_t)NEAR_SLAB_SIZE + depot->blocks - 1) / depot->blocks;
    for (unsigned s = from; s <= size; s += 8)
        arena->class.of[s / 8] = (uint8_t)arena->classes;
    arena->classes++;
}

static void make_classes(struct near__arena *arena)
{
    unsigned size = FINE_MIN;
    add_class(arena, 0, size);
    while (size < FINE_MAX) {
        add_class(arena, size + 8, size + 8);
        size += 8;
    }
    for (unsigned blocks = PAYLOAD / (FINE_MAX + FINE_MAX / 8); blocks >= FEWEST;
         blocks -= blocks > 16 ? blocks / 9 : 1) {
        unsigned next = (unsigned)(PAYLOAD / blocks) & ~7u;
        add_class(arena, size + 8, next);
        size = next;
    }
}

static void hold(struct near__arena *arena, int64_t bytes)
{
    atomic_fetch_add_explicit(arena->total, bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&arena->held, bytes, memory_order_relaxed);
}

static int hold_below(struct near__arena *arena, int64_t bytes, int64_t most)
{
    int64_t total = atomic_load_explicit(arena->total, memory_order_relaxed);
    do {
        if (total + bytes > most)
            return 0;
    } while (!atomic_compare_exchange_weak_explicit(arena->total, &total, total + bytes, memory_order_relaxed,
                                                    memory_order_relaxed));
    atomic_fetch_add_explicit(&arena->held, bytes, memory_order_relaxed);
    return 1;
}

int64_t near__arena_held(const struct near__arena *arena)
{
    return atomic_load_explicit(&arena->held, memory_order_relaxed);
}

/* ---------------------------------------------------------------- open and close */

int near__arena_open(const struct near__alloc *alloc, int huge, _Atomic(int64_t) *total, struct near__arena **ret)
{
    size_t size = sizeof(struct near__arena) + 63;
    void *memory = near__alloc_zero(alloc, size);
    if (!memory)
        return NEAR_ERR_NOMEM;
    struct near__arena *arena = (struct near__arena *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    arena->memory = memory;
    arena->alloc = alloc;
    arena->huge = huge;
    arena->total = total;
    make_classes(arena);
    for (unsigned c = 0; c < arena->classes; c++)
        pthread_mutex_init(&arena->depot[c].mutex, NULL);
    pthread_mutex_init(&arena->mutex, NULL);
    hold(arena, (int64_t)near__alloc_cost(alloc, memory, size));
    *ret = arena;
    return NEAR_OK;
}

void near__arena_close(struct near__arena *arena)
{
    if (!arena)
        return;
    for (size_t i = 0; i < arena->chunks; i++) {
        ASAN_UNPOISON_MEMORY_REGION(arena->chunk[i].memory, CHUNK_SIZE);
        near__pages_unmap(arena->chunk[i].memory, CHUNK_SIZE);
    }
    for (unsigned c = 0; c < arena->classes; c++)
        pthread_mutex_destroy(&arena->depot[c].mutex);
    pthread_mutex_destroy(&arena->mutex);
    near__free(arena->alloc, arena->chunk);
    near__free(arena->alloc, arena->memory);
}

/* ---------------------------------------------------------------- lists of slabs */

static void push_slab(struct slab **list, struct slab *slab)
{
    slab->next = *list;
    slab->link = list;
    if (slab->next)
        slab->next->link = &slab->next;
    *list = slab;
}

static void remove_slab(struct slab *slab)
{
    *slab->link = slab->next;
    if (slab->next)
        slab->next->link = slab->link;
    slab->link = NULL;
}

static struct slab *slab_of(const void *block)
{
    return (struct slab *)((uintptr_t)block & ~(uintptr_t)(NEAR_SLAB_SIZE - 1));
}

static int is_leaving(const struct slab *slab)
{
    return atomic_load_explicit(&slab->leaving, memory_order_relaxed) != 0;
}

/* ---------------------------------------------------------------- the pool */

/* The kernel is told not to make it one page of its own accord, as it would where huge pages are on for everybody: then
 * a slab of it would hold the memory of all. */
static char *map_chunk(void)
{
    char *memory = near__pages_map(CHUNK_SIZE);
    if (!memory)
        return NULL;
    if (!near__pointer_fits(memory + CHUNK_SIZE - sizeof(uint64_t))) {
        near__pages_unmap(memory, CHUNK_SIZE);
        return NULL;
    }
    (void)madvise(memory, CHUNK_SIZE, MADV_NOHUGEPAGE); /* only advice */
    return memory;
}

static int has_chunk_record_locked(struct near__arena *arena)
{
    if (arena->chunks < arena->chunks_room)
        return 1;
    size_t room = arena->chunks_room ? arena->chunks_room * 2 : 16;
    struct chunk *chunk = near__realloc(arena->alloc, arena->chunk, room * sizeof(*chunk));
    if (!chunk)
        return 0;
    hold(arena, (int64_t)((room - arena->chunks_room) * sizeof(*chunk)));
    arena->chunk = chunk;
    arena->chunks_room = room;
    return 1;
}

static int add_chunk_locked(struct near__arena *arena)
{
    if (!has_chunk_record_locked(arena))
        return 0;
    char *memory = map_chunk();
    if (!memory)
        return 0;
    struct chunk *chunk = &arena->chunk[arena->chunks];
    chunk->memory = memory; /* 32 bits count 8 PiB of chunks */
    chunk->is_huge = 0;
    memset(chunk->absent, 0xff, sizeof(chunk->absent));
    arena->absent_from = arena->chunks++;
    return 1;
}

static struct slab *slab_in(const struct near__arena *arena, size_t chunk, size_t at)
{
    struct slab *slab = (struct slab *)(void *)(arena->chunk[chunk].memory + at * NEAR_SLAB_SIZE);
    slab->chunk = (uint32_t)chunk;
    return slab;
}

static struct slab *absent_in(const struct near__arena *arena, size_t n)
{
    struct chunk *chunk = &arena->chunk[n];
    for (size_t i = 0; i < CHUNK_SLABS / 64; i++)
        if (chunk->absent[i]) {
            unsigned bit = (unsigned)__builtin_ctzll(chunk->absent[i]);
            chunk->absent[i] &= chunk->absent[i] - 1;
            return slab_in(arena, n, i * 64 + bit);
        }
    return NULL;
}

static struct slab *absent_locked(struct near__arena *arena)
{
    for (;;) {
        for (; arena->absent_from < arena->chunks; arena->absent_from++) {
            struct slab *slab = absent_in(arena, arena->absent_from);
            if (slab)
                return slab;
        }
        if (!add_chunk_locked(arena))
            return NULL;
    }
}

static int has_absent_locked(struct near__arena *arena)
{
    for (; arena->absent_from < arena->chunks; arena->absent_from++)
        for (size_t i = 0; i < CHUNK_SLABS / 64; i++)
            if (arena->chunk[arena->absent_from].absent[i])
                return 1;
    return 0;
}

/* Held already. */
static void add_huge_chunk_locked(struct near__arena *arena)
{
    if (!add_chunk_locked(arena)) {
        hold(arena, -(int64_t)CHUNK_SIZE);
        return;
    }
    struct chunk *chunk = &arena->chunk[arena->chunks - 1];
    /* only advice, and a kernel that has no huge pages knows neither this nor its contrary */
    chunk->is_huge = madvise(chunk->memory, CHUNK_SIZE, MADV_HUGEPAGE) == 0;
    memset(chunk->absent, 0, sizeof(chunk->absent));
    for (size_t i = CHUNK_SLABS; i-- > 0;)
        push_slab(&arena->empty, slab_in(arena, arena->chunks - 1, i));
    arena->empty_count += CHUNK_SLABS;
}

static struct slab *slab_from_pool(struct near__arena *arena, int64_t most)
{
    pthread_mutex_lock(&arena->mutex);
    if (!arena->empty && arena->huge && !has_absent_locked(arena) && hold_below(arena, (int64_t)CHUNK_SIZE, most))
        add_huge_chunk_locked(arena);
    struct slab *slab = arena->empty;
    if (slab) {
        remove_slab(slab);
        arena->empty_count--;
    } else if (hold_below(arena, (int64_t)NEAR_SLAB_SIZE, most)) {
        slab = absent_locked(arena);
        if (!slab)
            hold(arena, -(int64_t)NEAR_SLAB_SIZE);
    }
    pthread_mutex_unlock(&arena->mutex);
    return slab;
}

static void slab_to_pool(struct near__arena *arena, struct slab *slab)
{
    pthread_mutex_lock(&arena->mutex);
    push_slab(&arena->empty, slab);
    arena->empty_count++;
    pthread_mutex_unlock(&arena->mutex);
}

/* Out of the pool and not absent yet: nobody's but ours.  NULL: none, or none is too much. */
static struct slab *too_much_locked(struct near__arena *arena, int64_t most, uint64_t spare)
{
    struct slab *slab = arena->empty;
    if (!slab || (atomic_load_explicit(arena->total, memory_order_relaxed) <= most && arena->empty_count <= spare))
        return NULL;
    remove_slab(slab);
    arena->empty_count--;
    return slab;
}

/* 0: the kernel does not take it. */
static int give_to_kernel(struct slab *slab, char *huge)
{
    return (!huge || madvise(huge, CHUNK_SIZE, MADV_NOHUGEPAGE) == 0) &&
           madvise(slab, NEAR_SLAB_SIZE, MADV_DONTNEED) == 0;
}

static void put_absent_locked(struct near__arena *arena, const struct slab *slab, size_t n)
{
    struct chunk *chunk = &arena->chunk[n];
    size_t at = (size_t)((uintptr_t)slab - (uintptr_t)chunk->memory) / NEAR_SLAB_SIZE;
    chunk->is_huge = 0;
    chunk->absent[at / 64] |= UINT64_C(1) << at % 64;
    if (n < arena->absent_from)
        arena->absent_from = n;
    hold(arena, -(int64_t)NEAR_SLAB_SIZE);
}

/* Nobody waits for the kernel, who may take as long as a hundred fills: the mutex is not held meanwhile.  Whoever took
 * it again at once, slab after slab, would keep it from those who sleep for it. */
static int trim_one(struct near__arena *arena, int64_t most, uint64_t spare)
{
    pthread_mutex_lock(&arena->mutex);
    struct slab *slab = too_much_locked(arena, most, spare);
    size_t n = slab ? slab->chunk : 0;
    char *huge = slab && arena->chunk[n].is_huge ? arena->chunk[n].memory : NULL;
    pthread_mutex_unlock(&arena->mutex);
    if (!slab)
        return 0;
    int given = give_to_kernel(slab, huge);
    pthread_mutex_lock(&arena->mutex);
    if (given) {
        put_absent_locked(arena, slab, n);
    } else {
        push_slab(&arena->empty, slab);
        arena->empty_count++;
    }
    pthread_mutex_unlock(&arena->mutex);
    return given;
}

void near__arena_trim(struct near__arena *arena, int64_t most, uint64_t spare)
{
    uint64_t page = arena->huge ? CHUNK_SLABS : 0;
    spare = spare < UINT64_MAX - page ? spare + page : UINT64_MAX;
    while (trim_one(arena, most, spare))
        ;
}

int near__arena_has_empty(struct near__arena *arena)
{
    pthread_mutex_lock(&arena->mutex);
    int has = arena->empty != NULL;
    pthread_mutex_unlock(&arena->mutex);
    return has;
}

/* ---------------------------------------------------------------- the depot */

/* Above `most` a limit was lowered, and nothing is lost if one of the slabs that were chosen stays for now. */
static struct slab *stay_locked(const struct near__arena *arena, struct depot *depot, int64_t most)
{
    struct slab *slab = depot->leaving;
    if (!slab || atomic_load_explicit(arena->total, memory_order_relaxed) <= most)
        return NULL;
    remove_slab(slab);
    atomic_store_explicit(&slab->leaving, 0, memory_order_relaxed);
    push_slab(&depot->partial, slab);
    depot->free_count += slab->free_count;
    return slab;
}

static struct slab *usable_slab_locked(struct near__arena *arena, struct depot *depot, int64_t most)
{
    if (depot->partial)
        return depot->partial;
    struct slab *slab = slab_from_pool(arena, most);
    if (!slab && (slab = stay_locked(arena, depot, most)) != NULL)
        return slab;
    if (!slab) {
        near__arena_starve(arena, (int64_t)NEAR_SLAB_SIZE);
        return NULL;
    }
    *slab = (struct slab){.free_count = depot->blocks, .fresh = depot->blocks, .chunk = slab->chunk};
    ASAN_POISON_MEMORY_REGION((char *)slab + HEADER, PAYLOAD);
    push_slab(&depot->partial, slab);
    depot->free_count += depot->blocks;
    return slab;
}

static struct block *block_from_locked(const struct depot *depot, struct slab *slab)
{
    struct block *block = slab->free;
    slab->free_count--;
    if (!block) {
        block = (struct block *)(void *)((char *)slab + NEAR_SLAB_SIZE - (size_t)slab->fresh-- * depot->size);
        ASAN_UNPOISON_MEMORY_REGION(block, depot->size);
        return block;
    }
    ASAN_UNPOISON_MEMORY_REGION(block, depot->size);
    slab->free = block->next;
    return block;
}

static void stock_push(struct near__stock *stock, const struct depot *depot, unsigned class, struct block *block)
{
    block->next = stock->first[class];
    ASAN_POISON_MEMORY_REGION(block, depot->size);
    stock->first[class] = block;
    stock->count[class]++;
    stock->weight += WEIGHT + depot->size;
}

static struct block *stock_pop(struct near__stock *stock, const struct depot *depot, unsigned class)
{
    struct block *block = stock->first[class];
    ASAN_UNPOISON_MEMORY_REGION(block, depot->size);
    stock->first[class] = block->next;
    stock->count[class]--;
    stock->weight -= WEIGHT + depot->size;
    return block;
}

static uint32_t batch_of(const struct depot *depot, int64_t keep)
{
    int64_t weight = keep / 2 < BATCH_WEIGHT ? keep / 2 : BATCH_WEIGHT;
    uint32_t batch = (uint32_t)(weight / (WEIGHT + depot->size));
    return batch < 1 ? 1 : batch < BATCH_MAX ? batch : BATCH_MAX;
}

static void refill(struct near__arena *arena, struct near__stock *stock, unsigned class, int64_t keep, int64_t most)
{
    struct depot *depot = &arena->depot[class];
    struct slab *slab = NULL;
    pthread_mutex_lock(&depot->mutex);
    for (uint32_t left = batch_of(depot, keep); left; left--) {
        if (!slab && !(slab = usable_slab_locked(arena, depot, most)))
            break;
        stock_push(stock, depot, class, block_from_locked(depot, slab));
        depot->free_count--;
        if (!slab->free_count) {
            remove_slab(slab);
            slab = NULL;
        }
    }
    pthread_mutex_unlock(&depot->mutex);
}

/* A slab that was full goes to the list that it belongs to; one that is empty goes to the pool. */
static void give_locked(struct near__arena *arena, struct depot *depot, struct block *block)
{
    struct slab *slab = slab_of(block);
    block->next = slab->free;
    ASAN_POISON_MEMORY_REGION(block, depot->size);
    slab->free = block;
    int leaves = is_leaving(slab);
    if (!slab->free_count++ && !leaves)
        push_slab(&depot->partial, slab);
    if (!leaves)
        depot->free_count++;
    if (slab->free_count < depot->blocks)
        return;
    remove_slab(slab);
    if (!leaves)
        depot->free_count -= depot->blocks;
    ASAN_UNPOISON_MEMORY_REGION((char *)slab + HEADER, PAYLOAD);
    slab_to_pool(arena, slab);
}

/* Blocks go until no more than `left` of the class are in the stock. */
static void flush(struct near__arena *arena, struct near__stock *stock, unsigned class, uint32_t left)
{
    struct depot *depot = &arena->depot[class];
    pthread_mutex_lock(&depot->mutex);
    while (stock->count[class] > left)
        give_locked(arena, depot, stock_pop(stock, depot, class));
    pthread_mutex_unlock(&depot->mutex);
}

/* ---------------------------------------------------------------- blocks */

void *near__arena_pop(const struct near__arena *arena, struct near__stock *stock, unsigned class)
{
    return stock->first[class] ? stock_pop(stock, &arena->depot[class], class) : NULL;
}

void *near__arena_take(struct near__arena *arena, struct near__stock *stock, unsigned class, int64_t keep, int64_t most)
{
    stock->keep = keep;
    if (stock->weight > keep)
        near__arena_settle(arena, stock);
    refill(arena, stock, class, keep, most);
    return near__arena_pop(arena, stock, class);
}

void near__arena_settle(struct near__arena *arena, struct near__stock *stock)
{
    for (unsigned c = 0; c < arena->classes; c++)
        if (stock->count[c])
            flush(arena, stock, c, 0);
}

void near__arena_give(struct near__arena *arena, struct near__stock *stock, unsigned class, void *block)
{
    stock_push(stock, &arena->depot[class], class, block);
    if (stock->weight <= stock->keep)
        return;
    flush(arena, stock, class, stock->count[class] / 2);
    if (stock->weight > stock->keep)
        near__arena_settle(arena, stock);
}

/* ---------------------------------------------------------------- choosing */

void near__arena_starve(struct near__arena *arena, int64_t bytes)
{
    int64_t wanted = atomic_load_explicit(&arena->wanted, memory_order_relaxed);
    while (wanted < bytes && !atomic_compare_exchange_weak_explicit(&arena->wanted, &wanted, bytes,
                                                                    memory_order_relaxed, memory_order_relaxed))
        ;
}

int near__arena_is_starved(const struct near__arena *arena)
{
    return atomic_load_explicit(&arena->wanted, memory_order_relaxed) > 0;
}

int64_t near__arena_wanted(struct near__arena *arena)
{
    return near__arena_is_starved(arena) ? atomic_exchange_explicit(&arena->wanted, 0, memory_order_relaxed) : 0;
}

int near__arena_is_leaving(const void *block)
{
    return is_leaving(slab_of(block));
}

static void unchoose_of_class(struct depot *depot, int tried)
{
    pthread_mutex_lock(&depot->mutex);
    while (depot->leaving) {
        struct slab *slab = depot->leaving;
        remove_slab(slab);
        atomic_store_explicit(&slab->leaving, 0, memory_order_relaxed);
        slab->tried = (uint32_t)tried;
        push_slab(&depot->partial, slab);
        depot->free_count += slab->free_count;
    }
    pthread_mutex_unlock(&depot->mutex);
}

void near__arena_unchoose(struct near__arena *arena, int tried)
{
    for (unsigned c = 0; c < arena->classes; c++)
        unchoose_of_class(&arena->depot[c], tried);
}

static int is_eligible(const struct slab *slab, int all)
{
    return all || !slab->tried;
}

/* The number of free blocks from which on there are no more slabs than `most`. */
static uint32_t threshold_locked(const struct depot *depot, uint64_t most, int all)
{
    uint32_t slabs[BLOCKS_MAX] = {0};
    for (const struct slab *slab = depot->partial; slab; slab = slab->next)
        if (is_eligible(slab, all))
            slabs[slab->free_count]++;
    uint32_t free_count = depot->blocks;
    for (uint64_t chosen = 0; free_count > 1 && chosen + slabs[free_count - 1] <= most; free_count--)
        chosen += slabs[free_count - 1];
    return free_count;
}

static void choose_slab_locked(struct depot *depot, struct slab *slab)
{
    atomic_store_explicit(&slab->leaving, 1, memory_order_relaxed);
    if (NEAR_MUTANT(LEAVING_TAKEN))
        return;
    remove_slab(slab);
    push_slab(&depot->leaving, slab);
    depot->free_count -= slab->free_count;
}

static uint64_t choose_of_class(struct depot *depot, int all)
{
    uint64_t chosen = 0;
    pthread_mutex_lock(&depot->mutex);
    uint64_t most = depot->free_count / depot->blocks;
    uint32_t threshold = most ? threshold_locked(depot, most, all) : UINT32_MAX;
    for (struct slab *slab = depot->partial, *next; slab && chosen < most; slab = next) {
        next = slab->next;
        /* of those one below the threshold, as many as there is room for */
        if (slab->free_count + 1 < threshold || !is_eligible(slab, all))
            continue;
        choose_slab_locked(depot, slab);
        chosen++;
    }
    pthread_mutex_unlock(&depot->mutex);
    return chosen;
}

uint64_t near__arena_choose(struct near__arena *arena, int all)
{
    uint64_t chosen = 0;
    for (unsigned c = 0; c < arena->classes; c++)
        chosen += choose_of_class(&arena->depot[c], all);
    return chosen;
}
