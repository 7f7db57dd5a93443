/* SPDX-License-Identifier: BSD-3-Clause
 * Looks at words that are only compared, for the hit path: one instruction each, where gcc 12 makes two of an atomic
 * load and what is asked of it, and takes a register.
 *
 * Each is a load with acquire semantics: x86 keeps loads in order, and volatile and "memory" keep them where they
 * stand.  Where the assembler is not used (wide.h) they are what they say. */
#ifndef NEAR_LOCAL_BRIEF_H
#define NEAR_LOCAL_BRIEF_H
#include <stdatomic.h>
#include <stdint.h>
#include "base/compiler.h"
#include "local/step.h"
#include "local/wide.h"

#ifdef NEAR_WIDE_LINES
/* condition: of number, then *word, as the processor names it */
#define NEAR_BRIEF_COMPARE(is, condition, number, word)                                                                \
    __asm__ volatile("cmpq %1, %2" : "=@cc" condition(is) : "m"(*(word)), "r"(number) : "memory")
#endif

/* *word == NULL, for an atomic pointer. */
#ifdef NEAR_WIDE_LINES
NEAR_INLINE int near__brief_is_zero(const void *word)
{
    int is;
    __asm__ volatile("cmpq $0, %1" : "=@cce"(is) : "m"(*(const char(*)[sizeof(void *)])word) : "memory");
    return is;
}
#define near__brief_is_null(word) near__brief_is_zero(word)
#else
#define near__brief_is_null(word) (atomic_load_explicit(word, memory_order_acquire) == NULL)
#endif

/* *word % power == 0, for a power of two up to 2^31. */
NEAR_INLINE int near__brief_divides(const _Atomic(uint64_t) *word, const uint32_t power)
{
#ifdef NEAR_WIDE_LINES
    int is;
    __asm__ volatile("testl %2, %1" : "=@cce"(is) : "m"(*word), "i"(power - 1) : "memory");
    return is;
#else
    return atomic_load_explicit(word, memory_order_acquire) % power == 0;
#endif
}

/* number < *word */
NEAR_INLINE int near__brief_is_below(uint64_t number, const _Atomic(uint64_t) *word)
{
#ifdef NEAR_WIDE_LINES
    int is;
    NEAR_BRIEF_COMPARE(is, "b", number, word);
    return is;
#else
    return number < atomic_load_explicit(word, memory_order_acquire);
#endif
}

/* The same as signed numbers, which is a step. */
NEAR_INLINE int near__brief_is_less(int64_t number, const _Atomic(uint64_t) *word)
{
#ifdef NEAR_WIDE_LINES
    int is;
    NEAR_BRIEF_COMPARE(is, "l", number, word);
    return is;
#else
    return number < (int64_t)near__step_look(word);
#endif
}

/* number == the lower half of *word */
NEAR_INLINE int near__brief_is_half(uint16_t number, const _Atomic(uint32_t) *word)
{
#ifdef NEAR_WIDE_LINES
    int is;
    __asm__ volatile("cmpw %w2, %1" : "=@cce"(is) : "m"(*word), "r"(number) : "memory");
    return is;
#else
    return number == (uint16_t)atomic_load_explicit(word, memory_order_acquire);
#endif
}

#endif
