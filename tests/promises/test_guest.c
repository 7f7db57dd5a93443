/* SPDX-License-Identifier: BSD-3-Clause
 * Promise I, a good guest: hosts that use liburcu or hiredis themselves, that exec, and whose threads come and go. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "nearcache.h"
#include "promises/host.h"
#include "support/redis_server.h"
#include "support/wait.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { CHURN = 2000, ROUNDS = 20, SANITIZED = 1 };
#else
enum { CHURN = 100000, ROUNDS = 100, SANITIZED = 0 };
#endif

static near_cache *open_cache(const char *uri)
{
    near_cache *cache;
    near_error error;
    if (near_open(uri, NULL, &cache, &error) != NEAR_OK)
        fail_msg("%s", error.text);
    assert_int_equal(near_wait_ready(cache, 60000, NULL), NEAR_OK);
    return cache;
}

/* ---------------------------------------------------------------- liburcu in the host */

/* Readers hold the host's read lock around calls of the library; the updater lets grace periods of the host pass, and
 * writes through the library, between them.  Either's reclamation must go on, and neither may free too early. */
struct host_load {
    const struct host_rcu *rcu;
    near_cache *cache;
    _Atomic(void *) object;
    _Atomic(int) stop;
    _Atomic(uint64_t) reads, early;
};

enum { ALIVE = 0x600d, FREED = 0xdead };

static void *host_reader(void *arg)
{
    struct host_load *h = arg;
    h->rcu->register_thread();
    while (!atomic_load(&h->stop)) {
        near_value value = {0};
        h->rcu->read_lock();
        const _Atomic(int) *object = atomic_load(&h->object);
        if (near_get(h->cache, "k", 1, NULL, &value) == NEAR_OK && *(const char *)value.data != 'v')
            atomic_fetch_add(&h->early, 1);
        near_release(&value);
        if (atomic_load(object) != ALIVE)
            atomic_fetch_add(&h->early, 1);
        h->rcu->read_unlock();
        h->rcu->quiescent();
        atomic_fetch_add(&h->reads, 1);
    }
    h->rcu->unregister_thread();
    return NULL;
}

static void replace_object(struct host_load *h)
{
    _Atomic(int) *fresh = malloc(sizeof(*fresh)), *old;
    assert_non_null(fresh);
    atomic_init(fresh, ALIVE);
    old = atomic_exchange(&h->object, (void *)fresh);
    h->rcu->synchronize();
    if (old)
        atomic_store(old, FREED);
    free(old);
}

static void host_works(const struct host_rcu *rcu)
{
    struct host_load h = {.rcu = rcu, .cache = open_cache("memory://guest-urcu")};
    pthread_t reader[3];
    char value[16];
    assert_int_equal(near_set(h.cache, "k", 1, "v", 1, NULL, NULL), NEAR_OK);
    rcu->register_thread();
    replace_object(&h);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&reader[i], NULL, host_reader, &h), 0);
    for (int i = 0; i < ROUNDS; i++) {
        replace_object(&h);
        snprintf(value, sizeof(value), "v%d", i);
        assert_int_equal(near_set(h.cache, "k", 1, value, strlen(value), NULL, NULL), NEAR_OK);
        rcu->quiescent();
    }
    rcu->offline(); /* the main thread waits now; readers must not wait for it */
    assert_true(wait_until(atomic_load(&h.reads) > 1000, 60000));
    atomic_store(&h.stop, 1);
    for (int i = 0; i < 3; i++)
        pthread_join(reader[i], NULL);
    assert_int_equal(near_close(h.cache), NEAR_OK);
    rcu->online();
    rcu->unregister_thread();
    free(atomic_load(&h.object));
    assert_int_equal(atomic_load(&h.early), 0);
}

#if defined(__SANITIZE_THREAD__)
#define NOT_UNDER_TSAN() skip() /* liburcu's own barriers are assembly, which it does not see */
#else
#define NOT_UNDER_TSAN() (void)0
#endif

static void test_I_host_with_liburcu_memb(void **state)
{
    (void)state;
    NOT_UNDER_TSAN();
    host_works(&host_rcu_memb);
}

static void test_I_host_with_liburcu_qsbr(void **state)
{
    (void)state;
    NOT_UNDER_TSAN();
    host_works(&host_rcu_qsbr);
}

static void test_I_host_with_liburcu_bp(void **state)
{
    (void)state;
    NOT_UNDER_TSAN();
    host_works(&host_rcu_bp);
}

/* ---------------------------------------------------------------- hiredis in the host */

struct hiredis_load {
    near_cache *cache;
    const char *socket;
    int number, wrong;
};

/* What one writes the other reads: the keys are the same plain keys. */
static void *hiredis_thread(void *arg)
{
    struct hiredis_load *h = arg;
    redisContext *own = redisConnectUnix(h->socket);
    for (int i = 0; own && !own->err && i < ROUNDS; i++) {
        char key[32], value[32], text[32] = "";
        size_t size = 0;
        int key_size = snprintf(key, sizeof(key), "k%d.%d", h->number, i),
            value_size = snprintf(value, sizeof(value), "v%d", i);
        h->wrong += near_set(h->cache, key, (size_t)key_size, value, (size_t)value_size, NULL, NULL) != NEAR_OK;
        redisReply *reply = redisCommand(own, "GET %s", key);
        h->wrong += !reply || reply->type != REDIS_REPLY_STRING || strcmp(reply->str, value) != 0;
        freeReplyObject(reply);
        reply = redisCommand(own, "SET other:%s %s", key, value);
        h->wrong += !reply || reply->type != REDIS_REPLY_STATUS;
        freeReplyObject(reply);
        snprintf(key, sizeof(key), "other:k%d.%d", h->number, i);
        h->wrong += near_get_copy(h->cache, key, strlen(key), NULL, text, sizeof(text) - 1, &size) != NEAR_OK ||
                    size != (size_t)value_size || memcmp(text, value, size) != 0;
    }
    h->wrong += !own || own->err;
    if (own)
        redisFree(own);
    return NULL;
}

static void test_I_host_with_its_own_hiredis(void **state)
{
    (void)state;
    if (!redis_server_available())
        skip();
    struct redis_server *server = redis_server_start(NULL);
    assert_non_null(server);
    near_cache *cache = open_cache(redis_server_uri_unix(server));
    struct hiredis_load load[3];
    pthread_t thread[3];
    for (int i = 0; i < 3; i++) {
        load[i] = (struct hiredis_load){.cache = cache, .socket = redis_server_socket(server), .number = i};
        assert_int_equal(pthread_create(&thread[i], NULL, hiredis_thread, &load[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(load[i].wrong, 0);
    }
    redisContext *own = redisConnectUnix(redis_server_socket(server));
    assert_true(own && !own->err);
    assert_int_equal(near_close(cache), NEAR_OK); /* the library's end is not the host's */
    redisReply *reply = redisCommand(own, "PING");
    assert_true(reply && reply->type == REDIS_REPLY_STATUS);
    freeReplyObject(reply);
    redisFree(own);
    redis_server_free(server);
}

/* ---------------------------------------------------------------- exec */

/* What a program started by exec finds: open descriptors, blocked and ignored signals. */
static void inheritance(const char *uri, char *text, size_t capacity)
{
    int ends[2];
    size_t size = 0;
    ssize_t n;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        near_cache *cache;
        dup2(ends[1], 1);
        close(ends[0]);
        close(ends[1]);
        if (uri && (near_open(uri, NULL, &cache, NULL) != NEAR_OK || near_wait_ready(cache, 60000, NULL) != NEAR_OK ||
                    near_set(cache, "k", 1, "v", 1, NULL, NULL) != NEAR_OK))
            _exit(1);
        execl("/bin/sh", "sh", "-c", "cd /proc/$$/fd; echo *; exec grep -E 'SigBlk|SigIgn' /proc/self/status",
              (char *)NULL);
        _exit(2);
    }
    close(ends[1]);
    while (size < capacity - 1 && (n = read(ends[0], text + size, capacity - 1 - size)) > 0)
        size += (size_t)n;
    text[size] = 0;
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_I_exec_inherits_nothing(void **state)
{
    (void)state;
    static char without[4096], with[4096];
    if (!redis_server_available())
        skip();
#if defined(__SANITIZE_THREAD__)
    skip(); /* ThreadSanitizer does not support threads in a forked child */
#endif
    struct redis_server *server = redis_server_start(NULL);
    assert_non_null(server);
    inheritance(NULL, without, sizeof(without));
    inheritance(redis_server_uri(server), with, sizeof(with));
    assert_true(strstr(with, "SigBlk") != NULL);
    assert_string_equal(with, without);
    /* and Redis sees the connections closed */
    assert_true(wait_until(redis_server_info(server, "clients", "connected_clients") == 1, 60000));
    redis_server_free(server);
}

/* ---------------------------------------------------------------- threads that come and go */

struct churn {
    near_cache *cache;
    _Atomic(int) wrong;
};

static void *one_call(void *arg)
{
    struct churn *c = arg;
    near_value value = {0};
    if (near_get(c->cache, "k", 1, NULL, &value) != NEAR_OK || value.size != 1)
        atomic_fetch_add(&c->wrong, 1);
    near_release(&value);
    return NULL;
}

static void *churn_main(void *arg)
{
    for (int i = 0; i < CHURN / 4; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, one_call, arg) != 0)
            atomic_fetch_add(&((struct churn *)arg)->wrong, 1);
        else
            pthread_join(thread, NULL);
    }
    return NULL;
}

static long resident_pages(void)
{
    long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%ld %ld", &size, &resident), 2);
    fclose(file);
    return resident;
}

static void churn(struct churn *c)
{
    pthread_t spawner[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&spawner[i], NULL, churn_main, c), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(spawner[i], NULL);
}

/* As many again must need no more memory than the first did: what a thread leaves behind is used again. */
static void test_I_a_hundred_thousand_threads_leave_nothing(void **state)
{
    (void)state;
    struct churn c = {.cache = open_cache("memory://guest-churn")};
    near_stats before = {.size = sizeof(before)}, after = {.size = sizeof(after)};
    assert_int_equal(near_set(c.cache, "k", 1, "v", 1, NULL, NULL), NEAR_OK);
    churn(&c);
    near_stats_get(c.cache, &before);
    long pages = resident_pages();
    churn(&c);
    near_stats_get(c.cache, &after);
    assert_int_equal(atomic_load(&c.wrong), 0);
    assert_int_equal(after.gets, 2 * (CHURN / 4) * 4);
    /* Four at once need a record each, and how many ever met is luck. */
    assert_true(after.local_bytes <= before.local_bytes + 4 * 8192);
    if (!SANITIZED) /* they keep what is freed for a while */
        assert_true(resident_pages() <= pages + 1024);
    assert_int_equal(near_close(c.cache), NEAR_OK);
}

/* A host may give its threads little stack: no call has more than a few kilobytes on it, however long the key is. */
enum { STACK = SANITIZED ? 1 << 20 : 48 << 10, LONG_KEY = 60000 };

static int load_tagged(void *arg, const near_load_request *request, near_loaded *loaded)
{
    (void)arg;
    (void)request;
    near_loaded_value(loaded, "loaded", 6);
    return near_loaded_tag(loaded, "tag", 3);
}

static void *call_everything(void *arg)
{
    near_cache *cache = arg;
    static char key[LONG_KEY];
    static const near_load tagged = {.size = sizeof(tagged), .flags = NEAR_LOAD_TAGS, .ttl_ms = 60000};
    near_item item = {.key = key, .key_size = LONG_KEY, .data = "v", .size = 1};
    near_error error;
    char text[64];
    size_t size;
    int64_t number;
    for (int i = 0; i < 3; i++) {
        near_value value = {0};
        assert_int_equal(near_get_or_load(cache, key, LONG_KEY, load_tagged, NULL, &tagged, &value), NEAR_OK);
        near_release(&value);
    }
    assert_int_equal(near_set(cache, key, LONG_KEY, "v", 1, NULL, NULL), NEAR_OK);
    assert_int_equal(near_get_copy(cache, key, LONG_KEY, NULL, text, sizeof(text), &size), NEAR_OK);
    assert_int_equal(near_del(cache, key, LONG_KEY, NULL), NEAR_OK);
    assert_int_equal(near_incr(cache, key, LONG_KEY, 1, NULL, &number), NEAR_OK);
    assert_int_equal(near_mset(cache, &item, 1, NULL, NULL), NEAR_OK);
    assert_int_equal(near_mget(cache, &item, 1, NULL), NEAR_OK);
    near_release(&item.value);
    assert_int_equal(near_invalidate_tag(cache, "tag", 3, NULL), NEAR_OK);
    assert_int_equal(near_check(cache, 60000, &error), NEAR_OK);
    return NULL;
}

static void test_I_calls_need_little_stack(void **state)
{
    (void)state;
    static const char *const uris[] = {"local:", "memory://guest-stack"};
    for (size_t i = 0; i < sizeof(uris) / sizeof(uris[0]); i++) {
        near_cache *cache = open_cache(uris[i]);
        pthread_attr_t attributes;
        pthread_t thread;
        pthread_attr_init(&attributes);
        assert_int_equal(pthread_attr_setstacksize(&attributes, STACK), 0);
        assert_int_equal(pthread_create(&thread, &attributes, call_everything, cache), 0);
        pthread_join(thread, NULL);
        pthread_attr_destroy(&attributes);
        assert_int_equal(near_close(cache), NEAR_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_I_host_with_liburcu_memb),
        cmocka_unit_test(test_I_host_with_liburcu_qsbr),
        cmocka_unit_test(test_I_host_with_liburcu_bp),
        cmocka_unit_test(test_I_host_with_its_own_hiredis),
        cmocka_unit_test(test_I_exec_inherits_nothing),
        cmocka_unit_test(test_I_a_hundred_thousand_threads_leave_nothing),
        cmocka_unit_test(test_I_calls_need_little_stack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
