/* SPDX-License-Identifier: BSD-3-Clause
 * A remote on a private Redis, and short ways to run single requests. */
#ifndef NEAR_TESTS_REMOTE_FIXTURE_H
#define NEAR_TESTS_REMOTE_FIXTURE_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/log.h"
#include "base/options.h"
#include "remote/remote.h"
#include "support/redis_server.h"
#include "support/wait.h"

#define FIXTURE_PREFIX "t:"
#define FIXTURE_POSITION "nearcache:pos:t:"
#define FIXTURE_CHANNEL "nearcache:0:t:"
#define LONG_MS 60000 /* a deadline that only a broken test meets */

struct fixture {
    struct near__alloc alloc;
    struct near__clock clock;
    struct near__log log;
    struct near__uri uri;
    near_options options; /* change before fixture_open */
    struct near__remote *remote;
};

static inline void fixture_init(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    near__alloc_init(&f->alloc, NULL);
    near_options_init(&f->options);
    f->options.prefix = FIXTURE_PREFIX;
    f->options.connect_timeout_ms = LONG_MS;
    f->options.backoff_min_ms = 5;
    f->options.backoff_max_ms = 50;
    f->log.clock = &f->clock;
}

/* NEAR_OK or the status of near__remote_open. */
static inline int fixture_open(struct fixture *f, const char *uri, near_error *error)
{
    struct near__remote_config config = {&f->alloc, &f->clock, &f->log, &f->uri, &f->options};
    int status = near__uri_parse(uri, &f->alloc, &f->options, &f->uri, error);
    if (status == NEAR_OK && (status = near__remote_open(&config, &f->remote, error)) != NEAR_OK)
        near__uri_fini(&f->uri, &f->alloc);
    return status;
}

static inline void fixture_close(struct fixture *f)
{
    if (f->remote) {
        near__remote_close(f->remote);
        near__uri_fini(&f->uri, &f->alloc);
    }
    f->remote = NULL;
}

/* A remote that must open. */
static inline struct fixture *fixture_new(const char *uri)
{
    struct fixture *f = malloc(sizeof *f);
    near_error error = {0, ""};
    fixture_init(f);
    if (fixture_open(f, uri, &error) != NEAR_OK) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
    return f;
}

static inline void fixture_free(struct fixture *f)
{
    fixture_close(f);
    free(f);
}

static inline int64_t fixture_deadline(struct fixture *f, int ms)
{
    return near__now(&f->clock) + ms * NEAR_NS_PER_MS;
}

static inline struct near__request request(enum near__operation operation, const char *key)
{
    struct near__request q;
    memset(&q, 0, sizeof q);
    q.operation = operation;
    q.key = key;
    q.key_size = key ? strlen(key) : 0;
    q.body = "body";
    q.body_size = 4;
    return q;
}

static inline int run_ms(struct fixture *f, struct near__request *q, int ms)
{
    near__remote_run(f->remote, q, 1, fixture_deadline(f, ms));
    return q->status;
}

static inline int run_one(struct fixture *f, struct near__request *q)
{
    return run_ms(f, q, LONG_MS);
}

static inline int do_set(struct fixture *f, const char *key, const char *value)
{
    struct near__request q = request(NEAR_OP_SET, key);
    q.value = value;
    q.value_size = strlen(value);
    return run_one(f, &q);
}

/* The value as text in a static buffer, or the status's name. */
static inline const char *do_fetch(struct fixture *f, const char *key)
{
    static __thread char text[256];
    struct near__request q = request(NEAR_OP_FETCH, key);
    if (run_one(f, &q) != NEAR_OK)
        return near_status_name(q.status);
    snprintf(text, sizeof text, "%.*s", (int)q.value_out_size, (const char *)q.value_out);
    near__free(&f->alloc, q.value_out);
    return text;
}

#endif
