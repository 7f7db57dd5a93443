/* SPDX-License-Identifier: BSD-3-Clause
 * The hit path, for the rooms that want it without a call.  The essay is at the head of hit.c; numbers in comments are
 * its.
 *
 * Everything here runs inside a read section of the caller's, by a thread that has a reader. */
#ifndef NEAR_LOCAL_HIT_H
#define NEAR_LOCAL_HIT_H
#include "base/compiler.h"
#include "local/brief.h"
#include "local/rcu.h"
#include "local/tap.h"
#include "local/tier.h"
#include "local/wide.h"

/* What a read asks for. */
struct near__demand {
    int64_t proved_ns; /* 1 */
    int64_t bound_ns, stale_ns;
    int64_t known_ms; /* 1; see near__expiry_left_since */
};

/* bound_ns has been loaded before: whoever sees a longer bound sees the proof withdrawn before it. */
static inline struct near__demand near__hit_demand(const struct near__local *local, int64_t bound_ns, int64_t stale_ns)
{
    NEAR_STEP();
    /* acquire: the entry is looked at after it; pairs with the store of a proof, before which its messages were
     * applied */
    return (struct near__demand){atomic_load_explicit(&local->gate.proved_ns, memory_order_acquire), bound_ns, stale_ns,
                                 near__tier_known_ms(local)};
}

/* Step 4 and what needs a time.  *now_ns: the kernel's clock as it was read after the entry had been found, or 0: then
 * it is read. */
enum near__local_result near__hit_judge_by_clock(const struct near__local *local, struct near__entry *entry,
                                                 struct near__demand demand, int64_t *now_ns);
/* Milliseconds that an entry with an expiry has left.  now_ns: as above. */
int64_t near__hit_ttl_ms(const struct near__local *local, const struct near__entry *entry, int64_t now_ns);
/* All pins are in use: a copy.  0: no memory for it. */
int near__hit_hold_copy(struct near__local *local, const struct near__entry *entry, void **ret_pin,
                        const void **ret_data);

/* Steps 3 and 4 for an entry found in step 2.  One that has been retired since is ABSENT.  *now_ns: see above. */
static inline enum near__local_result near__hit_judge(const struct near__local *local, struct near__entry *entry,
                                                      struct near__demand demand, int64_t *now_ns)
{
    /* acquire: see 3; pairs with near__local_raise_watermark */
    uint64_t watermark = near__step_look(&local->gate.watermark);
    int64_t head = near__entry_head(entry);

    if (near__unlikely(head < 0) || near__unlikely(((unsigned)head ^ near__tier_ordinary(local)) & NEAR_ENTRY_ERA))
        return NEAR_LOCAL_ABSENT;
    if (near__unlikely(head < (int64_t)watermark))
        return NEAR_LOCAL_SUSPECT;
    if (demand.proved_ns != NEAR_PROVED_ALWAYS || near__entry_has_expiry(entry) || local->idle_unit_ns)
        return near__hit_judge_by_clock(local, entry, demand, now_ns);
    near__entry_touch(entry, near__tier_tick(local, 0));
    return NEAR_LOCAL_HIT;
}

void near__hit_count_miss(struct near__reader *reader, enum near__local_result result);

static inline void near__hit_count(struct near__reader *reader, enum near__local_result result)
{
    if (near__likely(result == NEAR_LOCAL_HIT))
        near__reader_add(reader, NEAR_COUNT_HITS, 1);
    else
        near__hit_count_miss(reader, result);
}

/* Shows the read to those who learn from requests, if there are any. */
static inline void near__hit_show(const struct near__local *local, struct near__reader *reader, const void *key,
                                  size_t key_size, const struct near__entry *entry, enum near__local_result result)
{
    if (near__unlikely(local->taps))
        near__tap_read(local, reader, key, key_size, near__local_is_served(result) ? entry : NULL, result);
}

/* What was found has been retired before it was judged: the slot has what took its place, or nothing.  For a key that
 * is replaced meanwhile each time there is an end to it, so that a read stays bounded. */
#define NEAR_HIT_LOOKS 4
static inline int near__hit_is_to_look_again(const struct near__entry *entry, unsigned looks)
{
    return entry && looks < NEAR_HIT_LOOKS && near__entry_is_retired(entry);
}

/* Step 1 by the processor's counter; NEAR_TICKS_NEVER for a read with a bound of its own.  The moment is looked at
 * before and after the bound: one of an earlier bound has been taken back before the bound changed to this one, and who
 * sees one of a later bound sees that, however often it changes meanwhile. */
static inline int64_t near__hit_fresh(const struct near__local *local, int64_t bound_ns)
{
    const struct near__gate *gate = &local->gate;
    NEAR_STEP();
    /* acquire, all: pair with near__local_set_bound and near__local_prove; the entry is looked at after them */
    int64_t fresh = atomic_load_explicit(&gate->fresh_ticks, memory_order_acquire);
    NEAR_STEP();
    int64_t now_ns = atomic_load_explicit(&gate->bound_ns, memory_order_acquire);
    NEAR_STEP();
    int64_t again = atomic_load_explicit(&gate->fresh_ticks, memory_order_acquire);
    return now_ns == bound_ns && again == fresh ? fresh : NEAR_TICKS_NEVER;
}

#define NEAR_COPY_MAX 1024 /* bytes that near__copy copies without a call */

/* Step 3. */
NEAR_INLINE uint64_t near__hit_watermark(const struct near__local *local)
{
    return near__step_look(&local->gate.watermark); /* acquire: as in near__hit_judge */
}

/* What the flags of an entry, and of a short key its size, have that an ordinary entry's have not, or the other way
 * round; 0: nothing, and an entry whose key has as many bytes as an ordinary one's needs no further look at its
 * flags. */
NEAR_INLINE unsigned near__hit_odd(const struct near__local *local, int64_t head, size_t key_size)
{
    return (uint16_t)((unsigned)head ^ (near__tier_ordinary(local) | (unsigned)key_size));
}

/* Is an entry with an expiry there until the moment `fresh`?  Until then the time is before fresh_ms.  A proof that
 * holds for ever says no time, so there is a moment for that alone. */
NEAR_INLINE int near__hit_is_there(const struct near__local *local, const struct near__entry *entry, int64_t fresh)
{
    const struct near__gate *gate = &local->gate;
    const _Atomic(int64_t) *until_ms = &gate->fresh_ms;
    if (fresh == NEAR_TICKS_ALWAYS) {
        /* acquire: pairs with near__tier_tell_time; what it says is true whenever it is looked at */
        if (near__ticks() >= atomic_load_explicit(&gate->time_ticks, memory_order_acquire)) /* 4 */
            return 0;
        if (near__unlikely(near__entry_head(entry) < 0)) /* swept, perhaps, before that was told */
            return 0;
        until_ms = &gate->time_ms;
    }
    /* relaxed: ordered by the load of the moment; the time that came with it or a later one */
    return near__expiry_left(near__entry_expires(entry), atomic_load_explicit(until_ms, memory_order_relaxed)) > 0;
}

/* Is an entry of the key above the watermark and of this era, and has its value at most size_max bytes? */
NEAR_INLINE int near__hit_is_in_force(const struct near__local *local, const struct near__entry *entry,
                                      uint64_t watermark, size_t size_max, size_t *ret_size)
{
    int64_t head = near__entry_head(entry);
    unsigned odd = near__hit_odd(local, head, 0) & ~NEAR_ENTRY_KEY_SIZE;
    if (near__unlikely(head < (int64_t)watermark)) /* or retired */
        return 0;
    *ret_size = entry->size;
    if (near__likely(!odd))
        return entry->size <= size_max;
    return !(odd & NEAR_ENTRY_ERA) && (*ret_size = near__entry_value_size(entry)) <= size_max;
}

/* May an entry of the key be served, and has its value at most size_max bytes?  Yes holds if fresh is ALWAYS, or if
 * step 4 then finds that the moment `fresh` has not come. */
NEAR_INLINE int near__hit_is_plain(const struct near__local *local, const struct near__entry *entry, uint64_t watermark,
                                   int64_t fresh, size_t size_max, size_t *ret_size)
{
    return near__hit_is_in_force(local, entry, watermark, size_max, ret_size) &&
           (!near__entry_has_expiry(entry) || near__hit_is_there(local, entry, fresh));
}

/* Steps 2 and 3 for a short key.  What is not odd is decided by three comparisons: flags and size of the key, the key,
 * the position. */
NEAR_INLINE struct near__entry *near__hit_find_short(const struct near__local *local, uint64_t hash, const void *key,
                                                     size_t key_size, int width, int64_t fresh, size_t size_max,
                                                     size_t *ret_size)
{
    struct near__entry *entry = near__index_guess(&local->index, hash, key, key_size, width); /* 2 */
    if (near__unlikely(!entry))
        return NULL;
    int64_t head = near__entry_head(entry);
    if (near__unlikely(near__hit_odd(local, head, key_size))) {
        if (near__entry_key_size(entry) != key_size || !near__entry_has_short(entry, key, key_size))
            return NULL;
        /* 3 */
        return near__hit_is_plain(local, entry, near__hit_watermark(local), fresh, size_max, ret_size) ? entry : NULL;
    }
    if (near__unlikely(!near__entry_has_short(entry, key, key_size)))
        return NULL;
    if (near__unlikely(near__brief_is_less(head, &local->gate.watermark))) /* 3, or retired */
        return NULL;
    *ret_size = entry->size;
    return near__likely(entry->size <= size_max) ? entry : NULL;
}

/* 4, and the stamp. */
NEAR_INLINE int near__hit_is_fresh(const struct near__local *local, struct near__entry *entry, int64_t fresh)
{
    if (near__unlikely(fresh != NEAR_TICKS_ALWAYS) && near__unlikely(near__ticks() >= fresh))
        return 0;
    if (near__unlikely(!near__brief_is_half(near__entry_stamp(entry), &local->tick)))
        /* relaxed: near__tier_tick */
        near__entry_touch(entry, (uint16_t)atomic_load_explicit(&local->tick, memory_order_relaxed));
    return 1;
}

/* Steps 3 and 4, by the counter if it says yes, and otherwise by the clock.  fresh: near__hit_fresh, from step 1. */
static inline enum near__local_result near__hit_decide(const struct near__local *local, struct near__entry *entry,
                                                       struct near__demand demand, int64_t fresh, int64_t *now_ns)
{
    size_t size;
    /* 3, 4 */
    if (near__likely(
            near__hit_is_plain(local, entry, near__hit_watermark(local), fresh, NEAR_ENTRY_VALUE_MAX, &size)) &&
        near__likely(near__hit_is_fresh(local, entry, fresh)))
        return NEAR_LOCAL_HIT;
    return near__hit_judge(local, entry, demand, now_ns); /* 3 again */
}

/* Steps 1 to 4; *ret_entry is set when one was found, served or not, and *ret_now_ns to what the clock said after that;
 * 0: it was not looked at.  Counts nothing. */
static inline enum near__local_result near__hit_look(struct near__local *local, const void *key, size_t key_size,
                                                     int64_t bound_ns, int64_t stale_ns, struct near__entry **ret_entry,
                                                     int64_t *ret_now_ns)
{
    uint64_t hash = near__key_hash(key, key_size, &local->index.secrets);
    struct near__demand demand = near__hit_demand(local, bound_ns, stale_ns); /* 1 */
    int64_t fresh = near__hit_fresh(local, bound_ns);                         /* 1 */
    enum near__local_result result;
    unsigned looks = 0;
    do {
        struct near__entry *entry = near__index_find(&local->index, hash, key, key_size); /* 2 */
        *ret_entry = entry;
        *ret_now_ns = 0;
        result =
            near__likely(entry != NULL) ? near__hit_decide(local, entry, demand, fresh, ret_now_ns) : NEAR_LOCAL_ABSENT;
    } while (near__unlikely(result == NEAR_LOCAL_ABSENT) && near__hit_is_to_look_again(*ret_entry, ++looks));
    return result;
}

/* A hit of a short key with nothing particular about it, or NULL: then near__hit_look decides.  It is for reads with
 * the cache's own bound and values of at most size_max bytes, makes no call, and counts nothing.  Its order is that of
 * the essay, with fresh_ticks for the proof and the processor's counter for the clock. */
NEAR_INLINE struct near__entry *near__hit_plain(const struct near__local *local, const void *key, size_t key_size,
                                                int width, size_t size_max, size_t *ret_size)
{
    uint64_t hash = near__hash_short(key, key_size, &local->index.secrets);
    if (near__unlikely(near__tap_wants(local, hash))) /* the long way shows it */
        return NULL;
    NEAR_STEP();
    /* acquire: the entry is looked at after it; pairs with near__local_prove */
    int64_t fresh = atomic_load_explicit(&local->gate.fresh_ticks, memory_order_acquire); /* 1 */
    /* 2, 3 */
    struct near__entry *entry = near__hit_find_short(local, hash, key, key_size, width, fresh, size_max, ret_size);
    return near__likely(entry != NULL) && near__likely(near__hit_is_fresh(local, entry, fresh)) ? entry : NULL; /* 4 */
}

/* The same for any key, wherever it is; and what the counter does not decide, the kernel's clock does.  *ret_absent, if
 * NULL is returned: it is nowhere.  (By near__hit_decide it would be twenty instructions longer.) */
static inline struct near__entry *near__hit_anywhere(const struct near__local *local, const void *key, size_t key_size,
                                                     size_t size_max, size_t *ret_size, int *ret_absent)
{
    uint64_t hash = near__key_hash(key, key_size, &local->index.secrets);
    int64_t now_ns = 0;
    *ret_absent = 0;
    if (near__unlikely(near__tap_wants(local, hash)))
        return NULL;
    /* acquire: whoever sees a longer bound sees the proof withdrawn before it */
    int64_t bound_ns = atomic_load_explicit(&local->gate.bound_ns, memory_order_acquire);
    struct near__demand demand = near__hit_demand(local, bound_ns, 0); /* 1 */
    /* 1, acquire: as above */
    int64_t fresh = atomic_load_explicit(&local->gate.fresh_ticks, memory_order_acquire);
    struct near__entry *entry = near__index_find(&local->index, hash, key, key_size); /* 2 */
    if (!entry) {
        *ret_absent = 1;
        return NULL;
    }
    /* 3, 4 */
    if (near__likely(near__hit_is_plain(local, entry, near__hit_watermark(local), fresh, size_max, ret_size)) &&
        near__likely(near__hit_is_fresh(local, entry, fresh)))
        return entry;
    if (near__hit_judge(local, entry, demand, &now_ns) != NEAR_LOCAL_HIT)
        return NULL;
    *ret_size = near__entry_value_size(entry);
    return *ret_size <= size_max ? entry : NULL;
}

/* Pins the entry; a pin is free. */
static inline void near__hit_pin(struct near__reader *reader, struct near__entry *entry, void **ret_pin,
                                 const void **ret_data)
{
    unsigned i = (unsigned)__builtin_ctzll(reader->pins_free);
    reader->pins_free &= reader->pins_free - 1;
    /* release: so that the keeper's acquire of this, too, comes after our reads under the pin that stood here before.
     * It is seen in time because of the section we are in: see pins.c */
    atomic_store_explicit(&reader->pin[i], entry, memory_order_release);
    *ret_data = near__entry_value(entry);
    *ret_pin = &reader->pin[i];
}

/* Pins the entry, or copies when all pins are in use.  0: no memory for the copy. */
static inline int near__hit_hold(struct near__local *local, struct near__reader *reader, struct near__entry *entry,
                                 void **ret_pin, const void **ret_data)
{
    if (near__unlikely(!reader->pins_free))
        return near__hit_hold_copy(local, entry, ret_pin, ret_data);
    near__hit_pin(reader, entry, ret_pin, ret_data);
    return 1;
}

/* Gives up a pin of this reader's that is not a copy. */
static inline void near__hit_unpin(struct near__reader *reader, void *pin)
{
    _Atomic(struct near__entry *) *place = pin;
    reader->pins_free |= UINT64_C(1) << (place - reader->pin);
    /* release: pairs with the keeper's acquire in near__pins_each; our reads of the value come before it is freed */
    atomic_store_explicit(place, NULL, memory_order_release);
}

/* A pin that stands for a copy is known by the low bit. */
#define NEAR_PIN_COPY ((uintptr_t)1)
static inline int near__pin_is_copy(const void *pin)
{
    return ((uintptr_t)pin & NEAR_PIN_COPY) != 0;
}

/* 65 to 128 bytes by moves of 64 or 32, at most half as many as gcc may use for any x86-64; 0: this processor has none,
 * nothing was copied. */
NEAR_INLINE int near__copy_widely(void *to, const void *from, size_t size, int width)
{
#ifdef NEAR_WIDE_LINES
    if (width == NEAR_WIDTH_LINE) {
        __asm__ volatile("vmovdqu64 (%1), %%zmm16\n\tvmovdqu64 -64(%1,%2), %%zmm17\n\t"
                         "vmovdqu64 %%zmm16, (%0)\n\tvmovdqu64 %%zmm17, -64(%0,%2)"
                         :
                         : "r"(to), "r"(from), "r"(size)
                         : NEAR_CLOBBERS_LINES);
        return 1;
    }
    if (near__unlikely(width != NEAR_WIDTH_HALF))
        return 0;
    __asm__ volatile("vmovdqu (%1), %%ymm0\n\tvmovdqu 32(%1), %%ymm1\n\t"
                     "vmovdqu -64(%1,%2), %%ymm2\n\tvmovdqu -32(%1,%2), %%ymm3\n\t"
                     "vmovdqu %%ymm0, (%0)\n\tvmovdqu %%ymm1, 32(%0)\n\t"
                     "vmovdqu %%ymm2, -64(%0,%2)\n\tvmovdqu %%ymm3, -32(%0,%2)\n\tvzeroupper"
                     :
                     : "r"(to), "r"(from), "r"(size)
                     : NEAR_CLOBBERS_HALVES);
    return 1;
#else
    (void)to, (void)from, (void)size, (void)width;
    return 0;
#endif
}

/* More than 64 bytes, in steps of 64, the last overlapping. */
NEAR_INLINE void near__copy_blocks(unsigned char *to, const unsigned char *from, size_t size)
{
    const unsigned char *last = from + size - 64;
    unsigned char *to_last = to + size - 64;
    for (; from < last; to += 64, from += 64)
        __builtin_memcpy(to, from, 64);
    __builtin_memcpy(to_last, last, 64);
}

/* Up to 16 bytes; without a loop, for which gcc would keep a register on the way of those that are larger. */
NEAR_INLINE void near__copy_few(unsigned char *to, const unsigned char *from, size_t size)
{
    if (size >= 8) {
        __builtin_memcpy(to, from, 8);
        __builtin_memcpy(to + size - 8, from + size - 8, 8);
    } else if (size >= 4) {
        __builtin_memcpy(to, from, 4);
        __builtin_memcpy(to + size - 4, from + size - 4, 4);
    } else if (size) {
        to[0] = from[0];
        to[size / 2] = from[size / 2];
        to[size - 1] = from[size - 1];
    }
}

/* memcpy by moves that may overlap, without a call, of at most NEAR_COPY_MAX bytes (0: not copied).  width:
 * near__width(). */
NEAR_INLINE int near__copy(void *to, const void *from, size_t size, int width)
{
    unsigned char *t = to;
    const unsigned char *f = from;
    if (size > 64) {
        if (near__unlikely(size > 128) || near__unlikely(!near__copy_widely(to, from, size, width))) {
            if (size > NEAR_COPY_MAX)
                return 0;
            near__copy_blocks(to, from, size);
        }
    } else if (size > 32) {
        __builtin_memcpy(t, f, 32);
        __builtin_memcpy(t + size - 32, f + size - 32, 32);
    } else if (size > 16) {
        __builtin_memcpy(t, f, 16);
        __builtin_memcpy(t + size - 16, f + size - 16, 16);
    } else {
        near__copy_few(t, f, size);
    }
    return 1;
}

#endif
