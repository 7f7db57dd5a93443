/* SPDX-License-Identifier: BSD-3-Clause
 * Where and with what something was measured. */
#ifndef NEAR_BENCH_ENVIRONMENT_H
#define NEAR_BENCH_ENVIRONMENT_H
#include "bench.h"
#include "bench_json.h"

/* The member "environment": processors, kernel, memory, versions, the command line (a URI's password left out). */
void bench_environment_write(struct bench_json *json, const struct bench_common *common);

#endif
