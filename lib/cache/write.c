/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Writes go through to the remote tier; the local tier changes only after the acknowledgement (promise E), by the same
 * rules as a fill: the value is installed at the position that the server gave the write, if nothing newer has been
 * heard of the key meanwhile (R05, R06); and whether it is kept or not, nothing older stays and nothing older can come
 * (C, D), and the key's ticket has changed, so that no read that starts after the write joins a fetch from before it
 * (R17). */
#include "cache/cache.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mutant.h"

static enum near__message_operation message_of(enum near__operation operation)
{
    switch (operation) {
    case NEAR_OP_DEL:
        return NEAR_MESSAGE_DEL;
    case NEAR_OP_EXPIRE:
        return NEAR_MESSAGE_EXPIRE;
    case NEAR_OP_CLEAR:
        return NEAR_MESSAGE_CLEAR;
    default:
        return NEAR_MESSAGE_SET;
    }
}

/* The statuses with which the remote tier says that the write did not happen. */
static int changed_nothing(int status)
{
    switch (status) {
    case NEAR_ERR_UNKNOWN:
    case NEAR_ERR_PROTOCOL:
    case NEAR_ERR_REMOTE:
        return 0;
    default:
        return 1;
    }
}

static void count_write(struct near__impl *impl, int status)
{
    near__add(&impl->counters.writes);
    if (status == NEAR_UNMET)
        near__add(&impl->counters.writes_unmet);
    else if (status == NEAR_ERR_UNKNOWN)
        near__add(&impl->counters.writes_unknown);
    else if (status < 0)
        near__add(&impl->counters.writes_failed);
}

/* The value that the key has after the write; 0 when the write does not tell. */
static int value_after(const struct near__request *request, char number[24], const void **ret_value, size_t *ret_size)
{
    switch (request->operation) {
    case NEAR_OP_SET:
    case NEAR_OP_CAS:
    case NEAR_OP_FILL:
        *ret_value = request->value;
        *ret_size = request->value_size;
        return 1;
    case NEAR_OP_INCR:
        *ret_value = number;
        *ret_size = (size_t)snprintf(number, 24, "%" PRId64, request->result_number);
        return 1;
    default:
        return 0;
    }
}

static void learn_done(struct near__impl *impl, const struct near__request *request, struct near__ticket ticket,
                       uint64_t position, int fill)
{
    char number[24];
    const void *value;
    size_t size;
    struct near__reader *reader = near__local_reader(impl->local);
    if (fill && reader && value_after(request, number, &value, &size))
        near__local_install(impl->local, reader, ticket, request->key, request->key_size, value, size, position,
                            request->ttl_left_ms, request->sent_ns);
    else
        near__local_invalidate(impl->local, request->key, request->key_size, position, NEAR_CAUSE_WRITE);
}

static void forget(struct near__impl *impl, const struct near__request *request)
{
    if (request->operation == NEAR_OP_CLEAR)
        near__local_clear(impl->local);
    else
        near__local_invalidate(impl->local, request->key, request->key_size, 0, NEAR_CAUSE_WRITE);
}

/* What a write's end means for the local tier. */
void near__write_learn(struct near__impl *impl, const struct near__request *request, const struct near__sent *sent,
                       int fill)
{
    if (request->status < 0) {
        if (!changed_nothing(request->status) && !NEAR_MUTANT(UNKNOWN_FATE_KEPT))
            forget(impl, request);
        return;
    }
    uint64_t position = near__coherence_position(impl->coherence, sent->before, request);
    if (!position)
        forget(impl, request);
    else if (request->operation == NEAR_OP_CLEAR)
        near__local_raise_watermark(impl->local, position);
    else if (request->status == NEAR_OK)
        learn_done(impl, request, sent->ticket, position, fill);
    else if (request->operation == NEAR_OP_DEL && atomic_load_explicit(&impl->loading, memory_order_relaxed))
        forget(impl, request); /* nothing to remove, and no number: but a load under way, whose lease has ended, is void
                                  (R17) */
    else                       /* a condition that was not met, or a key that is not there: a read of its own kind */
        near__local_observe(impl->local, request->key, request->key_size, position);
}

struct near__sent near__write_before(struct near__impl *impl, const struct near__request *request)
{
    struct near__sent sent = {.before = near__coherence_mark(impl->coherence)};
    if (request->operation != NEAR_OP_CLEAR)
        sent.ticket = near__local_ticket(impl->local, request->key, request->key_size);
    return sent;
}

/* Whether it depends on what others hold if a value travels. */
static int is_adaptive(const struct near__impl *impl)
{
    return impl->options.message_values == NEAR_VALUES_ADAPTIVE && impl->options.track == NEAR_TRACK_NONE;
}

/* Values travel with plain SETs alone: of the others it is not known before what they will have written. */
static int may_carry(const struct near__impl *impl, const struct near__request *request)
{
    return request->operation == NEAR_OP_SET && !request->flags && request->value_size &&
           request->value_size <= impl->options.message_value_max &&
           (impl->options.message_values == NEAR_VALUES_ALWAYS || is_adaptive(impl));
}

static int carries_value(const struct near__impl *impl, const struct near__request *request)
{
    return may_carry(impl, request) &&
           (!is_adaptive(impl) || near__coherence_wants_value(impl->coherence, request->key, request->key_size));
}

static void write_value(struct near__impl *impl, const struct near__request *request, struct near__buffer *body)
{
    near__coherence_body_value(impl->coherence, request->key, request->key_size, request->value, request->value_size,
                               request->ttl_ms ? request->ttl_ms : -1, body);
    near__add(&impl->counters.values_sent);
}

static void write_body(struct near__impl *impl, const struct near__request *request, struct near__buffer *body)
{
    if (carries_value(impl, request))
        write_value(impl, request, body);
    else if (may_carry(impl, request))
        near__coherence_body_asking(impl->coherence, request->key, request->key_size, body);
    else
        near__coherence_body(impl->coherence, message_of(request->operation), request->key, request->key_size, body);
}

int near__write_through(struct near__impl *impl, struct near__request *request, int64_t deadline_ns, int fill)
{
    int64_t started_ns = near__now(&impl->clock);
    if (!impl->remote) {
        request->status = near__local_write(impl, request);
    } else {
        struct near__buffer body;
        near__buffer_init(&body, &impl->alloc);
        write_body(impl, request, &body);
        request->status = NEAR_ERR_NOMEM;
        if (!body.failed) {
            request->body = body.data;
            request->body_size = body.size;
            struct near__sent sent = near__write_before(impl, request);
            near__remote_run(impl->remote, request, 1, deadline_ns);
            near__write_learn(impl, request, &sent, fill);
        }
        near__buffer_fini(&body);
    }
    near__histogram_record(&impl->write_ns, (uint64_t)(near__now(&impl->clock) - started_ns));
    count_write(impl, request->status);
    return request->status;
}

/* ---------------------------------------------------------------- barriers */

/* Tells the caller, as much as its structure has room for. */
static void tell_barrier(const near_call *call, const struct near__barrier_result *result)
{
    near_barrier *barrier = call->barrier, full = {.size = sizeof(full)};
    if (!barrier)
        return;
    full.size = barrier->size;
    full.processes = result->processes;
    full.missing = result->missing;
    full.unlisted = (uint32_t)result->unlisted;
    memcpy(barrier, &full, full.size < sizeof(full) ? full.size : sizeof(full));
}

int near__write_barrier(struct near__impl *impl, const near_call *call, int64_t deadline_ns, int status)
{
    struct near__barrier_result result = {0};
    if (!(call->flags & NEAR_WRITE_BARRIER))
        return status;
    int undone = status < 0 || status == NEAR_PENDING; /* there is nothing to wait for yet */
    result.unlisted = impl->remote && undone;
    int complete = !impl->remote || undone || near__coherence_barrier(impl->coherence, deadline_ns, &result);
    tell_barrier(call, &result);
    return status == NEAR_OK && !complete ? NEAR_UNAPPLIED : status;
}

void near__write_barrier_none(const near_call *call)
{
    static const struct near__barrier_result nobody;
    tell_barrier(call, &nobody);
}

/* ---------------------------------------------------------------- many */

/* Where no value travels the messages of a batch, which is of one operation, may become one (R36). */
static void write_body_in(struct near__impl *impl, const struct near__message *batch, struct near__request *request,
                          struct near__buffer *body)
{
    if (carries_value(impl, request)) {
        write_value(impl, request, body);
        return;
    }
    near__coherence_body_in(batch, request->key, request->key_size, body);
    request->body_shared = NEAR_BODY_SHARED;
}

static int write_many_remote(struct near__impl *impl, struct near__request *requests, size_t count, int64_t deadline_ns,
                             int fill)
{
    struct near__buffer bodies; /* one after another; offsets first, since the buffer moves while it grows */
    near__buffer_init(&bodies, &impl->alloc);
    struct near__message batch = near__coherence_batch(impl->coherence, message_of(requests[0].operation));
    batch.asks = requests[0].operation == NEAR_OP_SET && impl->options.message_value_max && is_adaptive(impl);
    struct near__sent *sent = near__alloc(&impl->alloc, count * sizeof(*sent));
    for (size_t i = 0; i < count && !bodies.failed; i++) {
        size_t start = bodies.size;
        write_body_in(impl, &batch, &requests[i], &bodies);
        requests[i].body_size = bodies.size - start;
    }
    if (!sent || bodies.failed) {
        near__free(&impl->alloc, sent);
        near__buffer_fini(&bodies);
        return NEAR_ERR_NOMEM;
    }
    const unsigned char *body = bodies.data;
    for (size_t i = 0; i < count; i++) {
        requests[i].body = body;
        body += requests[i].body_size;
        sent[i] = near__write_before(impl, &requests[i]);
    }
    near__remote_run(impl->remote, requests, count, deadline_ns);
    for (size_t i = 0; i < count; i++)
        near__write_learn(impl, &requests[i], &sent[i], fill);
    near__free(&impl->alloc, sent);
    near__buffer_fini(&bodies);
    return NEAR_OK;
}

int near__write_many(struct near__impl *impl, struct near__request *requests, size_t count, int64_t deadline_ns,
                     int fill)
{
    int64_t started_ns = near__now(&impl->clock);
    int status = NEAR_OK;
    if (impl->remote)
        status = write_many_remote(impl, requests, count, deadline_ns, fill);
    for (size_t i = 0; i < count; i++) {
        if (status != NEAR_OK)
            requests[i].status = status;
        else if (!impl->remote)
            requests[i].status = near__local_write(impl, &requests[i]);
        count_write(impl, requests[i].status);
    }
    near__histogram_record(&impl->write_ns, (uint64_t)(near__now(&impl->clock) - started_ns));
    return status;
}
