/* SPDX-License-Identifier: BSD-3-Clause
 * Readers: one record a thread and tier, with pins, counters and the hands of eviction.
 *
 * The record belongs to the tier and is found through the thread.  A thread that exits drops its pins and leaves
 * its records to the next thread; so there are never more than threads that lived at once. */
#ifndef NEAR_LOCAL_READER_H
#define NEAR_LOCAL_READER_H
#include <stdatomic.h>
#include <stdint.h>
#include "base/compiler.h"
#include "base/random.h"
#include "local/arena.h"
#include "local/brief.h"
#include "local/entry.h"
#include "local/hand.h"
#include "local/index.h"
#include "local/local.h"
#include "local/wide.h"

#define NEAR_PINS 64
#define NEAR_TIMED_HITS 512
#define NEAR_TIMED_OF 1024 /* one hit of so many, or a few less, is timed: it takes as long as twenty others */
/* Less by up to so many, at random: in a loop of a thread's own each hit is timed sometimes, whatever its period. */
#define NEAR_TIMED_EARLIER 64

struct near__tap;
struct near__hotring;

/* What follows from the limits, and the limits that it follows from. */
struct near__part {
    int64_t max, entries_max;
    uint32_t readers;
    int64_t quantum, entries, wake_at;
};
enum near__idle { NEAR_IDLE_ROOM, NEAR_IDLE_ENTRIES, NEAR_IDLE_SPARE, NEAR_IDLE_MAX };
/* What a thread has retired: see reclaim.c. */
enum near__bags { NEAR_BAG_FRESH, NEAR_BAG_WAITING, NEAR_BAG_NEXT, NEAR_BAG_NOW, NEAR_BAG_MAX };
struct near__bag {
    _Atomic(struct near__entry *) first; /* NULL: empty, and `last` means nothing */
    struct near__entry *last;
};
/* What a thread has of the counts that all threads share (budget.c), and what it has retired (reclaim.c).  Its own
 * lines: hits do not come here. */
struct near__share {
    _Alignas(64) _Atomic(int64_t) idle[NEAR_IDLE_MAX]; /* (w) relaxed: counts */
    int64_t wanted;                                    /* (o) bytes that a reservation under way needs; 0: none is */
    _Atomic(uint32_t) turns;                           /* (w) odd while a reservation is under way */
    int64_t pending;                                   /* (o) bytes retired since the keeper was last woken */
    struct near__part part;                            /* (o) */
    int pauses;                                        /* (o) a fill under way may end its section and begin another */
    _Atomic(uint64_t) ended[NEAR_WHY_MAX];             /* (w) relaxed: statistics */
    _Alignas(64) struct near__bag bag[NEAR_BAG_MAX];   /* (o), and the keeper's while the phase is recalled */
    uint64_t phase;                                    /* (o) that its owner saw last: see reclaim.c */
    uint64_t awaited;                                  /* (o) the phase that those that wait are waiting for */
    uint32_t behind;                                   /* (o) fills that found more handed back than they need */
};

/* Who may touch what:
 *   (o) the owning thread alone   (w) written by the owner, read by the keeper or by statistics
 *   (m) under the mutex of reader.c   (i) never changes   (p) changes once, from NULL, before publication */
struct near__reader {
    _Alignas(64) struct near__local *local;       /* (i) */
    uint64_t pins_free;                           /* (o) one bit a pin */
    uint32_t fills;                               /* (o) since the tick was last advanced from here */
    uint32_t hit_times;                           /* (o) next place in the ring */
    uint32_t quick_writes;                        /* (o) until one is timed */
    uint64_t random;                              /* (o) its state */
    struct near__hands hands;                     /* (o) */
    _Atomic(uint64_t) count[NEAR_COUNT_MAX];      /* (w) relaxed: statistics */
    _Atomic(struct near__entry *) pin[NEAR_PINS]; /* (w) */
    struct near__reader *next;                    /* (p) all of the tier */
    struct near__reader *mate, **mate_link;       /* (m) all of the thread; mate_link NULL: nobody's */
    void *memory;                                 /* (i) */
    struct near__tap *tap;                        /* (i) NULL if nobody learns from requests: tap.c */
    struct near__hotring *hotring;                /* (i) NULL if hot keys are not wanted: hotkeys.c */
    _Atomic(uint32_t) hit_ns[NEAR_TIMED_HITS];    /* (w) relaxed: statistics; 0: none yet */
    struct near__share share;
    struct near__stock stock; /* (o) */
};

/* Tiers that one thread uses in turn without the slow path of near__local_reader. */
#define NEAR_READERS_KNOWN 8
struct near__reader_known {
    uint64_t serial; /* 0: free */
    struct near__reader *reader;
};
extern __thread struct near__reader_known near__readers_known[NEAR_READERS_KNOWN];

/* The calling thread's reader of the tier with that serial number, if it is known: 1, with *ret set.  It may be looked
 * into only while the tier is known to be open.  A thread that has one is registered with liburcu. */
static inline int near__reader_known(uint64_t serial, struct near__reader **ret)
{
    const struct near__reader_known *known = &near__readers_known[serial % NEAR_READERS_KNOWN];
    *ret = known->reader;
    return known->serial == serial;
}

/* The reader that the thread used last (where liburcu has membarrier: rcu.h), by a name that the caller chooses for the
 * tier and that is never used again. */
struct near__reader_last {
    const void *name; /* never NULL */
    struct near__reader *reader;
    /* the same for hits on the short way where the processor has NEAR_WIDTH_LINE, and where it has NEAR_WIDTH_LESS;
     * otherwise nobody's: one question for all */
    const void *name_with_line, *name_with_less;
};
extern __thread struct near__reader_last near__reader_last;
/* is_short: hits may try the short way.  The tier may have been closed: nothing of it is looked at. */
static inline void near__reader_remember(const void *name, struct near__reader *reader, int is_short)
{
    const void *nobody = reader, *hits = is_short ? name : nobody;
    near__reader_last = (struct near__reader_last){name, reader, near__width() == NEAR_WIDTH_LINE ? hits : nobody,
                                                   near__width() == NEAR_WIDTH_LESS ? hits : nobody};
}

/* Frees the readers of a tier that is being closed. */
void near__readers_free(struct near__local *local);

/* fork(), see rcu.c */
int near__readers_lock_patiently(int patience_ms);
void near__readers_unlock(void);
void near__readers_abandon(void);

static inline void near__reader_add(struct near__reader *reader, enum near__count what, uint64_t n)
{
    /* relaxed load and store: only the owner writes, so no locked instruction is needed */
    uint64_t now = atomic_load_explicit(&reader->count[what], memory_order_relaxed);
    atomic_store_explicit(&reader->count[what], now + n, memory_order_relaxed);
}

/* One hit more. */
NEAR_INLINE void near__reader_add_hit(struct near__reader *reader)
{
#ifdef NEAR_X86_ASSEMBLER
    /* As near__reader_add, in one instruction, which gcc does not make of two atomic ones; it is not locked. */
    __asm__ volatile("incq %0" : "+m"(reader->count[NEAR_COUNT_HITS]) : : "cc");
#else
    near__reader_add(reader, NEAR_COUNT_HITS, 1);
#endif
}

/* The count of hits is ahead by its phase, which stands above it: one word, so that it is read and changed with the
 * count.  The hit path need not know: adding one leaves the phase alone, and so does the remainder by NEAR_TIMED_OF. */
#define NEAR_PHASE_SHIFT 54
_Static_assert((UINT64_C(1) << NEAR_PHASE_SHIFT) % NEAR_TIMED_OF == 0 && NEAR_TIMED_OF <= 1 << (64 - NEAR_PHASE_SHIFT),
               "see above");

static inline uint64_t near__reader_counted(const struct near__reader *reader, enum near__count what)
{
    uint64_t word = atomic_load_explicit(&reader->count[what], memory_order_relaxed); /* relaxed: statistics */
    if (what != NEAR_COUNT_HITS)
        return word;
    return (word & ((UINT64_C(1) << NEAR_PHASE_SHIFT) - 1)) - (word >> NEAR_PHASE_SHIFT);
}
/* The next hit goes the long way. */
static inline int near__reader_is_due(const struct near__reader *reader)
{
    return near__brief_divides(&reader->count[NEAR_COUNT_HITS], NEAR_TIMED_OF);
}
/* The hit just counted was one of those. */
static inline int near__reader_was_due(const struct near__reader *reader)
{
    /* relaxed: our own */
    return atomic_load_explicit(&reader->count[NEAR_COUNT_HITS], memory_order_relaxed) % NEAR_TIMED_OF == 1;
}
/* After such a hit: the next is the one after so many others, 0 … NEAR_TIMED_OF - 1. */
static inline void near__reader_put_off(struct near__reader *reader, uint32_t others)
{
    uint64_t hits = near__reader_counted(reader, NEAR_COUNT_HITS), phase = (0 - (hits + others)) % NEAR_TIMED_OF;
    /* relaxed: only the owner writes */
    atomic_store_explicit(&reader->count[NEAR_COUNT_HITS], phase << NEAR_PHASE_SHIFT | (hits + phase),
                          memory_order_relaxed);
}
/* How many hits, or writes, come before the next that is timed. */
static inline uint32_t near__reader_untimed(struct near__reader *reader)
{
    return NEAR_TIMED_OF - 1 - near__random_below(&reader->random, NEAR_TIMED_EARLIER);
}
/* Is this write to be timed? */
static inline int near__reader_times_write(struct near__reader *reader)
{
    if (near__likely(reader->quick_writes)) {
        reader->quick_writes--;
        return 0;
    }
    reader->quick_writes = near__reader_untimed(reader);
    return 1;
}

#endif
