/* SPDX-License-Identifier: BSD-3-Clause
 * R52: a scenario that visits every allocation of the room, with the n-th one failing, for every n. */
#include "local/local_fixture.h"

#include <pthread.h>

#include "support/allocfail.h"

static struct allocfail failing;

static void fill_and_read(struct fixture *f)
{
    struct near__view view[70];
    struct near__owned *owned[70];
    char key[16];
    for (int i = 0; i < 700; i++) { /* enough for the index to grow */
        snprintf(key, sizeof(key), "k%d", i);
        put(f, key, "a value of some length", (uint64_t)i + 1);
        if (i % 200 == 199)
            near__local_keep(f->local);
    }
    int held = 0;
    for (int i = 0; i < 70; i++) { /* the last ones are copies */
        snprintf(key, sizeof(key), "k%d", 600 + i);
        if (near__local_get(f->local, f->reader, key, strlen(key), ANY_BOUND, 0, &view[held]) == NEAR_LOCAL_HIT)
            held++;
    }
    /* removing works without memory, whatever fails */
    for (int i = 0; i < 700; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        near__local_invalidate(f->local, key, strlen(key), 10000, NEAR_CAUSE_MESSAGE);
        assert_string_equal(get(f, key), "(absent)");
    }
    near__local_keep(f->local);
    for (int i = 0; i < held; i++) {
        assert_bytes(view[i].data, "a value of some length");
        owned[i] = near__local_own(f->local, f->reader, &view[i]);
        if (!owned[i])
            near__local_unpin(f->reader, &view[i]); /* still pinned, as promised */
    }
    for (int i = 0; i < held; i++)
        near__local_disown(f->local, owned[i]);
    assert_int_equal(near__local_pinned(f->local), 0);
    near__local_keep(f->local);
}

static uint32_t policy;

static int scenario(void)
{
    struct fixture f;
    fixture_init(&f);
    near__alloc_init(&f.alloc, &failing.hooks);
    f.config.policy = policy;
    f.config.curve = policy == NEAR_POLICY_ADAPTIVE; /* whatever there is to allocate */
    f.config.hot_keys = policy == NEAR_POLICY_ADAPTIVE ? 16 : 0;
    int status = near__local_open(&f.config, &f.local);
    if (status != NEAR_OK)
        return status;
    f.gate = near__local_gate(f.local);
    atomic_store(&f.gate->proved_ns, NEAR_PROVED_ALWAYS);
    f.reader = near__local_reader(f.local);
    if (f.reader)
        fill_and_read(&f);
    near__local_close(f.local);
    return NEAR_OK;
}

static void fail_the_nth(void)
{
    uint64_t total;
    allocfail_init(&failing);
    assert_int_equal(scenario(), NEAR_OK);
    total = allocfail_calls(&failing);
    assert_true(total > 700);
    assert_int_equal(allocfail_blocks(&failing), 0);
    /* every one at the beginning and at the end, a sample of the like ones between; then all from the n-th on */
    for (uint64_t n = 1; n <= total + 1; n += n < 40 || n + 90 > total ? 1 : 23) {
        for (int from = 0; from < 2; from++) {
            (from ? allocfail_from : allocfail_at)(&failing, n);
            int status = scenario();
            assert_true(status == NEAR_OK || (status == NEAR_ERR_NOMEM && allocfail_struck(&failing)));
            assert_int_equal(allocfail_blocks(&failing), 0);
        }
    }
}

static void test_R52_the_nth_allocation_may_fail(void **state)
{
    (void)state;
    policy = NEAR_POLICY_LRU;
    fail_the_nth();
    policy = NEAR_POLICY_ADAPTIVE;
    fail_the_nth();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_R52_the_nth_allocation_may_fail)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
