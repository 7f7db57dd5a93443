/* SPDX-License-Identifier: BSD-3-Clause
 * Threads of the library's own. */
#ifndef NEAR_BASE_THREAD_H
#define NEAR_BASE_THREAD_H
#include <pthread.h>

/* Every signal is blocked in it: the host's signal policy is its own (R53).  0, or an errno. */
int near__thread_start(pthread_t *thread, void *(*main)(void *), void *arg);
/* Names the calling thread, as debuggers and /proc show it; 15 characters at the most. */
void near__thread_name(const char *name);

#endif
