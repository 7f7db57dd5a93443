/* SPDX-License-Identifier: BSD-3-Clause
 * Pictures of a report: a data file and a gnuplot script for each, and, where gnuplot is installed, svg and png. */
#ifndef NEAR_BENCH_PLOT_H
#define NEAR_BENCH_PLOT_H
#include "bench_report.h"

/* An exit status; a missing gnuplot is said and is no failure. */
int bench_plot(const struct bench_report *report, const char *folder);

#endif
