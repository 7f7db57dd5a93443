dnl SPDX-License-Identifier: BSD-3-Clause
dnl
dnl Dependencies.  What is missing is collected, so that one run of configure names everything there is to install.

dnl NEAR_MISSING(WHAT, DEBIAN-PACKAGE)
AC_DEFUN([NEAR_MISSING],
[AS_VAR_APPEND([near_missing], ["
    $1 (Debian: $2)"])
AS_VAR_APPEND([near_missing_packages], [" $2"])])

dnl NEAR_NEED_MODULE(VARIABLE, MODULE, DEBIAN-PACKAGE): a pkg-config module
AC_DEFUN([NEAR_NEED_MODULE],
[PKG_CHECK_MODULES([$1], [$2], [], [NEAR_MISSING([$2], [$3])])])

dnl NEAR_NEED_HEADER(HEADER, DEBIAN-PACKAGE)
AC_DEFUN([NEAR_NEED_HEADER],
[AC_CHECK_HEADER([$1], [], [NEAR_MISSING([$1], [$2])])])

AC_DEFUN([NEAR_MISSING_IS_AN_ERROR],
[AS_IF([test -n "$near_missing"],
    [AC_MSG_ERROR([these are needed and were not found:$near_missing
  On Debian: apt-get install$near_missing_packages])])])
