/* SPDX-License-Identifier: BSD-3-Clause
 * What the programs say about their arguments, all in the same words. */
#ifndef NEAR_ARGUMENTS_H
#define NEAR_ARGUMENTS_H
#include <stdint.h>

enum { EXIT_USAGE = 2 };

/* Says "PROGRAM: OPTION TEXT: WHY" to standard error; returns EXIT_USAGE. */
int argument_refused(const char *option, const char *text, const char *why);
/* 0 and *ret, or refused. */
int argument_number(const char *option, const char *text, int min, int max, int *ret);
int argument_seed(const char *option, const char *text, uint64_t *ret);

#endif
