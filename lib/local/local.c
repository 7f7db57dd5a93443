/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The local tier as a whole: opening and closing, the gate, clearing, limits. */
#include "local/rcu.h"
#include "local/tap.h"
#include "local/tier.h"

#include "base/random.h"

/* One stripe for so many bytes of budget: at 16 bytes each 1.6 % of it.  Two keys in one stripe cost a refused fill
 * when one of them is written while the other is being read: with 50,000 writes a second, and half a millisecond for a
 * reply, one in 650 at most.  The most of them are 256 KiB, which stay in the second-level cache: a million keys filled
 * on miss into 100,000 entries were 1.05 times as quick (one thread) as with four times as many; with a quarter of
 * these there is no difference. */
#define STRIPE_BYTES 1024
#define STRIPES_MIN 256
#define STRIPES_MAX 16384

/* ---------------------------------------------------------------- open and close */

static uint64_t stripes_for(uint64_t bytes_max)
{
    uint64_t stripes = STRIPES_MIN;
    while (stripes < STRIPES_MAX && stripes * 2 * STRIPE_BYTES <= bytes_max)
        stripes *= 2;
    return stripes;
}

static int64_t entries_limit(uint64_t entries_max)
{
    return entries_max && entries_max < INT64_MAX ? (int64_t)entries_max : INT64_MAX;
}

/* Up at once; down by near__limits_lower, and as the keeper evicts. */
static void set_limit(_Atomic(int64_t) *wanted, _Atomic(int64_t) *in_force, int64_t limit)
{
    /* relaxed, all: limits that are looked at anew each time; the keeper brings them together in the end */
    atomic_store_explicit(wanted, limit, memory_order_relaxed);
    if (limit > atomic_load_explicit(in_force, memory_order_relaxed))
        atomic_store_explicit(in_force, limit, memory_order_relaxed);
}

static void set_limits(struct near__local *local, uint64_t bytes_max, uint64_t entries_max)
{
    if (bytes_max != NEAR_LIMIT_KEPT)
        set_limit(&local->budget.max_wanted, &local->budget.max,
                  bytes_max < INT64_MAX / 2 ? (int64_t)bytes_max : INT64_MAX / 2);
    if (entries_max == NEAR_LIMIT_KEPT)
        return;
    /* first: whoever gives back what was lent goes down to it, and not below */
    atomic_store_explicit(&local->budget.entries_asked, entries_limit(entries_max), memory_order_relaxed);
    set_limit(&local->budget.entries_wanted, &local->budget.entries_max, entries_limit(entries_max));
    near__budget_lend(local);
}

static void set_auto(struct near__local *local, uint32_t hit_permille, uint64_t bytes_min, uint64_t bytes_max)
{
    struct near__autosize *a = &local->autosize;
    /* relaxed, all: see autosize.h */
    if (hit_permille) { /* without, they mean nothing, and need not be in their ranges */
        atomic_store_explicit(&a->bytes_min, bytes_min, memory_order_relaxed);
        atomic_store_explicit(&a->bytes_max, bytes_max, memory_order_relaxed);
    }
    atomic_store_explicit(&a->hit_permille, hit_permille, memory_order_relaxed);
}

static void set_times(struct near__local *local, const struct near__local_config *config)
{
    local->clock = config->clock;
    local->opened_ns = near__now(config->clock);
    local->ttl_max_ms = config->ttl_max_ms;
    near__rate_init(&local->rate, config->clock);
    local->by_counter = local->rate.usable && !config->idle_ms;
    pthread_mutex_init(&local->ages_lock, NULL);
    /* relaxed: nobody else is here yet */
    atomic_store_explicit(&local->gate.fresh_ticks, NEAR_TICKS_NEVER, memory_order_relaxed);
    atomic_store_explicit(&local->gate.time_ticks, NEAR_TICKS_NEVER, memory_order_relaxed);
    if (!config->idle_ms)
        return;
    int64_t idle_ns = (int64_t)config->idle_ms * NEAR_NS_PER_MS, unit_ns = idle_ns / NEAR_TICKS;
    local->idle_unit_ns = unit_ns > NEAR_NS_PER_MS ? unit_ns : NEAR_NS_PER_MS;
    local->idle_ticks = (uint16_t)(idle_ns / local->idle_unit_ns);
    atomic_store_explicit(&local->ages_known_ns, local->opened_ns, memory_order_relaxed); /* relaxed: as above */
    atomic_store_explicit(&local->perishable, 1, memory_order_relaxed); /* relaxed: nobody else is here yet */
}

/* The rule that a policy begins with. */
static enum near__rule rule_of(near_policy policy)
{
    static const enum near__rule rules[] = {[NEAR_POLICY_LRU] = NEAR_RULE_LRU,
                                            [NEAR_POLICY_S3FIFO] = NEAR_RULE_S3FIFO,
                                            [NEAR_POLICY_RANDOM] = NEAR_RULE_RANDOM,
                                            [NEAR_POLICY_VOLATILE_LRU] = NEAR_RULE_VOLATILE_LRU,
                                            [NEAR_POLICY_VOLATILE_RANDOM] = NEAR_RULE_VOLATILE_RANDOM,
                                            [NEAR_POLICY_ADAPTIVE] = NEAR_RULE_LRU};
    return rules[policy];
}

static struct near__local *make(const struct near__local_config *config)
{
    size_t size = sizeof(struct near__local) + 63;
    void *memory = near__alloc_zero(config->alloc, size);
    if (!memory)
        return NULL;
    struct near__local *local = (struct near__local *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    local->memory = memory;
    local->alloc = config->alloc;
    local->log = config->log;
    local->value_max = config->value_max;
    local->policy = config->policy;
    local->queues = config->policy == NEAR_POLICY_S3FIFO || config->policy == NEAR_POLICY_ADAPTIVE;
    /* relaxed, all: nobody else is here yet */
    atomic_store_explicit(&local->era, near__tier_first_era(local), memory_order_relaxed);
    atomic_store_explicit(&local->era_swept, near__tier_first_era(local), memory_order_relaxed);
    atomic_store_explicit(&local->rule, rule_of((near_policy)config->policy), memory_order_relaxed);
    local->foreign = config->foreign;
    local->manual = config->manual;
    set_limits(local, config->bytes_max, config->entries_max);
    set_auto(local, config->auto_hit_permille, config->auto_bytes_min, config->auto_bytes_max);
    near__autosize_init(&local->autosize, config->bytes_max);
    local->gives_back = config->auto_pressure != 0;
    near__pressure_init(&local->keeper.pressure, config->pressure_root ? config->pressure_root : "");
    set_times(local, config);
    near__budget_charge(local, (int64_t)near__alloc_cost(config->alloc, memory, size));
    return local;
}

void near__local_charge(struct near__local *local, int64_t bytes)
{
    near__budget_charge(local, bytes);
}

static int make_stripes(struct near__local *local, uint64_t bytes_max)
{
    uint64_t stripes = stripes_for(bytes_max);
    size_t size = stripes * sizeof(struct near__stripe);
    local->index.stripes = near__alloc_zero(local->alloc, size);
    if (!local->index.stripes)
        return NEAR_ERR_NOMEM;
    local->index.stripe_mask = stripes - 1;
    near__budget_charge(local, (int64_t)near__alloc_cost(local->alloc, local->index.stripes, size));
    return NEAR_OK;
}

static int make_seed(struct near__local *local, uint64_t seed)
{
    if (!seed && near__random_seed(&seed, sizeof(seed)) != 0)
        return NEAR_ERR_SYSTEM;
    local->index.secrets = near__secrets(seed);
    return NEAR_OK;
}

int near__local_open(const struct near__local_config *config, struct near__local **ret)
{
    static _Atomic(uint64_t) serials;
    struct near__local *local = make(config);
    if (!local)
        return NEAR_ERR_NOMEM;
    local->serial = 1 + atomic_fetch_add_explicit(&serials, 1, memory_order_relaxed); /* relaxed: only unique */
    int status = make_seed(local, config->seed);
    if (status == NEAR_OK)
        status = make_stripes(local, config->bytes_max);
    if (status == NEAR_OK)
        status = near__blocks_open(local);
    if (status == NEAR_OK)
        status = near__tables_open(local);
    if (status == NEAR_OK)
        status = near__queues_open(local);
    if (status == NEAR_OK)
        status = near__tap_open(local, config);
    if (status == NEAR_OK && !config->manual)
        status = near__keeper_start(local);
    if (status != NEAR_OK) {
        near__local_close(local);
        return status;
    }
    *ret = local;
    return NEAR_OK;
}

void near__local_close(struct near__local *local)
{
    if (!local)
        return;
    near__keeper_stop(local);
    near__tables_close(local);
    near__reclaim_close(local);
    near__pins_close(local);
    near__queues_close(local);
    near__tap_close(local);
    near__readers_free(local);
    near__blocks_close(local);
    pthread_mutex_destroy(&local->ages_lock);
    near__free(local->alloc, local->index.stripes);
    near__free(local->alloc, local->memory);
}

struct near__gate *near__local_gate(struct near__local *local)
{
    return &local->gate;
}

/* ---------------------------------------------------------------- the gate */

/* fresh_ms first: a hit that has the new moment has the new time, or a later one, so that time is not before the
 * moment.  A time that has been told is not taken back: a hit may still have the moment of a longer bound, whose time
 * that was. */
static void set_fresh(struct near__local *local, int64_t ticks, int64_t ms)
{
    struct near__gate *gate = &local->gate;
    if (ms > atomic_load_explicit(&gate->fresh_ms, memory_order_relaxed)) /* relaxed: ours */
        atomic_store_explicit(&gate->fresh_ms, ms, memory_order_relaxed); /* relaxed: ordered by the next */
    /* release: pairs with the hit's acquire (R47); whoever sees this proof sees every message applied before it, and
     * fresh_ms */
    atomic_store_explicit(&gate->fresh_ticks, ticks, memory_order_release);
}

/* What expires is judged by a moment: none is told before the keeper has swept what has ended. */
static int64_t moment_at(struct near__local *local, int64_t at_ns)
{
    if (near__tier_ms(local, at_ns) - near__tier_known_ms(local) >= NEAR_EXPIRY_SURE_MS ||
        /* relaxed: seen soon enough */
        atomic_load_explicit(&local->counter_is_left, memory_order_relaxed))
        return NEAR_TICKS_NEVER;
    return near__rate_moment(&local->rate, local->clock, at_ns);
}

/* Half of the bound after the proof: a margin for all that the counter's rate may be wrong by.  With an idle limit hits
 * need the time. */
static void renew_fresh(struct near__local *local, int64_t proved_ns)
{
    /* relaxed: written by our caller */
    int64_t bound_ns = atomic_load_explicit(&local->gate.bound_ns, memory_order_relaxed);
    int64_t at_ns = proved_ns + bound_ns / 2;
    if (local->idle_unit_ns)
        return;
    int64_t ticks = proved_ns == NEAR_PROVED_ALWAYS ? NEAR_TICKS_ALWAYS : moment_at(local, at_ns);
    int tells_time = ticks != NEAR_TICKS_ALWAYS && ticks != NEAR_TICKS_NEVER;
    set_fresh(local, ticks, tells_time ? near__tier_ms(local, at_ns) + 1 : 0);
}

/* The keeper comes every tenth of a second while something may expire.  What expires within the moment goes by the
 * clock, so it is not longer than a few late rounds need. */
#define TIME_AHEAD_NS (500 * NEAR_NS_PER_MS)

void near__tier_tell_time(struct near__local *local)
{
    struct near__gate *gate = &local->gate;
    /* relaxed: when the proof holds for ever it stays so, and the rate is the keeper's */
    if (local->idle_unit_ns || atomic_load_explicit(&gate->proved_ns, memory_order_relaxed) != NEAR_PROVED_ALWAYS)
        return;
    int64_t at_ns = near__now(local->clock) + TIME_AHEAD_NS, ticks = moment_at(local, at_ns);
    /* relaxed, then release: as in set_fresh */
    atomic_store_explicit(&gate->time_ms, near__tier_ms(local, at_ns) + 1, memory_order_relaxed);
    atomic_store_explicit(&gate->time_ticks, ticks, memory_order_release);
}

int near__local_is_by_counter(const struct near__local *local)
{
    /* relaxed: decides only which way hits try first */
    return local->by_counter ||
           atomic_load_explicit(&local->gate.fresh_ticks, memory_order_relaxed) == NEAR_TICKS_ALWAYS;
}

void near__local_prove(struct near__local *local, int64_t proved_ns)
{
    /* release: pairs with the hit's acquire load of proved_ns (R47); whoever sees this proof sees every message applied
     * before it, and the watermark */
    atomic_store_explicit(&local->gate.proved_ns, proved_ns, memory_order_release);
    renew_fresh(local, proved_ns);
}

void near__local_withdraw(struct near__local *local, int64_t proved_ns)
{
    /* release, both: as a proof; a hit that misses it is still within the bound of the proof that it saw */
    atomic_store_explicit(&local->gate.fresh_ticks, NEAR_TICKS_NEVER, memory_order_release);
    atomic_store_explicit(&local->gate.proved_ns, proved_ns, memory_order_release);
}

void near__local_set_bound(struct near__local *local, int64_t bound_ns)
{
    struct near__gate *gate = &local->gate;
    /* The moment belonged to the old bound; the next proof brings a new one.  release, both: a hit that reads the
     * longer bound sees what was withdrawn before */
    if (atomic_load_explicit(&gate->fresh_ticks, memory_order_relaxed) != NEAR_TICKS_ALWAYS) /* relaxed: our caller's */
        atomic_store_explicit(&gate->fresh_ticks, NEAR_TICKS_NEVER, memory_order_release);
    atomic_store_explicit(&gate->bound_ns, bound_ns, memory_order_release);
}

uint64_t near__local_serial(const struct near__local *local)
{
    return local->serial;
}

/* ---------------------------------------------------------------- what is there goes */

void near__local_raise_watermark(struct near__local *local, uint64_t position)
{
    near__tier_raise_watermark(local, position);
    near__local_forsake(local);
}

/* More clearings than there are era numbers, faster than the keeper sweeps: empties the tables here.  One section, so
 * that one view is enough (index.c, "Two tables"). */
static void empty_now(struct near__local *local)
{
    near__rcu_enter_any();
    const struct near__tables *tables = near__index_tables(&local->index);
    for (unsigned t = 0; t < tables->spans; t++)
        near__index_empty(&local->index, &tables->span[t], 0, tables->span[t].count, NEAR_WHY_INVALIDATED);
    near__rcu_leave();
}

void near__local_clear(struct near__local *local)
{
    /* First no fill under way may become visible in the new era, then the era changes: entries of others are not
     * served. */
    near__step_increment(&local->index.cleared);
    uint32_t era = atomic_load_explicit(&local->era, memory_order_relaxed); /* relaxed: the swap decides */
    do {
        /* acquire: pairs with the keeper's sweep; entries of the number to be used again are gone */
        if (era - atomic_load_explicit(&local->era_swept, memory_order_acquire) >=
            (NEAR_ENTRY_ERAS - 1) * NEAR_ENTRY_ERA_STEP) {
            empty_now(local);
            break;
        }
        /* release: pairs with near__tier_ordinary */
    } while (!atomic_compare_exchange_weak_explicit(&local->era, &era, era + NEAR_ENTRY_ERA_STEP, memory_order_acq_rel,
                                                    memory_order_relaxed));
    near__keeper_wake(local);
}

/* With an idle limit a stamp is 16 bits of time, and after 60 limits seems young again.  Nothing that is read may
 * become so old unseen: what is idle is swept every few seconds.  Where the keeper has not come by for 32 limits (32 s
 * at least), as the process was stopped, all that there is counts as idle, and goes: by the keeper, or before the first
 * write of a cache that has no remote tier, which must not go with it.  Once for each time: hence the mutex. */
void near__ages_settle(struct near__local *local, int64_t now_ns, int came_by)
{
    pthread_mutex_lock(&local->ages_lock);
    int known = near__tier_ages_are_known(local, now_ns);
    if (!known)
        near__local_clear(local);
    /* relaxed: under the mutex */
    if ((came_by || !known) && now_ns > atomic_load_explicit(&local->ages_known_ns, memory_order_relaxed))
        atomic_store_explicit(&local->ages_known_ns, now_ns, memory_order_release); /* see near__tier_ages_are_known */
    pthread_mutex_unlock(&local->ages_lock);
}

void near__local_settle(struct near__local *local)
{
    if (!near__tier_is_settled(local))
        near__ages_settle(local, near__now(local->clock), 0);
}

/* ---------------------------------------------------------------- limits */

void near__local_resize(struct near__local *local, uint64_t bytes_max, uint64_t entries_max)
{
    set_limits(local, bytes_max, entries_max);
    near__limits_lower(local);
    if (bytes_max != NEAR_LIMIT_KEPT)
        near__autosize_set_by_hand(&local->autosize, bytes_max);
    near__keeper_wake(local);
}

int near__local_set_auto(struct near__local *local, uint32_t hit_permille, uint64_t bytes_min, uint64_t bytes_max)
{
    if (!local->curve)
        return NEAR_ERR_UNSUPPORTED;
    if (hit_permille && !bytes_max && bytes_min > near__autosize_by_hand(&local->autosize))
        return NEAR_ERR_OPTION;
    set_auto(local, hit_permille, bytes_min, bytes_max);
    near__keeper_wake(local);
    return NEAR_OK;
}
