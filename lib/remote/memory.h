/* SPDX-License-Identifier: BSD-3-Clause
 * memory://NAME: a store inside the process with Redis's semantics, and the faults that tests inject into it.
 * Everything a real server can do to us can be done here on purpose, one step at a time. */
#ifndef NEAR_REMOTE_MEMORY_H
#define NEAR_REMOTE_MEMORY_H
#include "remote/remote.h"

struct near__memory_store; /* shared by every cache that names it; lives while one does */

int near__memory_open(const struct near__remote_config *config, struct near__remote **ret, near_error *error);

/* The store behind a name, made if need be; give it back with near__memory_unref. */
struct near__memory_store *near__memory_ref(const char *name, const struct near__alloc *alloc,
                                            const struct near__clock *clock);
void near__memory_unref(struct near__memory_store *store);

/* What a fault strikes. */
enum near__memory_fault {
    NEAR_FAULT_NONE = 0,
    /* requests run, their replies wait until released (threads wait up to their deadlines) */
    NEAR_FAULT_HOLD_REPLIES,
    /* requests wait before they run; those whose caller gives up still run at release (R14) */
    NEAR_FAULT_HOLD_REQUESTS,
    NEAR_FAULT_HOLD_MESSAGES, /* messages queue up undelivered; PONGs queue behind them */
    NEAR_FAULT_DROP_MESSAGES, /* messages on the shared channel vanish */
    NEAR_FAULT_DROP_REPLIES,  /* requests run, the reply is lost and the connection with it */
    NEAR_FAULT_REFUSE,        /* connections and subscriptions are refused */
    /* nothing answers (what is sent is lost), nothing is delivered until it is over, nothing is closed */
    NEAR_FAULT_SILENCE,
    NEAR_FAULT_INEXACT, /* a FETCH finds that the position moved while it read (it is atomic here otherwise) */
    NEAR_FAULT_MAX_
};
/* Switches a fault on for the next `count` operations that it strikes (-1: until switched off), or off with count 0
 * (what was held goes on, in order; held requests run before this returns).  operation 0: every operation, and with
 * count 0 the fault is off altogether; otherwise only that near__operation, beside those set before.  A message counts
 * once, however many channels get it, and is of the operation that published it; DROP_MESSAGES strikes heartbeats
 * (NEAR_OP_PROVE) only when it names them. */
void near__memory_fault(struct near__memory_store *store, enum near__memory_fault fault, int operation, int count);
/* How many replies, requests or messages are held now; near__memory_wait_held returns 0 when at least n are (−1 at the
 * time-out). */
int near__memory_held(struct near__memory_store *store, enum near__memory_fault fault);
int near__memory_wait_held(struct near__memory_store *store, enum near__memory_fault fault, int n, int timeout_ms);
/* Lets exactly one held thing go on: the oldest. */
void near__memory_release_one(struct near__memory_store *store, enum near__memory_fault fault);
/* For single-threaded simulations, where nobody could move a virtual clock or release anything meanwhile: whatever
 * would have to wait ends at once, as at its deadline. */
void near__memory_impatient(struct near__memory_store *store, int on);
/* The next `count` requests of that kind (0: any) answer with this status, without being run. */
void near__memory_error(struct near__memory_store *store, int operation, int status, int count);
void near__memory_disconnect_channels(struct near__memory_store *store);
void near__memory_duplicate_next_message(struct near__memory_store *store);
void near__memory_inject_message(struct near__memory_store *store, const void *payload, size_t size);
/* As the commands: no message, no position. */
void near__memory_flushall(struct near__memory_store *store);
void near__memory_foreign_set(struct near__memory_store *store, const void *key, size_t key_size, const void *value,
                              size_t value_size); /* key with prefix, as redis-cli would */
void near__memory_foreign_del(struct near__memory_store *store, const void *key, size_t key_size);
/* options.track.  What is expired or evicted is not reported here (a copy's own time to live covers the former).
 *
 * Redis sends reports at the end of a turn of its event loop, after the PONGs of that turn (R26).  With turns on,
 * reports wait for near__memory_turn, and a PING sent in a turn is read in the next one; unless another one was unread
 * when the turn began: then both are read in this turn, before its reports go out. */
void near__memory_turns(struct near__memory_store *store, int on);
void near__memory_turn(struct near__memory_store *store);
/* The server ceases to report, and nobody is told: the control connection is gone on its side alone (R39, R41). */
void near__memory_stop_tracking(struct near__memory_store *store);
/* A restart: channels are lost, the identity changes; with data_loss everything written since near__memory_snapshot is
 * gone, positions included.  Held requests die with their connections; held replies are in our own socket already and
 * stay. */
void near__memory_snapshot(struct near__memory_store *store);
void near__memory_restart(struct near__memory_store *store, int data_loss);
/* What is there, for assertions: 1 and a copy in buffer, or 0.  key with prefix. */
int near__memory_peek(struct near__memory_store *store, const void *key, size_t key_size, void *buffer, size_t capacity,
                      size_t *ret_size);
uint64_t near__memory_position(struct near__memory_store *store, const char *prefix);
void near__memory_set_position(struct near__memory_store *store, const char *prefix, uint64_t position);
uint64_t near__memory_requests(struct near__memory_store *store, int operation); /* how many ran; 0: all */

#endif
