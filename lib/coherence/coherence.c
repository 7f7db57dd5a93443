/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Coherence: keeps one local tier in step with the server's messages, and knows whether it is.
 *
 * Two connections carry the truth to this process, and nothing orders one against the other: replies (D, any thread)
 * and messages (I, the subscriber thread).  What does order them is the position in both (docs/design.md, section 1).
 * This room answers one question for every hit: has every message of every write that was done before a certain instant
 * been applied here?  That instant is the gate's proved_ns.
 *
 * Who writes what.  proof.h has a letter for each field.  The subscriber alone moves `last`; replies and proofs raise
 * `highest` (messages do not: anybody may publish).  What the gate says of proof and bound is written under the lock,
 * so that a withdrawal and a grant cannot cross; any thread may raise its watermark.  Hits take no lock.
 *
 * An attempt has a nonce used never before.  The time is taken; then a PING with the nonce goes out on the subscription
 * and, from the prover thread, a heartbeat with the nonce goes to the server, which publishes nonce and position P on
 * this process's own channel.  When both came back on the subscription the proof counts from the time taken, not from
 * now: a write acknowledged before that time was published before the heartbeat ran, hence came before it on the
 * subscription, hence has been applied. One attempt is outstanding (R26).  The nonce dies with the subscription, with
 * any suspicion and with patience; an answer to a dead nonce is nothing (R25, R27).
 *
 *   state     is                    event                       next      action
 *   --------- --------------------  --------------------------  --------- -----------------------------------------
 *   UNSUBSCR. channel NULL,         pause over, subscribed      UNPROVEN  another server than was proven: |= SERVER
 *             suspicion != 0        refused                     UNSUBSCR. longer pause
 *   UNPROVEN  channel, suspicion    message last+1              same      apply; last++
 *             != 0                  other message               same      apply unordered; last = its; |= GAP or ORDER
 *                                   malformed, not numbered     same      |= MESSAGE
 *                                   heartbeat P, P > last       same      |= GAP; last = P
 *                                   heartbeat P < last or known same      |= ORDER; last unknown
 *                                   heartbeat of other history  same      |= SERVER; last unknown
 *                                   both answers                PROVEN    cure (below); suspicion = 0; grant
 *                                   reply below its mark        same      |= ORDER, unless a new history begins
 *                                   attempt failed or too old   same      next one; subscription long silent: lost
 *                                   another server answers      UNSUBSCR. |= LOST
 *                                   lost                        UNSUBSCR. |= LOST
 *   PROVEN    channel, suspicion    message last+1              same      apply; last++
 *             = 0; serves while     any of the suspicious ones  UNPROVEN  withdraw the proof, then as above
 *             the proof is younger  another server answers      UNSUBSCR. withdraw the proof; |= LOST
 *             than the bound        lost                        UNSUBSCR. withdraw the proof; |= LOST
 *                                   both answers                same      grant
 *                                   attempt failed or too old   same      next one; the gate ages by itself
 *
 * Every |= cancels the attempt under way and begins another at once; all but LOST raise `incarnation`.
 *
 *   cure of                       by                                                           argument
 *   ---------------------------   ----------------------------------------------------------   --------
 *   LOST alone, and START         nothing; watermark = P                                       [1]
 *   GAP, MESSAGE                  replies to what was asked before are ignored, watermark = P  [2]
 *   ORDER, SERVER                 the same, with P above everything seen                       [3]
 *
 * [1] Numbers have no holes.  While `last` follows without one, every write up to `last` has been applied: its key's
 *     floor is raised and older entries are gone.  `last` lives on over a reconnection, so "one more than the last"
 *     means the same on the new subscription, and a write that fell between the two is a hole.  Position and identity
 *     unchanged: nothing was missed.
 * [2] After a hole nothing is known about writes up to P.  An entry below P may be one of their victims: not served.
 *     An entry at P or above is of a moment when the server had done every write up to P, so only a later write can
 *     make it old, and that one's message comes after the heartbeat on this subscription.  Equality is therefore good,
 *     and needed: without writes the position stands still.  A fill still under way is judged by the same comparison
 *     when it lands, so R22 needs no second flush.  P is judged when the heartbeat is read, not when the PONG completes
 *     the proof: messages in between are later than P.  A hole in between cancels the attempt, so no grant covers a
 *     hole above its P.
 * [3] If the server's history broke (restart with loss, failover, position gone), positions on the two sides do not
 *     compare: what was read from the old history may carry a position above P, and the watermark would let it pass for
 *     ever.  So `incarnation` is raised first, `highest` is read then, and the heartbeat makes the server jump if it is
 *     not there.  A reply of the old history does it the other way round: it raises `highest`, then looks at
 *     `incarnation`.  So it is either ignored, or counted in `highest` and therefore not above P (both sequentially
 *     consistent).  That is done for every hole, since a hole may be all that is seen of such a break; where the break
 *     is certain, P must be strictly above, because the same number may stand for two writes.  (Not so for a mere hole:
 *     one's lift is the others' hole, and they would lift in answer for ever.)  P also passes every floor, so nothing
 *     is refused for ever.  Before the first proof there is nothing that a position could be compared with: replies to
 *     what was asked until then have none.
 * [4] A message that does not follow, and those after it until a heartbeat says where we are, are applied unordered
 *     (I5): whoever publishes nonsense costs time and never raises a floor or a watermark.
 *
 * Foreign writers (config.tracking).  The server reports every write on the subscription, whoever did it, without a
 * position.
 *
 * [5] A report is applied unordered (I5), and with one PING outstanding, whatever becomes of its attempt, a proof
 *     covers foreign writes as it covers ours (redis_tracking.c; R26).  Reports are not numbered: those that a lost
 *     subscription would have brought leave no hole, and an entry may be older than a foreign write at its own
 *     position.  So nothing stays over a reconnection: the tier is cleared when tracking is in force again and before
 *     the next proof.  A fetch sent before the clearing is refused by its ticket; one sent after it is followed by
 *     reports (R22, R40).
 * [6] Our own writes are reported, too, after their messages, and take away what the writer has just kept: one fetch
 *     more per write and process, if the key is read again.  Nothing weaker is safe.  The server reports each key once
 *     a turn, so "we set k to v, then somebody set it to w" and "somebody set it to w, then we set it to v" bring the
 *     same bytes on every connection of ours, in the same order; in one of the two v is stale.  Whatever keeps v in the
 *     one keeps it in the other.  (Counting the reports that our messages make us expect fails for that reason, and so
 *     does NOLOOP, which also swallows evictions: R43.)
 *
 * So no entry stays stale for ever: every hole is seen by the next message or heartbeat, and each cure covers what it
 * hid.  And no hit is older than the bound: proved_ns is a time before which every write is applied or cured; hits
 * compare it themselves (R47), and nothing here needs to run in time (R24, R29).  Withdrawing is not needed for the
 * bound; it keeps what is doubtful from being served.
 *
 * What this rests on: every write of a cooperating process is numbered and published by the server in one step, and
 * replies tell which server gave them. */
#include "coherence/coherence.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/condition.h"
#include "base/hash.h"
#include "base/mutant.h"
#include "base/random.h"
#include "base/thread.h"
#include "coherence/proof.h"
#include "nearcache.h"

/* Positions down to this far below the first one seen can be expressed: 12 days of microseconds, for replies that are
 * on their way and for servers restored from a backup.  Upwards there remain four years; a jump beyond them, of a
 * server whose clock was far behind when it began to count, moves the base (near__coherence_rebase_locked). */
#define HEADROOM (UINT64_C(1) << 40)
/* The year 2112.  A number from here on is nobody's clock, and whoever followed it would ask the server for more: soon
 * it could not be told exactly (script.c). */
#define POSITION_ABSURD (UINT64_C(1) << 52)

/* ---------------------------------------------------------------- positions */

int near__coherence_in_range(struct near__coherence *c, uint64_t position)
{
    uint64_t unset = 0, base = (position > HEADROOM ? position - HEADROOM : 0) + 1;
    /* relaxed: the number itself is all there is to see */
    if (position && atomic_load_explicit(&c->base, memory_order_relaxed) == 0)
        atomic_compare_exchange_strong_explicit(&c->base, &unset, base, memory_order_relaxed, memory_order_relaxed);
    return near__coherence_relative(c, position) != 0;
}

uint64_t near__coherence_relative(const struct near__coherence *c, uint64_t position)
{
    uint64_t base = atomic_load_explicit(&c->base, memory_order_relaxed); /* as above */
    if (!base || position < base || position - base >= NEAR_POSITION_MAX)
        return 0;
    return position - base + 1;
}

/* A reply of before sees the new incarnation, or its position counts in `highest` (see begin_incarnation_locked) and is
 * below the new base, should it meet that one. */
void near__coherence_rebase_locked(struct near__coherence *c, uint64_t position)
{
    uint64_t base = atomic_load_explicit(&c->base, memory_order_relaxed); /* as above */
    uint64_t seen = atomic_load_explicit(&c->highest, memory_order_seq_cst);
    if (seen < c->announced)
        seen = c->announced;
    uint64_t below = seen - base + 1;
    int jumped = base && position >= base && position - base >= NEAR_POSITION_MAX && position < POSITION_ABSURD;
    if (!jumped || seen < base || below > NEAR_POSITION_MAX / 2)
        return;
    if (below < HEADROOM)
        below = HEADROOM;
    atomic_store_explicit(&c->base, position - below, memory_order_relaxed);
}

void near__coherence_raise_highest(struct near__coherence *c, uint64_t position)
{
    /* seq_cst, all: pairs with known_locked in proof.c, which tells the server; "it is there already" must be as
     * strong */
    uint64_t highest = atomic_load_explicit(&c->highest, memory_order_seq_cst);
    while (highest < position && !atomic_compare_exchange_weak_explicit(&c->highest, &highest, position,
                                                                        memory_order_seq_cst, memory_order_seq_cst))
        ;
}

/* A reply broke the order.  While the next proof is going to begin a new incarnation anyway, further ones are no
 * news. */
static void order_lost(struct near__coherence *c, uint64_t before, uint64_t position)
{
    pthread_mutex_lock(&c->lock);
    int news = !(c->suspicion & NEAR_SUSPECT_LIFT);
    if (news) {
        near__proof_suspect_locked(c, NEAR_SUSPECT_ORDER);
        near__coherence_kick_locked(c);
    }
    pthread_mutex_unlock(&c->lock);
    if (!news)
        return;
    near__coherence_add(&c->position_regressions);
    near__log(c->log, NEAR_LOG_WARNING, "coherence", "the server's position fell from %" PRIu64 " to %" PRIu64, before,
              position);
}

struct near__mark near__coherence_mark(const struct near__coherence *c)
{
    /* acquire: the caller's command is sent after; whatever is counted here the server did before */
    uint64_t incarnation = atomic_load_explicit(&c->incarnation, memory_order_acquire);
    return (struct near__mark){.incarnation = incarnation,
                               .highest = atomic_load_explicit(&c->highest, memory_order_acquire)};
}

/* Whether the reply is of the history that the subscription follows. */
static int is_current(const struct near__coherence *c, struct near__mark before, const struct near__request *reply)
{
    /* seq_cst: pairs with begin_incarnation_locked in proof.c */
    uint64_t incarnation = atomic_load_explicit(&c->incarnation, memory_order_seq_cst);
    return before.incarnation != 0 && before.incarnation == incarnation &&
           reply->server == atomic_load_explicit(&c->server_id, memory_order_acquire);
}

/* The server answers: what the subscription waits for has come.  Once for each of its failures, so that a server which
 * answers requests and no subscriptions is not asked at every reply. */
static void hear_of_server(struct near__coherence *c)
{
    pthread_mutex_lock(&c->lock);
    if (atomic_exchange_explicit(&c->is_away, 0, memory_order_relaxed)) { /* relaxed: under lock */
        int64_t soon = near__now(c->clock) + near__coherence_backoff_locked(c, 0);
        if (soon < c->reopen_ns)
            c->reopen_ns = soon;
        pthread_cond_broadcast(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
}

uint64_t near__coherence_position(struct near__coherence *c, struct near__mark before,
                                  const struct near__request *reply)
{
    if (atomic_load_explicit(&c->is_away, memory_order_relaxed)) /* relaxed: the next reply sees it */
        hear_of_server(c);
    uint64_t position = reply->position;
    if (!position || !is_current(c, before, reply))
        return 0;
    if (position < before.highest && !NEAR_MUTANT(FALLEN_NUMBER_IGNORED)) {
        order_lost(c, before.highest, position);
        return 0;
    }
    if (!near__coherence_in_range(c, position))
        return 0;
    near__coherence_raise_highest(c, position);
    /* once more, after `highest` is raised: see there */
    return is_current(c, before, reply) ? near__coherence_relative(c, position) : 0;
}

/* ---------------------------------------------------------------- messages out */

uint64_t near__coherence_next_write(struct near__coherence *c)
{
    return atomic_fetch_add_explicit(&c->next_write, 1, memory_order_relaxed); /* unique is enough */
}

static struct near__message new_message(struct near__coherence *c, enum near__message_operation operation, size_t count)
{
    return (struct near__message){
        .operation = operation,
        .sender = c->sender,
        .write_id = near__coherence_next_write(c),
        .sent_ns = near__now(c->clock),
        .host = c->host,
        .key_count = count,
    };
}

void near__coherence_body_of(struct near__coherence *c, enum near__message_operation operation, const void *const *keys,
                             const size_t *key_sizes, size_t count, struct near__buffer *b)
{
    struct near__message m = new_message(c, operation, count);
    near__message_encode(b, &m, keys, key_sizes);
}

struct near__message near__coherence_batch(struct near__coherence *c, enum near__message_operation operation)
{
    return new_message(c, operation, 1);
}

void near__coherence_body_in(const struct near__message *batch, const void *key, size_t key_size,
                             struct near__buffer *b)
{
    near__message_encode(b, batch, &key, &key_size);
}

void near__coherence_body_roll(struct near__coherence *c, uint64_t roll, struct near__buffer *b)
{
    const void *name = c->private_name;
    size_t size = strlen(c->private_name);
    struct near__message m = new_message(c, NEAR_MESSAGE_BARRIER, 1);
    m.write_id = roll;
    near__message_encode(b, &m, &name, &size);
}

void near__coherence_body_asking(struct near__coherence *c, const void *key, size_t key_size, struct near__buffer *b)
{
    struct near__message m = new_message(c, NEAR_MESSAGE_SET, 1);
    m.asks = 1;
    near__message_encode(b, &m, &key, &key_size);
}

void near__coherence_body_value(struct near__coherence *c, const void *key, size_t key_size, const void *value,
                                size_t value_size, int64_t ttl_ms, struct near__buffer *b)
{
    struct near__message m = new_message(c, NEAR_MESSAGE_SET, 1);
    m.has_value = 1;
    m.value = value;
    m.value_size = value_size;
    m.ttl_ms = ttl_ms;
    near__message_encode(b, &m, &key, &key_size);
}

void near__coherence_body(struct near__coherence *c, enum near__message_operation operation, const void *key,
                          size_t key_size, struct near__buffer *b)
{
    near__coherence_body_of(c, operation, &key, &key_size, operation == NEAR_MESSAGE_CLEAR ? 0 : 1, b);
}

/* ---------------------------------------------------------------- waiting and timing */

int64_t near__coherence_backoff_locked(struct near__coherence *c, unsigned failures)
{
    int64_t pause = c->backoff_min_ns;
    while (!NEAR_MUTANT(NO_BACKOFF) && failures-- > 0 && pause < c->backoff_max_ns)
        pause *= 2;
    if (pause > c->backoff_max_ns)
        pause = c->backoff_max_ns;
    uint64_t half_us = (uint64_t)(pause / 2000);
    return pause / 2 + (int64_t)near__random_below(&c->random, (uint32_t)half_us + 1) * 1000;
}

void near__coherence_pause_locked(struct near__coherence *c, int is_away)
{
    c->reopen_ns = near__now(c->clock) + near__coherence_backoff_locked(c, c->open_failures++);
    /* relaxed: a hint */
    atomic_store_explicit(&c->is_away, is_away && !NEAR_MUTANT(RETURN_UNHEARD), memory_order_relaxed);
}

/* Until something changes, or the time; may return early. */
void near__coherence_wait_locked(struct near__coherence *c, int64_t until_ns)
{
    int64_t now_ns = near__now(c->clock), most_ns = now_ns + NEAR_NS_PER_S;
    if (until_ns > now_ns)
        near__condition_wait(c->clock, &c->changed, &c->lock, until_ns < most_ns ? until_ns : most_ns);
}

void near__coherence_kick_locked(struct near__coherence *c)
{
    if (c->channel)
        near__channel_wake(c->remote, c->channel);
    pthread_cond_broadcast(&c->changed);
}

/* ---------------------------------------------------------------- open and close */

static int is_stopping(struct near__coherence *c)
{
    pthread_mutex_lock(&c->lock);
    int stopping = c->stopping;
    pthread_mutex_unlock(&c->lock);
    return stopping;
}

static void *subscriber_main(void *arg)
{
    struct near__coherence *c = arg;
    near__thread_name("near-sub");
    while (!is_stopping(c))
        near__subscriber_step(c, 1);
    return NULL;
}

static void *prover_main(void *arg)
{
    struct near__coherence *c = arg;
    near__thread_name("near-prove");
    while (!is_stopping(c))
        near__prover_step(c, 1);
    return NULL;
}

/* Which machine's monotonic clock the times in messages are from; 0: cannot be told. */
static uint64_t host_tag(void)
{
    char id[64];
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t size = read(fd, id, sizeof(id));
    close(fd);
    return size > 0 ? near__hash(id, (size_t)size, 0) : 0;
}

static int init_ids(struct near__coherence *c, uint64_t seed)
{
    c->random = seed;
    if (!seed && near__random_seed(&c->random, sizeof(c->random)) < 0)
        return -1;
    c->sender = near__random_next(&c->random);
    c->next_nonce = (near__random_next(&c->random) >> 2) + 1; /* not to be guessed; stays positive in 64 bits */
    atomic_init(&c->next_write, near__random_next(&c->random));
    c->next_roll = (near__random_next(&c->random) >> 2) + 1; /* likewise */
    /* who hears of a write can answer its writer */
    snprintf(c->private_name, sizeof(c->private_name), "%016" PRIx64, c->sender);
    c->host = host_tag();
    return 0;
}

static void init_config(struct near__coherence *c, const struct near__coherence_config *config)
{
    c->alloc = config->alloc;
    c->clock = config->clock;
    c->log = config->log;
    c->local = config->local;
    c->remote = config->remote;
    c->gate = near__local_gate(config->local);
    c->manual = config->manual;
    c->tracking = config->tracking;
    near__repair_init(c, config->repair_rate);
    c->heard = config->heard;
    c->heard_arg = config->heard_arg;
    c->backoff_min_ns = (config->backoff_min_ms ? config->backoff_min_ms : 1) * NEAR_NS_PER_MS;
    c->backoff_max_ns = config->backoff_max_ms * NEAR_NS_PER_MS;
    if (c->backoff_max_ns < c->backoff_min_ns)
        c->backoff_max_ns = c->backoff_min_ns;
    c->connect_timeout_ns = (config->connect_timeout_ms ? config->connect_timeout_ms : 1) * NEAR_NS_PER_MS;
    c->suspicion = NEAR_SUSPECT_START;
    c->proved_ns = NEAR_PROVED_NEVER;
    c->attempt.begun_ns = c->reopen_ns = INT64_MIN / 2; /* long ago */
    c->next_proof_ns = near__now(c->clock);
    near__local_set_bound(c->local, config->bound_ms * NEAR_NS_PER_MS);
    near__local_withdraw(c->local, NEAR_PROVED_NEVER);
}

static void init_sync(struct near__coherence *c)
{
    near__condition_init(&c->changed);
    pthread_mutex_init(&c->lock, NULL);
}

void near__coherence_stop(struct near__coherence *c)
{
    pthread_mutex_lock(&c->lock);
    c->stopping = 1;
    near__coherence_kick_locked(c);
    pthread_mutex_unlock(&c->lock);
}

static void destroy(struct near__coherence *c)
{
    if (c->channel)
        near__channel_close(c->remote, c->channel);
    near__barrier_fini(c);
    near__repair_fini(c);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    near__free(c->alloc, c);
}

static int start_threads(struct near__coherence *c)
{
    if (near__thread_start(&c->subscriber_thread, subscriber_main, c) != 0)
        return -1;
    if (near__thread_start(&c->prover_thread, prover_main, c) == 0)
        return 0;
    near__coherence_stop(c);
    pthread_join(c->subscriber_thread, NULL);
    return -1;
}

int near__coherence_open(const struct near__coherence_config *config, struct near__coherence **ret, near_error *error)
{
    struct near__coherence *c = near__alloc_zero(config->alloc, sizeof(*c));
    if (!c)
        return near__fail(error, NEAR_ERR_NOMEM, "%s", near_status_text(NEAR_ERR_NOMEM));
    init_config(c, config);
    init_sync(c);
    if (init_ids(c, config->seed) < 0) {
        destroy(c);
        return near__fail(error, NEAR_ERR_SYSTEM, "the kernel gives no random bytes");
    }
    if (!c->manual && start_threads(c) < 0) {
        destroy(c);
        return near__fail(error, NEAR_ERR_SYSTEM, "cannot create a thread");
    }
    *ret = c;
    return NEAR_OK;
}

void near__coherence_close(struct near__coherence *c)
{
    if (!c)
        return;
    if (!c->manual) {
        near__coherence_stop(c);
        pthread_join(c->subscriber_thread, NULL);
        pthread_join(c->prover_thread, NULL);
    }
    destroy(c);
}

/* ---------------------------------------------------------------- calls */

int near__coherence_step(struct near__coherence *c)
{
    return near__prover_step(c, 0) || near__subscriber_step(c, 0);
}

int near__coherence_go_on_locked(struct near__coherence *c, int64_t deadline_ns)
{
    if (near__now(c->clock) >= deadline_ns)
        return 0;
    if (!c->manual) {
        near__coherence_wait_locked(c, deadline_ns);
        return 1;
    }
    pthread_mutex_unlock(&c->lock);
    int done = near__coherence_step(c) || near__coherence_step(c); /* one may do no more than hear our own wake-up */
    pthread_mutex_lock(&c->lock);
    return done;
}

void near__coherence_set_bound(struct near__coherence *c, uint32_t bound_ms)
{
    int64_t bound = bound_ms * NEAR_NS_PER_MS;
    pthread_mutex_lock(&c->lock);
    /* relaxed: written under the lock only.  Who waits for barriers must know of a longer bound before anything is
     * served by it; a heartbeat under way, or one without an answer, may tell them of this one. */
    int known_shorter =
        (c->list || c->running || c->unheard) && bound > atomic_load_explicit(&c->gate->bound_ns, memory_order_relaxed);
    if (known_shorter)
        near__proof_suspect_locked(c, 0);
    if (c->suspicion || known_shorter)
        near__proof_withdraw_locked(c, bound); /* before a longer bound could bring a withdrawn proof back */
    near__local_set_bound(c->local, bound);
    if (known_shorter)
        c->proved_ns = atomic_load_explicit(&c->gate->proved_ns, memory_order_relaxed); /* as above */
    int64_t next_ns = c->proved_ns == NEAR_PROVED_NEVER ? c->next_proof_ns : c->proved_ns + near__proof_interval_ns(c);
    if (next_ns < c->next_proof_ns)
        c->next_proof_ns = next_ns;
    near__coherence_kick_locked(c);
    pthread_mutex_unlock(&c->lock);
}

static int report_locked(const struct near__coherence *c, int status, near_error *error)
{
    if (c->problem.status == NEAR_OK)
        return near__fail(error, status, "freshness was not proven in time");
    return near__fail(error, status, "%s", c->problem.text);
}

int near__coherence_wait(struct near__coherence *c, int64_t deadline_ns, near_error *error)
{
    int status = NEAR_OK;
    pthread_mutex_lock(&c->lock);
    while (!near__proof_stands_locked(c))
        if (!near__coherence_go_on_locked(c, deadline_ns)) {
            status = report_locked(c, NEAR_ERR_TIMEOUT, error);
            break;
        }
    pthread_mutex_unlock(&c->lock);
    return status;
}

/* Asks for a proof that begins from here on: both connections, now.  Returns the number of the first attempt that will
 * do. */
static uint64_t want_locked(struct near__coherence *c)
{
    c->wanted_nonce = c->next_nonce;
    int64_t now = near__now(c->clock);
    if (now < c->next_proof_ns)
        c->next_proof_ns = now;
    near__coherence_kick_locked(c);
    return c->next_nonce;
}

int near__coherence_fence(struct near__coherence *c, int64_t deadline_ns)
{
    pthread_mutex_lock(&c->lock);
    int64_t last_ns = near__now(c->clock) + 2 * near__proof_patience_ns(c); /* the one under way, and ours */
    uint64_t wanted = want_locked(c);
    if (NEAR_MUTANT(UNDER_WAY_COUNTS) && c->attempt.nonce)
        wanted = c->attempt.nonce;
    while (c->suspicion == 0 && c->proved_nonce < wanted &&
           near__coherence_go_on_locked(c, last_ns < deadline_ns ? last_ns : deadline_ns))
        ;
    int fenced = c->suspicion == 0 && c->proved_nonce >= wanted;
    pthread_mutex_unlock(&c->lock);
    return fenced;
}

int near__coherence_check(struct near__coherence *c, int64_t deadline_ns, near_error *error)
{
    int status = NEAR_OK;
    pthread_mutex_lock(&c->lock);
    uint64_t wanted = want_locked(c), mine = ++c->checks;
    while (c->proved_nonce < wanted)
        if (c->refused >= mine || !near__coherence_go_on_locked(c, deadline_ns)) {
            status = report_locked(c, c->problem.status < 0 ? c->problem.status : NEAR_ERR_TIMEOUT, error);
            break;
        }
    pthread_mutex_unlock(&c->lock);
    return status;
}

static uint64_t count_of(const _Atomic(uint64_t) *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed); /* a statistic: no order needed */
}

void near__coherence_stats(const struct near__coherence *c, near_stats *stats)
{
    struct near__coherence *mutable = (struct near__coherence *)c; /* for its lock only */
    stats->messages = count_of(&c->messages);
    stats->messages_own = count_of(&c->messages_own);
    stats->messages_bad = count_of(&c->messages_bad);
    stats->messages_kept = count_of(&c->messages_kept);
    stats->messages_foreign = count_of(&c->messages_foreign);
    stats->message_gaps = count_of(&c->message_gaps);
    stats->repair_compared = count_of(&c->repair_compared);
    stats->repair_kept = count_of(&c->repair_kept);
    stats->repair_dropped = count_of(&c->repair_dropped);
    stats->proofs = count_of(&c->proofs);
    stats->proofs_failed = count_of(&c->proofs_failed);
    stats->subscriptions = count_of(&c->subscriptions);
    stats->disconnections = count_of(&c->disconnections);
    stats->suspicions = count_of(&c->suspicions);
    stats->server_changes = count_of(&c->server_changes);
    stats->position_regressions = count_of(&c->position_regressions);
    stats->barriers = count_of(&c->barriers);
    stats->barriers_incomplete = count_of(&c->barriers_incomplete);
    near__histogram_quantiles(&c->invalidation_ns, &stats->invalidation_ns);
    stats->message_applied_ns = atomic_load_explicit(&c->applied_ns, memory_order_relaxed); /* as the counters */
    pthread_mutex_lock(&mutable->lock);
    int never = c->proved_ns == NEAR_PROVED_NEVER;
    stats->proof_age_ms = never ? -1 : (near__now(c->clock) - c->proved_ns) / NEAR_NS_PER_MS;
    stats->proven = (uint32_t)near__proof_stands_locked(c);
    pthread_mutex_unlock(&mutable->lock);
}
