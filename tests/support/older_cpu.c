/* Makes a process see an x86 CPU that has AVX2 and nothing newer, to be loaded with LD_PRELOAD.
 *
 * CPUID is made to fault (arch_prctl ARCH_SET_CPUID, CPUs since 2012, KVM too); the handler executes it and clears the
 * bits of what came after AVX2. A fork inherits the setting, and a program that is executed loads this library again.
 * Handlers that the program installs for SIGSEGV (Python's faulthandler) are kept and called for every other fault. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012

static struct sigaction theirs;
static int (*real_sigaction)(int, const struct sigaction *, struct sigaction *);

static void mask(unsigned leaf, unsigned subleaf, greg_t *r)
{
    unsigned a, b, c, d;
    __cpuid_count(leaf, subleaf, a, b, c, d);
    if (leaf == 7 && subleaf == 0) {
        b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31); /* AVX512 */
        c &= ~(1u << 1 | 1u << 6 | 1u << 8 | 1u << 9 | 1u << 10 | 1u << 11 | 1u << 12 | 1u << 14); /* its VBMI … VNNI */
        d &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25); /* AMX, FP16 */
    } else if (leaf == 7) {
        a = b = c = d = 0; /* AVX-VNNI, AVX512_BF16 and later */
    } else if (leaf == 0x1d || leaf == 0x1e || leaf == 0x24) {
        a = b = c = d = 0; /* tiles; AVX10 */
    }
    r[REG_RAX] = a;
    r[REG_RBX] = b;
    r[REG_RCX] = c;
    r[REG_RDX] = d;
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *instruction = (const unsigned char *)r[REG_RIP];
    if (info->si_code == SI_KERNEL && instruction[0] == 0x0f && instruction[1] == 0xa2) {
        syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
        mask((unsigned)r[REG_RAX], (unsigned)r[REG_RCX], r);
        syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
        r[REG_RIP] += 2;
        return;
    }
    if (theirs.sa_flags & SA_SIGINFO && theirs.sa_sigaction) {
        theirs.sa_sigaction(number, info, context);
    } else if (theirs.sa_handler != SIG_DFL && theirs.sa_handler != SIG_IGN) {
        theirs.sa_handler(number);
    } else { /* comes again, and ends the process */
        struct sigaction plain = {.sa_handler = SIG_DFL};
        real_sigaction(SIGSEGV, &plain, NULL);
    }
}

static void resolve(void)
{
    if (!real_sigaction)
        real_sigaction = (int (*)(int, const struct sigaction *, struct sigaction *))dlsym(RTLD_NEXT, "sigaction");
}

int sigaction(int number, const struct sigaction *new, struct sigaction *old)
{
    resolve();
    if (number != SIGSEGV)
        return real_sigaction(number, new, old);
    if (old)
        *old = theirs;
    if (new)
        theirs = *new;
    return 0;
}

__attribute__((constructor)) static void begin(void)
{
    struct sigaction ours = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    resolve();
    if (real_sigaction(SIGSEGV, &ours, NULL) || syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) {
        perror("CPUID cannot be masked here");
        _exit(125);
    }
}
