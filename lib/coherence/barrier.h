/* SPDX-License-Identifier: BSD-3-Clause
 * A barrier under way, in three steps, so that tests can let everybody else work in between.  See barrier.c. */
#ifndef NEAR_COHERENCE_BARRIER_H
#define NEAR_COHERENCE_BARRIER_H
#include "coherence/proof.h"

/* A process of the list, as the last roll saw it. */
struct near__member {
    char name[NEAR_NAME_SIZE];
    uint64_t nonce; /* of its last heartbeat */
    int64_t bound_ms;
    int64_t since_ns; /* the nonce was seen then for the first time: whatever it proved began before */
};

/* One that a barrier waits for. */
struct near__awaited {
    char name[NEAR_NAME_SIZE];
    int64_t until_ns; /* from then on it has proved anew, or serves nothing */
    int answered;
};

/* In its caller's frame; every field but `next` is written under the coherence's lock. */
struct near__roll {
    struct near__roll *next;
    uint64_t id;
    struct near__buffer early; /* names of those whose answer came before the list */
    struct near__awaited *awaited;
    size_t count;
    int64_t settled_ns; /* from then on nobody serves who is not on the list */
    int64_t own_ns;     /* nor this process by a proof from before the question */
    int heard;          /* the question itself has come: this process has applied what was before it */
};

/* Asks everybody.  Blocks up to the deadline. */
void near__roll_begin(struct near__coherence *c, struct near__roll *roll, int64_t deadline_ns);
/* 1 when it is complete; otherwise who is missing, and when to look again if no answer comes. */
int near__roll_look_locked(const struct near__coherence *c, const struct near__roll *roll,
                           struct near__barrier_result *ret, int64_t *ret_due_ns);
void near__roll_end(struct near__coherence *c, struct near__roll *roll);

#endif
