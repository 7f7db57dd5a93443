/* SPDX-License-Identifier: BSD-3-Clause
 * Sockets.  See transport.h.
 *
 *     (ASKING) ──> RESOLVING ──> NEXT ──> CONNECTING ──> (TLS) ──> OPEN
 *                                 ^            │
 *                                 └── failed ──┘         no address left: failed with the last one's fault
 *
 * Each address gets an equal share of the time that is left.  A failed TLS handshake is final: another address of
 * the same name has the same certificate. */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* ppoll */
#endif
#include "remote/transport.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/mutant.h"

enum {
    KEEPALIVE_IDLE_S = 15,
    KEEPALIVE_INTERVAL_S = 5,
    KEEPALIVE_PROBES = 3,
    BACKLOG_PAUSE_MS = 2 /* a unix socket whose backlog is full says EAGAIN at once, and nothing tells when it is not */
};

/* ---------------------------------------------------------------- descriptors */

void near__descriptors_add(struct near__descriptors *d, int fd)
{
    for (int i = 0; i < NEAR_DESCRIPTORS_MAX; i++) {
        int empty = 0;
        /* seq_cst: read by a child of fork only, in the same thread's order */
        if (atomic_compare_exchange_strong(&d->place[i], &empty, fd + 1))
            return;
    }
}

void near__descriptors_close(struct near__descriptors *d, int fd)
{
    if (fd < 0)
        return;
    for (int i = 0; i < NEAR_DESCRIPTORS_MAX; i++) {
        int mine = fd + 1;
        if (atomic_compare_exchange_strong(&d->place[i], &mine, 0))
            break; /* before close: the number may be somebody else's right after */
    }
    close(fd);
}

void near__descriptors_abandon(struct near__descriptors *d)
{
    for (int i = 0; i < NEAR_DESCRIPTORS_MAX; i++) {
        int fd = atomic_exchange(&d->place[i], 0) - 1;
        if (fd >= 0)
            close(fd);
    }
}

/* ---------------------------------------------------------------- target */

void near__target_init(struct near__target *t, const struct near__clock *clock, const struct near__uri *uri,
                       unsigned user_timeout_ms, struct near__descriptors *descriptors)
{
    memset(t, 0, sizeof *t);
    t->clock = clock;
    t->descriptors = descriptors;
    t->kind = uri->kind;
    t->host = uri->host;
    t->path = uri->path;
    t->port = uri->port;
    t->user_timeout_ms = user_timeout_ms;
    pthread_mutex_init(&t->lock, NULL);
    if (uri->kind == NEAR_URI_UNIX)
        snprintf(t->name, sizeof t->name, "%s", uri->path);
    else if (uri->host)
        snprintf(t->name, sizeof t->name, strchr(uri->host, ':') ? "[%.80s]:%u" : "%.80s:%u", uri->host, uri->port);
}

void near__target_fini(struct near__target *t)
{
    near__sentinels_close(t->sentinels);
    near__resolution_unref(t->resolving);
    near__tls_close(t->tls);
    pthread_mutex_destroy(&t->lock);
}

/* With the lock.  What is done is not for those who come later: names may move. */
static void forget_if_done(struct near__target *t)
{
    if (t->resolving && near__resolution_done(t->resolving)) {
        near__resolution_unref(t->resolving);
        t->resolving = NULL;
    }
}

/* A look-up that is still under way is shared: however often we reconnect, one thread at most waits for a silent
 * name server, unless the sentinels name another host than before. */
static struct near__resolution *resolution(struct near__target *t, const char *host, uint16_t port,
                                           struct near__fault *fault)
{
    pthread_mutex_lock(&t->lock);
    forget_if_done(t);
    if (t->resolving && !near__resolution_is_of(t->resolving, host, port)) {
        near__resolution_unref(t->resolving);
        t->resolving = NULL;
    }
    if (!t->resolving)
        t->resolving = near__resolution_start(host, port, fault);
    struct near__resolution *r = t->resolving;
    if (r)
        near__resolution_ref(r);
    pthread_mutex_unlock(&t->lock);
    return r;
}

/* ---------------------------------------------------------------- opening */

void near__transport_init(struct near__transport *t, struct near__target *target, int64_t deadline_ns)
{
    memset(t, 0, sizeof *t);
    t->target = target;
    t->state = target->kind == NEAR_URI_UNIX ? NEAR_TRANSPORT_NEXT
               : target->sentinels           ? NEAR_TRANSPORT_ASKING
                                             : NEAR_TRANSPORT_RESOLVING;
    t->fd = -1;
    t->deadline_ns = deadline_ns;
}

static void close_socket(struct near__transport *t)
{
#ifdef HAVE_TLS
    near__tls_session_free(t->tls);
    t->tls = NULL;
#endif
    near__descriptors_close(t->target->descriptors, t->fd);
    t->fd = -1;
}

/* It has cost a descriptor, which a connection that lasts has no use for. */
static void give_up_addresses(struct near__transport *t)
{
    if (!t->resolution)
        return;
    near__resolution_unref(t->resolution);
    t->resolution = NULL;
    t->address = NULL;
    pthread_mutex_lock(&t->target->lock);
    forget_if_done(t->target);
    pthread_mutex_unlock(&t->target->lock);
}

void near__transport_fini(struct near__transport *t)
{
    close_socket(t);
    near__question_free(t->question);
    t->question = NULL;
    give_up_addresses(t);
}

static int step_asking(struct near__transport *t)
{
    if (!t->question && !(t->question = near__question_new(t->target->sentinels, t->deadline_ns, &t->fault)))
        return -1;
    struct near__told told;
    int r = near__question_step(t->question, &told, &t->fault);
    if (r == 0)
        return 0;
    near__question_free(t->question);
    t->question = NULL;
    if (r < 0)
        return -1;
    t->told_by = told.who;
    t->resolution = resolution(t->target, told.host, told.port, &t->fault);
    if (!t->resolution)
        return -1;
    t->state = NEAR_TRANSPORT_RESOLVING;
    return 1;
}

static int step_resolving(struct near__transport *t)
{
    if (!t->resolution && !(t->resolution = resolution(t->target, t->target->host, t->target->port, &t->fault)))
        return -1;
    if (!near__resolution_done(t->resolution))
        return 0;
    if (t->resolution->error) {
        near__fault_set(&t->fault, NEAR_ERR_RESOLVE, "resolving %s: %s", t->resolution->host,
                        gai_strerror(t->resolution->error));
        return -1;
    }
    t->address = t->resolution->list;
    t->state = NEAR_TRANSPORT_NEXT;
    return 1;
}

static void set_tcp_options(const struct near__transport *t)
{
    int on = 1, idle = KEEPALIVE_IDLE_S, interval = KEEPALIVE_INTERVAL_S, probes = KEEPALIVE_PROBES;
    unsigned user = t->target->user_timeout_ms;
    /* All of them are improvements; a kernel that refuses one still connects. */
    setsockopt(t->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(t->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(t->fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(t->fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    setsockopt(t->fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    setsockopt(t->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user, sizeof user);
}

/* The present address failed with errno; on to the next.  What sentinels tell is often an address of their own network,
 * and only the message shows it. */
static int address_failed(struct near__transport *t)
{
    if (t->target->sentinels)
        near__fault_set(&t->fault, NEAR_ERR_UNAVAILABLE, "connect to %.30s, %.40s port %s: %m", t->target->name,
                        t->resolution->host, t->resolution->port);
    else
        near__fault_set(&t->fault, NEAR_ERR_UNAVAILABLE, "connect to %s: %m", t->target->name);
    close_socket(t);
    t->state = NEAR_TRANSPORT_NEXT;
    return 1;
}

static int open_socket(struct near__transport *t, int family)
{
    t->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (t->fd < 0) {
        near__fault_set(&t->fault, NEAR_ERR_SYSTEM, "socket: %m");
        return -1;
    }
    near__descriptors_add(t->target->descriptors, t->fd);
    return 0;
}

/* EINTR: the connection goes on being made, as with EINPROGRESS. */
static int begin_connect(struct near__transport *t, const struct sockaddr *address, socklen_t size)
{
    t->state = NEAR_TRANSPORT_CONNECTING;
    if (connect(t->fd, address, size) == 0 || errno == EINPROGRESS || errno == EINTR)
        return 1;
    if (errno != EAGAIN || t->target->kind != NEAR_URI_UNIX)
        return address_failed(t);
    close_socket(t);
    t->state = NEAR_TRANSPORT_NEXT;
    t->retry_ns = near__now(t->target->clock) + BACKLOG_PAUSE_MS * NEAR_NS_PER_MS;
    return 0;
}

static int next_unix(struct near__transport *t)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t size = strlen(t->target->path);
    if (t->fault.status) /* there is no second address */
        return -1;
    if (size >= sizeof address.sun_path) {
        near__fault_set(&t->fault, NEAR_ERR_SYSTEM, "the socket's path is longer than %zu bytes",
                        sizeof address.sun_path - 1);
        return -1;
    }
    memcpy(address.sun_path, t->target->path, size + 1);
    if (open_socket(t, AF_UNIX) != 0)
        return -1;
    return begin_connect(t, (struct sockaddr *)&address, sizeof address);
}

static int next_tcp(struct near__transport *t)
{
    const struct addrinfo *a = t->address;
    int64_t now = near__now(t->target->clock);
    int left = 0;
    if (!a)
        return -1;
    for (const struct addrinfo *b = a; b; b = b->ai_next)
        left++;
    t->attempt_ns = left == 1 ? t->deadline_ns : now + (t->deadline_ns - now) / left;
    t->address = a->ai_next;
    if (open_socket(t, a->ai_family) != 0)
        return a->ai_next ? 1 : -1; /* a machine without IPv6, say */
    set_tcp_options(t);
    return begin_connect(t, a->ai_addr, a->ai_addrlen);
}

static int step_next(struct near__transport *t)
{
    if (t->target->kind != NEAR_URI_UNIX)
        return next_tcp(t);
    if (near__now(t->target->clock) < t->retry_ns)
        return 0;
    t->retry_ns = 0;
    return next_unix(t);
}

/* A connection to a free local port can meet itself (both ends choose the same number); then nobody listens there. */
static int met_itself(const struct near__transport *t)
{
    struct sockaddr_storage here, there;
    socklen_t here_size = sizeof here, there_size = sizeof there;
    memset(&here, 0, sizeof here);
    memset(&there, 0, sizeof there);
    return t->target->kind != NEAR_URI_UNIX && getsockname(t->fd, (struct sockaddr *)&here, &here_size) == 0 &&
           getpeername(t->fd, (struct sockaddr *)&there, &there_size) == 0 && here_size == there_size &&
           memcmp(&here, &there, here_size) == 0;
}

static int step_connecting(struct near__transport *t)
{
    struct pollfd p = {t->fd, POLLOUT, 0};
    int error = 0;
    socklen_t size = sizeof error;
    if (near__poll(&p, 1, t->target->clock, 0) == 0) {
        if (t->target->kind == NEAR_URI_UNIX || near__now(t->target->clock) < t->attempt_ns)
            return 0;
        errno = ETIMEDOUT;
        return address_failed(t);
    }
    if (getsockopt(t->fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
        error = errno;
    if (error == 0 && met_itself(t))
        error = ECONNREFUSED;
    if (error) {
        errno = error;
        return address_failed(t);
    }
    t->state = t->target->tls ? NEAR_TRANSPORT_TLS : NEAR_TRANSPORT_OPEN;
    return 1;
}

static int step_tls(struct near__transport *t)
{
#ifdef HAVE_TLS
    if (!t->tls && !(t->tls = near__tls_session_new(t->target->tls, t->resolution->host, t->fd, &t->fault)))
        return -1;
    int r = near__tls_handshake(t->tls, &t->wants, &t->fault);
    if (r == 1)
        t->state = NEAR_TRANSPORT_OPEN;
    return r;
#else
    (void)t;
    return -1; /* no target has tls */
#endif
}

static int step_once(struct near__transport *t)
{
    switch (t->state) {
    case NEAR_TRANSPORT_ASKING:
        return step_asking(t);
    case NEAR_TRANSPORT_RESOLVING:
        return step_resolving(t);
    case NEAR_TRANSPORT_NEXT:
        return step_next(t);
    case NEAR_TRANSPORT_CONNECTING:
        return step_connecting(t);
    default:
        return step_tls(t);
    }
}

static const char *doing(const struct near__transport *t)
{
    return t->state == NEAR_TRANSPORT_ASKING      ? "asking the sentinels for"
           : t->state == NEAR_TRANSPORT_RESOLVING ? "resolving"
           : t->state == NEAR_TRANSPORT_TLS       ? "TLS handshake with"
                                                  : "connect to";
}

int near__transport_step(struct near__transport *t, struct near__fault *fault)
{
    int r = 1;
    while (r == 1 && t->state != NEAR_TRANSPORT_OPEN)
        r = step_once(t);
    if (t->state == NEAR_TRANSPORT_OPEN)
        give_up_addresses(t);
    if (r == 0 && near__now(t->target->clock) >= t->deadline_ns) {
        near__fault_set(&t->fault, NEAR_ERR_UNAVAILABLE, "%s %s: timed out", doing(t), t->target->name);
        r = -1;
    }
    if (r < 0)
        *fault = t->fault;
    return r;
}

struct pollfd near__transport_poll(const struct near__transport *t, int has_output, int64_t *until_ns)
{
    struct pollfd p = {t->fd, 0, 0};
    int64_t due = t->state == NEAR_TRANSPORT_OPEN ? NEAR_NEVER : t->deadline_ns;
    switch (t->state) {
    case NEAR_TRANSPORT_ASKING:
        if (t->question)
            p = near__question_poll(t->question, &due);
        break;
    case NEAR_TRANSPORT_RESOLVING:
        p.fd = t->resolution ? t->resolution->event_fd : -1;
        p.events = POLLIN;
        break;
    case NEAR_TRANSPORT_NEXT:
        due = t->retry_ns;
        break;
    case NEAR_TRANSPORT_CONNECTING:
        p.events = POLLOUT;
        if (t->attempt_ns && t->attempt_ns < due)
            due = t->attempt_ns;
        break;
    case NEAR_TRANSPORT_TLS:
        p.events = t->wants;
        break;
    case NEAR_TRANSPORT_OPEN:
        p.events = has_output ? POLLIN | POLLOUT : POLLIN;
    }
    if (due < *until_ns)
        *until_ns = due;
    return p;
}

/* ---------------------------------------------------------------- open */

ssize_t near__transport_read(struct near__transport *t, void *bytes, size_t size, struct near__fault *fault)
{
#ifdef HAVE_TLS
    if (t->tls)
        return near__tls_read(t->tls, bytes, size, fault);
#endif
    for (;;) {
        ssize_t n = recv(t->fd, bytes, size, MSG_DONTWAIT);
        if (n > 0)
            return n;
        if (n == 0) {
            near__fault_set(fault, NEAR_ERR_IO, "%s closed the connection", t->target->name);
            return -1;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return 0;
        if (errno != EINTR) {
            near__fault_set(fault, NEAR_ERR_IO, "reading from %s: %m", t->target->name);
            return -1;
        }
    }
}

ssize_t near__transport_write(struct near__transport *t, const struct iovec *vectors, int count,
                              struct near__fault *fault)
{
#ifdef HAVE_TLS
    if (t->tls)
        return near__tls_write(t->tls, vectors, count, fault);
#endif
    struct msghdr message = {.msg_iov = (struct iovec *)vectors, .msg_iovlen = (size_t)count};
    for (;;) {
        ssize_t n = sendmsg(t->fd, &message, (NEAR_MUTANT(SIGPIPE_RAISED) ? 0 : MSG_NOSIGNAL) | MSG_DONTWAIT);
        if (n >= 0)
            return n;
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return 0;
        if (errno != EINTR) {
            near__fault_set(fault, NEAR_ERR_IO, "writing to %s: %m", t->target->name);
            return -1;
        }
    }
}

size_t near__transport_offered(struct near__transport *t)
{
#ifdef HAVE_TLS
    if (t->tls)
        return near__tls_offered(t->tls);
#endif
    (void)t;
    return 0;
}

int near__transport_pending(struct near__transport *t)
{
#ifdef HAVE_TLS
    if (t->tls)
        return near__tls_pending(t->tls);
#endif
    (void)t;
    return 0;
}

void near__transport_finish(struct near__transport *t)
{
    if (t->fd >= 0)
        shutdown(t->fd, SHUT_WR);
}

void near__transport_shutdown(struct near__transport *t)
{
    if (t->fd >= 0)
        shutdown(t->fd, SHUT_RDWR);
}

/* At most a millisecond. */
static void pause_until(const struct near__clock *clock, int64_t until_ns)
{
    if (until_ns == NEAR_NEVER || near__now(clock) < until_ns)
        nanosleep(&(struct timespec){.tv_nsec = NEAR_NS_PER_MS}, NULL);
}

int near__poll(struct pollfd *descriptors, unsigned count, const struct near__clock *clock, int64_t until_ns)
{
    for (;;) {
        int64_t left = until_ns == NEAR_NEVER || until_ns == 0 ? 0 : until_ns - near__now(clock);
        if (left < 0)
            left = 0;
        struct timespec t = {(time_t)(left / NEAR_NS_PER_S), (long)(left % NEAR_NS_PER_S)};
        int n = ppoll(descriptors, count, until_ns == NEAR_NEVER ? NULL : &t, NULL);
        if (n >= 0)
            return n;
        if (errno != EINTR) {
            /* out of kernel memory; the caller's deadline still counts, and until then nobody spins */
            pause_until(clock, until_ns);
            return 0;
        }
    }
}
