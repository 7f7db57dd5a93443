/* SPDX-License-Identifier: BSD-3-Clause
 * What a source needs beside the caller's own thread: one writer per key at a time, the queue of updates that the
 * source is still to get, and the list of keys that the remote tier is still to forget.  See behind.c. */
#ifndef NEAR_LOAD_BEHIND_H
#define NEAR_LOAD_BEHIND_H
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "nearcache.h"

struct near__behind;

/* Counters of all sources of a cache; relaxed statistics. */
struct near__behind_counters {
    _Atomic(uint64_t) updates, stored, coalesced, batches, retried, dead_letters, refused, invalidated;
};
/* Gauges of one source, added up by the caller. */
struct near__behind_gauges {
    uint64_t queued, queued_bytes, invalidations, journal_bytes;
    int64_t lag_ms; /* age of the oldest update that the source does not have */
};

struct near__behind_config {
    const struct near__alloc *alloc;
    const struct near__clock *clock;
    const struct near__log *log;
    struct near__behind_counters *counters;
    const near_source_options *options; /* checked and complete; texts live until close */
    /* Makes everybody forget a key, or everything with key NULL; NEAR_OK when that is known to have happened.  Called
     * by the library's threads, may take as long as a call to the remote tier. */
    int (*invalidate)(void *arg, const void *key, size_t key_size);
    int knows_all; /* see near__forget_config */
    /* A number that changes when the remote tier may have lost keys.  While it stays the same none was lost before
     * *ret_proved_ns.  Called under a lock: waits for nothing. */
    uint64_t (*losses)(void *arg, int64_t *ret_proved_ns);
    void *arg;
    uint32_t store_timeout_ms;
};

/* Replays the journal if there is one, and starts the threads.  NEAR_OK, NEAR_ERR_NOMEM, NEAR_ERR_JOURNAL,
 * NEAR_ERR_SYSTEM. */
int near__behind_open(const struct near__behind_config *config, struct near__behind **ret, near_error *error);
/* Everything stored and forgotten, by the deadline?  NEAR_OK or NEAR_ERR_TIMEOUT. */
int near__behind_flush(struct near__behind *b, int64_t deadline_ns);
/* Whether what is not yet done survives near__behind_close; if so, that is to follow. */
int near__behind_is_safe(struct near__behind *b);
/* No call may be under way; waits for a store callback that runs. */
void near__behind_close(struct near__behind *b);
/* In a child after fork: closes what is open, and touches nothing else. */
void near__behind_abandon(const struct near__behind *b);

/* One writer of a key at a time: NEAR_OK, NEAR_ERR_TIMEOUT, NEAR_ERR_NOMEM. */
struct near__behind_gate;
int near__behind_enter(struct near__behind *b, const void *key, size_t key_size, int64_t deadline_ns,
                       struct near__behind_gate **ret);
/* value_until_ns: so long at least the remote tier has the value that the writer put into the queue, NEAR_NEVER:
 * without an end; 0: it has it not. */
void near__behind_leave(struct near__behind *b, struct near__behind_gate *gate, int64_t value_until_ns);

/* Accepts an update: in the queue, and in the journal as its policy says.  NEAR_OK, NEAR_ERR_QUEUE_FULL at the
 * deadline, NEAR_ERR_TOO_LARGE, NEAR_ERR_NOMEM, NEAR_ERR_JOURNAL. */
int near__behind_put(struct near__behind *b, uint32_t operation, const void *key, size_t key_size, const void *value,
                     size_t value_size, int64_t deadline_ns);
/* The next update's number, for one that is stored at once. */
uint64_t near__behind_sequence(struct near__behind *b);
/* The remote tier may have something else than the source: it is to forget the key now, and again when the queue's
 * update for it has reached the source. */
void near__behind_forget(struct near__behind *b, const void *key, size_t key_size);
/* The newest update of the key that is not known to be stored: 1 and up to capacity bytes, or 0. */
int near__behind_peek(struct near__behind *b, const void *key, size_t key_size, void *buffer, size_t capacity,
                      size_t *ret_size, uint32_t *ret_operation);
void near__behind_gauges(struct near__behind *b, struct near__behind_gauges *ret);

/* Calls the store for updates, and makes sense of what it returns: every status is NEAR_OK or an error afterwards. */
void near__behind_call_store(const near_source_options *options, near_update *updates, size_t count,
                             uint32_t timeout_ms, int *ret_whole);

#endif
