/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Eviction: which entry makes room.  How many have to is in budget.c.
 *
 * A working-set clock (Carr and Hennessy, WSClock, SOSP 1981).  Each thread has a hand that goes over the tables,
 * bucket after bucket, in stretches that nobody else goes over in that round (hand.h).  The first entry that it meets
 * whose last use is at least as long ago as the hand's threshold goes, and the next eviction begins at the slot after
 * it.  The threshold is kept where one entry in ONE_IN is old enough.
 *
 *      ages    3   40   12   97   5 | 61   8   88   20 | …        threshold 80
 *              ------------> goes   ------------> goes
 *              eviction 1           eviction 2
 *
 * Why that is as good as the order of last use: what goes is older than the threshold, and what is older goes when the
 * hand comes to it, after a round at the latest, which is one eviction for each ONE_IN entries.  So an entry lives
 * unread as long as the threshold says, and up to a ONE_IN-th of a turnover longer, by where it happens to be.  No
 * list, no pool of candidates, no drawing of places; memory is read in the order in which it lies.  A round needs no
 * end: what is filled in behind the hand is young.
 *
 * Memory is far away, so as a hand comes to a bucket it fetches the entries of the one after the next, and the line two
 * further on.  An eviction goes on by one bucket as a rule, so an eviction or two lie between fetching and looking.
 *
 * Slots and buckets belong to a view of the tables, and entries are followed only when a slot holds their word inside
 * the present section, so nothing that was freed is touched.  A view that is new places the hands anew.  While there
 * are two tables, both are gone over.
 *
 * Where nothing but age counts, as under LRU while nothing may expire, a hand looks at whole buckets at a glance
 * (glance.h).  Those that were old enough go one with each eviction, the next one first if it still is.  Where a glance
 * shows something else, or nobody, it is as under the other rules: one entry after the other.
 *
 * Dead entries go wherever a hand meets them, old enough or not.  They count for the steering, so while more than one
 * in ONE_IN is dead the threshold rises until no other goes.  Where entries may have expired, more are looked at for
 * that (ONE_IN_WIDE).
 *
 * When nobody is old enough among LIMIT times as many as there should be, the oldest of them goes, or of as many again
 * after glances: a threshold is too high after a change of the load, and comes down by that.  Of WHOLE entries all are
 * looked at each time, so the order of a tier so small is exact, but for ties of a tick.
 *
 * Under NEAR_RULE_S3FIFO there are two hands, one a queue, with rounds and thresholds of their own, and ages are those
 * in the queue.  Who is old enough and has earned another turn gets it instead of going (queues.c).  Under the random
 * rules an age is a number made of address and tick.  Under the volatile ones entries without a time to live are passed
 * over, and when there are no others nothing goes: then the fill is refused, as Redis refuses it.  The keeper alone,
 * when a limit was lowered, goes on without them.
 *
 * Work for one eviction: once at a glance, then at most ATTEMPTS + TURNS searches, each of LIMIT times as many entries,
 * the rest of a bucket, and RUN buckets; for one fill: the victims of budget.c. */
#include <limits.h>

#include "base/compiler.h"
#include "base/prefetch.h"
#include "local/glance.h"
#include "local/rcu.h"
#include "local/tier.h"

/* One entry in so many is old enough.  Over the traces of docs/policies.md the mean of all rows is 53.867, 53.866 and
 * 53.880 with three seeds (exact LRU 53.844), at worst 0.17 points below; with eight 53.864 to 53.879 and 0.12, with
 * four 53.861 to 53.871 and 0.26. */
#define ONE_IN 6
/* Where entries may have expired; and in the small queue, which has an eighth of the entries that are looked at: there
 * twelve, 16 and 24 are the same to a fiftieth of a point.  More in the main queue cost s3fifo half a point where
 * popularity drifts (tests/local/test_evict.c). */
#define ONE_IN_WIDE 16
#define LIMIT 4    /* times as many are looked at, if need be: an entry in fifty goes for being the oldest of them */
#define WHOLE 64   /* entries */
#define RUN 256    /* buckets looked at, when the index is sparse: few large values, 16 KiB read in stretches */
#define ATTEMPTS 8 /* searches that show nobody, when others take the victim or half of two tables is empty */
#define TURNS 32   /* given on behalf of one eviction */

/* ---------------------------------------------------------------- a hunt */

enum queue { SMALL, MAIN }; /* without queues everything is SMALL */

/* One search for a victim. */
struct hunt {
    struct near__local *local;
    const struct near__tables *tables;
    struct near__hands *hands;
    const struct near__moment *moment;
    uint16_t base; /* ages are counted from here */
};

static inline uint16_t base_of(const struct near__moment *moment)
{
    return (uint16_t)(moment->tick + 4 * NEAR_TICKS);
}

static int has_queues(const struct hunt *hunt)
{
    return hunt->moment->rule == NEAR_RULE_S3FIFO;
}

static int is_by_chance(const struct hunt *hunt)
{
    return hunt->moment->rule == NEAR_RULE_RANDOM || hunt->moment->rule == NEAR_RULE_VOLATILE_RANDOM;
}

static int may_expire(const struct near__local *local)
{
    /* relaxed: only which of two good victims goes */
    return atomic_load_explicit(&local->perishable, memory_order_relaxed) != 0;
}

static unsigned one_in(const struct hunt *hunt, enum queue queue)
{
    return (has_queues(hunt) && queue == SMALL) || may_expire(hunt->local) ? ONE_IN_WIDE : ONE_IN;
}

/* ---------------------------------------------------------------- hands */

/* The stretch after this one. */
static void claim(const struct hunt *hunt, struct near__hand *hand)
{
    /* relaxed: only that nobody else has got the number */
    uint64_t claim = atomic_fetch_add_explicit(&hunt->local->claims[hand - hunt->hands->hand], 1, memory_order_relaxed);
    hand->next = near__course_claim(&hunt->hands->course, hunt->tables, claim, &hand->next_end);
}

static void step_over(const struct hunt *hunt, struct near__hand *hand)
{
    hand->bucket = hand->next;
    hand->end = hand->next_end;
    claim(hunt, hand);
}

/* Of an entry the line with the stamp: its head is there, too, but in one of sixteen.  All slots are taken for words,
 * empty ones as well: nothing is there to be fetched, and nothing happens. */
NEAR_INLINE void fetch_ahead(const struct near__hand *hand)
{
    near__prefetch_write(near__hand_ahead(hand, NEAR_HAND_LINE)); /* as a rule one of it goes */
    const struct near__bucket *bucket = near__hand_ahead(hand, NEAR_HAND_ENTRIES);
#pragma GCC unroll 8
    for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++) /* relaxed: only an address */
        __builtin_prefetch(
            (const void *)((uintptr_t)near__word_entry(atomic_load_explicit(&bucket->slot[i], memory_order_relaxed)) +
                           offsetof(struct near__entry, access)));
}

/* To the next bucket. */
NEAR_INLINE void advance(const struct hunt *hunt, struct near__hand *hand)
{
    if (near__unlikely(++hand->bucket == hand->end))
        step_over(hunt, hand);
    fetch_ahead(hand);
    hand->slots = near__bucket_visible(hand->bucket);
    hand->old = 0;
}

/* At the beginning of a stretch. */
static void place(const struct hunt *hunt, struct near__hand *hand)
{
    claim(hunt, hand);
    step_over(hunt, hand);
    hand->slots = near__bucket_visible(hand->bucket);
    hand->old = 0;
}

/* A threshold to begin with: as old as the oldest may be, since one that is too high comes down soon. */
static uint32_t first_threshold(const struct hunt *hunt)
{
    if (is_by_chance(hunt))
        return NEAR_THRESHOLD_MAX;
    uint16_t turnover = hunt->moment->turnover;
    return (uint32_t)(turnover > 1 ? turnover : NEAR_TICKS) << NEAR_THRESHOLD_SHIFT;
}

/* Places of another view may be gone, and thresholds of another rule say nothing. */
static void begin(const struct hunt *hunt)
{
    struct near__hands *hands = hunt->hands;
    int is_new = hands->rule != hunt->moment->rule || !hands->view;
    hands->course = near__course_of(hunt->tables);
    for (enum queue queue = SMALL; queue <= MAIN; queue++) {
        place(hunt, &hands->hand[queue]);
        if (is_new)
            hands->hand[queue].threshold = first_threshold(hunt);
    }
    hands->view = hunt->tables->serial;
    hands->rule = hunt->moment->rule;
}

/* ---------------------------------------------------------------- looking */

static int evict(const struct hunt *hunt, _Atomic(uint64_t) *slot, uint64_t word)
{
    const struct near__entry *entry = near__word_entry(word);
    enum near__why why = near__entry_is_expired(entry, hunt->moment) ? NEAR_WHY_EXPIRED : NEAR_WHY_EVICTED;
    return near__index_unlink(&hunt->local->index, slot, word, why);
}

enum look { STAYS, MAY_GO, HAS_GONE };

/* At an entry of which the clock or the rule must tell. */
NEAR_APART enum look look_closely(const struct hunt *hunt, _Atomic(uint64_t) *slot, uint64_t word)
{
    const struct near__entry *entry = near__word_entry(word);
    if (near__entry_is_dead(entry, hunt->moment))
        return evict(hunt, slot, word) ? HAS_GONE : STAYS;
    return near__entry_is_spared(entry, hunt->moment) ? STAYS : MAY_GO;
}

/* Alive and may go, as nearly all are.  plain: heads from here on. */
NEAR_INLINE int is_plainly_alive(const struct near__entry *entry, unsigned era, int64_t plain, int64_t now_ms)
{
    int64_t head = near__entry_head(entry);
    unsigned odd = ((unsigned)head ^ era) & (NEAR_ENTRY_EXPIRES | NEAR_ENTRY_ERA);
    if (odd && (odd != NEAR_ENTRY_EXPIRES || near__expiry_left(near__entry_expires(entry), now_ms) <= 0))
        return 0;
    return head >= plain;
}

/* What a search has come to, or would if it ended now. */
struct sight {
    unsigned looked;         /* entries that were alive and might go, of either queue, and one that was dead */
    int has_gone;            /* that one has */
    int oldest;              /* age of the oldest of the hand's queue; -1: there was none */
    _Atomic(uint64_t) *slot; /* its */
    uint64_t word;
};

enum by { USE, QUEUE, CHANCE }; /* what ages are by */

NEAR_INLINE unsigned age_of(const struct hunt *hunt, const struct near__entry *entry, uint32_t queued, uint16_t base,
                            const enum by by)
{
    if (by == CHANCE)
        return near__entry_rank(entry, hunt->moment);
    return (uint16_t)(base - (by == QUEUE ? near__queue_stamp(queued) : near__entry_stamp(entry)));
}

/* Looks until one is as old as bar, `limit` were looked at or `run` buckets.  by is a constant, and what is the same
 * for all entries stays in registers. */
NEAR_INLINE struct sight search_by(const struct hunt *hunt, struct near__hand *hand, int bar, unsigned limit,
                                   uint64_t run, const enum by by)
{
    const unsigned era = hunt->moment->era;
    const uint16_t base = hunt->base;
    const int64_t now_ms = hunt->moment->now_ms;
    const int always = hunt->moment->idle || hunt->moment->rule >= NEAR_RULE_VOLATILE_LRU;
    const int64_t plain = always ? INT64_MAX : (int64_t)(hunt->moment->forsaken << NEAR_HEAD_SHIFT);
    const unsigned main = hand == &hunt->hands->hand[MAIN] ? NEAR_QUEUE_MAIN : 0;
    struct sight sight = {.oldest = -1};
    for (;; advance(hunt, hand)) {
        struct near__bucket *bucket = hand->bucket;
        for (size_t slots = hand->slots; slots;) {
            _Atomic(uint64_t) *slot = &bucket->slot[near__lowest(slots)];
            slots &= slots - 1;
            uint64_t word = near__step_look(slot);
            if (near__unlikely(!(word & NEAR_WORD_VISIBLE)))
                continue;
            const struct near__entry *entry = near__word_entry(word);
            if (near__unlikely(!is_plainly_alive(entry, era, plain, now_ms))) {
                enum look look = look_closely(hunt, slot, word);
                if (look == STAYS)
                    continue;
                if (look == HAS_GONE) {
                    hand->slots = (unsigned)slots;
                    sight.has_gone = 1;
                    sight.looked++;
                    return sight;
                }
            }
            sight.looked++;
            uint32_t queued = by == QUEUE ? near__queue_of(entry) : 0;
            if (by == QUEUE && (queued & NEAR_QUEUE_MAIN) != main)
                continue;
            int age = (int)age_of(hunt, entry, queued, base, by);
            if (near__likely(age <= sight.oldest))
                continue;
            sight.oldest = age;
            sight.slot = slot;
            sight.word = word;
            if (age >= bar) {
                hand->slots = (unsigned)slots;
                return sight;
            }
        }
        if (sight.looked >= limit || !--run)
            break;
    }
    hand->slots = 0;
    return sight;
}

NEAR_APART struct sight search_queue(const struct hunt *hunt, struct near__hand *hand, int bar, unsigned limit,
                                     uint64_t run)
{
    return search_by(hunt, hand, bar, limit, run, QUEUE);
}

NEAR_APART struct sight search_by_chance(const struct hunt *hunt, struct near__hand *hand, int bar, unsigned limit,
                                         uint64_t run)
{
    return search_by(hunt, hand, bar, limit, run, CHANCE);
}

NEAR_INLINE struct sight search(const struct hunt *hunt, struct near__hand *hand, int bar, unsigned limit, uint64_t run)
{
    if (has_queues(hunt))
        return search_queue(hunt, hand, bar, limit, run);
    if (is_by_chance(hunt))
        return search_by_chance(hunt, hand, bar, limit, run);
    return search_by(hunt, hand, bar, limit, run, USE);
}

/* ---------------------------------------------------------------- evicting */

/* 1: the entry has earned another turn in the main queue, or somebody else is at it. */
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

/* So few entries that all can be looked at each time. */
static int is_small(const struct hunt *hunt)
{
    return hunt->tables->spans == 1 && hunt->tables->span[0].count <= NEAR_STRETCH &&
           atomic_load_explicit(&hunt->local->budget.entries, memory_order_relaxed) <= WHOLE; /* relaxed: a guess */
}

NEAR_APART struct sight look_at_all(const struct hunt *hunt, enum queue queue)
{
    const struct near__span *span = &hunt->tables->span[0];
    struct near__hand *hand = &hunt->hands->hand[queue];
    hand->bucket = span->bucket;
    hand->end = hand->bucket + span->count;
    hand->slots = near__bucket_visible(hand->bucket);
    hand->old = 0;
    return search(hunt, hand, INT_MAX, UINT_MAX, span->count);
}

/* ---------------------------------------------------------------- at a glance
 *
 * Three mispredictions an eviction become one: filling on miss in a tier that the second-level cache holds was 1.08
 * times as quick. */

/* The order is that of last use, and nothing else counts, unless a glance shows otherwise. */
static inline int only_age_counts(const struct near__local *local, const struct near__moment *moment)
{
    return moment->rule == NEAR_RULE_LRU && !moment->idle && !may_expire(local);
}

NEAR_APART unsigned glance(const struct hunt *hunt, const struct near__bucket *bucket, int bar)
{
    return near__glance(bucket, hunt->moment->era, hunt->moment->forsaken << NEAR_HEAD_SHIFT, hunt->base,
                        (uint16_t)(bar < UINT16_MAX ? bar : UINT16_MAX));
}

static inline int bar_of(const struct near__hand *hand)
{
    return (int)(hand->threshold >> NEAR_THRESHOLD_SHIFT) + 4 * (int)NEAR_TICKS;
}

/* The next one that was old enough goes, if it still is.  0: there is none. */
NEAR_INLINE int evict_old(struct near__local *local, struct near__hand *hand, uint16_t base)
{
    while (hand->old) {
        _Atomic(uint64_t) *slot = &hand->bucket->slot[near__lowest(hand->old)];
        hand->old &= hand->old - 1;
        uint64_t word = near__step_look(slot);
        int age = word & NEAR_WORD_VISIBLE ? (uint16_t)(base - near__entry_stamp(near__word_entry(word))) : -1;
        if (near__likely(age >= hand->bar) && near__index_unlink(&local->index, slot, word, NEAR_WHY_EVICTED))
            return 1;
    }
    return 0;
}

/* Goes on from bucket to bucket.  0: nobody was found among as many as should do, or one must be looked at closely,
 * which is in the hand's bucket then. */
static int evict_at_a_glance(const struct hunt *hunt, struct near__hand *hand)
{
    unsigned looked = 0;
    int bar = hand->bar = bar_of(hand);
    for (unsigned run = RUN; !evict_old(hunt->local, hand, hunt->base); run--) {
        if (looked >= LIMIT * ONE_IN || !run)
            return 0;
        if (!hand->slots)
            advance(hunt, hand);
        unsigned seen = glance(hunt, hand->bucket, bar);
        if (near__unlikely(seen & NEAR_GLANCE_ODD))
            return 0;
        hand->old = seen & hand->slots;
        unsigned counts = near__count_bits(hand->old << 8 | hand->slots);
        hand->slots = 0;
        looked += counts & 0xff;
        near__hand_steer(hand, counts & 0xff, counts >> 8, ONE_IN);
    }
    return 1;
}

static struct sight look_on(const struct hunt *hunt, enum queue queue)
{
    struct near__hand *hand = &hunt->hands->hand[queue];
    int bar = bar_of(hand);
    unsigned enough = one_in(hunt, queue);
    struct sight sight = search(hunt, hand, bar, LIMIT * enough, RUN);
    near__hand_steer(hand, sight.looked, sight.has_gone || sight.oldest >= bar, enough);
    return sight;
}

enum outcome { EVICTED, TURNED, NOBODY };

static enum outcome attempt(const struct hunt *hunt, enum queue queue, int may_turn)
{
    struct sight sight = is_small(hunt) ? look_at_all(hunt, queue) : look_on(hunt, queue);
    if (sight.has_gone)
        return EVICTED;
    if (!sight.slot)
        return NOBODY;
    if (has_queues(hunt) && may_turn && has_turn(hunt, near__word_entry(sight.word), queue))
        return TURNED;
    return evict(hunt, sight.slot, sight.word) ? EVICTED : NOBODY;
}

/* Whose turn it is, or the other one when that has shown nobody. */
static enum queue queue_for(const struct hunt *hunt, int other)
{
    if (!has_queues(hunt))
        return SMALL;
    return near__queue_small_is_due(hunt->local) != other ? SMALL : MAIN;
}

NEAR_APART int hunt_down(struct near__local *local, struct near__hands *hands, const struct near__moment *moment)
{
    struct hunt hunt = {local, near__index_tables(&local->index), hands, moment, base_of(moment)};
    if (hands->view != hunt.tables->serial || hands->rule != moment->rule)
        begin(&hunt);
    if (only_age_counts(local, moment) && !is_small(&hunt) && evict_at_a_glance(&hunt, &hands->hand[SMALL]))
        return 1;
    unsigned turns = TURNS, attempts = ATTEMPTS;
    int other = 0;
    while (attempts) {
        switch (attempt(&hunt, queue_for(&hunt, other), turns > 0)) {
        case EVICTED:
            return 1;
        case TURNED:
            turns--;
            other = 0;
            break;
        case NOBODY:
            attempts--;
            other = !other;
        }
    }
    return 0;
}

int near__evict_inside(struct near__local *local, struct near__hands *hands, const struct near__moment *moment)
{
    struct near__hand *hand = &hands->hand[SMALL];
    if (hand->old && only_age_counts(local, moment) && hands->rule == moment->rule &&
        hands->view == near__index_tables(&local->index)->serial && evict_old(local, hand, base_of(moment)))
        return 1;
    return hunt_down(local, hands, moment);
}

int near__evict_one(struct near__local *local, struct near__hands *hands, const struct near__moment *moment)
{
    near__rcu_enter();
    int done = near__evict_inside(local, hands, moment);
    near__rcu_leave();
    return done;
}
