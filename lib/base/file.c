/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/file.h"

#include <errno.h>
#include <sys/resource.h>
#include <unistd.h>

/* Whether a write up to there would raise SIGXFSZ, which ends a program that does not expect it. */
static int is_beyond_limit(uint64_t end)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && end > limit.rlim_cur;
}

int near__write_all(int fd, uint64_t at, const void *bytes, size_t size)
{
    if (is_beyond_limit(at + size)) {
        errno = EFBIG;
        return -1;
    }
    for (const char *from = bytes; size;) {
        ssize_t n = write(fd, from, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        from += n;
        size -= (size_t)n;
    }
    return 0;
}
