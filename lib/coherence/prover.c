/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The prover: sends the heartbeats that the subscriber asks for.  It is a thread of its own because a heartbeat's reply
 * may be long in coming, and the subscriber must go on marking the local tier meanwhile.  It also answers other
 * processes' barriers, for the same reason, tells writers what was held here (demand.c), and when there is nothing of
 * either kind to do it repairs what is suspect (repair.c). */
#include "coherence/proof.h"

#include <string.h>

enum { ANSWERS = 8 }; /* sent together */

/* Takes the heartbeat that is asked for; 0 when there is none. */
static size_t take_locked(struct near__coherence *c, struct near__request *ret)
{
    if (!c->asked || c->stopping)
        return 0;
    c->asked = 0;
    c->running = 1;
    /* acquire: written by the subscriber before it asked */
    c->asked_of = atomic_load_explicit(&c->server_id, memory_order_acquire);
    *ret = (struct near__request){
        .operation = NEAR_OP_PROVE,
        .number = (int64_t)c->attempt.nonce,
        .known = c->attempt.known,
        .body = c->private_name,
        .body_size = strlen(c->private_name),
        /* relaxed: written under the lock; rounded up, since somebody counts on it */
        .ttl_ms =
            (atomic_load_explicit(&c->gate->bound_ns, memory_order_relaxed) + NEAR_NS_PER_MS - 1) / NEAR_NS_PER_MS,
    };
    return 1;
}

/* Takes answers to barriers; their names go into `names`, since the queue moves on. */
static size_t take_answers_locked(struct near__coherence *c, struct near__request *ret, char names[][NEAR_NAME_SIZE])
{
    size_t count = c->answer_count < ANSWERS ? c->answer_count : ANSWERS;
    for (size_t i = 0; i < count; i++) {
        memcpy(names[i], c->answers[i].name, NEAR_NAME_SIZE);
        ret[i] = (struct near__request){
            .operation = NEAR_OP_ANSWER,
            .number = (int64_t)c->answers[i].roll,
            .body = names[i],
            .body_size = strlen(names[i]),
            .value = c->private_name,
            .value_size = strlen(c->private_name),
        };
    }
    c->answer_count -= (unsigned)count;
    memmove(c->answers, c->answers + count, c->answer_count * sizeof(*c->answers));
    return count;
}

/* With a heartbeat: what of others' writes was held here. */
static size_t take_reports_locked(struct near__coherence *c, struct near__request *ret,
                                  struct near__demand_report *reports)
{
    size_t count = near__demand_take_locked(c, reports, NEAR_DEMAND_REPORTS);
    for (size_t i = 0; i < count; i++)
        ret[i] = (struct near__request){
            .operation = NEAR_OP_ANSWER,
            .body = reports[i].name,
            .body_size = strlen(reports[i].name),
            .value = reports[i].bytes,
            .value_size = reports[i].size,
        };
    return count;
}

static int is_idle_locked(const struct near__coherence *c)
{
    return !c->asked && !c->answer_count && !c->stopping;
}

int near__prover_step(struct near__coherence *c, int wait)
{
    struct near__request requests[1 + ANSWERS + NEAR_DEMAND_REPORTS];
    struct near__demand_report reports[NEAR_DEMAND_REPORTS];
    char names[ANSWERS][NEAR_NAME_SIZE];
    pthread_mutex_lock(&c->lock);
    while (wait && is_idle_locked(c) && near__now(c->clock) < near__repair_due_locked(c))
        near__coherence_wait_locked(c, near__repair_due_locked(c));
    size_t proofs = take_locked(c, requests), count = proofs + take_answers_locked(c, requests + proofs, names);
    if (proofs)
        count += take_reports_locked(c, requests + count, reports);
    int repairs = !count && !c->stopping && near__now(c->clock) >= near__repair_due_locked(c);
    pthread_mutex_unlock(&c->lock);
    if (repairs)
        near__repair_step(c);
    if (!count)
        return repairs;
    near__remote_run(c->remote, requests, count, near__now(c->clock) + near__proof_patience_ns(c));
    if (proofs) {
        near__free(c->alloc, requests[0].value_out);
        near__proof_answered(c, &requests[0]);
    }
    return 1; /* an answer that is lost costs its asker time, no more */
}
