/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The subscriber: drives the channel, parses messages and marks the local tier, nothing else (R28, R29).  It alone
 * reads, PINGs, opens and closes the channel, so everything that comes out of it is handled in the order in which the
 * server put it in. */
#include "coherence/proof.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mutant.h"
#include "nearcache.h"

/* ---------------------------------------------------------------- messages */

/* Tells who waits for a message, after it was applied. */
static void tell(struct near__coherence *c, const void *key, size_t key_size)
{
    if (c->heard)
        c->heard(c->heard_arg, key, key_size);
}

/* Whether what a message tells may be kept at its position: then that position counts as seen, as a reply's does ([3]
 * in coherence.c), so that after a break of the server's history the next proof is above it.  Under the lock, so that
 * no break is noticed between. */
static int believe(struct near__coherence *c, uint64_t position)
{
    pthread_mutex_lock(&c->lock);
    int good = c->suspicion == 0;
    if (good)
        near__coherence_raise_highest(c, position);
    pthread_mutex_unlock(&c->lock);
    return good;
}

/* A value that travels with its message takes the place of an older copy; who has none is only told.  Its position
 * orders it like a reply's (I1 to I3).  The time to live counts from the last instant known to be before the write: the
 * sending of the last heartbeat that came before it on this stream (R20). */
static int keep_value(struct near__coherence *c, const struct near__message *m, const void *key, size_t key_size,
                      uint64_t relative)
{
    if (!m->has_value || m->operation != NEAR_MESSAGE_SET || m->key_count != 1 || !relative || !c->heard_ns)
        return 0;
    int64_t since_ns = NEAR_MUTANT(VALUE_FROM_ARRIVAL) ? near__now(c->clock) : c->heard_ns;
    uint64_t position = relative + (NEAR_MUTANT(VALUE_NEWER) ? 1000 : 0);
    struct near__ticket ticket = near__local_ticket(c->local, key, key_size); /* before the look at what is there */
    struct near__reader *reader = near__local_reader(c->local);
    if (!reader || !believe(c, m->position) ||
        !near__local_renew(c->local, reader, ticket, key, key_size, m->value, m->value_size, position, m->ttl_ms,
                           since_ns))
        return 0;
    near__coherence_add(&c->messages_kept);
    return 1;
}

static void apply_keys(struct near__coherence *c, const struct near__message *m, uint64_t relative)
{
    const unsigned char *cursor = NULL;
    const void *key;
    size_t key_size;
    while (near__message_next_key(m, &cursor, &key, &key_size) &&
           !(NEAR_MUTANT(EXPIRE_IGNORED) && m->operation == NEAR_MESSAGE_EXPIRE)) {
        int went = !keep_value(c, m, key, key_size, relative) &&
                   near__local_invalidate(c->local, key, key_size, relative, NEAR_CAUSE_MESSAGE) > 0;
        if (m->asks)
            near__demand_note(c, m->sender, key, key_size, went);
        tell(c, key, key_size);
    }
}

/* Everything that the message makes old goes; relative 0: it cannot be ordered and is treated as newer than everything
 * (I5).  CLEAR raises the watermark: what was read after it stays, its own sender's copies included; what is below is
 * dead, so the first to be evicted, and the keeper sweeps it. */
static void apply(struct near__coherence *c, const struct near__message *m, uint64_t relative)
{
    if (m->operation == NEAR_MESSAGE_BARRIER)
        return;
    if (m->operation != NEAR_MESSAGE_CLEAR) {
        apply_keys(c, m, relative);
        return;
    }
    if (relative)
        near__local_raise_watermark(c->local, relative);
    else
        near__local_clear(c->local);
    tell(c, NULL, 0);
}

/* Compares the message's position with its predecessor's (I6).  Returns why it is suspicious, or 0.  Only the position
 * of a message that follows a proof without a hole is believed. */
static unsigned follow(struct near__coherence *c, uint64_t position, uint64_t *ret_relative)
{
    uint64_t last = c->last;
    *ret_relative = 0;
    if (position == 0) /* no server of ours writes that; it may hide anything */
        return NEAR_SUSPECT_MESSAGE;
    c->last = position;
    if (last != 0 && position != last + 1 && !NEAR_MUTANT(HOLES_IGNORED)) {
        c->anchored = 0;
        return position > last ? NEAR_SUSPECT_GAP : NEAR_SUSPECT_ORDER;
    }
    if (c->anchored) {
        *ret_relative = near__coherence_relative(c, position);
        c->announced = position;
    }
    return 0;
}

static void measure(struct near__coherence *c, const struct near__message *m)
{
    int64_t now = near__now(c->clock), delay = now - m->sent_ns;
    atomic_store_explicit(&c->applied_ns, now, memory_order_relaxed); /* a statistic: no order needed */
    if (c->host && m->host == c->host && delay >= 0)                  /* otherwise the sender's clock is not ours */
        near__histogram_record(&c->invalidation_ns, (uint64_t)delay);
}

static void distrust(struct near__coherence *c, unsigned suspicion, uint64_t position, uint64_t last)
{
    if (suspicion == NEAR_SUSPECT_ORDER)
        near__coherence_add(&c->position_regressions);
    else if (suspicion == NEAR_SUSPECT_GAP)
        near__coherence_add(&c->message_gaps);
    near__proof_suspect(c, suspicion);
    tell(c, NULL, 0);
    near__log(c->log, NEAR_LOG_WARNING, "coherence", "message %" PRIu64 " follows message %" PRIu64 "; proving anew",
              position, last);
}

static void handle_message(struct near__coherence *c, const void *payload, size_t size)
{
    struct near__message m;
    if (near__message_decode(payload, size, &m) < 0) {
        if (NEAR_MUTANT(GARBAGE_IGNORED))
            return;
        near__coherence_add(&c->messages_bad);
        near__proof_suspect(c, NEAR_SUSPECT_MESSAGE);
        tell(c, NULL, 0);
        near__log(c->log, NEAR_LOG_WARNING, "coherence", "a message of %zu bytes cannot be read; proving anew", size);
        return;
    }
    near__coherence_add(&c->messages);
    if (m.sender == c->sender)
        near__coherence_add(&c->messages_own);
    uint64_t last = c->last, relative;
    unsigned suspicion = follow(c, m.position, &relative);
    apply(c, &m, relative);
    measure(c, &m);
    if (suspicion)
        distrust(c, suspicion, m.position, last);
    if (m.operation == NEAR_MESSAGE_BARRIER) /* after what it reveals has been withdrawn */
        near__barrier_called(c, &m);
}

/* On this process's own channel: a heartbeat, or an answer to a barrier or to a write. */
static void handle_private(struct near__coherence *c, const void *payload, size_t size)
{
    if (size && *(const char *)payload == 'A')
        near__barrier_answered(c, payload, size);
    else
        near__proof_arrived(c, payload, size);
}

/* The server reports that a key was written, but not when in the order of positions; or (NULL) that any key may have
 * been (R44).  See "Foreign writers" in coherence.c for why our own writes' reports are no exception. */
static void handle_foreign(struct near__coherence *c, const void *key, size_t key_size)
{
    near__coherence_add(&c->messages_foreign);
    if (key && !NEAR_MUTANT(REPORTS_IGNORED))
        near__local_invalidate(c->local, key, key_size, 0, NEAR_CAUSE_MESSAGE);
    else if (!key && !NEAR_MUTANT(EVERYTHING_IGNORED))
        near__local_clear(c->local);
}

/* ---------------------------------------------------------------- the subscription's life */

/* Whether the server is the one that the last subscription went to; if it cannot be told, it is not.  Returns the
 * suspicion. */
static unsigned recognise(struct near__coherence *c, const char *server)
{
    int first = atomic_load_explicit(&c->incarnation, memory_order_relaxed) == 0;
    int same = server[0] && strncmp(c->server, server, sizeof(c->server) - 1) == 0;
    if ((same && !first) || NEAR_MUTANT(OTHER_SERVER_IGNORED))
        return 0;
    if (!first && server[0] && c->server[0])
        near__coherence_add(&c->server_changes);
    snprintf(c->server, sizeof(c->server), "%s", server);
    /* release: pairs with near__coherence_position; before the new incarnation, which the suspicion begins */
    atomic_store_explicit(&c->server_id, near__server_id(server), memory_order_release);
    /* before the first proof no reply is kept, so there is nothing to suspect, and no reason to lift the position for
     * everybody */
    return first ? 0 : NEAR_SUSPECT_SERVER;
}

static void open_failed(struct near__coherence *c, int status, uint64_t checks, const near_error *error)
{
    pthread_mutex_lock(&c->lock);
    near__fail(&c->problem, status, "no subscription: %s", error->text[0] ? error->text : near_status_text(status));
    near__proof_refused_locked(c, status, checks);
    near__coherence_pause_locked(c, status == NEAR_ERR_UNAVAILABLE);
    int stopping = c->stopping;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    if (!stopping)
        near__log(c->log, NEAR_LOG_WARNING, "coherence", "cannot subscribe: %s",
                  error->text[0] ? error->text : near_status_text(status));
}

static void open_channel(struct near__coherence *c)
{
    struct near__channel *channel = NULL;
    near_error error = {0};
    pthread_mutex_lock(&c->lock);
    uint64_t checks = c->checks;
    pthread_mutex_unlock(&c->lock);
    int status =
        near__channel_open(c->remote, c->private_name, near__now(c->clock) + c->connect_timeout_ns, &channel, &error);
    if (status < 0) {
        open_failed(c, status, checks, &error);
        return;
    }
    near__coherence_add(&c->subscriptions);
    unsigned suspicion = recognise(c, near__channel_server(c->remote, channel));
    c->unanswered_ns = c->pinged_ns = 0;
    if (c->tracking && !NEAR_MUTANT(TRACKED_UNCLEARED))
        near__local_clear(c->local); /* [5]: foreign writes that nobody reported have left no hole in any number */
    pthread_mutex_lock(&c->lock);
    c->channel = channel;
    c->astray = 0; /* that was the last one */
    near__proof_suspect_locked(c, suspicion);
    c->next_proof_ns = near__now(c->clock);
    pthread_mutex_unlock(&c->lock);
    tell(c, NULL, 0); /* what came between the two subscriptions */
    near__log(c->log, NEAR_LOG_INFO, "coherence", "subscribed%s", suspicion ? ", to another server than before" : "");
}

/* detail NULL: c->problem says why already. */
static void lose_channel(struct near__coherence *c, int status, const char *detail)
{
    if (detail && !detail[0])
        detail = near_status_text(status);
    pthread_mutex_lock(&c->lock);
    struct near__channel *channel = c->channel;
    c->channel = NULL; /* before it is closed: a waker uses it under the lock */
    if (detail)
        near__fail(&c->problem, status, "the subscription was lost: %s", detail);
    near__proof_suspect_locked(c, NEAR_SUSPECT_LOST);
    near__coherence_pause_locked(c, 0); /* a short one */
    int stopping = c->stopping;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    near__channel_close(c->remote, channel);
    tell(c, NULL, 0);
    near__coherence_add(&c->disconnections);
    if (!stopping)
        near__log(c->log, NEAR_LOG_WARNING, "coherence", "the subscription was lost: %s",
                  detail ? detail : "it answers nothing");
}

/* The next one may lead to the same server as this one: not to be tried more often than heartbeats tell. */
static void leave_stray(struct near__coherence *c)
{
    lose_channel(c, NEAR_ERR_UNAVAILABLE, "requests are answered by another server");
    pthread_mutex_lock(&c->lock);
    int64_t earliest_ns = near__now(c->clock) + near__proof_interval_ns(c);
    if (c->reopen_ns < earliest_ns)
        c->reopen_ns = earliest_ns;
    pthread_mutex_unlock(&c->lock);
}

/* Without a channel: waits for its time, then tries to open one. */
static int reopen(struct near__coherence *c, int wait)
{
    pthread_mutex_lock(&c->lock);
    while (wait && !c->stopping && near__now(c->clock) < c->reopen_ns)
        near__coherence_wait_locked(c, c->reopen_ns);
    int due = !c->stopping && near__now(c->clock) >= c->reopen_ns;
    pthread_mutex_unlock(&c->lock);
    if (due)
        open_channel(c);
    return due;
}

/* ---------------------------------------------------------------- one step */

static int read_channel(struct near__coherence *c, int64_t deadline_ns)
{
    struct near__channel_message m = {0};
    near__channel_read(c->remote, c->channel, deadline_ns, &m);
    switch (m.event) {
    case NEAR_CHANNEL_MESSAGE:
        handle_message(c, m.payload, m.payload_size);
        return 1;
    case NEAR_CHANNEL_PRIVATE:
        handle_private(c, m.payload, m.payload_size);
        return 1;
    case NEAR_CHANNEL_FOREIGN:
        handle_foreign(c, m.payload, m.payload_size);
        return 1;
    case NEAR_CHANNEL_PONG:
        near__proof_pong(c, m.payload, m.payload_size);
        return 1;
    case NEAR_CHANNEL_IDLE:
        return 0;
    default:
        lose_channel(c, m.status < 0 ? m.status : NEAR_ERR_IO, m.detail);
        return 1;
    }
}

static int ping(struct near__coherence *c, uint64_t nonce)
{
    char text[24];
    snprintf(text, sizeof(text), "%" PRIu64, nonce);
    c->pinged_ns = near__now(c->clock);
    int status = near__channel_ping(c->remote, c->channel, text, near__now(c->clock) + near__proof_patience_ns(c));
    if (status < 0)
        lose_channel(c, status, "");
    return 1;
}

int near__subscriber_step(struct near__coherence *c, int wait)
{
    if (!c->channel) /* written by this thread only */
        return reopen(c, wait);
    int64_t due_ns = 0;
    uint64_t nonce = 0;
    switch (near__proof_tick(c, &due_ns, &nonce)) {
    case NEAR_TICK_PING:
        return ping(c, nonce);
    case NEAR_TICK_SILENT:
        lose_channel(c, NEAR_ERR_TIMEOUT, NULL);
        return 1;
    case NEAR_TICK_ASTRAY:
        leave_stray(c);
        return 1;
    default:
        return read_channel(c, wait ? due_ns : near__now(c->clock));
    }
}
