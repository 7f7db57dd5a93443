/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The keeper: one thread a tier that frees, sweeps and resizes.  Reads and removals never wait for it.  A write without
 * a remote tier that finds no room waits for what it frees, for a bounded time (near__local_await_room).  It sleeps on
 * a futex, which is woken without a lock.  While it is stopped fills go on until what piles up reaches the ceiling of
 * the budget; only if it was stopped with a lock of the arena (arena.c) in hand may they wait until it goes on. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "local/rcu.h"
#include "local/tables.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clamp.h"
#include "base/thread.h"

/* between two rounds when something is retired, kept or perishable, or the entries are still becoming more */
#define BUSY_MS 100
#define IDLE_MS 1000 /* otherwise */
/* A whole pass of the sweep in about ten seconds, but at most this many buckets a round: at 100 ns an entry a few
 * milliseconds, so a few per cent of one processor however large the tier. */
#define SWEEP_ROUNDS 100
#define SWEEP_MIN 256
#define SWEEP_MAX 8192
#define SWEEP_STEP 64 /* buckets in one section */
/* Evicting most of what there is keeps a processor busy for a second a million entries.  Where every processor has a
 * reader, that is a third of two; nobody waits for it, so half of the time is enough.  (Resting three times as long
 * changes nothing where threads fill: they wake it for the memory that they have retired.) */
#define WORK_NS (2 * NEAR_NS_PER_MS)

/* ---------------------------------------------------------------- sweeping */

/* Stamps that are old enough to be mistaken for young ones one day.  That of the queue comes along earlier: then the
 * use of what nobody has used still seems to lie before it, and that of what somebody has, behind it. */
static void pull_along(const struct near__local *local, struct near__entry *entry, uint16_t tick)
{
    uint32_t queued = local->queues ? near__queue_of(entry) : 0;
    if (queued & NEAR_QUEUED && near__stamp_age(near__queue_stamp(queued), tick) > UINT16_MAX / 4)
        near__queue_change(entry, queued, near__queue_restamped(queued, (uint16_t)(tick - UINT16_MAX / 4)));
    if (near__entry_age(entry, tick) > UINT16_MAX / 2) /* relaxed: see entry.h (a) */
        atomic_store_explicit(&entry->access, (uint16_t)(tick - UINT16_MAX / 2), memory_order_relaxed);
}

/* By the exact clock, for what the sweep has left counts as alive for weeks. */
static struct near__moment moment_of_sweep(struct near__local *local)
{
    struct near__moment moment = near__tier_moment(local);
    moment.now_ms = near__tier_ms(local, near__now(local->clock));
    return moment;
}

/* The moment of the sweep may be long ago: the tier has been cleared since, and the entry come after that.  Then it is
 * of a later era, not of an earlier one.  Whoever published it had read that era, and we have seen what he published:
 * the era that we read now is his or a later one. */
static int is_dead_now(struct near__local *local, const struct near__entry *entry)
{
    const struct near__moment now = moment_of_sweep(local);
    return near__entry_is_dead(entry, &now);
}

static void sweep_slot(struct near__local *local, _Atomic(uint64_t) *slot, const struct near__moment *moment)
{
    uint64_t word = near__step_load(slot);
    if (!near__word_is_visible(word))
        return;
    struct near__entry *entry = near__word_entry(word);
    if (!near__entry_is_dead(entry, moment)) {
        pull_along(local, entry, moment->tick);
    } else if (is_dead_now(local, entry)) {
        enum near__why why = near__entry_is_expired(entry, moment) ? NEAR_WHY_EXPIRED : NEAR_WHY_INVALIDATED;
        near__index_unlink(&local->index, slot, word, why);
    } /* otherwise it is younger than the moment, and its stamp is not to be judged by that */
}

/* The one table: views are changed by this thread, and not now. */
static const struct near__span *table_of(const struct near__local *local)
{
    return &near__index_tables(&local->index)->span[0];
}

static void sweep_buckets(struct near__local *local, uint64_t count)
{
    struct near__keeper *keeper = &local->keeper;
    const struct near__span *span = table_of(local);
    struct near__moment moment = moment_of_sweep(local);
    near__rcu_enter();
    for (; count; count--) {
        struct near__bucket *bucket = &span->bucket[keeper->swept];
        for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++)
            sweep_slot(local, &bucket->slot[i], &moment);
        keeper->swept = keeper->swept + 1 < span->count ? keeper->swept + 1 : 0;
    }
    near__rcu_leave();
}

/* Where most of a tier is dead, what is retired is soon all that fits below the ceiling, and fills are refused until it
 * is free.  So it is freed bit by bit. */
static void sweep_some(struct near__local *local, uint64_t left)
{
    int64_t freed_at = near__live_bytes(local);
    while (left && !near__keeper_is_stopped(local)) {
        uint64_t step = left < SWEEP_STEP ? left : SWEEP_STEP;
        sweep_buckets(local, step);
        left -= step;
        if (near__is_to_free(local, freed_at)) {
            freed_at = near__live_bytes(local);
            near__reclaim(local, 0);
        }
    }
}

void near__sweep(struct near__local *local, int whole)
{
    uint64_t buckets = table_of(local)->count,
             left = near__clamp_unsigned(buckets / SWEEP_ROUNDS, SWEEP_MIN, SWEEP_MAX);
    if (whole || left > buckets)
        left = buckets;
    sweep_some(local, left);
}

/* When it has not come by for so long that what has ended may seem not to have: all of that goes first.  Once a second:
 * it may be woken thousands of times, and every hit reads the line that is written. */
static void settle_expiries(struct near__local *local)
{
    int64_t now_ms = near__tier_ms(local, near__now(local->clock)), since_ms = now_ms - near__tier_known_ms(local);
    if (since_ms < IDLE_MS)
        return;
    if (since_ms >= NEAR_EXPIRY_SURE_MS)
        near__sweep(local, 1);
    if (!near__keeper_is_stopped(local))
        atomic_store_explicit(&local->expiries_known_ms, now_ms, memory_order_release); /* see near__tier_known_ms */
}

/* After near__local_clear and near__local_forsake: what is of an earlier era goes, so that the era's number can be used
 * again. */
static void sweep_eras(struct near__local *local)
{
    /* acquire: pairs with near__local_clear */
    uint32_t era = atomic_load_explicit(&local->era, memory_order_acquire);
    uint32_t swept = atomic_load_explicit(&local->era_swept, memory_order_relaxed);   /* relaxed: ours */
    uint64_t forsaken = atomic_load_explicit(&local->forsaken, memory_order_acquire); /* as above */
    if (era == swept && forsaken == local->keeper.forsaken_swept)
        return;
    near__rcu_synchronize(); /* installs that began in an earlier era have ended */
    near__sweep(local, 1);
    near__tables_cleared(local);
    local->keeper.forsaken_swept = forsaken;
    if (!near__keeper_is_stopped(local))
        /* release: pairs with near__local_clear, which then may use the number again */
        atomic_store_explicit(&local->era_swept, era, memory_order_release);
}

/* A stamp that is 60 turnovers old is taken for a young one, so none may become so old.  Where all that there is might
 * have been evicted since the last look nothing is older than that: hands have been everywhere six times.  Otherwise
 * all entries are looked at, and what is older than 32 turnovers becomes 32; so another 20 turnovers are left for the
 * keeper to come to it.  A stretch a round, so that nothing else waits for long, one round after the other. */
static void sweep_ages(struct near__local *local, int whole)
{
    struct near__keeper *keeper = &local->keeper;
    uint32_t tick = atomic_load_explicit(&local->tick, memory_order_relaxed); /* relaxed: an approximate age */
    /* with an idle limit what is old goes */
    if (!local->idle_unit_ns && tick - keeper->ages_swept >= NEAR_TICKS_TO_SWEEP) {
        uint64_t evicted = near__tier_ended(local, NEAR_WHY_EVICTED);
        keeper->ages_left =
            evicted - keeper->ages_evicted < (uint64_t)near__gauge(&local->budget.entries) ? table_of(local)->count : 0;
        keeper->ages_swept = tick;
        keeper->ages_evicted = evicted;
    }
    uint64_t stretch = whole || keeper->ages_left < SWEEP_MAX ? keeper->ages_left : SWEEP_MAX;
    if (!stretch)
        return;
    int64_t used_ns = near__keeper_used_ns();
    sweep_some(local, stretch);
    near__keeper_pace(local, &used_ns);
    keeper->ages_left -= stretch;
    if (keeper->ages_left)
        near__keeper_wake(local);
}

/* The clock of last use goes on while there are reads and no fills.  Each tick costs a store in every entry
 * that is read; and of what was last read within 18 hours the order is known (sweep_ages makes all that is older the
 * same). */
#define QUIET_NS (2 * NEAR_NS_PER_S)

static void pass_time(struct near__local *local)
{
    struct near__keeper *keeper = &local->keeper;
    int64_t now_ns = near__now(local->clock);
    if (local->idle_unit_ns || now_ns - keeper->quiet_since_ns < QUIET_NS)
        return;
    uint64_t reads = near__tier_reads(local), fills = near__tier_fills(local);
    if (fills == keeper->quiet_fills && reads != keeper->quiet_reads)
        atomic_fetch_add_explicit(&local->tick, 1, memory_order_relaxed); /* relaxed: an approximate age */
    keeper->quiet_fills = fills;
    keeper->quiet_reads = reads;
    keeper->quiet_since_ns = now_ns;
}

/* ---------------------------------------------------------------- the counter */

#define COUNTER_NS (60 * NEAR_NS_PER_S)

static void ask_for_counter(struct near__local *local)
{
    int64_t now_ns = near__now(local->clock);
    if (!local->by_counter || now_ns < local->keeper.counter_due_ns)
        return;
    local->keeper.counter_due_ns = now_ns + COUNTER_NS;
    int trusted = near__ticks_are_trusted();
    if (trusted >= 0)
        /* relaxed: the next moment that is told comes after it */
        atomic_store_explicit(&local->counter_is_left, !trusted, memory_order_relaxed);
}

/* ---------------------------------------------------------------- the size */

#define SIZE_NS NEAR_NS_PER_S /* between two looks */

/* The budget that was looked at is replaced by a swap, so that one that was set by hand meanwhile stays.
 * near__tables_adapt follows. */
static void change_size(struct near__local *local, int64_t size, uint64_t wanted)
{
    int64_t max = wanted < INT64_MAX / 2 ? (int64_t)wanted : INT64_MAX / 2;
    /* relaxed: a limit that is looked at anew each time */
    if (max == size || !atomic_compare_exchange_strong_explicit(&local->budget.max_wanted, &size, max,
                                                                memory_order_relaxed, memory_order_relaxed))
        return;
    near__autosize_done(&local->autosize, (uint64_t)size, (uint64_t)max);
    near__log(local->log, NEAR_LOG_INFO, "local", "automatic size: %lld bytes, before %lld", (long long)max,
              (long long)size);
}

/* Without a curve nobody can have asked for it. */
static void tend_size(struct near__local *local)
{
    int64_t now_ns = near__now(local->clock), size = near__gauge(&local->budget.max_wanted),
            fixed = near__gauge(&local->budget.fixed);
    if (!local->curve || now_ns < local->keeper.size_due_ns)
        return;
    local->keeper.size_due_ns = now_ns + SIZE_NS;
    struct near__pressure_level pressure;
    struct near__advice advice;
    struct near__auto_view view = {
        .now_ns = now_ns,
        .size = (uint64_t)size,
        .fixed = (uint64_t)fixed,
        .used = (uint64_t)(near__gauge(&local->budget.used) - near__gauge(&local->budget.retired))};
    if (near__autosize_wants_advice(&local->autosize, now_ns)) {
        uint64_t least, most;
        near__autosize_limits(&local->autosize, view.fixed, &least, &most);
        view.advice = near__tap_advise_size(local, least, most, &advice) ? &advice : NULL;
    }
    if (local->gives_back && near__autosize_is_on(&local->autosize)) {
        near__pressure_look(&local->keeper.pressure, now_ns, &pressure);
        view.pressure = &pressure;
    }
    change_size(local, size, near__autosize_decide(&local->autosize, &view));
}

#define LARGE_LEFT (INT64_C(1) << 20)

/* A budget that was lowered, or a mix with fewer large entries, has emptied pages all over the heap.  Looking for them
 * takes a walk over it, so the next one waits until twenty times as long has passed. */
static void give_back(struct near__local *local)
{
    struct near__keeper *keeper = &local->keeper;
    int64_t max = near__gauge(&local->budget.max_wanted), begun_ns = near__clock_kernel(CLOCK_MONOTONIC);
    int64_t large = near__gauge(&local->large_bytes);
    keeper->lowered |= max < keeper->max_seen || large < keeper->large_seen - keeper->large_seen / 4 - LARGE_LEFT;
    if (large > keeper->large_seen || keeper->lowered)
        keeper->large_seen = large;
    keeper->max_seen = max;
    /* what is still to be freed comes first */
    if (!keeper->lowered || begun_ns < keeper->give_back_due_ns || near__reclaim_is_due(local))
        return;
    near__alloc_give_back(local->alloc);
    keeper->lowered = 0;
    int64_t ended_ns = near__clock_kernel(CLOCK_MONOTONIC);
    keeper->give_back_due_ns = ended_ns + 20 * (ended_ns - begun_ns);
}

/* ---------------------------------------------------------------- a round */

/* The round itself has, as a rule: another grace period for what others have retired meanwhile is begun when they ask
 * for it. */
static int has_retired(const struct near__local *local)
{
    /* relaxed: our own, or found the next time */
    return local->manual || atomic_load_explicit(&local->limbo, memory_order_relaxed);
}

/* quiet: nobody has asked for this round. */
static void tend(struct near__local *local, int quiet, int sweep, int whole)
{
    if (quiet)
        near__reclaim(local, 1);
    else
        near__reclaim_some(local);
    if (local->idle_unit_ns)
        near__ages_settle(local, near__now(local->clock), 1);
    settle_expiries(local);
    ask_for_counter(local);
    sweep_eras(local);
    if (sweep && atomic_load_explicit(&local->perishable, memory_order_relaxed)) { /* relaxed: seen soon enough */
        near__tier_tell_time(local);
        near__sweep(local, whole);
    }
    pass_time(local);
    sweep_ages(local, whole);
    tend_size(local);
    near__queues_adapt(local);
    near__tables_adapt(local);
    if (has_retired(local))
        near__reclaim(local, 0);
    near__blocks_tend(local, quiet);
    give_back(local);
}

void near__local_keep(struct near__local *local)
{
    (void)near__tap_learn_all(local);
    tend(local, 1, 1, 1);
}

/* ---------------------------------------------------------------- the thread */

void near__keeper_wake(struct near__local *local)
{
    _Atomic(uint32_t) *wake = &local->keeper.wake;
    /* relaxed: a hint that is looked at again in IDLE_MS at the latest */
    if (atomic_load_explicit(wake, memory_order_relaxed) == 0 &&
        atomic_exchange_explicit(wake, 1, memory_order_relaxed) == 0)
        syscall(SYS_futex, wake, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* seq_cst, all: whoever waits announces itself, then looks at the number; whoever frees raises the number, then looks
 * for the announcement.  So at least one sees the other. */
void near__keeper_tell_freed(struct near__local *local)
{
    atomic_fetch_add_explicit(&local->keeper.freed, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&local->keeper.awaited, memory_order_seq_cst))
        syscall(SYS_futex, &local->keeper.freed, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

void near__local_await_room(struct near__local *local, int patience_ms)
{
    struct timespec patience = {patience_ms / 1000, patience_ms % 1000 * 1000000};
    atomic_fetch_add_explicit(&local->keeper.awaited, 1, memory_order_seq_cst);
    uint32_t freed = atomic_load_explicit(&local->keeper.freed, memory_order_seq_cst);
    /* relaxed: what is retired or wanted after this look has a keeper that is awake */
    if (local->keeper.runs && near__budget_awaits_keeper(local)) {
        near__keeper_wake(local);
        syscall(SYS_futex, &local->keeper.freed, FUTEX_WAIT_PRIVATE, freed, &patience, NULL, 0);
    }
    atomic_fetch_sub_explicit(&local->keeper.awaited, 1, memory_order_seq_cst);
}

static int is_busy(const struct near__local *local)
{
    /* relaxed, all: decides only how long to sleep */
    return local->keeper.kept || local->taps || !local->keeper.calm || near__reclaim_is_due(local) ||
           atomic_load_explicit(&local->perishable, memory_order_relaxed);
}

/* 1: the time is over, 0: woken. */
static int doze(struct near__local *local, int64_t ns)
{
    struct timespec patience = {ns / NEAR_NS_PER_S, ns % NEAR_NS_PER_S};
    /* rest has taken the 1 that came with it, or it comes */
    if (near__keeper_is_stopped(local))
        return 0;
    syscall(SYS_futex, &local->keeper.wake, FUTEX_WAIT_PRIVATE, 0, &patience, NULL, 0);
    /* acquire: pairs with near__keeper_stop; what else there is to do is found by looking, with its own order */
    return atomic_exchange_explicit(&local->keeper.wake, 0, memory_order_acquire) == 0;
}

/* As doze, for as long as there is nothing to do but to look at rings, which takes a sixteenth of the time at most. */
#define LOOK_PART 16
static int doze_until_due(struct near__local *local)
{
    int64_t left_ns = (is_busy(local) ? BUSY_MS : IDLE_MS) * NEAR_NS_PER_MS;
    while (left_ns > 0) {
        int64_t used_ns = near__keeper_used_ns();
        int64_t wish_ns = near__tap_learn_all(local) * NEAR_NS_PER_MS,
                least_ns = (near__keeper_used_ns() - used_ns) * LOOK_PART;
        int64_t ns = wish_ns > least_ns ? wish_ns : least_ns, begun_ns = near__clock_kernel(CLOCK_MONOTONIC);
        if (!wish_ns || ns + least_ns > left_ns) /* or the first look of the next round would come too early */
            ns = left_ns;
        if (!doze(local, ns))
            return 0;
        /* where every processor is busy it was longer than it should be */
        left_ns -= near__clock_kernel(CLOCK_MONOTONIC) - begun_ns;
    }
    return 1;
}

/* For so long, or until somebody wants something: as a rule that memory is freed. */
static void rest(struct near__local *local, int64_t ns)
{
    struct timespec patience = {ns / NEAR_NS_PER_S, ns % NEAR_NS_PER_S};
    syscall(SYS_futex, &local->keeper.wake, FUTEX_WAIT_PRIVATE, 0, &patience, NULL, 0);
    /* acquire: as in doze; what else there is to do comes after what we are in the middle of */
    if (atomic_exchange_explicit(&local->keeper.wake, 0, memory_order_acquire))
        near__reclaim_some(local);
}

int64_t near__keeper_used_ns(void)
{
    return near__clock_kernel(CLOCK_THREAD_CPUTIME_ID);
}

void near__keeper_pace(struct near__local *local, int64_t *used_ns)
{
    int64_t worked_ns = near__keeper_used_ns() - *used_ns;
    if (worked_ns < WORK_NS)
        return;
    if (!local->manual)
        rest(local, worked_ns);
    *used_ns = near__keeper_used_ns();
}

static void *run(void *arg)
{
    struct near__local *local = arg;
    int timed_out = 0;
    int64_t sweep_due_ns = near__now(local->clock);
    near__thread_name("near-keep");
    near__rcu_register();
    while (!near__keeper_is_stopped(local)) { /* ordered by doze */
        int64_t now_ns = near__now(local->clock);
        int sweep = timed_out || now_ns >= sweep_due_ns;
        if (sweep)
            sweep_due_ns = now_ns + BUSY_MS * NEAR_NS_PER_MS;
        tend(local, timed_out, sweep, 0);
        timed_out = doze_until_due(local);
    }
    return NULL;
}

int near__keeper_start(struct near__local *local)
{
    if (near__thread_start(&local->keeper.thread, run, local) != 0)
        return NEAR_ERR_SYSTEM;
    local->keeper.runs = 1;
    return NEAR_OK;
}

void near__keeper_stop(struct near__local *local)
{
    if (!local->keeper.runs)
        return;
    /* Not near__keeper_wake: the 1 that it finds may be an earlier one, which the keeper is just taking without having
     * seen `stop`, and the end would wait until it looks again by itself.  relaxed, then release: pairs with doze and
     * rest, whichever takes this 1 sees `stop` */
    atomic_store_explicit(&local->keeper.stop, 1, memory_order_relaxed);
    atomic_exchange_explicit(&local->keeper.wake, 1, memory_order_release);
    syscall(SYS_futex, &local->keeper.wake, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    pthread_join(local->keeper.thread, NULL);
    local->keeper.runs = 0;
}
