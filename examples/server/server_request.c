/* SPDX-License-Identifier: BSD-3-Clause */
#include "server_request.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { ARGUMENTS_KEEP = 4096 }; /* a larger array is given back after its request */
enum { NUMBER_LINE_MAX = 32 };  /* "*1048576\r\n" and "$536870912\r\n" are far shorter */

void request_init(struct request *r)
{
    *r = (struct request){.left = -1, .bulk = -1};
}

void request_fini(struct request *r)
{
    free(r->argv);
    request_init(r);
}

void request_next(struct request *r)
{
    if (r->argv_capacity > ARGUMENTS_KEEP) {
        free(r->argv);
        r->argv = NULL;
        r->argv_capacity = 0;
    }
    r->begin = r->position;
    r->argc = 0;
    r->left = r->bulk = -1;
}

void request_rewind(struct request *r, size_t begin)
{
    r->position = begin;
    request_next(r);
}

size_t request_rebase(struct request *r)
{
    size_t gone = r->begin;
    r->position -= gone;
    r->begin = 0;
    return gone;
}

static int request_add(struct request *r, size_t position, size_t size)
{
    if (r->argc == r->argv_capacity) {
        size_t capacity = r->argv_capacity ? r->argv_capacity * 2 : 8;
        struct span *argv = realloc(r->argv, capacity * sizeof *argv);
        if (!argv)
            return -1;
        r->argv = argv;
        r->argv_capacity = capacity;
    }
    r->argv[r->argc++] = (struct span){.offset = position - r->begin, .size = size};
    return 0;
}

/* ---------------------------------------------------------------- inline commands */

static int hex_digit(int c)
{
    return isdigit(c) ? c - '0' : tolower(c) - 'a' + 10;
}

/* One backslash sequence at *from inside double quotes; moves *from behind it. */
static char unescape(const char **from, const char *end)
{
    const char *p = *from + 1; /* behind the backslash; the caller knows that it is inside the line */
    *from += 2;
    switch (*p) {
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case 'a':
        return '\a';
    case 'b':
        return '\b';
    case 'x':
        if (end - p > 2 && isxdigit((unsigned char)p[1]) && isxdigit((unsigned char)p[2])) {
            *from += 2;
            return (char)(hex_digit((unsigned char)p[1]) * 16 + hex_digit((unsigned char)p[2]));
        }
        return 'x';
    default:
        return *p;
    }
}

/* Copies the quoted text that begins at *from down to *to; 0, or -1 when the quote is never closed. */
static int unquote(const char **from, char **to, const char *end)
{
    char quote = *(*from)++;
    while (*from < end && **from != quote) {
        int more = end - *from > 1;
        if (quote == '"' && **from == '\\' && more)
            *(*to)++ = unescape(from, end);
        else if (quote == '\'' && **from == '\\' && more && (*from)[1] == '\'')
            *(*to)++ = '\'', *from += 2;
        else
            *(*to)++ = *(*from)++;
    }
    if (*from == end)
        return -1;
    ++*from;
    return *from < end && !isspace((unsigned char)**from) ? -1 : 0; /* "a"b is a mistake */
}

/* Splits a line; quotes and escapes as in redis-cli.  The text only shrinks, so it is unquoted in place. */
static enum request_state split_line(struct request *r, char *data, char *line, const char *end, const char **ret_error)
{
    const char *from = line;
    while (from < end) {
        char *to = (char *)(uintptr_t)from, *word = to;
        if (isspace((unsigned char)*from)) {
            from++;
            continue;
        }
        while (from < end && !isspace((unsigned char)*from)) {
            if (*from != '"' && *from != '\'') {
                *to++ = *from++;
            } else if (unquote(&from, &to, end) < 0) {
                *ret_error = "unbalanced quotes in request";
                return REQUEST_BAD;
            }
        }
        if (request_add(r, (size_t)(word - data), (size_t)(to - word)) < 0)
            return REQUEST_NO_MEMORY;
    }
    return REQUEST_READY;
}

static enum request_state parse_inline(struct request *r, char *data, size_t size, const char **ret_error)
{
    char *line = data + r->begin, *end = memchr(data + r->position, '\n', size - r->position);
    size_t length = end ? (size_t)(end - line) : size - r->begin;
    if (length > REQUEST_INLINE_MAX) {
        *ret_error = "too big inline request";
        return REQUEST_BAD;
    }
    if (!end) {
        r->position = size; /* no newline so far; look only at what comes */
        return REQUEST_MORE;
    }
    r->position = (size_t)(end - data) + 1;
    if (end > line && end[-1] == '\r')
        end--;
    return split_line(r, data, line, end, ret_error);
}

/* ---------------------------------------------------------------- arrays of bulk strings */

/* Reads "-123\r\n" at position.  REQUEST_READY, _MORE, or _BAD with no error text. */
static enum request_state parse_number(const char *data, size_t size, size_t *position, int64_t *ret_number)
{
    const char *p = data + *position, *limit = data + size, *end;
    int64_t number = 0;
    int negative = 0, digits = 0;
    if (size - *position > NUMBER_LINE_MAX)
        limit = p + NUMBER_LINE_MAX;
    if (!(end = memchr(p, '\n', (size_t)(limit - p))))
        return limit - p == NUMBER_LINE_MAX ? REQUEST_BAD : REQUEST_MORE;
    if (p < end && *p == '-')
        negative = 1, p++;
    for (; p < end && isdigit((unsigned char)*p) && digits < 18; p++, digits++)
        number = number * 10 + (*p - '0');
    if (digits == 0 || end - p != 1 || *p != '\r')
        return REQUEST_BAD;
    *position = (size_t)(end - data) + 1;
    *ret_number = negative ? -number : number;
    return REQUEST_READY;
}

static enum request_state parse_count(struct request *r, char *data, size_t size, const char **ret_error)
{
    size_t position = r->begin + 1; /* behind the '*' */
    int64_t count;
    enum request_state state = parse_number(data, size, &position, &count);
    if (state == REQUEST_MORE)
        return state;
    if (state == REQUEST_BAD || count > (int64_t)REQUEST_ARGUMENTS_MAX) {
        *ret_error = "invalid multibulk length";
        return REQUEST_BAD;
    }
    r->position = position;
    r->left = count < 0 ? 0 : count; /* none: an empty request, as in Redis */
    return REQUEST_READY;
}

static enum request_state parse_length(struct request *r, char *data, size_t size, const struct request_limits *limits,
                                       const char **ret_error)
{
    size_t position = r->position + 1;
    int64_t length;
    enum request_state state;
    if (size == r->position)
        return REQUEST_MORE;
    if (data[r->position] != '$') {
        *ret_error = "expected '$' before an argument";
        return REQUEST_BAD;
    }
    state = parse_number(data, size, &position, &length);
    if (state == REQUEST_MORE)
        return state;
    if (state == REQUEST_BAD || length < 0 || (uint64_t)length > limits->bulk_max) {
        *ret_error = "invalid bulk length";
        return REQUEST_BAD;
    }
    if (position - r->begin + (size_t)length + 2 > limits->request_max) {
        *ret_error = "the request is too large";
        return REQUEST_BAD;
    }
    r->position = position;
    r->bulk = length;
    return REQUEST_READY;
}

static enum request_state parse_bulk(struct request *r, char *data, size_t size, const char **ret_error)
{
    size_t length = (size_t)r->bulk, end = r->position + length;
    if (size - r->position < length + 2)
        return REQUEST_MORE;
    if (data[end] != '\r' || data[end + 1] != '\n') {
        *ret_error = "expected CRLF after an argument";
        return REQUEST_BAD;
    }
    if (request_add(r, r->position, length) < 0)
        return REQUEST_NO_MEMORY;
    r->position = end + 2;
    r->bulk = -1;
    r->left--;
    return REQUEST_READY;
}

enum request_state request_parse(struct request *r, char *data, size_t size, const struct request_limits *limits,
                                 const char **ret_error)
{
    enum request_state state = REQUEST_READY;
    if (r->begin == size)
        return REQUEST_MORE;
    if (data[r->begin] != '*')
        return parse_inline(r, data, size, ret_error);
    if (r->left < 0)
        state = parse_count(r, data, size, ret_error);
    while (state == REQUEST_READY && r->left > 0) {
        if (r->bulk < 0)
            state = parse_length(r, data, size, limits, ret_error);
        if (state == REQUEST_READY)
            state = parse_bulk(r, data, size, ret_error);
    }
    return state;
}
