/* SPDX-License-Identifier: BSD-3-Clause
 * Two processes, as far as a cache goes, on each kind of remote tier: what every test of loading over the whole stack
 * runs on.  Their deadlines and bounds are long, for a busy machine is no reason to ask again. */
#ifndef NEAR_TESTS_LOAD_PAIR_H
#define NEAR_TESTS_LOAD_PAIR_H
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "nearcache.h"
#include "support/redis_server.h"

enum { LONG_MS = 60000 };
enum pair_kind { MEMORY, LOCAL, REDIS };
struct pair {
    enum pair_kind kind;
    near_cache *a, *b; /* with "local:" b is NULL */
};

extern struct redis_server *pair_server;            /* NULL: there is no Redis here, and its tests are skipped */
extern const char *pair_memory_uri;                 /* of a name that is the program's own */
extern void (*pair_options)(near_options *options); /* what the program adds; NULL: nothing */

near_cache *pair_open_one(const char *uri);
int pair_setup_memory(void **state);
int pair_setup_local(void **state);
int pair_setup_redis(void **state); /* emptied */
int pair_teardown(void **state);
struct pair *pair_of(void **state); /* or skips */

/* The value, or "(STATUS)". */
const char *got(near_cache *c, const char *key);
int set(near_cache *c, const char *key, const char *value);

#define ON_ALL(f)                                                                                                      \
    {#f " memory", f, pair_setup_memory, pair_teardown, NULL},                                                         \
        {#f " local", f, pair_setup_local, pair_teardown, NULL},                                                       \
    {                                                                                                                  \
#f " redis", f, pair_setup_redis, pair_teardown, NULL                                                          \
    }

/* Runs the tests beside a server, if there is one. */
#define RUN_BESIDE_REDIS(tests) (pair_begin(), pair_end(cmocka_run_group_tests(tests, NULL, NULL)))
void pair_begin(void);
int pair_end(int failed);

#endif
