/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include "base/log.h"

struct seen {
    _Atomic(int) count;
    int level;
    char component[32], text[8192];
};

static void remember(void *arg, int level, const char *component, const char *text)
{
    struct seen *seen = arg;
    atomic_fetch_add(&seen->count, 1);
    seen->level = level;
    strncpy(seen->component, component, sizeof seen->component - 1);
    strncpy(seen->text, text, sizeof seen->text - 1);
}

struct fixture {
    struct seen seen;
    _Atomic(int64_t) now;
    struct near__clock clock;
    struct near__log log;
};

static struct near__log *prepare(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    f->clock.virtual_ns = &f->now;
    f->log.fn = remember;
    f->log.arg = &f->seen;
    f->log.level = NEAR_LOG_NOTICE;
    f->log.clock = &f->clock;
    return &f->log;
}

static void test_messages_reach_the_function(void **state)
{
    struct fixture f;
    struct near__log *log = prepare(&f);
    (void)state;
    near__log(log, NEAR_LOG_WARNING, "remote", "connection to %s lost", "db1");
    assert_int_equal(f.seen.count, 1);
    assert_int_equal(f.seen.level, NEAR_LOG_WARNING);
    assert_string_equal(f.seen.component, "remote");
    assert_string_equal(f.seen.text, "connection to db1 lost");
}

static void test_levels_above_the_limit_are_silent(void **state)
{
    struct fixture f;
    struct near__log *log = prepare(&f), silent = {.fn = NULL, .level = NEAR_LOG_DEBUG};
    (void)state;
    near__log(log, NEAR_LOG_INFO, "core", "not heard");
    assert_int_equal(f.seen.count, 0);
    near__log(&silent, NEAR_LOG_ERROR, "core", "nobody listens");
    near__log(NULL, NEAR_LOG_ERROR, "core", "nobody listens");
}

static void say_lost(struct near__log *log)
{
    near__log(log, NEAR_LOG_WARNING, "core", "lost again");
}

static void test_a_call_site_speaks_once_a_second_and_counts(void **state)
{
    struct fixture f;
    struct near__log *log = prepare(&f);
    (void)state;
    for (int i = 0; i < 100; i++)
        say_lost(log);
    assert_int_equal(f.seen.count, 1);
    near__clock_advance(&f.now, NEAR_NS_PER_S / 2);
    say_lost(log);
    assert_int_equal(f.seen.count, 1);
    near__clock_advance(&f.now, NEAR_NS_PER_S);
    say_lost(log);
    assert_int_equal(f.seen.count, 2);
    assert_string_equal(f.seen.text, "lost again (and 100 more like it)");
    near__clock_advance(&f.now, NEAR_NS_PER_S + 1);
    say_lost(log);
    assert_int_equal(f.seen.count, 3);
    assert_string_equal(f.seen.text, "lost again");
}

static void test_call_sites_do_not_silence_each_other(void **state)
{
    struct fixture f;
    struct near__log *log = prepare(&f);
    (void)state;
    say_lost(log);
    near__log(log, NEAR_LOG_WARNING, "core", "something else");
    assert_int_equal(f.seen.count, 2);
    assert_string_equal(f.seen.text, "something else");
}

static void test_two_caches_do_not_silence_each_other(void **state)
{
    struct fixture one, two;
    (void)state;
    say_lost(prepare(&one));
    say_lost(prepare(&two));
    assert_int_equal(one.seen.count, 1);
    assert_int_equal(two.seen.count, 1);
}

/* More call sites than the table has room for: the further ones are not limited, and none is lost. */
static void test_a_full_table_silences_nobody(void **state)
{
    static char formats[NEAR_LOG_SITES + 20][16];
    struct fixture f;
    struct near__log *log = prepare(&f);
    (void)state;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#pragma GCC diagnostic ignored "-Wformat-security"
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < NEAR_LOG_SITES + 20; i++) {
            memcpy(formats[i], "message", 8);
            near__log(log, NEAR_LOG_ERROR, "core", formats[i]);
        }
#pragma GCC diagnostic pop
    assert_int_equal(f.seen.count, NEAR_LOG_SITES + 20 + 20);
}

static void test_J_hostile_text_stays_one_bounded_line(void **state)
{
    struct fixture f;
    struct near__log *log = prepare(&f);
    char hostile[8000];
    near_error error;
    (void)state;
    memset(hostile, 'x', sizeof hostile);
    memcpy(hostile, "a\nb\r\x1b[31m\x7f", 10);
    hostile[sizeof hostile - 1] = '\0';
    near__log(log, NEAR_LOG_ERROR, "remote", "the server said: %s", hostile);
    assert_int_equal(strlen(f.seen.text), 4096 - 1); /* TEXT_MAX of log.c, which a whole ACL rule fits in */
    assert_int_equal(strncmp(f.seen.text, "the server said: a?b??[31m?", 27), 0);
    assert_int_equal(near__fail(&error, NEAR_ERR_REMOTE, "%s", hostile), NEAR_ERR_REMOTE);
    assert_int_equal(error.status, NEAR_ERR_REMOTE);
    assert_int_equal(strlen(error.text), sizeof error.text - 1);
    assert_null(strchr(error.text, '\n'));
    assert_int_equal(near__fail(NULL, NEAR_ERR_IO, "nobody asked"), NEAR_ERR_IO);
}

enum { THREADS = 4, CALLS = 2000 };

static void *say_often(void *log)
{
    for (int i = 0; i < CALLS; i++)
        say_lost(log);
    return NULL;
}

static int count_held_back(const char *text)
{
    int count = 0;
    return sscanf(text, "lost again (and %d more like it)", &count) == 1 ? count : 0;
}

static void test_of_many_threads_one_speaks(void **state)
{
    struct fixture f;
    struct near__log *log = prepare(&f);
    pthread_t threads[THREADS];
    (void)state;
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, say_often, log), 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(f.seen.count, 1);
    int held_back = count_held_back(f.seen.text); /* by those that came between the speaker's two steps */
    near__clock_advance(&f.now, 2 * NEAR_NS_PER_S);
    say_lost(log);
    assert_int_equal(held_back + count_held_back(f.seen.text), THREADS * CALLS - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages_reach_the_function),
        cmocka_unit_test(test_levels_above_the_limit_are_silent),
        cmocka_unit_test(test_a_call_site_speaks_once_a_second_and_counts),
        cmocka_unit_test(test_call_sites_do_not_silence_each_other),
        cmocka_unit_test(test_two_caches_do_not_silence_each_other),
        cmocka_unit_test(test_a_full_table_silences_nobody),
        cmocka_unit_test(test_J_hostile_text_stays_one_bounded_line),
        cmocka_unit_test(test_of_many_threads_one_speaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
