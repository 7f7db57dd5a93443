/* SPDX-License-Identifier: BSD-3-Clause
 * A number within limits. */
#ifndef NEAR_BASE_CLAMP_H
#define NEAR_BASE_CLAMP_H
#include <stdint.h>

static inline int64_t near__clamp(int64_t number, int64_t least, int64_t most)
{
    return number < least ? least : number > most ? most : number;
}
static inline uint64_t near__clamp_unsigned(uint64_t number, uint64_t least, uint64_t most)
{
    return number < least ? least : number > most ? most : number;
}

#endif
