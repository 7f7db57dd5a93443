/* SPDX-License-Identifier: BSD-3-Clause
 * What the compiler is told by more than one room: short names for its attributes and hints. */
#ifndef NEAR_BASE_COMPILER_H
#define NEAR_BASE_COMPILER_H

/* Belongs to its caller: constants that are passed decide what is left of it. */
#define NEAR_INLINE static inline __attribute__((always_inline))
/* The rare way of a hot function: apart, so that the common one needs fewer registers and lines. */
#define NEAR_APART static __attribute__((noinline))

/* gcc says so by these names, clang otherwise. */
#if defined(__clang__) && defined(__has_feature)
#if __has_feature(thread_sanitizer) && !defined(__SANITIZE_THREAD__)
#define __SANITIZE_THREAD__ 1
#endif
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

#define near__likely(x) __builtin_expect(!!(x), 1)
#define near__unlikely(x) __builtin_expect(!!(x), 0)
#endif
