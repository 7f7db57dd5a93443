/* SPDX-License-Identifier: BSD-3-Clause
 * The seed of a randomised test: NEAR_TEST_SEED when set, otherwise a new one; always printed, so that a failure
 * can be run again. */
#ifndef NEAR_TESTS_SEED_H
#define NEAR_TESTS_SEED_H
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t test_seed(void)
{
    const char *text = getenv("NEAR_TEST_SEED");
    uint64_t seed;
    if (text && *text) {
        seed = strtoull(text, NULL, 0);
    } else {
        struct timespec ts;
        clock_gettime(CLOCK_REALTIME, &ts);
        seed = (uint64_t)ts.tv_sec * UINT64_C(1000000007) ^ (uint64_t)ts.tv_nsec << 20 ^ (uint64_t)getpid();
    }
    fprintf(stderr, "NEAR_TEST_SEED=%" PRIu64 "\n", seed);
    return seed;
}

#endif
