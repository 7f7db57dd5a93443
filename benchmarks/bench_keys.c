/* SPDX-License-Identifier: BSD-3-Clause */
#include "bench_keys.h"

#include <stdlib.h>
#include <string.h>

#include "base/random.h"

void bench_keys_init(struct bench_keys *keys, uint32_t count, uint32_t size)
{
    static const char digits[] = "0123456789abcdef";
    *keys = (struct bench_keys){.count = count, .size = size};
    keys->bytes = bench_alloc((size_t)count * size);
    memset(keys->bytes, 'k', (size_t)count * size);
    for (uint32_t number = 0; number < count; number++) {
        char *end = keys->bytes + (size_t)(number + 1) * size;
        for (unsigned i = 0; i < 8; i++)
            *--end = digits[number >> (4 * i) & 15];
    }
}

void bench_keys_fini(struct bench_keys *keys)
{
    free(keys->bytes);
}

static unsigned char filler(uint64_t number, uint64_t version, size_t at)
{
    return (unsigned char)(number + 31 * version + 7 * at);
}

void bench_value_write(void *value, size_t size, uint64_t number, uint64_t version)
{
    uint64_t head[2] = {number, version};
    unsigned char *bytes = value;
    memcpy(bytes, head, size < sizeof(head) ? size : sizeof(head));
    for (size_t i = sizeof(head); i < size; i++)
        bytes[i] = filler(number, version, i);
}

int bench_value_belongs(const void *value, size_t size, uint64_t number)
{
    uint64_t head[2] = {number, 0};
    const unsigned char *bytes = value;
    if (memcmp(bytes, head, size < sizeof(*head) ? size : sizeof(*head)) != 0)
        return 0;
    if (size > sizeof(*head))
        memcpy(&head[1], bytes + sizeof(*head), (size < sizeof(head) ? size : sizeof(head)) - sizeof(*head));
    for (size_t i = sizeof(head); i < size; i++) {
        if (bytes[i] != filler(number, head[1], i))
            return 0;
    }
    return 1;
}

#define WORDS_MIN (UINT32_C(1) << 16)
#define WORDS_MAX (UINT32_C(1) << 30)
#define WORDS_OFTEN (UINT32_C(1) << 20) /* up to which there are OFTEN words a key, beyond it SELDOM */
#define OFTEN 16
#define SELDOM 4

uint32_t bench_tape_words(uint64_t keys)
{
    uint32_t words = WORDS_MIN;
    while (words < WORDS_MAX && words < keys * (words < WORDS_OFTEN ? OFTEN : SELDOM))
        words *= 2;
    return words;
}

void bench_tape_init(struct bench_tape *tape, uint32_t count, const struct bench_draw *draw, double writes,
                     uint64_t seed)
{
    uint64_t state = seed, limit = (uint64_t)(writes * 0x1p32);
    *tape = (struct bench_tape){.count = count,
                                .word = bench_alloc(((size_t)count + BENCH_TAPE_MORE) * sizeof(*tape->word))};
    for (uint32_t i = 0; i < count; i++) {
        uint32_t write = near__random_next(&state) >> 32 < limit ? BENCH_WRITE : 0;
        tape->word[i] = bench_draw_key(draw, &state) | write;
    }
    for (uint32_t i = 0; i < BENCH_TAPE_MORE; i++)
        tape->word[count + i] = tape->word[i % count];
}

void bench_tape_fini(struct bench_tape *tape)
{
    free(tape->word);
}
