/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* program_invocation_short_name */
#endif
#include "loading/figures.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>

int64_t figures_now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

void figures_sleep_ms(unsigned ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

int figures_number(const char *text, unsigned least, unsigned most, unsigned *ret)
{
    char *end;
    errno = 0;
    unsigned long number = strtoul(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || number < least || number > most)
        return fprintf(stderr, "%s: %s is not a number from %u to %u\n", program_invocation_short_name, text, least,
                       most),
               -1;
    *ret = (unsigned)number;
    return 0;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

double figures_quantile_ms(uint32_t *us, size_t count, unsigned permille)
{
    if (!count)
        return 0;
    qsort(us, count, sizeof(*us), compare);
    size_t at = count * permille / 1000;
    return us[at < count ? at : count - 1] / 1000.0;
}

int figures_serves(near_cache *cache, near_error *error)
{
    int status = near_check(cache, 30000, error);
    return status == NEAR_OK ? near_wait_ready(cache, 30000, error) : status;
}

int figures_shared(const char *uri, near_error *error)
{
    if (strncasecmp(uri, "local:", 6) != 0)
        return NEAR_OK;
    snprintf(error->text, sizeof error->text, "%s: this example needs a remote tier that its caches share", uri);
    return error->status = NEAR_ERR_UNSUPPORTED;
}
