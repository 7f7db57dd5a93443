/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The local tier's calls other than reads: opening, installing, invalidating, limits, statistics.
 *
 * Foreign writers.  With config.foreign, values change without a new position: of two replies at one position either
 * may be the newer one.  The order is then the generation's alone: whatever is learnt about a key raises the generation
 * of its stripe, by a swap from the ticket's.  Who succeeds knows that nobody has learnt anything since before his
 * command was sent; so nobody has seen anything newer than his reply, and every fill that was begun before fails from
 * now on.  Who fails may be older or newer than what is there: then nothing stays (I5).  A reply that is not kept
 * counts as one that fails.  What positions say still holds, too: messages and acknowledged writes have them. */
#include "local/hit.h"
#include "local/rcu.h"
#include "local/tap.h"
#include "local/tier.h"

#include "base/compiler.h"
#include "base/prefetch.h"
#include "base/random.h"

/* One stripe for so many bytes of budget: at 16 bytes each 1.6 % of it.  Two keys in one stripe cost a refused fill
 * when one of them is written while the other is being read: with 50,000 writes a second, and half a millisecond for a
 * reply, one in 650 at most.  The most of them are 256 KiB, which stay in the second-level cache: a million keys filled
 * on miss into 100,000 entries were 1.05 times as quick (one thread) as with four times as many; with a quarter of
 * these there is no difference. */
#define STRIPE_BYTES 1024
#define STRIPES_MIN 256
#define STRIPES_MAX 16384

/* An echo can kill a tentative install once; more than that at one position is a concurrent install of the same
 * version. */
#define INSTALL_TRIES 4

#define AT_EASE_FROM ((size_t)256 << 10) /* bytes of a value that is not copied inside a section */

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
    if (entries_max != NEAR_LIMIT_KEPT)
        set_limit(&local->budget.entries_wanted, &local->budget.entries_max, entries_limit(entries_max));
}

static void set_auto(struct near__local *local, uint32_t hit_permille, uint64_t bytes_min, uint64_t bytes_max)
{
    struct near__autosize *a = &local->autosize;
    /* relaxed, all: see autosize.h */
    atomic_store_explicit(&a->bytes_min, bytes_min, memory_order_relaxed);
    atomic_store_explicit(&a->bytes_max, bytes_max, memory_order_relaxed);
    atomic_store_explicit(&a->hit_permille, hit_permille, memory_order_relaxed);
}

static void set_times(struct near__local *local, const struct near__local_config *config)
{
    local->clock = config->clock;
    local->opened_ns = near__now(config->clock);
    local->ttl_max_ms = config->ttl_max_ms;
    near__rate_init(&local->rate, config->clock);
    pthread_mutex_init(&local->ages_lock, NULL);
    /* relaxed: nobody else is here yet */
    atomic_store_explicit(&local->gate.fresh_ticks, NEAR_TICKS_NEVER, memory_order_relaxed);
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
 * moment. */
static void set_fresh(struct near__local *local, int64_t ticks, int64_t ms)
{
    struct near__gate *gate = &local->gate;
    atomic_store_explicit(&gate->fresh_ms, ms, memory_order_relaxed); /* relaxed: ordered by the next */
    /* release: pairs with the hit's acquire (R47); whoever sees this proof sees every message applied before it, and
     * fresh_ms */
    atomic_store_explicit(&gate->fresh_ticks, ticks, memory_order_release);
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
    if (proved_ns == NEAR_PROVED_ALWAYS)
        set_fresh(local, NEAR_TICKS_ALWAYS, 0);
    else
        set_fresh(local, near__rate_moment(&local->rate, local->clock, at_ns), near__tier_ms(local, at_ns) + 1);
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

/* ---------------------------------------------------------------- tickets */

static struct near__ticket ticket_of(struct near__local *local, uint64_t hash)
{
    struct near__stripe *stripe = near__index_stripe(&local->index, hash);
    return (struct near__ticket){.floor = near__step_load(&stripe->floor),
                                 /* seq_cst: one order with near__local_raise_watermark, as the floor */
                                 .watermark = near__tier_watermark(local),
                                 .generation = near__index_generation(&local->index, stripe),
                                 .hash = hash,
                                 .stripe = (uint32_t)(stripe - local->index.stripes)};
}

struct near__ticket near__local_ticket(struct near__local *local, const void *key, size_t key_size)
{
    return ticket_of(local, near__key_hash(key, key_size, &local->index.secrets));
}

/* ---------------------------------------------------------------- install */

/* What is offered. */
struct offer {
    const void *key, *value;
    size_t key_size, value_size;
    uint64_t hash, position;
    uint32_t generation;
    uint32_t expires;
    int renews; /* an entry that is there: it keeps its place in the order of eviction, `tick` */
    uint16_t tick;
};

NEAR_INLINE void copy(void *to, const void *from, size_t size)
{
    if (size && !near__copy(to, from, size, near__wide_lines()))
        memcpy(to, from, size);
}

/* What is the same whatever the order comes to; enough to free it by. */
NEAR_INLINE struct near__entry *fill(void *block, const struct offer *offer, unsigned flags)
{
    struct near__entry *entry = near__entry_make(block, offer->key_size, offer->value_size, flags, offer->expires);
    copy(entry->bytes, offer->key, offer->key_size);
    copy(entry->bytes + offer->key_size, offer->value, offer->value_size);
    return entry;
}

/* A large value takes its time to copy, most of it for pages that the kernel clears: not in the section, where that may
 * end. */
NEAR_APART struct near__entry *fill_outside(void *block, const struct offer *offer, unsigned flags)
{
    near__rcu_leave();
    struct near__entry *entry = fill(block, offer, flags);
    near__rcu_enter();
    return entry;
}

/* The rest: after the ticket was taken.  One section, the caller's, from the look at the era to the install: sweep_eras
 * (keeper.c) waits for sections, and then nobody puts an entry of an earlier era into a table that has been swept of
 * them, to come to life when the number of the era is used again. */
static inline void stamp(struct near__local *local, struct near__entry *entry, uint64_t hash, uint64_t position,
                         int64_t cost, uint16_t access, uint16_t tick)
{
    /* Whoever has the new era has a generation that its ticket lacks, or a later ticket. */
    near__entry_set_position(entry, position, near__tier_ordinary(local) & NEAR_ENTRY_ERA);
    atomic_store_explicit(&entry->access, access, memory_order_relaxed); /* relaxed: published with the slot's word */
    if (local->queues)
        near__queue_enter(local, entry, hash, cost, tick);
}

/* The logical clock of the order of eviction: see order.h. */
static void advance_tick(struct near__local *local, struct near__reader *reader)
{
    /* relaxed, both: approximate */
    int64_t entries = atomic_load_explicit(&local->budget.entries, memory_order_relaxed);
    if (++reader->fills >= entries / NEAR_TICKS) {
        reader->fills = 0;
        if (atomic_fetch_add_explicit(&local->tick, 1, memory_order_relaxed) % NEAR_TICKS_TO_SWEEP == 0)
            near__keeper_wake(local);
    }
    if ((uint64_t)entries > atomic_load_explicit(&local->index_entries_max, memory_order_relaxed))
        near__keeper_wake(local);
}

/* Memory for an entry of that size, charged; NULL: no room or no memory. */
static void *obtain(struct near__local *local, struct near__reader *reader, size_t size,
                    const struct near__moment *moment, int64_t *ret_cost)
{
    int64_t cost = near__block_estimate(local, size); /* the difference is settled once it is known */
    near__recycle(local, reader, 1);
    if (!near__budget_reserve_entry(local, reader, cost, moment))
        return NULL;
    void *block = near__block_take(local, reader, size, ret_cost);
    if (!block) {
        near__budget_release_entry(local, reader, cost);
        near__keeper_wake(local);
        return NULL;
    }
    near__budget_correct(local, reader, *ret_cost - cost); /* as a rule the estimate was right */
    return block;
}

/* Nothing newer than the offer is known of its key, and nothing that its ticket did not know. */
static int is_unopposed(struct near__local *local, const struct offer *offer)
{
    const struct near__stripe *stripe = near__index_stripe(&local->index, offer->hash);
    return near__step_load(&stripe->floor) <= offer->position &&
           near__index_generation(&local->index, stripe) == offer->generation;
}

/* A message that meets the entry while it is tentative cannot tell how new it is and swaps it out (index.c, i2).  As a
 * rule that is the echo of the very write whose value is being installed: echo and reply come at the same moment on two
 * connections.  So a refusal that nothing explains is tried again; what is newer than the offer has raised the floor,
 * and ends that. */
static int install(struct near__local *local, struct near__entry *entry, const struct offer *offer,
                   const struct near__moment *moment)
{
    int kept = 0;
    for (int tries = 0;
         !kept && tries < (NEAR_MUTANT(INSTALL_ONCE) ? 1 : INSTALL_TRIES) && (tries == 0 || is_unopposed(local, offer));
         tries++)
        kept = near__index_install(&local->index, entry, offer->hash, offer->generation, moment);
    return kept;
}

static void tap(struct near__local *local, struct near__reader *reader, const struct offer *offer, size_t size)
{
    if (near__tap_wants(local, offer->hash))
        near__tap_note(reader, offer->hash, NEAR_SEEN_FILL, size);
    if (local->taps)
        near__tap_learn(local, reader);
}

/* Comes while memory is made ready.  Of an older version of the key, if it is at home, as nearly all are, the key will
 * be compared and the head written; where it is is read from the bucket, so this is for read sections, and the
 * processor goes on while it waits for that.  The section may end and another begin before the install (fill_outside),
 * which looks anew. */
static void prefetch_places(struct near__local *local, uint64_t hash)
{
    const struct near__tables *tables = near__index_tables(&local->index);
    const struct near__bucket *home = near__span_bucket(&tables->span[tables->target], hash);
    near__prefetch_write(home);
    for (unsigned i = 1; i < NEAR_PLACES; i++)
        __builtin_prefetch(near__bucket_place(home, i));
    unsigned match = near__bucket_match(home, near__hash_tag(hash));
    if (match)
        near__prefetch_write(near__word_entry(near__step_look(near__match_slot(home, match))));
}

/* NULL: no room.  The bucket is being fetched. */
static struct near__entry *prepare(struct near__local *local, struct near__reader *reader, const struct offer *offer,
                                   const struct near__moment *moment, int64_t *ret_cost)
{
    if ((int64_t)offer->value_size > near__tier_value_limit(local) || offer->key_size > UINT16_MAX)
        return NULL;
    unsigned flags = near__entry_flags_for(offer->key_size, offer->value_size, offer->expires != 0, local->queues);
    size_t size = near__entry_size_for(offer->key_size, offer->value_size, flags);
    tap(local, reader, offer, size);
    void *block = obtain(local, reader, size, moment, ret_cost);
    if (!block)
        return NULL;
    return offer->value_size >= AT_EASE_FROM && reader->share.pauses ? fill_outside(block, offer, flags)
                                                                     : fill(block, offer, flags);
}

/* Never visible, so nobody has it. */
static void give_back(struct near__local *local, struct near__reader *reader, struct near__entry *entry, int64_t cost)
{
    near__block_free(local, reader, entry);
    near__budget_release_entry(local, reader, cost);
}

/* After the install: NEAR_COUNT_FILLS, or how it was refused; then the entry has gone. */
static inline enum near__count conclude(struct near__local *local, struct near__reader *reader,
                                        struct near__entry *entry, int64_t cost, int kept)
{
    if (near__unlikely(!kept)) {
        if (local->queues)
            near__queue_cancel(local, entry, cost);
        give_back(local, reader, entry, cost);
        return NEAR_COUNT_REFUSED_ORDER;
    }
    advance_tick(local, reader);
    near__recycle_more(local, reader);
    return NEAR_COUNT_FILLS;
}

/* Likewise. */
static enum near__count try_install(struct near__local *local, struct near__reader *reader, const struct offer *offer)
{
    int64_t cost;
    struct near__moment moment = near__tier_moment(local);
    prefetch_places(local, offer->hash);
    struct near__entry *entry = prepare(local, reader, offer, &moment, &cost);
    if (!entry)
        return NEAR_COUNT_REFUSED_SPACE;
    stamp(local, entry, offer->hash, offer->position, cost, offer->renews ? offer->tick : moment.tick, moment.tick);
    return conclude(local, reader, entry, cost, install(local, entry, offer, &moment));
}

/* When the copy's life ends; 0: it is over already. */
static int set_expiry(struct near__local *local, struct offer *offer, int64_t ttl_ms, int64_t sent_ns)
{
    if (NEAR_MUTANT(TTL_IGNORED))
        ttl_ms = -1;
    if (NEAR_MUTANT(TTL_MAX_IGNORED))
        return !(offer->expires = 0);
    if (local->ttl_max_ms && (ttl_ms < 0 || ttl_ms > local->ttl_max_ms))
        ttl_ms = local->ttl_max_ms;
    offer->expires = 0;
    if (ttl_ms < 0)
        return 1;
    int64_t now_ns = near__now(local->clock), now_ms = near__tier_ms(local, now_ns);
    if (sent_ns == NEAR_NEVER || NEAR_MUTANT(TTL_FROM_ARRIVAL))
        sent_ns = now_ns;
    int64_t sent_ms = near__tier_ms(local, sent_ns);
    if (sent_ns < local->opened_ns)
        sent_ms--; /* the division rounds towards zero: never late */
    if (ttl_ms > INT64_MAX / 4 - sent_ms)
        ttl_ms = INT64_MAX / 4 - sent_ms;
    if (sent_ms + ttl_ms <= now_ms)
        return 0;
    offer->expires = near__expiry(sent_ms + ttl_ms, now_ms);
    atomic_store_explicit(&local->perishable, 1, memory_order_relaxed); /* relaxed: the keeper sees it soon enough */
    return 1;
}

static int is_outrun(struct near__local *local, const struct offer *offer)
{
    /* Only saves work: what passes here is decided by the index, and what is below the watermark would not be
     * served. */
    return (near__step_load(&near__index_stripe(&local->index, offer->hash)->floor) > offer->position &&
            !NEAR_MUTANT(FLOOR_UNCHECKED)) ||
           near__tier_watermark(local) > offer->position;
}

static int invalidate(struct near__local *local, uint64_t hash, const void *key, size_t key_size, uint64_t position,
                      enum near__why why)
{
    near__rcu_enter_any();
    int result = near__index_invalidate(&local->index, hash, key, key_size, position, why);
    near__rcu_leave();
    return result;
}

/* Foreign writers: takes the generation on from the ticket's.  0: something was learnt about the stripe since then. */
static int claim(struct near__local *local, struct offer *offer)
{
    struct near__stripe *stripe = near__index_stripe(&local->index, offer->hash);
    uint64_t generation = near__step_load(&stripe->generation);
    /* a clearing between the two looks is noticed by the install, which compares the sum again */
    if (near__index_generation(&local->index, stripe) != offer->generation ||
        !near__step_swap(&stripe->generation, generation, generation + 1))
        return 0;
    offer->generation++;
    return 1;
}

/* Something was seen at that position and is not kept (I4); if positions do not tell everything, nothing else is
 * either. */
static void learn(struct near__local *local, uint64_t hash, const void *key, size_t key_size, uint64_t position)
{
    invalidate(local, hash, key, key_size, position, NEAR_WHY_REPLACED);
    if (local->foreign && position && !NEAR_MUTANT(SEEN_BY_POSITION))
        invalidate(local, hash, key, key_size, 0, NEAR_WHY_REPLACED);
}

static enum near__count keep(struct near__local *local, struct near__reader *reader, struct offer *offer,
                             int64_t ttl_ms, int64_t sent_ns)
{
    enum near__count outcome = NEAR_COUNT_REFUSED_ORDER;
    if (offer->position >= NEAR_POSITION_MAX)
        offer->position = 0; /* unusable */
    int ordered = offer->position && (!local->foreign || NEAR_MUTANT(REPLIES_UNCLAIMED) || claim(local, offer));
    near__rcu_enter(); /* one section for all that follows, down to the index, but for large values */
    reader->share.pauses = 1;
    if (ordered && set_expiry(local, offer, ttl_ms, sent_ns) && !is_outrun(local, offer))
        outcome = try_install(local, reader, offer);
    reader->share.pauses = 0;
    near__rcu_leave();
    if (outcome != NEAR_COUNT_FILLS)
        learn(local, offer->hash, offer->key, offer->key_size, offer->position); /* I4, or I5 without a position */
    return outcome;
}

/* 1: kept. */
static int count(struct near__reader *reader, enum near__count outcome)
{
    near__reader_add(reader, outcome, 1);
    return outcome == NEAR_COUNT_FILLS;
}

static struct offer offer_of(struct near__ticket ticket, const void *key, size_t key_size, const void *value,
                             size_t value_size, uint64_t position)
{
    return (struct offer){.key = key,
                          .value = value,
                          .key_size = key_size,
                          .value_size = value_size,
                          .hash = ticket.hash,
                          .position = position,
                          .generation = ticket.generation};
}

int near__local_install(struct near__local *local, struct near__reader *reader, struct near__ticket ticket,
                        const void *key, size_t key_size, const void *value, size_t value_size, uint64_t position,
                        int64_t ttl_ms, int64_t sent_ns)
{
    struct offer offer = offer_of(ticket, key, key_size, value, value_size, position);
    return count(reader, keep(local, reader, &offer, ttl_ms, sent_ns));
}

int near__local_try(struct near__local *local, struct near__reader *reader, struct near__ticket ticket, const void *key,
                    size_t key_size, const void *value, size_t value_size, uint64_t position, int64_t ttl_ms)
{
    struct offer offer = offer_of(ticket, key, key_size, value, value_size, position);
    enum near__count outcome = keep(local, reader, &offer, ttl_ms, NEAR_NEVER);
    return outcome == NEAR_COUNT_FILLS && count(reader, outcome);
}

void near__local_given_up(struct near__reader *reader)
{
    count(reader, NEAR_COUNT_REFUSED_SPACE);
}

/* acquire: pairs with near__local_numbered; whoever has the stripe sees what those before it have installed */
uint64_t near__local_number(struct near__local *local, uint32_t stripe)
{
    _Atomic(uint64_t) *floor = &local->index.stripes[stripe].floor;
    /* relaxed: the swap decides */
    uint64_t now = atomic_load_explicit(floor, memory_order_relaxed), number = (now + 1) | 1;
    if (now & 1 && !NEAR_MUTANT(STRIPE_SHARED))
        return 0;
    return near__step_swap(floor, now, number) ? number : 0;
}

void near__local_numbered(struct near__local *local, uint32_t stripe, uint64_t number, int used)
{
    /* release: pairs with near__local_number.  No swap: who has the stripe is the only one who writes its floor.  Where
     * nobody knows the number it is as if it had not been taken. */
    if (!NEAR_MUTANT(STRIPE_SHARED))
        atomic_store_explicit(&local->index.stripes[stripe].floor, used ? number + 1 : number - 1,
                              memory_order_release);
}

/* A removal that meets a put while there are two tables refuses it, and so does a storm on the places of the key. */
static int put(struct near__local *local, struct near__entry *entry, uint64_t hash, const struct near__moment *moment)
{
    int kept = 0;
    for (int tries = 0; !kept && tries < INSTALL_TRIES; tries++)
        kept = near__index_put(&local->index, entry, hash, moment);
    return kept;
}

static int is_settled(const struct near__local *local)
{
    return !local->idle_unit_ns || near__tier_ages_are_known(local, near__now(local->clock));
}

int near__local_put(struct near__local *local, struct near__reader *reader, const void *key, size_t key_size,
                    const void *value, size_t value_size)
{
    struct offer offer = {.key = key,
                          .value = value,
                          .key_size = key_size,
                          .value_size = value_size,
                          .hash = near__key_hash(key, key_size, &local->index.secrets)};
    uint32_t stripe = (uint32_t)(near__index_stripe(&local->index, offer.hash) - local->index.stripes);
    int64_t cost;
    /* to settle ages takes a mutex, for which no read section must wait */
    if (local->ttl_max_ms || value_size >= AT_EASE_FROM || !is_settled(local))
        return 0;
    near__prefetch_write(&local->index.stripes[stripe]);
    prefetch_places(local, offer.hash);
    struct near__moment moment = near__tier_moment(local);
    struct near__entry *entry = prepare(local, reader, &offer, &moment, &cost);
    if (!entry)
        return 0;
    uint64_t number = near__local_number(local, stripe);
    if (!number) {
        give_back(local, reader, entry, cost);
        return 0;
    }
    stamp(local, entry, offer.hash, number, cost, moment.tick, moment.tick);
    int kept = conclude(local, reader, entry, cost, put(local, entry, offer.hash, &moment)) == NEAR_COUNT_FILLS;
    if (near__likely(kept))
        near__reader_add(reader, NEAR_COUNT_FILLS, 1);
    else
        learn(local, offer.hash, key, key_size, number); /* I4 */
    near__local_numbered(local, stripe, number, 1);
    return kept;
}

/* Whether there is an older entry of the key, and where it stands in the order of eviction. */
static int renews(struct near__local *local, struct offer *offer)
{
    near__rcu_enter_any();
    const struct near__entry *entry = near__index_find(&local->index, offer->hash, offer->key, offer->key_size);
    offer->renews = entry && near__entry_is_below(entry, offer->position);
    if (offer->renews)
        offer->tick = near__entry_stamp(entry);
    near__rcu_leave();
    return offer->renews;
}

int near__local_renew(struct near__local *local, struct near__reader *reader, struct near__ticket ticket,
                      const void *key, size_t key_size, const void *value, size_t value_size, uint64_t position,
                      int64_t ttl_ms, int64_t sent_ns)
{
    struct offer offer = offer_of(ticket, key, key_size, value, value_size, position);
    return renews(local, &offer) && count(reader, keep(local, reader, &offer, ttl_ms, sent_ns));
}

/* ---------------------------------------------------------------- invalidate */

void near__local_observe(struct near__local *local, const void *key, size_t key_size, uint64_t position)
{
    if (NEAR_MUTANT(UNOBSERVED))
        return;
    learn(local, near__key_hash(key, key_size, &local->index.secrets), key, key_size,
          position < NEAR_POSITION_MAX ? position : 0);
}

int near__local_invalidate(struct near__local *local, const void *key, size_t key_size, uint64_t position,
                           enum near__local_cause cause)
{
    static const enum near__why why[] = {[NEAR_CAUSE_MESSAGE] = NEAR_WHY_INVALIDATED,
                                         [NEAR_CAUSE_WRITE] = NEAR_WHY_REPLACED,
                                         [NEAR_CAUSE_DROP] = NEAR_WHY_DROPPED};
    int result = invalidate(local, near__key_hash(key, key_size, &local->index.secrets), key, key_size,
                            position < NEAR_POSITION_MAX ? position : 0, why[cause]);
    if (cause == NEAR_CAUSE_MESSAGE && result <= 0)
        atomic_fetch_add_explicit(result ? &local->older : &local->absent, 1, memory_order_relaxed); /* relaxed:
                                                                                                        statistics */
    return result;
}

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
    if (!is_settled(local))
        near__ages_settle(local, near__now(local->clock), 0);
}

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
    set_auto(local, hit_permille, bytes_min, bytes_max);
    near__keeper_wake(local);
    return NEAR_OK;
}

/* ---------------------------------------------------------------- statistics */

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
    uint64_t entries_max = gauge_of(&local->budget.entries_wanted);
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
