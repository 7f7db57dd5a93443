/* SPDX-License-Identifier: BSD-3-Clause
 * A byte stream to a server: name resolution, every address in turn, TLS; never blocks, never raises SIGPIPE.
 *
 * Opening is a state machine that anybody may drive and leave: near__transport_step goes as far as it can, then
 * near__transport_poll says what to wait for.  So a caller with a short deadline leaves a half-open connection behind
 * that the next caller finishes. */
#ifndef NEAR_REMOTE_TRANSPORT_H
#define NEAR_REMOTE_TRANSPORT_H
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/uri.h"
#include "remote/fault.h"
#include "remote/resolve.h"
#include "remote/sentinel.h"
#include "remote/tls.h"

/* Every descriptor the remote has open, so that a child after fork can close them without a lock.  A descriptor that
 * finds no place is merely not closed there (all are close-on-exec). */
enum { NEAR_DESCRIPTORS_MAX = 1024 };
struct near__descriptors {
    atomic_int place[NEAR_DESCRIPTORS_MAX]; /* descriptor + 1; 0: empty */
};
void near__descriptors_add(struct near__descriptors *d, int fd);
void near__descriptors_close(struct near__descriptors *d, int fd); /* -1 is fine */
void near__descriptors_abandon(struct near__descriptors *d);       /* closes all of them */

/* Where to connect; shared by all transports to one server. */
struct near__target {
    const struct near__clock *clock;
    struct near__descriptors *descriptors;
    enum near__uri_kind kind;
    const char *host, *path;
    uint16_t port;
    unsigned user_timeout_ms;          /* TCP_USER_TIMEOUT */
    struct near__tls *tls;             /* TLS only */
    struct near__sentinels *sentinels; /* who say where it is, in place of host and port; NULL: nobody */
    pthread_mutex_t lock;
    struct near__resolution *resolving; /* (lock) at most one helper thread at a time */
    char name[100];                     /* "host:port" or the path, for texts */
};
void near__target_init(struct near__target *t, const struct near__clock *clock, const struct near__uri *uri,
                       unsigned user_timeout_ms, struct near__descriptors *descriptors);
void near__target_fini(struct near__target *t);

enum near__transport_state {
    NEAR_TRANSPORT_ASKING, /* the sentinels */
    NEAR_TRANSPORT_RESOLVING,
    NEAR_TRANSPORT_NEXT, /* begin with the next address */
    NEAR_TRANSPORT_CONNECTING,
    NEAR_TRANSPORT_TLS,
    NEAR_TRANSPORT_OPEN
};
struct near__transport {
    struct near__target *target;
    enum near__transport_state state;
    int fd;                          /* -1: none */
    struct near__question *question; /* to the sentinels */
    unsigned told_by;                /* which of them answered; from RESOLVING on */
    struct near__resolution *resolution;
    const struct addrinfo *address; /* the next one to try */
    int64_t deadline_ns;            /* of opening */
    int64_t attempt_ns;             /* of the present address */
    int64_t retry_ns;               /* do not step before; 0: at once */
    short wants;                    /* of a TLS handshake */
    struct near__tls_session *tls;
    struct near__fault fault; /* of the last address */
};

void near__transport_init(struct near__transport *t, struct near__target *target, int64_t deadline_ns);
void near__transport_fini(struct near__transport *t);
/* 1: open, 0: not yet, -1: failed. */
int near__transport_step(struct near__transport *t, struct near__fault *fault);
/* What to poll for.  Lowers *until_ns to when a step is due without any event. */
struct pollfd near__transport_poll(const struct near__transport *t, int has_output, int64_t *until_ns);

/* On an open transport, one reader and one writer at the same moment.  Bytes, 0: not now, -1: failed or closed. */
ssize_t near__transport_read(struct near__transport *t, void *bytes, size_t size, struct near__fault *fault);
ssize_t near__transport_write(struct near__transport *t, const struct iovec *vectors, int count,
                              struct near__fault *fault);
/* Bytes beyond those written that may nevertheless reach the server. */
size_t near__transport_offered(struct near__transport *t);
/* 1: there is more to read, whatever poll says. */
int near__transport_pending(struct near__transport *t);
/* Tells the other side that nothing more will be written; any thread, on an open transport. */
void near__transport_finish(struct near__transport *t);
/* Ends the stream for both sides; any thread, on an open transport. */
void near__transport_shutdown(struct near__transport *t);

/* poll until an absolute time; an interrupting signal is not news.  The number of ready descriptors, 0 at the time-out
 * and, after a millisecond at most, when the kernel has no memory. */
int near__poll(struct pollfd *descriptors, unsigned count, const struct near__clock *clock, int64_t until_ns);

#endif
