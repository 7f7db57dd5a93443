/* SPDX-License-Identifier: BSD-3-Clause
 * The Redis implementation of remote.h: what its files share. */
#ifndef NEAR_REMOTE_REDIS_H
#define NEAR_REMOTE_REDIS_H
#include "remote/pool.h"
#include "remote/remote.h"
#include "remote/script.h"

struct near__redis {
    struct near__remote remote; /* first */
    struct near__host host;
    struct near__pool *pool;
    const char *prefix;
    size_t prefix_size;
    char *position_key, *channel;
    atomic_int no_script_flags; /* a server before 7; relaxed, a stale value costs one more exchange */
};

int near__redis_open(const struct near__remote_config *config, struct near__remote **ret, near_error *error);

/* redis_channel.c */
int near__redis_channel_open(struct near__remote *remote, const char *private_name, int64_t deadline_ns,
                             struct near__channel **ret, near_error *error);
void near__redis_channel_read(struct near__channel *channel, int64_t deadline_ns, struct near__channel_message *ret);
int near__redis_channel_ping(struct near__channel *channel, const char *nonce, int64_t deadline_ns);
void near__redis_channel_wake(struct near__channel *channel);
const char *near__redis_channel_server(struct near__channel *channel);
void near__redis_channel_close(struct near__channel *channel);

/* redis_admin.c */
int near__redis_check(struct near__remote *remote, int64_t deadline_ns, near_error *error);
int near__redis_scan(struct near__remote *remote, const char *pattern, char cursor[NEAR_SCAN_CURSOR],
                     int64_t deadline_ns, near__scan_fn fn, void *arg);
int near__redis_clear_keys(struct near__remote *remote, int64_t deadline_ns, uint64_t *ret_removed);

#endif
