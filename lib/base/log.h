/* SPDX-License-Identifier: BSD-3-Clause
 * Messages to the caller's log function.  Never prints.  Rate-limited per call site (one a second, then a count). */
#ifndef NEAR_BASE_LOG_H
#define NEAR_BASE_LOG_H
#include <stdatomic.h>
#include <stdint.h>
#include "nearcache.h"
#include "base/clock.h"

enum { NEAR_LOG_ERROR = 3, NEAR_LOG_WARNING = 4, NEAR_LOG_NOTICE = 5, NEAR_LOG_INFO = 6, NEAR_LOG_DEBUG = 7 };

/* A call site, known by the address of its format. */
struct near__log_site {
    _Atomic(const char *) format; /* NULL: free; never changes afterwards */
    _Atomic(int64_t) passed_ns;   /* when a message passed last; 0: never */
    _Atomic(uint64_t) held_back;  /* messages since then */
};
#define NEAR_LOG_SITES 64 /* further ones go unlimited; the library has about forty */

/* Set the first four members; the rest begins as zeros.  Never define one as a const object: the limits live in it. */
struct near__log {
    near_log_fn fn; /* NULL: silent */
    void *arg;
    int level;
    const struct near__clock *clock; /* NULL: no rate limit */
    struct near__log_site sites[NEAR_LOG_SITES];
};

/* Callers hold no lock.  component: "core", "local", "remote", "coherence", "load". */
void near__log(const struct near__log *log, int level, const char *component, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Fills error (may be NULL) and returns status, so that `return near__fail(error, NEAR_ERR_URI, "…")` reads well. */
int near__fail(near_error *error, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
