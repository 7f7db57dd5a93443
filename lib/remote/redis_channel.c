/* SPDX-License-Identifier: BSD-3-Clause
 * Channels: a link of its own, subscribed to the shared channel and to this process's private one.
 *
 * One thread drives it.  What the server pushes is told apart by its shape and by the channel's exact name; anything else,
 * an error reply to a PING too (R27: -BUSY is what a subscriber gets during a long script), means that it is not known any
 * more what has been heard, and the channel is LOST.  Messages that arrived before the end of the stream are handed on
 * first. */
#include "remote/redis.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct near__channel {
    struct near__redis *redis;
    struct near__link link;
    char *private_channel;
    int wake_fd;
    struct near__reply *current; /* whose payload the last read returned */
    struct near__fault fault;    /* the stream has ended; what is in the parser still counts */
};

static int is_closing(const struct near__channel *c)
{
    /* acquire: pairs with near__remote_interrupt's store */
    return atomic_load_explicit(&c->redis->host.closing, memory_order_acquire);
}

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

static int open_link(struct near__channel *c, int64_t deadline_ns, struct near__fault *fault)
{
    for (;;) {
        if (is_closing(c))
            return near__fault_set(fault, NEAR_ERR_CLOSED, "the cache is being closed");
        int r = near__link_open_step(&c->link, -1, deadline_ns, fault);
        if (r > 0)
            return NEAR_OK;
        if (r < 0)
            return fault->status;
        if (near__now(c->redis->host.clock) >= deadline_ns)
            return near__fault_set(fault, NEAR_ERR_TIMEOUT, "timed out while connecting to %s", c->redis->host.target.name);
    }
}

/* Sends all of it, waiting for room until the deadline. */
static int send_all(struct near__channel *c, const struct near__output *o, int64_t deadline_ns, struct near__fault *fault)
{
    struct near__cursor at = {0, 0};
    uint64_t sent = 0;
    for (;;) {
        int r = near__link_send(&c->link, o, &at, &sent, fault);
        if (r > 0)
            return NEAR_OK;
        if (r < 0)
            return fault->status;
        if (is_closing(c))
            return near__fault_set(fault, NEAR_ERR_CLOSED, "the cache is being closed");
        if (near__now(c->redis->host.clock) >= deadline_ns)
            return near__fault_set(fault, NEAR_ERR_TIMEOUT, "%s takes nothing", c->redis->host.target.name);
        struct pollfd p = {c->link.transport.fd, POLLOUT, 0}, both[2] = {p, {c->redis->host.interrupt_fd, POLLIN, 0}};
        near__poll(both, 2, c->redis->host.clock, deadline_ns);
    }
}

/* The next complete reply, or NULL with the fault set. */
static struct near__reply *await(struct near__channel *c, int64_t deadline_ns, struct near__fault *fault)
{
    struct near__reply *reply;
    for (;;) {
        int r = near__link_next(&c->link, &reply, fault);
        if (r != 0)
            return r > 0 ? reply : NULL;
        r = near__link_receive(&c->link, fault);
        if (r < 0)
            return NULL;
        if (r > 0)
            continue;
        if (is_closing(c) || near__now(c->redis->host.clock) >= deadline_ns)
            break;
        near__link_wait(&c->link, 0, -1, deadline_ns);
    }
    if (is_closing(c))
        near__fault_set(fault, NEAR_ERR_CLOSED, "the cache is being closed");
    else
        near__fault_set(fault, NEAR_ERR_TIMEOUT, "%s did not confirm the subscription", c->redis->host.target.name);
    return NULL;
}

/* Names the rule that is missing, for all processes that share the prefix. */
static void explain_denied(struct near__channel *c, struct near__fault *fault, near_error *error)
{
    const struct near__host *h = &c->redis->host;
    char *pattern = near__pattern_of(h->alloc, c->redis->channel);
    near__fail(error, fault->status, "%s: ACL SETUSER %s &%s", fault->text, h->username ? h->username : "default",
               pattern ? pattern : c->redis->channel);
    near__free(h->alloc, pattern);
}

static int is_confirmation(const struct near__reply *reply, const char *channel)
{
    return reply->type == REDIS_REPLY_ARRAY && reply->count == 3 && near__reply_is(reply->element[0], "subscribe") &&
           near__reply_is(reply->element[1], channel);
}

static int subscribe(struct near__channel *c, int64_t deadline_ns, struct near__fault *fault)
{
    const char *names[2] = {c->redis->channel, c->private_channel};
    struct near__output o;
    near__output_init(&o, c->redis->host.alloc);
    near__output_command(&o, 3);
    near__output_text(&o, "SUBSCRIBE");
    near__output_text(&o, names[0]);
    near__output_text(&o, names[1]);
    int status = o.failed ? near__fault_set(fault, NEAR_ERR_NOMEM, "out of memory") : send_all(c, &o, deadline_ns, fault);
    near__output_fini(&o);
    for (int i = 0; i < 2 && status == NEAR_OK; i++) {
        struct near__reply *reply = await(c, deadline_ns, fault);
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
    if (!c->private_channel || near__link_init(&c->link, &r->host, NEAR_LINK_SUBSCRIPTION, deadline_ns) != NEAR_OK) {
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
    int status = open_link(c, deadline_ns, &fault);
    if (status == NEAR_OK) {
        subscribing = 1;
        status = subscribe(c, deadline_ns, &fault);
    }
    if (status != NEAR_OK) {
        near__fail(error, status, "%s", fault.text);
        if (subscribing && status == NEAR_ERR_DENIED)
            explain_denied(c, &fault, error);
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

/* What a push means; the payload's memory stays with it. */
static void classify(struct near__channel *c, const struct near__reply *push, struct near__channel_message *ret)
{
    const struct near__reply *payload = NULL;
    if (push->type == REDIS_REPLY_ARRAY && push->count == 3 && near__reply_is(push->element[0], "message")) {
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
    if (payload && payload->type == REDIS_REPLY_STRING) {
        ret->payload = payload->data;
        ret->payload_size = payload->size;
        return;
    }
    near__reply_fault(push, &c->fault);
    lost(ret, &c->fault);
}

/* 1: *ret is filled, 0: nothing complete yet. */
static int next_push(struct near__channel *c, struct near__channel_message *ret)
{
    struct near__fault fault;
    int r = near__link_next(&c->link, &c->current, &fault);
    if (r > 0)
        classify(c, c->current, ret);
    if (r < 0 && !c->fault.status)
        c->fault = fault;
    if (r <= 0 && c->fault.status) {
        lost(ret, &c->fault);
        return 1;
    }
    return r > 0;
}

/* Two calls of the kernel for all messages that are there: the parser is empty when poll is asked, so only poll can tell
 * whether to read, and whether somebody has woken us. */
void near__redis_channel_read(struct near__channel *c, int64_t deadline_ns, struct near__channel_message *ret)
{
    memset(ret, 0, sizeof *ret);
    near__reply_free(c->current);
    c->current = NULL;
    while (!next_push(c, ret)) {
        if (is_closing(c)) {
            near__fault_set(&c->fault, NEAR_ERR_CLOSED, "the cache is being closed");
            continue;
        }
        int idle = near__link_wait(&c->link, 0, c->wake_fd, deadline_ns) && was_woken(c);
        if (!idle && near__link_receive(&c->link, &c->fault) != 0)
            continue; /* bytes, or the end; c->fault is set by the latter alone */
        if (idle || near__now(c->redis->host.clock) >= deadline_ns) {
            ret->event = NEAR_CHANNEL_IDLE;
            return;
        }
    }
}

int near__redis_channel_ping(struct near__channel *c, const char *nonce, int64_t deadline_ns)
{
    struct near__output o;
    struct near__fault fault;
    near__output_init(&o, c->redis->host.alloc);
    near__output_command(&o, 2);
    near__output_text(&o, "PING");
    near__output_text(&o, nonce);
    int status = o.failed ? NEAR_ERR_NOMEM : send_all(c, &o, deadline_ns, &fault);
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
