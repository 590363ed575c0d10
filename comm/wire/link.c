#include "comm/wire/wire_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct wire_quota {
    atomic_size_t bytes;
    atomic_int holders; /* the peer, and each message under way */
};

#if defined(__SANITIZE_THREAD__)
/* libzmq hands messages from thread to thread by means that ThreadSanitizer, which does not see into it, takes for races; libsodium and protobuf-c work on them. */
const char *__tsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
    return "called_from_lib:libzmq.so\ncalled_from_lib:libsodium.so\ncalled_from_lib:libprotobuf-c.so\n";
}
#endif

typedef struct outgoing {
    atomic_bool handed; /* written before ZeroMQ gets it, read on its thread: what orders the rest */
    wire_quota *quota;  /* NULL: none */
    size_t n;
    uint8_t data[];
} outgoing;

wire_quota *wire_quota_create(void)
{
    wire_quota *q = calloc(1, sizeof(*q));
    if (q != NULL)
        atomic_init(&q->holders, 1);
    return q;
}

void wire_quota_release(wire_quota **q)
{
    if (*q != NULL && atomic_fetch_sub(&(*q)->holders, 1) == 1)
        free(*q);
    *q = NULL;
}

/* Called by ZeroMQ, on its own thread, once the bytes have gone. */
static void outgoing_free(void *data, void *hint)
{
    (void)data;
    outgoing *o = hint;
    if (!atomic_load_explicit(&o->handed, memory_order_acquire))
        abort();
    if (o->quota != NULL) {
        atomic_fetch_sub(&o->quota->bytes, o->n);
        wire_quota_release(&o->quota);
    }
    free(o);
}

static status outgoing_create(size_t n, wire_quota *q, size_t limit, outgoing **out)
{
    if (n > WIRE_MAX_MESSAGE || (q != NULL && n > limit))
        return ST_INVALID;
    if (q != NULL && atomic_load(&q->bytes) + n > limit)
        return ST_LIMIT;
    outgoing *o = malloc(sizeof(*o) + n);
    if (o == NULL)
        return ST_NO_MEMORY;
    atomic_init(&o->handed, false);
    o->quota = q;
    o->n = n;
    if (q != NULL) {
        atomic_fetch_add(&q->bytes, n);
        atomic_fetch_add(&q->holders, 1);
    }
    *out = o;
    return ST_OK;
}

static status outgoing_message(outgoing *o, zmq_msg_t *out)
{
    size_t n = o->n;
    atomic_store_explicit(&o->handed, true, memory_order_release);
    if (zmq_msg_init_data(out, o->data, n, outgoing_free, o) == 0)
        return ST_OK;
    outgoing_free(o->data, o);
    return ST_NO_MEMORY;
}

status wire_outgoing(const Trireme__Envelope *e, wire_quota *q, size_t limit, zmq_msg_t *out)
{
    outgoing *o;
    TRY(outgoing_create(trireme__envelope__get_packed_size(e), q, limit, &o));
    trireme__envelope__pack(e, o->data);
    return outgoing_message(o, out);
}

status wire_outgoing_bytes(const void *packed, size_t n, zmq_msg_t *out)
{
    outgoing *o;
    TRY(outgoing_create(n, NULL, 0, &o));
    memcpy(o->data, packed, n);
    return outgoing_message(o, out);
}

status wire_wake_create(wire_wake *w)
{
    atomic_init(&w->set, false);
    w->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return w->fd >= 0 ? ST_OK : FAIL(ST_IO, "eventfd: %s", strerror(errno));
}

void wire_wake_destroy(wire_wake *w)
{
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
}

void wire_wake_set(wire_wake *w)
{
    int saved = errno; /* a signal handler may be the caller */
    if (!atomic_exchange(&w->set, true) && write(w->fd, &(uint64_t){1}, sizeof(uint64_t)) < 0)
        atomic_store(&w->set, false);
    errno = saved;
}

void wire_wake_look(wire_wake *w, bool readable)
{
    /* The flag is cleared before the count is read: a wake in between leaves the flag set, and the owner looks at it before it waits. */
    bool woken = atomic_load_explicit(&w->set, memory_order_relaxed) && atomic_exchange(&w->set, false);
    if (woken || readable) {
        uint64_t count;
        ssize_t got = read(w->fd, &count, sizeof(count));
        (void)got;
    }
    w->due = w->due || woken;
}

bool wire_wake_turn(wire_wake *w)
{
    w->turn = w->due && !w->turn;
    w->due = w->due && !w->turn;
    return w->turn;
}

wire_tuning wire_tuning_of(int heartbeat_ms, int send_queue, size_t send_bytes)
{
    wire_tuning t = {.heartbeat_ms = heartbeat_ms > 0 ? heartbeat_ms : 500, .send_queue = send_queue > 0 ? send_queue : 4096,
                     .send_bytes = send_bytes > 0 ? send_bytes : (size_t)64 << 20};
    t.heartbeat = t.heartbeat_ms * 1e-3;
    t.silence = 4 * t.heartbeat;
    return t;
}

void *wire_context_create(void)
{
    void *c = zmq_ctx_new();
    if (c != NULL)
        zmq_ctx_set(c, ZMQ_BLOCKY, 0); /* sockets do not linger unless told */
    return c;
}

static bool set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof(value)) == 0;
}

void *wire_socket_create(void *context, int type, const wire_tuning *t)
{
    /* An encrypted frame is a little longer than its message.  Few messages wait inside, since each may be large: the owner reads all the time.
     * ZMTP's own heartbeats stay off: a connection whose input waits for its owner and which then breaks makes libzmq 4.3.4 abort the process at the next of
     * them (zeromq/libzmq issue 4364).  Ours do their work; what is left to TCP's keep-alive is connections that broke before they said anything. */
    const struct {
        int option, value;
    } options[] = {
        {ZMQ_LINGER, 0}, {ZMQ_SNDHWM, t->send_queue}, {ZMQ_RCVHWM, 64}, {ZMQ_HANDSHAKE_IVL, 5000}, {ZMQ_TCP_KEEPALIVE, 1},
        {ZMQ_TCP_KEEPALIVE_IDLE, 30}, {ZMQ_TCP_KEEPALIVE_INTVL, 10}, {ZMQ_TCP_KEEPALIVE_CNT, 3}, {ZMQ_RECONNECT_IVL, 200}, {ZMQ_RECONNECT_IVL_MAX, 2000},
    };
    void *s = zmq_socket(context, type);
    bool ok = s != NULL;
    for (size_t i = 0; i < ARRAY_LEN(options) && ok; i++)
        ok = set_int(s, options[i].option, options[i].value);
    int64_t most = (int64_t)WIRE_MAX_MESSAGE + 256;
    if (ok && type != ZMQ_PAIR && type != ZMQ_REP)
        ok = zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &most, sizeof(most)) == 0;
    if (!ok && s != NULL)
        zmq_close(s);
    return ok ? s : NULL;
}

status wire_socket_secure(void *socket, const wire_security *s, bool server)
{
    if (s->plain)
        return ST_OK;
    if (!zmq_has("curve"))
        return FAIL(ST_UNSUPPORTED, "this libzmq was built without CURVE encryption; use one with it (Debian's has it)");
    bool ok = zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, s->keys.secret_key, WIRE_KEY) == 0;
    if (server)
        ok = ok && set_int(socket, ZMQ_CURVE_SERVER, 1) && zmq_setsockopt(socket, ZMQ_ZAP_DOMAIN, "trireme", 7) == 0;
    else
        ok = ok && zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, s->keys.public_key, WIRE_KEY) == 0 &&
             zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, s->server_key, WIRE_KEY) == 0;
    return ok ? ST_OK : FAIL(ST_INVALID, "CURVE keys: %s", zmq_strerror(errno));
}

void *wire_monitor_create(void *context, void *socket, unsigned number, int events)
{
    char name[32];
    snprintf(name, sizeof(name), "inproc://events-%u", number);
    void *pair = zmq_socket(context, ZMQ_PAIR);
    if (pair == NULL || zmq_socket_monitor(socket, name, events) != 0 || zmq_connect(pair, name) != 0) {
        if (pair != NULL)
            zmq_close(pair);
        return NULL;
    }
    return pair;
}

void wire_monitor_destroy(void *socket, void **monitor)
{
    if (*monitor == NULL)
        return;
    zmq_socket_monitor(socket, NULL, 0);
    zmq_close(*monitor);
    *monitor = NULL;
}

int wire_monitor_next(void *monitor, int *value)
{
    unsigned char event[6]; /* 16 bits of event, 32 of value, of this machine's order; the address follows in a second part */
    int n = zmq_recv(monitor, event, sizeof(event), ZMQ_DONTWAIT);
    if (n < 0)
        return 0;
    wire_skip_parts(monitor);
    uint16_t id = 0;
    uint32_t v = 0;
    if (n >= 6) {
        memcpy(&id, event, 2);
        memcpy(&v, event + 2, 4);
    }
    *value = (int)v;
    return id;
}

void wire_poll(zmq_pollitem_t *items, int n, double seconds)
{
    long ms = seconds <= 0 ? 0 : (long)(seconds * 1e3) + 1;
    zmq_poll(items, n, ms); /* interrupted: the caller looks again */
}

int wire_skip_parts(void *socket)
{
    int parts = 0, more = 1;
    for (;;) {
        size_t size = sizeof(more);
        zmq_msg_t m;
        if (zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size) != 0 || !more)
            return parts;
        zmq_msg_init(&m);
        if (zmq_msg_recv(&m, socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&m);
            return parts;
        }
        zmq_msg_close(&m);
        parts++;
    }
}

static bool port_valid(const char *port, bool server)
{
    if (strcmp(port, "*") == 0)
        return server;
    size_t n = strspn(port, "0123456789");
    long number = n > 0 && n <= 5 && port[n] == '\0' ? strtol(port, NULL, 10) : -1;
    return number >= (server ? 0 : 1) && number <= 65535;
}

status wire_endpoint_check(const char *endpoint, bool server)
{
    if (strncmp(endpoint, "ipc://", 6) == 0) {
        size_t n = strlen(endpoint + 6), most = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;
        if (n > 0 && n <= most)
            return ST_OK;
        return FAIL(ST_INVALID, "%s: the path of a local socket has 1 to %zu letters", endpoint, most);
    }
    const char *port = strrchr(endpoint, ':');
    if (strncmp(endpoint, "tcp://", 6) == 0 && port != NULL && port > endpoint + 6 && port_valid(port + 1, server))
        return ST_OK;
    return FAIL(ST_INVALID, "%s: not an address for replicas and gateway; give %s or ipc:///PATH", endpoint, server ? "tcp://ADDRESS:PORT" : "tcp://HOST:PORT");
}

status wire_endpoint_free(const char *endpoint)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strncmp(endpoint, "ipc://", 6) != 0)
        return ST_OK;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return FAIL(ST_IO, "%s: %s", endpoint, strerror(errno));
    strncpy(a.sun_path, endpoint + 6, sizeof(a.sun_path) - 1);
    bool taken = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 || errno == EAGAIN;
    close(fd);
    return taken ? FAIL(ST_BUSY, "%s: another process listens there", endpoint) : ST_OK;
}

bool wire_endpoint_local(const char *endpoint)
{
    static const char *const local[] = {"ipc://", "tcp://127.", "tcp://[::1]:", "tcp://localhost:", "tcp://lo:"};
    for (size_t i = 0; i < ARRAY_LEN(local); i++)
        if (strncmp(endpoint, local[i], strlen(local[i])) == 0)
            return true;
    return false;
}

/* The socket belongs to our end of `endpoint` (as bound), so that nothing else in this process is ever shut. */
static bool is_ours(int fd, const char *endpoint)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un local;
    } a = {0};
    socklen_t n = sizeof(a);
    const char *port = strrchr(endpoint, ':');
    if (getsockname(fd, &a.any, &n) != 0)
        return false;
    if (a.any.sa_family == AF_UNIX)
        return strncmp(endpoint, "ipc://", 6) == 0 && strncmp(a.local.sun_path, endpoint + 6, sizeof(a.local.sun_path)) == 0;
    unsigned bound = a.any.sa_family == AF_INET ? a.v4.sin_port : a.any.sa_family == AF_INET6 ? a.v6.sin6_port : 0;
    return strncmp(endpoint, "tcp://", 6) == 0 && bound != 0 && port != NULL && ntohs((uint16_t)bound) == strtoul(port + 1, NULL, 10);
}

static bool cookie_of(int fd, uint64_t *cookie)
{
    socklen_t n = sizeof(*cookie);
    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, cookie, &n) == 0;
}

wire_connection wire_connection_of(zmq_msg_t *m, const char *endpoint)
{
    wire_connection c = {.fd = zmq_msg_get(m, ZMQ_SRCFD)};
    if (c.fd >= 0 && (!is_ours(c.fd, endpoint) || !cookie_of(c.fd, &c.cookie)))
        c.fd = -1;
    return c;
}

void wire_connection_shut(const wire_connection *c)
{
    uint64_t cookie;
    int fd = c->fd >= 0 ? fcntl(c->fd, F_DUPFD_CLOEXEC, 0) : -1; /* a descriptor of our own cannot become another socket's between look and deed */
    if (fd < 0)
        return;
    if (cookie_of(fd, &cookie) && cookie == c->cookie)
        shutdown(fd, SHUT_RDWR);
    close(fd);
}

void wire_report(Trireme__Goodbye *g, Trireme__Envelope *e, const char *reason, bool retry)
{
    trireme__goodbye__init(g);
    trireme__envelope__init(e);
    g->reason = (char *)(uintptr_t)reason;
    g->retry = retry;
    e->body_case = TRIREME__ENVELOPE__BODY_GOODBYE;
    e->goodbye = g;
}
