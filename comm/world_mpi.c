/* comm/world_mpi.c - a world of MPI ranks: loads the plugin, learns who shares a host, makes each host's shared block. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "comm/comm_internal.h"

#define PLUGIN "comm_mpi.so"
#define START_TIMEOUT_MS 120000

/* What each rank tells all others first. */
typedef struct boot_record {
    uint64_t host[2];  /* equal: they can share memory */
    uint64_t machine;  /* equal: they share cores */
    cpu_set_t cores;
} boot_record;

typedef struct boot_segment {
    int32_t st;
    segment_handle handle;
    char text[512];
} boot_segment;

static status load_from(const char *dir, const char *below, void **handle, mem_str *tried)
{
    char path[PATH_MAX];
    if ((size_t)snprintf(path, sizeof(path), "%s%s/" PLUGIN, dir, below) >= sizeof(path) || !file_exists(path)) {
        mem_str_printf(tried, "%s%s%s", tried->len > 0 ? ", " : "", dir, below);
        return ST_NOT_FOUND;
    }
    *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (*handle == NULL)
        return FAIL(ST_NOT_FOUND, "%s does not load: %s; is the MPI library it was built with installed?", path, dlerror());
    return ST_OK;
}

/* TRIREME_PLUGIN_DIR if set, else beside the program, else ../lib/trireme from there. */
static status load_plugin(void **handle)
{
    static const char *const below[] = {"", "/../lib/trireme"};
    char dir[PATH_MAX];
    mem_str tried = {0};
    const char *given = getenv("TRIREME_PLUGIN_DIR");
    *handle = NULL;
    status st = ST_NOT_FOUND;
    ssize_t n = readlink("/proc/self/exe", dir, sizeof(dir) - 1);
    if (given != NULL && *given != '\0') {
        st = load_from(given, "", handle, &tried);
    } else if (n > 0) {
        dir[n] = '\0';
        char *program = dirname(dir);
        for (size_t i = 0; i < ARRAY_LEN(below) && *handle == NULL; i++)
            st = load_from(program, below[i], handle, &tried);
    }
    if (st != ST_OK && tried.len > 0)
        FAIL(st, "no " PLUGIN " in %s: this build has no MPI, or TRIREME_PLUGIN_DIR should name its folder", tried.failed ? "?" : tried.data);
    mem_str_free(&tried);
    return st;
}

static void read_line(const char *path, char *out, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, out, size - 1);
    out[n > 0 ? n : 0] = '\0';
    if (fd >= 0)
        close(fd);
}

/* Ranks share memory if they see the same kernel, host name and /dev/shm. */
static void describe(boot_record *b)
{
    char text[512] = {0}, boot_id[64], name[256] = {0};
    struct stat shm = {0};
    memset(b, 0, sizeof(*b));
    read_line("/proc/sys/kernel/random/boot_id", boot_id, sizeof(boot_id));
    gethostname(name, sizeof(name) - 1);
    stat("/dev/shm", &shm);
    int n = snprintf(text, sizeof(text), "%s|%s|%llu", boot_id, name, (unsigned long long)shm.st_dev);
    b->host[0] = hash_fast(text, (size_t)n, 1);
    b->machine = hash_fast(boot_id, strlen(boot_id), 2);
    if (sched_getaffinity(0, sizeof(b->cores), &b->cores) != 0)
        CPU_ZERO(&b->cores);
}

static status boot_failed(const comm_world *w, status st)
{
    return FAIL(st, "start-up over %s: %s", w->ops->name, w->ops->error(w->wire));
}

/* Everyone tells its part; each host's first rank then makes the shared block, and all attach. */
static status share_host(comm_world *w, int timeout_ms)
{
    status st;
    boot_segment mine = {0}, *all = NULL;
    TRY(mem_calloc((size_t)w->size, sizeof(*all), "start-up", &all));
    int first = w->first_of_host[w->my_host];
    if (first == w->rank) {
        mine.st = segment_create(world_segment_bytes(w), host_shared_bytes(w->host.size), w->host.size > 1, &w->host.segment);
        if (mine.st == ST_OK)
            mine.st = segment_commit(w->host.segment, 0, host_shared_bytes(w->host.size));
        if (mine.st == ST_OK)
            segment_handle_get(w->host.segment, &mine.handle);
    }
    snprintf(mine.text, sizeof(mine.text), "%s", mine.st == ST_OK ? "" : status_message());
    st = w->ops->gather_all(w->wire, &mine, sizeof(mine), all, timeout_ms);
    if (st != ST_OK) {
        st = boot_failed(w, st);
        goto done;
    }
    mine.st = all[first].st;
    if (mine.st == ST_OK && first != w->rank)
        mine.st = segment_attach(&all[first].handle, &w->host.segment);
    w->host.processes = w->host.size > 1;
    if (mine.st == ST_OK)
        mine.st = world_join(w);
    snprintf(mine.text, sizeof(mine.text), "%s", mine.st == ST_OK ? "" : status_message());
    st = w->ops->gather_all(w->wire, &mine, sizeof(mine), all, timeout_ms);
    if (st != ST_OK)
        st = boot_failed(w, st);
    for (int r = 0; st == ST_OK && r < w->size; r++) {
        st = (status)all[r].st;
        if (st != ST_OK)
            status_message_set(all[r].text);
    }
    if (w->host.segment != NULL)
        segment_unlink(w->host.segment);
done:
    free(all);
    return st;
}

static status boot(comm_world *w, int timeout_ms)
{
    status st;
    boot_record mine, *all = NULL;
    uint64_t(*key)[2] = NULL;
    describe(&mine);
    TRY(mem_calloc((size_t)w->size, sizeof(*all), "start-up", &all));
    TRY_GOTO(mem_calloc((size_t)w->size, sizeof(*key), "start-up", &key), done);
    st = w->ops->gather_all(w->wire, &mine, sizeof(mine), all, timeout_ms);
    if (st != ST_OK) {
        st = boot_failed(w, st);
        goto done;
    }
    int on_machine = 0;
    cpu_set_t cores;
    CPU_ZERO(&cores);
    for (int r = 0; r < w->size; r++) {
        memcpy(key[r], all[r].host, sizeof(key[r]));
        if (all[r].machine != mine.machine)
            continue;
        on_machine++;
        CPU_OR(&cores, &cores, &all[r].cores);
    }
    w->spin = CPU_COUNT(&cores) >= on_machine;
    TRY_GOTO(world_test_hosts(w->size, key), done);
    TRY_GOTO(world_set_hosts(w, (const uint64_t (*)[2])key), done);
    st = share_host(w, timeout_ms);
done:
    free(key);
    free(all);
    return st;
}

status comm_world_mpi(int timeout_ms, comm_world **out)
{
    timeout_ms = timeout_ms > 0 ? timeout_ms : START_TIMEOUT_MS;
    void *handle;
    int launched, launched_rank, rank = 0, size = 1;
    char error[2048] = ""; /* may name many ranks */
    comm_wire *wire = NULL;
    *out = NULL;
    TRY(load_plugin(&handle));
    const comm_wire_ops *ops = dlsym(handle, "comm_mpi_wire");
    if (ops == NULL || ops->version != COMM_WIRE_VERSION)
        return FAIL(ST_UNSUPPORTED, PLUGIN " is of another version than this program");
    status st = ops->open(timeout_ms, &wire, &rank, &size, error, sizeof(error));
    if (st != ST_OK)
        return FAIL(st, "starting MPI: %s", error);
    comm_world *w = NULL;
    st = world_create(rank, size, &w);
    if (st != ST_OK) {
        ops->close(&wire, false);
        return st;
    }
    w->ops = ops;
    w->wire = wire;
    w->plugin = handle;
    w->owner = (uintptr_t)pthread_self();
    if (size > 1)
        log_rank_set(rank);
    if (comm_launched(&launched, &launched_rank) && launched != size)
        st = FAIL(ST_INVALID, "%d ranks were started but MPI sees %d: with srun use --mpi=pmix", launched, size);
    if (st == ST_OK)
        st = boot(w, timeout_ms);
    if (st == ST_TIMEOUT || st == ST_PEER)
        ops->close(&w->wire, false); /* to wait once more for ranks that do not come is no use */
    if (st != ST_OK)
        comm_world_destroy(&w);
    *out = w;
    return st;
}
