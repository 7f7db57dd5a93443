/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Limits of the budget that were lowered, and how they come down.
 *
 * Limits.  One that is lowered far below what there is would leave no room for any fill until the keeper has evicted
 * down to it.  So the limits in force come down to what there is at first, and follow after each few victims to what is
 * left then, until they are what is wanted: fills go on, each evicting for itself as ever.  What is left in the end may
 * be an index for sixteen times as many entries: then the limits rest, a second table on top, until the small one has
 * taken over, and go down with the old one. */
#include "local/tables.h"

#define STEP_VICTIMS 256 /* evicted between two looks at what can be freed */
#define STEP_DOWN 16     /* entries by which a limit is lowered at a time */
/* Ticks while as many entries go as there are.  To a sixteenth of the size, a million entries that are read by Zipf
 * 0.99 and not filled: of the reads 8 to 18 in a hundred are hits afterwards if the tick stands still, 79 to 88 with
 * this.  More ticks, or larger ones, are no better, and each costs a store in every entry that is read. */
#define STEPS_DOWN 32

/* ---------------------------------------------------------------- victims */

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

/* Down to the limits in force (which are the wanted ones but in near__limits_go_down) or to that many entries, some at
 * a time.  by_limit: when only those are left that the rule spares, they go: a limit is a limit.  Returns how many
 * went.
 *
 * Queues have sorted out nothing in a tier that was filled once.  To promote all that is used only to find out which of
 * it is used least took four times as long as going by last use, and of the reads 48 to 70 in a hundred were hits
 * afterwards, not 81 to 85. */
int near__limits_evict(struct near__local *local, int64_t entries_goal, int by_limit)
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

/* ---------------------------------------------------------------- limits */

/* A limit on its way down goes up by that much; to where it is going, near__limits_settle brings it. */
void near__limits_ease(struct near__budget *budget, int64_t bytes)
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

/* Something of that many bytes goes, and what it has taken below a limit that is on its way down goes before it: fills
 * must not come in its place.  What is retired goes first of all, since there is less room for it then. */
void near__limits_leave(struct near__local *local, int64_t bytes)
{
    struct near__budget *budget = &local->budget;
    if (near__gauge(&budget->max) > near__gauge(&budget->max_wanted))
        near__reclaim(local, 1);
    follow(&budget->max, &budget->max_wanted, near__live_bytes(local) - bytes, 0, last_step(budget));
}

/* A limit that was lowered comes down to what there is at once, or to what is wanted if no more is there than may be
 * above that: what has not been filled yet will not be.  Not further, so that fills find room.  By anybody. */
void near__limits_lower(struct near__local *local)
{
    struct near__budget *budget = &local->budget;
    follow(&budget->max, &budget->max_wanted, near__live_bytes(local), 0, last_step(budget) / 2);
    follow(&budget->entries_max, &budget->entries_wanted, near__gauge(&budget->entries), 0, 0);
}

/* The limits go first and the victims after them: room that was made below a limit would be filled again at once.  A
 * step is as many entries as one fill may evict for itself, so that it finds room after it.  The last part goes at
 * once, so that the ceiling in force is that of the wanted limit before `used` is below that: once within, always
 * within.
 *
 * Fills retire entries, too, so what is retired may be much all the time; but a grace period after every few victims
 * would take the keeper, who falls behind what fills ask for, a hundred times as long as its victims do. */
void near__limits_go_down(struct near__local *local)
{
    struct near__budget *budget = &local->budget;
    int64_t goal = near__tables_entries_that_fit(local, 0), used_ns = near__keeper_used_ns(),
            freed_at = near__live_bytes(local);
    while (near__limits_are_exceeded(local) && near__gauge(&budget->entries) > goal &&
           !near__keeper_is_stopped(local)) {
        int64_t entries = near__gauge(&budget->entries), bytes = near__live_bytes(local);
        int64_t each = entries > 0 ? near__budget_live(local) / entries : bytes;
        if (each < 1) /* what threads hold in advance; only a limit that comes down shows that nothing can go */
            each = 1;
        follow(&budget->max, &budget->max_wanted, bytes, STEP_DOWN * each, last_step(budget));
        follow(&budget->entries_max, &budget->entries_wanted, entries, STEP_DOWN, 0);
        if (!near__limits_evict(local, goal, 1) && near__budget_excess(local) > 0)
            break; /* nothing can go */
        if (near__is_to_free(local, freed_at)) {
            freed_at = near__live_bytes(local);
            near__reclaim(local, 1);
        }
        near__keeper_pace(local, &used_ns);
    }
}

/* What is retired then would leave no room below the ceiling that comes into force. */
void near__limits_settle(struct near__local *local)
{
    struct near__budget *budget = &local->budget;
    if (near__gauge(&budget->max) > near__gauge(&budget->max_wanted))
        near__reclaim(local, 1);
    follow(&budget->max, &budget->max_wanted, 0, 0, 0);
    follow(&budget->entries_max, &budget->entries_wanted, 0, 0, 0);
}
