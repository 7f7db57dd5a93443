/* SPDX-License-Identifier: BSD-3-Clause
 * The index: buckets of words, floors and generations.  The essay is at the head of index.c.
 *
 * Whatever looks at tables or entries runs inside a read section of the caller's.  Stripes are never freed and need
 * none; nor does the keeper, which alone changes the tables, to look at the present view. */
#ifndef NEAR_LOCAL_INDEX_H
#define NEAR_LOCAL_INDEX_H
#include <stdint.h>
#include "base/compiler.h"
#include "local/entry.h"
#include "local/order.h"
#include "local/step.h"
#include "local/wide.h"

#ifndef NEAR_BUCKET_SLOTS /* tests/local/test_schedule.c has fewer, so that they are full sooner */
#define NEAR_BUCKET_SLOTS 8
#endif
#define NEAR_PLACES 4 /* buckets that the word of a key may be in: see "Places" in index.c */

struct near__bucket {
    _Alignas(64) _Atomic(uint64_t) slot[NEAR_BUCKET_SLOTS];
};
_Static_assert(sizeof(struct near__bucket) == 64, "a bucket is one cache line");
#define NEAR_GROUP_SIZE (NEAR_PLACES * sizeof(struct near__bucket))
_Static_assert((NEAR_PLACES & (NEAR_PLACES - 1)) == 0, "a place is found by an exclusive or");

struct near__span {
    struct near__bucket *bucket; /* aligned to NEAR_GROUP_SIZE */
    uint64_t count;              /* any number up to 2^32 of which NEAR_PLACES is a divisor */
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

/* Entries per ten buckets of a tier that is full, as the last enlargement of its index leaves them, and nothing comes
 * after it as long as entries do not become smaller (table_size.c).  In tiers that have evicted for long a hit of
 * 16,000 entries takes 18.0 ns, with 5.3 a bucket 19.4, with 5.9 21.7; filling on miss with two threads is 1.04 times
 * as quick as with 5.9.  It costs 2.5 bytes an entry. */
#define NEAR_INDEX_LAST 48
/* Of such a table, bytes an entry. */
#define NEAR_INDEX_SHARE ((int64_t)sizeof(struct near__bucket) * 10 / NEAR_INDEX_LAST + 1)

/* What is known about the order of the keys of one stripe.  Any thread changes both, by seq_cst steps.  Without a
 * remote tier the floor is odd while a write has the stripe; only that write stores it then (near__local_number). */
struct near__stripe {
    _Atomic(uint64_t) floor;      /* only raised (near__step_raise), unless a number goes back unused */
    _Atomic(uint64_t) generation; /* incremented, or swapped for the next one (install.c) */
};

struct near__index {
    _Atomic(struct near__tables *) tables;
    struct near__secrets secrets;
    struct near__stripe *stripes;
    uint64_t stripe_mask;
    _Atomic(uint64_t) cleared; /* counts as part of every stripe's generation */
};

/* Why an entry leaves. */
enum near__why {
    NEAR_WHY_EVICTED,
    NEAR_WHY_EXPIRED,
    NEAR_WHY_REPLACED,
    NEAR_WHY_INVALIDATED,
    NEAR_WHY_DROPPED,
    NEAR_WHY_MAX
};

/* Defined in reclaim.c (and by the tests of index.c): takes an entry that has just been swapped out of its slot. */
void near__retire(struct near__index *index, struct near__entry *entry, enum near__why why);

/* hash bits: 63…32 bucket, 31…16 stripe, 15…0 tag.  The home of the key: its place 0. */
static inline struct near__bucket *near__span_bucket(const struct near__span *span, uint64_t hash)
{
    return &span->bucket[(uint64_t)((unsigned __int128)hash * span->count >> 64)];
}
/* Of a key with that home: place 1 is the other line of the 128 bytes that processors like to fetch together. */
static inline struct near__bucket *near__bucket_place(const struct near__bucket *home, unsigned place)
{
    return (struct near__bucket *)((uintptr_t)home ^ place * sizeof(struct near__bucket));
}
static inline struct near__stripe *near__index_stripe(const struct near__index *index, uint64_t hash)
{
    return &index->stripes[(hash >> 16) & index->stripe_mask];
}
static inline uint32_t near__index_generation(const struct near__index *index, const struct near__stripe *stripe)
{
    /* Two numbers that only grow: their sum is the same twice only if neither has changed in between, or, as 32 bits
     * of it are kept, if together they have grown by an exact multiple of 2^32.  A ticket lives as long as a command or
     * a load; at 20 ns a step that many take 86 seconds of nothing but removals without a position in one stripe. */
    return (uint32_t)(near__step_load(&stripe->generation) + near__step_load(&index->cleared));
}
static inline struct near__tables *near__index_tables(const struct near__index *index)
{
    /* acquire: pairs with the store that publishes the view; publishes its spans and zeroed buckets.  Which of two
     * views an operation gets does not matter: see "Two tables" in index.c. */
    return atomic_load_explicit(&index->tables, memory_order_acquire);
}

/* ---------------------------------------------------------------- find
 *
 * Which of the eight words has the tag is told without a branch: a branch on what a line from memory says is
 * mispredicted often, and then keeps the processor from going on to the next read before that line is there (measured:
 * half of the throughput).  The answer is a hint, a bit a slot; the word itself is then loaded atomically and looked at
 * again.  So it does not matter what a word becomes in between, only that a visible word that stays is not overlooked:
 * each slot's tag is read after what came before in the program, once. */
#if defined(__SSE2__) && !defined(NEAR_STEP_HOOK) && !defined(__SANITIZE_THREAD__)
#include <emmintrin.h>

/* Two bits a slot, both of them set where the tag matches. */
#define NEAR_MATCH_STEP 2
#define NEAR_MATCH_FIRST 0x5555u

NEAR_INLINE unsigned near__bucket_match(const struct near__bucket *bucket, uint64_t tag)
{
    __m128 low, high;
    /* The upper halves of slots 0 to 3 and 4 to 7.  Assembler, because C11 has no atomic vectors; volatile and "memory"
     * keep it where it stands, and x86 keeps loads in order.  A word that is being swapped is seen as before or after,
     * or (on a processor that splits the load) as two halves of four bytes; its tag lies in one of them. */
    __asm__ volatile("movaps (%2), %0\n\tshufps $0xdd, 16(%2), %0\n\t"
                     "movaps 32(%2), %1\n\tshufps $0xdd, 48(%2), %1"
                     : "=&x"(low), "=&x"(high)
                     : "r"(bucket)
                     : "memory");
    /* tags with their signs, so that packing keeps all 16 bits */
    __m128i tags =
        _mm_packs_epi32(_mm_srai_epi32(_mm_castps_si128(low), 16), _mm_srai_epi32(_mm_castps_si128(high), 16));
    return (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi16(tags, _mm_set1_epi16((short)tag)));
}
#else
#define NEAR_MATCH_STEP 1
#define NEAR_MATCH_FIRST 0xffu
static inline unsigned near__bucket_match(const struct near__bucket *bucket, uint64_t tag)
{
    unsigned match = 0;
    for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++)
        match |= (unsigned)(near__word_tag(near__step_look(&bucket->slot[i])) == (uint16_t)tag) << i;
    return match;
}
#endif

/* The same for those who write: each look is a step in the one order of steps (on x86 it is in any case). */
static inline unsigned near__bucket_scan(const struct near__bucket *bucket, uint64_t tag)
{
#if NEAR_MATCH_STEP == 2
    return near__bucket_match(bucket, tag);
#else
    unsigned match = 0;
    for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++)
        match |= (unsigned)(near__word_tag(near__step_load(&bucket->slot[i])) == tag) << i;
    return match;
#endif
}

/* Which slots hold visible words, a bit a slot: as hints, like those above. */
NEAR_INLINE unsigned near__bucket_visible(const struct near__bucket *bucket)
{
#if NEAR_MATCH_STEP == 2
    __m128 low, high;
    __asm__ volatile("movaps (%2), %0\n\tshufps $0x88, 16(%2), %0\n\t" /* as in near__bucket_match, the lower halves */
                     "movaps 32(%2), %1\n\tshufps $0x88, 48(%2), %1"
                     : "=&x"(low), "=&x"(high)
                     : "r"(bucket)
                     : "memory");
    low = _mm_castsi128_ps(_mm_slli_epi32(_mm_castps_si128(low), 31));
    high = _mm_castsi128_ps(_mm_slli_epi32(_mm_castps_si128(high), 31));
    return (unsigned)_mm_movemask_ps(low) | (unsigned)_mm_movemask_ps(high) << 4;
#else
    unsigned visible = 0;
    for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++)
        visible |= (unsigned)(near__step_look(&bucket->slot[i]) & NEAR_WORD_VISIBLE) << i;
    return visible;
#endif
}
_Static_assert(NEAR_WORD_VISIBLE == 1, "the lowest bit is moved to the sign");

/* Which bit is the lowest that is set; there is one.  As __builtin_ctz, whose result gcc 12 takes for a signed number
 * and extends. */
NEAR_INLINE size_t near__lowest(size_t bits)
{
#ifdef NEAR_X86_ASSEMBLER
    __asm__("rep bsfl %k0, %k0" : "+r"(bits) : : "cc"); /* tzcnt, or bsf where there is none: the same */
    return bits;
#else
    return (size_t)__builtin_ctzll(bits);
#endif
}

/* The first slot of those that match. */
static inline _Atomic(uint64_t) *near__match_slot(const struct near__bucket *bucket, unsigned match)
{
    uintptr_t slots = (uintptr_t)bucket->slot; /* in bytes: no division by the step */
    return (_Atomic(uint64_t) *)(slots + near__lowest(match) * (sizeof(uint64_t) / NEAR_MATCH_STEP));
}
/* Without the first slot of those that match. */
static inline unsigned near__match_rest(unsigned match)
{
    return match & (match - 1) & NEAR_MATCH_FIRST;
}

#ifdef NEAR_WIDE_LINES
/* The word of the first slot whose tag is that, by comparisons of 64 or 32 bytes; 0: none has it.  The line is 32 words
 * of 16 bits; what is said of the assembler above goes for this, too: a tag is in one of them. */
NEAR_INLINE uint64_t near__bucket_look_line(const struct near__bucket *bucket, uint64_t tag)
{
    size_t match;
    __asm__ volatile("vpbroadcastw %k1, %%zmm16\n\tvpcmpeqw (%2), %%zmm16, %%k1\n\tkmovd %%k1, %k0"
                     : "=r"(match)
                     : "r"(tag), "r"(bucket)
                     : NEAR_CLOBBERS_LINES);
    match &= 0x88888888u; /* the tags among them, a bit for each word */
    const uint16_t *words = (const uint16_t *)(const void *)bucket;
    return near__likely(match)
               ? near__step_look((const _Atomic(uint64_t) *)(const void *)(words + near__lowest(match) - 3))
               : 0;
}
NEAR_INLINE uint64_t near__bucket_look_half(const struct near__bucket *bucket, uint64_t tag)
{
    size_t low, high;
    /* of four words of 16 bits the last one, which is the tag, has the sign */
    __asm__ volatile("vmovd %k2, %%xmm0\n\tvpbroadcastw %%xmm0, %%ymm0\n\t"
                     "vpcmpeqw (%3), %%ymm0, %%ymm1\n\tvpcmpeqw 32(%3), %%ymm0, %%ymm0\n\t"
                     "vmovmskpd %%ymm1, %k0\n\tvmovmskpd %%ymm0, %k1\n\tvzeroupper"
                     : "=r"(low), "=&r"(high)
                     : "r"(tag), "r"(bucket)
                     : NEAR_CLOBBERS_HALVES);
    size_t match = low | high << 4;
    return near__likely(match) ? near__step_look(&bucket->slot[near__lowest(match)]) : 0;
}
#endif

/* The word of the first slot that matches; 0: none does.  Of tag the lower 16 bits count.  width: near__width(). */
NEAR_INLINE uint64_t near__bucket_look(const struct near__bucket *bucket, uint64_t tag, int width)
{
#ifdef NEAR_WIDE_LINES
    if (width == NEAR_WIDTH_LINE)
        return near__bucket_look_line(bucket, tag);
    if (width == NEAR_WIDTH_HALF)
        return near__bucket_look_half(bucket, tag);
#endif
    (void)width;
    unsigned match = near__bucket_match(bucket, tag);
    return near__likely(match) ? near__step_look(near__match_slot(bucket, match)) : 0;
}

/* The entry of a word if that is visible and has the tag; NULL otherwise. */
static inline struct near__entry *near__word_visible(uint64_t word, uint64_t tag)
{
    uint64_t rest = word ^ (tag << NEAR_WORD_TAG_SHIFT | NEAR_WORD_VISIBLE);
    return rest & ~NEAR_WORD_POINTER ? NULL : (struct near__entry *)(uintptr_t)rest;
}

/* Lines of an entry that are fetched before they are needed: header, key and short values. */
static inline void near__entry_prefetch(const struct near__entry *entry)
{
    __builtin_prefetch((const char *)entry + 64);
}

/* What eviction needs of an entry, its head and its stamp: of those whose size is no multiple of 64 every eighth begins
 * with the last word of the line before.  From the word, which may be 0 by now. */
static inline void near__stamps_prefetch(uint64_t word)
{
    uintptr_t entry = (uintptr_t)near__word_entry(word);
    __builtin_prefetch((const void *)entry);
    __builtin_prefetch((const void *)(entry + offsetof(struct near__entry, access)));
}

NEAR_INLINE struct near__entry *near__bucket_find(const struct near__bucket *bucket, uint64_t tag, const void *key,
                                                  size_t key_size)
{
    for (unsigned match = near__bucket_match(bucket, tag); match; match = near__match_rest(match)) {
        uint64_t word = near__step_look(near__match_slot(bucket, match));
        struct near__entry *entry = near__word_visible(word, tag);
        if (!entry)
            continue;
        near__entry_prefetch(entry);
        if (near__entry_is(entry, key, key_size))
            return entry;
    }
    return NULL;
}

/* What is not in its home in the table that is scanned first: in its other places there, then in the second table; or
 * NULL. */
struct near__entry *near__index_find_away(const struct near__tables *tables, uint64_t hash, const void *key,
                                          size_t key_size);

/* The visible entry of a key, or NULL. */
NEAR_INLINE struct near__entry *near__index_find(const struct near__index *index, uint64_t hash, const void *key,
                                                 size_t key_size)
{
    const struct near__tables *tables = near__index_tables(index);
    const struct near__bucket *home = near__span_bucket(&tables->span[0], hash);
    struct near__entry *entry = near__bucket_find(home, near__hash_tag(hash), key, key_size);
    return near__likely(entry != NULL) ? entry : near__index_find_away(tables, hash, key, key_size);
}

/* The same for whoever has the stripe of the key and must not take it for absent while it is moved (index.c, "Neither
 * here nor there").  *ret_moved: NULL says nothing, ask again. */
struct near__entry *near__index_find_surely(const struct near__index *index, uint64_t hash, const void *key,
                                            size_t key_size, int *ret_moved);

/* No slot has the tag of a short key in any of its places, so it is not there; 0: near__index_find knows. */
static inline int near__index_is_nowhere(const struct near__index *index, const void *key, size_t key_size)
{
    const struct near__tables *tables = near__index_tables(index);
    uint64_t hash = near__hash_short(key, key_size, &index->secrets);
    const struct near__bucket *home = near__span_bucket(&tables->span[0], hash);
    unsigned match = 0;
    for (unsigned p = 0; p < NEAR_PLACES; p++)
        match |= near__bucket_match(near__bucket_place(home, p), near__hash_tag(hash));
    return !match && tables->spans == 1;
}

/* The word of the first slot that matches in the places of a key but its home; 0: none does. */
NEAR_INLINE uint64_t near__places_look(const struct near__bucket *home, uint64_t tag, int width)
{
    uint64_t word = 0;
    for (unsigned i = 1; i < NEAR_PLACES && !word; i++)
        word = near__bucket_look(near__bucket_place(home, i), tag, width);
    return word;
}

/* In place 1, where most are that are not at home.  The hash is computed once more, behind the compiler's back: were it
 * kept for this, every hit at home would have less registers, and an instruction or more to save others. */
NEAR_INLINE uint64_t near__neighbour_look(const struct near__index *index, const void *key, size_t key_size, int width)
{
    __asm__ volatile("" : "+r"(key));
    uint64_t hash = near__hash_short(key, key_size, &index->secrets);
    return near__bucket_look(near__bucket_place(near__span_bucket(&near__index_tables(index)->span[0], hash), 1), hash,
                             width);
}

/* For short keys: the visible entry with the first word of the tag, where it nearly always is in the table that is
 * scanned first.  The key is the caller's to compare.  NULL: near__index_find knows. */
NEAR_INLINE struct near__entry *near__index_guess(const struct near__index *index, uint64_t hash, const void *key,
                                                  size_t key_size, int width)
{
    const struct near__bucket *bucket = near__span_bucket(&near__index_tables(index)->span[0], hash);
    uint64_t word = near__bucket_look(bucket, hash, width); /* 0 is nobody's tag: at most empty slots match */
    if (near__unlikely(!(word & NEAR_WORD_VISIBLE))) {
        word = near__neighbour_look(index, key, key_size, width);
        if (!(word & NEAR_WORD_VISIBLE))
            return NULL;
    }
    /* An entry that may be read, with or without the tag: the key tells.  Not prefetched: whoever copies its value
     * loads from its second line at once, without waiting for the first (measured: an instruction of prefetching is
     * four cycles of a hit in the first-level cache). */
    struct near__entry *entry = near__word_entry(word);
    if (!entry)
        __builtin_unreachable(); /* no visible word has none */
    return entry;
}

/* A short key's bytes, the entry's having as many. */
NEAR_INLINE int near__entry_has_short(const struct near__entry *entry, const void *key, size_t key_size)
{
    /* end: of the key, but for the header */
    const unsigned char *k = key, *end = (const unsigned char *)entry + key_size;
    uint64_t differs = (near__load8(entry->bytes) ^ near__load8(k)) |
                       (near__load8(end + NEAR_ENTRY_HEADER - 8) ^ near__load8(k + key_size - 8));
    return !differs;
}

/* Makes entry visible if its position and the ticket's generation allow.  1: it is; 0: it is not, and is the caller's
 * again. */
int near__index_install(struct near__index *index, struct near__entry *entry, uint64_t hash, uint32_t generation,
                        const struct near__moment *moment);
/* The same by whoever has the stripe of the key, for a write that does not depend on what was there: entry has the
 * position that the floor has. */
int near__index_put(struct near__index *index, struct near__entry *entry, uint64_t hash,
                    const struct near__moment *moment);
/* 1 an entry went, 0 none was there, -1 the one there is not below position.  position 0: below everything. */
int near__index_invalidate(struct near__index *index, uint64_t hash, const void *key, size_t key_size,
                           uint64_t position, enum near__why why);
/* Puts a copy of the visible entry in its place if the slot still holds `word`.  1: this call did, and the old entry is
 * to be retired; 0: nobody has seen the copy.  Inside the section in which the word was seen; the keeper's. */
int near__index_replace(_Atomic(uint64_t) *slot, uint64_t word, struct near__entry *copy);
/* Takes whatever is visible in the slot out if it is still `word`.  1: this call did. */
int near__index_unlink(struct near__index *index, _Atomic(uint64_t) *slot, uint64_t word, enum near__why why);
/* Moves what is in one bucket of the old table into the new one (the keeper, in MIGRATE). */
void near__index_move(struct near__index *index, struct near__bucket *old, const struct near__span *span,
                      const struct near__moment *moment);
/* Empties every bucket from first up to end of one span, tentative words included. */
void near__index_empty(struct near__index *index, const struct near__span *span, uint64_t first, uint64_t end,
                       enum near__why why);

#endif
