/* SPDX-License-Identifier: BSD-3-Clause
 * The self-check and the removal of all keys: commands of their own, over the same data connections.
 *
 * The right to publish on the shared channel is tried without publishing: MULTI, PUBLISH, DISCARD.  The server looks at
 * the rights when the command is queued, and nothing is executed.  The three go out in one job, so no other thread's
 * command can come between, and a job cut in the middle ends its connection, and the transaction with it. */
#include "remote/redis.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "remote/redis_rights.h"

enum { CALLS_MAX = 8, SCAN_COUNT = 512, PUBSUB_LIMIT_MIN = 1 << 20 };

/* A pipeline of commands with one reply each. */
struct pipeline {
    struct near__redis *redis;
    struct near__job job;
    struct near__call calls[CALLS_MAX];
    int64_t deadline_ns;
};

static void begin(struct pipeline *p, struct near__redis *r, int64_t deadline_ns)
{
    memset(p, 0, sizeof *p);
    p->redis = r;
    near__output_init(&p->job.output, r->host.alloc);
    p->job.calls = p->calls;
    p->job.deadline_ns = p->deadline_ns = deadline_ns;
}

/* After the arguments of a command: it is a call. */
static void end_command(struct pipeline *p)
{
    near__call_command(&p->calls[p->job.count++], p->job.output.size);
}

static void simple(struct pipeline *p, const char *first, const char *second, const char *third)
{
    struct near__output *o = &p->job.output;
    near__output_command(o, third ? 3 : second ? 2 : 1);
    near__output_text(o, first);
    if (second)
        near__output_text(o, second);
    if (third)
        near__output_text(o, third);
    end_command(p);
}

/* NEAR_OK when everything is answered (errors of the server are answers, too). */
static int run(struct pipeline *p, near_error *error)
{
    if (p->job.output.failed)
        return near__fail(error, NEAR_ERR_NOMEM, "out of memory");
    near__pool_run(p->redis->pool, &p->job);
    if (p->job.answered == p->job.count)
        return NEAR_OK;
    return near__fail(error, p->job.fault.status, "%s", p->job.fault.text);
}

static struct near__reply *answer(struct pipeline *p, size_t i)
{
    return p->calls[i].reply[0];
}

static void end(struct pipeline *p)
{
    for (size_t i = 0; i < p->job.count; i++)
        if (p->calls[i].got)
            near__reply_free(answer(p, i));
    near__output_fini(&p->job.output);
}

static int is_error(const struct near__reply *reply)
{
    return reply->type == REDIS_REPLY_ERROR;
}

/* ---------------------------------------------------------------- check */

/* A script's rights failed: which rules the user needs. */
static int explain_keys(const struct near__redis *r, const struct near__reply *reply, near_error *error)
{
    struct near__fault fault;
    int status = near__reply_fault(reply, &fault);
    if (status == NEAR_ERR_DENIED)
        return near__redis_denied(r, &fault, 1, error);
    return near__fail(error, status, "%s", fault.text);
}

/* Outside of a transaction who may is told that there is none. */
static int may_discard(struct near__redis *r, int64_t deadline_ns)
{
    struct pipeline p;
    struct near__fault fault;
    begin(&p, r, deadline_ns);
    simple(&p, "DISCARD", NULL, NULL);
    int may = run(&p, NULL) == NEAR_OK && is_error(answer(&p, 0)) &&
              near__reply_fault(answer(&p, 0), &fault) != NEAR_ERR_DENIED;
    end(&p);
    return may;
}

/* Without the right to MULTI, PUBLISH would be executed.  Without that to DISCARD the connection would stay in the
 * transaction for good, and so would every command of every thread on it. */
static int may_use_multi(struct near__redis *r, int64_t deadline_ns)
{
    struct pipeline p;
    if (!may_discard(r, deadline_ns))
        return 0;
    begin(&p, r, deadline_ns);
    simple(&p, "MULTI", NULL, NULL);
    simple(&p, "DISCARD", NULL, NULL);
    int may = run(&p, NULL) == NEAR_OK && !is_error(answer(&p, 0)) && !is_error(answer(&p, 1));
    end(&p);
    return may;
}

static int check_publish(struct near__redis *r, int64_t deadline_ns, near_error *error)
{
    struct pipeline p;
    if (!may_use_multi(r, deadline_ns))
        return NEAR_OK; /* the script has published on a channel beside this one */
    begin(&p, r, deadline_ns);
    simple(&p, "MULTI", NULL, NULL);
    simple(&p, "PUBLISH", r->channel, "");
    simple(&p, "DISCARD", NULL, NULL);
    int status = run(&p, error);
    if (status == NEAR_OK && is_error(answer(&p, 1)))
        status = explain_keys(r, answer(&p, 1), error);
    end(&p);
    return status;
}

/* Reads, and the script that tries every right on a scratch key. */
static int check_rights(struct near__redis *r, int64_t deadline_ns, near_error *error)
{
    struct pipeline p;
    char scratch[64];
    uint64_t number = (uint64_t)near__now(r->host.clock);
    int status = NEAR_OK;
    near__random_seed(&number, sizeof number);
    int n = snprintf(scratch, sizeof scratch, "nearcache-check-%016" PRIx64, number);
    begin(&p, r, deadline_ns);
    struct near__output *o = &p.job.output;
    char *channel = near__private_channel(r->host.alloc, r->channel, "check", 5);
    near__output_command(o, 6);
    near__output_text(o, "EVAL");
    near__output_text(o, near__script_check.text);
    near__output_text(o, "2");
    near__output_text(o, r->position_key);
    near__output_joined(o, r->prefix, r->prefix_size, scratch, (size_t)n);
    near__output_text(o, channel ? channel : "");
    end_command(&p);
    near__output_command(o, 2);
    near__output_text(o, "GET");
    near__output_joined(o, r->prefix, r->prefix_size, scratch, (size_t)n);
    end_command(&p);
    simple(&p, "GET", r->position_key, NULL);
    simple(&p, "EVALSHA", "0000000000000000000000000000000000000000", "0"); /* NOSCRIPT when it is allowed */
    p.job.output.failed |= !channel;
    status = run(&p, error);
    for (size_t i = 0; i < p.job.count && status == NEAR_OK; i++)
        if (is_error(answer(&p, i)) && !near__error_is_noscript(answer(&p, i)->data))
            status = explain_keys(r, answer(&p, i), error);
    near__free(r->host.alloc, channel);
    end(&p);
    return status;
}

/* The hard limit of "client-output-buffer-limit"'s pubsub class; 0: none, or unknown. */
static uint64_t pubsub_limit(const struct near__reply *reply)
{
    const char *at;
    if (reply->type != REDIS_REPLY_ARRAY || reply->count != 2 || reply->element[1]->type != REDIS_REPLY_STRING)
        return 0;
    at = strstr(reply->element[1]->data, "pubsub ");
    return at ? strtoull(at + 7, NULL, 10) : 0;
}

/* Both are often denied, which is no fault: a replica has refused the script already. */
static int check_server(struct near__redis *r, int64_t deadline_ns, near_error *error)
{
    struct pipeline p;
    begin(&p, r, deadline_ns);
    simple(&p, "INFO", "replication", NULL);
    simple(&p, "CONFIG", "GET", "client-output-buffer-limit");
    int status = run(&p, error);
    if (status == NEAR_OK) {
        const struct near__reply *role = answer(&p, 0);
        uint64_t most = pubsub_limit(answer(&p, 1));
        if (role->type == REDIS_REPLY_STRING && !strstr(role->data, "role:master"))
            status = near__fail(error, NEAR_ERR_READONLY, "%s is a replica", r->host.target.name);
        else if (most != 0 && most < PUBSUB_LIMIT_MIN)
            status = near__fail(
                error, NEAR_ERR_MISCONFIGURED,
                "client-output-buffer-limit pubsub %" PRIu64 ": a burst of messages drops the subscriber", most);
    }
    end(&p);
    return status;
}

int near__redis_check(struct near__remote *remote, int64_t deadline_ns, near_error *error)
{
    struct near__redis *r = (struct near__redis *)remote;
    int status = check_rights(r, deadline_ns, error);
    if (status == NEAR_OK)
        status = check_publish(r, deadline_ns, error);
    if (status == NEAR_OK)
        status = check_server(r, deadline_ns, error);
    return status;
}

/* ---------------------------------------------------------------- clear */

/* Keys of ours that the pattern may meet, with a prefix like "near". */
static int is_position(const struct near__reply *key)
{
    size_t n = strlen(NEAR_POSITION_KEY_BEGIN);
    return key->size >= n && memcmp(key->data, NEAR_POSITION_KEY_BEGIN, n) == 0;
}

static void add_unlink(struct pipeline *p, const struct near__reply *keys)
{
    unsigned n = 0;
    for (size_t i = 0; keys && i < keys->count; i++)
        n += !is_position(keys->element[i]);
    if (n == 0)
        return;
    near__output_command(&p->job.output, n + 1);
    near__output_text(&p->job.output, "UNLINK");
    for (size_t i = 0; i < keys->count; i++)
        if (!is_position(keys->element[i]))
            near__output_argument(&p->job.output, keys->element[i]->data, keys->element[i]->size);
    end_command(p);
}

static void add_scan(struct pipeline *p, const char *cursor, const char *pattern)
{
    struct near__output *o = &p->job.output;
    near__output_command(o, 6);
    near__output_text(o, "SCAN");
    near__output_text(o, cursor);
    near__output_text(o, "MATCH");
    near__output_text(o, pattern);
    near__output_text(o, "COUNT");
    near__output_number(o, SCAN_COUNT);
    end_command(p);
}

static int is_page(const struct near__reply *reply)
{
    if (reply->type != REDIS_REPLY_ARRAY || reply->count != 2 || reply->element[0]->type != REDIS_REPLY_STRING ||
        reply->element[0]->size > 20 || reply->element[1]->type != REDIS_REPLY_ARRAY)
        return 0;
    for (size_t i = 0; i < reply->element[1]->count; i++)
        if (reply->element[1]->element[i]->type != REDIS_REPLY_STRING)
            return 0;
    return 1;
}

static int fail_with(const struct near__reply *reply, near_error *error)
{
    struct near__fault fault;
    near__reply_fault(reply, &fault);
    return near__fail(error, fault.status, "%s", fault.text);
}

/* Removes the page's keys and reads the next page in the same pipeline; *page is replaced, NULL after the last. */
static int clear_step(struct near__redis *r, const char *pattern, struct near__reply **page, int64_t deadline_ns,
                      uint64_t *removed, near_error *error)
{
    struct pipeline p;
    const char *cursor = *page ? (*page)->element[0]->data : "0";
    int is_last = *page && strcmp(cursor, "0") == 0;
    struct near__reply *next = NULL;
    begin(&p, r, deadline_ns);
    add_unlink(&p, *page ? (*page)->element[1] : NULL);
    size_t unlinks = p.job.count;
    if (!is_last)
        add_scan(&p, cursor, pattern);
    int status = p.job.count ? run(&p, error) : NEAR_OK;
    if (status != NEAR_OK && unlinks && p.calls[0].outcome == NEAR_CALL_LOST)
        status = NEAR_ERR_UNKNOWN;
    for (size_t i = 0; i < p.job.count && status == NEAR_OK; i++) {
        struct near__reply *reply = answer(&p, i);
        if (i < unlinks && reply->type == REDIS_REPLY_INTEGER && reply->integer >= 0)
            *removed += (uint64_t)reply->integer;
        else if (i >= unlinks && is_page(reply))
            next = reply, p.calls[i].got = 0; /* kept */
        else
            status = fail_with(reply, error);
    }
    end(&p);
    near__reply_free(*page);
    *page = next;
    return status;
}

int near__redis_clear_keys(struct near__remote *remote, int64_t deadline_ns, uint64_t *ret_removed)
{
    struct near__redis *r = (struct near__redis *)remote;
    struct near__reply *page = NULL;
    uint64_t removed = 0;
    if (r->prefix_size == 0)
        return NEAR_ERR_INVALID;
    char *pattern = near__pattern_of(r->host.alloc, r->prefix);
    int status = pattern ? NEAR_OK : NEAR_ERR_NOMEM;
    if (status == NEAR_OK)
        do
            status = clear_step(r, pattern, &page, deadline_ns, &removed, NULL);
        while (status == NEAR_OK && page);
    near__reply_free(page);
    near__free(r->host.alloc, pattern);
    if (ret_removed)
        *ret_removed = removed;
    return status;
}

/* ---------------------------------------------------------------- scan */

/* The prefix, escaped, and the pattern. */
static char *pattern_behind_prefix(struct near__redis *r, const char *pattern)
{
    char *escaped = near__pattern_of(r->host.alloc, r->prefix);
    if (!escaped)
        return NULL;
    size_t size = strlen(escaped) - 1, more = strlen(pattern) + 1; /* without the star */
    char *both = near__realloc(r->host.alloc, escaped, size + more);
    if (both)
        memcpy(both + size, pattern, more);
    else
        near__free(r->host.alloc, escaped);
    return both;
}

static void tell_keys(struct near__redis *r, const struct near__reply *keys, near__scan_fn fn, void *arg)
{
    for (size_t i = 0; i < keys->count; i++) {
        const struct near__reply *key = keys->element[i];
        if (!is_position(key) && key->size >= r->prefix_size)
            fn(arg, key->data + r->prefix_size, key->size - r->prefix_size);
    }
}

int near__redis_scan(struct near__remote *remote, const char *pattern, char cursor[NEAR_SCAN_CURSOR],
                     int64_t deadline_ns, near__scan_fn fn, void *arg)
{
    struct near__redis *r = (struct near__redis *)remote;
    struct pipeline p;
    char *whole = pattern_behind_prefix(r, pattern);
    if (!whole)
        return NEAR_ERR_NOMEM;
    begin(&p, r, deadline_ns);
    add_scan(&p, cursor, whole);
    int status = run(&p, NULL);
    if (status == NEAR_OK && !is_page(answer(&p, 0)))
        status = fail_with(answer(&p, 0), NULL);
    if (status == NEAR_OK) {
        const struct near__reply *page = answer(&p, 0);
        memcpy(cursor, page->element[0]->data, page->element[0]->size + 1);
        tell_keys(r, page->element[1], fn, arg);
    }
    end(&p);
    near__free(r->host.alloc, whole);
    return status;
}
