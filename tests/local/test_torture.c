/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Readers, fillers, writers, droppers and a resizer on a few hundred keys at once, with the keeper at work.
 *
 * A value is made of its key and version, repeated, so that a torn or freed one shows.  A shared table of versions
 * plays the remote tier: a writer raises a key's version under the position it takes, then invalidates; so a read
 * that begins after an invalidation has returned must not return an older version (promise D), and no thread may
 * go back (promise C). */
#include "local/local_fixture.h"

#include <pthread.h>

#include "base/random.h"
#include "local/tier.h"
#include "support/seed.h"
#include "support/wait.h"

#define KEYS 4000 /* at most */
#define THREADS 6
/* On a machine with much else to do each of them waits for all of that: many of them, and the test takes minutes. */
#define HELD_YIELDS 4

static struct fixture f;
static uint64_t seed;
static uint32_t key_count, lengths; /* so many keys, and words that a value may have */
static _Atomic(uint64_t) position;
static _Atomic(uint64_t) server[KEYS]; /* position of the key's last write */
static _Atomic(uint64_t) known[KEYS];  /* no read that begins now may return less */
static _Atomic(uint64_t) rounds[THREADS], hits;
static _Atomic(int) stop;

struct value {
    uint64_t key, version, words[];
};

static size_t words_of(uint64_t key, uint64_t version)
{
    return (key * 7 + version) % lengths;
}

static size_t make_value(struct value *v, uint64_t key, uint64_t version)
{
    size_t words = words_of(key, version);
    v->key = key;
    v->version = version;
    for (size_t i = 0; i < words; i++)
        v->words[i] = key * 1000003 ^ version;
    return sizeof(*v) + words * 8;
}

static uint64_t check_value(const void *data, size_t size, uint64_t key)
{
    uint64_t head[2], word;
    assert_true(size >= sizeof(head));
    memcpy(head, data, sizeof(head));
    assert_int_equal(head[0], key);
    assert_int_equal(size, sizeof(head) + words_of(key, head[1]) * 8);
    for (size_t at = sizeof(head); at < size; at += 8) {
        memcpy(&word, (const char *)data + at, 8);
        assert_true(word == (key * 1000003 ^ head[1]));
    }
    return head[1];
}

static void raise(_Atomic(uint64_t) *word, uint64_t value)
{
    uint64_t now = atomic_load(word);
    while (now < value && !atomic_compare_exchange_weak(word, &now, value))
        ;
}

static void read_one(struct near__reader *reader, uint64_t key, uint64_t *random)
{
    struct near__view view;
    uint64_t least = atomic_load(&known[key]);
    if (near__local_get(f.local, reader, &key, sizeof(key), ANY_BOUND, 0, &view) != NEAR_LOCAL_HIT)
        return;
    uint64_t version = check_value(view.data, view.size, key);
    assert_true(version >= least);
    raise(&known[key], version);
    atomic_fetch_add(&hits, 1);
    if (near__random_below(random, 50) == 0) { /* held for a while, and by nobody in particular */
        struct near__owned *owned = near__local_own(f.local, reader, &view);
        for (int i = 0; i < HELD_YIELDS; i++)
            sched_yield();
        check_value(view.data, view.size, key);
        near__local_disown(f.local, owned);
        return;
    }
    near__local_unpin(reader, &view);
}

/* As the cache room: ticket, reply, install. */
static void fill_one(struct near__reader *reader, uint64_t key, uint64_t *random)
{
    uint64_t buffer[64];
    struct near__ticket ticket = near__local_ticket(f.local, &key, sizeof(key));
    uint64_t at, version, again;
    do { /* an exact reply: position, value, the same position */
        at = atomic_load(&position);
        version = atomic_load(&server[key]);
        again = atomic_load(&position);
    } while (at != again);
    if (near__random_below(random, 32) == 0)
        sched_yield();
    size_t size = make_value((struct value *)buffer, key, version);
    int64_t ttl = near__random_below(random, 4) ? -1 : 1 + (int64_t)near__random_below(random, 20);
    near__local_install(f.local, reader, ticket, &key, sizeof(key), buffer, size, at, ttl, near__now(&f.clock));
    raise(&known[key], version);
}

static pthread_mutex_t server_mutex = PTHREAD_MUTEX_INITIALIZER;

static void write_one(struct near__reader *reader, uint64_t key, uint64_t *random)
{
    uint64_t buffer[64];
    struct near__ticket ticket = near__local_ticket(f.local, &key, sizeof(key));
    pthread_mutex_lock(&server_mutex); /* one command at a time */
    uint64_t at = atomic_load(&position) + 1;
    atomic_store(&position, 0); /* no reply is exact while the write is half done */
    atomic_store(&server[key], at);
    atomic_store(&position, at);
    pthread_mutex_unlock(&server_mutex);
    if (near__random_below(random, 2)) {
        size_t size = make_value((struct value *)buffer, key, at);
        near__local_install(f.local, reader, ticket, &key, sizeof(key), buffer, size, at, -1, 0);
    } else {
        near__local_invalidate(f.local, &key, sizeof(key), at, NEAR_CAUSE_MESSAGE);
    }
    raise(&known[key], at);
}

static void read_many(struct near__reader *reader, uint64_t first)
{
    struct near__local_key keys[20];
    uint64_t names[20], least[20];
    enum near__local_result results[20];
    struct near__view views[20];
    for (unsigned i = 0; i < 20; i++) {
        names[i] = (first + i) % key_count;
        least[i] = atomic_load(&known[names[i]]);
        keys[i] = (struct near__local_key){&names[i], sizeof(names[i])};
    }
    near__local_get_many(f.local, reader, keys, 20, ANY_BOUND, 0, results, views);
    for (unsigned i = 0; i < 20; i++)
        if (results[i] == NEAR_LOCAL_HIT) {
            uint64_t version = check_value(views[i].data, views[i].size, names[i]);
            assert_true(version >= least[i]);
            near__local_unpin(reader, &views[i]);
        }
}

static void rare(uint64_t key, uint64_t *random)
{
    switch (near__random_below(random, 5)) {
    case 4:
        (void)near__local_set_auto(f.local, near__random_below(random, 2) ? 0 : near__random_below(random, 1001),
                                   1 << 20, 0);
        break;
    case 0:
        near__local_invalidate(f.local, &key, sizeof(key), 0, NEAR_CAUSE_DROP);
        break;
    case 1:
        near__local_clear(f.local);
        break;
    case 2:
        near__local_raise_watermark(f.local, atomic_load(&known[key]));
        break;
    default:
        near__local_resize(f.local, (uint64_t)(1 + near__random_below(random, 4)) << 20,
                           near__random_below(random, 2) ? 0 : 20 + near__random_below(random, key_count + 100));
    }
}

/* As if a fill had found no block, or no room for so many bytes: the keeper empties slabs. */
static void move_entries(int64_t bytes)
{
    if (!f.local->arena)
        return;
    near__arena_starve(f.local->arena, bytes);
    near__keeper_wake(f.local);
}

static void *works(void *arg)
{
    unsigned me = (unsigned)(uintptr_t)arg;
    uint64_t random = seed + me;
    while (!atomic_load(&stop)) {
        struct near__reader *reader = near__local_reader(f.local);
        uint32_t what = near__random_below(&random, 1000), key = near__random_below(&random, key_count);
        if (me == 0 && what < 10)
            rare(key, &random);
        else if (me == 1 && what < 20)
            move_entries(what % 2 ? 100000 : (int64_t)NEAR_SLAB_SIZE);
        else if (what < 600)
            read_one(reader, key, &random);
        else if (what < 700)
            read_many(reader, key);
        else if (what < 900)
            fill_one(reader, key, &random);
        else
            write_one(reader, key, &random);
        atomic_fetch_add(&rounds[me], 1);
    }
    return NULL;
}

static uint64_t total(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < THREADS; i++)
        sum += atomic_load(&rounds[i]);
    return sum;
}

static void reset(void)
{
    atomic_store(&position, 1);
    atomic_store(&stop, 0);
    atomic_store(&hits, 0);
    for (int k = 0; k < KEYS; k++) {
        atomic_store(&server[k], 1);
        atomic_store(&known[k], 0);
    }
    for (int i = 0; i < THREADS; i++)
        atomic_store(&rounds[i], 0);
}

/* With more than a few bytes there is an arena, and few lengths make slabs that have holes. */
static void torture(uint32_t policy, uint32_t idle_ms, uint64_t least, uint64_t bytes_max)
{
    pthread_t thread[THREADS];
    seed = test_seed();
    fixture_init(&f);
    f.clock.virtual_ns = NULL;
    f.config.manual = 0;
    f.config.idle_ms = idle_ms;
    f.config.policy = policy;
    f.config.curve = policy != NEAR_POLICY_LRU;
    f.config.hot_keys = policy != NEAR_POLICY_LRU ? 16 : 0;
    f.config.auto_hit_permille = f.config.curve ? 700 : 0;
    f.config.auto_bytes_min = 1 << 20;
    f.config.auto_bytes_max = 4 << 20;
    f.config.auto_pressure = 1;
    f.config.bytes_max = bytes_max;
    key_count = bytes_max < 4 << 20 ? 300 : KEYS;
    lengths = bytes_max < 4 << 20 ? 40 : 3;
    reset();
    fixture_start(&f);
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&thread[i], NULL, works, (void *)i);
    assert_true(wait_until(total() >= least && atomic_load(&hits) > 1000 &&
                               (!f.local->arena || atomic_load(&f.local->keeper.moved) > 0),
                           120000));
    atomic_store(&stop, 1);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    double advised;
    near_hot_key hottest;
    size_t told;
    if (f.config.curve) {
        assert_int_equal(near__local_advise(f.local, key_count, UINT64_MAX, &advised), NEAR_OK);
        assert_int_equal(near__local_hot_keys(f.local, 1, &hottest, &told), NEAR_OK);
        assert_int_equal(told, 1);
    }
    assert_int_equal(near__local_pinned(f.local), 0);
    near_stats s = stats_of(&f);
    print_message("# %lu rounds, %lu moved, %lu hits, %lu fills, %lu invalidations, %lu evictions, %lu expirations\n",
                  (unsigned long)total(), (unsigned long)atomic_load(&f.local->keeper.moved),
                  (unsigned long)atomic_load(&hits), (unsigned long)s.fills, (unsigned long)s.invalidations,
                  (unsigned long)s.evictions, (unsigned long)s.expirations);
    fixture_close(&f);
}

static void test_C_D_torture(void **state)
{
    (void)state;
    torture(NEAR_POLICY_LRU, 50, SCALE(1500000, 100000), 1 << 20);
}

static void test_C_D_torture_with_every_policy(void **state)
{
    (void)state;
    for (uint32_t policy = 0; policy < NEAR_POLICIES; policy++)
        torture(policy, 0, SCALE(300000, 30000), 1 << 20);
    torture(NEAR_POLICY_S3FIFO, 50, SCALE(300000, 30000), 1 << 20);
}

static void test_C_D_torture_while_entries_are_moved(void **state)
{
    (void)state;
    torture(NEAR_POLICY_LRU, 0, SCALE(600000, 60000), 4 << 20);
    torture(NEAR_POLICY_S3FIFO, 50, SCALE(300000, 30000), 4 << 20);
    torture(NEAR_POLICY_ADAPTIVE, 0, SCALE(300000, 30000), 4 << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_C_D_torture),
                                       cmocka_unit_test(test_C_D_torture_with_every_policy),
                                       cmocka_unit_test(test_C_D_torture_while_entries_are_moved)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
