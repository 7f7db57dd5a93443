/* SPDX-License-Identifier: BSD-3-Clause
 * What the processor can do beyond any x86-64, for the hit path.  Found out once, before the process has its first
 * reader, so whoever has a reader may look (reader.c).  Sanitizer builds, which look at each access of memory, do
 * without, and so do tests that stand between the steps of the index. */
#ifndef NEAR_LOCAL_WIDE_H
#define NEAR_LOCAL_WIDE_H

#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define NEAR_WIDE_MOVES 1
#ifndef NEAR_STEP_HOOK
#define NEAR_WIDE_LINES 1
#endif

/* Moves of 32 bytes (AVX). */
extern __attribute__((visibility("hidden"))) int near__has_wide_moves;
/* Comparisons and moves of whole lines (AVX-512 with bytes and words), by a processor that does not lower its clock for
 * them. */
extern __attribute__((visibility("hidden"))) int near__has_wide_lines;

/* Of assembler for lines.  It uses registers from 16 up, so that nothing has to be cleaned up behind it (see
 * near__copy_widely), and the compiler knows them only where it may use them itself. */
#ifdef __AVX512F__
#define NEAR_CLOBBERS_LINES "xmm16", "xmm17", "k1", "memory"
#else
#define NEAR_CLOBBERS_LINES "memory"
#endif
#endif

/* near__has_wide_lines, where there may be such. */
static inline int near__wide_lines(void)
{
#ifdef NEAR_WIDE_LINES
    return near__has_wide_lines;
#else
    return 0;
#endif
}

#endif
