/* coordinator/cli/up_service.h - what `trireme up` prepares and asks: a private folder, a port, the replicas' share of the machine, whether it is ready. */
#ifndef COORDINATOR_CLI_UP_SERVICE_H
#define COORDINATOR_CLI_UP_SERVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"

/* A folder for this run alone, mode 0700, short enough for a socket's path in it.  Folders of runs that were killed are removed first: a lock in each
 * says whether its run is alive. */
typedef struct up_folder {
    char *path;
    int lock;
} up_folder;
status up_folder_create(up_folder *out);
/* Removes it with all that is in it. */
void up_folder_remove(up_folder *f);

/* Whether we may listen there.  *port 0: a free one is picked.  The message says what to do. */
status up_port_check(const char *host, int32_t *port);

/* "127.0.0.1:8000", "[::1]:8000" */
void up_address(const char *host, int32_t port, mem_str *out);
/* Where to ask from this machine: for an address that stands for all, the loopback one. */
void up_url(const char *host, int32_t port, bool tls, mem_str *out);

/* The path of a program; NULL: it is not in PATH.  Caller frees. */
char *up_program_find(const char *name);

/* Asks the gateway: which model it serves ("" if none yet) and how many replicas are ready.  ST_OK also when it does not answer yet.
 * Waits at most 2 s. */
typedef struct up_readiness {
    char *model; /* caller frees */
    int ready;
} up_readiness;
status up_ready_ask(const char *url, const char *api_key, up_readiness *out);

/* A key for a command line of curl: within single quotes. */
void up_quote(const char *text, mem_str *out);

#endif
