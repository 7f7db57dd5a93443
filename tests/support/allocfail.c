/* SPDX-License-Identifier: BSD-3-Clause
 * Each block has a head with its size and a mark.  The counters are relaxed: they are sums, read when the threads that
 * moved them have been joined or are known to be idle. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* explicit_bzero */
#endif
#include "support/allocfail.h"
#include <stdlib.h>
#include <string.h>

#define MARK_LIVE UINT64_C(0x6e6561726c697665)
#define MARK_DEAD UINT64_C(0x6e65617264656164)

struct head {
    uint64_t mark;
    uint64_t size;
};
_Static_assert(sizeof(struct head) == 16, "blocks keep malloc's alignment");

static int strikes(struct allocfail *a)
{
    uint64_t call = atomic_fetch_add_explicit(&a->calls, 1, memory_order_relaxed) + 1;
    uint64_t from = atomic_load_explicit(&a->fail_from, memory_order_relaxed);
    if (from == 0 || call < from || call > atomic_load_explicit(&a->fail_to, memory_order_relaxed))
        return 0;
    atomic_fetch_add_explicit(&a->struck, 1, memory_order_relaxed);
    return 1;
}

static void account(struct allocfail *a, int64_t blocks, int64_t bytes)
{
    atomic_fetch_add_explicit(&a->blocks, blocks, memory_order_relaxed);
    int64_t now = atomic_fetch_add_explicit(&a->bytes, bytes, memory_order_relaxed) + bytes;
    int64_t peak = atomic_load_explicit(&a->peak_bytes, memory_order_relaxed);
    while (now > peak && !atomic_compare_exchange_weak_explicit(&a->peak_bytes, &peak, now, memory_order_relaxed,
                                                                memory_order_relaxed))
        ;
}

static void *hook_allocate(void *arg, size_t size)
{
    struct allocfail *a = arg;
    if (strikes(a) || size > SIZE_MAX - sizeof(struct head))
        return NULL;
    struct head *h = malloc(sizeof *h + size);
    if (!h)
        return NULL;
    *h = (struct head){.mark = MARK_LIVE, .size = size};
    memset(h + 1, 0xa5, size); /* nobody may count on zeroes */
    account(a, 1, (int64_t)size);
    return h + 1;
}

static struct head *head_of(void *memory)
{
    struct head *h = (struct head *)memory - 1;
    if (h->mark != MARK_LIVE)
        abort();
    return h;
}

static void hook_release(void *arg, void *memory)
{
    if (!memory)
        return;
    struct head *h = head_of(memory);
    account(arg, -1, -(int64_t)h->size);
    explicit_bzero(h + 1, h->size); /* nobody may count on what was there; memset would be left out before free */
    h->mark = MARK_DEAD;
    free(h);
}

/* Always moves the block, so that a pointer kept across a reallocation is found by the sanitizer. */
static void *hook_reallocate(void *arg, void *memory, size_t size)
{
    void *moved = hook_allocate(arg, size);
    if (!moved || !memory)
        return moved;
    struct head *h = head_of(memory);
    memcpy(moved, memory, h->size < size ? h->size : size);
    hook_release(arg, memory);
    return moved;
}

void allocfail_init(struct allocfail *a)
{
    memset(a, 0, sizeof *a);
    a->hooks =
        (near_allocator){.allocate = hook_allocate, .reallocate = hook_reallocate, .release = hook_release, .arg = a};
}

static void arm(struct allocfail *a, uint64_t from, uint64_t to)
{
    atomic_store(&a->fail_from, 0); /* nothing may fail while the numbers below change */
    atomic_store(&a->calls, 0);
    atomic_store(&a->struck, 0);
    atomic_store(&a->fail_to, to);
    atomic_store(&a->fail_from, from);
}

void allocfail_at(struct allocfail *a, uint64_t n)
{
    arm(a, n, n);
}
void allocfail_from(struct allocfail *a, uint64_t n)
{
    arm(a, n, UINT64_MAX);
}
uint64_t allocfail_struck(const struct allocfail *a)
{
    return atomic_load(&a->struck);
}
uint64_t allocfail_calls(const struct allocfail *a)
{
    return atomic_load(&a->calls);
}
int64_t allocfail_blocks(const struct allocfail *a)
{
    return atomic_load(&a->blocks);
}
int64_t allocfail_bytes(const struct allocfail *a)
{
    return atomic_load(&a->bytes);
}
int64_t allocfail_peak_bytes(const struct allocfail *a)
{
    return atomic_load(&a->peak_bytes);
}
