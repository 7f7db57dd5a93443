/* SPDX-License-Identifier: BSD-3-Clause
 * TLS through OpenSSL.  See tls.h.
 *
 * OpenSSL's own socket BIO calls write(2), which raises SIGPIPE in the host's process when the peer has gone; ours
 * calls send(2) with MSG_NOSIGNAL.  The chain and the host's name are verified unless tls_verify is off; an IP address
 * is compared with the certificate's addresses and sends no SNI.
 *
 * Small vectors are gathered into one record.  A write that OpenSSL could not finish must be repeated with the same
 * bytes: callers repeat from the same place, and `offered` remembers how many bytes OpenSSL has seen. */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include "remote/tls.h"

#include "base/log.h"

#ifndef HAVE_TLS

int near__tls_open(const near_options *options, const struct near__alloc *alloc, const struct near__log *log,
                   struct near__tls **ret, near_error *error)
{
    (void)options, (void)alloc, (void)log, (void)ret;
    return near__fail(error, NEAR_ERR_UNSUPPORTED, "this build has no TLS");
}

void near__tls_close(struct near__tls *tls)
{
    (void)tls; /* there is none */
}

uint64_t near__tls_files_refused(const struct near__tls *tls)
{
    (void)tls;
    return 0;
}

#else

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

#include "remote/tls_context.h"

enum { RECORD_MAX = 16384 };

struct near__tls {
    const struct near__alloc *alloc;
    struct near__tls_context *context;
    BIO_METHOD *method;
    const char *name; /* tls_server_name; NULL: the host's */
    int verify;
};

struct near__tls_session {
    const struct near__alloc *alloc;
    pthread_mutex_t lock; /* around every call on ssl */
    SSL *ssl;
    int verify;
    size_t offered;
    char record[RECORD_MAX];
};

/* ---------------------------------------------------------------- the BIO */

static int descriptor_of(BIO *bio)
{
    return (int)(intptr_t)BIO_get_data(bio);
}

static int bio_write(BIO *bio, const char *bytes, int size)
{
    BIO_clear_retry_flags(bio);
    for (;;) {
        ssize_t n = send(descriptor_of(bio), bytes, (size_t)size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0)
            return (int)n;
        if (errno == EINTR)
            continue;
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            BIO_set_retry_write(bio);
        return -1;
    }
}

static int bio_read(BIO *bio, char *bytes, int size)
{
    BIO_clear_retry_flags(bio);
    for (;;) {
        ssize_t n = recv(descriptor_of(bio), bytes, (size_t)size, MSG_DONTWAIT);
        if (n >= 0)
            return (int)n;
        if (errno == EINTR)
            continue;
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            BIO_set_retry_read(bio);
        return -1;
    }
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH; /* nothing is buffered here */
}

static BIO_METHOD *bio_method(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "nearcache socket");
    if (m && BIO_meth_set_write(m, bio_write) && BIO_meth_set_read(m, bio_read) && BIO_meth_set_ctrl(m, bio_control))
        return m;
    BIO_meth_free(m);
    return NULL;
}

/* ---------------------------------------------------------------- open, close */

static int is_address(const char *name)
{
    unsigned char bytes[16];
    return inet_pton(AF_INET, name, bytes) == 1 || inet_pton(AF_INET6, name, bytes) == 1;
}

void near__tls_close(struct near__tls *tls)
{
    if (!tls)
        return;
    near__tls_context_close(tls->context);
    BIO_meth_free(tls->method);
    near__free(tls->alloc, tls);
}

int near__tls_open(const near_options *options, const struct near__alloc *alloc, const struct near__log *log,
                   struct near__tls **ret, near_error *error)
{
    struct near__tls *tls = near__alloc_zero(alloc, sizeof *tls);
    if (!tls)
        return near__fail(error, NEAR_ERR_NOMEM, "out of memory");
    tls->alloc = alloc;
    tls->verify = options->tls_verify != 0;
    tls->name = options->tls_server_name;
    tls->method = bio_method();
    int status = tls->method ? near__tls_context_open(options, alloc, log, &tls->context, error)
                             : near__fail(error, NEAR_ERR_NOMEM, "out of memory");
    if (status != NEAR_OK) {
        near__tls_close(tls);
        return status;
    }
    *ret = tls;
    return NEAR_OK;
}

uint64_t near__tls_files_refused(const struct near__tls *tls)
{
    return tls ? near__tls_context_refused(tls->context) : 0;
}

/* ---------------------------------------------------------------- sessions */

static int set_name(SSL *ssl, const char *name, int verify)
{
    if (is_address(name))
        return !verify || X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set_tlsext_host_name(ssl, name) == 1 && (!verify || SSL_set1_host(ssl, name) == 1);
}

struct near__tls_session *near__tls_session_new(struct near__tls *tls, const char *host, int fd,
                                                struct near__fault *fault)
{
    const char *name = tls->name ? tls->name : host;
    SSL_CTX *context = near__tls_context_acquire(tls->context);
    ERR_clear_error();
    struct near__tls_session *s = near__alloc(tls->alloc, sizeof *s);
    SSL *ssl = s ? SSL_new(context) : NULL;
    BIO *bio = ssl ? BIO_new(tls->method) : NULL;
    SSL_CTX_free(context); /* ssl has a reference of its own */
    if (!bio || !set_name(ssl, name, tls->verify)) {
        near__fault_set(fault, NEAR_ERR_NOMEM, "no TLS session for %s: %s", name, near__tls_reason());
        BIO_free(bio);
        SSL_free(ssl);
        near__free(tls->alloc, s);
        return NULL;
    }
    BIO_set_data(bio, (void *)(intptr_t)fd);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    SSL_set_connect_state(ssl);
    s->alloc = tls->alloc;
    s->ssl = ssl;
    s->verify = tls->verify;
    s->offered = 0;
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

void near__tls_session_free(struct near__tls_session *s)
{
    if (!s)
        return;
    SSL_free(s->ssl);
    ERR_clear_error();
    pthread_mutex_destroy(&s->lock);
    near__free(s->alloc, s);
}

/* What a call that returned `result` means: 0 wait, -1 failed.  errno is the call's. */
static int outcome(struct near__tls_session *s, int result, short *ret_wants, struct near__fault *fault)
{
    int system_error = errno;
    switch (SSL_get_error(s->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        *ret_wants = POLLIN;
        return 0;
    case SSL_ERROR_WANT_WRITE:
        *ret_wants = POLLOUT;
        return 0;
    case SSL_ERROR_ZERO_RETURN:
        near__fault_set(fault, NEAR_ERR_IO, "TLS: the server closed the connection");
        break;
    case SSL_ERROR_SYSCALL:
        errno = system_error;
        if (errno)
            near__fault_set(fault, NEAR_ERR_IO, "TLS: %m");
        else
            near__fault_set(fault, NEAR_ERR_IO, "TLS: the server closed the connection");
        break;
    default:
        near__fault_set(fault, NEAR_ERR_TLS, "TLS: %s", near__tls_reason());
    }
    ERR_clear_error();
    return -1;
}

int near__tls_handshake(struct near__tls_session *s, short *ret_wants, struct near__fault *fault)
{
    ERR_clear_error();
    errno = 0;
    int r = SSL_do_handshake(s->ssl);
    if (r == 1)
        return 1;
    if (outcome(s, r, ret_wants, fault) == 0)
        return 0;
    long verdict = SSL_get_verify_result(s->ssl);
    if (s->verify && verdict != X509_V_OK)
        near__fault_set(fault, NEAR_ERR_TLS, "the server's certificate: %s", X509_verify_cert_error_string(verdict));
    return -1; /* a line that broke meanwhile has not refused anything: it stays IO, and gets better by itself */
}

ssize_t near__tls_read(struct near__tls_session *s, void *bytes, size_t size, struct near__fault *fault)
{
    size_t n = 0;
    short wants;
    pthread_mutex_lock(&s->lock);
    ERR_clear_error();
    errno = 0;
    int r = SSL_read_ex(s->ssl, bytes, size, &n);
    ssize_t result = r == 1 ? (ssize_t)n : outcome(s, r, &wants, fault);
    pthread_mutex_unlock(&s->lock);
    return result;
}

static size_t gather(struct near__tls_session *s, const struct iovec *vectors, int count)
{
    size_t size = 0;
    for (int i = 0; i < count && size < RECORD_MAX; i++) {
        size_t part = vectors[i].iov_len < RECORD_MAX - size ? vectors[i].iov_len : RECORD_MAX - size;
        memcpy(s->record + size, vectors[i].iov_base, part);
        size += part;
    }
    return size;
}

ssize_t near__tls_write(struct near__tls_session *s, const struct iovec *vectors, int count, struct near__fault *fault)
{
    size_t n = 0;
    short wants;
    pthread_mutex_lock(&s->lock);
    size_t size = gather(s, vectors, count);
    ERR_clear_error();
    errno = 0;
    int r = SSL_write_ex(s->ssl, s->record, size, &n);
    ssize_t result = r == 1 ? (ssize_t)n : outcome(s, r, &wants, fault);
    s->offered = result == 0 ? size : 0;
    pthread_mutex_unlock(&s->lock);
    return result;
}

size_t near__tls_offered(struct near__tls_session *s)
{
    pthread_mutex_lock(&s->lock);
    size_t offered = s->offered;
    pthread_mutex_unlock(&s->lock);
    return offered;
}

int near__tls_pending(struct near__tls_session *s)
{
    pthread_mutex_lock(&s->lock);
    int pending = SSL_pending(s->ssl) > 0; /* no read-ahead: a record not yet begun keeps the socket readable */
    pthread_mutex_unlock(&s->lock);
    return pending;
}

#endif
