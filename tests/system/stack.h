/* SPDX-License-Identifier: BSD-3-Clause
 * What the race tests share: caches over the whole stack, and words for what is done with them.
 *
 * Every near_open is a process of its own as far as coherence goes: its own sender, subscription and local tier.  So A
 * and B in one program are two processes whose every step the test decides.  On memory:// they live in a time that
 * moves only when the test moves it: proofs neither age nor come by themselves, time-outs do not strike, and who is cut
 * off stays cut off. */
#ifndef NEAR_TESTS_STACK_H
#define NEAR_TESTS_STACK_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include "nearcache.h"
#include "remote/memory.h"
#include "support/wait.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define INSTRUMENTED 1
#else
#define INSTRUMENTED 0
#endif
#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#else
#define UNDER_TSAN 0
#endif

#ifdef NEAR_MUTANTS /* where most tests fail, and that is how it should be */
enum { PATIENCE_MS = 5000 };
#else
enum { PATIENCE_MS = 60000 }; /* only ends a test that has failed */
#endif
#define MISS "(NEAR_MISS)"

/* ---------------------------------------------------------------- caches */

/* Small and quick: bound 1 s (250 ms on Redis), short pauses, no log. */
void stack_options(near_options *options);
near_stats stack_stats(near_cache *cache);
/* Real time only.  Returns when everything that was published before the call has been applied: a proof that began
 * after it. */
void stack_check(near_cache *cache);
/* The same whether or not near_check is content with the rest. */
void stack_wait_proof(near_cache *cache);
void stack_close(near_cache *cache); /* NULL is fine */
/* A cache on a real server, in real time; ready. */
near_cache *stack_redis(const char *uri, const char *prefix, uint32_t bound_ms);
/* "prefix" "key" as the server knows it; lives until the thread's fourth next call. */
const char *stack_name(const char *prefix, const char *key);

/* ---------------------------------------------------------------- what a key has: the value, or a status as
 * "(NEAR_MISS)" */

/* The text lives until the thread's fourth next call. */
const char *look(near_cache *cache, const char *key);   /* near_get */
const char *peek(near_cache *cache, const char *key);   /* near_peek: the local tier alone */
const char *bypass(near_cache *cache, const char *key); /* near_get with BYPASS_LOCAL and NO_FILL */
const char *look_with(near_cache *cache, const char *key, uint32_t flags, uint32_t timeout_ms, uint32_t bound_ms);
int put(near_cache *cache, const char *key, const char *value);
int put_with(near_cache *cache, const char *key, const char *value, uint32_t flags, uint32_t timeout_ms);
int put_ttl(near_cache *cache, const char *key, const char *value, int64_t ttl_ms);
int drop_everywhere(near_cache *cache, const char *key); /* near_del */

/* ---------------------------------------------------------------- calls in threads of their own */

struct caller {
    pthread_t thread;
    near_cache *cache;
    const char *key, *value; /* value NULL: a read */
    uint32_t flags, timeout_ms;
    int status;    /* of a write */
    char got[128]; /* as look */
};
void caller_get(struct caller *c, near_cache *cache, const char *key);
void caller_set(struct caller *c, near_cache *cache, const char *key, const char *value);
void caller_start(struct caller *c);
void caller_end(struct caller *c);

/* ---------------------------------------------------------------- two processes on memory://, in a time of our own */

struct stack {
    _Atomic(int64_t) now_ns;
    char uri[64];
    struct near__memory_store *store;
    near_cache *a, *b;
};
/* cmocka's setup and teardown: a store of its own for each test, A and B ready. */
int stack_setup(void **state);
int stack_teardown(void **state);
near_cache *stack_open(struct stack *s, const near_options *options); /* one more */
void stack_reopen_a(struct stack *s, const near_options *options);
/* Moves time; nobody is waited for. */
void stack_skip(struct stack *s, int64_t ms);
/* Lets time pass in steps so small that A's and B's proofs stand throughout. */
void stack_pass(struct stack *s, int64_t ms);
/* Lets time pass until the cache is proven. */
void stack_recover(struct stack *s, near_cache *cache);
/* Lets time pass until everything that was published before the call has been applied: a proof that began after it
 * stands. */
void stack_fence(struct stack *s, near_cache *cache);
/* What the server has. */
const char *stack_server(struct stack *s, const char *key);
void stack_hold(struct stack *s, enum near__memory_fault fault, int operation, int count);
void stack_wait_held(struct stack *s, enum near__memory_fault fault, int n);

#endif
