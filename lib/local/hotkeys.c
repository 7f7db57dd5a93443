/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Which keys are read most?
 *
 *      a thread's reads --about 1 in 32--> its ring of keys --tap.c--> counters: the frequent ones of the sample
 *
 * Why reads and not keys.  The rings of tap.c hold every request for a sample of the keys.  That is right for a curve
 * and wrong here: a hot key is hot whatever its hash, and would most likely not be in the sample.  So any read may be
 * taken, and takes its key along: the key may be gone when it is asked for, and one that is hot because it is never
 * kept is worth knowing, too.
 *
 * Which reads.  A hit goes the long way, where it is timed, when the thread's count of hits is a multiple of
 * NEAR_TIMED_OF; that test is there in any case, so hot keys cost a plain hit nothing.  But every 1024th read of a loop
 * over 64 keys is the same key.  So after each noted hit the count jumps ahead, by its *phase*, which the count itself
 * holds in its upper bits so that statistics can take it out again (near__reader_counted): the next one is 1 … 64 hits
 * away, each equally likely, whatever the period of the reads.  Reads that are not hits, always on the long way, are
 * counted down to likewise.
 *
 * What one stands for.  A full ring takes no more until it is drained, so a busy thread's sample is thinner than an
 * idle one's.  What is drained therefore stands for as many reads as the thread has done since: shares are of the
 * reads, not of the samples.  Hits stand for hits and other reads for other reads: the last sample before one of the
 * rarer kind is on average nearer than the last one before one of the other, because distances end at 64, and so the
 * rarer kind would have up to a third too little.  A ring is full while the longest key would not fit, so that short
 * ones are not preferred.
 *
 * The counters are Space-Saving (Metwally, Agrawal, El Abbadi 2005), weighted: a key without a counter takes over the
 * smallest, and starts from its count, which is then known to be too much by at most that (`over`).  A key with more
 * than 1 / counters of the reads always has a counter.  When `window` samples have been seen all is halved: what is
 * long ago counts less.
 *
 *   counter   key, count, over        heap   the smallest count first        first   chains by hash
 *
 * A sample costs its thread a copy of the key, and whoever drains it log2(counters) steps.
 *
 * Ring: [ kind, size | key ] [ kind, size | key ] …, bytes modulo its size; one writer and, by tap_busy, one reader at
 * a time. */
#include "local/hotkeys.h"

#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "local/tier.h"

#define RING 8192u
#define NOTED_OF 64u /* reads; at most NEAR_TIMED_OF */
#define RECORD_MAX (sizeof(uint32_t) + NEAR_HOT_KEY_MAX)
#define UNTOLD INT32_MAX /* the size of a key that is too long: the read counts, the key is not told */
#define COUNTERS 4       /* for each key that is asked for … */
#define COUNTERS_MIN 128 /* … and at least: shares are known to 1 / counters */
/* samples for each counter: more than 1 / counters of the reads is then 32 samples or more */
#define WINDOW 32
#define WINDOW_MIN (1u << 14)
#define NIL UINT32_MAX

_Static_assert(RING >= 16 * RECORD_MAX && (RING & (RING - 1)) == 0, "many keys fit, and counters may wrap around");

enum { HITS, OTHERS, KINDS };
#define KIND_SHIFT 31 /* in the word with the size */

/* (w) written by the reader's owner, (t) under tap_busy. */
struct near__hotring {
    _Alignas(64) _Atomic(uint32_t) written; /* (w) */
    uint32_t until;                         /* (w) reads that are not hits before the next that is noted */
    _Alignas(64) _Atomic(uint32_t) read;    /* (t) */
    uint64_t reads[KINDS];                  /* (t) of the thread, up to the last drain that had such */
    unsigned char bytes[RING];              /* (w) read up to `written` under tap_busy */
};

struct counter {
    uint64_t hash, count, over;
    uint32_t place; /* in the heap */
    uint32_t chain;
    uint32_t key_size;
    unsigned char key[NEAR_HOT_KEY_MAX];
};
struct rank {
    uint64_t least;
    uint32_t counter;
};

struct near__hotkeys {
    uint32_t keys, counters, used, mask;
    uint32_t samples, window; /* since the last halving */
    uint64_t reads;           /* that the counts are of */
    struct counter *counter;
    struct rank *rank; /* for sorting */
    uint32_t *heap, *first;
};

/* ---------------------------------------------------------------- the ring */

size_t near__hotring_size(void)
{
    return sizeof(struct near__hotring);
}

/* A hit when the count says so, another read when the thread's countdown ends. */
static int is_due(struct near__reader *reader, enum near__local_result result)
{
    if (result == NEAR_LOCAL_HIT ? !near__reader_was_due(reader) : reader->hotring->until != 0) {
        reader->hotring->until -= result != NEAR_LOCAL_HIT;
        return 0;
    }
    uint32_t others = near__random_below(&reader->random, NOTED_OF);
    if (result == NEAR_LOCAL_HIT)
        near__reader_put_off(reader, others);
    else
        reader->hotring->until = others;
    return 1;
}

static void put(struct near__hotring *ring, uint32_t at, const void *bytes, size_t size)
{
    size_t start = at % RING, first = size < RING - start ? size : RING - start;
    memcpy(ring->bytes + start, bytes, first);
    memcpy(ring->bytes, (const unsigned char *)bytes + first, size - first);
}
static void take(const struct near__hotring *ring, uint32_t at, void *bytes, size_t size)
{
    size_t start = at % RING, first = size < RING - start ? size : RING - start;
    memcpy(bytes, ring->bytes + start, first);
    memcpy((unsigned char *)bytes + first, ring->bytes, size - first);
}

static void note(struct near__hotring *ring, const void *key, size_t key_size, uint32_t kind)
{
    uint32_t written = atomic_load_explicit(&ring->written, memory_order_relaxed); /* relaxed: ours */
    uint32_t size = key_size <= NEAR_HOT_KEY_MAX ? (uint32_t)key_size : UNTOLD, head = kind << KIND_SHIFT | size;
    /* acquire: pairs with the release in drain; the place has been read */
    if (RING - (written - atomic_load_explicit(&ring->read, memory_order_acquire)) < RECORD_MAX)
        return;
    put(ring, written, &head, sizeof(head));
    written += (uint32_t)sizeof(head);
    if (size != UNTOLD && size) {
        put(ring, written, key, size);
        written += size;
    }
    atomic_store_explicit(&ring->written, written, memory_order_release); /* release: pairs with the acquire in drain */
}

void near__hotring_read(struct near__reader *reader, const void *key, size_t key_size, enum near__local_result result)
{
    if (is_due(reader, result))
        note(reader->hotring, key, key_size, result == NEAR_LOCAL_HIT ? HITS : OTHERS);
}

struct record {
    uint32_t kind, key_size; /* the latter may be UNTOLD */
    unsigned char key[NEAR_HOT_KEY_MAX];
};

/* The record there; where the next one is. */
static uint32_t next(const struct near__hotring *ring, uint32_t at, struct record *ret)
{
    uint32_t head;
    take(ring, at, &head, sizeof(head));
    ret->kind = head >> KIND_SHIFT;
    ret->key_size = head & UNTOLD;
    at += (uint32_t)sizeof(head);
    if (ret->key_size == UNTOLD)
        return at;
    take(ring, at, ret->key, ret->key_size);
    return at + ret->key_size;
}

void near__hotkeys_drain(struct near__hotkeys *h, struct near__hotring *ring, uint64_t hits, uint64_t others)
{
    uint32_t read = atomic_load_explicit(&ring->read, memory_order_relaxed);       /* relaxed: ours, by tap_busy */
    uint32_t written = atomic_load_explicit(&ring->written, memory_order_acquire); /* acquire: as in note */
    uint64_t reads[KINDS] = {hits, others}, count[KINDS] = {0, 0}, since[KINDS];
    struct record record;
    for (uint32_t at = read; at != written; count[record.kind]++)
        at = next(ring, at, &record);
    for (unsigned kind = HITS; kind < KINDS; kind++) {
        since[kind] = reads[kind] > ring->reads[kind] ? reads[kind] - ring->reads[kind] : 0;
        if (count[kind]) /* otherwise its reads will be those of the next */
            ring->reads[kind] = reads[kind];
    }
    while (read != written) {
        read = next(ring, read, &record);
        uint64_t share = since[record.kind] / count[record.kind]--;
        since[record.kind] -= share;
        near__hotkeys_see(h, record.key, record.key_size, share);
    }
    atomic_store_explicit(&ring->read, read, memory_order_release); /* release: as in note */
}

/* ---------------------------------------------------------------- memory */

static size_t whole_lines(size_t size)
{
    return (size + 63) & ~(size_t)63;
}

struct near__hotkeys *near__hotkeys_create(const struct near__alloc *alloc, uint32_t keys, size_t *ret_cost)
{
    uint32_t counters = COUNTERS * keys < COUNTERS_MIN ? COUNTERS_MIN : COUNTERS * keys, chains = COUNTERS_MIN;
    while (chains < counters)
        chains *= 2;
    size_t head = whole_lines(sizeof(struct near__hotkeys)), counter = whole_lines(counters * sizeof(struct counter));
    size_t rank = whole_lines(counters * sizeof(struct rank)),
           size = head + counter + rank + (counters + chains) * sizeof(uint32_t);
    char *memory = near__alloc_zero(alloc, size);
    struct near__hotkeys *h = (struct near__hotkeys *)(void *)memory;
    if (!h)
        return NULL;
    *ret_cost = near__alloc_cost(alloc, memory, size);
    h->keys = keys;
    h->counters = counters;
    h->mask = chains - 1;
    h->window = WINDOW * counters < WINDOW_MIN ? WINDOW_MIN : WINDOW * counters;
    h->counter = (struct counter *)(void *)(memory + head);
    h->rank = (struct rank *)(void *)(memory + head + counter);
    h->heap = (uint32_t *)(void *)(memory + head + counter + rank);
    h->first = h->heap + counters;
    memset(h->first, 0xff, chains * sizeof(uint32_t));
    return h;
}

void near__hotkeys_destroy(const struct near__alloc *alloc, struct near__hotkeys *hot)
{
    near__free(alloc, hot);
}

/* ---------------------------------------------------------------- the heap */

static uint64_t count_at(const struct near__hotkeys *h, uint32_t place)
{
    return h->counter[h->heap[place]].count;
}

static void stand(struct near__hotkeys *h, uint32_t place, uint32_t c)
{
    h->heap[place] = c;
    h->counter[c].place = place;
}

static void sift_down(struct near__hotkeys *h, uint32_t place)
{
    uint32_t c = h->heap[place];
    for (uint32_t child = 2 * place + 1; child < h->used; child = 2 * place + 1) {
        child += child + 1 < h->used && count_at(h, child + 1) < count_at(h, child);
        if (count_at(h, child) >= h->counter[c].count)
            break;
        stand(h, place, h->heap[child]);
        place = child;
    }
    stand(h, place, c);
}

static void sift_up(struct near__hotkeys *h, uint32_t place)
{
    uint32_t c = h->heap[place];
    for (; place && count_at(h, (place - 1) / 2) > h->counter[c].count; place = (place - 1) / 2)
        stand(h, place, h->heap[(place - 1) / 2]);
    stand(h, place, c);
}

/* ---------------------------------------------------------------- counters */

static uint32_t *chain_of(struct near__hotkeys *h, uint64_t hash)
{
    return &h->first[hash & h->mask];
}

static uint32_t find(struct near__hotkeys *h, uint64_t hash, const void *key, size_t key_size)
{
    uint32_t c = *chain_of(h, hash);
    while (c != NIL && (h->counter[c].hash != hash || h->counter[c].key_size != key_size ||
                        memcmp(h->counter[c].key, key, key_size) != 0))
        c = h->counter[c].chain;
    return c;
}

static void unchain(struct near__hotkeys *h, uint32_t c)
{
    uint32_t *link = chain_of(h, h->counter[c].hash);
    while (*link != c)
        link = &h->counter[*link].chain;
    *link = h->counter[c].chain;
}

/* Gives the counter to a key. */
static void assign(struct near__hotkeys *h, uint32_t c, uint64_t hash, const void *key, size_t key_size)
{
    struct counter *counter = &h->counter[c];
    uint32_t *first = chain_of(h, hash);
    counter->hash = hash;
    counter->over = counter->count;
    counter->key_size = (uint32_t)key_size;
    memcpy(counter->key, key, key_size);
    counter->chain = *first;
    *first = c;
}

static void halve(struct near__hotkeys *h)
{
    h->samples = 0;
    h->reads /= 2;
    for (uint32_t c = 0; c < h->used; c++) { /* the heap stays one */
        h->counter[c].count /= 2;
        h->counter[c].over /= 2;
    }
}

void near__hotkeys_see(struct near__hotkeys *h, const void *key, size_t key_size, uint64_t reads)
{
    if (h->samples++ == h->window)
        halve(h);
    h->reads += reads;
    if (key_size > NEAR_HOT_KEY_MAX)
        return;
    uint64_t hash = near__hash(key, key_size, (uintptr_t)h);
    uint32_t c = find(h, hash, key, key_size);
    if (c == NIL && h->used < h->counters) {
        c = h->used++;
        assign(h, c, hash, key, key_size);
        h->counter[c].count = reads;
        stand(h, c, c);
        sift_up(h, c);
        return;
    }
    if (c == NIL) {
        c = h->heap[0];
        unchain(h, c);
        assign(h, c, hash, key, key_size);
    }
    h->counter[c].count += reads;
    sift_down(h, h->counter[c].place);
}

/* ---------------------------------------------------------------- the answer */

static int by_least(const void *a, const void *b)
{
    uint64_t x = ((const struct rank *)a)->least, y = ((const struct rank *)b)->least;
    return (x < y) - (x > y);
}

size_t near__hotkeys_top(struct near__hotkeys *h, size_t most, near_hot_key *ret_keys)
{
    size_t count = most < h->keys ? most : h->keys;
    for (uint32_t c = 0; c < h->used; c++)
        h->rank[c] = (struct rank){h->counter[c].count - h->counter[c].over, c};
    qsort(h->rank, h->used, sizeof(*h->rank), by_least);
    count = count < h->used ? count : h->used;
    for (size_t i = 0; i < count && h->reads; i++) {
        const struct counter *counter = &h->counter[h->rank[i].counter];
        ret_keys[i] = (near_hot_key){.share_min = (double)h->rank[i].least / (double)h->reads,
                                     .share_max = (double)counter->count / (double)h->reads,
                                     .key_size = counter->key_size};
        memcpy(ret_keys[i].key, counter->key, counter->key_size);
    }
    return h->reads ? count : 0;
}
