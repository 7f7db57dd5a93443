/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Writes of a cache without a remote tier ("local:").  The process itself numbers them, so that the local tier orders
 * them exactly as it orders Redis's.  Reads take nothing.
 *
 * Numbers.  A write's is one above its stripe's floor.  Who takes it has the stripe: the floor is odd then, and nobody
 * else gets a number of that stripe before it is even again (near__local_number).  So what reads, changes and writes
 * (conditions, INCR, CAS, EXPIRE) has nobody between, no two writes of a stripe have the same number, and they are
 * installed in the order of their numbers.  Nothing else is compared: writes of different keys share no counter.  Only
 * invalidations of tags do, because a tag's number is compared with when a load began.
 *
 * A plain SET, with a time to live or without, which is nearly all of them, takes the short way: it runs inside the
 * read section in which the cache was found open, so near_close need not count it, and does nothing that waits.  Its
 * entry is ready before it takes the number, which is one swap, and it gives the stripe back with one store.  Whoever
 * finds the stripe taken, and whatever else is not as it should be, is left to the long way.
 *
 * Removals without a number, of one key (near_drop) or of all (near_clear), wait for nobody and take no stripe.  A
 * write that depends on what it has looked at must not bring that back: it takes its ticket, sees that no removal is
 * under way, and then looks.  One that had begun before has ended then, and is seen; one that begins later changes what
 * the ticket is compared with, and the write begins anew.  (One of another key of the stripe does, too, and may have
 * cost the older value by then: as if it had been evicted.)
 *
 * The long way may wait for room, and so for all sections to end; those who go it wait for each other at one of a few
 * mutexes.  Who has the mutex has only short ones before it, and gives up the processor until the stripe is free. */
#include "cache/cache.h"

#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/mutant.h"

#define STRIPES 64u

struct near__local_writes {
    struct {
        pthread_mutex_t mutex;
        char apart[64 - sizeof(pthread_mutex_t) % 64]; /* threads that write other keys do not share a line */
    } stripe[STRIPES];
    _Atomic(uint64_t) invalidations; /* of tags: the number of the last one */
    _Atomic(uint32_t) removals;      /* without a number, under way */
};

int near__local_writes_create(struct near__impl *impl)
{
    struct near__local_writes *writes = near__alloc_zero(&impl->alloc, sizeof(*writes));
    if (!writes)
        return NEAR_ERR_NOMEM;
    for (unsigned i = 0; i < STRIPES; i++)
        pthread_mutex_init(&writes->stripe[i].mutex, NULL);
    impl->local_writes = writes;
    return NEAR_OK;
}

void near__local_writes_destroy(struct near__impl *impl)
{
    if (!impl->local_writes)
        return;
    for (unsigned i = 0; i < STRIPES; i++)
        pthread_mutex_destroy(&impl->local_writes->stripe[i].mutex);
    near__free(&impl->alloc, impl->local_writes);
}

/* A write that has the stripe of its key. */
struct writing {
    struct near__impl *impl;
    struct near__reader *reader;
    struct near__request *request;
    uint64_t number;
    struct near__ticket ticket; /* from before we looked: what is dropped or cleared since then refuses us */
    unsigned tries;             /* of installs */
    int used;                   /* the number may be known: an entry has it, or the floor stays above what it removed */
    int present;                /* the key's value and remaining time as the conditions see them */
    struct near__view view;
};

static pthread_mutex_t *mutex_of(struct near__impl *impl, uint32_t stripe)
{
    return &impl->local_writes->stripe[stripe % STRIPES].mutex;
}

/* For somebody who waits for nobody: where he takes so long, he has been interrupted. */
static void wait_for_a_short_one(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
}

/* Under the stripe's mutex. */
static uint64_t number_of(struct near__impl *impl, uint32_t stripe)
{
    uint64_t number;
    while (!(number = near__local_number(impl->local, stripe)))
        wait_for_a_short_one();
    return number;
}

/* A write that finds no room because memory waits for the keeper waits for it too, so many times so long.  A keeper
 * that was given no processor gets one that way; one that is stopped costs a tenth of a second and the write. */
#define ROOM_TRIES 8
#define ROOM_PATIENCE_MS 12

/* An entry that the keeper moves to another table of the index is in neither for a moment (index.c, "Neither here nor
 * there"), and whoever took its key for absent would begin a counter anew.  So it looks again, with short sleeps
 * between the looks, for so long: as with room, a keeper that is stopped costs a tenth of a second and the write. */
#define MOVE_PATIENCE_NS (100 * NEAR_NS_PER_MS)

#define AGAIN INT_MIN /* from the look on */

/* The local tier is all there is: what it cannot keep is not written, and the older value is gone.  A clearing, or an
 * invalidation without a number, of the same moment refuses ours: what we looked at may be gone.  ttl_ms counts from
 * from_ns (NEAR_NEVER: now).  What is over before it is in was written just before: nothing of the key is left. */
static int put_from(struct writing *w, const void *value, size_t size, int64_t ttl_ms, int64_t from_ns)
{
    struct near__local *local = w->impl->local;
    const struct near__request *r = w->request;
    w->used = 1;
    while (w->tries++ < ROOM_TRIES) {
        if (NEAR_MUTANT(LOOKED_BEFORE_THE_TICKET))
            w->ticket = near__local_ticket(local, r->key, r->key_size);
        if (near__local_try(local, w->reader, w->ticket, r->key, r->key_size, value, size, w->number, ttl_ms, from_ns))
            return NEAR_OK;
        if (near__local_ticket(local, r->key, r->key_size).generation != w->ticket.generation)
            return AGAIN;
        if (from_ns != NEAR_NEVER && near__now(&w->impl->clock) >= from_ns + ttl_ms * NEAR_NS_PER_MS)
            return NEAR_OK;
        if (near__local_has_no_room(local, size))
            near__local_await_room(local, ROOM_PATIENCE_MS);
    }
    near__local_given_up(w->reader);
    return NEAR_ERR_FULL;
}

static int put(struct writing *w, const void *value, size_t size, int64_t ttl_ms)
{
    return put_from(w, value, size, ttl_ms, NEAR_NEVER);
}

/* Ends when what is there does: not so many milliseconds from now, which would be a little sooner each time. */
static int put_until_the_same_end(struct writing *w, const void *value, size_t size)
{
    int64_t end_ns = w->present ? w->view.expires_ns : NEAR_NEVER;
    return put_from(w, value, size, end_ns == NEAR_NEVER ? -1 : 0, end_ns);
}

static int write_value(struct writing *w)
{
    const struct near__request *r = w->request;
    if (r->flags & NEAR_SET_KEEP_TTL)
        return put_until_the_same_end(w, r->value, r->value_size);
    return put(w, r->value, r->value_size, r->ttl_ms ? r->ttl_ms : -1);
}

static int do_set(struct writing *w)
{
    const struct near__request *r = w->request;
    if ((r->flags & NEAR_SET_IF_ABSENT && w->present) || (r->flags & NEAR_SET_IF_PRESENT && !w->present))
        return NEAR_UNMET;
    return write_value(w);
}

static int do_cas(struct writing *w)
{
    const struct near__request *r = w->request;
    if (!w->present)
        return NEAR_MISS;
    if (w->view.size != r->expected_size ||
        (r->expected_size && memcmp(w->view.data, r->expected, r->expected_size) != 0))
        return NEAR_UNMET;
    return write_value(w);
}

/* A decimal integer exactly as Redis accepts it: no blanks, no plus, no leading zeros. */
static int parse_integer(const void *data, size_t size, int64_t *ret)
{
    char text[24], again[24];
    if (size == 0 || size >= sizeof(text))
        return -1;
    memcpy(text, data, size);
    text[size] = 0;
    if (sscanf(text, "%" SCNd64, ret) != 1)
        return -1;
    snprintf(again, sizeof(again), "%" PRId64, *ret);
    return strlen(again) == size && memcmp(text, again, size) == 0 ? 0 : -1;
}

static int do_incr(struct writing *w)
{
    int64_t number = 0;
    char text[24];
    if (w->present && parse_integer(w->view.data, w->view.size, &number) != 0)
        return NEAR_ERR_OVERFLOW;
    if (__builtin_add_overflow(number, w->request->number, &number))
        return NEAR_ERR_OVERFLOW;
    int size = snprintf(text, sizeof(text), "%" PRId64, number);
    w->request->result_number = number;
    return put_until_the_same_end(w, text, (size_t)size);
}

static int do_expire(struct writing *w)
{
    if (!w->present)
        return NEAR_MISS;
    return put(w, w->view.data, w->view.size, w->request->ttl_ms ? w->request->ttl_ms : -1);
}

static int do_del(struct writing *w)
{
    const struct near__request *r = w->request;
    w->used = 1;
    near__local_invalidate(w->impl->local, r->key, r->key_size, w->number, NEAR_CAUSE_WRITE);
    return w->present ? NEAR_OK : NEAR_MISS;
}

/* The tag's value is the invalidation's number. */
static int do_tag(struct writing *w)
{
    char text[24];
    /* seq_cst: see near__local_invalidations */
    uint64_t number = 1 + atomic_fetch_add_explicit(&w->impl->local_writes->invalidations, 1, memory_order_seq_cst);
    return put(w, text, (size_t)snprintf(text, sizeof(text), "%" PRIu64, number), -1);
}

uint64_t near__local_invalidations(struct near__impl *impl)
{
    /* seq_cst: taken before a loader asks its source; a tag invalidated after it is numbered above it */
    return atomic_load_explicit(&impl->local_writes->invalidations, memory_order_seq_cst);
}

static int do_write(struct writing *w)
{
    switch (w->request->operation) {
    case NEAR_OP_SET:
        return do_set(w);
    case NEAR_OP_CAS:
        return do_cas(w);
    case NEAR_OP_INCR:
        return do_incr(w);
    case NEAR_OP_EXPIRE:
        return do_expire(w);
    case NEAR_OP_TAG:
        return do_tag(w);
    default:
        return do_del(w);
    }
}

/* A plain SET or a tag does not ask what was there. */
static int depends_on_current(const struct near__request *r)
{
    return r->operation != NEAR_OP_TAG && (r->operation != NEAR_OP_SET || r->flags);
}

/* Nothing was learnt about the stripe between that ticket and our number. */
static int is_unchanged(const struct writing *w, struct near__ticket before)
{
    struct near__ticket now = w->ticket;
    now.floor = w->number - 1;
    return near__ticket_equal(before, now);
}

/* seq_cst: after the ticket; pairs with begin_removal, which comes before what changes tickets */
int near__local_is_being_removed(struct near__impl *impl)
{
    return atomic_load_explicit(&impl->local_writes->removals, memory_order_seq_cst) != 0;
}

static void take_ticket(struct writing *w)
{
    const struct near__request *r = w->request;
    w->ticket = near__local_ticket(w->impl->local, r->key, r->key_size);
    while (near__local_is_being_removed(w->impl)) {
        wait_for_a_short_one();
        w->ticket = near__local_ticket(w->impl->local, r->key, r->key_size);
    }
}

static enum near__local_result look(struct writing *w)
{
    const struct near__request *r = w->request;
    int64_t begun_ns = 0;
    for (;;) {
        enum near__local_result found = near__local_look(w->impl->local, w->reader, r->key, r->key_size, &w->view);
        if (found != NEAR_LOCAL_MOVED)
            return found;
        int64_t now_ns = near__clock_kernel(CLOCK_MONOTONIC);
        begun_ns = begun_ns ? begun_ns : now_ns;
        if (now_ns - begun_ns >= MOVE_PATIENCE_NS)
            return found;
        wait_for_a_short_one();
    }
}

/* Many keys share what a ticket tells.  The very value that was there when it was taken has been neither replaced nor
 * removed: no two of a stripe have the same position. */
static int is_still_there(struct writing *w, uint64_t position)
{
    if (!position || look(w) != NEAR_LOCAL_HIT)
        return 0;
    int same = w->view.position == position;
    near__local_unpin(w->reader, &w->view);
    return same;
}

static int look_and_write(struct writing *w, const struct near__ticket *unless_changed)
{
    const struct near__request *r = w->request;
    take_ticket(w);
    if (unless_changed && !is_unchanged(w, *unless_changed) && !is_still_there(w, unless_changed->value))
        return NEAR_UNMET;
    enum near__local_result found = depends_on_current(r) ? look(w) : NEAR_LOCAL_ABSENT;
    int unseen = found == NEAR_LOCAL_MOVED || found == NEAR_LOCAL_UNHELD;
    if (unseen && r->operation != NEAR_OP_DEL) /* which removes what it has not seen, too */
        return found == NEAR_LOCAL_MOVED ? NEAR_ERR_TIMEOUT : NEAR_ERR_NOMEM;
    w->present = found == NEAR_LOCAL_HIT || unseen;
    int status = do_write(w);
    if (w->present)
        near__local_unpin(w->reader, &w->view);
    return status;
}

static int write_with_number(struct writing *w, const struct near__ticket *unless_changed)
{
    int status;
    do
        status = look_and_write(w, unless_changed);
    while (status == AGAIN);
    return status;
}

static int write_the_long_way(struct near__impl *impl, struct near__request *request,
                              const struct near__ticket *unless_changed)
{
    struct writing w = {.impl = impl, .reader = near__local_reader(impl->local), .request = request};
    if (!w.reader)
        return NEAR_ERR_NOMEM;
    near__local_settle(impl->local);
    uint32_t stripe = near__local_ticket(impl->local, request->key, request->key_size).stripe;
    pthread_mutex_t *mutex = mutex_of(impl, stripe);
    pthread_mutex_lock(mutex);
    w.number = number_of(impl, stripe);
    int status = write_with_number(&w, unless_changed);
    near__local_numbered(impl->local, stripe, w.number, w.used);
    pthread_mutex_unlock(mutex);
    request->position = w.used ? w.number + 1 : 0;
    return status;
}

static void begin_removal(struct near__impl *impl)
{
    atomic_fetch_add_explicit(&impl->local_writes->removals, 1, memory_order_seq_cst);
}

static void end_removal(struct near__impl *impl)
{
    atomic_fetch_sub_explicit(&impl->local_writes->removals, 1, memory_order_seq_cst);
}

void near__local_remove(struct near__impl *impl, const void *key, size_t key_size, enum near__local_cause cause)
{
    if (impl->remote) {
        near__local_invalidate(impl->local, key, key_size, 0, cause);
        return;
    }
    begin_removal(impl);
    near__local_invalidate(impl->local, key, key_size, 0, cause);
    end_removal(impl);
}

int near__local_write(struct near__impl *impl, struct near__request *request)
{
    if (request->operation != NEAR_OP_CLEAR)
        return write_the_long_way(impl, request, NULL);
    begin_removal(impl);
    near__local_clear(impl->local);
    end_removal(impl);
    return NEAR_OK;
}

int near__local_write_if(struct near__impl *impl, struct near__request *request, struct near__ticket ticket)
{
    return write_the_long_way(impl, request, &ticket);
}
