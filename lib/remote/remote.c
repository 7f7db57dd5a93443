/* SPDX-License-Identifier: BSD-3-Clause
 * Which implementation a URI means. */
#include "remote/remote.h"

#include <string.h>

#include "base/hash.h"
#include "remote/memory.h"
#include "remote/redis.h"

int near__remote_open(const struct near__remote_config *config, struct near__remote **ret, near_error *error)
{
    switch (config->uri->kind) {
    case NEAR_URI_TCP:
    case NEAR_URI_TLS:
    case NEAR_URI_UNIX:
        return near__redis_open(config, ret, error);
    case NEAR_URI_MEMORY:
        return near__memory_open(config, ret, error);
    default:
        return near__fail(error, NEAR_ERR_UNSUPPORTED, "this URI has no remote tier");
    }
}

uint64_t near__server_id(const char *identity)
{
    uint64_t id = near__hash(identity, strcspn(identity, "-"), 0); /* no secret: both sides are ours */
    return id ? id : 1;
}
