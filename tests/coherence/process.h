/* SPDX-License-Identifier: BSD-3-Clause What the tests of the coherence room take for a process: a local tier and its
 * coherence over memory://, driven by hand under a virtual clock, with the cache room's rule for reads and writes cut
 * into its three steps, so that tests can put anything between. */
#ifndef NEAR_TESTS_PROCESS_H
#define NEAR_TESTS_PROCESS_H
#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/options.h"
#include "coherence/coherence.h"
#include "local/local.h"
#include "remote/memory.h"
#include "remote/remote.h"

#define TEST_BOUND_MS 1000
#define TEST_BOUND_NS (TEST_BOUND_MS * NEAR_NS_PER_MS)
/* so that positions look like microseconds of the present */
#define TEST_START_NS (INT64_C(1700000000) * NEAR_NS_PER_S)

/* One server and the time. */
struct world {
    struct near__alloc alloc;
    _Atomic(int64_t) now_ns;
    struct near__clock clock;
    struct near__log log;
    near_options options;
    struct near__uri uri;
    char name[64];
    struct near__memory_store *store;      /* NULL: a real server */
    uint32_t bound_ms, connect_timeout_ms; /* 0: the tests' usual; set before processes are opened */
    uint32_t repair_rate;                  /* as above; 0: none */
};

void world_open(struct world *w);
/* The same with the real clock; its processes have their threads. */
void world_open_real(struct world *w);
/* Real clock and a real server. */
void world_open_redis(struct world *w, const char *uri);
void world_close(struct world *w);
void world_advance(struct world *w, int64_t ns);

struct process {
    struct world *world;
    struct near__local *local;
    struct near__remote *remote;
    struct near__coherence *coherence;
};

void process_open(struct process *p, struct world *w, uint64_t seed);
/* With somebody who is told of every message (coherence_config.heard). */
void process_open_heard(struct process *p, struct world *w, uint64_t seed,
                        void (*heard)(void *arg, const void *key, size_t key_size), void *arg);
void process_close(struct process *p);
/* Steps until there is nothing to do at this instant. */
void process_settle(struct process *p);
/* Steps, moving the time, until nothing is being repaired; returns how long that took. */
int64_t process_repair(struct process *p);
/* Steps, moving the time if need be, until the gate is proven; fails the test when it does not come. */
void process_prove(struct process *p);
near_stats process_stats(struct process *p);
/* Whether a hit would be served now, as far as the gate decides. */
int process_serves(struct process *p);

/* A command: begin, run and end may lie far apart; the first takes the ticket and the mark, the last learns from the
 * reply. */
struct command {
    struct process *process;
    char key[16];
    struct near__ticket ticket;
    struct near__mark mark;
    struct near__buffer body;
    struct near__request request;
    uint64_t value;
};
void command_begin_fetch(struct command *c, struct process *p, const char *key);
void command_begin_set(struct command *c, struct process *p, const char *key, uint64_t value);
void command_begin_del(struct command *c, struct process *p, const char *key);
void command_run(struct command *c);
/* Returns the status; a fetched value (0: absent) is left in c->value. */
int command_end(struct command *c);

/* All three at once. */
void process_set(struct process *p, const char *key, uint64_t value);
void process_del(struct process *p, const char *key);
uint64_t process_fetch(struct process *p, const char *key); /* 0: absent */
/* A local look-up: 1 and *ret_value, or 0. */
int process_hit(struct process *p, const char *key, uint64_t *ret_value);

#endif
