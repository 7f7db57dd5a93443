/* SPDX-License-Identifier: BSD-3-Clause
 * The data connections to one server.
 *
 * Choice.  An idle open connection, the first in order; while all are busy and there is room for another, a new one;
 * otherwise the one with the fewest jobs.  So one lone thread uses one connection, and many use all.
 *
 * Health is one number, the failures in a row, and one time, the end of the pause:
 *
 *     failures < breaker_failures     closed: connecting waits for the end of the pause, callers wait with it as long
 *                                    as
 *                                     their deadlines last
 *     otherwise                       open: every call fails at once with the last reason until the pause is over,
 *                                     then one call, the probe, may try; the others go on failing until it has an
 *                                     answer, or has waited for connect_timeout_ms: its own deadline may be far away,
 *                                     and its line dead
 *
 * A failure is a connection that could not be made or that broke or that timed out; however many callers suffered from
 * it, it counts once (near__connection_blame).  Each answer resets the count.  The pause grows by doubling up to
 * backoff_max_ms, with full jitter, so that a fleet does not come back at one moment.  Wrong credentials, a refused
 * certificate and the like do not get better by themselves: they open the breaker at once, for a long pause, and keep
 * their own status.
 *
 * That is the health of the server.  While a connection works, one more that cannot be made (no room for clients, a
 * password changed since, a line that is silent) says nothing about it: the job goes to those that work, and only the
 * next attempt to have more of them waits, for a pause that grows likewise.
 *
 * Lock order: pool, then connection. */
#include "remote/pool.h"

#include <string.h>

#include "base/condition.h"
#include "base/mutant.h"
#include "base/random.h"

enum {
    UNLABELLED_MS = 500, /* so long a connection without a label is used while others have one */
    RENEWAL_MS = 100     /* so long the connections are used that came of a renewal */
};

struct near__pool {
    struct near__host *host;
    pthread_mutex_t mutex;
    pthread_cond_t changed;         /* a pause has been set or lifted, or the remote is closing */
    struct near__connection **slot; /* (mutex) each holds a reference */
    uint32_t slots;
    uint32_t pauses;            /* (mutex) in a row: the exponent of the backoff */
    int64_t probing_until_ns;   /* (mutex) 0: there is no probe */
    int64_t pause_until_ns;     /* (mutex) 0: none */
    uint64_t random;            /* (mutex) */
    uint64_t expected;          /* (mutex) label of the subscription's server; 0: unknown */
    int64_t expected_ns;        /* (mutex) since when */
    int64_t refused_ns;         /* (mutex) when the last one more could not be made; 0: never */
    int64_t grow_ns;            /* (mutex) none before, while there is one that works */
    uint32_t refusals;          /* (mutex) in a row: the exponent of that pause */
    int64_t renewed_ns;         /* (mutex) when all connections were last to be made anew; 0: never */
    struct near__fault fault;   /* (mutex) the last failure */
    _Atomic(uint32_t) failures; /* in a row; written under the mutex, read without as a hint: 0 needs no reset */
};

int near__pool_open(struct near__host *host, struct near__pool **ret)
{
    struct near__pool *p = near__alloc_zero(host->alloc, sizeof *p);
    if (!p)
        return NEAR_ERR_NOMEM;
    p->host = host;
    p->slots = host->options->connections ? host->options->connections : 1;
    p->slot = near__alloc_zero(host->alloc, p->slots * sizeof *p->slot);
    if (!p->slot) {
        near__free(host->alloc, p);
        return NEAR_ERR_NOMEM;
    }
    if (near__random_seed(&p->random, sizeof p->random) != 0)
        p->random = (uint64_t)near__now(host->clock) ^ (uintptr_t)p;
    pthread_mutex_init(&p->mutex, NULL);
    near__condition_init(&p->changed);
    *ret = p;
    return NEAR_OK;
}

void near__pool_close(struct near__pool *p)
{
    if (!p)
        return;
    for (uint32_t i = 0; i < p->slots; i++)
        near__connection_unref(p->slot[i]);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->mutex);
    near__free(p->host->alloc, p->slot);
    near__free(p->host->alloc, p);
}

/* ---------------------------------------------------------------- health */

static int is_closing(const struct near__pool *p)
{
    /* acquire: pairs with near__remote_interrupt's store */
    return atomic_load_explicit(&p->host->closing, memory_order_acquire);
}

static uint32_t failures_of(struct near__pool *p)
{
    /* its writers hold the mutex; a stale 0 is a late reset */
    return atomic_load_explicit(&p->failures, memory_order_relaxed);
}

static uint32_t limit(const struct near__pool *p)
{
    return p->host->options->breaker_failures ? p->host->options->breaker_failures : 1;
}

static int is_open(struct near__pool *p)
{
    return failures_of(p) >= limit(p);
}

int near__pool_breaker_open(struct near__pool *p)
{
    return is_open(p);
}

/* What only an operator can mend. */
static int is_lasting(int status)
{
    return status == NEAR_ERR_AUTH || status == NEAR_ERR_TLS || status == NEAR_ERR_DENIED;
}

static int64_t pause_ns(struct near__pool *p, uint32_t pauses, int lasting)
{
    uint64_t cap = p->host->options->backoff_max_ms, first = p->host->options->backoff_min_ms;
    uint64_t most = first << (pauses < 20 ? pauses : 20);
    if (most > cap || lasting)
        most = cap;
    if (most > UINT32_MAX / 1000)
        most = UINT32_MAX / 1000;
    int64_t us = near__random_below(&p->random, (uint32_t)(most * 1000) + 1); /* full jitter */
    return (lasting ? (int64_t)most * 500 + us / 2 : us) * 1000;
}

static void note_failure(struct near__pool *p, const struct near__fault *fault)
{
    int lasting = is_lasting(fault->status), opened;
    pthread_mutex_lock(&p->mutex);
    int was_open = is_open(p);
    uint32_t failures =
        lasting && failures_of(p) < limit(p) ? limit(p) : failures_of(p) + (failures_of(p) < UINT32_MAX);
    atomic_store_explicit(&p->failures, failures, memory_order_relaxed);
    p->fault = *fault;
    p->pause_until_ns = near__now(p->host->clock) + pause_ns(p, p->pauses++, lasting);
    opened = !was_open && is_open(p);
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->mutex);
    near__log(p->host->log, opened ? NEAR_LOG_WARNING : NEAR_LOG_INFO, "remote", "%s%s", fault->text,
              opened ? "; calls fail at once until the server answers again" : "");
}

static void note_success(struct near__pool *p)
{
    if (failures_of(p) == 0)
        return;
    pthread_mutex_lock(&p->mutex);
    int was_open = is_open(p);
    atomic_store_explicit(&p->failures, 0, memory_order_relaxed);
    p->pauses = 0;
    p->pause_until_ns = 0;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->mutex);
    if (was_open)
        near__log(p->host->log, NEAR_LOG_NOTICE, "remote", "%s answers again", p->host->target.name);
}

/* One more connection could not be made.  A new row of them begins when there has been one since the last. */
static void note_refusal(struct near__pool *p, const struct near__fault *fault)
{
    pthread_mutex_lock(&p->mutex);
    for (uint32_t i = 0; i < p->slots; i++)
        if (p->slot[i] && near__connection_state(p->slot[i]) == NEAR_CONNECTION_READY &&
            near__connection_opened_ns(p->slot[i]) > p->refused_ns)
            p->refusals = 0;
    p->refused_ns = near__now(p->host->clock);
    p->grow_ns = p->refused_ns + pause_ns(p, p->refusals++, is_lasting(fault->status));
    pthread_mutex_unlock(&p->mutex);
    near__log(p->host->log, NEAR_LOG_INFO, "remote", "no further connection: %s", fault->text);
}

/* ---------------------------------------------------------------- choosing (mutex held) */

/* Whether some connection takes jobs and sends them at once. */
static int has_ready(struct near__pool *p)
{
    for (uint32_t i = 0; i < p->slots; i++)
        if (p->slot[i] && near__connection_state(p->slot[i]) == NEAR_CONNECTION_READY)
            return 1;
    return 0;
}

/* Its label is not the one of the subscription that came after it.  Or it has none, so that nothing it brings can be
 * kept, although a subscription was told who the server is: the right to ask was missing for a while, perhaps only when
 * this connection was made, and perhaps without the subscription noticing.  So it is made anew, now and again until it
 * has one. */
static int is_outdated(const struct near__pool *p, struct near__connection *c, int64_t now)
{
    uint64_t server = near__connection_server(c);
    int64_t opened_ns = near__connection_opened_ns(c);
    if (!p->expected || near__connection_state(c) != NEAR_CONNECTION_READY)
        return 0;
    if (server)
        return server != p->expected && opened_ns < p->expected_ns;
    return (opened_ns < p->expected_ns || now - opened_ns >= UNLABELLED_MS * NEAR_NS_PER_MS) &&
           !NEAR_MUTANT(UNLABELLED_FOR_GOOD);
}

/* Empties the slots of connections that take no more jobs.  An attempt that was left half made long ago is one: its
 * callers have been counted, and what has become of it since says nothing about the server now.  Going on with it would
 * cost the next caller a failure and a pause. */
static void drop_unusable(struct near__pool *p, int64_t now)
{
    for (uint32_t i = 0; i < p->slots; i++) {
        struct near__connection *c = p->slot[i];
        if (!c)
            continue;
        if (is_outdated(p, c, now))
            near__connection_retire(c);
        if (near__connection_state(c) == NEAR_CONNECTION_OPENING)
            near__connection_expire(c, now);
        if (near__connection_state(c) <= NEAR_CONNECTION_READY)
            continue;
        p->slot[i] = NULL;
        near__connection_unref(c);
    }
}

/* While there are others, one that is being made is for one caller at a time: nothing may come of it. */
static struct near__connection *least_loaded(struct near__pool *p)
{
    struct near__connection *best = NULL;
    unsigned least = 0;
    int ready = has_ready(p);
    for (uint32_t i = 0; i < p->slots; i++) {
        struct near__connection *c = p->slot[i];
        unsigned load = c ? near__connection_load(c) : 0;
        int opening = c && near__connection_state(c) == NEAR_CONNECTION_OPENING;
        if (!c || (ready && opening && load > 0))
            continue;
        load += (unsigned)opening; /* counts as busy */
        if (!best || load < least) {
            best = c;
            least = load;
        }
    }
    return best;
}

/* May another one be made?  One at a time: a server that comes back is not overrun. */
static int may_grow(struct near__pool *p, int64_t now)
{
    for (uint32_t i = 0; i < p->slots; i++)
        if (p->slot[i] && near__connection_state(p->slot[i]) == NEAR_CONNECTION_OPENING)
            return 0;
    return now >= p->pause_until_ns && (now >= p->grow_ns || !has_ready(p));
}

static int is_idle(struct near__connection *c)
{
    return near__connection_load(c) == 0 && near__connection_state(c) == NEAR_CONNECTION_READY;
}

static struct near__connection *connect_new(struct near__pool *p, int64_t now, struct near__fault *fault)
{
    int64_t deadline = now + (int64_t)p->host->options->connect_timeout_ms * NEAR_NS_PER_MS;
    for (uint32_t i = 0; i < p->slots; i++)
        if (!p->slot[i])
            return p->slot[i] = near__connection_new(p->host, deadline, fault);
    return NULL;
}

/* A connection with a reference for the caller, or NULL: with fault.status set there is none to be had, without it is
 * worth waiting until pause_until_ns. */
static struct near__connection *choose(struct near__pool *p, struct near__fault *fault)
{
    int64_t now = near__now(p->host->clock);
    drop_unusable(p, now);
    struct near__connection *c = least_loaded(p);
    fault->status = 0;
    if ((!c || !is_idle(c)) && may_grow(p, now)) {
        struct near__connection *fresh = connect_new(p, now, fault);
        if (fresh)
            c = fresh;
        else if (c)
            fault->status = 0; /* one is enough */
    }
    if (c)
        near__connection_ref(c);
    return c;
}

/* ---------------------------------------------------------------- running */

/* Why calls fail while the breaker is open: the server's own words keep their status, a dead line is UNAVAILABLE. */
static void refuse(struct near__pool *p, struct near__fault *fault)
{
    *fault = p->fault;
    if (fault->status == NEAR_ERR_IO || fault->status == NEAR_ERR_TIMEOUT || fault->status == NEAR_ERR_PROTOCOL)
        fault->status = NEAR_ERR_UNAVAILABLE;
}

/* A connection for a job, waiting for the end of a pause if the deadline allows; NULL: see fault. */
static struct near__connection *connection_for(struct near__pool *p, struct near__job *job, int *ret_probe,
                                               struct near__fault *fault)
{
    struct near__connection *c = NULL;
    *ret_probe = 0;
    fault->status = 0;
    pthread_mutex_lock(&p->mutex);
    while (!c && !fault->status) {
        int64_t now = near__now(p->host->clock);
        if (is_closing(p)) {
            near__fault_set(fault, NEAR_ERR_CLOSED, "the cache is being closed");
        } else if (is_open(p) && (now < p->pause_until_ns || now < p->probing_until_ns)) {
            refuse(p, fault);
        } else if (now >= job->deadline_ns) {
            near__fault_set(fault, NEAR_ERR_TIMEOUT, "the deadline has passed");
        } else {
            c = choose(p, fault);
            *ret_probe = c && is_open(p);
            if (!c && !fault->status && p->pause_until_ns >= job->deadline_ns)
                refuse(p, fault);
            else if (!c && !fault->status)
                near__condition_wait(p->host->clock, &p->changed, &p->mutex, p->pause_until_ns);
        }
    }
    if (*ret_probe)
        p->probing_until_ns =
            near__now(p->host->clock) + (int64_t)p->host->options->connect_timeout_ms * NEAR_NS_PER_MS;
    pthread_mutex_unlock(&p->mutex);
    return c;
}

static void all_unsent(struct near__job *job)
{
    for (size_t i = 0; i < job->count; i++)
        job->calls[i].outcome = NEAR_CALL_UNSENT;
}

/* Whether the connection could not be made while others work. */
static int is_one_more(struct near__pool *p, struct near__connection *c)
{
    pthread_mutex_lock(&p->mutex);
    int others = has_ready(p);
    pthread_mutex_unlock(&p->mutex);
    return others && !near__connection_was_ready(c);
}

/* What the job's fate says about the server.  Returns 1 when it says nothing, and others may do it. */
static int judge(struct near__pool *p, struct near__connection *c, struct near__job *job)
{
    if (job->answered > 0)
        note_success(p);
    if (job->answered == job->count || job->fault.status == NEAR_ERR_CLOSED || job->fault.status == NEAR_ERR_NOMEM ||
        job->fault.status == NEAR_ERR_TOO_LARGE)
        return 0;
    /* Silence while connecting counts for each caller: waiting for connect_timeout_ms so many times would take too
     * long. */
    int silent = job->timed_out && near__connection_state(c) == NEAR_CONNECTION_OPENING;
    int counts = silent || near__connection_blame(c), one_more = is_one_more(p, c);
    if (counts && one_more)
        note_refusal(p, &job->fault);
    else if (counts)
        note_failure(p, &job->fault);
    return one_more;
}

int near__pool_run(struct near__pool *p, struct near__job *job)
{
    int probe, ran, one_more = 0;
    atomic_fetch_add_explicit(&p->host->requests, job->count, memory_order_relaxed);
    do {
        struct near__connection *c = connection_for(p, job, &probe, &job->fault);
        if (!c) {
            all_unsent(job);
            return 0;
        }
        ran = near__connection_run(c, job);
        if (ran)
            one_more = judge(p, c, job);
        if (probe) {
            pthread_mutex_lock(&p->mutex);
            p->probing_until_ns = 0;
            pthread_mutex_unlock(&p->mutex);
        }
        near__connection_unref(c);
    } while (!ran); /* it was closed in the meantime and is not chosen again */
    return job->answered < job->count && !job->timed_out && job->fault.status != NEAR_ERR_CLOSED &&
           (one_more || !is_lasting(job->fault.status));
}

void near__pool_interrupt(struct near__pool *p)
{
    struct near__fault fault;
    near__fault_set(&fault, NEAR_ERR_CLOSED, "the cache is being closed");
    pthread_mutex_lock(&p->mutex);
    for (uint32_t i = 0; i < p->slots; i++)
        if (p->slot[i])
            near__connection_fail(p->slot[i], &fault);
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->mutex);
}

/* The address may lead elsewhere by now.  Where it does not, a server that refuses every write would be asked for a
 * connection by each of them. */
void near__pool_renew(struct near__pool *p)
{
    pthread_mutex_lock(&p->mutex);
    int64_t now = near__now(p->host->clock);
    int due = !p->renewed_ns || now - p->renewed_ns >= RENEWAL_MS * NEAR_NS_PER_MS;
    for (uint32_t i = 0; i < p->slots && due; i++)
        if (p->slot[i])
            near__connection_retire(p->slot[i]);
    if (due)
        p->renewed_ns = now;
    pthread_mutex_unlock(&p->mutex);
}

void near__pool_expect(struct near__pool *p, uint64_t server)
{
    pthread_mutex_lock(&p->mutex);
    p->expected = server;
    p->expected_ns = near__now(p->host->clock);
    if (failures_of(p) && !is_lasting(p->fault.status)) { /* the line is not dead any more; the next call tries */
        p->pause_until_ns = 0;
        pthread_cond_broadcast(&p->changed);
    }
    pthread_mutex_unlock(&p->mutex);
}
