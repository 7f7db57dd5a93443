/* SPDX-License-Identifier: BSD-3-Clause
 * The commands on keys: each is one call of the library and the translation of its status. */
#include "server.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef void (*command_fn)(struct client *client, const struct arg *argv, size_t argc);

struct command {
    const char *name;
    int arity; /* as in Redis: the command's name counts; negative: at least so many */
    command_fn run;
};

near_cache *cache_of(const struct client *client)
{
    return client->worker->server->cache;
}

void count_keys(struct client *client, size_t count)
{
    /* relaxed: a statistic with one writer */
    atomic_fetch_add_explicit(&client->worker->keys_read, count, memory_order_relaxed);
}

static void reply_syntax(struct client *client)
{
    reply_error(client, "ERR syntax error");
}

/* ---------------------------------------------------------------- reading */

void reply_read(struct client *client, int status, const near_value *value)
{
    if (status == NEAR_OK || status == NEAR_STALE)
        reply_bulk(client, value->data, value->size);
    else if (status == NEAR_MISS)
        reply_nil(client);
    else
        reply_status(client, status);
}

static void run_get(struct client *client, const struct arg *argv, size_t argc)
{
    near_value value = {0};
    int status = near_get(cache_of(client), argv[1].data, argv[1].size, NULL, &value);
    (void)argc;
    count_keys(client, 1);
    reply_read(client, status, &value);
    near_release(&value);
}

/* Reads keys a batch at a time, and calls each for every item; stops when it returns nonzero, and returns that. */
static int read_keys(struct client *client, const struct arg *keys, size_t count,
                     int (*each)(struct client *client, const near_item *item, void *arg), void *arg)
{
    near_item *items = client->worker->batch.items; /* free: batch_run comes before every other command */
    int result = 0;
    count_keys(client, count);
    for (size_t done = 0; done < count && result == 0;) {
        size_t n = count - done < SERVER_BATCH ? count - done : SERVER_BATCH;
        for (size_t i = 0; i < n; i++)
            items[i] = (near_item){.key = keys[done + i].data, .key_size = keys[done + i].size};
        near_mget(cache_of(client), items, n, NULL);
        for (size_t i = 0; i < n; i++) {
            if (result == 0)
                result = each(client, &items[i], arg);
            near_release(&items[i].value);
        }
        done += n;
        if (client->out.failed)
            result = NEAR_ERR_NOMEM;
    }
    return result;
}

static int each_mget(struct client *client, const near_item *item, void *arg)
{
    (void)arg;
    if (item->status == NEAR_ERR_WRONG_TYPE) /* as Redis: a key that is no string reads as nil */
        reply_nil(client);
    else if (item->status < 0)
        return item->status;
    else
        reply_read(client, item->status, &item->value);
    return 0;
}

static void run_mget(struct client *client, const struct arg *argv, size_t argc)
{
    size_t mark = reply_mark(client);
    int status;
    reply_array(client, argc - 1);
    if ((status = read_keys(client, argv + 1, argc - 1, each_mget, NULL)) != 0) {
        reply_rollback(client, mark); /* RESP2 clients do not look for errors inside an array */
        reply_status(client, status);
    }
}

static int each_exists(struct client *client, const near_item *item, void *arg)
{
    (void)client;
    if (item->status < 0 && item->status != NEAR_ERR_WRONG_TYPE)
        return item->status;
    *(int64_t *)arg += item->status != NEAR_MISS;
    return 0;
}

static void run_exists(struct client *client, const struct arg *argv, size_t argc)
{
    int64_t found = 0;
    int status = read_keys(client, argv + 1, argc - 1, each_exists, &found);
    if (status < 0)
        reply_status(client, status);
    else
        reply_integer(client, found);
}

/* The time left of a key: -2 absent, -1 no expiry; otherwise an error status in *ret_status. */
static int64_t time_left(struct client *client, const struct arg *key, int *ret_status)
{
    near_value value = {0};
    int64_t ttl_ms;
    *ret_status = near_get(cache_of(client), key->data, key->size, NULL, &value);
    ttl_ms = *ret_status == NEAR_MISS ? -2 : value.ttl_ms;
    near_release(&value);
    return ttl_ms;
}

static void reply_time_left(struct client *client, const struct arg *key, int64_t unit_ms)
{
    int status;
    int64_t ttl_ms = time_left(client, key, &status);
    if (status < 0)
        reply_status(client, status);
    else
        reply_integer(client, ttl_ms < 0 ? ttl_ms : (ttl_ms + unit_ms / 2) / unit_ms);
}

static void run_ttl(struct client *client, const struct arg *argv, size_t argc)
{
    (void)argc;
    reply_time_left(client, &argv[1], 1000);
}

static void run_pttl(struct client *client, const struct arg *argv, size_t argc)
{
    (void)argc;
    reply_time_left(client, &argv[1], 1);
}

/* ---------------------------------------------------------------- writing */

int ttl_parse(const struct arg *arg, int64_t unit_ms, int64_t *ret_ms)
{
    int64_t number;
    if (arg_integer(arg, &number) < 0)
        return -1;
    /* A century is more than anybody means, and leaves room for sums of times. */
    if (number <= 0 || number > INT64_C(100) * 366 * 86400 * 1000 / unit_ms)
        return -2;
    *ret_ms = number * unit_ms;
    return 0;
}

/* 0, or -1 after an error reply. */
static int parse_ttl(struct client *client, const struct arg *arg, int64_t unit_ms, const char *command,
                     int64_t *ret_ms)
{
    int result = ttl_parse(arg, unit_ms, ret_ms);
    if (result == -1)
        reply_error(client, "ERR value is not an integer or out of range");
    else if (result < 0)
        reply_error(client, "ERR invalid expire time in '%s' command", command);
    return result < 0 ? -1 : 0;
}

static int set_value(struct client *client, const struct arg *key, const struct arg *value, const near_write *write)
{
    return near_set(cache_of(client), key->data, key->size, value->data, value->size, write, NULL);
}

void reply_set(struct client *client, int status)
{
    if (status == NEAR_UNMET)
        reply_nil(client);
    else if (status < 0)
        reply_status(client, status);
    else
        reply_simple(client, "OK");
}

/* The words behind SET key value.  0, or -1 after an error reply. */
static int parse_set(struct client *client, const struct arg *argv, size_t argc, near_write *write)
{
    for (size_t i = 3; i < argc; i++) {
        int seconds = arg_is(&argv[i], "ex");
        if (arg_is(&argv[i], "nx")) {
            write->flags |= NEAR_SET_IF_ABSENT;
        } else if (arg_is(&argv[i], "xx")) {
            write->flags |= NEAR_SET_IF_PRESENT;
        } else if (arg_is(&argv[i], "keepttl")) {
            write->flags |= NEAR_SET_KEEP_TTL;
        } else if ((seconds || arg_is(&argv[i], "px")) && i + 1 < argc && write->ttl_ms == 0) {
            if (parse_ttl(client, &argv[++i], seconds ? 1000 : 1, "set", &write->ttl_ms) < 0)
                return -1;
        } else if (arg_is(&argv[i], "get") || arg_is(&argv[i], "exat") || arg_is(&argv[i], "pxat")) {
            reply_error(client, "ERR this server does not know SET with GET, EXAT or PXAT");
            return -1;
        } else {
            reply_syntax(client);
            return -1;
        }
    }
    if ((write->flags & NEAR_SET_IF_ABSENT && write->flags & NEAR_SET_IF_PRESENT) ||
        (write->flags & NEAR_SET_KEEP_TTL && write->ttl_ms > 0)) {
        reply_syntax(client);
        return -1;
    }
    return 0;
}

static void run_set(struct client *client, const struct arg *argv, size_t argc)
{
    near_write write;
    near_write_init(&write);
    if (parse_set(client, argv, argc, &write) == 0)
        reply_set(client, set_value(client, &argv[1], &argv[2], &write));
}

static void set_expiring(struct client *client, const struct arg *argv, int64_t unit_ms, const char *command)
{
    near_write write;
    near_write_init(&write);
    if (parse_ttl(client, &argv[2], unit_ms, command, &write.ttl_ms) == 0)
        reply_set(client, set_value(client, &argv[1], &argv[3], &write));
}

static void run_setex(struct client *client, const struct arg *argv, size_t argc)
{
    (void)argc;
    set_expiring(client, argv, 1000, "setex");
}

static void run_psetex(struct client *client, const struct arg *argv, size_t argc)
{
    (void)argc;
    set_expiring(client, argv, 1, "psetex");
}

static void run_setnx(struct client *client, const struct arg *argv, size_t argc)
{
    near_write write;
    int status;
    (void)argc;
    near_write_init(&write);
    write.flags = NEAR_SET_IF_ABSENT;
    status = set_value(client, &argv[1], &argv[2], &write);
    if (status < 0)
        reply_status(client, status);
    else
        reply_integer(client, status == NEAR_OK);
}

static near_item *items_create(struct client *client, size_t count)
{
    near_item *items = calloc(count, sizeof *items);
    if (!items)
        reply_error(client, "OOM not enough memory for %zu keys", count);
    return items;
}

static void run_mset(struct client *client, const struct arg *argv, size_t argc)
{
    size_t count = (argc - 1) / 2;
    near_item *items;
    int status;
    if (argc % 2 == 0) {
        reply_error(client, "ERR wrong number of arguments for 'mset' command");
        return;
    }
    if (!(items = items_create(client, count)))
        return;
    for (size_t i = 0; i < count; i++) {
        const struct arg *key = &argv[1 + 2 * i];
        items[i] = (near_item){.key = key->data, .key_size = key->size, .data = key[1].data, .size = key[1].size};
    }
    status = near_mset(cache_of(client), items, count, NULL, NULL);
    reply_set(client, status);
    free(items);
}

static void run_del(struct client *client, const struct arg *argv, size_t argc)
{
    size_t count = argc - 1;
    int64_t removed = 0;
    int status;
    near_item *items = items_create(client, count);
    if (!items)
        return;
    for (size_t i = 0; i < count; i++)
        items[i] = (near_item){.key = argv[1 + i].data, .key_size = argv[1 + i].size};
    status = near_mdel(cache_of(client), items, count, NULL);
    for (size_t i = 0; i < count; i++)
        removed += items[i].status == NEAR_OK;
    free(items);
    if (status < 0)
        reply_status(client, status);
    else
        reply_integer(client, removed);
}

static void add_number(struct client *client, const struct arg *key, int64_t delta)
{
    int64_t number;
    int status = near_incr(cache_of(client), key->data, key->size, delta, NULL, &number);
    if (status < 0)
        reply_status(client, status);
    else
        reply_integer(client, number);
}

static void run_incr(struct client *client, const struct arg *argv, size_t argc)
{
    (void)argc;
    add_number(client, &argv[1], 1);
}

static void run_decr(struct client *client, const struct arg *argv, size_t argc)
{
    (void)argc;
    add_number(client, &argv[1], -1);
}

static void run_incrby(struct client *client, const struct arg *argv, size_t argc)
{
    int64_t delta;
    (void)argc;
    if (arg_integer(&argv[2], &delta) < 0)
        reply_status(client, NEAR_ERR_OVERFLOW);
    else
        add_number(client, &argv[1], delta);
}

static void run_decrby(struct client *client, const struct arg *argv, size_t argc)
{
    int64_t delta;
    (void)argc;
    if (arg_integer(&argv[2], &delta) < 0)
        reply_status(client, NEAR_ERR_OVERFLOW);
    else if (delta == INT64_MIN)
        reply_error(client, "ERR decrement would overflow");
    else
        add_number(client, &argv[1], -delta);
}

static void reply_done(struct client *client, int status)
{
    if (status < 0)
        reply_status(client, status);
    else
        reply_integer(client, status == NEAR_OK);
}

static void expire_in(struct client *client, const struct arg *argv, size_t argc, int64_t unit_ms, const char *command)
{
    int64_t number, ttl_ms;
    if (argc > 3)
        reply_error(client, "ERR this server does not know %s with NX, XX, GT or LT", command);
    else if (arg_integer(&argv[2], &number) == 0 && number <= 0) /* over already: Redis deletes the key */
        reply_done(client, near_del(cache_of(client), argv[1].data, argv[1].size, NULL));
    else if (parse_ttl(client, &argv[2], unit_ms, command, &ttl_ms) == 0)
        reply_done(client, near_expire(cache_of(client), argv[1].data, argv[1].size, ttl_ms, NULL));
}

static void run_expire(struct client *client, const struct arg *argv, size_t argc)
{
    expire_in(client, argv, argc, 1000, "expire");
}

static void run_pexpire(struct client *client, const struct arg *argv, size_t argc)
{
    expire_in(client, argv, argc, 1, "pexpire");
}

static void run_persist(struct client *client, const struct arg *argv, size_t argc)
{
    int status;
    /* Redis answers 1 only when there was an expiry to take away, so look first. */
    int64_t ttl_ms = time_left(client, &argv[1], &status);
    (void)argc;
    if (status < 0)
        reply_status(client, status);
    else if (ttl_ms < 0)
        reply_integer(client, 0);
    else
        reply_done(client, near_expire(cache_of(client), argv[1].data, argv[1].size, 0, NULL));
}

/* ---------------------------------------------------------------- connection */

static void run_ping(struct client *client, const struct arg *argv, size_t argc)
{
    if (argc > 2)
        reply_error(client, "ERR wrong number of arguments for 'ping' command");
    else if (argc == 2)
        reply_bulk(client, argv[1].data, argv[1].size);
    else
        reply_simple(client, "PONG");
}

static void run_echo(struct client *client, const struct arg *argv, size_t argc)
{
    (void)argc;
    reply_bulk(client, argv[1].data, argv[1].size);
}

static void run_select(struct client *client, const struct arg *argv, size_t argc)
{
    int64_t number;
    (void)argc;
    if (arg_integer(&argv[1], &number) < 0)
        reply_error(client, "ERR invalid DB index");
    else if (number != 0)
        reply_error(client, "ERR DB index is out of range: this server has database 0, see the db of its --redis URI");
    else
        reply_simple(client, "OK");
}

static void run_auth(struct client *client, const struct arg *argv, size_t argc)
{
    (void)argv;
    (void)argc;
    reply_error(client, "ERR AUTH called, but this server asks for no password; Redis's own goes into --redis");
}

static void run_quit(struct client *client, const struct arg *argv, size_t argc)
{
    (void)argv;
    (void)argc;
    reply_simple(client, "OK");
    client->ending = 1;
}

static void run_reset(struct client *client, const struct arg *argv, size_t argc)
{
    (void)argv;
    (void)argc;
    client->name[0] = 0;
    reply_simple(client, "RESET");
}

static void run_dbsize(struct client *client, const struct arg *argv, size_t argc)
{
    (void)argv;
    (void)argc;
    reply_error(client, "ERR DBSIZE is not known here: ask Redis itself, or INFO for what this process keeps");
}

/* In alphabetical order: looked up by bisection. */
static const struct command commands[] = {
    {"auth", -2, run_auth},       {"client", -2, admin_client}, {"command", -1, admin_command},
    {"config", -2, admin_config}, {"dbsize", 1, run_dbsize},    {"decr", 2, run_decr},
    {"decrby", 3, run_decrby},    {"del", -2, run_del},         {"echo", 2, run_echo},
    {"exists", -2, run_exists},   {"expire", -3, run_expire},   {"get", 2, run_get},
    {"hello", -1, admin_hello},   {"incr", 2, run_incr},        {"incrby", 3, run_incrby},
    {"info", -1, admin_info},     {"mget", -2, run_mget},       {"mset", -3, run_mset},
    {"persist", 2, run_persist},  {"pexpire", -3, run_pexpire}, {"ping", -1, run_ping},
    {"psetex", 4, run_psetex},    {"pttl", 2, run_pttl},        {"quit", -1, run_quit},
    {"reset", 1, run_reset},      {"select", 2, run_select},    {"set", -3, run_set},
    {"setex", 4, run_setex},      {"setnx", 3, run_setnx},      {"ttl", 2, run_ttl},
    {"unlink", -2, run_del},
};

static int compare_command(const void *key, const void *row)
{
    return strcasecmp(key, ((const struct command *)row)->name);
}

size_t command_count(void)
{
    return sizeof commands / sizeof commands[0];
}

void command_list(FILE *to)
{
    for (size_t i = 0; i < command_count(); i++) {
        fputs(i % 10 ? " " : "  ", to);
        for (const char *letter = commands[i].name; *letter; letter++)
            fputc(toupper((unsigned char)*letter), to);
        if (i % 10 == 9 || i + 1 == command_count())
            fputc('\n', to);
    }
}

void command_run(struct client *client, const struct arg *argv, size_t argc)
{
    char name[65];
    const struct command *command = NULL;
    arg_printable(&argv[0], name, sizeof name);
    if (argv[0].size < sizeof name)
        command = bsearch(name, commands, command_count(), sizeof commands[0], compare_command);
    if (!command)
        reply_error(client, "ERR unknown command '%s': resp-server --help lists those that this server knows", name);
    else if (command->arity > 0 ? argc != (size_t)command->arity : argc < (size_t)-command->arity)
        reply_error(client, "ERR wrong number of arguments for '%s' command", command->name);
    else
        command->run(client, argv, argc);
}
