/* SPDX-License-Identifier: BSD-3-Clause
 * The columns that most results have: a rate over several runs, and quantiles of times. */
#ifndef NEAR_BENCH_SPREAD_H
#define NEAR_BENCH_SPREAD_H
#include "bench_report.h"
#include "nearcache.h"

/* ops_per_second (the median), _min, _max, spread, and the runs themselves; heading, factor and decimals are the
 * table's. */
void bench_row_rates(struct bench_row *row, const double *rates, size_t runs, const char *heading, double factor,
                     int decimals);
/* ns_p50, ns_p90, ns_p99, ns_p999, ns_max: medians over the runs; in the table in that unit ("ns", 1; "µs", 1e-3). */
void bench_row_times(struct bench_row *row, const near_quantiles *times, size_t runs, double factor);

#endif
