/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Write-behind: the queue of updates that the source is still to get.
 *
 *      put ──► journal ──► fresh ──► flying ──► stored, noted in the journal
 *              (if any)      ▲          │
 *                            │          ├──► failed: waits for its own time     one update was refused
 *                            └──────────┤                                       the source as a whole was away
 *                                       └──► dead letter                        after attempts_max, or rejected
 *
 * Coalescing: at most one update of a key waits; a newer one takes its place in the queue, and its number.  While a
 * key's update is flying a newer one waits behind it.  One thread flies one batch after another, so updates of one key
 * reach the source in order, and none is skipped but by a newer one.  When a flying update fails and a newer one waits,
 * the newer one replaces it.
 *
 * Exactly what is promised: an accepted update, or a newer one of its key, reaches the source at least once.  Twice is
 * possible (the store's answer was lost, or the process died before it noted it), so the store must be able to take an
 * update twice; `sequence` tells which of two is newer, also over restarts with a journal.
 *
 * The remote tier.  While an update waits its key must be there with the update's value, or a load, perhaps another
 * process's, would cache what the source still has.  So an update whose write to the remote tier failed, or which
 * removed the key there, or whose value came to its end there before, and every update that was replayed from the
 * journal, makes everybody forget its key once more after it was stored.  The same do those that are queued when the
 * key is removed for an earlier one's sake [f1], and those that are stored while it is on the list of what is to be
 * forgotten: the removal may have run already [f2].  A writer whose value has come to the remote tier after all that
 * ends it for what is queued [f3]: the value is there, and what was being loaded is refused.  So where a writer is at
 * the key when such an update has been stored, he is to forget it as he leaves, unless his value is there and nothing
 * was removed meanwhile [f4].  Otherwise the removals of a key that is always being written would go on for ever, each
 * of them for the sake of the last.
 *
 * The remote tier may lose keys, too (FLUSHALL, a restart, a failover), or somebody may clear it.  That is noticed by
 * the next proof of freshness.  Then all that is queued counts as removed [f1]; and what was stored since the last
 * proof that nothing had been lost, the recent ones, may have been lost before it was stored: their keys are forgotten
 * [f5].
 *
 * All this is about removals of this source, and losses that can be noticed.  A refresh of another process
 * (NEAR_LOAD_REFRESH, stale_ms, a refresh before the expiry) that has read the source before the update was stored
 * replaces the update's value with what it has read, and removes nothing.  Where others load keys so,
 * NEAR_SOURCE_INVALIDATE is for those who write them.
 *
 * The journal says of an update that it is stored only together with, and after, the note that its key is to be
 * forgotten; that one stands until it has been.  A key whose writer has not yet come back from the remote tier is noted
 * likewise, until he has: so whenever the process is killed, either the update comes again or its key is forgotten.
 *
 * A dead letter's key is forgotten at once, and again when the writer who is at it then has left the remote tier: he
 * may be the letter's own and put there what the source will never have.
 *
 * Waiting: `space` for those whom the bound stops (they make the thread hurry), `landed` for those who flush (what was
 * accepted, and left to writers, before they came; the list of what is to be forgotten has a number for that, too),
 * `gates_changed` for writers of the same key, `work` for the thread.  Everything is under `lock`, which is never held
 * while a callback runs; it is held while the journal is written (a few microseconds) or rewritten (bounded by what is
 * queued), not while the disk is waited for.
 *
 * Locks are taken in the order behind.lock, then the journal's or the forget list's. */
#include "load/behind.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/condition.h"
#include "base/thread.h"
#include "load/forget.h"
#include "load/journal.h"

#define HASH_NONFATAL_OOM 1
#define uthash_malloc(size) near__alloc(behind_alloc, size)
#define uthash_free(memory, size) near__free(behind_alloc, memory)
#define uthash_nonfatal_oom(element) (element)->in_table = 0
#include <uthash.h>
#include <utlist.h>

/* Recent ones take no more memory than this part of queue_bytes.  For more of them everything stands, or, where that
 * cannot be forgotten, the oldest of them are forgotten at once. */
#define RECENT_SHARE 4u
#define LOSSES_LOOK_NS (100 * NEAR_NS_PER_MS) /* as long as there are any */

/* The file is rewritten when it is so much larger than what it must hold; smaller ones are not worth it. */
#define JOURNAL_SLACK_FACTOR 4u
#define JOURNAL_SLACK_BYTES ((uint64_t)4 << 20)

enum place { FRESH, FAILED, FLYING, BEHIND }; /* BEHIND: waits behind the flying one of its key */

/* One for each key in the table, and perhaps a newer one behind it while it is flying.  The newer one's content moves
 * into the older one when that has landed: so nothing needs memory where nothing may fail. */
struct update {
    UT_hash_handle hh;
    struct update *next, *prev; /* in fresh or failed */
    struct update *newer;
    enum place place;
    int in_table;
    uint64_t sequence;
    uint64_t oldest;     /* number of the first update that this one stands for */
    int64_t accepted_ns; /* of that one */
    int64_t ready_ns;
    uint32_t operation, attempts;
    int forget_after; /* the remote tier is to forget the key once the source has it */
    int64_t until_ns; /* likewise if that is not before: the value there is over then; NEAR_NEVER: it has no end */
    unsigned char *value;
    size_t value_size, key_size;
    unsigned char key[];
};

/* Whether the key is to be forgotten when its writer leaves. */
enum owes {
    NOTHING,
    UNLESS_CLEAN, /* [f4] unless the remote tier has his value, and the key was not removed while he was at it */
    IN_ANY_CASE
};

struct near__behind_gate {
    UT_hash_handle hh;
    int in_table;
    uint64_t forget; /* under lock: the journal, if any, has the key as one to forget, by this number; 0: it has not */
    enum owes owes;  /* under lock */
    uint64_t since;  /* under lock: the number of what it has owed first */
    int removed;     /* under lock: it has been removed from the remote tier, perhaps when that had the value */
    int stored;      /* under lock: an update of the key has been, since its writer came */
    size_t key_size;
    unsigned char key[];
};

struct near__behind {
    struct near__behind_config config;
    struct near__forget *forget;
    struct near__journal *journal; /* NULL: none */
    pthread_t thread;
    int runs;
    pthread_mutex_t lock;
    pthread_cond_t work, space, landed, gates_changed;
    /* all under lock */
    struct update *table;                                            /* by key */
    struct update *fresh, *failed;                                   /* oldest first */
    struct update *recent;                                           /* stored, oldest first; ready_ns is when */
    struct update **flying;                                          /* changed by the thread alone */
    near_update *batch;                                              /* the thread's */
    size_t flying_count, fresh_count, count, bytes, flushers, crowd; /* crowd: who waits for room */
    uint64_t sequence;
    uint64_t losses; /* the last number of config.losses that was looked at */
    size_t recent_bytes;
    int64_t overflow_ns; /* when a recent one was last given up for want of room; 0: none that matters */
    int64_t away_until_ns, sync_at_ns;
    uint64_t synced_mark;
    int64_t mend_at_ns; /* not before then is the journal tried to be replaced again */
    uint32_t away_failures, mend_failures;
    int unnoted; /* what is stored could not be noted in the journal, and nobody has been told yet */
    int stop;
    struct near__behind_gate *gates;
};

static void count(_Atomic(uint64_t) *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed); /* a statistic */
}

static size_t weight(size_t key_size, size_t value_size)
{
    return sizeof(struct update) + key_size + value_size;
}

static void note_locked(struct near__behind *b, enum near__journal_type type, const void *key, size_t key_size,
                        uint64_t number)
{
    near__journal_add(
        b->journal, &(struct near__journal_record){.type = type, .sequence = number, .key = key, .key_size = key_size});
}

/* ---------------------------------------------------------------- updates */

static void update_free(const struct near__behind *b, struct update *u)
{
    if (!u)
        return;
    near__free(b->config.alloc, u->value);
    near__free(b->config.alloc, u);
}

static struct update *update_create(const struct near__behind *b, uint32_t operation, const void *key, size_t key_size,
                                    const void *value, size_t value_size)
{
    struct update *u = near__alloc_zero(b->config.alloc, sizeof *u + key_size);
    if (!u)
        return NULL;
    u->value = near__memdup(b->config.alloc, value, value_size);
    if (!u->value) {
        near__free(b->config.alloc, u);
        return NULL;
    }
    u->operation = operation;
    u->until_ns = NEAR_NEVER;
    u->value_size = value_size;
    u->key_size = key_size;
    if (key_size)
        memcpy(u->key, key, key_size);
    return u;
}

static struct update *find_locked(struct near__behind *b, const void *key, size_t key_size)
{
    struct update *u;
    HASH_FIND(hh, b->table, key_size ? key : "", key_size, u);
    return u;
}

static void append_locked(struct near__behind *b, struct update *u, enum place place)
{
    u->place = place;
    if (place == FRESH) {
        DL_APPEND(b->fresh, u);
        b->fresh_count++;
    } else {
        DL_APPEND(b->failed, u);
    }
}

static void take_out_locked(struct near__behind *b, struct update *u)
{
    if (u->place == FRESH) {
        DL_DELETE(b->fresh, u);
        b->fresh_count--;
    } else {
        DL_DELETE(b->failed, u);
    }
}

static int add_locked(struct near__behind *b, struct update *u)
{
    const struct near__alloc *behind_alloc = b->config.alloc;
    u->in_table = 1;
    HASH_ADD_KEYPTR(hh, b->table, u->key, u->key_size, u);
    if (!u->in_table)
        return NEAR_ERR_NOMEM;
    append_locked(b, u, FRESH);
    return NEAR_OK;
}

static void remove_locked(struct near__behind *b, struct update *u)
{
    const struct near__alloc *behind_alloc = b->config.alloc;
    HASH_DELETE(hh, b->table, u);
    update_free(b, u);
}

static void charge_locked(struct near__behind *b, const struct update *u, int sign)
{
    size_t bytes = weight(u->key_size, u->value_size);
    b->count += sign > 0 ? (size_t)1 : (size_t)-1;
    b->bytes = sign > 0 ? b->bytes + bytes : b->bytes - bytes;
}

/* The newer one's content moves into the older one; the newer one's memory goes.  What the older one stood for
 * stays. */
static void move_into(struct near__behind *b, struct update *old, struct update *new)
{
    near__free(b->config.alloc, old->value);
    old->operation = new->operation;
    old->sequence = new->sequence;
    old->value = new->value;
    old->value_size = new->value_size;
    old->forget_after |= new->forget_after;
    old->until_ns = new->until_ns;
    old->attempts = 0;
    new->value = NULL;
    update_free(b, new);
}

static void supersede_locked(struct near__behind *b, struct update *old, struct update *new)
{
    b->bytes = b->bytes - old->value_size + new->value_size;
    move_into(b, old, new);
    count(&b->config.counters->coalesced, 1);
}

/* ---------------------------------------------------------------- journal */

static void journal_add(struct near__behind *b, const struct update *u, enum near__journal_type type)
{
    int has_value = type == NEAR_RECORD_SET;
    near__journal_add(b->journal, &(struct near__journal_record){.type = type,
                                                                 .sequence = u->sequence,
                                                                 .key = u->key,
                                                                 .key_size = u->key_size,
                                                                 .value = u->value,
                                                                 .value_size = has_value ? u->value_size : 0});
}

static enum near__journal_type type_of(const struct update *u)
{
    return u->operation == NEAR_UPDATE_SET ? NEAR_RECORD_SET : NEAR_RECORD_DEL;
}

static void note_to_forget(void *arg, const void *key, size_t key_size, uint64_t number)
{
    note_locked(arg, key ? NEAR_RECORD_FORGET : NEAR_RECORD_FORGET_ALL, key, key_size, number);
}

/* Older ones first: of a key the later record counts. */
static void rewrite_locked(struct near__behind *b)
{
    if (near__journal_rewrite_begin(b->journal) != NEAR_OK)
        return;
    /* The last number, so that they rise over restarts with nothing queued, and a wall clock that was set back, too.
     * Before all updates it is about none of them, whatever its key. */
    near__journal_add(b->journal, &(struct near__journal_record){.type = NEAR_RECORD_DONE, .sequence = b->sequence});
    for (const struct update *u = b->table; u; u = u->hh.next) {
        journal_add(b, u, type_of(u));
        if (u->newer)
            journal_add(b, u->newer, type_of(u->newer));
    }
    for (const struct near__behind_gate *gate = b->gates; gate; gate = gate->hh.next)
        if (gate->forget)
            note_to_forget(b, gate->key, gate->key_size, gate->forget);
    near__forget_each(b->forget, note_to_forget, b);
    (void)near__journal_rewrite_end(b->journal); /* the old file stays; why is among the troubles */
}

/* Tells the log what has gone wrong under the lock, which is let go for it: a log function may ask for statistics. */
static void tell_locked(struct near__behind *b)
{
    int error = 0, unnoted = b->unnoted;
    unsigned troubles = b->journal ? near__journal_troubles(b->journal, &error) : 0;
    const char *path = b->config.options->journal;
    b->unnoted = 0;
    if (!troubles && !unnoted)
        return;
    pthread_mutex_unlock(&b->lock);
    errno = error;
    if (troubles & NEAR_TROUBLE_WRITING)
        near__log(b->config.log, NEAR_LOG_ERROR, "load", "journal %s: cannot write: %m", path);
    errno = error;
    if (troubles & NEAR_TROUBLE_REPLACING)
        near__log(b->config.log, NEAR_LOG_ERROR, "load", "journal %s: cannot be rewritten: %m", path);
    if (unnoted)
        near__log(b->config.log, NEAR_LOG_WARNING, "load",
                  "what is stored could not be noted; it will be stored again");
    pthread_mutex_lock(&b->lock);
}

/* With NEAR_JOURNAL_EVERY_SECOND: the thread has put everything on the disk, and does not look again by itself. */
static int is_synced_locked(const struct near__behind *b)
{
    return b->journal && b->config.options->journal_sync == NEAR_JOURNAL_EVERY_SECOND &&
           near__journal_mark(b->journal) == b->synced_mark;
}

/* Writes notes of others than the thread, which is to see to it that they get on the disk, too. */
static void write_notes_locked(struct near__behind *b)
{
    int was_synced = is_synced_locked(b);
    (void)near__journal_commit(b->journal); /* failing, something is forgotten once too often */
    if (was_synced)
        pthread_cond_signal(&b->work);
}

static int is_too_large(const struct near__behind *b)
{
    /* both count a struct for each, which is more than a record's header */
    uint64_t needed = (uint64_t)b->bytes + near__forget_bytes(b->forget);
    return near__journal_file_bytes(b->journal) > JOURNAL_SLACK_BYTES + JOURNAL_SLACK_FACTOR * needed;
}

/* A journal that has grown, whose disk has failed, or which is of an older version, gets a new file with all that is
 * queued and all that is to be forgotten, as soon as the disk takes it. */
static void renew_journal_locked(struct near__behind *b)
{
    const near_source_options *o = b->config.options;
    if (!near__journal_is_broken(b->journal) && !is_too_large(b))
        return;
    int64_t now_ns = near__now(b->config.clock);
    if (now_ns < b->mend_at_ns)
        return;
    rewrite_locked(b);
    if (near__journal_is_broken(b->journal) || is_too_large(b))
        b->mend_at_ns = now_ns + near__backoff_ns(o->retry_min_ms, o->retry_max_ms, b->mend_failures++);
    else
        b->mend_failures = 0;
}

static int replay_update(struct near__behind *b, const struct near__journal_record *r)
{
    uint32_t operation = r->type == NEAR_RECORD_SET ? NEAR_UPDATE_SET : NEAR_UPDATE_DEL;
    struct update *u = update_create(b, operation, r->key, r->key_size, r->value, r->value_size);
    struct update *old = find_locked(b, r->key, r->key_size);
    if (!u)
        return NEAR_ERR_NOMEM;
    u->sequence = u->oldest = r->sequence;
    u->accepted_ns = near__now(b->config.clock);
    u->forget_after = 1;
    if (old && old->sequence < u->sequence) {
        supersede_locked(b, old, u);
        return NEAR_OK;
    }
    if (old || add_locked(b, u) != NEAR_OK) {
        update_free(b, u);
        return old ? NEAR_OK : NEAR_ERR_NOMEM;
    }
    charge_locked(b, u, 1);
    return NEAR_OK;
}

static void replay_done(struct near__behind *b, const struct near__journal_record *r)
{
    struct update *u = find_locked(b, r->key, r->key_size);
    if (!u || u->sequence > r->sequence)
        return;
    charge_locked(b, u, -1);
    take_out_locked(b, u);
    remove_locked(b, u);
}

static int replay(void *arg, const struct near__journal_record *r)
{
    struct near__behind *b = arg;
    if (r->sequence > b->sequence)
        b->sequence = r->sequence;
    switch (r->type) {
    case NEAR_RECORD_DONE:
        replay_done(b, r);
        break;
    case NEAR_RECORD_FORGET:
    case NEAR_RECORD_FORGET_ALL:
        near__forget_add(b->forget, r->type == NEAR_RECORD_FORGET ? r->key : NULL, r->key_size, r->sequence);
        break;
    case NEAR_RECORD_FORGOTTEN:
    case NEAR_RECORD_FORGOTTEN_ALL:
        near__forget_drop(b->forget, r->type == NEAR_RECORD_FORGOTTEN ? r->key : NULL, r->key_size, r->sequence);
        break;
    default:
        return replay_update(b, r);
    }
    return NEAR_OK;
}

/* ---------------------------------------------------------------- gates: one writer of a key */

static struct near__behind_gate *gate_locked(struct near__behind *b, const void *key, size_t key_size)
{
    struct near__behind_gate *gate;
    HASH_FIND(hh, b->gates, key_size ? key : "", key_size, gate);
    return gate;
}

int near__behind_enter(struct near__behind *b, const void *key, size_t key_size, int64_t deadline_ns,
                       struct near__behind_gate **ret)
{
    const struct near__alloc *behind_alloc = b->config.alloc;
    struct near__behind_gate *gate = near__alloc_zero(behind_alloc, sizeof *gate + key_size);
    int status = NEAR_OK;
    if (!gate)
        return NEAR_ERR_NOMEM;
    gate->key_size = key_size;
    if (key_size)
        memcpy(gate->key, key, key_size);
    pthread_mutex_lock(&b->lock);
    while (gate_locked(b, key, key_size)) {
        if (near__now(b->config.clock) >= deadline_ns) {
            status = NEAR_ERR_TIMEOUT;
            break;
        }
        near__condition_wait(b->config.clock, &b->gates_changed, &b->lock, deadline_ns);
    }
    if (status == NEAR_OK) {
        gate->in_table = 1;
        HASH_ADD_KEYPTR(hh, b->gates, gate->key, key_size, gate);
        status = gate->in_table ? NEAR_OK : NEAR_ERR_NOMEM;
    }
    pthread_mutex_unlock(&b->lock);
    if (status != NEAR_OK)
        near__free(behind_alloc, gate);
    *ret = gate;
    return status;
}

/* Whether what is queued for a key, flying or not, makes everybody forget it. */
static void set_forget_locked(struct update *u, int forget_after)
{
    u->forget_after = forget_after;
    if (u->newer)
        u->newer->forget_after = forget_after;
}

/* [f3]  A removal that is still under way, or to come, is seen by [f1] and [f2].  After one that was seen while the
 * writer was here, be it before his update was queued, what is queued is as it was; but for its end. */
static void keep_value_locked(struct near__behind *b, const struct near__behind_gate *gate, int64_t until_ns)
{
    struct update *u = find_locked(b, gate->key, gate->key_size);
    if (!u)
        return;
    if (!gate->removed)
        set_forget_locked(u, 0);
    u->until_ns = until_ns;
    if (u->newer)
        u->newer->until_ns = until_ns;
}

/* Until the writer leaves the journal has the key as one to forget. */
static void note_gate_locked(struct near__behind *b, struct near__behind_gate *gate)
{
    if (!b->journal)
        return;
    gate->forget = ++b->sequence;
    note_to_forget(b, gate->key, gate->key_size, gate->forget);
}

/* What the gate's journal note says is over, or is on the list under a number of its own.  The end of a note is that of
 * all before it, and so waits for the list; that may forget the key once too often after a restart. */
static void settle_gate_locked(struct near__behind *b, const struct near__behind_gate *gate, int is_clean)
{
    if (gate->owes == IN_ANY_CASE || (gate->owes == UNLESS_CLEAN && !is_clean)) {
        near__forget_add(b->forget, gate->key, gate->key_size, ++b->sequence);
    } else if (gate->forget && !near__forget_number(b->forget, gate->key, gate->key_size)) {
        /* the remote tier has what was written */
        note_locked(b, NEAR_RECORD_FORGOTTEN, gate->key, gate->key_size, gate->forget);
        write_notes_locked(b);
    }
}

/* What the remote tier has until then has come to its end by itself. */
static int is_over(const struct near__behind *b, int64_t until_ns)
{
    return until_ns != NEAR_NEVER && near__now(b->config.clock) >= until_ns;
}

/* All is settled before tell_locked lets the lock go: the next writer is not here yet, but is queued soon. */
void near__behind_leave(struct near__behind *b, struct near__behind_gate *gate, int64_t value_until_ns)
{
    const struct near__alloc *behind_alloc = b->config.alloc;
    pthread_mutex_lock(&b->lock);
    int over = is_over(b, value_until_ns);
    HASH_DELETE(hh, b->gates, gate);
    if (value_until_ns)
        keep_value_locked(b, gate, value_until_ns);
    if (value_until_ns && over && gate->stored && !gate->owes)
        gate->owes = UNLESS_CLEAN; /* the end may have come before the store, which did not know of it */
    settle_gate_locked(b, gate, value_until_ns && !gate->removed && !over);
    tell_locked(b);
    pthread_cond_broadcast(&b->gates_changed);
    pthread_cond_broadcast(&b->landed);
    pthread_mutex_unlock(&b->lock);
    near__free(behind_alloc, gate);
}

/* ---------------------------------------------------------------- put */

static int fits_locked(const struct near__behind *b, const struct update *old, const struct update *new)
{
    const near_source_options *o = b->config.options;
    if (old)
        return b->bytes - old->value_size + new->value_size <= o->queue_bytes || new->value_size <= old->value_size;
    return b->count < o->queue_max && b->bytes + weight(new->key_size, new->value_size) <= o->queue_bytes;
}

/* The update that one of this key would replace: what flies is not touched. */
static struct update *waiting_locked(struct near__behind *b, const void *key, size_t key_size)
{
    struct update *u = find_locked(b, key, key_size);
    return u && u->place == FLYING ? u->newer : u;
}

/* Waits for room; the waiting update of the key then, or NULL. */
static int wait_for_room_locked(struct near__behind *b, const struct update *u, int64_t deadline_ns,
                                struct update **ret_old)
{
    for (;;) {
        *ret_old = waiting_locked(b, u->key, u->key_size);
        if (fits_locked(b, *ret_old, u))
            return NEAR_OK;
        if (near__now(b->config.clock) >= deadline_ns)
            return NEAR_ERR_QUEUE_FULL;
        b->crowd++;
        pthread_cond_signal(&b->work);
        near__condition_wait(b->config.clock, &b->space, &b->lock, deadline_ns);
        b->crowd--;
    }
}

static int write_journal_locked(struct near__behind *b, const struct update *u)
{
    if (!b->journal)
        return NEAR_OK;
    journal_add(b, u, type_of(u));
    return near__journal_commit(b->journal);
}

/* The update has no predecessor that waits: it goes into the queue, or behind the one that flies.  What needs memory
 * comes before what cannot be taken back. */
static int accept_new_locked(struct near__behind *b, struct update *u)
{
    struct update *flying = find_locked(b, u->key, u->key_size);
    if (!flying && add_locked(b, u) != NEAR_OK)
        return NEAR_ERR_NOMEM;
    int status = write_journal_locked(b, u);
    if (status != NEAR_OK) {
        if (!flying) {
            const struct near__alloc *behind_alloc = b->config.alloc;
            take_out_locked(b, u);
            HASH_DELETE(hh, b->table, u);
        }
        return status;
    }
    if (flying) {
        u->place = BEHIND;
        flying->newer = u;
    }
    charge_locked(b, u, 1);
    return NEAR_OK;
}

static int accept_locked(struct near__behind *b, struct update *u, struct update *old)
{
    int was_synced = is_synced_locked(b);
    if (b->journal)
        renew_journal_locked(b);
    u->sequence = u->oldest = ++b->sequence;
    u->accepted_ns = near__now(b->config.clock);
    u->ready_ns = u->accepted_ns + (int64_t)b->config.options->delay_ms * NEAR_NS_PER_MS;
    int status = old ? write_journal_locked(b, u) : accept_new_locked(b, u);
    if (status != NEAR_OK)
        return status;
    count(&b->config.counters->updates, 1);
    if (old)
        supersede_locked(b, old, u);
    if (was_synced || b->fresh_count == 1 || b->fresh_count == b->config.options->batch_max)
        pthread_cond_signal(&b->work);
    return NEAR_OK;
}

int near__behind_put(struct near__behind *b, uint32_t operation, const void *key, size_t key_size, const void *value,
                     size_t value_size, int64_t deadline_ns)
{
    struct update *old;
    uint64_t mark = 0;
    if (weight(key_size, value_size) > b->config.options->queue_bytes)
        return NEAR_ERR_TOO_LARGE;
    struct update *u = update_create(b, operation, key, key_size, value, value_size);
    if (!u)
        return NEAR_ERR_NOMEM;
    u->forget_after = operation == NEAR_UPDATE_DEL || b->config.options->flags & NEAR_SOURCE_INVALIDATE;
    pthread_mutex_lock(&b->lock);
    int status = wait_for_room_locked(b, u, deadline_ns, &old);
    if (status == NEAR_OK)
        status = accept_locked(b, u, old);
    else
        count(&b->config.counters->refused, 1);
    if (status == NEAR_OK && b->journal)
        mark = near__journal_mark(b->journal);
    tell_locked(b);
    pthread_mutex_unlock(&b->lock);
    if (status != NEAR_OK) {
        update_free(b, u);
        return status;
    }
    if (mark && b->config.options->journal_sync == NEAR_JOURNAL_ALWAYS)
        status = near__journal_sync(b->journal, mark);
    return status;
}

uint64_t near__behind_sequence(struct near__behind *b)
{
    pthread_mutex_lock(&b->lock);
    uint64_t sequence = ++b->sequence;
    pthread_mutex_unlock(&b->lock);
    return sequence;
}

/* ---------------------------------------------------------------- forgetting */

/* The journal needs no note: it has the update, or what forget_after_locked noted when that was stored. */
void near__behind_forget(struct near__behind *b, const void *key, size_t key_size)
{
    pthread_mutex_lock(&b->lock);
    struct update *u = find_locked(b, key, key_size);
    struct near__behind_gate *gate = gate_locked(b, key, key_size);
    if (u)
        set_forget_locked(u, 1);
    if (gate) { /* from here on it is the list's */
        gate->forget = 0;
        gate->owes = NOTHING;
    }
    near__forget_add(b->forget, key_size ? key : "", key_size, ++b->sequence);
    pthread_mutex_unlock(&b->lock);
}

/* [f1] key NULL: of all of them.  A gate's note must then outlast that about everything; and in any case where its
 * writer may put what must not stay into the remote tier when this is over. */
static void removed_locked(struct near__behind *b, const void *key, size_t key_size)
{
    struct update *u = key ? find_locked(b, key, key_size) : b->table;
    struct near__behind_gate *gate = key ? gate_locked(b, key, key_size) : b->gates;
    for (; u; u = key ? NULL : u->hh.next)
        set_forget_locked(u, 1);
    for (; gate; gate = key ? NULL : gate->hh.next) {
        gate->removed = 1;
        if (gate->forget && (!key || gate->owes == IN_ANY_CASE))
            note_gate_locked(b, gate);
    }
}

/* Whoever adds a key does so under the lock, so here none is added. */
static int forgotten(void *arg, const void *key, size_t key_size, uint64_t number)
{
    struct near__behind *b = arg;
    pthread_mutex_lock(&b->lock);
    removed_locked(b, key, key_size);
    int is_off = near__forget_number(b->forget, key, key_size) == number;
    if (b->journal)
        note_locked(b, key ? NEAR_RECORD_FORGOTTEN : NEAR_RECORD_FORGOTTEN_ALL, key, key_size, number);
    near__forget_drop(b->forget, key, key_size, number); /* and with it the key */
    if (b->journal) {
        write_notes_locked(b);
        renew_journal_locked(b);
        tell_locked(b);
    }
    pthread_mutex_unlock(&b->lock);
    return is_off;
}

/* [f2]  By itself, or as one of all. */
static int is_listed_locked(struct near__behind *b, const void *key, size_t key_size)
{
    return near__forget_number(b->forget, key, key_size) || near__forget_number(b->forget, NULL, 0);
}

/* [f4]  A key that is on the list stays there: its removal may be under way, which its writer may not hear of while he
 * is at it, and its number must change. */
static int is_left_to_writer_locked(struct near__behind *b, const struct near__behind_gate *gate)
{
    return gate && gate->owes != IN_ANY_CASE && !is_listed_locked(b, gate->key, gate->key_size);
}

static void owe_locked(struct near__behind *b, struct near__behind_gate *gate, enum owes owes)
{
    if (!gate->owes)
        gate->since = ++b->sequence;
    gate->owes = owes;
}

static void list_locked(struct near__behind *b, const struct update *u)
{
    uint64_t number = ++b->sequence;
    if (b->journal)
        note_to_forget(b, u->key, u->key_size, number);
    near__forget_add(b->forget, u->key, u->key_size, number);
}

/* The source has got, or will never get, the update; that is not noted yet.  The gate's note comes last: the end of
 * what is on the list is not its end.  1: the key is on the list now. */
static int forget_after_locked(struct near__behind *b, const struct update *u)
{
    struct near__behind_gate *gate = gate_locked(b, u->key, u->key_size);
    int is_listed = 0;
    if (u->forget_after || is_over(b, u->until_ns) || is_listed_locked(b, u->key, u->key_size)) {
        is_listed = !is_left_to_writer_locked(b, gate);
        if (is_listed)
            list_locked(b, u);
        else
            owe_locked(b, gate, UNLESS_CLEAN);
    }
    if (gate)
        gate->stored = 1;
    if (gate && (!is_listed || gate->owes == IN_ANY_CASE))
        note_gate_locked(b, gate);
    return is_listed;
}

static void sooner(int64_t *wake_ns, int64_t at_ns)
{
    if (at_ns < *wake_ns)
        *wake_ns = at_ns;
}

static void drop_recent_locked(struct near__behind *b, struct update *u)
{
    DL_DELETE(b->recent, u);
    b->recent_bytes -= weight(u->key_size, 0);
    update_free(b, u);
}

/* The source has it: out of the table, and among the recent ones [f5]. */
static void keep_recent_locked(struct near__behind *b, struct update *u)
{
    const struct near__alloc *behind_alloc = b->config.alloc;
    HASH_DELETE(hh, b->table, u);
    near__free(b->config.alloc, u->value);
    u->value = NULL;
    u->ready_ns = near__now(b->config.clock);
    DL_APPEND(b->recent, u);
    b->recent_bytes += weight(u->key_size, 0);
    while (b->recent_bytes > b->config.options->queue_bytes / RECENT_SHARE) {
        if (b->config.knows_all)
            b->overflow_ns = b->recent->ready_ns;
        else
            list_locked(b, b->recent);
        drop_recent_locked(b, b->recent);
    }
}

/* [f5]  Keys may have been lost in the remote tier since the last time that none was. */
static void lost_locked(struct near__behind *b)
{
    removed_locked(b, NULL, 0);
    if (b->overflow_ns) {
        uint64_t number = ++b->sequence;
        if (b->journal)
            note_to_forget(b, NULL, 0, number);
        near__forget_add(b->forget, NULL, 0, number);
    }
    b->overflow_ns = 0;
    while (b->recent) {
        list_locked(b, b->recent);
        drop_recent_locked(b, b->recent);
    }
    if (b->journal)
        write_notes_locked(b);
}

static void look_for_losses_locked(struct near__behind *b, int64_t now_ns, int64_t *wake_ns)
{
    int64_t proved_ns;
    uint64_t losses = b->config.losses(b->config.arg, &proved_ns);
    if (losses != b->losses) {
        b->losses = losses;
        lost_locked(b);
    }
    while (b->recent && b->recent->ready_ns <= proved_ns)
        drop_recent_locked(b, b->recent);
    if (b->overflow_ns <= proved_ns)
        b->overflow_ns = 0;
    if (b->recent || b->overflow_ns)
        sooner(wake_ns, now_ns + LOSSES_LOOK_NS);
}

/* ---------------------------------------------------------------- flying */

/* What the store said, as NEAR_OK or an error that there is. */
static int sensible(int status, uint32_t operation)
{
    if (status == NEAR_OK || (status == NEAR_MISS && operation == NEAR_UPDATE_DEL))
        return NEAR_OK;
    return status < 0 && strcmp(near_status_name(status), "unknown status") != 0 ? status : NEAR_ERR_INVALID;
}

void near__behind_call_store(const near_source_options *options, near_update *updates, size_t count,
                             uint32_t timeout_ms, int *ret_whole)
{
    for (size_t i = 0; i < count; i++)
        updates[i].status = NEAR_OK;
    int whole = sensible(options->store(options->store_arg, updates, count, timeout_ms), NEAR_UPDATE_SET);
    for (size_t i = 0; i < count; i++) {
        updates[i].status = sensible(updates[i].status, updates[i].operation);
        if (whole != NEAR_OK && updates[i].status == NEAR_OK)
            updates[i].status = whole;
    }
    *ret_whole = whole;
}

static void take_off_locked(struct near__behind *b, struct update *u)
{
    int is_set = u->operation == NEAR_UPDATE_SET;
    take_out_locked(b, u);
    u->place = FLYING;
    b->batch[b->flying_count] = (near_update){.key = u->key,
                                              .key_size = u->key_size,
                                              .data = is_set ? u->value : NULL,
                                              .size = is_set ? u->value_size : 0,
                                              .sequence = u->sequence,
                                              .operation = u->operation,
                                              .attempts = u->attempts};
    b->flying[b->flying_count++] = u;
}

/* Takes what is due into flying; otherwise *wake_ns is when to look again. */
static void take_batch_locked(struct near__behind *b, int64_t now_ns, int64_t *wake_ns)
{
    struct update *u, *next;
    size_t most = b->config.options->batch_max;
    if (now_ns < b->away_until_ns) {
        if (b->count)
            sooner(wake_ns, b->away_until_ns);
        return;
    }
    int rush = b->flushers || b->crowd || b->fresh_count >= most;
    DL_FOREACH_SAFE(b->failed, u, next)
    {
        if (u->ready_ns > now_ns)
            sooner(wake_ns, u->ready_ns);
        else if (b->flying_count < most)
            take_off_locked(b, u);
    }
    while (b->fresh && b->flying_count < most && (rush || b->fresh->ready_ns <= now_ns))
        take_off_locked(b, b->fresh);
    if (b->fresh)
        sooner(wake_ns, b->fresh->ready_ns);
}

/* The source has it, or never will. */
static void done_locked(struct near__behind *b, struct update *u)
{
    struct update *newer = u->newer;
    int is_listed = forget_after_locked(b, u);
    if (b->journal)
        journal_add(b, u, NEAR_RECORD_DONE);
    charge_locked(b, u, -1);
    if (!newer) {
        if (is_listed)
            remove_locked(b, u);
        else
            keep_recent_locked(b, u);
        return;
    }
    u->newer = NULL;
    u->oldest = newer->oldest;
    u->accepted_ns = newer->accepted_ns;
    u->ready_ns = newer->ready_ns;
    u->forget_after = 0;
    move_into(b, u, newer);
    append_locked(b, u, FRESH);
}

/* Back into the queue; a newer update of the key replaces it.  When the source as a whole was away, its pause is
 * enough. */
static void again_locked(struct near__behind *b, struct update *u, int whole)
{
    const near_source_options *o = b->config.options;
    struct update *newer = u->newer;
    count(&b->config.counters->retried, 1);
    u->attempts++;
    u->ready_ns = near__now(b->config.clock);
    if (!whole)
        u->ready_ns += near__backoff_ns(o->retry_min_ms, o->retry_max_ms, u->attempts - 1);
    if (newer) {
        u->newer = NULL;
        charge_locked(b, u, -1);
        move_into(b, u, newer);
        count(&b->config.counters->coalesced, 1);
    }
    append_locked(b, u, FAILED);
}

static int is_hopeless(const struct near__behind *b, const struct update *u, int status)
{
    uint32_t most = b->config.options->attempts_max;
    return !u->newer && (status == NEAR_ERR_REJECTED || (most && u->attempts + 1 >= most));
}

/* The application hears of it; the remote tier must not go on showing what the source will never have. */
static void bury(struct near__behind *b, struct update *u, near_update *update)
{
    const near_source_options *o = b->config.options;
    update->attempts = u->attempts + 1;
    if (o->dead_letter)
        o->dead_letter(o->dead_letter_arg, update, update->status);
    else
        near__log(b->config.log, NEAR_LOG_ERROR, "load",
                  "the source rejected an update and nobody asked for dead letters");
    count(&b->config.counters->dead_letters, 1);
    pthread_mutex_lock(&b->lock);
    struct near__behind_gate *gate = gate_locked(b, u->key, u->key_size);
    if (gate)
        owe_locked(b, gate, IN_ANY_CASE);
    u->forget_after = 1;
    done_locked(b, u);
    pthread_mutex_unlock(&b->lock);
}

static void pause_source_locked(struct near__behind *b, int whole)
{
    const near_source_options *o = b->config.options;
    if (whole == NEAR_OK) {
        b->away_failures = 0;
        return;
    }
    b->away_until_ns =
        near__now(b->config.clock) + near__backoff_ns(o->retry_min_ms, o->retry_max_ms, b->away_failures++);
}

/* Whether the update at i has landed; hopeless ones are left to bury. */
static int land_one_locked(struct near__behind *b, size_t i, int whole)
{
    struct update *u = b->flying[i];
    int status = b->batch[i].status;
    if (status == NEAR_OK) {
        count(&b->config.counters->stored, 1);
        done_locked(b, u);
    } else if (is_hopeless(b, u, status)) {
        return 0;
    } else {
        again_locked(b, u, whole != NEAR_OK);
    }
    return 1;
}

static void landed_locked(struct near__behind *b)
{
    b->flying_count = 0;
    if (b->journal) {
        if (near__journal_commit(b->journal) != NEAR_OK)
            b->unnoted = 1;
        renew_journal_locked(b);
    }
    pthread_cond_broadcast(&b->space);
    pthread_cond_broadcast(&b->landed);
}

/* With the lock; lets it go for the callbacks. */
static void fly_locked(struct near__behind *b)
{
    int whole;
    size_t n = b->flying_count, left = 0;
    pthread_mutex_unlock(&b->lock);
    near__behind_call_store(b->config.options, b->batch, n, b->config.store_timeout_ms, &whole);
    count(&b->config.counters->batches, 1);
    pthread_mutex_lock(&b->lock);
    pause_source_locked(b, whole);
    for (size_t i = 0; i < n; i++) {
        if (land_one_locked(b, i, whole))
            continue;
        b->flying[left] = b->flying[i];
        b->batch[left++] = b->batch[i];
    }
    pthread_mutex_unlock(&b->lock);
    for (size_t i = 0; i < left; i++)
        bury(b, b->flying[i], &b->batch[i]);
    pthread_mutex_lock(&b->lock);
    landed_locked(b);
    tell_locked(b);
}

/* NEAR_JOURNAL_EVERY_SECOND. */
static void sync_locked(struct near__behind *b, int64_t now_ns, int64_t *wake_ns)
{
    uint64_t mark = b->journal ? near__journal_mark(b->journal) : 0;
    if (b->config.options->journal_sync != NEAR_JOURNAL_EVERY_SECOND || mark == b->synced_mark)
        return;
    if (now_ns >= b->sync_at_ns) {
        b->synced_mark = mark;
        b->sync_at_ns = now_ns + NEAR_NS_PER_S;
        pthread_mutex_unlock(&b->lock);
        if (near__journal_sync(b->journal, mark) != NEAR_OK)
            near__log(b->config.log, NEAR_LOG_ERROR, "load", "the journal's disk fails; new updates are refused");
        pthread_mutex_lock(&b->lock);
    }
    sooner(wake_ns, b->sync_at_ns);
}

static void *behind_main(void *arg)
{
    struct near__behind *b = arg;
    near__thread_name("near-behind");
    pthread_mutex_lock(&b->lock);
    while (!b->stop) {
        int64_t wake_ns = NEAR_NEVER, now_ns = near__now(b->config.clock);
        look_for_losses_locked(b, now_ns, &wake_ns);
        sync_locked(b, now_ns, &wake_ns); /* the notes of that, too */
        take_batch_locked(b, now_ns, &wake_ns);
        if (b->flying_count)
            fly_locked(b);
        else if (!b->stop)
            near__condition_wait(b->config.clock, &b->work, &b->lock, wake_ns);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

/* ---------------------------------------------------------------- looking, flushing */

int near__behind_peek(struct near__behind *b, const void *key, size_t key_size, void *buffer, size_t capacity,
                      size_t *ret_size, uint32_t *ret_operation)
{
    pthread_mutex_lock(&b->lock);
    struct update *u = find_locked(b, key, key_size);
    if (u && u->newer)
        u = u->newer;
    if (u) {
        *ret_operation = u->operation;
        *ret_size = u->operation == NEAR_UPDATE_SET ? u->value_size : 0;
        if (*ret_size && capacity)
            memcpy(buffer, u->value, *ret_size < capacity ? *ret_size : capacity);
    }
    pthread_mutex_unlock(&b->lock);
    return u != NULL;
}

/* The oldest update that the source does not have; NULL: there is none. */
static const struct update *oldest_locked(const struct near__behind *b)
{
    const struct update *oldest = NULL;
    for (const struct update *u = b->table; u; u = u->hh.next)
        if (!oldest || u->oldest < oldest->oldest)
            oldest = u; /* one that waits behind it is younger */
    return oldest;
}

/* The source has what was accepted with that number, or a lower one. */
static int flushed_locked(const struct near__behind *b, uint64_t sequence)
{
    const struct update *oldest = oldest_locked(b);
    return !oldest || oldest->oldest > sequence;
}

/* No writer is still to see to what one of these left to him. */
static int settled_locked(const struct near__behind *b, uint64_t sequence)
{
    for (const struct near__behind_gate *gate = b->gates; gate; gate = gate->hh.next)
        if (gate->owes && gate->since <= sequence)
            return 0;
    return 1;
}

/* Until it is so for all there is at the call, whatever comes meanwhile. */
static int wait_landed_locked(struct near__behind *b, int (*is_so)(const struct near__behind *, uint64_t),
                              int64_t deadline_ns)
{
    uint64_t sequence = b->sequence;
    int so;
    while (!(so = is_so(b, sequence)) && near__now(b->config.clock) < deadline_ns)
        near__condition_wait(b->config.clock, &b->landed, &b->lock, deadline_ns);
    return so;
}

/* Each step may give the next one more to wait for.  The thread looks for losses from time to time only. */
int near__behind_flush(struct near__behind *b, int64_t deadline_ns)
{
    int64_t wake_ns = NEAR_NEVER; /* the thread has its own */
    pthread_mutex_lock(&b->lock);
    b->flushers++;
    pthread_cond_signal(&b->work);
    int flushed = wait_landed_locked(b, flushed_locked, deadline_ns);
    b->flushers--;
    look_for_losses_locked(b, near__now(b->config.clock), &wake_ns);
    int settled = flushed && wait_landed_locked(b, settled_locked, deadline_ns);
    uint64_t sequence = b->sequence;
    pthread_mutex_unlock(&b->lock);
    return settled && near__forget_wait(b->forget, sequence, deadline_ns) ? NEAR_OK : NEAR_ERR_TIMEOUT;
}

int near__behind_is_safe(struct near__behind *b)
{
    pthread_mutex_lock(&b->lock);
    int idle = !b->count && !near__forget_pending(b->forget);
    if (!idle && b->journal)
        renew_journal_locked(b);
    tell_locked(b);
    int safe = idle || (b->journal && !near__journal_is_broken(b->journal));
    pthread_mutex_unlock(&b->lock);
    return safe;
}

void near__behind_gauges(struct near__behind *b, struct near__behind_gauges *ret)
{
    pthread_mutex_lock(&b->lock);
    const struct update *oldest = oldest_locked(b);
    *ret = (struct near__behind_gauges){.queued = b->count, .queued_bytes = b->bytes};
    if (oldest)
        ret->lag_ms = (near__now(b->config.clock) - oldest->accepted_ns) / NEAR_NS_PER_MS;
    if (b->journal)
        ret->journal_bytes = near__journal_file_bytes(b->journal);
    pthread_mutex_unlock(&b->lock);
    ret->invalidations = near__forget_pending(b->forget);
}

/* ---------------------------------------------------------------- open and close */

static int open_journal(struct near__behind *b, near_error *error)
{
    const near_source_options *o = b->config.options;
    int status = near__journal_open(b->config.alloc, b->config.log, o->journal, (o->flags & NEAR_SOURCE_SALVAGE) != 0,
                                    replay, b, &b->journal, error);
    if (status != NEAR_OK)
        return status;
    pthread_mutex_lock(&b->lock);
    renew_journal_locked(b);
    tell_locked(b);
    pthread_mutex_unlock(&b->lock);
    return NEAR_OK;
}

static int start(struct near__behind *b, near_error *error)
{
    const near_source_options *o = b->config.options;
    struct near__forget_config forget = {.alloc = b->config.alloc,
                                         .clock = b->config.clock,
                                         .retry_min_ms = o->retry_min_ms,
                                         .retry_max_ms = o->retry_max_ms,
                                         .invalidate = b->config.invalidate,
                                         .knows_all = b->config.knows_all,
                                         .arg = b->config.arg,
                                         .forgotten = forgotten,
                                         .forgotten_arg = b,
                                         .invalidated = &b->config.counters->invalidated};
    b->flying = near__alloc_zero(b->config.alloc, o->batch_max * sizeof(*b->flying));
    b->batch = near__alloc_zero(b->config.alloc, o->batch_max * sizeof(*b->batch));
    int status = b->flying && b->batch ? near__forget_open(&forget, &b->forget) : NEAR_ERR_NOMEM;
    if (status == NEAR_OK && o->journal) {
        status = open_journal(b, error);
        if (status != NEAR_OK)
            return status;
    }
    /* so that numbers rise over restarts, although a journal that is new does not tell the last one */
    uint64_t now_us = (uint64_t)near__clock_kernel(CLOCK_REALTIME) / 1000;
    b->sequence = b->sequence > now_us ? b->sequence : now_us;
    int64_t proved_ns;
    b->losses = b->config.losses(b->config.arg, &proved_ns);
    if (status == NEAR_OK)
        status = near__forget_start(b->forget);
    if (status == NEAR_OK && o->flags & NEAR_SOURCE_BEHIND) {
        b->runs = near__thread_start(&b->thread, behind_main, b) == 0;
        status = b->runs ? NEAR_OK : NEAR_ERR_SYSTEM;
    }
    return status == NEAR_OK ? NEAR_OK : near__fail(error, status, "%s", near_status_text(status));
}

int near__behind_open(const struct near__behind_config *config, struct near__behind **ret, near_error *error)
{
    struct near__behind *b = near__alloc_zero(config->alloc, sizeof *b);
    if (!b)
        return near__fail(error, NEAR_ERR_NOMEM, "%s", near_status_text(NEAR_ERR_NOMEM));
    b->config = *config;
    pthread_mutex_init(&b->lock, NULL);
    near__condition_init(&b->work);
    near__condition_init(&b->space);
    near__condition_init(&b->landed);
    near__condition_init(&b->gates_changed);
    int status = start(b, error);
    if (status == NEAR_OK)
        *ret = b;
    else
        near__behind_close(b);
    return status;
}

void near__behind_abandon(const struct near__behind *b)
{
    if (b->journal)
        near__journal_abandon(b->journal);
}

void near__behind_close(struct near__behind *b)
{
    if (b->runs) {
        pthread_mutex_lock(&b->lock);
        b->stop = 1;
        pthread_cond_signal(&b->work);
        pthread_mutex_unlock(&b->lock);
        pthread_join(b->thread, NULL);
    }
    near__forget_close(b->forget);
    if (b->journal && b->config.options->journal_sync != NEAR_JOURNAL_NEVER)
        near__journal_sync(b->journal, near__journal_mark(b->journal));
    near__journal_close(b->journal);
    while (b->table) {
        update_free(b, b->table->newer);
        remove_locked(b, b->table);
    }
    while (b->recent)
        drop_recent_locked(b, b->recent);
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->work);
    pthread_cond_destroy(&b->space);
    pthread_cond_destroy(&b->landed);
    pthread_cond_destroy(&b->gates_changed);
    near__free(b->config.alloc, b->flying);
    near__free(b->config.alloc, b->batch);
    near__free(b->config.alloc, b);
}
