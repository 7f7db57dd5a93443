/* SPDX-License-Identifier: BSD-3-Clause
 * The records: this machine's Debian packages and their files; where there are none, a generated catalogue. */
#ifndef DEMO_CATALOGUE_H
#define DEMO_CATALOGUE_H
#include <stddef.h>
#include <stdint.h>

struct catalogue_entry {
    uint32_t key_offset, key_size, body_offset, body_size;
};

struct catalogue {
    char *text;
    size_t text_size, text_capacity;
    struct catalogue_entry *entries;
    uint32_t count, capacity;
    uint32_t packages, files, generated;
    int failed; /* no memory */
};

/* Collects at most wanted records and shuffles them.  0, or -1 without memory. */
int catalogue_collect(struct catalogue *catalogue, uint32_t wanted, uint64_t seed);
void catalogue_fini(struct catalogue *catalogue);

#endif
