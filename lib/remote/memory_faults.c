/* SPDX-License-Identifier: BSD-3-Clause
 * What goes wrong with memory://: requests, replies and messages that are held or lost, errors, connections that break,
 * and what others do to the server. */
#include "remote/memory_store.h"
#include <string.h>

/* ---------------------------------------------------------------- faults */

int near__memory_strikes_locked(struct near__memory_store *store, enum near__memory_fault fault, int operation)
{
    int *left = &store->faults[fault][operation];
    if (!*left)
        left = &store->faults[fault][0];
    if (!*left)
        return 0;
    if (*left > 0)
        --*left;
    return 1;
}

void near__memory_queue_held_locked(struct near__held **queue, struct near__held *held)
{
    while (*queue)
        queue = &(*queue)->next;
    held->next = NULL;
    *queue = held;
}

void near__memory_unqueue_held_locked(struct near__held **queue, struct near__held *held)
{
    while (*queue && *queue != held)
        queue = &(*queue)->next;
    if (*queue)
        *queue = held->next;
}

/* A held request goes on: it runs here and now, whether its caller still waits or not. */
static void let_go(struct near__memory_store *store, struct near__held *held, int released)
{
    if (held->place && released > 0)
        near__memory_execute_locked(store, held->place, held->value_max, held->abandoned ? NULL : held->value_alloc,
                                    &held->request);
    held->released = released;
    if (held->abandoned)
        near__free(&store->alloc, held);
    near__memory_changed_locked(store);
}

static void release_held(struct near__memory_store *store, struct near__held **queue, int operation, int count,
                         int released)
{
    while (*queue && count > 0) {
        struct near__held *held = *queue;
        if (operation && (int)held->operation != operation) {
            queue = &held->next;
            continue;
        }
        *queue = held->next;
        let_go(store, held, released);
        count--;
    }
}

/* One message has copies in several mailboxes; it goes on in all of them. */
static void release_letters(struct near__memory_store *store, int operation, uint64_t number)
{
    for (struct near__mailbox *m = store->mailboxes; m; m = m->next)
        for (struct near__letter *letter = m->head; letter; letter = letter->next)
            if ((!operation || (int)letter->operation == operation) && (!number || letter->number == number))
                letter->held = 0;
    near__memory_changed_locked(store);
}

static uint64_t next_held_letter(const struct near__memory_store *store, uint64_t after)
{
    uint64_t oldest = 0;
    for (const struct near__mailbox *m = store->mailboxes; m; m = m->next)
        for (const struct near__letter *letter = m->head; letter; letter = letter->next)
            if (letter->held && letter->number > after && (!oldest || letter->number < oldest))
                oldest = letter->number;
    return oldest;
}

static int count_held(const struct near__memory_store *store, enum near__memory_fault fault)
{
    const struct near__held *held = fault == NEAR_FAULT_HOLD_REQUESTS  ? store->requests
                                    : fault == NEAR_FAULT_HOLD_REPLIES ? store->replies
                                                                       : NULL;
    int count = 0;
    for (; held; held = held->next)
        count++;
    if (fault == NEAR_FAULT_HOLD_MESSAGES)
        for (uint64_t number = 0; (number = next_held_letter(store, number)); count++)
            ;
    return count;
}

static void release(struct near__memory_store *store, enum near__memory_fault fault, int operation, int count)
{
    if (fault == NEAR_FAULT_HOLD_REQUESTS)
        release_held(store, &store->requests, operation, count, 1);
    else if (fault == NEAR_FAULT_HOLD_REPLIES)
        release_held(store, &store->replies, operation, count, 1);
    else if (fault == NEAR_FAULT_HOLD_MESSAGES)
        release_letters(store, operation, count == 1 ? next_held_letter(store, 0) : 0);
}

void near__memory_fault(struct near__memory_store *store, enum near__memory_fault fault, int operation, int count)
{
    near__memory_enter(store);
    store->faults[fault][operation] = count;
    if (count == 0 && operation == 0)
        memset(store->faults[fault], 0, sizeof store->faults[fault]);
    if (count == 0)
        release(store, fault, operation, INT32_MAX);
    near__memory_changed_locked(store);
    near__memory_leave(store);
}

void near__memory_release_one(struct near__memory_store *store, enum near__memory_fault fault)
{
    near__memory_enter(store);
    if (count_held(store, fault) > 0)
        release(store, fault, 0, 1);
    near__memory_leave(store);
}

int near__memory_held(struct near__memory_store *store, enum near__memory_fault fault)
{
    near__memory_enter(store);
    int count = count_held(store, fault);
    near__memory_leave(store);
    return count;
}

int near__memory_wait_held(struct near__memory_store *store, enum near__memory_fault fault, int n, int timeout_ms)
{
    static const struct near__clock kernel; /* a test's patience is in real time */
    int64_t deadline_ns = near__now(&kernel) + timeout_ms * NEAR_NS_PER_MS;
    int met, waited = 1;
    near__memory_enter(store);
    while (!(met = count_held(store, fault) >= n) && waited)
        waited = near__memory_wait_locked(store, &kernel, deadline_ns);
    near__memory_leave(store);
    return met ? 0 : -1;
}

void near__memory_impatient(struct near__memory_store *store, int on)
{
    near__memory_enter(store);
    store->impatient = on;
    near__memory_changed_locked(store);
    near__memory_leave(store);
}

void near__memory_error(struct near__memory_store *store, int operation, int status, int count)
{
    near__memory_enter(store);
    store->errors[operation].status = status;
    store->errors[operation].count = count;
    near__memory_leave(store);
}

void near__memory_duplicate_next_message(struct near__memory_store *store)
{
    near__memory_enter(store);
    store->duplicate_next = 1;
    near__memory_leave(store);
}

void near__memory_inject_message(struct near__memory_store *store, const void *payload, size_t size)
{
    struct near__sheet sheet = {.event = NEAR_CHANNEL_MESSAGE, .body = payload, .body_size = size};
    near__memory_enter(store);
    for (struct near__place *place = store->places; place; place = place->next)
        near__memory_publish_locked(store, place, &sheet);
    near__memory_leave(store);
}

/* ---------------------------------------------------------------- what others do to the server */

static void disconnect_locked(struct near__memory_store *store)
{
    for (struct near__mailbox *m = store->mailboxes; m; m = m->next)
        near__memory_break_locked(store, m, NEAR_ERR_IO);
}

void near__memory_disconnect_channels(struct near__memory_store *store)
{
    near__memory_enter(store);
    disconnect_locked(store);
    near__memory_leave(store);
}

static void flush_locked(struct near__memory_store *store)
{
    near__keyspace_clear(&store->keys);
    for (struct near__place *place = store->places; place; place = place->next)
        place->position = 0;
    near__memory_report_locked(store, NULL, 0);
}

void near__memory_flushall(struct near__memory_store *store)
{
    near__memory_enter(store);
    flush_locked(store);
    near__memory_leave(store);
}

void near__memory_foreign_set(struct near__memory_store *store, const void *key, size_t key_size, const void *value,
                              size_t value_size)
{
    near__memory_enter(store);
    near__keyspace_put(&store->keys, key, key_size, value, value_size, NEAR_NEVER);
    near__memory_report_locked(store, key, key_size);
    near__memory_leave(store);
}

void near__memory_foreign_del(struct near__memory_store *store, const void *key, size_t key_size)
{
    near__memory_enter(store);
    struct near__record *record = near__keyspace_find(&store->keys, key, key_size, near__now(&store->clock));
    if (record) {
        near__keyspace_remove(&store->keys, record);
        near__memory_report_locked(store, key, key_size);
    }
    near__memory_leave(store);
}

void near__memory_snapshot(struct near__memory_store *store)
{
    near__memory_enter(store);
    if (near__keyspace_copy(&store->snapshot, &store->keys) == 0)
        for (struct near__place *place = store->places; place; place = place->next)
            place->snapshot = place->position;
    near__memory_leave(store);
}

/* Requests that have not run die with their connections.  Replies that are under way do not: they are in our own
 * sockets' buffers already. */
void near__memory_restart(struct near__memory_store *store, int data_loss)
{
    near__memory_enter(store);
    release_held(store, &store->requests, 0, INT32_MAX, -1);
    disconnect_locked(store);
    near__memory_new_identity_locked(store);
    if (data_loss) {
        flush_locked(store);
        near__keyspace_copy(&store->keys, &store->snapshot);
        for (struct near__place *place = store->places; place; place = place->next)
            place->position = place->snapshot;
    }
    near__memory_leave(store);
}
