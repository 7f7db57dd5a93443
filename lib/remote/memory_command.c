/* SPDX-License-Identifier: BSD-3-Clause
 * What a Redis with our scripts does when it is asked, step by step.
 *
 * One lock a store makes commands run one after another, as Redis runs them.  A write is
 *   1. its condition (absent, present, equal, an integer): not met, nothing happens and nobody is told;
 *   2. everything that needs memory, so that the rest cannot fail;
 *   3. the next position of its prefix;
 *   4. its message, with that position, into every mailbox of the prefix;
 *   5. the write and the reply.
 * Nobody sees a state between the steps, so that doing 5 with 2 changes nothing of "told before it takes effect". */
#include "remote/memory_command.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/mutant.h"
#include "remote/members.h"

/* A lifted position leaves so much room that it cannot meet a number which somebody else has reached meanwhile. */
#define LIFT (UINT64_C(1) << 20)

/* ---------------------------------------------------------------- what commands have in common */

int64_t near__command_expiry(const struct near__command *c, int64_t ttl_ms)
{
    if (ttl_ms <= 0 || ttl_ms > (NEAR_NEVER - c->now_ns) / NEAR_NS_PER_MS)
        return NEAR_NEVER;
    return c->now_ns + ttl_ms * NEAR_NS_PER_MS;
}

int64_t near__command_ttl_left(const struct near__command *c, const struct near__record *record)
{
    return record->expire_ns == NEAR_NEVER ? -1 : (record->expire_ns - c->now_ns) / NEAR_NS_PER_MS;
}

uint64_t near__command_first_position(const struct near__command *c)
{
    int64_t us = c->now_ns / 1000;
    return us > 0 ? (uint64_t)us : 1;
}

int near__beside_init(const struct near__command *c, const void *first, size_t first_size, const void *second,
                      size_t second_size, struct near__beside *ret)
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

int near__beside_key(const struct near__command *c, const char *suffix, struct near__beside *ret)
{
    return near__beside_init(c, c->key, c->key_size, suffix, strlen(suffix), ret);
}

struct near__record *near__beside_record(const struct near__command *c, const struct near__beside *b)
{
    return near__keyspace_find(&c->store->keys, b->name, b->size, c->now_ns);
}

void near__beside_remove(const struct near__command *c, const struct near__beside *b)
{
    struct near__record *record = near__beside_record(c, b);
    if (record)
        near__keyspace_remove(&c->store->keys, record);
}

int near__beside_both(const struct near__command *c, struct near__beside *ret_lease, struct near__beside *ret_tags)
{
    if (near__beside_key(c, NEAR_LEASE_SUFFIX, ret_lease) != 0)
        return NEAR_ERR_NOMEM;
    if (near__beside_key(c, NEAR_TAGS_SUFFIX, ret_tags) == 0)
        return NEAR_OK;
    near__free(&c->store->alloc, ret_lease->name);
    return NEAR_ERR_NOMEM;
}

static void void_lease(const struct near__command *c, const struct near__beside *lease)
{
    if (!NEAR_MUTANT(LEASE_OUTLIVES_WRITE))
        near__beside_remove(c, lease);
}

/* What every write of a value does to its lease and its tags. */
static void void_both(const struct near__command *c, const struct near__beside *lease, const struct near__beside *tags)
{
    void_lease(c, lease);
    near__beside_remove(c, tags);
}

static int void_load(const struct near__command *c)
{
    struct near__beside lease, tags;
    if (near__beside_both(c, &lease, &tags) != NEAR_OK)
        return NEAR_ERR_NOMEM;
    void_both(c, &lease, &tags);
    near__free(&c->store->alloc, lease.name);
    near__free(&c->store->alloc, tags.name);
    return NEAR_OK;
}

static int is_leased(const struct near__command *c)
{
    struct near__beside lease;
    if (near__beside_key(c, NEAR_LEASE_SUFFIX, &lease) != 0)
        return -1;
    int leased = near__beside_record(c, &lease) != NULL;
    near__free(&c->store->alloc, lease.name);
    return leased;
}

/* Steps 3 and 4. */
void near__command_announce(struct near__command *c)
{
    char head[32];
    struct near__place *place = c->place;
    place->position = place->position ? place->position + 1 : near__command_first_position(c);
    struct near__sheet sheet = {.event = NEAR_CHANNEL_MESSAGE, .operation = c->q->operation, .head = head};
    sheet.head_size = (size_t)snprintf(head, sizeof head, "1%" PRIu64 ":", place->position);
    sheet.body = c->q->body;
    sheet.body_size = c->q->body_size;
    near__memory_publish_locked(c->store, place, &sheet);
    near__keyspace_sweep(&c->store->keys, c->now_ns);
    c->q->status = NEAR_OK;
}

int near__command_put(struct near__command *c, const void *value, size_t value_size, int64_t expire_ns)
{
    struct near__beside lease, tags;
    if (near__beside_both(c, &lease, &tags) != NEAR_OK)
        return NEAR_ERR_NOMEM;
    struct near__record *record =
        near__keyspace_put(&c->store->keys, c->key, c->key_size, value, value_size, expire_ns);
    if (record) {
        c->record = record;
        c->q->ttl_left_ms = near__command_ttl_left(c, record);
        void_both(c, &lease, &tags);
    }
    near__free(&c->store->alloc, lease.name);
    near__free(&c->store->alloc, tags.name);
    return record ? NEAR_OK : NEAR_ERR_NOMEM;
}

static int write_value(struct near__command *c, const void *value, size_t value_size, int64_t expire_ns)
{
    int status = near__command_put(c, value, value_size, expire_ns);
    if (status == NEAR_OK)
        near__command_announce(c);
    return status;
}

static int run_set(struct near__command *c)
{
    const struct near__request *q = c->q;
    if (((q->flags & NEAR_SET_IF_ABSENT) && c->record) || ((q->flags & NEAR_SET_IF_PRESENT) && !c->record))
        return NEAR_UNMET;
    int64_t expire_ns = near__command_expiry(c, q->ttl_ms);
    if (q->flags & NEAR_SET_KEEP_TTL)
        expire_ns = c->record ? c->record->expire_ns : NEAR_NEVER;
    return write_value(c, q->value, q->value_size, expire_ns);
}

static int run_cas(struct near__command *c)
{
    const struct near__request *q = c->q;
    if (!c->record)
        return NEAR_MISS;
    if (c->record->value_size != q->expected_size ||
        (q->expected_size > 0 && memcmp(c->record->value, q->expected, q->expected_size) != 0))
        return NEAR_UNMET;
    int64_t expire_ns = q->flags & NEAR_SET_KEEP_TTL ? c->record->expire_ns : near__command_expiry(c, q->ttl_ms);
    return write_value(c, q->value, q->value_size, expire_ns);
}

static int run_incr(struct near__command *c)
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

static int run_del(struct near__command *c)
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
    near__command_announce(c);
    return leased && !told ? NEAR_MISS : NEAR_OK;
}

/* The value stays, and so do its tags, as long as it does. */
static int run_expire(struct near__command *c)
{
    struct near__beside lease, tags;
    if (!c->record)
        return NEAR_MISS;
    if (near__beside_both(c, &lease, &tags) != NEAR_OK)
        return NEAR_ERR_NOMEM;
    void_lease(c, &lease);
    struct near__record *kept = near__beside_record(c, &tags);
    c->record->expire_ns = near__command_expiry(c, c->q->ttl_ms);
    if (kept)
        kept->expire_ns = c->record->expire_ns;
    near__command_announce(c);
    near__free(&c->store->alloc, lease.name);
    near__free(&c->store->alloc, tags.name);
    return NEAR_OK;
}

static int run_clear(struct near__command *c)
{
    near__command_announce(c);
    return NEAR_OK;
}

/* ---------------------------------------------------------------- the list of processes */

static struct near__record *list_record(const struct near__command *c)
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

static int keep_list(const struct near__command *c, const struct near__buffer *b, int64_t expire_ns)
{
    if (b->failed)
        return -1;
    return near__keyspace_put(&c->store->keys, c->place->list, c->place->list_size, b->data, b->size, expire_ns) ? 0
                                                                                                                 : -1;
}

/* PROVE: the process is on the list, if there is one. */
static int enlist(const struct near__command *c)
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
static int run_roll(struct near__command *c, const struct near__alloc *value_alloc)
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
    failed = failed || keep_list(c, &b, near__command_expiry(c, NEAR_MEMBERS_LIFE_MS));
    near__buffer_fini(&b);
    if (failed)
        return NEAR_ERR_NOMEM;
    near__command_announce(c);
    return NEAR_OK;
}

static int run_prove(struct near__command *c)
{
    uint64_t first = near__command_first_position(c), lifted = c->q->known + LIFT;
    uint64_t apart = (uint64_t)c->q->number % 1000000; /* two lifts must not meet in one number: see script.c */
    if (c->place->position == 0 || c->place->position < c->q->known)
        c->place->position = (first > lifted ? first : lifted) + apart;
    if (enlist(c) != 0)
        return NEAR_ERR_NOMEM;
    near__memory_publish_private_locked(c->store, c->place, c->q);
    return NEAR_OK;
}

static int run_leave(struct near__command *c)
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

static int run_answer(struct near__command *c)
{
    near__memory_publish_private_locked(c->store, c->place, c->q);
    return NEAR_OK;
}

static int run_fetch(struct near__command *c, const struct near__alloc *value_alloc, uint64_t value_max)
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
    q->ttl_left_ms = near__command_ttl_left(c, c->record);
    return NEAR_OK;
}

static int run_compare(struct near__command *c)
{
    const struct near__record *record = c->record;
    if (!record)
        return NEAR_MISS;
    if (record->value_size != c->q->value_size ||
        (record->value_size && memcmp(record->value, c->q->value, record->value_size) != 0))
        return NEAR_UNMET;
    c->q->ttl_left_ms = near__command_ttl_left(c, record);
    return NEAR_OK;
}

/* As INCR: 0 is that of a counter that is not there; NEAR_ERR_OVERFLOW also: somebody has put something else there. */
static int lock_number(const struct near__record *record, int raise, int64_t *ret_number)
{
    int is_number = !record || near__keyspace_integer(record->value, record->value_size, ret_number) == 0;
    return is_number && !__builtin_add_overflow(*ret_number, raise, ret_number) ? NEAR_OK : NEAR_ERR_OVERFLOW;
}

/* The lock's counter: `raise` is added, and it is at least `least` afterwards. */
static int lock_counter(struct near__command *c, int raise, int64_t least, int64_t *ret_number)
{
    struct near__keyspace *keys = &c->store->keys;
    size_t suffix = strlen(NEAR_FENCE_SUFFIX), size = c->key_size + suffix;
    unsigned char *name = near__alloc(&c->store->alloc, size);
    int64_t number = 0;
    char text[24];
    if (!name)
        return NEAR_ERR_NOMEM;
    memcpy(name, c->key, c->key_size);
    memcpy(name + c->key_size, NEAR_FENCE_SUFFIX, suffix);
    int status = lock_number(near__keyspace_find(keys, name, size, c->now_ns), raise, &number);
    if (status == NEAR_OK) {
        if (raise && number == 1)
            number = (int64_t)near__command_first_position(c);
        *ret_number = number < least ? least : number;
        size_t text_size = (size_t)snprintf(text, sizeof text, "%" PRId64, *ret_number);
        if (!near__keyspace_put(keys, name, size, text, text_size, NEAR_NEVER))
            status = NEAR_ERR_NOMEM;
    }
    near__free(&c->store->alloc, name);
    return status;
}

/* As the script of script.c. */
static int run_lock(struct near__command *c)
{
    struct near__request *q = c->q;
    int mine =
        c->record && c->record->value_size == q->value_size && memcmp(c->record->value, q->value, q->value_size) == 0;
    if (c->record && !mine) {
        q->ttl_left_ms = near__command_ttl_left(c, c->record);
        return NEAR_UNMET;
    }
    if (q->operation != NEAR_OP_LOCK && !mine)
        return NEAR_MISS;
    if (q->operation == NEAR_OP_UNLOCK) {
        near__keyspace_remove(&c->store->keys, c->record);
        return NEAR_OK;
    }
    int64_t number;
    int status = lock_counter(c, q->operation == NEAR_OP_LOCK && !mine, (int64_t)q->known, &number);
    if (status != NEAR_OK)
        return status;
    if (q->operation == NEAR_OP_LOCK)
        c->record = near__keyspace_put(&c->store->keys, c->key, c->key_size, q->value, q->value_size,
                                       near__command_expiry(c, q->ttl_ms));
    else if (q->ttl_ms)
        c->record->expire_ns = near__command_expiry(c, q->ttl_ms);
    if (!c->record)
        return NEAR_ERR_NOMEM;
    q->result_number = number;
    q->ttl_left_ms = near__command_ttl_left(c, c->record);
    return NEAR_OK;
}

/* ---------------------------------------------------------------- running */

/* Redis is asked for the key under its prefix: an entry of prefix "a:" and key "b" is that of prefix "" and key
 * "a:b". */
static unsigned char *join_key(const struct near__command *c, unsigned char *room, size_t room_size)
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

static int run_command(struct near__command *c, const struct near__alloc *value_alloc, uint64_t value_max)
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
        return near__command_lease(c, value_alloc, value_max);
    case NEAR_OP_FILL:
        return near__command_fill(c);
    case NEAR_OP_RELEASE:
        return near__command_release(c);
    case NEAR_OP_TAG:
        return near__command_tag(c);
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
    struct near__command c = {.store = store, .place = place, .q = request, .now_ns = near__now(&store->clock)};
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
    near__memory_changed_locked(store);
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
