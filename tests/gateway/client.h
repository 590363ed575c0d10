/* tests/gateway/client.h - an HTTP client of raw bytes: sends exactly what a test says, reads what comes with a deadline, and takes answers apart. */
#ifndef TESTS_GATEWAY_CLIENT_H
#define TESTS_GATEWAY_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/mem.h"

/* Connections are plain sockets; -1: failed. */
int client_connect(const char *host, int port);
int client_connect_unix(const char *path);
/* false: the peer did not take it all. */
bool client_send(int fd, const void *bytes, size_t n);
bool client_text(int fd, const char *text);

typedef struct client_answer {
    int status; /* 0: none came */
    mem_str head, body;
    bool complete; /* the body ended as its framing says */
    bool closed;   /* the connection ended (after or within the answer) */
} client_answer;
/* Reads one answer; what follows it in the connection is kept in *rest for the next call (start with {0}). */
void client_read(int fd, bool is_head, int timeout_ms, mem_str *rest, client_answer *out);
void client_answer_free(client_answer *a);
/* The value of a header in a; NULL if absent.  Valid until the next call. */
const char *client_header(const client_answer *a, const char *name);
/* Waits for the peer to close; true if it did (data is thrown away). */
bool client_wait_closed(int fd, int timeout_ms);

/* One request on a connection of its own. */
void client_ask(int port, const char *request, client_answer *out);

#endif
