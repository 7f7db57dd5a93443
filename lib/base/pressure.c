/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Memory pressure, from what Linux tells every process about itself:
 *
 *      /proc/self/cgroup, /proc/self/mountinfo        where the process's control group (v2) is
 *      memory.current, .max, .high, .stat, .events    of that group and each one above it, up to the mount
 *      memory.pressure, else /proc/pressure/memory    how long tasks waited for memory (PSI)
 *
 * A limit on a group above binds as much as one's own, so the group nearest to its limit is told.  memory.current has
 * the page cache in it, and whoever reads files fills every group with that up to its limit; what is inactive of it the
 * kernel takes back without anybody's noticing, so it does not count as used (the kubelet's "working set").
 *
 * Of the stall times the running total is compared with that of the last look, not one of the averages: those remember
 * a pressure for ten seconds after it has ended, and whoever gives memory back by them gives ten times what was needed.
 *
 * Nothing here can fail.  Without cgroup v2 (v1, other containers, no /proc) the values say "no limit" and 0; so do
 * files that are empty, cut, or full of something else.  The groups are looked for anew each time, because a process
 * can be moved. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "base/pressure.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES 4096 /* longer lines are cut */
#define GROUPS_MAX 64       /* one above the other */

/* ---------------------------------------------------------------- lines of a file */

struct lines {
    int fd;
    size_t length, at;
    char buffer[LINE_MAX_BYTES];
};

static int lines_open(struct lines *lines, const char *root, const char *folder, const char *name)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s%s%s", root, folder, name);
    lines->length = lines->at = 0;
    lines->fd = n < 0 || (size_t)n >= sizeof(path) ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    return lines->fd >= 0;
}

/* The next character, or -1 at the end. */
static int next_character(struct lines *lines)
{
    if (lines->at == lines->length) {
        ssize_t n = read(lines->fd, lines->buffer, sizeof(lines->buffer));
        if (n <= 0)
            return -1;
        lines->length = (size_t)n;
        lines->at = 0;
    }
    return (unsigned char)lines->buffer[lines->at++];
}

/* 0: there is none.  The line ends with a NUL; one with a NUL in it ends there. */
static int next_line(struct lines *lines, char *line, size_t size)
{
    size_t length = 0;
    int c = next_character(lines);
    if (c < 0)
        return 0;
    for (; c >= 0 && c != '\n'; c = next_character(lines))
        if (length < size - 1)
            line[length++] = (char)c;
    line[length] = 0;
    return 1;
}

static void lines_close(struct lines *lines)
{
    close(lines->fd);
}

/* ---------------------------------------------------------------- numbers */

/* A whole number at the end of text and nothing else. */
static int parse_number(const char *text, uint64_t *ret)
{
    uint64_t number = 0;
    if (!*text)
        return 0;
    for (; *text; text++)
        if (*text < '0' || *text > '9' || __builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(*text - '0'), &number))
            return 0;
    *ret = number;
    return 1;
}

/* A file with one number, or "max". */
static int read_number(const char *root, const char *folder, const char *name, uint64_t *ret)
{
    struct lines lines;
    char line[64];
    int found = 0;
    if (!lines_open(&lines, root, folder, name))
        return 0;
    if (next_line(&lines, line, sizeof(line))) {
        found = parse_number(line, ret);
        if (strcmp(line, "max") == 0) {
            *ret = NEAR_PRESSURE_NO_LIMIT;
            found = 1;
        }
    }
    lines_close(&lines);
    return found;
}

/* Adds the numbers of the lines "NAME number" of a file.  Returns how many there were. */
static int add_fields(const char *root, const char *folder, const char *file, const char *const *names, uint64_t *sum)
{
    struct lines lines;
    char line[256];
    int found = 0;
    if (!lines_open(&lines, root, folder, file))
        return 0;
    while (next_line(&lines, line, sizeof(line))) {
        for (const char *const *name = names; *name; name++) {
            size_t length = strlen(*name);
            uint64_t number;
            if (strncmp(line, *name, length) == 0 && line[length] == ' ' && parse_number(line + length + 1, &number) &&
                !__builtin_add_overflow(*sum, number, sum))
                found++;
        }
    }
    lines_close(&lines);
    return found;
}

/* ---------------------------------------------------------------- where the group is */

/* mountinfo writes space, tab, newline and backslash as three octal digits. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from; to++) {
        if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] >= '0' && from[2] <= '7' && from[3] >= '0' &&
            from[3] <= '7') {
            *to = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0'));
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = 0;
}

/* The line of a cgroup2 mount: "id parent dev root point options... - cgroup2 …". */
static int parse_mount(char *line, char **ret_root, char **ret_point)
{
    const char *kind = strstr(line, " - cgroup2 ");
    char *field[5], *rest = line;
    if (!kind)
        return 0;
    for (int i = 0; i < 5; i++)
        if (!(field[i] = strsep(&rest, " ")) || !rest)
            return 0;
    *ret_root = field[3];
    *ret_point = field[4];
    unescape(*ret_root);
    unescape(*ret_point);
    return 1;
}

/* The process's own group, as the hierarchy names it. */
static int find_own(const char *root, char *own, size_t size)
{
    struct lines lines;
    int found = 0;
    if (!lines_open(&lines, root, "/proc/self/", "cgroup"))
        return 0;
    while (!found && next_line(&lines, own, size))
        if (strncmp(own, "0::/", 4) == 0) {
            memmove(own, own + 3, strlen(own + 3) + 1);
            found = !strstr(own, "/.."); /* outside of what this process can see */
        }
    lines_close(&lines);
    return found;
}

/* folder: the group's folder with a slash at its end; ret_top: the length of the part that is the mount point. */
static int find_folder(const char *root, char *folder, size_t size, size_t *ret_top)
{
    struct lines lines;
    char own[LINE_MAX_BYTES], line[LINE_MAX_BYTES], *top, *point;
    int found = 0;
    if (!find_own(root, own, sizeof(own)) || !lines_open(&lines, root, "/proc/self/", "mountinfo"))
        return 0;
    while (!found && next_line(&lines, line, sizeof(line))) {
        if (!parse_mount(line, &top, &point))
            continue;
        /* a container sees a part of the hierarchy as the whole */
        size_t skip = strcmp(top, "/") == 0 ? 0 : strlen(top);
        if (strncmp(own, top, skip) != 0 || (skip && own[skip] && own[skip] != '/'))
            continue;
        const char *below = strcmp(own + skip, "/") == 0 ? "" : own + skip;
        int n = snprintf(folder, size, "%s%s/", point, below);
        *ret_top = strlen(point);
        found = n > 0 && (size_t)n < size;
    }
    lines_close(&lines);
    return found;
}

/* ---------------------------------------------------------------- groups */

/* What of a group's memory is in use and cannot simply be taken back. */
static int read_used(const char *root, const char *folder, uint64_t *ret)
{
    static const char *const idle[] = {"inactive_file", NULL};
    uint64_t inactive = 0;
    if (!read_number(root, folder, "memory.current", ret) || *ret == NEAR_PRESSURE_NO_LIMIT)
        return 0;
    add_fields(root, folder, "memory.stat", idle, &inactive);
    *ret = *ret > inactive ? *ret - inactive : 0;
    return 1;
}

static int is_nearer(uint64_t used, uint64_t limit, const struct near__pressure_level *than)
{
    return than->limit == NEAR_PRESSURE_NO_LIMIT ||
           (double)used * (double)than->limit > (double)than->used * (double)limit;
}

/* One group; returns 1 when it has a limit, and adds its events. */
static int read_group(const char *root, const char *folder, struct near__pressure_level *level, uint64_t *events)
{
    static const char *const met[] = {"high", "max", NULL};
    uint64_t used, high = NEAR_PRESSURE_NO_LIMIT, limit = NEAR_PRESSURE_NO_LIMIT;
    if (!read_used(root, folder, &used))
        return 0;
    level->known = 1;
    (void)read_number(root, folder, "memory.max", &limit);
    (void)read_number(root, folder, "memory.high", &high);
    limit = high < limit ? high : limit;
    if (limit == NEAR_PRESSURE_NO_LIMIT)
        return 0;
    if (is_nearer(used, limit, level)) {
        level->used = used;
        level->limit = limit;
    }
    return add_fields(root, folder, "memory.events", met, events) > 0;
}

static void look_at_groups(struct near__pressure *pressure, char *folder, size_t top, struct near__pressure_level *ret)
{
    uint64_t events = 0;
    uint32_t groups = 0;
    for (int i = 0; i < GROUPS_MAX; i++) {
        groups += (uint32_t)read_group(pressure->root, folder, ret, &events);
        size_t length = strlen(folder);
        if (length <= top + 1)
            break;
        folder[length - 1] = 0; /* the group above */
        strrchr(folder, '/')[1] = 0;
    }
    /* a sum over other groups than last time tells nothing */
    if (groups && groups == pressure->groups && events > pressure->throttled)
        ret->throttled = events - pressure->throttled;
    pressure->groups = groups;
    pressure->throttled = events;
}

/* ---------------------------------------------------------------- stalls */

static int read_stalled(const char *root, const char *folder, const char *name, uint64_t *ret)
{
    struct lines lines;
    char line[256];
    int found = 0;
    if (!lines_open(&lines, root, folder, name))
        return 0;
    while (!found && next_line(&lines, line, sizeof(line))) {
        const char *total = strstr(line, " total=");
        found = strncmp(line, "some ", 5) == 0 && total && parse_number(total + 7, ret);
    }
    lines_close(&lines);
    return found;
}

static uint32_t permille(uint64_t stalled_us, int64_t elapsed_ns)
{
    double share = (double)stalled_us * 1e6 / (double)elapsed_ns;
    return share > 1000 ? 1000 : (uint32_t)share;
}

static void look_at_stalls(struct near__pressure *pressure, const char *folder, int64_t now_ns,
                           struct near__pressure_level *ret)
{
    uint64_t stalled_us = 0;
    uint32_t from = 0;
    if (folder && read_stalled(pressure->root, folder, "memory.pressure", &stalled_us))
        from = NEAR_PRESSURE_OF_GROUP;
    else if (read_stalled(pressure->root, "/proc/pressure/", "memory", &stalled_us))
        from = NEAR_PRESSURE_OF_SYSTEM;
    if (from && from == pressure->stalled_from && stalled_us > pressure->stalled_us && now_ns > pressure->looked_ns)
        ret->stalled_permille = permille(stalled_us - pressure->stalled_us, now_ns - pressure->looked_ns);
    ret->known |= from != 0;
    pressure->stalled_from = from;
    pressure->stalled_us = stalled_us;
}

/* ---------------------------------------------------------------- a look */

void near__pressure_init(struct near__pressure *pressure, const char *root)
{
    *pressure = (struct near__pressure){.root = root};
}

void near__pressure_look(struct near__pressure *pressure, int64_t now_ns, struct near__pressure_level *ret)
{
    char folder[PATH_MAX];
    size_t top = 0;
    *ret = (struct near__pressure_level){.limit = NEAR_PRESSURE_NO_LIMIT};
    int found = find_folder(pressure->root, folder, sizeof(folder), &top);
    look_at_stalls(pressure, found ? folder : NULL, now_ns, ret);
    if (found)
        look_at_groups(pressure, folder, top, ret);
    else
        pressure->groups = 0;
    pressure->looked_ns = now_ns;
}
