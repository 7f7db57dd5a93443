/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The child stops itself before and after the traced function; in between the parent steps it with ptrace and looks at
 * the bytes at each instruction pointer.  Only what really runs is judged: a fence in a branch that is not taken does
 * not count. x86-64 only; elsewhere the caller skips. */
#include "promises/hit_trace.h"

#if defined(__x86_64__)
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define STEPS_MAX 2000000

static _Noreturn void run_child(void (*prepare)(void *), void (*traced)(void *), void *arg)
{
    prepare(arg);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        _exit(77);
    raise(SIGUSR1);
    traced(arg);
    raise(SIGUSR2);
    _exit(0);
}

/* The opcode behind the prefixes. */
static void judge(const unsigned char *code, const struct user_regs_struct *registers, struct hit_trace *trace)
{
    int locked = 0, i = 0;
    for (; i < 12; i++) {
        unsigned char c = code[i];
        locked |= c == 0xf0;
        if (c != 0xf0 && c != 0xf2 && c != 0xf3 && c != 0x66 && c != 0x67 && c != 0x2e && c != 0x36 && c != 0x3e &&
            c != 0x26 && c != 0x64 && c != 0x65)
            break;
    }
    if ((code[i] & 0xf0) == 0x40)
        i++;
    int exchange = (code[i] == 0x86 || code[i] == 0x87) && (code[i + 1] & 0xc0) != 0xc0;
    int call =
        (code[i] == 0x0f && (code[i + 1] == 0x05 || code[i + 1] == 0x34)) || (code[i] == 0xcd && code[i + 1] == 0x80);
    trace->locked += locked || exchange;
    trace->system_calls += call;
    trace->clock_calls += call && registers->rax == SYS_clock_gettime;
    if ((locked || exchange || call) && !trace->first_bad)
        trace->first_bad = registers->rip;
}

static int peek_code(pid_t child, uint64_t address, unsigned char code[24])
{
    for (int i = 0; i < 3; i++) {
        errno = 0;
        long word = ptrace(PTRACE_PEEKTEXT, child, (void *)(address + 8 * (unsigned)i), NULL);
        if (errno)
            word = 0; /* the instruction ends before the page does */
        memcpy(code + 8 * i, &word, 8);
    }
    return 0;
}

static int step_until_end(pid_t child, struct hit_trace *trace)
{
    int status;
    for (uint64_t steps = 0; steps < STEPS_MAX; steps++) {
        struct user_regs_struct registers;
        unsigned char code[24];
        if (ptrace(PTRACE_GETREGS, child, NULL, &registers) != 0)
            return -2;
        peek_code(child, registers.rip, code);
        judge(code, &registers, trace);
        trace->instructions++;
        if (ptrace(PTRACE_SINGLESTEP, child, NULL, 0) != 0 || waitpid(child, &status, 0) < 0 || !WIFSTOPPED(status))
            return -2;
        if (WSTOPSIG(status) == SIGUSR2)
            return 0;
    }
    return -2;
}

/* The frames of raise() before and after are the harness's, not the hit's: counted once with an empty function and
 * taken off. */
static int trace_once(void (*prepare)(void *), void (*traced)(void *), void *arg, struct hit_trace *trace)
{
    memset(trace, 0, sizeof(*trace));
    pid_t child = fork();
    if (child < 0)
        return -1;
    if (child == 0)
        run_child(prepare, traced, arg);
    int status, result = -2;
    if (waitpid(child, &status, 0) == child) {
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
            return -1;
        if (WIFSTOPPED(status) && WSTOPSIG(status) == SIGUSR1)
            result = step_until_end(child, trace);
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return result;
}

static void nothing(void *arg)
{
    (void)arg;
}

int hit_trace(void (*prepare)(void *arg), void (*traced)(void *arg), void *arg, struct hit_trace *ret)
{
    struct hit_trace harness;
    int result = trace_once(prepare, nothing, arg, &harness);
    if (result == 0)
        result = trace_once(prepare, traced, arg, ret);
    if (result != 0)
        return result;
    int clean = ret->locked == harness.locked && ret->system_calls == harness.system_calls;
    ret->instructions -= harness.instructions;
    ret->locked -= harness.locked;
    ret->system_calls -= harness.system_calls;
    if (clean)
        ret->first_bad = 0;
    return 0;
}
#else
int hit_trace(void (*prepare)(void *arg), void (*traced)(void *arg), void *arg, struct hit_trace *ret)
{
    (void)prepare, (void)traced, (void)arg, (void)ret;
    return -1;
}
#endif
