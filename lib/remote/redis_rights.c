/* SPDX-License-Identifier: BSD-3-Clause
 * The rule that a user needs is the user's, the prefix's and the options': nobody should have to find it by trying.
 * The server names the command that it refuses, but for those that a script calls: then it has only the script's
 * digest. */
#include "remote/redis_rights.h"

#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "remote/redis_tracking.h"
#include "remote/script.h"

/* Everything that the library asks of a server; a test uses all of it as a user who may do no more.  CLIENT SETNAME,
 * CLIENT NO-EVICT, CONFIG GET, MULTI and DISCARD may be missing: they are asked for, and nothing depends on them. */
static const char commands[] =
    " +ping +info +select +client|setname +client|no-evict +eval +evalsha +get +mget +pttl +exists +set +del +unlink"
    " +incr +incrby +decr +decrby +pexpire +persist +time +hset +hget +hgetall +hdel +publish +subscribe +scan +multi"
    " +discard +config|get";
static const char tracking_commands[] = " +client|id +client|tracking +client|trackinginfo";

static void add(struct near__buffer *b, const char *text)
{
    near__buffer_append(b, text, strlen(text));
}

static void add_pattern(struct near__buffer *b, const char *before, const char *text)
{
    char *pattern = near__pattern_of(b->alloc, text);
    b->failed |= !pattern;
    add(b, before);
    add(b, pattern ? pattern : "");
    near__free(b->alloc, pattern);
}

static int is_tracking(const struct near__redis *r)
{
    return r->host.options->track == NEAR_TRACK_BCAST;
}

/* For all processes that share the prefix. */
static void add_rule(struct near__buffer *b, const struct near__redis *r, int keys)
{
    add(b, "ACL SETUSER ");
    add(b, r->host.username ? r->host.username : "default");
    if (keys) {
        add_pattern(b, " ~", r->prefix);
        add(b, " ~");
        add(b, r->position_key);
    }
    add_pattern(b, " &", r->channel);
    add(b, is_tracking(r) ? " &" NEAR_TRACKING_CHANNEL : "");
}

static void log_rule(const struct near__redis *r, struct near__buffer *b)
{
    add_rule(b, r, 1);
    add(b, commands);
    add(b, is_tracking(r) ? tracking_commands : "");
    near__buffer_append_byte(b, 0);
    near__log(r->host.log, NEAR_LOG_ERROR, "remote", "the user lacks rights; needed: %s",
              b->failed ? "(out of memory)" : (const char *)b->data);
}

/* Nobody is sent to a log that has nothing. */
static const char *where_the_rule_is(const struct near__log *log)
{
    return log->fn && log->level >= NEAR_LOG_ERROR
               ? "the log has the rule that the user needs"
               : "near_options.log, with log_level 3 or more, gets the rule that the user needs";
}

int near__redis_denied(const struct near__redis *r, const struct near__fault *fault, int keys, near_error *error)
{
    const char *in_log = where_the_rule_is(r->host.log);
    struct near__buffer b;
    near__buffer_init(&b, r->host.alloc);
    log_rule(r, &b);
    near__buffer_consume(&b, b.size);
    add_rule(&b, r, keys);
    near__buffer_append_byte(&b, 0);
    int fits = !b.failed && strlen(fault->text) + b.size + sizeof("; needed: ") <= sizeof(((near_error *)0)->text);
    if (strstr(fault->text, "command")) /* keys and channels are not what is missing */
        near__fail(error, fault->status, "%s; %s", fault->text, in_log);
    else
        near__fail(error, fault->status, "%s; needed: %s", fault->text, fits ? (const char *)b.data : in_log);
    near__buffer_fini(&b);
    return fault->status;
}
