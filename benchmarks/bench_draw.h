/* SPDX-License-Identifier: BSD-3-Clause
 * Which key comes next: uniform, Zipf or a hot spot, over the keys 0 … count-1.
 *
 * Popularity has nothing to do with a key's number: ranks are scattered by a random permutation.  Zipf is exact, by
 * rejection-inversion (W. Hörmann, G. Derflinger, "Rejection-inversion to generate variates from monotone discrete
 * distributions", 1996), for any exponent above 0 and without a table. */
#ifndef NEAR_BENCH_DRAW_H
#define NEAR_BENCH_DRAW_H
#include <stdint.h>

enum bench_shape { BENCH_UNIFORM, BENCH_ZIPF, BENCH_HOTSPOT };

struct bench_dist {
    enum bench_shape shape;
    double theta;    /* of Zipf: rank r is drawn in proportion to r^-theta */
    double set, ops; /* of a hot spot: this share of the keys gets this share of the draws */
};

/* "uniform", "zipf:0.99", "hotspot:0.2,0.8"; 0 when the text is none of them. */
int bench_dist_parse(const char *text, struct bench_dist *ret);

struct bench_draw {
    struct bench_dist dist;
    uint32_t count, hot;
    uint32_t *key; /* of rank */
    double h_first, h_last, shift;
};

/* count > 0 keys.  Draws with the same seed scatter ranks in the same way. */
void bench_draw_init(struct bench_draw *draw, const struct bench_dist *dist, uint32_t count, uint64_t seed);
void bench_draw_fini(struct bench_draw *draw);
/* A rank, 0 being the most popular; state: the caller's random state.  Any number of threads with a state each. */
uint32_t bench_draw_rank(const struct bench_draw *draw, uint64_t *state);
static inline uint32_t bench_draw_key(const struct bench_draw *draw, uint64_t *state)
{
    return draw->key[bench_draw_rank(draw, state)];
}

#endif
