/* SPDX-License-Identifier: BSD-3-Clause
 * Channels: a link of its own, subscribed to the shared channel and to this process's private one; with options.track
 * also to the one on which the server reports foreign writes (redis_tracking.c).
 *
 * One thread drives it.  What the server pushes is told apart by its shape and by the channel's exact name; anything
 * else, an error reply to a PING too (R27: -BUSY is what a subscriber gets during a long script), means that it is not
 * known any more what has been heard, and the channel is LOST.  Messages that arrived before the end of the stream are
 * handed on first. */
#include "remote/redis_rights.h"
#include "remote/redis_tracking.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct near__channel {
    struct near__redis *redis;
    struct near__link link;
    char *private_channel;
    int wake_fd;
    struct near__reply *current;      /* whose payload the last read returned */
    struct near__fault fault;         /* the stream has ended; what is in the parser still counts */
    struct near__tracking *tracking;  /* NULL: without */
    const struct near__reply *report; /* current's list of keys while some are left, from `reported` on */
    size_t reported;
    char pong[24]; /* with pong_waits: a PONG that waits for the other half of its answer */
    int pong_waits;
};

/* 1 when somebody called near__channel_wake since the last time. */
static int was_woken(struct near__channel *c)
{
    uint64_t count;
    ssize_t n;
    do
        n = read(c->wake_fd, &count, sizeof count);
    while (n < 0 && errno == EINTR);
    return n > 0;
}

/* ---------------------------------------------------------------- open */

static int is_confirmation(const struct near__reply *reply, const char *channel)
{
    return reply->type == REDIS_REPLY_ARRAY && reply->count == 3 && near__reply_is(reply->element[0], "subscribe") &&
           near__reply_is(reply->element[1], channel);
}

static int subscribe(struct near__channel *c, int64_t deadline_ns, struct near__fault *fault)
{
    const char *names[3] = {c->redis->channel, c->private_channel, NEAR_TRACKING_CHANNEL};
    unsigned count = c->tracking ? 3 : 2;
    struct near__output o;
    near__output_init(&o, c->redis->host.alloc);
    near__output_command(&o, 1 + count);
    near__output_text(&o, "SUBSCRIBE");
    for (unsigned i = 0; i < count; i++)
        near__output_text(&o, names[i]);
    int status = o.failed ? near__fault_set(fault, NEAR_ERR_NOMEM, "out of memory")
                          : near__link_send_wait(&c->link, &o, deadline_ns, fault);
    near__output_fini(&o);
    for (unsigned i = 0; i < count && status == NEAR_OK; i++) {
        struct near__reply *reply = near__link_next_wait(&c->link, deadline_ns, fault);
        if (!reply)
            return fault->status;
        if (!is_confirmation(reply, names[i]))
            status = near__reply_fault(reply, fault);
        near__reply_free(reply);
    }
    return status;
}

static struct near__channel *allocate(struct near__redis *r, const char *private_name, int64_t deadline_ns,
                                      struct near__fault *fault)
{
    const struct near__alloc *alloc = r->host.alloc;
    struct near__channel *c = near__alloc_zero(alloc, sizeof *c);
    near__fault_set(fault, NEAR_ERR_NOMEM, "out of memory for a channel");
    if (!c)
        return NULL;
    c->redis = r;
    c->wake_fd = -1;
    c->private_channel = near__private_channel(alloc, r->channel, private_name, strlen(private_name));
    int track = r->host.options->track == NEAR_TRACK_BCAST;
    if (track)
        c->tracking = near__tracking_create(r, deadline_ns);
    if (!c->private_channel || (track && !c->tracking) ||
        near__link_init(&c->link, &r->host, NEAR_LINK_SUBSCRIPTION, deadline_ns) != NEAR_OK) {
        near__tracking_destroy(c->tracking);
        near__free(alloc, c->private_channel);
        near__free(alloc, c);
        return NULL;
    }
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->wake_fd < 0) {
        near__fault_set(fault, NEAR_ERR_SYSTEM, "eventfd: %m");
        near__redis_channel_close(c);
        return NULL;
    }
    near__descriptors_add(&r->host.descriptors, c->wake_fd);
    return c;
}

int near__redis_channel_open(struct near__remote *remote, const char *private_name, int64_t deadline_ns,
                             struct near__channel **ret, near_error *error)
{
    struct near__redis *r = (struct near__redis *)remote;
    struct near__fault fault;
    struct near__channel *c = allocate(r, private_name, deadline_ns, &fault);
    if (!c)
        return near__fail(error, fault.status, "%s", fault.text);
    int subscribing = 0;
    int status = near__link_open_wait(&c->link, deadline_ns, &fault);
    if (status == NEAR_OK && c->tracking)
        status = near__tracking_aim(c->tracking, &c->link, deadline_ns, &fault); /* 1 */
    if (status == NEAR_OK) {
        subscribing = 1;
        status = subscribe(c, deadline_ns, &fault); /* 2 */
    }
    if (status == NEAR_OK && c->tracking) {
        subscribing = 0;
        status = near__tracking_begin(c->tracking, c->link.server, deadline_ns, &fault); /* 3, 4 */
    }
    if (status != NEAR_OK) {
        if (subscribing && status == NEAR_ERR_DENIED)
            near__redis_denied(r, &fault, 0, error);
        else
            near__fail(error, status, "%s", fault.text);
        near__redis_channel_close(c);
        return status;
    }
    near__pool_expect(r->pool, c->link.server);
    *ret = c;
    return NEAR_OK;
}

void near__redis_channel_close(struct near__channel *c)
{
    const struct near__alloc *alloc = c->redis->host.alloc;
    near__reply_free(c->current);
    near__tracking_destroy(c->tracking); /* its life is that of the subscription: R39 */
    near__link_fini(&c->link);
    near__descriptors_close(&c->redis->host.descriptors, c->wake_fd);
    near__free(alloc, c->private_channel);
    near__free(alloc, c);
}

/* ---------------------------------------------------------------- read */

static void lost(struct near__channel_message *ret, const struct near__fault *fault)
{
    ret->event = NEAR_CHANNEL_LOST;
    ret->status = fault->status;
    memcpy(ret->detail, fault->text, sizeof ret->detail);
}

/* A PONG counts when the control connection has answered, too; until then messages go on. */
static void hold_pong(struct near__channel *c, const struct near__reply *payload)
{
    if (c->pong_waits || payload->size >= sizeof c->pong) {
        near__fault_set(&c->fault, NEAR_ERR_PROTOCOL, "a PONG that nobody asked for");
        return;
    }
    memcpy(c->pong, payload->data, payload->size + 1);
    c->pong_waits = 1;
}

/* Both halves of an answer are there. */
static int pong_is_complete(struct near__channel *c, struct near__channel_message *ret)
{
    if (!c->pong_waits || !near__tracking_vouches(c->tracking))
        return 0;
    c->pong_waits = 0;
    ret->event = NEAR_CHANNEL_PONG;
    ret->payload = c->pong;
    ret->payload_size = strlen(c->pong);
    return 1;
}

/* The next key of a report that is one of ours.  0: there is none left. */
static int next_reported(struct near__channel *c, struct near__channel_message *ret)
{
    while (c->report && c->reported < c->report->count) {
        const struct near__reply *key = c->report->element[c->reported++];
        ret->event = NEAR_CHANNEL_FOREIGN;
        if (near__tracking_key(c->redis, key, &ret->payload, &ret->payload_size))
            return 1;
    }
    c->report = NULL;
    return 0;
}

/* A list of keys, or nil for all of them (R44). */
static int classify_report(struct near__channel *c, const struct near__reply *payload,
                           struct near__channel_message *ret)
{
    int good = payload->type == REDIS_REPLY_NIL || payload->type == REDIS_REPLY_ARRAY;
    for (size_t i = 0; good && i < payload->count; i++)
        good = payload->element[i]->type == REDIS_REPLY_STRING;
    ret->event = NEAR_CHANNEL_FOREIGN;
    if (!good) {
        near__fault_set(&c->fault, NEAR_ERR_PROTOCOL, "a report of tracking that cannot be read");
        lost(ret, &c->fault);
    } else if (payload->type == REDIS_REPLY_ARRAY) {
        c->report = payload;
        c->reported = 0;
        return next_reported(c, ret);
    }
    return 1;
}

static int is_message(const struct near__reply *push)
{
    return push->type == REDIS_REPLY_ARRAY && push->count == 3 && near__reply_is(push->element[0], "message");
}

/* What a push means; the payload's memory stays with it.  0: nothing yet. */
static int classify(struct near__channel *c, struct near__channel_message *ret)
{
    const struct near__reply *push = c->current, *payload = NULL;
    if (is_message(push) && c->tracking && near__reply_is(push->element[1], NEAR_TRACKING_CHANNEL))
        return classify_report(c, push->element[2], ret);
    if (is_message(push)) {
        payload = push->element[2];
        if (near__reply_is(push->element[1], c->redis->channel))
            ret->event = NEAR_CHANNEL_MESSAGE;
        else if (near__reply_is(push->element[1], c->private_channel))
            ret->event = NEAR_CHANNEL_PRIVATE;
        else
            payload = NULL;
    } else if (push->type == REDIS_REPLY_ARRAY && push->count == 2 && near__reply_is(push->element[0], "pong")) {
        payload = push->element[1];
        ret->event = NEAR_CHANNEL_PONG;
    }
    if (!payload || payload->type != REDIS_REPLY_STRING) {
        near__reply_fault(push, &c->fault);
        lost(ret, &c->fault);
        return 1;
    }
    if (ret->event == NEAR_CHANNEL_PONG && c->tracking) {
        hold_pong(c, payload);
        return 0;
    }
    ret->payload = payload->data;
    ret->payload_size = payload->size;
    return 1;
}

/* 1: *ret is filled, 0: nothing complete yet. */
static int next_push(struct near__channel *c, struct near__channel_message *ret)
{
    struct near__fault fault;
    int r;
    if (next_reported(c, ret))
        return 1;
    do {
        near__reply_free(c->current);
        c->current = NULL;
        r = near__link_next(&c->link, &c->current, &fault);
        if (r > 0 && classify(c, ret))
            return 1;
    } while (r > 0 && !c->fault.status);
    if (r < 0 && !c->fault.status)
        c->fault = fault;
    if (c->tracking && !c->fault.status)
        near__tracking_read(c->tracking, &c->fault);
    if (c->fault.status) {
        lost(ret, &c->fault);
        return 1;
    }
    return pong_is_complete(c, ret);
}

/* As near__link_wait, for both connections. */
static int wait_for_news(struct near__channel *c, int64_t until_ns)
{
    struct pollfd p[4];
    if (!c->tracking)
        return near__link_wait(&c->link, 0, c->wake_fd, until_ns);
    p[0] = near__transport_poll(&c->link.transport, 0, &until_ns);
    p[1] = near__transport_poll(&c->tracking->link.transport, 0, &until_ns);
    p[2] = (struct pollfd){c->redis->host.interrupt_fd, POLLIN, 0};
    p[3] = (struct pollfd){c->wake_fd, POLLIN, 0};
    if (near__transport_pending(&c->link.transport) || near__transport_pending(&c->tracking->link.transport))
        return 0;
    return near__poll(p, 4, c->redis->host.clock, until_ns) > 0 && p[3].revents != 0;
}

static int receive(struct near__channel *c)
{
    int news = c->tracking && near__link_receive(&c->tracking->link, &c->fault) != 0;
    return near__link_receive(&c->link, &c->fault) != 0 || news;
}

/* Two calls of the kernel for all messages that are there: the parser is empty when poll is asked, so only poll can
 * tell whether to read, and whether somebody has woken us. */
void near__redis_channel_read(struct near__channel *c, int64_t deadline_ns, struct near__channel_message *ret)
{
    memset(ret, 0, sizeof *ret);
    while (!next_push(c, ret)) {
        if (near__host_is_closing(&c->redis->host)) {
            near__fault_set(&c->fault, NEAR_ERR_CLOSED, "the cache is being closed");
            continue;
        }
        int idle = wait_for_news(c, deadline_ns) && was_woken(c);
        if (!idle && receive(c))
            continue; /* bytes, or the end; c->fault is set by the latter alone */
        if (idle || near__now(c->redis->host.clock) >= deadline_ns) {
            ret->event = NEAR_CHANNEL_IDLE;
            return;
        }
    }
}

/* The control connection is asked first; both answers are about a moment after the call. */
int near__redis_channel_ping(struct near__channel *c, const char *nonce, int64_t deadline_ns)
{
    struct near__output o;
    struct near__fault fault;
    if (c->tracking && near__tracking_ask(c->tracking, deadline_ns, &fault) != NEAR_OK) {
        if (!c->fault.status)
            c->fault = fault;
        return fault.status;
    }
    near__output_init(&o, c->redis->host.alloc);
    near__output_command(&o, 2);
    near__output_text(&o, "PING");
    near__output_text(&o, nonce);
    int status = o.failed ? NEAR_ERR_NOMEM : near__link_send_wait(&c->link, &o, deadline_ns, &fault);
    if (status != NEAR_OK && !o.failed && !c->fault.status)
        c->fault = fault; /* a command sent in part: the channel is of no more use */
    near__output_fini(&o);
    return status;
}

void near__redis_channel_wake(struct near__channel *c)
{
    uint64_t one = 1;
    while (write(c->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

const char *near__redis_channel_server(struct near__channel *c)
{
    return c->link.identity;
}
