/* SPDX-License-Identifier: BSD-3-Clause
 * Read sections and grace periods: the library's only contact with liburcu (flavour bp).
 *
 * Only sections, grace periods and registration are used; every shared pointer is a C11 atomic of our own.
 *
 * Two things are inlined.  near__rcu_enter and _leave are the short functions that liburcu lets any program inline.
 * near__rcu_enter_quickly and _leave_quickly are the same read lock written anew, on what liburcu exports for those:
 * urcu_bp_reader and its ctr, urcu_bp_gp.ctr, URCU_BP_GP_CTR_NEST_MASK, and whether there is membarrier (rcu.c).  These
 * belong to the ABI of liburcu-bp, since programs that were compiled with its inlined lock rest on them; a liburcu that
 * changes them needs another soname, and then these two have to be compared with its urcu/static/urcu-bp.h.  Sanitizer
 * builds inline nothing, and tell ThreadSanitizer, which does not know liburcu, what a grace period orders. */
#ifndef NEAR_LOCAL_RCU_H
#define NEAR_LOCAL_RCU_H

#include "base/compiler.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define NEAR_RCU_CALLS 1
#endif

#include <urcu-bp.h>
#ifndef NEAR_RCU_CALLS
#include <urcu/static/urcu-bp.h>
#endif

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
extern char near__rcu_order; /* its address names the order */
#define near__rcu_release() __tsan_release(&near__rcu_order)
#define near__rcu_acquire() __tsan_acquire(&near__rcu_order)
#else
#define near__rcu_release() ((void)0)
#define near__rcu_acquire() ((void)0)
#endif

/* A section of a thread that has a reader, so is registered. */
static inline void near__rcu_enter(void)
{
#ifdef NEAR_RCU_CALLS
    urcu_bp_read_lock();
#else
    _urcu_bp_read_lock();
#endif
}

static inline void near__rcu_leave(void)
{
    near__rcu_release(); /* pairs with near__rcu_acquire after a grace period: our reads come before what follows it */
#ifdef NEAR_RCU_CALLS
    urcu_bp_read_unlock();
#else
    _urcu_bp_read_unlock();
#endif
}

/* The same for the hit path, where every instruction counts: only for a thread that is registered and in no section
 * already (0: it is otherwise; go the other way), and left with what it gave.  As liburcu's own, with each question
 * asked once; is_known, a constant: the caller knows that there is membarrier (near__rcu_is_quick).  Sanitizer builds
 * call liburcu. */
#ifdef NEAR_RCU_CALLS
struct near__rcu_place {
    int unused;
};
static inline int near__rcu_is_quick(void)
{
    return 1;
}
static inline int near__rcu_enter_quickly(struct near__rcu_place *ret, int is_known)
{
    (void)is_known;
    ret->unused = 0;
    near__rcu_enter();
    return 1;
}
static inline void near__rcu_leave_quickly(struct near__rcu_place place, int is_known)
{
    (void)place, (void)is_known;
    near__rcu_leave();
}
#else
struct near__rcu_place {
    struct urcu_bp_reader *reader;
};
/* liburcu's answer, where it is one instruction away: see rcu.c */
extern __attribute__((visibility("hidden"))) int near__rcu_has_membarrier;
/* By a thread that is registered. */
static inline int near__rcu_is_quick(void)
{
    return near__rcu_has_membarrier;
}
NEAR_INLINE void near__rcu_barrier(int is_known)
{
    if (is_known || near__likely(near__rcu_has_membarrier))
        cmm_barrier(); /* the kernel makes readers' barriers on behalf of whoever waits for a grace period */
    else
        cmm_smp_mb();
}
NEAR_INLINE int near__rcu_enter_quickly(struct near__rcu_place *ret, int is_known)
{
    ret->reader = URCU_TLS(urcu_bp_reader);
    if (near__unlikely(!ret->reader) || near__unlikely(ret->reader->ctr & URCU_BP_GP_CTR_NEST_MASK))
        return 0;
    _CMM_STORE_SHARED(ret->reader->ctr, _CMM_LOAD_SHARED(urcu_bp_gp.ctr));
    near__rcu_barrier(is_known);
    return 1;
}
NEAR_INLINE void near__rcu_leave_quickly(struct near__rcu_place place, int is_known)
{
    near__rcu_barrier(is_known);
    _CMM_STORE_SHARED(place.reader->ctr, 0); /* no nesting; the phase counts only while there is some */
    cmm_barrier();
}
#endif

/* Registers the calling thread with liburcu if it is not, under a mutex of ours that is never held for long.
 * Registration allocates and blocks signals for a moment, so it is not left to the first hit. */
void near__rcu_register(void);
/* As near__rcu_enter, for threads that may have no reader. */
void near__rcu_enter_any(void);
/* In a section of the calling thread's own: ends it and begins another, so that long work holds up no grace period.
 * What was found in a table before counts no more. */
void near__rcu_pause(void);
/* Returns when all sections under way at the call have ended. */
void near__rcu_synchronize(void);

#endif
