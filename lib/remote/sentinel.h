/* SPDX-License-Identifier: BSD-3-Clause
 * Where the master is: sentinels are asked, one after the other, until one knows.
 *
 * A question belongs to one attempt to connect and is stepped by whoever drives that, without blocking.  The sentinel
 * that answered last is asked first next time, until somebody doubts what it said: a sentinel that is cut off from the
 * others goes on naming the old master. */
#ifndef NEAR_REMOTE_SENTINEL_H
#define NEAR_REMOTE_SENTINEL_H
#include <poll.h>
#include <stdint.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/uri.h"
#include "remote/fault.h"

struct near__descriptors;
struct near__question;
struct near__sentinels; /* shared by all attempts */
struct near__tls;

/* What is pointed to must outlive it.  NULL: out of memory. */
struct near__sentinels *near__sentinels_open(const struct near__uri *uri, const near_options *options,
                                             const struct near__alloc *alloc, const struct near__clock *clock,
                                             unsigned user_timeout_ms, struct near__tls *tls,
                                             struct near__descriptors *descriptors);
void near__sentinels_close(struct near__sentinels *s); /* NULL is fine */
/* What that one told led nowhere: another one is asked first, if it was still the first.  Any thread. */
void near__sentinels_doubt(struct near__sentinels *s, unsigned who);

/* Where the master is, and who says so. */
struct near__told {
    char host[NEAR_URI_HOST_SIZE];
    uint16_t port;
    unsigned who;
};

/* NULL: see fault. */
struct near__question *near__question_new(struct near__sentinels *s, int64_t deadline_ns, struct near__fault *fault);
void near__question_free(struct near__question *q); /* NULL is fine */
/* 1: *ret is filled; 0: not yet, see near__question_poll; -1: nobody knows it. */
int near__question_step(struct near__question *q, struct near__told *ret, struct near__fault *fault);
/* What to poll for.  Lowers *until_ns to when a step is due without any event. */
struct pollfd near__question_poll(const struct near__question *q, int64_t *until_ns);

#endif
