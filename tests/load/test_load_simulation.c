/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Deterministic simulation of loading: several processes with the real near_get_or_load, near_mget_or_load, near_set
 * and near_del, on one server in memory, under a virtual clock.  Every call, loader and refresh is a fiber of this one
 * thread; it gives way where it would wait (a flight, another process's message) and where a request is on the wire,
 * before and after it runs.  A seed decides who goes on, what breaks, when time passes, which process dies; nothing
 * else has a say, so a seed replays its run.
 *
 * What is the library's own waiting is replaced by the linker (--wrap): condition variables of flights and watches, the
 * loaders' threads, random numbers.
 *
 * A writer changes the source, then the cache; versions of a key are numbered by the source.  The oracle judges:
 *
 *   R17   a call that began after a write was acknowledged in its process returns that version or a later one, also as
 *        a stale one;
 *   G3    one that began a bound or more after a write was acknowledged anywhere does so, unless it says NEAR_STALE;
 *   R18   "no such key" is answered only if the source had no such key at a moment that counts;
 *   R16   while a lease stands (not ended, not void by a write, not over) nobody gets another for its key, and no fence
 *        is given
 *         to two loads;
 *   H     nobody who waits is still there when his deadline is over, whoever died meanwhile;
 *   G4    when all faults are over every live process gets, by load or not, what the last acknowledged write left,
 *        or what is newer. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#include "base/random.h"
#include "cache/cache.h"
#include "cache/loading.h"
#include "coherence/process.h"
#include "support/seed.h"

enum {
    PROCESSES = 3,
    KEYS = 3,
    FIBERS = 14,
    SPARE = 4 /* for loads */,
    STEPS = 1000,
    VERSIONS = STEPS,
    BATCH = 3,
    STACK = 512 << 10,
    LEASE_MS = 1500
};

#if defined(__SANITIZE_ADDRESS__)
enum { SEEDS = 60 };
#else
enum { SEEDS = 1500 };
#endif

/* ---------------------------------------------------------------- state */

struct place; /* a process */

enum state { FREE, READY, ASLEEP };
struct fiber {
    ucontext_t context;
    void *stack, *fake;
    enum state state;
    const void *asleep_on; /* a condition variable */
    int64_t asleep_ns;
    struct place *place;
    void (*body)(struct fiber *fiber);
    int is_worker;
    struct near__job *job; /* of a worker */
    /* of a reader or writer */
    unsigned key;
    int64_t deadline_ns; /* NEAR_NEVER: none */
    int64_t began_ns;
    int final; /* faults are over: it must succeed */
    int finished;
};

struct version {
    int present;
    int64_t acked_ns; /* NEAR_NEVER: not */
};

struct lease {
    int stands;
    char owner[40];
    int64_t until_ns;
};

struct place {
    struct process process;
    struct near__impl impl;
    struct near_cache cache;
    struct near__remote_table table;
    int dead;
    int acked[KEYS]; /* newest version whose write returned here */
};

struct simulation {
    struct world world;
    uint64_t seed, random;
    struct place place[PROCESSES];
    struct fiber fiber[FIBERS];
    struct version version[KEYS][VERSIONS];
    int versions[KEYS]; /* the source has the last one */
    int writing[KEYS];
    struct lease lease[KEYS];
    uint64_t last_fence;
    near_load options;
    int step, killed, source_fails, over;
};

static struct simulation *now; /* one at a time: what the linker puts in our way has no argument */
static struct fiber *current;
static struct fiber scheduler;
static const char *const key_names[KEYS] = {"a", "b", "c"};
static const struct near__remote_table *memory_table; /* what the processes' remotes really do */
static uint64_t total_gets, total_ok, total_stale, total_missing, total_errors, total_loads, total_waits, total_deaths,
    total_joined, total_unkept, total_writes;

static unsigned pick(unsigned bound)
{
    return near__random_below(&now->random, bound);
}
static int64_t time_ns(void)
{
    return near__now(&now->world.clock);
}

static void complain(const char *what, const struct fiber *f, int version)
{
    fail_msg("seed %" PRIu64 ", step %d: %s: process %d, key %s, version %d of %d", now->seed, now->step, what,
             (int)(f->place - now->place), key_names[f->key], version, now->versions[f->key] - 1);
}

/* ---------------------------------------------------------------- fibers */

#if defined(__SANITIZE_ADDRESS__)
static const void *main_bottom;
static size_t main_size;
static void switch_to(struct fiber *from, struct fiber *to, int dies)
{
    const void *bottom = to == &scheduler ? main_bottom : to->stack;
    __sanitizer_start_switch_fiber(dies ? NULL : &from->fake, bottom, to == &scheduler ? main_size : STACK);
    swapcontext(&from->context, &to->context);
    __sanitizer_finish_switch_fiber(from->fake, NULL, NULL);
}
static void arrived(void)
{
    __sanitizer_finish_switch_fiber(NULL, main_size ? NULL : &main_bottom, main_size ? NULL : &main_size);
}
#else
static void switch_to(struct fiber *from, struct fiber *to, int dies)
{
    (void)dies;
    swapcontext(&from->context, &to->context);
}
static void arrived(void) {}
#endif

static void give_way(enum state state, const void *on)
{
    struct fiber *me = current;
    me->state = state;
    me->asleep_on = on;
    me->asleep_ns = time_ns();
    switch_to(me, &scheduler, 0);
}

static void fiber_main(void)
{
    struct fiber *me = current;
    arrived();
    me->body(me);
    me->state = FREE;
    me->finished = 1;
    switch_to(me, &scheduler, 1);
}

static void resume(struct fiber *f)
{
    f->state = READY;
    current = f;
    switch_to(&scheduler, f, 0);
    current = NULL;
}

/* getcontext returns once more, as far as the compiler knows. */
static __attribute__((noinline)) void prepare(struct fiber *f)
{
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK;
    makecontext(&f->context, fiber_main, 0);
}

static struct fiber *start(struct place *place, void (*body)(struct fiber *))
{
    for (int i = 0; i < FIBERS; i++) {
        struct fiber *f = &now->fiber[i];
        if (f->state != FREE)
            continue;
        void *stack = f->stack ? f->stack : malloc(STACK);
        assert_non_null(stack);
        *f = (struct fiber){.stack = stack, .state = READY, .place = place, .body = body, .deadline_ns = NEAR_NEVER};
        prepare(f);
        return f;
    }
    return NULL;
}

/* Whether it may go on: a sleeper when it was woken, or when time has passed (it looks at the clock itself). */
static int may_go(const struct fiber *f)
{
    if (f->state == FREE || (f->place->dead && !now->over))
        return 0;
    return f->state == READY || time_ns() > f->asleep_ns;
}

/* ---------------------------------------------------------------- in the library's place */

int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *at);
int __real_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *at);
int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *at)
{
    if (!current)
        return __real_pthread_cond_timedwait(cond, mutex, at);
    pthread_mutex_unlock(mutex);
    give_way(ASLEEP, cond);
    pthread_mutex_lock(mutex);
    return 0;
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *cond);
int __real_pthread_cond_broadcast(pthread_cond_t *cond);
int __wrap_pthread_cond_broadcast(pthread_cond_t *cond)
{
    for (int i = 0; now && i < FIBERS; i++)
        if (now->fiber[i].state == ASLEEP && now->fiber[i].asleep_on == cond)
            now->fiber[i].state = READY;
    return __real_pthread_cond_broadcast(cond);
}

static void worker_body(struct fiber *me)
{
    me->job->run(me->job);
}

int __wrap_near__workers_run(struct near__workers *workers, struct near__job *job);
int __wrap_near__workers_run(struct near__workers *workers, struct near__job *job)
{
    struct fiber *f = start(current->place, worker_body);
    (void)workers;
    if (!f)
        return NEAR_ERR_SYSTEM; /* no thread can be started: it happens */
    f->is_worker = 1;
    f->job = job;
    return NEAR_OK;
}

int __wrap_near__workers_inside(void);
int __wrap_near__workers_inside(void)
{
    return current && current->is_worker;
}

uint64_t __wrap_near__load_random(void);
uint64_t __wrap_near__load_random(void)
{
    return near__random_next(&now->random);
}

/* ---------------------------------------------------------------- the wire */

static int key_of(const void *key, size_t size)
{
    for (int k = 0; k < KEYS; k++)
        if (size == strlen(key_names[k]) && memcmp(key, key_names[k], size) == 0)
            return k;
    return -1;
}

/* R16.  Bookkeeping of what the server has just done. */
static void observe(const struct near__request *q)
{
    int k = key_of(q->key, q->key_size);
    if (k < 0)
        return;
    struct lease *l = &now->lease[k];
    int mine = l->stands && q->expected && q->expected_size < sizeof(l->owner) &&
               memcmp(l->owner, q->expected, q->expected_size) == 0;
    switch (q->operation) {
    case NEAR_OP_LEASE:
        if (q->status != NEAR_OK || q->lease != NEAR_LEASE_GOT)
            return;
        if (l->stands && !mine && time_ns() < l->until_ns)
            complain("R16: two leases at once", current, -1);
        if (q->fence <= now->last_fence)
            complain("R16: a fence was given twice", current, -1);
        now->last_fence = q->fence;
        l->stands = 1;
        snprintf(l->owner, sizeof(l->owner), "%.*s", (int)q->expected_size, (const char *)q->expected);
        l->until_ns = time_ns() + q->ttl_ms * NEAR_NS_PER_MS;
        return;
    case NEAR_OP_FILL:
    case NEAR_OP_RELEASE:
        if (mine && q->status != NEAR_UNMET)
            l->stands = 0; /* or its fate is unknown */
        return;
    default:
        if (q->operation != NEAR_OP_FETCH && (q->status >= 0 || q->status == NEAR_ERR_UNKNOWN))
            l->stands = 0; /* a write voids it; a removal also when it finds no key */
    }
}

/* A request of a process that died before it was sent never happens; one whose answer comes too late is of unknown
 * fate. */
static void end_all(struct near__request *q, size_t count, int sent)
{
    for (size_t i = 0; i < count; i++) {
        int reads = q[i].operation == NEAR_OP_FETCH || q[i].operation == NEAR_OP_LEASE;
        near__free(&now->world.alloc, q[i].value_out);
        near__free(&now->world.alloc, q[i].extra_out);
        q[i].value_out = q[i].extra_out = NULL;
        q[i].position = 0;
        q[i].status = sent && !reads ? NEAR_ERR_UNKNOWN : NEAR_ERR_TIMEOUT;
    }
}

static void run_slowly(struct near__remote *remote, struct near__request *q, size_t count, int64_t deadline_ns)
{
    if (!current) { /* the coherence's own */
        memory_table->run(remote, q, count, deadline_ns);
        return;
    }
    give_way(READY, NULL);
    if (current->place->dead || time_ns() >= deadline_ns) {
        end_all(q, count, 0);
        return;
    }
    memory_table->run(remote, q, count, deadline_ns);
    for (size_t i = 0; i < count; i++)
        observe(&q[i]);
    give_way(READY, NULL);
    if (current->place->dead || time_ns() >= deadline_ns)
        end_all(q, count, 1);
}

/* ---------------------------------------------------------------- the source */

static int tell(const near_load_request *request, near_loaded *loaded)
{
    int k = key_of(request->key, request->key_size), version = now->versions[k] - 1;
    int fails = now->source_fails && !current->final && pick(2);
    total_loads++;
    /* the source was asked at once, the answer takes its time */
    for (unsigned n = pick(4) ? pick(4) : pick(40); n > 0; n--)
        give_way(READY, NULL);
    if (fails)
        return near_loaded_answer(loaded, -1);
    if (!now->version[k][version].present)
        return near_loaded_answer(loaded, NEAR_MISS);
    return near_loaded_value(loaded, &version, sizeof(version));
}

static int load_one(void *arg, const near_load_request *request, near_loaded *loaded)
{
    (void)arg;
    tell(request, loaded);
    return NEAR_OK;
}

static int load_many(void *arg, const near_load_request *requests, near_loaded *const *loaded, size_t count)
{
    (void)arg;
    for (size_t i = 0; i < count; i++)
        tell(&requests[i], loaded[i]);
    return NEAR_OK;
}

/* ---------------------------------------------------------------- readers */

/* The newest version that a call which begins now has to see. */
static int floor_of(const struct fiber *f, unsigned key, int stale)
{
    int least = f->place->acked[key];
    for (int i = now->versions[key] - 1; !stale && i > least; i--)
        if (now->version[key][i].acked_ns <= f->began_ns - TEST_BOUND_NS)
            least = i;
    return least;
}

struct expected {
    int fresh[KEYS], any[KEYS]; /* when the call began */
};

static void expect(struct fiber *me, struct expected *e)
{
    me->began_ns = time_ns();
    for (unsigned k = 0; k < KEYS; k++) {
        e->fresh[k] = floor_of(me, k, 0);
        e->any[k] = floor_of(me, k, 1);
    }
}

static void judge(struct fiber *me, const struct expected *e, unsigned key, int status, const near_value *value)
{
    int version = -1, least = status == NEAR_STALE ? e->any[key] : e->fresh[key];
    me->key = key;
    total_gets++;
    total_ok += status == NEAR_OK;
    total_stale += status == NEAR_STALE;
    total_missing += status == NEAR_MISS;
    total_errors += status < 0;
    if (status == NEAR_OK || status == NEAR_STALE) {
        if (value->size != sizeof(version))
            complain("a value that never was", me, -1);
        memcpy(&version, value->data, sizeof(version));
        if (version < 0 || version >= now->versions[key] || !now->version[key][version].present)
            complain("a value that never was", me, version);
        if (version < e->any[key])
            complain("R17: older than an acknowledged write of its process", me, version);
        if (version < least)
            complain("G3: older than the bound", me, version);
    } else if (status == NEAR_MISS) {
        int was = 0;
        for (int i = least; i < now->versions[key]; i++)
            was |= !now->version[key][i].present;
        if (!was)
            complain("R18: the source has had such a key all the time", me, least);
    } else if (me->final) {
        complain(near_status_name(status), me, -1);
    }
}

static void set_times(struct fiber *me, near_load *o)
{
    static const uint32_t timeouts[] = {20, 500, 5000, 20000};
    *o = now->options;
    o->timeout_ms = me->final ? 60000 : timeouts[pick(4)];
    o->soft_timeout_ms = !me->final && pick(3) == 0 ? 200 : 0;
    o->hard_timeout_ms = me->final ? 60000 : 4000;
    o->flags = !me->final && pick(8) == 0 ? NEAR_LOAD_REFRESH : 0;
    me->deadline_ns = time_ns() + o->timeout_ms * NEAR_NS_PER_MS;
}

static void read_one(struct fiber *me)
{
    near_load o;
    near_value value;
    struct expected e;
    unsigned key = me->key;
    set_times(me, &o);
    expect(me, &e);
    int status =
        near_get_or_load(&me->place->cache, key_names[key], strlen(key_names[key]), load_one, NULL, &o, &value);
    judge(me, &e, key, status, &value);
    near_release(&value);
}

static void read_many(struct fiber *me)
{
    near_load o;
    near_item items[BATCH] = {{0}};
    unsigned keys[BATCH], first = pick(KEYS);
    struct expected e;
    for (unsigned i = 0; i < BATCH; i++) {
        keys[i] = (first + i * (1 + pick(2))) % KEYS; /* one may be there twice */
        items[i].key = key_names[keys[i]];
        items[i].key_size = strlen(key_names[keys[i]]);
    }
    set_times(me, &o);
    expect(me, &e);
    near_mget_or_load(&me->place->cache, items, BATCH, load_many, NULL, &o);
    for (unsigned i = 0; i < BATCH; i++) {
        judge(me, &e, keys[i], items[i].status, &items[i].value);
        near_release(&items[i].value);
    }
}

/* ---------------------------------------------------------------- writers */

static void new_version(unsigned key, int present)
{
    assert_true(now->versions[key] < VERSIONS);
    now->version[key][now->versions[key]++] = (struct version){.present = present, .acked_ns = NEAR_NEVER};
}

/* The source first, then the cache; writers of one key come one after another. */
static void write_one(struct fiber *me)
{
    unsigned key = me->key, kind = pick(4);
    const char *name = key_names[key];
    now->writing[key] = 1;
    new_version(key, kind != 3);
    int version = now->versions[key] - 1, status;
    give_way(READY, NULL);
    near_call call;
    near_call_init(&call);
    call.timeout_ms = 2000;
    if (kind < 2)
        status = near_set(&me->place->cache, name, strlen(name), &version, sizeof(version), NULL, &call);
    else
        status = near_del(&me->place->cache, name, strlen(name), &call);
    if (status >= 0) {
        now->version[key][version].acked_ns = time_ns();
        me->place->acked[key] = version;
        total_writes++;
    }
    now->writing[key] = 0;
}

/* ---------------------------------------------------------------- steps */

static struct place *living(void)
{
    struct place *p = &now->place[pick(PROCESSES)];
    while (p->dead)
        p = &now->place[pick(PROCESSES)];
    return p;
}

static void begin_something(void)
{
    struct place *p = living();
    int room = 0;
    for (int i = 0; i < FIBERS; i++)
        room += now->fiber[i].state == FREE;
    if (room <= SPARE)
        return;
    unsigned kind = pick(10), key = pick(KEYS);
    int writes = kind >= 8;
    if (writes && now->writing[key])
        return;
    struct fiber *f = start(p, writes ? write_one : kind < 6 ? read_one : read_many);
    if (!f)
        return;
    f->key = key;
    resume(f);
}

static void go_on(void)
{
    struct fiber *f = &now->fiber[pick(FIBERS)];
    if (may_go(f))
        resume(f);
}

/* H: whoever is over his time goes as soon as he is let, without anybody else's doing. */
static void let_the_late_go(void)
{
    for (int i = 0; i < FIBERS; i++) {
        struct fiber *f = &now->fiber[i];
        for (int turns = 0; f->state != FREE && may_go(f) && f->deadline_ns != NEAR_NEVER && f->deadline_ns < time_ns();
             turns++) {
            if (turns > 50)
                complain("H: waits beyond its deadline", f, -1);
            resume(f);
        }
    }
}

static void pass_time(int64_t ns)
{
    world_advance(&now->world, ns);
    let_the_late_go();
}

static void work_coherence(void)
{
    struct place *p = living();
    for (unsigned n = 1 + pick(6); n > 0; n--)
        near__coherence_step(p->process.coherence);
}

static void kill_one(void)
{
    if (now->killed)
        return;
    struct place *p = living();
    now->killed = p->dead = 1;
    total_deaths++;
    for (unsigned k = 0; k < KEYS; k++) { /* its writer is gone: the source may have what the cache does not */
        int alive = 0;
        for (int i = 0; i < FIBERS; i++)
            alive |= now->fiber[i].state != FREE && now->fiber[i].body == write_one && now->fiber[i].key == k &&
                     !now->fiber[i].place->dead;
        now->writing[k] = alive;
    }
}

static void break_something(void)
{
    struct near__memory_store *store = now->world.store;
    switch (pick(8)) {
    case 0:
        near__memory_disconnect_channels(store);
        break;
    case 1:
        near__memory_fault(store, NEAR_FAULT_HOLD_MESSAGES, 0, -1);
        break;
    case 2:
        near__memory_fault(store, NEAR_FAULT_DROP_MESSAGES, 0, 1 + (int)pick(2));
        break;
    case 3:
        near__memory_fault(store, NEAR_FAULT_REFUSE, 0, (int)pick(4));
        break;
    case 4:
        near__memory_fault(store, NEAR_FAULT_DROP_REPLIES, 0, 1);
        break;
    case 5:
        near__memory_error(store, pick(2) ? NEAR_OP_LEASE : NEAR_OP_FILL, NEAR_ERR_FULL, 1);
        break;
    case 6:
        now->source_fails = 1;
        break;
    default:
        kill_one();
        break;
    }
}

static void mend(void)
{
    struct near__memory_store *store = now->world.store;
    near__memory_fault(store, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
    near__memory_fault(store, NEAR_FAULT_DROP_MESSAGES, 0, 0);
    near__memory_fault(store, NEAR_FAULT_REFUSE, 0, 0);
    near__memory_fault(store, NEAR_FAULT_DROP_REPLIES, 0, 0);
    near__memory_error(store, NEAR_OP_LEASE, NEAR_ERR_FULL, 0);
    near__memory_error(store, NEAR_OP_FILL, NEAR_ERR_FULL, 0);
    now->source_fails = 0;
}

static void one_step(unsigned fault_rate)
{
    static const int64_t spans[] = {10000,
                                    10000,
                                    100000,
                                    100000,
                                    NEAR_NS_PER_MS,
                                    NEAR_NS_PER_MS,
                                    5 * NEAR_NS_PER_MS,
                                    30 * NEAR_NS_PER_MS,
                                    120 * NEAR_NS_PER_MS,
                                    TEST_BOUND_NS / 4};
    unsigned what = pick(100);
    if (what < fault_rate)
        break_something();
    else if (what < fault_rate + 4)
        mend();
    else if (what < 14)
        pass_time(spans[pick(10)] + pick(1000));
    else if (what < 30)
        work_coherence();
    else if (what < 40)
        begin_something();
    else
        go_on();
}

/* ---------------------------------------------------------------- the end */

/* Everybody comes to his end, the dead too: what they still send does not arrive. */
static void finish_all(void)
{
    now->over = 1;
    for (int rounds = 0; rounds < 100000; rounds++) {
        int busy = 0;
        for (int i = 0; i < FIBERS; i++) {
            struct fiber *f = &now->fiber[i];
            busy |= f->state != FREE;
            if (may_go(f))
                resume(f);
        }
        if (!busy)
            return;
        world_advance(&now->world, NEAR_NS_PER_MS);
        for (int p = 0; p < PROCESSES; p++)
            if (!now->place[p].dead)
                near__coherence_step(now->place[p].process.coherence);
    }
    fail_msg("seed %" PRIu64 ": somebody never comes to an end", now->seed);
}

/* G4. */
static void settle_and_judge(void)
{
    mend();
    finish_all();
    for (int round = 0; round < 2; round++)
        for (int p = 0; p < PROCESSES; p++)
            if (!now->place[p].dead)
                process_prove(&now->place[p].process);
    world_advance(&now->world, TEST_BOUND_NS);
    for (int p = 0; p < PROCESSES; p++) {
        if (now->place[p].dead)
            continue;
        process_prove(&now->place[p].process);
        for (unsigned k = 0; k < KEYS; k++) {
            struct fiber *f = start(&now->place[p], read_one);
            assert_non_null(f);
            f->key = k;
            f->final = 1;
            finish_all();
        }
    }
}

/* ---------------------------------------------------------------- one seed */

static void open_place(struct place *p, uint64_t seed)
{
    struct world *w = &now->world;
    process_open_heard(&p->process, w, seed, near__loading_heard, &p->impl);
    memory_table = p->process.remote->table;
    p->table = *memory_table;
    p->table.run = run_slowly;
    p->process.remote->table = &p->table;
    p->impl.alloc = w->alloc;
    p->impl.clock = w->clock;
    p->impl.log = w->log;
    p->impl.options = w->options;
    p->impl.local = p->process.local;
    p->impl.gate = near__local_gate(p->process.local);
    p->impl.remote = p->process.remote;
    p->impl.coherence = p->process.coherence;
    p->impl.values.alloc = &p->impl.alloc;
    p->impl.timeout_ns = 2000 * NEAR_NS_PER_MS;
    assert_int_equal(near__flights_create(&p->impl.alloc, &p->impl.clock, &p->impl.flights), NEAR_OK);
    atomic_init(&p->cache.state, NEAR_SHELL_OPEN);
    atomic_init(&p->cache.impl, &p->impl);
    p->cache.serial = near__local_serial(p->process.local);
}

static void close_place(struct place *p)
{
    near_stats stats = {.size = sizeof(stats)};
    near__loading_stats(&p->impl, &stats);
    total_waits += stats.load_waits;
    total_unkept += stats.loads_unkept;
    total_joined += atomic_load(&p->impl.counters.flights_joined);
    assert_int_equal(atomic_load(&p->impl.calls), 0);
    assert_int_equal(atomic_load(&p->impl.values.outstanding), 0);
    assert_int_equal(near__local_pinned(p->process.local), 0);
    near__loading_destroy(&p->impl);
    near__flights_destroy(p->impl.flights);
    process_close(&p->process);
}

static void choose_options(void)
{
    near_load_init(&now->options);
    now->options.ttl_ms = pick(4) ? 600 + 1200 * pick(3) : 0;
    now->options.stale_ms = pick(4) ? 2000 : 0;
    now->options.fail_ms = pick(2) ? 6000 : 0;
    now->options.retry_ms = 200;
    now->options.absent_ms = pick(2) ? 2000 : 0;
    now->options.jitter_permille = 100;
    now->options.lease_ms = LEASE_MS;
}

static void simulate(uint64_t seed)
{
    struct simulation *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    now = s;
    s->seed = s->random = seed;
    world_open(&s->world);
    near__memory_set_position(s->world.store, "", TEST_START_NS / 1000 - UINT64_C(86400000000));
    s->world.options.message_value_max = pick(2) ? 64 : 0;
    s->world.options.message_values = NEAR_VALUES_ALWAYS;
    choose_options();
    for (unsigned k = 0; k < KEYS; k++)
        new_version(k, pick(4) != 0);
    for (int p = 0; p < PROCESSES; p++)
        open_place(&s->place[p], seed + 1 + (uint64_t)p);
    unsigned fault_rate = pick(4);
    for (int p = 0; p < PROCESSES; p++)
        process_prove(&s->place[p].process);
    for (s->step = 0; s->step < STEPS; s->step++)
        one_step(fault_rate);
    settle_and_judge();
    for (int p = 0; p < PROCESSES; p++)
        close_place(&s->place[p]);
    world_close(&s->world);
    for (int i = 0; i < FIBERS; i++)
        free(s->fiber[i].stack);
    now = NULL;
    free(s);
}

static void test_R16_R17_R18_G3_G4_hold_while_loads_are_under_way(void **state)
{
    (void)state;
#if defined(__SANITIZE_THREAD__)
    skip(); /* one thread only: nothing for ThreadSanitizer to see, and it cannot follow contexts */
#endif
    const char *only = getenv("NEAR_TEST_SEED"), *count = getenv("NEAR_TEST_SEEDS");
    uint64_t seed = test_seed();
    int seeds = count ? atoi(count) : only ? 1 : SEEDS;
    for (int i = 0; i < seeds; i++)
        simulate(seed + (uint64_t)i * 1000);
    print_message("# %d seeds: %" PRIu64 " reads: %" PRIu64 " fresh, %" PRIu64 " old, %" PRIu64 " absent, %" PRIu64
                  " failed; %" PRIu64 " loads, %" PRIu64 " of them not kept, %" PRIu64
                  " waits for another process, %" PRIu64 " joined; %" PRIu64 " writes, %" PRIu64 " deaths\n",
                  seeds, total_gets, total_ok, total_stale, total_missing, total_errors, total_loads, total_unkept,
                  total_waits, total_joined, total_writes, total_deaths);
    if (seeds >= 50) { /* otherwise nothing was tested */
        uint64_t n = (uint64_t)seeds;
        assert_true(total_ok > 20 * n && total_stale > n / 2 && total_missing > n && total_loads > 10 * n &&
                    total_unkept > n / 2 && total_waits > n && total_joined > n && total_writes > 5 * n &&
                    total_deaths > n / 8);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_R16_R17_R18_G3_G4_hold_while_loads_are_under_way)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
