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
 * Nobody who waits for the registration mutex holds up anybody: a grace period never needs it. */
#include "local/rcu.h"

#include <pthread.h>
#include <time.h>

#include "local/local.h"
#include "local/reader.h"

#define FORK_PATIENCE_MS 100

static pthread_mutex_t grace_mutex = PTHREAD_MUTEX_INITIALIZER;        /* rank 1 */
static pthread_mutex_t registration_mutex = PTHREAD_MUTEX_INITIALIZER; /* rank 2 */
static __thread int is_registered;

#ifndef NEAR_RCU_CALLS
/* What liburcu found out when it was loaded.  Written once, under registration_mutex, by the first thread that is registered; whoever
 * reads it has been registered, too. */
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

void near__rcu_register(void)
{
    if (is_registered)
        return;
    pthread_mutex_lock(&registration_mutex);
    urcu_bp_register_thread();
    learn_locked();
    pthread_mutex_unlock(&registration_mutex);
    is_registered = 1;
}

void near__rcu_enter_any(void)
{
    near__rcu_register();
    near__rcu_enter();
}

void near__rcu_synchronize(void)
{
    pthread_mutex_lock(&grace_mutex);
    urcu_bp_synchronize_rcu();
    pthread_mutex_unlock(&grace_mutex);
    near__rcu_acquire(); /* pairs with near__rcu_release in near__rcu_leave */
}

void near__local_synchronize(void) { near__rcu_synchronize(); }
void near__local_section_enter(void) { near__rcu_enter_any(); }
void near__local_section_leave(void) { near__rcu_leave(); }

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
