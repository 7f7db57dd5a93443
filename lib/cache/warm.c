/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Warming: keys from a list, a file or a scan, read by ordinary batches, so that the ordinary rules (tickets,
 * positions) decide what is kept.  The file:
 *
 *      magic 8 | version 4 | 0 4 | keys 8 | checksum of the rest 8 | size 4, key | size 4, key | …
 *
 * Numbers are in the machine's byte order. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* mkostemp */
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/hash.h"
#include "cache/cache.h"
#include "remote/members.h"

#define BATCH_MOST 4096u
#define FILE_MAGIC "NEARKEYS"
#define FILE_FORMAT 1u
#define NAP_NS (20 * NEAR_NS_PER_MS)

struct warming {
    near_cache *cache;
    near_warm_options options;
    near_warm_result result;
    struct near__alloc alloc; /* the cache may be closed meanwhile */
    struct near__clock clock;
    near_item *items;
    int64_t started_ns;
};

/* ---------------------------------------------------------------- batches */

static int begin(struct warming *w, near_cache *cache, const near_warm_options *options)
{
    int status;
    memset(w, 0, sizeof(*w));
    w->result.size = sizeof(w->result); /* progress is shown it */
    near_warm_options_init(&w->options);
    if (options && (status = near__struct_copy(&w->options, sizeof(w->options), options, options->size)) != NEAR_OK)
        return status;
    if (!cache || !w->options.batch || w->options.batch > BATCH_MOST || w->options.reserved)
        return NEAR_ERR_INVALID;
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return status;
    w->cache = cache;
    w->alloc = impl->alloc;
    w->clock = impl->clock;
    w->started_ns = near__now(&impl->clock);
    w->items = near__alloc(&impl->alloc, w->options.batch * sizeof(*w->items));
    near__leave(impl);
    return w->items ? NEAR_OK : NEAR_ERR_NOMEM;
}

static int end(struct warming *w, near_warm_result *ret_result, int status)
{
    near__free(&w->alloc, w->items);
    if (ret_result) {
        size_t size = ret_result->size < sizeof(w->result) ? ret_result->size : sizeof(w->result);
        w->result.size = ret_result->size;
        memcpy(ret_result, &w->result, size);
    }
    return status;
}

/* Before each batch.  NEAR_PENDING: stop. */
static int pace(struct warming *w)
{
    static const struct near__clock kernel = {.virtual_ns = NULL}; /* virtual time moves when progress moves it */
    const near_warm_options *o = &w->options;
    int64_t due_ns = w->started_ns;
    if (o->keys_per_second)
        due_ns += (int64_t)((double)w->result.keys * (double)NEAR_NS_PER_S / o->keys_per_second);
    for (;;) {
        if (o->progress && o->progress(o->progress_arg, &w->result) != 0)
            return NEAR_PENDING;
        int64_t now_ns = near__now(&w->clock);
        if (now_ns >= due_ns)
            return NEAR_OK;
        int64_t nap_ns = due_ns - now_ns > NAP_NS ? NAP_NS : due_ns - now_ns;
        near__clock_sleep(&kernel, near__now(&kernel) + nap_ns);
    }
}

static void add(_Atomic(uint64_t) *counter, uint64_t more)
{
    atomic_fetch_add_explicit(counter, more, memory_order_relaxed); /* a statistic */
}

/* In the cache's statistics, unless it is closed by now. */
static void count_batch(const struct warming *w, const near_warm_result *before)
{
    int status;
    struct near__impl *impl = near__enter(w->cache, &status);
    if (!impl)
        return;
    add(&impl->counters.warm_keys, w->result.keys - before->keys);
    add(&impl->counters.warm_found, w->result.found - before->found);
    add(&impl->counters.warm_missing, w->result.missing - before->missing);
    add(&impl->counters.warm_errors, w->result.errors - before->errors);
    near__leave(impl);
}

static int read_batch(struct warming *w, size_t count)
{
    near_call call;
    near_call_init(&call);
    call.timeout_ms = w->options.timeout_ms;
    int status = near_mget(w->cache, w->items, count, &call);
    uint64_t errors = 0;
    near_warm_result before = w->result;
    for (size_t i = 0; i < count; i++) {
        errors += w->items[i].status < 0;
        w->result.found += w->items[i].status == NEAR_OK || w->items[i].status == NEAR_STALE;
        w->result.missing += w->items[i].status == NEAR_MISS;
        near_release(&w->items[i].value);
    }
    w->result.keys += count;
    w->result.errors += errors;
    count_batch(w, &before);
    return errors == count ? status : NEAR_OK;
}

static uint64_t keys_left(const struct warming *w)
{
    return w->options.keys_max ? w->options.keys_max - w->result.keys : UINT64_MAX;
}

/* NEAR_MISS: as many as were wanted. */
static int warm(struct warming *w, const near_key *keys, size_t count)
{
    int status = NEAR_OK;
    for (size_t at = 0, n; status == NEAR_OK && at < count; at += n) {
        n = count - at < w->options.batch ? count - at : w->options.batch;
        uint64_t left = keys_left(w);
        if (!left)
            return NEAR_MISS;
        if (n > left)
            n = (size_t)left;
        memset(w->items, 0, n * sizeof(*w->items));
        for (size_t i = 0; i < n; i++) {
            w->items[i].key = keys[at + i].key;
            w->items[i].key_size = keys[at + i].key_size;
        }
        status = pace(w);
        if (status == NEAR_OK)
            status = read_batch(w, n);
    }
    return status;
}

static int warm_all(struct warming *w, const near_key *keys, size_t count)
{
    w->result.total = w->options.keys_max && w->options.keys_max < count ? w->options.keys_max : count;
    int status = warm(w, keys, count);
    if (status >= 0 && status != NEAR_PENDING) {
        if (w->options.progress)
            w->options.progress(w->options.progress_arg, &w->result);
        return NEAR_OK;
    }
    return status;
}

int near_warm_keys(near_cache *cache, const near_key *keys, size_t count, const near_warm_options *options,
                   near_warm_result *ret_result)
{
    struct warming w;
    if (!keys && count)
        return NEAR_ERR_INVALID;
    for (size_t i = 0; i < count; i++) {
        int bad = near__key_check(keys[i].key, keys[i].key_size);
        if (bad != NEAR_OK)
            return bad;
    }
    int status = begin(&w, cache, options);
    if (status == NEAR_OK)
        status = warm_all(&w, keys, count);
    return end(&w, ret_result, status);
}

/* ---------------------------------------------------------------- scan */

/* Keys one after another, a size_t and the bytes. */
struct pages {
    struct near__buffer bytes;
    size_t count;
};

/* The library's own that nobody reads locally: leases, their counter, and the list of processes. */
static int is_momentary(const char *key, size_t key_size)
{
    const size_t lease = sizeof(NEAR_LEASE_SUFFIX) - 1, fence = sizeof(NEAR_FENCE_NAME) - 1;
    const size_t members = sizeof(NEAR_MEMBERS_NAME) - 1;
    return (key_size >= lease && memcmp(key + key_size - lease, NEAR_LEASE_SUFFIX, lease) == 0) ||
           (key_size == fence && memcmp(key, NEAR_FENCE_NAME, fence) == 0) ||
           (key_size == members && memcmp(key, NEAR_MEMBERS_NAME, members) == 0);
}

static void take_key(void *arg, const void *key, size_t key_size)
{
    struct pages *pages = arg;
    /* the first are another program's: none that we could read */
    if (key_size > NEAR_KEY_MAX || is_momentary(key, key_size))
        return;
    near__buffer_append(&pages->bytes, &key_size, sizeof key_size);
    near__buffer_append(&pages->bytes, key, key_size);
    pages->count++;
}

static int scan_page(struct warming *w, const char *pattern, char *cursor, struct pages *pages)
{
    int status;
    struct near__impl *impl = near__enter(w->cache, &status);
    if (!impl)
        return status;
    near_call call = {.timeout_ms = w->options.timeout_ms};
    pages->bytes.size = 0;
    pages->count = 0;
    status = impl->remote
                 ? near__remote_scan(impl->remote, pattern, cursor, near__deadline(impl, &call), take_key, pages)
                 : NEAR_ERR_UNSUPPORTED;
    near__leave(impl);
    return status == NEAR_OK && pages->bytes.failed ? NEAR_ERR_NOMEM : status;
}

static int warm_page(struct warming *w, const struct pages *pages)
{
    near_key *keys = near__alloc(&w->alloc, (pages->count + 1) * sizeof(*keys));
    const unsigned char *at = pages->bytes.data;
    if (!keys)
        return NEAR_ERR_NOMEM;
    for (size_t i = 0; i < pages->count; i++) {
        memcpy(&keys[i].key_size, at, sizeof keys[i].key_size);
        keys[i].key = at + sizeof keys[i].key_size;
        at += sizeof keys[i].key_size + keys[i].key_size;
    }
    int status = warm(w, keys, pages->count);
    near__free(&w->alloc, keys);
    return status;
}

int near_warm_scan(near_cache *cache, const char *pattern, const near_warm_options *options,
                   near_warm_result *ret_result)
{
    struct warming w;
    struct pages pages = {.count = 0};
    char cursor[NEAR_SCAN_CURSOR] = "0";
    if (!pattern)
        return NEAR_ERR_INVALID;
    int status = begin(&w, cache, options);
    near__buffer_init(&pages.bytes, &w.alloc);
    while (status == NEAR_OK) {
        status = scan_page(&w, pattern, cursor, &pages);
        if (status == NEAR_OK)
            status = warm_page(&w, &pages);
        if (strcmp(cursor, "0") == 0 || !keys_left(&w)) /* the pages that follow may have no key to notice it at */
            break;
    }
    if (w.cache)
        near__buffer_fini(&pages.bytes);
    return end(&w, ret_result, status == NEAR_MISS ? NEAR_OK : status);
}

/* ---------------------------------------------------------------- the file */

struct file_header {
    char magic[8];
    uint32_t version, zero;
    uint64_t keys, checksum;
};
_Static_assert(sizeof(struct file_header) == 32, "no padding in the file");

struct snapshot {
    struct near__buffer bytes; /* behind the header */
    uint64_t keys;
};

static void add_key(void *arg, const void *key, size_t key_size)
{
    struct snapshot *s = arg;
    uint32_t size = (uint32_t)key_size;
    near__buffer_append(&s->bytes, &size, sizeof size);
    near__buffer_append(&s->bytes, key, key_size);
    s->keys++;
}

static int system_failed(near_error *error, const char *path)
{
    return near__fail(error, NEAR_ERR_SYSTEM, "%s: %s", path, strerror(errno));
}

static const char new_name[] = ".new", other_name[] = ".XXXXXX"; /* behind the file's own */

/* Not what had the name before another process gave it to the snapshot, nor what somebody put there for us to write
 * into. */
static int is_ours(int fd, const char *new_path)
{
    struct stat file, named;
    return fstat(fd, &file) == 0 && stat(new_path, &named) == 0 && file.st_dev == named.st_dev &&
           file.st_ino == named.st_ino && S_ISREG(file.st_mode) && file.st_nlink == 1 && file.st_uid == geteuid();
}

/* The new file has a name that the next save takes again, so that what is left by processes that were killed while they
 * wrote does not pile up.  Where that one is in use (two save at once), or no good, it has a name of its own. */
static int open_new(char *new_path, size_t length)
{
    memcpy(new_path + length, new_name, sizeof new_name);
    int fd = open(new_path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 && is_ours(fd, new_path) && ftruncate(fd, 0) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    memcpy(new_path + length, other_name, sizeof other_name);
    return mkostemp(new_path, O_CLOEXEC);
}

/* new_path: room for the longer of the names. */
static int write_file(const struct snapshot *s, const char *path, char *new_path, near_error *error)
{
    struct file_header h = {.version = FILE_FORMAT, .keys = s->keys};
    size_t length = strlen(path);
    memcpy(h.magic, FILE_MAGIC, sizeof h.magic);
    h.checksum = near__hash(s->bytes.data, s->bytes.size, s->keys);
    memcpy(new_path, path, length);
    int fd = open_new(new_path, length);
    if (fd < 0)
        return system_failed(error, path);
    int failed = near__write_all(fd, 0, &h, sizeof h) < 0 ||
                 near__write_all(fd, sizeof h, s->bytes.data, s->bytes.size) < 0 || fsync(fd) < 0;
    int status = failed ? system_failed(error, new_path) : NEAR_OK;
    if (status == NEAR_OK && rename(new_path, path) < 0)
        status = system_failed(error, path);
    if (status != NEAR_OK)
        unlink(new_path);
    close(fd); /* last: it is locked as long as it has the new name */
    return status;
}

int near__warm_save(struct near__impl *impl, const char *path, uint64_t keys_max, uint64_t *ret_keys, near_error *error)
{
    struct snapshot s = {.keys = 0};
    size_t most = keys_max && keys_max < SIZE_MAX / 64 ? (size_t)keys_max : SIZE_MAX / 64;
    near__buffer_init(&s.bytes, &impl->alloc);
    char *new_path = near__alloc(&impl->alloc, strlen(path) + sizeof other_name);
    int status = new_path ? near__local_hottest(impl->local, most, add_key, &s) : NEAR_ERR_NOMEM;
    if (status == NEAR_OK && !s.bytes.failed)
        status = write_file(&s, path, new_path, error);
    else
        status = near__fail(error, NEAR_ERR_NOMEM, "%s", near_status_text(NEAR_ERR_NOMEM));
    if (status == NEAR_OK && ret_keys)
        *ret_keys = s.keys;
    near__buffer_fini(&s.bytes);
    near__free(&impl->alloc, new_path);
    return status;
}

int near_warm_save(near_cache *cache, const char *path, uint64_t keys_max, uint64_t *ret_keys, near_error *error)
{
    int status;
    if (!path)
        return near__fail(error, NEAR_ERR_INVALID, "path must not be NULL");
    struct near__impl *impl = near__enter(cache, &status);
    if (!impl)
        return near__fail(error, status, "%s", near_status_text(status));
    status = near__warm_save(impl, path, keys_max, ret_keys, error);
    near__leave(impl);
    return status;
}

/* Whatever else it is, or larger than its keys can be, and however large: the rest need not be read. */
static int is_foreign(const struct near__buffer *bytes)
{
    struct file_header h;
    if (bytes->size < sizeof h)
        return 0;
    memcpy(&h, bytes->data, sizeof h);
    return memcmp(h.magic, FILE_MAGIC, sizeof h.magic) != 0 ||
           (bytes->size - sizeof h) / (sizeof(uint32_t) + NEAR_KEY_MAX) > h.keys;
}

static int read_file(const char *path, struct near__buffer *bytes, near_error *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe has no writer to wait for: it is refused */
    struct stat st;
    if (fd < 0)
        return system_failed(error, path);
    ssize_t n = -1;
    int status = fstat(fd, &st) < 0 ? system_failed(error, path) : NEAR_OK;
    if (status == NEAR_OK && !S_ISREG(st.st_mode))
        status = near__fail(error, NEAR_ERR_SNAPSHOT, "%s is no plain file", path);
    while (status == NEAR_OK && n != 0 && !is_foreign(bytes)) {
        void *room = near__buffer_reserve(bytes, (size_t)1 << 16);
        if (!room)
            status = near__fail(error, NEAR_ERR_NOMEM, "%s", near_status_text(NEAR_ERR_NOMEM));
        else if ((n = read(fd, room, (size_t)1 << 16)) > 0)
            bytes->size += (size_t)n;
        else if (n < 0 && errno != EINTR)
            status = system_failed(error, path);
    }
    close(fd);
    return status;
}

/* The keys point into bytes.  NULL: the file is not what it should be, or no memory. */
static near_key *parse(struct warming *w, const struct near__buffer *bytes, size_t *ret_count, int *ret_status)
{
    struct file_header h;
    *ret_status = NEAR_ERR_SNAPSHOT;
    if (bytes->size < sizeof h)
        return NULL;
    memcpy(&h, bytes->data, sizeof h);
    const unsigned char *at = bytes->data + sizeof h;
    size_t left = bytes->size - sizeof h;
    if (memcmp(h.magic, FILE_MAGIC, sizeof h.magic) != 0 || h.version != FILE_FORMAT ||
        h.keys > left / sizeof(uint32_t) || h.checksum != near__hash(at, left, h.keys))
        return NULL;
    near_key *keys = near__alloc(&w->alloc, ((size_t)h.keys + 1) * sizeof(*keys));
    *ret_status = keys ? NEAR_OK : NEAR_ERR_NOMEM;
    for (size_t i = 0; keys && i < h.keys; i++) {
        uint32_t size = 0;
        if (left >= sizeof size)
            memcpy(&size, at, sizeof size);
        if (left < sizeof size || size > NEAR_KEY_MAX || size > left - sizeof size) {
            near__free(&w->alloc, keys);
            *ret_status = NEAR_ERR_SNAPSHOT;
            return NULL;
        }
        keys[i] = (near_key){.key = at + sizeof size, .key_size = size};
        at += sizeof size + size;
        left -= sizeof size + size;
    }
    *ret_count = (size_t)h.keys;
    return keys;
}

static int warm_from(struct warming *w, const char *path, near_error *error)
{
    struct near__buffer bytes;
    size_t count = 0;
    near__buffer_init(&bytes, &w->alloc);
    int status = read_file(path, &bytes, error);
    if (status == NEAR_OK) {
        near_key *keys = parse(w, &bytes, &count, &status);
        if (keys) {
            status = warm_all(w, keys, count);
            if (status < 0)
                near__fail(error, status, "%s", near_status_text(status));
        } else {
            near__fail(error, status, "%s: %s", path, near_status_text(status));
        }
        near__free(&w->alloc, keys);
    }
    near__buffer_fini(&bytes);
    return status;
}

int near_warm_file(near_cache *cache, const char *path, const near_warm_options *options, near_warm_result *ret_result,
                   near_error *error)
{
    struct warming w;
    if (!path)
        return near__fail(error, NEAR_ERR_INVALID, "path must not be NULL");
    int status = begin(&w, cache, options);
    if (status == NEAR_OK)
        status = warm_from(&w, path, error);
    else
        near__fail(error, status, "%s", near_status_text(status));
    return end(&w, ret_result, status);
}
