/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The tables of the index, and their growing and shrinking.
 *
 *      STEADY(old) --> PREPARE --> MIGRATE ---- every bucket moved ----> STEADY(new)
 *               grace      grace  |                               grace, then old is freed
 *                                 `- outgrown --> MIGRATE back ---> STEADY(old)
 *                                                 grace            grace, then new is freed
 *
 * The views and why they may follow one another are described in index.c.  Only the keeper comes here; readers and
 * installs never wait for it, and when it is stopped in the middle both tables stay in use.
 *
 * A burst may begin while a table is made smaller, and then all that is filled goes into the small one until the whole
 * of the large one has been looked at, a fifth of a second with a budget of 8 GiB.  So who moves watches the number of
 * entries, and turns back when the small one is no longer for them.  Both views install into different tables, and
 * both scan both, as PREPARE and MIGRATE do, so one may follow the other; and nothing moves until the first is out of
 * use, so that it may look at the tables in its own order. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "local/rcu.h"
#include "local/tables.h"

#include <sys/mman.h>

#include "base/pages.h"

#define STEP_BUCKETS 64 /* moved in one section */
#define MAPPED_MIN (128 << 10)
#define IDLE_LOOKS 16 /* as many as a table of 1,024 buckets takes */

/* ---------------------------------------------------------------- one table */

/* A random read of a big table misses the TLB, too: huge pages are worth a third (docs/design.md).  So a large table
 * has a mapping that begins where a huge page does; otherwise up to two of them at its ends would be small pages.
 * Smaller ones are mapped so that they go when they are freed: what malloc once had to map it keeps in its heap the
 * next time, and a tier of 16 MiB that grew and was cleared ten times stood at 18.5 MiB, and at 2.6 in the end, of
 * which it knew 1.1. */
static void *map_table(size_t size)
{
    void *memory = near__pages_map(size);
    if (memory)
        (void)madvise(memory, size & ~(NEAR_HUGE_PAGE - 1), MADV_HUGEPAGE); /* only advice */
    return memory;
}

static struct near__table *make_table(const struct near__local *local, uint64_t buckets)
{
    size_t size = near__table_size(buckets),
           mapped = local->alloc->is_malloc && size >= MAPPED_MIN ? near__pages_round(size) : 0;
    struct near__table *table = mapped ? map_table(mapped) : near__alloc_zero(local->alloc, size);
    if (!table)
        return NULL;
    table->mapped = mapped;
    table->cost = mapped ? mapped : near__alloc_cost(local->alloc, table, size);
    uintptr_t first = (uintptr_t)(table + 1);
    table->span.bucket = (struct near__bucket *)((first + NEAR_GROUP_SIZE - 1) & ~(uintptr_t)(NEAR_GROUP_SIZE - 1));
    table->span.count = buckets;
    table->steady = (struct near__tables){.span = {table->span}, .spans = 1, .target = 0};
    return table;
}

static void free_table(const struct near__local *local, struct near__table *table)
{
    if (table->mapped)
        near__pages_unmap(table, table->mapped);
    else
        near__free(local->alloc, table);
}

static void charge_table(struct near__local *local, int64_t bytes)
{
    /* relaxed, both: counts */
    atomic_fetch_add_explicit(&local->budget.used, bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&local->index_bytes, (uint64_t)bytes, memory_order_relaxed);
    near__budget_hold(local, bytes);
}

static void drop_table(struct near__local *local, struct near__table *table)
{
    charge_table(local, -(int64_t)table->cost);
    free_table(local, table);
}

int near__tables_open(struct near__local *local)
{
    struct near__table *table = make_table(local, near__table_least(local));
    if (!table)
        return NEAR_ERR_NOMEM;
    charge_table(local, (int64_t)table->cost);
    local->keeper.table = table;
    table->steady.serial = ++local->keeper.views;
    atomic_store_explicit(&local->index.tables, &table->steady, memory_order_release); /* nobody else is here yet */
    atomic_store_explicit(&local->moved_permille, 1000, memory_order_relaxed);
    near__table_set_alarm(local);
    return NEAR_OK;
}

static void close_table(struct near__local *local, struct near__table *table)
{
    if (!table)
        return;
    for (uint64_t b = 0; b < table->span.count && near__blocks_need_dropping(local); b++)
        for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++)
            near__block_drop(local, near__word_entry(near__step_load(&table->span.bucket[b].slot[i])));
    free_table(local, table);
}

void near__tables_close(struct near__local *local)
{
    close_table(local, local->keeper.table);
    close_table(local, local->keeper.next);
}

/* ---------------------------------------------------------------- moving */

static void publish(struct near__local *local, struct near__tables *view)
{
    view->serial = ++local->keeper.views;
    /* seq_cst: pairs with near__index_tables; publishes the view and zeroed buckets, and stands in the one order of
     * steps that the argument in index.c speaks of */
    atomic_store_explicit(&local->index.tables, view, memory_order_seq_cst);
    near__rcu_synchronize();
}

/* What was retired when move_all last looked, how many looks ago that has changed, and when the next one is. */
struct pressure {
    int64_t retired;
    int idle_looks;
    int64_t due_ns;
};

/* In a burst of fills buckets are full until all is moved, and whoever fills lives on what it evicts.  If that were
 * recalled, keeper and fillers would fight for the arena's locks and the table be ready much later: of 600,000 entries
 * filled into a tier for 466,000, 260,000 to 350,000 were there afterwards in one burst of fourteen, where another
 * program had one of two processors (in one of four when the table grew at 6.1).  Only what nobody comes for is taken
 * away.
 *
 * Where every processor has a thread that fills, a grace period takes as long as thousands of steps, and until the
 * table is ready fills are refused.  So as much time goes into moving as into those.  (Two threads that fill a tier of
 * 32 MiB on two processors while its index grows, twenty times: 18 ms and one fill refused; with a look at each step
 * 700 to 1,000 ms and nearly a million, means.) */
static void relieve(struct near__local *local, struct pressure *pressure)
{
    int64_t begun_ns = near__clock_kernel(CLOCK_MONOTONIC);
    if (!near__is_pressed(local) || begun_ns < pressure->due_ns)
        return;
    int64_t retired = near__gauge(&local->budget.retired);
    if (retired != pressure->retired) {
        if (retired > pressure->retired)
            near__reclaim_some(local);
        else
            near__reclaim(local, 0); /* somebody comes for it */
        pressure->idle_looks = 0;
    } else if (++pressure->idle_looks == IDLE_LOOKS) {
        near__reclaim(local, 1);
        pressure->idle_looks = 0;
    }
    pressure->retired = near__gauge(&local->budget.retired);
    int64_t ended_ns = near__clock_kernel(CLOCK_MONOTONIC);
    pressure->due_ns = ended_ns + (ended_ns - begun_ns);
}

enum moved { MOVED, STOPPED, OUTGROWN };

/* OUTGROWN: there are more entries than `most`. */
static enum moved move_all(struct near__local *local, const struct near__table *from, const struct near__table *to,
                           uint64_t most)
{
    struct pressure pressure = {0, 0, 0};
    for (uint64_t b = 0; b < from->span.count;) {
        struct near__moment moment = near__tier_moment(local);
        moment.idle = 0; /* we may be kept off the processor now, and what is read meanwhile is not idle */
        uint64_t end = b + STEP_BUCKETS < from->span.count ? b + STEP_BUCKETS : from->span.count;
        near__rcu_enter();
        for (; b < end; b++)
            near__index_move(&local->index, &from->span.bucket[b], &to->span, &moment);
        near__rcu_leave();
        /* relaxed: statistics */
        atomic_store_explicit(&local->moved_permille, (uint32_t)(b * 999 / from->span.count), memory_order_relaxed);
        if (near__keeper_is_stopped(local))
            return STOPPED;
        if (near__entries_now(local) > most)
            return OUTGROWN;
        relieve(local, &pressure);
    }
    return MOVED;
}

/* ---------------------------------------------------------------- from one table to another */

/* Charges the bytes of a table bit by bit, evicting and freeing as installs would.  Charged bytes are not available to
 * them, so it gets there.  0: it did not; nothing is charged. */
static int reserve_table(struct near__local *local, int64_t bytes)
{
    int64_t charged = 0;
    while (charged < bytes && !near__keeper_is_stopped(local)) {
        int64_t part = near__budget_charge_some(local, bytes - charged);
        atomic_fetch_add_explicit(&local->index_bytes, (uint64_t)part, memory_order_relaxed); /* relaxed: a count */
        charged += part;
        int evicted = near__limits_evict(local, 0, 0);
        int freed = charged < bytes && (near__reclaim(local, 1) | near__blocks_shrink(local, bytes - charged));
        if (part <= 0 && !evicted && !freed)
            break;
    }
    if (charged < bytes) {
        charge_table(local, -charged);
        return 0;
    }
    return 1;
}

/* An old table goes. */
static void give_up(struct near__local *local, struct near__table *table)
{
    near__limits_leave(local, (int64_t)table->cost);
    drop_table(local, table);
}

/* From PREPARE on everybody looks at both tables, so this may be done to and fro. */
static enum moved carry_over(struct near__local *local, const struct near__table *from, struct near__table *to,
                             uint64_t most)
{
    atomic_store_explicit(&local->moved_permille, 0, memory_order_relaxed); /* relaxed: statistics */
    to->migrate = (struct near__tables){.span = {from->span, to->span}, .spans = 2, .target = 1};
    publish(local, &to->migrate);
    return move_all(local, from, to, most);
}

/* Takes over `to`, whose bytes are charged already; not, if there come to be more entries than `most`. */
static void migrate(struct near__local *local, struct near__table *to, uint64_t most)
{
    struct near__table *from = local->keeper.table;
    local->keeper.next = to;
    to->prepare = (struct near__tables){.span = {from->span, to->span}, .spans = 2, .target = 0};
    publish(local, &to->prepare);
    enum moved moved = carry_over(local, from, to, most);
    if (moved == OUTGROWN) {
        struct near__table *small = to;
        to = from;
        from = small;
        moved = carry_over(local, from, to, UINT64_MAX);
    }
    if (moved == STOPPED)
        return; /* being closed: both tables are freed there */
    publish(local, &to->steady);
    local->keeper.table = to;
    local->keeper.next = NULL;
    local->keeper.swept = 0;
    atomic_store_explicit(&local->moved_permille, 1000, memory_order_relaxed); /* relaxed: statistics */
    give_up(local, from);
}

/* Of a table that is made smaller since the tier is calm: with more entries it is not any more.  Half an entry a bucket
 * leaves room for what comes until the way back is open, two grace periods later. */
static uint64_t outgrown_from(const struct near__local *local, uint64_t buckets)
{
    uint64_t entries = near__entries_now(local);
    return entries + entries / 8 + buckets / 2;
}

static void change_to(struct near__local *local, uint64_t buckets)
{
    int64_t estimate = (int64_t)near__table_size(buckets) + 4096; /* whole pages */
    int is_smaller = buckets < local->keeper.table->span.count;
    uint64_t most = is_smaller && !near__limits_are_exceeded(local) ? outgrown_from(local, buckets) : UINT64_MAX;
    if (is_smaller && near__gauge(&local->budget.used) > near__budget_ceiling(near__gauge(&local->budget.max_wanted))) {
        near__limits_ease(&local->budget, estimate);
        charge_table(local, estimate); /* the budget was lowered far below what is used, and this will help */
    } else if (!reserve_table(local, estimate)) {
        return;
    }
    struct near__table *table = make_table(local, buckets);
    charge_table(local, (table ? (int64_t)table->cost : 0) - estimate);
    if (table)
        migrate(local, table, most);
}

void near__tables_adapt(struct near__local *local)
{
    near__budget_lend(local);
    near__limits_lower(local);
    near__limits_go_down(local);
    near__table_look_whether_calm(local);
    uint64_t wanted = near__table_wanted(local);
    /* An index that is far from its size gets there by several doublings. */
    for (int steps = 0; steps < 40 && wanted != local->keeper.table->span.count && !near__keeper_is_stopped(local);
         steps++) {
        uint64_t before = local->keeper.table->span.count;
        change_to(local, wanted);
        if (local->keeper.next || local->keeper.table->span.count == before)
            break;
        wanted = near__table_wanted(local);
    }
    near__limits_go_down(local); /* one that was lowered meanwhile */
    near__limits_settle(local);
    while (!near__keeper_is_stopped(local) && near__limits_evict(local, 0, 1) > 0)
        if (near__is_pressed(local))
            near__reclaim(local, 1);
    if (!local->keeper.next)
        near__table_set_alarm(local);
}
