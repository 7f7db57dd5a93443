/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The prover: sends the heartbeats that the subscriber asks for.  It is a thread of its own because a heartbeat's reply
 * may be long in coming, and the subscriber must go on marking the local tier meanwhile. */
#include "coherence/proof.h"

#include <string.h>

/* Takes the heartbeat that is asked for; 0 when there is none. */
static int take_locked(struct near__coherence *c, struct near__request *ret, int64_t *ret_deadline_ns)
{
    if (!c->asked || c->stopping)
        return 0;
    c->asked = 0;
    c->running = 1;
    *ret = (struct near__request){
        .operation = NEAR_OP_PROVE,
        .number = (int64_t)c->attempt.nonce,
        .known = c->attempt.known,
        .body = c->private_name,
        .body_size = strlen(c->private_name),
    };
    *ret_deadline_ns = near__now(c->clock) + near__proof_patience_ns(c);
    return 1;
}

int near__prover_step(struct near__coherence *c, int wait)
{
    struct near__request request;
    int64_t deadline_ns;
    pthread_mutex_lock(&c->lock);
    while (wait && !c->asked && !c->stopping)
        near__coherence_wait_locked(c, NEAR_NEVER);
    int taken = take_locked(c, &request, &deadline_ns);
    pthread_mutex_unlock(&c->lock);
    if (!taken)
        return 0;
    near__remote_run(c->remote, &request, 1, deadline_ns);
    near__free(c->alloc, request.value_out);
    near__proof_answered(c, &request);
    return 1;
}
