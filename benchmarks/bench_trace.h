/* SPDX-License-Identifier: BSD-3-Clause
 * Recorded accesses, read into memory.
 *
 *      text            a line a request: the key, and after blanks its size in bytes if it has one
 *      oracleGeneral   libCacheSim's binary records of 24 bytes, little-endian: time (4), key (8), size (4), next
 *                     access (8)
 *
 * gzip, xz and zstd files are read through the programs of those names. */
#ifndef NEAR_BENCH_TRACE_H
#define NEAR_BENCH_TRACE_H
#include <stddef.h>
#include <stdint.h>

enum bench_format { BENCH_FORMAT_AUTO, BENCH_FORMAT_TEXT, BENCH_FORMAT_ORACLE };

struct bench_request {
    uint32_t key, size;
};
struct bench_trace {
    struct bench_request *request;
    size_t requests;
    char *bytes;   /* all distinct keys, one after the other */
    size_t *begin; /* of key k: begin[k] … begin[k + 1] */
    uint32_t distinct;
};

/* 0, or -1 with a text in error, which tells the file and, of one that is wrong, the line or record. */
int bench_trace_read(const char *path, enum bench_format format, struct bench_trace *ret, char *error, size_t capacity);
void bench_trace_free(struct bench_trace *trace);

#endif
