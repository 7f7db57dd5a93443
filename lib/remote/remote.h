/* SPDX-License-Identifier: BSD-3-Clause
 * The remote tier's interface, and its two implementations: redis.c and memory.c.
 *
 * A remote runs *requests* (data connections, any thread) and opens *channels* (one subscription each, driven by one
 * thread).  Whatever the implementation, the server runs requests one after another and numbers its writes: every reply
 * carries the *position* reached, and every write puts one message, with its own position, on the shared channel before
 * it takes effect, atomically (docs/design.md, section 1; R11, R12).  Messages reach a channel in the order of their
 * positions. */
#ifndef NEAR_REMOTE_REMOTE_H
#define NEAR_REMOTE_REMOTE_H
#include <stddef.h>
#include <stdint.h>
#include "nearcache.h"
#include "base/alloc.h"
#include "base/buffer.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/uri.h"

struct near__remote_config {
    const struct near__alloc *alloc;
    const struct near__clock *clock;
    const struct near__log *log;
    const struct near__uri *uri;
    const near_options *options; /* lives as long as the remote */
};

enum near__operation {
    NEAR_OP_FETCH = 1, /* value, time to live, position */
    NEAR_OP_SET,
    NEAR_OP_DEL,
    NEAR_OP_EXPIRE,
    NEAR_OP_INCR,
    NEAR_OP_CAS,
    NEAR_OP_CLEAR, /* only the message; no key */
    NEAR_OP_LEASE, /* FETCH and, if the value is not there or old, the right to load it: see near__request.lease */
    /* SET by the holder of the lease, which it ends; UNMET when the lease is gone or the key came meanwhile */
    NEAR_OP_FILL,
    NEAR_OP_TAG,     /* SET of the write's own position; lives for ttl_ms if it is new, at least */
    NEAR_OP_RELEASE, /* the holder ends its lease without a value; UNMET when it is gone */
    NEAR_OP_PROVE,   /* heartbeat: a write that changes nothing, then `number` and the position published on the private
                        channel as "P<nonce>:<position>"; repairs a lost or lagging position, see `known`.  If there is
                        a list of the prefix's processes it puts us on it, with the bound ttl_ms, and `fence` is the
                        list's epoch; otherwise 0 */
    /* Locks: neither numbered nor announced, nobody keeps them locally.  `value` is the owner's token.  Beside the lock
     * lives its counter, key + NEAR_FENCE_SUFFIX, which every acquisition raises. */
    NEAR_OP_LOCK,   /* takes the lock for ttl_ms.  OK: result_number is the counter; also when the token has it already
                       (an earlier answer was lost).  UNMET: somebody else has it, for ttl_left_ms */
    NEAR_OP_EXTEND, /* ttl_ms from now (0: as it is), and the counter is at least `known` afterwards; result_number is
                       the counter.  MISS: nobody has it.  UNMET: somebody else */
    NEAR_OP_UNLOCK, /* gives it back.  MISS and UNMET as above */
    /* Barriers (coherence/barrier.c). */
    NEAR_OP_ROLL,   /* numbers and publishes `body` like a CLEAR; value_out is then the list of the prefix's processes
                       (remote/members.h), which is made, with the epoch `known`, if there is none.  `value` lists
                       processes that are removed before, each only if its value is still that one */
    NEAR_OP_ANSWER, /* publishes "A<number>:<value>" on the private channel that `body` names */
    NEAR_OP_LEAVE,  /* takes the process that `body` names off that list */
    NEAR_OP_COMPARE /* FETCH of a value that is known, `value`: OK if it is still the key's value, UNMET if another one
                       is, MISS.  It does not travel; position and ttl_left_ms are as of a FETCH, exact.  Neighbours in
                       a batch are one command */
};
#define NEAR_FENCE_SUFFIX ":fence"
#define NEAR_DEL_ANNOUNCE (1u << 31) /* DEL: numbered and announced also when the key does not exist */

/* Beside a key that is loaded there may be two more, for the library's own use: who is loading it (or "-": it is known
 * to be absent), and which tags its value has.  Every write of the key removes both, which is what keeps a loader from
 * overwriting something newer.  A tag is a key whose value is the position of its last invalidation. */
#define NEAR_LEASE_SUFFIX ":nearcache-lease"
#define NEAR_TAGS_SUFFIX ":nearcache-tags"
#define NEAR_TAG_PREFIX ":nearcache-tag:"
#define NEAR_FENCE_NAME ":nearcache-fence"

enum near__lease {
    NEAR_LEASE_FRESH = 0, /* the value is there and not old: `value_out` */
    NEAR_LEASE_GOT,       /* the caller shall load; with `fence`, and the old value if there is one */
    NEAR_LEASE_HELD,      /* somebody loads, for at most lease_left_ms; with the old value if there is one */
    NEAR_LEASE_ABSENT     /* known to be absent for lease_left_ms */
};
/* near__request.flags of LEASE and FILL */
enum {
    NEAR_LEASE_FORCE = 1u << 0,  /* LEASE: also if the value is fresh, or known to be absent */
    NEAR_LEASE_TAGGED = 1u << 1, /* LEASE: look at the value's tags too */
    NEAR_FILL_ABSENT = 1u << 2,  /* FILL: only if the key does not exist (as a foreign client may have created it) */
    /* RELEASE: the source has no such key: it is removed, and remembered as absent for ttl_ms */
    NEAR_RELEASE_ABSENT = 1u << 3
};

/* One request and its result.  The caller owns everything it points to until near__remote_run returns.  Only
 * `value_out` is the library's: allocated with config.alloc, freed by the caller. */
struct near__request {
    enum near__operation operation;
    const void *key;
    size_t key_size; /* without the prefix */
    const void *value;
    size_t value_size; /* SET, CAS: the new value */
    const void *expected;
    size_t expected_size; /* CAS */
    uint32_t flags;       /* SET: NEAR_SET_…; DEL: NEAR_DEL_ANNOUNCE */
    int64_t ttl_ms;       /* SET, CAS: 0 none; EXPIRE: 0 persist */
    int64_t number;       /* INCR: delta; PROVE: nonce */
    uint64_t known;       /* PROVE: the server's position must be at least this; if it is below or gone, it jumps to
                             max(server time in µs, known + 2^20) and a bit, told by the nonce, so that no two
                             lifts meet in one number; never the other way.  EXTEND: see there */
    const void *body;     /* writes: the message's body (coherence/message.h); the server puts "1<position>:" before it.
                             PROVE: the private channel's name, as given to near__channel_open */
    size_t body_size;
    size_t body_shared; /* SET, DEL: so many bytes at the beginning of the body are the same in all requests of the
                           batch that have the same number here; behind them is a 1.  Such neighbours may be told by
                           one message: these bytes, their number as a varint, and of each what comes behind its 1.
                           0: the message is the request's own */

    int status;        /* NEAR_OK, NEAR_MISS, NEAR_UNMET or an error; NEAR_ERR_TIMEOUT/IO/UNAVAILABLE mean not sent
                          (nothing happened), NEAR_ERR_UNKNOWN sent and no answer (writes only; a FETCH says TIMEOUT or
                          IO) */
    uint64_t position; /* 0: unknown */
    int inexact;       /* FETCH: the position moved while the value was read (the position is asked before and after
                          it): `position` is the later one and the value belongs to some moment before it; it must not
                          be kept */
    /* the server that answered: the same number as near__server_id(near__channel_server(…)) when it is the same one; 0:
     * unknown */
    uint64_t server;
    int64_t sent_ns;       /* when it was handed to the connection */
    int64_t ttl_left_ms;   /* FETCH, SET, INCR, CAS: -1 none */
    int64_t result_number; /* INCR, LOCK, EXTEND */
    void *value_out;       /* FETCH, ROLL: NEAR_OK */
    size_t value_out_size;
    char detail[120]; /* the server's own words on an error; "" otherwise */

    /* LEASE: `expected` is the owner, a text never used before, ttl_ms the lease, `number` how long before its end a
     * value is old.  Status NEAR_OK: see lease.  FILL, RELEASE: `expected` is the owner; FILL: `extra` describes the
     * tags: position '\0' hash '\0' { tag '\0' }, the position being that of the LEASE. */
    const void *extra;
    size_t extra_size;
    enum near__lease lease;
    int exists; /* LEASE: the key exists, whether its value is given or, its tags being invalidated, not */
    int64_t lease_left_ms;
    uint64_t fence;  /* grows with every lease given; PROVE: see there */
    void *extra_out; /* LEASE: the tags' description; allocated as value_out; NULL: none */
    size_t extra_out_size;
};

/* As before anything was answered; the fields that tell what is asked stay. */
static inline void near__request_reset(struct near__request *q, int status)
{
    q->status = status;
    q->position = 0;
    q->inexact = 0;
    q->server = 0;
    q->sent_ns = 0;
    q->ttl_left_ms = -1;
    q->result_number = 0;
    q->value_out = NULL;
    q->value_out_size = 0;
    q->lease = NEAR_LEASE_FRESH;
    q->exists = 0;
    q->lease_left_ms = 0;
    q->fence = 0;
    q->extra_out = NULL;
    q->extra_out_size = 0;
    q->detail[0] = 0;
}

struct near__remote; /* first member of an implementation: the table below */
struct near__channel;

enum near__channel_event {
    NEAR_CHANNEL_MESSAGE = 1, /* on the shared channel: payload */
    NEAR_CHANNEL_PRIVATE,     /* on the private channel: payload */
    NEAR_CHANNEL_PONG,        /* payload is the nonce text of the PING; with options.track also: writes by anybody were
                                 being reported when it was asked */
    NEAR_CHANNEL_FOREIGN,     /* with options.track: the key in payload (without the prefix) was written by somebody,
                                 perhaps by us, or has expired or been evicted; payload NULL: any key may have been */
    NEAR_CHANNEL_IDLE,        /* the deadline passed, or near__channel_wake */
    NEAR_CHANNEL_LOST         /* closed, failed or malformed; close it.  status says why */
};
struct near__channel_message {
    enum near__channel_event event;
    const void *payload; /* valid until the next read */
    size_t payload_size;
    int status;
    char detail[120];
};

struct near__remote_stats {
    uint64_t requests, connections_opened, connections_lost, timeouts, bytes_sent, bytes_received;
    uint64_t tls_files_refused;
    uint32_t breaker_open;
};

/* A key of a scan, without the prefix.  Called with no lock held. */
typedef void (*near__scan_fn)(void *arg, const void *key, size_t key_size);
#define NEAR_SCAN_CURSOR 24

struct near__remote_table {
    void (*close)(struct near__remote *remote); /* no request may be under way */
    void (*run)(struct near__remote *remote, struct near__request *requests, size_t count, int64_t deadline_ns);
    int (*channel_open)(struct near__remote *remote, const char *private_name, int64_t deadline_ns,
                        struct near__channel **ret, near_error *error);
    void (*channel_read)(struct near__channel *channel, int64_t deadline_ns, struct near__channel_message *ret);
    int (*channel_ping)(struct near__channel *channel, const char *nonce, int64_t deadline_ns);
    void (*channel_wake)(struct near__channel *channel);
    const char *(*channel_server)(struct near__channel *channel);
    void (*channel_close)(struct near__channel *channel);
    int (*check)(struct near__remote *remote, int64_t deadline_ns, near_error *error);
    int (*clear_keys)(struct near__remote *remote, int64_t deadline_ns, uint64_t *ret_removed);
    int (*scan)(struct near__remote *remote, const char *pattern, char cursor[NEAR_SCAN_CURSOR], int64_t deadline_ns,
                near__scan_fn fn, void *arg);
    void (*stats)(struct near__remote *remote, struct near__remote_stats *ret);
    void (*interrupt)(struct near__remote *remote);
    void (*abandon)(struct near__remote *remote);
};
struct near__remote {
    const struct near__remote_table *table;
};

/* Makes the implementation that config->uri asks for (not NEAR_URI_LOCAL).  Does not connect.
 * NEAR_OK, NEAR_ERR_NOMEM, NEAR_ERR_UNSUPPORTED, NEAR_ERR_TLS, NEAR_ERR_SYSTEM. */
int near__remote_open(const struct near__remote_config *config, struct near__remote **ret, near_error *error);

/* Runs requests as one pipelined batch; returns when every one has its status, at the latest at the deadline.
 * Threads: any number at once. */
static inline void near__remote_run(struct near__remote *r, struct near__request *q, size_t n, int64_t deadline_ns)
{
    r->table->run(r, q, n, deadline_ns);
}
static inline void near__remote_close(struct near__remote *r)
{
    r->table->close(r);
}

/* Opens a subscription to the shared channel and to the private one (this process's heartbeats), both confirmed; with
 * options.track the server also reports every write to a key with the prefix from then on (NEAR_ERR_UNSUPPORTED when it
 * cannot), and if it ceases to, the channel is LOST.  Errors are precise: NEAR_ERR_DENIED names the channel and the ACL
 * rule that is missing. */
static inline int near__channel_open(struct near__remote *r, const char *private_name, int64_t deadline_ns,
                                     struct near__channel **ret, near_error *error)
{
    return r->table->channel_open(r, private_name, deadline_ns, ret, error);
}
/* The functions below belong to the thread that drives the channel, except wake, which any thread may call: the running
 * or the next read returns NEAR_CHANNEL_IDLE at once.  The table that made the channel is the remote's. */
static inline void near__channel_read(struct near__remote *r, struct near__channel *c, int64_t deadline_ns,
                                      struct near__channel_message *ret)
{
    r->table->channel_read(c, deadline_ns, ret);
}
/* With options.track the next PING may be sent only when the last one's PONG has been read: see lib/coherence/proof.c
 * (R26). */
static inline int near__channel_ping(struct near__remote *r, struct near__channel *c, const char *nonce,
                                     int64_t deadline_ns)
{
    return r->table->channel_ping(c, nonce, deadline_ns);
}
static inline void near__channel_wake(struct near__remote *r, struct near__channel *c)
{
    r->table->channel_wake(c);
}
/* The server's identity as read on this very connection (Redis: run_id and master_replid, since a demotion and
 * promotion changes only the latter); never NULL. */
static inline const char *near__channel_server(struct near__remote *r, struct near__channel *c)
{
    return r->table->channel_server(c);
}
/* Its first part, up to a '-', as a number, 0 never: what near__request.server is compared with.  The second part is
 * left out, because a running master changes it when its first replica comes; on the next subscription, and with each
 * heartbeat, it counts. */
uint64_t near__server_id(const char *identity);
static inline void near__channel_close(struct near__remote *r, struct near__channel *c)
{
    r->table->channel_close(c);
}

/* Self-check of the data side: see near_check. */
static inline int near__remote_check(struct near__remote *r, int64_t deadline_ns, near_error *error)
{
    return r->table->check(r, deadline_ns, error);
}
/* Removes every key with the prefix (SCAN, UNLINK); without messages, the caller sends CLEAR before and after. */
static inline int near__remote_clear_keys(struct near__remote *r, int64_t deadline_ns, uint64_t *ret_removed)
{
    return r->table->clear_keys(r, deadline_ns, ret_removed);
}
/* One page of the keys with the prefix whose rest matches a pattern of Redis's kind.  cursor "0" begins, and is "0"
 * after the last page; a key may come twice.  Keys of the library's own are left out. */
static inline int near__remote_scan(struct near__remote *r, const char *pattern, char cursor[NEAR_SCAN_CURSOR],
                                    int64_t deadline_ns, near__scan_fn fn, void *arg)
{
    return r->table->scan(r, pattern, cursor, deadline_ns, fn, arg);
}
static inline void near__remote_stats(struct near__remote *r, struct near__remote_stats *ret)
{
    r->table->stats(r, ret);
}
/* For near_close: requests under way end at once with NEAR_ERR_CLOSED (UNKNOWN for writes already sent), as do later
 * ones. */
static inline void near__remote_interrupt(struct near__remote *r)
{
    r->table->interrupt(r);
}
/* In the child after fork: closes descriptors without a word on the wire; takes no lock; nothing else is ever called
 * again. */
static inline void near__remote_abandon(struct near__remote *r)
{
    r->table->abandon(r);
}

#endif
