/* SPDX-License-Identifier: BSD-3-Clause
 * See sysfail.h.  The counters are sequentially consistent: tests are no place to save a fence. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "support/sysfail.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* ---------------------------------------------------------------- what can fail, and how */

enum { SHORT = -1, END = -2, SPURIOUS = -3, NONE = 0 };

struct function {
    const char *name;
    int ways[8]; /* errno values, or one of the above; up to NONE */
};
enum {
    F_SOCKET,
    F_CONNECT,
    F_RECV,
    F_SEND,
    F_SENDMSG,
    F_PPOLL,
    F_EVENTFD,
    F_READ,
    F_READ_EVENT,
    F_WRITE,
    F_WRITE_EVENT,
    F_OPEN,
    F_FOPEN,
    F_FSTAT,
    F_STAT,
    F_FLOCK,
    F_FTRUNCATE,
    F_LSEEK,
    F_PREAD,
    F_FDATASYNC,
    F_FSYNC,
    F_RENAME,
    F_UNLINK,
    F_CLOSE,
    F_GETADDRINFO,
    F_GETSOCKOPT,
    F_SETSOCKOPT,
    F_GETSOCKNAME,
    F_GETPEERNAME,
    F_SHUTDOWN,
    F_MMAP,
    F_MADVISE,
    F_GETRANDOM,
    F_NANOSLEEP,
    F_CLOCK_GETRES,
    F_FUTEX_WAIT,
    F_THREAD_CREATE,
    F_THREAD_NAME,
    F_KEY_CREATE,
    F_COND_WAIT,
    F_COND_TIMEDWAIT,
    F_TRYLOCK,
    FUNCTIONS
};
/* A connect that was interrupted goes on being made; a closed descriptor is closed whatever close says; getaddrinfo and
 * the pthread functions return their errors. */
static const struct function functions[FUNCTIONS] = {
    [F_SOCKET] = {"socket", {EMFILE, ENFILE, ENOBUFS, ENOMEM}},
    [F_CONNECT] = {"connect", {ECONNREFUSED, EINTR, EAGAIN, ETIMEDOUT, ENOENT, EADDRNOTAVAIL}},
    [F_RECV] = {"recv", {EINTR, EAGAIN, ECONNRESET, ETIMEDOUT, END, SHORT, ENOMEM}},
    [F_SEND] = {"send", {EINTR, EAGAIN, ECONNRESET, EPIPE, SHORT, ENOBUFS}},
    [F_SENDMSG] = {"sendmsg", {EINTR, EAGAIN, ECONNRESET, EPIPE, SHORT, ENOBUFS}},
    [F_PPOLL] = {"ppoll", {EINTR, ENOMEM}},
    [F_EVENTFD] = {"eventfd", {EMFILE, ENFILE, ENOMEM, ENODEV}},
    [F_READ] = {"read", {EINTR, EIO, SHORT, END}},
    [F_READ_EVENT] = {"read of an eventfd", {EINTR, EAGAIN}},
    [F_WRITE] = {"write", {EINTR, ENOSPC, EIO, SHORT, EDQUOT}},
    [F_WRITE_EVENT] = {"write of an eventfd", {EINTR}},
    [F_OPEN] = {"open", {EMFILE, ENFILE, EACCES, EIO, ENOSPC, EINTR}},
    [F_FOPEN] = {"fopen", {EMFILE, ENOMEM, EACCES}},
    [F_FSTAT] = {"fstat", {EIO, EOVERFLOW}},
    [F_STAT] = {"stat", {EIO, EACCES, ENOMEM}},
    [F_FLOCK] = {"flock", {EINTR, ENOLCK, EWOULDBLOCK}},
    [F_FTRUNCATE] = {"ftruncate", {EIO, EINTR}},
    [F_LSEEK] = {"lseek", {EINVAL}},
    [F_PREAD] = {"pread", {EINTR, EIO, SHORT, END}},
    [F_FDATASYNC] = {"fdatasync", {EIO, ENOSPC, EDQUOT}},
    [F_FSYNC] = {"fsync", {EIO, ENOSPC, EDQUOT}},
    [F_RENAME] = {"rename", {EIO, ENOSPC, EACCES}},
    [F_UNLINK] = {"unlink", {EIO, EACCES}},
    [F_CLOSE] = {"close", {EINTR, EIO}},
    [F_GETADDRINFO] = {"getaddrinfo", {EAI_AGAIN, EAI_FAIL, EAI_MEMORY, EAI_NONAME}},
    [F_GETSOCKOPT] = {"getsockopt", {ENOBUFS, ENOMEM}},
    [F_SETSOCKOPT] = {"setsockopt", {ENOPROTOOPT, ENOMEM}},
    [F_GETSOCKNAME] = {"getsockname", {ENOBUFS}},
    [F_GETPEERNAME] = {"getpeername", {ENOBUFS, ENOTCONN}},
    [F_SHUTDOWN] = {"shutdown", {ENOTCONN}},
    [F_MMAP] = {"mmap", {ENOMEM}},
    [F_MADVISE] = {"madvise", {EINVAL, ENOMEM}},
    [F_GETRANDOM] = {"getrandom", {EINTR, ENOSYS, SHORT}},
    [F_NANOSLEEP] = {"nanosleep", {EINTR}},
    [F_CLOCK_GETRES] = {"clock_getres", {EINVAL}},
    [F_FUTEX_WAIT] = {"futex wait", {EINTR, EAGAIN}},
    [F_THREAD_CREATE] = {"pthread_create", {EAGAIN, EPERM}},
    [F_THREAD_NAME] = {"pthread_setname_np", {EIO}},
    [F_KEY_CREATE] = {"pthread_key_create", {EAGAIN, ENOMEM}},
    [F_COND_WAIT] = {"pthread_cond_wait", {SPURIOUS}},
    [F_COND_TIMEDWAIT] = {"pthread_cond_timedwait", {SPURIOUS}},
    [F_TRYLOCK] = {"pthread_mutex_trylock", {EBUSY}},
};

static _Atomic(uint64_t) calls, fail_at, struck, totals[FUNCTIONS], total_struck[FUNCTIONS];
static _Atomic(uint64_t) fail_seed;
static _Atomic(int) lasting, only_function = -1, hit_function = -1, hit_way;
static _Atomic(uint64_t) period[FUNCTIONS], period_calls[FUNCTIONS]; /* sysfail_function_every */
static _Atomic(int) period_way[FUNCTIONS];

static int means_again(int way)
{
    return way == EINTR || way == EAGAIN || way == SHORT || way == SPURIOUS || way == EBUSY;
}

static int strike(int f, int way)
{
    atomic_fetch_add(&struck, 1);
    atomic_fetch_add(&total_struck[f], 1);
    return way;
}

/* How this call has to fail; NONE: it does not. */
static int way_of(int f)
{
    uint64_t turn = atomic_fetch_add(&totals[f], 1), every = atomic_load(&period[f]);
    if (every)
        return (atomic_fetch_add(&period_calls[f], 1) + 1) % every ? NONE : strike(f, atomic_load(&period_way[f]));
    int only = atomic_load(&only_function);
    if (only >= 0 && only != f)
        return NONE;
    uint64_t n = atomic_fetch_add(&calls, 1) + 1, at = atomic_load(&fail_at);
    if (!at)
        return NONE;
    if (only >= 0)
        return n == at || (n > at && atomic_load(&lasting)) ? strike(f, atomic_load(&hit_way)) : NONE;
    if (n == at) {
        unsigned count = 0;
        while (count < 8 && functions[f].ways[count] != NONE)
            count++;
        int way = functions[f].ways[atomic_load(&fail_seed) % count];
        atomic_store(&hit_way, way);
        atomic_store(&hit_function, f);
        return strike(f, way);
    }
    int way = atomic_load(&hit_way);
    if (n < at || !atomic_load(&lasting) || atomic_load(&hit_function) != f || (means_again(way) && turn % 2))
        return NONE;
    return strike(f, way);
}

void sysfail_off(void)
{
    atomic_store(&fail_at, 0);
    atomic_store(&only_function, -1);
    for (int f = 0; f < FUNCTIONS; f++)
        atomic_store(&period[f], 0);
}

static void arm(uint64_t n, uint64_t seed, int lasts)
{
    sysfail_off();
    atomic_store(&hit_function, -1);
    atomic_store(&hit_way, NONE);
    atomic_store(&lasting, lasts);
    atomic_store(&fail_seed, seed);
    atomic_store(&struck, 0);
    atomic_store(&calls, 0);
    atomic_store(&fail_at, n);
}

void sysfail_at(uint64_t n, uint64_t seed)
{
    arm(n, seed, 0);
}
void sysfail_from(uint64_t n, uint64_t seed)
{
    arm(n, seed, 1);
}

static int function_named(const char *name)
{
    int f = 0;
    while (f < FUNCTIONS && strcmp(functions[f].name, name) != 0)
        f++;
    assert(f < FUNCTIONS);
    return f;
}

void sysfail_function_at(const char *function, uint64_t n, int error, int lasts)
{
    int f = function_named(function);
    arm(0, 0, lasts);
    atomic_store(&hit_way, error);
    atomic_store(&hit_function, f);
    atomic_store(&only_function, f);
    atomic_store(&calls, 0);
    atomic_store(&fail_at, n);
}
void sysfail_function_every(const char *function, uint64_t n, int error)
{
    int f = function_named(function);
    atomic_store(&period_way[f], error);
    atomic_store(&period_calls[f], 0);
    atomic_store(&period[f], n);
}
uint64_t sysfail_calls(void)
{
    return atomic_load(&calls);
}
uint64_t sysfail_struck(void)
{
    return atomic_load(&struck);
}

const char *sysfail_what(void)
{
    static char text[80];
    int f = atomic_load(&hit_function), way = atomic_load(&hit_way);
    if (f < 0)
        return "nothing";
    const char *how = way == SHORT         ? "a part"
                      : way == END         ? "the end"
                      : way == SPURIOUS    ? "a wake-up for nothing"
                      : f == F_GETADDRINFO ? gai_strerror(way)
                                           : strerrorname_np(way);
    snprintf(text, sizeof text, "%s: %s", functions[f].name, how);
    return text;
}

const char *sysfail_function(unsigned index, uint64_t *ret_calls, uint64_t *ret_struck)
{
    if (index >= FUNCTIONS)
        return NULL;
    *ret_calls = atomic_load(&totals[index]);
    *ret_struck = atomic_load(&total_struck[index]);
    return functions[index].name;
}

/* ---------------------------------------------------------------- the calls */

/* Returns from the caller with -1 and errno when the call has to fail. */
#define FAIL_AS(f)                                                                                                     \
    do {                                                                                                               \
        int way_ = way_of(f);                                                                                          \
        if (way_ > 0) {                                                                                                \
            errno = way_;                                                                                              \
            return -1;                                                                                                 \
        }                                                                                                              \
    } while (0)

static size_t part_of(int way, size_t size)
{
    return way == SHORT && size > 1 ? 1 + size / 3 : size;
}

int sysfail_socket(int domain, int type, int protocol);
int sysfail_socket(int domain, int type, int protocol)
{
    FAIL_AS(F_SOCKET);
    return socket(domain, type, protocol);
}

int sysfail_connect(int fd, const struct sockaddr *address, socklen_t size);
int sysfail_connect(int fd, const struct sockaddr *address, socklen_t size)
{
    int way = way_of(F_CONNECT);
    if (way == NONE)
        return connect(fd, address, size);
    if (way != EINTR || connect(fd, address, size) == 0 || errno == EINPROGRESS)
        errno = way;
    return -1;
}

ssize_t sysfail_recv(int fd, void *bytes, size_t size, int flags);
ssize_t sysfail_recv(int fd, void *bytes, size_t size, int flags)
{
    int way = way_of(F_RECV);
    if (way == NONE || way == SHORT)
        return recv(fd, bytes, part_of(way, size < 16 || way == NONE ? size : 16), flags);
    if (way == END)
        return 0;
    errno = way;
    return -1;
}

ssize_t sysfail_send(int fd, const void *bytes, size_t size, int flags);
ssize_t sysfail_send(int fd, const void *bytes, size_t size, int flags)
{
    int way = way_of(F_SEND);
    if (way == NONE || way == SHORT)
        return send(fd, bytes, part_of(way, size), flags);
    errno = way;
    return -1;
}

ssize_t sysfail_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t sysfail_sendmsg(int fd, const struct msghdr *message, int flags)
{
    int way = way_of(F_SENDMSG);
    if (way == NONE)
        return sendmsg(fd, message, flags);
    if (way == SHORT)
        return send(fd, message->msg_iov[0].iov_base, part_of(way, message->msg_iov[0].iov_len), flags);
    errno = way;
    return -1;
}

int sysfail_ppoll(struct pollfd *descriptors, nfds_t count, const struct timespec *timeout, const sigset_t *mask);
int sysfail_ppoll(struct pollfd *descriptors, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
    FAIL_AS(F_PPOLL);
    return ppoll(descriptors, count, timeout, mask);
}

int sysfail_eventfd(unsigned initial, int flags);
int sysfail_eventfd(unsigned initial, int flags)
{
    FAIL_AS(F_EVENTFD);
    return eventfd(initial, flags);
}

static int is_file(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

ssize_t sysfail_read(int fd, void *bytes, size_t size);
ssize_t sysfail_read(int fd, void *bytes, size_t size)
{
    int way = way_of(is_file(fd) ? F_READ : F_READ_EVENT);
    if (way == NONE || way == SHORT)
        return read(fd, bytes, part_of(way, size));
    if (way == END)
        return 0;
    errno = way;
    return -1;
}

ssize_t sysfail_write(int fd, const void *bytes, size_t size);
ssize_t sysfail_write(int fd, const void *bytes, size_t size)
{
    int way = way_of(is_file(fd) ? F_WRITE : F_WRITE_EVENT);
    if (way == NONE || way == SHORT)
        return write(fd, bytes, part_of(way, size));
    errno = way;
    return -1;
}

ssize_t sysfail_pread(int fd, void *bytes, size_t size, off_t at);
ssize_t sysfail_pread(int fd, void *bytes, size_t size, off_t at)
{
    int way = way_of(F_PREAD);
    if (way == NONE || way == SHORT)
        return pread(fd, bytes, part_of(way, size), at);
    if (way == END)
        return 0;
    errno = way;
    return -1;
}

int sysfail_open(const char *path, int flags, ...);
int sysfail_open(const char *path, int flags, ...)
{
    va_list list;
    va_start(list, flags);
    mode_t mode = flags & O_CREAT ? va_arg(list, mode_t) : 0;
    va_end(list);
    FAIL_AS(F_OPEN);
    return open(path, flags, mode);
}

FILE *sysfail_fopen(const char *path, const char *mode);
FILE *sysfail_fopen(const char *path, const char *mode)
{
    int way = way_of(F_FOPEN);
    if (way == NONE)
        return fopen(path, mode);
    errno = way;
    return NULL;
}

int sysfail_fstat(int fd, struct stat *st);
int sysfail_fstat(int fd, struct stat *st)
{
    FAIL_AS(F_FSTAT);
    return fstat(fd, st);
}

int sysfail_stat(const char *path, struct stat *st);
int sysfail_stat(const char *path, struct stat *st)
{
    FAIL_AS(F_STAT);
    return stat(path, st);
}

int sysfail_flock(int fd, int operation);
int sysfail_flock(int fd, int operation)
{
    FAIL_AS(F_FLOCK);
    return flock(fd, operation);
}

int sysfail_ftruncate(int fd, off_t size);
int sysfail_ftruncate(int fd, off_t size)
{
    FAIL_AS(F_FTRUNCATE);
    return ftruncate(fd, size);
}

off_t sysfail_lseek(int fd, off_t at, int whence);
off_t sysfail_lseek(int fd, off_t at, int whence)
{
    FAIL_AS(F_LSEEK);
    return lseek(fd, at, whence);
}

int sysfail_fdatasync(int fd);
int sysfail_fdatasync(int fd)
{
    FAIL_AS(F_FDATASYNC);
    return fdatasync(fd);
}

int sysfail_fsync(int fd);
int sysfail_fsync(int fd)
{
    FAIL_AS(F_FSYNC);
    return fsync(fd);
}

int sysfail_rename(const char *from, const char *to);
int sysfail_rename(const char *from, const char *to)
{
    FAIL_AS(F_RENAME);
    return rename(from, to);
}

int sysfail_unlink(const char *path);
int sysfail_unlink(const char *path)
{
    FAIL_AS(F_UNLINK);
    return unlink(path);
}

int sysfail_close(int fd);
int sysfail_close(int fd)
{
    int way = way_of(F_CLOSE), result = close(fd);
    if (way == NONE)
        return result;
    errno = way;
    return -1;
}

int sysfail_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **ret);
int sysfail_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **ret)
{
    int way = way_of(F_GETADDRINFO);
    return way == NONE ? getaddrinfo(node, service, hints, ret) : way;
}

int sysfail_getsockopt(int fd, int level, int name, void *value, socklen_t *size);
int sysfail_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    FAIL_AS(F_GETSOCKOPT);
    return getsockopt(fd, level, name, value, size);
}

int sysfail_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
int sysfail_setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    FAIL_AS(F_SETSOCKOPT);
    return setsockopt(fd, level, name, value, size);
}

int sysfail_getsockname(int fd, struct sockaddr *address, socklen_t *size);
int sysfail_getsockname(int fd, struct sockaddr *address, socklen_t *size)
{
    FAIL_AS(F_GETSOCKNAME);
    return getsockname(fd, address, size);
}

int sysfail_getpeername(int fd, struct sockaddr *address, socklen_t *size);
int sysfail_getpeername(int fd, struct sockaddr *address, socklen_t *size)
{
    FAIL_AS(F_GETPEERNAME);
    return getpeername(fd, address, size);
}

int sysfail_shutdown(int fd, int how);
int sysfail_shutdown(int fd, int how)
{
    FAIL_AS(F_SHUTDOWN);
    return shutdown(fd, how);
}

void *sysfail_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
void *sysfail_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    int way = way_of(F_MMAP);
    if (way == NONE)
        return mmap(at, size, protection, flags, fd, offset);
    errno = way;
    return MAP_FAILED;
}

int sysfail_madvise(void *at, size_t size, int advice);
int sysfail_madvise(void *at, size_t size, int advice)
{
    FAIL_AS(F_MADVISE);
    return madvise(at, size, advice);
}

ssize_t sysfail_getrandom(void *bytes, size_t size, unsigned flags);
ssize_t sysfail_getrandom(void *bytes, size_t size, unsigned flags)
{
    int way = way_of(F_GETRANDOM);
    if (way == NONE || way == SHORT)
        return getrandom(bytes, part_of(way, size), flags);
    errno = way;
    return -1;
}

int sysfail_nanosleep(const struct timespec *wish, struct timespec *left);
int sysfail_nanosleep(const struct timespec *wish, struct timespec *left)
{
    FAIL_AS(F_NANOSLEEP);
    return nanosleep(wish, left);
}

int sysfail_clock_getres(clockid_t id, struct timespec *ret);
int sysfail_clock_getres(clockid_t id, struct timespec *ret)
{
    FAIL_AS(F_CLOCK_GETRES);
    return clock_getres(id, ret);
}

/* Only waiting on a futex can fail. */
long sysfail_syscall(long number, ...);
long sysfail_syscall(long number, ...)
{
    long argument[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        argument[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_futex && (argument[1] & FUTEX_CMD_MASK) == FUTEX_WAIT) {
        int way = way_of(F_FUTEX_WAIT);
        if (way != NONE) {
            errno = way;
            return -1;
        }
    }
    return syscall(number, argument[0], argument[1], argument[2], argument[3], argument[4], argument[5]);
}

int sysfail_pthread_create(pthread_t *ret, const pthread_attr_t *attributes, void *(*main)(void *), void *arg);
int sysfail_pthread_create(pthread_t *ret, const pthread_attr_t *attributes, void *(*main)(void *), void *arg)
{
    int way = way_of(F_THREAD_CREATE);
    return way == NONE ? pthread_create(ret, attributes, main, arg) : way;
}

int sysfail_pthread_setname_np(pthread_t thread, const char *name);
int sysfail_pthread_setname_np(pthread_t thread, const char *name)
{
    int way = way_of(F_THREAD_NAME);
    return way == NONE ? pthread_setname_np(thread, name) : way;
}

int sysfail_pthread_key_create(pthread_key_t *ret, void (*destroy)(void *));
int sysfail_pthread_key_create(pthread_key_t *ret, void (*destroy)(void *))
{
    int way = way_of(F_KEY_CREATE);
    return way == NONE ? pthread_key_create(ret, destroy) : way;
}

int sysfail_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);
int sysfail_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
    return way_of(F_COND_WAIT) == NONE ? pthread_cond_wait(cond, mutex) : 0;
}

int sysfail_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until);
int sysfail_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until)
{
    return way_of(F_COND_TIMEDWAIT) == NONE ? pthread_cond_timedwait(cond, mutex, until) : 0;
}

int sysfail_pthread_mutex_trylock(pthread_mutex_t *mutex);
int sysfail_pthread_mutex_trylock(pthread_mutex_t *mutex)
{
    int way = way_of(F_TRYLOCK);
    return way == NONE ? pthread_mutex_trylock(mutex) : way;
}

/* What these are called where off_t could be smaller. */
#define ALSO_64(name) extern __typeof__(sysfail_##name) sysfail_##name##64 __attribute__((alias("sysfail_" #name)))
ALSO_64(mmap);
ALSO_64(pread);
ALSO_64(open);
ALSO_64(fopen);
ALSO_64(fstat);
ALSO_64(stat);
ALSO_64(ftruncate);
ALSO_64(lseek);
