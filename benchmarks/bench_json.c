/* SPDX-License-Identifier: BSD-3-Clause */
#include "bench_json.h"

#include <inttypes.h>
#include <math.h>

#include "base/utf8.h"

/* Bytes that are not UTF-8 (a command line may hold any) become question marks. */
static void quote(FILE *out, const char *text)
{
    const unsigned char *byte = (const unsigned char *)text;
    fputc('"', out);
    while (*byte) {
        unsigned size = near__utf8_size(byte);
        if (!size)
            fputc('?', out);
        else if (*byte == '"' || *byte == '\\')
            fprintf(out, "\\%c", *byte);
        else if (*byte < 0x20)
            fprintf(out, "\\u%04x", *byte);
        else
            fwrite(byte, 1, size, out);
        byte += size ? size : 1;
    }
    fputc('"', out);
}

static void begin(struct bench_json *json, const char *name)
{
    if (json->depth) {
        fputs(json->filled ? ",\n" : "\n", json->out);
        fprintf(json->out, "%*s", (int)json->depth * 2, "");
    }
    json->filled = 1;
    if (name) {
        quote(json->out, name);
        fputs(": ", json->out);
    }
}

void bench_json_open(struct bench_json *json, const char *name, char bracket)
{
    begin(json, name);
    fputc(bracket, json->out);
    json->end[json->depth++] = bracket == '{' ? '}' : ']';
    json->filled = 0;
}

void bench_json_close(struct bench_json *json)
{
    json->depth--;
    if (json->filled)
        fprintf(json->out, "\n%*s", (int)json->depth * 2, "");
    fputc(json->end[json->depth], json->out);
    json->filled = 1;
}

void bench_json_text(struct bench_json *json, const char *name, const char *text)
{
    begin(json, name);
    quote(json->out, text);
}

void bench_json_count(struct bench_json *json, const char *name, uint64_t number)
{
    begin(json, name);
    fprintf(json->out, "%" PRIu64, number);
}

void bench_json_real(struct bench_json *json, const char *name, double number)
{
    begin(json, name);
    fprintf(json->out, "%.9g", isfinite(number) ? number : 0);
}
