/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memrchr */
#endif
#include "bench_wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/percent.h"
#include "bench_engine.h"

#define LOAD_BATCH 512
static const struct timeval patience = {.tv_sec = 5}; /* for a server to answer at all */

/* ---------------------------------------------------------------- URI */

/* Up to size characters into a text of that capacity; 0: too long. */
static int take(char *to, size_t capacity, const char *from, size_t size)
{
    if (size >= capacity)
        return 0;
    memcpy(to, from, size);
    to[size] = 0;
    return 1;
}

/* The same of what may be percent-encoded; it is decoded where it is. */
static int take_decoded(char *to, size_t capacity, char *from, size_t size)
{
    return near__percent_decode(from, from, size, &size) && take(to, capacity, from, size);
}

/* The database may also be the query's parameter db: it is the only one that the bare connections need to know. */
static int take_db(struct bench_endpoint *ret, const char *query)
{
    for (; *query; query += strcspn(query, "&")) {
        char *end;
        if (strncmp(++query, "db=", 3) != 0)
            continue;
        ret->db = (int)strtol(query + 3, &end, 10);
        if (end == query + 3 || (*end && *end != '&'))
            return 0;
    }
    return 1;
}

static int take_port(struct bench_endpoint *ret, const char *colon)
{
    char *end;
    long port = strtol(colon + 1, &end, 10);
    ret->port = (int)port;
    return end != colon + 1 && (!*end || *end == '/') && port > 0 && port < 65536;
}

static int take_host(struct bench_endpoint *ret, const char *text)
{
    size_t size;
    ret->port = 6379;
    if (*text == '[') {
        size = strcspn(++text, "]");
        if (!text[size] || !take(ret->host, sizeof(ret->host), text, size))
            return 0;
        text += size + 1;
    } else {
        size = strcspn(text, ":/");
        if (!take(ret->host, sizeof(ret->host), text, size))
            return 0;
        text += size;
    }
    if (*text == ':' && !take_port(ret, text))
        return 0;
    const char *slash = strchr(text, '/');
    if (slash)
        ret->db = atoi(slash + 1);
    return *ret->host && (!*text || *text == ':' || *text == '/');
}

int bench_endpoint_parse(const char *uri, struct bench_endpoint *ret)
{
    char rest[512];
    int is_path = strncmp(uri, "unix://", 7) == 0;
    memset(ret, 0, sizeof(*ret));
    if (!is_path && strncmp(uri, "redis://", 8) != 0)
        return 0;
    const char *text = uri + (is_path ? 7 : 8);
    if (!take(rest, sizeof(rest), text, strcspn(text, "?")))
        return 0;
    char *host = rest, *at = memrchr(rest, '@', strcspn(rest, "/"));
    if (at) {
        char *colon = strchr(rest, ':');
        *at = 0;
        host = at + 1;
        if (!colon || colon > at || !take_decoded(ret->user, sizeof(ret->user), rest, (size_t)(colon - rest)) ||
            !take_decoded(ret->password, sizeof(ret->password), colon + 1, strlen(colon + 1)))
            return 0;
    }
    if (is_path ? *host != '/' || !take_decoded(ret->path, sizeof(ret->path), host, strlen(host))
                : !take_host(ret, host))
        return 0;
    return take_db(ret, text + strcspn(text, "?"));
}

/* ---------------------------------------------------------------- connections */

static int accepted(redisReply *reply)
{
    int good = reply && reply->type != REDIS_REPLY_ERROR;
    freeReplyObject(reply);
    return good;
}

static int introduce(redisContext *context, const struct bench_endpoint *endpoint)
{
    if (*endpoint->user && !accepted(redisCommand(context, "AUTH %s %s", endpoint->user, endpoint->password)))
        return 0;
    if (!*endpoint->user && *endpoint->password && !accepted(redisCommand(context, "AUTH %s", endpoint->password)))
        return 0;
    return !endpoint->db || accepted(redisCommand(context, "SELECT %d", endpoint->db));
}

redisContext *bench_wire_connect(const struct bench_endpoint *endpoint, char *error, size_t capacity)
{
    redisContext *context = *endpoint->path ? redisConnectUnixWithTimeout(endpoint->path, patience)
                                            : redisConnectWithTimeout(endpoint->host, endpoint->port, patience);
    if (context && !context->err && introduce(context, endpoint))
        return context;
    snprintf(error, capacity, "cannot connect to Redis: %s",
             !context       ? "out of memory"
             : context->err ? context->errstr
                            : "the server refuses the credentials or the database");
    if (context)
        redisFree(context);
    return NULL;
}

int bench_endpoint_option(const char *uri, struct bench_endpoint *ret)
{
    char error[256];
    if (!bench_endpoint_parse(uri, ret)) {
        bench_say("--uri: must be redis://[user:password@]host[:port][/db] or unix:///path");
        return BENCH_USAGE;
    }
    redisContext *context = bench_wire_connect(ret, error, sizeof(error));
    int answers = context && redisSetTimeout(context, patience) == REDIS_OK && accepted(redisCommand(context, "PING"));
    if (context && !answers)
        snprintf(error, sizeof(error), "no Redis answers there: %s",
                 context->err ? context->errstr : "PING is refused");
    if (!answers)
        bench_say("--uri: %s", error);
    if (context)
        redisFree(context);
    return answers ? -1 : BENCH_FAILED;
}

/* ---------------------------------------------------------------- commands */

static redisReply *command(redisContext *context, int count, const char *first, const char *key, size_t key_size,
                           const void *value, size_t size)
{
    const char *words[] = {first, key, value};
    size_t sizes[] = {3, key_size, size};
    return redisCommandArgv(context, count, words, sizes);
}

int64_t bench_wire_get(redisContext *context, const char *key, size_t key_size, void *buffer, size_t capacity)
{
    redisReply *reply = command(context, 2, "GET", key, key_size, NULL, 0);
    int64_t size = BENCH_BROKEN;
    if (reply && reply->type == REDIS_REPLY_NIL)
        size = BENCH_ABSENT;
    if (reply && reply->type == REDIS_REPLY_STRING) {
        size = (int64_t)reply->len;
        memcpy(buffer, reply->str, (size_t)reply->len < capacity ? (size_t)reply->len : capacity);
    }
    freeReplyObject(reply);
    return size;
}

int bench_wire_set(redisContext *context, const char *key, size_t key_size, const void *value, size_t size)
{
    return accepted(command(context, 3, "SET", key, key_size, value, size));
}

double bench_wire_info_real(redisContext *context, const char *section, const char *name)
{
    redisReply *reply = redisCommand(context, "INFO %s", section);
    const char *line = reply && reply->type == REDIS_REPLY_STRING ? reply->str : "";
    size_t size = strlen(name);
    double number = 0;
    for (; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        if (strncmp(line, name, size) == 0 && line[size] == ':')
            number = strtod(line + size + 1, NULL);
    }
    freeReplyObject(reply);
    return number;
}

uint64_t bench_wire_info(redisContext *context, const char *section, const char *name)
{
    return (uint64_t)bench_wire_info_real(context, section, name);
}

/* ---------------------------------------------------------------- filling */

static int collect(redisContext *context, uint32_t count)
{
    while (count--) {
        redisReply *reply = NULL;
        if (redisGetReply(context, (void **)&reply) != REDIS_OK || !accepted(reply))
            return 0;
    }
    return 1;
}

int bench_wire_load(redisContext *context, const struct bench_keys *keys, uint32_t count, size_t value_size,
                    char *error, size_t capacity)
{
    void *value = bench_alloc(value_size);
    uint32_t sent = 0;
    int good = 1;
    for (uint32_t number = 0; good && number < count; number++) {
        const char *words[] = {"SET", bench_key_bytes(keys, number), value};
        size_t sizes[] = {3, keys->size, value_size};
        bench_value_write(value, value_size, number, 1);
        good = redisAppendCommandArgv(context, 3, words, sizes) == REDIS_OK;
        if (++sent == LOAD_BATCH) {
            good = good && collect(context, sent);
            sent = 0;
        }
    }
    good = good && collect(context, sent);
    if (!good)
        snprintf(error, capacity, "cannot fill Redis: %s", context->err ? context->errstr : "it refuses");
    free(value);
    return good ? 0 : -1;
}
