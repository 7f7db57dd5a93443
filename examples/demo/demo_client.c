/* SPDX-License-Identifier: BSD-3-Clause
 * The clients outside: one for each server, over its unix socket, reading in pipelines and writing the records that are
 * theirs.  Their reads are judged like those inside the server.  And the saboteur, who shows that judging works. */
#include "demo.h"

#include <stdlib.h>
#include <string.h>

#include "demo_wire.h"

enum { CLIENT_BATCH = 16, CLIENT_REST_MS = 3, CLIENT_WRITE_EVERY = 8, SABOTAGE_MS = 50 };
#define CLIENT_PATIENCE_NS (INT64_C(30) * 1000000000) /* the server may be stopped, or wait for a stopped Redis */

struct session {
    struct demo *demo;
    uint32_t process;
    struct wire server, redis;
    char server_path[4200], redis_path[4200];
    struct board_judge judge;
    struct board_random random;
    char *value;
};

static uint32_t phase(const struct demo *demo)
{
    return atomic_load(&demo->board->phase);
}

static const char *key_of(const struct board *board, uint32_t record, size_t *ret_size)
{
    *ret_size = board->records[record].key_size;
    return board_text(board, board->records[record].key_offset);
}

static void queue_get(struct session *s, struct wire *wire, uint32_t record)
{
    const char *arguments[2] = {"GET", NULL};
    size_t sizes[2] = {3, 0};
    arguments[1] = key_of(s->demo->board, record, &sizes[1]);
    wire_command(wire, 2, arguments, sizes);
}

static void queue_set(struct session *s, uint32_t record, uint64_t version)
{
    const char *arguments[3] = {"SET", NULL, s->value};
    size_t sizes[3] = {3, 0, value_size(s->demo->board, record)};
    arguments[1] = key_of(s->demo->board, record, &sizes[1]);
    value_write(s->demo->board, record, version, s->value);
    wire_command(&s->server, 3, arguments, sizes);
}

/* One of the records that only this client writes; 0 with *ret_version 0 when there is none to write now. */
static uint32_t choose_write(struct session *s, uint64_t *ret_version)
{
    struct board *board = s->demo->board;
    *ret_version = 0;
    for (int tries = 0; tries < 64; tries++) {
        uint32_t watched = random_below(&s->random, board->watched_count);
        if (board->watched[watched].owner != s->process || !board->watched[watched].by_socket)
            continue;
        *ret_version = write_begin(board, watched);
        return watched;
    }
    return 0;
}

static void finish_write(struct session *s, uint32_t watched, uint64_t version, const struct wire_reply *reply)
{
    struct board *board = s->demo->board;
    if (reply->kind == WIRE_SIMPLE) {
        write_acked(board, watched, version, board_now());
        board_count(&s->judge.actor->writes, 1);
    } else if (reply->kind == WIRE_ERROR && !strstr(reply->data, "NEAR_ERR_UNKNOWN") &&
               !strstr(reply->data, "NEAR_ERR_PROTOCOL")) {
        board_count(&s->judge.actor->writes_failed, 1);
    } else {
        write_unknown(board, watched, version);
        board_count(&s->judge.actor->writes_unknown, 1);
    }
}

static void finish_read(struct session *s, const struct board_read *read, const struct wire_reply *reply)
{
    board_count(&s->judge.actor->reads, 1);
    if (reply->kind == WIRE_BULK)
        judge_end(&s->judge, read, reply->data, reply->size);
    else if (reply->kind == WIRE_NIL)
        board_violation(s->demo->board, VIOLATION_MISSING, s->process, (int32_t)read->record, 0, 1, 0);
    else
        board_count(&s->judge.actor->errors, 1);
}

/* A pipeline: sometimes a write, then reads; all sent together, all answers awaited. */
static void batch(struct session *s, int with_write)
{
    struct board_read reads[CLIENT_BATCH];
    struct wire_reply reply;
    uint64_t version = 0;
    uint32_t watched = with_write ? choose_write(s, &version) : 0;
    int64_t begin, deadline;
    if (version > 0)
        queue_set(s, s->demo->board->watched[watched].record, version);
    for (int i = 0; i < CLIENT_BATCH; i++) {
        uint32_t record = random_record(&s->random, s->demo->board);
        judge_begin(&s->judge, record, &reads[i]);
        queue_get(s, &s->server, record);
    }
    begin = board_now();
    deadline = begin + CLIENT_PATIENCE_NS;
    wire_flush(&s->server, deadline);
    if (version > 0) {
        wire_read(&s->server, deadline, &reply);
        finish_write(s, watched, version, &reply);
    }
    for (int i = 0; i < CLIENT_BATCH; i++) {
        wire_read(&s->server, deadline, &reply);
        finish_read(s, &reads[i], &reply);
    }
    if (s->server.fd >= 0 && version == 0)
        histogram_add(&s->judge.actor->hit, board_now() - begin);
}

/* Looks in Redis itself what became of writes of unknown fate. */
static void settle_all(struct session *s)
{
    struct board *board = s->demo->board;
    for (uint32_t i = 0; i < board->watched_count; i++) {
        struct board_watched *w = &board->watched[i];
        int64_t deadline = board_now() + INT64_C(300000000);
        struct wire_reply reply;
        if (w->owner != s->process || !w->by_socket || atomic_load(&w->open) == 0)
            continue;
        if (s->redis.fd < 0 && wire_connect(&s->redis, s->redis_path) < 0)
            return;
        queue_get(s, &s->redis, w->record);
        if (wire_flush(&s->redis, deadline) < 0 || wire_read(&s->redis, deadline, &reply) != WIRE_BULK) {
            wire_close(&s->redis); /* a late answer must not be taken for the next one's */
            return;
        }
        write_settle(board, i, value_version(board, w->record, reply.data, reply.size));
    }
}

static char *value_allocate(const struct board *board)
{
    size_t largest = 0;
    for (uint32_t i = 0; i < board->watched_count; i++)
        if (value_size(board, board->watched[i].record) > largest)
            largest = value_size(board, board->watched[i].record);
    return malloc(largest);
}

static int session_open(struct session *s, struct demo *demo, uint32_t process)
{
    memset(s, 0, sizeof *s);
    s->demo = demo;
    s->process = process;
    wire_init(&s->server);
    wire_init(&s->redis);
    demo_path(demo, s->server_path, sizeof s->server_path, "server.sock", (int)process);
    demo_path(demo, s->redis_path, sizeof s->redis_path, "redis.sock", -1);
    judge_init(&s->judge, demo->board, process, BOARD_READERS + 1);
    random_seed(&s->random, demo->board->seed * 31 + process);
    return (s->value = value_allocate(demo->board)) ? 0 : -1;
}

static void session_close(struct session *s)
{
    wire_close(&s->server);
    wire_close(&s->redis);
    free(s->value);
}

static void *client_main(void *arg)
{
    struct demo_client *c = arg;
    struct session *s = malloc(sizeof *s);
    if (!s || session_open(s, c->demo, c->process) < 0) {
        free(s);
        board_violation(c->demo->board, VIOLATION_RECOVERY, c->process, -1, 0, 0, 0);
        return NULL;
    }
    while (phase(c->demo) == PHASE_WAIT)
        demo_sleep_ms(2);
    for (int round = 1; phase(c->demo) < PHASE_SWEEP; round++) {
        if (s->server.fd < 0 && wire_connect(&s->server, s->server_path) < 0)
            demo_sleep_ms(50);
        else
            batch(s, round % CLIENT_WRITE_EVERY == 0 && phase(c->demo) == PHASE_RUN);
        if (round % 64 == 0) {
            settle_all(s);
            judge_later(&s->judge);
        }
        demo_sleep_ms(CLIENT_REST_MS);
    }
    judge_later(&s->judge);
    session_close(s);
    free(s);
    return NULL;
}

int clients_start(struct demo *demo)
{
    for (uint32_t i = 0; i < demo->board->processes; i++) {
        struct demo_client *c = &demo->clients[i];
        *c = (struct demo_client){.demo = demo, .process = i};
        if (pthread_create(&c->thread, NULL, client_main, c) != 0)
            return -1;
        c->started = 1;
    }
    return 0;
}

void clients_join(struct demo *demo)
{
    for (int i = 0; i < BOARD_PROCESSES; i++)
        if (demo->clients[i].started)
            pthread_join(demo->clients[i].thread, NULL);
}

/* ---------------------------------------------------------------- sabotage */

/* Overwrites popular records around the library, so that no message is sent: with their value of three versions ago, or
 * with bytes changed.  What the servers then return is wrong, and the judges must see it. */
static void sabotage_one(struct session *s, uint32_t watched)
{
    struct board *board = s->demo->board;
    uint32_t record = board->watched[watched].record;
    uint64_t version = atomic_load(&board->watched[watched].acked);
    const char *arguments[3] = {"SET", NULL, s->value};
    size_t sizes[3] = {3, 0, value_size(board, record)};
    struct wire_reply reply;
    int64_t deadline = board_now() + INT64_C(200000000);
    if (version < 5)
        return;
    value_write(board, record, s->demo->options.sabotage == SABOTAGE_STALE ? version - 3 : version, s->value);
    if (s->demo->options.sabotage == SABOTAGE_DAMAGED)
        s->value[sizes[2] / 2] ^= 0x20;
    arguments[1] = key_of(board, record, &sizes[1]);
    if (s->redis.fd < 0 && wire_connect(&s->redis, s->redis_path) < 0)
        return;
    wire_command(&s->redis, 3, arguments, sizes);
    if (wire_flush(&s->redis, deadline) < 0 || wire_read(&s->redis, deadline, &reply) != WIRE_SIMPLE)
        wire_close(&s->redis);
    else
        s->demo->sabotages++;
}

static void *saboteur_main(void *arg)
{
    struct demo *demo = arg;
    struct session *s = malloc(sizeof *s);
    if (s && session_open(s, demo, 0) == 0) {
        while (phase(demo) < PHASE_SETTLE) {
            if (phase(demo) == PHASE_RUN)
                sabotage_one(s,
                             random_below(&s->random, demo->board->watched_count < 8 ? demo->board->watched_count : 8));
            demo_sleep_ms(SABOTAGE_MS);
        }
        session_close(s);
    }
    free(s);
    return NULL;
}

int sabotage_start(struct demo *demo)
{
    if (demo->options.sabotage == SABOTAGE_NONE)
        return 0;
    demo->saboteur_started = pthread_create(&demo->saboteur, NULL, saboteur_main, demo) == 0;
    return demo->saboteur_started ? 0 : -1;
}

void sabotage_join(struct demo *demo)
{
    if (demo->saboteur_started)
        pthread_join(demo->saboteur, NULL);
}
