/* SPDX-License-Identifier: BSD-3-Clause */
#include "promises/host.h"

#include <urcu/urcu-qsbr.h>

static void register_thread(void)
{
    urcu_qsbr_register_thread();
}
static void unregister_thread(void)
{
    urcu_qsbr_unregister_thread();
}
static void read_lock(void)
{
    urcu_qsbr_read_lock();
}
static void read_unlock(void)
{
    urcu_qsbr_read_unlock();
}
static void synchronize(void)
{
    urcu_qsbr_synchronize_rcu();
}

const struct host_rcu host_rcu_qsbr = {
    register_thread,          unregister_thread,      read_lock, read_unlock, synchronize, urcu_qsbr_quiescent_state,
    urcu_qsbr_thread_offline, urcu_qsbr_thread_online};
