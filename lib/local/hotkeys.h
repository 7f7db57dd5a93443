/* SPDX-License-Identifier: BSD-3-Clause
 * Which keys are read most?  A sample of the reads, and counters for the keys that are frequent in it; the essay is in
 * hotkeys.c. */
#ifndef NEAR_LOCAL_HOTKEYS_H
#define NEAR_LOCAL_HOTKEYS_H
#include <stddef.h>
#include <stdint.h>
#include "nearcache.h"
#include "base/alloc.h"
#include "local/local.h"

/* ---------------------------------------------------------------- the sample: the reader's owner writes, one at a time
 * reads */

struct near__hotring;
size_t near__hotring_size(void); /* zeroed memory of that size, whole lines */

/* A read that has been counted: in the sample or not. */
void near__hotring_read(struct near__reader *reader, const void *key, size_t key_size, enum near__local_result result);

/* ---------------------------------------------------------------- the counters: one thread at a time */

struct near__hotkeys;

/* NULL: no memory. */
struct near__hotkeys *near__hotkeys_create(const struct near__alloc *alloc, uint32_t keys, size_t *ret_cost);
void near__hotkeys_destroy(const struct near__alloc *alloc, struct near__hotkeys *hot);

/* A read of the sample that stands for so many. */
void near__hotkeys_see(struct near__hotkeys *hot, const void *key, size_t key_size, uint64_t reads);
/* What a reader has noted; hits and other reads: of its thread, ever. */
void near__hotkeys_drain(struct near__hotkeys *hot, struct near__hotring *ring, uint64_t hits, uint64_t others);
/* The hottest, at most `most`; how many. */
size_t near__hotkeys_top(struct near__hotkeys *hot, size_t most, near_hot_key *ret_keys);

#endif
