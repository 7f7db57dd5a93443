/* SPDX-License-Identifier: BSD-3-Clause
 * nearcache-check: what its files share.
 *
 *   main thread ── starts ──→ redis-server (two, one of them behind the proxies at a time)
 *        │                        ↑
 *        │                    a proxy for each worker (threads of this process)
 *        │                        ↑
 *        ├────── starts ───→ worker processes: the library, threads that read and write, and judge
 *        │                        │
 *        └── faults, progress ── board (shared memory, check_board.h): what was written when, and every violation */
#ifndef CHECK_H
#define CHECK_H
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "check_board.h"
#include "support/proxy.h"
#include "support/redis_server.h"

enum { CHECK_LANES = 3, CHECK_FAULT_KINDS = 27 };

struct check_options {
    int duration_s, processes, threads, writers, bound_ms, verbose;
    int sabotage;          /* 0: none; others only in the program of the tests (check_sabotage.h) */
    uint64_t seed, faults; /* a bit each */
    const char *uri, *json, *redis_server;
    char option[1024];
};

/* A lane does one fault after another; lanes do not wait for each other. */
enum check_lane { CHECK_LANE_SERVER, CHECK_LANE_PROXY, CHECK_LANE_PROCESS };

struct check_fault {
    const struct check_fault_kind *kind; /* NULL: none is on */
    int64_t next_ns;                     /* when this one ends, or the next one begins */
    uint32_t process;
    int proxy_kind, proxy_side;
    pid_t thread;
    int control; /* a connection to Redis, -1: none */
    int missed;  /* it could not be done, and does not count */
};

struct check {
    struct check_options options;
    struct check_board *board;
    int board_fd;
    char program[4096];
    struct redis_server *server[2];
    int active; /* the server behind the proxies */
    struct proxy *proxy[CHECK_PROCESSES];
    pid_t worker[CHECK_PROCESSES];
    uint64_t random;
    struct check_fault fault[CHECK_LANES];
    uint64_t fault_count[CHECK_FAULT_KINDS], losses;
    uint64_t known[CHECK_SLOTS / 64]; /* a loss is under way: whose survivor will be known */
    uint64_t printed;                 /* notes, a bit each */
    uint64_t unjudged;                /* values of the last sweep that could not be compared with Redis */
    int64_t stopped_ns;
    FILE *json; /* where the results go; NULL: nowhere */
};

extern volatile sig_atomic_t check_interrupted; /* the signal, or 0 */
void check_sleep_ms(int ms);
uint32_t check_below(struct check *c, uint32_t limit);

/* ---------------------------------------------------------------- check_rig.c: servers, proxies, processes */

/* Whether a proxy can stand before that server. */
int check_can_proxy(const char *uri);
/* All three return -1 with a text on stderr.  The first: of somebody else's server. */
int check_reach(const struct check *c);
int check_servers_start(struct check *c);
int check_workers_start(struct check *c);
int check_worker_start(struct check *c, uint32_t process);
void check_worker_kill(struct check *c, uint32_t process);
/* Every worker must still be there. */
void check_workers_watch(struct check *c);
void check_workers_end(struct check *c);
void check_servers_end(struct check *c);
struct redis_server *check_server(struct check *c);
/* Every new connection leads to the active server; those there are broken, but for subscriptions that may stay. */
void check_swap(struct check *c, int keep_subscriptions);
/* What Redis has of every key, before (0) or after (1) the sweep.  -1: it has not told all; another call asks for the
 * rest. */
int check_read_final(struct check *c, int which);

/* ---------------------------------------------------------------- check_loss.c: losing data on purpose */

/* Stops the writers and freezes every key. */
void check_loss_begin(struct check *c);
/* Whether somebody's write is under way. */
int check_is_writing(const struct check *c);
/* The data are lost; what has survived is in survivors (NULL: nothing). */
void check_loss_end(struct check *c, struct redis_server *survivors);
/* Begins new generations where they are due. */
void check_advance(struct check *c);
/* The process is dead: what it was writing is of unknown fate. */
void check_bury(struct check *c, uint32_t process);
/* The version of a key that a server has, 0: absent. */
enum { CHECK_NO_ANSWER = -1, CHECK_NOT_OURS = -2 }; /* the latter: a value that is none of this key's */
int64_t check_ask(struct check *c, struct redis_server *server, uint32_t slot, uint32_t generation);

/* ---------------------------------------------------------------- check_faults.c */

/* Faults named in a list ("redis-stop,flushall"), "all" that are possible or "none".  uri: of somebody else's server;
 * NULL: we have our own.  NULL, or why there is none such, and *ret_wrong names it. */
const char *check_faults_parse(const char *list, const char *uri, uint64_t *ret_set, const char **ret_wrong);
const char *check_fault_name(int index);
int check_faults_need_proxy(const struct check *c);
void check_faults_list(void);
void check_faults_step(struct check *c);
/* Ends what is on. */
void check_faults_stop(struct check *c);

/* ---------------------------------------------------------------- check_report.c */

/* Before anything is started.  0, or -1 with errno. */
int check_report_open_json(struct check *c, const char *path);
void check_report_begin(const struct check *c);
void check_report_second(const struct check *c);
void check_report_violations(struct check *c); /* those that are new */
void check_report_end(const struct check *c);
int check_report_json(struct check *c);
uint64_t check_gauge_sum(const struct check *c, enum check_gauge gauge);

#endif
