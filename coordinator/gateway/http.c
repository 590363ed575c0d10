#include "coordinator/gateway/http_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"

#define TICK_MS 100
#define GIVE_BACK_MS 10000
#define HUNG_UP_MS 500
#define DESCRIPTORS_APART 64 /* for everything that is not a connection */

uint64_t http_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void http_conn_deadline(http_conn *c, int ms)
{
    if (c->hung_up && ms > HUNG_UP_MS)
        ms = HUNG_UP_MS;
    c->deadline = ms > 0 ? http_now() + (uint64_t)ms * 1000000u : 0;
}

status http_raise_open_files(int n, int *got)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return FAIL(ST_IO, "getrlimit: %s", strerror(errno));
    rlim_t want = limit.rlim_max == RLIM_INFINITY || (rlim_t)n < limit.rlim_max ? (rlim_t)n : limit.rlim_max;
    if (limit.rlim_cur < want) {
        limit.rlim_cur = want;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
            return FAIL(ST_IO, "setrlimit: open files to %d: %s", (int)want, strerror(errno));
    }
    *got = limit.rlim_cur > 1 << 20 ? 1 << 20 : (int)limit.rlim_cur;
    return ST_OK;
}

/* ---- the I/O thread ---- */

/* Ends a connection: the library sees the end of it, unless it is not looking, which http_request_lost mends. */
static void cut(http_conn *c)
{
    c->cut = true;
    if (c->started)
        shutdown(c->fd, SHUT_RDWR);
    if (c->current != NULL)
        http_request_lost(c->current);
}

static void sweep(http_server *s, uint64_t now)
{
    bool all = atomic_load(&s->cutting);
    for (http_conn *c = s->conns; c != NULL; c = c->next) {
        if (!c->cut && (all || (c->deadline != 0 && now >= c->deadline)))
            cut(c);
    }
}

/* Has the answer still to be made, or more of it to come? */
static bool at_work(http_request *r)
{
    pthread_mutex_lock(&r->lock);
    bool yes = r->owned && !r->gone && (r->streaming ? !r->ended : r->response == NULL && !r->queued);
    pthread_mutex_unlock(&r->lock);
    return yes;
}

static void hung_up(http_server *s, int fd, uint32_t generation)
{
    http_conn *c = (size_t)fd < s->by_fd_cap ? s->by_fd[fd] : NULL;
    if (c == NULL || c->generation != generation)
        return;
    c->hung_up = true;
    if (c->current != NULL && at_work(c->current))
        cut(c);
    else
        http_conn_deadline(c, HUNG_UP_MS); /* what has arrived may be whole; if it is not, the library may wait for more */
}

void http_wake(http_server *s)
{
    uint64_t one = 1;
    if (!atomic_exchange(&s->woken, true) && write(s->wake, &one, sizeof(one)) < 0)
        log_debug("the HTTP server will see it at its next tick");
}

/* Which libraries have something to do. */
typedef struct runs {
    bool plain, tls;
} runs;

static void on_event(http_server *s, const struct epoll_event *e, runs *run)
{
    int fd = (int)(uint32_t)e->data.u64;
    uint32_t middle = (uint32_t)(e->data.u64 >> 32) & 0xffffff;
    uint64_t n;
    switch (e->data.u64 >> 56) {
    case HTTP_EVENT_WAKE:
        run->plain = run->tls = true;
        if (read(s->wake, &n, sizeof(n)) == sizeof(n))
            atomic_store(&s->woken, false);
        return;
    case HTTP_EVENT_LISTENER:
        if (!s->accept_paused)
            http_listen_accept(s, &s->listeners[middle]);
        return;
    case HTTP_EVENT_CONN:
        hung_up(s, fd, middle);
        return;
    case HTTP_EVENT_LIBRARY:
        *(middle != 0 ? &run->tls : &run->plain) = true;
        return;
    default:
        http_linger_read(s, fd);
    }
}

/* Has it something left to do though no event will say so? */
static bool run(struct MHD_Daemon *d, bool now)
{
    MHD_UNSIGNED_LONG_LONG ms;
    if (d == NULL)
        return false;
    if (now)
        MHD_run(d);
    return MHD_get_timeout(d, &ms) == MHD_YES && ms == 0;
}

static void *io_loop(void *arg)
{
    http_server *s = arg;
    uint64_t swept = 0;
    runs pending = {0};
    sigset_t all;
    sigfillset(&all); /* signals are others' business, and a closed socket is an error, not SIGPIPE */
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    while (!atomic_load(&s->stopping)) {
        struct epoll_event events[64];
        int n = epoll_wait(s->epoll, events, ARRAY_LEN(events), pending.plain || pending.tls ? 0 : TICK_MS);
        for (int i = 0; i < n; i++)
            on_event(s, &events[i], &pending);
        pending.plain = run(s->plain, pending.plain);
        pending.tls = run(s->tls, pending.tls);
        uint64_t now = http_now();
        if (now - swept >= TICK_MS * 900000u) {
            swept = now;
            sweep(s, now);
            http_linger_sweep(s, now);
            s->accept_paused = false;
        } else if (s->accept_paused) {
            usleep(1000); /* listening sockets stay readable */
        }
    }
    return NULL;
}

/* ---- life ---- */

static const char *copy_string(http_server *s, const char *text)
{
    return text != NULL ? mem_arena_strndup(s->strings, text, strlen(text)) : NULL;
}

static const char *const *copy_strings(http_server *s, const char *const *list, int n)
{
    const char **copy = mem_arena_alloc(s->strings, (size_t)(n + 1) * sizeof(*copy));
    for (int i = 0; copy != NULL && i < n; i++) {
        copy[i] = copy_string(s, list[i]);
        if (copy[i] == NULL)
            return NULL;
    }
    return copy;
}

#define DEFAULT(field, value) s->o.field = s->o.field > 0 ? s->o.field : (value)

static status copy_options(http_server *s, const http_options *o)
{
    s->o = *o;
    s->o.listen = copy_strings(s, o->listen, o->n_listen);
    s->o.cors_origins = copy_strings(s, o->cors_origins, o->n_cors_origins);
    s->o.tls_cert = copy_string(s, o->tls_cert);
    s->o.tls_key = copy_string(s, o->tls_key);
    if (s->o.listen == NULL || s->o.cors_origins == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for the HTTP server's options");
    if ((o->tls_cert == NULL) != (o->tls_key == NULL))
        return FAIL(ST_INVALID, "TLS needs both a certificate and a key");
    DEFAULT(max_head, 32u << 10);
    DEFAULT(max_body, 16u << 20);
    DEFAULT(max_unread, 1u << 20);
    DEFAULT(max_bodies, (size_t)1 << 30);
    DEFAULT(max_connections, 4096);
    DEFAULT(head_timeout_ms, 15000);
    DEFAULT(body_timeout_ms, 60000);
    DEFAULT(idle_timeout_ms, 75000);
    DEFAULT(write_timeout_ms, 30000);
    return ST_OK;
}

static status size_for_files(http_server *s)
{
    int got;
    TRY(http_raise_open_files(s->o.max_connections + HTTP_MAX_LINGERING + DESCRIPTORS_APART, &got));
    int room = got - HTTP_MAX_LINGERING - DESCRIPTORS_APART;
    if (room < 1)
        return FAIL(ST_LIMIT, "only %d open files are allowed; raise the limit (ulimit -n)", got);
    if (s->o.max_connections > room) {
        log_warn("%d open files allow %d connections at once, not %d (ulimit -n)", got, room, s->o.max_connections);
        s->o.max_connections = room;
    }
    s->by_fd_cap = (size_t)got;
    return mem_calloc(s->by_fd_cap, sizeof(*s->by_fd), "connections", &s->by_fd);
}

static status load_tls(http_server *s)
{
    size_t n;
    if (s->o.tls_cert == NULL)
        return ST_OK;
    TRY(file_read_all(s->o.tls_cert, 1 << 20, &s->cert, &n));
    return file_read_all(s->o.tls_key, 1 << 20, &s->key, &n);
}

static status start(http_server *s)
{
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->epoll < 0 || s->wake < 0)
        return FAIL(ST_IO, "epoll: %s", strerror(errno));
    TRY(http_watch(s, s->wake, EPOLLIN, HTTP_EVENT(HTTP_EVENT_WAKE, 0, s->wake)));
    if (getrandom(&s->epoch, sizeof(s->epoch), GRND_NONBLOCK) < 0)
        s->epoch = http_now();
    TRY(size_for_files(s));
    TRY(load_tls(s));
    TRY(http_listen_open(s));
    for (int i = 0; i < s->n_listeners; i++) {
        struct MHD_Daemon **daemon = s->listeners[i].tls ? &s->tls : &s->plain;
        if (*daemon == NULL)
            TRY(http_daemon_start(s, s->listeners[i].tls, daemon));
    }
    int error = pthread_create(&s->io, NULL, io_loop, s);
    if (error != 0)
        return FAIL(ST_IO, "the HTTP server's thread: %s", strerror(error));
    s->running = true;
    return ST_OK;
}

static void server_free(http_server *s)
{
    http_listen_close(s);
    for (int i = 0; i < s->n_lingering; i++)
        close(s->lingering[i].fd);
    while (s->conns != NULL)
        http_conn_free(s, s->conns);
    if (s->epoll >= 0)
        close(s->epoll);
    if (s->wake >= 0)
        close(s->wake);
    if (s->key != NULL)
        explicit_bzero(s->key, strlen(s->key));
    free(s->key);
    free(s->cert);
    free(s->by_fd);
    mem_arena_destroy(&s->strings);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    free(s);
}

status http_server_create(const http_options *options, http_server **out)
{
    http_server *s = NULL;
    TRY(mem_calloc(1, sizeof(*s), "the HTTP server", &s));
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    s->epoll = s->wake = -1;
    s->strings = mem_arena_create(0);
    status st = s->strings != NULL ? copy_options(s, options) : FAIL(ST_NO_MEMORY, "no memory for the HTTP server");
    if (st == ST_OK)
        st = start(s);
    if (st != ST_OK) {
        http_server_destroy(&s, 0);
        return st;
    }
    *out = s;
    return ST_OK;
}

int http_server_port(const http_server *s, int spec)
{
    for (int i = 0; i < s->n_listeners; i++) {
        if (s->listeners[i].spec == spec)
            return s->listeners[i].port;
    }
    return 0;
}

void http_server_drain(http_server *s)
{
    atomic_store(&s->draining, true);
}

int http_server_active(const http_server *s)
{
    http_server *m = (http_server *)(uintptr_t)s;
    pthread_mutex_lock(&m->lock);
    int n = m->n_active;
    pthread_mutex_unlock(&m->lock);
    return n;
}

int http_server_connections(const http_server *s)
{
    http_server *m = (http_server *)(uintptr_t)s;
    pthread_mutex_lock(&m->lock);
    int n = m->n_conns;
    pthread_mutex_unlock(&m->lock);
    return n;
}

/* Waits until *count is 0; false: not within the time. */
static bool wait_zero(http_server *s, const int *count, int timeout_ms)
{
    uint64_t end = http_now() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * 1000000u;
    struct timespec t = {.tv_sec = (time_t)(end / 1000000000u), .tv_nsec = (long)(end % 1000000000u)};
    pthread_mutex_lock(&s->lock);
    while (*count > 0 && pthread_cond_timedwait(&s->changed, &s->lock, &t) == 0)
        ;
    bool zero = *count == 0;
    pthread_mutex_unlock(&s->lock);
    return zero;
}

void http_server_destroy(http_server **sp, int timeout_ms)
{
    http_server *s = *sp;
    if (s == NULL)
        return;
    *sp = NULL;
    http_server_drain(s);
    if (s->running && !wait_zero(s, &s->n_active, timeout_ms))
        atomic_store(&s->cutting, true); /* at the next tick */
    bool returned = !s->running || wait_zero(s, &s->n_requests, GIVE_BACK_MS);
    if (s->running) {
        atomic_store(&s->stopping, true);
        http_wake(s);
        pthread_join(s->io, NULL);
    }
    if (!returned) { /* stopping would free what they use */
        log_error("%d requests were not given back: the HTTP server is left as it is", s->n_requests);
        return;
    }
    if (s->plain != NULL)
        MHD_stop_daemon(s->plain);
    if (s->tls != NULL)
        MHD_stop_daemon(s->tls);
    server_free(s);
}

/* ---- the request, for its owner ---- */

uint64_t http_request_id(const http_request *r)
{
    return r->id;
}

const char *http_request_name(const http_request *r)
{
    return r->name;
}

const char *http_request_method(const http_request *r)
{
    return r->method;
}

const char *http_request_path(const http_request *r)
{
    return r->path;
}

const char *http_request_param(const http_request *r)
{
    return r->param;
}

const http_route *http_request_route(const http_request *r)
{
    return r->route;
}

const char *http_request_header(const http_request *r, const char *name)
{
    for (size_t i = 0; i < r->n_headers; i++) {
        if (strcasecmp(r->headers[i].name, name) == 0)
            return r->headers[i].value;
    }
    return NULL;
}

const char *http_request_query(const http_request *r, const char *name)
{
    for (size_t i = 0; i < r->n_query; i++) {
        if (strcmp(r->query[i].name, name) == 0)
            return r->query[i].value;
    }
    return NULL;
}

const char *http_request_body(const http_request *r, size_t *len)
{
    *len = r->body_len;
    return r->body != NULL ? r->body : "";
}

const char *http_request_address(const http_request *r)
{
    return r->address;
}

uint64_t http_request_body_read(const http_request *r)
{
    return r->body_read;
}

bool http_request_gone(const http_request *r)
{
    http_request *m = (http_request *)(uintptr_t)r;
    pthread_mutex_lock(&m->lock);
    bool gone = m->gone;
    pthread_mutex_unlock(&m->lock);
    return gone;
}

void http_request_caller_set(http_request *r, int32_t caller)
{
    r->caller = caller;
}

int32_t http_request_caller(const http_request *r)
{
    return r->caller;
}

void http_request_note(http_request *r, char **text)
{
    pthread_mutex_lock(&r->lock);
    char *old = r->note;
    r->note = *text;
    pthread_mutex_unlock(&r->lock);
    *text = NULL;
    free(old);
}
