/* SPDX-License-Identifier: BSD-3-Clause
 * Which entries of a bucket are old enough to go, told without a branch for any of them.
 *
 * Whether an entry is old enough is as good as a throw of dice, so a branch on it is mispredicted, and what follows
 * waits until the entry's line is there; one bucket after the other, each with as many entries as it happens to have,
 * cost eviction three mispredictions.  Here all eight slots are looked at, and one without an entry is taken for one
 * whose entry is young. */
#ifndef NEAR_LOCAL_GLANCE_H
#define NEAR_LOCAL_GLANCE_H
#include <stdint.h>
#include "base/compiler.h"
#include "local/entry.h"
#include "local/index.h"
#include "local/order.h"
#include "local/wide.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* The entry of a slot, or nobody: a load from somewhere is cheaper than a branch, which gcc 12 makes of this if it is
 * not told. */
NEAR_INLINE const struct near__entry *near__glance_entry(uint64_t word, const struct near__entry *nobody)
{
    const struct near__entry *entry = near__word_entry(word);
#ifdef NEAR_X86_ASSEMBLER
    __asm__("testb %b1, %b2\n\tcmovz %3, %0" : "+r"(entry) : "i"(NEAR_WORD_VISIBLE), "q"(word), "r"(nobody) : "cc");
    return entry;
#else
    return word & NEAR_WORD_VISIBLE ? entry : nobody;
#endif
}

/* Which of four and four stamps are at least `bar` before `base`, a bit each. */
NEAR_INLINE unsigned near__glance_old(uint64_t low, uint64_t high, uint16_t base, uint16_t bar)
{
#if defined(__SSE2__)
    __m128i ages = _mm_sub_epi16(_mm_set1_epi16((short)base), _mm_set_epi64x((long long)high, (long long)low));
    __m128i missing = _mm_subs_epu16(_mm_set1_epi16((short)bar), ages), zero = _mm_setzero_si128();
    return (unsigned)_mm_movemask_epi8(_mm_packs_epi16(_mm_cmpeq_epi16(missing, zero), zero));
#else
    unsigned old = 0;
    for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++)
        old |= (unsigned)((uint16_t)(base - ((i < 4 ? low : high) >> 16 * (i % 4))) >= bar) << i;
    return old;
#endif
}
_Static_assert(NEAR_BUCKET_SLOTS == 8, "four and four");

/* A bit for each slot whose entry's stamp is at least `bar` (not 0) before `base`; and NEAR_GLANCE_ODD, if there is an
 * entry of another era than that, with an expiry, or with a head below `plain`: then age is not all that counts.  Of
 * one that is retired meanwhile anything may be said: nobody can take it out of its slot any more.  Inside a read
 * section. */
#define NEAR_GLANCE_ODD (1u << NEAR_BUCKET_SLOTS)
NEAR_INLINE unsigned near__glance(const struct near__bucket *bucket, unsigned era, uint64_t plain, uint16_t base,
                                  uint16_t bar)
{
    const struct near__entry nobody = {.head = plain | era, .access = base};
    uint64_t some = era, all = era; /* bits that some heads above `plain` have, and that all have; the sign: is below */
    uint64_t stamps[2] = {0, 0};
#pragma GCC unroll 8
    for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++) {
        const struct near__entry *entry = near__glance_entry(near__step_look(&bucket->slot[i]), &nobody);
        uint64_t above = (uint64_t)near__entry_head(entry) - plain;
        some |= above;
        all &= above;
        stamps[i / 4] |= (uint64_t)near__entry_stamp(entry) << 16 * (i % 4);
    }
    int is_odd = ((some ^ all) & (NEAR_ENTRY_EXPIRES | NEAR_ENTRY_ERA)) || (int64_t)some < 0;
    return near__glance_old(stamps[0], stamps[1], base, bar) | (is_odd ? NEAR_GLANCE_ODD : 0);
}

/* How many bits are set in each byte of two. */
static inline unsigned near__count_bits(unsigned x)
{
    x -= x >> 1 & 0x5555;
    x = (x & 0x3333) + (x >> 2 & 0x3333);
    return (x + (x >> 4)) & 0x0f0f;
}

#endif
