/* SPDX-License-Identifier: BSD-3-Clause
 * The stage of the tests of the coherence room: a server, a reader A and a writer B, both proven. */
#ifndef NEAR_TESTS_STAGE_H
#define NEAR_TESTS_STAGE_H
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdlib.h>

#include "coherence/process.h"

struct stage {
    struct world world;
    struct process a, b;
};

/* repair_rate: of A, as in struct world. */
static inline int stage_open(void **state, uint32_t repair_rate)
{
    struct stage *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    world_open(&s->world);
    process_open(&s->b, &s->world, 22);
    s->world.repair_rate = repair_rate;
    process_open(&s->a, &s->world, 11);
    process_prove(&s->a);
    process_prove(&s->b);
    process_prove(&s->a);
    *state = s;
    return 0;
}

static inline int stage_close(void **state)
{
    struct stage *s = *state;
    process_close(&s->a);
    process_close(&s->b);
    world_close(&s->world);
    free(s);
    return 0;
}

static inline void assert_hit(struct process *p, const char *key, uint64_t value)
{
    uint64_t found = 0;
    if (!process_hit(p, key, &found))
        fail_msg("%s is not served", key);
    assert_int_equal(found, value);
}

static inline void assert_no_hit(struct process *p, const char *key)
{
    uint64_t found = 0;
    if (process_hit(p, key, &found))
        fail_msg("%s must not be served, but %" PRIu64 " is", key, found);
}

/* B writes, A reads and keeps; both have heard of it. */
static inline void share(struct stage *s, const char *key, uint64_t value)
{
    process_set(&s->b, key, value);
    process_settle(&s->a);
    process_settle(&s->b);
    assert_int_equal(process_fetch(&s->a, key), value);
    assert_hit(&s->a, key, value);
}

#endif
