/* SPDX-License-Identifier: BSD-3-Clause
 * The table of notes by itself: whose mutex a bucket is under, what ends a note. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "load/notes.h"
#include "local/local_fixture.h"

enum { KEYS = 8, ROUNDS = SCALE(200000, 20000), KEY_SIZE = 64 };

struct writer {
    pthread_t thread;
    struct near__notes *notes;
    unsigned index;
    atomic_uint *wrong;
};

static const struct near__ticket now = {.floor = 1};

/* Keys that differ in every byte, so that a note that two threads wrote at once is nobody's or the wrong one's. */
static void *note_and_find(void *arg)
{
    struct writer *w = arg;
    enum near__note mine = w->index % 2 ? NEAR_NOTE_ABSENT : NEAR_NOTE_PAUSE;
    char key[KEY_SIZE];
    memset(key, 'a' + (int)w->index, sizeof(key));
    for (unsigned i = 0; i < ROUNDS; i++) {
        near__notes_put(w->notes, key, sizeof(key), mine, now, 1, NEAR_NEVER);
        enum near__note found = near__notes_find(w->notes, key, sizeof(key), now, 0);
        if (found != NEAR_NOTE_NONE && found != mine)
            atomic_fetch_add(w->wrong, 1);
    }
    return NULL;
}

static void test_a_bucket_is_under_one_mutex(void **state)
{
    struct fixture f;
    struct near__notes *notes;
    struct writer writers[KEYS];
    atomic_uint wrong = 0;
    (void)state;
    fixture_open(&f);
    assert_int_equal(near__notes_create(&f.alloc, f.local, 0, &notes), NEAR_OK); /* one bucket: all keys meet */
    for (unsigned i = 0; i < KEYS; i++) {
        writers[i] = (struct writer){.notes = notes, .index = i, .wrong = &wrong};
        assert_int_equal(pthread_create(&writers[i].thread, NULL, note_and_find, &writers[i]), 0);
    }
    for (unsigned i = 0; i < KEYS; i++)
        pthread_join(writers[i].thread, NULL);
    assert_int_equal(atomic_load(&wrong), 0);
    near__notes_destroy(notes);
    fixture_close(&f);
}

static void test_a_note_holds_until_its_end_or_anything_newer(void **state)
{
    struct fixture f;
    struct near__notes *notes;
    const struct near__ticket written = {.floor = 6}, cleared = {.floor = 1, .watermark = 6},
                              tagged = {.floor = 1, .generation = 1};
    (void)state;
    fixture_open(&f);
    assert_int_equal(near__notes_create(&f.alloc, f.local, 4096, &notes), NEAR_OK);
    assert_int_equal(near__notes_find(notes, "k", 1, now, 0), NEAR_NOTE_NONE);
    const struct near__ticket ends[] = {written, cleared, tagged};
    for (unsigned i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        near__notes_put(notes, "k", 1, NEAR_NOTE_ABSENT, now, 5, 100);
        assert_int_equal(near__notes_find(notes, "k", 1, now, 99), NEAR_NOTE_ABSENT);
        assert_int_equal(near__notes_find(notes, "k", 1, ends[i], 99), NEAR_NOTE_NONE);
        assert_int_equal(near__notes_find(notes, "k", 1, now, 99), NEAR_NOTE_NONE); /* it is gone for good */
    }
    near__notes_put(notes, "k", 1, NEAR_NOTE_PAUSE, now, 5, 100);
    assert_int_equal(near__notes_find(notes, "k", 1, now, 100), NEAR_NOTE_NONE);
    near__notes_put(notes, "", 0, NEAR_NOTE_ABSENT, now, 5, 100);
    assert_int_equal(near__notes_find(notes, "", 0, now, 0), NEAR_NOTE_ABSENT);
    near__notes_destroy(notes);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_bucket_is_under_one_mutex),
        cmocka_unit_test(test_a_note_holds_until_its_end_or_anything_newer),
    };
    return cmocka_run_group_tests_name("load/notes", tests, NULL, NULL);
}
