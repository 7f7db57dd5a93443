/* SPDX-License-Identifier: BSD-3-Clause
 * A server of the tests' own that answers the handshake as Redis does and everything else with the bytes it was told:
 * what a real server never says. */
#ifndef NEAR_TESTS_FAKE_REDIS_H
#define NEAR_TESTS_FAKE_REDIS_H
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct fake_redis {
    int listener, port;
    pthread_t thread;
    /* set before a connection uses them */
    const char *answer; /* to every command that is not of the handshake; NULL: silence */
    size_t answer_size;
    const char *hello;   /* to PING; NULL: +PONG */
    const char *refusal; /* what every connection is told instead of anything else, before it ends; "": it is silent */
    int room;            /* so many connections are served all the same */
    int before_7;        /* knows no script, and takes the line with a script's flags for Lua */
    int every;           /* answers each n-th command only, as with the four of a fetch; 0: each */
    int close_after;     /* closes after so many commands; 0: never */
    atomic_int accepted, commands, stopping;
    int client[64];
};

static inline size_t fake_line(const char *at, const char *end, long *ret)
{
    const char *eol = memchr(at, '\n', (size_t)(end - at));
    *ret = eol ? strtol(at + 1, NULL, 10) : 0;
    return eol ? (size_t)(eol - at) + 1 : 0;
}

/* The size of the first command, 0 when it is not complete; its name, and how it goes on, in name. */
static inline size_t fake_command(const char *bytes, size_t size, char *name, size_t capacity)
{
    const char *at = bytes, *end = bytes + size;
    long count, length;
    size_t n = fake_line(at, end, &count);
    if (!n)
        return 0;
    at += n;
    name[0] = '\0';
    for (long i = 0; i < count; i++) {
        if (at >= end || !(n = fake_line(at, end, &length)) || end - at < (long)n + length + 2)
            return 0;
        if (i < 2 && strlen(name) + 44 < capacity)
            strncat(strncat(name, at + n, length < 42 ? (size_t)length : 42), " ", 2);
        at += n + (size_t)length + 2;
    }
    return (size_t)(at - bytes);
}

static inline int fake_send(int fd, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t n = send(fd, bytes, size, MSG_NOSIGNAL);
        if (n <= 0)
            return -1;
        bytes += n;
        size -= (size_t)n;
    }
    return 0;
}

static inline int fake_answer(struct fake_redis *f, int fd, const char *name)
{
    static const char server[] = "$16\r\nrun_id:fake-id\r\n\r\n", replication[] = "$20\r\nmaster_replid:abcd\r\n\r\n";
    static const char no_script[] = "-NOSCRIPT No matching script. Please use EVAL.\r\n";
    static const char no_flags[] =
        "-ERR Error compiling script (new function): user_script:1: unexpected symbol near '#' \r\n";
    if (strncmp(name, "AUTH", 4) == 0 || strncmp(name, "CLIENT", 6) == 0 || strncmp(name, "SELECT", 6) == 0)
        return fake_send(fd, "+OK\r\n", 5);
    if (strncmp(name, "PING", 4) == 0 && !f->hello)
        return fake_send(fd, "+PONG\r\n", 7);
    if (strncmp(name, "PING", 4) == 0)
        return fake_send(fd, f->hello, strlen(f->hello));
    if (strncmp(name, "INFO server", 11) == 0)
        return fake_send(fd, server, sizeof server - 1);
    if (strncmp(name, "INFO replication", 16) == 0)
        return fake_send(fd, replication, sizeof replication - 1);
    if (f->before_7 && strncmp(name, "EVALSHA ", 8) == 0)
        return fake_send(fd, no_script, sizeof no_script - 1);
    if (f->before_7 && strncmp(name, "EVAL #!", 7) == 0)
        return fake_send(fd, no_flags, sizeof no_flags - 1);
    int n = atomic_fetch_add(&f->commands, 1) + 1;
    if (f->answer && (!f->every || n % f->every == 0) && fake_send(fd, f->answer, f->answer_size) != 0)
        return -1;
    return f->close_after && n >= f->close_after ? -1 : 0;
}

struct fake_client {
    struct fake_redis *f;
    int fd;
    const char *refusal; /* NULL: it is served */
};

static inline void *fake_serve(void *arg)
{
    struct fake_client *c = arg;
    static __thread char buffer[1 << 20];
    char name[128];
    size_t size = 0, used;
    if (c->refusal)
        fake_send(c->fd, c->refusal, strlen(c->refusal));
    while (c->refusal && !*c->refusal && recv(c->fd, buffer, sizeof buffer, 0) > 0)
        ;
    while (!c->refusal) {
        ssize_t n = recv(c->fd, buffer + size, sizeof buffer - size, 0);
        if (n <= 0)
            break;
        size += (size_t)n;
        int failed = 0;
        while (!failed && (used = fake_command(buffer, size, name, sizeof name)) > 0) {
            failed = fake_answer(c->f, c->fd, name) != 0;
            memmove(buffer, buffer + used, size - used);
            size -= used;
        }
        if (failed)
            break;
    }
    shutdown(c->fd, SHUT_RDWR);
    free(c);
    return NULL;
}

static inline void *fake_accept(void *arg)
{
    struct fake_redis *f = arg;
    pthread_t thread[64];
    int threads = 0;
    while (threads < 64) {
        int fd = accept(f->listener, NULL, NULL);
        if (fd < 0 || atomic_load(&f->stopping)) {
            if (fd >= 0)
                close(fd);
            break;
        }
        struct fake_client *c = malloc(sizeof *c);
        *c = (struct fake_client){f, fd, threads < f->room ? NULL : f->refusal};
        f->client[threads] = fd;
        atomic_fetch_add(&f->accepted, 1);
        pthread_create(&thread[threads++], NULL, fake_serve, c);
    }
    for (int i = 0; i < threads; i++) {
        shutdown(f->client[i], SHUT_RDWR);
        pthread_join(thread[i], NULL);
        close(f->client[i]);
    }
    return NULL;
}

static inline struct fake_redis *fake_redis_start(const char *answer, size_t size)
{
    struct fake_redis *f = calloc(1, sizeof *f);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    f->answer = answer;
    f->answer_size = size;
    f->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(f->listener, (struct sockaddr *)&a, n) != 0 || listen(f->listener, 64) != 0 ||
        getsockname(f->listener, (struct sockaddr *)&a, &n) != 0)
        abort();
    f->port = ntohs(a.sin_port);
    pthread_create(&f->thread, NULL, fake_accept, f);
    return f;
}

static inline const char *fake_redis_uri(struct fake_redis *f)
{
    static char uri[64];
    snprintf(uri, sizeof uri, "redis://127.0.0.1:%d", f->port);
    return uri;
}

static inline void fake_redis_free(struct fake_redis *f)
{
    atomic_store(&f->stopping, 1);
    shutdown(f->listener, SHUT_RDWR);
    pthread_join(f->thread, NULL);
    close(f->listener);
    free(f);
}

#endif
