/* SPDX-License-Identifier: BSD-3-Clause
 * What every remote tier must do, whatever it is made of: the same checks run against memory:// and against a real
 * Redis.  A difference between the two is a bug in one of them, and would make every test that trusts memory://
 * worthless. */
#ifndef NEAR_TESTS_CONFORMANCE_H
#define NEAR_TESTS_CONFORMANCE_H
#include "memory/side.h"

#define CONFORMANCE_PREFIX "a*[?]\\b:" /* every character that means something in a pattern */

/* A fresh, empty server with two processes of one prefix and one of another. */
struct subject {
    struct side a, b;
    struct side other; /* prefix "" */
    struct side small; /* the same prefix, value_max 1000 */
    void *server;
    void (*pass_ms)(struct subject *subject, int64_t ms); /* time passes, at least so much */
    /* key with prefix */
    void (*foreign_set)(struct subject *subject, const char *key, const char *value, size_t value_size);
    void (*flushall)(struct subject *subject);
};

/* Makes a subject in *state; NULL: it is not available here, and the tests skip. */
int conformance_setup(void **state);
int conformance_teardown(void **state);

#endif
