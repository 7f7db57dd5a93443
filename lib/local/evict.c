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
 * are fetched; the slots in use are noted and the entries in them fetched; the entries that are then in those slots are looked at.
 *
 * A candidate is a slot and the word that was in it.  It is looked at anew before it goes: if the slot holds another word it is gone, and
 * if it was used in the meantime it is young and leaves the pool (candidates.h).  Slots and buckets belong to a view of the tables, and
 * entries are followed only when a slot holds their word inside the present section, so nothing that was freed is touched.
 *
 * A look is the dearest part of a fill, so it is short: which slots are in use is one question for a bucket, asked when they are noted.
 * Under LRU, where nothing that was noted can have ended (no expiry, no idle limit, the present era), the stamps are read in a row and
 * compared with the youngest candidate's all at once; most of the sample is done with then.  Otherwise entries are looked at one by one:
 * what may speak against one is two comparisons with numbers that stay in registers.
 *
 * A table of at most WHOLE buckets is looked at as a whole, and again only when the pool has run dry: its order is exact, and
 * a look serves up to NEAR_CANDIDATES evictions.
 *
 * Under NEAR_RULE_S3FIFO there are two pools, one a queue, and a candidate that has earned another turn gets it instead
 * of going (queues.c).  The random rules need no pool.  Under the volatile ones entries without a time to live are passed over, and
 * when there are no others nothing goes: then the fill is refused, as Redis refuses it.  The keeper alone, when a limit was
 * lowered, goes on without them.
 *
 * Work for one eviction: at most ATTEMPTS samples of RUN buckets, TURNS turns; for one fill: the victims of budget.c. */
#include "local/rcu.h"
#include "local/tier.h"

#include "base/random.h"

/* Entries looked at for one eviction, and the rest of the bucket in which that many are reached.  Over the traces of docs/policies.md that is
 * as good as exact LRU on average (53.849 to 53.865 with three seeds, exact LRU 53.844), and at worst 0.28 points below; exactly 8 are
 * not (53.839 to 53.842), exactly 11 are (53.851 to 53.853), but are no fewer.  Of the small queue, an eighth of what is seen, that
 * shows too little: 16 are worth half a point there.  So they are where entries may have expired, which go first. */
#define SAMPLE 8
#define SAMPLE_WIDE 16
#define WHOLE 64   /* buckets */
#define RUN 256    /* buckets looked at, when the index is sparse: few large values, 16 KiB read in a row */
#define RUN_AHEAD 8 /* likewise, noted at a time: the rest is left to the eviction that needs it */
#define AHEAD 3    /* buckets of the sample after the next that are fetched early: SAMPLE entries at 3 to 6 a bucket */
#define ATTEMPTS 8 /* samples, when others take the victim or half of two tables is empty */
_Static_assert(SAMPLE_WIDE - 1 + NEAR_BUCKET_SLOTS <= NEAR_SAMPLE_SLOTS && NEAR_SAMPLE_SLOTS <= NEAR_STAMPS, "a sample fits");
#define TURNS 32   /* given to candidates on behalf of one eviction */

/* ---------------------------------------------------------------- the pool */

enum queue { SMALL, MAIN }; /* without queues everything is SMALL */

/* One search for a victim. */
struct hunt {
    struct near__local *local;
    struct near__sampler *sampler;
    const struct near__moment *moment;
    uint16_t base; /* ages are compared by: candidates.h */
};

static int has_queues(const struct hunt *hunt)
{
    return hunt->moment->rule == NEAR_RULE_S3FIFO;
}

static int has_pool(const struct hunt *hunt)
{
    return hunt->moment->rule != NEAR_RULE_RANDOM && hunt->moment->rule != NEAR_RULE_VOLATILE_RANDOM;
}

/* What a candidate of that entry is: its queue is returned. */
static inline __attribute__((always_inline)) enum queue describe(int queues, const struct near__entry *entry, uint16_t *ret_stamp)
{
    uint32_t word = queues ? near__queue_of(entry) : 0;
    *ret_stamp = queues ? near__queue_stamp(word) : near__entry_stamp(entry);
    return word & NEAR_QUEUE_MAIN ? MAIN : SMALL;
}

/* It passes the bar; the new one is returned. */
static __attribute__((noinline)) int take_in(struct near__candidates *pool, _Atomic(uint64_t) *slot, uint64_t word, uint16_t stamp,
                                             uint16_t base)
{
    near__candidates_add(pool, slot, word, stamp, base);
    return near__candidates_bar(pool, base);
}

static void forget(struct near__sampler *sampler)
{
    near__candidates_clear(&sampler->pool[SMALL]);
    near__candidates_clear(&sampler->pool[MAIN]);
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

/* The first slot of a set of bits. */
static inline _Atomic(uint64_t) *slot_at(struct near__bucket *bucket, size_t slots)
{
    return &bucket->slot[near__lowest(slots)];
}

static int evict(const struct hunt *hunt, _Atomic(uint64_t) *slot, uint64_t word)
{
    const struct near__entry *entry = near__word_entry(word);
    enum near__why why = near__entry_is_expired(entry, hunt->moment) ? NEAR_WHY_EXPIRED : NEAR_WHY_EVICTED;
    return near__index_unlink(&hunt->local->index, slot, word, why);
}

/* The entries of the next buckets, until there are enough: they are being fetched; *run buckets are left. */
static void gather(struct near__sample *sample, const struct near__span *span, uint64_t *ret_b, uint64_t *ret_run, unsigned enough)
{
    uint64_t b = *ret_b, run = *ret_run, last = run > RUN_AHEAD ? run - RUN_AHEAD : 0;
    unsigned count = 0;
    for (; run > last && count < enough; run--) {
        struct near__bucket *bucket = &span->bucket[b];
        for (size_t visible = near__bucket_visible(bucket); visible; visible &= visible - 1) {
            _Atomic(uint64_t) *slot = slot_at(bucket, visible);
            sample->slot[count++] = slot;
            near__stamps_prefetch(atomic_load_explicit(slot, memory_order_relaxed)); /* relaxed: only an address */
        }
        b = b + 1 < span->count ? b + 1 : 0;
    }
    sample->count = count;
    *ret_b = b;
    *ret_run = run;
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
static inline __attribute__((always_inline)) uint64_t begin_sample(struct near__sampler *sampler, const struct near__span *span)
{
    uint64_t b = place_of(sampler->ahead, span);
    sampler->ahead = near__random_next(&sampler->random);
    const struct near__bucket *next = &span->bucket[place_of(sampler->ahead, span)], *end = span->bucket + span->count;
    for (unsigned i = 0; i < AHEAD && next + i < end; i++)
        __builtin_prefetch(next + i);
    return b;
}

/* One look. */
struct sight {
    uint32_t seen;                 /* live entries that may go */
    struct near__candidate chosen; /* without a pool: one of them */
};

enum look { STAYS, MAY_GO, HAS_GONE };

/* At an entry of which the clock or the rule must tell. */
static __attribute__((noinline)) enum look look_closely(const struct hunt *hunt, _Atomic(uint64_t) *slot, uint64_t word)
{
    const struct near__entry *entry = near__word_entry(word);
    if (near__entry_is_dead(entry, hunt->moment))
        return evict(hunt, slot, word) ? HAS_GONE : STAYS;
    return near__entry_is_spared(entry, hunt->moment) ? STAYS : MAY_GO;
}

/* Alive and may go, as nearly all are.  plain: heads from here on. */
static inline __attribute__((always_inline)) int is_plainly_alive(const struct near__entry *entry, unsigned era, int64_t plain,
                                                                  int64_t now_ms)
{
    int64_t head = near__entry_head(entry);
    unsigned odd = ((unsigned)head ^ era) & (NEAR_ENTRY_EXPIRES | NEAR_ENTRY_ERA);
    if (odd && (odd != NEAR_ENTRY_EXPIRES || near__expiry_left(near__entry_expires(entry), now_ms) <= 0))
        return 0;
    return head >= plain;
}

enum pools { NO_POOL, ONE_POOL, TWO_POOLS };

/* As see; pools is a constant, and what is the same for all entries stays in registers. */
static inline __attribute__((always_inline)) int see_by(const struct hunt *hunt, const struct near__sample *sample, struct sight *sight,
                                                        const enum pools pools)
{
    struct near__candidates *pool = hunt->sampler->pool;
    const unsigned era = hunt->moment->era;
    const int64_t now_ms = hunt->moment->now_ms;
    const int always = hunt->moment->idle || hunt->moment->rule >= NEAR_RULE_VOLATILE_LRU;
    const int64_t plain = always ? INT64_MAX : (int64_t)(hunt->moment->forsaken << NEAR_HEAD_SHIFT);
    const uint16_t base = hunt->base;
    int bar[] = {[SMALL] = near__candidates_bar(&pool[SMALL], base), [MAIN] = near__candidates_bar(&pool[MAIN], base)};
    uint32_t seen = sight->seen;
    for (unsigned i = 0; i < sample->count; i++) {
        _Atomic(uint64_t) *slot = sample->slot[i];
        uint64_t word = near__step_look(slot);
        if (__builtin_expect(!(word & NEAR_WORD_VISIBLE), 0))
            continue;
        const struct near__entry *entry = near__word_entry(word);
        if (__builtin_expect(!is_plainly_alive(entry, era, plain, now_ms), 0)) {
            enum look look = look_closely(hunt, slot, word);
            if (look == HAS_GONE)
                return 1;
            if (look == STAYS)
                continue;
        }
        seen++;
        uint16_t stamp;
        enum queue queue = describe(pools == TWO_POOLS, entry, &stamp);
        if (pools == NO_POOL && !near__random_below(&hunt->sampler->random, seen)) /* each with the same chance */
            sight->chosen = (struct near__candidate){.slot = slot, .word = word};
        if (pools != NO_POOL && (int)near__candidate_age(base, stamp) > bar[queue])
            bar[queue] = take_in(&pool[queue], slot, word, stamp, base);
    }
    sight->seen = seen;
    return 0;
}

/* The stamps of all that were noted.  0: one of them has gone meanwhile, or needs a closer look. */
static inline __attribute__((always_inline)) int read_stamps(const struct near__sample *sample, uint32_t era, uint16_t *stamp)
{
    for (unsigned i = 0; i < sample->count; i++) {
        uint64_t word = near__step_look(sample->slot[i]);
        if (!(word & NEAR_WORD_VISIBLE))
            return 0;
        const struct near__entry *entry = near__word_entry(word);
        if (near__entry_is_odd(entry, era))
            return 0;
        stamp[i] = near__entry_stamp(entry);
    }
    return 1;
}

/* The entry in a slot, as a candidate, though another may have come there since its stamp was read. */
static void take_in_slot(struct near__candidates *pool, _Atomic(uint64_t) *slot, uint16_t base)
{
    uint64_t word = near__step_look(slot);
    if (!(word & NEAR_WORD_VISIBLE))
        return;
    uint16_t stamp = near__entry_stamp(near__word_entry(word));
    if ((int)near__candidate_age(base, stamp) > near__candidates_bar(pool, base))
        near__candidates_add(pool, slot, word, stamp, base);
}

/* As see where nothing but stamps tells entries apart, none of which expires.  0: this is not so, and nothing was done. */
static int see_quickly(const struct hunt *hunt, const struct near__sample *sample, struct sight *sight)
{
    const struct near__moment *moment = hunt->moment;
    struct near__candidates *pool = &hunt->sampler->pool[SMALL];
    _Alignas(16) uint16_t stamp[NEAR_STAMPS] = {0};
    if (moment->rule != NEAR_RULE_LRU || moment->idle || moment->forsaken || !read_stamps(sample, moment->era, stamp))
        return 0;
    int bar = near__candidates_bar(pool, hunt->base);
    uint32_t all = (UINT32_C(1) << sample->count) - 1;
    for (uint32_t older = all & (bar < 0 ? all : near__stamps_older(stamp, hunt->base, bar)); older; older &= older - 1)
        take_in_slot(pool, sample->slot[__builtin_ctz(older)], hunt->base);
    sight->seen += sample->count;
    return 1;
}

/* Looks at what is in the slots that were noted.  1: something dead was there and has gone. */
static int see(const struct hunt *hunt, const struct near__sample *sample, struct sight *sight)
{
    if (see_quickly(hunt, sample, sight))
        return 0;
    if (!has_pool(hunt))
        return see_by(hunt, sample, sight, NO_POOL);
    return has_queues(hunt) ? see_by(hunt, sample, sight, TWO_POOLS) : see_by(hunt, sample, sight, ONE_POOL);
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
    while (near__candidates_pick(&hunt->sampler->pool[queue], hunt->base, &candidate)) {
        uint16_t stamp;
        if (near__step_load(candidate.slot) != candidate.word)
            continue;
        struct near__entry *entry = near__word_entry(candidate.word);
        if (!near__entry_is_dead(entry, hunt->moment)) {
            if (describe(has_queues(hunt), entry, &stamp) != queue || stamp != candidate.stamp)
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

int near__evict_inside(struct near__local *local, struct near__sampler *sampler, const struct near__moment *moment)
{
    struct hunt hunt = {local, sampler, moment, (uint16_t)(moment->tick + 4 * NEAR_TICKS)}; /* ahead: as in near__stamp_age */
    int done = 0;
    unsigned turns = TURNS;
    const struct near__tables *tables = near__index_tables(&local->index);
    begin(&hunt, tables);
    if (is_whole(local, tables))
        done = take_any(&hunt, 0, &turns);
    for (unsigned i = 0; i < ATTEMPTS && !done; i++) {
        uint64_t t = tables->spans > 1 ? (near__random_next(&sampler->random) ^ i) & 1 : 0;
        done = look(&hunt, &tables->span[t]) || take_any(&hunt, i > 0, &turns);
    }
    return done;
}

int near__evict_one(struct near__local *local, struct near__sampler *sampler, const struct near__moment *moment)
{
    near__rcu_enter();
    int done = near__evict_inside(local, sampler, moment);
    near__rcu_leave();
    return done;
}
