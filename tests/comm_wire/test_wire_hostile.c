/* tests/comm_wire/test_wire_hostile.c - peers that do not keep to the protocol, over raw ZeroMQ sockets.
 *
 *   test_wire_hostile                 the tests
 *   test_wire_hostile --samples DIR   writes the fuzzer's first inputs */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>
#include <zmq.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "pair.h"
#include "samples.h"

/* ---- a peer without manners ---- */

typedef struct raw {
    void *context, *socket, *monitor;
} raw;

static raw raw_open(const char *endpoint)
{
    raw r = {.context = zmq_ctx_new()};
    zmq_ctx_set(r.context, ZMQ_BLOCKY, 0);
    r.socket = zmq_socket(r.context, ZMQ_DEALER);
    assert_int_equal(zmq_socket_monitor(r.socket, "inproc://events", ZMQ_EVENT_DISCONNECTED), 0);
    r.monitor = zmq_socket(r.context, ZMQ_PAIR);
    assert_int_equal(zmq_connect(r.monitor, "inproc://events"), 0);
    int never = -1;
    zmq_setsockopt(r.socket, ZMQ_RECONNECT_IVL, &never, sizeof(never));
    assert_int_equal(zmq_connect(r.socket, endpoint), 0);
    return r;
}

static void raw_close(raw *r)
{
    zmq_close(r->monitor);
    zmq_close(r->socket);
    zmq_ctx_term(r->context);
}

static void raw_send(raw *r, const void *data, size_t n)
{
    assert_int_equal(zmq_send(r->socket, data, n, 0), n);
}

static void raw_send_sample(raw *r, int which)
{
    uint8_t data[SAMPLE_BYTES];
    size_t n = sample_write(which, data);
    raw_send(r, data, n);
}

static bool raw_disconnected(raw *r)
{
    char event[16];
    return zmq_recv(r->monitor, event, sizeof(event), ZMQ_DONTWAIT) > 0;
}

enum { HELLO = 0, SUBMIT = 3, TOKENS = 4, WELCOME = 6, CANCEL = 9, HEARTBEAT = 11 }; /* among the samples */

/* Serves until the peer's connection has been shut; what it was told last goes to `goodbye`. */
static void serve_until_shut(wire_server *s, raw *r, mem_str *goodbye)
{
    char data[4096];
    wire_received got;
    for (double end = log_clock() + PATIENCE; !raw_disconnected(r);) {
        assert_int_equal(wire_server_receive(s, 5, &got), ST_OK);
        int n = zmq_recv(r->socket, data, sizeof(data), ZMQ_DONTWAIT);
        Trireme__Envelope *e = n > 0 ? trireme__envelope__unpack(NULL, (size_t)n, (uint8_t *)data) : NULL;
        if (e != NULL && e->body_case == TRIREME__ENVELOPE__BODY_GOODBYE) {
            mem_str_clear(goodbye);
            mem_str_puts(goodbye, e->goodbye->reason);
        }
        if (e != NULL)
            trireme__envelope__free_unpacked(e, NULL);
        if (log_clock() > end)
            fail_msg("the connection was not shut");
    }
}

static wire_counters counters_of(const wire_server *s)
{
    wire_counters n;
    wire_server_counters(s, &n);
    return n;
}

/* ---- tests ---- */

static void a_stranger_that_talks_nonsense_is_shut_out(void **state)
{
    (void)state;
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 10000, 0);
    wire_client *c = client_open(wire_server_endpoint(s), &no_security, "good", 1, 10000);
    session_open(s, c);
    raw r = raw_open(wire_server_endpoint(s));
    mem_str goodbye = {0};
    for (int i = 0; i < 40; i++)
        raw_send(&r, "nonsense", 8);
    serve_until_shut(s, &r, &goodbye);
    assert_non_null(strstr(goodbye.data, "does not unpack"));
    wire_counters n = counters_of(s);
    assert_int_equal(n.bad_frames, 16);
    assert_int_equal(n.peers_dropped, 1);
    assert_int_equal(n.peers, 1);
    expect_nothing(s, c, 0.05);
    mem_str_free(&goodbye);
    raw_close(&r);
    wire_client_destroy(&c);
    wire_server_destroy(&s);
}

static void messages_without_a_session_go_nowhere(void **state)
{
    (void)state;
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 10000, 0);
    raw r = raw_open(wire_server_endpoint(s));
    mem_str goodbye = {0};
    for (int i = 0; i < 16; i++)
        raw_send_sample(&r, i % 2 == 0 ? TOKENS : HEARTBEAT);
    serve_until_shut(s, &r, &goodbye);
    assert_non_null(strstr(goodbye.data, "Hello"));
    wire_counters n = counters_of(s);
    assert_int_equal(n.strays, 16);
    assert_int_equal(n.bad_frames, 0);
    mem_str_free(&goodbye);
    raw_close(&r);
    wire_server_destroy(&s);
}

/* Hello, Welcome, then `which`: the session ends with a word to both sides. */
static void breaks_a_session(const void *data, size_t bytes, bool parts, const char *why)
{
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 10000, 0);
    raw r = raw_open(wire_server_endpoint(s));
    mem_str goodbye = {0};
    raw_send_sample(&r, HELLO);
    wire_peer peer = server_expect(s, NULL, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_HELLO).peer;
    welcome(s, peer);
    raw_send_sample(&r, TOKENS);
    server_expect(s, NULL, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_TOKENS);
    assert_int_equal(zmq_send(r.socket, data, bytes, parts ? ZMQ_SNDMORE : 0), bytes);
    if (parts)
        raw_send(&r, "", 0);
    wire_received got;
    do
        assert_int_equal(wire_server_receive(s, 1000, &got), ST_OK);
    while (got.kind == WIRE_NOTHING);
    assert_int_equal(got.kind, WIRE_GONE);
    assert_int_equal(got.peer, peer);
    if (strstr(got.reason, why) == NULL)
        fail_msg("\"%s\" expected in: %s", why, got.reason);
    raw_send_sample(&r, TOKENS); /* is not heard any more */
    serve_until_shut(s, &r, &goodbye);
    if (goodbye.data == NULL || strstr(goodbye.data, why) == NULL)
        fail_msg("\"%s\" expected in: %s", why, goodbye.data != NULL ? goodbye.data : "(nothing)");
    wire_counters n = counters_of(s);
    assert_int_equal(n.peers_dropped, 1);
    assert_int_equal(n.bad_frames, 1);
    mem_str_free(&goodbye);
    raw_close(&r);
    wire_server_destroy(&s);
}

static void a_violation_ends_the_session(void **state)
{
    (void)state;
    uint8_t data[SAMPLE_BYTES];
    size_t n = sample_write(CANCEL, data);
    breaks_a_session(data, n, false, "only a gateway");
    n = sample_write(HELLO, data);
    breaks_a_session(data, n, false, "second hello");
    breaks_a_session("\xff\xff\xff", 3, false, "does not unpack");
    breaks_a_session("", 0, false, "does not unpack");
    n = sample_write(TOKENS, data);
    breaks_a_session(data, n, true, "does not unpack"); /* two parts */
}

static void a_frame_over_the_limit_ends_the_connection(void **state)
{
    (void)state;
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 10000, 0);
    raw r = raw_open(wire_server_endpoint(s));
    mem_str goodbye = {0};
    uint8_t *large = calloc(1, WIRE_MAX_MESSAGE + 1024);
    assert_non_null(large);
    raw_send(&r, large, WIRE_MAX_MESSAGE + 1024);
    serve_until_shut(s, &r, &goodbye);
    assert_int_equal(counters_of(s).messages_in, 0);
    /* One that fits is only not a message. */
    raw_close(&r);
    r = raw_open(wire_server_endpoint(s));
    raw_send(&r, large, WIRE_MAX_MESSAGE);
    wire_received got;
    for (double end = log_clock() + PATIENCE; counters_of(s).messages_in == 0 && log_clock() < end;)
        assert_int_equal(wire_server_receive(s, 5, &got), ST_OK);
    assert_int_equal(counters_of(s).bad_frames, 1);
    free(large);
    mem_str_free(&goodbye);
    raw_close(&r);
    wire_client *c = client_open(wire_server_endpoint(s), &no_security, "good", 1, 0);
    session_open(s, c);
    wire_client_destroy(&c);
    wire_server_destroy(&s);
}

static void the_table_of_peers_is_bounded(void **state)
{
    (void)state;
    enum { PLACES = 4, CROWD = 10 };
    wire_server *s;
    raw crowd[CROWD];
    wire_received got;
    assert_int_equal(wire_server_create(&(wire_server_options){.endpoint = "tcp://127.0.0.1:*", .security = &no_security, .heartbeat_ms = 100, .max_peers = PLACES}, &s),
                     ST_OK);
    for (int i = 0; i < CROWD; i++) {
        crowd[i] = raw_open(wire_server_endpoint(s));
        raw_send(&crowd[i], "x", 1);
    }
    for (double end = log_clock() + PATIENCE; counters_of(s).messages_in < CROWD && log_clock() < end;) {
        assert_int_equal(wire_server_receive(s, 5, &got), ST_OK);
        assert_int_equal(got.kind, WIRE_NOTHING);
    }
    assert_int_equal(counters_of(s).bad_frames, CROWD);
    wire_client *c = client_open(wire_server_endpoint(s), &no_security, "good", 1, 100);
    session_open(s, c); /* once those that say nothing more have made room */
    for (int i = 0; i < CROWD; i++)
        raw_close(&crowd[i]);
    wire_client_destroy(&c);
    wire_server_destroy(&s);
}

static void router_say(void *router, const uint8_t *route, size_t route_bytes, const void *data, size_t n)
{
    assert_int_equal(zmq_send(router, route, route_bytes, ZMQ_SNDMORE), route_bytes);
    assert_int_equal(zmq_send(router, data, n, 0), n);
}

static void a_gateway_that_breaks_the_protocol_is_left(void **state)
{
    (void)state;
    void *context = zmq_ctx_new(), *router = zmq_socket(context, ZMQ_ROUTER);
    char endpoint[128];
    size_t size = sizeof(endpoint);
    int linger = 0, wait_ms = 10000;
    wire_received got;
    zmq_setsockopt(router, ZMQ_LINGER, &linger, sizeof(linger));
    zmq_setsockopt(router, ZMQ_RCVTIMEO, &wait_ms, sizeof(wait_ms));
    assert_int_equal(zmq_bind(router, "tcp://127.0.0.1:*"), 0);
    assert_int_equal(zmq_getsockopt(router, ZMQ_LAST_ENDPOINT, endpoint, &size), 0);
    wire_client *c = client_open(endpoint, &no_security, "replica", 1, 10000);
    /* A frame out of turn, one that is none, one that replicas send: each ends the session, and Hello comes again on a connection of its own. */
    for (int i = 0; i < 3; i++) {
        uint8_t route[256], data[SAMPLE_BYTES];
        int n = -1;
        for (double end = log_clock() + PATIENCE; n < 0 && log_clock() < end; n = zmq_recv(router, route, sizeof(route), ZMQ_DONTWAIT)) {
            assert_int_equal(wire_client_receive(c, 5, &got), ST_OK);
            assert_int_equal(got.kind, WIRE_NOTHING);
        }
        assert_true(n > 0 && zmq_recv(router, data, sizeof(data), 0) > 0);
        if (i > 0) {
            router_say(router, route, (size_t)n, data, sample_write(WELCOME, data));
            client_expect(NULL, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_WELCOME);
        }
        if (i == 1)
            router_say(router, route, (size_t)n, "\xff", 1);
        else
            router_say(router, route, (size_t)n, data, sample_write(i == 0 ? SUBMIT : TOKENS, data));
        if (i > 0)
            client_expect(NULL, c, WIRE_GONE, 0);
        wire_counters counters = {0};
        for (double end = log_clock() + PATIENCE; counters.bad_frames < (uint64_t)i + 1 && log_clock() < end; wire_client_counters(c, &counters)) {
            assert_int_equal(wire_client_receive(c, 5, &got), ST_OK);
            assert_int_equal(got.kind, WIRE_NOTHING);
        }
        assert_int_equal(counters.bad_frames, i + 1);
    }
    wire_client_destroy(&c);
    zmq_close(router);
    zmq_ctx_term(context);
}

/* ---- ten thousand frames ---- */

typedef struct dice {
    uint64_t state;
} dice;

static uint64_t roll(dice *d, uint64_t n)
{
    d->state += 0x9e3779b97f4a7c15u;
    return hash_mix(d->state) % n;
}

/* A sample with some bytes changed, cut, doubled or put in; or noise. */
static size_t mutate(dice *d, uint8_t out[2 * SAMPLE_BYTES])
{
    size_t n = sample_write((int)roll(d, SAMPLES), out);
    switch (roll(d, 8)) {
    case 0:
        n = roll(d, SAMPLE_BYTES);
        for (size_t i = 0; i < n; i++)
            out[i] = (uint8_t)roll(d, 256);
        return n;
    case 1:
        return roll(d, n + 1);
    case 2: {
        size_t at = roll(d, n), more = roll(d, n - at + 1);
        memcpy(out + n, out + at, more);
        return n + more;
    }
    case 3:
        return n;
    default:
        for (uint64_t k = 1 + roll(d, 4); k > 0; k--) {
            static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff};
            out[roll(d, n)] = roll(d, 2) ? edges[roll(d, sizeof(edges))] : (uint8_t)roll(d, 256);
        }
        return n;
    }
}

static int open_files(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n;
}

enum { FRAMES = 10000, FRAMES_A_CONNECTION = 12 };

/* What reaches the owner can be read: packing visits every field. */
static void visit(const wire_received *got, size_t *seen)
{
    if (got->kind == WIRE_MESSAGE) {
        uint8_t *packed = malloc(trireme__envelope__get_packed_size(got->message) + 1);
        assert_non_null(packed);
        *seen += trireme__envelope__pack(got->message, packed);
        free(packed);
    }
}

static void the_server_goes_on_under_ten_thousand_fuzzed_frames(void **state)
{
    (void)state;
    dice d = {20261129};
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 500, 0);
    wire_client *c = client_open(wire_server_endpoint(s), &no_security, "good", 1, 500);
    wire_peer good = session_open(s, c);
    wire_received got;
    uint64_t answered = 0;
    size_t seen = 0;
    int files = open_files();
    for (int sent = 0; sent < FRAMES;) {
        raw r = raw_open(wire_server_endpoint(s));
        uint64_t before = counters_of(s).messages_in;
        bool greeted = roll(&d, 2) == 0;
        if (greeted)
            raw_send_sample(&r, HELLO);
        uint64_t expected = before + greeted;
        for (int k = 0; k < FRAMES_A_CONNECTION && sent < FRAMES; k++, sent++, expected++) {
            uint8_t frame[2 * SAMPLE_BYTES];
            raw_send(&r, frame, mutate(&d, frame));
        }
        /* Meanwhile the good client asks and is answered. */
        Trireme__Tokens t;
        Trireme__Cancel x;
        Trireme__Envelope question = tokens_of(&t, answered), answer = cancel_of(&x, answered);
        assert_int_equal(wire_client_send(c, &question), ST_OK);
        bool asked = false;
        for (double end = log_clock() + PATIENCE; !asked || counters_of(s).messages_in < expected;) {
            assert_int_equal(wire_server_receive(s, 5, &got), ST_OK);
            visit(&got, &seen);
            assert_false(got.kind == WIRE_GONE && got.peer == good);
            if (got.kind == WIRE_MESSAGE && got.peer == good) {
                assert_int_equal(got.message->body_case, TRIREME__ENVELOPE__BODY_TOKENS);
                assert_int_equal(got.message->tokens->step, answered);
                assert_int_equal(wire_server_send(s, good, &answer), ST_OK);
                asked = true;
            }
            if (log_clock() > end)
                fail_msg("after %d frames the server has stopped", sent);
        }
        assert_int_equal(client_expect(NULL, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_CANCEL).message->cancel->id, answered++);
        raw_close(&r);
    }
    for (double end = log_clock() + PATIENCE; open_files() > files && log_clock() < end;) {
        assert_int_equal(wire_server_receive(s, 20, &got), ST_OK);
        assert_int_equal(wire_client_receive(c, 20, &got), ST_OK);
    }
    assert_int_equal(open_files(), files); /* no connection is left over */
    wire_counters n = counters_of(s);
    print_message("%llu frames in, %llu bad, %llu strays, %llu hellos refused, %llu sessions, %llu dropped, %zu bytes of messages read\n",
                  (unsigned long long)n.messages_in, (unsigned long long)n.bad_frames, (unsigned long long)n.strays, (unsigned long long)n.refused_hellos,
                  (unsigned long long)n.peers, (unsigned long long)n.peers_dropped, seen);
    assert_true(n.messages_in >= FRAMES);
    assert_true(n.bad_frames > 1000 && n.peers > 100 && n.peers_dropped > 100); /* all the ways were gone */
    wire_client_destroy(&c);
    wire_server_destroy(&s);
}

static int write_samples(const char *dir)
{
    for (int i = 0; i < SAMPLES; i++)
        for (int side = 0; side < 2; side++) {
            uint8_t data[SAMPLE_BYTES + 1] = {(uint8_t)side};
            char path[1024];
            size_t n = 1 + sample_write(i, data + 1);
            snprintf(path, sizeof(path), "%s/sample-%02d-%d", dir, i, side);
            FILE *f = fopen(path, "wb");
            if (f == NULL || fwrite(data, 1, n, f) != n || fclose(f) != 0)
                return 1;
        }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--samples") == 0)
        return write_samples(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stranger_that_talks_nonsense_is_shut_out),
        cmocka_unit_test(messages_without_a_session_go_nowhere),
        cmocka_unit_test(a_violation_ends_the_session),
        cmocka_unit_test(a_frame_over_the_limit_ends_the_connection),
        cmocka_unit_test(the_table_of_peers_is_bounded),
        cmocka_unit_test(a_gateway_that_breaks_the_protocol_is_left),
        cmocka_unit_test(the_server_goes_on_under_ten_thousand_fuzzed_frames),
    };
    log_level_set(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
