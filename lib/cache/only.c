/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Writes of a cache without a remote tier ("local:").  The process itself numbers them, so that the local tier orders them exactly
 * as it orders Redis's.  What reads, changes and writes (conditions, INCR, CAS, EXPIRE) does so under one of a few mutexes, chosen
 * by the key's stripe; a plain SET takes it too, or it could slip in between, and so that writes of one stripe are installed in the
 * order of their numbers.  Reads take nothing.
 *
 * Numbers.  A write's is one above its stripe's floor.  Every write raises the floor to its own before it lets go of the mutex,
 * whether it is kept or not, so no two of a stripe have the same, and nothing else is compared: writes of different keys share no
 * counter.  Only invalidations of tags do, because a tag's number is compared with when a load began.
 *
 * A plain SET, which is nearly all of them, takes the short way: it runs inside the read section in which the cache was found open,
 * so near_close need not count it, and does nothing that waits.  Whoever holds the mutex may be waiting for room, and so for all
 * sections to end; so the mutex is tried, not waited for, and whatever is not as it should be is left to the long way. */
#include "cache/cache.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/prefetch.h"

#define STRIPES 64u

struct near__local_writes {
    struct {
        pthread_mutex_t mutex;
        char apart[64 - sizeof(pthread_mutex_t) % 64]; /* threads that write other keys do not share a line */
    } stripe[STRIPES];
    _Atomic(uint64_t) invalidations; /* of tags: the number of the last one */
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

/* The key's value and remaining time as the conditions see them. */
struct current {
    int present;
    struct near__view view;
};

/* Under the key's mutex; the ticket was taken under it, too. */
static uint64_t next_position(struct near__ticket ticket)
{
    return ticket.floor + 1;
}

static pthread_mutex_t *mutex_of(struct near__impl *impl, uint32_t stripe)
{
    return &impl->local_writes->stripe[stripe % STRIPES].mutex;
}

static int64_t ttl_left_ms(const struct near__impl *impl, const struct near__view *view)
{
    if (view->expires_ns == NEAR_NEVER)
        return -1;
    int64_t left = (view->expires_ns - near__now(&impl->clock)) / NEAR_NS_PER_MS;
    return left > 0 ? left : 0;
}

/* A write that finds no room because memory waits for the keeper waits for it too, so many times so long.  A keeper that was given no
 * processor gets one that way; one that is stopped costs a tenth of a second and the write. */
#define ROOM_TRIES 8
#define ROOM_PATIENCE_MS 12

/* The local tier is all there is: what it cannot keep is not written, and the older value is gone.  A clearing, or an
 * invalidation without a number, of the same moment refuses ours: then it takes another number. */
static int put(struct near__impl *impl, struct near__reader *reader, const struct near__request *request, const void *value,
               size_t size, int64_t ttl_ms)
{
    for (int tries = 0; tries < ROOM_TRIES; tries++) {
        struct near__ticket ticket = near__local_ticket(impl->local, request->key, request->key_size);
        if (near__local_install(impl->local, reader, ticket, request->key, request->key_size, value, size,
                                next_position(ticket), ttl_ms, NEAR_NEVER))
            return NEAR_OK;
        if (near__local_has_no_room(impl->local, size))
            near__local_await_room(impl->local, ROOM_PATIENCE_MS);
    }
    return NEAR_ERR_FULL;
}

static int do_set(struct near__impl *impl, struct near__reader *reader, struct near__request *r, const struct current *now)
{
    if ((r->flags & NEAR_SET_IF_ABSENT && now->present) || (r->flags & NEAR_SET_IF_PRESENT && !now->present))
        return NEAR_UNMET;
    int64_t ttl = r->ttl_ms ? r->ttl_ms : -1;
    if (r->flags & NEAR_SET_KEEP_TTL && now->present)
        ttl = ttl_left_ms(impl, &now->view);
    return put(impl, reader, r, r->value, r->value_size, ttl);
}

static int do_cas(struct near__impl *impl, struct near__reader *reader, struct near__request *r, const struct current *now)
{
    if (!now->present)
        return NEAR_MISS;
    if (now->view.size != r->expected_size ||
        (r->expected_size && memcmp(now->view.data, r->expected, r->expected_size) != 0))
        return NEAR_UNMET;
    int64_t ttl = r->flags & NEAR_SET_KEEP_TTL ? ttl_left_ms(impl, &now->view) : r->ttl_ms ? r->ttl_ms : -1;
    return put(impl, reader, r, r->value, r->value_size, ttl);
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

static int do_incr(struct near__impl *impl, struct near__reader *reader, struct near__request *r, const struct current *now)
{
    int64_t number = 0;
    char text[24];
    if (now->present && parse_integer(now->view.data, now->view.size, &number) != 0)
        return NEAR_ERR_OVERFLOW;
    if (__builtin_add_overflow(number, r->number, &number))
        return NEAR_ERR_OVERFLOW;
    int size = snprintf(text, sizeof(text), "%" PRId64, number);
    r->result_number = number;
    return put(impl, reader, r, text, (size_t)size, now->present ? ttl_left_ms(impl, &now->view) : -1);
}

static int do_expire(struct near__impl *impl, struct near__reader *reader, struct near__request *r,
                     const struct current *now)
{
    if (!now->present)
        return NEAR_MISS;
    return put(impl, reader, r, now->view.data, now->view.size, r->ttl_ms ? r->ttl_ms : -1);
}

static int do_del(struct near__impl *impl, struct near__request *r, const struct current *now)
{
    r->position = next_position(near__local_ticket(impl->local, r->key, r->key_size));
    near__local_invalidate(impl->local, r->key, r->key_size, r->position, NEAR_CAUSE_WRITE);
    return now->present ? NEAR_OK : NEAR_MISS;
}

/* The tag's value is the invalidation's number. */
static int do_tag(struct near__impl *impl, struct near__reader *reader, struct near__request *r)
{
    char text[24];
    /* seq_cst: see near__local_invalidations */
    uint64_t number = 1 + atomic_fetch_add_explicit(&impl->local_writes->invalidations, 1, memory_order_seq_cst);
    return put(impl, reader, r, text, (size_t)snprintf(text, sizeof(text), "%" PRIu64, number), -1);
}

uint64_t near__local_invalidations(struct near__impl *impl)
{
    /* seq_cst: taken before a loader asks its source; a tag invalidated after it is numbered above it */
    return atomic_load_explicit(&impl->local_writes->invalidations, memory_order_seq_cst);
}

static int do_write(struct near__impl *impl, struct near__reader *reader, struct near__request *r, const struct current *now)
{
    switch (r->operation) {
    case NEAR_OP_SET: return do_set(impl, reader, r, now);
    case NEAR_OP_CAS: return do_cas(impl, reader, r, now);
    case NEAR_OP_INCR: return do_incr(impl, reader, r, now);
    case NEAR_OP_EXPIRE: return do_expire(impl, reader, r, now);
    case NEAR_OP_TAG: return do_tag(impl, reader, r);
    default: return do_del(impl, r, now);
    }
}

/* A plain SET or a tag does not ask what was there. */
static int depends_on_current(const struct near__request *r)
{
    return r->operation != NEAR_OP_TAG && (r->operation != NEAR_OP_SET || r->flags);
}

static int write_under(struct near__impl *impl, struct near__request *request, const struct near__ticket *unless_changed)
{
    struct near__reader *reader = near__local_reader(impl->local);
    if (!reader)
        return NEAR_ERR_NOMEM;
    struct near__ticket seen = near__local_ticket(impl->local, request->key, request->key_size);
    pthread_mutex_t *mutex = mutex_of(impl, seen.stripe);
    struct current now = {0};
    int status = NEAR_UNMET;
    pthread_mutex_lock(mutex);
    if (!unless_changed ||
        near__ticket_equal(*unless_changed, near__local_ticket(impl->local, request->key, request->key_size))) {
        now.present = depends_on_current(request) && near__local_look(impl->local, reader, request->key, request->key_size,
                                                                      &now.view) == NEAR_LOCAL_HIT;
        status = do_write(impl, reader, request, &now);
    }
    if (now.present)
        near__local_unpin(reader, &now.view);
    pthread_mutex_unlock(mutex);
    return status;
}

int near__local_write(struct near__impl *impl, struct near__request *request)
{
    if (request->operation != NEAR_OP_CLEAR)
        return write_under(impl, request, NULL);
    near__local_clear(impl->local);
    return NEAR_OK;
}

int near__local_write_if(struct near__impl *impl, struct near__request *request, struct near__ticket ticket)
{
    return write_under(impl, request, &ticket);
}

int near__local_set_quickly(struct near__impl *impl, struct near__reader *reader, const void *key, size_t key_size, const void *value,
                            size_t value_size)
{
    struct near__draft draft = near__local_aim(impl->local, key, key_size);
    pthread_mutex_t *mutex = mutex_of(impl, draft.stripe);
    near__prefetch_write(mutex);
    if (value_size > impl->options.value_max || !near__local_draft(impl->local, reader, &draft, value, value_size))
        return 0;
    if (pthread_mutex_trylock(mutex) != 0) {
        near__local_discard(impl->local, reader, &draft);
        return 0;
    }
    int done = near__local_publish(impl->local, reader, &draft);
    pthread_mutex_unlock(mutex);
    return done;
}
