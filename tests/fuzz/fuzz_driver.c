/* SPDX-License-Identifier: BSD-3-Clause
 * Runs a fuzz target without libFuzzer: every file of its corpus, then random changes to them.
 *
 *     fuzz_NAME [CORPUS-DIRECTORY [EXECUTIONS]]        NEAR_TEST_SEED=… replays
 *
 * By default the corpus is tests/fuzz/corpus/NAME in the source tree and there are 200,000 executions, 20,000 with a
 * sanitizer (FUZZ_EXECUTIONS).  An input that ends the program is left in fuzz_NAME.crash in the present directory. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* program_invocation_short_name */
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/random.h"
#include "fuzz/fuzz.h"
#include "support/seed.h"

enum { SIZE_MAX_ = 4096, SEEDS_MAX = 512, CHANGES = 6 };
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { EXECUTIONS = 20000 };
#else
enum { EXECUTIONS = 200000 };
#endif

struct input {
    uint8_t *bytes;
    size_t size;
};
static struct input seed[SEEDS_MAX];
static size_t seeds;

static uint8_t present[SIZE_MAX_]; /* what is being run: for the crash file */
static size_t present_size;
static char crash_name[128];

static void leave_input(int number)
{
    int fd = open(crash_name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd >= 0 && write(fd, present, present_size) == (ssize_t)present_size) {
        static const char text[] = "the input is left in ";
        (void)!write(2, text, sizeof(text) - 1);
        (void)!write(2, crash_name, strlen(crash_name));
        (void)!write(2, "\n", 1);
    }
    signal(number, SIG_DFL);
    raise(number);
}

static void run(const uint8_t *bytes, size_t size)
{
    memcpy(present, bytes, size);
    present_size = size;
    uint8_t *exact = malloc(size ? size : 1); /* so that sanitizers see a byte too many */
    if (!exact)
        abort();
    memcpy(exact, bytes, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static int read_seed(const char *directory, const char *name)
{
    char path[4096];
    if (snprintf(path, sizeof(path), "%s/%s", directory, name) >= (int)sizeof(path))
        return -1;
    FILE *file = fopen(path, "re");
    if (!file)
        return -1;
    seed[seeds].bytes = malloc(SIZE_MAX_);
    seed[seeds].size = seed[seeds].bytes ? fread(seed[seeds].bytes, 1, SIZE_MAX_, file) : 0;
    fclose(file);
    return seed[seeds++].bytes ? 0 : -1;
}

static int read_seeds(const char *directory)
{
    struct dirent **names;
    int count = scandir(directory, &names, NULL, alphasort), failed = count < 0;
    for (int i = 0; i < count; i++) {
        if (names[i]->d_name[0] != '.' && seeds < SEEDS_MAX && read_seed(directory, names[i]->d_name) != 0)
            failed = 1;
        free(names[i]);
    }
    if (count >= 0)
        free(names);
    return failed || !seeds ? -1 : 0;
}

/* ---------------------------------------------------------------- changes */

static const char *const words[] = {"\r\n",
                                    "$-1\r\n",
                                    "*-1\r\n",
                                    "*2\r\n",
                                    "$3\r\n",
                                    ":0\r\n",
                                    "18446744073709551615",
                                    "-9223372036854775808",
                                    "4294967296",
                                    "%00",
                                    "%",
                                    "://",
                                    "@",
                                    "[::1]",
                                    "?",
                                    "&",
                                    "=",
                                    "\"",
                                    "'",
                                    "\\x41",
                                    "\n",
                                    "\t",
                                    "P1:1",
                                    "P1:1:a"};

static void insert(uint8_t *bytes, size_t *size, size_t at, const uint8_t *what, size_t length)
{
    if (length > SIZE_MAX_ - *size)
        length = SIZE_MAX_ - *size;
    memmove(bytes + at + length, bytes + at, *size - at);
    memcpy(bytes + at, what, length);
    *size += length;
}

static void cut(uint8_t *bytes, size_t *size, size_t at, size_t length)
{
    if (length > *size - at)
        length = *size - at;
    memmove(bytes + at, bytes + at + length, *size - at - length);
    *size -= length;
}

static uint32_t below(uint64_t *random, size_t bound)
{
    return near__random_below(random, bound ? (uint32_t)bound : 1);
}

static void change(uint8_t *bytes, size_t *size, uint64_t *random)
{
    size_t at = below(random, *size + 1);
    const struct input *other = &seed[below(random, seeds)];
    const char *word = words[below(random, sizeof(words) / sizeof(*words))];
    uint8_t any = (uint8_t)near__random_next(random);
    size_t from = below(random, other->size);
    switch (below(random, 8)) {
    case 0:
        insert(bytes, size, at, &any, 1);
        break;
    case 1:
        cut(bytes, size, at, 1 + below(random, 4));
        break;
    case 2:
        insert(bytes, size, at, (const uint8_t *)word, strlen(word));
        break;
    case 3:
        insert(bytes, size, at, other->bytes + from, below(random, other->size - from + 1));
        break;
    case 4:
        cut(bytes, size, at, *size);
        break;
    case 5:
        if (at < *size)
            bytes[at] ^= (uint8_t)(1u << below(random, 8));
        break;
    case 6:
        if (at < *size)
            bytes[at] = (uint8_t)('0' + below(random, 10));
        break;
    default:
        if (at < *size)
            bytes[at] = any;
    }
}

static void run_changed(uint64_t *random)
{
    static uint8_t bytes[SIZE_MAX_];
    const struct input *from = &seed[below(random, seeds)];
    size_t size = from->size;
    memcpy(bytes, from->bytes, size);
    for (uint32_t changes = 1 + below(random, CHANGES); changes; changes--)
        change(bytes, &size, random);
    run(bytes, size);
}

/* ---------------------------------------------------------------- main */

static void prepare(int argc, char **argv)
{
    static const int numbers[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    char directory[4096];
    const char *name = program_invocation_short_name, *source = getenv("top_srcdir");
    if (strncmp(name, "fuzz_", 5) == 0)
        name += 5;
    snprintf(crash_name, sizeof(crash_name), "fuzz_%s.crash", name);
    snprintf(directory, sizeof(directory), "%s/tests/fuzz/corpus/%s", source ? source : ".", name);
    if (read_seeds(argc > 1 ? argv[1] : directory) != 0) {
        printf("Bail out! no seeds in %s\n", argc > 1 ? argv[1] : directory);
        exit(1);
    }
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
        signal(numbers[i], leave_input);
}

int main(int argc, char **argv)
{
    const char *wanted = argc > 2 ? argv[2] : getenv("FUZZ_EXECUTIONS");
    unsigned long executions = wanted ? strtoul(wanted, NULL, 10) : EXECUTIONS;
    prepare(argc, argv);
    printf("1..2\n");
    fflush(stdout);
    for (size_t i = 0; i < seeds; i++)
        run(seed[i].bytes, seed[i].size);
    printf("ok 1 - %zu seeds\n", seeds);
    fflush(stdout);
    uint64_t random = test_seed();
    for (unsigned long i = 0; i < executions; i++)
        run_changed(&random);
    printf("ok 2 - %lu random changes\n", executions);
    for (size_t i = 0; i < seeds; i++)
        free(seed[i].bytes);
    return 0;
}
