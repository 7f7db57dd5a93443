/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pthread_setname_np */
#endif
#include "base/thread.h"

#include <signal.h>

#include "base/mutant.h"

int near__thread_start(pthread_t *thread, void *(*main)(void *), void *arg)
{
    sigset_t all, before;
    sigfillset(&all);
    int failed = pthread_sigmask(NEAR_MUTANT(SIGNALS_OPEN) ? SIG_UNBLOCK : SIG_SETMASK, &all, &before);
    if (failed)
        return failed;
    failed = pthread_create(thread, NULL, main, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

void near__thread_name(const char *name)
{
    pthread_setname_np(pthread_self(), name);
}
