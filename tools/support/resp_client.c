/* SPDX-License-Identifier: BSD-3-Clause */
#include "support/resp_client.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

int resp_connect_unix(const char *path, int timeout_ms)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return -1;
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    struct timeval limit = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static int send_all(int fd, const char *bytes, size_t size)
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

int resp_send(int fd, size_t count, const char *const *arguments, const size_t *sizes)
{
    char line[32];
    int n = snprintf(line, sizeof line, "*%zu\r\n", count);
    if (send_all(fd, line, (size_t)n) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        n = snprintf(line, sizeof line, "$%zu\r\n", sizes[i]);
        if (send_all(fd, line, (size_t)n) < 0 || send_all(fd, arguments[i], sizes[i]) < 0 ||
            send_all(fd, "\r\n", 2) < 0)
            return -1;
    }
    return 0;
}

static char *room_for(struct resp_text *text, size_t size)
{
    if (text->size + size + 1 > text->capacity) {
        size_t capacity = (text->size + size + 1) * 2;
        char *data = realloc(text->data, capacity);
        if (!data)
            abort();
        text->data = data;
        text->capacity = capacity;
    }
    return text->data + text->size;
}

static void append(struct resp_text *text, const char *bytes, size_t size)
{
    memcpy(room_for(text, size), bytes, size);
    text->size += size;
    text->data[text->size] = 0;
}

static int read_exactly(int fd, char *into, size_t size)
{
    while (size > 0) {
        ssize_t n = recv(fd, into, size, 0);
        if (n <= 0)
            return -1;
        into += n;
        size -= (size_t)n;
    }
    return 0;
}

/* A byte at a time: nothing behind the line may be taken away, and speed does not matter here. */
static int read_line(int fd, char *line, size_t capacity)
{
    for (size_t n = 0; n < capacity; n++) {
        if (read_exactly(fd, line + n, 1) < 0)
            return -1;
        if (n > 0 && line[n - 1] == '\r' && line[n] == '\n') {
            line[n - 1] = 0;
            return 0;
        }
    }
    return -1;
}

static int read_bulk(int fd, long size, struct resp_text *text)
{
    char end[2];
    if (size < 0) {
        append(text, "(nil)", 5);
        return 0;
    }
    if (read_exactly(fd, room_for(text, (size_t)size), (size_t)size) < 0)
        return -1;
    text->size += (size_t)size;
    text->data[text->size] = 0;
    return read_exactly(fd, end, sizeof end);
}

static int read_array(int fd, long count, struct resp_text *text)
{
    if (count < 0)
        append(text, "(nil)", 5);
    for (long i = 0; i < count; i++) {
        if (i > 0)
            append(text, "\n", 1);
        if (resp_read(fd, text) < 0)
            return -1;
    }
    return 0;
}

int resp_read(int fd, struct resp_text *text)
{
    char line[1024];
    append(text, "", 0);
    if (read_line(fd, line, sizeof line) < 0)
        return -1;
    switch (line[0]) {
    case '+':
    case ':':
        append(text, line + 1, strlen(line + 1));
        return 0;
    case '-':
        append(text, line, strlen(line));
        return 0;
    case '$':
        return read_bulk(fd, strtol(line + 1, NULL, 10), text);
    case '*':
        return read_array(fd, strtol(line + 1, NULL, 10), text);
    default:
        return -1;
    }
}
