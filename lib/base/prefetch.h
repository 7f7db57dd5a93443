/* SPDX-License-Identifier: BSD-3-Clause
 * Fetching a line ahead of its use. */
#ifndef NEAR_BASE_PREFETCH_H
#define NEAR_BASE_PREFETCH_H

/* For writing: a line that another processor has written, fetched for reading, would have to be asked for once more. */
static inline void near__prefetch_write(const void *line)
{
#if defined(__x86_64__)
    /* gcc makes it a fetch for reading unless it may use whatever newer processors have; older ones take this for a
     * nop */
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)line));
#else
    __builtin_prefetch(line, 1);
#endif
}

#endif
