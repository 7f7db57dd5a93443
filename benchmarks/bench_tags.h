/* SPDX-License-Identifier: BSD-3-Clause
 * The index of the engines that only show what one costs: buckets of one line that begin with eight tags, in huge
 * pages. */
#ifndef NEAR_BENCH_TAGS_H
#define NEAR_BENCH_TAGS_H
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined(__SSE2__) && !defined(__SANITIZE_THREAD__)
#include <emmintrin.h>
#endif

#define BENCH_TAGS 8u /* 0: the place is empty, or on its way; written last, with release */

static inline uint16_t bench_tag_of(uint64_t hash)
{
    return (uint16_t)hash ? (uint16_t)hash : 1;
}

static inline uint64_t bench_home(uint64_t hash, uint64_t buckets)
{
    return (uint64_t)((unsigned __int128)hash * buckets >> 64);
}

/* The places with that tag, for bench_match_place and bench_match_rest; 0: none. */
#if defined(__SSE2__) && !defined(__SANITIZE_THREAD__)
#define BENCH_MATCH_BITS 2 /* a place */
static inline unsigned bench_match(const _Atomic(uint16_t) *tags, uint16_t tag)
{
    /* Any other tag may be half written by nobody: each is stored at once, and x86 keeps the loads of places behind
     * this one. */
    __m128i all = _mm_load_si128((const __m128i *)(const void *)tags);
    return (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi16(all, _mm_set1_epi16((short)tag)));
}
#else
#define BENCH_MATCH_BITS 1
static inline unsigned bench_match(const _Atomic(uint16_t) *tags, uint16_t tag)
{
    unsigned match = 0;
    for (unsigned i = 0; i < BENCH_TAGS; i++) /* acquire: pairs with the store of the tag */
        match |= (unsigned)(atomic_load_explicit(&tags[i], memory_order_acquire) == tag) << i;
    return match;
}
#endif
/* Of one that is not 0. */
static inline unsigned bench_match_place(unsigned match)
{
    return (unsigned)__builtin_ctz(match) / BENCH_MATCH_BITS;
}
static inline unsigned bench_match_rest(unsigned match)
{
    return match & ~(((1u << BENCH_MATCH_BITS) - 1) << __builtin_ctz(match));
}

/* Zeroed; free gives it back. */
static inline void *bench_huge(size_t size)
{
    const size_t page = (size_t)2 << 20;
    size = (size + page - 1) & ~(page - 1);
    void *memory = aligned_alloc(page, size);
    if (!memory)
        return NULL;
    madvise(memory, size, MADV_HUGEPAGE); /* or not: then in small ones */
    return memset(memory, 0, size);
}

#endif
