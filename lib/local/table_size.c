/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How large the table of the index is to be.
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
 * table is made smaller before that, and what has been cleared waits for its burst like an empty tier. */
#include "local/tables.h"

/* Entries per ten buckets.  Of 0.4 to 1.6 million filled into a tier that has room for twice as many, 3 to 7 of ten
 * thousand are evicted because their buckets are full; with 5.0 entries a bucket 4 to 14, at 6.1, if the table becomes
 * twice as large each time, 78.  And a burst goes on while it grows: see migrate.c. */
#define GROW 48
#define GROW_FULL 66
#define SHRINK 20
#define IDEAL 45
#define ROOMY 30 /* a table that is made smaller while bytes are plenty: one key in two hundred is not in its home */
#define BUCKETS_MIN 64 /* whole groups, as all numbers of buckets */
/* An empty tier's index has this part of the budget, so that the first burst of fills finds room: growing takes grace
 * periods, and until then full buckets evict.  With 12 bytes of header and short keys it holds values of some 800 bytes
 * without growing at all; docs/local-tier.md tells what bursts of smaller ones lose. */
#define LEAST_PART 64
/* Calm: the entries have not become an eighth more for this long. */
#define CALM_NS (500 * NEAR_NS_PER_MS)
#define CALM_BUCKETS_MIN 4096             /* 256 KiB: fewer would not be any quicker */
#define CALM_ENTRIES_MIN 1024             /* their lines are 64 KiB at most, whatever the table */
#define LARGE_BUCKETS (UINT64_C(1) << 16) /* 4 MiB: from here on half as many more */
#define BUCKETS_MAX (UINT64_C(1) << 32)
#define CHANCE_PART 8 /* of a table: at three million fills a second of 40 bytes 30 ms with one of 27 MB */
#define CHANCE_FROM 4 /* of the budget: the smallest entries there are have half of it by then */

/* ---------------------------------------------------------------- what fits */

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

static int fits_beside(const struct near__local *local, uint64_t buckets)
{
    return near__live_bytes(local) + (int64_t)near__table_size(buckets) <= near__gauge(&local->budget.max);
}

/* ---------------------------------------------------------------- calm */

void near__table_look_whether_calm(struct near__local *local)
{
    struct near__keeper *keeper = &local->keeper;
    int64_t now_ns = near__now(local->clock);
    uint64_t entries = near__entries_now(local);
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
    local->keeper.calm_entries = near__entries_now(local);
    local->keeper.calm_due_ns = near__now(local->clock) + CALM_NS;
    local->keeper.calm = 0;
}

/* There are enough to gain something by it; who has fewer, or none, waits for a burst. */
static int is_calm_with_some(const struct near__local *local)
{
    return local->keeper.calm && near__entries_now(local) >= CALM_ENTRIES_MIN;
}

/* ---------------------------------------------------------------- how large */

uint64_t near__table_least(const struct near__local *local)
{
    uint64_t buckets = (uint64_t)near__gauge(&local->budget.max) / LEAST_PART / sizeof(struct near__bucket);
    uint64_t useful =
        (uint64_t)near__gauge(&local->budget.entries_max) / NEAR_INDEX_LAST * 10; /* with a limit of entries */
    buckets = buckets < useful ? buckets : useful;
    return buckets > BUCKETS_MIN ? near__table_groups(buckets) : BUCKETS_MIN;
}

/* At more than GROW.  An enlargement by less than a sixteenth is not worth two grace periods. */
static uint64_t more_buckets(const struct near__local *local, uint64_t buckets)
{
    uint64_t enough = enough_buckets(local), least = buckets + buckets / 16;
    if (enough <= buckets && near__entries_now(local) * 10 <= buckets * GROW_FULL)
        return buckets; /* and the tier is as good as full */
    uint64_t more = near__table_groups(enough > least ? enough : least);
    uint64_t most = buckets < LARGE_BUCKETS ? buckets * 2 : near__table_groups(buckets + buckets / 2);
    return more < most ? more : most;
}

/* What a table is not made smaller than. */
static uint64_t fewest_buckets(const struct near__local *local)
{
    uint64_t least = near__table_least(local);
    return is_calm_with_some(local) && least > CALM_BUCKETS_MIN ? CALM_BUCKETS_MIN : least;
}

/* What the tier will have when it is full, if the entries stay as large as they are. */
static uint64_t last_table(const struct near__local *local)
{
    return near__table_groups(enough_buckets(local));
}

/* Bytes that are left once such a table stands beside this one, and a margin in which the keeper gets to know of it. */
static int64_t room_beside_last(const struct near__local *local)
{
    int64_t size = (int64_t)near__table_size(last_table(local));
    return near__gauge(&local->budget.max) - near__live_bytes(local) - size - size / CHANCE_PART;
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
    int64_t entries = (int64_t)near__entries_now(local), bytes = near__budget_live(local);
    int64_t room =
        near__gauge(&local->budget.max_wanted) - near__gauge(&local->budget.fixed) - (int64_t)near__table_size(buckets);
    return entries <= 0 || bytes <= 0 || room / (bytes / entries + 1) >= entries - entries / 16;
}

uint64_t near__table_wanted(const struct near__local *local)
{
    uint64_t buckets = local->keeper.table->span.count, entries = near__entries_now(local);

    if (entries * 10 < buckets * SHRINK && (local->keeper.calm || near__limits_are_exceeded(local))) {
        uint64_t roomy = entries * 10 / ROOMY, least = fewest_buckets(local);
        uint64_t fewer = fits_beside(local, roomy) ? roomy : entries * 10 / IDEAL;
        fewer = near__table_groups(fewer > least ? fewer : least);
        return fewer < buckets ? fewer : buckets;
    }
    if (buckets >= BUCKETS_MAX / 2)
        return buckets;
    if (is_last_chance(local))
        return last_table(local);
    if (entries * 10 <= buckets * GROW)
        return buckets;
    uint64_t least = near__table_least(local), more = more_buckets(local, buckets);
    if (!local->keeper.calm && least > more && fits_beside(local, least))
        return least;
    if (fits_beside(local, more))
        return more;
    return entries * 10 > buckets * GROW_FULL && is_worth_it(local, more) ? more : buckets;
}

/* Installs wake the keeper when there are more entries than that. */
static void wake_at(struct near__local *local, uint64_t entries)
{
    atomic_store_explicit(&local->index_entries_max, entries, memory_order_relaxed); /* relaxed: a hint */
}

/* At the next enlargement, and not at every install when that is put off. */
void near__table_set_alarm(struct near__local *local)
{
    uint64_t entries = near__entries_now(local), limit = local->keeper.table->span.count * GROW / 10;
    if (entries >= limit)
        limit = entries + entries / 8;
    int64_t bytes = near__budget_live(local), room = room_beside_last(local);
    if (entries && bytes > 0 && room > 0 && last_table(local) > local->keeper.table->span.count) {
        uint64_t chance = entries + (uint64_t)(room / (bytes / (int64_t)entries + 1)) + 1;
        limit = chance < limit ? chance : limit;
    }
    wake_at(local, limit);
}
