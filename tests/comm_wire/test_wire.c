/* tests/comm_wire/test_wire.c - sessions between a server and clients over real sockets: they begin, carry messages, and end with a reason. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
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

/* ---- a process of its own ---- */

/* The test program itself, as a client or a server of its own process: it serves until it is killed. */
static int serve(const char *role, const char *endpoint)
{
    Trireme__Hello h = hello_of("child", (uint64_t)getpid());
    wire_server *s = NULL;
    wire_client *c = NULL;
    wire_received r;
    if (strcmp(role, "client") == 0 ? wire_client_create(&(wire_client_options){.endpoint = endpoint, .security = &no_security, .hello = &h, .heartbeat_ms = 100}, &c)
                                    : wire_server_create(&(wire_server_options){.endpoint = endpoint, .security = &no_security, .heartbeat_ms = 100}, &s))
        return 1;
    for (double end = log_clock() + 60; log_clock() < end && getppid() != 1;) {
        if (c != NULL)
            wire_client_receive(c, 100, &r);
        else if (wire_server_receive(s, 100, &r) == ST_OK && r.kind == WIRE_MESSAGE && r.message->body_case == TRIREME__ENVELOPE__BODY_HELLO)
            welcome(s, r.peer);
    }
    return 0;
}

static pid_t start(const char *role, const char *endpoint)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        execl("/proc/self/exe", "test_wire", role, endpoint, (char *)NULL);
        _exit(127);
    }
    return pid;
}

static void end(pid_t pid)
{
    int code;
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &code, 0), pid);
}

/* ---- sessions ---- */

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


/* ---- ends and beginnings ---- */

static void a_restarted_replica_is_another_peer(void **state)
{
    (void)state;
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 0, 0);
    wire_client *first = client_open(wire_server_endpoint(s), &no_security, "replica", 1, 0);
    wire_peer peer = session_open(s, first);
    wire_client_destroy(&first);
    assert_int_equal(server_expect(s, NULL, WIRE_GONE, 0).peer, peer);
    wire_client *second = client_open(wire_server_endpoint(s), &no_security, "replica", 2, 0);
    wire_received r = server_expect(s, second, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_HELLO);
    assert_int_equal(r.message->hello->epoch, 2);
    assert_true(r.peer != peer);
    wire_client_destroy(&second);
    wire_server_destroy(&s);
}

static void a_name_in_use_is_refused_until_it_is_free(void **state)
{
    (void)state;
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 0, 0);
    wire_client *first = client_open(wire_server_endpoint(s), &no_security, "replica", 1, 0);
    wire_peer peer = session_open(s, first);
    wire_client *second = client_open(wire_server_endpoint(s), &no_security, "replica", 2, 0);
    wire_received r = client_expect(s, second, WIRE_MESSAGE, 0);
    assert_int_equal(r.message->body_case, TRIREME__ENVELOPE__BODY_GOODBYE);
    assert_true(r.message->goodbye->retry);
    assert_non_null(strstr(r.message->goodbye->reason, "--name"));
    Trireme__Tokens t;
    Trireme__Envelope e = tokens_of(&t, 1);
    assert_int_equal(wire_client_send(first, &e), ST_OK); /* the first is undisturbed */
    assert_int_equal(server_expect(s, NULL, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_TOKENS).peer, peer);
    wire_client_destroy(&first);
    assert_true(session_open(s, second) != peer); /* by itself */
    wire_client_destroy(&second);
    wire_server_destroy(&s);
}

static void a_reconnection_of_the_same_process_ends_its_earlier_session_first(void **state)
{
    (void)state;
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 0, 0);
    wire_client *first = client_open(wire_server_endpoint(s), &no_security, "replica", 9, 0), *again;
    wire_peer peer = session_open(s, first);
    again = client_open(wire_server_endpoint(s), &no_security, "replica", 9, 0);
    wire_received r;
    for (r.kind = WIRE_NOTHING; r.kind == WIRE_NOTHING;)
        assert_int_equal(wire_server_receive(s, 1000, &r), ST_OK);
    assert_int_equal(r.kind, WIRE_GONE);
    assert_int_equal(r.peer, peer);
    assert_string_equal(r.reason, "it connected again");
    assert_int_equal(wire_server_receive(s, 1000, &r), ST_OK);
    assert_int_equal(r.kind, WIRE_MESSAGE);
    assert_int_equal(r.message->body_case, TRIREME__ENVELOPE__BODY_HELLO);
    assert_string_equal(r.message->hello->replica, "replica");
    welcome(s, r.peer);
    client_expect(NULL, again, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_WELCOME);
    wire_client_destroy(&first);
    wire_client_destroy(&again);
    wire_server_destroy(&s);
}

/* The client says `n` things and leaves; the server reads the first, then is busy for a while, then goes on. */
static void hears_before_the_end(int n, bool may_be_cut)
{
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 100, 0);
    wire_client *c = client_open(wire_server_endpoint(s), &no_security, "replica", 1, 100);
    wire_peer peer = session_open(s, c);
    Trireme__Tokens t;
    Trireme__Goodbye g = TRIREME__GOODBYE__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    for (int i = 0; i < n; i++) {
        e = tokens_of(&t, (uint64_t)i);
        assert_int_equal(wire_client_send(c, &e), ST_OK);
    }
    e.body_case = TRIREME__ENVELOPE__BODY_GOODBYE;
    e.goodbye = &g;
    assert_int_equal(wire_client_send(c, &e), ST_OK);
    wire_client_destroy(&c);
    for (int i = 0; i < n; i++) {
        if (i < 3)
            usleep(100000); /* the loss is noticed, and looked into, while messages wait */
        wire_received r = {0};
        while (r.kind == WIRE_NOTHING)
            assert_int_equal(wire_server_receive(s, 1000, &r), ST_OK);
        if (may_be_cut && r.kind == WIRE_GONE) {
            wire_server_destroy(&s);
            return;
        }
        assert_int_equal(r.kind, WIRE_MESSAGE);
        assert_int_equal(r.message->body_case, TRIREME__ENVELOPE__BODY_TOKENS);
        assert_int_equal(r.message->tokens->step, i);
    }
    if (!may_be_cut)
        assert_int_equal(server_expect(s, NULL, WIRE_MESSAGE, 0).message->body_case, TRIREME__ENVELOPE__BODY_GOODBYE);
    assert_int_equal(server_expect(s, NULL, WIRE_GONE, 0).peer, peer);
    wire_server_destroy(&s);
}

static void what_a_peer_said_is_heard_before_its_end(void **state)
{
    (void)state;
    hears_before_the_end(20, false);
    /* More than the socket takes in at once: the connection breaks while nobody reads from it.  What the kernel still holds then may be lost, and the end is told where it
     * is; libzmq must survive it. */
    hears_before_the_end(MESSAGES, true);
}

static void a_client_outlives_its_gateway(void **state)
{
    (void)state;
    char endpoint[128];
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 0, 0);
    snprintf(endpoint, sizeof(endpoint), "%s", wire_server_endpoint(s));
    wire_client *c = client_open(endpoint, &no_security, "replica", 1, 0);
    session_open(s, c);
    wire_server_destroy(&s);
    wire_received r = client_expect(NULL, c, WIRE_GONE, 0);
    assert_string_equal(r.reason, "the connection was lost");
    assert_non_null(strstr(wire_client_problem(c), "lost"));
    Trireme__Tokens t;
    Trireme__Envelope e = tokens_of(&t, 1);
    assert_int_equal(wire_client_send(c, &e), ST_NOT_FOUND);
    s = server_open(endpoint, &no_security, 0, 0); /* the same port */
    session_open(s, c);
    assert_string_equal(wire_client_problem(c), "");
    wire_client_destroy(&c);
    wire_server_destroy(&s);
}

static void a_client_may_come_before_its_gateway(void **state)
{
    (void)state;
    char *dir = test_dir_make(), ipc[256];
    wire_received r;
    snprintf(ipc, sizeof(ipc), "ipc://%s/socket", dir);
    wire_client *c = client_open(ipc, &no_security, "replica", 1, 0);
    assert_int_equal(wire_client_receive(c, 50, &r), ST_OK);
    assert_int_equal(r.kind, WIRE_NOTHING);
    wire_server *s = server_open(ipc, &no_security, 0, 0);
    session_open(s, c);
    wire_client_destroy(&c);
    wire_server_destroy(&s);
    test_dir_remove(&dir);
}

static void a_dropped_peer_is_told_and_returns(void **state)
{
    (void)state;
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 100, 0);
    wire_client *c = client_open(wire_server_endpoint(s), &no_security, "replica", 1, 100);
    wire_peer peer = session_open(s, c);
    Trireme__Goodbye g = TRIREME__GOODBYE__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    g.reason = "no room";
    g.retry = true;
    e.body_case = TRIREME__ENVELOPE__BODY_GOODBYE;
    e.goodbye = &g;
    assert_int_equal(wire_server_send(s, peer, &e), ST_OK);
    wire_server_drop(s, peer);
    assert_int_equal(wire_server_send(s, peer, &e), ST_NOT_FOUND);
    wire_server_drop(s, peer); /* of no effect */
    wire_received r = client_expect(NULL, c, WIRE_MESSAGE, 0);
    assert_int_equal(r.message->body_case, TRIREME__ENVELOPE__BODY_GOODBYE);
    assert_string_equal(r.message->goodbye->reason, "no room");
    assert_string_equal(client_expect(NULL, c, WIRE_GONE, 0).reason, "no room");
    for (r.kind = WIRE_NOTHING; r.kind == WIRE_NOTHING;) { /* the server's owner hears of the old session no more */
        assert_int_equal(wire_server_receive(s, 5, &r), ST_OK);
        if (r.kind == WIRE_NOTHING) {
            wire_received mine;
            assert_int_equal(wire_client_receive(c, 5, &mine), ST_OK);
        }
    }
    assert_int_equal(r.kind, WIRE_MESSAGE);
    assert_int_equal(r.message->body_case, TRIREME__ENVELOPE__BODY_HELLO);
    assert_true(r.peer != peer);
    /* Without a word the client notices the silence. */
    welcome(s, r.peer);
    wire_server_drop(s, r.peer);
    client_expect(NULL, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_WELCOME);
    client_expect(NULL, c, WIRE_GONE, 0);
    wire_client_destroy(&c);
    wire_server_destroy(&s);
}

static void a_goodbye_without_retry_is_final(void **state)
{
    (void)state;
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 0, 0);
    Trireme__Hello h = hello_of("replica", 1);
    h.protocol = h.oldest_protocol = WIRE_PROTOCOL + 1; /* a replica of the next release */
    wire_client *c;
    assert_int_equal(wire_client_create(&(wire_client_options){.endpoint = wire_server_endpoint(s), .security = &no_security, .hello = &h}, &c), ST_OK);
    wire_received r = client_expect(s, c, WIRE_MESSAGE, 0);
    assert_int_equal(r.message->body_case, TRIREME__ENVELOPE__BODY_GOODBYE);
    assert_false(r.message->goodbye->retry);
    assert_non_null(strstr(r.message->goodbye->reason, "upgrade the gateway"));
    expect_nothing(s, c, 0.5);
    wire_counters n;
    wire_server_counters(s, &n);
    assert_int_equal(n.refused_hellos, 1);
    assert_int_equal(n.peers, 0);
    wire_client_destroy(&c);
    /* One that speaks the present protocol too is welcome, in that. */
    h.oldest_protocol = WIRE_PROTOCOL;
    assert_int_equal(wire_client_create(&(wire_client_options){.endpoint = wire_server_endpoint(s), .security = &no_security, .hello = &h}, &c), ST_OK);
    r = server_expect(s, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_HELLO);
    assert_int_equal(r.message->hello->protocol, WIRE_PROTOCOL + 1);
    welcome(s, r.peer);
    assert_int_equal(client_expect(s, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_WELCOME).message->welcome->protocol, WIRE_PROTOCOL);
    wire_client_destroy(&c);
    wire_server_destroy(&s);
}

static void wrong_options_are_refused(void **state)
{
    (void)state;
    static const char *const endpoints[] = {"", "nonsense", "tcp://", "tcp://127.0.0.1", "http://127.0.0.1:80", "tcp://127.0.0.1:99999"};
    wire_server *s = NULL;
    wire_client *c = NULL;
    Trireme__Hello h = hello_of("replica", 1), unnamed = hello_of("", 1);
    status_mute();
    for (size_t i = 0; i < ARRAY_LEN(endpoints); i++) {
        assert_int_equal(wire_server_create(&(wire_server_options){.endpoint = endpoints[i], .security = &no_security}, &s), ST_INVALID);
        assert_int_equal(wire_client_create(&(wire_client_options){.endpoint = endpoints[i], .security = &no_security, .hello = &h}, &c), ST_INVALID);
    }
    assert_int_equal(wire_client_create(&(wire_client_options){.endpoint = "tcp://127.0.0.1:7", .security = &no_security, .hello = &unnamed}, &c), ST_INVALID);
    s = server_open("tcp://127.0.0.1:*", &no_security, 0, 0);
    wire_server *second = NULL;
    assert_int_equal(wire_server_create(&(wire_server_options){.endpoint = wire_server_endpoint(s), .security = &no_security}, &second), ST_BUSY);
    status_unmute();
    assert_null(second);
    wire_server_destroy(&s);
    /* A local socket in use is not taken over; one that a dead process left is. */
    char *dir = test_dir_make(), ipc[256];
    snprintf(ipc, sizeof(ipc), "ipc://%s/socket", dir);
    s = server_open(ipc, &no_security, 0, 0);
    status_mute();
    assert_int_equal(wire_server_create(&(wire_server_options){.endpoint = ipc, .security = &no_security}, &second), ST_BUSY);
    status_unmute();
    wire_server_destroy(&s);
    pid_t pid = start("server", ipc);
    c = client_open(ipc, &no_security, "replica", 1, 100);
    client_expect(NULL, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_WELCOME);
    end(pid);
    wire_client_destroy(&c);
    s = server_open(ipc, &no_security, 0, 0);
    wire_server_destroy(&s);
    test_dir_remove(&dir);
}

/* ---- silence ---- */

static void a_stopped_replica_is_noticed_and_returns_as_another_peer(void **state)
{
    (void)state;
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 100, 0);
    pid_t pid = start("client", wire_server_endpoint(s));
    wire_peer peer = server_expect(s, NULL, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_HELLO).peer;
    welcome(s, peer);
    assert_int_equal(kill(pid, SIGSTOP), 0);
    assert_int_equal(server_expect(s, NULL, WIRE_GONE, 0).peer, peer);
    assert_int_equal(kill(pid, SIGCONT), 0);
    wire_received r = server_expect(s, NULL, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_HELLO);
    assert_true(r.peer != peer);
    assert_int_equal(r.message->hello->epoch, pid); /* the same process, another session */
    peer = r.peer;
    welcome(s, peer);
    kill(pid, SIGKILL);
    assert_int_equal(server_expect(s, NULL, WIRE_GONE, 0).peer, peer);
    end(pid);
    wire_server_destroy(&s);
}

static void a_stopped_gateway_is_noticed_and_found_again(void **state)
{
    (void)state;
    char *dir = test_dir_make(), ipc[256];
    snprintf(ipc, sizeof(ipc), "ipc://%s/socket", dir);
    pid_t pid = start("server", ipc);
    wire_client *c = client_open(ipc, &no_security, "replica", 1, 100);
    client_expect(NULL, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_WELCOME);
    assert_int_equal(kill(pid, SIGSTOP), 0);
    client_expect(NULL, c, WIRE_GONE, 0);
    assert_int_equal(kill(pid, SIGCONT), 0);
    client_expect(NULL, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_WELCOME);
    end(pid);
    assert_string_equal(client_expect(NULL, c, WIRE_GONE, 0).reason, "the connection was lost");
    wire_client_destroy(&c);
    test_dir_remove(&dir);
}

static void an_owner_that_hangs_is_silent_though_its_sockets_live(void **state)
{
    (void)state;
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 100, 0);
    wire_client *c = client_open(wire_server_endpoint(s), &no_security, "replica", 1, 100);
    wire_peer peer = session_open(s, c);
    wire_received r = server_expect(s, NULL, WIRE_GONE, 0); /* nobody serves the client meanwhile */
    assert_int_equal(r.peer, peer);
    assert_non_null(strstr(r.reason, "silent"));
    assert_true(session_open(s, c) != peer);
    r = client_expect(NULL, c, WIRE_GONE, 0); /* nor now the server */
    assert_non_null(strstr(r.reason, "silent"));
    wire_client_destroy(&c);
    wire_server_destroy(&s);
}

/* One that was away itself does not hold the silence of that time against others. */
static void who_was_away_blames_nobody(void **state)
{
    (void)state;
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 100, 0);
    wire_client *c = client_open(wire_server_endpoint(s), &no_security, "replica", 1, 10000); /* does not mind the server's silence */
    wire_peer peer = session_open(s, c);
    wire_received r;
    usleep(600000); /* six heartbeats in which the server hears nothing */
    Trireme__Tokens t;
    Trireme__Envelope e = tokens_of(&t, 1);
    assert_int_equal(wire_client_send(c, &e), ST_OK);
    do
        assert_int_equal(wire_server_receive(s, 100, &r), ST_OK);
    while (r.kind == WIRE_NOTHING);
    assert_int_equal(r.kind, WIRE_MESSAGE);
    assert_int_equal(r.peer, peer);
    wire_client_destroy(&c);
    wire_server_destroy(&s);
}

static void idle_sessions_stay(void **state)
{
    (void)state;
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 100, 0);
    wire_client *c = client_open(wire_server_endpoint(s), &no_security, "replica", 1, 100);
    session_open(s, c);
    expect_nothing(s, c, 0.6);
    wire_counters at_server, at_client;
    wire_server_counters(s, &at_server);
    wire_client_counters(c, &at_client);
    assert_true(at_server.messages_in > 2 && at_client.messages_in > 2); /* heartbeats, both ways */
    wire_client_destroy(&c);
    wire_server_destroy(&s);
}

/* ---- queues ---- */

static void full_queues_are_told_and_lose_nothing(void **state)
{
    (void)state;
    enum { QUEUE = 50 };
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 10000, QUEUE);
    wire_client *c = client_open(wire_server_endpoint(s), &no_security, "replica", 1, 10000);
    wire_peer peer = session_open(s, c);
    /* 64 KiB each, so that the kernel's buffers are soon full. */
    int32_t *tokens = calloc(4096, sizeof(*tokens));
    assert_non_null(tokens);
    for (int i = 0; i < 4096; i++)
        tokens[i] = 500;
    Trireme__Sampling p = TRIREME__SAMPLING__INIT;
    Trireme__Submit submit = TRIREME__SUBMIT__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    e.body_case = TRIREME__ENVELOPE__BODY_SUBMIT;
    e.submit = &submit;
    submit.tokens = tokens;
    submit.n_tokens = 4096;
    submit.n_prompt = 4096;
    submit.sampling = &p;
    p.stop = tokens;
    p.n_stop = 4096;
    uint64_t sent = 0;
    for (int round = 0; round < 2; round++) { /* full, emptied, and full again */
        status st;
        do {
            submit.id = sent;
            st = wire_server_send(s, peer, &e);
            sent += st == ST_OK;
        } while (st == ST_OK && sent < 100000);
        assert_int_equal(st, ST_LIMIT);
        static uint64_t next;
        for (; next < sent; next++) {
            wire_received r = client_expect(NULL, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_SUBMIT);
            assert_int_equal(r.message->submit->id, next);
        }
    }
    free(tokens);
    wire_client_destroy(&c);
    wire_server_destroy(&s);
}

static void a_peers_queue_is_bounded_in_bytes_too(void **state)
{
    (void)state;
    wire_server *s;
    assert_int_equal(wire_server_create(&(wire_server_options){.endpoint = "tcp://127.0.0.1:*", .security = &no_security, .heartbeat_ms = 10000,
                                                               .send_bytes = (size_t)1 << 20}, &s),
                     ST_OK);
    wire_client *c = client_open(wire_server_endpoint(s), &no_security, "replica", 1, 10000);
    wire_peer peer = session_open(s, c);
    uint8_t *grammar = calloc(1, (size_t)1 << 20);
    assert_non_null(grammar);
    int32_t token = 1;
    Trireme__Sampling p = TRIREME__SAMPLING__INIT;
    Trireme__Submit submit = TRIREME__SUBMIT__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    e.body_case = TRIREME__ENVELOPE__BODY_SUBMIT;
    e.submit = &submit;
    submit.tokens = &token;
    submit.n_tokens = 1;
    submit.n_prompt = 1;
    submit.sampling = &p;
    p.grammar = (ProtobufCBinaryData){(size_t)300 << 10, grammar};
    uint64_t sent = 0;
    status st;
    do {
        submit.id = sent;
        st = wire_server_send(s, peer, &e);
        sent += st == ST_OK;
    } while (st == ST_OK && sent < 4000); /* the queue's 4096 messages would take more than a gigabyte */
    assert_int_equal(st, ST_LIMIT);
    assert_true(sent >= 3);
    for (uint64_t i = 0; i < sent; i++)
        assert_int_equal(client_expect(NULL, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_SUBMIT).message->submit->id, i);
    p.grammar.len = (size_t)1 << 20;
    assert_int_equal(wire_server_send(s, peer, &e), ST_INVALID); /* alone as large as the queue: waiting would not help */
    free(grammar);
    wire_client_destroy(&c);
    wire_server_destroy(&s);
}

static void a_message_over_the_limit_is_not_sent(void **state)
{
    (void)state;
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 0, 0);
    wire_client *c = client_open(wire_server_endpoint(s), &no_security, "replica", 1, 0);
    session_open(s, c);
    Trireme__AssetChunk chunk = TRIREME__ASSET_CHUNK__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    e.body_case = TRIREME__ENVELOPE__BODY_ASSET_CHUNK;
    e.asset_chunk = &chunk;
    chunk.data = (ProtobufCBinaryData){WIRE_MAX_MESSAGE, calloc(1, WIRE_MAX_MESSAGE)};
    assert_non_null(chunk.data.data);
    assert_int_equal(wire_client_send(c, &e), ST_INVALID);
    free(chunk.data.data);
    expect_nothing(s, c, 0.1);
    wire_client_destroy(&c);
    wire_server_destroy(&s);
}

/* ---- wakes ---- */

typedef struct waker {
    wire_server *s;
    wire_client *c;
} waker;

static void *wake_both(void *arg)
{
    waker *w = arg;
    usleep(20000);
    wire_server_wake(w->s);
    wire_client_wake(w->c);
    return NULL;
}

static void a_wait_is_ended_from_another_thread(void **state)
{
    (void)state;
    waker w = {server_open("tcp://127.0.0.1:*", &no_security, 0, 0), NULL};
    w.c = client_open("tcp://127.0.0.1:1", &no_security, "replica", 1, 0); /* nobody is there */
    wire_received r;
    for (int i = 0; i < 20; i++) {
        pthread_t t;
        assert_int_equal(pthread_create(&t, NULL, wake_both, &w), 0);
        assert_int_equal(wire_server_receive(w.s, 600000, &r), ST_OK); /* longer than this test may take */
        assert_int_equal(r.kind, WIRE_NOTHING);
        assert_int_equal(wire_client_receive(w.c, 600000, &r), ST_OK);
        assert_int_equal(r.kind, WIRE_NOTHING);
        assert_int_equal(pthread_join(t, NULL), 0);
    }
    /* A wake before the wait counts too, and only once. */
    wire_server_wake(w.s);
    wire_server_wake(w.s);
    assert_int_equal(wire_server_receive(w.s, 600000, &r), ST_OK);
    assert_int_equal(wire_server_receive(w.s, 1, &r), ST_OK);
    wire_client_destroy(&w.c);
    wire_server_destroy(&w.s);
}

static void wakes_and_messages_take_turns(void **state)
{
    (void)state;
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 10000, 0);
    wire_client *c = client_open(wire_server_endpoint(s), &no_security, "replica", 1, 10000);
    wire_peer peer = session_open(s, c);
    Trireme__Tokens t;
    Trireme__Cancel x;
    for (int i = 0; i < 20; i++) {
        Trireme__Envelope up = tokens_of(&t, (uint64_t)i), down = cancel_of(&x, (uint64_t)i);
        assert_int_equal(wire_client_send(c, &up), ST_OK);
        assert_int_equal(wire_server_send(s, peer, &down), ST_OK);
    }
    server_expect(s, NULL, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_TOKENS);
    client_expect(NULL, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_CANCEL);
    usleep(50000); /* the others are there too */
    int n_server[2] = {0}, n_client[2] = {0};
    wire_received r;
    for (int i = 0; i < 20; i++) { /* woken before each */
        wire_server_wake(s);
        assert_int_equal(wire_server_receive(s, 600000, &r), ST_OK);
        n_server[r.kind == WIRE_MESSAGE]++;
        wire_client_wake(c);
        assert_int_equal(wire_client_receive(c, 600000, &r), ST_OK);
        n_client[r.kind == WIRE_MESSAGE]++;
    }
    assert_int_equal(n_server[0], 10);
    assert_int_equal(n_server[1], 10);
    assert_int_equal(n_client[0], 10);
    assert_int_equal(n_client[1], 10);
    wire_client_destroy(&c);
    wire_server_destroy(&s);
}

typedef struct hammer {
    waker w;
    atomic_bool stop;
} hammer;

static void *wake_all_the_time(void *arg)
{
    hammer *h = arg;
    while (!atomic_load(&h->stop)) {
        wire_server_wake(h->w.s);
        wire_client_wake(h->w.c);
        sched_yield();
    }
    return NULL;
}

static void a_session_lives_under_constant_wakes(void **state)
{
    (void)state;
    hammer h = {.w = {server_open("tcp://127.0.0.1:*", &no_security, 50, 0), NULL}};
    pthread_t thread;
    wire_received r;
    h.w.c = client_open(wire_server_endpoint(h.w.s), &no_security, "replica", 1, 50);
    wire_peer peer = session_open(h.w.s, h.w.c);
    assert_int_equal(pthread_create(&thread, NULL, wake_all_the_time, &h), 0);
    wire_counters at_server = {0}, at_client = {0};
    for (double end = log_clock() + PATIENCE; (at_server.messages_in < 6 || at_client.messages_in < 6) && log_clock() < end;) { /* heartbeats */
        assert_int_equal(wire_server_receive(h.w.s, 100, &r), ST_OK);
        assert_int_equal(r.kind, WIRE_NOTHING);
        assert_int_equal(wire_client_receive(h.w.c, 100, &r), ST_OK);
        assert_int_equal(r.kind, WIRE_NOTHING);
        wire_server_counters(h.w.s, &at_server);
        wire_client_counters(h.w.c, &at_client);
    }
    assert_true(at_server.messages_in >= 6 && at_client.messages_in >= 6);
    Trireme__Tokens t;
    Trireme__Envelope e = tokens_of(&t, 1);
    assert_int_equal(wire_client_send(h.w.c, &e), ST_OK);
    assert_int_equal(server_expect(h.w.s, NULL, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_TOKENS).peer, peer);
    atomic_store(&h.stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    wire_client_destroy(&h.w.c);
    wire_server_destroy(&h.w.s);
}

/* ---- violations among the well-behaved ---- */

static void a_submit_of_a_wrong_shape_is_answered(void **state)
{
    (void)state;
    wire_server *s = server_open("tcp://127.0.0.1:*", &no_security, 0, 0);
    wire_client *c = client_open(wire_server_endpoint(s), &no_security, "replica", 1, 0);
    wire_peer peer = session_open(s, c);
    int32_t token = 512; /* the first that the replica's vocabulary lacks */
    Trireme__Sampling p = TRIREME__SAMPLING__INIT;
    Trireme__Submit submit = TRIREME__SUBMIT__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    e.body_case = TRIREME__ENVELOPE__BODY_SUBMIT;
    e.submit = &submit;
    submit.id = 77;
    submit.tokens = &token;
    submit.n_tokens = 1;
    submit.n_prompt = 1;
    submit.sampling = &p;
    assert_int_equal(wire_server_send(s, peer, &e), ST_OK);
    wire_received r = server_expect(s, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_ABORTED);
    assert_int_equal(r.message->aborted->id, 77);
    assert_int_equal(r.message->aborted->status, ST_INVALID);
    assert_non_null(strstr(r.message->aborted->message, "vocabulary"));
    token = 511;
    assert_int_equal(wire_server_send(s, peer, &e), ST_OK); /* the session goes on */
    assert_int_equal(client_expect(s, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_SUBMIT).message->submit->id, 77);
    wire_client_destroy(&c);
    wire_server_destroy(&s);
}

int main(int argc, char **argv)
{
    if (argc == 3)
        return serve(argv[1], argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_pass_over_tcp_and_ipc),
        cmocka_unit_test(a_restarted_replica_is_another_peer),
        cmocka_unit_test(a_name_in_use_is_refused_until_it_is_free),
        cmocka_unit_test(a_reconnection_of_the_same_process_ends_its_earlier_session_first),
        cmocka_unit_test(what_a_peer_said_is_heard_before_its_end),
        cmocka_unit_test(a_client_outlives_its_gateway),
        cmocka_unit_test(a_client_may_come_before_its_gateway),
        cmocka_unit_test(a_dropped_peer_is_told_and_returns),
        cmocka_unit_test(a_goodbye_without_retry_is_final),
        cmocka_unit_test(wrong_options_are_refused),
        cmocka_unit_test(a_stopped_replica_is_noticed_and_returns_as_another_peer),
        cmocka_unit_test(a_stopped_gateway_is_noticed_and_found_again),
        cmocka_unit_test(an_owner_that_hangs_is_silent_though_its_sockets_live),
        cmocka_unit_test(who_was_away_blames_nobody),
        cmocka_unit_test(idle_sessions_stay),
        cmocka_unit_test(full_queues_are_told_and_lose_nothing),
        cmocka_unit_test(a_peers_queue_is_bounded_in_bytes_too),
        cmocka_unit_test(a_message_over_the_limit_is_not_sent),
        cmocka_unit_test(a_wait_is_ended_from_another_thread),
        cmocka_unit_test(wakes_and_messages_take_turns),
        cmocka_unit_test(a_session_lives_under_constant_wakes),
        cmocka_unit_test(a_submit_of_a_wrong_shape_is_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
