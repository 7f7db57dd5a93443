/* SPDX-License-Identifier: BSD-3-Clause
 * Which hit ratio would LRU have at any size?  Learnt from the requests as they come; the essay is in curve.c.
 * One thread at a time. */
#ifndef NEAR_LOCAL_CURVE_H
#define NEAR_LOCAL_CURVE_H
#include <stddef.h>
#include <stdint.h>
#include "base/alloc.h"
#include "local/bursts.h"
#include "local/shadow.h"

struct near__curve;

/* With at most that many keys in the sample.  NULL: no memory. */
struct near__curve *near__curve_create(const struct near__alloc *alloc, uint32_t keys_max, size_t *ret_cost);
/* When the sample has counted so many reads all counts are halved, so that what is long ago counts less; without a call
 * 2^20. */
void near__curve_forget_after(struct near__curve *curve, uint32_t reads);
void near__curve_destroy(const struct near__alloc *alloc, struct near__curve *curve);

/* Only keys whose hash is below this concern it. */
uint64_t near__curve_below(const struct near__curve *curve);
/* A request for such a key; bytes: what its entry takes, 0: not known.  at: reads of all keys that were shown so
 * far. */
void near__curve_see(struct near__curve *curve, uint64_t hash, enum near__seen seen, uint64_t bytes, uint64_t at);
/* So many reads of the sample should have been shown, if it had its share of them. */
void near__curve_expect(struct near__curve *curve, double reads);
/* The sample's share of the keys. */
double near__curve_share(const struct near__curve *curve);
/* A request of a burst, whatever its hash; there must be room for it. */
void near__curve_see_burst(struct near__curve *curve, uint64_t hash, enum near__seen seen, uint64_t bytes, uint64_t at);
/* Takes half of the keys from now on. */
void near__curve_thin(struct near__curve *curve);
/* Nobody asks about more entries, or more bytes, than that: a full sample forgets what is further back, and tells of
 * larger sizes what it tells of that one.  Without a call it forgets nothing. */
void near__curve_reach(struct near__curve *curve, uint64_t entries, uint64_t bytes);
/* Takes twice as many keys from now on, if it has reached much further back than it needs to for a while. */
void near__curve_thicken(struct near__curve *curve);
/* For beginning and ending bursts. */
struct near__bursts *near__curve_bursts(struct near__curve *curve);
uint32_t near__curve_keys(const struct near__curve *curve);
/* Reads of the sample, ever. */
uint64_t near__curve_samples(const struct near__curve *curve);
/* The share of all reads that a cache of so many entries, and of so many bytes, answers.  -1: no read was seen. */
double near__curve_hit_ratio(const struct near__curve *curve, uint64_t entries, uint64_t bytes);

#endif
