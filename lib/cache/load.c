/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One load of a key: ask the server for the right to load, run the loader, write its answer through.
 *
 *      LEASE ──► value is fresh          take it, no load
 *        │  ───► known to be absent      take that
 *        │  ───► somebody loads          wait for their message (near_get_or_load) or leave it to them (a refresh)
 *        ▼
 *      loader ─► value                   FILL     kept by the server if the lease still stands, then locally, then
 *                                                 handed out
 *           ───► no such key             RELEASE  remembered as absent, here and there
 *           ───► failed                  RELEASE  and the message wakes the next process
 *
 * Why the loaded value never overwrites something newer.  The loader asks its source some time between [1] the server's
 * giving the lease and [2] FILL.  A writer changes the source, then the server (near_set, near_del).  Every write of
 * ours removes the lease in the same step.  If that step comes after [1] and before [2], FILL finds the lease gone and
 * does nothing; if after [2], it overwrites or removes what FILL wrote; if before [1], the source had the new value
 * already when the loader asked.  A lease that ended by itself (the holder was too slow) ends FILL the same way,
 * whoever has it now.  A foreign client does not remove leases: what it creates is still not overwritten
 * (NEAR_FILL_ABSENT), but its writes during a refresh, and its deletions during any load, are not seen; then the time
 * to live is the bound.
 *
 * Here, the loaded value is installed as any acknowledged write is: at FILL's position, under the ticket taken before
 * FILL was sent (docs/design.md, section 1).  What FILL did not keep is not installed.
 *
 * Without the server's answer (away, out of memory, no rights) the load runs without a lease, once in this process, and
 * its value is handed out and kept nowhere: there is nobody who could say whether it is the newest. */
#include "cache/loading.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mutant.h"
#include "cache/suffixed.h"

/* ---------------------------------------------------------------- life */

struct near__load *near__load_create(struct near__impl *impl, const void *key, size_t key_size,
                                     struct near__flight *flight)
{
    struct near__loading *l = near__loading_known(impl);
    struct near__load *load = near__alloc_zero(&impl->alloc, sizeof(*load) + key_size);
    if (!load)
        return NULL;
    load->impl = impl;
    load->loading = l;
    load->key_size = key_size;
    if (key_size)
        memcpy(load->key, key, key_size);
    snprintf(load->owner, sizeof(load->owner), "%016" PRIx64 "%016" PRIx64, near__load_random(), near__load_random());
    load->ticket = near__local_ticket(impl->local, key, key_size);
    if (!impl->remote)
        load->asked_at = near__local_invalidations(impl);
    load->flight = flight;
    near__flight_ref(l->flights, flight);
    return load;
}

void near__load_free(struct near__load *load)
{
    near__shared_unref(load->old);
    near__free(&load->impl->alloc, load->tags);
    near__flight_leave(load->loading->flights, load->flight);
    near__free(&load->impl->alloc, load);
}

static void land(struct near__load *load, int status, struct near__shared *shared)
{
    near__flight_land(load->loading->flights, load->flight, status, shared);
}

/* ---------------------------------------------------------------- asking */

/* What a LEASE teaches: with a value the same as a fetch; otherwise that nothing below the position is current. */
static void learn_tags(struct near__load *load, const struct near__request *q, struct near__ticket ticket,
                       uint64_t position)
{
    char text[NEAR_TAGS_TEXT_MAX];
    struct near__tags tags;
    const char *list = "";
    size_t list_size = 0;
    uint64_t read = q->position;
    if (q->extra_out && near__tags_parse(q->extra_out, q->extra_out_size, &tags) == 0 &&
        tags.hash == near_version_of(q->value_out, q->value_out_size)) {
        list = tags.list;
        list_size = tags.list_size;
        read = tags.position;
    } /* otherwise somebody wrote the value without tags */
    struct near__learnt learnt = {.key = q->key,
                                  .key_size = q->key_size,
                                  .ticket = ticket,
                                  .position = position,
                                  .ttl_ms = q->ttl_left_ms,
                                  .sent_ns = q->sent_ns};
    if (list_size <= NEAR_TAGS_LIST_MAX)
        near__tags_learn(load->impl, &learnt, text,
                         near__tags_describe(read, q->value_out, q->value_out_size, list, list_size, text));
}

static void learn_asked(struct near__load *load, const struct near__request *q, const struct near__sent *sent,
                        struct near__ticket tags_ticket)
{
    struct near__impl *impl = load->impl;
    struct near__reader *reader = near__local_reader(impl->local);
    if (q->status < 0) {
        near__add(&impl->counters.remote_errors);
        return;
    }
    near__add(q->value_out ? &impl->counters.remote_hits : &impl->counters.remote_misses);
    uint64_t position = near__coherence_position(impl->coherence, sent->before, q);
    int told = q->value_out || q->lease == NEAR_LEASE_FRESH || q->lease == NEAR_LEASE_ABSENT;
    if (!told)
        return; /* nobody is told anything of the key, so nobody can go back; and its flights stay joinable */
    if (!position)
        near__local_invalidate(impl->local, q->key, q->key_size, 0, NEAR_CAUSE_WRITE);
    else if (q->value_out && reader)
        near__local_install(impl->local, reader, sent->ticket, q->key, q->key_size, q->value_out, q->value_out_size,
                            position, q->ttl_left_ms, q->sent_ns);
    else
        near__local_observe(impl->local, q->key, q->key_size, position);
    if (q->value_out && position && load->options.flags & NEAR_LOAD_TAGS)
        learn_tags(load, q, tags_ticket, position);
    if (q->lease == NEAR_LEASE_ABSENT && position)
        near__notes_put(load->loading->notes, q->key, q->key_size, NEAR_NOTE_ABSENT, sent->ticket, position,
                        q->sent_ns + q->lease_left_ms * NEAR_NS_PER_MS);
}

struct near__asked near__load_ask_before(struct near__load *load, uint32_t flags, struct near__request *ret)
{
    struct near__asked asked = {0};
    *ret = (struct near__request){.operation = NEAR_OP_LEASE,
                                  .key = load->key,
                                  .key_size = load->key_size,
                                  .expected = load->owner,
                                  .expected_size = strlen(load->owner),
                                  .flags = flags,
                                  .ttl_ms = load->options.lease_ms,
                                  .number = near__load_grace_ms(&load->options)};
    if (load->options.flags & NEAR_LOAD_TAGS) {
        ret->flags |= NEAR_LEASE_TAGGED;
        asked.tags_ticket = near__tags_ticket(load->impl, load->key, load->key_size);
    }
    asked.sent = near__write_before(load->impl, ret);
    return asked;
}

/* Told to the flight where it is learnt: a reader who finds no copy (evicted during a refresh, or on its way into the
 * index) is there already, or comes while it is loaded. */
void near__load_take_old(struct near__load *load, struct near__shared *old)
{
    near__shared_unref(load->old);
    load->old = old;
    if (old)
        near__flight_offer(load->loading->flights, load->flight, old);
}

void near__load_ask_after(struct near__load *load, struct near__request *q, const struct near__asked *asked)
{
    struct near__impl *impl = load->impl;
    learn_asked(load, q, &asked->sent, asked->tags_ticket);
    near__load_take_old(load, q->value_out ? near__fetch_share(impl, q) : NULL);
    near__free(&impl->alloc, load->tags);
    load->tags = q->extra_out;
    load->tags_size = q->extra_out_size;
    q->extra_out = NULL;
    load->asked_at = q->position;
    load->leased = q->status == NEAR_OK && q->lease == NEAR_LEASE_GOT;
    load->exists = q->exists;
    load->fence = load->leased ? q->fence : 0;
}

void near__load_ask(struct near__load *load, uint32_t flags, int64_t deadline_ns, struct near__request *ret)
{
    struct near__asked asked = near__load_ask_before(load, flags, ret);
    near__remote_run(load->impl->remote, ret, 1, deadline_ns);
    near__load_ask_after(load, ret, &asked);
}

/* ---------------------------------------------------------------- writing through */

/* A FILL or a RELEASE on its way: what is known before it is sent, and needed after. */
struct ending {
    struct near__load *load;
    struct near__request *request;
    struct near__buffer body;
    struct near__sent sent;
    struct near__ticket tags_ticket;
};

static void learn_filled_tags(const struct ending *e)
{
    const struct near__request *q = e->request;
    struct near__learnt learnt = {.key = q->key,
                                  .key_size = q->key_size,
                                  .ticket = e->tags_ticket,
                                  .position = near__coherence_position(e->load->impl->coherence, e->sent.before, q),
                                  .ttl_ms = q->ttl_left_ms,
                                  .sent_ns = q->sent_ns};
    if (learnt.position)
        near__tags_learn(e->load->impl, &learnt, q->extra, q->extra_size);
}

/* Completes the request, with a message about `told`.  1: it can be sent, and ending_after follows; 0: no memory. */
static int ending_before(struct ending *e, struct near__load *load, struct near__request *q, const void *told,
                         size_t told_size, enum near__message_operation operation)
{
    struct near__impl *impl = load->impl;
    *e = (struct ending){.load = load, .request = q};
    near__buffer_init(&e->body, &impl->alloc);
    if (q->extra_size) { /* the description of tags is another key */
        struct near__suffixed about;
        near__suffixed_init(&about, &impl->alloc, told, told_size, NEAR_TAGS_SUFFIX);
        const void *keys[2] = {told, about.bytes};
        size_t sizes[2] = {told_size, about.size};
        if (about.bytes)
            near__coherence_body_of(impl->coherence, operation, keys, sizes, 2, &e->body);
        e->body.failed |= !about.bytes;
        near__suffixed_fini(&about, &impl->alloc);
    } else {
        near__coherence_body(impl->coherence, operation, told, told_size, &e->body);
    }
    q->key = load->key;
    q->key_size = load->key_size;
    q->expected = load->owner;
    q->expected_size = strlen(load->owner);
    q->body = e->body.data;
    q->body_size = e->body.size;
    q->status = NEAR_ERR_NOMEM;
    if (e->body.failed) {
        near__buffer_fini(&e->body);
        return 0;
    }
    if (q->extra_size)
        e->tags_ticket = near__tags_ticket(impl, load->key, load->key_size);
    e->sent = near__write_before(impl, q);
    return 1;
}

/* What the server's answer means for the local tier. */
static void ending_after(struct ending *e)
{
    struct near__load *load = e->load;
    struct near__impl *impl = load->impl;
    const struct near__request *q = e->request;
    int absent = q->operation == NEAR_OP_RELEASE && q->flags & NEAR_RELEASE_ABSENT;
    if (q->operation == NEAR_OP_FILL || absent)
        near__write_learn(impl, q, &e->sent, 1);
    if (q->operation == NEAR_OP_FILL && q->extra_size && q->status == NEAR_OK)
        learn_filled_tags(e);
    if (absent && q->status == NEAR_OK && q->ttl_ms) {
        uint64_t position = near__coherence_position(impl->coherence, e->sent.before, q);
        if (position)
            near__notes_put(load->loading->notes, q->key, q->key_size, NEAR_NOTE_ABSENT, e->sent.ticket, position,
                            q->sent_ns + q->ttl_ms * NEAR_NS_PER_MS);
    }
    near__buffer_fini(&e->body);
}

static void send_requests(struct near__impl *impl, struct near__request *requests, size_t count)
{
    near__remote_run(impl->remote, requests, count, near__now(&impl->clock) + impl->timeout_ns);
}

/* Prepares the end of a lease without a value.  The message is about the lease's own key: it wakes who waits, and
 * removes nobody's old value. */
static int release_before(struct ending *e, struct near__load *load, struct near__request *q)
{
    struct near__suffixed told;
    *q = (struct near__request){.operation = NEAR_OP_RELEASE};
    near__suffixed_init(&told, &load->impl->alloc, load->key, load->key_size, NEAR_LEASE_SUFFIX);
    int ready = told.bytes && ending_before(e, load, q, told.bytes, told.size, NEAR_MESSAGE_DEL);
    near__suffixed_fini(&told, &load->impl->alloc);
    return ready;
}

static void release(struct near__load *load)
{
    struct near__request q;
    struct ending e;
    if (!load->leased || !release_before(&e, load, &q))
        return;
    send_requests(load->impl, &q, 1);
    ending_after(&e);
}

/* By which ticket the load writes another key, of which `now` is one.  In the value's stripe that is the load's own: a
 * later one would hide what was learnt of the value meanwhile.  But where the value that there was tells that, whatever
 * else has come of the stripe, this may not keep the load from writing what belongs to the new one. */
static struct near__ticket ticket_beside(const struct near__load *load, struct near__ticket now)
{
    return now.stripe == load->ticket.stripe && !load->ticket.value ? load->ticket : now;
}

static int is_by_load(const struct near__load *load, struct near__ticket ticket)
{
    return ticket.stripe == load->ticket.stripe && near__ticket_equal(ticket, load->ticket);
}

/* The load's own write of a key of its stripe, by its ticket, is nothing that speaks against the value. */
static void go_on_from(struct near__load *load, struct near__ticket ticket, uint64_t floor)
{
    if (floor && is_by_load(load, ticket))
        load->ticket.floor = floor;
}

/* A tag that is not there begins where invalidations are: it may have been invalidated since we asked, and evicted. */
static void begin_tag(struct near__load *load, const char *tag, size_t size)
{
    struct near__impl *impl = load->impl;
    char name[NEAR_TAG_MAX + sizeof(NEAR_TAG_PREFIX)], number[24];
    int number_size = snprintf(number, sizeof(number), "%" PRIu64, near__local_invalidations(impl));
    memcpy(name, NEAR_TAG_PREFIX, sizeof(NEAR_TAG_PREFIX) - 1);
    memcpy(name + sizeof(NEAR_TAG_PREFIX) - 1, tag, size);
    struct near__request q = {.operation = NEAR_OP_SET,
                              .key = name,
                              .key_size = sizeof(NEAR_TAG_PREFIX) - 1 + size,
                              .value = number,
                              .value_size = (size_t)number_size,
                              .flags = NEAR_SET_IF_ABSENT};
    struct near__ticket ticket = ticket_beside(load, near__local_ticket(impl->local, q.key, q.key_size));
    if (is_by_load(load, ticket))
        near__local_write_if(impl, &q, ticket);
    else
        near__local_write(impl, &q);
    go_on_from(load, ticket, q.position);
}

static void keep_description(struct near__load *load, int64_t ttl_ms, const char *text, size_t text_size)
{
    struct near__impl *impl = load->impl;
    struct near__learnt learnt = {.key = load->key,
                                  .key_size = load->key_size,
                                  .ticket = ticket_beside(load, near__tags_ticket(impl, load->key, load->key_size)),
                                  .ttl_ms = ttl_ms ? ttl_ms : -1};
    go_on_from(load, learnt.ticket, near__tags_learn(impl, &learnt, text, text_size));
}

static void drop_description(struct near__load *load)
{
    struct near__impl *impl = load->impl;
    struct near__suffixed about;
    near__suffixed_init(&about, &impl->alloc, load->key, load->key_size, NEAR_TAGS_SUFFIX);
    if (about.bytes)
        near__local_remove(impl, about.bytes, about.size, NEAR_CAUSE_WRITE);
    near__suffixed_fini(&about, &impl->alloc);
}

/* Whether near__local_write_if would not keep the value, as far as that can be told before it has the stripe. */
static int is_void(const struct near__load *load)
{
    struct near__local *local = load->impl->local;
    struct near__reader *reader = near__local_reader(local);
    struct near__ticket now = near__local_ticket(local, load->key, load->key_size);
    struct near__view view;
    now.floor &= ~UINT64_C(1); /* a write that is under way may come to nothing */
    if (near__ticket_equal(now, load->ticket))
        return 0;
    if (!load->ticket.value || !reader)
        return 1;
    enum near__local_result result = near__local_look(local, reader, load->key, load->key_size, &view);
    if (result != NEAR_LOCAL_HIT)
        return result != NEAR_LOCAL_MOVED && result != NEAR_LOCAL_UNHELD;
    int same = view.position == load->ticket.value;
    near__local_unpin(reader, &view);
    return !same;
}

/* Without a remote tier the description is kept before the value: whoever sees the value sees its tags.  One of a value
 * that is not kept may not stay: it would be taken for that of the same bytes that another load has brought. */
static int fill_only(struct near__load *load, struct near__request *q, const char *text, size_t text_size)
{
    struct near__tags tags;
    const char *tag = NULL;
    size_t size = 0;
    q->operation = NEAR_OP_SET;
    q->key = load->key;
    q->key_size = load->key_size;
    if (!text_size)
        return near__local_write_if(load->impl, q, load->ticket);
    if (is_void(load))
        return NEAR_UNMET;
    if (near__tags_parse(text, text_size, &tags) == 0)
        while (near__tags_next(&tags, &tag, &size))
            begin_tag(load, tag, size);
    keep_description(load, q->ttl_ms, text, text_size);
    int status = near__local_write_if(load->impl, q, load->ticket);
    if (status != NEAR_OK)
        drop_description(load);
    return status;
}

static void mark_absent_only(struct near__load *load, int64_t ttl_ms)
{
    struct near__impl *impl = load->impl;
    struct near__request q = {.operation = NEAR_OP_DEL, .key = load->key, .key_size = load->key_size};
    if (near__local_write_if(impl, &q, load->ticket) == NEAR_UNMET || !ttl_ms)
        return;
    /* A write that came between has raised the floor above this position, or will; a drop or a clearing since the load
     * began voids the ticket. */
    near__notes_put(load->loading->notes, load->key, load->key_size, NEAR_NOTE_ABSENT, load->ticket, q.position,
                    near__now(&impl->clock) + ttl_ms * NEAR_NS_PER_MS);
}

/* ---------------------------------------------------------------- running */

static int64_t hard_ms_of(const struct near__load *load, const struct near_loaded *loaded)
{
    int64_t ttl_ms = loaded->ttl_ms ? loaded->ttl_ms : load->options.ttl_ms;
    if (!ttl_ms)
        return 0;
    return near__jittered(ttl_ms, load->options.jitter_permille, near__load_random()) +
           near__load_grace_ms(&load->options);
}

static int64_t absent_ms_of(const struct near__load *load, const struct near_loaded *loaded)
{
    int64_t ttl_ms = loaded->ttl_ms && load->options.absent_ms ? loaded->ttl_ms : load->options.absent_ms;
    return ttl_ms ? near__jittered(ttl_ms, load->options.jitter_permille, near__load_random()) : 0;
}

/* Whether the old value's tags are known.  The server has none beside a value that somebody wrote without. */
static int old_tags(const struct near__load *load, struct near__tags *ret)
{
    return load->tags && near__tags_parse(load->tags, load->tags_size, ret) == 0 &&
           ret->list_size <= NEAR_TAGS_LIST_MAX && ret->hash == near_version_of(load->old->data, load->old->size);
}

/* The old value, if the loader may keep it.  A local one has a description; if that has gone meanwhile keeping the
 * value would lose its tags without a word. */
static const struct near__shared *keepable(const struct near__load *load)
{
    struct near__tags tags;
    int lost = load->old && load->options.flags & NEAR_LOAD_TAGS && !load->impl->remote && !old_tags(load, &tags);
    return lost ? NULL : load->old;
}

/* What the loader's answer comes to: NEAR_OK, NEAR_UNCHANGED, NEAR_MISS or an error. */
static int judge(const struct near__load *load, const struct near_loaded *loaded, int answer)
{
    if (loaded->error)
        return loaded->error;
    if (answer < 0)
        return NEAR_MUTANT(FAILURE_IS_ABSENCE) ? NEAR_MISS : NEAR_ERR_LOAD;
    if (answer == NEAR_OK && loaded->has_value)
        return NEAR_OK;
    if (answer == NEAR_UNCHANGED && !loaded->has_value && keepable(load))
        return NEAR_UNCHANGED;
    if (answer == NEAR_MISS && !loaded->has_value)
        return NEAR_MISS;
    return NEAR_ERR_LOADER;
}

/* One load's answer, from the loader to the server and to who waits. */
struct answer {
    struct near__load *load;
    struct near_loaded loaded;
    int status;         /* what it comes to */
    int64_t keep_ms;    /* the value, or its absence; 0: for ever, or not at all */
    int64_t expires_ns; /* of the value that is handed out: counted from before the server got it */
    int sent;           /* there is an ending */
    struct ending ending;
    char text[NEAR_TAGS_TEXT_MAX];
};

static void answer_init(struct answer *a, struct near__load *load)
{
    a->load = load;
    a->loaded = (struct near_loaded){.alloc = &load->impl->alloc, .value_max = load->impl->options.value_max};
    a->loaded.may_tag = (load->options.flags & NEAR_LOAD_TAGS) != 0;
    a->sent = 0;
}

static near_load_request request_of(const struct near__load *load, int64_t now_ns)
{
    near_load_request request = {.size = sizeof(request),
                                 .key = load->key,
                                 .key_size = load->key_size,
                                 .deadline_ns = now_ns + load->options.hard_timeout_ms * NEAR_NS_PER_MS,
                                 .fence = load->fence};
    const struct near__shared *old = keepable(load);
    if (old) {
        request.old_data = old->data ? old->data : "";
        request.old_size = old->size;
        request.old_version = near_version_of(old->data, old->size);
    }
    return request;
}

static void keep_old(struct answer *a)
{
    const struct near__load *load = a->load;
    struct near_loaded *loaded = &a->loaded;
    struct near__tags tags;
    loaded->size = load->old->size;
    loaded->data = near__memdup(&load->impl->alloc, load->old->data, loaded->size);
    a->status = loaded->data ? NEAR_OK : NEAR_ERR_NOMEM;
    if (!loaded->tags && old_tags(load, &tags)) {
        memcpy(loaded->list, tags.list, tags.list_size); /* it keeps its tags, too */
        loaded->list_size = tags.list_size;
    }
}

/* The loader has returned. */
static void take_answer(struct answer *a, int returned, int64_t took_ns)
{
    struct near__load *load = a->load;
    struct near__loading *l = load->loading;
    near__pace_add(&l->pace, near_version_of(load->key, load->key_size), took_ns);
    near__add(&l->counters.loads);
    if (a->loaded.answered)
        returned = a->loaded.answer;
    else if (load->bulk_fn && a->loaded.has_value)
        returned = NEAR_OK; /* what the call returns is about the keys of which nothing was told */
    a->status = judge(load, &a->loaded, returned);
    if (a->status == NEAR_UNCHANGED)
        keep_old(a);
    if (a->status != NEAR_OK) {
        near__free(&load->impl->alloc, a->loaded.data);
        a->loaded.data = NULL;
    }
    a->keep_ms = a->status == NEAR_OK ? hard_ms_of(load, &a->loaded) : absent_ms_of(load, &a->loaded);
    a->expires_ns = a->keep_ms ? near__now(&load->impl->clock) + a->keep_ms * NEAR_NS_PER_MS : NEAR_NEVER;
}

/* What the server is told of it; 0: nothing. */
static int end_before(struct answer *a, struct near__request *q)
{
    struct near__load *load = a->load;
    struct near_loaded *loaded = &a->loaded;
    if (!load->leased)
        return 0;
    if (a->status == NEAR_OK) {
        *q = (struct near__request){.operation = NEAR_OP_FILL,
                                    .value = loaded->data,
                                    .value_size = loaded->size,
                                    .ttl_ms = a->keep_ms,
                                    .flags = load->exists ? 0 : NEAR_FILL_ABSENT};
        if (load->options.flags & NEAR_LOAD_TAGS) {
            q->extra = a->text;
            q->extra_size = near__tags_describe(load->asked_at, loaded->data, loaded->size, loaded->list,
                                                loaded->list_size, a->text);
        }
        a->sent = ending_before(&a->ending, load, q, load->key, load->key_size, NEAR_MESSAGE_SET);
    } else if (a->status == NEAR_MISS) {
        *q = (struct near__request){.operation = NEAR_OP_RELEASE, .flags = NEAR_RELEASE_ABSENT, .ttl_ms = a->keep_ms};
        a->sent = ending_before(&a->ending, load, q, load->key, load->key_size, NEAR_MESSAGE_DEL);
    } else {
        a->sent = release_before(&a->ending, load, q);
    }
    return a->sent;
}

static int keep_only(struct answer *a)
{
    struct near__load *load = a->load;
    struct near_loaded *loaded = &a->loaded;
    struct near__request q = {.value = loaded->data, .value_size = loaded->size, .ttl_ms = a->keep_ms};
    size_t text_size = 0;
    if (load->options.flags & NEAR_LOAD_TAGS)
        text_size =
            near__tags_describe(load->asked_at, loaded->data, loaded->size, loaded->list, loaded->list_size, a->text);
    return fill_only(load, &q, a->text, text_size);
}

static void land_value(struct answer *a, int kept)
{
    struct near__load *load = a->load;
    struct near__impl *impl = load->impl;
    if (kept == NEAR_UNMET && load->leased)
        release(load); /* it may be ours still: somebody created the key without it */
    if (kept != NEAR_OK)
        near__add(&load->loading->counters.unkept);
    struct near__shared *shared = near__shared_create(&impl->values, a->loaded.data, a->loaded.size, a->expires_ns);
    if (!shared)
        near__free(&impl->alloc, a->loaded.data);
    land(load, shared ? NEAR_OK : NEAR_ERR_NOMEM, shared);
    near__shared_unref(shared);
}

static void land_error(struct near__load *load, int status)
{
    struct near__impl *impl = load->impl;
    near__add(&load->loading->counters.failed);
    struct near__ticket now = near__local_ticket(impl->local, load->key, load->key_size);
    near__notes_put(load->loading->notes, load->key, load->key_size, NEAR_NOTE_PAUSE, now,
                    now.floor > now.watermark ? now.floor : now.watermark,
                    near__now(&impl->clock) + load->options.retry_ms * NEAR_NS_PER_MS);
    land(load, status, NULL);
}

/* The server has answered, or was not asked. */
static void end_after(struct answer *a)
{
    struct near__load *load = a->load;
    int kept = NEAR_UNMET;
    if (a->sent) {
        ending_after(&a->ending);
        kept = a->ending.request->status;
    }
    if (a->status == NEAR_OK) {
        land_value(a, load->impl->remote ? kept : keep_only(a));
    } else if (a->status == NEAR_MISS) {
        near__add(&load->loading->counters.absent);
        if (!load->impl->remote)
            mark_absent_only(load, a->keep_ms);
        land(load, NEAR_MISS, NULL);
    } else {
        land_error(load, a->status);
    }
}

/* One call of a loader for all the loads, one round trip for its answers.  The arrays have count elements. */
static void run_loader(struct answer *answers, near_load_request *requests, near_loaded **loaded,
                       struct near__request *ends, size_t count)
{
    const struct near__load *first = answers[0].load;
    struct near__impl *impl = first->impl;
    int64_t started_ns = near__now(&impl->clock);
    size_t sends = 0;
    for (size_t i = 0; i < count; i++) {
        requests[i] = request_of(answers[i].load, started_ns);
        near__flight_limit(first->loading->flights, answers[i].load->flight, requests[i].deadline_ns);
        loaded[i] = &answers[i].loaded;
    }
    int returned = first->bulk_fn ? first->bulk_fn(first->arg, requests, loaded, count)
                                  : first->fn(first->arg, requests, loaded[0]);
    int64_t took_ns = near__now(&impl->clock) - started_ns;
    near__histogram_record(&first->loading->load_ns, (uint64_t)took_ns);
    for (size_t i = 0; i < count; i++) {
        take_answer(&answers[i], returned, took_ns);
        sends += (size_t)end_before(&answers[i], &ends[sends]);
    }
    if (sends)
        send_requests(impl, ends, sends);
    for (size_t i = 0; i < count; i++)
        end_after(&answers[i]);
}

static void run_alone(struct near__load *load)
{
    struct answer answer;
    near_load_request request;
    near_loaded *loaded;
    struct near__request end;
    answer_init(&answer, load);
    run_loader(&answer, &request, &loaded, &end, 1);
}

/* A refresh asks for its lease itself. */
static uint32_t refresh_flags(const struct near__load *load)
{
    return load->early ? NEAR_LEASE_FORCE : 0;
}

/* The server's answer.  Returns 1 when it shall load; otherwise whoever joined it sees for himself, and nobody tries
 * again before the other's load can have ended. */
static int may_refresh(struct near__load *load, const struct near__request *q, int64_t now_ns)
{
    struct near__impl *impl = load->impl;
    if (load->leased)
        return 1;
    int64_t pause_ms = q->status < 0 ? load->options.retry_ms : q->lease == NEAR_LEASE_HELD ? q->lease_left_ms : 0;
    struct near__ticket now = near__local_ticket(impl->local, load->key, load->key_size);
    if (pause_ms)
        near__notes_put(load->loading->notes, load->key, load->key_size, NEAR_NOTE_PAUSE, now,
                        now.floor > now.watermark ? now.floor : now.watermark, now_ns + pause_ms * NEAR_NS_PER_MS);
    if (q->status == NEAR_OK && q->lease == NEAR_LEASE_FRESH && load->old)
        land(load, NEAR_OK, load->old);
    else
        land(load, q->status == NEAR_OK && q->lease == NEAR_LEASE_ABSENT ? NEAR_MISS : NEAR_ERR_TIMEOUT, NULL);
    return 0;
}

static int got_its_lease(struct near__load *load)
{
    struct near__impl *impl = load->impl;
    struct near__request q;
    int64_t now_ns = near__now(&impl->clock);
    near__load_ask(load, refresh_flags(load), now_ns + impl->timeout_ns, &q);
    return may_refresh(load, &q, now_ns);
}

/* One refresh less is under way. */
static void refreshed(struct near__loading *l)
{
    atomic_fetch_sub_explicit(&l->refreshing, 1, memory_order_relaxed); /* a limit, no order */
}

static void run(struct near__job *job)
{
    struct near__load *load = (struct near__load *)job;
    struct near__impl *impl = load->impl;
    if (!load->behind || !impl->remote || got_its_lease(load))
        run_alone(load);
    if (load->behind)
        refreshed(load->loading);
    near__load_free(load);
    near__leave(impl);
}

static void is_queued(struct near__job *job)
{
    const struct near__load *load = (struct near__load *)job;
    near__flight_queued(load->loading->flights, load->flight);
}

void near__load_start(struct near__load *load)
{
    struct near__loading *l = load->loading;
    struct near__impl *impl = load->impl;
    near__count_call(impl); /* ours, which is counted, is still under way */
    load->job.run = run;
    load->job.queued = is_queued;
    if (near__workers_inside()) { /* a loader's own load: all workers might be waiting for each other */
        run(&load->job);
        return;
    }
    int status = near__workers_run(l->workers, &load->job);
    if (status == NEAR_OK)
        return;
    release(load);
    land(load, status, NULL);
    if (load->behind)
        refreshed(l);
    near__load_free(load);
    near__leave(impl);
}

/* ---------------------------------------------------------------- many at once */

struct near__bulk {
    struct near__job job; /* first */
    struct near__impl *impl;
    /* where it counts as a refresh; NULL: its loads have their leases, and are waited for */
    struct near__loading *refreshes;
    size_t count;
    struct answer *answers;
    near_load_request *requests;
    near_loaded **loaded;
    struct near__request *ends;
    struct near__asked *asked; /* of refreshes */
};

static void bulk_free(struct near__bulk *bulk)
{
    const struct near__alloc *alloc = &bulk->impl->alloc;
    near__free(alloc, bulk->answers);
    near__free(alloc, bulk->requests);
    near__free(alloc, bulk->loaded);
    near__free(alloc, bulk->ends);
    near__free(alloc, bulk->asked);
    near__free(alloc, bulk);
}

struct near__bulk *near__bulk_create(struct near__impl *impl, size_t room)
{
    const struct near__alloc *alloc = &impl->alloc;
    struct near__bulk *bulk = near__alloc_zero(alloc, sizeof(*bulk));
    if (!bulk)
        return NULL;
    bulk->impl = impl;
    bulk->answers = near__alloc(alloc, room * sizeof(*bulk->answers));
    bulk->requests = near__alloc(alloc, room * sizeof(*bulk->requests));
    bulk->loaded = near__alloc(alloc, room * sizeof(*bulk->loaded));
    bulk->ends = near__alloc(alloc, room * sizeof(*bulk->ends));
    if (bulk->answers && bulk->requests && bulk->loaded && bulk->ends)
        return bulk;
    bulk_free(bulk);
    return NULL;
}

void near__bulk_add(struct near__bulk *bulk, struct near__load *load)
{
    answer_init(&bulk->answers[bulk->count++], load);
}

static void bulk_end(struct near__bulk *bulk)
{
    struct near__impl *impl = bulk->impl;
    for (size_t i = 0; i < bulk->count; i++)
        near__load_free(bulk->answers[i].load);
    if (bulk->refreshes)
        refreshed(bulk->refreshes);
    bulk_free(bulk);
    near__leave(impl);
}

/* Asks for the leases of refreshes, all in one round trip; those that did not get theirs have an end. */
static void bulk_ask(struct near__bulk *bulk)
{
    struct near__impl *impl = bulk->impl;
    struct near__request *asks = bulk->ends; /* they are not needed yet */
    int64_t now_ns = near__now(&impl->clock);
    size_t count = bulk->count;
    for (size_t i = 0; i < count; i++) {
        struct near__load *load = bulk->answers[i].load;
        bulk->asked[i] = near__load_ask_before(load, refresh_flags(load), &asks[i]);
    }
    near__remote_run(impl->remote, asks, count, now_ns + impl->timeout_ns);
    bulk->count = 0;
    for (size_t i = 0; i < count; i++) {
        struct near__load *load = bulk->answers[i].load;
        near__load_ask_after(load, &asks[i], &bulk->asked[i]);
        if (may_refresh(load, &asks[i], now_ns))
            near__bulk_add(bulk, load);
        else
            near__load_free(load);
    }
}

static void bulk_run(struct near__job *job)
{
    struct near__bulk *bulk = (struct near__bulk *)job;
    if (bulk->refreshes && bulk->impl->remote)
        bulk_ask(bulk);
    if (bulk->count)
        run_loader(bulk->answers, bulk->requests, bulk->loaded, bulk->ends, bulk->count);
    bulk_end(bulk);
}

static void bulk_is_queued(struct near__job *job)
{
    const struct near__bulk *bulk = (struct near__bulk *)job;
    for (size_t i = 0; i < bulk->count; i++)
        is_queued(&bulk->answers[i].load->job);
}

void near__bulk_start(struct near__bulk *bulk)
{
    struct near__impl *impl = bulk->impl;
    if (!bulk->count) {
        bulk_free(bulk);
        return;
    }
    near__count_call(impl); /* ours, which is counted, is still under way */
    bulk->job.run = bulk_run;
    bulk->job.queued = bulk_is_queued;
    if (near__workers_inside()) { /* as above */
        bulk_run(&bulk->job);
        return;
    }
    int status = near__workers_run(bulk->answers[0].load->loading->workers, &bulk->job);
    if (status == NEAR_OK)
        return;
    for (size_t i = 0; i < bulk->count; i++) {
        release(bulk->answers[i].load);
        land(bulk->answers[i].load, status, NULL);
    }
    bulk_end(bulk);
}

/* ---------------------------------------------------------------- waiting */

static int lands(const struct near__job *job, const void *flight)
{
    const struct near__bulk *bulk = (const struct near__bulk *)job;
    if (job->run == run)
        return ((const struct near__load *)job)->flight == flight;
    for (size_t i = 0; i < bulk->count; i++)
        if (bulk->answers[i].load->flight == flight)
            return 1;
    return 0;
}

/* A loader that waits for a load in the queue may wait for itself: when every worker does, nobody is left to take
 * it. */
struct near__landing near__load_wait(struct near__loading *l, struct near__flight *flight,
                                     struct near__patience patience)
{
    patience.is_worker = near__workers_inside();
    for (;;) {
        struct near__landing landing = near__flight_wait_load(l->flights, flight, &patience);
        if (!landing.queued)
            return landing;
        near__shared_unref(landing.old);
        struct near__job *job = near__workers_take(l->workers, lands, flight);
        if (job) /* otherwise a worker has it already */
            job->run(job);
    }
}

/* ---------------------------------------------------------------- refreshes of one call */

static struct near__bulk *bulk_of_refreshes(struct near__impl *impl, size_t count)
{
    struct near__bulk *bulk = near__bulk_create(impl, count);
    if (!bulk)
        return NULL;
    bulk->asked = near__alloc(&impl->alloc, count * sizeof(*bulk->asked));
    if (bulk->asked)
        return bulk;
    bulk_free(bulk);
    return NULL;
}

/* There is no memory for them. */
static void refuse_refreshes(struct near__refreshes *due)
{
    refreshed(due->first->loading);
    for (struct near__load *load = due->first, *next; load; load = next) {
        next = load->next;
        near__add(&load->loading->counters.skipped);
        land(load, NEAR_ERR_TIMEOUT, NULL); /* who joined leads himself */
        near__load_free(load);
    }
}

void near__refreshes_start(struct near__refreshes *due)
{
    struct near__bulk *bulk = NULL;
    int together = due->count > 1 && due->first->bulk_fn;
    if (together && !(bulk = bulk_of_refreshes(due->first->impl, due->count))) {
        refuse_refreshes(due);
        return;
    }
    for (struct near__load *load = due->first, *next; load; load = next) {
        next = load->next;
        near__add(&load->loading->counters.refreshes);
        if (load->early)
            near__add(&load->loading->counters.early);
        if (together)
            near__bulk_add(bulk, load);
        else
            near__load_start(load);
    }
    if (together) {
        bulk->refreshes = due->first->loading;
        near__bulk_start(bulk);
    }
}
