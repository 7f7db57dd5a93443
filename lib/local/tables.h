/* SPDX-License-Identifier: BSD-3-Clause
 * What the keeper's three rooms of the index's tables share: migrate.c moves from one table to another, table_size.c
 * tells how large it is to be, limits.c lowers limits; and when the keeper (keeper.c) frees what it has retired.  All
 * but near__limits_lower is the keeper's own. */
#ifndef NEAR_LOCAL_TABLES_H
#define NEAR_LOCAL_TABLES_H
#include "local/tier.h"

struct near__table {
    size_t cost;   /* as the allocator counts */
    size_t mapped; /* bytes of a mapping of its own; 0: the allocator's */
    struct near__span span;
    struct near__tables prepare, migrate, steady; /* the views that lead to it and the one that shows it alone */
};

static inline size_t near__table_size(uint64_t buckets)
{
    return sizeof(struct near__table) + buckets * sizeof(struct near__bucket) + NEAR_GROUP_SIZE - 1;
}

/* At least so many, in whole groups. */
static inline uint64_t near__table_groups(uint64_t buckets)
{
    return (buckets + NEAR_PLACES - 1) & ~(uint64_t)(NEAR_PLACES - 1);
}

static inline uint64_t near__entries_now(const struct near__local *local)
{
    int64_t have = near__gauge(&local->budget.entries);
    return have > 0 ? (uint64_t)have : 0;
}

static inline int64_t near__live_bytes(const struct near__local *local)
{
    return near__gauge(&local->budget.used) - near__gauge(&local->budget.retired);
}

/* There is more than what is wanted. */
static inline int near__limits_are_exceeded(const struct near__local *local)
{
    return near__live_bytes(local) > near__gauge(&local->budget.max_wanted) ||
           near__gauge(&local->budget.entries) > near__gauge(&local->budget.entries_wanted);
}

/* A part of what is above the limit, as much as fills can do without. */
static inline int64_t near__retirable(const struct near__local *local)
{
    int64_t max = near__gauge(&local->budget.max);
    return (near__budget_ceiling(max) - max) / 4;
}

/* Nearly no room is left between what is used and the ceiling: fills are about to be refused. */
static inline int near__is_pressed(const struct near__local *local)
{
    return near__gauge(&local->budget.retired) > near__retirable(local);
}

/* The same while the keeper retires much itself, and has since it last freed it, when so many bytes were live. */
static inline int near__is_to_free(const struct near__local *local, int64_t freed_at)
{
    return near__is_pressed(local) && near__live_bytes(local) + near__retirable(local) <= freed_at;
}

/* ---------------------------------------------------------------- how large (table_size.c) */

/* An empty tier's. */
uint64_t near__table_least(const struct near__local *local);
/* What the entries ask for. */
uint64_t near__table_wanted(const struct near__local *local);
/* Whether there is a burst of fills. */
void near__table_look_whether_calm(struct near__local *local);
/* Tells installs at how many entries the keeper is to be woken. */
void near__table_set_alarm(struct near__local *local);

/* ---------------------------------------------------------------- limits (limits.c) */

/* See there. */
int near__limits_evict(struct near__local *local, int64_t entries_goal, int by_limit);
void near__limits_ease(struct near__budget *budget, int64_t bytes);
void near__limits_leave(struct near__local *local, int64_t bytes);
void near__limits_go_down(struct near__local *local);
void near__limits_settle(struct near__local *local);

#endif
