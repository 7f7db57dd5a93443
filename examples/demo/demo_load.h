/* SPDX-License-Identifier: BSD-3-Clause
 * The demo's load inside a server: threads that call the library the way the server's own workers do. */
#ifndef DEMO_LOAD_H
#define DEMO_LOAD_H
#include <nearcache.h>

struct demo_load;

/* spec is "PROCESS:PATH": this server's number, and the board (demo_board.h) that all processes share.
 * NULL when that makes no sense. */
struct demo_load *demo_load_start(near_cache *cache, const char *spec);
/* Ends and joins the threads.  NULL is fine. */
void demo_load_stop(struct demo_load *load);

#endif
