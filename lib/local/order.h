/* SPDX-License-Identifier: BSD-3-Clause
 * The order of eviction: dead entries first (expired, idle for too long, cleared, forsaken), then what the rule in
 * force says.  Here is what a look at one entry tells; the queues of NEAR_RULE_S3FIFO as a whole are in queues.c, the
 * choice among many entries in evict.c.
 *
 * The age of an entry is the distance between its access stamp and the *tick*, both modulo 2^16.  The tick
 * advances once in 1/1024 of a turnover (as many fills as there are entries), so that 16 bits cover sixty-four
 * turnovers, far more than any entry survives unread while others are evicted.  Where they are not, because the same
 * keys are written again and again, the keeper pulls older stamps along (keeper.c, sweep_ages).  With an idle limit the
 * tick is 1/1024 of that limit, at least a millisecond.
 *
 * Where nobody fills, all that is read would look as if it had been read at the same time, and a limit that is lowered
 * then would cost hot entries as well as cold ones.  So what the keeper evicts on behalf of such a limit is turnover,
 * too (limits.c, count_victim), and in a tier that is only read the tick advances by time (keeper.c, pass_time). */
#ifndef NEAR_LOCAL_ORDER_H
#define NEAR_LOCAL_ORDER_H
#include <stdint.h>
#include "local/entry.h"
#include "local/step.h"

#define NEAR_TICKS 1024u          /* a turnover, or the idle limit */
#define NEAR_TICKS_TO_SWEEP 8192u /* stamps are looked after that often */
#define NEAR_RANK_DEAD (1u << 16)

/* What decides between live entries.  A policy is one of them for good, or (NEAR_POLICY_ADAPTIVE) one of two at a
 * time. */
enum near__rule {
    NEAR_RULE_LRU,
    NEAR_RULE_S3FIFO,
    NEAR_RULE_RANDOM,
    NEAR_RULE_VOLATILE_LRU,
    NEAR_RULE_VOLATILE_RANDOM
};

/* One look at the clocks, enough to rank entries by. */
struct near__moment {
    int64_t now_ms, known_ms; /* since the tier's opening; see near__expiry_left_since */
    uint64_t forsaken;
    uint16_t tick;
    uint16_t era;                  /* its bits of a head */
    const _Atomic(uint32_t) *eras; /* where the tier's is now, which may have been cleared since; NULL: it has not */
    uint16_t idle;                 /* the idle limit in ticks; 0: none */
    uint16_t turnover;             /* in ticks; 1: unknown, ticks are time */
    uint8_t rule;                  /* a near__rule */
};

/* Ticks since a stamp was taken. */
static inline unsigned near__stamp_age(uint16_t stamp, uint16_t tick)
{
    uint16_t age = (uint16_t)(tick - stamp);
    return age > UINT16_MAX - 4 * NEAR_TICKS ? 0 : age; /* stamped after our tick was taken: young, not ancient */
}
static inline uint16_t near__entry_stamp(const struct near__entry *e)
{
    return atomic_load_explicit(&e->access, memory_order_relaxed); /* relaxed: (a) */
}
static inline unsigned near__entry_age(const struct near__entry *e, uint16_t tick)
{
    return near__stamp_age(near__entry_stamp(e), tick);
}
/* Of another era than that, or with an expiry. */
static inline int near__entry_is_odd(const struct near__entry *e, unsigned era)
{
    return (((unsigned)near__entry_head(e) ^ era) & (NEAR_ENTRY_EXPIRES | NEAR_ENTRY_ERA)) != 0;
}
/* A store only when it changes something keeps the line of a hot entry shared between cores. */
static inline void near__entry_touch(struct near__entry *e, uint16_t tick)
{
    if (near__entry_stamp(e) != tick)
        atomic_store_explicit(&e->access, tick, memory_order_relaxed); /* relaxed: (a) */
}

/* ---------------------------------------------------------------- queues
 *
 * NEAR_RULE_S3FIFO keeps two queues, and what it needs to know about an entry is in front of it (entry.h), in all
 * entries of a tier that may come to have them:
 *
 *      31 … 16             3 … 2    1       0
 *      +-------------------+--------+-------+------+
 *      | stamp: the tick   | worth  | main  | 1    |
 *      | it was queued at  |        |       |      |
 *      +-------------------+--------+-------+------+
 *
 * It changes by compare-and-swap alone.  Whoever retires the entry takes the word out first (near__queue_leave) and
 * leaves 0, from which nobody swaps, so a swap that comes late fails and counts no bytes that have been taken back.
 * Readers neither read nor write it: that an entry was used while it waited is told by its access stamp. */
#define NEAR_QUEUED 1u
#define NEAR_QUEUE_MAIN 2u
#define NEAR_WORTH_SHIFT 2
#define NEAR_WORTH_MAX 2u
#define NEAR_STAMP_SHIFT 16

static inline uint32_t near__queue_word(uint16_t tick, unsigned is_main, unsigned worth)
{
    return (uint32_t)tick << NEAR_STAMP_SHIFT | worth << NEAR_WORTH_SHIFT | (is_main ? NEAR_QUEUE_MAIN : 0) |
           NEAR_QUEUED;
}
static inline uint16_t near__queue_stamp(uint32_t word)
{
    return (uint16_t)(word >> NEAR_STAMP_SHIFT);
}
static inline uint32_t near__queue_restamped(uint32_t word, uint16_t tick)
{
    return (word & ((UINT32_C(1) << NEAR_STAMP_SHIFT) - 1)) | (uint32_t)tick << NEAR_STAMP_SHIFT;
}
static inline unsigned near__queue_worth(uint32_t word)
{
    return word >> NEAR_WORTH_SHIFT & 3;
}
static inline uint32_t near__queue_of(const struct near__entry *e)
{
    NEAR_STEP();
    return atomic_load_explicit(near__entry_place(e), memory_order_relaxed); /* relaxed: the swap decides */
}
static inline int near__queue_change(struct near__entry *e, uint32_t from, uint32_t to)
{
    NEAR_STEP();
    /* What was read may have been 0 already: then the entry has left the queues and does not come back.
     * relaxed, both: nothing else is published by it */
    return from & NEAR_QUEUED && atomic_compare_exchange_strong_explicit(near__entry_place(e), &from, to,
                                                                         memory_order_relaxed, memory_order_relaxed);
}

/* Used since it was queued.  In the small queue the first half of its stay does not count: what is read twice in a
 * hurry and never again is what that queue is there to sort out.  (The small queue is an eighth of a turnover.) */
static inline int near__queue_is_used(const struct near__entry *e, uint32_t word, uint16_t turnover)
{
    uint16_t since = (uint16_t)(near__entry_stamp(e) - near__queue_stamp(word));
    uint16_t hurry = turnover / 16;
    return since < UINT16_MAX / 2 && since > (word & NEAR_QUEUE_MAIN ? 0 : hurry);
}
static inline unsigned near__queue_rank(const struct near__entry *e, uint16_t tick, uint16_t turnover)
{
    uint32_t word = near__queue_of(e);
    unsigned age = near__entry_age(e, tick) / 2; /* below the dead whatever is added */
    return word & NEAR_QUEUE_MAIN || near__queue_is_used(e, word, turnover) ? age : age + NEAR_TICKS;
}

/* ---------------------------------------------------------------- ranks */

static inline int near__entry_is_expired(const struct near__entry *e, const struct near__moment *m)
{
    return (near__entry_has_expiry(e) &&
            near__expiry_left_since(near__entry_expires(e), m->now_ms, m->known_ms) <= 0) ||
           (m->idle && near__entry_age(e, m->tick) >= m->idle);
}
/* Of an earlier era than the tier has now.  One that is not of the moment's may have come after it.  (Whoever published
 * it had read its era, and we have seen what he published: what we read now is that era or a later one.) */
static inline int near__entry_is_cleared(const struct near__entry *e, const struct near__moment *m)
{
    unsigned flags = near__entry_flags(e);
    if (near__likely(!((flags ^ m->era) & NEAR_ENTRY_ERA)))
        return 0;
    /* relaxed: as said, the entry's word was seen before */
    return !m->eras || (flags ^ atomic_load_explicit(m->eras, memory_order_relaxed)) & NEAR_ENTRY_ERA;
}
/* What is retired may be: whoever evicts it fails. */
static inline int near__entry_is_dead(const struct near__entry *e, const struct near__moment *m)
{
    return near__entry_is_cleared(e, m) || near__entry_is_below(e, m->forsaken) || near__entry_is_expired(e, m);
}
/* Under the volatile rules what has no time to live makes room for nobody. */
static inline int near__entry_is_spared(const struct near__entry *e, const struct near__moment *m)
{
    return m->rule >= NEAR_RULE_VOLATILE_LRU && !near__entry_has_expiry(e);
}
/* The higher, the sooner it goes.  A bucket that overflows is judged by this alone. */
static inline unsigned near__entry_rank(const struct near__entry *e, const struct near__moment *m)
{
    if (near__entry_is_dead(e, m))
        return NEAR_RANK_DEAD;
    /* of addresses; another order at every tick */
    if (m->rule == NEAR_RULE_RANDOM || m->rule == NEAR_RULE_VOLATILE_RANDOM)
        return ((uint32_t)((uintptr_t)e >> 4) + m->tick) * UINT32_C(0x9e3779b1) >> 16;
    return m->rule == NEAR_RULE_S3FIFO ? near__queue_rank(e, m->tick, m->turnover) : near__entry_age(e, m->tick);
}

#endif
