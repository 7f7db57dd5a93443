/* SPDX-License-Identifier: BSD-3-Clause
 * A scripted proxy between the library and a Redis: one thread that forwards bytes and does to them what the test says.
 *
 * Connections are told apart by the client name that passes through in CLIENT SETNAME: names that end in "-sub" are
 * subscriptions, "-data" are data connections, "-track" control connections of tracking; until then, and under TLS, a
 * connection is of no kind, and only rules for PROXY_ANY concern it.  A rule strikes the connections that exist and
 * those to come; of two rules for one connection, the one for its kind counts.  Threads: any. */
#ifndef NEAR_TESTS_PROXY_H
#define NEAR_TESTS_PROXY_H
#include <stddef.h>
#include <stdint.h>

struct proxy;

enum proxy_kind { PROXY_ANY = 0, PROXY_DATA, PROXY_SUB, PROXY_TRACK, PROXY_KINDS_ };
enum proxy_side { PROXY_TO_SERVER = 0, PROXY_TO_CLIENT, PROXY_SIDES_ };
enum proxy_mode {
    PROXY_PASS = 0, /* what was held goes on, in order */
    PROXY_HOLD,     /* bytes, and ends of streams, wait */
    PROXY_SWALLOW,  /* bytes, and ends of streams, vanish silently; what is held stays held */
    PROXY_INHERIT   /* a rule of DATA or SUB is taken back: that of ANY counts again (the beginning) */
};

/* backend: "unix:///path", "redis://host:port" as redis_server_uri_unix and redis_server_uri give them (without a
 * password).  Listens on a TCP port and, with a unix backend, on a unix socket beside that of the backend.  NULL:
 * failed. */
struct proxy *proxy_start(const char *backend);
void proxy_free(struct proxy *p);                  /* closes everything; NULL is fine */
const char *proxy_uri(const struct proxy *p);      /* redis://127.0.0.1:port */
const char *proxy_uri_unix(const struct proxy *p); /* unix:///…; NULL without */
int proxy_port(const struct proxy *p);

/* Rules: they hold until changed. */
void proxy_mode(struct proxy *p, enum proxy_kind kind, enum proxy_side side, enum proxy_mode mode);
/* what arrives from now on */
void proxy_delay(struct proxy *p, enum proxy_kind kind, enum proxy_side side, int delay_ms);
void proxy_split(struct proxy *p, enum proxy_kind kind, enum proxy_side side, int on); /* one byte a write */
void proxy_refuse(struct proxy *p, int on); /* new connections are reset as soon as they are made */
/* for new connections; with proxy_kill, one kind can be moved */
void proxy_backend(struct proxy *p, const char *backend);

/* Once: the first connection of that kind that carries `bytes` more bytes in that direction is cut after exactly so
 * many, on both sides, with FIN or with RST.  bytes -1: takes the rule back. */
void proxy_cut(struct proxy *p, enum proxy_kind kind, enum proxy_side side, int64_t bytes, int reset);
int proxy_cut_done(struct proxy *p, enum proxy_kind kind, enum proxy_side side); /* how many cuts so far */
/* The next `count` whole RESP replies or pushes from the server that contain text are taken out, or doubled. */
void proxy_delete(struct proxy *p, enum proxy_kind kind, const char *text, int count);
void proxy_duplicate(struct proxy *p, enum proxy_kind kind, const char *text, int count);
int proxy_edited(struct proxy *p, enum proxy_kind kind); /* how many so far */
/* Bytes of our own to every client of that kind, after what is under way; ignores holds.  Returns how many got them. */
int proxy_inject(struct proxy *p, enum proxy_kind kind, const void *bytes, size_t size);
/* Closes the connections of that kind on both sides now.  Returns how many. */
int proxy_kill(struct proxy *p, enum proxy_kind kind, int reset);
int proxy_kill_others(struct proxy *p, enum proxy_kind keep, int reset); /* all but that kind, the unnamed too */

/* What there is. */
int proxy_connections(struct proxy *p, enum proxy_kind kind);                       /* open now */
uint64_t proxy_accepted(struct proxy *p, enum proxy_kind kind);                     /* ever */
uint64_t proxy_held(struct proxy *p, enum proxy_kind kind, enum proxy_side side);   /* bytes waiting */
uint64_t proxy_passed(struct proxy *p, enum proxy_kind kind, enum proxy_side side); /* bytes that came in, ever */
/* The names of the open connections, one a line, into buffer; returns how many there are. */
int proxy_list(struct proxy *p, char *buffer, size_t capacity);

#endif
