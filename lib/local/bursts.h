/* SPDX-License-Identifier: BSD-3-Clause
 * Distances of what is read again soon, from all requests of a thread for a while; the essay is in bursts.c.  One
 * thread at a time. */
#ifndef NEAR_LOCAL_BURSTS_H
#define NEAR_LOCAL_BURSTS_H
#include <stdint.h>
#include "local/between.h"
#include "local/distances.h"
#include "local/shadow.h"

#define NEAR_BURST 2048u /* requests, half of which are fills where nothing is found */
#define NEAR_SOON 512u   /* reads, after which it is not soon any more */

/* A key of a burst. */
struct near__met {
    uint32_t bytes;
    uint16_t place; /* the request that used it last, and 1; 0: it may not exist */
    uint16_t read;  /* how many reads there were by then */
};

/* For one burst that is looked at.  It is too much for the stack of who fills. */
struct near__burst {
    uint16_t first[2 * NEAR_BURST]; /* by hash: the first request of a key, and 1; 0: none */
    struct near__met met[NEAR_BURST];
    struct near__between tree[NEAR_BURST + 1]; /* over the requests: each key at its last one */
};

struct near__bursts {
    uint32_t count; /* requests of the burst under way */
    uint64_t hash[NEAR_BURST];
    uint32_t bytes[NEAR_BURST];
    uint8_t seen[NEAR_BURST]; /* an enum near__seen */
    struct near__burst work;
    /* of all bursts, halved as their distances are */
    double bursts, reads; /* that tell whether reads are soon ones, */
    /* which of these are, and the squares of their shares, each as many times as its burst has reads */
    double soon, squares;
    struct near__distances of_soon;
};

/* The next request of a burst; bytes: what its entry takes, 0: not known.  There must be room. */
void near__bursts_see(struct near__bursts *bursts, uint64_t hash, enum near__seen seen, uint32_t bytes);
static inline int near__bursts_is_full(const struct near__bursts *bursts)
{
    return bursts->count == NEAR_BURST;
}
/* The burst is over: what there is of it is learnt, and the next one may begin. */
void near__bursts_learn(struct near__bursts *bursts);
/* The share of soon reads, and the square of how far from true that may be by chance; 1: nothing is known. */
double near__bursts_share(const struct near__bursts *bursts, double *ret_variance);

#endif
