/* SPDX-License-Identifier: BSD-3-Clause
 * resp-server: a multithreaded server that speaks Redis's protocol, with nearcache dropped in.
 *
 * What a server needs to do about nearcache is all in this file and in server_commands.c: open one cache at the start,
 * call it from any thread, close it at the end.  The rest, in server/, is sockets, protocol and command line.
 *
 *     redis-server &  resp-server --port 6380 &  redis-cli -p 6380 get something
 *
 * Consistency is the cache's: a value read here is never older than the bound (--bound), and several resp-servers over
 * one Redis keep each other coherent. */
#include "server/server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "demo/demo_load.h"

int64_t server_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

uint64_t server_commands(const struct server *server)
{
    uint64_t commands = 0;
    for (int i = 0; i < server->worker_count; i++)
        commands += atomic_load_explicit(&server->workers[i].commands, memory_order_relaxed);
    return commands;
}

/* Signals wait in a descriptor, so that they come between two steps of the main loop and reach no other thread. */
static int open_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN); /* stdout may be a pipe that nobody reads */
    return signalfd(-1, &set, SFD_CLOEXEC);
}

static void log_line(void *arg, int level, const char *component, const char *text)
{
    static const char *const names[] = {"", "", "", "error: ", "warning: ", "", "", "debug: "};
    (void)arg;
    fprintf(stderr, "resp-server: %s%s: %s\n", level >= 0 && level <= 7 ? names[level] : "", component, text);
}

/* What holds at first: the last of the URI's parameters of that name, which near_open has found good, or else the
 * option. */
static uint32_t first_bound(const struct settings *settings)
{
    static const char name[] = "bound_ms=";
    near_options options = settings->options;
    for (const char *at = strchr(settings->redis, '?'); at; at = strchr(at, '&')) {
        char text[32];
        if (strncmp(++at, name, strlen(name)) != 0)
            continue;
        const char *value = at + strlen(name);
        snprintf(text, sizeof text, "%.*s", (int)strcspn(value, "&"), value);
        (void)near_option_set(&options, "bound_ms", text, NULL);
    }
    return options.bound_ms;
}

static int open_cache(struct server *server)
{
    near_error error = {0};
    int status;
    server->settings.options.log = log_line;
    status = near_open(server->settings.redis, &server->settings.options, &server->cache, &error);
    if (status == NEAR_OK) {
        atomic_store(&server->bound_ms, first_bound(&server->settings));
        return 0;
    }
    fprintf(stderr, "resp-server: cannot open the cache: %s (%s)\n", error.text, near_status_name(status));
    return status == NEAR_ERR_URI || status == NEAR_ERR_OPTION || status == NEAR_ERR_UNSUPPORTED ? 2 : 1;
}

static int serve(struct server *server)
{
    const char *path = server->settings.unixsocket;
    struct demo_load *load = NULL;
    int signal_fd = open_signals();
    if (signal_fd < 0 || listen_open(server) < 0)
        return 1;
    if (workers_start(server) < 0) {
        fprintf(stderr, "resp-server: cannot start the workers: %s\n", strerror(errno));
        listen_close(server);
        return 1;
    }
    if (server->settings.demo_load && !(load = demo_load_start(server->cache, server->settings.demo_load))) {
        fprintf(stderr, "resp-server: --demo-load %s does not work\n", server->settings.demo_load);
    } else {
        printf("ready port=%d unixsocket=%s pid=%ld\n", server->port, path ? path : "", (long)getpid());
        fflush(stdout);
        listen_run(server, signal_fd);
    }
    listen_close(server);
    workers_stop(server);
    demo_load_stop(load);
    close(signal_fd);
    return server->settings.demo_load && !load;
}

int main(int argc, char **argv)
{
    struct server server = {.port = -1, .listen_tcp = -1, .listen_unix = -1};
    int result = settings_parse(&server.settings, argc, argv);
    if (result != 0)
        return result == 1 ? 0 : result;
    server.started_ns = server_now_ns();
    if ((result = open_cache(&server)) != 0)
        return result;
    result = serve(&server);
    near_close(server.cache);
    return result;
}
