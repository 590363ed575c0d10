/* tests/comm_wire/pair.h - a server and clients in one thread: both ends are received from in turn, until something has come or the deadline is over. */
#ifndef TESTS_COMM_WIRE_PAIR_H
#define TESTS_COMM_WIRE_PAIR_H

#include "comm/wire/wire.h"

#define PATIENCE 20.0 /* seconds until a test gives up */

/* A Hello that passes every check. */
Trireme__Hello hello_of(const char *name, uint64_t epoch);

wire_server *server_open(const char *endpoint, const wire_security *security, int heartbeat_ms, int send_queue);
wire_client *client_open(const char *endpoint, const wire_security *security, const char *name, uint64_t epoch, int heartbeat_ms);

/* Receives from the server (the client, if there is one, is served too and what it gets dropped) until `kind` comes, of `body` if that is not 0. */
wire_received server_expect(wire_server *s, wire_client *c, wire_kind kind, Trireme__Envelope__BodyCase body);
wire_received client_expect(wire_server *s, wire_client *c, wire_kind kind, Trireme__Envelope__BodyCase body);
void welcome(wire_server *s, wire_peer peer);
/* Hello and Welcome; the server's name for the client. */
wire_peer session_open(wire_server *s, wire_client *c);
/* Both ends for a while; what comes must be nothing. */
void expect_nothing(wire_server *s, wire_client *c, double seconds);

Trireme__Envelope cancel_of(Trireme__Cancel *body, uint64_t id);
Trireme__Envelope tokens_of(Trireme__Tokens *body, uint64_t step);

extern const wire_security no_security;

/* A folder of its own for a test, removed at the end. */
char *test_dir_make(void);
void test_dir_remove(char **dir);

#endif
