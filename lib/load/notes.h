/* SPDX-License-Identifier: BSD-3-Clause
 * Notes about keys that have no value to keep: absent at the source, being loaded elsewhere, failed a moment ago.
 *
 * A small table of fixed size, the notes' own share of the local budget: absence cannot push values out.  A note tells
 * the position at which it was true and holds while nothing newer is known of the key (the same rules as for an entry:
 * floor not above it, generation unchanged, not below the watermark), so whatever creates the key ends it (R19).  A
 * note of a long key has its digest. */
#ifndef NEAR_LOAD_NOTES_H
#define NEAR_LOAD_NOTES_H
#include <stddef.h>
#include <stdint.h>
#include "base/alloc.h"
#include "local/local.h"

enum near__note {
    NEAR_NOTE_NONE = 0,
    NEAR_NOTE_ABSENT, /* the source has no such key */
    NEAR_NOTE_PAUSE   /* do not try to refresh before the note ends: somebody does, or it has just failed */
};

struct near__notes;
/* What fits into `bytes`, at least one bucket. */
int near__notes_create(const struct near__alloc *alloc, struct near__local *local, size_t bytes,
                       struct near__notes **ret);
void near__notes_destroy(struct near__notes *notes); /* NULL is fine */
/* True at `position` (local terms), learnt by a request sent when the key's ticket was `ticket`, until ends_ns. */
void near__notes_put(struct near__notes *notes, const void *key, size_t key_size, enum near__note what,
                     struct near__ticket ticket, uint64_t position, int64_t ends_ns);
/* now: the key's ticket, taken by the caller just before. */
enum near__note near__notes_find(struct near__notes *notes, const void *key, size_t key_size, struct near__ticket now,
                                 int64_t now_ns);

#endif
