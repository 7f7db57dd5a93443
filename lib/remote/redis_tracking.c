/* SPDX-License-Identifier: BSD-3-Clause
 *
 * track=bcast: the server reports every write to a key with our prefix, whoever does it, and every expiry, eviction and
 * flush.
 *
 * One *control connection* beside the subscription asks for that: CLIENT TRACKING ON BCAST PREFIX … REDIRECT
 * <subscription>.  The reports come on the subscription, in the one stream with messages and PONGs.  Nothing is
 * remembered per key on the server, and no data connection takes part, so that any of them may close (R41, R45); NOLOOP
 * is not used (R42, R43).
 *
 * The order in which it is set up is what makes it complete (R40: a report to a connection that is not subscribed yet
 * vanishes):
 *
 *     1. subscription: CLIENT ID
 *     2. subscription: SUBSCRIBE … __redis__:invalidate, confirmed
 *     3. control connection: opened, to the same server (R31: the id would be somebody else's on another one)
 *     4. control connection: TRACKING ON, and TRACKINGINFO says so
 *
 * Only then is the channel open: who fetches after that, and he alone, fetches what will be reported.  The two
 * connections live and die together: the server does not tell in RESP2 that the redirection is broken (R39), and
 * tracking ends silently with the control connection.  With each PING goes a TRACKINGINFO; the PONG is passed on only
 * when it has been answered, with "on".
 *
 * Why that is a proof.  The server puts its reports out at the end of each turn of its event loop, after the PONGs of
 * that turn (R26).  Let a write be done before a PING is sent.  While only one PING is outstanding, and it is the only
 * thing ever sent on the subscription, the server finds that socket readable at the earliest at the beginning of the
 * turn after the write's; so the write's report is in the stream before the PONG.  The same holds for the one
 * TRACKINGINFO on its socket: it runs in a later turn than the write's, so its "on" says that tracking was in force at
 * the end of the write's turn, when the report went out. */
#include "remote/redis_tracking.h"

#include <string.h>

#include "base/mutant.h"

struct near__tracking *near__tracking_create(struct near__redis *r, int64_t deadline_ns)
{
    struct near__tracking *t = near__alloc_zero(r->host.alloc, sizeof *t);
    if (!t)
        return NULL;
    t->redis = r;
    if (near__link_init(&t->link, &r->host, NEAR_LINK_TRACKING, deadline_ns) == NEAR_OK)
        return t;
    near__free(r->host.alloc, t);
    return NULL;
}

void near__tracking_destroy(struct near__tracking *t)
{
    if (!t)
        return;
    near__link_fini(&t->link);
    near__free(t->redis->host.alloc, t);
}

/* ---------------------------------------------------------------- setting up */

/* An error reply's words, with the rule that is missing or the version that is needed. */
static int refused(const struct near__tracking *t, const struct near__reply *reply, struct near__fault *fault)
{
    const struct near__host *h = &t->redis->host;
    int status = near__reply_fault(reply, fault);
    if (status == NEAR_ERR_DENIED)
        near__fault_set(fault, status,
                        "track=bcast: ACL SETUSER %.40s +client|id +client|tracking +client|trackinginfo",
                        h->username ? h->username : "default");
    else if (status == NEAR_ERR_REMOTE)
        near__fault_set(fault, NEAR_ERR_UNSUPPORTED, "track=bcast needs Redis 6.2: %.80s", reply->data);
    return fault->status;
}

static int send_out(struct near__link *l, struct near__output *o, int64_t deadline_ns, struct near__fault *fault)
{
    int status = o->failed ? near__fault_set(fault, NEAR_ERR_NOMEM, "out of memory")
                           : near__link_send_wait(l, o, deadline_ns, fault);
    near__output_fini(o);
    return status;
}

static void client(struct near__output *o, const struct near__link *l, unsigned more, const char *subcommand)
{
    near__output_init(o, l->host->alloc);
    near__output_command(o, 2 + more);
    near__output_text(o, "CLIENT");
    near__output_text(o, subcommand);
}

int near__tracking_aim(struct near__tracking *t, struct near__link *subscription, int64_t deadline_ns,
                       struct near__fault *fault)
{
    struct near__output o;
    client(&o, subscription, 0, "ID");
    int status = send_out(subscription, &o, deadline_ns, fault);
    if (status != NEAR_OK)
        return status;
    struct near__reply *reply = near__link_next_wait(subscription, deadline_ns, fault);
    if (!reply)
        return fault->status;
    t->target = reply->integer;
    if (reply->type != REDIS_REPLY_INTEGER)
        status = refused(t, reply, fault);
    near__reply_free(reply);
    return status;
}

static int switch_on(struct near__tracking *t, int64_t deadline_ns, struct near__fault *fault)
{
    struct near__output o;
    int all = t->redis->prefix_size == 0;
    client(&o, &t->link, all ? 4 : 6, "TRACKING");
    near__output_text(&o, "ON");
    near__output_text(&o, "REDIRECT");
    near__output_number(&o, t->target);
    near__output_text(&o, "BCAST");
    if (!all) {
        near__output_text(&o, "PREFIX");
        near__output_argument(&o, t->redis->prefix, t->redis->prefix_size);
    }
    int status = send_out(&t->link, &o, deadline_ns, fault);
    if (status != NEAR_OK)
        return status;
    struct near__reply *reply = near__link_next_wait(&t->link, deadline_ns, fault);
    if (!reply)
        return fault->status;
    if (!near__reply_is(reply, "OK"))
        status = refused(t, reply, fault);
    near__reply_free(reply);
    return status;
}

/* ---------------------------------------------------------------- is it in force? */

static int has_flag(const struct near__reply *flags, const char *flag)
{
    for (size_t i = 0; i < flags->count; i++)
        if (near__reply_is(flags->element[i], flag))
            return 1;
    return 0;
}

/* The value behind a name in a list of names and values. */
static const struct near__reply *field(const struct near__reply *reply, const char *name, int type)
{
    for (size_t i = 0; i + 1 < reply->count; i += 2)
        if (near__reply_is(reply->element[i], name))
            return reply->element[i + 1]->type == type ? reply->element[i + 1] : NULL;
    return NULL;
}

/* NEAR_OK when the answer to TRACKINGINFO says that what was switched on is on. */
static int judge(struct near__tracking *t, const struct near__reply *reply, struct near__fault *fault)
{
    if (reply->type == REDIS_REPLY_ERROR)
        return refused(t, reply, fault);
    const struct near__reply *flags = field(reply, "flags", REDIS_REPLY_ARRAY);
    const struct near__reply *redirect = field(reply, "redirect", REDIS_REPLY_INTEGER);
    if (flags && redirect && has_flag(flags, "on") && has_flag(flags, "bcast") && !has_flag(flags, "broken_redirect") &&
        redirect->integer == t->target)
        return NEAR_OK;
    return near__fault_set(fault, NEAR_ERR_PROTOCOL, "the server does not report foreign writes any more");
}

int near__tracking_ask(struct near__tracking *t, int64_t deadline_ns, struct near__fault *fault)
{
    struct near__output o;
    client(&o, &t->link, 0, "TRACKINGINFO");
    t->asked = 1;
    return send_out(&t->link, &o, deadline_ns, fault);
}

static int begin_asking(struct near__tracking *t, int64_t deadline_ns, struct near__fault *fault)
{
    int status = near__tracking_ask(t, deadline_ns, fault);
    struct near__reply *reply = status == NEAR_OK ? near__link_next_wait(&t->link, deadline_ns, fault) : NULL;
    if (!reply)
        return fault->status;
    t->asked = 0;
    status = judge(t, reply, fault);
    near__reply_free(reply);
    return status;
}

int near__tracking_begin(struct near__tracking *t, uint64_t server, int64_t deadline_ns, struct near__fault *fault)
{
    int status = near__link_open_wait(&t->link, deadline_ns, fault);
    if (status == NEAR_OK && t->link.server != server)
        status = near__fault_set(fault, NEAR_ERR_UNAVAILABLE,
                                 "subscription and control connection lead to different servers");
    if (status == NEAR_OK)
        status = switch_on(t, deadline_ns, fault);
    if (status == NEAR_OK)
        status = begin_asking(t, deadline_ns, fault);
    return status;
}

int near__tracking_vouches(const struct near__tracking *t)
{
    return !t->asked || NEAR_MUTANT(TRACKING_UNASKED);
}

void near__tracking_read(struct near__tracking *t, struct near__fault *fault)
{
    struct near__reply *reply;
    int r;
    while ((r = near__link_next(&t->link, &reply, fault)) > 0) {
        int good = t->asked && judge(t, reply, fault) == NEAR_OK;
        if (!t->asked)
            near__fault_set(fault, NEAR_ERR_PROTOCOL, "the control connection answers without a question");
        near__reply_free(reply);
        if (!good)
            return;
        t->asked = 0;
    }
}

/* ---------------------------------------------------------------- keys */

/* The position is written by every write of ours; with an empty prefix it is reported, too. */
int near__tracking_key(const struct near__redis *r, const struct near__reply *key, const void **ret, size_t *ret_size)
{
    if (key->size < r->prefix_size || (r->prefix_size && memcmp(key->data, r->prefix, r->prefix_size) != 0))
        return 0;
    if (near__reply_is(key, r->position_key))
        return 0;
    *ret = key->data + r->prefix_size;
    *ret_size = key->size - r->prefix_size;
    return 1;
}
