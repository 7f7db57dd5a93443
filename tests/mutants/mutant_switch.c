/* SPDX-License-Identifier: BSD-3-Clause
 * Which rule is broken (base/mutant.h), and which test runs.
 *
 * NEAR_MUTANT=NAME breaks one rule from the start of the program; NEAR_CASE=PATTERN makes cmocka run only the cases
 * that match.  A name that the program never asks about is found by mutants.sh, which compares the list with lib/. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/mutant.h"

static const char *broken = "";

__attribute__((constructor)) static void read_environment(void)
{
    const char *mutant = getenv("NEAR_MUTANT"), *only = getenv("NEAR_CASE");
    if (mutant)
        broken = mutant;
    if (only)
        cmocka_set_test_filter(only);
}

int near__mutant_is(const char *name)
{
    return strcmp(name, broken) == 0;
}
