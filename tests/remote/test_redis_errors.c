/* SPDX-License-Identifier: BSD-3-Clause
 * What a real Redis refuses, each with its own status, and nothing half done. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>

#include "remote/script.h"
#include "remote_fixture.h"
#include "support/group_server.h"

static const char acl[] = "user default on nopass ~* &* +@all\n"
                          "user app on >secret ~t:* ~nearcache:pos:t:* &nearcache:0:t:* +@all\n"
                          "user mute on >secret ~t:* ~nearcache:pos:t:* resetchannels +@all\n"
                          "user deaf on >secret ~t:* ~nearcache:pos:t:* resetchannels &nearcache:0:t:check +@all\n"
                          "user poor on >secret ~other:* &* +@all\n"
                          "user blind on >secret ~* &* +@all -info\n"
                          "user reader on >secret ~* &* +@all -set -incr\n";

static int setup_users(void **state)
{
    struct redis_server_options o = {.acl = acl, .config = "busy-reply-threshold 50\n"};
    (void)state;
    return group_start(&o);
}

static int setup(void **state)
{
    (void)state;
    if (server) {
        redis_server_command(server, "CONFIG", "SET", "maxmemory", "0", NULL);
        redis_server_command(server, "REPLICAOF", "NO", "ONE", NULL);
        redis_server_command(server, "CONFIG", "SET", "min-replicas-to-write", "0", NULL);
        redis_server_command(server, "CONFIG", "SET", "replica-serve-stale-data", "yes", NULL);
        redis_server_command(server, "FLUSHALL", NULL);
    }
    return 0;
}

static struct fixture *as(const char *user, const char *password)
{
    static char uri[128];
    snprintf(uri, sizeof uri, "redis://%s:%s@127.0.0.1:%d", user, password, redis_server_port(server));
    return fixture_new(uri);
}

/* A write's status, short of patience: some refusals come with a pause. */
static struct near__request run_operation(struct fixture *f, enum near__operation operation, const char *key)
{
    struct near__request q = request(operation, key);
    q.value = q.expected = "1";
    q.value_size = q.expected_size = 1;
    q.number = 1;
    q.ttl_ms = operation == NEAR_OP_EXPIRE ? 100000 : 0;
    run_one(f, &q);
    return q;
}

static struct near__request run_prove(struct fixture *f)
{
    struct near__request q = request(NEAR_OP_PROVE, NULL);
    q.body = "me";
    q.body_size = 2;
    q.number = 1;
    run_one(f, &q);
    return q;
}

static void test_error_texts_and_their_statuses(void **state)
{
    static const struct {
        const char *text;
        int status;
    } rows[] = {
        {"LOADING Redis is loading the dataset in memory", NEAR_ERR_LOADING},
        {"READONLY You can't write against a read only replica.", NEAR_ERR_READONLY},
        {"READONLY You can't write against a read only replica. script: 0123, on @user_script:12.", NEAR_ERR_READONLY},
        {"ERR Error running script (call to f_0123): @user_script:3: @user_script: 3: -READONLY You can't write",
         NEAR_ERR_READONLY},
        {"ERR Error running script (call to f_0123): @user_script:3: WRONGTYPE Operation against", NEAR_ERR_WRONG_TYPE},
        {"OOM command not allowed when used memory > 'maxmemory'.", NEAR_ERR_FULL},
        {"NOAUTH Authentication required.", NEAR_ERR_AUTH},
        {"WRONGPASS invalid username-password pair or user is disabled.", NEAR_ERR_AUTH},
        {"DENIED Redis is running in protected mode because protected mode is enabled", NEAR_ERR_AUTH},
        {"ERR AUTH <password> called without any password configured for the default user.", NEAR_ERR_AUTH},
        {"NOPERM this user has no permissions to access one of the keys used as arguments", NEAR_ERR_DENIED},
        {"ERR The user executing the script can't publish to the channel mentioned in the command", NEAR_ERR_DENIED},
        {"ERR ACL failure in script: User app has no permissions to run the 'publish' command script: 0123, on "
         "@user_script:12.",
         NEAR_ERR_DENIED},
        {"ERR ACL failure in script: User app has no permissions to access the 'near' channel (PUBLISH)",
         NEAR_ERR_DENIED},
        {"MOVED 3999 127.0.0.1:6381", NEAR_ERR_MOVED},
        {"ASK 3999 127.0.0.1:6381", NEAR_ERR_MOVED},
        {"CLUSTERDOWN Hash slot not served", NEAR_ERR_MOVED},
        {"BUSY Redis is busy running a script.", NEAR_ERR_SCRIPT_BUSY},
        {"WRONGTYPE Operation against a key holding the wrong kind of value", NEAR_ERR_WRONG_TYPE},
        {"MASTERDOWN Link with MASTER is down", NEAR_ERR_UNAVAILABLE},
        {"MISCONF Redis is configured to save RDB snapshots", NEAR_ERR_MISCONFIGURED},
        {"NOREPLICAS Not enough good replicas to write.", NEAR_ERR_MISCONFIGURED},
        {"ERR max number of clients reached", NEAR_ERR_MAX_CLIENTS},
        {"ERR value is not an integer or out of range", NEAR_ERR_OVERFLOW},
        {"ERR increment or decrement would overflow", NEAR_ERR_OVERFLOW},
        {"EXECABORT Transaction discarded because of previous errors.", NEAR_ERR_REMOTE},
        {"ERR unknown command 'X'", NEAR_ERR_REMOTE},
        {"BUSYKEY Target key name already exists.", NEAR_ERR_REMOTE},
        {"", NEAR_ERR_REMOTE},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (near__error_status(rows[i].text) != rows[i].status)
            print_message("%s\n", rows[i].text);
        assert_int_equal(near__error_status(rows[i].text), rows[i].status);
    }
}

static void test_R38_wrong_credentials_are_said_and_not_hammered(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = as("app", "wrong");
    f->options.backoff_max_ms = 60000;
    struct near__channel *channel;
    near_error error;
    long long before = redis_server_info(server, "stats", "total_connections_received");
    for (int i = 0; i < 200; i++) {
        struct near__request q = run_operation(f, NEAR_OP_FETCH, "k");
        assert_int_equal(q.status, NEAR_ERR_AUTH);
        assert_non_null(strstr(q.detail, "WRONGPASS"));
    }
    /* one, and our questions */
    assert_true(redis_server_info(server, "stats", "total_connections_received") - before <= 3);
    assert_int_equal(near__channel_open(f->remote, "me", fixture_deadline(f, LONG_MS), &channel, &error),
                     NEAR_ERR_AUTH);
    assert_null(strstr(error.text, "wrong "));
    fixture_free(f);
}

static void test_a_password_that_is_missing_is_an_authentication_error(void **state)
{
    NEEDS_SERVER();
    redis_server_command(server, "ACL", "SETUSER", "default", "off", NULL);
    struct fixture *f = fixture_new(redis_server_uri(server));
    assert_int_equal(run_operation(f, NEAR_OP_FETCH, "k").status, NEAR_ERR_AUTH);
    assert_int_equal(near__remote_check(f->remote, fixture_deadline(f, LONG_MS), NULL), NEAR_ERR_AUTH);
    redis_server_command(server, "ACL", "SETUSER", "default", "on", NULL);
    fixture_free(f);
}

static void test_the_least_rights_are_enough(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = as("app", "secret");
    struct near__channel *channel;
    near_error error = {0, ""};
    assert_int_equal(near__channel_open(f->remote, "me", fixture_deadline(f, LONG_MS), &channel, &error), NEAR_OK);
    int status = near__remote_check(f->remote, fixture_deadline(f, LONG_MS), &error);
    if (status != NEAR_OK)
        print_message("%s\n", error.text);
    assert_int_equal(status, NEAR_OK);
    assert_int_equal(run_operation(f, NEAR_OP_SET, "k").status, NEAR_OK);
    assert_int_equal(run_prove(f).status, NEAR_OK);
    near__channel_close(f->remote, channel);
    fixture_free(f);
}

static void test_R12_without_the_channel_nothing_is_written_and_nobody_is_told(void **state)
{
    NEEDS_SERVER();
    static const enum near__operation operations[] = {NEAR_OP_SET,  NEAR_OP_DEL, NEAR_OP_EXPIRE,
                                                      NEAR_OP_INCR, NEAR_OP_CAS, NEAR_OP_CLEAR};
    static const int64_t deltas[] = {0, 1, -1, -INT64_MAX, INT64_MIN, INT64_MAX - 1};
    struct fixture *mute = as("mute", "secret"), *listener = fixture_new(redis_server_uri(server));
    struct near__channel *channel;
    struct near__channel_message m;
    near_error error;
    assert_int_equal(near__channel_open(listener->remote, "me", fixture_deadline(listener, LONG_MS), &channel, &error),
                     NEAR_OK);
    redis_server_command(server, "SET", "t:k", "1", "PX", "100000000", NULL);
    redis_server_command(server, "SET", "t:k" NEAR_TAGS_SUFFIX, "the value's", NULL);
    redis_server_command(server, "SET", FIXTURE_POSITION, "1000", NULL);
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        struct near__request q = run_operation(mute, operations[i], operations[i] == NEAR_OP_CLEAR ? NULL : "k");
        assert_int_equal(q.status, NEAR_ERR_DENIED);
        assert_string_equal(redis_server_command(server, "GET", "t:k", NULL), "1");
        assert_true(strtoll(redis_server_command(server, "PTTL", "t:k", NULL), NULL, 10) > 90000000);
        assert_string_equal(redis_server_command(server, "GET", "t:k" NEAR_TAGS_SUFFIX, NULL), "the value's");
        assert_string_equal(redis_server_command(server, "GET", FIXTURE_POSITION, NULL), "1000");
    }
    assert_int_equal(run_operation(mute, NEAR_OP_INCR, "absent").status, NEAR_ERR_DENIED);
    assert_string_equal(redis_server_command(server, "EXISTS", "t:absent", NULL), "0");
    for (size_t i = 0; i < sizeof deltas / sizeof *deltas; i++) { /* what was added is taken back exactly */
        struct near__request q = request(NEAR_OP_INCR, "k");
        q.number = deltas[i];
        assert_int_equal(run_ms(mute, &q, LONG_MS), NEAR_ERR_DENIED);
        assert_string_equal(redis_server_command(server, "GET", "t:k", NULL), "1");
    }
    struct near__request sets[3] = {request(NEAR_OP_SET, "a"), request(NEAR_OP_SET, "b"), request(NEAR_OP_SET, "c")};
    near__remote_run(mute->remote, sets, 3, fixture_deadline(mute, LONG_MS));
    for (int i = 0; i < 3; i++)
        assert_int_equal(sets[i].status, NEAR_ERR_DENIED);
    assert_string_equal(redis_server_command(server, "EXISTS", "t:a", "t:b", "t:c", NULL), "0");
    assert_string_equal(redis_server_command(server, "GET", FIXTURE_POSITION, NULL), "1000");
    assert_true(strtoll(redis_server_command(server, "PTTL", "t:k", NULL), NULL, 10) > 90000000);
    near__channel_read(listener->remote, channel, fixture_deadline(listener, 0), &m);
    assert_int_equal(m.event, NEAR_CHANNEL_IDLE);
    near__channel_close(listener->remote, channel);
    fixture_free(listener);
    fixture_free(mute);
}

static void test_a_channel_that_is_denied_names_the_missing_rule(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = as("mute", "secret");
    struct near__channel *channel;
    near_error error = {0, ""};
    assert_int_equal(near__channel_open(f->remote, "me", fixture_deadline(f, LONG_MS), &channel, &error),
                     NEAR_ERR_DENIED);
    assert_non_null(strstr(error.text, "ACL SETUSER mute &nearcache:0:t:*"));
    assert_int_equal(near__remote_check(f->remote, fixture_deadline(f, LONG_MS), &error), NEAR_ERR_DENIED);
    fixture_free(f);
}

static void test_check_finds_that_the_shared_channel_alone_is_denied(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = as("deaf", "secret"); /* may publish beside it */
    near_error error = {0, ""};
    assert_int_equal(near__remote_check(f->remote, fixture_deadline(f, LONG_MS), &error), NEAR_ERR_DENIED);
    fixture_free(f);
}

static void test_keys_and_commands_that_are_denied(void **state)
{
    NEEDS_SERVER();
    struct fixture *poor = as("poor", "secret"), *reader = as("reader", "secret"), *blind = as("blind", "secret");
    struct near__channel *channel;
    near_error error = {0, ""};
    assert_int_equal(run_operation(poor, NEAR_OP_FETCH, "k").status, NEAR_ERR_DENIED);
    assert_int_equal(run_operation(poor, NEAR_OP_SET, "k").status, NEAR_ERR_DENIED);
    assert_int_equal(near__remote_check(poor->remote, fixture_deadline(poor, LONG_MS), &error), NEAR_ERR_DENIED);
    assert_non_null(strstr(error.text, "ACL SETUSER poor ~t:* ~nearcache:pos:t:"));
    assert_int_equal(run_operation(reader, NEAR_OP_FETCH, "k").status, NEAR_MISS);
    assert_int_equal(run_operation(reader, NEAR_OP_SET, "k").status, NEAR_ERR_DENIED);
    assert_string_equal(redis_server_command(server, "EXISTS", "t:k", NULL), "0");
    /* without INFO replies have no label, and a channel cannot be had */
    struct near__request q = run_operation(blind, NEAR_OP_FETCH, "k");
    assert_int_equal(q.status, NEAR_MISS);
    assert_true(q.server == 0);
    assert_int_equal(near__channel_open(blind->remote, "me", fixture_deadline(blind, LONG_MS), &channel, &error),
                     NEAR_ERR_DENIED);
    assert_non_null(strstr(error.text, "ACL SETUSER blind +info"));
    fixture_free(poor);
    fixture_free(reader);
    fixture_free(blind);
}

static void test_out_of_memory_refuses_what_needs_room_and_numbers_the_rest(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = fixture_new(redis_server_uri(server));
    struct near__channel *channel;
    struct near__channel_message m;
    near_error error;
    assert_int_equal(run_operation(f, NEAR_OP_SET, "k").status, NEAR_OK);
    assert_int_equal(run_operation(f, NEAR_OP_SET, "l").status, NEAR_OK);
    assert_int_equal(near__channel_open(f->remote, "me", fixture_deadline(f, LONG_MS), &channel, &error), NEAR_OK);
    redis_server_command(server, "CONFIG", "SET", "maxmemory", "1", NULL);
    uint64_t position = strtoull(redis_server_command(server, "GET", FIXTURE_POSITION, NULL), NULL, 10);
    assert_int_equal(run_operation(f, NEAR_OP_SET, "k").status, NEAR_ERR_FULL);
    assert_int_equal(run_operation(f, NEAR_OP_INCR, "k").status, NEAR_ERR_FULL);
    assert_int_equal(run_operation(f, NEAR_OP_CAS, "k").status, NEAR_ERR_FULL);
    near__channel_read(f->remote, channel, fixture_deadline(f, 0), &m);
    assert_int_equal(m.event, NEAR_CHANNEL_IDLE);
    assert_int_equal(run_operation(f, NEAR_OP_FETCH, "absent").status, NEAR_MISS);
    static const enum near__operation allowed[] = {NEAR_OP_EXPIRE, NEAR_OP_DEL, NEAR_OP_CLEAR};
    for (uint64_t i = 0; i < 3; i++) {
        struct near__request q = run_operation(f, allowed[i], allowed[i] == NEAR_OP_CLEAR ? NULL : "k");
        assert_int_equal(q.status, NEAR_OK);
        assert_true(q.position == position + 1 + i);
        near__channel_read(f->remote, channel, fixture_deadline(f, LONG_MS), &m);
        assert_int_equal(m.event, NEAR_CHANNEL_MESSAGE);
    }
    assert_int_equal(run_prove(f).status, NEAR_OK);
    near__channel_close(f->remote, channel);
    fixture_free(f);
}

static void test_R31_a_replica_refuses_writes_and_heartbeats(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = fixture_new(redis_server_uri(server));
    near_error error = {0, ""};
    assert_int_equal(run_operation(f, NEAR_OP_SET, "k").status, NEAR_OK);
    redis_server_command(server, "REPLICAOF", "127.0.0.1", "1", NULL);
    assert_int_equal(run_operation(f, NEAR_OP_SET, "k").status, NEAR_ERR_READONLY);
    assert_int_equal(run_operation(f, NEAR_OP_DEL, "k").status, NEAR_ERR_READONLY);
    assert_int_equal(run_prove(f).status, NEAR_ERR_READONLY);
    assert_int_equal(near__remote_check(f->remote, fixture_deadline(f, LONG_MS), &error), NEAR_ERR_READONLY);
    redis_server_command(server, "CONFIG", "SET", "replica-serve-stale-data", "no", NULL);
    struct near__request q = run_operation(f, NEAR_OP_FETCH, "k"); /* R18: not a miss */
    assert_int_equal(q.status, NEAR_ERR_UNAVAILABLE);
    assert_non_null(strstr(q.detail, "MASTERDOWN"));
    redis_server_command(server, "REPLICAOF", "NO", "ONE", NULL);
    assert_true(wait_until(run_operation(f, NEAR_OP_SET, "k").status == NEAR_OK, LONG_MS));
    fixture_free(f);
}

/* A write that is refused says that the address may soon lead elsewhere, so the connection is made anew; not for each
 * of thousands of writes. */
static void test_H_a_replica_is_not_asked_for_a_connection_by_every_write(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = calloc(1, sizeof *f);
    _Atomic(int64_t) now = NEAR_NS_PER_S;
    struct near__remote_stats stats;
    assert_non_null(f);
    fixture_init(f);
    f->clock.virtual_ns = &now;
    assert_int_equal(fixture_open(f, redis_server_uri(server), NULL), NEAR_OK);
    assert_int_equal(run_operation(f, NEAR_OP_SET, "k").status, NEAR_OK);
    redis_server_command(server, "REPLICAOF", "127.0.0.1", "1", NULL);
    for (uint64_t renewals = 1; renewals <= 3; renewals++) {
        for (int i = 0; i < 100; i++)
            assert_int_equal(run_operation(f, NEAR_OP_SET, "k").status, NEAR_ERR_READONLY);
        near__remote_stats(f->remote, &stats);
        assert_true(stats.connections_opened == 1 + renewals);
        near__clock_advance(&now, 100 * NEAR_NS_PER_MS);
    }
    redis_server_command(server, "REPLICAOF", "NO", "ONE", NULL);
    fixture_free(f);
}

/* A running master takes another replication id when its first replica comes; its replies must go on counting, while a
 * new subscription sees that something happened. */
static void test_replication_id_tells_subscriptions_apart_and_not_replies(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = fixture_new(redis_server_uri(server));
    struct near__channel *before, *after;
    near_error error;
    assert_int_equal(near__channel_open(f->remote, "me", fixture_deadline(f, LONG_MS), &before, &error), NEAR_OK);
    uint64_t label = near__server_id(near__channel_server(f->remote, before));
    assert_true(run_operation(f, NEAR_OP_FETCH, "k").server == label);
    redis_server_command(server, "REPLICAOF", "127.0.0.1", "1", NULL);
    redis_server_command(server, "REPLICAOF", "NO", "ONE", NULL);
    assert_int_equal(near__channel_open(f->remote, "me", fixture_deadline(f, LONG_MS), &after, &error), NEAR_OK);
    assert_string_not_equal(near__channel_server(f->remote, before), near__channel_server(f->remote, after));
    assert_true(near__server_id(near__channel_server(f->remote, after)) == label);
    assert_true(run_operation(f, NEAR_OP_FETCH, "k").server == label);
    near__channel_close(f->remote, before);
    near__channel_close(f->remote, after);
    fixture_free(f);
}

static void test_R32_a_master_without_its_replicas_refuses_the_heartbeat(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = fixture_new(redis_server_uri(server));
    redis_server_command(server, "CONFIG", "SET", "min-replicas-to-write", "1", NULL);
    assert_int_equal(run_prove(f).status, NEAR_ERR_MISCONFIGURED);
    redis_server_command(server, "CONFIG", "SET", "min-replicas-to-write", "0", NULL);
    assert_int_equal(run_prove(f).status, NEAR_OK);
    redis_server_command(server, "CONFIG", "SET", "min-replicas-to-write", "1", NULL);
    assert_int_equal(run_prove(f).status, NEAR_ERR_MISCONFIGURED); /* also with a position that is there */
    fixture_free(f);
}

static void test_R28_check_finds_an_output_limit_that_drops_subscribers(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = fixture_new(redis_server_uri(server));
    near_error error = {0, ""};
    redis_server_command(server, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 1000 0 0", NULL);
    assert_int_equal(near__remote_check(f->remote, fixture_deadline(f, LONG_MS), &error), NEAR_ERR_MISCONFIGURED);
    assert_non_null(strstr(error.text, "pubsub 1000"));
    redis_server_command(server, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 33554432 8388608 60", NULL);
    assert_int_equal(near__remote_check(f->remote, fixture_deadline(f, LONG_MS), &error), NEAR_OK);
    fixture_free(f);
}

static void test_R18_a_key_of_another_type_is_not_a_miss(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = fixture_new(redis_server_uri(server));
    redis_server_command(server, "LPUSH", "t:k", "x", NULL);
    redis_server_command(server, "SET", FIXTURE_POSITION, "1000", NULL);
    assert_int_equal(run_operation(f, NEAR_OP_FETCH, "k").status, NEAR_ERR_WRONG_TYPE);
    assert_int_equal(run_operation(f, NEAR_OP_INCR, "k").status, NEAR_ERR_WRONG_TYPE);
    assert_int_equal(run_operation(f, NEAR_OP_CAS, "k").status, NEAR_ERR_WRONG_TYPE);
    assert_string_equal(redis_server_command(server, "GET", FIXTURE_POSITION, NULL), "1000"); /* nothing was numbered */
    assert_int_equal(run_operation(f, NEAR_OP_SET, "k").status, NEAR_OK);                     /* replaces it */
    fixture_free(f);
}

static void *run_endless_script(void *arg)
{
    (void)arg;
    redis_server_command(server, "EVAL", "while true do end", "0", NULL);
    return NULL;
}

static void test_R27_a_long_script_is_said_and_ends_the_channel(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = fixture_new(redis_server_uri(server)), *late = fixture_new(redis_server_uri(server));
    struct near__channel *channel;
    struct near__channel_message m;
    near_error error;
    pthread_t thread;
    assert_int_equal(run_operation(f, NEAR_OP_FETCH, "k").status, NEAR_MISS);
    assert_int_equal(near__channel_open(f->remote, "me", fixture_deadline(f, LONG_MS), &channel, &error), NEAR_OK);
    pthread_create(&thread, NULL, run_endless_script, NULL);
    assert_true(wait_until(run_operation(f, NEAR_OP_FETCH, "k").status == NEAR_ERR_SCRIPT_BUSY, LONG_MS));
    assert_int_equal(run_operation(f, NEAR_OP_SET, "k").status, NEAR_ERR_SCRIPT_BUSY);
    assert_int_equal(near__channel_ping(f->remote, channel, "n", fixture_deadline(f, LONG_MS)), NEAR_OK);
    near__channel_read(f->remote, channel, fixture_deadline(f, LONG_MS), &m);
    assert_int_equal(m.event, NEAR_CHANNEL_LOST);
    assert_int_equal(m.status, NEAR_ERR_SCRIPT_BUSY);
    struct near__request q = request(NEAR_OP_FETCH, "k");
    assert_int_equal(run_ms(late, &q, 300), NEAR_ERR_SCRIPT_BUSY); /* a new connection is told so, too */
    assert_true(wait_until(redis_server_command(server, "SCRIPT", "KILL", NULL)[0] == 'O', LONG_MS));
    pthread_join(thread, NULL);
    assert_true(wait_until(run_operation(late, NEAR_OP_FETCH, "k").status == NEAR_MISS, LONG_MS));
    near__channel_close(f->remote, channel);
    fixture_free(f);
    fixture_free(late);
}

static void test_R38_a_server_without_room_for_clients_says_so(void **state)
{
    NEEDS_SERVER();
    struct fixture *f = fixture_new(redis_server_uri(server)), *unix_one = fixture_new(redis_server_uri_unix(server));
    struct near__channel *channel;
    struct near__request q = request(NEAR_OP_FETCH, "k");
    near_error error;
    /* the connection that sets it is the only one */
    assert_true(wait_until(redis_server_info(server, "clients", "connected_clients") == 1, LONG_MS));
    assert_int_equal(near__channel_open(f->remote, "me", fixture_deadline(f, LONG_MS), &channel, &error), NEAR_OK);
    redis_server_command(server, "CONFIG", "SET", "maxclients", "1", NULL);
    assert_true(wait_until(run_ms(f, &q, 300) == NEAR_ERR_MAX_CLIENTS, LONG_MS));
    assert_int_equal(run_ms(unix_one, &q, 300), NEAR_ERR_MAX_CLIENTS);
    near__channel_close(f->remote, channel);
    assert_true(
        wait_until(redis_server_command(server, "CONFIG", "SET", "maxclients", "1000", NULL)[0] == 'O', LONG_MS));
    assert_true(wait_until(run_ms(f, &q, 300) == NEAR_MISS, LONG_MS));
    fixture_free(f);
    fixture_free(unix_one);
}

#define T(name) cmocka_unit_test_setup(name, setup)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_error_texts_and_their_statuses),
        T(test_R38_wrong_credentials_are_said_and_not_hammered),
        T(test_a_password_that_is_missing_is_an_authentication_error),
        T(test_the_least_rights_are_enough),
        T(test_R12_without_the_channel_nothing_is_written_and_nobody_is_told),
        T(test_a_channel_that_is_denied_names_the_missing_rule),
        T(test_check_finds_that_the_shared_channel_alone_is_denied),
        T(test_keys_and_commands_that_are_denied),
        T(test_out_of_memory_refuses_what_needs_room_and_numbers_the_rest),
        T(test_R31_a_replica_refuses_writes_and_heartbeats),
        T(test_H_a_replica_is_not_asked_for_a_connection_by_every_write),
        T(test_replication_id_tells_subscriptions_apart_and_not_replies),
        T(test_R32_a_master_without_its_replicas_refuses_the_heartbeat),
        T(test_R28_check_finds_an_output_limit_that_drops_subscribers),
        T(test_R18_a_key_of_another_type_is_not_a_miss),
        T(test_R27_a_long_script_is_said_and_ends_the_channel),
        T(test_R38_a_server_without_room_for_clients_says_so),
    };
    return cmocka_run_group_tests(tests, setup_users, group_teardown);
}
