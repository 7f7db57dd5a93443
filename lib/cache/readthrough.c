/* SPDX-License-Identifier: BSD-3-Clause
 *
 * near_get_or_load: what a reader does who may have to wait for a load.
 *
 *   local copy    age           what happens
 *   ----------    -----------   -------------------------------------------------------------------------
 *   fresh                       served, inside the read section as by near_get; by its short way where nobody asked for
 *                               anything particular and the soft end is not near
 *   fresh, XFetch chose us      served; one refresh behind
 *   old           <= stale_ms   served, NEAR_STALE; one refresh behind
 *   old           <= fail_ms    waits for the load, at most soft_timeout_ms; then, or if it fails: served, NEAR_STALE
 *   none                        waits for the load until the deadline
 *
 * Who finds none and joins a refresh that another reader has begun (his copy may have been evicted meanwhile, or its
 * successor be on its way into the index) has what the server had when the refresh asked it, by the same rules.
 *
 * Flights of loads are those of flight.c: keyed by key and ticket, so nobody joins a load that began before something
 * was learnt of the key (R17); and not older than the staleness bound, for a write elsewhere whose message was lost.  A
 * second flight beside a slow load does not load again: the server's lease is held.
 *
 * Who leads asks the server himself, and waits for another process's message himself; only the loader runs in a worker.
 * So when the leader's own time is over, the flight lands with NEAR_ERR_TIMEOUT, and who has time left leads the
 * next. */
#include "cache/short_way.h"
#include "cache/wanted.h"

#include <string.h>

#include "base/mutant.h"

static int64_t ns(uint32_t ms)
{
    return (int64_t)ms * NEAR_NS_PER_MS;
}

/* How old a value may be that is served while, or because, a load does not help. */
static int64_t oldest_ns(const struct near__wanted *w)
{
    return near__load_grace_ms(w->options) * NEAR_NS_PER_MS;
}

/* ---------------------------------------------------------------- old values */

static int served_old(struct near__loading *l)
{
    near__add(&l->counters.stale);
    return NEAR_STALE;
}

int near__wanted_drop(struct near__wanted *w)
{
    if (w->has_local)
        near_release(w->value);
    w->has_local = 0;
    return 1;
}

/* More than so much of its life is left, and this reader does not want another one. */
static int has_left(const struct near__wanted *w, const struct near__shared *old, int64_t now_ns, int64_t left_ns)
{
    return old && !(w->options->flags & NEAR_LOAD_REFRESH) && old->expires_ns - now_ns > left_ns;
}

/* The server's value is fresh yet: the load is one that another reader wanted early. */
static int still_fresh(const struct near__wanted *w, const struct near__shared *old, int64_t now_ns)
{
    return has_left(w, old, now_ns, oldest_ns(w));
}

static void serve_shared(struct near__impl *impl, struct near__wanted *w, struct near__shared *shared, uint32_t source)
{
    near__wanted_drop(w);
    near__shared_ref(shared);
    near__value_from_shared(w->value, impl, shared, source);
}

/* Puts an old value that may be served into *value: the one that the server had, or the local copy. */
static int serve_old(struct near__impl *impl, struct near__wanted *w, struct near__shared *old, uint32_t source,
                     int64_t now_ns)
{
    if (!oldest_ns(w))
        return 0;
    if (!near__shared_lasts(old, now_ns, now_ns))
        return w->has_local && w->age_ns <= oldest_ns(w);
    serve_shared(impl, w, old, source); /* at least as young as the local copy */
    return 1;
}

/* The last resort with fail_ms: a local copy without a current proof. */
static int serve_unproven(struct near__impl *impl, struct near__reader *reader, struct near__wanted *w)
{
    struct near__view view;
    if (!w->options->fail_ms || w->has_local || w->options->flags & NEAR_LOAD_TAGS)
        return 0;
    enum near__local_result result = near__local_get(impl->local, reader, w->key, w->key_size,
                                                     near__read_bound(impl, NULL), ns(w->options->fail_ms), &view);
    if (result != NEAR_LOCAL_HIT && result != NEAR_LOCAL_STALE_HIT)
        return 0;
    near__value_from_view(w->value, impl, reader, &view);
    return 1;
}

/* There is something to be served at the soft end, or now if that is over. */
static int has_old(const struct near__wanted *w, const struct near__shared *old, int64_t now_ns)
{
    return oldest_ns(w) > 0 &&
           ((w->has_local && w->age_ns <= oldest_ns(w)) || near__shared_lasts(old, w->soft_ns, now_ns));
}

/* ---------------------------------------------------------------- behind */

/* Without a remote tier the local copy is what the loaded value replaces, if it is there still; and what the loader is
 * given, and who joins meanwhile.  Looked for anew, since the flight's ticket has been taken: what was found before may
 * have been removed before that, and then whoever removed it may join (R17).  A removal changes the ticket before it
 * removes, and a write has the stripe (its floor is odd) from before its value is visible until after: what is found in
 * between may be the older one, and is given to nobody. */
static void learn_old(struct near__impl *impl, const struct near__wanted *w, struct near__load *load)
{
    struct near__reader *reader = near__local_reader(impl->local);
    struct near__view view;
    int is_given = w->has_local && !(load->ticket.floor & 1) && !near__local_is_being_removed(impl);
    if (!reader || near__local_look(impl->local, reader, w->key, w->key_size, &view) != NEAR_LOCAL_HIT)
        return;
    load->ticket.value = view.position;
    if (is_given && (!(w->options->flags & NEAR_LOAD_TAGS) ||
                     near__tags_hold(impl, reader, w->key, w->key_size, view.data, view.size))) {
        void *copy = near__memdup(&impl->alloc, view.data, view.size);
        struct near__shared *old = copy ? near__shared_create(&impl->values, copy, view.size, view.expires_ns) : NULL;
        if (!old)
            near__free(&impl->alloc, copy);
        else if (w->options->flags & NEAR_LOAD_TAGS)
            load->tags = near__tags_copy(impl, w->key, w->key_size, &load->tags_size);
        near__load_take_old(load, old);
    }
    near__local_unpin(reader, &view);
}

struct near__load *near__wanted_load(struct near__impl *impl, const struct near__wanted *w, struct near__flight *flight)
{
    struct near__load *load = near__load_create(impl, w->key, w->key_size, flight);
    if (!load)
        return NULL;
    load->fn = w->fn;
    load->bulk_fn = w->bulk_fn;
    load->arg = w->arg;
    load->options = *w->options;
    load->early = w->has_local && w->freshness != NEAR_FRESH_OLD;
    if (!impl->remote) /* otherwise the server tells */
        learn_old(impl, w, load);
    return load;
}

static enum near__note note_of(struct near__impl *impl, struct near__loading *l, const struct near__wanted *w)
{
    /* the order of a hit (R47): proof, then what is there, then the clock.  acquire: as on the hit path */
    int64_t proved_ns = atomic_load_explicit(&impl->gate->proved_ns, memory_order_acquire);
    struct near__ticket now = near__local_ticket(impl->local, w->key, w->key_size);
    int64_t now_ns = near__now(&impl->clock);
    enum near__note note = near__notes_find(l->notes, w->key, w->key_size, now, now_ns);
    if (note == NEAR_NOTE_ABSENT && proved_ns != NEAR_PROVED_ALWAYS &&
        (proved_ns == NEAR_PROVED_NEVER || now_ns - proved_ns >= near__read_bound(impl, NULL)))
        return NEAR_NOTE_NONE;
    return note;
}

/* The key's own ticket does not change when a tag of it is invalidated, and which tags it has is known only after the
 * load.  So a load that looks at tags is joined by nobody who begins after any such invalidation has returned here
 * (R17), nor one that does not look by anybody who does. */
struct near__ticket near__load_ticket(struct near__impl *impl, const struct near__wanted *w)
{
    struct near__ticket ticket = near__local_ticket(impl->local, w->key, w->key_size);
    if (w->options->flags & NEAR_LOAD_TAGS && !NEAR_MUTANT(TAGS_UNTICKETED))
        ticket.tags = 1 + atomic_load_explicit(&impl->tags_ended, memory_order_acquire); /* see near_invalidate_tag */
    return ticket;
}

/* Whether one more refresh may run: one that goes with those that are due already is none. */
static int has_room(struct near__impl *impl, struct near__loading *l, const struct near__wanted *w,
                    const struct near__refreshes *due)
{
    if (w->bulk_fn && due->count)
        return 1;
    /* relaxed: a limit; being one above it for an instant refreshes one less */
    if (atomic_fetch_add_explicit(&l->refreshing, 1, memory_order_relaxed) < impl->options.load_refreshes)
        return 1;
    atomic_fetch_sub_explicit(&l->refreshing, 1, memory_order_relaxed);
    return 0;
}

/* What leads a flight of a refresh; NULL: there is no room, or no memory. */
static struct near__load *refresh_of(struct near__impl *impl, struct near__loading *l, const struct near__wanted *w,
                                     struct near__flight *flight, const struct near__refreshes *due)
{
    struct near__load *load = near__wanted_load(impl, w, flight);
    if (!load || !has_room(impl, l, w, due)) {
        if (load)
            near__load_free(load);
        near__add(&l->counters.skipped);
        near__flight_land(l->flights, flight, NEAR_ERR_TIMEOUT, NULL); /* who joined leads himself */
        return NULL;
    }
    load->behind = 1;
    return load;
}

static void refresh_behind(struct near__impl *impl, struct near__loading *l, const struct near__wanted *w,
                           struct near__refreshes *due)
{
    struct near__flight *flight;
    if (note_of(impl, l, w) == NEAR_NOTE_PAUSE)
        return;
    struct near__ticket ticket = near__load_ticket(impl, w);
    enum near__flight_role role = near__flight_enter(l->flights, w->key, w->key_size, ticket, NEAR_NEVER, &flight);
    if (role == NEAR_FLIGHT_NOMEM)
        return;
    struct near__load *load = role == NEAR_FLIGHT_LEAD ? refresh_of(impl, l, w, flight, due) : NULL;
    near__flight_leave(l->flights, flight);
    if (!load)
        return;
    if (due->last)
        due->last->next = load;
    else
        due->first = load;
    due->last = load;
    due->count++;
}

/* ---------------------------------------------------------------- waiting */

/* Errors about the key or the caller; whatever else the server says, it cannot be asked at present. */
int near__wanted_is_final(int status)
{
    return status == NEAR_ERR_TOO_LARGE || status == NEAR_ERR_WRONG_TYPE || status == NEAR_ERR_NOMEM ||
           status == NEAR_ERR_CLOSED;
}

#define DEAF_MS 50

int64_t near__wanted_own_end(const struct near__wanted *w, const struct near__load *load)
{
    return has_old(w, load->old, w->began_ns) && w->soft_ns < w->deadline_ns ? w->soft_ns : w->deadline_ns;
}

int64_t near__wanted_other_end(struct near__impl *impl, int64_t lease_left_ms)
{
    /* acquire: as on the hit path; only how long to wait depends on it */
    if (atomic_load_explicit(&impl->gate->proved_ns, memory_order_acquire) == NEAR_PROVED_NEVER &&
        lease_left_ms > DEAF_MS)
        lease_left_ms = DEAF_MS;
    return near__now(&impl->clock) + (lease_left_ms + 1) * NEAR_NS_PER_MS;
}

int near__wanted_wait_other(struct near__impl *impl, struct near__loading *l, struct near__watch *watch,
                            int64_t until_ns, int64_t own_ns)
{
    return near__watch_wait(l->watches, watch, until_ns < own_ns ? until_ns : own_ns) ||
           near__now(&impl->clock) < own_ns;
}

static int wait_for_other(struct near__impl *impl, struct near__loading *l, const struct near__wanted *w,
                          struct near__load *load, struct near__watch *watch, int64_t lease_left_ms)
{
    near__add(&l->counters.waits);
    return near__wanted_wait_other(impl, l, watch, near__wanted_other_end(impl, lease_left_ms),
                                   near__wanted_own_end(w, load));
}

/* The end of asking when there is nothing to load. */
void near__wanted_land(struct near__loading *l, struct near__load *load, const struct near__request *q)
{
    int status = NEAR_ERR_TIMEOUT; /* HELD, and the leader's own time is over */
    if (q->status < 0)
        status = q->status;
    else if (q->lease == NEAR_LEASE_FRESH)
        status = load->old ? NEAR_OK : NEAR_ERR_NOMEM;
    else if (q->lease == NEAR_LEASE_ABSENT)
        status = NEAR_MISS;
    near__flight_land(l->flights, load->flight, status, status == NEAR_OK ? load->old : NULL);
}

/* So much of its life a value must have left to be served at once, though a load is under way. */
static int64_t at_once_ns(const struct near__wanted *w)
{
    return oldest_ns(w) - ns(w->options->stale_ms);
}

/* An old value that the server gave and that may be served at once: then the other may go on by himself. */
int near__wanted_at_once(const struct near__wanted *w, const struct near__shared *old, int64_t now_ns)
{
    return has_left(w, old, now_ns, at_once_ns(w));
}

/* Asks until the load is ours (1), or the flight has landed (0). */
static int ask(struct near__impl *impl, struct near__loading *l, const struct near__wanted *w, struct near__load *load)
{
    uint32_t flags = w->options->flags & NEAR_LOAD_REFRESH ? NEAR_LEASE_FORCE : 0;
    for (;;) {
        struct near__watch watch;
        struct near__request q;
        int64_t now_ns = near__now(&impl->clock), half_ns = now_ns + (w->deadline_ns - now_ns) / 2;
        int again = 0;
        near__watch_begin(l->watches, &watch, w->key, w->key_size); /* before the server is asked: see watch.c */
        near__load_ask(load, flags, now_ns + impl->timeout_ns < half_ns ? now_ns + impl->timeout_ns : half_ns, &q);
        if (q.status == NEAR_OK && q.lease == NEAR_LEASE_HELD &&
            !near__wanted_at_once(w, load->old, near__now(&impl->clock))) {
            again = wait_for_other(impl, l, w, load, &watch, q.lease_left_ms);
            flags = 0; /* what the other has loaded is fresh enough */
        }
        near__watch_end(l->watches, &watch);
        if (again)
            continue;
        if (q.status == NEAR_OK ? q.lease == NEAR_LEASE_GOT : !near__wanted_is_final(q.status))
            return 1; /* an error: without a lease */
        near__wanted_land(l, load, &q);
        return 0;
    }
}

/* Returns where the leader's value comes from. */
static uint32_t lead(struct near__impl *impl, struct near__loading *l, struct near__wanted *w,
                     struct near__flight *flight)
{
    struct near__load *load = near__wanted_load(impl, w, flight);
    if (!load) {
        near__flight_land(l->flights, flight, NEAR_ERR_NOMEM, NULL);
        return NEAR_FROM_REMOTE;
    }
    if (impl->remote && !ask(impl, l, w, load)) {
        near__load_free(load);
        return NEAR_FROM_REMOTE;
    }
    near__load_start(load);
    return NEAR_FROM_LOADER;
}

static int leaders_timeout(const struct near__landing *landing)
{
    return landing->landed && landing->status == NEAR_ERR_TIMEOUT;
}

/* The end of a flight for this reader; 0: once more. */
int near__wanted_settle(struct near__impl *impl, struct near__loading *l, struct near__reader *reader,
                        struct near__wanted *w, const struct near__landing *landing, uint32_t source, int *ret_status)
{
    int status = landing->landed ? landing->status : NEAR_ERR_TIMEOUT;
    int64_t now_ns = near__now(&impl->clock);
    if (w->has_local && w->ends_ns <= now_ns)
        near__wanted_drop(w); /* its time has come while we waited */
    /* who joins was not the one who asked */
    uint32_t old_source = source == NEAR_FROM_FLIGHT ? NEAR_FROM_FLIGHT
                          : impl->remote             ? NEAR_FROM_REMOTE
                                                     : NEAR_FROM_LOCAL;
    if (status == NEAR_OK && source == NEAR_FROM_FLIGHT && near__shared_was_over(landing->shared, w->began_ns))
        return 0; /* what is led or joined next began after us */
    if (status == NEAR_OK) {
        serve_shared(impl, w, landing->shared, source);
    } else if (leaders_timeout(landing) && now_ns < w->deadline_ns &&
               (now_ns < w->soft_ns || !has_old(w, landing->old, now_ns)) &&
               !near__wanted_at_once(w, landing->old, now_ns)) {
        return 0; /* the leader's time was over, ours is not */
    } else if (status < 0 && still_fresh(w, landing->old, now_ns)) {
        serve_shared(impl, w, landing->old, old_source);
        status = NEAR_OK;
    } else if (status < 0 && serve_old(impl, w, landing->old, old_source, now_ns)) {
        status = served_old(l);
    } else if (!landing->landed && now_ns < w->deadline_ns) {
        return 0; /* what ended the wait has come to its own end meanwhile */
    } else if (status < 0 && serve_unproven(impl, reader, w)) {
        status = served_old(l);
    } else {
        near__wanted_drop(w);
    }
    *ret_status = status;
    return 1;
}

struct near__patience near__wanted_patience(const struct near__wanted *w)
{
    return (struct near__patience){
        .deadline_ns = w->deadline_ns,
        .soft_ns = oldest_ns(w) ? w->soft_ns : w->deadline_ns, /* nothing may be served then */
        .has_old = w->has_local && w->age_ns <= oldest_ns(w),
        /* what the server had is served at once as if it had been here */
        .at_once_ns = w->options->flags & NEAR_LOAD_REFRESH ? NEAR_NEVER : at_once_ns(w),
    };
}

static int fly(struct near__impl *impl, struct near__loading *l, struct near__reader *reader, struct near__wanted *w,
               int *ret_status)
{
    struct near__flight *flight;
    int64_t join_ns = impl->remote ? near__read_bound(impl, NULL) : NEAR_NEVER;
    struct near__ticket ticket = near__load_ticket(impl, w);
    enum near__flight_role role = near__flight_enter(l->flights, w->key, w->key_size, ticket, join_ns, &flight);
    if (role == NEAR_FLIGHT_NOMEM) {
        *ret_status = NEAR_ERR_NOMEM;
        return near__wanted_drop(w);
    }
    uint32_t source = NEAR_FROM_FLIGHT;
    if (role == NEAR_FLIGHT_LEAD)
        source = lead(impl, l, w, flight);
    else
        near__add(&impl->counters.flights_joined);
    struct near__patience patience = near__wanted_patience(w);
    struct near__landing landing = near__load_wait(l, flight, patience);
    near__flight_leave(l->flights, flight);
    int over = near__wanted_settle(impl, l, reader, w, &landing, source, ret_status);
    near__shared_unref(landing.shared);
    near__shared_unref(landing.old);
    return over;
}

/* ---------------------------------------------------------------- the call */

int near__wanted_without(struct near__impl *impl, struct near__loading *l, struct near__wanted *w, int64_t now_ns,
                         struct near__refreshes *due, int *ret_status)
{
    int refresh = (w->options->flags & NEAR_LOAD_REFRESH) != 0;
    *ret_status = NEAR_OK;
    if (w->has_local && !refresh && w->freshness == NEAR_FRESH_EARLY) {
        refresh_behind(impl, l, w, due);
        return 1;
    }
    if (w->has_local && !refresh && w->age_ns <= ns(w->options->stale_ms)) {
        refresh_behind(impl, l, w, due);
        *ret_status = served_old(l);
        return 1;
    }
    enum near__note note = refresh ? NEAR_NOTE_NONE : note_of(impl, l, w);
    if (w->has_local && note == NEAR_NOTE_PAUSE && w->age_ns <= ns(w->options->fail_ms)) {
        *ret_status = served_old(l);
        return 1;
    }
    if (!w->has_local && note == NEAR_NOTE_ABSENT) {
        near__add(&l->counters.absent_hits);
        *ret_status = NEAR_MISS;
        return 1;
    }
    if (impl->remote && near__read_refused(impl, near__read_bound(impl, NULL))) {
        *ret_status = NEAR_ERR_UNPROVEN;
        return near__wanted_drop(w);
    }
    w->began_ns = now_ns;
    w->deadline_ns = now_ns + (w->options->timeout_ms ? ns(w->options->timeout_ms) : impl->timeout_ns);
    w->soft_ns = w->options->soft_timeout_ms ? now_ns + ns(w->options->soft_timeout_ms) : w->deadline_ns;
    return 0;
}

/* After the local tier; the call is counted. */
static int get_slowly(struct near__impl *impl, struct near__loading *l, struct near__reader *reader,
                      struct near__wanted *w)
{
    int64_t started_ns = near__now(&impl->clock);
    struct near__refreshes due = {0};
    int status;
    if (near__wanted_without(impl, l, w, started_ns, &due, &status)) {
        near__refreshes_start(&due);
        return status;
    }
    while (!fly(impl, l, reader, w, &status))
        ;
    near__histogram_record(&impl->miss_ns, (uint64_t)(near__now(&impl->clock) - started_ns));
    return status;
}

int near__wanted_loader(struct near__loading *l, const near_load *options, int many, struct near__wanted *w)
{
    if (w->fn || w->bulk_fn)
        return 1;
    /* acquire: pairs with the release in set_loader */
    const struct near__loader *one = atomic_load_explicit(&l->loader, memory_order_acquire);
    const struct near__loader *bulk = atomic_load_explicit(&l->bulk_loader, memory_order_acquire);
    const struct near__loader *loader = (many && bulk) || !one ? bulk : one;
    if (!loader)
        return 0;
    w->fn = loader->fn;
    w->bulk_fn = loader->bulk_fn;
    w->arg = loader->arg;
    if (!options)
        w->options = &loader->options;
    return 1;
}

int near__wanted_locally(struct near__impl *impl, struct near__loading *l, struct near__reader *reader,
                         struct near__wanted *w, int *ret_status)
{
    struct near__view view;
    enum near__local_result result =
        near__local_get(impl->local, reader, w->key, w->key_size, near__read_bound(impl, NULL),
                        near__read_stale_bound(impl, NULL), &view);
    if (result != NEAR_LOCAL_HIT && result != NEAR_LOCAL_STALE_HIT)
        return 0;
    near__value_from_view(w->value, impl, reader, &view);
    if (w->options->flags & NEAR_LOAD_TAGS &&
        !near__tags_hold(impl, reader, w->key, w->key_size, view.data, view.size)) {
        near_release(w->value);
        return 0;
    }
    w->has_local = 1;
    w->ends_ns = view.expires_ns;
    w->freshness = NEAR_FRESH;
    *ret_status = result == NEAR_LOCAL_HIT ? NEAR_OK : NEAR_STALE;
    if (result == NEAR_LOCAL_STALE_HIT)
        return !(w->options->flags & NEAR_LOAD_REFRESH);
    if (view.expires_ns != NEAR_NEVER)
        w->freshness = near__fresh(view.now_ns, view.expires_ns, oldest_ns(w),
                                   near__pace_get(&l->pace, near_version_of(w->key, w->key_size)),
                                   w->options->early_permille, near__load_random(), &w->age_ns);
    return w->freshness == NEAR_FRESH && !(w->options->flags & NEAR_LOAD_REFRESH);
}

/* Is a hit that is plain and will be for so long served without more ado? */
static int is_lasting(struct near__loading *l, const struct near__wanted *w, int64_t ttl_ms)
{
    return near__is_surely_fresh(ttl_ms * NEAR_NS_PER_MS - oldest_ns(w),
                                 near__pace_get(&l->pace, near_version_of(w->key, w->key_size)),
                                 w->options->early_permille);
}

/* What the slow way would look at, too: a loader, options that suit, and nothing particular. */
static int is_simple(struct near__impl *impl, struct near__loading *l, const near_load *options, struct near__wanted *w)
{
    return l && near__wanted_loader(l, options, 0, w) && near__load_suits(impl, w->options) && !w->options->flags;
}

/* A hit of the short way that needs nothing but to be served.  0: nothing has changed. */
NEAR_INLINE int hit_shortly(near_cache *cache, const near_load *options, struct near__wanted *w, int width)
{
    struct near__short_way way;
    struct near__entry *entry = NULL;
    int64_t ttl_ms = -1;
    size_t size;
    if (!near__hash_is_short(w->key_size) || near__unlikely(!near__short_begin(cache, &way)))
        return 0;
    struct near__impl *impl = near__impl_in_section(cache);
    struct near__loading *l = impl ? near__loading_known(impl) : NULL;
    if (near__likely(is_simple(impl, l, options, w)) && near__likely(way.reader->pins_free))
        entry = near__hit_plain(way.reader->local, w->key, w->key_size, width, NEAR_ENTRY_VALUE_MAX, &size);
    if (entry && near__entry_has_expiry(entry) &&
        !is_lasting(l, w, ttl_ms = near__hit_ttl_ms(way.reader->local, entry, 0)))
        entry = NULL;
    if (near__unlikely(!entry)) {
        near__short_leave(&way);
        return 0;
    }
    near__short_pin(w->value, way.reader, entry, ttl_ms);
    near__short_end(&way);
    return 1;
}

static int get_at_once(near_cache *cache, const near_load *options, struct near__wanted *w)
{
    if (near__unlikely(near__reader_last.name != cache))
        (void)near__short_recall(cache);
    if (near__likely(near__reader_last.name_with_line == cache))
        return hit_shortly(cache, options, w, NEAR_WIDTH_LINE);
    return near__reader_last.name_with_less == cache && hit_shortly(cache, options, w, NEAR_WIDTH_LESS);
}

int near_get_or_load(near_cache *cache, const void *key, size_t key_size, near_loader_fn loader, void *arg,
                     const near_load *options, near_value *ret_value)
{
    struct near__wanted w = {.key = key, .key_size = key_size, .fn = loader, .arg = arg, .value = ret_value};
    near_load mine;
    int status = near__key_check(key, key_size);
    if (!ret_value)
        return NEAR_ERR_INVALID;
    memset(ret_value, 0, sizeof(*ret_value));
    if (!cache)
        return NEAR_ERR_INVALID;
    if (status == NEAR_OK && key_size > NEAR_KEY_MAX - (sizeof(NEAR_LEASE_SUFFIX) - 1))
        status = NEAR_ERR_TOO_LARGE;
    if (status != NEAR_OK)
        return status;
    if (!(w.options = near__load_options(options, &mine)))
        return NEAR_ERR_INVALID;
    if (near__likely(get_at_once(cache, options, &w)))
        return NEAR_OK;
    for (;;) {
        near__local_section_enter();
        struct near__impl *impl = near__impl_in_section(cache);
        struct near__reader *reader = impl ? near__local_reader_known(impl->local) : NULL;
        struct near__loading *l = impl ? near__loading_known(impl) : NULL;
        int over = !impl;
        if (reader && l) {
            status = NEAR_ERR_INVALID;
            over = !near__wanted_loader(l, options, 0, &w) || !near__load_suits(impl, w.options) ||
                   near__wanted_locally(impl, l, reader, &w, &status);
        }
        if (!over)
            near__count_call(impl);
        near__local_section_leave();
        if (over)
            return impl ? status : near__shell_refusal(cache);
        int ready = reader && l;
        status = ready                                                       ? get_slowly(impl, l, reader, &w)
                 : near__loading_of(impl) && near__local_reader(impl->local) ? NEAR_OK
                                                                             : NEAR_ERR_NOMEM;
        near__leave(impl);
        if (ready || status != NEAR_OK)
            return status;
    }
}
