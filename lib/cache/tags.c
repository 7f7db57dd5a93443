/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Tags: one write makes every value old that has the tag, however many there are.
 *
 * A tag is a key (NEAR_TAG_PREFIX and its name) whose value is the *position* of its last invalidation.  A loaded
 * value's description (key and NEAR_TAGS_SUFFIX) names its tags, the position at which its load was given the lease,
 * and the value's hash.  The value holds while no tag's number is above that position: then the loader asked its source
 * after the last invalidation of each.  Generations counted from zero could not say that, for tags are known only when
 * the loader has answered, when its source's answer may be older than an invalidation.
 *
 * All three are keys like any other, kept locally by the same rules, so a hit on a tagged value is a hit on each of
 * them and no message more.  They are not read in one moment, and need not be: numbers of tags only grow, and the hash
 * tells whether the description is of this very value.  A description whose value was overwritten by somebody is of no
 * use to anybody, and a tag's key that is gone (evicted) makes its values void: it may have been invalidated. */
#include "cache/loading.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/suffixed.h"

#define TAG_LIFE_MS (INT64_C(24) * 3600 * 1000) /* of a tag that no value has; longer than any load */
#define NAME_MAX_SIZE (NEAR_TAG_MAX + sizeof(NEAR_TAG_PREFIX))

/* ---------------------------------------------------------------- names and descriptions */

static size_t name_of(const void *tag, size_t size, char name[NAME_MAX_SIZE])
{
    memcpy(name, NEAR_TAG_PREFIX, sizeof(NEAR_TAG_PREFIX) - 1);
    memcpy(name + sizeof(NEAR_TAG_PREFIX) - 1, tag, size);
    return sizeof(NEAR_TAG_PREFIX) - 1 + size;
}

static int is_tag(const void *tag, size_t size)
{
    return tag && size >= 1 && size <= NEAR_TAG_MAX && !memchr(tag, 0, size);
}

size_t near__tags_describe(uint64_t position, const void *value, size_t value_size, const char *list, size_t list_size,
                           char ret[NEAR_TAGS_TEXT_MAX])
{
    int head = snprintf(ret, NEAR_TAGS_TEXT_MAX, "%" PRIu64 "%c%016" PRIx64 "%c", position, 0,
                        near_version_of(value, value_size), 0);
    if (list_size)
        memcpy(ret + head, list, list_size);
    return (size_t)head + list_size;
}

int near__tags_parse(const void *text, size_t size, struct near__tags *ret)
{
    const char *at = text, *hash, *list;
    if (!size || size > NEAR_TAGS_TEXT_MAX || at[size - 1] != 0 || !(hash = memchr(at, 0, size)))
        return -1;
    hash++;
    if (hash == at + size || !(list = memchr(hash, 0, size - (size_t)(hash - at))))
        return -1;
    *ret = (struct near__tags){.position = strtoull(at, NULL, 10), .hash = strtoull(hash, NULL, 16), .list = list + 1};
    ret->list_size = size - (size_t)(list + 1 - at);
    return 0;
}

int near__tags_next(const struct near__tags *tags, const char **cursor, size_t *ret_size)
{
    const char *end = tags->list + tags->list_size, *next = *cursor ? *cursor + *ret_size + 1 : tags->list;
    if (next >= end)
        return 0;
    *cursor = next;
    *ret_size = strlen(next); /* the text ends in a zero */
    return 1;
}

/* ---------------------------------------------------------------- hits */

static enum near__local_result local_copy(struct near__impl *impl, struct near__reader *reader, const void *key,
                                          size_t key_size, void *buffer, size_t capacity, size_t *ret_size)
{
    struct near__view view = {.size = 0};
    enum near__local_result result =
        near__local_copy(impl->local, reader, key, key_size, near__read_bound(impl, NULL), 0, buffer, capacity, &view);
    *ret_size = view.size;
    return result == NEAR_LOCAL_HIT && view.size > capacity ? NEAR_LOCAL_ABSENT : result;
}

/* The description that a key has here; 0: none, or no memory. */
static int copy_description(struct near__impl *impl, struct near__reader *reader, const void *key, size_t key_size,
                            char text[NEAR_TAGS_TEXT_MAX], size_t *ret_size)
{
    struct near__suffixed about;
    near__suffixed_init(&about, &impl->alloc, key, key_size, NEAR_TAGS_SUFFIX);
    int there = about.bytes &&
                local_copy(impl, reader, about.bytes, about.size, text, NEAR_TAGS_TEXT_MAX, ret_size) == NEAR_LOCAL_HIT;
    near__suffixed_fini(&about, &impl->alloc);
    return there;
}

static int tag_holds(struct near__impl *impl, struct near__reader *reader, const char *tag, size_t size,
                     uint64_t position)
{
    char name[NAME_MAX_SIZE], text[24];
    size_t text_size;
    if (size > NEAR_TAG_MAX ||
        local_copy(impl, reader, name, name_of(tag, size, name), text, sizeof(text) - 1, &text_size) != NEAR_LOCAL_HIT)
        return 0;
    text[text_size] = 0;
    return strtoull(text, NULL, 10) <= position;
}

int near__tags_hold(struct near__impl *impl, struct near__reader *reader, const void *key, size_t key_size,
                    const void *value, size_t value_size)
{
    char text[NEAR_TAGS_TEXT_MAX];
    const char *tag = NULL;
    size_t size;
    struct near__tags tags;
    if (!copy_description(impl, reader, key, key_size, text, &size) || near__tags_parse(text, size, &tags) != 0 ||
        tags.hash != near_version_of(value, value_size))
        return 0;
    while (near__tags_next(&tags, &tag, &size))
        if (!tag_holds(impl, reader, tag, size, tags.position))
            return 0;
    return 1;
}

void *near__tags_copy(struct near__impl *impl, const void *key, size_t key_size, size_t *ret_size)
{
    char text[NEAR_TAGS_TEXT_MAX];
    struct near__reader *reader = near__local_reader(impl->local);
    int there = reader && copy_description(impl, reader, key, key_size, text, ret_size);
    return there ? near__memdup(&impl->alloc, text, *ret_size) : NULL;
}

/* ---------------------------------------------------------------- learning */

struct near__ticket near__tags_ticket(struct near__impl *impl, const void *key, size_t key_size)
{
    struct near__suffixed about;
    near__suffixed_init(&about, &impl->alloc, key, key_size, NEAR_TAGS_SUFFIX);
    struct near__ticket ticket = {.stripe = NEAR_NO_STRIPE};
    if (about.bytes)
        ticket = near__local_ticket(impl->local, about.bytes, about.size);
    near__suffixed_fini(&about, &impl->alloc);
    return ticket;
}

/* The tags' numbers that are not here, in one round trip. */
static void fetch_numbers(struct near__impl *impl, struct near__reader *reader, const struct near__tags *tags)
{
    char names[NEAR_TAGS_MAX][NAME_MAX_SIZE];
    struct near__request requests[NEAR_TAGS_MAX];
    struct near__ticket tickets[NEAR_TAGS_MAX];
    const char *tag = NULL;
    size_t size, count = 0;
    struct near__mark before = near__coherence_mark(impl->coherence);
    while (count < NEAR_TAGS_MAX && near__tags_next(tags, &tag, &size)) {
        char text[24];
        size_t text_size, name_size = size <= NEAR_TAG_MAX ? name_of(tag, size, names[count]) : 0;
        if (!name_size ||
            local_copy(impl, reader, names[count], name_size, text, sizeof(text), &text_size) == NEAR_LOCAL_HIT)
            continue;
        tickets[count] = near__local_ticket(impl->local, names[count], name_size);
        requests[count] =
            (struct near__request){.operation = NEAR_OP_FETCH, .key = names[count], .key_size = name_size};
        count++;
    }
    if (count)
        near__remote_run(impl->remote, requests, count, near__now(&impl->clock) + impl->timeout_ns);
    for (size_t i = 0; i < count; i++) {
        near__fetch_learn(impl, reader, tickets[i], &requests[i], before, 1);
        near__free(&impl->alloc, requests[i].value_out);
    }
}

/* Without a remote tier: numbered by the tier itself, as all writes. */
static uint64_t learn_only(struct near__impl *impl, const struct near__learnt *learnt,
                           const struct near__suffixed *about, const char *text, size_t size)
{
    struct near__request request = {.operation = NEAR_OP_SET,
                                    .key = about->bytes,
                                    .key_size = about->size,
                                    .value = text,
                                    .value_size = size,
                                    .ttl_ms = learnt->ttl_ms > 0 ? learnt->ttl_ms : 0};
    near__local_write_if(impl, &request, learnt->ticket);
    return request.position;
}

uint64_t near__tags_learn(struct near__impl *impl, const struct near__learnt *learnt, const char *text, size_t size)
{
    struct near__suffixed about;
    struct near__tags tags;
    struct near__reader *reader = near__local_reader(impl->local);
    uint64_t floor = 0;
    if (!reader || learnt->ticket.stripe == NEAR_NO_STRIPE || near__tags_parse(text, size, &tags) != 0)
        return 0;
    near__suffixed_init(&about, &impl->alloc, learnt->key, learnt->key_size, NEAR_TAGS_SUFFIX);
    if (about.bytes && !impl->remote)
        floor = learn_only(impl, learnt, &about, text, size);
    else if (about.bytes)
        near__local_install(impl->local, reader, learnt->ticket, about.bytes, about.size, text, size, learnt->position,
                            learnt->ttl_ms, learnt->sent_ns);
    near__suffixed_fini(&about, &impl->alloc);
    if (impl->remote)
        fetch_numbers(impl, reader, &tags);
    return floor;
}

/* ---------------------------------------------------------------- public */

int near_loaded_tag(near_loaded *loaded, const void *tag, size_t size)
{
    if (!loaded)
        return NEAR_ERR_INVALID;
    if (!loaded->may_tag || !is_tag(tag, size) || loaded->tags >= NEAR_TAGS_MAX) {
        loaded->error = NEAR_ERR_LOADER;
        return NEAR_ERR_INVALID;
    }
    memcpy(loaded->list + loaded->list_size, tag, size);
    loaded->list[loaded->list_size + size] = 0;
    loaded->list_size += size + 1;
    loaded->tags++;
    return NEAR_OK;
}

int near_invalidate_tag(near_cache *cache, const void *tag, size_t size, const near_call *call)
{
    near_call mine;
    char name[NAME_MAX_SIZE];
    int status = near__call_copy(call, &mine);
    if (status != NEAR_OK || !is_tag(tag, size))
        return NEAR_ERR_INVALID;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return status;
    struct near__request request = {
        .operation = NEAR_OP_TAG, .key = name, .key_size = name_of(tag, size, name), .ttl_ms = TAG_LIFE_MS};
    int64_t deadline_ns = near__deadline(impl, &mine);
    status = near__write_through(impl, &request, deadline_ns, 0);
    /* release: pairs with near__load_ticket, by way of whatever tells the next reader that this call has returned;
     * whatever its status, the server may have done it */
    atomic_fetch_add_explicit(&impl->tags_ended, 1, memory_order_release);
    status = near__write_barrier(impl, &mine, deadline_ns, status);
    near__leave(impl);
    return status;
}
