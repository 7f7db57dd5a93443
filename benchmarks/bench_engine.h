/* SPDX-License-Identifier: BSD-3-Clause
 * What `local` compares: stores of bytes behind six functions.  Every engine copies values out, so that all do the same
 * work, and an engine is written as its own documentation recommends.
 *
 * get, set and mget are called by threads numbered 0 … config.threads-1; the rest belongs to one thread. */
#ifndef NEAR_BENCH_ENGINE_H
#define NEAR_BENCH_ENGINE_H
#include <stddef.h>
#include <stdint.h>

struct bench_key {
    const char *bytes;
    uint32_t size;
    uint32_t number; /* for engines that need no index */
};

/* Where one value of mget goes. */
struct bench_slot {
    void *buffer;
    size_t capacity;
    int64_t size; /* as get's result */
};

struct bench_engine_config {
    uint64_t keys;           /* how many different ones will come */
    uint64_t entries, bytes; /* limits; 0: none.  Engines that do not evict have none. */
    uint32_t key_size, value_size;
    unsigned threads;
    const char *socket; /* of the private redis-server, for engines that need it */
};

#define BENCH_ABSENT INT64_C(-1)
#define BENCH_BROKEN INT64_C(-2)

struct bench_engine {
    const char *name;
    const char *sentence;
    int evicts; /* keeps to its limits */
    int remote; /* works on config.socket, where the keys are already */
    int tends;  /* goes on in the background after it has been filled */

    /* The store, or NULL with a text in error. */
    void *(*open)(const struct bench_engine_config *config, char *error, size_t capacity);
    void (*close)(void *store);
    /* Copies the value into buffer: its size, BENCH_ABSENT or BENCH_BROKEN.  Values fit. */
    int64_t (*get)(void *store, unsigned thread, struct bench_key key, void *buffer, size_t capacity);
    /* 1 done, 0 no room for it at the moment (memory that waits for readers), -1 broken */
    int (*set)(void *store, unsigned thread, struct bench_key key, const void *value, size_t size);
    /* Many at once; NULL: the engine has nothing better than one get after the other. */
    void (*mget)(void *store, unsigned thread, const struct bench_key *keys, size_t count, struct bench_slot *slots);
    /* Bytes as the engine itself counts them, and how many entries are there. */
    uint64_t (*memory)(void *store, uint64_t *ret_entries);
};

extern const struct bench_engine bench_engine_nearcache, bench_engine_perishable, bench_engine_floor, bench_engine_line,
    bench_engine_ways, bench_engine_lfht, bench_engine_ck, bench_engine_cuckoo, bench_engine_uthash,
    bench_engine_sharded, bench_engine_hiredis;

/* Those that were built, ended by NULL. */
extern const struct bench_engine *const bench_engines[];
const struct bench_engine *bench_engine_find(const char *name, size_t size);

#endif
