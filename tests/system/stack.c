/* SPDX-License-Identifier: BSD-3-Clause
 * What the race tests share: see stack.h. */
#include "system/stack.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "cache/cache.h"

/* ---------------------------------------------------------------- caches */

void stack_options(near_options *options)
{
    near_options_init(options);
    options->local_bytes = 8 << 20;
    options->bound_ms = 1000;
    options->timeout_ms = 10000;
    options->connect_timeout_ms = 1000;
    options->backoff_min_ms = 5;
    options->backoff_max_ms = 20;
    options->breaker_failures = 1000000; /* a test that wants the breaker asks for it */
    options->log_level = 0;
    options->message_values = NEAR_VALUES_NEVER; /* what others hold is not for a heartbeat's timing to decide */
}

near_stats stack_stats(near_cache *cache)
{
    near_stats stats = {.size = sizeof(stats)};
    assert_int_equal(near_stats_get(cache, &stats), NEAR_OK);
    return stats;
}

void stack_wait_proof(near_cache *cache)
{
    int64_t since_ms = wait_now_ms(), now_ms;
    near_stats stats;
    do {
        wait_a_moment();
        now_ms = wait_now_ms();
        stats = stack_stats(cache);
        assert_true(now_ms - since_ms < PATIENCE_MS);
    } while (!stats.proven || stats.proof_age_ms >= now_ms - since_ms);
}

const char *stack_name(const char *prefix, const char *key)
{
    static __thread char names[4][64];
    static __thread unsigned next;
    char *name = names[next++ % 4];
    snprintf(name, sizeof(names[0]), "%s%s", prefix, key);
    return name;
}

void stack_check(near_cache *cache)
{
    near_error error = {0};
    int status = near_check(cache, PATIENCE_MS, &error);
    if (status != NEAR_OK)
        print_error("near_check: %s: %s\n", near_status_name(status), error.text);
    assert_int_equal(status, NEAR_OK);
}

void stack_close(near_cache *cache)
{
    if (cache)
        assert_int_equal(near_close(cache), NEAR_OK);
}

static near_cache *open_ready(const char *uri, const near_options *options, _Atomic(int64_t) *virtual_ns)
{
    near_cache *cache = NULL;
    near_error error = {0};
    int status = near__cache_open(uri, options, virtual_ns, &cache, &error);
    if (status == NEAR_OK)
        status = near_wait_ready(cache, PATIENCE_MS, &error);
    if (status != NEAR_OK)
        print_error("%s: %s: %s\n", uri, near_status_name(status), error.text);
    assert_int_equal(status, NEAR_OK);
    return cache;
}

near_cache *stack_redis(const char *uri, const char *prefix, uint32_t bound_ms)
{
    near_options options;
    stack_options(&options);
    options.bound_ms = bound_ms;
    options.prefix = prefix;
    return open_ready(uri, &options, NULL);
}

/* ---------------------------------------------------------------- what a key has */

static char *answer(void)
{
    static __thread char answers[4][128];
    static __thread unsigned next;
    return answers[next++ % 4];
}

static const char *told(int status, const void *data, size_t size)
{
    char *text = answer();
    if (status == NEAR_OK)
        snprintf(text, 128, "%.*s", (int)size, (const char *)data);
    else
        snprintf(text, 128, "(%s)", near_status_name(status));
    return text;
}

const char *look_with(near_cache *cache, const char *key, uint32_t flags, uint32_t timeout_ms, uint32_t bound_ms)
{
    near_value value;
    near_call call;
    near_call_init(&call);
    call.flags = flags;
    call.timeout_ms = timeout_ms;
    call.bound_ms = bound_ms;
    int status = near_get(cache, key, strlen(key), &call, &value);
    const char *text = told(status, value.data, value.size);
    near_release(&value);
    return text;
}

const char *look(near_cache *cache, const char *key)
{
    return look_with(cache, key, 0, 0, 0);
}
const char *bypass(near_cache *cache, const char *key)
{
    return look_with(cache, key, NEAR_BYPASS_LOCAL | NEAR_NO_FILL, 0, 0);
}

const char *peek(near_cache *cache, const char *key)
{
    near_value value;
    int status = near_peek(cache, key, strlen(key), &value);
    const char *text = told(status, value.data, value.size);
    near_release(&value);
    return text;
}

int put_with(near_cache *cache, const char *key, const char *value, uint32_t flags, uint32_t timeout_ms)
{
    near_call call;
    near_call_init(&call);
    call.flags = flags;
    call.timeout_ms = timeout_ms;
    return near_set(cache, key, strlen(key), value, strlen(value), NULL, &call);
}

int put(near_cache *cache, const char *key, const char *value)
{
    return put_with(cache, key, value, 0, 0);
}

int put_ttl(near_cache *cache, const char *key, const char *value, int64_t ttl_ms)
{
    near_write write;
    near_write_init(&write);
    write.ttl_ms = ttl_ms;
    return near_set(cache, key, strlen(key), value, strlen(value), &write, NULL);
}

int drop_everywhere(near_cache *cache, const char *key)
{
    return near_del(cache, key, strlen(key), NULL);
}

/* ---------------------------------------------------------------- calls in threads */

static void *caller_main(void *arg)
{
    struct caller *c = arg;
    if (c->value)
        c->status = put_with(c->cache, c->key, c->value, c->flags, c->timeout_ms);
    else
        snprintf(c->got, sizeof(c->got), "%s", look_with(c->cache, c->key, c->flags, c->timeout_ms, 0));
    return NULL;
}

void caller_start(struct caller *c)
{
    assert_int_equal(pthread_create(&c->thread, NULL, caller_main, c), 0);
}
void caller_end(struct caller *c)
{
    assert_int_equal(pthread_join(c->thread, NULL), 0);
}

void caller_get(struct caller *c, near_cache *cache, const char *key)
{
    *c = (struct caller){.cache = cache, .key = key};
    caller_start(c);
}

void caller_set(struct caller *c, near_cache *cache, const char *key, const char *value)
{
    *c = (struct caller){.cache = cache, .key = key, .value = value};
    caller_start(c);
}

/* ---------------------------------------------------------------- two processes on memory:// */

near_cache *stack_open(struct stack *s, const near_options *options)
{
    near_options mine;
    if (!options) {
        stack_options(&mine);
        mine.timeout_ms = 3600000; /* time-outs come only when a test moves the clock so far */
        mine.connect_timeout_ms = 3600000;
        options = &mine;
    }
    return open_ready(s->uri, options, &s->now_ns);
}

int stack_setup(void **state)
{
    static struct stack stack;
    static unsigned number;
    struct stack *s = &stack;
    struct near__alloc alloc;
    struct near__clock clock = {.virtual_ns = &s->now_ns};
    near_allocator hooks = {0};
    memset(s, 0, sizeof(*s));
    snprintf(s->uri, sizeof(s->uri), "memory://races-%u", ++number);
    atomic_store(&s->now_ns, 1000 * NEAR_NS_PER_S);
    near__alloc_init(&alloc, &hooks);
    s->store = near__memory_ref(s->uri + strlen("memory://"), &alloc, &clock);
    s->a = stack_open(s, NULL);
    s->b = stack_open(s, NULL);
    *state = s;
    return s->store ? 0 : -1;
}

int stack_teardown(void **state)
{
    struct stack *s = *state;
    for (int fault = NEAR_FAULT_NONE + 1; fault < NEAR_FAULT_MAX_; fault++)
        near__memory_fault(s->store, (enum near__memory_fault)fault, 0, 0); /* a test that failed may have left callers
                                                                               waiting */
    stack_close(s->a);
    stack_close(s->b);
    near__memory_unref(s->store);
    return 0;
}

void stack_reopen_a(struct stack *s, const near_options *options)
{
    stack_close(s->a);
    s->a = stack_open(s, options);
}

void stack_skip(struct stack *s, int64_t ms)
{
    near__clock_advance(&s->now_ns, ms * NEAR_NS_PER_MS);
}

/* A proof is due a quarter of the bound after the one before; once due it needs no time of ours. */
static int is_fresh(near_cache *cache)
{
    near_stats stats = stack_stats(cache);
    return stats.proven && stats.proof_age_ms <= 300;
}

void stack_pass(struct stack *s, int64_t ms)
{
    while (ms > 0) {
        int64_t step = ms < 50 ? ms : 50;
        stack_skip(s, step);
        assert_true(wait_until(is_fresh(s->a) && is_fresh(s->b), PATIENCE_MS));
        ms -= step;
    }
}

/* So slowly that the library's threads keep pace, on a busy machine too. */
static void let_time_pass(struct stack *s, int64_t until_ms)
{
    assert_true(wait_now_ms() < until_ms);
    stack_skip(s, 4);
    wait_a_moment();
}

void stack_recover(struct stack *s, near_cache *cache)
{
    int64_t until_ms = wait_now_ms() + PATIENCE_MS;
    while (!stack_stats(cache).proven)
        let_time_pass(s, until_ms);
}

void stack_fence(struct stack *s, near_cache *cache)
{
    int64_t until_ms = wait_now_ms() + PATIENCE_MS;
    stack_skip(s, 1); /* a proof of this very moment may have begun before what the caller did */
    int64_t since_ns = atomic_load(&s->now_ns);
    for (;;) {
        near_stats stats = stack_stats(cache);
        if (stats.proven && stats.proof_age_ms * NEAR_NS_PER_MS <= atomic_load(&s->now_ns) - since_ns)
            return;
        let_time_pass(s, until_ms);
    }
}

const char *stack_server(struct stack *s, const char *key)
{
    char buffer[128];
    size_t size = 0;
    if (!near__memory_peek(s->store, key, strlen(key), buffer, sizeof(buffer), &size))
        return told(NEAR_MISS, NULL, 0);
    return told(NEAR_OK, buffer, size);
}

void stack_hold(struct stack *s, enum near__memory_fault fault, int operation, int count)
{
    near__memory_fault(s->store, fault, operation, count);
}

void stack_wait_held(struct stack *s, enum near__memory_fault fault, int n)
{
    assert_int_equal(near__memory_wait_held(s->store, fault, n, PATIENCE_MS), 0);
}
