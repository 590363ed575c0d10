/* ops/plugin.h - what a backend in a shared object (backend_cuda.so) and the program tell each other.
 *
 * The program loads it with dlopen and calls ops_plugin_open once.  The object has its own copy of the little of base/ that it needs, except for
 * errors and log lines: those go to the program's, so that status_message() and the log level mean the same on both sides. */
#ifndef OPS_PLUGIN_H
#define OPS_PLUGIN_H

#include "ops/ops.h"

#define OPS_PLUGIN_VERSION 5 /* of this file and of ops.h together: raise it with either */
#define OPS_PLUGIN_SYMBOL "ops_plugin_open"

typedef struct ops_plugin_host {
    status (*fail)(status st, const char *file, int line, const char *text); /* as status_fail */
    void (*log)(int level, const char *file, const char *text);              /* as log_write; levels of base/log.h */
    int (*log_level)(void);
} ops_plugin_host;

typedef struct ops_plugin {
    int version;             /* OPS_PLUGIN_VERSION; if it differs, nothing else is looked at */
    bool emulated;           /* executes on the CPU, for tests */
    const char *build;       /* "CUDA 13.0, sm_80 sm_90 sm_100"; for --version */
    const ops_backend *ops;
    /* Devices that can be used; 0: `why` says what is missing. */
    int (*probe)(char *why, size_t why_bytes);
} ops_plugin;

typedef const ops_plugin *(*ops_plugin_open_fn)(const ops_plugin_host *host);

#endif
