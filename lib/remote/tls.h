/* SPDX-License-Identifier: BSD-3-Clause
 * TLS through OpenSSL over a socket of ours.  Without HAVE_TLS only open, which refuses, close and
 * the counter exist.
 *
 * A session may have one reader and one writer at the same moment; OpenSSL may not, so a lock of the session's own
 * stands around each call (never while waiting). */
#ifndef NEAR_REMOTE_TLS_H
#define NEAR_REMOTE_TLS_H
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include "base/alloc.h"
#include "base/log.h"
#include "remote/fault.h"

struct near__tls; /* certificates and rules, shared by a server's connections */
struct near__tls_session;

/* options and log must outlive it.  NEAR_OK, NEAR_ERR_TLS (a certificate cannot be read), NEAR_ERR_NOMEM,
 * NEAR_ERR_UNSUPPORTED. */
int near__tls_open(const near_options *options, const struct near__alloc *alloc, const struct near__log *log,
                   struct near__tls **ret, near_error *error);
void near__tls_close(struct near__tls *tls);
/* Times that changed files could not be used for a new connection, which was made with those read before. */
uint64_t near__tls_files_refused(const struct near__tls *tls); /* NULL is fine: 0 */

/* host: what the certificate has to be for, unless tls_server_name says otherwise. */
struct near__tls_session *near__tls_session_new(struct near__tls *tls, const char *host, int fd,
                                                struct near__fault *fault);
void near__tls_session_free(struct near__tls_session *s);
/* Goes on with the handshake: 1 done, 0 wait for *ret_wants (POLLIN, POLLOUT), -1 failed. */
int near__tls_handshake(struct near__tls_session *s, short *ret_wants, struct near__fault *fault);
/* Bytes, 0: not now, -1: failed or closed. */
ssize_t near__tls_read(struct near__tls_session *s, void *bytes, size_t size, struct near__fault *fault);
ssize_t near__tls_write(struct near__tls_session *s, const struct iovec *vectors, int count, struct near__fault *fault);
/* Bytes that the last, refused write has already shown to OpenSSL: they may reach the server. */
size_t near__tls_offered(struct near__tls_session *s);
/* 1: there is more to read without the socket becoming readable. */
int near__tls_pending(struct near__tls_session *s);

#endif
