/* SPDX-License-Identifier: BSD-3-Clause
 * What is read from the kernel's files about memory, from files of our own: limits at every level, page cache, events
 * and stalls since the last look, mounts, and everything that may be missing or nonsense. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/pressure.h"
#include "base/random.h"
#include "support/folder.h"
#include "support/seed.h"

#define MIB (UINT64_C(1) << 20)
#define SEC NEAR_NS_PER_S
#define GROUP "/sys/fs/cgroup/app.slice/web"

static char root[64];
static struct near__pressure pressure;
static struct near__pressure_level level;
static int64_t now_ns;

static void write_file(const char *path, const char *text)
{
    folder_write(root, path, text);
}

static void look(void)
{
    now_ns += SEC;
    near__pressure_look(&pressure, now_ns, &level);
}

/* A group of 100 MiB, of which 40 are used, 10 of them page cache that nobody uses. */
static int setup(void **state)
{
    (void)state;
    folder_make(root, sizeof(root));
    write_file("/proc/self/cgroup", "4:memory:/elsewhere\n0::/app.slice/web\n");
    write_file("/proc/self/mountinfo", "24 1 0:22 / /proc rw - proc proc rw\n"
                                       "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n");
    write_file(GROUP "/memory.current", "41943040\n");
    write_file(GROUP "/memory.max", "104857600\n");
    write_file(GROUP "/memory.high", "max\n");
    write_file(GROUP "/memory.stat", "anon 31457280\nfile 10485760\ninactive_file 10485760\nactive_file 0\n");
    write_file(GROUP "/memory.events", "low 0\nhigh 3\nmax 1\noom 0\n");
    write_file(GROUP "/memory.pressure",
               "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n");
    now_ns = 1000 * SEC;
    near__pressure_init(&pressure, root);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    folder_remove(root);
    return 0;
}

static void expect(uint64_t used, uint64_t limit, uint64_t throttled, uint32_t stalled)
{
    look();
    assert_int_equal(level.used, used);
    assert_int_equal(level.limit, limit);
    assert_int_equal(level.throttled, throttled);
    assert_int_equal(level.stalled_permille, stalled);
}

static void test_limit_and_use_without_idle_page_cache(void **state)
{
    (void)state;
    expect(30 * MIB, 100 * MIB, 0, 0);
    assert_int_equal(level.known, 1);
    write_file(GROUP "/memory.high", "52428800\n");
    expect(30 * MIB, 50 * MIB, 0, 0);
    write_file(GROUP "/memory.stat", "anon 31457280\n");
    expect(40 * MIB, 50 * MIB, 0, 0);
    write_file(GROUP "/memory.stat", "inactive_file 99999999999\n"); /* read at another moment */
    expect(0, 50 * MIB, 0, 0);
}

static void test_the_nearest_limit_of_all_levels_counts(void **state)
{
    (void)state;
    write_file("/sys/fs/cgroup/app.slice/memory.current", "83886080\n");
    write_file("/sys/fs/cgroup/app.slice/memory.max", "94371840\n");
    write_file("/sys/fs/cgroup/app.slice/memory.events", "high 0\nmax 5\n");
    expect(80 * MIB, 90 * MIB, 0, 0);
    write_file("/sys/fs/cgroup/app.slice/memory.max", "943718400\n");
    expect(30 * MIB, 100 * MIB, 0, 0);
    write_file(GROUP "/memory.max", "max\n");
    expect(80 * MIB, 900 * MIB, 0, 0);
}

static void test_events_are_those_since_the_last_look(void **state)
{
    (void)state;
    expect(30 * MIB, 100 * MIB, 0, 0); /* what was before we looked is nobody's news */
    write_file(GROUP "/memory.events", "low 0\nhigh 5\nmax 2\noom 0\n");
    expect(30 * MIB, 100 * MIB, 3, 0);
    expect(30 * MIB, 100 * MIB, 0, 0);
    write_file(GROUP "/memory.events", "high 1\nmax 0\n"); /* another group of the name */
    expect(30 * MIB, 100 * MIB, 0, 0);
    write_file(GROUP "/memory.events", "high 2\nmax 0\n");
    expect(30 * MIB, 100 * MIB, 1, 0);
    /* a level comes in addition: a sum of other things */
    write_file("/sys/fs/cgroup/app.slice/memory.current", "1\n");
    write_file("/sys/fs/cgroup/app.slice/memory.max", "94371840\n");
    write_file("/sys/fs/cgroup/app.slice/memory.events", "high 100\nmax 5\n");
    expect(30 * MIB, 100 * MIB, 0, 0);
}

static void test_stalls_are_those_since_the_last_look(void **state)
{
    (void)state;
    expect(30 * MIB, 100 * MIB, 0, 0);
    write_file(GROUP "/memory.pressure",
               "some avg10=9.00 avg60=0.00 avg300=0.00 total=251000\nfull avg10=0 avg60=0 avg300=0 total=9\n");
    expect(30 * MIB, 100 * MIB, 0, 250);
    expect(30 * MIB, 100 * MIB, 0, 0); /* although the average remembers it */
    write_file(GROUP "/memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=9999999999\n");
    expect(30 * MIB, 100 * MIB, 0, 1000);
    write_file(GROUP "/memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n");
    expect(30 * MIB, 100 * MIB, 0, 0);
}

static void test_without_the_groups_file_the_systems_stalls_count(void **state)
{
    (void)state;
    write_file("/proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=70\n");
    expect(30 * MIB, 100 * MIB, 0, 0);
    folder_unlink(root, GROUP "/memory.pressure");
    expect(30 * MIB, 100 * MIB, 0, 0); /* another total: nothing to compare with */
    write_file("/proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=100070\n");
    expect(30 * MIB, 100 * MIB, 0, 100);
}

static void test_a_container_sees_a_part_of_the_hierarchy(void **state)
{
    (void)state;
    write_file("/proc/self/mountinfo", "31 23 0:28 /app.slice /my\\040groups rw - cgroup2 cgroup2 rw\n");
    write_file("/my groups/web/memory.current", "7340032\n");
    write_file("/my groups/web/memory.max", "10485760\n");
    expect(7 * MIB, 10 * MIB, 0, 0);
    write_file("/proc/self/cgroup", "0::/app.slice\n"); /* the mount's own root has no files */
    expect(0, NEAR_PRESSURE_NO_LIMIT, 0, 0);
    assert_int_equal(level.known, 0);
    write_file("/proc/self/cgroup", "0::/app.sliced/web\n"); /* begins alike and is another */
    expect(0, NEAR_PRESSURE_NO_LIMIT, 0, 0);
    write_file("/proc/self/cgroup", "0::/../web\n"); /* outside of our namespace */
    expect(0, NEAR_PRESSURE_NO_LIMIT, 0, 0);
}

static void test_nothing_there_is_no_pressure(void **state)
{
    static const char *const files[] = {"/memory.events", "/memory.pressure", "/memory.high", "/memory.max",
                                        "/memory.current"};
    (void)state;
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        char path[128];
        snprintf(path, sizeof(path), GROUP "%s", files[i]);
        folder_unlink(root, path);
        look();
        assert_int_equal(level.limit, i < 3 ? 100 * MIB : NEAR_PRESSURE_NO_LIMIT);
        assert_int_equal(level.throttled + level.stalled_permille, 0);
    }
    assert_int_equal(level.known, 0);
    folder_unlink(root, "/proc/self/mountinfo");
    expect(0, NEAR_PRESSURE_NO_LIMIT, 0, 0);
    folder_unlink(root, "/proc/self/cgroup");
    expect(0, NEAR_PRESSURE_NO_LIMIT, 0, 0);
    near__pressure_init(&pressure, "/nowhere/at/all");
    expect(0, NEAR_PRESSURE_NO_LIMIT, 0, 0);
}

static void test_nonsense_counts_as_nothing(void **state)
{
    static const char *const nonsense[] = {"",       "\n",   "-1\n",  "12x\n", "99999999999999999999999\n",
                                           "0x10\n", " 5\n", "max5\n"};
    (void)state;
    for (size_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
        write_file(GROUP "/memory.max", nonsense[i]);
        expect(0, NEAR_PRESSURE_NO_LIMIT, 0, 0);
    }
    write_file(GROUP "/memory.max", "104857600\n");
    for (size_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
        write_file(GROUP "/memory.current", nonsense[i]);
        expect(0, NEAR_PRESSURE_NO_LIMIT, 0, 0);
    }
}

/* Whatever the files hold, a look ends and what it tells is within its bounds. */
static void test_random_bytes_are_survived(void **state)
{
    static const char *const files[] = {"/proc/self/cgroup",     "/proc/self/mountinfo", GROUP "/memory.current",
                                        GROUP "/memory.max",     GROUP "/memory.stat",   GROUP "/memory.events",
                                        GROUP "/memory.pressure"};
    static const char letters[] = "0:/ \n\\- cgroup2maxhigh19=total";
    uint64_t random = test_seed();
    (void)state;
    for (int round = 0; round < 2000; round++) {
        static char text[9000];
        size_t length = near__random_below(&random, round % 50 ? 60 : sizeof(text) - 1);
        for (size_t i = 0; i < length; i++)
            text[i] = round % 3 ? letters[near__random_below(&random, sizeof(letters) - 1)]
                                : (char)(1 + near__random_below(&random, 255));
        text[length] = 0;
        write_file(files[near__random_below(&random, sizeof(files) / sizeof(files[0]))], text);
        look();
        assert_true(level.stalled_permille <= 1000);
        if (round % 10 == 9) {
            teardown(NULL);
            setup(NULL);
        }
    }
}

/* The machine's own files, whatever they are. */
static void test_the_real_files_can_be_read(void **state)
{
    (void)state;
    near__pressure_init(&pressure, "");
    for (int i = 0; i < 3; i++) {
        look();
        assert_true(level.limit > 0 && level.stalled_permille <= 1000);
    }
    print_message("# used %llu of %llu, known %u\n", (unsigned long long)level.used, (unsigned long long)level.limit,
                  level.known);
}

int main(void)
{
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_limit_and_use_without_idle_page_cache),
        IN_FOLDER(test_the_nearest_limit_of_all_levels_counts),
        IN_FOLDER(test_events_are_those_since_the_last_look),
        IN_FOLDER(test_stalls_are_those_since_the_last_look),
        IN_FOLDER(test_without_the_groups_file_the_systems_stalls_count),
        IN_FOLDER(test_a_container_sees_a_part_of_the_hierarchy),
        IN_FOLDER(test_nothing_there_is_no_pressure),
        IN_FOLDER(test_nonsense_counts_as_nothing),
        IN_FOLDER(test_random_bytes_are_survived),
        IN_FOLDER(test_the_real_files_can_be_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
