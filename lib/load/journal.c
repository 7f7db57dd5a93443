/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The journal's file:
 *
 *      header   magic 8 | version 4 | 0 4 | id 8 | checksum 8
 *      record   magic 4 | type 4 | checksum 8 | sequence 8 | key size 4 | value size 4 | header's checksum 8 |
 *               key | value
 *      record   …
 *
 * Numbers are in the machine's byte order.  A checksum (XXH3) covers everything else of its header or record and is
 * seeded with the file's random id, so that nothing from another journal, be it a value that somebody cached, passes
 * for a record of this one.
 *
 * A record's header has a checksum of its own, which covers everything before it.  So a size is believed only if it was
 * written here: looking for the next readable record in bytes that somebody chose costs one header's checksum for each
 * of them at most, never as much as they claim to be.  Version 1 had none, and version 2 no
 * notes of what is to be forgotten.  Both are read all the same, and take nothing: the queue replaces them by a file of
 * the present version right after.
 *
 * A crash may tear the last write.  What cannot be read is a torn end when nothing readable follows, and is cut off: it
 * was never acknowledged, since acknowledgement comes after the write (and, as the policy has it, after the disk's own
 * word).  When a readable record follows, it is damage, and acknowledged updates may be in it: that is told, not
 * skipped, unless salvage was asked for.
 *
 * A write that fails is taken back with ftruncate; if even that fails the file takes nothing more.  After a failed
 * fdatasync the kernel may have dropped the dirty pages, so trying again proves nothing.  In both cases the journal
 * refuses until a rewrite, of all that is queued, has made a new file; the queue tries one, with pauses, whenever
 * somebody wants to put an update into it.
 *
 * Rewriting: new file beside the old one, fsync, rename, fsync of the folder.  The lock (flock) is on the file, not its
 * name: who opens checks that the locked file still has the name.
 *
 * One lock of its own, for those who wait for the disk: (s).  Everything else belongs to whoever holds the queue's
 * lock. */
#include "load/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/random.h"

#define FILE_MAGIC "NEARJRNL"
#define FILE_VERSION 3u
#define FILE_VERSION_OLDEST 1u /* records end their header before its own checksum */
#define RECORD_MAGIC 0x4a52434eu
#define CHUNK ((size_t)1 << 18)

struct file_header {
    char magic[8];
    uint32_t version, zero;
    uint64_t id, checksum;
};
struct record_header {
    uint32_t magic, type;
    uint64_t checksum, sequence;
    uint32_t key_size, value_size;
    uint64_t header_checksum;
};
_Static_assert(sizeof(struct file_header) == 32 && sizeof(struct record_header) == 40, "no padding in the file");

struct near__journal {
    const struct near__alloc *alloc;
    const struct near__log *log;
    char *path, *new_path;
    uint64_t id, size;          /* of the current file */
    uint64_t old_id, old_size;  /* while it is rewritten: of the one that stays if that fails */
    int new_fd;                 /* -1: not rewriting */
    struct near__buffer buffer; /* added, not yet written */
    uint32_t version;           /* of the file that was opened; what is written is of the present one */
    int broken;                 /* takes nothing more until it has been replaced */
    unsigned troubles;          /* a near__journal_trouble each, not told yet */
    int trouble_error;          /* of the last one */
    pthread_mutex_t lock;
    pthread_cond_t synced_cond;
    int fd;                   /* s to change */
    uint64_t written, synced; /* s: bytes ever, over all files */
    int syncing, sync_failed; /* s */
};

/* ---------------------------------------------------------------- records */

static uint64_t file_checksum(const struct file_header *h)
{
    return near__hash(h, offsetof(struct file_header, checksum), 1);
}

static uint64_t record_checksum(const struct record_header *h, const void *key, const void *value, uint64_t id)
{
    size_t covered = offsetof(struct record_header, sequence), end = offsetof(struct record_header, header_checksum);
    uint64_t sum = near__hash((const unsigned char *)h + covered, end - covered, id ^ h->type);
    sum = near__hash(key, h->key_size, sum);
    return near__hash(value, h->value_size, sum);
}

static uint64_t header_checksum(const struct record_header *h, uint64_t id)
{
    return near__hash(h, offsetof(struct record_header, header_checksum), id);
}

/* Of a record's header in the file that was opened. */
static size_t header_bytes(const struct near__journal *j)
{
    return j->version < 2 ? offsetof(struct record_header, header_checksum) : sizeof(struct record_header);
}

/* The header at the beginning of these bytes, of which there are enough for one.  Returns how many bytes its record
 * has; 0: it is none. */
static size_t parse_header(const struct near__journal *j, const unsigned char *at, struct record_header *ret)
{
    memcpy(ret, at, header_bytes(j));
    if (ret->magic != RECORD_MAGIC || ret->type < NEAR_RECORD_SET || ret->type > NEAR_RECORD_FORGOTTEN_ALL ||
        ret->key_size > NEAR_KEY_MAX || ret->value_size > NEAR_VALUE_MAX)
        return 0;
    if (j->version >= 2 && ret->header_checksum != header_checksum(ret, j->id))
        return 0;
    return header_bytes(j) + ret->key_size + ret->value_size;
}

/* The record at the beginning of these bytes; 0: there is none that is whole and right. */
static size_t parse(const struct near__journal *j, const unsigned char *at, size_t size,
                    struct near__journal_record *ret)
{
    struct record_header h;
    size_t whole = size < header_bytes(j) ? 0 : parse_header(j, at, &h);
    if (!whole || whole > size)
        return 0;
    const unsigned char *key = at + header_bytes(j), *value = key + h.key_size;
    if (record_checksum(&h, key, value, j->id) != h.checksum)
        return 0;
    *ret = (struct near__journal_record){.type = (enum near__journal_type)h.type,
                                         .sequence = h.sequence,
                                         .key = key,
                                         .key_size = h.key_size,
                                         .value = value,
                                         .value_size = h.value_size};
    return whole;
}

void near__journal_add(struct near__journal *j, const struct near__journal_record *r)
{
    struct record_header h = {.magic = RECORD_MAGIC,
                              .type = r->type,
                              .sequence = r->sequence,
                              .key_size = (uint32_t)r->key_size,
                              .value_size = (uint32_t)r->value_size};
    h.checksum = record_checksum(&h, r->key, r->value, j->id);
    h.header_checksum = header_checksum(&h, j->id);
    near__buffer_append(&j->buffer, &h, sizeof h);
    near__buffer_append(&j->buffer, r->key, r->key_size);
    near__buffer_append(&j->buffer, r->value, r->value_size);
}

/* ---------------------------------------------------------------- writing */

static int empty_buffer(struct near__journal *j, int status)
{
    if (j->buffer.capacity > CHUNK) { /* one large value does not keep its memory for ever */
        near__buffer_fini(&j->buffer);
        near__buffer_init(&j->buffer, j->alloc);
    }
    j->buffer.size = 0;
    j->buffer.failed = 0;
    return status;
}

static void note_trouble(struct near__journal *j, enum near__journal_trouble trouble)
{
    j->trouble_error = errno;
    j->troubles |= trouble;
}

unsigned near__journal_troubles(struct near__journal *j, int *ret_error)
{
    unsigned troubles = j->troubles;
    *ret_error = j->trouble_error;
    j->troubles = 0;
    return troubles;
}

static void note_written(struct near__journal *j, size_t size)
{
    pthread_mutex_lock(&j->lock);
    j->written += size;
    pthread_mutex_unlock(&j->lock);
}

static int sync_has_failed(struct near__journal *j)
{
    pthread_mutex_lock(&j->lock);
    int failed = j->sync_failed;
    pthread_mutex_unlock(&j->lock);
    return failed;
}

int near__journal_is_broken(struct near__journal *j)
{
    return j->broken || sync_has_failed(j);
}

int near__journal_commit(struct near__journal *j)
{
    int fd = j->new_fd >= 0 ? j->new_fd : j->fd;
    if (j->buffer.failed)
        return empty_buffer(j, NEAR_ERR_NOMEM);
    if (j->new_fd < 0 && near__journal_is_broken(j))
        return empty_buffer(j, NEAR_ERR_JOURNAL);
    if (near__write_all(fd, j->size, j->buffer.data, j->buffer.size) < 0) {
        note_trouble(j, NEAR_TROUBLE_WRITING);
        /* both: a part of a record must neither stay nor be written behind */
        if (ftruncate(fd, (off_t)j->size) < 0 || lseek(fd, (off_t)j->size, SEEK_SET) < 0)
            j->broken |= j->new_fd < 0;
        return empty_buffer(j, NEAR_ERR_JOURNAL);
    }
    j->size += j->buffer.size;
    note_written(j, j->buffer.size);
    return empty_buffer(j, NEAR_OK);
}

uint64_t near__journal_file_bytes(const struct near__journal *j)
{
    return j->size;
}

static int write_header(int fd, uint64_t *ret_id)
{
    struct file_header h = {.version = FILE_VERSION};
    memcpy(h.magic, FILE_MAGIC, sizeof h.magic);
    if (near__random_seed(&h.id, sizeof h.id) < 0)
        return -1;
    h.checksum = file_checksum(&h);
    *ret_id = h.id;
    return near__write_all(fd, 0, &h, sizeof h);
}

/* The folder's entry of the file is on the disk, too.  0, or -1 with errno: the name may be gone, or be another file's,
 * after a loss of power. */
static int sync_folder(const struct near__journal *j)
{
    char folder[PATH_MAX] = "./"; /* a file that could be opened has no longer path */
    const char *slash = strrchr(j->path, '/');
    if (slash)
        snprintf(folder, sizeof folder, "%.*s", (int)(slash - j->path) + 1, j->path);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int failed = fsync(fd) < 0 && errno != EINVAL; /* file systems that cannot, need not */
    int error = errno;
    close(fd);
    errno = error;
    return failed ? -1 : 0;
}

/* ---------------------------------------------------------------- waiting for the disk */

uint64_t near__journal_mark(const struct near__journal *j)
{
    return j->written; /* only changed under the queue's lock, which the caller holds */
}

int near__journal_sync(struct near__journal *j, uint64_t mark)
{
    pthread_mutex_lock(&j->lock);
    while (j->synced < mark && !j->sync_failed) {
        if (j->syncing) {
            pthread_cond_wait(&j->synced_cond, &j->lock);
            continue;
        }
        uint64_t upto = j->written; /* whatever was written before counts for all who wait */
        j->syncing = 1;
        pthread_mutex_unlock(&j->lock);
        int failed = fdatasync(j->fd) < 0; /* while syncing, nobody changes fd */
        pthread_mutex_lock(&j->lock);
        j->syncing = 0;
        if (failed)
            j->sync_failed = 1;
        else if (j->synced < upto)
            j->synced = upto;
        pthread_cond_broadcast(&j->synced_cond);
    }
    int status = j->synced >= mark ? NEAR_OK : NEAR_ERR_JOURNAL;
    pthread_mutex_unlock(&j->lock);
    return status;
}

/* ---------------------------------------------------------------- rewriting */

static int rewrite_failed(struct near__journal *j)
{
    int fd = j->new_fd;
    note_trouble(j, NEAR_TROUBLE_REPLACING);
    j->new_fd = -1; /* first: see near__journal_abandon */
    if (fd >= 0) {
        close(fd);
        unlink(j->new_path);
    }
    j->id = j->old_id;
    j->size = j->old_size;
    return empty_buffer(j, NEAR_ERR_JOURNAL);
}

/* What was added and not yet written has the old file's checksums, and is about updates that the new one does not
 * have. */
int near__journal_rewrite_begin(struct near__journal *j)
{
    empty_buffer(j, NEAR_OK);
    j->old_id = j->id;
    j->old_size = j->size;
    j->new_fd = open(j->new_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (j->new_fd < 0 || flock(j->new_fd, LOCK_EX | LOCK_NB) < 0 || write_header(j->new_fd, &j->id) < 0)
        return rewrite_failed(j);
    j->size = sizeof(struct file_header);
    return NEAR_OK;
}

int near__journal_rewrite_end(struct near__journal *j)
{
    int status = near__journal_commit(j);
    if (status != NEAR_OK || fsync(j->new_fd) < 0 || rename(j->new_path, j->path) < 0) {
        rewrite_failed(j);
        return status != NEAR_OK ? status : NEAR_ERR_JOURNAL;
    }
    int named = sync_folder(j) == 0;
    if (!named)
        note_trouble(j, NEAR_TROUBLE_REPLACING);
    pthread_mutex_lock(&j->lock);
    while (j->syncing)
        pthread_cond_wait(&j->synced_cond, &j->lock);
    int old_fd = j->fd;
    j->fd = j->new_fd;
    j->new_fd = -1;
    close(old_fd); /* last: see near__journal_abandon */
    if (named)
        j->synced = j->written;
    j->sync_failed = !named; /* the name may still be the old file's, which has nothing of what comes now */
    pthread_cond_broadcast(&j->synced_cond);
    pthread_mutex_unlock(&j->lock);
    j->broken = 0;
    return named ? NEAR_OK : NEAR_ERR_JOURNAL;
}

/* ---------------------------------------------------------------- opening */

static int refuse(const struct near__journal *j, near_error *error, const char *what)
{
    return near__fail(error, NEAR_ERR_JOURNAL, "journal %s: %s: %s", j->path, what, strerror(errno));
}

/* Opens and locks the file that has the name. */
static int open_locked(struct near__journal *j, near_error *error)
{
    for (;;) {
        struct stat ours, named;
        j->fd = open(j->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (j->fd < 0)
            return refuse(j, error, "cannot be opened");
        if (flock(j->fd, LOCK_EX | LOCK_NB) < 0)
            return errno == EWOULDBLOCK ? near__fail(error, NEAR_ERR_JOURNAL, "journal %s is in use", j->path)
                                        : refuse(j, error, "cannot be locked");
        if (fstat(j->fd, &ours) < 0)
            return refuse(j, error, "cannot be looked at");
        if (!S_ISREG(ours.st_mode))
            return near__fail(error, NEAR_ERR_JOURNAL, "journal %s is no plain file", j->path);
        int gone = stat(j->path, &named) < 0;
        if (gone && errno != ENOENT)
            return refuse(j, error, "cannot be looked at");
        if (!gone && named.st_ino == ours.st_ino && named.st_dev == ours.st_dev) {
            j->size = (uint64_t)ours.st_size;
            return NEAR_OK;
        }
        close(j->fd); /* replaced while we waited for nothing: the next one */
        j->fd = -1;
    }
}

static int read_exactly(int fd, void *bytes, size_t size, uint64_t at)
{
    for (unsigned char *to = bytes; size;) {
        ssize_t n = pread(fd, to, size, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        to += n;
        at += (uint64_t)n;
        size -= (size_t)n;
    }
    return 0;
}

/* A part of the file in memory. */
struct window {
    struct near__buffer bytes;
    uint64_t at; /* in the file, of the first byte */
};

/* The bytes from `at` on, at least `need` of them if the file has so many; NULL with *ret_status. */
static const unsigned char *slide(const struct near__journal *j, struct window *w, uint64_t at, size_t need,
                                  size_t *ret_size, int *ret_status)
{
    if (at > w->at + w->bytes.size) { /* behind a damage */
        w->bytes.size = 0;
        w->at = at;
    }
    uint64_t end = w->at + w->bytes.size;
    *ret_status = NEAR_OK;
    if (end - at < need && end < j->size) {
        near__buffer_consume(&w->bytes, (size_t)(at - w->at));
        w->at = at;
        size_t more = need > CHUNK ? need : CHUNK;
        if (more > j->size - end)
            more = (size_t)(j->size - end);
        void *room = near__buffer_reserve(&w->bytes, more);
        *ret_status = !room ? NEAR_ERR_NOMEM : read_exactly(j->fd, room, more, end) < 0 ? NEAR_ERR_JOURNAL : NEAR_OK;
        if (*ret_status != NEAR_OK)
            return NULL;
        w->bytes.size += more;
        end += more;
    }
    *ret_size = (size_t)(end - at);
    return w->bytes.data + (at - w->at);
}

/* The record at `at`, *ret_size 0 when it cannot be read. */
static int read_record(const struct near__journal *j, struct window *w, uint64_t at, struct near__journal_record *ret,
                       size_t *ret_size)
{
    struct record_header h;
    int status;
    size_t size;
    const unsigned char *bytes = slide(j, w, at, header_bytes(j), &size, &status);
    *ret_size = 0;
    if (!bytes || size < header_bytes(j))
        return status;
    size_t whole = parse_header(j, bytes, &h);
    if (!whole || whole > j->size - at)
        return NEAR_OK;
    bytes = slide(j, w, at, whole, &size, &status);
    if (bytes)
        *ret_size = parse(j, bytes, size, ret);
    return status;
}

/* Where the next readable record begins, from `from` on; the file's end when there is none. */
static int find_readable(const struct near__journal *j, struct window *w, uint64_t from, uint64_t *ret_next)
{
    struct near__journal_record ignored;
    size_t size = 0;
    int status = NEAR_OK;
    uint64_t at = from;
    while (at < j->size && (status = read_record(j, w, at, &ignored, &size)) == NEAR_OK && !size)
        at++;
    *ret_next = at;
    return status;
}

/* Something at `at` cannot be read.  *ret_next: where to go on. */
static int judge(struct near__journal *j, struct window *w, uint64_t at, int salvage, uint64_t *ret_next,
                 near_error *error)
{
    uint64_t next = 0;
    int status = find_readable(j, w, at + 1, &next);
    if (status != NEAR_OK)
        return near__fail(error, status, "journal %s: cannot look behind byte %llu: %s", j->path,
                          (unsigned long long)at, near_status_text(status));
    *ret_next = next;
    if (next == j->size) {
        near__log(j->log, NEAR_LOG_WARNING, "load", "journal %s: a torn end of %llu bytes was cut off", j->path,
                  (unsigned long long)(next - at));
        if (ftruncate(j->fd, (off_t)at) < 0)
            return refuse(j, error, "the torn end cannot be cut off");
        j->size = *ret_next = at;
        return NEAR_OK;
    }
    if (!salvage)
        return near__fail(error, NEAR_ERR_JOURNAL,
                          "journal %s: damaged from byte %llu to %llu; readable records follow", j->path,
                          (unsigned long long)at, (unsigned long long)next);
    near__log(j->log, NEAR_LOG_ERROR, "load", "journal %s: damaged from byte %llu to %llu, skipped", j->path,
              (unsigned long long)at, (unsigned long long)next);
    return NEAR_OK;
}

static int replay(struct near__journal *j, int salvage, near__journal_fn fn, void *arg, near_error *error)
{
    struct window w = {.at = sizeof(struct file_header)};
    int status = NEAR_OK;
    near__buffer_init(&w.bytes, j->alloc);
    for (uint64_t at = sizeof(struct file_header); status == NEAR_OK && at < j->size;) {
        struct near__journal_record record;
        size_t size;
        status = read_record(j, &w, at, &record, &size);
        if (status != NEAR_OK)
            status =
                near__fail(error, status, "journal %s: cannot be read at byte %llu", j->path, (unsigned long long)at);
        else if (!size)
            status = judge(j, &w, at, salvage, &at, error);
        else if ((status = fn(arg, &record)) != NEAR_OK)
            near__fail(error, status, "journal %s: %s", j->path, near_status_text(status));
        else
            at += size;
    }
    near__buffer_fini(&w.bytes);
    return status;
}

/* Whether the file is nothing but zeros: 1, 0, or -1 with errno. */
static int is_blank(const struct near__journal *j)
{
    static const unsigned char zeros[4096];
    unsigned char bytes[sizeof zeros];
    for (uint64_t at = 0; at < j->size; at += sizeof bytes) {
        size_t size = j->size - at < sizeof bytes ? (size_t)(j->size - at) : sizeof bytes;
        if (read_exactly(j->fd, bytes, size, at) < 0)
            return -1;
        if (memcmp(bytes, zeros, size) != 0)
            return 0;
    }
    return 1;
}

/* Whether a crash while the file was made can have left it so: the beginning of a header, or room that was never
 * written to.  (A header is on the disk before anything is acknowledged.)  1, 0, or -1 with errno. */
static int is_torn_at_birth(const struct near__journal *j, const struct file_header *h)
{
    if (j->size < sizeof *h && memcmp(h, FILE_MAGIC, j->size < sizeof h->magic ? j->size : sizeof h->magic) == 0)
        return 1;
    return h->magic[0] ? 0 : is_blank(j);
}

static int begin_anew(struct near__journal *j, near_error *error)
{
    if (j->size)
        near__log(j->log, NEAR_LOG_WARNING, "load", "journal %s: torn while it was made; begun anew", j->path);
    if (ftruncate(j->fd, 0) < 0 || write_header(j->fd, &j->id) < 0 || fsync(j->fd) < 0)
        return refuse(j, error, "cannot be written");
    j->size = sizeof(struct file_header);
    return NEAR_OK;
}

/* A file that was torn while it was made is begun anew: nothing was ever acknowledged on it.  Anything else that does
 * not begin as a journal is somebody's. */
static int read_header(struct near__journal *j, near_error *error)
{
    struct file_header h = {.version = 0};
    if (read_exactly(j->fd, &h, j->size < sizeof h ? (size_t)j->size : sizeof h, 0) < 0)
        return refuse(j, error, "cannot be read");
    int torn = is_torn_at_birth(j, &h);
    if (torn < 0)
        return refuse(j, error, "cannot be read");
    if (torn)
        return begin_anew(j, error);
    if (j->size < sizeof h || memcmp(h.magic, FILE_MAGIC, sizeof h.magic) != 0)
        return near__fail(error, NEAR_ERR_JOURNAL, "%s is no journal", j->path);
    if (h.checksum != file_checksum(&h))
        return near__fail(error, NEAR_ERR_JOURNAL, "journal %s: its header is damaged", j->path);
    if (h.version < FILE_VERSION_OLDEST || h.version > FILE_VERSION)
        return near__fail(error, NEAR_ERR_JOURNAL, "journal %s is of version %u; this library reads %u to %u", j->path,
                          h.version, FILE_VERSION_OLDEST, FILE_VERSION);
    j->id = h.id;
    j->version = h.version;
    j->broken = h.version != FILE_VERSION; /* its records would not be of its version */
    return NEAR_OK;
}

static int open_steps(struct near__journal *j, int salvage, near__journal_fn fn, void *arg, near_error *error)
{
    int status = open_locked(j, error);
    if (status == NEAR_OK)
        status = read_header(j, error);
    if (status == NEAR_OK && sync_folder(j) < 0) /* also when it was there: who made it may have been killed */
        status = refuse(j, error, "its folder cannot be put on the disk");
    if (status == NEAR_OK)
        status = replay(j, salvage, fn, arg, error);
    if (status == NEAR_OK && lseek(j->fd, (off_t)j->size, SEEK_SET) < 0)
        status = refuse(j, error, "cannot be positioned");
    return status;
}

int near__journal_open(const struct near__alloc *alloc, const struct near__log *log, const char *path, int salvage,
                       near__journal_fn fn, void *arg, struct near__journal **ret, near_error *error)
{
    struct near__journal *j = near__alloc_zero(alloc, sizeof *j);
    if (!j)
        return near__fail(error, NEAR_ERR_NOMEM, "%s", near_status_text(NEAR_ERR_NOMEM));
    size_t length = strlen(path);
    j->alloc = alloc;
    j->log = log;
    j->fd = j->new_fd = -1;
    j->version = FILE_VERSION;
    near__buffer_init(&j->buffer, alloc);
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->synced_cond, NULL);
    j->path = near__strdup(alloc, path);
    j->new_path = near__alloc(alloc, length + sizeof ".new");
    int status = NEAR_ERR_NOMEM;
    if (j->path && j->new_path) {
        memcpy(j->new_path, path, length);
        memcpy(j->new_path + length, ".new", sizeof ".new");
        status = open_steps(j, salvage, fn, arg, error);
    } else {
        near__fail(error, NEAR_ERR_NOMEM, "%s", near_status_text(NEAR_ERR_NOMEM));
    }
    if (status != NEAR_OK) {
        near__journal_close(j);
        return status;
    }
    *ret = j;
    return NEAR_OK;
}

/* A number that is here is open: whoever closes one takes it out before, for it may be another file's right after. */
void near__journal_abandon(const struct near__journal *j)
{
    if (j->fd >= 0)
        close(j->fd);
    if (j->new_fd >= 0 && j->new_fd != j->fd)
        close(j->new_fd);
}

void near__journal_close(struct near__journal *j)
{
    if (!j)
        return;
    if (j->fd >= 0) {
        flock(j->fd, LOCK_UN); /* a child that was forked meanwhile has the file open, too, and with it the lock */
        close(j->fd);
    }
    near__buffer_fini(&j->buffer);
    pthread_mutex_destroy(&j->lock);
    pthread_cond_destroy(&j->synced_cond);
    near__free(j->alloc, j->path);
    near__free(j->alloc, j->new_path);
    near__free(j->alloc, j);
}
