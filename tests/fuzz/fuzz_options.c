/* SPDX-License-Identifier: BSD-3-Clause
 * Options: by name and text, and as a struct of any size full of anything.  What is accepted is within the bounds that
 * the table tells everybody. */
#include <string.h>

#include "base/alloc.h"
#include "base/options.h"
#include "fuzz/fuzz.h"

/* Lines "name=text". */
static void set_by_name(near_options *options, char *text)
{
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char *equal = strchr(line, '=');
        near_error error = {0};
        near_options before = *options;
        if (equal)
            *equal = 0;
        int status = near_option_set(options, line, equal ? equal + 1 : "", &error);
        FUZZ_CHECK(status == NEAR_OK || (error.status == status && error.text[0]));
        /* refused: nothing has changed */
        FUZZ_CHECK(status == NEAR_OK || memcmp(&before, options, sizeof(before)) == 0);
    }
}

static void check_number(const char *name, uint64_t number)
{
    const near_option_info *row = near__option_find(name, strlen(name));
    FUZZ_CHECK(row && number >= row->min && number <= row->max);
}

static void copy(const near_options *options)
{
    struct near__alloc alloc;
    near_options ours;
    near_error error = {0};
    near__alloc_init(&alloc, NULL);
    int status = near__options_copy(options, &alloc, &ours, &error);
    FUZZ_CHECK(status == NEAR_OK || (error.status == status && error.text[0]));
    if (status != NEAR_OK)
        return;
    check_number("local_bytes", ours.local_bytes);
    check_number("bound_ms", ours.bound_ms);
    check_number("connections", ours.connections);
    check_number("timeout_ms", ours.timeout_ms);
    FUZZ_CHECK(ours.size == sizeof(ours) && ours.backoff_min_ms <= ours.backoff_max_ms);
    near__options_fini(&ours, &alloc);
}

/* The input's bytes over the numbers of the struct, with the size that it says; pointers cannot be checked and stay. */
static void copy_struct(const uint8_t *data, size_t size)
{
    union {
        near_options options;
        unsigned char bytes[2 * sizeof(near_options)];
    } any;
    size_t numbers = offsetof(near_options, prefix), room = size < 2 ? 0 : size - 2;
    memset(&any, 0, sizeof(any));
    near_options_init(&any.options);
    size_t said = size < 2 ? 0 : (size_t)data[0] + ((size_t)data[1] << 8);
    for (size_t i = 0; i < room && sizeof(size_t) + i < numbers; i++)
        any.bytes[sizeof(size_t) + i] ^= data[2 + i];
    any.options.size = said % (sizeof(any) + 1);
    copy(&any.options);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    near_options options;
    char *text = fuzz_text(data, size);
    near_options_init(&options);
    set_by_name(&options, text);
    copy(&options);
    free(text);
    copy_struct(data, size);
    return 0;
}
