/* tests/bench/bench_wire.c - what a message between gateway and replica costs.
 *
 *   bench_wire [--events N]      N events in each Tokens message (default 32: a step of 32 streams)
 *
 * For tcp and ipc, plain and encrypted: the time of a message there and back between two threads that wait, and messages a second in one direction as fast as
 * the queue takes them; each message packed, checked and unpacked. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "comm/wire/wire.h"

enum { ROUND_TRIPS = 4000, MESSAGES = 100000, MAX_EVENTS = 4096 };

typedef struct bench {
    wire_server *server;
    wire_client *client;
    wire_peer peer;
    int n_events;
    double there_back[ROUND_TRIPS], seconds;
    status st;
} bench;

static Trireme__Event event;
static Trireme__Event *events[MAX_EVENTS];

static Trireme__Hello hello(void)
{
    Trireme__Hello h = TRIREME__HELLO__INIT;
    h.replica = "bench";
    h.numerics_id = h.model = "bench";
    h.epoch = 1;
    h.max_model_len = h.vocab = 1 << 20;
    h.max_num_seqs = h.max_num_batched_tokens = h.block_tokens = h.tp = h.pp = 1;
    h.kv_blocks = 1;
    return h;
}

static status client_send(bench *b, uint64_t step)
{
    Trireme__Tokens t = TRIREME__TOKENS__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    status st;
    t.step = step;
    t.events = events;
    t.n_events = (size_t)b->n_events;
    e.body_case = TRIREME__ENVELOPE__BODY_TOKENS;
    e.tokens = &t;
    while ((st = wire_client_send(b->client, &e)) == ST_LIMIT)
        usleep(50);
    return st;
}

static status server_answer(bench *b, uint64_t step)
{
    Trireme__Cancel c = TRIREME__CANCEL__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    c.id = step;
    e.body_case = TRIREME__ENVELOPE__BODY_CANCEL;
    e.cancel = &c;
    return wire_server_send(b->server, b->peer, &e);
}

static status server_wait(bench *b, Trireme__Envelope__BodyCase body, wire_received *r)
{
    do {
        TRY(wire_server_receive(b->server, 10000, r));
        if (r->kind == WIRE_GONE)
            return FAIL(ST_PEER, "the client is gone: %s", r->reason);
    } while (r->kind != WIRE_MESSAGE || r->message->body_case != body);
    return ST_OK;
}

static status client_wait(bench *b, Trireme__Envelope__BodyCase body, wire_received *r)
{
    do {
        TRY(wire_client_receive(b->client, 10000, r));
        if (r->kind == WIRE_GONE)
            return FAIL(ST_PEER, "the server is gone: %s", r->reason);
    } while (r->kind != WIRE_MESSAGE || r->message->body_case != body);
    return ST_OK;
}

static status client_run(bench *b)
{
    wire_received r;
    TRY(client_wait(b, TRIREME__ENVELOPE__BODY_WELCOME, &r));
    for (int i = 0; i < ROUND_TRIPS; i++) {
        double begin = log_clock();
        TRY(client_send(b, (uint64_t)i));
        TRY(client_wait(b, TRIREME__ENVELOPE__BODY_CANCEL, &r));
        b->there_back[i] = log_clock() - begin;
    }
    for (int i = 0; i < MESSAGES; i++)
        TRY(client_send(b, (uint64_t)i));
    return client_wait(b, TRIREME__ENVELOPE__BODY_CANCEL, &r);
}

static void *client_main(void *arg)
{
    bench *b = arg;
    b->st = client_run(b);
    return NULL;
}

static status server_run(bench *b)
{
    wire_received r;
    Trireme__Welcome w = TRIREME__WELCOME__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    e.body_case = TRIREME__ENVELOPE__BODY_WELCOME;
    e.welcome = &w;
    TRY(server_wait(b, TRIREME__ENVELOPE__BODY_HELLO, &r));
    b->peer = r.peer;
    TRY(wire_server_send(b->server, b->peer, &e));
    for (int i = 0; i < ROUND_TRIPS; i++) {
        TRY(server_wait(b, TRIREME__ENVELOPE__BODY_TOKENS, &r));
        TRY(server_answer(b, (uint64_t)i));
    }
    double begin = 0;
    for (int i = 0; i < MESSAGES; i++) {
        TRY(server_wait(b, TRIREME__ENVELOPE__BODY_TOKENS, &r));
        if (i == 0)
            begin = log_clock();
    }
    b->seconds = log_clock() - begin;
    return server_answer(b, 0);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static status measure(const char *endpoint, const wire_security *at_server, const wire_security *at_client, int n_events)
{
    static bench b;
    pthread_t thread;
    Trireme__Hello h = hello();
    b = (bench){.n_events = n_events};
    TRY(wire_server_create(&(wire_server_options){.endpoint = endpoint, .security = at_server}, &b.server));
    TRY(wire_client_create(&(wire_client_options){.endpoint = wire_server_endpoint(b.server), .security = at_client, .hello = &h}, &b.client));
    if (pthread_create(&thread, NULL, client_main, &b) != 0)
        return FAIL(ST_NO_MEMORY, "no thread");
    status st = server_run(&b);
    pthread_join(thread, NULL);
    wire_counters n;
    wire_server_counters(b.server, &n);
    wire_client_destroy(&b.client);
    wire_server_destroy(&b.server);
    TRY(st);
    TRY(b.st);
    qsort(b.there_back, ROUND_TRIPS, sizeof(double), by_value);
    double bytes = (double)n.bytes_in / (double)n.messages_in;
    printf("%-4.4s %-6s there and back: median %6.1f  p90 %6.1f  p99 %6.1f us   one way: %6.0f messages/s of %.0f bytes, %5.1f MB/s\n", endpoint,
           at_server->plain ? "plain" : "CURVE", 1e6 * b.there_back[ROUND_TRIPS / 2], 1e6 * b.there_back[ROUND_TRIPS * 9 / 10],
           1e6 * b.there_back[ROUND_TRIPS * 99 / 100], MESSAGES / b.seconds, bytes, 1e-6 * bytes * MESSAGES / b.seconds);
    return ST_OK;
}

static status run(const char *dir, int n_events)
{
    wire_security plain = {.plain = true}, gateway, replica;
    char keys[256], ipc[256];
    snprintf(keys, sizeof(keys), "%s/keys", dir);
    snprintf(ipc, sizeof(ipc), "ipc://%s/socket", dir);
    TRY(wire_keys_dir_create(keys));
    TRY(wire_security_gateway(keys, &gateway));
    TRY(wire_security_replica(keys, NULL, &replica));
    status st = ST_OK;
    for (int i = 0; i < 4 && st == ST_OK; i++)
        st = measure(i < 2 ? "tcp://127.0.0.1:*" : ipc, i % 2 ? &gateway : &plain, i % 2 ? &replica : &plain, n_events);
    wire_security_clear(&gateway);
    wire_security_clear(&replica);
    return st;
}

int main(int argc, char **argv)
{
    char dir[] = "/tmp/trireme-bench-XXXXXX", command[64];
    int n_events = argc == 3 && strcmp(argv[1], "--events") == 0 ? atoi(argv[2]) : argc == 1 ? 32 : 0;
    if (n_events < 1 || n_events > MAX_EVENTS)
        return fprintf(stderr, "usage: %s [--events N]\n", argv[0]), 2;
    trireme__event__init(&event);
    event.id = 123456;
    event.index = 100;
    event.token = 12345;
    event.hash = 0x0123456789abcdefu;
    event.logprob = -0.5f;
    for (int i = 0; i < n_events; i++)
        events[i] = &event;
    if (mkdtemp(dir) == NULL)
        return 1;
    status st = run(dir, n_events);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command) != 0 || st != ST_OK;
}
