/* SPDX-License-Identifier: BSD-3-Clause
 *
 * An LRU cache answers a read when fewer other keys than it has room for came after the last request for the same key.
 * So the distribution of that number, the *distance*, is the hit ratio at all sizes at once.  Distances within a sample
 * of the keys (all whose hash is below a threshold) are the true ones times the sample's share: SHARDS, FAST 2015, with
 * fixed memory.  When the sample has too many keys the threshold is halved, and so is what was counted before.
 *
 * Where keys come and go that alone would thin the sample for ever, down to a few keys among many that never come
 * again.  But it need not reach further back than the largest cache that is asked about, which would have evicted what
 * is there; the bound is that of a scaled-down simulation of one (Waldspurger, Saemundsson, Ahmad and Park, Cache
 * Modeling and Optimization using Miniature Simulations, USENIX ATC 2017).  A full sample that reaches that far forgets
 * its oldest key for a new one: what was forgotten and comes again is a miss in all such caches.  One that reaches much
 * too far (entries have become larger, or what is asked about smaller) takes twice as many keys from then on.  The new
 * ones are missing further back, which makes distances across that moment too short, until as many keys as the sample
 * has were forgotten; only then it may take more again.
 *
 *      order   a place for every request, in order; a key occupies that of its last one
 *      tree    Fenwick trees over the places: how many keys, and how many bytes, lie between two of them
 *      reads   by distance, in log-linear steps of 1/32: by entries and by bytes, soon ones and late ones
 *
 * When the places are used up the keys move together.
 *
 * The sample may have a few hot keys more or less than its share, and those have many of the reads.  But their reads
 * come soon after each other, less than NEAR_SOON reads of any keys.  So reads are told apart by that.  The sample
 * tells how many of all reads, which are counted elsewhere, are late ones, and their distances.  The rest are soon ones
 * (SHARDS_adj takes that for the hits of a cache of one entry), and of those bursts tell, in which all keys are seen
 * (bursts.c).  A sample of all keys tells everything by itself.
 *
 * Cost of a request: two walks of the tree, log2(places) steps each.  At 1024 keys 170 KB, at 4096 330, at 16384 just
 * under one MiB. */
#include "local/curve.h"

#include <string.h>

#include "local/between.h"

#define READS_MAX (1u << 20) /* of the sample, if nobody says otherwise: near__curve_forget_after */
#define TOO_FAR 4            /* times as far back as is asked about: then there may be more keys */
#define NIL UINT16_MAX       /* no key: there are fewer, and fewer places */

struct key {
    uint64_t hash;
    uint32_t bytes;
    uint32_t at;    /* its last request, in reads of all keys that were shown */
    uint32_t late;  /* reads of it that were, halved as the counts are */
    uint16_t place; /* 1 … places */
    uint16_t chain;
};
struct near__curve {
    uint32_t keys_max, places, mask;
    uint32_t count, last;            /* keys; the place used last */
    uint32_t oldest;                 /* no key has a place below */
    uint32_t reads_max;              /* counted: then all is halved */
    uint32_t forgotten;              /* keys, since it was last looked at whether there should be more */
    uint64_t far_entries, far_bytes; /* what is further back need not be remembered */
    uint64_t samples;                /* reads of the sample, ever */
    unsigned halvings;               /* the sample is 2^-halvings of the keys */
    double counted;                  /* reads of the sample, halved as the arrays are, */
    double expected;                 /* how many they should be, */
    double late;                     /* and how many came late */
    double late_squares;             /* of how many of each key did */
    struct near__distances of_soon, of_late, of_squares;
    struct near__bursts bursts;
    struct key *key;
    struct near__between *tree; /* [1 … places] */
    uint16_t *first;            /* of the chains */
    uint16_t *at;               /* the key at a place, or NIL */
};

/* ---------------------------------------------------------------- memory */

struct near__curve *near__curve_create(const struct near__alloc *alloc, uint32_t keys_max, size_t *ret_cost)
{
    uint32_t places = keys_max + keys_max / 2, chains = 64;
    while (2 * chains < keys_max)
        chains *= 2;
    size_t head = (sizeof(struct near__curve) + 63) & ~(size_t)63;
    size_t keys = keys_max * sizeof(struct key), tree = (places + 1) * sizeof(struct near__between);
    size_t size = head + keys + tree + (chains + places + 1) * sizeof(uint16_t);
    char *memory = near__alloc_zero(alloc, size);
    struct near__curve *c = (struct near__curve *)(void *)memory;
    if (!c)
        return NULL;
    *ret_cost = near__alloc_cost(alloc, memory, size);
    c->keys_max = keys_max;
    c->places = places;
    c->reads_max = READS_MAX;
    c->far_entries = c->far_bytes = UINT64_MAX;
    c->mask = chains - 1;
    c->key = (struct key *)(void *)(memory + head);
    c->tree = (struct near__between *)(void *)(memory + head + keys);
    c->first = (uint16_t *)(void *)(memory + head + keys + tree);
    c->at = c->first + chains;
    memset(c->first, 0xff, (chains + places + 1) * sizeof(uint16_t));
    return c;
}

void near__curve_destroy(const struct near__alloc *alloc, struct near__curve *curve)
{
    near__free(alloc, curve);
}

/* ---------------------------------------------------------------- places */

static void occupy(struct near__curve *c, uint32_t k, uint32_t place)
{
    c->key[k].place = (uint16_t)place;
    c->at[place] = (uint16_t)k;
    near__between_add(c->tree, c->places, place, 1, (int64_t)c->key[k].bytes);
}

static void vacate(struct near__curve *c, uint32_t k)
{
    near__between_add(c->tree, c->places, c->key[k].place, -1, -(int64_t)c->key[k].bytes);
    c->at[c->key[k].place] = NIL;
}

static void close_ranks(struct near__curve *c)
{
    uint32_t last = c->last;
    memset(c->tree, 0, (c->places + 1) * sizeof(*c->tree));
    c->last = 0;
    c->oldest = 1;
    for (uint32_t place = 1; place <= last; place++) {
        uint32_t k = c->at[place];
        c->at[place] = NIL;
        if (k != NIL)
            occupy(c, k, ++c->last);
    }
}

/* ---------------------------------------------------------------- keys */

static uint16_t *chain_of(struct near__curve *c, uint64_t hash)
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
    uint16_t k = (uint16_t)c->count++, *first = chain_of(c, hash);
    c->key[k] = (struct key){.hash = hash, .chain = *first};
    *first = k;
    return k;
}

/* What leads to key k. */
static uint16_t *link_to(struct near__curve *c, uint32_t k)
{
    uint16_t *link = chain_of(c, c->key[k].hash);
    while (*link != k)
        link = &c->key[*link].chain;
    return link;
}

/* The one whose last request is longest ago; the last key takes its number. */
static void forget_oldest(struct near__curve *c)
{
    while (c->at[c->oldest] == NIL)
        c->oldest++;
    uint16_t k = c->at[c->oldest], last = (uint16_t)(c->count - 1);
    vacate(c, k);
    *link_to(c, k) = c->key[k].chain;
    if (k != last) {
        *link_to(c, last) = k;
        c->at[c->key[last].place] = k;
        c->key[k] = c->key[last];
    }
    c->count--;
    c->forgotten++;
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
        c->at[c->key[kept].place] = (uint16_t)kept;
        uint16_t *first = chain_of(c, c->key[kept].hash);
        c->key[kept].chain = *first;
        *first = (uint16_t)kept++;
    }
    c->count = kept;
    close_ranks(c);
}

/* ---------------------------------------------------------------- what was counted */

static void divide_counts(struct near__curve *c, float by)
{
    near__distances_divide(&c->of_soon, by);
    near__distances_divide(&c->of_late, by);
    near__distances_divide(&c->of_squares, by * by);
    c->counted /= (double)by;
    c->expected /= (double)by;
    c->late /= (double)by;
    c->late_squares /= (double)(by * by);
    for (uint32_t k = 0; k < c->count; k++)
        c->key[k].late = (uint32_t)((float)c->key[k].late / by);
}

void near__curve_expect(struct near__curve *c, double reads)
{
    c->expected += reads;
}

double near__curve_share(const struct near__curve *c)
{
    return 1.0 / (double)(UINT64_C(1) << c->halvings);
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

struct near__bursts *near__curve_bursts(struct near__curve *c)
{
    return &c->bursts;
}

void near__curve_thin(struct near__curve *c)
{
    if (c->halvings >= 40)
        return;
    divide_counts(c, 2);
    c->halvings++;
    purge(c);
}

void near__curve_reach(struct near__curve *c, uint64_t entries, uint64_t bytes)
{
    c->far_entries = entries;
    c->far_bytes = bytes;
}

/* The sample reaches so many times as far back as it needs to. */
static int reaches(const struct near__curve *c, uint32_t times)
{
    struct near__between all = near__between_of(c->tree, 0, c->last);
    return all.keys / times >= c->far_entries >> c->halvings || all.bytes / times >= c->far_bytes >> c->halvings;
}

void near__curve_thicken(struct near__curve *c)
{
    if (c->halvings < 2 || c->forgotten < c->keys_max) /* half of the keys are as good as all */
        return;
    c->forgotten = 0;
    if (!reaches(c, TOO_FAR))
        return;
    divide_counts(c, 0.5F);
    c->halvings--;
}

/* A distance in the sample stands for that many times 2^halvings; the read itself is in the middle of its own step,
 * which is `step` long. */
static uint64_t scaled(const struct near__curve *c, uint64_t between, uint64_t step, uint64_t own)
{
    return (between << c->halvings) + (((step << c->halvings) - step) >> 1) + own;
}

/* A read of a key of the sample that is known: what came in between, itself included.  square: by how much that of its
 * key's late reads grows. */
static void count_distance(struct near__curve *c, uint32_t k, float square)
{
    struct near__between all = near__between_of(c->tree, 0, c->last),
                         others = near__between_of(c->tree, c->key[k].place, c->last);
    uint64_t entries = scaled(c, others.keys, 1, 1),
             bytes = scaled(c, others.bytes, all.bytes / all.keys, c->key[k].bytes);
    near__distances_count(square > 0 ? &c->of_late : &c->of_soon, entries, bytes, 1);
    if (square > 0)
        near__distances_count(&c->of_squares, entries, bytes, square);
}

static void count_read(struct near__curve *c, uint32_t k, uint32_t at)
{
    int is_soon = k != NIL && at - c->key[k].at <= NEAR_SOON;
    float square = is_soon ? 0 : k != NIL ? 2 * (float)c->key[k].late++ + 1 : 1;
    c->counted++;
    c->samples++;
    c->late += !is_soon;
    c->late_squares += (double)square;
    if (k != NIL)
        count_distance(c, k, square);
    if (c->counted >= c->reads_max)
        divide_counts(c, 2);
}

void near__curve_see(struct near__curve *c, uint64_t hash, enum near__seen seen, uint64_t bytes, uint64_t at)
{
    uint32_t k = find(c, hash);
    if (seen != NEAR_SEEN_FILL)
        count_read(c, k, (uint32_t)at);
    if (k == NIL && seen == NEAR_SEEN_MISS)
        return; /* it may not exist; if it does, a fill follows */
    if (k == NIL && c->count == c->keys_max && reaches(c, 1)) {
        forget_oldest(c);
    } else if (k == NIL && c->count == c->keys_max) {
        near__curve_thin(c);
        if (hash >= near__curve_below(c) || c->count == c->keys_max)
            return;
    }
    if (c->last == c->places)
        close_ranks(c);
    if (k == NIL) {
        k = add(c, hash);
        c->key[k].late = seen != NEAR_SEEN_FILL;
    } else {
        vacate(c, k);
    }
    if (bytes)
        c->key[k].bytes = bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX;
    c->key[k].at = (uint32_t)at;
    occupy(c, k, ++c->last);
}

void near__curve_see_burst(struct near__curve *c, uint64_t hash, enum near__seen seen, uint64_t bytes, uint64_t at)
{
    if (hash < near__curve_below(c))
        near__curve_see(c, hash, seen, bytes, at);
    near__bursts_see(&c->bursts, hash, seen, bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX);
}

/* ---------------------------------------------------------------- the answer */

/* More than chance makes of a sample that has some thousand reads: then the two are not about the same, since threads
 * have keys of their own (what one of them reads again soon is not soon among the reads of all), and the sample is
 * right. */
#define ODD 0.25

/* The share of late reads that bursts tell, and its variance. */
static double late_in_bursts(const struct near__curve *c, double *ret_variance)
{
    double late = 1 - near__bursts_share(&c->bursts, ret_variance), difference = late - c->late / c->expected;
    if (difference > ODD || difference < -ODD)
        *ret_variance += difference * difference;
    return late;
}

/* Late reads that are further apart than some size, as a share of all reads.  What may be wrong by chance has two
 * parts.  The sample was there all the time but has only some of the keys (Horvitz and Thompson, 1952); bursts have all
 * keys but were there some of the time, and tell only how many are late.  The less one may be wrong, the more it
 * counts. */
static double further(const struct near__curve *c, double nearer, double nearer_squares)
{
    double all = c->late, far = all - nearer, others = 1 - near__curve_share(c);
    double far_squares = c->late_squares > nearer_squares ? c->late_squares - nearer_squares : 0;
    double sampled = far / c->expected, by_keys = others * far_squares / (c->expected * c->expected), by_time;
    double late = late_in_bursts(c, &by_time), part = far / all;
    by_time = by_time * part * part + others * late * late *
                                          (far * far * nearer_squares + nearer * nearer * far_squares) /
                                          (all * all * all * all);
    return by_keys + by_time > 0 ? sampled + (late * part - sampled) * by_keys / (by_keys + by_time) : sampled;
}

/* The same by entries or by bytes. */
struct view {
    const float *of_soon, *of_late, *of_squares, *of_bursts;
};

static double ratio(const struct near__curve *c, const struct view *view, uint64_t size)
{
    double soon = near__distances_within(view->of_soon, size), late = near__distances_within(view->of_late, size);
    if (!c->halvings || c->expected < 1)
        return (soon + late) / c->counted;
    if (c->bursts.soon < 1 || c->late < 1) /* what is missing came soon (SHARDS_adj) */
        return 1 - (c->counted - soon - late) / c->expected;
    double missed = 1 - near__distances_within(view->of_bursts, size) / c->bursts.soon;
    return 1 - further(c, late, near__distances_within(view->of_squares, size)) - missed * (1 - further(c, 0, 0));
}

double near__curve_hit_ratio(const struct near__curve *c, uint64_t entries, uint64_t bytes)
{
    if (c->counted < 1)
        return -1;
    const struct view of_entries = {c->of_soon.by_entries, c->of_late.by_entries, c->of_squares.by_entries,
                                    c->bursts.of_soon.by_entries};
    const struct view of_bytes = {c->of_soon.by_bytes, c->of_late.by_bytes, c->of_squares.by_bytes,
                                  c->bursts.of_soon.by_bytes};
    double by_entries = ratio(c, &of_entries, entries), by_bytes = ratio(c, &of_bytes, bytes);
    double least = by_entries < by_bytes ? by_entries : by_bytes;
    return least < 0 ? 0 : least > 1 ? 1 : least;
}
