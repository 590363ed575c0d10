#include "comm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/mem.h"

#define PREFIX_BYTES 4096 /* before the base: the count of users between threads */

struct segment {
    char *map;
    size_t bytes; /* of the mapping, prefix included */
    int fd;       /* -1 between threads */
    char name[64];
};

static status map_fd(segment *s)
{
    void *p = mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
    if (p == MAP_FAILED)
        return FAIL(ST_NO_MEMORY, "mapping %zu bytes of shared memory: %s", s->bytes, strerror(errno));
    s->map = p;
    return ST_OK;
}

static status no_room(size_t bytes, int error)
{
    return FAIL(ST_NO_MEMORY,
                "shared memory: no room for %.1f MiB (%s); enlarge /dev/shm (docker: --shm-size) or the memory limit, or "
                "use fewer batched tokens",
                (double)bytes / 1048576.0, strerror(error));
}

/* A memfd is not bounded by the size of /dev/shm; peers open it through /proc. */
static status open_memfd(segment *s)
{
    s->fd = memfd_create("trireme", MFD_CLOEXEC);
    if (s->fd < 0)
        return FAIL(ST_NO_MEMORY, "memfd_create: %s", strerror(errno));
    snprintf(s->name, sizeof(s->name), "/proc/%ld/fd/%d", (long)getpid(), s->fd);
    if (ftruncate(s->fd, (off_t)s->bytes) != 0)
        return no_room(s->bytes, errno);
    return ST_OK;
}

static status open_new(segment *s, size_t wanted)
{
    uint64_t salt = 0;
    if (getrandom(&salt, sizeof(salt), 0) != (ssize_t)sizeof(salt))
        salt = (uint64_t)getpid();
    snprintf(s->name, sizeof(s->name), "/trireme-%ld-%016llx", (long)getpid(), (unsigned long long)salt);
    s->fd = shm_open(s->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (s->fd < 0)
        return open_memfd(s);
    struct statvfs vfs;
    if (fstatvfs(s->fd, &vfs) == 0 && (uint64_t)vfs.f_bavail * vfs.f_frsize > wanted && ftruncate(s->fd, (off_t)s->bytes) == 0)
        return ST_OK;
    shm_unlink(s->name);
    close(s->fd);
    return open_memfd(s);
}

status segment_create(size_t bytes, size_t wanted, bool processes, segment **out)
{
    status st;
    segment *s = NULL;
    TRY(mem_calloc(1, sizeof(*s), "shared memory", &s));
    s->fd = -1;
    s->bytes = mem_align(bytes, PREFIX_BYTES) + PREFIX_BYTES;
    if (processes) {
        TRY_GOTO(open_new(s, wanted), err);
        TRY_GOTO(map_fd(s), err);
    } else {
        void *p = mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) {
            st = FAIL(ST_NO_MEMORY, "mapping %zu bytes: %s", s->bytes, strerror(errno));
            goto err;
        }
        s->map = p;
        atomic_store((atomic_int *)s->map, 1);
    }
    *out = s;
    return ST_OK;
err:
    segment_close(&s);
    return st;
}

void segment_handle_get(const segment *s, segment_handle *out)
{
    memset(out, 0, sizeof(*out));
    out->bytes = s->bytes;
    out->address = s->fd < 0 ? (uint64_t)(uintptr_t)s->map : 0;
    snprintf(out->name, sizeof(out->name), "%s", s->name);
}

status segment_attach(const segment_handle *handle, segment **out)
{
    status st;
    segment *s = NULL;
    TRY(mem_calloc(1, sizeof(*s), "shared memory", &s));
    s->bytes = (size_t)handle->bytes;
    s->fd = -1;
    if (handle->address != 0) {
        s->map = (char *)(uintptr_t)handle->address;
        atomic_fetch_add((atomic_int *)s->map, 1);
        *out = s;
        return ST_OK;
    }
    bool memfd = strncmp(handle->name, "/proc/", 6) == 0;
    s->fd = memfd ? open(handle->name, O_RDWR | O_CLOEXEC) : shm_open(handle->name, O_RDWR | O_CLOEXEC, 0600);
    if (s->fd < 0) {
        st = FAIL(ST_IO, "shared memory %s: %s; do all ranks of this host share /dev/shm%s?", handle->name, strerror(errno),
                  memfd ? " and the process table" : "");
        goto err;
    }
    TRY_GOTO(map_fd(s), err);
    *out = s;
    return ST_OK;
err:
    segment_close(&s);
    return st;
}

void segment_unlink(segment *s)
{
    if (s->fd >= 0 && s->name[0] != '\0' && strncmp(s->name, "/proc/", 6) != 0)
        shm_unlink(s->name);
    s->name[0] = '\0';
}

void segment_close(segment **segment_)
{
    segment *s = *segment_;
    if (s == NULL)
        return;
    *segment_ = NULL;
    segment_unlink(s);
    if (s->map != NULL && (s->fd >= 0 || atomic_fetch_sub((atomic_int *)s->map, 1) == 1))
        munmap(s->map, s->bytes);
    if (s->fd >= 0)
        close(s->fd);
    free(s);
}

char *segment_base(const segment *s)
{
    return s->map + PREFIX_BYTES;
}

status segment_commit(segment *s, size_t offset, size_t bytes)
{
    if (s->fd < 0 || bytes == 0)
        return ST_OK;
    int error = posix_fallocate(s->fd, (off_t)(offset + PREFIX_BYTES), (off_t)bytes);
    return error == 0 ? ST_OK : no_room(bytes, error);
}

/* The byte's own offset in the object, beyond its end so that it stands for nothing else. */
static struct flock lock_of(const segment *s, int index)
{
    return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)s->bytes + index, .l_len = 1};
}

status segment_mark_alive(segment *s, int index)
{
    if (s->fd < 0)
        return ST_OK;
    struct flock lock = lock_of(s, index);
    if (fcntl(s->fd, F_SETLK, &lock) != 0)
        return FAIL(ST_IO, "locking shared memory: %s", strerror(errno));
    return ST_OK;
}

bool segment_is_alive(const segment *s, int index)
{
    if (s->fd < 0)
        return true;
    struct flock lock = lock_of(s, index);
    return fcntl(s->fd, F_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}
