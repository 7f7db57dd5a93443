/* SPDX-License-Identifier: BSD-3-Clause
 * The server's side of memory://: what a Redis with our scripts does, step by step, and what can go wrong with it.
 *
 * One lock a store makes commands run one after another, as Redis runs them.  A write is
 *   1. its condition (absent, present, equal, an integer): not met, nothing happens and nobody is told;
 *   2. everything that needs memory, so that the rest cannot fail;
 *   3. the next position of its prefix;
 *   4. its message, with that position, into every mailbox of the prefix;
 *   5. the write and the reply.
 * Nobody sees a state between the steps, so that doing 5 with 2 changes nothing of "told before it takes effect".
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
#include "base/mutant.h"
#include "base/wait.h"
#include "remote/members.h"

/* A lifted position leaves so much room that it cannot meet a number which somebody else has reached meanwhile. */
#define LIFT (UINT64_C(1) << 20)

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
static void new_identity(struct near__memory_store *store)
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
    near__wait_init(&store->changed);
    pthread_mutex_init(&store->lock, NULL);
    store->alloc = *alloc;
    store->clock = *clock;
    near__keyspace_init(&store->keys, &store->alloc);
    near__keyspace_init(&store->snapshot, &store->alloc);
    new_identity(store);
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
    near__wait_until(clock, &store->changed, &store->lock, deadline_ns);
    return 1;
}

static void changed_locked(struct near__memory_store *store)
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
    changed_locked(store);
}

/* What is put into mailboxes: an envelope and a body. */
struct sheet {
    enum near__channel_event event;
    enum near__operation operation;
    int held, everything;
    uint64_t number;
    const void *head, *body;
    size_t head_size, body_size;
};

/* A message that cannot be kept for a subscriber must not be missing silently: its connection breaks instead. */
static void post(struct near__memory_store *store, struct near__mailbox *mailbox, const struct sheet *sheet)
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
    changed_locked(store);
}

/* ---------------------------------------------------------------- tracking and turns */

static void pong(struct near__memory_store *store, struct near__mailbox *mailbox, const void *nonce, size_t size)
{
    struct sheet sheet = {.event = NEAR_CHANNEL_PONG, .body = nonce, .body_size = size};
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
    struct sheet sheet = {.event = NEAR_CHANNEL_FOREIGN, .everything = everything};
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

/* To every subscriber of the prefix. */
static void publish(struct near__memory_store *store, struct near__place *place, struct sheet *sheet)
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

/* To the one process whose private channel it is.  Only a fault that names the operation drops it: "every message"
 * means those on the shared channel. */
static void publish_private(struct near__memory_store *store, struct near__place *place, const struct near__request *q)
{
    char head[64];
    int operation = (int)q->operation;
    struct sheet sheet = {.event = NEAR_CHANNEL_PRIVATE, .operation = q->operation, .head = head};
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

/* ---------------------------------------------------------------- commands */

/* A command under way: the key with its prefix, its record, and the time, which stands still while it runs. */
struct command {
    struct near__memory_store *store;
    struct near__place *place;
    struct near__request *q;
    int64_t now_ns;
    struct near__record *record;
    const unsigned char *key;
    size_t key_size;
};

static int64_t expiry_of(const struct command *c, int64_t ttl_ms)
{
    if (ttl_ms <= 0 || ttl_ms > (NEAR_NEVER - c->now_ns) / NEAR_NS_PER_MS)
        return NEAR_NEVER;
    return c->now_ns + ttl_ms * NEAR_NS_PER_MS;
}

/* Rounded down: nobody may believe that a key lives longer than it does. */
static int64_t ttl_left(const struct command *c, const struct near__record *record)
{
    return record->expire_ns == NEAR_NEVER ? -1 : (record->expire_ns - c->now_ns) / NEAR_NS_PER_MS;
}

static uint64_t first_position(const struct command *c)
{
    int64_t us = c->now_ns / 1000;
    return us > 0 ? (uint64_t)us : 1;
}

/* A key beside the command's, as a record or, absent, as NULL; "beside" is key and suffix, or prefix and name. */
struct beside {
    unsigned char *name;
    size_t size;
};

static int beside_init(const struct command *c, const void *first, size_t first_size, const void *second,
                       size_t second_size, struct beside *ret)
{
    ret->size = first_size + second_size;
    ret->name = near__alloc(&c->store->alloc, ret->size);
    if (!ret->name)
        return -1;
    if (first_size)
        memcpy(ret->name, first, first_size);
    if (second_size)
        memcpy(ret->name + first_size, second, second_size);
    return 0;
}

static int beside_key(const struct command *c, const char *suffix, struct beside *ret)
{
    return beside_init(c, c->key, c->key_size, suffix, strlen(suffix), ret);
}

static int beside_prefix(const struct command *c, const char *name, const void *rest, size_t rest_size,
                         struct beside *ret)
{
    struct beside first;
    if (beside_init(c, c->place->prefix, c->place->prefix_size, name, strlen(name), &first) != 0)
        return -1;
    int failed = beside_init(c, first.name, first.size, rest, rest_size, ret);
    near__free(&c->store->alloc, first.name);
    return failed;
}

static struct near__record *record_beside(const struct command *c, const struct beside *b)
{
    return near__keyspace_find(&c->store->keys, b->name, b->size, c->now_ns);
}

static void remove_beside(const struct command *c, const struct beside *b)
{
    struct near__record *record = record_beside(c, b);
    if (record)
        near__keyspace_remove(&c->store->keys, record);
}

static int beside_both(const struct command *c, struct beside *ret_lease, struct beside *ret_tags)
{
    if (beside_key(c, NEAR_LEASE_SUFFIX, ret_lease) != 0)
        return NEAR_ERR_NOMEM;
    if (beside_key(c, NEAR_TAGS_SUFFIX, ret_tags) == 0)
        return NEAR_OK;
    near__free(&c->store->alloc, ret_lease->name);
    return NEAR_ERR_NOMEM;
}

static void void_lease(const struct command *c, const struct beside *lease)
{
    if (!NEAR_MUTANT(LEASE_OUTLIVES_WRITE))
        remove_beside(c, lease);
}

/* What every write of a value does to its lease and its tags. */
static void void_both(const struct command *c, const struct beside *lease, const struct beside *tags)
{
    void_lease(c, lease);
    remove_beside(c, tags);
}

static int void_load(const struct command *c)
{
    struct beside lease, tags;
    if (beside_both(c, &lease, &tags) != NEAR_OK)
        return NEAR_ERR_NOMEM;
    void_both(c, &lease, &tags);
    near__free(&c->store->alloc, lease.name);
    near__free(&c->store->alloc, tags.name);
    return NEAR_OK;
}

static int is_leased(const struct command *c)
{
    struct beside lease;
    if (beside_key(c, NEAR_LEASE_SUFFIX, &lease) != 0)
        return -1;
    int leased = record_beside(c, &lease) != NULL;
    near__free(&c->store->alloc, lease.name);
    return leased;
}

/* Steps 3 and 4. */
static void announce(struct command *c)
{
    char head[32];
    struct near__place *place = c->place;
    place->position = place->position ? place->position + 1 : first_position(c);
    struct sheet sheet = {.event = NEAR_CHANNEL_MESSAGE, .operation = c->q->operation, .head = head};
    sheet.head_size = (size_t)snprintf(head, sizeof head, "1%" PRIu64 ":", place->position);
    sheet.body = c->q->body;
    sheet.body_size = c->q->body_size;
    publish(c->store, place, &sheet);
    near__keyspace_sweep(&c->store->keys, c->now_ns);
    c->q->status = NEAR_OK;
}

/* Without memory nothing has happened: an old value that stays keeps its tags. */
static int put_value(struct command *c, const void *value, size_t value_size, int64_t expire_ns)
{
    struct beside lease, tags;
    if (beside_both(c, &lease, &tags) != NEAR_OK)
        return NEAR_ERR_NOMEM;
    struct near__record *record =
        near__keyspace_put(&c->store->keys, c->key, c->key_size, value, value_size, expire_ns);
    if (record) {
        c->record = record;
        c->q->ttl_left_ms = ttl_left(c, record);
        void_both(c, &lease, &tags);
    }
    near__free(&c->store->alloc, lease.name);
    near__free(&c->store->alloc, tags.name);
    return record ? NEAR_OK : NEAR_ERR_NOMEM;
}

static int write_value(struct command *c, const void *value, size_t value_size, int64_t expire_ns)
{
    int status = put_value(c, value, value_size, expire_ns);
    if (status == NEAR_OK)
        announce(c);
    return status;
}

static int run_set(struct command *c)
{
    const struct near__request *q = c->q;
    if (((q->flags & NEAR_SET_IF_ABSENT) && c->record) || ((q->flags & NEAR_SET_IF_PRESENT) && !c->record))
        return NEAR_UNMET;
    int64_t expire_ns = expiry_of(c, q->ttl_ms);
    if (q->flags & NEAR_SET_KEEP_TTL)
        expire_ns = c->record ? c->record->expire_ns : NEAR_NEVER;
    return write_value(c, q->value, q->value_size, expire_ns);
}

static int run_cas(struct command *c)
{
    const struct near__request *q = c->q;
    if (!c->record)
        return NEAR_MISS;
    if (c->record->value_size != q->expected_size ||
        (q->expected_size > 0 && memcmp(c->record->value, q->expected, q->expected_size) != 0))
        return NEAR_UNMET;
    int64_t expire_ns = q->flags & NEAR_SET_KEEP_TTL ? c->record->expire_ns : expiry_of(c, q->ttl_ms);
    return write_value(c, q->value, q->value_size, expire_ns);
}

static int run_incr(struct command *c)
{
    int64_t number = 0;
    char text[24];
    if (c->record && near__keyspace_integer(c->record->value, c->record->value_size, &number) < 0) {
        snprintf(c->q->detail, sizeof c->q->detail, "value is not an integer or out of range");
        return NEAR_ERR_OVERFLOW;
    }
    if (__builtin_add_overflow(number, c->q->number, &number)) {
        snprintf(c->q->detail, sizeof c->q->detail, "increment or decrement would overflow");
        return NEAR_ERR_OVERFLOW;
    }
    size_t size = (size_t)snprintf(text, sizeof text, "%" PRId64, number);
    int status = write_value(c, text, size, c->record ? c->record->expire_ns : NEAR_NEVER);
    if (status == NEAR_OK)
        c->q->result_number = number;
    return status;
}

static int run_del(struct command *c)
{
    int told = (c->q->flags & NEAR_DEL_ANNOUNCE) != 0;
    /* absent, but leased: what is being loaded is void, and everybody is told */
    int leased = c->record ? 0 : is_leased(c);
    if (leased < 0)
        return NEAR_ERR_NOMEM;
    if (!c->record && !leased && !told)
        return NEAR_MISS;
    if (void_load(c) != NEAR_OK)
        return NEAR_ERR_NOMEM;
    if (c->record)
        near__keyspace_remove(&c->store->keys, c->record);
    announce(c);
    return leased && !told ? NEAR_MISS : NEAR_OK;
}

/* The value stays, and so do its tags, as long as it does. */
static int run_expire(struct command *c)
{
    struct beside lease, tags;
    if (!c->record)
        return NEAR_MISS;
    if (beside_both(c, &lease, &tags) != NEAR_OK)
        return NEAR_ERR_NOMEM;
    void_lease(c, &lease);
    struct near__record *kept = record_beside(c, &tags);
    c->record->expire_ns = expiry_of(c, c->q->ttl_ms);
    if (kept)
        kept->expire_ns = c->record->expire_ns;
    announce(c);
    near__free(&c->store->alloc, lease.name);
    near__free(&c->store->alloc, tags.name);
    return NEAR_OK;
}

static int run_clear(struct command *c)
{
    announce(c);
    return NEAR_OK;
}

/* ---------------------------------------------------------------- the list of processes */

static struct near__record *list_record(const struct command *c)
{
    return near__keyspace_find(&c->store->keys, c->place->list, c->place->list_size, c->now_ns);
}

static struct near__word word(const char *text)
{
    return (struct near__word){.at = text, .size = strlen(text)};
}

/* Whether the pair is among those in the text; with any_value whatever its value. */
static int has_pair(const void *text, size_t size, struct near__word name, struct near__word value, int any_value)
{
    struct near__word n, v;
    for (size_t at = 0; near__members_next(text, size, &at, &n, &v);)
        if (near__word_is(n, name.at, name.size) && (any_value || near__word_is(v, value.at, value.size)))
            return 1;
    return 0;
}

static int keep_list(const struct command *c, const struct near__buffer *b, int64_t expire_ns)
{
    if (b->failed)
        return -1;
    return near__keyspace_put(&c->store->keys, c->place->list, c->place->list_size, b->data, b->size, expire_ns) ? 0
                                                                                                                 : -1;
}

/* PROVE: the process is on the list, if there is one. */
static int enlist(const struct command *c)
{
    char value[48];
    struct near__buffer b;
    struct near__record *record = list_record(c);
    if (!record)
        return 0;
    struct near__word name = {.at = c->q->body, .size = c->q->body_size}, n, v;
    snprintf(value, sizeof value, "%" PRId64 ":%" PRId64, c->q->ttl_ms, c->q->number);
    near__buffer_init(&b, &c->store->alloc);
    for (size_t at = 0; near__members_next(record->value, record->value_size, &at, &n, &v);) {
        uint64_t epoch;
        if (near__word_is(n, NEAR_MEMBERS_EPOCH, strlen(NEAR_MEMBERS_EPOCH)) && near__word_number(v, &epoch) == 0)
            c->q->fence = epoch;
        if (!near__word_is(n, name.at, name.size))
            near__members_append(&b, n, v);
    }
    near__members_append(&b, name, word(value));
    int failed = keep_list(c, &b, record->expire_ns);
    near__buffer_fini(&b);
    return failed;
}

/* ROLL: as the script of script.c. */
static int run_roll(struct command *c, const struct near__alloc *value_alloc)
{
    char epoch[24];
    struct near__buffer b;
    struct near__record *record = list_record(c);
    struct near__request *q = c->q;
    struct near__word n, v, name = word(NEAR_MEMBERS_EPOCH);
    snprintf(epoch, sizeof epoch, "%" PRIu64, q->known);
    near__buffer_init(&b, &c->store->alloc);
    if (!record || !has_pair(record->value, record->value_size, name, name, 1))
        near__members_append(&b, name, word(epoch));
    for (size_t at = 0; record && near__members_next(record->value, record->value_size, &at, &n, &v);)
        if (!has_pair(q->value, q->value_size, n, v, 0))
            near__members_append(&b, n, v);
    int failed = 0;
    if (value_alloc) {
        q->value_out = b.failed ? NULL : near__memdup(value_alloc, b.data, b.size);
        q->value_out_size = q->value_out ? b.size : 0;
        failed = !q->value_out;
    }
    failed = failed || keep_list(c, &b, expiry_of(c, NEAR_MEMBERS_LIFE_MS));
    near__buffer_fini(&b);
    if (failed)
        return NEAR_ERR_NOMEM;
    announce(c);
    return NEAR_OK;
}

static int run_prove(struct command *c)
{
    uint64_t first = first_position(c), lifted = c->q->known + LIFT;
    uint64_t apart = (uint64_t)c->q->number % 1000000; /* two lifts must not meet in one number: see script.c */
    if (c->place->position == 0 || c->place->position < c->q->known)
        c->place->position = (first > lifted ? first : lifted) + apart;
    if (enlist(c) != 0)
        return NEAR_ERR_NOMEM;
    publish_private(c->store, c->place, c->q);
    return NEAR_OK;
}

static int run_leave(struct command *c)
{
    struct near__buffer b;
    struct near__record *record = list_record(c);
    struct near__word n, v;
    if (!record)
        return NEAR_OK;
    near__buffer_init(&b, &c->store->alloc);
    for (size_t at = 0; near__members_next(record->value, record->value_size, &at, &n, &v);)
        if (!near__word_is(n, c->q->body, c->q->body_size))
            near__members_append(&b, n, v);
    int failed = keep_list(c, &b, record->expire_ns);
    near__buffer_fini(&b);
    return failed ? NEAR_ERR_NOMEM : NEAR_OK;
}

static int run_answer(struct command *c)
{
    publish_private(c->store, c->place, c->q);
    return NEAR_OK;
}

static int run_fetch(struct command *c, const struct near__alloc *value_alloc, uint64_t value_max)
{
    struct near__request *q = c->q;
    q->inexact = near__memory_strikes_locked(c->store, NEAR_FAULT_INEXACT, NEAR_OP_FETCH);
    if (!c->record)
        return NEAR_MISS;
    if (c->record->value_size > value_max) {
        snprintf(q->detail, sizeof q->detail, "the value in the remote tier exceeds value_max");
        return NEAR_ERR_TOO_LARGE;
    }
    if (value_alloc && !(q->value_out = near__memdup(value_alloc, c->record->value, c->record->value_size)))
        return NEAR_ERR_NOMEM;
    q->value_out_size = c->record->value_size;
    q->ttl_left_ms = ttl_left(c, c->record);
    return NEAR_OK;
}

static int run_compare(struct command *c)
{
    const struct near__record *record = c->record;
    if (!record)
        return NEAR_MISS;
    if (record->value_size != c->q->value_size ||
        (record->value_size && memcmp(record->value, c->q->value, record->value_size) != 0))
        return NEAR_UNMET;
    c->q->ttl_left_ms = ttl_left(c, record);
    return NEAR_OK;
}

/* The lock's counter: `raise` is added, and it is at least `least` afterwards; -1: no memory. */
static int64_t lock_counter(struct command *c, int raise, int64_t least)
{
    struct near__keyspace *keys = &c->store->keys;
    size_t suffix = strlen(NEAR_FENCE_SUFFIX), size = c->key_size + suffix;
    unsigned char *name = near__alloc(&c->store->alloc, size);
    int64_t number = 0;
    char text[24];
    if (!name)
        return -1;
    memcpy(name, c->key, c->key_size);
    memcpy(name + c->key_size, NEAR_FENCE_SUFFIX, suffix);
    struct near__record *record = near__keyspace_find(keys, name, size, c->now_ns);
    if (record && near__keyspace_integer(record->value, record->value_size, &number) < 0)
        number = 0;
    number = number || !raise ? number + raise : (int64_t)first_position(c);
    if (number < least)
        number = least;
    size_t text_size = (size_t)snprintf(text, sizeof text, "%" PRId64, number);
    if (!near__keyspace_put(keys, name, size, text, text_size, NEAR_NEVER))
        number = -1;
    near__free(&c->store->alloc, name);
    return number;
}

/* As the script of script.c. */
static int run_lock(struct command *c)
{
    struct near__request *q = c->q;
    int mine =
        c->record && c->record->value_size == q->value_size && memcmp(c->record->value, q->value, q->value_size) == 0;
    if (c->record && !mine) {
        q->ttl_left_ms = ttl_left(c, c->record);
        return NEAR_UNMET;
    }
    if (q->operation != NEAR_OP_LOCK && !mine)
        return NEAR_MISS;
    if (q->operation == NEAR_OP_UNLOCK) {
        near__keyspace_remove(&c->store->keys, c->record);
        return NEAR_OK;
    }
    int64_t number = lock_counter(c, q->operation == NEAR_OP_LOCK && !mine, (int64_t)q->known);
    if (number < 0)
        return NEAR_ERR_NOMEM;
    if (q->operation == NEAR_OP_LOCK)
        c->record =
            near__keyspace_put(&c->store->keys, c->key, c->key_size, q->value, q->value_size, expiry_of(c, q->ttl_ms));
    else if (q->ttl_ms)
        c->record->expire_ns = expiry_of(c, q->ttl_ms);
    if (!c->record)
        return NEAR_ERR_NOMEM;
    q->result_number = number;
    q->ttl_left_ms = ttl_left(c, c->record);
    return NEAR_OK;
}

/* ---------------------------------------------------------------- loading */

static int64_t left_ms(const struct command *c, const struct near__record *record)
{
    return record ? ttl_left(c, record) : -1;
}

/* A number kept in a key as text; 0 when there is none. */
static uint64_t number_in(const struct near__record *record)
{
    int64_t number = 0;
    if (!record || near__keyspace_integer(record->value, record->value_size, &number) < 0)
        return 0;
    return (uint64_t)number;
}

/* The parts of a description of tags: the position, and where the list begins; 0: it is none. */
static const char *tags_of(const char *text, size_t size, uint64_t *ret_read)
{
    const char *hash = size ? memchr(text, 0, size) : NULL;
    const char *list = hash ? memchr(hash + 1, 0, size - (size_t)(hash + 1 - text)) : NULL;
    int64_t read;
    if (!list || near__keyspace_integer(text, (size_t)(hash - text), &read) < 0)
        return NULL;
    *ret_read = (uint64_t)read;
    return list + 1;
}

enum tags_state { TAGS_GOOD, TAGS_VOID, TAGS_NOMEM };

/* Calls each for every tag's key until it does not return TAGS_GOOD. */
static enum tags_state each_tag(struct command *c, const char *text, size_t size,
                                enum tags_state (*each)(struct command *c, const struct beside *tag, uint64_t read))
{
    uint64_t read = 0;
    const char *end = text + size, *at = tags_of(text, size, &read), *stop;
    enum tags_state state = TAGS_GOOD;
    for (; at && at < end && state == TAGS_GOOD && (stop = memchr(at, 0, (size_t)(end - at))); at = stop + 1) {
        struct beside tag;
        if (beside_prefix(c, NEAR_TAG_PREFIX, at, (size_t)(stop - at), &tag) != 0)
            return TAGS_NOMEM;
        state = each(c, &tag, read);
        near__free(&c->store->alloc, tag.name);
    }
    return state;
}

static enum tags_state tag_is_good(struct command *c, const struct beside *tag, uint64_t read)
{
    const struct near__record *record = record_beside(c, tag);
    return record && number_in(record) <= read ? TAGS_GOOD : TAGS_VOID;
}

static enum tags_state tag_is_not_void(struct command *c, const struct beside *tag, uint64_t read)
{
    return number_in(record_beside(c, tag)) <= read ? TAGS_GOOD : TAGS_VOID;
}

static enum tags_state keep_tag(struct command *c, const struct beside *tag, uint64_t read)
{
    char text[24];
    struct near__record *record = record_beside(c, tag);
    int64_t ends_ns = expiry_of(c, c->q->ttl_ms);
    int size = snprintf(text, sizeof text, "%" PRIu64, read);
    if (!record)
        return near__keyspace_put(&c->store->keys, tag->name, tag->size, text, (size_t)size, ends_ns) ? TAGS_GOOD
                                                                                                      : TAGS_NOMEM;
    if (record->expire_ns < ends_ns)
        record->expire_ns = ends_ns;
    return TAGS_GOOD;
}

static int next_fence(struct command *c)
{
    char text[24];
    struct beside fence;
    if (beside_prefix(c, NEAR_FENCE_NAME, NULL, 0, &fence) != 0)
        return NEAR_ERR_NOMEM;
    uint64_t number = number_in(record_beside(c, &fence));
    number = number ? number + 1 : first_position(c);
    int size = snprintf(text, sizeof text, "%" PRIu64, number);
    int kept = near__keyspace_put(&c->store->keys, fence.name, fence.size, text, (size_t)size, NEAR_NEVER) != NULL;
    near__free(&c->store->alloc, fence.name);
    c->q->fence = number;
    return kept ? NEAR_OK : NEAR_ERR_NOMEM;
}

/* Copies value and tags out.  NEAR_OK, _TOO_LARGE, _NOMEM. */
static int give_value(struct command *c, const struct near__record *tags, const struct near__alloc *value_alloc,
                      uint64_t value_max)
{
    struct near__request *q = c->q;
    if (c->record->value_size > value_max) {
        snprintf(q->detail, sizeof q->detail, "the value in the remote tier exceeds value_max");
        return NEAR_ERR_TOO_LARGE;
    }
    if (!value_alloc)
        return NEAR_OK;
    if (!(q->value_out = near__memdup(value_alloc, c->record->value, c->record->value_size)))
        return NEAR_ERR_NOMEM;
    q->value_out_size = c->record->value_size;
    if (!tags)
        return NEAR_OK;
    if (!(q->extra_out = near__memdup(value_alloc, tags->value, tags->value_size))) {
        near__free(value_alloc, q->value_out);
        q->value_out = NULL;
        return NEAR_ERR_NOMEM;
    }
    q->extra_out_size = tags->value_size;
    return NEAR_OK;
}

static int is_text(const struct near__record *record, const void *text, size_t size)
{
    return record && record->value_size == size && memcmp(record->value, text, size) == 0;
}

/* Gives the lease, if nobody has it. */
static int try_lease(struct command *c, const struct beside *name)
{
    struct near__request *q = c->q;
    const struct near__record *held = record_beside(c, name);
    int absent = is_text(held, "-", 1);
    q->lease_left_ms = left_ms(c, held) < 0 ? 0 : left_ms(c, held);
    if (absent && !c->record) {
        q->lease = NEAR_LEASE_ABSENT;
        return NEAR_OK;
    }
    if (held && !absent && !is_text(held, q->expected, q->expected_size)) {
        q->lease = NEAR_LEASE_HELD;
        return NEAR_OK;
    }
    if (next_fence(c) != NEAR_OK || !near__keyspace_put(&c->store->keys, name->name, name->size, q->expected,
                                                        q->expected_size, expiry_of(c, q->ttl_ms)))
        return NEAR_ERR_NOMEM;
    q->lease = NEAR_LEASE_GOT;
    q->lease_left_ms = q->ttl_ms;
    return NEAR_OK;
}

static int lease_named(struct command *c, const struct beside *lease, const struct beside *tags_name,
                       const struct near__alloc *value_alloc, uint64_t value_max)
{
    struct near__request *q = c->q;
    const struct near__record *tags = q->flags & NEAR_LEASE_TAGGED && c->record ? record_beside(c, tags_name) : NULL;
    int usable = c->record != NULL, status = NEAR_OK;
    q->exists = usable;
    q->lease = NEAR_LEASE_FRESH;
    q->ttl_left_ms = left_ms(c, c->record);
    if (tags) {
        enum tags_state state = each_tag(c, tags->value, tags->value_size, tag_is_good);
        if (state == TAGS_NOMEM)
            return NEAR_ERR_NOMEM;
        usable = state == TAGS_GOOD;
    }
    int fresh = usable && !(q->flags & NEAR_LEASE_FORCE) && (q->ttl_left_ms < 0 || q->ttl_left_ms > q->number);
    if (!fresh)
        status = try_lease(c, lease);
    if (status == NEAR_OK && usable)
        status = give_value(c, tags, value_alloc, value_max);
    return status;
}

static int run_lease(struct command *c, const struct near__alloc *value_alloc, uint64_t value_max)
{
    struct beside lease, tags;
    if (beside_both(c, &lease, &tags) != NEAR_OK)
        return NEAR_ERR_NOMEM;
    int status = lease_named(c, &lease, &tags, value_alloc, value_max);
    near__free(&c->store->alloc, lease.name);
    near__free(&c->store->alloc, tags.name);
    return status;
}

/* Whether the caller still has the lease: 1, 0, or NEAR_ERR_NOMEM. */
static int has_lease(const struct command *c)
{
    struct beside lease;
    if (beside_key(c, NEAR_LEASE_SUFFIX, &lease) != 0)
        return NEAR_ERR_NOMEM;
    int has = is_text(record_beside(c, &lease), c->q->expected, c->q->expected_size);
    near__free(&c->store->alloc, lease.name);
    return has;
}

static int fill_tags(struct command *c)
{
    const struct near__request *q = c->q;
    struct beside tags;
    if (!q->extra_size)
        return NEAR_OK;
    if (beside_key(c, NEAR_TAGS_SUFFIX, &tags) != 0)
        return NEAR_ERR_NOMEM;
    int kept = near__keyspace_put(&c->store->keys, tags.name, tags.size, q->extra, q->extra_size,
                                  expiry_of(c, q->ttl_ms)) != NULL;
    near__free(&c->store->alloc, tags.name);
    return kept && each_tag(c, q->extra, q->extra_size, keep_tag) == TAGS_GOOD ? NEAR_OK : NEAR_ERR_NOMEM;
}

static int run_fill(struct command *c)
{
    struct near__request *q = c->q;
    int met = has_lease(c);
    if (met < 0)
        return met;
    if (!met || (q->flags & NEAR_FILL_ABSENT && c->record))
        return NEAR_UNMET;
    enum tags_state state = q->extra_size ? each_tag(c, q->extra, q->extra_size, tag_is_not_void) : TAGS_GOOD;
    if (state != TAGS_GOOD)
        return state == TAGS_VOID ? NEAR_UNMET : NEAR_ERR_NOMEM;
    int status = put_value(c, q->value, q->value_size, expiry_of(c, q->ttl_ms));
    if (status != NEAR_OK)
        return status;
    status = fill_tags(c);
    if (status != NEAR_OK) /* without its tags it would outlive their invalidation */
        near__keyspace_remove(&c->store->keys, c->record);
    announce(c);
    return status;
}

static int run_tag(struct command *c)
{
    char text[24];
    uint64_t next = c->place->position ? c->place->position + 1 : first_position(c);
    int64_t ends_ns = expiry_of(c, c->q->ttl_ms);
    if (c->record && c->record->expire_ns > ends_ns)
        ends_ns = c->record->expire_ns;
    int size = snprintf(text, sizeof text, "%" PRIu64, next);
    if (!near__keyspace_put(&c->store->keys, c->key, c->key_size, text, (size_t)size, ends_ns))
        return NEAR_ERR_NOMEM;
    announce(c);
    return NEAR_OK;
}

static int run_release(struct command *c)
{
    struct near__request *q = c->q;
    struct beside lease, tags;
    int met = has_lease(c);
    if (met <= 0)
        return met < 0 ? met : NEAR_UNMET;
    int absent = (q->flags & NEAR_RELEASE_ABSENT) != 0, kept = 1;
    if (beside_both(c, &lease, &tags) != NEAR_OK)
        return NEAR_ERR_NOMEM;
    if (absent && q->ttl_ms)
        kept = near__keyspace_put(&c->store->keys, lease.name, lease.size, "-", 1, expiry_of(c, q->ttl_ms)) != NULL;
    else
        remove_beside(c, &lease);
    if (kept && absent) { /* a value that stays keeps its tags */
        remove_beside(c, &tags);
        if (c->record)
            near__keyspace_remove(&c->store->keys, c->record);
    }
    near__free(&c->store->alloc, lease.name);
    near__free(&c->store->alloc, tags.name);
    if (kept)
        announce(c);
    return kept ? NEAR_OK : NEAR_ERR_NOMEM;
}

/* Redis is asked for the key under its prefix: an entry of prefix "a:" and key "b" is that of prefix "" and key
 * "a:b". */
static unsigned char *join_key(const struct command *c, unsigned char *room, size_t room_size)
{
    const struct near__request *q = c->q;
    unsigned char *key = room;
    if (c->place->prefix_size + q->key_size > room_size)
        key = near__alloc(&c->store->alloc, c->place->prefix_size + q->key_size);
    if (!key)
        return NULL;
    memcpy(key, c->place->prefix, c->place->prefix_size);
    if (q->key_size > 0)
        memcpy(key + c->place->prefix_size, q->key, q->key_size);
    return key;
}

static int run_command(struct command *c, const struct near__alloc *value_alloc, uint64_t value_max)
{
    switch (c->q->operation) {
    case NEAR_OP_FETCH:
        return run_fetch(c, value_alloc, value_max);
    case NEAR_OP_SET:
        return run_set(c);
    case NEAR_OP_DEL:
        return run_del(c);
    case NEAR_OP_EXPIRE:
        return run_expire(c);
    case NEAR_OP_INCR:
        return run_incr(c);
    case NEAR_OP_CAS:
        return run_cas(c);
    case NEAR_OP_CLEAR:
        return run_clear(c);
    case NEAR_OP_LEASE:
        return run_lease(c, value_alloc, value_max);
    case NEAR_OP_FILL:
        return run_fill(c);
    case NEAR_OP_RELEASE:
        return run_release(c);
    case NEAR_OP_TAG:
        return run_tag(c);
    case NEAR_OP_PROVE:
        return run_prove(c);
    case NEAR_OP_ROLL:
        return run_roll(c, value_alloc);
    case NEAR_OP_ANSWER:
        return run_answer(c);
    case NEAR_OP_LEAVE:
        return run_leave(c);
    case NEAR_OP_LOCK:
    case NEAR_OP_EXTEND:
    case NEAR_OP_UNLOCK:
        return run_lock(c);
    case NEAR_OP_COMPARE:
        return run_compare(c);
    }
    return NEAR_ERR_INVALID;
}

static int next_error(struct near__memory_store *store, int operation)
{
    int at = store->errors[operation].count ? operation : 0;
    if (!store->errors[at].count)
        return 0;
    if (store->errors[at].count > 0)
        store->errors[at].count--;
    return store->errors[at].status;
}

static int has_key(const struct near__request *request)
{
    switch (request->operation) {
    case NEAR_OP_CLEAR:
    case NEAR_OP_PROVE:
    case NEAR_OP_ROLL:
    case NEAR_OP_ANSWER:
    case NEAR_OP_LEAVE:
        return 0;
    default:
        return 1;
    }
}

void near__memory_execute_locked(struct near__memory_store *store, struct near__place *place, uint64_t value_max,
                                 const struct near__alloc *value_alloc, struct near__request *request)
{
    unsigned char room[512];
    request->server = near__server_id(store->identity);
    struct command c = {.store = store, .place = place, .q = request, .now_ns = near__now(&store->clock)};
    request->status = next_error(store, (int)request->operation);
    if (request->status) {
        snprintf(request->detail, sizeof request->detail, "%s, on request", near_status_name(request->status));
        return;
    }
    unsigned char *key = join_key(&c, room, sizeof room);
    if (!key) {
        request->status = NEAR_ERR_NOMEM;
        return;
    }
    c.key = key;
    c.key_size = place->prefix_size + request->key_size;
    if (has_key(request))
        c.record = near__keyspace_find(&store->keys, key, c.key_size, c.now_ns);
    store->ran[0]++;
    store->ran[request->operation]++;
    request->status = run_command(&c, value_alloc, value_max);
    request->position = place->position;
    if (request->status == NEAR_OK && request->operation != NEAR_OP_FETCH && request->operation != NEAR_OP_COMPARE &&
        has_key(request))
        near__memory_report_locked(store, key, c.key_size);
    if (key != room)
        near__free(&store->alloc, key);
    changed_locked(store);
}

void near__memory_no_answer(const struct near__alloc *value_alloc, struct near__request *request, int read_status)
{
    near__free(value_alloc, request->value_out);
    request->value_out = NULL;
    request->value_out_size = 0;
    near__free(value_alloc, request->extra_out);
    request->extra_out = NULL;
    request->extra_out_size = 0;
    request->position = 0;
    request->inexact = 0;
    request->server = 0;
    request->result_number = 0;
    request->ttl_left_ms = -1;
    int is_read = request->operation == NEAR_OP_FETCH || request->operation == NEAR_OP_LEASE ||
                  request->operation == NEAR_OP_COMPARE;
    request->status = is_read ? read_status : NEAR_ERR_UNKNOWN;
    snprintf(request->detail, sizeof request->detail, "%s",
             read_status == NEAR_ERR_IO ? "the connection broke" : "no answer");
}

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
    changed_locked(store);
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
    changed_locked(store);
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
    changed_locked(store);
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
    changed_locked(store);
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
    struct sheet sheet = {.event = NEAR_CHANNEL_MESSAGE, .body = payload, .body_size = size};
    near__memory_enter(store);
    for (struct near__place *place = store->places; place; place = place->next)
        publish(store, place, &sheet);
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
    new_identity(store);
    if (data_loss) {
        flush_locked(store);
        near__keyspace_copy(&store->keys, &store->snapshot);
        for (struct near__place *place = store->places; place; place = place->next)
            place->position = place->snapshot;
    }
    near__memory_leave(store);
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
