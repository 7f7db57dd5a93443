/* SPDX-License-Identifier: BSD-3-Clause
 * The server-side scripts, the names of keys and channels, and what the server's errors mean. */
#ifndef NEAR_REMOTE_SCRIPT_H
#define NEAR_REMOTE_SCRIPT_H
#include <stddef.h>
#include "base/alloc.h"

struct near__script {
    const char *text;
    const char *sha1;                         /* hexadecimal; a test compares it with the server's */
    const struct near__script *without_flags; /* for servers before 7; NULL: it has none */
};
extern const struct near__script near__script_set;          /* plain SETs: refused out of memory */
extern const struct near__script near__script_delete;       /* several DELs: not refused */
extern const struct near__script near__script_write;        /* other SETs, INCR, CAS: the same */
extern const struct near__script near__script_write_always; /* DEL, EXPIRE, CLEAR */
extern const struct near__script near__script_lease;        /* reads, and writes only when it gives a lease */
extern const struct near__script near__script_fill;         /* FILL, RELEASE */
extern const struct near__script near__script_compare;      /* COMPARE: reads only */
extern const struct near__script near__script_prove, near__script_roll, near__script_lock, near__script_check;
/* Only where there are mutants (base/mutant.h): the broken script in place of this one. */
const struct near__script *near__script_mutant(const struct near__script *script);

/* The names, allocated; NULL: out of memory.
 *   position key      nearcache:pos:<prefix>
 *   shared channel    nearcache:<db>:<prefix>
 *   private channel   nearcache:<db>:<prefix>:<private_name> */
char *near__position_key(const struct near__alloc *alloc, const char *prefix);
char *near__shared_channel(const struct near__alloc *alloc, unsigned database, const char *prefix);
char *near__private_channel(const struct near__alloc *alloc, const char *shared, const void *name, size_t name_size);
/* text with Redis's pattern characters escaped, and a star behind. */
char *near__pattern_of(const struct near__alloc *alloc, const char *text);

#define NEAR_POSITION_KEY_BEGIN "nearcache:pos:"

/* The near_status of an error reply ("READONLY You can't write …"). */
int near__error_status(const char *text);
int near__error_is_noscript(const char *text);
int near__error_is_flags(const char *text); /* a server that does not know script flags */

#endif
