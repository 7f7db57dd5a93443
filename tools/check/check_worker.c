/* SPDX-License-Identifier: BSD-3-Clause
 * The worker process: reading threads, writing threads, and the main thread, which copies the library's statistics to
 * the board.  They call the library as a server's own threads do, and judge every value that they get. */
#include "check_worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/random.h"
#include "check_board.h"
#include "nearcache.h"

enum {
    BURST = 256,          /* reads between two looks at the clock */
    MANY = 8,             /* keys of one near_mget */
    LATE_MS = 15000,      /* a call may be so much over its deadline: the machine may be busy with other things */
    OPEN_RETIRE_MS = 1000 /* a write of unknown fate that has not shown itself for so long: its key is given up */
};

struct worker_thread {
    struct worker *worker;
    pthread_t thread;
    uint32_t number; /* from 0, of its sort */
    int failed;      /* the last call found Redis away */
    uint64_t random;
    struct check_judge judge;
    char value[CHECK_VALUE_MAX], before[CHECK_VALUE_MAX], many[CHECK_MANY][CHECK_VALUE_MAX];
};

struct worker {
    struct check_board *board;
    struct check_process *self;
    near_cache *cache;
    uint32_t process, was_proven;
    int count;
    struct worker_thread *threads;
};

static void pause_ns(int64_t ns)
{
    struct timespec ts = {.tv_sec = ns / CHECK_NS_PER_S, .tv_nsec = ns % CHECK_NS_PER_S};
    nanosleep(&ts, NULL);
}

static uint32_t phase_of(const struct worker *w)
{
    return atomic_load(&w->board->phase);
}

static uint32_t below(struct worker_thread *t, uint32_t limit)
{
    return near__random_below(&t->random, limit);
}

/* A call that began when the process had been stopped stops times must have ended near its deadline. */
static void judge_duration(struct worker_thread *t, uint32_t stops, int64_t begin_ns, int64_t end_ns)
{
    struct worker *w = t->worker;
    if (end_ns - begin_ns <= w->board->timeout_ns + LATE_MS * CHECK_NS_PER_MS)
        return;
    if (stops % 2 == 0 && atomic_load(&w->self->stops) == stops)
        check_complain(w->board, CHECK_LATE, w->process, CHECK_SLOTS, 0, end_ns - begin_ns);
}

/* ---------------------------------------------------------------- reading */

static uint32_t choose_slot(struct worker_thread *t, uint32_t hot_percent)
{
    return below(t, 100) < hot_percent ? below(t, CHECK_HOT) : CHECK_HOT + below(t, CHECK_SLOTS - CHECK_HOT);
}

/* One read of the generation before in so many: those of a bound or two after a loss are telling, later ones find
 * nothing in Redis again and again. */
static uint32_t look_back(struct check_board *board, uint32_t slot, uint32_t generation)
{
    int64_t frozen = atomic_load(&check_key_of(board, slot, generation)->frozen_ns);
    return frozen == 0 ? 16 : frozen == CHECK_LOSING || check_now() - frozen < 2 * board->bound_ns ? 64 : 1024;
}

/* The slot's newest generation, now and then the one before.  0: nothing is to be read. */
static uint32_t choose_generation(struct worker_thread *t, uint32_t slot)
{
    struct check_board *board = t->worker->board;
    uint32_t generation = atomic_load(&board->slot[slot].generation);
    if (generation > 1 && below(t, 16) == 0 && below(t, look_back(board, slot, generation - 1)) < 16)
        return generation - 1;
    return atomic_load(&check_key_of(board, slot, generation)->sent) == 0 ? 0 : generation;
}

static void took(struct worker_thread *t, struct check_read *read, const void *data, size_t size)
{
    struct check_reader *r = t->judge.reader;
    if (read->status == NEAR_OK || read->status == NEAR_MISS) {
        check_judge_end(&t->judge, read, data, size);
        check_count(read->status == NEAR_MISS          ? &r->absent
                    : read->source == 0                ? &r->copied
                    : read->source == NEAR_FROM_LOCAL  ? &r->local
                    : read->source == NEAR_FROM_REMOTE ? &r->remote
                                                       : &r->shared,
                    1);
    } else {
        check_count(&r->errors, 1); /* allowed while Redis is away, when it comes by the deadline */
        t->failed = 1;
    }
}

/* ---------------------------------------------------------------- reading through */

/* The source is the board: a version is in it as soon as it was begun.  Now and then it fails. */
static int load_from_board(struct check_board *board, const near_load_request *request, near_loaded *loaded)
{
    unsigned slot, generation;
    char name[CHECK_NAME_MAX], value[CHECK_VALUE_MAX], tag[CHECK_NAME_MAX + 1] = "t";
    snprintf(name, sizeof name, "%.*s", (int)request->key_size, (const char *)request->key);
    if (sscanf(name, "k%u.%u", &slot, &generation) != 2 || slot >= CHECK_SLOTS)
        return near_loaded_answer(loaded, -1);
    uint64_t version = atomic_load(&check_key_of(board, slot, generation)->sent);
    if (atomic_load(&board->slot[slot].oldest) > generation || version == 0 || (request->fence + version) % 64 == 0)
        return near_loaded_answer(loaded, -1); /* the first: the version may have been a newer generation's */
    if (board->slot[slot].kind == CHECK_TAGGED)
        near_loaded_tag(loaded, tag, 1 + check_name(tag + 1, slot, generation));
    return near_loaded_value(loaded, value, check_value(slot, generation, version, value));
}

static int load_one(void *arg, const near_load_request *request, near_loaded *loaded)
{
    load_from_board(arg, request, loaded);
    return NEAR_OK;
}

static int load_many(void *arg, const near_load_request *requests, near_loaded *const *loaded, size_t count)
{
    for (size_t i = 0; i < count; i++)
        load_from_board(arg, &requests[i], loaded[i]);
    return NEAR_OK;
}

static near_load how_to_load(struct worker_thread *t, int tagged)
{
    near_load load;
    near_load_init(&load);
    load.hard_timeout_ms = 2000;
    load.lease_ms = 500; /* a process that died holds the others up no longer */
    if (tagged)
        load.flags |= NEAR_LOAD_TAGS;
    if (below(t, 512) == 0)
        load.flags |= NEAR_LOAD_REFRESH;
    return load;
}

static void read_through(struct worker_thread *t, uint32_t slot, uint32_t generation)
{
    struct worker *w = t->worker;
    struct check_read read;
    near_value value;
    char key[CHECK_NAME_MAX];
    uint32_t stops = atomic_load(&w->self->stops);
    near_load load = how_to_load(t, w->board->slot[slot].kind == CHECK_TAGGED);
    size_t key_size = check_name(key, slot, generation);
    check_judge_begin(&t->judge, &read, slot, generation);
    read.status = near_get_or_load(w->cache, key, key_size, load_one, w->board, &load, &value);
    read.end_ns = check_now();
    read.source = value.source;
    took(t, &read, value.data, value.size);
    near_release(&value);
    judge_duration(t, stops, read.begin_ns, read.end_ns);
}

/* LOADED keys alone: whether a call looks at tags is said for all of its keys. */
static void read_many_through(struct worker_thread *t)
{
    struct worker *w = t->worker;
    struct check_read reads[MANY];
    near_item items[MANY];
    char keys[MANY][CHECK_NAME_MAX];
    uint32_t stops = atomic_load(&w->self->stops), count = 0;
    for (int i = 0; i < 4 * MANY && count < MANY; i++) {
        uint32_t slot = choose_slot(t, 60), generation = choose_generation(t, slot);
        if (generation == 0 || w->board->slot[slot].kind != CHECK_LOADED)
            continue;
        items[count] = (near_item){.key = keys[count], .key_size = check_name(keys[count], slot, generation)};
        check_judge_begin(&t->judge, &reads[count++], slot, generation);
    }
    if (count == 0)
        return;
    near_load load = how_to_load(t, 0);
    near_mget_or_load(w->cache, items, count, load_many, w->board, &load);
    int64_t end_ns = check_now();
    judge_duration(t, stops, reads[count - 1].begin_ns, end_ns);
    for (uint32_t i = 0; i < count; i++) {
        reads[i].end_ns = end_ns;
        reads[i].status = items[i].status;
        reads[i].source = items[i].value.source;
        took(t, &reads[i], items[i].value.data, items[i].value.size);
        near_release(&items[i].value);
    }
}

/* ---------------------------------------------------------------- reading plainly */

/* Copies do not tell where they are from, so only those that have to come from Redis can be held to that: one in 64. */
static void call_choose(struct worker_thread *t, struct check_read *read, near_call *call, int is_copy)
{
    near_call_init(call);
    uint32_t what = below(t, 1024);
    if (what < 2 || (is_copy && what % 64 == 63))
        call->flags = NEAR_BYPASS_LOCAL;
    else if (what < 4)
        call->flags = NEAR_NO_FILL;
    else if (what < 8)
        call->flags = NEAR_REQUIRE_FRESH;
    else if (what < 64)
        call->bound_ms = (uint32_t)(read->bound_ns / CHECK_NS_PER_MS / 2);
    if (call->bound_ms)
        read->bound_ns = call->bound_ms * CHECK_NS_PER_MS;
    if (call->flags & NEAR_REQUIRE_FRESH)
        read->bound_ns = 0; /* whatever was acknowledged before it began it must see */
}

static void read_pinned(struct worker_thread *t, struct check_read *read, const char *key, size_t key_size,
                        const near_call *call, int peek)
{
    near_value value = {0};
    if (peek) /* it knows no options */
        read->bound_ns = t->worker->board->bound_ns;
    read->status = peek ? near_peek(t->worker->cache, key, key_size, &value)
                        : near_get(t->worker->cache, key, key_size, call, &value);
    read->end_ns = check_now();
    read->source = check_source(value.source, peek ? 0 : call->flags);
    if (!peek || read->status != NEAR_MISS) /* a peek's miss says nothing about the key */
        took(t, read, value.data, value.size);
    if (read->status == NEAR_OK)
        near_release(&value);
}

static void read_copied(struct worker_thread *t, struct check_read *read, const char *key, size_t key_size,
                        const near_call *call)
{
    size_t size = 0;
    read->status = near_get_copy(t->worker->cache, key, key_size, call, t->value, sizeof t->value, &size);
    read->end_ns = check_now();
    read->source = check_source(0, call->flags);
    took(t, read, t->value, size);
}

static void read_one(struct worker_thread *t)
{
    struct check_read read;
    near_call call;
    char key[CHECK_NAME_MAX];
    uint32_t slot = choose_slot(t, 80), generation = choose_generation(t, slot), way = below(t, 16);
    uint32_t stops = atomic_load(&t->worker->self->stops);
    uint32_t kind = t->worker->board->slot[slot].kind;
    if (generation == 0)
        return;
    if (kind == CHECK_TAGGED || (kind == CHECK_LOADED && way < 8)) {
        if (phase_of(t->worker) < CHECK_SETTLE) /* then Redis is to come to rest */
            read_through(t, slot, generation);
        return;
    }
    size_t key_size = check_name(key, slot, generation);
    check_judge_begin(&t->judge, &read, slot, generation);
    call_choose(t, &read, &call, way < 3);
    if (way < 3)
        read_copied(t, &read, key, key_size, &call);
    else
        read_pinned(t, &read, key, key_size, &call, way == 3);
    judge_duration(t, stops, read.begin_ns, read.end_ns);
}

static void read_many(struct worker_thread *t)
{
    struct check_read reads[MANY];
    near_item items[MANY];
    char keys[MANY][CHECK_NAME_MAX];
    uint32_t stops = atomic_load(&t->worker->self->stops), count = 0;
    for (int i = 0; i < MANY; i++) {
        uint32_t slot = choose_slot(t, 60), generation = choose_generation(t, slot);
        if (generation == 0 || t->worker->board->slot[slot].kind == CHECK_TAGGED)
            continue;
        items[count] = (near_item){.key = keys[count], .key_size = check_name(keys[count], slot, generation)};
        check_judge_begin(&t->judge, &reads[count++], slot, generation);
    }
    if (count == 0)
        return;
    near_mget(t->worker->cache, items, count, NULL);
    int64_t end_ns = check_now();
    judge_duration(t, stops, reads[count - 1].begin_ns, end_ns);
    for (uint32_t i = 0; i < count; i++) {
        reads[i].end_ns = end_ns;
        reads[i].status = items[i].status;
        reads[i].source = items[i].value.source;
        took(t, &reads[i], items[i].value.data, items[i].value.size);
        near_release(&items[i].value);
    }
}

/* ---------------------------------------------------------------- sweeping */

/* The last sweep: what the library returns for every key, with everybody quiet. */
static void sweep_one(struct worker_thread *t, uint32_t slot, uint32_t generation)
{
    struct worker *w = t->worker;
    char key[CHECK_NAME_MAX];
    size_t key_size = check_name(key, slot, generation);
    while (phase_of(w) == CHECK_SWEEP) {
        struct check_read read;
        near_value value = {0};
        check_judge_begin(&t->judge, &read, slot, generation);
        read.status = near_get(w->cache, key, key_size, NULL, &value);
        read.end_ns = check_now();
        read.source = value.source;
        if (w->board->slot[slot].kind != CHECK_TAGGED) /* near_get knows of no tags: it may give what was invalidated */
            took(t, &read, value.data, value.size);
        if (read.status == NEAR_OK || read.status == NEAR_MISS) {
            uint64_t version =
                read.status == NEAR_OK ? check_version(w->board, slot, generation, value.data, value.size) : 0;
            atomic_store(&w->self->swept_version[slot][generation & 1], version + 1);
            near_release(&value);
            return;
        }
        pause_ns(20 * CHECK_NS_PER_MS); /* the checker gives up when this takes too long */
    }
}

static void sweep(struct worker_thread *t)
{
    struct worker *w = t->worker;
    for (uint32_t slot = 0; slot < CHECK_SLOTS; slot++) {
        uint32_t generation = atomic_load(&w->board->slot[slot].generation);
        sweep_one(t, slot, generation);
        if (generation > 1)
            sweep_one(t, slot, generation - 1);
    }
    if (phase_of(w) == CHECK_SWEEP)
        atomic_store(&w->self->swept, 1);
}

static int64_t worked_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (int64_t)ts.tv_sec * CHECK_NS_PER_S + ts.tv_nsec;
}

/* The machine is shared with Redis and the others: rest in proportion to the work. */
static void rest(struct worker_thread *t, int64_t since_ns)
{
    int64_t worked = worked_ns() - since_ns, duty = t->worker->board->duty_permille;
    if (worked > 20 * CHECK_NS_PER_MS)
        worked = 20 * CHECK_NS_PER_MS;
    pause_ns(worked * (1000 - duty) / duty);
}

static void *reader_main(void *arg)
{
    struct worker_thread *t = arg;
    struct worker *w = t->worker;
    while (phase_of(w) == CHECK_WAIT)
        pause_ns(2 * CHECK_NS_PER_MS);
    for (uint64_t round = 1; phase_of(w) < CHECK_SWEEP; round++) {
        int64_t since_ns = worked_ns();
        for (int i = 0; i < BURST && phase_of(w) < CHECK_SWEEP; i++) {
            if (i % 32 == 0)
                read_many(t);
            else if (i % 32 == 16 && phase_of(w) < CHECK_SETTLE)
                read_many_through(t);
            else
                read_one(t);
            if (t->failed)
                pause_ns(CHECK_NS_PER_MS / 2); /* an answer "not now" is quick; it need not be asked for all the time */
            t->failed = 0;
        }
        if (round % 64 == 0)
            check_judge_later(&t->judge);
        rest(t, since_ns);
    }
    while (phase_of(w) < CHECK_SWEEP)
        pause_ns(CHECK_NS_PER_MS);
    if (t->number == 0)
        sweep(t);
    check_judge_later(&t->judge);
    return NULL;
}

/* ---------------------------------------------------------------- writing */

struct writing {
    uint32_t slot, generation, writer;
    uint64_t version, acked;
    int64_t begin_ns;
    char key[CHECK_NAME_MAX];
    size_t key_size;
};

/* A status that leaves open whether the write took effect. */
static int fate_unknown(int status)
{
    return status == NEAR_ERR_UNKNOWN || status == NEAR_ERR_PROTOCOL;
}

/* A write found another state than the last acknowledged one. */
static void write_lost(struct worker_thread *t, const struct writing *x)
{
    struct check_board *board = t->worker->board;
    if (atomic_load(&check_key_of(board, x->slot, x->generation)->frozen_ns) == 0)
        check_complain(board, CHECK_LOST, t->worker->process, x->slot, x->generation, (int64_t)x->acked);
}

/* Everybody is to forget what the source no longer has. */
static int forget(struct worker_thread *t, const struct writing *x)
{
    near_cache *cache = t->worker->cache;
    char tag[CHECK_NAME_MAX + 1] = "t";
    if (t->worker->board->slot[x->slot].kind == CHECK_TAGGED)
        return near_invalidate_tag(cache, tag, 1 + check_name(tag + 1, x->slot, x->generation), NULL);
    return near_del(cache, x->key, x->key_size, NULL);
}

/* A write with NEAR_WRITE_BARRIER has ended.  NEAR_OK: from here on nobody reads anything older. */
static int barrier_ended(struct worker_thread *t, const struct writing *x, int status)
{
    struct check_writer *counters = &t->worker->self->writer[t->number];
    if (status == NEAR_OK) {
        check_barred(t->worker->board, x->slot, x->generation, x->version);
        check_count(&counters->barriers, 1);
    }
    if (status != NEAR_UNAPPLIED)
        return status;
    check_count(&counters->unapplied, 1);
    return NEAR_OK;
}

/* Nobody has more than one write of a RECORD under way, so a condition that is not met tells of a lost write. */
static int write_record(struct worker_thread *t, const struct writing *x, const near_call *call)
{
    near_cache *cache = t->worker->cache;
    struct check_board *board = t->worker->board;
    struct check_key *key = check_key_of(board, x->slot, x->generation);
    size_t size, before;
    near_write write;
    near_write_init(&write);
    if (kind_is_loaded(board->slot[x->slot].kind))
        return forget(t, x);
    /* a life far beyond the run's, or none again: no matter */
    if (board->slot[x->slot].kind == CHECK_RECORD && below(t, 32) == 0)
        near_expire(cache, x->key, x->key_size, below(t, 2) ? 3600000 : 0, NULL);
    if (board->slot[x->slot].kind == CHECK_RECORD && record_removes(x->version))
        return near_del(cache, x->key, x->key_size, call);
    size = check_value(x->slot, x->generation, x->version, t->value);
    if (board->slot[x->slot].kind == CHECK_EXPIRING) {
        write.ttl_ms = check_ttl_ms(x->slot, x->version);
        return near_set(cache, x->key, x->key_size, t->value, size, &write, call);
    }
    if (below(t, 4) != 0 || x->acked == 0 || record_removes(x->acked))
        return near_set(cache, x->key, x->key_size, t->value, size, NULL, call);
    before = check_value(x->slot, x->generation, atomic_load(&key->acked), t->before);
    return near_cas(cache, x->key, x->key_size, t->before, before, t->value, size, NULL, call);
}

/* One write in so many waits until it is applied everywhere, as long as it takes: a bound, and a bit. */
static int write_plainly(struct worker_thread *t, const struct writing *x)
{
    const struct check_board *board = t->worker->board;
    near_call call;
    near_call_init(&call);
    if (!kind_is_loaded(board->slot[x->slot].kind) && below(t, 64) == 0) {
        call.flags = NEAR_WRITE_BARRIER;
        call.timeout_ms = (uint32_t)((board->timeout_ns + 2 * board->bound_ns) / CHECK_NS_PER_MS);
    }
    int status = write_record(t, x, &call);
    return call.flags ? barrier_ended(t, x, status) : status;
}

/* Removing what the version before had removed or never written finds nothing. */
static int removal_of_nothing(const struct writing *x)
{
    return record_removes(x->version) && (x->acked == 0 || record_removes(x->acked));
}

static void record_written(struct worker_thread *t, const struct writing *x, int status)
{
    struct worker *w = t->worker;
    struct check_board *board = w->board;
    struct check_writer *counters = &w->self->writer[t->number];
    struct check_key *key = check_key_of(board, x->slot, x->generation);
    struct check_write *entry = check_write_of(board, x->slot, x->generation, x->version);
    int is_loaded = kind_is_loaded(board->slot[x->slot].kind);
    if (status == NEAR_OK || (status == NEAR_MISS && (is_loaded || removal_of_nothing(x)))) {
        check_acked(board, x->slot, x->generation, x->version, check_now());
        check_seen(board, w->process, x->slot, x->generation, x->version);
        check_count(&counters->writes, 1);
    } else if (is_loaded) {
        check_count(fate_unknown(status) ? &counters->unknown : &counters->failed, 1);
        t->failed = !fate_unknown(status);
    } else if (status == NEAR_MISS || status == NEAR_UNMET) {
        write_lost(t, x);
    } else if (fate_unknown(status)) {
        atomic_store(&key->open_ns, check_now());
        atomic_store(&key->open, x->version);
        check_count(&counters->unknown, 1);
    } else {
        atomic_store(&entry->acked_ns, CHECK_FAILED);
        check_count(&counters->failed, 1);
        t->failed = 1;
    }
}

/* Asks Redis itself whether the write of unknown fate took effect. */
static void settle(struct worker_thread *t, struct writing *x, uint64_t open)
{
    struct worker *w = t->worker;
    struct check_key *key = check_key_of(w->board, x->slot, x->generation);
    near_call call;
    near_value value = {0};
    int found;
    near_call_init(&call);
    call.flags = NEAR_BYPASS_LOCAL;
    int status = near_get(w->cache, x->key, x->key_size, &call, &value);
    if (status == NEAR_OK)
        found = check_version(w->board, x->slot, x->generation, value.data, value.size) == open;
    else
        found = status == NEAR_MISS && w->board->slot[x->slot].kind == CHECK_RECORD && record_removes(open) &&
                !record_removes(atomic_load(&key->acked));
    near_release(&value);
    if (found) {
        check_acked(w->board, x->slot, x->generation, open, check_now());
        atomic_store(&key->open, 0);
    } else if (check_now() - atomic_load(&key->open_ns) > OPEN_RETIRE_MS * CHECK_NS_PER_MS) {
        atomic_store(&w->board->slot[x->slot].retiring, 1);
    }
}

/* Notes the next version as begun; 0: not now. */
static int record_begins(struct worker_thread *t, struct writing *x)
{
    struct check_board *board = t->worker->board;
    struct check_key *key = check_key_of(board, x->slot, x->generation);
    uint64_t open = atomic_load(&key->open);
    if (open) {
        settle(t, x, open);
        return 0;
    }
    x->version = atomic_load(&key->sent) + 1;
    x->acked = atomic_load(&key->acked);
    if (!check_ring_has_room(board, x->slot, x->generation, x->version, check_now()))
        return 0;
    check_begin(board, x->slot, x->generation, x->version, x->writer, check_now());
    /* before the write itself: whoever reads the version finds that it was begun */
    atomic_store(&key->sent, x->version);
    return 1;
}

static void count_up(struct worker_thread *t, struct writing *x)
{
    struct worker *w = t->worker;
    struct check_board *board = w->board;
    struct check_writer *counters = &w->self->writer[t->number];
    struct check_key *key = check_key_of(board, x->slot, x->generation);
    int64_t number = 0;
    if (!check_ring_has_room(board, x->slot, x->generation, atomic_load(&key->sent) + CHECK_PROCESSES * CHECK_WRITERS,
                             check_now()))
        return;
    x->acked = atomic_load(&key->acked);
    atomic_fetch_add(&key->sent, 1);
    x->begin_ns = check_now();
    int status = near_incr(w->cache, x->key, x->key_size, check_step(x->slot), NULL, &number);
    int64_t end_ns = check_now();
    if (status == NEAR_OK) {
        x->version = (uint64_t)(number / check_step(x->slot));
        if (number <= 0 || number % check_step(x->slot) != 0 || x->version <= x->acked ||
            x->version > atomic_load(&key->sent)) {
            write_lost(t, x);
            return;
        }
        check_begin(board, x->slot, x->generation, x->version, x->writer, x->begin_ns);
        check_acked(board, x->slot, x->generation, x->version, end_ns);
        check_seen(board, w->process, x->slot, x->generation, x->version);
        check_count(&counters->writes, 1);
    } else if (fate_unknown(status)) {
        atomic_fetch_add(&key->open, 1);
        check_count(&counters->unknown, 1);
    } else {
        check_count(&counters->failed, 1);
        t->failed = 1;
    }
}

static int try_lock(struct worker_thread *t, uint32_t slot)
{
    uint32_t free = 0;
    return atomic_compare_exchange_strong(&t->worker->board->slot[slot].lock, &free, t->worker->process + 1);
}

static void write_leaves(struct worker_thread *t, const struct writing *x, int place)
{
    struct worker *w = t->worker;
    if (w->board->slot[x->slot].kind != CHECK_COUNTER)
        atomic_store(&w->board->slot[x->slot].lock, 0);
    atomic_store(&w->self->writer[t->number].busy[place], 0);
}

/* Only while neither a pause nor a retirement has been announced may a write begin: both are looked at after busy has
 * been set, and whoever announces looks at busy afterwards.  place: of several writes at once. */
static int write_enters(struct worker_thread *t, struct writing *x, int place, uint32_t number)
{
    struct worker *w = t->worker;
    struct check_slot *slot = &w->board->slot[number];
    *x = (struct writing){.slot = number, .writer = (w->process + 1) << 16 | (t->number + 1)};
    if (slot->kind != CHECK_COUNTER && !try_lock(t, number))
        return 0;
    atomic_store(&w->self->writer[t->number].busy[place], number + 1);
    if (atomic_load(&w->board->pause) || atomic_load(&slot->retiring)) {
        write_leaves(t, x, place);
        return 0;
    }
    x->generation = atomic_load(&slot->generation);
    x->key_size = check_name(x->key, number, x->generation);
    return 1;
}

static void write_one(struct worker_thread *t)
{
    struct writing x;
    uint32_t stops = atomic_load(&t->worker->self->stops);
    int64_t begin_ns = check_now();
    if (!write_enters(t, &x, 0, choose_slot(t, 50)))
        return;
    if (t->worker->board->slot[x.slot].kind == CHECK_COUNTER)
        count_up(t, &x);
    else if (record_begins(t, &x))
        record_written(t, &x, write_plainly(t, &x));
    judge_duration(t, stops, begin_ns, check_now());
    write_leaves(t, &x, 0);
}

/* Removals cannot be among several values at once; they wait until the key is written alone. */
static int may_be_among_many(struct worker_thread *t, struct writing *x, enum check_kind kind)
{
    struct check_board *board = t->worker->board;
    if (board->slot[x->slot].kind != kind)
        return 0;
    if (kind == CHECK_LOADED)
        return record_begins(t, x);
    return !record_removes(atomic_load(&check_key_of(board, x->slot, x->generation)->sent) + 1) && record_begins(t, x);
}

static void write_many(struct worker_thread *t)
{
    struct writing x[CHECK_MANY];
    near_item items[CHECK_MANY];
    enum check_kind kind = below(t, 2) ? CHECK_RECORD : CHECK_LOADED;
    int count = 0;
    for (int i = 0; i < CHECK_MANY; i++) {
        if (!write_enters(t, &x[count], count, CHECK_HOT + below(t, CHECK_SLOTS - CHECK_HOT)))
            continue;
        if (!may_be_among_many(t, &x[count], kind)) {
            write_leaves(t, &x[count], count);
            continue;
        }
        items[count] =
            (near_item){.key = x[count].key,
                        .key_size = x[count].key_size,
                        .data = t->many[count],
                        .size = check_value(x[count].slot, x[count].generation, x[count].version, t->many[count])};
        count++;
    }
    if (count > 0 && kind == CHECK_LOADED)
        near_mdel(t->worker->cache, items, (size_t)count, NULL);
    else if (count > 0)
        near_mset(t->worker->cache, items, (size_t)count, NULL, NULL);
    for (int i = 0; i < count; i++) {
        record_written(t, &x[i], items[i].status);
        write_leaves(t, &x[i], i);
    }
}

static void *writer_main(void *arg)
{
    struct worker_thread *t = arg;
    struct worker *w = t->worker;
    while (phase_of(w) == CHECK_WAIT)
        pause_ns(2 * CHECK_NS_PER_MS);
    while (phase_of(w) < CHECK_SETTLE) {
        if (below(t, 16) == 0)
            write_many(t);
        else
            write_one(t);
        pause_ns(t->failed ? 5 * CHECK_NS_PER_MS : below(t, 5000) * INT64_C(1000));
        t->failed = 0;
    }
    return NULL;
}

/* ---------------------------------------------------------------- statistics */

static void judge_budget(struct worker *w, const near_stats *s)
{
    uint64_t slack = s->local_bytes_limit / 20 > 1u << 20 ? s->local_bytes_limit / 20 : 1u << 20;
    if (s->local_bytes > s->local_bytes_limit + slack)
        check_complain(w->board, CHECK_BUDGET, w->process, CHECK_SLOTS, 0, (int64_t)s->local_bytes);
}

static void copy_statistics(struct worker *w)
{
    _Atomic uint64_t *g = w->self->gauge;
    near_stats s = {.size = sizeof s};
    if (near_stats_get(w->cache, &s) != NEAR_OK)
        return;
    judge_budget(w, &s);
    if (s.proven && w->was_proven && !atomic_load(&g[CHECK_PROVEN]))
        atomic_fetch_add(&g[CHECK_RECOVERIES], 1);
    w->was_proven |= s.proven;
    atomic_store(&g[CHECK_PROVEN], s.proven);
    atomic_store(&g[CHECK_HITS], s.local_hits);
    atomic_store(&g[CHECK_GETS], s.gets);
    atomic_store(&g[CHECK_SERVER_CHANGES], s.server_changes);
    atomic_store(&g[CHECK_REGRESSIONS], s.position_regressions);
    atomic_store(&g[CHECK_SUSPICIONS], s.suspicions);
    atomic_store(&g[CHECK_GAPS], s.message_gaps);
    atomic_store(&g[CHECK_DISCONNECTIONS], s.disconnections);
    atomic_store(&g[CHECK_PROOFS], s.proofs);
    atomic_fetch_add(&g[CHECK_UPDATES], 1); /* last: a new number here means that the others are new too */
}

/* ---------------------------------------------------------------- start and end */

static void log_line(void *arg, int level, const char *component, const char *text)
{
    const struct worker *w = arg;
    fprintf(stderr, "process %u: %d %s: %s\n", w->process + 1, level, component, text);
}

static int apply_options(struct worker *w, near_options *options)
{
    static char text[sizeof w->board->option]; /* the cache wants the values to stay */
    char *save = NULL;
    near_error error;
    memcpy(text, w->board->option, sizeof text);
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *value = strchr(line, '=');
        *value++ = 0; /* the checker has looked at it */
        if (near_option_set(options, line, value, &error) != NEAR_OK) {
            fprintf(stderr, "nearcache-check: option %s: %s\n", line, error.text);
            return -1;
        }
    }
    return 0;
}

static int open_cache(struct worker *w)
{
    static char name[32];
    near_options options;
    near_error error;
    struct check_board *board = w->board;
    near_options_init(&options);
    options.local_bytes = 1u << 20; /* smaller than the keys together: entries are evicted all the time */
    options.bound_ms = (uint32_t)(board->bound_ns / CHECK_NS_PER_MS);
    options.timeout_ms = (uint32_t)(board->timeout_ns / CHECK_NS_PER_MS);
    options.connect_timeout_ms = options.timeout_ms;
    options.backoff_max_ms = 200;
    options.prefix = board->prefix;
    snprintf(name, sizeof name, "check-%u", w->process + 1);
    options.client_name = name;
    if (board->verbose) {
        options.log = log_line;
        options.log_arg = w;
    }
    if (apply_options(w, &options) < 0)
        return -1;
    if (near_open(w->self->uri, &options, &w->cache, &error) == NEAR_OK)
        return 0;
    fprintf(stderr, "nearcache-check: %s\n", error.text);
    return -1;
}

static int start_thread(struct worker *w, uint32_t number, void *(*run)(void *))
{
    struct worker_thread *t = &w->threads[w->count];
    t->worker = w;
    t->number = number;
    t->random = w->board->seed + w->process * 1000 + (uint64_t)w->count * 17 + atomic_load(&w->self->started) * 1000003;
    t->judge.board = w->board; /* the rest of it is zero, and large: memory that is not touched costs nothing */
    t->judge.process = w->process;
    t->judge.thread = (uint32_t)w->count;
    t->judge.reader = &w->self->reader[number < CHECK_READERS ? number : 0];
    if (pthread_create(&t->thread, NULL, run, t) != 0)
        return -1;
    w->count++;
    return 0;
}

static int start_threads(struct worker *w)
{
    for (uint32_t i = 0; i < w->board->readers; i++)
        if (start_thread(w, i, reader_main) < 0)
            return -1;
    for (uint32_t i = 0; i < w->board->writers; i++)
        if (start_thread(w, i, writer_main) < 0)
            return -1;
    return 0;
}

static int run(struct worker *w)
{
    int status;
    if (open_cache(w) < 0 || start_threads(w) < 0)
        return 1;
    atomic_fetch_add(&w->self->started, 1);
    while (phase_of(w) < CHECK_END) {
        copy_statistics(w);
        pause_ns(20 * CHECK_NS_PER_MS);
    }
    for (int i = 0; i < w->count; i++)
        pthread_join(w->threads[i].thread, NULL);
    status = near_close(w->cache);
    if (status != NEAR_OK)
        fprintf(stderr, "nearcache-check: near_close in process %u: %s\n", w->process + 1, near_status_name(status));
    return status == NEAR_OK ? 0 : 1;
}

int check_worker_main(int board_fd, unsigned process)
{
    struct worker w = {.board = check_board_open(board_fd), .process = process};
    int result = 1;
    if (!w.board || w.board->size != sizeof *w.board || process >= CHECK_PROCESSES)
        return 1;
    close(board_fd);
    w.self = &w.board->process[process];
    w.threads = calloc(CHECK_READERS + CHECK_WRITERS, sizeof *w.threads);
    if (w.threads)
        result = run(&w);
    free(w.threads);
    return result;
}
