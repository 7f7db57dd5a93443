/* SPDX-License-Identifier: BSD-3-Clause
 * Watches: threads that wait for a message about a key.
 *
 * A process that lost the race for a load waits for the winner's own message instead of asking again and again.  The
 * watch begins *before* the server is asked for the lease: if the answer is "held", then the fill, and its message, are
 * still to come, and the watch cannot miss it.  What may hide messages (a lost subscription, a hole) wakes
 * everybody. */
#ifndef NEAR_LOAD_WATCH_H
#define NEAR_LOAD_WATCH_H
#include <stddef.h>
#include <stdint.h>
#include "base/alloc.h"
#include "base/clock.h"

struct near__watches;
/* In the waiting thread's frame. */
struct near__watch {
    struct near__watch *next, **at; /* the stripe's */
    const void *key;
    size_t key_size;
    int heard; /* the stripe's */
};

int near__watches_create(const struct near__alloc *alloc, const struct near__clock *clock, struct near__watches **ret);
void near__watches_destroy(struct near__watches *watches); /* NULL is fine; no watch may be left */
/* key lives until the watch ends. */
void near__watch_begin(struct near__watches *watches, struct near__watch *watch, const void *key, size_t key_size);
void near__watch_end(struct near__watches *watches, struct near__watch *watch);
/* 1: a message about the key came since the last wait; 0: the deadline. */
int near__watch_wait(struct near__watches *watches, struct near__watch *watch, int64_t deadline_ns);
/* A message about a key, or about its lease (NEAR_LEASE_SUFFIX), was applied; NULL: any may have been missed.  Costs
 * one load while nobody watches. */
void near__watches_heard(struct near__watches *watches, const void *key, size_t key_size);

#endif
