/* SPDX-License-Identifier: BSD-3-Clause
 * The demo's load inside a server process: reading threads, one writing thread, and a thread that copies the library's
 * statistics to the board.  They call the library as a server's own workers do and judge every value they get. */
#include "demo_load.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "demo_board.h"

#define NS_PER_MS INT64_C(1000000)
#define LATE_NS (2000 * NS_PER_MS) /* a call may be so much over its deadline before it counts: the machine is busy */

enum {
    BURST = 256,       /* reads between two looks at the clock */
    MANY = 8,          /* keys of one near_mget */
    MANY_EVERY = 16,   /* one burst's read in so many is a near_mget */
    BYPASS_EVERY = 512 /* one in so many asks Redis itself: it may show what the local tier hides */
};

struct load_thread {
    struct demo_load *load;
    pthread_t thread;
    uint32_t actor;
    int failed; /* the last call found Redis away */
    struct board_judge judge;
    struct board_random random;
};

struct demo_load {
    near_cache *cache;
    struct board *board;
    uint32_t process;
    _Atomic int stop;
    struct load_thread threads[BOARD_READERS + 2]; /* readers, the writer, the one for statistics */
    int thread_count;
};

static void pause_ns(int64_t ns)
{
    struct timespec ts = {.tv_sec = ns / INT64_C(1000000000), .tv_nsec = ns % INT64_C(1000000000)};
    nanosleep(&ts, NULL);
}

static int64_t worked_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (int64_t)ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static uint32_t phase(const struct demo_load *load)
{
    return atomic_load(&load->stop) ? PHASE_END : atomic_load(&load->board->phase);
}

static void wait_for_start(const struct demo_load *load)
{
    while (phase(load) == PHASE_WAIT)
        pause_ns(2 * NS_PER_MS);
}

/* A call that began when the process had been frozen freezes times must have ended by its deadline. */
static void judge_duration(struct load_thread *t, uint32_t freezes, int64_t begin_ns, int64_t end_ns)
{
    struct demo_load *load = t->load;
    int64_t duration = end_ns - begin_ns;
    if (freezes % 2 || atomic_load(&load->board->process[load->process].freezes) != freezes)
        return; /* the demo itself stopped the process meanwhile */
    if (duration > atomic_load_explicit(&t->judge.actor->call_max_ns, memory_order_relaxed)) /* relaxed: one writer */
        atomic_store_explicit(&t->judge.actor->call_max_ns, duration, memory_order_relaxed);
    if (duration > load->board->timeout_ns + LATE_NS)
        board_violation(load->board, VIOLATION_LATE, load->process, -1, 0, 0, duration);
}

static uint32_t freezes_now(const struct load_thread *t)
{
    return atomic_load(&t->load->board->process[t->load->process].freezes);
}

/* ---------------------------------------------------------------- reading */

static void judge_value(struct load_thread *t, const struct board_read *read, int status, const near_value *value)
{
    struct board_actor *actor = t->judge.actor;
    board_count(&actor->reads, 1);
    if (status == NEAR_OK) {
        judge_end(&t->judge, read, value->data, value->size);
        board_count(value->source == NEAR_FROM_LOCAL    ? &actor->local
                    : value->source == NEAR_FROM_REMOTE ? &actor->remote
                                                        : &actor->shared,
                    1);
    } else if (status == NEAR_MISS) {
        board_violation(t->load->board, VIOLATION_MISSING, t->load->process, (int32_t)read->record, 0, 1, 0);
    } else {
        board_count(&actor->errors, 1); /* Redis is away: allowed, when it comes by the deadline */
        t->failed = 1;
    }
}

static void read_one(struct load_thread *t, const near_call *call)
{
    struct board *board = t->load->board;
    struct board_read read;
    near_value value;
    uint32_t record = random_record(&t->random, board), freezes = freezes_now(t);
    const struct board_record *r = &board->records[record];
    int64_t end_ns;
    int status;
    judge_begin(&t->judge, record, &read);
    status = near_get(t->load->cache, board_text(board, r->key_offset), r->key_size, call, &value);
    end_ns = board_now();
    if (status == NEAR_OK)
        histogram_add(value.source == NEAR_FROM_LOCAL ? &t->judge.actor->hit : &t->judge.actor->miss,
                      end_ns - read.begin_ns);
    judge_duration(t, freezes, read.begin_ns, end_ns);
    judge_value(t, &read, status, &value);
    if (status == NEAR_OK)
        near_release(&value);
}

static void read_many(struct load_thread *t)
{
    struct board *board = t->load->board;
    struct board_read reads[MANY];
    near_item items[MANY];
    uint32_t freezes = freezes_now(t);
    for (int i = 0; i < MANY; i++) {
        uint32_t record = random_record(&t->random, board);
        const struct board_record *r = &board->records[record];
        items[i] = (near_item){.key = board_text(board, r->key_offset), .key_size = r->key_size};
        judge_begin(&t->judge, record, &reads[i]);
    }
    near_mget(t->load->cache, items, MANY, NULL);
    judge_duration(t, freezes, reads[MANY - 1].begin_ns, board_now());
    for (int i = 0; i < MANY; i++) {
        judge_value(t, &reads[i], items[i].status, &items[i].value);
        near_release(&items[i].value);
    }
}

/* At the end, with all writers quiet: every watched record must have its last version everywhere. */
static void sweep(struct load_thread *t)
{
    struct board *board = t->load->board;
    struct board_process *p = &board->process[t->load->process];
    for (uint32_t i = 0; i < board->watched_count && phase(t->load) == PHASE_SWEEP; i++) {
        struct board_watched *w = &board->watched[i];
        const struct board_record *r = &board->records[w->record];
        uint64_t acked = atomic_load(&w->acked), open = atomic_load(&w->open), version;
        struct board_read read;
        near_value value;
        judge_begin(&t->judge, w->record, &read);
        if (near_get(t->load->cache, board_text(board, r->key_offset), r->key_size, NULL, &value) != NEAR_OK) {
            i--; /* the demo gives up when this takes too long */
            pause_ns(20 * NS_PER_MS);
            continue;
        }
        version = judge_end(&t->judge, &read, value.data, value.size);
        if (version != acked && (open == 0 || version != open))
            board_violation(board, VIOLATION_FINAL, t->load->process, (int32_t)w->record, version, acked, 0);
        near_release(&value);
    }
    if (phase(t->load) == PHASE_SWEEP)
        atomic_store(&p->swept, 1);
}

static void *reader_main(void *arg)
{
    struct load_thread *t = arg;
    struct demo_load *load = t->load;
    near_call bypass;
    near_call_init(&bypass);
    bypass.flags = NEAR_BYPASS_LOCAL;
    wait_for_start(load);
    for (uint64_t round = 0; phase(load) < PHASE_SWEEP; round++) {
        int64_t begin = worked_ns(), worked;
        for (int i = 0; i < BURST && phase(load) < PHASE_SWEEP; i++) {
            if (i % MANY_EVERY == 0)
                read_many(t);
            else
                read_one(t, random_below(&t->random, BYPASS_EVERY) == 0 ? &bypass : NULL);
            if (t->failed)
                pause_ns(NS_PER_MS / 2); /* an answer "not now" is quick; do not count how often it can be had */
            t->failed = 0;
        }
        if (round % 16 == 0)
            judge_later(&t->judge);
        worked = worked_ns() - begin; /* the machine is shared with Redis and the others: rest in proportion */
        if (worked > 20 * NS_PER_MS)
            worked = 20 * NS_PER_MS;
        pause_ns(worked * (1000 - load->board->duty_permille) / load->board->duty_permille);
    }
    if (t->actor == 0) {
        while (phase(load) < PHASE_SWEEP)
            pause_ns(NS_PER_MS);
        sweep(t);
    }
    judge_later(&t->judge);
    return NULL;
}

/* ---------------------------------------------------------------- writing */

/* A status that leaves open whether the write took effect. */
static int fate_unknown(int status)
{
    return status == NEAR_ERR_UNKNOWN || status == NEAR_ERR_PROTOCOL;
}

/* One write in eight is a compare-and-swap from the last acknowledged value. */
static int write_value(struct load_thread *t, uint32_t watched, const char *value, char *before)
{
    struct board *board = t->load->board;
    struct board_watched *w = &board->watched[watched];
    const struct board_record *r = &board->records[w->record];
    const char *key = board_text(board, r->key_offset);
    size_t size = value_size(board, w->record);
    if (random_below(&t->random, 8) != 0)
        return near_set(t->load->cache, key, r->key_size, value, size, NULL, NULL);
    value_write(board, w->record, atomic_load(&w->acked), before);
    return near_cas(t->load->cache, key, r->key_size, before, size, value, size, NULL, NULL);
}

static void update(struct load_thread *t, uint32_t watched, char *value, char *before)
{
    struct board *board = t->load->board;
    struct board_actor *actor = t->judge.actor;
    uint64_t version = write_begin(board, watched);
    uint32_t freezes = freezes_now(t);
    int64_t begin_ns, end_ns;
    int status;
    if (version == 0)
        return;
    value_write(board, board->watched[watched].record, version, value);
    begin_ns = board_now();
    status = write_value(t, watched, value, before);
    end_ns = board_now();
    judge_duration(t, freezes, begin_ns, end_ns);
    if (status == NEAR_OK) {
        write_acked(board, watched, version, end_ns);
        histogram_add(&actor->write, end_ns - begin_ns);
        board_count(&actor->writes, 1);
    } else if (status == NEAR_UNMET || status == NEAR_MISS) { /* nobody else writes this record */
        board_violation(board, VIOLATION_LOST, t->load->process, (int32_t)board->watched[watched].record, 0,
                        atomic_load(&board->watched[watched].acked), 0);
    } else if (fate_unknown(status)) {
        write_unknown(board, watched, version);
        board_count(&actor->writes_unknown, 1);
    } else {
        board_count(&actor->writes_failed, 1);
    }
}

/* Looks in Redis itself whether a write of unknown fate took effect. */
static void settle(struct load_thread *t, uint32_t watched)
{
    struct board *board = t->load->board;
    const struct board_record *r = &board->records[board->watched[watched].record];
    struct board_read read;
    near_value value;
    near_call call;
    near_call_init(&call);
    call.flags = NEAR_BYPASS_LOCAL;
    judge_begin(&t->judge, board->watched[watched].record, &read);
    if (near_get(t->load->cache, board_text(board, r->key_offset), r->key_size, &call, &value) != NEAR_OK)
        return;
    write_settle(board, watched, judge_end(&t->judge, &read, value.data, value.size));
    near_release(&value);
}

static void settle_all(struct load_thread *t)
{
    struct board *board = t->load->board;
    for (uint32_t i = 0; i < board->watched_count; i++)
        if (board->watched[i].owner == t->load->process && !board->watched[i].by_socket &&
            atomic_load(&board->watched[i].open) != 0)
            settle(t, i);
}

/* One of this thread's own records: half of the time one of the more popular. */
static uint32_t choose(struct load_thread *t)
{
    struct board *board = t->load->board;
    for (;;) {
        uint32_t limit = random_below(&t->random, 2) && board->watched_count > 64 ? 64 : board->watched_count;
        uint32_t watched = random_below(&t->random, limit);
        if (board->watched[watched].owner == t->load->process && !board->watched[watched].by_socket)
            return watched;
    }
}

static size_t largest_value(const struct board *board)
{
    size_t largest = 0;
    for (uint32_t i = 0; i < board->watched_count; i++)
        if (value_size(board, board->watched[i].record) > largest)
            largest = value_size(board, board->watched[i].record);
    return largest;
}

static void *writer_main(void *arg)
{
    struct load_thread *t = arg;
    struct demo_load *load = t->load;
    int64_t interval = INT64_C(1000000000) / load->board->updates_per_s, settled = 0, next;
    size_t size = largest_value(load->board);
    char *value = malloc(2 * size);
    if (!value) {
        board_violation(load->board, VIOLATION_RECOVERY, load->process, -1, 0, 0, 0);
        return NULL;
    }
    wait_for_start(load);
    for (next = board_now(); phase(load) < PHASE_SETTLE;) {
        int64_t now;
        update(t, choose(t), value, value + size);
        now = board_now();
        if (now - settled > 300 * NS_PER_MS) {
            settle_all(t);
            judge_later(&t->judge);
            settled = now;
        }
        next = next + interval > now ? next + interval : now; /* what an outage held up is not made up for */
        if (next > now)
            pause_ns(next - now);
    }
    settle_all(t);
    free(value);
    return NULL;
}

/* ---------------------------------------------------------------- statistics */

static void copy_gauges(struct demo_load *load, const near_stats *s)
{
    _Atomic uint64_t *g = load->board->process[load->process].gauges;
    const struct {
        enum gauge gauge;
        uint64_t number;
    } rows[] = {
        {GAUGE_GETS, s->gets},
        {GAUGE_HITS, s->local_hits},
        {GAUGE_ENTRIES, s->local_entries},
        {GAUGE_BYTES, s->local_bytes},
        {GAUGE_BYTES_LIMIT, s->local_bytes_limit},
        {GAUGE_EVICTIONS, s->evictions},
        {GAUGE_INVALIDATIONS, s->invalidations},
        {GAUGE_MESSAGES, s->messages},
        {GAUGE_GAPS, s->message_gaps},
        {GAUGE_PROOFS, s->proofs},
        {GAUGE_PROVEN, s->proven},
        {GAUGE_DISCONNECTIONS, s->disconnections},
        {GAUGE_SUSPICIONS, s->suspicions},
        {GAUGE_REGRESSIONS, s->position_regressions},
        {GAUGE_CONNECTIONS_LOST, s->connections_lost},
        {GAUGE_TIMEOUTS, s->timeouts},
        {GAUGE_WRITES_UNKNOWN, s->writes_unknown},
        {GAUGE_DELAY_COUNT, s->invalidation_ns.count},
        {GAUGE_DELAY_P50, s->invalidation_ns.p50},
        {GAUGE_DELAY_P99, s->invalidation_ns.p99},
        {GAUGE_DELAY_MAX, s->invalidation_ns.max},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        atomic_store(&g[rows[i].gauge], rows[i].number);
    atomic_fetch_add(&g[GAUGE_UPDATES], 1); /* last: a new number here means that the others are new too */
}

static void judge_budget(struct demo_load *load, const near_stats *s)
{
    uint64_t slack = s->local_bytes_limit / 20 > 1u << 20 ? s->local_bytes_limit / 20 : 1u << 20;
    if (s->local_bytes > s->local_bytes_limit + slack)
        board_violation(load->board, VIOLATION_BUDGET, load->process, -1, s->local_bytes, s->local_bytes_limit, 0);
}

static void *gauges_main(void *arg)
{
    struct demo_load *load = ((struct load_thread *)arg)->load;
    while (phase(load) != PHASE_END) {
        near_stats stats = {.size = sizeof stats};
        if (near_stats_get(load->cache, &stats) == NEAR_OK) {
            judge_budget(load, &stats);
            copy_gauges(load, &stats);
        }
        pause_ns(100 * NS_PER_MS);
    }
    return NULL;
}

/* ---------------------------------------------------------------- start and stop */

static int start_thread(struct demo_load *load, uint32_t actor, void *(*run)(void *))
{
    struct load_thread *t = &load->threads[load->thread_count];
    t->load = load;
    t->actor = actor;
    judge_init(&t->judge, load->board, load->process, actor < BOARD_ACTORS ? actor : 0);
    random_seed(&t->random, load->board->seed + load->process * 1000 + actor);
    if (pthread_create(&t->thread, NULL, run, t) != 0)
        return -1;
    load->thread_count++;
    return 0;
}

static int start_threads(struct demo_load *load)
{
    if (start_thread(load, BOARD_ACTORS, gauges_main) < 0 || start_thread(load, BOARD_READERS, writer_main) < 0)
        return -1;
    for (uint32_t i = 0; i < load->board->readers; i++)
        if (start_thread(load, i, reader_main) < 0)
            return -1;
    return 0;
}

struct demo_load *demo_load_start(near_cache *cache, const char *spec)
{
    struct demo_load *load;
    char *end;
    unsigned long process = strtoul(spec, &end, 10);
    if (end == spec || *end != ':' || process >= BOARD_PROCESSES || !(load = calloc(1, sizeof *load)))
        return NULL;
    load->cache = cache;
    load->process = (uint32_t)process;
    if (!(load->board = board_open(end + 1)) || start_threads(load) < 0) {
        demo_load_stop(load);
        return NULL;
    }
    return load;
}

void demo_load_stop(struct demo_load *load)
{
    if (!load)
        return;
    atomic_store(&load->stop, 1);
    for (int i = 0; i < load->thread_count; i++)
        pthread_join(load->threads[i].thread, NULL);
    board_close(load->board);
    free(load);
}
