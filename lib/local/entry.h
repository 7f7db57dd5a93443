/* SPDX-License-Identifier: BSD-3-Clause
 * An entry: one key and one value in one block of memory, and the word that leads to it.
 *
 *      -8       -4         0              8             12       14            20
 *      +--------+----------+--------------+-------------+--------+-------------+-----------+-------------+
 *      | unused | expires  | position 48  | value size, | access | link        | key bytes | value bytes |
 *      |        |          | key size 16  | flag, era   | age    | 48          |           |             |
 *      +--------+----------+--------------+-------------+--------+-------------+-----------+-------------+
 *      '-- if the flag --' '-- what every entry costs
 *          is set
 *
 *   head    (r) what the owner wrote before publishing; after a grace period the keeper marks retired entries in it
 *   size, flag, expires, key, value   (i) never change once published
 *   access  (a) any reader, relaxed: a lost or late store makes a hot entry look a little older, no more
 *   link    (k) whoever retired the entry, then the keeper.  It has its own bytes because a reader that began before may
 *               still store into access.  Until then its lower half holds the entry's place in the order of eviction, for
 *               the policies that need one: see "queues" in order.h.
 *
 * The link is what makes retiring free of allocation, so an invalidation works when memory is exhausted.
 *
 * The expiry stands in front, so that entries without one do not pay for it (with 16 + 100 bytes it is the difference between 144 and
 * 160 bytes of malloc's) and keys begin at the same place in all of them. */
#ifndef NEAR_LOCAL_ENTRY_H
#define NEAR_LOCAL_ENTRY_H
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "base/alloc.h"
#include "base/hash.h"

struct near__entry {
    _Atomic(uint64_t) head;
    uint32_t size_era; /* value size << 3 | NEAR_ENTRY_EXPIRES | era */
    _Atomic(uint16_t) access;
    _Atomic(uint16_t) link_high;
    _Atomic(uint32_t) link_low;
    unsigned char bytes[];
};
#define NEAR_ENTRY_HEADER offsetof(struct near__entry, bytes) /* not the struct's size, which is rounded up */
#define NEAR_ENTRY_PREFIX 8 /* with an expiry; entries stay aligned */
_Static_assert(NEAR_ENTRY_HEADER == 20, "the header is what every entry costs");
_Static_assert(NEAR_ENTRY_PREFIX % _Alignof(struct near__entry) == 0 && NEAR_ENTRY_PREFIX >= sizeof(uint32_t), "see above");

#define NEAR_ENTRY_VALUE_MAX ((UINT32_C(1) << 29) - 1)
#define NEAR_ENTRY_ERAS 4
#define NEAR_ENTRY_EXPIRES 4u
#define NEAR_ENTRY_SIZE_SHIFT 3

static inline uint64_t near__entry_position(const struct near__entry *e)
{
    /* relaxed: (r) was published with the slot's word, or written by the caller itself */
    return atomic_load_explicit(&e->head, memory_order_relaxed) >> 16;
}
static inline size_t near__entry_key_size(const struct near__entry *e)
{
    return atomic_load_explicit(&e->head, memory_order_relaxed) & 0xffff; /* relaxed: as above */
}
static inline size_t near__entry_value_size(const struct near__entry *e) { return e->size_era >> NEAR_ENTRY_SIZE_SHIFT; }
static inline unsigned near__entry_era(const struct near__entry *e) { return e->size_era & (NEAR_ENTRY_ERAS - 1); }
static inline const unsigned char *near__entry_value(const struct near__entry *e)
{
    return e->bytes + near__entry_key_size(e);
}
static inline int near__entry_has_expiry(const struct near__entry *e) { return (e->size_era & NEAR_ENTRY_EXPIRES) != 0; }
/* See near__expiry; 0: never. */
static inline uint32_t near__entry_expires(const struct near__entry *e)
{
    return near__entry_has_expiry(e) ? ((const uint32_t *)(const void *)e)[-1] : 0;
}
/* By whoever makes the entry, whose block has the prefix. */
static inline void near__entry_set_expires(struct near__entry *e, uint32_t expires) { ((uint32_t *)(void *)e)[-1] = expires; }

/* The block of memory that an entry is in, and its size. */
static inline size_t near__entry_prefix(int has_expiry) { return has_expiry ? NEAR_ENTRY_PREFIX : 0; }
static inline size_t near__entry_size_for(size_t key_size, size_t value_size, int has_expiry)
{
    return near__entry_prefix(has_expiry) + NEAR_ENTRY_HEADER + key_size + value_size;
}
static inline size_t near__entry_size(const struct near__entry *e)
{
    return near__entry_size_for(near__entry_key_size(e), near__entry_value_size(e), near__entry_has_expiry(e));
}
static inline void *near__entry_block(struct near__entry *e)
{
    return (char *)e - near__entry_prefix(near__entry_has_expiry(e));
}
static inline void near__entry_free(const struct near__alloc *alloc, struct near__entry *e)
{
    if (e)
        near__free(alloc, near__entry_block(e));
}
/* As the allocator counts. */
static inline int64_t near__entry_cost(const struct near__alloc *alloc, const struct near__entry *e)
{
    const void *block = (const char *)e - near__entry_prefix(near__entry_has_expiry(e));
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
static inline uint64_t near__word_tag(uint64_t word) { return word >> NEAR_WORD_TAG_SHIFT; }
/* Of a word that is not 0. */
static inline int near__word_is_tentative(uint64_t word) { return !(word & NEAR_WORD_VISIBLE); }
static inline uint64_t near__word_tentative(uint64_t word) { return word & ~NEAR_WORD_VISIBLE; }
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

/* A time in milliseconds since the tier's opening, in 32 bits: the low bit tells the unit (0: 1 ms, 1: 1024 ms), the others
 * count modulo 2^31.  Comparison wraps, so a life may reach 2^30 units (12 days to the millisecond, 34 years to
 * the second) and an expired entry stays recognisably so for another 12 days; the keeper has swept it long before.
 * Times are rounded down: never served late.  0 means no expiry. */
#define NEAR_EXPIRY_LIFE_MAX ((INT64_C(1) << 30) - 1)

static inline uint32_t near__expiry(int64_t at_ms, int64_t now_ms)
{
    unsigned coarse = at_ms - now_ms > NEAR_EXPIRY_LIFE_MAX;
    int64_t units = coarse ? at_ms >> 10 : at_ms;
    if (coarse && units - (now_ms >> 10) > NEAR_EXPIRY_LIFE_MAX)
        units = (now_ms >> 10) + NEAR_EXPIRY_LIFE_MAX;
    uint32_t packed = (uint32_t)units << 1 | coarse;
    return packed ? packed : UINT32_MAX << 1; /* one unit early rather than never */
}
/* Milliseconds left, rounded down to the unit; 0 or less: over. */
static inline int64_t near__expiry_left(uint32_t expires, int64_t now_ms)
{
    unsigned shift = expires & 1 ? 10 : 0;
    uint32_t left = (expires & ~UINT32_C(1)) - ((uint32_t)(now_ms >> shift) << 1); /* doubled: the sign is the top bit */
    return (int64_t)((int32_t)left / 2) * (INT64_C(1) << shift);
}

/* ---------------------------------------------------------------- the link */

static inline struct near__entry *near__entry_next(const struct near__entry *e)
{
    /* relaxed: ordered by the exchange that took the list */
    uint64_t high = atomic_load_explicit(&e->link_high, memory_order_relaxed);
    return (struct near__entry *)(uintptr_t)(high << 32 | atomic_load_explicit(&e->link_low, memory_order_relaxed));
}
static inline void near__entry_link(struct near__entry *e, const struct near__entry *next)
{
    uint64_t pointer = (uint64_t)(uintptr_t)next;
    /* relaxed: published by the release swap of the list's head */
    atomic_store_explicit(&e->link_high, (uint16_t)(pointer >> 32), memory_order_relaxed);
    atomic_store_explicit(&e->link_low, (uint32_t)pointer, memory_order_relaxed);
}

#endif
