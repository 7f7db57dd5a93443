/* SPDX-License-Identifier: BSD-3-Clause
 * An entry: one key and one value in one block of memory, and the word that leads to it.
 *
 *   -16      -12       -8       -4        0                              8       10       12
 *   +--------+---------+--------+---------+--------------------+---------+-------+--------+-----------+-------------+
 *   | key    | value   | queue  | expires | position 48        | flags 8 | value | access | key bytes | value bytes |
 *   | size   | size    | place  |         | or, retired, link  | key     | size  | age    |           |             |
 *   |        |         |        |         |                    | size 8  |       |        |           |             |
 *   +--------+---------+--------+---------+--------------------+---------+-------+--------+-----------+-------------+
 *   '- if LONG --------'- if PREFIX ------'- what every entry costs: 12 bytes ------------'
 *
 *   head    (r) position, flags and size of the key.  What the owner wrote before publishing stays until the entry is
 *             retired; then
 *               whoever swapped it out of its slot stores the link in the position's place, and after a grace period
 *               the keeper may mark it.  Flags but CONDEMNED and KEPT, and the size, never change.
 *   sizes, flags, expires, key, value   (i) never change once published
 *   access  (a) any reader, relaxed: a lost or late store makes a hot entry look a little older, no more
 *   place   (q) in the order of eviction, for the policies that need one: see "queues" in order.h
 *
 * Twelve bytes, so that an entry of 16 + 100 bytes is 128: blocks of the arena's class of that size begin at multiples
 * of 64, and such an entry lies in two cache lines, where 136 bytes lie in three.  What few entries need stands in
 * front, so that the others do not pay for it and keys begin at the same place in all of them.
 *
 * ---- A retired entry's position is negative
 *
 * The link is what makes retiring free of allocation, so an invalidation works when memory is exhausted.  It has no
 * bytes of its own: it stands where the position stood, with the sign set, which no position has.  So a head that is
 * loaded once tells either the position of an entry that has not been retired, or a number below every position, floor
 * and watermark: *a retired entry is older than everything*.
 *
 * Who has an entry, found in its slot, that others may retire meanwhile, compares by near__entry_is_below or as signed
 * numbers, and then it does not matter when it is retired:
 *
 *   a hit (hit.h)                   below the watermark: takes the long way, which looks for the key once more
 *   is_newer, settle, invalidate    older, so it is to go: the swap from its word fails, as it is out of its slot, and
 *     (index.c)                     the slot is looked at again
 *   near__entry_is_dead (order.h)   dead: whoever then wants to evict, sweep or displace it fails in the same way; who
 *                                 shows suspects
 *                                   to the repairer passes it over
 *   renews (install.c)              an older entry that was there a moment ago, as before it was retired
 *   the mover (blocks.c)            copies a head that is no use, and fails to put the copy in its slot
 *
 * Sizes and flags of a retired entry are what they were, so whoever reads key or value goes on.  The place in the queue
 * is emptied before. */
#ifndef NEAR_LOCAL_ENTRY_H
#define NEAR_LOCAL_ENTRY_H
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "base/alloc.h"
#include "base/compiler.h"
#include "base/hash.h"
#include "local/step.h"

struct near__entry {
    _Atomic(uint64_t) head;
    uint16_t size; /* of the value, unless LONG */
    _Atomic(uint16_t) access;
    unsigned char bytes[];
};
#define NEAR_ENTRY_HEADER offsetof(struct near__entry, bytes) /* not the struct's size, which is rounded up */
_Static_assert(NEAR_ENTRY_HEADER == 12, "the header is what every entry costs");

#define NEAR_ENTRY_VALUE_MAX ((UINT32_C(1) << 29) - 1)

/* The lower 16 bits of a head.  The era is at the top, so that a number of 16 bits that is counted up by
 * NEAR_ENTRY_ERA_STEP wraps by itself and leaves the others alone. */
#define NEAR_ENTRY_KEY_SIZE 0xffu   /* LONG: 0 */
#define NEAR_ENTRY_EXPIRES 0x100u   /* with PREFIX */
#define NEAR_ENTRY_PREFIX 0x200u    /* 8 bytes in front */
#define NEAR_ENTRY_LONG 0x400u      /* with PREFIX: another 8, with sizes that have no room in the header */
#define NEAR_ENTRY_CONDEMNED 0x800u /* the keeper's, after a grace period: reclaim.c */
#define NEAR_ENTRY_KEPT 0x1000u     /* likewise */
#define NEAR_ENTRY_ERA 0xc000u
#define NEAR_ENTRY_ERA_STEP 0x4000u
#define NEAR_ENTRY_ERAS 4
_Static_assert(NEAR_ENTRY_ERAS *NEAR_ENTRY_ERA_STEP == UINT16_MAX + 1, "see above");

#define NEAR_HEAD_SHIFT 16 /* of the position, or the link */
#define NEAR_HEAD_LOW UINT64_C(0xffff)
#define NEAR_HEAD_RETIRED (UINT64_C(1) << 63)
/* A link is a multiple of 8 of 48 bits (near__pointer_fits), so this moves it between the sign and the lower 16
 * bits. */
#define NEAR_HEAD_LINK_SHIFT 13

/* ---------------------------------------------------------------- the head */

/* relaxed: (r) was published with the slot's word, or written by the caller itself; a link is as good whenever it is
 * seen */
static inline int64_t near__entry_head(const struct near__entry *e)
{
    return (int64_t)atomic_load_explicit(&e->head, memory_order_relaxed);
}
static inline unsigned near__entry_flags(const struct near__entry *e)
{
    return (uint16_t)near__entry_head(e) & ~NEAR_ENTRY_KEY_SIZE;
}
/* Negative: retired. */
static inline int64_t near__entry_position(const struct near__entry *e)
{
    return near__entry_head(e) >> NEAR_HEAD_SHIFT;
}
/* What is retired is below everything but 0. */
static inline int near__entry_is_below(const struct near__entry *e, uint64_t position)
{
    return near__entry_position(e) < (int64_t)position;
}
static inline int near__entry_is_retired(const struct near__entry *e)
{
    /* acquire: pairs with near__entry_link; whoever then looks into the slot does not find the entry any more */
    return (int64_t)atomic_load_explicit(&e->head, memory_order_acquire) < 0;
}

/* ---------------------------------------------------------------- what is in front, and sizes */

NEAR_INLINE uint32_t near__entry_before(const struct near__entry *e, unsigned words)
{
    return *((const uint32_t *)(const void *)e - words);
}
NEAR_INLINE size_t near__entry_key_size(const struct near__entry *e)
{
    unsigned low = (uint16_t)near__entry_head(e);
    return near__unlikely(low & NEAR_ENTRY_LONG) ? near__entry_before(e, 4) : low & NEAR_ENTRY_KEY_SIZE;
}
NEAR_INLINE size_t near__entry_value_size(const struct near__entry *e)
{
    return near__unlikely(near__entry_flags(e) & NEAR_ENTRY_LONG) ? near__entry_before(e, 3) : e->size;
}
static inline const unsigned char *near__entry_value(const struct near__entry *e)
{
    return e->bytes + near__entry_key_size(e);
}
static inline int near__entry_has_expiry(const struct near__entry *e)
{
    return (near__entry_flags(e) & NEAR_ENTRY_EXPIRES) != 0;
}
/* See near__expiry; 0: never. */
NEAR_INLINE uint32_t near__entry_expires(const struct near__entry *e)
{
    return near__entry_has_expiry(e) ? near__entry_before(e, 1) : 0;
}
/* Of an entry with PREFIX. */
static inline _Atomic(uint32_t) *near__entry_place(const struct near__entry *e)
{
    return (_Atomic(uint32_t) *)(uintptr_t)e - 2;
}

static inline size_t near__entry_prefix(unsigned flags)
{
    return near__unlikely(flags & NEAR_ENTRY_LONG) ? 16 : flags & NEAR_ENTRY_PREFIX ? 8 : 0;
}
/* The flags that an entry must have, but for its era; queues: the tier has them. */
static inline unsigned near__entry_flags_for(size_t key_size, size_t value_size, int has_expiry, int queues)
{
    unsigned flags = has_expiry ? NEAR_ENTRY_EXPIRES | NEAR_ENTRY_PREFIX : queues ? NEAR_ENTRY_PREFIX : 0;
    if (near__unlikely(key_size > NEAR_ENTRY_KEY_SIZE || value_size > UINT16_MAX))
        flags |= NEAR_ENTRY_LONG | NEAR_ENTRY_PREFIX;
    return flags;
}
/* The block of memory that an entry is in, and its size. */
static inline size_t near__entry_size_for(size_t key_size, size_t value_size, unsigned flags)
{
    return near__entry_prefix(flags) + NEAR_ENTRY_HEADER + key_size + value_size;
}
NEAR_INLINE size_t near__entry_size(const struct near__entry *e)
{
    unsigned low = (uint16_t)near__entry_head(e);
    if (near__likely(!(low & NEAR_ENTRY_LONG))) /* one look at the head, which each fill takes twice */
        return (low & NEAR_ENTRY_PREFIX ? 8 : 0) + NEAR_ENTRY_HEADER + (low & NEAR_ENTRY_KEY_SIZE) + e->size;
    return near__entry_size_for(near__entry_before(e, 4), near__entry_before(e, 3), low);
}
static inline void *near__entry_block(struct near__entry *e)
{
    return (char *)e - near__entry_prefix(near__entry_flags(e));
}

/* Makes an entry in a block of near__entry_size_for, at position 0: sizes and flags, enough to free it by.  expires: if
 * the flags say so. */
static inline struct near__entry *near__entry_make(void *block, size_t key_size, size_t value_size, unsigned flags,
                                                   uint32_t expires)
{
    struct near__entry *e = (struct near__entry *)(void *)((char *)block + near__entry_prefix(flags));
    uint32_t *front = (uint32_t *)(void *)e;
    if (flags & NEAR_ENTRY_EXPIRES)
        front[-1] = expires;
    if (near__unlikely(flags & NEAR_ENTRY_LONG)) {
        front[-4] = (uint32_t)key_size;
        front[-3] = (uint32_t)value_size;
        key_size = value_size = 0;
    }
    e->size = (uint16_t)value_size;
    /* relaxed: published with the slot's word */
    atomic_store_explicit(&e->head, flags | key_size, memory_order_relaxed);
    return e;
}
/* By the owner, before publishing; flags: an era. */
static inline void near__entry_set_position(struct near__entry *e, uint64_t position, unsigned flags)
{
    /* relaxed: as above */
    atomic_store_explicit(&e->head, position << NEAR_HEAD_SHIFT | (uint16_t)near__entry_head(e) | flags,
                          memory_order_relaxed);
}
static inline void near__entry_free(const struct near__alloc *alloc, struct near__entry *e)
{
    if (e)
        near__free(alloc, near__entry_block(e));
}
/* As the allocator counts. */
static inline int64_t near__entry_cost(const struct near__alloc *alloc, const struct near__entry *e)
{
    const void *block = (const char *)e - near__entry_prefix(near__entry_flags(e));
    return (int64_t)near__alloc_cost(alloc, block, near__entry_size(e));
}
static inline uint64_t near__entry_hash(const struct near__entry *e, const struct near__secrets *secrets)
{
    return near__key_hash(e->bytes, near__entry_key_size(e), secrets);
}

static inline uint64_t near__load8(const unsigned char *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof(word));
    return word;
}

/* For keys of more than 16 bytes: eight at a time, the last eight overlapping. */
static inline int near__bytes_equal_long(const unsigned char *a, const unsigned char *b, size_t size)
{
    for (size_t i = 0; i + 8 < size; i += 8)
        if (near__load8(a + i) != near__load8(b + i))
            return 0;
    return near__load8(a + size - 8) == near__load8(b + size - 8);
}

/* memcmp(a, b, size) == 0 without a call: keys are short, and the hit path is counted in instructions. */
static inline int near__bytes_equal(const unsigned char *a, const unsigned char *b, size_t size)
{
    if (size > 16)
        return near__bytes_equal_long(a, b, size);
    if (size >= 8)
        return ((near__load8(a) ^ near__load8(b)) | (near__load8(a + size - 8) ^ near__load8(b + size - 8))) == 0;
    unsigned char different = 0;
    for (size_t i = 0; i < size; i++)
        different |= a[i] ^ b[i];
    return !different;
}

static inline int near__entry_is(const struct near__entry *e, const void *key, size_t key_size)
{
    return near__entry_key_size(e) == key_size && near__bytes_equal(e->bytes, key, key_size);
}

/* ---------------------------------------------------------------- the word */

#define NEAR_WORD_VISIBLE UINT64_C(1) /* so that one bit tells a reader that the slot is neither empty nor tentative */
#define NEAR_WORD_FLAGS UINT64_C(3)
#define NEAR_WORD_TAG_SHIFT 48
#define NEAR_WORD_POINTER (((UINT64_C(1) << NEAR_WORD_TAG_SHIFT) - 1) & ~NEAR_WORD_FLAGS)

/* Never 0, so that an empty slot has nobody's tag. */
static inline uint64_t near__hash_tag(uint64_t hash)
{
    uint64_t tag = hash & 0xffff;
    return tag ? tag : 1;
}
static inline uint64_t near__word(const struct near__entry *e, uint64_t hash)
{
    return near__hash_tag(hash) << NEAR_WORD_TAG_SHIFT | (uint64_t)(uintptr_t)e | NEAR_WORD_VISIBLE;
}
static inline uint64_t near__word_tag(uint64_t word)
{
    return word >> NEAR_WORD_TAG_SHIFT;
}
static inline int near__word_is_visible(uint64_t word)
{
    return (word & NEAR_WORD_VISIBLE) != 0;
}
/* Of a word that is not 0. */
static inline int near__word_is_tentative(uint64_t word)
{
    return !(word & NEAR_WORD_VISIBLE);
}
static inline uint64_t near__word_tentative(uint64_t word)
{
    return word & ~NEAR_WORD_VISIBLE;
}
static inline struct near__entry *near__word_entry(uint64_t word)
{
    return (struct near__entry *)(uintptr_t)(word & NEAR_WORD_POINTER);
}
/* 48 bits, 8-byte aligned: what x86-64 and arm64 give to programs that do not ask for more. */
static inline int near__pointer_fits(const void *memory)
{
    return ((uint64_t)(uintptr_t)memory & ~(NEAR_WORD_POINTER & ~UINT64_C(4))) == 0;
}

/* ---------------------------------------------------------------- expiry */

/* A time in milliseconds since the tier's opening, in 32 bits: the low bit tells the unit (0: 1 ms, 1: 1024 ms), the
 * others count modulo 2^31.  Comparison wraps, so a life may reach nearly 2^30 units (12 days to the millisecond, 33
 * years to the second) and an expired entry stays recognisably so for another 12 days.  The keeper has swept it long
 * before, unless the process was stopped for so long: then its end is told from the time when the keeper last came by
 * (near__expiry_left_since).  Times are rounded down: never served late.  0 means no expiry. */
#define NEAR_EXPIRY_LIFE_MAX ((INT64_C(1) << 30) - (INT64_C(1) << 24)) /* the rest: the keeper may come late */
#define NEAR_EXPIRY_SURE_MS (INT64_C(1) << 29) /* after the keeper came by; then the end may seem to be ahead */

/* known_ms: as below, so that it can be told from there, too, until the keeper comes by.  After a stop of 12 days short
 * lives are to the second for a moment, therefore. */
static inline uint32_t near__expiry(int64_t at_ms, int64_t known_ms)
{
    unsigned coarse = at_ms - known_ms > NEAR_EXPIRY_LIFE_MAX;
    int64_t units = coarse ? at_ms >> 10 : at_ms;
    if (coarse && units - (known_ms >> 10) > NEAR_EXPIRY_LIFE_MAX)
        units = (known_ms >> 10) + NEAR_EXPIRY_LIFE_MAX;
    uint32_t packed = (uint32_t)units << 1 | coarse;
    return packed ? packed : UINT32_MAX << 1; /* one unit early rather than never */
}
/* Milliseconds left; 0 or less: over. */
NEAR_INLINE int64_t near__expiry_left(uint32_t expires, int64_t now_ms)
{
    unsigned shift = expires & 1 ? 10 : 0;
    const int64_t unit = INT64_C(1) << shift;
    /* doubled: the sign is the top bit */
    uint32_t units = (expires & ~UINT32_C(1)) - ((uint32_t)(now_ms >> shift) << 1);
    return (int64_t)((int32_t)units / 2) * unit - (now_ms & (unit - 1));
}
/* The same when all that had ended had been swept at known_ms, or little before, which was looked at before the entry
 * was found. */
static inline int64_t near__expiry_left_since(uint32_t expires, int64_t now_ms, int64_t known_ms)
{
    int64_t since_ms = now_ms - known_ms;
    return near__likely(since_ms < NEAR_EXPIRY_SURE_MS) ? near__expiry_left(expires, now_ms)
                                                        : near__expiry_left(expires, known_ms) - since_ms;
}

/* ---------------------------------------------------------------- the link */

static inline struct near__entry *near__entry_next(const struct near__entry *e)
{
    /* ordered by the exchange that took the list */
    uint64_t head = (uint64_t)near__entry_head(e) & ~(NEAR_HEAD_RETIRED | NEAR_HEAD_LOW);
    return (struct near__entry *)(uintptr_t)(head >> NEAR_HEAD_LINK_SHIFT);
}
/* By whoever swapped the entry out of its slot, then by the keeper. */
static inline void near__entry_link(struct near__entry *e, const struct near__entry *next)
{
    uint64_t link =
        (uint64_t)(uintptr_t)next << NEAR_HEAD_LINK_SHIFT | (NEAR_MUTANT(RETIRED_LOOKS_ALIVE) ? 0 : NEAR_HEAD_RETIRED);
    /* release: pairs with near__entry_is_retired; the slot holds another word.  (For the list it is published by the
     * release swap of its head.) */
    atomic_store_explicit(&e->head, link | (uint16_t)near__entry_head(e), memory_order_release);
}
/* By the keeper, after the grace period; mark: one of the two, in the other's place. */
static inline int near__entry_is_condemned(const struct near__entry *e)
{
    return (near__entry_flags(e) & NEAR_ENTRY_CONDEMNED) != 0;
}
static inline int near__entry_is_kept(const struct near__entry *e)
{
    return (near__entry_flags(e) & NEAR_ENTRY_KEPT) != 0;
}
static inline void near__entry_mark(struct near__entry *e, unsigned mark)
{
    uint64_t head = (uint64_t)near__entry_head(e) & ~(uint64_t)(NEAR_ENTRY_CONDEMNED | NEAR_ENTRY_KEPT);
    atomic_store_explicit(&e->head, head | mark, memory_order_relaxed); /* relaxed: nobody else stores any more */
}

#endif
