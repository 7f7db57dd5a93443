/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Deterministic simulation: several processes, each a real local tier and its coherence, on one server in memory, under
 * a virtual clock.  A seed decides every step: who reads, who writes, when a command runs at the server and when its
 * reply is looked at, when messages arrive, what breaks.  An oracle outside knows the history of every key and judges
 * every read:
 *
 *   G1/G2  no read returns a version older than one that any read or acknowledged write of its process had seen when it
 *          began, except between a break in the server's history (data or position lost) and the process's next proof;
 *   G3     no local hit returns a version that was overwritten longer ago than the bound;
 *   G7     after a barrier no local hit, in any process, returns what a write before the barrier has overwritten,
 *         whatever broke;
 *   G6     after a fence a local hit returns what the server has at that moment;
 *   G4     when all faults are over, every process returns, and serves locally, what the server has.
 *
 * The versions of a key are numbered as the server made them.  A restart that loses data, and FLUSHALL, make new
 * versions too: that the old value is back is one more change of the value.
 *
 * In half of the seeds foreign writers write, too, who publish nothing, and the processes track them (track=bcast) on a
 * server whose reports come at the end of its event loop's turns; then all of this holds for foreign writes as well.
 *
 * In half of them, too, what has become suspect is compared with the server (repair.c), stage by stage, with anything
 * in between.
 *
 * What the protocol does not promise is not simulated: foreign writers without tracking, two faults that together forge
 * the very number that was expected (a lost message and a position lowered by one), and a position that is lost again
 * and again before the server's time has passed the numbers to which it was lifted (each lift may be a second's worth
 * of numbers ahead). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/random.h"
#include "coherence/barrier.h"
#include "coherence/process.h"
#include "coherence/proof.h"
#include "support/seed.h"

enum { PROCESSES = 3, KEYS = 4, COMMANDS = 6, BARRIERS = 2, STEPS = 400, VERSIONS = 2 * STEPS };

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { SEEDS = 400 };
#else
enum { SEEDS = 20000 };
#endif

static const char *const key_names[KEYS] = {"a", "b", "c", "d"};

struct version {
    uint64_t value; /* 0: absent */
    int64_t since_ns;
};

struct history {
    struct version version[VERSIONS];
    int count;
};

/* A command somewhere on its way. */
struct flight {
    struct command command;
    int key;
    int stage;   /* 0: free, 1: begun, 2: run, its reply under way */
    int seen;    /* newest version of the key seen in the process when the command began */
    int version; /* which version it read or made; -1: none */
};

/* A barrier that somebody waits for. */
struct waiting {
    struct near__coherence *coherence; /* NULL: free */
    struct near__roll roll;
    int version[KEYS]; /* the newest that it covers */
};

struct simulation {
    struct world world;
    struct process process[PROCESSES];
    uint64_t seed, random;
    struct history key[KEYS];
    uint64_t snapshot[KEYS];
    int seen[PROCESSES][KEYS];
    int written[KEYS]; /* the newest version made by one of our processes */
    int barred[KEYS];  /* older versions are behind a barrier */
    struct waiting waiting[BARRIERS];
    struct flight flight[COMMANDS];
    uint64_t next_value;
    int step;
    int calm;                                /* time passes slowly */
    int tracking;                            /* foreign writers */
    int losses;                              /* of the server's position */
    int64_t broken_ns;                       /* when the last one was */
    uint64_t hits, fetches, writes, foreign; /* of this seed: what the test was worth */
};

static uint64_t total_hits, total_late_hits, total_fetches, total_foreign, total_tracked_hits, total_fences,
    total_fresh_hits, total_kept;
static uint64_t total_barriers, total_answered, total_repaired, total_refuted;
static uint64_t total_operations; /* looks at the local tier, commands begun */

static unsigned pick(struct simulation *s, unsigned bound)
{
    return near__random_below(&s->random, bound);
}

static void complain(struct simulation *s, const char *what, int process, int key, uint64_t value)
{
    fail_msg("seed %" PRIu64 ", step %d: %s: process %d, key %s, value %" PRIu64, s->seed, s->step, what, process,
             key_names[key], value);
}

/* ---------------------------------------------------------------- the oracle */

static void happened(struct simulation *s, int key, uint64_t value)
{
    struct history *h = &s->key[key];
    assert_true(h->count < VERSIONS);
    h->version[h->count++] = (struct version){.value = value, .since_ns = near__now(&s->world.clock)};
}

static uint64_t current(struct simulation *s, int key)
{
    return s->key[key].version[s->key[key].count - 1].value;
}

/* A value that came back after a loss of data stands for several versions: a read saw the first that it may have seen.
 * -1: none. */
static int version_from(struct simulation *s, int key, uint64_t value, int from)
{
    for (int i = from; i < s->key[key].count; i++)
        if (s->key[key].version[i].value == value)
            return i;
    return -1;
}

/* How long ago the value was overwritten for the last time; 0: it has not been. */
static int64_t age_of(struct simulation *s, int key, uint64_t value)
{
    const struct history *h = &s->key[key];
    int i = h->count - 1;
    while (h->version[i].value != value)
        i--;
    return i + 1 < h->count ? near__now(&s->world.clock) - h->version[i + 1].since_ns : 0;
}

static int history_broke(struct simulation *s, int p)
{
    return atomic_load(&near__local_gate(s->process[p].local)->proved_ns) <= s->broken_ns;
}

static void judge_hit(struct simulation *s, int p, int key, uint64_t value)
{
    if (version_from(s, key, value, 0) < 0)
        complain(s, "a value that never was", p, key, value);
    if (version_from(s, key, value, s->barred[key]) < 0)
        complain(s, "older than a barrier", p, key, value);
    int version = version_from(s, key, value, s->seen[p][key]);
    if (version < 0 && !history_broke(s, p))
        complain(s, "went back", p, key, value);
    int64_t age_ns = age_of(s, key, value);
    total_late_hits += age_ns > 0;
    if (age_ns >= TEST_BOUND_NS)
        complain(s, "older than the bound", p, key, value);
    if (version >= 0)
        s->seen[p][key] = version;
}

/* ---------------------------------------------------------------- reads and writes */

static void read_local(struct simulation *s, int p, int key)
{
    uint64_t value;
    total_operations++;
    if (!process_hit(&s->process[p], key_names[key], &value))
        return;
    s->hits++;
    judge_hit(s, p, key, value);
}

/* Nothing happens between the fence and the look, so the answer is the present one. */
static void read_fresh(struct simulation *s)
{
    int p = (int)pick(s, PROCESSES);
    uint64_t value;
    if (!near__coherence_fence(s->process[p].coherence, INT64_MAX))
        return;
    total_fences++;
    for (int k = 0; k < KEYS; k++) {
        if (!process_hit(&s->process[p], key_names[k], &value))
            continue;
        total_fresh_hits++;
        if (value != current(s, k))
            complain(s, "a fresh read is old", p, k, value);
    }
}

static void begin_barrier(struct simulation *s)
{
    struct waiting *w = &s->waiting[pick(s, BARRIERS)];
    if (w->coherence)
        return;
    w->coherence = s->process[pick(s, PROCESSES)].coherence;
    memcpy(w->version, s->written, sizeof(w->version));
    world_advance(&s->world, 3000);
    near__roll_begin(w->coherence, &w->roll, near__now(&s->world.clock) + NEAR_NS_PER_S);
}

static void end_barrier(struct waiting *w)
{
    if (w->coherence)
        near__roll_end(w->coherence, &w->roll);
    w->coherence = NULL;
}

/* What a complete barrier says counts for everybody from then on. */
static void look_at_barriers(struct simulation *s)
{
    struct near__barrier_result result;
    int64_t due_ns;
    for (struct waiting *w = s->waiting; w < s->waiting + BARRIERS; w++) {
        if (!w->coherence || !near__roll_look_locked(w->coherence, &w->roll, &result, &due_ns))
            continue;
        total_barriers++;
        for (size_t i = 0; i < w->roll.count; i++)
            total_answered += w->roll.awaited[i].answered != 0;
        for (int k = 0; k < KEYS; k++)
            if (w->version[k] > s->barred[k])
                s->barred[k] = w->version[k];
        end_barrier(w);
    }
}

static struct flight *free_flight(struct simulation *s)
{
    for (int i = 0; i < COMMANDS; i++)
        if (s->flight[i].stage == 0)
            return &s->flight[i];
    return NULL;
}

static void begin(struct simulation *s)
{
    struct flight *f = free_flight(s);
    int p = (int)pick(s, PROCESSES), kind = (int)pick(s, 8);
    if (!f)
        return;
    total_operations++;
    f->key = (int)pick(s, KEYS);
    f->seen = s->seen[p][f->key];
    f->stage = 1;
    f->version = -1;
    if (kind < 5)
        command_begin_fetch(&f->command, &s->process[p], key_names[f->key]);
    else if (kind < 7)
        command_begin_set(&f->command, &s->process[p], key_names[f->key], ++s->next_value);
    else
        command_begin_del(&f->command, &s->process[p], key_names[f->key]);
}

/* Whether the server did the write, whatever the process was told. */
static void note_write(struct simulation *s, struct flight *f)
{
    uint64_t value = 0;
    size_t size;
    near__memory_peek(s->world.store, key_names[f->key], strlen(key_names[f->key]), &value, sizeof(value), &size);
    if (value == current(s, f->key))
        return;
    happened(s, f->key, value);
    f->version = s->written[f->key] = s->key[f->key].count - 1;
    s->writes++;
}

static void run(struct simulation *s, struct flight *f)
{
    world_advance(&s->world, 3000); /* commands take some microseconds: positions cannot catch up with the time */
    command_run(&f->command);
    f->stage = 2;
    if (f->command.request.operation != NEAR_OP_FETCH)
        note_write(s, f);
    else if (f->command.request.status >= 0)
        f->version = s->key[f->key].count - 1;
}

static void end(struct simulation *s, struct flight *f)
{
    int p = (int)(f->command.process - s->process);
    uint64_t value = f->command.value;
    int is_fetch = f->command.request.operation == NEAR_OP_FETCH;
    int status = command_end(&f->command);
    f->stage = 0;
    if (status < 0)
        return;
    if (is_fetch) {
        s->fetches++;
        if ((status == NEAR_OK) != (value != 0) || s->key[f->key].version[f->version].value != value)
            complain(s, "the server answered with another value", p, f->key, value);
        if (f->version < f->seen)
            complain(s, "a fetch went back", p, f->key, value);
    }
    if (f->version > s->seen[p][f->key])
        s->seen[p][f->key] = f->version;
}

static void advance_flight(struct simulation *s)
{
    struct flight *f = &s->flight[pick(s, COMMANDS)];
    if (f->stage == 1)
        run(s, f);
    else if (f->stage == 2)
        end(s, f);
}

/* As redis-cli would: no message, no position. */
static void write_foreign(struct simulation *s)
{
    int key = (int)pick(s, KEYS);
    uint64_t value = pick(s, 4) ? ++s->next_value : 0;
    if (value == current(s, key))
        return;
    if (value)
        near__memory_foreign_set(s->world.store, key_names[key], strlen(key_names[key]), &value, sizeof(value));
    else
        near__memory_foreign_del(s->world.store, key_names[key], strlen(key_names[key]));
    happened(s, key, value);
    s->foreign++;
}

/* ---------------------------------------------------------------- faults */

/* See the head of the file.  Notes the loss that the caller is about to bring about. */
static int lose_position(struct simulation *s)
{
    if (s->losses >= 2)
        return 0;
    s->losses++;
    s->broken_ns = near__now(&s->world.clock);
    world_advance(&s->world, 1000);
    return 1;
}

static void restart(struct simulation *s, int loss)
{
    loss = loss && lose_position(s);
    near__memory_restart(s->world.store, loss);
    for (int k = 0; loss && k < KEYS; k++)
        if (current(s, k) != s->snapshot[k])
            happened(s, k, s->snapshot[k]);
}

static void take_snapshot(struct simulation *s)
{
    near__memory_snapshot(s->world.store);
    for (int k = 0; k < KEYS; k++)
        s->snapshot[k] = current(s, k);
}

static void flush_all(struct simulation *s)
{
    if (!lose_position(s))
        return;
    near__memory_flushall(s->world.store);
    for (int k = 0; k < KEYS; k++)
        if (current(s, k) != 0)
            happened(s, k, 0);
}

static void inject(struct simulation *s)
{
    static const char *const junk[] = {"garbage", "1", "9:x", "10:", "17:\2\1"};
    const char *text = junk[pick(s, 5)];
    near__memory_inject_message(s->world.store, text, strlen(text));
}

/* Far below, as a backup of the position's key alone would be. */
static void lower_position(struct simulation *s)
{
    uint64_t position = near__memory_position(s->world.store, "");
    if (position && lose_position(s))
        near__memory_set_position(s->world.store, "", position - 1000 - pick(s, 1000000));
}

static void break_something(struct simulation *s)
{
    struct near__memory_store *store = s->world.store;
    switch (pick(s, s->tracking ? 21 : 20)) {
    case 0:
    case 1:
        near__memory_disconnect_channels(store);
        break;
    case 2:
        near__memory_fault(store, NEAR_FAULT_DROP_MESSAGES, 0, 1 + (int)pick(s, 3));
        break;
    case 3:
    case 4:
        near__memory_fault(store, NEAR_FAULT_HOLD_MESSAGES, 0, -1);
        break;
    case 5:
        near__memory_fault(store, NEAR_FAULT_HOLD_MESSAGES, NEAR_OP_SET, 1 + (int)pick(s, 3));
        break;
    case 6:
    case 7:
        near__memory_fault(store, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
        break;
    case 8:
        near__memory_duplicate_next_message(store);
        break;
    case 9:
        inject(s);
        break;
    case 10:
        restart(s, 0);
        break;
    case 11:
        restart(s, 1);
        break;
    case 12:
        take_snapshot(s);
        break;
    case 13:
        flush_all(s);
        break;
    case 14:
        near__memory_fault(store, NEAR_FAULT_REFUSE, 0, pick(s, 3) ? (int)pick(s, 4) : -1);
        break;
    case 15:
        near__memory_fault(store, NEAR_FAULT_SILENCE, 0, pick(s, 2) ? -1 : 0);
        break;
    case 16:
        near__memory_fault(store, NEAR_FAULT_DROP_REPLIES, 0, 1);
        break;
    case 17:
        near__memory_fault(store, NEAR_FAULT_INEXACT, NEAR_OP_FETCH, 2);
        break;
    case 18:
        near__memory_error(store, NEAR_OP_PROVE, pick(s, 2) ? NEAR_ERR_READONLY : NEAR_ERR_FULL, 1 + (int)pick(s, 3));
        break;
    case 19:
        lower_position(s);
        break;
    default:
        near__memory_stop_tracking(store);
        break;
    }
}

static void mend(struct simulation *s)
{
    struct near__memory_store *store = s->world.store;
    near__memory_fault(store, NEAR_FAULT_REFUSE, 0, 0);
    near__memory_fault(store, NEAR_FAULT_SILENCE, 0, 0);
    near__memory_fault(store, NEAR_FAULT_DROP_REPLIES, 0, 0);
    near__memory_fault(store, NEAR_FAULT_DROP_MESSAGES, 0, 0);
    near__memory_fault(store, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
    near__memory_fault(store, NEAR_FAULT_INEXACT, 0, 0);
    near__memory_error(store, NEAR_OP_PROVE, NEAR_ERR_READONLY, 0);
}

/* ---------------------------------------------------------------- one seed */

static void pass_time(struct simulation *s)
{
    static const int64_t spans[] = {10000,
                                    100000,
                                    NEAR_NS_PER_MS,
                                    NEAR_NS_PER_MS,
                                    NEAR_NS_PER_MS,
                                    NEAR_NS_PER_MS,
                                    20 * NEAR_NS_PER_MS,
                                    20 * NEAR_NS_PER_MS,
                                    TEST_BOUND_NS / 8,
                                    TEST_BOUND_NS / 5,
                                    TEST_BOUND_NS / 3,
                                    TEST_BOUND_NS - NEAR_NS_PER_MS};
    world_advance(&s->world, spans[pick(s, s->calm ? 8 : 12)] + pick(s, 1000));
}

static void work_coherence(struct simulation *s)
{
    struct process *p = &s->process[pick(s, PROCESSES)];
    int hears_only = pick(s, 3) == 0; /* while the prover's thread, which repairs, stands still */
    for (unsigned n = 1 + pick(s, 6); n > 0; n--)
        hears_only ? near__subscriber_step(p->coherence, 0) : near__coherence_step(p->coherence);
}

static void one_step(struct simulation *s, unsigned fault_rate)
{
    unsigned what = pick(s, 100);
    if (what < fault_rate)
        break_something(s);
    else if (what < fault_rate + 4)
        mend(s);
    else if (what < 18)
        pass_time(s);
    else if (what < 45)
        work_coherence(s);
    else if (what < 60)
        begin(s);
    else if (what < 88)
        advance_flight(s);
    else if (what < 90)
        read_fresh(s);
    else if (what < 92)
        begin_barrier(s);
    else if (s->tracking && what < 95)
        write_foreign(s);
    else if (s->tracking)
        near__memory_turn(s->world.store);
    look_at_barriers(s);
    for (int k = 0; k < KEYS; k++) /* reads cost nothing: whatever has just changed, somebody looks */
        read_local(s, s->step % PROCESSES, k);
}

/* G4: at rest, every process has and serves what the server has. */
static void settle_and_judge(struct simulation *s)
{
    mend(s);
    for (int i = 0; i < COMMANDS; i++) {
        if (s->flight[i].stage == 1)
            run(s, &s->flight[i]);
        if (s->flight[i].stage == 2)
            end(s, &s->flight[i]);
    }
    for (int round = 0; round < 3; round++) /* one's lift is another's hole */
        for (int p = 0; p < PROCESSES; p++) {
            process_prove(&s->process[p]);
            process_repair(&s->process[p]);
        }
    for (int p = 0; p < PROCESSES; p++)
        process_prove(&s->process[p]);
    for (int p = 0; p < PROCESSES; p++)
        for (int k = 0; k < KEYS; k++) {
            uint64_t value = 0;
            read_local(s, p, k);
            if (process_hit(&s->process[p], key_names[k], &value) && value != current(s, k))
                complain(s, "stale for ever", p, k, value);
            if (process_fetch(&s->process[p], key_names[k]) != current(s, k))
                complain(s, "the oracle is wrong", p, k, value);
            if (current(s, k) && !process_hit(&s->process[p], key_names[k], &value))
                complain(s, "nothing is kept any more", p, k, 0);
        }
}

static void take_snapshot_of_nothing(struct simulation *s)
{
    for (int k = 0; k < KEYS; k++)
        happened(s, k, 0);
    take_snapshot(s);
}

static void simulate(uint64_t seed)
{
    struct simulation *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    s->seed = s->random = seed;
    world_open(&s->world);
    near__memory_set_position(s->world.store, "", TEST_START_NS / 1000 - UINT64_C(86400000000)); /* made a day ago */
    take_snapshot_of_nothing(s);
    s->tracking = (int)(seed / 1000 % 2);
    s->world.options.track = s->tracking ? NEAR_TRACK_BCAST : NEAR_TRACK_NONE;
    near__memory_turns(s->world.store, s->tracking);
    s->world.options.message_value_max = !s->tracking && pick(s, 2) ? 64 : 0;
    s->world.options.message_values = pick(s, 2) ? NEAR_VALUES_ALWAYS : NEAR_VALUES_ADAPTIVE;
    s->world.repair_rate = s->seed / 2000 % 2 ? 1000000 : 0;
    for (int p = 0; p < PROCESSES; p++)
        process_open(&s->process[p], &s->world, seed + 1 + (uint64_t)p);
    unsigned fault_rate = pick(s, 5);
    s->calm = pick(s, 3) > 0;
    if (pick(s, 8)) /* seldom from the very beginning */
        for (int p = 0; p < PROCESSES; p++)
            process_prove(&s->process[p]);
    for (s->step = 0; s->step < STEPS; s->step++)
        one_step(s, fault_rate);
    for (int i = 0; i < BARRIERS; i++)
        end_barrier(&s->waiting[i]);
    settle_and_judge(s);
    total_hits += s->hits;
    total_fetches += s->fetches;
    total_foreign += s->foreign;
    total_tracked_hits += s->tracking ? s->hits : 0;
    for (int p = 0; p < PROCESSES; p++) {
        near_stats stats = process_stats(&s->process[p]);
        total_kept += stats.messages_kept;
        total_repaired += stats.repair_kept;
        total_refuted += stats.repair_dropped;
        process_close(&s->process[p]);
    }
    world_close(&s->world);
    free(s);
}

static double seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void test_G1_G2_G3_G4_hold_under_random_faults(void **state)
{
    (void)state;
    const char *only = getenv("NEAR_TEST_SEED"), *count = getenv("NEAR_TEST_SEEDS");
    uint64_t seed = test_seed();
    int seeds = count ? atoi(count) : only ? 1 : SEEDS;
    double begin = seconds();
    for (int i = 0; i < seeds; i++)
        simulate(seed + (uint64_t)i * 1000);
    double taken = seconds() - begin;
    print_message("# %d seeds: %" PRIu64 " hits, %" PRIu64 " of them on an overwritten value within the bound, %" PRIu64
                  " fetches; %" PRIu64 " foreign writes, %" PRIu64
                  " hits while they were tracked; %.0f seeds/s, %.0f operations/s\n",
                  seeds, total_hits, total_late_hits, total_fetches, total_foreign, total_tracked_hits, seeds / taken,
                  (double)total_operations / taken);
    print_message(
        "# %" PRIu64 " fences, %" PRIu64 " hits behind them; %" PRIu64 " values kept from messages; %" PRIu64
        " barriers complete, %" PRIu64 " answers; %" PRIu64 " suspect entries repaired, %" PRIu64 " found changed\n",
        total_fences, total_fresh_hits, total_kept, total_barriers, total_answered, total_repaired, total_refuted);
    if (seeds > 100) { /* otherwise nothing was tested */
        /* of a few hundred seeds one in thirty runs would be below the mean of many by that much */
        uint64_t n = (uint64_t)seeds / (seeds < 5000 ? 4 : 1);
        assert_true(total_hits > 10 * n && total_late_hits > n / 10 && total_foreign > n && total_tracked_hits > n &&
                    total_fresh_hits > n / 2 && total_kept > n / 4 && total_barriers > n && total_answered > n / 2 &&
                    total_repaired > n / 20 && total_refuted > n / 20);
    }
}

/* "make soak": without end, until a seed fails. */
static void soak(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    double begin = seconds(), said = begin;
    for (uint64_t i = 0;; i++) {
        simulate(seed + i * 1000);
        if (i % 256 || seconds() - said < 5)
            continue;
        said = seconds();
        printf("%9.0f s  %10" PRIu64 " seeds, at %" PRIu64 "  %7.0f seeds/s  %9.0f operations/s\n", said - begin, i + 1,
               seed + i * 1000, (double)(i + 1) / (said - begin), (double)total_operations / (said - begin));
        fflush(stdout);
    }
}

int main(void)
{
    const struct CMUnitTest soaking[] = {cmocka_unit_test(soak)};
    if (getenv("NEAR_TEST_SOAK"))
        return cmocka_run_group_tests(soaking, NULL, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_G1_G2_G3_G4_hold_under_random_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
