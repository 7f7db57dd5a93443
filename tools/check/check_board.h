/* SPDX-License-Identifier: BSD-3-Clause
 * The board: memory that nearcache-check shares with its worker processes, and the rules by which every read is judged.
 *
 *   slot      a key as readers and writers choose it: few hot, many cold.  Its name in Redis is k<slot>.<generation>.
 *   key       one generation of a slot: how far its versions have come.  The two newest generations of a slot are kept
 *            and read.
 *   ring      for each key, its last writes: when each began, when it was acknowledged, who wrote it
 *   process   what each process has seen of each key, what its writing threads are at, its statistics
 *   notes     violations, with the part of the history that shows them
 *
 * Versions of a key are numbered 1, 2, 3, … in the order in which Redis must have them:
 *
 *   RECORD    written by near_set and near_cas, now and then removed by near_del (such a version is a removal,
 *            record_removes),
 *             by all processes in turn: a lock in the slot lets one write at a time, so that the order is known.
 *   EXPIRING  the same, with a time to live and no removals; it may be absent at any time.
 *   COUNTER   near_incr by all at once; Redis itself numbers the versions.
 *   LOADED    read through (near_get_or_load, near_mget_or_load): the source is the board, which has every version that
 *            was begun;
 *             a writer begins a version there and then has everybody forget the key (near_del, near_mdel).  A write
 *             whose second part fails is not acknowledged and nothing more: its version is in the source.
 *   TAGGED    the same, forgotten by near_invalidate_tag; read by calls with NEAR_LOAD_TAGS alone.
 *
 * A read that begins at t in process p and gets version v (a miss: the newest removal that is possible) is judged so:
 *
 *   damaged     not a value of this key, or its checksum is wrong, or a version that nobody has begun to write
 *   phantom     a version whose write was reported as not done
 *   backwards   some thread of p had read or written a newer version before t; own write: p itself had written it
 *   lost        it came from Redis (or must have: a copy or a miss of a call that looks nowhere else), and a newer
 *              version was
 *               acknowledged before t
 *   stale       a newer version was acknowledged before t - bound (the cache's, the call's tighter one, or none:
 *               NEAR_REQUIRE_FRESH)
 *   too early   a newer version was written with NEAR_WRITE_BARRIER, and that call had returned NEAR_OK before t
 *   expired     its time to live had ended before t
 *
 * An acknowledgement is noted a moment after its time, perhaps long after if its process is stopped; so a read of a
 * version whose successor is under way is judged again when that is noted (struct check_later).
 *
 * A write of unknown fate (an open interval) may take effect at any time: its key is not written again until a read of
 * Redis shows it, or else, after a second, the slot goes on with a new generation.  Counters need no such care: an INCR
 * of unknown fate is just one more that may have happened.
 *
 * When the checker itself loses data (FLUSHALL, an empty restart, another server, a failover) it first marks every key
 * as frozen: what a read gets from then on is judged for damage alone, until a bound after the loss; from then on it
 * must be exactly what has survived in Redis.  Writing goes on in new generations.  Keys that had a write under way
 * when the loss happened, or one of unknown fate, may be either: they are judged at the end alone.
 *
 * What a loader brought without Redis's knowledge (it was away) is handed out and kept nowhere, so a later read of
 * Redis may be older: reads that a load answered are judged as all others, but not remembered as seen.  That Redis has
 * nothing of such a key is no answer of its source, and is not judged.  After a loss of data such keys are only read in
 * their new generation.
 *
 * All times are CLOCK_MONOTONIC of one machine.  Memory does not grow: rings are not overtaken by writers in less than
 * two bounds.  Every word that two processes share is atomic; those that order the judgement are sequentially
 * consistent. */
#ifndef CHECK_BOARD_H
#define CHECK_BOARD_H
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/histogram.h"

enum {
    CHECK_PROCESSES = 16,
    CHECK_READERS = 8, /* threads of a process */
    CHECK_WRITERS = 4,
    CHECK_HOT = 16, /* slots */
    CHECK_SLOTS = 1024,
    CHECK_RING_HOT = 1024,
    CHECK_RING_COLD = 64,
    CHECK_RING_TOTAL = 2 * (CHECK_HOT * CHECK_RING_HOT + (CHECK_SLOTS - CHECK_HOT) * CHECK_RING_COLD),
    CHECK_VALUE_MAX = 2048,
    CHECK_REMOVES = 61, /* one version of a RECORD in so many is a removal */
    CHECK_MANY = 4,     /* keys of one near_mset */
    CHECK_NOTES = 64,
    CHECK_NOTE_WRITES = 6,
    /* versions of a slot that may wait for an acknowledgement's note at once */
    CHECK_LATER = CHECK_PROCESSES * CHECK_WRITERS
};
#define CHECK_NS_PER_MS INT64_C(1000000)
#define CHECK_NS_PER_S INT64_C(1000000000)
#define CHECK_FAILED (-1) /* in place of an acknowledgement's time: the write was reported as not done */
#define CHECK_LOSING INT64_MAX
#define CHECK_NO_VALUE UINT64_MAX /* in place of what Redis has at the end: what nobody has written */

enum check_phase { CHECK_WAIT, CHECK_RUN, CHECK_SETTLE, CHECK_SWEEP, CHECK_END };
enum check_kind { CHECK_RECORD, CHECK_EXPIRING, CHECK_COUNTER, CHECK_LOADED, CHECK_TAGGED };
static inline int kind_is_loaded(uint32_t kind)
{
    return kind == CHECK_LOADED || kind == CHECK_TAGGED;
}

enum check_violation {
    CHECK_DAMAGED,
    CHECK_PHANTOM,
    CHECK_BACKWARDS,
    CHECK_LOST,
    CHECK_STALE,
    CHECK_EXPIRED,
    CHECK_BARRIER,  /* behind a barrier, not what was written before it */
    CHECK_SURVIVOR, /* long after a loss of data, not what survived */
    CHECK_FINAL,    /* at the end, with everybody quiet, not what Redis has */
    CHECK_LATE,     /* a call took much longer than its deadline */
    CHECK_BUDGET,   /* the local tier is larger than promised */
    CHECK_RECOVERY, /* a process did not come back after the faults, or ended badly */
    CHECK_VIOLATIONS
};
/* Of a CHECK_RECOVERY: what there should be. */
enum check_missing {
    CHECK_MISSING_SERVER = 1,
    CHECK_MISSING_PROCESS = 2,
    CHECK_MISSING_UPDATES = 4,
    CHECK_MISSING_PROVEN = 8,
    CHECK_MISSING_PROOFS = 16,
    CHECK_MISSING_HITS = 32,
    CHECK_MISSING_SWEEP = 64
};
extern const char *const check_violation_names[CHECK_VIOLATIONS];

struct check_write {
    _Atomic uint64_t version; /* 0: empty or being changed */
    _Atomic int64_t begin_ns;
    _Atomic int64_t acked_ns; /* 0: not yet; CHECK_FAILED */
    _Atomic uint32_t writer;  /* process << 16 | thread, from 1 */
};

struct check_key {
    _Atomic uint64_t sent;     /* RECORD, EXPIRING: newest version begun; COUNTER: how many were begun */
    _Atomic uint64_t acked;    /* newest version acknowledged */
    _Atomic uint64_t barred;   /* newest version whose barrier is complete: nobody may read an older one any more */
    _Atomic uint64_t open;     /* a version of unknown fate, or 0; COUNTER: how many */
    _Atomic int64_t open_ns;   /* since when */
    _Atomic int64_t frozen_ns; /* 0; CHECK_LOSING; when the loss of data was complete */
    _Atomic int64_t survivor;  /* the version in Redis after the loss, 0: absent, -1: unknown */
    /* what Redis has before and after the sweep, plus one; 0: not known; CHECK_NO_VALUE */
    _Atomic uint64_t final[2];
};

struct check_slot {
    uint32_t kind, ring, ring_size;
    _Atomic uint32_t generation; /* changed by the checker alone, while nobody writes */
    _Atomic uint32_t oldest;     /* generations below it are gone: their memory serves a newer one */
    _Atomic uint32_t lock;       /* RECORD, EXPIRING: the process that writes, from 1 */
    _Atomic uint32_t retiring;   /* no new writes; a new generation begins when those under way have ended */
    struct check_key key[2];     /* of generation g: key[g & 1] */
};

struct check_note_write {
    uint64_t version;
    int64_t begin_ns, acked_ns;
    uint32_t writer;
};
struct check_note {
    _Atomic uint32_t ready;
    uint32_t kind, process, thread, slot, generation, source;
    int32_t status;
    uint64_t version, newer;
    int64_t begin_ns, end_ns, bound_ns, extra; /* extra: a duration or a number that belongs to the kind */
    uint64_t faults;                           /* on at that time, a bit each */
    uint32_t writes;
    struct check_note_write write[CHECK_NOTE_WRITES];
};

struct check_reader {
    /* copied: from where is not told */
    _Atomic uint64_t checked, local, shared, remote, copied, absent, errors, skipped, outdated;
    struct near__histogram staleness; /* of outdated reads: how long ago the newer version had been acknowledged */
};

struct check_writer {
    _Atomic uint32_t busy[CHECK_MANY]; /* the slots that it writes, from 1 */
    /* barriers: complete; unapplied: the deadline came first */
    _Atomic uint64_t writes, failed, unknown, barriers, unapplied;
};

enum check_gauge {
    CHECK_UPDATES,
    CHECK_PROVEN,
    CHECK_RECOVERIES,
    CHECK_HITS,
    CHECK_GETS,
    CHECK_SERVER_CHANGES,
    CHECK_REGRESSIONS,
    CHECK_SUSPICIONS,
    CHECK_GAPS,
    CHECK_DISCONNECTIONS,
    CHECK_PROOFS,
    CHECK_GAUGES
};

struct check_process {
    _Atomic uint32_t stops; /* odd while the checker has stopped the process or one of its threads */
    _Atomic uint32_t swept;
    _Atomic uint32_t started; /* how often */
    char uri[512];
    _Atomic uint64_t gauge[CHECK_GAUGES]; /* of the process that runs */
    _Atomic uint64_t total[CHECK_GAUGES]; /* of those that were killed */
    struct check_reader reader[CHECK_READERS];
    struct check_writer writer[CHECK_WRITERS];
    _Atomic uint64_t seen[CHECK_SLOTS][2];          /* generation << 40 | version */
    _Atomic uint64_t swept_version[CHECK_SLOTS][2]; /* plus one; 0: not read */
};

struct check_board {
    uint64_t size, seed;
    uint32_t processes, readers, writers, duty_permille, verbose;
    int64_t bound_ns, timeout_ns, started_ns;
    char prefix[128], option[1024]; /* options: name=value, one a line */
    _Atomic uint32_t phase;
    _Atomic uint32_t pause; /* nobody begins to write */
    _Atomic uint64_t faults_on;
    _Atomic uint64_t violations[CHECK_VIOLATIONS];
    _Atomic uint32_t note_count;
    struct check_note note[CHECK_NOTES];
    struct check_process process[CHECK_PROCESSES];
    struct check_slot slot[CHECK_SLOTS];
    struct check_write ring[CHECK_RING_TOTAL];
};

int64_t check_now(void);
/* Shared memory behind a descriptor that children inherit.  NULL: see errno. */
struct check_board *check_board_create(int *ret_fd);
struct check_board *check_board_open(int fd);
void check_board_free(struct check_board *board);
uint64_t check_violations(const struct check_board *board);
/* A note of a violation that is not about one read; slot CHECK_SLOTS: nor about a key.  extra: what belongs to the
 * kind, of a lost write or a final value its version. */
void check_complain(struct check_board *board, enum check_violation kind, uint32_t process, uint32_t slot,
                    uint32_t generation, int64_t extra);

/* Adds to a counter that has one writer. */
static inline void check_count(_Atomic uint64_t *counter, uint64_t by)
{
    /* relaxed: a statistic */
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by, memory_order_relaxed);
}

/* ---------------------------------------------------------------- keys and values */

enum { CHECK_NAME_MAX = 24 };
/* k<slot>.<generation>; returns its length. */
size_t check_name(char *name, uint32_t slot, uint32_t generation);
static inline int record_removes(uint64_t version)
{
    return version % CHECK_REMOVES == 0;
}
/* The time to live of an EXPIRING version. */
int64_t check_ttl_ms(uint32_t slot, uint64_t version);
/* By how much a counter is raised: its values show whose they are. */
static inline int64_t check_step(uint32_t slot)
{
    return 1000003 + 2 * (int64_t)slot;
}
/* Writes the value of a version and returns its size. */
size_t check_value(uint32_t slot, uint32_t generation, uint64_t version, char value[CHECK_VALUE_MAX]);
/* The version that data carries, or 0 when it is no value of this key. */
uint64_t check_version(const struct check_board *board, uint32_t slot, uint32_t generation, const void *data,
                       size_t size);

/* ---------------------------------------------------------------- writing */

struct check_key *check_key_of(struct check_board *board, uint32_t slot, uint32_t generation);
struct check_write *check_write_of(struct check_board *board, uint32_t slot, uint32_t generation, uint64_t version);
/* 0 when the ring would be overtaken. */
int check_ring_has_room(struct check_board *board, uint32_t slot, uint32_t generation, uint64_t version,
                        int64_t now_ns);
void check_begin(struct check_board *board, uint32_t slot, uint32_t generation, uint64_t version, uint32_t writer,
                 int64_t now_ns);
void check_acked(struct check_board *board, uint32_t slot, uint32_t generation, uint64_t version, int64_t now_ns);
/* A barrier behind the version is complete. */
void check_barred(struct check_board *board, uint32_t slot, uint32_t generation, uint64_t version);
/* The process has seen this version: none of its threads may read an older one. */
void check_seen(struct check_board *board, uint32_t process, uint32_t slot, uint32_t generation, uint64_t version);

/* ---------------------------------------------------------------- judging */

struct check_read {
    uint32_t slot, generation, source; /* NEAR_FROM_… */
    int status;
    uint64_t version;             /* 0: absent */
    uint64_t seen, acked, barred; /* as they were before it began */
    int64_t begin_ns, end_ns, bound_ns;
};

struct check_judge {
    struct check_board *board;
    uint32_t process, thread;
    struct check_reader *reader;
    uint32_t later_count[CHECK_SLOTS];
    struct check_read later[CHECK_SLOTS][CHECK_LATER]; /* the last reads of versions whose successors were under way */
};

/* Where a single read's answer came from.  What was told, if anything was (0: a miss, or a copy, does not tell): a call
 * that may neither look at the local tier nor join another's fetch has asked Redis. */
uint32_t check_source(uint32_t told, uint32_t call_flags);

void check_judge_begin(struct check_judge *judge, struct check_read *read, uint32_t slot, uint32_t generation);
/* Judges a read whose outcome has been filled in; data of a hit. */
void check_judge_end(struct check_judge *judge, struct check_read *read, const void *data, size_t size);
/* Judges what was put off and can be decided now. */
void check_judge_later(struct check_judge *judge);
/* At the end, with everybody quiet: what a process has of a key is what Redis had before or after.  0: that is not
 * known. */
int check_judge_final(struct check_board *board, uint32_t process, uint32_t slot, uint32_t generation);

#endif
