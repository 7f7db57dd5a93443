/* SPDX-License-Identifier: BSD-3-Clause
 * The journal of a write-behind queue: a file to which every accepted update is appended before it is acknowledged, and
 * a note when it has reached the source.  What is in it without such a note is to be done again after a crash.  The
 * same with what everybody is still to forget, and a note when that has happened. */
#ifndef NEAR_LOAD_JOURNAL_H
#define NEAR_LOAD_JOURNAL_H
#include <stddef.h>
#include <stdint.h>
#include "base/alloc.h"
#include "base/log.h"
#include "nearcache.h"

struct near__journal;

enum near__journal_type {
    NEAR_RECORD_SET = 1,
    NEAR_RECORD_DEL = 2,
    NEAR_RECORD_DONE = 3,
    NEAR_RECORD_FORGET = 4, /* the key is to be forgotten; updates are another matter */
    NEAR_RECORD_FORGOTTEN = 5,
    NEAR_RECORD_FORGET_ALL = 6,
    NEAR_RECORD_FORGOTTEN_ALL = 7
};
struct near__journal_record {
    enum near__journal_type type;
    uint64_t sequence; /* DONE, FORGOTTEN: that one, and what came before it for the key, is done */
    const void *key, *value;
    size_t key_size, value_size;
};
/* Called for each record at open, in order.  Not NEAR_OK ends the opening with that status. */
typedef int (*near__journal_fn)(void *arg, const struct near__journal_record *record);

/* Opens or makes the file, locks it against other processes and replays it.  A torn end is cut off; damage before the
 * end is NEAR_ERR_JOURNAL with its place in error, or, with salvage, skipped and logged.  A file of an older version is
 * read, and broken (see below) from the start.  Also NEAR_ERR_NOMEM. */
int near__journal_open(const struct near__alloc *alloc, const struct near__log *log, const char *path, int salvage,
                       near__journal_fn fn, void *arg, struct near__journal **ret, near_error *error);
void near__journal_close(struct near__journal *j); /* NULL is fine */
/* In a child after fork, whatever the parent's threads were at: closes the files, and with them the child's share of
 * the lock; nothing else of the journal is touched. */
void near__journal_abandon(const struct near__journal *j);

/* The functions below are called by one thread at a time (the queue's lock). */

/* Puts a record into the memory of the next write; a failed allocation is told by commit. */
void near__journal_add(struct near__journal *j, const struct near__journal_record *record);
/* Writes what was added.  On an error none of it is in the file: NEAR_ERR_NOMEM, NEAR_ERR_JOURNAL. */
int near__journal_commit(struct near__journal *j);
uint64_t near__journal_file_bytes(const struct near__journal *j);
/* Replaces the file by one that holds exactly what is added between begin and end.  On an error the old one stays; or,
 * when only the folder could not be put on the disk, the new one is there, and broken. */
int near__journal_rewrite_begin(struct near__journal *j);
int near__journal_rewrite_end(struct near__journal *j);
/* Whether nothing can be written until the file has been replaced: the disk has failed, or the file is of an older
 * version. */
int near__journal_is_broken(struct near__journal *j);
/* What went wrong since the last call, bits of a near__journal_trouble, for the log: that is told when no lock is held.
 * *ret_error is the system's word about the last of them. */
enum near__journal_trouble { NEAR_TROUBLE_WRITING = 1, NEAR_TROUBLE_REPLACING = 2 };
unsigned near__journal_troubles(struct near__journal *j, int *ret_error);
/* A mark of all that is written now, for near__journal_sync. */
uint64_t near__journal_mark(const struct near__journal *j);

/* Any thread, at any time: returns when everything up to the mark is on the disk; threads share one fdatasync.
 * NEAR_OK or NEAR_ERR_JOURNAL (which sticks until the file has been replaced). */
int near__journal_sync(struct near__journal *j, uint64_t mark);

#endif
