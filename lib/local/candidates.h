/* SPDX-License-Identifier: BSD-3-Clause
 * The best victims that one thread has seen so far: at most sixteen, in no order, of which the oldest and the youngest can be told.
 *
 *      used       1 1 1 1 1 1 1 1 1 1 1 1 1 1 0 1
 *      stamp      s s s s s s s s s s s s s s . s     32 bytes: compared eight at a time
 *      word       w w w w w w w w w w w w w w . w
 *      slot       p p p p p p p p p p p p p p . p
 *
 * A candidate that comes in takes a free place or, when there is none, that of the youngest; nothing else moves.  Unless there are few, it
 * must be older than the youngest: what takes the place of the victim that has just gone, only because that is free, would be sent away
 * by the next that comes, and each time somebody would have to find out again who is the youngest.
 *
 * Ages are computed from the stamps when they are compared: all become older together, so the youngest stays what it is until
 * somebody comes or goes.
 *
 * base: the tick to compare by, a few ticks ahead, so that what was stamped after our tick was taken is younger than all, not older. */
#ifndef NEAR_LOCAL_CANDIDATES_H
#define NEAR_LOCAL_CANDIDATES_H
#include <stdatomic.h>
#include <stdint.h>

#if defined(__SSE2__) && !defined(NEAR_CANDIDATES_LOOPS) /* which a test asks for */
#define NEAR_CANDIDATES_VECTORS
#include <emmintrin.h>
#endif

#define NEAR_CANDIDATES 16
#define NEAR_CANDIDATES_FEW 8 /* fewer than these take anything; four and twelve are as good on the traces of docs/policies.md */
#define NEAR_CANDIDATES_ALL ((UINT32_C(1) << NEAR_CANDIDATES) - 1)

struct near__candidate {
    _Atomic(uint64_t) *slot;
    uint64_t word;  /* that was in it */
    uint16_t stamp; /* of its last use or, under NEAR_RULE_S3FIFO, of its queueing */
};

struct near__candidates {
    _Alignas(16) uint16_t stamp[NEAR_CANDIDATES];
    uint64_t word[NEAR_CANDIDATES];
    _Atomic(uint64_t) *slot[NEAR_CANDIDATES];
    uint32_t used;     /* a bit a place */
    uint32_t count;    /* of them */
    uint32_t youngest; /* its place, if there is any */
};

static inline unsigned near__candidate_age(uint16_t base, uint16_t stamp) { return (uint16_t)(base - stamp); }

#define NEAR_STAMPS 24 /* that are compared with the bar at a time */

/* ---------------------------------------------------------------- comparing
 *
 * Places are bits: all that are meant.  Each question has an answer by vectors and one by a loop, which says the same. */
#ifdef NEAR_CANDIDATES_VECTORS

/* SSE2 compares signed numbers: ages less 2^15. */
struct near__ages {
    __m128i low, high;
};
static inline struct near__ages near__candidates_ages(const struct near__candidates *c, uint16_t base)
{
    __m128i b = _mm_set1_epi16((short)(base - 0x8000));
    return (struct near__ages){_mm_sub_epi16(b, _mm_load_si128((const __m128i *)(const void *)&c->stamp[0])),
                               _mm_sub_epi16(b, _mm_load_si128((const __m128i *)(const void *)&c->stamp[8]))};
}
static inline uint32_t near__lanes_equal(__m128i low, __m128i high, __m128i all)
{
    return (uint32_t)_mm_movemask_epi8(_mm_packs_epi16(_mm_cmpeq_epi16(low, all), _mm_cmpeq_epi16(high, all)));
}
/* What eight lanes come to by `choose`, in all of them. */
#define NEAR_LANES_FOLD(v, choose)                                                                                                      \
    do {                                                                                                                                \
        v = choose(v, _mm_shuffle_epi32(v, _MM_SHUFFLE(1, 0, 3, 2)));                                                                   \
        v = choose(v, _mm_shuffle_epi32(v, _MM_SHUFFLE(2, 3, 0, 1)));                                                                   \
        v = choose(v, _mm_shufflehi_epi16(_mm_shufflelo_epi16(v, _MM_SHUFFLE(2, 3, 0, 1)), _MM_SHUFFLE(2, 3, 0, 1)));                   \
    } while (0)

static inline uint32_t near__candidates_stamped(const struct near__candidates *c, uint16_t stamp)
{
    return c->used & near__lanes_equal(_mm_load_si128((const __m128i *)(const void *)&c->stamp[0]),
                                       _mm_load_si128((const __m128i *)(const void *)&c->stamp[8]), _mm_set1_epi16((short)stamp));
}
static inline uint32_t near__candidates_youngest(const struct near__candidates *c, uint16_t base)
{
    struct near__ages ages = near__candidates_ages(c, base);
    __m128i least = _mm_min_epi16(ages.low, ages.high);
    NEAR_LANES_FOLD(least, _mm_min_epi16);
    return near__lanes_equal(ages.low, ages.high, least);
}
static inline uint32_t near__stamps_above(const uint16_t *stamp, __m128i base, __m128i bar)
{
    __m128i above = _mm_cmpgt_epi16(_mm_sub_epi16(base, _mm_load_si128((const __m128i *)(const void *)stamp)), bar);
    return (uint32_t)_mm_movemask_epi8(_mm_packs_epi16(above, _mm_setzero_si128()));
}
/* Which of the stamps, aligned to 16 bytes, are older than the bar, 0 or more; a bit each. */
static inline uint32_t near__stamps_older(const uint16_t stamp[NEAR_STAMPS], uint16_t base, int bar)
{
    __m128i b = _mm_set1_epi16((short)(base - 0x8000)), least = _mm_set1_epi16((short)(bar - 0x8000));
    return near__stamps_above(stamp, b, least) | near__stamps_above(stamp + 8, b, least) << 8 |
           near__stamps_above(stamp + 16, b, least) << 16;
}
/* A place that is free counts as the youngest of all. */
static inline __m128i near__lanes_used(__m128i ages, uint32_t used)
{
    const __m128i bits = _mm_set_epi16(128, 64, 32, 16, 8, 4, 2, 1);
    __m128i is_used = _mm_cmpeq_epi16(_mm_and_si128(_mm_set1_epi16((short)used), bits), bits);
    return _mm_or_si128(_mm_and_si128(is_used, ages), _mm_andnot_si128(is_used, _mm_set1_epi16(INT16_MIN)));
}
static inline uint32_t near__lanes_most(struct near__ages ages)
{
    __m128i most = _mm_max_epi16(ages.low, ages.high);
    NEAR_LANES_FOLD(most, _mm_max_epi16);
    return near__lanes_equal(ages.low, ages.high, most);
}
static inline uint32_t near__candidates_oldest(const struct near__candidates *c, uint16_t base)
{
    struct near__ages ages = near__candidates_ages(c, base);
    uint32_t oldest = c->used & near__lanes_most(ages);
    if (oldest)
        return oldest;
    /* What has gone from there was older.  It leaves a young stamp behind, so that this does not happen before there are few. */
    return c->used & near__lanes_most((struct near__ages){near__lanes_used(ages.low, c->used), near__lanes_used(ages.high, c->used >> 8)});
}
#else
static inline uint32_t near__stamps_older(const uint16_t stamp[NEAR_STAMPS], uint16_t base, int bar)
{
    uint32_t found = 0;
    for (unsigned i = 0; i < NEAR_STAMPS; i++)
        found |= (uint32_t)((int)near__candidate_age(base, stamp[i]) > bar) << i;
    return found;
}
static inline uint32_t near__candidates_stamped(const struct near__candidates *c, uint16_t stamp)
{
    uint32_t found = 0;
    for (unsigned i = 0; i < NEAR_CANDIDATES; i++)
        found |= (uint32_t)(c->stamp[i] == stamp) << i;
    return found & c->used;
}
/* Those of one age. */
static inline uint32_t near__candidates_aged(const struct near__candidates *c, uint16_t base, unsigned age)
{
    return near__candidates_stamped(c, (uint16_t)(base - age));
}
static inline uint32_t near__candidates_youngest(const struct near__candidates *c, uint16_t base)
{
    unsigned least = UINT16_MAX;
    for (unsigned i = 0; i < NEAR_CANDIDATES; i++)
        least = near__candidate_age(base, c->stamp[i]) < least ? near__candidate_age(base, c->stamp[i]) : least;
    return near__candidates_aged(c, base, least);
}
static inline uint32_t near__candidates_oldest(const struct near__candidates *c, uint16_t base)
{
    unsigned most = 0;
    for (unsigned i = 0; i < NEAR_CANDIDATES; i++)
        most = c->used >> i & 1 && near__candidate_age(base, c->stamp[i]) > most ? near__candidate_age(base, c->stamp[i]) : most;
    return near__candidates_aged(c, base, most);
}
#endif

/* ---------------------------------------------------------------- coming and going */

static inline void near__candidates_clear(struct near__candidates *c)
{
    c->used = 0;
    c->count = 0;
}

/* What is to come in must be older than this; -1: there are so few that any will do. */
static inline int near__candidates_bar(const struct near__candidates *c, uint16_t base)
{
    return c->count >= NEAR_CANDIDATES_FEW ? (int)near__candidate_age(base, c->stamp[c->youngest]) : -1;
}

/* Seen before.  With another stamp it was used since; then the earlier candidate is passed over when its turn comes. */
static inline int near__candidates_has(const struct near__candidates *c, uint64_t word, uint16_t stamp)
{
    for (uint32_t same = near__candidates_stamped(c, stamp); same; same &= same - 1)
        if (c->word[__builtin_ctz(same)] == word)
            return 1;
    return 0;
}

static inline void near__candidates_put(struct near__candidates *c, unsigned place, _Atomic(uint64_t) *slot, uint64_t word,
                                        uint16_t stamp)
{
    c->stamp[place] = stamp;
    c->word[place] = word;
    c->slot[place] = slot;
}

/* One that passes the bar. */
static inline void near__candidates_add(struct near__candidates *c, _Atomic(uint64_t) *slot, uint64_t word, uint16_t stamp,
                                        uint16_t base)
{
    if (near__candidates_has(c, word, stamp))
        return;
    if (c->count == NEAR_CANDIDATES) {
        near__candidates_put(c, c->youngest, slot, word, stamp);
        c->youngest = (unsigned)__builtin_ctz(near__candidates_youngest(c, base));
        return;
    }
    unsigned place = (unsigned)__builtin_ctz(~c->used);
    if (!c->count || near__candidate_age(base, stamp) < near__candidate_age(base, c->stamp[c->youngest]))
        c->youngest = place;
    near__candidates_put(c, place, slot, word, stamp);
    c->used |= UINT32_C(1) << place;
    c->count++;
}

/* Takes the oldest out.  0: there is none. */
static inline int near__candidates_pick(struct near__candidates *c, uint16_t base, struct near__candidate *ret)
{
    if (!c->used)
        return 0;
    uint32_t oldest = near__candidates_oldest(c, base), others = oldest & ~(UINT32_C(1) << c->youngest);
    unsigned place = (unsigned)__builtin_ctz(others ? others : oldest); /* all of one age: then the youngest stays what it is */
    *ret = (struct near__candidate){.slot = c->slot[place], .word = c->word[place], .stamp = c->stamp[place]};
    c->stamp[place] = c->stamp[c->youngest]; /* who compares all places need not leave it out */
    c->used &= ~(UINT32_C(1) << place);
    c->count--;
    return 1;
}

#endif
