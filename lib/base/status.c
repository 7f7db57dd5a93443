/* SPDX-License-Identifier: BSD-3-Clause */
#include "nearcache.h"

const char *near_status_name(int status)
{
    switch (status) {
#define NEAR_STATUS_NAME_(name, value, text)                                                                           \
    case value:                                                                                                        \
        return "NEAR_" #name;
        NEAR_STATUS_MAP(NEAR_STATUS_NAME_)
#undef NEAR_STATUS_NAME_
    default:
        return "unknown status";
    }
}

const char *near_status_text(int status)
{
    switch (status) {
#define NEAR_STATUS_TEXT_(name, value, text)                                                                           \
    case value:                                                                                                        \
        return text;
        NEAR_STATUS_MAP(NEAR_STATUS_TEXT_)
#undef NEAR_STATUS_TEXT_
    default:
        return "unknown status";
    }
}

/* What passes by itself.  Full or misconfigured servers and refused credentials wait for a person. */
int near_status_is_transient(int status)
{
    switch (status) {
    case NEAR_ERR_TIMEOUT:
    case NEAR_ERR_UNKNOWN:
    case NEAR_ERR_UNAVAILABLE:
    case NEAR_ERR_IO:
    case NEAR_ERR_LOADING:
    case NEAR_ERR_READONLY: /* a failover is under way */
    case NEAR_ERR_SCRIPT_BUSY:
    case NEAR_ERR_MAX_CLIENTS:
    case NEAR_ERR_RESOLVE:
    case NEAR_ERR_UNPROVEN:
    case NEAR_ERR_QUEUE_FULL:
    case NEAR_ERR_LOAD:
    case NEAR_ERR_LOAD_TIMEOUT:
        return 1;
    default:
        return 0;
    }
}
