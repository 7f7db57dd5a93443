/* SPDX-License-Identifier: BSD-3-Clause
 * One run in a process of its own: a fresh heap, and nothing of what ran before. */
#ifndef NEAR_BENCH_CHILD_H
#define NEAR_BENCH_CHILD_H
#include <stddef.h>
#include <sys/types.h>

/* fork; the child dies with this process.  Returns as fork does. */
pid_t bench_child_fork(void);
/* Waits for a child; "" or what was wrong about its end. */
void bench_child_wait(pid_t pid, char *error, size_t capacity);

/* Runs body(arg, result) in a child; result, cleared before, comes back through a pipe (size at most PIPE_BUF).  When
 * the child ends otherwise, error says how. */
void bench_child_run(void (*body)(const void *arg, void *result), const void *arg, void *result, size_t size,
                     char *error, size_t capacity);

#endif
