/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Finding the calling thread's reader.
 *
 *      thread                                          tier
 *      known[serial % 8] = {serial, reader}  ------->  reader --next--> reader --next--> …
 *      readers --mate--> reader --mate--> …              (never freed before the tier is closed)
 *
 * A look in a small thread-local array, keyed by the tier's serial number, which is never used twice: what is left
 * over from a closed tier matches nothing.  Otherwise the slow path, under one mutex of the process: the thread's own
 * list, then a record that an exited thread has left, then a new one.  The mutex is held for a few steps only and
 * never across anything that waits: a thread may come here while others are stopped inside sections.
 *
 * Exit: a pthread key's destructor drops the pins of the thread and leaves its records to others.  Not before the
 * destructors of others have been called: what the thread keeps for itself may hold values that are released there, and
 * a release after the drop would take away the pin of whoever has the record by then.  Their counters
 * stay, so sums never go back; their stocks of free blocks stay, too, since to give those back takes a lock that
 * somebody may be stopped with (arena.c), and everybody's first read would wait for it.  When a tier is closed its
 * records are taken out of the lists of their threads, so a late exit finds nothing of it. */
#include "local/reader.h"

#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clamp.h"
#include "local/hotkeys.h"
#include "local/rcu.h"
#include "local/tier.h"
#include "local/wide.h"

static struct {
    pthread_mutex_t mutex;
    pthread_key_t key;
    pid_t process; /* that the lists belong to: a child that could not be prepared must not touch them */
    int ready;
} threads = {.mutex = PTHREAD_MUTEX_INITIALIZER};

#define NOBODY ((const void *)&threads) /* the name of no tier */

#ifdef NEAR_X86_ASSEMBLER
/* under threads.mutex, by the first reader; whoever looks at it has a reader */
int near__has_width;
#endif
__thread struct near__reader_known near__readers_known[NEAR_READERS_KNOWN];
__thread struct near__reader_last near__reader_last = {NOBODY, NULL, NOBODY, NOBODY};
static __thread struct near__reader *mine; /* under threads.mutex */
static __thread int is_leaving;            /* the destructor was called, and has asked to be called once more */

/* ---------------------------------------------------------------- the thread's list */

static void adopt_locked(struct near__reader *reader)
{
    reader->mate = mine;
    reader->mate_link = &mine;
    if (mine)
        mine->mate_link = &reader->mate;
    mine = reader;
}

static void part_locked(struct near__reader *reader)
{
    *reader->mate_link = reader->mate;
    if (reader->mate)
        reader->mate->mate_link = reader->mate_link;
    reader->mate_link = NULL;
}

static void drop_pins(struct near__reader *reader)
{
    for (unsigned i = 0; i < NEAR_PINS; i++)
        /* release: pairs with the keeper's acquire; our reads of the value come before it is freed */
        atomic_store_explicit(&reader->pin[i], NULL, memory_order_release);
    reader->pins_free = UINT64_MAX;
}

static void forget_all(void)
{
    memset(near__readers_known, 0, sizeof(near__readers_known));
    near__reader_last = (struct near__reader_last){NOBODY, NULL, NOBODY, NOBODY};
}

static int holds_pins_locked(void)
{
    const struct near__reader *reader = mine;
    while (reader && reader->pins_free == UINT64_MAX)
        reader = reader->mate;
    return reader != NULL;
}

/* Pins that others' destructors may give back: ours is to be called once more, after all of them. */
static int must_wait_locked(void)
{
    if (is_leaving || !holds_pins_locked() || pthread_setspecific(threads.key, &mine) != 0)
        return 0;
    is_leaving = 1;
    return 1;
}

static void leave_all_locked(void)
{
    while (mine) {
        struct near__reader *reader = mine;
        drop_pins(reader);
        near__share_settle(reader->local, &reader->share);
        part_locked(reader);
    }
}

/* At the exit of a thread.  Other destructors may still use a cache after this one: then it all begins again. */
static void leave_all(void *unused)
{
    (void)unused;
    if (getpid() != threads.process)
        return;
    pthread_mutex_lock(&threads.mutex);
    int waits = must_wait_locked();
    if (!waits)
        leave_all_locked();
    pthread_mutex_unlock(&threads.mutex);
    if (!waits)
        forget_all();
}

/* ---------------------------------------------------------------- making one */

static struct near__reader *make(struct near__local *local)
{
    size_t tap = local->taps ? near__tap_size() : 0, hotring = local->hotkeys ? near__hotring_size() : 0;
    size_t size = sizeof(struct near__reader) + tap + hotring + 63;
    void *memory = near__alloc_zero(local->alloc, size);
    if (!memory)
        return NULL;
    struct near__reader *reader = (struct near__reader *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    reader->memory = memory;
    reader->local = local;
    reader->tap = tap ? (struct near__tap *)(void *)(reader + 1) : NULL; /* on lines of its own, too */
    reader->hotring = hotring ? (struct near__hotring *)(void *)((char *)(reader + 1) + tap) : NULL; /* likewise */
    reader->pins_free = UINT64_MAX;
    reader->random = local->index.secrets.seed ^ (uint64_t)(uintptr_t)reader;
    near__budget_charge(local, (int64_t)near__alloc_cost(local->alloc, memory, size));
    return reader;
}

static struct near__reader *search_locked(struct near__local *local)
{
    for (struct near__reader *reader = mine; reader; reader = reader->mate)
        if (reader->local == local)
            return reader;
    return NULL;
}

static struct near__reader *reuse_locked(struct near__local *local)
{
    /* relaxed: pushed under the same mutex */
    struct near__reader *reader = atomic_load_explicit(&local->readers, memory_order_relaxed);
    while (reader && reader->mate_link)
        reader = reader->next;
    return reader;
}

#ifdef NEAR_X86_ASSEMBLER
static int width_of_processor(void)
{
    /* vbmi2: the first processors with AVX-512 lower their clock for it, and do not have that */
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi2"))
        return NEAR_WIDTH_LINE;
    return __builtin_cpu_supports("avx2") ? NEAR_WIDTH_HALF : NEAR_WIDTH_ANY;
}
#endif

static struct near__reader *obtain_locked(struct near__local *local)
{
    struct near__reader *reader = search_locked(local);
    if (reader)
        return reader;
    if (!threads.ready) {
        if (pthread_key_create(&threads.key, leave_all) != 0)
            return NULL;
#ifdef NEAR_X86_ASSEMBLER
        near__has_width = width_of_processor();
#endif
        threads.ready = 1;
        threads.process = getpid();
    }
    if (pthread_setspecific(threads.key, &mine) != 0)
        return NULL;
    reader = reuse_locked(local);
    if (!reader) {
        reader = make(local);
        if (!reader)
            return NULL;
        reader->next = atomic_load_explicit(&local->readers, memory_order_relaxed); /* relaxed: under the mutex */
        atomic_fetch_add_explicit(&local->readers_count, 1, memory_order_relaxed);  /* relaxed: divides limits */
        /* release: pairs with the acquire of whoever walks the list (keeper, statistics); publishes the record */
        atomic_store_explicit(&local->readers, reader, memory_order_release);
    }
    adopt_locked(reader);
    return reader;
}

struct near__reader *near__local_reader_known(struct near__local *local)
{
    struct near__reader *reader;
    return near__reader_known(local->serial, &reader) ? reader : NULL;
}

struct near__reader *near__local_reader(struct near__local *local)
{
    struct near__reader *reader = near__local_reader_known(local);
    if (reader)
        return reader;
    near__rcu_register();
    pthread_mutex_lock(&threads.mutex);
    reader = obtain_locked(local);
    pthread_mutex_unlock(&threads.mutex);
    if (reader) {
        near__readers_known[local->serial % NEAR_READERS_KNOWN] = (struct near__reader_known){local->serial, reader};
    }
    return reader;
}

/* ---------------------------------------------------------------- the end of a tier, fork */

void near__readers_free(struct near__local *local)
{
    pthread_mutex_lock(&threads.mutex);
    /* relaxed: under the mutex */
    struct near__reader *reader = atomic_load_explicit(&local->readers, memory_order_relaxed);
    while (reader) {
        struct near__reader *next = reader->next;
        if (reader->mate_link)
            part_locked(reader);
        near__free(local->alloc, reader->memory);
        reader = next;
    }
    pthread_mutex_unlock(&threads.mutex);
}

int near__readers_lock_patiently(int patience_ms)
{
    while (pthread_mutex_trylock(&threads.mutex) != 0) {
        if (patience_ms-- <= 0)
            return 0;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return 1;
}

void near__readers_unlock(void)
{
    pthread_mutex_unlock(&threads.mutex);
}

/* In the child: the records belong to tiers that nobody will use or close here, and to threads that are not here. */
void near__readers_abandon(void)
{
    mine = NULL;
    forget_all();
    threads.process = getpid();
}

/* ---------------------------------------------------------------- counters, timed hits */

void near__local_count(struct near__reader *reader, enum near__count what)
{
    near__reader_add(reader, what, 1);
}

void near__local_time_hit(struct near__reader *reader, int64_t ns)
{
    uint32_t capped = (uint32_t)near__clamp(ns, 1, UINT32_MAX);
    /* relaxed: statistics */
    atomic_store_explicit(&reader->hit_ns[reader->hit_times++ % NEAR_TIMED_HITS], capped, memory_order_relaxed);
    if (!reader->hotring) /* which has put it off already, by less */
        near__reader_put_off(reader, near__reader_untimed(reader));
}

void near__local_hit_times(struct near__local *local, struct near__histogram *into)
{
    for (struct near__reader *reader = near__readers_first(local); reader; reader = reader->next)
        for (unsigned i = 0; i < NEAR_TIMED_HITS; i++) {
            uint32_t ns = atomic_load_explicit(&reader->hit_ns[i], memory_order_relaxed); /* relaxed: statistics */
            if (ns)
                near__histogram_record(into, ns);
        }
}
