/* SPDX-License-Identifier: BSD-3-Clause */
#include "demo_board.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

const char *const violation_names[VIOLATION_COUNT] = {
    "damaged value",        "missing record",         "read went backwards",
    "own write not read",   "staler than the bound",  "acknowledged write lost",
    "old value at the end", "call past its deadline", "memory over budget",
    "no recovery",
};

int64_t board_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* ---------------------------------------------------------------- histograms */

static unsigned histogram_index(uint64_t ns)
{
    unsigned shift, index;
    if (ns < HISTOGRAM_SUB)
        return (unsigned)ns;
    shift = 63 - (unsigned)__builtin_clzll(ns) - 5; /* 2^5 sub-buckets */
    index = (shift + 1) * HISTOGRAM_SUB + (unsigned)(ns >> shift) - HISTOGRAM_SUB;
    return index < HISTOGRAM_ROWS * HISTOGRAM_SUB ? index : HISTOGRAM_ROWS * HISTOGRAM_SUB - 1;
}

static uint64_t histogram_upper(unsigned index)
{
    unsigned row = index / HISTOGRAM_SUB, sub = index % HISTOGRAM_SUB;
    return row == 0 ? sub : (((uint64_t)HISTOGRAM_SUB + sub + 1) << (row - 1)) - 1;
}

void histogram_add(struct board_histogram *h, int64_t ns)
{
    uint64_t value = ns > 0 ? (uint64_t)ns : 0;
    board_count(&h->bucket[histogram_index(value)], 1);
    if (value > atomic_load_explicit(&h->max, memory_order_relaxed)) /* relaxed: one writer */
        atomic_store_explicit(&h->max, value, memory_order_relaxed);
}

void histogram_merge(uint64_t sum[HISTOGRAM_ROWS * HISTOGRAM_SUB], const struct board_histogram *h)
{
    for (int i = 0; i < HISTOGRAM_ROWS * HISTOGRAM_SUB; i++)
        sum[i] += atomic_load_explicit(&h->bucket[i], memory_order_relaxed);
}

static uint64_t histogram_at(const uint64_t *sum, uint64_t count, double quantile)
{
    uint64_t wanted = (uint64_t)ceil((double)count * quantile), passed = 0;
    for (unsigned i = 0; i < HISTOGRAM_ROWS * HISTOGRAM_SUB; i++)
        if ((passed += sum[i]) >= wanted && sum[i] > 0)
            return histogram_upper(i);
    return 0;
}

struct board_quantiles histogram_quantiles(const uint64_t sum[HISTOGRAM_ROWS * HISTOGRAM_SUB])
{
    struct board_quantiles q = {0};
    for (int i = 0; i < HISTOGRAM_ROWS * HISTOGRAM_SUB; i++)
        q.count += sum[i];
    q.p50 = histogram_at(sum, q.count, 0.5);
    q.p99 = histogram_at(sum, q.count, 0.99);
    q.p999 = histogram_at(sum, q.count, 0.999);
    q.max = histogram_at(sum, q.count, 1);
    return q;
}

/* ---------------------------------------------------------------- random numbers (splitmix64) */

void random_seed(struct board_random *r, uint64_t seed)
{
    r->state = seed;
}

uint64_t random_next(struct board_random *r)
{
    uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint32_t random_below(struct board_random *r, uint32_t limit)
{
    return (uint32_t)((random_next(r) >> 32) * limit >> 32);
}

uint32_t random_record(struct board_random *r, const struct board *board)
{
    uint64_t number = random_next(r);
    uint32_t record = (uint32_t)((number >> 32) * board->record_count >> 32);
    float keep = (float)(number & 0xffffff) / (float)(1 << 24);
    return keep < board->records[record].keep ? record : board->records[record].alias;
}

/* Walker's alias method: each record keeps a part of its column, and gives the rest to one that has too little room. */
static int prepare_zipf(struct board *board, double exponent)
{
    uint32_t n = board->record_count, small = 0, large = 0;
    double *weight = calloc(n, sizeof *weight), sum = 0;
    uint32_t *todo = calloc(2 * (size_t)n, sizeof *todo); /* the small from the front, the large from the back */
    if (!weight || !todo) {
        free(weight);
        free(todo);
        return -1;
    }
    for (uint32_t i = 0; i < n; i++)
        sum += weight[i] = 1 / pow(i + 1.0, exponent);
    for (uint32_t i = 0; i < n; i++) {
        weight[i] *= n / sum;
        board->records[i].keep = 1;
        board->records[i].alias = i;
        if (weight[i] < 1)
            todo[small++] = i;
        else
            todo[2 * n - ++large] = i;
    }
    while (small > 0 && large > 0) {
        uint32_t poor = todo[--small], rich = todo[2 * n - large];
        board->records[poor].keep = (float)weight[poor];
        board->records[poor].alias = rich;
        weight[rich] -= 1 - weight[poor];
        if (weight[rich] < 1) {
            large--;
            todo[small++] = rich;
        }
    }
    free(weight);
    free(todo);
    return 0;
}

/* ---------------------------------------------------------------- the board */

static struct board *board_map(int fd, size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return memory == MAP_FAILED ? NULL : memory;
}

struct board *board_create(const char *path, uint32_t record_count, size_t text_size)
{
    size_t text_offset = sizeof(struct board) + record_count * sizeof(struct board_record);
    struct board *board;
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return NULL;
    if (posix_fallocate(fd, 0, (off_t)(text_offset + text_size)) != 0) { /* a full disk shows here, not as SIGBUS */
        close(fd);
        return NULL;
    }
    if (!(board = board_map(fd, text_offset + text_size)))
        return NULL;
    board->size = text_offset + text_size;
    board->record_count = record_count;
    board->text_offset = text_offset;
    board->text_size = text_size;
    return board;
}

struct board *board_open(const char *path)
{
    struct stat info;
    struct board *board;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    if (fstat(fd, &info) < 0 || (size_t)info.st_size < sizeof *board) {
        close(fd);
        return NULL;
    }
    board = board_map(fd, (size_t)info.st_size);
    if (board && board->size != (uint64_t)info.st_size) {
        munmap(board, (size_t)info.st_size);
        return NULL;
    }
    return board;
}

void board_close(struct board *board)
{
    if (board)
        munmap(board, board->size);
}

const char *board_text(const struct board *board, uint32_t offset)
{
    return (const char *)board + board->text_offset + offset;
}

/* Every fourth record from the most popular on is updated; every fourth of those by the client outside. */
static void prepare_watched(struct board *board)
{
    for (uint32_t i = 0; i < board->record_count; i++) {
        struct board_watched *w = &board->watched[board->watched_count];
        board->records[i].watched = -1;
        if (i % 4 != 0 || board->watched_count == BOARD_WATCHED)
            continue;
        w->record = i;
        w->owner = board->watched_count % board->processes;
        w->by_socket = board->watched_count / board->processes % 4 == 3;
        board->records[i].watched = (int32_t)board->watched_count++;
    }
}

int board_prepare(struct board *board, double exponent)
{
    prepare_watched(board);
    return prepare_zipf(board, exponent);
}

void board_violation(struct board *board, enum violation kind, uint32_t process, int32_t record, uint64_t version,
                     uint64_t newer, int64_t lag_ns)
{
    uint32_t place;
    if (atomic_fetch_add(&board->violations[kind], 1) >= BOARD_NOTES_OF_KIND)
        return; /* one wrong value is read by many: the first few of each kind tell the story */
    place = atomic_fetch_add(&board->note_count, 1);
    board->notes[place].kind = kind;
    board->notes[place].process = process;
    board->notes[place].record = record;
    board->notes[place].version = version;
    board->notes[place].newer = newer;
    board->notes[place].lag_ns = lag_ns;
    /* release: pairs with the acquire in board_note_text's caller's loop; publishes the fields above */
    atomic_store_explicit(&board->notes[place].ready, 1, memory_order_release);
}

uint64_t board_violations(const struct board *board)
{
    uint64_t sum = 0;
    for (int i = 0; i < VIOLATION_COUNT; i++)
        sum += atomic_load(&board->violations[i]);
    return sum;
}

void board_note_text(const struct board *board, const struct board_note *note, char *text, size_t capacity)
{
    const char *key = "";
    int size = 0, length;
    if (note->record >= 0 && (uint32_t)note->record < board->record_count) {
        key = board_text(board, board->records[note->record].key_offset);
        size = (int)board->records[note->record].key_size;
    }
    length = snprintf(text, capacity, "%s in process %" PRIu32, violation_names[note->kind], note->process + 1);
    if (size > 0 && length > 0 && (size_t)length < capacity)
        length += snprintf(text + length, capacity - (size_t)length, ": %.*s, version %" PRIu64 ", known %" PRIu64,
                           size, key, note->version, note->newer);
    if (note->lag_ns != 0 && length > 0 && (size_t)length < capacity)
        snprintf(text + length, capacity - (size_t)length, ", %.3f s", (double)note->lag_ns / 1e9);
}

/* ---------------------------------------------------------------- values */

/* A head, the body, and the version again at the end: halves of two versions cannot pass for one. */
struct value_head {
    char magic[8];
    uint64_t version, sum;
    uint32_t record, size;
};
static const char value_magic[8] = "nearrec\n";

static uint64_t value_sum(const struct value_head *head, const char *body, size_t size)
{
    uint64_t a = head->version * UINT64_C(0x9e3779b97f4a7c15) ^ head->record, b = head->size, word;
    while (size >= 16) {
        memcpy(&word, body, 8);
        a = (a ^ word) * UINT64_C(0xbf58476d1ce4e5b9);
        memcpy(&word, body + 8, 8);
        b = (b ^ word) * UINT64_C(0x94d049bb133111eb);
        a ^= a >> 32;
        b ^= b >> 29;
        body += 16;
        size -= 16;
    }
    for (; size > 0; size--)
        a = (a ^ (unsigned char)*body++) * UINT64_C(0x100000001b3);
    return a ^ (b << 1 | b >> 63);
}

size_t value_size(const struct board *board, uint32_t record)
{
    return sizeof(struct value_head) + board->records[record].body_size + sizeof(uint64_t);
}

void value_write(const struct board *board, uint32_t record, uint64_t version, char *buffer)
{
    const struct board_record *r = &board->records[record];
    struct value_head head = {.version = version, .record = record, .size = r->body_size};
    const char *body = board_text(board, r->body_offset);
    memcpy(head.magic, value_magic, sizeof head.magic);
    head.sum = value_sum(&head, body, r->body_size);
    memcpy(buffer, &head, sizeof head);
    memcpy(buffer + sizeof head, body, r->body_size);
    memcpy(buffer + sizeof head + r->body_size, &version, sizeof version);
}

uint64_t value_version(const struct board *board, uint32_t record, const void *data, size_t size)
{
    struct value_head head;
    const char *body = (const char *)data + sizeof head;
    uint64_t again;
    if (size != value_size(board, record))
        return 0;
    memcpy(&head, data, sizeof head);
    memcpy(&again, body + board->records[record].body_size, sizeof again);
    if (memcmp(head.magic, value_magic, sizeof head.magic) != 0 || head.record != record ||
        head.size != board->records[record].body_size || again != head.version ||
        value_sum(&head, body, head.size) != head.sum)
        return 0;
    return head.version;
}

/* ---------------------------------------------------------------- writing */

static void raise_to(_Atomic uint64_t *word, uint64_t version)
{
    uint64_t now = atomic_load(word);
    while (now < version && !atomic_compare_exchange_weak(word, &now, version))
        ;
}

uint64_t write_begin(struct board *board, uint32_t watched)
{
    struct board_watched *w = &board->watched[watched];
    uint64_t version = atomic_load(&w->sent) + 1;
    const struct board_ack *overwritten = &w->ring[version % BOARD_RING];
    if (atomic_load(&w->open) != 0)
        return 0;
    if (atomic_load(&overwritten->version) != 0 && board_now() - atomic_load(&overwritten->ns) < 4 * board->bound_ns)
        return 0;
    atomic_store(&w->sent, version); /* before the write itself: whoever reads the version finds that it was sent */
    return version;
}

void write_acked(struct board *board, uint32_t watched, uint64_t version, int64_t now_ns)
{
    struct board_watched *w = &board->watched[watched];
    struct board_ack *ack = &w->ring[version % BOARD_RING];
    raise_to(&w->sent, version);
    atomic_store(&ack->version, 0);
    atomic_store(&ack->ns, now_ns);
    atomic_store(&ack->version, version);
    atomic_store(&w->acked, version);
}

void write_unknown(struct board *board, uint32_t watched, uint64_t version)
{
    atomic_store(&board->watched[watched].open, version);
}

void write_settle(struct board *board, uint32_t watched, uint64_t version)
{
    struct board_watched *w = &board->watched[watched];
    if (version == 0 || version != atomic_load(&w->open))
        return;
    write_acked(board, watched, version, board_now());
    atomic_store(&w->open, 0);
}

/* ---------------------------------------------------------------- judging */

void judge_init(struct board_judge *judge, struct board *board, uint32_t process, uint32_t actor)
{
    memset(judge, 0, sizeof *judge);
    judge->board = board;
    judge->process = process;
    judge->actor = &board->process[process].actors[actor];
}

void judge_begin(struct board_judge *judge, uint32_t record, struct board_read *ret)
{
    struct board *board = judge->board;
    int32_t watched = board->records[record].watched;
    *ret = (struct board_read){.record = record};
    if (watched >= 0) {
        ret->seen = atomic_load(&board->process[judge->process].seen[watched]);
        if (board->watched[watched].owner == judge->process)
            ret->own = atomic_load(&board->watched[watched].acked);
    }
    ret->begin_ns = board_now(); /* after the words above: what they hold had happened before the read began */
}

/* Was a version above this one acknowledged before the read began, and how long before?  Final once acked > version. */
static void judge_age(struct board_judge *judge, uint32_t watched, uint64_t version, int64_t begin_ns)
{
    struct board *board = judge->board;
    struct board_watched *w = &board->watched[watched];
    int64_t first = INT64_MAX;
    uint64_t newer = 0;
    for (int i = 0; i < BOARD_RING; i++) {
        uint64_t v = atomic_load(&w->ring[i].version);
        int64_t ns = atomic_load(&w->ring[i].ns);
        if (v > version && ns < first && atomic_load(&w->ring[i].version) == v) {
            first = ns;
            newer = v;
        }
    }
    if (first >= begin_ns)
        return;
    histogram_add(&judge->actor->outdated, begin_ns - first);
    if (begin_ns - first > board->bound_ns)
        board_violation(board, VIOLATION_STALE, judge->process, (int32_t)w->record, version, newer, begin_ns - first);
}

static void judge_later_one(struct board_judge *judge, uint32_t watched, int slot, int force)
{
    uint64_t version = judge->later[watched][slot].version;
    if (version == 0 || (!force && atomic_load(&judge->board->watched[watched].acked) <= version))
        return;
    judge_age(judge, watched, version, judge->later[watched][slot].begin_ns);
    judge->later[watched][slot].version = 0;
}

void judge_later(struct board_judge *judge)
{
    for (uint32_t i = 0; i < judge->board->watched_count; i++)
        for (int slot = 0; slot < 2; slot++)
            judge_later_one(judge, i, slot, 0);
}

/* A newer version is under way and may have been acknowledged already without its note being there.  Of several reads
 * of one version the last one is the hardest test, so one place for a version is enough. */
static void judge_put_off(struct board_judge *judge, uint32_t watched, uint64_t version, int64_t begin_ns)
{
    int slot = 0;
    judge_later_one(judge, watched, 0, 0);
    judge_later_one(judge, watched, 1, 0);
    if (judge->later[watched][0].version != version && judge->later[watched][0].version != 0)
        slot = 1;
    if (slot == 1 && judge->later[watched][1].version != version && judge->later[watched][1].version != 0) {
        judge_later_one(judge, watched, 0, 1);
        judge->later[watched][0] = judge->later[watched][1];
    }
    judge->later[watched][slot].version = version;
    judge->later[watched][slot].begin_ns = begin_ns;
    board_count(&judge->actor->judged_late, 1);
}

static void judge_watched(struct board_judge *judge, uint32_t watched, const struct board_read *read, uint64_t version)
{
    struct board *board = judge->board;
    struct board_watched *w = &board->watched[watched];
    if (version > atomic_load(&w->sent))
        board_violation(board, VIOLATION_DAMAGED, judge->process, (int32_t)read->record, version, atomic_load(&w->sent),
                        0);
    else if (version < read->own)
        board_violation(board, VIOLATION_OWN_WRITE, judge->process, (int32_t)read->record, version, read->own, 0);
    else if (version < read->seen)
        board_violation(board, VIOLATION_BACKWARDS, judge->process, (int32_t)read->record, version, read->seen, 0);
    raise_to(&board->process[judge->process].seen[watched], version);
    if (version < atomic_load(&w->acked))
        judge_age(judge, watched, version, read->begin_ns);
    else if (version < atomic_load(&w->sent))
        judge_put_off(judge, watched, version, read->begin_ns);
}

uint64_t judge_end(struct board_judge *judge, const struct board_read *read, const void *data, size_t size)
{
    struct board *board = judge->board;
    uint64_t version = value_version(board, read->record, data, size);
    int32_t watched = board->records[read->record].watched;
    if (version == 0 || (watched < 0 && version != 1)) {
        board_violation(board, VIOLATION_DAMAGED, judge->process, (int32_t)read->record, version, 1, 0);
        return 0;
    }
    if (watched >= 0)
        judge_watched(judge, (uint32_t)watched, read, version);
    return version;
}
