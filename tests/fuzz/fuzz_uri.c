/* SPDX-License-Identifier: BSD-3-Clause
 * URIs: parsed or refused with a text, and no text and no redaction ever shows a password. */
#include <string.h>

#include "base/alloc.h"
#include "base/options.h"
#include "base/uri.h"
#include "fuzz/fuzz.h"

#define SECRET "hunter2"

static void check_hosts(const char *list)
{
    char host[NEAR_URI_HOST_SIZE];
    uint16_t port = 0;
    do
        FUZZ_CHECK(near__uri_next_host(&list, host, &port) && host[0] && port);
    while (*list);
    FUZZ_CHECK(!near__uri_next_host(&list, host, &port));
}

static void check_parsed(const struct near__uri *uri)
{
    FUZZ_CHECK(uri->kind >= NEAR_URI_TCP && uri->kind <= NEAR_URI_LOCAL);
    FUZZ_CHECK(uri->kind > NEAR_URI_TLS || uri->sentinels || (uri->host && uri->host[0] && uri->port));
    if (uri->sentinels)
        check_hosts(uri->sentinels);
    FUZZ_CHECK(uri->kind != NEAR_URI_UNIX || (uri->path && uri->path[0] && strlen(uri->path) < 108)); /* sun_path */
    FUZZ_CHECK(uri->query && uri->query_size);
}

/* As the library takes it: options from the URI, then a checked copy of them. */
static void parse(const char *text, near_error *error)
{
    struct near__alloc alloc;
    struct near__uri uri;
    near_options options, copy;
    near__alloc_init(&alloc, NULL);
    near_options_init(&options);
    int status = near__uri_parse(text, &alloc, &options, &uri, error);
    FUZZ_CHECK(status == NEAR_OK || (error->status == status && error->text[0]));
    if (status != NEAR_OK)
        return;
    check_parsed(&uri);
    status = near__options_copy(&options, &alloc, &copy, error);
    FUZZ_CHECK(status == NEAR_OK || error->text[0]);
    if (status == NEAR_OK)
        near__options_fini(&copy, &alloc);
    near__uri_fini(&uri, &alloc);
}

/* Redacted text is complete or cut, never longer than told, and hides a password wherever one may stand. */
static void redact(const char *text, size_t capacity)
{
    char whole[8192], part[64];
    size_t length = near_uri_redact(text, whole, sizeof(whole));
    FUZZ_CHECK(length == strlen(whole) || length >= sizeof(whole));
    capacity %= sizeof(part);
    FUZZ_CHECK(near_uri_redact(text, part, capacity) == length);
    FUZZ_CHECK(!capacity || strncmp(part, whole, strlen(part)) == 0);
    FUZZ_CHECK(!capacity || strlen(part) == (length < capacity ? length : capacity - 1));
}

/* A URI that parses with a secret in the password's place. */
static void hide(const char *text)
{
    char uri[256], whole[512];
    near_error error = {0};
    if (strlen(text) > 100 || strchr(text, 'h'))
        return;
    snprintf(uri, sizeof(uri), "redis://u:" SECRET "@%s", text);
    parse(uri, &error);
    FUZZ_CHECK(!strstr(error.text, SECRET));
    near_uri_redact(uri, whole, sizeof(whole));
    FUZZ_CHECK(!strstr(whole, SECRET));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    near_error error = {0};
    char *text = fuzz_text(data, size);
    parse(text, &error);
    redact(text, size);
    hide(text);
    free(text);
    return 0;
}
