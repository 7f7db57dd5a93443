/* SPDX-License-Identifier: BSD-3-Clause
 * A tiny blocking RESP2 client of the tests' own: what they say to Redis beside the library must not go through the
 * library's code. */
#ifndef NEAR_TESTS_RESP_CLIENT_H
#define NEAR_TESTS_RESP_CLIENT_H
#include <stddef.h>

struct resp_text {
    char *data; /* NUL-terminated; NULL before the first reply */
    size_t size, capacity;
};

/* Connects to a unix socket, with time-outs on every step; -1: failed. */
int resp_connect_unix(const char *path, int timeout_ms);
/* Sends one command.  0, or -1. */
int resp_send(int fd, size_t count, const char *const *arguments, const size_t *sizes);
/* Reads one reply and appends it as text: see redis_server_command.  0, or -1. */
int resp_read(int fd, struct resp_text *text);

#endif
