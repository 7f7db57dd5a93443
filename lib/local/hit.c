/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Reads of the local tier: the path that everything else exists for.
 *
 * No lock, no locked instruction, no system call (the kernel's clocks are the vDSO's), no allocation; the only stores
 * go to the thread's own record and, when it changed, to the access stamp of the entry.
 *
 * The order of the looks (R47) makes the staleness bound hold whatever happens between them:
 *
 *   1. proved_ns      2. the entry      3. watermark      4. the clock
 *
 * Were the proof looked at after the entry, a thread paused in between could pair an entry from before a missed
 * message with the proof that came after it.  Were the watermark looked at before the entry, an entry that arrived
 * just before it rose would pass. Were the clock first, a pause after it would not count.
 *
 * The entry may be retired between 2 and 3.  Then its position has gone, and nobody can say whether it is above the
 * watermark: its head is negative, so it counts as below (entry.h).  The short way leaves it to the long one, and that
 * looks for the key again, for the slot has been emptied or filled anew before the head changed: as if the read had
 * come a little later.  So a key that has been replaced or moved is found in its new version or place; one that has
 * been removed, or whose new version is still tentative, is missed, as it is by who begins at that moment, and so is
 * one that is replaced between 2 and 3 NEAR_HIT_LOOKS times in a row.
 *
 * The era may be looked at anywhere behind 1.  Who sees an old one began before the clearing had ended, and may return
 * what was there before; an entry of a later era then is not plain, and found by the long way.
 *
 * Clocks.  Two; the cheap one decides only what is clear by a wide margin, everything else is left to the other:
 *
 *   the processor's counter  near__hit_plain: may the entry be served without more ado?  gate.fresh_ticks is half of
 *                            the bound after the proof, in its ticks (ticks.c), and stands for the proof in step 1.  It
 *                            says a time, too: as long as it is not reached the time is before gate.fresh_ms, so what
 *                            expires later than that is there.  The counter is read after the entry in program order; a
 *                            processor that reads it a little sooner (some hundred instructions at most, and again
 *                            after every interruption) has half of a bound to spare.  Where the proof holds for ever,
 *                            gate.time_ticks and gate.time_ms are such a moment and time, a twentieth of half a second
 *                            early; the keeper renews them while something may expire.
 *   the kernel's clock       all the rest: near__hit_judge.  Also where the kernel does not rely on the counter, and
 *                            with an idle limit; such a hit is not looked for on the short way
 *                            (near__reader_remember).
 *
 * The kernel's coarse clock decides nothing.  It stands still while the one processor that keeps the time does, and in
 * a virtual machine that is for as long as the host likes: when a machine that was paused for seconds goes on, the
 * others read for some ticks what the time was before.  What was read by it would be too old, or dead, by all of the
 * pause, and no margin is wide enough.
 *
 * A proof is renewed every quarter of the bound, so in health hits stay with the first.  A cache without a remote tier
 * needs no clock for entries without an expiry.  What is left of a time to live, if near_get has to tell it, is by the
 * kernel's clock.
 *
 * Cost.  Two dependent misses, the bucket's line and the entry's, are what a hit waits for; several hits overlap in a
 * processor that looks far enough ahead.  So the path has few instructions, no call, and no branch that depends on what
 * those lines say other than "found" (index.h) and "nothing odd": near__hit_find_short makes three comparisons of an
 * entry's first lines, flags and size of the key, the key, and position. */
#include "local/hit.h"

#include "base/compiler.h"

/* Keys whose lines are fetched together by near__local_get_many: more than a core's outstanding misses gains
 * nothing. */
#define BATCH 16

/* ---------------------------------------------------------------- by the clock */

static inline int is_within(int64_t now_ns, int64_t proved_ns, int64_t bound_ns)
{
    return proved_ns != NEAR_PROVED_NEVER && (now_ns - proved_ns < bound_ns || NEAR_MUTANT(PROOF_AGE_IGNORED));
}

/* After near__tier_ages_are_known: what it says holds for entries of the era that there is then. */
static int is_of_era(const struct near__local *local, const struct near__entry *entry)
{
    /* relaxed: ordered by the look before */
    unsigned era = atomic_load_explicit(&local->era, memory_order_relaxed);
    return (((unsigned)near__entry_head(entry) ^ era) & NEAR_ENTRY_ERA) == 0;
}

static int is_idle(const struct near__local *local, const struct near__entry *entry, int64_t now_ns, uint16_t tick)
{
    return near__entry_age(entry, tick) >= local->idle_ticks || !near__tier_ages_are_known(local, now_ns) ||
           !is_of_era(local, entry);
}

static inline enum near__local_result freshness(const struct near__demand *demand, int64_t now_ns)
{
    if (is_within(now_ns, demand->proved_ns, demand->bound_ns))
        return NEAR_LOCAL_HIT;
    return is_within(now_ns, demand->proved_ns, demand->stale_ns) ? NEAR_LOCAL_STALE_HIT : NEAR_LOCAL_UNPROVEN;
}

enum near__local_result near__hit_judge_by_clock(const struct near__local *local, struct near__entry *entry,
                                                 struct near__demand demand, int64_t *now_ns)
{
    if (!*now_ns)
        *now_ns = near__now(local->clock); /* 4 */
    uint16_t tick = near__tier_tick(local, *now_ns);
    if ((near__entry_has_expiry(entry) && near__tier_is_over(local, entry, *now_ns, demand.known_ms)) ||
        (local->idle_unit_ns && is_idle(local, entry, *now_ns, tick)))
        return NEAR_LOCAL_EXPIRED;
    enum near__local_result result = freshness(&demand, *now_ns);
    if (result != NEAR_LOCAL_UNPROVEN)
        near__entry_touch(entry, tick);
    return result;
}

static int64_t expires_ns(const struct near__local *local, const struct near__entry *entry, int64_t about_ns)
{
    int64_t about_ms = near__tier_ms(local, about_ns);
    return local->opened_ns + (about_ms + near__expiry_left(near__entry_expires(entry), about_ms)) * NEAR_NS_PER_MS;
}

int64_t near__hit_ttl_ms(const struct near__local *local, const struct near__entry *entry, int64_t now_ns)
{
    if (!now_ns)
        now_ns = near__now(local->clock); /* the coarse clock lags: it would tell too much */
    int64_t left = (expires_ns(local, entry, now_ns) - now_ns) / NEAR_NS_PER_MS;
    return left > 0 ? left : 0;
}

/* ---------------------------------------------------------------- one key */

void near__hit_count_miss(struct near__reader *reader, enum near__local_result result)
{
    static const unsigned char of[] = {
        [NEAR_LOCAL_HIT] = NEAR_COUNT_HITS,          [NEAR_LOCAL_ABSENT] = NEAR_COUNT_ABSENT,
        [NEAR_LOCAL_EXPIRED] = NEAR_COUNT_EXPIRED,   [NEAR_LOCAL_SUSPECT] = NEAR_COUNT_SUSPECT,
        [NEAR_LOCAL_UNPROVEN] = NEAR_COUNT_UNPROVEN, [NEAR_LOCAL_STALE_HIT] = NEAR_COUNT_STALE};
    near__reader_add(reader, of[result], 1);
}

static void describe_expiry(const struct near__local *local, const struct near__entry *entry, int64_t now_ns,
                            struct near__view *view)
{
    view->now_ns = now_ns;
    view->expires_ns = near__entry_has_expiry(entry) ? expires_ns(local, entry, now_ns) : NEAR_NEVER;
}

/* What a view tells of a served entry, but for data and pin. */
static void describe(const struct near__local *local, const struct near__entry *entry, int64_t now_ns,
                     struct near__view *view)
{
    view->data = NULL;
    view->pin = NULL;
    view->size = near__entry_value_size(entry);
    if (!now_ns && near__entry_has_expiry(entry))
        now_ns = near__now(local->clock);
    describe_expiry(local, entry, now_ns, view);
}

/* The view of what steps 1 to 4 came to; unheld: without memory for a copy. */
static enum near__local_result hand_out(struct near__local *local, struct near__reader *reader,
                                        struct near__entry *entry, enum near__local_result result, int64_t now_ns,
                                        struct near__view *view, enum near__local_result unheld)
{
    if (!near__local_is_served(result))
        return result;
    describe(local, entry, now_ns, view);
    return near__hit_hold(local, reader, entry, &view->pin, &view->data) ? result : unheld;
}

enum near__local_result near__local_get(struct near__local *local, struct near__reader *reader, const void *key,
                                        size_t key_size, int64_t bound_ns, int64_t stale_ns, struct near__view *view)
{
    struct near__entry *entry;
    int64_t now_ns;
    near__rcu_enter();
    enum near__local_result result = near__hit_look(local, key, key_size, bound_ns, stale_ns, &entry, &now_ns);
    /* a read might as well find nothing */
    result = hand_out(local, reader, entry, result, now_ns, view, NEAR_LOCAL_ABSENT);
    near__hit_count(reader, result);
    near__hit_show(local, reader, key, key_size, entry, result);
    near__rcu_leave();
    return result;
}

enum near__local_result near__local_look(struct near__local *local, struct near__reader *reader, const void *key,
                                         size_t key_size, struct near__view *view)
{
    struct near__entry *entry;
    int64_t now_ns;
    int moved = 0;
    near__rcu_enter();
    int moves = near__index_tables(&local->index)->spans > 1; /* or may, in this section */
    enum near__local_result result = near__hit_look(local, key, key_size, NEAR_NEVER, 0, &entry, &now_ns);
    if (!entry && moves) {
        uint64_t hash = near__key_hash(key, key_size, &local->index.secrets);
        if (near__index_find_surely(&local->index, hash, key, key_size, &moved))
            result = near__hit_look(local, key, key_size, NEAR_NEVER, 0, &entry, &now_ns);
    }
    result = moved ? NEAR_LOCAL_MOVED : hand_out(local, reader, entry, result, now_ns, view, NEAR_LOCAL_UNHELD);
    int64_t position = result == NEAR_LOCAL_HIT ? near__entry_position(entry) : 0;
    view->position = position > 0 ? (uint64_t)position : 0;
    near__rcu_leave();
    return result;
}

enum near__local_result near__local_copy(struct near__local *local, struct near__reader *reader, const void *key,
                                         size_t key_size, int64_t bound_ns, int64_t stale_ns, void *buffer,
                                         size_t capacity, struct near__view *view)
{
    struct near__entry *entry;
    int64_t now_ns;
    near__rcu_enter();
    enum near__local_result result = near__hit_look(local, key, key_size, bound_ns, stale_ns, &entry, &now_ns);
    if (near__local_is_served(result)) {
        describe(local, entry, now_ns, view);
        if (view->size && capacity)
            memcpy(buffer, near__entry_value(entry), view->size < capacity ? view->size : capacity);
    }
    near__hit_count(reader, result);
    near__hit_show(local, reader, key, key_size, entry, result);
    near__rcu_leave();
    return result;
}

/* ---------------------------------------------------------------- many keys */

/* What is known of a batch between its phases. */
struct batch {
    uint64_t hash[BATCH];
    struct near__entry *entry[BATCH]; /* the likely one, then the one */
    size_t count;
};

static void prefetch_buckets(const struct near__local *local, struct batch *batch, const struct near__local_key *keys)
{
    const struct near__span *span = &near__index_tables(&local->index)->span[0];
    for (size_t i = 0; i < batch->count; i++) {
        batch->hash[i] = near__key_hash(keys[i].key, keys[i].size, &local->index.secrets);
        __builtin_prefetch(near__span_bucket(span, batch->hash[i]));
    }
}

/* What the tag alone says: fetches the likely entries' lines, without waiting for them. */
static void prefetch_entries(const struct near__local *local, struct batch *batch)
{
    const int width = near__width();
    const struct near__span *span = &near__index_tables(&local->index)->span[0];
    for (size_t i = 0; i < batch->count; i++) {
        uint64_t tag = near__hash_tag(batch->hash[i]);
        const struct near__bucket *bucket = near__span_bucket(span, batch->hash[i]);
        uint64_t word = near__bucket_look(bucket, tag, width);
        batch->entry[i] = near__word_visible(near__likely(word) ? word : near__places_look(bucket, tag, width), tag);
        __builtin_prefetch(batch->entry[i]);
        near__entry_prefetch(batch->entry[i]);
    }
}

static void settle_entries(const struct near__local *local, struct batch *batch, const struct near__local_key *keys)
{
    for (size_t i = 0; i < batch->count; i++)
        if (!batch->entry[i] || !near__entry_is(batch->entry[i], keys[i].key, keys[i].size))
            batch->entry[i] = near__index_find(&local->index, batch->hash[i], keys[i].key, keys[i].size);
}

/* By what a batch is judged. */
struct terms {
    struct near__demand demand; /* 1 */
    uint64_t watermark;         /* 3 */
    int64_t now_ns;             /* 4, the kernel's clock; 0: nobody has asked it */
    int is_fresh;               /* 4 */
};

/* One look for all of them, after all have been found. */
static inline int64_t time_by(const struct near__local *local, struct terms *terms)
{
    if (!terms->now_ns)
        terms->now_ns = near__now(local->clock);
    return terms->now_ns;
}

/* By the counter, or where it does not tell by the clock.  With an idle limit each entry has a time of its own. */
static int is_fresh(const struct near__local *local, int64_t fresh, struct terms *terms)
{
    if (near__likely(fresh == NEAR_TICKS_ALWAYS) || near__likely(near__ticks() < fresh))
        return 1;
    return !local->idle_unit_ns && freshness(&terms->demand, time_by(local, terms)) == NEAR_LOCAL_HIT;
}

static inline int is_over(const struct near__local *local, const struct near__entry *entry, struct terms *terms)
{
    return near__entry_has_expiry(entry) &&
           near__tier_is_over(local, entry, time_by(local, terms), terms->demand.known_ms);
}

NEAR_INLINE int is_plain(const struct near__local *local, const struct near__entry *entry, struct terms *terms,
                         size_t *ret_size)
{
    return near__likely(terms->is_fresh) &&
           near__likely(near__hit_is_in_force(local, entry, terms->watermark, NEAR_ENTRY_VALUE_MAX, ret_size)) &&
           near__likely(!is_over(local, entry, terms));
}

/* Nearly every key of a batch: a hit with nothing particular about it, that is pinned without a call.  0: the other
 * way. */
NEAR_INLINE int take_plain(const struct near__local *local, struct near__reader *reader, struct near__entry *entry,
                           struct terms *terms, struct near__view *view)
{
    if (near__unlikely(!entry) || near__unlikely(!reader->pins_free) ||
        near__unlikely(!is_plain(local, entry, terms, &view->size)))
        return 0;
    /* relaxed: near__tier_tick */
    near__entry_touch(entry, (uint16_t)atomic_load_explicit(&local->tick, memory_order_relaxed));
    near__hit_pin(reader, entry, &view->pin, &view->data);
    describe_expiry(local, entry, terms->now_ns, view);
    return 1;
}

static enum near__local_result take(struct near__local *local, struct near__reader *reader,
                                    const struct near__local_key *key, struct near__entry **entry, struct terms *terms,
                                    struct near__view *view)
{
    enum near__local_result result = NEAR_LOCAL_ABSENT;
    int64_t now_ns;
    size_t size;
    if (*entry && is_plain(local, *entry, terms, &size)) {
        /* relaxed: as above */
        near__entry_touch(*entry, (uint16_t)atomic_load_explicit(&local->tick, memory_order_relaxed));
        result = NEAR_LOCAL_HIT;
    } else if (*entry) {
        result = near__hit_judge(local, *entry, terms->demand, &terms->now_ns); /* 3, 4 again */
    }
    now_ns = terms->now_ns;
    if (result == NEAR_LOCAL_ABSENT && near__hit_is_to_look_again(*entry, 1))
        result =
            near__hit_look(local, key->key, key->size, terms->demand.bound_ns, terms->demand.stale_ns, entry, &now_ns);
    result = hand_out(local, reader, *entry, result, now_ns, view, NEAR_LOCAL_ABSENT); /* as in near__local_get */
    near__hit_count(reader, result);
    return result;
}

/* Two phases of fetching lines, then the reads, all by one proof, one watermark, and one look at the counter or the
 * clock: each is before or after every entry, as the order demands. */
static void get_batch(struct near__local *local, struct near__reader *reader, const struct near__local_key *keys,
                      size_t count_, int64_t bound_ns, int64_t stale_ns, enum near__local_result *results,
                      struct near__view *views)
{
    struct batch batch;
    struct terms terms;
    uint64_t hits = 0;
    batch.count = count_;
    prefetch_buckets(local, &batch, keys);
    terms.demand = near__hit_demand(local, bound_ns, stale_ns); /* 1 */
    int64_t fresh = near__hit_fresh(local, bound_ns);           /* 1 */
    prefetch_entries(local, &batch);                            /* 2 */
    settle_entries(local, &batch, keys);                        /* 2 */
    terms.watermark = near__hit_watermark(local);               /* 3 */
    terms.now_ns = 0;
    terms.is_fresh = is_fresh(local, fresh, &terms); /* 4 */
    for (size_t i = 0; i < count_; i++) {
        int plain = take_plain(local, reader, batch.entry[i], &terms, &views[i]);
        results[i] =
            near__likely(plain) ? NEAR_LOCAL_HIT : take(local, reader, &keys[i], &batch.entry[i], &terms, &views[i]);
        hits += (uint64_t)plain;
        if (near__unlikely(local->taps)) { /* which of the hits are looked at goes by their count (hotkeys.c) */
            near__reader_add(reader, NEAR_COUNT_HITS, hits);
            hits = 0;
            near__hit_show(local, reader, keys[i].key, keys[i].size, batch.entry[i], results[i]);
        }
    }
    near__reader_add(reader, NEAR_COUNT_HITS, hits);
}

void near__local_get_many(struct near__local *local, struct near__reader *reader, const struct near__local_key *keys,
                          size_t count_, int64_t bound_ns, int64_t stale_ns, enum near__local_result *results,
                          struct near__view *views)
{
    for (size_t i = 0; i < count_; i += BATCH) {
        near__rcu_enter();
        get_batch(local, reader, keys + i, count_ - i < BATCH ? count_ - i : BATCH, bound_ns, stale_ns, results + i,
                  views + i);
        near__rcu_leave();
    }
}
