/* SPDX-License-Identifier: BSD-3-Clause
 * Condition variables that wait by the library's clock. */
#ifndef NEAR_BASE_CONDITION_H
#define NEAR_BASE_CONDITION_H
#include <pthread.h>
#include <stdint.h>
#include "base/clock.h"

/* For near__condition_wait; pthread_cond_destroy ends it. */
void near__condition_init(pthread_cond_t *cond);
/* Waits, with the lock held, until the condition is signalled or it is at_ns by the clock (NEAR_NEVER: until it is
 * signalled); may return early.  Nobody signals that a virtual clock was moved, so that is looked at every few
 * milliseconds. */
void near__condition_wait(const struct near__clock *clock, pthread_cond_t *cond, pthread_mutex_t *lock, int64_t at_ns);

#endif
