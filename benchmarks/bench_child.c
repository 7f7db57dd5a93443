/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pipe2 */
#endif
#include "bench_child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

pid_t bench_child_fork(void)
{
    pid_t parent = getpid();
    fflush(NULL); /* nothing is written twice */
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
    }
    return pid;
}

void bench_child_wait(pid_t pid, char *error, size_t capacity)
{
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    *error = 0;
    if (WIFSIGNALED(status))
        snprintf(error, capacity, "a process was ended by signal %d", WTERMSIG(status));
    else if (WEXITSTATUS(status))
        snprintf(error, capacity, "a process ended with status %d", WEXITSTATUS(status));
}

static ssize_t read_all(int fd, char *to, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t some = read(fd, to + done, size - done);
        if (some > 0)
            done += (size_t)some;
        else if (some == 0 || errno != EINTR)
            break;
    }
    return (ssize_t)done;
}

void bench_child_run(void (*body)(const void *arg, void *result), const void *arg, void *result, size_t size,
                     char *error, size_t capacity)
{
    int ends[2];
    pid_t pid = -1;
    *error = 0;
    memset(result, 0, size);
    if (pipe2(ends, O_CLOEXEC) == 0 && (pid = bench_child_fork()) < 0) {
        close(ends[0]);
        close(ends[1]);
    }
    if (pid < 0) {
        snprintf(error, capacity, "cannot start a process: %s", strerror(errno));
        return;
    }
    if (pid == 0) {
        body(arg, result);
        _exit(write(ends[1], result, size) == (ssize_t)size ? 0 : 1);
    }
    close(ends[1]);
    int complete = read_all(ends[0], result, size) == (ssize_t)size;
    close(ends[0]);
    bench_child_wait(pid, error, capacity);
    if (!complete && !*error)
        snprintf(error, capacity, "a process ended without a result");
}
