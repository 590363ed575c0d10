/* tests/gateway/serve.h - an HTTP server with a synthetic producer behind it, standing in for the gateway's core.
 *
 *   GET  /hello        "hello"                                     POST /echo         the body, from another thread
 *   GET  /big          1 MiB of text                               POST /stream       query n, gap_us: n events, then [DONE]
 *   GET  /items/{id}   what matched                                POST /hold         no answer until the client is gone
 *   GET  /files/{*}    what matched                                POST /flood        events as fast as they are taken, without end
 *   GET  /health       also while draining                         POST /small        at most 100 bytes of body
 *   GET  /abort        a stream cut after one event */
#ifndef TESTS_GATEWAY_SERVE_H
#define TESTS_GATEWAY_SERVE_H

#include <stdatomic.h>

#include "coordinator/gateway/http.h"

typedef struct serve serve;

/* options: routes and callbacks are filled in; listen may be NULL: "127.0.0.1:0". */
serve *serve_start(http_options options);
void serve_stop(serve **s, int timeout_ms);
int serve_port(const serve *s);
http_server *serve_server(const serve *s);

typedef struct serve_counts {
    int handled, gone, done, incomplete, written, held; /* held: requests that the producer has now */
    int by_status[600];
    char last_route[64], last_name[130];
} serve_counts;
void serve_counts_get(serve *s, serve_counts *out);
/* Seconds from each event's append to its being in the socket: the first SERVE_TIMES of them.  Read when nothing runs. */
#define SERVE_TIMES 100000
const double *serve_write_times(serve *s, int *n);
/* Waits until *field (of serve_counts, by offset) is at least n; false: not within ms. */
bool serve_wait(serve *s, size_t field, int n, int ms);
#define SERVE_WAIT(s, field, n) serve_wait((s), offsetof(serve_counts, field), (n), 10000)

#endif
