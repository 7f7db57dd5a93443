/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Watches in stripes: a mutex, a condition and a list each; the subscriber looks at one counter when there are none.
 *
 * No wake-up is lost: a watch is counted and listed [1] before its thread sends the request for the lease [2]; the
 * server answers "held" [3] before the fill runs and publishes [4]; the subscriber reads that message [5] and looks at
 * the counter [6].  [1] happens before [2], which the server's order puts before [5]. */
#include "load/watch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/condition.h"
#include "base/hash.h"
#include "remote/remote.h"

#define STRIPES 16u

struct stripe {
    pthread_mutex_t mutex;
    pthread_cond_t heard;
    struct near__watch *list;
};

struct near__watches {
    const struct near__alloc *alloc;
    const struct near__clock *clock;
    _Atomic(uint32_t) count;
    struct stripe stripes[STRIPES];
};

int near__watches_create(const struct near__alloc *alloc, const struct near__clock *clock, struct near__watches **ret)
{
    struct near__watches *w = near__alloc_zero(alloc, sizeof(*w));
    if (!w)
        return NEAR_ERR_NOMEM;
    w->alloc = alloc;
    w->clock = clock;
    for (unsigned i = 0; i < STRIPES; i++) {
        pthread_mutex_init(&w->stripes[i].mutex, NULL);
        near__condition_init(&w->stripes[i].heard);
    }
    *ret = w;
    return NEAR_OK;
}

void near__watches_destroy(struct near__watches *w)
{
    if (!w)
        return;
    for (unsigned i = 0; i < STRIPES; i++) {
        pthread_cond_destroy(&w->stripes[i].heard);
        pthread_mutex_destroy(&w->stripes[i].mutex);
    }
    near__free(w->alloc, w);
}

static struct stripe *stripe_of(struct near__watches *w, const void *key, size_t key_size)
{
    return &w->stripes[near__hash(key, key_size, 2) % STRIPES];
}

void near__watch_begin(struct near__watches *w, struct near__watch *watch, const void *key, size_t key_size)
{
    struct stripe *stripe = stripe_of(w, key, key_size);
    watch->key = key;
    watch->key_size = key_size;
    watch->heard = 0;
    pthread_mutex_lock(&stripe->mutex);
    watch->next = stripe->list;
    watch->at = &stripe->list;
    if (watch->next)
        watch->next->at = &watch->next;
    stripe->list = watch;
    /* [1] release: pairs with the acquire in near__watches_heard [6] */
    atomic_fetch_add_explicit(&w->count, 1, memory_order_release);
    pthread_mutex_unlock(&stripe->mutex);
}

void near__watch_end(struct near__watches *w, struct near__watch *watch)
{
    struct stripe *stripe = stripe_of(w, watch->key, watch->key_size);
    pthread_mutex_lock(&stripe->mutex);
    *watch->at = watch->next;
    if (watch->next)
        watch->next->at = watch->at;
    atomic_fetch_sub_explicit(&w->count, 1, memory_order_relaxed); /* a count that is too high costs a look at a list */
    pthread_mutex_unlock(&stripe->mutex);
}

int near__watch_wait(struct near__watches *w, struct near__watch *watch, int64_t deadline_ns)
{
    struct stripe *stripe = stripe_of(w, watch->key, watch->key_size);
    pthread_mutex_lock(&stripe->mutex);
    while (!watch->heard && near__now(w->clock) < deadline_ns)
        near__condition_wait(w->clock, &stripe->heard, &stripe->mutex, deadline_ns);
    int heard = watch->heard;
    watch->heard = 0;
    pthread_mutex_unlock(&stripe->mutex);
    return heard;
}

static void wake_in(struct stripe *stripe, const void *key, size_t key_size)
{
    int any = 0;
    pthread_mutex_lock(&stripe->mutex);
    for (struct near__watch *watch = stripe->list; watch; watch = watch->next) {
        if (key && (watch->key_size != key_size || (key_size && memcmp(watch->key, key, key_size) != 0)))
            continue;
        watch->heard = any = 1;
    }
    if (any)
        pthread_cond_broadcast(&stripe->heard);
    pthread_mutex_unlock(&stripe->mutex);
}

void near__watches_heard(struct near__watches *w, const void *key, size_t key_size)
{
    const size_t suffix = sizeof(NEAR_LEASE_SUFFIX) - 1;
    if (atomic_load_explicit(&w->count, memory_order_acquire) == 0) /* [6] */
        return;
    for (unsigned i = 0; !key && i < STRIPES; i++)
        wake_in(&w->stripes[i], NULL, 0);
    if (!key)
        return;
    wake_in(stripe_of(w, key, key_size), key, key_size);
    if (key_size >= suffix && memcmp((const char *)key + key_size - suffix, NEAR_LEASE_SUFFIX, suffix) == 0)
        wake_in(stripe_of(w, key, key_size - suffix), key, key_size - suffix);
}
