/* SPDX-License-Identifier: BSD-3-Clause
 * Certificates and rules.  See tls_context.h.
 *
 * Certificates are renewed while a server runs: certbot and cert-manager put new files in the place of the old ones.
 * So each new connection first looks whether the files are still those that were read.  Looking (a stat each) comes
 * before reading: a change between the two is found by the next connection, never missed.  The two files of a pair are
 * not replaced in one moment, and a half-written file is no certificate: what cannot be used leaves the last good
 * context in place, and the next connection tries again.  Connections that are open keep the context they were made
 * with; OpenSSL counts the references. */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#ifdef HAVE_TLS
#include "remote/tls_context.h"

#include <openssl/err.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

/* What tells a file from the one that had its name before. */
struct mark {
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec modified, changed;
};
enum { FILES = 4 };

struct near__tls_context {
    const near_options *options;
    const struct near__alloc *alloc;
    const struct near__log *log;
    const char *file[FILES]; /* NULL: none */
    pthread_mutex_t lock;
    SSL_CTX *context;        /* (lock) the newest that could be made */
    struct mark seen[FILES]; /* (lock) the files it was made of */
    _Atomic(uint64_t) refused;
};

/* The system's own reason where there is one: "system lib" is what stands on top of it. */
const char *near__tls_reason(void)
{
    const char *text = NULL, *system = NULL;
    for (unsigned long code; (code = ERR_get_error());) {
        if (ERR_GET_LIB(code) == ERR_LIB_SYS)
            system = strerror(ERR_GET_REASON(code));
        else
            text = ERR_reason_error_string(code);
    }
    return system ? system : text ? text : "no reason given";
}

/* ---------------------------------------------------------------- making a context */

static int load_authorities(SSL_CTX *context, const near_options *o, near_error *error)
{
    if (!o->tls_ca_file && !o->tls_ca_dir) {
        if (o->tls_verify && SSL_CTX_set_default_verify_paths(context) != 1)
            return near__fail(error, NEAR_ERR_TLS, "the system's certificates: %s", near__tls_reason());
        return NEAR_OK;
    }
    if (SSL_CTX_load_verify_locations(context, o->tls_ca_file, o->tls_ca_dir) != 1)
        return near__fail(error, NEAR_ERR_TLS, "tls_ca_file %s, tls_ca_dir %s: %s",
                          o->tls_ca_file ? o->tls_ca_file : "-", o->tls_ca_dir ? o->tls_ca_dir : "-",
                          near__tls_reason());
    return NEAR_OK;
}

static int load_own(SSL_CTX *context, const near_options *o, near_error *error)
{
    if (!o->tls_cert_file && !o->tls_key_file)
        return NEAR_OK;
    const char *key = o->tls_key_file ? o->tls_key_file : o->tls_cert_file;
    const char *certificate = o->tls_cert_file ? o->tls_cert_file : o->tls_key_file;
    if (SSL_CTX_use_certificate_chain_file(context, certificate) != 1)
        return near__fail(error, NEAR_ERR_TLS, "tls_cert_file %s: %s", certificate, near__tls_reason());
    if (SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
        return near__fail(error, NEAR_ERR_TLS, "tls_key_file %s: %s", key, near__tls_reason());
    if (SSL_CTX_check_private_key(context) != 1)
        return near__fail(error, NEAR_ERR_TLS, "tls_key_file %s does not belong to the certificate", key);
    return NEAR_OK;
}

static int make(const near_options *o, SSL_CTX **ret, near_error *error)
{
    ERR_clear_error();
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (!context)
        return near__fail(error, NEAR_ERR_NOMEM, "out of memory");
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_verify(context, o->tls_verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    int status = load_authorities(context, o, error);
    if (status == NEAR_OK)
        status = load_own(context, o, error);
    if (status == NEAR_OK)
        *ret = context;
    else
        SSL_CTX_free(context);
    return status;
}

/* ---------------------------------------------------------------- looking at the files */

/* A file that is not there has a mark, too: one of zeros. */
static void look(const struct near__tls_context *c, struct mark seen[FILES])
{
    memset(seen, 0, FILES * sizeof *seen);
    for (int i = 0; i < FILES; i++) {
        struct stat st;
        if (c->file[i] && stat(c->file[i], &st) == 0)
            seen[i] = (struct mark){st.st_dev, st.st_ino, st.st_size, st.st_mtim, st.st_ctim};
    }
}

static int same_time(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static int same(const struct mark a[FILES], const struct mark b[FILES])
{
    for (int i = 0; i < FILES; i++)
        if (a[i].device != b[i].device || a[i].inode != b[i].inode || a[i].size != b[i].size ||
            !same_time(&a[i].modified, &b[i].modified) || !same_time(&a[i].changed, &b[i].changed))
            return 0;
    return 1;
}

/* With the lock. */
static int renew(struct near__tls_context *c, near_error *error)
{
    struct mark now[FILES];
    SSL_CTX *fresh = NULL;
    look(c, now);
    if (c->context && same(now, c->seen))
        return NEAR_OK;
    int status = make(c->options, &fresh, error);
    if (status != NEAR_OK)
        return status;
    SSL_CTX_free(c->context);
    c->context = fresh;
    memcpy(c->seen, now, sizeof now);
    return NEAR_OK;
}

SSL_CTX *near__tls_context_acquire(struct near__tls_context *c)
{
    near_error error;
    pthread_mutex_lock(&c->lock);
    int status = renew(c, &error);
    SSL_CTX *context = c->context;
    SSL_CTX_up_ref(context);
    pthread_mutex_unlock(&c->lock);
    if (status == NEAR_OK)
        return context;
    atomic_fetch_add_explicit(&c->refused, 1, memory_order_relaxed); /* a counter */
    near__log(c->log, NEAR_LOG_WARNING, "remote", "%s; connecting with what was read before", error.text);
    return context;
}

uint64_t near__tls_context_refused(const struct near__tls_context *c)
{
    return atomic_load_explicit(&c->refused, memory_order_relaxed);
}

/* ---------------------------------------------------------------- open, close */

void near__tls_context_close(struct near__tls_context *c)
{
    if (!c)
        return;
    SSL_CTX_free(c->context);
    pthread_mutex_destroy(&c->lock);
    near__free(c->alloc, c);
}

int near__tls_context_open(const near_options *options, const struct near__alloc *alloc, const struct near__log *log,
                           struct near__tls_context **ret, near_error *error)
{
    struct near__tls_context *c = near__alloc_zero(alloc, sizeof *c);
    if (!c)
        return near__fail(error, NEAR_ERR_NOMEM, "out of memory");
    int systems = options->tls_verify && !options->tls_ca_file && !options->tls_ca_dir;
    c->options = options;
    c->alloc = alloc;
    c->log = log;
    c->file[0] = systems ? X509_get_default_cert_file() : options->tls_ca_file;
    c->file[1] = systems ? X509_get_default_cert_dir() : options->tls_ca_dir;
    c->file[2] = options->tls_cert_file;
    c->file[3] = options->tls_key_file;
    pthread_mutex_init(&c->lock, NULL);
    int status = renew(c, error);
    if (status != NEAR_OK) {
        near__tls_context_close(c);
        return status;
    }
    *ret = c;
    return NEAR_OK;
}

#endif
