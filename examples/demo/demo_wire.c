/* SPDX-License-Identifier: BSD-3-Clause */
#include "demo_wire.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "demo_board.h"

void wire_init(struct wire *wire)
{
    *wire = (struct wire){.fd = -1};
}

static int wire_fail(struct wire *wire)
{
    if (wire->fd >= 0)
        close(wire->fd);
    wire->fd = -1;
    wire->out_size = wire->in_start = wire->in_end = 0;
    return -1;
}

void wire_close(struct wire *wire)
{
    wire_fail(wire);
    free(wire->out);
    free(wire->in);
    wire_init(wire);
}

int wire_connect(struct wire *wire, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    wire_fail(wire);
    if (strlen(path) >= sizeof address.sun_path)
        return -1;
    memcpy(address.sun_path, path, strlen(path));
    if ((wire->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) < 0)
        return -1;
    return connect(wire->fd, (struct sockaddr *)&address, sizeof address) < 0 ? wire_fail(wire) : 0;
}

/* Makes room in one of the two buffers; the demo cannot go on without memory, so that counts as a broken connection. */
static int reserve(char **buffer, size_t *capacity, size_t needed)
{
    size_t size = *capacity ? *capacity : 4096;
    char *bigger;
    while (size < needed)
        size *= 2;
    if (size == *capacity)
        return 0;
    if (!(bigger = realloc(*buffer, size)))
        return -1;
    *buffer = bigger;
    *capacity = size;
    return 0;
}

static void queue(struct wire *wire, const void *data, size_t size)
{
    if (reserve(&wire->out, &wire->out_capacity, wire->out_size + size) < 0) {
        wire_fail(wire);
        return;
    }
    memcpy(wire->out + wire->out_size, data, size);
    wire->out_size += size;
}

void wire_command(struct wire *wire, size_t count, const char *const *arguments, const size_t *sizes)
{
    char line[32];
    queue(wire, line, (size_t)snprintf(line, sizeof line, "*%zu\r\n", count));
    for (size_t i = 0; i < count; i++) {
        size_t size = sizes ? sizes[i] : strlen(arguments[i]);
        queue(wire, line, (size_t)snprintf(line, sizeof line, "$%zu\r\n", size));
        queue(wire, arguments[i], size);
        queue(wire, "\r\n", 2);
    }
}

/* Waits for events until the deadline.  0, or -1. */
static int wait_for(struct wire *wire, short events, int64_t deadline_ns)
{
    for (;;) {
        struct pollfd p = {.fd = wire->fd, .events = events};
        int64_t left = deadline_ns - board_now();
        int n;
        if (left <= 0)
            return -1;
        n = poll(&p, 1, (int)(left / 1000000 + 1));
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -1;
    }
}

int wire_flush(struct wire *wire, int64_t deadline_ns)
{
    size_t done = 0;
    while (wire->fd >= 0 && done < wire->out_size) {
        ssize_t n = send(wire->fd, wire->out + done, wire->out_size - done, MSG_NOSIGNAL);
        if (n > 0)
            done += (size_t)n;
        else if (n < 0 && errno != EAGAIN && errno != EINTR)
            return wire_fail(wire);
        else if (wait_for(wire, POLLOUT, deadline_ns) < 0)
            return wire_fail(wire);
    }
    wire->out_size = 0;
    return wire->fd >= 0 ? 0 : -1;
}

/* Receives until size bytes wait.  0, or -1. */
static int wire_fill(struct wire *wire, size_t size, int64_t deadline_ns)
{
    while (wire->fd >= 0 && wire->in_end - wire->in_start < size) {
        ssize_t n;
        if (wire->in_start == wire->in_end)
            wire->in_start = wire->in_end = 0;
        if (reserve(&wire->in, &wire->in_capacity, wire->in_start + size + 4096) < 0)
            return wire_fail(wire);
        n = recv(wire->fd, wire->in + wire->in_end, wire->in_capacity - wire->in_end, 0);
        if (n > 0)
            wire->in_end += (size_t)n;
        else if (n == 0 || (errno != EAGAIN && errno != EINTR))
            return wire_fail(wire);
        else if (wait_for(wire, POLLIN, deadline_ns) < 0)
            return wire_fail(wire);
    }
    return wire->fd >= 0 ? 0 : -1;
}

/* Takes a line off the input, without its CRLF. */
static char *wire_line(struct wire *wire, int64_t deadline_ns)
{
    for (size_t looked = 0;;) {
        char *from, *end;
        if (wire_fill(wire, looked + 1, deadline_ns) < 0)
            return NULL;
        from = wire->in + wire->in_start;
        end = memchr(from + looked, '\n', wire->in_end - wire->in_start - looked);
        looked = wire->in_end - wire->in_start;
        if (!end)
            continue;
        wire->in_start += (size_t)(end - from) + 1;
        if (end == from || end[-1] != '\r')
            return wire_fail(wire), NULL;
        end[-1] = 0;
        return from;
    }
}

static enum wire_kind wire_bulk(struct wire *wire, long size, int64_t deadline_ns, struct wire_reply *ret)
{
    if (size < 0)
        return ret->kind = WIRE_NIL;
    if (wire_fill(wire, (size_t)size + 2, deadline_ns) < 0)
        return ret->kind = WIRE_BROKEN;
    ret->data = wire->in + wire->in_start;
    ret->size = (size_t)size;
    wire->in_start += (size_t)size + 2;
    return ret->kind = WIRE_BULK;
}

enum wire_kind wire_read(struct wire *wire, int64_t deadline_ns, struct wire_reply *ret)
{
    char *line;
    *ret = (struct wire_reply){.kind = WIRE_BROKEN};
    if (wire->fd < 0 || !(line = wire_line(wire, deadline_ns)))
        return WIRE_BROKEN;
    ret->data = line + 1;
    ret->size = strlen(line + 1);
    switch (*line) {
    case '+':
        return ret->kind = WIRE_SIMPLE;
    case '-':
        return ret->kind = WIRE_ERROR;
    case ':':
        return ret->kind = WIRE_INTEGER;
    case '$':
        return wire_bulk(wire, strtol(line + 1, NULL, 10), deadline_ns, ret);
    case '*':
        ret->size = strtoul(line + 1, NULL, 10);
        return ret->kind = WIRE_ARRAY;
    default:
        wire_fail(wire);
        return WIRE_BROKEN;
    }
}

enum wire_kind wire_ask(const char *path, int timeout_ms, char *text, size_t capacity, size_t count,
                        const char *const *arguments)
{
    int64_t deadline = board_now() + timeout_ms * INT64_C(1000000);
    struct wire wire;
    struct wire_reply reply = {.kind = WIRE_BROKEN};
    wire_init(&wire);
    if (wire_connect(&wire, path) == 0) {
        wire_command(&wire, count, arguments, NULL);
        if (wire_flush(&wire, deadline) == 0)
            wire_read(&wire, deadline, &reply);
    }
    if (capacity > 0) {
        size_t size = reply.kind == WIRE_BROKEN || !reply.data ? 0 : reply.size < capacity ? reply.size : capacity - 1;
        if (size > 0)
            memcpy(text, reply.data, size);
        text[size] = 0;
    }
    wire_close(&wire);
    return reply.kind;
}
