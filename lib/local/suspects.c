/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Suspect entries: below the gate's watermark, so not served, but not below `forsaken`, so not dead yet either.
 * Whoever repairs the tier (lib/coherence/repair.c) asks for them here, those first that were read last.
 *
 *      0 ............ forsaken ............ watermark ............ now
 *      |     dead     |       suspect       |        served        |
 *
 * Sorting by age would need memory for every entry.  Instead there are a few walks over the tier, each for an age and
 * everything younger: what an earlier walk has found is by then replaced or gone, and no more suspect. */
#include "local/tier.h"

#include "base/mutant.h"

#define STEP_BUCKETS 16u /* at most 128 entries, or twice as many while the index is resized */
#define STEPS_MAX 256u   /* one call's work: about a millisecond when nothing is found */

/* In ticks: 1024 are a turnover. */
static const unsigned oldest_of[] = {0, 7, 31, 127, 511, UINT16_MAX};
#define CLASSES (sizeof(oldest_of) / sizeof(oldest_of[0]))

void near__local_suspect(struct near__local *local, uint64_t position)
{
    near__tier_raise_watermark(local, position);
    if (NEAR_MUTANT(SUSPECTS_FORSAKEN))
        near__local_forsake(local);
}

/* The watermark first: nothing is dead that may still be served. */
void near__local_forsake(struct near__local *local)
{
    near__step_raise(&local->forsaken, near__tier_watermark(local));
    near__keeper_wake(local); /* what is below will never be served again */
}

struct visit {
    const struct near__suspects *walk;
    struct near__moment moment;
    uint64_t watermark;
    size_t found;
    near__local_suspect_fn fn;
    void *arg;
};

static void visit(void *arg, const struct near__entry *entry)
{
    struct visit *v = arg;
    unsigned oldest = oldest_of[NEAR_MUTANT(COLDEST_FIRST) ? CLASSES - 1 : v->walk->class];
    if (!near__entry_is_below(entry, v->watermark) || near__entry_is_dead(entry, &v->moment) ||
        near__entry_age(entry, v->walk->tick) > oldest)
        return;
    v->found++;
    v->fn(v->arg, entry->bytes, near__entry_key_size(entry), near__entry_value(entry), near__entry_value_size(entry));
}

void near__local_suspects_begin(struct near__local *local, struct near__suspects *walk)
{
    *walk = (struct near__suspects){.tick = near__tier_tick(local, near__now(local->clock))};
}

size_t near__local_suspects(struct near__local *local, struct near__suspects *walk, size_t enough,
                            near__local_suspect_fn fn, void *arg)
{
    struct visit v = {.walk = walk, .moment = near__tier_moment(local), .fn = fn, .arg = arg};
    v.watermark = near__tier_watermark(local);
    for (unsigned steps = 0; steps < STEPS_MAX && v.found < enough && !walk->over; steps++) {
        walk->at = near__tier_walk(local, walk->at, STEP_BUCKETS, visit, &v);
        if (walk->at)
            continue;
        walk->over = ++walk->class == CLASSES;
        if (v.found)
            break; /* what has just been found is suspect still: the next class would find it again */
    }
    return v.found;
}
