/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A ring through `keys`, the place that is no key: older[keys] is the latest, newer[keys] the oldest. */
#include "bench_lru.h"

#include <stdlib.h>

#include "bench.h"

void bench_lru_init(struct bench_lru *lru, uint32_t keys, uint64_t entries_max, uint64_t bytes_max)
{
    *lru = (struct bench_lru){.entries_max = entries_max, .bytes_max = bytes_max, .keys = keys};
    lru->newer = bench_alloc(((size_t)keys + 1) * sizeof(*lru->newer));
    lru->older = bench_alloc(((size_t)keys + 1) * sizeof(*lru->older));
    lru->size = bench_alloc(((size_t)keys + 1) * sizeof(*lru->size));
    for (uint32_t key = 0; key <= keys; key++)
        lru->newer[key] = lru->older[key] = key;
}

void bench_lru_fini(struct bench_lru *lru)
{
    free(lru->newer);
    free(lru->older);
    free(lru->size);
}

static void take_out(struct bench_lru *lru, uint32_t key)
{
    lru->older[lru->newer[key]] = lru->older[key];
    lru->newer[lru->older[key]] = lru->newer[key];
    lru->newer[key] = lru->older[key] = key;
}

static void put_first(struct bench_lru *lru, uint32_t key)
{
    uint32_t first = lru->older[lru->keys];
    lru->older[key] = first;
    lru->newer[key] = lru->keys;
    lru->newer[first] = key;
    lru->older[lru->keys] = key;
}

int bench_lru_get(struct bench_lru *lru, uint32_t key)
{
    if (lru->newer[key] == key)
        return 0;
    take_out(lru, key);
    put_first(lru, key);
    return 1;
}

void bench_lru_put(struct bench_lru *lru, uint32_t key, uint64_t size)
{
    if (lru->bytes_max && size > lru->bytes_max)
        return;
    put_first(lru, key);
    lru->size[key] = size;
    lru->entries++;
    lru->bytes += size;
    while ((lru->entries_max && lru->entries > lru->entries_max) || (lru->bytes_max && lru->bytes > lru->bytes_max)) {
        uint32_t oldest = lru->newer[lru->keys];
        take_out(lru, oldest);
        lru->entries--;
        lru->bytes -= lru->size[oldest];
    }
}
