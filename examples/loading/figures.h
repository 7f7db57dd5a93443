/* SPDX-License-Identifier: BSD-3-Clause
 * What the examples of loading share: time, numbers on the command line, quantiles, the remote tier's first answer. */
#ifndef NEAR_EXAMPLES_FIGURES_H
#define NEAR_EXAMPLES_FIGURES_H
#include <stddef.h>
#include <stdint.h>

#include "nearcache.h"

int64_t figures_now_us(void);
void figures_sleep_ms(unsigned ms);
/* A number from least to most out of text into *ret: 0, or -1 after saying what is wrong. */
int figures_number(const char *text, unsigned least, unsigned most, unsigned *ret);
/* The value that `permille` of count values are not above, in ms; sorts them. */
double figures_quantile_ms(uint32_t *us, size_t count, unsigned permille);
/* NEAR_OK when the local tier may serve.  Whoever starts an example by hand wants to hear at once what is wrong with
 * the remote tier: near_wait_ready alone would wait for it to pass. */
int figures_serves(near_cache *cache, near_error *error);
/* NEAR_OK when two caches with this URI share their data: "local:" is each cache's own. */
int figures_shared(const char *uri, near_error *error);

#endif
