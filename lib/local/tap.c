/* SPDX-License-Identifier: BSD-3-Clause
 *
 * From requests to those who learn from them.
 *
 *      a thread's reads and fills --> its ring --+-- its next fill, or the keeper --> shadow.c --> local->rule
 *                                                |                                '-> curve.c --> near_advise
 *      of its reads one in 32 --> a ring of keys-'                                '-> hotkeys.c --> near_hot_keys
 *
 * In the first ring only keys whose hash is below a threshold are noted, so it is all or nothing for a key; now and
 * then, for a burst (bursts.c), all keys are.  The other one is hotkeys.c's.  A hit writes to its thread's own rings
 * and no further (promise A).  Learning is done by whoever fills, or the keeper, one at a time: `tap_busy` is taken by
 * an exchange that is never waited for.  What cannot be learnt now stays in its ring.
 *
 * When a ring is full a request is not noted, and until one is noted again its thread is mute: what it reads is as if
 * it had not been read.  So reads of the sample are expected only of the others, and what came before the gap does not
 * seem long ago after it.
 *
 * Rings of threads that only hit wait for the keeper, who comes ten times a second.  While they are full by then it
 * comes more often, and during a burst, which makes hits slower, at once and then less and less often.
 *
 *   word in a ring:    hash 63 … 16    what 15 … 14    size 13 … 0, see pack
 *
 * One writer and, by tap_busy, one reader at a time: `written` and `read` only grow. */
#include "local/tap.h"

#include <sched.h>

#include "base/clamp.h"
#include "base/random.h"

#define RING 2048u
#define CURVE_KEYS_MIN 1024
#define CURVE_KEYS_MAX 16384  /* a MiB, nearly */
#define CURVE_PART 2048       /* a key for so many bytes of budget: at 62 bytes each 3 % of it */
#define FAR_BYTES 8           /* times the budget: about larger ones the curve need not know */
#define FAR_ENTRIES 16        /* times the limit of entries */
#define AUTO_READS (1u << 17) /* what the automatic size goes by: some sixteen of each key in the sample */
#define PATIENCE 100000       /* yields, for whoever learns just now */
#define WHAT_SHIFT 14
#define SIZE_MASK 0x3fffu
#define MANTISSA_BITS 9

/* Of so many reads one is in a burst; more at first, so that a short load has some. */
#define BURST_ONE_IN 32
#define BURST_FIRST 4
#define BURST_SETTLED (BURST_ONE_IN / 2 * NEAR_BURST) /* reads for each step from the first to the other */
/* of all threads: then the one that it is of does not read, or has three hundred beside it */
#define BURST_READS (256 * NEAR_BURST)
#define BURST_LOOKS 7 /* after 1, 2, 4, … 64 ms; then as often as otherwise */
/* when all that has been drained together was counted: reads of before are none of the burst's */
#define FROM_NOW_ON UINT64_MAX
#define LOST_IN_BURST UINT64_MAX /* rings may still be full of one */

#define FAST_MS 10             /* between two looks when rings are full otherwise */
#define FAST_LOOKS 64          /* so often, without another reason */
#define FAST_WORDS (RING / 16) /* in one ring; with ten times as many, between two looks as usual, none would be full */

/* (w) written by the reader's owner, (t) written under tap_busy; others only look. */
struct near__tap {
    _Alignas(64) _Atomic(uint32_t) written; /* (w) */
    _Atomic(uint64_t) lost;                 /* (w) requests that met a full ring */
    _Atomic(uint64_t) mute;                 /* (w) reads of this thread while nothing could be noted, */
    _Atomic(uint64_t) mute_since;           /* (w) but for those from this one on; SPEAKS: there are none */
    _Alignas(64) _Atomic(uint32_t) read;    /* (t) */
    /* (t) when that was last done: reads of this thread, those that were not mute, what it had lost */
    uint64_t drained, shown, drained_lost;
    _Alignas(64) _Atomic(uint64_t) word[RING]; /* (w) */
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

#define SPEAKS 0 /* or it has read nothing: then nothing is left out */

/* A ring is full from one request of the sample to another; what is read meanwhile is as if it had not been. */
static void fall_mute(struct near__reader *reader)
{
    struct near__tap *tap = reader->tap;
    /* relaxed, all: ours */
    if (atomic_load_explicit(&tap->mute_since, memory_order_relaxed) == SPEAKS)
        atomic_store_explicit(&tap->mute_since, near__tier_reads_of(reader), memory_order_relaxed);
    atomic_store_explicit(&tap->lost, atomic_load_explicit(&tap->lost, memory_order_relaxed) + 1, memory_order_relaxed);
}
static void speak_again(struct near__reader *reader, uint64_t since)
{
    struct near__tap *tap = reader->tap;
    /* relaxed: ours */
    uint64_t mute = atomic_load_explicit(&tap->mute, memory_order_relaxed) + near__tier_reads_of(reader) - since;
    atomic_store_explicit(&tap->mute, mute, memory_order_relaxed);
    /* release: pairs with the acquire in speech_of */
    atomic_store_explicit(&tap->mute_since, SPEAKS, memory_order_release);
}

/* Of so many reads of its own, how many were not mute.  When it speaks again between these looks that is too few, to be
 * caught up with the next time, but never too many. */
static uint64_t speech_of(const struct near__tap *tap, uint64_t reads)
{
    uint64_t since = atomic_load_explicit(&tap->mute_since, memory_order_acquire); /* acquire: pairs with speak_again */
    uint64_t mute = atomic_load_explicit(&tap->mute, memory_order_relaxed);        /* relaxed: at least as new */
    uint64_t told = since == SPEAKS || since > reads ? reads : since;
    return told > mute ? told - mute : 0;
}

void near__tap_note(struct near__reader *reader, uint64_t hash, enum near__seen seen, uint64_t size)
{
    struct near__tap *tap = reader->tap;
    uint32_t written = atomic_load_explicit(&tap->written, memory_order_relaxed); /* relaxed: ours */
    /* acquire: pairs with the release in drain; the place has been read */
    if (written - atomic_load_explicit(&tap->read, memory_order_acquire) >= RING) {
        fall_mute(reader);
        return;
    }
    uint64_t since = atomic_load_explicit(&tap->mute_since, memory_order_relaxed); /* relaxed: ours */
    if (since != SPEAKS)
        speak_again(reader, since);
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
        near__tap_note(reader, hash, NEAR_SEEN_HIT, near__entry_size(entry));
    else
        near__tap_note(reader, hash, NEAR_SEEN_MISS, 0);
}

/* ---------------------------------------------------------------- learning */

static uint64_t unpack(uint64_t word)
{
    unsigned code = (unsigned)word & SIZE_MASK, exponent = code >> MANTISSA_BITS;
    uint64_t mantissa = code & ((1u << MANTISSA_BITS) - 1);
    return exponent ? (mantissa | 1u << MANTISSA_BITS) << (exponent - 1) : mantissa;
}
/* What an entry takes, its share of a full tier's index included. */
static uint64_t bytes_of(const struct near__local *local, uint64_t word)
{
    return (uint64_t)near__block_estimate(local, unpack(word)) + NEAR_INDEX_SHARE;
}

static enum near__seen seen_in(uint64_t word)
{
    return (enum near__seen)(word >> WHAT_SHIFT & 3);
}
static uint64_t hash_in(uint64_t word)
{
    return word & ~UINT64_C(0xffff);
}

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
    for (const struct near__reader *reader = near__readers_first(local); reader; reader = reader->next)
        lost += lost_in(reader->tap);
    return lost;
}

/* Below which hash requests are noted without a burst. */
static uint64_t sample_below(const struct near__local *local)
{
    uint64_t shadow = local->shadow ? near__shadow_below(local->shadow) : 0,
             curve = local->curve ? near__curve_below(local->curve) : 0;
    return shadow > curve ? shadow : curve;
}

/* A burst begins with the first request that nothing else notes, if there is one. */
static int is_in_burst(const struct near__local *local, const struct near__reader *reader, uint64_t hash)
{
    if (local->tapped.burst_of != reader)
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
    uint64_t at = local->tapped.reads, reads = at - local->tapped.burst_from,
             one_in = near__clamp_unsigned(at / BURST_SETTLED, BURST_FIRST, BURST_ONE_IN);
    uint64_t gap = one_in * (reads > NEAR_BURST ? reads : NEAR_BURST);
    near__bursts_learn(near__curve_bursts(local->curve));
    local->tapped.burst_of = NULL;
    local->tapped.burst_due =
        at + gap / 2 +
        near__random_below(&local->tapped.burst_random, (uint32_t)near__clamp_unsigned(gap, 0, UINT32_MAX));
    local->tapped.lost = LOST_IN_BURST;
}

/* After a reader's ring, which was not empty, has been drained.  complete: nothing has been lost behind its last
 * word. */
static void tend_burst(struct near__local *local, struct near__reader *reader, int complete)
{
    if (!local->tapped.burst_of && local->tapped.reads >= local->tapped.burst_due &&
        near__curve_share(local->curve) < 1) {
        local->tapped.burst_of = reader;
        local->tapped.burst_from = FROM_NOW_ON;
        local->tapped.burst_looks = 0;
    } else if (local->tapped.burst_of == reader &&
               (near__bursts_is_full(near__curve_bursts(local->curve)) || !complete)) {
        end_burst(local);
    }
}

/* The clock of what is learnt counts reads in the order in which they are shown: all of a ring, then all of the next.
 * Stretches of threads that are alike, laid end to end, are a load like theirs; if each were stretched over what all
 * threads read meanwhile, reads that came soon would seem late ones. */
static void drain(struct near__local *local, struct near__reader *reader)
{
    struct near__tap *tap = reader->tap;
    uint32_t read = atomic_load_explicit(&tap->read, memory_order_relaxed);       /* relaxed: ours, by tap_busy */
    uint32_t written = atomic_load_explicit(&tap->written, memory_order_acquire); /* acquire: as above */
    uint64_t reads = near__tier_reads_of(reader), speech = speech_of(tap, reads), words = written - read;
    uint64_t shown = speech > tap->shown ? speech - tap->shown : 0;
    for (uint32_t i = 0; i < words; i++) {
        /* relaxed: ordered by written */
        uint64_t word = atomic_load_explicit(&tap->word[(read + i) % RING], memory_order_relaxed);
        learn(local, reader, word, local->tapped.shown + shown * (i + 1) / words);
    }
    atomic_store_explicit(&tap->read, written, memory_order_release); /* release: as above */
    if (words > local->tapped.fullest)
        local->tapped.fullest = words;
    local->tapped.noted += words;
    local->tapped.reads += reads - tap->drained;
    local->tapped.shown += shown;
    tap->drained = reads;
    tap->shown += shown;
    if (local->curve) {
        near__curve_expect(local->curve, (double)shown * near__curve_share(local->curve));
        uint64_t lost = lost_in(tap);
        if (words)
            tend_burst(local, reader, lost == tap->drained_lost);
        tap->drained_lost = lost;
    }
    if (local->hotkeys) {
        uint64_t hits = near__reader_counted(reader, NEAR_COUNT_HITS);
        near__hotkeys_drain(local->hotkeys, reader->hotring, hits, reads > hits ? reads - hits : 0);
    }
}

/* What there is of it is learnt, too. */
static void end_overdue_burst(struct near__local *local)
{
    if (!local->tapped.burst_of || local->tapped.reads - local->tapped.burst_from <= BURST_READS)
        return;
    drain(local, local->tapped.burst_of);
    if (local->tapped.burst_of)
        end_burst(local);
}

/* What is noted is what the curve wants, and would be less with a smaller sample. */
static int curve_decides(const struct near__local *local)
{
    return !local->shadow || near__curve_below(local->curve) > near__shadow_below(local->shadow);
}

/* There is more to be noted than the rings take between two looks: they are looked at more often, and when they lose
 * the larger part nevertheless the curve, which wants every request of a key, takes fewer keys.  What they lose because
 * of a burst is no sign of that.  All of them have just been drained, and no burst was under way when that began. */
static void relieve(struct near__local *local)
{
    uint64_t before = local->tapped.lost, lost = lost_of(local) - before;
    int loses = before != LOST_IN_BURST && lost >= RING;
    if (loses && local->tapped.fast_looks && lost > local->tapped.noted && curve_decides(local) &&
        near__curve_keys(local->curve) >= CURVE_KEYS_MIN)
        near__curve_thin(local->curve);
    if (loses || before == LOST_IN_BURST) {
        local->tapped.lost = before + lost;
        local->tapped.noted = 0;
    }
    if (loses || (local->tapped.fast_looks && local->tapped.fullest >= FAST_WORDS))
        local->tapped.fast_looks = FAST_LOOKS;
    else if (local->tapped.fast_looks)
        local->tapped.fast_looks--;
    else
        near__curve_thicken(local->curve);
}

static uint64_t times(uint64_t factor, int64_t limit)
{
    uint64_t number = limit > 0 ? (uint64_t)limit : 0;
    return number < UINT64_MAX / factor ? number * factor : UINT64_MAX;
}

/* Up to which size the curve should know. */
static void reach(struct near__local *local)
{
    /* relaxed, all: limits that are looked at anew each time */
    uint64_t entries = times(FAR_ENTRIES, atomic_load_explicit(&local->budget.entries_asked, memory_order_relaxed));
    uint64_t bytes = times(FAR_BYTES, atomic_load_explicit(&local->budget.max_wanted, memory_order_relaxed));
    uint64_t least, most = 0;
    if (near__autosize_is_on(&local->autosize))
        near__autosize_limits(&local->autosize, 0, &least, &most);
    near__curve_reach(local->curve, entries, bytes > most ? bytes : most);
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
    if (local->tapped.burst_of && local->tapped.burst_from == FROM_NOW_ON)
        local->tapped.burst_from = local->tapped.reads;
    end_overdue_burst(local);
    if (local->curve)
        reach(local);
    if (local->shadow)
        follow(local);
    uint64_t below = local->tapped.burst_of ? UINT64_MAX : sample_below(local);
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

static void drain_all(struct near__local *local)
{
    local->tapped.fullest = 0;
    for (struct near__reader *reader = near__readers_first(local); reader; reader = reader->next)
        drain(local, reader);
}

/* As long as every request is noted hits are slower, so a burst is looked after, the less often the longer it takes. */
static int next_look_ms(struct near__local *local)
{
    if (local->tapped.burst_of || local->tapped.lost == LOST_IN_BURST)
        return local->tapped.burst_looks < BURST_LOOKS ? 1 << local->tapped.burst_looks++ : 0;
    return local->tapped.fast_looks ? FAST_MS : 0;
}

int near__tap_learn_all(struct near__local *local)
{
    if (!local->taps)
        return 0;
    if (!begin(local))
        return local->curve ? FAST_MS : 0; /* whoever fills is at it for a moment; others than the curve can wait for
                                              the next round */
    int was_burst = local->tapped.burst_of != NULL;
    drain_all(local);
    if (local->curve && !was_burst)
        relieve(local);
    apply(local);
    int ms = next_look_ms(local);
    end(local);
    return ms;
}

/* ---------------------------------------------------------------- questions */

/* For those who want an answer, from all that has been noted by now.  0: somebody who was learning has been stopped. */
static int begin_patiently(struct near__local *local)
{
    for (int patience = 0; !begin(local); patience++) {
        if (patience > PATIENCE)
            return 0;
        sched_yield();
    }
    drain_all(local);
    apply(local);
    return 1;
}

int near__local_advise(struct near__local *local, uint64_t entries, uint64_t bytes, double *ret_hit_ratio)
{
    int64_t fixed = atomic_load_explicit(&local->budget.fixed, memory_order_relaxed); /* relaxed: a count */
    if (!local->curve)
        return NEAR_ERR_UNSUPPORTED;
    if (!begin_patiently(local))
        return NEAR_ERR_TIMEOUT;
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
    int64_t entries = atomic_load_explicit(&local->budget.entries_asked, memory_order_relaxed);
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
    uint64_t entries = near__clamp_unsigned(bytes_max / SHADOW_PART, SHADOW_ENTRIES_MIN, SHADOW_ENTRIES_MAX);
    local->shadow = near__shadow_create(local->alloc, (uint32_t)entries, &cost);
    if (!local->shadow)
        return NEAR_ERR_NOMEM;
    near__budget_charge(local, (int64_t)cost);
    return NEAR_OK;
}

static int open_curve(struct near__local *local, uint64_t bytes_max)
{
    size_t cost;
    uint64_t keys = near__clamp_unsigned(bytes_max / CURVE_PART, CURVE_KEYS_MIN, CURVE_KEYS_MAX);
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
        status =
            open_curve(local, config->auto_bytes_max > config->bytes_max ? config->auto_bytes_max : config->bytes_max);
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
