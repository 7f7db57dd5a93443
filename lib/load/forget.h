/* SPDX-License-Identifier: BSD-3-Clause
 * Keys that the remote tier, and with it every process, is to forget: tried again and again until it is known to have
 * happened. */
#ifndef NEAR_LOAD_FORGET_H
#define NEAR_LOAD_FORGET_H
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include "base/alloc.h"
#include "base/clock.h"

struct near__forget;

struct near__forget_config {
    const struct near__alloc *alloc;
    const struct near__clock *clock;
    uint32_t retry_min_ms, retry_max_ms;
    int (*invalidate)(void *arg, const void *key, size_t key_size); /* key NULL: everything; NEAR_OK: it has happened */
    int knows_all; /* invalidate can do that in the remote tier, too: then the list of keys needs not be long */
    void *arg;
    /* It has happened to what was added with this number, or a lower one.  Called with no lock held; it is to call
     * near__forget_drop.  1: that took it off; 0: it was added with a higher one meanwhile. */
    int (*forgotten)(void *arg, const void *key, size_t key_size, uint64_t number);
    void *forgotten_arg;
    _Atomic(uint64_t) *invalidated; /* counter */
};

int near__forget_open(const struct near__forget_config *config, struct near__forget **ret); /* NEAR_ERR_NOMEM */
int near__forget_start(struct near__forget *f);  /* the thread: from now on it is tried; NEAR_ERR_SYSTEM */
void near__forget_close(struct near__forget *f); /* NULL is fine; what is left is not done */
/* Cannot fail: without memory, or with too many keys where that helps, everything is to be forgotten.  key NULL:
 * everything.  Of several numbers the highest counts. */
void near__forget_add(struct near__forget *f, const void *key, size_t key_size, uint64_t number);
/* The number of the last call that added the key; 0: it is not to be forgotten. */
uint64_t near__forget_number(struct near__forget *f, const void *key, size_t key_size);
/* It has happened, up to that number; everything (key NULL) has, if knows_all, the keys with such numbers, too. */
void near__forget_drop(struct near__forget *f, const void *key, size_t key_size, uint64_t number);
uint64_t near__forget_pending(struct near__forget *f);
uint64_t near__forget_bytes(struct near__forget *f); /* memory of the list */
/* Tells what is pending, with its last number; fn is called under the list's lock. */
void near__forget_each(struct near__forget *f, void (*fn)(void *arg, const void *key, size_t key_size, uint64_t number),
                       void *arg);
/* 1: what was added with that number, or a lower one, has been forgotten, whatever was added since; 0: not by the
 * deadline. */
int near__forget_wait(struct near__forget *f, uint64_t number, int64_t deadline_ns);

/* min doubled with every attempt up to max, and of that a random part from a half to the whole, in ns. */
int64_t near__backoff_ns(uint32_t min_ms, uint32_t max_ms, uint32_t attempts);

#endif
