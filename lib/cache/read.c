/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a read does after the local tier has not answered: the policy for missing proof, one fetch per key at a time,
 * and what the reply teaches the local tier.
 *
 * Order of a fetch, which the whole argument of docs/design.md rests on: ticket (what was known of the key) → mark
 * (what was known of the server) → send → reply at position r → install at r under the ticket, or observe r (I1, I4,
 * R54) → only then is the value handed to anybody. */
#include "cache/cache.h"
#include "local/hit.h"

#include <string.h>

#include "base/compiler.h"
#include "base/mutant.h"

void near__read_fence(struct near__impl *impl, near_call *call)
{
    if (!impl->coherence || NEAR_MUTANT(FRESH_UNFENCED))
        return; /* without a remote tier the local one is all there is */
    int64_t now_ns = near__now(&impl->clock), left_ns = near__deadline(impl, call) - now_ns;
    if (!near__coherence_fence(impl->coherence, now_ns + left_ns / 2)) /* the other half is for the remote tier */
        call->flags |= NEAR_BYPASS_LOCAL;
    left_ns -= near__now(&impl->clock) - now_ns;
    call->timeout_ms = left_ns > NEAR_NS_PER_MS ? (uint32_t)(left_ns / NEAR_NS_PER_MS) : 1; /* 0 would be the cache's */
}

int near__read_refused(const struct near__impl *impl, int64_t bound_ns)
{
    if (impl->options.unproven != NEAR_UNPROVEN_FAIL)
        return 0;
    /* acquire: as on the hit path; a proof that arrives this instant may be missed, which is one refused read */
    int64_t proved = atomic_load_explicit(&impl->gate->proved_ns, memory_order_acquire);
    if (proved == NEAR_PROVED_NEVER)
        return 1;
    return proved != NEAR_PROVED_ALWAYS && near__now(&impl->clock) - proved >= bound_ns;
}

/* ---------------------------------------------------------------- values */

int64_t near__ttl_left_ms(const struct near__clock *clock, int64_t expires_ns)
{
    return expires_ns == NEAR_NEVER ? -1 : near__ttl_at_ms(near__now(clock), expires_ns);
}

void near__value_from_shared(near_value *value, struct near__impl *impl, struct near__shared *shared, uint32_t source)
{
    value->data = shared->data;
    value->size = shared->size;
    value->ttl_ms = near__ttl_left_ms(&impl->clock, shared->expires_ns);
    value->source = source;
    value->state_ = NEAR_VALUE_SHARED;
    value->private_[0] = shared;
    value->private_[1] = value->private_[2] = NULL;
}

NEAR_APART void release_other(near_value *value)
{
    struct near__view view = {.data = value->data, .size = value->size, .pin = value->private_[0]};
    if (value->state_ == NEAR_VALUE_PINNED)
        near__local_unpin(value->private_[1], &view);
    else if (value->state_ == NEAR_VALUE_OWNED)
        near__local_disown(value->private_[2], value->private_[0]);
    else if (value->state_ == NEAR_VALUE_SHARED)
        near__shared_unref(value->private_[0]);
}

void near_release(near_value *value)
{
    if (near__unlikely(!value))
        return;
    if (near__likely(value->state_ == NEAR_VALUE_PINNED && !near__pin_is_copy(value->private_[0])))
        near__hit_unpin(value->private_[1], value->private_[0]);
    else
        release_other(value);
    memset(value, 0, sizeof(*value));
}

int near_own(near_value *value)
{
    if (!value)
        return NEAR_ERR_INVALID;
    if (value->state_ == NEAR_VALUE_OWNED || value->state_ == NEAR_VALUE_SHARED)
        return NEAR_OK; /* any thread may release these already */
    if (value->state_ != NEAR_VALUE_PINNED)
        return NEAR_ERR_INVALID;
    struct near__view view = {.data = value->data, .size = value->size, .pin = value->private_[0]};
    struct near__owned *owned = near__local_own(value->private_[2], value->private_[1], &view);
    if (!owned)
        return NEAR_ERR_NOMEM;
    value->data = view.data;
    value->state_ = NEAR_VALUE_OWNED;
    value->private_[0] = owned;
    value->private_[1] = NULL;
    return NEAR_OK;
}

/* ---------------------------------------------------------------- fetching */

struct near__shared *near__fetch_share(struct near__impl *impl, struct near__request *request)
{
    /* counted from the sending time: the copy never outlives the key (R20) */
    int64_t expires_ns =
        request->ttl_left_ms < 0 ? NEAR_NEVER : request->sent_ns + request->ttl_left_ms * NEAR_NS_PER_MS;
    struct near__shared *shared =
        near__shared_create(&impl->values, request->value_out, request->value_out_size, expires_ns);
    if (!shared)
        near__free(&impl->alloc, request->value_out);
    request->value_out = NULL;
    return shared;
}

void near__fetch_learn(struct near__impl *impl, struct near__reader *reader, struct near__ticket ticket,
                       const struct near__request *request, struct near__mark before, int fill)
{
    struct near__call_counters *counters = &impl->counters;
    if (request->status < 0) { /* an error is never absence (R18), and teaches nothing about the key */
        near__add(&counters->remote_errors);
        return;
    }
    near__add(request->status == NEAR_OK ? &counters->remote_hits : &counters->remote_misses);
    uint64_t position = near__coherence_position(impl->coherence, before, request);
    if (!position && NEAR_MUTANT(UNNUMBERED_REPLY_IGNORED))
        return;
    if (!position) /* the reply cannot be ordered: nothing local may outlive what was just seen (I5) */
        near__local_invalidate(impl->local, request->key, request->key_size, 0, NEAR_CAUSE_WRITE);
    else if (request->status == NEAR_OK && fill && (!request->inexact || NEAR_MUTANT(INEXACT_KEPT)))
        near__local_install(impl->local, reader, ticket, request->key, request->key_size, request->value_out,
                            request->value_out_size, position, request->ttl_left_ms, request->sent_ns);
    else
        near__local_observe(impl->local, request->key, request->key_size, position);
}

/* One fetch of this thread's own.  *ret_shared is set on NEAR_OK. */
static int fetch(struct near__impl *impl, struct near__reader *reader, struct near__ticket ticket, const void *key,
                 size_t key_size, int64_t deadline_ns, int fill, struct near__shared **ret_shared)
{
    struct near__request request = {.operation = NEAR_OP_FETCH, .key = key, .key_size = key_size};
    struct near__mark before = near__coherence_mark(impl->coherence);
    near__remote_run(impl->remote, &request, 1, deadline_ns);
    near__fetch_learn(impl, reader, ticket, &request, before, fill);
    if (request.status != NEAR_OK)
        return NEAR_MUTANT(ERROR_IS_ABSENCE) ? NEAR_MISS : request.status;
    *ret_shared = near__fetch_share(impl, &request);
    return *ret_shared ? NEAR_OK : NEAR_ERR_NOMEM;
}

/* What a fetch is allowed to do. */
struct terms {
    int64_t started_ns;
    int64_t deadline_ns;
    int64_t join_ns; /* the oldest fetch that may be joined; 0: none */
    int fill;
};

struct answer {
    int status;
    uint32_t source;
    struct near__shared *shared; /* with NEAR_OK */
};

/* Whether the end of a flight that was joined is of no use to this read.  The leader's deadline is not ours; and the
 * value may have died before we began, when the leader was long in coming back with it.  What is led or joined next
 * began after us. */
static int must_fly_again(const struct near__impl *impl, const struct terms *terms, struct answer *answer)
{
    if (answer->status == NEAR_ERR_TIMEOUT)
        return near__now(&impl->clock) < terms->deadline_ns;
    if (answer->status != NEAR_OK || !near__shared_was_over(answer->shared, terms->started_ns))
        return 0;
    near__shared_unref(answer->shared);
    answer->shared = NULL;
    return 1;
}

/* Joins a fetch of the key under way or leads one.  Returns 0 when the flight that was joined was of no use: then once
 * more. */
static int fly(struct near__impl *impl, struct near__reader *reader, const void *key, size_t key_size,
               const struct terms *terms, struct answer *ret)
{
    struct near__flight *flight;
    struct near__ticket ticket = near__local_ticket(impl->local, key, key_size);
    enum near__flight_role role = near__flight_enter(impl->flights, key, key_size, ticket, terms->join_ns, &flight);
    *ret = (struct answer){.source = NEAR_FROM_REMOTE};
    if (role != NEAR_FLIGHT_JOIN) {
        ret->status = fetch(impl, reader, ticket, key, key_size, terms->deadline_ns, terms->fill, &ret->shared);
        if (role == NEAR_FLIGHT_LEAD) {
            near__flight_land(impl->flights, flight, ret->status, ret->shared);
            near__flight_leave(impl->flights, flight);
        }
        return 1;
    }
    near__add(&impl->counters.flights_joined);
    ret->source = NEAR_FROM_FLIGHT;
    int landed = near__flight_wait(impl->flights, flight, terms->deadline_ns, &ret->status, &ret->shared);
    near__flight_leave(impl->flights, flight);
    if (!landed)
        ret->status = NEAR_ERR_TIMEOUT;
    return !landed || !must_fly_again(impl, terms, ret);
}

int near__read_miss(struct near__impl *impl, struct near__reader *reader, const void *key, size_t key_size,
                    const near_call *call, near_value *ret_value)
{
    int64_t started_ns = near__now(&impl->clock);
    int64_t bound_ns = near__read_bound(impl, call);
    uint32_t flags = call ? call->flags : 0;
    if (near__read_refused(impl, bound_ns))
        return NEAR_ERR_UNPROVEN;

    struct terms terms = {
        .started_ns = started_ns,
        .deadline_ns = near__deadline(impl, call),
        .join_ns = flags & (NEAR_BYPASS_LOCAL | NEAR_REQUIRE_FRESH) ? 0 : bound_ns,
        .fill = !(flags & NEAR_NO_FILL),
    };
    struct answer answer;
    while (!fly(impl, reader, key, key_size, &terms, &answer))
        ;
    near__histogram_record(&impl->miss_ns, (uint64_t)(near__now(&impl->clock) - started_ns));
    if (answer.status == NEAR_OK)
        near__value_from_shared(ret_value, impl, answer.shared, answer.source);
    return answer.status;
}
