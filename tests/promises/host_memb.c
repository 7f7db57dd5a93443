/* SPDX-License-Identifier: BSD-3-Clause */
#include "promises/host.h"

#include <urcu/urcu-memb.h>

static void register_thread(void)
{
    urcu_memb_register_thread();
}
static void unregister_thread(void)
{
    urcu_memb_unregister_thread();
}
static void read_lock(void)
{
    urcu_memb_read_lock();
}
static void read_unlock(void)
{
    urcu_memb_read_unlock();
}
static void synchronize(void)
{
    urcu_memb_synchronize_rcu();
}
static void nothing(void) {}

const struct host_rcu host_rcu_memb = {register_thread, unregister_thread, read_lock, read_unlock,
                                       synchronize,     nothing,           nothing,   nothing};
