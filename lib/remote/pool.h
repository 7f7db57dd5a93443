/* SPDX-License-Identifier: BSD-3-Clause
 * The data connections to one server: which one a job goes to, when to connect again, when to stop trying. */
#ifndef NEAR_REMOTE_POOL_H
#define NEAR_REMOTE_POOL_H
#include "remote/connection.h"

struct near__pool;

/* NEAR_OK or NEAR_ERR_NOMEM. */
int near__pool_open(struct near__host *host, struct near__pool **ret);
void near__pool_close(struct near__pool *p); /* no job may be under way; NULL is fine */

/* Runs a job on some connection; each call has its outcome afterwards.  Returns 1 when what is UNSENT is worth another
 * try before the deadline (the connection broke under it), 0 otherwise; job->fault says why in both cases. */
int near__pool_run(struct near__pool *p, struct near__job *job);

/* Ends what is under way with NEAR_ERR_CLOSED; host->closing is set already. */
void near__pool_interrupt(struct near__pool *p);
/* The server has changed its part (READONLY, LOADING): connections made so far are not to be used any more.  Does
 * nothing for a while after it has done so. */
void near__pool_renew(struct near__pool *p);
/* A subscription now knows the server by that label: connections made before that carry another one are not used any
 * more, and a pause for a dead line is over. */
void near__pool_expect(struct near__pool *p, uint64_t server);
int near__pool_breaker_open(struct near__pool *p);

#endif
