/* SPDX-License-Identifier: BSD-3-Clause
 * A temporary folder with files that stand for others, such as the kernel's. */
#ifndef NEAR_TESTS_SUPPORT_FOLDER_H
#define NEAR_TESTS_SUPPORT_FOLDER_H
#include <stddef.h>

/* Makes an empty folder; path needs 64 bytes.  Asserts that it could. */
void folder_make(char *path, size_t size);
/* Replaces the file root/path, whose folders are made. */
void folder_write(const char *root, const char *path, const char *text);
void folder_unlink(const char *root, const char *path);
/* With all that is in it. */
void folder_remove(const char *root);

#endif
