/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Queues and ghosts of NEAR_RULE_S3FIFO.
 *
 *                     seen before                                    not used, worth 0
 *      fill ----+--------------------------> main ---------------------------------------> gone
 *               |                             ^ '--- used: worth + 1; else worth - 1 ---.
 *               |                             |   ^-------------------------------------'
 *               '--> small (1/8) -- used -----'
 *                          '------ not used ---------> gone, and a ghost for as long as 9/10 of a turnover
 *
 * The algorithm is S3-FIFO's (SOSP 2023): most keys are read once, and a small queue shows which.  Three things differ.
 *
 *   - There are no queues.  Every entry carries the tick at which it was queued, and "the oldest" is who a hand
 *     meets that is old enough (evict.c), as for least recently used.  So a hit stays what it is: a stamp, stored when
 *     it changed.
 *   - A hit counts nothing, either.  Whether an entry was used since it was queued follows from its two stamps.  In the
 *     main queue the one who looks for a victim counts instead: a turn in which the entry was used is worth one more
 *     turn, up to two.  In the small queue uses in the first half of the stay do not count (2Q's correlated
 *     references).  On the traces and synthetic loads of docs/policies.md that did better than counting hits.
 *   - Shares are of bytes, so that few large values do not make the small queue large.
 *
 * Ghosts are fingerprints in a fixed array of lines, in each of which the oldest makes room.
 *
 *      31 … 16       15 … 0
 *      fingerprint   age stamp: ghosts so far / unit          0: empty
 *
 * Everything is a single atomic word: a lost race forgets a ghost or keeps one too many, and a wrong fingerprint (once
 * in 4000 fills) lets a key into the main queue that has not earned it.  Nothing else depends on them.  What may meet
 * whom at an entry's own word, and what its bytes come to, is tried by tests/local/test_queue_schedule.c. */
#include "local/rcu.h"
#include "local/tier.h"

#define SHARES 8 /* the small queue has one of them */
#define LINE_GHOSTS 16
#define LINE_LOAD 12 /* entries for which there is a line: few lines overflow before their ghosts are too old */
#define LINES_MIN 8
#define UNITS 4096 /* a turnover in units of the age stamp */

struct near__ghosts {
    uint64_t lines, unit;
    size_t cost; /* as the allocator counts */
    _Atomic(uint64_t) pushed;
    _Atomic(uint32_t) ghost[];
};

/* ---------------------------------------------------------------- ghosts */

static struct near__ghosts *make_ghosts(const struct near__local *local, uint64_t entries)
{
    uint64_t lines = entries / LINE_LOAD > LINES_MIN ? entries / LINE_LOAD : LINES_MIN;
    size_t size = sizeof(struct near__ghosts) + lines * LINE_GHOSTS * sizeof(_Atomic(uint32_t));
    struct near__ghosts *ghosts = near__alloc_zero(local->alloc, size);
    if (!ghosts)
        return NULL;
    ghosts->cost = near__alloc_cost(local->alloc, ghosts, size);
    ghosts->lines = lines;
    ghosts->unit = lines * LINE_LOAD > UNITS ? lines * LINE_LOAD / UNITS : 1;
    return ghosts;
}

static _Atomic(uint32_t) *line_of(struct near__ghosts *ghosts, uint64_t hash)
{
    return &ghosts->ghost[(((hash >> 32) * ghosts->lines) >> 32) * LINE_GHOSTS];
}
static uint32_t fingerprint(uint64_t hash)
{
    uint32_t bits = (uint32_t)(hash & 0xffff);
    return (bits ? bits : 1) << 16;
}
static uint16_t now_of(struct near__ghosts *ghosts, uint64_t more)
{
    /* relaxed, here and below: see above */
    return (uint16_t)((atomic_fetch_add_explicit(&ghosts->pushed, more, memory_order_relaxed) + more) / ghosts->unit);
}

static void push_ghost(struct near__ghosts *ghosts, uint64_t hash)
{
    _Atomic(uint32_t) *line = line_of(ghosts, hash), *oldest = NULL;
    uint16_t now = now_of(ghosts, 1), oldest_age = 0;
    for (unsigned i = 0; i < LINE_GHOSTS; i++) {
        uint32_t ghost = atomic_load_explicit(&line[i], memory_order_relaxed);
        uint16_t age = ghost ? (uint16_t)(now - (uint16_t)ghost) : UINT16_MAX;
        if (!oldest || age > oldest_age) {
            oldest = &line[i];
            oldest_age = age;
        }
    }
    atomic_store_explicit(oldest, fingerprint(hash) | now, memory_order_relaxed);
}

/* 1: the key was evicted no more than 9/10 of a turnover ago; its ghost is gone now. */
static int take_ghost(struct near__ghosts *ghosts, uint64_t hash, uint64_t entries)
{
    _Atomic(uint32_t) *line = line_of(ghosts, hash);
    uint16_t now = now_of(ghosts, 0);
    for (unsigned i = 0; i < LINE_GHOSTS; i++) {
        uint32_t ghost = atomic_load_explicit(&line[i], memory_order_relaxed);
        if ((ghost & ~UINT32_C(0xffff)) != fingerprint(hash))
            continue;
        atomic_store_explicit(&line[i], 0, memory_order_relaxed);
        return (uint16_t)(now - (uint16_t)ghost) <= (entries - entries / 10) / ghosts->unit;
    }
    return 0;
}

/* Inside a read section. */
static struct near__ghosts *ghosts_of(const struct near__local *local)
{
    /* acquire: pairs with near__queues_adapt; publishes the zeroed array */
    return atomic_load_explicit(&local->ghosts, memory_order_acquire);
}

/* ---------------------------------------------------------------- how many ghosts */

/* Entries that there may be, as far as can be told before there are any. */
static uint64_t first_guess(const struct near__local *local)
{
    /* relaxed, both: limits */
    uint64_t entries = (uint64_t)atomic_load_explicit(&local->budget.entries_max, memory_order_relaxed);
    uint64_t bytes = (uint64_t)atomic_load_explicit(&local->budget.max, memory_order_relaxed);
    uint64_t guess = entries < bytes / 1024 ? entries : bytes / 1024;
    return guess + guess / 4 + 1;
}

static void count_ghosts(struct near__local *local, int64_t bytes)
{
    atomic_fetch_add_explicit(&local->ghost_bytes, (uint64_t)bytes, memory_order_relaxed); /* relaxed: statistics */
}

static void charge(struct near__local *local, int64_t bytes)
{
    near__budget_charge(local, bytes);
    count_ghosts(local, bytes);
}

int near__queues_open(struct near__local *local)
{
    if (!local->queues)
        return NEAR_OK;
    struct near__ghosts *ghosts = make_ghosts(local, first_guess(local));
    if (!ghosts)
        return NEAR_ERR_NOMEM;
    charge(local, (int64_t)ghosts->cost);
    atomic_store_explicit(&local->ghosts, ghosts, memory_order_release); /* nobody else is here yet */
    return NEAR_OK;
}

void near__queues_close(struct near__local *local)
{
    /* relaxed: nobody else is left */
    near__free(local->alloc, atomic_load_explicit(&local->ghosts, memory_order_relaxed));
}

static uint64_t entries_of(const struct near__local *local)
{
    int64_t entries = atomic_load_explicit(&local->budget.entries, memory_order_relaxed); /* relaxed: a count */
    return entries > 0 ? (uint64_t)entries : 0;
}

/* entries: that there are, or that a lowered limit will leave. */
static int is_sized(struct near__ghosts *ghosts, uint64_t entries, int is_lowered)
{
    uint64_t held = ghosts->lines * LINE_LOAD;
    if (entries > held)
        return 0;
    /* Until it has evicted much the tier may yet grow, as far as its limits go. */
    return ghosts->lines == LINES_MIN || entries >= held / 4 ||
           (!is_lowered && atomic_load_explicit(&ghosts->pushed, memory_order_relaxed) < held / 4);
}

/* The keeper's.  A new array forgets the ghosts that there were, so it is made with room to spare.  Where a limit was
 * lowered it comes before the evictions: what ghosts of a large tier take would be entries of the small one. */
void near__queues_adapt(struct near__local *local)
{
    /* relaxed: written here alone */
    struct near__ghosts *old = atomic_load_explicit(&local->ghosts, memory_order_relaxed);
    if (!old)
        return;
    uint64_t entries = entries_of(local), fit = (uint64_t)near__tables_entries_that_fit(local, (int64_t)old->cost);
    int is_lowered = fit < entries;
    entries = is_lowered ? fit : entries;
    if (is_sized(old, entries, is_lowered))
        return;
    uint64_t wanted = entries + entries / 2 + 1;
    int64_t estimate = (int64_t)(wanted / LINE_LOAD + 1) * LINE_GHOSTS * 4 + 4096;
    if (!near__budget_charge_fixed(local, estimate))
        return; /* another time */
    struct near__ghosts *ghosts = make_ghosts(local, wanted);
    count_ghosts(local, estimate);
    charge(local, (ghosts ? (int64_t)ghosts->cost : 0) - estimate);
    if (!ghosts)
        return;
    /* release: pairs with ghosts_of */
    atomic_store_explicit(&local->ghosts, ghosts, memory_order_release);
    near__rcu_synchronize();
    charge(local, -(int64_t)old->cost);
    near__free(local->alloc, old);
}

/* ---------------------------------------------------------------- entries */

static void add_bytes(struct near__local *local, uint32_t word, int64_t bytes)
{
    /* relaxed: a count */
    atomic_fetch_add_explicit(&local->queue_bytes[(word & NEAR_QUEUE_MAIN) != 0], bytes, memory_order_relaxed);
}

static int64_t bytes_in(const struct near__local *local, unsigned is_main)
{
    return atomic_load_explicit(&local->queue_bytes[is_main], memory_order_relaxed); /* relaxed: a count */
}

int near__queue_small_is_due(const struct near__local *local)
{
    return bytes_in(local, 0) * (SHARES - 1) >= bytes_in(local, 1);
}

int near__queue_most_are_new(const struct near__local *local)
{
    return bytes_in(local, 0) > bytes_in(local, 1);
}

/* Where a fill goes: a key that is there stays where it is, one that was there not long ago has earned the main
 * queue. */
static uint32_t place_of(struct near__local *local, uint64_t hash, const void *key, size_t key_size, uint16_t tick)
{
    const struct near__entry *there = near__index_find(&local->index, hash, key, key_size);
    uint32_t word = there ? near__queue_of(there) : 0;
    if (!(word & NEAR_QUEUED))
        return near__queue_word(tick, (unsigned)take_ghost(ghosts_of(local), hash, entries_of(local)), 0);
    if (!(word & NEAR_QUEUE_MAIN))
        return word;
    unsigned worth = near__queue_worth(word) + 1;
    return near__queue_word(tick, 1, worth < NEAR_WORTH_MAX ? worth : NEAR_WORTH_MAX);
}

void near__queue_enter(struct near__local *local, struct near__entry *entry, uint64_t hash, int64_t bytes,
                       uint16_t tick)
{
    near__rcu_enter();
    uint32_t word = place_of(local, hash, entry->bytes, near__entry_key_size(entry), tick);
    near__rcu_leave();
    /* relaxed: published with the slot's word */
    atomic_store_explicit(near__entry_place(entry), word, memory_order_relaxed);
    add_bytes(local, word, bytes);
}

void near__queue_cancel(struct near__local *local, const struct near__entry *entry, int64_t bytes)
{
    add_bytes(local, near__queue_of(entry), -bytes);
}

void near__queue_leave(struct near__local *local, struct near__entry *entry, int64_t bytes, enum near__why why)
{
    /* relaxed: the entry is out of its slot, and whoever still changes the word loses against this or comes before
     * it */
    uint32_t word = atomic_exchange_explicit(near__entry_place(entry), 0, memory_order_relaxed);
    if (!(word & NEAR_QUEUED))
        return;
    add_bytes(local, word, -bytes);
    int is_main = (word & NEAR_QUEUE_MAIN) != 0;
    int lost_by_chance = is_main && (why == NEAR_WHY_EXPIRED || why == NEAR_WHY_INVALIDATED); /* not for want of use */
    if (lost_by_chance || (!is_main && why == NEAR_WHY_EVICTED))
        push_ghost(ghosts_of(local), near__entry_hash(entry, &local->index.secrets));
}

int near__queue_detach(struct near__entry *entry, uint32_t *ret_word)
{
    uint32_t word;
    do {
        word = near__queue_of(entry);
        if (!(word & NEAR_QUEUED))
            return 0;
    } while (!near__queue_change(entry, word, 0));
    *ret_word = word;
    return 1;
}

void near__queue_promote(struct near__local *local, struct near__entry *entry, uint32_t word, uint16_t tick)
{
    int64_t bytes = near__block_cost(local, entry);
    if (!near__queue_change(entry, word, near__queue_word(tick, 1, 0)))
        return;
    add_bytes(local, word, -bytes);
    add_bytes(local, NEAR_QUEUE_MAIN, bytes);
}

void near__queue_turn(struct near__entry *entry, uint32_t word, uint16_t tick, int used)
{
    unsigned worth = near__queue_worth(word);
    worth = used ? (worth < NEAR_WORTH_MAX ? worth + 1 : worth) : worth - 1;
    /* failed: somebody else has, or it has gone */
    (void)near__queue_change(entry, word, near__queue_word(tick, 1, worth));
}
