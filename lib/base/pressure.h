/* SPDX-License-Identifier: BSD-3-Clause
 * How short of memory is this process?  Read from the kernel's files; the essay is in pressure.c.
 * One thread at a time.  Opens, reads and closes some files at each look; allocates nothing. */
#ifndef NEAR_BASE_PRESSURE_H
#define NEAR_BASE_PRESSURE_H
#include <stdint.h>

#define NEAR_PRESSURE_NO_LIMIT UINT64_MAX

/* What was found at the last look, so that the next can tell what came since. */
struct near__pressure {
    const char *root;  /* put before every path: "" but in tests; not copied */
    int64_t looked_ns; /* 0: not yet */
    uint64_t stalled_us, throttled;
    uint32_t stalled_from; /* whose file it was: a near__pressure_source; 0: none was read */
    uint32_t groups;       /* that throttled is the sum of; 0: none was read */
};
enum near__pressure_source { NEAR_PRESSURE_OF_GROUP = 1, NEAR_PRESSURE_OF_SYSTEM = 2 };

struct near__pressure_level {
    /* bytes, of the control group that is nearest to its limit; limit NEAR_PRESSURE_NO_LIMIT: none has one */
    uint64_t used, limit;
    uint64_t throttled;        /* times that a limit was met since the last look */
    uint32_t stalled_permille; /* of the time since the last look somebody waited for memory */
    uint32_t known;            /* 1: at least one of the files could be read */
};

void near__pressure_init(struct near__pressure *pressure, const char *root);
/* now_ns: of a monotonic clock.  What cannot be read or understood is left at no limit, 0 and 0. */
void near__pressure_look(struct near__pressure *pressure, int64_t now_ns, struct near__pressure_level *ret);

#endif
