/* SPDX-License-Identifier: BSD-3-Clause
 * A link: one logged-in RESP connection, the part that data connections and channels have in common.
 *
 * Driven by one thread at a time; only near__link_send may run beside a read (see transport.h). */
#ifndef NEAR_REMOTE_LINK_H
#define NEAR_REMOTE_LINK_H
#include <stdatomic.h>
#include <stdint.h>
#include "base/log.h"
#include "remote/remote.h"
#include "remote/resp.h"
#include "remote/transport.h"

/* What all links to one server share. */
struct near__host {
    const struct near__alloc *alloc;
    const struct near__clock *clock;
    const struct near__log *log;
    const near_options *options;
    const char *username, *password; /* of the options or the URI; NULL: none */
    unsigned database;
    size_t bulk_max;
    struct near__target target;
    struct near__descriptors descriptors;
    atomic_int closing; /* set once by near__remote_interrupt, before interrupt_fd becomes readable */
    int interrupt_fd;   /* readable from then on; part of every poll */
    /* counters: relaxed, only ever added to */
    _Atomic(uint64_t) requests, opened, lost, timeouts, bytes_sent, bytes_received;
};

enum near__link_purpose { NEAR_LINK_DATA, NEAR_LINK_SUBSCRIPTION, NEAR_LINK_TRACKING };
enum { NEAR_LINK_STEPS_MAX = 6, NEAR_IDENTITY_MAX = 160 };

struct near__link {
    struct near__host *host;
    enum near__link_purpose purpose;
    struct near__transport transport;
    struct near__resp resp;
    int64_t deadline_ns; /* of opening */
    int is_open;
    unsigned char *input;
    /* the handshake: commands in flight, oldest first */
    struct near__output hello;
    struct near__cursor hello_at;
    uint64_t hello_sent;
    unsigned char step[NEAR_LINK_STEPS_MAX];
    unsigned steps, answered;
    struct near__fault write_fault; /* writing failed; what the server still has to say comes first */
    char identity[NEAR_IDENTITY_MAX];
    int unlabelled;  /* INFO is denied */
    uint64_t server; /* near__server_id(identity), 0: unlabelled */
};

/* NEAR_OK or NEAR_ERR_NOMEM (then nothing needs freeing). */
int near__link_init(struct near__link *l, struct near__host *host, enum near__link_purpose purpose,
                    int64_t deadline_ns);
void near__link_fini(struct near__link *l);

/* Goes on with opening and waits for news, at most until until_ns.  wake_fd (or -1) ends the wait, too; the caller
 * looks after it.  1: open, 0: not yet, -1: failed. */
int near__link_open_step(struct near__link *l, int wake_fd, int64_t until_ns, struct near__fault *fault);

/* Waits until there is something to read (or, with has_output, room to write), wake_fd, the interruption, or until_ns.
 * 1: wake_fd is readable. */
int near__link_wait(struct near__link *l, int has_output, int wake_fd, int64_t until_ns);
/* Takes what has arrived into the parser, without waiting: bytes, 0: nothing, -1: failed, but what arrived before can
 * still be parsed. */
int near__link_receive(struct near__link *l, struct near__fault *fault);
/* 1 and a reply to free, 0: none complete, -1. */
int near__link_next(struct near__link *l, struct near__reply **ret, struct near__fault *fault);
/* Sends from `at` on without waiting, adds to *sent: 1 everything is out, 0 not yet, -1. */
int near__output_send(struct near__transport *t, const struct near__output *o, struct near__cursor *at, uint64_t *sent,
                      struct near__fault *fault);
int near__link_send(struct near__link *l, const struct near__output *o, struct near__cursor *at, uint64_t *sent,
                    struct near__fault *fault);

/* The same three, waiting until the deadline or the interruption; only before anybody else uses the link.  NEAR_OK or
 * the fault's status; a reply to free or NULL. */
int near__link_open_wait(struct near__link *l, int64_t deadline_ns, struct near__fault *fault);
int near__link_send_wait(struct near__link *l, const struct near__output *o, int64_t deadline_ns,
                         struct near__fault *fault);
struct near__reply *near__link_next_wait(struct near__link *l, int64_t deadline_ns, struct near__fault *fault);
int near__host_is_closing(const struct near__host *h);

/* The error reply's status and words. */
int near__reply_fault(const struct near__reply *reply, struct near__fault *fault);

#endif
