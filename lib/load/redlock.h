/* SPDX-License-Identifier: BSD-3-Clause
 * A lock held on one or several independent servers: Redlock, of which the lock on one server is the smallest case. */
#ifndef NEAR_LOAD_REDLOCK_H
#define NEAR_LOAD_REDLOCK_H
#include <stddef.h>
#include <stdint.h>
#include "base/clock.h"
#include "nearcache.h"
#include "remote/remote.h"

#define NEAR_LOCK_TOKEN_SIZE 32 /* sixteen random bytes, hexadecimal */

/* The servers, by number.  run sets request->status in every case. */
struct near__lock_servers {
    void (*run)(void *arg, size_t server, struct near__request *request, int64_t deadline_ns);
    void *arg;
    size_t count;
};

struct near__lock {
    const struct near__clock *clock;
    struct near__lock_servers servers;
    const void *name;
    size_t name_size;
    near_lock_options options;
    char token[NEAR_LOCK_TOKEN_SIZE];
    int64_t valid_until_ns; /* 0: not held */
    uint64_t fence;
};

/* clock, servers, name and options are set and live as long as the lock; options are checked and complete. */
int near__lock_acquire(struct near__lock *lock, int64_t deadline_ns);
int near__lock_extend(struct near__lock *lock, uint32_t ttl_ms);
int near__lock_release(struct near__lock *lock);

#endif
