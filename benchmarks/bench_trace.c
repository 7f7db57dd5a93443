/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A trace comes from outside: every record is checked, and what is wrong is said with the file and its number. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pipe2 */
#endif
#include "bench_trace.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uthash.h>

#include "base/hash.h"
#include "bench.h"
#include "bench_child.h"

#define KEY_MAX 65535u
#define RECORD 24u
#define PEEK 512u /* bytes by which the format is told */

struct source {
    const char *path;
    FILE *file;
    pid_t child; /* that unpacks; 0: none */
    char *error;
    size_t capacity;
};

/* ---------------------------------------------------------------- distinct keys
 *
 * Open addressing over the keys' numbers; the bytes are in one growing text. */

struct keys {
    struct bench_trace *trace;
    size_t bytes, bytes_room, begin_room, requests_room;
    uint32_t *slot; /* number + 1, 0: empty */
    size_t slots;   /* a power of two, at least twice the keys */
};

/* Room for one more element; the memory that was there goes on. */
static void *grow(void *memory, size_t *room, size_t needed, size_t element)
{
    if (needed <= *room)
        return memory;
    while (*room < needed)
        *room = *room ? *room * 2 : 1024;
    memory = realloc(memory, *room * element);
    if (!memory) {
        bench_say("out of memory");
        exit(BENCH_FAILED);
    }
    return memory;
}

static uint32_t *find_slot(const struct keys *keys, const char *key, size_t size)
{
    const struct bench_trace *trace = keys->trace;
    size_t at = near__hash(key, size, 0) & (keys->slots - 1);
    for (; keys->slot[at]; at = (at + 1) & (keys->slots - 1)) {
        uint32_t number = keys->slot[at] - 1;
        if (trace->begin[number + 1] - trace->begin[number] == size &&
            memcmp(trace->bytes + trace->begin[number], key, size) == 0)
            break;
    }
    return &keys->slot[at];
}

static void rehash(struct keys *keys)
{
    const struct bench_trace *trace = keys->trace;
    free(keys->slot);
    keys->slots = keys->slots ? keys->slots * 2 : 4096;
    keys->slot = bench_alloc(keys->slots * sizeof(*keys->slot));
    for (uint32_t number = 0; number < trace->distinct; number++)
        *find_slot(keys, trace->bytes + trace->begin[number], trace->begin[number + 1] - trace->begin[number]) =
            number + 1;
}

static uint32_t number_of(struct keys *keys, const char *key, size_t size)
{
    struct bench_trace *trace = keys->trace;
    if ((size_t)trace->distinct * 2 + 2 > keys->slots)
        rehash(keys);
    uint32_t *slot = find_slot(keys, key, size);
    if (!*slot) {
        trace->bytes = grow(trace->bytes, &keys->bytes_room, keys->bytes + size + 1, 1);
        memcpy(trace->bytes + keys->bytes, key, size);
        keys->bytes += size;
        trace->begin = grow(trace->begin, &keys->begin_room, (size_t)trace->distinct + 2, sizeof(*trace->begin));
        trace->begin[0] = 0;
        trace->begin[++trace->distinct] = keys->bytes;
        *slot = trace->distinct;
    }
    return *slot - 1;
}

static void add_request(struct keys *keys, const char *key, size_t key_size, uint32_t size)
{
    struct bench_trace *trace = keys->trace;
    trace->request = grow(trace->request, &keys->requests_room, trace->requests + 1, sizeof(*trace->request));
    trace->request[trace->requests++] = (struct bench_request){.key = number_of(keys, key, key_size), .size = size};
}

/* ---------------------------------------------------------------- what is wrong, after the file's name; -1 */

static int fail(struct source *source, const char *why)
{
    snprintf(source->error, source->capacity, "%s: %s", source->path, why);
    return -1;
}

static int wrong(struct source *source, const char *what, size_t number, const char *why)
{
    snprintf(source->error, source->capacity, "%s: %s %zu: %s", source->path, what, number, why);
    return -1;
}

static int unpacking_failed(struct source *source, const char *why)
{
    snprintf(source->error, source->capacity, "%s: unpacking: %s", source->path, why);
    return -1;
}

/* ---------------------------------------------------------------- the two formats; 0, or -1 with a text */

/* One line; *ret_size 0 when it names none. */
static int split_line(const char *line, size_t length, size_t *ret_key, uint32_t *ret_size)
{
    size_t key = strcspn(line, " \t\r\n");
    const char *text = line + key + strspn(line + key, " \t\r\n");
    char *end = NULL;
    *ret_key = key;
    *ret_size = 0;
    if (strlen(line) != length || !key || key > KEY_MAX)
        return 0;
    if (!*text)
        return 1;
    errno = 0;
    unsigned long size = strtoul(text, &end, 10);
    *ret_size = (uint32_t)size;
    return *text >= '0' && *text <= '9' && errno == 0 && size <= UINT32_MAX && !end[strspn(end, " \t\r\n")];
}

static int read_text(struct source *source, struct keys *keys)
{
    char *line = NULL;
    size_t room = 0, number = 0, key;
    ssize_t length;
    uint32_t size;
    int status = 0;
    while (status == 0 && (length = getline(&line, &room, source->file)) > 0) {
        number++;
        if (line[strspn(line, " \t\r\n")] == 0 && strlen(line) == (size_t)length)
            continue; /* an empty line */
        if (split_line(line, (size_t)length, &key, &size))
            add_request(keys, line, key, size);
        else
            status = wrong(source, "line", number, "not a key and, perhaps, a size");
    }
    free(line);
    return status;
}

static uint64_t little_endian(const unsigned char *bytes, unsigned size)
{
    uint64_t number = 0;
    while (size--)
        number = number << 8 | bytes[size];
    return number;
}

static int read_oracle(struct source *source, struct keys *keys)
{
    unsigned char record[RECORD];
    size_t got, number = 0;
    char key[24];
    while ((got = fread(record, 1, RECORD, source->file)) == RECORD) {
        int size = snprintf(key, sizeof(key), "%" PRIu64, little_endian(record + 4, 8));
        add_request(keys, key, (size_t)size, (uint32_t)little_endian(record + 12, 4));
        number++;
    }
    return got ? wrong(source, "record", number + 1, "incomplete; 24 bytes are needed") : 0;
}

/* ---------------------------------------------------------------- files */

static const char *unpacker(const unsigned char *head, size_t size)
{
    static const struct {
        const char *magic, *program;
        size_t size;
    } packers[] = {{"\x1f\x8b", "gzip", 2},
                   {"\xfd"
                    "7zXZ",
                    "xz", 5},
                   {"\x28\xb5\x2f\xfd", "zstd", 4}};
    for (size_t i = 0; i < sizeof(packers) / sizeof(*packers); i++) {
        if (size >= packers[i].size && memcmp(head, packers[i].magic, packers[i].size) == 0)
            return packers[i].program;
    }
    return NULL;
}

/* Replaces source->file by what the program makes of it. */
static int unpack(struct source *source, const char *program)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return unpacking_failed(source, strerror(errno));
    if ((source->child = bench_child_fork()) == 0) {
        if (dup2(fileno(source->file), STDIN_FILENO) < 0 || dup2(ends[1], STDOUT_FILENO) < 0)
            _exit(126);
        execlp(program, program, "-dc", (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    fclose(source->file);
    source->file = fdopen(ends[0], "r");
    return source->child > 0 && source->file ? 0 : unpacking_failed(source, strerror(errno));
}

static int open_source(struct source *source)
{
    unsigned char head[8];
    source->file = fopen(source->path, "re");
    if (!source->file)
        return fail(source, strerror(errno));
    const char *program = unpacker(head, fread(head, 1, sizeof(head), source->file));
    /* the program reads the descriptor, not our buffer */
    if (fseek(source->file, 0, SEEK_SET) != 0 || lseek(fileno(source->file), 0, SEEK_SET) != 0)
        return fail(source, strerror(errno));
    return program ? unpack(source, program) : 0;
}

static int close_source(struct source *source, int status)
{
    char error[128] = "";
    if (source->file) {
        if (status == 0 && ferror(source->file))
            status = fail(source, strerror(errno));
        fclose(source->file);
    }
    if (source->child > 0)
        bench_child_wait(source->child, error, sizeof(error));
    return status == 0 && *error ? unpacking_failed(source, error) : status;
}

/* Text has no bytes below blank but tabs and ends of lines. */
static enum bench_format guess(struct source *source)
{
    static char buffer[1 << 16];
    unsigned char head[PEEK];
    (void)setvbuf(source->file, buffer, _IOFBF, sizeof(buffer));
    size_t size = fread(head, 1, sizeof(head), source->file);
    for (size_t i = size; i-- > 0;)
        (void)ungetc(head[i], source->file);
    for (size_t i = 0; i < size; i++) {
        if (head[i] < ' ' && !strchr("\t\r\n", head[i]))
            return BENCH_FORMAT_ORACLE;
        if (head[i] == 0)
            return BENCH_FORMAT_ORACLE;
    }
    return BENCH_FORMAT_TEXT;
}

int bench_trace_read(const char *path, enum bench_format format, struct bench_trace *ret, char *error, size_t capacity)
{
    struct source source = {.path = path, .error = error, .capacity = capacity};
    struct keys keys = {.trace = ret};
    memset(ret, 0, sizeof(*ret));
    int status = open_source(&source);
    if (status == 0) {
        if (format == BENCH_FORMAT_AUTO)
            format = guess(&source);
        status = format == BENCH_FORMAT_TEXT ? read_text(&source, &keys) : read_oracle(&source, &keys);
    }
    status = close_source(&source, status);
    free(keys.slot);
    if (status == 0 && !ret->requests)
        status = fail(&source, "no requests");
    if (status != 0)
        bench_trace_free(ret);
    return status;
}

void bench_trace_free(struct bench_trace *trace)
{
    free(trace->request);
    free(trace->bytes);
    free(trace->begin);
    memset(trace, 0, sizeof(*trace));
}
