/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One thread goes through the list, one key at a time, oldest first.  A key that is added while its removal is under
 * way is done once more: what made it necessary may have come after the removal ran.  A failure goes to the list's end
 * and all wait for a while, longer with each failure in a row.
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
    int listed, flying, again;
    size_t key_size;
    unsigned char key[];
};

struct near__forget {
    struct near__forget_config config;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work, idle;
    struct forgotten *keys; /* all under lock */
    int everything, everything_flying, stop;
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

static int is_idle_locked(const struct near__forget *f)
{
    return !f->keys && !f->everything && !f->everything_flying;
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
    if (k->listed)
        return k;
    near__free(forget_alloc, k);
    return NULL;
}

void near__forget_add(struct near__forget *f, const void *key, size_t key_size)
{
    struct forgotten *k;
    pthread_mutex_lock(&f->lock);
    HASH_FIND(hh, f->keys, key_size ? key : "", key_size, k);
    if (k)
        k->again = k->flying;
    else if (!create_locked(f, key, key_size))
        f->everything = 1;
    pthread_cond_signal(&f->work);
    pthread_mutex_unlock(&f->lock);
}

static void remove_locked(struct near__forget *f, struct forgotten *k)
{
    const struct near__alloc *forget_alloc = f->config.alloc;
    HASH_DELETE(hh, f->keys, k);
    near__free(forget_alloc, k);
}

/* A key whose removal failed goes to the end; without memory even for that, everything goes. */
static void move_to_end_locked(struct near__forget *f, struct forgotten *k)
{
    const struct near__alloc *forget_alloc = f->config.alloc;
    HASH_DELETE(hh, f->keys, k);
    k->listed = 1;
    k->flying = k->again = 0;
    HASH_ADD_KEYPTR(hh, f->keys, k->key, k->key_size, k);
    if (k->listed)
        return;
    near__free(forget_alloc, k);
    f->everything = 1;
}

/* Runs one removal.  1: it has happened. */
static int run_one_locked(struct near__forget *f)
{
    struct forgotten *k = f->everything ? NULL : f->keys;
    if (k) {
        k->flying = 1;
    } else {
        f->everything = 0;
        f->everything_flying = 1;
    }
    pthread_mutex_unlock(&f->lock);
    int done = f->config.invalidate(f->config.arg, k ? k->key : NULL, k ? k->key_size : 0) == NEAR_OK;
    pthread_mutex_lock(&f->lock);
    if (!k) {
        f->everything_flying = 0;
        f->everything |= !done;
    } else if (done && !k->again) {
        remove_locked(f, k);
    } else {
        move_to_end_locked(f, k);
    }
    return done;
}

static void *forget_main(void *arg)
{
    struct near__forget *f = arg;
    near__thread_name("near-forget");
    pthread_mutex_lock(&f->lock);
    while (!f->stop) {
        if (!f->keys && !f->everything) {
            pthread_cond_broadcast(&f->idle);
            near__condition_wait(f->config.clock, &f->work, &f->lock, NEAR_NEVER);
            continue;
        }
        if (run_one_locked(f)) {
            f->failures = 0;
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
    uint64_t n = HASH_COUNT(f->keys) + (unsigned)(f->everything || f->everything_flying);
    pthread_mutex_unlock(&f->lock);
    return n;
}

int near__forget_wait(struct near__forget *f, int64_t deadline_ns)
{
    pthread_mutex_lock(&f->lock);
    while (!is_idle_locked(f) && near__now(f->config.clock) < deadline_ns)
        near__condition_wait(f->config.clock, &f->idle, &f->lock, deadline_ns);
    int idle = is_idle_locked(f);
    pthread_mutex_unlock(&f->lock);
    return idle;
}

int near__forget_open(const struct near__forget_config *config, struct near__forget **ret)
{
    struct near__forget *f = near__alloc_zero(config->alloc, sizeof *f);
    if (!f)
        return NEAR_ERR_NOMEM;
    f->config = *config;
    pthread_mutex_init(&f->lock, NULL);
    near__condition_init(&f->work);
    near__condition_init(&f->idle);
    if (near__thread_start(&f->thread, forget_main, f) == 0) {
        *ret = f;
        return NEAR_OK;
    }
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->work);
    pthread_cond_destroy(&f->idle);
    near__free(config->alloc, f);
    return NEAR_ERR_SYSTEM;
}

void near__forget_close(struct near__forget *f)
{
    if (!f)
        return;
    pthread_mutex_lock(&f->lock);
    f->stop = 1;
    pthread_cond_signal(&f->work);
    pthread_mutex_unlock(&f->lock);
    pthread_join(f->thread, NULL);
    while (f->keys)
        remove_locked(f, f->keys);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->work);
    pthread_cond_destroy(&f->idle);
    near__free(f->config.alloc, f);
}
