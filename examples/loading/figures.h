/* SPDX-License-Identifier: BSD-3-Clause
 * What the examples of loading share: time, numbers on the command line, quantiles. */
#ifndef NEAR_EXAMPLES_FIGURES_H
#define NEAR_EXAMPLES_FIGURES_H
#include <stddef.h>
#include <stdint.h>

int64_t figures_now_us(void);
void figures_sleep_ms(unsigned ms);
/* A number from least to most out of text into *ret: 0, or -1 after saying what is wrong. */
int figures_number(const char *text, unsigned least, unsigned most, unsigned *ret);
/* The value that `permille` of count values are not above, in ms; sorts them. */
double figures_quantile_ms(uint32_t *us, size_t count, unsigned permille);

#endif
