/* SPDX-License-Identifier: BSD-3-Clause
 * What the requests are, for those who learn from them (shadow.c, curve.c, hotkeys.c): the essay is in tap.c. */
#ifndef NEAR_LOCAL_TAP_H
#define NEAR_LOCAL_TAP_H
#include "local/curve.h"
#include "local/hotkeys.h"
#include "local/shadow.h"
#include "local/tier.h"

/* A request was seen and its hash is below local->tap_below.  size: of the entry, header and all; 0: there is none. */
void near__tap_note(struct near__reader *reader, uint64_t hash, enum near__seen seen, uint64_t size);

/* A read that has been counted, with the entry it was given or NULL: noted if somebody wants it. */
void near__tap_read(const struct near__local *local, struct near__reader *reader, const void *key, size_t key_size,
                    const struct near__entry *entry, enum near__local_result result);

/* The whole cost when nothing learns from this key: one comparison. */
static inline int near__tap_wants(const struct near__local *local, uint64_t hash)
{
    /* either threshold is good for a key that lies between them */
    return near__brief_is_below(hash, &local->tap_below);
}

#endif
