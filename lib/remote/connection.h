/* SPDX-License-Identifier: BSD-3-Clause
 * A data connection that threads share: a queue of jobs, written and answered in order. */
#ifndef NEAR_REMOTE_CONNECTION_H
#define NEAR_REMOTE_CONNECTION_H
#include <pthread.h>
#include <stdint.h>
#include "remote/link.h"

enum { NEAR_CALL_REPLIES_MAX = 4 };

enum near__outcome {
    NEAR_CALL_PENDING = 0,
    NEAR_CALL_ANSWERED, /* every reply is there */
    NEAR_CALL_UNSENT,   /* no byte of it has left this process */
    NEAR_CALL_LOST      /* it may have reached the server; the answer will not come */
};
/* One or more commands whose replies belong together. */
struct near__call {
    uint64_t end[NEAR_CALL_REPLIES_MAX]; /* of each command's bytes in the job's output */
    unsigned replies, got;               /* replies: as many as commands */
    enum near__outcome outcome;
    struct near__reply *reply[NEAR_CALL_REPLIES_MAX]; /* the job's, near__reply_free them */
};
/* A command of the call has been written into the job's output, which has that size now. */
static inline void near__call_command(struct near__call *call, uint64_t end)
{
    call->end[call->replies++] = end;
}

/* Calls that are sent together.  The job and what its output refers to belong to the thread that runs it; the
 * connection lets go of them before near__connection_run returns.  Fields below the line: the connection's mutex. */
struct near__job {
    struct near__output output;
    struct near__call *calls;
    size_t count;
    int64_t deadline_ns;

    struct near__job *next, *previous;
    size_t answered;        /* calls that have all their replies */
    uint64_t skip;          /* replies before the first one of ours: of jobs that left without them */
    struct near__cursor at; /* of sending */
    uint64_t sent;
    int done, sleeps;
    pthread_cond_t wake; /* while sleeps */
    int64_t sent_ns;
    uint64_t server;  /* who answers */
    unsigned told_by; /* which sentinel said that he is the master; with server */
    int timed_out;
    struct near__fault fault; /* of the calls without an answer */
};

enum near__connection_state {
    NEAR_CONNECTION_OPENING, /* takes jobs; none is sent yet */
    NEAR_CONNECTION_READY,
    NEAR_CONNECTION_RETIRED, /* takes no new jobs; those under way may still be answered (R15) */
    NEAR_CONNECTION_DEAD
};
struct near__connection;

/* NULL: out of memory or descriptors, see fault.  The caller holds one reference. */
struct near__connection *near__connection_new(struct near__host *host, int64_t open_deadline_ns,
                                              struct near__fault *fault);
void near__connection_ref(struct near__connection *c);
void near__connection_unref(struct near__connection *c);

/* Runs a job: returns when each call has its outcome.  0 when the connection would not take it (nothing happened), 1
 * otherwise. */
int near__connection_run(struct near__connection *c, struct near__job *job);

enum near__connection_state near__connection_state(struct near__connection *c);
unsigned near__connection_load(struct near__connection *c);   /* jobs in the queue */
uint64_t near__connection_server(struct near__connection *c); /* label, once READY */
int64_t near__connection_opened_ns(struct near__connection *c);
int near__connection_was_ready(struct near__connection *c); /* whatever has become of it since */
/* 1 the first time after a job on it failed or timed out: it counts as one failure however many jobs suffered. */
int near__connection_blame(struct near__connection *c);
/* No new jobs. */
void near__connection_retire(struct near__connection *c);
/* Ends an attempt to connect that all its callers have left and whose time is over. */
void near__connection_expire(struct near__connection *c, int64_t now);
/* Everything ends with that fault. */
void near__connection_fail(struct near__connection *c, const struct near__fault *fault);

#endif
