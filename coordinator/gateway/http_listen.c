#include "coordinator/gateway/http_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"

#define BACKLOG 4096
/* The kernel doubles it.  Bounds what a client that never reads ties up; text needs no more. */
#define SEND_BUFFER (64 << 10)
#define LINGER_NS 2000000000u
#define LINGER_BYTES (64u << 20)

status http_watch(http_server *s, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event e = {.events = events, .data.u64 = data};
    if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &e) != 0)
        return FAIL(ST_IO, "epoll: %s", strerror(errno));
    return ST_OK;
}

static status add_listener(http_server *s, int fd, int port, int spec, bool tls, const char *path)
{
    http_listener *grown = realloc(s->listeners, (size_t)(s->n_listeners + 1) * sizeof(*grown));
    if (grown == NULL) {
        close(fd);
        return FAIL(ST_NO_MEMORY, "no memory for a listening socket");
    }
    s->listeners = grown;
    s->listeners[s->n_listeners++] = (http_listener){.fd = fd, .port = port, .spec = spec, .tls = tls, .path = path != NULL ? strdup(path) : NULL};
    return http_watch(s, fd, EPOLLIN, HTTP_EVENT(HTTP_EVENT_LISTENER, s->n_listeners - 1, fd));
}

/* A socket file that nobody answers behind is left over from a process that was killed. */
static void remove_stale(const struct sockaddr_un *a)
{
    struct stat sb;
    if (stat(a->sun_path, &sb) != 0 || !S_ISSOCK(sb.st_mode))
        return;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return;
    if (connect(fd, (const struct sockaddr *)a, sizeof(*a)) != 0 && errno == ECONNREFUSED)
        unlink(a->sun_path);
    close(fd);
}

static status open_unix(http_server *s, int spec, const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(a.sun_path) || path[0] == '\0')
        return FAIL(ST_INVALID, "listen unix:%s: a path of 1 to %zu bytes is needed", path, sizeof(a.sun_path) - 1);
    memcpy(a.sun_path, path, strlen(path) + 1);
    remove_stale(&a);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return FAIL(ST_IO, "socket: %s", strerror(errno));
    if (bind(fd, (struct sockaddr *)&a, sizeof(a)) != 0 || listen(fd, BACKLOG) != 0) {
        int e = errno;
        close(fd);
        if (e == EADDRINUSE)
            return FAIL(ST_IO, "listen unix:%s: in use by another process, or not a socket", path);
        return FAIL(ST_IO, "listen unix:%s: %s", path, strerror(e));
    }
    return add_listener(s, fd, 0, spec, false, path);
}

static int bound_port(int fd)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof(a);
    if (getsockname(fd, (struct sockaddr *)&a, &len) != 0)
        return 0;
    return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port : ((struct sockaddr_in *)&a)->sin_port);
}

/* errno in *error; -1 if it cannot be opened. */
static int open_tcp(const struct addrinfo *ai, bool both, int port, int *error)
{
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        *error = errno;
        return -1;
    }
    const int one = 1, v6only = !both, buffer = SEND_BUFFER, idle = 30, interval = 10, count = 3;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer)); /* accepted sockets inherit all of these */
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));    /* a client whose machine is gone */
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
    if (ai->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only));
    struct sockaddr_storage a;
    memcpy(&a, ai->ai_addr, ai->ai_addrlen);
    if (ai->ai_family == AF_INET6)
        ((struct sockaddr_in6 *)&a)->sin6_port = htons((uint16_t)port);
    else
        ((struct sockaddr_in *)&a)->sin_port = htons((uint16_t)port);
    if (bind(fd, (struct sockaddr *)&a, ai->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
        *error = errno;
        close(fd);
        return -1;
    }
    return fd;
}

/* All addresses of a name; a name like localhost has two, and not every machine has both families. */
static status open_addresses(http_server *s, int spec, const char *host, int port)
{
    bool any = strcmp(host, "*") == 0, tls = s->o.tls_cert != NULL;
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    const struct addrinfo v6 = {.ai_family = AF_INET6, .ai_addr = (struct sockaddr *)&(struct sockaddr_in6){.sin6_family = AF_INET6}, .ai_addrlen = sizeof(struct sockaddr_in6)};
    int error = 0, opened = 0, e = getaddrinfo(any ? "0.0.0.0" : host, NULL, &hints, &list);
    if (e != 0)
        return FAIL(ST_INVALID, "listen %s: %s", host, gai_strerror(e));
    status st = ST_OK;
    int fd = any ? open_tcp(&v6, true, port, &error) : -1; /* both families at once, where there is IPv6 */
    if (fd >= 0) {
        st = add_listener(s, fd, bound_port(fd), spec, tls, NULL);
        opened++;
    }
    for (const struct addrinfo *ai = list; ai != NULL && st == ST_OK && !(any && (opened > 0 || error == EADDRINUSE)); ai = ai->ai_next) {
        if (ai->ai_family != AF_INET && ai->ai_family != AF_INET6)
            continue;
        fd = open_tcp(ai, false, port, &error);
        if (fd < 0 && (error == EADDRINUSE || error == EACCES))
            break;
        if (fd < 0)
            continue;
        opened++;
        st = add_listener(s, fd, bound_port(fd), spec, tls, NULL);
        port = bound_port(fd); /* the second family gets the port that the first was given */
    }
    freeaddrinfo(list);
    if (st != ST_OK)
        return st;
    if (error == EADDRINUSE)
        return FAIL(ST_IO, "listen %s:%d: the port is in use; stop what uses it or choose another", host, port);
    if (opened == 0 || error == EACCES)
        return FAIL(ST_IO, "listen %s:%d: %s", host, port, strerror(error));
    return ST_OK;
}

static status open_spec(http_server *s, int spec, const char *text)
{
    if (strncmp(text, "unix:", 5) == 0)
        return open_unix(s, spec, text + 5);
    const char *colon = strrchr(text, ':');
    char host[256], *end;
    long port = colon != NULL ? strtol(colon + 1, &end, 10) : -1;
    if (colon == NULL || end == colon + 1 || *end != '\0' || port < 0 || port > 65535 || (size_t)(colon - text) >= sizeof(host))
        return FAIL(ST_INVALID, "listen %s: give HOST:PORT, *:PORT, [IPv6]:PORT or unix:PATH", text);
    size_t n = (size_t)(colon - text);
    if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
        text++;
        n -= 2;
    }
    memcpy(host, text, n);
    host[n] = '\0';
    return open_addresses(s, spec, n == 0 ? "*" : host, (int)port);
}

status http_listen_open(http_server *s)
{
    for (int i = 0; i < s->o.n_listen; i++)
        TRY(open_spec(s, i, s->o.listen[i]));
    return s->n_listeners > 0 ? ST_OK : FAIL(ST_INVALID, "no address to listen on");
}

void http_listen_close(http_server *s)
{
    for (int i = 0; i < s->n_listeners; i++) {
        if (s->listeners[i].fd >= 0)
            close(s->listeners[i].fd);
        if (s->listeners[i].path != NULL)
            unlink(s->listeners[i].path);
        free(s->listeners[i].path);
    }
    free(s->listeners);
    s->listeners = NULL;
    s->n_listeners = 0;
}

static void show_address(const struct sockaddr_storage *a, char out[INET6_ADDRSTRLEN])
{
    snprintf(out, INET6_ADDRSTRLEN, "unix");
    if (a->ss_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)a)->sin_addr, out, INET6_ADDRSTRLEN);
    if (a->ss_family == AF_INET6) {
        const struct in6_addr *six = &((const struct sockaddr_in6 *)a)->sin6_addr;
        if (IN6_IS_ADDR_V4MAPPED(six))
            inet_ntop(AF_INET, six->s6_addr + 12, out, INET6_ADDRSTRLEN);
        else
            inet_ntop(AF_INET6, six, out, INET6_ADDRSTRLEN);
    }
}

/* A new connection in the table; NULL: refused, over a limit or out of memory. */
static http_conn *conn_add(http_server *s, int fd, const struct sockaddr_storage *a)
{
    http_conn *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return NULL;
    c->fd = fd;
    show_address(a, c->address);
    int same = 0;
    if (s->o.max_connections_per_address > 0 && a->ss_family != AF_UNIX) {
        for (const http_conn *o = s->conns; o != NULL; o = o->next)
            same += strcmp(o->address, c->address) == 0;
    }
    bool full = http_server_connections(s) >= s->o.max_connections || (s->o.max_connections_per_address > 0 && same >= s->o.max_connections_per_address) || (size_t)fd >= s->by_fd_cap;
    if (full) {
        free(c);
        return NULL;
    }
    if (s->by_fd[fd] != NULL) /* the library could not take it, and says so to nobody */
        http_conn_free(s, s->by_fd[fd]);
    c->generation = ++s->generation & 0xffffff;
    c->next = s->conns;
    if (c->next != NULL)
        c->next->prev = c;
    s->conns = s->by_fd[fd] = c;
    pthread_mutex_lock(&s->lock);
    s->n_conns++;
    pthread_mutex_unlock(&s->lock);
    http_conn_deadline(c, s->o.head_timeout_ms);
    return c;
}

void http_conn_free(http_server *s, http_conn *c)
{
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        s->conns = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    s->by_fd[c->fd] = NULL;
    free(c);
    pthread_mutex_lock(&s->lock);
    s->n_conns--;
    pthread_mutex_unlock(&s->lock);
}

static void linger_start(http_server *s, int fd)
{
    shutdown(fd, SHUT_WR);
    if (s->n_lingering == HTTP_MAX_LINGERING || http_watch(s, fd, EPOLLIN | EPOLLRDHUP, HTTP_EVENT(HTTP_EVENT_LINGER, 0, fd)) != ST_OK) {
        close(fd);
        return;
    }
    s->lingering[s->n_lingering++] = (http_lingering){.fd = fd, .deadline = http_now() + LINGER_NS, .bytes_left = LINGER_BYTES};
}

/* Too many connections: says so where that needs no handshake, and gives the client the chance to read it. */
static void turn_away(http_server *s, int fd, bool tls)
{
    static const char body[] = "{\"error\": {\"message\": \"Too many connections; try again later.\", \"type\": \"server_error\", \"param\": null, \"code\": null}}";
    char busy[512];
    int n = snprintf(busy, sizeof(busy), "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                     sizeof(body) - 1, body);
    if (tls || send(fd, busy, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        close(fd);
        return;
    }
    linger_start(s, fd);
}

void http_listen_accept(http_server *s, const http_listener *l)
{
    for (int i = 0; i < 64; i++) { /* then look at what else has happened */
        struct sockaddr_storage a;
        socklen_t len = sizeof(a);
        int fd = accept4(l->fd, (struct sockaddr *)&a, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                log_warn("cannot accept a connection: %s", strerror(errno));
                s->accept_paused = true;
            }
            return;
        }
        http_conn *c = conn_add(s, fd, &a);
        if (c == NULL) {
            turn_away(s, fd, l->tls);
            continue;
        }
        status_mute();
        http_watch(s, fd, EPOLLRDHUP | EPOLLET, HTTP_EVENT(HTTP_EVENT_CONN, c->generation, fd));
        status_unmute();
        struct sockaddr *addr = (struct sockaddr *)&a;
        if (MHD_add_connection(l->tls ? s->tls : s->plain, fd, addr, len) != MHD_YES && s->by_fd[fd] == c)
            http_conn_free(s, c); /* the library has closed fd */
    }
}

void http_linger_add(http_server *s, http_conn *c)
{
    epoll_ctl(s->epoll, EPOLL_CTL_DEL, c->fd, NULL); /* the copy would keep it in */
    int fd = fcntl(c->fd, F_DUPFD_CLOEXEC, 0);
    if (fd >= 0)
        linger_start(s, fd);
}

static void linger_end(http_server *s, int i)
{
    close(s->lingering[i].fd);
    s->lingering[i] = s->lingering[--s->n_lingering];
}

void http_linger_read(http_server *s, int fd)
{
    char waste[16 << 10];
    for (int i = 0; i < s->n_lingering; i++) {
        if (s->lingering[i].fd != fd)
            continue;
        for (int n = 0; n < 16; n++) {
            ssize_t got = recv(fd, waste, sizeof(waste), MSG_DONTWAIT);
            if (got < 0 && (errno == EAGAIN || errno == EINTR))
                break;
            if (got <= 0 || (uint64_t)got >= s->lingering[i].bytes_left) {
                linger_end(s, i);
                break;
            }
            s->lingering[i].bytes_left -= (uint64_t)got;
        }
        break;
    }
}

void http_linger_sweep(http_server *s, uint64_t now)
{
    for (int i = s->n_lingering - 1; i >= 0; i--) {
        if (now >= s->lingering[i].deadline)
            linger_end(s, i);
    }
}
