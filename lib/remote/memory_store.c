/* SPDX-License-Identifier: BSD-3-Clause
 * The server's side of memory://: stores, and what their subscribers are sent.  What a store does when it is asked is
 * in memory_command.c and memory_loads.c, what goes wrong with it in memory_faults.c.
 *
 * A mailbox is the socket buffer of a subscription: one queue of messages, private messages and PONGs, in the order in
 * which the server made them.  A held letter keeps everything behind it, as a network does.
 *
 * Stores are found by their name in a registry of the process and live while somebody holds them.  A store allocates
 * with the hooks of whoever made it: caches that share a store must not take their allocator away while another still
 * uses it. */
#include "remote/memory_store.h"
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include "base/condition.h"
#include "remote/members.h"

static struct {
    pthread_mutex_t lock;
    struct near__memory_store *stores;
} registry = {.lock = PTHREAD_MUTEX_INITIALIZER};

void near__memory_enter(struct near__memory_store *store)
{
    pthread_mutex_lock(&store->lock);
}
void near__memory_leave(struct near__memory_store *store)
{
    pthread_mutex_unlock(&store->lock);
}

/* ---------------------------------------------------------------- stores */

/* relaxed: only uniqueness counts. */
void near__memory_new_identity_locked(struct near__memory_store *store)
{
    static _Atomic(uint64_t) incarnations;
    store->incarnation = atomic_fetch_add_explicit(&incarnations, 1, memory_order_relaxed) + 1;
    snprintf(store->identity, sizeof store->identity, "memory%" PRIu64, store->incarnation);
}

static struct near__memory_store *store_create(const char *name, const struct near__alloc *alloc,
                                               const struct near__clock *clock)
{
    struct near__memory_store *store = near__alloc_zero(alloc, sizeof *store);
    if (!store)
        return NULL;
    store->name = near__strdup(alloc, name);
    if (!store->name) {
        near__free(alloc, store);
        return NULL;
    }
    near__condition_init(&store->changed);
    pthread_mutex_init(&store->lock, NULL);
    store->alloc = *alloc;
    store->clock = *clock;
    near__keyspace_init(&store->keys, &store->alloc);
    near__keyspace_init(&store->snapshot, &store->alloc);
    near__memory_new_identity_locked(store);
    return store;
}

static void free_letters(const struct near__alloc *alloc, struct near__letter **list)
{
    while (*list) {
        struct near__letter *letter = *list;
        *list = letter->next;
        near__free(alloc, letter);
    }
}

/* Nobody holds the store any more: what is left in the queue of requests has lost its callers. */
static void store_destroy(struct near__memory_store *store)
{
    struct near__alloc alloc = store->alloc;
    while (store->requests) {
        struct near__held *held = store->requests;
        store->requests = held->next;
        near__free(&alloc, held);
    }
    while (store->places) {
        struct near__place *place = store->places;
        store->places = place->next;
        near__free(&alloc, place);
    }
    free_letters(&alloc, &store->reports);
    near__keyspace_clear(&store->keys);
    near__keyspace_clear(&store->snapshot);
    pthread_cond_destroy(&store->changed);
    pthread_mutex_destroy(&store->lock);
    near__free(&alloc, store->name);
    near__free(&alloc, store);
}

struct near__memory_store *near__memory_ref(const char *name, const struct near__alloc *alloc,
                                            const struct near__clock *clock)
{
    struct near__memory_store *store;
    pthread_mutex_lock(&registry.lock);
    for (store = registry.stores; store && strcmp(store->name, name) != 0; store = store->next)
        ;
    if (!store && (store = store_create(name, alloc, clock))) {
        store->next = registry.stores;
        registry.stores = store;
    }
    if (store)
        store->refs++;
    pthread_mutex_unlock(&registry.lock);
    return store;
}

void near__memory_unref(struct near__memory_store *store)
{
    if (!store)
        return;
    pthread_mutex_lock(&registry.lock);
    int last = --store->refs == 0;
    if (last) {
        struct near__memory_store **at = &registry.stores;
        while (*at != store)
            at = &(*at)->next;
        *at = store->next;
    }
    pthread_mutex_unlock(&registry.lock);
    if (last)
        store_destroy(store);
}

/* The child has one thread, and every store it finds belongs to the parent's caches; a lock may be held by a thread
 * that does not exist here.  So the registry begins anew, and the old stores are left alone. */
void near__memory_forget_all(void)
{
    static const pthread_mutex_t unlocked = PTHREAD_MUTEX_INITIALIZER;
    registry.lock = unlocked;
    registry.stores = NULL;
}

struct near__place *near__memory_place_locked(struct near__memory_store *store, const char *prefix)
{
    size_t size = strlen(prefix);
    struct near__place *place;
    for (place = store->places; place; place = place->next)
        if (place->prefix_size == size && memcmp(place->prefix, prefix, size) == 0)
            return place;
    place = near__alloc_zero(&store->alloc, sizeof *place + size + 1 + size + sizeof NEAR_MEMBERS_NAME);
    if (!place)
        return NULL;
    place->prefix_size = size;
    memcpy(place->prefix, prefix, size);
    char *list = place->prefix + size + 1;
    memcpy(list, prefix, size);
    memcpy(list + size, NEAR_MEMBERS_NAME, sizeof NEAR_MEMBERS_NAME);
    place->list = list;
    place->list_size = size + strlen(NEAR_MEMBERS_NAME);
    place->next = store->places;
    store->places = place;
    return place;
}

/* ---------------------------------------------------------------- waiting */

int near__memory_wait_locked(struct near__memory_store *store, const struct near__clock *clock, int64_t deadline_ns)
{
    if (store->impatient || near__now(clock) >= deadline_ns)
        return 0;
    near__condition_wait(clock, &store->changed, &store->lock, deadline_ns);
    return 1;
}

void near__memory_changed_locked(struct near__memory_store *store)
{
    pthread_cond_broadcast(&store->changed);
}

/* ---------------------------------------------------------------- mailboxes */

static void empty_mailbox(struct near__mailbox *mailbox)
{
    free_letters(mailbox->alloc, &mailbox->head);
    mailbox->tail = &mailbox->head;
    mailbox->bytes = 0;
    free_letters(mailbox->alloc, &mailbox->unread);
    mailbox->readable = 0;
}

void near__memory_break_locked(struct near__memory_store *store, struct near__mailbox *mailbox, int status)
{
    empty_mailbox(mailbox);
    mailbox->lost = status;
    near__memory_changed_locked(store);
}

/* A message that cannot be kept for a subscriber must not be missing silently: its connection breaks instead. */
static void post(struct near__memory_store *store, struct near__mailbox *mailbox, const struct near__sheet *sheet)
{
    size_t size = sheet->head_size + sheet->body_size;
    if (mailbox->lost)
        return;
    struct near__letter *letter = NULL;
    if (mailbox->bytes + size <= NEAR_MEMORY_QUEUE_MAX)
        letter = near__alloc_zero(mailbox->alloc, sizeof *letter + size);
    if (!letter) {
        near__memory_break_locked(store, mailbox, NEAR_ERR_IO);
        return;
    }
    letter->number = sheet->number;
    letter->event = sheet->event;
    letter->operation = sheet->operation;
    letter->held = sheet->held;
    letter->everything = sheet->everything;
    letter->size = size;
    if (sheet->head_size > 0)
        memcpy(letter->bytes, sheet->head, sheet->head_size);
    if (sheet->body_size > 0)
        memcpy(letter->bytes + sheet->head_size, sheet->body, sheet->body_size);
    *mailbox->tail = letter;
    mailbox->tail = &letter->next;
    mailbox->bytes += size;
    near__memory_changed_locked(store);
}

/* ---------------------------------------------------------------- tracking and turns */

static void pong(struct near__memory_store *store, struct near__mailbox *mailbox, const void *nonce, size_t size)
{
    struct near__sheet sheet = {.event = NEAR_CHANNEL_PONG, .body = nonce, .body_size = size};
    post(store, mailbox, &sheet);
}

/* Appends bytes of size to a list of letters; 0: no memory. */
static int append_letter(const struct near__alloc *alloc, struct near__letter **list, const void *bytes, size_t size,
                         int everything)
{
    struct near__letter *letter = near__alloc_zero(alloc, sizeof *letter + size);
    if (!letter)
        return 0;
    letter->size = size;
    letter->everything = everything;
    if (size)
        memcpy(letter->bytes, bytes, size);
    while (*list)
        list = &(*list)->next;
    *list = letter;
    return 1;
}

void near__memory_ping_locked(struct near__memory_store *store, struct near__mailbox *mailbox, const char *nonce)
{
    if (mailbox->tracks < 0)
        near__memory_break_locked(store, mailbox, NEAR_ERR_PROTOCOL); /* the answer to TRACKINGINFO is no */
    else if (!store->turns || !mailbox->tracks)
        pong(store, mailbox, nonce, strlen(nonce));
    else if (!append_letter(mailbox->alloc, &mailbox->unread, nonce, strlen(nonce), 0))
        near__memory_break_locked(store, mailbox, NEAR_ERR_IO);
}

static void post_report(struct near__memory_store *store, struct near__mailbox *m, const unsigned char *key,
                        size_t key_size, int everything)
{
    size_t prefix = m->place->prefix_size;
    struct near__sheet sheet = {.event = NEAR_CHANNEL_FOREIGN, .everything = everything};
    if (m->tracks <= 0 || (!everything && (key_size < prefix || memcmp(key, m->place->prefix, prefix) != 0)))
        return;
    if (!everything) {
        sheet.body = key + prefix;
        sheet.body_size = key_size - prefix;
    }
    sheet.number = ++store->letters;
    sheet.held = near__memory_strikes_locked(store, NEAR_FAULT_HOLD_MESSAGES, NEAR_OP_SET);
    post(store, m, &sheet);
}

static void post_reports(struct near__memory_store *store, const void *key, size_t key_size, int everything)
{
    for (struct near__mailbox *m = store->mailboxes; m; m = m->next)
        post_report(store, m, key, key_size, everything);
}

void near__memory_report_locked(struct near__memory_store *store, const void *key, size_t key_size)
{
    if (!store->turns) {
        post_reports(store, key, key_size, !key);
    } else if (!append_letter(&store->alloc, &store->reports, key, key ? key_size : 0, !key)) {
        for (struct near__mailbox *m = store->mailboxes; m; m = m->next)
            if (m->tracks > 0)
                near__memory_break_locked(store, m, NEAR_ERR_IO);
    }
}

/* What the server reads of a socket in a turn is all that is there by then, also what came during the turn; but it
 * looks only at those sockets on which something was waiting when the turn began. */
static void turn_locked(struct near__memory_store *store)
{
    for (struct near__mailbox *m = store->mailboxes; m; m = m->next) {
        for (struct near__letter *ping = m->readable ? m->unread : NULL; ping; ping = ping->next)
            pong(store, m, ping->bytes, ping->size);
        if (m->readable)
            free_letters(m->alloc, &m->unread);
    }
    for (struct near__letter *report = store->reports; report; report = report->next)
        post_reports(store, report->bytes, report->size, report->everything);
    free_letters(&store->alloc, &store->reports);
    for (struct near__mailbox *m = store->mailboxes; m; m = m->next)
        m->readable = m->unread != NULL;
}

void near__memory_turn(struct near__memory_store *store)
{
    near__memory_enter(store);
    turn_locked(store);
    near__memory_leave(store);
}

void near__memory_turns(struct near__memory_store *store, int on)
{
    near__memory_enter(store);
    store->turns = on;
    turn_locked(store);
    turn_locked(store);
    near__memory_leave(store);
}

void near__memory_stop_tracking(struct near__memory_store *store)
{
    near__memory_enter(store);
    turn_locked(store); /* Redis sends a turn's reports before its replies: no acknowledged write is left without */
    for (struct near__mailbox *m = store->mailboxes; m; m = m->next)
        m->tracks = m->tracks ? -1 : 0;
    near__memory_leave(store);
}

/* ---------------------------------------------------------------- messages */

void near__memory_publish_locked(struct near__memory_store *store, struct near__place *place, struct near__sheet *sheet)
{
    if (near__memory_strikes_locked(store, NEAR_FAULT_DROP_MESSAGES, (int)sheet->operation))
        return;
    sheet->held = near__memory_strikes_locked(store, NEAR_FAULT_HOLD_MESSAGES, (int)sheet->operation);
    int copies = store->duplicate_next ? 2 : 1;
    store->duplicate_next = 0;
    for (int i = 0; i < copies; i++) {
        sheet->number = ++store->letters;
        for (struct near__mailbox *m = store->mailboxes; m; m = m->next)
            if (m->place == place)
                post(store, m, sheet);
    }
}

/* Only a fault that names the operation drops it: "every message" means those on the shared channel. */
void near__memory_publish_private_locked(struct near__memory_store *store, struct near__place *place,
                                         const struct near__request *q)
{
    char head[64];
    int operation = (int)q->operation;
    struct near__sheet sheet = {.event = NEAR_CHANNEL_PRIVATE, .operation = q->operation, .head = head};
    if (q->operation == NEAR_OP_PROVE) {
        sheet.head_size = (size_t)snprintf(head, sizeof head, "P%" PRId64 ":%" PRIu64, q->number, place->position);
    } else {
        sheet.head_size = (size_t)snprintf(head, sizeof head, "A%" PRId64 ":", q->number);
        sheet.body = q->value;
        sheet.body_size = q->value_size;
    }
    if (store->faults[NEAR_FAULT_DROP_MESSAGES][operation] &&
        near__memory_strikes_locked(store, NEAR_FAULT_DROP_MESSAGES, operation))
        return;
    sheet.held = near__memory_strikes_locked(store, NEAR_FAULT_HOLD_MESSAGES, operation);
    sheet.number = ++store->letters;
    for (struct near__mailbox *m = store->mailboxes; m; m = m->next)
        if (m->place == place && strlen(m->private_name) == q->body_size &&
            memcmp(m->private_name, q->body, q->body_size) == 0)
            post(store, m, &sheet);
}

/* ---------------------------------------------------------------- what assertions ask */

int near__memory_peek(struct near__memory_store *store, const void *key, size_t key_size, void *buffer, size_t capacity,
                      size_t *ret_size)
{
    near__memory_enter(store);
    const struct near__record *record = near__keyspace_find(&store->keys, key, key_size, near__now(&store->clock));
    if (record && record->value_size > 0)
        memcpy(buffer, record->value, record->value_size < capacity ? record->value_size : capacity);
    if (record && ret_size)
        *ret_size = record->value_size;
    near__memory_leave(store);
    return record != NULL;
}

uint64_t near__memory_position(struct near__memory_store *store, const char *prefix)
{
    near__memory_enter(store);
    const struct near__place *place = near__memory_place_locked(store, prefix);
    uint64_t position = place ? place->position : 0;
    near__memory_leave(store);
    return position;
}

void near__memory_set_position(struct near__memory_store *store, const char *prefix, uint64_t position)
{
    near__memory_enter(store);
    struct near__place *place = near__memory_place_locked(store, prefix);
    if (place)
        place->position = position;
    near__memory_leave(store);
}

uint64_t near__memory_requests(struct near__memory_store *store, int operation)
{
    near__memory_enter(store);
    uint64_t ran = store->ran[operation];
    near__memory_leave(store);
    return ran;
}
