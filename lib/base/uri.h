/* SPDX-License-Identifier: BSD-3-Clause
 * URIs of caches: redis, rediss, unix, memory, local; valkey, valkeys and redis-socket are other names of the first
 * three.  redis-sentinel and rediss-sentinel name a list of sentinels in place of the server. */
#ifndef NEAR_BASE_URI_H
#define NEAR_BASE_URI_H
#include <stdint.h>
#include "nearcache.h"
#include "base/alloc.h"

#define NEAR_URI_HOST_SIZE 256

enum near__uri_kind { NEAR_URI_TCP = 1, NEAR_URI_TLS, NEAR_URI_UNIX, NEAR_URI_MEMORY, NEAR_URI_LOCAL };

struct near__uri {
    enum near__uri_kind kind;
    char *host;                /* TCP, TLS: no brackets; NULL if there are sentinels */
    char *sentinels;           /* TCP, TLS: as they stand in the URI, for near__uri_next_host; NULL: none */
    char *path;                /* UNIX: the socket; MEMORY: the name */
    char *username, *password; /* NULL: none */
    uint16_t port;
    uint32_t database;
    char *query; /* this URI's own copy of the text: every pointer above, and options set from it, point into it */
    size_t query_size;
};

/* Parses text; query parameters other than db are set in options (near_option_set), pointing into ret's own memory
 * (ret->query), so ret must outlive the copying of options.  Unknown ones are an error that names them.
 * On error nothing needs freeing, and error never quotes what may be a password. */
int near__uri_parse(const char *text, const struct near__alloc *alloc, near_options *options, struct near__uri *ret,
                    near_error *error);
/* The next host of a list that near__uri_parse has found good; *list goes on to the one after it.  1, or 0 at the
 * end. */
int near__uri_next_host(const char **list, char host[NEAR_URI_HOST_SIZE], uint16_t *ret_port);
void near__uri_fini(struct near__uri *uri, const struct near__alloc *alloc);

#endif
