/* SPDX-License-Identifier: BSD-3-Clause
 * What a full ring leaves out, seen at any moment by whoever learns from it.
 *
 * tap.c is compiled into this program, so that the two words which tell may be looked at as if their thread had come in
 * between. */
#include "local/local_fixture.h"

#include "local/tap.c"

struct told {
    uint64_t reads, since, mute;
};

/* A thread reads, is mute, and speaks again, as in near__tap_note; each look of speech_of may fall before or after each
 * of its steps, in its order. */
static void test_a_look_that_is_torn_never_tells_too_much(void **state)
{
    static const struct told steps[] = {
        {2000, SPEAKS, 0},       {2100, 2048, 0},          {90000, 2048, 0},      {90000, 2048, 87952},
        {90000, SPEAKS, 87952},  {90010, SPEAKS, 87952},   {92050, 92048, 87952}, {500000, 92048, 87952},
        {500000, 92048, 495904}, {500000, SPEAKS, 495904},
    };
    static const uint64_t speech[] = {2000, 2048, 2048, 2048, 2048, 2058, 4096, 4096, 4096, 4096};
    enum { STEPS = sizeof(steps) / sizeof(steps[0]) };
    (void)state;
    for (unsigned reads = 0; reads < STEPS; reads++)
        for (unsigned since = reads; since < STEPS; since++)
            for (unsigned mute = since; mute < STEPS; mute++) {
                struct near__tap tap = {0};
                atomic_store(&tap.mute_since, steps[since].since);
                atomic_store(&tap.mute, steps[mute].mute);
                uint64_t told = speech_of(&tap, steps[reads].reads);
                assert_true(told <= speech[since]);
                if (reads == since && since == mute && steps[since].mute != 87952 && steps[since].mute != 495904)
                    assert_true(told == speech[since]);
            }
}

/* The reads of a thread that is mute are none of the sample's, however often that comes. */
static void test_what_is_read_beside_a_full_ring_is_left_out(void **state)
{
    static struct near__tap tap;
    static struct near__reader reader = {.tap = &tap};
    uint64_t reads = 0, noted = 0;
    (void)state;
    for (int round = 0; round < 50; round++) {
        for (int request = 0; request < 5000; request++) { /* one of three is noted, as long as there is room */
            uint32_t written = atomic_load(&tap.written);
            atomic_store(&reader.count[NEAR_COUNT_ABSENT], ++reads);
            if (reads % 3 == 0)
                near__tap_note(&reader, reads << 16, NEAR_SEEN_HIT, 100);
            noted += atomic_load(&tap.written) - written;
        }
        uint64_t told = speech_of(&tap, reads);
        assert_true(told > 3 * noted - 6 && told < 3 * noted + 6);
        if (round % 2)
            atomic_store(&tap.read, atomic_load(&tap.written));
    }
    assert_true(noted < reads / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_look_that_is_torn_never_tells_too_much),
        cmocka_unit_test(test_what_is_read_beside_a_full_ring_is_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
