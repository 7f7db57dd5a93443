/* SPDX-License-Identifier: BSD-3-Clause
 * What a fuzz target is: one function that takes any bytes, and aborts when a property does not hold.
 *
 * Built twice: with clang's libFuzzer (tests/fuzz/fuzz.sh, `make fuzz`), and with fuzz_driver.c by any compiler, which
 * is what `make check` runs: the seeds in corpus/, then a bounded number of random changes to them. */
#ifndef NEAR_TESTS_FUZZ_H
#define NEAR_TESTS_FUZZ_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(property)                                                                                           \
    do {                                                                                                               \
        if (!(property)) {                                                                                             \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #property);                              \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* Numbers drawn from the input, so that the fuzzer decides; 0 when it has ended. */
struct fuzz_draw {
    const uint8_t *at, *end;
};
static inline unsigned fuzz_byte(struct fuzz_draw *draw)
{
    return draw->at < draw->end ? *draw->at++ : 0;
}

/* The bytes as a string of their own, cut at the first NUL. */
static inline char *fuzz_text(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    if (!text)
        abort();
    for (size_t i = 0; i < size; i++)
        text[i] = (char)data[i];
    text[size] = 0;
    return text;
}

#endif
