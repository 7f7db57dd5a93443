/* SPDX-License-Identifier: BSD-3-Clause
 * What a local tier consists of, for the files of this room. */
#ifndef NEAR_LOCAL_TIER_H
#define NEAR_LOCAL_TIER_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/pressure.h"
#include "local/autosize.h"
#include "local/index.h"
#include "local/local.h"
#include "local/reader.h"
#include "local/ticks.h"

struct near__table;   /* tables.h */
struct near__block;   /* pins.c */
struct near__ghosts;  /* queues.c */
struct near__shadow;  /* shadow.c */
struct near__curve;   /* curve.c */
struct near__hotkeys; /* hotkeys.c */
struct near__local_config;

/* Everything the tier has allocated, in bytes as the allocator really takes them.
 *
 *      0 ............................. max ......... ceiling
 *      |  tables, readers, stripes  |  entries  | retired |      entries as slabs are divided among them: blocks.c
 *      '---------------- kept at or below max --'         |
 *      '---------------------- never above the ceiling ---'
 *
 * `retired` waits for a grace period only.  What is retired but pinned by the application counts as if it were
 * live, so that other entries make room for it.  Threads hold a little of used, retired and entries in advance: see
 * budget.c.
 *
 * A limit that is raised counts at once.  One that is lowered is `wanted`; the limit in force comes down to what there
 * is, and follows as the keeper evicts (limits.c), so that fills find room all the time.
 *
 * Who may touch what, here and in what follows:
 *   (i) never changes once the tier is open   (a) any thread, atomically   (k) written by the keeper alone
 *   (t) under tap_busy                        (e) written by whoever opens and closes */
struct near__budget {
    _Alignas(64) _Atomic(int64_t) used; /* (a) everything */
    _Atomic(int64_t) retired;           /* (a) of it */
    _Atomic(int64_t) kept;              /* (k) retired, its grace period over, but pinned */
    _Atomic(int64_t) entries;           /* (a) visible ones and reservations */
    _Atomic(int64_t) fixed;             /* (a) of used: neither entries nor tables */
    /* (a) with an arena: what is in memory, tables, slabs as a whole and all; kept below the ceiling */
    _Atomic(int64_t) memory;
    _Alignas(64) _Atomic(int64_t) max;           /* (a) */
    _Atomic(int64_t) entries_max;                /* (a) INT64_MAX: only bytes count */
    _Atomic(int64_t) max_wanted, entries_wanted; /* (a) */
    _Atomic(int64_t) entries_asked;              /* (a) entries_wanted is above it while shares hold too much */
    _Atomic(uint64_t) phase; /* (k) of reclamation (reclaim.c); here, where each fill looks anyway */
};

struct near__keeper {
    pthread_t thread;          /* (e) */
    int runs;                  /* (e) */
    _Atomic(uint32_t) wake;    /* (a) futex word: 1 when there is something to do */
    _Atomic(uint32_t) stop;    /* (e) */
    _Atomic(uint32_t) freed;   /* (k) futex word: rounds in which something was freed */
    _Atomic(uint32_t) awaited; /* (a) who waits for the next */
    /* the rest (k), and read by it alone but for `moved` */
    struct near__entry *kept;  /* retired, but pinned when last looked at */
    int64_t kept_due_ns;       /* when it is looked at again */
    uint32_t pressing;         /* rounds in a row that found room to be short */
    struct near__table *table; /* what the index uses */
    struct near__table *next;  /* what it is moving to, or NULL */
    uint64_t swept;            /* next bucket to sweep */
    uint64_t forsaken_swept;   /* nothing below it is left */
    uint32_t ages_swept;       /* the tick when stamps were last asked for, */
    uint64_t ages_evicted;     /* how many had been evicted by then, */
    uint64_t ages_left;        /* and buckets that are still to be looked at */
    uint64_t views;            /* made so far */
    uint64_t calm_entries;     /* so many there were when they last had become an eighth more; */
    int64_t calm_due_ns;       /* calm if that does not happen again until then: see table_size.c */
    int calm;
    int64_t large_seen; /* bytes of large entries: the most since memory was last given back */
    /* entries are moved at this time or later, by the kernel's clock, if nobody waits for that */
    int64_t compact_due_ns;
    _Atomic(uint64_t) moved;  /* entries, to other slabs; anybody may look */
    struct near__stock stock; /* for moving entries, and of those that it frees */
    int64_t size_due_ns;      /* when the automatic size is looked at again */
    int64_t counter_due_ns;   /* when the kernel is asked again whether it relies on the processor's counter */
    struct near__pressure pressure;
    int64_t max_seen;         /* budget.max_wanted at the last round */
    int lowered;              /* it has fallen, and what was given up has not been given back to the system yet, */
    int64_t give_back_due_ns; /* which is done at this time or later, by the kernel's clock */
    struct near__hands hands;
    uint64_t victims;       /* since it last advanced the tick for them */
    int64_t quiet_since_ns; /* when it last looked whether there are */
    uint64_t quiet_fills;   /* more fills than these, */
    uint64_t quiet_reads;   /* and more reads */
};

/* How far requests have been learnt from: tap.c.  (t), all. */
struct near__tapped {
    uint64_t reads, shown; /* of all threads, as far as rings have been drained; those of which rings tell */
    uint64_t lost, noted;  /* requests that rings had lost when that was last seen to, and that they have told since */
    uint64_t fullest;      /* words in the fullest ring, the last time that all were drained */
    int fast_looks;        /* so many more come soon after the one before */
    int burst_looks;       /* after the burst */
    struct near__reader *burst_of;  /* every request of its thread is noted; NULL: no burst */
    uint64_t burst_from, burst_due; /* reads when it began, and when the next one may */
    uint64_t burst_random;
};

struct near__local {
    /* read by every hit, written rarely */
    _Alignas(64) struct near__index index; /* its tables (k) */
    const struct near__clock *clock;       /* (i) */
    int64_t opened_ns;                     /* (i) */
    int64_t idle_unit_ns;                  /* (i) what a tick means when there is an idle limit; otherwise 0 */
    _Atomic(int64_t) ages_known_ns;        /* then, under ages_lock: when the keeper last came by (near__ages_settle) */
    pthread_mutex_t ages_lock;
    _Atomic(int64_t) expiries_known_ms;  /* (k) when it last came by: see near__expiry_left_since */
    uint16_t idle_ticks;                 /* (i) */
    uint16_t taps;                       /* (i) readers have rings: see tap.c */
    uint64_t serial;                     /* (i) never used twice in the process */
    _Alignas(64) _Atomic(uint32_t) tick; /* (a) see order.h */
    _Atomic(uint32_t) era;               /* (a) see near__tier_ordinary */
    _Atomic(uint64_t) forsaken;  /* (a) entries below are dead; never above the gate's watermark: see suspects.c */
    _Atomic(uint64_t) tap_below; /* (t) reads of keys with a lower hash are noted; 0: none.  Any thread looks */
    struct near__gate gate;      /* see local.h */

    struct near__budget budget;

    uint32_t policy;                              /* (i) a near_policy */
    int queues;                                   /* (i) the policy has them: everything below is in use */
    _Atomic(uint32_t) rule;                       /* (t) in force now: a near__rule.  Any thread looks */
    _Alignas(64) _Atomic(int64_t) queue_bytes[2]; /* (a) of live entries; [1]: of the main queue */
    _Atomic(struct near__ghosts *) ghosts;        /* (k) */
    _Atomic(uint64_t) ghost_bytes;                /* (k) of budget.fixed */

    /* (a) retired entries, linked; pushed by anybody, taken whole by the keeper */
    _Alignas(64) _Atomic(struct near__entry *) limbo;
    _Atomic(uint64_t) ended[NEAR_WHY_MAX]; /* (a) relaxed: statistics */
    _Atomic(uint64_t) claims[2];           /* (a) stretches that hands have claimed, by queue: hand.h */
    _Atomic(uint64_t) absent, older;       /* (a) invalidations that found nothing, or something newer */
    _Atomic(uint32_t) perishable;          /* (a) something may expire: the keeper sweeps */
    _Atomic(uint32_t) era_swept;           /* (k) no entry of an earlier era than this is left */

    /* the pointers (i), what they point to (t) */
    struct near__shadow *shadow;   /* NULL: the rule never changes */
    struct near__curve *curve;     /* NULL: not wanted */
    struct near__hotkeys *hotkeys; /* NULL: not wanted */
    struct near__tapped tapped;    /* (t) */
    _Atomic(uint32_t) tap_busy;    /* (a) */

    const struct near__alloc *alloc;        /* (i) */
    struct near__arena *arena;              /* (i) of small entries; NULL: all are the allocator's */
    _Atomic(int64_t) large_bytes;           /* (a) of entries that are the allocator's, if there is an arena */
    const struct near__log *log;            /* (i) */
    uint64_t value_max;                     /* (i) 0: an eighth of the budget */
    int foreign;                            /* (i) positions do not tell everything: "Foreign writers" in install.c */
    int64_t ttl_max_ms;                     /* (i) 0: none */
    _Atomic(uint32_t) readers_count;        /* (a) changed under reader.c's mutex */
    int manual;                             /* (i) there is no keeper's thread */
    _Atomic(struct near__reader *) readers; /* (a) pushed under reader.c's mutex, walked by anybody */
    _Atomic(struct near__block *) blocks;   /* (a) owned values */
    _Atomic(int64_t) copies;                /* (a) values copied because all pins were in use, outstanding */
    _Atomic(uint64_t) index_bytes;          /* (k) */
    _Atomic(uint64_t) index_entries_max;    /* (k) more entries than this: the keeper should enlarge the index */
    _Atomic(uint32_t) moved_permille;       /* (k) */
    struct near__rate rate;                 /* of whoever may write the gate's proof; when it holds for ever, (k) */
    int by_counter;                         /* (i) hits may go by the processor's counter */
    _Atomic(int) counter_is_left;           /* (k) the kernel does not rely on it any more */
    int gives_back;                         /* (i) memory pressure counts */
    struct near__autosize autosize;         /* see autosize.h */
    struct near__keeper keeper;
    void *memory; /* (i) */
};

/* ---------------------------------------------------------------- the watermark
 *
 * The gate has it above NEAR_HEAD_SHIFT bits that are 0, so that a hit compares a whole head with it. */
static inline void near__tier_raise_watermark(struct near__local *local, uint64_t position)
{
    near__step_raise(&local->gate.watermark, (position < NEAR_POSITION_MAX ? position : NEAR_POSITION_MAX)
                                                 << NEAR_HEAD_SHIFT);
}
static inline uint64_t near__tier_watermark(struct near__local *local)
{
    return near__step_load(&local->gate.watermark) >> NEAR_HEAD_SHIFT;
}

/* ---------------------------------------------------------------- the largest value */

static inline int64_t near__tier_value_limit(const struct near__local *local)
{
    int64_t max = atomic_load_explicit(&local->budget.max_wanted, memory_order_relaxed); /* relaxed: a limit */
    int64_t limit = local->value_max ? (int64_t)local->value_max : max / 8;
    return limit < NEAR_ENTRY_VALUE_MAX ? limit : NEAR_ENTRY_VALUE_MAX;
}

/* ---------------------------------------------------------------- time */

static inline int64_t near__tier_ms(const struct near__local *local, int64_t ns)
{
    return (ns - local->opened_ns) / NEAR_NS_PER_MS;
}
static inline uint16_t near__tier_tick(const struct near__local *local, int64_t now_ns)
{
    if (local->idle_unit_ns)
        return (uint16_t)((now_ns - local->opened_ns) / local->idle_unit_ns);
    return (uint16_t)atomic_load_explicit(&local->tick, memory_order_relaxed); /* relaxed: an approximate age */
}
/* acquire: pairs with the keeper's store; whoever sees that it came by finds nothing of what it has swept */
static inline int64_t near__tier_known_ms(const struct near__local *local)
{
    return atomic_load_explicit(&local->expiries_known_ms, memory_order_acquire);
}
/* Is the time of an entry with an expiry over?  See near__expiry_left_since. */
static inline int near__tier_is_over(const struct near__local *local, const struct near__entry *entry, int64_t now_ns,
                                     int64_t known_ms)
{
    return near__expiry_left_since(near__entry_expires(entry), near__tier_ms(local, now_ns), known_ms) <= 0;
}
/* Where a proof holds for ever: renews time_ticks and time_ms of the gate. */
void near__tier_tell_time(struct near__local *local);
/* With an idle limit: no stamp can have become so old since the keeper came by that it seems young.  The era of an
 * entry is to be looked at after this. */
static inline int near__tier_ages_are_known(const struct near__local *local, int64_t now_ns)
{
    /* acquire: pairs with near__ages_settle; whoever sees the time sees the era that came with it */
    return now_ns - atomic_load_explicit(&local->ages_known_ns, memory_order_acquire) <
           local->idle_unit_ns * (UINT16_MAX / 2);
}
static inline int near__tier_is_settled(const struct near__local *local)
{
    return !local->idle_unit_ns || near__tier_ages_are_known(local, near__now(local->clock));
}
static inline struct near__moment near__tier_moment(struct near__local *local)
{
    /* Only ranks: an entry that expired a tick ago may pass as live, and so may one that is the first with an expiry
     * just now (relaxed). */
    int perishable = atomic_load_explicit(&local->perishable, memory_order_relaxed) != 0;
    int64_t now_ns = perishable ? near__now_coarse(local->clock) : local->opened_ns;
    int64_t entries = atomic_load_explicit(&local->budget.entries, memory_order_relaxed); /* relaxed: approximate */
    return (struct near__moment){
        .now_ms = near__tier_ms(local, now_ns),
        .known_ms = near__tier_known_ms(local),
        .forsaken = atomic_load_explicit(&local->forsaken, memory_order_relaxed), /* relaxed: only ranks */
        .tick = near__tier_tick(local, now_ns),
        /* relaxed: as above */
        .era = (uint16_t)atomic_load_explicit(&local->era, memory_order_relaxed) & NEAR_ENTRY_ERA,
        .eras = &local->era,
        .rule = (uint8_t)atomic_load_explicit(&local->rule, memory_order_relaxed), /* relaxed: either is good */
        .idle = local->idle_ticks,
        .turnover = (uint16_t)(local->idle_unit_ns             ? 1
                               : entries < (int64_t)NEAR_TICKS ? entries
                                                               : NEAR_TICKS),
    };
}

/* ---------------------------------------------------------------- eras
 *
 * local->era counts clearings in steps of NEAR_ENTRY_ERA_STEP, above the flag that all entries have if the tier has
 * queues.  So its lower half is what the flags of an entry of the present era are if there is nothing particular about
 * it, and a hit compares them, and the size of the key, in one. */
static inline uint32_t near__tier_first_era(const struct near__local *local)
{
    return local->queues ? NEAR_ENTRY_PREFIX : 0;
}
static inline unsigned near__tier_ordinary(const struct near__local *local)
{
    /* acquire: pairs with near__local_clear; whoever reads after it returned sees the new era */
    return (uint16_t)atomic_load_explicit(&local->era, memory_order_acquire);
}

/* A count or a limit.  relaxed: it publishes nothing, and is looked at anew each time. */
static inline int64_t near__gauge(const _Atomic(int64_t) *count)
{
    return atomic_load_explicit(count, memory_order_relaxed);
}

/* The first of the list of readers. */
static inline struct near__reader *near__readers_first(const struct near__local *local)
{
    /* acquire: pairs with the push of a reader (reader.c); publishes the record */
    return atomic_load_explicit(&local->readers, memory_order_acquire);
}

/* Entries that ended for that reason, so far (statistics.c). */
uint64_t near__tier_ended(const struct near__local *local, enum near__why why);
/* Reads that looked here, so far (statistics.c). */
uint64_t near__tier_reads(struct near__local *local);
uint64_t near__tier_fills(struct near__local *local); /* likewise, that were kept */
/* The same, of one thread. */
uint64_t near__tier_reads_of(const struct near__reader *reader);

static inline struct near__local *near__local_of(struct near__index *index)
{
    return (struct near__local *)((char *)index - offsetof(struct near__local, index));
}

/* ---------------------------------------------------------------- budget (budget.c) */

/* What may be allocated above a budget of max bytes (promise F), and the most that is: a little inside. */
int64_t near__budget_slack(int64_t max);
int64_t near__budget_ceiling(int64_t max);
/* Counts what is allocated in any case and is neither an entry nor a table. */
void near__budget_charge(struct near__local *local, int64_t bytes);
/* Counts bytes that are in memory; so many or as many of them as fit below the ceiling, 0 if that is less than
 * `least`. */
void near__budget_hold(struct near__local *local, int64_t bytes);
int64_t near__budget_hold_some(struct near__local *local, int64_t bytes, int64_t least);
/* Bytes of entries that are not retired. */
int64_t near__budget_live(const struct near__local *local);
/* Counts so many bytes as used and as memory, or as many of them as fit below the ceiling.  How many. */
int64_t near__budget_charge_some(struct near__local *local, int64_t bytes);
/* Counts what is neither an entry nor a table, if it fits below the ceiling.  1: it does. */
int near__budget_charge_fixed(struct near__local *local, int64_t bytes);
/* Makes room for an entry of that size and reserves it; 0: there is none (nothing is reserved).  Inside a read section
 * that began before the moment. */
int near__budget_reserve_entry(struct near__local *local, struct near__reader *reader, int64_t bytes,
                               const struct near__moment *moment);
void near__budget_release_entry(struct near__local *local, struct near__reader *reader, int64_t bytes);
/* The entry takes so many bytes more than was reserved (or fewer). */
void near__budget_correct(struct near__local *local, struct near__reader *reader, int64_t bytes);
/* An entry was retired; reader: the calling thread's, or NULL. */
void near__budget_retire(struct near__local *local, struct near__reader *reader, int64_t bytes);
/* Something retired is free again: by its owner, the calling thread. */
void near__budget_free(struct near__local *local, struct near__reader *reader, int64_t bytes);
/* Bytes and entries that are not retired, above the limits (0 or less: within). */
int64_t near__budget_excess(const struct near__local *local);
/* What all threads hold in advance; what is really retired. */
int64_t near__budget_idle(const struct near__local *local, enum near__idle what);
int64_t near__budget_retired(const struct near__local *local);
/* Brings entries_wanted to what was asked for and what threads hold beyond their due. */
void near__budget_lend(struct near__local *local);
/* There will be more room when the keeper has come by: something is retired, a block is awaited, or more is in memory
 * than the budget. */
int near__budget_awaits_keeper(const struct near__local *local);
/* Gives back what the calling thread holds, or one that has gone. */
void near__share_settle(struct near__local *local, struct near__share *share);

/* Bytes of free blocks that a thread's stock may have. */
int64_t near__budget_keep(const struct near__local *local);
/* Counts a second copy of an entry, the first being about to be retired; 0: the ceiling leaves no room.  uncopy: it was
 * not. */
int near__budget_copy(struct near__local *local, int64_t bytes);
void near__budget_uncopy(struct near__local *local, int64_t bytes);

/* ---------------------------------------------------------------- memory of entries (blocks.c) */

int near__blocks_open(struct near__local *local); /* NEAR_OK or NEAR_ERR_NOMEM */
void near__blocks_close(struct near__local *local);
/* What an entry of that size will cost, as a rule exactly; what this one does cost. */
int64_t near__block_estimate(const struct near__local *local, size_t size);
int64_t near__block_cost(const struct near__local *local, const struct near__entry *entry);
/* Everything that is in memory, as the arena counts; 0: there is none. */
int64_t near__blocks_total(const struct near__local *local);
/* How much of the ceiling is taken: the larger of near__blocks_total and budget.used. */
int64_t near__budget_taken(const struct near__local *local);
/* Makes slabs empty and gives them back until so many bytes fit below the ceiling.  1: some went.  The keeper's, in one
 * table. */
int near__blocks_shrink(struct near__local *local, int64_t bytes);
/* NULL: no memory.  reader: the calling thread's; of free, or NULL: the keeper calls, and will settle. */
void *near__block_take(struct near__local *local, struct near__reader *reader, size_t size, int64_t *ret_cost);
/* What it did cost. */
int64_t near__block_free(struct near__local *local, struct near__reader *reader, struct near__entry *entry);
/* What the keeper has freed is for all threads. */
void near__blocks_settle(struct near__local *local);
/* At close, when the arena goes as a whole: 0 when that is all.  To look for the others is to read every entry, which
 * takes 1.4 s for ten million of them; without it 30 ms. */
int near__blocks_need_dropping(const struct near__local *local);
/* NULL is fine. */
void near__block_drop(struct near__local *local, struct near__entry *entry);
/* Makes empty slabs where they are wanted, and gives back what is too much. */
void near__blocks_tend(struct near__local *local, int quiet);
/* Somebody was refused a block, and the keeper has not seen to it yet. */
int near__blocks_are_awaited(const struct near__local *local);

/* ---------------------------------------------------------------- eviction (evict.c) */

/* Evicts one entry.  0: found none.  inside: the caller is in a read section. */
int near__evict_one(struct near__local *local, struct near__hands *hands, const struct near__moment *moment);
int near__evict_inside(struct near__local *local, struct near__hands *hands, const struct near__moment *moment);

/* ---------------------------------------------------------------- queues (queues.c) */
/* all but the first three only if local->queues */

int near__queues_open(struct near__local *local); /* NEAR_OK or NEAR_ERR_NOMEM */
void near__queues_close(struct near__local *local);
/* Brings the ghosts' memory to the size that the entries ask for; may take a grace period. */
void near__queues_adapt(struct near__local *local);
/* The small queue has its share, so the victim should come from there. */
int near__queue_small_is_due(const struct near__local *local);
/* More has not been sorted by the queues than has: a tier that has evicted little so far. */
int near__queue_most_are_new(const struct near__local *local);
/* An entry that is going to be published, its bytes as the allocator counts; cancel: it was not. */
void near__queue_enter(struct near__local *local, struct near__entry *entry, uint64_t hash, int64_t bytes,
                       uint16_t tick);
void near__queue_cancel(struct near__local *local, const struct near__entry *entry, int64_t bytes);
/* An entry that was swapped out of its slot; before it is linked.  Inside a read section. */
void near__queue_leave(struct near__local *local, struct near__entry *entry, int64_t bytes, enum near__why why);
/* Takes the word out of an entry that is to be moved; 0: the entry has been retired. */
int near__queue_detach(struct near__entry *entry, uint32_t *ret_word);
/* From the small queue to the main one. */
void near__queue_promote(struct near__local *local, struct near__entry *entry, uint32_t word, uint16_t tick);
/* One more turn in the main queue, of an entry that was used in the last one or has worth left. */
void near__queue_turn(struct near__entry *entry, uint32_t word, uint16_t tick, int used);

/* ---------------------------------------------------------------- learning from requests (tap.c) */

int near__tap_open(struct near__local *local, const struct near__local_config *config); /* NEAR_OK or NEAR_ERR_NOMEM */
void near__tap_close(struct near__local *local);
/* A reader's ring: zeroed memory of that size, whole lines. */
size_t near__tap_size(void);
/* Learns from what a reader, or all of them, have noted, if nobody else is at it.  Never waits.  Returns after how many
 * ms rings should be looked at again; 0: there is no hurry. */
void near__tap_learn(struct near__local *local, struct near__reader *reader);
int near__tap_learn_all(struct near__local *local);
/* What the curve tells the automatic size, between two sizes; 0: somebody else is learning just now, so it cannot be
 * asked. */
int near__tap_advise_size(struct near__local *local, uint64_t min, uint64_t max, struct near__advice *ret);

/* ---------------------------------------------------------------- walks (walk.c) */

/* Calls visit for every visible entry in so many buckets from the hash `at` on, in one read section.  Where the next
 * step begins; 0 after the last. */
typedef void (*near__tier_visit_fn)(void *arg, const struct near__entry *entry);
uint64_t near__tier_walk(struct near__local *local, uint64_t at, uint32_t buckets, near__tier_visit_fn visit,
                         void *arg);

/* ---------------------------------------------------------------- tables (migrate.c, table_size.c, limits.c) */

int near__tables_open(struct near__local *local);   /* NEAR_OK or NEAR_ERR_NOMEM */
void near__tables_close(struct near__local *local); /* frees entries too */
/* Brings limits that were lowered to what there is, at once; by any thread. */
void near__limits_lower(struct near__local *local);
/* Brings the limits to what is wanted and the index to the size that its entries ask for; may take many grace
 * periods. */
void near__tables_adapt(struct near__local *local);
/* Most entries have gone at once, and others are likely to come in their place. */
void near__tables_cleared(struct near__local *local);
/* By both limits, once so many bytes less of what is fixed are taken; 0 also when there are no entries. */
int64_t near__tables_entries_that_fit(const struct near__local *local, int64_t spared);

/* ---------------------------------------------------------------- reclamation, keeper */

/* Frees what was retired, after a grace period, or, without `all`, hands it back to who retired it.  1: there was
 * something. */
int near__reclaim(struct near__local *local, int all);
/* Hands it back, as a rule; frees it where room is short and stays so for several calls in a row. */
void near__reclaim_some(struct near__local *local);
/* Retires what has been counted as retired: the old copy of an entry that was moved. */
void near__reclaim_push(struct near__local *local, struct near__entry *entry);
/* Something is retired, or was handed back and not used. */
int near__reclaim_is_due(const struct near__local *local);
/* Frees up to `most` entries that the keeper has handed back to the calling thread.  How many those were.  Inside a
 * read section. */
int near__recycle(struct near__local *local, struct near__reader *reader, int most);
/* One, now and then, if there are more than are needed; with each fill. */
void near__recycle_more(struct near__local *local, struct near__reader *reader);
void near__reclaim_close(struct near__local *local);
int near__keeper_start(struct near__local *local);
void near__keeper_stop(struct near__local *local);
/* relaxed: seen soon enough */
static inline int near__keeper_is_stopped(const struct near__local *local)
{
    return atomic_load_explicit(&local->keeper.stop, memory_order_relaxed) != 0;
}
void near__keeper_wake(struct near__local *local);

/* With an idle limit: everything goes if ages are not known; from now on they are, if so or if came_by (local.c). */
void near__ages_settle(struct near__local *local, int64_t now_ns, int came_by);
void near__keeper_tell_freed(struct near__local *local);
/* The keeper's processor time so far. */
int64_t near__keeper_used_ns(void);
/* In the middle of the keeper's long work.  When it has used WORK_NS of processor time since *used_ns, it sleeps as
 * long as it has worked; a wake-up ends the sleep, and what was retired is reclaimed.  Then *used_ns is reset. */
void near__keeper_pace(struct near__local *local, int64_t *used_ns);
/* Unlinks what is dead in the next buckets; whole: in every bucket. */
void near__sweep(struct near__local *local, int whole);

/* Calls look for every pinned entry. */
void near__pins_each(struct near__local *local, void (*look)(void *arg, struct near__entry *entry), void *arg);
void near__pins_close(struct near__local *local);

#endif
