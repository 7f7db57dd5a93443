/* SPDX-License-Identifier: BSD-3-Clause
 * Locks: the algorithm against simulated servers whose clocks run differently and whose answers get lost, then on
 * memory:// and on real servers that are stopped, killed and started again. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cache/cache.h"
#include "load/redlock.h"
#include "support/allocfail.h"
#include "support/redis_server.h"
#include "support/seed.h"
#include "support/wait.h"

#define MS NEAR_NS_PER_MS

/* ---------------------------------------------------------------- simulated servers */

enum { SERVERS = 5, CLIENTS = 4 };

struct sim_server {
    double speed; /* of its clock */
    char owner[NEAR_LOCK_TOKEN_SIZE];
    double expires_ms; /* by its own clock; 0: free */
    int64_t counter;
    int away;
};

struct sim {
    _Atomic(int64_t) now_ns;
    struct near__clock clock;
    struct sim_server servers[SERVERS];
    uint64_t random;
    int latency_ms; /* of each request, at most */
    int loss;       /* per mille of requests whose answer, or which themselves, get lost */
    struct near__lock locks[CLIENTS];
    struct sim *self[CLIENTS];
};

static uint64_t draw(struct sim *sim, uint64_t below)
{
    sim->random ^= sim->random << 13;
    sim->random ^= sim->random >> 7;
    sim->random ^= sim->random << 17;
    return (sim->random >> 11) % below;
}

static void pass(struct sim *sim, int64_t ms)
{
    near__clock_advance(&sim->now_ns, ms * MS);
}

static double server_ms(struct sim *sim, const struct sim_server *s)
{
    return (double)near__now(&sim->clock) / (double)MS * s->speed;
}

/* What the script does. */
static void serve(struct sim *sim, struct sim_server *s, struct near__request *q)
{
    double now = server_ms(sim, s);
    if (s->expires_ms != 0 && s->expires_ms <= now)
        s->expires_ms = 0;
    int mine = s->expires_ms != 0 && memcmp(s->owner, q->value, sizeof s->owner) == 0;
    if (s->expires_ms != 0 && !mine) {
        q->status = NEAR_UNMET;
        return;
    }
    q->status = q->operation == NEAR_OP_LOCK || mine ? NEAR_OK : NEAR_MISS;
    if (q->status != NEAR_OK)
        return;
    if (q->operation == NEAR_OP_UNLOCK) {
        s->expires_ms = 0;
        return;
    }
    s->counter += q->operation == NEAR_OP_LOCK && !mine;
    if (s->counter < (int64_t)q->known)
        s->counter = (int64_t)q->known;
    memcpy(s->owner, q->value, sizeof s->owner);
    if (q->ttl_ms)
        s->expires_ms = now + (double)q->ttl_ms;
    q->result_number = s->counter;
}

static void sim_run(void *arg, size_t server, struct near__request *q, int64_t deadline_ns)
{
    struct sim *sim = arg;
    struct sim_server *s = &sim->servers[server];
    if (s->away || draw(sim, 1000) < (uint64_t)sim->loss) {
        if (!s->away && draw(sim, 2))
            serve(sim, s, q);
        int64_t left = deadline_ns - near__now(&sim->clock);
        near__clock_advance(&sim->now_ns, left > 0 ? left : 0);
        q->status = NEAR_ERR_UNKNOWN;
        return;
    }
    pass(sim, (int64_t)draw(sim, (uint64_t)sim->latency_ms + 1));
    serve(sim, s, q);
    pass(sim, (int64_t)draw(sim, (uint64_t)sim->latency_ms + 1));
}

static void sim_init(struct sim *sim, uint64_t seed)
{
    memset(sim, 0, sizeof(*sim));
    sim->random = seed | 1;
    atomic_init(&sim->now_ns, 1000 * MS);
    sim->clock.virtual_ns = &sim->now_ns;
    sim->latency_ms = 2;
    for (int i = 0; i < SERVERS; i++) {
        sim->servers[i].speed = 1;
        sim->servers[i].counter = (int64_t)draw(sim, 100);
    }
    for (int i = 0; i < CLIENTS; i++) {
        near_lock_options o;
        near_lock_options_init(&o);
        o.flags = NEAR_LOCK_TRY;
        o.ttl_ms = 1000;
        o.server_timeout_ms = 20;
        sim->locks[i] = (struct near__lock){.clock = &sim->clock,
                                            .servers = {.run = sim_run, .arg = sim, .count = SERVERS},
                                            .name = "n",
                                            .name_size = 1,
                                            .options = o};
    }
}

static int held(struct sim *sim, int client)
{
    return sim->locks[client].valid_until_ns > near__now(&sim->clock);
}

static void nobody_else_holds(struct sim *sim, int client)
{
    for (int i = 0; i < CLIENTS; i++)
        if (i != client)
            assert_false(held(sim, i));
}

/* Clocks within the allowance, lost answers, absent minorities: never two owners, and numbers always rise. */
static void test_random_faults_never_give_two_owners_and_numbers_rise(void **state)
{
    (void)state;
    uint64_t seed = test_seed(), last = 0;
    struct sim sim;
    unsigned acquired = 0, extended = 0, lost = 0;
    sim_init(&sim, seed);
    sim.loss = 60;
    for (int i = 0; i < SERVERS; i++)
        sim.servers[i].speed = 0.997 + 0.012 * (double)draw(&sim, 1000) / 1000; /* at most 0.9 % too fast */
    for (int step = 0; step < 30000; step++) {
        int client = (int)draw(&sim, CLIENTS);
        struct near__lock *lock = &sim.locks[client];
        if (draw(&sim, 50) == 0) { /* a minority at most, or nothing would be acquired */
            for (int i = 0; i < SERVERS; i++)
                sim.servers[i].away = 0;
            for (uint64_t i = draw(&sim, 3); i > 0; i--)
                sim.servers[draw(&sim, SERVERS)].away = 1;
        }
        switch (draw(&sim, 5)) {
        case 0:
        case 1:
            if (held(&sim, client) || near__lock_acquire(lock, 0) != NEAR_OK)
                break;
            nobody_else_holds(&sim, client);
            assert_true(lock->fence > last);
            last = lock->fence;
            acquired++;
            break;
        case 2:
            if (held(&sim, client) && near__lock_extend(lock, 1000) == NEAR_OK) {
                nobody_else_holds(&sim, client);
                extended++;
            }
            break;
        case 3:
            /* giving back takes a while, in which the rest of the time to live may end */
            if (held(&sim, client) && draw(&sim, 3) == 0 &&
                lock->valid_until_ns - near__now(&sim.clock) > SERVERS * lock->options.server_timeout_ms * 2 * MS)
                lost += near__lock_release(lock) == NEAR_ERR_LOCK_LOST;
            break;
        default:
            pass(&sim, (int64_t)draw(&sim, 700));
        }
    }
    print_message("%u acquired, %u extended\n", acquired, extended);
    assert_true(acquired > 500 && extended > 100);
    assert_int_equal(lost, 0);
}

/* The part of the time to live that differences between clocks may eat is not promised. */
static void test_clock_that_runs_fast_within_the_allowance_gives_it_to_nobody_early(void **state)
{
    (void)state;
    struct sim sim;
    sim_init(&sim, 7);
    sim.latency_ms = 0;
    for (int i = 0; i < SERVERS; i++)
        sim.servers[i].speed = 1.009;
    assert_int_equal(near__lock_acquire(&sim.locks[0], 0), NEAR_OK);
    for (int at = 0; at < 2000; at++) {
        pass(&sim, 1);
        if (near__lock_acquire(&sim.locks[1], 0) == NEAR_OK)
            break;
    }
    assert_true(held(&sim, 1));
    assert_false(held(&sim, 0));
}

static void test_validity_counts_from_before_the_first_request(void **state)
{
    (void)state;
    struct sim sim;
    sim_init(&sim, 9);
    sim.latency_ms = 0;
    sim.servers[0].away = 1; /* costs 20 ms */
    int64_t before = near__now(&sim.clock);
    assert_int_equal(near__lock_acquire(&sim.locks[0], 0), NEAR_OK);
    assert_int_equal(sim.locks[0].valid_until_ns, before + (1000 - 10 - 2) * MS);
    assert_true(near__now(&sim.clock) >= before + 20 * MS);
}

static void test_answers_slower_than_the_time_to_live_give_no_lock(void **state)
{
    (void)state;
    struct sim sim;
    sim_init(&sim, 9);
    sim.locks[0].options.ttl_ms = 30;
    sim.latency_ms = 0;
    sim.servers[0].away = sim.servers[1].away = 1; /* 40 ms */
    assert_int_equal(near__lock_acquire(&sim.locks[0], 0), NEAR_ERR_TIMEOUT);
    for (int i = 2; i < SERVERS; i++)
        assert_true(sim.servers[i].expires_ms == 0); /* given back */
}

static void test_fence_is_known_to_a_majority_before_it_is_handed_out(void **state)
{
    (void)state;
    struct sim sim;
    sim_init(&sim, 11);
    static const int64_t counters[SERVERS] = {1000, 1, 1, 1, 1};
    for (int i = 0; i < SERVERS; i++)
        sim.servers[i].counter = counters[i];
    sim.servers[3].away = sim.servers[4].away = 1;
    assert_int_equal(near__lock_acquire(&sim.locks[0], 0), NEAR_OK);
    assert_int_equal(sim.locks[0].fence, 1001);
    assert_int_equal(near__lock_release(&sim.locks[0]), NEAR_OK);
    sim.servers[3].away = sim.servers[4].away = 0;
    sim.servers[0].away = sim.servers[1].away = 1;
    assert_int_equal(near__lock_acquire(&sim.locks[1], 0), NEAR_OK);
    assert_true(sim.locks[1].fence > 1001);
}

/* ---------------------------------------------------------------- requests that come late */

/* One server.  The first attempt is answered by nobody; what gave it back arrives after the second attempt. */
struct late {
    struct sim sim;
    int asked;
    char old_token[NEAR_LOCK_TOKEN_SIZE];
};

static void run_late(void *arg, size_t server, struct near__request *q, int64_t deadline_ns)
{
    enum { TAKE, GIVE_BACK, TAKE_AGAIN };
    struct late *late = arg;
    (void)deadline_ns;
    switch (late->asked++) {
    case TAKE:
        q->status = NEAR_ERR_UNKNOWN;
        break;
    case GIVE_BACK:
        assert_int_equal(q->operation, NEAR_OP_UNLOCK);
        memcpy(late->old_token, q->value, sizeof late->old_token);
        q->status = NEAR_ERR_UNKNOWN;
        break;
    case TAKE_AGAIN: {
        struct near__request old = {.operation = NEAR_OP_UNLOCK, .value = late->old_token};
        serve(&late->sim, &late->sim.servers[server], q);
        assert_int_equal(q->status, NEAR_OK);
        serve(&late->sim, &late->sim.servers[server], &old);
        break;
    }
    default:
        serve(&late->sim, &late->sim.servers[server], q);
    }
}

static void test_giving_back_that_comes_late_does_not_take_the_next_attempt_s_lock(void **state)
{
    (void)state;
    struct late late = {.asked = 0};
    sim_init(&late.sim, 13);
    struct near__lock *mine = &late.sim.locks[0], *other = &late.sim.locks[1];
    mine->options.flags = 0;
    mine->options.retry_ms = 0; /* nobody moves the clock on */
    mine->servers = other->servers = (struct near__lock_servers){.run = run_late, .arg = &late, .count = 1};
    assert_int_equal(near__lock_acquire(mine, INT64_MAX), NEAR_OK);
    assert_int_equal(late.asked, 3);
    assert_true(held(&late.sim, 0));
    assert_int_equal(near__lock_acquire(other, 0), NEAR_LOCKED);
    assert_int_equal(near__lock_release(mine), NEAR_OK);
}

static void test_without_a_majority_the_status_says_why(void **state)
{
    (void)state;
    struct sim sim;
    sim_init(&sim, 13);
    for (int i = 0; i < 3; i++)
        sim.servers[i].away = 1;
    assert_int_equal(near__lock_acquire(&sim.locks[0], 0), NEAR_ERR_UNKNOWN);
    for (int i = 0; i < 3; i++)
        sim.servers[i].away = 0;
    assert_int_equal(near__lock_acquire(&sim.locks[0], 0), NEAR_OK);
    assert_int_equal(near__lock_acquire(&sim.locks[1], 0), NEAR_LOCKED);
    pass(&sim, 2000);
    assert_int_equal(near__lock_extend(&sim.locks[0], 1000), NEAR_ERR_LOCK_LOST);
    assert_int_equal(near__lock_release(&sim.locks[0]), NEAR_ERR_LOCK_LOST);
}

/* ---------------------------------------------------------------- memory:// */

struct place {
    _Atomic(int64_t) now_ns;
    near_cache *caches[3];
};

static void open_caches(struct place *p, unsigned count, const near_allocator *hooks)
{
    static unsigned number;
    near_error error;
    near_options options;
    near_options_init(&options);
    options.local_bytes = 1 << 20;
    options.timeout_ms = 1000;
    options.prefix = "p:";
    if (hooks)
        options.allocator = *hooks;
    memset(p, 0, sizeof(*p));
    atomic_init(&p->now_ns, 3600 * NEAR_NS_PER_S);
    for (unsigned i = 0; i < count; i++) {
        char uri[64];
        snprintf(uri, sizeof uri, "memory://lock%u", number++);
        assert_int_equal(near__cache_open(uri, &options, &p->now_ns, &p->caches[i], &error), NEAR_OK);
    }
}

static void close_caches(struct place *p)
{
    for (int i = 0; i < 3; i++)
        if (p->caches[i])
            assert_int_equal(near_close(p->caches[i]), NEAR_OK);
}

static near_lock_options quick(uint32_t flags)
{
    near_lock_options o;
    near_lock_options_init(&o);
    o.flags = flags;
    return o;
}

static void test_lock_on_one_server_excludes_extends_and_fences(void **state)
{
    (void)state;
    struct place p;
    near_held_lock *a = NULL, *b = NULL;
    near_lock_options try = quick(NEAR_LOCK_TRY);
    open_caches(&p, 1, NULL);
    assert_int_equal(near_lock(p.caches[0], "job", 3, &try, &a), NEAR_OK);
    assert_in_range(near_lock_valid_ms(a), 9800, 9898); /* 10 s less 1 % less 2 ms */
    assert_int_equal(near_lock(p.caches[0], "job", 3, &try, &b), NEAR_LOCKED);
    assert_null(b);
    near__clock_advance(&p.now_ns, 9000 * MS);
    assert_int_equal(near_lock_extend(a, 20000), NEAR_OK);
    near__clock_advance(&p.now_ns, 15000 * MS);
    assert_int_equal(near_lock(p.caches[0], "job", 3, &try, &b), NEAR_LOCKED);
    near__clock_advance(&p.now_ns, 6000 * MS);
    assert_int_equal(near_lock_valid_ms(a), 0);
    assert_int_equal(near_lock(p.caches[0], "job", 3, &try, &b), NEAR_OK);
    assert_true(near_lock_fence(b) > near_lock_fence(a));
    assert_int_equal(near_lock_extend(a, 0), NEAR_ERR_LOCK_LOST);
    assert_int_equal(near_unlock(a), NEAR_ERR_LOCK_LOST); /* and b's stays */
    assert_int_equal(near_lock_extend(b, 0), NEAR_OK);
    assert_int_equal(near_unlock(b), NEAR_OK);
    assert_int_equal(near_lock(p.caches[0], "job", 3, &try, &a), NEAR_OK);
    near_stats stats = {.size = sizeof(stats)};
    assert_int_equal(near_stats_get(p.caches[0], &stats), NEAR_OK);
    assert_int_equal(stats.locks_taken, 3);
    assert_int_equal(stats.lock_ns.count, 3);
    assert_int_equal(stats.locks_refused, 2);
    assert_int_equal(stats.locks_failed, 0);
    assert_int_equal(stats.locks_extended, 2);
    assert_int_equal(stats.locks_lost, 2);
    close_caches(&p);
    assert_int_equal(near_unlock(a), NEAR_ERR_CLOSED); /* frees it all the same */
}

/* What somebody else has written there is neither a number nor lost. */
static void test_lock_whose_counter_is_no_number_is_not_prolonged(void **state)
{
    (void)state;
    struct place p;
    near_held_lock *a = NULL;
    char value[8] = "";
    size_t size;
    near_call remote = {.size = sizeof(remote), .flags = NEAR_BYPASS_LOCAL};
    open_caches(&p, 1, NULL);
    assert_int_equal(near_lock(p.caches[0], "job", 3, NULL, &a), NEAR_OK);
    assert_int_equal(near_set(p.caches[0], "job:fence", 9, "none", 4, NULL, NULL), NEAR_OK);
    assert_int_equal(near_lock_extend(a, 20000), NEAR_ERR_OVERFLOW);
    assert_int_equal(near_get_copy(p.caches[0], "job:fence", 9, &remote, value, sizeof(value), &size), NEAR_OK);
    assert_string_equal(value, "none");
    near__clock_advance(&p.now_ns, 11000 * MS);
    assert_int_equal(near_get_copy(p.caches[0], "job", 3, &remote, value, sizeof(value), &size), NEAR_MISS);
    assert_int_equal(near_unlock(a), NEAR_ERR_LOCK_LOST);
    close_caches(&p);
}

static void test_wrong_arguments_are_refused(void **state)
{
    (void)state;
    struct place p;
    near_held_lock *a = NULL;
    near_cache *local, *same[2], *missing[3] = {NULL};
    near_lock_options o = quick(0);
    char long_name[NEAR_KEY_MAX];
    memset(long_name, 'x', sizeof long_name);
    open_caches(&p, 2, NULL);
    assert_int_equal(near_lock(NULL, "n", 1, NULL, &a), NEAR_ERR_INVALID);
    assert_int_equal(near_lock(p.caches[0], NULL, 1, NULL, &a), NEAR_ERR_INVALID);
    assert_int_equal(near_lock(p.caches[0], "n", 1, NULL, NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_lock(p.caches[0], long_name, sizeof long_name, NULL, &a), NEAR_ERR_TOO_LARGE);
    assert_int_equal(near_lock(p.caches[0], long_name, 65530, NULL, &a), NEAR_ERR_TOO_LARGE);
    assert_int_equal(near_lock(p.caches[0], long_name, 65529, NULL, &a), NEAR_OK);
    assert_int_equal(near_unlock(a), NEAR_OK);
    assert_int_equal(near_redlock(p.caches, 0, "n", 1, NULL, &a), NEAR_ERR_INVALID);
    assert_int_equal(near_redlock(p.caches, NEAR_LOCK_SERVERS_MAX + 1, "n", 1, NULL, &a), NEAR_ERR_INVALID);
    o.ttl_ms = 9;
    assert_int_equal(near_lock(p.caches[0], "n", 1, &o, &a), NEAR_ERR_INVALID);
    o = quick(1u << 5);
    assert_int_equal(near_lock(p.caches[0], "n", 1, &o, &a), NEAR_ERR_INVALID);
    o = quick(0);
    o.drift_permille = 501;
    assert_int_equal(near_lock(p.caches[0], "n", 1, &o, &a), NEAR_ERR_INVALID);
    missing[0] = p.caches[0];
    missing[1] = p.caches[1]; /* with the third a majority: it must not be taken for a server that is away */
    assert_int_equal(near_redlock(missing, 3, "n", 1, NULL, &a), NEAR_ERR_INVALID);
    same[0] = same[1] = p.caches[0];
    assert_int_equal(near_redlock(same, 2, "n", 1, NULL, &a), NEAR_ERR_INVALID);
    assert_int_equal(near_lock_extend(NULL, 0), NEAR_ERR_INVALID);
    assert_int_equal(near_unlock(NULL), NEAR_ERR_INVALID);
    assert_int_equal(near_open("local:", NULL, &local, NULL), NEAR_OK);
    assert_int_equal(near_lock(local, "n", 1, NULL, &a), NEAR_ERR_UNSUPPORTED);
    near_close(local);
    close_caches(&p);
}

static void test_nth_allocation_failing_leaves_nothing_locked(void **state)
{
    (void)state;
    struct place p;
    struct allocfail hooks;
    near_lock_options try = quick(NEAR_LOCK_TRY);
    allocfail_init(&hooks);
    open_caches(&p, 1, &hooks.hooks);
    for (uint64_t n = 1;; n++) {
        near_held_lock *a = NULL, *b = NULL;
        allocfail_at(&hooks, n);
        int status = near_lock(p.caches[0], "job", 3, &try, &a);
        int struck = allocfail_struck(&hooks) != 0;
        allocfail_at(&hooks, 0);
        if (status != NEAR_OK) {
            assert_int_equal(status, NEAR_ERR_NOMEM);
            assert_null(a);
            assert_int_equal(near_lock(p.caches[0], "job", 3, &try, &b), NEAR_OK);
            a = b;
        }
        assert_int_equal(near_unlock(a), NEAR_OK);
        if (!struck)
            break;
    }
    close_caches(&p);
    assert_int_equal(allocfail_blocks(&hooks), 0);
}

struct waiter {
    pthread_t thread;
    near_cache *cache;
    near_held_lock *lock;
    int status;
    _Atomic(int) done;
};

static void *waiter_main(void *arg)
{
    struct waiter *w = arg;
    near_lock_options o = quick(0);
    o.timeout_ms = 3600000;
    w->status = near_lock(w->cache, "job", 3, &o, &w->lock);
    atomic_store(&w->done, 1);
    return NULL;
}

static void test_waiter_gets_the_lock_when_it_is_given_back(void **state)
{
    (void)state;
    struct place p;
    near_held_lock *a;
    struct waiter w = {0};
    open_caches(&p, 1, NULL);
    assert_int_equal(near_lock(p.caches[0], "job", 3, NULL, &a), NEAR_OK);
    uint64_t fence = near_lock_fence(a);
    w.cache = p.caches[0];
    pthread_create(&w.thread, NULL, waiter_main, &w);
    assert_int_equal(near_unlock(a), NEAR_OK);
    for (int i = 0; i < 20000 && !atomic_load(&w.done); i++) { /* its pauses pass; not its time-out */
        near__clock_advance(&p.now_ns, 75 * MS);
        wait_a_moment();
    }
    pthread_join(w.thread, NULL);
    assert_int_equal(w.status, NEAR_OK);
    assert_true(near_lock_fence(w.lock) > fence);
    assert_int_equal(near_unlock(w.lock), NEAR_OK);
    close_caches(&p);
}

/* ---------------------------------------------------------------- real servers */

enum { THREADS = 4, ROUNDS = 30 };

struct fleet {
    struct redis_server *servers[3];
    near_cache *caches[3];
    near_lock_options options;
    _Atomic(int) inside, twice;
    _Atomic(uint64_t) last, went_back, acquired;
};

static int fleet_open(struct fleet *f)
{
    memset(f, 0, sizeof(*f));
    if (!redis_server_available())
        return 0;
    for (int i = 0; i < 3; i++) {
        near_options options;
        near_options_init(&options);
        options.local_bytes = 1 << 20;
        options.backoff_min_ms = 5;
        options.backoff_max_ms = 20;
        options.breaker_failures = 1000000;
        f->servers[i] = redis_server_start(NULL);
        assert_non_null(f->servers[i]);
        assert_int_equal(near_open(redis_server_uri_unix(f->servers[i]), &options, &f->caches[i], NULL), NEAR_OK);
        assert_int_equal(near_wait_ready(f->caches[i], 30000, NULL), NEAR_OK);
    }
    near_lock_options_init(&f->options);
    f->options.ttl_ms = 60000; /* the machine may be slow */
    f->options.timeout_ms = 120000;
    f->options.retry_ms = 5;
    f->options.server_timeout_ms = 5000;
    return 1;
}

static void fleet_close(struct fleet *f)
{
    for (int i = 0; i < 3; i++) {
        if (f->caches[i])
            near_close(f->caches[i]);
        redis_server_free(f->servers[i]);
    }
}

static void *contend(void *arg)
{
    struct fleet *f = arg;
    for (int i = 0; i < ROUNDS; i++) {
        near_held_lock *lock;
        if (near_redlock(f->caches, 3, "shared", 6, &f->options, &lock) != NEAR_OK)
            continue;
        if (atomic_fetch_add(&f->inside, 1) != 0)
            atomic_fetch_add(&f->twice, 1);
        uint64_t fence = near_lock_fence(lock);
        if (atomic_exchange(&f->last, fence) >= fence)
            atomic_fetch_add(&f->went_back, 1);
        atomic_fetch_add(&f->acquired, 1);
        atomic_fetch_sub(&f->inside, 1);
        near_unlock(lock);
    }
    return NULL;
}

static void test_redlock_excludes_while_a_minority_is_killed_and_comes_back(void **state)
{
    (void)state;
    struct fleet f;
    pthread_t threads[THREADS];
    if (!fleet_open(&f))
        skip();
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, contend, &f);
    assert_true(wait_until(atomic_load(&f.acquired) >= 20, 60000));
    redis_server_kill(f.servers[1]);
    uint64_t at = atomic_load(&f.acquired);
    assert_true(wait_until(atomic_load(&f.acquired) >= at + 10, 60000));
    assert_int_equal(redis_server_up(f.servers[1]), 0); /* empty: one of three has forgotten */
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&f.twice), 0);
    assert_int_equal(atomic_load(&f.went_back), 0);
    assert_int_equal(atomic_load(&f.acquired), THREADS * ROUNDS);
    fleet_close(&f);
}

static void test_redlock_needs_a_majority_and_survives_a_paused_server(void **state)
{
    (void)state;
    struct fleet f;
    near_held_lock *a, *b = NULL;
    if (!fleet_open(&f))
        skip();
    near_lock_options try = f.options;
    try.flags = NEAR_LOCK_TRY;
    try.server_timeout_ms = 300;
    redis_server_pause(f.servers[2]);
    int status = NEAR_ERR_UNKNOWN;
    for (int i = 0; i < 20 && status != NEAR_OK; i++) /* a busy machine may be late */
        status = near_redlock(f.caches, 3, "shared", 6, &try, &a);
    assert_int_equal(status, NEAR_OK);
    assert_string_equal(redis_server_command(f.servers[1], "SAVE", NULL), "OK");
    redis_server_kill(f.servers[1]);
    assert_true(near_lock_extend(a, 0) < 0); /* cannot be asked; it stands */
    assert_true(near_lock_valid_ms(a) > 0);
    assert_true(near_redlock(f.caches, 3, "other", 5, &try, &b) < 0);
    assert_null(b);
    redis_server_resume(f.servers[2]);
    assert_int_equal(redis_server_up(f.servers[1]), 0);
    assert_true(wait_until(near_lock_extend(a, 0) == NEAR_OK, 30000)); /* by two of them */
    assert_int_equal(near_redlock(f.caches, 3, "shared", 6, &try, &b), NEAR_LOCKED);
    assert_int_equal(near_unlock(a), NEAR_OK);
    assert_true(wait_until(near_redlock(f.caches, 3, "shared", 6, &try, &b) == NEAR_OK, 30000));
    assert_int_equal(near_unlock(b), NEAR_OK);
    fleet_close(&f);
}

static void test_lock_on_redis_that_forgets_is_lost_and_numbers_go_on(void **state)
{
    (void)state;
    struct fleet f;
    near_held_lock *a, *b;
    if (!fleet_open(&f))
        skip();
    assert_int_equal(near_lock(f.caches[0], "job", 3, &f.options, &a), NEAR_OK);
    assert_string_equal(redis_server_command(f.servers[0], "EXISTS", "job", "job:fence", NULL), "2");
    assert_int_equal(redis_server_restart(f.servers[0], 0), 0);
    assert_true(wait_until(near_lock_extend(a, 0) == NEAR_ERR_LOCK_LOST, 30000));
    assert_int_equal(near_lock_valid_ms(a), 0);
    assert_int_equal(near_lock(f.caches[0], "job", 3, &f.options, &b), NEAR_OK);
    assert_true(near_lock_fence(b) > near_lock_fence(a));
    assert_int_equal(near_unlock(a), NEAR_ERR_LOCK_LOST);
    assert_int_equal(near_unlock(b), NEAR_OK);
    redis_server_command(f.servers[0], "LPUSH", "list", "1", NULL);
    assert_int_equal(near_lock(f.caches[0], "list", 4, &f.options, &b), NEAR_ERR_WRONG_TYPE);
    fleet_close(&f);
}

static void test_lock_on_redis_whose_counter_is_no_number_is_not_prolonged(void **state)
{
    (void)state;
    static const char *const others[] = {"none", "nan", "1e300", "9999999999999999999", "12.5", ""};
    struct fleet f;
    near_held_lock *a;
    if (!fleet_open(&f))
        skip();
    assert_int_equal(near_lock(f.caches[0], "job", 3, &f.options, &a), NEAR_OK);
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
        assert_string_equal(redis_server_command(f.servers[0], "SET", "job:fence", others[i], NULL), "OK");
        assert_int_equal(near_lock_extend(a, 2 * f.options.ttl_ms), NEAR_ERR_OVERFLOW);
        assert_true(atol(redis_server_command(f.servers[0], "PTTL", "job", NULL)) <= (long)f.options.ttl_ms);
        assert_string_equal(redis_server_command(f.servers[0], "GET", "job:fence", NULL), others[i]);
    }
    redis_server_command(f.servers[0], "DEL", "job:fence", NULL);
    redis_server_command(f.servers[0], "LPUSH", "job:fence", "1", NULL);
    assert_int_equal(near_lock_extend(a, 2 * f.options.ttl_ms), NEAR_ERR_WRONG_TYPE);
    assert_true(atol(redis_server_command(f.servers[0], "PTTL", "job", NULL)) <= (long)f.options.ttl_ms);
    redis_server_command(f.servers[0], "DEL", "job:fence", NULL);
    assert_int_equal(near_lock_extend(a, 0), NEAR_OK);
    assert_int_equal(near_unlock(a), NEAR_OK);
    fleet_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_faults_never_give_two_owners_and_numbers_rise),
        cmocka_unit_test(test_clock_that_runs_fast_within_the_allowance_gives_it_to_nobody_early),
        cmocka_unit_test(test_validity_counts_from_before_the_first_request),
        cmocka_unit_test(test_answers_slower_than_the_time_to_live_give_no_lock),
        cmocka_unit_test(test_fence_is_known_to_a_majority_before_it_is_handed_out),
        cmocka_unit_test(test_giving_back_that_comes_late_does_not_take_the_next_attempt_s_lock),
        cmocka_unit_test(test_without_a_majority_the_status_says_why),
        cmocka_unit_test(test_lock_on_one_server_excludes_extends_and_fences),
        cmocka_unit_test(test_lock_whose_counter_is_no_number_is_not_prolonged),
        cmocka_unit_test(test_wrong_arguments_are_refused),
        cmocka_unit_test(test_nth_allocation_failing_leaves_nothing_locked),
        cmocka_unit_test(test_waiter_gets_the_lock_when_it_is_given_back),
        cmocka_unit_test(test_redlock_excludes_while_a_minority_is_killed_and_comes_back),
        cmocka_unit_test(test_redlock_needs_a_majority_and_survives_a_paused_server),
        cmocka_unit_test(test_lock_on_redis_that_forgets_is_lost_and_numbers_go_on),
        cmocka_unit_test(test_lock_on_redis_whose_counter_is_no_number_is_not_prolonged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
