/* SPDX-License-Identifier: BSD-3-Clause
 * A client's pipeline, run many requests at a time: consecutive GETs are one near_mget, consecutive plain SETs and
 * MSETs one near_mset, consecutive DELs one near_mdel.  A pipeline's requests run in order, and so do these:
 *
 *     a request of another kind       runs what waits first, so a GET sees the SET before it
 *     SETs of one key                 near_mset keeps the order of its items
 *     DELs of one key                 near_mdel need not, and only one of them finds the key: the second one waits
 *     NX, XX, KEEPTTL, other times    not in this batch
 *
 * While an earlier request of a batch is under way a later one is, too; nobody can tell, since nobody knows the outcome
 * of either before its answer comes. */
#include "server.h"

#include <string.h>

/* ---------------------------------------------------------------- reads */

/* Answers items until enough output waits to be read; returns how many have been answered, at least one. */
static size_t answer_reads(struct client *client, struct batch *b)
{
    size_t answered = 0;
    for (size_t i = 0; i < b->count; i++) {
        if (i == 0 || bytes_size(&client->out) < SERVER_OUT_PAUSE) {
            reply_read(client, b->items[i].status, &b->items[i].value);
            answered++;
        }
        near_release(&b->items[i].value);
    }
    return answered;
}

static int run_reads(struct client *client, struct batch *b)
{
    near_item *first = &b->items[0];
    size_t answered;
    count_keys(client, b->count);
    if (b->count == 1)
        first->status = near_get(cache_of(client), first->key, first->key_size, NULL, &first->value);
    else
        near_mget(cache_of(client), b->items, b->count, NULL); /* each item has its own status */
    answered = answer_reads(client, b);
    if (answered < b->count) { /* large values: read them one by one from now on */
        client->batch_max = 1;
        request_rewind(&client->request, b->begins[answered]);
        return 1;
    }
    client->batch_max = client->batch_max * 2 < SERVER_BATCH ? client->batch_max * 2 : SERVER_BATCH;
    return 0;
}

/* ---------------------------------------------------------------- writes */

static void write_items(struct client *client, struct batch *b)
{
    near_cache *cache = cache_of(client);
    near_item *first = &b->items[0];
    if (b->kind == BATCH_SET && b->count == 1)
        first->status = near_set(cache, first->key, first->key_size, first->data, first->size, &b->write, NULL);
    else if (b->kind == BATCH_SET)
        near_mset(cache, b->items, b->count, &b->write, NULL);
    else if (b->count == 1)
        first->status = near_del(cache, first->key, first->key_size, NULL);
    else
        near_mdel(cache, b->items, b->count, NULL);
}

/* The answer to one request that had these items. */
static void answer_write(struct client *client, enum batch_kind kind, const near_item *items, size_t count)
{
    int64_t removed = 0;
    for (size_t i = 0; i < count; i++) {
        if (items[i].status < 0) {
            reply_status(client, items[i].status);
            return;
        }
        removed += items[i].status == NEAR_OK;
    }
    if (kind == BATCH_SET)
        reply_set(client, NEAR_OK);
    else
        reply_integer(client, removed);
}

static void run_writes(struct client *client, struct batch *b)
{
    const near_item *items = b->items;
    write_items(client, b);
    for (size_t i = 0; i < b->requests; i++) {
        answer_write(client, b->kind, items, b->keys[i]);
        items += b->keys[i];
    }
}

int batch_run(struct client *client)
{
    struct batch *b = &client->worker->batch;
    int rewound = 0;
    if (b->count == 0)
        return 0;
    if (b->kind == BATCH_READ)
        rewound = run_reads(client, b);
    else
        run_writes(client, b);
    b->count = b->requests = 0;
    return rewound;
}

/* ---------------------------------------------------------------- what may wait */

/* What a request would add to the batch. */
struct offer {
    enum batch_kind kind;
    near_write write;
    const struct arg *first;
    size_t step; /* from one key to the next */
    size_t count;
};

static int is_plain_set(const struct arg *argv, size_t argc, near_write *write)
{
    int seconds = argc == 5 && arg_is(&argv[3], "ex");
    if (!arg_is(&argv[0], "set"))
        return 0;
    if (seconds || (argc == 5 && arg_is(&argv[3], "px")))
        return ttl_parse(&argv[4], seconds ? 1000 : 1, &write->ttl_ms) == 0;
    return argc == 3;
}

/* 0 when the request is none of those that may wait, or none that is right. */
static int offer_of(const struct arg *argv, size_t argc, struct offer *ret)
{
    *ret = (struct offer){.kind = BATCH_SET, .first = &argv[1], .step = 2, .count = (argc - 1) / 2};
    near_write_init(&ret->write);
    if (argc == 2 && arg_is(&argv[0], "get")) {
        ret->kind = BATCH_READ;
        ret->count = 1;
        return 1;
    }
    if (is_plain_set(argv, argc, &ret->write)) {
        ret->count = 1;
        return 1;
    }
    if (argc > 2 && argc % 2 == 1 && arg_is(&argv[0], "mset"))
        return 1;
    ret->kind = BATCH_DEL;
    ret->step = 1;
    ret->count = argc - 1;
    return argc > 1 && (arg_is(&argv[0], "del") || arg_is(&argv[0], "unlink"));
}

static int has_key(const struct batch *b, const struct arg *key)
{
    for (size_t i = 0; i < b->count; i++)
        if (b->items[i].key_size == key->size && memcmp(b->items[i].key, key->data, key->size) == 0)
            return 1;
    return 0;
}

static int fits(const struct batch *b, size_t most, const struct offer *o)
{
    if (b->count == 0)
        return 1;
    if (b->kind != o->kind || b->count + o->count > most ||
        (o->kind == BATCH_SET && b->write.ttl_ms != o->write.ttl_ms))
        return 0;
    for (size_t i = 0; o->kind == BATCH_DEL && i < o->count; i++)
        if (has_key(b, &o->first[i]))
            return 0;
    return 1;
}

static void add(struct batch *b, const struct offer *o, size_t begin)
{
    b->kind = o->kind;
    b->write = o->write;
    if (o->kind == BATCH_READ)
        b->begins[b->count] = begin;
    b->keys[b->requests++] = o->count;
    for (size_t i = 0; i < o->count; i++) {
        const struct arg *key = &o->first[i * o->step];
        near_item *item = &b->items[b->count++];
        /* the status stays if the call cannot even begin, for want of memory */
        *item = (near_item){.key = key->data, .key_size = key->size, .status = NEAR_ERR_NOMEM};
        if (o->kind == BATCH_SET) {
            item->data = key[1].data;
            item->size = key[1].size;
        }
    }
}

int batch_take(struct client *client, const struct arg *argv, size_t argc, int *ret_taken)
{
    struct batch *b = &client->worker->batch;
    size_t begin = client->request.begin;
    int is_inline = client->in.data[client->in.start + begin] != '*';
    struct offer o;
    *ret_taken = 0;
    /* inline requests cannot be rewound, see request_rewind; long ones fill a call of their own */
    if (!offer_of(argv, argc, &o) || (o.kind == BATCH_READ && is_inline) || o.count > SERVER_WRITES)
        return 0;
    size_t most = o.kind == BATCH_READ ? client->batch_max : SERVER_WRITES;
    if (!fits(b, most, &o) && batch_run(client))
        return 1;
    add(b, &o, begin);
    *ret_taken = 1;
    return b->count >= most ? batch_run(client) : 0;
}
