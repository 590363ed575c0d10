/* tests/gateway/test_http.c - the HTTP server as well-meaning clients see it: answers, streams, keep-alive, CORS, addresses, drain. */
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
    static const char *const origins[] = {"https://good.example"};
    (void)state;
    s = serve_start((http_options){.cors_origins = origins, .n_cors_origins = 1});
    return s == NULL;
}

static int teardown(void **state)
{
    (void)state;
    serve_stop(&s, 1000);
    return 0;
}

#define KEY "Authorization: Bearer good\r\n"

static void a_whole_answer_has_body_length_and_type(void **state)
{
    (void)state;
    client_answer a;
    client_ask(serve_port(s), "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n", &a);
    assert_int_equal(a.status, 200);
    assert_string_equal(a.body.data, "hello");
    assert_string_equal(client_header(&a, "Content-Length"), "5");
    assert_string_equal(client_header(&a, "Content-Type"), "text/plain");
    assert_non_null(client_header(&a, "X-Request-Id"));
    client_answer_free(&a);
}

static void head_has_the_length_and_no_body(void **state)
{
    (void)state;
    client_answer a;
    mem_str rest = {0};
    int fd = client_connect("127.0.0.1", serve_port(s));
    assert_true(client_text(fd, "HEAD /hello HTTP/1.1\r\nHost: x\r\n\r\nGET /items/9 HTTP/1.1\r\nHost: x\r\n\r\n"));
    client_read(fd, true, 5000, &rest, &a);
    assert_int_equal(a.status, 200);
    assert_string_equal(client_header(&a, "Content-Length"), "5");
    client_answer_free(&a);
    client_read(fd, false, 5000, &rest, &a); /* had HEAD sent a body, this would not parse */
    assert_int_equal(a.status, 200);
    assert_string_equal(a.body.data, "9");
    client_answer_free(&a);
    mem_str_free(&rest);
    close(fd);
}

static void a_body_comes_back_whole_whatever_its_framing(void **state)
{
    (void)state;
    static const char *const requests[] = {
        "POST /echo HTTP/1.1\r\nHost: x\r\n" KEY "Content-Length: 11\r\n\r\nhello world",
        "POST /echo HTTP/1.1\r\nHost: x\r\n" KEY "Transfer-Encoding: chunked\r\n\r\n6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\n" KEY "Content-Length: 11\r\nExpect: 100-continue\r\n\r\nhello world",
        "POST /echo HTTP/1.0\r\n" KEY "Content-Length: 11\r\n\r\nhello world",
    };
    for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
        client_answer a;
        client_ask(serve_port(s), requests[i], &a);
        assert_int_equal(a.status, 200);
        assert_true(a.complete);
        assert_string_equal(a.body.data, "hello world");
        client_answer_free(&a);
    }
}

static void large_bodies_pass_both_ways(void **state)
{
    (void)state;
    size_t n = 3 << 20;
    char *bytes = malloc(n), head[256];
    for (size_t i = 0; i < n; i++)
        bytes[i] = (char)(i * 31 >> 3);
    client_answer a;
    mem_str rest = {0};
    int fd = client_connect("127.0.0.1", serve_port(s));
    snprintf(head, sizeof(head), "POST /echo HTTP/1.1\r\nHost: x\r\n" KEY "Content-Length: %zu\r\n\r\n", n);
    assert_true(client_text(fd, head) && client_send(fd, bytes, n));
    client_read(fd, false, 20000, &rest, &a);
    assert_int_equal(a.status, 200);
    assert_int_equal(a.body.len, n);
    assert_memory_equal(a.body.data, bytes, n);
    client_answer_free(&a);
    client_ask(serve_port(s), "GET /big HTTP/1.1\r\nHost: x\r\n\r\n", &a);
    assert_int_equal(a.body.len, 1 << 20);
    assert_memory_equal(a.body.data + (1 << 20) - 16, "000000000065535\n", 16);
    client_answer_free(&a);
    mem_str_free(&rest);
    free(bytes);
    close(fd);
}

static void one_connection_serves_many_requests_also_pipelined(void **state)
{
    (void)state;
    mem_str rest = {0}, all = {0};
    int fd = client_connect("127.0.0.1", serve_port(s));
    for (int i = 0; i < 50; i++)
        mem_str_printf(&all, "POST /echo HTTP/1.1\r\nHost: x\r\n" KEY "Content-Length: 2\r\n\r\n%02d", i);
    assert_true(client_send(fd, all.data, all.len));
    for (int i = 0; i < 50; i++) {
        client_answer a;
        char want[16];
        snprintf(want, sizeof(want), "%02d", i);
        client_read(fd, false, 5000, &rest, &a);
        assert_int_equal(a.status, 200);
        assert_string_equal(a.body.data, want);
        client_answer_free(&a);
    }
    mem_str_free(&rest);
    mem_str_free(&all);
    close(fd);
}

static void check_events(const mem_str *body, int n)
{
    mem_str want = {0};
    for (int i = 0; i < n; i++)
        mem_str_printf(&want, "data: {\"token\": %d}\n\n", i);
    mem_str_puts(&want, "data: [DONE]\n\n");
    assert_int_equal(body->len, want.len);
    assert_memory_equal(body->data, want.data, want.len);
    mem_str_free(&want);
}

static void a_stream_has_every_event_once_and_ends(void **state)
{
    (void)state;
    client_answer a;
    mem_str rest = {0};
    int fd = client_connect("127.0.0.1", serve_port(s));
    for (int i = 0; i < 3; i++) { /* the connection lives on */
        assert_true(client_text(fd, "POST /stream?n=100&gap_us=100 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"));
        client_read(fd, false, 10000, &rest, &a);
        assert_int_equal(a.status, 200);
        assert_true(a.complete);
        assert_string_equal(client_header(&a, "Content-Type"), "text/event-stream");
        assert_string_equal(client_header(&a, "Cache-Control"), "no-cache");
        check_events(&a.body, 100);
        client_answer_free(&a);
    }
    assert_true(SERVE_WAIT(s, written, 3)); /* the way to the socket is reported: of every event, unless a stream has too many on their way */
    client_ask(serve_port(s), "POST /stream?n=5 HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}", &a); /* no chunks in 1.0: ends with the connection */
    assert_true(a.complete && a.closed);
    check_events(&a.body, 5);
    client_answer_free(&a);
    mem_str_free(&rest);
    close(fd);
}

static void a_stream_that_fails_is_seen_as_incomplete(void **state)
{
    (void)state;
    client_answer a;
    client_ask(serve_port(s), "GET /abort HTTP/1.1\r\nHost: x\r\n\r\n", &a);
    assert_false(a.complete);
    assert_true(a.closed);
    client_answer_free(&a);
}

static void a_client_that_leaves_is_noticed_while_nothing_is_written(void **state)
{
    (void)state;
    static const char *const paths[] = {"/hold", "/stream?n=5&gap_us=60000000"};
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        serve_counts c;
        char request[256];
        int fd = client_connect("127.0.0.1", serve_port(s)), before;
        serve_counts_get(s, &c);
        before = c.gone;
        snprintf(request, sizeof(request), "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", paths[i]);
        assert_true(client_text(fd, request));
        assert_true(serve_wait(s, offsetof(serve_counts, held), 1, 10000));
        usleep(20000); /* so that the connection is at rest */
        close(fd);
        assert_true(SERVE_WAIT(s, gone, before + 1));
        while (serve_counts_get(s, &c), c.held > 0)
            usleep(1000);
        assert_int_equal(c.gone, before + 1);
    }
}

static void closing_one_side_counts_as_leaving(void **state)
{
    (void)state;
    serve_counts c;
    serve_counts_get(s, &c);
    int fd = client_connect("127.0.0.1", serve_port(s));
    assert_true(client_text(fd, "POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"));
    shutdown(fd, SHUT_WR); /* perhaps before the request was handed over */
    assert_true(SERVE_WAIT(s, gone, c.gone + 1));
    assert_true(client_wait_closed(fd, 5000));
    close(fd);
}

static void routes_take_parameters_and_decode_paths(void **state)
{
    (void)state;
    static const struct {
        const char *path, *body;
        int status;
    } cases[] = {{"/items/resp_1", "resp_1", 200}, {"/items/a%20b", "a b", 200},   {"/files/a/b/c.js", "a/b/c.js", 200}, {"/items/a/b", NULL, 404}, {"/items/", NULL, 404},
                 {"/hello/", NULL, 404},           {"/hello?x=1", "hello", 200},   {"/items/%00", NULL, 400},            {"/items/%0a", NULL, 400}, {"/items/%zz", NULL, 400},
                 {"/items/%4", NULL, 400},         {"http://h/hello", "hello", 200}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char request[256];
        client_answer a;
        snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", cases[i].path);
        client_ask(serve_port(s), request, &a);
        assert_int_equal(a.status, cases[i].status);
        if (cases[i].body != NULL)
            assert_string_equal(a.body.data, cases[i].body);
        client_answer_free(&a);
    }
}

static void a_wrong_method_is_told_the_right_ones(void **state)
{
    (void)state;
    client_answer a;
    client_ask(serve_port(s), "DELETE /hello HTTP/1.1\r\nHost: x\r\n\r\n", &a);
    assert_int_equal(a.status, 405);
    assert_string_equal(client_header(&a, "Allow"), "GET, HEAD, OPTIONS");
    client_answer_free(&a);
    client_ask(serve_port(s), "BREW /nothing HTTP/1.1\r\nHost: x\r\n\r\n", &a);
    assert_int_equal(a.status, 404);
    assert_non_null(strstr(a.body.data, "\"type\": \"invalid_request_error\""));
    client_answer_free(&a);
}

static void only_allowed_origins_get_cors_headers(void **state)
{
    (void)state;
    client_answer a;
    client_ask(serve_port(s),
               "OPTIONS /echo HTTP/1.1\r\nHost: x\r\nOrigin: https://good.example\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization, x-any\r\n\r\n", &a);
    assert_int_equal(a.status, 204);
    assert_string_equal(client_header(&a, "Access-Control-Allow-Origin"), "https://good.example");
    assert_string_equal(client_header(&a, "Access-Control-Allow-Headers"), "authorization, x-any");
    assert_string_equal(client_header(&a, "Access-Control-Allow-Methods"), "POST, OPTIONS");
    assert_string_equal(client_header(&a, "Vary"), "Origin");
    client_answer_free(&a);
    client_ask(serve_port(s), "GET /hello HTTP/1.1\r\nHost: x\r\nOrigin: https://bad.example\r\n\r\n", &a);
    assert_int_equal(a.status, 200);
    assert_null(client_header(&a, "Access-Control-Allow-Origin"));
    client_answer_free(&a);
}

static void a_clean_request_id_is_kept_another_is_replaced(void **state)
{
    (void)state;
    client_answer a;
    client_ask(serve_port(s), "GET /hello HTTP/1.1\r\nHost: x\r\nX-Request-Id: trace-1.a:b_c\r\n\r\n", &a);
    assert_string_equal(client_header(&a, "X-Request-Id"), "trace-1.a:b_c");
    client_answer_free(&a);
    client_ask(serve_port(s), "GET /hello HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\"b<c>\r\n\r\n", &a);
    assert_memory_equal(client_header(&a, "X-Request-Id"), "req-", 4);
    client_answer_free(&a);
}

static void a_refused_request_leaves_a_connection_usable_if_its_body_was_short(void **state)
{
    (void)state;
    client_answer a;
    mem_str rest = {0};
    int fd = client_connect("127.0.0.1", serve_port(s));
    assert_true(client_text(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"));
    client_read(fd, false, 5000, &rest, &a);
    assert_int_equal(a.status, 401);
    assert_string_equal(client_header(&a, "WWW-Authenticate"), "Bearer");
    client_answer_free(&a);
    assert_true(client_text(fd, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"));
    client_read(fd, false, 5000, &rest, &a);
    assert_int_equal(a.status, 200);
    client_answer_free(&a);
    mem_str_free(&rest);
    close(fd);
}

static void a_drain_refuses_the_new_and_ends_the_old(void **state)
{
    (void)state;
    client_answer a;
    mem_str rest = {0};
    int fd = client_connect("127.0.0.1", serve_port(s));
    assert_true(client_text(fd, "POST /stream?n=50&gap_us=10000 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"));
    assert_true(SERVE_WAIT(s, held, 1));
    http_server_drain(serve_server(s));
    client_ask(serve_port(s), "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n", &a);
    assert_int_equal(a.status, 503);
    assert_non_null(client_header(&a, "Retry-After"));
    assert_string_equal(client_header(&a, "Connection"), "close");
    client_answer_free(&a);
    client_ask(serve_port(s), "GET /health HTTP/1.1\r\nHost: x\r\n\r\n", &a);
    assert_int_equal(a.status, 200);
    client_answer_free(&a);
    client_read(fd, false, 10000, &rest, &a);
    assert_true(a.complete);
    check_events(&a.body, 50);
    client_answer_free(&a);
    mem_str_free(&rest);
    close(fd);
}

static void stopping_cuts_what_outlasts_the_time(void **state)
{
    (void)state;
    serve *own = serve_start((http_options){0});
    int fd = client_connect("127.0.0.1", serve_port(own));
    assert_true(client_text(fd, "POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"));
    assert_true(SERVE_WAIT(own, held, 1));
    serve_stop(&own, 50); /* ends only if the producer was told to give the request back */
    assert_true(client_wait_closed(fd, 5000));
    close(fd);
}

static void unix_and_ipv6_addresses_serve_too(void **state)
{
    (void)state;
    char path[64], spec[80];
    snprintf(path, sizeof(path), "/tmp/trireme-http-%d.sock", (int)getpid());
    snprintf(spec, sizeof(spec), "unix:%s", path);
    const char *const listen[] = {spec, "127.0.0.1:0", "[::1]:0"};
    bool six = client_connect("::1", 1) >= 0 || access("/proc/net/if_inet6", R_OK) == 0;
    serve *own = serve_start((http_options){.listen = listen, .n_listen = six ? 3 : 2});
    assert_non_null(own);
    int fds[] = {client_connect_unix(path), client_connect("127.0.0.1", http_server_port(serve_server(own), 1)),
                 six ? client_connect("::1", http_server_port(serve_server(own), 2)) : -1};
    for (size_t i = 0; i < (six ? 3u : 2u); i++) {
        client_answer a;
        mem_str rest = {0};
        assert_true(fds[i] >= 0 && client_text(fds[i], "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"));
        client_read(fds[i], false, 5000, &rest, &a);
        assert_int_equal(a.status, 200);
        client_answer_free(&a);
        mem_str_free(&rest);
        close(fds[i]);
    }
    serve_stop(&own, 1000);
    assert_int_not_equal(access(path, F_OK), 0);
}

static void a_port_in_use_and_a_bad_address_are_named(void **state)
{
    (void)state;
    char spec[64];
    const char *listen[] = {spec};
    status_mute();
    snprintf(spec, sizeof(spec), "127.0.0.1:%d", serve_port(s));
    assert_null(serve_start((http_options){.listen = listen, .n_listen = 1}));
    assert_non_null(strstr(status_message(), "in use"));
    static const char *const bad[] = {"nonsense", "1.2.3.4:99999", "127.0.0.1:", "unix:"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_null(serve_start((http_options){.listen = &bad[i], .n_listen = 1}));
    status_unmute();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_whole_answer_has_body_length_and_type, setup, teardown),
        cmocka_unit_test_setup_teardown(head_has_the_length_and_no_body, setup, teardown),
        cmocka_unit_test_setup_teardown(a_body_comes_back_whole_whatever_its_framing, setup, teardown),
        cmocka_unit_test_setup_teardown(large_bodies_pass_both_ways, setup, teardown),
        cmocka_unit_test_setup_teardown(one_connection_serves_many_requests_also_pipelined, setup, teardown),
        cmocka_unit_test_setup_teardown(a_stream_has_every_event_once_and_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(a_stream_that_fails_is_seen_as_incomplete, setup, teardown),
        cmocka_unit_test_setup_teardown(a_client_that_leaves_is_noticed_while_nothing_is_written, setup, teardown),
        cmocka_unit_test_setup_teardown(closing_one_side_counts_as_leaving, setup, teardown),
        cmocka_unit_test_setup_teardown(routes_take_parameters_and_decode_paths, setup, teardown),
        cmocka_unit_test_setup_teardown(a_wrong_method_is_told_the_right_ones, setup, teardown),
        cmocka_unit_test_setup_teardown(only_allowed_origins_get_cors_headers, setup, teardown),
        cmocka_unit_test_setup_teardown(a_clean_request_id_is_kept_another_is_replaced, setup, teardown),
        cmocka_unit_test_setup_teardown(a_refused_request_leaves_a_connection_usable_if_its_body_was_short, setup, teardown),
        cmocka_unit_test_setup_teardown(a_drain_refuses_the_new_and_ends_the_old, setup, teardown),
        cmocka_unit_test(stopping_cuts_what_outlasts_the_time),
        cmocka_unit_test(unix_and_ipv6_addresses_serve_too),
        cmocka_unit_test_setup_teardown(a_port_in_use_and_a_bad_address_are_named, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
