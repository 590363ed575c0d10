/* coordinator/gateway/http.h - an HTTP/1.1 server of requests with whole bodies and of answers that are whole or streamed.
 *
 * Owns sockets, TLS, deadlines, bounds and the table of routes; knows nothing of models, keys or replicas.
 *
 * One thread of its own, the I/O thread: it accepts, parses (libmicrohttpd, run in our loop), collects bodies, calls `admit` and a route's handler, writes,
 * notices clients that went away while their request is at work, and ends whatever passes a deadline.  No callback may block; a handler
 * hands the request to some other thread and returns, or answers at once.
 *
 *   accepted -> head read -> admit? -> body read -> handler ... respond ----------------> written -> done
 *                  |                                        `.. stream_begin, append* , end ' |
 *                  `- refused (4xx, 503 while draining)         `- client gone, too slow: gone -'
 *
 * What a client may cost is bounded: its head (max_head), its body (max_body), its unread answer (max_unread), and the time for each.
 * A client that closes its sending side counts as gone.  Messages whose length is open to doubt (request smuggling) are refused. */
#ifndef COORDINATOR_GATEWAY_HTTP_H
#define COORDINATOR_GATEWAY_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"

typedef struct http_server http_server;
typedef struct http_request http_request; /* one exchange; the handler's until http_respond, http_stream_end or http_abort takes it */

/* Called on the I/O thread with the whole body; owns r. */
typedef void (*http_handler)(void *arg, http_request *r);

enum { HTTP_NEEDS_KEY = 1, HTTP_NEEDS_ADMIN = 2, HTTP_WHILE_DRAINING = 4 /* answered also during a drain: health, metrics */ };

typedef struct http_route {
    const char *method; /* "GET" (serves HEAD too), "POST" ...; several routes may share a path */
    const char *path;   /* "/v1/models", "/v1/responses/{id}", "/assets/{*}": {..} is one segment, {*} the rest; also the label in metrics and logs */
    http_handler handle;
    unsigned flags;
    size_t max_body; /* bytes; 0: the server's */
} http_route;

typedef struct http_header {
    const char *name, *value;
} http_header;

typedef struct http_answer {
    int status;
    const char *content_type; /* NULL: application/json */
    const http_header *headers; /* copied */
    int n_headers;
    const void *body; /* copied, unless body_is_static: then it must outlive the server */
    size_t body_len;
    bool body_is_static;
} http_answer;

/* What happened in an exchange: for logs and metrics.  Times are http_now(); 0: did not happen. */
typedef struct http_record {
    uint64_t id;
    const char *request_id, *method, *route, *address; /* route: the pattern, or "" where none matched */
    const char *note;                                  /* what http_request_note left, or NULL */
    int status;                                        /* 0: ended before one was chosen */
    int32_t caller;                                    /* what admit set; -1 */
    bool gone;                                         /* the client left, or was cut off, before the answer was complete */
    uint64_t bytes_in, bytes_out;                      /* of the bodies */
    uint64_t head_read, body_read, first_queued, first_written, ended;
} http_record;

typedef struct http_options {
    /* "127.0.0.1:8000", "[::1]:8000", "*:8000" (v4 and v6), "localhost:0" (any free port), "unix:PATH". */
    const char *const *listen;
    int n_listen;
    const char *tls_cert, *tls_key; /* PEM files; both or neither.  Unix sockets stay plain */
    const http_route *routes;
    int n_routes;
    const char *const *cors_origins; /* allowed origins, exact, or "*"; none: no CORS headers */
    int n_cors_origins;

    /* 0: the default beside it. */
    size_t max_head;            /* 32 KiB */
    size_t max_body;            /* 16 MiB */
    size_t max_unread;          /* 1 MiB: streamed bytes that a client has not taken; beyond it is cut off */
    int max_connections;        /* 4096, or what the limit of open files leaves */
    int max_connections_per_address; /* none */
    size_t max_bodies;          /* 1 GiB: bodies of all requests together; beyond it 503 */
    int head_timeout_ms;        /* 15 s from the first byte (or the connection) to the end of the head */
    int body_timeout_ms;        /* 60 s for the body */
    int idle_timeout_ms;        /* 75 s between requests of one connection */
    int write_timeout_ms;       /* 30 s in which a client that has something to read must take 16 KiB of it, or all */

    void *arg; /* for the callbacks */
    /* I/O thread, head read, route found: true lets the body in; false: *refuse is sent (its strings must live until the next call). May be NULL. */
    bool (*admit)(void *arg, http_request *r, const http_route *route, http_answer *refuse);
    /* I/O thread, without locks held: nobody will read the answer of request id, which the handler still owns.  Once at most, never before
     * the handler has returned, and perhaps while another thread gives the request back.  Who makes the id known later than in the handler must then look at
     * http_request_gone. */
    void (*gone)(void *arg, uint64_t id);
    /* Any thread: the exchange has ended and the request was given back; also for those that never reached a handler.  May be NULL. */
    void (*done)(void *arg, const http_record *record);
    /* I/O thread: bytes that http_stream_append took with `received_ns` are in the socket.  May be NULL. */
    void (*written)(void *arg, uint64_t received_ns, uint64_t written_ns);
} http_options;

/* Opens the sockets and starts serving.  ST_IO names an address in use; options and what they point to are copied, except routes. */
status http_server_create(const http_options *options, http_server **out);
/* Port of listening address i (for ":0"); 0 for a unix socket. */
int http_server_port(const http_server *s, int i);
/* From now on new requests get 503 with Retry-After; those at work go on. */
void http_server_drain(http_server *s);
/* Requests between head read and done. */
int http_server_active(const http_server *s);
int http_server_connections(const http_server *s);
/* Drains, waits at most timeout_ms for requests to end, then cuts the rest (gone is called), and frees.  Every request must be given back by
 * its handler: waits for that, too. */
void http_server_destroy(http_server **s, int timeout_ms);

/* Raises the soft limit of open files to at least n, or to the hard limit; *got is what holds now. */
status http_raise_open_files(int n, int *got);

/* Monotonic nanoseconds: the clock of every timestamp here. */
uint64_t http_now(void);

/* The request, readable by whoever owns it (and in admit).  Strings live until it is given back. */
uint64_t http_request_id(const http_request *r);              /* unique in this process */
const char *http_request_name(const http_request *r);         /* X-Request-Id if it is clean (1-128 of A-Za-z0-9._:-), else drawn; sent back */
const char *http_request_method(const http_request *r);
const char *http_request_path(const http_request *r);         /* decoded */
const char *http_request_param(const http_request *r);        /* what {..} or {*} matched; "" */
const http_route *http_request_route(const http_request *r);
const char *http_request_header(const http_request *r, const char *name); /* first of that name; NULL */
const char *http_request_query(const http_request *r, const char *name);  /* NULL: absent */
const char *http_request_body(const http_request *r, size_t *len);        /* NUL-terminated */
const char *http_request_address(const http_request *r);      /* "192.0.2.7", "unix" */
uint64_t http_request_body_read(const http_request *r);       /* when the body was complete */
bool http_request_gone(const http_request *r);                /* nobody will read the answer */
void http_request_free_body(http_request *r);                 /* no longer needed: memory back early */
/* Who asks (a key's number), set in admit; -1 before. */
void http_request_caller_set(http_request *r, int32_t caller);
int32_t http_request_caller(const http_request *r);
/* Text for http_record.note; takes *text (malloc), replaces an earlier one. */
void http_request_note(http_request *r, char **text);

/* Answers; any thread.  Takes the request.  If the client is gone nothing is sent, and that is no error. */
void http_respond(http_request **r, const http_answer *answer);
/* The same, with *body moved in instead of copied (answer->body is ignored). */
void http_respond_take(http_request **r, const http_answer *answer, mem_str *body);
/* {"error": {"message", "type", "param", "code"}}, as OpenAI words it.  param, code: NULL is null.  retry_after_s 0: no such header. */
void http_respond_error(http_request **r, int http, const char *type, const char *code, const char *param, const char *message, int retry_after_s);
void http_error_body(mem_str *out, const char *type, const char *code, const char *param, const char *message);

/* A streamed answer, chunked: begin once (answer->body goes first), append, end.  Content type NULL: text/event-stream.
 * append: ST_PEER once the client is gone or cut off (what is appended then is dropped); never waits. received_ns: when what it says came in, or 0. */
status http_stream_begin(http_request *r, const http_answer *answer);
status http_stream_append(http_request *r, const void *bytes, size_t n, uint64_t received_ns);
void http_stream_end(http_request **r);
/* Gives the request back with the connection cut: a stream that cannot be finished, seen by the client as incomplete. */
void http_abort(http_request **r);

#endif
