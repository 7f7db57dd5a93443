/* SPDX-License-Identifier: BSD-3-Clause
 * Writing to files of our own. */
#ifndef NEAR_BASE_FILE_H
#define NEAR_BASE_FILE_H
#include <stddef.h>
#include <stdint.h>

/* Writes all the bytes at the file's position, which is `at`.  0, or -1 with errno; then the file may hold a part.  At
 * the process's limit for files that is EFBIG, and no signal. */
int near__write_all(int fd, uint64_t at, const void *bytes, size_t size);

#endif
