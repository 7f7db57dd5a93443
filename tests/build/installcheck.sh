#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# make installcheck: a program finds the installed library by pkg-config alone, shared and static.
# From the environment: libdir and includedir (of this installation, behind DESTDIR if there is one), version, CC, PKG_CONFIG, INSTRUMENT_CFLAGS, shared and static (yes, no).
. "$top_srcdir/tests/build/tap.sh"

PKG_CONFIG_PATH=$libdir/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
export PKG_CONFIG_PATH

# asks ARGUMENT…: pkg-config, which cannot know of a DESTDIR
asks() {
    $PKG_CONFIG --define-variable=libdir="$libdir" --define-variable=includedir="$includedir" "$@" nearcache
}

cat > "$work/program.c" << 'EOF'
#include <nearcache.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    near_options options;
    near_cache *cache;
    near_error error;
    char text[16];
    size_t size;

    near_options_init(&options);
    if (strcmp(near_version(), NEAR_VERSION_STRING) != 0)
        return 1;
    if (near_open("local:", &options, &cache, &error) != NEAR_OK)
        return printf("%s\n", error.text), 2;
    if (near_set(cache, "key", 3, "value", 5, NULL, NULL) != NEAR_OK)
        return 3;
    if (near_get_copy(cache, "key", 3, NULL, text, sizeof text, &size) != NEAR_OK || size != 5)
        return 4;
    return near_close(cache) == NEAR_OK ? 0 : 5;
}
EOF

# builds FLAG…: the program with pkg-config's words, and runs it
builds() {
    # shellcheck disable=SC2046,SC2086 # lists of words
    $CC $INSTRUMENT_CFLAGS $(asks --cflags) "$work/program.c" -o "$work/program" "$@" &&
        LD_LIBRARY_PATH=$libdir "$work/program"
}

builds_shared() {
    # shellcheck disable=SC2046
    builds $(asks --libs) && readelf -d "$work/program" | grep -q 'libnearcache\.so'
}

# Only our library is taken static; what it needs itself may be shared, as Debian has no static OpenSSL by default.
builds_static() {
    # shellcheck disable=SC2046
    builds $(asks --static --libs | sed "s|-lnearcache|$libdir/libnearcache.a|") &&
        ! readelf -d "$work/program" | grep -q 'libnearcache\.so'
}

needs_only_itself() {
    asks --print-requires > "$work/requires" && [ ! -s "$work/requires" ] &&
        [ "$(asks --libs-only-l | tr -d ' ')" = -lnearcache ]
}

version_is_ours() {
    [ "$(asks --modversion)" = "$version" ]
}

check "pkg-config knows the version" version_is_ours
check "a program names no other library than ours" needs_only_itself
if [ "$shared" = yes ]; then
    check "a program links with the shared library and runs" builds_shared
fi
if [ "$static" = yes ]; then
    check "a program links with the static library and runs" builds_static
fi
plan
