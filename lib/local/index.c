/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The index of the local tier: which entry is visible for a key, and in what order versions may follow one another.
 *
 *                hash   63 ........ 32 | 31 ... 16 | 15 ... 0
 *                          home           stripe       tag
 *
 *      tables (a view)                 bucket: one line of 64 bytes                        entry (entry.h)
 *      +--------------+     +------------------------------------------------+     +---------------------------+
 *      | span[0]      |---->| word | word | word | word | word | word | . | . |---->| position, expiry, key, value|
 *      | span[1]      |     +------------------------------------------------+     +---------------------------+
 *      | spans,target |     | ...                                            |
 *      +--------------+     +------------------------------------------------+  four buckets, 256 bytes: a group
 *                                  stripe: floor, generation  (fixed arrays, never freed, R03)
 *
 * A hit touches the home's line and the entry's, and writes to neither, but for the access stamp when that has changed.
 *
 * ---- Places
 *
 *   The word of a key is in its home, the bucket that the hash says, or in one of the other three of its group: place i
 *   is the bucket whose number is that of the home but for an exclusive or with i.  Place 1 is the other half of 128
 *   bytes, which processors fetch together; 2 and 3 are in the same page of memory.  An install takes the first place
 *   that has an empty slot, so in a tier that was filled once one entry in forty is away from home at 4.8 a bucket, and
 *   one in 250 beyond place 1 (table_size.c has the table).  Were there the home alone, as many entries as now would
 *   displace ten times as many.
 *
 *   For all that is argued below the places of a key in one table are one bucket of 32 slots: every scan looks at all
 *   of them, and nothing depends on which of them a word is in, nor on the order in which they are looked at.  In
 *   particular
 *    - an entry never moves from one place to another in the same table, so a reader that looks at each slot once does
 *      not overlook one that stays;
 *    - two installs of one key may stake in different places: each publishes (4) before it looks at all of them (5);
 *    - a tag says little among 32 slots: at 4.8 a bucket one key in 3,400 meets its own with another one.  So visible
 *      entries are told apart by their keys, and both stay; a hit that meets the other one first takes the long way.
 *      Of a tentative word nobody knows the key: it is a rival to all of its tag.
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
 *   operation \ slot     empty            tentative of another    visible, same key                visible, other key
 *   install, choosing    -> T (4)         same tag: -> T (4)      newer: refuse; else -> T (4)     victim: -> T (4)
 *   install, rescan      -                same tag: -> 0 (5)      newer: withdraw; else -> 0 (5)   -
 *   install, own slot    refused          refused                 T -> V (7), T -> 0 (withdraw)    -
 *   invalidate at p      -                same tag: -> 0 (i2)     below p: -> 0 (i2); else stays   -
 *   evict, expire        -                -                       -> 0                             -> 0
 *   move, in old slot    -                -> 0                    -> 0 (m4)                        -
 *   move, in new places  -> T (m3)        same tag: drop          drop                             victim: -> T (m3)
 *   move, own slot       retire           retire                  T -> V (m5), T -> 0              -
 *   put (q2)             -> V             stays                   -> V                             victim: -> V
 *   another copy (r4)    -                -                       V -> V'                          -
 *
 *   The victim is what ranks highest in the places: a dead entry, or what the rule in force gives up first (order.h).
 *
 * ---- Install of entry E at position r, with a ticket's generation g
 *
 *   1. Raise the floor to r.  So the floor is never below the position of an entry that is or was visible (I2), and
 *      whoever compares tickets sees that something was learnt about the key (R17).
 *   2. Scan the places in the target for a rival: the tag in a tentative word, or the key in a visible one.  It is
 *      above r: refuse.  It is not: that slot.
 *   3. Without a rival, the first empty slot, home first; without one, the victim of them all.
 *   4. Swap the slot to tentative.  Failed: from 2 again, a bounded number of times.  A visible entry that stood there
 *      is retired, which needs no memory and raises nothing: see 1.
 *   5. Rescan all places in every span.  A rival elsewhere: tentative -> swap it out, its owner gives up; visible ->
 *      above r: withdraw; otherwise swap it out.  A swap that fails looks at that slot again.
 *   6. The floor above r, or the generation not g: withdraw.
 *   7. Swap tentative to visible.  Failed: somebody has killed it; refused.
 *
 * A refused install is followed by the invalidation of the key below r (install.c), so what it knew is not lost (I4).
 *
 * ---- Invalidate at position p (i1, i2)
 *
 *   i1. Raise the floor to p, or without a position increment the generation.
 *   i2. Scan all places in every span: a tentative word of the tag -> swap it out; visible, same key, below p -> swap
 *       it out.  A swap that fails looks again.  The scan is never skipped because the floor was high already: whoever
 *       raised it may not have scanned yet.
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
 *   old table any more.  It may turn back: to a MIGRATE in which the two have changed roles, so that the same holds
 *   between this view and that, and the mover starts again when nobody uses the first.
 *
 *   m1. Scan the new places for a rival: there -> drop the old entry.
 *   m2. Choose an empty slot or the victim's; if none ranks above the entry itself, drop it.
 *   m3. Swap it to tentative.
 *   m4. Swap the old slot to empty; failed -> withdraw.
 *   m5. Swap tentative to visible; failed -> somebody has removed it; retire.
 *
 *   The mover need not look for rivals again after m3: an install of the same key, into the new table, scans the old
 *   places after it has published.  It finds the old word there, and removes it (m4 then fails) or withdraws; or it
 *   comes after m4, hence after m3, and meets the moved word in the new places.
 *
 *   A scan, old then new, cannot miss a moving entry: as long as the old slot holds it the scan finds it there; when
 *   it is gone from there, m3 has published it in a new place, which is scanned afterwards.  The mover needs
 *   neither floor nor generation: an invalidation that came too late for the old slot finds the tentative word and
 *   kills it.
 *
 * ---- Neither here nor there
 *
 *   Between m4 and m5 the entry is visible in neither table, and a read misses it: for a few nanoseconds, or as long as
 *   the mover gets no processor.  A write that depends on what is there must not take that for absence.  It has the
 *   stripe (only.c), so of its key no tentative word is an install's, and in one section it looks
 *
 *   f1. at the view: a view of one table says that nothing moves in this section (below, "Put").
 *   f2. for the key in the old places, then in the new ones.  Found: done.
 *   f3. for the tag in a tentative word in the new places.  Found: the key may be moved now; to be asked again.
 *   f4. once more as in f2.
 *
 *   If f2 misses the entry because its move is between m4 and m5, f3 meets the tentative word, or m5 came before it and
 *   f4 finds the entry: it is moved once in a section, since the mover turns back only after a grace period.
 *
 * ---- Put: an install by whoever has the stripe (only.c), while there is one table
 *
 *   A cache without a remote tier gives a stripe to one write at a time: nobody else installs a key of it, or
 *   invalidates one at a position, and the floor is the write's own position already.  So there is no order to be found
 *   out, and one swap is the whole install:
 *
 *   q1. Scan the places for a visible version of the key: that slot.  Otherwise as in 3.
 *   q2. Swap the slot to visible.  Failed: from q1 again, a bounded number of times.
 *
 *   A reader finds the old version or the new one, and never neither.  At most one entry of the key is visible: one
 *   that q1 does not find can have come since then neither by an install of the key, which would need the stripe, nor
 *   by a move: there is none while somebody is in a section with a view of one table (a mover starts after two grace
 *   periods, and the view behind it is published when it has ended).  Another copy takes the very slot, and then q2
 *   fails.  Evictions and removals only empty slots.  Removals without a position (i1, i2) take no stripe and may meet
 *   a put anywhere: before its q2, then it was the later one of two that nobody ordered; or afterwards, then their scan
 *   finds it.  A write that depends on what it has looked at may not be the later one unawares, so it compares
 *   generations, by an install, as every write does while there are two tables.  Tentative words are of other keys,
 *   since the stripe is ours and nothing moves: a put leaves them alone.
 *
 * ---- Another copy (blocks.c, r1 to r5)
 *
 *   The keeper may put a copy of a visible entry in its place: same slot, key, position, era and tag, another address.
 *   For all that is argued above that is no change: in the one order of steps there is exactly one swap, before which
 *   the slot held the entry and after which it holds the copy, and every scan that looks finds one of the two.  Whoever
 *   has seen the old word and swaps from it (an invalidation, an install, an eviction) fails and looks again, as after
 *   any other change; whoever has swapped it out before makes r4 fail, and the copy was never visible.  A store instead
 *   of the swap would bring back what was removed in between.  The old entry is retired like one that was removed, so
 *   "No ABA" holds for its address, too.
 *
 * ---- Progress
 *
 *   A reader looks at most NEAR_HIT_LOOKS times (hit.h), each time into eight buckets at most: all places of two
 *   tables.  A swap that fails means that somebody else's succeeded: lock-free.  Installs give up after TRIES; nobody
 *   waits for anybody, whatever is stopped where: a stopped owner's tentative word is swapped out by whoever needs the
 *   slot's tag.  (A stopped install occupies one slot of one group until then, unless the group needs it: 3 takes no
 *   tentative slot of another tag, so 32 stopped threads in one group refuse that group's installs.)
 *
 * ---- Cost
 *
 *   Per entry: a word and its share of empty slots (13 bytes in a full tier, up to 27 after the index has grown, up to
 *   32 where entries have become fewer: table_size.c), 12 bytes of header, the allocator's rounding.  An install is
 *   three swaps here, a put one, an eviction one.  A hit at home pays nothing for the other places.  One in place 1
 *   takes some thirty instructions more, and what a mispredicted branch costs; one beyond takes the middle way (api.c).
 *   Installs, invalidations and misses look at four lines, of which the processor fetches pairs; fills have all of them
 *   fetched beforehand.
 *
 * ---- Left out
 *
 *   Chains, and moving words between the two buckets of a key as in a cuckoo table (full places evict their least
 *   recently used entry: below 0.5 % of what is filled once; a word that moves within a table would need readers that
 *   look twice).  A second bucket anywhere in the table balances better than a neighbour (Azar, Broder, Karlin, Upfal:
 *   Balanced Allocations, STOC 1994), but a look at it is one more miss of cache and TLB.  In a tier that evicts and
 *   fills for long, slots at home become empty while their keys are away, so that at 4.8 a bucket 8 % of them are (at
 *   5.9 21 %); they come home when they are filled again.  A bit that says "nobody is away" would save misses three
 *   lines, and be one more word to keep in order.  In-place update of values (readers hold them without a lock), a
 *   counter in the bucket (the floor does it better: it is shared by fewer keys and carries an order). Sources:
 *   tentative entries are FASTER's (SIGMOD 2018); one-line buckets with tags are MemC3's (NSDI 2013); the neighbouring
 *   bucket for what finds its home full is hopscotch hashing's (DISC 2008), without its moves. */
#include "local/index.h"

#include "base/compiler.h"
#include "base/prefetch.h"

/* Each failed attempt means that somebody else has changed a slot under us: more in a row than this is a storm on one
 * group, where refusing is as good as winning. */
#define TRIES 8

#ifdef NEAR_STEP_HOOK
enum near__mutant near__mutant;
void (*near__step_hook)(void);
#endif

typedef _Atomic(uint64_t) slot_word;

/* How many of a key's places are looked into. */
static inline unsigned places(int at_home_only)
{
    return at_home_only ? 1 : NEAR_PLACES;
}

/* The t-th span of a scan: old before new. */
static const struct near__span *scan_span(const struct near__tables *tables, unsigned t)
{
    return &tables->span[NEAR_MUTANT(NEW_BEFORE_OLD) ? tables->spans - 1 - t : t];
}

/* ---------------------------------------------------------------- find */

static struct near__entry *find_in_places(const struct near__bucket *home, unsigned first, uint64_t tag,
                                          const void *key, size_t key_size)
{
    struct near__entry *entry = NULL;
    for (unsigned p = first; p < places(NEAR_MUTANT(READ_AT_HOME)) && !entry; p++)
        entry = near__bucket_find(near__bucket_place(home, p), tag, key, key_size);
    return entry;
}

struct near__entry *near__index_find_away(const struct near__tables *tables, uint64_t hash, const void *key,
                                          size_t key_size)
{
    uint64_t tag = near__hash_tag(hash);
    struct near__entry *entry = find_in_places(near__span_bucket(&tables->span[0], hash), 1, tag, key, key_size);
    return entry || tables->spans == 1
               ? entry
               : find_in_places(near__span_bucket(&tables->span[1], hash), 0, tag, key, key_size);
}

static int has_tentative(const struct near__bucket *home, uint64_t tag)
{
    for (unsigned p = 0; p < NEAR_PLACES; p++) {
        struct near__bucket *bucket = near__bucket_place(home, p);
        for (unsigned match = near__bucket_scan(bucket, tag); match; match = near__match_rest(match)) {
            uint64_t word = near__step_load(near__match_slot(bucket, match));
            if (near__word_tag(word) == tag && near__word_is_tentative(word))
                return 1;
        }
    }
    return 0;
}

struct near__entry *near__index_find_surely(const struct near__index *index, uint64_t hash, const void *key,
                                            size_t key_size, int *ret_moved)
{
    const struct near__tables *tables = near__index_tables(index);            /* f1 */
    struct near__entry *entry = near__index_find(index, hash, key, key_size); /* f2 */
    *ret_moved = 0;
    if (entry || tables->spans == 1 || NEAR_MUTANT(ABSENT_WHILE_MOVED))
        return entry;
    *ret_moved = has_tentative(near__span_bucket(&tables->span[1], hash), near__hash_tag(hash));               /* f3 */
    return *ret_moved || NEAR_MUTANT(MOVED_LOOKED_ONCE) ? NULL : near__index_find(index, hash, key, key_size); /* f4 */
}

/* ---------------------------------------------------------------- slots */

int near__index_replace(slot_word *slot, uint64_t word, struct near__entry *copy)
{
    uint64_t moved = (word & ~NEAR_WORD_POINTER) | (uint64_t)(uintptr_t)copy;
    return near__step_swap(slot, NEAR_MUTANT(COPY_STORED) ? near__step_load(slot) : word, moved);
}

int near__index_unlink(struct near__index *index, slot_word *slot, uint64_t word, enum near__why why)
{
    near__prefetch_write(near__word_entry(word)); /* comes while the bucket does */
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

/* All at once, or each would be waited for. */
static void fetch_entries(const struct near__bucket *home)
{
    for (unsigned p = 0; p < NEAR_PLACES; p++)
        for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++) /* relaxed: only an address */
            near__stamps_prefetch(atomic_load_explicit(&near__bucket_place(home, p)->slot[i], memory_order_relaxed));
}

/* What a look at the places of a key asks of the entries there. */
NEAR_INLINE int rank_of(const struct near__entry *entry, const struct near__moment *moment, int is_plain)
{
    /* Under LRU, where nothing but the clock can have ended an entry, the age is the rank of all but those with an odd
     * era or an expiry. */
    if (is_plain && !near__entry_is_odd(entry, moment->era))
        return (int)near__entry_age(entry, moment->tick);
    if (near__entry_is_spared(entry, moment) && !near__entry_is_dead(entry, moment))
        return -1;
    return (int)near__entry_rank(entry, moment);
}

/* A slot to give up, and its rank; slot NULL, rank -1: there is none. */
struct offering {
    struct place place;
    int rank;
};

/* Of one bucket, if anything there ranks higher than `best`. */
NEAR_INLINE struct offering victim_of(struct near__bucket *bucket, struct offering best,
                                      const struct near__moment *moment, int is_plain)
{
    for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++) {
        uint64_t word = near__step_load(&bucket->slot[i]);
        if (!near__word_is_visible(word))
            continue;
        int rank = rank_of(near__word_entry(word), moment, is_plain);
        if (rank > best.rank)
            best = (struct offering){{&bucket->slot[i], word}, rank};
    }
    return best;
}

/* The slot to give up when none is empty: the highest rank in the places of a key. */
static struct offering victim_in(struct near__bucket *home, const struct near__moment *moment)
{
    const int is_plain = moment->rule == NEAR_RULE_LRU && !moment->idle && !moment->forsaken;
    struct offering best = {{NULL, 0}, -1};
    fetch_entries(home);
    for (unsigned p = 0; p < NEAR_PLACES; p++)
        best = is_plain ? victim_of(near__bucket_place(home, p), best, moment, 1)
                        : victim_of(near__bucket_place(home, p), best, moment, 0);
    return best;
}

static int same_key(const struct near__entry *a, const struct near__entry *b)
{
    return near__entry_is(a, b->bytes, near__entry_key_size(b));
}

enum manner { PUT, INSTALL };

/* A word with the tag of entry that stands in its way: a version of the key, or an install or a move under way.  Of
 * that nobody knows the key; a put knows that it is another one. */
NEAR_INLINE int is_rival(uint64_t word, const struct near__entry *entry, const enum manner manner)
{
    if (near__word_is_tentative(word))
        return manner == INSTALL || NEAR_MUTANT(PUT_OVER_TENTATIVE);
    return same_key(near__word_entry(word), entry);
}

/* The first empty slot in the places of a key; slot NULL: there is none. */
static struct place empty_in(struct near__bucket *home)
{
    for (unsigned p = 0; p < NEAR_PLACES; p++) {
        struct near__bucket *bucket = near__bucket_place(home, p);
        unsigned match = near__bucket_scan(bucket, 0); /* nobody's tag */
        if (match)
            return (struct place){near__match_slot(bucket, match), 0};
    }
    return (struct place){NULL, 0};
}

/* The first rival of entry in its places; slot NULL: there is none. */
NEAR_INLINE struct place rival_in(struct near__bucket *home, const struct near__entry *entry, uint64_t tag,
                                  const enum manner manner)
{
    for (unsigned p = 0; p < NEAR_PLACES; p++) {
        struct near__bucket *bucket = near__bucket_place(home, p);
        for (unsigned match = near__bucket_scan(bucket, tag); match; match = near__match_rest(match)) {
            struct place place = {near__match_slot(bucket, match), 0};
            place.word = near__step_load(place.slot);
            if (near__word_tag(place.word) == tag && is_rival(place.word, entry, manner))
                return place;
        }
    }
    return (struct place){NULL, 0};
}

/* A visible word holds a newer version of the key of entry. */
static int is_newer(uint64_t word, const struct near__entry *entry)
{
    const struct near__entry *there = near__word_entry(word);
    return near__word_is_visible(word) && near__entry_position(there) > near__entry_position(entry) &&
           same_key(there, entry); /* retired meanwhile: not newer, and the swap from its word fails */
}

/* Retires what a swap to tentative has displaced, if that was visible. */
static void displaced(struct near__index *index, uint64_t word, const struct near__entry *by,
                      const struct near__moment *moment)
{
    if (!near__word_is_visible(word))
        return;
    struct near__entry *entry = near__word_entry(word);
    near__retire(index, entry, same_key(entry, by) ? NEAR_WHY_REPLACED : why_of(entry, moment));
}

/* Steps 2 to 4, or q1 and q2.  The slot that now holds `mine`, or NULL. */
NEAR_INLINE slot_word *stake(struct near__index *index, struct near__bucket *home, const struct near__entry *entry,
                             uint64_t mine, const struct near__moment *moment, const enum manner manner)
{
    for (unsigned tries = 0; tries < TRIES; tries++) {
        struct place place = rival_in(home, entry, near__word_tag(mine), manner); /* 2 */
        if (!place.slot)
            place = empty_in(home); /* 3 */
        if (!place.slot)
            place = victim_in(home, moment).place;
        if (!place.slot || is_newer(place.word, entry))
            return NULL;
        if (near__step_swap(place.slot, place.word, mine)) { /* 4 */
            displaced(index, place.word, entry, moment);
            return place.slot;
        }
    }
    return NULL;
}

/* Step 5 for one slot.  0: it holds a newer version. */
static int settle(struct near__index *index, slot_word *slot, const struct near__entry *entry, uint64_t tag)
{
    for (;;) {
        uint64_t word = near__step_load(slot);
        if (near__word_tag(word) != tag || !is_rival(word, entry, INSTALL))
            return 1;
        if (is_newer(word, entry))
            return 0;
        if (near__word_is_tentative(word) ? near__step_swap(slot, word, 0)
                                          : near__index_unlink(index, slot, word, NEAR_WHY_REPLACED))
            return 1;
    }
}

/* Step 5 for the places of one table. */
static int settle_places(struct near__index *index, struct near__bucket *home, const slot_word *own,
                         const struct near__entry *entry, uint64_t tag)
{
    for (unsigned p = 0; p < places(NEAR_MUTANT(RIVALS_AT_HOME)); p++) {
        struct near__bucket *bucket = near__bucket_place(home, p);
        for (unsigned match = near__bucket_scan(bucket, tag); match; match = near__match_rest(match)) {
            slot_word *slot = near__match_slot(bucket, match);
            if (slot != own && !settle(index, slot, entry, tag))
                return 0;
        }
    }
    return 1;
}

/* Step 5. */
static int settle_all(struct near__index *index, const struct near__tables *tables, const slot_word *own,
                      const struct near__entry *entry, uint64_t hash)
{
    if (NEAR_MUTANT(RIVALS_IGNORED))
        return 1;
    for (unsigned t = 0; t < tables->spans; t++)
        if (!settle_places(index, near__span_bucket(scan_span(tables, t), hash), own, entry, near__hash_tag(hash)))
            return 0;
    return 1;
}

/* Step 6. */
static int is_allowed(const struct near__index *index, const struct near__stripe *stripe,
                      const struct near__entry *entry, uint32_t generation)
{
    return (NEAR_MUTANT(FLOOR_UNCHECKED) || !near__entry_is_below(entry, near__step_load(&stripe->floor))) &&
           (NEAR_MUTANT(GENERATION_UNCHECKED) || near__index_generation(index, stripe) == generation);
}

int near__index_install(struct near__index *index, struct near__entry *entry, uint64_t hash, uint32_t generation,
                        const struct near__moment *moment)
{
    struct near__stripe *stripe = near__index_stripe(index, hash);
    if (!NEAR_MUTANT(FLOOR_NOT_FIRST))
        near__step_raise(&stripe->floor, (uint64_t)near__entry_position(entry)); /* 1 */
    const struct near__tables *tables = near__index_tables(index);
    struct near__bucket *home = near__span_bucket(&tables->span[tables->target], hash);
    uint64_t visible = near__word(entry, hash);
    uint64_t tentative = NEAR_MUTANT(VISIBLE_AT_ONCE) ? visible : near__word_tentative(visible);

    slot_word *slot = stake(index, home, entry, tentative, moment, INSTALL); /* 2, 3, 4 */
    if (!slot)
        return 0;
    if (!settle_all(index, tables, slot, entry, hash) || /* 5 */
        !is_allowed(index, stripe, entry, generation)) { /* 6 */
        near__step_swap(slot, tentative, 0);             /* failed: somebody has done it for us */
        return 0;
    }
    return near__step_swap(slot, tentative, visible); /* 7 */
}

int near__index_put(struct near__index *index, struct near__entry *entry, uint64_t hash,
                    const struct near__moment *moment)
{
    const struct near__tables *tables = near__index_tables(index);
    if (tables->spans != 1 && !NEAR_MUTANT(PUT_WHILE_MOVING))
        return near__index_install(index, entry, hash, near__index_generation(index, near__index_stripe(index, hash)),
                                   moment);
    struct near__bucket *home = near__span_bucket(&tables->span[tables->target], hash);
    return stake(index, home, entry, near__word(entry, hash), moment, PUT) != NULL; /* q1, q2 */
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
        if (position && !near__entry_is_below(entry, position) && !NEAR_MUTANT(AGE_OF_ENTRY_IGNORED))
            return -1;
        if (near__index_unlink(index, slot, word, why))
            return 1;
    }
}

/* i2 for the places of one table. */
static int invalidate_places(struct near__index *index, struct near__bucket *home, uint64_t tag, const void *key,
                             size_t key_size, uint64_t position, enum near__why why)
{
    int result = 0;
    for (unsigned p = 0; p < places(NEAR_MUTANT(INVALIDATE_AT_HOME)); p++) {
        struct near__bucket *bucket = near__bucket_place(home, p);
        for (unsigned match = near__bucket_scan(bucket, tag); match; match = near__match_rest(match)) {
            int one = invalidate_slot(index, near__match_slot(bucket, match), tag, key, key_size, position, why);
            result = one ? one : result;
        }
    }
    return result;
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

int near__index_invalidate(struct near__index *index, uint64_t hash, const void *key, size_t key_size,
                           uint64_t position, enum near__why why)
{
    struct near__stripe *stripe = near__index_stripe(index, hash);
    int result = 0;
    if (!NEAR_MUTANT(FLOOR_LAST))
        forbid(stripe, position); /* i1 */
    const struct near__tables *tables = near__index_tables(index);
    for (unsigned t = 0; t < tables->spans; t++) { /* i2 */
        struct near__bucket *home = near__span_bucket(scan_span(tables, t), hash);
        int one = invalidate_places(index, home, near__hash_tag(hash), key, key_size, position, why);
        result = one ? one : result;
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
static struct place berth(struct near__bucket *home, const struct near__entry *entry, uint64_t tag,
                          const struct near__moment *moment)
{
    if (rival_in(home, entry, tag, INSTALL).slot)
        return (struct place){NULL, 0};  /* m1 */
    struct place place = empty_in(home); /* m2 */
    if (place.slot)
        return place;
    struct offering victim = victim_in(home, moment);
    if (victim.rank <= (int)near__entry_rank(entry, moment))
        victim.place.slot = NULL;
    return victim.place;
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

/* m3 to m5 into a chosen place.  1: the old slot is done with, 0: look at it again. */
static int carry(struct near__index *index, slot_word *old, uint64_t word, struct place place,
                 const struct near__moment *moment)
{
    struct near__entry *entry = near__word_entry(word);
    uint64_t tentative = NEAR_MUTANT(MOVE_UNTENTATIVE) ? word : near__word_tentative(word);

    if (NEAR_MUTANT(MOVE_EMPTIES_FIRST))
        return carry_wrongly(index, old, word, place);
    if (!near__step_swap(place.slot, place.word, tentative)) /* m3 */
        return 0;
    displaced(index, place.word, entry, moment);
    if (!near__step_swap(old, word, 0)) { /* m4 */
        near__step_swap(place.slot, tentative, 0);
        return 0;
    }
    if (!near__step_swap(place.slot, tentative, word)) /* m5 */
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
        struct near__bucket *home = near__span_bucket(span, near__entry_hash(entry, &index->secrets));
        struct place place = {NULL, 0};
        if (near__entry_rank(entry, moment) < NEAR_RANK_DEAD)
            place = berth(home, entry, near__word_tag(word), moment);
        if (place.slot ? carry(index, old, word, place, moment)
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
