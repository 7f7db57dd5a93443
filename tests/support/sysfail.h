/* SPDX-License-Identifier: BSD-3-Clause
 * System calls that fail on request: as allocfail.h, for what the library asks of the kernel and of libc.
 *
 * tests/support/sysfail.syms renames those calls in a copy of the library (objcopy), so that they come here; the test's
 * own calls, and those of other libraries, stay what they are.  How a call fails is drawn from what it can really fail
 * with: an error, a part of what was asked for, the end of a stream, a wake-up for nothing.
 *
 *     uint64_t calls = sysfail_count(operation);            how many there are
 *     for (uint64_t n = 1; n <= calls; n++) {
 *         sysfail_at(n, seed);
 *         int status = operation();
 *         sysfail_off();
 *     }
 *
 * Threads: any number make calls; one arms and disarms. */
#ifndef NEAR_TESTS_SYSFAIL_H
#define NEAR_TESTS_SYSFAIL_H
#include <stdint.h>

/* The n-th call from now (1: the next one), of whatever thread, fails in a way that the seed chooses; the later ones
 * succeed. 0: none fails, all are counted. */
void sysfail_at(uint64_t n, uint64_t seed);
/* That one, and from then on every call of the same function in the same way (an EINTR, and others that only mean
 * "again", once in two calls). */
void sysfail_from(uint64_t n, uint64_t seed);
/* The n-th call of that function ("fdatasync", as in sysfail.c's table) fails with this error; with lasts, all later
 * ones too. */
void sysfail_function_at(const char *function, uint64_t n, int error, int lasts);
/* Besides what is armed, and not among sysfail_calls: each n-th call of another function (n, 2n, …) fails.  For what
 * several threads may try, whichever comes first: a fault that is armed when they have begun may come too late. */
void sysfail_function_every(const char *function, uint64_t n, int error);
/* Nothing fails any more. */
void sysfail_off(void);

uint64_t sysfail_calls(void);   /* since it was armed */
uint64_t sysfail_struck(void);  /* how many of them failed */
const char *sysfail_what(void); /* "recv: ECONNRESET"; "nothing" */

/* How often each function was called, and failed, since the program began; NULL past the end. */
const char *sysfail_function(unsigned index, uint64_t *ret_calls, uint64_t *ret_struck);

#endif
