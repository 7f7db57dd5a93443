dnl SPDX-License-Identifier: BSD-3-Clause
dnl
dnl The two versions, in one place.  The package version is for people; include/nearcache.h repeats it for
dnl programs and tests/build/symbols.sh compares both.
m4_define([NEAR_PACKAGE_VERSION], [0.1.0])

dnl The interface version is for the linker (libtool's current:revision:age).  At a release:
dnl   only code changed                        revision + 1
dnl   functions or fields were added           current + 1, revision 0, age + 1
dnl   anything was removed or changed          current + 1, revision 0, age 0
m4_define([NEAR_LT_CURRENT], [0])
m4_define([NEAR_LT_REVISION], [0])
m4_define([NEAR_LT_AGE], [0])
