/* SPDX-License-Identifier: BSD-3-Clause */
#include "load/fresh.h"

#include "base/clock.h"

void near__pace_add(struct near__pace *pace, uint64_t hash, int64_t load_ns)
{
    _Atomic(int64_t) *at = &pace->load_ns[hash % NEAR_PACES];
    int64_t before = atomic_load_explicit(at, memory_order_relaxed);
    atomic_store_explicit(at, before ? before + (load_ns - before) / 8 : load_ns, memory_order_relaxed);
}

int64_t near__pace_get(struct near__pace *pace, uint64_t hash)
{
    return atomic_load_explicit(&pace->load_ns[hash % NEAR_PACES], memory_order_relaxed);
}

/* exp(-x) for x >= 0 without the mathematics library: 2^-k by halving, 2^-f by its series; error below 1e-4. */
static double exp_minus(double x)
{
    double r = x * 1.4426950408889634, power = 1;
    if (r >= 60)
        return 0;
    int k = (int)r;
    double f = r - k;
    while (k-- > 0)
        power *= 0.5;
    return power * (1 - f * (0.69314718 - f * (0.24022651 - f * (0.05550411 - f * (0.00961813 - f * 0.00133336)))));
}

int near__is_surely_fresh(int64_t left_ns, int64_t load_ns, uint32_t beta_permille)
{
    /* exp(-45) is nothing */
    return left_ns > 0 && (double)left_ns * 1000 > 45.0 * (double)load_ns * (double)beta_permille;
}

enum near__freshness near__fresh(int64_t now_ns, int64_t expires_ns, int64_t grace_ns, int64_t load_ns,
                                 uint32_t beta_permille, uint64_t random, int64_t *ret_age_ns)
{
    if (expires_ns == NEAR_NEVER)
        return NEAR_FRESH;
    int64_t left_ns = expires_ns - now_ns - grace_ns;
    if (left_ns <= 0) {
        *ret_age_ns = -left_ns;
        return NEAR_FRESH_OLD;
    }
    if (near__is_surely_fresh(left_ns, load_ns, beta_permille)) /* most hits end here */
        return NEAR_FRESH;
    double chance = exp_minus((double)left_ns * 1000 / ((double)load_ns * beta_permille));
    return (double)(random >> 11) * 0x1p-53 < chance ? NEAR_FRESH_EARLY : NEAR_FRESH;
}

int64_t near__jittered(int64_t ttl_ms, uint32_t jitter_permille, uint64_t random)
{
    uint64_t width = (uint64_t)ttl_ms / 1000 * jitter_permille + (uint64_t)ttl_ms % 1000 * jitter_permille / 1000;
    int64_t shorter = ttl_ms - (int64_t)(random % (width + 1));
    return shorter > 1 ? shorter : 1;
}
