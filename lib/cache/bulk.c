/* SPDX-License-Identifier: BSD-3-Clause
 *
 * near_mget_or_load: near_get_or_load for many keys, in rounds.
 *
 *   0 what the local tier has is taken; refreshes that are due are handed over, to one call of the loader
 *   1 each key enters its flight: leads it, or joins a load that is under way in this process
 *   2 one round trip asks the server for the keys that are led: value, absence, lease, or "somebody loads"
 *   3 one job has every load whose lease was got (load.c: one call of the loader, one round trip for its answers)
 *   4 waiting: for the flights, our own and those that were joined; then for the messages of the other processes
 *   5 keys that have neither a result nor run out of time go into the next round, together
 *
 * Nobody waits for anybody in a circle: what is led here is on its way (0 and 3) before anything is waited for (4).
 *
 * A flight whose key another process loads lands at once with NEAR_ERR_TIMEOUT, "its leader has no more time": this
 * call waits for several keys one after another, and would tell those that joined only when it comes to theirs.  They
 * lead the next flight and wait for the message themselves.  That waiting here is one after another costs nothing: all
 * of it is for the same deadline, and what has come meanwhile is there.
 *
 * The order of each key's steps is that of near_get_or_load (R17): ticket and flight, watch, LEASE, loader, FILL if the
 * lease stands.  What a batch has in common is the round trips and the loader's call alone. */
#include "cache/wanted.h"

#include <string.h>

enum wish_state {
    WISH_WANTED,    /* goes into the next round */
    WISH_FLYING,    /* has a flight, which somebody lands */
    WISH_ELSEWHERE, /* another process loads it: has its load, and a watch */
    WISH_DONE
};

/* A key that the local tier did not answer. */
struct wish {
    struct near__wanted w;
    near_item *item;
    enum wish_state state;
    uint32_t source; /* where a value comes from that its flight has */
    uint32_t lease_flags;
    struct near__flight *flight; /* FLYING */
    struct near__load *load;     /* led, until it is started; ELSEWHERE */
    struct near__watch watch;
    int64_t other_ns; /* ELSEWHERE: when the other's lease ends */
};

/* One call.  The arrays have room for every wish. */
struct batch {
    struct near__impl *impl;
    struct near__loading *l;
    struct near__reader *reader;
    struct wish *wishes;
    size_t count, leads;
    struct near__request *requests; /* of those that are led, in order */
    struct near__asked *asked;
    struct near__refreshes due;
};

/* ---------------------------------------------------------------- [1] flights */

static void finish(struct wish *wish, int status)
{
    wish->item->status = status;
    wish->state = WISH_DONE;
}

static void enter(struct batch *b, struct wish *wish)
{
    struct near__impl *impl = b->impl;
    struct near__flights *flights = b->l->flights;
    const struct near__wanted *w = &wish->w;
    int64_t join_ns = impl->remote ? near__read_bound(impl, NULL) : NEAR_NEVER;
    struct near__ticket ticket = near__load_ticket(impl, w);
    enum near__flight_role role = near__flight_enter(flights, w->key, w->key_size, ticket, join_ns, &wish->flight);
    if (role == NEAR_FLIGHT_NOMEM) {
        near__wanted_drop(&wish->w);
        finish(wish, NEAR_ERR_NOMEM);
        return;
    }
    wish->state = WISH_FLYING;
    wish->source = NEAR_FROM_FLIGHT;
    if (role == NEAR_FLIGHT_JOIN) {
        near__add(&impl->counters.flights_joined);
        return;
    }
    wish->source = NEAR_FROM_LOADER;
    wish->load = near__wanted_load(impl, w, wish->flight);
    if (wish->load)
        b->leads++;
    else
        near__flight_land(flights, wish->flight, NEAR_ERR_NOMEM, NULL);
}

/* ---------------------------------------------------------------- [2] asking */

static void ask(struct batch *b)
{
    struct near__impl *impl = b->impl;
    int64_t now_ns = near__now(&impl->clock), deadline_ns = now_ns + impl->timeout_ns;
    size_t at = 0;
    for (size_t i = 0; i < b->count; i++) {
        struct wish *wish = &b->wishes[i];
        if (!wish->load)
            continue;
        int64_t half_ns = now_ns + (wish->w.deadline_ns - now_ns) / 2;
        deadline_ns = half_ns < deadline_ns ? half_ns : deadline_ns;
        near__watch_begin(b->l->watches, &wish->watch, wish->w.key,
                          wish->w.key_size); /* before the server is asked: see watch.c */
        b->asked[at] = near__load_ask_before(wish->load, wish->lease_flags, &b->requests[at]);
        at++;
    }
    near__remote_run(impl->remote, b->requests, at, deadline_ns);
}

/* The flight has an end, or this call does not lead it any more. */
static void part(struct wish *wish)
{
    near__load_free(wish->load);
    wish->load = NULL;
}

/* What the server says of one key.  Afterwards it has a load only if it is to be loaded here, or is ELSEWHERE. */
static void hear(struct batch *b, struct wish *wish, const struct near__request *q)
{
    struct near__impl *impl = b->impl;
    struct near__load *load = wish->load;
    struct near__flights *flights = b->l->flights;
    int held = q->status == NEAR_OK && q->lease == NEAR_LEASE_HELD;
    if (held && !near__wanted_at_once(&wish->w, load->old, near__now(&impl->clock))) {
        near__add(&b->l->counters.waits);
        near__flight_land(flights, wish->flight, NEAR_ERR_TIMEOUT, NULL);
        near__flight_leave(flights, wish->flight);
        wish->flight = NULL;
        wish->other_ns = near__wanted_other_end(impl, q->lease_left_ms);
        wish->state = WISH_ELSEWHERE;
        wish->lease_flags = 0; /* what the other has loaded is fresh enough */
        return;
    }
    near__watch_end(b->l->watches, &wish->watch);
    if (q->status == NEAR_OK ? q->lease == NEAR_LEASE_GOT : !near__wanted_is_final(q->status))
        return; /* an error: without a lease */
    wish->source = NEAR_FROM_REMOTE;
    near__wanted_land(b->l, load, q);
    part(wish);
}

/* ---------------------------------------------------------------- [3] loading */

static void load_all(struct batch *b, struct near__bulk *bulk)
{
    for (size_t i = 0; i < b->count; i++) {
        struct wish *wish = &b->wishes[i];
        if (!wish->load || wish->state != WISH_FLYING)
            continue;
        if (bulk)
            near__bulk_add(bulk, wish->load);
        else
            near__load_start(wish->load);
        wish->load = NULL;
    }
    if (bulk)
        near__bulk_start(bulk);
}

static void give_up(struct batch *b, int status)
{
    for (size_t i = 0; i < b->count; i++) {
        struct wish *wish = &b->wishes[i];
        if (!wish->load)
            continue;
        near__flight_land(b->l->flights, wish->flight, status, NULL);
        part(wish);
    }
}

/* [2] and [3]; what they need is reserved before the server gives any lease. */
static void lead(struct batch *b)
{
    const int many = b->wishes[0].w.bulk_fn != NULL;
    struct near__bulk *bulk = many ? near__bulk_create(b->impl, b->leads) : NULL;
    if (many && !bulk) {
        give_up(b, NEAR_ERR_NOMEM);
        return;
    }
    if (b->impl->remote) {
        size_t at = 0;
        ask(b);
        for (size_t i = 0; i < b->count; i++) {
            struct wish *wish = &b->wishes[i];
            if (!wish->load)
                continue;
            near__load_ask_after(wish->load, &b->requests[at], &b->asked[at]);
            hear(b, wish, &b->requests[at]);
            at++;
        }
    }
    load_all(b, bulk);
}

/* ---------------------------------------------------------------- [4] waiting */

static void conclude(struct batch *b, struct wish *wish, const struct near__landing *landing)
{
    int status;
    if (near__wanted_settle(b->impl, b->l, b->reader, &wish->w, landing, wish->source, &status))
        finish(wish, status);
    else
        wish->state = WISH_WANTED; /* [5] */
}

static void wait_for_flight(struct batch *b, struct wish *wish)
{
    struct near__patience patience = near__wanted_patience(&wish->w);
    struct near__landing landing = near__load_wait(b->l, wish->flight, patience);
    near__flight_leave(b->l->flights, wish->flight);
    wish->flight = NULL;
    conclude(b, wish, &landing);
    near__shared_unref(landing.shared);
    near__shared_unref(landing.old);
}

static void wait_for_other(struct batch *b, struct wish *wish)
{
    struct near__landing over = {.landed = 1, .status = NEAR_ERR_TIMEOUT, .old = wish->load->old};
    int again = near__wanted_wait_other(b->impl, b->l, &wish->watch, wish->other_ns,
                                        near__wanted_own_end(&wish->w, wish->load));
    near__watch_end(b->l->watches, &wish->watch);
    if (again)
        wish->state = WISH_WANTED; /* [5] */
    else
        conclude(b, wish, &over);
    part(wish);
}

/* ---------------------------------------------------------------- the call */

/* One round; 0: it was the last. */
static int fly_round(struct batch *b)
{
    int more = 0;
    b->leads = 0;
    for (size_t i = 0; i < b->count; i++) {
        if (b->wishes[i].state == WISH_WANTED)
            enter(b, &b->wishes[i]); /* [1] */
    }
    if (b->leads)
        lead(b); /* [2] [3] */
    for (size_t i = 0; i < b->count; i++) {
        if (b->wishes[i].state == WISH_FLYING)
            wait_for_flight(b, &b->wishes[i]); /* [4] */
    }
    for (size_t i = 0; i < b->count; i++) {
        if (b->wishes[i].state == WISH_ELSEWHERE)
            wait_for_other(b, &b->wishes[i]);
        more |= b->wishes[i].state == WISH_WANTED;
    }
    return more;
}

static int item_check(const near_item *item)
{
    return item->key_size > NEAR_KEY_MAX - (sizeof(NEAR_LEASE_SUFFIX) - 1) ? NEAR_ERR_TOO_LARGE : NEAR_OK;
}

/* The local tier's part of one item; 1 with its status. */
static int get_one(struct batch *b, const struct near__wanted *like, near_item *item, int64_t now_ns,
                   struct near__wanted *ret)
{
    int status = item_check(item);
    *ret = *like;
    ret->key = item->key;
    ret->key_size = item->key_size;
    ret->value = &item->value;
    int over = status != NEAR_OK || near__wanted_locally(b->impl, b->l, b->reader, ret, &status) ||
               near__wanted_without(b->impl, b->l, ret, now_ns, &b->due, &status);
    item->status = status;
    return over;
}

static int reserve(struct batch *b, size_t count)
{
    const struct near__alloc *alloc = &b->impl->alloc;
    b->wishes = near__alloc_zero(alloc, count * sizeof(*b->wishes));
    b->requests = near__alloc(alloc, count * sizeof(*b->requests));
    b->asked = near__alloc(alloc, count * sizeof(*b->asked));
    return b->wishes && b->requests && b->asked;
}

static void release_all(near_item *items, size_t count)
{
    for (size_t i = 0; i < count; i++)
        near_release(&items[i].value);
}

static int get_all(struct batch *b, const struct near__wanted *like, near_item *items, size_t count)
{
    const struct near__alloc *alloc = &b->impl->alloc;
    int64_t started_ns = near__now(&b->impl->clock);
    int status = NEAR_OK;
    for (size_t i = 0; i < count && status == NEAR_OK; i++) {
        struct near__wanted w;
        if (get_one(b, like, &items[i], started_ns, &w))
            continue;
        if (!b->wishes && !reserve(b, count - i)) {
            release_all(items, count);
            status = near__items_fail(items, count, NEAR_ERR_NOMEM);
        } else {
            b->wishes[b->count++] = (struct wish){
                .w = w,
                .item = &items[i],
                .lease_flags = w.options->flags & NEAR_LOAD_REFRESH ? NEAR_LEASE_FORCE : 0,
            };
        }
    }
    near__refreshes_start(&b->due); /* [0] */
    if (status == NEAR_OK && b->count) {
        while (fly_round(b))
            ;
        near__histogram_record(&b->impl->miss_ns, (uint64_t)(near__now(&b->impl->clock) - started_ns));
    }
    near__free(alloc, b->wishes);
    near__free(alloc, b->requests);
    near__free(alloc, b->asked);
    return near__items_error(items, count);
}

int near_mget_or_load(near_cache *cache, near_item *items, size_t count, near_bulk_loader_fn loader, void *arg,
                      const near_load *options)
{
    struct near__wanted like = {.bulk_fn = loader, .arg = arg};
    struct batch b = {0};
    near_load mine;
    for (size_t i = 0; items && i < count; i++)
        memset(&items[i].value, 0, sizeof(items[i].value)); /* may be released whatever follows */
    int status = cache ? near__items_check(items, count, 0) : NEAR_ERR_INVALID;
    if (status == NEAR_OK && !(like.options = near__load_options(options, &mine)))
        status = NEAR_ERR_INVALID;
    if (status != NEAR_OK)
        return near__items_fail(items, count, status);
    b.impl = near__enter(cache, &status);
    if (!b.impl)
        return near__items_fail(items, count, status);
    b.l = near__loading_of(b.impl);
    b.reader = near__local_reader(b.impl->local);
    if (!b.l || !b.reader)
        status = near__items_fail(items, count, NEAR_ERR_NOMEM);
    else if (!near__wanted_loader(b.l, options, 1, &like) || !near__load_suits(b.impl, like.options))
        status = near__items_fail(items, count, NEAR_ERR_INVALID);
    else
        status = get_all(&b, &like, items, count);
    near__leave(b.impl);
    return status;
}
