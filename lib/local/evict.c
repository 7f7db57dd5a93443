/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Budget and eviction.
 *
 * An install reserves before it allocates: it adds its bytes to `used` unless that would pass the ceiling, then
 * evicts while what is live is above the budget, a bounded number of entries, and gives up when that does not
 * suffice.  Evicted entries stay in `used` until the keeper has freed them: between budget and ceiling there is room
 * for those.  When it is full (the keeper is slow, or a reader is stopped inside a section), fills are refused, and
 * nothing else is (R49).
 *
 * Entries are counted by reservation too: visible entries never outnumber entries_max, since each visible one holds a
 * reservation, and an install goes on only after it has seen the count, its own included, at or below the limit.
 *
 * The victim is the best of a sample: a run of neighbouring buckets at a random place, until SAMPLE entries have
 * been seen.  Neighbours are one DRAM page and their keys have nothing to do with each other.  A tier with no more
 * buckets than a run has gets exact order. */
#include "local/rcu.h"
#include "local/tier.h"

#include "base/random.h"

/* Entries looked at for one eviction.  Hit ratio on Zipf 0.99, 10,000 of 100,000 keys, against exact LRU: see
 * tests/local/test_evict.c, which holds it to one point. */
#define SAMPLE 16
#define RUN 256    /* buckets looked at, when the index is sparse: few large values, 16 KiB read in a row */
#define ATTEMPTS 8 /* samples, when others take the victim or half of two tables is empty */
#define VICTIMS 16 /* evictions on behalf of one install, and one more for every VICTIM_BYTES of it */
#define VICTIM_BYTES 64

#define SLACK_MIN (INT64_C(1) << 20)

int64_t near__budget_ceiling(int64_t max)
{
    int64_t slack = max / 20 > SLACK_MIN ? max / 20 : SLACK_MIN;
    return max + slack - slack / 16;
}

void near__budget_charge(struct near__local *local, int64_t bytes)
{
    /* relaxed, here and below: counts that publish nothing; read-modify-writes make them exact */
    atomic_fetch_add_explicit(&local->budget.used, bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&local->budget.fixed, bytes, memory_order_relaxed);
}

static int charge_below_ceiling(struct near__budget *budget, int64_t bytes)
{
    int64_t ceiling = near__budget_ceiling(atomic_load_explicit(&budget->max, memory_order_relaxed));
    int64_t used = atomic_load_explicit(&budget->used, memory_order_relaxed);
    do {
        if (used + bytes > ceiling && !NEAR_MUTANT(RETIRED_UNCOUNTED))
            return 0;
    } while (!atomic_compare_exchange_weak_explicit(&budget->used, &used, used + bytes, memory_order_relaxed,
                                                    memory_order_relaxed));
    return 1;
}

int64_t near__budget_excess(const struct near__local *local)
{
    const struct near__budget *budget = &local->budget;
    int64_t retired = atomic_load_explicit(&budget->retired, memory_order_relaxed);
    int64_t bytes = atomic_load_explicit(&budget->used, memory_order_relaxed) - retired -
                    atomic_load_explicit(&budget->max, memory_order_relaxed);
    int64_t entries = atomic_load_explicit(&budget->entries, memory_order_relaxed) -
                      atomic_load_explicit(&budget->entries_max, memory_order_relaxed);
    return bytes > entries ? bytes : entries;
}

void near__budget_release_entry(struct near__local *local, int64_t bytes)
{
    atomic_fetch_sub_explicit(&local->budget.used, bytes, memory_order_relaxed);
    atomic_fetch_sub_explicit(&local->budget.entries, 1, memory_order_relaxed);
}

int near__budget_reserve_entry(struct near__local *local, struct near__reader *reader, int64_t bytes)
{
    if (bytes > atomic_load_explicit(&local->budget.max, memory_order_relaxed) ||
        !charge_below_ceiling(&local->budget, bytes)) {
        near__keeper_wake(local);
        return 0;
    }
    atomic_fetch_add_explicit(&local->budget.entries, 1, memory_order_relaxed);
    if (near__budget_excess(local) <= 0)
        return 1;
    struct near__moment moment = near__tier_moment(local);
    for (int64_t victims = VICTIMS + bytes / VICTIM_BYTES; victims > 0; victims--)
        if (!near__evict_one(local, &reader->random, &moment) || near__budget_excess(local) <= 0)
            break;
    if (near__budget_excess(local) <= 0)
        return 1;
    near__budget_release_entry(local, bytes);
    near__keeper_wake(local);
    return 0;
}

/* ---------------------------------------------------------------- victims */

struct sample {
    _Atomic(uint64_t) *slot[SAMPLE + NEAR_BUCKET_SLOTS];
    uint64_t word[SAMPLE + NEAR_BUCKET_SLOTS];
    unsigned count;
};

/* Gathers words first and looks at the entries afterwards, so that their cache misses overlap. */
static void gather(struct sample *sample, const struct near__span *span, uint64_t random)
{
    uint64_t b = ((random >> 32) * span->count) >> 32;
    uint64_t run = span->count < RUN ? span->count : RUN;
    sample->count = 0;
    for (; run && sample->count < SAMPLE; run--, b = b + 1 < span->count ? b + 1 : 0)
        for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++) {
            _Atomic(uint64_t) *slot = &span->bucket[b].slot[i];
            uint64_t word = near__step_load(slot);
            if (!word || near__word_is_tentative(word))
                continue;
            __builtin_prefetch(near__word_entry(word));
            sample->slot[sample->count] = slot;
            sample->word[sample->count++] = word;
        }
}

static int evict_from(struct near__local *local, const struct near__span *span, uint64_t random,
                      const struct near__moment *moment)
{
    struct sample sample;
    unsigned best = 0, best_rank = 0;
    gather(&sample, span, random);
    for (unsigned i = 0; i < sample.count; i++) {
        unsigned rank = near__entry_rank(near__word_entry(sample.word[i]), moment);
        if (i == 0 || rank > best_rank) {
            best = i;
            best_rank = rank;
        }
    }
    if (!sample.count)
        return 0;
    const struct near__entry *entry = near__word_entry(sample.word[best]);
    enum near__why why = near__entry_is_expired(entry, moment) ? NEAR_WHY_EXPIRED : NEAR_WHY_EVICTED;
    return near__index_unlink(&local->index, sample.slot[best], sample.word[best], why);
}

int near__evict_one(struct near__local *local, uint64_t *random, const struct near__moment *moment)
{
    int done = 0;
    near__rcu_enter();
    const struct near__tables *tables = near__index_tables(&local->index);
    for (unsigned i = 0; i < ATTEMPTS && !done; i++) {
        uint64_t r = near__random_next(random);
        done = evict_from(local, &tables->span[(r ^ i) & (tables->spans - 1)], r, moment);
    }
    near__rcu_leave();
    return done;
}
