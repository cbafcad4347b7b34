/* Counts the calls of this process that change files below a folder; at one of them the process dies, in the middle of
 * it where it is a write, or the disk is full from there on. Loaded by LD_PRELOAD, armed by `faults_arm`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static long calls, at;
static char *folder;
static int full;

/* From now on count what changes files below `below`, and at the `when`-th (never: 0) die, or have the disk full. */
void faults_arm(const char *below, long when, int disk_full) {
    folder = strdup(below);
    at = when;
    full = disk_full;
    calls = 0;
}

long faults_calls(void) { return __atomic_load_n(&calls, __ATOMIC_SEQ_CST); }

static int below(const char *path) {
    char whole[8192] = "";
    if (!folder || !path) return 0;
    if (*path != '/' && getcwd(whole, sizeof whole / 2)) strcat(whole, "/");
    strncat(whole, path, sizeof whole / 2);
    return !strncmp(whole, folder, strlen(folder));
}

static int below_fd(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0 && *path == '/' && below(path);
}

/* Whether the fault is now: it is told to die, or that the disk is full. */
static int due(void) {
    long now = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    return at > 0 && (full ? now >= at : now == at);
}

static void die(void) { kill(getpid(), SIGKILL), pause(); }

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define CHANGE(path)             \
    if (below(path) && due()) {  \
        if (!full) die();        \
    }

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    if (size && below_fd(fd) && due()) {
        if (!full) real(fd, data, size / 2), die();
        errno = ENOSPC;
        return -1;
    }
    return real(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    if (below_fd(fd) && due()) {
        if (!full) real(fd, parts, count / 2), die();
        errno = ENOSPC;
        return -1;
    }
    return real(fd, parts, count);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t place) {
    REAL(pwrite64);
    if (below_fd(fd) && due()) {
        if (!full) real(fd, data, size / 2, place), die();
        errno = ENOSPC;
        return -1;
    }
    return real(fd, data, size, place);
}

#define OPEN(name)                                                         \
    int name(const char *path, int flags, ...) {                           \
        REAL(name);                                                        \
        va_list more;                                                      \
        va_start(more, flags);                                             \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0; \
        va_end(more);                                                      \
        if (flags & (O_CREAT | O_TRUNC)) CHANGE(path)                      \
        return real(path, flags, mode);                                    \
    }
OPEN(open)
OPEN(open64)

int openat(int at_fd, const char *path, int flags, ...) {
    REAL(openat);
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0;
    va_end(more);
    if (flags & (O_CREAT | O_TRUNC)) CHANGE(path)
    return real(at_fd, path, flags, mode);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    CHANGE(to)
    return real(from, to);
}

int renameat(int one, const char *from, int two, const char *to) {
    REAL(renameat);
    CHANGE(to)
    return real(one, from, two, to);
}

int renameat2(int one, const char *from, int two, const char *to, unsigned flags) {
    REAL(renameat2);
    CHANGE(to)
    return real(one, from, two, to, flags);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    CHANGE(path)
    return real(path, mode);
}

int unlink(const char *path) {
    REAL(unlink);
    CHANGE(path)
    return real(path);
}

int unlinkat(int place, const char *path, int flags) {
    REAL(unlinkat);
    if (below_fd(place) && due() && !full) die();
    return real(place, path, flags);
}

int rmdir(const char *path) {
    REAL(rmdir);
    CHANGE(path)
    return real(path);
}

int fsync(int fd) {
    REAL(fsync);
    if (below_fd(fd) && due() && !full) die();
    return real(fd);
}
