/* SPDX-License-Identifier: BSD-3-Clause
 * A small Redis-speaking server with nearcache inside: what its files share.
 *
 *   main thread      listens, accepts, hands each connection to a worker through the worker's pipe, waits for signals
 *   worker threads   one epoll loop each; a connection belongs to one worker for its whole life, so nothing about it is
 *                    locked.  Workers share nothing but the cache and a few counters.
 *
 * A near_* call that goes to Redis blocks its worker, and with it that worker's other connections, until the answer is
 * there or the call's deadline passes.  That is the usual shape of a threaded server; hits do not block. */
#ifndef SERVER_H
#define SERVER_H
#include <nearcache.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

#include "server_bytes.h"
#include "server_request.h"

/* consecutive GETs of a pipeline that become one near_mget; fewer than the pins of a thread */
#define SERVER_BATCH 32
#define SERVER_WRITES 64            /* keys of consecutive SETs, or DELs, that become one near_mset, or near_mdel */
#define SERVER_OUT_PAUSE (1u << 20) /* a client with so much unread output is not read from until it has read */

struct settings {
    const char *bind, *unixsocket, *redis, *name, *demo_load;
    int port; /* -1: no TCP */
    int threads;
    int clients_max;
    size_t bulk_max;      /* largest argument */
    size_t output_max;    /* a client whose unread output grows beyond it is closed */
    near_options options; /* of the cache */
};

struct arg {
    const char *data;
    size_t size;
};

struct worker;

/* Requests of one client's pipeline that run together: consecutive ones of one kind. */
enum batch_kind { BATCH_READ, BATCH_SET, BATCH_DEL };
struct batch {
    enum batch_kind kind;
    near_write write;               /* BATCH_SET: of all of them */
    near_item items[SERVER_WRITES]; /* their keys and values are in the client's input, which does not move meanwhile */
    size_t count;
    size_t begins[SERVER_BATCH]; /* BATCH_READ: where their requests begin in the client's input */
    size_t keys[SERVER_WRITES];  /* writes: how many items each request has */
    size_t requests;
};

struct client {
    int fd;
    uint64_t id;
    struct worker *worker;
    struct client *previous, *next; /* in the worker's list */
    struct bytes in, out;
    struct request request;
    size_t batch_max;  /* GETs to run together; fewer while values are large */
    uint32_t interest; /* epoll events asked for */
    int ending;        /* no more requests are run; closed when the output is written */
    int received_all;  /* the other side sends no more; what it sent is still answered */
    char name[64];
};

struct worker {
    struct server *server;
    pthread_t thread;
    int epoll;
    int pipe[2]; /* descriptors of new connections arrive here; the writing end closed means: finish */
    struct client *clients;
    struct arg *argv; /* scratch for the request that runs */
    size_t argv_capacity;
    struct batch batch;
    _Atomic uint64_t commands, keys_read; /* written by this worker only */
};

struct server {
    struct settings settings;
    near_cache *cache;
    struct worker *workers;
    int worker_count;
    int listen_tcp, listen_unix;
    int port; /* the one really bound */
    int64_t started_ns;
    _Atomic uint64_t clients, connections, refused, next_id;
    _Atomic uint64_t commands_offset; /* commands before the last CONFIG RESETSTAT */
    _Atomic uint32_t bound_ms;
};

int64_t server_now_ns(void);
uint64_t server_commands(const struct server *server);

/* server_settings.c: 0, 1 (help was printed), or 2 (bad arguments; said on stderr). */
int settings_parse(struct settings *settings, int argc, char **argv);

/* server_listen.c: opens both listeners; -1 with a text on stderr. */
int listen_open(struct server *server);
void listen_close(struct server *server);
/* Accepts until SIGTERM or SIGINT is read from signal_fd. */
void listen_run(struct server *server, int signal_fd);

/* server_worker.c */
int workers_start(struct server *server);
void workers_stop(struct server *server);

/* server_commands.c: runs one request; its reply goes to the client's output. */
void command_run(struct client *client, const struct arg *argv, size_t argc);
size_t command_count(void);
void command_list(FILE *to); /* their names, some to a line */
near_cache *cache_of(const struct client *client);
void count_keys(struct client *client, size_t count); /* read */
void reply_read(struct client *client, int status, const near_value *value);
void reply_set(struct client *client, int status);
/* A time to live in units of unit_ms: 0, -1 if it is not a number, -2 if nobody can mean it. */
int ttl_parse(const struct arg *arg, int64_t unit_ms, int64_t *ret_ms);

/* server_batch.c: GETs and plain writes may wait in the worker's batch.  batch_take tells in *ret_taken whether the
 * request does; otherwise it is for command_run, after batch_run, which answers all that wait.  Both return 1 when the
 * client first has to read what is there already: then its request is rewound to the first GET without an answer, to
 * be parsed and run again later. */
int batch_take(struct client *client, const struct arg *argv, size_t argc, int *ret_taken);
int batch_run(struct client *client);

/* server_admin.c: the commands about the server itself. */
void admin_info(struct client *client, const struct arg *argv, size_t argc);
void admin_config(struct client *client, const struct arg *argv, size_t argc);
void admin_client(struct client *client, const struct arg *argv, size_t argc);
void admin_command(struct client *client, const struct arg *argv, size_t argc);
void admin_hello(struct client *client, const struct arg *argv, size_t argc);

/* server_reply.c */
void reply_simple(struct client *client, const char *text);
void reply_error(struct client *client, const char *format, ...) __attribute__((format(printf, 2, 3)));
void reply_status(struct client *client, int status); /* an error of the library's, as Redis would name it */
void reply_integer(struct client *client, int64_t number);
void reply_bulk(struct client *client, const void *data, size_t size);
void reply_text(struct client *client, const char *text);
void reply_nil(struct client *client);
void reply_array(struct client *client, size_t count);
/* Where the output ends, and going back there: a reply that turns out to be an error replaces what was begun. */
size_t reply_mark(const struct client *client);
void reply_rollback(struct client *client, size_t mark);

int arg_is(const struct arg *arg, const char *word);                    /* case does not matter */
int arg_integer(const struct arg *arg, int64_t *ret_number);            /* 0, or -1 */
void arg_printable(const struct arg *arg, char *text, size_t capacity); /* for error texts: short and harmless */

#endif
