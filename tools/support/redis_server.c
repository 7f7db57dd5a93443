/* SPDX-License-Identifier: BSD-3-Clause
 * How nothing is left behind: a test may abort, be killed by a time-out or by a sanitizer, and then runs no clean-up of
 * its own.  So each server has a guardian, a shell in a session of its own, that reads from a pipe whose other end only
 * the test program holds.  It is told the server's process id at each start; the pipe's end tells it that the test
 * program is gone, and it kills the server and removes the directory.  The server itself is a child of the test program
 * (it has to be waited for and stopped).  A parent-death signal would do less: it is tied to the thread that forked. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "support/redis_server.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "support/resp_client.h"
#include "support/wait.h"

#define START_TRIES 8
#define START_TIMEOUT_MS 30000
#define COMMAND_TIMEOUT_MS 10000

struct redis_server {
    char directory[80];
    char socket[104];
    char *password; /* NULL: none */
    int has_acl;
    char *config, *program;
    int tls, is_sentinel;
    int port, tls_port;
    pid_t pid;    /* 0: not running */
    int guardian; /* our end of its pipe */
    pid_t guardian_pid;
    char *uri, *uri_unix, *uri_tls;
};

/* ---------------------------------------------------------------- small things */

static char *format(const char *text, ...) __attribute__((format(printf, 1, 2)));
static char *format(const char *text, ...)
{
    char *ret = NULL;
    va_list arguments;
    va_start(arguments, text);
    if (vasprintf(&ret, text, arguments) < 0)
        abort();
    va_end(arguments);
    return ret;
}

static int in_path(const char *program)
{
    const char *path = getenv("PATH");
    char *copy = strdup(path ? path : ""), *save = NULL;
    int found = 0;
    for (char *dir = strtok_r(copy, ":", &save); dir && !found; dir = strtok_r(NULL, ":", &save)) {
        char *candidate = format("%s/%s", dir, program);
        found = access(candidate, X_OK) == 0;
        free(candidate);
    }
    free(copy);
    return found;
}

/* The program as any folder may call it; NULL with errno: it cannot be called. */
static char *find_program(const char *program)
{
    if (!strchr(program, '/')) {
        errno = ENOENT;
        return in_path(program) ? strdup(program) : NULL;
    }
    return access(program, X_OK) == 0 ? realpath(program, NULL) : NULL;
}

int redis_server_available(void)
{
    static int told;
    if (in_path("redis-server"))
        return 1;
    if (!told++)
        fprintf(stderr, "\n*** SKIPPED: no redis-server in PATH; tests that need a real Redis are NOT run. ***\n\n");
    return 0;
}

/* Runs a shell line, returns its exit status. */
static int shell(const char *line)
{
    char *closed = format("exec 2>&1 </dev/null; %s", line);
    int status = system(closed);
    free(closed);
    return status;
}

int redis_server_tls_available(void)
{
    static int known = -1;
    if (known < 0) {
        known =
            redis_server_available() && in_path("openssl") &&
            shell("redis-server - --port 0 --tls-port 1 | grep -q 'configure TLS'") == 0; /* knows it, lacks files */
        if (!known)
            fprintf(stderr,
                    "\n*** SKIPPED: no redis-server with TLS and openssl in PATH; TLS tests are NOT run. ***\n\n");
    }
    return known;
}

static int write_file(const struct redis_server *s, const char *name, const char *text)
{
    FILE *file = fopen(redis_server_path(s, name), "we");
    if (!file)
        return -1;
    int failed = fputs(text, file) < 0;
    return fclose(file) != 0 || failed ? -1 : 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

/* ---------------------------------------------------------------- ports and certificates */

static int port_is_free(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    int free_now = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
    if (fd >= 0)
        close(fd);
    return free_now;
}

/* Below the ephemeral ports, so that no outgoing connection takes the port while the server is down for a restart. */
static int choose_port(void)
{
    static unsigned state;
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    state = state * 1103515245u + (unsigned)ts.tv_nsec + (unsigned)getpid() * 7919u;
    for (;;) {
        state = state * 1103515245u + 12345u;
        int port = 12000 + (int)((state >> 8) % 20000);
        if (port_is_free(port))
            return port;
    }
}

static int make_certificates(const struct redis_server *s)
{
    static const char script[] =
        "set -e; cd '%s'; exec >openssl.log 2>&1\n"
        "new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'\n"
        "openssl req -x509 $new -days 30 -subj '/CN=nearcache test CA' -keyout ca.key -out ca.crt\n"
        "openssl req -x509 $new -days 30 -subj '/CN=another CA' -keyout other-ca.key -out other-ca.crt\n"
        "echo 'subjectAltName=DNS:localhost,IP:127.0.0.1' >server.ext\n"
        "for who in server client; do\n"
        "  openssl req $new -subj \"/CN=$who.test\" -keyout $who.key -out $who.csr\n"
        "  openssl x509 -req -in $who.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile server.ext -out "
        "$who.crt\n"
        "done\n";
    char *line = format(script, s->directory);
    int status = shell(line);
    free(line);
    return status == 0 ? 0 : -1;
}

/* ---------------------------------------------------------------- the guardian */

static int start_guardian(struct redis_server *s)
{
    static const char script[] = "trap '' INT TERM HUP QUIT; pid=0; while read line; do pid=$line; done; "
                                 "[ \"$pid\" -gt 0 ] && kill -KILL \"$pid\"; rm -rf \"$1\"";
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    s->guardian_pid = fork();
    if (s->guardian_pid == 0) {
        setsid();
        dup2(ends[0], 0);
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 1); /* also not our standard streams: who waits for their end must not wait for us */
        dup2(null, 2);
        for (int fd = 3; fd < 1024; fd++)
            close(fd);
        execl("/bin/sh", "sh", "-c", script, "sh", s->directory, (char *)NULL);
        _exit(127);
    }
    close(ends[0]);
    s->guardian = ends[1];
    return s->guardian_pid < 0 ? -1 : 0;
}

static void tell_guardian(struct redis_server *s)
{
    if (dprintf(s->guardian, "%ld\n", (long)s->pid) < 0)
        abort(); /* no guardian, no test: something would be left behind */
}

/* ---------------------------------------------------------------- starting and ending */

static int write_config(const struct redis_server *s)
{
    char *tls = s->tls ? format("tls-port %d\ntls-cert-file server.crt\ntls-key-file server.key\n"
                                "tls-ca-cert-file ca.crt\ntls-auth-clients optional\n",
                                s->tls_port)
                       : strdup("");
    char *password = s->password ? format("requirepass \"%s\"\n", s->password) : strdup("");
    char *text =
        format("port %d\nbind 127.0.0.1\nunixsocket %s\nunixsocketperm 700\ndir %s\n"
               "save \"\"\nappendonly no\nlogfile redis.log\nloglevel notice\ndaemonize no\n"
               "maxclients 500\nenable-debug-command yes\nhz 50\n%s%s%s%s\n",
               s->port, s->socket, s->directory, tls, password, s->has_acl ? "aclfile users.acl\n" : "", s->config);
    int result = write_file(s, "redis.conf", text);
    free(tls);
    free(password);
    free(text);
    return result;
}

static pid_t spawn(const struct redis_server *s)
{
    const char *log = redis_server_path(s, "redis.log");
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    int in = open("/dev/null", O_RDONLY), out = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(in, 0);
    dup2(out, 1);
    dup2(out, 2);
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
    if (chdir(s->directory) == 0)
        execlp(s->program, "redis-server", "redis.conf", s->is_sentinel ? "--sentinel" : (char *)NULL, (char *)NULL);
    _exit(127);
}

static void reap(struct redis_server *s)
{
    while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    s->pid = 0;
    tell_guardian(s);
}

static int has_died(struct redis_server *s)
{
    if (waitpid(s->pid, NULL, WNOHANG) != s->pid)
        return 0;
    s->pid = 0;
    tell_guardian(s);
    return 1;
}

static int answers(struct redis_server *s)
{
    return strcmp(redis_server_command(s, "PING", NULL), "PONG") == 0;
}

static void show_log(const struct redis_server *s)
{
    char *line = format("tail -n 20 '%s/redis.log' '%s/openssl.log' 2>/dev/null >&2", s->directory, s->directory);
    fprintf(stderr, "%s does not start; its log:\n", s->program);
    (void)!system(line);
    free(line);
}

/* One attempt: 0, or -1 when it ended at once (most likely somebody took the port). */
static int try_start(struct redis_server *s)
{
    if (write_config(s) < 0)
        return -1;
    s->pid = spawn(s);
    if (s->pid < 0) {
        s->pid = 0;
        return -1;
    }
    tell_guardian(s);
    if (wait_until(has_died(s) || answers(s), START_TIMEOUT_MS) && s->pid)
        return 0;
    redis_server_kill(s);
    return -1;
}

static void set_uris(struct redis_server *s)
{
    char *user = s->password ? format(":%s@", s->password) : strdup("");
    free(s->uri);
    free(s->uri_unix);
    free(s->uri_tls);
    s->uri = format("redis://%s127.0.0.1:%d", user, s->port);
    s->uri_unix = format("unix://%s%s", user, s->socket);
    s->uri_tls =
        s->tls ? format("rediss://%slocalhost:%d?tls_ca_file=%s/ca.crt", user, s->tls_port, s->directory) : NULL;
    free(user);
}

/* Of a folder that a URI and a line of Redis's configuration take as it is. */
#define PLAIN "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-+,=~"

static int make_directory(struct redis_server *s)
{
    const char *base = getenv("TMPDIR");
    if (!base || !*base || base[strspn(base, PLAIN)] || strlen(base) > 48) /* a socket's path has 107 bytes */
        base = "/tmp";
    snprintf(s->directory, sizeof s->directory, "%s/near-redis-XXXXXX", base);
    if (!mkdtemp(s->directory)) {
        s->directory[0] = 0;
        return -1;
    }
    snprintf(s->socket, sizeof s->socket, "%s/redis.sock", s->directory);
    return 0;
}

/* The tests' own commands must pass whatever the ACL says about everybody else. */
static int write_acl(const struct redis_server *s, const char *acl)
{
    char *text =
        format("%s%suser support on >support ~* &* +@all\n", acl, *acl && acl[strlen(acl) - 1] != '\n' ? "\n" : "");
    int result = write_file(s, "users.acl", text);
    free(text);
    return result;
}

struct redis_server *redis_server_start(const struct redis_server_options *options)
{
    static const struct redis_server_options defaults;
    if (!options)
        options = &defaults;
    if ((!options->program && !redis_server_available()) || (options->tls && !redis_server_tls_available()))
        return NULL;
    const char *wanted = options->program ? options->program : "redis-server";
    char *program = find_program(wanted);
    if (!program) {
        fprintf(stderr, "cannot start %s: %s\n", wanted, strerror(errno));
        return NULL;
    }
    struct redis_server *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    s->guardian = -1;
    s->password = options->password ? strdup(options->password) : NULL;
    s->has_acl = options->acl != NULL;
    s->config = strdup(options->config ? options->config : "");
    s->program = program;
    s->tls = options->tls;
    s->is_sentinel = options->sentinel;
    if (make_directory(s) < 0 || start_guardian(s) < 0 || (s->tls && make_certificates(s) < 0) ||
        (s->has_acl && write_acl(s, options->acl) < 0))
        goto failed;
    for (int i = 0; i < START_TRIES; i++) {
        s->port = choose_port();
        s->tls_port = s->tls ? choose_port() : 0;
        set_uris(s);
        if (try_start(s) == 0)
            return s;
    }
failed:
    show_log(s);
    redis_server_free(s);
    return NULL;
}

void redis_server_free(struct redis_server *s)
{
    if (!s)
        return;
    redis_server_kill(s);
    if (s->directory[0])
        nftw(s->directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    if (s->guardian >= 0) {
        close(s->guardian);
        while (waitpid(s->guardian_pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    free(s->password);
    free(s->config);
    free(s->program);
    free(s->uri);
    free(s->uri_unix);
    free(s->uri_tls);
    free(s);
}

static void end_by(struct redis_server *s, int signal_number)
{
    if (!s->pid)
        return;
    kill(s->pid, signal_number);
    kill(s->pid, SIGCONT); /* a stopped process only dies when it goes on */
    reap(s);
}

void redis_server_stop(struct redis_server *s)
{
    end_by(s, SIGTERM);
}
void redis_server_kill(struct redis_server *s)
{
    end_by(s, SIGKILL);
}

void redis_server_pause(struct redis_server *s)
{
    if (!s->pid)
        return;
    kill(s->pid, SIGSTOP);
    waitpid(s->pid, NULL, WUNTRACED); /* returns when the whole process has stopped, not a moment earlier */
}

void redis_server_resume(struct redis_server *s)
{
    if (s->pid)
        kill(s->pid, SIGCONT);
}

int redis_server_up(struct redis_server *s)
{
    for (int i = 0; i < START_TRIES && !s->pid; i++) {
        if (try_start(s) == 0)
            return 0;
        wait_a_moment();
    }
    if (!s->pid)
        show_log(s);
    return s->pid ? 0 : -1;
}

void redis_server_wipe(struct redis_server *s)
{
    unlink(redis_server_path(s, "dump.rdb"));
    nftw(redis_server_path(s, "appendonlydir"), remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

int redis_server_restart(struct redis_server *s, int keep_data)
{
    if (keep_data && strcmp(redis_server_command(s, "SAVE", NULL), "OK") != 0)
        return -1;
    redis_server_stop(s);
    if (!keep_data)
        redis_server_wipe(s);
    return redis_server_up(s);
}

/* ---------------------------------------------------------------- what it is called */

const char *redis_server_uri(const struct redis_server *s)
{
    return s->uri;
}
const char *redis_server_uri_unix(const struct redis_server *s)
{
    return s->uri_unix;
}
const char *redis_server_uri_tls(const struct redis_server *s)
{
    return s->uri_tls;
}
const char *redis_server_socket(const struct redis_server *s)
{
    return s->socket;
}
int redis_server_port(const struct redis_server *s)
{
    return s->port;
}
int redis_server_tls_port(const struct redis_server *s)
{
    return s->tls_port;
}
pid_t redis_server_pid(const struct redis_server *s)
{
    return s->pid;
}

const char *redis_server_path(const struct redis_server *s, const char *name)
{
    static _Thread_local char path[sizeof s->directory + 64];
    snprintf(path, sizeof path, "%s/%s", s->directory, name);
    return path;
}

/* ---------------------------------------------------------------- commands */

/* A thread's last reply; freed when the thread ends. */
static _Thread_local struct resp_text last_reply;
static pthread_key_t last_reply_key;
static pthread_once_t last_reply_once = PTHREAD_ONCE_INIT;

static void make_last_reply_key(void)
{
    pthread_key_create(&last_reply_key, free);
}

static const char *keep_reply(struct resp_text text)
{
    pthread_once(&last_reply_once, make_last_reply_key);
    free(last_reply.data);
    last_reply = text;
    pthread_setspecific(last_reply_key, text.data);
    return text.data;
}

static int authenticate(struct redis_server *s, int fd)
{
    const char *user[] = {"AUTH", "support", "support"}, *password[] = {"AUTH", s->password};
    const size_t user_sizes[] = {4, 7, 7}, password_sizes[] = {4, s->password ? strlen(s->password) : 0};
    struct resp_text text = {0};
    int sent = s->has_acl ? resp_send(fd, 3, user, user_sizes) : resp_send(fd, 2, password, password_sizes);
    int failed = sent < 0 || resp_read(fd, &text) < 0;
    free(text.data);
    return failed ? -1 : 0;
}

const char *redis_server_command_argv(struct redis_server *s, size_t count, const char *const *arguments,
                                      const size_t *sizes, size_t *ret_size)
{
    struct resp_text text = {0};
    int fd = resp_connect_unix(s->socket, COMMAND_TIMEOUT_MS);
    int failed = fd < 0 || ((s->has_acl || s->password) && authenticate(s, fd) < 0) ||
                 resp_send(fd, count, arguments, sizes) < 0 || resp_read(fd, &text) < 0;
    if (fd >= 0)
        close(fd);
    if (failed) {
        free(text.data);
        text = (struct resp_text){.data = strdup("(no answer)"), .size = strlen("(no answer)")};
    }
    if (ret_size)
        *ret_size = text.size;
    return keep_reply(text);
}

const char *redis_server_command(struct redis_server *s, ...)
{
    const char *arguments[64];
    size_t sizes[64], count = 0;
    va_list list;
    va_start(list, s);
    for (const char *next; count < 64 && (next = va_arg(list, const char *)); count++) {
        arguments[count] = next;
        sizes[count] = strlen(next);
    }
    va_end(list);
    return redis_server_command_argv(s, count, arguments, sizes, NULL);
}

long long redis_server_info(struct redis_server *s, const char *section, const char *name)
{
    const char *text = redis_server_command(s, "INFO", section, NULL);
    size_t length = strlen(name);
    for (const char *at = text; (at = strstr(at, name)); at += length)
        if ((at == text || at[-1] == '\n') && at[length] == ':')
            return strtoll(at + length + 1, NULL, 10);
    return -1;
}
