/* SPDX-License-Identifier: BSD-3-Clause
 *
 * No local cache at all: a blocking GET through hiredis, one connection a thread, over a unix socket.  What a read
 * costs today. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_engine.h"
#include "bench_wire.h"

struct wires {
    unsigned threads;
    redisContext *context[];
};

static void close_all(void *store)
{
    struct wires *wires = store;
    for (unsigned i = 0; i < wires->threads; i++) {
        if (wires->context[i])
            redisFree(wires->context[i]);
    }
    free(wires);
}

static void *open_all(const struct bench_engine_config *config, char *error, size_t capacity)
{
    struct bench_endpoint endpoint = {0};
    struct wires *wires = calloc(1, sizeof(*wires) + config->threads * sizeof(*wires->context));
    if (!wires) {
        snprintf(error, capacity, "out of memory");
        return NULL;
    }
    snprintf(endpoint.path, sizeof(endpoint.path), "%s", config->socket);
    wires->threads = config->threads;
    for (unsigned i = 0; i < config->threads; i++) {
        if (!(wires->context[i] = bench_wire_connect(&endpoint, error, capacity))) {
            close_all(wires);
            return NULL;
        }
    }
    return wires;
}

static int64_t get(void *store, unsigned thread, struct bench_key key, void *buffer, size_t capacity)
{
    return bench_wire_get(((struct wires *)store)->context[thread], key.bytes, key.size, buffer, capacity);
}

static int set(void *store, unsigned thread, struct bench_key key, const void *value, size_t size)
{
    return bench_wire_set(((struct wires *)store)->context[thread], key.bytes, key.size, value, size) ? 1 : -1;
}

static void take(const redisReply *reply, struct bench_slot *slot)
{
    slot->size = reply->type == REDIS_REPLY_NIL ? BENCH_ABSENT : BENCH_BROKEN;
    if (reply->type == REDIS_REPLY_STRING) {
        slot->size = (int64_t)reply->len;
        memcpy(slot->buffer, reply->str, (size_t)reply->len < slot->capacity ? (size_t)reply->len : slot->capacity);
    }
}

static void mget(void *store, unsigned thread, const struct bench_key *keys, size_t count, struct bench_slot *slots)
{
    const char **words = calloc(count + 1, sizeof(*words));
    size_t *sizes = calloc(count + 1, sizeof(*sizes));
    redisReply *reply = NULL;
    if (words && sizes) {
        words[0] = "MGET";
        sizes[0] = 4;
        for (size_t i = 0; i < count; i++) {
            words[i + 1] = keys[i].bytes;
            sizes[i + 1] = keys[i].size;
        }
        reply = redisCommandArgv(((struct wires *)store)->context[thread], (int)count + 1, words, sizes);
    }
    int good = reply && reply->type == REDIS_REPLY_ARRAY && reply->elements == count;
    for (size_t i = 0; i < count; i++) {
        slots[i].size = BENCH_BROKEN;
        if (good)
            take(reply->element[i], &slots[i]);
    }
    freeReplyObject(reply);
    free(words);
    free(sizes);
}

/* The server's memory, its own needs and those of its connections included. */
static uint64_t memory(void *store, uint64_t *ret_entries)
{
    redisContext *context = ((struct wires *)store)->context[0];
    redisReply *reply = redisCommand(context, "DBSIZE");
    *ret_entries = reply && reply->type == REDIS_REPLY_INTEGER ? (uint64_t)reply->integer : 0;
    freeReplyObject(reply);
    return bench_wire_info(context, "memory", "used_memory");
}

const struct bench_engine bench_engine_hiredis = {
    .name = "hiredis",
    .sentence = "no local cache: blocking GETs on a private redis-server over a unix socket",
    .remote = 1,
    .open = open_all,
    .close = close_all,
    .get = get,
    .set = set,
    .mget = mget,
    .memory = memory,
};
