/* SPDX-License-Identifier: BSD-3-Clause
 *
 * From requests to those who learn from them.
 *
 *      a thread's reads and fills --> its ring --+-- its next fill, or the keeper --> shadow.c --> local->rule
 *                                                |                                '-> curve.c --> near_advise
 *      of its reads one in 32 --> a ring of keys-'                                '-> hotkeys.c --> near_hot_keys
 *
 * In the first ring only keys whose hash is below a threshold are noted, so it is all or nothing for a key; now and then, for a burst
 * (bursts.c), all keys are.  The other one is hotkeys.c's.  A hit writes to its thread's own rings and no further (promise A); when a ring is full the request is not noted.
 * Learning is done by whoever fills, or the keeper, one at a time: `tap_busy` is taken by an exchange that is never waited for.
 * What cannot be learnt now stays in its ring.
 *
 *   word in a ring:    hash 63 … 16    what 15 … 14    size 13 … 0, see pack
 *
 * One writer and, by tap_busy, one reader at a time: `written` and `read` only grow. */
#include "local/tap.h"

#include <sched.h>

#include "base/random.h"

#define RING 2048u
#define CURVE_KEYS_MIN 1024
#define CURVE_KEYS_MAX 16384 /* a MiB, nearly */
#define CURVE_PART 4096      /* a key for so many bytes of budget: at 62 bytes each 1.5 % of it */
#define AUTO_READS (1u << 17) /* what the automatic size goes by: some sixteen of each key in the sample */
#define PATIENCE 100000     /* yields, for whoever learns just now */
#define WHAT_SHIFT 14
#define SIZE_MASK 0x3fffu
#define MANTISSA_BITS 9

/* Of so many reads one is in a burst; more at first, so that a short load has some. */
#define BURST_ONE_IN 32
#define BURST_FIRST 4
#define BURST_SETTLED (BURST_ONE_IN / 2 * NEAR_BURST) /* reads for each step from the first to the other */
#define BURST_READS (256 * NEAR_BURST) /* of all threads: then the one that it is of does not read, or has three hundred beside it */
#define LOST_IN_BURST UINT64_MAX       /* rings may still be full of one */

struct near__tap {
    _Alignas(64) _Atomic(uint32_t) written;
    _Atomic(uint64_t) lost; /* requests that met a full ring */
    _Alignas(64) _Atomic(uint32_t) read;
    uint64_t drained, drained_lost; /* under tap_busy: reads of this thread, and what it had lost, when that was last done */
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
                    const struct near__entry *entry, enum near__local_result result)
{
    if (reader->hotring)
        near__hotring_read(reader, key, key_size, result);
    uint64_t hash = near__key_hash(key, key_size, &local->index.secrets);
    if (!near__tap_wants(local, hash))
        return;
    if (entry)
        near__tap_note(reader, hash, NEAR_SEEN_HIT, key_size + near__entry_value_size(entry));
    else
        near__tap_note(reader, hash, NEAR_SEEN_MISS, 0);
}

/* ---------------------------------------------------------------- learning */

static uint64_t clamp(uint64_t number, uint64_t least, uint64_t most)
{
    return number < least ? least : number > most ? most : number;
}

/* What an entry with that much key and value takes, its share of the index included: what a word takes in a full tier (migrate.c). */
#define INDEX_BYTES 11
static uint64_t unpack(uint64_t word)
{
    unsigned code = (unsigned)word & SIZE_MASK, exponent = code >> MANTISSA_BITS;
    uint64_t mantissa = code & ((1u << MANTISSA_BITS) - 1);
    return exponent ? (mantissa | 1u << MANTISSA_BITS) << (exponent - 1) : mantissa;
}
static uint64_t bytes_of(const struct near__local *local, uint64_t word)
{
    size_t prefix = near__entry_prefix(near__entry_flags_for(0, 0, 0, local->queues));
    return (uint64_t)near__block_estimate(local, prefix + NEAR_ENTRY_HEADER + unpack(word)) + INDEX_BYTES;
}

static enum near__seen seen_in(uint64_t word) { return (enum near__seen)(word >> WHAT_SHIFT & 3); }
static uint64_t hash_in(uint64_t word) { return word & ~UINT64_C(0xffff); }

static uint64_t size_in(const struct near__local *local, uint64_t word)
{
    return seen_in(word) == NEAR_SEEN_MISS ? 0 : bytes_of(local, word);
}

static uint64_t lost_in(const struct near__tap *tap)
{
    return atomic_load_explicit(&tap->lost, memory_order_relaxed); /* relaxed: statistics */
}

static uint64_t lost_of(const struct near__local *local)
{
    uint64_t lost = 0;
    /* acquire: pairs with the push of a reader */
    const struct near__reader *reader = atomic_load_explicit(&local->readers, memory_order_acquire);
    for (; reader; reader = reader->next)
        lost += lost_in(reader->tap);
    return lost;
}

/* Below which hash requests are noted without a burst. */
static uint64_t sample_below(const struct near__local *local)
{
    uint64_t shadow = local->shadow ? near__shadow_below(local->shadow) : 0, curve = local->curve ? near__curve_below(local->curve) : 0;
    return shadow > curve ? shadow : curve;
}

/* A burst begins with the first request that nothing else notes, if there is one. */
static int is_in_burst(const struct near__local *local, const struct near__reader *reader, uint64_t hash)
{
    if (local->burst_of != reader)
        return 0;
    const struct near__bursts *bursts = near__curve_bursts(local->curve);
    uint64_t below = sample_below(local);
    return !near__bursts_is_full(bursts) && (bursts->count || hash >= below || below == UINT64_MAX);
}

/* at: reads that have been shown, of all threads. */
static void learn(struct near__local *local, const struct near__reader *reader, uint64_t word, uint64_t at)
{
    uint64_t hash = hash_in(word);
    enum near__seen seen = seen_in(word);
    if (local->shadow && hash < near__shadow_below(local->shadow))
        near__shadow_see(local->shadow, hash, seen);
    if (is_in_burst(local, reader, hash))
        near__curve_see_burst(local->curve, hash, seen, size_in(local, word), at);
    else if (local->curve && hash < near__curve_below(local->curve))
        near__curve_see(local->curve, hash, seen, size_in(local, word), at);
}

/* The next one comes by chance, so that it does not always meet the same phase of the load, or the same thread. */
static void end_burst(struct near__local *local)
{
    uint64_t at = local->tap_shown, reads = at - local->burst_from, one_in = clamp(at / BURST_SETTLED, BURST_FIRST, BURST_ONE_IN);
    uint64_t gap = one_in * (reads > NEAR_BURST ? reads : NEAR_BURST);
    near__bursts_learn(near__curve_bursts(local->curve));
    local->burst_of = NULL;
    local->burst_due = at + gap / 2 + near__random_below(&local->burst_random, (uint32_t)clamp(gap, 0, UINT32_MAX));
    local->tap_lost = LOST_IN_BURST;
}

/* After a reader's ring, which was not empty, has been drained.  complete: nothing has been lost behind its last word. */
static void tend_burst(struct near__local *local, struct near__reader *reader, int complete)
{
    if (!local->burst_of && local->tap_shown >= local->burst_due && near__curve_share(local->curve) < 1) {
        local->burst_of = reader;
        local->burst_from = local->tap_shown;
    } else if (local->burst_of == reader && (near__bursts_is_full(near__curve_bursts(local->curve)) || !complete)) {
        end_burst(local);
    }
}

/* Of what a ring has lost nothing can be said.  sampled: reads of the sample in it. */
static double expected(const struct near__curve *curve, uint64_t reads, int complete, uint64_t sampled)
{
    return complete ? (double)reads * near__curve_share(curve) : (double)sampled;
}

/* The clock of what is learnt counts reads in the order in which they are shown: all of a ring, then all of the next.  Stretches of
 * threads that are alike, laid end to end, are a load like theirs; if each were stretched over what all threads read meanwhile, reads
 * that came soon would seem late ones. */
static void drain(struct near__local *local, struct near__reader *reader)
{
    struct near__tap *tap = reader->tap;
    uint32_t read = atomic_load_explicit(&tap->read, memory_order_relaxed); /* relaxed: ours, by tap_busy */
    uint32_t written = atomic_load_explicit(&tap->written, memory_order_acquire); /* acquire: as above */
    uint64_t reads = near__tier_reads_of(reader) - tap->drained, lost = lost_in(tap) - tap->drained_lost, words = written - read;
    uint64_t sampled = local->curve ? near__curve_samples(local->curve) : 0;
    for (uint32_t i = 0; i < words; i++) {
        uint64_t word = atomic_load_explicit(&tap->word[(read + i) % RING], memory_order_relaxed); /* relaxed: ordered by written */
        learn(local, reader, word, local->tap_shown + reads * (i + 1) / words);
    }
    atomic_store_explicit(&tap->read, written, memory_order_release); /* release: as above */
    local->tap_shown += reads;
    tap->drained += reads;
    if (local->curve) {
        near__curve_expect(local->curve, expected(local->curve, reads, !lost, near__curve_samples(local->curve) - sampled));
        if (words)
            tend_burst(local, reader, lost_in(tap) == tap->drained_lost);
    }
    tap->drained_lost += lost;
    if (local->hotkeys)
        near__hotkeys_drain(local->hotkeys, reader->hotring, tap->drained);
}

/* What there is of it is learnt, too. */
static void end_overdue_burst(struct near__local *local)
{
    if (!local->burst_of || local->tap_shown - local->burst_from <= BURST_READS)
        return;
    drain(local, local->burst_of);
    if (local->burst_of)
        end_burst(local);
}

/* More than the rings take is noted between two drains: the curve, which wants every request of a key, takes fewer keys.  What they lose
 * because of a burst is no sign of that.  emptied: they have been, since the last one. */
static void relieve(struct near__local *local, int emptied)
{
    uint64_t lost = lost_of(local), before = local->tap_lost;
    if (before == LOST_IN_BURST ? !emptied : lost - before < RING)
        return;
    local->tap_lost = lost;
    if (before != LOST_IN_BURST && near__curve_keys(local->curve) >= CURVE_KEYS_MIN)
        near__curve_thin(local->curve);
}

/* The rule, and how many entries it is for. */
static void follow(struct near__local *local)
{
    int64_t entries = atomic_load_explicit(&local->budget.entries, memory_order_relaxed); /* relaxed: a count */
    int verdict = near__shadow_verdict(local->shadow);
    near__shadow_scale(local->shadow, entries > 0 ? (uint64_t)entries : 1);
    if (verdict) /* relaxed: see near__tier_moment */
        atomic_store_explicit(&local->rule, verdict > 0 ? NEAR_RULE_S3FIFO : NEAR_RULE_LRU, memory_order_relaxed);
}

/* What was learnt takes effect. */
static void apply(struct near__local *local)
{
    end_overdue_burst(local);
    if (local->shadow)
        follow(local);
    uint64_t below = local->burst_of ? UINT64_MAX : sample_below(local);
    atomic_store_explicit(&local->tap_below, below, memory_order_relaxed); /* relaxed: see near__tap_wants */
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
    drain(local, reader);
    apply(local);
    end(local);
}

static void learn_from_all(struct near__local *local)
{
    int emptied = !local->burst_of;
    /* acquire: pairs with the push of a reader */
    struct near__reader *reader = atomic_load_explicit(&local->readers, memory_order_acquire);
    for (; reader; reader = reader->next)
        drain(local, reader);
    if (local->curve && !local->burst_of)
        relieve(local, emptied);
    apply(local);
}

void near__tap_learn_all(struct near__local *local)
{
    if (!local->taps || !begin(local))
        return;
    learn_from_all(local);
    end(local);
}

/* ---------------------------------------------------------------- questions */

/* For those who want an answer.  0: somebody who was learning has been stopped. */
static int begin_patiently(struct near__local *local)
{
    for (int patience = 0; !begin(local); patience++) {
        if (patience > PATIENCE)
            return 0;
        sched_yield();
    }
    return 1;
}

int near__local_advise(struct near__local *local, uint64_t entries, uint64_t bytes, double *ret_hit_ratio)
{
    int64_t fixed = atomic_load_explicit(&local->budget.fixed, memory_order_relaxed); /* relaxed: a count */
    if (!local->curve)
        return NEAR_ERR_UNSUPPORTED;
    if (!begin_patiently(local))
        return NEAR_ERR_TIMEOUT;
    learn_from_all(local);
    bytes = bytes > (uint64_t)fixed ? bytes - (uint64_t)fixed : 0;
    double ratio = near__curve_hit_ratio(local->curve, entries, bytes);
    end(local);
    if (ratio < 0)
        return NEAR_MISS;
    *ret_hit_ratio = ratio;
    return NEAR_OK;
}

struct sizes {
    const struct near__local *local;
    uint64_t entries, fixed;
};

static double ratio_at(const struct sizes *sizes, uint64_t bytes)
{
    bytes = bytes > sizes->fixed ? bytes - sizes->fixed : 0;
    return near__curve_hit_ratio(sizes->local->curve, sizes->entries, bytes);
}

/* The least size from min to max with that ratio, to a 256th; 0: none has it. */
static uint64_t size_with(const struct sizes *sizes, double ratio, uint64_t min, uint64_t max)
{
    if (ratio_at(sizes, max) < ratio)
        return 0;
    while (max - min > min / 256) {
        uint64_t middle = min + (max - min) / 2;
        if (ratio_at(sizes, middle) < ratio)
            min = middle + 1;
        else
            max = middle;
    }
    return ratio_at(sizes, min) < ratio ? max : min;
}

int near__tap_advise_size(struct near__local *local, uint64_t min, uint64_t max, struct near__advice *ret)
{
    /* relaxed, all: counts and limits that are looked at anew each time */
    int64_t fixed = atomic_load_explicit(&local->budget.fixed, memory_order_relaxed);
    int64_t entries = atomic_load_explicit(&local->budget.entries_wanted, memory_order_relaxed);
    int64_t size = atomic_load_explicit(&local->budget.max_wanted, memory_order_relaxed);
    double reaching, ample;
    if (!begin(local))
        return 0;
    struct sizes sizes = {local, (uint64_t)entries, (uint64_t)fixed};
    near__curve_forget_after(local->curve, AUTO_READS);
    near__autosize_ratios(&local->autosize, &reaching, &ample);
    *ret = (struct near__advice){near__curve_samples(local->curve), ratio_at(&sizes, (uint64_t)size),
                                 size_with(&sizes, reaching, min, max), size_with(&sizes, ample, min, max)};
    end(local);
    return 1;
}

int near__local_hot_keys(struct near__local *local, size_t most, near_hot_key *ret_keys, size_t *ret_count)
{
    if (!local->hotkeys)
        return NEAR_ERR_UNSUPPORTED;
    if (!begin_patiently(local))
        return NEAR_ERR_TIMEOUT;
    learn_from_all(local);
    *ret_count = near__hotkeys_top(local->hotkeys, most, ret_keys);
    end(local);
    return NEAR_OK;
}

/* ---------------------------------------------------------------- open and close */

#define SHADOW_ENTRIES_MAX 1024
#define SHADOW_ENTRIES_MIN 128
#define SHADOW_PART 8192 /* an entry for so many bytes of budget: at 110 bytes each 1.3 % of it */

static int open_shadow(struct near__local *local, uint64_t bytes_max)
{
    size_t cost;
    uint64_t entries = clamp(bytes_max / SHADOW_PART, SHADOW_ENTRIES_MIN, SHADOW_ENTRIES_MAX);
    local->shadow = near__shadow_create(local->alloc, (uint32_t)entries, &cost);
    if (!local->shadow)
        return NEAR_ERR_NOMEM;
    near__budget_charge(local, (int64_t)cost);
    return NEAR_OK;
}

static int open_curve(struct near__local *local, uint64_t bytes_max)
{
    size_t cost;
    uint64_t keys = clamp(bytes_max / CURVE_PART, CURVE_KEYS_MIN, CURVE_KEYS_MAX);
    local->curve = near__curve_create(local->alloc, (uint32_t)keys, &cost);
    if (!local->curve)
        return NEAR_ERR_NOMEM;
    near__budget_charge(local, (int64_t)cost);
    return NEAR_OK;
}

static int open_hotkeys(struct near__local *local, uint32_t keys)
{
    size_t cost;
    local->hotkeys = near__hotkeys_create(local->alloc, keys, &cost);
    if (!local->hotkeys)
        return NEAR_ERR_NOMEM;
    near__budget_charge(local, (int64_t)cost);
    return NEAR_OK;
}

int near__tap_open(struct near__local *local, const struct near__local_config *config)
{
    int status = config->policy == NEAR_POLICY_ADAPTIVE ? open_shadow(local, config->bytes_max) : NEAR_OK;
    if (status == NEAR_OK && (config->curve || config->auto_hit_permille))
        status = open_curve(local, config->auto_bytes_max > config->bytes_max ? config->auto_bytes_max : config->bytes_max);
    if (status == NEAR_OK && config->hot_keys)
        status = open_hotkeys(local, config->hot_keys);
    if (status != NEAR_OK)
        return status;
    local->taps = local->shadow || local->curve || local->hotkeys;
    apply(local);
    return NEAR_OK;
}

void near__tap_close(struct near__local *local)
{
    near__shadow_destroy(local->alloc, local->shadow);
    near__curve_destroy(local->alloc, local->curve);
    near__hotkeys_destroy(local->alloc, local->hotkeys);
}
