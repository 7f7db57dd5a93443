/* SPDX-License-Identifier: BSD-3-Clause
 * Why something in this room failed: a status and the words that go into near__request.detail. */
#ifndef NEAR_REMOTE_FAULT_H
#define NEAR_REMOTE_FAULT_H
#include <stdarg.h>
#include <stdio.h>
#include "nearcache.h"

struct near__fault {
    int status; /* 0: none */
    char text[120];
};

/* Returns status, so that `return near__fault_set(…)` reads well.  %m in the format is errno's text. */
__attribute__((format(printf, 3, 4), unused)) static int near__fault_set(struct near__fault *fault, int status,
                                                                         const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fault->status = status;
    vsnprintf(fault->text, sizeof fault->text, format, arguments);
    va_end(arguments);
    return status;
}

#endif
