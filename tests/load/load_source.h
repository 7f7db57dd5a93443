/* SPDX-License-Identifier: BSD-3-Clause
 * A source whose answers, and whose time, a test decides, and who reads through it. */
#ifndef NEAR_TESTS_LOAD_SOURCE_H
#define NEAR_TESTS_LOAD_SOURCE_H
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include "nearcache.h"

/* Who is built with another one reads by the short way of hits, which does not take keys as short as this. */
#ifndef KEY
#define KEY "k"
#endif
#define KEY_SIZE (sizeof(KEY) - 1)

struct source {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int held;   /* loads stop before they answer */
    int inside; /* loads that have begun and not ended */
    int loads;  /* begun */
    int answer; /* what the loader returns */
    int64_t ttl_ms;
    char value[64];
    char old[64]; /* what the last loader was given; "" none */
    uint64_t fence, old_version;
    int silent; /* returns without a value */
};

static inline void source_init(struct source *s, const char *value)
{
    memset(s, 0, sizeof(*s));
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->changed, NULL);
    snprintf(s->value, sizeof(s->value), "%s", value);
}

static inline void source_hold(struct source *s, int held)
{
    pthread_mutex_lock(&s->mutex);
    s->held = held;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mutex);
}

static inline void source_wait_inside(struct source *s, int n)
{
    pthread_mutex_lock(&s->mutex);
    while (s->inside < n)
        pthread_cond_wait(&s->changed, &s->mutex);
    pthread_mutex_unlock(&s->mutex);
}

static inline int source_loads(struct source *s)
{
    pthread_mutex_lock(&s->mutex);
    int loads = s->loads;
    pthread_mutex_unlock(&s->mutex);
    return loads;
}

static inline int load_from(void *arg, const near_load_request *request, near_loaded *loaded)
{
    struct source *s = arg;
    char value[64];
    pthread_mutex_lock(&s->mutex);
    snprintf(value, sizeof(value), "%s", s->value); /* the source is asked at once, the answer may take its time */
    s->loads++;
    s->inside++;
    s->fence = request->fence;
    s->old_version = request->old_version;
    snprintf(s->old, sizeof(s->old), "%.*s", (int)request->old_size,
             request->old_data ? (const char *)request->old_data : "");
    pthread_cond_broadcast(&s->changed);
    while (s->held)
        pthread_cond_wait(&s->changed, &s->mutex);
    s->inside--;
    int answer = s->answer, silent = s->silent;
    int64_t ttl_ms = s->ttl_ms;
    pthread_mutex_unlock(&s->mutex);
    if (ttl_ms)
        near_loaded_ttl(loaded, ttl_ms);
    if (answer == NEAR_OK && !silent)
        near_loaded_value(loaded, value, strlen(value));
    return answer;
}

static __thread uint32_t loaded_from; /* NEAR_FROM_…, of this thread's last load_with that gave a value */

/* What get_or_load gives: the value, or "(STATUS)"; a stale value begins with "stale ". */
static inline const char *load_with(near_cache *c, const char *key, struct source *s, const near_load *options)
{
    static __thread char text[4][160];
    static __thread unsigned turn;
    char *at = text[turn++ % 4];
    near_value value;
    int status = near_get_or_load(c, key, strlen(key), load_from, s, options, &value);
    if (status == NEAR_OK || status == NEAR_STALE)
        snprintf(at, 160, "%s%.*s", status == NEAR_STALE ? "stale " : "", (int)value.size, (const char *)value.data);
    else
        snprintf(at, 160, "(%s)", near_status_name(status));
    loaded_from = value.source;
    near_release(&value);
    return at;
}
static inline const char *load(near_cache *c, const char *key, struct source *s)
{
    return load_with(c, key, s, NULL);
}

/* A reader in a thread of its own; key NULL: KEY. */
struct reader {
    pthread_t thread;
    near_cache *cache;
    struct source *source;
    const near_load *options;
    const char *key;
    char got[160];
    uint32_t from; /* NEAR_FROM_… */
    _Atomic int is_done;
};
static inline void *reader_main(void *arg)
{
    struct reader *r = arg;
    snprintf(r->got, sizeof(r->got), "%s", load_with(r->cache, r->key ? r->key : KEY, r->source, r->options));
    r->from = loaded_from;
    r->is_done = 1;
    return NULL;
}
static inline void reader_start_of(struct reader *r, near_cache *c, const char *key, struct source *s,
                                   const near_load *options)
{
    *r = (struct reader){.cache = c, .source = s, .options = options, .key = key};
    assert_int_equal(pthread_create(&r->thread, NULL, reader_main, r), 0);
}
static inline void reader_start(struct reader *r, near_cache *c, struct source *s, const near_load *options)
{
    reader_start_of(r, c, NULL, s, options);
}
static inline const char *reader_end(struct reader *r)
{
    pthread_join(r->thread, NULL);
    return r->got;
}

static inline near_stats stats_of(near_cache *c)
{
    near_stats stats = {.size = sizeof(stats)};
    assert_int_equal(near_stats_get(c, &stats), NEAR_OK);
    return stats;
}

#endif
