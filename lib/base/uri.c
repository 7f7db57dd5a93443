/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A URI is first split into slices of the unchanged text.  The splitter is strict: it accepts exactly what can be
 * opened, names of options included.  Parsing then decodes the slices within one copy of the text (decoding only
 * shrinks, and each slice is followed by a delimiter that becomes its NUL).  Redaction uses the same splitter, and
 * shows nothing but the scheme of a text that it refuses: in a malformed URI nobody can say which part the password is.
 */
#define _GNU_SOURCE /* explicit_bzero */
#include "base/uri.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>
#include "base/log.h"
#include "base/options.h"
#include "base/percent.h"

#define URI_MAX 65536
#define SOCKET_PATH_MAX 107 /* sun_path with its NUL */
#define HOST_MAX (NEAR_URI_HOST_SIZE - 1)
#define PORT 6379
#define SENTINEL_PORT 26379
#define HOSTS_MAX 64
#define DATABASE_MAX INT32_MAX
#define HIDDEN "***"

struct slice {
    const char *at; /* NULL: absent */
    size_t size;
};

struct parts {
    enum near__uri_kind kind;
    int has_sentinels;   /* host is a list of them */
    struct slice scheme; /* with its "://" or ":" */
    struct slice username, password, host, path, query;
    uint32_t port; /* 0: none given */
    uint32_t database;
};

static const struct scheme {
    const char *name;
    enum near__uri_kind kind;
    int has_sentinels;
} schemes[] = {
    {"redis://", NEAR_URI_TCP, 0},   {"valkey://", NEAR_URI_TCP, 0},         {"rediss://", NEAR_URI_TLS, 0},
    {"valkeys://", NEAR_URI_TLS, 0}, {"redis-sentinel://", NEAR_URI_TCP, 1}, {"rediss-sentinel://", NEAR_URI_TLS, 1},
    {"unix://", NEAR_URI_UNIX, 0},   {"redis-socket://", NEAR_URI_UNIX, 0},  {"memory://", NEAR_URI_MEMORY, 0},
    {"local:", NEAR_URI_LOCAL, 0},
};

/* ---------------------------------------------------------------- splitting */

static struct slice slice_between(const char *from, const char *to)
{
    return (struct slice){from, (size_t)(to - from)};
}

/* 0 when the slice has only complete escapes, none of them %00, and no control bytes. */
static int check_escapes(struct slice s)
{
    for (size_t i = 0; i < s.size; i++) {
        if ((unsigned char)s.at[i] <= ' ' || s.at[i] == 0x7f)
            return -1;
        if (s.at[i] != '%')
            continue;
        if (s.size - i < 3 || !isxdigit((unsigned char)s.at[i + 1]) || !isxdigit((unsigned char)s.at[i + 2]) ||
            (s.at[i + 1] == '0' && s.at[i + 2] == '0'))
            return -1;
    }
    return 0;
}

/* Digits that make a number of at most max. */
static int parse_number(struct slice s, uint32_t max, uint32_t *ret)
{
    uint64_t number = 0;

    if (s.size == 0 || s.size > 10)
        return -1;
    for (size_t i = 0; i < s.size; i++) {
        if (!isdigit((unsigned char)s.at[i]))
            return -1;
        number = number * 10 + (uint64_t)(s.at[i] - '0');
    }
    if (number > max)
        return -1;
    *ret = (uint32_t)number;
    return 0;
}

static const char *split_scheme(const char *text, struct parts *parts)
{
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++) {
        size_t length = strlen(schemes[i].name);
        if (strncasecmp(text, schemes[i].name, length) == 0) {
            parts->kind = schemes[i].kind;
            parts->has_sentinels = schemes[i].has_sentinels;
            parts->scheme = (struct slice){text, length};
            return text + length;
        }
    }
    return NULL;
}

/* [user[:password]@] of an authority; what remains starts at the returned place.  An empty user is none. */
static const char *split_user(struct slice authority, struct parts *parts)
{
    const char *at = memrchr(authority.at, '@', authority.size);
    if (!at)
        return authority.at;
    const char *colon = memchr(authority.at, ':', (size_t)(at - authority.at));
    parts->username = slice_between(authority.at, colon ? colon : at);
    if (parts->username.size == 0)
        parts->username.at = NULL;
    if (colon)
        parts->password = slice_between(colon + 1, at);
    return at + 1;
}

static int check_host(struct slice host, int in_brackets)
{
    if (host.size == 0 || host.size > HOST_MAX)
        return -1;
    for (size_t i = 0; i < host.size; i++)
        if (!isalnum((unsigned char)host.at[i]) && !strchr(in_brackets ? ":.%_-" : "._-", host.at[i]))
            return -1;
    if (!in_brackets)
        return 0;
    return memchr(host.at, ':', host.size) ? check_escapes(host) : -1; /* a zone begins with %25 (RFC 6874) */
}

/* host[:port]; *ret_port stays when none is given. */
static const char *split_host(const char *from, const char *end, struct slice *ret_host, uint32_t *ret_port)
{
    const char *port;
    int in_brackets = from < end && *from == '[';

    if (in_brackets) {
        const char *close = memchr(from, ']', (size_t)(end - from));
        if (!close)
            return "a bracket of the host is not closed";
        *ret_host = slice_between(from + 1, close);
        port = close + 1;
    } else {
        port = memchr(from, ':', (size_t)(end - from));
        port = port ? port : end;
        *ret_host = slice_between(from, port);
    }
    if (check_host(*ret_host, in_brackets) != 0)
        return "the host is missing or malformed";
    if (port == end)
        return NULL;
    if (*port != ':' || parse_number(slice_between(port + 1, end), 65535, ret_port) != 0 || *ret_port == 0)
        return "the port is malformed";
    return NULL;
}

static const char *end_of_host(const char *from, const char *end)
{
    const char *comma = memchr(from, ',', (size_t)(end - from));
    return comma ? comma : end;
}

/* host[:port],… */
static const char *split_hosts(const char *from, const char *end, struct parts *parts)
{
    struct slice host;
    uint32_t port, count = 0;
    parts->host = slice_between(from, end);
    for (const char *at = from, *stop;; at = stop + 1) {
        stop = end_of_host(at, end);
        const char *problem = ++count > HOSTS_MAX ? "too many sentinels" : split_host(at, stop, &host, &port);
        if (problem || stop == end)
            return problem;
    }
}

/* [user[:password]@]host[:port][/db], or several hosts */
static const char *split_network(struct slice rest, struct parts *parts)
{
    const char *end = rest.at + rest.size;
    const char *slash = memchr(rest.at, '/', rest.size);
    const char *authority_end = slash ? slash : end;
    const char *host = split_user(slice_between(rest.at, authority_end), parts);
    if (parts->has_sentinels && end_of_host(rest.at, host) != host)
        return "user and password stand once, before all sentinels; a comma in them is written %2C";
    const char *problem = parts->has_sentinels ? split_hosts(host, authority_end, parts)
                                               : split_host(host, authority_end, &parts->host, &parts->port);

    if (problem)
        return problem;
    if (slash && slash + 1 < end && parse_number(slice_between(slash + 1, end), DATABASE_MAX, &parts->database) != 0)
        return "the database is not a number";
    return NULL;
}

/* [user[:password]@]/path/of/socket */
static const char *split_socket(struct slice rest, struct parts *parts)
{
    const char *end = rest.at + rest.size;
    const char *slash = memchr(rest.at, '/', rest.size);

    if (!slash || slash + 1 == end)
        return "the path of the socket is missing";
    if (split_user(slice_between(rest.at, slash), parts) != slash)
        return "a socket has a path and no host";
    parts->path = slice_between(slash, end);
    return NULL;
}

static const char *split_rest(struct slice rest, struct parts *parts)
{
    switch (parts->kind) {
    case NEAR_URI_TCP:
    case NEAR_URI_TLS:
        return split_network(rest, parts);
    case NEAR_URI_UNIX:
        return split_socket(rest, parts);
    case NEAR_URI_MEMORY:
        parts->path = rest;
        return rest.size == 0 || memchr(rest.at, '@', rest.size) ? "the name of the store is missing or malformed"
                                                                 : NULL;
    default:
        return rest.size ? "local: has no host" : NULL;
    }
}

/* Takes the next name=value from query.  1: there is one, 0: the end. */
static int next_parameter(struct slice *query, struct slice *ret_name, struct slice *ret_value)
{
    if (!query->at || query->size == 0)
        return 0;
    const char *end = query->at + query->size;
    const char *ampersand = memchr(query->at, '&', query->size);
    const char *stop = ampersand ? ampersand : end;
    const char *equals = memchr(query->at, '=', (size_t)(stop - query->at));
    *ret_name = slice_between(query->at, equals ? equals : stop);
    *ret_value = equals ? slice_between(equals + 1, stop) : (struct slice){NULL, 0};
    *query = ampersand ? slice_between(ampersand + 1, end) : (struct slice){NULL, 0};
    return 1;
}

static int is_named(struct slice name, const char *text)
{
    return name.size == strlen(text) && memcmp(name.at, text, name.size) == 0;
}

/* Names an unknown parameter only when it looks like a name: in a malformed URI it may be part of a password. */
static int fail_parameter(struct slice name, near_error *error)
{
    for (size_t i = 0; i < name.size; i++)
        if (!islower((unsigned char)name.at[i]) && name.at[i] != '_')
            return near__fail(error, NEAR_ERR_URI, "URI: a query parameter is malformed");
    return near__fail(error, NEAR_ERR_OPTION, "URI: unknown option \"%.*s\"", (int)(name.size < 60 ? name.size : 60),
                      name.at);
}

static int check_query(struct parts *parts, near_error *error)
{
    struct slice query = parts->query, name, value;

    while (next_parameter(&query, &name, &value)) {
        if (!is_named(name, "db") && !near__option_find(name.at, name.size))
            return fail_parameter(name, error);
        if (!value.at || check_escapes(value) != 0)
            return near__fail(error, NEAR_ERR_URI, "URI: the value of %.*s is malformed", (int)name.size, name.at);
        if (is_named(name, "db") && parse_number(value, DATABASE_MAX, &parts->database) != 0)
            return near__fail(error, NEAR_ERR_URI, "URI: db is not a number");
    }
    return NEAR_OK;
}

static int check_decodable(const struct parts *parts, near_error *error)
{
    if (check_escapes(parts->username) != 0 || check_escapes(parts->password) != 0)
        return near__fail(error, NEAR_ERR_URI, "URI: user or password are not properly percent-encoded");
    if (check_escapes(parts->path) != 0)
        return near__fail(error, NEAR_ERR_URI, "URI: the path is not properly percent-encoded");
    return NEAR_OK;
}

static int split(const char *text, struct parts *parts, near_error *error)
{
    *parts = (struct parts){0};
    size_t length = strnlen(text, URI_MAX + 1);
    if (length > URI_MAX)
        return near__fail(error, NEAR_ERR_URI, "URI: longer than %d bytes", URI_MAX);
    const char *from = split_scheme(text, parts), *end = text + length;
    if (!from)
        return near__fail(
            error, NEAR_ERR_URI,
            "URI: it must begin with redis://, rediss://, redis-sentinel://, rediss-sentinel://, unix://, "
            "memory:// or local:");
    if (strchr(from, '#'))
        return near__fail(error, NEAR_ERR_URI, "URI: # has no meaning here; within a password it is written %%23");
    const char *question = strchr(from, '?');
    if (question)
        parts->query = slice_between(question + 1, end);
    const char *problem = split_rest(slice_between(from, question ? question : end), parts);
    if (problem)
        return near__fail(error, NEAR_ERR_URI, "URI: %s", problem);
    int status = check_decodable(parts, error);
    return status == NEAR_OK ? check_query(parts, error) : status;
}

/* ---------------------------------------------------------------- parsing */

/* Decodes a slice of text in its copy, in place, and ends it.  NULL stays NULL. */
static char *decode(const char *text, char *copy, struct slice s)
{
    if (!s.at)
        return NULL;
    char *start = copy + (s.at - text);
    size_t size = 0;
    (void)near__percent_decode(start, s.at, s.size, &size); /* that it is well encoded has been seen */
    start[size] = '\0';
    return start;
}

/* The same as it stands. */
static char *cut(const char *text, char *copy, struct slice s)
{
    char *start = copy + (s.at - text);
    start[s.size] = '\0';
    return start;
}

static int set_options(const char *text, struct slice query, char *copy, near_options *options, near_error *error)
{
    struct slice name, value;

    while (next_parameter(&query, &name, &value)) {
        if (is_named(name, "db"))
            continue;
        int status =
            near_option_set(options, near__option_find(name.at, name.size)->name, decode(text, copy, value), error);
        if (status != NEAR_OK)
            return status;
    }
    return NEAR_OK;
}

int near__uri_parse(const char *text, const struct near__alloc *alloc, near_options *options, struct near__uri *ret,
                    near_error *error)
{
    struct parts parts;
    struct near__uri uri = {0};

    if (!text)
        return near__fail(error, NEAR_ERR_INVALID, "the URI must not be NULL");
    int status = split(text, &parts, error);
    if (status != NEAR_OK)
        return status;
    uri.query_size = strlen(text) + 1;
    uri.query = near__memdup(alloc, text, uri.query_size);
    if (!uri.query)
        return near__fail(error, NEAR_ERR_NOMEM, "out of memory for the URI");
    uri.kind = parts.kind;
    uri.port = (uint16_t)(parts.port ? parts.port : PORT);
    uri.database = parts.database;
    uri.username = decode(text, uri.query, parts.username);
    uri.password = decode(text, uri.query, parts.password);
    uri.path = decode(text, uri.query, parts.path);
    if (parts.has_sentinels)
        uri.sentinels = cut(text, uri.query, parts.host);
    else
        uri.host = decode(text, uri.query, parts.host);
    if (uri.kind == NEAR_URI_UNIX && strlen(uri.path) > SOCKET_PATH_MAX)
        status = near__fail(error, NEAR_ERR_URI, "URI: the path of a socket has at most %d bytes", SOCKET_PATH_MAX);
    else
        status = set_options(text, parts.query, uri.query, options, error);
    if (status != NEAR_OK) {
        near__uri_fini(&uri, alloc);
        return status;
    }
    *ret = uri;
    return NEAR_OK;
}

int near__uri_next_host(const char **list, char host[NEAR_URI_HOST_SIZE], uint16_t *ret_port)
{
    const char *from = *list, *end = from + strlen(from), *stop = end_of_host(from, end);
    struct slice slice;
    uint32_t port = SENTINEL_PORT;
    size_t size = 0;
    if (from == end || split_host(from, stop, &slice, &port))
        return 0;
    (void)near__percent_decode(host, slice.at, slice.size, &size); /* that it is well encoded has been seen */
    host[size] = '\0';
    *ret_port = (uint16_t)port;
    *list = stop == end ? end : stop + 1;
    return 1;
}

void near__uri_fini(struct near__uri *uri, const struct near__alloc *alloc)
{
    if (uri->query)
        explicit_bzero(uri->query, uri->query_size); /* it may hold the password */
    near__free(alloc, uri->query);
    *uri = (struct near__uri){0};
}

/* ---------------------------------------------------------------- redaction */

/* Text written as snprintf does: what does not fit is only counted. */
struct output {
    char *buffer;
    size_t capacity, length;
};

static void put(struct output *out, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++, out->length++)
        if (out->length + 1 < out->capacity)
            out->buffer[out->length] = text[i];
}

/* Copies what is between *at and the slice, then hides the slice. */
static void put_hidden(struct output *out, const char **at, struct slice secret)
{
    put(out, *at, (size_t)(secret.at - *at));
    put(out, HIDDEN, strlen(HIDDEN));
    *at = secret.at + secret.size;
}

static void put_redacted(struct output *out, const char *text, const struct parts *parts)
{
    struct slice query = parts->query, name, value;
    const char *at = text;

    if (parts->password.at)
        put_hidden(out, &at, parts->password);
    else if (parts->username.at)
        put_hidden(out, &at, parts->username); /* many clients read redis://secret@host so */
    while (next_parameter(&query, &name, &value))
        if (is_named(name, "password") || is_named(name, "sentinel_password"))
            put_hidden(out, &at, value);
    put(out, at, strlen(at));
}

size_t near_uri_redact(const char *uri, char *buffer, size_t capacity)
{
    struct output out = {buffer, capacity, 0};
    struct parts parts = {0};

    if (uri && split(uri, &parts, NULL) == NEAR_OK) {
        put_redacted(&out, uri, &parts);
    } else if (uri) {
        put(&out, parts.scheme.at, parts.scheme.size);
        put(&out, HIDDEN, strlen(HIDDEN));
    }
    if (capacity)
        buffer[out.length < capacity ? out.length : capacity - 1] = '\0';
    return out.length;
}
