/* SPDX-License-Identifier: BSD-3-Clause
 * For test_wide.c, in a file of its own because its code is made for a processor that not everybody has. */
#ifndef NEAR_TESTS_LOCAL_WIDE_REGISTERS_H
#define NEAR_TESTS_LOCAL_WIDE_REGISTERS_H
#include <stdint.h>
#include "local/hit.h"

int wide_registers_are_used(void); /* by this compiler, if it is told to */
/* Each adds one to four numbers in a wide register, and stores them behind the assembler for halves. */
void wide_numbers_across_look(const struct near__bucket *bucket, uint64_t tag, const uint64_t in[4], uint64_t out[4]);
void wide_numbers_across_copy(void *to, const void *from, size_t size, const uint64_t in[4], uint64_t out[4]);

#endif
