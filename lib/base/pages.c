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

/* A huge page more is mapped, and what is beside it unmapped. */
void *near__pages_map(size_t size)
{
    char *memory =
        mmap(NULL, size + NEAR_HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    size_t before = (size_t)(0 - (uintptr_t)memory) & (NEAR_HUGE_PAGE - 1);
    if (before)
        near__pages_unmap(memory, before);
    /* never nothing: before is less than a huge page */
    near__pages_unmap(memory + before + size, NEAR_HUGE_PAGE - before);
    return memory + before;
}

void near__pages_unmap(void *memory, size_t size)
{
    (void)munmap(memory, size);
}
