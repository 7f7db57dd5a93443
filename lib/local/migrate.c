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
 * Sizes.  A table is enlarged at GROW entries a bucket and made smaller at SHRINK.  Enlarging doubles it, or adds half
 * of a large one (20 bytes an entry at the most, not 27), as long as both tables fit beside what is live, or adds less
 * when the limits leave no more entries than NEAR_INDEX_LAST a bucket; when entries would have to make room for the
 * second table it waits for a higher load and adds half.
 *
 * How dense.  Each byte of the index is missed by entries, so a tier that is full has as few as hits and fills hardly
 * notice.  A key that comes to full places displaces the oldest entry there instead of one that is old among all, which
 * matters when everything would fit otherwise; one that is not in its home costs a hit another line or two.  Shares in
 * a tier that was filled once, and in one that has evicted and filled ever since, each entry with the same chance (a
 * simulation of eight slots a bucket, four places, 40,000 buckets):
 *
 *      entries a bucket       bytes an entry   displaced          not at home        beyond the second place
 *      3.0  (ROOMY)           21               0        0         0.2 %    0.9 %     0        0
 *      4.5  (IDEAL)           14               0        0.1 %     1.6      6.4       0.2 %    1.2 %
 *      4.8  (GROW, last)      13.3             0        0.2       2.3      8.5       0.4      1.9
 *      5.0                    12.8             0.1 %    0.4       2.7     10.2       0.5      2.6
 *      5.9                    10.8             0.4      2.3       5.3     20.9       1.7      7.7
 *      6.1                    10.5             0.7      3.3       5.9     24.1       2.2      9.3
 *      6.6  (GROW_FULL)       9.7              1.5      7.4       7.6     33.3       3.4     15
 *
 * With a home alone, which is what this index had before, it was 3.8 to 4.3 entries and 17 to 15 bytes for 0.6 to 1.2 %
 * (2.8 to 4.9 %) displaced.  With two places 5.9 entries displace 1.8 % (8.2 %).
 *
 * A tier begins with a table that is large for the burst of fills that is to come.  When that is over and few entries
 * came, hits would pay for it: each of them has a line of the index to itself, and a hot set that fits a cache of the
 * processor does not fit with those.  So once the number of entries is calm the table is made for them; in the next
 * burst the first enlargement goes back to what an empty tier has.  Without need, which is a limit that was lowered, no
 * table is made smaller before that, and what has been cleared waits for its burst like an empty tier.
 *
 * A burst may begin while a table is made smaller, and then all that is filled goes into the small one until the whole
 * of the large one has been looked at, a fifth of a second with a budget of 8 GiB.  So who moves watches the number of
 * entries, and turns back when the small one is no longer for them.  Both views install into different tables, and
 * both scan both, as PREPARE and MIGRATE do, so one may follow the other; and nothing moves until the first is out of
 * use, so that it may look at the tables in its own order.
 *
 * Limits.  One that is lowered far below what there is would leave no room for any fill until the keeper has evicted
 * down to it.  So the limits in force come down to what there is at first, and follow after each few victims to what is
 * left then, until they are what is wanted: fills go on, each evicting for itself as ever.  What is left in the end may
 * be an index for sixteen times as many entries: then the limits rest, a second table on top, until the small one has
 * taken over, and go down with the old one. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "local/rcu.h"
#include "local/tier.h"

#include <sys/mman.h>

#include "base/pages.h"

/* Entries per ten buckets.  Of 0.4 to 1.6 million filled into a tier that has room for twice as many, 3 to 7 of ten
 * thousand are evicted because their buckets are full; with 5.0 entries a bucket 4 to 14, at 6.1, if the table becomes
 * twice as large each time, 78.  And a burst goes on while it grows: see move_all. */
#define GROW 48
#define GROW_FULL 66
#define SHRINK 20
#define IDEAL 45
#define ROOMY 30 /* a table that is made smaller while bytes are plenty: one key in two hundred is not in its home */
#define BUCKETS_MIN 64 /* whole groups, as all numbers of buckets */
/* An empty tier's index has this part of the budget, so that the first burst of fills finds room: growing takes grace
 * periods, and until then full buckets evict.  With 12 bytes of header and short keys it holds values of some 200 bytes
 * without growing at all. */
#define LEAST_PART 64
/* Calm: the entries have not become an eighth more for this long. */
#define CALM_NS (500 * NEAR_NS_PER_MS)
#define CALM_BUCKETS_MIN 4096             /* 256 KiB: fewer would not be any quicker */
#define CALM_ENTRIES_MIN 1024             /* their lines are 64 KiB at most, whatever the table */
#define LARGE_BUCKETS (UINT64_C(1) << 16) /* 4 MiB: from here on half as many more */
#define BUCKETS_MAX (UINT64_C(1) << 32)
#define STEP_BUCKETS 64 /* moved in one section */
#define MAPPED_MIN (128 << 10)
#define CHANCE_PART 8    /* of a table: at three million fills a second of 40 bytes 30 ms with one of 27 MB */
#define CHANCE_FROM 4    /* of the budget: the smallest entries there are have half of it by then */
#define IDLE_LOOKS 16    /* as many as a table of 1,024 buckets takes */
#define STEP_VICTIMS 256 /* evicted between two looks at what can be freed */
#define STEP_DOWN 16     /* entries by which a limit is lowered at a time */
/* Ticks while as many entries go as there are.  To a sixteenth of the size, a million entries that are read by Zipf
 * 0.99 and not filled: of the reads 8 to 18 in a hundred are hits afterwards if the tick stands still, 79 to 88 with
 * this.  More ticks, or larger ones, are no better, and each costs a store in every entry that is read. */
#define STEPS_DOWN 32

struct near__table {
    size_t cost;   /* as the allocator counts */
    size_t mapped; /* bytes of a mapping of its own; 0: the allocator's */
    struct near__span span;
    struct near__tables prepare, migrate, steady; /* the views that lead to it and the one that shows it alone */
};

/* ---------------------------------------------------------------- one table */

static size_t table_size(uint64_t buckets)
{
    return sizeof(struct near__table) + buckets * sizeof(struct near__bucket) + NEAR_GROUP_SIZE - 1;
}

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

/* At least so many, in whole groups. */
static uint64_t whole_groups(uint64_t buckets)
{
    return (buckets + NEAR_PLACES - 1) & ~(uint64_t)(NEAR_PLACES - 1);
}

static struct near__table *make_table(const struct near__local *local, uint64_t buckets)
{
    size_t size = table_size(buckets),
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

/* Installs wake the keeper when there are more entries than that. */
static void wake_at(struct near__local *local, uint64_t entries)
{
    atomic_store_explicit(&local->index_entries_max, entries, memory_order_relaxed); /* relaxed: a hint */
}

static uint64_t least_buckets(const struct near__local *local)
{
    uint64_t buckets = (uint64_t)near__gauge(&local->budget.max) / LEAST_PART / sizeof(struct near__bucket);
    uint64_t useful =
        (uint64_t)near__gauge(&local->budget.entries_max) / NEAR_INDEX_LAST * 10; /* with a limit of entries */
    buckets = buckets < useful ? buckets : useful;
    return buckets > BUCKETS_MIN ? whole_groups(buckets) : BUCKETS_MIN;
}

int near__tables_open(struct near__local *local)
{
    struct near__table *table = make_table(local, least_buckets(local));
    if (!table)
        return NEAR_ERR_NOMEM;
    charge_table(local, (int64_t)table->cost);
    local->keeper.table = table;
    table->steady.serial = ++local->keeper.views;
    atomic_store_explicit(&local->index.tables, &table->steady, memory_order_release); /* nobody else is here yet */
    atomic_store_explicit(&local->moved_permille, 1000, memory_order_relaxed);
    wake_at(local, table->span.count * GROW / 10);
    return NEAR_OK;
}

static void close_table(struct near__local *local, struct near__table *table)
{
    if (!table)
        return;
    for (uint64_t b = 0; b < table->span.count; b++)
        for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++)
            near__block_drop(local, near__word_entry(near__step_load(&table->span.bucket[b].slot[i])));
    free_table(local, table);
}

void near__tables_close(struct near__local *local)
{
    close_table(local, local->keeper.table);
    close_table(local, local->keeper.next);
}

static uint64_t entries_now(const struct near__local *local)
{
    int64_t have = near__gauge(&local->budget.entries);
    return have > 0 ? (uint64_t)have : 0;
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

/* A part of what is above the limit, as much as fills can do without. */
static int64_t retirable(const struct near__local *local)
{
    int64_t max = near__gauge(&local->budget.max);
    return (near__budget_ceiling(max) - max) / 4;
}

/* Nearly no room is left between what is used and the ceiling: fills are about to be refused. */
static int is_pressed(const struct near__local *local)
{
    return near__gauge(&local->budget.retired) > retirable(local);
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
    if (!is_pressed(local) || begun_ns < pressure->due_ns)
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
        if (entries_now(local) > most)
            return OUTGROWN;
        relieve(local, &pressure);
    }
    return MOVED;
}

/* ---------------------------------------------------------------- room for a second table */

static int64_t live_bytes(const struct near__local *local)
{
    return near__gauge(&local->budget.used) - near__gauge(&local->budget.retired);
}

/* There is more than what is wanted. */
static int is_over(const struct near__local *local)
{
    return live_bytes(local) > near__gauge(&local->budget.max_wanted) ||
           near__gauge(&local->budget.entries) > near__gauge(&local->budget.entries_wanted);
}

/* The clock of last use goes on with what goes, though nobody fills (order.h). */
static void count_victim(struct near__local *local, struct near__moment *moment)
{
    struct near__keeper *keeper = &local->keeper;
    if (local->idle_unit_ns || ++keeper->victims < (uint64_t)near__gauge(&local->budget.entries) / STEPS_DOWN)
        return;
    keeper->victims = 0;
    /* relaxed: an approximate age */
    moment->tick = (uint16_t)(1 + atomic_fetch_add_explicit(&local->tick, 1, memory_order_relaxed));
}

/* Down to the limits in force (which are the wanted ones but in lower_limits) or to that many entries, some at a time.
 * by_limit: when only those are left that the rule spares, they go: a limit is a limit.  Returns how many went.
 *
 * Queues have sorted out nothing in a tier that was filled once.  To promote all that is used only to find out which of
 * it is used least took four times as long as going by last use, and of the reads 48 to 70 in a hundred were hits
 * afterwards, not 81 to 85. */
static int evict_some(struct near__local *local, int64_t entries_goal, int by_limit)
{
    struct near__moment moment = near__tier_moment(local);
    int evicted = 0;
    if (moment.rule == NEAR_RULE_S3FIFO && near__queue_most_are_new(local))
        moment.rule = NEAR_RULE_LRU;
    while (evicted < STEP_VICTIMS && near__budget_excess(local) > 0 &&
           near__gauge(&local->budget.entries) > entries_goal) {
        if (near__evict_one(local, &local->keeper.hands, &moment)) {
            evicted++;
            count_victim(local, &moment);
        } else if (by_limit && moment.rule >= NEAR_RULE_VOLATILE_LRU) {
            moment.rule = NEAR_RULE_LRU;
        } else {
            break;
        }
    }
    return evicted;
}

/* Charges the bytes of a table bit by bit, evicting and freeing as installs would.  Charged bytes are not available to
 * them, so it gets there.  0: it did not; nothing is charged. */
static int reserve_table(struct near__local *local, int64_t bytes)
{
    int64_t charged = 0;
    while (charged < bytes && !near__keeper_is_stopped(local)) {
        int64_t part = near__budget_charge_some(local, bytes - charged);
        atomic_fetch_add_explicit(&local->index_bytes, (uint64_t)part, memory_order_relaxed); /* relaxed: a count */
        charged += part;
        int evicted = evict_some(local, 0, 0);
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

/* A limit on its way down goes up by that much; to where it is going, settle_limits brings it. */
static void ease_limit(struct near__budget *budget, int64_t bytes)
{
    int64_t limit = near__gauge(&budget->max);
    /* relaxed, both: as in follow */
    while (limit > near__gauge(&budget->max_wanted) &&
           !atomic_compare_exchange_weak_explicit(&budget->max, &limit, limit + bytes, memory_order_relaxed,
                                                  memory_order_relaxed))
        ;
}

/* A little below what there is, but not below what is wanted; what is wanted if that is `near`.  By a swap: whoever
 * raises a limit meanwhile has the last word. */
static void follow(_Atomic(int64_t) *in_force, const _Atomic(int64_t) *wanted, int64_t there_is, int64_t step,
                   int64_t near)
{
    int64_t limit = near__gauge(in_force), next;
    do {
        int64_t least = near__gauge(wanted), lower = (there_is < limit ? there_is : limit) - step;
        next = lower > least + near ? lower : least;
        /* relaxed, both: limits that are looked at anew each time */
    } while (next != limit && !atomic_compare_exchange_weak_explicit(in_force, &limit, next, memory_order_relaxed,
                                                                     memory_order_relaxed));
}

/* Limits in force above this much more than what is wanted go down in steps, and then at once. */
static int64_t last_step(const struct near__budget *budget)
{
    return 2 * near__budget_slack(near__gauge(&budget->max_wanted));
}

/* An old table goes, and what it has taken below a limit that is on its way down goes before it: fills must not come in
 * its place.  What is retired goes first of all, since there is less room for it then. */
static void give_up(struct near__local *local, struct near__table *table)
{
    struct near__budget *budget = &local->budget;
    if (near__gauge(&budget->max) > near__gauge(&budget->max_wanted))
        near__reclaim(local, 1);
    follow(&budget->max, &budget->max_wanted, live_bytes(local) - (int64_t)table->cost, 0, last_step(budget));
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
    uint64_t entries = entries_now(local);
    return entries + entries / 8 + buckets / 2;
}

static void change_to(struct near__local *local, uint64_t buckets)
{
    int64_t estimate = (int64_t)table_size(buckets) + 4096; /* whole pages */
    int is_smaller = buckets < local->keeper.table->span.count;
    uint64_t most = is_smaller && !is_over(local) ? outgrown_from(local, buckets) : UINT64_MAX;
    if (is_smaller && near__gauge(&local->budget.used) > near__budget_ceiling(near__gauge(&local->budget.max_wanted))) {
        ease_limit(&local->budget, estimate);
        charge_table(local, estimate); /* the budget was lowered far below what is used, and this will help */
    } else if (!reserve_table(local, estimate)) {
        return;
    }
    struct near__table *table = make_table(local, buckets);
    charge_table(local, (table ? (int64_t)table->cost : 0) - estimate);
    if (table)
        migrate(local, table, most);
}

/* ---------------------------------------------------------------- how large */

/* How many entries of the present size fit into the bytes of the budget beside a table made for them, and so many bytes
 * less of what is fixed. */
static int64_t entries_in_bytes(const struct near__local *local, int64_t spared)
{
    int64_t entries = near__gauge(&local->budget.entries), max = near__gauge(&local->budget.max_wanted),
            fixed = near__gauge(&local->budget.fixed);
    int64_t bytes = near__budget_live(local), room = max - fixed + spared;
    if (entries <= 0 || bytes <= 0 || room <= 0)
        return 0;
    int64_t each = bytes / entries + NEAR_INDEX_SHARE;
    return room / each;
}

/* The same, by both limits.  So a table that is too large for a lowered budget is replaced, and entries are not evicted
 * in its stead. */
int64_t near__tables_entries_that_fit(const struct near__local *local, int64_t spared)
{
    int64_t fit = entries_in_bytes(local, spared), limit = near__gauge(&local->budget.entries_wanted);
    return fit < limit ? fit : limit;
}

/* What the entries that fit need at the least. */
static uint64_t enough_buckets(const struct near__local *local)
{
    return (uint64_t)near__tables_entries_that_fit(local, 0) * 10 / NEAR_INDEX_LAST + 1;
}

/* At more than GROW.  An enlargement by less than a sixteenth is not worth two grace periods. */
static uint64_t more_buckets(const struct near__local *local, uint64_t buckets)
{
    uint64_t enough = enough_buckets(local), least = buckets + buckets / 16;
    if (enough <= buckets && entries_now(local) * 10 <= buckets * GROW_FULL)
        return buckets; /* and the tier is as good as full */
    uint64_t more = whole_groups(enough > least ? enough : least);
    uint64_t most = buckets < LARGE_BUCKETS ? buckets * 2 : whole_groups(buckets + buckets / 2);
    return more < most ? more : most;
}

static void look_whether_calm(struct near__local *local)
{
    struct near__keeper *keeper = &local->keeper;
    int64_t now_ns = near__now(local->clock);
    uint64_t entries = entries_now(local);
    if (entries > keeper->calm_entries + keeper->calm_entries / 8) {
        keeper->calm_entries = entries;
        keeper->calm_due_ns = now_ns + CALM_NS;
    }
    keeper->calm = now_ns >= keeper->calm_due_ns;
    if (keeper->calm && entries < keeper->calm_entries)
        keeper->calm_entries = entries; /* what comes after fewer is growth again */
}

void near__tables_cleared(struct near__local *local)
{
    local->keeper.calm_entries = entries_now(local);
    local->keeper.calm_due_ns = near__now(local->clock) + CALM_NS;
    local->keeper.calm = 0;
}

/* There are enough to gain something by it; who has fewer, or none, waits for a burst. */
static int is_calm_with_some(const struct near__local *local)
{
    return local->keeper.calm && entries_now(local) >= CALM_ENTRIES_MIN;
}

/* What a table is not made smaller than. */
static uint64_t fewest_buckets(const struct near__local *local)
{
    uint64_t least = least_buckets(local);
    return is_calm_with_some(local) && least > CALM_BUCKETS_MIN ? CALM_BUCKETS_MIN : least;
}

static int fits_beside(const struct near__local *local, uint64_t buckets)
{
    return live_bytes(local) + (int64_t)table_size(buckets) <= near__gauge(&local->budget.max);
}

/* What the tier will have when it is full, if the entries stay as large as they are. */
static uint64_t last_table(const struct near__local *local)
{
    return whole_groups(enough_buckets(local));
}

/* Bytes that are left once such a table stands beside this one, and a margin in which the keeper gets to know of it. */
static int64_t room_beside_last(const struct near__local *local)
{
    int64_t size = (int64_t)table_size(last_table(local));
    return near__gauge(&local->budget.max) - live_bytes(local) - size - size / CHANCE_PART;
}

/* With entries of a few bytes the last table is a quarter of the budget.  When they ask for it, it would find no place
 * beside this one any more, and entries would have to go for it.  What few entries, or none, are like says nothing. */
static int is_last_chance(const struct near__local *local)
{
    uint64_t buckets = local->keeper.table->span.count, last = last_table(local);
    return near__budget_live(local) >= near__gauge(&local->budget.max) / CHANCE_FROM &&
           last >= buckets + buckets / 16 && room_beside_last(local) < 0 && fits_beside(local, last);
}

/* Entries would have to make room for it, for good: a sixteenth of them at the most. */
static int is_worth_it(const struct near__local *local, uint64_t buckets)
{
    int64_t entries = (int64_t)entries_now(local), bytes = near__budget_live(local);
    int64_t room =
        near__gauge(&local->budget.max_wanted) - near__gauge(&local->budget.fixed) - (int64_t)table_size(buckets);
    return entries <= 0 || bytes <= 0 || room / (bytes / entries + 1) >= entries - entries / 16;
}

static uint64_t wanted_buckets(const struct near__local *local)
{
    uint64_t buckets = local->keeper.table->span.count, entries = entries_now(local);

    if (entries * 10 < buckets * SHRINK && (local->keeper.calm || is_over(local))) {
        uint64_t roomy = entries * 10 / ROOMY, least = fewest_buckets(local);
        uint64_t fewer = fits_beside(local, roomy) ? roomy : entries * 10 / IDEAL;
        fewer = whole_groups(fewer > least ? fewer : least);
        return fewer < buckets ? fewer : buckets;
    }
    if (buckets >= BUCKETS_MAX / 2)
        return buckets;
    if (is_last_chance(local))
        return last_table(local);
    if (entries * 10 <= buckets * GROW)
        return buckets;
    uint64_t least = least_buckets(local), more = more_buckets(local, buckets);
    if (!local->keeper.calm && least > more && fits_beside(local, least))
        return least;
    if (fits_beside(local, more))
        return more;
    return entries * 10 > buckets * GROW_FULL && is_worth_it(local, more) ? more : buckets;
}

/* At the next enlargement, and not at every install when that is put off. */
static void set_alarm(struct near__local *local)
{
    uint64_t entries = entries_now(local), limit = local->keeper.table->span.count * GROW / 10;
    if (entries >= limit)
        limit = entries + entries / 8;
    int64_t bytes = near__budget_live(local), room = room_beside_last(local);
    if (entries && bytes > 0 && room > 0 && last_table(local) > local->keeper.table->span.count) {
        uint64_t chance = entries + (uint64_t)(room / (bytes / (int64_t)entries + 1)) + 1;
        limit = chance < limit ? chance : limit;
    }
    wake_at(local, limit);
}

/* ---------------------------------------------------------------- limits that were lowered */

/* A limit that was lowered comes down to what there is at once, or to what is wanted if no more is there than may be
 * above that: what has not been filled yet will not be.  Not further, so that fills find room.  By anybody. */
void near__limits_lower(struct near__local *local)
{
    struct near__budget *budget = &local->budget;
    follow(&budget->max, &budget->max_wanted, live_bytes(local), 0, last_step(budget) / 2);
    follow(&budget->entries_max, &budget->entries_wanted, near__gauge(&budget->entries), 0, 0);
}

/* The limits go first and the victims after them: room that was made below a limit would be filled again at once.  A
 * step is as many entries as one fill may evict for itself, so that it finds room after it.  The last part goes at
 * once, so that the ceiling in force is that of the wanted limit before `used` is below that: once within, always
 * within.
 *
 * Fills retire entries, too, so what is retired may be much all the time; but a grace period after every few victims
 * would take the keeper, who falls behind what fills ask for, a hundred times as long as its victims do. */
static void lower_limits(struct near__local *local)
{
    struct near__budget *budget = &local->budget;
    int64_t goal = near__tables_entries_that_fit(local, 0), used_ns = near__keeper_used_ns(),
            freed_at = live_bytes(local);
    while (is_over(local) && near__gauge(&budget->entries) > goal && !near__keeper_is_stopped(local)) {
        int64_t entries = near__gauge(&budget->entries), bytes = live_bytes(local);
        int64_t each = entries > 0 ? near__budget_live(local) / entries : bytes;
        follow(&budget->max, &budget->max_wanted, bytes, STEP_DOWN * each, last_step(budget));
        follow(&budget->entries_max, &budget->entries_wanted, entries, STEP_DOWN, 0);
        if (!evict_some(local, goal, 1) && near__budget_excess(local) > 0)
            break; /* nothing can go */
        if (is_pressed(local) && live_bytes(local) + retirable(local) <= freed_at) {
            freed_at = live_bytes(local);
            near__reclaim(local, 1);
        }
        near__keeper_pace(local, &used_ns);
    }
}

/* What is retired then would leave no room below the ceiling that comes into force. */
static void settle_limits(struct near__local *local)
{
    struct near__budget *budget = &local->budget;
    if (near__gauge(&budget->max) > near__gauge(&budget->max_wanted))
        near__reclaim(local, 1);
    follow(&budget->max, &budget->max_wanted, 0, 0, 0);
    follow(&budget->entries_max, &budget->entries_wanted, 0, 0, 0);
}

void near__tables_adapt(struct near__local *local)
{
    near__limits_lower(local);
    lower_limits(local);
    look_whether_calm(local);
    uint64_t wanted = wanted_buckets(local);
    /* An index that is far from its size gets there by several doublings. */
    for (int steps = 0; steps < 40 && wanted != local->keeper.table->span.count && !near__keeper_is_stopped(local);
         steps++) {
        uint64_t before = local->keeper.table->span.count;
        change_to(local, wanted);
        if (local->keeper.next || local->keeper.table->span.count == before)
            break;
        wanted = wanted_buckets(local);
    }
    settle_limits(local);
    while (!near__keeper_is_stopped(local) && evict_some(local, 0, 1) > 0)
        if (is_pressed(local))
            near__reclaim(local, 1);
    if (!local->keeper.next)
        set_alarm(local);
}
