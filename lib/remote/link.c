/* SPDX-License-Identifier: BSD-3-Clause
 * Opening a link: transport, then the handshake in one pipeline.  See link.h.
 *
 *     AUTH [user] password     when there is a password
 *     CLIENT SETNAME           so that an operator, and a test, can tell our connections apart
 *     SELECT db                data, unless 0
 *     CLIENT NO-EVICT ON       all but data, as far as the server lets us
 *     PING                     refused while the server loads its data: its identity is not final then.  Refused, too,
 *                              by one that cannot save what is written: it answers reads, so data goes on
 *     INFO server, replication the server's identity, run_id and master_replid
 *
 * No request is sent before the handshake has been answered: it could run with the wrong rights or in the wrong
 * database.  SETNAME and NO-EVICT may be refused.  Without INFO a subscription is refused with the rule that is
 * missing, a data link goes on without a label (nothing it brings can be kept). */
#include "remote/link.h"

#include <string.h>

#include "remote/script.h"

enum { INPUT_SIZE = 32768, VECTORS = 16, SEND_MAX = 262144 };
enum { STEP_AUTH, STEP_NAME, STEP_SELECT, STEP_NO_EVICT, STEP_PING, STEP_RUN_ID, STEP_REPLICATION_ID };

/* Of a command that the server does not know it quotes the arguments: of AUTH that is the password. */
int near__reply_fault(const struct near__reply *reply, struct near__fault *fault)
{
    if (reply->type != REDIS_REPLY_ERROR)
        return near__fault_set(fault, NEAR_ERR_PROTOCOL, "a reply of an unexpected type");
    const char *quoted = strstr(reply->data, ", with args beginning with");
    size_t size = quoted ? (size_t)(quoted - reply->data) : reply->size;
    return near__fault_set(fault, near__error_status(reply->data), "%.*s", (int)(size < 110 ? size : 110), reply->data);
}

/* ---------------------------------------------------------------- bytes */

int near__link_wait(struct near__link *l, int has_output, int wake_fd, int64_t until_ns)
{
    struct pollfd p[3];
    p[0] = near__transport_poll(&l->transport, has_output, &until_ns);
    p[1] = (struct pollfd){l->host->interrupt_fd, POLLIN, 0};
    p[2] = (struct pollfd){wake_fd, POLLIN, 0};
    if (l->is_open && near__transport_pending(&l->transport))
        return 0;
    return near__poll(p, 3, l->host->clock, until_ns) > 0 && p[2].revents != 0;
}

int near__link_receive(struct near__link *l, struct near__fault *fault)
{
    ssize_t n = near__transport_read(&l->transport, l->input, INPUT_SIZE, fault);
    if (n <= 0)
        return (int)n;
    atomic_fetch_add_explicit(&l->host->bytes_received, (uint64_t)n, memory_order_relaxed);
    if (near__resp_feed(&l->resp, l->input, (size_t)n) == 0)
        return (int)n;
    *fault = l->resp.fault;
    return -1;
}

int near__link_next(struct near__link *l, struct near__reply **ret, struct near__fault *fault)
{
    int r = near__resp_next(&l->resp, ret);
    if (r < 0)
        *fault = l->resp.fault;
    return r;
}

int near__output_send(struct near__transport *t, const struct near__output *o, struct near__cursor *at, uint64_t *sent,
                      struct near__fault *fault)
{
    while (at->segment < o->count) {
        struct iovec vectors[VECTORS];
        int count = near__output_gather(o, *at, vectors, VECTORS, SEND_MAX);
        ssize_t n = near__transport_write(t, vectors, count, fault);
        if (n <= 0)
            return (int)n;
        near__output_advance(o, at, (size_t)n);
        *sent += (uint64_t)n;
    }
    return 1;
}

int near__link_send(struct near__link *l, const struct near__output *o, struct near__cursor *at, uint64_t *sent,
                    struct near__fault *fault)
{
    uint64_t before = *sent;
    int r = near__output_send(&l->transport, o, at, sent, fault);
    atomic_fetch_add_explicit(&l->host->bytes_sent, *sent - before, memory_order_relaxed);
    return r;
}

/* ---------------------------------------------------------------- handshake */

static void add_step(struct near__link *l, unsigned char step)
{
    l->step[l->steps++] = step;
}

static void write_hello(struct near__link *l)
{
    const struct near__host *h = l->host;
    struct near__output *o = &l->hello;
    const char *name = h->options->client_name ? h->options->client_name : "nearcache";
    static const char *const suffixes[] = {
        [NEAR_LINK_DATA] = "-data", [NEAR_LINK_SUBSCRIPTION] = "-sub", [NEAR_LINK_TRACKING] = "-track"};
    const char *suffix = suffixes[l->purpose];
    if (near__output_login(o, h->username, h->password))
        add_step(l, STEP_AUTH);
    near__output_command(o, 3);
    near__output_text(o, "CLIENT");
    near__output_text(o, "SETNAME");
    near__output_joined(o, name, strlen(name), suffix, strlen(suffix));
    add_step(l, STEP_NAME);
    if (l->purpose == NEAR_LINK_DATA && h->database) {
        near__output_command(o, 2);
        near__output_text(o, "SELECT");
        near__output_unsigned(o, h->database);
        add_step(l, STEP_SELECT);
    }
    if (l->purpose != NEAR_LINK_DATA) {
        near__output_command(o, 3);
        near__output_text(o, "CLIENT");
        near__output_text(o, "NO-EVICT");
        near__output_text(o, "ON");
        add_step(l, STEP_NO_EVICT);
    }
    near__output_command(o, 1);
    near__output_text(o, "PING");
    add_step(l, STEP_PING);
    near__output_command(o, 2);
    near__output_text(o, "INFO");
    near__output_text(o, "server");
    add_step(l, STEP_RUN_ID);
    near__output_command(o, 2);
    near__output_text(o, "INFO");
    near__output_text(o, "replication");
    add_step(l, STEP_REPLICATION_ID);
}

/* Adds the field's value to the identity: 0, or -1 when it is not there. */
static int add_identity(struct near__link *l, const struct near__reply *reply, const char *field,
                        struct near__fault *fault)
{
    const char *at = reply->type == REDIS_REPLY_STRING ? strstr(reply->data, field) : NULL;
    size_t n = at ? strcspn(at += strlen(field), "\r\n") : 0, used = strlen(l->identity);
    if (n == 0 || used + n + 2 > sizeof l->identity) {
        near__fault_set(fault, NEAR_ERR_PROTOCOL, "the reply to INFO has no %s", field);
        return -1;
    }
    snprintf(l->identity + used, sizeof l->identity - used, "%s%.*s", used ? "-" : "", (int)n, at);
    return 0;
}

/* Of a server that was found as the master, and may have been one. */
static int is_replica(const struct near__reply *reply)
{
    return reply->type == REDIS_REPLY_STRING && strstr(reply->data, "role:slave");
}

static int identity_answer(struct near__link *l, unsigned char step, const struct near__reply *reply,
                           struct near__fault *fault)
{
    const struct near__host *h = l->host;
    if (step == STEP_REPLICATION_ID && h->target.sentinels && is_replica(reply)) {
        near__fault_set(fault, NEAR_ERR_READONLY, "what the sentinels call %s is a replica", h->target.name);
        return -1;
    }
    if (reply->type != REDIS_REPLY_ERROR)
        return add_identity(l, reply, step == STEP_RUN_ID ? "run_id:" : "master_replid:", fault);
    if (near__reply_fault(reply, fault) != NEAR_ERR_DENIED)
        return -1;
    if (l->purpose == NEAR_LINK_DATA) {
        l->unlabelled = 1;
        return 0;
    }
    near__fault_set(fault, NEAR_ERR_DENIED, "INFO is denied: ACL SETUSER %.40s +info",
                    h->username ? h->username : "default");
    return -1;
}

/* Whether a step that has been refused so leaves a link that can be used.  On a subscription every later PING would be
 * refused as this one. */
static int may_be_refused(const struct near__link *l, unsigned char step, int status)
{
    if (step == STEP_PING)
        return status == NEAR_ERR_DENIED || (status == NEAR_ERR_MISCONFIGURED && l->purpose == NEAR_LINK_DATA);
    return (step == STEP_NAME || step == STEP_NO_EVICT) && status != NEAR_ERR_AUTH && status != NEAR_ERR_MAX_CLIENTS;
}

/* An answer to the handshake: 0, or -1 when the link cannot be used. */
static int hello_answer(struct near__link *l, const struct near__reply *reply, struct near__fault *fault)
{
    unsigned char step = l->step[l->answered++];
    if (step == STEP_RUN_ID || step == STEP_REPLICATION_ID)
        return identity_answer(l, step, reply, fault);
    if (reply->type != REDIS_REPLY_ERROR)
        return 0;
    int status = near__reply_fault(reply, fault);
    if (step == STEP_AUTH && status == NEAR_ERR_REMOTE)
        fault->status = NEAR_ERR_AUTH;
    return may_be_refused(l, step, status) ? 0 : -1;
}

/* Writes and reads what can be at once: 1 answered completely, 0 not yet, -1. */
static int pump_hello(struct near__link *l, struct near__fault *fault)
{
    struct near__reply *reply;
    int r, received;
    if (!l->write_fault.status)
        near__link_send(l, &l->hello, &l->hello_at, &l->hello_sent, &l->write_fault);
    do {
        received = near__link_receive(l, fault);
        while ((r = near__link_next(l, &reply, received < 0 ? &l->write_fault : fault)) > 0) {
            int refused = hello_answer(l, reply, fault);
            near__reply_free(reply);
            if (refused)
                return -1;
            if (l->answered == l->steps)
                return 1;
        }
    } while (received > 0 && r == 0);
    if (received < 0 || r < 0)
        return -1;
    return 0;
}

static int go_on(struct near__link *l, struct near__fault *fault)
{
    int r = near__transport_step(&l->transport, fault);
    if (r <= 0)
        return r;
    r = pump_hello(l, fault);
    if (r == 0 && near__now(l->host->clock) >= l->deadline_ns) {
        near__fault_set(fault, NEAR_ERR_UNAVAILABLE, "%s does not answer the handshake", l->host->target.name);
        return -1;
    }
    return r;
}

int near__link_open_step(struct near__link *l, int wake_fd, int64_t until_ns, struct near__fault *fault)
{
    int r = go_on(l, fault);
    if (r == 0) {
        int has_output = l->hello_at.segment < l->hello.count && !l->write_fault.status;
        near__link_wait(l, has_output, wake_fd, until_ns < l->deadline_ns ? until_ns : l->deadline_ns);
        r = go_on(l, fault);
    }
    if (r < 0 && l->host->target.sentinels && l->transport.state != NEAR_TRANSPORT_ASKING)
        near__sentinels_doubt(l->host->target.sentinels, l->transport.told_by);
    if (r > 0) {
        l->is_open = 1;
        l->server = l->unlabelled ? 0 : near__server_id(l->identity);
    }
    return r;
}

/* ---------------------------------------------------------------- waiting */

int near__host_is_closing(const struct near__host *h)
{
    /* acquire: pairs with near__remote_interrupt's store */
    return atomic_load_explicit(&h->closing, memory_order_acquire);
}

static int closing(struct near__fault *fault)
{
    return near__fault_set(fault, NEAR_ERR_CLOSED, "the cache is being closed");
}

int near__link_open_wait(struct near__link *l, int64_t deadline_ns, struct near__fault *fault)
{
    for (;;) {
        if (near__host_is_closing(l->host))
            return closing(fault);
        int r = near__link_open_step(l, -1, deadline_ns, fault);
        if (r > 0)
            return NEAR_OK;
        if (r < 0)
            return fault->status;
        if (near__now(l->host->clock) >= deadline_ns)
            return near__fault_set(fault, NEAR_ERR_TIMEOUT, "timed out while connecting to %s", l->host->target.name);
    }
}

int near__link_send_wait(struct near__link *l, const struct near__output *o, int64_t deadline_ns,
                         struct near__fault *fault)
{
    struct near__cursor at = {0, 0};
    uint64_t sent = 0;
    for (;;) {
        int r = near__link_send(l, o, &at, &sent, fault);
        if (r > 0)
            return NEAR_OK;
        if (r < 0)
            return fault->status;
        if (near__host_is_closing(l->host))
            return closing(fault);
        if (near__now(l->host->clock) >= deadline_ns)
            return near__fault_set(fault, NEAR_ERR_TIMEOUT, "%s takes nothing", l->host->target.name);
        struct pollfd p = {l->transport.fd, POLLOUT, 0}, both[2] = {p, {l->host->interrupt_fd, POLLIN, 0}};
        near__poll(both, 2, l->host->clock, deadline_ns);
    }
}

struct near__reply *near__link_next_wait(struct near__link *l, int64_t deadline_ns, struct near__fault *fault)
{
    struct near__reply *reply;
    for (;;) {
        int r = near__link_next(l, &reply, fault);
        if (r != 0)
            return r > 0 ? reply : NULL;
        r = near__link_receive(l, fault);
        if (r < 0)
            return NULL;
        if (r > 0)
            continue;
        if (near__host_is_closing(l->host) || near__now(l->host->clock) >= deadline_ns)
            break;
        near__link_wait(l, 0, -1, deadline_ns);
    }
    if (near__host_is_closing(l->host))
        closing(fault);
    else
        near__fault_set(fault, NEAR_ERR_TIMEOUT, "%s did not confirm the subscription", l->host->target.name);
    return NULL;
}

/* ---------------------------------------------------------------- init, fini */

int near__link_init(struct near__link *l, struct near__host *host, enum near__link_purpose purpose, int64_t deadline_ns)
{
    memset(l, 0, sizeof *l);
    l->host = host;
    l->purpose = purpose;
    l->deadline_ns = deadline_ns;
    near__transport_init(&l->transport, &host->target, deadline_ns);
    near__output_init(&l->hello, host->alloc);
    write_hello(l);
    l->input = near__alloc(host->alloc, INPUT_SIZE);
    int status = near__resp_init(&l->resp, host->alloc, host->bulk_max);
    if (!l->input || l->hello.failed || status != NEAR_OK) {
        near__link_fini(l);
        return NEAR_ERR_NOMEM;
    }
    return NEAR_OK;
}

void near__link_fini(struct near__link *l)
{
    near__transport_fini(&l->transport);
    near__resp_fini(&l->resp);
    near__output_fini(&l->hello);
    near__free(l->host->alloc, l->input);
    l->input = NULL;
}
