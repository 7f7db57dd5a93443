/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pipe2 */
#endif
#include "bench_redis.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench_ticks.h"

#define START_SECONDS 20
#define LOOK_MS 20
/* Of a folder that a URI and a line of Redis's configuration take as it is. */
#define PLAIN "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-+,=~"

/* ---------------------------------------------------------------- the watching process */

static _Noreturn void become_server(const struct bench_redis *redis, pid_t watcher)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != watcher)
        _exit(1);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", redis->socket, "--dir", redis->folder,
           "--save", "", "--appendonly", "no", "--daemonize", "no", "--logfile", "redis.log", (char *)NULL);
    _exit(127);
}

static void remove_folder(const struct bench_redis *redis)
{
    static const char *const files[] = {"redis.log", "dump.rdb"};
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        char path[128];
        snprintf(path, sizeof(path), "%s/%s", redis->folder, files[i]);
        (void)unlink(path);
    }
    (void)unlink(redis->socket);
    (void)rmdir(redis->folder);
}

/* What comes along the leash. */
#define KILL 'k'
#define REVIVE 'r'

static pid_t start_server(const struct bench_redis *redis)
{
    pid_t watcher = getpid(), server = fork();
    if (server == 0)
        become_server(redis, watcher);
    return server;
}

static void end_server(pid_t *server)
{
    if (*server <= 0)
        return;
    kill(*server, SIGKILL);
    waitpid(*server, NULL, 0);
    *server = 0;
}

/* Until the leash is let go or the server has ended by itself; 1: it has. */
static int obey(const struct bench_redis *redis, int leash)
{
    pid_t server = start_server(redis);
    struct pollfd news = {.fd = leash, .events = POLLIN};
    while (server >= 0) {
        char word = 0;
        if (poll(&news, 1, LOOK_MS) > 0) {
            if (read(leash, &word, 1) <= 0) {
                end_server(&server);
                return 0;
            }
            end_server(&server);
            if (word == REVIVE)
                server = start_server(redis);
        }
        if (server > 0 && waitpid(server, NULL, WNOHANG) == server)
            break;
    }
    return 1;
}

static _Noreturn void watch(const struct bench_redis *redis, int leash)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    setsid(); /* the terminal's signals are not for us */
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    for (int fd = 0; fd <= 2; fd++)
        (void)dup2(null, fd); /* whoever waits for the end of our caller's output need not wait for us */
    int ended = obey(redis, leash);
    remove_folder(redis);
    _exit(ended);
}

/* ---------------------------------------------------------------- */

static int answers(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char reply[8] = "";
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int good = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
               send(fd, "PING\r\n", 6, MSG_NOSIGNAL) == 6 && recv(fd, reply, 7, MSG_WAITALL) == 7 &&
               strcmp(reply, "+PONG\r\n") == 0;
    close(fd);
    return good;
}

static int make_folder(struct bench_redis *redis)
{
    const char *base = getenv("TMPDIR");
    if (!base || !*base || strlen(base) > 60 || base[strspn(base, PLAIN)])
        base = "/tmp";
    snprintf(redis->folder, sizeof(redis->folder), "%s/nearcache-bench.XXXXXX", base);
    if (!mkdtemp(redis->folder))
        return -1;
    snprintf(redis->socket, sizeof(redis->socket), "%s/redis.sock", redis->folder);
    snprintf(redis->uri, sizeof(redis->uri), "unix://%s", redis->socket);
    return 0;
}

static int start_watcher(struct bench_redis *redis)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -1;
    redis->leash = ends[1];
    redis->watcher = fork();
    if (redis->watcher == 0) {
        close(ends[1]);
        watch(redis, ends[0]);
    }
    close(ends[0]);
    return redis->watcher < 0 ? -1 : 0;
}

static int wait_for_server(struct bench_redis *redis, char *error, size_t capacity)
{
    int64_t deadline = bench_now() + START_SECONDS * NEAR_NS_PER_S;
    while (!answers(redis->socket)) {
        if (waitpid(redis->watcher, NULL, WNOHANG) == redis->watcher || bench_now() > deadline) {
            close(redis->leash);
            snprintf(error, capacity, "cannot start a redis-server (is it installed? Debian: redis-server)");
            return -1;
        }
        bench_sleep(0.01);
    }
    return 0;
}

int bench_redis_start(struct bench_redis *redis, char *error, size_t capacity)
{
    fflush(NULL); /* nothing is written twice */
    if (make_folder(redis) != 0 || start_watcher(redis) != 0) {
        snprintf(error, capacity, "cannot start a redis-server: %s", strerror(errno));
        return -1;
    }
    return wait_for_server(redis, error, capacity);
}

static void say(const struct bench_redis *redis, char word)
{
    while (write(redis->leash, &word, 1) < 0 && errno == EINTR)
        ;
}

void bench_redis_kill(struct bench_redis *redis)
{
    say(redis, KILL);
    while (answers(redis->socket))
        bench_sleep(0.001);
}

int bench_redis_revive(struct bench_redis *redis, char *error, size_t capacity)
{
    say(redis, REVIVE);
    return wait_for_server(redis, error, capacity);
}

void bench_redis_stop(struct bench_redis *redis)
{
    close(redis->leash);
    while (waitpid(redis->watcher, NULL, 0) < 0 && errno == EINTR)
        ;
}
