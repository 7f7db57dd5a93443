/* SPDX-License-Identifier: BSD-3-Clause
 * R47: a read that is paused anywhere between its looks never serves what is older than its bound.
 *
 * hit.c and index.c are compiled into this program with the hook of step.h; the pause is whatever the hook does at
 * the n-th step. */
#define NEAR_STEP_HOOK 1
#include "local/local_fixture.h"

#include "local/hit.c"
#include "local/index.c"

#define BOUND (100 * MS)

static struct fixture f;
static unsigned countdown; /* steps until the pause; 0: none */
static void (*happens)(void);

static void step(void)
{
    if (countdown && --countdown == 0)
        happens();
}

static void start(void)
{
    countdown = 0;
    near__step_hook = step;
    fixture_open(&f);
    atomic_store(&f.gate->proved_ns, atomic_load(&f.now_ns));
    assert_int_equal(put(&f, "k", "old", 5), 1);
}

/* Paused for twice the bound; meanwhile the key was written, the message came, and a new proof. */
static void message_and_proof(void)
{
    near__clock_advance(&f.now_ns, 2 * BOUND);
    near__local_invalidate(f.local, "k", 1, 6, NEAR_CAUSE_MESSAGE);
    atomic_store(&f.gate->proved_ns, atomic_load(&f.now_ns));
}

/* The same, but the message was lost with its subscription: the proof came with a watermark. */
static void loss_and_proof(void)
{
    near__clock_advance(&f.now_ns, 2 * BOUND);
    near__local_raise_watermark(f.local, 6);
    atomic_store(&f.gate->proved_ns, atomic_load(&f.now_ns));
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

static void is_never_served_after(void (*what)(void))
{
    unsigned paused = 0;
    for (unsigned n = 1; n < 40; n++) {
        start();
        happens = what;
        countdown = n;
        const char *got = get_bound(&f, "k", BOUND, 0);
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
        assert_true(1000 - countdown <= NEAR_BUCKET_SLOTS + 2); /* proof, slots, watermark */
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
        cmocka_unit_test(test_A_a_read_takes_a_bounded_number_of_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
