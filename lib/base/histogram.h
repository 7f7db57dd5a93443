/* SPDX-License-Identifier: BSD-3-Clause
 * Log-linear histogram of nanoseconds: 64 sub-buckets a power of two, relative error at most 1/64.
 * near__histogram_record may be called by many threads at once (relaxed atomic adds). */
#ifndef NEAR_BASE_HISTOGRAM_H
#define NEAR_BASE_HISTOGRAM_H
#include <stdatomic.h>
#include <stdint.h>
#include "nearcache.h"

#define NEAR_HISTOGRAM_SUB 64
#define NEAR_HISTOGRAM_ROWS 36 /* values up to 2^41 ns, about 36 minutes; larger ones count in the last bucket */

struct near__histogram {
    _Atomic(uint64_t) max;
    _Atomic(uint64_t) bucket[NEAR_HISTOGRAM_ROWS * NEAR_HISTOGRAM_SUB];
};

void near__histogram_record(struct near__histogram *h, uint64_t ns);
void near__histogram_merge(struct near__histogram *into, const struct near__histogram *from);
/* Value at quantile q in 0…1: the upper end of the bucket, never above the recorded maximum; 0 when empty. */
uint64_t near__histogram_at(const struct near__histogram *h, double q);
uint64_t near__histogram_count(const struct near__histogram *h);
void near__histogram_quantiles(const struct near__histogram *h, near_quantiles *ret);

#endif
