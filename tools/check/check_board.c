/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memfd_create */
#endif
#include "check_board.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "nearcache.h"

#define VERSION_BITS 40
#define EXPIRY_SLACK_NS (10 * CHECK_NS_PER_MS) /* Redis counts milliseconds of a clock that is being adjusted */

const char *const check_violation_names[CHECK_VIOLATIONS] = {
    "damaged value",
    "a write that was reported as not done took effect",
    "read went backwards",
    "Redis no longer has an acknowledged write",
    "staler than the bound",
    "expired value",
    "older than what a barrier had put everywhere",
    "not what survived a loss of data",
    "not what Redis has at the end",
    "call far past its deadline",
    "local tier over its budget",
    "no recovery",
};

int64_t check_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * CHECK_NS_PER_S + ts.tv_nsec;
}

/* ---------------------------------------------------------------- the board */

static void slots_init(struct check_board *board)
{
    uint32_t ring = 0;
    for (uint32_t i = 0; i < CHECK_SLOTS; i++) {
        struct check_slot *s = &board->slot[i];
        static const enum check_kind turns[] = {CHECK_RECORD, CHECK_LOADED,   CHECK_COUNTER, CHECK_RECORD,
                                                CHECK_TAGGED, CHECK_EXPIRING, CHECK_COUNTER, CHECK_RECORD,
                                                CHECK_LOADED, CHECK_RECORD};
        s->kind = turns[i % (sizeof turns / sizeof *turns)];
        s->ring = ring;
        s->ring_size = i < CHECK_HOT ? CHECK_RING_HOT : CHECK_RING_COLD;
        ring += 2 * s->ring_size;
        atomic_init(&s->generation, 1);
        atomic_init(&s->oldest, 1);
    }
}

struct check_board *check_board_create(int *ret_fd)
{
    struct check_board *board = NULL;
    *ret_fd = memfd_create("nearcache-check", 0); /* not closed on exec: workers inherit it */
    if (*ret_fd >= 0 && ftruncate(*ret_fd, sizeof *board) == 0 && (board = check_board_open(*ret_fd))) {
        board->size = sizeof *board;
        slots_init(board);
    }
    return board;
}

struct check_board *check_board_open(int fd)
{
    void *memory = mmap(NULL, sizeof(struct check_board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void check_board_free(struct check_board *board)
{
    munmap(board, sizeof *board);
}

uint64_t check_violations(const struct check_board *board)
{
    uint64_t sum = 0;
    for (int i = 0; i < CHECK_VIOLATIONS; i++)
        sum += atomic_load(&board->violations[i]);
    return sum;
}

static struct check_note *note_begin(struct check_board *board, enum check_violation kind, uint32_t process)
{
    uint32_t place;
    if (atomic_fetch_add(&board->violations[kind], 1) >= CHECK_NOTES / CHECK_VIOLATIONS)
        return NULL; /* one wrong value is read by many: the first few of each kind tell the story */
    place = atomic_fetch_add(&board->note_count, 1);
    board->note[place] =
        (struct check_note){.kind = kind, .process = process, .faults = atomic_load(&board->faults_on)};
    return &board->note[place];
}

static void note_end(struct check_note *note)
{
    /* release: pairs with the acquire where the checker prints notes; publishes the fields */
    atomic_store_explicit(&note->ready, 1, memory_order_release);
}

static void note_writes(struct check_board *board, struct check_note *note, uint64_t first, uint64_t last)
{
    for (uint64_t v = first; v <= last && note->writes < CHECK_NOTE_WRITES; v++) {
        const struct check_write *w = check_write_of(board, note->slot, note->generation, v);
        if (v > 0 && atomic_load(&w->version) == v)
            note->write[note->writes++] = (struct check_note_write){.version = v,
                                                                    .begin_ns = atomic_load(&w->begin_ns),
                                                                    .acked_ns = atomic_load(&w->acked_ns),
                                                                    .writer = atomic_load(&w->writer)};
    }
}

void check_complain(struct check_board *board, enum check_violation kind, uint32_t process, uint32_t slot,
                    uint32_t generation, int64_t extra)
{
    struct check_note *note = note_begin(board, kind, process);
    if (!note)
        return;
    note->slot = slot;
    note->generation = generation;
    note->extra = extra;
    note->end_ns = check_now();
    if (kind == CHECK_LOST || kind == CHECK_FINAL) /* extra is a version */
        note_writes(board, note, (uint64_t)extra, (uint64_t)extra + 1);
    note_end(note);
}

/* ---------------------------------------------------------------- keys and values */

static size_t put_number(char *at, uint32_t number)
{
    char digits[10];
    size_t count = 0;
    do
        digits[count++] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    for (size_t i = 0; i < count; i++)
        at[i] = digits[count - 1 - i];
    return count;
}

size_t check_name(char *name, uint32_t slot, uint32_t generation)
{
    size_t size = 0;
    name[size++] = 'k';
    size += put_number(name + size, slot);
    name[size++] = '.';
    size += put_number(name + size, generation);
    return size;
}

int64_t check_ttl_ms(uint32_t slot, uint64_t version)
{
    return 20 + (int64_t)((version * 7919 + slot) % 1200);
}

/* The sum covers the rest of the head and the body. */
struct value_head {
    uint64_t sum, version;
    uint32_t slot, generation, size, magic;
};
enum { VALUE_MAGIC = 0x4b4e4843 };

static uint64_t value_sum(const char *value, size_t size)
{
    return near__hash(value + sizeof(uint64_t), size - sizeof(uint64_t), VALUE_MAGIC);
}

static size_t value_size(uint32_t slot, uint64_t version)
{
    uint32_t spread = slot < CHECK_HOT ? 160 : CHECK_VALUE_MAX - sizeof(struct value_head);
    return sizeof(struct value_head) + (version * 2654435761u + slot * 97) % spread;
}

size_t check_value(uint32_t slot, uint32_t generation, uint64_t version, char value[CHECK_VALUE_MAX])
{
    struct value_head head = {.version = version, .slot = slot, .generation = generation, .magic = VALUE_MAGIC};
    size_t size = value_size(slot, version);
    head.size = (uint32_t)size;
    memcpy(value, &head, sizeof head);
    memset(value + sizeof head, (int)(version & 0xff), size - sizeof head);
    head.sum = value_sum(value, size);
    memcpy(value, &head.sum, sizeof head.sum);
    return size;
}

static uint64_t counter_version(uint32_t slot, const char *data, size_t size)
{
    char text[24];
    char *end;
    long long number;
    if (size == 0 || size >= sizeof text)
        return 0;
    memcpy(text, data, size);
    text[size] = 0;
    number = strtoll(text, &end, 10);
    return *end == 0 && number > 0 && number % check_step(slot) == 0 ? (uint64_t)(number / check_step(slot)) : 0;
}

uint64_t check_version(const struct check_board *board, uint32_t slot, uint32_t generation, const void *data,
                       size_t size)
{
    struct value_head head;
    if (board->slot[slot].kind == CHECK_COUNTER)
        return counter_version(slot, data, size);
    if (size < sizeof head || size > CHECK_VALUE_MAX)
        return 0;
    memcpy(&head, data, sizeof head);
    if (head.magic != VALUE_MAGIC || head.size != size || head.slot != slot || head.generation != generation ||
        head.sum != value_sum(data, size) || (board->slot[slot].kind == CHECK_RECORD && record_removes(head.version)))
        return 0;
    return head.version;
}

/* ---------------------------------------------------------------- writing */

struct check_key *check_key_of(struct check_board *board, uint32_t slot, uint32_t generation)
{
    return &board->slot[slot].key[generation & 1];
}

struct check_write *check_write_of(struct check_board *board, uint32_t slot, uint32_t generation, uint64_t version)
{
    const struct check_slot *s = &board->slot[slot];
    return &board->ring[s->ring + (generation & 1) * s->ring_size + version % s->ring_size];
}

int check_ring_has_room(struct check_board *board, uint32_t slot, uint32_t generation, uint64_t version, int64_t now_ns)
{
    const struct check_write *w = check_write_of(board, slot, generation, version);
    return atomic_load(&w->version) == 0 || now_ns - atomic_load(&w->begin_ns) > 2 * board->bound_ns;
}

static void raise_to(_Atomic uint64_t *word, uint64_t number)
{
    uint64_t now = atomic_load(word);
    while (now < number && !atomic_compare_exchange_weak(word, &now, number))
        ;
}

void check_begin(struct check_board *board, uint32_t slot, uint32_t generation, uint64_t version, uint32_t writer,
                 int64_t now_ns)
{
    struct check_write *w = check_write_of(board, slot, generation, version);
    atomic_store(&w->version, 0);
    atomic_store(&w->begin_ns, now_ns);
    atomic_store(&w->acked_ns, 0);
    atomic_store(&w->writer, writer);
    atomic_store(&w->version, version);
}

void check_acked(struct check_board *board, uint32_t slot, uint32_t generation, uint64_t version, int64_t now_ns)
{
    struct check_write *w = check_write_of(board, slot, generation, version);
    if (atomic_load(&w->version) == version)
        atomic_store(&w->acked_ns, now_ns);
    raise_to(&check_key_of(board, slot, generation)->acked, version);
}

void check_barred(struct check_board *board, uint32_t slot, uint32_t generation, uint64_t version)
{
    raise_to(&check_key_of(board, slot, generation)->barred, version);
}

void check_seen(struct check_board *board, uint32_t process, uint32_t slot, uint32_t generation, uint64_t version)
{
    raise_to(&board->process[process].seen[slot][generation & 1], (uint64_t)generation << VERSION_BITS | version);
}

static uint64_t seen_by(const struct check_board *board, uint32_t process, uint32_t slot, uint32_t generation)
{
    uint64_t seen = atomic_load(&board->process[process].seen[slot][generation & 1]);
    return seen >> VERSION_BITS == generation ? seen & ((UINT64_C(1) << VERSION_BITS) - 1) : 0;
}

/* ---------------------------------------------------------------- judging */

void check_judge_begin(struct check_judge *judge, struct check_read *read, uint32_t slot, uint32_t generation)
{
    struct check_board *board = judge->board;
    *read = (struct check_read){.slot = slot, .generation = generation, .bound_ns = board->bound_ns};
    read->seen = seen_by(board, judge->process, slot, generation);
    read->acked = atomic_load(&check_key_of(board, slot, generation)->acked);
    read->barred = atomic_load(&check_key_of(board, slot, generation)->barred);
    read->begin_ns = check_now(); /* after the words above: what they tell had happened before the read began */
}

/* The key's memory serves a newer generation: what was read from it is not to be compared with. */
static int is_gone(const struct check_judge *judge, const struct check_read *read)
{
    return atomic_load(&judge->board->slot[read->slot].oldest) > read->generation;
}

static void violation(struct check_judge *judge, const struct check_read *read, enum check_violation kind,
                      uint64_t newer, int64_t extra)
{
    struct check_note *note;
    if (is_gone(judge, read)) /* what it was compared with may be another generation's */
        return;
    if (!(note = note_begin(judge->board, kind, judge->process)))
        return;
    note->thread = judge->thread;
    note->slot = read->slot;
    note->generation = read->generation;
    note->source = read->source;
    note->status = read->status;
    note->version = read->version;
    note->newer = newer;
    note->begin_ns = read->begin_ns;
    note->end_ns = read->end_ns;
    note->bound_ns = read->bound_ns;
    note->extra = extra;
    note_writes(judge->board, note, read->version, read->version + 1);
    if (newer > read->version + 1)
        note_writes(judge->board, note, newer, newer);
    note_end(note);
}

/* The first acknowledgement of a version above; INT64_MAX: none that is noted.  What the ring no longer holds is older
 * than two bounds, and then so is what it holds first: that finds the violation as well. */
static int64_t overwritten_ns(struct check_judge *judge, const struct check_read *read, uint64_t *ret_newer)
{
    struct check_board *board = judge->board;
    uint64_t acked = atomic_load(&check_key_of(board, read->slot, read->generation)->acked);
    uint64_t from = read->version + 1, size = board->slot[read->slot].ring_size;
    int64_t first = INT64_MAX;
    if (acked >= from + size)
        from = acked - size + 1;
    for (uint64_t v = from; v <= acked; v++) {
        const struct check_write *w = check_write_of(board, read->slot, read->generation, v);
        int64_t ns = atomic_load(&w->acked_ns);
        if (atomic_load(&w->version) == v && ns > 0 && ns < first) {
            first = ns;
            *ret_newer = v;
        }
    }
    return first;
}

static void judge_age(struct check_judge *judge, const struct check_read *read)
{
    uint64_t newer = 0;
    int64_t first = overwritten_ns(judge, read, &newer), age = read->begin_ns - first;
    if (first >= read->begin_ns || is_gone(judge, read))
        return;
    check_count(&judge->reader->outdated, 1);
    near__histogram_record(&judge->reader->staleness, (uint64_t)age);
    if (age > read->bound_ns)
        violation(judge, read, CHECK_STALE, newer, age);
}

/* 1: it is decided. */
static int later_one(struct check_judge *judge, const struct check_read *read)
{
    const struct check_key *key = check_key_of(judge->board, read->slot, read->generation);
    if (is_gone(judge, read))
        return 1;
    if (atomic_load(&key->acked) <= read->version)
        return 0;
    judge_age(judge, read); /* a loss of data meanwhile changes nothing: the read had ended before */
    return 1;
}

static void later_of(struct check_judge *judge, uint32_t slot)
{
    struct check_read *later = judge->later[slot];
    uint32_t kept = 0;
    for (uint32_t i = 0; i < judge->later_count[slot]; i++)
        if (!later_one(judge, &later[i]))
            later[kept++] = later[i];
    judge->later_count[slot] = kept;
}

void check_judge_later(struct check_judge *judge)
{
    for (uint32_t i = 0; i < CHECK_SLOTS; i++)
        later_of(judge, i);
}

/* What acknowledgement would make a violation of it: one of before this time. */
static int64_t hardness_ns(const struct check_read *read)
{
    return read->begin_ns - read->bound_ns;
}

/* The place of a version's read with that bound, or the next free one; if there is none, that of the mildest test. */
static struct check_read *later_place(struct check_judge *judge, const struct check_read *read)
{
    struct check_read *later = judge->later[read->slot], *mildest = later;
    uint32_t count = judge->later_count[read->slot];
    for (uint32_t i = 0; i < count; i++) {
        if (later[i].version == read->version && later[i].generation == read->generation &&
            later[i].bound_ns == read->bound_ns)
            return &later[i];
        if (hardness_ns(&later[i]) < hardness_ns(mildest))
            mildest = &later[i];
    }
    if (count == CHECK_LATER)
        return mildest;
    judge->later_count[read->slot] = count + 1;
    later[count].begin_ns = 0;
    return &later[count];
}

/* A newer version is under way and may have been acknowledged already without its note being there.  Of several reads
 * of one version the last one is the hardest test, so that is kept.  What waits is as new as the newest acknowledged
 * version or newer, so there are no more such versions than writes under way, or of unknown fate: nearly always there
 * is a place for all. */
static void put_off(struct check_judge *judge, const struct check_read *read)
{
    later_of(judge, read->slot);
    struct check_read *place = later_place(judge, read);
    if (place->begin_ns == 0 || hardness_ns(place) < hardness_ns(read))
        *place = *read;
}

/* What a miss of a RECORD may have seen: judged as the newest removal, remembered as the oldest that is possible. */
static uint64_t removal_below(uint64_t version)
{
    return version - version % CHECK_REMOVES;
}

static uint64_t removal_above(uint64_t version)
{
    return version == 0 ? 0 : removal_below(version + CHECK_REMOVES - 1);
}

/* After a loss of data.  1: judged. */
static int judge_frozen(struct check_judge *judge, const struct check_read *read, const struct check_key *key)
{
    int64_t frozen = atomic_load(&key->frozen_ns), survivor = atomic_load(&key->survivor);
    if (frozen == 0)
        return 0;
    if (kind_is_loaded(judge->board->slot[read->slot].kind))
        return 1;
    if (frozen == CHECK_LOSING || atomic_load(&key->frozen_ns) != frozen || survivor < 0 ||
        read->begin_ns <= frozen + read->bound_ns)
        return 1;
    if (read->version != (uint64_t)survivor &&
        !(read->version == 0 && judge->board->slot[read->slot].kind == CHECK_EXPIRING))
        violation(judge, read, CHECK_SURVIVOR, (uint64_t)survivor, read->begin_ns - frozen);
    return 1;
}

static void judge_phantom(struct check_judge *judge, const struct check_read *read)
{
    const struct check_write *w = check_write_of(judge->board, read->slot, read->generation, read->version);
    if (atomic_load(&w->acked_ns) == CHECK_FAILED && atomic_load(&w->version) == read->version)
        violation(judge, read, CHECK_PHANTOM, 0, 0);
}

static void judge_expiry(struct check_judge *judge, const struct check_read *read)
{
    const struct check_write *w = check_write_of(judge->board, read->slot, read->generation, read->version);
    int64_t acked = atomic_load(&w->acked_ns);
    int64_t over = read->begin_ns - acked - check_ttl_ms(read->slot, read->version) * CHECK_NS_PER_MS;
    if (acked > 0 && atomic_load(&w->version) == read->version && over > EXPIRY_SLACK_NS)
        violation(judge, read, CHECK_EXPIRED, 0, over);
}

static void judge_order(struct check_judge *judge, struct check_read *read)
{
    struct check_board *board = judge->board;
    struct check_key *key = check_key_of(board, read->slot, read->generation);
    uint32_t kind = board->slot[read->slot].kind;
    uint64_t sent = atomic_load(&key->sent), remember = read->version;
    if (read->status == NEAR_MISS) {
        if (kind == CHECK_EXPIRING || kind_is_loaded(kind))
            return;
        read->version = kind == CHECK_RECORD ? removal_below(sent) : 0;
        remember = removal_above(read->seen);
    } else if (read->version > sent) {
        violation(judge, read, CHECK_DAMAGED, sent, 0);
        return;
    }
    if (read->version < read->seen)
        violation(judge, read, CHECK_BACKWARDS, read->seen, 0);
    else if (read->source == NEAR_FROM_REMOTE && read->version < read->acked)
        violation(judge, read, CHECK_LOST, read->acked, 0);
    else if (read->version < read->barred)
        violation(judge, read, CHECK_BARRIER, read->barred, 0);
    if (kind != CHECK_COUNTER && read->status == NEAR_OK)
        judge_phantom(judge, read);
    if (kind == CHECK_EXPIRING)
        judge_expiry(judge, read);
    int is_of_source = kind_is_loaded(kind) && (read->source == NEAR_FROM_LOADER || read->source == NEAR_FROM_FLIGHT);
    if (remember <= sent && !is_of_source)
        check_seen(board, judge->process, read->slot, read->generation, remember);
    if (read->version < atomic_load(&key->acked))
        judge_age(judge, read);
    else if (read->version < sent)
        put_off(judge, read);
}

uint32_t check_source(uint32_t told, uint32_t call_flags)
{
    if (told == 0 && call_flags & (NEAR_BYPASS_LOCAL | NEAR_REQUIRE_FRESH))
        return NEAR_FROM_REMOTE;
    return told;
}

void check_judge_end(struct check_judge *judge, struct check_read *read, const void *data, size_t size)
{
    struct check_board *board = judge->board;
    struct check_key *key = check_key_of(board, read->slot, read->generation);
    read->version = read->status == NEAR_OK ? check_version(board, read->slot, read->generation, data, size) : 0;
    check_count(&judge->reader->checked, 1);
    if (read->status == NEAR_OK && read->version == 0)
        violation(judge, read, CHECK_DAMAGED, 0, (int64_t)size);
    else if (is_gone(judge, read))
        check_count(&judge->reader->skipped, 1);
    else if (!judge_frozen(judge, read, key))
        judge_order(judge, read);
}

int check_judge_final(struct check_board *board, uint32_t process, uint32_t slot, uint32_t generation)
{
    struct check_key *key = check_key_of(board, slot, generation);
    uint64_t found = atomic_load(&board->process[process].swept_version[slot][generation & 1]);
    uint64_t before = atomic_load(&key->final[0]), after = atomic_load(&key->final[1]);
    if (found == 0 || before == 0 || after == 0)
        return 0;
    if (before == CHECK_NO_VALUE || after == CHECK_NO_VALUE)
        return 1; /* there was a complaint about that */
    if (board->slot[slot].kind == CHECK_EXPIRING && after == 1 && atomic_load(&key->open) == found - 1)
        return 1; /* a write of unknown fate took effect after the first look and had expired before the second */
    if (found != before && found != after)
        check_complain(board, CHECK_FINAL, process, slot, generation, (int64_t)found - 1);
    return 1;
}
