/* SPDX-License-Identifier: BSD-3-Clause
 * A worker: an epoll loop over the connections that were handed to it.
 *
 *   readable:  receive a piece → parse and run every complete request → write all replies in one go
 *
 * Backpressure: while a client leaves more than SERVER_OUT_PAUSE bytes of replies unread, its requests wait in the
 * socket; so a client that sends and never reads costs one request's replies at most, and those are limited by
 * output_max. */
#define _GNU_SOURCE /* accept4, pipe2 */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    WORKER_EVENTS = 128,
    WORKER_READ = 16 * 1024,      /* room offered to one receive call */
    WORKER_READ_TURN = 256 * 1024 /* received from one client before the others have their turn */
};

/* ---------------------------------------------------------------- running requests */

static int scratch_reserve(struct worker *w, size_t argc)
{
    struct arg *argv;
    if (argc <= w->argv_capacity)
        return 0;
    if (!(argv = realloc(w->argv, argc * sizeof *argv)))
        return -1;
    w->argv = argv;
    w->argv_capacity = argc;
    return 0;
}

/* Runs the complete request, or leaves it in the batch, pointing into the input, which does not move meanwhile.
 * Returns 1 when the request was rewound, and must wait. */
static int client_run(struct client *c)
{
    struct worker *w = c->worker;
    struct request *r = &c->request;
    int taken, rewound;
    const char *data = c->in.data + c->in.start + r->begin;
    if (r->argc == 0)
        return 0;
    if (scratch_reserve(w, r->argc) < 0) {
        if (batch_run(c))
            return 1;
        reply_error(c, "OOM not enough memory for this request");
        return 0;
    }
    for (size_t i = 0; i < r->argc; i++)
        w->argv[i] = (struct arg){.data = data + r->argv[i].offset, .size = r->argv[i].size};
    /* relaxed: a statistic with one writer */
    atomic_fetch_add_explicit(&w->commands, 1, memory_order_relaxed);
    rewound = batch_take(c, w->argv, r->argc, &taken);
    if (rewound || taken || (rewound = batch_run(c)))
        return rewound;
    command_run(c, w->argv, r->argc);
    return 0;
}

/* An inline request is unquoted where it lies, so it can be parsed only once: reads before it, which may rewind, come
 * first. */
static int reads_before_inline(struct client *c)
{
    const struct batch *b = &c->worker->batch;
    int is_inline = bytes_size(&c->in) > c->request.begin && c->in.data[c->in.start + c->request.begin] != '*';
    return is_inline && b->kind == BATCH_READ && batch_run(c);
}

/* Parses and runs what has been received.  Returns 1 when it stopped because of unread output, otherwise 0. */
static int client_execute(struct client *c)
{
    const struct settings *s = &c->worker->server->settings;
    struct request_limits limits = {.bulk_max = s->bulk_max, .request_max = 2 * s->bulk_max + (16u << 20)};
    const char *error = NULL;
    enum request_state state = REQUEST_READY;
    int rewound = 0;
    while (!rewound && !c->ending && !c->out.failed && bytes_size(&c->out) < SERVER_OUT_PAUSE) {
        if ((rewound = reads_before_inline(c)))
            break;
        state = request_parse(&c->request, c->in.data + c->in.start, bytes_size(&c->in), &limits, &error);
        if (state != REQUEST_READY)
            break;
        rewound = client_run(c);
        if (c->request.position > c->request.begin) /* neither rewound nor left behind already */
            request_next(&c->request);
    }
    rewound = rewound || batch_run(c);
    if (!rewound && (state == REQUEST_BAD || state == REQUEST_NO_MEMORY)) {
        reply_error(c, "ERR Protocol error: %s", state == REQUEST_BAD ? error : "out of memory");
        c->ending = 1;
    }
    bytes_consume(&c->in, request_rebase(&c->request));
    return (rewound || state == REQUEST_READY) && !c->ending && !c->out.failed;
}

/* ---------------------------------------------------------------- connections */

static void client_close(struct client *c)
{
    struct worker *w = c->worker;
    if (c->previous)
        c->previous->next = c->next;
    else
        w->clients = c->next;
    if (c->next)
        c->next->previous = c->previous;
    close(c->fd);
    bytes_fini(&c->in);
    bytes_fini(&c->out);
    request_fini(&c->request);
    free(c);
    atomic_fetch_sub(&w->server->clients, 1);
}

static int client_open(struct worker *w, int fd)
{
    struct server *s = w->server;
    struct client *c = calloc(1, sizeof *c);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (!c || epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        free(c);
        return -1;
    }
    *c = (struct client){.fd = fd, .worker = w, .next = w->clients, .interest = EPOLLIN};
    c->id = atomic_fetch_add(&s->next_id, 1) + 1;
    c->batch_max = SERVER_BATCH;
    c->in.limit = SIZE_MAX / 4; /* the request's own limits hold */
    c->out.limit = s->settings.output_max;
    request_init(&c->request);
    if (w->clients)
        w->clients->previous = c;
    w->clients = c;
    return 0;
}

/* Receives a piece.  1: something came; 0: nothing for now; -1: the other side is done. */
static int client_receive(struct client *c)
{
    ssize_t n;
    size_t room;
    if (bytes_reserve(&c->in, WORKER_READ) < 0)
        return -1;
    room = c->in.capacity - c->in.end;
    n = recv(c->fd, c->in.data + c->in.end, room < WORKER_READ_TURN ? room : WORKER_READ_TURN, 0);
    if (n > 0)
        c->in.end += (size_t)n;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    return n > 0 ? 1 : -1;
}

/* Writes what is queued.  -1: the connection is broken. */
static int client_send(struct client *c)
{
    while (bytes_size(&c->out) > 0) {
        ssize_t n = send(c->fd, c->out.data + c->out.start, bytes_size(&c->out), MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        bytes_consume(&c->out, (size_t)n);
    }
    return 0;
}

static int client_watch(struct client *c)
{
    size_t unread = bytes_size(&c->out);
    struct epoll_event event = {.data.ptr = c};
    if (!c->ending && !c->received_all && unread < SERVER_OUT_PAUSE)
        event.events |= EPOLLIN;
    if (unread > 0)
        event.events |= EPOLLOUT;
    if (event.events == c->interest)
        return 0;
    c->interest = event.events;
    return epoll_ctl(c->worker->epoll, EPOLL_CTL_MOD, c->fd, &event);
}

static void client_event(struct client *c, uint32_t events)
{
    int again;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && c->interest & EPOLLIN) {
        c->received_all = client_receive(c) < 0;
    } else if (events & (EPOLLHUP | EPOLLERR)) {
        client_close(c); /* nobody is there to read the rest */
        return;
    }
    do {
        again = client_execute(c);
        if (c->out.failed || client_send(c) < 0) {
            client_close(c);
            return;
        }
    } while (again && bytes_size(&c->out) < SERVER_OUT_PAUSE);
    if (((c->ending || c->received_all) && bytes_size(&c->out) == 0) || client_watch(c) < 0)
        client_close(c);
}

/* ---------------------------------------------------------------- the loop */

/* Takes new connections from the pipe.  Returns 0 when its other end is closed: time to finish. */
static int worker_accept(struct worker *w)
{
    int fds[64];
    ssize_t n = read(w->pipe[0], fds, sizeof fds); /* whole numbers: writes of four bytes are atomic */
    if (n == 0)
        return 0;
    for (ssize_t i = 0; i < n / (ssize_t)sizeof fds[0]; i++) {
        if (client_open(w, fds[i]) < 0) {
            close(fds[i]);
            atomic_fetch_sub(&w->server->clients, 1);
        }
    }
    return 1;
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct epoll_event events[WORKER_EVENTS];
    int running = 1;
    while (running) {
        int n = epoll_wait(w->epoll, events, WORKER_EVENTS, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == w)
                running = worker_accept(w);
            else
                client_event(events[i].data.ptr, events[i].events);
        }
        if (n < 0 && errno != EINTR)
            break;
    }
    while (w->clients)
        client_close(w->clients);
    return NULL;
}

static int worker_open(struct worker *w)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = w};
    if ((w->epoll = epoll_create1(EPOLL_CLOEXEC)) < 0)
        return -1;
    if (pipe2(w->pipe, O_CLOEXEC | O_NONBLOCK) < 0) {
        w->pipe[0] = w->pipe[1] = -1;
        return -1;
    }
    return epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->pipe[0], &event);
}

static void worker_close(struct worker *w)
{
    if (w->epoll >= 0)
        close(w->epoll);
    if (w->pipe[0] >= 0)
        close(w->pipe[0]);
    if (w->pipe[1] >= 0)
        close(w->pipe[1]);
    free(w->argv);
}

int workers_start(struct server *server)
{
    int count = server->settings.threads;
    if (!(server->workers = calloc((size_t)count, sizeof *server->workers)))
        return -1;
    for (int i = 0; i < count; i++) {
        struct worker *w = &server->workers[i];
        *w = (struct worker){.server = server, .epoll = -1, .pipe = {-1, -1}};
        if (worker_open(w) < 0 || pthread_create(&w->thread, NULL, worker_main, w) != 0) {
            worker_close(w);
            workers_stop(server);
            return -1;
        }
        server->worker_count++;
    }
    return 0;
}

void workers_stop(struct server *server)
{
    for (int i = 0; i < server->worker_count; i++) {
        close(server->workers[i].pipe[1]);
        server->workers[i].pipe[1] = -1;
    }
    for (int i = 0; i < server->worker_count; i++) {
        pthread_join(server->workers[i].thread, NULL);
        worker_close(&server->workers[i]);
    }
    free(server->workers);
    server->workers = NULL;
    server->worker_count = 0;
}
