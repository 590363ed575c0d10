/* ops/cuda/cuda_plugin.c - this object's share of base/: errors and log lines go to the program that loaded it. */
#include <stdarg.h>
#include <stdio.h>

#include "base/log.h"
#include "ops/cuda/cuda_internal.h"
#include "ops/plugin.h"

#ifdef CUDA_EMULATED
const bool cuda_emulated = true;
#else
const bool cuda_emulated = false;
#endif
#ifndef CUDA_BUILT_FOR
#define CUDA_BUILT_FOR "?"
#endif
const char *const cuda_built_for = CUDA_BUILT_FOR;

static const ops_plugin_host *host; /* set before anything else is called */

status status_fail(status st, const char *file, int line, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return host->fail(st, file, line, text);
}

log_level log_level_get(void)
{
    return (log_level)host->log_level();
}

void log_write(log_level level, const char *file, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    int n = snprintf(text, sizeof(text), "%s", cuda_emulated ? "EMULATED: " : "");
    vsnprintf(text + n, sizeof(text) - (size_t)n, format, args);
    va_end(args);
    host->log((int)level, file, text);
}

static int probe(char *why, size_t why_bytes)
{
    int n = 0, driver = 0, runtime = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaSuccess)
        return n;
    (void)cudaGetLastError(); /* it would be the next call's otherwise */
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        snprintf(why, why_bytes, "there is no NVIDIA driver on this machine (%s)", cudaGetErrorName(e));
    else if (e == cudaErrorInsufficientDriver && cudaRuntimeGetVersion(&runtime) == cudaSuccess)
        snprintf(why, why_bytes, "the driver is for CUDA %d.%d and this program for %d.%d: update the driver", driver / 1000, driver / 10 % 100, runtime / 1000, runtime / 10 % 100);
    else if (e == cudaErrorNoDevice)
        snprintf(why, why_bytes, "the driver sees none; is CUDA_VISIBLE_DEVICES right?");
    else
        snprintf(why, why_bytes, "cudaGetDeviceCount: %s (%s)", cudaGetErrorString(e), cudaGetErrorName(e));
    return 0;
}

__attribute__((visibility("default"))) const ops_plugin *ops_plugin_open(const ops_plugin_host *from);
const ops_plugin *ops_plugin_open(const ops_plugin_host *from)
{
    static ops_plugin plugin;
    host = from;
    plugin = (ops_plugin){OPS_PLUGIN_VERSION, cuda_emulated, cuda_built_for, cuda_backend(), probe};
    return &plugin;
}
