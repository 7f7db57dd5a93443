/* SPDX-License-Identifier: BSD-3-Clause
 * Host names to addresses without blocking the caller.
 *
 * getaddrinfo cannot be given a deadline and cannot be cancelled.  So it runs in a helper thread that owns half of a
 * counted result; whoever waits does so on a descriptor and may leave.  A thread whose name server is silent goes on
 * alone, with memory of the C library's only, and frees the result when it is the last. */
#ifndef NEAR_REMOTE_RESOLVE_H
#define NEAR_REMOTE_RESOLVE_H
#include <netdb.h>
#include <stdatomic.h>
#include <stdint.h>
#include "remote/fault.h"

struct near__resolution {
    atomic_int refs;
    atomic_int done; /* release by the thread, acquire by near__resolution_done: publishes error and list */
    int event_fd;    /* readable when done; -1 for a numeric host */
    int error;       /* EAI_…, 0: list is there */
    struct addrinfo *list;
    char port[8];
    char host[];
};

/* A numeric host is done at once.  NULL: see fault. */
struct near__resolution *near__resolution_start(const char *host, uint16_t port, struct near__fault *fault);
void near__resolution_ref(struct near__resolution *r);
void near__resolution_unref(struct near__resolution *r); /* NULL is fine */
int near__resolution_done(const struct near__resolution *r);
int near__resolution_is_of(const struct near__resolution *r, const char *host, uint16_t port);

#endif
