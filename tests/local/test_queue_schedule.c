/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The queue word of NEAR_RULE_S3FIFO (order.h, queues.c) under operations that meet in the middle.
 *
 * index.c and queues.c are compiled into this program with a hook before each atomic step.  In the hook further
 * operations run, whole or met in their turn, up to DEPTH of them within each other: a fill that publishes while
 * another thread promotes the entry it replaces, a turn whose entry is evicted and linked before its swap, a copy whose
 * entry is invalidated between its steps.  Which, where and of what key is drawn from a seed.  Memory is never used
 * again within a schedule, as all is one read section.  Checked at the end:
 *   Q1  the bytes of each queue are those of the visible entries whose words say so
 *   Q2  what was retired is linked as it was linked, every link is there, and no swap that came late has brought a
 *       place back
 *   Q3  visible entries have a word, worth no more than there is
 *   Q4  a ghost for each entry that earned one when it left, and for no other
 *   Q5  every entry ends exactly once */
#define NEAR_STEP_HOOK 1
#define NEAR_BUCKET_SLOTS 2 /* eight in all for a key */
#include "local/local_fixture.h"

#include "local/index.c"
#include "local/queues.c"

#include <stdlib.h>

#include "base/random.h"
#include "support/seed.h"

#define KEYS 4
#define BUCKETS NEAR_PLACES
#define ENTRIES 256
#define OPERATIONS 12
#define DEPTH 4
#define TURNOVER 16

enum fate { OWNED, INSTALLED, RETIRED, RETURNED };

static struct world {
    struct near__stripe stripes[1];
    _Alignas(NEAR_GROUP_SIZE) struct near__bucket buckets[BUCKETS];
    struct near__tables tables;
    struct near__moment moment;
    uint64_t random, position;
    struct near__entry *entry[ENTRIES];
    enum fate fate[ENTRIES];
    unsigned entries, depth, met;
    int copies;            /* there is one keeper */
    uint64_t ghosts, left; /* that were earned; entries that left */
    struct near__entry *limbo;
} w;

static struct near__local *local;
static struct near__alloc alloc;
static uint64_t promoted, turned, copied, late; /* by all schedules: the cases do occur */
static char key_text[KEYS][8];
static uint64_t key_hash[KEYS];

/* ---------------------------------------------------------------- what queues.c needs of the tier */

int64_t near__block_cost(const struct near__local *unused, const struct near__entry *entry)
{
    (void)unused;
    return (int64_t)near__entry_size(entry);
}

void near__budget_charge(struct near__local *unused, int64_t bytes)
{
    (void)unused, (void)bytes;
}

int64_t near__tables_entries_that_fit(const struct near__local *unused, int64_t spared)
{
    (void)unused, (void)spared;
    return INT64_MAX;
}

int near__budget_charge_fixed(struct near__local *unused, int64_t bytes)
{
    (void)unused, (void)bytes;
    return 1;
}

void near__rcu_synchronize(void) {}

#ifdef __SANITIZE_THREAD__
char near__rcu_order;
#endif

/* ---------------------------------------------------------------- entries */

static void meet(void);

static unsigned below(unsigned bound)
{
    return near__random_below(&w.random, bound);
}

static struct near__entry *make_entry(const char *key, size_t key_size, uint64_t position, size_t value_size)
{
    unsigned flags = near__entry_flags_for(key_size, value_size, 0, 1);
    void *block = calloc(1, near__entry_size_for(key_size, value_size, flags));
    assert_true(block && w.entries < ENTRIES);
    struct near__entry *e = near__entry_make(block, key_size, value_size, flags, 0);
    w.fate[w.entries] = OWNED;
    w.entry[w.entries++] = e;
    near__entry_set_position(e, position, 0);
    atomic_store(&e->access, w.moment.tick);
    memcpy(e->bytes, key, key_size);
    return e;
}

static unsigned number_of(const struct near__entry *e)
{
    unsigned n = 0;
    while (w.entry[n] != e)
        assert_true(++n < w.entries);
    return n;
}

static void end(struct near__entry *e, enum fate fate)
{
    unsigned n = number_of(e);
    assert_true(w.fate[n] == OWNED || (w.fate[n] == INSTALLED && fate == RETIRED)); /* Q5 */
    w.fate[n] = fate;
}

static void push(struct near__entry *e)
{
    end(e, RETIRED);
    near__entry_link(e, w.limbo);
    w.limbo = e;
    w.left++;
}

/* As in reclaim.c.  Others may come before the word is taken out, and late ones before the link is in its place. */
void near__retire(struct near__index *index, struct near__entry *e, enum near__why why)
{
    meet();
    uint32_t word = atomic_load(near__entry_place(e));
    int is_main = (word & NEAR_QUEUE_MAIN) != 0;
    (void)index;
    w.ghosts += word & NEAR_QUEUED && (is_main ? why == NEAR_WHY_INVALIDATED : why == NEAR_WHY_EVICTED);
    near__queue_leave(local, e, near__block_cost(local, e), why);
    if (word & NEAR_QUEUED && below(2)) { /* who had read the word before swaps now */
        if (is_main)
            near__queue_turn(e, word, w.moment.tick, 1);
        else
            near__queue_promote(local, e, word, w.moment.tick);
    }
    push(e);
}

/* ---------------------------------------------------------------- operations */

/* What install.c does, step by step. */
static void do_fill(void)
{
    unsigned key = below(KEYS);
    uint32_t generation = near__index_generation(&local->index, near__index_stripe(&local->index, key_hash[key]));
    struct near__entry *e = make_entry(key_text[key], strlen(key_text[key]), ++w.position, below(40));
    int64_t cost = near__block_cost(local, e);
    near__queue_enter(local, e, key_hash[key], cost, w.moment.tick);
    if (!near__index_install(&local->index, e, key_hash[key], generation, &w.moment)) {
        near__queue_cancel(local, e, cost);
        end(e, RETURNED);
    } else if (w.fate[number_of(e)] == OWNED) {
        w.fate[number_of(e)] = INSTALLED;
    }
}

static void do_invalidate(void)
{
    unsigned key = below(KEYS);
    near__index_invalidate(&local->index, key_hash[key], key_text[key], strlen(key_text[key]), ++w.position,
                           below(2) ? NEAR_WHY_INVALIDATED : NEAR_WHY_REPLACED);
}

/* A visible word, or 0. */
static uint64_t pick(_Atomic(uint64_t) **ret_slot)
{
    for (unsigned n = 0; n < 2 * BUCKETS * NEAR_BUCKET_SLOTS; n++) {
        *ret_slot = &w.buckets[below(BUCKETS)].slot[below(NEAR_BUCKET_SLOTS)];
        uint64_t word = near__step_load(*ret_slot);
        if (near__word_is_visible(word))
            return word;
    }
    return 0;
}

static void do_evict(void)
{
    _Atomic(uint64_t) *slot;
    uint64_t word = pick(&slot);
    if (word)
        near__index_unlink(&local->index, slot, word, NEAR_WHY_EVICTED);
}

static void do_hit(void)
{
    _Atomic(uint64_t) *slot;
    uint64_t word = pick(&slot);
    w.moment.tick++;
    if (word)
        near__entry_touch(near__word_entry(word), w.moment.tick);
}

/* has_turn of evict.c */
static void do_turn(void)
{
    _Atomic(uint64_t) *slot;
    uint64_t at = pick(&slot);
    if (!at)
        return;
    struct near__entry *entry = near__word_entry(at);
    uint32_t word = near__queue_of(entry);
    int used = near__queue_is_used(entry, word, w.moment.turnover), is_main = (word & NEAR_QUEUE_MAIN) != 0;
    uint32_t before = atomic_load(near__entry_place(entry));
    if (!is_main && used) {
        promoted++;
        near__queue_promote(local, entry, word, w.moment.tick);
    } else if (is_main && (used || near__queue_worth(word))) {
        turned++;
        near__queue_turn(entry, word, w.moment.tick, used);
    }
    late += before != word || w.fate[number_of(entry)] == RETIRED;
}

/* move of blocks.c */
static void do_copy(void)
{
    _Atomic(uint64_t) *slot;
    uint64_t word = pick(&slot);
    if (!word || w.copies)
        return;
    w.copies = 1;
    struct near__entry *entry = near__word_entry(word);
    uint32_t queued = 0;
    struct near__entry *copy = make_entry((const char *)entry->bytes, near__entry_key_size(entry),
                                          (uint64_t)near__entry_position(entry), near__entry_value_size(entry));
    atomic_store(&copy->access, atomic_load(&entry->access));
    int there = near__queue_detach(entry, &queued);
    atomic_store(near__entry_place(copy), queued);
    if (there && near__index_replace(slot, word, copy)) {
        if (w.fate[number_of(copy)] == OWNED)
            w.fate[number_of(copy)] = INSTALLED;
        copied++;
        push(entry);
    } else {
        if (queued)
            near__queue_cancel(local, copy, near__block_cost(local, copy));
        end(copy, RETURNED);
    }
    w.copies = 0;
}

static void operate(void)
{
    static void (*const operation[])(void) = {do_fill, do_fill, do_fill, do_invalidate, do_evict, do_hit,
                                              do_hit,  do_turn, do_turn, do_turn,       do_copy};
    w.depth++;
    operation[below(sizeof(operation) / sizeof(operation[0]))]();
    w.depth--;
}

static void meet(void)
{
    if (w.depth && w.depth < DEPTH && w.met && w.entries < ENTRIES / 2 && below(8) == 0) {
        w.met--;
        operate();
    }
}

/* ---------------------------------------------------------------- one schedule */

static void set_up(uint64_t seed)
{
    memset(&w, 0, sizeof(w));
    w.random = seed;
    near__alloc_init(&alloc, NULL);
    local = aligned_alloc(64, sizeof(*local));
    memset(local, 0, sizeof(*local));
    local->alloc = &alloc;
    local->queues = 1;
    local->index.secrets = near__secrets(1);
    local->index.stripes = w.stripes;
    atomic_store(&local->budget.entries, KEYS);
    assert_int_equal(near__queues_open(local), NEAR_OK);
    w.tables = (struct near__tables){.span = {{w.buckets, BUCKETS}}, .spans = 1};
    atomic_store(&local->index.tables, &w.tables);
    w.moment = (struct near__moment){.tick = 100, .rule = NEAR_RULE_S3FIFO, .turnover = TURNOVER};
    w.position = 10;
    for (unsigned k = 0; k < KEYS; k++)
        key_hash[k] = near__key_hash(key_text[k], strlen(key_text[k]), &local->index.secrets);
}

static void check_at_rest(void)
{
    int64_t bytes[2] = {0, 0};
    unsigned visible = 0, installed = 0;
    uint64_t linked = 0;
    for (unsigned i = 0; i < BUCKETS * NEAR_BUCKET_SLOTS; i++) {
        uint64_t at = atomic_load(&w.buckets[i / NEAR_BUCKET_SLOTS].slot[i % NEAR_BUCKET_SLOTS]);
        if (!at)
            continue;
        struct near__entry *entry = near__word_entry(at);
        uint32_t word = atomic_load(near__entry_place(entry));
        assert_false(near__word_is_tentative(at));
        assert_int_equal(w.fate[number_of(entry)], INSTALLED); /* Q5 */
        assert_true(word & NEAR_QUEUED);                       /* Q3 */
        assert_true(near__queue_worth(word) <= NEAR_WORTH_MAX);
        bytes[(word & NEAR_QUEUE_MAIN) != 0] += near__block_cost(local, entry);
        visible++;
    }
    assert_int_equal(atomic_load(&local->queue_bytes[0]), bytes[0]); /* Q1 */
    assert_int_equal(atomic_load(&local->queue_bytes[1]), bytes[1]);
    for (struct near__entry *e = w.limbo; e; e = near__entry_next(e), linked++) { /* Q2 */
        assert_true(linked < w.left);
        assert_int_equal(w.fate[number_of(e)], RETIRED);
        assert_int_equal(atomic_load(near__entry_place(e)), 0);
    }
    assert_int_equal(linked, w.left);
    assert_int_equal(atomic_load(&atomic_load(&local->ghosts)->pushed), w.ghosts); /* Q4 */
    for (unsigned i = 0; i < w.entries; i++) {
        assert_int_not_equal(w.fate[i], OWNED);
        installed += w.fate[i] == INSTALLED;
    }
    assert_int_equal(visible, installed);
}

static void schedule(uint64_t seed)
{
    near__step_hook = meet;
    set_up(seed);
    unsigned most = below(12);
    for (unsigned n = 0; n < OPERATIONS; n++) {
        w.met = most;
        operate();
    }
    near__step_hook = NULL;
    check_at_rest();
    for (unsigned i = 0; i < w.entries; i++)
        free(near__entry_block(w.entry[i]));
    near__queues_close(local);
    free(local);
}

static void test_queue_words_survive_everything_that_meets_them(void **state)
{
    (void)state;
    uint64_t seed = test_seed();
    for (unsigned k = 0; k < KEYS; k++)
        snprintf(key_text[k], sizeof(key_text[k]), "key%u", k);
    near__mutant = NEAR_MUTANT_NONE;
    for (uint64_t i = 0; i < SCALE(200000, 10000); i++)
        schedule(seed + i);
    print_message("# %" PRIu64 " promotions, %" PRIu64 " turns, %" PRIu64 " copies; %" PRIu64 " came late\n", promoted,
                  turned, copied, late);
    assert_true(promoted > 0 && turned > 0 && copied > 0 && late > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_queue_words_survive_everything_that_meets_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
