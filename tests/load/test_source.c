/* SPDX-License-Identifier: BSD-3-Clause
 * Writes through to a source: the order of things and what is left when one of them fails; the queue, its bound, its
 * order and its journal, which is torn, damaged and replayed; and a process that is killed in the middle. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pthread_tryjoin_np */
#endif
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"
#include "cache/cache.h"
#include "load/journal.h"
#include "remote/memory.h"
#include "support/allocfail.h"
#include "support/redis_server.h"
#include "support/seed.h"
#include "support/wait.h"

enum { PATIENCE_MS = 60000, ROWS = 4096 };

/* ---------------------------------------------------------------- the source: a table with a will of its own */

struct row {
    char key[32], value[64];
    uint64_t sequence;
};
struct table {
    pthread_mutex_t lock;
    struct row rows[ROWS];
    size_t count;
    _Atomic(int) away; /* status of the whole, 0: there */
    _Atomic(int) hold; /* the store waits */
    _Atomic(unsigned) calls, updates, largest, backwards, holding;
    char refused[32];     /* this key is refused... */
    _Atomic(int) refusal; /* ...with this status */
    _Atomic(unsigned) dead;
    char last_dead[32];
    int dead_status;
    uint32_t dead_attempts;
};

static struct row *row_of(struct table *t, const char *key, int make)
{
    for (size_t i = 0; i < t->count; i++)
        if (strcmp(t->rows[i].key, key) == 0)
            return &t->rows[i];
    if (!make || t->count == ROWS)
        return NULL;
    snprintf(t->rows[t->count].key, sizeof t->rows[0].key, "%s", key);
    return &t->rows[t->count++];
}

static void store_row(struct table *t, near_update *u)
{
    char key[32];
    snprintf(key, sizeof key, "%.*s", (int)u->key_size, (const char *)u->key);
    if (atomic_load(&t->refusal) && strcmp(key, t->refused) == 0) {
        u->status = atomic_load(&t->refusal);
        return;
    }
    struct row *row = row_of(t, key, 1);
    if (!row) {
        u->status = NEAR_ERR_FULL;
        return;
    }
    if (row->sequence >= u->sequence)
        atomic_fetch_add(&t->backwards, 1);
    row->sequence = u->sequence;
    snprintf(row->value, sizeof row->value, "%.*s", (int)u->size, u->data ? (const char *)u->data : "");
    if (u->operation == NEAR_UPDATE_DEL)
        strcpy(row->value, "(gone)");
}

static int store(void *arg, near_update *updates, size_t count, uint32_t timeout_ms)
{
    struct table *t = arg;
    assert_true(timeout_ms > 0);
    atomic_fetch_add(&t->holding, 1);
    while (atomic_load(&t->hold))
        wait_a_moment();
    atomic_fetch_sub(&t->holding, 1);
    atomic_fetch_add(&t->calls, 1);
    int away = atomic_load(&t->away); /* once: it may come back in between */
    if (away)
        return away;
    pthread_mutex_lock(&t->lock);
    for (size_t i = 0; i < count; i++)
        store_row(t, &updates[i]);
    pthread_mutex_unlock(&t->lock);
    atomic_fetch_add(&t->updates, (unsigned)count);
    if (count > atomic_load(&t->largest))
        atomic_store(&t->largest, (unsigned)count);
    return NEAR_OK;
}

static void bury(void *arg, const near_update *u, int status)
{
    struct table *t = arg;
    snprintf(t->last_dead, sizeof t->last_dead, "%.*s", (int)u->key_size, (const char *)u->key);
    t->dead_status = status;
    t->dead_attempts = u->attempts;
    atomic_fetch_add(&t->dead, 1);
}

static const char *stored(struct table *t, const char *key)
{
    static __thread char value[64];
    pthread_mutex_lock(&t->lock);
    struct row *row = row_of(t, key, 0);
    snprintf(value, sizeof value, "%s", row ? row->value : "(none)");
    pthread_mutex_unlock(&t->lock);
    return value;
}

/* ---------------------------------------------------------------- a cache with a source */

struct place {
    char uri[64], folder[64], journal[96];
    near_cache *cache, *other; /* other: another process's */
    near_cache *usual;         /* while cache is one of a test's own */
    near_source *source;
    near_source_options options;
    struct near__memory_store *memory;
    struct table table;
    struct allocfail hooks;
};

static near_options options_of(const struct place *p)
{
    near_options options;
    near_options_init(&options);
    options.local_bytes = 4 << 20;
    options.timeout_ms = PATIENCE_MS;
    options.backoff_min_ms = 5;
    options.backoff_max_ms = 20;
    options.allocator = p->hooks.hooks;
    options.log_level = 0;
    return options;
}

static near_cache *open_cache_with(const struct place *p, const near_options *options)
{
    near_error error = {0};
    near_cache *cache = NULL;
    if (near_open(p->uri, options, &cache, &error) != NEAR_OK || near_wait_ready(cache, PATIENCE_MS, &error) != NEAR_OK)
        fail_msg("%s", error.text);
    return cache;
}

static near_cache *open_cache(struct place *p)
{
    near_options options = options_of(p);
    return open_cache_with(p, &options);
}

static int setup(void **state)
{
    static unsigned number;
    struct place *p = calloc(1, sizeof(*p));
    pthread_mutex_init(&p->table.lock, NULL);
    allocfail_init(&p->hooks);
    snprintf(p->uri, sizeof p->uri, "memory://source%u", number++);
    snprintf(p->folder, sizeof p->folder, "/tmp/nearcache-source-XXXXXX");
    assert_non_null(mkdtemp(p->folder));
    snprintf(p->journal, sizeof p->journal, "%s/journal", p->folder);
    p->cache = open_cache(p);
    p->other = open_cache(p);
    struct near__alloc alloc;
    near__alloc_init(&alloc, NULL);
    struct near__clock clock = {0};
    p->memory = near__memory_ref(p->uri + strlen("memory://"), &alloc, &clock);
    near_source_options_init(&p->options);
    p->options.store = store;
    p->options.store_arg = &p->table;
    p->options.retry_min_ms = 1;
    p->options.retry_max_ms = 5;
    p->options.delay_ms = 0;
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct place *p = *state;
    char new[112];
    if (p->source)
        assert_int_equal(near_source_close(p->source, PATIENCE_MS, 0), NEAR_OK);
    near__memory_unref(p->memory);
    assert_int_equal(near_close(p->cache), NEAR_OK);
    assert_int_equal(near_close(p->other), NEAR_OK);
    assert_int_equal(allocfail_blocks(&p->hooks), 0);
    snprintf(new, sizeof new, "%s.new", p->journal);
    unlink(p->journal);
    unlink(new);
    rmdir(p->folder);
    free(p);
    return 0;
}

static void open_source(struct place *p)
{
    near_error error = {0};
    if (near_source_open(p->cache, &p->options, &p->source, &error) != NEAR_OK)
        fail_msg("%s", error.text);
}

static void behind(struct place *p, int journal)
{
    p->options.flags |= NEAR_SOURCE_BEHIND;
    p->options.journal = journal ? p->journal : NULL;
    p->options.journal_sync = NEAR_JOURNAL_NEVER; /* a process that ends loses nothing by it */
    open_source(p);
}

static int put_within(struct place *p, const char *key, const char *value, uint32_t timeout_ms)
{
    near_call call;
    near_call_init(&call);
    call.timeout_ms = timeout_ms;
    return near_source_set(p->source, key, strlen(key), value, strlen(value), NULL, &call);
}

static int put(struct place *p, const char *key, const char *value)
{
    return put_within(p, key, value, 0);
}

static const char *read_from(near_cache *cache, const char *key)
{
    static __thread char text[64];
    size_t size = 0;
    int status = near_get_copy(cache, key, strlen(key), NULL, text, sizeof text - 1, &size);
    text[status == NEAR_OK ? size : 0] = 0;
    return status == NEAR_OK ? text : near_status_name(status);
}

static const char *on_server(struct place *p, const char *key)
{
    static __thread char text[64];
    size_t size;
    if (!near__memory_peek(p->memory, key, strlen(key), text, sizeof text - 1, &size))
        return "(none)";
    text[size] = 0;
    return text;
}

static near_stats stats_of(struct place *p)
{
    near_stats stats = {.size = sizeof(stats)};
    assert_int_equal(near_stats_get(p->cache, &stats), NEAR_OK);
    return stats;
}

static void flush(struct place *p)
{
    assert_int_equal(near_source_flush(p->source, PATIENCE_MS), NEAR_OK);
}

static void use_cache_with(struct place *p, const near_options *options)
{
    near_cache *cache = open_cache_with(p, options);
    p->usual = p->cache;
    p->cache = cache;
}

static void use_prefix(struct place *p, const char *prefix)
{
    near_options options = options_of(p);
    options.prefix = prefix;
    use_cache_with(p, &options);
}

/* With all that is queued; it, its source and what they call are gone then. */
static void back_to_usual(struct place *p)
{
    assert_int_equal(near_source_close(p->source, PATIENCE_MS, 0), NEAR_OK);
    p->source = NULL;
    assert_int_equal(near_close(p->cache), NEAR_OK);
    p->cache = p->usual;
}

/* ---------------------------------------------------------------- write-through */

static void test_write_through_has_it_in_both(void **state)
{
    struct place *p = *state;
    open_source(p);
    assert_int_equal(put(p, "k", "1"), NEAR_OK);
    assert_string_equal(stored(&p->table, "k"), "1");
    assert_string_equal(on_server(p, "k"), "1");
    assert_string_equal(read_from(p->cache, "k"), "1");
    assert_int_equal(near_source_del(p->source, "k", 1, NULL), NEAR_OK);
    assert_string_equal(stored(&p->table, "k"), "(gone)");
    assert_string_equal(on_server(p, "k"), "(none)");
    assert_int_equal(near_source_del(p->source, "k", 1, NULL), NEAR_OK); /* there or not */
    assert_int_equal(near_close(p->cache), NEAR_ERR_BUSY);
    assert_int_equal(put(p, "k", "2"), NEAR_OK); /* and nothing is disturbed */
}

static void test_source_failed_and_nothing_is_written(void **state)
{
    struct place *p = *state;
    open_source(p);
    assert_int_equal(put(p, "k", "old"), NEAR_OK);
    atomic_store(&p->table.away, NEAR_ERR_UNAVAILABLE);
    assert_int_equal(put(p, "k", "new"), NEAR_ERR_UNAVAILABLE);
    atomic_store(&p->table.away, 12345); /* nonsense is an error */
    assert_int_equal(put(p, "k", "new"), NEAR_ERR_INVALID);
    atomic_store(&p->table.away, -12345);
    assert_int_equal(put(p, "k", "new"), NEAR_ERR_INVALID);
    assert_string_equal(on_server(p, "k"), "old");
    assert_string_equal(read_from(p->cache, "k"), "old");
    assert_int_equal(stats_of(p).source_forgetting, 0);
    atomic_store(&p->table.away, NEAR_ERR_UNKNOWN); /* it may have it */
    assert_int_equal(put(p, "k", "new"), NEAR_ERR_UNKNOWN);
    atomic_store(&p->table.away, 0);
    flush(p);
    assert_string_equal(on_server(p, "k"), "(none)");
}

static void test_cache_failed_after_the_source_and_everybody_forgets(void **state)
{
    struct place *p = *state;
    open_source(p);
    assert_int_equal(put(p, "k", "old"), NEAR_OK);
    assert_string_equal(read_from(p->other, "k"), "old");
    near__memory_error(p->memory, NEAR_OP_SET, NEAR_ERR_FULL, 1);
    near__memory_error(p->memory, NEAR_OP_DEL, NEAR_ERR_UNAVAILABLE, 3); /* and forgetting fails at first */
    assert_int_equal(put(p, "k", "new"), NEAR_PENDING);
    assert_string_equal(stored(&p->table, "k"), "new");
    flush(p); /* waits for the forgetting */
    assert_string_equal(on_server(p, "k"), "(none)");
    assert_int_equal(stats_of(p).source_forgotten, 1);
    assert_true(wait_until(strcmp(read_from(p->other, "k"), "NEAR_MISS") == 0, PATIENCE_MS));
    assert_string_equal(read_from(p->cache, "k"), "NEAR_MISS");
}

static int store_anything(void *arg, near_update *updates, size_t count, uint32_t timeout_ms)
{
    (void)arg, (void)updates, (void)count, (void)timeout_ms;
    return NEAR_OK;
}

/* The journal is replaced by a new one (for the sake of a key that is on the list of those to be forgotten), and the
 * source closed and opened; in between somebody puts the old value of k, whose name in the remote tier that is, there.
 */
static void renew_and_reopen(struct place *p, const char *name)
{
    static char value[1 << 20];
    uint64_t before = 0, now;
    while ((now = stats_of(p).source_journal_bytes) >= before) {
        before = now;
        assert_int_equal(near_source_set(p->source, "0", 1, value, sizeof value, NULL, NULL), NEAR_PENDING);
    }
    assert_int_equal(near_source_close(p->source, 20, 0), NEAR_PENDING);
    near__memory_foreign_set(p->memory, name, strlen(name), "old", 3);
    open_source(p);
}

enum { MANY = 65536 }; /* keys in the list of what is to be forgotten, where everything can take their place */

/* As many writes as the list has places, to a remote tier that is away: each key is to be forgotten. */
static void put_many_that_are_pending(struct place *p)
{
    char key[32];
    near__memory_error(p->memory, NEAR_OP_SET, NEAR_ERR_FULL, INT_MAX);
    near__memory_error(p->memory, NEAR_OP_DEL, NEAR_ERR_UNAVAILABLE, INT_MAX);
    for (int i = 0; i < MANY; i++) {
        snprintf(key, sizeof key, "%d", i);
        assert_int_equal(put(p, key, "new"), NEAR_PENDING);
    }
}

/* The remote tier is away for so long that a list of keys has no end: what it has of the last of them is forgotten all
 * the same.  Where everything takes their place, that is an end to all of them, though keys are still refused. */
static void away_for_long(struct place *p, const char *prefix, int journal)
{
    char name[64];
    use_prefix(p, prefix);
    snprintf(name, sizeof name, "%sk", prefix);
    p->options.store = store_anything;
    if (journal)
        behind(p, 1);
    else
        open_source(p);
    assert_int_equal(put(p, "k", "old"), NEAR_OK);
    assert_string_equal(on_server(p, name), "old");
    if (journal)
        near__memory_error(p->memory, NEAR_OP_CLEAR, NEAR_ERR_UNAVAILABLE, INT_MAX);
    put_many_that_are_pending(p);
    assert_int_equal(put(p, "k", "new"), NEAR_PENDING);
    if (*prefix && !journal) /* nothing is stored later, which would be a reason of its own */
        assert_true(wait_until(stats_of(p).source_forgetting == 0, PATIENCE_MS));
    if (journal)
        renew_and_reopen(p, name);
    near__memory_error(p->memory, NEAR_OP_CLEAR, NEAR_OK, 0);
    near__memory_error(p->memory, NEAR_OP_SET, NEAR_OK, 0);
    near__memory_error(p->memory, NEAR_OP_DEL, NEAR_OK, 0);
    flush(p);
    assert_string_equal(on_server(p, name), "(none)");
    back_to_usual(p);
}
static void test_everything_is_forgotten_however_many_keys(void **state)
{
    away_for_long(*state, "", 0);
    away_for_long(*state, "prefix:", 0);
}
static void test_everything_is_forgotten_after_a_restart_however_many_keys(void **state)
{
    away_for_long(*state, "", 1);
    away_for_long(*state, "prefix:", 1);
}

/* The remote tier has evicted the key, another process still has a copy: it must hear of the write all the same. */
static void test_copies_of_what_the_cache_evicted_are_forgotten_too(void **state)
{
    struct place *p = *state;
    open_source(p);
    assert_int_equal(put(p, "k", "old"), NEAR_OK);
    assert_string_equal(read_from(p->other, "k"), "old");
    near__memory_foreign_del(p->memory, "k", 1); /* tells nobody, as an eviction */
    assert_string_equal(read_from(p->other, "k"), "old");
    near__memory_error(p->memory, NEAR_OP_SET, NEAR_ERR_FULL, 1);
    assert_int_equal(put(p, "k", "new"), NEAR_PENDING);
    flush(p);
    assert_true(wait_until(strcmp(read_from(p->other, "k"), "NEAR_MISS") == 0, PATIENCE_MS));
}

static void test_invalidate_removes_instead_of_writing(void **state)
{
    struct place *p = *state;
    p->options.flags = NEAR_SOURCE_INVALIDATE;
    open_source(p);
    near_set(p->other, "k", 1, "old", 3, NULL, NULL);
    assert_int_equal(put(p, "k", "new"), NEAR_OK);
    assert_string_equal(stored(&p->table, "k"), "new");
    assert_string_equal(on_server(p, "k"), "(none)");
}

struct writer {
    pthread_t thread;
    struct place *place;
    const char *key, *value;
    uint32_t timeout_ms;
    int status;
};

static void *writer_main(void *arg)
{
    struct writer *w = arg;
    w->status = put_within(w->place, w->key, w->value, w->timeout_ms);
    return NULL;
}

static void writer_start(struct writer *w, struct place *p, const char *key, const char *value, uint32_t timeout_ms)
{
    *w = (struct writer){.place = p, .key = key, .value = value, .timeout_ms = timeout_ms};
    assert_int_equal(pthread_create(&w->thread, NULL, writer_main, w), 0);
}

static int writer_end(struct writer *w)
{
    pthread_join(w->thread, NULL);
    return w->status;
}

static void test_writers_of_one_key_take_turns_and_others_pass(void **state)
{
    struct place *p = *state;
    struct writer first, other;
    open_source(p);
    atomic_store(&p->table.hold, 1);
    writer_start(&first, p, "k", "1", 0);
    assert_true(wait_until(atomic_load(&p->table.holding) == 1, PATIENCE_MS));
    assert_int_equal(put_within(p, "k", "2", 50), NEAR_ERR_TIMEOUT);
    assert_int_equal(atomic_load(&p->table.holding), 1); /* the second one did not get as far as the source */
    writer_start(&other, p, "other", "1", 0);
    assert_true(wait_until(atomic_load(&p->table.holding) == 2, PATIENCE_MS));
    atomic_store(&p->table.hold, 0);
    assert_int_equal(writer_end(&first), NEAR_OK);
    assert_int_equal(writer_end(&other), NEAR_OK);
    assert_string_equal(on_server(p, "k"), "1");
}

static void test_wrong_options_and_arguments_are_refused_with_a_text(void **state)
{
    struct place *p = *state;
    near_error error;
    near_source *none = NULL;
    near_write write;
    near_source_options o = p->options;
#define REFUSED(change)                                                                                                \
    do {                                                                                                               \
        o = p->options;                                                                                                \
        change;                                                                                                        \
        error.text[0] = 0;                                                                                             \
        assert_int_equal(near_source_open(p->cache, &o, &none, &error), NEAR_ERR_INVALID);                             \
        assert_true(error.text[0]);                                                                                    \
        assert_null(none);                                                                                             \
    } while (0)
    REFUSED(o.store = NULL);
    REFUSED(o.flags = 1u << 9);
    REFUSED(o.attempts_max = 3);
    REFUSED(o.journal = "x");
    REFUSED(o.batch_max = 0);
    REFUSED(o.queue_bytes = 1);
    REFUSED(o.retry_min_ms = o.retry_max_ms + 1);
    REFUSED(o.journal_sync = 3);
    REFUSED(o.flags = NEAR_SOURCE_BEHIND | NEAR_SOURCE_SALVAGE);
    open_source(p);
    near_write_init(&write);
    write.flags = NEAR_SET_IF_ABSENT;
    assert_int_equal(near_source_set(p->source, "k", 1, "v", 1, &write, NULL), NEAR_ERR_INVALID);
    write.flags = 0;
    write.ttl_ms = -1;
    assert_int_equal(near_source_set(p->source, "k", 1, "v", 1, &write, NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_source_set(NULL, "k", 1, "v", 1, NULL, NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_source_set(p->source, NULL, 1, "v", 1, NULL, NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_source_close(p->source, 0, 1u << 7), NEAR_ERR_INVALID);
    assert_int_equal(atomic_load(&p->table.calls), 0);
}

/* ---------------------------------------------------------------- write-behind */

static void test_behind_is_acknowledged_before_the_source_has_it(void **state)
{
    struct place *p = *state;
    char value[16];
    size_t size;
    uint32_t operation;
    atomic_store(&p->table.hold, 1);
    behind(p, 0);
    assert_int_equal(put(p, "k", "1"), NEAR_OK);
    assert_string_equal(on_server(p, "k"), "1");
    assert_string_equal(stored(&p->table, "k"), "(none)");
    assert_int_equal(near_source_peek(p->source, "k", 1, value, sizeof value, &size, &operation), NEAR_OK);
    assert_int_equal(size, 1);
    assert_int_equal(operation, NEAR_UPDATE_SET);
    assert_int_equal(stats_of(p).source_queued, 1);
    assert_int_equal(near_source_flush(p->source, 20), NEAR_ERR_TIMEOUT);
    atomic_store(&p->table.hold, 0);
    flush(p);
    assert_string_equal(stored(&p->table, "k"), "1");
    assert_int_equal(near_source_peek(p->source, "k", 1, value, sizeof value, &size, &operation), NEAR_MISS);
}

/* While "a" flies, everything of "k" waits: one update is left of a hundred, and it comes after the one that flew. */
static void test_behind_coalesces_by_key_and_keeps_order(void **state)
{
    struct place *p = *state;
    char value[16];
    behind(p, 0);
    atomic_store(&p->table.hold, 1);
    assert_int_equal(put(p, "k", "first"), NEAR_OK);
    assert_true(wait_until(atomic_load(&p->table.holding) == 1, PATIENCE_MS));
    for (int i = 0; i < 100; i++) {
        snprintf(value, sizeof value, "%d", i);
        assert_int_equal(put(p, "k", value), NEAR_OK);
        assert_int_equal(put(p, "other", value), NEAR_OK);
    }
    assert_int_equal(stats_of(p).source_queued, 3);
    atomic_store(&p->table.hold, 0);
    flush(p);
    assert_string_equal(stored(&p->table, "k"), "99");
    assert_string_equal(stored(&p->table, "other"), "99");
    assert_int_equal(atomic_load(&p->table.updates), 3);
    assert_int_equal(atomic_load(&p->table.backwards), 0);
    assert_int_equal(stats_of(p).source_coalesced, 198);
    assert_int_equal(stats_of(p).source_accepted, 201);
    assert_int_equal(stats_of(p).source_stored, 3);
}

static void test_behind_takes_batches_no_larger_than_asked_for(void **state)
{
    struct place *p = *state;
    char key[16];
    p->options.batch_max = 7;
    p->options.delay_ms = 3600000; /* only the flush makes it go before a batch is full */
    behind(p, 0);
    for (int i = 0; i < 40; i++) {
        snprintf(key, sizeof key, "%d", i);
        assert_int_equal(put(p, key, "v"), NEAR_OK);
    }
    flush(p);
    assert_int_equal(atomic_load(&p->table.updates), 40);
    assert_int_equal(atomic_load(&p->table.largest), 7);
}

static void test_behind_tries_again_until_the_source_is_back(void **state)
{
    struct place *p = *state;
    behind(p, 0);
    atomic_store(&p->table.away, NEAR_ERR_UNAVAILABLE);
    assert_int_equal(put(p, "a", "1"), NEAR_OK);
    assert_int_equal(put(p, "b", "1"), NEAR_OK);
    assert_true(wait_until(atomic_load(&p->table.calls) >= 5, PATIENCE_MS));
    assert_int_equal(put(p, "a", "2"), NEAR_OK);
    assert_string_equal(stored(&p->table, "a"), "(none)");
    atomic_store(&p->table.away, 0);
    flush(p);
    assert_string_equal(stored(&p->table, "a"), "2");
    assert_string_equal(stored(&p->table, "b"), "1");
    assert_true(stats_of(p).source_retried >= 4);
}

static void test_behind_full_blocks_until_the_deadline_and_coalesces_all_the_same(void **state)
{
    struct place *p = *state;
    struct writer w;
    p->options.queue_max = 2;
    behind(p, 0);
    atomic_store(&p->table.hold, 1);
    assert_int_equal(put(p, "a", "1"), NEAR_OK);
    assert_true(wait_until(atomic_load(&p->table.holding) == 1, PATIENCE_MS));
    assert_int_equal(put(p, "b", "1"), NEAR_OK);
    assert_int_equal(put_within(p, "c", "1", 30), NEAR_ERR_QUEUE_FULL);
    assert_string_equal(on_server(p, "c"), "(none)"); /* refused: nothing is written */
    assert_int_equal(put(p, "b", "2"), NEAR_OK);      /* takes no room */
    writer_start(&w, p, "c", "2", 0);
    atomic_store(&p->table.hold, 0);
    assert_int_equal(writer_end(&w), NEAR_OK);
    flush(p);
    assert_string_equal(stored(&p->table, "c"), "2");
    assert_string_equal(stored(&p->table, "b"), "2");
    assert_int_equal(stats_of(p).source_refused, 1);
}

/* The delay is for newer updates of a key; somebody who waits for room is worth more. */
static void test_behind_a_full_queue_does_not_wait_for_the_delay(void **state)
{
    struct place *p = *state;
    char key[16], value[1000];
    memset(value, 'v', sizeof value);
    p->options.delay_ms = 3600000;
    p->options.queue_max = 4;
    behind(p, 0);
    for (int i = 0; i < 20; i++) {
        snprintf(key, sizeof key, "%d", i);
        assert_int_equal(put(p, key, "v"), NEAR_OK);
    }
    flush(p);
    assert_int_equal(near_source_close(p->source, PATIENCE_MS, 0), NEAR_OK);
    p->options.queue_max = 1000;
    p->options.queue_bytes = 4096; /* the same for memory */
    behind(p, 0);
    for (int i = 0; i < 20; i++) {
        snprintf(key, sizeof key, "%d", i);
        assert_int_equal(near_source_set(p->source, key, strlen(key), value, sizeof value, NULL, NULL), NEAR_OK);
    }
    flush(p);
    assert_int_equal(atomic_load(&p->table.updates), 40);
}

/* A log function may ask for statistics: nothing that they need is locked while it runs. */
struct listener {
    near_cache *_Atomic cache;
    _Atomic(unsigned) told;
};

static void ask_when_told(void *arg, int level, const char *component, const char *text)
{
    struct listener *l = arg;
    near_stats stats = {.size = sizeof(stats)};
    (void)level;
    if (strcmp(component, "load") != 0 || !strstr(text, "journal"))
        return;
    assert_int_equal(near_stats_get(atomic_load(&l->cache), &stats), NEAR_OK);
    atomic_fetch_add(&l->told, 1);
}

static _Atomic(unsigned) signals;
static void count_signal(int number)
{
    (void)number;
    atomic_fetch_add(&signals, 1);
}

/* Returns what it was before. */
static struct rlimit limit_files(rlim_t bytes)
{
    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    return before;
}

/* The process's limit for files is reached, as by a full disk: an error, and not the signal that the kernel has for it.
 */
static void test_I_journal_s_troubles_are_told_without_a_lock_or_a_signal(void **state)
{
    struct place *p = *state;
    struct listener listener = {0};
    struct rlimit before;
    static char value[2 << 20];
    near_options options = options_of(p);
    options.log = ask_when_told;
    options.log_arg = &listener;
    options.log_level = 4;
    use_cache_with(p, &options);
    atomic_store(&listener.cache, p->cache);
    behind(p, 1);
    alarm(PATIENCE_MS / 1000); /* who asks for his own lock waits for ever */
    void (*handler)(int) = signal(SIGXFSZ, count_signal);
    before = limit_files(1 << 20);
    int status = near_source_set(p->source, "k", 1, value, sizeof value, NULL, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(status, NEAR_ERR_JOURNAL);
    assert_int_equal(atomic_load(&signals), 0);
    assert_int_equal(atomic_load(&listener.told), 1);
    alarm(0);
    assert_int_equal(put(p, "k", "1"), NEAR_OK);
    flush(p);
    back_to_usual(p);
}

static void test_journal_that_cannot_be_made_smaller_is_not_tried_with_every_update(void **state)
{
    struct place *p = *state;
    static char value[512 << 10];
    char new[112];
    uint64_t before, after;
    p->options.retry_min_ms = p->options.retry_max_ms = 10 * PATIENCE_MS;
    atomic_store(&p->table.hold, 1);
    behind(p, 1);
    snprintf(new, sizeof new, "%s.new", p->journal);
    assert_int_equal(mkdir(new, 0700), 0); /* stands in the way of the smaller file */
    for (int i = 0; i < 30; i++)           /* 15 MiB of records, of which one or two count */
        assert_int_equal(near_source_set(p->source, "k", 1, value, sizeof value, NULL, NULL), NEAR_OK);
    assert_int_equal(rmdir(new), 0);
    before = stats_of(p).source_journal_bytes;
    /* before the pause ends nothing is tried, though it would succeed */
    assert_int_equal(put(p, "k", "last"), NEAR_OK);
    after = stats_of(p).source_journal_bytes;
    atomic_store(&p->table.hold, 0);
    flush(p);
    assert_true(after > before);
}

/* Statistics may be asked for while a source closes.  Here they are asked for, by another thread, at the worst moments:
 * whenever the closing thread has given memory back, which is empty by then. */
struct grave {
    near_cache *_Atomic cache;
    void *kept[64];
    unsigned count;
};
static __thread int closing;

static void *grave_allocate(void *arg, size_t size)
{
    (void)arg;
    size_t *block = malloc(sizeof(max_align_t) + size);
    if (!block)
        return NULL;
    *block = size;
    return (char *)block + sizeof(max_align_t);
}

static void *grave_reallocate(void *arg, void *memory, size_t size)
{
    (void)arg;
    size_t *block = realloc(memory ? (char *)memory - sizeof(max_align_t) : NULL, sizeof(max_align_t) + size);
    if (!block)
        return NULL;
    *block = size;
    return (char *)block + sizeof(max_align_t);
}

static void *ask_main(void *arg)
{
    near_stats stats = {.size = sizeof(stats)};
    assert_int_equal(near_stats_get(arg, &stats), NEAR_OK);
    return NULL;
}

static void grave_release(void *arg, void *memory)
{
    struct grave *g = arg;
    pthread_t asker;
    if (!memory)
        return;
    char *block = (char *)memory - sizeof(max_align_t);
    if (!closing || g->count == sizeof g->kept / sizeof g->kept[0]) {
        free(block);
        return;
    }
    memset(memory, 0, *(size_t *)(void *)block);
    g->kept[g->count++] = block;
    assert_int_equal(pthread_create(&asker, NULL, ask_main, atomic_load(&g->cache)), 0);
    pthread_join(asker, NULL);
}

static void test_statistics_leave_a_closing_source_alone(void **state)
{
    struct place *p = *state;
    struct grave grave = {0};
    near_options options = options_of(p);
    char uri[64];
    options.allocator = (near_allocator){grave_allocate, grave_reallocate, grave_release, &grave};
    snprintf(uri, sizeof uri, "%s", p->uri);
    strcat(p->uri, "-grave"); /* a store of its own, which allocates with these hooks */
    use_cache_with(p, &options);
    snprintf(p->uri, sizeof p->uri, "%s", uri);
    atomic_store(&grave.cache, p->cache);
    behind(p, 1);
    assert_int_equal(put(p, "k", "1"), NEAR_OK);
    flush(p);
    closing = 1;
    assert_int_equal(near_source_close(p->source, PATIENCE_MS, 0), NEAR_OK);
    closing = 0;
    p->source = NULL;
    assert_true(grave.count > 2);
    assert_int_equal(near_close(p->cache), NEAR_OK);
    while (grave.count)
        free(grave.kept[--grave.count]);
    p->cache = p->usual;
}

static void test_behind_gives_up_after_so_many_attempts_and_tells(void **state)
{
    struct place *p = *state;
    p->options.attempts_max = 3;
    p->options.dead_letter = bury;
    p->options.dead_letter_arg = &p->table;
    behind(p, 0);
    strcpy(p->table.refused, "bad");
    atomic_store(&p->table.refusal, NEAR_ERR_TOO_LARGE);
    assert_int_equal(put(p, "bad", "1"), NEAR_OK);
    assert_int_equal(put(p, "good", "1"), NEAR_OK);
    flush(p);
    assert_string_equal(stored(&p->table, "good"), "1"); /* one that fails does not stop the others */
    assert_int_equal(atomic_load(&p->table.dead), 1);
    assert_string_equal(p->table.last_dead, "bad");
    assert_int_equal(p->table.dead_status, NEAR_ERR_TOO_LARGE);
    assert_int_equal(p->table.dead_attempts, 3);
    assert_string_equal(on_server(p, "bad"), "(none)"); /* the cache does not go on showing it */
    atomic_store(&p->table.refusal, NEAR_ERR_REJECTED);
    assert_int_equal(put(p, "bad", "2"), NEAR_OK);
    flush(p);
    assert_int_equal(atomic_load(&p->table.dead), 2);
    assert_int_equal(p->table.dead_attempts, 1); /* at once */
}

static void copy_file(const char *from, const char *to)
{
    static char bytes[1 << 16];
    FILE *in = fopen(from, "r"), *out = fopen(to, "w");
    size_t size;
    while ((size = fread(bytes, 1, sizeof bytes, in)))
        assert_int_equal(fwrite(bytes, 1, size, out), size);
    fclose(in);
    fclose(out);
}

static void *put_new_main(void *arg)
{
    assert_int_equal(put(arg, "k", "new"), NEAR_OK);
    return NULL;
}

/* The source rejects an update whose writer still waits for the remote tier: he comes later than what made everybody
 * forget the key. */
static pthread_t begin_rejected(struct place *p)
{
    pthread_t writer;
    assert_int_equal(put(p, "k", "old"), NEAR_OK);
    flush(p);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, NEAR_OP_SET, -1);
    strcpy(p->table.refused, "k");
    atomic_store(&p->table.refusal, NEAR_ERR_REJECTED);
    assert_int_equal(pthread_create(&writer, NULL, put_new_main, p), 0);
    assert_true(wait_until(strcmp(on_server(p, "k"), "(none)") == 0, PATIENCE_MS));
    assert_true(wait_until(stats_of(p).source_forgetting == 0, PATIENCE_MS));
    return writer;
}

static void end_rejected(struct place *p, pthread_t writer)
{
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, 0, 0);
    pthread_join(writer, NULL);
}

static void test_behind_rejected_before_the_cache_has_it_and_the_key_is_forgotten(void **state)
{
    struct place *p = *state;
    p->options.dead_letter = bury;
    p->options.dead_letter_arg = &p->table;
    behind(p, 0);
    end_rejected(p, begin_rejected(p));
    flush(p);
    assert_int_equal(atomic_load(&p->table.dead), 1);
    assert_string_equal(stored(&p->table, "k"), "old");
    assert_string_equal(on_server(p, "k"), "(none)");
    assert_true(wait_until(strcmp(read_from(p->other, "k"), "NEAR_MISS") == 0, PATIENCE_MS));
}

static void test_behind_cache_failed_and_the_key_is_forgotten_again_after_the_store(void **state)
{
    struct place *p = *state;
    behind(p, 0);
    assert_int_equal(put(p, "k", "old"), NEAR_OK);
    flush(p);
    atomic_store(&p->table.hold, 1);
    near__memory_error(p->memory, NEAR_OP_SET, NEAR_ERR_FULL, 1);
    assert_int_equal(put(p, "k", "new"), NEAR_PENDING);
    assert_true(wait_until(strcmp(on_server(p, "k"), "(none)") == 0, PATIENCE_MS));
    near_set(p->other, "k", 1, "old", 3, NULL, NULL); /* somebody loads what the source still has */
    atomic_store(&p->table.hold, 0);
    flush(p);
    assert_string_equal(stored(&p->table, "k"), "new");
    assert_string_equal(on_server(p, "k"), "(none)");
}

/* The value comes to its own end in the cache before the source has it. */
static void test_behind_over_before_it_is_stored_and_the_key_is_forgotten_after_the_store(void **state)
{
    struct place *p = *state;
    near_write write;
    near_write_init(&write);
    write.ttl_ms = 20;
    behind(p, 0);
    atomic_store(&p->table.hold, 1);
    for (int times = 0; times < 2; times++) { /* one that flies, and one that waits behind it */
        assert_int_equal(near_source_set(p->source, "k", 1, "new", 3, &write, NULL), NEAR_OK);
        assert_true(wait_until(atomic_load(&p->table.holding) == 1, PATIENCE_MS));
    }
    assert_true(wait_until(strcmp(on_server(p, "k"), "(none)") == 0, PATIENCE_MS));
    assert_int_equal(near_set(p->other, "k", 1, "old", 3, NULL, NULL), NEAR_OK);
    atomic_store(&p->table.hold, 0);
    flush(p);
    assert_string_equal(stored(&p->table, "k"), "new");
    assert_string_equal(on_server(p, "k"), "(none)");
    write.ttl_ms = PATIENCE_MS;
    assert_int_equal(near_source_set(p->source, "k", 1, "newer", 5, &write, NULL), NEAR_OK);
    flush(p);
    assert_string_equal(on_server(p, "k"), "newer");
}

static void *put_briefly_main(void *arg)
{
    struct place *p = arg;
    near_write write;
    near_write_init(&write);
    write.ttl_ms = 20;
    assert_int_equal(near_source_set(p->source, "k", 1, "new", 3, &write, NULL), NEAR_OK);
    return NULL;
}

/* The same while its writer waits for the cache's answer; the source has it before he is back. */
static void test_behind_over_before_its_writer_is_back_and_the_key_is_forgotten_then(void **state)
{
    struct place *p = *state;
    pthread_t writer;
    behind(p, 0);
    atomic_store(&p->table.hold, 1);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_SET, 1);
    assert_int_equal(pthread_create(&writer, NULL, put_briefly_main, p), 0);
    assert_int_equal(near__memory_wait_held(p->memory, NEAR_FAULT_HOLD_REPLIES, 1, PATIENCE_MS), 0);
    assert_true(wait_until(strcmp(on_server(p, "k"), "(none)") == 0, PATIENCE_MS));
    assert_int_equal(near_set(p->other, "k", 1, "old", 3, NULL, NULL), NEAR_OK);
    atomic_store(&p->table.hold, 0);
    assert_true(wait_until(stats_of(p).source_queued == 0, PATIENCE_MS));
    assert_string_equal(on_server(p, "k"), "old");
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, 0, 0);
    pthread_join(writer, NULL);
    flush(p);
    assert_string_equal(stored(&p->table, "k"), "new");
    assert_string_equal(on_server(p, "k"), "(none)");
}

/* While the update is queued another process loads what the source still has: it must not stay. */
static void removed_and_loaded_before_it_is_stored(struct place *p, int status)
{
    assert_int_equal(status, NEAR_OK);
    assert_string_equal(on_server(p, "k"), "(none)");
    assert_int_equal(near_set(p->other, "k", 1, "old", 3, NULL, NULL), NEAR_OK);
    atomic_store(&p->table.hold, 0);
    flush(p);
    assert_string_equal(on_server(p, "k"), "(none)");
    assert_true(wait_until(strcmp(read_from(p->other, "k"), "NEAR_MISS") == 0, PATIENCE_MS));
    assert_int_equal(near_source_close(p->source, PATIENCE_MS, 0), NEAR_OK);
    p->source = NULL;
}

static void test_behind_removed_and_the_key_is_forgotten_again_after_the_store(void **state)
{
    struct place *p = *state;
    behind(p, 0);
    atomic_store(&p->table.hold, 1);
    removed_and_loaded_before_it_is_stored(p, near_source_del(p->source, "k", 1, NULL));
    assert_string_equal(stored(&p->table, "k"), "(gone)");
    p->options.flags |= NEAR_SOURCE_INVALIDATE;
    behind(p, 0);
    atomic_store(&p->table.hold, 1);
    removed_and_loaded_before_it_is_stored(p, put(p, "k", "new"));
    assert_string_equal(stored(&p->table, "k"), "new");
}

/* The key is being removed for the sake of an earlier update, whose write to the cache failed; the removal has not run
 * yet, or, with NEAR_FAULT_HOLD_REPLIES, has run and not returned. */
static void begin_removal(struct place *p, enum near__memory_fault fault)
{
    behind(p, 0);
    assert_int_equal(put(p, "k", "older"), NEAR_OK);
    flush(p);
    near__memory_fault(p->memory, fault, NEAR_OP_DEL, -1);
    near__memory_error(p->memory, NEAR_OP_SET, NEAR_ERR_FULL, 1);
    assert_int_equal(put(p, "k", "old"), NEAR_PENDING);
    assert_int_equal(near__memory_wait_held(p->memory, fault, 1, PATIENCE_MS), 0);
    assert_true(wait_until(stats_of(p).source_queued == 0, PATIENCE_MS));
    assert_string_equal(stored(&p->table, "k"), "old");
}

/* With an update queued whose value was in the cache before the removal ran. */
static void remove_behind_a_later_write(struct place *p)
{
    begin_removal(p, NEAR_FAULT_HOLD_REQUESTS);
    atomic_store(&p->table.hold, 1);
    assert_int_equal(put(p, "k", "new"), NEAR_OK);
    assert_string_equal(on_server(p, "k"), "new");
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, 0, 0);
    assert_true(wait_until(stats_of(p).source_forgetting == 0, PATIENCE_MS));
    assert_string_equal(on_server(p, "k"), "(none)");
}

static void load_old_and_store(struct place *p)
{
    assert_int_equal(near_set(p->other, "k", 1, "old", 3, NULL, NULL), NEAR_OK);
    atomic_store(&p->table.hold, 0);
    flush(p);
    assert_string_equal(stored(&p->table, "k"), "new");
    assert_string_equal(on_server(p, "k"), "(none)");
}

static void test_behind_queued_while_its_key_is_removed_and_forgotten_again_after_the_store(void **state)
{
    struct place *p = *state;
    remove_behind_a_later_write(p);
    load_old_and_store(p);
}

static void test_behind_stored_while_its_key_is_removed_and_forgotten_again(void **state)
{
    struct place *p = *state;
    begin_removal(p, NEAR_FAULT_HOLD_REPLIES);
    assert_string_equal(on_server(p, "k"), "(none)");
    atomic_store(&p->table.hold, 1);
    assert_int_equal(put(p, "k", "new"), NEAR_OK);
    /* as one that was loaded between removal and write, and is refused by no lease */
    assert_int_equal(near_set(p->other, "k", 1, "old", 3, NULL, NULL), NEAR_OK);
    atomic_store(&p->table.hold, 0);
    assert_true(wait_until(stats_of(p).source_queued == 0, PATIENCE_MS));
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, 0, 0);
    flush(p);
    assert_string_equal(stored(&p->table, "k"), "new");
    assert_string_equal(on_server(p, "k"), "(none)");
}

/* A value that comes to the cache when the removal is over stays: or each removal would be a reason for another one as
 * long as somebody writes. */
static void test_behind_written_after_its_key_was_removed_and_stays(void **state)
{
    struct place *p = *state;
    remove_behind_a_later_write(p);
    assert_int_equal(put(p, "k", "newer"), NEAR_OK);
    atomic_store(&p->table.hold, 0);
    flush(p);
    assert_string_equal(stored(&p->table, "k"), "newer");
    assert_string_equal(on_server(p, "k"), "newer");
}

/* The removal comes between the value's arrival in the cache and the end of its write. */
static void test_behind_removed_before_its_writer_is_back_and_forgotten_again_after_the_store(void **state)
{
    struct place *p = *state;
    pthread_t writer;
    begin_removal(p, NEAR_FAULT_HOLD_REQUESTS);
    atomic_store(&p->table.hold, 1);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_SET, -1);
    assert_int_equal(pthread_create(&writer, NULL, put_new_main, p), 0);
    assert_int_equal(near__memory_wait_held(p->memory, NEAR_FAULT_HOLD_REPLIES, 1, PATIENCE_MS), 0);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, 0, 0);
    assert_true(wait_until(stats_of(p).source_forgetting == 0, PATIENCE_MS));
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, 0, 0);
    pthread_join(writer, NULL);
    load_old_and_store(p);
}

/* An update whose key was removed while it was queued is stored while its next value is on its way back from the cache:
 * nothing is removed for the old one's sake, or for a key that is always being written each removal would be a reason
 * for the next. */
static void test_behind_stored_while_its_next_value_arrives_and_that_stays(void **state)
{
    struct place *p = *state;
    struct writer w;
    remove_behind_a_later_write(p);
    uint64_t forgotten = stats_of(p).source_forgotten;
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_SET, -1);
    writer_start(&w, p, "k", "newer", 0);
    assert_int_equal(near__memory_wait_held(p->memory, NEAR_FAULT_HOLD_REPLIES, 1, PATIENCE_MS), 0);
    atomic_store(&p->table.hold, 0);
    assert_true(wait_until(stats_of(p).source_queued == 0, PATIENCE_MS));
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, 0, 0);
    assert_int_equal(writer_end(&w), NEAR_OK);
    flush(p);
    assert_string_equal(stored(&p->table, "k"), "newer");
    assert_string_equal(on_server(p, "k"), "newer");
    assert_int_equal(stats_of(p).source_forgotten, forgotten);
}

/* The next value's writer is back, but its key was removed meanwhile: it may be another one that is there. */
static void test_behind_stored_while_its_next_value_is_removed_and_forgotten_after_that(void **state)
{
    struct place *p = *state;
    struct writer w;
    begin_removal(p, NEAR_FAULT_HOLD_REQUESTS);
    atomic_store(&p->table.hold, 1);
    assert_int_equal(put(p, "k", "new"), NEAR_OK);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_SET, -1);
    writer_start(&w, p, "k", "newer", 0);
    assert_int_equal(near__memory_wait_held(p->memory, NEAR_FAULT_HOLD_REPLIES, 1, PATIENCE_MS), 0);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, 0, 0);
    assert_true(wait_until(stats_of(p).source_forgetting == 0, PATIENCE_MS));
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_SET, 0);
    assert_int_equal(near_set(p->other, "k", 1, "old", 3, NULL, NULL), NEAR_OK);
    atomic_store(&p->table.hold, 0);
    assert_true(wait_until(stats_of(p).source_queued == 0, PATIENCE_MS));
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, 0, 0);
    assert_int_equal(writer_end(&w), NEAR_OK);
    flush(p);
    assert_string_equal(stored(&p->table, "k"), "newer");
    assert_string_equal(on_server(p, "k"), "(none)");
}

/* The remote tier loses everything, which is noticed, and somebody loads what the source still has. */
static void lose_and_load_old(struct place *p)
{
    uint64_t suspicions = stats_of(p).suspicions;
    near__memory_flushall(p->memory);
    assert_int_equal(near_set(p->other, "k", 1, "old", 3, NULL, NULL), NEAR_OK);
    assert_true(wait_until(stats_of(p).suspicions > suspicions, PATIENCE_MS));
}

static void require_that_it_is_forgotten(struct place *p)
{
    assert_true(wait_until(strcmp(on_server(p, "k"), "(none)") == 0, PATIENCE_MS));
    assert_string_equal(stored(&p->table, "k"), "new");
    assert_true(wait_until(strcmp(read_from(p->other, "k"), "NEAR_MISS") == 0, PATIENCE_MS));
}

/* That is noticed while the update is queued. */
static void test_behind_lost_by_the_remote_tier_and_forgotten_after_the_store(void **state)
{
    struct place *p = *state;
    behind(p, 0);
    atomic_store(&p->table.away, NEAR_ERR_UNAVAILABLE);
    assert_int_equal(put(p, "k", "new"), NEAR_OK);
    lose_and_load_old(p);
    unsigned calls = atomic_load(&p->table.calls);
    assert_true(wait_until(atomic_load(&p->table.calls) > calls + 1, PATIENCE_MS)); /* it has looked in between */
    assert_string_equal(on_server(p, "k"), "old");
    atomic_store(&p->table.away, 0);
    flush(p);
    require_that_it_is_forgotten(p);
}

/* The cache loses everything while a writer waits for room in the queue.  His value comes there later, and to its end
 * before the source has it. */
static void test_behind_over_though_its_key_was_lost_before_it_was_queued(void **state)
{
    struct place *p = *state;
    pthread_t writer;
    p->options.queue_max = 1;
    behind(p, 0);
    atomic_store(&p->table.away, NEAR_ERR_UNAVAILABLE);
    assert_int_equal(put(p, "other", "1"), NEAR_OK);
    assert_int_equal(pthread_create(&writer, NULL, put_briefly_main, p), 0);
    usleep(20000); /* or he comes when it is known already, and nothing is to be seen */
    lose_and_load_old(p);
    unsigned calls = atomic_load(&p->table.calls);
    assert_true(wait_until(atomic_load(&p->table.calls) > calls + 1, PATIENCE_MS)); /* it has looked in between */
    strcpy(p->table.refused, "k");
    atomic_store(&p->table.refusal, NEAR_ERR_UNAVAILABLE);
    atomic_store(&p->table.away, 0);
    pthread_join(writer, NULL);
    assert_true(wait_until(strcmp(on_server(p, "k"), "(none)") == 0, PATIENCE_MS));
    assert_int_equal(near_set(p->other, "k", 1, "old", 3, NULL, NULL), NEAR_OK);
    atomic_store(&p->table.refusal, 0);
    flush(p);
    assert_string_equal(stored(&p->table, "k"), "new");
    assert_string_equal(on_server(p, "k"), "(none)");
}

/* It is not noticed before k and so many other keys have been stored. */
static void lose_before_it_is_stored(struct place *p, const char *name, int others)
{
    char key[32];
    behind(p, 0);
    atomic_store(&p->table.hold, 1);
    assert_int_equal(put(p, "k", "new"), NEAR_OK);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, NEAR_OP_PROVE, -1);
    near__memory_flushall(p->memory);
    near__memory_foreign_set(p->memory, name, strlen(name), "old", 3);
    near__memory_foreign_set(p->memory, "p:other", 7, "x", 1);
    atomic_store(&p->table.hold, 0);
    for (int i = 0; i < others; i++) {
        snprintf(key, sizeof key, "%d", i);
        assert_int_equal(put(p, key, "new"), NEAR_OK);
    }
    flush(p);
}

/* The same when it is noticed only then. */
static void lost_before_it_is_stored(struct place *p, const char *name, int others)
{
    lose_before_it_is_stored(p, name, others);
    assert_string_equal(on_server(p, name), "old");
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, 0, 0);
    assert_true(wait_until(strcmp(on_server(p, name), "(none)") == 0, PATIENCE_MS));
}
static void test_behind_lost_and_stored_before_that_is_known_and_forgotten_then(void **state)
{
    struct place *p = *state;
    lost_before_it_is_stored(p, "k", 0);
    require_that_it_is_forgotten(p);
}
/* And whoever flushes when it is known finds it done. */
static void test_behind_flush_waits_for_what_a_loss_that_is_known_makes_forgotten(void **state)
{
    struct place *p = *state;
    lose_before_it_is_stored(p, "k", 0);
    uint64_t proofs = stats_of(p).proofs;
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, 0, 0);
    assert_true(wait_until(stats_of(p).proofs > proofs, PATIENCE_MS));
    flush(p);
    assert_string_equal(on_server(p, "k"), "(none)");
}
/* Of more than may be kept in mind everything is, as a key tells that is none of theirs. */
static void test_behind_lost_and_much_stored_before_that_is_known_and_everything_forgotten(void **state)
{
    struct place *p = *state;
    p->options.queue_bytes = 4096;
    p->options.store = store_anything;
    use_prefix(p, "p:");
    lost_before_it_is_stored(p, "p:k", 20);
    assert_true(wait_until(strcmp(on_server(p, "p:other"), "(none)") == 0, PATIENCE_MS));
    back_to_usual(p);
}

/* Where nobody can tell the cache's keys from others, so that not all of them can be, the oldest are at once. */
static void test_behind_lost_without_a_prefix_and_more_stored_than_is_kept_in_mind_and_forgotten(void **state)
{
    struct place *p = *state;
    p->options.queue_bytes = 4096;
    lose_before_it_is_stored(p, "k", 20);
    require_that_it_is_forgotten(p);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, 0, 0);
}

struct flusher {
    near_source *source;
    int status;
    _Atomic(int) is_done;
};
static void *flush_main(void *arg)
{
    struct flusher *f = arg;
    f->status = near_source_flush(f->source, 10000);
    atomic_store(&f->is_done, 1);
    return NULL;
}

/* A key that is to be forgotten anew each time before its removal is back: whoever flushes waits for what was there
 * when he came, and not for an end. */
static void test_behind_flush_waits_for_no_more_than_there_was(void **state)
{
    struct place *p = *state;
    pthread_t thread;
    behind(p, 0);
    struct flusher flusher = {.source = p->source};
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_DEL, -1);
    near__memory_error(p->memory, NEAR_OP_SET, NEAR_ERR_FULL, INT_MAX);
    assert_int_equal(put(p, "k", "new"), NEAR_PENDING);
    assert_int_equal(pthread_create(&thread, NULL, flush_main, &flusher), 0);
    while (!atomic_load(&flusher.is_done)) {
        assert_int_equal(near__memory_wait_held(p->memory, NEAR_FAULT_HOLD_REPLIES, 1, PATIENCE_MS), 0);
        uint64_t removed = near__memory_requests(p->memory, NEAR_OP_DEL);
        assert_int_equal(put(p, "k", "new"), NEAR_PENDING);
        near__memory_release_one(p->memory, NEAR_FAULT_HOLD_REPLIES);
        assert_true(wait_until(near__memory_requests(p->memory, NEAR_OP_DEL) > removed, PATIENCE_MS));
    }
    pthread_join(thread, NULL);
    assert_int_equal(flusher.status, NEAR_OK);
    assert_true(stats_of(p).source_forgetting > 0);
    near__memory_error(p->memory, NEAR_OP_SET, NEAR_OK, 0);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, 0, 0);
}

static void *delete_main(void *arg)
{
    struct place *p = arg;
    assert_int_equal(near_source_del(p->source, "k", 1, NULL), NEAR_OK);
    return NULL;
}

/* A removal's update is stored while he who asked for it waits for the cache: what was loaded in between goes when he
 * is back. */
static void test_behind_stored_while_its_removal_arrives_and_forgotten_after_that(void **state)
{
    struct place *p = *state;
    pthread_t deleter;
    behind(p, 0);
    atomic_store(&p->table.hold, 1);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_DEL, -1);
    assert_int_equal(pthread_create(&deleter, NULL, delete_main, p), 0);
    assert_int_equal(near__memory_wait_held(p->memory, NEAR_FAULT_HOLD_REPLIES, 1, PATIENCE_MS), 0);
    assert_int_equal(near_set(p->other, "k", 1, "old", 3, NULL, NULL), NEAR_OK);
    atomic_store(&p->table.hold, 0);
    assert_true(wait_until(stats_of(p).source_queued == 0, PATIENCE_MS));
    assert_string_equal(on_server(p, "k"), "old");
    assert_int_equal(near_source_flush(p->source, 20), NEAR_ERR_TIMEOUT); /* as long as that is there */
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, 0, 0);
    pthread_join(deleter, NULL);
    flush(p);
    assert_string_equal(stored(&p->table, "k"), "(gone)");
    assert_string_equal(on_server(p, "k"), "(none)");
}

/* Keeps no rows: there may be any number of keys. */
static int store_all_but_one(void *arg, near_update *updates, size_t count, uint32_t timeout_ms)
{
    struct table *t = arg;
    (void)timeout_ms;
    while (atomic_load(&t->hold))
        wait_a_moment();
    for (size_t i = 0; i < count; i++)
        if (updates[i].key_size == strlen(t->refused) && memcmp(updates[i].key, t->refused, updates[i].key_size) == 0)
            updates[i].status = atomic_load(&t->refusal);
    return NEAR_OK;
}

/* The list is full, so that everything is forgotten for the sake of a rejected update; and a second time for another
 * key's, which is asked for later.  His own comes after both: the rejected update's writer arrives when the second has
 * run. */
static void test_behind_rejected_while_everything_is_forgotten_and_so_is_its_key(void **state)
{
    struct place *p = *state;
    struct writer w;
    use_prefix(p, "p:");
    p->options.store = store_all_but_one;
    strcpy(p->table.refused, "k");
    p->options.dead_letter = bury;
    p->options.dead_letter_arg = &p->table;
    behind(p, 0);
    put_many_that_are_pending(p);
    assert_int_equal(stats_of(p).source_forgetting, MANY);
    near__memory_error(p->memory, NEAR_OP_SET, NEAR_OK, 0);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_CLEAR, -1);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, NEAR_OP_SET, -1);
    atomic_store(&p->table.refusal, NEAR_ERR_REJECTED);
    writer_start(&w, p, "k", "new", 0);
    assert_int_equal(near__memory_wait_held(p->memory, NEAR_FAULT_HOLD_REPLIES, 1, PATIENCE_MS), 0);
    assert_int_equal(atomic_load(&p->table.dead), 1);
    assert_int_equal(near_source_del(p->source, "z", 1, NULL), NEAR_PENDING); /* another key, a higher number */
    uint64_t cleared = near__memory_requests(p->memory, NEAR_OP_CLEAR);
    near__memory_release_one(p->memory, NEAR_FAULT_HOLD_REPLIES);
    assert_true(wait_until(near__memory_requests(p->memory, NEAR_OP_CLEAR) > cleared, PATIENCE_MS));
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, 0, 0);
    assert_int_equal(writer_end(&w), NEAR_OK);
    assert_string_equal(on_server(p, "p:k"), "new");
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, 0, 0);
    near__memory_error(p->memory, NEAR_OP_DEL, NEAR_OK, 0);
    flush(p);
    assert_string_equal(on_server(p, "p:k"), "(none)");
    back_to_usual(p);
}

/* Everything is forgotten when a writer's value has come to the cache, and another process loads what the source had;
 * that everything has been is heard only when the update has been stored and its writer is back. */
static void test_behind_stored_while_everything_is_forgotten_and_so_is_its_key_again(void **state)
{
    struct place *p = *state;
    struct writer w;
    use_prefix(p, "p:");
    p->options.store = store_all_but_one;
    strcpy(p->table.refused, "z");
    atomic_store(&p->table.refusal, NEAR_ERR_UNAVAILABLE);
    behind(p, 0);
    put_many_that_are_pending(p);
    assert_true(wait_until(stats_of(p).source_queued == 0, PATIENCE_MS));
    near__memory_error(p->memory, NEAR_OP_SET, NEAR_OK, 0);
    atomic_store(&p->table.hold, 1);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_SET, -1);
    writer_start(&w, p, "k", "new", 0);
    assert_int_equal(near__memory_wait_held(p->memory, NEAR_FAULT_HOLD_REPLIES, 1, PATIENCE_MS), 0);
    assert_string_equal(on_server(p, "p:k"), "new");
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_CLEAR, -1);
    assert_int_equal(near_source_del(p->source, "z", 1, NULL), NEAR_PENDING); /* one key more than the list takes */
    assert_int_equal(near__memory_wait_held(p->memory, NEAR_FAULT_HOLD_REPLIES, 2, PATIENCE_MS), 0);
    assert_string_equal(on_server(p, "p:k"), "(none)");
    near__memory_foreign_set(p->memory, "p:k", 3, "old", 3);
    atomic_store(&p->table.hold, 0);
    assert_true(wait_until(stats_of(p).source_queued == 1, PATIENCE_MS)); /* that one would call for everything anew */
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_SET, 0);
    assert_int_equal(writer_end(&w), NEAR_OK);
    near__memory_error(p->memory, NEAR_OP_DEL, NEAR_OK, 0);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, 0, 0);
    assert_true(wait_until(stats_of(p).source_forgetting == 0, PATIENCE_MS));
    assert_string_equal(on_server(p, "p:k"), "(none)");
    atomic_store(&p->table.refusal, NEAR_OK);
    back_to_usual(p);
}

static void test_behind_close_keeps_what_is_only_in_memory_unless_told(void **state)
{
    struct place *p = *state;
    behind(p, 0);
    atomic_store(&p->table.away, NEAR_ERR_UNAVAILABLE);
    assert_int_equal(put(p, "k", "1"), NEAR_OK);
    assert_int_equal(near_source_close(p->source, 20, 0), NEAR_ERR_TIMEOUT);
    assert_int_equal(put(p, "k", "2"), NEAR_OK); /* still open */
    assert_int_equal(near_source_close(p->source, 20, NEAR_SOURCE_DISCARD), NEAR_ERR_TIMEOUT);
    p->source = NULL;
    assert_string_equal(stored(&p->table, "k"), "(none)");
}

/* ---------------------------------------------------------------- journal */

static void reopen(struct place *p)
{
    atomic_store(&p->table.away, NEAR_ERR_UNAVAILABLE);
    assert_int_equal(near_source_close(p->source, 20, 0), NEAR_PENDING);
    open_source(p);
}

static void test_journal_gives_back_what_was_not_stored(void **state)
{
    struct place *p = *state;
    behind(p, 1);
    assert_int_equal(put(p, "stored", "1"), NEAR_OK);
    flush(p);
    atomic_store(&p->table.away, NEAR_ERR_UNAVAILABLE);
    assert_int_equal(put(p, "k", "1"), NEAR_OK);
    assert_int_equal(put(p, "k", "2"), NEAR_OK);
    assert_int_equal(near_source_del(p->source, "gone", 4, NULL), NEAR_OK);
    reopen(p);
    assert_int_equal(stats_of(p).source_queued, 2);
    unsigned updates = atomic_load(&p->table.updates);
    atomic_store(&p->table.away, 0);
    flush(p);
    assert_string_equal(stored(&p->table, "k"), "2");
    assert_string_equal(stored(&p->table, "gone"), "(gone)");
    assert_int_equal(atomic_load(&p->table.updates), updates + 2);
    assert_int_equal(atomic_load(&p->table.backwards), 0);
    assert_string_equal(on_server(p, "k"), "(none)"); /* nobody knows whether the cache ever got it */
}

static void *close_main(void *arg)
{
    struct place *p = arg;
    assert_int_equal(near_source_close(p->source, 20, 0), NEAR_PENDING);
    return NULL;
}

/* What the store takes while the source is being closed is stored, but its key is not forgotten: the next open sees to
 * both. */
static void not_forgotten_at_close(struct place *p, size_t size)
{
    static char value[3 << 19];
    pthread_t closer;
    snprintf(value, sizeof value, "new");
    behind(p, 1);
    atomic_store(&p->table.away, NEAR_ERR_UNAVAILABLE);
    for (int i = 0; i < 3; i++)
        assert_int_equal(near_source_set(p->source, "k", 1, value, size, NULL, NULL), NEAR_OK);
    close_main(p);
    assert_int_equal(near_set(p->other, "k", 1, "old", 3, NULL, NULL), NEAR_OK);
    near__memory_error(p->memory, NEAR_OP_DEL, NEAR_ERR_UNAVAILABLE, INT_MAX);
    atomic_store(&p->table.hold, 1);
    atomic_store(&p->table.away, 0);
    open_source(p); /* nobody knows whether the cache ever got it */
    assert_true(wait_until(atomic_load(&p->table.holding) == 1, PATIENCE_MS));
    assert_int_equal(pthread_create(&closer, NULL, close_main, p), 0);
    assert_true(wait_until(stats_of(p).source_queued == 0, PATIENCE_MS)); /* it is hidden: closing is decided */
    atomic_store(&p->table.hold, 0);
    pthread_join(closer, NULL);
    assert_string_equal(stored(&p->table, "k"), "new");
    near__memory_error(p->memory, NEAR_OP_DEL, NEAR_OK, 0);
    open_source(p);
    flush(p);
    assert_string_equal(on_server(p, "k"), "(none)");
}
static void test_journal_has_what_is_not_forgotten_at_close(void **state)
{
    not_forgotten_at_close(*state, strlen("new"));
}
/* As large as that it would be rewritten as soon as nothing is queued. */
static void test_large_journal_has_what_is_not_forgotten_at_close(void **state)
{
    not_forgotten_at_close(*state, 3 << 19);
}

/* Stored, not forgotten: the next open forgets, and does not store again. */
static void test_journal_has_what_is_stored_and_not_forgotten(void **state)
{
    struct place *p = *state;
    behind(p, 1);
    assert_int_equal(put(p, "k", "old"), NEAR_OK);
    near__memory_error(p->memory, NEAR_OP_SET, NEAR_ERR_FULL, 1);
    near__memory_error(p->memory, NEAR_OP_DEL, NEAR_ERR_UNAVAILABLE, INT_MAX);
    assert_int_equal(put(p, "k", "new"), NEAR_PENDING);
    assert_true(wait_until(stats_of(p).source_queued == 0, PATIENCE_MS));
    unsigned updates = atomic_load(&p->table.updates);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(near_source_close(p->source, 20, 0), NEAR_PENDING);
        assert_string_equal(on_server(p, "k"), "old");
        open_source(p);
        assert_int_equal(stats_of(p).source_forgetting, 1);
    }
    near__memory_error(p->memory, NEAR_OP_DEL, NEAR_OK, 0);
    flush(p);
    assert_string_equal(on_server(p, "k"), "(none)");
    assert_int_equal(near_source_close(p->source, PATIENCE_MS, 0), NEAR_OK);
    assert_int_equal(near_set(p->other, "k", 1, "new", 3, NULL, NULL), NEAR_OK);
    open_source(p); /* forgotten is forgotten */
    flush(p);
    assert_string_equal(on_server(p, "k"), "new");
    assert_int_equal(atomic_load(&p->table.updates), updates);
}

/* Of a process that was killed with that journal, and left its value of k in the cache. */
static void require_that_the_next_process_forgets(struct place *p, const char *killed)
{
    assert_int_equal(near_source_close(p->source, PATIENCE_MS, 0), NEAR_OK);
    p->source = NULL;
    assert_int_equal(near_set(p->other, "k", 1, "new", 3, NULL, NULL), NEAR_OK);
    p->options.journal = killed;
    open_source(p);
    flush(p);
    assert_string_equal(on_server(p, "k"), "(none)");
    unlink(killed);
}

/* The source has an update whose writer still waits for the remote tier: the journal as a kill would leave it now makes
 * the next process forget the key; once the writer is back nobody has to. */
static void test_journal_has_what_is_stored_before_the_cache_has_it(void **state)
{
    struct place *p = *state;
    char killed[112];
    pthread_t writer;
    behind(p, 1);
    assert_int_equal(put(p, "k", "old"), NEAR_OK);
    flush(p);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, NEAR_OP_SET, -1);
    assert_int_equal(pthread_create(&writer, NULL, put_new_main, p), 0);
    assert_true(wait_until(strcmp(stored(&p->table, "k"), "new") == 0, PATIENCE_MS));
    assert_int_equal(near_source_del(p->source, "next", 4, NULL),
                     NEAR_OK); /* its batch begins when that one is noted */
    assert_true(wait_until(strcmp(stored(&p->table, "next"), "(gone)") == 0, PATIENCE_MS));
    snprintf(killed, sizeof killed, "%s.killed", p->journal);
    copy_file(p->journal, killed);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, 0, 0);
    pthread_join(writer, NULL);
    assert_int_equal(near_source_close(p->source, PATIENCE_MS, 0), NEAR_OK);
    open_source(p);
    flush(p);
    assert_string_equal(on_server(p, "k"), "new");
    require_that_the_next_process_forgets(p, killed);
}

static void test_journal_has_what_is_rejected_before_the_cache_has_it(void **state)
{
    struct place *p = *state;
    char killed[112];
    snprintf(killed, sizeof killed, "%s.killed", p->journal);
    behind(p, 1);
    pthread_t writer = begin_rejected(p);
    copy_file(p->journal, killed);
    end_rejected(p, writer);
    require_that_the_next_process_forgets(p, killed);
}

/* And when the key is forgotten meanwhile for another's sake: an earlier update, which the cache has lost. */
static void test_journal_has_what_is_rejected_before_the_cache_has_it_and_lost(void **state)
{
    struct place *p = *state;
    char killed[112];
    snprintf(killed, sizeof killed, "%s.killed", p->journal);
    p->options.dead_letter = bury;
    p->options.dead_letter_arg = &p->table;
    behind(p, 1);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, NEAR_OP_PROVE, -1);
    pthread_t writer = begin_rejected(p);
    uint64_t forgotten = stats_of(p).source_forgotten;
    near__memory_flushall(p->memory);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, NEAR_OP_PROVE, 0);
    assert_true(wait_until(stats_of(p).source_forgotten > forgotten, PATIENCE_MS));
    copy_file(p->journal, killed);
    end_rejected(p, writer);
    require_that_the_next_process_forgets(p, killed);
}

/* A key is still to be forgotten, since the cache has lost it, when its writer is back; and his note is younger than
 * that, since everything was cleared in between.  Its end is not the end of the other. */
static void test_journal_has_what_is_lost_before_its_writer_is_back(void **state)
{
    struct place *p = *state;
    char killed[112];
    pthread_t writer;
    snprintf(killed, sizeof killed, "%s.killed", p->journal);
    behind(p, 1);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, NEAR_OP_PROVE, -1);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_SET, 1);
    near__memory_error(p->memory, NEAR_OP_DEL, NEAR_ERR_UNAVAILABLE, INT_MAX);
    assert_int_equal(pthread_create(&writer, NULL, put_new_main, p), 0);
    assert_int_equal(near__memory_wait_held(p->memory, NEAR_FAULT_HOLD_REPLIES, 1, PATIENCE_MS), 0);
    assert_true(wait_until(stats_of(p).source_queued == 0, PATIENCE_MS));
    near__memory_flushall(p->memory);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, 0, 0);
    assert_true(wait_until(stats_of(p).source_forgetting == 1, PATIENCE_MS));
    assert_int_equal(near_clear(p->cache, 0, NULL, NULL), NEAR_OK);
    assert_int_equal(put(p, "other", "1"), NEAR_OK);
    assert_true(wait_until(stats_of(p).source_queued == 0, PATIENCE_MS)); /* it has looked in between */
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, 0, 0);
    pthread_join(writer, NULL);
    copy_file(p->journal, killed);
    near__memory_error(p->memory, NEAR_OP_DEL, NEAR_OK, 0);
    require_that_the_next_process_forgets(p, killed);
}

/* And when everything else is forgotten meanwhile, which ends all notes about keys that were written before. */
static void test_journal_has_what_is_stored_while_everything_is_forgotten(void **state)
{
    struct place *p = *state;
    char killed[112], new[112];
    struct writer w;
    use_prefix(p, "p:");
    p->options.store = store_anything;
    behind(p, 1);
    snprintf(new, sizeof new, "%s.new", p->journal);
    assert_int_equal(mkdir(new, 0700), 0); /* or a rewritten file would have the notes in another order */
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, NEAR_OP_SET, 1);
    writer_start(&w, p, "k", "new", 0);
    assert_int_equal(near__memory_wait_held(p->memory, NEAR_FAULT_HOLD_REQUESTS, 1, PATIENCE_MS), 0);
    assert_true(wait_until(stats_of(p).source_queued == 0, PATIENCE_MS));
    put_many_that_are_pending(p);
    assert_int_equal(put(p, "one more", "new"), NEAR_PENDING);
    assert_true(wait_until(stats_of(p).source_forgotten > 0, PATIENCE_MS)); /* no key is, so everything */
    snprintf(killed, sizeof killed, "%s.killed", p->journal);
    copy_file(p->journal, killed);
    assert_int_equal(rmdir(new), 0);
    near__memory_error(p->memory, NEAR_OP_SET, NEAR_OK, 0);
    near__memory_error(p->memory, NEAR_OP_DEL, NEAR_OK, 0);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REQUESTS, 0, 0);
    assert_int_equal(writer_end(&w), NEAR_OK);
    assert_int_equal(near_source_close(p->source, PATIENCE_MS, 0), NEAR_OK);
    assert_string_equal(on_server(p, "p:k"), "new");
    p->options.journal = killed;
    open_source(p);
    flush(p);
    assert_string_equal(on_server(p, "p:k"), "(none)");
    back_to_usual(p);
    unlink(killed);
}

/* A log function that takes as long as it is told to. */
struct slow_listener {
    _Atomic(int) hold, inside;
};
static void hold_when_told(void *arg, int level, const char *component, const char *text)
{
    struct slow_listener *l = arg;
    (void)level, (void)component;
    if (!strstr(text, "journal"))
        return;
    atomic_store(&l->inside, 1);
    while (atomic_load(&l->hold))
        wait_a_moment();
}

/* While a writer who leaves tells that the journal has failed, the next one comes, whose write to the cache fails: that
 * its key is to be forgotten after the store is not undone by the first one's success. */
static void test_journal_fails_as_a_writer_leaves_and_a_later_update_is_forgotten_all_the_same(void **state)
{
    struct place *p = *state;
    enum { HEADER = 40, RECORDS = HEADER + 4 + HEADER + 1 + HEADER + 1 }; /* k and new, to be forgotten, stored */
    struct slow_listener listener = {.hold = 1};
    struct rlimit before;
    struct writer first;
    near_options options = options_of(p);
    options.log = hold_when_told;
    options.log_arg = &listener;
    options.log_level = 4;
    use_cache_with(p, &options);
    behind(p, 1);
    uint64_t bytes = stats_of(p).source_journal_bytes + RECORDS;
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_SET, 1);
    writer_start(&first, p, "k", "new", 0);
    assert_true(wait_until(stats_of(p).source_journal_bytes == bytes, PATIENCE_MS));
    before = limit_files(1);
    near__memory_fault(p->memory, NEAR_FAULT_HOLD_REPLIES, 0, 0);
    assert_true(wait_until(atomic_load(&listener.inside), PATIENCE_MS));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    atomic_store(&p->table.hold, 1);
    near__memory_error(p->memory, NEAR_OP_SET, NEAR_ERR_FULL, 1);
    assert_int_equal(put(p, "k", "newer"), NEAR_PENDING);
    assert_true(wait_until(strcmp(on_server(p, "k"), "(none)") == 0, PATIENCE_MS));
    atomic_store(&listener.hold, 0);
    assert_int_equal(writer_end(&first), NEAR_OK);
    assert_true(wait_until(stats_of(p).source_forgetting == 0, PATIENCE_MS));
    assert_int_equal(near_set(p->other, "k", 1, "new", 3, NULL, NULL), NEAR_OK);
    atomic_store(&p->table.hold, 0);
    flush(p);
    assert_string_equal(stored(&p->table, "k"), "newer");
    assert_string_equal(on_server(p, "k"), "(none)");
    back_to_usual(p);
}

/* A removal that has happened is about what was noted before it, wherever a rewritten file has that. */
static void test_journal_forgets_the_latest_of_a_key_s_notes(void **state)
{
    struct place *p = *state;
    static const struct near__journal_record records[] = {
        {.type = NEAR_RECORD_FORGET, .sequence = 5, .key = "k", .key_size = 1},
        {.type = NEAR_RECORD_FORGET, .sequence = 3, .key = "k", .key_size = 1},
        {.type = NEAR_RECORD_FORGOTTEN, .sequence = 3, .key = "k", .key_size = 1},
        {.type = NEAR_RECORD_FORGET_ALL, .sequence = 6},
        {.type = NEAR_RECORD_FORGET_ALL, .sequence = 4},
        {.type = NEAR_RECORD_FORGOTTEN_ALL, .sequence = 4},
    };
    struct near__alloc alloc;
    struct near__journal *journal;
    struct near__log log = {.fn = NULL};
    near__alloc_init(&alloc, NULL);
    assert_int_equal(near__journal_open(&alloc, &log, p->journal, 0, NULL, NULL, &journal, NULL), NEAR_OK);
    for (size_t i = 0; i < sizeof records / sizeof records[0]; i++)
        near__journal_add(journal, &records[i]);
    assert_int_equal(near__journal_commit(journal), NEAR_OK);
    near__journal_close(journal);
    near__memory_error(p->memory, 0, NEAR_ERR_UNAVAILABLE, INT_MAX);
    behind(p, 1);
    assert_int_equal(stats_of(p).source_forgetting, 2);
    near__memory_error(p->memory, 0, NEAR_OK, 0);
}

static long long size_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (long long)st.st_size : -1;
}

static void overwrite(const char *path, off_t at, const void *bytes, size_t size)
{
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, bytes, size, at), size);
    close(fd);
}

static void fill_and_close(struct place *p)
{
    char key[16];
    behind(p, 1);
    atomic_store(&p->table.away, NEAR_ERR_UNAVAILABLE);
    for (int i = 0; i < 10; i++) {
        snprintf(key, sizeof key, "key%d", i);
        assert_int_equal(put(p, key, "value"), NEAR_OK);
    }
    assert_int_equal(near_source_close(p->source, 20, 0), NEAR_PENDING);
    p->source = NULL;
}

enum { RECORD = 40 + 4 + 5 };

/* Every length that the file can have been torn to: what was whole is there, nothing else is. */
static void test_journal_torn_anywhere_keeps_every_whole_record(void **state)
{
    struct place *p = *state;
    fill_and_close(p);
    long long whole = size_of(p->journal);
    assert_int_equal(whole, 32 + 10 * RECORD);
    for (long long size = whole - 1; size >= 0; size -= size > 2 * RECORD ? 7 : 1) {
        assert_int_equal(truncate(p->journal, size), 0);
        atomic_store(&p->table.away, NEAR_ERR_UNAVAILABLE);
        open_source(p);
        long long records = size < 32 ? 0 : (size - 32) / RECORD;
        assert_int_equal(stats_of(p).source_queued, records);
        int status = near_source_close(p->source, 1, 0);
        assert_int_equal(status, records ? NEAR_PENDING : NEAR_OK);
        p->source = NULL;
    }
    atomic_store(&p->table.away, 0);
}

/* A path that names something else by mistake, something small. */
static void test_J_journal_leaves_a_short_foreign_file_alone(void **state)
{
    static const char note[] = "not ours\n";
    struct place *p = *state;
    near_error error = {0};
    char left[64] = "";
    int fd = open(p->journal, O_RDWR | O_CREAT, 0600);
    assert_int_equal(write(fd, note, strlen(note)), strlen(note));
    p->options.flags = NEAR_SOURCE_BEHIND;
    p->options.journal = p->journal;
    assert_int_equal(near_source_open(p->cache, &p->options, &p->source, &error), NEAR_ERR_JOURNAL);
    p->source = NULL;
    assert_non_null(strstr(error.text, "no journal"));
    assert_int_equal(pread(fd, left, sizeof left - 1, 0), strlen(note));
    assert_string_equal(left, note);
    close(fd);
}

/* A crash may have left the file's length and none of its bytes; or somebody has kept room for it. */
static void test_journal_that_is_nothing_but_zeros_is_begun_anew(void **state)
{
    static const off_t sizes[] = {32, 33, 4096, 1000000};
    struct place *p = *state;
    near_error error = {0};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int fd = open(p->journal, O_RDWR | O_CREAT | O_TRUNC, 0600);
        assert_int_equal(ftruncate(fd, sizes[i]), 0);
        close(fd);
        atomic_store(&p->table.away, NEAR_ERR_UNAVAILABLE);
        behind(p, 1);
        assert_int_equal(stats_of(p).source_queued, 0);
        assert_int_equal(put(p, "k", "1"), NEAR_OK);
        reopen(p);
        assert_int_equal(stats_of(p).source_queued, 1);
        atomic_store(&p->table.away, 0);
        flush(p);
        assert_int_equal(near_source_close(p->source, PATIENCE_MS, 0), NEAR_OK);
        p->source = NULL;
    }
    assert_int_equal(truncate(p->journal, 0), 0);
    overwrite(p->journal, 1000000, "x", 1); /* that is somebody's, or was a journal with something in it */
    assert_int_equal(near_source_open(p->cache, &p->options, &p->source, &error), NEAR_ERR_JOURNAL);
    p->source = NULL;
    assert_non_null(strstr(error.text, "no journal"));
    assert_int_equal(size_of(p->journal), 1000001);
}

static void test_journal_damage_before_its_end_is_told_and_salvage_skips_it(void **state)
{
    struct place *p = *state;
    near_error error = {0};
    unsigned char record[RECORD];
    fill_and_close(p);
    int fd = open(p->journal, O_RDONLY);
    assert_int_equal(pread(fd, record, RECORD, 32 + 3 * RECORD), RECORD); /* the fourth */
    close(fd);
    for (int i = 0; i < RECORD; i++) { /* any byte of it */
        unsigned char other = record[i] ^ 0x11;
        overwrite(p->journal, 32 + 3 * RECORD, record, RECORD);
        overwrite(p->journal, 32 + 3 * RECORD + i, &other, 1);
        assert_int_equal(near_source_open(p->cache, &p->options, &p->source, &error), NEAR_ERR_JOURNAL);
        assert_non_null(strstr(error.text, "damaged from byte 179 to 228"));
        assert_int_equal(size_of(p->journal), 32 + 10 * RECORD); /* left as it is */
    }
    p->options.flags |= NEAR_SOURCE_SALVAGE;
    open_source(p);
    assert_int_equal(stats_of(p).source_queued, 9);
    atomic_store(&p->table.away, 0);
    flush(p);
    assert_string_equal(stored(&p->table, "key2"), "value");
    assert_string_equal(stored(&p->table, "key3"), "(none)");
    assert_string_equal(stored(&p->table, "key4"), "value");
}

/* A journal as version 1 of the file had it. */
struct old_header {
    char magic[8];
    uint32_t version, zero;
    uint64_t id, checksum;
};
struct old_record {
    uint32_t magic, type;
    uint64_t checksum, sequence;
    uint32_t key_size, value_size;
};

static void old_begin(FILE *file, uint32_t version, uint64_t id)
{
    struct old_header h = {.magic = "NEARJRNL", .version = version, .id = id};
    h.checksum = near__hash(&h, offsetof(struct old_header, checksum), 1);
    assert_int_equal(fwrite(&h, sizeof h, 1, file), 1);
}

static void old_set(FILE *file, uint64_t id, uint64_t sequence, const char *key, const char *value)
{
    struct old_record r = {.magic = 0x4a52434e,
                           .type = 1,
                           .sequence = sequence,
                           .key_size = (uint32_t)strlen(key),
                           .value_size = (uint32_t)strlen(value)};
    r.checksum = near__hash(&r.sequence, 16, id ^ r.type);
    r.checksum = near__hash(value, r.value_size, near__hash(key, r.key_size, r.checksum));
    assert_int_equal(fwrite(&r, sizeof r, 1, file), 1);
    fputs(key, file);
    fputs(value, file);
}

static void require_version(const struct place *p, uint32_t version)
{
    struct old_header h = {.version = 0};
    int fd = open(p->journal, O_RDONLY);
    assert_int_equal(pread(fd, &h, sizeof h, 0), sizeof h);
    close(fd);
    assert_int_equal(h.version, version);
}

/* What a library of yesterday has acknowledged is not lost, and takes its place in a file of today. */
static void test_journal_of_an_older_version_is_read_and_renewed(void **state)
{
    enum { ID = 4711 };
    struct place *p = *state;
    char new[112];
    FILE *file = fopen(p->journal, "w");
    old_begin(file, 1, ID);
    old_set(file, ID, 1, "a", "1");
    old_set(file, ID, 2, "b", "1");
    old_set(file, ID, 3, "a", "2");
    fputs("torn", file);
    fclose(file);
    snprintf(new, sizeof new, "%s.new", p->journal);
    assert_int_equal(mkdir(new, 0700), 0); /* stands in the way of the new file */
    atomic_store(&p->table.away, NEAR_ERR_UNAVAILABLE);
    behind(p, 1);
    assert_int_equal(stats_of(p).source_queued, 2);
    require_version(p, 1);
    assert_int_equal(put(p, "c", "1"), NEAR_ERR_JOURNAL); /* a record of today has no place in the old file */
    assert_int_equal(rmdir(new), 0);
    assert_true(wait_until(put(p, "c", "1") >= 0, PATIENCE_MS));
    require_version(p, 3);
    reopen(p);
    assert_int_equal(stats_of(p).source_queued, 3);
    atomic_store(&p->table.away, 0);
    flush(p);
    assert_string_equal(stored(&p->table, "a"), "2");
    assert_string_equal(stored(&p->table, "b"), "1");
    assert_string_equal(stored(&p->table, "c"), "1");
}

/* Numbers rise over restarts, whatever the wall clock says: it is far behind them here, as if it had been set back. */
static void test_journal_has_the_last_number_with_nothing_queued(void **state)
{
    enum { ID = 4711 };
    struct place *p = *state;
    static char value[1 << 20];
    FILE *file = fopen(p->journal, "w");
    old_begin(file, 1, ID);
    old_set(file, ID, UINT64_C(1) << 62, "k", "1");
    fclose(file);
    atomic_store(&p->table.hold, 1); /* so that nothing is rewritten before the end */
    behind(p, 1);
    for (int i = 0; i < 5; i++)
        assert_true(near_source_set(p->source, "large", 5, value, sizeof value, NULL, NULL) >= 0);
    atomic_store(&p->table.hold, 0);
    flush(p);
    assert_int_equal(near_source_close(p->source, PATIENCE_MS, 0), NEAR_OK);
    p->source = NULL;
    assert_true(size_of(p->journal) < 1000); /* it was rewritten */
    open_source(p);
    assert_int_equal(put(p, "k", "2"), NEAR_OK);
    flush(p);
    assert_string_equal(stored(&p->table, "k"), "2");
    assert_int_equal(atomic_load(&p->table.backwards), 0);
}

/* Version 2 had these records, and none of what is to be forgotten. */
static void test_journal_of_version_2_is_read_and_renewed(void **state)
{
    struct place *p = *state;
    struct old_header h;
    fill_and_close(p);
    int fd = open(p->journal, O_RDWR);
    assert_int_equal(pread(fd, &h, sizeof h, 0), sizeof h);
    h.version = 2;
    h.checksum = near__hash(&h, offsetof(struct old_header, checksum), 1);
    assert_int_equal(pwrite(fd, &h, sizeof h, 0), sizeof h);
    close(fd);
    open_source(p);
    require_version(p, 3);
    assert_int_equal(stats_of(p).source_queued, 10);
    atomic_store(&p->table.away, 0);
    flush(p);
    assert_string_equal(stored(&p->table, "key9"), "value");
}

static void test_journal_of_a_version_to_come_is_refused_and_left_alone(void **state)
{
    struct place *p = *state;
    near_error error = {0};
    FILE *file = fopen(p->journal, "w");
    old_begin(file, 4, 1);
    fputs("who knows", file);
    fclose(file);
    p->options.flags = NEAR_SOURCE_BEHIND | NEAR_SOURCE_SALVAGE;
    p->options.journal = p->journal;
    assert_int_equal(near_source_open(p->cache, &p->options, &p->source, &error), NEAR_ERR_JOURNAL);
    p->source = NULL;
    assert_non_null(strstr(error.text, "of version 4; this library reads 1 to 3"));
    assert_int_equal(size_of(p->journal), 32 + 9);
}

static void test_journal_is_one_process_s_and_nothing_else_passes_for_one(void **state)
{
    struct place *p = *state;
    near_error error = {0};
    near_source *second = NULL;
    behind(p, 1);
    assert_int_equal(near_source_open(p->cache, &p->options, &second, &error), NEAR_ERR_JOURNAL);
    assert_non_null(strstr(error.text, "in use"));
    assert_int_equal(near_source_close(p->source, PATIENCE_MS, 0), NEAR_OK);
    overwrite(p->journal, 0, "#!/bin/sh", 9);
    assert_int_equal(near_source_open(p->cache, &p->options, &p->source, &error), NEAR_ERR_JOURNAL);
    assert_non_null(strstr(error.text, "no journal"));
    p->options.journal = "/nowhere/at/all";
    assert_int_equal(near_source_open(p->cache, &p->options, &p->source, &error), NEAR_ERR_JOURNAL);
    p->source = NULL;
}

/* A child that was forked while the journal was open does not have it open: it may outlive a parent that crashes. */
static void test_I_journal_is_not_open_in_a_child(void **state)
{
    struct place *p = *state;
    int how;
    behind(p, 1);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int open = 0;
        for (int fd = 0; fd < 1024; fd++) {
            char name[32], file[128];
            snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
            ssize_t size = readlink(name, file, sizeof file);
            open += size == (ssize_t)strlen(p->journal) && memcmp(file, p->journal, (size_t)size) == 0;
        }
        _exit(open);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 0);
    assert_int_equal(put(p, "k", "1"), NEAR_OK); /* the parent's is as it was */
    flush(p);
}

/* A child that was forked while the journal was open does not keep it locked. */
static void test_journal_is_free_after_close_whoever_was_forked(void **state)
{
    struct place *p = *state;
    int ends[2];
    char byte;
    behind(p, 1);
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(ends[1]);
        _exit(read(ends[0], &byte, 1) != 0);
    }
    close(ends[0]);
    assert_int_equal(near_source_close(p->source, PATIENCE_MS, 0), NEAR_OK);
    p->source = NULL;
    behind(p, 1);
    close(ends[1]);
    assert_int_equal(waitpid(child, NULL, 0), child);
}

/* The values would fill a hundred megabytes; the file stays near what is queued, and replays to the last of each
 * key. */
static void test_journal_is_rewritten_and_stays_small(void **state)
{
    struct place *p = *state;
    static char value[20000];
    memset(value, 'x', sizeof value);
    p->options.journal_sync = NEAR_JOURNAL_ALWAYS;
    behind(p, 1);
    atomic_store(&p->table.away, NEAR_ERR_UNAVAILABLE);
    for (int i = 0; i < 1500; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", i % 10);
        snprintf(value, sizeof value, "%d", i);
        assert_int_equal(near_source_set(p->source, key, strlen(key), value, sizeof value, NULL, NULL), NEAR_OK);
    }
    assert_true(size_of(p->journal) < 7 << 20);
    reopen(p);
    atomic_store(&p->table.away, 0);
    flush(p);
    for (int i = 0; i < 10; i++) {
        char key[16], last[16];
        snprintf(key, sizeof key, "%d", i);
        snprintf(last, sizeof last, "%d", 1490 + i);
        assert_string_equal(stored(&p->table, key), last);
    }
}

static void test_nth_allocation_failing_accepts_nothing_by_halves(void **state)
{
    struct place *p = *state;
    near_error error;
    p->options.flags = NEAR_SOURCE_BEHIND;
    p->options.journal = p->journal;
    for (uint64_t n = 1;; n++) {
        allocfail_at(&p->hooks, n);
        int status = near_source_open(p->cache, &p->options, &p->source, &error);
        int struck = allocfail_struck(&p->hooks) != 0;
        allocfail_at(&p->hooks, 0);
        if (status == NEAR_OK)
            assert_int_equal(near_source_close(p->source, PATIENCE_MS, 0), NEAR_OK);
        else
            assert_int_equal(status, NEAR_ERR_NOMEM);
        p->source = NULL;
        if (!struck)
            break;
    }
    open_source(p);
    for (uint64_t n = 1; n < 40; n++) { /* other threads allocate too, so a strike may miss */
        char value[16];
        snprintf(value, sizeof value, "%d", (int)n);
        allocfail_at(&p->hooks, n % 13 + 1);
        int status = put(p, "k", value);
        allocfail_at(&p->hooks, 0);
        flush(p);
        if (status == NEAR_OK || status == NEAR_PENDING)
            assert_string_equal(stored(&p->table, "k"), value);
        else
            assert_string_not_equal(stored(&p->table, "k"), value);
    }
}

/* ---------------------------------------------------------------- many threads; a process that is killed */

enum { KEYS = 50, THREADS = 4 };

struct load {
    struct place *place;
    unsigned number;
    uint64_t seed;
};

static void *load_main(void *arg)
{
    struct load *l = arg;
    uint64_t random = l->seed * 2654435761u + l->number + 1;
    for (int i = 0; i < 400; i++) {
        char key[16], value[32];
        random = random * 6364136223846793005u + 1442695040888963407u;
        snprintf(key, sizeof key, "%u", (unsigned)(random >> 33) % KEYS);
        snprintf(value, sizeof value, "%u.%d", l->number, i);
        if ((random >> 20) % 100 == 0)
            atomic_store(&l->place->table.away, (random >> 30) & 1 ? NEAR_ERR_UNAVAILABLE : 0);
        int status = put(l->place, key, value);
        assert_true(status == NEAR_OK || status == NEAR_PENDING);
    }
    return NULL;
}

/* Source and cache agree on the last value of each key, with a source that comes and goes. */
static void test_behind_many_threads_end_in_the_same_values(void **state)
{
    struct place *p = *state;
    struct load loads[THREADS];
    pthread_t threads[THREADS];
    uint64_t seed = test_seed();
    p->options.queue_max = 20;
    p->options.batch_max = 5;
    behind(p, 1);
    for (unsigned i = 0; i < THREADS; i++) {
        loads[i] = (struct load){.place = p, .number = i, .seed = seed};
        pthread_create(&threads[i], NULL, load_main, &loads[i]);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        /* a source that stays away would stop everybody */
        while (pthread_tryjoin_np(threads[i], NULL) != 0) {
            atomic_store(&p->table.away, 0);
            wait_a_moment();
        }
    }
    atomic_store(&p->table.away, 0);
    flush(p);
    for (unsigned i = 0; i < KEYS; i++) {
        char key[16];
        snprintf(key, sizeof key, "%u", i);
        if (strcmp(stored(&p->table, key), "(none)") != 0)
            assert_string_equal(on_server(p, key), stored(&p->table, key));
    }
    assert_int_equal(atomic_load(&p->table.backwards), 0);
}

/* What both processes see: the acknowledged number of each key, and what the "database" has. */
struct shared {
    _Atomic(uint32_t) acknowledged[KEYS], database[KEYS], total, backwards, stores;
};

static int store_shared(void *arg, near_update *updates, size_t count, uint32_t timeout_ms)
{
    struct shared *s = arg;
    (void)timeout_ms;
    atomic_fetch_add(&s->stores, 1);
    for (size_t i = 0; i < count; i++) {
        uint32_t key = 0, number = 0;
        memcpy(&key, updates[i].key, sizeof key);
        memcpy(&number, updates[i].data, sizeof number);
        if (atomic_load(&s->database[key]) > number)
            atomic_fetch_add(&s->backwards, 1);
        atomic_store(&s->database[key], number);
    }
    return NEAR_OK;
}

static near_source *open_shared(struct place *p, struct shared *s, near_cache *cache)
{
    near_error error = {0};
    near_source *source = NULL;
    p->options.flags = NEAR_SOURCE_BEHIND;
    p->options.journal = p->journal;
    p->options.journal_sync = NEAR_JOURNAL_NEVER;
    p->options.store = store_shared;
    p->options.store_arg = s;
    p->options.delay_ms = 5;
    p->options.batch_max = 7;
    if (near_source_open(cache, &p->options, &source, &error) != NEAR_OK)
        fail_msg("%s", error.text);
    return source;
}

/* Runs until it is killed. */
static void victim(struct place *p, struct shared *s, const char *uri)
{
    near_cache *cache;
    if (near_open(uri, NULL, &cache, NULL) != NEAR_OK)
        _exit(1);
    near_source *source = open_shared(p, s, cache);
    for (uint32_t n = atomic_load(&s->total) + 1;; n++) {
        uint32_t key = n * 7 % KEYS;
        int status = near_source_set(source, &key, sizeof key, &n, sizeof n, NULL, NULL);
        if (status != NEAR_OK && status != NEAR_PENDING)
            _exit(2);
        atomic_store(&s->acknowledged[key], n);
        atomic_store(&s->total, n);
    }
}

static void test_killed_process_loses_nothing_that_it_acknowledged(void **state)
{
    struct place *p = *state;
    struct shared *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(s != MAP_FAILED);
    assert_int_equal(near_close(p->cache), NEAR_OK); /* no threads at a fork: ThreadSanitizer asks for that */
    assert_int_equal(near_close(p->other), NEAR_OK);
    for (int round = 0; round < 4; round++) {
        uint32_t before = atomic_load(&s->total);
        pid_t pid = fork();
        if (pid == 0)
            victim(p, s, "memory://victim");
        assert_true(wait_until(atomic_load(&s->total) >= before + 500 + 100 * (unsigned)round, PATIENCE_MS));
        kill(pid, SIGKILL);
        int how;
        waitpid(pid, &how, 0);
        assert_true(WIFSIGNALED(how));
    }
    p->cache = open_cache(p);
    p->other = open_cache(p);
    near_source *source = open_shared(p, s, p->cache);
    assert_int_equal(near_source_close(source, PATIENCE_MS, 0), NEAR_OK);
    for (int key = 0; key < KEYS; key++) /* one more than acknowledged may have been accepted */
        assert_true(atomic_load(&s->database[key]) >= atomic_load(&s->acknowledged[key]));
    assert_int_equal(atomic_load(&s->backwards), 0);
    munmap(s, sizeof(*s));
}

/* ---------------------------------------------------------------- real Redis */

static void test_redis_away_is_pending_and_healed_when_it_is_back(void **state)
{
    struct place *p = *state;
    (void)state;
    if (!redis_server_available())
        skip();
    struct redis_server *server = redis_server_start(NULL);
    assert_non_null(server);
    assert_int_equal(near_close(p->cache), NEAR_OK);
    snprintf(p->uri, sizeof p->uri, "%s", redis_server_uri(server));
    p->cache = open_cache(p);
    open_source(p);
    assert_int_equal(put(p, "k", "old"), NEAR_OK);
    assert_string_equal(redis_server_command(server, "GET", "k", NULL), "old");
    assert_string_equal(redis_server_command(server, "SAVE", NULL), "OK");
    redis_server_kill(server);
    assert_int_equal(put_within(p, "k", "new", 300), NEAR_PENDING);
    assert_string_equal(stored(&p->table, "k"), "new");
    assert_int_equal(stats_of(p).source_forgetting, 1);
    assert_int_equal(redis_server_up(server), 0); /* with the old value */
    flush(p);
    assert_string_equal(redis_server_command(server, "EXISTS", "k", NULL), "0");
    assert_int_equal(near_source_close(p->source, PATIENCE_MS, 0), NEAR_OK);
    p->source = NULL;
    assert_int_equal(near_close(p->cache), NEAR_OK);
    snprintf(p->uri, sizeof p->uri, "memory://after");
    p->cache = open_cache(p);
    redis_server_free(server);
}

/* Redis is away.  Runs until it is killed, which it waits for when the source has the update, the journal says so, and
 * nothing but forgetting the key is left. */
static void forgetter(struct place *p, struct shared *s)
{
    near_cache *cache;
    near_options options = options_of(p);
    near_stats stats = {.size = sizeof(stats)};
    uint32_t key = 0, number = 1;
    options.timeout_ms = 300;
    if (near_open(p->uri, &options, &cache, NULL) != NEAR_OK)
        _exit(1);
    near_source *source = open_shared(p, s, cache);
    if (near_source_set(source, &key, sizeof key, &number, sizeof number, NULL, NULL) != NEAR_PENDING)
        _exit(2);
    do
        wait_a_moment();
    while (near_stats_get(cache, &stats) != NEAR_OK || stats.source_queued);
    near_source_set(source, "\1\0\0", 4, &number, sizeof number, NULL, NULL); /* in the batch after that */
    while (!atomic_load(&s->database[1]))
        wait_a_moment();
    atomic_store(&s->total, 1);
    for (;;)
        pause();
}

static void test_killed_before_redis_could_forget_and_the_next_process_does(void **state)
{
    struct place *p = *state;
    if (!redis_server_available())
        skip();
    struct shared *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(s != MAP_FAILED);
    assert_int_equal(near_close(p->cache), NEAR_OK); /* no threads at a fork: ThreadSanitizer asks for that */
    assert_int_equal(near_close(p->other), NEAR_OK);
    struct redis_server *server = redis_server_start(NULL);
    assert_non_null(server);
    snprintf(p->uri, sizeof p->uri, "%s", redis_server_uri(server));
    const char *set[] = {"SET", "\0\0\0", "old"}, *exists[] = {"EXISTS", "\0\0\0"};
    const size_t sizes[] = {3, 4, 3}, exists_sizes[] = {6, 4};
    assert_string_equal(redis_server_command_argv(server, 3, set, sizes, NULL), "OK");
    assert_string_equal(redis_server_command(server, "SAVE", NULL), "OK");
    redis_server_kill(server);
    pid_t pid = fork();
    if (pid == 0)
        forgetter(p, s);
    assert_true(wait_until(atomic_load(&s->total) == 1, PATIENCE_MS));
    kill(pid, SIGKILL);
    int how;
    waitpid(pid, &how, 0);
    assert_true(WIFSIGNALED(how));
    assert_int_equal(atomic_load(&s->database[0]), 1);
    uint32_t stores = atomic_load(&s->stores);
    assert_int_equal(redis_server_up(server), 0); /* with the old value */
    assert_string_equal(redis_server_command_argv(server, 2, exists, exists_sizes, NULL), "1");
    p->cache = open_cache(p);
    p->other = open_cache(p);
    near_source *source = open_shared(p, s, p->cache);
    assert_int_equal(near_source_flush(source, PATIENCE_MS), NEAR_OK);
    assert_string_equal(redis_server_command_argv(server, 2, exists, exists_sizes, NULL), "0");
    assert_int_equal(near_source_close(source, PATIENCE_MS, 0), NEAR_OK);
    assert_true(atomic_load(&s->stores) <= stores + 1); /* the second update may not have been noted yet */
    munmap(s, sizeof(*s));
    assert_int_equal(near_close(p->cache), NEAR_OK);
    assert_int_equal(near_close(p->other), NEAR_OK);
    redis_server_free(server);
    snprintf(p->uri, sizeof p->uri, "memory://killed");
    p->cache = open_cache(p);
    p->other = open_cache(p);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_write_through_has_it_in_both),
        TEST(test_source_failed_and_nothing_is_written),
        TEST(test_cache_failed_after_the_source_and_everybody_forgets),
        TEST(test_everything_is_forgotten_however_many_keys),
        TEST(test_everything_is_forgotten_after_a_restart_however_many_keys),
        TEST(test_copies_of_what_the_cache_evicted_are_forgotten_too),
        TEST(test_invalidate_removes_instead_of_writing),
        TEST(test_writers_of_one_key_take_turns_and_others_pass),
        TEST(test_wrong_options_and_arguments_are_refused_with_a_text),
        TEST(test_behind_is_acknowledged_before_the_source_has_it),
        TEST(test_behind_coalesces_by_key_and_keeps_order),
        TEST(test_behind_takes_batches_no_larger_than_asked_for),
        TEST(test_behind_tries_again_until_the_source_is_back),
        TEST(test_behind_full_blocks_until_the_deadline_and_coalesces_all_the_same),
        TEST(test_behind_a_full_queue_does_not_wait_for_the_delay),
        TEST(test_I_journal_s_troubles_are_told_without_a_lock_or_a_signal),
        TEST(test_journal_that_cannot_be_made_smaller_is_not_tried_with_every_update),
        TEST(test_statistics_leave_a_closing_source_alone),
        TEST(test_behind_gives_up_after_so_many_attempts_and_tells),
        TEST(test_behind_rejected_before_the_cache_has_it_and_the_key_is_forgotten),
        TEST(test_behind_cache_failed_and_the_key_is_forgotten_again_after_the_store),
        TEST(test_behind_over_before_it_is_stored_and_the_key_is_forgotten_after_the_store),
        TEST(test_behind_over_before_its_writer_is_back_and_the_key_is_forgotten_then),
        TEST(test_behind_removed_and_the_key_is_forgotten_again_after_the_store),
        TEST(test_behind_queued_while_its_key_is_removed_and_forgotten_again_after_the_store),
        TEST(test_behind_stored_while_its_key_is_removed_and_forgotten_again),
        TEST(test_behind_written_after_its_key_was_removed_and_stays),
        TEST(test_behind_removed_before_its_writer_is_back_and_forgotten_again_after_the_store),
        TEST(test_behind_stored_while_its_next_value_arrives_and_that_stays),
        TEST(test_behind_stored_while_its_next_value_is_removed_and_forgotten_after_that),
        TEST(test_behind_stored_while_its_removal_arrives_and_forgotten_after_that),
        TEST(test_behind_lost_by_the_remote_tier_and_forgotten_after_the_store),
        TEST(test_behind_over_though_its_key_was_lost_before_it_was_queued),
        TEST(test_behind_lost_and_stored_before_that_is_known_and_forgotten_then),
        TEST(test_behind_flush_waits_for_what_a_loss_that_is_known_makes_forgotten),
        TEST(test_behind_lost_and_much_stored_before_that_is_known_and_everything_forgotten),
        TEST(test_behind_lost_without_a_prefix_and_more_stored_than_is_kept_in_mind_and_forgotten),
        TEST(test_behind_flush_waits_for_no_more_than_there_was),
        TEST(test_behind_rejected_while_everything_is_forgotten_and_so_is_its_key),
        TEST(test_behind_stored_while_everything_is_forgotten_and_so_is_its_key_again),
        TEST(test_behind_close_keeps_what_is_only_in_memory_unless_told),
        TEST(test_journal_gives_back_what_was_not_stored),
        TEST(test_journal_has_what_is_not_forgotten_at_close),
        TEST(test_large_journal_has_what_is_not_forgotten_at_close),
        TEST(test_journal_has_what_is_stored_and_not_forgotten),
        TEST(test_journal_has_what_is_stored_before_the_cache_has_it),
        TEST(test_journal_has_what_is_rejected_before_the_cache_has_it),
        TEST(test_journal_has_what_is_rejected_before_the_cache_has_it_and_lost),
        TEST(test_journal_has_what_is_lost_before_its_writer_is_back),
        TEST(test_journal_has_what_is_stored_while_everything_is_forgotten),
        TEST(test_journal_fails_as_a_writer_leaves_and_a_later_update_is_forgotten_all_the_same),
        TEST(test_journal_forgets_the_latest_of_a_key_s_notes),
        TEST(test_journal_torn_anywhere_keeps_every_whole_record),
        TEST(test_J_journal_leaves_a_short_foreign_file_alone),
        TEST(test_journal_that_is_nothing_but_zeros_is_begun_anew),
        TEST(test_journal_damage_before_its_end_is_told_and_salvage_skips_it),
        TEST(test_journal_of_an_older_version_is_read_and_renewed),
        TEST(test_journal_of_version_2_is_read_and_renewed),
        TEST(test_journal_has_the_last_number_with_nothing_queued),
        TEST(test_journal_of_a_version_to_come_is_refused_and_left_alone),
        TEST(test_journal_is_one_process_s_and_nothing_else_passes_for_one),
        TEST(test_I_journal_is_not_open_in_a_child),
        TEST(test_journal_is_free_after_close_whoever_was_forked),
        TEST(test_journal_is_rewritten_and_stays_small),
        TEST(test_nth_allocation_failing_accepts_nothing_by_halves),
        TEST(test_behind_many_threads_end_in_the_same_values),
        TEST(test_killed_process_loses_nothing_that_it_acknowledged),
        TEST(test_redis_away_is_pending_and_healed_when_it_is_back),
        TEST(test_killed_before_redis_could_forget_and_the_next_process_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
