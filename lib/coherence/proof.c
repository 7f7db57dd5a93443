/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Suspicion and proof: the transitions of the state table at the head of coherence.c. */
#include "coherence/proof.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clamp.h"
#include "base/mutant.h"
#include "nearcache.h"

enum { INTERVAL_MIN_MS = 5, INTERVAL_MAX_MS = 5000 };

/* A heartbeat that lifts the position adds its nonce's last six digits (script.c), so two lifts of one process from one
 * position differ by the steps between their attempts, and nobody's writes in between may make up for that by chance.
 * The step is near the golden section of a million and a badly approximable part of it: any n attempts' lifts are more
 * than a million/(3n) apart. */
enum { NONCE_STEP = 618073 };

static int64_t bound_ns(const struct near__coherence *c)
{
    /* relaxed: a bound that has just been changed may count from the next look on */
    return atomic_load_explicit(&c->gate->bound_ns, memory_order_relaxed);
}

int64_t near__proof_interval_ns(const struct near__coherence *c)
{
    return near__clamp(bound_ns(c) / 4, INTERVAL_MIN_MS * NEAR_NS_PER_MS, INTERVAL_MAX_MS * NEAR_NS_PER_MS);
}

int64_t near__proof_patience_ns(const struct near__coherence *c)
{
    return near__clamp(bound_ns(c) / 2, INTERVAL_MIN_MS * NEAR_NS_PER_MS, c->connect_timeout_ns);
}

/* ---------------------------------------------------------------- suspicion */

/* The gate is aged rather than emptied, so that NEAR_STALE service still knows how old the last proof is.  What is
 * stored is never later than the last proof, so even a read with a longer bound of its own would be told no lie. */
void near__proof_withdraw_locked(struct near__coherence *c, int64_t bound)
{
    int64_t aged = near__now(c->clock) - bound - NEAR_NS_PER_MS;
    /* relaxed: written under the lock only */
    int64_t proved = atomic_load_explicit(&c->gate->proved_ns, memory_order_relaxed);
    near__local_withdraw(c->local, proved < aged ? proved : aged);
}

/* The next attempt begins as soon as the least interval since the last one allows. */
static void hurry_locked(struct near__coherence *c)
{
    int64_t earliest = c->attempt.begun_ns + INTERVAL_MIN_MS * NEAR_NS_PER_MS, now = near__now(c->clock);
    int64_t soon = earliest > now ? earliest : now;
    if (soon < c->next_proof_ns)
        c->next_proof_ns = soon;
}

static void cancel_locked(struct near__coherence *c)
{
    c->attempt.nonce = 0;
    c->asked = 0;
}

/* seq_cst: pairs with near__coherence_position.  Either a reply of the old history sees the new incarnation and is
 * ignored, or it has raised `highest` before it is read here and before the next attempt, whose watermark is therefore
 * not below it. */
static void begin_incarnation_locked(struct near__coherence *c, unsigned reasons)
{
    /* before the first proof no reply counts anyway */
    if (!(c->suspicion & NEAR_SUSPECT_START) && !NEAR_MUTANT(NO_CURE))
        atomic_fetch_add_explicit(&c->incarnation, 1, memory_order_seq_cst);
    if (reasons & NEAR_SUSPECT_LIFT)
        c->lift_to = atomic_load_explicit(&c->highest, memory_order_seq_cst) + 1;
}

void near__proof_suspect_locked(struct near__coherence *c, unsigned reasons)
{
    c->suspicion |= reasons;
    if (reasons & NEAR_SUSPECT_HISTORY)
        begin_incarnation_locked(c, reasons);
    if (!NEAR_MUTANT(PROOF_OUTLIVES_SUSPICION))
        near__proof_withdraw_locked(c, bound_ns(c));
    cancel_locked(c);
    hurry_locked(c);
}

void near__proof_suspect(struct near__coherence *c, unsigned reasons)
{
    pthread_mutex_lock(&c->lock);
    near__proof_suspect_locked(c, reasons);
    near__coherence_kick_locked(c);
    pthread_mutex_unlock(&c->lock);
}

int near__proof_stands_locked(const struct near__coherence *c)
{
    return c->suspicion == 0 && c->proved_ns != NEAR_PROVED_NEVER && near__now(c->clock) - c->proved_ns < bound_ns(c);
}

void near__proof_refused_locked(struct near__coherence *c, int status, uint64_t checks)
{
    if (status == NEAR_ERR_DENIED || status == NEAR_ERR_AUTH)
        c->refused = checks;
}

/* ---------------------------------------------------------------- an attempt's end */

static void fail_locked(struct near__coherence *c)
{
    cancel_locked(c);
    near__coherence_add(&c->proofs_failed);
    pthread_cond_broadcast(&c->changed);
}

/* Before the next attempt, after some in a row that failed. */
static void pause_locked(struct near__coherence *c)
{
    int64_t pause = near__coherence_backoff_locked(c, c->proof_failures++), most = near__proof_interval_ns(c);
    c->next_proof_ns = near__now(c->clock) + (pause < most ? pause : most);
}

/* Everything before that position may be wrong.  At the first proof there is nothing to save. */
static void doubt_locked(struct near__coherence *c, uint64_t position)
{
    near__coherence_add(&c->suspicions);
    if (c->repair.rate == 0 || c->suspicion & NEAR_SUSPECT_START) {
        near__local_raise_watermark(c->local, position);
        return;
    }
    near__local_suspect(c->local, position);
    near__repair_want_locked(c);
}

/* Both answers are there and nothing suspicious happened since the attempt began, other than what its own position
 * cures. */
static unsigned complete_locked(struct near__coherence *c)
{
    unsigned cured = c->suspicion;
    uint64_t position = c->attempt.position;
    if (cured & ~(unsigned)NEAR_SUSPECT_LOST && !NEAR_MUTANT(NO_WATERMARK) && !NEAR_MUTANT(NO_CURE))
        doubt_locked(c, near__coherence_relative(c, position));
    /* seq_cst: from here on replies count; those asked for earlier may be of another history */
    if (cured & NEAR_SUSPECT_START)
        atomic_store_explicit(&c->incarnation, 1, memory_order_seq_cst);
    c->suspicion = 0;
    c->proved_ns = NEAR_MUTANT(COUNTED_FROM_ARRIVAL) ? near__now(c->clock) : c->attempt.begun_ns;
    near__local_prove(c->local, c->proved_ns);
    c->proved_nonce = c->attempt.nonce;
    cancel_locked(c);
    c->next_proof_ns = c->attempt.begun_ns + (c->wanted_nonce > c->proved_nonce ? 0 : near__proof_interval_ns(c));
    c->open_failures = c->proof_failures = 0;
    c->problem.status = NEAR_OK;
    near__coherence_add(&c->proofs);
    c->unanswered_ns = 0;
    pthread_cond_broadcast(&c->changed);
    return cured;
}

static void log_cure(struct near__coherence *c, unsigned cured)
{
    if (cured == NEAR_SUSPECT_LOST && c->tracking)
        near__log(c->log, NEAR_LOG_INFO, "coherence",
                  "resubscribed; what was written meanwhile is not known, so nothing stays");
    else if (cured == NEAR_SUSPECT_LOST)
        near__log(c->log, NEAR_LOG_INFO, "coherence", "resubscribed; no message was missed, every entry stays");
    else if (cured)
        near__log(c->log, NEAR_LOG_INFO, "coherence", "freshness proven anew; %s",
                  c->repair.rate ? "older entries are compared with the remote tier before they are served"
                                 : "older entries are no longer served");
}

/* ---------------------------------------------------------------- answers on the subscription */

void near__proof_pong(struct near__coherence *c, const void *payload, size_t size)
{
    char nonce[24];
    unsigned cured = 0;
    pthread_mutex_lock(&c->lock);
    c->pinged_ns = 0; /* whichever it answers, there was only this one */
    int length = snprintf(nonce, sizeof(nonce), "%" PRIu64, c->attempt.nonce);
    if (c->attempt.nonce && size == (size_t)length && memcmp(payload, nonce, size) == 0) {
        c->attempt.pong = 1;
        if (NEAR_MUTANT(PONG_ALONE_PROVES) && c->last)
            c->attempt.position = c->last;
        if (c->attempt.arrived || (NEAR_MUTANT(PONG_ALONE_PROVES) && c->last))
            cured = complete_locked(c);
    }
    pthread_mutex_unlock(&c->lock);
    log_cure(c, cured);
}

/* The heartbeat says how far the messages before it must have come (I6).  One that reveals a hole proves nothing, but
 * from there on the messages can be followed. */
static void compare_locked(struct near__coherence *c, uint64_t position)
{
    int hole = c->last != 0 && position != c->last && !NEAR_MUTANT(HOLES_IGNORED);
    c->last = position;
    c->anchored = 1;
    near__coherence_raise_highest(c, position);
    if (hole) {
        if (!c->suspicion) /* otherwise it is the consequence of what has been counted */
            near__coherence_add(&c->message_gaps);
        near__proof_suspect_locked(c, NEAR_SUSPECT_GAP);
        return;
    }
    c->attempt.arrived = 1;
    c->attempt.position = position;
    c->heard_ns = c->attempt.begun_ns;
}

/* The server has been a replica, or what comes to the same, since it was subscribed to, and nothing else tells us: no
 * connection was closed, and the position may be what it was (R32).  The identity takes this history for its second
 * part, so that the next subscription is not taken for one to yet another server. */
static int is_other_history(const struct near__coherence *c, const void *history, size_t size)
{
    const char *known = strchr(c->server, '-'), *end = c->server + sizeof(c->server) - 1;
    if (!size || !known++ || NEAR_MUTANT(OTHER_HISTORY_IGNORED))
        return 0;
    size_t kept = size < (size_t)(end - known) ? size : (size_t)(end - known); /* as it is kept below */
    return strlen(known) != kept || memcmp(known, history, kept) != 0;
}

static void change_history_locked(struct near__coherence *c, const void *history, size_t size)
{
    size_t at = strcspn(c->server, "-") + 1;
    snprintf(c->server + at, sizeof(c->server) - at, "%.*s", (int)size, (const char *)history);
    near__coherence_add(&c->server_changes);
    near__proof_suspect_locked(c, NEAR_SUSPECT_SERVER);
    c->last = 0; /* that was in the other history */
    c->anchored = 0;
    fail_locked(c);
}

static int arrived_locked(struct near__coherence *c, uint64_t position, unsigned *ret_cured)
{
    if (position < c->attempt.known || position < c->last || !near__coherence_in_range(c, position)) {
        /* the heartbeat should have lifted it: another history, or not the position that we know */
        near__coherence_add(&c->position_regressions);
        near__fail(&c->problem, NEAR_ERR_PROTOCOL, "the heartbeat's position %" PRIu64 " is out of order", position);
        near__proof_suspect_locked(c, NEAR_SUSPECT_ORDER);
        near__coherence_rebase_locked(c, position);
        c->last = 0; /* wherever that came from, it is not where the server is */
        c->anchored = 0;
        fail_locked(c);
        pause_locked(c);
        return -1;
    }
    compare_locked(c, position);
    if (c->attempt.arrived && c->attempt.pong)
        *ret_cured = complete_locked(c);
    return 0;
}

void near__proof_arrived(struct near__coherence *c, const void *payload, size_t size)
{
    uint64_t nonce, position;
    const void *history;
    size_t history_size;
    unsigned cured = 0;
    int result = 0, other = 0;
    if (near__message_decode_proof(payload, size, &nonce, &position, &history, &history_size) < 0) {
        near__coherence_add(&c->messages_bad);
        near__log(c->log, NEAR_LOG_WARNING, "coherence", "somebody else publishes on this process's own channel");
        return;
    }
    pthread_mutex_lock(&c->lock);
    if (nonce != 0 && nonce == c->attempt.nonce && !c->attempt.arrived) { /* others are too late or not ours (R25) */
        other = is_other_history(c, history, history_size);
        if (other)
            change_history_locked(c, history, history_size);
        else
            result = arrived_locked(c, position, &cured);
    }
    pthread_mutex_unlock(&c->lock);
    if (other)
        near__log(c->log, NEAR_LOG_WARNING, "coherence", "the server's history is another one than before");
    if (result < 0)
        near__log(c->log, NEAR_LOG_WARNING, "coherence", "the server's position %" PRIu64 " is out of order", position);
    log_cure(c, cured);
}

/* ---------------------------------------------------------------- the heartbeat's own reply */

/* Requests lead to another server than the subscription, which was the same when this one was sent.  It may hear of the
 * heartbeat all the same, if that server has become its master: then it proves what it should, but of no reply can be
 * told when it was, and nothing is kept (R31). */
static int is_astray(const struct near__coherence *c, const struct near__request *request)
{
    /* relaxed: changed by the subscriber; a change that is not seen here makes the old subscription look astray, whose
     * end is known by then */
    uint64_t server = atomic_load_explicit(&c->server_id, memory_order_relaxed);
    if (NEAR_MUTANT(ASTRAY_KEPT) || NEAR_MUTANT(REPLY_ALONE_PROVES)) /* that one trusts a reply wherever it is from */
        return 0;
    return request->status >= 0 && request->server && c->channel && server == c->asked_of && request->server != server;
}

void near__proof_answered(struct near__coherence *c, const struct near__request *request)
{
    int status = request->status, failed = status < 0 && status != NEAR_ERR_UNKNOWN; /* unknown: it may still arrive */
    pthread_mutex_lock(&c->lock);
    c->running = 0;
    if (status >= 0)
        near__barrier_listed_locked(c, request->fence, request->server);
    if (status >= 0 || status == NEAR_ERR_UNKNOWN)
        c->unheard = status < 0;
    c->astray = is_astray(c, request);
    if (c->astray)
        near__coherence_kick_locked(c);
    int current = c->attempt.nonce != 0 && c->attempt.nonce == (uint64_t)request->number;
    if (failed)
        near__fail(&c->problem, status, "the heartbeat failed: %s%s%s", near_status_text(status),
                   request->detail[0] ? ": " : "", request->detail);
    if (current && !failed)
        c->attempt.answered = status >= 0;
    if (current && !failed && NEAR_MUTANT(REPLY_ALONE_PROVES) && !(c->suspicion & NEAR_SUSPECT_START)) {
        c->attempt.position = request->position;
        complete_locked(c);
    }
    if (current && failed) {
        near__proof_refused_locked(c, status, c->attempt.checks);
        fail_locked(c);
        pause_locked(c);
    }
    /* a server that is not a master, or was not a moment ago, may come back with another history and the same
     * position */
    if ((status == NEAR_ERR_READONLY || status == NEAR_ERR_LOADING) && !NEAR_MUTANT(REPLICA_TRUSTED)) {
        int64_t next_ns = c->next_proof_ns;
        near__proof_suspect_locked(c, NEAR_SUSPECT_ORDER);
        c->next_proof_ns = next_ns;
    }
    if (!current || failed)
        near__coherence_kick_locked(c);
    int stopping = c->stopping;
    pthread_mutex_unlock(&c->lock);
    if (failed && !stopping)
        near__log(c->log, NEAR_LOG_WARNING, "coherence", "the heartbeat failed: %s%s%s", near_status_text(status),
                  request->detail[0] ? ": " : "", request->detail);
}

/* ---------------------------------------------------------------- time */

static void explain_locked(struct near__coherence *c, int64_t patience_ns)
{
    const struct near__attempt *a = &c->attempt;
    long long ms = (long long)(patience_ns / NEAR_NS_PER_MS);
    if (a->answered && !a->arrived)
        near__fail(&c->problem, NEAR_ERR_TIMEOUT,
                   "the heartbeat was accepted but did not arrive on the subscription within "
                   "%lld ms: do both connections lead to the same server?",
                   ms);
    else if (!a->answered && !a->arrived && a->pong)
        near__fail(&c->problem, NEAR_ERR_TIMEOUT, "no answer to the heartbeat within %lld ms", ms);
    else if (!a->answered && !a->arrived)
        near__fail(&c->problem, NEAR_ERR_TIMEOUT, "no answer to the heartbeat, nor on the subscription, within %lld ms",
                   ms);
    else
        near__fail(&c->problem, NEAR_ERR_TIMEOUT, "no answer to a PING on the subscription within %lld ms", ms);
}

/* Gives the attempt up.  Returns 1 when the subscription is to be given up too: it has been the silent side for long,
 * or the heartbeats go to another server than the subscription (R24, R31). */
static int give_up_locked(struct near__coherence *c, int64_t now)
{
    const struct near__attempt *a = &c->attempt;
    int silent = !a->pong || (a->answered && !a->arrived);
    if (!silent)
        c->unanswered_ns = 0;
    else if (!c->unanswered_ns)
        c->unanswered_ns = a->begun_ns;
    explain_locked(c, now - a->begun_ns);
    fail_locked(c);
    c->next_proof_ns = now;
    return silent && now - c->unanswered_ns >= c->connect_timeout_ns;
}

/* What the server's position must reach; what the messages announced counts for the floors' sake. */
static uint64_t known_locked(const struct near__coherence *c)
{
    /* seq_cst: see begin_incarnation_locked */
    uint64_t known = atomic_load_explicit(&c->highest, memory_order_seq_cst);
    if (known < c->announced)
        known = c->announced;
    return known < c->lift_to ? c->lift_to : known;
}

static void begin_locked(struct near__coherence *c, int64_t now)
{
    c->attempt =
        (struct near__attempt){.nonce = c->next_nonce, .begun_ns = now, .checks = c->checks, .known = known_locked(c)};
    c->next_nonce += NEAR_MUTANT(LIFTS_MEET) ? 1 : NONCE_STEP;
    c->next_proof_ns = now + INTERVAL_MIN_MS * NEAR_NS_PER_MS; /* at the earliest, whatever becomes of this one */
    c->asked = 1;
    pthread_cond_broadcast(&c->changed);
}

/* With tracking the next PING waits until the last one is answered, whatever has become of its attempt: [5], R26. */
static int is_pinging(const struct near__coherence *c)
{
    return c->tracking && c->pinged_ns != 0 && !NEAR_MUTANT(PINGS_PIPELINED);
}

/* Hits go by the processor's counter, which some sleep states of a machine reset: then the moment that they have is far
 * away, though by the kernel's clock the proof's time is over. */
static void lapse_locked(struct near__coherence *c, int64_t now)
{
    if (c->proved_ns != NEAR_PROVED_NEVER && now - c->proved_ns >= bound_ns(c))
        /* relaxed: written under the lock only */
        near__local_withdraw(c->local, atomic_load_explicit(&c->gate->proved_ns, memory_order_relaxed));
}

enum near__tick near__proof_tick(struct near__coherence *c, int64_t *ret_due_ns, uint64_t *ret_nonce)
{
    enum near__tick result = NEAR_TICK_WAIT;
    pthread_mutex_lock(&c->lock);
    int64_t now = near__now(c->clock), patience = near__proof_patience_ns(c);
    lapse_locked(c, now);
    if (c->attempt.nonce && now - c->attempt.begun_ns >= patience && give_up_locked(c, now))
        result = NEAR_TICK_SILENT;
    if (is_pinging(c) && now - c->pinged_ns >= c->connect_timeout_ns)
        result = NEAR_TICK_SILENT;
    if (c->astray)
        result = NEAR_TICK_ASTRAY;
    c->astray = 0;
    int busy = c->attempt.nonce != 0 || c->asked || c->running || is_pinging(c); /* one outstanding (R26) */
    if (result == NEAR_TICK_WAIT && !busy && now >= c->next_proof_ns) {
        begin_locked(c, now);
        *ret_nonce = c->attempt.nonce;
        result = NEAR_TICK_PING;
    }
    if (c->attempt.nonce)
        *ret_due_ns = c->attempt.begun_ns + patience;
    else if (is_pinging(c))
        *ret_due_ns = c->pinged_ns + c->connect_timeout_ns;
    else
        *ret_due_ns = c->asked || c->running ? NEAR_NEVER : c->next_proof_ns; /* the prover kicks when it is free */
    pthread_mutex_unlock(&c->lock);
    return result;
}
