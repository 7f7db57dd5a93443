/* SPDX-License-Identifier: BSD-3-Clause
 * How many keys, and how many bytes, lie between two of the places 1 … places: a Fenwick tree (Fenwick, 1994), of which
 * [0] is not used.  Either takes log2(places) steps. */
#ifndef NEAR_LOCAL_BETWEEN_H
#define NEAR_LOCAL_BETWEEN_H
#include <stdint.h>

struct near__between {
    uint64_t bytes;
    uint32_t keys;
};

/* One key more, or less, at a place, with its bytes. */
static inline void near__between_add(struct near__between *tree, uint32_t places, uint32_t place, int keys,
                                     int64_t bytes)
{
    for (; place <= places; place += place & -place) {
        tree[place].keys += (uint32_t)keys;
        tree[place].bytes += (uint64_t)bytes;
    }
}

/* Behind place `after`, up to and including `last`. */
static inline struct near__between near__between_of(const struct near__between *tree, uint32_t after, uint32_t last)
{
    struct near__between sum = {0, 0};
    for (; last; last -= last & -last) {
        sum.keys += tree[last].keys;
        sum.bytes += tree[last].bytes;
    }
    for (; after; after -= after & -after) {
        sum.keys -= tree[after].keys;
        sum.bytes -= tree[after].bytes;
    }
    return sum;
}

#endif
