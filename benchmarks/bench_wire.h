/* SPDX-License-Identifier: BSD-3-Clause
 * Plain hiredis: blocking connections as its README shows them, and filling a server quickly. */
#ifndef NEAR_BENCH_WIRE_H
#define NEAR_BENCH_WIRE_H
#include <hiredis/hiredis.h>

#include "bench_keys.h"

/* Where a server is: from a URI as near_open takes it, without TLS and options but db. */
struct bench_endpoint {
    char path[108], host[256], user[128], password[256];
    int port, db;
};
/* 0 when the text is no such URI. */
int bench_endpoint_parse(const char *uri, struct bench_endpoint *ret);
/* The option --uri, whose server must answer: -1 to go on, otherwise the exit status (the text is written). */
int bench_endpoint_option(const char *uri, struct bench_endpoint *ret);

/* A connection, authenticated and on its database; NULL with a text in error. */
redisContext *bench_wire_connect(const struct bench_endpoint *endpoint, char *error, size_t capacity);
/* SET of keys 0 … count-1 with their values, pipelined.  0, or -1 with a text in error. */
int bench_wire_load(redisContext *context, const struct bench_keys *keys, uint32_t count, size_t value_size,
                    char *error, size_t capacity);
/* The value's size, copied into buffer; BENCH_ABSENT, BENCH_BROKEN. */
int64_t bench_wire_get(redisContext *context, const char *key, size_t key_size, void *buffer, size_t capacity);
/* 1 when it was done. */
int bench_wire_set(redisContext *context, const char *key, size_t key_size, const void *value, size_t size);
/* A number from INFO, 0 when it is not there. */
double bench_wire_info_real(redisContext *context, const char *section, const char *name);
/* The same, a whole one, 0 when it is not there. */
uint64_t bench_wire_info(redisContext *context, const char *section, const char *name);

#endif
