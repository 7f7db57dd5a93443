/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The budget.
 *
 * An install reserves before it allocates: it takes its bytes unless that would pass the ceiling, evicts while what is
 * live is above the budget, a bounded number of entries, and gives up when that does not suffice.  Evicted entries stay
 * in `used` until they are free: between budget and ceiling there is room for those.  When it is full (the keeper is
 * slow, or a reader is stopped inside a section), fills are refused, and nothing else is (R49).
 *
 * Entries are counted by reservation too: visible entries never outnumber entries_max, since each visible one holds a
 * reservation, and an install goes on only after it has seen the count, its own included, at or below the limit, or has
 * lowered it.
 *
 * While a limit is being lowered the keeper evicts to be below it, lowers it, and so on; a fill that insisted on seeing
 * itself below would be refused as long as that takes.  So one that has evicted as many as it may, and has room from
 * it, goes on above the limit: many went, and one came.
 *
 * ---- Shares
 *
 * The counts belong to all threads, and a line that all write is what a fill waits for longest.  So a thread keeps a
 * share of them in its reader's record and takes and gives whole quanta:
 *
 *   budget                          share of a thread
 *   used    --- bytes --->          room     that no entry has yet; an eviction adds to it, a fill takes from it
 *   entries --- count --->          entries  likewise
 *   retired --- and used --->       spare    that nothing retired has yet; evictions take from it, freeing adds
 *
 * What is in a share is counted already: it was taken under the limit, so spending it cannot pass one.  An eviction
 * moves its bytes from live to retired; that they may be spent again is growth, up to the ceiling, and paid for with
 * `spare`.  Where the ceiling leaves none, the eviction gives room to nobody.  So used <= ceiling, and used - retired
 * <= max unless max was lowered, whatever the shares hold, and a thread that evicts one entry for each that it fills
 * touches no line of another's.
 *
 * The price is what idle threads hold: at most HELD quanta of each, 1/512 of the budget for all of them together, and
 * nothing at all after a thread's exit.  Statistics leave it out: local_bytes is what is allocated.  Small budgets have
 * no quanta, and nothing is held.  While a lowered limit is passed, what was held of the larger budget may be spent
 * still; so it is `used` that stays below the ceiling once it is there, and local_bytes may come there a little earlier
 * and rise again by that much.
 *
 * A share is written by its owner alone, without locked instructions; statistics read it.  Threads without a reader,
 * and the keeper, go to the common counts.
 *
 * Entries have no ceiling above their limit, and one that is set or lowered far may be less than what threads hold that
 * were given it under the one before: those that sleep give nothing back, and all that there is would go for it.  So
 * what is held beyond its due is lent:
 *
 *   entries_asked --- what the application asked for      entries_wanted --- and what is lent, beside that
 *
 * Nobody spends it: an owner that comes back gives it up first, and the limits with it.  The keeper counts anew in each
 * round; where the two meet, the limit is out by what that owner had until the next one.  What a reservation under way
 * has is no part of that (seems_lent). */
#include "base/compiler.h"
#include "local/rcu.h"
#include "local/tier.h"

#define VICTIMS 16 /* evictions on behalf of one install, and one more for every VICTIM_BYTES of it */
#define VICTIM_BYTES 64
#define PAUSE 64 /* evictions in one section */
#define DRAIN 64 /* freed on behalf of one install that finds no room below the ceiling */

#define SLACK_MIN (INT64_C(1) << 20)
#define ROOM_MARGIN (INT64_C(64) << 10) /* header, key, rounding */

#define QUANTUM_MAX (INT64_C(16) << 10)
#define QUANTUM_ENTRIES_MAX 32
#define QUANTUM_PART 2048 /* of the budget, for all readers together */
#define HELD 2            /* quanta that may stay in a share */
/* Retired by one thread before it wakes the keeper.  Fewer grace periods are worth more than memory that has not left
 * the caches: see docs/measurements.md. */
#define WAKE_MAX (INT64_C(1024) << 10)

/* relaxed, here and below: counts that publish nothing */
static void add(_Atomic(int64_t) *count, int64_t n)
{
    if (n)
        atomic_fetch_add_explicit(count, n, memory_order_relaxed);
}

/* Of a share: only its owner writes, so no locked instruction is needed. */
static void grow(_Atomic(int64_t) *count, int64_t n)
{
    atomic_store_explicit(count, near__gauge(count) + n, memory_order_release); /* release: pairs with seems_lent */
}

int64_t near__budget_slack(int64_t max)
{
    return max / 20 > SLACK_MIN ? max / 20 : SLACK_MIN;
}

int64_t near__budget_ceiling(int64_t max)
{
    int64_t slack = near__budget_slack(max);
    return max + slack - slack / 16;
}

void near__budget_charge(struct near__local *local, int64_t bytes)
{
    add(&local->budget.used, bytes);
    add(&local->budget.fixed, bytes);
    near__budget_hold(local, bytes);
}

void near__budget_hold(struct near__local *local, int64_t bytes)
{
    add(&local->budget.memory, bytes);
}

/* As much up to `bytes` as fits below the ceiling, unless that is less than `least`.  How much. */
static int64_t add_below_ceiling(const struct near__budget *budget, _Atomic(int64_t) *count, int64_t bytes,
                                 int64_t least)
{
    int64_t now = near__gauge(count), some;
    do {
        int64_t room = near__budget_ceiling(near__gauge(&budget->max)) - now;
        some = room < bytes ? room : bytes;
        if (some < least)
            return 0;
    } while (
        !atomic_compare_exchange_weak_explicit(count, &now, now + some, memory_order_relaxed, memory_order_relaxed));
    return some;
}

int64_t near__budget_hold_some(struct near__local *local, int64_t bytes, int64_t least)
{
    return add_below_ceiling(&local->budget, &local->budget.memory, bytes, least);
}

static int is_below_ceiling(const struct near__budget *budget, int64_t used)
{
    return used <= near__budget_ceiling(near__gauge(&budget->max)) || NEAR_MUTANT(RETIRED_UNCOUNTED);
}

static int charge_below_ceiling(struct near__budget *budget, int64_t bytes)
{
    int64_t used = near__gauge(&budget->used);
    do {
        if (!is_below_ceiling(budget, used + bytes))
            return 0;
    } while (!atomic_compare_exchange_weak_explicit(&budget->used, &used, used + bytes, memory_order_relaxed,
                                                    memory_order_relaxed));
    return 1;
}

int64_t near__budget_charge_some(struct near__local *local, int64_t bytes)
{
    int64_t some = add_below_ceiling(&local->budget, &local->budget.used, bytes, 1);
    if (!some || !local->arena) {
        near__budget_hold(local, some);
        return some;
    }
    int64_t held = near__budget_hold_some(local, some, 1);
    add(&local->budget.used, held - some);
    return held;
}

int near__budget_charge_fixed(struct near__local *local, int64_t bytes)
{
    int64_t some = near__budget_charge_some(local, bytes);
    if (some == bytes) {
        add(&local->budget.fixed, bytes);
        return 1;
    }
    add(&local->budget.used, -some);
    near__budget_hold(local, -some);
    return 0;
}

static int64_t excess_of_bytes(const struct near__budget *budget)
{
    return near__gauge(&budget->used) - near__gauge(&budget->retired) - near__gauge(&budget->max);
}

static int64_t excess_of_entries(const struct near__budget *budget)
{
    return near__gauge(&budget->entries) - near__gauge(&budget->entries_max);
}

int64_t near__budget_live(const struct near__local *local)
{
    int64_t index = (int64_t)atomic_load_explicit(&local->index_bytes, memory_order_relaxed); /* a count as well */
    return near__gauge(&local->budget.used) - near__gauge(&local->budget.retired) - near__gauge(&local->budget.fixed) -
           index;
}

static inline int64_t excess(const struct near__local *local)
{
    int64_t bytes = excess_of_bytes(&local->budget), entries = excess_of_entries(&local->budget);
    return bytes > entries ? bytes : entries;
}

int64_t near__budget_excess(const struct near__local *local)
{
    return excess(local);
}

/* ---------------------------------------------------------------- what shares hold */

int64_t near__budget_idle(const struct near__local *local, enum near__idle what)
{
    int64_t sum = 0;
    for (const struct near__reader *reader = near__readers_first(local); reader; reader = reader->next)
        sum += near__gauge(&reader->share.idle[what]);
    return sum;
}

int64_t near__budget_retired(const struct near__local *local)
{
    int64_t spare = near__budget_idle(local, NEAR_IDLE_SPARE), retired = near__gauge(&local->budget.retired);
    return retired > spare ? retired - spare : 0;
}

int64_t near__budget_taken(const struct near__local *local)
{
    int64_t total = near__blocks_total(local), used = near__gauge(&local->budget.used);
    return used > total ? used : total;
}

int near__budget_awaits_keeper(const struct near__local *local)
{
    return near__budget_retired(local) > 0 || near__blocks_are_awaited(local) ||
           near__blocks_total(local) > near__gauge(&local->budget.max);
}

int near__local_has_no_room(struct near__local *local, size_t value_size)
{
    int64_t size = (int64_t)value_size, max = near__gauge(&local->budget.max);
    if (size > near__tier_value_limit(local) || size >= max / 2)
        return 0; /* and there never will be */
    struct near__reader *reader = near__local_reader_known(local);
    if (reader) {
        near__rcu_enter();
        near__recycle(local, reader, DRAIN); /* room of our own */
        near__rcu_leave();
    }
    int64_t taken = near__budget_taken(local); /* decides only whether to wait */
    return taken + size > near__budget_ceiling(max) - ROOM_MARGIN && near__budget_awaits_keeper(local);
}

static int64_t of_all_readers(int64_t part, uint32_t readers, int64_t most)
{
    part /= readers ? readers : 1;
    return part < most ? part : most;
}

static int64_t quantum(int64_t max, uint32_t readers)
{
    return of_all_readers(max / QUANTUM_PART, readers, QUANTUM_MAX);
}

static int64_t quantum_of_entries(int64_t max, uint32_t readers)
{
    return of_all_readers(max / QUANTUM_PART, readers, QUANTUM_ENTRIES_MAX);
}

int64_t near__budget_keep(const struct near__local *local)
{
    return 4 *
           quantum(near__gauge(&local->budget.max), atomic_load_explicit(&local->readers_count, memory_order_relaxed));
}

NEAR_APART void divide(struct near__part *part)
{
    part->quantum = quantum(part->max, part->readers);
    part->entries = quantum_of_entries(part->entries_max, part->readers);
    part->wake_at = of_all_readers((near__budget_ceiling(part->max) - part->max) / 4, part->readers, WAKE_MAX);
}

/* A thread's part of the limits.  Each fill and each eviction asks several times, so the divisions are made only when a
 * limit has changed. */
static inline const struct near__part *part_of(const struct near__local *local, struct near__share *share)
{
    struct near__part *part = &share->part;
    int64_t max = near__gauge(&local->budget.max), entries_max = near__gauge(&local->budget.entries_max);
    uint32_t readers = atomic_load_explicit(&local->readers_count, memory_order_relaxed);
    if (part->max != max || part->entries_max != entries_max || part->readers != readers) {
        part->max = max;
        part->entries_max = entries_max;
        part->readers = readers;
        divide(part);
    }
    return part;
}

/* So much of what a share has, if it is anything. */
static void give_up(struct near__share *share, enum near__idle what, _Atomic(int64_t) *count, int64_t much)
{
    if (much <= 0)
        return;
    grow(&share->idle[what], -much);
    add(count, -much);
}

/* All that it has, if that is more than `most`. */
static void trim(struct near__share *share, enum near__idle what, _Atomic(int64_t) *count, int64_t most)
{
    int64_t much = near__gauge(&share->idle[what]);
    give_up(share, what, count, much > most ? much : 0);
}

static void trim_room(struct near__local *local, struct near__share *share, int64_t most)
{
    trim(share, NEAR_IDLE_ROOM, &local->budget.used, most);
}

static void trim_entries(struct near__local *local, struct near__share *share, int64_t most)
{
    trim(share, NEAR_IDLE_ENTRIES, &local->budget.entries, most);
}

/* But for one entry of so many bytes. */
static void keep_only(struct near__local *local, struct near__share *share, int64_t bytes)
{
    give_up(share, NEAR_IDLE_ROOM, &local->budget.used, near__gauge(&share->idle[NEAR_IDLE_ROOM]) - bytes);
    give_up(share, NEAR_IDLE_ENTRIES, &local->budget.entries, near__gauge(&share->idle[NEAR_IDLE_ENTRIES]) - 1);
}

/* ---------------------------------------------------------------- lent */

static int64_t beyond_due(int64_t held, int64_t asked, uint32_t readers)
{
    int64_t much = held - HELD * quantum_of_entries(asked, readers);
    return much > 0 ? much : 0;
}

/* What a share has beyond its due under the limit that was asked for: its owner asks. */
static int64_t lent_to(const struct near__share *share, int64_t asked, uint32_t readers)
{
    return beyond_due(near__gauge(&share->idle[NEAR_IDLE_ENTRIES]), asked, readers);
}

/* The same, by somebody else.  What is held in the middle of a reservation was evicted for it and is spent at once:
 * were it lent, an entry too many would have room until the keeper counts anew. */
static int64_t seems_lent(const struct near__share *share, int64_t asked, uint32_t readers)
{
    /* acquire, both: pair with grow and end_turn; who sees what a reservation has done sees that it has begun */
    uint32_t turns = atomic_load_explicit(&share->turns, memory_order_acquire);
    int64_t held = atomic_load_explicit(&share->idle[NEAR_IDLE_ENTRIES], memory_order_acquire);
    if (turns % 2 || turns != atomic_load_explicit(&share->turns, memory_order_relaxed)) /* relaxed: after held */
        return 0;
    return beyond_due(held, asked, readers);
}

static int64_t lent_to_all(const struct near__local *local, int64_t asked)
{
    uint32_t readers = atomic_load_explicit(&local->readers_count, memory_order_relaxed);
    int64_t sum = 0;
    for (const struct near__reader *reader = near__readers_first(local); reader; reader = reader->next)
        sum += seems_lent(&reader->share, asked, readers);
    return sum;
}

void near__budget_lend(struct near__local *local)
{
    struct near__budget *budget = &local->budget;
    int64_t wanted = near__gauge(&budget->entries_wanted), asked = near__gauge(&budget->entries_asked);
    int64_t next = asked < INT64_MAX ? asked + lent_to_all(local, asked) : asked;
    /* by a swap: who gives back meanwhile, or asks for something else, has the last word */
    if (next == wanted || !atomic_compare_exchange_strong_explicit(&budget->entries_wanted, &wanted, next,
                                                                   memory_order_relaxed, memory_order_relaxed))
        return;
    int64_t limit = near__gauge(&budget->entries_max);
    while (limit < next && !atomic_compare_exchange_weak_explicit(&budget->entries_max, &limit, next,
                                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

static void sink(_Atomic(int64_t) *limit, int64_t by, int64_t least)
{
    int64_t now = near__gauge(limit), next;
    do
        next = now - by > least ? now - by : least;
    while (next < now &&
           !atomic_compare_exchange_weak_explicit(limit, &now, next, memory_order_relaxed, memory_order_relaxed));
}

NEAR_APART void give_up_lent(struct near__local *local, struct near__share *share, int64_t asked)
{
    struct near__budget *budget = &local->budget;
    int64_t much = lent_to(share, asked, atomic_load_explicit(&local->readers_count, memory_order_relaxed));
    if (!much)
        return;
    /* the limits first, lest others fill what was lent */
    sink(&budget->entries_wanted, much, asked);
    sink(&budget->entries_max, much, near__gauge(&budget->entries_wanted));
    give_up(share, NEAR_IDLE_ENTRIES, &budget->entries, much);
}

/* Before a share is spent, or given more.  While a reservation is under way it has been, and what there is now was
 * evicted for that. */
static inline void settle_lent(struct near__local *local, struct near__share *share)
{
    int64_t asked = near__gauge(&local->budget.entries_asked);
    if (near__unlikely(near__gauge(&local->budget.entries_wanted) != asked) && !share->wanted)
        give_up_lent(local, share, asked);
}

static void trim_spare(struct near__local *local, struct near__share *share, int64_t most)
{
    int64_t spare = near__gauge(&share->idle[NEAR_IDLE_SPARE]);
    if (spare <= most)
        return;
    grow(&share->idle[NEAR_IDLE_SPARE], -spare);
    add(&local->budget.retired, -spare); /* first: for a moment too much seems live rather than too little */
    add(&local->budget.used, -spare);
}

void near__share_settle(struct near__local *local, struct near__share *share)
{
    settle_lent(local, share);
    trim_room(local, share, 0);
    trim_entries(local, share, 0);
    trim_spare(local, share, 0);
}

/* ---------------------------------------------------------------- reserving */

static int take_bytes(struct near__local *local, struct near__share *share, int64_t bytes)
{
    struct near__budget *budget = &local->budget;
    /* In vain, as a rule where a tier is full: then nobody's line is written. */
    if (excess_of_bytes(budget) + bytes > 0 || !charge_below_ceiling(budget, bytes))
        return 0;
    if (excess_of_bytes(budget) > 0) {
        add(&budget->used, -bytes);
        return 0;
    }
    grow(&share->idle[NEAR_IDLE_ROOM], bytes);
    return 1;
}

static int has_bytes(struct near__local *local, struct near__share *share, int64_t bytes)
{
    int64_t missing = bytes - near__gauge(&share->idle[NEAR_IDLE_ROOM]);
    return missing <= 0 || take_bytes(local, share, missing + part_of(local, share)->quantum) ||
           take_bytes(local, share, missing);
}

static int take_entries(struct near__local *local, struct near__share *share, int64_t entries)
{
    add(&local->budget.entries, entries);
    if (excess_of_entries(&local->budget) > 0) {
        add(&local->budget.entries, -entries);
        return 0;
    }
    grow(&share->idle[NEAR_IDLE_ENTRIES], entries);
    return 1;
}

static int has_entry(struct near__local *local, struct near__share *share)
{
    return near__gauge(&share->idle[NEAR_IDLE_ENTRIES]) > 0 ||
           (near__gauge(&local->budget.entries) < near__gauge(&local->budget.entries_max) &&
            (take_entries(local, share, 1 + part_of(local, share)->entries) || take_entries(local, share, 1)));
}

/* While a limit is passed (it was lowered) shares go back first, but for what this entry takes. */
static int has_room(struct near__local *local, struct near__share *share, int64_t bytes)
{
    if (excess(local) > 0) {
        keep_only(local, share, bytes);
        if (excess(local) > 0)
            return 0;
    }
    return has_bytes(local, share, bytes) && has_entry(local, share);
}

/* Neither a reservation nor an eviction for it would fit below the ceiling. */
static int is_at_ceiling(const struct near__local *local, const struct near__share *share, int64_t bytes)
{
    int64_t missing = bytes - near__gauge(&share->idle[NEAR_IDLE_ROOM]);
    return missing > near__gauge(&share->idle[NEAR_IDLE_SPARE]) &&
           !is_below_ceiling(&local->budget, near__gauge(&local->budget.used) + missing);
}

/* The room of what was evicted for this entry: it counts as live already. */
static int has_own_room(const struct near__share *share, int64_t bytes)
{
    return near__gauge(&share->idle[NEAR_IDLE_ROOM]) >= bytes && near__gauge(&share->idle[NEAR_IDLE_ENTRIES]) > 0;
}

/* What is live leaves room for an entry of that size, once what is retired has been freed. */
static int will_have_room(const struct near__budget *budget, const struct near__share *share, int64_t bytes)
{
    return excess_of_bytes(budget) + bytes - near__gauge(&share->idle[NEAR_IDLE_ROOM]) <= 0;
}

/* While the keeper lowers a limit as fast as it can, nobody else gets below it.  Who has evicted for it as much as one
 * fill may is let in all the same: many went, and one comes.
 *
 * An entry that is larger than what is between budget and ceiling finds none of its room before that is free again.  It
 * evicts what it needs all the same, and is refused; when it comes the next time its room is there. */
static int make_room(struct near__local *local, struct near__reader *reader, int64_t bytes,
                     const struct near__moment *moment)
{
    if (has_room(local, &reader->share, bytes))
        return 1;
    for (int64_t victims = VICTIMS + bytes / VICTIM_BYTES; victims > 0; victims--) {
        if (is_at_ceiling(local, &reader->share, bytes) && !near__recycle(local, reader, DRAIN) &&
            will_have_room(&local->budget, &reader->share, bytes))
            return 0;
        if (reader->share.pauses && victims % PAUSE == 0)
            near__rcu_pause();
        int evicted = near__evict_inside(local, &reader->hands, moment);
        if (has_room(local, &reader->share, bytes))
            return 1;
        if (!evicted)
            return 0;
    }
    return has_own_room(&reader->share, bytes);
}

static void begin_turn(struct near__share *share)
{
    uint32_t turns = atomic_load_explicit(&share->turns, memory_order_relaxed); /* relaxed: ours; grow releases it */
    atomic_store_explicit(&share->turns, turns + 1, memory_order_relaxed);
}

static void end_turn(struct near__share *share)
{
    uint32_t turns = atomic_load_explicit(&share->turns, memory_order_relaxed); /* relaxed: ours */
    atomic_store_explicit(&share->turns, turns + 1, memory_order_release);      /* release: pairs with seems_lent */
}

static int reserve(struct near__local *local, struct near__reader *reader, int64_t bytes,
                   const struct near__moment *moment)
{
    struct near__share *share = &reader->share;
    share->wanted = bytes;
    int made = bytes <= near__gauge(&local->budget.max) && make_room(local, reader, bytes, moment);
    share->wanted = 0;
    if (!made) {
        trim_room(local, share, HELD * part_of(local, share)->quantum);
        trim_entries(local, share, HELD * part_of(local, share)->entries);
        return 0;
    }
    grow(&share->idle[NEAR_IDLE_ROOM], -bytes);
    grow(&share->idle[NEAR_IDLE_ENTRIES], -1);
    return 1;
}

int near__budget_reserve_entry(struct near__local *local, struct near__reader *reader, int64_t bytes,
                               const struct near__moment *moment)
{
    settle_lent(local, &reader->share);
    begin_turn(&reader->share);
    int made = reserve(local, reader, bytes, moment);
    end_turn(&reader->share);
    if (!made)
        near__keeper_wake(local);
    return made;
}

void near__budget_correct(struct near__local *local, struct near__reader *reader, int64_t bytes)
{
    int64_t room = near__gauge(&reader->share.idle[NEAR_IDLE_ROOM]), own = bytes < room ? bytes : room;
    grow(&reader->share.idle[NEAR_IDLE_ROOM], -own);
    add(&local->budget.used, bytes - own);
}

/* ---------------------------------------------------------------- giving back */

/* In one step: what is more than `most` for a moment seems lent. */
static void give_entry(struct near__local *local, struct near__share *share, int64_t most)
{
    int64_t held = near__gauge(&share->idle[NEAR_IDLE_ENTRIES]);
    int64_t much = held + 1 > most ? held + 1 : 0;
    grow(&share->idle[NEAR_IDLE_ENTRIES], 1 - much);
    add(&local->budget.entries, -much);
}

/* Room and a reservation come (back) to a share; what is too much for it goes on. */
static inline void give(struct near__local *local, struct near__share *share, const struct near__part *part,
                        int64_t bytes)
{
    int64_t most = HELD * part->quantum;
    settle_lent(local, share);
    grow(&share->idle[NEAR_IDLE_ROOM], bytes);
    trim_room(local, share, share->wanted > most ? share->wanted + most : most);
    most = HELD * part->entries;
    give_entry(local, share, share->wanted && most < 1 ? 1 : most);
}

void near__budget_release_entry(struct near__local *local, struct near__reader *reader, int64_t bytes)
{
    give(local, &reader->share, part_of(local, &reader->share), bytes);
}

/* Room for something retired, in used and retired.  0: the ceiling leaves none. */
NEAR_APART int take_spare(struct near__local *local, struct near__share *share, int64_t missing)
{
    int64_t more = missing + part_of(local, share)->quantum;
    if (!charge_below_ceiling(&local->budget, more)) {
        if (!charge_below_ceiling(&local->budget, missing))
            return 0;
        more = missing;
    }
    add(&local->budget.retired, more); /* afterwards: as in trim_spare */
    grow(&share->idle[NEAR_IDLE_SPARE], more);
    return 1;
}

static inline int has_spare(struct near__local *local, struct near__share *share, int64_t bytes)
{
    int64_t missing = bytes - near__gauge(&share->idle[NEAR_IDLE_SPARE]);
    return missing <= 0 || take_spare(local, share, missing);
}

void near__budget_retire(struct near__local *local, struct near__reader *reader, int64_t bytes)
{
    struct near__budget *budget = &local->budget;
    if (!reader || !has_spare(local, &reader->share, bytes)) {
        int64_t max = near__gauge(&budget->max);
        int64_t retired = bytes + atomic_fetch_add_explicit(&budget->retired, bytes, memory_order_relaxed);
        add(&budget->entries, -1);
        if (retired > (near__budget_ceiling(max) - max) / 4)
            near__keeper_wake(local);
        return;
    }
    const struct near__part *part = part_of(local, &reader->share);
    grow(&reader->share.idle[NEAR_IDLE_SPARE], -bytes);
    give(local, &reader->share, part, bytes);
    reader->share.pending += bytes;
    if (reader->share.pending > part->wake_at) {
        reader->share.pending = 0;
        near__keeper_wake(local);
    }
}

void near__budget_free(struct near__local *local, struct near__reader *reader, int64_t bytes)
{
    grow(&reader->share.idle[NEAR_IDLE_SPARE], bytes);
    trim_spare(local, &reader->share, HELD * part_of(local, &reader->share)->quantum);
}

/* Half of what is above the budget is left to fills. */
int near__budget_copy(struct near__local *local, int64_t bytes)
{
    int64_t max = near__gauge(&local->budget.max), half = (near__budget_ceiling(max) - max) / 2;
    if (near__gauge(&local->budget.used) > max + half || !charge_below_ceiling(&local->budget, bytes))
        return 0;
    add(&local->budget.retired, bytes);
    return 1;
}

void near__budget_uncopy(struct near__local *local, int64_t bytes)
{
    add(&local->budget.retired, -bytes); /* first: as in trim_spare */
    add(&local->budget.used, -bytes);
}
