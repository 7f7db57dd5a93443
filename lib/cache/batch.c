/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Many keys at once: local hits first, then one round trip for the rest.
 *
 * Every key that is fetched leads a flight that others may join.  A batch joins no flights itself: it would wait for
 * several leaders one after another. */
#include <string.h>

#include "cache/cache.h"
#include "local/hit.h"

#define CHUNK 64u /* keys looked up at a time; their results live on the stack */

/* ---------------------------------------------------------------- reading */

struct fetching {
    struct near__request *requests;
    struct near__ticket *tickets;
    struct near__flight **flights;
    near_item **items;
    size_t count;
};

int near__items_check(const near_item *items, size_t count, int values)
{
    if (!items && count)
        return NEAR_ERR_INVALID;
    for (size_t i = 0; i < count; i++) {
        if ((!items[i].key && items[i].key_size) || (values && !items[i].data && items[i].size))
            return NEAR_ERR_INVALID;
    }
    return NEAR_OK;
}

int near__items_fail(near_item *items, size_t count, int status)
{
    for (size_t i = 0; items && i < count; i++)
        items[i].status = status;
    return status;
}

int near__items_error(const near_item *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (items[i].status < 0)
            return items[i].status;
    }
    return NEAR_OK;
}

/* Looks up one chunk.  Items that are not served keep the status NEAR_MISS.  How many were. */
static size_t look_up_chunk(struct near__impl *impl, struct near__reader *reader, near_item *items, size_t count,
                            const near_call *call)
{
    struct near__local_key keys[CHUNK];
    enum near__local_result results[CHUNK];
    struct near__view views[CHUNK];
    size_t served = 0;
    for (size_t i = 0; i < count; i++)
        keys[i] = (struct near__local_key){.key = items[i].key, .size = items[i].key_size};
    near__local_get_many(impl->local, reader, keys, count, near__read_bound(impl, call),
                         near__read_stale_bound(impl, call), results, views);
    for (size_t i = 0; i < count; i++) {
        if (!near__local_is_served(results[i]))
            continue;
        served++;
        items[i].status = results[i] == NEAR_LOCAL_HIT ? NEAR_OK : NEAR_STALE;
        near__value_from_view(&items[i].value, impl, reader, &views[i]);
    }
    return served;
}

/* Marks every item; those that must be fetched have the status NEAR_MISS.  How many are not served. */
static size_t look_up(struct near__impl *impl, struct near__reader *reader, near_item *items, size_t count,
                      const near_call *call)
{
    size_t served = 0;
    for (size_t i = 0; i < count; i++)
        items[i].status = NEAR_MISS;
    for (size_t at = 0; !(call->flags & NEAR_BYPASS_LOCAL) && at < count; at += CHUNK)
        served += look_up_chunk(impl, reader, items + at, count - at < CHUNK ? count - at : CHUNK, call);
    for (size_t i = 0; served < count && i < count; i++)
        if (near__unlikely(items[i].key_size > NEAR_KEY_MAX)) /* was not found: nothing keeps such a key */
            items[i].status = NEAR_ERR_TOO_LARGE;
    return count - served;
}

static size_t count_missing(const near_item *items, size_t count)
{
    size_t missing = 0;
    for (size_t i = 0; i < count; i++)
        missing += items[i].status == NEAR_MISS;
    return missing;
}

static void fetching_fini(struct near__impl *impl, struct fetching *f)
{
    near__free(&impl->alloc, f->requests);
    near__free(&impl->alloc, f->tickets);
    near__free(&impl->alloc, f->flights);
    near__free(&impl->alloc, f->items);
}

static int fetching_init(struct near__impl *impl, struct fetching *f, near_item *items, size_t count, size_t missing)
{
    *f = (struct fetching){
        .requests = near__alloc_zero(&impl->alloc, missing * sizeof(*f->requests)),
        .tickets = near__alloc(&impl->alloc, missing * sizeof(*f->tickets)),
        .flights = near__alloc_zero(&impl->alloc, missing * sizeof(*f->flights)),
        .items = near__alloc(&impl->alloc, missing * sizeof(*f->items)),
    };
    if (!f->requests || !f->tickets || !f->flights || !f->items) {
        fetching_fini(impl, f);
        return NEAR_ERR_NOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        if (items[i].status != NEAR_MISS)
            continue;
        struct near__request request = {.operation = NEAR_OP_FETCH, .key = items[i].key, .key_size = items[i].key_size};
        f->requests[f->count] = request;
        f->items[f->count++] = &items[i];
    }
    return NEAR_OK;
}

static void take_off(struct near__impl *impl, struct fetching *f)
{
    for (size_t i = 0; i < f->count; i++) {
        const struct near__request *request = &f->requests[i];
        f->tickets[i] = near__local_ticket(impl->local, request->key, request->key_size);
        if (near__flight_enter(impl->flights, request->key, request->key_size, f->tickets[i], 0, &f->flights[i]) !=
            NEAR_FLIGHT_LEAD)
            f->flights[i] = NULL;
    }
}

static void land(struct near__impl *impl, struct near__reader *reader, struct fetching *f, struct near__mark before,
                 int fill)
{
    for (size_t i = 0; i < f->count; i++) {
        struct near__request *request = &f->requests[i];
        struct near__shared *shared = NULL;
        near__fetch_learn(impl, reader, f->tickets[i], request, before, fill);
        f->items[i]->status = request->status;
        if (request->status == NEAR_OK) {
            shared = near__fetch_share(impl, request);
            if (shared)
                near__value_from_shared(&f->items[i]->value, impl, shared, NEAR_FROM_REMOTE);
            else
                f->items[i]->status = NEAR_ERR_NOMEM;
        }
        if (f->flights[i]) {
            near__flight_land(impl->flights, f->flights[i], f->items[i]->status, shared);
            near__flight_leave(impl->flights, f->flights[i]);
        }
    }
}

static int fetch_missing(struct near__impl *impl, struct near__reader *reader, near_item *items, size_t count,
                         size_t missing, const near_call *call)
{
    struct fetching f;
    int64_t started_ns = near__now(&impl->clock);
    int64_t deadline_ns = near__deadline(impl, call);
    int status = fetching_init(impl, &f, items, count, missing);
    if (status != NEAR_OK)
        return status;
    struct near__mark before = near__coherence_mark(impl->coherence);
    take_off(impl, &f);
    near__remote_run(impl->remote, f.requests, f.count, deadline_ns);
    land(impl, reader, &f, before, !(call->flags & NEAR_NO_FILL));
    fetching_fini(impl, &f);
    near__histogram_record(&impl->miss_ns, (uint64_t)(near__now(&impl->clock) - started_ns));
    return NEAR_OK;
}

static void fail_missing(near_item *items, size_t count, int status)
{
    for (size_t i = 0; i < count; i++) {
        if (items[i].status == NEAR_MISS)
            items[i].status = status;
    }
}

static int mget_entered(struct near__impl *impl, struct near__reader *reader, near_item *items, size_t count,
                        const near_call *call)
{
    size_t missing = count_missing(items, count);
    int status = NEAR_OK;
    if (missing && impl->remote) {
        if (near__read_refused(impl, near__read_bound(impl, call)))
            status = NEAR_ERR_UNPROVEN;
        else
            status = fetch_missing(impl, reader, items, count, missing, call);
        if (status != NEAR_OK)
            fail_missing(items, count, status);
    }
    return near__items_error(items, count);
}

/* The local part in a section, as near_get has it; long batches count as a call from the start, so that no section is
 * long. */
static int mget_checked(near_cache *cache, near_item *items, size_t count, const near_call *call)
{
    size_t unserved = 0;
    int status = NEAR_OK, counted = count > CHUNK;
    struct near__reader *reader = near__reader_for(cache, &status);
    if (!reader)
        return near__items_fail(items, count, status);
    near__rcu_enter();
    struct near__impl *impl = near__impl_in_section(cache);
    if (impl && counted) {
        near__count_call(impl);
        near__rcu_leave();
    }
    if (impl)
        unserved = look_up(impl, reader, items, count, call);
    int over = !impl || (!counted && (!unserved || !count_missing(items, count)));
    if (!over && !counted)
        near__count_call(impl);
    if (!impl || !counted)
        near__rcu_leave();
    if (!impl)
        return near__items_fail(items, count, near__shell_refusal(cache));
    if (over)
        return unserved ? near__items_error(items, count) : NEAR_OK;
    status = mget_entered(impl, reader, items, count, call);
    near__leave(impl);
    return status;
}

/* Before a fresh read of many keys: one wait for all of them. */
static int fence(near_cache *cache, near_call *call)
{
    int status = NEAR_OK;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return status;
    if (!(call->flags & NEAR_BYPASS_LOCAL))
        near__read_fence(impl, call);
    near__leave(impl);
    return NEAR_OK;
}

int near_mget(near_cache *cache, near_item *items, size_t count, const near_call *call)
{
    near_call mine;
    for (size_t i = 0; items && i < count; i++)
        memset(&items[i].value, 0, sizeof(items[i].value)); /* may be released whatever follows */
    int status = cache ? near__items_check(items, count, 0) : NEAR_ERR_INVALID;
    if (status != NEAR_OK || (status = near__read_call_copy(call, &mine)) != NEAR_OK)
        return near__items_fail(items, count, status);
    if (mine.flags & NEAR_REQUIRE_FRESH && (status = fence(cache, &mine)) != NEAR_OK)
        return near__items_fail(items, count, status);
    return mget_checked(cache, items, count, &mine);
}

/* ---------------------------------------------------------------- writing */

static int item_too_large(const struct near__impl *impl, const near_item *item, int values)
{
    return item->key_size > NEAR_KEY_MAX || (values && item->size > impl->options.value_max);
}

/* One round trip for every item that may be sent. */
static int write_items(struct near__impl *impl, near_item *items, size_t count, const struct near__request *like,
                       const near_call *call)
{
    int values = like->operation == NEAR_OP_SET;
    size_t sendable = 0;
    struct near__request *requests = near__alloc_zero(&impl->alloc, count * sizeof(*requests));
    if (!requests)
        return near__items_fail(items, count, NEAR_ERR_NOMEM);
    for (size_t i = 0; i < count; i++) {
        items[i].status = item_too_large(impl, &items[i], values) ? NEAR_ERR_TOO_LARGE : NEAR_OK;
        if (items[i].status != NEAR_OK)
            continue;
        struct near__request *request = &requests[sendable++];
        *request = *like;
        request->key = items[i].key;
        request->key_size = items[i].key_size;
        request->value = values ? items[i].data : NULL;
        request->value_size = values ? items[i].size : 0;
    }
    int64_t deadline_ns = near__deadline(impl, call);
    if (sendable)
        near__write_many(impl, requests, sendable, deadline_ns, !(call->flags & NEAR_NO_FILL));
    for (size_t i = 0, at = 0; i < count; i++) {
        if (items[i].status == NEAR_OK)
            items[i].status = requests[at++].status;
    }
    near__free(&impl->alloc, requests);
    /* also when some have failed: the others are to be waited for */
    int status = near__write_barrier(impl, call, deadline_ns, NEAR_OK), error = near__items_error(items, count);
    return error != NEAR_OK ? error : status;
}

static int write_batch(near_cache *cache, near_item *items, size_t count, const struct near__request *like,
                       const near_call *call)
{
    int status = NEAR_OK;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return near__items_fail(items, count, status);
    if (count)
        status = write_items(impl, items, count, like, call);
    else
        near__write_barrier_none(call);
    near__leave(impl);
    return status;
}

int near_mset(near_cache *cache, near_item *items, size_t count, const near_write *write, const near_call *call)
{
    near_call my_call;
    near_write my_write;
    int status = near__items_check(items, count, 1);
    if (status != NEAR_OK || (status = near__call_copy(call, &my_call)) != NEAR_OK ||
        (status = near__write_copy(write, &my_write)) != NEAR_OK)
        return near__items_fail(items, count, status);
    struct near__request like = {.operation = NEAR_OP_SET, .flags = my_write.flags, .ttl_ms = my_write.ttl_ms};
    return write_batch(cache, items, count, &like, &my_call);
}

int near_mdel(near_cache *cache, near_item *items, size_t count, const near_call *call)
{
    near_call mine;
    int status = near__items_check(items, count, 0);
    if (status != NEAR_OK || (status = near__call_copy(call, &mine)) != NEAR_OK)
        return near__items_fail(items, count, status);
    struct near__request like = {.operation = NEAR_OP_DEL};
    return write_batch(cache, items, count, &like, &mine);
}
