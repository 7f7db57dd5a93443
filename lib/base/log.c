/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TEXT_MAX 4096 /* a rule with three times a prefix of the greatest length */

/* Texts quote what came from outside; a line stays one line whatever that contained. */
static void make_one_line(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

/* The site of a format, claimed on first use; NULL when all are taken.
 * relaxed: a site is a key and counters, it publishes nothing else. */
static struct near__log_site *find_site(struct near__log_site *sites, const char *format)
{
    size_t first = ((uintptr_t)format >> 3) % NEAR_LOG_SITES;

    for (size_t i = 0; i < NEAR_LOG_SITES; i++) {
        struct near__log_site *site = &sites[(first + i) % NEAR_LOG_SITES];
        const char *owner = atomic_load_explicit(&site->format, memory_order_relaxed);
        if (!owner && atomic_compare_exchange_strong_explicit(&site->format, &owner, format, memory_order_relaxed,
                                                              memory_order_relaxed))
            return site;
        if (owner == format)
            return site;
    }
    return NULL;
}

/* 1 when the site may speak now; *ret_held_back is then what it kept to itself since it last did.
 * relaxed: of threads that speak at the same instant the exchange lets one pass; a count that is off by their number
 * harms nobody. */
static int may_pass(struct near__log_site *site, int64_t now, uint64_t *ret_held_back)
{
    int64_t passed = atomic_load_explicit(&site->passed_ns, memory_order_relaxed);

    if ((passed && now - passed < NEAR_NS_PER_S) ||
        !atomic_compare_exchange_strong_explicit(&site->passed_ns, &passed, now ? now : 1, memory_order_relaxed,
                                                 memory_order_relaxed)) {
        atomic_fetch_add_explicit(&site->held_back, 1, memory_order_relaxed);
        return 0;
    }
    *ret_held_back = atomic_exchange_explicit(&site->held_back, 0, memory_order_relaxed);
    return 1;
}

void near__log(const struct near__log *log, int level, const char *component, const char *format, ...)
{
    char text[TEXT_MAX];
    uint64_t held_back = 0;
    va_list args;

    if (!log || !log->fn || level > log->level)
        return;
    if (log->clock) {
        /* log objects are never const-defined (log.h); callers see them as const because only we write */
        struct near__log *writable = (struct near__log *)(uintptr_t)log;
        struct near__log_site *site = find_site(writable->sites, format);
        if (site && !may_pass(site, near__now(log->clock), &held_back))
            return;
    }
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (held_back) {
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, " (and %llu more like it)", (unsigned long long)held_back);
    }
    make_one_line(text);
    log->fn(log->arg, level, component, text);
}

int near__fail(near_error *error, int status, const char *format, ...)
{
    va_list args;

    if (!error)
        return status;
    error->status = status;
    va_start(args, format);
    vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    make_one_line(error->text);
    return status;
}
