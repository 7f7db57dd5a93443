/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Opening, closing, and fork.
 *
 * The registry is the library's only process-wide state of this room: the list of shells, under one mutex.
 *
 * fork(): the prepare handler takes the mutex and asks the local tier to keep liburcu quiet (bounded wait); the parent
 * goes on; in the child every open cache's shell is marked forked and its descriptors are closed without a word on the
 * wire.  Threads, locks and memory of the parent's caches are never touched in the child.  The first near_open there
 * repairs liburcu, if it was quiet at the fork; if it was not, opening is refused (docs/races.md, R50). */
#include "cache/cache.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mutant.h"
#include "base/options.h"

enum child_state { CHILD_NONE, CHILD_CLEAN, CHILD_UNUSABLE };

static pthread_mutex_t registry_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct near_cache *registry; /* under registry_mutex */
/* under registry_mutex: this process was forked from one that had caches open */
static enum child_state child;
static int quiet;              /* under registry_mutex, from prepare to parent/child */
static int handlers_installed; /* under registry_mutex */

/* ---------------------------------------------------------------- fork */

static void fork_prepare(void)
{
    pthread_mutex_lock(&registry_mutex);
    quiet = near__local_fork_prepare();
}

static void fork_parent(void)
{
    if (quiet)
        near__local_fork_release();
    pthread_mutex_unlock(&registry_mutex);
}

static void fork_child(void)
{
    if (quiet)
        near__local_fork_release();
    child = quiet && child != CHILD_UNUSABLE ? CHILD_CLEAN : CHILD_UNUSABLE;
    for (struct near_cache *shell = registry; shell; shell = shell->next) {
        struct near__impl *impl = shell->owned;
        if (!impl)
            continue;
        if (NEAR_MUTANT(CHILD_UNMARKED))
            continue;
        atomic_store_explicit(&shell->state, NEAR_SHELL_FORKED, memory_order_relaxed); /* the child has one thread */
        atomic_store_explicit(&shell->impl, NULL, memory_order_relaxed);
        shell->owned = NULL;
        if (impl->remote)
            near__remote_abandon(impl->remote);
        near__sources_abandon(impl);
    }
    pthread_mutex_unlock(&registry_mutex);
}

/* Under registry_mutex.  Makes this process ready for a cache. */
static int prepare_process_locked(near_error *error)
{
    if (child == CHILD_UNUSABLE)
        return near__fail(error, NEAR_ERR_FORKED,
                          "the parent was inside a grace period at fork; this process cannot open a cache");
    if (child == CHILD_CLEAN) {
        near__local_fork_child();
        child = CHILD_NONE;
    }
    if (!handlers_installed) {
        if (pthread_atfork(fork_prepare, fork_parent, fork_child) != 0)
            return near__fail(error, NEAR_ERR_NOMEM, "cannot install fork handlers");
        handlers_installed = 1;
    }
    return NEAR_OK;
}

/* ---------------------------------------------------------------- open */

static void destroy_impl(struct near__impl *impl)
{
    if (!impl)
        return;
    if (impl->coherence) {
        near__coherence_stop(impl->coherence);
        near__coherence_leave(impl->coherence);
    }
    if (impl->remote)
        near__remote_interrupt(impl->remote); /* a heartbeat under way ends at once */
    if (impl->coherence)
        near__coherence_close(impl->coherence);
    near__loading_destroy(impl);
    if (impl->remote)
        near__remote_close(impl->remote);
    near__local_writes_destroy(impl);
    near__flights_destroy(impl->flights);
    if (impl->local)
        near__local_close(impl->local);
    pthread_mutex_destroy(&impl->sources_lock);
    pthread_mutex_destroy(&impl->making);
    near__snapshot_destroy(impl);
    near__options_fini(&impl->options, &impl->alloc);
    near__uri_fini(&impl->uri, &impl->alloc);
    struct near__alloc alloc = impl->alloc;
    near__free(&alloc, impl);
}

static int open_local_tier(struct near__impl *impl)
{
    const near_options *o = &impl->options;
    struct near__local_config config = {
        .alloc = &impl->alloc,
        .clock = &impl->clock,
        .log = &impl->log,
        .bytes_max = o->local_bytes,
        .entries_max = o->local_entries,
        .value_max = o->local_value_max,
        .ttl_max_ms = o->local_ttl_ms,
        .idle_ms = o->idle_ms,
        .policy = o->policy,
        .curve = o->curve,
        .hot_keys = o->hot_keys,
        .auto_hit_permille = o->auto_hit_permille,
        .auto_bytes_min = o->auto_bytes_min,
        .auto_bytes_max = o->auto_bytes_max,
        .auto_pressure = o->auto_pressure,
        .foreign = o->track != NEAR_TRACK_NONE,
    };
    int status = near__local_open(&config, &impl->local);
    if (status != NEAR_OK)
        return status;
    impl->gate = near__local_gate(impl->local);
    near__local_set_bound(impl->local, (int64_t)o->bound_ms * NEAR_NS_PER_MS);
    return NEAR_OK;
}

static int open_remote_tier(struct near__impl *impl, near_error *error)
{
    const near_options *o = &impl->options;
    struct near__remote_config remote = {
        .alloc = &impl->alloc, .clock = &impl->clock, .log = &impl->log, .uri = &impl->uri, .options = o};
    int status = near__remote_open(&remote, &impl->remote, error);
    if (status != NEAR_OK)
        return status;
    struct near__coherence_config coherence = {
        .alloc = &impl->alloc,
        .clock = &impl->clock,
        .log = &impl->log,
        .local = impl->local,
        .remote = impl->remote,
        .bound_ms = o->bound_ms,
        .backoff_min_ms = o->backoff_min_ms,
        .backoff_max_ms = o->backoff_max_ms,
        .connect_timeout_ms = o->connect_timeout_ms,
        .tracking = o->track != NEAR_TRACK_NONE,
        .repair_rate = o->repair_rate,
        .heard = near__loading_heard,
        .heard_arg = impl,
    };
    return near__coherence_open(&coherence, &impl->coherence, error);
}

/* Whoever names certificates believes that he is protected. */
static int check_tls(const struct near__impl *impl, near_error *error)
{
    const near_options *o = &impl->options;
    const char *given = o->tls_ca_file       ? "tls_ca_file"
                        : o->tls_ca_dir      ? "tls_ca_dir"
                        : o->tls_cert_file   ? "tls_cert_file"
                        : o->tls_key_file    ? "tls_key_file"
                        : o->tls_server_name ? "tls_server_name"
                        : !o->tls_verify     ? "tls_verify"
                                             : NULL;
    if (!given || impl->uri.kind == NEAR_URI_TLS)
        return NEAR_OK;
    return near__fail(error, NEAR_ERR_OPTION, "%s: only rediss:// and rediss-sentinel:// are encrypted", given);
}

/* Sentinels and what they are asked for need each other. */
static int check_sentinels(const struct near__impl *impl, near_error *error)
{
    const near_options *o = &impl->options;
    const char *given = o->sentinel_master     ? "sentinel_master"
                        : o->sentinel_username ? "sentinel_username"
                        : o->sentinel_password ? "sentinel_password"
                                               : NULL;
    if (impl->uri.sentinels && !o->sentinel_master)
        return near__fail(error, NEAR_ERR_OPTION, "sentinel_master: sentinels have to be asked for a name");
    if (!impl->uri.sentinels && given)
        return near__fail(error, NEAR_ERR_OPTION, "%s: only redis-sentinel:// asks sentinels", given);
    return NEAR_OK;
}

static int open_tiers(struct near__impl *impl, near_error *error)
{
    int status = check_tls(impl, error);
    if (status == NEAR_OK)
        status = check_sentinels(impl, error);
    if (status != NEAR_OK)
        return status;
    status = open_local_tier(impl);
    if (status != NEAR_OK)
        return near__fail(error, status, "cannot open the local tier: %s", near_status_text(status));
    status = near__flights_create(&impl->alloc, &impl->clock, &impl->flights);
    if (status != NEAR_OK)
        return near__fail(error, status, "%s", near_status_text(status));
    if (impl->uri.kind != NEAR_URI_LOCAL)
        return open_remote_tier(impl, error);
    if (impl->options.track != NEAR_TRACK_NONE)
        return near__fail(error, NEAR_ERR_OPTION, "track: without a remote tier there is nobody else");
    status = near__local_writes_create(impl);
    if (status != NEAR_OK)
        return near__fail(error, status, "%s", near_status_text(status));
    near__local_prove(impl->local, NEAR_PROVED_ALWAYS);
    return NEAR_OK;
}

static int read_configuration(struct near__impl *impl, const char *uri, const near_options *options, near_error *error)
{
    near_options merged; /* the caller's, then the URI's on top; texts are copied at the end */
    near_options_init(&merged);
    if (options) {
        /* a first copy checks the caller's own struct; the URI's parameters are then set on it */
        int status = near__options_copy(options, &impl->alloc, &impl->options, error);
        if (status != NEAR_OK)
            return status;
        merged = impl->options;
    }
    int status = near__uri_parse(uri, &impl->alloc, &merged, &impl->uri, error);
    near_options first = impl->options;
    if (status == NEAR_OK)
        status = near__options_copy(&merged, &impl->alloc, &impl->options, error);
    if (options && (status == NEAR_OK))
        near__options_fini(&first, &impl->alloc);
    return status;
}

static int make_impl(const char *uri, const near_options *options, _Atomic(int64_t) *virtual_ns,
                     struct near__impl **ret, near_error *error)
{
    struct near__alloc alloc;
    near_allocator hooks = {0};
    if (near__options_check(options, error) != NEAR_OK)
        return NEAR_ERR_OPTION;
    if (options && options->size >= offsetof(near_options, allocator) + sizeof(options->allocator))
        hooks = options->allocator;
    near__alloc_init(&alloc, &hooks);
    struct near__impl *impl = near__alloc_zero(&alloc, sizeof(*impl));
    if (!impl)
        return near__fail(error, NEAR_ERR_NOMEM, "%s", near_status_text(NEAR_ERR_NOMEM));
    impl->alloc = alloc;
    impl->clock.virtual_ns = virtual_ns;
    impl->values.alloc = &impl->alloc;
    pthread_mutex_init(&impl->sources_lock, NULL);
    pthread_mutex_init(&impl->making, NULL);
    int status = read_configuration(impl, uri, options, error);
    if (status == NEAR_OK) {
        const near_options *o = &impl->options;
        impl->log =
            (struct near__log){.fn = o->log, .arg = o->log_arg, .level = (int)o->log_level, .clock = &impl->clock};
        impl->timeout_ns = (int64_t)o->timeout_ms * NEAR_NS_PER_MS;
        impl->stale_ns = (int64_t)o->stale_ms * NEAR_NS_PER_MS;
        impl->unasked_stale_ns = o->unproven == NEAR_UNPROVEN_SERVE_STALE ? impl->stale_ns : 0;
        status = open_tiers(impl, error);
    }
    if (status == NEAR_OK)
        status = near__snapshot_create(impl, error);
    if (status != NEAR_OK) {
        destroy_impl(impl);
        return status;
    }
    *ret = impl;
    return NEAR_OK;
}

int near__cache_open(const char *uri, const near_options *options, _Atomic(int64_t) *virtual_ns, near_cache **ret,
                     near_error *error)
{
    pthread_mutex_lock(&registry_mutex);
    int status = prepare_process_locked(error);
    pthread_mutex_unlock(&registry_mutex);
    if (status != NEAR_OK)
        return status;
    struct near_cache *shell = calloc(1, sizeof(*shell)); /* outlives the caller's allocator */
    if (!shell)
        return near__fail(error, NEAR_ERR_NOMEM, "%s", near_status_text(NEAR_ERR_NOMEM));
    struct near__impl *impl = NULL;
    status = make_impl(uri, options, virtual_ns, &impl, error);
    if (status != NEAR_OK || !impl) { /* the second is what the compiler does not see from the first */
        free(shell);
        return status;
    }
    atomic_init(&shell->state, NEAR_SHELL_OPEN);
    pthread_mutex_lock(&registry_mutex);
    shell->owned = impl;
    shell->serial = near__local_serial(impl->local);
    shell->by_counter = near__local_is_by_counter(impl->local);
    shell->next = registry;
    registry = shell;
    /* release: pairs with near__impl_in_section */
    atomic_store_explicit(&shell->impl, impl, memory_order_release);
    pthread_mutex_unlock(&registry_mutex);
    near__snapshot_start(impl, shell);
    *ret = shell;
    return NEAR_OK;
}

int near_open(const char *uri, const near_options *options, near_cache **ret_cache, near_error *error)
{
    if (!uri || !ret_cache)
        return near__fail(error, NEAR_ERR_INVALID, "uri and ret_cache must not be NULL");
    *ret_cache = NULL;
    return near__cache_open(uri, options, NULL, ret_cache, error);
}

/* ---------------------------------------------------------------- calls and close */

int near__shell_refusal(const near_cache *cache)
{
    return atomic_load_explicit(&cache->state, memory_order_relaxed) == NEAR_SHELL_FORKED ? NEAR_ERR_FORKED
                                                                                          : NEAR_ERR_CLOSED;
}

struct near__impl *near__enter(near_cache *cache, int *ret_status)
{
    if (!cache) {
        *ret_status = NEAR_ERR_INVALID;
        return NULL;
    }
    near__local_section_enter();
    struct near__impl *impl = near__impl_in_section(cache);
    if (impl)
        near__count_call(impl);
    near__local_section_leave();
    if (!impl)
        *ret_status = near__shell_refusal(cache);
    return impl;
}

void near__leave(struct near__impl *impl)
{
    /* release: what the call did comes before the closer's acquire below; nothing of the impl is touched after */
    atomic_fetch_sub_explicit(&impl->calls, 1, memory_order_release);
}

/* The impl is out of the shell.  Waits until nobody can be using it. */
static void wait_for_calls(struct near__impl *impl)
{
    if (NEAR_MUTANT(CLOSE_DOES_NOT_WAIT))
        return;
    near__local_synchronize(); /* whoever loaded the impl has finished or is counted */
    while (atomic_load_explicit(&impl->calls, memory_order_acquire) != 0)
        nanosleep(&(struct timespec){.tv_nsec = NEAR_NS_PER_MS}, NULL);
}

uint64_t near__values_held(const struct near__impl *impl)
{
    /* acquire: pairs with the release of the last reference */
    return near__local_pinned(impl->local) + atomic_load_explicit(&impl->values.outstanding, memory_order_acquire);
}

int near_close(near_cache *cache)
{
    if (!cache)
        return NEAR_ERR_INVALID;
    pthread_mutex_lock(&registry_mutex);
    /* relaxed: only this function and fork, both under the mutex, take it out */
    struct near__impl *impl = atomic_load_explicit(&cache->impl, memory_order_relaxed);
    if (!impl) {
        pthread_mutex_unlock(&registry_mutex);
        return near__shell_refusal(cache);
    }
    if (near__sources_open(impl)) { /* known before anything is interrupted */
        pthread_mutex_unlock(&registry_mutex);
        return NEAR_ERR_BUSY;
    }
    atomic_store_explicit(&cache->state, NEAR_SHELL_CLOSED, memory_order_relaxed);
    atomic_store_explicit(&cache->impl, NULL, memory_order_seq_cst);
    pthread_mutex_unlock(&registry_mutex);

    near__snapshot_stop(impl);
    wait_for_calls(impl);
    uint64_t held = near__values_held(impl);
    int busy = held != 0 || near__sources_open(impl);
    if (held)
        near__log(&impl->log, NEAR_LOG_WARNING, "core", "not closed: %" PRIu64 " values have not been released", held);
    pthread_mutex_lock(&registry_mutex);
    if (busy) {
        atomic_store_explicit(&cache->state, NEAR_SHELL_OPEN, memory_order_relaxed);
        atomic_store_explicit(&cache->impl, impl, memory_order_release);
        near__snapshot_start(impl, cache); /* under the mutex: another closer may have it next */
    } else {
        cache->owned = NULL;
    }
    pthread_mutex_unlock(&registry_mutex);
    if (busy)
        return NEAR_ERR_BUSY;
    int status = near__snapshot_save(impl);
    destroy_impl(impl);
    return status;
}
