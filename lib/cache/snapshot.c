/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The option snapshot: the hottest keys are written into a file when the cache is closed, and read into it after it is
 * opened.
 *
 *      near_open ──► thread "near-warm": waits until the local tier may serve, near_warm_file, ends
 *      near_close ─► stops and joins it ─► waits for calls, looks for pins ─► writes the file (lib/cache/warm.c)
 *
 * The thread uses the cache as an application would, so it is a caller like any other: it is stopped before near_close
 * looks for pins, and begins anew if the cache stays open.
 *
 * A file is replaced only by a better one: not by that of a tier that is empty, and not while what is in it has not
 * been read (the remote tier was away all the time).  A damaged one is replaced. */
#include <unistd.h>

#include "base/thread.h"
#include "cache/cache.h"

#define LOOK_MS 20    /* how soon it notices that it is to stop */
#define PAUSE_MS 1000 /* after a failure that may be over by then */

struct near__snapshot {
    struct near__impl *impl;
    near_cache *cache;
    pthread_t thread;
    int running;           /* of who opens and closes */
    _Atomic(int) stopping; /* relaxed: a request to end, which hands nothing over */
    _Atomic(int) status;   /* of the load.  relaxed: a statistic; near_close looks after it has joined the thread */
};

/* ---------------------------------------------------------------- reading */

static int stopping(const struct near__snapshot *s)
{
    return atomic_load_explicit(&s->stopping, memory_order_relaxed);
}

static int is_enough(void *arg, const near_warm_result *so_far)
{
    (void)so_far;
    return stopping(arg);
}

/* 0: it is to stop, or the cache is closed. */
static int wait_for_tier(struct near__snapshot *s)
{
    while (!stopping(s)) {
        int status = near_wait_ready(s->cache, LOOK_MS, NULL);
        if (status == NEAR_OK)
            return 1;
        if (status == NEAR_ERR_CLOSED || status == NEAR_ERR_FORKED)
            return 0;
    }
    return 0;
}

static void rest(struct near__snapshot *s)
{
    static const struct near__clock kernel = {.virtual_ns = NULL};
    for (int ms = 0; ms < PAUSE_MS && !stopping(s); ms += LOOK_MS)
        near__clock_sleep(&kernel, near__now(&kernel) + LOOK_MS * NEAR_NS_PER_MS);
}

static int read_once(struct near__snapshot *s)
{
    near_error error = {0};
    near_warm_options options;
    near_warm_options_init(&options);
    options.progress = is_enough;
    options.progress_arg = s;
    options.keys_per_second = (uint32_t)s->impl->options.snapshot_rate; /* the table's bound fits */
    int status = near_warm_file(s->cache, s->impl->options.snapshot, &options, NULL, &error);
    if (status < 0 && status != NEAR_ERR_CLOSED)
        near__log(&s->impl->log, 4, "core", "snapshot: %s", error.text);
    return status;
}

static void *thread_main(void *arg)
{
    struct near__snapshot *s = arg;
    int status = NEAR_PENDING;
    near__thread_name("near-warm");
    while (status == NEAR_PENDING && wait_for_tier(s)) {
        status = read_once(s);
        if (!near_status_is_transient(status))
            continue;
        status = NEAR_PENDING; /* again from the beginning: what is here already costs a hit */
        rest(s);
    }
    atomic_store_explicit(&s->status, status == NEAR_ERR_CLOSED ? NEAR_PENDING : status, memory_order_relaxed);
    return NULL;
}

/* ---------------------------------------------------------------- life */

int near__snapshot_create(struct near__impl *impl, near_error *error)
{
    if (!impl->options.snapshot)
        return NEAR_OK;
    if (!impl->remote)
        return near__fail(error, NEAR_ERR_OPTION,
                          "snapshot: without a remote tier there is nothing to read its keys from");
    impl->snapshot = near__alloc_zero(&impl->alloc, sizeof(*impl->snapshot));
    if (!impl->snapshot)
        return near__fail(error, NEAR_ERR_NOMEM, "%s", near_status_text(NEAR_ERR_NOMEM));
    impl->snapshot->impl = impl;
    atomic_init(&impl->snapshot->status, impl->options.snapshot_load ? NEAR_PENDING : NEAR_MISS);
    return NEAR_OK;
}

void near__snapshot_destroy(struct near__impl *impl)
{
    near__free(&impl->alloc, impl->snapshot);
}

void near__snapshot_start(struct near__impl *impl, near_cache *cache)
{
    struct near__snapshot *s = impl->snapshot;
    if (!s || atomic_load_explicit(&s->status, memory_order_relaxed) != NEAR_PENDING)
        return;
    if (access(impl->options.snapshot, F_OK) != 0) { /* the first start; others are told when it is read */
        atomic_store_explicit(&s->status, NEAR_MISS, memory_order_relaxed);
        return;
    }
    s->cache = cache;
    atomic_store_explicit(&s->stopping, 0, memory_order_relaxed);
    s->running = near__thread_start(&s->thread, thread_main, s) == 0;
    if (!s->running) /* not logged: the caller may hold a lock */
        atomic_store_explicit(&s->status, NEAR_ERR_SYSTEM, memory_order_relaxed);
}

void near__snapshot_stop(struct near__impl *impl)
{
    struct near__snapshot *s = impl->snapshot;
    if (!s || !s->running)
        return;
    atomic_store_explicit(&s->stopping, 1, memory_order_relaxed);
    pthread_join(s->thread, NULL);
    s->running = 0;
}

int near__snapshot_save(struct near__impl *impl)
{
    near_error error = {0};
    uint64_t keys = 0;
    if (!impl->snapshot || atomic_load_explicit(&impl->snapshot->status, memory_order_relaxed) == NEAR_PENDING)
        return NEAR_OK;
    near_stats stats = {.size = sizeof(stats)};
    near__local_stats(impl->local, &stats);
    if (!stats.local_entries)
        return NEAR_OK;
    if (near__warm_save(impl, impl->options.snapshot, impl->options.snapshot_keys, &keys, &error) != NEAR_OK) {
        near__log(&impl->log, 3, "core", "snapshot: %s", error.text);
        return NEAR_UNSAVED;
    }
    near__log(&impl->log, 6, "core", "snapshot: %llu keys", (unsigned long long)keys);
    return NEAR_OK;
}

int near__snapshot_status(const struct near__impl *impl)
{
    return impl->snapshot ? atomic_load_explicit(&impl->snapshot->status, memory_order_relaxed) : NEAR_MISS;
}
