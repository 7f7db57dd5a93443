/* SPDX-License-Identifier: BSD-3-Clause
 * The bytes of keys and values, and the operations of a run, all laid out before a clock runs. */
#ifndef NEAR_BENCH_KEYS_H
#define NEAR_BENCH_KEYS_H
#include "bench.h"
#include "bench_draw.h"

#define BENCH_KEY_SIZE_MIN 8u

/* Keys of one size: the number in hexadecimal, with filler before it. */
struct bench_keys {
    char *bytes;
    uint32_t count, size;
};
void bench_keys_init(struct bench_keys *keys, uint32_t count, uint32_t size);
void bench_keys_fini(struct bench_keys *keys);
static inline const char *bench_key_bytes(const struct bench_keys *keys, uint32_t number)
{
    return keys->bytes + (size_t)number * keys->size;
}

/* A value tells whose it is and which version: bytes 0–7 the key's number, 8–15 the version, the rest follows from
 * both. */
void bench_value_write(void *value, size_t size, uint64_t number, uint64_t version);
/* 1 when it is a whole value of that key, of any version. */
int bench_value_belongs(const void *value, size_t size, uint64_t number);

/* A word an operation: the key's number, and whether it is a write. */
#define BENCH_WRITE (UINT32_C(1) << 31)
#define BENCH_TAPE_MORE 8u /* words after the end, which repeat the first ones, so that one may look ahead */
struct bench_tape {
    uint32_t *word;
    uint32_t count; /* a power of two; it is played round and round */
};
/* How long a tape has to be: several times as long as there are keys, since it names no others when it is played again.
 * A shorter one would make a cache of few keys out of one of many, and one that holds all of it would hit for ever. */
uint32_t bench_tape_words(uint64_t keys);
/* writes: their share, 0 … 1.  Tapes with different seeds are independent. */
void bench_tape_init(struct bench_tape *tape, uint32_t count, const struct bench_draw *draw, double writes,
                     uint64_t seed);
void bench_tape_fini(struct bench_tape *tape);

#endif
