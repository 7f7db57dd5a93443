/* SPDX-License-Identifier: BSD-3-Clause
 * rediss://: certificates are verified, refusals say why, and a stalled handshake meets its deadline. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>

#include "fake_redis.h"
#include "remote_fixture.h"
#include "support/group_server.h"
#include "support/proxy.h"

static int has_tls(void)
{
    struct fixture f;
    fixture_init(&f);
    int status = fixture_open(&f, "rediss://127.0.0.1:1", NULL);
    fixture_close(&f);
    return status == NEAR_OK;
}

static int setup_tls(void **state)
{
    struct redis_server_options o = {.tls = 1};
    (void)state;
    return has_tls() && redis_server_tls_available() ? group_start(&o) : 0;
}

static const char *at(const char *host, int port)
{
    static char uri[128];
    snprintf(uri, sizeof uri, "rediss://%s:%d", host, port);
    return uri;
}

/* Opens with that authority (NULL: none named) and fetches once. */
static struct near__request fetch_with(const char *uri, const char *authority, int verify, const char *name, int ms)
{
    struct fixture f;
    struct near__request q = request(NEAR_OP_FETCH, "absent");
    char path[256] = "";
    fixture_init(&f);
    if (authority)
        snprintf(path, sizeof path, "%s", redis_server_path(server, authority));
    f.options.tls_ca_file = authority ? path : NULL;
    f.options.tls_verify = (uint32_t)verify;
    f.options.tls_server_name = name;
    assert_int_equal(fixture_open(&f, uri, NULL), NEAR_OK);
    run_ms(&f, &q, ms);
    fixture_close(&f);
    return q;
}

static void test_a_good_certificate_connects(void **state)
{
    NEEDS_SERVER();
    struct near__request q = fetch_with(at("localhost", redis_server_tls_port(server)), "ca.crt", 1, NULL, LONG_MS);
    if (q.status < 0)
        print_message("%s\n", q.detail);
    assert_int_equal(q.status, NEAR_MISS);
    assert_true(q.server != 0);
}

static void test_a_certificate_of_an_unknown_authority_is_refused(void **state)
{
    NEEDS_SERVER();
    struct near__request q = fetch_with(at("localhost", redis_server_tls_port(server)), "other-ca.crt", 1, NULL, 1000);
    assert_int_equal(q.status, NEAR_ERR_TLS);
    assert_non_null(strstr(q.detail, "certificate"));
    /* the system's do not know it either */
    q = fetch_with(at("localhost", redis_server_tls_port(server)), NULL, 1, NULL, 1000);
    assert_int_equal(q.status, NEAR_ERR_TLS);
}

static void test_a_certificate_for_another_name_is_refused(void **state)
{
    NEEDS_SERVER();
    struct near__request q =
        fetch_with(at("localhost", redis_server_tls_port(server)), "ca.crt", 1, "elsewhere.example", 1000);
    assert_int_equal(q.status, NEAR_ERR_TLS);
    assert_non_null(strstr(q.detail, "ostname mismatch"));
    q = fetch_with(at("localhost", redis_server_tls_port(server)), "ca.crt", 1, "192.0.2.1", 1000);
    assert_int_equal(q.status, NEAR_ERR_TLS);
    assert_non_null(strstr(q.detail, "IP address mismatch"));
}

static void test_verification_can_be_switched_off(void **state)
{
    NEEDS_SERVER();
    assert_int_equal(
        fetch_with(at("localhost", redis_server_tls_port(server)), "other-ca.crt", 0, NULL, LONG_MS).status, NEAR_MISS);
}

static void test_a_plain_port_and_a_silent_one_meet_their_deadlines(void **state)
{
    NEEDS_SERVER();
    struct near__request q = fetch_with(at("localhost", redis_server_port(server)), "ca.crt", 1, NULL, 300);
    assert_true(q.status == NEAR_ERR_TLS || q.status == NEAR_ERR_TIMEOUT || q.status == NEAR_ERR_UNAVAILABLE);
    struct fake_redis *fake = fake_redis_start(NULL, 0); /* takes the ClientHello and says nothing */
    q = fetch_with(at("127.0.0.1", fake->port), "ca.crt", 1, NULL, 100);
    assert_int_equal(q.status, NEAR_ERR_TIMEOUT);
    fake_redis_free(fake);
}

static void test_a_missing_file_is_named_at_open(void **state)
{
    NEEDS_SERVER();
    struct fixture f;
    near_error error = {0, ""};
    fixture_init(&f);
    f.options.tls_ca_file = "/nonexistent/ca.crt";
    assert_int_equal(fixture_open(&f, at("localhost", 1), &error), NEAR_ERR_TLS);
    assert_non_null(strstr(error.text, "/nonexistent/ca.crt"));
    assert_non_null(strstr(error.text, "No such file or directory"));
    fixture_init(&f);
    f.options.tls_cert_file = "/nonexistent/client.crt";
    assert_int_equal(fixture_open(&f, at("localhost", 1), &error), NEAR_ERR_TLS);
    assert_non_null(strstr(error.text, "/nonexistent/client.crt"));
}

static void test_a_channel_and_large_values_over_tls(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = fixture_new(redis_server_uri_tls(server));
    struct near__channel *channel;
    struct near__channel_message m;
    near_error error = {0, ""};
    size_t size = 3 << 20;
    char *value = malloc(size), *body = malloc(200000);
    memset(value, 'x', size);
    memset(body, 'b', 200000);
    assert_int_equal(near__channel_open(f->remote, "me", fixture_deadline(f, LONG_MS), &channel, &error), NEAR_OK);
    struct near__request q = request(NEAR_OP_SET, "big"), fetch = request(NEAR_OP_FETCH, "big");
    q.value = value;
    q.value_size = size;
    q.body = body;
    q.body_size = 200000;
    assert_int_equal(run_one(f, &q), NEAR_OK);
    assert_int_equal(run_one(f, &fetch), NEAR_OK);
    assert_int_equal(fetch.value_out_size, size);
    assert_memory_equal(fetch.value_out, value, size);
    near__free(&f->alloc, fetch.value_out);
    near__channel_read(f->remote, channel, fixture_deadline(f, LONG_MS), &m);
    assert_int_equal(m.event, NEAR_CHANNEL_MESSAGE);
    assert_true(m.payload_size > 200000);
    assert_int_equal(near__channel_ping(f->remote, channel, "n", fixture_deadline(f, LONG_MS)), NEAR_OK);
    near__channel_read(f->remote, channel, fixture_deadline(f, LONG_MS), &m);
    assert_int_equal(m.event, NEAR_CHANNEL_PONG);
    near__channel_close(f->remote, channel);
    fixture_free(f);
    free(value);
    free(body);
}

struct worker {
    struct fixture *f;
    pthread_t thread;
    int number, wrong;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    char key[32];
    static __thread char value[40000];
    for (int i = 0; i < 60; i++) {
        snprintf(key, sizeof key, "k%d-%d", w->number, i);
        memset(value, 'a' + w->number, sizeof value);
        struct near__request q[2] = {request(NEAR_OP_SET, key), request(NEAR_OP_FETCH, key)};
        q[0].value = value;
        q[0].value_size = (size_t)(i * 600 + 1);
        near__remote_run(w->f->remote, q, 2, fixture_deadline(w->f, LONG_MS));
        w->wrong += q[0].status != NEAR_OK || q[1].status < 0 ||
                    (q[1].status == NEAR_OK &&
                     (q[1].value_out_size != q[0].value_size || memcmp(q[1].value_out, value, q[0].value_size) != 0));
        near__free(&w->f->alloc, q[1].value_out);
    }
    return NULL;
}

static void test_many_threads_share_a_tls_connection(void **state)
{
    NEEDS_SERVER();
    struct worker workers[6];
    struct fixture *f = fixture_new(redis_server_uri_tls(server));
    fixture_close(f);
    f->options.connections = 1;
    assert_int_equal(fixture_open(f, redis_server_uri_tls(server), NULL), NEAR_OK);
    for (int i = 0; i < 6; i++) {
        workers[i] = (struct worker){.f = f, .number = i};
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    for (int i = 0; i < 6; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_int_equal(workers[i].wrong, 0);
    }
    fixture_free(f);
}

static atomic_int pipes_broken;

static void count_sigpipe(int signal_number)
{
    (void)signal_number;
    atomic_fetch_add(&pipes_broken, 1);
}

/* Ends our side of every connection to that port; how many there were. */
static int end_output_to(int port)
{
    int n = 0;
    for (int fd = 3; fd < 1024; fd++) {
        struct sockaddr_storage a;
        socklen_t size = sizeof a;
        if (getpeername(fd, (struct sockaddr *)&a, &size) != 0)
            continue;
        int there = a.ss_family == AF_INET    ? ntohs(((struct sockaddr_in *)&a)->sin_port)
                    : a.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&a)->sin6_port)
                                              : 0;
        n += there == port && shutdown(fd, SHUT_WR) == 0;
    }
    return n;
}

static void test_I_a_tls_peer_that_dies_raises_no_signal(void **state)
{
    NEEDS_SERVER();
    struct sigaction action = {.sa_handler = count_sigpipe}, before;
    struct fixture *f = fixture_new(redis_server_uri_tls(server));
    f->options.breaker_failures = 1000;
    sigaction(SIGPIPE, &action, &before);
    for (int i = 0; i < 5; i++) {
        do_fetch(f, "k"); /* so the connection is in use and not looked at again */
        assert_int_equal(end_output_to(redis_server_tls_port(server)), 1);
        int status = do_set(f, "k", "v"); /* what a peer that has gone looks like to send */
        assert_true(status == NEAR_OK || status == NEAR_ERR_UNKNOWN);
    }
    fixture_free(f);
    sigaction(SIGPIPE, &before, NULL);
    assert_int_equal(atomic_load(&pipes_broken), 0);
}

/* A server that ends, or a balancer without one behind it, has refused nothing: as with a plain connection the next
 * attempt follows soon, and nobody is told that certificates are wrong. */
static void test_H_a_handshake_whose_line_breaks_is_tried_again(void **state)
{
    NEEDS_SERVER();
    char backend[64], uri[64], authority[256];
    struct fixture *f = calloc(1, sizeof *f);
    struct near__remote_stats stats;
    struct near__request q = request(NEAR_OP_FETCH, "absent");
    assert_non_null(f);
    snprintf(backend, sizeof backend, "redis://127.0.0.1:%d", redis_server_tls_port(server));
    struct proxy *p = proxy_start(backend);
    snprintf(uri, sizeof uri, "rediss://localhost:%d", proxy_port(p));
    snprintf(authority, sizeof authority, "%s", redis_server_path(server, "ca.crt"));
    fixture_init(f);
    f->options.tls_ca_file = authority;
    assert_int_equal(fixture_open(f, uri, NULL), NEAR_OK);
    for (int reset = 0; reset < 2; reset++)
        for (int bytes = 0; bytes < 200; bytes += 100) {
            proxy_cut(p, PROXY_ANY, PROXY_TO_CLIENT, bytes, reset);
            assert_string_equal(do_fetch(f, "absent"), "NEAR_MISS");
            assert_int_equal(proxy_cut_done(p, PROXY_ANY, PROXY_TO_CLIENT), 2 * reset + bytes / 100 + 1);
            near__remote_stats(f->remote, &stats);
            assert_int_equal(stats.breaker_open, 0);
            fixture_close(f);
            assert_int_equal(fixture_open(f, uri, NULL), NEAR_OK);
        }
    f->options.breaker_failures = 1;
    f->options.backoff_min_ms = f->options.backoff_max_ms = 3600000;
    proxy_refuse(p, 1);
    assert_int_equal(run_one(f, &q), NEAR_ERR_UNAVAILABLE); /* the breaker's word for it */
    assert_int_equal(near_status_is_transient(q.status), 1);
    fixture_free(f);
    proxy_free(p);
}

/* ---------------------------------------------------------------- files that change */

/* Puts a copy of a file into the place of another, in one step. */
static void put(const char *from, const char *to)
{
    char source[256], line[1024];
    snprintf(source, sizeof source, "%s", redis_server_path(server, from));
    snprintf(line, sizeof line, "cp '%s' '%s.new' && mv -f '%s.new' '%s'", source, redis_server_path(server, to),
             redis_server_path(server, to), redis_server_path(server, to));
    assert_int_equal(system(line), 0);
}

static void end_connections(void)
{
    assert_string_not_equal(redis_server_command(server, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes", NULL),
                            "(no answer)");
}

static int fetches(struct fixture *f)
{
    return strcmp(do_fetch(f, "absent"), "NEAR_MISS") == 0;
}

static void test_a_renewed_authority_is_read_for_the_next_connection(void **state)
{
    NEEDS_SERVER();
    char authority[256];
    struct fixture f;
    put("other-ca.crt", "trusted.crt");
    snprintf(authority, sizeof authority, "%s", redis_server_path(server, "trusted.crt"));
    fixture_init(&f);
    f.options.tls_ca_file = authority;
    assert_int_equal(fixture_open(&f, at("localhost", redis_server_tls_port(server)), NULL), NEAR_OK);
    assert_string_equal(do_fetch(&f, "absent"), "NEAR_ERR_TLS");
    put("ca.crt", "trusted.crt");
    assert_true(wait_until(fetches(&f), LONG_MS));
    fixture_close(&f);
}

static void keep_warning(void *arg, int level, const char *component, const char *message)
{
    (void)component;
    if (level == NEAR_LOG_WARNING && strstr(message, "tls_"))
        snprintf(arg, 512, "%s", message);
}

static uint64_t files_refused(struct fixture *f)
{
    struct near__remote_stats stats;
    near__remote_stats(f->remote, &stats);
    return stats.tls_files_refused;
}

/* The two files of a pair change one after the other; between the two the old ones serve. */
static void test_a_renewed_pair_of_our_own_is_used_once_it_is_complete(void **state)
{
    NEEDS_SERVER();
    char authority[256], certificate[256], key[256], warning[512] = "";
    struct fixture f;
    put("client.crt", "own.crt");
    put("client.key", "own.key");
    snprintf(authority, sizeof authority, "%s", redis_server_path(server, "ca.crt"));
    snprintf(certificate, sizeof certificate, "%s", redis_server_path(server, "own.crt"));
    snprintf(key, sizeof key, "%s", redis_server_path(server, "own.key"));
    assert_string_equal(redis_server_command(server, "CONFIG", "SET", "tls-auth-clients", "yes", NULL), "OK");
    fixture_init(&f);
    f.log.fn = keep_warning;
    f.log.arg = warning;
    f.log.level = NEAR_LOG_WARNING;
    f.options.tls_ca_file = authority;
    f.options.tls_cert_file = certificate;
    f.options.tls_key_file = key;
    assert_int_equal(fixture_open(&f, at("localhost", redis_server_tls_port(server)), NULL), NEAR_OK);
    assert_true(fetches(&f));
    put("other-ca.crt", "own.crt"); /* one that the server does not accept */
    end_connections();
    assert_true(wait_until(fetches(&f) && files_refused(&f) > 0, LONG_MS));
    assert_non_null(strstr(warning, key));
    put("other-ca.key", "own.key");
    end_connections();
    assert_true(wait_until(!fetches(&f), LONG_MS)); /* so the new pair is what it is shown */
    put("client.crt", "own.crt");
    put("client.key", "own.key");
    assert_true(wait_until(fetches(&f), LONG_MS));
    assert_string_equal(redis_server_command(server, "CONFIG", "SET", "tls-auth-clients", "optional", NULL), "OK");
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_good_certificate_connects),
        cmocka_unit_test(test_a_certificate_of_an_unknown_authority_is_refused),
        cmocka_unit_test(test_a_certificate_for_another_name_is_refused),
        cmocka_unit_test(test_verification_can_be_switched_off),
        cmocka_unit_test(test_a_plain_port_and_a_silent_one_meet_their_deadlines),
        cmocka_unit_test(test_a_missing_file_is_named_at_open),
        cmocka_unit_test(test_a_channel_and_large_values_over_tls),
        cmocka_unit_test(test_many_threads_share_a_tls_connection),
        cmocka_unit_test(test_I_a_tls_peer_that_dies_raises_no_signal),
        cmocka_unit_test(test_a_renewed_authority_is_read_for_the_next_connection),
        cmocka_unit_test(test_a_renewed_pair_of_our_own_is_used_once_it_is_complete),
        cmocka_unit_test(test_H_a_handshake_whose_line_breaks_is_tried_again),
    };
    return cmocka_run_group_tests(tests, setup_tls, group_teardown);
}
