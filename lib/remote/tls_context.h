/* SPDX-License-Identifier: BSD-3-Clause
 * Certificates, keys and rules of TLS, as the files of the options have them now. */
#ifndef NEAR_REMOTE_TLS_CONTEXT_H
#define NEAR_REMOTE_TLS_CONTEXT_H
#include <openssl/ssl.h>
#include <stdint.h>
#include "base/alloc.h"
#include "base/log.h"

struct near__tls_context;

/* options and log must outlive it.  NEAR_OK, NEAR_ERR_TLS (a file cannot be used), NEAR_ERR_NOMEM. */
int near__tls_context_open(const near_options *options, const struct near__alloc *alloc, const struct near__log *log,
                           struct near__tls_context **ret, near_error *error);
void near__tls_context_close(struct near__tls_context *c); /* NULL is fine */

/* What a new connection is to use, made anew when a file has changed; SSL_CTX_free it.  Threads: any.  Blocks: on the
 * files' disk. */
SSL_CTX *near__tls_context_acquire(struct near__tls_context *c);
/* Times that changed files could not be used. */
uint64_t near__tls_context_refused(const struct near__tls_context *c);

/* The newest reason in OpenSSL's queue, which is left empty. */
const char *near__tls_reason(void);

#endif
