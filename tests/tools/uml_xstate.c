/* Preloaded into Debian's linux.uml (6.1) so that it runs on processors whose extended state is larger than the 2696 bytes it
 * knows, as those with AMX: the kernel refuses PTRACE_SETREGSET of less than the whole. What is short gets zeros behind; the
 * header, which the guest's kernel does know, says that they are not in use. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef NT_X86_XSTATE
#define NT_X86_XSTATE 0x202
#endif

static char whole[1 << 16] __attribute__((aligned(64)));
static size_t size;

static long regset(long request, long pid, struct iovec *vector)
{
    return syscall(SYS_ptrace, request, pid, (long)NT_X86_XSTATE, vector);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list rest;
    va_start(rest, request);
    long pid = va_arg(rest, int), address = va_arg(rest, long), data = va_arg(rest, long), peeked = 0;
    va_end(rest);
    if (request == PTRACE_SETREGSET && address == NT_X86_XSTATE) {
        struct iovec *given = (struct iovec *)data, all = {whole, sizeof whole};
        if (size == 0 && regset(PTRACE_GETREGSET, pid, &all) == 0) {
            size = all.iov_len;
            memset(whole, 0, sizeof whole);
        }
        if (given->iov_len < size) {
            all.iov_len = size;
            memcpy(whole, given->iov_base, given->iov_len);
            return regset(request, pid, &all);
        }
    }
    /* As libc: what is peeked is the result. */
    if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
        if (syscall(SYS_ptrace, (long)request, pid, address, &peeked) < 0)
            return -1;
        errno = 0;
        return peeked;
    }
    return syscall(SYS_ptrace, (long)request, pid, address, data);
}
