/* comm/wire/server.c - the gateway's end: a ROUTER socket and a table of its peers.
 *
 *   stranger --Hello that passes--> live --silence, violation, wire_server_drop--> closing --a second--> free
 *      |                              +----connection lost--------------------------------------------> free
 *      +--silence, too many bad frames--> closing
 *
 * ZeroMQ gives each connection a routing id of its own (no client of ours sets one), so a reconnection is another peer.  A lost connection is told by
 * the socket's monitor, which knows no routing ids: then every peer is sent a heartbeat, and mandatory mode says which of them is gone.  What such a peer had
 * sent may still wait in the socket, and is read before its end is told.
 *
 * A closing peer is not heard any more; its Goodbye has a moment to leave, and then its connection is shut, for which ROUTER has no call. */
#include "comm/wire/wire_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"

enum { MAX_ROUTE = 255, MAX_BAD_FRAMES = 16, BUCKETS = 1024 };
static const double goodbye_leaves = 0.25, forget_after = 1; /* seconds, of a closing peer */
static const double longest_tick = 0.125;

typedef enum peer_state { PEER_STRANGER, PEER_LIVE, PEER_CLOSING } peer_state;

/* What the owner is told when a session ends.  Made with the peer, so that it cannot fail then. */
typedef struct ending {
    struct ending *next;
    wire_peer id;
    char user[WIRE_NAME], reason[WIRE_REASON];
} ending;

typedef struct peer {
    wire_peer id;
    peer_state state;
    struct peer *next_in_bucket;
    ending *ending;
    wire_connection connection;
    bool lost, shut;
    double lost_at, closing_at;
    uint8_t route[MAX_ROUTE];
    size_t route_len;
    double heard, sent;
    wire_quota *quota;
    unsigned bad;
    char user[WIRE_NAME], key[WIRE_KEY]; /* "" in plain mode */
    char name[WIRE_NAME];                /* of the replica; from its Hello on */
    uint64_t epoch;
    uint32_t protocol;
    wire_limits limits;
} peer;

struct wire_server {
    wire_tuning tuning;
    void *context, *router, *zap, *monitor;
    wire_allow *allow; /* NULL: plain */
    wire_wake wake;
    char *endpoint;
    peer **peers; /* by id % max_peers */
    int max_peers, n_peers, n_lost;
    uint64_t next_round; /* ids: round * max_peers + place */
    peer *buckets[BUCKETS];
    ending *ended, *ended_last;
    double seen, tick_at, allow_at, probe_at[2];
    uint64_t heartbeats;
    wire_counters counters;
    wire_message last; /* what was delivered */
    wire_received held; /* a Hello, while the end of its process's earlier session is told first */
    ending *told;       /* the last end that was delivered */
    char last_user[WIRE_NAME];
};

/* ---- the table ---- */

static peer **bucket_of(wire_server *s, const void *route, size_t n)
{
    return &s->buckets[hash_fast(route, n, 0) % BUCKETS];
}

static peer *find_route(wire_server *s, const void *route, size_t n)
{
    peer *p = *bucket_of(s, route, n);
    while (p != NULL && (p->route_len != n || memcmp(p->route, route, n) != 0))
        p = p->next_in_bucket;
    return p;
}

static peer *find_id(const wire_server *s, wire_peer id)
{
    peer *p = id == 0 ? NULL : s->peers[id % (uint64_t)s->max_peers];
    return p != NULL && p->id == id ? p : NULL;
}

static void unlink_route(wire_server *s, peer *p)
{
    peer **at = bucket_of(s, p->route, p->route_len);
    while (*at != NULL && *at != p)
        at = &(*at)->next_in_bucket;
    if (*at == p)
        *at = p->next_in_bucket;
    p->next_in_bucket = NULL;
}

static peer *add_peer(wire_server *s, const void *route, size_t n, double now)
{
    if (s->n_peers >= s->max_peers || n > MAX_ROUTE)
        return NULL;
    int place = 0;
    while (s->peers[place] != NULL)
        place++;
    peer *p = calloc(1, sizeof(*p));
    if (p == NULL || (p->quota = wire_quota_create()) == NULL || (p->ending = calloc(1, sizeof(*p->ending))) == NULL) {
        if (p != NULL)
            wire_quota_release(&p->quota);
        free(p);
        return NULL;
    }
    p->id = ++s->next_round * (uint64_t)s->max_peers + (uint64_t)place;
    memcpy(p->route, route, n);
    p->route_len = n;
    p->heard = p->sent = now;
    peer **bucket = bucket_of(s, route, n);
    p->next_in_bucket = *bucket;
    *bucket = p;
    s->peers[place] = p;
    s->n_peers++;
    return p;
}

static void free_peer(wire_server *s, peer *p)
{
    unlink_route(s, p);
    s->peers[p->id % (uint64_t)s->max_peers] = NULL;
    s->n_peers--;
    s->n_lost -= p->lost;
    wire_quota_release(&p->quota);
    free(p->ending);
    free(p);
}

/* ---- sending ---- */

static status send_to(wire_server *s, peer *p, zmq_msg_t *m)
{
    size_t n = zmq_msg_size(m);
    if (zmq_send(s->router, p->route, p->route_len, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0 || zmq_msg_send(m, s->router, ZMQ_DONTWAIT) < 0) {
        int why = errno;
        zmq_msg_close(m);
        return why == EAGAIN ? ST_LIMIT : ST_NOT_FOUND;
    }
    p->sent = log_clock();
    s->counters.messages_out++;
    s->counters.bytes_out += n;
    return ST_OK;
}

static status send_envelope(wire_server *s, peer *p, const Trireme__Envelope *e)
{
    zmq_msg_t m;
    TRY(wire_outgoing(e, p->quota, s->tuning.send_bytes, &m));
    return send_to(s, p, &m);
}

static status send_heartbeat(wire_server *s, peer *p)
{
    Trireme__Heartbeat h = TRIREME__HEARTBEAT__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    h.number = ++s->heartbeats;
    h.clock = log_clock();
    e.body_case = TRIREME__ENVELOPE__BODY_HEARTBEAT;
    e.heartbeat = &h;
    return send_envelope(s, p, &e);
}

static void say_goodbye(wire_server *s, peer *p, const char *reason, bool retry)
{
    Trireme__Goodbye g;
    Trireme__Envelope e;
    wire_report(&g, &e, reason, retry);
    status st = send_envelope(s, p, &e); /* whom it does not reach notices the silence */
    (void)st;
}

/* ---- ends ---- */

static void close_peer(peer *p)
{
    p->state = PEER_CLOSING;
    p->closing_at = log_clock();
}

/* A peer leaves; if it was live, its owner will hear of it. */
static void end_peer(wire_server *s, peer *p, const char *reason, bool connected)
{
    if (p->state == PEER_LIVE) {
        ending *e = p->ending;
        p->ending = NULL;
        e->id = p->id;
        memcpy(e->user, p->user, sizeof(e->user));
        snprintf(e->reason, sizeof(e->reason), "%s", reason);
        if (s->ended_last != NULL)
            s->ended_last->next = e;
        else
            s->ended = e;
        s->ended_last = e;
    }
    if (!connected) {
        free_peer(s, p);
        return;
    }
    say_goodbye(s, p, reason, true);
    close_peer(p);
}

static ending *take_ending(wire_server *s)
{
    ending *e = s->ended;
    if (e != NULL && (s->ended = e->next) == NULL)
        s->ended_last = NULL;
    return e;
}

static bool deliver_ended(wire_server *s, wire_received *out)
{
    ending *e = take_ending(s);
    if (e == NULL)
        return false;
    free(s->told);
    s->told = e;
    *out = (wire_received){.kind = WIRE_GONE, .peer = e->id, .user = e->user, .reason = e->reason};
    return true;
}

static void forget_ending(wire_server *s, wire_peer id)
{
    ending *kept = NULL;
    for (ending **at = &s->ended; *at != NULL;) {
        ending *e = *at;
        if (e->id != id) {
            kept = e;
            at = &e->next;
            continue;
        }
        *at = e->next;
        free(e);
    }
    s->ended_last = kept;
}

static void lose_peer(wire_server *s, peer *p, const char *reason, bool connected)
{
    if (p->state == PEER_LIVE)
        s->counters.peers_lost++;
    end_peer(s, p, reason, connected);
}

/* A session cannot go on after a frame was dropped: what it said is lost.  A stranger may err a few times. */
static void bad_frame(wire_server *s, peer *p, const char *why)
{
    char reason[WIRE_REASON];
    s->counters.bad_frames++;
    if (p == NULL || (p->state == PEER_STRANGER && ++p->bad < MAX_BAD_FRAMES))
        return;
    s->counters.peers_dropped++;
    snprintf(reason, sizeof(reason), "broke the protocol: %s", why);
    log_warn("%s %s (key \"%s\"): %s", p->state == PEER_LIVE ? "replica" : "a stranger", p->name, p->user, reason);
    end_peer(s, p, reason, true);
}

void wire_server_drop(wire_server *s, wire_peer id)
{
    peer *p = find_id(s, id);
    if (p != NULL && p->state == PEER_LIVE)
        close_peer(p);
    forget_ending(s, id);
}

/* ---- time ---- */

static void each_peer(wire_server *s, void (*visit)(wire_server *, peer *, double), double now)
{
    for (int i = 0; i < s->max_peers; i++)
        if (s->peers[i] != NULL)
            visit(s, s->peers[i], now);
}

static void mark_lost(wire_server *s, peer *p)
{
    if (!p->lost)
        p->lost_at = log_clock();
    s->n_lost += !p->lost;
    p->lost = true;
}

static void end_lost(wire_server *s, peer *p, double now)
{
    (void)now;
    if (p->lost)
        lose_peer(s, p, "the connection was lost", false);
}

static void probe(wire_server *s, peer *p, double now)
{
    (void)now;
    if (p->state == PEER_LIVE && !p->lost && send_heartbeat(s, p) == ST_NOT_FOUND)
        mark_lost(s, p);
}

static void finish_closing(wire_server *s, peer *p, double now)
{
    if (now - p->closing_at < goodbye_leaves)
        return;
    if (!p->shut)
        wire_connection_shut(&p->connection);
    p->shut = true;
    if (now - p->closing_at >= forget_after)
        free_peer(s, p);
}

static void beat_and_judge(wire_server *s, peer *p, double now)
{
    char reason[64];
    if (p->state == PEER_CLOSING)
        finish_closing(s, p, now);
    else if (p->lost && now - p->lost_at > s->tuning.silence) /* others leave us no time to find the socket empty */
        end_lost(s, p, now);
    else if (now - p->heard > s->tuning.silence) {
        snprintf(reason, sizeof(reason), "silent for %.1f s", now - p->heard);
        lose_peer(s, p, reason, true);
    } else if (now - p->sent >= s->tuning.heartbeat)
        probe(s, p, now);
}

static void check_allowed(wire_server *s, peer *p, double now)
{
    (void)now;
    if (p->state != PEER_CLOSING && p->key[0] != '\0' && wire_allow_find(s->allow, p->key) == NULL)
        lose_peer(s, p, "its key is no longer allowed", true);
}

/* We were away (busy, or stopped): peers are not to blame for what we did not read. */
static void forgive(wire_server *s, double away)
{
    for (int i = 0; i < s->max_peers; i++)
        if (s->peers[i] != NULL)
            s->peers[i]->heard += away;
}

static void tick(wire_server *s, double now)
{
    if (now - s->seen > s->tuning.heartbeat)
        forgive(s, now - s->seen);
    s->seen = now;
    for (int i = 0; i < 2; i++) {
        if (s->probe_at[i] != 0 && now >= s->probe_at[i]) {
            s->probe_at[i] = 0;
            each_peer(s, probe, now);
        }
    }
    if (now >= s->tick_at) {
        s->tick_at = now + (s->tuning.heartbeat / 4 < longest_tick ? s->tuning.heartbeat / 4 : longest_tick);
        each_peer(s, beat_and_judge, now);
    }
    if (s->allow != NULL && now >= s->allow_at) {
        s->allow_at = now + 1;
        wire_allow_refresh(s->allow, now, 0.2);
        each_peer(s, check_allowed, now);
    }
}

static double next_time(const wire_server *s)
{
    double t = s->tick_at;
    for (int i = 0; i < 2; i++)
        if (s->probe_at[i] != 0 && s->probe_at[i] < t)
            t = s->probe_at[i];
    return t;
}

/* ---- what comes in ---- */

static peer *find_name(wire_server *s, const char *name)
{
    for (int i = 0; i < s->max_peers; i++)
        if (s->peers[i] != NULL && s->peers[i]->state == PEER_LIVE && strcmp(s->peers[i]->name, name) == 0)
            return s->peers[i];
    return NULL;
}

/* NULL: welcome as far as the wire goes; else why not. */
static const char *refuse_hello(wire_server *s, peer *p, const Trireme__Hello *h, char reason[WIRE_REASON], bool *retry)
{
    wire_version ours = {WIRE_OLDEST_PROTOCOL, WIRE_PROTOCOL};
    *retry = false;
    p->protocol = wire_negotiate((wire_version){h->oldest_protocol, h->protocol}, ours, "the replica", "the gateway", reason);
    if (p->protocol == 0)
        return reason;
    const char *wrong = wire_check(&(Trireme__Envelope){.body_case = TRIREME__ENVELOPE__BODY_HELLO, .hello = (Trireme__Hello *)(uintptr_t)h}, WIRE_FROM_REPLICA, NULL);
    if (wrong != NULL)
        return wrong;
    peer *other = find_name(s, h->replica);
    if (other == NULL)
        return NULL;
    if (strcmp(other->key, p->key) == 0 && other->epoch == h->epoch) {
        lose_peer(s, other, "it connected again", true);
        return NULL;
    }
    *retry = true;
    snprintf(reason, WIRE_REASON, "a replica named %s is connected already: wait until it has gone, or give this one another --name", h->replica);
    return reason;
}

static bool take_hello(wire_server *s, peer *p, const Trireme__Hello *h)
{
    char text[WIRE_REASON];
    bool retry;
    const char *reason = refuse_hello(s, p, h, text, &retry);
    if (reason == NULL) {
        p->state = PEER_LIVE;
        p->bad = 0;
        p->epoch = h->epoch;
        p->limits = wire_limits_of(h);
        snprintf(p->name, sizeof(p->name), "%s", h->replica);
        s->counters.peers++;
        return true;
    }
    s->counters.refused_hellos++;
    say_goodbye(s, p, reason, retry);
    if (++p->bad >= MAX_BAD_FRAMES)
        end_peer(s, p, "too many refused hellos", true);
    else if (p->bad == 1)
        log_warn("refused a replica: %s", reason);
    return false;
}

/* true: for the owner. */
static bool take_message(wire_server *s, peer *p, const Trireme__Envelope *e)
{
    bool hello = e->body_case == TRIREME__ENVELOPE__BODY_HELLO;
    if (p == NULL) { /* the table is full, or there is no memory */
        s->counters.strays++;
        return false;
    }
    p->heard = log_clock();
    if (p->state == PEER_STRANGER) {
        if (hello)
            return take_hello(s, p, e->hello);
        s->counters.strays++; /* from a session that has ended, perhaps */
        if (++p->bad >= MAX_BAD_FRAMES)
            end_peer(s, p, "no session: say Hello first", true);
        return false;
    }
    const char *wrong = hello ? "a second hello" : wire_check(e, WIRE_FROM_REPLICA, &p->limits);
    if (wrong != NULL)
        bad_frame(s, p, wrong);
    return wrong == NULL && e->body_case != TRIREME__ENVELOPE__BODY_HEARTBEAT;
}

static void note_origin(wire_server *s, peer *p, zmq_msg_t *m)
{
    p->connection = wire_connection_of(m, s->endpoint);
    const char *user = zmq_msg_gets(m, "User-Id"), *key = zmq_msg_gets(m, WIRE_KEY_PROPERTY);
    snprintf(p->user, sizeof(p->user), "%s", user != NULL ? user : "");
    snprintf(p->key, sizeof(p->key), "%s", key != NULL ? key : "");
}

static bool take_frame(wire_server *s, zmq_msg_t *route, zmq_msg_t *body, int extra_parts, wire_received *out)
{
    peer *p = find_route(s, zmq_msg_data(route), zmq_msg_size(route));
    if (p == NULL) {
        p = add_peer(s, zmq_msg_data(route), zmq_msg_size(route), log_clock());
        if (p != NULL)
            note_origin(s, p, body);
    }
    s->counters.messages_in++;
    s->counters.bytes_in += zmq_msg_size(body);
    if (p != NULL && p->state == PEER_CLOSING)
        return false;
    if (extra_parts > 0 || wire_unpack(zmq_msg_data(body), zmq_msg_size(body), &s->last) != ST_OK) {
        bad_frame(s, p, "a frame that does not unpack");
        return false;
    }
    if (!take_message(s, p, s->last.envelope)) {
        wire_message_free(&s->last);
        return false;
    }
    memcpy(s->last_user, p->user, sizeof(s->last_user));
    *out = (wire_received){.kind = WIRE_MESSAGE, .peer = p->id, .message = s->last.envelope, .user = s->last_user};
    return true;
}

typedef enum read_result { READ_EMPTY, READ_PASSED, READ_DELIVERED } read_result;

static read_result read_one(wire_server *s, wire_received *out)
{
    zmq_msg_t route, body;
    read_result result = READ_EMPTY;
    zmq_msg_init(&route);
    zmq_msg_init(&body);
    if (zmq_msg_recv(&route, s->router, ZMQ_DONTWAIT) >= 0) {
        result = READ_PASSED;
        if (zmq_msg_more(&route) && zmq_msg_recv(&body, s->router, ZMQ_DONTWAIT) >= 0 &&
            take_frame(s, &route, &body, wire_skip_parts(s->router), out))
            result = READ_DELIVERED;
    }
    zmq_msg_close(&route);
    zmq_msg_close(&body);
    return result;
}

/* Questions about keys, and connections that were lost. */
static void serve_aside(wire_server *s, double now)
{
    int value;
    if (s->allow != NULL && wire_allow_answer(s->allow, s->zap, now))
        s->counters.refused_keys++;
    for (int event; (event = wire_monitor_next(s->monitor, &value)) != 0;) {
        /* The router hears of it a moment later than the monitor. */
        s->probe_at[0] = now + 2e-3;
        s->probe_at[1] = now + 50e-3;
    }
}

static void wait_for_input(wire_server *s, double seconds)
{
    zmq_pollitem_t items[] = {{.socket = s->router, .events = ZMQ_POLLIN}, {.socket = s->monitor, .events = ZMQ_POLLIN},
                              {.fd = s->wake.fd, .events = ZMQ_POLLIN}, {.socket = s->zap, .events = ZMQ_POLLIN}};
    wire_poll(items, s->zap != NULL ? 4 : 3, seconds);
    wire_wake_look(&s->wake, items[2].revents != 0);
}

/* What is there already, without waiting; false: nothing was, and nothing more can come at once. */
static bool take_waiting(wire_server *s, wire_received *out)
{
    read_result r = deliver_ended(s, out) ? READ_DELIVERED : read_one(s, out);
    if (r == READ_EMPTY && s->n_lost > 0)
        each_peer(s, end_lost, 0);
    if (r == READ_DELIVERED && out->kind == WIRE_MESSAGE && s->ended != NULL) {
        s->held = *out;
        deliver_ended(s, out);
    }
    return r != READ_EMPTY || s->ended != NULL;
}

static bool take_held(wire_server *s, wire_received *out)
{
    if (s->held.kind == WIRE_NOTHING)
        return false;
    if (!deliver_ended(s, out)) {
        *out = s->held;
        s->held = (wire_received){0};
    }
    return true;
}

status wire_server_receive(wire_server *s, int timeout_ms, wire_received *out)
{
    double now = log_clock(), deadline = now + (timeout_ms > 0 ? timeout_ms : 0) * 1e-3;
    *out = (wire_received){0};
    if (take_held(s, out))
        return ST_OK;
    wire_message_free(&s->last);
    wire_wake_look(&s->wake, false);
    for (;; now = log_clock()) {
        tick(s, now);
        serve_aside(s, now);
        if (wire_wake_turn(&s->wake))
            break;
        bool more = take_waiting(s, out);
        if (out->kind != WIRE_NOTHING || now >= deadline)
            break;
        double until = next_time(s);
        if (!more && !s->wake.due)
            wait_for_input(s, (until < deadline ? until : deadline) - log_clock());
    }
    return ST_OK;
}

status wire_server_send(wire_server *s, wire_peer id, const Trireme__Envelope *message)
{
    peer *p = find_id(s, id);
    if (p == NULL || p->state != PEER_LIVE || p->lost)
        return ST_NOT_FOUND;
    status st;
    if (message->body_case == TRIREME__ENVELOPE__BODY_WELCOME) {
        Trireme__Welcome w = *message->welcome;
        Trireme__Envelope e = *message;
        w.protocol = p->protocol;
        e.welcome = &w;
        st = send_envelope(s, p, &e);
    } else
        st = send_envelope(s, p, message);
    if (st == ST_NOT_FOUND)
        mark_lost(s, p);
    return st;
}

void wire_server_wake(wire_server *s)
{
    wire_wake_set(&s->wake);
}

void wire_server_counters(const wire_server *s, wire_counters *out)
{
    *out = s->counters;
}

const char *wire_server_endpoint(const wire_server *s)
{
    return s->endpoint;
}

/* ---- life ---- */

static status bind_all(wire_server *s, const char *endpoint, const wire_security *security)
{
    int on = 1, v6 = strchr(endpoint, '[') != NULL;
    TRY(wire_endpoint_check(endpoint, true));
    TRY(wire_endpoint_free(endpoint));
    if (security->plain && !wire_endpoint_local(endpoint))
        log_warn("%s: without encryption, so whoever reaches this address can join as a replica and read prompts", endpoint);
    if (!security->plain) {
        TRY(wire_allow_create(security->allow_dir, &s->allow));
        s->zap = wire_socket_create(s->context, ZMQ_REP, &s->tuning);
        if (s->zap == NULL || zmq_bind(s->zap, "inproc://zeromq.zap.01") != 0)
            return FAIL(ST_IO, "key checks: %s", zmq_strerror(errno));
    }
    s->router = wire_socket_create(s->context, ZMQ_ROUTER, &s->tuning);
    if (s->router == NULL || zmq_setsockopt(s->router, ZMQ_ROUTER_MANDATORY, &on, sizeof(on)) != 0 ||
        zmq_setsockopt(s->router, ZMQ_IPV6, &v6, sizeof(v6)) != 0)
        return FAIL(ST_IO, "replica socket: %s", zmq_strerror(errno));
    TRY(wire_socket_secure(s->router, security, true));
    s->monitor = wire_monitor_create(s->context, s->router, 0, ZMQ_EVENT_DISCONNECTED);
    if (s->monitor == NULL)
        return FAIL(ST_IO, "replica socket: %s", zmq_strerror(errno));
    if (zmq_bind(s->router, endpoint) != 0)
        return FAIL(errno == EADDRINUSE ? ST_BUSY : ST_INVALID, "%s: %s", endpoint, zmq_strerror(errno));
    char bound[1024];
    size_t n = sizeof(bound);
    if (zmq_getsockopt(s->router, ZMQ_LAST_ENDPOINT, bound, &n) != 0 || (s->endpoint = strdup(bound)) == NULL)
        return FAIL(ST_NO_MEMORY, "%s: no memory", endpoint);
    return ST_OK;
}

status wire_server_create(const wire_server_options *o, wire_server **out)
{
    wire_server *s;
    status st;
    TRY(mem_calloc(1, sizeof(*s), "replica server", &s));
    s->wake.fd = -1;
    s->tuning = wire_tuning_of(o->heartbeat_ms, o->send_queue, o->send_bytes);
    s->max_peers = o->max_peers > 0 ? o->max_peers : 1024;
    s->seen = log_clock();
    TRY_GOTO(mem_calloc((size_t)s->max_peers, sizeof(peer *), "peers", &s->peers), fail);
    TRY_GOTO(wire_wake_create(&s->wake), fail);
    s->context = wire_context_create();
    st = s->context != NULL ? bind_all(s, o->endpoint, o->security) : FAIL(ST_NO_MEMORY, "ZeroMQ: %s", zmq_strerror(errno));
    if (st != ST_OK)
        goto fail;
    *out = s;
    return ST_OK;
fail:
    wire_server_destroy(&s);
    return st;
}

void wire_server_destroy(wire_server **server)
{
    wire_server *s = *server;
    if (s == NULL)
        return;
    if (s->router != NULL) {
        int linger_ms = 500;
        wire_monitor_destroy(s->router, &s->monitor);
        zmq_setsockopt(s->router, ZMQ_LINGER, &linger_ms, sizeof(linger_ms));
        zmq_close(s->router);
    }
    if (s->zap != NULL)
        zmq_close(s->zap);
    if (s->context != NULL)
        while (zmq_ctx_term(s->context) != 0 && errno == EINTR)
            continue;
    for (int i = 0; i < s->max_peers && s->peers != NULL; i++)
        if (s->peers[i] != NULL)
            free_peer(s, s->peers[i]);
    free(s->peers);
    while (s->ended != NULL)
        free(take_ending(s));
    free(s->told);
    wire_message_free(&s->last);
    wire_allow_destroy(&s->allow);
    wire_wake_destroy(&s->wake);
    free(s->endpoint);
    free(s);
    *server = NULL;
}
