/* SPDX-License-Identifier: BSD-3-Clause
 * The conformance checks against memory://, with time that the test moves. */
#include "memory/conformance.h"
#include <stdlib.h>

struct memory_subject {
    struct subject subject;
    _Atomic(int64_t) now_ns;
};

static void pass_ms(struct subject *subject, int64_t ms)
{
    near__clock_advance(&((struct memory_subject *)subject)->now_ns, ms * NEAR_NS_PER_MS);
}

static void foreign_set(struct subject *subject, const char *key, const char *value, size_t value_size)
{
    near__memory_foreign_set(subject->server, key, strlen(key), value, value_size);
}

static void flushall(struct subject *subject)
{
    near__memory_flushall(subject->server);
}

int conformance_setup(void **state)
{
    struct memory_subject *m = calloc(1, sizeof *m);
    struct subject *s = &m->subject;
    m->now_ns = 1000 * NEAR_NS_PER_S;
    assert_int_equal(side_open(&s->a, "conformance", CONFORMANCE_PREFIX, &m->now_ns, NULL), NEAR_OK);
    assert_int_equal(side_open(&s->b, "conformance", CONFORMANCE_PREFIX, &m->now_ns, NULL), NEAR_OK);
    assert_int_equal(side_open(&s->other, "conformance", "", &m->now_ns, NULL), NEAR_OK);
    assert_int_equal(side_open(&s->small, "conformance", CONFORMANCE_PREFIX, &m->now_ns, NULL), NEAR_OK);
    s->small.options.value_max = 1000;
    s->server = side_store(&s->a);
    s->pass_ms = pass_ms;
    s->foreign_set = foreign_set;
    s->flushall = flushall;
    *state = s;
    return 0;
}

int conformance_teardown(void **state)
{
    struct subject *s = *state;
    near__memory_unref(s->server);
    side_close(&s->a);
    side_close(&s->b);
    side_close(&s->other);
    side_close(&s->small);
    free(s);
    return 0;
}
