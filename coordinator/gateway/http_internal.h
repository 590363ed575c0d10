/* coordinator/gateway/http_internal.h - what the parts of the HTTP server share.
 *
 *   http.c          the server's life, options, the I/O thread's loop and deadlines
 *   http_listen.c   addresses, accepting, and lingering close
 *   http_head.c     what a request's head must be: lengths, names, paths, routes, CORS
 *   http_serve.c    libmicrohttpd's callbacks: from the request line to the end of the exchange
 *   http_answer.c   answers and streams, from any thread
 *
 * The library runs inside our loop, not in a thread of its own: version 0.9.75's own loop, when exactly as many events as it asks for are ready, waits for
 * one more before it looks at those, for ever if none comes.
 *
 * Connections are the I/O thread's alone.  A request has two references: the I/O thread's, until the exchange has ended, and the
 * handler's, until it gives the request back; `done` is called when both are gone.  Locks: request.lock, under which the library may be asked to
 * suspend or resume; server.lock, innermost, for counts.  No callback of the user's is called under either. */
#ifndef COORDINATOR_GATEWAY_HTTP_INTERNAL_H
#define COORDINATOR_GATEWAY_HTTP_INTERNAL_H

#include <microhttpd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "coordinator/gateway/http.h"

#define HTTP_BLOCK (16u << 10)       /* bytes handed to the library at once: the unit in which a slow client must make progress */
#define HTTP_DRAINED_BODY (64u << 10) /* a refused request's body is read up to this, so that the connection lives on; beyond it is cut */
#define HTTP_MARKS 32                /* appended pieces of a stream whose way to the socket is timed */
#define HTTP_NAME 129

/* Known from accept until the library reports it closed, which is before its socket is. */
typedef struct http_conn {
    struct http_conn *prev, *next;
    struct http_request *current; /* the exchange under way */
    uint64_t deadline;            /* http_now() after which it is ended; 0: none */
    uint32_t generation;
    int fd;
    char address[INET6_ADDRSTRLEN];
    bool started; /* the library has it, and will say when it closes it */
    bool hung_up; /* the client has closed its sending side */
    bool cut;     /* we have shut it down */
    bool linger;  /* there may be unread input, which must not turn the answer into a reset */
} http_conn;

typedef struct http_mark {
    uint64_t end, received_ns; /* the stream's offset behind the piece */
} http_mark;

typedef struct http_pair {
    const char *name, *value;
} http_pair;

struct http_request {
    http_server *server;
    atomic_int references;
    uint64_t id;

    /* Written on the I/O thread before a handler has the request; constant afterwards. */
    http_conn *conn; /* I/O thread only; NULL once the exchange has ended */
    mem_arena *arena;
    const http_route *route;
    const char *method, *target, *path, *param, *origin;
    http_pair *headers, *query;
    size_t n_headers, n_query;
    char name[HTTP_NAME];
    char address[INET6_ADDRSTRLEN];
    uint64_t head_read, body_read;
    uint64_t bytes_in;
    bool head_done, close; /* close: the connection ends with this exchange */

    /* The body: the I/O thread's, then the owner's. */
    char *body;
    size_t body_len, body_cap;
    uint64_t length; /* announced; UINT64_MAX: chunked */
    size_t body_limit;
    int body_failed; /* status to answer at the end of the body: 413, 503, or 0 */

    int32_t caller;
    char *note;

    pthread_mutex_t lock; /* all below */
    struct MHD_Connection *connection;
    struct MHD_Response *response;
    int status;
    bool owned;     /* by a handler */
    bool suspended; /* libmicrohttpd is not looking at the connection: who changes something resumes it */
    bool queued;    /* the response is with the library */
    bool handing;   /* the handler is being called: gone is told when it has returned */
    bool streaming, ended, aborted, gone;
    mem_str out; /* not yet taken by the library: from out_start on */
    size_t out_start;
    uint64_t appended, taken; /* bytes, since the start of the body */
    uint64_t body_out;        /* of a whole answer */
    uint64_t first_queued, first_written, completed;
    bool complete; /* the whole answer is in the socket */
    http_mark marks[HTTP_MARKS];
    int n_marks;
};

typedef struct http_listener {
    int fd, port;
    bool tls;
    int spec; /* index into options.listen */
    char *path; /* of a unix socket, to be removed */
} http_listener;

typedef struct http_lingering {
    int fd;
    uint64_t deadline;
    uint64_t bytes_left;
} http_lingering;

#define HTTP_MAX_LINGERING 256

struct http_server {
    http_options o; /* own copies of all but routes */
    mem_arena *strings;
    struct MHD_Daemon *plain, *tls; /* NULL where no address needs it */
    char *cert, *key;

    http_listener *listeners;
    int n_listeners;
    int epoll, wake;
    pthread_t io;
    bool running;
    atomic_bool stopping, draining, cutting;
    atomic_bool woken; /* wake has been written to and not yet read */

    /* The I/O thread's. */
    bool accept_paused; /* out of descriptors */
    http_conn *conns;
    http_conn **by_fd;
    size_t by_fd_cap;
    uint32_t generation;
    http_lingering lingering[HTTP_MAX_LINGERING];
    int n_lingering;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* a request ended or was given back */
    int n_conns, n_active, n_requests; /* under lock: connections; exchanges open; request objects alive */
    uint64_t epoch; /* random: request names */

    _Atomic uint64_t next_id;
    _Atomic size_t bodies; /* bytes held in bodies */
};

/* http_listen.c */
status http_watch(http_server *s, int fd, uint32_t events, uint64_t data);
status http_listen_open(http_server *s);
void http_listen_close(http_server *s);
void http_listen_accept(http_server *s, const http_listener *l);
void http_linger_add(http_server *s, http_conn *c); /* before the library closes the socket */
void http_linger_read(http_server *s, int fd);
void http_linger_sweep(http_server *s, uint64_t now);
#define HTTP_EVENT(kind, generation, fd) ((uint64_t)(kind) << 56 | (uint64_t)((generation)&0xffffff) << 32 | (uint32_t)(fd))
enum { HTTP_EVENT_WAKE, HTTP_EVENT_LISTENER, HTTP_EVENT_CONN, HTTP_EVENT_LINGER, HTTP_EVENT_LIBRARY };
void http_conn_free(http_server *s, http_conn *c);
/* Within ms the connection must have moved on, or is ended; 0: no deadline. */
void http_conn_deadline(http_conn *c, int ms);
/* Any thread: the I/O thread runs the library, which looks for resumed connections when it begins to run. */
void http_wake(http_server *s);

/* http_head.c: copies head and query; 0, or the status to refuse it with and *why.  Sets close where the length of the message is in doubt. */
int http_head_read(http_request *r, struct MHD_Connection *c, const char *method, const char *version, const char **why);
/* The route, or 404 / 405 with *allow (arena) filled. */
int http_route_find(http_request *r, const http_route **out, const char **allow);
void http_cors_add(const http_request *r, struct MHD_Response *response);
/* The answer to OPTIONS where no route has it. */
void http_options_answer(http_request *r, const char *allow, http_answer *out, http_header headers[5]);

/* http_serve.c */
status http_daemon_start(http_server *s, bool tls, struct MHD_Daemon **out);
void http_request_release(http_request *r);

/* http_answer.c */
/* The library's response for a whole answer; may put the body into r->out. *body, if not NULL, is moved in.  NULL: out of memory or bad headers. */
struct MHD_Response *http_response_make(http_request *r, const http_answer *answer, mem_str *body);
/* Nobody will read the answer: wakes the library, tells the owner. */
void http_request_lost(http_request *r);

#endif
