/* coordinator/gateway/auth.h - API keys: who asks, and what they may take.
 *
 * A file of keys (mode 0600; `trireme apikey` writes it) holds no key, only salted SHA-256 digests.  Keys are 256 random bits, so no slow hash is needed:
 *
 *   trireme-keys 1 SALT                                  format version, 32 hex digits
 *   NAME DIGEST [requests=N] [tokens=N] [concurrent=N] [admin]     SHA-256(salt, key) in hex; N per minute; blank lines and # comments are kept
 *
 * The salt keeps equal keys in two files from being seen as equal, and tables of digests useless.  The file is read again when it changes; one that has become unreadable or malformed leaves the keys as they were, with an error in the log.
 * Digests are compared in constant time.  Keys are never logged. */
#ifndef COORDINATOR_GATEWAY_AUTH_H
#define COORDINATOR_GATEWAY_AUTH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"

#define AUTH_NAME 64 /* bytes of a name, with the final NUL: letters, digits, . _ - */

typedef struct auth_limits {
    int64_t requests_per_min, tokens_per_min; /* 0: unlimited */
    int32_t max_concurrent;                   /* 0: unlimited */
} auth_limits;

typedef struct auth_key {
    char name[AUTH_NAME];
    int32_t number; /* stays with the name for the process's life: index for limits and logs */
    bool admin;
    auth_limits limits;
} auth_key;

typedef struct auth auth;

typedef enum auth_verdict { AUTH_OK, AUTH_MISSING, AUTH_WRONG } auth_verdict;

/* path: file of keys, or NULL.  single: one key given on the command line (named "default", admin, unlimited), or NULL.  Neither: everybody is
 * let in as "anonymous", not admin unless open_admin. */
typedef struct auth_options {
    const char *path, *single;
    bool open_admin;
} auth_options;
status auth_create(const auth_options *options, auth **out);
void auth_destroy(auth **a);
/* false: there are no keys to show. */
bool auth_required(const auth *a);

/* Header values, NULL if absent: "Bearer KEY", and x-api-key.  Any thread; looks for a changed file at most once a second. */
auth_verdict auth_check(auth *a, const char *authorization, const char *x_api_key, auth_key *out);
/* The name of a key by its number, also after it was removed; "" if unknown.  Lives as long as a. */
const char *auth_name(auth *a, int32_t number);
/* Reads the file now if it changed. */
status auth_reload(auth *a);

/* The file: what `trireme apikey` does.  add makes the file if absent, draws a key ("sk-..."), and returns it for the only time; the caller wipes it.
 * ST_INVALID: bad name or taken.  remove: ST_NOT_FOUND. */
#define AUTH_KEY_TEXT 64
status auth_file_add(const char *path, const char *name, const auth_limits *limits, bool admin, char key[AUTH_KEY_TEXT]);
/* The same with a key that is given (1 to 255 visible ASCII bytes); a line of that name is replaced. */
status auth_file_set(const char *path, const char *name, const auth_limits *limits, bool admin, const char *key);
status auth_file_remove(const char *path, const char *name);
typedef void (*auth_each)(void *arg, const auth_key *key);
status auth_file_list(const char *path, auth_each each, void *arg);

#endif
