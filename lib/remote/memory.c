/* SPDX-License-Identifier: BSD-3-Clause
 * memory://NAME, the remote's side: what redis.c does with sockets is done here with a lock.
 *
 * A request goes through the stations of a real one, and at each of them a fault may strike:
 *
 *     REFUSE       not sent                                    UNAVAILABLE
 *     SILENCE      sent, lost, and nobody says so              at the deadline: TIMEOUT of a read, UNKNOWN of a write
 *     HOLD_REQUESTS  waits; may run long after its caller left at the deadline the same; it still runs when released
 *     (R14) (it runs: near__memory_execute_locked) DROP_REPLIES ran, the reply is lost with the connection  at once: IO
 *     of a read, UNKNOWN of a write
 *     HOLD_REPLIES ran, the reply waits                        at the deadline as above
 *
 * Who waits sleeps on the store's condition.  Deadlines are those of the remote's clock; when that is virtual, sleepers
 * look at it every few milliseconds, since nobody wakes them when it moves. */
#include "remote/memory.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "remote/memory_store.h"

struct memory_remote {
    struct near__remote remote; /* first */
    struct near__remote_config config;
    struct near__memory_store *store;
    struct near__place *place;
    /* the rest under the store's lock */
    int interrupted;
    int connected;        /* a "connection" is made by the first request and lost with faults and restarts */
    uint64_t incarnation; /* of the server that it was made to */
    struct near__remote_stats stats;
};

struct memory_channel {
    struct near__mailbox mailbox;
    struct memory_remote *owner;
    int woken;                   /* under the store's lock */
    struct near__letter *letter; /* the driver's: what the last read returned */
};

static struct memory_remote *memory_of(struct near__remote *remote)
{
    return (struct memory_remote *)remote;
}
static struct memory_channel *channel_of(struct near__channel *channel)
{
    return (struct memory_channel *)channel;
}

static void wake_all(struct near__memory_store *store)
{
    pthread_cond_broadcast(&store->changed);
}

/* ---------------------------------------------------------------- requests */

static void fail(struct near__request *q, int status, const char *text)
{
    q->status = status;
    snprintf(q->detail, sizeof q->detail, "%s", text);
}

static void lose_connection(struct memory_remote *m)
{
    m->stats.connections_lost += m->connected != 0;
    m->connected = 0;
}

static void connect_locked(struct memory_remote *m)
{
    if (m->connected && m->incarnation != m->store->incarnation)
        lose_connection(m);
    m->stats.connections_opened += !m->connected;
    m->connected = 1;
    m->incarnation = m->store->incarnation;
}

/* How a wait ended without an answer: interrupted, or at the deadline. */
static void unanswered(struct memory_remote *m, struct near__request *q)
{
    near__memory_no_answer(m->config.alloc, q, m->interrupted ? NEAR_ERR_CLOSED : NEAR_ERR_TIMEOUT);
    m->stats.timeouts += !m->interrupted;
}

/* 1: go on waiting. */
static int wait_on(struct memory_remote *m, int64_t deadline_ns)
{
    return !m->interrupted && near__memory_wait_locked(m->store, m->config.clock, deadline_ns);
}

/* A copy that can run when its caller is gone. */
static struct near__held *held_request(struct memory_remote *m, const struct near__request *q)
{
    const struct near__alloc *alloc = &m->store->alloc;
    size_t size = q->key_size + q->value_size + q->expected_size + q->body_size + q->extra_size;
    struct near__held *held = near__alloc_zero(alloc, sizeof *held + size);
    if (!held)
        return NULL;
    unsigned char *at = held->bytes;
    const void **parts[] = {&held->request.key, &held->request.value, &held->request.expected, &held->request.body,
                            &held->request.extra};
    const size_t sizes[] = {q->key_size, q->value_size, q->expected_size, q->body_size, q->extra_size};
    held->request = *q;
    for (int i = 0; i < 5; i++) {
        if (sizes[i] > 0)
            memcpy(at, *parts[i], sizes[i]);
        *parts[i] = at;
        at += sizes[i];
    }
    held->operation = q->operation;
    held->place = m->place;
    held->value_alloc = m->config.alloc;
    held->value_max = m->config.options->value_max;
    return held;
}

static void take_result(struct near__request *q, const struct near__request *from)
{
    q->status = from->status;
    q->position = from->position;
    q->inexact = from->inexact;
    q->server = from->server;
    q->ttl_left_ms = from->ttl_left_ms;
    q->result_number = from->result_number;
    q->value_out = from->value_out;
    q->value_out_size = from->value_out_size;
    q->lease = from->lease;
    q->exists = from->exists;
    q->lease_left_ms = from->lease_left_ms;
    q->fence = from->fence;
    q->extra_out = from->extra_out;
    q->extra_out_size = from->extra_out_size;
    memcpy(q->detail, from->detail, sizeof q->detail);
}

/* 1: it has run. */
static int run_later(struct memory_remote *m, struct near__request *q, int64_t deadline_ns)
{
    struct near__held *held = held_request(m, q);
    if (!held) {
        fail(q, NEAR_ERR_NOMEM, "no memory");
        return 0;
    }
    near__memory_queue_held_locked(&m->store->requests, held);
    wake_all(m->store);
    while (!held->released && wait_on(m, deadline_ns))
        ;
    int released = held->released;
    if (!released) {
        held->abandoned = 1; /* the store's from now on */
        unanswered(m, q);
        return 0;
    }
    if (released > 0) {
        take_result(q, &held->request);
    } else {
        lose_connection(m);
        near__memory_no_answer(m->config.alloc, q, NEAR_ERR_IO);
    }
    near__free(&m->store->alloc, held);
    return released > 0;
}

static void hold_reply(struct memory_remote *m, struct near__request *q, int64_t deadline_ns)
{
    struct near__held held = {.operation = q->operation};
    near__memory_queue_held_locked(&m->store->replies, &held);
    wake_all(m->store);
    while (!held.released && wait_on(m, deadline_ns))
        ;
    if (held.released)
        return;
    near__memory_unqueue_held_locked(&m->store->replies, &held);
    unanswered(m, q);
}

static int strikes(struct memory_remote *m, enum near__memory_fault fault, const struct near__request *q)
{
    return near__memory_strikes_locked(m->store, fault, (int)q->operation);
}

static void run_one(struct memory_remote *m, struct near__request *q, int64_t deadline_ns)
{
    near__request_reset(q, NEAR_ERR_TIMEOUT);
    q->sent_ns = near__now(m->config.clock);
    if (m->interrupted) {
        fail(q, NEAR_ERR_CLOSED, "closed");
        return;
    }
    if (q->sent_ns >= deadline_ns) {
        fail(q, NEAR_ERR_TIMEOUT, "the deadline passed before the request was sent");
        return;
    }
    if (strikes(m, NEAR_FAULT_REFUSE, q)) {
        fail(q, NEAR_ERR_UNAVAILABLE, "connection refused");
        return;
    }
    connect_locked(m);
    m->stats.requests++;
    m->stats.bytes_sent += q->key_size + q->value_size + q->expected_size + q->body_size;
    if (strikes(m, NEAR_FAULT_SILENCE, q)) {
        while (wait_on(m, deadline_ns))
            ;
        unanswered(m, q);
        return;
    }
    if (strikes(m, NEAR_FAULT_HOLD_REQUESTS, q)) {
        if (!run_later(m, q, deadline_ns))
            return;
    } else {
        near__memory_execute_locked(m->store, m->place, m->config.options->value_max, m->config.alloc, q);
    }
    if (strikes(m, NEAR_FAULT_DROP_REPLIES, q)) {
        lose_connection(m);
        near__memory_no_answer(m->config.alloc, q, NEAR_ERR_IO);
    } else if (strikes(m, NEAR_FAULT_HOLD_REPLIES, q)) {
        hold_reply(m, q, deadline_ns);
    }
    m->stats.bytes_received += q->value_out_size;
}

/* The lock is taken for each request anew: a batch is no transaction, others run between its requests. */
static void memory_run(struct near__remote *remote, struct near__request *requests, size_t count, int64_t deadline_ns)
{
    struct memory_remote *m = memory_of(remote);
    for (size_t i = 0; i < count; i++) {
        near__memory_enter(m->store);
        run_one(m, &requests[i], deadline_ns);
        near__memory_leave(m->store);
    }
}

/* ---------------------------------------------------------------- channels */

static void mailbox_join(struct memory_remote *m, struct near__mailbox *mailbox)
{
    mailbox->place = m->place;
    mailbox->alloc = m->config.alloc;
    mailbox->tail = &mailbox->head;
    mailbox->tracks = m->config.options->track == NEAR_TRACK_BCAST;
    memcpy(mailbox->server, m->store->identity, sizeof mailbox->server);
    mailbox->next = m->store->mailboxes;
    m->store->mailboxes = mailbox;
    m->stats.connections_opened++;
}

/* Whether a new connection gets through, for channels and checks. */
static int reach_locked(struct memory_remote *m, int64_t deadline_ns, near_error *error)
{
    struct near__memory_store *store = m->store;
    if (!m->interrupted && near__now(m->config.clock) >= deadline_ns)
        return near__fail(error, NEAR_ERR_TIMEOUT, "the deadline has passed");
    if (!m->interrupted && near__memory_strikes_locked(store, NEAR_FAULT_REFUSE, 0))
        return near__fail(error, NEAR_ERR_UNAVAILABLE, "memory://%s: connection refused", store->name);
    if (!m->interrupted && near__memory_strikes_locked(store, NEAR_FAULT_SILENCE, 0)) {
        while (wait_on(m, deadline_ns))
            ;
        if (!m->interrupted)
            return near__fail(error, NEAR_ERR_TIMEOUT, "memory://%s: no answer", store->name);
    }
    return m->interrupted ? near__fail(error, NEAR_ERR_CLOSED, "closed") : NEAR_OK;
}

static int memory_channel_open(struct near__remote *remote, const char *private_name, int64_t deadline_ns,
                               struct near__channel **ret, near_error *error)
{
    struct memory_remote *m = memory_of(remote);
    const struct near__alloc *alloc = m->config.alloc;
    struct memory_channel *channel = near__alloc_zero(alloc, sizeof *channel);
    if (!channel || !(channel->mailbox.private_name = near__strdup(alloc, private_name))) {
        near__free(alloc, channel);
        return near__fail(error, NEAR_ERR_NOMEM, "no memory for a channel");
    }
    channel->owner = m;
    near__memory_enter(m->store);
    int status = reach_locked(m, deadline_ns, error);
    if (status == NEAR_OK)
        mailbox_join(m, &channel->mailbox);
    near__memory_leave(m->store);
    if (status == NEAR_OK) {
        *ret = (struct near__channel *)channel;
        return NEAR_OK;
    }
    near__free(alloc, channel->mailbox.private_name);
    near__free(alloc, channel);
    return status;
}

/* The next letter that may be read, out of the mailbox. */
static struct near__letter *next_letter(struct memory_channel *channel)
{
    struct near__mailbox *mailbox = &channel->mailbox;
    struct near__letter *letter = mailbox->head;
    if (!letter || letter->held || channel->owner->store->faults[NEAR_FAULT_SILENCE][0])
        return NULL;
    mailbox->head = letter->next;
    if (!mailbox->head)
        mailbox->tail = &mailbox->head;
    mailbox->bytes -= letter->size;
    channel->owner->stats.bytes_received += letter->size;
    return letter;
}

static void read_lost(const struct memory_channel *channel, struct near__channel_message *ret)
{
    ret->event = NEAR_CHANNEL_LOST;
    ret->status = channel->mailbox.lost;
    snprintf(ret->detail, sizeof ret->detail, "memory://%s: the connection broke", channel->owner->store->name);
}

static void memory_channel_read(struct near__channel *handle, int64_t deadline_ns, struct near__channel_message *ret)
{
    struct memory_channel *channel = channel_of(handle);
    struct memory_remote *m = channel->owner;
    near__free(m->config.alloc, channel->letter);
    channel->letter = NULL;
    *ret = (struct near__channel_message){.event = NEAR_CHANNEL_IDLE};
    near__memory_enter(m->store);
    do {
        if (channel->woken || channel->mailbox.lost)
            break;
        channel->letter = next_letter(channel);
    } while (!channel->letter && near__memory_wait_locked(m->store, m->config.clock, deadline_ns));
    if (channel->letter)
        *ret = (struct near__channel_message){.event = channel->letter->event,
                                              .payload = channel->letter->everything ? NULL : channel->letter->bytes,
                                              .payload_size = channel->letter->size};
    else if (channel->woken)
        channel->woken = 0;
    else if (channel->mailbox.lost)
        read_lost(channel, ret);
    near__memory_leave(m->store);
}

static int memory_channel_ping(struct near__channel *handle, const char *nonce, int64_t deadline_ns)
{
    struct memory_channel *channel = channel_of(handle);
    struct near__memory_store *store = channel->owner->store;
    (void)deadline_ns; /* sending never waits here */
    near__memory_enter(store);
    if (!near__memory_strikes_locked(store, NEAR_FAULT_SILENCE, 0))
        near__memory_ping_locked(store, &channel->mailbox, nonce);
    int status = channel->mailbox.lost ? channel->mailbox.lost : NEAR_OK;
    near__memory_leave(store);
    return status;
}

static void memory_channel_wake(struct near__channel *handle)
{
    struct memory_channel *channel = channel_of(handle);
    near__memory_enter(channel->owner->store);
    channel->woken = 1;
    wake_all(channel->owner->store);
    near__memory_leave(channel->owner->store);
}

static const char *memory_channel_server(struct near__channel *handle)
{
    return channel_of(handle)->mailbox.server;
}

static void memory_channel_close(struct near__channel *handle)
{
    struct memory_channel *channel = channel_of(handle);
    struct memory_remote *m = channel->owner;
    const struct near__alloc *alloc = m->config.alloc;
    near__memory_enter(m->store);
    struct near__mailbox **at = &m->store->mailboxes;
    while (*at != &channel->mailbox)
        at = &(*at)->next;
    *at = channel->mailbox.next;
    m->stats.connections_lost += channel->mailbox.lost != 0;
    near__memory_break_locked(m->store, &channel->mailbox, NEAR_ERR_CLOSED); /* frees what was not read */
    near__memory_leave(m->store);
    near__free(alloc, channel->letter);
    near__free(alloc, channel->mailbox.private_name);
    near__free(alloc, channel);
}

/* ---------------------------------------------------------------- the rest of the table */

static int memory_check(struct near__remote *remote, int64_t deadline_ns, near_error *error)
{
    struct memory_remote *m = memory_of(remote);
    near__memory_enter(m->store);
    int status = reach_locked(m, deadline_ns, error);
    near__memory_leave(m->store);
    return status;
}

static int memory_clear_keys(struct near__remote *remote, int64_t deadline_ns, uint64_t *ret_removed)
{
    struct memory_remote *m = memory_of(remote);
    near__memory_enter(m->store);
    int status = reach_locked(m, deadline_ns, NULL);
    if (status == NEAR_OK)
        *ret_removed = near__keyspace_remove_prefix(&m->store->keys, m->place->prefix, m->place->prefix_size,
                                                    near__now(&m->store->clock));
    near__memory_leave(m->store);
    return status;
}

/* The cursor is how many records were passed; a page is copied, since fn is called without the lock. */
static int memory_scan(struct near__remote *remote, const char *pattern, char cursor[NEAR_SCAN_CURSOR],
                       int64_t deadline_ns, near__scan_fn fn, void *arg)
{
    struct memory_remote *m = memory_of(remote);
    struct near__buffer page;
    near__buffer_init(&page, m->config.alloc);
    near__memory_enter(m->store);
    int status = reach_locked(m, deadline_ns, NULL);
    if (status == NEAR_OK) {
        uint64_t next = near__keyspace_page(&m->store->keys, strtoull(cursor, NULL, 10), m->place->prefix,
                                            m->place->prefix_size, pattern, near__now(&m->store->clock), &page);
        snprintf(cursor, NEAR_SCAN_CURSOR, "%llu", (unsigned long long)next);
    }
    near__memory_leave(m->store);
    if (page.failed)
        status = NEAR_ERR_NOMEM;
    for (size_t at = 0; status == NEAR_OK && at < page.size;) {
        size_t size;
        memcpy(&size, page.data + at, sizeof size);
        fn(arg, page.data + at + sizeof size, size);
        at += sizeof size + size;
    }
    near__buffer_fini(&page);
    return status;
}

static void memory_stats(struct near__remote *remote, struct near__remote_stats *ret)
{
    struct memory_remote *m = memory_of(remote);
    near__memory_enter(m->store);
    *ret = m->stats;
    near__memory_leave(m->store);
}

static void memory_interrupt(struct near__remote *remote)
{
    struct memory_remote *m = memory_of(remote);
    near__memory_enter(m->store);
    m->interrupted = 1;
    wake_all(m->store);
    near__memory_leave(m->store);
}

static void memory_abandon(struct near__remote *remote)
{
    (void)remote; /* no descriptors; its store is the parent's */
    near__memory_forget_all();
}

static void memory_close(struct near__remote *remote)
{
    struct memory_remote *m = memory_of(remote);
    struct near__alloc alloc = *m->config.alloc;
    near__memory_unref(m->store);
    near__free(&alloc, m);
}

static const struct near__remote_table memory_table = {
    .close = memory_close,
    .run = memory_run,
    .channel_open = memory_channel_open,
    .channel_read = memory_channel_read,
    .channel_ping = memory_channel_ping,
    .channel_wake = memory_channel_wake,
    .channel_server = memory_channel_server,
    .channel_close = memory_channel_close,
    .check = memory_check,
    .clear_keys = memory_clear_keys,
    .scan = memory_scan,
    .stats = memory_stats,
    .interrupt = memory_interrupt,
    .abandon = memory_abandon,
};

int near__memory_open(const struct near__remote_config *config, struct near__remote **ret, near_error *error)
{
    struct memory_remote *m = near__alloc_zero(config->alloc, sizeof *m);
    if (!m)
        goto no_memory;
    m->remote.table = &memory_table;
    m->config = *config;
    m->store = near__memory_ref(config->uri->path ? config->uri->path : "", config->alloc, config->clock);
    if (!m->store)
        goto no_memory;
    near__memory_enter(m->store);
    m->place = near__memory_place_locked(m->store, config->options->prefix ? config->options->prefix : "");
    near__memory_leave(m->store);
    if (!m->place)
        goto no_memory;
    *ret = &m->remote;
    return NEAR_OK;

no_memory:
    if (m)
        near__memory_unref(m->store);
    near__free(config->alloc, m);
    return near__fail(error, NEAR_ERR_NOMEM, "no memory for memory://%s", config->uri->path ? config->uri->path : "");
}
