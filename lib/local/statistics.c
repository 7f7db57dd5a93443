/* SPDX-License-Identifier: BSD-3-Clause
 * What near_stats tells of the local tier. */
#include "local/tier.h"

static uint64_t sum_of(struct near__local *local, enum near__count what)
{
    uint64_t sum = 0;
    for (struct near__reader *reader = near__readers_first(local); reader; reader = reader->next)
        sum += near__reader_counted(reader, what);
    return sum;
}

uint64_t near__tier_reads_of(const struct near__reader *reader)
{
    static const enum near__count outcomes[] = {NEAR_COUNT_HITS,    NEAR_COUNT_STALE,    NEAR_COUNT_ABSENT,
                                                NEAR_COUNT_EXPIRED, NEAR_COUNT_UNPROVEN, NEAR_COUNT_SUSPECT};
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof(outcomes) / sizeof(outcomes[0]); i++)
        sum += near__reader_counted(reader, outcomes[i]);
    return sum;
}

uint64_t near__tier_reads(struct near__local *local)
{
    uint64_t sum = 0;
    for (const struct near__reader *reader = near__readers_first(local); reader; reader = reader->next)
        sum += near__tier_reads_of(reader);
    return sum;
}

uint64_t near__tier_fills(struct near__local *local)
{
    return sum_of(local, NEAR_COUNT_FILLS);
}

static void stats_of_reads(struct near__local *local, near_stats *stats)
{
    stats->local_hits = sum_of(local, NEAR_COUNT_HITS);
    stats->stale_served = sum_of(local, NEAR_COUNT_STALE);
    stats->miss_absent = sum_of(local, NEAR_COUNT_ABSENT);
    stats->miss_expired = sum_of(local, NEAR_COUNT_EXPIRED);
    stats->miss_unproven = sum_of(local, NEAR_COUNT_UNPROVEN);
    stats->miss_suspect = sum_of(local, NEAR_COUNT_SUSPECT);
    stats->miss_bypassed = sum_of(local, NEAR_COUNT_BYPASSED);
    uint64_t missed = stats->miss_absent + stats->miss_expired + stats->miss_unproven + stats->miss_suspect;
    stats->gets = sum_of(local, NEAR_COUNT_GETS) + stats->local_hits + stats->stale_served + missed;
    stats->local_misses = missed + stats->miss_bypassed;
    stats->fills = sum_of(local, NEAR_COUNT_FILLS);
    stats->fills_refused_order = sum_of(local, NEAR_COUNT_REFUSED_ORDER);
    stats->fills_refused_space = sum_of(local, NEAR_COUNT_REFUSED_SPACE);
    stats->writes = sum_of(local, NEAR_COUNT_WRITES);
}

uint64_t near__tier_ended(const struct near__local *local, enum near__why why)
{
    /* relaxed, both: statistics */
    uint64_t sum = atomic_load_explicit(&local->ended[why], memory_order_relaxed);
    for (const struct near__reader *reader = near__readers_first(local); reader; reader = reader->next)
        sum += atomic_load_explicit(&reader->share.ended[why], memory_order_relaxed);
    return sum;
}

/* A count without what threads hold of it in advance. */
static uint64_t less_idle(int64_t count, int64_t idle)
{
    return count > idle ? (uint64_t)(count - idle) : 0;
}

static uint64_t count_of(const _Atomic(uint64_t) *count)
{
    return atomic_load_explicit(count, memory_order_relaxed); /* relaxed: statistics */
}

static uint64_t gauge_of(const _Atomic(int64_t) *gauge)
{
    int64_t now = atomic_load_explicit(gauge, memory_order_relaxed); /* relaxed: statistics */
    return now > 0 ? (uint64_t)now : 0;
}

static uint32_t policy_now(const struct near__local *local)
{
    if (local->policy != NEAR_POLICY_ADAPTIVE)
        return local->policy;
    /* relaxed: statistics */
    return atomic_load_explicit(&local->rule, memory_order_relaxed) == NEAR_RULE_S3FIFO ? NEAR_POLICY_S3FIFO
                                                                                        : NEAR_POLICY_LRU;
}

static void stats_of_size(const struct near__local *local, near_stats *stats)
{
    const struct near__autosize *a = &local->autosize;
    stats->auto_wanted_bytes = count_of(&a->wanted);
    stats->auto_cap_bytes = count_of(&a->cap);
    stats->auto_expected_permille = count_of(&a->expected_permille);
    stats->auto_grown = count_of(&a->grown);
    stats->auto_shrunk = count_of(&a->shrunk);
    stats->auto_pressed = count_of(&a->pressed);
    stats->auto_reason = atomic_load_explicit(&a->reason, memory_order_relaxed); /* relaxed: statistics */
}

void near__local_stats(struct near__local *local, near_stats *stats)
{
    uint64_t entries_max = gauge_of(&local->budget.entries_asked);
    int64_t room = near__budget_idle(local, NEAR_IDLE_ROOM), spare = near__budget_idle(local, NEAR_IDLE_SPARE);
    int64_t reserved = near__budget_idle(local, NEAR_IDLE_ENTRIES); /* before the counts that they are part of */
    uint64_t bytes = less_idle((int64_t)gauge_of(&local->budget.used), room + spare),
             held = (uint64_t)near__blocks_total(local);
    stats->local_bytes = bytes > held ? bytes : held;
    stats->local_bytes_limit = gauge_of(&local->budget.max_wanted);
    stats->local_entries = less_idle((int64_t)gauge_of(&local->budget.entries), reserved);
    stats->local_entries_limit = entries_max == INT64_MAX ? 0 : entries_max;
    stats->local_index_bytes = count_of(&local->index_bytes);
    stats->local_retired_bytes = (uint64_t)near__budget_retired(local) + gauge_of(&local->budget.kept);
    stats->local_resize_permille = atomic_load_explicit(&local->moved_permille, memory_order_relaxed);
    stats->evictions = near__tier_ended(local, NEAR_WHY_EVICTED);
    stats->expirations = near__tier_ended(local, NEAR_WHY_EXPIRED);
    stats->invalidations = near__tier_ended(local, NEAR_WHY_INVALIDATED);
    stats->invalidations_absent = count_of(&local->absent);
    stats->invalidations_older = count_of(&local->older);
    stats->policy = local->policy;
    stats->policy_now = policy_now(local);
    stats_of_size(local, stats);
    stats_of_reads(local, stats);
}
