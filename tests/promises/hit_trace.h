/* SPDX-License-Identifier: BSD-3-Clause
 * Runs a function in a child process one instruction at a time and says what its instructions were. */
#ifndef NEAR_TESTS_HIT_TRACE_H
#define NEAR_TESTS_HIT_TRACE_H
#include <stdint.h>

struct hit_trace {
    uint64_t instructions;
    uint64_t locked;       /* lock prefix, or xchg with memory */
    uint64_t system_calls; /* syscall, sysenter, int 0x80 */
    uint64_t clock_calls;  /* of these, clock_gettime: the vDSO could not tell the time itself */
    uint64_t first_bad;    /* address of the first that is locked or a call, 0: none */
};

/* prepare runs at full speed, then traced(arg) step by step.  0, or -1 when tracing is not possible here (then say so
 * and skip), or -2 when the child did not end well. */
int hit_trace(void (*prepare)(void *arg), void (*traced)(void *arg), void *arg, struct hit_trace *ret);

#endif
