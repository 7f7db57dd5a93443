/* SPDX-License-Identifier: BSD-3-Clause
 * A worker: a process with a cache and threads that read and write.  Returns the process's exit status. */
#ifndef CHECK_WORKER_H
#define CHECK_WORKER_H
int check_worker_main(int board_fd, unsigned process);
#endif
