#include "coordinator/gateway/http_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/log.h"

/* A head's copies: the library's buffer holds the head, we hold it once more, and the route's and answers' few strings. */
#define ARENA_SLACK (64u << 10)

static http_conn *conn_of(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info != NULL ? info->socket_context : NULL;
}

static http_request *request_create(http_server *s, struct MHD_Connection *c, http_conn *conn, const char *target)
{
    http_request *r = calloc(1, sizeof(*r));
    if (r == NULL)
        return NULL;
    r->arena = mem_arena_create(2 * s->o.max_head + ARENA_SLACK);
    r->target = r->arena != NULL ? mem_arena_strndup(r->arena, target, strlen(target)) : NULL;
    if (r->target == NULL) {
        mem_arena_destroy(&r->arena);
        free(r);
        return NULL;
    }
    pthread_mutex_init(&r->lock, NULL);
    atomic_init(&r->references, 1);
    r->server = s;
    r->id = atomic_fetch_add(&s->next_id, 1) + 1;
    r->conn = conn;
    r->connection = c;
    r->caller = -1;
    r->method = r->path = r->param = "";
    memcpy(r->address, conn->address, sizeof(r->address));
    conn->current = r;
    pthread_mutex_lock(&s->lock);
    s->n_active++;
    s->n_requests++;
    pthread_mutex_unlock(&s->lock);
    return r;
}

/* The request line has been read. */
static void *on_request_line(void *arg, const char *target, struct MHD_Connection *c)
{
    http_server *s = arg;
    http_conn *conn = conn_of(c);
    if (conn == NULL)
        return NULL;
    http_conn_deadline(conn, s->o.head_timeout_ms);
    return request_create(s, c, conn, target == NULL ? "" : target);
}

static http_record record_of(const http_request *r)
{
    http_record x = {.id = r->id, .request_id = r->name, .method = r->method, .route = r->route != NULL ? r->route->path : "", .address = r->address, .note = r->note};
    x.status = r->status;
    x.caller = r->caller;
    x.gone = r->gone;
    x.bytes_in = r->bytes_in;
    x.bytes_out = r->streaming || r->taken > 0 ? r->taken : r->complete && strcmp(r->method, "HEAD") != 0 ? r->body_out : 0;
    x.head_read = r->head_read;
    x.body_read = r->body_read;
    x.first_queued = r->first_queued;
    x.first_written = r->first_written != 0 ? r->first_written : r->complete ? r->completed : 0;
    x.ended = r->completed;
    return x;
}

static void request_free(http_request *r)
{
    http_server *s = r->server;
    http_record record = record_of(r);
    if (s->o.done != NULL && r->head_done)
        s->o.done(s->o.arg, &record);
    http_request_free_body(r);
    mem_str_free(&r->out);
    free(r->note);
    mem_arena_destroy(&r->arena);
    pthread_mutex_destroy(&r->lock);
    free(r);
    pthread_mutex_lock(&s->lock);
    s->n_requests--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

void http_request_release(http_request *r)
{
    if (atomic_fetch_sub(&r->references, 1) == 1)
        request_free(r);
}

/* Hands the response to the library.  Not under request.lock: the library holds a lock of the response's when it reads. */
static enum MHD_Result queue(http_request *r, struct MHD_Connection *c)
{
    pthread_mutex_lock(&r->lock);
    struct MHD_Response *response = r->response;
    unsigned http = (unsigned)r->status;
    r->response = NULL;
    r->queued = true;
    pthread_mutex_unlock(&r->lock);
    http_conn_deadline(r->conn, r->server->o.write_timeout_ms);
    enum MHD_Result result = MHD_queue_response(c, http, response);
    MHD_destroy_response(response);
    return result;
}

/* Refuses on the head alone.  A short body is read first, so that the connection can live on; else the library closes it, and what the client
 * is still sending must not turn into a reset that destroys the answer. */
static enum MHD_Result refuse(http_request *r, struct MHD_Connection *c, const http_answer *answer)
{
    bool body = r->length > 0 && !r->close;
    bool read_on = body && r->length <= HTTP_DRAINED_BODY && http_request_header(r, "Expect") == NULL;
    if (!read_on && (body || r->close))
        r->close = r->conn->linger = true;
    pthread_mutex_lock(&r->lock);
    r->response = http_response_make(r, answer, NULL);
    r->status = answer->status;
    r->first_queued = http_now();
    bool made = r->response != NULL;
    pthread_mutex_unlock(&r->lock);
    return !made ? MHD_NO : read_on ? MHD_YES : queue(r, c);
}

static const char *error_type(int http)
{
    return http == 401 ? "authentication_error" : http >= 500 ? "server_error" : "invalid_request_error";
}

static enum MHD_Result refuse_with(http_request *r, struct MHD_Connection *c, int http, const char *code, const char *message, const http_header *header)
{
    mem_str body = {0};
    http_error_body(&body, error_type(http), code, NULL, message);
    enum MHD_Result result = body.failed ? MHD_NO
                                         : refuse(r, c, &(http_answer){.status = http, .body = body.data, .body_len = body.len, .headers = header, .n_headers = header != NULL});
    mem_str_free(&body);
    return result;
}

static enum MHD_Result refuse_route(http_request *r, struct MHD_Connection *c, int http, const char *allow)
{
    if (http == 405 && strcmp(r->method, "OPTIONS") == 0) {
        http_header headers[5];
        http_answer answer;
        http_options_answer(r, allow, &answer, headers);
        return refuse(r, c, &answer);
    }
    if (http == 405)
        return refuse_with(r, c, 405, "method_not_allowed", "This path does not have this method.", &(http_header){"Allow", allow});
    return refuse_with(r, c, http, http == 404 ? "not_found" : NULL, http == 404 ? "There is nothing at this path." : "Out of memory.", NULL);
}

/* First call: the head is complete, the body has not been read. */
static enum MHD_Result on_head(http_request *r, struct MHD_Connection *c, const char *method, const char *version)
{
    static const http_header retry = {"Retry-After", "5"};
    http_server *s = r->server;
    const char *why = NULL, *allow = NULL;
    r->head_read = http_now();
    r->head_done = true;
    http_conn_deadline(r->conn, s->o.body_timeout_ms);
    int http = http_head_read(r, c, method, version, &why);
    if (http != 0)
        return refuse_with(r, c, http, NULL, why, NULL);
    http = http_route_find(r, &r->route, &allow);
    if (http != 0)
        return refuse_route(r, c, http, allow);
    if (atomic_load(&s->draining) && (r->route->flags & HTTP_WHILE_DRAINING) == 0)
        return refuse_with(r, c, 503, "draining", "The server is shutting down; try another, or again later.", &retry);
    r->body_limit = r->route->max_body > 0 ? r->route->max_body : s->o.max_body;
    if (r->length != UINT64_MAX && r->length > r->body_limit)
        return refuse_with(r, c, 413, "request_too_large", "The request's body is too large.", NULL);
    http_answer answer = {0};
    if (s->o.admit != NULL && !s->o.admit(s->o.arg, r, r->route, &answer))
        return refuse(r, c, &answer);
    return MHD_YES;
}

/* More memory for the body, counted against all bodies together. */
static bool body_grow(http_request *r, size_t need)
{
    size_t cap = r->body_cap == 0 && r->length < HTTP_DRAINED_BODY ? (size_t)r->length + 1 : r->body_cap * 2;
    cap = cap < need ? need : cap;
    cap = cap < 1024 ? 1024 : cap;
    size_t more = cap - r->body_cap, before = atomic_fetch_add(&r->server->bodies, more);
    char *grown = before + more <= r->server->o.max_bodies ? realloc(r->body, cap) : NULL;
    if (grown == NULL) {
        atomic_fetch_sub(&r->server->bodies, more);
        return false;
    }
    r->body = grown;
    r->body_cap = cap;
    return true;
}

void http_request_free_body(http_request *r)
{
    atomic_fetch_sub(&r->server->bodies, r->body_cap);
    free(r->body);
    r->body = NULL;
    r->body_len = r->body_cap = 0;
}

/* A piece of the body.  One that is too long cannot be answered before it has ended: it is thrown away as it comes, and cut where it exceeds patience. */
static enum MHD_Result on_body(http_request *r, const char *bytes, size_t n)
{
    r->bytes_in += n;
    if (r->response != NULL) /* refused already */
        return MHD_YES;
    if (r->body_failed == 0 && r->bytes_in > r->body_limit)
        r->body_failed = 413;
    if (r->body_failed == 0 && r->body_len + n + 1 > r->body_cap && !body_grow(r, r->body_len + n + 1))
        r->body_failed = 503;
    if (r->body_failed != 0) {
        http_request_free_body(r);
        return r->bytes_in <= 2 * (uint64_t)r->body_limit + HTTP_DRAINED_BODY ? MHD_YES : MHD_NO;
    }
    memcpy(r->body + r->body_len, bytes, n);
    r->body_len += n;
    r->body[r->body_len] = '\0';
    return MHD_YES;
}

static void hand_over(http_request *r)
{
    r->body_read = http_now();
    http_conn_deadline(r->conn, 0);
    atomic_fetch_add(&r->references, 1);
    pthread_mutex_lock(&r->lock);
    r->owned = r->handing = true;
    pthread_mutex_unlock(&r->lock);
    r->route->handle(r->server->o.arg, r);
    pthread_mutex_lock(&r->lock);
    r->handing = false;
    bool tell = r->gone && r->owned;
    pthread_mutex_unlock(&r->lock);
    if (tell && r->server->o.gone != NULL)
        r->server->o.gone(r->server->o.arg, r->id);
}

/* The body is complete: called once to hand the request over, and again after each resume until there is an answer. */
static enum MHD_Result on_complete(http_request *r, struct MHD_Connection *c)
{
    if (r->body_failed != 0) {
        int http = r->body_failed;
        r->body_failed = 0;
        r->length = 0;
        return http == 413 ? refuse_with(r, c, 413, "request_too_large", "The request's body is too large.", NULL)
                             : refuse_with(r, c, 503, NULL, "Too much is being sent at once; try again later.", &(http_header){"Retry-After", "1"});
    }
    if (r->body_read == 0 && r->response == NULL)
        hand_over(r);
    pthread_mutex_lock(&r->lock);
    bool over = r->gone || r->aborted, ready = r->response != NULL, wait = !over && !ready && !r->conn->hung_up;
    if (wait) {
        r->suspended = true;
        MHD_suspend_connection(c);
    }
    pthread_mutex_unlock(&r->lock);
    if (wait)
        return MHD_YES;
    if (!over && ready)
        return queue(r, c);
    if (!over)
        http_request_lost(r);
    return MHD_NO;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *url, const char *method, const char *version, const char *bytes, size_t *n_bytes, void **context)
{
    http_request *r = *context;
    (void)arg;
    (void)url;
    if (r == NULL)
        return MHD_NO;
    if (!r->head_done)
        return on_head(r, c, method, version);
    if (*n_bytes > 0) {
        size_t n = *n_bytes;
        *n_bytes = 0;
        return on_body(r, bytes, n);
    }
    return on_complete(r, c);
}

/* The exchange is over: the answer is in the socket, or the connection has failed. */
static void finish(http_request *r, http_conn *conn, bool sent, int http)
{
    http_server *s = r->server;
    pthread_mutex_lock(&r->lock);
    r->complete = sent && r->queued && !r->aborted;
    r->completed = http_now();
    r->status = r->status != 0 ? r->status : http;
    r->suspended = false;
    r->connection = NULL;
    r->conn = NULL;
    struct MHD_Response *unused = r->response;
    r->response = NULL;
    bool lost = !r->complete;
    pthread_mutex_unlock(&r->lock);
    if (unused != NULL)
        MHD_destroy_response(unused);
    if (lost)
        http_request_lost(r);
    http_conn_deadline(conn, s->o.idle_timeout_ms);
    conn->current = NULL;
    pthread_mutex_lock(&s->lock);
    s->n_active--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    http_request_release(r);
}

static void on_completed(void *arg, struct MHD_Connection *c, void **context, enum MHD_RequestTerminationCode code)
{
    http_request *r = *context;
    (void)arg;
    if (r == NULL)
        return;
    *context = NULL;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_HTTP_STATUS); /* the library answers some nonsense itself */
    finish(r, r->conn, code == MHD_REQUEST_TERMINATED_COMPLETED_OK, info != NULL ? (int)info->http_status : 0);
}

static void on_connection(void *arg, struct MHD_Connection *c, void **context, enum MHD_ConnectionNotificationCode code)
{
    http_server *s = arg;
    http_conn *conn = *context;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED && conn != NULL && conn->current != NULL) /* the library reports no end where it lacks the memory to refuse */
        finish(conn->current, conn, false, 0);
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
        conn = info != NULL && (size_t)info->connect_fd < s->by_fd_cap ? s->by_fd[info->connect_fd] : NULL;
        if (conn != NULL)
            conn->started = true;
        *context = conn;
    } else if (conn != NULL) {
        if (conn->linger)
            http_linger_add(s, conn);
        http_conn_free(s, conn);
        *context = NULL;
    }
}

status http_daemon_start(http_server *s, bool tls, struct MHD_Daemon **out)
{
    struct MHD_OptionItem credentials[] = {{MHD_OPTION_HTTPS_MEM_KEY, 0, s->key},
                                           {MHD_OPTION_HTTPS_MEM_CERT, 0, s->cert},
                                           {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t) "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"},
                                           {MHD_OPTION_END, 0, NULL}};
    struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET | (tls ? MHD_USE_TLS : 0);
    /* The head must fit beside what the answer's head needs. */
    size_t memory = s->o.max_head + (16u << 10);
    *out = MHD_start_daemon(flags, 0, NULL, NULL, on_request, s, MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
                            MHD_OPTION_URI_LOG_CALLBACK, on_request_line, s, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_CONNECTION_MEMORY_LIMIT, memory,
                            MHD_OPTION_CONNECTION_LIMIT, (unsigned)s->o.max_connections + 64, MHD_OPTION_CONNECTION_TIMEOUT, 0u, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_ARRAY, tls ? credentials : none,
                            MHD_OPTION_END);
    const union MHD_DaemonInfo *info = *out != NULL ? MHD_get_daemon_info(*out, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (info != NULL)
        return http_watch(s, info->epoll_fd, EPOLLIN, HTTP_EVENT(HTTP_EVENT_LIBRARY, tls, info->epoll_fd));
    if (*out == NULL)
        return tls ? FAIL(ST_FORMAT, "TLS: %s and %s are not a certificate and its key in PEM, or do not belong together", s->o.tls_cert, s->o.tls_key)
                   : FAIL(ST_IO, "the HTTP server cannot be started");
    return FAIL(ST_UNSUPPORTED, "this libmicrohttpd has no epoll");
}
