/* SPDX-License-Identifier: BSD-3-Clause
 * What an ACL user of the server needs to be allowed, and how that is told. */
#ifndef NEAR_REMOTE_REDIS_RIGHTS_H
#define NEAR_REMOTE_REDIS_RIGHTS_H
#include "remote/redis.h"

/* The server has refused something.  The text names keys and channels, or, if keys is 0, the channels, as far as that
 * is what is missing and there is room for it; the log gets the whole rule, commands included.
 * Returns fault->status. */
int near__redis_denied(const struct near__redis *r, const struct near__fault *fault, int keys, near_error *error);

#endif
