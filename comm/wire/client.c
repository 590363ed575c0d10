/* comm/wire/client.c - a replica's end: a DEALER socket that finds its way back.
 *
 *   waiting --back-off over--> opening --Welcome--> open
 *      ^                          |                  |
 *      +---- refused, lost -------+---- lost, silent, Goodbye, violation (WIRE_GONE)
 *      stopped: after a Goodbye without retry
 *
 * Each session has a socket of its own: messages that were queued for an earlier one go down with it, instead of reaching a gateway that does not know
 * what they answer.  While there is no connection yet libzmq tries again by itself. */
#include "comm/wire/wire_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"

typedef enum client_state { CLIENT_WAITING, CLIENT_OPENING, CLIENT_OPEN, CLIENT_STOPPED } client_state;

struct wire_client {
    wire_tuning tuning;
    void *context, *socket, *monitor;
    wire_wake wake;
    char *endpoint;
    wire_security security; /* a copy; allow_dir unused */
    void *hello;            /* packed */
    size_t hello_bytes;
    wire_limits limits;
    client_state state;
    bool reached, lost; /* the handshake is done; the connection was lost, and what it brought is still being read */
    double heard, sent, seen, retry_at, backoff;
    wire_quota *quota;
    unsigned sessions; /* names the monitors */
    uint64_t heartbeats;
    bool gone; /* to be delivered */
    char gone_reason[WIRE_REASON], problem[WIRE_REASON + 256], told[WIRE_REASON + 256];
    wire_counters counters;
    wire_message last;
};

static const double first_backoff = 0.1, last_backoff = 5;

/* ---- sessions ---- */

static void set_problem(wire_client *c, const char *reason)
{
    snprintf(c->problem, sizeof(c->problem), "gateway %s: %s", c->endpoint, reason);
    if (strcmp(c->problem, c->told) == 0)
        return;
    log_warn("%s", c->problem);
    memcpy(c->told, c->problem, sizeof(c->told));
}

static void close_session(wire_client *c, int linger_ms)
{
    if (c->socket == NULL)
        return;
    wire_monitor_destroy(c->socket, &c->monitor);
    zmq_setsockopt(c->socket, ZMQ_LINGER, &linger_ms, sizeof(linger_ms));
    zmq_close(c->socket);
    c->socket = NULL;
    wire_quota_release(&c->quota);
}

static status send_message(wire_client *c, zmq_msg_t *m)
{
    size_t n = zmq_msg_size(m);
    if (zmq_msg_send(m, c->socket, ZMQ_DONTWAIT) < 0) {
        int why = errno;
        zmq_msg_close(m);
        return why == EAGAIN ? ST_LIMIT : ST_NOT_FOUND;
    }
    c->sent = log_clock();
    c->counters.messages_out++;
    c->counters.bytes_out += n;
    return ST_OK;
}

static status send_envelope(wire_client *c, const Trireme__Envelope *e)
{
    zmq_msg_t m;
    TRY(wire_outgoing(e, c->quota, c->tuning.send_bytes, &m));
    return send_message(c, &m);
}

static status connect_session(wire_client *c)
{
    static const int events = ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                              ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
    int v6 = 1;
    zmq_msg_t m;
    c->quota = wire_quota_create();
    if (c->quota == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for a session");
    c->monitor = wire_monitor_create(c->context, c->socket, ++c->sessions, events);
    if (c->monitor == NULL || zmq_setsockopt(c->socket, ZMQ_IPV6, &v6, sizeof(v6)) != 0)
        return FAIL(ST_IO, "gateway socket: %s", zmq_strerror(errno));
    TRY(wire_socket_secure(c->socket, &c->security, false));
    if (zmq_connect(c->socket, c->endpoint) != 0)
        return FAIL(ST_INVALID, "%s: %s", c->endpoint, zmq_strerror(errno));
    TRY(wire_outgoing_bytes(c->hello, c->hello_bytes, &m));
    return send_message(c, &m);
}

static status open_session(wire_client *c)
{
    c->reached = c->lost = false;
    c->state = CLIENT_OPENING;
    c->socket = wire_socket_create(c->context, ZMQ_DEALER, &c->tuning);
    status st = c->socket != NULL ? connect_session(c) : FAIL(ST_IO, "gateway socket: %s", zmq_strerror(errno));
    if (st != ST_OK)
        close_session(c, 0);
    return st;
}

/* Ends the session, if there is one, and tries again later. */
static void fail_session(wire_client *c, const char *reason)
{
    if (c->state == CLIENT_OPEN) {
        c->gone = true;
        c->counters.peers_lost++;
        snprintf(c->gone_reason, sizeof(c->gone_reason), "%s", reason);
    }
    set_problem(c, reason);
    close_session(c, 0);
    double jitter = (double)(hash_mix((uint64_t)(log_clock() * 1e9) ^ (uintptr_t)c) >> 11) * 0x1p-53; /* replicas do not return all at once */
    c->retry_at = log_clock() + c->backoff * (0.5 + jitter);
    c->backoff = c->backoff * 2 < last_backoff ? c->backoff * 2 : last_backoff;
    c->state = CLIENT_WAITING;
}

static void retry(wire_client *c)
{
    status_mute();
    status st = open_session(c);
    status_unmute();
    if (st != ST_OK)
        fail_session(c, status_message());
}

/* ---- time ---- */

static void send_heartbeat(wire_client *c)
{
    Trireme__Heartbeat h = TRIREME__HEARTBEAT__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    h.number = ++c->heartbeats;
    h.clock = log_clock();
    e.body_case = TRIREME__ENVELOPE__BODY_HEARTBEAT;
    e.heartbeat = &h;
    status st = send_envelope(c, &e);
    (void)st; /* a full queue is noticed as silence by the other side */
}

static void tick(wire_client *c, double now)
{
    char reason[64];
    double away = now - c->seen;
    if (away > c->tuning.heartbeat) /* busy or stopped: the gateway is not to blame for what we did not read */
        c->heard += away;
    c->seen = now;
    if (c->state == CLIENT_WAITING && now >= c->retry_at)
        retry(c);
    /* Before the handshake libzmq tries by itself, for as long as it takes. */
    if (c->state != CLIENT_OPEN && !(c->state == CLIENT_OPENING && c->reached))
        return;
    double patience = c->state == CLIENT_OPEN || c->tuning.silence > 5 ? c->tuning.silence : 5;
    if (now - c->heard > patience && !c->lost) {
        snprintf(reason, sizeof(reason), "silent for %.1f s", now - c->heard);
        fail_session(c, reason);
    } else if (now - c->sent >= c->tuning.heartbeat)
        send_heartbeat(c);
}

static double next_time(const wire_client *c, double now)
{
    double t = now + c->tuning.heartbeat / 4;
    return c->state == CLIENT_WAITING && c->retry_at < t ? c->retry_at : t;
}

static void take_events(wire_client *c, double now)
{
    int value;
    for (int event; c->monitor != NULL && (event = wire_monitor_next(c->monitor, &value)) != 0;) {
        if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
            c->reached = true;
            c->heard = now;
        } else if (event == ZMQ_EVENT_DISCONNECTED)
            c->lost = c->lost || c->reached;
        else if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)
            fail_session(c, "it does not admit our key: add our .pub file to its folder of allowed keys (trireme keygen --help)");
        else
            fail_session(c, "no agreement on encryption: do both ends encrypt, and is gateway.pub this gateway's?");
    }
}

/* ---- what comes in ---- */

static void refuse_submit(wire_client *c, const Trireme__Submit *s, const char *why)
{
    Trireme__Aborted a = TRIREME__ABORTED__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    a.id = s->id;
    a.status = ST_INVALID;
    a.message = (char *)(uintptr_t)why;
    e.body_case = TRIREME__ENVELOPE__BODY_ABORTED;
    e.aborted = &a;
    c->counters.bad_frames++;
    if (send_envelope(c, &e) != ST_OK)
        fail_session(c, "it does not take our answers");
}

static bool take_goodbye(wire_client *c, const Trireme__Goodbye *g)
{
    fail_session(c, g->reason);
    if (!g->retry)
        c->state = CLIENT_STOPPED;
    return true;
}

static bool take_welcome(wire_client *c, const Trireme__Welcome *w)
{
    if (w->protocol < WIRE_OLDEST_PROTOCOL || w->protocol > WIRE_PROTOCOL) {
        c->counters.bad_frames++;
        fail_session(c, "it welcomed us to a protocol that we do not speak");
        return false;
    }
    c->state = CLIENT_OPEN;
    c->backoff = first_backoff;
    c->problem[0] = c->told[0] = '\0';
    c->counters.peers++;
    return true;
}

/* true: for the owner. */
static bool take_message(wire_client *c, const Trireme__Envelope *e)
{
    const char *wrong = wire_check(e, WIRE_FROM_GATEWAY, &c->limits);
    if (wrong == NULL && (e->body_case == TRIREME__ENVELOPE__BODY_WELCOME) != (c->state == CLIENT_OPENING) &&
        e->body_case != TRIREME__ENVELOPE__BODY_GOODBYE && e->body_case != TRIREME__ENVELOPE__BODY_HEARTBEAT)
        wrong = "a message out of turn";
    if (wrong != NULL) {
        c->counters.bad_frames++;
        fail_session(c, wrong);
        return false;
    }
    c->heard = log_clock();
    switch (e->body_case) {
    case TRIREME__ENVELOPE__BODY_HEARTBEAT:
        return false;
    case TRIREME__ENVELOPE__BODY_WELCOME:
        return take_welcome(c, e->welcome);
    case TRIREME__ENVELOPE__BODY_GOODBYE:
        return take_goodbye(c, e->goodbye);
    case TRIREME__ENVELOPE__BODY_SUBMIT:
        wrong = wire_check_submit(e->submit, &c->limits);
        if (wrong != NULL)
            refuse_submit(c, e->submit, wrong);
        return wrong == NULL;
    default:
        return true;
    }
}

/* false: nothing was there. */
static bool read_one(wire_client *c, wire_received *out)
{
    zmq_msg_t m;
    if (c->socket == NULL)
        return false;
    zmq_msg_init(&m);
    bool got = zmq_msg_recv(&m, c->socket, ZMQ_DONTWAIT) >= 0;
    if (got) {
        c->counters.messages_in++;
        c->counters.bytes_in += zmq_msg_size(&m);
        if (wire_skip_parts(c->socket) > 0 || wire_unpack(zmq_msg_data(&m), zmq_msg_size(&m), &c->last) != ST_OK) {
            c->counters.bad_frames++;
            fail_session(c, "it sent a frame that does not unpack");
        } else if (take_message(c, c->last.envelope))
            *out = (wire_received){.kind = WIRE_MESSAGE, .peer = 1, .message = c->last.envelope, .user = ""};
        else
            wire_message_free(&c->last);
    }
    zmq_msg_close(&m);
    return got;
}

static bool deliver_gone(wire_client *c, wire_received *out)
{
    if (!c->gone)
        return false;
    c->gone = false;
    *out = (wire_received){.kind = WIRE_GONE, .peer = 1, .user = "", .reason = c->gone_reason};
    return true;
}

static void wait_for_input(wire_client *c, double seconds)
{
    zmq_pollitem_t items[] = {{.fd = c->wake.fd, .events = ZMQ_POLLIN}, {.socket = c->socket, .events = ZMQ_POLLIN},
                              {.socket = c->monitor, .events = ZMQ_POLLIN}};
    wire_poll(items, c->socket != NULL ? 3 : 1, seconds);
    wire_wake_look(&c->wake, items[0].revents != 0);
}

status wire_client_receive(wire_client *c, int timeout_ms, wire_received *out)
{
    double now = log_clock(), deadline = now + (timeout_ms > 0 ? timeout_ms : 0) * 1e-3;
    *out = (wire_received){0};
    wire_message_free(&c->last);
    wire_wake_look(&c->wake, false);
    for (;; now = log_clock()) {
        tick(c, now);
        take_events(c, now);
        if (deliver_gone(c, out) || wire_wake_turn(&c->wake))
            break;
        bool more = read_one(c, out);
        if (!more && c->lost && c->socket != NULL) {
            fail_session(c, "the connection was lost");
            continue;
        }
        if (out->kind != WIRE_NOTHING || now >= deadline)
            break;
        double until = next_time(c, now);
        if (!more && !c->wake.due)
            wait_for_input(c, (until < deadline ? until : deadline) - log_clock());
    }
    return ST_OK;
}

status wire_client_send(wire_client *c, const Trireme__Envelope *message)
{
    if (c->state != CLIENT_OPEN)
        return ST_NOT_FOUND;
    return send_envelope(c, message);
}

const char *wire_client_problem(const wire_client *c)
{
    return c->problem;
}

void wire_client_wake(wire_client *c)
{
    wire_wake_set(&c->wake);
}

void wire_client_counters(const wire_client *c, wire_counters *out)
{
    *out = c->counters;
}

/* ---- life ---- */

static status pack_hello(wire_client *c, const Trireme__Hello *hello)
{
    Trireme__Hello h = *hello;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    h.protocol = h.protocol != 0 ? h.protocol : WIRE_PROTOCOL;
    h.oldest_protocol = h.oldest_protocol != 0 ? h.oldest_protocol : WIRE_OLDEST_PROTOCOL;
    e.body_case = TRIREME__ENVELOPE__BODY_HELLO;
    e.hello = &h;
    const char *wrong = wire_check(&e, WIRE_FROM_REPLICA, NULL);
    if (wrong != NULL)
        return FAIL(ST_INVALID, "%s", wrong);
    c->limits = wire_limits_of(&h);
    c->hello_bytes = trireme__envelope__get_packed_size(&e);
    TRY(mem_calloc(c->hello_bytes, 1, "hello", &c->hello));
    trireme__envelope__pack(&e, c->hello);
    return ST_OK;
}

status wire_client_create(const wire_client_options *o, wire_client **out)
{
    wire_client *c;
    status st;
    TRY(mem_calloc(1, sizeof(*c), "gateway client", &c));
    c->wake.fd = -1;
    c->tuning = wire_tuning_of(o->heartbeat_ms, o->send_queue, o->send_bytes);
    c->security = *o->security;
    c->security.allow_dir = NULL;
    c->backoff = first_backoff;
    c->seen = log_clock();
    TRY_GOTO(wire_endpoint_check(o->endpoint, false), fail);
    TRY_GOTO(pack_hello(c, o->hello), fail);
    TRY_GOTO(wire_wake_create(&c->wake), fail);
    c->context = wire_context_create();
    c->endpoint = strdup(o->endpoint);
    st = c->context != NULL && c->endpoint != NULL ? open_session(c) : FAIL(ST_NO_MEMORY, "no memory for a gateway client");
    if (st != ST_OK)
        goto fail;
    snprintf(c->problem, sizeof(c->problem), "gateway %s: no answer yet", c->endpoint);
    *out = c;
    return ST_OK;
fail:
    wire_client_destroy(&c);
    return st;
}

void wire_client_destroy(wire_client **client)
{
    wire_client *c = *client;
    if (c == NULL)
        return;
    close_session(c, c->state == CLIENT_OPEN ? 500 : 0);
    if (c->context != NULL)
        while (zmq_ctx_term(c->context) != 0 && errno == EINTR)
            continue;
    wire_message_free(&c->last);
    wire_wake_destroy(&c->wake);
    wire_security_clear(&c->security);
    free(c->hello);
    free(c->endpoint);
    free(c);
    *client = NULL;
}
