/* SPDX-License-Identifier: BSD-3-Clause
 * What stands around the library: Redis, the proxies, the worker processes. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memrchr */
#endif
#include "check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "nearcache.h"
#include "support/child.h"

enum {
    SELDOM_PROVEN_MS = 3600000, /* the longest bound there is */
    END_MS = 30000,
    REACH_MS = 5000 /* somebody else's server that has not answered by then is not there */
};
#define POSITIONS "nearcache:pos:"

/* ---------------------------------------------------------------- Redis */

/* The append-only file without fsync: Redis hands every write to the kernel before it answers, so that killing Redis
 * loses nothing.  (A power failure would: that takes "always".) */
static struct redis_server *server_start(const struct check *c)
{
    struct redis_server_options options = {
        .config = "appendonly yes\nappendfsync no\nrepl-diskless-sync-delay 0\nlatency-tracking no\n",
        .acl = "user default on nopass ~* &* +@all\n",
        .program = c->options.redis_server ? c->options.redis_server : "redis-server",
    };
    return redis_server_start(&options);
}

struct redis_server *check_server(struct check *c)
{
    return c->server[c->active];
}

/* Where the host begins, after the last @ of what is before path and options: the library reads URIs so. */
static const char *host_of(const char *authority)
{
    const char *at = memrchr(authority, '@', strcspn(authority, "/?"));
    return at ? at + 1 : authority;
}

/* scheme://[user:password@]host[:port][/db][?options] with the proxy's address in the place of host and port. */
static void uri_through(char *uri, size_t capacity, const char *original, const char *address)
{
    const char *authority = strstr(original, "://") + 3, *host = host_of(authority);
    snprintf(uri, capacity, "redis://%.*s%s%s", (int)(host - authority), authority, address + strlen("redis://"),
             host + strcspn(host, "/?"));
}

/* What the proxy connects to, without user, password and database. */
static int uri_backend(char *uri, size_t capacity, const char *original)
{
    const char *host;
    size_t size;
    if (strncmp(original, "redis://", 8) != 0)
        return -1;
    host = host_of(original + 8);
    size = strcspn(host, "/?");
    snprintf(uri, capacity, "redis://%.*s%s", (int)size, host, memchr(host, ':', size) ? "" : ":6379");
    return *host == '[' ? -1 : 0; /* the proxy knows no IPv6 literals */
}

int check_can_proxy(const char *uri)
{
    char backend[512];
    return uri_backend(backend, sizeof backend, uri) == 0;
}

static void proxy_for(struct check *c, uint32_t process)
{
    char backend[512];
    const struct check_options *o = &c->options;
    char *uri = c->board->process[process].uri;
    size_t capacity = sizeof c->board->process[process].uri;
    const char *direct = o->uri ? o->uri : redis_server_uri_unix(c->server[0]);
    snprintf(uri, capacity, "%s", direct);
    if (!check_faults_need_proxy(c))
        return;
    if (o->uri)
        (void)uri_backend(backend, sizeof backend, o->uri); /* check_faults_parse has asked whether it can */
    c->proxy[process] = proxy_start(o->uri ? backend : direct);
    if (o->uri)
        uri_through(uri, capacity, o->uri, proxy_uri(c->proxy[process]));
    else
        snprintf(uri, capacity, "%s", process % 2 ? proxy_uri(c->proxy[process]) : proxy_uri_unix(c->proxy[process]));
}

int check_servers_start(struct check *c)
{
    for (int i = 0; i < 2 && !c->options.uri; i++)
        if (!(c->server[i] = server_start(c))) {
            fprintf(stderr, "nearcache-check: there is no Redis server (Debian: apt-get install redis-server)\n");
            return -1;
        }
    for (uint32_t p = 0; p < c->board->processes; p++)
        proxy_for(c, p);
    return 0;
}

/* A bound of 0 is the default. */
static int open_ready(const struct check *c, const char *prefix, uint32_t bound_ms, near_cache **ret, near_error *error)
{
    near_options options;
    near_options_init(&options);
    options.prefix = prefix;
    if (bound_ms)
        options.bound_ms = bound_ms;
    int status = near_open(c->options.uri, &options, ret, error);
    if (status == NEAR_OK && (status = near_wait_ready(*ret, REACH_MS, error)) != NEAR_OK)
        near_close(*ret);
    return status;
}

int check_reach(const struct check *c)
{
    near_cache *cache;
    near_error error = {.text = ""};
    if (open_ready(c, c->board->prefix, 0, &cache, &error) != NEAR_OK) {
        fprintf(stderr, "nearcache-check: cannot reach the Redis of --uri: %s\n", error.text);
        return -1;
    }
    near_close(cache);
    return 0;
}

static int remove_keys(const struct check *c, const near_call *call)
{
    near_cache *cache;
    int status = open_ready(c, c->board->prefix, 0, &cache, NULL);
    if (status != NEAR_OK)
        return status;
    status = near_clear(cache, NEAR_CLEAR_KEYS, call, NULL);
    near_close(cache);
    return status;
}

/* The number of the prefix's last write (docs/design.md) lives under a key that near_clear leaves, as caches need it.
 * Nobody will use our prefix again.  A cache of such keys removes it; that write has a number, too, and removing this
 * one as well leaves nothing, because a removal is numbered first.  A heartbeat after that would find its number gone
 * and write another: with the longest bound none is due for five seconds. */
static int remove_position(const struct check *c, const near_call *call)
{
    near_cache *cache;
    int status = open_ready(c, POSITIONS, SELDOM_PROVEN_MS, &cache, NULL);
    if (status != NEAR_OK)
        return status;
    status = near_del(cache, c->board->prefix, strlen(c->board->prefix), call);
    if (status == NEAR_OK)
        status = near_del(cache, POSITIONS, strlen(POSITIONS), call);
    near_close(cache);
    return status;
}

/* What we have left in somebody else's Redis. */
static void clean_up(const struct check *c)
{
    near_call call;
    near_call_init(&call);
    call.timeout_ms = 20000;
    int status = remove_keys(c, &call);
    if (status == NEAR_OK)
        status = remove_position(c, &call);
    if (status != NEAR_OK)
        fprintf(stderr, "nearcache-check: keys %s* and " POSITIONS "%s may have been left in Redis: %s\n",
                c->board->prefix, c->board->prefix, near_status_text(status));
}

void check_servers_end(struct check *c)
{
    for (int p = 0; p < CHECK_PROCESSES; p++)
        proxy_free(c->proxy[p]);
    if (c->options.uri && c->board)
        clean_up(c);
    for (int i = 0; i < 2; i++)
        redis_server_free(c->server[i]);
}

void check_swap(struct check *c, int keep_subscriptions)
{
    for (uint32_t p = 0; p < c->board->processes; p++) {
        proxy_backend(c->proxy[p], redis_server_uri_unix(check_server(c)));
        if (keep_subscriptions)
            proxy_kill_others(c->proxy[p], PROXY_SUB, (int)check_below(c, 2));
        else
            proxy_kill(c->proxy[p], PROXY_ANY, (int)check_below(c, 2));
    }
}

/* ---------------------------------------------------------------- asking Redis beside the library */

int64_t check_ask(struct check *c, struct redis_server *server, uint32_t slot, uint32_t generation)
{
    char name[CHECK_NAME_MAX], key[sizeof c->board->prefix + CHECK_NAME_MAX];
    size_t name_size = check_name(name, slot, generation), size;
    const char *arguments[] = {"GET", key};
    size_t sizes[] = {3, (size_t)snprintf(key, sizeof key, "%s%.*s", c->board->prefix, (int)name_size, name)};
    const char *text = redis_server_command_argv(server, 2, arguments, sizes, &size);
    uint64_t version;
    if (strcmp(text, "(nil)") == 0)
        return 0;
    version = check_version(c->board, slot, generation, text, size);
    if (version)
        return (int64_t)version; /* first, as it may begin with anything, also as an error does */
    return strcmp(text, "(no answer)") == 0 || text[0] == '-' ? CHECK_NO_ANSWER : CHECK_NOT_OURS;
}

static int64_t ask_by_library(struct check *c, near_cache *cache, uint32_t slot, uint32_t generation)
{
    char name[CHECK_NAME_MAX];
    near_call call;
    near_value value;
    near_call_init(&call);
    call.flags = NEAR_BYPASS_LOCAL | NEAR_NO_FILL;
    call.timeout_ms = 5000;
    int status = near_get(cache, name, check_name(name, slot, generation), &call, &value);
    if (status != NEAR_OK)
        return status == NEAR_MISS ? 0 : CHECK_NO_ANSWER;
    uint64_t version = check_version(c->board, slot, generation, value.data, value.size);
    near_release(&value);
    return version ? (int64_t)version : CHECK_NOT_OURS;
}

/* -1: no answer. */
static int read_final(struct check *c, near_cache *cache, uint32_t slot, uint32_t generation, int which)
{
    struct check_key *key = check_key_of(c->board, slot, generation);
    if (atomic_load(&key->final[which]) != 0)
        return 0;
    int64_t version =
        cache ? ask_by_library(c, cache, slot, generation) : check_ask(c, check_server(c), slot, generation);
    if (version == CHECK_NO_ANSWER)
        return -1;
    if (version == CHECK_NOT_OURS)
        check_complain(c->board, CHECK_DAMAGED, CHECK_PROCESSES, slot, generation, 0);
    atomic_store(&key->final[which], version == CHECK_NOT_OURS ? CHECK_NO_VALUE : (uint64_t)version + 1);
    return 0;
}

static int read_finals(struct check *c, near_cache *cache, int which)
{
    for (uint32_t i = 0; i < CHECK_SLOTS && !check_interrupted; i++) {
        uint32_t generation = atomic_load(&c->board->slot[i].generation);
        if (read_final(c, cache, i, generation, which) < 0 ||
            (generation > 1 && read_final(c, cache, i, generation - 1, which) < 0))
            return -1;
    }
    return 0;
}

int check_read_final(struct check *c, int which)
{
    near_cache *cache;
    if (!c->options.uri)
        return read_finals(c, NULL, which);
    if (open_ready(c, c->board->prefix, 0, &cache, NULL) != NEAR_OK)
        return -1;
    int result = read_finals(c, cache, which);
    near_close(cache);
    return result;
}

/* ---------------------------------------------------------------- workers */

int check_worker_start(struct check *c, uint32_t process)
{
    char fd[16], number[16], sabotage[16];
    snprintf(fd, sizeof fd, "%d", c->board_fd);
    snprintf(number, sizeof number, "%u", process);
    snprintf(sabotage, sizeof sabotage, "%d", c->options.sabotage);
    const char *const argv[] = {c->program, "--worker", fd, number, sabotage, NULL};
    c->worker[process] = process_start(argv, NULL, NULL);
    return c->worker[process] > 0 ? 0 : -1;
}

int check_workers_start(struct check *c)
{
    for (uint32_t p = 0; p < c->board->processes; p++)
        if (check_worker_start(c, p) < 0) {
            fprintf(stderr, "nearcache-check: cannot start a process: %s\n", strerror(errno));
            return -1;
        }
    return 0;
}

void check_worker_kill(struct check *c, uint32_t process)
{
    kill(c->worker[process], SIGKILL);
    while (waitpid(c->worker[process], NULL, 0) < 0 && errno == EINTR)
        ;
    c->worker[process] = 0;
    check_bury(c, process);
}

static void ended_badly(struct check *c, uint32_t process, int status)
{
    fprintf(stderr, "nearcache-check: process %u ended with %s %d\n", process + 1,
            WIFSIGNALED(status) ? "signal" : "status", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    check_complain(c->board, CHECK_RECOVERY, process, CHECK_SLOTS, 0, CHECK_MISSING_PROCESS);
}

void check_workers_watch(struct check *c)
{
    for (uint32_t p = 0; p < c->board->processes; p++) {
        int status = c->worker[p] > 0 ? process_wait(c->worker[p], 0) : -1;
        if (status == -1)
            continue;
        c->worker[p] = 0;
        ended_badly(c, p, status);
        check_bury(c, p);
    }
}

void check_workers_end(struct check *c)
{
    for (uint32_t p = 0; p < c->board->processes; p++) {
        if (c->worker[p] <= 0)
            continue;
        int status = process_wait(c->worker[p], check_interrupted ? 2000 : END_MS);
        if (status == -1)
            process_end(c->worker[p], 0);
        if (status != 0 && !check_interrupted)
            ended_badly(c, p, status);
        c->worker[p] = 0;
    }
}
