/* SPDX-License-Identifier: BSD-3-Clause
 * The local tier: the only room that knows liburcu.
 *
 * Positions.  The remote tier numbers its writes: every reply and every message carries the number reached, its
 * *position* (47 bits after near__local rebasing; 0: unknown).  An entry carries the position at which its value was
 * known to be current.  Everything about order follows from comparing positions:
 *   - floor[stripe of key]: an entry may become visible only if its position is at or above it.  Raised by messages,
 *     by replies that are returned but not kept, and by every install before its entry becomes visible; so an entry
 *     that leaves raises nothing, and forgetting it does not forget how far its key had come (I2).
 *   - generation[stripe]: raised where an invalidation has no position; a fill compares it with its ticket.
 *   - gate.watermark: entries below it are suspect (messages may have been missed) and are not served.
 *   - gate.proved_ns: send time of the last freshness proof; a hit is served while it is younger than the bound.
 */
#ifndef NEAR_LOCAL_LOCAL_H
#define NEAR_LOCAL_LOCAL_H
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include "nearcache.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/histogram.h"
#include "base/log.h"

struct near__local;
struct near__reader; /* one thread's pins, counters and hands in one tier */

#define NEAR_POSITION_MAX ((UINT64_C(1) << 47) - 1)
#define NEAR_PROVED_NEVER INT64_MIN        /* gate: nothing is served */
#define NEAR_PROVED_ALWAYS (INT64_MAX / 2) /* gate: no remote tier, everything is served */

/* What a hit must pass.  One cache line, read by every hit.  Order on a hit (R47): proved_ns or fresh_ticks, then the
 * entry, then watermark, then the clock.  Who writes:
 *   (g) near__local_prove, _withdraw and _set_bound, one at a time: under the lock of the coherence room (proof.h), or
 *       while the cache is being opened.  Without a remote tier nothing of it changes after that but bound_ns, which
 *       any thread may set (near_set_bound)
 *   (k) the keeper
 *   (m) any thread, never lowering it (near__step_raise) */
struct near__gate {
    _Alignas(64) _Atomic(int64_t) proved_ns; /* (g) */
    _Atomic(uint64_t) watermark;             /* (m) a position, as heads of entries have it: see tier.h */
    _Atomic(int64_t) bound_ns;               /* (g) the cache's bound */
    /* (g) What follows from proved_ns and bound_ns, so that a hit is cheap: until when, in ticks of the processor's
     * counter, reads with the cache's bound may be served without a look at the kernel's clock; and a time, in
     * milliseconds since the tier's opening, that is not before that. */
    _Atomic(int64_t) fresh_ticks;
    _Atomic(int64_t) fresh_ms;
    /* (k) The same two of the time alone, where a proof holds for ever and something may expire: until time_ticks the
     * time is before time_ms. */
    _Atomic(int64_t) time_ticks;
    _Atomic(int64_t) time_ms;
};

struct near__local_config {
    const struct near__alloc *alloc;
    const struct near__clock *clock;
    const struct near__log *log;
    uint64_t bytes_max, entries_max; /* entries_max 0: only bytes count */
    uint64_t value_max;              /* larger values are refused (not kept); 0: bytes_max / 8 */
    uint32_t ttl_max_ms, idle_ms;    /* 0: none */
    uint32_t policy;                 /* a near_policy */
    uint32_t curve;                  /* 1: near__local_advise knows something */
    uint32_t hot_keys;               /* that near__local_hot_keys tells, at most */
    uint32_t auto_hit_permille;      /* the automatic size: see near_options */
    uint64_t auto_bytes_min, auto_bytes_max;
    uint32_t auto_pressure;
    const char *pressure_root; /* tests: where the kernel's files are; NULL: "" */
    /* 1: others write, too, without raising positions: see "Foreign writers" in install.c */
    int foreign;
    uint64_t seed; /* of the hash; 0: random */
    int manual;    /* tests: no keeper thread; near__local_keep does its work */
};

/* Threads: open and close by one thread.  close: no other call may be under way or come later. */
int near__local_open(const struct near__local_config *config, struct near__local **ret);
void near__local_close(struct near__local *local);
struct near__gate *near__local_gate(struct near__local *local);
/* A proof of freshness that counts from proved_ns (or NEAR_PROVED_ALWAYS): everything published before has been
 * applied. */
void near__local_prove(struct near__local *local, int64_t proved_ns);
/* The last proof counts no more; proved_ns: what reads that may be served stale go by. */
void near__local_withdraw(struct near__local *local, int64_t proved_ns);
/* Are hits decided by the processor's counter, or need none?  Otherwise each reads the kernel's clock. */
int near__local_is_by_counter(const struct near__local *local);
/* The bound of reads that have none of their own. */
void near__local_set_bound(struct near__local *local, int64_t bound_ns);
/* A number that no other tier of this process ever has; never 0. */
uint64_t near__local_serial(const struct near__local *local);

/* The calling thread's reader, created and registered at its first use; NULL without memory.
 * Every other call that takes a reader takes the calling thread's own. */
struct near__reader *near__local_reader(struct near__local *local);
/* The same if it exists already, else NULL: never blocks, never allocates; the one to use inside a section. */
struct near__reader *near__local_reader_known(struct near__local *local);

enum near__local_result {
    NEAR_LOCAL_HIT = 0,
    NEAR_LOCAL_ABSENT,   /* not there */
    NEAR_LOCAL_EXPIRED,  /* there, but its time is over */
    NEAR_LOCAL_SUSPECT,  /* there, but below the watermark */
    NEAR_LOCAL_UNPROVEN, /* there, but the proof is older than the bound */
    NEAR_LOCAL_MOVED,    /* by near__local_look alone: between two tables of the index, or not there */
    NEAR_LOCAL_UNHELD,   /* likewise: there, but all pins are in use and there is no memory for a copy */
    NEAR_LOCAL_STALE_HIT /* as UNPROVEN, and stale_ns allowed serving it */
};
static inline int near__local_is_served(enum near__local_result result)
{
    return result == NEAR_LOCAL_HIT || result == NEAR_LOCAL_STALE_HIT;
}

struct near__view {
    const void *data;
    size_t size;
    int64_t expires_ns; /* NEAR_NEVER: no expiry */
    int64_t now_ns;     /* if there is one: what the clock said after the entry had been found */
    void *pin;          /* opaque; NULL: nothing to unpin */
    uint64_t position;  /* of near__local_look alone: the value's; 0: it was being replaced */
};

/* Finds a key and pins its value.  bound_ns: this read's staleness bound (the cache's or tighter); stale_ns: second
 * bound, 0: none.  On HIT and STALE_HIT *view is set and must be unpinned by the same thread.  Lock-free, bounded,
 * no system call, no allocation unless the reader's 64 pins are all in use (then the value is copied). */
enum near__local_result near__local_get(struct near__local *local, struct near__reader *reader, const void *key,
                                        size_t key_size, int64_t bound_ns, int64_t stale_ns, struct near__view *view);
/* The same for the library's own purposes: any proof will do, nothing is counted.  ABSENT is certain to whoever has the
 * stripe of the key (near__local_number). */
enum near__local_result near__local_look(struct near__local *local, struct near__reader *reader, const void *key,
                                         size_t key_size, struct near__view *view);
void near__local_unpin(struct near__reader *reader, struct near__view *view);
/* Copies without pinning: up to capacity bytes; view->size is the whole size, view->data is not set. */
enum near__local_result near__local_copy(struct near__local *local, struct near__reader *reader, const void *key,
                                         size_t key_size, int64_t bound_ns, int64_t stale_ns, void *buffer,
                                         size_t capacity, struct near__view *view);
/* near__local_get for many keys, with prefetching. results[i] as returned by near__local_get. */
struct near__local_key {
    const void *key;
    size_t size;
};
void near__local_get_many(struct near__local *local, struct near__reader *reader, const struct near__local_key *keys,
                          size_t count, int64_t bound_ns, int64_t stale_ns, enum near__local_result *results,
                          struct near__view *views);

/* Moves a pin to a record that belongs to no thread; near__local_disown may be called by any thread.
 * NULL without memory (the pin stays as it was). */
struct near__owned;
struct near__owned *near__local_own(struct near__local *local, struct near__reader *reader, struct near__view *view);
void near__local_disown(struct near__local *local, struct near__owned *owned);
/* Pins and owned values outstanding (exact only while no reader is active). */
size_t near__local_pinned(struct near__local *local);

/* A ticket is taken before a command is sent that may lead to an install: what order the key had reached.
 * Two tickets of one key are equal when nothing about its order was learnt between them. */
struct near__ticket {
    uint64_t floor;
    uint64_t watermark; /* the gate's */
    uint64_t hash;      /* of the key, so that it is hashed once */
    uint32_t generation;
    uint32_t stripe;
    uint64_t tags; /* of a load that looks at tags: how many invalidations of tags it knows of; otherwise 0 */
    /* of a load without a remote tier: position of the value that there was when it began; otherwise, and if that is
     * not known, 0.  Not compared: see near__local_write_if */
    uint64_t value;
};
struct near__ticket near__local_ticket(struct near__local *local, const void *key, size_t key_size);
static inline int near__ticket_equal(struct near__ticket a, struct near__ticket b)
{
    return a.floor == b.floor && a.generation == b.generation && a.watermark == b.watermark && a.tags == b.tags;
}

/* Offers a value that the remote tier had at position (0: unknown, then as near__local_invalidate with position 0).
 * ticket: of that key.  ttl_ms -1: no expiry; sent_ns: when the command was sent (expiry counts from there; NEAR_NEVER:
 * now).  Keeps it if nothing newer is known, evicting if need be; in every case, when it returns, no entry for the key
 * is visible whose position is below `position`, and none will become so. A copy is kept for at most config.ttl_max_ms;
 * near__view.expires_ns of a hit tells the local copy's end. Returns 1 when kept, 0 when not (order, space, size,
 * memory). */
int near__local_install(struct near__local *local, struct near__reader *reader, struct near__ticket ticket,
                        const void *key, size_t key_size, const void *value, size_t value_size, uint64_t position,
                        int64_t ttl_ms, int64_t sent_ns);

/* A cache that has no remote tier numbers its writes itself.  The floor of a stripe is even, or odd while somebody has
 * the stripe.
 *
 * Takes the stripe: the next number, which is odd, and nobody else gets one until near__local_numbered, by the same
 * thread.  0: somebody has it.  Under the one number may be written and removed what there is to; used: the floor stays
 * above it.  Otherwise nothing has been done, and tickets from before are good again. */
uint64_t near__local_number(struct near__local *local, uint32_t stripe);
void near__local_numbered(struct near__local *local, uint32_t stripe, uint64_t number, int used);

/* As near__local_install, for who has numbered the write and tries again when it is refused: that is not counted.  Who
 * gives up says so, and it counts as one value for which there was no room. */
int near__local_try(struct near__local *local, struct near__reader *reader, struct near__ticket ticket, const void *key,
                    size_t key_size, const void *value, size_t value_size, uint64_t position, int64_t ttl_ms,
                    int64_t sent_ns);
void near__local_given_up(struct near__reader *reader);

/* Writes a value (not a large one), evicting if need be, as near__local_install with the stripe's next number; ttl_ms
 * counts from now.  The entry is made ready before the stripe is taken.  0: somebody has the stripe, or it was refused,
 * which is not counted; then nothing has changed, or the older value has gone.  Inside one read section of the
 * caller's. */
int near__local_put(struct near__local *local, struct near__reader *reader, const void *key, size_t key_size,
                    const void *value, size_t value_size, int64_t ttl_ms);

/* About: an entry with a value of that size would be refused now, but only because of what waits to be freed. */
int near__local_has_no_room(struct near__local *local, size_t value_size);
/* Waits until the keeper has freed something, at most patience_ms; returns at once when nothing waits to be freed.  For
 * caches whose local tier is all there is.  Not inside a section. */
void near__local_await_room(struct near__local *local, int patience_ms);

/* As near__local_install, for a value that nobody has asked for: it is kept only in the place of an older entry of the
 * key, whose age in the order of eviction it takes over.  Returns 0 when it was not kept; then the caller invalidates
 * at its position. */
int near__local_renew(struct near__local *local, struct near__reader *reader, struct near__ticket ticket,
                      const void *key, size_t key_size, const void *value, size_t value_size, uint64_t position,
                      int64_t ttl_ms, int64_t sent_ns);

/* A reply at `position` was seen and is not kept: entries of the key below it go, and none below it comes (I4, R54).
 * 0: unknown, then every entry goes and every fill under way fails (I5). */
void near__local_observe(struct near__local *local, const void *key, size_t key_size, uint64_t position);

enum near__local_cause { NEAR_CAUSE_MESSAGE, NEAR_CAUSE_WRITE, NEAR_CAUSE_DROP };
/* A write at `position` is known (0: position unknown: every entry goes and every fill under way fails).
 * Returns 1 when an entry went, 0 when none was there, -1 when the entry there is as new as the write and stays. */
int near__local_invalidate(struct near__local *local, const void *key, size_t key_size, uint64_t position,
                           enum near__local_cause cause);

/* Everything at positions below `position` is suspect from now on (never lowers it), and forsaken, too. */
void near__local_raise_watermark(struct near__local *local, uint64_t position);

/* As near__local_raise_watermark, but what is suspect stays for a while, for near__local_suspects to find, unless room
 * is needed. */
void near__local_suspect(struct near__local *local, uint64_t position);
/* Whatever is suspect goes, in the background. */
void near__local_forsake(struct near__local *local);

/* A walk over what is suspect: begin, then near__local_suspects until `over` is set.  Belongs to one thread at a
 * time. */
struct near__suspects {
    uint64_t at;
    unsigned class; /* of age */
    uint16_t tick;
    int over;
};
void near__local_suspects_begin(struct near__local *local, struct near__suspects *walk);
/* Calls fn for suspect entries, by and large the last read first, until it has been called for `enough` (it may be
 * called for up to 256 more) or has looked long enough; returns how often it was called.  fn copies what it wants and
 * does nothing else: it is inside a section.  What is still suspect later in the walk may come again. */
typedef void (*near__local_suspect_fn)(void *arg, const void *key, size_t key_size, const void *value,
                                       size_t value_size);
size_t near__local_suspects(struct near__local *local, struct near__suspects *walk, size_t enough,
                            near__local_suspect_fn fn, void *arg);
/* Before a write of a cache without a remote tier: what is there and has been idle for so long that its age is not
 * known goes now, and not after the write. */
void near__local_settle(struct near__local *local);
/* Everything goes, in the background; nothing present at the call is served after it; fills under way fail. */
void near__local_clear(struct near__local *local);

/* NEAR_LIMIT_KEPT: as it is.  bytes_max is then what somebody wants by hand: see autosize.c. */
#define NEAR_LIMIT_KEPT UINT64_MAX
void near__local_resize(struct near__local *local, uint64_t bytes_max, uint64_t entries_max);
/* near_set_auto_size, arguments checked.  NEAR_OK, NEAR_ERR_UNSUPPORTED (there is no curve), NEAR_ERR_OPTION (the least
 * is above the most where that is the size by hand). */
int near__local_set_auto(struct near__local *local, uint32_t hit_permille, uint64_t bytes_min, uint64_t bytes_max);

/* Counts memory of another room that belongs to the local budget and stays until the tier is closed. */
void near__local_charge(struct near__local *local, int64_t bytes);

/* Calls fn for the keys of at most `most` entries, the last read first, as far as access stamps tell.  Copies keys, not
 * values; may take long, holds nobody up.  NEAR_OK or NEAR_ERR_NOMEM. */
typedef void (*near__local_hottest_fn)(void *arg, const void *key, size_t key_size);
int near__local_hottest(struct near__local *local, size_t most, near__local_hottest_fn fn, void *arg);
/* The hit ratio that LRU would have with so many entries and so many bytes, from what was seen so far.
 * NEAR_OK, NEAR_MISS (no reads yet), NEAR_ERR_UNSUPPORTED (config.curve is not set), NEAR_ERR_TIMEOUT (somebody who was
 * learning has been stopped). */
int near__local_advise(struct near__local *local, uint64_t entries, uint64_t bytes, double *ret_hit_ratio);
/* The keys that are read most, hottest first: near_hot_keys.
 * NEAR_OK, NEAR_ERR_UNSUPPORTED (config.hot_keys is 0), NEAR_ERR_TIMEOUT (as above). */
int near__local_hot_keys(struct near__local *local, size_t most, near_hot_key *ret_keys, size_t *ret_count);

/* Fills the local tier's and the reads' fields of stats (but drops, which are calls), and of the writes those counted
 * here (not the others). */
void near__local_stats(struct near__local *local, near_stats *stats);

/* Counters that the cache room adds to (per-thread, no shared writes).  A get counts its outcome alone; a read that
 * does not look here counts GETS and BYPASSED.  WRITES are those that the cache room does not count itself. */
enum near__count {
    NEAR_COUNT_GETS,
    NEAR_COUNT_HITS,
    NEAR_COUNT_STALE,
    NEAR_COUNT_ABSENT,
    NEAR_COUNT_EXPIRED,
    NEAR_COUNT_UNPROVEN,
    NEAR_COUNT_SUSPECT,
    NEAR_COUNT_BYPASSED,
    NEAR_COUNT_FILLS,
    NEAR_COUNT_REFUSED_ORDER,
    NEAR_COUNT_REFUSED_SPACE,
    NEAR_COUNT_WRITES,
    NEAR_COUNT_MAX
};
/* get, copy and install count by themselves */
void near__local_count(struct near__reader *reader, enum near__count what);

/* The cache room times about one hit in 1000, with hot_keys one in 32: kept in a ring of the thread's own (the last
 * 512), merged when asked.  The hit has been counted. */
void near__local_time_hit(struct near__reader *reader, int64_t ns);
void near__local_hit_times(struct near__local *local, struct near__histogram *into);

/* Blocks until every read section that was under way has ended (near_close; never on a hit path). */
void near__local_synchronize(void);
/* A read section around more than one call (near_close's handshake with callers). Nests. */
void near__local_section_enter(void);
void near__local_section_leave(void);

/* One round of the keeper's work (reclaim, expire, migrate); only with config.manual, from one thread. */
void near__local_keep(struct near__local *local);

/* fork(): the cache room installs the handlers and calls these.  prepare returns 0 when liburcu was found busy and the
 * child may therefore not use it; child is called before the first open in a child. */
int near__local_fork_prepare(void);
void near__local_fork_release(void); /* in parent and child, after a prepare that returned 1 */
void near__local_fork_child(void);

#endif
