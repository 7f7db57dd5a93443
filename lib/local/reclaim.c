/* SPDX-License-Identifier: BSD-3-Clause
 *
 * From unlinked to free.
 *
 *      slot --unlink--> limbo --keeper takes it whole--> batch --grace period--> pinned? --no--> freed, or handed back
 *                                                                                   '--yes--> kept, looked at again next round
 *
 * Each thread has a limbo of its own, threads without a reader have a common one.  One swap pushes and needs no memory (the link
 * is in the entry, where its position was: entry.h tells why readers that still have the entry see at once that it is no position).
 * Nobody pops single entries there, so the swap has no ABA problem.  One thread, the keeper, does the rest.
 *
 * What a thread has retired is handed back to it after the grace period, if nothing at all is pinned: a list as it is, for one
 * store.  The thread frees one of them with each fill, and has its memory for the next one, so that memory stays on one processor
 * and the keeper, which would have to fetch every entry, is done with a list without looking at it.  There is room for two lists, so
 * that the next one may come before the last one is used up.  While there are two the thread is behind, and frees another one
 * at the end of each fill (not both at once: the second is fetched when the first is gone).  So it neither runs out of memory of
 * its own nor has more than it needs, which would go through the lists of the arena and come back cold.
 *
 * The thread pops inside a read section: an entry that it has seen at the head cannot go through a grace period and come back before the
 * section ends, so the swap has no ABA problem here either.  When nobody has woken the keeper for a while, or room is short, it takes
 * everything: what a thread has left lying goes through another grace period (the thread may just be looking at the head) and is
 * freed by the keeper.
 *
 * Which entries are pinned is found out without memory, too.  After the grace period nobody stores into the heads of the
 * batch any more, so the keeper can mark them without a swap: all of the batch are condemned
 * (a flag that no live entry has), then every pin spares what it points to if that is condemned, then what
 * is still condemned is freed.  A pin's entry may be looked at safely, dead or alive: freeing is the keeper's
 * alone, and it frees nothing that it sees pinned.
 *
 * When there is no pin at all after the grace period, the batch is freed as it is, unmarked: a pin that is set from then on is of
 * an entry that a section found after the grace period had begun, so not of the batch.  Entries that wait here have left the
 * caches, and marking them would fetch each twice. */
#include "local/rcu.h"
#include "local/tier.h"

#include "base/prefetch.h"

static void spare(struct near__entry *entry)
{
    if (near__entry_is_condemned(entry))
        near__entry_mark(entry, 0);
}

/* In bytes. */
struct freed {
    int64_t batch, before;           /* freed of what was retired since the last round, and of what was kept then */
    int64_t kept_batch, kept_before; /* kept of it, because it is pinned */
    int handed;                      /* something went back to its thread */
};

static int64_t cost_of(const struct near__local *local, const struct near__entry *entry)
{
    return near__block_cost(local, entry);
}

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
                              atomic_load_explicit(&reader->share.ended[why], memory_order_relaxed) + 1, memory_order_relaxed);
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
    near__budget_retire(local, reader, cost); /* before the push: the keeper never takes off what has not been put on */
    push(reader ? &reader->share.limbo : &local->limbo, entry);
}

void near__reclaim_push(struct near__local *local, struct near__entry *entry)
{
    push(&local->limbo, entry);
}

/* ---------------------------------------------------------------- handed back */

/* Inside a read section, by the owner. */
static struct near__entry *pop(_Atomic(struct near__entry *) *list)
{
    /* acquire, all: pairs with the keeper's store in hand_over; its look at the pins comes before our freeing */
    struct near__entry *head = atomic_load_explicit(list, memory_order_acquire);
    while (head && !atomic_compare_exchange_weak_explicit(list, &head, near__entry_next(head), memory_order_acquire,
                                                          memory_order_acquire))
        ;
    return head;
}

/* Pops wait for the link in the entry, and its memory is what the next fill writes to. */
static void fetch(const struct near__entry *next)
{
    near__prefetch_write(next);
    near__prefetch_write((const char *)next + 64);
    near__prefetch_write((const char *)next + 128);
}

/* relaxed: empty as a rule while nothing is evicted; a list that is just coming is found next time */
static struct near__entry *head_of(const struct near__share *share, unsigned i)
{
    return atomic_load_explicit(&share->returned[i], memory_order_relaxed);
}

/* The list that is being used up, or when it is empty the other one. */
static _Atomic(struct near__entry *) *current(struct near__share *share)
{
    if (!head_of(share, share->turn))
        share->turn ^= 1;
    return &share->returned[share->turn];
}

int near__recycle(struct near__local *local, struct near__reader *reader, int most)
{
    struct near__share *share = &reader->share;
    struct near__entry *entry;
    int freed = 0;
    if (!head_of(share, 0) && !head_of(share, 1))
        return 0;
    for (; freed < most && (entry = pop(current(share))) != NULL; freed++)
        near__budget_free(local, reader, near__block_free(local, reader, entry));
    fetch(atomic_load_explicit(current(share), memory_order_relaxed)); /* relaxed: only an address */
    return freed;
}

int near__recycle_more(struct near__local *local, struct near__reader *reader)
{
    return head_of(&reader->share, 0) && head_of(&reader->share, 1) && near__recycle(local, reader, 1);
}

static void condemn(struct near__entry *list)
{
    for (struct near__entry *entry = list; entry; entry = near__entry_next(entry))
        near__entry_mark(entry, NEAR_ENTRY_CONDEMNED);
}

/* Frees what is still condemned; the others go to the front of *kept. */
static int64_t free_condemned(struct near__local *local, struct near__entry *list, struct near__entry **kept, int64_t *ret_kept)
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

/* When nothing at all is pinned. */
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

static struct near__reader *readers_of(const struct near__local *local)
{
    /* acquire: pairs with the push of a reader */
    return atomic_load_explicit(&local->readers, memory_order_acquire);
}

static struct near__entry *take(_Atomic(struct near__entry *) *list)
{
    /* acquire: pairs with push */
    return atomic_load_explicit(list, memory_order_relaxed) ? atomic_exchange_explicit(list, NULL, memory_order_acquire) : NULL;
}

/* Moves all of `from` in front of *into. */
static void join(struct near__entry **into, struct near__entry *from)
{
    while (from) {
        struct near__entry *entry = from;
        from = near__entry_next(entry);
        near__entry_link(entry, *into);
        *into = entry;
    }
}

static int has_room_for_a_list(const struct near__share *share)
{
    return !head_of(share, 0) || !head_of(share, 1); /* only the keeper, who asks, makes them anything but empty */
}

/* Takes what waits.  1: there is something.  Common limbo and, with `all`, what threads have into the batch; otherwise of each thread
 * that has room for a list its own limbo. */
static int collect(struct near__local *local, int all, struct near__entry **ret_batch)
{
    int any = 0;
    *ret_batch = take(&local->limbo);
    for (struct near__reader *reader = readers_of(local); reader; reader = reader->next) {
        struct near__share *share = &reader->share;
        if (all) {
            join(ret_batch, take(&share->returned[0]));
            join(ret_batch, take(&share->returned[1]));
            join(ret_batch, take(&share->limbo));
        } else if (has_room_for_a_list(share)) {
            share->grace = take(&share->limbo);
            any |= share->grace != NULL;
        }
    }
    return any || *ret_batch;
}

/* Nothing is pinned: lists go back as they are.  1: something was handed over. */
static int hand_over(struct near__local *local)
{
    int handed = 0;
    for (struct near__reader *reader = readers_of(local); reader; reader = reader->next) {
        struct near__share *share = &reader->share;
        if (!share->grace)
            continue;
        /* release: pairs with pop; one was empty, and only we change that */
        atomic_store_explicit(&share->returned[head_of(share, 0) != NULL], share->grace, memory_order_release);
        share->grace = NULL;
        handed = 1;
    }
    return handed;
}

static void join_all(struct near__local *local, struct near__entry **batch)
{
    for (struct near__reader *reader = readers_of(local); reader; reader = reader->next) {
        join(batch, reader->share.grace);
        reader->share.grace = NULL;
    }
}

/* After the grace period; what is pinned of both lists becomes keeper->kept. */
static void free_unpinned(struct near__local *local, struct near__entry *batch, struct near__entry *before, struct freed *ret)
{
    struct near__keeper *keeper = &local->keeper;
    keeper->kept = NULL;
    if (!near__local_pinned(local)) { /* one walk over cold entries instead of two, or none */
        ret->handed = hand_over(local);
        ret->before = free_all(local, before);
        ret->batch = free_all(local, batch);
        return;
    }
    join_all(local, &batch);
    condemn(batch);
    condemn(before);
    if (!NEAR_MUTANT(PINS_IGNORED))
        near__pins_each(local, spare);
    ret->before = free_condemned(local, before, &keeper->kept, &ret->kept_before);
    ret->batch = free_condemned(local, batch, &keeper->kept, &ret->kept_batch);
}

int near__reclaim(struct near__local *local, int all)
{
    struct near__keeper *keeper = &local->keeper;
    struct near__budget *budget = &local->budget;
    struct near__entry *batch, *before = keeper->kept;
    struct freed freed = {0};
    int any = collect(local, all || local->manual, &batch);

    if (!any && !before)
        return 0;
    if (any)
        near__rcu_synchronize();
    free_unpinned(local, batch, before, &freed);
    /* relaxed: counts.  `used` last: for a moment too much seems live rather than too little */
    atomic_fetch_add_explicit(&budget->kept, freed.kept_batch - freed.before, memory_order_relaxed);
    atomic_fetch_sub_explicit(&budget->retired, freed.batch + freed.kept_batch, memory_order_relaxed);
    atomic_fetch_sub_explicit(&budget->used, freed.batch + freed.before, memory_order_relaxed);
    int done = freed.handed || freed.batch + freed.before > 0;
    if (done)
        near__keeper_tell_freed(local);
    return done;
}

int near__reclaim_is_pressing(const struct near__local *local)
{
    /* relaxed, both: counts */
    int64_t max = atomic_load_explicit(&local->budget.max, memory_order_relaxed);
    return atomic_load_explicit(&local->budget.retired, memory_order_relaxed) > (near__budget_ceiling(max) - max) / 4 * 3;
}

int near__reclaim_is_due(const struct near__local *local)
{
    /* relaxed, all: a look; what comes later has its own wake-up */
    if (atomic_load_explicit(&local->limbo, memory_order_relaxed))
        return 1;
    for (struct near__reader *reader = readers_of(local); reader; reader = reader->next)
        if (atomic_load_explicit(&reader->share.limbo, memory_order_relaxed) || head_of(&reader->share, 0) || head_of(&reader->share, 1))
            return 1;
    return 0;
}

static void free_list(struct near__local *local, struct near__entry *list)
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
    free_list(local, take(&local->limbo));
    free_list(local, local->keeper.kept);
    for (struct near__reader *reader = readers_of(local); reader; reader = reader->next) {
        free_list(local, take(&reader->share.limbo));
        free_list(local, take(&reader->share.returned[0]));
        free_list(local, take(&reader->share.returned[1]));
    }
}
