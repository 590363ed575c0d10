/* tests/gateway/test_http_fuzz.c - thousands of damaged requests at the server's socket: it answers properly or hangs up, and stays well.
 *
 *     test_http_fuzz [REQUESTS [SEED]]
 *
 * Requests come from a few sound ones by cutting, doubling, swapping and overwriting pieces.  Each has a connection of its own, whose sending side is then closed:
 * so every answer must end.  Many are under way at once, since some are unfinished and wait to be cut off.  An answer must begin with a status line and keep its own framing. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"
#include "tests/gateway/client.h"
#include "tests/gateway/serve.h"

static const char *const seeds[] = {
    "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n",
    "HEAD /items/a%20b?q=1&r=%41 HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nX-Request-Id: abc\r\n\r\n",
    "POST /echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"a\": [1, 2]}",
    "POST /echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nTrailer: t\r\n\r\n",
    "POST /stream?n=2&gap_us=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n{}GET /hello HTTP/1.1\r\nHost: y\r\n\r\n",
    "OPTIONS /echo HTTP/1.1\r\nHost: x\r\nOrigin: https://a.b\r\nAccess-Control-Request-Headers: x\r\n\r\n",
    "POST /small HTTP/1.0\r\nContent-Length: 4\r\nConnection: close\r\nExpect: 100-continue\r\nCookie: a=b; c=\"d\"\r\n\r\nbody",
    "GET http://host/files/a/../b HTTP/1.1\r\nHost: host\r\nRange: bytes=0-\r\n\tfolded\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
};

static const char *const pieces[] = {"\r\n", "\n", "\r", ":", " ", "\t", "%", "%00", "\0x", "Content-Length: ", "Transfer-Encoding: chunked", "\xff", "0", "-1", "18446744073709551615", "ffffffffffffffff",
                                     "HTTP/1.1", "Host: x\r\n", "\r\n\r\n", "Expect: 100-continue\r\n", "/../", "?", "&=", ";", "chunked"};

static _Thread_local uint64_t state; /* a request's randomness comes from the seed and its number alone */

static size_t below(size_t n)
{
    state += 0x9e3779b97f4a7c15u;
    return n > 0 ? (size_t)(hash_mix(state) % n) : 0;
}

static void damage(mem_str *r)
{
    mem_str out = {0};
    size_t at = below(r->len + 1), n = below(r->len - at + 1), small = n < 20 ? n : below(20);
    const char *piece = pieces[below(ARRAY_LEN(pieces))];
    mem_str_append(&out, r->data, at);
    switch (below(6)) {
    case 0: /* cut */
        mem_str_append(&out, r->data + at + small, r->len - at - small);
        break;
    case 1: /* put in */
        mem_str_append(&out, piece, piece[0] == '\0' ? 2 : strlen(piece));
        mem_str_append(&out, r->data + at, r->len - at);
        break;
    case 2: /* double */
        mem_str_append(&out, r->data + at, n);
        mem_str_append(&out, r->data + at, r->len - at);
        break;
    case 3: /* overwrite a byte */
        mem_str_append(&out, r->data + at, r->len - at);
        if (out.len > at)
            out.data[at] = (char)below(256);
        break;
    case 4: /* a long run */
        for (size_t i = below(8) == 0 ? 50000 : below(300); i > 0; i--)
            mem_str_putc(&out, piece[0]);
        mem_str_append(&out, r->data + at, r->len - at);
        break;
    default: /* another's tail */
        mem_str_puts(&out, seeds[below(ARRAY_LEN(seeds))]);
    }
    mem_str_free(r);
    *r = out;
}

/* Reads to the end of the connection; false: it does not end, or does not begin as an answer does. */
static bool try_one(int port, const mem_str *request)
{
    mem_str rest = {0};
    bool ok = true;
    int fd = client_connect("127.0.0.1", port);
    if (fd < 0)
        return false;
    client_send(fd, request->data, request->len);
    shutdown(fd, SHUT_WR);
    for (int i = 0; i < 50; i++) {
        client_answer a;
        client_read(fd, false, 20000, &rest, &a); /* an answer to HEAD may leave us waiting for a body: then the end comes */
        bool over = a.closed || a.status == 0, answered = a.status >= 200 && a.status < 600;
        ok = ok && (over || answered) && (a.status == 0 || answered || a.status == 100) && (a.closed || a.complete);
        client_answer_free(&a);
        if (over || !ok)
            break;
    }
    mem_str_free(&rest);
    close(fd);
    return ok;
}

#define CLIENTS 32

typedef struct client {
    pthread_t thread;
    int first, n, port;
    uint64_t seed;
    bool failed;
} client;

static void *fuzz(void *arg)
{
    client *c = arg;
    for (int i = c->first; i < c->n && !c->failed; i += CLIENTS) {
        mem_str r = {0};
        state = hash_mix(c->seed) + (uint64_t)i * 1000003;
        mem_str_puts(&r, seeds[below(ARRAY_LEN(seeds))]);
        for (size_t k = 1 + below(5); k > 0; k--)
            damage(&r);
        c->failed = r.len > 0 && !try_one(c->port, &r);
        if (c->failed)
            printf("request %d of seed %llx was not answered properly:\n%.*s\n", i, (unsigned long long)c->seed, (int)r.len, r.data);
        mem_str_free(&r);
    }
    return NULL;
}

static int fuzz_all(int n, uint64_t seed, int port)
{
    client all[CLIENTS];
    int failed = 0;
    for (int i = 0; i < CLIENTS; i++) {
        all[i] = (client){.first = i, .n = n, .port = port, .seed = seed};
        pthread_create(&all[i].thread, NULL, fuzz, &all[i]);
    }
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(all[i].thread, NULL);
        failed |= all[i].failed;
    }
    return failed;
}

int main(int argc, char **argv)
{
    int n = argc > 1 ? atoi(argv[1]) : 2000;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 16) : 1;
    serve *s = serve_start((http_options){.max_body = 1000});
    uint64_t begun = http_now();
    int failed = fuzz_all(n, seed, serve_port(s));
    serve_counts c;
    client_answer a;
    client_ask(serve_port(s), "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n", &a);
    failed |= a.status != 200;
    client_answer_free(&a);
    for (int i = 0; i < 10000 && (serve_counts_get(s, &c), http_server_active(serve_server(s)) + c.held > 0); i++)
        usleep(1000);
    failed |= http_server_active(serve_server(s)) + c.held > 0;
    printf("%d requests in %.1f s: %d reached a handler, %d 2xx, %d 400, %d 404, %d 405, %d 413, %d left behind\n", n, (double)(http_now() - begun) * 1e-9, c.handled, c.by_status[200] + c.by_status[204],
           c.by_status[400], c.by_status[404], c.by_status[405], c.by_status[413], http_server_active(serve_server(s)) + c.held);
    serve_stop(&s, 1000);
    return failed;
}
