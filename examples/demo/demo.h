/* SPDX-License-Identifier: BSD-3-Clause
 * nearcache-demo: what its files share.
 *
 *   demo ──── starts ───→ redis-server, and N resp-servers in front of it, each with threads that read and write inside
 *     │                       ↑
 *     ├── a client thread ────┘ (over its unix socket) for each resp-server
 *     ├── main thread: phases, faults, the line every second
 *     └── board (shared memory, demo_board.h): what was written when, and every violation */
#ifndef DEMO_H
#define DEMO_H
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/types.h>

#include "demo_board.h"
#include "demo_folder.h"
#include "support/child.h"

enum { DEMO_FAULTS = 16, DEMO_TIMEOUT_MS = 500 };

enum sabotage { SABOTAGE_NONE, SABOTAGE_STALE, SABOTAGE_DAMAGED };

struct demo_options {
    int seconds, bound_ms, processes, records, updates_per_s, faults, verbose;
    uint64_t seed;
    enum sabotage sabotage;
    const char *local_bytes, *json, *redis_server, *folder;
    int kill_signal, kill_ms; /* the one fault of --kill; signal 0: the usual plan */
};

enum fault_kind { FAULT_KILL_SUBSCRIPTIONS, FAULT_FREEZE_REDIS, FAULT_STOP_REDIS, FAULT_FREEZE_SERVER };
enum fault_state { FAULT_PLANNED, FAULT_ON, FAULT_RECOVERING, FAULT_OVER };

struct fault {
    enum fault_kind kind;
    enum fault_state state;
    int signal;
    int64_t at_ns, length_ns;       /* after the start of the run */
    int64_t ended_ns, recovered_ns; /* of the clock */
    uint64_t errors;                /* reads and writes that failed from its begin to recovery */
    uint64_t updates[BOARD_PROCESSES], proofs[BOARD_PROCESSES], hits[BOARD_PROCESSES]; /* as they were at its end */
};

struct demo_client {
    struct demo *demo;
    pthread_t thread;
    uint32_t process;
    int started;
};

struct demo {
    struct demo_options options;
    struct folder folder;
    struct board *board;
    uint32_t packages, files, generated;
    pid_t redis;
    char redis_program[4096], server_program[4096];
    pid_t servers[BOARD_PROCESSES];
    struct demo_client clients[BOARD_PROCESSES];
    pthread_t saboteur;
    int saboteur_started;
    struct fault faults[DEMO_FAULTS];
    int fault_count;
    int64_t started_ns, stopped_ns; /* of the load */
    uint64_t sabotages;
};

extern volatile sig_atomic_t demo_interrupted; /* the signal, or 0 */
void demo_sleep_ms(int ms);
/* base/name */
const char *demo_path(const struct demo *demo, char *path, size_t capacity, const char *name, int number);

/* demo_servers.c.  They return -1 with a text on stderr. */
int servers_find(struct demo *demo);
int redis_start(struct demo *demo);
int redis_wait(struct demo *demo, int timeout_ms);
void redis_end(struct demo *demo);
int servers_start(struct demo *demo);
/* Ends them and counts those that did not end well. */
void servers_end(struct demo *demo);
int records_load(struct demo *demo);

/* demo_client.c */
int clients_start(struct demo *demo);
void clients_join(struct demo *demo);
int sabotage_start(struct demo *demo);
void sabotage_join(struct demo *demo);

/* demo_faults.c: called every few milliseconds by the main thread. */
void faults_plan(struct demo *demo);
void faults_step(struct demo *demo);
int faults_done(const struct demo *demo);
const char *fault_name(const struct fault *fault, char *text, size_t capacity);
/* The fault that is on at present, or NULL. */
const struct fault *faults_now(const struct demo *demo);
uint64_t demo_errors(const struct demo *demo);

/* demo_report.c */
void report_begin(const struct demo *demo);
void report_second(const struct demo *demo); /* the live line */
void report_end(const struct demo *demo);
int report_json(const struct demo *demo, const char *path);

#endif
