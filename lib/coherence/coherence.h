/* SPDX-License-Identifier: BSD-3-Clause
 * Coherence: keeps one local tier in step with the remote tier's messages, and knows whether it is.
 *
 * Two threads.  The *subscriber* drives the channel: parses messages and marks the local tier, nothing else.  The
 * *prover* asks for proofs: a PING with a nonce on the channel and a heartbeat (a write that changes nothing, published
 * on the private channel with the position reached), at most one of each outstanding; when both have come back, the
 * gate's proved_ns becomes the earlier of their sending times (docs/design.md, section 2; R25, R26).
 *
 * One recovery path for everything that may have hidden a message (disconnect, gap, position going backwards, malformed
 * message, other server, lost position): the gate's proof is withdrawn at once; the next complete proof, on a proven
 * subscription, brings a position P.  If P is what the messages had reached and the server is the same, nothing was
 * missed; otherwise the watermark rises to P.  Then the proof stands.  The argument is at the head of coherence.c.
 * What is below the watermark then is compared with the remote tier, many keys at a time, by the prover (repair.c). */
#ifndef NEAR_COHERENCE_COHERENCE_H
#define NEAR_COHERENCE_COHERENCE_H
#include <stdint.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "coherence/message.h"
#include "local/local.h"
#include "remote/remote.h"

struct near__coherence;

struct near__coherence_config {
    const struct near__alloc *alloc;
    const struct near__clock *clock;
    const struct near__log *log;
    struct near__local *local;
    struct near__remote *remote;
    uint32_t bound_ms, backoff_min_ms, backoff_max_ms, connect_timeout_ms;
    uint32_t repair_rate; /* suspect entries compared with the remote tier a second; 0: they are dropped */
    uint64_t seed;        /* of jitter and ids; 0: random */
    int manual;           /* tests: no threads; near__coherence_step does their work */
    int tracking;         /* the remote reports foreign writes (options.track); the local tier is config.foreign */
    /* Called by the subscriber after a message about a key was applied; with key NULL when messages about any key may
     * have come or been missed.  NULL: nobody listens. */
    void (*heard)(void *arg, const void *key, size_t key_size);
    void *heard_arg;
};

int near__coherence_open(const struct near__coherence_config *config, struct near__coherence **ret, near_error *error);
/* Tells both threads to end.  What breaks from now on is our own doing and not logged: call it before
 * near__remote_interrupt. */
void near__coherence_stop(struct near__coherence *c);
/* After near__coherence_stop, when nothing is served any more: takes this process off the list of those that barriers
 * wait for, if there is one and the server is there.  Waits for a quarter of a second at most; before
 * near__remote_interrupt. */
void near__coherence_leave(struct near__coherence *c);
/* Stops and joins both threads.  They may be in the middle of a heartbeat or a connection attempt:
 * near__remote_interrupt ends it. */
void near__coherence_close(struct near__coherence *c);

/* A write id never used before. */
uint64_t near__coherence_next_write(struct near__coherence *c);
/* Builds the body of a message about one key (NULL, 0 for CLEAR).  Check b->failed. */
void near__coherence_body(struct near__coherence *c, enum near__message_operation operation, const void *key,
                          size_t key_size, struct near__buffer *b);
/* The same about several keys. */
void near__coherence_body_of(struct near__coherence *c, enum near__message_operation operation, const void *const *keys,
                             const size_t *key_sizes, size_t count, struct near__buffer *b);

/* The bodies of a batch of one operation, each about one key: they begin with the same near__request.body_shared
 * bytes. */
struct near__message near__coherence_batch(struct near__coherence *c, enum near__message_operation operation);
void near__coherence_body_in(const struct near__message *batch, const void *key, size_t key_size,
                             struct near__buffer *b);
#define NEAR_BODY_SHARED NEAR_MESSAGE_HEAD

/* Whether other processes are likely to hold the key, so that the value of its plain SET should travel with the message
 * (demand.c).  Call it once for each such write.  Threads: any.  Never waits. */
int near__coherence_wants_value(struct near__coherence *c, const void *key, size_t key_size);
/* The body of a message of a plain SET without its value, which asks who held the key. */
void near__coherence_body_asking(struct near__coherence *c, const void *key, size_t key_size, struct near__buffer *b);
/* The body of a message of a plain SET with the value that is written; ttl_ms -1: none. */
void near__coherence_body_value(struct near__coherence *c, const void *key, size_t key_size, const void *value,
                                size_t value_size, int64_t ttl_ms, struct near__buffer *b);

/* What was known when a command was sent: taken after the key's ticket, before the command goes out. */
struct near__mark {
    uint64_t highest;     /* position of the server, seen in replies and proofs */
    uint64_t incarnation; /* of the server's history; 0: nothing was proven yet */
};
struct near__mark near__coherence_mark(const struct near__coherence *c);

/* The position of a reply, in the local tier's terms (relative to the first one seen, so that 47 bits suffice); 0: it
 * has none that can be compared, because the server could not tell it, because another server answered than the one
 * subscribed to, or because the server's history broke meanwhile.  A reply below its mark is such a break: then
 * everything is suspect until the next proof.  Call it for every reply that carries a position, before its value is
 * used (R10). */
uint64_t near__coherence_position(struct near__coherence *c, struct near__mark before,
                                  const struct near__request *reply);

void near__coherence_set_bound(struct near__coherence *c, uint32_t bound_ms);
/* Waits until the gate is proven: NEAR_OK or NEAR_ERR_TIMEOUT with the last problem in error. */
int near__coherence_wait(struct near__coherence *c, int64_t deadline_ns, near_error *error);
/* Self-check of the subscription side with a message's round trip: NEAR_OK or the first problem. */
int near__coherence_check(struct near__coherence *c, int64_t deadline_ns, near_error *error);
/* A fence: waits for a proof whose attempt begins after the call, so that every write that was done before the call has
 * been applied here when it returns 1.  One proof serves everybody who waits.  0: it is no use to wait (nothing is
 * proven at present) or did not come until the deadline, or for longer than an attempt takes. */
int near__coherence_fence(struct near__coherence *c, int64_t deadline_ns);
/* A barrier: waits until no process of the prefix serves anything older than the writes that were done before the call.
 * 0 when the deadline comes first. */
struct near__barrier_result {
    uint32_t processes; /* that were asked; without this one */
    uint32_t missing;   /* that have not answered and may still serve */
    int unlisted;       /* there may be more */
};
int near__coherence_barrier(struct near__coherence *c, int64_t deadline_ns, struct near__barrier_result *ret);
/* Fills the coherence fields of stats. */
void near__coherence_stats(const struct near__coherence *c, near_stats *stats);

/* One step of both threads' work without blocking, as far as the remote tier does not block; only with config.manual,
 * from one thread. Returns 1 when it did something. */
int near__coherence_step(struct near__coherence *c);

#endif
