/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Writes that go to the application's source first (a database, a service) and to the remote tier after it.
 *
 *   1. One writer of a key at a time in this process: the order in the source is then the order in the remote tier.
 *   2. The source: by its callback (write-through), or into the queue and its journal (write-behind).  It failed:
 *      nothing else happens.
 *   3. The remote tier.  It failed: the source has what the remote tier may not have, so the local copy goes at once,
 *      and everybody is made to forget the key as soon as the remote tier can be reached, and once more after a queued
 *      update was stored.
 *
 * Processes are not kept apart: two that write one key may reach source and remote tier in different orders.
 * NEAR_SOURCE_INVALIDATE is for them: then 3 removes the key instead of writing it, whatever the order.
 *
 * An open source keeps its cache from being closed, so its threads may use the impl as they like. */
#include <string.h>

#include "base/log.h"
#include "cache/cache.h"
#include "load/behind.h"

#define BATCH_MOST 65536u
#define QUEUE_MOST (UINT64_C(1) << 24)
#define QUEUE_BYTES_LEAST 4096u
#define PAUSE_MOST_MS 3600000u
#define ALL_MS 10000 /* for a scan of the remote tier's keys: what was not reached is tried again */
#define SOURCE_FLAGS (NEAR_SOURCE_BEHIND | NEAR_SOURCE_INVALIDATE | NEAR_SOURCE_SALVAGE)

struct near_source {
    near_cache *cache;
    struct near__impl *impl;
    struct near_source *next; /* under impl->sources_lock */
    int ending;               /* likewise: the rest is going, statistics look away */
    near_source_options options;
    struct near__alloc impl_alloc; /* outlives the impl */
    struct near__behind *behind;
};

/* ---------------------------------------------------------------- open */

static int check_options(const near_source_options *o, near_error *error)
{
    const char *wrong = NULL;
    if (!o->store)
        wrong = "a source needs a store function";
    else if (o->flags & ~(uint32_t)SOURCE_FLAGS || o->reserved)
        wrong = "unknown flags";
    else if (o->attempts_max && !o->dead_letter)
        wrong = "attempts_max needs a dead_letter function, or updates would be lost in silence";
    else if (o->journal && !(o->flags & NEAR_SOURCE_BEHIND))
        wrong = "a journal is for write-behind";
    else if (o->flags & NEAR_SOURCE_SALVAGE && !o->journal)
        wrong = "NEAR_SOURCE_SALVAGE needs a journal";
    else if (!o->batch_max || o->batch_max > BATCH_MOST || !o->queue_max || o->queue_max > QUEUE_MOST)
        wrong = "batch_max must be 1 to 65536, queue_max 1 to 2^24";
    else if (o->queue_bytes < QUEUE_BYTES_LEAST)
        wrong = "queue_bytes must be at least 4096";
    else if (!o->retry_min_ms || o->retry_min_ms > o->retry_max_ms || o->retry_max_ms > PAUSE_MOST_MS ||
             o->delay_ms > PAUSE_MOST_MS || !o->store_timeout_ms)
        wrong =
            "retry_min_ms must be 1 to retry_max_ms, that and delay_ms at most an hour, store_timeout_ms at least 1";
    else if (o->journal_sync > NEAR_JOURNAL_NEVER)
        wrong = "journal_sync is none of the policies";
    return wrong ? near__fail(error, NEAR_ERR_INVALID, "%s", wrong) : NEAR_OK;
}

static int has_prefix(const struct near__impl *impl)
{
    return impl->options.prefix && impl->options.prefix[0];
}

/* In the remote tier, as far as the cache's keys can be told from others; the message is the caller's. */
static int remove_all(struct near__impl *impl)
{
    uint64_t removed;
    if (!impl->remote || !has_prefix(impl))
        return NEAR_OK;
    return near__remote_clear_keys(impl->remote, near__now(&impl->clock) + ALL_MS * NEAR_NS_PER_MS, &removed);
}

/* For the threads of the library: a removal that is numbered and announced in any case, since a process may still have
 * a copy of what the remote tier has evicted. */
static int invalidate(void *arg, const void *key, size_t key_size)
{
    struct near_source *source = arg;
    struct near__impl *impl = source->impl;
    struct near__request request = {.operation = key ? NEAR_OP_DEL : NEAR_OP_CLEAR,
                                    .key = key,
                                    .key_size = key_size,
                                    .flags = key ? NEAR_DEL_ANNOUNCE : 0};
    int removed = key ? NEAR_OK : remove_all(impl);
    int status = near__write_through(impl, &request, near__now(&impl->clock) + impl->timeout_ns, 0);
    return removed < 0 ? removed : status < 0 ? status : NEAR_OK;
}

/* Whatever may have been lost or cleared in the remote tier has raised the watermark before the next proof.  acquire,
 * in this order: who sees such a proof sees that, too. */
static uint64_t losses(void *arg, int64_t *ret_proved_ns)
{
    const struct near_source *source = arg;
    const struct near__gate *gate = source->impl->gate;
    *ret_proved_ns = atomic_load_explicit(&gate->proved_ns, memory_order_acquire);
    return atomic_load_explicit(&gate->watermark, memory_order_acquire);
}

static void enlist(struct near__impl *impl, struct near_source *source)
{
    pthread_mutex_lock(&impl->sources_lock);
    source->next = impl->sources;
    impl->sources = source;
    pthread_mutex_unlock(&impl->sources_lock);
}

/* From here on nobody else looks into it.  It stays in the list, and the cache open, until it is gone. */
static void hide(struct near_source *source)
{
    pthread_mutex_lock(&source->impl->sources_lock);
    source->ending = 1;
    pthread_mutex_unlock(&source->impl->sources_lock);
}

static void delist(struct near__impl *impl, struct near_source *source)
{
    pthread_mutex_lock(&impl->sources_lock);
    struct near_source **at = &impl->sources;
    while (*at != source)
        at = &(*at)->next;
    *at = source->next;
    pthread_mutex_unlock(&impl->sources_lock);
}

/* Nothing of the impl is touched after the source has left its list. */
static void destroy(struct near_source *source, int listed)
{
    struct near__impl *impl = source->impl;
    char *journal = (char *)(uintptr_t)source->options.journal;
    if (listed)
        delist(impl, source);
    struct near__alloc alloc = source->impl_alloc;
    near__free(&alloc, journal);
    near__free(&alloc, source);
}

static int open_entered(near_cache *cache, struct near__impl *impl, const near_source_options *options,
                        near_source **ret, near_error *error)
{
    struct near_source *source = near__alloc_zero(&impl->alloc, sizeof(*source));
    if (!source)
        return near__fail(error, NEAR_ERR_NOMEM, "%s", near_status_text(NEAR_ERR_NOMEM));
    source->cache = cache;
    source->impl = impl;
    source->impl_alloc = impl->alloc;
    source->options = *options;
    source->options.journal = near__strdup(&impl->alloc, options->journal);
    struct near__behind_config config = {.alloc = &impl->alloc,
                                         .clock = &impl->clock,
                                         .log = &impl->log,
                                         .counters = &impl->source_counters,
                                         .options = &source->options,
                                         .invalidate = invalidate,
                                         .knows_all = !impl->remote || has_prefix(impl),
                                         .losses = losses,
                                         .arg = source,
                                         .store_timeout_ms = options->store_timeout_ms};
    int status = NEAR_ERR_NOMEM;
    if (options->journal && !source->options.journal)
        near__fail(error, NEAR_ERR_NOMEM, "%s", near_status_text(NEAR_ERR_NOMEM));
    else
        status = near__behind_open(&config, &source->behind, error);
    if (status != NEAR_OK) {
        destroy(source, 0);
        return status;
    }
    enlist(impl, source);
    *ret = source;
    return NEAR_OK;
}

int near_source_open(near_cache *cache, const near_source_options *options, near_source **ret_source, near_error *error)
{
    near_source_options mine;
    if (!cache || !options || !ret_source)
        return near__fail(error, NEAR_ERR_INVALID, "cache, options and ret_source must not be NULL");
    near_source_options_init(&mine);
    int status = near__struct_copy(&mine, sizeof(mine), options, options->size);
    if (status != NEAR_OK)
        return near__fail(error, status, "the options are of another version or not initialised");
    status = check_options(&mine, error);
    if (status != NEAR_OK)
        return status;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return near__fail(error, status, "%s", near_status_text(status));
    status = open_entered(cache, impl, &mine, ret_source, error);
    near__leave(impl);
    return status;
}

/* ---------------------------------------------------------------- writing */

struct write {
    struct near__request request; /* for the remote tier, if all goes well */
    uint32_t operation;           /* for the source */
    const void *value;
    size_t value_size;
    int64_t deadline_ns;
    int fill;
};

/* Step 2, write-through. */
static int store_now(struct near_source *source, const struct write *w)
{
    int whole;
    int64_t left_ms = (w->deadline_ns - near__now(&source->impl->clock)) / NEAR_NS_PER_MS;
    near_update update = {.key = w->request.key,
                          .key_size = w->request.key_size,
                          .data = w->value,
                          .size = w->value_size,
                          .sequence = near__behind_sequence(source->behind),
                          .operation = w->operation};
    if (left_ms <= 0)
        return NEAR_ERR_TIMEOUT;
    near__behind_call_store(&source->options, &update, 1, (uint32_t)left_ms, &whole);
    if (update.status == NEAR_OK)
        near__add(&source->impl->source_counters.stored);
    return update.status;
}

/* Step 3 failed, or nobody knows what the source has: nobody may go on with the old value. */
static void forget(struct near_source *source, const struct write *w)
{
    near__local_remove(source->impl, w->request.key, w->request.key_size, NEAR_CAUSE_WRITE);
    near__behind_forget(source->behind, w->request.key, w->request.key_size);
}

/* How long the remote tier has what was written, as near__behind_leave is told; it was not written before begun_ns. */
static int64_t until_ns(const struct near__impl *impl, const struct near__request *r, int64_t begun_ns)
{
    int64_t left_ms = impl->remote ? r->ttl_left_ms : r->ttl_ms ? r->ttl_ms : -1;
    if (r->operation != NEAR_OP_SET)
        return 0;
    return left_ms < 0 || left_ms > (NEAR_NEVER - begun_ns) / NEAR_NS_PER_MS ? NEAR_NEVER
                                                                             : begun_ns + left_ms * NEAR_NS_PER_MS;
}

/* Steps 2 and 3, with the key's gate.  *ret_until_ns: see near__behind_leave. */
static int write_gated(struct near_source *source, struct write *w, int64_t *ret_until_ns)
{
    int behind = (source->options.flags & NEAR_SOURCE_BEHIND) != 0;
    int status = behind ? near__behind_put(source->behind, w->operation, w->request.key, w->request.key_size, w->value,
                                           w->value_size, w->deadline_ns)
                        : store_now(source, w);
    if (status == NEAR_ERR_UNKNOWN || (behind && status == NEAR_ERR_JOURNAL))
        forget(source, w); /* it may have it, or get it */
    if (status != NEAR_OK)
        return status;
    int64_t begun_ns = near__now(&source->impl->clock);
    if (near__write_through(source->impl, &w->request, w->deadline_ns, w->fill) >= 0) {
        *ret_until_ns = until_ns(source->impl, &w->request, begun_ns);
        return NEAR_OK;
    }
    forget(source, w);
    return NEAR_PENDING;
}

static int write_entered(struct near_source *source, struct write *w, const near_call *call)
{
    struct near__impl *impl = source->impl;
    struct near__behind_gate *gate;
    int64_t value_until_ns = 0;
    if (w->value_size > impl->options.value_max)
        return NEAR_ERR_TOO_LARGE;
    w->deadline_ns = near__deadline(impl, call);
    w->fill = !(call->flags & NEAR_NO_FILL);
    if (source->options.flags & NEAR_SOURCE_INVALIDATE || w->operation == NEAR_UPDATE_DEL)
        w->request = (struct near__request){.operation = NEAR_OP_DEL,
                                            .key = w->request.key,
                                            .key_size = w->request.key_size,
                                            .flags = NEAR_DEL_ANNOUNCE};
    int status = near__behind_enter(source->behind, w->request.key, w->request.key_size, w->deadline_ns, &gate);
    if (status != NEAR_OK)
        return status;
    status = write_gated(source, w, &value_until_ns);
    near__behind_leave(source->behind, gate, value_until_ns);
    return status;
}

static int write_source(near_source *source, struct write *w, const near_call *call)
{
    int status;
    if (!near__enter(source->cache, &status))
        return status;
    int64_t deadline_ns = near__deadline(source->impl, call);
    status = near__write_barrier(source->impl, call, deadline_ns, write_entered(source, w, call));
    near__leave(source->impl);
    return status;
}

int near_source_set(near_source *source, const void *key, size_t key_size, const void *value, size_t value_size,
                    const near_write *write, const near_call *call)
{
    near_call my_call;
    near_write my_write;
    int status = near__key_check(key, key_size);
    if (!source || (!value && value_size))
        return NEAR_ERR_INVALID;
    if (status != NEAR_OK || (status = near__call_copy(call, &my_call)) != NEAR_OK ||
        (status = near__write_copy(write, &my_write)) != NEAR_OK)
        return status;
    if (my_write.flags & (NEAR_SET_IF_ABSENT | NEAR_SET_IF_PRESENT))
        return NEAR_ERR_INVALID;
    struct write w = {.request = {.operation = NEAR_OP_SET,
                                  .key = key,
                                  .key_size = key_size,
                                  .value = value,
                                  .value_size = value_size,
                                  .flags = my_write.flags,
                                  .ttl_ms = my_write.ttl_ms},
                      .operation = NEAR_UPDATE_SET,
                      .value = value,
                      .value_size = value_size};
    return write_source(source, &w, &my_call);
}

int near_source_del(near_source *source, const void *key, size_t key_size, const near_call *call)
{
    near_call mine;
    int status = near__key_check(key, key_size);
    if (!source)
        return NEAR_ERR_INVALID;
    if (status != NEAR_OK || (status = near__call_copy(call, &mine)) != NEAR_OK)
        return status;
    struct write w = {.request = {.key = key, .key_size = key_size}, .operation = NEAR_UPDATE_DEL};
    return write_source(source, &w, &mine);
}

int near_source_peek(near_source *source, const void *key, size_t key_size, void *buffer, size_t capacity,
                     size_t *ret_size, uint32_t *ret_operation)
{
    int status = near__key_check(key, key_size);
    if (!source || !ret_size || !ret_operation || (!buffer && capacity))
        return NEAR_ERR_INVALID;
    if (status != NEAR_OK)
        return status;
    if (!near__enter(source->cache, &status))
        return status;
    if (!near__behind_peek(source->behind, key, key_size, buffer, capacity, ret_size, ret_operation))
        status = NEAR_MISS;
    else
        status = *ret_size > capacity ? NEAR_TRUNCATED : NEAR_OK;
    near__leave(source->impl);
    return status;
}

/* ---------------------------------------------------------------- flush and close */

static int flush(struct near_source *source, uint32_t timeout_ms)
{
    struct near__impl *impl = source->impl;
    int64_t timeout_ns = timeout_ms ? (int64_t)timeout_ms * NEAR_NS_PER_MS : impl->timeout_ns;
    return near__behind_flush(source->behind, near__now(&impl->clock) + timeout_ns);
}

int near_source_flush(near_source *source, uint32_t timeout_ms)
{
    int status;
    if (!source)
        return NEAR_ERR_INVALID;
    if (!near__enter(source->cache, &status))
        return status;
    status = flush(source, timeout_ms);
    near__leave(source->impl);
    return status;
}

int near_source_close(near_source *source, uint32_t timeout_ms, uint32_t flags)
{
    int status;
    if (!source || flags & ~(uint32_t)NEAR_SOURCE_DISCARD)
        return NEAR_ERR_INVALID;
    if (!near__enter(source->cache, &status))
        return status;         /* in a child after fork: the threads are not here */
    near__leave(source->impl); /* the open source itself keeps the cache open from here on */
    status = flush(source, timeout_ms);
    if (status != NEAR_OK && near__behind_is_safe(source->behind))
        status = NEAR_PENDING;
    if (status < 0 && !(flags & NEAR_SOURCE_DISCARD))
        return status;
    hide(source);
    near__behind_close(source->behind);
    destroy(source, 1);
    return status;
}

/* ---------------------------------------------------------------- statistics */

int near__sources_open(struct near__impl *impl)
{
    pthread_mutex_lock(&impl->sources_lock);
    int open = impl->sources != NULL;
    pthread_mutex_unlock(&impl->sources_lock);
    return open;
}

/* Without the lock, which a thread of the parent's may have had.  One that is ending may be gone but for its place in
 * the list, and has let its lock go or is about to. */
void near__sources_abandon(const struct near__impl *impl)
{
    for (const struct near_source *s = impl->sources; s; s = s->next)
        if (!s->ending)
            near__behind_abandon(s->behind);
}

static uint64_t counted(const _Atomic(uint64_t) *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed); /* a statistic */
}

void near__sources_stats(struct near__impl *impl, near_stats *stats)
{
    const struct near__behind_counters *c = &impl->source_counters;
    pthread_mutex_lock(&impl->sources_lock);
    for (struct near_source *s = impl->sources; s; s = s->next) {
        struct near__behind_gauges gauges;
        if (s->ending)
            continue;
        near__behind_gauges(s->behind, &gauges);
        stats->source_queued += gauges.queued;
        stats->source_queued_bytes += gauges.queued_bytes;
        stats->source_forgetting += gauges.invalidations;
        stats->source_journal_bytes += gauges.journal_bytes;
        if ((uint64_t)gauges.lag_ms > stats->source_lag_ms)
            stats->source_lag_ms = (uint64_t)gauges.lag_ms;
    }
    pthread_mutex_unlock(&impl->sources_lock);
    stats->source_accepted = counted(&c->updates);
    stats->source_stored = counted(&c->stored);
    stats->source_coalesced = counted(&c->coalesced);
    stats->source_batches = counted(&c->batches);
    stats->source_retried = counted(&c->retried);
    stats->source_dead_letters = counted(&c->dead_letters);
    stats->source_refused = counted(&c->refused);
    stats->source_forgotten = counted(&c->invalidated);
}
