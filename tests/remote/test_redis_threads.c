/* SPDX-License-Identifier: BSD-3-Clause
 * Many threads on few connections: whose reply is whose, and what the positions say. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/random.h"
#include "remote_fixture.h"
#include "support/group_server.h"
#include "support/proxy.h"
#include "support/seed.h"

#if defined(__SANITIZE_THREAD__)
enum { THREADS = 8, ROUNDS = 60, WRITES_MAX = 20000 };
#else
enum { THREADS = 16, ROUNDS = 250, WRITES_MAX = 100000 };
#endif

struct worker {
    struct fixture *f;
    pthread_t thread;
    uint64_t random;
    int timeout_ms;
    atomic_int *until;   /* NULL: ROUNDS batches; otherwise until it is set, or the positions are full */
    uint64_t *positions; /* of its writes */
    size_t writes;
    size_t wrong, failed, late, lost;
};

/* A value says whose it is, and how long. */
static size_t make_value(char *buffer, size_t capacity, const char *key, uint32_t extra)
{
    size_t n = (size_t)snprintf(buffer, capacity, "<%s>", key);
    memset(buffer + n, key[0], extra);
    return n + extra;
}

static int is_value_of(const struct near__request *q)
{
    const char *value = q->value_out;
    size_t n = q->key_size + 2;
    if (q->value_out_size < n || value[0] != '<' || memcmp(value + 1, q->key, q->key_size) != 0 || value[n - 1] != '>')
        return 0;
    for (size_t i = n; i < q->value_out_size; i++)
        if (value[i] != ((const char *)q->key)[0])
            return 0;
    return 1;
}

static void one_batch(struct worker *w)
{
    enum { MOST = 6 };
    struct near__request q[MOST];
    static __thread char keys[MOST][16], values[MOST][70000];
    size_t n = 1 + near__random_below(&w->random, MOST);
    for (size_t i = 0; i < n; i++) {
        uint32_t what = near__random_below(&w->random, 10);
        snprintf(keys[i], sizeof keys[i], "%c%u", 'a' + (int)near__random_below(&w->random, 26),
                 near__random_below(&w->random, 10));
        q[i] = request(what < 5 ? NEAR_OP_FETCH : what < 8 ? NEAR_OP_SET : NEAR_OP_DEL, keys[i]);
        uint32_t extra = near__random_below(&w->random, what == 5 ? 60000 : 100);
        q[i].value = values[i];
        q[i].value_size = make_value(values[i], sizeof values[i], keys[i], extra);
    }
    near__remote_run(w->f->remote, q, n, fixture_deadline(w->f, w->timeout_ms));
    for (size_t i = 0; i < n; i++) {
        if (q[i].operation != NEAR_OP_FETCH && q[i].status == NEAR_OK)
            w->positions[w->writes++] = q[i].position;
        if (q[i].operation == NEAR_OP_FETCH && q[i].status == NEAR_OK)
            w->wrong += !is_value_of(&q[i]);
        w->late += q[i].status == NEAR_ERR_TIMEOUT;
        w->lost += q[i].status == NEAR_ERR_UNKNOWN;
        w->failed += q[i].status < 0;
        near__free(&w->f->alloc, q[i].value_out);
    }
}

static void *work(void *arg)
{
    struct worker *w = arg;
    for (int i = 0; w->until ? !atomic_load(w->until) && w->writes + 6 <= WRITES_MAX : i < ROUNDS; i++)
        one_batch(w);
    return NULL;
}

static void run_workers(struct fixture *f, struct worker *workers, int timeout_ms, atomic_int *until, uint64_t seed)
{
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.f = f, .random = seed + (uint64_t)i, .timeout_ms = timeout_ms, .until = until};
        workers[i].positions = calloc(WRITES_MAX, sizeof(uint64_t));
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(workers[i].thread, NULL);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* All threads' positions in order; *ret_count of them. */
static uint64_t *collect(struct worker *workers, size_t *ret_count)
{
    size_t n = 0;
    uint64_t *all = calloc((size_t)THREADS * WRITES_MAX, sizeof *all);
    for (int i = 0; i < THREADS; i++) {
        if (workers[i].writes)
            memcpy(all + n, workers[i].positions, workers[i].writes * sizeof *all);
        n += workers[i].writes;
        free(workers[i].positions);
    }
    qsort(all, n, sizeof *all, by_value);
    *ret_count = n;
    return all;
}

static void test_positions_have_no_holes_and_messages_are_exactly_the_writes(void **state)
{
    (void)state;
    if (!server)
        skip();
    static struct worker workers[THREADS];
    redis_server_command(server, "FLUSHALL", NULL);
    struct fixture *f = fixture_new(redis_server_uri_unix(server));
    struct near__channel *channel = NULL;
    near_error error;
    size_t count;
    assert_int_equal(near__channel_open(f->remote, "me", fixture_deadline(f, LONG_MS), &channel, &error), NEAR_OK);
    run_workers(f, workers, LONG_MS, NULL, test_seed());
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(workers[i].wrong + workers[i].failed, 0);
    uint64_t *positions = collect(workers, &count);
    assert_true(count > 100);
    for (size_t i = 0; i < count; i++) {
        struct near__channel_message m;
        char expected[64];
        int n = snprintf(expected, sizeof expected, "1%" PRIu64 ":body", positions[i]);
        assert_true(positions[i] == positions[0] + i);
        near__channel_read(f->remote, channel, fixture_deadline(f, LONG_MS), &m);
        assert_int_equal(m.event, NEAR_CHANNEL_MESSAGE);
        assert_int_equal(m.payload_size, n);
        assert_memory_equal(m.payload, expected, n);
    }
    struct near__remote_stats stats;
    near__remote_stats(f->remote, &stats);
    assert_in_range(stats.connections_opened, 1, f->options.connections);
    free(positions);
    near__channel_close(f->remote, channel);
    fixture_free(f);
}

/* R15: time-outs and cuts all the time; a reply may be lost, but never comes to another request. */
static struct {
    struct proxy *proxy;
    atomic_int done;
} disturber;

static void *disturb(void *arg)
{
    struct proxy *p = disturber.proxy;
    (void)arg;
    for (int i = 0; i < 30; i++) {
        if (i % 3 == 0)
            proxy_cut(p, PROXY_ANY, i % 2 ? PROXY_TO_CLIENT : PROXY_TO_SERVER, 3000 + 997 * i, i % 4 == 0);
        proxy_mode(p, PROXY_ANY, PROXY_TO_CLIENT, PROXY_HOLD);
        for (int k = 0; k < 15; k++)
            wait_a_moment();
        proxy_mode(p, PROXY_ANY, PROXY_TO_CLIENT, PROXY_PASS);
        for (int k = 0; k < 15; k++)
            wait_a_moment();
    }
    atomic_store(&disturber.done, 1);
    return NULL;
}

static void test_R15_replies_are_never_mixed_up_by_timeouts_and_cuts(void **state)
{
    (void)state;
    if (!server)
        skip();
    static struct worker workers[THREADS];
    redis_server_command(server, "FLUSHALL", NULL);
    struct proxy *p = proxy_start(redis_server_uri(server));
    assert_non_null(p);
    struct fixture *f = fixture_new(proxy_uri(p));
    pthread_t thread;
    size_t count, late = 0, lost = 0;
    f->options.breaker_failures = 1000000;
    f->options.backoff_max_ms = 1;
    disturber.proxy = p;
    pthread_create(&thread, NULL, disturb, NULL);
    run_workers(f, workers, 12, &disturber.done, test_seed());
    pthread_join(thread, NULL);
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(workers[i].wrong, 0);
        late += workers[i].late;
        lost += workers[i].lost;
    }
    uint64_t *positions = collect(workers, &count);
    for (size_t i = 1; i < count; i++)
        assert_true(positions[i] > positions[i - 1]); /* no position was given to two */
    print_message("%zu writes answered, %zu timed out, %zu unknown\n", count, late, lost);
    free(positions);
    assert_true(wait_until(strcmp(do_fetch(f, "nothing"), "NEAR_MISS") == 0, LONG_MS)); /* recovers by itself */
    fixture_free(f);
    proxy_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_positions_have_no_holes_and_messages_are_exactly_the_writes),
        cmocka_unit_test(test_R15_replies_are_never_mixed_up_by_timeouts_and_cuts),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
