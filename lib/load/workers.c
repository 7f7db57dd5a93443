/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One mutex, one queue, as many threads as there were jobs at once.  Lock order: this mutex, then that of a stripe of
 * flights. */
#include "load/workers.h"

#include "base/thread.h"

struct near__workers {
    const struct near__alloc *alloc;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    /* the rest under mutex */
    struct near__job *head, **tail;
    uint32_t started, idle, waiting, max;
    int stopping;
    pthread_t threads[];
};

static __thread int inside;

int near__workers_inside(void)
{
    return inside;
}

int near__workers_create(const struct near__alloc *alloc, uint32_t threads_max, struct near__workers **ret)
{
    struct near__workers *w = near__alloc_zero(alloc, sizeof(*w) + threads_max * sizeof(w->threads[0]));
    if (!w)
        return NEAR_ERR_NOMEM;
    w->alloc = alloc;
    w->max = threads_max;
    w->tail = &w->head;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->changed, NULL);
    *ret = w;
    return NEAR_OK;
}

void near__workers_destroy(struct near__workers *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->mutex);
    w->stopping = 1;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->mutex);
    for (uint32_t i = 0; i < w->started; i++)
        pthread_join(w->threads[i], NULL);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->mutex);
    near__free(w->alloc, w);
}

static struct near__job *take_locked(struct near__workers *w)
{
    struct near__job *job = w->head;
    w->head = job->next;
    if (!w->head)
        w->tail = &w->head;
    w->waiting--;
    return job;
}

static void *worker_main(void *arg)
{
    struct near__workers *w = arg;
    inside = 1;
    near__thread_name("near-load");
    pthread_mutex_lock(&w->mutex);
    for (;;) {
        while (!w->head && !w->stopping) {
            w->idle++;
            pthread_cond_wait(&w->changed, &w->mutex);
            w->idle--;
        }
        if (!w->head)
            break;
        struct near__job *job = take_locked(w);
        pthread_mutex_unlock(&w->mutex);
        job->run(job);
        pthread_mutex_lock(&w->mutex);
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

static int start_thread_locked(struct near__workers *w)
{
    int failed = near__thread_start(&w->threads[w->started], worker_main, w);
    w->started += failed == 0;
    return failed;
}

int near__workers_run(struct near__workers *w, struct near__job *job)
{
    int status = NEAR_OK;
    pthread_mutex_lock(&w->mutex);
    if (w->idle <= w->waiting && w->started < w->max && start_thread_locked(w) != 0 && w->started == 0)
        status = NEAR_ERR_SYSTEM;
    if (status == NEAR_OK) {
        job->next = NULL;
        *w->tail = job;
        w->tail = &job->next;
        w->waiting++;
        job->queued(job);
        pthread_cond_signal(&w->changed);
    }
    pthread_mutex_unlock(&w->mutex);
    return status;
}

struct near__job *near__workers_take(struct near__workers *w, int (*is)(const struct near__job *job, const void *arg),
                                     const void *arg)
{
    pthread_mutex_lock(&w->mutex);
    struct near__job **at = &w->head, *job;
    while (*at && !is(*at, arg))
        at = &(*at)->next;
    job = *at;
    if (job) {
        *at = job->next;
        if (!job->next)
            w->tail = at;
        w->waiting--;
    }
    pthread_mutex_unlock(&w->mutex);
    return job;
}
