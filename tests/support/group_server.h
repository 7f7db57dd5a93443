/* SPDX-License-Identifier: BSD-3-Clause
 * One Redis server for all tests of a program: cmocka's group_setup and group_teardown.  Where there is none to be had,
 * `server` stays NULL and what needs it is skipped. */
#ifndef NEAR_TESTS_GROUP_SERVER_H
#define NEAR_TESTS_GROUP_SERVER_H
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/redis_server.h"

static struct redis_server *server;

/* What a program's own setup calls when it wants another server than the usual one. */
static inline int group_start(const struct redis_server_options *options)
{
    return redis_server_available() && !(server = redis_server_start(options)) ? -1 : 0;
}

static inline int group_setup(void **state)
{
    (void)state;
    return group_start(NULL);
}

static inline int group_teardown(void **state)
{
    (void)state;
    redis_server_free(server);
    return 0;
}

#define NEEDS_SERVER()                                                                                                 \
    (void)state;                                                                                                       \
    if (!server)                                                                                                       \
    skip()

#endif
