/* SPDX-License-Identifier: BSD-3-Clause
 * Messages to the caller's log function.  Never prints.  Rate-limited per call site (one a second, then a count). */
#ifndef NEAR_BASE_LOG_H
#define NEAR_BASE_LOG_H
#include "nearcache.h"
#include "base/clock.h"

enum { NEAR_LOG_ERROR = 3, NEAR_LOG_WARNING = 4, NEAR_LOG_NOTICE = 5, NEAR_LOG_INFO = 6, NEAR_LOG_DEBUG = 7 };

struct near__log {
    near_log_fn fn; /* NULL: silent */
    void *arg;
    int level;
    const struct near__clock *clock;
};

/* Callers hold no lock.  component: "core", "local", "remote", "coherence", "load". */
void near__log(const struct near__log *log, int level, const char *component, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Fills error (may be NULL) and returns status, so that `return near__fail(error, NEAR_ERR_URI, "…")` reads well. */
int near__fail(near_error *error, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
