/* SPDX-License-Identifier: BSD-3-Clause
 * Checks the checker: a program of the tests, never installed, whose library has one promise broken on purpose.  The
 * linker puts our functions in the place of some of the library's (ld's --wrap). */
#ifndef CHECK_SABOTAGE_H
#define CHECK_SABOTAGE_H

/* The number of a sabotage by its name, from 1; 0: unknown. */
int check_sabotage_find(const char *name);
/* From now on, in this process. */
void check_sabotage_begin(int number);

#endif
