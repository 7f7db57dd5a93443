/* SPDX-License-Identifier: BSD-3-Clause
 * The journal's file by itself: how much work its bytes can make, whoever chose them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

/* Compiled here, so that what it checksums can be counted. */
#include "base/hash.h"
static uint64_t hashed_bytes;
static uint64_t counted_hash(const void *bytes, size_t size, uint64_t seed)
{
    hashed_bytes += size;
    return near__hash(bytes, size, seed);
}
#define near__hash counted_hash
#include "load/journal.c"

struct place {
    char folder[64], path[96];
    struct near__alloc alloc;
    struct near__log log;
    size_t records;
    near_error error;
};

static int setup(void **state)
{
    struct place *p = calloc(1, sizeof *p);
    near__alloc_init(&p->alloc, NULL);
    snprintf(p->folder, sizeof p->folder, "/tmp/nearcache-journal-XXXXXX");
    assert_non_null(mkdtemp(p->folder));
    snprintf(p->path, sizeof p->path, "%s/journal", p->folder);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct place *p = *state;
    unlink(p->path);
    rmdir(p->folder);
    free(p);
    return 0;
}

static int count_record(void *arg, const struct near__journal_record *record)
{
    struct place *p = arg;
    (void)record;
    p->records++;
    return NEAR_OK;
}

static int open_with(struct place *p, int salvage, struct near__journal **ret)
{
    p->records = 0;
    return near__journal_open(&p->alloc, &p->log, p->path, salvage, count_record, p, ret, &p->error);
}

static struct near__journal *open_journal(struct place *p, int salvage)
{
    struct near__journal *j = NULL;
    if (open_with(p, salvage, &j) != NEAR_OK)
        fail_msg("%s", p->error.text);
    return j;
}

static void add(struct near__journal *j, uint64_t sequence, const void *value, size_t size)
{
    near__journal_add(j, &(struct near__journal_record){.type = NEAR_RECORD_SET,
                                                        .sequence = sequence,
                                                        .key = "k",
                                                        .key_size = 1,
                                                        .value = value,
                                                        .value_size = size});
    assert_int_equal(near__journal_commit(j), NEAR_OK);
}

static off_t size_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

enum { VALUE = 1 << 20, EACH = 40 };

/* Looks like nothing but records, each of them as long as fits. */
static unsigned char *imitations(void)
{
    unsigned char *value = calloc(1, VALUE);
    for (size_t at = 0; at + EACH <= VALUE; at += EACH) {
        struct record_header h = {
            .magic = RECORD_MAGIC, .type = NEAR_RECORD_SET, .value_size = (uint32_t)(VALUE - at - EACH)};
        memcpy(value + at, &h, 32);
    }
    return value;
}

/* Whoever may choose a value chooses what a torn record has in it. */
static void test_looking_behind_a_torn_record_costs_no_more_than_its_length(void **state)
{
    struct place *p = *state;
    unsigned char *value = imitations();
    struct near__journal *j = open_journal(p, 0);
    add(j, 1, value, VALUE);
    near__journal_close(j);
    assert_int_equal(truncate(p->path, size_of(p->path) - 1), 0);
    hashed_bytes = 0;
    near__journal_close(open_journal(p, 0));
    assert_int_equal(p->records, 0);
    assert_int_equal(size_of(p->path), sizeof(struct file_header));
    assert_in_range(hashed_bytes, 0, 4 * VALUE);
    free(value);
}

/* The same for many damages: each is looked behind as far as the next record only. */
static void test_looking_behind_many_damages_costs_no_more_than_the_file(void **state)
{
    enum { RECORDS = 2000, SIZE = 1000 };
    struct place *p = *state;
    unsigned char *value = imitations();
    struct near__journal *j = open_journal(p, 0);
    for (uint64_t i = 0; i < RECORDS; i++)
        add(j, i, value, SIZE);
    near__journal_close(j);
    off_t each = (size_of(p->path) - (off_t)sizeof(struct file_header)) / RECORDS;
    int fd = open(p->path, O_RDWR);
    for (off_t i = 0; i < RECORDS; i += 2)
        assert_int_equal(pwrite(fd, "?", 1, (off_t)sizeof(struct file_header) + i * each + each / 2), 1);
    close(fd);
    hashed_bytes = 0;
    near__journal_close(open_journal(p, 1));
    assert_int_equal(p->records, RECORDS / 2);
    assert_in_range(hashed_bytes, 0, 4 * RECORDS * each);
    free(value);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_looking_behind_a_torn_record_costs_no_more_than_its_length),
        TEST(test_looking_behind_many_damages_costs_no_more_than_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
