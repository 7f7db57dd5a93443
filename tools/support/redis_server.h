/* SPDX-License-Identifier: BSD-3-Clause
 * A private redis-server, in a directory of its own, on a unix socket and a TCP port of 127.0.0.1.
 *
 *     static int setup(void **state) { return (*state = redis_server_start(NULL)) ? 0 : -1; }
 *     static void test_…(void **state) { struct redis_server *s = *state; if (!s) skip(); … }
 *
 * Without a redis-server in PATH redis_server_available() says so on stderr, loudly, and the tests skip.
 * A small shell process watches over each server: when the test program ends, in whatever way, it kills the server and
 * removes the directory.
 * Threads: redis_server_command may be called by any; the rest belongs to one. */
#ifndef NEAR_TESTS_REDIS_SERVER_H
#define NEAR_TESTS_REDIS_SERVER_H
#include <stddef.h>
#include <sys/types.h>

struct redis_server;

struct redis_server_options {
    const char *password; /* requirepass */
    const char *acl;      /* lines of an ACL file, "user alice on >secret ~* &* +@all\n"; the default user stays as the
                             lines say.  redis_server_command uses a user of its own, "support". */
    const char *config;   /* more lines of redis.conf */
    int tls;              /* also listens with TLS, see redis_server_uri_tls; needs openssl in PATH */
    const char *program;  /* NULL: "redis-server" */
    int sentinel;         /* a sentinel; config has its lines, "sentinel monitor …" */
};

int redis_server_available(void);
int redis_server_tls_available(void); /* a server built with TLS, and an openssl to make certificates */

/* Starts a server and waits until it answers.  options may be NULL.  NULL when it cannot be started (the reason and the
 * end of the server's log go to stderr). */
struct redis_server *redis_server_start(const struct redis_server_options *options);
/* Ends it and removes its directory.  NULL is fine. */
void redis_server_free(struct redis_server *s);

void redis_server_stop(struct redis_server *s);  /* SIGTERM, and waits for its end; data that was not saved is lost */
void redis_server_kill(struct redis_server *s);  /* SIGKILL, and waits for its end */
void redis_server_pause(struct redis_server *s); /* SIGSTOP; returns when it has stopped */
void redis_server_resume(struct redis_server *s);
/* Starts a stopped or killed one again, same port and socket, with the data of its last SAVE, or of its append-only
 * file if the configuration has one.  0, or -1. */
int redis_server_up(struct redis_server *s);
void redis_server_wipe(struct redis_server *s); /* of a stopped or killed one: its data are gone */
/* stop and up: with keep_data everything is saved before, otherwise it comes back empty.  0, or -1. */
int redis_server_restart(struct redis_server *s, int keep_data);

/* URIs as near_open takes them, with the password if there is one. */
const char *redis_server_uri(const struct redis_server *s);      /* redis://127.0.0.1:PORT */
const char *redis_server_uri_unix(const struct redis_server *s); /* unix:///…/redis.sock */
const char *redis_server_uri_tls(const struct redis_server *s);  /* rediss://localhost:PORT?tls_ca_file=… */
const char *redis_server_socket(const struct redis_server *s);   /* the path alone */
int redis_server_port(const struct redis_server *s);
int redis_server_tls_port(const struct redis_server *s);
pid_t redis_server_pid(const struct redis_server *s); /* 0: not running */
/* A path in its directory: "ca.crt", "server.crt", "server.key", "other-ca.crt" (signed nothing), "redis.log",
 * "dump.rdb".  The text lives until the thread's next call. */
const char *redis_server_path(const struct redis_server *s, const char *name);

/* Runs one command on a connection of its own and returns the reply as text, valid until the thread's next call:
 * strings as they are, integers in decimal, "(nil)", errors with their "-" before them, arrays with one line an
 * element, and "(no answer)" when the server cannot be reached or says nothing for ten seconds.  The last argument is
 * NULL. */
const char *redis_server_command(struct redis_server *s, ...) __attribute__((sentinel));
/* The same for binary arguments; *ret_size (may be NULL) is the text's length. */
const char *redis_server_command_argv(struct redis_server *s, size_t count, const char *const *arguments,
                                      const size_t *sizes, size_t *ret_size);
/* A number from INFO ("connected_clients"), -1 when it is not there. */
long long redis_server_info(struct redis_server *s, const char *section, const char *name);

#endif
