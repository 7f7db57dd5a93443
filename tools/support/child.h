/* SPDX-License-Identifier: BSD-3-Clause
 * Processes that a program starts and that must not outlive it.
 *
 * Every one is told to die with its starter (PR_SET_PDEATHSIG).  They are all started by the main thread, because the
 * death of the *thread* that started a process is what the kernel looks at. */
#ifndef NEAR_SUPPORT_CHILD_H
#define NEAR_SUPPORT_CHILD_H
#include <sys/types.h>

/* Starts a program.  What it says goes to the file output (NULL: to our own standard error); with ret_pipe only its
 * errors do, and its standard output can be read from *ret_pipe.  The pid, or -1. */
pid_t process_start(const char *const *argv, const char *output, int *ret_pipe);
/* Waits up to timeout_ms for its end; its status as of waitpid, or -1 while it lives. */
int process_wait(pid_t pid, int timeout_ms);
/* SIGTERM, then SIGKILL after timeout_ms.  The status, or -1 when it had to be killed. */
int process_end(pid_t pid, int timeout_ms);

#endif
