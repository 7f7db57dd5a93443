/* SPDX-License-Identifier: BSD-3-Clause
 * How many reads came at which distance, by entries and by bytes, in log-linear steps of 1/32. */
#ifndef NEAR_LOCAL_DISTANCES_H
#define NEAR_LOCAL_DISTANCES_H
#include <stdint.h>

#define NEAR_STEPS_BITS 5
#define NEAR_STEPS (1u << NEAR_STEPS_BITS)
#define NEAR_DISTANCE_BITS 44 /* room enough for everything */
#define NEAR_DISTANCE_MAX ((UINT64_C(1) << NEAR_DISTANCE_BITS) - 1)
#define NEAR_DISTANCES (NEAR_STEPS * (NEAR_DISTANCE_BITS - NEAR_STEPS_BITS + 1))

struct near__distances {
    float by_entries[NEAR_DISTANCES], by_bytes[NEAR_DISTANCES]; /* exact: fewer than 2^24 in all */
};

static inline unsigned near__distance_step(uint64_t distance)
{
    if (distance < NEAR_STEPS)
        return (unsigned)distance;
    if (distance > NEAR_DISTANCE_MAX)
        distance = NEAR_DISTANCE_MAX;
    unsigned shift = 63 - NEAR_STEPS_BITS - (unsigned)__builtin_clzll(distance);
    return (shift << NEAR_STEPS_BITS) + (unsigned)(distance >> shift);
}

static inline void near__distances_count(struct near__distances *distances, uint64_t entries, uint64_t bytes,
                                         float reads)
{
    distances->by_entries[near__distance_step(entries)] += reads;
    distances->by_bytes[near__distance_step(bytes)] += reads;
}

static inline void near__distances_divide(struct near__distances *distances, float by)
{
    for (unsigned i = 0; i < NEAR_DISTANCES; i++) {
        distances->by_entries[i] /= by;
        distances->by_bytes[i] /= by;
    }
}

/* Where a step begins. */
static inline double near__distance_start(unsigned step)
{
    if (step < 2 * NEAR_STEPS)
        return step;
    unsigned shift = (step >> NEAR_STEPS_BITS) - 1;
    return (double)((uint64_t)(NEAR_STEPS + (step & (NEAR_STEPS - 1))) << shift);
}

/* Of one of the two: how many have a distance of at most size; within a step they are spread evenly. */
static inline double near__distances_within(const float *reads, uint64_t size)
{
    size = size < NEAR_DISTANCE_MAX ? size : NEAR_DISTANCE_MAX;
    unsigned last = near__distance_step(size);
    double start = near__distance_start(last),
           part = ((double)size - start + 1) / (near__distance_start(last + 1) - start);
    double sum = part * (double)reads[last];
    for (unsigned i = 0; i < last; i++)
        sum += (double)reads[i];
    return sum;
}

#endif
