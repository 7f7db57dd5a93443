/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One thread goes through the list, one key at a time, oldest first.  A key that is added while its removal is under
 * way has another number then and is done once more: what made it necessary may have come after the removal ran.  It
 * is on the list until whoever added it has been told, who takes it off.  A failure goes to the list's end and all wait
 * for a while, longer with each failure in a row.
 *
 * The list is bounded where everything can be forgotten: that takes the place of the keys beyond the bound, or without
 * memory, costs a cold cache and is always right.  Where it cannot (the remote tier has no prefix that tells the
 * cache's keys from others) the list is as long as it must be; without memory for it the processes forget their copies
 * at least. */
#include "load/forget.h"

#include <stdatomic.h>
#include <string.h>

#include "base/condition.h"
#include "base/random.h"
#include "base/thread.h"
#include "nearcache.h"

#define HASH_NONFATAL_OOM 1
#define uthash_malloc(size) near__alloc(forget_alloc, size)
#define uthash_free(memory, size) near__free(forget_alloc, memory)
#define uthash_nonfatal_oom(element) (element)->listed = 0
#include <uthash.h>

#define KEYS_MAX 65536u

struct forgotten {
    UT_hash_handle hh;
    int listed;
    uint64_t number; /* of the last call that added it */
    uint64_t first;  /* of the first one for whose sake it has not been forgotten yet */
    size_t key_size;
    unsigned char key[];
};

struct near__forget {
    struct near__forget_config config;
    pthread_t thread;
    int runs;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    struct forgotten *keys;    /* all under lock */
    uint64_t bytes;            /* of keys */
    uint64_t everything;       /* the number of the last call for it; 0: none */
    uint64_t everything_first; /* as with a key */
    int stop;
    uint32_t failures; /* in a row */
};

/* ---------------------------------------------------------------- what the threads of this room share */

int64_t near__backoff_ns(uint32_t min_ms, uint32_t max_ms, uint32_t attempts)
{
    uint32_t random = 0;
    int64_t ms = attempts < 32 ? (int64_t)min_ms << attempts : max_ms;
    if (ms > max_ms)
        ms = max_ms;
    near__random_seed(&random, sizeof random); /* failing, it is the half */
    return ms * NEAR_NS_PER_MS / 2 + (int64_t)((double)(ms * NEAR_NS_PER_MS / 2) * random / UINT32_MAX);
}

/* ---------------------------------------------------------------- the list */

/* Whether what was added with that number, or a lower one, has been forgotten since.  The oldest come first, so where
 * the answer is no it comes early. */
static int is_done_locked(const struct near__forget *f, uint64_t number)
{
    for (const struct forgotten *k = f->keys; k; k = k->hh.next)
        if (k->first <= number)
            return 0;
    return !f->everything || f->everything_first > number;
}

/* A call with that number: of several the highest counts, and the lowest that has not been done. */
static void raise_number(uint64_t *last, uint64_t *first, uint64_t number)
{
    if (!*last || *first > number)
        *first = number;
    if (*last < number)
        *last = number;
}

/* Everything up to that number is done.  1: so is the last call. */
static int lower_number(uint64_t last, uint64_t *first, uint64_t number)
{
    if (*first <= number)
        *first = number + 1;
    return last <= number;
}

static struct forgotten *create_locked(struct near__forget *f, const void *key, size_t key_size)
{
    const struct near__alloc *forget_alloc = f->config.alloc;
    int full = f->config.knows_all && HASH_COUNT(f->keys) >= KEYS_MAX;
    struct forgotten *k = full ? NULL : near__alloc_zero(forget_alloc, sizeof *k + key_size);
    if (!k)
        return NULL;
    k->key_size = key_size;
    if (key_size)
        memcpy(k->key, key, key_size);
    k->listed = 1;
    HASH_ADD_KEYPTR(hh, f->keys, k->key, key_size, k);
    if (k->listed) {
        f->bytes += sizeof *k + key_size;
        return k;
    }
    near__free(forget_alloc, k);
    return NULL;
}

static struct forgotten *find_locked(struct near__forget *f, const void *key, size_t key_size)
{
    struct forgotten *k = NULL;
    if (key)
        HASH_FIND(hh, f->keys, key, key_size, k);
    return k;
}

/* Numbers rise, but a gate's may be added after a later one, and a rewritten journal has them in any order. */
void near__forget_add(struct near__forget *f, const void *key, size_t key_size, uint64_t number)
{
    pthread_mutex_lock(&f->lock);
    struct forgotten *k = find_locked(f, key, key_size);
    if (!k && key)
        k = create_locked(f, key, key_size);
    if (k)
        raise_number(&k->number, &k->first, number);
    else
        raise_number(&f->everything, &f->everything_first, number);
    pthread_cond_signal(&f->work);
    pthread_mutex_unlock(&f->lock);
}

static void remove_locked(struct near__forget *f, struct forgotten *k)
{
    const struct near__alloc *forget_alloc = f->config.alloc;
    HASH_DELETE(hh, f->keys, k);
    f->bytes -= sizeof *k + k->key_size;
    near__free(forget_alloc, k);
}

uint64_t near__forget_number(struct near__forget *f, const void *key, size_t key_size)
{
    pthread_mutex_lock(&f->lock);
    const struct forgotten *k = find_locked(f, key, key_size);
    uint64_t number = k ? k->number : key ? 0 : f->everything;
    pthread_mutex_unlock(&f->lock);
    return number;
}

/* Keys that were listed before, too, where everything means these: while the list is full, keys that come would call
 * for everything again and again, and those on the list would never have their turn. */
static void drop_everything_locked(struct near__forget *f, uint64_t number)
{
    struct forgotten *k, *next;
    if (lower_number(f->everything, &f->everything_first, number))
        f->everything = 0;
    HASH_ITER(hh, f->keys, k, next)
    {
        if (f->config.knows_all && lower_number(k->number, &k->first, number))
            remove_locked(f, k);
    }
}

void near__forget_drop(struct near__forget *f, const void *key, size_t key_size, uint64_t number)
{
    pthread_mutex_lock(&f->lock);
    struct forgotten *k = find_locked(f, key, key_size);
    if (k && lower_number(k->number, &k->first, number))
        remove_locked(f, k);
    if (!key)
        drop_everything_locked(f, number);
    pthread_mutex_unlock(&f->lock);
}

/* A key whose removal failed goes to the end; without memory even for that, everything goes. */
static void move_to_end_locked(struct near__forget *f, struct forgotten *k)
{
    const struct near__alloc *forget_alloc = f->config.alloc;
    uint64_t number = k->number, first = k->first;
    HASH_DELETE(hh, f->keys, k);
    k->listed = 1;
    HASH_ADD_KEYPTR(hh, f->keys, k->key, k->key_size, k);
    if (k->listed)
        return;
    f->bytes -= sizeof *k + k->key_size;
    near__free(forget_alloc, k);
    raise_number(&f->everything, &f->everything_first, first);
    raise_number(&f->everything, &f->everything_first, number);
}

/* Runs one removal.  1: it has happened. */
static int run_one_locked(struct near__forget *f)
{
    struct forgotten *k = f->everything ? NULL : f->keys; /* nobody else takes it off while the thread runs */
    const void *key = k ? k->key : NULL;
    size_t key_size = k ? k->key_size : 0;
    uint64_t number = k ? k->number : f->everything;
    pthread_mutex_unlock(&f->lock);
    int done = f->config.invalidate(f->config.arg, key, key_size) == NEAR_OK;
    int is_off = done && f->config.forgotten(f->config.forgotten_arg, key, key_size, number);
    pthread_mutex_lock(&f->lock);
    if (k && !is_off)
        move_to_end_locked(f, k);
    return done;
}

static void *forget_main(void *arg)
{
    struct near__forget *f = arg;
    near__thread_name("near-forget");
    pthread_mutex_lock(&f->lock);
    while (!f->stop) {
        if (!f->keys && !f->everything) {
            near__condition_wait(f->config.clock, &f->work, &f->lock, NEAR_NEVER);
            continue;
        }
        if (run_one_locked(f)) {
            f->failures = 0;
            pthread_cond_broadcast(&f->done);
            atomic_fetch_add_explicit(f->config.invalidated, 1, memory_order_relaxed); /* a statistic */
            continue;
        }
        int64_t until = near__now(f->config.clock) +
                        near__backoff_ns(f->config.retry_min_ms, f->config.retry_max_ms, f->failures++);
        while (!f->stop && near__now(f->config.clock) < until)
            near__condition_wait(f->config.clock, &f->work, &f->lock, until);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

uint64_t near__forget_pending(struct near__forget *f)
{
    pthread_mutex_lock(&f->lock);
    uint64_t n = HASH_COUNT(f->keys) + (unsigned)(f->everything != 0);
    pthread_mutex_unlock(&f->lock);
    return n;
}

uint64_t near__forget_bytes(struct near__forget *f)
{
    pthread_mutex_lock(&f->lock);
    uint64_t bytes = f->bytes;
    pthread_mutex_unlock(&f->lock);
    return bytes;
}

void near__forget_each(struct near__forget *f, void (*fn)(void *arg, const void *key, size_t key_size, uint64_t number),
                       void *arg)
{
    pthread_mutex_lock(&f->lock);
    for (const struct forgotten *k = f->keys; k; k = k->hh.next)
        fn(arg, k->key, k->key_size, k->number);
    if (f->everything)
        fn(arg, NULL, 0, f->everything);
    pthread_mutex_unlock(&f->lock);
}

int near__forget_wait(struct near__forget *f, uint64_t number, int64_t deadline_ns)
{
    int done;
    pthread_mutex_lock(&f->lock);
    while (!(done = is_done_locked(f, number)) && near__now(f->config.clock) < deadline_ns)
        near__condition_wait(f->config.clock, &f->done, &f->lock, deadline_ns);
    pthread_mutex_unlock(&f->lock);
    return done;
}

int near__forget_open(const struct near__forget_config *config, struct near__forget **ret)
{
    struct near__forget *f = near__alloc_zero(config->alloc, sizeof *f);
    if (!f)
        return NEAR_ERR_NOMEM;
    f->config = *config;
    pthread_mutex_init(&f->lock, NULL);
    near__condition_init(&f->work);
    near__condition_init(&f->done);
    *ret = f;
    return NEAR_OK;
}

int near__forget_start(struct near__forget *f)
{
    f->runs = near__thread_start(&f->thread, forget_main, f) == 0;
    return f->runs ? NEAR_OK : NEAR_ERR_SYSTEM;
}

void near__forget_close(struct near__forget *f)
{
    if (!f)
        return;
    pthread_mutex_lock(&f->lock);
    f->stop = 1;
    pthread_cond_signal(&f->work);
    pthread_mutex_unlock(&f->lock);
    if (f->runs)
        pthread_join(f->thread, NULL);
    while (f->keys)
        remove_locked(f, f->keys);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->work);
    pthread_cond_destroy(&f->done);
    near__free(f->config.alloc, f);
}
