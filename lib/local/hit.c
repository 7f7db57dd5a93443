/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Reads of the local tier: the path that everything else exists for.
 *
 * No lock, no locked instruction, no system call (the clock is the vDSO's), no allocation; the only stores go to the
 * thread's own record and, when it changed, to the access stamp of the entry.
 *
 * The order of the looks (R47) makes the staleness bound hold whatever happens between them:
 *
 *   1. proved_ns      2. the entry      3. watermark      4. the clock
 *
 * Were the proof looked at after the entry, a thread paused in between could pair an entry from before a missed
 * message with the proof that came after it.  Were the watermark looked at before the entry, an entry that arrived
 * just before it rose would pass. Were the clock first, a pause after it would not count.
 *
 * The coarse clock costs a fifth of the exact one, but lags: by a tick or two, and in a virtual machine by as long
 * as the host holds back the processor that keeps the time.  So it decides only what is clear by a wide margin,
 * half the bound or EXPIRY_MARGIN_MS before an expiry; everything else asks the exact clock.  (A proof is renewed
 * every quarter of the bound, so in health hits stay on this side.) */
#include "local/rcu.h"
#include "local/tier.h"

/* Keys whose lines are fetched together by near__local_get_many: more than a core's outstanding misses gains nothing. */
#define BATCH 16

/* What a read asks for. */
struct demand {
    int64_t proved_ns; /* 1 */
    int64_t bound_ns, stale_ns;
};

static inline struct demand take_proof(const struct near__local *local, int64_t bound_ns, int64_t stale_ns)
{
    NEAR_STEP();
    /* acquire: the entry is looked at after it; pairs with the store of a proof, before which its messages were applied */
    return (struct demand){atomic_load_explicit(&local->gate.proved_ns, memory_order_acquire), bound_ns, stale_ns};
}

static inline int is_within(int64_t now_ns, int64_t proved_ns, int64_t bound_ns)
{
    return proved_ns != NEAR_PROVED_NEVER && (now_ns - proved_ns < bound_ns || NEAR_MUTANT(PROOF_AGE_IGNORED));
}

/* A bound of fewer usual lags (about 200 ms) is left to the exact clock: ticks of a busy virtual machine were seen 9 ms late. */
#define COARSE_BOUND_LAGS 25
/* Outside this the coarse clock is good enough for expiry: see above. */
#define EXPIRY_MARGIN_MS 500

static inline enum near__local_result freshness(const struct near__local *local, const struct demand *demand, int64_t coarse_ns)
{
    if (demand->bound_ns >= COARSE_BOUND_LAGS * local->lag_ns &&
        is_within(coarse_ns, demand->proved_ns, demand->bound_ns / 2))
        return NEAR_LOCAL_HIT;
    int64_t now_ns = near__now(local->clock);
    if (is_within(now_ns, demand->proved_ns, demand->bound_ns))
        return NEAR_LOCAL_HIT;
    return is_within(now_ns, demand->proved_ns, demand->stale_ns) ? NEAR_LOCAL_STALE_HIT : NEAR_LOCAL_UNPROVEN;
}

static inline int is_over(const struct near__local *local, uint32_t expires, int64_t coarse_ns)
{
    return near__expiry_left(expires, near__tier_ms(local, coarse_ns)) <= EXPIRY_MARGIN_MS &&
           near__expiry_left(expires, near__tier_ms(local, near__now(local->clock))) <= 0;
}

/* Steps 3 and 4 for an entry found in step 2.  *ret_ns: about the time, 0 when nobody needed it. */
static inline enum near__local_result judge(const struct near__local *local, struct near__entry *entry,
                                            const struct demand *demand, int64_t *ret_ns)
{
    /* acquire: see 3 above; pairs with near__local_raise_watermark */
    uint64_t watermark = near__step_look(&local->gate.watermark);
    /* acquire: pairs with near__local_clear; whoever reads after it returned sees the new era */
    uint32_t era = atomic_load_explicit(&local->era, memory_order_acquire);
    uint16_t tick;

    *ret_ns = 0;
    if (near__entry_era(entry) != era % NEAR_ENTRY_ERAS)
        return NEAR_LOCAL_ABSENT;
    if (near__entry_position(entry) < watermark)
        return NEAR_LOCAL_SUSPECT;
    if (demand->proved_ns == NEAR_PROVED_ALWAYS && !entry->expires && !local->idle_unit_ns) {
        near__entry_touch(entry, near__tier_tick(local, 0));
        return NEAR_LOCAL_HIT;
    }
    int64_t coarse_ns = near__now_coarse(local->clock); /* 4 */
    *ret_ns = coarse_ns;
    tick = near__tier_tick(local, coarse_ns);
    if ((entry->expires && is_over(local, entry->expires, coarse_ns)) ||
        (local->idle_unit_ns && near__entry_age(entry, tick) >= local->idle_ticks))
        return NEAR_LOCAL_EXPIRED;
    enum near__local_result result = freshness(local, demand, coarse_ns);
    if (result != NEAR_LOCAL_UNPROVEN)
        near__entry_touch(entry, tick);
    return result;
}

static inline int is_served(enum near__local_result result)
{
    return result == NEAR_LOCAL_HIT || result == NEAR_LOCAL_STALE_HIT;
}

static inline void count(struct near__reader *reader, enum near__local_result result)
{
    static const unsigned char of[] = {
        [NEAR_LOCAL_HIT] = NEAR_COUNT_HITS,         [NEAR_LOCAL_ABSENT] = NEAR_COUNT_ABSENT,
        [NEAR_LOCAL_EXPIRED] = NEAR_COUNT_EXPIRED,  [NEAR_LOCAL_SUSPECT] = NEAR_COUNT_SUSPECT,
        [NEAR_LOCAL_UNPROVEN] = NEAR_COUNT_UNPROVEN, [NEAR_LOCAL_STALE_HIT] = NEAR_COUNT_STALE};
    near__reader_add(reader, of[result], 1);
}

static inline void describe(const struct near__local *local, const struct near__entry *entry, int64_t about_ns,
                            struct near__view *view)
{
    view->data = NULL;
    view->pin = NULL;
    view->size = near__entry_value_size(entry);
    view->expires_ns = NEAR_NEVER;
    if (entry->expires) {
        int64_t now_ms = near__tier_ms(local, about_ns);
        view->expires_ns = local->opened_ns + (now_ms + near__expiry_left(entry->expires, now_ms)) * NEAR_NS_PER_MS;
    }
}

/* Pins, or copies when all pins are in use.  0: no memory for the copy. */
static inline int hold(struct near__local *local, struct near__reader *reader, struct near__entry *entry,
                       struct near__view *view)
{
    if (__builtin_expect(!reader->pins_free, 0))
        return near__pin_copy(local, entry, view);
    unsigned i = (unsigned)__builtin_ctzll(reader->pins_free);
    reader->pins_free &= reader->pins_free - 1;
    /* release: so that the keeper's acquire of this, too, comes after our reads under the pin that stood here before.  It is
     * seen in time because of the section we are in: see pins.c */
    atomic_store_explicit(&reader->pin[i], entry, memory_order_release);
    view->data = near__entry_value(entry);
    view->pin = &reader->pin[i];
    return 1;
}

/* Steps 3 and 4 and the pin. */
static inline enum near__local_result serve(struct near__local *local, struct near__reader *reader, struct near__entry *entry,
                                            const struct demand *demand, struct near__view *view)
{
    int64_t about_ns;
    enum near__local_result result = entry ? judge(local, entry, demand, &about_ns) : NEAR_LOCAL_ABSENT;
    if (is_served(result)) {
        describe(local, entry, about_ns, view);
        if (!hold(local, reader, entry, view))
            result = NEAR_LOCAL_ABSENT;
    }
    return result;
}

static inline enum near__local_result find(struct near__local *local, struct near__reader *reader, const void *key,
                                           size_t key_size, int64_t bound_ns, int64_t stale_ns, struct near__view *view)
{
    uint64_t hash = near__hash(key, key_size, local->index.seed);
    near__rcu_enter();
    struct demand demand = take_proof(local, bound_ns, stale_ns);                                 /* 1 */
    struct near__entry *entry = near__index_find(&local->index, hash, key, key_size);             /* 2 */
    enum near__local_result result = serve(local, reader, entry, &demand, view);                  /* 3, 4 */
    near__rcu_leave();
    return result;
}

enum near__local_result near__local_get(struct near__local *local, struct near__reader *reader, const void *key,
                                        size_t key_size, int64_t bound_ns, int64_t stale_ns, struct near__view *view)
{
    enum near__local_result result = find(local, reader, key, key_size, bound_ns, stale_ns, view);
    count(reader, result);
    return result;
}

enum near__local_result near__local_look(struct near__local *local, struct near__reader *reader, const void *key,
                                         size_t key_size, struct near__view *view)
{
    return find(local, reader, key, key_size, NEAR_NEVER, 0, view);
}

enum near__local_result near__local_copy(struct near__local *local, struct near__reader *reader, const void *key,
                                         size_t key_size, int64_t bound_ns, int64_t stale_ns, void *buffer,
                                         size_t capacity, struct near__view *view)
{
    uint64_t hash = near__hash(key, key_size, local->index.seed);
    int64_t about_ns;
    near__rcu_enter();
    struct demand demand = take_proof(local, bound_ns, stale_ns);                                 /* 1 */
    struct near__entry *entry = near__index_find(&local->index, hash, key, key_size);             /* 2 */
    enum near__local_result result = entry ? judge(local, entry, &demand, &about_ns) : NEAR_LOCAL_ABSENT; /* 3, 4 */
    if (is_served(result)) {
        describe(local, entry, about_ns, view);
        if (view->size && capacity)
            memcpy(buffer, near__entry_value(entry), view->size < capacity ? view->size : capacity);
    }
    count(reader, result);
    near__rcu_leave();
    return result;
}

/* ---------------------------------------------------------------- many keys */

/* What the tag alone says: fetches the likely entry's lines, without waiting for them. */
static void prefetch_entry(const struct near__index *index, uint64_t hash)
{
    const struct near__tables *tables = near__index_tables(index);
    for (unsigned t = 0; t < tables->spans; t++) {
        const struct near__bucket *bucket = near__span_bucket(&tables->span[t], hash);
        for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++) {
            uint64_t word = near__step_look(&bucket->slot[i]);
            if (near__word_tag(word) == near__hash_tag(hash)) {
                const char *entry = (const char *)near__word_entry(word);
                __builtin_prefetch(entry);
                __builtin_prefetch(entry + 64);
            }
        }
    }
}

static void prefetch_bucket(const struct near__index *index, uint64_t hash)
{
    const struct near__tables *tables = near__index_tables(index);
    for (unsigned t = 0; t < tables->spans; t++)
        __builtin_prefetch(near__span_bucket(&tables->span[t], hash));
}

static void get_batch(struct near__local *local, struct near__reader *reader, const struct near__local_key *keys, size_t count_,
                      int64_t bound_ns, int64_t stale_ns, enum near__local_result *results, struct near__view *views)
{
    uint64_t hash[BATCH];
    for (size_t i = 0; i < count_; i++)
        hash[i] = near__hash(keys[i].key, keys[i].size, local->index.seed);
    near__rcu_enter();
    for (size_t i = 0; i < count_; i++)
        prefetch_bucket(&local->index, hash[i]);
    for (size_t i = 0; i < count_; i++)
        prefetch_entry(&local->index, hash[i]);
    for (size_t i = 0; i < count_; i++) {
        struct demand demand = take_proof(local, bound_ns, stale_ns);                             /* 1 */
        struct near__entry *entry = near__index_find(&local->index, hash[i], keys[i].key, keys[i].size); /* 2 */
        results[i] = serve(local, reader, entry, &demand, &views[i]);                             /* 3, 4 */
        count(reader, results[i]);
    }
    near__rcu_leave();
}

void near__local_get_many(struct near__local *local, struct near__reader *reader, const struct near__local_key *keys,
                          size_t count_, int64_t bound_ns, int64_t stale_ns, enum near__local_result *results,
                          struct near__view *views)
{
    for (size_t i = 0; i < count_; i += BATCH)
        get_batch(local, reader, keys + i, count_ - i < BATCH ? count_ - i : BATCH, bound_ns, stale_ns, results + i, views + i);
}
