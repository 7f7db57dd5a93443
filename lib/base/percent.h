/* SPDX-License-Identifier: BSD-3-Clause
 * Percent-encoding, as URIs have it. */
#ifndef NEAR_BASE_PERCENT_H
#define NEAR_BASE_PERCENT_H
#include <stddef.h>

/* -1: it is none. */
static inline int near__hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
}

/* Decodes size bytes into `to`, which may be `from` and has room for as many; *ret_size is how many came of them.  0: a
 * percent sign has no two digits behind it. */
static inline int near__percent_decode(char *to, const char *from, size_t size, size_t *ret_size)
{
    char *out = to;
    for (size_t i = 0; i < size; i++, out++) {
        *out = from[i];
        if (from[i] != '%')
            continue;
        int high = size - i > 2 ? near__hex_digit(from[i + 1]) : -1;
        int low = high < 0 ? -1 : near__hex_digit(from[i + 2]);
        if (low < 0)
            return 0;
        *out = (char)(high * 16 + low);
        i += 2;
    }
    *ret_size = (size_t)(out - to);
    return 1;
}

#endif
