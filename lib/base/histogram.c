/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Row 0 holds the values 0 … 63 one by one; row r > 0 the values 64·2^(r-1) … 64·2^r - 1 in 64 buckets of 2^(r-1):
 *
 *   row 0   | 0 | 1 | 2 | …            | 63 |
 *   row 1   | 64 | 65 | …              | 127 |
 *   row 2   | 128–129 | 130–131 | …    | 254–255 |
 *
 * so that a bucket is never wider than 1/64 of its lower end.  All atomics are relaxed: each counter stands alone, and
 * a reader's sum is a snapshot of no one instant anyway.
 */
#include "base/histogram.h"

#define BUCKETS (NEAR_HISTOGRAM_ROWS * NEAR_HISTOGRAM_SUB)
_Static_assert(NEAR_HISTOGRAM_SUB == 64, "the shifts below are those of 64 sub-buckets");

static unsigned bucket_of(uint64_t ns)
{
    if (ns < NEAR_HISTOGRAM_SUB)
        return (unsigned)ns;
    unsigned row = 58 - (unsigned)__builtin_clzll(ns); /* 64 … 127 is row 1 */
    if (row >= NEAR_HISTOGRAM_ROWS)
        return BUCKETS - 1;
    return row * NEAR_HISTOGRAM_SUB + (unsigned)(ns >> (row - 1)) - NEAR_HISTOGRAM_SUB;
}

static uint64_t upper_end(unsigned bucket)
{
    unsigned row = bucket / NEAR_HISTOGRAM_SUB, sub = bucket % NEAR_HISTOGRAM_SUB;

    if (row == 0)
        return sub;
    return ((uint64_t)(NEAR_HISTOGRAM_SUB + sub + 1) << (row - 1)) - 1;
}

static uint64_t load(const _Atomic(uint64_t) *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

static void raise_max(struct near__histogram *h, uint64_t ns)
{
    uint64_t seen = load(&h->max);
    while (seen < ns &&
           !atomic_compare_exchange_weak_explicit(&h->max, &seen, ns, memory_order_relaxed, memory_order_relaxed))
        ;
}

void near__histogram_record(struct near__histogram *h, uint64_t ns)
{
    atomic_fetch_add_explicit(&h->bucket[bucket_of(ns)], 1, memory_order_relaxed);
    raise_max(h, ns);
}

void near__histogram_merge(struct near__histogram *into, const struct near__histogram *from)
{
    for (unsigned i = 0; i < BUCKETS; i++) {
        uint64_t count = load(&from->bucket[i]);
        if (count)
            atomic_fetch_add_explicit(&into->bucket[i], count, memory_order_relaxed);
    }
    raise_max(into, load(&from->max));
}

uint64_t near__histogram_count(const struct near__histogram *h)
{
    uint64_t count = 0;
    for (unsigned i = 0; i < BUCKETS; i++)
        count += load(&h->bucket[i]);
    return count;
}

/* The value of that rank, counted from 1. */
static uint64_t value_at_rank(const struct near__histogram *h, uint64_t rank)
{
    uint64_t max = load(&h->max), seen = 0;

    for (unsigned i = 0; i < BUCKETS - 1; i++) {
        seen += load(&h->bucket[i]);
        if (seen >= rank)
            return upper_end(i) < max ? upper_end(i) : max;
    }
    return max; /* the last bucket has no upper end */
}

static uint64_t rank_of(double q, uint64_t count)
{
    double exact = q * (double)count;
    if (!(exact > 1)) /* also a q that is not a number */
        return 1;
    if (exact >= (double)count)
        return count;
    uint64_t rank = (uint64_t)exact;
    return (double)rank < exact ? rank + 1 : rank;
}

uint64_t near__histogram_at(const struct near__histogram *h, double q)
{
    uint64_t count = near__histogram_count(h);
    return count ? value_at_rank(h, rank_of(q, count)) : 0;
}

void near__histogram_quantiles(const struct near__histogram *h, near_quantiles *ret)
{
    uint64_t count = near__histogram_count(h);

    *ret = (near_quantiles){0};
    if (!count)
        return;
    ret->count = count;
    ret->p50 = value_at_rank(h, rank_of(0.5, count));
    ret->p90 = value_at_rank(h, rank_of(0.9, count));
    ret->p99 = value_at_rank(h, rank_of(0.99, count));
    ret->p999 = value_at_rank(h, rank_of(0.999, count));
    ret->max = load(&h->max);
}
