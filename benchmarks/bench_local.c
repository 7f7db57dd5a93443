/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nearcache-bench local: engines under the same load, in one process, on pinned threads.
 *
 * Every run happens in a child process of its own: a fresh heap, so that resident memory can be told, and nothing of
 * one engine lives on under the next.  Keys and tapes of operations are made once, before the first fork, and only
 * read.  The order of runs is engine by engine, again and again, so that a machine that slows down slows all of them.
 *
 * The measured loop takes a word from the tape, calls the engine, counts.  It prefetches the key a few words ahead,
 * because a server has its key at hand when it asks for it.  One call in 64 is timed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/random.h"
#include "bench_child.h"
#include "bench_engine.h"
#include "bench_options.h"
#include "bench_redis.h"
#include "bench_report.h"
#include "bench_spread.h"
#include "bench_team.h"
#include "bench_wire.h"

#define ENGINES_MAX 16
#define BATCH_MAX 1024
/* Calls between two looks at the clock.  One of them is timed, at random: what an engine does every so many calls would
 * otherwise be timed each time, or never. */
#define BLOCK 64u
#define AHEAD BENCH_TAPE_MORE /* words by which keys are prefetched */
#define CHECKED_KEYS 256u
#define SETTLE_ROUNDS 500
#define STILL_ROUNDS 100 /* a second: longer than an engine waits before it makes its index smaller */
#define FILL_ROUNDS 3
#define TURNOVERS 4
#define PATIENCE 1000 /* attempts, 1 ms apart */

struct local {
    struct bench_common *common;
    const char *engine_names, *dist_text, *mix_text;
    const struct bench_engine *engine[ENGINES_MAX];
    unsigned engines;
    struct bench_counts threads;
    uint64_t keys_count, key_size, value_size, entries, bytes, batch, churn;
    int fill, verify;
    double writes; /* share */
    struct bench_dist dist;

    struct bench_keys keys;
    struct bench_tape tape[BENCH_THREADS_MAX];
    unsigned tapes;
    struct bench_redis redis;
    int redis_runs;
    struct bench_scale scale;
};

/* What a run in a child comes to; goes through a pipe. */
struct outcome {
    double rate;
    uint64_t gets, hits, fills, refused, errors, wrong;
    /* entries there, bytes by which the process grew, bytes as the engine counts */
    uint64_t entries, resident, counted;
    double kept; /* share of what was filled in that was there afterwards */
    near_quantiles ns;
    char error[256];
};

/* ---------------------------------------------------------------- the measured loop */

struct player {
    const struct bench_engine *engine;
    void *store;
    const struct local *local;
    struct bench_seat *seat;
    const uint32_t *tape;
    uint32_t mask, at;
    unsigned thread;
    void *value, *buffer;
    size_t value_size;
    uint64_t version;
    uint64_t gets, hits, sets, fills, refused, errors, wrong; /* since the last look at the clock */
};

/* One run. */
struct plan {
    const struct local *local;
    const struct bench_engine *engine;
    unsigned threads;
};

struct bout {
    const struct bench_engine *engine;
    void *store;
    const struct local *local;
};

static inline struct bench_key key_of(const struct local *local, uint32_t number)
{
    return (struct bench_key){
        .bytes = bench_key_bytes(&local->keys, number), .size = local->keys.size, .number = number};
}

static void put(struct player *p, struct bench_key key, int checked)
{
    if (checked)
        bench_value_write(p->value, p->value_size, key.number, ++p->version);
    int done = p->engine->set(p->store, p->thread, key, p->value, p->value_size);
    if (__builtin_expect(done <= 0, 0)) {
        p->refused += done == 0;
        p->errors += done < 0;
    }
}

static void missed(struct player *p, struct bench_key key, int64_t size, int checked)
{
    if (size == BENCH_BROKEN) {
        p->errors++;
    } else if (p->local->fill) {
        p->fills++;
        put(p, key, checked);
    }
}

/* A value that was found must be one of that key's. */
static void check(struct player *p, struct bench_key key, int64_t size, const void *buffer)
{
    if (size >= 0 && ((size_t)size != p->value_size || !bench_value_belongs(buffer, (size_t)size, key.number)))
        p->wrong++;
}

/* The next n words of the tape, which do not reach beyond its end.  What the loop needs is in locals: the compiler has
 * to assume that an engine's call changes anything else. */
static inline __attribute__((always_inline)) void play_words(struct player *p, unsigned n, int checked)
{
    int64_t (*get)(void *, unsigned, struct bench_key, void *, size_t) = p->engine->get;
    const uint32_t *word = &p->tape[p->at & p->mask], *end = word + n;
    const char *bytes = p->local->keys.bytes;
    const size_t key_size = p->local->keys.size;
    void *const store = p->store, *const buffer = p->buffer;
    const size_t value_size = p->value_size;
    const unsigned thread = p->thread;
    uint64_t sets = 0, misses = 0;
    p->at += n;
    for (; word < end; word++) {
        __builtin_prefetch(bytes + (word[AHEAD] & ~BENCH_WRITE) * key_size);
        uint32_t number = *word & ~BENCH_WRITE;
        struct bench_key key = {.bytes = bytes + number * key_size, .size = (uint32_t)key_size, .number = number};
        if (__builtin_expect(*word & BENCH_WRITE, 0)) {
            sets++;
            put(p, key, checked);
            continue;
        }
        int64_t size = get(store, thread, key, buffer, value_size);
        if (__builtin_expect(size < 0, 0)) {
            misses++;
            missed(p, key_of(p->local, *word), size, checked); /* made anew: nothing is kept over the call for it */
        }
        if (checked)
            check(p, key_of(p->local, *word), size, buffer);
    }
    p->gets += n - sets;
    p->sets += sets;
    p->hits += n - sets - misses;
}

/* Many reads at once; writes among them are done when they come. */
static void leap(struct player *p, struct bench_key *keys, struct bench_slot *slots, int checked)
{
    size_t reads = 0, batch = p->local->batch;
    for (size_t i = 0; i < batch; i++, p->at++) {
        const uint32_t *at = &p->tape[p->at & p->mask];
        uint32_t word = *at;
        __builtin_prefetch(key_of(p->local, at[AHEAD] & ~BENCH_WRITE).bytes);
        keys[reads] = key_of(p->local, word & ~BENCH_WRITE);
        if (word & BENCH_WRITE) {
            p->sets++;
            put(p, keys[reads], checked);
        } else {
            reads++;
        }
    }
    p->gets += reads;
    if (p->engine->mget)
        p->engine->mget(p->store, p->thread, keys, reads, slots);
    else
        for (size_t i = 0; i < reads; i++)
            slots[i].size = p->engine->get(p->store, p->thread, keys[i], slots[i].buffer, slots[i].capacity);
    for (size_t i = 0; i < reads; i++) {
        if (slots[i].size >= 0)
            p->hits++;
        else
            missed(p, keys[i], slots[i].size, checked);
        if (checked)
            check(p, keys[i], slots[i].size, slots[i].buffer);
    }
}

static void count(struct player *p, uint64_t ops)
{
    struct bench_seat *seat = p->seat;
    seat->ops += ops - p->errors; /* a call has one at most */
    seat->gets += p->gets;
    seat->hits += p->hits;
    seat->sets += p->sets;
    seat->fills += p->fills;
    seat->refused += p->refused;
    seat->errors += p->errors;
    seat->wrong += p->wrong;
    p->gets = p->hits = p->sets = p->fills = p->refused = p->errors = p->wrong = 0;
}

static inline void time_call(struct player *p, uint64_t from)
{
    near__histogram_record(&p->seat->times, bench_ticks_ns(&p->local->scale, bench_ticks() - from));
}

static inline __attribute__((always_inline)) void play(struct player *p, int checked)
{
    uint64_t random = p->thread;
    while (bench_seat_goes_on(p->seat)) {
        unsigned before = near__random_below(&random, BLOCK);
        play_words(p, before, checked);
        uint64_t from = bench_ticks();
        play_words(p, 1, checked);
        time_call(p, from);
        play_words(p, BLOCK - 1 - before, checked);
        count(p, BLOCK);
    }
}

static void play_batches(struct player *p, int checked)
{
    size_t batch = p->local->batch;
    struct bench_key *keys = bench_alloc(batch * sizeof(*keys));
    struct bench_slot *slots = bench_alloc(batch * sizeof(*slots));
    char *buffers = bench_alloc(batch * p->value_size);
    for (size_t i = 0; i < batch; i++)
        slots[i] = (struct bench_slot){.buffer = buffers + i * p->value_size, .capacity = p->value_size};
    for (unsigned i = 0; bench_seat_goes_on(p->seat); i++) {
        uint64_t from = bench_ticks();
        leap(p, keys, slots, checked);
        if (i % 8 == 0)
            time_call(p, from);
        count(p, batch);
    }
    free(keys);
    free(slots);
    free(buffers);
}

static void player_init(struct player *p, const struct bout *bout, struct bench_seat *seat)
{
    const struct local *local = bout->local;
    const struct bench_tape *tape = &local->tape[seat->number % local->tapes];
    *p = (struct player){.engine = bout->engine,
                         .store = bout->store,
                         .local = local,
                         .seat = seat,
                         .thread = seat->number,
                         .tape = tape->word,
                         .mask = tape->count - 1,
                         .value_size = local->value_size};
    p->value = bench_alloc(p->value_size);
    p->buffer = bench_alloc(p->value_size);
    bench_value_write(p->value, p->value_size, 0, 0);
}

static void player_fini(struct player *p)
{
    free(p->value);
    free(p->buffer);
}

static void work(struct bench_seat *seat)
{
    struct player player;
    player_init(&player, seat->team->arg, seat);
    if (player.local->batch > 1)
        play_batches(&player, player.local->verify);
    else if (player.local->verify)
        play(&player, 1);
    else
        play(&player, 0);
    player_fini(&player);
}

/* ---------------------------------------------------------------- before the measured part */

static uint64_t resident_bytes(void)
{
    unsigned long long size, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file && fscanf(file, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    if (file)
        fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Waits for room when there is none. */
static int set_patiently(const struct bout *bout, struct bench_key key, const void *value, size_t size)
{
    int done;
    for (int i = 0; (done = bout->engine->set(bout->store, 0, key, value, size)) == 0 && i < PATIENCE; i++)
        bench_sleep(0.001);
    return done;
}

/* set, then get and mget, twice: each must give what was set last; what was never set is absent. */
static uint64_t check_engine(const struct bout *bout)
{
    const struct local *local = bout->local;
    const struct bench_engine *engine = bout->engine;
    size_t size = local->value_size;
    char *expected = bench_alloc(size), *value = bench_alloc(size);
    uint32_t keys = local->keys.count < CHECKED_KEYS ? local->keys.count : CHECKED_KEYS;
    uint64_t wrong = 0;
    for (uint32_t i = 0; i < 2 * keys; i++) {
        struct bench_key key = key_of(local, i % keys);
        if (i < keys && !engine->remote && engine->get(bout->store, 0, key, value, size) != BENCH_ABSENT)
            wrong++;
        bench_value_write(expected, size, key.number, 1 + i);
        memset(value, 0, size);
        if (set_patiently(bout, key, expected, size) != 1 ||
            engine->get(bout->store, 0, key, value, size) != (int64_t)size || memcmp(value, expected, size) != 0)
            wrong++;
        struct bench_slot slot = {.buffer = value, .capacity = size};
        memset(value, 0, size);
        if (engine->mget)
            engine->mget(bout->store, 0, &key, 1, &slot);
        if (engine->mget && (slot.size != (int64_t)size || memcmp(value, expected, size) != 0))
            wrong++;
    }
    free(expected);
    free(value);
    return wrong;
}

static uint64_t keys_that_fit(const struct bout *bout)
{
    const struct local *local = bout->local;
    if (local->entries && bout->engine->evicts && local->entries < local->keys.count)
        return local->entries;
    return local->keys.count;
}

/* Sets the keys below count, with only_absent those that are not there; returns how many it set. */
static uint64_t fill(const struct bout *bout, uint64_t count, int only_absent, uint64_t *errors)
{
    const struct local *local = bout->local;
    const struct bench_engine *engine = bout->engine;
    size_t size = local->value_size;
    char *value = bench_alloc(size);
    uint64_t set = 0;
    for (uint32_t number = 0; number < count; number++) {
        struct bench_key key = key_of(local, number);
        if (only_absent && engine->get(bout->store, 0, key, value, size) >= 0)
            continue;
        bench_value_write(value, size, number, 1);
        *errors += set_patiently(bout, key, value, size) <= 0;
        set++;
    }
    free(value);
    return set;
}

/* Other keys, several times as many as there is room for: what a table is like after it has evicted for long. */
static void churn(const struct bout *bout, uint64_t *errors)
{
    const struct local *local = bout->local;
    size_t key_size = local->keys.size;
    char *value = bench_alloc(local->value_size), *bytes = bench_alloc(key_size);
    bench_value_write(value, local->value_size, 0, 0);
    for (uint64_t i = 0; i < local->churn * local->entries; i++) {
        struct bench_key key = key_of(local, (uint32_t)(i % local->keys.count));
        uint64_t round = 1 + i / local->keys.count;
        memcpy(bytes, key.bytes, key_size);
        for (size_t b = 0; b < sizeof(round); b++) /* no key is shorter: BENCH_KEY_SIZE_MIN */
            bytes[b] ^= (char)(round >> (8 * b));
        key.bytes = bytes;
        *errors += set_patiently(bout, key, value, local->value_size) <= 0;
    }
    free(bytes);
    free(value);
}

/* What an engine does in the background after it has been filled is not measured: until its memory stays the same for
 * so many looks. */
static uint64_t settle(const struct bout *bout, int still, uint64_t *ret_entries)
{
    uint64_t now = bout->engine->memory(bout->store, ret_entries);
    for (int rounds = 0, same = 0; bout->engine->tends && same < still && rounds < SETTLE_ROUNDS; rounds++) {
        uint64_t before = now;
        bench_sleep(0.01);
        now = bout->engine->memory(bout->store, ret_entries);
        same = now == before ? same + 1 : 0;
    }
    return now;
}

/* An engine that grows in the background may have dropped keys while it was too small for them; that share is told, and
 * the keys are set again, so that all engines then serve the same reads. */
static void fill_all(const struct bout *bout, struct outcome *ret)
{
    uint64_t entries, count = keys_that_fit(bout);
    if (bout->engine->evicts)
        churn(bout, &ret->errors);
    (void)fill(bout, count, 0, &ret->errors);
    (void)settle(bout, 1, &entries);
    ret->kept = entries < count ? (double)entries / (double)count : 1; /* after churning others are there, too */
    for (int round = 0; round < FILL_ROUNDS && count == bout->local->keys.count && entries < count; round++) {
        if (!fill(bout, count, 1, &ret->errors))
            break;
        (void)settle(bout, 1, &entries);
    }
}

/* A cache smaller than its keys must have forgotten the filling before its hit ratio means something: the first tape
 * once, or until it has filled the cache several times. */
static void rehearse(const struct bout *bout, uint64_t entries)
{
    struct bench_seat seat = {.number = 0};
    struct player player;
    player_init(&player, bout, &seat);
    for (uint32_t i = 0; i <= player.mask && player.fills < TURNOVERS * entries; i += BLOCK)
        play_words(&player, BLOCK, 0);
    player_fini(&player);
}

/* ---------------------------------------------------------------- one run, in a child */

static void measure(const struct bout *bout, unsigned threads, struct outcome *ret)
{
    const struct local *local = bout->local;
    const struct bench_common *common = local->common;
    struct bench_team team = {.threads = threads, .scale = local->scale, .arg = (void *)(uintptr_t)bout};
    struct bench_seat *seats = bench_team_run(&team, common->warmup, common->seconds, work);
    struct bench_seat *sum = bench_alloc(sizeof(*sum));
    if (!seats) {
        snprintf(ret->error, sizeof(ret->error), "cannot make threads");
        return;
    }
    ret->rate = bench_team_sum(seats, threads, sum);
    ret->gets = sum->gets;
    ret->hits = sum->hits;
    ret->fills = sum->fills;
    ret->refused = sum->refused;
    ret->errors += sum->errors;
    ret->wrong += sum->wrong;
    near__histogram_quantiles(&sum->times, &ret->ns);
    free(seats);
    free(sum);
}

static void run_engine(const struct local *local, const struct bench_engine *engine, unsigned threads,
                       struct outcome *ret)
{
    struct bench_engine_config config = {.keys = local->keys.count,
                                         .entries = local->entries,
                                         .bytes = local->bytes,
                                         .key_size = local->keys.size,
                                         .value_size = (uint32_t)local->value_size,
                                         .threads = threads,
                                         .socket = local->redis.socket};
    struct bout bout = {.engine = engine, .local = local};
    uint64_t before = resident_bytes();
    if (!(bout.store = engine->open(&config, ret->error, sizeof(ret->error))))
        return;
    if (local->verify)
        ret->wrong = check_engine(&bout);
    if (!engine->remote)
        fill_all(&bout, ret);
    ret->counted = settle(&bout, STILL_ROUNDS, &ret->entries);
    ret->resident = engine->remote ? ret->counted : resident_bytes() - before;
    if (ret->entries < local->keys.count && local->fill && !local->verify)
        rehearse(&bout, ret->entries);
    measure(&bout, threads, ret);
    engine->close(bout.store);
}

static void body(const void *arg, void *result)
{
    const struct plan *plan = arg;
    run_engine(plan->local, plan->engine, plan->threads, result);
}

/* ---------------------------------------------------------------- all runs */

static int is_bad(const struct bench_engine *engine, unsigned threads, const struct outcome *outcome)
{
    if (*outcome->error)
        bench_say("%s, %u threads: %s", engine->name, threads, outcome->error);
    else if (outcome->errors || outcome->wrong)
        bench_say("%s, %u threads: %llu failed calls, %llu wrong values", engine->name, threads,
                  (unsigned long long)outcome->errors, (unsigned long long)outcome->wrong);
    return *outcome->error || outcome->errors || outcome->wrong;
}

static int run_all(struct local *local, struct outcome *outcomes)
{
    const struct bench_common *common = local->common;
    unsigned cells = local->engines * local->threads.count;
    int status = BENCH_OK;
    for (unsigned run = 0; run < common->runs; run++) {
        for (unsigned cell = 0; cell < cells; cell++) {
            struct plan plan = {.local = local,
                                .engine = local->engine[cell % local->engines],
                                .threads = (unsigned)local->threads.number[cell / local->engines]};
            struct outcome *outcome = &outcomes[cell * common->runs + run];
            char error[128];
            bench_child_run(body, &plan, outcome, sizeof(*outcome), error, sizeof(error));
            if (*error)
                snprintf(outcome->error, sizeof(outcome->error), "%s", error);
            if (is_bad(plan.engine, plan.threads, outcome))
                status = BENCH_FAILED;
            bench_progress(common, "run %u of %u  %-12s %u threads  %10.0f a second", run + 1, (unsigned)common->runs,
                           plan.engine->name, plan.threads, outcome->rate);
        }
    }
    return status;
}

/* ---------------------------------------------------------------- results */

#define MEDIAN(outcomes, runs, expression)                                                                             \
    __extension__({                                                                                                    \
        double *numbers_ = bench_alloc((runs) * sizeof(double));                                                       \
        for (unsigned r_ = 0; r_ < (runs); r_++) {                                                                     \
            const struct outcome *o = &(outcomes)[r_];                                                                 \
            numbers_[r_] = (double)(expression);                                                                       \
        }                                                                                                              \
        double median_ = bench_median(numbers_, runs);                                                                 \
        free(numbers_);                                                                                                \
        median_;                                                                                                       \
    })

/* nearcache's outcomes with as many threads as that cell; NULL when it does not run. */
static const struct outcome *reference(const struct local *local, const struct outcome *outcomes, unsigned cell)
{
    for (unsigned e = 0; e < local->engines; e++) {
        if (local->engine[e] == &bench_engine_nearcache)
            return &outcomes[(cell / local->engines * local->engines + e) * local->common->runs];
    }
    return NULL;
}

/* Ratios are taken run by run, of runs that were neighbours in time, and their median then. */
static void add_speed(struct bench_row *row, const struct outcome *mine, const struct outcome *others, unsigned runs)
{
    double *rates = bench_alloc(runs * sizeof(*rates)), *ratios = bench_alloc(runs * sizeof(*ratios));
    for (unsigned r = 0; r < runs; r++) {
        rates[r] = mine[r].rate;
        ratios[r] = others && others[r].rate > 0 ? mine[r].rate / others[r].rate : 0;
    }
    bench_row_rates(row, rates, runs, "Mops/s", 1e-6, 3);
    if (others)
        bench_row_real(row, "relative_to_nearcache", "of nearcache", 1, 3, bench_median(ratios, runs));
    else
        bench_row_none(row, "relative_to_nearcache", "of nearcache");
    free(rates);
    free(ratios);
}

static void add_times(struct bench_row *row, const struct outcome *outcomes, unsigned runs)
{
    near_quantiles *times = bench_alloc(runs * sizeof(*times));
    for (unsigned r = 0; r < runs; r++)
        times[r] = outcomes[r].ns;
    bench_row_times(row, times, runs, 1);
    free(times);
}

static void add_row(struct bench_report *report, const struct local *local, const struct outcome *outcomes,
                    unsigned cell)
{
    unsigned runs = (unsigned)local->common->runs;
    const struct outcome *mine = &outcomes[cell * runs];
    struct bench_row *row = bench_report_row(report);
    uint64_t errors = 0, wrong = 0; /* of all runs: a median would hide what went wrong in one */
    for (unsigned r = 0; r < runs; r++) {
        errors += mine[r].errors;
        wrong += mine[r].wrong;
    }
    bench_row_text(row, "engine", "engine", local->engine[cell % local->engines]->name);
    bench_row_count(row, "threads", "threads", local->threads.number[cell / local->engines]);
    add_speed(row, mine, reference(local, outcomes, cell), runs);
    if (local->writes < 1)
        bench_row_real(row, "hit_ratio", "hits %", 100, 2,
                       MEDIAN(mine, runs, o->gets ? (double)o->hits / (double)o->gets : 0));
    else
        bench_row_none(row, "hit_ratio", "hits %");
    bench_row_real(row, "bytes_per_entry", "B/entry", 1, 1,
                   MEDIAN(mine, runs, o->entries ? (double)o->resident / (double)o->entries : 0));
    bench_row_real(row, "counted_bytes_per_entry", NULL, 1, 1,
                   MEDIAN(mine, runs, o->entries ? (double)o->counted / (double)o->entries : 0));
    bench_row_real(row, "entries", NULL, 1, 0, MEDIAN(mine, runs, o->entries));
    if (local->engine[cell % local->engines]->remote)
        bench_row_none(row, "kept_while_filling", NULL);
    else
        bench_row_real(row, "kept_while_filling", NULL, 1, 3, MEDIAN(mine, runs, o->kept));
    add_times(row, mine, runs);
    bench_row_real(row, "fills", NULL, 1, 0, MEDIAN(mine, runs, o->fills));
    bench_row_real(row, "refused", NULL, 1, 0, MEDIAN(mine, runs, o->refused));
    bench_row_count(row, "errors", NULL, errors);
    bench_row_count(row, "wrong", NULL, wrong);
}

static void describe(struct bench_row *setting, const struct local *local)
{
    bench_row_count(setting, "keys", NULL, local->keys_count);
    bench_row_count(setting, "key_size", NULL, local->key_size);
    bench_row_count(setting, "value_size", NULL, local->value_size);
    bench_row_count(setting, "entries_limit", NULL, local->entries);
    bench_row_count(setting, "local_bytes", NULL, local->bytes);
    bench_row_text(setting, "dist", NULL, local->dist_text);
    bench_row_text(setting, "mix", NULL, local->mix_text);
    bench_row_count(setting, "batch", NULL, local->batch);
    bench_row_count(setting, "churn", NULL, local->churn);
    bench_row_count(setting, "fill_on_miss", NULL, (uint64_t)local->fill);
    bench_row_count(setting, "verify", NULL, (uint64_t)local->verify);
}

static int report_all(const struct local *local, const struct outcome *outcomes)
{
    struct bench_report report;
    bench_report_init(&report, local->common);
    describe(&report.setting, local);
    for (unsigned cell = 0; cell < local->engines * local->threads.count; cell++)
        add_row(&report, local, outcomes, cell);
    int status = bench_report_write(&report);
    bench_report_fini(&report);
    return status;
}

/* ---------------------------------------------------------------- options */

static int parse_engines(struct local *local)
{
    const char *text = local->engine_names;
    while (*text) {
        size_t size = strcspn(text, ",");
        const struct bench_engine *engine = bench_engine_find(text, size);
        if (!engine || local->engines == ENGINES_MAX)
            return 0;
        local->engine[local->engines++] = engine;
        text += size;
        text += *text == ',';
    }
    return local->engines > 0;
}

#define ENGINE_TEXT 256

static const char *name_engines(char text[ENGINE_TEXT], const char *before)
{
    snprintf(text, ENGINE_TEXT, "%s", before);
    for (const struct bench_engine *const *engine = bench_engines; *engine; engine++) {
        size_t size = strlen(text);
        snprintf(text + size, ENGINE_TEXT - size, " %s", (*engine)->name);
    }
    return text;
}

/* "get:95,set:5" */
static int parse_mix(const char *text, double *ret_writes)
{
    double share[2] = {0, 0};
    while (*text) {
        int which = strncmp(text, "get:", 4) == 0 ? 0 : strncmp(text, "set:", 4) == 0 ? 1 : -1;
        char *end;
        if (which < 0)
            return 0;
        share[which] = strtod(text + 4, &end);
        if (end == text + 4 || (*end && *end != ',') || !(share[which] >= 0 && share[which] <= 1e9))
            return 0;
        text = *end ? end + 1 : end;
    }
    *ret_writes = share[1] / (share[0] + share[1]);
    return share[0] + share[1] > 0;
}

static int parse(struct local *local)
{
    char names[ENGINE_TEXT];
    const struct bench_option rows[] = {
        {"engine", "NAME[,NAME…]", BENCH_TEXT, &local->engine_names, 0, 0,
         name_engines(names, "what is measured, run in turn\nchoose from")},
        {"threads", "N[,N…]", BENCH_COUNTS, &local->threads, 1, BENCH_THREADS_MAX, "threads, pinned to processors"},
        {"keys", "N", BENCH_COUNT, &local->keys_count, 1, 1u << 30, "different keys"},
        {"key-size", "BYTES", BENCH_SIZE, &local->key_size, BENCH_KEY_SIZE_MIN, 65535, ""},
        {"value-size", "BYTES", BENCH_SIZE, &local->value_size, 1, 1 << 20, ""},
        {"entries", "N", BENCH_COUNT, &local->entries, 1, 1u << 30, "limit of engines that evict [none]"},
        {"local-bytes", "SIZE", BENCH_SIZE, &local->bytes, 1 << 20, 1e12, "limit of engines that evict [none]"},
        {"dist", "DIST", BENCH_TEXT, &local->dist_text, 0, 0, "uniform, zipf:THETA, hotspot:SET,OPS"},
        {"mix", "MIX", BENCH_TEXT, &local->mix_text, 0, 0, "shares of reads and writes"},
        {"batch", "N", BENCH_COUNT, &local->batch, 1, BATCH_MAX, "keys of one mget; 1: get"},
        {"fill-on-miss", NULL, BENCH_FLAG, &local->fill, 0, 0, "set a key that was not found"},
        {"churn", "N", BENCH_COUNT, &local->churn, 0, 1000,
         "other keys set before, in multiples of --entries, by engines that evict"},
        {"verify", NULL, BENCH_FLAG, &local->verify, 0, 0, "check every value (slower; figures are not comparable)"},
        {NULL, NULL, BENCH_FLAG, NULL, 0, 0, NULL},
    };
    int status =
        bench_options_parse(local->common, rows, "Engines under the same load, in one process, on pinned threads.");
    if (status >= 0)
        return status;
    if (!parse_engines(local))
        return bench_options_refuse("engine", local->engine_names, name_engines(names, "choose from"));
    if (local->churn && !local->entries)
        return bench_options_refuse("churn", "without a limit", "--entries as well");
    if (!bench_dist_parse(local->dist_text, &local->dist))
        return bench_options_refuse("dist", local->dist_text,
                                    "uniform, zipf:THETA (0 to 10) or hotspot:SET,OPS (0 to 1)");
    if (!parse_mix(local->mix_text, &local->writes))
        return bench_options_refuse("mix", local->mix_text, "shares such as get:95,set:5");
    return -1;
}

/* ---------------------------------------------------------------- */

static void prepare(struct local *local)
{
    struct bench_draw draw;
    bench_draw_init(&draw, &local->dist, (uint32_t)local->keys_count, local->common->seed);
    bench_keys_init(&local->keys, (uint32_t)local->keys_count, (uint32_t)local->key_size);
    for (unsigned i = 0; i < local->threads.count; i++) {
        if (local->threads.number[i] > local->tapes)
            local->tapes = (unsigned)local->threads.number[i];
    }
    for (unsigned i = 0; i < local->tapes; i++)
        bench_tape_init(&local->tape[i], bench_tape_words(local->keys_count), &draw, local->writes,
                        local->common->seed + 1 + i);
    bench_draw_fini(&draw);
    bench_ticks_calibrate(&local->scale);
}

static int prepare_redis(struct local *local)
{
    char error[256] = "";
    struct bench_endpoint endpoint;
    int wanted = 0;
    for (unsigned e = 0; e < local->engines; e++)
        wanted |= local->engine[e]->remote;
    if (!wanted)
        return 0;
    bench_progress(local->common, "filling a redis-server");
    if (bench_redis_start(&local->redis, error, sizeof(error)) == 0) {
        local->redis_runs = 1;
        redisContext *context = NULL;
        if (bench_endpoint_parse(local->redis.uri, &endpoint))
            context = bench_wire_connect(&endpoint, error, sizeof(error));
        int status =
            context ? bench_wire_load(context, &local->keys, local->keys.count, local->value_size, error, sizeof(error))
                    : -1;
        if (context)
            redisFree(context);
        if (status == 0)
            return 0;
    }
    bench_say("%s", error);
    return -1;
}

static void finish(struct local *local)
{
    if (local->redis_runs)
        bench_redis_stop(&local->redis);
    for (unsigned i = 0; i < local->tapes; i++)
        bench_tape_fini(&local->tape[i]);
    bench_keys_fini(&local->keys);
}

int bench_local(struct bench_common *common)
{
    static struct local local;
    local = (struct local){.common = common,
                           .engine_names = "nearcache,floor,cds-lfht,sharded-lru,uthash-lru,hiredis",
                           .dist_text = "zipf:0.99",
                           .mix_text = "get:100,set:0",
                           .threads = {.count = 2, .number = {1, 2}},
                           .keys_count = 1000000,
                           .key_size = 16,
                           .value_size = 100,
                           .batch = 1};
    int status = parse(&local);
    if (status >= 0)
        return status;
    prepare(&local);
    status = BENCH_FAILED;
    if (prepare_redis(&local) == 0) {
        struct outcome *outcomes = bench_alloc(local.engines * local.threads.count * common->runs * sizeof(*outcomes));
        status = run_all(&local, outcomes);
        status |= report_all(&local, outcomes);
        free(outcomes);
    }
    finish(&local);
    return status;
}
