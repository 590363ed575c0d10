#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"

status file_read_all(const char *path, size_t limit, char **data, size_t *len)
{
    status st;
    struct stat sb;
    char *buf = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return FAIL(errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s: %s", path, strerror(errno));
    if (fstat(fd, &sb) != 0 || !S_ISREG(sb.st_mode)) {
        st = FAIL(ST_IO, "%s: not a regular file", path);
        goto done;
    }
    if ((uint64_t)sb.st_size > limit) {
        st = FAIL(ST_LIMIT, "%s: %lld bytes, more than the %zu this kind of file may have", path, (long long)sb.st_size,
                  limit);
        goto done;
    }
    TRY_GOTO(mem_calloc((size_t)sb.st_size + 1, 1, path, &buf), done);
    TRY_GOTO(file_read_at(fd, path, 0, buf, (size_t)sb.st_size), done);
    *data = buf;
    *len = (size_t)sb.st_size;
    buf = NULL;
done:
    free(buf);
    close(fd);
    return st;
}

status file_read_at(int fd, const char *path, uint64_t offset, void *dst, size_t n)
{
    char *p = dst;
    size_t left = n;
    while (left > 0) {
        ssize_t got = pread(fd, p, left > ((size_t)1 << 30) ? (size_t)1 << 30 : left, (off_t)(offset + (n - left)));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return FAIL(ST_IO, "%s: reading %zu bytes at %llu: %s", path, n, (unsigned long long)offset, strerror(errno));
        if (got == 0)
            return FAIL(ST_FORMAT,
                        "%s: file ends at %llu, %zu bytes short of what its header promises; it is truncated or was "
                        "changed while being read: fetch it again",
                        path, (unsigned long long)(offset + (n - left)), left);
        p += got;
        left -= (size_t)got;
    }
    return ST_OK;
}

status file_write_at(int fd, const char *path, uint64_t offset, const void *src, size_t n)
{
    const char *p = src;
    size_t left = n;
    while (left > 0) {
        ssize_t put = pwrite(fd, p, left > ((size_t)1 << 30) ? (size_t)1 << 30 : left, (off_t)(offset + (n - left)));
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return FAIL(ST_IO, "%s: writing %zu bytes at %llu: %s", path, n, (unsigned long long)offset,
                        put == 0 ? "nothing was written" : strerror(errno));
        p += put;
        left -= (size_t)put;
    }
    return ST_OK;
}

status file_write_all(const char *path, const void *data, size_t len, unsigned mode)
{
    status st;
    char *tmp = NULL;
    if (asprintf(&tmp, "%s.tmp.%ld", path, (long)getpid()) < 0)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", path);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, (mode_t)mode);
    if (fd < 0) {
        st = FAIL(ST_IO, "%s: %s", tmp, strerror(errno));
        goto err_free;
    }
    TRY_GOTO(file_write_at(fd, tmp, 0, data, len), err_close);
    if (fsync(fd) != 0) {
        st = FAIL(ST_IO, "%s: %s", tmp, strerror(errno));
        goto err_close;
    }
    close(fd);
    fd = -1;
    if (rename(tmp, path) != 0) {
        st = FAIL(ST_IO, "%s: %s", path, strerror(errno));
        goto err_close;
    }
    free(tmp);
    return ST_OK;
err_close:
    if (fd >= 0)
        close(fd);
    unlink(tmp);
err_free:
    free(tmp);
    return st;
}

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

bool file_is_dir(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
}

status file_make_dirs(const char *path)
{
    char *copy = strdup(path);
    if (copy == NULL)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", path);
    for (char *p = copy + 1;; p++) {
        bool end = *p == '\0';
        if (*p != '/' && !end)
            continue;
        *p = '\0';
        if (mkdir(copy, 0777) != 0 && errno != EEXIST) {
            status st = FAIL(ST_IO, "%s: cannot create the folder: %s", copy, strerror(errno));
            free(copy);
            return st;
        }
        if (end)
            break;
        *p = '/';
    }
    free(copy);
    return ST_OK;
}

char *file_join(const char *dir, const char *name)
{
    size_t n = strlen(dir);
    char *out = NULL;
    if (asprintf(&out, "%s%s%s", dir, n > 0 && dir[n - 1] == '/' ? "" : "/", name) < 0)
        return NULL;
    return out;
}

status file_lock(const char *path, int timeout_ms, int *fd)
{
    int f = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (f < 0)
        return FAIL(ST_IO, "%s: %s", path, strerror(errno));
    double deadline = log_clock() + timeout_ms * 1e-3;
    while (flock(f, LOCK_EX | LOCK_NB) != 0) {
        if ((errno != EWOULDBLOCK && errno != EINTR) || log_clock() > deadline) {
            status st = errno == EWOULDBLOCK ? FAIL(ST_TIMEOUT, "%s: still locked by another process after %d ms", path,
                                                    timeout_ms)
                                             : FAIL(ST_IO, "%s: lock: %s", path, strerror(errno));
            close(f);
            return st;
        }
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    *fd = f;
    return ST_OK;
}

void file_unlock(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

bool file_value(const char *path, const char *key, char *out, size_t size)
{
    FILE *f = fopen(path, "re");
    char *line = NULL;
    size_t cap = 0;
    bool found = false;
    out[0] = '\0';
    while (f != NULL && !found && getline(&line, &cap, f) > 0) {
        char *colon = strchr(line, ':');
        found = colon != NULL && strncmp(line, key, strlen(key)) == 0;
        if (!found)
            continue;
        colon += 1 + strspn(colon + 1, " \t");
        snprintf(out, size, "%.*s", (int)strcspn(colon, "\n"), colon);
    }
    free(line);
    if (f != NULL)
        fclose(f);
    return found;
}
