/* SPDX-License-Identifier: BSD-3-Clause
 * A private redis-server on a unix socket in a folder of its own, which saves nothing unless it is told to.  A small
 * process watches over both and removes them when this program ends, in whatever way. */
#ifndef NEAR_BENCH_REDIS_H
#define NEAR_BENCH_REDIS_H
#include <sys/types.h>

struct bench_redis {
    char folder[88], socket[108], uri[128];
    int leash; /* the watching process reads its other end */
    pid_t watcher;
};

/* 0, or -1 with a text in error.  Before this process has threads. */
int bench_redis_start(struct bench_redis *redis, char *error, size_t capacity);
void bench_redis_stop(struct bench_redis *redis);
/* It ends at once, and what it has not saved is lost; starts again, with what it has saved. */
void bench_redis_kill(struct bench_redis *redis);
int bench_redis_revive(struct bench_redis *redis, char *error, size_t capacity); /* as bench_redis_start */

#endif
