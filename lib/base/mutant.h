/* SPDX-License-Identifier: BSD-3-Clause
 * NEAR_MUTANT(NAME): 1 when the rule of that name is to be broken on purpose, so that the tests can show that they
 * notice.
 *
 * In the library that is installed it is the constant 0, and the compiler drops what depends on it
 * (tests/mutants/mutants_absent.sh looks).  Built with -DNEAR_MUTANTS (the library of tests/mutants alone) the
 * environment variable NEAR_MUTANT names the one that is on.  Built with -DNEAR_STEP_HOOK (tests of single files) the
 * test sets it: see local/step.h.  tests/mutants/mutants.list says which race each belongs to and which test must
 * notice it. */
#ifndef NEAR_BASE_MUTANT_H
#define NEAR_BASE_MUTANT_H

#if defined(NEAR_STEP_HOOK)
#define NEAR_MUTANT(name) (near__mutant == NEAR_MUTANT_##name)
#elif defined(NEAR_MUTANTS)
int near__mutant_is(const char *name); /* tests/mutants/mutant_switch.c */
#define NEAR_MUTANT(name) near__mutant_is(#name)
#else
#define NEAR_MUTANT(name) 0
#endif

#endif
