/* SPDX-License-Identifier: BSD-3-Clause
 * Every fault of memory:// does what memory.h says, one step at a time. */
#include "memory/side.h"
#include <pthread.h>
#include <stdlib.h>
#include "support/allocfail.h"
#include "support/wait.h"

/* ---------------------------------------------------------------- fixture: two processes on one store */

struct pair {
    _Atomic(int64_t) now_ns;
    struct side a, b;
    struct near__memory_store *store;
};

static int setup(void **state)
{
    struct pair *p = calloc(1, sizeof *p);
    p->now_ns = 5 * NEAR_NS_PER_S;
    assert_int_equal(side_open(&p->a, "faults", "", &p->now_ns, NULL), NEAR_OK);
    assert_int_equal(side_open(&p->b, "faults", "", &p->now_ns, NULL), NEAR_OK);
    p->store = side_store(&p->a);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct pair *p = *state;
    side_close(&p->a);
    side_close(&p->b);
    near__memory_unref(p->store);
    free(p);
    return 0;
}

/* A request in a thread of its own. */
struct caller {
    struct side *side;
    struct near__request request;
    int64_t deadline_ns;
    _Atomic(int) done;
    pthread_t thread;
};

static void *caller_main(void *arg)
{
    struct caller *c = arg;
    near__remote_run(c->side->remote, &c->request, 1, c->deadline_ns);
    atomic_store(&c->done, 1);
    return NULL;
}

static void call(struct caller *c, struct side *s, struct near__request request)
{
    c->side = s;
    c->request = request;
    c->deadline_ns = side_deadline(s);
    c->done = 0;
    assert_int_equal(pthread_create(&c->thread, NULL, caller_main, c), 0);
}

static int join(struct caller *c)
{
    pthread_join(c->thread, NULL);
    return c->request.status;
}

/* ---------------------------------------------------------------- replies and requests */

static void test_R01_held_reply_has_the_value_and_position_of_when_it_ran(void **state)
{
    struct pair *p = *state;
    struct caller reader;
    uint64_t first = side_set(&p->a, "k", "v1");
    near__memory_fault(p->store, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_FETCH, 1);
    call(&reader, &p->a, side_request(NEAR_OP_FETCH, "k"));
    assert_int_equal(near__memory_wait_held(p->store, NEAR_FAULT_HOLD_REPLIES, 1, 10000), 0);
    assert_int_equal(side_set(&p->b, "k", "v2"), first + 1);
    assert_false(reader.done);
    near__memory_fault(p->store, NEAR_FAULT_HOLD_REPLIES, 0, 0);
    assert_int_equal(join(&reader), NEAR_OK);
    assert_memory_equal(reader.request.value_out, "v1", 2);
    assert_int_equal(reader.request.position, first);
    near__free(&p->a.alloc, reader.request.value_out);
    assert_int_equal(near__memory_held(p->store, NEAR_FAULT_HOLD_REPLIES), 0);
}

static void test_caller_of_a_held_reply_leaves_at_its_deadline(void **state)
{
    struct pair *p = *state;
    struct caller reader, writer;
    side_set(&p->a, "k", "v");
    near__memory_fault(p->store, NEAR_FAULT_HOLD_REPLIES, 0, -1);
    call(&reader, &p->a, side_request(NEAR_OP_FETCH, "k"));
    call(&writer, &p->a, side_set_request("k", "w"));
    assert_int_equal(near__memory_wait_held(p->store, NEAR_FAULT_HOLD_REPLIES, 2, 10000), 0);
    near__clock_advance(&p->now_ns, SIDE_PATIENCE);
    assert_int_equal(join(&reader), NEAR_ERR_TIMEOUT);
    assert_null(reader.request.value_out);
    assert_int_equal(join(&writer), NEAR_ERR_UNKNOWN);
    assert_int_equal(near__memory_held(p->store, NEAR_FAULT_HOLD_REPLIES), 0);
    near__memory_fault(p->store, NEAR_FAULT_HOLD_REPLIES, 0, 0);
    side_expect(&p->a, "k", "w"); /* unknown, and done */
}

static void test_replies_are_released_one_by_one_oldest_first(void **state)
{
    struct pair *p = *state;
    struct caller writers[2];
    near__memory_fault(p->store, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_SET, 2);
    for (int i = 0; i < 2; i++) {
        call(&writers[i], &p->a, side_set_request("k", i ? "second" : "first"));
        assert_int_equal(near__memory_wait_held(p->store, NEAR_FAULT_HOLD_REPLIES, i + 1, 10000), 0);
    }
    side_set(&p->b, "other", "x"); /* the fault was for two */
    near__memory_release_one(p->store, NEAR_FAULT_HOLD_REPLIES);
    assert_int_equal(join(&writers[0]), NEAR_OK);
    assert_false(writers[1].done);
    near__memory_release_one(p->store, NEAR_FAULT_HOLD_REPLIES);
    assert_int_equal(join(&writers[1]), NEAR_OK);
    assert_int_equal(writers[1].request.position, writers[0].request.position + 1);
}

static void test_R14_abandoned_request_runs_when_it_is_released(void **state)
{
    struct pair *p = *state;
    struct caller zombie;
    near__memory_fault(p->store, NEAR_FAULT_HOLD_REQUESTS, NEAR_OP_SET, 1);
    call(&zombie, &p->a, side_set_request("k", "zombie"));
    assert_int_equal(near__memory_wait_held(p->store, NEAR_FAULT_HOLD_REQUESTS, 1, 10000), 0);
    side_expect(&p->b, "k", NULL);
    near__clock_advance(&p->now_ns, SIDE_PATIENCE);
    assert_int_equal(join(&zombie), NEAR_ERR_UNKNOWN);
    uint64_t newer = side_set(&p->b, "k", "newer");
    struct near__channel *channel = side_subscribe(&p->b, "private");
    near__memory_fault(p->store, NEAR_FAULT_HOLD_REQUESTS, 0, 0);
    side_hear_message(&p->b, channel, newer + 1, "k");
    side_expect(&p->b, "k", "zombie");
    near__channel_close(p->b.remote, channel);
}

static void test_held_request_reads_what_is_there_when_it_runs(void **state)
{
    struct pair *p = *state;
    struct caller reader;
    near__memory_fault(p->store, NEAR_FAULT_HOLD_REQUESTS, NEAR_OP_FETCH, 1);
    call(&reader, &p->a, side_request(NEAR_OP_FETCH, "k"));
    assert_int_equal(near__memory_wait_held(p->store, NEAR_FAULT_HOLD_REQUESTS, 1, 10000), 0);
    uint64_t position = side_set(&p->b, "k", "late");
    near__memory_release_one(p->store, NEAR_FAULT_HOLD_REQUESTS);
    assert_int_equal(join(&reader), NEAR_OK);
    assert_memory_equal(reader.request.value_out, "late", 4);
    assert_int_equal(reader.request.position, position);
    near__free(&p->a.alloc, reader.request.value_out);
}

static void test_abandoned_requests_that_never_run_are_freed_with_the_store(void **state)
{
    (void)state;
    struct allocfail a;
    _Atomic(int64_t) now_ns = NEAR_NS_PER_S;
    struct side s;
    struct caller writer;
    allocfail_init(&a);
    assert_int_equal(side_open(&s, "graves", "", &now_ns, &a.hooks), NEAR_OK);
    struct near__memory_store *store = side_store(&s);
    near__memory_fault(store, NEAR_FAULT_HOLD_REQUESTS, 0, -1);
    call(&writer, &s, side_set_request("k", "v"));
    assert_int_equal(near__memory_wait_held(store, NEAR_FAULT_HOLD_REQUESTS, 1, 10000), 0);
    near__clock_advance(&now_ns, SIDE_PATIENCE);
    assert_int_equal(join(&writer), NEAR_ERR_UNKNOWN);
    near__memory_unref(store);
    side_close(&s);
    assert_int_equal(allocfail_blocks(&a), 0);
}

static void test_R13_dropped_reply_leaves_the_fate_of_a_write_unknown(void **state)
{
    struct pair *p = *state;
    struct near__remote_stats stats;
    near__memory_fault(p->store, NEAR_FAULT_DROP_REPLIES, 0, 2);
    struct near__request write = side_set_request("k", "v"), read = side_request(NEAR_OP_FETCH, "k");
    assert_int_equal(side_run(&p->a, &write), NEAR_ERR_UNKNOWN);
    assert_int_equal(write.position, 0);
    assert_int_equal(side_run(&p->a, &read), NEAR_ERR_IO);
    side_expect(&p->a, "k", "v");
    near__remote_stats(p->a.remote, &stats);
    assert_int_equal(stats.connections_lost, 2);
    assert_int_equal(stats.connections_opened, 3);
}

static void test_refused_requests_and_subscriptions_change_nothing(void **state)
{
    struct pair *p = *state;
    struct near__channel *channel;
    near_error error;
    near__memory_fault(p->store, NEAR_FAULT_REFUSE, 0, -1);
    struct near__request q = side_set_request("k", "v");
    assert_int_equal(side_run(&p->a, &q), NEAR_ERR_UNAVAILABLE);
    assert_int_equal(near__channel_open(p->a.remote, "p", side_deadline(&p->a), &channel, &error),
                     NEAR_ERR_UNAVAILABLE);
    assert_non_null(strstr(error.text, "refused"));
    assert_int_equal(near__remote_check(p->a.remote, side_deadline(&p->a), &error), NEAR_ERR_UNAVAILABLE);
    near__memory_fault(p->store, NEAR_FAULT_REFUSE, 0, 0);
    side_expect(&p->a, "k", NULL);
    assert_int_equal(near__remote_check(p->a.remote, side_deadline(&p->a), &error), NEAR_OK);
}

static void test_R24_silence_answers_nothing_delivers_nothing_closes_nothing(void **state)
{
    struct pair *p = *state;
    struct caller reader, writer;
    struct near__channel *channel = side_subscribe(&p->a, "p");
    uint64_t position = side_set(&p->b, "k", "v");
    near__memory_fault(p->store, NEAR_FAULT_SILENCE, 0, -1);
    side_hear_nothing(&p->a, channel); /* the message is there and does not come */
    assert_int_equal(near__channel_ping(p->a.remote, channel, "n1", side_deadline(&p->a)), NEAR_OK);
    call(&reader, &p->a, side_request(NEAR_OP_FETCH, "k"));
    call(&writer, &p->a, side_set_request("k", "w"));
    assert_true(wait_until(({
                               struct near__remote_stats s;
                               near__remote_stats(p->a.remote, &s);
                               s.requests;
                           }) == 2,
                           10000));
    near__clock_advance(&p->now_ns, SIDE_PATIENCE);
    assert_int_equal(join(&reader), NEAR_ERR_TIMEOUT);
    assert_int_equal(join(&writer), NEAR_ERR_UNKNOWN);
    near__memory_fault(p->store, NEAR_FAULT_SILENCE, 0, 0);
    side_hear_message(&p->a, channel, position, "k");
    side_hear_nothing(&p->a, channel); /* what was sent into the silence is lost */
    side_expect(&p->a, "k", "v");
    near__channel_close(p->a.remote, channel);
}

static void test_R18_errors_on_request_are_answers_and_nothing_runs(void **state)
{
    struct pair *p = *state;
    near__memory_error(p->store, NEAR_OP_SET, NEAR_ERR_LOADING, 1);
    near__memory_error(p->store, 0, NEAR_ERR_READONLY, 1);
    struct near__request q = side_set_request("k", "v");
    assert_int_equal(side_run(&p->a, &q), NEAR_ERR_LOADING);
    assert_string_not_equal(q.detail, "");
    assert_int_equal(side_run(&p->a, &q), NEAR_ERR_READONLY);
    assert_int_equal(near__memory_requests(p->store, 0), 0);
    assert_int_equal(side_run(&p->a, &q), NEAR_OK);
    assert_string_equal(q.detail, "");
    assert_int_equal(near__memory_requests(p->store, 0), 1);
    assert_int_equal(near__memory_requests(p->store, NEAR_OP_SET), 1);
}

static void test_interrupt_ends_what_waits_and_refuses_the_rest(void **state)
{
    struct pair *p = *state;
    struct caller reader, writer;
    side_set(&p->a, "k", "v");
    near__memory_fault(p->store, NEAR_FAULT_HOLD_REPLIES, 0, -1);
    call(&reader, &p->a, side_request(NEAR_OP_FETCH, "k"));
    call(&writer, &p->a, side_set_request("k", "w"));
    assert_int_equal(near__memory_wait_held(p->store, NEAR_FAULT_HOLD_REPLIES, 2, 10000), 0);
    near__remote_interrupt(p->a.remote);
    assert_int_equal(join(&reader), NEAR_ERR_CLOSED);
    assert_int_equal(join(&writer), NEAR_ERR_UNKNOWN);
    struct near__request q = side_request(NEAR_OP_FETCH, "k");
    assert_int_equal(side_run(&p->a, &q), NEAR_ERR_CLOSED);
    near__memory_fault(p->store, NEAR_FAULT_HOLD_REPLIES, 0, 0);
    side_expect(&p->b, "k", "w");
}

static void test_impatient_store_never_waits(void **state)
{
    struct pair *p = *state;
    near__memory_impatient(p->store, 1);
    near__memory_fault(p->store, NEAR_FAULT_HOLD_REQUESTS, NEAR_OP_SET, -1);
    near__memory_fault(p->store, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_DEL, -1);
    near__memory_fault(p->store, NEAR_FAULT_SILENCE, NEAR_OP_INCR, -1);
    struct near__request set = side_set_request("k", "v"), del = side_request(NEAR_OP_DEL, "x"),
                         incr = side_request(NEAR_OP_INCR, "n"), fetch = side_request(NEAR_OP_FETCH, "k");
    assert_int_equal(side_run(&p->a, &set), NEAR_ERR_UNKNOWN);
    assert_int_equal(side_run(&p->a, &del), NEAR_ERR_UNKNOWN);
    assert_int_equal(side_run(&p->a, &incr), NEAR_ERR_UNKNOWN);
    assert_int_equal(side_run(&p->a, &fetch), NEAR_MISS);
    near__memory_fault(p->store, NEAR_FAULT_HOLD_REQUESTS, 0, 0);
    side_expect(&p->a, "k", "v");
}

static void test_inexact_fetch_says_so(void **state)
{
    struct pair *p = *state;
    side_set(&p->a, "k", "v");
    near__memory_fault(p->store, NEAR_FAULT_INEXACT, 0, 1);
    for (int inexact = 1; inexact >= 0; inexact--) {
        struct near__request q = side_request(NEAR_OP_FETCH, "k");
        assert_int_equal(side_run(&p->a, &q), NEAR_OK);
        assert_int_equal(q.inexact, inexact);
        near__free(&p->a.alloc, q.value_out);
    }
}

/* ---------------------------------------------------------------- messages */

static void test_held_messages_keep_pongs_behind_them_and_go_one_by_one(void **state)
{
    struct pair *p = *state;
    struct near__channel *a = side_subscribe(&p->a, "pa"), *b = side_subscribe(&p->b, "pb");
    near__memory_fault(p->store, NEAR_FAULT_HOLD_MESSAGES, 0, 2);
    uint64_t one = side_set(&p->a, "one", "x"), two = side_set(&p->a, "two", "x"),
             three = side_set(&p->a, "three", "x");
    near__channel_ping(p->a.remote, a, "nonce", side_deadline(&p->a));
    assert_int_equal(near__memory_held(p->store, NEAR_FAULT_HOLD_MESSAGES), 2);
    side_hear_nothing(&p->a, a);
    near__memory_release_one(p->store, NEAR_FAULT_HOLD_MESSAGES);
    side_hear_message(&p->a, a, one, "one");
    side_hear_nothing(&p->a, a);
    side_hear_message(&p->b, b, one, "one"); /* one message is one, however many get it */
    side_hear_nothing(&p->b, b);
    near__memory_fault(p->store, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
    side_hear_message(&p->a, a, two, "two");
    side_hear_message(&p->a, a, three, "three");
    side_hear(&p->a, a, NEAR_CHANNEL_PONG, "nonce");
    near__channel_close(p->a.remote, a);
    near__channel_close(p->b.remote, b);
}

static void test_R30_dropped_message_leaves_a_hole_in_the_positions(void **state)
{
    struct pair *p = *state;
    struct near__channel *a = side_subscribe(&p->a, "pa");
    near__memory_fault(p->store, NEAR_FAULT_DROP_MESSAGES, 0, 1);
    uint64_t lost = side_set(&p->b, "lost", "x");
    uint64_t next = side_set(&p->b, "next", "x");
    assert_int_equal(next, lost + 1);
    side_hear_message(&p->a, a, next, "next");
    /* Heartbeats are messages of their own kind. */
    struct near__request prove = {.operation = NEAR_OP_PROVE, .number = 7, .body = "pa", .body_size = 2};
    char text[64];
    near__memory_fault(p->store, NEAR_FAULT_DROP_MESSAGES, 0, -1);
    assert_int_equal(side_run(&p->a, &prove), NEAR_OK);
    snprintf(text, sizeof text, "P7:%llu", (unsigned long long)next);
    side_hear(&p->a, a, NEAR_CHANNEL_PRIVATE, text);
    near__memory_fault(p->store, NEAR_FAULT_DROP_MESSAGES, NEAR_OP_PROVE, 1);
    assert_int_equal(side_run(&p->a, &prove), NEAR_OK);
    side_hear_nothing(&p->a, a);
    near__channel_close(p->a.remote, a);
}

static void test_duplicates_and_injected_messages_arrive(void **state)
{
    struct pair *p = *state;
    struct near__channel *a = side_subscribe(&p->a, "pa");
    near__memory_duplicate_next_message(p->store);
    uint64_t position = side_set(&p->b, "k", "v");
    near__memory_inject_message(p->store, "2 from the future", 17);
    side_hear_message(&p->a, a, position, "k");
    side_hear_message(&p->a, a, position, "k");
    side_hear(&p->a, a, NEAR_CHANNEL_MESSAGE, "2 from the future");
    side_hear_nothing(&p->a, a);
    near__channel_close(p->a.remote, a);
}

static void test_R21_disconnected_channel_says_lost_and_a_new_one_works(void **state)
{
    struct pair *p = *state;
    struct near__channel *a = side_subscribe(&p->a, "pa");
    side_set(&p->b, "k", "v");
    near__memory_disconnect_channels(p->store);
    side_hear(&p->a, a, NEAR_CHANNEL_LOST, NULL); /* what was under way is lost with it */
    side_hear(&p->a, a, NEAR_CHANNEL_LOST, NULL);
    assert_int_equal(near__channel_ping(p->a.remote, a, "n", side_deadline(&p->a)), NEAR_ERR_IO);
    near__channel_close(p->a.remote, a);
    a = side_subscribe(&p->a, "pa");
    uint64_t position = side_set(&p->b, "k", "w");
    side_hear_message(&p->a, a, position, "k");
    near__channel_close(p->a.remote, a);
}

static void test_R28_subscriber_that_does_not_read_is_disconnected(void **state)
{
    struct pair *p = *state;
    struct near__channel *a = side_subscribe(&p->a, "pa");
    size_t size = (size_t)8 << 20;
    char *body = calloc(1, size);
    struct near__request clear = {.operation = NEAR_OP_CLEAR, .body = body, .body_size = size};
    for (int i = 0; i < 5; i++)
        assert_int_equal(side_run(&p->b, &clear), NEAR_OK);
    side_hear(&p->a, a, NEAR_CHANNEL_LOST, NULL);
    near__channel_close(p->a.remote, a);
    free(body);
}

static void *wake_main(void *arg)
{
    void **both = arg;
    near__channel_wake(both[0], both[1]);
    return NULL;
}

static void test_wake_ends_the_running_or_the_next_read(void **state)
{
    struct pair *p = *state;
    struct near__channel *a = side_subscribe(&p->a, "pa");
    void *both[] = {p->a.remote, a};
    pthread_t thread;
    side_set(&p->b, "k", "v");
    near__channel_wake(p->a.remote, a);
    side_hear(&p->a, a, NEAR_CHANNEL_IDLE, NULL);
    side_hear(&p->a, a, NEAR_CHANNEL_MESSAGE, NULL);
    assert_int_equal(pthread_create(&thread, NULL, wake_main, both), 0);
    side_hear(&p->a, a, NEAR_CHANNEL_IDLE, NULL); /* the clock stands still: only the wake ends this */
    pthread_join(thread, NULL);
    side_hear_nothing(&p->a, a);
    near__channel_close(p->a.remote, a);
}

static void test_read_ends_at_its_deadline(void **state)
{
    (void)state;
    struct side s;
    struct near__channel_message m;
    assert_int_equal(side_open(&s, "idle", "", NULL, NULL), NEAR_OK);
    struct near__channel *c = side_subscribe(&s, "p");
    int64_t deadline_ns = near__now(&s.clock) + 20 * NEAR_NS_PER_MS;
    near__channel_read(s.remote, c, deadline_ns, &m);
    assert_int_equal(m.event, NEAR_CHANNEL_IDLE);
    assert_true(near__now(&s.clock) >= deadline_ns);
    near__channel_close(s.remote, c);
    side_close(&s);
}

/* ---------------------------------------------------------------- restarts and other hands */

static void test_R10_R31_restart_with_data_loss_goes_back_to_the_snapshot(void **state)
{
    struct pair *p = *state;
    struct near__channel *a = side_subscribe(&p->a, "pa");
    uint64_t before = near__server_id(near__channel_server(p->a.remote, a));
    uint64_t kept = side_set(&p->a, "k", "kept");
    near__memory_snapshot(p->store);
    uint64_t lost = side_set(&p->a, "k", "lost");
    assert_true(lost > kept);
    near__memory_restart(p->store, 1);
    side_hear(&p->a, a, NEAR_CHANNEL_LOST, NULL);
    near__channel_close(p->a.remote, a);
    side_expect(&p->a, "k", "kept");
    assert_int_equal(near__memory_position(p->store, ""), kept);
    struct near__request q = side_set_request("k", "again");
    assert_int_equal(side_run(&p->a, &q), NEAR_OK);
    assert_int_equal(q.position, lost); /* that is why positions must be lifted */
    a = side_subscribe(&p->a, "pa");
    uint64_t after = near__server_id(near__channel_server(p->a.remote, a));
    assert_true(before && after && before != after);
    assert_int_equal(q.server, after);
    near__channel_close(p->a.remote, a);
}

static void test_restart_without_loss_keeps_data_and_changes_the_server(void **state)
{
    struct pair *p = *state;
    uint64_t position = side_set(&p->a, "k", "v");
    near__memory_restart(p->store, 0);
    side_expect(&p->a, "k", "v");
    assert_int_equal(side_set(&p->a, "k", "w"), position + 1);
}

static void test_R13_restart_ends_held_requests_and_lets_replies_under_way_arrive(void **state)
{
    struct pair *p = *state;
    struct caller request, reply;
    struct near__request probe = side_request(NEAR_OP_FETCH, "none");
    assert_int_equal(side_run(&p->a, &probe), NEAR_MISS);
    near__memory_fault(p->store, NEAR_FAULT_HOLD_REQUESTS, NEAR_OP_SET, 1);
    near__memory_fault(p->store, NEAR_FAULT_HOLD_REPLIES, NEAR_OP_INCR, 1);
    call(&request, &p->a, side_set_request("k", "v"));
    call(&reply, &p->a, (struct near__request){.operation = NEAR_OP_INCR, .key = "n", .key_size = 1, .number = 1});
    assert_int_equal(near__memory_wait_held(p->store, NEAR_FAULT_HOLD_REQUESTS, 1, 10000), 0);
    assert_int_equal(near__memory_wait_held(p->store, NEAR_FAULT_HOLD_REPLIES, 1, 10000), 0);
    near__memory_restart(p->store, 0);
    assert_int_equal(join(&request), NEAR_ERR_UNKNOWN);
    side_expect(&p->a, "k", NULL);
    near__memory_release_one(p->store, NEAR_FAULT_HOLD_REPLIES);
    assert_int_equal(join(&reply), NEAR_OK);
    assert_int_equal(reply.request.server, probe.server); /* the old one */
    assert_int_equal(side_run(&p->a, &probe), NEAR_MISS);
    assert_true(reply.request.server != probe.server);
}

static void test_R35_flushall_and_foreign_writers_tell_nobody(void **state)
{
    struct pair *p = *state;
    struct near__channel *a = side_subscribe(&p->a, "pa");
    char buffer[8];
    size_t size = 0;
    near__memory_foreign_set(p->store, "k", 1, "foreign", 7);
    side_expect(&p->a, "k", "foreign");
    assert_int_equal(near__memory_peek(p->store, "k", 1, buffer, 3, &size), 1);
    assert_int_equal(size, 7);
    assert_memory_equal(buffer, "for", 3);
    near__memory_foreign_del(p->store, "k", 1);
    assert_int_equal(near__memory_peek(p->store, "k", 1, buffer, sizeof buffer, &size), 0);
    uint64_t position = side_set(&p->a, "k", "v");
    side_hear_message(&p->a, a, position, "k");
    near__memory_flushall(p->store);
    side_hear_nothing(&p->a, a);
    assert_int_equal(near__memory_position(p->store, ""), 0);
    struct near__request q = side_request(NEAR_OP_FETCH, "k");
    assert_int_equal(side_run(&p->a, &q), NEAR_MISS);
    assert_int_equal(q.position, 0);
    near__memory_set_position(p->store, "", 41);
    assert_int_equal(side_set(&p->a, "k", "v"), 42);
    near__channel_close(p->a.remote, a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(test_R01_held_reply_has_the_value_and_position_of_when_it_ran),
        TEST(test_caller_of_a_held_reply_leaves_at_its_deadline),
        TEST(test_replies_are_released_one_by_one_oldest_first),
        TEST(test_R14_abandoned_request_runs_when_it_is_released),
        TEST(test_held_request_reads_what_is_there_when_it_runs),
        cmocka_unit_test(test_abandoned_requests_that_never_run_are_freed_with_the_store),
        TEST(test_R13_dropped_reply_leaves_the_fate_of_a_write_unknown),
        TEST(test_refused_requests_and_subscriptions_change_nothing),
        TEST(test_R24_silence_answers_nothing_delivers_nothing_closes_nothing),
        TEST(test_R18_errors_on_request_are_answers_and_nothing_runs),
        TEST(test_interrupt_ends_what_waits_and_refuses_the_rest),
        TEST(test_impatient_store_never_waits),
        TEST(test_inexact_fetch_says_so),
        TEST(test_held_messages_keep_pongs_behind_them_and_go_one_by_one),
        TEST(test_R30_dropped_message_leaves_a_hole_in_the_positions),
        TEST(test_duplicates_and_injected_messages_arrive),
        TEST(test_R21_disconnected_channel_says_lost_and_a_new_one_works),
        TEST(test_R28_subscriber_that_does_not_read_is_disconnected),
        TEST(test_wake_ends_the_running_or_the_next_read),
        cmocka_unit_test(test_read_ends_at_its_deadline),
        TEST(test_R10_R31_restart_with_data_loss_goes_back_to_the_snapshot),
        TEST(test_restart_without_loss_keeps_data_and_changes_the_server),
        TEST(test_R13_restart_ends_held_requests_and_lets_replies_under_way_arrive),
        TEST(test_R35_flushall_and_foreign_writers_tell_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
