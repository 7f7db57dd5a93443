/* SPDX-License-Identifier: BSD-3-Clause */
#include "bench_spread.h"

#include <stdlib.h>
#include <string.h>

void bench_row_rates(struct bench_row *row, const double *rates, size_t runs, const char *heading, double factor,
                     int decimals)
{
    double *sorted = bench_alloc(runs * sizeof(*sorted));
    memcpy(sorted, rates, runs * sizeof(*sorted));
    double median = bench_median(sorted, runs);
    bench_row_real(row, "ops_per_second", heading, factor, decimals, median);
    bench_row_real(row, "ops_per_second_min", NULL, 1, 0, sorted[0]);
    bench_row_real(row, "ops_per_second_max", NULL, 1, 0, sorted[runs - 1]);
    bench_row_real(row, "spread", "spread %", 100, 1, median > 0 ? (sorted[runs - 1] - sorted[0]) / median : 0);
    bench_row_list(row, "ops_per_second_runs", rates, runs);
    free(sorted);
}

static double median_at(const near_quantiles *times, size_t runs, size_t offset)
{
    double *numbers = bench_alloc(runs * sizeof(*numbers));
    for (size_t r = 0; r < runs; r++) {
        uint64_t ns;
        memcpy(&ns, (const char *)&times[r] + offset, sizeof(ns));
        numbers[r] = (double)ns;
    }
    double median = bench_median(numbers, runs);
    free(numbers);
    return median;
}

void bench_row_times(struct bench_row *row, const near_quantiles *times, size_t runs, double factor)
{
    static const struct {
        const char *name, *ns, *us;
        size_t offset;
    } column[] = {
        {"ns_p50", "p50 ns", "p50 us", offsetof(near_quantiles, p50)},
        {"ns_p90", NULL, NULL, offsetof(near_quantiles, p90)},
        {"ns_p99", "p99 ns", "p99 us", offsetof(near_quantiles, p99)},
        {"ns_p999", "p99.9 ns", "p99.9 us", offsetof(near_quantiles, p999)},
        {"ns_max", NULL, NULL, offsetof(near_quantiles, max)},
    };
    for (size_t i = 0; i < sizeof(column) / sizeof(*column); i++)
        bench_row_real(row, column[i].name, factor < 1 ? column[i].us : column[i].ns, factor, factor < 1,
                       median_at(times, runs, column[i].offset));
}
