/* SPDX-License-Identifier: BSD-3-Clause */
#include "load/load_pair.h"

#include <stdio.h>
#include <string.h>

struct redis_server *pair_server;
const char *pair_memory_uri = "memory://pair";
void (*pair_options)(near_options *options);

near_cache *pair_open_one(const char *uri)
{
    near_cache *cache = NULL;
    near_error error = {0};
    near_options options;
    near_options_init(&options);
    options.timeout_ms = LONG_MS;
    options.bound_ms = LONG_MS;
    options.message_values = NEAR_VALUES_NEVER; /* what others hold is not for a heartbeat's timing to decide */
    if (pair_options)
        pair_options(&options);
    int status = near_open(uri, &options, &cache, &error);
    if (status != NEAR_OK)
        print_error("near_open(%s): %s\n", uri, error.text);
    assert_int_equal(status, NEAR_OK);
    assert_int_equal(near_wait_ready(cache, LONG_MS, &error), NEAR_OK);
    return cache;
}

static int setup_kind(void **state, enum pair_kind kind, const char *uri)
{
    static struct pair pair;
    pair = (struct pair){.kind = kind};
    if (uri)
        pair.a = pair_open_one(uri);
    if (uri && kind != LOCAL)
        pair.b = pair_open_one(uri);
    *state = &pair;
    return 0;
}
int pair_setup_memory(void **state)
{
    return setup_kind(state, MEMORY, pair_memory_uri);
}
int pair_setup_local(void **state)
{
    return setup_kind(state, LOCAL, "local:");
}
int pair_setup_redis(void **state)
{
    if (pair_server)
        redis_server_command(pair_server, "FLUSHALL", NULL);
    return setup_kind(state, REDIS, pair_server ? redis_server_uri_unix(pair_server) : NULL);
}

int pair_teardown(void **state)
{
    struct pair *pair = *state;
    int failed = pair->a && near_close(pair->a) != NEAR_OK;
    return (pair->b && near_close(pair->b) != NEAR_OK) || failed;
}

struct pair *pair_of(void **state)
{
    struct pair *pair = *state;
    if (!pair->a)
        skip();
    return pair;
}

const char *got(near_cache *c, const char *key)
{
    static __thread char text[160];
    near_value value;
    int status = near_get(c, key, strlen(key), NULL, &value);
    snprintf(text, sizeof(text), "(%s)", near_status_name(status));
    if (status == NEAR_OK)
        snprintf(text, sizeof(text), "%.*s", (int)value.size, (const char *)value.data);
    near_release(&value);
    return text;
}

int set(near_cache *c, const char *key, const char *value)
{
    return near_set(c, key, strlen(key), value, strlen(value), NULL, NULL);
}

void pair_begin(void)
{
    pair_server = redis_server_available() ? redis_server_start(NULL) : NULL;
}

int pair_end(int failed)
{
    redis_server_free(pair_server);
    return failed;
}
