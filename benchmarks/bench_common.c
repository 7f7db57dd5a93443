/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

void bench_say(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fputs("nearcache-bench: ", stderr);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
}

void bench_progress(const struct bench_common *common, const char *format, ...)
{
    va_list list;
    if (!common->progress)
        return;
    va_start(list, format);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
}

void *bench_alloc(size_t size)
{
    void *memory = calloc(1, size ? size : 1);
    if (!memory) {
        bench_say("out of memory (%zu bytes)", size);
        exit(BENCH_FAILED);
    }
    return memory;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *numbers, size_t count)
{
    if (!count)
        return 0;
    qsort(numbers, count, sizeof(*numbers), compare);
    return (numbers[(count - 1) / 2] + numbers[count / 2]) / 2;
}
