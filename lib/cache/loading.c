/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a cache needs for loading, and what a loader answers. */
#include "cache/loading.h"

#include <pthread.h>
#include <string.h>

#include "base/compiler.h"
#include "base/hash.h"
#include "base/random.h"

#define TTL_MAX_MS INT64_C(3153600000000)
#define TIMES_MAX_MS (UINT32_C(30) * 24 * 3600 * 1000)
#define LEASE_MS 10000
#define HARD_MS 10000
#define RETRY_MS 1000

/* Remembered absences and pauses get this part of the local budget, within limits. */
#define NOTES_PART 64u
#define NOTES_MAX ((uint64_t)4 << 20)

/* ---------------------------------------------------------------- life */

static void free_loaders(struct near__impl *impl, _Atomic(struct near__loader *) *list)
{
    struct near__loader *loader = atomic_load_explicit(list, memory_order_relaxed); /* nobody else is left */
    while (loader) {
        struct near__loader *next = loader->next;
        near__free(&impl->alloc, loader);
        loader = next;
    }
}

static void destroy(struct near__impl *impl, struct near__loading *l)
{
    near__workers_destroy(l->workers);
    near__flights_destroy(l->flights);
    near__watches_destroy(l->watches);
    near__notes_destroy(l->notes);
    free_loaders(impl, &l->loader);
    free_loaders(impl, &l->bulk_loader);
    near__free(&impl->alloc, l);
}

void near__loading_destroy(struct near__impl *impl)
{
    struct near__loading *l = near__loading_known(impl);
    if (l)
        destroy(impl, l);
}

static struct near__loading *make(struct near__impl *impl)
{
    uint64_t share = impl->options.local_bytes / NOTES_PART;
    struct near__loading *l = near__alloc_zero(&impl->alloc, sizeof(*l));
    if (!l)
        return NULL;
    if (near__flights_create(&impl->alloc, &impl->clock, &l->flights) == NEAR_OK &&
        near__watches_create(&impl->alloc, &impl->clock, &l->watches) == NEAR_OK &&
        near__workers_create(&impl->alloc, impl->options.load_threads, &l->workers) == NEAR_OK &&
        near__notes_create(&impl->alloc, impl->local, (size_t)(share < NOTES_MAX ? share : NOTES_MAX), &l->notes) ==
            NEAR_OK)
        return l;
    destroy(impl, l);
    return NULL;
}

struct near__loading *near__loading_of(struct near__impl *impl)
{
    struct near__loading *l = near__loading_known(impl);
    if (l)
        return l;
    pthread_mutex_lock(&impl->making);
    l = near__loading_known(impl);
    if (!l && (l = make(impl)))
        /* release: pairs with near__loading_known */
        atomic_store_explicit(&impl->loading, l, memory_order_release);
    pthread_mutex_unlock(&impl->making);
    return l;
}

void near__loading_heard(void *arg, const void *key, size_t key_size)
{
    struct near__loading *l = near__loading_known(arg);
    if (l)
        near__watches_heard(l->watches, key, key_size);
}

static uint64_t get(const _Atomic(uint64_t) *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed); /* a statistic */
}

void near__loading_stats(struct near__impl *impl, near_stats *stats)
{
    const struct near__loading *l = near__loading_known(impl);
    if (!l)
        return;
    const struct near__load_counters *c = &l->counters;
    stats->loads = get(&c->loads);
    stats->loads_failed = get(&c->failed);
    stats->loads_absent = get(&c->absent);
    stats->loads_unkept = get(&c->unkept);
    stats->load_waits = get(&c->waits);
    stats->refreshes = get(&c->refreshes);
    stats->refreshes_early = get(&c->early);
    stats->refreshes_skipped = get(&c->skipped);
    stats->load_stale = get(&c->stale);
    stats->absent_hits = get(&c->absent_hits);
    near__histogram_quantiles(&l->load_ns, &stats->load_ns);
}

/* ---------------------------------------------------------------- options */

static int times_in_range(const near_load *o)
{
    return o->timeout_ms <= TIMES_MAX_MS && o->stale_ms <= TIMES_MAX_MS && o->fail_ms <= TIMES_MAX_MS &&
           o->retry_ms <= TIMES_MAX_MS && o->absent_ms <= TIMES_MAX_MS && o->soft_timeout_ms <= TIMES_MAX_MS &&
           o->hard_timeout_ms <= TIMES_MAX_MS && o->lease_ms <= TIMES_MAX_MS && o->ttl_ms >= 0 &&
           o->ttl_ms <= TTL_MAX_MS;
}

static int is_valid(const near_load *o)
{
    return !(o->flags & ~(uint32_t)(NEAR_LOAD_REFRESH | NEAR_LOAD_TAGS)) && times_in_range(o) &&
           o->jitter_permille <= 1000 && o->early_permille <= 1000000;
}

static int copy_of_other_size(const near_load *options, near_load *ret)
{
    memset(ret, 0, sizeof(*ret));
    return near__struct_copy(ret, sizeof(*ret), options, options->size) == NEAR_OK;
}

/* Each hit of near_get_or_load comes by, so nothing is copied that need not be. */
const near_load *near__load_options(const near_load *options, near_load *mine)
{
    static const near_load defaults = {.size = sizeof(defaults),
                                       .early_permille = 1000, /* near_load_init's */
                                       .lease_ms = LEASE_MS,
                                       .hard_timeout_ms = HARD_MS,
                                       .retry_ms = RETRY_MS};
    if (!options)
        return &defaults;
    if (near__likely(options->size == sizeof(*mine)))
        *mine = *options;
    else if (!copy_of_other_size(options, mine))
        return NULL;
    if (!is_valid(mine))
        return NULL;
    mine->lease_ms = mine->lease_ms ? mine->lease_ms : LEASE_MS;
    mine->hard_timeout_ms = mine->hard_timeout_ms ? mine->hard_timeout_ms : HARD_MS;
    mine->retry_ms = mine->retry_ms ? mine->retry_ms : RETRY_MS;
    return mine;
}

uint64_t near__load_random(void)
{
    static __thread uint64_t state;
    if (!state && near__random_seed(&state, sizeof(state)) != 0)
        state = (uint64_t)(uintptr_t)&state;
    return near__random_next(&state);
}

/* One of fn and bulk_fn is set. */
static int set_loader(near_cache *cache, near_loader_fn fn, near_bulk_loader_fn bulk_fn, void *arg,
                      const near_load *options)
{
    near_load copy;
    int status;
    const near_load *checked = near__load_options(options, &copy);
    if (!checked || (!fn && !bulk_fn))
        return NEAR_ERR_INVALID;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return status;
    struct near__loading *l = near__loading_of(impl);
    struct near__loader *mine = l ? near__alloc(&impl->alloc, sizeof(*mine)) : NULL;
    status = !near__load_suits(impl, checked) ? NEAR_ERR_INVALID : mine ? NEAR_OK : NEAR_ERR_NOMEM;
    if (status == NEAR_OK) {
        _Atomic(struct near__loader *) *list = fn ? &l->loader : &l->bulk_loader;
        *mine = (struct near__loader){.fn = fn, .bulk_fn = bulk_fn, .arg = arg, .options = *checked};
        mine->next = atomic_load_explicit(list, memory_order_relaxed); /* only compared and kept */
        /* release: pairs with the acquire in near__wanted_loader; publishes functions, arg and options */
        while (
            !atomic_compare_exchange_weak_explicit(list, &mine->next, mine, memory_order_release, memory_order_relaxed))
            ;
    } else {
        near__free(&impl->alloc, mine);
    }
    near__leave(impl);
    return status;
}

int near_set_loader(near_cache *cache, near_loader_fn loader, void *arg, const near_load *options)
{
    return set_loader(cache, loader, NULL, arg, options);
}

int near_set_bulk_loader(near_cache *cache, near_bulk_loader_fn loader, void *arg, const near_load *options)
{
    return set_loader(cache, NULL, loader, arg, options);
}

/* ---------------------------------------------------------------- answers */

static int refuse(near_loaded *loaded, int status)
{
    loaded->error = status;
    return status;
}

int near_loaded_value(near_loaded *loaded, const void *data, size_t size)
{
    if (!loaded)
        return NEAR_ERR_INVALID;
    if (!data && size)
        return refuse(loaded, NEAR_ERR_LOADER), NEAR_ERR_INVALID;
    if (size > loaded->value_max)
        return refuse(loaded, NEAR_ERR_TOO_LARGE);
    void *copy = near__alloc(loaded->alloc, size);
    if (!copy)
        return refuse(loaded, NEAR_ERR_NOMEM);
    if (size)
        memcpy(copy, data, size);
    near__free(loaded->alloc, loaded->data);
    loaded->data = copy;
    loaded->size = size;
    loaded->has_value = 1;
    return NEAR_OK;
}

int near_loaded_ttl(near_loaded *loaded, int64_t ttl_ms)
{
    if (!loaded)
        return NEAR_ERR_INVALID;
    if (ttl_ms < 1 || ttl_ms > TTL_MAX_MS)
        return refuse(loaded, NEAR_ERR_LOADER), NEAR_ERR_INVALID;
    loaded->ttl_ms = ttl_ms;
    return NEAR_OK;
}

int near_loaded_answer(near_loaded *loaded, int answer)
{
    if (!loaded)
        return NEAR_ERR_INVALID;
    loaded->answered = 1;
    loaded->answer = answer;
    return NEAR_OK;
}

uint64_t near_version_of(const void *data, size_t size)
{
    return near__hash(data, data ? size : 0, 0);
}
