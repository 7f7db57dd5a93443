/* SPDX-License-Identifier: BSD-3-Clause
 * The folder in which the demo's processes live.  Nothing may stay behind, whatever happens to the demo: a janitor
 * process waits for its end to remove the folder. */
#ifndef DEMO_FOLDER_H
#define DEMO_FOLDER_H
#include <stddef.h>
#include <sys/types.h>

struct folder {
    char path[4096]; /* the real place */
    char base[4096]; /* the same for addresses of sockets, which must be short */
    int directory;   /* open, when base goes through it; otherwise -1 */
    int janitor_pipe;
    pid_t janitor;
};

/* Makes a folder inside parent (NULL: in the build tree, where this program lies), and starts its janitor.  -1 with a
 * text on stderr. */
int folder_open(struct folder *folder, const char *parent);
/* Has the janitor remove it and waits until it is done. */
void folder_close(struct folder *folder);
/* The folder in which this program lies, without libtool's .libs. */
int program_folder(char *path, size_t capacity);

#endif
