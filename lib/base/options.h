/* SPDX-License-Identifier: BSD-3-Clause
 * The option table: one row an option gives its name, field, type, bounds, default and sentence; defaults, checks,
 * near_option_set, URI query, environment and the manual all come from that row. */
#ifndef NEAR_BASE_OPTIONS_H
#define NEAR_BASE_OPTIONS_H
#include "nearcache.h"
#include "base/alloc.h"

/* The row of an option by its name of that length; NULL: there is none. */
const near_option_info *near__option_find(const char *name, size_t length);

/* Of a caller's struct what must be known before anything else is done with it: its size, what lies beyond our fields,
 * and its allocator.  NULL is fine.  NEAR_OK or NEAR_ERR_OPTION. */
int near__options_check(const near_options *from, near_error *error);
/* Checks a caller's struct (any size: a smaller one gets defaults for the rest, a larger one must be zero beyond ours),
 * every number's range, choices and combinations, and copies it with its texts into *ret. */
int near__options_copy(const near_options *from, const struct near__alloc *alloc, near_options *ret, near_error *error);
void near__options_fini(near_options *options, const struct near__alloc *alloc);

#endif
