/* coordinator/client/server.h - the server that is measured: where it is, what each request to it carries, and questions that are answered at once.
 *
 * One thread.  Every question has a deadline and every answer a limit. */
#ifndef COORDINATOR_CLIENT_SERVER_H
#define COORDINATOR_CLIENT_SERVER_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"

typedef struct client_server_options {
    const char *url;            /* scheme, host, port and perhaps a path before /v1, as in http://127.0.0.1:8000 */
    const char *api_key;        /* NULL: none */
    const char *const *headers; /* [n_headers] "Name: value" besides */
    int n_headers;
    bool insecure;              /* whatever certificate it shows */
} client_server_options;

typedef struct client_server {
    char *url; /* without a slash at the end, and without /v1 */
    struct curl_slist *headers;
    bool insecure;
    CURL *curl; /* for questions */
} client_server;

status client_server_open(const client_server_options *options, client_server *out);
void client_server_close(client_server *s);

/* What all requests share: address (path begins with a slash), headers, TLS.  ST_NO_MEMORY. */
status client_server_setup(const client_server *s, const char *path, CURL *c);

/* Sends body (NULL: a GET; borrowed) and waits at most timeout_ms.  ST_OK with any answer that is JSON or empty: *code is its HTTP status and *out (NULL if it is no JSON) the
 * caller's to json_decref().  ST_IO, ST_TIMEOUT: no answer. */
status client_ask(client_server *s, const char *path, const json_t *body, int timeout_ms, long *code, json_t **out);

/* How many tokens the server's POST /tokenize makes of a text, with the special ones it puts before a prompt or without; *ids (may be NULL): the ids, an array, the caller's.
 * ST_UNSUPPORTED: it has no such route. */
status client_tokenize(client_server *s, const char *model, const char *text, bool add_special, int32_t *n, json_t **ids);

#endif
