/* SPDX-License-Identifier: BSD-3-Clause
 *
 * From requests to those who learn from them.
 *
 *      a thread's reads and fills --> its ring --+-- its next fill, or the keeper --> shadow.c --> local->rule
 *
 * Only keys whose hash is below a threshold are noted, so it is all or nothing for a key.  A hit writes to its thread's own ring and no
 * further (promise A); when the ring is full the request is not noted.  Learning is done by whoever fills, or the keeper, one
 * at a time: `tap_busy` is taken by an exchange that is never waited for.  What cannot be learnt now stays in its ring.
 *
 *   word in a ring:    hash 63 … 16    what 15 … 14    size 13 … 0, see pack
 *
 * One writer and, by tap_busy, one reader at a time: `written` and `read` only grow. */
#include "local/tap.h"

#define RING 512u
#define WHAT_SHIFT 14
#define SIZE_MASK 0x3fffu
#define MANTISSA_BITS 9

struct near__tap {
    _Alignas(64) _Atomic(uint32_t) written;
    _Atomic(uint64_t) lost; /* requests that met a full ring */
    _Alignas(64) _Atomic(uint32_t) read;
    _Alignas(64) _Atomic(uint64_t) word[RING];
};

/* ---------------------------------------------------------------- the ring */

/* 5 bits of exponent and 9 of mantissa: exact up to 1023, then within 0.2 %. */
static unsigned pack(uint64_t size)
{
    unsigned exponent = 0;
    while (size >> exponent > (2u << MANTISSA_BITS) - 1)
        exponent++;
    unsigned mantissa = (unsigned)(size >> exponent);
    if (mantissa < 1u << MANTISSA_BITS)
        return mantissa;
    return ((exponent + 1) << MANTISSA_BITS | (mantissa & ((1u << MANTISSA_BITS) - 1))) & SIZE_MASK;
}

size_t near__tap_size(void)
{
    return sizeof(struct near__tap);
}

void near__tap_note(struct near__reader *reader, uint64_t hash, enum near__seen seen, uint64_t size)
{
    struct near__tap *tap = reader->tap;
    uint32_t written = atomic_load_explicit(&tap->written, memory_order_relaxed); /* relaxed: ours */
    /* acquire: pairs with the release in drain; the place has been read */
    if (written - atomic_load_explicit(&tap->read, memory_order_acquire) >= RING) {
        atomic_store_explicit(&tap->lost, atomic_load_explicit(&tap->lost, memory_order_relaxed) + 1, memory_order_relaxed);
        return;
    }
    uint64_t word = (hash & ~UINT64_C(0xffff)) | (uint64_t)seen << WHAT_SHIFT | pack(size);
    /* relaxed, then release: pairs with the acquire in drain; publishes the word */
    atomic_store_explicit(&tap->word[written % RING], word, memory_order_relaxed);
    atomic_store_explicit(&tap->written, written + 1, memory_order_release);
}

void near__tap_read(const struct near__local *local, struct near__reader *reader, const void *key, size_t key_size,
                    const struct near__entry *entry)
{
    uint64_t hash = near__hash(key, key_size, local->index.seed);
    if (!near__tap_wants(local, hash))
        return;
    if (entry)
        near__tap_note(reader, hash, NEAR_SEEN_HIT, key_size + near__entry_value_size(entry));
    else
        near__tap_note(reader, hash, NEAR_SEEN_MISS, 0);
}

/* ---------------------------------------------------------------- learning */

static void learn(struct near__local *local, uint64_t word)
{
    uint64_t hash = word & ~UINT64_C(0xffff);
    enum near__seen seen = (enum near__seen)(word >> WHAT_SHIFT & 3);
    if (local->shadow && hash < near__shadow_below(local->shadow))
        near__shadow_see(local->shadow, hash, seen);
}

static void drain(struct near__local *local, struct near__tap *tap)
{
    uint32_t read = atomic_load_explicit(&tap->read, memory_order_relaxed); /* relaxed: ours, by tap_busy */
    uint32_t written = atomic_load_explicit(&tap->written, memory_order_acquire); /* acquire: as above */
    for (; read != written; read++)
        learn(local, atomic_load_explicit(&tap->word[read % RING], memory_order_relaxed)); /* relaxed: ordered by written */
    atomic_store_explicit(&tap->read, read, memory_order_release); /* release: as above */
}

/* What was learnt takes effect. */
static void apply(struct near__local *local)
{
    if (!local->shadow)
        return;
    int64_t entries = atomic_load_explicit(&local->budget.entries, memory_order_relaxed); /* relaxed: a count */
    int verdict = near__shadow_verdict(local->shadow);
    near__shadow_scale(local->shadow, entries > 0 ? (uint64_t)entries : 1);
    /* relaxed, both: see their readers */
    atomic_store_explicit(&local->tap_below, near__shadow_below(local->shadow), memory_order_relaxed);
    if (verdict)
        atomic_store_explicit(&local->rule, verdict > 0 ? NEAR_RULE_S3FIFO : NEAR_RULE_LRU, memory_order_relaxed);
}

static int begin(struct near__local *local)
{
    /* acquire and release below: what one has learnt is there for the next */
    return !atomic_exchange_explicit(&local->tap_busy, 1, memory_order_acquire);
}
static void end(struct near__local *local)
{
    atomic_store_explicit(&local->tap_busy, 0, memory_order_release);
}

void near__tap_learn(struct near__local *local, struct near__reader *reader)
{
    if (!begin(local))
        return;
    drain(local, reader->tap);
    apply(local);
    end(local);
}

void near__tap_learn_all(struct near__local *local)
{
    if (!local->taps || !begin(local))
        return;
    /* acquire: pairs with the push of a reader */
    struct near__reader *reader = atomic_load_explicit(&local->readers, memory_order_acquire);
    for (; reader; reader = reader->next)
        drain(local, reader->tap);
    apply(local);
    end(local);
}

/* ---------------------------------------------------------------- open and close */

#define SHADOW_ENTRIES_MAX 1024
#define SHADOW_ENTRIES_MIN 128
#define SHADOW_PART 8192 /* an entry for so many bytes of budget: at 110 bytes each 1.3 % of it */

int near__tap_open(struct near__local *local, const struct near__local_config *config)
{
    size_t cost;
    if (config->policy != NEAR_POLICY_ADAPTIVE)
        return NEAR_OK;
    uint64_t entries = config->bytes_max / SHADOW_PART;
    entries = entries < SHADOW_ENTRIES_MIN ? SHADOW_ENTRIES_MIN : entries > SHADOW_ENTRIES_MAX ? SHADOW_ENTRIES_MAX : entries;
    local->shadow = near__shadow_create(local->alloc, (uint32_t)entries, &cost);
    if (!local->shadow)
        return NEAR_ERR_NOMEM;
    near__budget_charge(local, (int64_t)cost);
    local->taps = 1;
    apply(local);
    return NEAR_OK;
}

void near__tap_close(struct near__local *local)
{
    near__shadow_destroy(local->alloc, local->shadow);
}
