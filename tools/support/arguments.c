/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* program_invocation_short_name */
#endif
#include "support/arguments.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

int argument_refused(const char *option, const char *text, const char *why)
{
    fprintf(stderr, "%s: %s %s: %s\n", program_invocation_short_name, option, text, why);
    return EXIT_USAGE;
}

int argument_number(const char *option, const char *text, int min, int max, int *ret)
{
    char *end, why[64];
    errno = 0;
    long number = strtol(text, &end, 10);
    if (end == text || *end || errno || number < min || number > max) {
        snprintf(why, sizeof why, "a number from %d to %d is needed", min, max);
        return argument_refused(option, text, why);
    }
    *ret = (int)number;
    return 0;
}

int argument_seed(const char *option, const char *text, uint64_t *ret)
{
    char *end;
    errno = 0;
    *ret = strtoull(text, &end, 0);
    return end == text || *end || errno || *text == '-' ? argument_refused(option, text, "a number is needed") : 0;
}
