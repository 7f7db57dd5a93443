/* SPDX-License-Identifier: BSD-3-Clause
 * The processes of the demo and the folder they live in.
 *
 * Nothing may stay behind, whatever happens to the demo: every process is told to die with it (PR_SET_PDEATHSIG), and a
 * janitor process waits for its end to remove the folder.  All processes are started by the main thread, because the
 * death of the *thread* that started a process is what the kernel looks at. */
#ifndef DEMO_PROCESS_H
#define DEMO_PROCESS_H
#include <stddef.h>
#include <sys/types.h>

struct folder {
    char path[4096];  /* the real place */
    char base[4096];  /* the same for addresses of sockets, which must be short */
    int directory;    /* open, when base goes through it; otherwise -1 */
    int janitor_pipe;
    pid_t janitor;
};

/* Makes a folder inside parent (NULL: in the build tree, where this program lies), and starts its janitor.  -1 with a text
 * on stderr. */
int folder_open(struct folder *folder, const char *parent);
/* Has the janitor remove it and waits until it is done. */
void folder_close(struct folder *folder);
/* The folder in which this program lies, without libtool's .libs. */
int program_folder(char *path, size_t capacity);

/* Starts a program.  What it says goes to the file output; with ret_pipe only its errors do, and its standard output
 * can be read from *ret_pipe.  The pid, or -1. */
pid_t process_start(const char *const *argv, const char *output, int *ret_pipe);
/* Waits up to timeout_ms for its end; its status as of waitpid, or -1 while it lives. */
int process_wait(pid_t pid, int timeout_ms);
/* SIGTERM, then SIGKILL after timeout_ms.  The status, or -1 when it had to be killed. */
int process_end(pid_t pid, int timeout_ms);

#endif
