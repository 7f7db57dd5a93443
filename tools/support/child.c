/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pipe2 */
#endif
#include "support/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void sleep_ms(int ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&ts, NULL);
}

/* In the child, between fork and exec, where only simple calls are allowed: the starter has threads. */
static void become(const char *const *argv, int output, pid_t parent)
{
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it died before that took hold */
        _exit(127);
    setpgid(0, 0); /* an interrupt at the terminal is for the starter, which then ends the others in good order */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    dup2(output, STDOUT_FILENO);
    execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

static void close_both(const int pipe_ends[2])
{
    if (pipe_ends[0] >= 0)
        close(pipe_ends[0]);
    if (pipe_ends[1] >= 0)
        close(pipe_ends[1]);
}

pid_t process_start(const char *const *argv, const char *output, int *ret_pipe)
{
    int pipe_ends[2] = {-1, -1}, errors;
    pid_t parent = getpid(), pid = -1;
    errors = output ? open(output, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (errors < 0)
        errors = output ? open("/dev/null", O_RDWR | O_CLOEXEC) : fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    if (errors >= 0 && (!ret_pipe || pipe2(pipe_ends, O_CLOEXEC) == 0) && (pid = fork()) == 0) {
        dup2(errors, STDERR_FILENO);
        become(argv, ret_pipe ? pipe_ends[1] : errors, parent);
    }
    if (errors >= 0)
        close(errors);
    if (pid > 0 && ret_pipe) {
        *ret_pipe = pipe_ends[0];
        pipe_ends[0] = -1;
    }
    close_both(pipe_ends);
    return pid;
}

int process_wait(pid_t pid, int timeout_ms)
{
    int status;
    for (int waited = 0;; waited += 5) {
        pid_t done = waitpid(pid, &status, WNOHANG);
        if (done == pid)
            return status;
        if ((done < 0 && errno != EINTR) || waited >= timeout_ms)
            return -1;
        sleep_ms(5);
    }
}

int process_end(pid_t pid, int timeout_ms)
{
    int status;
    kill(pid, SIGTERM);
    kill(pid, SIGCONT); /* it may be stopped */
    if ((status = process_wait(pid, timeout_ms)) != -1)
        return status;
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    return -1;
}
