#include "coordinator/facts.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/threads.h"
#include "ops/device.h"

static void put_text(json_t *o, const char *key, const char *text)
{
    json_object_set_new(o, key, text != NULL && text[0] != '\0' ? json_string_nocheck(text) : json_null());
}

static void put_number(json_t *o, const char *key, double v, bool known)
{
    json_object_set_new(o, key, known ? json_integer((json_int_t)v) : json_null());
}

/* ---- files that say something ---- */

/* The first line of a file; false: there is none. */
static bool read_line(const char *path, char *out, size_t size)
{
    out[0] = '\0';
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return false;
    bool ok = fgets(out, (int)size, f) != NULL;
    out[strcspn(out, "\n")] = '\0';
    fclose(f);
    return ok;
}

static bool meminfo(const char *key, double *bytes)
{
    char text[64];
    bool found = file_value("/proc/meminfo", key, text, sizeof(text));
    *bytes = found ? strtod(text, NULL) * (strstr(text, "kB") != NULL ? 1024 : 1) : 0;
    return found;
}

/* "always [madvise] never" -> "madvise" */
static void chosen(const char *path, char *out, size_t size)
{
    char line[128];
    out[0] = '\0';
    if (!read_line(path, line, sizeof(line)))
        return;
    char *from = strchr(line, '['), *to = from != NULL ? strchr(from, ']') : NULL;
    if (to != NULL)
        snprintf(out, size, "%.*s", (int)(to - from - 1), from + 1);
}

static status hash_file(const char *path, char hex[HASH_SHA256_HEX])
{
    enum { PIECE = 1 << 20 };
    hash_sha256 *h = NULL;
    char *piece = NULL;
    uint8_t digest[HASH_SHA256_BYTES];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return FAIL(ST_IO, "open %s: %s", path, strerror(errno));
    status st = mem_calloc(1, PIECE, "hashing", &piece);
    if (st == ST_OK)
        st = hash_sha256_create(&h);
    for (ssize_t n = 1; st == ST_OK && n > 0;) {
        n = read(fd, piece, PIECE);
        if (n < 0)
            st = FAIL(ST_IO, "read %s: %s", path, strerror(errno));
        else
            hash_sha256_update(h, piece, (size_t)n);
    }
    if (st == ST_OK) {
        hash_sha256_final(h, digest);
        hash_hex(digest, sizeof(digest), hex);
    }
    hash_sha256_destroy(&h);
    free(piece);
    close(fd);
    return st;
}

/* ---- the parts ---- */

/* A library's version by a function of the shape int f(int *), where it can be loaded.  CUDA's and NCCL's have it; their headers are not needed for that. */
static bool library_version(const char *library, const char *function, int *version)
{
    void *handle = dlopen(library, RTLD_LAZY | RTLD_LOCAL); /* stays: whoever computes loads it too */
    int (*ask)(int *) = NULL;
    if (handle != NULL)
        *(void **)&ask = dlsym(handle, function);
    return ask != NULL && ask(version) == 0;
}

static void programs(comm_world *w, const facts_options *o, json_t *f)
{
    char hex[HASH_SHA256_HEX] = "", text[128];
    struct utsname u;
    int version;
    put_text(f, "trireme", o->version);
    put_text(f, "commit", o->commit);
    put_text(f, "binary", hash_file("/proc/self/exe", hex) == ST_OK ? hex : "");
    put_text(f, "mpi", comm_world_library(w));
    put_text(f, "pmix", getenv("PMIX_VERSION"));
    put_text(f, "libc", gnu_get_libc_version());
    put_text(f, "kernel", uname(&u) == 0 ? u.release : "");
    text[0] = '\0';
    if (library_version("libcuda.so.1", "cuDriverGetVersion", &version))
        snprintf(text, sizeof(text), "CUDA %d.%d", version / 1000, version % 1000 / 10);
    put_text(f, "driver", text);
    text[0] = '\0';
    if (library_version("libnccl.so.2", "ncclGetVersion", &version))
        snprintf(text, sizeof(text), "%d.%d.%d", version / 10000, version % 10000 / 100, version % 100);
    put_text(f, "nccl", text);
}

static void processors(json_t *f)
{
    char text[256];
    ops_ctx *ctx = NULL;
    const ops_backend *cpu = ops_cpu();
    ops_ctx_options o = {.n_threads = 1, .first_core = -1, .max_rows = 1, .max_cols = 64};
    file_value("/proc/cpuinfo", "model name", text, sizeof(text));
    put_text(f, "cpu", text);
    text[0] = '\0';
    if (cpu->ctx_create(&o, &ctx) == ST_OK) {
        snprintf(text, sizeof(text), "%s", cpu->ctx_describe(ctx)); /* "cpu avx512, 1 thread" */
        text[strcspn(text, ",")] = '\0';
        cpu->ctx_destroy(&ctx);
    }
    put_text(f, "isa", strncmp(text, "cpu ", 4) == 0 ? text + 4 : text);
    put_number(f, "cores", threads_cores_granted(), true);
    put_number(f, "cores_online", (double)sysconf(_SC_NPROCESSORS_ONLN), true);
}

static void memory(json_t *f)
{
    double v, free_swap;
    char text[64];
    struct statvfs shm;
    bool known = meminfo("MemTotal", &v);
    put_number(f, "memory", v, known);
    put_number(f, "memory_limit", (double)mem_limit(), mem_limit() > 0);
    put_number(f, "memory_available", (double)mem_available(), true);
    chosen("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof(text));
    put_text(f, "thp", text);
    known = meminfo("HugePages_Total", &v);
    put_number(f, "hugepages", v, known);
    known = meminfo("SwapTotal", &v) && meminfo("SwapFree", &free_swap);
    put_number(f, "swap_used", known ? v - free_swap : 0, known);
    known = statvfs("/dev/shm", &shm) == 0;
    put_number(f, "shm", known ? (double)shm.f_blocks * (double)shm.f_frsize : 0, known);
    put_number(f, "shm_free", known ? (double)shm.f_bavail * (double)shm.f_frsize : 0, known);
}

static void limits(json_t *f)
{
    static const struct {
        const char *key;
        __rlimit_resource_t which;
    } all[] = {{"nofile", RLIMIT_NOFILE}, {"memlock", RLIMIT_MEMLOCK}, {"stack", RLIMIT_STACK}};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        struct rlimit r;
        bool known = getrlimit(all[i].which, &r) == 0 && r.rlim_cur != RLIM_INFINITY;
        put_number(f, all[i].key, known ? (double)r.rlim_cur : 0, known);
    }
}

static void cards(json_t *f)
{
    json_t *rdma = json_array();
    DIR *d = opendir("/sys/class/infiniband");
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] != '.')
            json_array_append_new(rdma, json_string(e->d_name));
    }
    if (d != NULL)
        closedir(d);
    json_object_set_new(f, "rdma", rdma);
}

static void gpus(json_t *f)
{
    char text[2048], id[33];
    const ops_backend *cuda = NULL;
    json_t *list = json_array();
    ops_device_list(text, sizeof(text));
    put_text(f, "backends", strncmp(text, "backends: ", 10) == 0 ? text + 10 : text);
    int n = ops_device_open(OPS_DEVICE_AUTO, &cuda, text, sizeof(text)) == ST_OK && cuda->devices != NULL ? cuda->devices() : 0;
    for (int i = 0; i < n; i++) {
        ops_device_info info;
        if (cuda->device_info(i, &info) != ST_OK)
            continue;
        hash_hex(info.id, sizeof(info.id), id);
        json_array_append_new(list, json_pack("{ss ss sI sI ss}", "name", info.name, "pci", info.pci, "total_bytes", (json_int_t)info.total_bytes, "free_bytes",
                                              (json_int_t)info.free_bytes, "id", id));
    }
    json_object_set_new(f, "gpus", list);
}

/* SHA-256 over those of all its files, in their order. */
static status content_of(const shard_checkpoint *c, char hex[HASH_SHA256_HEX])
{
    hash_sha256 *h;
    uint8_t digest[HASH_SHA256_BYTES];
    const char *path;
    TRY(hash_sha256_create(&h));
    status st = ST_OK;
    for (int i = 0; st == ST_OK && (path = shard_checkpoint_file(c, i)) != NULL; i++) {
        char one[HASH_SHA256_HEX];
        st = hash_file(path, one);
        if (st == ST_OK)
            hash_sha256_update(h, one, strlen(one));
    }
    if (st == ST_OK) {
        hash_sha256_final(h, digest);
        hash_hex(digest, sizeof(digest), hex);
    }
    hash_sha256_destroy(&h);
    return st;
}

static void checkpoint(const facts_options *o, json_t *f, shard_checkpoint **out)
{
    char hex[HASH_SHA256_HEX] = "";
    if (o->model == NULL)
        return;
    status_mute(); /* what is wrong is told among the findings */
    status st = shard_checkpoint_open(o->model, &o->open, out);
    if (st == ST_OK)
        put_text(f, "checkpoint", shard_checkpoint_digest(*out));
    if (st == ST_OK && o->content)
        st = content_of(*out, hex);
    status_unmute();
    put_text(f, "content", hex);
    put_text(f, "checkpoint_error", st == ST_OK ? "" : status_message());
}

status facts_gather(comm_world *w, const facts_options *o, json_t **facts, shard_checkpoint **checkpoint_out)
{
    char host[256] = "";
    json_t *f = json_object();
    *checkpoint_out = NULL;
    if (f == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for what is found");
    gethostname(host, sizeof(host) - 1);
    put_text(f, "host", host);
    put_number(f, "pid", (double)getpid(), true);
    programs(w, o, f);
    processors(f);
    memory(f);
    limits(f);
    cards(f);
    gpus(f);
    checkpoint(o, f, checkpoint_out);
    *facts = f;
    return ST_OK;
}
