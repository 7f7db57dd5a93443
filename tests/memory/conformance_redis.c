/* SPDX-License-Identifier: BSD-3-Clause
 * The conformance checks against a real Redis, one server for all of them, emptied in between. */
#include "memory/conformance.h"
#include <stdlib.h>
#include <time.h>
#include "support/redis_server.h"

static struct redis_server *server; /* until the program ends: its guardian cleans up */

static void pass_ms(struct subject *subject, int64_t ms)
{
    (void)subject;
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void foreign_set(struct subject *subject, const char *key, const char *value, size_t value_size)
{
    const char *const arguments[] = {"SET", key, value};
    const size_t sizes[] = {3, strlen(key), value_size};
    redis_server_command_argv(subject->server, 3, arguments, sizes, NULL);
}

static void flushall(struct subject *subject)
{
    assert_string_equal(redis_server_command(subject->server, "FLUSHALL", NULL), "OK");
}

static void open_side(struct side *s, const char *prefix, uint64_t value_max)
{
    near_error error = {0};
    *s = (struct side){.log = {.clock = &s->clock}};
    near__alloc_init(&s->alloc, NULL);
    near_options_init(&s->options);
    s->options.prefix = prefix;
    s->options.value_max = value_max;
    assert_int_equal(near__uri_parse(redis_server_uri_unix(server), &s->alloc, &s->options, &s->uri, &error), NEAR_OK);
    struct near__remote_config config = {
        .alloc = &s->alloc, .clock = &s->clock, .log = &s->log, .uri = &s->uri, .options = &s->options};
    assert_int_equal(near__remote_open(&config, &s->remote, &error), NEAR_OK);
}

static void close_side(struct side *s)
{
    side_close(s);
    near__uri_fini(&s->uri, &s->alloc);
}

int conformance_setup(void **state)
{
    if (!server && redis_server_available())
        server = redis_server_start(NULL);
    if (!server)
        return 0;
    struct subject *s = calloc(1, sizeof *s);
    s->server = server;
    s->pass_ms = pass_ms;
    s->foreign_set = foreign_set;
    s->flushall = flushall;
    flushall(s);
    open_side(&s->a, CONFORMANCE_PREFIX, NEAR_VALUE_MAX);
    open_side(&s->b, CONFORMANCE_PREFIX, NEAR_VALUE_MAX);
    open_side(&s->other, "", NEAR_VALUE_MAX);
    open_side(&s->small, CONFORMANCE_PREFIX, 1000);
    *state = s;
    return 0;
}

int conformance_teardown(void **state)
{
    struct subject *s = *state;
    if (!s)
        return 0;
    close_side(&s->a);
    close_side(&s->b);
    close_side(&s->other);
    close_side(&s->small);
    free(s);
    return 0;
}
