/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Where entries live: small ones in the arena, large ones in the allocator's memory, all of them there when the
 * application brought an allocator of its own, when the budget was small at the opening, or when a slab is less than a
 * page (64 KiB with some kernels): to give it back to the kernel would be to give those beside it.
 *
 * ---- Moving entries (the keeper's)
 *
 * When a class of blocks lacks a slab and none may be added, when a large entry finds its place held by slabs, or when
 * more is held than the budget at rest, the keeper empties the slabs that the arena has chosen.  It looks at every word
 * of the index, once:
 *
 *   r1. Charge the copy, below the ceiling: in used and in retired, since of the two entries one will be.
 *   r2. Take a block of another slab and copy the entry.  What is copied never changes once it is published, but for
 *       the access stamp: a use that is noted in the old entry from now on is lost, and a hot entry looks a little
 *       older.
 *   r3. Take the queue word out of the old entry, where there are queues: nobody changes it from now on (order.h), and
 *       whoever retires the entry finds none.  If there is none already the entry has gone: leave it alone.
 *   r4. Swap the slot from the old word to the new one, which is visible as the old one was (index.c, "Another copy").
 *       Failed: the entry has been removed or replaced meanwhile; the copy was never visible and goes back, and so do
 *       the bytes of its queue.
 *   r5. Push the old entry into the common limbo.  It is retired as every entry is: sections that found it read it, and
 *       pins keep it.
 *
 * Only the keeper moves, in one table; so this never meets a migration, a sweep or the marks of reclamation, which are
 * the keeper's as well.  A clearing or a watermark in between holds for the copy as for the entry: it has the same era
 * and the same position.
 *
 * Counts.  The entry's bytes and its place among the entries pass to the copy; what r1 has charged passes to the old
 * entry, and goes when that is freed.  Between r3 and r4 the bytes of the queue belong to nobody's word: whoever
 * retires the entry in that time leaves them, and then r4 fails and takes them back.
 *
 * ---- Who waits for room, and why it comes
 *
 * `used` counts entries as if slabs were always full, so fills that evict by it may find a ceiling that holes have used
 * up.  A fill that finds no block says so (near__arena_starve), is refused, and wakes the keeper, as does a large entry
 * with its size.  The keeper
 *
 *   w1. chooses, moves, frees what has passed a grace period; for a large entry it gives empty slabs back.  A pass over
 *       the index that was in vain for a slab, since something of it is in a stock or is held, is not made for that
 *       slab again before twenty times as long has passed;
 *   w2. if what was wanted fits now, that is all;
 *   w3. otherwise evicts a slab's worth of entries, the least useful ones as ever, and begins again.
 *
 * At most once for each class there may be: each round adds a slab's worth of free blocks, and a class can have no more
 * than that in holes without having a slab to choose.  What may still stand in the way are blocks in stocks (a 16th of
 * the budget: arena.c) and values that the application holds: those are `kept`, count as live, and give up room when
 * they are released.  Rules that spare entries may leave nothing to evict; then fills are refused as they are under
 * those rules.
 *
 * A slab is empty when everything of it has come back: stocks of idle threads and values that are held may keep it for
 * another time. */
#include "local/rcu.h"
#include "local/tier.h"

#include "base/pages.h"

#define ARENA_MIN (INT64_C(4) << 20) /* smaller budgets would be lost in partly used slabs */
#define HUGE_MIN (INT64_C(64) << 20) /* smaller ones in pages that are used in part */
#define RETRIED 64                   /* freed on behalf of a fill that finds no block */
#define STEP_BUCKETS 64              /* looked at in one section */
#define MOVE_TRIES 16                /* of one section, when there is no room for copies */
#define SPARE_PART 64                /* of the slabs may be empty and in memory, ready for any class */
#define KEEPER_STOCK ((int64_t)NEAR_SLAB_SIZE)

int near__blocks_open(struct near__local *local)
{
    if (!local->alloc->is_malloc || near__gauge(&local->budget.max) < ARENA_MIN ||
        near__pages_round(1) > NEAR_SLAB_SIZE)
        return NEAR_OK;
    local->keeper.stock.keep = KEEPER_STOCK;
    return near__arena_open(local->alloc, near__gauge(&local->budget.max) >= HUGE_MIN, &local->budget.memory,
                            &local->arena);
}

void near__blocks_close(struct near__local *local)
{
    near__arena_close(local->arena);
}

/* ---------------------------------------------------------------- cost */

static unsigned class_of(const struct near__local *local, size_t size)
{
    return local->arena ? near__arena_class(local->arena, size) : NEAR_CLASS_NONE;
}

/* What the allocator will probably charge. */
static int64_t estimate(size_t size)
{
    return size < 128 * 1024 ? (int64_t)((size + 8 + 15) & ~(size_t)15) : (int64_t)((size + 16 + 4095) & ~(size_t)4095);
}

int64_t near__block_estimate(const struct near__local *local, size_t size)
{
    unsigned class = class_of(local, size);
    return class == NEAR_CLASS_NONE ? estimate(size) : near__arena_cost(local->arena, class);
}

int64_t near__block_cost(const struct near__local *local, const struct near__entry *entry)
{
    size_t size = near__entry_size(entry);
    unsigned class = class_of(local, size);
    return class == NEAR_CLASS_NONE ? near__entry_cost(local->alloc, entry) : near__arena_cost(local->arena, class);
}

int64_t near__blocks_total(const struct near__local *local)
{
    return local->arena ? near__gauge(&local->budget.memory) : 0;
}

static int64_t ceiling(const struct near__local *local)
{
    return near__budget_ceiling(near__gauge(&local->budget.max));
}

/* ---------------------------------------------------------------- take and free */

static void *take_large(struct near__local *local, size_t size, int64_t *ret_cost)
{
    void *block = near__alloc(local->alloc, size);
    if (!block || !near__pointer_fits(block)) {
        near__free(local->alloc, block);
        return NULL;
    }
    *ret_cost = (int64_t)near__alloc_cost(local->alloc, block, size);
    if (!local->arena)
        return block;
    if (near__budget_hold_some(local, *ret_cost, *ret_cost)) {
        atomic_fetch_add_explicit(&local->large_bytes, *ret_cost, memory_order_relaxed); /* relaxed: a count */
        return block;
    }
    near__arena_starve(local->arena, *ret_cost); /* slabs are in its way */
    near__free(local->alloc, block);
    return NULL;
}

static void *take_batch(struct near__local *local, struct near__reader *reader, unsigned class)
{
    int64_t keep = near__budget_keep(local), most = ceiling(local);
    void *block = near__arena_take(local->arena, &reader->stock, class, keep, most);
    if (!block && near__recycle(local, reader, RETRIED))
        block = near__arena_take(local->arena, &reader->stock, class, keep, most);
    return block;
}

void *near__block_take(struct near__local *local, struct near__reader *reader, size_t size, int64_t *ret_cost)
{
    unsigned class = class_of(local, size);
    if (class == NEAR_CLASS_NONE)
        return take_large(local, size, ret_cost);
    *ret_cost = near__arena_cost(local->arena, class);
    void *block = near__arena_pop(local->arena, &reader->stock, class);
    return block ? block : take_batch(local, reader, class);
}

/* Of a large one; its cost. */
static int64_t free_large(struct near__local *local, struct near__entry *entry)
{
    int64_t cost = near__entry_cost(local->alloc, entry);
    if (local->arena) {
        near__budget_hold(local, -cost);
        atomic_fetch_sub_explicit(&local->large_bytes, cost, memory_order_relaxed); /* relaxed: a count */
    }
    near__entry_free(local->alloc, entry);
    return cost;
}

int64_t near__block_free(struct near__local *local, struct near__reader *reader, struct near__entry *entry)
{
    unsigned class = class_of(local, near__entry_size(entry));
    if (class == NEAR_CLASS_NONE)
        return free_large(local, entry);
    near__arena_give(local->arena, reader ? &reader->stock : &local->keeper.stock, class, near__entry_block(entry));
    return near__arena_cost(local->arena, class);
}

void near__blocks_settle(struct near__local *local)
{
    if (local->arena)
        near__arena_settle(local->arena, &local->keeper.stock);
}

int near__blocks_need_dropping(const struct near__local *local)
{
    /* relaxed: asked when all other threads have gone */
    return !local->arena || atomic_load_explicit(&local->large_bytes, memory_order_relaxed) != 0;
}

void near__block_drop(struct near__local *local, struct near__entry *entry)
{
    if (entry && class_of(local, near__entry_size(entry)) == NEAR_CLASS_NONE)
        near__entry_free(local->alloc, entry);
}

/* ---------------------------------------------------------------- moving */

static struct near__entry *copy_of(struct near__local *local, const struct near__entry *entry, unsigned class)
{
    struct near__stock *stock = &local->keeper.stock;
    void *block = near__arena_pop(local->arena, stock, class);
    if (!block && !(block = near__arena_take(local->arena, stock, class, KEEPER_STOCK, ceiling(local))))
        return NULL;
    size_t key_size = near__entry_key_size(entry), value_size = near__entry_value_size(entry);
    struct near__entry *copy =
        near__entry_make(block, key_size, value_size, near__entry_flags(entry), near__entry_expires(entry));
    /* relaxed, all: published with the slot's word.  The head may be that of a retired entry: then r4 fails. */
    atomic_store_explicit(&copy->head, (uint64_t)near__entry_head(entry), memory_order_relaxed);
    atomic_store_explicit(&copy->access, atomic_load_explicit(&entry->access, memory_order_relaxed),
                          memory_order_relaxed);
    memcpy(copy->bytes, entry->bytes, key_size + value_size);
    return copy;
}

/* Two entries of one key in memory: charged, or (broken on purpose) not. */
static int charge_copy(struct near__local *local, int64_t cost)
{
    return NEAR_MUTANT(COPY_UNCHARGED) || near__budget_copy(local, cost);
}

/* One visible word, inside a read section.  0: there is no room for a copy. */
static int move(struct near__local *local, _Atomic(uint64_t) *slot, uint64_t word, unsigned class)
{
    struct near__entry *entry = near__word_entry(word);
    int64_t cost = near__arena_cost(local->arena, class);
    uint32_t queued = 0;
    if (!charge_copy(local, cost)) /* r1 */
        return 0;
    struct near__entry *copy = copy_of(local, entry, class); /* r2 */
    if (!copy) {
        near__budget_uncopy(local, cost);
        return 0;
    }
    int there = !local->queues || near__queue_detach(entry, &queued); /* r3 */
    if (local->queues)
        /* relaxed: published with the slot's word */
        atomic_store_explicit(near__entry_place(copy), queued, memory_order_relaxed);
    if (there && near__index_replace(slot, word, copy)) {                         /* r4 */
        near__reclaim_push(local, entry);                                         /* r5 */
        atomic_fetch_add_explicit(&local->keeper.moved, 1, memory_order_relaxed); /* relaxed: statistics */
        return 1;
    }
    if (queued)
        near__queue_cancel(local, copy, cost);
    near__arena_give(local->arena, &local->keeper.stock, class, near__entry_block(copy));
    near__budget_uncopy(local, cost);
    return 1;
}

static int move_slot(struct near__local *local, _Atomic(uint64_t) *slot)
{
    uint64_t word = near__step_load(slot);
    if (!near__word_is_visible(word))
        return 1;
    unsigned class = class_of(local, near__entry_size(near__word_entry(word)));
    if (class == NEAR_CLASS_NONE || !near__arena_is_leaving(near__word_entry(word)))
        return 1;
    return move(local, slot, word, class);
}

static int move_step(struct near__local *local, struct near__bucket *bucket, struct near__bucket *end)
{
    int going = 1;
    near__rcu_enter_any();
    for (; bucket < end && going; bucket++)
        for (unsigned i = 0; i < NEAR_BUCKET_SLOTS && going; i++)
            going = move_slot(local, &bucket->slot[i]);
    near__rcu_leave();
    return going;
}

/* 0: it was not everywhere. */
static int move_all(struct near__local *local)
{
    /* views are changed by this thread, and not now */
    const struct near__span *span = &near__index_tables(&local->index)->span[0];
    for (uint64_t b = 0; b < span->count; b += STEP_BUCKETS) {
        uint64_t end = b + STEP_BUCKETS < span->count ? b + STEP_BUCKETS : span->count;
        int going = move_step(local, span->bucket + b, span->bucket + end);
        if (near__keeper_is_stopped(local))
            return 0;
        /* Fills take the room for copies, too, while we wait for a grace period. */
        for (int tries = 0; !going && tries < MOVE_TRIES; tries++) {
            if (!near__reclaim(local, 1))
                return 0;
            going = move_step(local, span->bucket + b, span->bucket + end);
        }
        if (!going)
            return 0;
    }
    return 1;
}

/* ---------------------------------------------------------------- the keeper's round */

static void compact_all(struct near__local *local, int all)
{
    struct near__keeper *keeper = &local->keeper;
    if (!near__arena_choose(local->arena, all))
        return;
    int whole = move_all(local);
    near__arena_settle(local->arena, &keeper->stock);
    near__reclaim(local, 1);
    near__arena_unchoose(local->arena, whole);
}

/* Chooses, moves, frees.  A pass over the index takes its time, so slabs that did not become empty are tried again when
 * twenty times as long has passed, and nothing is tried before when nobody waits for it. */
static void compact(struct near__local *local, int awaited)
{
    struct near__keeper *keeper = &local->keeper;
    int64_t begun_ns = near__clock_kernel(CLOCK_MONOTONIC);
    int is_due = begun_ns >= keeper->compact_due_ns;
    if (keeper->next || !(is_due || awaited))
        return;
    compact_all(local, is_due);
    int64_t ended_ns = near__clock_kernel(CLOCK_MONOTONIC);
    if (is_due)
        keeper->compact_due_ns = ended_ns + 20 * (ended_ns - begun_ns);
}

int near__blocks_shrink(struct near__local *local, int64_t bytes)
{
    if (!local->arena || near__blocks_total(local) + bytes <= ceiling(local))
        return 0;
    int64_t before = near__arena_held(local->arena);
    compact(local, 1);
    near__arena_trim(local->arena, ceiling(local) - bytes, UINT64_MAX);
    return near__arena_held(local->arena) < before;
}

/* There is what somebody wants: a slab, or bytes below the ceiling. */
static int is_there(struct near__local *local, int64_t wanted)
{
    return near__blocks_total(local) + wanted <= ceiling(local) ||
           (wanted == (int64_t)NEAR_SLAB_SIZE && near__arena_has_empty(local->arena));
}

/* w1.  Where one large entry comes there will be more: not only what this one wants is given back. */
static void make_slabs(struct near__local *local, int64_t wanted)
{
    compact(local, 1);
    if (wanted != (int64_t)NEAR_SLAB_SIZE)
        near__arena_trim(local->arena, near__gauge(&local->budget.max) - wanted, UINT64_MAX);
}

/* w3.  0: nothing may go. */
static int evict_a_slab(struct near__local *local)
{
    struct near__moment moment = near__tier_moment(local);
    int64_t entries = near__gauge(&local->budget.entries), bytes = near__budget_live(local);
    int64_t victims = bytes > 0 && entries > 0 ? entries * (int64_t)NEAR_SLAB_SIZE / bytes + 1 : 1, evicted = 0;
    while (evicted < victims && near__evict_one(local, &local->keeper.hands, &moment))
        evicted++;
    near__reclaim(local, 1);
    return evicted > 0;
}

static void relieve(struct near__local *local, int64_t wanted)
{
    near__reclaim(local, 1);
    make_slabs(local, wanted);                                                              /* w1 */
    for (int rounds = 0; rounds < NEAR_CLASSES_MAX && !is_there(local, wanted); rounds++) { /* w2 */
        if (NEAR_MUTANT(HOLES_STAY) || near__keeper_is_stopped(local))
            break;
        if (!evict_a_slab(local)) /* w3 */
            break;
        make_slabs(local, wanted);
    }
    near__keeper_tell_freed(local); /* whoever waits tries again in any case */
}

void near__blocks_tend(struct near__local *local, int quiet)
{
    if (!local->arena)
        return;
    int64_t max = near__gauge(&local->budget.max), total = near__blocks_total(local),
            wanted = near__arena_wanted(local->arena);
    if (wanted)
        relieve(local, wanted);
    else if (total > ceiling(local) || (quiet && total > max))
        compact(local, 0);
    /* A slab that is given back ends the huge page that it is part of.  So while there is work, which will want it
     * again, only what is above the ceiling goes. */
    if (quiet)
        near__arena_trim(local->arena, max, (uint64_t)near__arena_held(local->arena) / NEAR_SLAB_SIZE / SPARE_PART);
    else if (near__blocks_total(local) > ceiling(local))
        near__arena_trim(local->arena, ceiling(local), UINT64_MAX);
}

int near__blocks_are_awaited(const struct near__local *local)
{
    return local->arena && near__arena_is_starved(local->arena);
}
