/* tests/comm_wire/test_wire.c - sessions between a server and clients over real sockets: they begin, carry messages, and end with a reason. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "pair.h"

enum { MESSAGES = 500 };

/* Messages in both directions, in order and whole. */
static void exchange(const char *endpoint, const wire_security *at_server, const wire_security *at_client, const char *user)
{
    wire_server *s = server_open(endpoint, at_server, 0, 0);
    wire_client *c = client_open(wire_server_endpoint(s), at_client, "replica-1", 42, 0);
    wire_received r = server_expect(s, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY__NOT_SET);
    wire_peer peer = r.peer;
    assert_int_equal(r.message->body_case, TRIREME__ENVELOPE__BODY_HELLO);
    assert_string_equal(r.message->hello->replica, "replica-1");
    assert_int_equal(r.message->hello->protocol, WIRE_PROTOCOL);
    assert_int_equal(r.message->hello->epoch, 42);
    assert_string_equal(r.user, user);
    welcome(s, peer);
    r = client_expect(s, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY__NOT_SET);
    assert_int_equal(r.message->body_case, TRIREME__ENVELOPE__BODY_WELCOME);
    assert_int_equal(r.message->welcome->protocol, WIRE_PROTOCOL);
    assert_int_equal(r.message->welcome->epoch, 7);
    assert_string_equal(wire_client_problem(c), "");
    Trireme__Cancel cancel;
    Trireme__Tokens tokens;
    for (int i = 0; i < MESSAGES; i++) {
        Trireme__Envelope down = cancel_of(&cancel, (uint64_t)i), up = tokens_of(&tokens, (uint64_t)i);
        assert_int_equal(wire_server_send(s, peer, &down), ST_OK);
        assert_int_equal(wire_client_send(c, &up), ST_OK);
    }
    for (int i = 0; i < MESSAGES; i++) {
        r = server_expect(s, NULL, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_TOKENS);
        assert_int_equal(r.message->tokens->step, i);
        assert_int_equal(r.peer, peer);
        r = client_expect(NULL, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_CANCEL);
        assert_int_equal(r.message->cancel->id, i);
    }
    wire_client_destroy(&c);
    assert_null(c);
    r = server_expect(s, NULL, WIRE_GONE, TRIREME__ENVELOPE__BODY__NOT_SET);
    assert_int_equal(r.peer, peer);
    assert_int_equal(wire_server_send(s, peer, &(Trireme__Envelope)TRIREME__ENVELOPE__INIT), ST_NOT_FOUND);
    wire_server_destroy(&s);
    assert_null(s);
}

static void messages_pass_over_tcp_and_ipc(void **state)
{
    (void)state;
    char *dir = test_dir_make(), ipc[256];
    snprintf(ipc, sizeof(ipc), "ipc://%s/socket", dir);
    exchange("tcp://127.0.0.1:*", &no_security, &no_security, "");
    exchange(ipc, &no_security, &no_security, "");
    test_dir_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_pass_over_tcp_and_ipc),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
