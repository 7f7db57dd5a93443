/* SPDX-License-Identifier: BSD-3-Clause
 * A network and a server that fail: deadlines, honesty about what was sent, recovery, and manners towards the
 * process. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "fake_redis.h"
#include "remote_fixture.h"
#include "support/group_server.h"
#include "support/proxy.h"

static int is_not_sent(int status)
{
    return status == NEAR_ERR_TIMEOUT || status == NEAR_ERR_IO || status == NEAR_ERR_UNAVAILABLE;
}

static struct near__request incr(void)
{
    struct near__request q = request(NEAR_OP_INCR, "n");
    q.number = 1;
    return q;
}

static int64_t count_at_server(void)
{
    return strtoll(redis_server_command(server, "GET", "t:n", NULL), NULL, 10);
}

/* ---------------------------------------------------------------- R13 */

/* Cuts the exchange of one write after every byte of one direction; what the status says must be what happened. */
static void cut_everywhere(enum proxy_side side, int reset)
{
    struct proxy *p = proxy_start(redis_server_uri(server));
    struct fixture *f = fixture_new(proxy_uri(p));
    int unknown = 0, done = 0, cuts = 0;
    int64_t length = side == PROXY_TO_SERVER ? 400 : 60; /* both a little more than there is */
    f->options.breaker_failures = 1000000;
    f->options.backoff_max_ms = 1;
    redis_server_command(server, "FLUSHALL", NULL);
    struct near__request first = incr();
    assert_int_equal(run_one(f, &first), NEAR_OK); /* the server knows the script now */
    for (int64_t byte = 1; byte <= length; byte += side == PROXY_TO_SERVER ? 7 : 1) {
        struct near__request q = incr();
        assert_true(wait_until(strcmp(do_fetch(f, "other"), "NEAR_MISS") == 0, LONG_MS));
        int64_t before = count_at_server();
        proxy_cut(p, PROXY_DATA, side, byte, reset);
        int status = run_one(f, &q);
        cuts += proxy_cut_done(p, PROXY_DATA, side) > 0;
        proxy_cut(p, PROXY_DATA, side, -1, 0);
        int64_t after = count_at_server();
        if (status == NEAR_OK)
            assert_true(after == before + 1 && q.result_number == after);
        else if (status == NEAR_ERR_UNKNOWN)
            assert_true(after == before || after == before + 1); /* never twice */
        else {
            assert_true(is_not_sent(status));
            assert_true(after == before);
        }
        unknown += status == NEAR_ERR_UNKNOWN;
        done += status == NEAR_OK;
    }
    assert_true(unknown > 10 && cuts > 10 && done > 0);
    print_message("%d unknown, %d done\n", unknown, done);
    fixture_free(f);
    proxy_free(p);
}

static void test_R13_a_write_cut_on_its_way_never_lies(void **state)
{
    NEEDS_SERVER();
    cut_everywhere(PROXY_TO_SERVER, 0);
    cut_everywhere(PROXY_TO_SERVER, 1);
}

static void test_R13_a_reply_cut_on_its_way_never_lies(void **state)
{
    NEEDS_SERVER();
    cut_everywhere(PROXY_TO_CLIENT, 0);
    cut_everywhere(PROXY_TO_CLIENT, 1);
}

static void test_a_write_that_was_not_sent_says_so_and_is_not_executed_later(void **state)
{
    NEEDS_SERVER();
    struct proxy *p = proxy_start(redis_server_uri(server));
    struct fixture *f = fixture_new(proxy_uri(p));
    struct near__request q = incr();
    redis_server_command(server, "FLUSHALL", NULL);
    proxy_mode(p, PROXY_ANY, PROXY_TO_CLIENT, PROXY_HOLD); /* the handshake is not answered */
    assert_int_equal(run_ms(f, &q, 50), NEAR_ERR_TIMEOUT);
    proxy_mode(p, PROXY_ANY, PROXY_TO_CLIENT, PROXY_PASS);
    assert_true(wait_until(strcmp(do_fetch(f, "other"), "NEAR_MISS") == 0, LONG_MS));
    assert_true(count_at_server() == 0);
    fixture_free(f);
    proxy_free(p);
}

static void test_R13_a_write_that_was_sent_and_not_answered_is_unknown(void **state)
{
    NEEDS_SERVER();
    struct proxy *p = proxy_start(redis_server_uri(server));
    struct fixture *f = fixture_new(proxy_uri(p));
    struct near__request q = incr(), fetch = request(NEAR_OP_FETCH, "k");
    do_fetch(f, "k");
    proxy_mode(p, PROXY_DATA, PROXY_TO_CLIENT, PROXY_HOLD);
    assert_int_equal(run_ms(f, &q, 50), NEAR_ERR_UNKNOWN);
    assert_int_equal(run_ms(f, &fetch, 50), NEAR_ERR_TIMEOUT);
    proxy_mode(p, PROXY_DATA, PROXY_TO_CLIENT, PROXY_PASS);
    assert_true(wait_until(strcmp(do_fetch(f, "k"), "NEAR_MISS") == 0, LONG_MS));
    fixture_free(f);
    proxy_free(p);
}

/* ---------------------------------------------------------------- R15 */

static void test_R15_a_late_reply_is_not_given_to_the_next_request(void **state)
{
    NEEDS_SERVER();
    struct proxy *p = proxy_start(redis_server_uri(server));
    struct fixture *f = fixture_new(proxy_uri(p));
    struct near__request a = request(NEAR_OP_FETCH, "a");
    redis_server_command(server, "MSET", "t:a", "value of a", "t:b", "value of b", NULL);
    f->options.breaker_failures = 1000;
    assert_string_equal(do_fetch(f, "b"), "value of b");
    proxy_mode(p, PROXY_DATA, PROXY_TO_CLIENT, PROXY_HOLD);
    assert_int_equal(run_ms(f, &a, 30), NEAR_ERR_TIMEOUT);
    proxy_mode(p, PROXY_DATA, PROXY_TO_CLIENT, PROXY_PASS); /* a's reply is on its way now */
    for (int i = 0; i < 20; i++)
        assert_string_equal(do_fetch(f, "b"), "value of b");
    fixture_free(f);
    proxy_free(p);
}

struct waiting {
    struct fixture *f;
    struct near__request q;
    int ms;
};

static void *run_waiting(void *arg)
{
    struct waiting *w = arg;
    run_ms(w->f, &w->q, w->ms);
    return NULL;
}

static void test_R15_those_behind_one_that_gave_up_still_get_their_own_replies(void **state)
{
    NEEDS_SERVER();
    struct proxy *p = proxy_start(redis_server_uri(server));
    struct fixture *f = fixture_new(proxy_uri(p));
    pthread_t threads[4];
    struct waiting w[4];
    char keys[4][4] = {"w0", "w1", "w2", "w3"};
    fixture_close(f);
    f->options.connections = 1;
    assert_int_equal(fixture_open(f, proxy_uri(p), NULL), NEAR_OK);
    for (int i = 0; i < 4; i++)
        assert_int_equal(do_set(f, keys[i], keys[i]), NEAR_OK);
    proxy_mode(p, PROXY_DATA, PROXY_TO_CLIENT, PROXY_HOLD);
    uint64_t held = 0;
    for (int i = 0; i < 4; i++) { /* one after the other, so that their order is known */
        w[i] = (struct waiting){f, request(NEAR_OP_FETCH, keys[i]), i == 1 ? 150 : LONG_MS};
        pthread_create(&threads[i], NULL, run_waiting, &w[i]);
        assert_true(wait_until(proxy_held(p, PROXY_DATA, PROXY_TO_CLIENT) > held, LONG_MS));
        held = proxy_held(p, PROXY_DATA, PROXY_TO_CLIENT);
    }
    pthread_join(threads[1], NULL);
    assert_int_equal(w[1].q.status, NEAR_ERR_TIMEOUT);
    proxy_mode(p, PROXY_DATA, PROXY_TO_CLIENT, PROXY_PASS);
    for (int i = 0; i < 4; i++) {
        if (i == 1)
            continue;
        pthread_join(threads[i], NULL);
        assert_int_equal(w[i].q.status, NEAR_OK);
        assert_memory_equal(w[i].q.value_out, keys[i], 2);
        near__free(&f->alloc, w[i].q.value_out);
    }
    struct near__remote_stats stats;
    near__remote_stats(f->remote, &stats);
    assert_int_equal(stats.connections_opened, 1); /* all of them on one */
    assert_string_equal(do_fetch(f, "w1"), "w1");
    near__remote_stats(f->remote, &stats);
    assert_int_equal(stats.connections_opened, 2); /* and that one was given up */
    fixture_free(f);
    proxy_free(p);
}

static void test_a_read_whose_connection_breaks_is_tried_once_more(void **state)
{
    NEEDS_SERVER();
    struct proxy *p = proxy_start(redis_server_uri(server));
    struct fixture *f = fixture_new(proxy_uri(p));
    do_set(f, "k", "v");
    for (int i = 0; i < 5; i++) {
        proxy_cut(p, PROXY_DATA, PROXY_TO_CLIENT, 5, i % 2);
        assert_string_equal(do_fetch(f, "k"), "v");
    }
    fixture_free(f);
    proxy_free(p);
}

static void test_an_idle_connection_that_was_closed_costs_a_write_nothing(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = fixture_new(redis_server_uri(server));
    for (int i = 0; i < 3; i++) {
        assert_int_equal(do_set(f, "k", "v"), NEAR_OK);
        redis_server_command(server, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes", NULL);
        for (int k = 0; k < 30; k++)
            wait_a_moment();
    }
    assert_int_equal(do_set(f, "k", "v"), NEAR_OK);
    fixture_free(f);
}

/* The server has removed the key, and its answer is cut behind that of the SCAN which told of the key. */
static void test_R13_a_removal_of_keys_that_was_not_answered_is_unknown(void **state)
{
    static const char told[] = "*2\r\n$1\r\n0\r\n*1\r\n$3\r\nt:k\r\n";
    NEEDS_SERVER();
    struct proxy *p = proxy_start(redis_server_uri(server));
    struct fixture *f = fixture_new(proxy_uri(p));
    uint64_t removed = 0;
    redis_server_command(server, "FLUSHALL", NULL);
    assert_int_equal(do_set(f, "k", "v"), NEAR_OK);
    proxy_cut(p, PROXY_DATA, PROXY_TO_CLIENT, (int64_t)strlen(told) + 1, 0);
    assert_int_equal(near__remote_clear_keys(f->remote, fixture_deadline(f, LONG_MS), &removed), NEAR_ERR_UNKNOWN);
    assert_string_equal(redis_server_command(server, "EXISTS", "t:k", NULL), "0");
    fixture_free(f);
    proxy_free(p);
}

/* ---------------------------------------------------------------- deadlines and recovery (H) */

static void test_H_a_stopped_server_costs_the_deadline_and_recovery_is_by_itself(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = fixture_new(redis_server_uri(server));
    struct near__request q = request(NEAR_OP_FETCH, "k");
    do_set(f, "k", "v");
    redis_server_pause(server);
    int64_t before = near__now(&f->clock);
    int status = run_ms(f, &q, 100);
    int64_t took = near__now(&f->clock) - before;
    assert_int_equal(status, NEAR_ERR_TIMEOUT);
    assert_true(took >= 100 * NEAR_NS_PER_MS);
    for (int i = 0; i < 20; i++)
        assert_true(run_ms(f, &q, 20) < 0);
    struct near__remote_stats stats;
    near__remote_stats(f->remote, &stats);
    assert_int_equal(stats.breaker_open, 1);
    redis_server_resume(server);
    assert_true(wait_until(strcmp(do_fetch(f, "k"), "v") == 0, LONG_MS));
    near__remote_stats(f->remote, &stats);
    assert_int_equal(stats.breaker_open, 0);
    fixture_free(f);
}

/* Both sides pause on their own; whichever is first to find the server back tells the other one (here: the
 * subscription). */
static void test_H_subscription_ends_the_pause_of_requests(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = calloc(1, sizeof *f);
    struct near__request q = request(NEAR_OP_FETCH, "k");
    struct near__channel *channel;
    near_error error;
    assert_non_null(f);
    fixture_init(f);
    f->options.backoff_min_ms = f->options.backoff_max_ms = 3600000;
    assert_int_equal(fixture_open(f, redis_server_uri(server), &error), NEAR_OK);
    do_set(f, "k", "v");
    redis_server_pause(server);
    for (int i = 0; i < 5; i++)
        assert_true(run_ms(f, &q, 20) < 0);
    redis_server_resume(server);
    assert_true(run_ms(f, &q, 100) < 0); /* an hour, or a part of it */
    assert_int_equal(near__channel_open(f->remote, "p", fixture_deadline(f, LONG_MS), &channel, &error), NEAR_OK);
    assert_string_equal(do_fetch(f, "k"), "v");
    near__channel_close(f->remote, channel);
    fixture_free(f);
}

static void test_H_short_deadlines_finish_a_slow_handshake_together(void **state)
{
    NEEDS_SERVER();
    struct proxy *p = proxy_start(redis_server_uri(server));
    struct fixture *f = fixture_new(proxy_uri(p));
    struct near__request q = request(NEAR_OP_FETCH, "k");
    f->options.breaker_failures = 1000000;
    f->options.connect_timeout_ms = LONG_MS;
    redis_server_command(server, "DEL", "t:k", NULL);
    proxy_delay(p, PROXY_ANY, PROXY_TO_CLIENT, 60); /* no single caller waits that long */
    struct near__remote_stats stats;
    int rounds = 0;
    do {
        assert_int_equal(run_ms(f, &q, 20), NEAR_ERR_TIMEOUT);
        near__remote_stats(f->remote, &stats);
    } while (stats.connections_opened == 0 && ++rounds < 500);
    assert_int_equal(stats.connections_opened, 1);
    assert_int_equal(proxy_accepted(p, PROXY_ANY), 1);
    proxy_delay(p, PROXY_ANY, PROXY_TO_CLIENT, 0);
    assert_true(wait_until(run_ms(f, &q, 200) == NEAR_MISS, LONG_MS));
    fixture_free(f);
    proxy_free(p);
}

/* A caller leaves a handshake half made, its line dies, and for hours nobody calls: the next call begins anew, and does
 * not pay for the old attempt. */
static void test_H_an_attempt_left_behind_costs_the_next_call_nothing(void **state)
{
    NEEDS_SERVER();
    struct fixture f;
    struct near__remote_stats stats;
    struct near__request q = request(NEAR_OP_FETCH, "absent");
    _Atomic(int64_t) later;
    fixture_init(&f);
    f.options.backoff_min_ms = f.options.backoff_max_ms = 3600000;
    assert_int_equal(fixture_open(&f, redis_server_uri(server), NULL), NEAR_OK);
    redis_server_pause(server);
    assert_int_equal(run_ms(&f, &q, 20), NEAR_ERR_TIMEOUT);
    redis_server_kill(server);
    assert_int_equal(redis_server_up(server), 0);
    atomic_init(&later, near__now(&f.clock) + 7200 * NEAR_NS_PER_S);
    f.clock.virtual_ns = &later;
    assert_int_equal(run_ms(&f, &q, 1000), NEAR_MISS);
    near__remote_stats(f.remote, &stats);
    assert_int_equal(stats.connections_opened, 1);
    fixture_close(&f);
}

/* A port where nobody listens; the socket keeps others from taking it. */
static int closed_port(int *ret_socket)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    *ret_socket = fd;
    return ntohs(a.sin_port);
}

static void test_H_a_dead_server_is_asked_seldom_and_refusals_are_immediate(void **state)
{
    struct fake_redis *fake = fake_redis_start(NULL, 0);
    struct fixture *f = malloc(sizeof *f);
    struct near__request q = request(NEAR_OP_FETCH, "k");
    (void)state;
    fixture_init(f);
    f->options.backoff_min_ms = 1;
    f->options.backoff_max_ms = 60000;
    f->options.breaker_failures = 4;
    fake->hello = "-ERR go away\r\n";
    assert_int_equal(fixture_open(f, fake_redis_uri(fake), NULL), NEAR_OK);
    run_ms(f, &q, 2000); /* opens the breaker, or is told that the pause is longer than its deadline */
    int attempts = 0, last = -1, steady = 0;
    for (int i = 0; i < 20000; i++) {
        run_ms(f, &q, 1);
        assert_true(q.status < 0);
        steady = atomic_load(&fake->accepted) == last ? steady + 1 : 0;
        last = atomic_load(&fake->accepted);
    }
    attempts = atomic_load(&fake->accepted);
    print_message("%d connections for 20001 calls\n", attempts);
    assert_true(attempts <= 40); /* doubling from 1 ms */
    fixture_free(f);
    fake_redis_free(fake);
}

struct probe {
    struct fixture *f;
    struct fake_redis *fake;
    pthread_t thread;
    int status;
};

/* Until its commands have reached the server: the eighth is its last. */
static void *probe_main(void *arg)
{
    struct probe *p = arg;
    struct near__request q = request(NEAR_OP_FETCH, "k");
    do
        p->status = run_ms(p->f, &q, 100 * LONG_MS);
    while (p->status != NEAR_ERR_CLOSED && atomic_load(&p->fake->commands) < 8);
    return NULL;
}

/* The one call that may try has a deadline far away, and the line on which it waits is dead: the others are not kept
 * from finding out that the server is well. */
static void test_H_a_probe_on_a_dead_line_holds_up_nobody(void **state)
{
    static const char answer[] = "$1\r\n7\r\n:-1\r\n$1\r\nv\r\n$1\r\n7\r\n";
    struct fake_redis *fake = fake_redis_start(answer, sizeof answer - 1);
    struct fixture *f = malloc(sizeof *f);
    struct probe probe = {.f = f, .fake = fake};
    struct near__remote_stats stats;
    struct near__request q = request(NEAR_OP_FETCH, "k");
    (void)state;
    fake->every = 12; /* a fetch is four commands: the third fetch is answered */
    fixture_init(f);
    f->options.breaker_failures = 1;
    f->options.backoff_min_ms = f->options.backoff_max_ms = 1;
    f->options.connect_timeout_ms = 200;
    assert_int_equal(fixture_open(f, fake_redis_uri(fake), NULL), NEAR_OK);
    do
        assert_true(run_ms(f, &q, 500) < 0);
    while (atomic_load(&fake->commands) == 0);
    assert_true(wait_until(atomic_load(&fake->commands) == 4, LONG_MS));
    near__remote_stats(f->remote, &stats);
    assert_int_equal(stats.breaker_open, 1);
    assert_int_equal(pthread_create(&probe.thread, NULL, probe_main, &probe), 0);
    assert_true(wait_until(atomic_load(&fake->commands) == 8, LONG_MS));
    assert_true(wait_until(run_ms(f, &q, LONG_MS) == NEAR_OK, LONG_MS));
    near__free(&f->alloc, q.value_out);
    near__remote_stats(f->remote, &stats);
    assert_int_equal(stats.breaker_open, 0);
    near__remote_interrupt(f->remote);
    pthread_join(probe.thread, NULL);
    assert_int_equal(probe.status, NEAR_ERR_CLOSED);
    fixture_free(f);
    fake_redis_free(fake);
}

static void test_H_no_server_at_all_is_unavailable(void **state)
{
    char uri[64];
    int bound;
    struct near__request q = request(NEAR_OP_SET, "k");
    struct near__channel *channel;
    near_error error = {0, ""};
    (void)state;
    snprintf(uri, sizeof uri, "redis://127.0.0.1:%d", closed_port(&bound));
    struct fixture *f = fixture_new(uri);
    assert_int_equal(run_ms(f, &q, 100), NEAR_ERR_UNAVAILABLE);
    assert_non_null(strstr(q.detail, "refused"));
    assert_int_equal(near__channel_open(f->remote, "me", fixture_deadline(f, 500), &channel, &error),
                     NEAR_ERR_UNAVAILABLE);
    fixture_free(f);
    f = fixture_new("unix:///nonexistent/redis.sock");
    assert_int_equal(run_ms(f, &q, 100), NEAR_ERR_UNAVAILABLE);
    assert_non_null(strstr(q.detail, "No such file"));
    fixture_free(f);
    close(bound);
}

static void test_H_a_unix_socket_whose_backlog_is_full_is_tried_until_the_deadline(void **state)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct near__request q = request(NEAR_OP_FETCH, "k");
    char uri[128], directory[] = "/tmp/near-backlog-XXXXXX";
    int fds[64], n = 0;
    (void)state;
    assert_non_null(mkdtemp(directory));
    snprintf(a.sun_path, sizeof a.sun_path, "%s/s", directory);
    snprintf(uri, sizeof uri, "unix://%s", a.sun_path);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(listener, 1), 0);
    do
        fds[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    while (connect(fds[n++], (struct sockaddr *)&a, sizeof a) == 0 && n < 64);
    struct fixture *f = fixture_new(uri);
    assert_int_equal(run_ms(f, &q, 60), NEAR_ERR_TIMEOUT);
    fixture_free(f);
    while (n > 0)
        close(fds[--n]);
    close(listener);
    unlink(a.sun_path);
    rmdir(directory);
}

static void test_H_an_unknown_host_says_so_by_the_deadline(void **state)
{
    struct near__request q = request(NEAR_OP_FETCH, "k");
    (void)state;
    struct fixture *f = fixture_new("redis://no-such-host.invalid:6379");
    int64_t before = near__now(&f->clock);
    int status = run_ms(f, &q, 400);
    assert_true(status == NEAR_ERR_RESOLVE || status == NEAR_ERR_TIMEOUT); /* a name server may be silent here */
    assert_true(near__now(&f->clock) - before < LONG_MS * NEAR_NS_PER_MS / 2);
    fixture_free(f);
}

static void test_a_name_that_resolves_is_connected_to(void **state)
{
    NEEDS_SERVER();
    char uri[64];
    /* perhaps ::1 first, where nobody listens */
    snprintf(uri, sizeof uri, "redis://localhost:%d", redis_server_port(server));
    struct fixture *f = fixture_new(uri);
    redis_server_command(server, "SET", "t:k", "v", NULL);
    assert_string_equal(do_fetch(f, "k"), "v");
    fixture_free(f);
}

static void test_a_restarted_server_is_found_again_and_has_another_identity(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = fixture_new(redis_server_uri(server));
    struct near__request q = request(NEAR_OP_FETCH, "k");
    run_one(f, &q);
    near__free(&f->alloc, q.value_out);
    uint64_t before = q.server;
    assert_int_equal(redis_server_restart(server, 0), 0);
    assert_true(wait_until(run_one(f, &q) == NEAR_MISS, LONG_MS));
    assert_true(q.server != 0 && q.server != before);
    fixture_free(f);
}

/* ---------------------------------------------------------------- closing */

static void test_interrupt_ends_requests_with_honest_statuses(void **state)
{
    NEEDS_SERVER();
    struct proxy *p = proxy_start(redis_server_uri(server));
    struct fixture *f = fixture_new(proxy_uri(p));
    pthread_t threads[3];
    struct waiting w[3] = {
        {f, request(NEAR_OP_FETCH, "k"), LONG_MS}, {f, incr(), LONG_MS}, {f, request(NEAR_OP_FETCH, "l"), LONG_MS}};
    do_fetch(f, "k");
    proxy_mode(p, PROXY_DATA, PROXY_TO_CLIENT, PROXY_HOLD);
    for (int i = 0; i < 3; i++) {
        uint64_t held = proxy_held(p, PROXY_DATA, PROXY_TO_CLIENT);
        uint64_t accepted = proxy_accepted(p, PROXY_ANY);
        pthread_create(&threads[i], NULL, run_waiting, &w[i]);
        /* on its way, or waiting for a handshake that is held */
        assert_true(wait_until(
            proxy_held(p, PROXY_DATA, PROXY_TO_CLIENT) > held || proxy_accepted(p, PROXY_ANY) > accepted, LONG_MS));
    }
    int64_t before = near__now(&f->clock);
    near__remote_interrupt(f->remote);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    assert_true(near__now(&f->clock) - before < LONG_MS * NEAR_NS_PER_MS / 2);
    assert_int_equal(w[0].q.status, NEAR_ERR_CLOSED);
    assert_true(w[1].q.status == NEAR_ERR_UNKNOWN || w[1].q.status == NEAR_ERR_CLOSED);
    assert_int_equal(w[2].q.status, NEAR_ERR_CLOSED);
    struct near__request late = incr();
    assert_int_equal(run_one(f, &late), NEAR_ERR_CLOSED);
    fixture_free(f);
    proxy_free(p);
}

/* ---------------------------------------------------------------- a good guest (I) */

static int descriptors(int *ret_without_cloexec)
{
    DIR *d = opendir("/proc/self/fd");
    struct dirent *e;
    int n = 0;
    *ret_without_cloexec = 0;
    while ((e = readdir(d))) {
        int fd = atoi(e->d_name);
        if (e->d_name[0] == '.' || fd == dirfd(d))
            continue;
        n++;
        *ret_without_cloexec += (fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0;
    }
    closedir(d);
    return n;
}

static void test_I_descriptors_are_closed_at_exec_and_none_is_left(void **state)
{
    NEEDS_SERVER();
    int open_before, exposed_before, open_after, exposed;
    redis_server_command(server, "PING", NULL);
    open_before = descriptors(&exposed_before);
    struct fixture *f = fixture_new(redis_server_uri(server));
    struct near__channel *channel;
    near_error error;
    do_fetch(f, "k");
    assert_int_equal(near__channel_open(f->remote, "me", fixture_deadline(f, LONG_MS), &channel, &error), NEAR_OK);
    assert_true(descriptors(&exposed) > open_before);
    assert_int_equal(exposed, exposed_before);
    near__channel_close(f->remote, channel);
    fixture_free(f);
    open_after = descriptors(&exposed);
    assert_int_equal(open_after, open_before);
}

/* expected: worth waiting for, if there are more at first. */
static int descriptors_of_a_connection(const char *uri, int expected)
{
    int n, exposed;
    struct fixture *f = fixture_new(uri);
    struct near__channel *channel;
    near_error error;
    do_set(f, "k", "v");
    assert_int_equal(near__channel_open(f->remote, "me", fixture_deadline(f, LONG_MS), &channel, &error), NEAR_OK);
    /* the thread that has resolved the name ends by itself */
    wait_until((n = descriptors(&exposed)) <= expected, LONG_MS);
    near__channel_close(f->remote, channel);
    fixture_free(f);
    return n;
}

static void test_I_a_name_costs_no_descriptor_once_it_is_resolved(void **state)
{
    NEEDS_SERVER();
    char uri[80];
    int exposed, before = descriptors(&exposed);
    int by_address = descriptors_of_a_connection(redis_server_uri(server), INT_MAX);
    snprintf(uri, sizeof uri, "redis://localhost:%d", redis_server_port(server));
    assert_true(by_address > before);
    assert_int_equal(descriptors_of_a_connection(uri, by_address), by_address);
}

static void test_I_abandon_in_a_child_closes_everything_and_says_nothing(void **state)
{
    NEEDS_SERVER();
    int open_before, exposed;
    open_before = descriptors(&exposed);
    struct fixture *f = fixture_new(redis_server_uri(server));
    struct near__channel *channel;
    near_error error;
    do_set(f, "k", "v");
    assert_int_equal(near__channel_open(f->remote, "me", fixture_deadline(f, LONG_MS), &channel, &error), NEAR_OK);
    pid_t child = fork();
    if (child == 0) {
        near__remote_abandon(f->remote);
        _exit(descriptors(&exposed) == open_before ? 0 : 1);
    }
    int result = -1;
    waitpid(child, &result, 0);
    assert_int_equal(result, 0);
    assert_string_equal(do_fetch(f, "k"), "v"); /* the parent's connections are as good as before */
    assert_int_equal(near__channel_ping(f->remote, channel, "n", fixture_deadline(f, LONG_MS)), NEAR_OK);
    struct near__channel_message m;
    near__channel_read(f->remote, channel, fixture_deadline(f, LONG_MS), &m);
    assert_int_equal(m.event, NEAR_CHANNEL_PONG);
    near__channel_close(f->remote, channel);
    struct near__remote_stats stats;
    near__remote_stats(f->remote, &stats);
    assert_int_equal(stats.connections_opened, 1);
    fixture_free(f);
}

static atomic_int pipes_broken;

static void count_sigpipe(int signal_number)
{
    (void)signal_number;
    atomic_fetch_add(&pipes_broken, 1);
}

static void test_I_a_peer_that_closes_raises_no_signal(void **state)
{
    struct sigaction action = {.sa_handler = count_sigpipe}, before;
    struct fake_redis *fake = fake_redis_start("$-1\r\n", 5);
    struct fixture *f = fixture_new(fake_redis_uri(fake));
    static char value[300000];
    (void)state;
    sigaction(SIGPIPE, &action, &before);
    f->options.breaker_failures = 1000;
    f->options.backoff_max_ms = 1;
    fake->close_after = 1;
    for (int i = 0; i < 20; i++) {
        struct near__request q = request(NEAR_OP_SET, "k");
        q.value = value;
        q.value_size = sizeof value;
        run_ms(f, &q, 500);
        assert_true(q.status < 0);
    }
    fixture_free(f);
    fake_redis_free(fake);
    sigaction(SIGPIPE, &before, NULL);
    assert_int_equal(atomic_load(&pipes_broken), 0);
}

static void interrupted(int signal_number)
{
    (void)signal_number;
}

static void *shoot(void *arg)
{
    pthread_t target = *(pthread_t *)arg;
    for (int i = 0; i < 300; i++) {
        pthread_kill(target, SIGUSR1);
        wait_a_moment();
    }
    return NULL;
}

static void test_I_signals_interrupt_nothing(void **state)
{
    NEEDS_SERVER();
    struct sigaction action = {.sa_handler = interrupted}, before;
    pthread_t self = pthread_self(), thread;
    sigaction(SIGUSR1, &action, &before); /* without SA_RESTART: every call may say EINTR */
    pthread_create(&thread, NULL, shoot, &self);
    for (int i = 0; i < 100; i++) {
        struct fixture *f = fixture_new(redis_server_uri(server));
        assert_int_equal(do_set(f, "k", "v"), NEAR_OK);
        assert_string_equal(do_fetch(f, "k"), "v");
        fixture_free(f);
    }
    pthread_join(thread, NULL);
    sigaction(SIGUSR1, &before, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_R13_a_write_cut_on_its_way_never_lies),
        cmocka_unit_test(test_R13_a_reply_cut_on_its_way_never_lies),
        cmocka_unit_test(test_a_write_that_was_not_sent_says_so_and_is_not_executed_later),
        cmocka_unit_test(test_R13_a_write_that_was_sent_and_not_answered_is_unknown),
        cmocka_unit_test(test_R15_a_late_reply_is_not_given_to_the_next_request),
        cmocka_unit_test(test_R15_those_behind_one_that_gave_up_still_get_their_own_replies),
        cmocka_unit_test(test_a_read_whose_connection_breaks_is_tried_once_more),
        cmocka_unit_test(test_an_idle_connection_that_was_closed_costs_a_write_nothing),
        cmocka_unit_test(test_R13_a_removal_of_keys_that_was_not_answered_is_unknown),
        cmocka_unit_test(test_H_a_stopped_server_costs_the_deadline_and_recovery_is_by_itself),
        cmocka_unit_test(test_H_subscription_ends_the_pause_of_requests),
        cmocka_unit_test(test_H_short_deadlines_finish_a_slow_handshake_together),
        cmocka_unit_test(test_H_an_attempt_left_behind_costs_the_next_call_nothing),
        cmocka_unit_test(test_H_a_dead_server_is_asked_seldom_and_refusals_are_immediate),
        cmocka_unit_test(test_H_a_probe_on_a_dead_line_holds_up_nobody),
        cmocka_unit_test(test_H_no_server_at_all_is_unavailable),
        cmocka_unit_test(test_H_a_unix_socket_whose_backlog_is_full_is_tried_until_the_deadline),
        cmocka_unit_test(test_H_an_unknown_host_says_so_by_the_deadline),
        cmocka_unit_test(test_a_name_that_resolves_is_connected_to),
        cmocka_unit_test(test_a_restarted_server_is_found_again_and_has_another_identity),
        cmocka_unit_test(test_interrupt_ends_requests_with_honest_statuses),
        cmocka_unit_test(test_I_descriptors_are_closed_at_exec_and_none_is_left),
        cmocka_unit_test(test_I_a_name_costs_no_descriptor_once_it_is_resolved),
        cmocka_unit_test(test_I_abandon_in_a_child_closes_everything_and_says_nothing),
        cmocka_unit_test(test_I_a_peer_that_closes_raises_no_signal),
        cmocka_unit_test(test_I_signals_interrupt_nothing),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
