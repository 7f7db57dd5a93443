/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Everything about an option is in its row of NEAR_OPTION_MAP: defaults are parsed from the row's own text, checks use
 * the row's bounds, and names, URI query, environment and manual are read from it.  To add an option, append a field to
 * near_options and a row here.
 *
 * Rules of size (as libbpf's): the caller's struct says how large it is.  Fields that it does not have get their
 * defaults; fields that we do not know must be zero, because ignoring a wish is worse than refusing it.
 */
#define _GNU_SOURCE /* secure_getenv, explicit_bzero */
#include "base/options.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include "base/log.h"

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define TIB (UINT64_C(1) << 40)
#define HOUR_MS UINT64_C(3600000)
#define DAY_MS (24 * HOUR_MS)

/* Larger than any struct there will be: a size beyond it is an uninitialised one. */
#define STRUCT_SIZE_MAX 4096

enum type { SIZE, COUNT, DURATION, BOOLEAN, CHOICE, TEXT, OPTIONAL_TEXT };
#define TYPE_NAME_SIZE "size"
#define TYPE_NAME_COUNT "count"
#define TYPE_NAME_DURATION "duration"
#define TYPE_NAME_BOOLEAN "boolean"
#define TYPE_NAME_CHOICE "choice"
#define TYPE_NAME_TEXT "text"          /* NULL means the default */
#define TYPE_NAME_OPTIONAL_TEXT "text" /* NULL means none */

/* field and name, type, default, least, most (of texts: bytes), choices, at run time, sentence */
#define NEAR_OPTION_MAP(X)                                                                                             \
    X(local_bytes, SIZE, "64m", MIB, TIB, "", 1, "Budget of the local tier: entries, index and metadata together.")    \
    X(local_entries, COUNT, "0", 0, UINT64_C(1) << 40, "", 1, "Most entries in the local tier; 0: only bytes count.")  \
    X(value_max, SIZE, "512m", 1, NEAR_VALUE_MAX, "", 0, "Largest value that is accepted, from either side.")          \
    X(local_value_max, SIZE, "0", 0, NEAR_VALUE_MAX, "", 0,                                                            \
      "Largest value that is kept locally; 0: an eighth of the budget.")                                               \
    X(bound_ms, DURATION, "1s", 10, HOUR_MS, "", 1,                                                                    \
      "Staleness bound: no hit is served longer than this after another process's write was acknowledged.")            \
    X(stale_ms, DURATION, "30s", 10, DAY_MS, "", 0,                                                                    \
      "Second bound: how old the last proof of freshness may be for serve_stale.")                                     \
    X(unproven, CHOICE, "read_through", 0, 2, "read_through|serve_stale|fail", 0,                                      \
      "What a read does while the local tier is not proven fresh.")                                                    \
    X(local_ttl_ms, DURATION, "0", 0, 30 * DAY_MS, "", 0,                                                              \
      "Longest life of a local copy; 0: as long as in the remote tier.")                                               \
    X(idle_ms, DURATION, "0", 0, 30 * DAY_MS, "", 0,                                                                   \
      "A local copy that was not read for so long is dropped; 0: never.")                                              \
    X(timeout_ms, DURATION, "1s", 1, HOUR_MS, "", 0, "Deadline of a call that names none.")                            \
    X(connect_timeout_ms, DURATION, "2s", 1, HOUR_MS, "", 0,                                                           \
      "Time for resolving, connecting, TLS and authentication together.")                                              \
    X(connections, COUNT, "2", 1, 64, "", 0, "Data connections, shared by all threads.")                               \
    X(backoff_min_ms, DURATION, "10ms", 1, HOUR_MS, "", 0, "First pause between attempts to reconnect.")               \
    X(backoff_max_ms, DURATION, "2s", 1, HOUR_MS, "", 0, "Longest pause between attempts to reconnect.")               \
    X(breaker_failures, COUNT, "3", 1, 1000000, "", 0,                                                                 \
      "Failures in a row after which calls fail at once until a probe succeeds.")                                      \
    X(log_level, COUNT, "5", 0, 7, "", 0,                                                                              \
      "Messages up to this level reach the log function: 3 error, 4 warning, 5 notice, 6 information, 7 debugging.")   \
    X(prefix, TEXT, "", 0, KIB, "", 0, "Put before every key in the remote tier; also names the channel.")             \
    X(username, OPTIONAL_TEXT, "", 0, KIB, "", 0, "ACL user; overrides the URI's.")                                    \
    X(password, OPTIONAL_TEXT, "", 0, 64 * KIB, "", 0, "Password; overrides the URI's.")                               \
    X(client_name, TEXT, "nearcache", 1, 64, "", 0, "Name of our connections in the remote tier's list of clients.")   \
    X(tls_ca_file, OPTIONAL_TEXT, "", 1, 4095, "", 0, "Certificates to trust; unset: the system's.")                   \
    X(tls_ca_dir, OPTIONAL_TEXT, "", 1, 4095, "", 0, "Folder of certificates to trust, named by their hashes.")        \
    X(tls_cert_file, OPTIONAL_TEXT, "", 1, 4095, "", 0, "Our own certificate, with tls_key_file.")                     \
    X(tls_key_file, OPTIONAL_TEXT, "", 1, 4095, "", 0, "Private key of our own certificate.")                          \
    X(tls_server_name, OPTIONAL_TEXT, "", 1, 255, "", 0,                                                               \
      "Name asked for and checked in the server's certificate; unset: the URI's host.")                                \
    X(tls_verify, BOOLEAN, "yes", 0, 1, "", 0, "Verify the server's certificate and name.")                            \
    X(policy, CHOICE, "lru", 0, 5, "lru|s3fifo|random|volatile-lru|volatile-random|adaptive", 0,                       \
      "What makes room in the local tier when it is full; what has expired always goes first.")                        \
    X(track, CHOICE, "none", 0, 1, "none|bcast", 0,                                                                    \
      "Who else writes the keys: nobody, or anybody (bcast: the server reports every write, expiry and flush).")       \
    X(message_value_max, SIZE, "256", 0, 64 * KIB, "", 0,                                                              \
      "Largest value that travels in its write's message to the processes that hold the key; 0: none.")                \
    X(load_threads, COUNT, "16", 1, 1024, "", 0, "Most threads that run loaders; they are started when needed.")       \
    X(load_refreshes, COUNT, "8", 1, 1024, "", 0,                                                                      \
      "Most refreshes at once that nobody waits for; one for many keys is one.")                                       \
    X(curve, BOOLEAN, "no", 0, 1, "", 0,                                                                               \
      "Learn from the reads which hit ratio other sizes would have, for near_advise.")                                 \
    X(hot_keys, COUNT, "0", 0, 256, "", 0,                                                                             \
      "How many of the keys that are read most near_hot_keys tells; 0: none, at no cost.")                             \
    X(auto_bytes_min, SIZE, "1m", MIB, TIB, "", 1, "Automatic size: least budget of the local tier.")                  \
    X(auto_bytes_max, SIZE, "0", 0, TIB, "", 1, "Automatic size: largest budget of the local tier; 0: local_bytes.")   \
    X(auto_hit_permille, COUNT, "0", 0, 1000, "", 1,                                                                   \
      "Automatic size: the local tier has the least budget that reaches this hit ratio; 0: it has local_bytes.")       \
    X(auto_pressure, BOOLEAN, "yes", 0, 1, "", 0,                                                                      \
      "Automatic size: the local tier gives memory back when it is short.")                                            \
    X(repair_rate, COUNT, "50000", 0, 10000000, "", 0,                                                                 \
      "Local entries compared with the remote tier a second after a fault, many at a time, instead of being dropped; " \
      "0: dropped.")                                                                                                   \
    X(snapshot_load, BOOLEAN, "yes", 0, 1, "", 0,                                                                      \
      "Read the snapshot after the cache is opened; no: only when near_warm_file is called.")                          \
    X(snapshot, OPTIONAL_TEXT, "", 1, 4095, "", 0,                                                                     \
      "File of the hottest keys: written when the cache is closed, read after it is opened.")                          \
    X(snapshot_keys, COUNT, "100000", 0, UINT64_C(1) << 40, "", 0, "Most keys in the snapshot; 0: all.")               \
    X(snapshot_rate, COUNT, "0", 0, 1000000000, "", 0,                                                                 \
      "So many keys of the snapshot are read a second; 0: as fast as the remote tier answers.")                        \
    X(message_values, CHOICE, "adaptive", 0, 2, "adaptive|always|never", 0,                                            \
      "Which writes take their value along: those of keys that other processes have lately held, all, or none.")       \
    X(sentinel_master, OPTIONAL_TEXT, "", 1, 255, "", 0, "Name of the master that sentinels are asked for.")           \
    X(sentinel_username, OPTIONAL_TEXT, "", 0, KIB, "", 0, "ACL user on the sentinels.")                               \
    X(sentinel_password, OPTIONAL_TEXT, "", 0, 64 * KIB, "", 0, "Password on the sentinels.")

struct row {
    near_option_info info;
    enum type type;
    size_t offset, width;
};

static const struct row rows[] = {
#define NEAR_OPTION_ROW_(field, kind, fallback, least, most, choice_names, run_time, text)                             \
    {.info = {#field, TYPE_NAME_##kind, fallback, least, most, choice_names, text, run_time},                          \
     .type = kind,                                                                                                     \
     .offset = offsetof(near_options, field),                                                                          \
     .width = sizeof(((near_options *)0)->field)},
    NEAR_OPTION_MAP(NEAR_OPTION_ROW_)
#undef NEAR_OPTION_ROW_
};
#define ROWS (sizeof rows / sizeof rows[0])

const near_option_info *near_option_info_at(size_t index)
{
    return index < ROWS ? &rows[index].info : NULL;
}

static const struct row *find_row(const char *name, size_t length)
{
    for (size_t i = 0; i < ROWS; i++)
        if (strlen(rows[i].info.name) == length && memcmp(rows[i].info.name, name, length) == 0)
            return &rows[i];
    return NULL;
}

const near_option_info *near__option_find(const char *name, size_t length)
{
    const struct row *row = find_row(name, length);
    return row ? &row->info : NULL;
}

/* ---------------------------------------------------------------- fields */

static int is_text(const struct row *row)
{
    return row->type == TEXT || row->type == OPTIONAL_TEXT;
}

static uint64_t get_number(const near_options *options, const struct row *row)
{
    const unsigned char *field = (const unsigned char *)options + row->offset;
    uint32_t narrow;
    uint64_t wide;

    if (row->width == sizeof wide) {
        memcpy(&wide, field, sizeof wide);
        return wide;
    }
    memcpy(&narrow, field, sizeof narrow);
    return narrow;
}

static void set_number(near_options *options, const struct row *row, uint64_t number)
{
    unsigned char *field = (unsigned char *)options + row->offset;
    uint32_t narrow = (uint32_t)number; /* the row's bounds fit its field; a test holds them to it */

    if (row->width == sizeof number)
        memcpy(field, &number, sizeof number);
    else
        memcpy(field, &narrow, sizeof narrow);
}

static const char *get_text(const near_options *options, const struct row *row)
{
    const char *text;
    memcpy(&text, (const unsigned char *)options + row->offset, sizeof text);
    return text;
}

static void set_text(near_options *options, const struct row *row, const char *text)
{
    memcpy((unsigned char *)options + row->offset, &text, sizeof text);
}

/* ---------------------------------------------------------------- text to number */

/* What no number of the table reaches: whoever writes more is told the range. */
static uint64_t product(uint64_t number, uint64_t unit)
{
    return __builtin_mul_overflow(number, unit, &number) ? UINT64_MAX : number;
}

/* Decimal digits at *at, moved behind them.  -1: none. */
static int parse_digits(const char **at, uint64_t *ret)
{
    uint64_t number = 0;
    const char *p = *at;

    if (!isdigit((unsigned char)*p))
        return -1;
    for (; isdigit((unsigned char)*p); p++) {
        number = product(number, 10);
        if (__builtin_add_overflow(number, *p - '0', &number))
            number = UINT64_MAX;
    }
    *at = p;
    *ret = number;
    return 0;
}

static int parse_count(const char *text, uint64_t *ret)
{
    return parse_digits(&text, ret) == 0 && !*text ? 0 : -1;
}

static int parse_size(const char *text, uint64_t *ret)
{
    static const char suffixes[] = "kmgt";
    uint64_t number, unit = 1;

    if (parse_digits(&text, &number) != 0)
        return -1;
    if (*text) {
        const char *suffix = strchr(suffixes, tolower((unsigned char)*text));
        if (!suffix || text[1])
            return -1;
        unit <<= 10 * (suffix - suffixes + 1);
    }
    *ret = product(number, unit);
    return 0;
}

/* Milliseconds; without a unit they are meant.  Parts of a millisecond are refused rather than rounded. */
static int parse_duration(const char *text, uint64_t *ret)
{
    static const struct {
        const char *name;
        uint64_t us;
    } units[] = {{"us", 1}, {"ms", 1000}, {"", 1000}, {"s", 1000000}, {"m", 60000000}, {"h", UINT64_C(3600000000)}};
    uint64_t number, us;

    if (parse_digits(&text, &number) != 0)
        return -1;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(text, units[i].name) != 0)
            continue;
        us = product(number, units[i].us);
        *ret = us / 1000;
        return us % 1000 && us != UINT64_MAX ? -1 : 0;
    }
    return -1;
}

static int parse_boolean(const char *text, uint64_t *ret)
{
    static const char *const words[] = {"no", "yes", "false", "true", "0", "1"};

    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcmp(text, words[i]) == 0) {
            *ret = i % 2;
            return 0;
        }
    return -1;
}

static int parse_choice(const char *choices, const char *text, uint64_t *ret)
{
    size_t length = strlen(text);

    for (uint64_t number = 0; length; number++) {
        size_t this_length = strcspn(choices, "|");
        if (this_length == length && memcmp(choices, text, length) == 0) {
            *ret = number;
            return 0;
        }
        if (!choices[this_length])
            return -1;
        choices += this_length + 1;
    }
    return -1;
}

static int parse_number(const struct row *row, const char *text, uint64_t *ret)
{
    switch (row->type) {
    case SIZE:
        return parse_size(text, ret);
    case COUNT:
        return parse_count(text, ret);
    case DURATION:
        return parse_duration(text, ret);
    case BOOLEAN:
        return parse_boolean(text, ret);
    case CHOICE:
        return parse_choice(row->info.choices, text, ret);
    default:
        return -1;
    }
}

/* What parse_number takes, in words. */
static const char *accepted_by(const struct row *row)
{
    static const char *const forms[] = {[SIZE] = "bytes, or with k, m, g or t: 64m",
                                        [COUNT] = "decimal digits alone",
                                        [DURATION] = "whole milliseconds: 250, or with a unit us, ms, s, m, h: 2s",
                                        [BOOLEAN] = "yes, no, true, false, 1, 0"};
    return row->type == CHOICE ? row->info.choices : forms[row->type];
}

/* ---------------------------------------------------------------- checks */

static const char *unit_of(const struct row *row)
{
    return row->type == SIZE ? " bytes" : row->type == DURATION ? " ms" : "";
}

static int check_number(const struct row *row, uint64_t number, near_error *error)
{
    if (number >= row->info.min && number <= row->info.max)
        return NEAR_OK;
    return near__fail(error, NEAR_ERR_OPTION, "%s is %llu%s; it must be %llu to %llu", row->info.name,
                      (unsigned long long)number, unit_of(row), (unsigned long long)row->info.min,
                      (unsigned long long)row->info.max);
}

/* Never quotes the text: it may be a password. */
static int check_text(const struct row *row, const char *text, near_error *error)
{
    size_t length = strlen(text);

    if (length >= row->info.min && length <= row->info.max)
        return NEAR_OK;
    return near__fail(error, NEAR_ERR_OPTION, "%s has %zu bytes; it must have %llu to %llu", row->info.name, length,
                      (unsigned long long)row->info.min, (unsigned long long)row->info.max);
}

/* The remote tier lists clients separated by spaces and refuses names with anything but visible ASCII. */
static int check_client_name(const char *name, near_error *error)
{
    for (; name && *name; name++)
        if (*name < '!' || *name > '~')
            return near__fail(error, NEAR_ERR_OPTION, "client_name must be visible ASCII without spaces");
    return NEAR_OK;
}

static int check_together(const near_options *o, near_error *error)
{
    if (o->backoff_min_ms > o->backoff_max_ms)
        return near__fail(error, NEAR_ERR_OPTION, "backoff_min_ms (%u) is above backoff_max_ms (%u)", o->backoff_min_ms,
                          o->backoff_max_ms);
    if (o->unproven == NEAR_UNPROVEN_SERVE_STALE && o->stale_ms < o->bound_ms)
        return near__fail(error, NEAR_ERR_OPTION, "stale_ms (%u) is below bound_ms (%u)", o->stale_ms, o->bound_ms);
    if (o->message_values == NEAR_VALUES_ALWAYS && o->track != NEAR_TRACK_NONE)
        return near__fail(error, NEAR_ERR_OPTION,
                          "message_values: with track, the server's report of the write takes the value away");
    if (o->auto_hit_permille && o->auto_bytes_min > (o->auto_bytes_max ? o->auto_bytes_max : o->local_bytes))
        return near__fail(error, NEAR_ERR_OPTION, "auto_bytes_min (%llu) is above %s",
                          (unsigned long long)o->auto_bytes_min, o->auto_bytes_max ? "auto_bytes_max" : "local_bytes");
    if (!o->tls_cert_file != !o->tls_key_file)
        return near__fail(error, NEAR_ERR_OPTION, "tls_cert_file and tls_key_file go together");
    if (o->reserved || o->reserved_2)
        return near__fail(error, NEAR_ERR_OPTION, "reserved must be 0");
    return check_client_name(o->client_name, error);
}

/* ---------------------------------------------------------------- public */

static void fill_in_defaults(near_options *options)
{
    memset(options, 0, sizeof *options);
    for (size_t i = 0; i < ROWS; i++) {
        uint64_t number = 0;
        if (is_text(&rows[i])) {
            set_text(options, &rows[i], rows[i].type == TEXT ? rows[i].info.default_text : NULL);
        } else { /* a test holds every default to its row's own syntax and bounds */
            (void)parse_number(&rows[i], rows[i].info.default_text, &number);
            set_number(options, &rows[i], number);
        }
    }
}

void near_options_init_sized(near_options *options, size_t size)
{
    near_options ours;

    fill_in_defaults(&ours);
    ours.size = size;
    memset(options, 0, size);
    memcpy(options, &ours, size < sizeof ours ? size : sizeof ours);
}

int near_option_set(near_options *options, const char *name, const char *text, near_error *error)
{
    if (!options || !name || !text)
        return near__fail(error, NEAR_ERR_INVALID, "options, name and text must not be NULL");
    const struct row *row = find_row(name, strlen(name));
    if (!row || row->offset + row->width > options->size)
        return near__fail(error, NEAR_ERR_OPTION, "unknown option \"%.60s\"", name);
    if (is_text(row)) {
        int status = check_text(row, text, error);
        if (status == NEAR_OK)
            set_text(options, row, text);
        return status;
    }
    uint64_t number;
    if (parse_number(row, text, &number) != 0)
        return near__fail(error, NEAR_ERR_OPTION, "%s: \"%.40s\" is not a %s (%s)", name, text, row->info.type,
                          accepted_by(row));
    int status = check_number(row, number, error);
    if (status == NEAR_OK)
        set_number(options, row, number);
    return status;
}

int near_options_from_environment(near_options *options, near_error *error)
{
    if (!options)
        return near__fail(error, NEAR_ERR_INVALID, "options must not be NULL");
    for (size_t i = 0; i < ROWS; i++) {
        char variable[64] = "NEAR_";
        size_t length = strlen(variable);
        for (const char *p = rows[i].info.name; *p && length < sizeof variable - 1; p++)
            variable[length++] = (char)toupper((unsigned char)*p);
        const char *text = secure_getenv(variable);
        int status = text ? near_option_set(options, rows[i].info.name, text, error) : NEAR_OK;
        if (status != NEAR_OK)
            return status;
    }
    return NEAR_OK;
}

/* ---------------------------------------------------------------- copy */

/* What lies beyond the rows, with the same rule of size. */
static void copy_member(const near_options *from, near_options *to, size_t offset, size_t width)
{
    if (offset + width <= from->size)
        memcpy((unsigned char *)to + offset, (const unsigned char *)from + offset, width);
}

int near__options_check(const near_options *from, near_error *error)
{
    if (!from)
        return NEAR_OK;
    if (from->size < offsetof(near_options, local_bytes) || from->size > STRUCT_SIZE_MAX)
        return near__fail(error, NEAR_ERR_OPTION, "options: size is %zu; call near_options_init first", from->size);
    const unsigned char *bytes = (const unsigned char *)from;
    for (size_t i = sizeof *from; i < from->size; i++)
        if (bytes[i])
            return near__fail(error, NEAR_ERR_OPTION, "options: a field that this version does not know is set");
    near_allocator hooks = {0};
    if (from->size >= offsetof(near_options, allocator) + sizeof hooks)
        hooks = from->allocator;
    if (!hooks.allocate != !hooks.reallocate || !hooks.allocate != !hooks.release)
        return near__fail(error, NEAR_ERR_OPTION, "the allocator's three functions go together");
    return NEAR_OK;
}

static int copy_fields(const near_options *from, near_options *to, near_error *error)
{
    for (size_t i = 0; i < ROWS; i++) {
        const struct row *row = &rows[i];
        if (row->offset + row->width > from->size)
            continue;
        if (!is_text(row)) {
            int status = check_number(row, get_number(from, row), error);
            if (status != NEAR_OK)
                return status;
            set_number(to, row, get_number(from, row));
        } else if (get_text(from, row)) {
            int status = check_text(row, get_text(from, row), error);
            if (status != NEAR_OK)
                return status;
            set_text(to, row, get_text(from, row));
        }
    }
    copy_member(from, to, offsetof(near_options, reserved), sizeof to->reserved);
    copy_member(from, to, offsetof(near_options, reserved_2), sizeof to->reserved_2);
    copy_member(from, to, offsetof(near_options, log), sizeof to->log);
    copy_member(from, to, offsetof(near_options, log_arg), sizeof to->log_arg);
    copy_member(from, to, offsetof(near_options, allocator), sizeof to->allocator);
    return check_together(to, error);
}

/* All texts become our own, the defaults too, so that near__options_fini frees them alike. */
static int own_texts(near_options *options, const struct near__alloc *alloc)
{
    int failed = 0;

    for (size_t i = 0; i < ROWS; i++) {
        const char *text = is_text(&rows[i]) ? get_text(options, &rows[i]) : NULL;
        if (!text)
            continue;
        /* after a failure the rest are still the caller's, and must not stay */
        char *copy = failed ? NULL : near__strdup(alloc, text);
        failed = !copy;
        set_text(options, &rows[i], copy);
    }
    return failed ? -1 : 0;
}

int near__options_copy(const near_options *from, const struct near__alloc *alloc, near_options *ret, near_error *error)
{
    near_options to;
    int status = near__options_check(from, error);

    near_options_init(&to);
    if (from && status == NEAR_OK)
        status = copy_fields(from, &to, error);
    if (status != NEAR_OK)
        return status;
    if (own_texts(&to, alloc) != 0) {
        near__options_fini(&to, alloc);
        return near__fail(error, NEAR_ERR_NOMEM, "out of memory for the options");
    }
    *ret = to;
    return NEAR_OK;
}

void near__options_fini(near_options *options, const struct near__alloc *alloc)
{
    for (size_t i = 0; i < ROWS; i++) {
        if (!is_text(&rows[i]))
            continue;
        char *text = (char *)(uintptr_t)get_text(options, &rows[i]); /* near__options_copy made it */
        if (text)
            explicit_bzero(text, strlen(text)); /* it may be the password */
        near__free(alloc, text);
        set_text(options, &rows[i], NULL);
    }
}
