/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "base/pages.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

size_t near__pages_round(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (size + page - 1) & ~(page - 1);
}

static void *map_anywhere(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* Of a huge page more than is wanted the upper end that begins where one does. */
static void *map_more(size_t size)
{
    char *memory = map_anywhere(size + NEAR_HUGE_PAGE);
    if (!memory)
        return NULL;
    size_t before = NEAR_HUGE_PAGE - ((uintptr_t)memory & (NEAR_HUGE_PAGE - 1));
    near__pages_unmap(memory, before); /* never nothing */
    if (before < NEAR_HUGE_PAGE)
        near__pages_unmap(memory + before + size, NEAR_HUGE_PAGE - before);
    return memory + before;
}

/* The kernel maps beside what it has mapped before, as a rule below it.  Pages that lie side by side are one mapping to
 * it, of which a process may have 65,530, and those are for threads and all of malloc, too: with a hole beside each of
 * them 128 GiB of huge pages would be that many. */
void *near__pages_map(size_t size)
{
    void *memory = map_anywhere(size);
    if (!memory || (uintptr_t)memory % NEAR_HUGE_PAGE == 0)
        return memory;
    near__pages_unmap(memory, size);
    return map_more(size);
}

void near__pages_unmap(void *memory, size_t size)
{
    (void)munmap(memory, size);
}
