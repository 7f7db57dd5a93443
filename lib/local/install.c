/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What comes into the local tier and what is taken out of it, key by key: tickets, installs, numbers of writes without
 * a remote tier, invalidations.  The order that all of it keeps is argued in index.c.
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

/* An echo can kill a tentative install once; more than that at one position is a concurrent install of the same
 * version. */
#define INSTALL_TRIES 4

#define AT_EASE_FROM ((size_t)256 << 10) /* bytes of a value that is not copied inside a section */

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
    if (size && !near__copy(to, from, size, near__width()))
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
    offer->expires = near__expiry(sent_ms + ttl_ms, near__tier_known_ms(local));
    /* relaxed: it sweeps soon enough.  Looked at first, for then no thread takes the line from the others */
    if (near__unlikely(!atomic_load_explicit(&local->perishable, memory_order_relaxed))) {
        atomic_store_explicit(&local->perishable, 1, memory_order_relaxed);
        near__keeper_wake(local); /* which tells the time from now on */
    }
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
                    size_t key_size, const void *value, size_t value_size, uint64_t position, int64_t ttl_ms,
                    int64_t sent_ns)
{
    struct offer offer = offer_of(ticket, key, key_size, value, value_size, position);
    enum near__count outcome = keep(local, reader, &offer, ttl_ms, sent_ns);
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

int near__local_put(struct near__local *local, struct near__reader *reader, const void *key, size_t key_size,
                    const void *value, size_t value_size, int64_t ttl_ms)
{
    struct offer offer = {.key = key,
                          .value = value,
                          .key_size = key_size,
                          .value_size = value_size,
                          .hash = near__key_hash(key, key_size, &local->index.secrets)};
    uint32_t stripe = (uint32_t)(near__index_stripe(&local->index, offer.hash) - local->index.stripes);
    int64_t cost;
    /* to settle ages takes a mutex, for which no read section must wait */
    if (value_size >= AT_EASE_FROM || !near__tier_is_settled(local))
        return 0;
    near__prefetch_write(&local->index.stripes[stripe]);
    prefetch_places(local, offer.hash);
    if (!set_expiry(local, &offer, ttl_ms, NEAR_NEVER))
        return 0;
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
