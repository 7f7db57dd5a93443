/* SPDX-License-Identifier: BSD-3-Clause
 *
 * From unlinked to free.
 *
 *                       bags of the thread
 *      slot --unlink--> fresh --> waiting --grace period--> next --> now --> freed by the thread, one with each fill
 *               |         '----------'------ recalled -------'--------'
 *               |                                |
 *               '--> common limbo ------------> batch --grace period--> pinned? --no--> freed by the keeper
 *                                                                          '--yes--> kept, looked at again next round
 *
 * What a thread has retired comes back to it when nobody can have it any more: it frees one of it with each fill, and
 * has its memory for that fill, so that memory stays on one processor, and the keeper, which would have to fetch every
 * entry, looks at none.  A bag is a list, linked in the entries (where their positions were: entry.h tells why readers
 * that still have one see at once that it is none), so retiring needs no memory and never fails.  Nobody but the thread
 * touches its bags, so they take no locked instruction.  `next` is what has come back while `now` was not used up: then
 * the thread has more than it needs, and frees another one with every BEHIND-th fill.  Not all at once, since the next
 * grace period may be a long one: what is given to the lists of the arena now is missed then, and comes back cold, and
 * the threads that fill wait for each other's locks.
 *
 * Threads without a reader, and those that find the bags recalled, push into the common limbo.  One swap does that;
 * nobody pops single entries there, so it has no ABA problem.
 *
 * ---- Phases
 *
 * One word of the tier, which one thread, the keeper, writes, tells everybody how far reclamation is:
 *
 *      2n                 n grace periods have ended, and none is under way
 *      2n + 1             another one has begun
 *      2n + 1, RECALLED   and bags are the keeper's from its end on
 *
 * [b1] A thread looks at the phase whenever it has taken an entry out of its slot, and before it takes one back.  What
 * it retires when it sees phase p waits for awaited_from(p), the end of the first grace period that begins after that
 * look: 2n + 2 for 2n, and 2n + 4 for 2n + 1, since the one under way may have begun before the entry was out.
 *   The swap that took it out, the look, the keeper's store of the phase and what liburcu does first in a grace period
 * are sequentially consistent: if the look did not see 2n + 1, the swap comes before the grace period whose number that
 * is.  So whoever looks into the slot in a section that this does not wait for finds the entry gone.
 *   The bag of fresh ones is for one awaited phase.  When the thread sees a phase for which another is awaited, the
 * fresh ones become those that wait, and those that waited have waited long enough: fresh ones awaited f, those that
 * wait w < f, both even, so w <= f - 2; another one than f is awaited from f - 1 on, which is the number of a grace
 * period under way, so that all before have ended, the one that ends with w <= f - 2 too. Thus two bags suffice, and
 * what is in them needs no number of its own.
 *
 * [b2] Recall.  When nobody has woken the keeper for a while, or room is short and stays so, it takes everything:
 * threads that sleep or have gone take nothing back.  It says so in the phase, before it waits.  After the grace period
 * every section that had not seen it has ended, and those that have begun since leave bags alone: retiring and
 * recycling are done inside sections, each with a look of its own.  So the keeper has the bags to itself until it
 * stores the next phase, without a handshake, and what it did there is seen by who sees that phase.
 *
 * ---- Pins
 *
 * [b3] After a grace period a pin that is set is of an entry that a section found after its beginning, so not of what
 * waited for it.  Pins that were set before are seen: the section that found the entry has ended.  So the keeper looks
 * at what is pinned, not at what has been retired: if none of it is retired, nothing that waited is pinned, and it goes
 * back, or is freed, unseen.  What an application holds is alive as a rule.  (An entry that is retired while the keeper
 * looks has not waited yet.  It does no harm to take it for one that has.)
 *   If something is, the keeper recalls the bags and waits once more, before it says that the grace period has ended:
 * nobody has taken any of it.  Then it marks the batch, for which it needs no memory either, since nobody stores into
 * those heads any more: all are condemned (a flag that no live entry has), then every pin spares what it points to if
 * that is condemned, and what still is condemned is freed.  What is spared is marked as kept, and is no reason for
 * another recall.
 *   A pin's entry may be looked at safely, dead or alive: the keeper frees nothing that it sees pinned, and hands
 * nothing back while there is a retired entry that is pinned and not kept.
 *
 * [b4] The phase ends when the keeper has what it is going to free to itself, before it frees that, which may take
 * long.  What others retire from then on waits for a grace period that the keeper has yet to begin, and after a recall
 * their bags are empty.  Without a recall what has waited is taken back while the keeper walks: nothing of it was
 * pinned, and it looks at no pin any more.  If something was, all had been recalled, and what a pin points to then is
 * alive, or waits, or is the keeper's.
 *
 * ---- Who writes what
 *
 *      phase                the keeper
 *      bags, share.phase    the owner inside a section; the keeper when it has recalled them, and at close
 *      common limbo         anybody pushes, the keeper takes it whole
 *      an entry's head      whoever has unlinked it, then who has its list; marks, the keeper
 *
 * ---- How often
 *
 * A grace period takes the processor from those who fill, where all of them do, and interrupts all processors.  So what
 * has been retired is not waited for before it is worth it: see WAKE_MAX in budget.c.  A round begins one grace period
 * for what others have retired, at its beginning.
 *   The keeper's walk over what it frees itself is the long way: each entry is far away, and as long as it walks no
 *   grace
 * period ends, so that what others retire becomes more and is the next walk.  So only room that is short is a reason
 * for it, not how much has been retired (a tier with a limit on entries filled on miss with half of its speed, now and
 * then, when that was the reason), and bags are the threads' again before it begins.
 *   In a small tier room is always short while several threads fill: what is between budget and ceiling is what they
 * have retired.  It comes back to them and is used again, with each fill and, where the ceiling is reached, by dozens.
 * Taking it away would send all of it through the lists of the arena, which threads and keeper lock.  So that is done
 * only when several rounds in a row have found it so: then somebody has more than it uses. */
#include "local/rcu.h"
#include "local/tier.h"

#include "base/compiler.h"
#include "base/prefetch.h"

/* Fills of a thread that is behind, until it frees one more.  Grace periods take as long as they like, and what is
 * missing after a long one is taken from the arena: with one more at each fill 65,000 times a second in batches, of two
 * threads, with this 12,000 times, and filling on miss was 1.18 times as quick. */
#define BEHIND 16
#define PRESSING_ROUNDS 4 /* fewer than a write that waits for room tries (only.c) */

/* In bytes. */
struct freed {
    int64_t batch, before;           /* freed of what was retired since the last round, and of what was kept then */
    int64_t kept_batch, kept_before; /* kept of it, because it is pinned */
};

static int64_t cost_of(const struct near__local *local, const struct near__entry *entry)
{
    return near__block_cost(local, entry);
}

/* ---------------------------------------------------------------- bags */

static struct near__entry *first_of(const struct near__share *share, enum near__bags which)
{
    /* relaxed: the owner's or, when it has recalled them, the keeper's; others only look whether there is anything */
    return atomic_load_explicit(&share->bag[which].first, memory_order_relaxed);
}

static void set_first(struct near__share *share, enum near__bags which, struct near__entry *entry)
{
    atomic_store_explicit(&share->bag[which].first, entry, memory_order_relaxed); /* relaxed: as above */
}

static inline void put(struct near__share *share, struct near__entry *entry)
{
    struct near__entry *first = first_of(share, NEAR_BAG_FRESH);
    if (!first)
        share->bag[NEAR_BAG_FRESH].last = entry;
    near__entry_link(entry, first);
    set_first(share, NEAR_BAG_FRESH, entry);
}

/* All of `from` in front of what is in `into`. */
static void pour(struct near__share *share, enum near__bags into, enum near__bags from)
{
    if (!first_of(share, from))
        return;
    if (first_of(share, into))
        near__entry_link(share->bag[from].last, first_of(share, into));
    else
        share->bag[into].last = share->bag[from].last;
    set_first(share, into, first_of(share, from));
    set_first(share, from, NULL);
}

static inline struct near__entry *get(struct near__share *share)
{
    if (!first_of(share, NEAR_BAG_NOW))
        pour(share, NEAR_BAG_NOW, NEAR_BAG_NEXT);
    struct near__entry *entry = first_of(share, NEAR_BAG_NOW);
    if (entry)
        set_first(share, NEAR_BAG_NOW, near__entry_next(entry));
    return entry;
}

/* ---------------------------------------------------------------- phases */

#define RUNNING UINT64_C(1)          /* a grace period is under way; the bits above it: how many have ended */
#define RECALLED (UINT64_C(1) << 63) /* bags are the keeper's */

/* The phase in which a grace period will have ended that began after `phase` was seen. */
static uint64_t awaited_from(uint64_t phase)
{
    return (phase + (NEAR_MUTANT(RUNNING_SUFFICES) ? 2 : 3)) & ~RUNNING;
}

/* The owner sees another phase than when it looked last.  0: recalled. */
NEAR_APART int advance(struct near__share *share, uint64_t phase)
{
    if (phase & RECALLED)
        return NEAR_MUTANT(RECALL_UNHEARD);                  /* [b2] */
    if (awaited_from(phase) != awaited_from(share->phase)) { /* [b1] */
        pour(share, NEAR_BAG_NEXT, NEAR_BAG_WAITING);
        pour(share, NEAR_BAG_WAITING, NEAR_BAG_FRESH);
        share->awaited = awaited_from(share->phase);
    }
    if (phase >= share->awaited)
        pour(share, NEAR_BAG_NEXT, NEAR_BAG_WAITING);
    share->phase = phase;
    return 1;
}

/* Inside a read section, by the owner.  0: its bags are not its own now. */
static inline int has_bags(const struct near__local *local, struct near__share *share)
{
    /* seq_cst: after the swap that took out of its slot what is put into a bag next [b1]; and acquire, pairs with
     * set_phase: the keeper's look at the pins [b3], and what it did to the bags [b2], come before our taking */
    uint64_t phase = atomic_load_explicit(&local->budget.phase, memory_order_seq_cst);
    return near__likely(phase == share->phase) || advance(share, phase);
}

/* ---------------------------------------------------------------- retiring */

static void push(_Atomic(struct near__entry *) *list, struct near__entry *entry)
{
    struct near__entry *head = atomic_load_explicit(list, memory_order_relaxed); /* relaxed: the swap decides */
    do
        near__entry_link(entry, head);
    /* release: pairs with the exchange in near__reclaim; publishes the link and the charge */
    while (!atomic_compare_exchange_weak_explicit(list, &head, entry, memory_order_release, memory_order_relaxed));
}

static void count_end(struct near__local *local, struct near__reader *reader, enum near__why why)
{
    /* relaxed, all: statistics; of a share only the owner writes */
    if (reader)
        atomic_store_explicit(&reader->share.ended[why],
                              atomic_load_explicit(&reader->share.ended[why], memory_order_relaxed) + 1,
                              memory_order_relaxed);
    else
        atomic_fetch_add_explicit(&local->ended[why], 1, memory_order_relaxed);
}

void near__retire(struct near__index *index, struct near__entry *entry, enum near__why why)
{
    struct near__local *local = near__local_of(index);
    struct near__reader *reader = near__local_reader_known(local);
    int64_t cost = cost_of(local, entry);
    count_end(local, reader, why);
    if (local->queues)
        near__queue_leave(local, entry, cost, why);
    /* Before it is anywhere: the keeper never takes off what has not been put on. */
    near__budget_retire(local, reader, cost);
    if (reader && has_bags(local, &reader->share))
        put(&reader->share, entry);
    else
        push(&local->limbo, entry);
}

void near__reclaim_push(struct near__local *local, struct near__entry *entry)
{
    push(&local->limbo, entry);
}

/* ---------------------------------------------------------------- recycling */

/* Its link is what the next one waits for, and its memory is what the next fill writes to. */
static void fetch(const struct near__entry *next)
{
    uintptr_t entry = (uintptr_t)next; /* or nothing */
    near__prefetch_write(next);
    near__prefetch_write((const void *)(entry + 64));
    near__prefetch_write((const void *)(entry + 128));
}

int near__recycle(struct near__local *local, struct near__reader *reader, int most)
{
    struct near__share *share = &reader->share;
    struct near__entry *entry;
    int freed = 0;
    if (!has_bags(local, share))
        return 0;
    for (; freed < most && (entry = get(share)) != NULL; freed++)
        near__budget_free(local, reader, near__block_free(local, reader, entry));
    if (freed)
        fetch(first_of(share, NEAR_BAG_NOW));
    return freed;
}

void near__recycle_more(struct near__local *local, struct near__reader *reader)
{
    struct near__share *share = &reader->share;
    if (first_of(share, NEAR_BAG_NOW) && first_of(share, NEAR_BAG_NEXT) && ++share->behind % BEHIND == 0)
        near__recycle(local, reader, 1);
}

/* ---------------------------------------------------------------- pins */

static void condemn(struct near__entry *list)
{
    for (struct near__entry *entry = list; entry; entry = near__entry_next(entry))
        near__entry_mark(entry, NEAR_ENTRY_CONDEMNED);
}

/* strangers, an int: retired ones that are pinned, and neither condemned nor kept already. */
static void look(void *strangers, struct near__entry *entry)
{
    if (near__entry_is_condemned(entry))
        near__entry_mark(entry, NEAR_ENTRY_KEPT);
    else if (near__entry_is_retired(entry) && !near__entry_is_kept(entry))
        *(int *)strangers = 1;
}

/* 1: there is a stranger. */
static int look_at_pins(struct near__local *local)
{
    int strangers = 0;
    if (!NEAR_MUTANT(PINS_IGNORED))
        near__pins_each(local, look, &strangers);
    return strangers;
}

/* Frees what is still condemned; the others go to the front of *kept. */
static int64_t free_condemned(struct near__local *local, struct near__entry *list, struct near__entry **kept,
                              int64_t *ret_kept)
{
    int64_t freed = 0;
    while (list) {
        struct near__entry *entry = list;
        int64_t cost = cost_of(local, entry);
        list = near__entry_next(entry);
        if (near__entry_is_condemned(entry)) {
            freed += cost;
            near__block_free(local, NULL, entry);
        } else {
            *ret_kept += cost;
            near__entry_link(entry, *kept);
            *kept = entry;
        }
    }
    return freed;
}

/* When nothing of it is pinned. */
static int64_t free_all(struct near__local *local, struct near__entry *list)
{
    int64_t freed = 0;
    while (list) {
        struct near__entry *entry = list;
        list = near__entry_next(entry);
        freed += near__block_free(local, NULL, entry);
    }
    return freed;
}

/* ---------------------------------------------------------------- the keeper's round */

static struct near__entry *take(_Atomic(struct near__entry *) *list)
{
    if (!atomic_load_explicit(list, memory_order_relaxed)) /* relaxed: what comes later is found the next time */
        return NULL;
    return atomic_exchange_explicit(list, NULL, memory_order_acquire); /* acquire: pairs with push */
}

/* Some thread has something in one of the bags from the first to the last of these. */
static int is_any_in(const struct near__local *local, enum near__bags from, enum near__bags to)
{
    for (const struct near__reader *reader = near__readers_first(local); reader; reader = reader->next)
        for (enum near__bags which = from; which <= to; which++)
            if (first_of(&reader->share, which))
                return 1;
    return 0;
}

static uint64_t phase_of(const struct near__local *local)
{
    return atomic_load_explicit(&local->budget.phase, memory_order_relaxed); /* relaxed: only the keeper changes it */
}

static void set_phase(struct near__local *local, uint64_t phase)
{
    /* seq_cst: pairs with has_bags [b1]; and release: what was done in the phase that ends comes before */
    atomic_store_explicit(&local->budget.phase, phase, memory_order_seq_cst);
}

static void await(struct near__local *local, int recalled)
{
    set_phase(local, (phase_of(local) & ~RECALLED) | RUNNING | (recalled ? RECALLED : 0));
    if (!NEAR_MUTANT(GRACE_UNAWAITED))
        near__rcu_synchronize();
}

/* Moves all that is in bags, which have been recalled, in front of *batch. */
static void empty_bags(struct near__local *local, struct near__entry **batch)
{
    for (struct near__reader *reader = near__readers_first(local); reader; reader = reader->next)
        for (enum near__bags which = 0; which < NEAR_BAG_MAX; which++) {
            struct near__bag *bag = &reader->share.bag[which];
            if (!first_of(&reader->share, which))
                continue;
            near__entry_link(bag->last, *batch);
            *batch = first_of(&reader->share, which);
            set_first(&reader->share, which, NULL);
        }
}

/* What is kept is walked over in a sixteenth of the time at the most: 200,000 values that somebody holds, and nothing
 * else to do, took 40 % of a processor.  A thousand take nothing that is worth a delay. */
#define KEPT_PART 16
#define KEPT_LITTLE_NS NEAR_NS_PER_MS

static struct near__entry *kept_if_due(const struct near__local *local)
{
    return near__now(local->clock) >= local->keeper.kept_due_ns ? local->keeper.kept : NULL;
}

static void put_kept_off(struct near__local *local, int64_t cost_ns)
{
    if (cost_ns >= KEPT_LITTLE_NS)
        local->keeper.kept_due_ns = near__now(local->clock) + (KEPT_PART - 1) * cost_ns;
}

/* After the grace period, and when nothing is pinned of what is in bags unless they have been recalled. */
static void free_unpinned(struct near__local *local, struct near__entry *batch, struct near__entry *before, int pinned,
                          struct freed *ret)
{
    struct near__keeper *keeper = &local->keeper;
    if (before)
        keeper->kept = NULL;
    if (pinned) {
        condemn(batch);
        look_at_pins(local);
        ret->batch = free_condemned(local, batch, &keeper->kept, &ret->kept_batch);
    } else { /* one walk over cold entries instead of two */
        ret->batch = free_all(local, batch);
    }
    if (before) {
        int64_t used_ns = near__keeper_used_ns();
        ret->before = free_condemned(local, before, &keeper->kept, &ret->kept_before);
        put_kept_off(local, near__keeper_used_ns() - used_ns);
    }
    near__blocks_settle(local);
}

int near__reclaim(struct near__local *local, int all)
{
    struct near__budget *budget = &local->budget;
    struct near__entry *before = kept_if_due(local), *batch = take(&local->limbo);
    struct freed freed = {0};
    int recalled = all || local->manual;
    int bags = is_any_in(local, NEAR_BAG_FRESH, recalled ? NEAR_BAG_NOW : NEAR_BAG_WAITING), any = bags || batch;
    if (!any && !before)
        return 0;
    condemn(before);
    if (any)
        await(local, recalled);
    int pinned = look_at_pins(local);
    if (any && pinned && !recalled && !NEAR_MUTANT(PINNED_HANDED_BACK))
        await(local, recalled = 1); /* [b3] */
    if (any && recalled)
        empty_bags(local, &batch);
    if (any) /* [b4] */
        set_phase(local, (phase_of(local) & ~RECALLED) + RUNNING);
    free_unpinned(local, batch, before, pinned, &freed);
    /* relaxed: counts.  `used` last: for a moment too much seems live rather than too little */
    atomic_fetch_add_explicit(&budget->kept, freed.kept_batch - freed.before, memory_order_relaxed);
    atomic_fetch_sub_explicit(&budget->retired, freed.batch + freed.kept_batch, memory_order_relaxed);
    atomic_fetch_sub_explicit(&budget->used, freed.batch + freed.before, memory_order_relaxed);
    int done = (bags && !recalled) || freed.batch + freed.before > 0;
    if (done)
        near__keeper_tell_freed(local);
    return done;
}

/* So much is retired that fills are about to be refused: all of them, or the largest.  Where those find room below the
 * budget (a limit on entries is the one that counts) it stands in nobody's way. */
static int is_pressing(const struct near__local *local)
{
    /* relaxed, all: counts */
    int64_t max = atomic_load_explicit(&local->budget.max, memory_order_relaxed);
    int64_t used = atomic_load_explicit(&local->budget.used, memory_order_relaxed);
    int64_t retired = atomic_load_explicit(&local->budget.retired, memory_order_relaxed);
    return used > max - near__tier_value_limit(local) && retired > (near__budget_ceiling(max) - max) / 4 * 3;
}

void near__reclaim_some(struct near__local *local)
{
    struct near__keeper *keeper = &local->keeper;
    keeper->pressing = is_pressing(local) ? keeper->pressing + 1 : 0;
    int all = keeper->pressing == PRESSING_ROUNDS;
    if (all)
        keeper->pressing = 0;
    near__reclaim(local, all);
}

int near__reclaim_is_due(const struct near__local *local)
{
    /* relaxed: a look; what comes later has its own wake-up */
    return atomic_load_explicit(&local->limbo, memory_order_relaxed) != NULL ||
           is_any_in(local, NEAR_BAG_FRESH, NEAR_BAG_NOW);
}

static void drop_list(struct near__local *local, struct near__entry *list)
{
    while (list) {
        struct near__entry *entry = list;
        list = near__entry_next(entry);
        near__block_drop(local, entry);
    }
}

/* At close: nobody is left who could read or pin. */
void near__reclaim_close(struct near__local *local)
{
    struct near__entry *batch = take(&local->limbo);
    empty_bags(local, &batch);
    drop_list(local, batch);
    drop_list(local, local->keeper.kept);
}
