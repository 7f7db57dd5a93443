/* SPDX-License-Identifier: BSD-3-Clause
 * Traces of accesses, as nearcache-bench reads them: a second look at the same bytes must count the same requests with
 * the same keys, and what cannot be read is refused with a text. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memfd_create */
#endif
#include <sys/mman.h>
#include <string.h>
#include <unistd.h>

#include "bench_trace.h"
#include "fuzz/fuzz.h"

/* Those are handed to gzip, xz or zstd, which are not ours to fuzz. */
static int is_packed(const uint8_t *data, size_t size)
{
    return size >= 2 && ((data[0] == 0x1f && data[1] == 0x8b) || (data[0] == 0xfd && data[1] == '7') ||
                         (data[0] == 0x28 && data[1] == 0xb5));
}

static void check_consistent(const struct bench_trace *trace)
{
    FUZZ_CHECK(trace->requests && trace->distinct && trace->begin[0] == 0);
    for (uint32_t k = 0; k < trace->distinct; k++)
        FUZZ_CHECK(trace->begin[k] <= trace->begin[k + 1]);
    for (size_t i = 0; i < trace->requests; i++)
        FUZZ_CHECK(trace->request[i].key < trace->distinct);
}

/* Line by line, without blanks: the i-th request has that key. */
static void compare_text(const struct bench_trace *trace, const char *text, size_t size)
{
    size_t request = 0;
    for (const char *line = text, *end = text + size, *next; line < end; line = next) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        next = stop ? stop + 1 : end;
        const char *from = line, *to;
        while (from < next && strchr(" \t\r\n", *from))
            from++;
        if (from == next)
            continue;
        FUZZ_CHECK(from == line && request < trace->requests);
        for (to = from; to < next && !strchr(" \t\r\n", *to);)
            to++;
        uint32_t key = trace->request[request++].key;
        FUZZ_CHECK(trace->begin[key + 1] - trace->begin[key] == (size_t)(to - from));
        FUZZ_CHECK(memcmp(trace->bytes + trace->begin[key], from, (size_t)(to - from)) == 0);
    }
    FUZZ_CHECK(request == trace->requests);
}

static void read_as(const char *path, enum bench_format format, const uint8_t *data, size_t size)
{
    struct bench_trace trace;
    char error[200] = "";
    int status = bench_trace_read(path, format, &trace, error, sizeof(error));
    FUZZ_CHECK(status == 0 || error[0]);
    if (status != 0)
        return;
    check_consistent(&trace);
    if (format == BENCH_FORMAT_ORACLE)
        FUZZ_CHECK(size % 24 == 0 && trace.requests == size / 24);
    if (format == BENCH_FORMAT_TEXT)
        compare_text(&trace, (const char *)data, size);
    bench_trace_free(&trace);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[64];
    if (is_packed(data, size))
        return 0;
    if (fd < 0) {
        fd = memfd_create("trace", MFD_CLOEXEC);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    }
    if (fd < 0 || ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
        return 0;
    read_as(path, BENCH_FORMAT_TEXT, data, size);
    read_as(path, BENCH_FORMAT_ORACLE, data, size);
    read_as(path, BENCH_FORMAT_AUTO, data, size);
    return 0;
}
