/* SPDX-License-Identifier: BSD-3-Clause
 * Requests on a real Redis: what each operation does, says and publishes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <pthread.h>
#include <unistd.h>

#include "remote/script.h"
#include "remote_fixture.h"

static struct redis_server *server;

static int setup(void **state)
{
    if (!redis_server_available())
        return 0;
    if (!server && !(server = redis_server_start(NULL)))
        return -1;
    redis_server_command(server, "FLUSHALL", NULL);
    *state = fixture_new(redis_server_uri_unix(server));
    return 0;
}

static int teardown(void **state)
{
    if (*state)
        fixture_free(*state);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    redis_server_free(server);
    return 0;
}

#define NEEDS_SERVER()                                                                                                 \
    if (!*state)                                                                                                       \
    skip()

static uint64_t server_position(void)
{
    return strtoull(redis_server_command(server, "GET", FIXTURE_POSITION, NULL), NULL, 10);
}

static struct near__channel *open_channel(struct fixture *f)
{
    struct near__channel *channel = NULL;
    near_error error = {0, ""};
    if (near__channel_open(f->remote, "me", fixture_deadline(f, LONG_MS), &channel, &error) != NEAR_OK)
        print_message("%s\n", error.text);
    assert_non_null(channel);
    return channel;
}

static struct near__channel_message read_channel(struct fixture *f, struct near__channel *channel, int ms)
{
    struct near__channel_message m;
    near__channel_read(f->remote, channel, fixture_deadline(f, ms), &m);
    return m;
}

/* ---------------------------------------------------------------- operations */

static void test_fetch_of_an_absent_key_is_a_miss(void **state)
{
    NEEDS_SERVER();
    assert_string_equal(do_fetch(*state, "k"), "NEAR_MISS");
}

static void test_set_then_fetch_carry_one_position_and_one_server(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    struct near__request set = request(NEAR_OP_SET, "k"), fetch = request(NEAR_OP_FETCH, "k");
    set.value = "v";
    set.value_size = 1;
    assert_int_equal(run_one(f, &set), NEAR_OK);
    assert_int_equal(run_one(f, &fetch), NEAR_OK);
    assert_true(set.position > UINT64_C(1600000000000000)); /* microseconds since 1970 */
    assert_true(fetch.position == set.position && set.position == server_position());
    assert_int_equal(fetch.inexact, 0);
    assert_true(set.server != 0 && fetch.server == set.server);
    assert_true(set.sent_ns > 0 && fetch.sent_ns >= set.sent_ns);
    assert_int_equal(fetch.ttl_left_ms, -1);
    assert_memory_equal(fetch.value_out, "v", 1);
    near__free(&f->alloc, fetch.value_out);
    assert_string_equal(redis_server_command(server, "GET", "t:k", NULL), "v"); /* plain in Redis */
}

static void test_conditions_of_set(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    struct near__request q = request(NEAR_OP_SET, "k");
    q.value = "1";
    q.value_size = 1;
    q.flags = NEAR_SET_IF_PRESENT;
    assert_int_equal(run_one(f, &q), NEAR_UNMET);
    q.flags = NEAR_SET_IF_ABSENT;
    assert_int_equal(run_one(f, &q), NEAR_OK);
    uint64_t position = q.position;
    q.value = "2";
    assert_int_equal(run_one(f, &q), NEAR_UNMET);
    assert_true(q.position == position); /* nothing was numbered */
    q.flags = NEAR_SET_IF_PRESENT;
    assert_int_equal(run_one(f, &q), NEAR_OK);
    assert_true(q.position == position + 1);
    assert_string_equal(do_fetch(f, "k"), "2");
}

static void test_time_to_live_is_set_kept_and_removed(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    struct near__request q = request(NEAR_OP_SET, "k"), fetch = request(NEAR_OP_FETCH, "k"),
                         e = request(NEAR_OP_EXPIRE, "k");
    q.value = "1";
    q.value_size = 1;
    q.ttl_ms = 500000;
    assert_int_equal(run_one(f, &q), NEAR_OK);
    assert_int_equal(q.ttl_left_ms, 500000);
    assert_int_equal(run_one(f, &fetch), NEAR_OK);
    near__free(&f->alloc, fetch.value_out);
    assert_in_range(fetch.ttl_left_ms, 400000, 500000);
    q.ttl_ms = 0;
    q.flags = NEAR_SET_KEEP_TTL;
    assert_int_equal(run_one(f, &q), NEAR_OK);
    assert_in_range(q.ttl_left_ms, 400000, 500000);
    e.ttl_ms = 900000;
    assert_int_equal(run_one(f, &e), NEAR_OK);
    assert_in_range(strtoll(redis_server_command(server, "PTTL", "t:k", NULL), NULL, 10), 800000, 900000);
    e.ttl_ms = 0;
    assert_int_equal(run_one(f, &e), NEAR_OK);
    assert_string_equal(redis_server_command(server, "PTTL", "t:k", NULL), "-1");
    e.key = "absent";
    e.key_size = 6;
    uint64_t before = server_position();
    assert_int_equal(run_one(f, &e), NEAR_MISS);
    assert_true(e.position == before && server_position() == before);
}

/* Redis takes any number of milliseconds that fits into 63 bits beside its clock. */
static void test_J_a_time_to_live_fits_into_nanoseconds_whoever_set_it(void **state)
{
    static const char *const names[] = {"t:k", "t:led", "t:held", "t:held:nearcache-lease"};
    const int64_t year_ms = INT64_C(365) * 24 * 3600 * 1000;
    NEEDS_SERVER();
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        redis_server_command(server, "SET", names[i], "v", NULL);
        assert_string_equal(redis_server_command(server, "PEXPIRE", names[i], "9000000000000000000", NULL), "1");
    }
    struct near__request q[] = {request(NEAR_OP_FETCH, "k"), request(NEAR_OP_SET, "k"), request(NEAR_OP_LEASE, "led"),
                                request(NEAR_OP_LEASE, "held")};
    q[1].flags = NEAR_SET_KEEP_TTL;
    q[2].expected = q[3].expected = "owner";
    q[2].expected_size = q[3].expected_size = 5;
    q[2].flags = q[3].flags = NEAR_LEASE_FORCE;
    q[2].ttl_ms = q[3].ttl_ms = 1000;
    for (size_t i = 0; i < sizeof(q) / sizeof(q[0]); i++) {
        assert_int_equal(run_one(f, &q[i]), NEAR_OK);
        near__free(&f->alloc, q[i].value_out);
        assert_in_range(q[i].ttl_left_ms, 100 * year_ms, 200 * year_ms);
    }
    assert_int_equal(q[2].lease, NEAR_LEASE_GOT);
    assert_int_equal(q[3].lease, NEAR_LEASE_HELD);
    assert_in_range(q[3].lease_left_ms, 100 * year_ms, 200 * year_ms);
}

static void test_del_says_whether_the_key_existed(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    struct near__request q = request(NEAR_OP_DEL, "k");
    assert_int_equal(run_one(f, &q), NEAR_MISS);
    assert_int_equal(do_set(f, "k", "v"), NEAR_OK);
    assert_int_equal(run_one(f, &q), NEAR_OK);
    assert_string_equal(do_fetch(f, "k"), "NEAR_MISS");
}

static void incr(struct fixture *f, const char *key, int64_t delta, int status, int64_t result)
{
    struct near__request q = request(NEAR_OP_INCR, key);
    q.number = delta;
    assert_int_equal(run_one(f, &q), status);
    if (status == NEAR_OK)
        assert_true(q.result_number == result);
}

static void test_incr_counts_in_64_bits_and_refuses_what_is_no_number(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    for (int64_t exact = (INT64_C(1) << 53) - 2; exact < (INT64_C(1) << 53) + 2; exact++) {
        char key[32];
        snprintf(key, sizeof key, "exact%" PRId64, exact);
        incr(f, key, exact, NEAR_OK, exact);
        incr(f, key, 1, NEAR_OK, exact + 1);
        incr(f, key, -2 * exact - 1, NEAR_OK, -exact);
        incr(f, key, -1, NEAR_OK, -exact - 1);
    }
    incr(f, "n", INT64_MAX - 1, NEAR_OK, INT64_MAX - 1); /* more digits than Lua's numbers have */
    incr(f, "n", 1, NEAR_OK, INT64_MAX);
    uint64_t before = server_position();
    incr(f, "n", 1, NEAR_ERR_OVERFLOW, 0);
    assert_string_equal(do_fetch(f, "n"), "9223372036854775807");
    incr(f, "m", INT64_MIN, NEAR_OK, INT64_MIN);
    assert_int_equal(do_set(f, "text", "abc"), NEAR_OK);
    incr(f, "text", 1, NEAR_ERR_OVERFLOW, 0);
    assert_true(server_position() == before + 2); /* failures leave no hole */
    struct near__request e = request(NEAR_OP_EXPIRE, "n"), q = request(NEAR_OP_INCR, "n");
    e.ttl_ms = 100000;
    assert_int_equal(run_one(f, &e), NEAR_OK);
    q.number = -7;
    assert_int_equal(run_one(f, &q), NEAR_OK);
    assert_true(q.result_number == INT64_MAX - 7);
    assert_in_range(q.ttl_left_ms, 50000, 100000);
}

static void test_cas_replaces_only_what_was_expected(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    struct near__request q = request(NEAR_OP_CAS, "k");
    q.value = "new";
    q.value_size = 3;
    q.expected = "old";
    q.expected_size = 3;
    assert_int_equal(run_one(f, &q), NEAR_MISS);
    assert_int_equal(do_set(f, "k", "old\0"), NEAR_OK);
    q.expected = "ol";
    q.expected_size = 2;
    assert_int_equal(run_one(f, &q), NEAR_UNMET);
    q.expected = "old";
    q.expected_size = 3;
    q.ttl_ms = 70000;
    assert_int_equal(run_one(f, &q), NEAR_OK);
    assert_int_equal(q.ttl_left_ms, 70000);
    assert_string_equal(do_fetch(f, "k"), "new");
}

static void test_prove_returns_the_position_and_lifts_one_that_lags(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    struct near__request q = request(NEAR_OP_PROVE, NULL);
    q.body = "me";
    q.body_size = 2;
    q.number = 7;
    assert_int_equal(do_set(f, "k", "v"), NEAR_OK);
    uint64_t position = server_position();
    q.known = position;
    assert_int_equal(run_one(f, &q), NEAR_OK);
    assert_true(q.position == position && server_position() == position);
    q.known = UINT64_C(4000000000000000); /* far in the future of any clock */
    assert_int_equal(run_one(f, &q), NEAR_OK);
    assert_true(q.position >= q.known + (1u << 20) && q.position < q.known + (1u << 20) + 1000000);
    assert_true(server_position() == q.position);
    redis_server_command(server, "DEL", FIXTURE_POSITION, NULL);
    q.known = 0;
    assert_int_equal(run_one(f, &q), NEAR_OK);
    assert_true(q.position > UINT64_C(1600000000000000) && server_position() == q.position);
}

static void test_R10_a_lost_position_is_made_anew_from_the_servers_time(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    struct near__request fetch = request(NEAR_OP_FETCH, "k");
    assert_int_equal(do_set(f, "k", "v"), NEAR_OK);
    uint64_t before = server_position();
    redis_server_command(server, "FLUSHALL", NULL);
    assert_int_equal(run_one(f, &fetch), NEAR_MISS);
    assert_true(fetch.position == 0);
    assert_int_equal(do_set(f, "k", "v"), NEAR_OK);
    assert_true(server_position() > before);
}

/* ---------------------------------------------------------------- bytes and sizes */

static void test_keys_and_values_are_any_bytes(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    unsigned char all[256];
    for (int i = 0; i < 256; i++)
        all[i] = (unsigned char)i;
    for (int empty_key = 0; empty_key < 2; empty_key++)
        for (int empty_value = 0; empty_value < 2; empty_value++) {
            struct near__request q = request(NEAR_OP_SET, NULL), fetch = request(NEAR_OP_FETCH, NULL);
            q.key = fetch.key = all;
            q.key_size = fetch.key_size = empty_key ? 0 : sizeof all;
            q.value = all;
            q.value_size = empty_value ? 0 : sizeof all;
            q.body = all;
            q.body_size = sizeof all;
            assert_int_equal(run_one(f, &q), NEAR_OK);
            assert_int_equal(run_one(f, &fetch), NEAR_OK);
            assert_int_equal(fetch.value_out_size, q.value_size);
            assert_non_null(fetch.value_out);
            assert_memory_equal(fetch.value_out, all, q.value_size);
            near__free(&f->alloc, fetch.value_out);
        }
}

static void test_a_value_of_20_mb_goes_and_comes(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    size_t size = 20u << 20;
    char *value = malloc(size);
    for (size_t i = 0; i < size; i++)
        value[i] = (char)(i * 2654435761u >> 13);
    fixture_close(f);
    f->options.value_max = size;
    assert_int_equal(fixture_open(f, redis_server_uri(server), NULL), NEAR_OK);
    struct near__request q = request(NEAR_OP_SET, "big"), fetch = request(NEAR_OP_FETCH, "big");
    q.value = value;
    q.value_size = size;
    assert_int_equal(run_one(f, &q), NEAR_OK);
    assert_int_equal(run_one(f, &fetch), NEAR_OK);
    assert_int_equal(fetch.value_out_size, size);
    assert_int_equal(memcmp(fetch.value_out, value, size), 0);
    near__free(&f->alloc, fetch.value_out);
    free(value);
}

static void test_a_foreign_value_above_the_limit_is_refused_before_it_is_read(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    fixture_close(f);
    f->options.value_max = 1000;
    assert_int_equal(fixture_open(f, redis_server_uri(server), NULL), NEAR_OK);
    redis_server_command(server, "SETRANGE", "t:big", "3000000", "x", NULL);
    assert_string_equal(do_fetch(f, "big"), "NEAR_ERR_TOO_LARGE");
    assert_string_equal(do_fetch(f, "other"), "NEAR_MISS");
    /* and one that the connection lets pass, to the byte */
    redis_server_command(server, "SETRANGE", "t:more", "1000", "x", NULL);
    redis_server_command(server, "SETRANGE", "t:most", "999", "x", NULL);
    struct near__request lease = request(NEAR_OP_LEASE, "more");
    lease.expected = "owner";
    lease.expected_size = 5;
    lease.ttl_ms = 1000;
    assert_string_equal(do_fetch(f, "more"), "NEAR_ERR_TOO_LARGE");
    assert_int_equal(run_one(f, &lease), NEAR_ERR_TOO_LARGE);
    assert_null(lease.value_out);
    struct near__request most = request(NEAR_OP_FETCH, "most");
    assert_int_equal(run_one(f, &most), NEAR_OK);
    assert_int_equal(most.value_out_size, 1000);
    near__free(&f->alloc, most.value_out);
}

static void test_a_batch_answers_each_request_in_its_place(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    enum { N = 500 };
    static struct near__request q[N];
    static char keys[N][16];
    for (int i = 0; i < N; i++) {
        snprintf(keys[i], sizeof keys[i], "key%d", i);
        q[i] = request(i % 3 ? NEAR_OP_SET : NEAR_OP_DEL, keys[i]);
        q[i].value = keys[i];
        q[i].value_size = strlen(keys[i]);
    }
    near__remote_run(f->remote, q, N, fixture_deadline(f, LONG_MS));
    for (int i = 0; i < N; i++) {
        assert_int_equal(q[i].status, i % 3 ? NEAR_OK : NEAR_MISS);
        q[i] = request(NEAR_OP_FETCH, keys[i]);
    }
    near__remote_run(f->remote, q, N, fixture_deadline(f, LONG_MS));
    for (int i = 0; i < N; i++) {
        assert_int_equal(q[i].status, i % 3 ? NEAR_OK : NEAR_MISS);
        if (i % 3) {
            assert_int_equal(q[i].value_out_size, strlen(keys[i]));
            assert_memory_equal(q[i].value_out, keys[i], strlen(keys[i]));
            near__free(&f->alloc, q[i].value_out);
        }
    }
}

enum { SETS = 200, KEYS = 7 };

/* Sets a few keys many times over, with times to live that change now and then. */
static void set_again_and_again(struct fixture *f, struct near__request *q)
{
    static char keys[SETS][16], values[SETS][16];
    for (int i = 0; i < SETS; i++) {
        snprintf(keys[i], sizeof keys[i], "k%d", i % KEYS);
        snprintf(values[i], sizeof values[i], "v%d", i);
        q[i] = request(NEAR_OP_SET, keys[i]);
        q[i].value = q[i].body = values[i];
        q[i].value_size = q[i].body_size = strlen(values[i]);
        q[i].ttl_ms = i / 90 % 2 == 0 && i < SETS - 3 ? 0 : 100000;
    }
    near__remote_run(f->remote, q, SETS, fixture_deadline(f, LONG_MS));
}

static void test_sets_of_a_batch_are_numbered_told_and_done_in_order(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    struct near__channel *channel = open_channel(f);
    static struct near__request q[SETS];
    redis_server_command(server, "DEL", FIXTURE_POSITION, NULL);
    set_again_and_again(f, q);
    assert_true(q[0].position > UINT64_C(1000000000000000)); /* the server's time, since there was no position */
    for (int i = 0; i < SETS; i++) {
        char expected[64];
        int n = snprintf(expected, sizeof expected, "1%" PRIu64 ":v%d", q[i].position, i);
        struct near__channel_message m = read_channel(f, channel, LONG_MS);
        assert_int_equal(q[i].status, NEAR_OK);
        assert_true(q[i].position == q[0].position + (uint64_t)i);
        assert_int_equal(q[i].ttl_left_ms, q[i].ttl_ms ? q[i].ttl_ms : -1);
        assert_int_equal(m.payload_size, n);
        assert_memory_equal(m.payload, expected, n);
    }
    char last[24];
    snprintf(last, sizeof last, "%" PRIu64, q[SETS - 1].position);
    assert_string_equal(redis_server_command(server, "GET", FIXTURE_POSITION, NULL), last);
    for (int i = SETS - KEYS; i < SETS; i++) {
        char key[16], value[16];
        snprintf(key, sizeof key, "t:k%d", i % KEYS);
        snprintf(value, sizeof value, "v%d", i);
        assert_string_equal(redis_server_command(server, "GET", key, NULL), value);
        assert_int_equal(redis_server_command(server, "PTTL", key, NULL)[0] == '-', q[i].ttl_ms == 0);
    }
    near__channel_close(f->remote, channel);
}

static void test_sets_of_a_batch_keep_their_order_when_scripts_are_forgotten(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    static struct near__request q[SETS];
    redis_server_command(server, "SCRIPT", "FLUSH", NULL);
    redis_server_command(server, "CONFIG", "RESETSTAT", NULL);
    set_again_and_again(f, q);
    /* had one of several runs been refused, later ones might have come before it */
    assert_null(strstr(redis_server_command(server, "INFO", "errorstats", NULL), "NOSCRIPT"));
    redis_server_command(server, "SCRIPT", "FLUSH", NULL);
    near__remote_run(f->remote, q, 3, fixture_deadline(f, LONG_MS)); /* one run: refused and sent again as a whole */
    assert_non_null(strstr(redis_server_command(server, "INFO", "errorstats", NULL), "NOSCRIPT"));
    for (int i = 0; i < SETS; i++) {
        assert_int_equal(q[i].status, NEAR_OK);
        assert_true(i < 3 || q[i].position == q[3].position + (uint64_t)(i - 3));
    }
    assert_true(q[2].position == q[0].position + 2 && q[0].position > q[SETS - 1].position);
}

static void test_large_sets_of_a_batch_arrive(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    static char value[100000];
    struct near__request q[5];
    static const char *const keys[] = {"t:a", "t:b", "t:c", "t:d", "t:e"}, *const sizes[] = {"10", "100000", "10", "10",
                                                                                             "100000"};
    memset(value, 'v', sizeof value);
    for (int i = 0; i < 5; i++) {
        q[i] = request(NEAR_OP_SET, keys[i] + 2);
        q[i].value = value;
        q[i].value_size = (size_t)atoi(sizes[i]);
    }
    near__remote_run(f->remote, q, 5, fixture_deadline(f, LONG_MS));
    for (int i = 0; i < 5; i++) {
        assert_int_equal(q[i].status, NEAR_OK);
        assert_string_equal(redis_server_command(server, "STRLEN", keys[i], NULL), sizes[i]);
    }
}

/* More than the socket takes at once, so that sending stops in the middle of the four commands of a fetch, and the
 * server answers the first of them before it has seen the last. */
static void test_fetches_of_long_keys_are_answered_while_they_are_sent(void **state)
{
    enum { FETCHES = 64, ROUNDS = 20, KEY_SIZE = 65535 };
    NEEDS_SERVER();
    struct near__request q[FETCHES];
    char *key = calloc(1, KEY_SIZE);
    assert_non_null(key);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < FETCHES; i++) {
            q[i] = request(NEAR_OP_FETCH, "");
            q[i].key = key;
            q[i].key_size = (size_t)(KEY_SIZE - (FETCHES * round + i) * 7);
        }
        struct fixture *f = *state;
        near__remote_run(f->remote, q, FETCHES, fixture_deadline(f, LONG_MS));
        for (int i = 0; i < FETCHES; i++)
            assert_int_equal(q[i].status, NEAR_MISS);
    }
    free(key);
}

/* ---------------------------------------------------------------- scripts */

static void test_the_digests_are_those_of_the_texts(void **state)
{
    NEEDS_SERVER();
    const struct near__script *s[] = {&near__script_set,
                                      &near__script_write,
                                      &near__script_write_always,
                                      &near__script_prove,
                                      near__script_prove.without_flags,
                                      &near__script_lock,
                                      &near__script_check,
                                      &near__script_lease,
                                      &near__script_fill,
                                      &near__script_roll,
                                      near__script_roll.without_flags,
                                      &near__script_delete,
                                      near__script_delete.without_flags,
                                      &near__script_compare};
    for (size_t i = 0; i < sizeof s / sizeof *s; i++)
        assert_string_equal(redis_server_command(server, "SCRIPT", "LOAD", s[i]->text, NULL), s[i]->sha1);
}

static void test_a_forgotten_script_is_sent_again_and_runs_once(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    for (int i = 1; i <= 3; i++) {
        redis_server_command(server, "SCRIPT", "FLUSH", NULL);
        incr(f, "n", 1, NEAR_OK, i);
        incr(f, "n2", 1, NEAR_OK, i);
    }
    redis_server_command(server, "SCRIPT", "FLUSH", NULL);
    struct near__request q[6];
    for (int i = 0; i < 6; i++) {
        q[i] = request(NEAR_OP_INCR, "b");
        q[i].number = 1;
    }
    near__remote_run(f->remote, q, 6, fixture_deadline(f, LONG_MS));
    for (int i = 0; i < 6; i++)
        assert_int_equal(q[i].status, NEAR_OK);
    assert_string_equal(do_fetch(f, "b"), "6");
}

/* ---------------------------------------------------------------- channels */

static void test_messages_are_the_writes_in_order_and_nothing_else(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    struct near__channel *channel = open_channel(f);
    struct near__request writes[6] = {request(NEAR_OP_SET, "k"),  request(NEAR_OP_CAS, "k"),
                                      request(NEAR_OP_INCR, "n"), request(NEAR_OP_EXPIRE, "k"),
                                      request(NEAR_OP_DEL, "k"),  request(NEAR_OP_CLEAR, NULL)};
    writes[0].value = "v", writes[0].value_size = 1;
    writes[1].value = "w", writes[1].value_size = 1, writes[1].expected = "v", writes[1].expected_size = 1;
    writes[3].ttl_ms = 100000;
    struct near__request silent[3] = {request(NEAR_OP_DEL, "absent"), request(NEAR_OP_CAS, "absent"),
                                      request(NEAR_OP_FETCH, "k")};
    for (int i = 0; i < 6; i++) {
        char body[32];
        snprintf(body, sizeof body, "write %d%c", i, '\0');
        writes[i].body = body;
        writes[i].body_size = strlen(body) + 1;
        assert_int_equal(run_one(f, &writes[i]), NEAR_OK);
        near__remote_run(f->remote, silent, 3, fixture_deadline(f, LONG_MS));
        near__free(&f->alloc, silent[2].value_out);
    }
    for (int i = 0; i < 6; i++) {
        char expected[64];
        int n = snprintf(expected, sizeof expected, "1%" PRIu64 ":write %d", writes[i].position, i) + 1;
        struct near__channel_message m = read_channel(f, channel, LONG_MS);
        assert_int_equal(m.event, NEAR_CHANNEL_MESSAGE);
        assert_int_equal(m.payload_size, n);
        assert_memory_equal(m.payload, expected, n);
        assert_true(writes[i].position == writes[0].position + (uint64_t)i);
    }
    assert_int_equal(read_channel(f, channel, 0).event, NEAR_CHANNEL_IDLE);
    near__channel_close(f->remote, channel);
}

static void test_a_channel_knows_its_server_by_the_label_of_the_replies(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    struct near__channel *channel = open_channel(f);
    struct near__request q = request(NEAR_OP_FETCH, "k");
    run_one(f, &q);
    assert_true(q.server != 0 && q.server == near__server_id(near__channel_server(f->remote, channel)));
    near__channel_close(f->remote, channel);
}

static void test_ping_and_heartbeat_come_back_with_their_nonces(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    struct near__channel *channel = open_channel(f);
    struct near__request q = request(NEAR_OP_PROVE, NULL);
    char expected[128];
    const char *history = strchr(near__channel_server(f->remote, channel), '-');
    assert_non_null(history);
    q.body = "me";
    q.body_size = 2;
    q.number = 4711;
    assert_int_equal(near__channel_ping(f->remote, channel, "nonce-1", fixture_deadline(f, LONG_MS)), NEAR_OK);
    struct near__channel_message m = read_channel(f, channel, LONG_MS);
    assert_int_equal(m.event, NEAR_CHANNEL_PONG);
    assert_int_equal(m.payload_size, 7);
    assert_memory_equal(m.payload, "nonce-1", 7);
    assert_int_equal(run_one(f, &q), NEAR_OK);
    m = read_channel(f, channel, LONG_MS);
    assert_int_equal(m.event, NEAR_CHANNEL_PRIVATE);
    snprintf(expected, sizeof expected, "P4711:%" PRIu64 ":%s", q.position, history + 1);
    assert_int_equal(m.payload_size, strlen(expected));
    assert_memory_equal(m.payload, expected, strlen(expected));
    near__channel_close(f->remote, channel);
}

struct waker {
    struct fixture *f;
    struct near__channel *channel;
};
static void *wake_later(void *arg)
{
    struct waker *w = arg;
    usleep(20000);
    near__channel_wake(w->f->remote, w->channel);
    return NULL;
}

static void test_wake_ends_a_read(void **state)
{
    NEEDS_SERVER();
    struct waker w = {*state, open_channel(*state)};
    pthread_t thread;
    near__channel_wake(w.f->remote, w.channel); /* before the read counts, too */
    assert_int_equal(read_channel(w.f, w.channel, LONG_MS).event, NEAR_CHANNEL_IDLE);
    pthread_create(&thread, NULL, wake_later, &w);
    assert_int_equal(read_channel(w.f, w.channel, LONG_MS).event, NEAR_CHANNEL_IDLE);
    pthread_join(thread, NULL);
    near__channel_close(w.f->remote, w.channel);
}

static void test_R21_a_killed_subscription_is_lost_after_its_last_message(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    struct near__channel *channel = open_channel(f);
    redis_server_command(server, "PUBLISH", FIXTURE_CHANNEL, "last", NULL);
    redis_server_command(server, "CLIENT", "KILL", "TYPE", "pubsub", NULL);
    struct near__channel_message m = read_channel(f, channel, LONG_MS);
    assert_int_equal(m.event, NEAR_CHANNEL_MESSAGE);
    assert_memory_equal(m.payload, "last", 4);
    m = read_channel(f, channel, LONG_MS);
    assert_int_equal(m.event, NEAR_CHANNEL_LOST);
    assert_int_equal(m.status, NEAR_ERR_IO);
    near__channel_close(f->remote, channel);
}

static void test_connections_can_be_told_apart_by_name(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    struct near__channel *channel = open_channel(f);
    do_fetch(f, "k");
    const char *list = redis_server_command(server, "CLIENT", "LIST", NULL);
    assert_non_null(strstr(list, "name=nearcache-data"));
    assert_non_null(strstr(list, "name=nearcache-sub"));
    near__channel_close(f->remote, channel);
}

/* ---------------------------------------------------------------- administration */

static void test_check_is_content_with_a_good_server_and_leaves_nothing(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    near_error error = {0, ""};
    struct near__channel *channel = open_channel(f);
    int status = near__remote_check(f->remote, fixture_deadline(f, LONG_MS), &error);
    if (status != NEAR_OK)
        print_message("%s\n", error.text);
    assert_int_equal(status, NEAR_OK);
    assert_string_equal(redis_server_command(server, "DBSIZE", NULL), "0");
    assert_int_equal(read_channel(f, channel, 0).event, NEAR_CHANNEL_IDLE);
    near__channel_close(f->remote, channel);
}

static void test_clear_keys_removes_the_prefix_and_nothing_else(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    uint64_t removed = 0;
    redis_server_command(server, "EVAL", "for i=1,5000 do redis.call('SET','t:'..i,i) end", "0", NULL);
    redis_server_command(server, "SET", "u:1", "stays", NULL);
    do_set(f, "k", "v");
    assert_int_equal(near__remote_clear_keys(f->remote, fixture_deadline(f, LONG_MS), &removed), NEAR_OK);
    assert_int_equal(removed, 5001);
    assert_string_equal(redis_server_command(server, "DBSIZE", NULL), "2"); /* u:1 and the position */
    assert_string_equal(redis_server_command(server, "GET", "u:1", NULL), "stays");
}

static void test_clear_keys_takes_the_prefix_literally_and_spares_positions(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    uint64_t removed = 0;
    fixture_close(f);
    f->options.prefix = "n*";
    assert_int_equal(fixture_open(f, redis_server_uri(server), NULL), NEAR_OK);
    redis_server_command(server, "MSET", "n*1", "a", "nothing", "b", NULL);
    assert_int_equal(near__remote_clear_keys(f->remote, fixture_deadline(f, LONG_MS), &removed), NEAR_OK);
    assert_int_equal(removed, 1);
    fixture_close(f);
    f->options.prefix = "n";
    assert_int_equal(fixture_open(f, redis_server_uri(server), NULL), NEAR_OK);
    assert_int_equal(do_set(f, "k", "v"), NEAR_OK);
    assert_int_equal(near__remote_clear_keys(f->remote, fixture_deadline(f, LONG_MS), &removed), NEAR_OK);
    assert_int_equal(removed, 2);
    assert_string_equal(redis_server_command(server, "EXISTS", "nearcache:pos:n", NULL), "1");
}

static void test_databases_are_apart(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = *state;
    char uri[128];
    do_set(f, "k", "zero");
    fixture_close(f);
    snprintf(uri, sizeof uri, "%s/3", redis_server_uri(server));
    assert_int_equal(fixture_open(f, uri, NULL), NEAR_OK);
    assert_string_equal(do_fetch(f, "k"), "NEAR_MISS");
    do_set(f, "k", "three");
    assert_string_equal(redis_server_command(server, "GET", "t:k", NULL), "zero");
    fixture_close(f);
    snprintf(uri, sizeof uri, "%s/999", redis_server_uri(server));
    assert_int_equal(fixture_open(f, uri, NULL), NEAR_OK);
    struct near__request q = request(NEAR_OP_FETCH, "k");
    run_ms(f, &q, 300);
    assert_int_equal(q.status, NEAR_ERR_REMOTE);
    assert_non_null(strstr(q.detail, "DB index"));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_fetch_of_an_absent_key_is_a_miss),
        T(test_set_then_fetch_carry_one_position_and_one_server),
        T(test_conditions_of_set),
        T(test_time_to_live_is_set_kept_and_removed),
        T(test_J_a_time_to_live_fits_into_nanoseconds_whoever_set_it),
        T(test_del_says_whether_the_key_existed),
        T(test_incr_counts_in_64_bits_and_refuses_what_is_no_number),
        T(test_cas_replaces_only_what_was_expected),
        T(test_prove_returns_the_position_and_lifts_one_that_lags),
        T(test_R10_a_lost_position_is_made_anew_from_the_servers_time),
        T(test_keys_and_values_are_any_bytes),
        T(test_a_value_of_20_mb_goes_and_comes),
        T(test_a_foreign_value_above_the_limit_is_refused_before_it_is_read),
        T(test_a_batch_answers_each_request_in_its_place),
        T(test_sets_of_a_batch_are_numbered_told_and_done_in_order),
        T(test_sets_of_a_batch_keep_their_order_when_scripts_are_forgotten),
        T(test_large_sets_of_a_batch_arrive),
        T(test_fetches_of_long_keys_are_answered_while_they_are_sent),
        T(test_the_digests_are_those_of_the_texts),
        T(test_a_forgotten_script_is_sent_again_and_runs_once),
        T(test_messages_are_the_writes_in_order_and_nothing_else),
        T(test_a_channel_knows_its_server_by_the_label_of_the_replies),
        T(test_ping_and_heartbeat_come_back_with_their_nonces),
        T(test_wake_ends_a_read),
        T(test_R21_a_killed_subscription_is_lost_after_its_last_message),
        T(test_connections_can_be_told_apart_by_name),
        T(test_check_is_content_with_a_good_server_and_leaves_nothing),
        T(test_clear_keys_removes_the_prefix_and_nothing_else),
        T(test_clear_keys_takes_the_prefix_literally_and_spares_positions),
        T(test_databases_are_apart),
    };
    return cmocka_run_group_tests(tests, NULL, group_teardown);
}
