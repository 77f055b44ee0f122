/* Moves a process's wall clock by the seconds that a file holds (8 bytes, little endian), to be loaded with LD_PRELOAD.
 * The file is mapped: who writes it moves the clock of the running process. Monotonic clocks stay as they are. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *moved_s;

static int64_t moved(void)
{
    if (!moved_s) {
        int file = open(getenv("EMBEDMILL_TEST_CLOCK"), O_RDONLY | O_CLOEXEC);
        void *found = mmap(NULL, sizeof *moved_s, PROT_READ, MAP_SHARED, file, 0);
        close(file);
        if (found == MAP_FAILED)
            abort();
        moved_s = found;
    }
    return *moved_s;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += moved();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone)
{
    int failed = (int)syscall(SYS_gettimeofday, now, zone);
    if (!failed)
        now->tv_sec += moved();
    return failed;
}

time_t time(time_t *now)
{
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now)
        *now = found.tv_sec;
    return found.tv_sec;
}
