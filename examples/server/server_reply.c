/* SPDX-License-Identifier: BSD-3-Clause
 * Replies of RESP2, and the reading of arguments. */
#include "server.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static void reply_line(struct client *client, char type, const char *text)
{
    bytes_append(&client->out, &type, 1);
    bytes_append(&client->out, text, strlen(text));
    bytes_append(&client->out, "\r\n", 2);
}

void reply_simple(struct client *client, const char *text)
{
    reply_line(client, '+', text);
}

void reply_error(struct client *client, const char *format, ...)
{
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    for (char *p = text; *p; p++) /* a line of its own, whatever the text quotes */
        if (*p == '\r' || *p == '\n')
            *p = ' ';
    reply_line(client, '-', text);
}

static const char *status_prefix(int status)
{
    switch (status) {
    case NEAR_ERR_LOADING:
        return "LOADING";
    case NEAR_ERR_FULL:
        return "OOM";
    case NEAR_ERR_READONLY:
        return "READONLY";
    case NEAR_ERR_AUTH:
        return "NOAUTH";
    case NEAR_ERR_DENIED:
        return "NOPERM";
    case NEAR_ERR_WRONG_TYPE:
        return "WRONGTYPE";
    case NEAR_ERR_SCRIPT_BUSY:
        return "BUSY";
    case NEAR_ERR_MISCONFIGURED:
        return "MISCONF";
    /* The client cannot follow -MOVED, nor would a retry at another node help it: the rest is plain. */
    default:
        return "ERR";
    }
}

void reply_status(struct client *client, int status)
{
    if (status == NEAR_ERR_WRONG_TYPE) /* clients compare this text */
        reply_error(client, "WRONGTYPE Operation against a key holding the wrong kind of value");
    else if (status == NEAR_ERR_OVERFLOW)
        reply_error(client, "ERR value is not an integer or out of range");
    else
        reply_error(client, "%s %s (%s)", status_prefix(status), near_status_text(status), near_status_name(status));
}

void reply_integer(struct client *client, int64_t number)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, number);
    reply_line(client, ':', text);
}

static void reply_header(struct client *client, char type, size_t number)
{
    char text[24];
    snprintf(text, sizeof text, "%zu", number);
    reply_line(client, type, text);
}

void reply_bulk(struct client *client, const void *data, size_t size)
{
    reply_header(client, '$', size);
    bytes_append(&client->out, data, size);
    bytes_append(&client->out, "\r\n", 2);
}

void reply_text(struct client *client, const char *text)
{
    reply_bulk(client, text, strlen(text));
}

void reply_nil(struct client *client)
{
    reply_line(client, '$', "-1");
}

void reply_array(struct client *client, size_t count)
{
    reply_header(client, '*', count);
}

size_t reply_mark(const struct client *client)
{
    return bytes_size(&client->out);
}

void reply_rollback(struct client *client, size_t mark)
{
    client->out.end = client->out.start + mark;
}

/* ---------------------------------------------------------------- arguments */

int arg_is(const struct arg *arg, const char *word)
{
    return arg->size == strlen(word) && strncasecmp(arg->data, word, arg->size) == 0;
}

int arg_integer(const struct arg *arg, int64_t *ret_number)
{
    const char *p = arg->data, *end = p + arg->size;
    int negative = arg->size > 0 && *p == '-';
    uint64_t number = 0, limit = negative ? (uint64_t)INT64_MAX + 1 : (uint64_t)INT64_MAX;
    p += negative;
    if (p == end || (*p == '0' && (negative || end - p > 1))) /* as Redis: no "-0", no "007" */
        return -1;
    for (; p < end; p++) {
        unsigned digit = (unsigned)(unsigned char)*p - '0';
        if (digit > 9 || number > (limit - digit) / 10)
            return -1;
        number = number * 10 + digit;
    }
    *ret_number = (int64_t)(negative ? 0 - number : number);
    return 0;
}

void arg_printable(const struct arg *arg, char *text, size_t capacity)
{
    size_t size = arg->size < capacity - 1 ? arg->size : capacity - 1;
    for (size_t i = 0; i < size; i++)
        text[i] = isprint((unsigned char)arg->data[i]) ? arg->data[i] : '?';
    text[size] = 0;
}
