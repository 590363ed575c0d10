#include "ops/device.h"

#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "ops/plugin.h"

#define PLUGIN "backend_cuda.so"

bool ops_device_parse(const char *text, ops_device_kind *out)
{
    static const char *const names[] = {[OPS_DEVICE_AUTO] = "auto", [OPS_DEVICE_CPU] = "cpu", [OPS_DEVICE_CUDA] = "cuda"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (ops_device_kind)i;
            return true;
        }
    }
    return false;
}

/* ---- what the plugin may use of the program ---- */
static status host_fail(status st, const char *file, int line, const char *text)
{
    return status_fail(st, file, line, "%s", text);
}

static void host_log(int level, const char *file, const char *text)
{
    if (level <= (int)log_level_get())
        log_write((log_level)level, file, "%s", text);
}

static int host_log_level(void)
{
    return (int)log_level_get();
}

static const ops_plugin_host host = {host_fail, host_log, host_log_level};

/* ---- finding it ---- */

typedef struct found { /* "" in path: there is none */
    char path[PATH_MAX], tried[2 * PATH_MAX];
    bool emulated;
} found;

static bool look_in(found *f, const char *dir, const char *below)
{
    if ((size_t)snprintf(f->path, sizeof(f->path), "%s%s/" PLUGIN, dir, below) < sizeof(f->path) && access(f->path, F_OK) == 0)
        return true;
    size_t n = strlen(f->tried);
    snprintf(f->tried + n, sizeof(f->tried) - n, "%s%s%s", n > 0 ? ", " : "", dir, below);
    f->path[0] = '\0';
    return false;
}

static void look_for(ops_device_kind kind, found *f)
{
    *f = (found){0};
    const char *emulated = getenv("TRIREME_CUDA_EMULATED"), *given = getenv("TRIREME_PLUGIN_DIR");
    if (kind == OPS_DEVICE_CUDA && emulated != NULL && *emulated != '\0') {
        f->emulated = true;
        snprintf(f->path, sizeof(f->path), "%s", emulated);
        return;
    }
    if (given != NULL && *given != '\0') {
        look_in(f, given, "");
        return;
    }
    char dir[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", dir, sizeof(dir) - 1);
    if (n <= 0)
        return;
    dir[n] = '\0';
    char *program = dirname(dir);
    if (!look_in(f, program, ""))
        look_in(f, program, "/../lib/trireme");
}

static status plugin_load(const found *f, const ops_plugin **out)
{
    void *handle = dlopen(f->path, RTLD_NOW | RTLD_LOCAL); /* never closed: a driver's threads may be in it */
    if (handle == NULL)
        return FAIL(ST_NOT_FOUND, "%s does not load: %s; --device cpu computes without it", f->path, dlerror());
    ops_plugin_open_fn open;
    *(void **)&open = dlsym(handle, OPS_PLUGIN_SYMBOL);
    const ops_plugin *p = open != NULL ? open(&host) : NULL;
    if (p == NULL || p->version != OPS_PLUGIN_VERSION)
        return FAIL(ST_UNSUPPORTED, "%s is of another version than this program; --device cpu computes without it", f->path);
    if (p->emulated != f->emulated)
        return FAIL(ST_UNSUPPORTED, p->emulated ? "%s only emulates a device: name it in TRIREME_CUDA_EMULATED for tests" : "%s, which TRIREME_CUDA_EMULATED names, is no emulation",
                    f->path);
    *out = p;
    return ST_OK;
}

static status cuda_open(const found *f, const ops_plugin **out)
{
    char why[512] = "";
    const ops_plugin *p;
    if (f->path[0] == '\0')
        return FAIL(ST_NOT_FOUND, "no " PLUGIN " in %s: this build has no CUDA, or TRIREME_PLUGIN_DIR should name its folder; --device cpu computes without it", f->tried);
    TRY(plugin_load(f, &p));
    if (p->probe(why, sizeof(why)) < 1)
        return FAIL(ST_UNSUPPORTED, "no CUDA device: %s; --device cpu computes without one", why);
    *out = p;
    return ST_OK;
}

status ops_device_open(ops_device_kind kind, const ops_backend **out, char *why, size_t why_bytes)
{
    found f;
    const ops_plugin *p;
    if (why_bytes > 0)
        why[0] = '\0';
    *out = ops_cpu();
    if (kind == OPS_DEVICE_CPU)
        return ST_OK;
    look_for(kind, &f);
    if (kind == OPS_DEVICE_AUTO && f.path[0] == '\0') /* no CUDA was asked for, and none is installed */
        return ST_OK;
    if (kind == OPS_DEVICE_CUDA) {
        TRY(cuda_open(&f, &p));
        *out = p->ops;
        return ST_OK;
    }
    status_mute();
    status st = cuda_open(&f, &p);
    status_unmute();
    if (st == ST_OK)
        *out = p->ops;
    else if (why_bytes > 0)
        snprintf(why, why_bytes, "%s", status_message());
    return ST_OK;
}

void ops_device_list(char *out, size_t bytes)
{
    found f;
    const ops_plugin *p;
    char why[512] = "";
    const char *emulated = getenv("TRIREME_CUDA_EMULATED");
    look_for(emulated != NULL && *emulated != '\0' ? OPS_DEVICE_CUDA : OPS_DEVICE_AUTO, &f);
    if (f.path[0] == '\0') {
        snprintf(out, bytes, "backends: cpu");
        return;
    }
    status_mute();
    status st = plugin_load(&f, &p);
    status_unmute();
    if (st != ST_OK) {
        snprintf(out, bytes, "backends: cpu\n%s", status_message());
        return;
    }
    int n = p->probe(why, sizeof(why));
    snprintf(out, bytes, "backends: cpu, cuda%s (%s; ", p->emulated ? " EMULATED" : "", p->build);
    size_t at = strlen(out);
    if (n < 1)
        snprintf(out + at, bytes - at, "no CUDA device: %s)", why);
    else
        snprintf(out + at, bytes - at, "%d device%s)", n, n == 1 ? "" : "s");
}
