/* SPDX-License-Identifier: BSD-3-Clause
 * Torture: many threads of two processes load, write, remove and give up at random.  Every value says of which key it
 * is and how new; a writer's number is raised before the write, so that a reader knows what cannot be read any more. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/random.h"
#include "nearcache.h"
#include "support/seed.h"

enum { THREADS = 100, ROUNDS = 1000, KEYS = 12 };

static struct {
    near_cache *caches[2];
    uint64_t seed;
    _Atomic(uint64_t) source[KEYS]; /* what the source has: a version */
    pthread_mutex_t writing[KEYS];
    _Atomic(uint64_t) served, old, failed, absent, wrong;
} our;

struct thread {
    pthread_t thread;
    unsigned index;
    uint64_t random;
};

static int load(void *arg, const near_load_request *request, near_loaded *loaded)
{
    char text[48];
    (void)arg;
    snprintf(text, sizeof(text), "%.*s", (int)request->key_size - 1, (const char *)request->key + 1);
    unsigned key = (unsigned)atoi(text);
    uint64_t version = atomic_load(&our.source[key]), draw = version * UINT64_C(0x9e3779b97f4a7c15) + request->fence;
    unsigned kind = near__random_below(&draw, 16);
    if (kind < 6)
        nanosleep(&(struct timespec){.tv_nsec = (long)near__random_below(&draw, 2000000)}, NULL);
    if (kind == 14)
        return -1;
    if (kind == 15)
        return NEAR_MISS;
    snprintf(text, sizeof(text), "k%u:%llu", key, (unsigned long long)version);
    return near_loaded_value(loaded, text, strlen(text));
}

static void read_one(struct thread *t, near_cache *c, unsigned key)
{
    char name[8], text[48];
    near_value value;
    near_load options;
    near_load_init(&options);
    options.ttl_ms = 1 + near__random_below(&t->random, 30);
    options.stale_ms = 5;
    options.fail_ms = 20;
    options.retry_ms = 2;
    options.absent_ms = near__random_below(&t->random, 5);
    options.soft_timeout_ms = near__random_below(&t->random, 2);
    /* often given up */
    options.timeout_ms = near__random_below(&t->random, 4) ? 1 + near__random_below(&t->random, 3) : 10000;
    options.hard_timeout_ms = 1 + near__random_below(&t->random, 5);
    options.lease_ms = 20;
    snprintf(name, sizeof(name), "k%u", key);
    int status = near_get_or_load(c, name, strlen(name), load, NULL, &options, &value);
    if (status == NEAR_OK || status == NEAR_STALE) {
        unsigned k = KEYS;
        unsigned long long version = 0;
        snprintf(text, sizeof(text), "%.*s", (int)value.size, (const char *)value.data);
        int fields = sscanf(text, "k%u:%llu", &k, &version);
        if (fields != 2 || k != key || version > atomic_load(&our.source[key]))
            atomic_fetch_add(&our.wrong, 1);
        atomic_fetch_add(status == NEAR_OK ? &our.served : &our.old, 1);
    } else {
        atomic_fetch_add(status == NEAR_MISS ? &our.absent : &our.failed, 1);
    }
    near_release(&value);
}

/* Source first, then the cache; and in this process nobody reads an older one then (read your writes), as long as
 * nothing makes values old: stale answers are excused. */
static void write_one(struct thread *t, near_cache *c, unsigned key)
{
    char name[8], text[48];
    snprintf(name, sizeof(name), "k%u", key);
    pthread_mutex_lock(&our.writing[key]);
    uint64_t version = 1 + atomic_fetch_add(&our.source[key], 1);
    snprintf(text, sizeof(text), "k%u:%llu", key, (unsigned long long)version);
    int status = near__random_below(&t->random, 2) ? near_set(c, name, strlen(name), text, strlen(text), NULL, NULL)
                                                   : near_del(c, name, strlen(name), NULL);
    if (status >= 0) {
        near_value value;
        near_load options;
        near_load_init(&options);
        options.timeout_ms = 10000;
        status = near_get_or_load(c, name, strlen(name), load, NULL, &options, &value);
        if (status == NEAR_OK) {
            unsigned long long got = 0;
            snprintf(text, sizeof(text), "%.*s", (int)value.size, (const char *)value.data);
            if (sscanf(text, "k%*u:%llu", &got) != 1 || got < version)
                atomic_fetch_add(&our.wrong, 1);
        }
        near_release(&value);
    }
    pthread_mutex_unlock(&our.writing[key]);
}

static void *torment(void *arg)
{
    struct thread *t = arg;
    char name[8];
    for (int i = 0; i < ROUNDS; i++) {
        near_cache *c = our.caches[near__random_below(&t->random, 2)];
        unsigned key = near__random_below(&t->random, KEYS), kind = near__random_below(&t->random, 100);
        snprintf(name, sizeof(name), "k%u", key);
        if (kind < 94)
            read_one(t, c, key);
        else if (kind < 97)
            write_one(t, c, key);
        else
            near_drop(c, name, strlen(name));
    }
    return NULL;
}

static void test_R17_flights_are_opened_and_given_up_at_random(void **state)
{
    static struct thread threads[THREADS];
    (void)state;
    our.seed = test_seed();
    for (int i = 0; i < 2; i++) {
        assert_int_equal(near_open("memory://load_threads", NULL, &our.caches[i], NULL), NEAR_OK);
        assert_int_equal(near_wait_ready(our.caches[i], 60000, NULL), NEAR_OK);
    }
    for (int i = 0; i < KEYS; i++)
        pthread_mutex_init(&our.writing[i], NULL);
    for (unsigned i = 0; i < THREADS; i++) {
        threads[i].random = our.seed + i;
        assert_int_equal(pthread_create(&threads[i].thread, NULL, torment, &threads[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i].thread, NULL);
    print_message("served %llu, old %llu, absent %llu, failed %llu\n", (unsigned long long)our.served,
                  (unsigned long long)our.old, (unsigned long long)our.absent, (unsigned long long)our.failed);
    assert_int_equal(our.wrong, 0);
    assert_true(our.served > 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(near_close(our.caches[i]), NEAR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_R17_flights_are_opened_and_given_up_at_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
