/* SPDX-License-Identifier: BSD-3-Clause
 * One thread, one lock.  The thread polls; whatever it does with connections it does under the lock, and so do the
 * functions that tests call, so a rule is in force when the function that sets it returns.
 *
 *     client ──▶ flow[TO_SERVER]: read, cut?, name?,          queue of chunks, each with a time ──▶ server
 *     client ◀── queue of chunks ◀── cut?, delete/duplicate?, flow[TO_CLIENT] ◀── server
 *
 * What is read is put into the flow's queue at once, so that senders never wait because of a hold.  An end of stream is
 * a chunk of its own (size 0), so that it stays behind the bytes before it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "support/proxy.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "support/resp_stream.h"
#include "support/wait.h"

#define NAME_SEARCH 4096 /* the name is looked for in so many first bytes of a connection */

struct chunk {
    struct chunk *next;
    int64_t due_ms;
    size_t size, done; /* size 0: the end of the stream */
    char bytes[];
};

struct flow {
    int from, to;
    struct chunk *head, **tail;
    int read_ended, write_ended;
    uint64_t held, passed;
    struct resp_stream stream; /* TO_CLIENT */
    int inside;                /* the beginning of the current message has been let through */
    char *message;             /* TO_CLIENT: the current message, while a rule waits for one */
    size_t message_size, message_capacity;
};

struct link {
    struct link *next;
    enum proxy_kind kind;
    int client, server;
    int dead, reset; /* dead: to be closed by the thread, with a reset or without */
    struct flow flow[PROXY_SIDES_];
    char first[NAME_SEARCH];
    size_t first_size;
    char name[64];
};

struct rule {
    enum proxy_mode mode;
    int delay_ms, split;
    int64_t cut; /* bytes, -1: none */
    int cut_reset, cuts;
};

struct edit {
    char *text;
    int count, copies;
};

struct proxy {
    pthread_mutex_t lock;
    pthread_cond_t buried; /* the thread has closed what was marked dead */
    pthread_t thread;
    int wake[2];
    int stop;
    int listener, listener_unix;
    int port;
    char *uri, *uri_unix, *socket_path;
    char *backend;
    int refuse;
    struct link *links;
    struct rule rules[PROXY_KINDS_][PROXY_SIDES_];
    struct edit edits[PROXY_KINDS_];
    int edited[PROXY_KINDS_];
    uint64_t accepted[PROXY_KINDS_];
    uint64_t passed[PROXY_KINDS_][PROXY_SIDES_];
};

static void *must(void *memory)
{
    if (!memory)
        abort();
    return memory;
}

/* ---------------------------------------------------------------- sockets */

static int connect_tcp(const char *host, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
    int fd = -1;
    if (getaddrinfo(host, port, &hints, &list) != 0)
        return -1;
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    return fd;
}

static int connect_to(const char *uri)
{
    char host[256], port[16];
    if (strncmp(uri, "unix://", 7) == 0) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        snprintf(address.sun_path, sizeof address.sun_path, "%s", uri + 7);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
            return fd;
        if (fd >= 0)
            close(fd);
    } else if (sscanf(uri, "redis://%255[^:/]:%15[0-9]", host, port) == 2) {
        return connect_tcp(host, port);
    }
    return -1;
}

static void tune(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* fails harmlessly on unix sockets */
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void close_socket(int fd, int reset)
{
    if (reset)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1, .l_linger = 0}, sizeof(struct linger));
    close(fd);
}

static int listen_tcp(int *ret_port)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 128) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) < 0)
        return -1;
    *ret_port = ntohs(address.sin_port);
    return fd;
}

static int listen_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 128) < 0)
        return -1;
    return fd;
}

/* ---------------------------------------------------------------- rules */

static int matches(const struct link *l, enum proxy_kind kind)
{
    return kind == PROXY_ANY || l->kind == kind;
}

/* Each part of a rule counts for itself: that of the kind where it is set, otherwise that of everybody. */
static enum proxy_mode mode_for(const struct proxy *p, const struct link *l, enum proxy_side side)
{
    enum proxy_mode own = p->rules[l->kind][side].mode;
    return own == PROXY_INHERIT ? p->rules[PROXY_ANY][side].mode : own;
}

static int delay_for(const struct proxy *p, const struct link *l, enum proxy_side side)
{
    int own = p->rules[l->kind][side].delay_ms;
    return own > 0 ? own : p->rules[PROXY_ANY][side].delay_ms;
}

static int split_for(const struct proxy *p, const struct link *l, enum proxy_side side)
{
    return p->rules[l->kind][side].split || p->rules[PROXY_ANY][side].split;
}

static struct rule *cut_for(struct proxy *p, const struct link *l, enum proxy_side side)
{
    struct rule *own = &p->rules[l->kind][side], *any = &p->rules[PROXY_ANY][side];
    return own->cut >= 0 ? own : any->cut >= 0 ? any : NULL;
}

static struct edit *edit_for(struct proxy *p, const struct link *l)
{
    struct edit *own = &p->edits[l->kind], *any = &p->edits[PROXY_ANY];
    return own->count > 0 ? own : any->count > 0 ? any : NULL;
}

/* ---------------------------------------------------------------- flows */

static void enqueue(struct proxy *p, struct link *l, enum proxy_side side, const char *bytes, size_t size)
{
    struct flow *f = &l->flow[side];
    struct chunk *c = must(malloc(sizeof *c + size));
    c->next = NULL;
    c->due_ms = wait_now_ms() + delay_for(p, l, side);
    c->size = size;
    c->done = 0;
    if (size > 0)
        memcpy(c->bytes, bytes, size);
    *f->tail = c;
    f->tail = &c->next;
    f->held += size;
}

static void drop_head(struct flow *f)
{
    struct chunk *c = f->head;
    f->head = c->next;
    if (!f->head)
        f->tail = &f->head;
    f->held -= c->size - c->done;
    free(c);
}

/* Only the thread closes descriptors: nobody else may, while it polls them. */
static void link_close(struct link *l, int reset)
{
    if (!l->dead)
        l->reset = reset;
    l->dead = 1;
}

/* Writes what may go.  Called with the socket writable or not: it never waits. */
static void flow_write(struct proxy *p, struct link *l, enum proxy_side side)
{
    struct flow *f = &l->flow[side];
    int64_t now = wait_now_ms();
    int split = split_for(p, l, side);
    while (!l->dead && f->head && mode_for(p, l, side) == PROXY_PASS && f->head->due_ms <= now) {
        struct chunk *c = f->head;
        if (c->size == 0) {
            f->write_ended = 1;
            shutdown(f->to, SHUT_WR);
            drop_head(f);
            continue;
        }
        size_t want = split ? 1 : c->size - c->done;
        ssize_t n = send(f->to, c->bytes + c->done, want, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n < 0) {
            link_close(l, errno == ECONNRESET);
            return;
        }
        c->done += (size_t)n;
        f->held -= (size_t)n;
        if (c->done == c->size)
            drop_head(f);
    }
    if (l->flow[0].write_ended && l->flow[1].write_ended)
        link_close(l, 0);
}

/* The cut: what is before it goes out first, as far as the sockets take it (tests cut small streams). */
static int apply_cut(struct proxy *p, struct link *l, enum proxy_side side, const char *bytes, size_t size)
{
    struct rule *r = cut_for(p, l, side);
    if (!r)
        return 0;
    if ((uint64_t)r->cut >= size && r->cut > 0) {
        r->cut -= (int64_t)size;
        if (r->cut > 0)
            return 0;
        r->cut = 0;
        enqueue(p, l, side, bytes, size);
    } else if (r->cut > 0) {
        enqueue(p, l, side, bytes, (size_t)r->cut);
    }
    int reset = r->cut_reset;
    r->cut = -1;
    r->cuts++;
    flow_write(p, l, side);
    link_close(l, reset);
    return 1;
}

static void message_ends(struct proxy *p, struct link *l)
{
    struct flow *f = &l->flow[PROXY_TO_CLIENT];
    struct edit *e = edit_for(p, l);
    int copies = 1;
    if (e && f->message_size > 0 && memmem(f->message, f->message_size, e->text, strlen(e->text))) {
        copies = e->copies;
        e->count--;
        p->edited[PROXY_ANY]++;
        if (l->kind != PROXY_ANY)
            p->edited[l->kind]++;
    }
    for (int i = 0; i < copies; i++)
        enqueue(p, l, PROXY_TO_CLIENT, f->message, f->message_size);
    f->message_size = 0;
}

static void message_byte(struct flow *f, char byte)
{
    if (f->message_size == f->message_capacity) {
        f->message_capacity = f->message_capacity ? f->message_capacity * 2 : 1024;
        f->message = must(realloc(f->message, f->message_capacity));
    }
    f->message[f->message_size++] = byte;
}

/* Bytes from the server.  Without a rule they pass as they come, and only the ends of messages are followed; with one,
 * whole messages are gathered, from the next one that begins. */
static void take_replies(struct proxy *p, struct link *l, const char *bytes, size_t size)
{
    struct flow *f = &l->flow[PROXY_TO_CLIENT];
    size_t straight = 0; /* where the bytes begin that pass straight on */
    int gathering = f->message_size > 0 || (!f->inside && edit_for(p, l) != NULL);
    for (size_t i = 0; i < size; i++) {
        if (gathering)
            message_byte(f, bytes[i]);
        f->inside = !gathering;
        if (!resp_stream_feed(&f->stream, bytes[i]))
            continue;
        f->inside = 0;
        if (gathering) {
            message_ends(p, l);
            straight = i + 1;
        }
        int next = edit_for(p, l) != NULL;
        if (next && !gathering) {
            enqueue(p, l, PROXY_TO_CLIENT, bytes + straight, i + 1 - straight);
            straight = i + 1;
        }
        gathering = next;
    }
    if (!gathering && straight < size)
        enqueue(p, l, PROXY_TO_CLIENT, bytes + straight, size - straight);
}

/* Even what vanishes is followed, so that the ends of later messages are found. */
static void swallow(struct flow *f, const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        f->inside = !resp_stream_feed(&f->stream, bytes[i]);
}

/* Looks for SETNAME\r\n$<length>\r\n<name>\r\n among the connection's first bytes. */
static void look_for_name(struct proxy *p, struct link *l, const char *bytes, size_t size)
{
    if (l->name[0] || l->first_size == sizeof l->first)
        return;
    size_t n = size < sizeof l->first - l->first_size ? size : sizeof l->first - l->first_size;
    memcpy(l->first + l->first_size, bytes, n);
    l->first_size += n;
    const char *at = memmem(l->first, l->first_size, "SETNAME\r\n$", 10);
    const char *end = l->first + l->first_size;
    const char *name = at ? memchr(at + 10, '\n', (size_t)(end - at - 10)) : NULL;
    const char *name_end = name ? memmem(name + 1, (size_t)(end - name - 1), "\r\n", 2) : NULL;
    if (!name_end)
        return;
    snprintf(l->name, sizeof l->name, "%.*s", (int)(name_end - name - 1), name + 1);
    size_t length = strlen(l->name);
    if (length >= 4 && strcmp(l->name + length - 4, "-sub") == 0)
        l->kind = PROXY_SUB;
    else if (length >= 5 && strcmp(l->name + length - 5, "-data") == 0)
        l->kind = PROXY_DATA;
    else if (length >= 6 && strcmp(l->name + length - 6, "-track") == 0)
        l->kind = PROXY_TRACK;
    if (l->kind != PROXY_ANY)
        p->accepted[l->kind]++;
}

static void take(struct proxy *p, struct link *l, enum proxy_side side, const char *bytes, size_t size)
{
    l->flow[side].passed += size;
    if (side == PROXY_TO_SERVER)
        look_for_name(p, l, bytes, size);
    p->passed[PROXY_ANY][side] += size;
    if (l->kind != PROXY_ANY)
        p->passed[l->kind][side] += size;
    if (mode_for(p, l, side) == PROXY_SWALLOW)
        swallow(&l->flow[side], bytes, size);
    else if (apply_cut(p, l, side, bytes, size))
        return;
    else if (side == PROXY_TO_CLIENT)
        take_replies(p, l, bytes, size);
    else
        enqueue(p, l, side, bytes, size);
}

static void flow_read(struct proxy *p, struct link *l, enum proxy_side side)
{
    static _Thread_local char bytes[16384];
    struct flow *f = &l->flow[side];
    ssize_t n = recv(f->from, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0 && mode_for(p, l, side) == PROXY_PASS) {
        link_close(l, 1); /* a reset passes through as one */
        return;
    }
    if (n > 0) {
        take(p, l, side, bytes, (size_t)n);
        return;
    }
    f->read_ended = 1;
    if (mode_for(p, l, side) != PROXY_SWALLOW)
        enqueue(p, l, side, NULL, 0);
}

/* ---------------------------------------------------------------- the thread */

static void accept_one(struct proxy *p, int listener)
{
    int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0)
        return;
    int server = p->refuse ? -1 : connect_to(p->backend);
    if (server < 0) {
        close_socket(client, 1);
        return;
    }
    tune(client);
    tune(server);
    struct link *l = must(calloc(1, sizeof *l));
    l->client = client;
    l->server = server;
    l->flow[PROXY_TO_SERVER] = (struct flow){.from = client, .to = server};
    l->flow[PROXY_TO_CLIENT] = (struct flow){.from = server, .to = client};
    for (int side = 0; side < PROXY_SIDES_; side++)
        l->flow[side].tail = &l->flow[side].head;
    l->next = p->links;
    p->links = l;
    p->accepted[PROXY_ANY]++;
}

static void link_free(struct link *l)
{
    close_socket(l->client, l->reset);
    close_socket(l->server, l->reset);
    for (int side = 0; side < PROXY_SIDES_; side++) {
        while (l->flow[side].head)
            drop_head(&l->flow[side]);
        free(l->flow[side].message);
    }
    free(l);
}

static void bury(struct proxy *p)
{
    for (struct link **at = &p->links; *at;) {
        struct link *l = *at;
        if (!l->dead) {
            at = &l->next;
            continue;
        }
        *at = l->next;
        link_free(l);
    }
    pthread_cond_broadcast(&p->buried);
}

static int any_dead(const struct proxy *p)
{
    for (const struct link *l = p->links; l; l = l->next)
        if (l->dead)
            return 1;
    return 0;
}

/* What one flow waits for: to read, to write, or a moment in time. */
static void flow_interest(struct proxy *p, struct link *l, enum proxy_side side, short *from, short *to,
                          int *timeout_ms)
{
    struct flow *f = &l->flow[side];
    if (!f->read_ended)
        *from |= POLLIN;
    if (!f->head || mode_for(p, l, side) != PROXY_PASS)
        return;
    int64_t wait_ms = f->head->due_ms - wait_now_ms();
    if (wait_ms <= 0)
        *to |= POLLOUT;
    else if (*timeout_ms < 0 || wait_ms < *timeout_ms)
        *timeout_ms = (int)wait_ms;
}

static struct pollfd *gather(struct proxy *p, size_t *ret_count, int *timeout_ms)
{
    size_t n = 3;
    for (struct link *l = p->links; l; l = l->next)
        n += 2;
    struct pollfd *fds = must(calloc(n, sizeof *fds));
    fds[0] = (struct pollfd){.fd = p->wake[0], .events = POLLIN};
    fds[1] = (struct pollfd){.fd = p->listener, .events = POLLIN};
    fds[2] = (struct pollfd){.fd = p->listener_unix, .events = POLLIN};
    struct pollfd *at = fds + 3;
    for (struct link *l = p->links; l; l = l->next, at += 2) {
        flow_interest(p, l, PROXY_TO_SERVER, &at[0].events, &at[1].events, timeout_ms);
        flow_interest(p, l, PROXY_TO_CLIENT, &at[1].events, &at[0].events, timeout_ms);
        /* No interest, no entry: poll would report a hang-up again and again. */
        at[0].fd = at[0].events ? l->client : -1;
        at[1].fd = at[1].events ? l->server : -1;
    }
    *ret_count = n;
    return fds;
}

/* The links are those that gather saw, perhaps with newer ones in front, perhaps with dead ones: so match by
 * descriptor. */
static void serve(struct proxy *p, const struct pollfd *fds, size_t count)
{
    for (struct link *l = p->links; l; l = l->next) {
        for (size_t i = 3; i < count && !l->dead; i++) {
            if (!fds[i].revents)
                continue;
            int readable = fds[i].revents & (POLLIN | POLLHUP | POLLERR);
            if (fds[i].fd == l->client && readable && !l->flow[PROXY_TO_SERVER].read_ended)
                flow_read(p, l, PROXY_TO_SERVER);
            else if (fds[i].fd == l->server && readable && !l->flow[PROXY_TO_CLIENT].read_ended)
                flow_read(p, l, PROXY_TO_CLIENT);
        }
        for (int side = 0; side < PROXY_SIDES_; side++)
            if (!l->dead)
                flow_write(p, l, side);
    }
    if (fds[1].revents)
        accept_one(p, p->listener);
    if (fds[2].revents)
        accept_one(p, p->listener_unix);
    if (fds[0].revents) {
        char drain[64];
        while (read(p->wake[0], drain, sizeof drain) > 0)
            ;
    }
}

static void *proxy_main(void *arg)
{
    struct proxy *p = arg;
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        size_t count;
        int timeout_ms = -1;
        bury(p);
        struct pollfd *fds = gather(p, &count, &timeout_ms);
        pthread_mutex_unlock(&p->lock);
        poll(fds, count, timeout_ms);
        pthread_mutex_lock(&p->lock);
        serve(p, fds, count);
        free(fds);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void leave(struct proxy *p)
{
    (void)!write(p->wake[1], "", 1); /* a full pipe wakes as well */
    pthread_mutex_unlock(&p->lock);
}

static void enter(struct proxy *p)
{
    pthread_mutex_lock(&p->lock);
}

/* ---------------------------------------------------------------- what tests call */

static int start_thread(struct proxy *p)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&p->thread, NULL, proxy_main, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed ? -1 : 0;
}

static void listen_beside(struct proxy *p, const char *backend)
{
    static _Atomic(unsigned) number;
    if (asprintf(&p->socket_path, "%s.%u", backend, ++number) < 0 ||
        asprintf(&p->uri_unix, "unix://%s", p->socket_path) < 0)
        abort();
    p->listener_unix = listen_unix(p->socket_path);
}

struct proxy *proxy_start(const char *backend)
{
    struct proxy *p = must(calloc(1, sizeof *p));
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->buried, NULL);
    p->backend = must(strdup(backend));
    p->listener = listen_tcp(&p->port);
    p->listener_unix = -1;
    if (asprintf(&p->uri, "redis://127.0.0.1:%d", p->port) < 0 || pipe2(p->wake, O_CLOEXEC | O_NONBLOCK) < 0)
        abort();
    if (strncmp(backend, "unix://", 7) == 0)
        listen_beside(p, backend + 7);
    for (int kind = 0; kind < PROXY_KINDS_; kind++)
        for (int side = 0; side < PROXY_SIDES_; side++)
            p->rules[kind][side] = (struct rule){.mode = kind == PROXY_ANY ? PROXY_PASS : PROXY_INHERIT, .cut = -1};
    if (p->listener >= 0 && start_thread(p) == 0)
        return p;
    abort();
}

void proxy_free(struct proxy *p)
{
    if (!p)
        return;
    enter(p);
    p->stop = 1;
    leave(p);
    pthread_join(p->thread, NULL);
    for (struct link *l = p->links; l; l = l->next)
        link_close(l, 0);
    bury(p);
    close(p->listener);
    if (p->listener_unix >= 0) {
        close(p->listener_unix);
        unlink(p->socket_path);
    }
    close(p->wake[0]);
    close(p->wake[1]);
    for (int kind = 0; kind < PROXY_KINDS_; kind++)
        free(p->edits[kind].text);
    free(p->uri);
    free(p->uri_unix);
    free(p->socket_path);
    free(p->backend);
    pthread_cond_destroy(&p->buried);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

const char *proxy_uri(const struct proxy *p)
{
    return p->uri;
}
const char *proxy_uri_unix(const struct proxy *p)
{
    return p->uri_unix;
}
int proxy_port(const struct proxy *p)
{
    return p->port;
}

void proxy_mode(struct proxy *p, enum proxy_kind kind, enum proxy_side side, enum proxy_mode mode)
{
    enter(p);
    p->rules[kind][side].mode = kind == PROXY_ANY && mode == PROXY_INHERIT ? PROXY_PASS : mode;
    leave(p);
}

void proxy_delay(struct proxy *p, enum proxy_kind kind, enum proxy_side side, int delay_ms)
{
    enter(p);
    p->rules[kind][side].delay_ms = delay_ms;
    leave(p);
}

void proxy_split(struct proxy *p, enum proxy_kind kind, enum proxy_side side, int on)
{
    enter(p);
    p->rules[kind][side].split = on;
    leave(p);
}

void proxy_refuse(struct proxy *p, int on)
{
    enter(p);
    p->refuse = on;
    leave(p);
}

void proxy_backend(struct proxy *p, const char *backend)
{
    enter(p);
    free(p->backend);
    p->backend = must(strdup(backend));
    leave(p);
}

void proxy_cut(struct proxy *p, enum proxy_kind kind, enum proxy_side side, int64_t bytes, int reset)
{
    enter(p);
    p->rules[kind][side].cut = bytes;
    p->rules[kind][side].cut_reset = reset;
    leave(p);
}

int proxy_cut_done(struct proxy *p, enum proxy_kind kind, enum proxy_side side)
{
    enter(p);
    int cuts = p->rules[kind][side].cuts;
    leave(p);
    return cuts;
}

static void set_edit(struct proxy *p, enum proxy_kind kind, const char *text, int count, int copies)
{
    enter(p);
    free(p->edits[kind].text);
    p->edits[kind] = (struct edit){.text = must(strdup(text)), .count = count, .copies = copies};
    leave(p);
}

void proxy_delete(struct proxy *p, enum proxy_kind kind, const char *text, int count)
{
    set_edit(p, kind, text, count, 0);
}
void proxy_duplicate(struct proxy *p, enum proxy_kind kind, const char *text, int count)
{
    set_edit(p, kind, text, count, 2);
}

int proxy_edited(struct proxy *p, enum proxy_kind kind)
{
    enter(p);
    int edited = p->edited[kind];
    leave(p);
    return edited;
}

int proxy_inject(struct proxy *p, enum proxy_kind kind, const void *bytes, size_t size)
{
    int count = 0;
    enter(p);
    for (struct link *l = p->links; l; l = l->next)
        if (!l->dead && matches(l, kind) && send(l->client, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)size)
            count++;
    leave(p);
    return count;
}

/* Closes those that match kind and are not of the kind to be kept, and waits until the thread has done it. */
static int kill_links(struct proxy *p, enum proxy_kind kind, int keep, int reset)
{
    int count = 0;
    enter(p);
    for (struct link *l = p->links; l; l = l->next)
        if (!l->dead && matches(l, kind) && (int)l->kind != keep) {
            link_close(l, reset);
            count++;
        }
    leave(p);
    enter(p);
    while (any_dead(p))
        pthread_cond_wait(&p->buried, &p->lock);
    leave(p);
    return count;
}

int proxy_kill(struct proxy *p, enum proxy_kind kind, int reset)
{
    return kill_links(p, kind, -1, reset);
}
int proxy_kill_others(struct proxy *p, enum proxy_kind keep, int reset)
{
    return kill_links(p, PROXY_ANY, (int)keep, reset);
}

int proxy_connections(struct proxy *p, enum proxy_kind kind)
{
    int count = 0;
    enter(p);
    for (struct link *l = p->links; l; l = l->next)
        count += !l->dead && matches(l, kind);
    leave(p);
    return count;
}

uint64_t proxy_accepted(struct proxy *p, enum proxy_kind kind)
{
    enter(p);
    uint64_t accepted = p->accepted[kind];
    leave(p);
    return accepted;
}

uint64_t proxy_held(struct proxy *p, enum proxy_kind kind, enum proxy_side side)
{
    uint64_t held = 0;
    enter(p);
    for (struct link *l = p->links; l; l = l->next)
        if (!l->dead && matches(l, kind))
            held += l->flow[side].held;
    leave(p);
    return held;
}

uint64_t proxy_passed(struct proxy *p, enum proxy_kind kind, enum proxy_side side)
{
    enter(p);
    uint64_t passed = p->passed[kind][side];
    leave(p);
    return passed;
}

int proxy_list(struct proxy *p, char *buffer, size_t capacity)
{
    int count = 0;
    size_t size = 0;
    if (capacity > 0)
        buffer[0] = 0;
    enter(p);
    for (struct link *l = p->links; l; l = l->next) {
        if (l->dead)
            continue;
        count++;
        if (size < capacity)
            size += (size_t)snprintf(buffer + size, capacity - size, "%s\n", l->name);
    }
    leave(p);
    return count;
}
