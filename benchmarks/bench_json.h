/* SPDX-License-Identifier: BSD-3-Clause
 * Writes JSON, element after element; name is NULL inside a list. */
#ifndef NEAR_BENCH_JSON_H
#define NEAR_BENCH_JSON_H
#include <stdint.h>
#include <stdio.h>

struct bench_json {
    FILE *out;
    unsigned depth;
    char end[16]; /* of what is open */
    int filled;   /* what is innermost has an element */
};
void bench_json_open(struct bench_json *json, const char *name, char bracket);
void bench_json_close(struct bench_json *json);
void bench_json_text(struct bench_json *json, const char *name, const char *text);
void bench_json_count(struct bench_json *json, const char *name, uint64_t number);
void bench_json_real(struct bench_json *json, const char *name, double number);

#endif
