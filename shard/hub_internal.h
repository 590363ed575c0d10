/* shard/hub_internal.h - hub.c decides what is needed and where it goes; hub_cache.c knows the cache's layout; hub_http.c moves bytes. */
#ifndef SHARD_HUB_INTERNAL_H
#define SHARD_HUB_INTERNAL_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/log.h"
#include "shard/hub.h"

enum { HUB_LOCK_TIMEOUT_MS = 24 * 3600 * 1000 };

/* ---- cache ---- */

typedef struct hub_config {
    char *cache;     /* folder of all repositories */
    char *endpoint;  /* "https://huggingface.co", without a final slash */
    char *token;     /* NULL: none */
    bool offline;
} hub_config;
status hub_config_load(hub_config *out);
void hub_config_free(hub_config *c);

typedef struct hub_repo {
    char *folder;    /* CACHE/models--ORG--NAME */
    char *locks;     /* CACHE/.locks/models--ORG--NAME */
} hub_repo;
status hub_repo_init(const hub_config *config, const char *name, hub_repo *out);
void hub_repo_free(hub_repo *r);

/* A path inside a repository: relative, no empty, "." or ".." parts, no backslash or control character. */
bool hub_safe_path(const char *path);
bool hub_is_hex(const char *s, size_t n); /* exactly n lower-case hex digits */

/* The commit a revision stood at when it was last resolved (a commit stands for itself); "" if the cache does not know.  fresh_after: only if it was recorded
 * at or after that time (seconds since the epoch); 0 = ever. */
status hub_cache_ref(const hub_repo *r, const char *revision, double fresh_after, char commit[41]);
status hub_cache_set_ref(const hub_repo *r, const char *revision, const char *commit);
/* snapshots/COMMIT/FILE; caller frees; NULL: out of memory. */
char *hub_cache_snapshot(const hub_repo *r, const char *commit, const char *file);
char *hub_cache_blob(const hub_repo *r, const char *hash);
/* Makes snapshots/COMMIT/FILE a link to the blob, replacing what is there. */
status hub_cache_link(const hub_repo *r, const char *commit, const char *file, const char *hash);

/* ---- transfer ---- */

typedef struct hub_http hub_http;
status hub_http_create(const hub_config *config, hub_http **out);
void hub_http_destroy(hub_http **h);

/* GET of a small text from the endpoint (path starts with '/'): at most `limit` bytes; NUL-terminated; caller frees.  `what` names it in messages. */
status hub_http_text(hub_http *h, const char *path, const char *what, size_t limit, char **text, size_t *len);
/* What the endpoint says of a file, redirects not followed: its hash (as blobs are named) and size; "" and -1 where it is silent. */
status hub_http_head(hub_http *h, const char *path, const char *what, char hash[65], int64_t *size);
/* GET of a file of `size` bytes into `incomplete`, going on after the bytes that lie there; tries again after failures that pass.  progress shows `before`
 * plus what this file has. */
status hub_http_file(hub_http *h, const char *path, const char *what, const char *incomplete, uint64_t size, log_progress *progress, uint64_t before,
                     uint64_t *downloaded);

#endif
