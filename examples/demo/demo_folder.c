/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE /* pipe2, O_PATH */
#include "demo_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void sleep_ms(int ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&ts, NULL);
}

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

/* Addresses of unix sockets hold 107 bytes; in a deeply nested build tree the folder is reached through a
 * descriptor. */
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
