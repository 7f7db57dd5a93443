/* SPDX-License-Identifier: BSD-3-Clause
 * Memory straight from the kernel, in whole pages that begin where a huge page does. */
#ifndef NEAR_BASE_PAGES_H
#define NEAR_BASE_PAGES_H
#include <stddef.h>

#define NEAR_HUGE_PAGE ((size_t)2 << 20)

size_t near__pages_round(size_t size); /* up to whole pages */
/* Zeroes, in memory from the first touch on; size is rounded up already.  NULL: the kernel has none. */
void *near__pages_map(size_t size);
void near__pages_unmap(void *memory, size_t size);

#endif
