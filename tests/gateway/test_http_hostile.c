/* tests/gateway/test_http_hostile.c - the HTTP server against those who mean harm or are broken: each must get the right status or be cut off, at a bounded cost. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/gateway/client.h"
#include "tests/gateway/serve.h"

static serve *s;

static int setup(void **state)
{
    (void)state;
    s = serve_start((http_options){.max_body = 100000});
    return s == NULL;
}

/* For those who are slow: times short enough to be waited for. */
static int setup_impatient(void **state)
{
    (void)state;
    s = serve_start((http_options){.head_timeout_ms = 400, .body_timeout_ms = 400, .idle_timeout_ms = 400, .write_timeout_ms = 400});
    return s == NULL;
}

/* Nothing may be left behind, whatever a test did. */
static int teardown(void **state)
{
    (void)state;
    uint64_t end = http_now() + 10000000000u;
    serve_counts c;
    while (serve_counts_get(s, &c), (http_server_active(serve_server(s)) > 0 || c.held > 0) && http_now() < end)
        usleep(1000);
    int left = http_server_active(serve_server(s)) + c.held;
    bool alive = false;
    while (!alive && http_now() < end) { /* connections that are gone may not have been noticed yet, and fill its limit */
        client_answer a;
        client_ask(serve_port(s), "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n", &a);
        alive = a.status == 200;
        client_answer_free(&a);
    }
    serve_stop(&s, 1000);
    return left != 0 || !alive;
}

/* Sends a request that another hides behind: the answer must be `want`, and the connection must end without a second one. */
static void check_refused(const char *request, int want)
{
    mem_str rest = {0};
    client_answer a;
    int fd = client_connect("127.0.0.1", serve_port(s));
    client_text(fd, request);
    client_read(fd, false, 10000, &rest, &a);
    if (a.status != want)
        fail_msg("%d, not %d, for:\n%s", a.status, want, request);
    client_answer_free(&a);
    client_read(fd, false, 10000, &rest, &a);
    if (a.status != 0 || !a.closed)
        fail_msg("a second answer (%d) after:\n%s", a.status, request);
    client_answer_free(&a);
    mem_str_free(&rest);
    close(fd);
}

#define HIDDEN "GET /items/hidden HTTP/1.1\r\nHost: x\r\n\r\n"
#define POST "POST /small HTTP/1.1\r\nHost: x\r\n"

static void messages_of_doubtful_length_are_refused_and_end_the_connection(void **state)
{
    (void)state;
    static const char *const requests[] = {
        POST "Content-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" HIDDEN,
        POST "Transfer-Encoding: chunked\r\nContent-Length: 40\r\n\r\n0\r\n\r\n" HIDDEN,
        POST "Content-Length: 0\r\nContent-Length: 40\r\n\r\n" HIDDEN,
        POST "Content-Length: 0\r\ncontent-length: 0\r\n\r\n" HIDDEN,
        POST "Content-Length: 0, 0\r\n\r\n" HIDDEN,
        POST "Content-Length: +0\r\n\r\n" HIDDEN,
        POST "Content-Length: -1\r\n\r\n" HIDDEN,
        POST "Content-Length: 0x0\r\n\r\n" HIDDEN,
        POST "Content-Length: \r\n\r\n" HIDDEN,
        POST "Content-Length : 40\r\n\r\n" HIDDEN,
        POST "Content-Length\t: 40\r\n\r\n" HIDDEN,
        POST " Content-Length: 40\r\n\r\n" HIDDEN,
        POST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" HIDDEN,
        POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" HIDDEN,
        POST "Transfer-Encoding: identity\r\n\r\n" HIDDEN,
        POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" HIDDEN,
        POST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" HIDDEN,
        POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" HIDDEN,
        POST "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n" HIDDEN,
        "POST /small HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" HIDDEN,
        POST "X: a\x01\r\n\r\n" HIDDEN,
        POST "X[: a\r\n\r\n" HIDDEN,
        POST "Transfer-Encoding: chunked\r\n\r\nZZ\r\n" HIDDEN,
        POST "Transfer-Encoding: chunked\r\n\r\n-1\r\n" HIDDEN,
        POST "Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n" HIDDEN,
        "POST /small HTTP/1.1\r\n\r\n" HIDDEN,
        "POST /small HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n" HIDDEN,
        "POST /small HTTP/1.1\r\nHost x\r\n\r\n" HIDDEN,
    };
    for (size_t i = 0; i < ARRAY_LEN(requests); i++)
        check_refused(requests[i], 400);
    check_refused(POST "Content-Length: 99999999999999999999999\r\n\r\n" HIDDEN, 413);
    check_refused(POST "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n" HIDDEN, 413);
}

static void nonsense_ends_the_connection_and_nothing_else(void **state)
{
    (void)state;
    static const char *const bytes[] = {"nonsense\r\n\r\n", "\r\n\r\n\r\n\r\n\x16\x03\x01", "GET\r\n\r\n", "GET /hello\r\n\r\n", "GET /hello HTTP/9.9\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                                        "GET /hello HTTP/1.1 x\r\nHost: x\r\n\r\n", "G\x01T /hello HTTP/1.1\r\nHost: x\r\n\r\n"};
    int fds[ARRAY_LEN(bytes)];
    for (size_t i = 0; i < ARRAY_LEN(bytes); i++) {
        fds[i] = client_connect("127.0.0.1", serve_port(s));
        assert_true(client_text(fds[i], bytes[i]));
        shutdown(fds[i], SHUT_WR);
    }
    for (size_t i = 0; i < ARRAY_LEN(bytes); i++) {
        assert_true(client_wait_closed(fds[i], 10000));
        close(fds[i]);
    }
}

static void heads_that_are_too_large_are_refused(void **state)
{
    (void)state;
    mem_str r = {0};
    mem_str_puts(&r, "GET /hello HTTP/1.1\r\nHost: x\r\nX: ");
    for (int i = 0; i < 40000; i++)
        mem_str_putc(&r, 'x');
    mem_str_puts(&r, "\r\n\r\n");
    check_refused(r.data, 431);
    mem_str_clear(&r); /* without end */
    mem_str_puts(&r, "GET /hello HTTP/1.1\r\nHost: x\r\nX: ");
    for (int i = 0; i < 200000; i++)
        mem_str_putc(&r, 'x');
    check_refused(r.data, 431);
    mem_str_clear(&r);
    mem_str_puts(&r, "GET /");
    for (int i = 0; i < 200000; i++)
        mem_str_putc(&r, 'x');
    check_refused(r.data, 414);
    mem_str_clear(&r);
    mem_str_puts(&r, "GET /hello HTTP/1.1\r\nHost: x\r\n");
    for (int i = 0; i < 300; i++)
        mem_str_printf(&r, "X%d: y\r\n", i);
    mem_str_puts(&r, "\r\n");
    check_refused(r.data, 400);
    mem_str_free(&r);
}

/* The client writes all of its body before it reads, as many do: the answer must be there all the same. */
static void a_body_that_is_too_large_is_refused_by_its_announcement(void **state)
{
    (void)state;
    static const char *const heads[] = {"POST /echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nContent-Length: %zu\r\n\r\n", "POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
                                        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n"};
    static const struct {
        int status;
        size_t n;
    } cases[] = {{413, 5 << 20}, {404, 5 << 20}, {401, 99999}};
    char *body = calloc(1, 5 << 20), head[256];
    for (size_t i = 0; i < ARRAY_LEN(heads); i++) {
        mem_str rest = {0};
        client_answer a;
        int fd = client_connect("127.0.0.1", serve_port(s));
        snprintf(head, sizeof(head), heads[i], cases[i].n);
        assert_true(client_text(fd, head));
        usleep(20000); /* the refusal is on its way before the body is */
        assert_true(client_send(fd, body, cases[i].n)); /* it is thrown away, not cut off */
        client_read(fd, false, 10000, &rest, &a);
        assert_int_equal(a.status, cases[i].status);
        assert_true(a.complete);
        assert_non_null(strstr(a.body.data, "\"error\""));
        client_answer_free(&a);
        mem_str_free(&rest);
        close(fd);
    }
    free(body);
    check_refused("POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\nExpect: 100-continue\r\n\r\n", 413); /* without a 100 first: client_read would skip it, but then wait */
}

static void a_chunked_body_that_is_too_large_is_refused_at_its_end(void **state)
{
    (void)state;
    static const struct {
        int chunks;
        int want;
    } cases[] = {{1, 200}, {60, 413}, {2000, 0}}; /* 0: cut off, for it never ends */
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        mem_str rest = {0}, r = {0};
        client_answer a;
        int fd = client_connect("127.0.0.1", serve_port(s));
        mem_str_puts(&r, "POST /small HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        for (int k = 0; k < cases[i].chunks; k++)
            mem_str_printf(&r, "64\r\n%0100d\r\n", k);
        mem_str_puts(&r, "0\r\n\r\n");
        client_send(fd, r.data, r.len);
        client_read(fd, false, 10000, &rest, &a);
        assert_int_equal(a.status, cases[i].want);
        client_answer_free(&a);
        mem_str_free(&rest);
        mem_str_free(&r);
        close(fd);
    }
}

static void bodies_of_all_together_are_bounded(void **state)
{
    (void)state;
    serve *own = serve_start((http_options){.max_bodies = 300000, .max_body = 200000});
    char *body = calloc(1, 150000);
    int fds[4], refused = 0, ok = 0;
    mem_str rest[4] = {{0}};
    for (int i = 0; i < 4; i++) { /* all but the last byte: held, and counted */
        fds[i] = client_connect("127.0.0.1", serve_port(own));
        client_text(fds[i], "POST /echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nContent-Length: 150000\r\n\r\n");
        client_send(fds[i], body, 149999);
    }
    usleep(100000);
    for (int i = 0; i < 4; i++) {
        client_answer a;
        client_send(fds[i], "x", 1);
        client_read(fds[i], false, 10000, &rest[i], &a);
        refused += a.status == 503;
        ok += a.status == 200 && a.body.len == 150000;
        if (a.status == 503)
            assert_non_null(client_header(&a, "Retry-After"));
        client_answer_free(&a);
        mem_str_free(&rest[i]);
        close(fds[i]);
    }
    assert_int_equal(refused + ok, 4);
    assert_true(refused >= 1);
    for (int i = 0; i < 20; i++) { /* what was counted was given back */
        client_answer a;
        client_ask(serve_port(own), "POST /echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nContent-Length: 2\r\n\r\nok", &a);
        assert_int_equal(a.status, 200);
        client_answer_free(&a);
    }
    free(body);
    serve_stop(&own, 1000);
}

/* Who sends text byte by byte and then goes on for ever. */
typedef struct dripper {
    int fd;
    const char *next;
    bool cut_off;
} dripper;

static void drip(dripper *d)
{
    char c = *d->next != '\0' ? *d->next++ : 'x';
    d->cut_off = d->cut_off || send(d->fd, &c, 1, MSG_NOSIGNAL) < 0 || client_wait_closed(d->fd, 1);
}

static void slow_heads_and_bodies_and_idle_connections_are_cut_off(void **state)
{
    (void)state;
    static const char *const drips[] = {
        "GET /hello HTTP/1.1\r\nHost: x\r\nX: ",                         /* a head that never ends */
        "GET /",                                                         /* not even its first line */
        "POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n", /* a body that takes for ever */
        "POST /small HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n", /* refused (401), but its short body is awaited */
    };
    dripper all[ARRAY_LEN(drips)];
    for (size_t i = 0; i < ARRAY_LEN(drips); i++) {
        const char *head_end = strstr(drips[i], "\r\n\r\n"), *slow = head_end != NULL ? drips[i] + strlen(drips[i]) : drips[i];
        all[i] = (dripper){.fd = client_connect("127.0.0.1", serve_port(s)), .next = slow};
        assert_true(client_send(all[i].fd, drips[i], (size_t)(slow - drips[i])));
    }
    int silent = client_connect("127.0.0.1", serve_port(s)), idle = client_connect("127.0.0.1", serve_port(s));
    mem_str rest = {0};
    client_answer a;
    assert_true(client_text(idle, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"));
    client_read(idle, false, 10000, &rest, &a);
    assert_int_equal(a.status, 200);
    uint64_t end = http_now() + 10000000000u;
    bool left = true;
    while (left && http_now() < end) {
        left = false;
        for (size_t i = 0; i < ARRAY_LEN(all); i++) {
            drip(&all[i]);
            left = left || !all[i].cut_off;
        }
        usleep(15000);
    }
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        if (!all[i].cut_off)
            fail_msg("not cut off: %s", drips[i]);
        close(all[i].fd);
    }
    assert_true(client_wait_closed(silent, 10000));
    assert_true(client_wait_closed(idle, 10000));
    close(silent);
    close(idle);
    client_answer_free(&a);
    mem_str_free(&rest);
}

/* All deadlines pass at once: the library once waited for one event more before it looked at the 128 it had. */
static void very_many_silent_connections_are_all_cut_off(void **state)
{
    (void)state;
    int fds[400];
    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        fds[i] = client_connect("127.0.0.1", serve_port(s));
        assert_true(client_text(fds[i], "GET /hel"));
    }
    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        assert_true(client_wait_closed(fds[i], 10000));
        close(fds[i]);
    }
}

static void a_request_at_work_is_not_cut_off_by_any_of_these_times(void **state)
{
    (void)state;
    client_answer a;
    client_ask(serve_port(s), "POST /stream?n=2&gap_us=550000 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", &a);
    assert_int_equal(a.status, 200);
    assert_true(a.complete);
    client_answer_free(&a);
}

static int connect_small_window(int port)
{
    int fd = client_connect("127.0.0.1", port);
    const int small = 4096;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    return fd;
}

static void a_client_that_never_reads_costs_a_bounded_amount_and_is_cut_off(void **state)
{
    (void)state;
    serve_counts c;
    size_t before = mem_resident();
    int fds[20];
    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        fds[i] = connect_small_window(serve_port(s));
        assert_true(client_text(fds[i], "POST /flood HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"));
    }
    assert_true(SERVE_WAIT(s, handled, 20));
    uint64_t end = http_now() + 20000000000u;
    while (serve_counts_get(s, &c), c.held > 0 && http_now() < end)
        usleep(1000);
    assert_int_equal(c.held, 0); /* the producer was told */
    assert_true(mem_resident() < before + (100u << 20));
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        close(fds[i]);
}

static void a_whole_answer_that_is_not_read_is_given_up(void **state)
{
    (void)state;
    int fd = connect_small_window(serve_port(s));
    for (int i = 0; i < 4; i++) /* more than the sockets hold */
        assert_true(client_text(fd, "GET /big HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_true(SERVE_WAIT(s, incomplete, 1));
    for (int i = 0; i < 10000 && http_server_connections(serve_server(s)) > 0; i++)
        usleep(1000);
    assert_int_equal(http_server_connections(serve_server(s)), 0);
    close(fd);
}

static void connections_beyond_the_limits_are_turned_away(void **state)
{
    (void)state;
    static const http_options options[] = {{.max_connections = 5}, {.max_connections_per_address = 5}};
    for (size_t o = 0; o < ARRAY_LEN(options); o++) {
        serve *own = serve_start(options[o]);
        int fds[5];
        client_answer a;
        for (int i = 0; i < 5; i++) {
            mem_str rest = {0};
            fds[i] = client_connect("127.0.0.1", serve_port(own));
            assert_true(client_text(fds[i], "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"));
            client_read(fds[i], false, 10000, &rest, &a);
            assert_int_equal(a.status, 200);
            client_answer_free(&a);
            mem_str_free(&rest);
        }
        client_ask(serve_port(own), "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n", &a);
        assert_int_equal(a.status, 503);
        assert_true(a.complete);
        assert_non_null(client_header(&a, "Retry-After"));
        client_answer_free(&a);
        for (int i = 0; i < 5; i++)
            close(fds[i]);
        for (int i = 0; i < 1000; i++) { /* there is room again once the closing was seen */
            client_ask(serve_port(own), "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n", &a);
            int status_now = a.status;
            client_answer_free(&a);
            if (status_now == 200)
                break;
            assert_true(i < 999);
            usleep(5000);
        }
        serve_stop(&own, 1000);
    }
}

static void many_come_and_go_at_once(void **state)
{
    (void)state;
    for (int round = 0; round < 20; round++) {
        int fds[50];
        for (int i = 0; i < 50; i++) {
            static const char *const requests[] = {"POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", "POST /stream?n=1000 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
                                                   "GET /big HTTP/1.1\r\nHost: x\r\n\r\n", "POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nhalf", "GET /hel"};
            fds[i] = client_connect("127.0.0.1", serve_port(s));
            client_text(fds[i], requests[i % 5]);
        }
        if (round % 2)
            usleep(3000);
        for (int i = 0; i < 50; i++) {
            const struct linger reset = {.l_onoff = 1};
            if (i % 3 == 0)
                setsockopt(fds[i], SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
            close(fds[i]);
        }
    }
}

/* What was turned away must not have reached a handler. */
static void what_is_refused_reaches_no_handler(void **state)
{
    (void)state;
    serve_counts before, after;
    client_answer a;
    serve_counts_get(s, &before);
    client_ask(serve_port(s), "POST /echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer bad\r\nContent-Length: 2\r\n\r\n{}", &a);
    assert_int_equal(a.status, 401);
    client_answer_free(&a);
    check_refused(POST "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400);
    serve_counts_get(s, &after);
    assert_int_equal(after.handled, before.handled);
    assert_true(SERVE_WAIT(s, done, before.done + 2)); /* but is in the log */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(messages_of_doubtful_length_are_refused_and_end_the_connection, setup, teardown),
        cmocka_unit_test_setup_teardown(nonsense_ends_the_connection_and_nothing_else, setup, teardown),
        cmocka_unit_test_setup_teardown(heads_that_are_too_large_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_body_that_is_too_large_is_refused_by_its_announcement, setup, teardown),
        cmocka_unit_test_setup_teardown(a_chunked_body_that_is_too_large_is_refused_at_its_end, setup, teardown),
        cmocka_unit_test_setup_teardown(bodies_of_all_together_are_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(slow_heads_and_bodies_and_idle_connections_are_cut_off, setup_impatient, teardown),
        cmocka_unit_test_setup_teardown(very_many_silent_connections_are_all_cut_off, setup_impatient, teardown),
        cmocka_unit_test_setup_teardown(a_request_at_work_is_not_cut_off_by_any_of_these_times, setup_impatient, teardown),
        cmocka_unit_test_setup_teardown(a_client_that_never_reads_costs_a_bounded_amount_and_is_cut_off, setup_impatient, teardown),
        cmocka_unit_test_setup_teardown(a_whole_answer_that_is_not_read_is_given_up, setup_impatient, teardown),
        cmocka_unit_test_setup_teardown(connections_beyond_the_limits_are_turned_away, setup, teardown),
        cmocka_unit_test_setup_teardown(many_come_and_go_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_refused_reaches_no_handler, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
