/* SPDX-License-Identifier: BSD-3-Clause
 * Promise A where a hit needs the time: entries with a time to live, and machines on whose counter the kernel itself
 * does not rely.  Such hits, too, take no lock and make no system call, and hardly more instructions than others. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "local/reader.h"
#include "local/tier.h"
#include "nearcache.h"
#include "promises/hit_trace.h"

#define HITS 64
#define NAPS 3000 /* of 10 ms, for the first moment to be told */
#define TRIES 20
#define KEY "0123456789abcdef"
#define KEY_SIZE (sizeof(KEY) - 1)

static near_cache *cache;
static const char *uri;
static int64_t ttl_ms; /* 0: none */
static int is_counter_hidden;

/* What the kernel takes its time from is read from a file: a kernel that relies on something else. */
FILE *__real_fopen64(const char *path, const char *mode);
FILE *__wrap_fopen64(const char *path, const char *mode);
FILE *__wrap_fopen64(const char *path, const char *mode)
{
    return is_counter_hidden && strstr(path, "clocksource") ? NULL : __real_fopen64(path, mode);
}

static int copy(char *value)
{
    size_t size;
    return near_get_copy(cache, KEY, KEY_SIZE, NULL, value, 100, &size);
}

/* The moment until which hits go by the counter has been told. */
static int is_told(const struct near__local *local)
{
    const struct near__gate *gate = &local->gate;
    return !local->by_counter ||
           atomic_load(atomic_load(&gate->proved_ns) == NEAR_PROVED_ALWAYS ? &gate->time_ticks : &gate->fresh_ticks);
}

static void prepare(void *arg)
{
    static const char value[100];
    near_write write = {.size = sizeof(write), .ttl_ms = ttl_ms};
    char buffer[100];
    (void)arg;
    if (near_open(uri, NULL, &cache, NULL) != NEAR_OK ||
        near_set(cache, KEY, KEY_SIZE, value, sizeof(value), &write, NULL) != NEAR_OK)
        _exit(1);
    for (int i = 0;
         copy(buffer) != NEAR_OK || near__reader_last.name != cache || !is_told(near__reader_last.reader->local); i++) {
        if (i == NAPS)
            _exit(1);
        nanosleep(&(struct timespec){0, 10 * 1000000}, NULL);
    }
}

static void copies(void *arg)
{
    char value[100];
    (void)arg;
    for (int i = 0; i < HITS; i++)
        if (copy(value) != NEAR_OK)
            abort();
}

static void gets(void *arg)
{
    (void)arg;
    for (int i = 0; i < HITS; i++) {
        near_value value;
        if (near_get(cache, KEY, KEY_SIZE, NULL, &value) != NEAR_OK)
            abort();
        near_release(&value);
    }
}

static void nothing(void *arg)
{
    (void)arg;
}

static void looks_at_the_clock(void *arg)
{
    struct timespec now;
    (void)arg;
    for (int i = 0; i < HITS; i++)
        clock_gettime(CLOCK_MONOTONIC, &now);
}

/* What a look at the kernel's clock takes. */
static uint64_t clock_instructions(void)
{
    struct hit_trace trace;
    if (hit_trace(nothing, looks_at_the_clock, NULL, &trace) != 0) {
        print_message("single-stepping is not possible here: skipped\n");
        skip();
    }
    if (trace.system_calls) {
        print_message("the kernel's clock is a system call here: skipped\n");
        skip();
    }
    return trace.instructions / HITS;
}

/* A moment that passes while we are single-stepped, for the keeper had no processor, is no defect: then once more.  So
 * it is with a kernel's clock that is a system call for a moment. */
static void is_short(const char *what, void (*hits)(void *), uint64_t most)
{
    struct hit_trace trace;
    int tries = 0;
    do {
        assert_int_equal(hit_trace(prepare, hits, NULL, &trace), 0);
        assert_int_equal(trace.locked, 0);
        assert_int_equal(trace.system_calls, trace.clock_calls);
    } while ((trace.clock_calls || trace.instructions / HITS > most) && ++tries < TRIES);
    assert_int_equal(trace.clock_calls, 0);
    print_message("instructions a hit, %s, %s: %llu\n", uri, what, (unsigned long long)(trace.instructions / HITS));
#ifdef __OPTIMIZE__
    assert_in_range(trace.instructions / HITS, 1, most);
#endif
}

/* A little more than what is measured (gcc 12, -O2, x86-64 with AVX2); looks at the clock come on top. */
#define COPY_WITH_TTL_MAX 210
#define GET_WITH_TTL_MAX 350
#define BY_CLOCK_MAX 460
#define GET_BY_CLOCK_MAX 485
#define BY_CLOCK_WITH_TTL_MAX 515

static int is_counter_used(void)
{
    static const struct near__clock kernels;
    struct near__rate rate;
    near__rate_init(&rate, &kernels);
    return rate.usable;
}

static void begin(const char *where, int64_t ttl, int hidden)
{
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    skip(); /* the sanitizers' own code takes locks and calls the kernel */
#endif
    uri = where;
    ttl_ms = ttl;
    is_counter_hidden = hidden;
    if (!hidden && !is_counter_used()) {
        print_message("the kernel does not use the processor's counter: skipped\n");
        skip();
    }
}

#define LOCAL "local:"
#define REMOTE "memory://A_clock?bound_ms=10s" /* so that a moment lasts for the whole of a trace */

static void test_A_copied_hits_of_what_expires_need_no_clock(void **state)
{
    (void)state;
    begin(LOCAL, 3600000, 0);
    is_short("near_get_copy with a time to live", copies, COPY_WITH_TTL_MAX);
    begin(REMOTE, 3600000, 0);
    is_short("near_get_copy with a time to live", copies, COPY_WITH_TTL_MAX);
}

static void test_A_hits_of_what_expires_look_at_the_clock_once(void **state)
{
    (void)state;
    begin(LOCAL, 3600000, 0);
    uint64_t clock = clock_instructions();
    is_short("near_get with a time to live", gets, GET_WITH_TTL_MAX + clock);
    begin(REMOTE, 3600000, 0);
    is_short("near_get with a time to live", gets, GET_WITH_TTL_MAX + clock);
}

static void test_A_without_the_counter_hits_look_at_the_clock_once(void **state)
{
    (void)state;
    begin(REMOTE, 0, 1);
    uint64_t clock = clock_instructions();
    is_short("near_get_copy by the kernel's clock", copies, BY_CLOCK_MAX + clock);
    is_short("near_get by the kernel's clock", gets, GET_BY_CLOCK_MAX + clock);
    begin(REMOTE, 3600000, 1);
    is_short("near_get_copy by the kernel's clock with a time to live", copies, BY_CLOCK_WITH_TTL_MAX + clock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_A_copied_hits_of_what_expires_need_no_clock),
        cmocka_unit_test(test_A_hits_of_what_expires_look_at_the_clock_once),
        cmocka_unit_test(test_A_without_the_counter_hits_look_at_the_clock_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
