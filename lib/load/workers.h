/* SPDX-License-Identifier: BSD-3-Clause
 * The threads that run loaders, so that every reader can leave a load at its own deadline.
 *
 * Threads are started when a job finds none idle, up to a limit, and stay until the cache is closed; jobs beyond wait
 * in the order in which they came.  All signals are blocked in them. */
#ifndef NEAR_LOAD_WORKERS_H
#define NEAR_LOAD_WORKERS_H
#include <stdint.h>
#include "base/alloc.h"

struct near__workers;
struct near__job {
    struct near__job *next;
    void (*run)(struct near__job *job); /* frees the job */
    /* the job is in the queue, and nobody has taken it yet; under the queue's mutex */
    void (*queued)(struct near__job *job);
};

int near__workers_create(const struct near__alloc *alloc, uint32_t threads_max, struct near__workers **ret);
/* Joins the threads; no job may be waiting or come any more.  NULL is fine. */
void near__workers_destroy(struct near__workers *workers);
/* Hands a job over.  NEAR_OK; NEAR_ERR_SYSTEM when there is no thread and none can be started (the job is the
 * caller's). */
int near__workers_run(struct near__workers *workers, struct near__job *job);
/* Takes the first job for which is(job, arg) holds out of the queue, for the caller to run; NULL: there is none. */
struct near__job *near__workers_take(struct near__workers *workers,
                                     int (*is)(const struct near__job *job, const void *arg), const void *arg);
/* Whether the calling thread is a worker of any cache: what it loads itself it must not wait for in the queue, nor for
 * what others have put there: all workers might be waiting, and nobody left to do it. */
int near__workers_inside(void);

#endif
