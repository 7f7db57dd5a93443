/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Grace periods, registration and fork.
 *
 * liburcu's own fork hooks in the parent would deadlock with a host that installs them too, and waiting for a grace
 * period in fork() could take for ever (a stopped reader).  So two mutexes of ours, one around every grace period,
 * one around every registration, say whether a thread of ours may be inside liburcu.  prepare takes both within a
 * limit of time; if it gets them, the child, which has inherited quiet mutexes of liburcu's, runs liburcu's hooks by
 * itself before its first use.  If it does not, the child does not use liburcu at all.  (Out of reach: a thread that
 * is just leaving liburcu in its own exit.)
 *
 * Nobody who waits for the registration mutex holds up anybody: a grace period never needs it.
 *
 * The moment.  liburcu looks at a section that has not ended for some microseconds, and then sleeps for 10 ms.  A
 * section of ours is shorter than a microsecond, unless its thread was stopped in it; and where all processors are busy
 * that is what a keeper does when it wakes: it takes the processor from a reader, who is inside a section more often
 * than not, and sleeps while the reader has left it long ago.  Fills cannot wait for 10 ms, the room that is left to
 * them is used up in three.  So whoever is going to wait for a grace period first lets go of the processor, for
 * moments, until it sees no section that stands still.  That is a look without any guarantee; what waits for sections
 * is liburcu.  Two threads that fill a tier of 16 MiB on two processors do 2.4 times as much. */
#include "local/rcu.h"

#include <pthread.h>
#include <stddef.h>
#include <time.h>
#include <urcu/static/urcu-bp.h> /* the layout of a thread's record, sanitizers or not */

#include "local/local.h"
#include "local/reader.h"

#define FORK_PATIENCE_MS 100
#define RECORDS_MAX 256 /* of threads at one time, that are looked at */
#define LOOKS 64        /* at a section, in a row: a few microseconds */
#define MOMENTS 64      /* after which liburcu may sleep: about as long as it would */
#define MOMENT_NS 20000 /* and what the kernel adds: 70 us */

static pthread_mutex_t grace_mutex = PTHREAD_MUTEX_INITIALIZER;        /* rank 1 */
static pthread_mutex_t registration_mutex = PTHREAD_MUTEX_INITIALIZER; /* rank 2 */
static __thread int is_registered;

#ifndef NEAR_RCU_CALLS
/* What liburcu found out when it was loaded.  Written once, under registration_mutex, by the first thread that is
 * registered; whoever reads it has been registered, too. */
int near__rcu_has_membarrier;

static void learn_locked(void)
{
    static int learnt;
    if (!learnt)
        near__rcu_has_membarrier = urcu_bp_has_sys_membarrier;
    learnt = 1;
}
#else
static void learn_locked(void) {}
#endif

#ifdef __SANITIZE_THREAD__
char near__rcu_order;
#endif

/* The counts of sections, with which liburcu's records of threads begin, of those that we have registered.  It gives
 * records of threads that have gone to others and never moves or frees one while anybody is registered, so none is
 * taken out here. */
static _Atomic(const unsigned long *) record[RECORDS_MAX]; /* written under registration_mutex, from the front */
/* and less aligned than it should be */
_Static_assert(offsetof(struct urcu_bp_reader, ctr) == 0, "a record is where its count is");

static void remember_locked(const unsigned long *mine)
{
    unsigned i = 0;
    /* relaxed: written under the same mutex */
    for (const unsigned long *known;
         i < RECORDS_MAX && (known = atomic_load_explicit(&record[i], memory_order_relaxed)) != NULL; i++)
        if (known == mine)
            return;
    if (i < RECORDS_MAX)
        atomic_store_explicit(&record[i], mine, memory_order_release); /* release: pairs with is_one_stopped */
}

void near__rcu_register(void)
{
    if (is_registered)
        return;
    pthread_mutex_lock(&registration_mutex);
    urcu_bp_register_thread();
    learn_locked();
    remember_locked((const unsigned long *)(const void *)URCU_TLS(urcu_bp_reader));
    pthread_mutex_unlock(&registration_mutex);
    is_registered = 1;
}

void near__rcu_enter_any(void)
{
    near__rcu_register();
    near__rcu_enter();
}

void near__rcu_pause(void)
{
    near__rcu_leave();
    near__rcu_enter();
}

static int is_stopped_inside(const unsigned long *sections)
{
    for (int looks = 0; looks < LOOKS; looks++) {
        if (!(CMM_LOAD_SHARED(*sections) & URCU_BP_GP_CTR_NEST_MASK)) /* only a look: nothing is concluded from it */
            return 0;
        caa_cpu_relax();
    }
    return 1;
}

static int is_one_stopped(void)
{
    const unsigned long *sections;
    /* acquire: pairs with remember_locked */
    for (unsigned i = 0; i < RECORDS_MAX && (sections = atomic_load_explicit(&record[i], memory_order_acquire)) != NULL;
         i++)
        if (is_stopped_inside(sections))
            return 1;
    return 0;
}

static void await_moment(void)
{
    for (int moments = 0; moments < MOMENTS && is_one_stopped(); moments++)
        nanosleep(&(struct timespec){.tv_nsec = MOMENT_NS}, NULL);
}

void near__rcu_synchronize(void)
{
    await_moment();
    pthread_mutex_lock(&grace_mutex);
    urcu_bp_synchronize_rcu();
    pthread_mutex_unlock(&grace_mutex);
    near__rcu_acquire(); /* pairs with near__rcu_release in near__rcu_leave */
}

void near__local_synchronize(void)
{
    near__rcu_synchronize();
}
void near__local_section_enter(void)
{
    near__rcu_enter_any();
}
void near__local_section_leave(void)
{
    near__rcu_leave();
}

/* ---------------------------------------------------------------- fork */

/* pthread_mutex_timedlock would follow the wall clock. */
static int lock_patiently(pthread_mutex_t *mutex, int *patience_ms)
{
    while (pthread_mutex_trylock(mutex) != 0) {
        if ((*patience_ms)-- <= 0)
            return 0;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return 1;
}

int near__local_fork_prepare(void)
{
    int patience_ms = FORK_PATIENCE_MS;
    if (!lock_patiently(&grace_mutex, &patience_ms))
        return 0;
    if (lock_patiently(&registration_mutex, &patience_ms)) {
        if (near__readers_lock_patiently(patience_ms))
            return 1;
        pthread_mutex_unlock(&registration_mutex);
    }
    pthread_mutex_unlock(&grace_mutex);
    return 0;
}

void near__local_fork_release(void)
{
    near__readers_unlock();
    pthread_mutex_unlock(&registration_mutex);
    pthread_mutex_unlock(&grace_mutex);
}

void near__local_fork_child(void)
{
    urcu_bp_before_fork();
    urcu_bp_after_fork_child(); /* forgets the threads that are not here */
    near__readers_abandon();
}
