/* SPDX-License-Identifier: BSD-3-Clause
 * The board: memory shared by the demo and its servers, and the rules by which every read is judged.
 *
 *   records   keys and bodies, read-only after the start.  The record's number is its rank of popularity.
 *   watched   the records that are updated.  Each has one writer, which numbers its values 1, 2, 3, …, and notes here
 *             what it is about to write (sent), what was acknowledged (acked), and when (ring).
 *   seen      for each process and watched record, the newest version that any of its threads has read or written.
 *   actors    counters and histograms, one set for each thread that reads or writes
 *
 * Every value carries its record, its version and a checksum.  A read that begins at t in process p and returns
 * version v is judged so:
 *
 *   damaged     the checksum is wrong, or it is another record's value, or a version that nobody has sent
 *   missing     a record is gone (nothing is ever deleted)
 *   backwards   v is below seen[p] as it was before t: some thread of p had already read or written a newer one
 *   own write   the same, when the newer one was written by p itself and acknowledged before t
 *   stale       a version above v was acknowledged earlier than t - bound
 *
 * All times are CLOCK_MONOTONIC of one machine, so that they compare across processes.  An acknowledgement is noted a
 * moment after its time, so a read of a version whose successor is on its way is judged later, when that is noted
 * (struct board_judge).  A write of unknown fate leaves both versions possible; its record is not written again until a
 * read shows that it took effect, because it may take effect at any time.
 *
 * Every word that two processes share is atomic; those that order the judgement are sequentially consistent. */
#ifndef DEMO_BOARD_H
#define DEMO_BOARD_H
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BOARD_PROCESSES = 16,
    BOARD_READERS = 4,                /* reading threads in a process */
    BOARD_ACTORS = BOARD_READERS + 2, /* and its writing thread, and the client outside that talks to it */
    BOARD_WATCHED = 512,
    BOARD_RING = 128, /* acknowledgements remembered; writers do not go round it faster than in 4 bounds */
    BOARD_NOTES_OF_KIND = 4
};

/* ---------------------------------------------------------------- histograms */

enum { HISTOGRAM_SUB = 32, HISTOGRAM_ROWS = 38 }; /* up to 2^42 ns; error at most 1/32 */

struct board_histogram {
    _Atomic uint64_t bucket[HISTOGRAM_ROWS * HISTOGRAM_SUB];
    _Atomic uint64_t max;
};
struct board_quantiles {
    uint64_t count, p50, p99, p999, max;
};
void histogram_add(struct board_histogram *h, int64_t ns); /* by one thread */
/* Adds h to the sum of others. */
void histogram_merge(uint64_t sum[HISTOGRAM_ROWS * HISTOGRAM_SUB], const struct board_histogram *h);
struct board_quantiles histogram_quantiles(const uint64_t sum[HISTOGRAM_ROWS * HISTOGRAM_SUB]);

/* ---------------------------------------------------------------- the board */

enum board_phase { PHASE_WAIT, PHASE_RUN, PHASE_SETTLE, PHASE_SWEEP, PHASE_END };

enum violation {
    VIOLATION_DAMAGED,
    VIOLATION_MISSING,
    VIOLATION_BACKWARDS,
    VIOLATION_OWN_WRITE,
    VIOLATION_STALE,
    VIOLATION_LOST,     /* an acknowledged write is not there */
    VIOLATION_FINAL,    /* long after the last write, a process still returns an older value */
    VIOLATION_LATE,     /* a call took much longer than its deadline */
    VIOLATION_BUDGET,   /* the local tier used more memory than promised */
    VIOLATION_RECOVERY, /* a process did not come back after a fault, or ended badly */
    VIOLATION_COUNT
};
enum { BOARD_NOTES = VIOLATION_COUNT * BOARD_NOTES_OF_KIND };
extern const char *const violation_names[VIOLATION_COUNT];

/* Numbers of the library's own statistics, copied here by each process. */
enum gauge {
    GAUGE_GETS,
    GAUGE_HITS,
    GAUGE_ENTRIES,
    GAUGE_BYTES,
    GAUGE_BYTES_LIMIT,
    GAUGE_EVICTIONS,
    GAUGE_INVALIDATIONS,
    GAUGE_MESSAGES,
    GAUGE_GAPS,
    GAUGE_PROOFS,
    GAUGE_PROVEN,
    GAUGE_DISCONNECTIONS,
    GAUGE_SUSPICIONS,
    GAUGE_REGRESSIONS,
    GAUGE_CONNECTIONS_LOST,
    GAUGE_TIMEOUTS,
    GAUGE_WRITES_UNKNOWN,
    GAUGE_DELAY_COUNT,
    GAUGE_DELAY_P50,
    GAUGE_DELAY_P99,
    GAUGE_DELAY_MAX,
    GAUGE_UPDATES, /* how often all this was copied */
    GAUGE_COUNT
};

struct board_record {
    uint32_t key_offset, key_size, body_offset, body_size; /* offsets into the text */
    int32_t watched;                                       /* its place in watched, or -1 */
    uint32_t alias;                                        /* Zipf's law by the alias method: take this one … */
    float keep;                                            /* … unless a random number in 0…1 is below this */
};

struct board_ack {
    _Atomic uint64_t version; /* 0: being changed, or empty */
    _Atomic int64_t ns;
};

struct board_watched {
    uint32_t record;
    uint32_t owner;     /* the process that writes it */
    uint32_t by_socket; /* 1: written by the client outside, through that process */
    _Atomic uint64_t sent, acked;
    _Atomic uint64_t open; /* a version of unknown fate, or 0 */
    struct board_ack ring[BOARD_RING];
};

struct board_actor {
    _Atomic uint64_t reads, local, shared, remote, errors, judged_late;
    _Atomic uint64_t writes, writes_failed, writes_unknown;
    _Atomic int64_t call_max_ns;
    struct board_histogram hit, miss, write;
    struct board_histogram outdated; /* how long a returned value had been outdated when its read began */
};

struct board_note {
    _Atomic uint32_t ready;
    uint32_t kind, process;
    int32_t record;
    uint64_t version, newer;
    int64_t lag_ns;
};

struct board_process {
    _Atomic uint64_t gauges[GAUGE_COUNT];
    _Atomic uint32_t freezes; /* odd while the demo has stopped the process */
    _Atomic uint32_t swept;   /* 1: its last sweep is done */
    struct board_actor actors[BOARD_ACTORS];
    _Atomic uint64_t seen[BOARD_WATCHED];
};

struct board {
    uint64_t size;
    uint32_t processes, readers, record_count, watched_count;
    uint32_t updates_per_s; /* of one process */
    uint32_t duty_permille; /* the share of its time that a reading thread works */
    uint64_t seed;
    int64_t bound_ns, timeout_ns;
    _Atomic uint32_t phase;
    _Atomic uint64_t violations[VIOLATION_COUNT];
    _Atomic uint32_t note_count;
    struct board_note notes[BOARD_NOTES];
    struct board_process process[BOARD_PROCESSES];
    struct board_watched watched[BOARD_WATCHED];
    uint64_t text_offset, text_size;
    struct board_record records[];
};

/* Makes the board in a new file; record_count records and text_size bytes of text follow.  NULL: see errno. */
struct board *board_create(const char *path, uint32_t record_count, size_t text_size);
struct board *board_open(const char *path);
void board_close(struct board *board);
/* Chooses what is watched and prepares Zipf's law; the records and numbers have been filled in. */
int board_prepare(struct board *board, double exponent);

int64_t board_now(void);
const char *board_text(const struct board *board, uint32_t offset);
void board_violation(struct board *board, enum violation kind, uint32_t process, int32_t record, uint64_t version,
                     uint64_t newer, int64_t lag_ns);
uint64_t board_violations(const struct board *board);
/* One of the notes as a sentence. */
void board_note_text(const struct board *board, const struct board_note *note, char *text, size_t capacity);
/* Adds to a counter that has one writer. */
static inline void board_count(_Atomic uint64_t *counter, uint64_t by)
{
    /* relaxed: a statistic */
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by, memory_order_relaxed);
}

/* ---------------------------------------------------------------- random numbers */

struct board_random {
    uint64_t state;
};
void random_seed(struct board_random *r, uint64_t seed);
uint64_t random_next(struct board_random *r);
uint32_t random_below(struct board_random *r, uint32_t limit);
uint32_t random_record(struct board_random *r, const struct board *board); /* by Zipf's law */

/* ---------------------------------------------------------------- values */

size_t value_size(const struct board *board, uint32_t record);
/* Writes the value of a record's version; buffer has value_size bytes. */
void value_write(const struct board *board, uint32_t record, uint64_t version, char *buffer);
/* The version that data carries, or 0 when it is no value of this record. */
uint64_t value_version(const struct board *board, uint32_t record, const void *data, size_t size);

/* ---------------------------------------------------------------- writing and judging */

/* The next version of a watched record, noted as sent; 0: not now (open, or too fast for the ring). */
uint64_t write_begin(struct board *board, uint32_t watched);
void write_acked(struct board *board, uint32_t watched, uint64_t version, int64_t now_ns);
/* The write's fate is unknown: leave the record alone until a read settles it. */
void write_unknown(struct board *board, uint32_t watched, uint64_t version);
/* A read of Redis itself returned version; settles an open write if it shows it. */
void write_settle(struct board *board, uint32_t watched, uint64_t version);

/* One thread's judgement: what it must still look at. */
struct board_judge {
    struct board *board;
    uint32_t process;
    struct board_actor *actor;
    struct {
        uint64_t version;
        int64_t begin_ns;
    } later[BOARD_WATCHED][2]; /* the last reads of versions whose successors were under way */
};

struct board_read {
    uint32_t record;
    uint64_t seen, own; /* versions that this read may not go below */
    int64_t begin_ns;
};
void judge_init(struct board_judge *judge, struct board *board, uint32_t process, uint32_t actor);
void judge_begin(struct board_judge *judge, uint32_t record, struct board_read *ret);
/* Judges a value; returns its version, 0 when damaged. */
uint64_t judge_end(struct board_judge *judge, const struct board_read *read, const void *data, size_t size);
/* Judges all that was put off and can be decided now. */
void judge_later(struct board_judge *judge);

#endif
