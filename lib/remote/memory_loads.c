/* SPDX-License-Identifier: BSD-3-Clause
 * Loads of memory://: leases, tags and fences, as the scripts of script.c keep them. */
#include "remote/memory_command.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int beside_prefix(const struct near__command *c, const char *name, const void *rest, size_t rest_size,
                         struct near__beside *ret)
{
    struct near__beside first;
    if (near__beside_init(c, c->place->prefix, c->place->prefix_size, name, strlen(name), &first) != 0)
        return -1;
    int failed = near__beside_init(c, first.name, first.size, rest, rest_size, ret);
    near__free(&c->store->alloc, first.name);
    return failed;
}

static int64_t left_ms(const struct near__command *c, const struct near__record *record)
{
    return record ? near__command_ttl_left(c, record) : -1;
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
static enum tags_state each_tag(struct near__command *c, const char *text, size_t size,
                                enum tags_state (*each)(struct near__command *c, const struct near__beside *tag,
                                                        uint64_t read))
{
    uint64_t read = 0;
    const char *end = text + size, *at = tags_of(text, size, &read), *stop;
    enum tags_state state = TAGS_GOOD;
    for (; at && at < end && state == TAGS_GOOD && (stop = memchr(at, 0, (size_t)(end - at))); at = stop + 1) {
        struct near__beside tag;
        if (beside_prefix(c, NEAR_TAG_PREFIX, at, (size_t)(stop - at), &tag) != 0)
            return TAGS_NOMEM;
        state = each(c, &tag, read);
        near__free(&c->store->alloc, tag.name);
    }
    return state;
}

static enum tags_state tag_is_good(struct near__command *c, const struct near__beside *tag, uint64_t read)
{
    const struct near__record *record = near__beside_record(c, tag);
    return record && number_in(record) <= read ? TAGS_GOOD : TAGS_VOID;
}

static enum tags_state tag_is_not_void(struct near__command *c, const struct near__beside *tag, uint64_t read)
{
    return number_in(near__beside_record(c, tag)) <= read ? TAGS_GOOD : TAGS_VOID;
}

static enum tags_state keep_tag(struct near__command *c, const struct near__beside *tag, uint64_t read)
{
    char text[24];
    struct near__record *record = near__beside_record(c, tag);
    int64_t ends_ns = near__command_expiry(c, c->q->ttl_ms);
    int size = snprintf(text, sizeof text, "%" PRIu64, read);
    if (!record)
        return near__keyspace_put(&c->store->keys, tag->name, tag->size, text, (size_t)size, ends_ns) ? TAGS_GOOD
                                                                                                      : TAGS_NOMEM;
    if (record->expire_ns < ends_ns)
        record->expire_ns = ends_ns;
    return TAGS_GOOD;
}

static int next_fence(struct near__command *c)
{
    char text[24];
    struct near__beside fence;
    if (beside_prefix(c, NEAR_FENCE_NAME, NULL, 0, &fence) != 0)
        return NEAR_ERR_NOMEM;
    uint64_t number = number_in(near__beside_record(c, &fence));
    number = number ? number + 1 : near__command_first_position(c);
    int size = snprintf(text, sizeof text, "%" PRIu64, number);
    int kept = near__keyspace_put(&c->store->keys, fence.name, fence.size, text, (size_t)size, NEAR_NEVER) != NULL;
    near__free(&c->store->alloc, fence.name);
    c->q->fence = number;
    return kept ? NEAR_OK : NEAR_ERR_NOMEM;
}

/* Copies value and tags out.  NEAR_OK, _TOO_LARGE, _NOMEM. */
static int give_value(struct near__command *c, const struct near__record *tags, const struct near__alloc *value_alloc,
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
static int try_lease(struct near__command *c, const struct near__beside *name)
{
    struct near__request *q = c->q;
    const struct near__record *held = near__beside_record(c, name);
    int absent = is_text(held, "-", 1);
    q->lease_left_ms = left_ms(c, held) < 0 ? 0 : left_ms(c, held);
    if (absent && !c->record && !(q->flags & NEAR_LEASE_FORCE)) {
        q->lease = NEAR_LEASE_ABSENT;
        return NEAR_OK;
    }
    if (held && !absent && !is_text(held, q->expected, q->expected_size)) {
        q->lease = NEAR_LEASE_HELD;
        return NEAR_OK;
    }
    if (next_fence(c) != NEAR_OK || !near__keyspace_put(&c->store->keys, name->name, name->size, q->expected,
                                                        q->expected_size, near__command_expiry(c, q->ttl_ms)))
        return NEAR_ERR_NOMEM;
    q->lease = NEAR_LEASE_GOT;
    q->lease_left_ms = q->ttl_ms;
    return NEAR_OK;
}

static int lease_named(struct near__command *c, const struct near__beside *lease, const struct near__beside *tags_name,
                       const struct near__alloc *value_alloc, uint64_t value_max)
{
    struct near__request *q = c->q;
    const struct near__record *tags =
        q->flags & NEAR_LEASE_TAGGED && c->record ? near__beside_record(c, tags_name) : NULL;
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

int near__command_lease(struct near__command *c, const struct near__alloc *value_alloc, uint64_t value_max)
{
    struct near__beside lease, tags;
    if (near__beside_both(c, &lease, &tags) != NEAR_OK)
        return NEAR_ERR_NOMEM;
    int status = lease_named(c, &lease, &tags, value_alloc, value_max);
    near__free(&c->store->alloc, lease.name);
    near__free(&c->store->alloc, tags.name);
    return status;
}

/* Whether the caller still has the lease: 1, 0, or NEAR_ERR_NOMEM. */
static int has_lease(const struct near__command *c)
{
    struct near__beside lease;
    if (near__beside_key(c, NEAR_LEASE_SUFFIX, &lease) != 0)
        return NEAR_ERR_NOMEM;
    int has = is_text(near__beside_record(c, &lease), c->q->expected, c->q->expected_size);
    near__free(&c->store->alloc, lease.name);
    return has;
}

static int fill_tags(struct near__command *c)
{
    const struct near__request *q = c->q;
    struct near__beside tags;
    if (!q->extra_size)
        return NEAR_OK;
    if (near__beside_key(c, NEAR_TAGS_SUFFIX, &tags) != 0)
        return NEAR_ERR_NOMEM;
    int kept = near__keyspace_put(&c->store->keys, tags.name, tags.size, q->extra, q->extra_size,
                                  near__command_expiry(c, q->ttl_ms)) != NULL;
    near__free(&c->store->alloc, tags.name);
    return kept && each_tag(c, q->extra, q->extra_size, keep_tag) == TAGS_GOOD ? NEAR_OK : NEAR_ERR_NOMEM;
}

int near__command_fill(struct near__command *c)
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
    int status = near__command_put(c, q->value, q->value_size, near__command_expiry(c, q->ttl_ms));
    if (status != NEAR_OK)
        return status;
    status = fill_tags(c);
    if (status != NEAR_OK) /* without its tags it would outlive their invalidation */
        near__keyspace_remove(&c->store->keys, c->record);
    near__command_announce(c);
    return status;
}

int near__command_tag(struct near__command *c)
{
    char text[24];
    uint64_t next = c->place->position ? c->place->position + 1 : near__command_first_position(c);
    int64_t ends_ns = near__command_expiry(c, c->q->ttl_ms);
    if (c->record && c->record->expire_ns > ends_ns)
        ends_ns = c->record->expire_ns;
    int size = snprintf(text, sizeof text, "%" PRIu64, next);
    if (!near__keyspace_put(&c->store->keys, c->key, c->key_size, text, (size_t)size, ends_ns))
        return NEAR_ERR_NOMEM;
    near__command_announce(c);
    return NEAR_OK;
}

int near__command_release(struct near__command *c)
{
    struct near__request *q = c->q;
    struct near__beside lease, tags;
    int met = has_lease(c);
    if (met <= 0)
        return met < 0 ? met : NEAR_UNMET;
    int absent = (q->flags & NEAR_RELEASE_ABSENT) != 0, kept = 1;
    if (near__beside_both(c, &lease, &tags) != NEAR_OK)
        return NEAR_ERR_NOMEM;
    if (absent && q->ttl_ms)
        kept = near__keyspace_put(&c->store->keys, lease.name, lease.size, "-", 1,
                                  near__command_expiry(c, q->ttl_ms)) != NULL;
    else
        near__beside_remove(c, &lease);
    if (kept && absent) { /* a value that stays keeps its tags */
        near__beside_remove(c, &tags);
        if (c->record)
            near__keyspace_remove(&c->store->keys, c->record);
    }
    near__free(&c->store->alloc, lease.name);
    near__free(&c->store->alloc, tags.name);
    if (kept)
        near__command_announce(c);
    return kept ? NEAR_OK : NEAR_ERR_NOMEM;
}
