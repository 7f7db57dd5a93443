/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A statistics snapshot as text.  One table row a figure gives its name, kind, unit and sentence; the three formats are
 * printed from it.  Numbers are integers, so no locale can change their look. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "nearcache.h"
#include "base/utf8.h"

enum kind { GAUGE, COUNTER, SIGNED_GAUGE, FLAG, QUANTILES, POLICY, REASON };

struct row {
    const char *section; /* of INFO; NULL: as the row before */
    const char *name;
    enum kind kind;
    size_t offset;
    const char *help;
};

#define ROW(section, field, kind, help)                                                                                \
    {                                                                                                                  \
        section, #field, kind, offsetof(near_stats, field), help                                                       \
    }

static const struct row rows[] = {
    ROW("Local", local_bytes, GAUGE, "Bytes of the local tier, everything included."),
    ROW(NULL, local_bytes_limit, GAUGE, "Budget of the local tier in bytes."),
    ROW(NULL, local_entries, GAUGE, "Entries in the local tier."),
    ROW(NULL, local_entries_limit, GAUGE, "Most entries allowed; 0 for no limit."),
    ROW(NULL, local_index_bytes, GAUGE, "Bytes of the index."),
    ROW(NULL, local_retired_bytes, GAUGE, "Bytes unlinked and not yet reclaimed."),
    ROW(NULL, local_resize_permille, GAUGE, "Progress of a running resize; 1000 when none runs."),
    ROW(NULL, policy, POLICY, "What makes room when the local tier is full."),
    ROW(NULL, policy_now, POLICY, "The policy being followed: policy, or what adaptive has chosen."),
    ROW(NULL, auto_reason, REASON, "Why the automatic size is what it is."),
    ROW(NULL, auto_wanted_bytes, GAUGE, "Budget that the wanted hit ratio would need; 0 when not known."),
    ROW(NULL, auto_cap_bytes, GAUGE, "Budget that memory pressure leaves; 0 for no limit."),
    ROW(NULL, auto_expected_permille, GAUGE, "Hit ratio expected at the size of the last decision, in thousandths."),
    ROW(NULL, auto_grown, COUNTER, "Times that the automatic size grew."),
    ROW(NULL, auto_shrunk, COUNTER, "Times that the automatic size shrank."),
    ROW(NULL, auto_pressed, COUNTER, "Looks, one a second, that found memory short."),
    ROW("Reads", gets, COUNTER, "Reads."),
    ROW(NULL, local_hits, COUNTER, "Reads answered by the local tier."),
    ROW(NULL, local_misses, COUNTER, "Reads not answered by the local tier."),
    ROW(NULL, stale_served, COUNTER, "Reads answered without a current proof, as the policy allows."),
    ROW(NULL, miss_absent, COUNTER, "Local misses: not there."),
    ROW(NULL, miss_expired, COUNTER, "Local misses: time over."),
    ROW(NULL, miss_unproven, COUNTER, "Local misses: freshness not proven."),
    ROW(NULL, miss_suspect, COUNTER, "Local misses: suspect since a fault."),
    ROW(NULL, miss_bypassed, COUNTER, "Local misses: the caller asked to bypass."),
    ROW(NULL, flights_joined, COUNTER, "Reads that shared another thread's fetch."),
    ROW(NULL, remote_hits, COUNTER, "Fetches that found the key."),
    ROW(NULL, remote_misses, COUNTER, "Fetches that did not find the key."),
    ROW(NULL, remote_errors, COUNTER, "Fetches that failed."),
    ROW("Entries", fills, COUNTER, "Values kept in the local tier."),
    ROW(NULL, fills_refused_order, COUNTER, "Values not kept: something newer was known."),
    ROW(NULL, fills_refused_space, COUNTER, "Values not kept: no room or too large."),
    ROW(NULL, evictions, COUNTER, "Entries that made room."),
    ROW(NULL, expirations, COUNTER, "Entries whose time was over."),
    ROW(NULL, invalidations, COUNTER, "Entries removed by a message or a write."),
    ROW(NULL, invalidations_absent, COUNTER, "Invalidations that found no entry."),
    ROW(NULL, invalidations_older, COUNTER, "Invalidations older than the entry they met."),
    ROW(NULL, drops, COUNTER, "Calls of near_drop, whether there was a copy or not."),
    ROW("Writes", writes, COUNTER, "Writes."),
    ROW(NULL, writes_unmet, COUNTER, "Writes whose condition was not met."),
    ROW(NULL, writes_failed, COUNTER, "Writes that failed."),
    ROW(NULL, writes_unknown, COUNTER, "Writes of unknown fate."),
    ROW("Coherence", proven, FLAG, "1 while the local tier may serve."),
    ROW(NULL, proof_age_ms, SIGNED_GAUGE, "Age of the last freshness proof in milliseconds; -1 for never."),
    ROW(NULL, messages, COUNTER, "Messages received."),
    ROW(NULL, messages_own, COUNTER, "Messages of this process's own."),
    ROW(NULL, messages_foreign, COUNTER, "Keys that the remote tier reported as written, by whomever."),
    ROW(NULL, messages_kept, COUNTER, "Messages whose value took the place of an older one."),
    ROW(NULL, values_sent, COUNTER, "Writes whose message took the value along."),
    ROW(NULL, values_held, GAUGE, "Values that callers have got and not released, or are getting."),
    ROW(NULL, message_applied_ns, SIGNED_GAUGE,
        "When the last message had been applied, nanoseconds of CLOCK_MONOTONIC; 0 for never."),
    ROW(NULL, messages_bad, COUNTER, "Messages malformed or of an unknown version."),
    ROW(NULL, message_gaps, COUNTER, "Lost messages detected."),
    ROW(NULL, proofs, COUNTER, "Freshness proofs completed."),
    ROW(NULL, proofs_failed, COUNTER, "Freshness proofs that failed."),
    ROW(NULL, subscriptions, COUNTER, "Subscriptions made."),
    ROW(NULL, disconnections, COUNTER, "Subscriptions lost."),
    ROW(NULL, suspicions, COUNTER, "Times that entries were made suspect."),
    ROW(NULL, repair_compared, COUNTER, "Suspect entries compared with the remote tier."),
    ROW(NULL, repair_kept, COUNTER, "Of them, still good and served again."),
    ROW(NULL, repair_dropped, COUNTER, "Of them, no longer good."),
    ROW(NULL, server_changes, COUNTER, "Times that another server was found."),
    ROW(NULL, position_regressions, COUNTER, "Times that the server had lost its position."),
    ROW(NULL, barriers, COUNTER, "Barriers that every process has passed."),
    ROW(NULL, barriers_incomplete, COUNTER, "Barriers whose deadline came first."),
    ROW("Remote", requests, COUNTER, "Requests sent to the remote tier."),
    ROW(NULL, connections_opened, COUNTER, "Connections opened."),
    ROW(NULL, connections_lost, COUNTER, "Connections lost."),
    ROW(NULL, timeouts, COUNTER, "Requests that met their deadline."),
    ROW(NULL, bytes_sent, COUNTER, "Bytes sent."),
    ROW(NULL, bytes_received, COUNTER, "Bytes received."),
    ROW(NULL, tls_files_refused, COUNTER, "Times that changed files of certificates or keys could not be used."),
    ROW(NULL, breaker_open, FLAG, "1 while the circuit breaker is open."),
    ROW("Source", source_queued, GAUGE, "Updates that their source does not have yet."),
    ROW(NULL, source_queued_bytes, GAUGE, "Their memory in bytes."),
    ROW(NULL, source_lag_ms, GAUGE, "Age of the oldest of them in milliseconds."),
    ROW(NULL, source_journal_bytes, GAUGE, "Bytes of the journals."),
    ROW(NULL, source_forgetting, GAUGE, "Keys that everybody is still to forget."),
    ROW(NULL, source_accepted, COUNTER, "Updates accepted into a queue."),
    ROW(NULL, source_stored, COUNTER, "Updates stored."),
    ROW(NULL, source_coalesced, COUNTER, "Updates that a newer one of their key replaced."),
    ROW(NULL, source_batches, COUNTER, "Calls of the store by a queue."),
    ROW(NULL, source_retried, COUNTER, "Updates that failed and were queued again."),
    ROW(NULL, source_refused, COUNTER, "Updates refused because the queue was full."),
    ROW(NULL, source_dead_letters, COUNTER, "Updates given up."),
    ROW(NULL, source_forgotten, COUNTER, "Keys that everybody has forgotten after a failure."),
    ROW("Latency", hit_ns, QUANTILES, "Local hits of near_get, nanoseconds, about one in 1000 timed."),
    ROW(NULL, miss_ns, QUANTILES, "Reads that went to the remote tier, nanoseconds."),
    ROW(NULL, write_ns, QUANTILES, "Writes, nanoseconds."),
    ROW(NULL, invalidation_ns, QUANTILES, "From a writer's send to its application here, nanoseconds."),
    ROW("Loading", loads, COUNTER, "Calls of loaders."),
    ROW(NULL, loads_failed, COUNTER, "Calls of loaders that failed."),
    ROW(NULL, loads_absent, COUNTER, "Calls of loaders that found no such key."),
    ROW(NULL, loads_unkept, COUNTER, "Loaded values not kept: written meanwhile, or the lease was over."),
    ROW(NULL, load_waits, COUNTER, "Waits for another process's load."),
    ROW(NULL, refreshes, COUNTER, "Refreshes that nobody waited for."),
    ROW(NULL, refreshes_early, COUNTER, "Of them, before the value was old."),
    ROW(NULL, refreshes_skipped, COUNTER, "Refreshes not begun: too many at once."),
    ROW(NULL, load_stale, COUNTER, "Old values served."),
    ROW(NULL, absent_hits, COUNTER, "Reads answered by a remembered absence."),
    ROW(NULL, load_ns, QUANTILES, "Loaders' times, nanoseconds."),
    ROW("Locks", locks_taken, COUNTER, "Locks taken."),
    ROW(NULL, locks_refused, COUNTER, "Locks not taken: somebody else had them."),
    ROW(NULL, locks_failed, COUNTER, "Locks not taken: the servers could not be asked."),
    ROW(NULL, locks_extended, COUNTER, "Locks prolonged."),
    ROW(NULL, locks_lost, COUNTER, "Locks found to have ended when they were to be prolonged or given back."),
    ROW(NULL, lock_ns, QUANTILES, "Taking a lock, waiting included, nanoseconds."),
    ROW("Warming", warm_keys, COUNTER, "Keys asked for by warming."),
    ROW(NULL, warm_found, COUNTER, "Of them, found."),
    ROW(NULL, warm_missing, COUNTER, "Of them, not there any more."),
    ROW(NULL, warm_errors, COUNTER, "Of them, failed."),
    ROW(NULL, snapshot_status, SIGNED_GAUGE,
        "The snapshot of keys: 0 read, 1 none, 9 not read yet, negative: the error."),
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

struct text {
    char *at;
    size_t room, length;
};

__attribute__((format(printf, 2, 3))) static void put(struct text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text->at, text->room, format, arguments);
    va_end(arguments);
    if (n < 0)
        return;
    size_t written = (size_t)n < text->room ? (size_t)n : text->room;
    text->at += written;
    text->room -= written;
    text->length += (size_t)n;
}

/* A row's number, whatever its width; sign in *ret_sign. */
static uint64_t number_of(const near_stats *stats, const struct row *row, const char **ret_sign)
{
    const char *at = (const char *)stats + row->offset;
    *ret_sign = "";
    if (row->kind == FLAG)
        return *(const uint32_t *)(const void *)at;
    if (row->kind != SIGNED_GAUGE)
        return *(const uint64_t *)(const void *)at;
    int64_t number = *(const int64_t *)(const void *)at;
    if (number >= 0)
        return (uint64_t)number;
    *ret_sign = "-";
    return (uint64_t)0 - (uint64_t)number;
}

/* What a number means, of the kinds that are told as words. */
static const char *word_of(const near_stats *stats, const struct row *row)
{
    static const char *const policies[] = {
        [NEAR_POLICY_LRU] = "lru",
        [NEAR_POLICY_S3FIFO] = "s3fifo",
        [NEAR_POLICY_RANDOM] = "random",
        [NEAR_POLICY_VOLATILE_LRU] = "volatile-lru",
        [NEAR_POLICY_VOLATILE_RANDOM] = "volatile-random",
        [NEAR_POLICY_ADAPTIVE] = "adaptive",
    };
    static const char *const reasons[] = {
        [NEAR_AUTO_OFF] = "off",         [NEAR_AUTO_LEARNING] = "learning",
        [NEAR_AUTO_REACHED] = "reached", [NEAR_AUTO_GROWN] = "grown",
        [NEAR_AUTO_SHRUNK] = "shrunk",   [NEAR_AUTO_NOT_FULL] = "not-full",
        [NEAR_AUTO_NO_ROOM] = "no-room", [NEAR_AUTO_UNREACHABLE] = "unreachable",
        [NEAR_AUTO_PRESSED] = "pressed", [NEAR_AUTO_RECOVERING] = "recovering",
        [NEAR_AUTO_BY_HAND] = "by-hand",
    };
    const char *const *words = row->kind == POLICY ? policies : reasons;
    size_t count = row->kind == POLICY ? sizeof(policies) / sizeof(policies[0]) : sizeof(reasons) / sizeof(reasons[0]);
    uint32_t number = *(const uint32_t *)(const void *)((const char *)stats + row->offset);
    return number < count ? words[number] : "unknown";
}
static int is_word(const struct row *row)
{
    return row->kind == POLICY || row->kind == REASON;
}

static const near_quantiles *quantiles_of(const near_stats *stats, const struct row *row)
{
    return (const near_quantiles *)(const void *)((const char *)stats + row->offset);
}

/* ---------------------------------------------------------------- INFO and JSON */

static void info_row(struct text *text, const near_stats *stats, const struct row *row)
{
    const char *sign;
    if (row->kind == QUANTILES) {
        const near_quantiles *q = quantiles_of(stats, row);
        put(text,
            "%s:count=%" PRIu64 ",p50=%" PRIu64 ",p90=%" PRIu64 ",p99=%" PRIu64 ",p999=%" PRIu64 ",max=%" PRIu64 "\r\n",
            row->name, q->count, q->p50, q->p90, q->p99, q->p999, q->max);
        return;
    }
    if (is_word(row)) {
        put(text, "%s:%s\r\n", row->name, word_of(stats, row));
        return;
    }
    uint64_t number = number_of(stats, row, &sign);
    put(text, "%s:%s%" PRIu64 "\r\n", row->name, sign, number);
}

static void render_info(struct text *text, const near_stats *stats)
{
    for (size_t i = 0; i < ROWS; i++) {
        if (rows[i].section)
            put(text, "%s# Nearcache-%s\r\n", i ? "\r\n" : "", rows[i].section);
        info_row(text, stats, &rows[i]);
    }
}

/* A name as the inside of a JSON string or an OpenMetrics label: both are UTF-8, and escape the same three characters
 * alike.  Bytes that are no UTF-8 become question marks. */
static void put_escaped(struct text *text, const char *name, int json)
{
    unsigned size;
    for (const unsigned char *c = (const unsigned char *)name; *c; c += size ? size : 1) {
        size = near__utf8_size(c);
        if (!size)
            put(text, "?");
        else if (*c == '"' || *c == '\\')
            put(text, "\\%c", *c);
        else if (*c == '\n')
            put(text, "\\n");
        else if (*c < 0x20 && json)
            put(text, "\\u%04x", *c);
        else
            put(text, "%.*s", (int)size, (const char *)c);
    }
}

static void render_json(struct text *text, const near_stats *stats, const char *name)
{
    put(text, "{\"name\":\"");
    put_escaped(text, name, 1);
    put(text, "\"");
    for (size_t i = 0; i < ROWS; i++) {
        const char *sign;
        const struct row *row = &rows[i];
        if (row->kind == QUANTILES) {
            const near_quantiles *q = quantiles_of(stats, row);
            put(text,
                ",\"%s\":{\"count\":%" PRIu64 ",\"p50\":%" PRIu64 ",\"p90\":%" PRIu64 ",\"p99\":%" PRIu64
                ",\"p999\":%" PRIu64 ",\"max\":%" PRIu64 "}",
                row->name, q->count, q->p50, q->p90, q->p99, q->p999, q->max);
            continue;
        }
        if (is_word(row)) {
            put(text, ",\"%s\":\"%s\"", row->name, word_of(stats, row));
            continue;
        }
        uint64_t number = number_of(stats, row, &sign);
        put(text, ",\"%s\":%s%" PRIu64, row->name, sign, number);
    }
    put(text, "}\n");
}

/* ---------------------------------------------------------------- OpenMetrics */

static void metrics_quantile(struct text *text, const struct row *row, const char *name, const char *q, uint64_t value)
{
    put(text, "nearcache_%s{cache=\"", row->name);
    put_escaped(text, name, 0);
    put(text, "\",quantile=\"%s\"} %" PRIu64 "\n", q, value);
}

static void metrics_row(struct text *text, const near_stats *stats, const struct row *row, const char *name)
{
    const char *sign;
    const char *type = row->kind == COUNTER ? "counter" : row->kind == QUANTILES ? "summary" : "gauge";
    put(text, "# TYPE nearcache_%s %s\n# HELP nearcache_%s %s\n", row->name, type, row->name, row->help);
    if (row->kind == QUANTILES) {
        const near_quantiles *q = quantiles_of(stats, row);
        metrics_quantile(text, row, name, "0.5", q->p50);
        metrics_quantile(text, row, name, "0.9", q->p90);
        metrics_quantile(text, row, name, "0.99", q->p99);
        metrics_quantile(text, row, name, "0.999", q->p999);
        metrics_quantile(text, row, name, "1", q->max);
        put(text, "nearcache_%s_count{cache=\"", row->name);
        put_escaped(text, name, 0);
        put(text, "\"} %" PRIu64 "\n", q->count);
        return;
    }
    if (is_word(row)) { /* a label, as OpenMetrics has states */
        put(text, "nearcache_%s{cache=\"", row->name);
        put_escaped(text, name, 0);
        put(text, "\",%s=\"%s\"} 1\n", row->kind == POLICY ? "policy" : "reason", word_of(stats, row));
        return;
    }
    uint64_t number = number_of(stats, row, &sign);
    put(text, "nearcache_%s%s{cache=\"", row->name, row->kind == COUNTER ? "_total" : "");
    put_escaped(text, name, 0);
    put(text, "\"} %s%" PRIu64 "\n", sign, number);
}

static void render_metrics(struct text *text, const near_stats *stats, const char *name)
{
    for (size_t i = 0; i < ROWS; i++)
        metrics_row(text, stats, &rows[i], name);
    put(text, "# EOF\n");
}

size_t near_stats_render(const near_stats *stats, near_format format, const char *name, char *buffer, size_t capacity)
{
    struct text text = {.at = buffer, .room = buffer ? capacity : 0};
    if (!stats || stats->size != sizeof(*stats))
        return 0;
    if (buffer && capacity)
        buffer[0] = 0;
    if (format == NEAR_FORMAT_INFO)
        render_info(&text, stats);
    else if (format == NEAR_FORMAT_JSON)
        render_json(&text, stats, name ? name : "");
    else if (format == NEAR_FORMAT_OPENMETRICS)
        render_metrics(&text, stats, name ? name : "");
    return text.length;
}
