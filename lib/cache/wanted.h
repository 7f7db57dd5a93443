/* SPDX-License-Identifier: BSD-3-Clause
 * A key that a reader wants, loaded if need be: the steps that near_get_or_load and near_mget_or_load share. */
#ifndef NEAR_CACHE_WANTED_H
#define NEAR_CACHE_WANTED_H
#include "cache/loading.h"

struct near__wanted {
    const void *key;
    size_t key_size;
    near_loader_fn fn; /* one of the two */
    near_bulk_loader_fn bulk_fn;
    void *arg;
    const near_load *options; /* checked */
    near_value *value;
    int has_local;   /* *value is a pinned local copy */
    int64_t ends_ns; /* when that is over for good; NEAR_NEVER */
    enum near__freshness freshness;
    int64_t age_ns; /* of an old one */
    int64_t began_ns, deadline_ns, soft_ns;
};

/* Which loader, with which options, when the call names none; 0: there is none.  `many`: the bulk loader is preferred.
 */
int near__wanted_loader(struct near__loading *l, const near_load *options, int many, struct near__wanted *w);
/* The local part; inside a read section, or a counted call.  1 with *ret_status: over. */
int near__wanted_locally(struct near__impl *impl, struct near__loading *l, struct near__reader *reader,
                         struct near__wanted *w, int *ret_status);
/* What else can be said without waiting, from here on in a counted call: 1 with *ret_status.  0: the call's times are
 * set.  A refresh that is due is added to *due, which the caller starts. */
int near__wanted_without(struct near__impl *impl, struct near__loading *l, struct near__wanted *w, int64_t now_ns,
                         struct near__refreshes *due, int *ret_status);
/* By which loads of the key are told apart: who has another one does not join. */
struct near__ticket near__load_ticket(struct near__impl *impl, const struct near__wanted *w);
/* A load for the leader of a flight; NULL without memory. */
struct near__load *near__wanted_load(struct near__impl *impl, const struct near__wanted *w,
                                     struct near__flight *flight);
/* Errors about the key or the caller; whatever else the server says, it cannot be asked at present. */
int near__wanted_is_final(int status);
/* Whether an old value that the server gave may be served at once: then the other may go on by himself. */
int near__wanted_at_once(const struct near__wanted *w, const struct near__shared *old, int64_t now_ns);
/* The end of asking when there is nothing to load. */
void near__wanted_land(struct near__loading *l, struct near__load *load, const struct near__request *q);
/* Waiting for another process's message: not beyond its lease, nor our own time.  Without a proven subscription no
 * message can be trusted to come; then the server is asked now and again.  near__wanted_wait_other: 1: ask again. */
int64_t near__wanted_own_end(const struct near__wanted *w, const struct near__load *load);
int64_t near__wanted_other_end(struct near__impl *impl, int64_t lease_left_ms);
int near__wanted_wait_other(struct near__impl *impl, struct near__loading *l, struct near__watch *watch,
                            int64_t until_ns, int64_t own_ns);
struct near__patience near__wanted_patience(const struct near__wanted *w);
/* The end of a flight for this reader; 0: once more. */
int near__wanted_settle(struct near__impl *impl, struct near__loading *l, struct near__reader *reader,
                        struct near__wanted *w, const struct near__landing *landing, uint32_t source, int *ret_status);
/* Gives the local copy back, if there is one; 1. */
int near__wanted_drop(struct near__wanted *w);

#endif
