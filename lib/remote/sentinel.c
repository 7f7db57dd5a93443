/* SPDX-License-Identifier: BSD-3-Clause
 * Asking the sentinels.  See sentinel.h.
 *
 *     AUTH [user] password                    when there is one for the sentinels
 *     SENTINEL GET-MASTER-ADDR-BY-NAME name   host and port
 *
 * Each of those that are left has an equal share of the time, and the master's own connection one as well, so that a
 * sentinel that is silent delays and does not prevent.  When nobody knows, the reason told is that of one that
 * answered, if there was one. */
#include "remote/sentinel.h"

#include <stdlib.h>
#include <string.h>

#include "remote/link.h"

enum { INPUT_SIZE = 1024, BULK_MAX = 4096 };

struct near__sentinel {
    char host[NEAR_URI_HOST_SIZE];
    struct near__target target; /* its tls is the master's */
};

struct near__sentinels {
    const struct near__alloc *alloc;
    const struct near__clock *clock;
    const char *master, *username, *password;
    atomic_uint first; /* relaxed: a hint */
    unsigned count;
    struct near__sentinel sentinel[];
};

struct near__question {
    struct near__sentinels *all;
    int64_t deadline_ns;
    unsigned first, asked; /* asked: those that are done with */
    int is_asking;
    int is_told; /* fault is in a sentinel's words */
    struct near__fault fault;
    /* the present one */
    int64_t until_ns;
    int is_heard;
    struct near__transport transport;
    struct near__output output;
    struct near__cursor at;
    struct near__resp resp;
    unsigned due; /* replies */
};

/* ---------------------------------------------------------------- the list */

static unsigned count_hosts(const char *list)
{
    char host[NEAR_URI_HOST_SIZE];
    uint16_t port;
    unsigned n = 0;
    while (near__uri_next_host(&list, host, &port))
        n++;
    return n;
}

struct near__sentinels *near__sentinels_open(const struct near__uri *uri, const near_options *options,
                                             const struct near__alloc *alloc, const struct near__clock *clock,
                                             unsigned user_timeout_ms, struct near__tls *tls,
                                             struct near__descriptors *descriptors)
{
    const char *list = uri->sentinels;
    unsigned count = count_hosts(list);
    struct near__sentinels *s = near__alloc_zero(alloc, sizeof *s + count * sizeof s->sentinel[0]);
    if (!s)
        return NULL;
    s->alloc = alloc;
    s->clock = clock;
    s->master = options->sentinel_master;
    s->username = options->sentinel_username;
    s->password = options->sentinel_password;
    for (; s->count < count; s->count++) {
        struct near__sentinel *one = &s->sentinel[s->count];
        struct near__uri its = {.kind = uri->kind, .host = one->host};
        (void)near__uri_next_host(&list, one->host, &its.port); /* there is one: counted */
        near__target_init(&one->target, clock, &its, user_timeout_ms, descriptors);
        one->target.tls = tls;
    }
    return s;
}

void near__sentinels_close(struct near__sentinels *s)
{
    if (!s)
        return;
    for (unsigned i = 0; i < s->count; i++) {
        s->sentinel[i].target.tls = NULL;
        near__target_fini(&s->sentinel[i].target);
    }
    near__free(s->alloc, s);
}

/* Two links that it has misled must not step over the one behind it, nor over what somebody has found meanwhile. */
void near__sentinels_doubt(struct near__sentinels *s, unsigned who)
{
    atomic_compare_exchange_strong_explicit(&s->first, &who, who + 1, memory_order_relaxed, memory_order_relaxed);
}

/* ---------------------------------------------------------------- one of them */

static struct near__target *present(const struct near__question *q)
{
    return &q->all->sentinel[(q->first + q->asked) % q->all->count].target;
}

static void write_question(struct near__question *q)
{
    const struct near__sentinels *s = q->all;
    struct near__output *o = &q->output;
    q->due = near__output_login(o, s->username, s->password) ? 2 : 1;
    near__output_command(o, 3);
    near__output_text(o, "SENTINEL");
    near__output_text(o, "GET-MASTER-ADDR-BY-NAME");
    near__output_text(o, s->master);
}

static void end(struct near__question *q)
{
    near__transport_fini(&q->transport);
    near__resp_fini(&q->resp);
    near__output_fini(&q->output);
    q->is_asking = 0;
}

/* 0, or -1: out of memory. */
static int begin(struct near__question *q)
{
    int64_t now = near__now(q->all->clock), left = q->deadline_ns > now ? q->deadline_ns - now : 0;
    q->until_ns = now + left / (q->all->count - q->asked + 1);
    q->at = (struct near__cursor){0, 0};
    q->is_heard = 0;
    near__transport_init(&q->transport, present(q), q->until_ns);
    near__output_init(&q->output, q->all->alloc);
    write_question(q);
    q->is_asking = 1;
    if (near__resp_init(&q->resp, q->all->alloc, BULK_MAX) == NEAR_OK && !q->output.failed)
        return 0;
    end(q);
    return -1;
}

static int is_text(const struct near__reply *reply)
{
    return reply->type == REDIS_REPLY_STRING && strlen(reply->data) == reply->size;
}

/* host, port: 1, or 0 when it is something else */
static int is_address(const struct near__reply *reply, struct near__told *ret)
{
    char *end = NULL;
    unsigned long port = 0;
    if (reply->type == REDIS_REPLY_ARRAY && reply->count == 2 && is_text(reply->element[0]) &&
        is_text(reply->element[1]) && reply->element[0]->size < sizeof ret->host)
        port = strtoul(reply->element[1]->data, &end, 10);
    if (port == 0 || port > UINT16_MAX || *end != '\0')
        return 0;
    memcpy(ret->host, reply->element[0]->data, reply->element[0]->size + 1);
    ret->port = (uint16_t)port;
    return 1;
}

/* In its own words, which would otherwise be taken for the master's. */
static int refused(const struct near__question *q, const struct near__reply *reply, int is_login,
                   struct near__fault *fault)
{
    struct near__fault its;
    int status = near__reply_fault(reply, &its);
    if (is_login && status == NEAR_ERR_REMOTE)
        status = NEAR_ERR_AUTH;
    near__fault_set(fault, status, "sentinel %.40s: %.66s", present(q)->name, its.text);
    return -1;
}

/* 1: the master is known, 0: that was not yet the answer, -1. */
static int read_reply(struct near__question *q, const struct near__reply *reply, struct near__told *ret,
                      struct near__fault *fault)
{
    int is_login = --q->due > 0;
    q->is_heard = 1;
    if (is_login && reply->type != REDIS_REPLY_ERROR)
        return 0;
    if (!is_login && reply->type == REDIS_REPLY_NIL) {
        near__fault_set(fault, NEAR_ERR_UNAVAILABLE, "sentinel %.50s knows no master %.40s", present(q)->name,
                        q->all->master);
        return -1;
    }
    if (!is_login && is_address(reply, ret))
        return 1;
    return refused(q, reply, is_login, fault);
}

/* A reply that is too large is no value of the caller's: it must not be told as one. */
static int malformed(const struct near__question *q, struct near__fault *fault)
{
    const struct near__fault *its = &q->resp.fault;
    near__fault_set(fault, its->status == NEAR_ERR_NOMEM ? NEAR_ERR_NOMEM : NEAR_ERR_PROTOCOL, "sentinel %.40s: %.66s",
                    present(q)->name, its->text);
    return -1;
}

/* Writes and reads what can be at once. */
static int pump(struct near__question *q, struct near__told *ret, struct near__fault *fault)
{
    char input[INPUT_SIZE];
    struct near__reply *reply;
    uint64_t sent = 0;
    ssize_t n;
    if (near__output_send(&q->transport, &q->output, &q->at, &sent, fault) < 0)
        return -1;
    do {
        int r;
        while ((r = near__resp_next(&q->resp, &reply)) > 0) {
            r = read_reply(q, reply, ret, fault);
            near__reply_free(reply);
            if (r != 0)
                return r;
        }
        if (r < 0)
            return malformed(q, fault);
        n = near__transport_read(&q->transport, input, sizeof input, fault);
        if (n > 0)
            (void)near__resp_feed(&q->resp, input, (size_t)n); /* its fault is the next call's */
    } while (n > 0);
    if (n == 0 && near__now(q->all->clock) >= q->until_ns) {
        near__fault_set(fault, NEAR_ERR_UNAVAILABLE, "sentinel %.80s does not answer", present(q)->name);
        return -1;
    }
    return (int)n;
}

/* ---------------------------------------------------------------- all of them */

struct near__question *near__question_new(struct near__sentinels *s, int64_t deadline_ns, struct near__fault *fault)
{
    struct near__question *q = near__alloc_zero(s->alloc, sizeof *q);
    if (!q) {
        near__fault_set(fault, NEAR_ERR_NOMEM, "out of memory");
        return NULL;
    }
    q->all = s;
    q->deadline_ns = deadline_ns;
    q->first = atomic_load_explicit(&s->first, memory_order_relaxed);
    return q;
}

void near__question_free(struct near__question *q)
{
    if (!q)
        return;
    if (q->is_asking)
        end(q);
    near__free(q->all->alloc, q);
}

/* The present one, for that reason. */
static void give_up(struct near__question *q, const struct near__fault *its)
{
    if (q->is_heard || !q->is_told)
        q->fault = *its;
    q->is_told |= q->is_heard;
    end(q);
    q->asked++;
}

int near__question_step(struct near__question *q, struct near__told *ret, struct near__fault *fault)
{
    while (q->asked < q->all->count) {
        struct near__fault its = {0, ""};
        if (!q->is_asking && begin(q) != 0) {
            near__fault_set(fault, NEAR_ERR_NOMEM, "out of memory");
            return -1;
        }
        int r = near__transport_step(&q->transport, &its);
        if (r > 0)
            r = pump(q, ret, &its);
        if (r == 0)
            return 0;
        if (r > 0) {
            /* unless somebody has doubted meanwhile, the same one is asked first again */
            unsigned first = q->first;
            ret->who = q->first + q->asked;
            atomic_compare_exchange_strong_explicit(&q->all->first, &first, ret->who, memory_order_relaxed,
                                                    memory_order_relaxed);
            return 1;
        }
        give_up(q, &its);
    }
    *fault = q->fault;
    return -1;
}

struct pollfd near__question_poll(const struct near__question *q, int64_t *until_ns)
{
    if (!q->is_asking) {
        *until_ns = 0;
        return (struct pollfd){-1, 0, 0};
    }
    if (q->until_ns < *until_ns)
        *until_ns = q->until_ns;
    return near__transport_poll(&q->transport, q->at.segment < q->output.count, until_ns);
}
