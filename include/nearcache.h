/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nearcache: a lock-free cache in the application's own process, in front of Redis.
 *
 * Everything here may be called from any number of threads at once, with no registration, unless a
 * function says otherwise.  Keys and values are bytes with a length: they may be empty and may contain
 * any byte.  Options and call structures begin with their own size, so that they can grow: fill them
 * with their _init function, then change fields.
 *
 * Results: 0 (NEAR_OK) is done, a positive status is an outcome that is not an error (NEAR_MISS), a
 * negative one is an error, so that `if (status < 0)` is the whole test.
 *
 * "Blocks: never" has one exception: a thread's first call on a cache makes the thread's record there,
 * so it allocates and waits for a short mutex of the library's; a call on a cache after one on another
 * may have to look for the record, under the same mutex.
 *
 * Numbers that are missing among the statuses, and bits that are missing among flags, are not in use; a
 * flag that a function does not know is NEAR_ERR_INVALID.
 */
#ifndef NEARCACHE_H
#define NEARCACHE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define NEAR_API __attribute__((visibility("default")))
#else
#define NEAR_API
#endif

#define NEAR_VERSION_MAJOR 0
#define NEAR_VERSION_MINOR 1
#define NEAR_VERSION_PATCH 0
#define NEAR_VERSION_STRING "0.1.0"

/* ---------------------------------------------------------------- status */

/* One list makes the enumeration, the names and the texts.  Values never change once released. */
#define NEAR_STATUS_MAP(X) X(OK, 0, "done") NEAR_STATUS_OTHERS_(X)
#define NEAR_STATUS_OTHERS_(X)                                                                                         \
    X(MISS, 1, "the key does not exist")                                                                               \
    X(STALE, 2, "served without a current freshness proof, or past its time")                                          \
    X(UNMET, 3, "the condition of a conditional write was not met; nothing was written")                               \
    X(TRUNCATED, 4, "the value does not fit the caller's buffer; the size needed was returned")                        \
    X(UNCHANGED, 5, "a loader's answer: the old value still holds")                                                    \
    X(LOCKED, 8, "somebody else holds the lock")                                                                       \
    X(PENDING, 9, "accepted, but not finished yet")                                                                    \
    X(UNAPPLIED, 14, "written, but some process may still serve what was there before")                                \
    X(UNSAVED, 18, "closed, but the snapshot of keys could not be written")                                            \
    X(ERR_INVALID, -1, "an argument is invalid")                                                                       \
    X(ERR_NOMEM, -2, "memory allocation failed")                                                                       \
    X(ERR_CLOSED, -3, "the cache is closed")                                                                           \
    X(ERR_FORKED, -4, "this handle belongs to the parent process; open a new one")                                     \
    X(ERR_BUSY, -5, "values are still pinned or owned, or a source is open")                                           \
    X(ERR_TOO_LARGE, -6, "the key or the value exceeds its limit")                                                     \
    X(ERR_OPTION, -7, "unknown option, or a value outside its range")                                                  \
    X(ERR_URI, -8, "the URI is malformed")                                                                             \
    X(ERR_UNSUPPORTED, -9, "not supported by this build or this remote tier")                                          \
    X(ERR_TIMEOUT, -10, "the deadline passed; nothing was changed")                                                    \
    X(ERR_UNKNOWN, -11, "a write was sent but its fate is unknown; no local copy remains")                             \
    X(ERR_UNAVAILABLE, -12, "the remote tier cannot be reached")                                                       \
    X(ERR_IO, -13, "the connection failed")                                                                            \
    X(ERR_PROTOCOL, -14, "the remote tier sent a malformed or unexpected reply")                                       \
    X(ERR_AUTH, -15, "the remote tier refused the credentials")                                                        \
    X(ERR_DENIED, -16, "the remote tier's access rules forbid the command, key or channel")                            \
    X(ERR_LOADING, -17, "the remote tier is loading its data")                                                         \
    X(ERR_READONLY, -18, "the remote tier is a read-only replica")                                                     \
    X(ERR_FULL, -19, "the remote tier is out of memory; or there is none, and the local tier has no room")             \
    X(ERR_WRONG_TYPE, -20, "the key holds a value of another type")                                                    \
    X(ERR_MOVED, -21, "the key belongs to another server")                                                             \
    X(ERR_SCRIPT_BUSY, -22, "the remote tier is busy running a script")                                                \
    X(ERR_MAX_CLIENTS, -23, "the remote tier has reached its limit of clients")                                        \
    X(ERR_MISCONFIGURED, -24, "the remote tier refuses writes because of its configuration or replicas")               \
    X(ERR_REMOTE, -25, "the remote tier answered with an error")                                                       \
    X(ERR_TLS, -26, "the TLS handshake or certificate verification failed")                                            \
    X(ERR_RESOLVE, -27, "the host name cannot be resolved")                                                            \
    X(ERR_UNPROVEN, -28, "freshness is not proven at present and the policy is to fail")                               \
    X(ERR_OVERFLOW, -29, "the counter is not an integer or would overflow")                                            \
    X(ERR_SYSTEM, -30, "a system call failed")                                                                         \
    X(ERR_LOAD, -31, "the loader failed, and there is no old value to serve")                                          \
    X(ERR_LOADER, -32, "the loader returned something that is not allowed; nothing was kept")                          \
    X(ERR_LOAD_TIMEOUT, -33, "the loader did not return within its time; it may still fill the cache")                 \
    X(ERR_LOCK_LOST, -35, "the lock is no longer held; somebody else may have it")                                     \
    X(ERR_JOURNAL, -36, "the journal is damaged, in use, or cannot be written")                                        \
    X(ERR_QUEUE_FULL, -37, "the queue of updates is full")                                                             \
    X(ERR_REJECTED, -38, "the source rejected the update for good")                                                    \
    X(ERR_SNAPSHOT, -48, "the file is damaged, or no snapshot of keys")

typedef enum near_status {
    NEAR_OK = 0 /* apart, so that no comma is left over at the end, which older standards do not know */
#define NEAR_STATUS_ENUM_(name, value, text) , NEAR_##name = (value)
    NEAR_STATUS_OTHERS_(NEAR_STATUS_ENUM_)
#undef NEAR_STATUS_ENUM_
} near_status;

/* The name of a status ("NEAR_ERR_TIMEOUT") and a sentence about it; "unknown status" for others.
 * Owner: static.  Blocks: never. */
NEAR_API const char *near_status_name(int status);
NEAR_API const char *near_status_text(int status);
/* 1 when the same call may succeed later with no change (time-outs, connection faults, busy servers). */
NEAR_API int near_status_is_transient(int status);

/* Details of a failure, in memory of the caller's.  Written only when the call returns an error. */
typedef struct near_error {
    int status;
    char text[252]; /* one line, NUL-terminated, never contains a password */
} near_error;

/* ---------------------------------------------------------------- options */

typedef struct near_cache near_cache;

/* Levels as in syslog: 3 error, 4 warning, 5 notice, 6 information, 7 debugging.
 * Owner: component and text, one line each, are the library's and live until the function returns.
 * Called with no lock of the library's held, from any thread, also the library's own.  It may call
 * near_stats_get, near_get and near_peek on the same cache, nothing else. */
typedef void (*near_log_fn)(void *arg, int level, const char *component, const char *text);

/* Memory for the library's own structures.  All three or none; same contract as malloc, realloc, free.
 * Called from any thread.  TLS and name resolution keep their own allocators. */
typedef struct near_allocator {
    void *(*allocate)(void *arg, size_t size);
    void *(*reallocate)(void *arg, void *memory, size_t size);
    void (*release)(void *arg, void *memory);
    void *arg;
} near_allocator;

/* What a read does while the proof that the local tier is fresh is missing. */
typedef enum near_unproven {
    NEAR_UNPROVEN_READ_THROUGH = 0, /* ask the remote tier (default) */
    NEAR_UNPROVEN_SERVE_STALE = 1,  /* serve with NEAR_STALE while the last proof is younger than stale_ms */
    NEAR_UNPROVEN_FAIL = 2          /* return NEAR_ERR_UNPROVEN */
} near_unproven;

/* What makes room when the local tier is full.  What is dead (expired, idle, cleared) always goes first. */
typedef enum near_policy {
    NEAR_POLICY_LRU = 0,    /* the least recently used (default) */
    NEAR_POLICY_S3FIFO = 1, /* new keys in a small queue, proven ones in a large one: withstands scans */
    NEAR_POLICY_RANDOM = 2, /* any */
    /* as LRU, but only what has a time to live; if no entry has one, new values are not kept */
    NEAR_POLICY_VOLATILE_LRU = 3,
    NEAR_POLICY_VOLATILE_RANDOM = 4, /* any that has a time to live; likewise */
    NEAR_POLICY_ADAPTIVE = 5         /* LRU or S3FIFO, whichever answers more of a sample of the reads */
} near_policy;

/* Who else writes the keys. */
typedef enum near_track {
    NEAR_TRACK_NONE = 0, /* nobody: all writers use this library (default) */
    NEAR_TRACK_BCAST = 1 /* anybody: the remote tier reports every write, expiry, eviction and flush */
} near_track;

/* Which plain writes take their value along in the message to the other processes, up to message_value_max. */
typedef enum near_values {
    NEAR_VALUES_ADAPTIVE = 0, /* those of keys that other processes have lately held when they were written (default);
                                 with NEAR_TRACK_BCAST none, since the remote tier's report takes the value away at
                                 once */
    NEAR_VALUES_ALWAYS = 1,   /* all */
    NEAR_VALUES_NEVER = 2     /* none */
} near_values;

/* Ranges and defaults: near_option_info_at, docs/options.md. */
typedef struct near_options {
    size_t size;                 /* sizeof(near_options), set by near_options_init */
    uint64_t local_bytes;        /* budget of the local tier, everything included */
    uint64_t local_entries;      /* most entries in the local tier; 0: only bytes count */
    uint64_t value_max;          /* largest value accepted, bytes */
    uint64_t local_value_max;    /* largest value kept locally, bytes; 0: an eighth of the budget */
    uint32_t bound_ms;           /* staleness bound */
    uint32_t stale_ms;           /* second bound, for NEAR_UNPROVEN_SERVE_STALE */
    uint32_t unproven;           /* a near_unproven */
    uint32_t local_ttl_ms;       /* longest life of a local copy; 0: as long as in the remote tier */
    uint32_t idle_ms;            /* a local copy not read for so long is dropped; 0: never */
    uint32_t timeout_ms;         /* deadline of a call that names none */
    uint32_t connect_timeout_ms; /* resolving, connecting, TLS, authentication together */
    uint32_t connections;        /* shared data connections */
    uint32_t backoff_min_ms;     /* first pause between reconnections */
    uint32_t backoff_max_ms;     /* longest pause between reconnections */
    uint32_t breaker_failures;   /* failures in a row that open the circuit breaker */
    uint32_t log_level;          /* messages up to this level reach log */
    const char *prefix;          /* put before every key in the remote tier; also names the channel */
    const char *username;        /* ACL user; overrides the URI */
    const char *password;        /* overrides the URI */
    const char *client_name;     /* CLIENT SETNAME; NULL: "nearcache" */
    /* Files of certificates and keys: what a new connection finds changed it reads again, see near_open. */
    const char *tls_ca_file; /* NULL: the system's certificates */
    const char *tls_ca_dir;
    const char *tls_cert_file; /* client certificate, with tls_key_file */
    const char *tls_key_file;
    const char *tls_server_name; /* SNI and name check; NULL: the URI's host, or the one that sentinels tell */
    uint32_t tls_verify;         /* 1 (default): verify the chain and the host name */
    uint32_t reserved;           /* 0 */
    near_log_fn log;
    void *log_arg;
    near_allocator allocator;
    uint32_t policy;            /* a near_policy */
    uint32_t track;             /* a near_track */
    uint32_t message_value_max; /* largest value that travels in its write's message, bytes; 0: none */
    uint32_t load_threads;      /* most threads that run loaders; started when needed */
    uint32_t load_refreshes;    /* most refreshes at once that nobody waits for; one call for many keys is one */
    uint32_t curve;             /* 1: near_advise knows something */
    uint32_t hot_keys;          /* near_hot_keys tells so many; 0: none */
    uint64_t auto_bytes_min;    /* automatic size: least, bytes */
    uint64_t auto_bytes_max;    /* automatic size: most, bytes; 0: local_bytes */
    uint32_t auto_hit_permille; /* automatic size: hit ratio to reach; 0: the size is local_bytes */
    uint32_t auto_pressure;     /* automatic size: 1 (default): memory is given back when it is short */
    /* local entries compared a second after a fault, instead of being dropped; 0: dropped */
    uint32_t repair_rate;
    /* 1 (default): the snapshot is read after near_open; 0: near_warm_file is called when wanted */
    uint32_t snapshot_load;
    const char *snapshot;          /* file of hot keys: written by near_close, read after near_open; NULL: none */
    uint64_t snapshot_keys;        /* most keys in it; 0: all */
    uint64_t snapshot_rate;        /* so many of them are read a second; 0: as fast as the remote tier answers */
    uint32_t message_values;       /* a near_values: which writes take their value along */
    uint32_t reserved_2;           /* 0 */
    const char *sentinel_master;   /* with redis-sentinel://: the name of the master */
    const char *sentinel_username; /* of the sentinels; NULL: none */
    const char *sentinel_password;
} near_options;

/* Fills options with the defaults, as many fields as the caller's struct has.  Blocks: never. */
NEAR_API void near_options_init_sized(near_options *options, size_t size);
static inline void near_options_init(near_options *options)
{
    near_options_init_sized(options, sizeof(*options));
}

/* Sets one option by its name, from text ("local_bytes" "64m", "bound_ms" "250ms", "tls_verify" "no").
 * The same names serve as URI query parameters and, in upper case after NEAR_, in the environment of a program that
 * calls near_options_from_environment.
 * Owner: texts are not copied; they must live until near_open returns.
 * Returns NEAR_OK, NEAR_ERR_OPTION or NEAR_ERR_INVALID; error may be NULL. */
NEAR_API int near_option_set(near_options *options, const char *name, const char *text, near_error *error);

/* Applies every NEAR_<OPTION> environment variable that is set (none in a set-user-ID program).  Nothing else reads
 * them: near_open does not.
 * Owner: keeps pointers into the environment.  Not safe beside setenv.  Returns as near_option_set. */
NEAR_API int near_options_from_environment(near_options *options, near_error *error);

/* One row of the option table. */
typedef struct near_option_info {
    const char *name;
    const char *type; /* "size", "count", "duration", "boolean", "choice", "text" */
    const char *default_text;
    uint64_t min, max;    /* of numbers, in bytes or milliseconds */
    const char *choices;  /* of a choice: "read_through|serve_stale|fail" */
    const char *sentence; /* what it does */
    int at_run_time;      /* 1 when a near_set_… function changes it on an open cache */
} near_option_info;
/* The row with that number, from 0 on; NULL past the end.  Owner: static.  Threads: any.  Blocks: never. */
NEAR_API const near_option_info *near_option_info_at(size_t index);

/* Writes the URI without its password into buffer, cut off where it does not fit, and NUL-terminated when capacity is
 * above 0; with capacity 0 buffer may be NULL.  Of a malformed URI only the scheme is written, and "***"; NULL is an
 * empty text.  Threads: any.  Blocks: never.  Returns the length that the whole text has, as snprintf does. */
NEAR_API size_t near_uri_redact(const char *uri, char *buffer, size_t capacity);

/* ---------------------------------------------------------------- open and close */

/* Opens a cache.
 *
 *   redis://[user[:password]@]host[:port][/db][?option=value&…]    rediss:// the same over TLS
 *   redis-sentinel://[user[:password]@]host[:port][,host[:port]…][/db]?sentinel_master=NAME[&…]
 *                      the server that these sentinels (port 26379) name as the master, asked again for each new
 *                      connection; user and password are the master's.  rediss-sentinel://: TLS to all of them
 *   unix://[user[:password]@]/path/of/socket[?db=N&…]
 *   memory://NAME      a store inside this process, shared by all caches that name it; it begins empty with the first
 *                      of them and is gone with the last: near_close of that one loses its data
 *   local:             no remote tier at all
 *
 * User, password and path may be percent-encoded; an IPv6 host stands in brackets.  The connection is
 * made in the background: a cache opens while Redis is down and works as soon as it is there.
 * The files of tls_ca_file, tls_ca_dir, tls_cert_file and tls_key_file are read here, and again when a new connection
 * finds that they have changed, so certificates may be renewed in their places; open connections keep what they were
 * made with.  Changed files that cannot be used leave the ones read before in use: a warning, and
 * near_stats.tls_files_refused; the next connection tries again.
 * Threads: any.  Blocks: on allocation and thread creation only.
 * With the option snapshot a thread reads the keys of that file, if it is there, into the local tier, hottest first, as
 * soon as the remote tier answers; near_stats.snapshot_status tells how it went.  Nothing waits for it.  Returns
 * NEAR_OK; or, with *ret_cache NULL, NEAR_ERR_INVALID (a NULL), NEAR_ERR_URI, NEAR_ERR_OPTION (also: the structure was
 * not initialised, or has a field that a later version knows),
 * NEAR_ERR_UNSUPPORTED, NEAR_ERR_TLS (a file of certificates or keys cannot be used), NEAR_ERR_NOMEM, NEAR_ERR_SYSTEM,
 * NEAR_ERR_FORKED (in a child whose parent was in the middle of a grace period at fork). */
NEAR_API int near_open(const char *uri, const near_options *options, near_cache **ret_cache, near_error *error);

/* Closes a cache: new calls are refused with NEAR_ERR_CLOSED, calls under way end, the library's threads
 * are joined.  The handle itself (a few dozen bytes) stays, so that late calls are refused and harmless.
 * With the option snapshot the hottest keys are then written into that file, for the next near_open; it is left as it
 * is when there are no keys, or when what is in it has not been read yet.  Blocks: until calls under way have ended, at
 * most their deadlines; with snapshot on the disk; where barriers are used, for a round trip, 250 ms at most, to tell
 * that this process need not be waited for any more.  Threads: any, also beside calls on the same cache.
 * Returns NEAR_OK; NEAR_UNSAVED: closed, but the snapshot could not be written (the log says why); NEAR_ERR_BUSY when
 * values are still held or a source is open: the cache stays open, near_stats.values_held and the log tell how many,
 * but calls of other threads may have been refused with NEAR_ERR_CLOSED until that was known; NEAR_ERR_CLOSED;
 * NEAR_ERR_FORKED; NEAR_ERR_INVALID (NULL). */
NEAR_API int near_close(near_cache *cache);

/* ---------------------------------------------------------------- calls */

/* near_call.flags.  So that one near_call may serve both, writes pay no heed to those that are about reading. */
enum {
    NEAR_BYPASS_LOCAL = 1u << 0,  /* do not look in the local tier; without a remote one every such read is a miss */
    NEAR_NO_FILL = 1u << 1,       /* do not keep what was read or written in the local tier */
    NEAR_ALLOW_STALE = 1u << 2,   /* as NEAR_UNPROVEN_SERVE_STALE, for this call */
    NEAR_REQUIRE_FRESH = 1u << 8, /* reads: as new as a read of the remote tier itself, see near_get */
    /* writes: return when no process serves what was there before, see near_barrier */
    NEAR_WRITE_BARRIER = 1u << 20
};

/* What a write with NEAR_WRITE_BARRIER in near_call.flags tells of the other processes (near_set, near_del,
 * near_expire, near_incr, near_cas, near_mset, near_mdel, near_clear, near_invalidate_tag, near_namespace_invalidate,
 * near_source_set, near_source_del).  Such a write returns when every process that shares the prefix has applied it, or
 * serves nothing from its local tier: one that is stopped, cut off or dead holds it up until its staleness bound is
 * over, no longer; give it a deadline beyond that (timeout_ms above bound_ms).  Reads that begin after it see the
 * write, or something newer, in any process; except those that ask for stale values.  The first barrier of a prefix,
 * and the first after Redis has lost its data, takes a bound.  When the deadline comes first NEAR_OK becomes
 * NEAR_UNAPPLIED: the write is done, and all promises of a plain write hold.  Other outcomes (NEAR_MISS, NEAR_UNMET)
 * stay as they are; look at missing and unlisted. */
typedef struct near_barrier {
    size_t size;
    uint32_t processes; /* other processes that were asked */
    uint32_t missing;   /* of them and ours, those that may still serve something older */
    /* 1: there may be more, which the remote tier does not know of (yet), or could not be asked for */
    uint32_t unlisted;
    uint32_t reserved;
} near_barrier;
static inline void near_barrier_init(near_barrier *barrier)
{
    near_barrier zero = {0, 0, 0, 0, 0};
    zero.size = sizeof(zero);
    *barrier = zero;
}

/* Options of one call; NULL means the cache's defaults everywhere. */
typedef struct near_call {
    size_t size;
    uint32_t flags;
    uint32_t timeout_ms; /* 0: the cache's */
    uint32_t bound_ms;   /* a tighter staleness bound for this read; 0: the cache's */
    uint32_t reserved;   /* 0 */
    /* with NEAR_WRITE_BARRIER: filled by the call, its size must be set; NULL: only the status tells */
    near_barrier *barrier;
} near_call;
static inline void near_call_init(near_call *call)
{
    near_call zero = {0, 0, 0, 0, 0, 0};
    zero.size = sizeof(zero);
    *call = zero;
}

/* A pinned value.  data stays valid and unchanged until near_release. */
typedef struct near_value {
    const void *data;
    size_t size;
    /* time left, -1: no expiry; of a loaded value with stale_ms or fail_ms until it is gone, not until it is old; of a
       local copy at most 34 years, after which it is gone */
    int64_t ttl_ms;
    /* NEAR_FROM_LOCAL, NEAR_FROM_REMOTE, NEAR_FROM_FLIGHT (another thread's fetch), NEAR_FROM_LOADER */
    uint32_t source;
    uint32_t state_; /* the library's */
    void *private_[3];
} near_value;
enum { NEAR_FROM_LOCAL = 1, NEAR_FROM_REMOTE = 2, NEAR_FROM_FLIGHT = 3, NEAR_FROM_LOADER = 4 };

/* Reads a key: from the local tier if it is there and proven fresh, otherwise from the remote tier.
 * Owner: on NEAR_OK and NEAR_STALE the caller holds the value until near_release, which the same thread
 * must call; otherwise the value is zeroed, and near_release does nothing.  A local hit takes no lock, makes no
 * system call and allocates nothing as long as the thread holds fewer than 64 values; a further one is copied.
 * With NEAR_REQUIRE_FRESH the read sees every write that returned before the call began, in whatever process
 * (linearizable, as far as the remote tier is one master): a local copy is served after a freshness proof that began
 * after the call did, which costs about a round trip, shared by all who wait at that moment, and moves no value;
 * without such a copy or proof the remote tier is read.  Not together with NEAR_ALLOW_STALE.  NEAR_WRITE_BARRIER is for
 * writes only.  Blocks: on a hit never, unless NEAR_REQUIRE_FRESH; otherwise up to the deadline.  Returns NEAR_OK,
 * NEAR_MISS, NEAR_STALE, NEAR_ERR_INVALID, _TOO_LARGE (key), _NOMEM, _CLOSED, _FORKED, _UNPROVEN, _TIMEOUT,
 * _UNAVAILABLE, _IO, _PROTOCOL and the remote tier's own errors (_AUTH … _REMOTE). */
NEAR_API int near_get(near_cache *cache, const void *key, size_t key_size, const near_call *call,
                      near_value *ret_value);

/* Gives a value back.  Does nothing on a zeroed or already released one.  Blocks: never. */
NEAR_API void near_release(near_value *value);

/* Turns a pinned value into one that any thread may release; the thread that holds it calls.
 * Returns NEAR_OK, NEAR_ERR_NOMEM (still pinned) or NEAR_ERR_INVALID (nothing is held).  Blocks: never. */
NEAR_API int near_own(near_value *value);

/* As near_get, but copies the value into buffer (which may be NULL with capacity 0).  ret_size is the value's whole
 * size, also on NEAR_TRUNCATED, when the first capacity bytes are copied; NEAR_TRUNCATED takes precedence over
 * NEAR_STALE.  Nothing needs releasing.  Blocks: as near_get.  Returns as near_get, and NEAR_TRUNCATED. */
NEAR_API int near_get_copy(near_cache *cache, const void *key, size_t key_size, const near_call *call, void *buffer,
                           size_t capacity, size_t *ret_size);

/* Looks in the local tier only; never touches the network, never blocks.
 * Returns NEAR_OK, NEAR_STALE (only with the option unproven=serve_stale), NEAR_MISS (also when freshness is not
 * proven), NEAR_ERR_INVALID, _TOO_LARGE, _CLOSED, _FORKED, _NOMEM. */
NEAR_API int near_peek(near_cache *cache, const void *key, size_t key_size, near_value *ret_value);

/* Forgets the local copy in this process only; without a remote tier that is all there is of the key.  Reads under way
 * do not bring it back.  Blocks: never.  Returns NEAR_OK (whether there was a copy or not), NEAR_ERR_INVALID,
 * _TOO_LARGE, _CLOSED, _FORKED. */
NEAR_API int near_drop(near_cache *cache, const void *key, size_t key_size);

enum {
    NEAR_SET_IF_ABSENT = 1u << 0,  /* NX */
    NEAR_SET_IF_PRESENT = 1u << 1, /* XX */
    NEAR_SET_KEEP_TTL = 1u << 2
};
typedef struct near_write {
    size_t size;
    uint32_t flags;
    uint32_t reserved; /* 0 */
    int64_t ttl_ms;    /* 0: no expiry; otherwise at least 1, at most a hundred years */
} near_write;
static inline void near_write_init(near_write *write)
{
    near_write zero = {0, 0, 0, 0};
    zero.size = sizeof(zero);
    *write = zero;
}

/* Writes a key through to the remote tier.  NEAR_OK means that the remote tier has it and every process is told.
 * write and call may be NULL.  Blocks: up to the deadline.
 * Returns NEAR_OK, NEAR_UNAPPLIED (only with NEAR_WRITE_BARRIER), NEAR_UNMET, NEAR_ERR_INVALID, _TOO_LARGE, _NOMEM,
 * _CLOSED, _FORKED, _TIMEOUT (not sent), _UNKNOWN (sent, no answer), _UNAVAILABLE, _IO (not sent), _PROTOCOL and the
 * remote tier's own errors.  Without a remote tier ("local:") NEAR_ERR_FULL: there is no room for the value, and what
 * the key had before is gone; NEAR_ERR_TIMEOUT, of writes that depend on what is there (a flag, near_expire, near_incr,
 * near_cas): the library's thread was moving the entry to a larger or smaller index and got no processor for a tenth of
 * a second; and a read at the moment in which another thread replaces the value, or in which it is moved, may return
 * NEAR_MISS. */
NEAR_API int near_set(near_cache *cache, const void *key, size_t key_size, const void *value, size_t value_size,
                      const near_write *write, const near_call *call);

/* Removes a key everywhere.  NEAR_MISS: it did not exist.  Otherwise as near_set. */
NEAR_API int near_del(near_cache *cache, const void *key, size_t key_size, const near_call *call);

/* Gives a key a new time to live (1 ms to a hundred years), or none with ttl_ms 0.  NEAR_MISS: it does not exist.
 * Otherwise as near_set. */
NEAR_API int near_expire(near_cache *cache, const void *key, size_t key_size, int64_t ttl_ms, const near_call *call);

/* Adds delta to the decimal integer in key (absent: 0), atomically; keeps the time to live.
 * ret_number, the sum, may be NULL; it is set on NEAR_OK alone.  Returns as near_set, and NEAR_ERR_OVERFLOW. */
NEAR_API int near_incr(near_cache *cache, const void *key, size_t key_size, int64_t delta, const near_call *call,
                       int64_t *ret_number);

/* Replaces the value if it equals expected, atomically.  NEAR_UNMET: it does not; NEAR_MISS: the key does not exist.
 * The write's NX/XX flags are not allowed.  Otherwise as near_set. */
NEAR_API int near_cas(near_cache *cache, const void *key, size_t key_size, const void *expected, size_t expected_size,
                      const void *value, size_t value_size, const near_write *write, const near_call *call);

/* ---------------------------------------------------------------- many keys at once */

typedef struct near_item {
    const void *key;
    size_t key_size;
    const void *data; /* near_mset: the value */
    size_t size;
    int32_t status; /* set by the call, for this key */
    uint32_t reserved;
    near_value value; /* near_mget: as by near_get, to be released */
} near_item;

/* Reads count keys: local hits first, one round trip for the rest.  Each item has its own status; the call returns
 * NEAR_OK when no item has an error, otherwise the first item's error in order.  When the call as a whole fails (bad
 * arguments, no memory, closed cache) every item has the status that it returns.  Release every value with near_release
 * (harmless on those that have none, and after any failure). */
NEAR_API int near_mget(near_cache *cache, near_item *items, size_t count, const near_call *call);
/* Writes, or removes, count keys in one round trip.  Each key is written atomically, the whole is not.  Items of
 * near_mset without NX or XX run in order: of a key that is there twice the later value stays.
 * With NEAR_WRITE_BARRIER one barrier is behind them all, also when some have failed; NEAR_UNAPPLIED is the call's, not
 * an item's; with count 0 nobody is asked.  Blocks: up to the deadline.  Each item has its own status, of those of
 * near_set (near_mdel: near_del); the call returns NEAR_OK or NEAR_UNAPPLIED when no item has an error, otherwise the
 * first item's error in order.
 * When the call as a whole fails (_INVALID, _NOMEM, _CLOSED, _FORKED) every item has the status that it returns. */
NEAR_API int near_mset(near_cache *cache, near_item *items, size_t count, const near_write *write,
                       const near_call *call);
NEAR_API int near_mdel(near_cache *cache, near_item *items, size_t count, const near_call *call);

/* ---------------------------------------------------------------- loading */

/* What a loader is asked.  Everything lives until the loader returns. */
typedef struct near_load_request {
    size_t size;
    const void *key;
    size_t key_size;
    int64_t deadline_ns;  /* CLOCK_MONOTONIC; what comes later nobody waits for */
    uint64_t fence;       /* grows with every load of any key in the fleet, so that a source can refuse a late loader's
                             side effects; 0: loads are not coordinated at present (no remote tier, or it is away) */
    const void *old_data; /* conditional refresh: the value that there is; NULL: none */
    size_t old_size;
    uint64_t old_version; /* near_version_of(old_data, old_size) */
} near_load_request;

/* Where a loader puts its answer. */
typedef struct near_loaded near_loaded;

/* Fetches a key from the source.  Returns NEAR_OK after near_loaded_value; NEAR_UNCHANGED (only if there is an old
 * value) to keep the old value for another life; NEAR_MISS: the source has no such key; any negative number: it failed,
 * which is never taken for absence.  Anything else is NEAR_ERR_LOADER for whoever waits, and changes nothing.  Threads:
 * called from one of the cache's own threads (option load_threads), with all signals blocked and no lock held; for
 * several keys at once, for one key once at a time in the process and, as long as the remote tier can be reached, in
 * the fleet (where it cannot, a caller does not wait for a load that is older than the bound: it begins another).  It
 * may call the cache (not near_close); what it has loaded is loaded in its own thread, so that loaders never wait for
 * each other's threads, and such a call may return later than its deadline: when that loader has returned.  It must
 * outlive the cache. */
typedef int (*near_loader_fn)(void *arg, const near_load_request *request, near_loaded *loaded);

/* The value; copied.  Returns NEAR_OK, NEAR_ERR_INVALID (and then the load ends with NEAR_ERR_LOADER, whatever is told
 * after it), NEAR_ERR_TOO_LARGE (above the option value_max), NEAR_ERR_NOMEM (the load ends with either likewise). */
NEAR_API int near_loaded_value(near_loaded *loaded, const void *data, size_t size);
/* How long the value (NEAR_OK, NEAR_UNCHANGED) or its absence (NEAR_MISS) holds, instead of near_load's; 1 ms to a
 * hundred years.  With absent_ms 0 absence is not remembered all the same.  Returns NEAR_OK or NEAR_ERR_INVALID, and
 * then the load ends with NEAR_ERR_LOADER. */
NEAR_API int near_loaded_ttl(near_loaded *loaded, int64_t ttl_ms);

/* This key's answer instead of what the loader returns: for bulk loaders, which return once for many keys.  The last
 * one counts.  Returns NEAR_OK or NEAR_ERR_INVALID (loaded is NULL); an answer that is not allowed ends the load with
 * NEAR_ERR_LOADER. */
NEAR_API int near_loaded_answer(near_loaded *loaded, int answer);

/* 64 bits that are the same for the same bytes (XXH3): the version that a conditional refresh compares. */
NEAR_API uint64_t near_version_of(const void *data, size_t size);

/* Gives the value a tag: 1 to NEAR_TAG_MAX bytes, none of them 0; at most NEAR_TAGS_MAX of them.  Only with
 * NEAR_LOAD_TAGS.  Returns NEAR_OK or NEAR_ERR_INVALID, and then the load ends with NEAR_ERR_LOADER. */
NEAR_API int near_loaded_tag(near_loaded *loaded, const void *tag, size_t size);
#define NEAR_TAG_MAX 128u
#define NEAR_TAGS_MAX 16u

enum {
    NEAR_LOAD_REFRESH = 1u << 0, /* load even if the value is fresh, or its absence remembered, unless the key is being
                                    loaded already: then what that comes to will do.  stale_ms does not end the wait */
    NEAR_LOAD_TAGS = 1u << 1     /* the loader may give tags; a value one of whose tags was invalidated is loaded again.
                                    Every call for such a key says so: near_get and calls without it look at the value
                                    alone.  A value that was written plainly has none; without a remote tier it is
                                    loaded again, too */
};

/* Options of loading; NULL means the cache's loader's, or the defaults.  Times are at most 30 days, ttl_ms a hundred
 * years.  All processes that load a key must agree on stale_ms and fail_ms: a value lives in the remote tier for ttl +
 * the longer of the two, and is old for that long before its end.  Values themselves are plain for every other
 * client. */
typedef struct near_load {
    size_t size;
    uint32_t flags;
    uint32_t timeout_ms; /* of the call; 0: the cache's */
    int64_t ttl_ms;      /* how long a value is fresh (soft time to live); 0: for ever */
    /* so long after ttl an old value is served at once, as NEAR_STALE, while one refresh runs */
    uint32_t stale_ms;
    uint32_t fail_ms; /* so long after ttl an old value is served, as NEAR_STALE, when the loader fails */
    /* after a failure that an old value covered, the loader is left alone for so long; 0: 1000 */
    uint32_t retry_ms;
    uint32_t absent_ms; /* how long the source's "no such key" is remembered; 0: not at all */
    /* probabilistic early refresh (XFetch): 1000 (default) is its beta 1, 0 none; at most 1000000 */
    uint32_t early_permille;
    uint32_t jitter_permille; /* a time to live is shortened by a random part, up to this; at most 1000 */
    /* with an old value at hand that may be served a call waits no longer for a load; 0: until its deadline */
    uint32_t soft_timeout_ms;
    /* so long after its loader was called a load has failed, whatever the loader does; 0: 10000.  A load that waits for
     * one of load_threads is not called yet: calls for it wait until their own deadlines */
    uint32_t hard_timeout_ms;
    uint32_t lease_ms; /* how long the fleet waits for a process that loads and has perhaps died; a load that
                                 takes longer is not kept; 0: 10000 */
} near_load;
static inline void near_load_init(near_load *load)
{
    near_load zero = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    zero.size = sizeof(zero);
    zero.early_permille = 1000;
    *load = zero;
}

/* Reads a key as near_get does; when neither tier has it, or it is too old, has it loaded: once, however many threads
 * of however many processes ask, and writes it through to the remote tier unless the key was written or removed
 * meanwhile.  Who waits shares the result, each with a deadline of its own; a call that begins after an acknowledged
 * write or removal never gets what was loaded before it.  With loader NULL the cache's own is used (near_set_loader),
 * with options NULL its options.  While the remote tier is away every process loads for itself, a key once at a time (a
 * load that is older than bound_ms is not waited for), and nothing is kept: the next call loads again.  Owner, Threads:
 * as near_get.  Blocks: on a local hit never, otherwise up to the deadline.  Returns NEAR_OK; NEAR_STALE (an old value,
 * as allowed by stale_ms or fail_ms, or one without proof); NEAR_MISS (the source has no such key); NEAR_ERR_LOAD,
 * _LOADER, _LOAD_TIMEOUT, _TIMEOUT (the call's deadline), _INVALID (also: no loader; local_ttl_ms is set and not above
 * stale_ms and fail_ms), _TOO_LARGE, _WRONG_TYPE (the loader is not asked), _NOMEM, _SYSTEM (no thread), _CLOSED,
 * _FORKED, _UNPROVEN. */
NEAR_API int near_get_or_load(near_cache *cache, const void *key, size_t key_size, near_loader_fn loader, void *arg,
                              const near_load *options, near_value *ret_value);

/* Fetches many keys from the source at once.  Each key's answer goes to loaded[i]: near_loaded_value; or
 * near_loaded_answer with NEAR_MISS, NEAR_UNCHANGED or a negative number; and near_loaded_ttl, near_loaded_tag.  What
 * the function returns is the answer of the keys of which it told nothing: NEAR_MISS "the source does not have them", a
 * negative number "these failed"; NEAR_OK says that there are none (one is NEAR_ERR_LOADER).  One key's failure changes
 * nothing for the others.  Owner: all arrays are the cache's, until the function returns.  Threads: as
 * near_loader_fn. */
typedef int (*near_bulk_loader_fn)(void *arg, const near_load_request *requests, near_loaded *const *loaded,
                                   size_t count);

/* near_get_or_load for many keys: local hits first; one round trip asks for the rest; one call of the loader has all
 * keys that neither tier has and that this process got the right to load; one round trip writes what it brought.  Keys
 * that other calls or other processes are loading are waited for, side by side; those that are to be loaded here after
 * all (the other has failed, or died) share one further call.  Old values (stale_ms, early_permille) are served at
 * once, and refreshed behind the caller's back by one call of the loader for all of them (which is one refresh for the
 * option load_refreshes), apart from the keys that are waited for.  All guarantees of near_get_or_load hold, key by
 * key.  With loader NULL the cache's bulk loader is used, or else its loader: one call a key, side by side in at most
 * load_threads threads.  With options NULL its options.  timeout_ms is of the whole call.  Each item has its own
 * status, of those of near_get_or_load; when the loader was called for many, hard_timeout_ms is for the whole call.  A
 * key may be there twice.  Owner: each value is to be released with near_release (harmless after any failure).
 * Threads: any.  Blocks: without loads and round trips never, otherwise up to the deadline.  Returns NEAR_OK when no
 * item has an error, otherwise the first item's error in order.  When the call as a whole fails (_INVALID, _NOMEM,
 * _CLOSED, _FORKED) every item has the status that it returns. */
NEAR_API int near_mget_or_load(near_cache *cache, near_item *items, size_t count, near_bulk_loader_fn loader, void *arg,
                               const near_load *options);

/* Makes every value old that has the tag, in all processes, by one write and one message, however many values there
 * are.  Calls with NEAR_LOAD_TAGS in this process do not return them any more, those of others at most for the
 * staleness bound; what was being loaded meanwhile is not kept.  A tag that nobody has is no error.  Blocks: up to the
 * deadline.  Returns as near_set; NEAR_ERR_INVALID also for what cannot be a tag. */
NEAR_API int near_invalidate_tag(near_cache *cache, const void *tag, size_t size, const near_call *call);

/* Namespaces: keys that are invalidated together, as if by a common prefix, whatever reads and writes them
 * (near_get, near_set, near_mget, near_get_or_load …).  near_namespace_key writes the key under which `key` of the
 * namespace is stored at present into buffer; use it in any call, for a short time: make it anew for each operation.
 * near_namespace_invalidate makes all keys of the namespace new ones, in all processes, by one write and one message,
 * however many there are.  This process does not make the old ones any more, others at most for the staleness bound.
 *
 * Names and keys are bytes; a name has 1 to NEAR_NAMESPACE_MAX of them.  A namespace lies in another one when its name
 * is a key that was made for that one; it becomes new together with it.  The stored key is 18 bytes and the name longer
 * than `key`.  A namespace needs no making and is never removed; what it stored before stays in the remote tier until
 * its time is over, so give it a time to live.
 *
 * What another process writes within the staleness bound after an invalidation may be under the old keys, and is then
 * invalidated, too; with NEAR_REQUIRE_FRESH in call it is not.  If the namespace's own key is evicted from the remote
 * tier, that counts as an invalidation.
 *
 * call is for looking up the namespace's generation, which is kept locally like any key, and may be NULL.
 * Threads: any.  Blocks: when the generation is kept here never, otherwise up to the deadline of two requests.
 * near_namespace_key returns NEAR_OK; NEAR_STALE (the generation is not proven to be the present one; only where call
 * or the option unproven allows that); NEAR_TRUNCATED (*ret_size is the size that is needed, nothing is written);
 * NEAR_ERR_INVALID, _TOO_LARGE (the name, or the whole), _WRONG_TYPE (somebody else has put something else under the
 * namespace's name), _OPTION (value_max is below 16, which a generation has), _SYSTEM (no random numbers), and what
 * near_get and near_set may return.  near_namespace_invalidate returns as near_set; NEAR_ERR_INVALID, _TOO_LARGE for
 * what cannot be a name, _OPTION, _SYSTEM. */
NEAR_API int near_namespace_key(near_cache *cache, const void *name, size_t name_size, const void *key, size_t key_size,
                                const near_call *call, void *buffer, size_t capacity, size_t *ret_size);
NEAR_API int near_namespace_invalidate(near_cache *cache, const void *name, size_t name_size, const near_call *call);
#define NEAR_NAMESPACE_MAX 255u

/* Sets the loader, and its options, of calls that name none.  May be called again; earlier ones stay in memory until
 * close.  Returns NEAR_OK, NEAR_ERR_INVALID, _NOMEM, _CLOSED, _FORKED. */
NEAR_API int near_set_loader(near_cache *cache, near_loader_fn loader, void *arg, const near_load *options);
/* The same for many keys at once.  Each of the two stands in for the other where that is not set. */
NEAR_API int near_set_bulk_loader(near_cache *cache, near_bulk_loader_fn loader, void *arg, const near_load *options);

/* ---------------------------------------------------------------- writing through to the source */

/* The source is what the cache is in front of: a database, a service.  An open source writes to it first and to the
 * cache after it, either at once (write-through) or from a queue in the background (NEAR_SOURCE_BEHIND).  near_set and
 * the other writes of the cache itself know nothing of it; several sources may be open on one cache.
 *
 *                         write-through                          write-behind
 *   done when             the source and the cache have it       the queue (and the journal) and the cache have it
 *   the source fails      its status; nothing is written         tried again, in the background, with pauses
 *   the cache fails       NEAR_PENDING: the source has it; everybody is made to forget the key, again and again until
 *                         that is known to have happened.  Until then a read may find the older value in the remote
 *                         tier.
 *   the process dies      between the two: the cache keeps the   without a journal what is queued is lost; with it, it
 *                         older value until its time to live     goes to the source after the next open, and what the
 *                                                                cache was to forget is forgotten then
 *
 * Writes of one key through one source reach source and cache in the same order.  Two processes that write one key may
 * not: NEAR_SOURCE_INVALIDATE removes the key from the cache instead of writing it, which is right in any order.
 *
 * With write-behind a load from the source may find what a queued update is about to change: ask near_source_peek
 * first, and where several processes load, do not let the remote tier evict keys before they are stored.  A key that an
 * update, or anything else of the source's, removed from the cache, or whose time to live was over before, is therefore
 * forgotten again after the update was stored; in between it may be back with its old value.  The same goes for all
 * keys that were queued, or stored since the last proof of freshness, when the remote tier has lost keys or was cleared
 * (FLUSHALL, a restart, a failover); what a process had stored that is gone when that is noticed is not looked after.
 * A removal of all keys (NEAR_CLEAR_KEYS, or another source's) is noticed at its end: neither is what was stored, and
 * followed by a proof, while it was under way.
 * Where other processes refresh keys (NEAR_LOAD_REFRESH, stale_ms, early refreshes) while updates of them are queued
 * here, what they have read too early takes the place of the update's value and stays: use NEAR_SOURCE_INVALIDATE then,
 * which has the key forgotten after every update. */
typedef struct near_source near_source;

enum { NEAR_UPDATE_SET = 1, NEAR_UPDATE_DEL = 2 };
typedef struct near_update {
    const void *key;
    size_t key_size;
    const void *data; /* NEAR_UPDATE_SET: the value; otherwise NULL and 0 */
    size_t size;
    uint64_t sequence;  /* higher is newer, among all updates of a source, also over restarts */
    uint32_t operation; /* NEAR_UPDATE_SET or NEAR_UPDATE_DEL */
    uint32_t attempts;  /* how often it was tried before; in a dead letter: how often at all */
    int32_t status;     /* the store may set it, for this update alone */
    uint32_t reserved;
} near_update;

/* Takes count updates (1 with write-through; with write-behind at most batch_max, no two of one key) to the source.
 * Returns NEAR_OK or, when the source as a whole is away, an error for all of them; single updates may have a status of
 * their own.  NEAR_ERR_REJECTED: do not try again.  NEAR_ERR_UNKNOWN: it may have been stored.  What is no status
 * counts as NEAR_ERR_INVALID.  The same update may come twice (an answer that was lost, a crash): storing it again must
 * do no harm.  Threads: write-through, the caller's; write-behind, one thread of the library's with every signal
 * blocked.  It may use the cache, not this source.  It should return within timeout_ms; nothing can end it. */
typedef int (*near_store_fn)(void *arg, near_update *updates, size_t count, uint32_t timeout_ms);
/* Write-behind: an update that will not be tried again; status is its last.  Its key is then forgotten by everybody.
 * Threads: as near_store_fn. */
typedef void (*near_dead_letter_fn)(void *arg, const near_update *update, int status);

enum {
    NEAR_SOURCE_BEHIND = 1u << 0,     /* write-behind */
    NEAR_SOURCE_INVALIDATE = 1u << 1, /* remove the key from the cache instead of writing it there */
    /* skip what is damaged in the journal, with a log message, instead of refusing to open */
    NEAR_SOURCE_SALVAGE = 1u << 2
};
/* When the journal is on the disk.  A process that is killed loses nothing with any of them; a machine that loses power
 * does. */
typedef enum near_journal_sync {
    NEAR_JOURNAL_ALWAYS = 0,       /* before an update is acknowledged; threads share one fdatasync (default) */
    NEAR_JOURNAL_EVERY_SECOND = 1, /* at most a second of updates is lost */
    NEAR_JOURNAL_NEVER = 2         /* when the system likes */
} near_journal_sync;

typedef struct near_source_options {
    size_t size;
    near_store_fn store; /* required */
    void *store_arg;
    near_dead_letter_fn dead_letter;
    void *dead_letter_arg;
    /* path of the journal, or NULL: none.  One process at a time; path.new beside it is used too */
    const char *journal;
    uint64_t queue_max; /* most updates queued, 1 to 2^24; default 65536 */
    /* and their memory, at least 4096; default 64 MiB; what was stored since the last proof of freshness may take a
     * quarter of that besides: of more than that everything is forgotten after a loss, without a prefix the oldest at
     * once */
    uint64_t queue_bytes;
    uint32_t flags;        /* NEAR_SOURCE_… */
    uint32_t journal_sync; /* a near_journal_sync */
    uint32_t batch_max;    /* most updates of one call of store, 1 to 65536; default 256 */
    /* an update waits so long for newer ones of its key, unless a batch or the queue is full; default 20 */
    uint32_t delay_ms;
    uint32_t attempts_max;     /* then it is a dead letter (needs dead_letter); 0: tried for ever (default) */
    uint32_t retry_min_ms;     /* first pause after a failure, doubled each time; default 50 */
    uint32_t retry_max_ms;     /* longest pause; default 5000.  A pause is a random part, from a half to the whole */
    uint32_t store_timeout_ms; /* write-behind: what store is given; default 5000 */
    uint32_t reserved;         /* 0 */
} near_source_options;
static inline void near_source_options_init(near_source_options *options)
{
    near_source_options defaults = {0, 0, 0, 0, 0, 0, 65536, 64u << 20, 0, 0, 256, 20, 0, 50, 5000, 5000, 0};
    defaults.size = sizeof(defaults);
    *options = defaults;
}

/* Opens a source.  With a journal, what it holds is queued again, or forgotten; a torn end (the last write before a
 * crash) is cut off.  Owner: the source is the caller's until near_source_close; until then near_close refuses with
 * NEAR_ERR_BUSY.  Threads: any.  Blocks: while the journal is read.  Returns NEAR_OK, NEAR_ERR_INVALID (error says
 * which option), _NOMEM, _CLOSED, _FORKED, _SYSTEM; _JOURNAL: in use by another process, no journal, unreadable, of a
 * later version of the library's, or damaged before its end (error says where; see NEAR_SOURCE_SALVAGE).  A journal of
 * an earlier version is read and replaced by a new one; while that fails updates are refused with NEAR_ERR_JOURNAL. */
NEAR_API int near_source_open(near_cache *cache, const near_source_options *options, near_source **ret_source,
                              near_error *error);

/* Writes a key to the source and to the cache.  write may not have a condition (NX, XX).
 * Blocks: up to the deadline: for another writer of the key, for the store (write-through), for room in the queue
 * (write-behind), for the remote tier.  Returns NEAR_OK; NEAR_UNAPPLIED (only with NEAR_WRITE_BARRIER); NEAR_PENDING:
 * the source has it, or gets it; the cache is made to forget the key (see above); NEAR_ERR_INVALID, _TOO_LARGE, _NOMEM,
 * _CLOSED, _FORKED, _TIMEOUT; write-through: the store's own status, and nothing is written to the cache (after
 * NEAR_ERR_UNKNOWN it forgets the key); write-behind: _QUEUE_FULL at the deadline; _JOURNAL: not acknowledged, though
 * it may reach the source.  A journal whose disk has failed is replaced by a new file as soon as the disk takes one:
 * tried, with pauses from retry_min_ms to retry_max_ms, by the updates that follow. */
NEAR_API int near_source_set(near_source *source, const void *key, size_t key_size, const void *value,
                             size_t value_size, const near_write *write, const near_call *call);

/* Removes a key from the source and from the cache, whether it was there or not.  Otherwise as near_source_set. */
NEAR_API int near_source_del(near_source *source, const void *key, size_t key_size, const near_call *call);

/* The newest queued update of a key in this process, for loaders.  Threads: any.  Blocks: for short mutexes of the
 * library's, and on the disk while a journal that has grown is written anew.  Returns NEAR_OK with *ret_operation,
 * and the value copied; NEAR_TRUNCATED (*ret_size is its size); NEAR_MISS: none is queued; NEAR_ERR_INVALID,
 * _TOO_LARGE, _CLOSED, _FORKED. */
NEAR_API int near_source_peek(near_source *source, const void *key, size_t key_size, void *buffer, size_t capacity,
                              size_t *ret_size, uint32_t *ret_operation);

/* Waits until every update accepted before the call is stored (or a dead letter), and every key forgotten that was to
 * be for the sake of one of them, or before; for nothing that comes later.  Blocks: up to timeout_ms (0: the cache's).
 * Returns NEAR_OK, NEAR_ERR_TIMEOUT (everything goes on), _CLOSED, _FORKED, _INVALID. */
NEAR_API int near_source_flush(near_source *source, uint32_t timeout_ms);

enum { NEAR_SOURCE_DISCARD = 1u << 0 /* near_source_close: lose what is not stored by then */ };
/* Flushes and closes a source.  No other call of it may be under way or come later.
 * Blocks: up to timeout_ms (0: the cache's), and for a store or dead_letter that is running.
 * Returns NEAR_OK: everything is stored, and forgotten; NEAR_PENDING: the rest is in the journal, for the next open;
 * both end the source.  NEAR_ERR_TIMEOUT: something that is in memory only is not done; the source stays open, unless
 * NEAR_SOURCE_DISCARD was given: then it is lost.  NEAR_ERR_INVALID, _CLOSED, _FORKED. */
NEAR_API int near_source_close(near_source *source, uint32_t timeout_ms, uint32_t flags);

/* ---------------------------------------------------------------- warming */

/* Warming reads keys into the local tier before they are asked for, by ordinary near_mget batches: what is written
 * meanwhile wins, nobody else waits, and a hit costs what it always costs.  It runs in the calling thread. */
typedef struct near_warm_result {
    size_t size;
    uint64_t keys; /* asked for so far */
    uint64_t found, missing, errors;
    uint64_t total; /* to be asked for; 0: not known (a scan that goes on) */
} near_warm_result;
/* Told before every batch, and every few milliseconds while a rate limit makes it wait.  Not 0: stop. */
typedef int (*near_warm_fn)(void *arg, const near_warm_result *so_far);

typedef struct near_warm_options {
    size_t size;
    near_warm_fn progress; /* NULL: none */
    void *progress_arg;
    uint64_t keys_max;        /* most keys; 0: all */
    uint32_t keys_per_second; /* 0: as fast as the remote tier answers (default) */
    uint32_t batch;           /* keys a round trip, 1 to 4096; default 64 */
    uint32_t timeout_ms;      /* of a batch; 0: the cache's */
    uint32_t reserved;        /* 0 */
} near_warm_options;
static inline void near_warm_options_init(near_warm_options *options)
{
    near_warm_options defaults = {0, 0, 0, 0, 0, 64, 0, 0};
    defaults.size = sizeof(defaults);
    *options = defaults;
}

typedef struct near_key {
    const void *key;
    size_t key_size;
} near_key;

/* Warms with these keys, in their order.  options and ret_result may be NULL; ret_result->size must be set.
 * Blocks: until it is done or stopped.
 * Returns NEAR_OK; NEAR_PENDING: progress stopped it; NEAR_ERR_INVALID, _TOO_LARGE (a key), _NOMEM, _CLOSED, _FORKED;
 * others: a batch in which every key failed ends it with the first key's status. */
NEAR_API int near_warm_keys(near_cache *cache, const near_key *keys, size_t count, const near_warm_options *options,
                            near_warm_result *ret_result);
/* Warms with the keys of the remote tier that match a pattern of Redis's kind (* ? [set] \x), without the prefix.  It
 * scans page by page, which holds nobody up; keys that come and go meanwhile may be missed, a key may be read twice.
 * Also returns NEAR_ERR_UNSUPPORTED ("local:") and what near_set may return of the remote tier. */
NEAR_API int near_warm_scan(near_cache *cache, const char *pattern, const near_warm_options *options,
                            near_warm_result *ret_result);

/* Writes the keys of the local tier into a file, the last read first, at most keys_max (0: all), for near_warm_file;
 * call it when you like (the option snapshot does it at near_close).  Keys only: values come from the remote tier.  The
 * file is replaced whole or not at all: by path.new, written beside it (when two save at once, one has a random name
 * instead); what a process that was killed meanwhile left there the next save takes away.  ret_keys and error may be
 * NULL.  Blocks: on the disk.  Returns NEAR_OK, NEAR_ERR_INVALID, _NOMEM, _CLOSED, _FORKED, _SYSTEM (error has the
 * system's words). */
NEAR_API int near_warm_save(near_cache *cache, const char *path, uint64_t keys_max, uint64_t *ret_keys,
                            near_error *error);
/* Warms with a file of near_warm_save, hottest first.  Also returns NEAR_ERR_SYSTEM, and NEAR_ERR_SNAPSHOT when the
 * file is damaged or something else; then nothing has been read. */
NEAR_API int near_warm_file(near_cache *cache, const char *path, const near_warm_options *options,
                            near_warm_result *ret_result, near_error *error);

/* ---------------------------------------------------------------- locks */

/* A lock among processes.  It is a key of the remote tier (prefix and name) with the owner's random token as its value
 * and a time to live; beside it, in name:fence, lives the counter of its fencing numbers.
 *
 * What it is good for: keeping work from being done twice, most of the time.  What it is not: a lock that ends by time
 * cannot keep two owners apart for certain.  An owner that is stopped for longer than the lock's validity (SIGSTOP,
 * swapping, a slow disk) goes on as if it held it, and a server that forgets (restart without persistence, failover)
 * gives the lock away again.  Where two owners would do harm, hand near_lock_fence's number along with every write to
 * what is protected, and let that refuse a number below the highest it has seen.  Numbers rise with every acquisition,
 * also after a server lost its data (then they go on from the server's time in microseconds).
 *
 * Clocks: each process counts its validity by its own monotonic clock, less an allowance for clocks that run at
 * different speeds; wall clocks are not used.  On several servers (near_redlock) the lock is held while a majority of
 * independent masters say so, and outlives the loss of a minority; a server that restarts empty must stay away for one
 * time to live to be counted as a loss only. */
typedef struct near_held_lock near_held_lock;

enum { NEAR_LOCK_TRY = 1u << 0 /* one attempt, no waiting */ };
typedef struct near_lock_options {
    size_t size;
    uint32_t flags;
    uint32_t ttl_ms;     /* after so long the servers give the lock to others; 10 ms to a day, default 10 s */
    uint32_t timeout_ms; /* how long to try; 0: the cache's */
    /* mean pause between attempts, each is a random one from a half to one and a half; 1 ms to a day, default 50 */
    uint32_t retry_ms;
    uint32_t server_timeout_ms; /* for one server's answer; should be small beside ttl_ms; at least 1, default 200 */
    /* part of ttl_ms allowed for differences between clocks (2 ms more are); 0 to 500, default 10 */
    uint32_t drift_permille;
} near_lock_options;
#define NEAR_LOCK_TTL_MIN_MS 10u
#define NEAR_LOCK_TTL_MAX_MS 86400000u
#define NEAR_LOCK_SERVERS_MAX 15u
static inline void near_lock_options_init(near_lock_options *options)
{
    near_lock_options defaults = {0, 0, 10000, 0, 50, 200, 10};
    defaults.size = sizeof(defaults);
    *options = defaults;
}

/* Takes the lock on the cache's Redis, waiting for it up to the time-out.  options may be NULL.  Owner: on NEAR_OK
 * *ret_lock is the caller's until near_unlock, also after the cache was closed.  Any thread may use it, one at a time.
 * Blocks: up to the time-out, and twice server_timeout_ms more (the last attempt, and giving back what it may have
 * taken).  Returns NEAR_OK; NEAR_LOCKED: somebody else has it; NEAR_ERR_INVALID, _TOO_LARGE (name), _NOMEM, _CLOSED,
 * _FORKED, _SYSTEM (no random numbers), _UNSUPPORTED ("local:"), _WRONG_TYPE (the key is something else), _OVERFLOW
 * (name:fence is no number); _TIMEOUT (answers took longer than ttl_ms), _UNKNOWN and the remote tier's own errors: it
 * could not be taken, and what may have been taken has been given back where the server could be reached, elsewhere it
 * ends with ttl_ms. */
NEAR_API int near_lock(near_cache *cache, const void *name, size_t name_size, const near_lock_options *options,
                       near_held_lock **ret_lock);

/* The same on count (1 to 15, best an odd number) independent masters, each behind a cache of its own; held while a
 * majority of them has granted it.  Servers are asked one after another, so one that is stopped costs its
 * server_timeout_ms an attempt.  The first cache gives the default time-out and the memory.  Also returns
 * NEAR_ERR_INVALID when two of the caches have the same server. */
NEAR_API int near_redlock(near_cache *const *caches, size_t count, const void *name, size_t name_size,
                          const near_lock_options *options, near_held_lock **ret_lock);

/* Prolongs a lock that is still valid to ttl_ms from now (0: as at first).  Blocks: up to server_timeout_ms for each
 * server.  Returns NEAR_OK; NEAR_ERR_LOCK_LOST: it is not held any more; NEAR_ERR_INVALID; NEAR_ERR_OVERFLOW
 * (name:fence is no number any more) and others: the servers could not be asked, or refused; the lock stands as long as
 * near_lock_valid_ms says. */
NEAR_API int near_lock_extend(near_held_lock *lock, uint32_t ttl_ms);

/* How long the lock is still surely held, in milliseconds; 0: not any more.  Blocks: never. */
NEAR_API int64_t near_lock_valid_ms(const near_held_lock *lock);

/* The fencing number: higher than that of every earlier owner.  Blocks: never. */
NEAR_API uint64_t near_lock_fence(const near_held_lock *lock);

/* Gives the lock back, only if it is still this one's, and frees it in every case.  Blocks: up to server_timeout_ms for
 * each server.  Returns NEAR_OK; NEAR_ERR_LOCK_LOST: it had ended before; others: servers could not be asked, there it
 * ends with ttl_ms. */
NEAR_API int near_unlock(near_held_lock *lock);

/* ---------------------------------------------------------------- the whole cache */

enum { NEAR_CLEAR_KEYS = 1u << 0 /* also remove the prefix's keys from the remote tier; needs a prefix */ };
/* Empties the local tier of every process that shares the prefix.  NEAR_CLEAR_KEYS takes every key under the prefix,
 * with *ret_removed (may be NULL) their number: also the library's own, and locks that somebody holds, whose owners
 * learn so at near_lock_extend or near_unlock only.  Blocks: up to the deadline, with NEAR_CLEAR_KEYS while it scans.
 * Returns as near_set; NEAR_ERR_UNKNOWN also when a part of the keys was removed, or when others may not have been told
 * of it: call it again.  NEAR_ERR_INVALID for NEAR_CLEAR_KEYS without a prefix or without a remote tier. */
NEAR_API int near_clear(near_cache *cache, uint32_t flags, const near_call *call, uint64_t *ret_removed);

/* Changes the local tier's budget on a running cache.  What still fits stays; what does not is evicted in the
 * background, in bounded steps.  Blocks: never.  Returns NEAR_OK, NEAR_ERR_OPTION (outside the option's range),
 * NEAR_ERR_INVALID, _CLOSED, _FORKED. */
NEAR_API int near_set_local_bytes(near_cache *cache, uint64_t bytes);
NEAR_API int near_set_local_entries(near_cache *cache, uint64_t entries); /* 0: only bytes count */
/* The automatic size: the local tier has the least budget, from bytes_min to bytes_max, that near_advise expects to
 * answer so many thousandths of the reads, and less than that, down to bytes_min, while memory is short (option
 * auto_pressure).  bytes_max 0: the size that near_set_local_bytes or local_bytes said last.  hit_permille 0 ends it,
 * whatever the other two are: the size stays as it is.  Changes are damped and come within seconds to minutes
 * (docs/policies.md); near_stats tells what was decided and why.  A size that near_set_local_bytes sets meanwhile
 * counts at once, also outside of the limits, ends what pressure has left behind, and stays for half a minute unless
 * memory is short; then deciding goes on from there.  Threads: any.  Blocks: never.  Returns NEAR_OK, NEAR_ERR_OPTION
 * (outside of the options' ranges, or bytes_min above bytes_max, or above what a bytes_max of 0 stands for: as
 * near_open has it), NEAR_ERR_UNSUPPORTED (neither auto_hit_permille nor curve was set when the cache was opened),
 * NEAR_ERR_INVALID, _CLOSED, _FORKED. */
NEAR_API int near_set_auto_size(near_cache *cache, uint32_t hit_permille, uint64_t bytes_min, uint64_t bytes_max);

/* Tells which share of the reads the local tier would answer, with the policy lru, if it had so many bytes (as the
 * option local_bytes counts) and so many entries; 0: that is no limit.  From the requests seen so far, recent ones
 * counting more, as if nothing expired or were invalidated; needs the option curve.  Within 0.02 of the truth on real
 * traces (docs/policies.md), up to eight times the budget, or sixteen times the limit of entries; what is beyond may be
 * told to have no more hits than that.  Threads: any.  Blocks: while another thread learns from requests, which takes
 * microseconds.  Returns NEAR_OK, NEAR_MISS (no reads yet), NEAR_ERR_INVALID (no size, or ret_hit_ratio NULL),
 * _UNSUPPORTED (curve is off), _TIMEOUT (the thread that was learning has been stopped), _CLOSED, _FORKED. */
NEAR_API int near_advise(near_cache *cache, uint64_t bytes, uint64_t entries, double *ret_hit_ratio);

/* A key that is read often.  Its share of all reads (0 … 1) in this process lies between the two, as far as the sample
 * tells; they are closer together the hotter it is. */
#define NEAR_HOT_KEY_MAX 256 /* bytes; reads of longer keys count, but such keys are not told */
typedef struct near_hot_key {
    double share_min, share_max;
    uint32_t key_size, reserved;
    unsigned char key[NEAR_HOT_KEY_MAX]; /* key_size bytes of it, any byte among them */
} near_hot_key;

/* Tells the keys that are read most, hottest (by share_min) first: at most `most`, and at most as many as the option
 * hot_keys says.  From a sample of one read in about 32 or fewer (hits and misses alike, not those with
 * NEAR_BYPASS_LOCAL), recent ones counting more (docs/policies.md).  Owner: the caller of ret_keys, room for `most`;
 * keys are copied.  Threads: any.  Blocks: while another thread learns from requests, which takes microseconds.
 * Returns NEAR_OK (*ret_count is 0 when no read was sampled yet), NEAR_ERR_INVALID (most is 0, or a NULL), _UNSUPPORTED
 * (hot_keys is 0), _TIMEOUT (the thread that was learning has been stopped), _CLOSED, _FORKED. */
NEAR_API int near_hot_keys(near_cache *cache, size_t most, near_hot_key *ret_keys, size_t *ret_count);

/* Changes the staleness bound, milliseconds, for reads that begin from now on.  Blocks: for short mutexes of the
 * library's.  Returns NEAR_OK, NEAR_ERR_OPTION (outside the option's range, or above stale_ms where that is served),
 * NEAR_ERR_INVALID, _CLOSED, _FORKED. */
NEAR_API int near_set_bound(near_cache *cache, uint32_t bound_ms);

/* Checks the path that keeps the cache coherent: connections, rights on keys and on the channel, one server behind
 * both connections, a message's round trip, output buffer limits.  It does not wait for what is wrong to go away: a
 * server that is not there, a wrong password (NEAR_ERR_AUTH) or a missing right is told at once, with its own status.
 * Without a remote tier ("local:") there is nothing to check, and it returns NEAR_OK at once.  error may be NULL.
 * Blocks: up to timeout_ms; 0 is no time at all here, not the cache's default.
 * Returns NEAR_OK, or the first problem with a precise text in error: NEAR_ERR_DENIED names the right that is missing,
 * and the log (level 3) gets the rule that the server's ACL user needs; others are NEAR_ERR_TIMEOUT, _INVALID (NULL),
 * _CLOSED, _FORKED and the remote tier's own errors, as of near_get. */
NEAR_API int near_check(near_cache *cache, uint32_t timeout_ms, near_error *error);

/* Waits until the local tier may serve, i.e. the subscription is proven.  From then on what is written here is kept
 * here, the first write included, unless somebody else writes the key at the same time or memory is short; the
 * statistics fills_refused_order and fills_refused_space count what was not.  (Not with track=bcast: there the server's
 * report of a write takes its copy away.)  Whatever is wrong may pass and is waited for, so a wrong password or a
 * missing right shows as NEAR_ERR_TIMEOUT, with the cause in error->text; near_check tells it at once, with a status of
 * its own.  Blocks: up to timeout_ms; 0 asks how things are now, it is not the cache's default.  Returns NEAR_OK
 * ("local:": at once); NEAR_ERR_TIMEOUT with the last problem's text in error, which may be NULL; NEAR_ERR_INVALID
 * (NULL), _CLOSED, _FORKED. */
NEAR_API int near_wait_ready(near_cache *cache, uint32_t timeout_ms, near_error *error);

/* ---------------------------------------------------------------- statistics */

/* Latency or delay in nanoseconds; from log-linear buckets, relative error at most 1.6 %. */
typedef struct near_quantiles {
    uint64_t count, p50, p90, p99, p999, max;
} near_quantiles;

/* Why the automatic size is what it is. */
typedef enum near_auto_reason {
    NEAR_AUTO_OFF = 0,
    NEAR_AUTO_LEARNING = 1,    /* too few reads to decide by, so far or since the last decision */
    NEAR_AUTO_REACHED = 2,     /* the target is reached */
    NEAR_AUTO_GROWN = 3,       /* the last decision was to grow, */
    NEAR_AUTO_SHRUNK = 4,      /* or to shrink: less is enough */
    NEAR_AUTO_NOT_FULL = 5,    /* below the target, but there is room that is not used yet */
    NEAR_AUTO_NO_ROOM = 6,     /* below the target, but the process's control group has no memory to spare */
    NEAR_AUTO_UNREACHABLE = 7, /* the largest size allowed, and the target is out of its reach */
    NEAR_AUTO_PRESSED = 8,     /* memory is short: shrinking */
    NEAR_AUTO_RECOVERING = 9,  /* it was short: growing slowly */
    NEAR_AUTO_BY_HAND = 10     /* near_set_local_bytes was called less than half a minute ago */
} near_auto_reason;

typedef struct near_stats {
    size_t size;
    /* local tier, gauges */
    uint64_t local_bytes; /* everything: entries, index, metadata, retired */
    uint64_t local_bytes_limit;
    uint64_t local_entries;
    uint64_t local_entries_limit;
    uint64_t local_index_bytes;
    uint64_t local_retired_bytes;   /* unlinked, not yet reclaimed */
    uint64_t local_resize_permille; /* progress of a running resize; 1000: none */
    /* reads, counters */
    uint64_t gets, local_hits, local_misses, stale_served;
    uint64_t miss_absent, miss_expired, miss_unproven, miss_suspect, miss_bypassed; /* local_misses by cause */
    uint64_t flights_joined; /* reads that shared another thread's fetch */
    uint64_t remote_hits, remote_misses, remote_errors;
    /* fills and what ended entries */
    uint64_t fills, fills_refused_order, fills_refused_space;
    uint64_t evictions, expirations, invalidations, invalidations_absent, invalidations_older;
    uint64_t drops; /* calls of near_drop, whether there was a copy or not */
    /* writes */
    uint64_t writes, writes_unmet, writes_failed, writes_unknown;
    /* coherence */
    uint64_t messages, messages_own, messages_bad, message_gaps;
    uint64_t proofs, proofs_failed, subscriptions, disconnections, suspicions; /* times entries were made suspect */
    uint64_t server_changes, position_regressions;
    int64_t proof_age_ms; /* -1: never proven */
    uint32_t proven;      /* 1: the local tier serves */
    uint32_t breaker_open;
    /* remote tier */
    uint64_t requests, connections_opened, connections_lost, timeouts, bytes_sent, bytes_received;
    /* local hits of near_get; about one in 1000 of a thread is timed, the last 512 count */
    near_quantiles hit_ns;
    near_quantiles miss_ns;         /* reads that went to the remote tier */
    near_quantiles write_ns;        /* without a remote tier, of plain near_set about one in 1000 of a thread */
    near_quantiles invalidation_ns; /* from the writer's send to application here; both clocks of one host */
    uint64_t messages_foreign;      /* keys reported by the remote tier, with NEAR_TRACK_BCAST */
    uint64_t messages_kept;         /* messages whose value took the place of an older one */
    /* loading */
    uint64_t loads, loads_failed, loads_absent; /* loads of keys by this process, and how they ended */
    /* loaded, but the key was written meanwhile, or the lease was over; without a remote tier also when another key was
     * written that shares a stripe with one that was not there */
    uint64_t loads_unkept;
    uint64_t load_waits; /* loads that another process was asked for: waited for its message */
    /* loads behind the caller's back; skipped: too many at once */
    uint64_t refreshes, refreshes_early, refreshes_skipped;
    uint64_t load_stale;    /* old values served while or because a load could not help */
    uint64_t absent_hits;   /* answered from a remembered absence */
    near_quantiles load_ns; /* loaders' times */

    /* sources */
    uint64_t source_queued, source_queued_bytes, source_journal_bytes; /* gauges: waiting for the source */
    /* gauge: keys that everybody is still to forget */
    uint64_t source_forgetting;
    uint64_t source_lag_ms; /* gauge: age of the oldest update that its source does not have */
    uint64_t source_accepted, source_stored, source_coalesced, source_batches, source_retried;
    uint64_t source_refused, source_dead_letters, source_forgotten;
    uint32_t policy;     /* a near_policy: the option */
    uint32_t policy_now; /* with NEAR_POLICY_ADAPTIVE the one that is being followed */
    /* gauge: when, by CLOCK_MONOTONIC, the last message had been applied here; 0: none yet */
    int64_t message_applied_ns;
    /* automatic size; local_bytes_limit is the size itself */
    uint64_t auto_wanted_bytes;       /* what the target would need; 0: not known yet */
    uint64_t auto_cap_bytes;          /* what memory pressure leaves at present; 0: no limit */
    uint64_t auto_expected_permille;  /* hit ratio expected at the size of the last decision */
    uint64_t auto_grown, auto_shrunk; /* times that the size was changed */
    uint64_t auto_pressed;            /* looks, one a second, that found memory short */
    uint32_t auto_reason;             /* a near_auto_reason */
    uint32_t auto_reserved;           /* 0 */
    /* writes with NEAR_WRITE_BARRIER: complete; those whose deadline came first */
    uint64_t barriers, barriers_incomplete;
    uint64_t repair_compared; /* suspect entries compared with the remote tier after a fault (repair_rate) … */
    /* … of them still good, and no longer; others were read or written meanwhile */
    uint64_t repair_kept, repair_dropped;
    /* locks: near_lock, near_redlock and what follows them; counted at the first of the caches */
    uint64_t locks_taken, locks_refused, locks_failed; /* how attempts ended; refused: somebody else had it */
    uint64_t locks_extended, locks_lost; /* lost: near_lock_extend or near_unlock found that it had ended */
    near_quantiles lock_ns;              /* how long taking one took, waiting included */
    /* warming */
    uint64_t warm_keys, warm_found, warm_missing, warm_errors; /* keys asked for, and how that ended */
    /* of the option: NEAR_PENDING: not read yet; NEAR_OK: read; NEAR_MISS: there is none; or why not */
    int64_t snapshot_status;
    uint64_t values_sent; /* writes whose message took the value along (message_values) */
    /* gauge: values that callers have got and not released; of fetches and loads also those that are under way */
    uint64_t values_held;
    uint64_t tls_files_refused; /* connections made with files of tls_… read before: the changed ones are no good */
} near_stats;

/* Fills a snapshot; the counters are not from one instant.  stats->size must be set.
 * Threads: any.  Blocks: for short mutexes of the library's, never on the network.
 * Returns NEAR_OK, NEAR_ERR_INVALID, _CLOSED, _FORKED. */
NEAR_API int near_stats_get(near_cache *cache, near_stats *stats);

typedef enum near_format { NEAR_FORMAT_INFO = 0, NEAR_FORMAT_JSON = 1, NEAR_FORMAT_OPENMETRICS = 2 } near_format;
/* Writes a snapshot as text, cut off where it does not fit, and NUL-terminated when capacity is above 0; with capacity
 * 0 buffer may be NULL.  name labels the cache (JSON and OpenMetrics), with question marks for bytes that are not
 * UTF-8; NULL: "".  Threads: any.  Blocks: never.  Returns the length that the whole text has, as snprintf does (0:
 * there is no such format); when stats is NULL or its size is not sizeof(near_stats), 0, and nothing is written. */
NEAR_API size_t near_stats_render(const near_stats *stats, near_format format, const char *name, char *buffer,
                                  size_t capacity);

/* ---------------------------------------------------------------- about the library */

/* The version of the library that is linked, as NEAR_VERSION_STRING is of this header.  Owner: static.  Threads: any.
 * Blocks: never. */
NEAR_API const char *near_version(void);
/* 1 when the library was built with it ("tls"); 0 for any other name, or NULL.  Threads: any.  Blocks: never. */
NEAR_API int near_has_feature(const char *name);

#define NEAR_KEY_MAX 65535u         /* bytes; of a key that is loaded 65519, of a lock's name 65529 */
#define NEAR_VALUE_MAX (512u << 20) /* bytes; Redis's own limit */

#ifdef __cplusplus
}
#endif
#endif
