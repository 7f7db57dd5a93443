/* SPDX-License-Identifier: BSD-3-Clause
 * A data connection that threads share.
 *
 * Queue.  Jobs are written in the order in which they came and answered in the same order, so a reply belongs to the
 * first job that is not complete (R15).
 *
 *          head                            sending                     tail
 *     [answered in part] [sent] [sent] [sent in part] [unsent] [unsent]
 *
 * Leader and followers.  Nobody owns the connection; the thread that finds it without a driver drives it: polls, reads,
 * hands out replies to everybody, until its own job is done; then it wakes the last job of the queue to go on.  One
 * lone caller therefore does everything itself and never changes threads.  The last one and not the first, because its
 * reply comes last: it can drive all the others home.
 *
 * Who writes.  A newcomer writes what is unsent itself when the driver sits in poll (`polling`); otherwise it only
 * appends, since the driver flushes before its next poll: under load many commands go out in one call.  When the socket
 * takes no more while the driver polls for input only, the newcomer wakes it through wake_fd.
 *
 *     field            who may touch it
 *     queue, state     mutex
 *     link, reading    the driver, without the mutex (driven is set under it); idle: under the mutex while nobody
 *                     drives
 *     link, writing    mutex (READY, RETIRED); the driver alone while OPENING
 *     polling, load    atomics, see there
 *
 * A job that leaves at its deadline.  Nothing sent: it is taken out, and that is all.  Sent whole: its replies are
 * still to come, so the job behind it has to `skip` as many.  Sent in part: nothing can be written any more, those
 * behind are told UNSENT.  In the last two cases the connection is RETIRED: others may still get their answers, then it
 * is closed. */
#include "remote/connection.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/condition.h"
#include "base/mutant.h"

enum { REPLIES_AT_ONCE = 64, IDLE_CHECK_MS = 10 };

struct near__connection {
    struct near__host *host;
    atomic_int refs;
    _Atomic(unsigned) load; /* relaxed: a hint for choosing among connections */
    /* enum near__connection_state; written under mutex; acquire/release: READY publishes link.server */
    _Atomic(int) state;
    _Atomic(int) polling; /* 1 from before the driver gives up the mutex until it has come out of poll */
    _Atomic(int) blamed;
    pthread_mutex_t mutex;
    struct near__job *head, *tail, *sending; /* sending: first job with unsent bytes */
    int driven, write_broken, was_ready;
    int more; /* the parser may hold complete replies; the driver's, like link */
    int wake_fd;
    int64_t used_ns, opened_ns;
    struct near__link link;
    struct near__fault fault; /* why it is DEAD */
};

/* What one round of reading brought. */
struct round {
    struct near__reply *replies[REPLIES_AT_ONCE];
    size_t count;
    int more; /* more complete replies may be in the parser */
    int failed;
    struct near__fault fault;
};

/* ---------------------------------------------------------------- life */

struct near__connection *near__connection_new(struct near__host *host, int64_t open_deadline_ns,
                                              struct near__fault *fault)
{
    struct near__connection *c = near__alloc_zero(host->alloc, sizeof *c);
    if (!c) {
        near__fault_set(fault, NEAR_ERR_NOMEM, "out of memory for a connection");
        return NULL;
    }
    c->host = host;
    atomic_init(&c->refs, 1);
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->wake_fd < 0) {
        near__fault_set(fault, NEAR_ERR_SYSTEM, "eventfd: %m");
        near__free(host->alloc, c);
        return NULL;
    }
    near__descriptors_add(&host->descriptors, c->wake_fd);
    if (near__link_init(&c->link, host, NEAR_LINK_DATA, open_deadline_ns) != NEAR_OK) {
        near__fault_set(fault, NEAR_ERR_NOMEM, "out of memory for a connection");
        near__descriptors_close(&host->descriptors, c->wake_fd);
        near__free(host->alloc, c);
        return NULL;
    }
    pthread_mutex_init(&c->mutex, NULL);
    c->opened_ns = near__now(host->clock);
    return c;
}

void near__connection_ref(struct near__connection *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed); /* the caller's or the pool's keeps it alive */
}

void near__connection_unref(struct near__connection *c)
{
    /* acq_rel: the last one sees all that the others did */
    if (!c || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) > 1)
        return;
    near__link_fini(&c->link);
    near__descriptors_close(&c->host->descriptors, c->wake_fd);
    pthread_mutex_destroy(&c->mutex);
    near__free(c->host->alloc, c);
}

enum near__connection_state near__connection_state(struct near__connection *c)
{
    /* acquire: pairs with set_state; READY publishes link.server */
    return (enum near__connection_state)atomic_load_explicit(&c->state, memory_order_acquire);
}

static void set_state(struct near__connection *c, enum near__connection_state state)
{
    /* release: pairs with near__connection_state */
    atomic_store_explicit(&c->state, (int)state, memory_order_release);
}

static int state_of(struct near__connection *c) /* under the mutex, where it cannot change */
{
    return atomic_load_explicit(&c->state, memory_order_relaxed);
}

unsigned near__connection_load(struct near__connection *c)
{
    return atomic_load_explicit(&c->load, memory_order_relaxed);
}

uint64_t near__connection_server(struct near__connection *c)
{
    return near__connection_state(c) == NEAR_CONNECTION_READY ? c->link.server : 0;
}

int64_t near__connection_opened_ns(struct near__connection *c)
{
    return c->opened_ns;
}

int near__connection_was_ready(struct near__connection *c)
{
    pthread_mutex_lock(&c->mutex);
    int was_ready = c->was_ready;
    pthread_mutex_unlock(&c->mutex);
    return was_ready;
}

int near__connection_blame(struct near__connection *c)
{
    return atomic_exchange_explicit(&c->blamed, 1, memory_order_relaxed) == 0; /* only the count matters */
}

/* ---------------------------------------------------------------- the queue (mutex held) */

static void wake_driver(struct near__connection *c)
{
    uint64_t one = 1;
    while (write(c->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

static void enqueue(struct near__connection *c, struct near__job *job)
{
    job->next = NULL;
    job->previous = c->tail;
    *(c->tail ? &c->tail->next : &c->head) = job;
    c->tail = job;
    if (!c->sending)
        c->sending = job;
    atomic_fetch_add_explicit(&c->load, 1, memory_order_relaxed);
}

static void dequeue(struct near__connection *c, struct near__job *job)
{
    *(job->previous ? &job->previous->next : &c->head) = job->next;
    *(job->next ? &job->next->previous : &c->tail) = job->previous;
    if (c->sending == job)
        c->sending = job->next;
    atomic_fetch_sub_explicit(&c->load, 1, memory_order_relaxed);
}

/* Takes a job off the queue with what it has got. */
static void finish(struct near__connection *c, struct near__job *job)
{
    uint64_t shown = job->sent;
    if (c->sending == job && state_of(c) != NEAR_CONNECTION_OPENING)
        shown += near__transport_offered(&c->link.transport);
    uint64_t begin = 0;
    for (size_t i = 0; i < job->count; i++) {
        struct near__call *call = &job->calls[i];
        if (call->got == call->replies)
            call->outcome = NEAR_CALL_ANSWERED;
        else
            call->outcome = begin < shown ? NEAR_CALL_LOST : NEAR_CALL_UNSENT;
        begin = call->end[call->replies - 1];
    }
    dequeue(c, job);
    job->done = 1;
    if (job->sleeps)
        pthread_cond_signal(&job->wake);
}

static void finish_with(struct near__connection *c, struct near__job *job, const struct near__fault *fault)
{
    job->fault = *fault;
    finish(c, job);
}

/* The end of the connection.  The first job in the queue learns the true reason when it is about its own reply (too
 * large, out of memory); for the others that is a broken connection. */
static void fail(struct near__connection *c, const struct near__fault *fault)
{
    struct near__fault others = *fault;
    if (state_of(c) == NEAR_CONNECTION_DEAD)
        return;
    if (fault->status == NEAR_ERR_TOO_LARGE || fault->status == NEAR_ERR_NOMEM || fault->status == NEAR_ERR_PROTOCOL)
        near__fault_set(&others, NEAR_ERR_IO, "the connection ended with another request: %.60s", fault->text);
    for (int first = 1; c->head; first = 0)
        finish_with(c, c->head, first ? fault : &others);
    if (state_of(c) != NEAR_CONNECTION_OPENING) {
        near__transport_shutdown(&c->link.transport);
        atomic_fetch_add_explicit(&c->host->lost, 1, memory_order_relaxed);
    }
    c->fault = *fault;
    set_state(c, NEAR_CONNECTION_DEAD);
    if (c->driven)
        wake_driver(c);
}

static void retire(struct near__connection *c)
{
    if (state_of(c) != NEAR_CONNECTION_DEAD)
        set_state(c, NEAR_CONNECTION_RETIRED);
}

/* The job at the head was sent in part, and the rest will never follow: a server that still takes bytes would wait for
 * it until the job's deadline.  It is told that there are none; not before those ahead have their replies. */
static void end_stream_after_replies(struct near__connection *c)
{
    if (c->write_broken && c->head && c->head->sent > 0 && c->head->sent < c->head->output.size)
        near__transport_finish(&c->link.transport);
}

/* Nothing can be written any more: what is wholly unsent may go elsewhere. */
static void break_writing(struct near__connection *c, const struct near__fault *fault)
{
    struct near__job *job = c->sending;
    c->write_broken = 1;
    retire(c);
    if (job)
        job->sent += near__transport_offered(&c->link.transport); /* shown to OpenSSL, so perhaps to the server */
    if (job && job->sent > 0)
        job = job->next; /* it has to wait for the end of the stream */
    while (job) {
        struct near__job *next = job->next;
        finish_with(c, job, fault);
        job = next;
    }
    c->sending = NULL;
    end_stream_after_replies(c);
}

/* Writes what is unsent, as far as the socket takes it. */
static void flush(struct near__connection *c)
{
    struct near__fault fault;
    while (c->sending && !c->write_broken && state_of(c) != NEAR_CONNECTION_DEAD) {
        struct near__job *job = c->sending;
        int r = near__link_send(&c->link, &job->output, &job->at, &job->sent, &fault);
        if (r < 0)
            break_writing(c, &fault);
        if (r <= 0)
            return;
        c->sending = job->next;
    }
}

/* ---------------------------------------------------------------- replies (mutex held) */

/* A reply that nobody waits for, or that comes before its command was sent, means that we do not know any more which
 * reply is whose.  Of a call's commands the first may have been sent and answered, and the others not. */
static int hand_out(struct near__connection *c, struct near__reply *reply, struct near__fault *fault)
{
    struct near__job *job = c->head;
    if (job && job->skip > 0) {
        job->skip--;
        near__reply_free(reply);
        return 0;
    }
    struct near__call *call = job ? &job->calls[job->answered] : NULL;
    if (!call || job->sent < call->end[call->got]) {
        if (reply->type == REDIS_REPLY_ERROR)
            near__reply_fault(reply, fault);
        else
            near__fault_set(fault, NEAR_ERR_PROTOCOL, "a reply that was not asked for");
        near__reply_free(reply);
        return -1;
    }
    call->reply[call->got++] = reply;
    if (call->got == call->replies && ++job->answered == job->count) {
        finish(c, job);
        end_stream_after_replies(c);
    }
    return 0;
}

static void hand_out_all(struct near__connection *c, struct round *round)
{
    for (size_t i = 0; i < round->count; i++) {
        if (state_of(c) == NEAR_CONNECTION_DEAD)
            near__reply_free(round->replies[i]);
        else if (hand_out(c, round->replies[i], &round->fault) != 0)
            fail(c, &round->fault);
    }
    if (round->failed && !round->more)
        fail(c, &round->fault);
}

/* Takes what is there without waiting.  Only complete replies that fit are handed on; with `more` the rest is in the
 * parser, and a failure comes again. */
static void read_round(struct near__connection *c, struct round *round, int may_receive)
{
    int parsed = 1;
    struct near__fault ignored;
    if (may_receive)
        round->failed = near__link_receive(&c->link, &round->fault) < 0;
    while (round->count < REPLIES_AT_ONCE) {
        parsed = near__link_next(&c->link, &round->replies[round->count], round->failed ? &ignored : &round->fault);
        if (parsed <= 0)
            break;
        round->count++;
    }
    round->more = parsed > 0;
    if (parsed < 0)
        round->failed = 1;
}

/* ---------------------------------------------------------------- driving (mutex held, given up inside) */

static void drain_wake(struct near__connection *c)
{
    uint64_t count;
    while (read(c->wake_fd, &count, sizeof count) < 0 && errno == EINTR)
        ;
}

static void check_closing(struct near__connection *c)
{
    struct near__fault fault;
    /* acquire: pairs with near__remote_interrupt's store */
    if (!atomic_load_explicit(&c->host->closing, memory_order_acquire))
        return;
    near__fault_set(&fault, NEAR_ERR_CLOSED, "the cache is being closed");
    fail(c, &fault);
}

static void drive_opening(struct near__connection *c, int64_t until_ns)
{
    struct near__fault fault;
    pthread_mutex_unlock(&c->mutex);
    int r = near__link_open_step(&c->link, c->wake_fd, until_ns, &fault);
    drain_wake(c);
    pthread_mutex_lock(&c->mutex);
    if (state_of(c) != NEAR_CONNECTION_OPENING)
        return; /* failed from outside in the meantime */
    if (r < 0)
        fail(c, &fault);
    if (r <= 0)
        return;
    atomic_fetch_add_explicit(&c->host->opened, 1, memory_order_relaxed);
    c->was_ready = 1;
    set_state(c, NEAR_CONNECTION_READY);
}

static void drive_ready(struct near__connection *c, struct near__job *job)
{
    struct round round;
    int may_wait = !c->more;
    flush(c);
    if (job->done)
        return;
    int has_output = c->sending != NULL && !c->write_broken;
    round.count = 0;
    round.failed = 0;
    /* release: pairs with the acquire in near__connection_run; see "Who writes" */
    atomic_store_explicit(&c->polling, may_wait, memory_order_release);
    pthread_mutex_unlock(&c->mutex);
    if (may_wait && near__link_wait(&c->link, has_output, c->wake_fd, job->deadline_ns))
        drain_wake(c);
    atomic_store_explicit(&c->polling, 0, memory_order_release);
    read_round(c, &round, may_wait);
    pthread_mutex_lock(&c->mutex);
    c->more = round.more;
    hand_out_all(c, &round);
}

/* The next driver: whoever came last and is still asleep. */
static void pass_on(struct near__connection *c)
{
    if (c->tail && c->tail->sleeps)
        pthread_cond_signal(&c->tail->wake);
}

static void drive(struct near__connection *c, struct near__job *job)
{
    c->driven = 1;
    while (!job->done && near__now(c->host->clock) < job->deadline_ns) {
        if (state_of(c) == NEAR_CONNECTION_OPENING)
            drive_opening(c, job->deadline_ns);
        else
            drive_ready(c, job);
        check_closing(c);
    }
    if (state_of(c) == NEAR_CONNECTION_READY || state_of(c) == NEAR_CONNECTION_RETIRED)
        flush(c);
    c->driven = 0;
}

/* ---------------------------------------------------------------- waiting and leaving */

static void go_to_sleep(struct near__connection *c, struct near__job *job)
{
    if (!job->sleeps) {
        near__condition_init(&job->wake);
        job->sleeps = 1;
    }
    near__condition_wait(c->host->clock, &job->wake, &c->mutex, job->deadline_ns);
}

/* The deadline has passed.  See "A job that leaves" above. */
static void leave(struct near__connection *c, struct near__job *job)
{
    struct near__job *behind = job->next;
    uint64_t outstanding = job->skip;
    size_t offered =
        c->sending == job && state_of(c) != NEAR_CONNECTION_OPENING ? near__transport_offered(&c->link.transport) : 0;
    int untouched = job->sent == 0 && offered == 0;
    int cut = !untouched && job->sent < job->output.size;
    near__fault_set(&job->fault, NEAR_ERR_TIMEOUT,
                    state_of(c) == NEAR_CONNECTION_OPENING ? "timed out while connecting to %s"
                                                           : "%s did not answer in time",
                    c->host->target.name);
    job->timed_out = 1;
    atomic_fetch_add_explicit(&c->host->timeouts, 1, memory_order_relaxed);
    if (cut)
        break_writing(c, &job->fault);
    for (size_t i = job->answered; i < job->count && !untouched; i++)
        outstanding += job->calls[i].replies - job->calls[i].got;
    if (behind && !cut && !NEAR_MUTANT(LATE_REPLY_TAKEN))
        behind->skip += outstanding;
    finish(c, job);
    if (untouched || NEAR_MUTANT(LATE_REPLY_TAKEN))
        return;
    retire(c);
    if (!c->head)
        fail(c, &job->fault);
}

/* An idle connection may have been closed by the server; better to find out before a write is put on it.  0: it is
 * good. */
static int look_before_use(struct near__connection *c)
{
    int64_t now = near__now(c->host->clock);
    int idle = !c->head && !c->driven && state_of(c) == NEAR_CONNECTION_READY;
    if (!idle || now - c->used_ns < IDLE_CHECK_MS * NEAR_NS_PER_MS)
        return 0;
    struct round round;
    round.count = 0;
    read_round(c, &round, 1);
    hand_out_all(c, &round);
    return state_of(c) == NEAR_CONNECTION_READY ? 0 : -1;
}

int near__connection_run(struct near__connection *c, struct near__job *job)
{
    pthread_mutex_lock(&c->mutex);
    if (state_of(c) > NEAR_CONNECTION_READY || look_before_use(c) != 0) {
        pthread_mutex_unlock(&c->mutex);
        return 0;
    }
    job->sent_ns = near__now(c->host->clock);
    enqueue(c, job);
    /* acquire: pairs with drive_ready's release.  0 means that the driver will take the mutex and flush before it
     * waits. */
    if (c->driven && state_of(c) == NEAR_CONNECTION_READY && atomic_load_explicit(&c->polling, memory_order_acquire)) {
        flush(c);
        if (c->sending || c->write_broken)
            wake_driver(c);
    }
    while (!job->done && near__now(c->host->clock) < job->deadline_ns) {
        if (c->driven)
            go_to_sleep(c, job);
        else
            drive(c, job);
    }
    if (!job->done)
        leave(c, job);
    if (!c->driven)
        pass_on(c);
    /* without an answer the link may still be being opened, by a driver that has not seen that the connection failed */
    job->server = job->answered ? c->link.server : 0;
    job->told_by = job->answered ? c->link.transport.told_by : 0;
    c->used_ns = near__now(c->host->clock);
    pthread_mutex_unlock(&c->mutex);
    if (job->sleeps)
        pthread_cond_destroy(&job->wake);
    return 1;
}

void near__connection_retire(struct near__connection *c)
{
    pthread_mutex_lock(&c->mutex);
    if (state_of(c) == NEAR_CONNECTION_READY)
        retire(c);
    pthread_mutex_unlock(&c->mutex);
}

void near__connection_expire(struct near__connection *c, int64_t now)
{
    struct near__fault fault;
    pthread_mutex_lock(&c->mutex);
    if (state_of(c) == NEAR_CONNECTION_OPENING && !c->head && now >= c->link.deadline_ns) { /* no job: no driver */
        near__fault_set(&fault, NEAR_ERR_UNAVAILABLE, "nobody waited for %s any more", c->host->target.name);
        fail(c, &fault);
    }
    pthread_mutex_unlock(&c->mutex);
}

void near__connection_fail(struct near__connection *c, const struct near__fault *fault)
{
    pthread_mutex_lock(&c->mutex);
    fail(c, fault);
    pthread_mutex_unlock(&c->mutex);
}
