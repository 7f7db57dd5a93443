/* SPDX-License-Identifier: BSD-3-Clause
 * What the processor can do beyond any x86-64, for the hit path.  Found out once, before the process has its first
 * reader, so whoever has a reader may look (reader.c).  Sanitizer builds, which look at each access of memory, do
 * without, and so do tests that stand between the steps of the index. */
#ifndef NEAR_LOCAL_WIDE_H
#define NEAR_LOCAL_WIDE_H
#include "base/compiler.h"

#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define NEAR_X86_ASSEMBLER 1 /* the hit path may use assembler of x86-64 */
#ifndef NEAR_STEP_HOOK
#define NEAR_WIDE_LINES 1 /* and have moves as wide as this processor's */
#endif

/* The width (below) of this processor. */
extern __attribute__((visibility("hidden"))) int near__has_width;

/* Of assembler for lines.  It uses registers from 16 up, so that nothing has to be cleaned up behind it (see
 * near__copy_widely), and the compiler knows them only where it may use them itself. */
#ifdef __AVX512F__
#define NEAR_CLOBBERS_LINES "xmm16", "xmm17", "k1", "memory"
#else
#define NEAR_CLOBBERS_LINES "memory"
#endif

/* Of assembler for halves.  It ends with vzeroupper: code that follows and knows nothing of wide registers is slow
 * while their upper halves are in use.  That empties the upper halves of all of the first sixteen, and a compiler that
 * is told to use AVX may have something in any of them. */
#ifdef __AVX__
#define NEAR_CLOBBERS_HALVES                                                                                           \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",         \
        "xmm13", "xmm14", "xmm15", "memory"
#else
#define NEAR_CLOBBERS_HALVES "xmm0", "xmm1", "xmm2", "xmm3", "memory"
#endif
#endif

/* How many bytes the processor compares and moves at once, as far as we ask for it. */
enum near__width {
    NEAR_WIDTH_ANY = 0,   /* what the compiler makes of it */
    NEAR_WIDTH_HALF = 32, /* AVX2 */
    NEAR_WIDTH_LINE = 64, /* AVX-512 with bytes and words, by a processor that does not lower its clock for it */
#ifdef NEAR_WIDE_LINES
    NEAR_WIDTH_LESS = NEAR_WIDTH_HALF /* the other one for which there is a hit path of its own */
#else
    NEAR_WIDTH_LESS = NEAR_WIDTH_ANY
#endif
};

static inline int near__width(void)
{
#ifdef NEAR_WIDE_LINES
    return near__has_width;
#else
    return NEAR_WIDTH_ANY;
#endif
}

#endif
