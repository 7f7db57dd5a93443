/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/alloc.h"

#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void *libc_allocate(void *arg, size_t size)
{
    (void)arg;
    return malloc(size);
}

static void *libc_reallocate(void *arg, void *memory, size_t size)
{
    (void)arg;
    return realloc(memory, size);
}

static void libc_release(void *arg, void *memory)
{
    (void)arg;
    free(memory);
}

void near__alloc_init(struct near__alloc *alloc, const near_allocator *hooks)
{
    int given = hooks && hooks->allocate && hooks->reallocate && hooks->release;

    alloc->is_malloc = !given;
    if (given)
        alloc->hooks = *hooks;
    else
        alloc->hooks = (near_allocator){libc_allocate, libc_reallocate, libc_release, NULL};
}

void *near__alloc(const struct near__alloc *alloc, size_t size)
{
    return alloc->hooks.allocate(alloc->hooks.arg, size ? size : 1);
}

void *near__alloc_zero(const struct near__alloc *alloc, size_t size)
{
    if (alloc->is_malloc)
        return calloc(1, size ? size : 1); /* large blocks come zeroed from the kernel, untouched */
    void *memory = near__alloc(alloc, size);
    if (memory)
        memset(memory, 0, size);
    return memory;
}

void *near__realloc(const struct near__alloc *alloc, void *memory, size_t size)
{
    if (!memory)
        return near__alloc(alloc, size);
    return alloc->hooks.reallocate(alloc->hooks.arg, memory, size ? size : 1);
}

void near__free(const struct near__alloc *alloc, void *memory)
{
    if (memory)
        alloc->hooks.release(alloc->hooks.arg, memory);
}

char *near__strdup(const struct near__alloc *alloc, const char *text)
{
    return text ? near__memdup(alloc, text, strlen(text) + 1) : NULL;
}

void *near__memdup(const struct near__alloc *alloc, const void *bytes, size_t size)
{
    void *memory = near__alloc(alloc, size);
    if (memory && size)
        memcpy(memory, bytes, size);
    return memory;
}

size_t near__alloc_cost(const struct near__alloc *alloc, const void *memory, size_t size)
{
    if (alloc->is_malloc) /* malloc_usable_size only reads; its parameter lacks the const */
        return memory ? malloc_usable_size((void *)(uintptr_t)memory) + 8 : 0;
    return (size + 16 + 15) & ~(size_t)15;
}

void near__alloc_give_back(const struct near__alloc *alloc)
{
#ifdef __GLIBC__
    if (alloc->is_malloc)
        (void)malloc_trim(0);
#else
    (void)alloc;
#endif
}
