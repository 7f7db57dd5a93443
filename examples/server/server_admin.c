/* SPDX-License-Identifier: BSD-3-Clause
 * The commands about the server itself: enough for redis-cli, redis-benchmark and the usual clients to feel at home. */
#include "server.h"

#include <ctype.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* Clients look at redis_version to decide what a server understands; the commands here behave as in this one. */
#define ADMIN_REDIS_VERSION "7.0.0"

/* ---------------------------------------------------------------- INFO */

#define INFO_HOT_KEYS 16
#define INFO_HOT_KEY_WORDS 80 /* what a line has beside the key */

static void info_server(struct server *s, char *text, size_t capacity)
{
    snprintf(text, capacity,
             "# Server\r\nredis_version:%s\r\nredis_mode:standalone\r\nnearcache_version:%s\r\nprocess_id:%ld\r\n"
             "tcp_port:%d\r\nio_threads_active:%d\r\nuptime_in_seconds:%" PRId64 "\r\nname:%s\r\n",
             ADMIN_REDIS_VERSION, near_version(), (long)getpid(), s->port, s->worker_count,
             (server_now_ns() - s->started_ns) / INT64_C(1000000000), s->settings.name);
}

static void info_clients(struct server *s, char *text, size_t capacity)
{
    snprintf(text, capacity, "# Clients\r\nconnected_clients:%" PRIu64 "\r\nmaxclients:%d\r\n",
             atomic_load(&s->clients), s->settings.clients_max);
}

static void info_memory(struct server *s, char *text, size_t capacity)
{
    struct rusage usage = {0};
    (void)s;
    getrusage(RUSAGE_SELF, &usage);
    snprintf(text, capacity, "# Memory\r\nused_memory_peak_rss:%ld\r\n", usage.ru_maxrss * 1024);
}

static void info_stats(struct server *s, char *text, size_t capacity)
{
    uint64_t keys = 0;
    for (int i = 0; i < s->worker_count; i++)
        keys += atomic_load_explicit(&s->workers[i].keys_read, memory_order_relaxed);
    snprintf(text, capacity,
             "# Stats\r\ntotal_connections_received:%" PRIu64 "\r\nrejected_connections:%" PRIu64
             "\r\ntotal_commands_processed:%" PRIu64 "\r\ntotal_keys_read:%" PRIu64 "\r\n",
             atomic_load(&s->connections), atomic_load(&s->refused),
             server_commands(s) - atomic_load(&s->commands_offset), keys);
}

static void info_nearcache(struct server *s, char *text, size_t capacity)
{
    near_stats stats = {.size = sizeof stats};
    int status = near_stats_get(s->cache, &stats);
    if (status < 0)
        snprintf(text, capacity, "# Nearcache\r\nerror:%s\r\n", near_status_name(status));
    else
        near_stats_render(&stats, NEAR_FORMAT_INFO, s->settings.name, text, capacity);
}

/* Any byte may be in a key: what is not printable, and the backslash, as \xNN. */
static void print_key(const near_hot_key *key, char *text)
{
    size_t length = 0;
    for (uint32_t i = 0; i < key->key_size; i++) {
        if (key->key[i] > ' ' && key->key[i] < 0x7f && key->key[i] != '\\')
            text[length++] = (char)key->key[i];
        else
            length += (size_t)sprintf(text + length, "\\x%02x", key->key[i]);
    }
    text[length] = 0;
}

/* The hottest first, as many as there is room for. */
static void info_hotkeys(struct server *s, char *text, size_t capacity)
{
    near_hot_key keys[INFO_HOT_KEYS];
    char line[4 * NEAR_HOT_KEY_MAX + 1];
    size_t count = 0;
    int status = near_hot_keys(s->cache, INFO_HOT_KEYS, keys, &count);
    int length = snprintf(text, capacity, "# Hotkeys\r\nhot_keys:%s\r\n", status < 0 ? near_status_name(status) : "on");
    for (size_t i = 0; i < count && capacity - (size_t)length > sizeof line + INFO_HOT_KEY_WORDS; i++) {
        print_key(&keys[i], line);
        length += snprintf(text + length, capacity - (size_t)length, "hot%zu:share_min=%.6f,share_max=%.6f,key=%s\r\n",
                           i, keys[i].share_min, keys[i].share_max, line);
    }
}

static const struct {
    const char *name;
    void (*print)(struct server *s, char *text, size_t capacity);
} info_sections[] = {
    {"server", info_server}, {"clients", info_clients},     {"memory", info_memory},
    {"stats", info_stats},   {"nearcache", info_nearcache}, {"hotkeys", info_hotkeys},
};

static int info_wanted(const char *name, const struct arg *argv, size_t argc)
{
    for (size_t i = 1; i < argc; i++)
        if (arg_is(&argv[i], name) || arg_is(&argv[i], "all") || arg_is(&argv[i], "everything") ||
            arg_is(&argv[i], "default"))
            return 1;
    return argc == 1;
}

void admin_info(struct client *client, const struct arg *argv, size_t argc)
{
    char section[16384];
    struct bytes text = {.limit = 1 << 20};
    for (size_t i = 0; i < sizeof info_sections / sizeof info_sections[0]; i++) {
        if (!info_wanted(info_sections[i].name, argv, argc))
            continue;
        info_sections[i].print(client->worker->server, section, sizeof section);
        if (bytes_size(&text) > 0)
            bytes_append(&text, "\r\n", 2);
        bytes_append(&text, section, strlen(section));
    }
    reply_bulk(client, text.data + text.start, bytes_size(&text));
    bytes_fini(&text);
}

/* ---------------------------------------------------------------- CONFIG */

struct config {
    const char *name;
    int (*get)(struct server *s, char *text, size_t capacity); /* 0, or -1 */
    int (*set)(struct server *s, const near_options *parsed);  /* a status; NULL: fixed */
};

static int config_get_no(struct server *s, char *text, size_t capacity)
{
    (void)s;
    snprintf(text, capacity, "no");
    return 0;
}

static int config_get_empty(struct server *s, char *text, size_t capacity)
{
    (void)s;
    snprintf(text, capacity, "%s", "");
    return 0;
}

static int config_get_bound(struct server *s, char *text, size_t capacity)
{
    snprintf(text, capacity, "%" PRIu32, atomic_load(&s->bound_ms));
    return 0;
}

static int config_get_local(struct server *s, int entries, char *text, size_t capacity)
{
    near_stats stats = {.size = sizeof stats};
    if (near_stats_get(s->cache, &stats) < 0)
        return -1;
    snprintf(text, capacity, "%" PRIu64, entries ? stats.local_entries_limit : stats.local_bytes_limit);
    return 0;
}

static int config_get_local_bytes(struct server *s, char *text, size_t capacity)
{
    return config_get_local(s, 0, text, capacity);
}

static int config_get_local_entries(struct server *s, char *text, size_t capacity)
{
    return config_get_local(s, 1, text, capacity);
}

static int config_set_bound(struct server *s, const near_options *parsed)
{
    int status = near_set_bound(s->cache, parsed->bound_ms);
    if (status == NEAR_OK)
        atomic_store(&s->bound_ms, parsed->bound_ms);
    return status;
}

static int config_set_local_bytes(struct server *s, const near_options *parsed)
{
    return near_set_local_bytes(s->cache, parsed->local_bytes);
}

static int config_set_local_entries(struct server *s, const near_options *parsed)
{
    return near_set_local_entries(s->cache, parsed->local_entries);
}

static const struct config configs[] = {
    {"appendonly", config_get_no, NULL}, /* redis-benchmark asks for these two */
    {"save", config_get_empty, NULL},
    {"bound_ms", config_get_bound, config_set_bound},
    {"local_bytes", config_get_local_bytes, config_set_local_bytes},
    {"local_entries", config_get_local_entries, config_set_local_entries},
};
enum { CONFIG_COUNT = sizeof configs / sizeof configs[0] };

static int config_matches(const struct config *config, const struct arg *argv, size_t argc)
{
    char pattern[64];
    for (size_t i = 2; i < argc; i++) {
        arg_printable(&argv[i], pattern, sizeof pattern);
        for (char *p = pattern; *p; p++)
            *p = (char)tolower((unsigned char)*p);
        if (fnmatch(pattern, config->name, 0) == 0)
            return 1;
    }
    return 0;
}

static void config_get(struct client *client, const struct arg *argv, size_t argc)
{
    const char *names[CONFIG_COUNT];
    char texts[CONFIG_COUNT][32];
    size_t count = 0;
    for (size_t i = 0; i < CONFIG_COUNT; i++) {
        if (!config_matches(&configs[i], argv, argc) ||
            configs[i].get(client->worker->server, texts[count], sizeof texts[count]) < 0)
            continue;
        names[count++] = configs[i].name;
    }
    reply_array(client, 2 * count);
    for (size_t i = 0; i < count; i++) {
        reply_text(client, names[i]);
        reply_text(client, texts[i]);
    }
}

static const struct config *config_find(const struct arg *name)
{
    for (size_t i = 0; i < CONFIG_COUNT; i++)
        if (arg_is(name, configs[i].name))
            return &configs[i];
    return NULL;
}

/* Changes the running cache; the value is read, and its range checked, by the library's own option table. */
static void config_set(struct client *client, const struct arg *argv)
{
    const struct config *config = config_find(&argv[2]);
    near_options parsed;
    near_error error = {0};
    char text[64];
    int status;
    arg_printable(&argv[3], text, sizeof text);
    if (!config || !config->set) {
        reply_error(client, "ERR CONFIG SET knows bound_ms, local_bytes and local_entries");
        return;
    }
    near_options_init(&parsed);
    if (near_option_set(&parsed, config->name, text, &error) < 0)
        reply_error(client, "ERR %s", error.text);
    else if ((status = config->set(client->worker->server, &parsed)) < 0)
        reply_status(client, status);
    else
        reply_simple(client, "OK");
}

void admin_config(struct client *client, const struct arg *argv, size_t argc)
{
    struct server *s = client->worker->server;
    if (arg_is(&argv[1], "get") && argc >= 3) {
        config_get(client, argv, argc);
    } else if (arg_is(&argv[1], "set") && argc == 4) {
        config_set(client, argv);
    } else if (arg_is(&argv[1], "resetstat") && argc == 2) {
        atomic_store(&s->commands_offset, server_commands(s));
        atomic_store(&s->connections, 0);
        atomic_store(&s->refused, 0);
        reply_simple(client, "OK");
    } else {
        reply_error(client, "ERR unknown subcommand or wrong number of arguments: CONFIG knows GET, SET and RESETSTAT");
    }
}

/* ---------------------------------------------------------------- CLIENT, COMMAND, HELLO */

/* A name as Redis allows it: printable and without spaces.  0, or -1 after an error reply. */
static int client_name(struct client *client, const struct arg *name)
{
    for (size_t i = 0; i < name->size; i++)
        if (name->data[i] < '!' || name->data[i] > '~' || name->size >= sizeof client->name) {
            reply_error(client,
                        "ERR Client names cannot contain spaces, newlines or special characters, "
                        "and have at most %zu bytes here",
                        sizeof client->name - 1);
            return -1;
        }
    memcpy(client->name, name->data, name->size);
    client->name[name->size] = 0;
    return 0;
}

static void client_list(struct client *client)
{
    char text[256];
    snprintf(text, sizeof text, "id=%" PRIu64 " fd=%d name=%s db=0 qbuf=%zu obl=%zu resp=2\n", client->id, client->fd,
             client->name, bytes_size(&client->in), bytes_size(&client->out));
    reply_text(client, text);
}

void admin_client(struct client *client, const struct arg *argv, size_t argc)
{
    if (arg_is(&argv[1], "setname") && argc == 3) {
        if (client_name(client, &argv[2]) == 0)
            reply_simple(client, "OK");
    } else if (arg_is(&argv[1], "getname") && argc == 2) {
        if (client->name[0])
            reply_text(client, client->name);
        else
            reply_nil(client);
    } else if (arg_is(&argv[1], "id") && argc == 2) {
        reply_integer(client, (int64_t)client->id);
    } else if (arg_is(&argv[1], "setinfo") && argc == 4) {
        reply_simple(client, "OK");
    } else if (arg_is(&argv[1], "list") || (arg_is(&argv[1], "info") && argc == 2)) {
        client_list(client); /* the caller's own: another worker's connections are that worker's alone */
    } else {
        reply_error(client, "ERR unknown subcommand or wrong number of arguments: CLIENT knows SETNAME, GETNAME, ID, "
                            "SETINFO, INFO and LIST (of the own connection)");
    }
}

void admin_command(struct client *client, const struct arg *argv, size_t argc)
{
    if (argc == 2 && arg_is(&argv[1], "count"))
        reply_integer(client, (int64_t)command_count());
    else
        reply_array(client, 0); /* no details: clients that ask (redis-cli does) then go without hints */
}

void admin_hello(struct client *client, const struct arg *argv, size_t argc)
{
    int64_t version = 2;
    if (argc > 1 && arg_integer(&argv[1], &version) < 0) {
        reply_error(client, "ERR Protocol version is not an integer or out of range");
        return;
    }
    if (version != 2) {
        reply_error(client, "NOPROTO unsupported protocol version");
        return;
    }
    if (argc == 4 && arg_is(&argv[2], "setname")) {
        if (client_name(client, &argv[3]) < 0)
            return;
    } else if (argc > 2) {
        reply_error(client, "ERR HELLO knows the protocol version and SETNAME; no password is asked for here");
        return;
    }
    reply_array(client, 14);
    reply_text(client, "server"), reply_text(client, "redis");
    reply_text(client, "version"), reply_text(client, ADMIN_REDIS_VERSION);
    reply_text(client, "proto"), reply_integer(client, 2);
    reply_text(client, "id"), reply_integer(client, (int64_t)client->id);
    reply_text(client, "mode"), reply_text(client, "standalone");
    reply_text(client, "role"), reply_text(client, "master");
    reply_text(client, "modules"), reply_array(client, 0);
}
