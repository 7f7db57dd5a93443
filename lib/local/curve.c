/* SPDX-License-Identifier: BSD-3-Clause
 *
 * An LRU cache answers a read when fewer other keys than it has room for came after the last request for the same key.  So the
 * distribution of that number, the *distance*, is the hit ratio at all sizes at once.  Distances within a sample of the keys (all whose
 * hash is below a threshold) are the true ones times the sample's share: SHARDS, FAST 2015, with fixed memory.  When the sample
 * has too many keys the threshold is halved, and so is what was counted before.
 *
 *      order   a place for every request, in order; a key occupies that of its last one
 *      tree    Fenwick trees over the places: how many keys, and how many bytes, lie between two of them
 *      reads   by distance, in log-linear steps of 1/32: one array by entries, one by bytes
 *
 * When the places are used up the keys move together.
 *
 * The sample may have a few hot keys more or less than its share.  How many reads it should have is known, since all reads are counted
 * elsewhere; what has to be found is at which distances the missing ones were.  SHARDS_adj takes them all for distance 0.  Here they
 * are taken for what makes samples differ: in a sum over keys of which each is in the sample or not, a key that was read c times
 * contributes c squared to the variance of the reads, and c times its hits up to a distance to their covariance with the hits there.
 * So of each missing read cross(distance) / all the crosses are hits (a control variate): `met` adds for each read how often
 * its key had been read before, which is half of c times, by distance; `met_all` the same for all reads, misses included.  Where a few hot keys
 * have most of the reads, that is where their distances are.
 *
 * Cost of a request: two walks of the tree, log2(places) steps each.  At 4096 keys 310 KB, at 16384 one MiB. */
#include "local/curve.h"

#include <string.h>

#define STEPS_BITS 5
#define STEPS (1u << STEPS_BITS)
#define BUCKETS (STEPS * (64 - STEPS_BITS + 1))
#define READS_MAX (1u << 20) /* of the sample, if nobody says otherwise: near__curve_forget_after */
#define SIZE_LIMIT (UINT64_C(1) << 60) /* room enough for everything */
#define NIL UINT32_MAX

struct key {
    uint64_t hash;
    uint32_t bytes;
    uint32_t place; /* 1 … places */
    uint32_t chain;
    uint32_t reads; /* halved as the counts are */
};
struct sum {
    uint64_t bytes;
    uint32_t keys;
};

struct near__curve {
    uint32_t keys_max, places, mask;
    uint32_t count, last; /* keys; the place used last */
    uint32_t reads_max;   /* counted: then all is halved */
    uint64_t samples;     /* reads of the sample, ever */
    unsigned halvings;    /* the sample is 2^-halvings of the keys */
    double counted;       /* reads of the sample, halved as the arrays are */
    double expected;      /* how many they should be, up to then */
    struct near__curve_seen then;
    double met_all;
    double by_entries[BUCKETS], by_bytes[BUCKETS];
    float met_entries[BUCKETS], met_bytes[BUCKETS];
    struct key *key;
    struct sum *tree;    /* [1 … places] */
    uint32_t *first;     /* of the chains */
    uint32_t *at;        /* the key at a place, or NIL */
};

/* ---------------------------------------------------------------- memory */

struct near__curve *near__curve_create(const struct near__alloc *alloc, uint32_t keys_max, size_t *ret_cost)
{
    uint32_t places = keys_max + keys_max / 2, chains = 64;
    while (2 * chains < keys_max)
        chains *= 2;
    size_t head = (sizeof(struct near__curve) + 63) & ~(size_t)63;
    size_t keys = keys_max * sizeof(struct key), tree = (places + 1) * sizeof(struct sum);
    size_t size = head + keys + tree + (chains + places + 1) * sizeof(uint32_t);
    char *memory = near__alloc_zero(alloc, size);
    struct near__curve *c = (struct near__curve *)(void *)memory;
    if (!c)
        return NULL;
    *ret_cost = near__alloc_cost(alloc, memory, size);
    c->keys_max = keys_max;
    c->places = places;
    c->reads_max = READS_MAX;
    c->mask = chains - 1;
    c->key = (struct key *)(void *)(memory + head);
    c->tree = (struct sum *)(void *)(memory + head + keys);
    c->first = (uint32_t *)(void *)(memory + head + keys + tree);
    c->at = c->first + chains;
    memset(c->first, 0xff, (chains + places + 1) * sizeof(uint32_t));
    return c;
}

void near__curve_destroy(const struct near__alloc *alloc, struct near__curve *curve)
{
    near__free(alloc, curve);
}

/* ---------------------------------------------------------------- places */

static void tree_add(struct near__curve *c, uint32_t place, int32_t keys, int64_t bytes)
{
    for (; place <= c->places; place += place & -place) {
        c->tree[place].keys += (uint32_t)keys;
        c->tree[place].bytes += (uint64_t)bytes;
    }
}

/* Up to and including place. */
static struct sum tree_sum(const struct near__curve *c, uint32_t place)
{
    struct sum sum = {0, 0};
    for (; place; place -= place & -place) {
        sum.keys += c->tree[place].keys;
        sum.bytes += c->tree[place].bytes;
    }
    return sum;
}

static void occupy(struct near__curve *c, uint32_t k, uint32_t place)
{
    c->key[k].place = place;
    c->at[place] = k;
    tree_add(c, place, 1, (int64_t)c->key[k].bytes);
}

static void vacate(struct near__curve *c, uint32_t k)
{
    tree_add(c, c->key[k].place, -1, -(int64_t)c->key[k].bytes);
    c->at[c->key[k].place] = NIL;
}

static void close_ranks(struct near__curve *c)
{
    uint32_t last = c->last;
    memset(c->tree, 0, (c->places + 1) * sizeof(*c->tree));
    c->last = 0;
    for (uint32_t place = 1; place <= last; place++) {
        uint32_t k = c->at[place];
        c->at[place] = NIL;
        if (k != NIL)
            occupy(c, k, ++c->last);
    }
}

/* ---------------------------------------------------------------- keys */

static uint32_t *chain_of(struct near__curve *c, uint64_t hash)
{
    return &c->first[(hash >> 16) & c->mask];
}

static uint32_t find(struct near__curve *c, uint64_t hash)
{
    uint32_t k = *chain_of(c, hash);
    while (k != NIL && c->key[k].hash != hash)
        k = c->key[k].chain;
    return k;
}

static uint32_t add(struct near__curve *c, uint64_t hash)
{
    uint32_t k = c->count++, *first = chain_of(c, hash);
    c->key[k] = (struct key){.hash = hash, .chain = *first};
    *first = k;
    return k;
}

/* Keeps the keys below the threshold, in their order. */
static void purge(struct near__curve *c)
{
    uint64_t below = near__curve_below(c);
    uint32_t kept = 0;
    memset(c->first, 0xff, ((size_t)c->mask + 1) * sizeof(*c->first));
    for (uint32_t k = 0; k < c->count; k++) {
        if (c->key[k].hash >= below) {
            c->at[c->key[k].place] = NIL;
            continue;
        }
        c->key[kept] = c->key[k];
        c->at[c->key[kept].place] = kept;
        uint32_t *first = chain_of(c, c->key[kept].hash);
        c->key[kept].chain = *first;
        *first = kept++;
    }
    c->count = kept;
    close_ranks(c);
}

/* ---------------------------------------------------------------- what was counted */

static double share(const struct near__curve *c)
{
    return 1.0 / (double)(UINT64_C(1) << c->halvings);
}

static void halve_counts(struct near__curve *c)
{
    for (uint32_t i = 0; i < BUCKETS; i++) {
        c->by_entries[i] /= 2;
        c->by_bytes[i] /= 2;
        c->met_entries[i] /= 4;
        c->met_bytes[i] /= 4;
    }
    c->met_all /= 4;
    for (uint32_t k = 0; k < c->count; k++)
        c->key[k].reads /= 2;
    c->counted /= 2;
    c->expected /= 2;
}

/* A request that met a full ring is as if it had not been. */
static double expected_now(const struct near__curve *c, struct near__curve_seen now)
{
    double more = (double)(now.reads - c->then.reads) * share(c) - (double)(now.lost - c->then.lost);
    return c->expected + (now.reads > c->then.reads && more > 0 ? more : 0);
}

static void expect(struct near__curve *c, struct near__curve_seen now)
{
    c->expected = expected_now(c, now);
    c->then = now.reads > c->then.reads ? now : c->then;
}

uint64_t near__curve_below(const struct near__curve *c)
{
    return UINT64_MAX >> c->halvings;
}
uint32_t near__curve_keys(const struct near__curve *c)
{
    return c->count;
}
uint64_t near__curve_samples(const struct near__curve *c)
{
    return c->samples;
}
void near__curve_forget_after(struct near__curve *c, uint32_t reads)
{
    c->reads_max = reads;
}

void near__curve_thin(struct near__curve *c, struct near__curve_seen now)
{
    if (c->halvings >= 40)
        return;
    expect(c, now);
    halve_counts(c);
    c->halvings++;
    purge(c);
}

static unsigned bucket_of(uint64_t distance)
{
    if (distance < STEPS)
        return (unsigned)distance;
    unsigned shift = 63 - STEPS_BITS - (unsigned)__builtin_clzll(distance);
    return (shift << STEPS_BITS) + (unsigned)(distance >> shift);
}
static double bucket_start(unsigned bucket)
{
    if (bucket < 2 * STEPS)
        return bucket;
    unsigned shift = (bucket >> STEPS_BITS) - 1;
    return (double)((uint64_t)(STEPS + (bucket & (STEPS - 1))) << shift);
}

/* A distance in the sample stands for that many times 2^halvings; the read itself is in the middle of its own step. */
static uint64_t scaled(const struct near__curve *c, uint64_t between, uint64_t own)
{
    return (between << c->halvings) + ((own << c->halvings) + own) / 2;
}

/* A read of a key of the sample that is known: what came in between, itself included. */
static void count_distance(struct near__curve *c, uint32_t k)
{
    struct sum all = tree_sum(c, c->last), before = tree_sum(c, c->key[k].place - 1);
    uint64_t bytes = c->key[k].bytes;
    unsigned by_entries = bucket_of(scaled(c, (uint64_t)(all.keys - before.keys) - 1, 1));
    unsigned by_bytes = bucket_of(scaled(c, all.bytes - before.bytes - bytes, bytes));
    float met = (float)c->key[k].reads + 0.5f;
    c->by_entries[by_entries]++;
    c->by_bytes[by_bytes]++;
    c->met_entries[by_entries] += met;
    c->met_bytes[by_bytes] += met;
}

void near__curve_see(struct near__curve *c, uint64_t hash, enum near__seen seen, uint64_t bytes,
                     struct near__curve_seen now)
{
    uint32_t k = find(c, hash);
    if (seen != NEAR_SEEN_FILL) {
        c->counted++;
        c->samples++;
        c->met_all += k != NIL ? c->key[k].reads + 0.5 : 0.5;
        if (k != NIL)
            count_distance(c, k);
        if (c->counted >= c->reads_max) {
            expect(c, now);
            halve_counts(c);
        }
    }
    if (k == NIL && seen == NEAR_SEEN_MISS)
        return; /* it may not exist; if it does, a fill follows */
    if (k == NIL && c->count == c->keys_max) {
        near__curve_thin(c, now);
        if (hash >= near__curve_below(c) || c->count == c->keys_max)
            return;
    }
    if (c->last == c->places)
        close_ranks(c);
    if (k == NIL)
        k = add(c, hash);
    else
        vacate(c, k);
    if (bytes)
        c->key[k].bytes = bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX;
    c->key[k].reads += seen != NEAR_SEEN_FILL;
    occupy(c, k, ++c->last);
}

/* ---------------------------------------------------------------- the answer */

/* Reads with a distance of at most size; within a step they are spread evenly.  missing: reads that the sample should have in addition. */
static double within(const struct near__curve *c, const double *reads, const float *met, uint64_t size, double missing)
{
    size = size < SIZE_LIMIT ? size : SIZE_LIMIT;
    unsigned last = bucket_of(size);
    double start = bucket_start(last), part = ((double)size - start + 1) / (bucket_start(last + 1) - start);
    double sum = 0, each = missing / c->met_all; /* below 0: the sample has too many */
    for (unsigned i = 0; i <= last; i++) {
        double here = reads[i] + each * (double)met[i];
        if (here > 0)
            sum += i < last ? here : part * here;
    }
    return sum;
}

double near__curve_hit_ratio(const struct near__curve *c, uint64_t entries, uint64_t bytes,
                             struct near__curve_seen now)
{
    double expected = expected_now(c, now);
    if (c->counted < 1 || expected < 1)
        return -1;
    double missing = expected - c->counted;
    double hits = within(c, c->by_entries, c->met_entries, entries, missing);
    double hits_by_bytes = within(c, c->by_bytes, c->met_bytes, bytes, missing);
    double ratio = (hits < hits_by_bytes ? hits : hits_by_bytes) / expected;
    return ratio < 0 ? 0 : ratio > 1 ? 1 : ratio;
}
