#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "pair.h"

const wire_security no_security = {.plain = true};

Trireme__Hello hello_of(const char *name, uint64_t epoch)
{
    Trireme__Hello h = TRIREME__HELLO__INIT;
    h.version = "0.1.0 (test)";
    h.replica = (char *)(uintptr_t)name;
    h.epoch = epoch;
    h.numerics_id = "numerics";
    h.checkpoint_digest = "digest";
    h.model = "model";
    h.max_model_len = 4096;
    h.vocab = 512;
    h.max_num_seqs = 16;
    h.max_num_batched_tokens = 256;
    h.block_tokens = 16;
    h.kv_blocks = 1000;
    h.tp = h.pp = 1;
    h.backend = "cpu";
    return h;
}

wire_server *server_open(const char *endpoint, const wire_security *security, int heartbeat_ms, int send_queue)
{
    wire_server *s = NULL;
    assert_int_equal(wire_server_create(&(wire_server_options){.endpoint = endpoint, .security = security, .heartbeat_ms = heartbeat_ms, .send_queue = send_queue},
                                        &s),
                     ST_OK);
    return s;
}

wire_client *client_open(const char *endpoint, const wire_security *security, const char *name, uint64_t epoch, int heartbeat_ms)
{
    wire_client *c = NULL;
    Trireme__Hello h = hello_of(name, epoch);
    assert_int_equal(wire_client_create(&(wire_client_options){.endpoint = endpoint, .security = security, .hello = &h, .heartbeat_ms = heartbeat_ms}, &c), ST_OK);
    return c;
}

static bool is_expected(const wire_received *r, wire_kind kind, Trireme__Envelope__BodyCase body)
{
    return r->kind == kind && (kind != WIRE_MESSAGE || body == TRIREME__ENVELOPE__BODY__NOT_SET || r->message->body_case == body);
}

wire_received server_expect(wire_server *s, wire_client *c, wire_kind kind, Trireme__Envelope__BodyCase body)
{
    wire_received r, other;
    for (double end = log_clock() + PATIENCE; log_clock() < end;) {
        if (c != NULL)
            assert_int_equal(wire_client_receive(c, 2, &other), ST_OK);
        assert_int_equal(wire_server_receive(s, c != NULL ? 2 : 50, &r), ST_OK);
        if (is_expected(&r, kind, body))
            return r;
    }
    fail_msg("the server waited in vain for kind %d, body %d", kind, body);
    return r;
}

wire_received client_expect(wire_server *s, wire_client *c, wire_kind kind, Trireme__Envelope__BodyCase body)
{
    wire_received r, other;
    for (double end = log_clock() + PATIENCE; log_clock() < end;) {
        if (s != NULL)
            assert_int_equal(wire_server_receive(s, 2, &other), ST_OK);
        assert_int_equal(wire_client_receive(c, s != NULL ? 2 : 50, &r), ST_OK);
        if (is_expected(&r, kind, body))
            return r;
    }
    fail_msg("the client waited in vain for kind %d, body %d; problem: %s", kind, body, wire_client_problem(c));
    return r;
}

void welcome(wire_server *s, wire_peer peer)
{
    Trireme__Welcome w = TRIREME__WELCOME__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    w.gateway = "gateway";
    w.epoch = 7;
    e.body_case = TRIREME__ENVELOPE__BODY_WELCOME;
    e.welcome = &w;
    assert_int_equal(wire_server_send(s, peer, &e), ST_OK);
}

wire_peer session_open(wire_server *s, wire_client *c)
{
    wire_received r = server_expect(s, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_HELLO);
    wire_peer peer = r.peer;
    welcome(s, peer);
    client_expect(s, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_WELCOME);
    return peer;
}

void expect_nothing(wire_server *s, wire_client *c, double seconds)
{
    wire_received r;
    for (double end = log_clock() + seconds; log_clock() < end;) {
        assert_int_equal(wire_server_receive(s, 5, &r), ST_OK);
        assert_int_equal(r.kind, WIRE_NOTHING);
        if (c == NULL)
            continue;
        assert_int_equal(wire_client_receive(c, 5, &r), ST_OK);
        assert_int_equal(r.kind, WIRE_NOTHING);
    }
}

Trireme__Envelope cancel_of(Trireme__Cancel *body, uint64_t id)
{
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    trireme__cancel__init(body);
    body->id = id;
    e.body_case = TRIREME__ENVELOPE__BODY_CANCEL;
    e.cancel = body;
    return e;
}

Trireme__Envelope tokens_of(Trireme__Tokens *body, uint64_t step)
{
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    trireme__tokens__init(body);
    body->step = step;
    e.body_case = TRIREME__ENVELOPE__BODY_TOKENS;
    e.tokens = body;
    return e;
}

char *test_dir_make(void)
{
    char *dir = strdup("/tmp/trireme-wire-XXXXXX");
    assert_non_null(dir);
    assert_non_null(mkdtemp(dir));
    return dir;
}

void test_dir_remove(char **dir)
{
    char command[256];
    snprintf(command, sizeof(command), "rm -rf '%s'", *dir);
    assert_int_equal(system(command), 0);
    free(*dir);
    *dir = NULL;
}
