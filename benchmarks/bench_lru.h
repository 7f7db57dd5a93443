/* SPDX-License-Identifier: BSD-3-Clause
 * Exact least-recently-used over keys that are small numbers: what sampling is measured against.  One thread. */
#ifndef NEAR_BENCH_LRU_H
#define NEAR_BENCH_LRU_H
#include <stdint.h>

struct bench_lru {
    uint64_t entries_max, bytes_max; /* 0: no limit */
    uint64_t entries, bytes;
    uint32_t keys;           /* also the end of the list */
    uint32_t *newer, *older; /* newer[k] == k: not there */
    uint64_t *size;
};

void bench_lru_init(struct bench_lru *lru, uint32_t keys, uint64_t entries_max, uint64_t bytes_max);
void bench_lru_fini(struct bench_lru *lru);
/* 1: the key was there and is now the latest; 0: it was not.  Brings nothing in. */
int bench_lru_get(struct bench_lru *lru, uint32_t key);
/* Brings a key in that is not there; what is too large for the whole stays out. */
void bench_lru_put(struct bench_lru *lru, uint32_t key, uint64_t size);

#endif
