/* SPDX-License-Identifier: BSD-3-Clause
 * Allocation through the caller's hooks.  Every cache carries one struct near__alloc; nothing in the library
 * calls malloc directly, so that tests can fail the n-th allocation. */
#ifndef NEAR_BASE_ALLOC_H
#define NEAR_BASE_ALLOC_H
#include <stddef.h>
#include "nearcache.h"

struct near__alloc {
    near_allocator hooks; /* all set after near__alloc_init */
    int is_malloc;        /* hooks are the C library's: malloc_usable_size tells true sizes */
};

/* hooks NULL or all members NULL: the C library's. */
void near__alloc_init(struct near__alloc *alloc, const near_allocator *hooks);
void *near__alloc(const struct near__alloc *alloc, size_t size); /* NULL on failure; size 0 is made 1 */
void *near__alloc_zero(const struct near__alloc *alloc, size_t size);
void *near__realloc(const struct near__alloc *alloc, void *memory, size_t size);
void near__free(const struct near__alloc *alloc, void *memory);        /* NULL is fine */
char *near__strdup(const struct near__alloc *alloc, const char *text); /* NULL for NULL */
void *near__memdup(const struct near__alloc *alloc, const void *bytes, size_t size);
/* What the block really costs, header included: usable size + 8 for malloc, size + 16 rounded up otherwise. */
size_t near__alloc_cost(const struct near__alloc *alloc, const void *memory, size_t size);

/* Gives free memory of the C library's heaps back to the system as far as it can; may take milliseconds, and other
 * threads that allocate wait meanwhile.  With the caller's hooks, and C libraries that have no such call, nothing. */
void near__alloc_give_back(const struct near__alloc *alloc);

#endif
