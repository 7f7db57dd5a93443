/* SPDX-License-Identifier: BSD-3-Clause */
#include "coherence/process.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coherence/proof.h"

/* ---------------------------------------------------------------- the world */

static void open_world(struct world *w, int real)
{
    memset(w, 0, sizeof(*w));
    atomic_init(&w->now_ns, TEST_START_NS);
    w->clock.virtual_ns = real ? NULL : &w->now_ns;
    w->log.clock = &w->clock;
    near_options_init(&w->options);
    w->options.message_value_max = 0; /* a test that wants values to travel asks for it */
    near__alloc_init(&w->alloc, NULL);
}

static void open_memory(struct world *w, int real)
{
    static unsigned worlds;
    open_world(w, real);
    snprintf(w->name, sizeof(w->name), "coherence-%u", worlds++);
    w->uri = (struct near__uri){.kind = NEAR_URI_MEMORY, .path = w->name};
    w->store = near__memory_ref(w->name, &w->alloc, &w->clock);
    assert_non_null(w->store);
    near__memory_impatient(w->store, !real);
}

void world_open(struct world *w)
{
    open_memory(w, 0);
}

void world_open_real(struct world *w)
{
    open_memory(w, 1);
}

void world_open_redis(struct world *w, const char *uri)
{
    open_world(w, 1);
    assert_int_equal(near__uri_parse(uri, &w->alloc, &w->options, &w->uri, NULL), NEAR_OK);
}

void world_close(struct world *w)
{
    if (w->store)
        near__memory_unref(w->store);
    else
        near__uri_fini(&w->uri, &w->alloc);
}

void world_advance(struct world *w, int64_t ns)
{
    near__clock_advance(&w->now_ns, ns);
}

/* ---------------------------------------------------------------- a process */

void process_open(struct process *p, struct world *w, uint64_t seed)
{
    process_open_heard(p, w, seed, NULL, NULL);
}

void process_open_heard(struct process *p, struct world *w, uint64_t seed,
                        void (*heard)(void *arg, const void *key, size_t key_size), void *arg)
{
    int manual = w->clock.virtual_ns != NULL;
    memset(p, 0, sizeof(*p));
    p->world = w;
    struct near__local_config local = {.alloc = &w->alloc,
                                       .clock = &w->clock,
                                       .log = &w->log,
                                       .bytes_max = 1u << 20,
                                       .seed = 1,
                                       .manual = manual,
                                       .foreign = w->options.track != NEAR_TRACK_NONE};
    assert_int_equal(near__local_open(&local, &p->local), NEAR_OK);
    struct near__remote_config remote = {
        .alloc = &w->alloc, .clock = &w->clock, .log = &w->log, .uri = &w->uri, .options = &w->options};
    assert_int_equal(near__remote_open(&remote, &p->remote, NULL), NEAR_OK);
    struct near__coherence_config coherence = {.alloc = &w->alloc,
                                               .clock = &w->clock,
                                               .log = &w->log,
                                               .local = p->local,
                                               .remote = p->remote,
                                               .bound_ms = w->bound_ms ? w->bound_ms : TEST_BOUND_MS,
                                               .backoff_min_ms = 10,
                                               .backoff_max_ms = 2000,
                                               .connect_timeout_ms =
                                                   w->connect_timeout_ms ? w->connect_timeout_ms : 2000,
                                               .repair_rate = w->repair_rate,
                                               .seed = seed,
                                               .tracking = w->options.track != NEAR_TRACK_NONE,
                                               .manual = manual,
                                               .heard = heard,
                                               .heard_arg = arg};
    assert_int_equal(near__coherence_open(&coherence, &p->coherence, NULL), NEAR_OK);
}

void process_close(struct process *p)
{
    if (!p->coherence)
        return;
    near__remote_interrupt(p->remote);
    near__coherence_close(p->coherence);
    near__remote_close(p->remote);
    near__local_close(p->local);
    memset(p, 0, sizeof(*p));
}

void process_settle(struct process *p)
{
    for (int i = 0; near__coherence_step(p->coherence); i++)
        assert_true(i < 100000);
}

int process_serves(struct process *p)
{
    struct near__gate *gate = near__local_gate(p->local);
    int64_t proved_ns = atomic_load(&gate->proved_ns);
    return proved_ns != NEAR_PROVED_NEVER && near__now(&p->world->clock) - proved_ns < atomic_load(&gate->bound_ns);
}

near_stats process_stats(struct process *p)
{
    near_stats stats = {.size = sizeof(stats)};
    near__coherence_stats(p->coherence, &stats);
    return stats;
}

void process_prove(struct process *p)
{
    uint64_t before = atomic_load(&p->coherence->proofs);
    for (int i = 0; i < 10000; i++) {
        process_settle(p);
        if (p->world->store)
            near__memory_turn(p->world->store);
        if (atomic_load(&p->coherence->proofs) > before && process_serves(p))
            return;
        world_advance(p->world, NEAR_NS_PER_MS);
    }
    fail_msg("no proof within ten seconds of virtual time");
}

int64_t process_repair(struct process *p)
{
    int64_t begun_ns = near__now(&p->world->clock);
    struct near__repair *r = &p->coherence->repair;
    process_settle(p);
    for (int i = 0; r->stage != NEAR_REPAIR_REST || r->wanted != r->run; i++) {
        assert_true(i < 100000);
        world_advance(p->world, NEAR_NS_PER_MS);
        process_settle(p);
    }
    return near__now(&p->world->clock) - begun_ns;
}

/* ---------------------------------------------------------------- commands */

static void begin(struct command *c, struct process *p, const char *key, enum near__operation operation)
{
    memset(c, 0, sizeof(*c));
    c->process = p;
    snprintf(c->key, sizeof(c->key), "%s", key);
    c->ticket = near__local_ticket(p->local, c->key, strlen(c->key));
    c->mark = near__coherence_mark(p->coherence);
    near__buffer_init(&c->body, &p->world->alloc);
    c->request = (struct near__request){.operation = operation, .key_size = strlen(c->key)};
}

static void begin_write(struct command *c, struct process *p, const char *key, enum near__operation operation,
                        enum near__message_operation message, uint64_t value)
{
    begin(c, p, key, operation);
    c->value = value;
    int carries = operation == NEAR_OP_SET && p->world->options.message_value_max;
    if (carries && p->world->options.message_values == NEAR_VALUES_ADAPTIVE &&
        !near__coherence_wants_value(p->coherence, c->key, strlen(c->key)))
        near__coherence_body_asking(p->coherence, c->key, strlen(c->key), &c->body);
    else if (carries)
        near__coherence_body_value(p->coherence, c->key, strlen(c->key), &c->value, sizeof(c->value), -1, &c->body);
    else
        near__coherence_body(p->coherence, message, c->key, strlen(c->key), &c->body);
    assert_int_equal(c->body.failed, 0);
}

void command_begin_fetch(struct command *c, struct process *p, const char *key)
{
    begin(c, p, key, NEAR_OP_FETCH);
}

void command_begin_set(struct command *c, struct process *p, const char *key, uint64_t value)
{
    begin_write(c, p, key, NEAR_OP_SET, NEAR_MESSAGE_SET, value);
}

void command_begin_del(struct command *c, struct process *p, const char *key)
{
    begin_write(c, p, key, NEAR_OP_DEL, NEAR_MESSAGE_DEL, 0);
}

/* Pointers are set here, since a command may have been moved since it began. */
void command_run(struct command *c)
{
    c->request.key = c->key;
    c->request.body = c->body.data;
    c->request.body_size = c->body.size;
    if (c->request.operation == NEAR_OP_SET) {
        c->request.value = &c->value;
        c->request.value_size = sizeof(c->value);
    }
    near__remote_run(c->process->remote, &c->request, 1, near__now(&c->process->world->clock) + NEAR_NS_PER_S);
    if (c->request.operation == NEAR_OP_FETCH && c->request.status == NEAR_OK) {
        assert_int_equal(c->request.value_out_size, sizeof(c->value));
        memcpy(&c->value, c->request.value_out, sizeof(c->value));
    }
    near__free(&c->process->world->alloc, c->request.value_out);
    c->request.value_out = NULL;
}

static void learn(struct command *c, uint64_t position)
{
    const struct near__request *q = &c->request;
    struct process *p = c->process;
    int has_value = q->status == NEAR_OK && q->operation != NEAR_OP_DEL && !q->inexact;
    if (has_value)
        near__local_install(p->local, near__local_reader(p->local), c->ticket, c->key, q->key_size, &c->value,
                            sizeof(c->value), position, q->ttl_left_ms, q->sent_ns);
    else if (q->operation == NEAR_OP_FETCH || q->status == NEAR_MISS)
        near__local_observe(p->local, c->key, q->key_size, position);
    if (q->operation != NEAR_OP_FETCH && q->status == NEAR_OK)
        near__local_invalidate(p->local, c->key, q->key_size, position, NEAR_CAUSE_WRITE);
}

int command_end(struct command *c)
{
    const struct near__request *q = &c->request;
    if (q->status >= 0)
        learn(c, near__coherence_position(c->process->coherence, c->mark, q));
    else if (q->status == NEAR_ERR_UNKNOWN)
        near__local_invalidate(c->process->local, c->key, q->key_size, 0, NEAR_CAUSE_WRITE);
    near__buffer_fini(&c->body);
    return q->status;
}

void process_set(struct process *p, const char *key, uint64_t value)
{
    struct command c;
    command_begin_set(&c, p, key, value);
    command_run(&c);
    assert_int_equal(command_end(&c), NEAR_OK);
}

void process_del(struct process *p, const char *key)
{
    struct command c;
    command_begin_del(&c, p, key);
    command_run(&c);
    assert_true(command_end(&c) >= 0);
}

uint64_t process_fetch(struct process *p, const char *key)
{
    struct command c;
    command_begin_fetch(&c, p, key);
    command_run(&c);
    assert_true(command_end(&c) >= 0);
    return c.value;
}

int process_hit(struct process *p, const char *key, uint64_t *ret_value)
{
    struct near__view view;
    int64_t bound_ns = atomic_load(&near__local_gate(p->local)->bound_ns);
    enum near__local_result result = near__local_copy(p->local, near__local_reader(p->local), key, strlen(key),
                                                      bound_ns, 0, ret_value, sizeof(*ret_value), &view);
    if (result == NEAR_LOCAL_HIT)
        assert_int_equal(view.size, sizeof(*ret_value));
    return result == NEAR_LOCAL_HIT;
}
