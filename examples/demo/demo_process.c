/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE /* pipe2 */
#include "demo_process.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "demo_board.h"

static void sleep_ms(int ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&ts, NULL);
}

/* ---------------------------------------------------------------- the folder */

int program_folder(char *path, size_t capacity)
{
    ssize_t size = readlink("/proc/self/exe", path, capacity - 1);
    char *slash;
    if (size <= 0)
        return -1;
    path[size] = 0;
    if (!(slash = strrchr(path, '/')))
        return -1;
    *slash = 0;
    if (slash - path > 6 && strcmp(slash - 6, "/.libs") == 0)
        slash[-6] = 0;
    return 0;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    (void)info;
    (void)kind;
    (void)walk;
    return remove(path), 0;
}

/* Sleeps until the demo lets go of the pipe, by closing it or by dying; then cleans up.  Whoever was told to die with
 * the demo may still be writing, so look again until the folder is really gone. */
static void janitor_main(const char *path, int pipe_end)
{
    char byte;
    struct stat info;
    setsid(); /* the terminal's signals are not for the janitor */
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    while (read(pipe_end, &byte, 1) < 0 && errno == EINTR)
        ;
    for (int i = 0; i < 100; i++) {
        nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        if (lstat(path, &info) < 0)
            break;
        sleep_ms(50);
    }
    _exit(0);
}

static int start_janitor(struct folder *folder)
{
    int pipe_ends[2];
    if (pipe2(pipe_ends, O_CLOEXEC) < 0)
        return -1;
    if ((folder->janitor = fork()) == 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        close(pipe_ends[1]);
        dup2(null, 0); /* whoever waits for the end of the demo's output must not wait for the janitor */
        dup2(null, 1);
        dup2(null, 2);
        janitor_main(folder->path, pipe_ends[0]);
    }
    close(pipe_ends[0]);
    folder->janitor_pipe = pipe_ends[1];
    return folder->janitor < 0 ? -1 : 0;
}

/* Addresses of unix sockets hold 107 bytes; in a deeply nested build tree the folder is reached through a descriptor. */
static int shorten_base(struct folder *folder)
{
    enum { LONGEST_NAME = 32 };
    if (strlen(folder->path) + LONGEST_NAME < sizeof((struct sockaddr_un *)0)->sun_path) {
        memcpy(folder->base, folder->path, sizeof folder->base);
        return 0;
    }
    if ((folder->directory = open(folder->path, O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
        return -1;
    snprintf(folder->base, sizeof folder->base, "/proc/%ld/fd/%d", (long)getpid(), folder->directory);
    return 0;
}

int folder_open(struct folder *folder, const char *parent)
{
    char own[PATH_MAX];
    int found = parent ? realpath(parent, own) != NULL : program_folder(own, sizeof own) == 0;
    *folder = (struct folder){.directory = -1, .janitor_pipe = -1};
    if (!found || (size_t)snprintf(folder->path, sizeof folder->path, "%s/demo.XXXXXX", own) >= sizeof folder->path) {
        fprintf(stderr, "nearcache-demo: cannot find a place for its files: %s\n", strerror(errno));
        return -1;
    }
    if (!mkdtemp(folder->path)) {
        fprintf(stderr, "nearcache-demo: cannot make the folder %s: %s\n", folder->path, strerror(errno));
        return -1;
    }
    if (start_janitor(folder) < 0) {
        fprintf(stderr, "nearcache-demo: cannot start a process: %s\n", strerror(errno));
        rmdir(folder->path);
        return -1;
    }
    if (shorten_base(folder) < 0) {
        fprintf(stderr, "nearcache-demo: cannot open %s: %s\n", folder->path, strerror(errno));
        folder_close(folder);
        return -1;
    }
    return 0;
}

void folder_close(struct folder *folder)
{
    if (folder->directory >= 0)
        close(folder->directory);
    if (folder->janitor_pipe >= 0)
        close(folder->janitor_pipe);
    if (folder->janitor > 0)
        waitpid(folder->janitor, NULL, 0);
    *folder = (struct folder){.directory = -1, .janitor_pipe = -1};
}

/* ---------------------------------------------------------------- processes */

/* In the child, between fork and exec, where only simple calls are allowed: the demo has threads. */
static void become(const char *const *argv, int output, pid_t parent)
{
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it died before that took hold */
        _exit(127);
    setpgid(0, 0); /* an interrupt at the terminal is for the demo, which then ends the others in good order */
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
    int pipe_ends[2] = {-1, -1}, errors = open("/dev/null", O_RDWR | O_CLOEXEC);
    pid_t parent = getpid(), pid = -1;
    if (output) {
        int log = open(output, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (log >= 0) {
            close(errors);
            errors = log;
        }
    }
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
