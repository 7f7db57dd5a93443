/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Namespaces: keys that all become old by one write.
 *
 *      name "shop", key "item:7"        stored as  9f3c06d1a27be845:shop:item:7
 *      ":nearcache-ns:shop"             is         9f3c06d1a27be845          the generation, a key like any other
 *
 * To invalidate is to write another generation: nobody asks for the old keys any more.  Nothing is walked or removed;
 * the generation is kept locally by the ordinary rules, so every process learns of a new one by one message, within the
 * staleness bound, and the writer at once.  What a namespace costs is one more local hit for a key in it, and nothing
 * for others.
 *
 * A generation is 64 random bits, not a number counted from one: a generation that was evicted, or lost with its
 * server, must never come again, or it would bring its values back.  For the same reason it names its namespace alone:
 * it stands first, so that no two pairs of name and key make one stored key, whatever bytes they have.  Who finds none
 * makes one, unless somebody was quicker (NX).
 *
 * A stored key is a name like any other, so a namespace may lie in another one: its generation is then looked up under
 * the outer's, and goes with it. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/random.h"
#include "cache/cache.h"

#define KEY_OF_GENERATION ":nearcache-ns:"
#define GENERATION_SIZE 16u
#define GENERATION_KEY_MAX (sizeof(KEY_OF_GENERATION) - 1 + NEAR_NAMESPACE_MAX)
#define ATTEMPTS 8 /* to find, or make, a generation that others make and lose at the same time */

static int name_check(const void *name, size_t name_size)
{
    if (!name || !name_size)
        return NEAR_ERR_INVALID;
    return name_size > NEAR_NAMESPACE_MAX ? NEAR_ERR_TOO_LARGE : NEAR_OK;
}

static size_t generation_key(const void *name, size_t name_size, char ret[GENERATION_KEY_MAX])
{
    const size_t head = sizeof(KEY_OF_GENERATION) - 1;
    memcpy(ret, KEY_OF_GENERATION, head);
    memcpy(ret + head, name, name_size);
    return head + name_size;
}

static int is_generation(const char *text, size_t size)
{
    size_t at = 0;
    while (at < size && ((text[at] >= '0' && text[at] <= '9') || (text[at] >= 'a' && text[at] <= 'f')))
        at++;
    return size == GENERATION_SIZE && at == size;
}

/* Why there was a NEAR_ERR_TOO_LARGE about a generation, whose key never is: no generation may be stored here, or
 * something else was found. */
static int why_too_large(near_cache *cache)
{
    int status;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return status;
    status = impl->options.value_max < GENERATION_SIZE ? NEAR_ERR_OPTION : NEAR_ERR_WRONG_TYPE;
    near__leave(impl);
    return status;
}

/* Writes a generation that never was before. */
static int renew(near_cache *cache, const char *key, size_t key_size, uint32_t condition, const near_call *call,
                 char ret[GENERATION_SIZE])
{
    uint64_t number;
    char text[GENERATION_SIZE + 1];
    near_write write;
    near_call mine;
    int status = near__call_copy(call, &mine);
    if (status != NEAR_OK)
        return status;
    if (near__random_seed(&number, sizeof(number)) != 0)
        return NEAR_ERR_SYSTEM;
    near_write_init(&write);
    write.flags = condition;
    mine.size = sizeof(mine);
    mine.flags &= NEAR_NO_FILL | NEAR_WRITE_BARRIER; /* the others are about reading */
    mine.bound_ms = 0;
    snprintf(text, sizeof(text), "%016" PRIx64, number);
    status = near_set(cache, key, key_size, text, GENERATION_SIZE, &write, &mine);
    if (status == NEAR_OK)
        memcpy(ret, text, GENERATION_SIZE);
    return status == NEAR_ERR_TOO_LARGE ? why_too_large(cache) : status;
}

/* NEAR_OK or NEAR_STALE. */
static int find(near_cache *cache, const char *key, size_t key_size, const near_call *call, char ret[GENERATION_SIZE])
{
    int status = NEAR_MISS;
    for (int i = 0; i < ATTEMPTS && (status == NEAR_MISS || status == NEAR_UNMET); i++) {
        size_t size = 0;
        status = near_get_copy(cache, key, key_size, call, ret, GENERATION_SIZE, &size);
        if (status == NEAR_TRUNCATED || ((status == NEAR_OK || status == NEAR_STALE) && !is_generation(ret, size)))
            return NEAR_ERR_WRONG_TYPE;
        if (status == NEAR_ERR_TOO_LARGE)
            return why_too_large(cache);
        if (status == NEAR_MISS)
            status = renew(cache, key, key_size, NEAR_SET_IF_ABSENT, call, ret);
    }
    return status == NEAR_MISS || status == NEAR_UNMET ? NEAR_ERR_TIMEOUT : status;
}

/* The terms on which a generation is looked up: without a remote tier it is here or nowhere. */
static int terms_of(near_cache *cache, const near_call *call, near_call *ret)
{
    int status = near__read_call_copy(call, ret);
    ret->size = sizeof(*ret);
    if (status != NEAR_OK || !(ret->flags & NEAR_BYPASS_LOCAL))
        return status;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return status;
    if (!impl->remote)
        ret->flags &= ~(uint32_t)NEAR_BYPASS_LOCAL;
    near__leave(impl);
    return NEAR_OK;
}

static void compose(const char generation[GENERATION_SIZE], const void *name, size_t name_size, const void *key,
                    size_t key_size, char *ret)
{
    memcpy(ret, generation, GENERATION_SIZE);
    ret += GENERATION_SIZE;
    *ret++ = ':';
    memcpy(ret, name, name_size);
    ret += name_size;
    *ret++ = ':';
    if (key_size)
        memcpy(ret, key, key_size);
}

int near_namespace_key(near_cache *cache, const void *name, size_t name_size, const void *key, size_t key_size,
                       const near_call *call, void *buffer, size_t capacity, size_t *ret_size)
{
    char generation[GENERATION_SIZE], about[GENERATION_KEY_MAX];
    near_call mine;
    int status = near__key_check(key, key_size);
    if (!cache || !ret_size || (!buffer && capacity))
        return NEAR_ERR_INVALID;
    if (status != NEAR_OK || (status = name_check(name, name_size)) != NEAR_OK)
        return status;
    size_t whole = GENERATION_SIZE + 1 + name_size + 1 + key_size;
    if (whole > NEAR_KEY_MAX)
        return NEAR_ERR_TOO_LARGE;
    if (call && (status = terms_of(cache, call, &mine)) != NEAR_OK)
        return status;
    status = find(cache, about, generation_key(name, name_size, about), call ? &mine : NULL, generation);
    if (status < 0)
        return status;
    *ret_size = whole;
    if (whole > capacity)
        return NEAR_TRUNCATED;
    compose(generation, name, name_size, key, key_size, buffer);
    return status;
}

int near_namespace_invalidate(near_cache *cache, const void *name, size_t name_size, const near_call *call)
{
    char generation[GENERATION_SIZE], about[GENERATION_KEY_MAX];
    int status = cache ? name_check(name, name_size) : NEAR_ERR_INVALID;
    if (status != NEAR_OK)
        return status;
    return renew(cache, about, generation_key(name, name_size, about), 0, call, generation);
}
