/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Eviction: which entry makes room.  How many have to is in budget.c.
 *
 * Every eviction looks at a sample: a run of neighbouring buckets at a random place, until SAMPLE entries have been seen.
 * Neighbours are one DRAM page and their keys have nothing to do with each other.  The best of it join a pool of the calling
 * thread's own, and the best of the pool goes (Redis's pool, made safe for threads): what was seen by the last dozen evictions
 * helps this one, so a small sample does the work of a large one.
 *
 * Memory is far away, so a sample is made ready in three steps, each by another eviction: its place is drawn and the buckets
 * are fetched; the words in them are noted and the entries fetched; the entries are looked at.
 *
 * A candidate, and what is noted of a sample, is a slot and the word that was in it.  It is looked at anew before it goes: if
 * the slot holds another word it is gone, and if it was used in the meantime it is young and leaves the pool.  Slots belong to a view
 * of the tables, and entries are followed only when the slot holds their word inside the present section, so nothing that was freed
 * is touched.
 *
 * A table of at most WHOLE buckets is looked at as a whole, and again only when the pool has run dry: its order is exact, and
 * a look serves up to NEAR_POOL evictions.
 *
 * Under NEAR_RULE_S3FIFO there are two pools, one a queue, and a candidate that has earned another turn gets it instead
 * of going (queues.c).  The random rules need no pool.  Under the volatile ones entries without a time to live are passed over, and
 * when there are no others nothing goes: then the fill is refused, as Redis refuses it.  The keeper alone, when a limit was
 * lowered, goes on without them.
 *
 * Work for one eviction: at most ATTEMPTS samples of RUN buckets, TURNS turns; for one fill: the victims of budget.c. */
#include "local/rcu.h"
#include "local/tier.h"

#include <string.h>

#include "base/random.h"

/* Entries looked at for one eviction.  Over the traces of docs/policies.md 8 are as good as exact LRU on average, and at worst 0.23
 * points below (16 without a pool: 0.1 and 0.5).  Of the small queue, an eighth of what is seen, that shows too little: 16
 * are worth half a point there.  So they are where entries may have expired, which go first. */
#define SAMPLE 8
#define SAMPLE_WIDE NEAR_SAMPLE
#define WHOLE 64   /* buckets */
#define RUN 256    /* buckets looked at, when the index is sparse: few large values, 16 KiB read in a row */
#define RUN_AHEAD 8 /* likewise, for a sample that is made ready: the rest is left to the eviction that needs it */
#define AHEAD 3    /* buckets of the sample after the next that are fetched early: SAMPLE entries at 3 to 4.5 a bucket */
#define ATTEMPTS 8 /* samples, when others take the victim or half of two tables is empty */
#define TURNS 32   /* given to candidates on behalf of one eviction */

/* ---------------------------------------------------------------- the pool */

enum queue { SMALL, MAIN }; /* without queues everything is SMALL */

/* One search for a victim. */
struct hunt {
    struct near__local *local;
    struct near__sampler *sampler;
    const struct near__moment *moment;
};

static int has_queues(const struct hunt *hunt)
{
    return hunt->moment->rule == NEAR_RULE_S3FIFO;
}

static int has_pool(const struct hunt *hunt)
{
    return hunt->moment->rule != NEAR_RULE_RANDOM && hunt->moment->rule != NEAR_RULE_VOLATILE_RANDOM;
}

/* To compare by: as near__stamp_age, and what was stamped after our tick was taken is younger than all. */
static inline unsigned age_of(const struct hunt *hunt, const struct near__candidate *candidate)
{
    return (uint16_t)(hunt->moment->tick + 4 * NEAR_TICKS - candidate->stamp);
}

/* What a candidate of that entry is: its queue is returned. */
static enum queue describe(const struct hunt *hunt, const struct near__entry *entry, uint16_t *ret_stamp)
{
    uint32_t word = has_queues(hunt) ? near__queue_of(entry) : 0;
    *ret_stamp = has_queues(hunt) ? near__queue_stamp(word) : near__entry_stamp(entry);
    return word & NEAR_QUEUE_MAIN ? MAIN : SMALL;
}

/* Pools are in order of age, the youngest first: most of a sample is younger than anything in a full pool and is sent away by one
 * comparison, others find their place near the young end, and the victim is the last.  So it is the few younger ones that move when one
 * comes in, into the room in front of them or over the youngest, and nothing moves when the last one goes.  (The order holds while
 * stamps age: all become older together.) */
static void insert(struct near__pool *pool, unsigned at, const struct near__candidate *candidate)
{
    if (pool->count < NEAR_POOL) {
        pool->first--; /* there is room: see offer */
        pool->count++;
    }
    for (unsigned i = pool->first; i < at - 1; i++)
        pool->candidate[i] = pool->candidate[i + 1];
    pool->candidate[at - 1] = *candidate;
}

static void move_to_end(struct near__pool *pool)
{
    unsigned first = NEAR_POOL_ROOM - pool->count;
    memmove(&pool->candidate[first], &pool->candidate[pool->first], pool->count * sizeof(*pool->candidate));
    pool->first = first;
}

/* It is older than the youngest, or the pool is not full. */
static __attribute__((noinline)) void take_in(const struct hunt *hunt, struct near__pool *pool, const struct near__candidate *candidate)
{
    unsigned age = age_of(hunt, candidate);
    if (!pool->first)
        move_to_end(pool);
    unsigned at = pool->first, end = pool->first + pool->count;
    while (at < end && age_of(hunt, &pool->candidate[at]) < age)
        at++;
    for (unsigned i = at; i < end && pool->candidate[i].stamp == candidate->stamp; i++)
        if (pool->candidate[i].word == candidate->word)
            return; /* seen before; with another stamp it was used since, and the earlier one is passed over when its turn comes */
    insert(pool, at, candidate);
}

static inline void offer(const struct hunt *hunt, _Atomic(uint64_t) *slot, uint64_t word)
{
    struct near__candidate mine = {.slot = slot, .word = word};
    struct near__pool *pool = &hunt->sampler->pool[describe(hunt, near__word_entry(word), &mine.stamp)];
    if (pool->count < NEAR_POOL || age_of(hunt, &mine) > age_of(hunt, &pool->candidate[pool->first]))
        take_in(hunt, pool, &mine);
}

/* Takes the oldest out.  0: the pool is empty. */
static int pick(const struct hunt *hunt, enum queue queue, struct near__candidate *ret)
{
    struct near__pool *pool = &hunt->sampler->pool[queue];
    if (!pool->count)
        return 0;
    *ret = pool->candidate[pool->first + --pool->count];
    return 1;
}

static void forget(struct near__sampler *sampler)
{
    for (unsigned queue = SMALL; queue <= MAIN; queue++) {
        sampler->pool[queue].count = 0;
        sampler->pool[queue].first = NEAR_POOL_ROOM;
    }
    sampler->sample.count = 0;
}

/* Candidates of another view or rule say nothing, and slots of another view may be gone. */
static void begin(const struct hunt *hunt, const struct near__tables *tables)
{
    struct near__sampler *sampler = hunt->sampler;
    if (sampler->view != tables->serial || sampler->rule != hunt->moment->rule)
        forget(sampler);
    sampler->view = tables->serial;
    sampler->rule = hunt->moment->rule;
}

/* ---------------------------------------------------------------- victims */

static int evict(const struct hunt *hunt, _Atomic(uint64_t) *slot, uint64_t word)
{
    const struct near__entry *entry = near__word_entry(word);
    enum near__why why = near__entry_is_expired(entry, hunt->moment) ? NEAR_WHY_EXPIRED : NEAR_WHY_EVICTED;
    return near__index_unlink(&hunt->local->index, slot, word, why);
}

/* Some words of the next buckets, whose entries are being fetched; *run of them are left.  Which slots are in use nobody can foretell,
 * so no branch depends on it: what is empty or tentative is written down, too, and the next one over it. */
static void gather(struct near__sample *sample, const struct near__span *span, uint64_t *b, uint64_t *run, unsigned enough)
{
    unsigned count = 0;
    for (; *run && count < enough; --*run, *b = *b + 1 < span->count ? *b + 1 : 0)
        for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++) {
            _Atomic(uint64_t) *slot = &span->bucket[*b].slot[i];
            uint64_t word = near__step_load(slot);
            sample->slot[count] = slot;
            sample->word[count] = word;
            count += word & NEAR_WORD_VISIBLE;
        }
    for (unsigned i = 0; i < count; i++)
        __builtin_prefetch(near__word_entry(sample->word[i]));
    sample->count = count;
}

static int may_expire(const struct near__local *local)
{
    return atomic_load_explicit(&local->perishable, memory_order_relaxed) != 0; /* relaxed: only which of two good victims goes */
}

static unsigned sample_size(const struct hunt *hunt)
{
    return has_queues(hunt) || may_expire(hunt->local) ? SAMPLE_WIDE : SAMPLE;
}

static uint64_t place_of(uint64_t random, const struct near__span *span)
{
    return ((random >> 32) * span->count) >> 32;
}

/* Where the next sample begins.  The place of the one after it is drawn as well, and its buckets fetched: they come while the caller does
 * something else. */
static uint64_t begin_sample(struct near__sampler *sampler, const struct near__span *span)
{
    uint64_t b = place_of(sampler->ahead, span);
    sampler->ahead = near__random_next(&sampler->random);
    const struct near__bucket *next = &span->bucket[place_of(sampler->ahead, span)], *end = span->bucket + span->count;
    for (unsigned i = 0; i < AHEAD && next + i < end; i++)
        __builtin_prefetch(next + i);
    return b;
}

/* Alive without a look at the clock: nearly all are. */
static inline int is_plainly_alive(const struct near__entry *entry, const struct near__moment *moment)
{
    return !((entry->size_era ^ moment->era) & (NEAR_ENTRY_EXPIRES | (NEAR_ENTRY_ERAS - 1))) &&
           near__entry_position(entry) >= moment->forsaken && !moment->idle;
}

/* One look. */
struct sight {
    uint32_t seen;                 /* live entries that may go */
    struct near__candidate chosen; /* without a pool: one of them */
};

/* Looks at what was noted, if it is still there.  1: something dead was there and has gone. */
static int see(const struct hunt *hunt, const struct near__sample *sample, struct sight *sight)
{
    const struct near__moment moment = *hunt->moment; /* a copy that nobody else has: not loaded anew after each atomic load */
    const int pooled = has_pool(hunt);
    for (unsigned i = 0; i < sample->count; i++) {
        if (near__step_load(sample->slot[i]) != sample->word[i])
            continue;
        const struct near__entry *entry = near__word_entry(sample->word[i]);
        if (!is_plainly_alive(entry, &moment) && near__entry_is_dead(entry, &moment)) {
            if (evict(hunt, sample->slot[i], sample->word[i]))
                return 1;
        } else if (!near__entry_is_spared(entry, &moment)) {
            sight->seen++;
            if (pooled)
                offer(hunt, sample->slot[i], sample->word[i]);
            else if (!near__random_below(&hunt->sampler->random, sight->seen)) /* each with the same chance */
                sight->chosen = (struct near__candidate){.slot = sample->slot[i], .word = sample->word[i]};
        }
    }
    return 0;
}

static int evict_chosen(const struct hunt *hunt, const struct sight *sight)
{
    return sight->chosen.slot && evict(hunt, sight->chosen.slot, sight->chosen.word);
}

/* A small table.  1: as see. */
static int look_at_all(const struct hunt *hunt, const struct near__span *span)
{
    struct sight sight = {.seen = 0};
    uint64_t b = begin_sample(hunt->sampler, span), run = span->count;
    while (run) {
        struct near__sample sample;
        gather(&sample, span, &b, &run, SAMPLE_WIDE);
        if (see(hunt, &sample, &sight)) {
            forget(hunt->sampler); /* the pool has not seen all */
            return 1;
        }
    }
    return evict_chosen(hunt, &sight);
}

/* The sample that was made ready, and more where the index is sparse; then makes the next one ready.  1: as see. */
static int look_around(const struct hunt *hunt, const struct near__span *span)
{
    struct near__sampler *sampler = hunt->sampler;
    struct sight sight = {.seen = 0};
    uint32_t size = sample_size(hunt);
    uint64_t b = begin_sample(sampler, span), run = span->count < RUN ? span->count : RUN;
    int gone = see(hunt, &sampler->sample, &sight);
    while (!gone && sight.seen < size && run) {
        gather(&sampler->sample, span, &b, &run, size);
        gone = see(hunt, &sampler->sample, &sight);
    }
    gone = gone || evict_chosen(hunt, &sight);
    run = RUN_AHEAD;
    gather(&sampler->sample, span, &b, &run, size);
    return gone;
}

static int look(const struct hunt *hunt, const struct near__span *span)
{
    return span->count <= WHOLE ? look_at_all(hunt, span) : look_around(hunt, span);
}

/* 1: the candidate has earned another turn in the main queue, or somebody else is at it. */
static int has_turn(const struct hunt *hunt, struct near__entry *entry, enum queue queue)
{
    uint32_t word = near__queue_of(entry);
    int used = near__queue_is_used(entry, word, hunt->moment->turnover);
    if (queue == SMALL && used)
        near__queue_promote(hunt->local, entry, word, hunt->moment->tick);
    else if (queue == MAIN && (used || near__queue_worth(word)))
        near__queue_turn(entry, word, hunt->moment->tick, used);
    else
        return 0;
    return 1;
}

/* Takes candidates out of one queue's pool until one has gone.  0: none is left. */
static int take(const struct hunt *hunt, enum queue queue, unsigned *turns)
{
    struct near__candidate candidate;
    while (pick(hunt, queue, &candidate)) {
        uint16_t stamp;
        if (near__step_load(candidate.slot) != candidate.word)
            continue;
        struct near__entry *entry = near__word_entry(candidate.word);
        if (!near__entry_is_dead(entry, hunt->moment)) {
            if (describe(hunt, entry, &stamp) != queue || stamp != candidate.stamp)
                continue;
            if (has_queues(hunt) && *turns && has_turn(hunt, entry, queue)) {
                --*turns;
                if (queue == SMALL && !near__queue_small_is_due(hunt->local))
                    return 0;
                continue;
            }
        }
        if (evict(hunt, candidate.slot, candidate.word))
            return 1;
    }
    return 0;
}

/* From the queue whose turn it is, or from the other one when this has shown nobody. */
static int take_any(const struct hunt *hunt, int last, unsigned *turns)
{
    if (!has_queues(hunt))
        return take(hunt, SMALL, turns);
    enum queue queue = near__queue_small_is_due(hunt->local) ? SMALL : MAIN;
    if (take(hunt, queue, turns))
        return 1;
    enum queue next = near__queue_small_is_due(hunt->local) ? SMALL : MAIN; /* promotions may have changed it */
    return (next != queue || last) && take(hunt, next != queue ? next : queue == SMALL ? MAIN : SMALL, turns);
}

/* The pool is what a look at everything has left, and nothing can have expired since. */
static int is_whole(const struct near__local *local, const struct near__tables *tables)
{
    return tables->spans == 1 && tables->span[0].count <= WHOLE && !may_expire(local);
}

int near__evict_one(struct near__local *local, struct near__sampler *sampler, const struct near__moment *moment)
{
    struct hunt hunt = {local, sampler, moment};
    int done = 0;
    unsigned turns = TURNS;
    near__rcu_enter();
    const struct near__tables *tables = near__index_tables(&local->index);
    begin(&hunt, tables);
    if (is_whole(local, tables))
        done = take_any(&hunt, 0, &turns);
    for (unsigned i = 0; i < ATTEMPTS && !done; i++) {
        uint64_t r = near__random_next(&sampler->random);
        done = look(&hunt, &tables->span[(r ^ i) & (tables->spans - 1)]) || take_any(&hunt, i > 0, &turns);
    }
    near__rcu_leave();
    return done;
}
