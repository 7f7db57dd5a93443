/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The index of the local tier: which entry is visible for a key, and in what order versions may follow one another.
 *
 *                hash   63 ........ 32 | 31 ... 16 | 15 ... 0
 *                          bucket         stripe       tag
 *
 *      tables (a view)                 bucket: one line of 64 bytes                        entry (entry.h)
 *      +--------------+     +------------------------------------------------+     +---------------------------+
 *      | span[0]      |---->| word | word | word | word | word | word | . | . |---->| position, expiry, key, value|
 *      | span[1]      |     +------------------------------------------------+     +---------------------------+
 *      | spans,target |     | ...
 *      +--------------+            stripe: floor, generation  (fixed arrays, never freed, R03)
 *
 * A hit touches the bucket's line and the entry's; both are read only.
 *
 * ---- Words
 *
 *   word                 meaning                                        who may change it
 *   0                    empty                                          anybody
 *   tag ptr 01 visible   an entry that readers may return               anybody; whoever swaps it out retires the entry
 *   tag ptr 00 tentative an install or a move is under way; the pointer anybody may swap it out: the owner's last swap
 *                        is never followed by anyone but its owner      then fails; the owner alone frees the entry
 *
 * ---- Operations and states (every change is one compare-and-swap; the number is the step below)
 *
 *   operation \ slot     empty            tentative of another    visible, same tag                visible, other tag
 *   install, choosing    -> T (4)         same tag: -> T (4)      newer: refuse; else -> T (4)     least recently used: -> T (4)
 *   install, rescan      -                same tag: -> 0 (5)      newer: withdraw; else -> 0 (5)   -
 *   install, own slot    refused          refused                 T -> V (7), T -> 0 (withdraw)    -
 *   invalidate at p      -                same tag: -> 0 (i2)     below p: -> 0 (i2); else stays   -
 *   evict, expire        -                -                       -> 0                             -> 0
 *   move, in old slot    -                -> 0                    -> 0 (m5)                        -
 *   move, in new bucket  -> T (m3)        withdraw, drop          withdraw, drop                   least recently used: -> T (m3)
 *   move, own slot       retire           retire                  T -> V (m6), T -> 0              -
 *   another copy (r4)    -                -                       V -> V'                          -
 *
 * ---- Install of entry E at position r, with a ticket's generation g
 *
 *   1. Raise the floor to r.  So the floor is never below the position of an entry that is or was visible (I2), and
 *      whoever compares tickets sees that something was learnt about the key (R17).
 *   2. Scan the target bucket for the tag.  A visible entry of the same key above r: refuse.  The tag: that slot.
 *      Otherwise an empty slot, otherwise the bucket's dead or least recently used entry.
 *   3. (Retiring the displaced entry needs no memory and raises nothing: see 1.)
 *   4. Swap the slot to tentative.  Failed: from 2 again, a bounded number of times.
 *   5. Rescan every span.  A word with the tag elsewhere: tentative -> swap it out, its owner gives up; visible ->
 *      above r and the same key: withdraw; otherwise swap it out.  A swap that fails looks at that slot again.
 *   6. The floor above r, or the generation not g: withdraw.
 *   7. Swap tentative to visible.  Failed: somebody has killed it; refused.
 *
 * A refused install is followed by the invalidation of the key below r (local.c), so what it knew is not lost (I4).
 *
 * ---- Invalidate at position p (i1, i2)
 *
 *   i1. Raise the floor to p, or without a position increment the generation.
 *   i2. Scan every span: a tentative word of the tag -> swap it out; visible, same key, below p -> swap it out.  A swap
 *       that fails looks again.  The scan is never skipped because the floor was high already: whoever raised it may
 *       not have scanned yet.
 *
 * ---- Why no version below p is visible once an invalidation at p has returned, and none will become so
 *
 *   Take an install at r < p, in the one order of all sequentially consistent steps.  Its 6 comes after its 4.  If
 *   its 6 comes after i1 it withdraws.  Otherwise 4 comes before i1, hence before i2: the scan finds its word,
 *   tentative or visible, and swaps it out, or finds that somebody else has.  After that 7 fails, if it has not
 *   happened yet: it is a swap from exactly that word, and nobody but the owner writes it.  The same with the
 *   generation in place of the floor.
 *
 *   No ABA.  A visible entry is freed after a grace period, so while we look no other can have its address.  A
 *   tentative one may be freed at once and its memory be used for another tentative word, in the same slot and with
 *   the same tag: swapping that out means one refused install more, and no harm.
 *
 * ---- Why at most one entry of a key is visible, and versions never go back
 *
 *   Take two installs of one key, A at a and B at b < a.  If B's 6 comes after A's 1, B withdraws.  Otherwise B's 4,
 *   which comes before its 6, comes before A's 4; so A's 5 comes after B's 4 and meets B's word, or finds that it is
 *   gone, and only then A becomes visible.  So from A's 7 on B is not visible and will not be, whatever has become of
 *   A.  A reader that returned version a came after A's 7.  At the same position both hold the same value; each
 *   publishes (4) before it looks (5), so at least one sees the other and one is left, or none.
 *
 * ---- Two tables (migrate.c publishes PREPARE and MIGRATE, with a grace period after each)
 *
 *   Only neighbours among STEADY, PREPARE, MIGRATE, STEADY' are in use at one time.  Everybody who may meet a word in
 *   the new table scans both, old first; entries only ever travel from the old one to the new one.  STEADY and
 *   PREPARE install into the old table.  PREPARE and MIGRATE install into different ones, but both scan both after
 *   publishing, so "publishes before it looks" holds between them.  The mover starts when nobody installs into the
 *   old table any more:
 *
 *   m1. Scan the new bucket for the tag: there -> drop the old entry.
 *   m2. Choose an empty slot or the least recently used one; if the entry itself is that, drop it.
 *   m3. Swap it to tentative.
 *   m4. Rescan the new bucket for the tag: there -> withdraw, drop.  (Two old buckets may feed one new one, so a rival
 *       may be another key, which the rescan of its install could not see in its own old bucket.)
 *   m5. Swap the old slot to empty; failed -> withdraw.
 *   m6. Swap tentative to visible; failed -> somebody has removed it; retire.
 *
 *   A scan, old then new, cannot miss a moving entry: as long as the old slot holds it the scan finds it there; when
 *   it is gone from there, m3 has published it in the new bucket, which is scanned afterwards.  The mover needs
 *   neither floor nor generation: an invalidation that came too late for the old slot finds the tentative word and
 *   kills it.
 *
 * ---- Another copy (blocks.c, r1 to r5)
 *
 *   The keeper may put a copy of a visible entry in its place: same slot, key, position, era and tag, another address.  For all that is
 *   argued above that is no change: in the one order of steps there is exactly one swap, before which the slot held the entry and after
 *   which it holds the copy, and every scan that looks finds one of the two.  Whoever has seen the old word and swaps from it (an
 *   invalidation, an install, an eviction) fails and looks again, as after any other change; whoever has swapped it out before makes r4
 *   fail, and the copy was never visible.  A store instead of the swap would bring back what was removed in between.  The old entry is
 *   retired like one that was removed, so "No ABA" holds for its address, too.
 *
 * ---- Progress
 *
 *   A reader takes at most two buckets' steps.  A swap that fails means that somebody else's succeeded: lock-free.
 *   Installs give up after TRIES; nobody waits for anybody, whatever is stopped where: a stopped owner's tentative
 *   word is swapped out by whoever needs the slot's tag.  (A stopped install occupies one slot of one bucket until
 *   then, unless the bucket needs it: 2 takes no tentative slot of another tag, so eight stopped threads in one
 *   bucket refuse that bucket's installs.)
 *
 * ---- Cost
 *
 *   Per entry: a word and its share of empty slots (14 to 32 bytes at 2 to 4.5 entries a bucket, 15 in a full tier), 20 bytes of header,
 *   the allocator's rounding. An install is three swaps here, an eviction one; counting adds as many again.
 *
 * ---- Left out
 *
 *   Chains (a full bucket evicts its least recently used entry: below 1.5 % of the installs at 4.5 a bucket),
 *   in-place update of values (readers hold them without a lock), a counter in the bucket (the floor does it
 *   better: it is shared by fewer keys and carries an order). Sources: tentative entries are FASTER's (SIGMOD
 *   2018); one-line buckets with tags are MemC3's (NSDI 2013). */
#include "local/index.h"

/* Each failed attempt means that somebody else has changed the bucket under us: more in a row than this is a storm on one
 * bucket, where refusing is as good as winning. */
#define TRIES 8

#ifdef NEAR_STEP_HOOK
enum near__mutant near__mutant;
void (*near__step_hook)(void);
#endif

typedef _Atomic(uint64_t) slot_word;

/* The t-th span of a scan: old before new. */
static const struct near__span *scan_span(const struct near__tables *tables, unsigned t)
{
    return &tables->span[NEAR_MUTANT(NEW_BEFORE_OLD) ? tables->spans - 1 - t : t];
}

int near__index_replace(slot_word *slot, uint64_t word, struct near__entry *copy)
{
    uint64_t moved = (word & ~NEAR_WORD_POINTER) | (uint64_t)(uintptr_t)copy;
    return near__step_swap(slot, NEAR_MUTANT(COPY_STORED) ? near__step_load(slot) : word, moved);
}

int near__index_unlink(struct near__index *index, slot_word *slot, uint64_t word, enum near__why why)
{
    if (!near__step_swap(slot, word, 0))
        return 0;
    near__retire(index, near__word_entry(word), why);
    return 1;
}

static enum near__why why_of(const struct near__entry *entry, const struct near__moment *moment)
{
    return near__entry_is_expired(entry, moment) ? NEAR_WHY_EXPIRED : NEAR_WHY_EVICTED;
}

/* ---------------------------------------------------------------- install */

/* A slot and the word seen in it. */
struct place {
    slot_word *slot;
    uint64_t word;
};

/* The slot to give up when none is empty: the bucket's highest rank.  slot NULL: nothing there may go. */
static struct place oldest_in(struct near__bucket *bucket, const struct near__moment *moment, unsigned *ret_rank)
{
    struct place oldest = {NULL, 0};
    *ret_rank = 0;
    for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++) {
        uint64_t word = near__step_load(&bucket->slot[i]);
        if (!word || near__word_is_tentative(word))
            continue;
        if (near__entry_is_spared(near__word_entry(word), moment) && !near__entry_is_dead(near__word_entry(word), moment))
            continue;
        unsigned rank = near__entry_rank(near__word_entry(word), moment);
        if (!oldest.slot || rank > *ret_rank) {
            oldest = (struct place){&bucket->slot[i], word};
            *ret_rank = rank;
        }
    }
    return oldest;
}

/* Step 2 without the victim: the tag's slot or an empty one; slot NULL: neither. */
static struct place tagged_or_empty(struct near__bucket *bucket, uint64_t tag)
{
    struct place empty = {NULL, 0};
    for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++) {
        uint64_t word = near__step_load(&bucket->slot[i]);
        if (near__word_tag(word) == tag)
            return (struct place){&bucket->slot[i], word};
        if (!word && !empty.slot)
            empty.slot = &bucket->slot[i];
    }
    return empty;
}

static int same_key(const struct near__entry *a, const struct near__entry *b)
{
    return near__entry_is(a, b->bytes, near__entry_key_size(b));
}

/* A visible word holds a newer version of the key of entry. */
static int is_newer(uint64_t word, const struct near__entry *entry)
{
    const struct near__entry *there = near__word_entry(word);
    return word && !near__word_is_tentative(word) && near__entry_position(there) > near__entry_position(entry) &&
           same_key(there, entry);
}

/* Retires what a swap to tentative has displaced, if that was visible. */
static void displaced(struct near__index *index, uint64_t word, const struct near__entry *by, const struct near__moment *moment)
{
    if (!word || near__word_is_tentative(word))
        return;
    struct near__entry *entry = near__word_entry(word);
    near__retire(index, entry, same_key(entry, by) ? NEAR_WHY_REPLACED : why_of(entry, moment));
}

/* Steps 2 to 4.  The slot that is now tentative, or NULL. */
static slot_word *stake(struct near__index *index, struct near__bucket *bucket, const struct near__entry *entry, uint64_t mine,
                        const struct near__moment *moment)
{
    for (unsigned tries = 0; tries < TRIES; tries++) {
        unsigned rank;
        struct place place = tagged_or_empty(bucket, near__word_tag(mine));        /* 2 */
        if (!place.slot)
            place = oldest_in(bucket, moment, &rank);
        if (!place.slot || is_newer(place.word, entry))
            return NULL;
        if (near__step_swap(place.slot, place.word, mine)) {                       /* 4 */
            displaced(index, place.word, entry, moment);                           /* 3 */
            return place.slot;
        }
    }
    return NULL;
}

/* Step 5 for one slot.  0: it holds a newer version. */
static int settle(struct near__index *index, slot_word *slot, const struct near__entry *entry, uint64_t tag,
                  const struct near__moment *moment)
{
    for (;;) {
        uint64_t word = near__step_load(slot);
        if (near__word_tag(word) != tag)
            return 1;
        if (near__word_is_tentative(word)) {
            if (near__step_swap(slot, word, 0))
                return 1;
        } else {
            if (is_newer(word, entry))
                return 0;
            enum near__why why = same_key(near__word_entry(word), entry) ? NEAR_WHY_REPLACED
                                                                         : why_of(near__word_entry(word), moment);
            if (near__index_unlink(index, slot, word, why))
                return 1;
        }
    }
}

/* Step 5. */
static int settle_all(struct near__index *index, const struct near__tables *tables, const slot_word *own,
                      const struct near__entry *entry, uint64_t hash, const struct near__moment *moment)
{
    if (NEAR_MUTANT(RIVALS_IGNORED))
        return 1;
    for (unsigned t = 0; t < tables->spans; t++) {
        struct near__bucket *bucket = near__span_bucket(scan_span(tables, t), hash);
        for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++)
            if (&bucket->slot[i] != own && !settle(index, &bucket->slot[i], entry, near__hash_tag(hash), moment))
                return 0;
    }
    return 1;
}

/* Step 6. */
static int is_allowed(const struct near__index *index, const struct near__stripe *stripe, const struct near__entry *entry,
                      uint32_t generation)
{
    return (NEAR_MUTANT(FLOOR_UNCHECKED) || near__step_load(&stripe->floor) <= near__entry_position(entry)) &&
           (NEAR_MUTANT(GENERATION_UNCHECKED) || near__index_generation(index, stripe) == generation);
}

int near__index_install(struct near__index *index, struct near__entry *entry, uint64_t hash, uint32_t generation,
                        const struct near__moment *moment)
{
    struct near__stripe *stripe = near__index_stripe(index, hash);
    if (!NEAR_MUTANT(FLOOR_NOT_FIRST))
        near__step_raise(&stripe->floor, near__entry_position(entry));             /* 1 */
    const struct near__tables *tables = near__index_tables(index);
    struct near__bucket *bucket = near__span_bucket(&tables->span[tables->target], hash);
    uint64_t visible = near__word(entry, hash);
    uint64_t tentative = NEAR_MUTANT(VISIBLE_AT_ONCE) ? visible : near__word_tentative(visible);

    slot_word *slot = stake(index, bucket, entry, tentative, moment);              /* 2, 3, 4 */
    if (!slot)
        return 0;
    if (!settle_all(index, tables, slot, entry, hash, moment) ||                   /* 5 */
        !is_allowed(index, stripe, entry, generation)) {                           /* 6 */
        near__step_swap(slot, tentative, 0); /* failed: somebody has done it for us */
        return 0;
    }
    return near__step_swap(slot, tentative, visible);                              /* 7 */
}

/* ---------------------------------------------------------------- invalidate */

/* i2 for one slot; as near__index_invalidate. */
static int invalidate_slot(struct near__index *index, slot_word *slot, uint64_t tag, const void *key, size_t key_size,
                           uint64_t position, enum near__why why)
{
    for (;;) {
        uint64_t word = near__step_load(slot);
        if (near__word_tag(word) != tag)
            return 0;
        if (near__word_is_tentative(word)) {
            if (NEAR_MUTANT(TENTATIVE_OVERLOOKED) || near__step_swap(slot, word, 0))
                return 0;
            continue;
        }
        struct near__entry *entry = near__word_entry(word);
        if (!near__entry_is(entry, key, key_size))
            return 0;
        if (position && near__entry_position(entry) >= position && !NEAR_MUTANT(AGE_OF_ENTRY_IGNORED))
            return -1;
        if (near__index_unlink(index, slot, word, why))
            return 1;
    }
}

static void forbid(struct near__stripe *stripe, uint64_t position)
{
    if (NEAR_MUTANT(FLOOR_UNRAISED))
        return;
    if (position)
        near__step_raise(&stripe->floor, position);
    else
        near__step_increment(&stripe->generation);
}

int near__index_invalidate(struct near__index *index, uint64_t hash, const void *key, size_t key_size, uint64_t position,
                           enum near__why why)
{
    struct near__stripe *stripe = near__index_stripe(index, hash);
    int result = 0;
    if (!NEAR_MUTANT(FLOOR_LAST))
        forbid(stripe, position);                                                  /* i1 */
    const struct near__tables *tables = near__index_tables(index);
    for (unsigned t = 0; t < tables->spans; t++) {                                 /* i2 */
        struct near__bucket *bucket = near__span_bucket(scan_span(tables, t), hash);
        for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++) {
            int one = invalidate_slot(index, &bucket->slot[i], near__hash_tag(hash), key, key_size, position, why);
            result = one ? one : result;
        }
    }
    if (NEAR_MUTANT(FLOOR_LAST))
        forbid(stripe, position);
    return result;
}

void near__index_empty(struct near__index *index, const struct near__span *span, uint64_t first, uint64_t end,
                       enum near__why why)
{
    for (uint64_t b = first; b < end; b++)
        for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++) {
            slot_word *slot = &span->bucket[b].slot[i];
            uint64_t word = near__step_load(slot);
            while (word && !(near__word_is_tentative(word) ? near__step_swap(slot, word, 0)
                                                           : near__index_unlink(index, slot, word, why)))
                word = near__step_load(slot);
        }
}

/* ---------------------------------------------------------------- move */

/* m1, m2: where the entry goes, or slot NULL when it is to be dropped. */
static struct place berth(struct near__bucket *bucket, const struct near__entry *entry, uint64_t tag,
                          const struct near__moment *moment)
{
    unsigned rank;
    struct place place = tagged_or_empty(bucket, tag);
    if (place.slot && place.word)
        return (struct place){NULL, 0};                                            /* m1 */
    if (place.slot)
        return place;
    place = oldest_in(bucket, moment, &rank);                                      /* m2 */
    if (place.slot && rank <= near__entry_rank(entry, moment))
        place.slot = NULL;
    return place;
}

static int has_rival(struct near__bucket *bucket, const slot_word *own, uint64_t tag)
{
    for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++)
        if (&bucket->slot[i] != own && near__word_tag(near__step_load(&bucket->slot[i])) == tag)
            return 1;
    return 0;
}

#ifdef NEAR_STEP_HOOK
/* What carry must not do: for a moment the entry is in neither table, and no scan can find it. */
static int carry_wrongly(struct near__index *index, slot_word *old, uint64_t word, struct place place)
{
    if (!near__step_swap(old, word, 0))
        return 0;
    if (place.word || !near__step_swap(place.slot, 0, word))
        near__retire(index, near__word_entry(word), NEAR_WHY_EVICTED);
    return 1;
}
#else
#define carry_wrongly(index, old, word, place) 0
#endif

/* m3 to m6 into a chosen place.  1: the old slot is done with, 0: look at it again. */
static int carry(struct near__index *index, slot_word *old, uint64_t word, struct near__bucket *bucket, struct place place,
                 const struct near__moment *moment)
{
    struct near__entry *entry = near__word_entry(word);
    uint64_t tentative = NEAR_MUTANT(MOVE_UNTENTATIVE) ? word : near__word_tentative(word);

    if (NEAR_MUTANT(MOVE_EMPTIES_FIRST))
        return carry_wrongly(index, old, word, place);
    if (!near__step_swap(place.slot, place.word, tentative))                       /* m3 */
        return 0;
    displaced(index, place.word, entry, moment);
    if (has_rival(bucket, place.slot, near__word_tag(word))) {                     /* m4 */
        near__step_swap(place.slot, tentative, 0);
        return near__index_unlink(index, old, word, NEAR_WHY_EVICTED);
    }
    if (!near__step_swap(old, word, 0)) {                                          /* m5 */
        near__step_swap(place.slot, tentative, 0);
        return 0;
    }
    if (!near__step_swap(place.slot, tentative, word))                             /* m6 */
        near__retire(index, entry, NEAR_WHY_EVICTED);
    return 1;
}

static void move_slot(struct near__index *index, slot_word *old, const struct near__span *span,
                      const struct near__moment *moment)
{
    for (;;) {
        uint64_t word = near__step_load(old);
        if (!word)
            return;
        if (near__word_is_tentative(word)) { /* nobody installs here any more; whoever left this has gone */
            near__step_swap(old, word, 0);
            continue;
        }
        struct near__entry *entry = near__word_entry(word);
        struct near__bucket *bucket = near__span_bucket(span, near__entry_hash(entry, &index->secrets));
        struct place place = {NULL, 0};
        if (near__entry_rank(entry, moment) < NEAR_RANK_DEAD)
            place = berth(bucket, entry, near__word_tag(word), moment);
        if (place.slot ? carry(index, old, word, bucket, place, moment)
                       : near__index_unlink(index, old, word, why_of(entry, moment)))
            return;
    }
}

void near__index_move(struct near__index *index, struct near__bucket *old, const struct near__span *span,
                      const struct near__moment *moment)
{
    for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++)
        move_slot(index, &old->slot[i], span, moment);
}
