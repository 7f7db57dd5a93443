/* SPDX-License-Identifier: BSD-3-Clause
 * How old values are served and loads end, in a time that only the tests move: two processes on memory://. */

#include "load/load_source.h"
#include "support/wait.h"
#include "cache/cache.h"
#include "system/stack.h"

static void source_says(struct source *s, const char *value, int answer)
{
    pthread_mutex_lock(&s->mutex);
    snprintf(s->value, sizeof(s->value), "%s", value);
    s->answer = answer;
    pthread_mutex_unlock(&s->mutex);
}

static near_load options_of(int64_t ttl_ms)
{
    near_load options;
    near_load_init(&options);
    options.ttl_ms = ttl_ms;
    options.timeout_ms = 3600000;
    options.hard_timeout_ms = 3600000;
    options.lease_ms = 3600000;
    return options;
}

/* A has had "one" of "k" for so long; now the source says something else. */
static void loaded_long_ago(struct stack *t, struct source *s, const near_load *o, int64_t ms, const char *says,
                            int answer)
{
    source_init(s, "one");
    assert_string_equal(load_with(t->a, "k", s, o), "one");
    stack_pass(t, ms);
    source_says(s, says, answer);
}

static void test_old_value_at_once_and_one_refresh_behind(void **state)
{
    struct stack *t = *state;
    struct source s;
    near_load o = options_of(1000);
    o.stale_ms = 5000;
    source_init(&s, "one");
    assert_string_equal(load_with(t->a, "k", &s, &o), "one");
    stack_pass(t, 900);
    assert_string_equal(load_with(t->a, "k", &s, &o), "one");
    assert_int_equal(source_loads(&s), 1);
    stack_pass(t, 200);
    source_says(&s, "two", NEAR_OK);
    source_hold(&s, 1);
    for (int i = 0; i < 5; i++)
        assert_string_equal(load_with(t->a, "k", &s, &o), "stale one"); /* while the refresh is held */
    source_wait_inside(&s, 1);
    /* it had no copy: the server's old value, at once */
    assert_string_equal(load_with(t->b, "k", &s, &o), "stale one");
    assert_int_equal(source_loads(&s), 2);
    source_hold(&s, 0);
    assert_true(wait_until(strcmp(load_with(t->a, "k", &s, &o), "two") == 0, PATIENCE_MS));
    assert_int_equal(source_loads(&s), 2);
    assert_string_equal(s.old, "one");
    assert_true(s.old_version == near_version_of("one", 3));
}

/* Takes A's copy of "k" away and teaches nothing of it: other entries displace it.  Their values are older than its
 * own. */
enum { CROWD = 200 };
static void crowd_comes(struct stack *t)
{
    char key[16];
    for (int i = 0; i < CROWD; i++) {
        snprintf(key, sizeof(key), "crowd %d", i);
        assert_int_equal(put(t->b, key, "some"), NEAR_OK);
    }
    stack_fence(t, t->a);
}
static void crowd_out(struct stack *t)
{
    char key[16];
    assert_int_equal(near_set_local_entries(t->a, 8), NEAR_OK);
    for (int i = 0; i < CROWD; i++) {
        snprintf(key, sizeof(key), "crowd %d", i);
        assert_string_equal(look(t->a, key), "some");
    }
    assert_string_equal(peek(t->a, "k"), MISS);
}

/* A reader who joins the load that is held, which then goes on whether or not he was content without. */
static const char *joins(near_cache *cache, struct source *s, const near_load *o)
{
    static struct reader reader;
    uint64_t joined = stats_of(cache).flights_joined;
    reader_start(&reader, cache, s, o);
    wait_until(reader.is_done, PATIENCE_MS);
    assert_int_equal(stats_of(cache).flights_joined, joined + 1);
    source_hold(s, 0);
    const char *got = reader_end(&reader);
    assert_int_equal(reader.from, NEAR_FROM_FLIGHT); /* the server was asked before he came */
    return got;
}

/* The same when the reader's copy goes while a refresh is under way, and he joins that. */
static void test_old_value_at_once_though_the_copy_is_evicted_during_its_refresh(void **state)
{
    struct stack *t = *state;
    static struct source s; /* a load that fails the test may outlive it */
    near_load o = options_of(1000);
    o.stale_ms = 5000;
    crowd_comes(t);
    loaded_long_ago(t, &s, &o, 1100, "two", NEAR_OK);
    source_hold(&s, 1);
    assert_string_equal(load_with(t->a, "k", &s, &o), "stale one");
    source_wait_inside(&s, 1);
    crowd_out(t);
    assert_string_equal(joins(t->a, &s, &o), "stale one");
    assert_true(wait_until(strcmp(load_with(t->a, "k", &s, &o), "two") == 0, PATIENCE_MS));
    assert_int_equal(source_loads(&s), 2);
}

static void test_old_value_ends_with_the_stale_time(void **state)
{
    struct stack *t = *state;
    struct source s;
    near_load o = options_of(1000);
    o.stale_ms = 500;
    loaded_long_ago(t, &s, &o, 1600, "two", NEAR_OK);
    assert_string_equal(load_with(t->a, "k", &s, &o), "two");
}

static void test_old_value_at_once_though_the_copy_is_evicted_without_a_remote_tier(void **state)
{
    struct stack *t = *state;
    static struct source s;
    near_cache *c;
    near_options few;
    near_load o = options_of(1000);
    o.stale_ms = 5000;
    source_init(&s, "one");
    near_options_init(&few);
    few.local_entries = 3; /* an index that is looked at as a whole, so that the order is exact */
    assert_int_equal(near__cache_open("local:", &few, &t->now_ns, &c, NULL), NEAR_OK);
    assert_string_equal(load_with(c, "k", &s, &o), "one");
    assert_int_equal(put(c, "other", "some"), NEAR_OK);
    stack_skip(t, 1100);
    source_says(&s, "two", NEAR_OK);
    source_hold(&s, 1);
    assert_string_equal(load_with(c, "k", &s, &o), "stale one");
    source_wait_inside(&s, 1);
    assert_int_equal(put(c, "third", "some"), NEAR_OK); /* the clock of last use goes on */
    assert_string_equal(look(c, "other"), "some");
    assert_int_equal(near_set_local_entries(c, 1), NEAR_OK);
    assert_true(wait_until(stats_of(c).local_entries <= 1, PATIENCE_MS));
    assert_string_equal(peek(c, "k"), MISS);
    assert_string_equal(joins(c, &s, &o), "stale one");
    assert_true(wait_until(stats_of(c).loads == 2, PATIENCE_MS));
    assert_int_equal(near_close(c), NEAR_OK);
}

/* Who looks at tags has nothing from who does not. */
static void test_a_load_that_looks_at_tags_joins_none_that_does_not(void **state)
{
    struct stack *t = *state;
    static struct source s;
    static struct reader plain, tagged;
    near_load o = options_of(1000), tags = o;
    tags.flags = NEAR_LOAD_TAGS;
    source_init(&s, "one");
    source_hold(&s, 1);
    reader_start(&plain, t->a, &s, &o);
    source_wait_inside(&s, 1);
    reader_start(&tagged, t->a, &s, &tags);
    assert_true(wait_until(stats_of(t->a).load_waits + stats_of(t->a).flights_joined > 0, PATIENCE_MS));
    uint64_t joined = stats_of(t->a).flights_joined;
    source_hold(&s, 0);
    assert_string_equal(reader_end(&plain), "one");
    assert_string_equal(reader_end(&tagged), "one");
    assert_int_equal(joined, 0);
}

static void test_who_wants_a_refresh_waits_for_it(void **state)
{
    struct stack *t = *state;
    static struct source s; /* a load that fails the test may outlive it */
    near_load o = options_of(1000);
    o.stale_ms = 5000;
    o.flags = NEAR_LOAD_REFRESH;
    loaded_long_ago(t, &s, &o, 900, "two", NEAR_OK);
    assert_string_equal(load_with(t->a, "k", &s, &o), "two");
    stack_pass(t, 1100);
    source_says(&s, "three", NEAR_OK);
    assert_string_equal(load_with(t->a, "k", &s, &o), "three");
}

/* A copy without a proof, which other readers are served, is no reason not to. */
static void test_who_wants_a_refresh_has_it_without_a_proof_too(void **state)
{
    struct stack *t = *state;
    struct source s;
    near_options options;
    near_load o = options_of(0), refresh = o;
    refresh.flags = NEAR_LOAD_REFRESH;
    stack_options(&options);
    options.timeout_ms = options.connect_timeout_ms = 3600000;
    options.unproven = NEAR_UNPROVEN_SERVE_STALE;
    options.stale_ms = 3600000;
    stack_reopen_a(t, &options);
    source_init(&s, "one");
    assert_string_equal(load_with(t->a, "k", &s, &o), "one");
    stack_hold(t, NEAR_FAULT_HOLD_MESSAGES, NEAR_OP_PROVE, -1);
    stack_skip(t, 10000);
    source_says(&s, "two", NEAR_OK);
    assert_string_equal(load_with(t->a, "k", &s, &o), "stale one");
    assert_string_equal(load_with(t->a, "k", &s, &refresh), "two");
    assert_int_equal(source_loads(&s), 2);
    stack_hold(t, NEAR_FAULT_HOLD_MESSAGES, 0, 0);
}

/* Without a remote tier the loader's old value is the local copy. */
static void test_old_value_ends_with_the_stale_time_without_a_remote_tier(void **state)
{
    struct stack *t = *state;
    struct source s;
    near_cache *c;
    near_load o = options_of(1000);
    o.stale_ms = 500;
    o.fail_ms = 5000;
    source_init(&s, "one");
    assert_int_equal(near__cache_open("local:", NULL, &t->now_ns, &c, NULL), NEAR_OK);
    assert_string_equal(load_with(c, "k", &s, &o), "one");
    stack_skip(t, 1600);
    source_says(&s, "two", NEAR_OK);
    assert_string_equal(load_with(c, "k", &s, &o), "two");
    assert_int_equal(near_close(c), NEAR_OK);
}

/* What is done between a reader's look at the local tier and his ticket (linked with --wrap); once. */
static __thread void (*before_ticket)(near_cache *cache);
static __thread near_cache *of_ticket;
struct near__ticket __real_near__local_ticket(struct near__local *local, const void *key, size_t key_size);
struct near__ticket __wrap_near__local_ticket(struct near__local *local, const void *key, size_t key_size);
struct near__ticket __wrap_near__local_ticket(struct near__local *local, const void *key, size_t key_size)
{
    void (*hook)(near_cache *) = before_ticket;
    before_ticket = NULL;
    if (hook)
        hook(of_ticket);
    return __real_near__local_ticket(local, key, key_size);
}

static void remove_k(near_cache *cache)
{
    assert_int_equal(near_del(cache, "k", 1, NULL), NEAR_OK);
}
static void *refresh_removed(void *arg)
{
    struct reader *r = arg;
    before_ticket = remove_k;
    of_ticket = r->cache;
    return reader_main(r);
}

/* A refresh whose reader has found a copy that was removed before it began: nobody has that copy from it. */
static void test_R17_a_read_after_a_removal_has_no_copy_from_before_it(void **state)
{
    struct stack *t = *state;
    static struct source s;
    static struct reader refresher, other;
    near_cache *c;
    near_load o = options_of(1000), refresh = o;
    refresh.flags = NEAR_LOAD_REFRESH;
    source_init(&s, "one");
    assert_int_equal(near__cache_open("local:", NULL, &t->now_ns, &c, NULL), NEAR_OK);
    assert_string_equal(load_with(c, "k", &s, &o), "one");
    source_says(&s, "two", NEAR_OK);
    source_hold(&s, 1);
    refresher = (struct reader){.cache = c, .source = &s, .options = &refresh};
    assert_int_equal(pthread_create(&refresher.thread, NULL, refresh_removed, &refresher), 0);
    source_wait_inside(&s, 1);
    reader_start(&other, c, &s, &o);
    assert_true(wait_until(stats_of(c).flights_joined == 1, PATIENCE_MS));
    source_hold(&s, 0);
    assert_string_equal(reader_end(&other), "two");
    assert_string_equal(reader_end(&refresher), "two");
    assert_int_equal(near_close(c), NEAR_OK);
}

/* What is done while a removal, or a write that has a number, is under way (linked with --wrap); once. */
static __thread void (*while_removing)(void), (*while_writing)(void);
int __real_near__local_invalidate(struct near__local *local, const void *key, size_t key_size, uint64_t position,
                                  enum near__local_cause cause);
int __wrap_near__local_invalidate(struct near__local *local, const void *key, size_t key_size, uint64_t position,
                                  enum near__local_cause cause);
int __wrap_near__local_invalidate(struct near__local *local, const void *key, size_t key_size, uint64_t position,
                                  enum near__local_cause cause)
{
    void (*hook)(void) = while_removing;
    while_removing = NULL;
    if (hook)
        hook();
    return __real_near__local_invalidate(local, key, key_size, position, cause);
}
void __real_near__local_numbered(struct near__local *local, uint32_t stripe, uint64_t number, int used);
void __wrap_near__local_numbered(struct near__local *local, uint32_t stripe, uint64_t number, int used);
void __wrap_near__local_numbered(struct near__local *local, uint32_t stripe, uint64_t number, int used)
{
    void (*hook)(void) = while_writing;
    while_writing = NULL;
    if (hook)
        hook();
    __real_near__local_numbered(local, stripe, number, used);
}

static struct {
    struct source source;
    struct reader reader;
    near_load options;
    near_cache *cache;
} meanwhile;
static void refresh_meanwhile(void)
{
    source_hold(&meanwhile.source, 1);
    reader_start(&meanwhile.reader, meanwhile.cache, &meanwhile.source, &meanwhile.options);
    source_wait_inside(&meanwhile.source, 1);
}
static void loads_without_an_old_value(void)
{
    assert_string_equal(meanwhile.source.old, "");
    source_hold(&meanwhile.source, 0);
    assert_string_equal(reader_end(&meanwhile.reader), "two");
}

static void test_R17_no_copy_is_given_to_a_load_that_may_be_older_than_what_others_know(void **state)
{
    struct stack *t = *state;
    near_write with_ttl;
    near_write_init(&with_ttl);
    with_ttl.ttl_ms = 1000; /* the long way */
    meanwhile.options = options_of(1000);
    meanwhile.options.flags = NEAR_LOAD_REFRESH;
    source_init(&meanwhile.source, "one");
    assert_int_equal(near__cache_open("local:", NULL, &t->now_ns, &meanwhile.cache, NULL), NEAR_OK);
    assert_string_equal(load_with(meanwhile.cache, "k", &meanwhile.source, &meanwhile.options), "one");
    source_says(&meanwhile.source, "two", NEAR_OK);
    while_removing = refresh_meanwhile;
    assert_int_equal(near_drop(meanwhile.cache, "k", 1), NEAR_OK);
    loads_without_an_old_value();
    assert_int_equal(near_set(meanwhile.cache, "k", 1, "one", 3, NULL, NULL), NEAR_OK);
    while_writing = refresh_meanwhile;
    assert_int_equal(near_set(meanwhile.cache, "k", 1, "new", 3, &with_ttl, NULL), NEAR_OK);
    loads_without_an_old_value();
    assert_int_equal(near_close(meanwhile.cache), NEAR_OK);
}

/* What cannot be served is no reason to stop waiting at the soft end. */
static void test_soft_timeout_is_for_who_has_something_to_be_served(void **state)
{
    struct stack *t = *state;
    static struct source s;
    static struct reader reader;
    near_load o = options_of(1000);
    o.soft_timeout_ms = 50;
    o.flags = NEAR_LOAD_REFRESH;
    loaded_long_ago(t, &s, &o, 100, "two", NEAR_OK);
    source_hold(&s, 1);
    reader_start(&reader, t->a, &s, &o);
    source_wait_inside(&s, 1);
    stack_pass(t, 1500);
    source_hold(&s, 0);
    assert_string_equal(reader_end(&reader), "two");
}

static void test_an_unchanged_value_lives_on(void **state)
{
    struct stack *t = *state;
    struct source s;
    near_load o = options_of(1000);
    o.fail_ms = 5000;
    loaded_long_ago(t, &s, &o, 1500, "", NEAR_UNCHANGED);
    assert_string_equal(load_with(t->a, "k", &s, &o), "one");
    assert_int_equal(source_loads(&s), 2);
    stack_pass(t, 900);
    assert_string_equal(load_with(t->a, "k", &s, &o), "one");
    assert_int_equal(source_loads(&s), 2);
}

/* Ten seconds without the source: not one error, and the source is asked once a second. */
static void test_failing_source_is_covered_by_old_values(void **state)
{
    struct stack *t = *state;
    struct source s;
    near_load o = options_of(1000);
    o.fail_ms = 60000;
    loaded_long_ago(t, &s, &o, 1100, "", -1);
    for (int ms = 0; ms < 10000; ms += 100) {
        assert_string_equal(load_with(t->a, "k", &s, &o), "stale one");
        stack_pass(t, 100);
    }
    assert_in_range(source_loads(&s), 9, 12);
    source_says(&s, "two", NEAR_OK);
    stack_pass(t, 1000);
    assert_string_equal(load_with(t->a, "k", &s, &o), "two");
    source_says(&s, "", -1);
    stack_pass(t, 62000);
    assert_string_equal(load_with(t->a, "k", &s, &o), "(NEAR_ERR_LOAD)"); /* too old */
}

/* And so it is with keys of any length. */
static void test_a_failing_source_is_left_alone_for_a_while(void **state)
{
    struct stack *t = *state;
    struct source s;
    near_load o = options_of(1000);
    char key[201];
    o.fail_ms = 60000;
    source_init(&s, "one");
    memset(key, 'k', sizeof(key) - 1);
    key[sizeof(key) - 1] = 0;
    assert_string_equal(load_with(t->a, key, &s, &o), "one");
    stack_pass(t, 1100);
    source_says(&s, "", -1);
    for (int i = 0; i < 5; i++)
        assert_string_equal(load_with(t->a, key, &s, &o), "stale one");
    assert_int_equal(source_loads(&s), 2);
}

/* What was young enough when the call began may be too old when the load has failed: the call's own copy, too. */
static void fails_too_late(struct stack *t, near_cache *c, const near_load *o, uint32_t soft_ms)
{
    static struct source s;
    static struct reader reader;
    near_load mine = *o;
    mine.soft_timeout_ms = soft_ms;
    source_init(&s, "one");
    assert_string_equal(load_with(c, "k", &s, &mine), "one");
    stack_pass(t, 1100);
    source_says(&s, "", -1);
    source_hold(&s, 1);
    reader_start(&reader, c, &s, &mine);
    source_wait_inside(&s, 1);
    stack_pass(t, 600);
    source_hold(&s, 0);
    assert_string_equal(reader_end(&reader), "(NEAR_ERR_LOAD)");
}
static void test_G_a_failing_source_is_covered_no_longer_than_told(void **state)
{
    struct stack *t = *state;
    near_cache *c;
    near_load o = options_of(1000);
    o.fail_ms = 500;
    assert_int_equal(near__cache_open("local:", NULL, &t->now_ns, &c, NULL), NEAR_OK);
    fails_too_late(t, c, &o, 0);
    fails_too_late(t, t->a, &o, 0);
    stack_pass(t, 5000);
    fails_too_late(t, c, &o, 450);
    fails_too_late(t, t->a, &o, 450);
    assert_int_equal(near_close(c), NEAR_OK);
}

static void test_soft_timeout_serves_the_old_value_and_lets_the_load_finish(void **state)
{
    struct stack *t = *state;
    struct source s;
    struct reader reader;
    near_load o = options_of(1000);
    o.fail_ms = 60000;
    o.soft_timeout_ms = 50;
    loaded_long_ago(t, &s, &o, 1100, "two", NEAR_OK);
    source_hold(&s, 1);
    reader_start(&reader, t->a, &s, &o);
    source_wait_inside(&s, 1);
    stack_pass(t, 60);
    assert_string_equal(reader_end(&reader), "stale one");
    source_hold(&s, 0);
    assert_true(wait_until(strcmp(load_with(t->a, "k", &s, &o), "two") == 0, PATIENCE_MS));
    assert_int_equal(source_loads(&s), 2);
}

static void test_hard_timeout_ends_the_wait_and_the_value_is_kept_nevertheless(void **state)
{
    struct stack *t = *state;
    struct source s;
    struct reader readers[2];
    near_load o = options_of(0);
    o.hard_timeout_ms = 100;
    source_init(&s, "one");
    source_hold(&s, 1);
    reader_start(&readers[0], t->a, &s, &o);
    source_wait_inside(&s, 1);
    reader_start(&readers[1], t->a, &s, &o);
    while (stats_of(t->a).flights_joined < 1)
        wait_a_moment();
    stack_pass(t, 110);
    assert_string_equal(reader_end(&readers[0]), "(NEAR_ERR_LOAD_TIMEOUT)");
    assert_string_equal(reader_end(&readers[1]), "(NEAR_ERR_LOAD_TIMEOUT)");
    source_hold(&s, 0);
    assert_true(wait_until(strcmp(look(t->a, "k"), "one") == 0, PATIENCE_MS));
    assert_int_equal(source_loads(&s), 1);
}

/* The only worker is busy with another key: the loader has not been called yet, so it cannot be late. */
static void test_hard_timeout_is_the_loader_s_and_not_the_queue_s(void **state)
{
    struct stack *t = *state;
    static struct source s, other; /* loads that fail the test may outlive it */
    struct reader busy, patient, late;
    near_options one;
    near_load o = options_of(0), hard = options_of(0);
    stack_options(&one);
    one.load_threads = 1;
    stack_reopen_a(t, &one);
    hard.hard_timeout_ms = 100;
    source_init(&s, "one");
    source_init(&other, "other");
    source_hold(&s, 1);
    source_hold(&other, 1);
    reader_start_of(&busy, t->a, "other", &other, &o);
    source_wait_inside(&other, 1);
    reader_start(&patient, t->a, &s, &hard);
    assert_true(wait_until(stats_of(t->a).remote_misses == 2, PATIENCE_MS)); /* then it is in the queue at once */
    stack_pass(t, 110);
    reader_start(&late, t->a, &s, &hard);
    assert_true(wait_until(stats_of(t->a).flights_joined == 1, PATIENCE_MS)); /* it has not landed */
    source_hold(&other, 0);
    source_wait_inside(&s, 1);
    stack_pass(t, 90); /* nor has it now, and from here on 100 ms count */
    source_hold(&s, 0);
    assert_string_equal(reader_end(&busy), "other");
    assert_string_equal(reader_end(&patient), "one");
    assert_string_equal(reader_end(&late), "one");
}

static void test_each_waits_until_his_own_deadline(void **state)
{
    struct stack *t = *state;
    struct source s;
    struct reader patient, hasty;
    near_load o = options_of(0), brief = options_of(0);
    brief.timeout_ms = 50;
    source_init(&s, "one");
    source_hold(&s, 1);
    reader_start(&hasty, t->a, &s, &brief); /* leads, and leaves */
    source_wait_inside(&s, 1);
    reader_start(&patient, t->a, &s, &o);
    while (stats_of(t->a).flights_joined < 1)
        wait_a_moment();
    stack_pass(t, 60);
    assert_string_equal(reader_end(&hasty), "(NEAR_ERR_TIMEOUT)");
    source_hold(&s, 0);
    assert_string_equal(reader_end(&patient), "one");
    assert_int_equal(source_loads(&s), 1);
}

/* B has the lease and says nothing more, as if it had died. */
static void test_R16_next_process_takes_over_at_the_end_of_the_lease(void **state)
{
    struct stack *t = *state;
    struct source dead, s;
    struct reader holder, waiter;
    near_load o = options_of(0);
    o.lease_ms = 500;
    source_init(&dead, "late");
    source_init(&s, "one");
    source_hold(&dead, 1);
    reader_start(&holder, t->b, &dead, &o);
    source_wait_inside(&dead, 1);
    reader_start(&waiter, t->a, &s, &o);
    while (stats_of(t->a).load_waits < 1)
        wait_a_moment();
    assert_int_equal(source_loads(&s), 0);
    stack_pass(t, 510);
    assert_string_equal(reader_end(&waiter), "one");
    assert_true(stats_of(t->a).load_waits <= 3); /* it slept all the time */
    uint64_t fence = s.fence;
    assert_true(fence > dead.fence);
    source_hold(&dead, 0);
    reader_end(&holder);
    assert_string_equal(stack_server(t, "k"), "one"); /* the late one kept nothing */
    assert_int_equal(stats_of(t->b).loads_unkept, 1);
}

static void known_to_be_absent(struct stack *t, struct source *s, const near_load *o)
{
    source_init(s, "one");
    source_says(s, "", NEAR_MISS);
    assert_string_equal(load_with(t->a, "k", s, o), "(NEAR_MISS)");
}

static void test_remembered_absence_ends(void **state)
{
    struct stack *t = *state;
    struct source s;
    near_load o = options_of(0);
    o.absent_ms = 1000;
    known_to_be_absent(t, &s, &o);
    source_says(&s, "one", NEAR_OK);
    stack_pass(t, 900);
    assert_string_equal(load_with(t->a, "k", &s, &o), "(NEAR_MISS)");
    stack_pass(t, 200);
    assert_string_equal(load_with(t->a, "k", &s, &o), "one");
}

/* A negative entry is served under the same proof as any other (promise B). */
static void test_B_absence_without_proof_is_asked_for(void **state)
{
    struct stack *t = *state;
    struct source s;
    near_load o = options_of(0);
    o.absent_ms = 3600000;
    known_to_be_absent(t, &s, &o);
    near__memory_fault(t->store, NEAR_FAULT_DROP_MESSAGES, 0, -1); /* A hears nothing of it */
    assert_int_equal(put(t->b, "k", "made"), NEAR_OK);
    stack_skip(t, 5000); /* and its proof is over */
    assert_string_equal(load_with(t->a, "k", &s, &o), "made");
    near__memory_fault(t->store, NEAR_FAULT_DROP_MESSAGES, 0, 0);
}

static void test_H_without_the_server_every_process_loads_and_keeps_nothing(void **state)
{
    struct stack *t = *state;
    struct source s;
    near_load o = options_of(0);
    source_init(&s, "one");
    near__memory_fault(t->store, NEAR_FAULT_REFUSE, 0, -1);
    assert_string_equal(load_with(t->a, "k", &s, &o), "one");
    assert_int_equal(s.fence, 0);
    assert_string_equal(load_with(t->a, "k", &s, &o), "one");
    assert_int_equal(source_loads(&s), 2);
    near__memory_fault(t->store, NEAR_FAULT_REFUSE, 0, 0);
    assert_string_equal(load_with(t->a, "k", &s, &o), "one");
    assert_string_equal(load_with(t->b, "k", &s, &o), "one");
    assert_int_equal(source_loads(&s), 3);
    assert_true(s.fence > 0);
}

/* ---------------------------------------------------------------- many at once */

static _Atomic(int) calls_of_load_each;

static int load_each(void *arg, const near_load_request *requests, near_loaded *const *loaded, size_t count)
{
    calls_of_load_each++;
    for (size_t i = 0; i < count; i++)
        near_loaded_answer(loaded[i], load_from(arg, &requests[i], loaded[i]));
    return NEAR_OK;
}

/* "k" and "j" by one call: "value value". */
static const char *load_both(near_cache *c, struct source *s, const near_load *options)
{
    static __thread char text[160];
    near_item items[2] = {{.key = "k", .key_size = 1}, {.key = "j", .key_size = 1}};
    int at = 0;
    near_mget_or_load(c, items, 2, load_each, s, options);
    for (int i = 0; i < 2; i++) {
        at += snprintf(text + at, sizeof(text) - (size_t)at, "%s%s%.*s", i ? " " : "",
                       items[i].status == NEAR_OK      ? ""
                       : items[i].status == NEAR_STALE ? "stale:"
                                                       : near_status_name(items[i].status),
                       (int)items[i].value.size, items[i].value.data ? (const char *)items[i].value.data : "");
        near_release(&items[i].value);
    }
    return text;
}

static void test_a_batch_has_old_values_at_once_and_refreshes_behind(void **state)
{
    struct stack *t = *state;
    struct source s;
    near_load o = options_of(1000);
    o.stale_ms = 5000;
    source_init(&s, "one");
    calls_of_load_each = 0;
    assert_string_equal(load_both(t->a, &s, &o), "one one");
    stack_pass(t, 1100);
    source_says(&s, "two", NEAR_OK);
    source_hold(&s, 1);
    for (int i = 0; i < 5; i++)
        assert_string_equal(load_both(t->a, &s, &o), "stale:one stale:one"); /* while the refreshes are held */
    source_wait_inside(&s, 1);
    assert_string_equal(load_both(t->b, &s, &o), "stale:one stale:one"); /* the server's old values */
    assert_int_equal(calls_of_load_each, 2);
    source_hold(&s, 0);
    assert_true(wait_until(strcmp(load_both(t->a, &s, &o), "two two") == 0, PATIENCE_MS));
    assert_int_equal(source_loads(&s), 4);
    assert_int_equal(calls_of_load_each, 2);
}

static void test_a_batch_is_covered_by_old_values_where_there_are_any(void **state)
{
    struct stack *t = *state;
    struct source s;
    near_load o = options_of(1000);
    o.fail_ms = 60000;
    loaded_long_ago(t, &s, &o, 1100, "", -1);
    assert_string_equal(load_both(t->a, &s, &o), "stale:one NEAR_ERR_LOAD");
    assert_string_equal(load_both(t->b, &s, &o), "stale:one NEAR_ERR_LOAD"); /* the server's old value */
}

struct both {
    pthread_t thread;
    near_cache *cache;
    struct source *source;
    const near_load *options;
    char got[160];
};
static void *both_main(void *arg)
{
    struct both *b = arg;
    snprintf(b->got, sizeof(b->got), "%s", load_both(b->cache, b->source, b->options));
    return NULL;
}
static void both_start(struct both *b, near_cache *c, struct source *s, const near_load *options)
{
    *b = (struct both){.cache = c, .source = s, .options = options};
    assert_int_equal(pthread_create(&b->thread, NULL, both_main, b), 0);
}
static const char *both_end(struct both *b)
{
    pthread_join(b->thread, NULL);
    return b->got;
}

/* What took five minutes to load and is fresh for a second is refreshed early by chance, but for three times in a
 * million. */
static void test_a_batch_is_refreshed_early_by_one_call(void **state)
{
    struct stack *t = *state;
    struct source s;
    struct both slow;
    near_load o = options_of(1000);
    o.early_permille = 1000000;
    source_init(&s, "one");
    calls_of_load_each = 0;
    source_hold(&s, 1);
    both_start(&slow, t->a, &s, &o);
    source_wait_inside(&s, 1);
    stack_skip(t, 300000);
    stack_recover(t, t->a);
    source_hold(&s, 0);
    assert_string_equal(both_end(&slow), "one one");
    source_says(&s, "two", NEAR_OK);
    source_hold(&s, 1);
    assert_string_equal(load_both(t->a, &s, &o), "one one"); /* fresh, while it is refreshed */
    source_wait_inside(&s, 1);
    assert_int_equal(stats_of(t->a).refreshes_early, 2);
    source_hold(&s, 0);
    assert_true(wait_until(stats_of(t->a).loads == 4, PATIENCE_MS));
    assert_true(wait_until(strcmp(look(t->a, "k"), "two") == 0 && strcmp(look(t->a, "j"), "two") == 0, PATIENCE_MS));
    assert_int_equal(calls_of_load_each, 2);
}

/* Who joins an early refresh because his copy is gone has the server's, which is fresh. */
static void test_fresh_value_at_once_though_the_copy_is_evicted_during_its_early_refresh(void **state)
{
    struct stack *t = *state;
    static struct source s; /* a load that fails the test may outlive it */
    struct reader slow;
    near_load o = options_of(1000);
    o.early_permille = 1000000;
    crowd_comes(t);
    source_init(&s, "one");
    source_hold(&s, 1);
    reader_start(&slow, t->a, &s, &o);
    source_wait_inside(&s, 1);
    stack_skip(t, 300000);
    stack_recover(t, t->a);
    source_hold(&s, 0);
    assert_string_equal(reader_end(&slow), "one");
    source_says(&s, "two", NEAR_OK);
    source_hold(&s, 1);
    assert_string_equal(load_with(t->a, "k", &s, &o), "one");
    source_wait_inside(&s, 1);
    crowd_out(t);
    assert_string_equal(joins(t->a, &s, &o), "one");
    assert_true(wait_until(strcmp(look(t->a, "k"), "two") == 0, PATIENCE_MS));
    assert_int_equal(source_loads(&s), 2);
}

static void test_R16_a_batch_takes_over_at_the_end_of_the_leases(void **state)
{
    struct stack *t = *state;
    struct source dead, s;
    struct both holder, waiter;
    near_load o = options_of(0);
    o.lease_ms = 500;
    source_init(&dead, "late");
    source_init(&s, "one");
    source_hold(&dead, 1);
    both_start(&holder, t->b, &dead, &o);
    source_wait_inside(&dead, 1);
    both_start(&waiter, t->a, &s, &o);
    while (stats_of(t->a).load_waits < 2)
        wait_a_moment();
    assert_int_equal(source_loads(&s), 0);
    stack_pass(t, 510);
    assert_string_equal(both_end(&waiter), "one one");
    assert_true(stats_of(t->a).load_waits <= 6); /* it slept all the time */
    source_hold(&dead, 0);
    assert_string_equal(both_end(&holder), "late late"); /* handed out, and not kept */
    assert_string_equal(stack_server(t, "k"), "one");
    assert_string_equal(stack_server(t, "j"), "one");
    assert_int_equal(stats_of(t->b).loads_unkept, 2);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, stack_setup, stack_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_old_value_at_once_and_one_refresh_behind),
        TEST(test_old_value_at_once_though_the_copy_is_evicted_during_its_refresh),
        TEST(test_old_value_ends_with_the_stale_time),
        TEST(test_fresh_value_at_once_though_the_copy_is_evicted_during_its_early_refresh),
        TEST(test_old_value_ends_with_the_stale_time_without_a_remote_tier),
        TEST(test_old_value_at_once_though_the_copy_is_evicted_without_a_remote_tier),
        TEST(test_a_load_that_looks_at_tags_joins_none_that_does_not),
        TEST(test_who_wants_a_refresh_waits_for_it),
        TEST(test_who_wants_a_refresh_has_it_without_a_proof_too),
        TEST(test_R17_a_read_after_a_removal_has_no_copy_from_before_it),
        TEST(test_R17_no_copy_is_given_to_a_load_that_may_be_older_than_what_others_know),
        TEST(test_soft_timeout_is_for_who_has_something_to_be_served),
        TEST(test_an_unchanged_value_lives_on),
        TEST(test_failing_source_is_covered_by_old_values),
        TEST(test_a_failing_source_is_left_alone_for_a_while),
        TEST(test_G_a_failing_source_is_covered_no_longer_than_told),
        TEST(test_soft_timeout_serves_the_old_value_and_lets_the_load_finish),
        TEST(test_hard_timeout_ends_the_wait_and_the_value_is_kept_nevertheless),
        TEST(test_hard_timeout_is_the_loader_s_and_not_the_queue_s),
        TEST(test_each_waits_until_his_own_deadline),
        TEST(test_R16_next_process_takes_over_at_the_end_of_the_lease),
        TEST(test_R16_a_batch_takes_over_at_the_end_of_the_leases),
        TEST(test_a_batch_has_old_values_at_once_and_refreshes_behind),
        TEST(test_a_batch_is_refreshed_early_by_one_call),
        TEST(test_a_batch_is_covered_by_old_values_where_there_are_any),
        TEST(test_remembered_absence_ends),
        TEST(test_B_absence_without_proof_is_asked_for),
        TEST(test_H_without_the_server_every_process_loads_and_keeps_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
