/* SPDX-License-Identifier: BSD-3-Clause */
#include "bench_draw.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "bench.h"

int bench_dist_parse(const char *text, struct bench_dist *ret)
{
    struct bench_dist dist = {.shape = BENCH_UNIFORM};
    char *end = NULL;
    if (strcmp(text, "uniform") == 0) {
        *ret = dist;
        return 1;
    }
    if (strncmp(text, "zipf:", 5) == 0) {
        dist.shape = BENCH_ZIPF;
        dist.theta = strtod(text + 5, &end);
        if (end == text + 5 || *end || !(dist.theta > 0 && dist.theta <= 10))
            return 0;
    } else if (strncmp(text, "hotspot:", 8) == 0) {
        dist.shape = BENCH_HOTSPOT;
        dist.set = strtod(text + 8, &end);
        if (end == text + 8 || *end != ',')
            return 0;
        const char *ops = end + 1;
        dist.ops = strtod(ops, &end);
        if (end == ops || *end || !(dist.set > 0 && dist.set <= 1 && dist.ops >= 0 && dist.ops <= 1))
            return 0;
    } else {
        return 0;
    }
    *ret = dist;
    return 1;
}

/* ---------------------------------------------------------------- rejection-inversion
 *
 * h(x) = x^-theta; H is its integral, written so that theta = 1 is no special case: (e^t - 1) / t and log(1 + t) / t
 * are continued through t = 0. */

static double expm1_over(double t)
{
    return fabs(t) > 1e-8 ? expm1(t) / t : 1 + t / 2;
}
static double log1p_over(double t)
{
    return fabs(t) > 1e-8 ? log1p(t) / t : 1 - t / 2;
}
static double density(double theta, double x)
{
    return exp(-theta * log(x));
}
static double integral(double theta, double x)
{
    double logarithm = log(x);
    return expm1_over((1 - theta) * logarithm) * logarithm;
}
static double integral_inverse(double theta, double y)
{
    double t = y * (1 - theta);
    return exp(log1p_over(t < -1 ? -1 : t) * y);
}

static double fraction(uint64_t *state)
{
    return (double)(near__random_next(state) >> 11) * 0x1p-53;
}

static uint32_t zipf(const struct bench_draw *draw, uint64_t *state)
{
    double theta = draw->dist.theta;
    for (;;) {
        double u = draw->h_last + fraction(state) * (draw->h_first - draw->h_last);
        double x = integral_inverse(theta, u), k = floor(x + 0.5);
        k = k < 1 ? 1 : k > draw->count ? draw->count : k;
        if (k - x <= draw->shift || u >= integral(theta, k + 0.5) - density(theta, k))
            return (uint32_t)k - 1;
    }
}

uint32_t bench_draw_rank(const struct bench_draw *draw, uint64_t *state)
{
    if (draw->dist.shape == BENCH_ZIPF)
        return zipf(draw, state);
    if (draw->dist.shape == BENCH_UNIFORM || draw->hot == draw->count)
        return near__random_below(state, draw->count);
    if (fraction(state) < draw->dist.ops)
        return near__random_below(state, draw->hot);
    return draw->hot + near__random_below(state, draw->count - draw->hot);
}

/* ---------------------------------------------------------------- */

static void scatter(struct bench_draw *draw, uint64_t seed)
{
    draw->key = bench_alloc((size_t)draw->count * sizeof(*draw->key));
    for (uint32_t i = 0; i < draw->count; i++)
        draw->key[i] = i;
    for (uint32_t i = draw->count - 1; i > 0; i--) {
        uint32_t j = near__random_below(&seed, i + 1), other = draw->key[j];
        draw->key[j] = draw->key[i];
        draw->key[i] = other;
    }
}

void bench_draw_init(struct bench_draw *draw, const struct bench_dist *dist, uint32_t count, uint64_t seed)
{
    *draw = (struct bench_draw){.dist = *dist, .count = count};
    draw->hot = (uint32_t)ceil(dist->set * count);
    if (dist->shape == BENCH_ZIPF) {
        draw->h_first = integral(dist->theta, 1.5) - 1;
        draw->h_last = integral(dist->theta, count + 0.5);
        draw->shift = 2 - integral_inverse(dist->theta, integral(dist->theta, 2.5) - density(dist->theta, 2));
    }
    scatter(draw, seed);
}

void bench_draw_fini(struct bench_draw *draw)
{
    free(draw->key);
}
