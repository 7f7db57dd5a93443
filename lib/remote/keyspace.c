/* SPDX-License-Identifier: BSD-3-Clause */
#define HASH_NONFATAL_OOM 1
#define uthash_malloc(size) near__alloc(ks->alloc, size)
#define uthash_free(memory, size) near__free(ks->alloc, memory)
#define HASH_FUNCTION(key, key_size, ret_hash) ((ret_hash) = (unsigned)near__hash(key, key_size, ks->seed))

#include "remote/keyspace.h"
#include <string.h>
#include "base/hash.h"
#include "base/random.h"

#define PAGE 512u
#define SWEEP_STEPS 2 /* more than one a write, so that the search catches up with what is written */

void near__keyspace_init(struct near__keyspace *ks, const struct near__alloc *alloc)
{
    *ks = (struct near__keyspace){.alloc = alloc};
    if (near__random_seed(&ks->seed, sizeof ks->seed) < 0)
        ks->seed = (uintptr_t)ks; /* only hostile keys would notice */
}

static void record_free(struct near__keyspace *ks, struct near__record *record)
{
    near__free(ks->alloc, record->value);
    near__free(ks->alloc, record);
}

void near__keyspace_clear(struct near__keyspace *ks)
{
    struct near__record *record = ks->records, *next;
    HASH_CLEAR(hh, ks->records); /* frees uthash's own memory and leaves the records' links readable */
    for (; record; record = next) {
        next = record->hh.next;
        record_free(ks, record);
    }
    ks->sweep = NULL;
}

void near__keyspace_remove(struct near__keyspace *ks, struct near__record *record)
{
    if (ks->sweep == record)
        ks->sweep = record->hh.next;
    HASH_DELETE(hh, ks->records, record);
    record_free(ks, record);
}

static int expired(const struct near__record *record, int64_t now_ns)
{
    return now_ns >= record->expire_ns;
}

struct near__record *near__keyspace_find(struct near__keyspace *ks, const void *key, size_t key_size, int64_t now_ns)
{
    struct near__record *record;
    HASH_FIND(hh, ks->records, key, key_size, record);
    if (record && expired(record, now_ns)) {
        near__keyspace_remove(ks, record);
        return NULL;
    }
    return record;
}

static struct near__record *add(struct near__keyspace *ks, const void *key, size_t key_size)
{
    struct near__record *record = near__alloc_zero(ks->alloc, sizeof *record + key_size);
    if (!record)
        return NULL;
    record->key_size = key_size;
    if (key_size > 0)
        memcpy(record->key, key, key_size);
    HASH_ADD_KEYPTR(hh, ks->records, record->key, key_size, record);
    if (record->hh.tbl)
        return record;
    near__free(ks->alloc, record); /* uthash had no memory */
    return NULL;
}

struct near__record *near__keyspace_put(struct near__keyspace *ks, const void *key, size_t key_size, const void *value,
                                        size_t value_size, int64_t expire_ns)
{
    struct near__record *record;
    void *copy = near__memdup(ks->alloc, value, value_size);
    HASH_FIND(hh, ks->records, key, key_size, record);
    if (copy && !record)
        record = add(ks, key, key_size);
    if (!copy || !record) {
        near__free(ks->alloc, copy);
        return NULL;
    }
    near__free(ks->alloc, record->value);
    record->value = copy;
    record->value_size = value_size;
    record->expire_ns = expire_ns;
    return record;
}

/* After '[': whether c is in the set, and where the pattern goes on. */
static int in_set(const char **pattern, unsigned char c)
{
    const char *p = *pattern;
    int negated = *p == '^', found = 0;
    for (p += negated; *p && *p != ']'; p++) {
        if (*p == '\\' && p[1])
            p++;
        unsigned char low = (unsigned char)*p, high = low;
        if (p[1] == '-' && p[2] && p[2] != ']') {
            high = (unsigned char)p[2];
            p += 2;
        }
        found |= low <= high ? c >= low && c <= high : c >= high && c <= low;
    }
    *pattern = *p ? p + 1 : p;
    return found != negated;
}

/* One star is remembered, the last: what an earlier one could take, this one can, too. */
static int matches(const char *pattern, const unsigned char *text, size_t size)
{
    const char *star = NULL;
    const unsigned char *end = text + size, *star_text = NULL;
    while (text < end || *pattern == '*') {
        const char *p = pattern;
        int same = 0;
        if (*p == '*') {
            star = ++pattern;
            star_text = text;
            continue;
        }
        if (*p == '[') {
            p++;
            same = in_set(&p, *text);
        } else if (*p) {
            p += *p == '\\' && p[1];
            same = *pattern == '?' || (unsigned char)*p == *text;
            p++;
        }
        if (same) {
            pattern = p;
            text++;
        } else if (star) {
            pattern = star;
            text = ++star_text;
        } else {
            return 0;
        }
    }
    return !*pattern;
}

uint64_t near__keyspace_page(struct near__keyspace *ks, uint64_t from, const void *prefix, size_t prefix_size,
                             const char *pattern, int64_t now_ns, struct near__buffer *page)
{
    uint64_t at = 0;
    for (struct near__record *record = ks->records; record; record = record->hh.next, at++) {
        if (at < from)
            continue;
        if (at == from + PAGE)
            return at;
        size_t rest = record->key_size - prefix_size;
        if (expired(record, now_ns) || record->key_size < prefix_size ||
            memcmp(record->key, prefix, prefix_size) != 0 || !matches(pattern, record->key + prefix_size, rest))
            continue;
        near__buffer_append(page, &rest, sizeof rest);
        near__buffer_append(page, record->key + prefix_size, rest);
    }
    return 0;
}

uint64_t near__keyspace_remove_prefix(struct near__keyspace *ks, const void *prefix, size_t prefix_size, int64_t now_ns)
{
    uint64_t removed = 0;
    struct near__record *record, *next;
    for (record = ks->records; record; record = next) {
        next = record->hh.next;
        if (record->key_size < prefix_size || memcmp(record->key, prefix, prefix_size) != 0)
            continue;
        removed += !expired(record, now_ns);
        near__keyspace_remove(ks, record);
    }
    return removed;
}

int near__keyspace_copy(struct near__keyspace *into, const struct near__keyspace *from)
{
    near__keyspace_clear(into);
    for (const struct near__record *r = from->records; r; r = r->hh.next)
        if (!near__keyspace_put(into, r->key, r->key_size, r->value, r->value_size, r->expire_ns)) {
            near__keyspace_clear(into);
            return -1;
        }
    return 0;
}

void near__keyspace_sweep(struct near__keyspace *ks, int64_t now_ns)
{
    for (int i = 0; i < SWEEP_STEPS; i++) {
        struct near__record *record = ks->sweep ? ks->sweep : ks->records;
        if (!record)
            return;
        ks->sweep = record->hh.next;
        if (expired(record, now_ns))
            near__keyspace_remove(ks, record);
    }
}

int near__keyspace_integer(const void *value, size_t size, int64_t *ret_number)
{
    const unsigned char *text = value;
    int negative = size > 0 && text[0] == '-';
    size_t at = (size_t)negative;
    uint64_t number = 0, limit = (uint64_t)INT64_MAX + (uint64_t)negative;
    if (at == size || (text[at] == '0' && size > 1)) /* "", "-", "-0", "007" */
        return -1;
    for (; at < size; at++) {
        unsigned digit = text[at] - (unsigned)'0';
        if (digit > 9 || number > (limit - digit) / 10)
            return -1;
        number = number * 10 + digit;
    }
    *ret_number = negative ? (int64_t)(0 - number) : (int64_t)number;
    return 0;
}
