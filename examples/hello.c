/* SPDX-License-Identifier: BSD-3-Clause
 * The smallest program: open, wait, set, get, release, close.      hello [URI]      $REDIS_URL, or memory://demo */
#include <nearcache.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--help") == 0)
        return puts("usage: hello [URI]    Default: $REDIS_URL, or memory://demo") < 0;
    const char *uri = argc > 1 ? argv[1] : getenv("REDIS_URL") ? getenv("REDIS_URL") : "memory://demo";
    near_cache *cache;
    near_error error;
    near_value value;
    if (near_open(uri, NULL, &cache, &error) < 0 || near_wait_ready(cache, 5000, &error) < 0)
        return fprintf(stderr, "hello: %s\n", error.text), 1;
    int status = near_set(cache, "greeting", 8, "hello, world", 12, NULL, NULL);
    if (status == NEAR_OK && (status = near_get(cache, "greeting", 8, NULL, &value)) == NEAR_OK) {
        printf("%.*s (%s)\n", (int)value.size, (const char *)value.data,
               value.source == NEAR_FROM_LOCAL ? "from this process" : "from the remote tier");
        near_release(&value);
    }
    near_close(cache);
    if (status != NEAR_OK)
        fprintf(stderr, "hello: %s\n", near_status_text(status));
    return status != NEAR_OK;
}
