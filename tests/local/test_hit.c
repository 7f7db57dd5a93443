/* SPDX-License-Identifier: BSD-3-Clause
 * R47: a read that is paused anywhere between its looks never serves what is older than its bound.
 *
 * hit.c and index.c are compiled into this program with the hook of step.h; the pause is whatever the hook does at
 * the n-th step. */
#define NEAR_STEP_HOOK 1
#define NEAR_TICKS_HOOK 1
#include "local/local_fixture.h"

#include "local/hit.c"
#include "local/index.c"

#define BOUND (100 * MS)
#define KEY "a short key" /* 9 to 16 bytes */

static struct fixture f;
static unsigned countdown; /* steps until the pause; 0: none */
static int no_counter;     /* no moment is ever told */
static int for_ever;       /* no remote tier: a proof that always holds, and KEY expires within the bound */
static void (*happens)(void);

static void step(void)
{
    if (countdown && --countdown == 0)
        happens();
}

/* The processor's counter is the virtual clock; what happens before the next look at it. */
static void (*happens_before_the_counter)(void);

int64_t near__ticks_for_test(void)
{
    void (*what)(void) = happens_before_the_counter;
    happens_before_the_counter = NULL;
    if (what)
        what();
    return atomic_load(&f.now_ns);
}

/* As ticks.c, of that counter. */
int near__ticks_are_trusted(void)
{
    return 1;
}
void near__rate_init(struct near__rate *rate, const struct near__clock *clock)
{
    (void)clock;
    *rate = (struct near__rate){.usable = 1};
}
int64_t near__rate_moment(struct near__rate *rate, const struct near__clock *clock, int64_t at_ns)
{
    return rate->usable && at_ns > near__now(clock) ? at_ns : NEAR_TICKS_NEVER;
}

static void prove(void)
{
    int64_t now = atomic_load(&f.now_ns);
    atomic_store(&f.gate->proved_ns, now);
    atomic_store(&f.gate->fresh_ms, now / MS + BOUND / MS);
    atomic_store(&f.gate->fresh_ticks, no_counter ? NEAR_TICKS_NEVER : now + BOUND);
}

/* The moment of the time alone: half of what KEY has left. */
static void prove_for_ever(void)
{
    int64_t now = atomic_load(&f.now_ns);
    near__local_prove(f.local, NEAR_PROVED_ALWAYS);
    atomic_store(&f.gate->time_ms, near__tier_ms(f.local, now) + BOUND / MS / 2);
    atomic_store(&f.gate->time_ticks, no_counter ? NEAR_TICKS_NEVER : now + BOUND / 2);
}

static void start(void)
{
    countdown = 0;
    near__step_hook = step;
    fixture_open(&f);
    atomic_store(&f.gate->bound_ns, BOUND);
    if (for_ever)
        prove_for_ever();
    else
        prove();
    assert_int_equal(put(&f, "another key", "any", 5), 1);
    assert_int_equal(for_ever ? put_ttl(&f, KEY, "old", 5, BOUND / MS) : put(&f, KEY, "old", 5), 1);
}

/* Paused for twice the bound; meanwhile the key was written, the message came, and a new proof. */
static void message_and_proof(void)
{
    near__clock_advance(&f.now_ns, 2 * BOUND);
    near__local_invalidate(f.local, KEY, strlen(KEY), 6, NEAR_CAUSE_MESSAGE);
    prove();
}

/* The same, but the message was lost with its subscription: the proof came with a watermark. */
static void loss_and_proof(void)
{
    near__clock_advance(&f.now_ns, 2 * BOUND);
    near__local_raise_watermark(f.local, 6);
    prove();
}

/* The subscription was lost and proven again so quickly that the old proof still counts; the message was missed. */
static void loss_and_quick_proof(void)
{
    near__local_raise_watermark(f.local, 6);
}

static void only_time(void)
{
    near__clock_advance(&f.now_ns, BOUND);
}

static const char *get_long(const char *key)
{
    return get_bound(&f, key, BOUND, 0);
}

/* The hit path of near_get, with each way of finding. */
static const char *get_plain(const char *key, int is_short)
{
    static char text[16];
    size_t size;
    near__rcu_enter();
    int is_absent;
    const struct near__entry *entry =
        is_short ? near__hit_plain(f.local, key, strlen(key), near__width(), NEAR_ENTRY_VALUE_MAX, &size)
                 : near__hit_anywhere(f.local, key, strlen(key), NEAR_ENTRY_VALUE_MAX, &size, &is_absent);
    if (entry)
        snprintf(text, sizeof(text), "%.*s", (int)near__entry_value_size(entry),
                 (const char *)near__entry_value(entry));
    near__rcu_leave();
    return entry ? text : "-";
}
static const char *get_short(const char *key)
{
    return get_plain(key, 1);
}
static const char *get_any(const char *key)
{
    return get_plain(key, 0);
}

/* near_mget's, with the key among others that are not there. */
static const char *get_many(const char *key)
{
    static char text[16];
    struct near__local_key keys[3] = {{"one that is not there", 21}, {key, strlen(key)}, {"k", 1}};
    enum near__local_result results[3];
    struct near__view views[3];
    near__local_get_many(f.local, f.reader, keys, 3, BOUND, 0, results, views);
    if (!near__local_is_served(results[1]))
        return "-";
    snprintf(text, sizeof(text), "%.*s", (int)views[1].size, (const char *)views[1].data);
    near__local_unpin(f.reader, &views[1]);
    return text;
}

static void is_never_served_by(const char *(*read)(const char *key), void (*what)(void))
{
    unsigned paused = 0;
    for (unsigned n = 1; n < 40; n++) {
        start();
        happens = what;
        countdown = n;
        const char *got = read(KEY);
        int took_place = countdown == 0;
        countdown = 0;
        if (took_place)
            assert_string_not_equal(got, "old");
        else
            assert_string_equal(got, "old");
        paused += (unsigned)took_place;
        fixture_close(&f);
    }
    assert_true(paused >= 2); /* before the entry and before the watermark at least */
}

static void is_never_served_after(void (*what)(void))
{
    is_never_served_by(get_long, what);
    is_never_served_by(get_short, what);
    is_never_served_by(get_any, what);
    is_never_served_by(get_many, what);
    no_counter = 1; /* then the short way serves nothing */
    is_never_served_by(get_any, what);
    is_never_served_by(get_many, what);
    no_counter = 0;
}

static void test_R47_a_message_and_a_proof_during_the_read(void **state)
{
    (void)state;
    is_never_served_after(message_and_proof);
}
static void test_R47_a_loss_and_a_proof_during_the_read(void **state)
{
    (void)state;
    is_never_served_after(loss_and_proof);
}
static void test_R47_a_loss_noticed_during_the_read(void **state)
{
    (void)state;
    is_never_served_after(loss_and_quick_proof);
}
static void test_R47_the_bound_passes_during_the_read(void **state)
{
    (void)state;
    is_never_served_after(only_time);
}

static void test_G_an_entry_that_expires_during_the_read(void **state)
{
    (void)state;
    for_ever = 1;
    is_never_served_after(only_time);
    for_ever = 0;
}

/* The process is stopped for so long that what had ended before seems to end in some weeks. */
#define WEEKS (13 * 86400 * SEC)

/* Meanwhile the keeper goes on first, as far as it needs no grace period. */
static void weeks_and_a_sweep(void)
{
    near__clock_advance(&f.now_ns, WEEKS);
    near__sweep(f.local, 1);
    atomic_store(&f.local->expiries_known_ms, near__tier_ms(f.local, atomic_load(&f.now_ns)));
    near__tier_tell_time(f.local);
}

static void only_weeks(void)
{
    near__clock_advance(&f.now_ns, WEEKS);
}

static void is_served_by_none(void)
{
    assert_string_not_equal(get_long(KEY), "old");
    assert_string_not_equal(get_short(KEY), "old");
    assert_string_not_equal(get_any(KEY), "old");
    assert_string_not_equal(get_many(KEY), "old");
}

/* Whoever goes on first: reads, then who tells moments; the keeper comes last. */
static void test_G_what_ended_before_the_process_was_stopped_for_weeks(void **state)
{
    (void)state;
    for (for_ever = 0; for_ever < 2; for_ever++) {
        start();
        assert_int_equal(put_ttl(&f, KEY, "old", 6, 1000), 1);
        near__clock_advance(&f.now_ns, WEEKS + 1000 * MS);
        if (!for_ever)
            atomic_store(&f.gate->proved_ns, atomic_load(&f.now_ns));
        is_served_by_none();
        if (for_ever)
            near__tier_tell_time(f.local);
        else
            near__local_prove(f.local, atomic_load(&f.now_ns));
        is_served_by_none();
        near__local_keep(f.local);
        is_served_by_none();
        assert_string_equal(get_long(KEY), "(absent)");
        fixture_close(&f);
    }
    for_ever = 1;
    is_never_served_after(only_weeks);
    is_never_served_after(weeks_and_a_sweep);
    for (int any = 0; any < 2; any++) {
        start();
        happens_before_the_counter = weeks_and_a_sweep;
        assert_string_equal(any ? get_any(KEY) : get_short(KEY), "-");
        assert_null(happens_before_the_counter);
        fixture_close(&f);
    }
    for_ever = 0;
}

/* The moment of the longer bound, with the time of the shorter one: the entry outlives that, and not the other. */
static void shorten_bound(void)
{
    near__local_set_bound(f.local, BOUND / 10);
    near__local_prove(f.local, atomic_load(&f.now_ns));
}

static void a_third_of_the_bound(void)
{
    near__clock_advance(&f.now_ns, BOUND / 3);
}

static void test_G_a_bound_that_is_shortened_during_the_read(void **state)
{
    static const char *(*const reads[])(const char *) = {get_long, get_short, get_any, get_many};
    (void)state;
    for (size_t r = 0; r < 4; r++)
        for (unsigned n = 1; n < 40; n++) {
            start();
            near__local_prove(f.local, atomic_load(&f.now_ns));
            assert_int_equal(put_ttl(&f, KEY, "old", 6, BOUND / MS / 4), 1);
            happens = shorten_bound;
            countdown = n;
            happens_before_the_counter = a_third_of_the_bound;
            const char *got = reads[r](KEY);
            int was_late = !happens_before_the_counter;
            countdown = 0;
            happens_before_the_counter = NULL;
            assert_true(!was_late || strcmp(got, "old") != 0);
            fixture_close(&f);
        }
}

/* Longer for a while, with a moment that goes with it; the read wants what it was. */
static int64_t proved_ns;
static unsigned steps_longer;

static void restore_bound(void)
{
    near__local_set_bound(f.local, BOUND);
}

static void lengthen_bound(void)
{
    near__local_set_bound(f.local, BOUND * 10);
    near__local_prove(f.local, proved_ns);
    happens = restore_bound;
    countdown = steps_longer;
}

static void test_R47_a_bound_that_is_longer_for_a_while_during_the_read(void **state)
{
    static const char *(*const reads[])(const char *) = {get_long, get_many};
    (void)state;
    for (unsigned n = 1; n < 40; n++)
        for (steps_longer = 1; steps_longer < 10; steps_longer++)
            for (size_t r = 0; r < 2; r++) {
                start();
                proved_ns = atomic_load(&f.now_ns);
                near__local_prove(f.local, proved_ns);
                near__clock_advance(&f.now_ns, 2 * BOUND);
                happens = lengthen_bound;
                countdown = n;
                assert_string_not_equal(reads[r](KEY), "old");
                countdown = 0;
                fixture_close(&f);
            }
}

/* Behind another one in the list of what is retired, so that its link is a number like a position that is high
 * enough. */
static void retire(void)
{
    near__local_invalidate(f.local, "another key", strlen("another key"), 0, NEAR_CAUSE_DROP);
    near__local_invalidate(f.local, KEY, strlen(KEY), 0, NEAR_CAUSE_DROP);
}
static void retired_and_loss(void)
{
    retire();
    loss_and_quick_proof();
}
static void loss_and_retired(void)
{
    loss_and_quick_proof();
    retire();
}
static void test_R47_a_loss_while_the_entry_is_retired(void **state)
{
    (void)state;
    is_never_served_after(retired_and_loss);
    is_never_served_after(loss_and_retired);
}

/* ---------------------------------------------------------------- replaced during the read */

static uint64_t replaced;

static void replace(void)
{
    assert_int_equal(put(&f, KEY, "new", 6 + replaced++), 1);
}

/* A key that is there all the time is found, whatever step of the read its entry is retired in; the short ways may
 * leave it to the long one. */
static void test_a_read_of_a_key_that_is_replaced_does_not_miss(void **state)
{
    static const char *(*const reads[])(const char *) = {get_long, get_many, get_short, get_any};
    (void)state;
    for (size_t r = 0; r < 4; r++)
        for (unsigned n = 1; n < 40; n++) {
            replaced = 0;
            start();
            happens = replace;
            countdown = n;
            const char *got = reads[r](KEY);
            countdown = 0;
            if (r >= 2 && strcmp(got, "-") == 0)
                got = get_long(KEY);
            assert_string_equal(got + (strcmp(got, "old") == 0 ? 3 : 0), replaced && strcmp(got, "old") ? "new" : "");
            fixture_close(&f);
        }
}

/* Each time before it is judged: the read ends. */
static void replace_again(void)
{
    replace();
    countdown = 1;
}
static void test_A_a_read_of_a_key_that_is_always_replaced_ends(void **state)
{
    (void)state;
    replaced = 0;
    start();
    happens = replace_again;
    countdown = 1;
    const char *got = get_long(KEY);
    countdown = 0;
    assert_true(strcmp(got, "new") == 0 || strcmp(got, "(absent)") == 0);
    assert_true(replaced < NEAR_HIT_LOOKS * (NEAR_PLACES * NEAR_BUCKET_SLOTS + 8));
    fixture_close(&f);
}

/* Whatever is in the bucket, a read takes so many steps at most (promise A). */
static void test_A_a_read_takes_a_bounded_number_of_steps(void **state)
{
    (void)state;
    start();
    for (int i = 0; i < 2000; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k%d", i);
        put(&f, key, "v", (uint64_t)i + 10);
    }
    for (int i = 0; i < 2000; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k%d", i);
        countdown = 1000;
        get(&f, key);
        /* proof, slots, those with the tag again, watermark */
        assert_true(1000 - countdown <= 2 * NEAR_BUCKET_SLOTS + 2);
    }
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_R47_a_message_and_a_proof_during_the_read),
        cmocka_unit_test(test_R47_a_loss_and_a_proof_during_the_read),
        cmocka_unit_test(test_R47_a_loss_noticed_during_the_read),
        cmocka_unit_test(test_R47_the_bound_passes_during_the_read),
        cmocka_unit_test(test_G_an_entry_that_expires_during_the_read),
        cmocka_unit_test(test_G_what_ended_before_the_process_was_stopped_for_weeks),
        cmocka_unit_test(test_G_a_bound_that_is_shortened_during_the_read),
        cmocka_unit_test(test_R47_a_bound_that_is_longer_for_a_while_during_the_read),
        cmocka_unit_test(test_R47_a_loss_while_the_entry_is_retired),
        cmocka_unit_test(test_a_read_of_a_key_that_is_replaced_does_not_miss),
        cmocka_unit_test(test_A_a_read_of_a_key_that_is_always_replaced_ends),
        cmocka_unit_test(test_A_a_read_takes_a_bounded_number_of_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
