/* SPDX-License-Identifier: BSD-3-Clause
 * The hands by which threads look for victims, each at a place of its own.  What they do there is in evict.c.
 *
 *      tables      | stretch 0 | stretch 1 | stretch 2 | stretch 3 |  …   64 buckets each: a page; the last may be less
 *      claims           1st         4th         2nd         5th           so every stretch is claimed once in a round
 *
 *                   bucket                    end
 *      a stretch   |  | v  |    |    |    |    |
 *                     slots   entries   line
 *                             fetched   fetched
 *
 * A thread claims a stretch after the other from a count that all share, so two are at the same place only when there
 * are fewer stretches than threads.  Stretches are claimed at nearly golden distances: one after the other would take a
 * thread through all of a half that a migration has emptied.  The next stretch is claimed when one is begun, so that
 * what is ahead is known across its end.
 *
 * The threshold is an age, in 256ths of a tick, that about one entry in so many has that a hand looks at.  Each entry
 * that is not old enough lowers it a little, each one that is raises it so many times as much: it stays where the two
 * are equal (Robbins and Monro). */
#ifndef NEAR_LOCAL_HAND_H
#define NEAR_LOCAL_HAND_H
#include <stdint.h>
#include "local/index.h"

#define NEAR_STRETCH 64     /* buckets; whole groups, and as many as the least table has */
#define NEAR_HAND_LINE 4    /* buckets ahead whose lines are fetched; there are as many in every stretch */
#define NEAR_HAND_ENTRIES 2 /* likewise, whose entries are */
_Static_assert(NEAR_HAND_LINE <= NEAR_PLACES,
               "a stretch has at least a group of buckets: what is ahead is in this one or the next");

struct near__hand {
    struct near__bucket *bucket, *end;    /* it is at; the end of the stretch */
    struct near__bucket *next, *next_end; /* the stretch after that */
    unsigned slots;                       /* of the bucket, that have not been looked at: a bit each */
    unsigned old;                         /* of the bucket, that were old enough at a glance: likewise */
    int bar;                              /* how old that was */
    uint32_t threshold;
};

/* Where stretches are, in one view of the tables. */
struct near__course {
    uint64_t stretches, stride;
};

/* What one thread knows about good victims. */
struct near__hands {
    uint64_t view; /* that the places are of; in other views they are void */
    unsigned rule; /* likewise the thresholds */
    struct near__course course;
    struct near__hand hand[2]; /* [1]: of the main queue */
};

/* ---------------------------------------------------------------- stretches */

static inline uint64_t near__span_stretches(const struct near__span *span)
{
    return (span->count + NEAR_STRETCH - 1) / NEAR_STRETCH;
}

static inline uint64_t near__common_divisor(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static inline struct near__course near__course_of(const struct near__tables *tables)
{
    uint64_t stretches = 0;
    for (unsigned t = 0; t < tables->spans; t++)
        stretches += near__span_stretches(&tables->span[t]);
    uint64_t stride = stretches * 618 / 1000 + 1;
    while (near__common_divisor(stride, stretches) != 1)
        stride++;
    return (struct near__course){.stretches = stretches, .stride = stride};
}

/* The stretch of a claim. */
static inline struct near__bucket *near__course_claim(const struct near__course *course,
                                                      const struct near__tables *tables, uint64_t claim,
                                                      struct near__bucket **ret_end)
{
    /* of 2^27 at most: no overflow */
    uint64_t stretch = claim % course->stretches * course->stride % course->stretches;
    const struct near__span *span = &tables->span[0];
    uint64_t first = near__span_stretches(span);
    if (stretch >= first) {
        stretch -= first;
        span = &tables->span[1];
    }
    uint64_t begin = stretch * NEAR_STRETCH, end = begin + NEAR_STRETCH;
    *ret_end = &span->bucket[end < span->count ? end : span->count];
    return &span->bucket[begin];
}

/* The bucket so many ahead, at most as many as there are in the least stretch. */
static inline struct near__bucket *near__hand_ahead(const struct near__hand *hand, unsigned buckets)
{
    size_t left = (size_t)(hand->end - hand->bucket);
    return buckets < left ? hand->bucket + buckets : hand->next + (buckets - left);
}

/* ---------------------------------------------------------------- the threshold */

#define NEAR_THRESHOLD_SHIFT 8
#define NEAR_THRESHOLD_MAX ((uint32_t)UINT16_MAX << NEAR_THRESHOLD_SHIFT)
/* a 512th for each entry; from a 3000th to a 300th all are the same on the traces of docs/policies.md */
#define NEAR_STEER_SHIFT 9

/* So many entries were looked at, and so many of them were old enough. */
static inline void near__hand_steer(struct near__hand *hand, unsigned looked, unsigned old, unsigned one_in)
{
    int64_t step = (int64_t)(hand->threshold >> NEAR_STEER_SHIFT) + 1;
    int64_t threshold = hand->threshold + step * ((int64_t)old * one_in - (int64_t)looked);
    hand->threshold = (uint32_t)(threshold < 0                             ? 0
                                 : threshold > (int64_t)NEAR_THRESHOLD_MAX ? (int64_t)NEAR_THRESHOLD_MAX
                                                                           : threshold);
}

#endif
