/* SPDX-License-Identifier: BSD-3-Clause
 * An allocator that fails on request and counts what is outstanding.
 *
 *     struct allocfail a;
 *     allocfail_init(&a);
 *     options.allocator = a.hooks;
 *     for (uint64_t n = 1;; n++) {            fail the n-th allocation until the operation needs fewer
 *         allocfail_at(&a, n);
 *         int r = operation();
 *         if (!allocfail_struck(&a)) break;
 *         assert_int_equal(r, NEAR_ERR_NOMEM);
 *         assert_int_equal(allocfail_blocks(&a), 0);
 *     }
 *
 * Threads: any number.  A block that is given back twice, or is not from here, or was written before its beginning,
 * ends the test by abort(). */
#ifndef NEAR_TESTS_ALLOCFAIL_H
#define NEAR_TESTS_ALLOCFAIL_H
#include <stdatomic.h>
#include <stdint.h>
#include "nearcache.h"

struct allocfail {
    near_allocator hooks;
    _Atomic(uint64_t) calls;     /* allocations and reallocations since allocfail_at or allocfail_from */
    _Atomic(uint64_t) fail_from; /* 0: none */
    _Atomic(uint64_t) fail_to;
    _Atomic(uint64_t) struck;
    _Atomic(int64_t) blocks, bytes, peak_bytes;
};

void allocfail_init(struct allocfail *a);
/* The n-th allocation from now fails (1: the next one), the later ones succeed; 0: none fails. */
void allocfail_at(struct allocfail *a, uint64_t n);
/* That one and all later ones fail. */
void allocfail_from(struct allocfail *a, uint64_t n);
/* How many failed since then. */
uint64_t allocfail_struck(const struct allocfail *a);
uint64_t allocfail_calls(const struct allocfail *a);
int64_t allocfail_blocks(const struct allocfail *a);     /* outstanding */
int64_t allocfail_bytes(const struct allocfail *a);      /* outstanding, as asked for */
int64_t allocfail_peak_bytes(const struct allocfail *a); /* the most since allocfail_init */

#endif
