/* SPDX-License-Identifier: BSD-3-Clause
 * Replies that no Redis sends: a precise status, no large allocation, and the next request works (promise J). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/random.h"
#include "fake_redis.h"
#include "remote/link.h"
#include "remote_fixture.h"
#include "support/allocfail.h"
#include "support/seed.h"

#define SET_DONE "*1\r\n:42\r\n"
#define WRITTEN "*4\r\n:0\r\n$2\r\n42\r\n:-1\r\n$1\r\n0\r\n"

struct hostile {
    struct fake_redis *fake;
    struct fixture *f;
    struct allocfail a;
};

static void begin(struct hostile *h, const char *answer, size_t size)
{
    h->fake = fake_redis_start(answer, size);
    allocfail_init(&h->a);
    h->f = calloc(1, sizeof *h->f);
    fixture_init(h->f);
    near__alloc_init(&h->f->alloc, &h->a.hooks);
    h->f->options.value_max = 100000;
    assert_int_equal(fixture_open(h->f, fake_redis_uri(h->fake), NULL), NEAR_OK);
}

static void end(struct hostile *h)
{
    fixture_free(h->f);
    assert_int_equal(allocfail_blocks(&h->a), 0);
    fake_redis_free(h->fake);
}

static void require_no_channel(struct hostile *h, int status)
{
    struct near__channel *channel;
    near_error error;
    assert_int_equal(near__channel_open(h->f->remote, "me", fixture_deadline(h->f, LONG_MS), &channel, &error), status);
}

static struct near__request ask(struct hostile *h, enum near__operation operation, int ms)
{
    struct near__request q = request(operation, "k");
    q.value = "v";
    q.value_size = 1;
    q.number = 1;
    run_ms(h->f, &q, ms);
    near__free(&h->f->alloc, q.value_out);
    return q;
}

static void test_J_malformed_replies_to_a_read_are_protocol_errors_and_cost_no_memory(void **state)
{
    static const char *const answers[] = {
        "*2147483647\r\n",                      /* thirteen bytes that ask hiredis for 16 GiB */
        "*1000000\r\n$1\r\na\r\n",              /* */
        "$999999999999999999\r\nabc",           /* bulk of an absurd length */
        "$536870913\r\n",                       /* just above what Redis has */
        "$-2\r\n",                              /* no such length */
        "$1\r\nabc\r\n",                        /* longer than announced */
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", /* nested too deeply */
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
        "!garbage\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "_\r\n",             /* RESP3 */
        "*1\r\n$1\r\n1\r\n", /* an array where a string should be */
        "+OK\r\n+OK\r\n+OK\r\n+OK\r\n",
        "$2\r\n-1\r\n:-1\r\n$-1\r\n$2\r\n-1\r\n", /* positions that are no numbers */
        "$1\r\n7\r\n$1\r\n1\r\n$1\r\nv\r\n$1\r\n7\r\n",
        "$1\r\n7\r\n:1\r\n:5\r\n$1\r\n7\r\n",
    };
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        struct hostile h;
        begin(&h, answers[i], strlen(answers[i]));
        struct near__request q = ask(&h, NEAR_OP_FETCH, LONG_MS);
        if (q.status != NEAR_ERR_PROTOCOL)
            print_message("%s: %s %s\n", answers[i], near_status_name(q.status), q.detail);
        assert_int_equal(q.status, NEAR_ERR_PROTOCOL);
        assert_true(q.detail[0] != '\0');
        assert_true(allocfail_peak_bytes(&h.a) < 300000);
        end(&h);
    }
}

static void assert_fate_is_unknown(enum near__operation operation, const char *answer)
{
    struct hostile h;
    begin(&h, answer, strlen(answer));
    struct near__request q = ask(&h, operation, LONG_MS);
    if (q.status != NEAR_ERR_UNKNOWN)
        print_message("%s: %s %s\n", answer, near_status_name(q.status), q.detail);
    assert_int_equal(q.status, NEAR_ERR_UNKNOWN);
    assert_true(q.position == 0);
    end(&h);
}

static void test_J_malformed_replies_to_a_write_leave_its_fate_unknown(void **state)
{
    static const char *const answers[] = {
        "*2147483647\r\n",
        "!x\r\n",
        "+OK\r\n",
        "$-1\r\n",
        "*0\r\n",
        "*4\r\n:0\r\n$2\r\n42\r\n:-1\r\n:0\r\n",
        "*4\r\n:9\r\n$2\r\n42\r\n:-1\r\n$1\r\n0\r\n",
        "*4\r\n:0\r\n$2\r\n-2\r\n:-1\r\n$1\r\n0\r\n",
        "*4\r\n:0\r\n$30\r\n123456789012345678901234567890\r\n:-1\r\n$1\r\n0\r\n",
        "*4\r\n:0\r\n$2\r\n42\r\n:-1\r\n$20\r\n18446744073709551617\r\n", /* 1, where 64 bits are all */
        "*4\r\n:0\r\n$2\r\n42\r\n:-1\r\n$20\r\n99999999999999999999\r\n",
        "*4\r\n:0\r\n$2\r\n42\r\n:-1\r\n$1\r\n-\r\n",
        "*1\r\n:0\r\n",
        "*1\r\n:-42\r\n",
        "*1\r\n$2\r\n42\r\n",
        "*2\r\n:42\r\n:43\r\n",
        ":42\r\n",
        "*1\r\n*1\r\n:42\r\n",
    };
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        assert_fate_is_unknown(NEAR_OP_INCR, answers[i]);
        assert_fate_is_unknown(NEAR_OP_SET, answers[i]);
    }
    assert_fate_is_unknown(NEAR_OP_INCR, SET_DONE);
    assert_fate_is_unknown(NEAR_OP_SET, WRITTEN);
}

static void test_the_fake_server_is_otherwise_understood(void **state)
{
    struct hostile h;
    (void)state;
    begin(&h, SET_DONE, strlen(SET_DONE));
    struct near__request q = ask(&h, NEAR_OP_SET, LONG_MS);
    assert_int_equal(q.status, NEAR_OK);
    assert_true(q.position == 42);
    end(&h);
    begin(&h, WRITTEN, strlen(WRITTEN));
    q = ask(&h, NEAR_OP_INCR, LONG_MS);
    assert_int_equal(q.status, NEAR_OK);
    assert_true(q.position == 42);
    end(&h);
}

static void test_each_of_several_sets_has_its_own_outcome(void **state)
{
    static const char answer[] = "*3\r\n:41\r\n-NOPERM no right to that key\r\n:43\r\n";
    struct hostile h;
    struct near__request q[3];
    (void)state;
    begin(&h, answer, sizeof answer - 1);
    for (int i = 0; i < 3; i++)
        q[i] = request(NEAR_OP_SET, "k");
    near__remote_run(h.f->remote, q, 3, fixture_deadline(h.f, LONG_MS));
    assert_int_equal(q[0].status, NEAR_OK);
    assert_true(q[0].position == 41);
    assert_int_equal(q[1].status, NEAR_ERR_DENIED);
    assert_true(q[1].position == 0);
    assert_int_equal(q[2].status, NEAR_OK);
    assert_true(q[2].position == 43);
    end(&h);
}

static void test_R15_a_reply_too_many_ends_the_connection(void **state)
{
    struct hostile h;
    (void)state;
    begin(&h, SET_DONE SET_DONE, strlen(SET_DONE) * 2);
    for (int i = 0; i < 3; i++) {
        struct near__request q = ask(&h, NEAR_OP_SET, LONG_MS);
        /* its own reply is first; the one too many is seen at once, or before the next use */
        assert_true(q.status == NEAR_OK || q.status == NEAR_ERR_UNKNOWN);
        for (int k = 0; k < 15; k++)
            wait_a_moment();
    }
    assert_true(atomic_load(&h.fake->accepted) >= 2);
    end(&h);
}

static void test_a_position_that_moves_during_a_read_makes_it_inexact(void **state)
{
    static const char *const answers[] = {
        "$1\r\n7\r\n:-1\r\n$1\r\nv\r\n$1\r\n9\r\n", "$1\r\n9\r\n:-1\r\n$1\r\nv\r\n$1\r\n9\r\n",
        "$-1\r\n:-1\r\n$1\r\nv\r\n$-1\r\n", "$1\r\n9\r\n:-2\r\n$1\r\nv\r\n$1\r\n9\r\n"};
    static const uint64_t positions[] = {9, 9, 0, 9};
    static const int ttls[] = {-1, -1, -1, 0}; /* of a key that came between PTTL and GET nothing is known */
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct hostile h;
        begin(&h, answers[i], strlen(answers[i]));
        h.fake->every = 4;
        struct near__request q = ask(&h, NEAR_OP_FETCH, LONG_MS);
        assert_int_equal(q.status, NEAR_OK);
        assert_int_equal(q.inexact, i == 0);
        assert_true(q.position == positions[i]);
        assert_int_equal(q.ttl_left_ms, ttls[i]);
        end(&h);
    }
}

static void test_R18_loading_is_said_and_not_a_miss(void **state)
{
    struct hostile h;
    (void)state;
    begin(&h, "$-1\r\n", 5);
    h.fake->hello = "-LOADING Redis is loading the dataset in memory\r\n";
    struct near__request q = ask(&h, NEAR_OP_FETCH, 200);
    assert_int_equal(q.status, NEAR_ERR_LOADING);
    require_no_channel(&h, NEAR_ERR_LOADING);
    end(&h);
}

/* A server that cannot save what is written refuses writes, and PING as if it were one, and answers reads all the same:
 * so do its connections.  A subscription could not prove anything. */
static void test_H_a_server_that_cannot_save_is_still_read(void **state)
{
    struct hostile h;
    (void)state;
    begin(&h, "$-1\r\n:-2\r\n$-1\r\n$-1\r\n", 20);
    h.fake->every = 4;
    h.fake->hello =
        "-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.\r\n";
    struct near__request q = ask(&h, NEAR_OP_FETCH, LONG_MS);
    assert_int_equal(q.status, NEAR_MISS);
    require_no_channel(&h, NEAR_ERR_MISCONFIGURED);
    end(&h);
}

/* What every key is told by a replica of a cluster, which the address may have led to while it was the master: the
 * connection is made anew, as with READONLY; not for each of many requests. */
static void test_H_a_server_that_sends_us_away_is_asked_on_a_new_connection(void **state)
{
    static const char moved[] = "-MOVED 3999 127.0.0.1:6381\r\n";
    static const enum near__operation operations[] = {NEAR_OP_SET, NEAR_OP_PROVE, NEAR_OP_FETCH};
    struct hostile h;
    _Atomic(int64_t) now = NEAR_NS_PER_S;
    (void)state;
    begin(&h, moved, sizeof moved - 1);
    h.f->clock.virtual_ns = &now;
    for (int renewals = 0; renewals < 3; renewals++) {
        for (int i = 0; i < 100; i++)
            assert_int_equal(ask(&h, operations[renewals], LONG_MS).status, NEAR_ERR_MOVED);
        assert_int_equal(atomic_load(&h.fake->accepted), 2 + renewals);
        near__clock_advance(&now, 100 * NEAR_NS_PER_MS);
    }
    end(&h);
}

/* What a server says that is in protected mode, or that has no room, comes before it has read anything. */
static void test_R38_a_refusal_in_place_of_a_handshake_is_said(void **state)
{
    static const struct {
        const char *words;
        int status;
    } rows[] = {
        {"-DENIED Redis is running in protected mode because protected mode is enabled and no password is set\r\n",
         NEAR_ERR_AUTH},
        {"-ERR max number of clients reached\r\n", NEAR_ERR_MAX_CLIENTS},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct hostile h;
        begin(&h, NULL, 0);
        h.fake->refusal = rows[i].words;
        h.f->options.breaker_failures = 1;
        h.f->options.backoff_min_ms = h.f->options.backoff_max_ms = 3600000;
        struct near__request q = ask(&h, NEAR_OP_FETCH, LONG_MS);
        if (q.status != rows[i].status)
            print_message("%s: %s\n", near_status_name(q.status), q.detail);
        assert_int_equal(q.status, rows[i].status);
        assert_non_null(strstr(rows[i].words, q.detail));
        end(&h);
    }
}

struct waiting {
    struct fixture *f;
    int status;
};

static void *run_waiting(void *arg)
{
    struct waiting *w = arg;
    struct near__request q = request(NEAR_OP_FETCH, "k");
    w->status = run_one(w->f, &q);
    return NULL;
}

#define MISSES "$-1\r\n:-2\r\n$-1\r\n$-1\r\n$-1\r\n:-2\r\n$-1\r\n$-1\r\n" /* of two fetches, told together */

/* A server that has room for one connection, which answers two fetches when it has both. */
static void begin_narrow(struct hostile *h, const char *refusal)
{
    begin(h, MISSES, strlen(MISSES));
    h->fake->every = 8;
    h->fake->room = 1;
    h->fake->refusal = refusal;
    h->f->options.breaker_failures = 1;
    h->f->options.backoff_min_ms = h->f->options.backoff_max_ms = 3600000;
}

/* A request that occupies the connection until another one comes. */
static void occupy(struct hostile *h, struct waiting *w, pthread_t *thread)
{
    int before = atomic_load(&h->fake->commands);
    *w = (struct waiting){.f = h->f};
    pthread_create(thread, NULL, run_waiting, w);
    assert_true(wait_until(atomic_load(&h->fake->commands) == before + 4, LONG_MS));
}

/* One more connection would be nice, but is not to be had: no room for clients, a password that has been changed.  What
 * works goes on, and the server is not asked again and again. */
static void test_H_a_further_connection_that_is_refused_costs_nothing(void **state)
{
    enum { ROUNDS = 12 };
    static const char *const refusals[] = {"-ERR max number of clients reached\r\n",
                                           "-WRONGPASS invalid username-password pair or user is disabled.\r\n"};
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        struct hostile h;
        begin_narrow(&h, refusals[i]);
        for (int round = 0; round < ROUNDS; round++) {
            struct waiting w;
            pthread_t thread;
            occupy(&h, &w, &thread);
            struct near__request q = request(NEAR_OP_FETCH, "k");
            int status = run_one(h.f, &q);
            if (status != NEAR_MISS)
                near__remote_interrupt(h.f->remote); /* the other one waits for it */
            pthread_join(thread, NULL);
            assert_int_equal(status, NEAR_MISS);
            assert_int_equal(w.status, NEAR_MISS);
        }
        assert_true(atomic_load(&h.fake->accepted) <= 1 + ROUNDS / 2); /* one, and one more; pauses are random */
        end(&h);
    }
}

/* The same of a line on which nothing comes back: it costs one caller his time, and others nothing. */
static void test_H_a_further_connection_that_is_silent_costs_one_caller_his_time(void **state)
{
    struct hostile h;
    struct waiting w;
    pthread_t thread;
    (void)state;
    begin_narrow(&h, "");
    occupy(&h, &w, &thread);
    struct near__request q = request(NEAR_OP_FETCH, "k");
    assert_int_equal(run_ms(h.f, &q, 20), NEAR_ERR_TIMEOUT);
    int status = run_one(h.f, &q);
    if (status != NEAR_MISS)
        near__remote_interrupt(h.f->remote);
    pthread_join(thread, NULL);
    assert_int_equal(status, NEAR_MISS);
    assert_int_equal(w.status, NEAR_MISS);
    end(&h);
}

/* Each request of a batch finds out for itself that the server does not know the flags, the first one for all later
 * ones. */
static void test_a_server_before_7_gets_scripts_without_flags(void **state)
{
    struct hostile h;
    (void)state;
    begin(&h, WRITTEN, strlen(WRITTEN));
    h.fake->before_7 = 1;
    for (int round = 0; round < 2; round++) {
        struct near__request q[3] = {request(NEAR_OP_DEL, "a"), request(NEAR_OP_EXPIRE, "b"),
                                     request(NEAR_OP_DEL, "c")};
        near__remote_run(h.f->remote, q, 3, fixture_deadline(h.f, LONG_MS));
        for (int i = 0; i < 3; i++) {
            if (q[i].status != NEAR_OK)
                print_message("%d: %s %s\n", i, near_status_name(q[i].status), q[i].detail);
            assert_int_equal(q[i].status, NEAR_OK);
        }
    }
    assert_int_equal(atomic_load(&h.fake->commands), 6);
    end(&h);
}

static void test_J_a_channel_fed_with_nonsense_is_lost(void **state)
{
#define SUBSCRIBED                                                                                                     \
    "*3\r\n$9\r\nsubscribe\r\n$14\r\nnearcache:0:t:\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$17\r\nnearcache:0:t::me\r\n:"   \
    "2\r\n"
    static const char *const pushes[] = {
        "*3\r\n$7\r\nmessage\r\n$5\r\nother\r\n$1\r\nx\r\n",
        "*3\r\n$7\r\nmessage\r\n$14\r\nnearcache:0:t:\r\n:5\r\n",
        "*3\r\n$7\r\nmessage\r\n$14\r\nnearcache:0:t:\r\n$-1\r\n",
        "*2\r\n$7\r\nmessage\r\n$14\r\nnearcache:0:t:\r\n",
        "+PONG\r\n",
        "*3\r\n$11\r\nunsubscribe\r\n$14\r\nnearcache:0:t:\r\n:1\r\n",
        "*2147483647\r\n",
        "*3\r\n$7\r\nmessage\r\n$14\r\nnearcache:0:t:\r\n$900000000\r\n",
        "-ERR anything\r\n",
        "?",
        "$-1\r\n",
        ":1\r\n",
    };
    (void)state;
    for (size_t i = 0; i < sizeof pushes / sizeof *pushes; i++) {
        struct hostile h;
        struct near__channel *channel = NULL;
        struct near__channel_message m;
        near_error error = {0, ""};
        char answer[512];
        int n = snprintf(answer, sizeof answer, SUBSCRIBED "*2\r\n$4\r\npong\r\n$1\r\n1\r\n%s", pushes[i]);
        begin(&h, answer, (size_t)n);
        int status = near__channel_open(h.f->remote, "me", fixture_deadline(h.f, LONG_MS), &channel, &error);
        if (status != NEAR_OK)
            print_message("%s\n", error.text);
        assert_int_equal(status, NEAR_OK);
        near__channel_read(h.f->remote, channel, fixture_deadline(h.f, LONG_MS), &m);
        assert_int_equal(m.event, NEAR_CHANNEL_PONG);
        near__channel_read(h.f->remote, channel, fixture_deadline(h.f, LONG_MS), &m);
        assert_int_equal(m.event, NEAR_CHANNEL_LOST);
        assert_true(m.status < 0);
        assert_true(allocfail_peak_bytes(&h.a) < 400000);
        near__channel_close(h.f->remote, channel);
        end(&h);
    }
}

static void test_J_a_subscription_that_is_not_confirmed_is_refused(void **state)
{
    static const char *const answers[] = {
        "+OK\r\n",
        "*3\r\n$9\r\nsubscribe\r\n$5\r\nother\r\n:1\r\n",
        "$-1\r\n",
        "*0\r\n",
        "*3\r\n$9\r\nsubscribe\r\n$14\r\nnearcache:0:t:\r\n:1\r\n+OK\r\n",
    };
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        struct hostile h;
        begin(&h, answers[i], strlen(answers[i]));
        require_no_channel(&h, NEAR_ERR_PROTOCOL);
        end(&h);
    }
}

/* ---------------------------------------------------------------- the parser alone */

static void test_J_random_bytes_never_harm_the_parser(void **state)
{
    static const char *const parts[] = {"*",  "$",     "+",   "-",  ":",  "\r\n", "1", "3",
                                        "-1", "65537", "abc", "\r", "\n", "0",    "_", "999999999999"};
    struct allocfail a;
    struct near__alloc alloc;
    uint64_t random = test_seed();
    (void)state;
    allocfail_init(&a);
    near__alloc_init(&alloc, &a.hooks);
    for (int round = 0; round < 4000; round++) {
        struct near__resp r;
        struct near__reply *reply;
        int result = 0;
        assert_int_equal(near__resp_init(&r, &alloc, 1000), NEAR_OK);
        for (int i = 0; i < 40 && result >= 0; i++) {
            const char *part = parts[near__random_below(&random, sizeof parts / sizeof *parts)];
            near__resp_feed(&r, part, strlen(part));
            while ((result = near__resp_next(&r, &reply)) > 0)
                near__reply_free(reply);
        }
        assert_true(result >= 0 || r.fault.status < 0);
        near__resp_fini(&r);
        assert_int_equal(allocfail_blocks(&a), 0);
    }
}

static void test_J_a_line_without_an_end_is_refused(void **state)
{
    struct near__alloc alloc;
    struct near__resp r;
    struct near__reply *reply;
    char block[4096];
    int result = 0, fed = 0;
    (void)state;
    near__alloc_init(&alloc, NULL);
    memset(block, 'a', sizeof block);
    assert_int_equal(near__resp_init(&r, &alloc, 1000), NEAR_OK);
    near__resp_feed(&r, "+", 1);
    while (result == 0 && fed < 100) {
        near__resp_feed(&r, block, sizeof block);
        result = near__resp_next(&r, &reply);
        fed++;
    }
    assert_int_equal(result, -1);
    assert_int_equal(r.fault.status, NEAR_ERR_PROTOCOL);
    assert_true(fed < 30);
    near__resp_fini(&r);
}

static void test_J_a_bulk_string_ends_where_it_says(void **state)
{
    struct near__alloc alloc;
    struct near__resp r;
    struct near__reply *reply;
    (void)state;
    near__alloc_init(&alloc, NULL);
    assert_int_equal(near__resp_init(&r, &alloc, 1000), NEAR_OK);
    near__resp_feed(&r, "$1\r\nabc+OK\r\n", 13); /* hiredis alone would take "a", and then "+OK" */
    assert_int_equal(near__resp_next(&r, &reply), -1);
    assert_int_equal(r.fault.status, NEAR_ERR_PROTOCOL);
    near__resp_fini(&r);
}

static void test_bulk_limits_are_exact(void **state)
{
    struct near__alloc alloc;
    (void)state;
    near__alloc_init(&alloc, NULL);
    for (int excess = 0; excess < 2; excess++) {
        struct near__resp r;
        struct near__reply *reply;
        char header[32];
        assert_int_equal(near__resp_init(&r, &alloc, 1000), NEAR_OK);
        snprintf(header, sizeof header, "$%d\r\n", 1000 + excess);
        near__resp_feed(&r, header, strlen(header));
        assert_int_equal(near__resp_next(&r, &reply), excess ? -1 : 0);
        near__resp_fini(&r);
    }
}

/* ---------------------------------------------------------------- memory */

static void test_R52_each_allocation_may_fail(void **state)
{
    static const enum near__operation operations[] = {NEAR_OP_INCR, NEAR_OP_PROVE, NEAR_OP_SET};
    static const char *const answers[] = {WRITTEN, "$2\r\n42\r\n", "*6\r\n:42\r\n:43\r\n:44\r\n:45\r\n:46\r\n:47\r\n"};
    (void)state;
    for (size_t o = 0; o < 3; o++)
        for (uint64_t n = 1;; n++) {
            struct allocfail a;
            struct fake_redis *fake = fake_redis_start(answers[o], strlen(answers[o]));
            struct fixture f;
            near_error error;
            assert_true(n < 1000);
            allocfail_init(&a);
            fixture_init(&f);
            near__alloc_init(&f.alloc, &a.hooks);
            assert_int_equal(near__uri_parse(fake_redis_uri(fake), &f.alloc, &f.options, &f.uri, NULL), NEAR_OK);
            struct near__remote_config config = {&f.alloc, &f.clock, &f.log, &f.uri, &f.options};
            int64_t before = allocfail_blocks(&a);
            allocfail_at(&a, n);
            int status = near__remote_open(&config, &f.remote, &error);
            if (status == NEAR_OK) {
                struct near__request q[6];
                for (int i = 0; i < 6; i++) {
                    q[i] = request(operations[o], "k");
                    q[i].value = "v";
                    q[i].value_size = 1;
                }
                near__remote_run(f.remote, q, 6, fixture_deadline(&f, LONG_MS));
                for (int i = 0; i < 6; i++) {
                    if (q[i].status != NEAR_OK)
                        status = q[i].status;
                    if (q[i].status == NEAR_ERR_NOMEM) /* then nothing was sent of it */
                        assert_true(q[i].position == 0);
                }
                near__remote_close(f.remote);
            }
            int struck = allocfail_struck(&a) > 0;
            assert_int_equal(allocfail_blocks(&a), before);
            near__uri_fini(&f.uri, &f.alloc);
            fake_redis_free(fake);
            if (!struck) {
                assert_int_equal(status, NEAR_OK);
                break;
            }
            assert_true(status == NEAR_ERR_NOMEM || status == NEAR_ERR_UNKNOWN || status == NEAR_OK);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_J_malformed_replies_to_a_read_are_protocol_errors_and_cost_no_memory),
        cmocka_unit_test(test_J_malformed_replies_to_a_write_leave_its_fate_unknown),
        cmocka_unit_test(test_the_fake_server_is_otherwise_understood),
        cmocka_unit_test(test_each_of_several_sets_has_its_own_outcome),
        cmocka_unit_test(test_R15_a_reply_too_many_ends_the_connection),
        cmocka_unit_test(test_a_position_that_moves_during_a_read_makes_it_inexact),
        cmocka_unit_test(test_R18_loading_is_said_and_not_a_miss),
        cmocka_unit_test(test_H_a_server_that_cannot_save_is_still_read),
        cmocka_unit_test(test_H_a_server_that_sends_us_away_is_asked_on_a_new_connection),
        cmocka_unit_test(test_R38_a_refusal_in_place_of_a_handshake_is_said),
        cmocka_unit_test(test_H_a_further_connection_that_is_refused_costs_nothing),
        cmocka_unit_test(test_H_a_further_connection_that_is_silent_costs_one_caller_his_time),
        cmocka_unit_test(test_a_server_before_7_gets_scripts_without_flags),
        cmocka_unit_test(test_J_a_channel_fed_with_nonsense_is_lost),
        cmocka_unit_test(test_J_a_subscription_that_is_not_confirmed_is_refused),
        cmocka_unit_test(test_J_random_bytes_never_harm_the_parser),
        cmocka_unit_test(test_J_a_line_without_an_end_is_refused),
        cmocka_unit_test(test_J_a_bulk_string_ends_where_it_says),
        cmocka_unit_test(test_bulk_limits_are_exact),
        cmocka_unit_test(test_R52_each_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
