/* SPDX-License-Identifier: BSD-3-Clause
 * A host program's own liburcu, in three flavours.  Each is in a file of its own, as their headers want it. */
#ifndef NEAR_TESTS_HOST_H
#define NEAR_TESTS_HOST_H

struct host_rcu {
    void (*register_thread)(void);
    void (*unregister_thread)(void);
    void (*read_lock)(void);
    void (*read_unlock)(void);
    void (*synchronize)(void);
    void (*quiescent)(void);
    void (*offline)(void);
    void (*online)(void);
};
extern const struct host_rcu host_rcu_memb, host_rcu_qsbr, host_rcu_bp;

#endif
