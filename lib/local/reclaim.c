/* SPDX-License-Identifier: BSD-3-Clause
 *
 * From unlinked to free.
 *
 *      slot --unlink--> limbo --keeper takes it whole--> batch --grace period--> pinned? --no--> freed
 *                                                                                   '--yes--> kept, looked at again next round
 *
 * Anybody pushes into limbo with one swap and no memory (the link is in the entry).  Nobody pops single entries, so the
 * swap has no ABA problem.  One thread, the keeper, does the rest.
 *
 * Which entries are pinned is found out without memory, too.  After the grace period nobody reads the heads of the
 * batch any more (a pinned reader has its pointers), so they can hold a mark: all of the batch are condemned
 * (position 0, which no live entry has), then every pin spares what it points to if that is condemned, then what
 * is still condemned is freed.  A pin's entry may be looked at safely, dead or alive: freeing is the keeper's
 * alone, and it frees nothing that it sees pinned.
 *
 * When there is no pin at all after the grace period, the batch is freed as it is, unmarked: a pin that is set from then on is of
 * an entry that a section found after the grace period had begun, so not of the batch.  Entries that wait here have left the
 * caches, and marking them would fetch each twice. */
#include "local/rcu.h"
#include "local/tier.h"

#define CONDEMNED UINT64_C(0)
#define SPARED NEAR_POSITION_MAX /* installs refuse it */

static void mark(struct near__entry *entry, uint64_t position)
{
    /* relaxed: the keeper's alone, after the grace period */
    atomic_store_explicit(&entry->head, position << 16 | near__entry_key_size(entry), memory_order_relaxed);
}

static void spare(struct near__entry *entry)
{
    if (near__entry_position(entry) == CONDEMNED)
        mark(entry, SPARED);
}

/* In bytes. */
struct freed {
    int64_t batch, before;           /* freed of what was retired since the last round, and of what was kept then */
    int64_t kept_batch, kept_before; /* kept of it, because it is pinned */
};

static int64_t cost_of(const struct near__local *local, const struct near__entry *entry)
{
    return (int64_t)near__alloc_cost(local->alloc, entry, near__entry_size(entry));
}

void near__retire(struct near__index *index, struct near__entry *entry, enum near__why why)
{
    struct near__local *local = near__local_of(index);
    struct near__budget *budget = &local->budget;
    int64_t cost = cost_of(local, entry);
    /* relaxed: counts.  `retired` first, so that the keeper never takes off what has not been put on */
    int64_t retired = cost + atomic_fetch_add_explicit(&budget->retired, cost, memory_order_relaxed);
    atomic_fetch_sub_explicit(&budget->entries, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&local->ended[why], 1, memory_order_relaxed);
    if (local->queues)
        near__queue_leave(local, entry, cost, why);

    struct near__entry *head = atomic_load_explicit(&local->limbo, memory_order_relaxed); /* relaxed: the swap decides */
    do
        near__entry_link(entry, head);
    /* release: pairs with the exchange in near__reclaim; publishes the link and the charge */
    while (!atomic_compare_exchange_weak_explicit(&local->limbo, &head, entry, memory_order_release, memory_order_relaxed));

    int64_t max = atomic_load_explicit(&budget->max, memory_order_relaxed); /* relaxed: a hint */
    if (retired > (near__budget_ceiling(max) - max) / 4)
        near__keeper_wake(local);
}

static void condemn(struct near__entry *list)
{
    for (struct near__entry *entry = list; entry; entry = near__entry_next(entry))
        mark(entry, CONDEMNED);
}

/* Frees what is still condemned; the others go to the front of *kept. */
static int64_t free_condemned(struct near__local *local, struct near__entry *list, struct near__entry **kept, int64_t *ret_kept)
{
    int64_t freed = 0;
    while (list) {
        struct near__entry *entry = list;
        int64_t cost = cost_of(local, entry);
        list = near__entry_next(entry);
        if (near__entry_position(entry) == CONDEMNED) {
            freed += cost;
            near__free(local->alloc, entry);
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
        freed += cost_of(local, entry);
        near__free(local->alloc, entry);
    }
    return freed;
}

/* After the grace period; what is pinned of both lists becomes keeper->kept. */
static void free_unpinned(struct near__local *local, struct near__entry *batch, struct near__entry *before, struct freed *ret)
{
    struct near__keeper *keeper = &local->keeper;
    keeper->kept = NULL;
    if (!near__local_pinned(local)) { /* one walk over cold entries instead of two */
        ret->before = free_all(local, before);
        ret->batch = free_all(local, batch);
        return;
    }
    condemn(batch);
    condemn(before);
    if (!NEAR_MUTANT(PINS_IGNORED))
        near__pins_each(local, spare);
    ret->before = free_condemned(local, before, &keeper->kept, &ret->kept_before);
    ret->batch = free_condemned(local, batch, &keeper->kept, &ret->kept_batch);
}

void near__reclaim(struct near__local *local)
{
    struct near__keeper *keeper = &local->keeper;
    struct near__budget *budget = &local->budget;
    /* acquire: pairs with the push in near__retire */
    struct near__entry *batch = atomic_exchange_explicit(&local->limbo, NULL, memory_order_acquire);
    struct near__entry *before = keeper->kept;
    struct freed freed = {0};

    if (!batch && !before)
        return;
    if (batch)
        near__rcu_synchronize();
    free_unpinned(local, batch, before, &freed);
    /* relaxed: counts.  `used` first: for a moment too much seems live rather than too little */
    atomic_fetch_add_explicit(&budget->kept, freed.kept_batch - freed.before, memory_order_relaxed);
    atomic_fetch_sub_explicit(&budget->retired, freed.batch + freed.kept_batch, memory_order_relaxed);
    atomic_fetch_sub_explicit(&budget->used, freed.batch + freed.before, memory_order_relaxed);
    if (freed.batch + freed.before)
        near__keeper_tell_freed(local);
}

/* At close: nobody is left who could read or pin. */
void near__reclaim_close(struct near__local *local)
{
    struct near__entry *list = atomic_exchange_explicit(&local->limbo, NULL, memory_order_acquire);
    for (int round = 0; round < 2; round++, list = local->keeper.kept)
        while (list) {
            struct near__entry *entry = list;
            list = near__entry_next(entry);
            near__free(local->alloc, entry);
        }
}
