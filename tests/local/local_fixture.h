/* SPDX-License-Identifier: BSD-3-Clause
 * A local tier with a virtual clock and no keeper thread, for the tests of this room. */
#ifndef NEAR_TESTS_LOCAL_FIXTURE_H
#define NEAR_TESTS_LOCAL_FIXTURE_H
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "local/local.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SCALE(normal, sanitized) (sanitized)
#else
#define SCALE(normal, sanitized) (normal)
#endif

/* cmocka's own comparison is not instrumented: it would not see that memory has been freed. */
#define assert_bytes(data, text) assert_int_equal(memcmp((data), (text), strlen(text)), 0)

#define MS NEAR_NS_PER_MS
#define SEC NEAR_NS_PER_S
#define ANY_BOUND NEAR_NEVER
#define NEAR_POLICIES (NEAR_POLICY_ADAPTIVE + 1)
#define IS_VOLATILE(policy) ((policy) == NEAR_POLICY_VOLATILE_LRU || (policy) == NEAR_POLICY_VOLATILE_RANDOM)

struct fixture {
    _Atomic(int64_t) now_ns;
    struct near__clock clock;
    struct near__alloc alloc;
    struct near__log log;
    struct near__local_config config;
    struct near__local *local;
    struct near__reader *reader;
    struct near__gate *gate;
};

/* Change f->config afterwards, then fixture_open. */
static inline void fixture_init(struct fixture *f)
{
    memset(f, 0, sizeof(*f));
    atomic_store(&f->now_ns, 1000 * SEC);
    f->clock.virtual_ns = &f->now_ns;
    near__alloc_init(&f->alloc, NULL);
    f->config = (struct near__local_config){
        .alloc = &f->alloc, .clock = &f->clock, .log = &f->log, .bytes_max = 4u << 20, .seed = 1, .manual = 1};
}
static inline void fixture_start(struct fixture *f)
{
    assert_int_equal(near__local_open(&f->config, &f->local), NEAR_OK);
    f->reader = near__local_reader(f->local);
    assert_non_null(f->reader);
    f->gate = near__local_gate(f->local);
    atomic_store(&f->gate->proved_ns, NEAR_PROVED_ALWAYS);
}
static inline void fixture_open(struct fixture *f)
{
    fixture_init(f);
    fixture_start(f);
}
static inline void fixture_open_sized(struct fixture *f, uint64_t bytes_max)
{
    fixture_init(f);
    f->config.bytes_max = bytes_max;
    fixture_start(f);
}
static inline void fixture_close(struct fixture *f)
{
    near__local_close(f->local);
}

static inline struct near__ticket ticket(struct fixture *f, const char *key)
{
    return near__local_ticket(f->local, key, strlen(key));
}
static inline int put_ticket(struct fixture *f, struct near__ticket t, const char *key, const char *value,
                             uint64_t position)
{
    return near__local_install(f->local, f->reader, t, key, strlen(key), value, strlen(value), position, -1,
                               near__now(&f->clock));
}
static inline int put(struct fixture *f, const char *key, const char *value, uint64_t position)
{
    return put_ticket(f, ticket(f, key), key, value, position);
}
static inline int put_ttl(struct fixture *f, const char *key, const char *value, uint64_t position, int64_t ttl_ms)
{
    return near__local_install(f->local, f->reader, ticket(f, key), key, strlen(key), value, strlen(value), position,
                               ttl_ms, near__now(&f->clock));
}
/* The value as a string, or a word in brackets for every other outcome. */
static inline const char *get_bound(struct fixture *f, const char *key, int64_t bound_ns, int64_t stale_ns)
{
    static char text[256];
    struct near__view view;
    static const char *const none[] = {"", "(absent)", "(expired)", "(suspect)", "(unproven)", ""};
    enum near__local_result r =
        near__local_copy(f->local, f->reader, key, strlen(key), bound_ns, stale_ns, text, sizeof(text) - 1, &view);
    if (r != NEAR_LOCAL_HIT && r != NEAR_LOCAL_STALE_HIT)
        return none[r];
    text[view.size] = 0;
    return text;
}
static inline const char *get(struct fixture *f, const char *key)
{
    return get_bound(f, key, ANY_BOUND, 0);
}
static inline near_stats stats_of(struct fixture *f)
{
    near_stats stats;
    memset(&stats, 0, sizeof(stats));
    near__local_stats(f->local, &stats);
    return stats;
}

#endif
