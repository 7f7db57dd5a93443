/* SPDX-License-Identifier: BSD-3-Clause
 * Listening and accepting: one thread accepts and deals the connections out in turn, so that every worker has its share
 * (workers that accept for themselves race for connections, and a worker waiting for Redis would still win some). */
#define _GNU_SOURCE /* accept4, pipe2 */
#include "server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { LISTEN_BACKLOG = 511, LISTEN_PAUSE_MS = 100 };

static int fail(int fd, const char *what, const char *where)
{
    fprintf(stderr, "resp-server: cannot %s %s: %s\n", what, where, strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

static int listen_tcp(struct server *server)
{
    const struct settings *s = &server->settings;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)s->port)};
    socklen_t size = sizeof address;
    int on = 1, fd;
    if (inet_pton(AF_INET, s->bind, &address.sin_addr) != 1) {
        fprintf(stderr, "resp-server: --bind %s is not an IPv4 address\n", s->bind);
        return -1;
    }
    if ((fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) < 0)
        return fail(fd, "make a socket for", s->bind);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, LISTEN_BACKLOG) < 0)
        return fail(fd, "listen on", s->bind);
    getsockname(fd, (struct sockaddr *)&address, &size);
    server->port = ntohs(address.sin_port);
    server->listen_tcp = fd;
    return 0;
}

static int listen_unix(struct server *server)
{
    const char *path = server->settings.unixsocket;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat info;
    int fd;
    if (strlen(path) >= sizeof address.sun_path) {
        fprintf(stderr, "resp-server: the socket's path is longer than %zu bytes: %s\n", sizeof address.sun_path - 1,
                path);
        return -1;
    }
    strcpy(address.sun_path, path);
    if (lstat(path, &info) == 0 && S_ISSOCK(info.st_mode))
        unlink(path); /* left by a server that was killed */
    if ((fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) < 0)
        return fail(fd, "make a socket for", path);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, LISTEN_BACKLOG) < 0)
        return fail(fd, "listen on", path);
    server->listen_unix = fd;
    return 0;
}

int listen_open(struct server *server)
{
    server->listen_tcp = server->listen_unix = server->port = -1;
    if (server->settings.port >= 0 && listen_tcp(server) < 0)
        return -1;
    if (server->settings.unixsocket && listen_unix(server) < 0) {
        listen_close(server);
        return -1;
    }
    return 0;
}

void listen_close(struct server *server)
{
    if (server->listen_tcp >= 0)
        close(server->listen_tcp);
    if (server->listen_unix >= 0) {
        close(server->listen_unix);
        unlink(server->settings.unixsocket);
    }
    server->listen_tcp = server->listen_unix = -1;
}

static void refuse(struct server *server, int fd, const char *text)
{
    (void)!send(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT); /* a courtesy; the close says the same */
    close(fd);
    atomic_fetch_add(&server->refused, 1);
}

static void hand_over(struct server *server, int fd, unsigned turn)
{
    struct worker *w = &server->workers[turn % (unsigned)server->worker_count];
    if (atomic_load(&server->clients) >= (uint64_t)server->settings.clients_max) {
        refuse(server, fd, "-ERR max number of clients reached\r\n");
        return;
    }
    atomic_fetch_add(&server->clients, 1);
    atomic_fetch_add(&server->connections, 1);
    if (write(w->pipe[1], &fd, sizeof fd) != sizeof fd) { /* full: the worker is stuck with thousands waiting */
        atomic_fetch_sub(&server->clients, 1);
        refuse(server, fd, "-ERR the server is too busy\r\n");
    }
}

/* Accepts all that wait on fd.  0, or -1 when the process is out of descriptors or memory. */
static int accept_all(struct server *server, int fd, unsigned *turn)
{
    for (;;) {
        int on = 1, client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (client < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (client < 0)
            return errno == EAGAIN ? 0 : -1;
        if (fd == server->listen_tcp)
            setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        hand_over(server, client, (*turn)++);
    }
}

void listen_run(struct server *server, int signal_fd)
{
    struct pollfd polls[3] = {
        {.fd = signal_fd, .events = POLLIN},
        {.fd = server->listen_tcp, .events = POLLIN}, /* -1 is ignored by poll */
        {.fd = server->listen_unix, .events = POLLIN},
    };
    unsigned turn = 0;
    int paused = 0;
    for (;;) {
        int short_of = 0;
        /* Out of descriptors: look at the listeners only now and then, instead of spinning on a ready one. */
        int n = poll(polls, paused ? 1 : 3, paused ? LISTEN_PAUSE_MS : -1);
        if (n > 0 && polls[0].revents)
            return;
        for (int i = 1; i < 3; i++)
            if (polls[i].fd >= 0 && (paused || polls[i].revents))
                short_of |= accept_all(server, polls[i].fd, &turn) < 0;
        paused = short_of;
    }
}
