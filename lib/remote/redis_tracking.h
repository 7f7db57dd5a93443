/* SPDX-License-Identifier: BSD-3-Clause
 * The control connection of track=bcast: see redis_tracking.c.  Belongs to the thread that drives its channel. */
#ifndef NEAR_REMOTE_REDIS_TRACKING_H
#define NEAR_REMOTE_REDIS_TRACKING_H
#include "remote/redis.h"

#define NEAR_TRACKING_CHANNEL "__redis__:invalidate"

struct near__tracking {
    struct near__redis *redis;
    struct near__link link;
    int64_t target; /* the subscription's id on the server */
    int asked;      /* TRACKINGINFO is under way */
};

struct near__tracking *near__tracking_create(struct near__redis *r, int64_t deadline_ns); /* NULL: no memory */
void near__tracking_destroy(struct near__tracking *t);                                    /* NULL is fine */
/* Steps 1, and 3 with 4, of the order at the head of redis_tracking.c.  NEAR_OK or the fault's status. */
int near__tracking_aim(struct near__tracking *t, struct near__link *subscription, int64_t deadline_ns,
                       struct near__fault *fault);
int near__tracking_begin(struct near__tracking *t, uint64_t server, int64_t deadline_ns, struct near__fault *fault);
/* Asks whether tracking is still in force. */
int near__tracking_ask(struct near__tracking *t, int64_t deadline_ns, struct near__fault *fault);
/* Looks at what has been received; sets the fault when the connection is of no more use. */
void near__tracking_read(struct near__tracking *t, struct near__fault *fault);
/* The last question has been answered, with yes. */
int near__tracking_vouches(const struct near__tracking *t);
/* The reported key without the prefix; 0: it is not one of ours. */
int near__tracking_key(const struct near__redis *r, const struct near__reply *key, const void **ret, size_t *ret_size);

#endif
