/* SPDX-License-Identifier: BSD-3-Clause */
#ifdef __x86_64__
#pragma GCC target("avx2") /* as with -mavx2; clang goes on without */
#endif
#include "local/wide_registers.h"

typedef uint64_t wide __attribute__((vector_size(32), aligned(8), may_alias));

int wide_registers_are_used(void)
{
#ifdef __AVX__
    return 1;
#else
    return 0;
#endif
}

void wide_numbers_across_look(const struct near__bucket *bucket, uint64_t tag, const uint64_t in[4], uint64_t out[4])
{
    wide all = *(const wide *)(const void *)in + 1;
    near__bucket_look(bucket, tag, NEAR_WIDTH_HALF);
    *(wide *)(void *)out = all;
}

void wide_numbers_across_copy(void *to, const void *from, size_t size, const uint64_t in[4], uint64_t out[4])
{
    wide all = *(const wide *)(const void *)in + 1;
    near__copy_widely(to, from, size, NEAR_WIDTH_HALF);
    *(wide *)(void *)out = all;
}
