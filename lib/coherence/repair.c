/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Repair: what became suspect is compared with the remote tier instead of being fetched again.
 *
 * After a hole, or with another server, the watermark has passed everything that is in the tier (complete_locked in
 * proof.c).  Most of it is as good as before: few keys are written during an outage.  To drop all of it would make
 * every process fetch every key again, just when the server has come back.  So a run goes through the suspect entries,
 * those first that were read last, and asks the remote tier about many at a time: is this still the value?
 * (NEAR_OP_COMPARE; for all but short values their digest is sent.)  Who reads a suspect key meanwhile fetches it, as
 * ever.
 *
 *   REST      nothing to do                    ── something became suspect ──>  PAUSE
 *   PAUSE     until due_ns, if all is proven   ── then ──>  gather: keys and values, then tickets, then the mark
 *   SEND      a batch is gathered              ── one request, many keys ──>  SETTLE
 *   SETTLE    answers are there                ── each as below ──>  PAUSE
 *
 *   answer               action
 *   ------------------   --------------------------------------------------------------------------------------------
 *   the same             the value is kept as if it had been fetched now, in the place of the suspect entry
 *   another, or absent   the entry goes (I4)
 *   none, or its         nothing; the batch comes again.  After FAILURES_MAX in a row everything suspect is
 *   position is of no    forsaken: the plain flush
 *   use
 *
 * Why that is right.  "At position P the key had the value v" is what the reply to a fetch says, and that v was sent by
 * us and not to us changes nothing about it.  So every rule for replies applies as it stands: the ticket is taken
 * before the request is sent (R01, R22), the mark too, and the position counts only if the reply is of the server and
 * the incarnation that the subscription follows (R10, R31); near__local_renew installs by I1.  Nothing is concluded
 * from the suspect entry's own position.  That is why positions need not be comparable: a server that has lost data, or
 * another one, is asked in the same way, and entries that happen to agree with it are good.  The time to live is the
 * server's (R20).
 *
 * The server's load.  Each process sends `rate` keys a second, with jitter, and on the average pauses at least as long
 * as the last batch took: when many processes repair at once, or the server is slow for another reason, answers take
 * longer and everybody asks less.
 *
 * The prover's thread does it, between two heartbeats: a heartbeat waits for one batch at most, and a batch is not
 * waited for longer than a heartbeat would be. */
#include <string.h>

#include "base/mutant.h"
#include "base/random.h"
#include "coherence/proof.h"
#include "nearcache.h"

enum {
    BATCH = 128,     /* keys: 0.2 ms of the server's time */
    BATCH_MAX = 384, /* what near__local_suspects may come to */
    FAILURES_MAX = 8,
    /* larger values are left to the next read: their digest takes the server longer than others should wait */
    VALUE_MAX = 65536,
    BYTES_MAX = 4 << 20 /* of a batch */
};
#define START_NS (20 * NEAR_NS_PER_MS) /* processes that lost their subscriptions together do not begin together */

struct near__suspected {
    struct near__ticket ticket;
    size_t at, key_size, value_size; /* in the batch's bytes: the key, then the value */
};

struct near__batch {
    struct near__coherence *c;
    size_t count;
    struct near__mark mark;
    struct near__buffer bytes;
    struct near__suspected item[BATCH_MAX];
    struct near__request request[BATCH_MAX];
};

/* ---------------------------------------------------------------- runs */

static void rest(struct near__coherence *c)
{
    if (c->repair.batch) {
        near__buffer_fini(&c->repair.batch->bytes);
        near__free(c->alloc, c->repair.batch);
    }
    c->repair.batch = NULL;
    c->repair.stage = NEAR_REPAIR_REST;
}

static int64_t jittered(struct near__coherence *c, int64_t ns)
{
    pthread_mutex_lock(&c->lock);
    int64_t half = ns / 2, more = (int64_t)near__random_below(&c->random, (uint32_t)(ns / 1000) + 1) * 1000;
    pthread_mutex_unlock(&c->lock);
    return half + more;
}

/* Another run has been asked for: everything from the beginning. */
static void begin(struct near__coherence *c, unsigned run)
{
    struct near__repair *r = &c->repair;
    rest(c);
    r->run = run;
    r->failures = 0;
    r->batch = near__alloc(c->alloc, sizeof(*r->batch));
    if (!r->batch) {
        near__local_forsake(c->local);
        return;
    }
    r->batch->c = c;
    r->batch->count = 0;
    near__buffer_init(&r->batch->bytes, c->alloc);
    near__buffer_reserve(&r->batch->bytes, 1); /* an empty key and its empty value have an address, too */
    near__local_suspects_begin(c->local, &r->walk);
    r->due_ns = near__now(c->clock) + jittered(c, START_NS);
    r->stage = NEAR_REPAIR_PAUSE;
}

/* What is still suspect is not worth more requests.  Not when another run has been asked for: then it is that one's. */
static void end(struct near__coherence *c, int failed)
{
    pthread_mutex_lock(&c->lock);
    int again = c->repair.wanted != c->repair.run;
    pthread_mutex_unlock(&c->lock);
    if (!again)
        near__local_forsake(c->local);
    rest(c);
    near__log(c->log, failed ? NEAR_LOG_WARNING : NEAR_LOG_INFO, "coherence", "%s",
              failed ? "suspect entries could not be compared with the remote tier and are dropped"
                     : "suspect entries have been compared with the remote tier");
}

/* ---------------------------------------------------------------- a batch */

static void take(void *arg, const void *key, size_t key_size, const void *value, size_t value_size)
{
    struct near__batch *b = arg;
    if (b->count == BATCH_MAX || value_size > VALUE_MAX || b->bytes.size > BYTES_MAX)
        return;
    b->item[b->count++] = (struct near__suspected){.at = b->bytes.size, .key_size = key_size, .value_size = value_size};
    near__buffer_append(&b->bytes, key, key_size);
    near__buffer_append(&b->bytes, value, value_size);
}

static const unsigned char *key_of(const struct near__batch *b, size_t i)
{
    return b->bytes.data + b->item[i].at;
}

static const unsigned char *value_of(const struct near__batch *b, size_t i)
{
    return b->bytes.data + b->item[i].at + b->item[i].key_size;
}

static struct near__ticket ticket_of(const struct near__batch *b, size_t i)
{
    return near__local_ticket(b->c->local, key_of(b, i), b->item[i].key_size);
}

/* 1: there is a batch, 0: there is nothing yet. */
static int gather(struct near__coherence *c)
{
    struct near__repair *r = &c->repair;
    struct near__batch *b = r->batch;
    r->before = r->walk;
    b->count = b->bytes.size = 0;
    near__local_suspects(c->local, &r->walk, BATCH, take, b);
    if (b->bytes.failed) { /* without memory there is nothing to be saved */
        end(c, 1);
        return 0;
    }
    for (size_t i = 0; i < b->count; i++)
        b->item[i].ticket = ticket_of(b, i);
    b->mark = near__coherence_mark(c);
    if (b->count > 0)
        return 1;
    if (r->walk.over)
        end(c, 0);
    return 0;
}

static void send(struct near__coherence *c)
{
    struct near__batch *b = c->repair.batch;
    for (size_t i = 0; i < b->count; i++)
        b->request[i] = (struct near__request){.operation = NEAR_OP_COMPARE,
                                               .key = key_of(b, i),
                                               .key_size = b->item[i].key_size,
                                               .value = value_of(b, i),
                                               .value_size = b->item[i].value_size};
    c->repair.sent_ns = near__now(c->clock);
    near__remote_run(c->remote, b->request, b->count, c->repair.sent_ns + near__proof_patience_ns(c));
}

/* 0: the answer is of no use. */
static int settle_one(struct near__coherence *c, struct near__reader *reader, const struct near__batch *b, size_t i)
{
    const struct near__request *q = &b->request[i];
    uint64_t position = 0;
    if (q->status >= 0)
        position = NEAR_MUTANT(REPAIR_UNMARKED) ? near__coherence_relative(c, q->position)
                                                : near__coherence_position(c, b->mark, q);
    if (!position || !reader)
        return 0;
    struct near__ticket ticket = NEAR_MUTANT(REPAIR_TICKET_LATE) ? ticket_of(b, i) : b->item[i].ticket;
    if (q->status != NEAR_OK && !NEAR_MUTANT(REPAIR_UNCOMPARED)) {
        near__local_observe(c->local, q->key, q->key_size, position);
        near__coherence_add(&c->repair_dropped);
    } else if (near__local_renew(c->local, reader, ticket, q->key, q->key_size, q->value, q->value_size, position,
                                 NEAR_MUTANT(REPAIR_UNDYING) ? -1 : q->ttl_left_ms, q->sent_ns)) {
        near__coherence_add(&c->repair_kept);
    }
    near__coherence_add(&c->repair_compared);
    return 1;
}

static void settle(struct near__coherence *c)
{
    struct near__repair *r = &c->repair;
    struct near__reader *reader = near__local_reader(c->local);
    int64_t taken_ns = near__now(c->clock) - r->sent_ns;
    int64_t turn_ns = (int64_t)r->batch->count * NEAR_NS_PER_S / r->rate, least_ns = 2 * taken_ns;
    int failed = 0;
    for (size_t i = 0; i < r->batch->count; i++)
        failed |= !settle_one(c, reader, r->batch, i);
    r->failures = failed ? r->failures + 1 : 0;
    if (r->failures > FAILURES_MAX) {
        end(c, 1);
        return;
    }
    if (failed)
        r->walk = r->before; /* what has been settled is not suspect any more */
    for (unsigned i = 0; i < r->failures; i++)
        turn_ns *= 2;
    r->due_ns = r->sent_ns + (NEAR_MUTANT(REPAIR_UNPACED) ? 0 : jittered(c, turn_ns > least_ns ? turn_ns : least_ns));
    r->stage = NEAR_REPAIR_PAUSE;
}

/* ---------------------------------------------------------------- the prover's part */

void near__repair_init(struct near__coherence *c, uint32_t rate)
{
    c->repair.rate = c->tracking ? 0 : rate;
}

void near__repair_fini(struct near__coherence *c)
{
    rest(c);
}

void near__repair_want_locked(struct near__coherence *c)
{
    c->repair.wanted++;
    pthread_cond_broadcast(&c->changed);
}

/* When there is something to do: a time in the past for at once, NEAR_NEVER for not before something changes. */
int64_t near__repair_due_locked(const struct near__coherence *c)
{
    const struct near__repair *r = &c->repair;
    if (r->stage == NEAR_REPAIR_SEND || r->stage == NEAR_REPAIR_SETTLE)
        return INT64_MIN;
    if (c->suspicion)
        return NEAR_NEVER;
    if (r->wanted != r->run)
        return INT64_MIN;
    return r->stage == NEAR_REPAIR_PAUSE ? r->due_ns : NEAR_NEVER;
}

/* One stage a call, so that a heartbeat comes between them; and so that tests put anything else there. */
void near__repair_step(struct near__coherence *c)
{
    struct near__repair *r = &c->repair;
    if (r->stage == NEAR_REPAIR_SEND) {
        send(c);
        r->stage = NEAR_REPAIR_SETTLE;
        return;
    }
    if (r->stage == NEAR_REPAIR_SETTLE) {
        settle(c);
        return;
    }
    pthread_mutex_lock(&c->lock);
    unsigned wanted = r->wanted;
    pthread_mutex_unlock(&c->lock);
    if (wanted != r->run)
        begin(c, wanted);
    else if (gather(c))
        r->stage = NEAR_REPAIR_SEND;
}
