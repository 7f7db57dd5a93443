/* SPDX-License-Identifier: BSD-3-Clause
 * The list of a prefix's processes, as the server keeps it for barriers (coherence/barrier.c).
 *
 * A hash beside the keys: "epoch" has a number that is new with every new list; each other field is a process (the name
 * of its private channel) with "<bound in ms>:<nonce of its last heartbeat>".  It exists only where barriers are used,
 * and heartbeats write into it only when it exists.  Here it is text: names and values in turn, each followed by a
 * blank. */
#ifndef NEAR_REMOTE_MEMBERS_H
#define NEAR_REMOTE_MEMBERS_H
#include <stddef.h>
#include "base/buffer.h"

#define NEAR_MEMBERS_NAME ":nearcache-members" /* behind the prefix */
#define NEAR_MEMBERS_EPOCH "epoch"
#define NEAR_MEMBERS_LIFE_MS INT64_C(3600000) /* without barriers the list goes, and with it what dead processes left */

struct near__word {
    const char *at;
    size_t size;
};

/* The next name and its value from *cursor (at first 0) on; 0: that was all. */
int near__members_next(const char *text, size_t size, size_t *cursor, struct near__word *ret_name,
                       struct near__word *ret_value);
int near__word_is(struct near__word word, const void *bytes, size_t size);
/* Decimal digits alone, at most 2^63 - 1; 0, or -1. */
int near__word_number(struct near__word word, uint64_t *ret);
/* Appends a pair. */
void near__members_append(struct near__buffer *b, struct near__word name, struct near__word value);

#endif
