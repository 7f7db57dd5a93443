dnl SPDX-License-Identifier: BSD-3-Clause
dnl
dnl --enable-asan, --enable-ubsan, --enable-tsan, --enable-coverage, --enable-werror.
dnl
dnl An instrumented build is compiled with -O1: reports keep their stack frames, and the tests stay quick.
AC_DEFUN([NEAR_INSTRUMENT],
[AC_ARG_ENABLE([asan], [AS_HELP_STRING([--enable-asan], [build with AddressSanitizer and LeakSanitizer])])
AC_ARG_ENABLE([ubsan], [AS_HELP_STRING([--enable-ubsan], [build with UndefinedBehaviorSanitizer; a finding ends the program])])
AC_ARG_ENABLE([tsan], [AS_HELP_STRING([--enable-tsan], [build with ThreadSanitizer])])
AC_ARG_ENABLE([coverage], [AS_HELP_STRING([--enable-coverage], [build for gcov])])
AC_ARG_ENABLE([werror], [AS_HELP_STRING([--enable-werror], [warnings are errors])])
AS_IF([test "x$enable_tsan" = xyes && test "x$enable_asan" = xyes],
    [AC_MSG_ERROR([--enable-tsan and --enable-asan exclude each other])])
near_instrument=
AS_IF([test "x$enable_asan" = xyes], [AS_VAR_APPEND([near_instrument], [" -fsanitize=address"])])
AS_IF([test "x$enable_ubsan" = xyes],
    [AS_VAR_APPEND([near_instrument], [" -fsanitize=undefined -fno-sanitize-recover=undefined"])])
AS_IF([test "x$enable_tsan" = xyes], [AS_VAR_APPEND([near_instrument], [" -fsanitize=thread"])])
AS_IF([test -n "$near_instrument"], [AS_VAR_APPEND([near_instrument], [" -fno-omit-frame-pointer"])])
AS_IF([test "x$enable_coverage" = xyes], [AS_VAR_APPEND([near_instrument], [" --coverage"])])
AS_IF([test -n "$near_instrument" && test "x$near_cflags_given" = x], [CFLAGS="-O1 -g"])
AS_IF([test "x$enable_coverage" = xyes && test "x$near_cflags_given" = x], [CFLAGS="-O0 -g"])
AS_IF([test -n "$near_instrument"],
    [near_cflags_saved=$CFLAGS
    CFLAGS="$CFLAGS $near_instrument"
    AC_MSG_CHECKING([whether programs link with$near_instrument])
    AC_LINK_IFELSE([AC_LANG_PROGRAM()], [AC_MSG_RESULT([yes])],
        [AC_MSG_RESULT([no])
        AC_MSG_ERROR([the compiler cannot build with$near_instrument])])
    CFLAGS=$near_cflags_saved])
INSTRUMENT_CFLAGS=$near_instrument
AC_SUBST([INSTRUMENT_CFLAGS])
dnl A shared library must find everything it uses; an instrumented one finds the sanitizer only in the program.
AS_IF([test -z "$near_instrument"], [COMPLETE_LDFLAGS=-Wl,-z,defs], [COMPLETE_LDFLAGS=])
AC_SUBST([COMPLETE_LDFLAGS])])

dnl The warnings that this compiler knows, in WARNING_CFLAGS.
AC_DEFUN([NEAR_WARNINGS],
[WARNING_CFLAGS=
near_cflags_saved=$CFLAGS
for near_flag in -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition \
    -Wpointer-arith -Wvla -Wundef -Wwrite-strings -Wformat=2 -Wnull-dereference -Wduplicated-cond \
    -Wimplicit-fallthrough; do
    CFLAGS="$near_cflags_saved -Werror $near_flag"
    AC_COMPILE_IFELSE([AC_LANG_PROGRAM()], [AS_VAR_APPEND([WARNING_CFLAGS], [" $near_flag"])])
done
CFLAGS=$near_cflags_saved
AS_IF([test "x$enable_werror" = xyes], [AS_VAR_APPEND([WARNING_CFLAGS], [" -Werror"])])
AC_SUBST([WARNING_CFLAGS])])
