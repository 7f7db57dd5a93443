/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Set dueling, the processors' way of choosing between two policies, lets some sets follow one and some the other, and
 * compares their misses.  With hundreds of entries, not millions, two such groups differ more by the keys that happen
 * to be in them than by their policies.  So here both policies get the same keys: all whose hash is below a threshold,
 * in caches that are as much smaller as the sample is (the idea of Miniature Simulations, ATC 2017).  Up to
 * `entries_max` entries the sample is everything.
 *
 * What counts is reads that one of the two answers and the other does not.  `lead` is how many more S3-FIFO answers,
 * `noise` how many such reads there were; were both as good, lead would wander by about the root of noise.  A verdict
 * needs three times that.  Both are halved now and then, so that what was long ago is forgotten.
 *
 * A key is a node, in the list of the LRU cache, in one of three lists of the other one, or both:
 *
 *      lists: LRU | SMALL  MAIN  GHOST         heads are the nodes 0 … 3; what is in none is free
 *
 * The rules are those of queues.c and evict.c, exact here. */
#include "local/shadow.h"

#include <string.h>

enum { LRU, SMALL, MAIN, GHOST, HEADS };
#define NOWHERE HEADS
#define NIL UINT16_MAX

#define SHARES 8
#define WORTH_MAX 2
#define NOISE_MAX 1024
#define SIGMAS 3

struct link {
    uint16_t newer, older;
};
struct node {
    uint64_t hash;
    struct link in[2];     /* [0]: of LRU, [1]: of SMALL, MAIN or GHOST */
    uint32_t queued, used; /* the other cache's fills then; used 0: not since it was queued */
    uint16_t chain;
    uint8_t in_lru, where, worth;
};

struct near__shadow {
    uint32_t entries_max, entries; /* entries: that each cache may hold now */
    unsigned halvings;             /* the sample is 2^-halvings of the keys */
    uint32_t count[HEADS];
    uint32_t fills;
    int64_t lead, noise;
    struct near__shadow_tally tally;
    uint32_t nodes, mask;
    uint16_t free;
    uint16_t *first; /* of the chains */
    struct node node[];
};

/* ---------------------------------------------------------------- nodes */

struct near__shadow *near__shadow_create(const struct near__alloc *alloc, uint32_t entries, size_t *ret_cost)
{
    uint32_t nodes = HEADS + 3 * (entries + 1), chains = 64;
    while (chains < nodes)
        chains *= 2;
    size_t size = sizeof(struct near__shadow) + nodes * sizeof(struct node) + chains * sizeof(uint16_t);
    struct near__shadow *s = nodes < NIL ? near__alloc_zero(alloc, size) : NULL;
    if (!s)
        return NULL;
    *ret_cost = near__alloc_cost(alloc, s, size);
    s->entries_max = entries;
    s->entries = 1;
    s->nodes = nodes;
    s->mask = chains - 1;
    s->first = (uint16_t *)(void *)&s->node[nodes];
    memset(s->first, 0xff, chains * sizeof(uint16_t));
    for (uint16_t i = 0; i < HEADS; i++)
        s->node[i].in[i != LRU] = (struct link){i, i};
    for (uint32_t i = HEADS; i < nodes; i++)
        s->node[i].chain = i + 1 < nodes ? (uint16_t)(i + 1) : NIL;
    s->free = HEADS;
    return s;
}

void near__shadow_destroy(const struct near__alloc *alloc, struct near__shadow *shadow)
{
    near__free(alloc, shadow);
}

static uint16_t *chain_of(struct near__shadow *s, uint64_t hash)
{
    return &s->first[(hash >> 16) & s->mask];
}

static uint16_t find(struct near__shadow *s, uint64_t hash)
{
    uint16_t i = *chain_of(s, hash);
    while (i != NIL && s->node[i].hash != hash)
        i = s->node[i].chain;
    return i;
}

/* Both caches and the ghosts together never have more keys than there are nodes. */
static uint16_t add(struct near__shadow *s, uint64_t hash)
{
    uint16_t i = s->free, *first = chain_of(s, hash);
    s->free = s->node[i].chain;
    s->node[i] = (struct node){.hash = hash, .where = NOWHERE, .chain = *first};
    *first = i;
    return i;
}

static void drop_if_nowhere(struct near__shadow *s, uint16_t i)
{
    if (s->node[i].in_lru || s->node[i].where != NOWHERE)
        return;
    uint16_t *at = chain_of(s, s->node[i].hash);
    while (*at != i)
        at = &s->node[*at].chain;
    *at = s->node[i].chain;
    s->node[i].chain = s->free;
    s->free = i;
}

/* ---------------------------------------------------------------- lists */

static void unlink_from(struct near__shadow *s, unsigned list, uint16_t i)
{
    unsigned l = list != LRU;
    struct link link = s->node[i].in[l];
    s->node[link.newer].in[l].older = link.older;
    s->node[link.older].in[l].newer = link.newer;
    s->count[list]--;
}

static void push(struct near__shadow *s, unsigned list, uint16_t i)
{
    unsigned l = list != LRU;
    uint16_t head = (uint16_t)list, newest = s->node[head].in[l].older;
    s->node[i].in[l] = (struct link){.newer = head, .older = newest};
    s->node[newest].in[l].newer = i;
    s->node[head].in[l].older = i;
    s->count[list]++;
}

static uint16_t oldest(const struct near__shadow *s, unsigned list)
{
    return s->node[list].in[list != LRU].newer;
}

/* ---------------------------------------------------------------- the two caches */

static void leave_lru(struct near__shadow *s, uint16_t i)
{
    unlink_from(s, LRU, i);
    s->node[i].in_lru = 0;
    drop_if_nowhere(s, i);
}

static void fill_lru(struct near__shadow *s, uint16_t i)
{
    if (s->node[i].in_lru)
        unlink_from(s, LRU, i);
    s->node[i].in_lru = 1;
    push(s, LRU, i);
    while (s->count[LRU] > s->entries)
        leave_lru(s, oldest(s, LRU));
}

static void put(struct near__shadow *s, unsigned list, uint16_t i)
{
    struct node *node = &s->node[i];
    if (node->where != NOWHERE)
        unlink_from(s, node->where, i);
    node->where = (uint8_t)list;
    node->queued = s->fills;
    node->used = 0;
    push(s, list, i);
}

static void forget(struct near__shadow *s, uint16_t i)
{
    unlink_from(s, s->node[i].where, i);
    s->node[i].where = NOWHERE;
    drop_if_nowhere(s, i);
}

static void turn_small(struct near__shadow *s)
{
    uint16_t i = oldest(s, SMALL);
    struct node *node = &s->node[i];
    if (node->used && (node->used - node->queued) * 2 * SHARES > s->entries) {
        node->worth = 0;
        put(s, MAIN, i);
        return;
    }
    put(s, GHOST, i);
    while (s->count[GHOST] > s->entries - s->entries / 10)
        forget(s, oldest(s, GHOST));
}

static void turn_main(struct near__shadow *s)
{
    uint16_t i = oldest(s, MAIN);
    struct node *node = &s->node[i];
    if (!node->used && !node->worth) {
        forget(s, i);
        return;
    }
    if (!node->used)
        node->worth--;
    else if (node->worth < WORTH_MAX)
        node->worth++;
    put(s, MAIN, i);
}

static void make_room(struct near__shadow *s)
{
    while (s->count[SMALL] + s->count[MAIN] >= s->entries) {
        if (s->count[SMALL] * (SHARES - 1) >= s->count[MAIN])
            turn_small(s);
        else
            turn_main(s);
    }
}

static void use(struct near__shadow *s, struct node *node)
{
    node->used = s->fills + (s->fills == 0);
}

static void fill_s3fifo(struct near__shadow *s, uint16_t i)
{
    struct node *node = &s->node[i];
    if (node->where == SMALL || node->where == MAIN) {
        use(s, node);
        return;
    }
    unsigned list = node->where == GHOST ? MAIN : SMALL;
    if (list == MAIN) {
        unlink_from(s, GHOST, i); /* before others become ghosts and push it out */
        node->where = NOWHERE;
    }
    s->fills++;
    make_room(s);
    node->worth = 0;
    put(s, list, i);
}

/* ---------------------------------------------------------------- the sample */

uint64_t near__shadow_below(const struct near__shadow *s)
{
    return UINT64_MAX >> s->halvings;
}

/* Forgets the keys that are no longer of the sample. */
static void thin(struct near__shadow *s)
{
    uint64_t below = near__shadow_below(s);
    for (uint16_t i = HEADS; i < s->nodes; i++) {
        struct node *node = &s->node[i];
        int is_free = !node->in_lru && node->where == NOWHERE;
        if (is_free || node->hash < below || node->where < SMALL)
            continue;
        if (node->where != NOWHERE) {
            unlink_from(s, node->where, i);
            node->where = NOWHERE;
        }
        if (node->in_lru)
            leave_lru(s, i);
        else
            drop_if_nowhere(s, i);
    }
}

void near__shadow_scale(struct near__shadow *s, uint64_t entries)
{
    while (entries >> s->halvings > s->entries_max) {
        s->halvings++;
        thin(s);
    }
    while (s->halvings && entries >> s->halvings < s->entries_max / 4)
        s->halvings--;
    s->entries = (uint32_t)(entries >> s->halvings);
    if (s->entries < 1)
        s->entries = 1;
    while (s->count[LRU] > s->entries)
        leave_lru(s, oldest(s, LRU));
    while (s->count[SMALL] + s->count[MAIN] > s->entries)
        forget(s, oldest(s, s->count[SMALL] ? SMALL : MAIN));
    while (s->count[GHOST] > s->entries)
        forget(s, oldest(s, GHOST));
}

/* ---------------------------------------------------------------- what is seen */

static void judge(struct near__shadow *s, int lru, int s3fifo)
{
    s->tally.reads++;
    s->tally.lru_hits += (uint64_t)lru;
    s->tally.s3fifo_hits += (uint64_t)s3fifo;
    if (lru == s3fifo)
        return;
    s->lead += s3fifo - lru;
    if (++s->noise >= NOISE_MAX) {
        s->noise /= 2;
        s->lead /= 2;
    }
}

void near__shadow_see(struct near__shadow *s, uint64_t hash, enum near__seen seen)
{
    uint16_t i = find(s, hash);
    int lru = i != NIL && s->node[i].in_lru;
    int s3fifo = i != NIL && (s->node[i].where == SMALL || s->node[i].where == MAIN);
    if (seen != NEAR_SEEN_FILL)
        judge(s, lru, s3fifo);
    if (seen == NEAR_SEEN_MISS && !lru && !s3fifo)
        return;
    if (i == NIL)
        i = add(s, hash);
    if (lru || seen != NEAR_SEEN_MISS)
        fill_lru(s, i);
    if (s3fifo || seen != NEAR_SEEN_MISS)
        fill_s3fifo(s, i);
}

int near__shadow_verdict(const struct near__shadow *s)
{
    if (s->lead * s->lead <= SIGMAS * SIGMAS * s->noise)
        return 0;
    return s->lead > 0 ? 1 : -1;
}

struct near__shadow_tally near__shadow_tally(const struct near__shadow *s)
{
    return s->tally;
}
