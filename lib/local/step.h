/* SPDX-License-Identifier: BSD-3-Clause
 * The atomic steps of index.c, one function each, so that a test can stand between any two of them; and those of the
 * queue word (order.h).
 *
 * Built with -DNEAR_STEP_HOOK every step first calls a hook (tests/local/test_schedule.c switches to another thread
 * of control there) and NEAR_MUTANT(x) can break one rule at a time, so that the test shows that it would notice.
 * Otherwise both vanish.
 *
 * Every step that decides something is sequentially consistent: the arguments in index.c have the form "each publishes
 * before it looks", which acquire and release do not give.  On x86 that costs nothing for loads. */
#ifndef NEAR_LOCAL_STEP_H
#define NEAR_LOCAL_STEP_H
#include <stdatomic.h>
#include <stdint.h>
#include "base/mutant.h"

#ifdef NEAR_STEP_HOOK
enum near__mutant {
    NEAR_MUTANT_NONE,
    NEAR_MUTANT_FLOOR_UNCHECKED,      /* step 6 does not look at the floor */
    NEAR_MUTANT_GENERATION_UNCHECKED, /* step 6 does not look at the generation */
    NEAR_MUTANT_RIVALS_IGNORED,       /* step 5 left out */
    NEAR_MUTANT_VISIBLE_AT_ONCE,      /* step 4 publishes a visible word, withdrawn when 6 fails */
    NEAR_MUTANT_FLOOR_LAST,           /* an invalidation raises the floor after it has removed */
    NEAR_MUTANT_TENTATIVE_OVERLOOKED, /* an invalidation leaves tentative words alone */
    NEAR_MUTANT_FLOOR_NOT_FIRST,      /* an install does not raise the floor */
    NEAR_MUTANT_MOVE_EMPTIES_FIRST,   /* a move empties the old slot before it publishes in the new table */
    NEAR_MUTANT_MOVE_UNTENTATIVE,     /* a move publishes a visible word at once */
    NEAR_MUTANT_NEW_BEFORE_OLD,       /* scans take the new table first */
    NEAR_MUTANT_COPY_STORED,          /* a copy takes the slot whatever is there */
    NEAR_MUTANT_INVALIDATE_AT_HOME,   /* an invalidation looks into homes only, not into the other places of the key */
    NEAR_MUTANT_RIVALS_AT_HOME,       /* likewise step 5 */
    NEAR_MUTANT_READ_AT_HOME,         /* likewise a read */
    NEAR_MUTANT_RETIRED_LOOKS_ALIVE,  /* the link of a retired entry passes for a position */
    NEAR_MUTANT_PUT_WHILE_MOVING,     /* a put is one swap though there are two tables */
    NEAR_MUTANT_PUT_OVER_TENTATIVE,   /* a put takes the slot of another key's install with its tag */
    NEAR_MUTANT_ABSENT_WHILE_MOVED,   /* who must know is told that a key is absent while its entry is moved */
    NEAR_MUTANT_MOVED_LOOKED_ONCE,    /* likewise, when the move has ended between its two looks */
    NEAR_MUTANT_COUNT,
    /* of the library as a whole: tests/mutants */
    NEAR_MUTANT_FLOOR_UNRAISED,       /* an invalidation does not raise the floor */
    NEAR_MUTANT_AGE_OF_ENTRY_IGNORED, /* a message removes entries that are as new as it is */
    NEAR_MUTANT_PROOF_AGE_IGNORED     /* a hit does not compare the proof's age */
};
extern enum near__mutant near__mutant;
extern void (*near__step_hook)(void);
#define NEAR_STEP() near__step_hook()
#else
#define NEAR_STEP() ((void)0)
#endif

static inline uint64_t near__step_load(const _Atomic(uint64_t) *word)
{
    NEAR_STEP();
    return atomic_load_explicit(word, memory_order_seq_cst);
}

/* For readers: acquire pairs with the swap that made the word visible; publishes the entry. */
static inline uint64_t near__step_look(const _Atomic(uint64_t) *word)
{
    NEAR_STEP();
    return atomic_load_explicit(word, memory_order_acquire);
}

static inline int near__step_swap(_Atomic(uint64_t) *word, uint64_t from, uint64_t to)
{
    NEAR_STEP();
    return atomic_compare_exchange_strong_explicit(word, &from, to, memory_order_seq_cst, memory_order_seq_cst);
}

/* Lifts a word to at least value.  "It is there already" is an answer of the same strength as lifting it. */
static inline void near__step_raise(_Atomic(uint64_t) *word, uint64_t value)
{
    uint64_t now = near__step_load(word);
    while (now < value && !near__step_swap(word, now, value))
        now = near__step_load(word);
}

static inline void near__step_increment(_Atomic(uint64_t) *word)
{
    NEAR_STEP();
    atomic_fetch_add_explicit(word, 1, memory_order_seq_cst);
}

#endif
