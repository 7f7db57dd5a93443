/* SPDX-License-Identifier: BSD-3-Clause
 * Name resolution in a helper thread.  See resolve.h. */
#include "remote/resolve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/thread.h"

void near__resolution_ref(struct near__resolution *r)
{
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed); /* the caller holds one */
}

void near__resolution_unref(struct near__resolution *r)
{
    /* acq_rel: the last one sees what the others wrote before they let go */
    if (!r || atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) > 1)
        return;
    if (r->list)
        freeaddrinfo(r->list);
    if (r->event_fd >= 0)
        close(r->event_fd);
    free(r);
}

int near__resolution_done(const struct near__resolution *r)
{
    /* acquire: pairs with lookup's release; error and list are then final */
    return atomic_load_explicit(&r->done, memory_order_acquire);
}

int near__resolution_is_of(const struct near__resolution *r, const char *host, uint16_t port)
{
    return strtoul(r->port, NULL, 10) == port && strcmp(r->host, host) == 0;
}

static void lookup(struct near__resolution *r, int flags)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags};
    r->error = getaddrinfo(r->host, r->port, &hints, &r->list);
    if (r->error)
        r->list = NULL;
    /* release: pairs with near__resolution_done */
    atomic_store_explicit(&r->done, r->error == 0 || !(flags & AI_NUMERICHOST), memory_order_release);
}

static void *resolver(void *arg)
{
    struct near__resolution *r = arg;
    uint64_t one = 1;
    near__thread_name("near-resolve");
    lookup(r, 0);
    while (write(r->event_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
    near__resolution_unref(r);
    return NULL;
}

static int start_thread(struct near__resolution *r)
{
    pthread_t thread;
    if (near__thread_start(&thread, resolver, r) != 0)
        return -1;
    pthread_detach(thread);
    return 0;
}

struct near__resolution *near__resolution_start(const char *host, uint16_t port, struct near__fault *fault)
{
    size_t size = strlen(host) + 1;
    struct near__resolution *r = calloc(1, sizeof *r + size);
    if (!r) {
        near__fault_set(fault, NEAR_ERR_NOMEM, "out of memory");
        return NULL;
    }
    atomic_init(&r->refs, 1);
    r->event_fd = -1;
    memcpy(r->host, host, size);
    snprintf(r->port, sizeof r->port, "%u", port);
    lookup(r, AI_NUMERICHOST | AI_NUMERICSERV);
    if (near__resolution_done(r))
        return r;
    r->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->event_fd >= 0) {
        near__resolution_ref(r);
        if (start_thread(r) == 0)
            return r;
        near__resolution_unref(r);
    }
    near__fault_set(fault, NEAR_ERR_SYSTEM, "resolving %s: no thread or descriptor for it", host);
    near__resolution_unref(r);
    return NULL;
}
