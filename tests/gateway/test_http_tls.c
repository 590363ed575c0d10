/* tests/gateway/test_http_tls.c - the HTTP server over TLS, with a certificate made here. */
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/gateway/client.h"
#include "tests/gateway/serve.h"

static char dir[] = "/tmp/trireme-tls-XXXXXX", cert[64], key[64], other_key[64];
static serve *s;

static EVP_PKEY *write_key(const char *path)
{
    EVP_PKEY *k = EVP_EC_gen("P-256");
    FILE *f = fopen(path, "w");
    PEM_write_PrivateKey(f, k, NULL, NULL, 0, NULL, NULL);
    fclose(f);
    return k;
}

static void write_cert(EVP_PKEY *k)
{
    X509 *x = X509_new();
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_gmtime_adj(X509_getm_notBefore(x), -60);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_set_pubkey(x, k);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC, (const unsigned char *)"localhost", -1, -1, 0);
    X509_set_issuer_name(x, X509_get_subject_name(x));
    X509_sign(x, k, EVP_sha256());
    FILE *f = fopen(cert, "w");
    PEM_write_X509(f, x);
    fclose(f);
    X509_free(x);
}

static int make_files(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL)
        return 1;
    snprintf(cert, sizeof(cert), "%s/cert.pem", dir);
    snprintf(key, sizeof(key), "%s/key.pem", dir);
    snprintf(other_key, sizeof(other_key), "%s/other.pem", dir);
    EVP_PKEY *k = write_key(key);
    write_cert(k);
    EVP_PKEY_free(k);
    EVP_PKEY_free(write_key(other_key));
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    unlink(cert);
    unlink(key);
    unlink(other_key);
    return rmdir(dir);
}

static int setup(void **state)
{
    (void)state;
    s = serve_start((http_options){.tls_cert = cert, .tls_key = key, .head_timeout_ms = 400});
    return s == NULL;
}

static int teardown(void **state)
{
    (void)state;
    serve_stop(&s, 1000);
    return 0;
}

/* A connection that trusts only our certificate; NULL: no handshake. */
static SSL *tls_connect(int port, int max_version, int *fd)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_load_verify_locations(ctx, cert, NULL);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_max_proto_version(ctx, max_version);
    if (max_version != 0 && max_version < TLS1_2_VERSION)
        SSL_CTX_set_cipher_list(ctx, "ALL:@SECLEVEL=0");
    SSL *ssl = SSL_new(ctx);
    SSL_CTX_free(ctx);
    *fd = client_connect("127.0.0.1", port);
    const struct timeval limit = {.tv_sec = 10};
    setsockopt(*fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    SSL_set_fd(ssl, *fd);
    if (SSL_connect(ssl) != 1) {
        SSL_free(ssl);
        close(*fd);
        return NULL;
    }
    return ssl;
}

static void tls_ask(const char *request, mem_str *out)
{
    int fd;
    char block[4096];
    SSL *ssl = tls_connect(serve_port(s), 0, &fd);
    assert_non_null(ssl);
    assert_true(SSL_write(ssl, request, (int)strlen(request)) > 0);
    for (int n; (n = SSL_read(ssl, block, sizeof(block))) > 0;)
        mem_str_append(out, block, (size_t)n);
    SSL_free(ssl);
    close(fd);
}

static void answers_and_streams_come_through(void **state)
{
    (void)state;
    mem_str got = {0};
    tls_ask("GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", &got);
    assert_memory_equal(got.data, "HTTP/1.1 200", 12);
    assert_string_equal(strstr(got.data, "\r\n\r\n"), "\r\n\r\nhello");
    mem_str_clear(&got);
    tls_ask("POST /stream?n=50&gap_us=500 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", &got);
    assert_non_null(strstr(got.data, "data: {\"token\": 49}"));
    assert_non_null(strstr(got.data, "data: [DONE]\n\n\r\n0\r\n\r\n"));
    mem_str_clear(&got);
    tls_ask("GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", &got);
    assert_true(got.len > 1 << 20);
    assert_memory_equal(got.data + got.len - 16, "000000000065535\n", 16);
    mem_str_free(&got);
}

static void a_client_that_leaves_is_noticed(void **state)
{
    (void)state;
    int fd;
    SSL *ssl = tls_connect(serve_port(s), 0, &fd);
    static const char request[] = "POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    assert_true(SSL_write(ssl, request, sizeof(request) - 1) > 0);
    assert_true(SERVE_WAIT(s, held, 1));
    SSL_free(ssl);
    close(fd);
    assert_true(SERVE_WAIT(s, gone, 1));
}

static void a_large_refused_body_still_gets_its_answer(void **state)
{
    (void)state;
    int fd;
    char block[65536] = {0};
    SSL *ssl = tls_connect(serve_port(s), 0, &fd);
    static const char head[] = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n";
    assert_true(SSL_write(ssl, head, sizeof(head) - 1) > 0);
    usleep(20000);
    for (int i = 0; i < 15; i++)
        assert_true(SSL_write(ssl, block, sizeof(block)) > 0);
    int n = SSL_read(ssl, block, sizeof(block));
    assert_true(n > 12);
    assert_memory_equal(block, "HTTP/1.1 401", 12);
    SSL_free(ssl);
    close(fd);
}

static void what_is_not_tls_or_too_old_or_too_slow_gets_nothing(void **state)
{
    (void)state;
    int fd;
    client_answer a;
    client_ask(serve_port(s), "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n", &a);
    assert_int_equal(a.status, 0);
    client_answer_free(&a);
    assert_null(tls_connect(serve_port(s), TLS1_1_VERSION, &fd));
    SSL *ssl = tls_connect(serve_port(s), TLS1_2_VERSION, &fd);
    assert_non_null(ssl);
    SSL_free(ssl);
    close(fd);
    fd = client_connect("127.0.0.1", serve_port(s));
    assert_true(client_send(fd, "\x16\x03\x01\x02", 4)); /* a handshake that stops */
    assert_true(client_wait_closed(fd, 10000));
    close(fd);
}

static void wrong_files_are_named(void **state)
{
    (void)state;
    const struct {
        const char *cert, *key, *says;
    } cases[] = {{cert, other_key, "do not belong together"}, {key, key, "certificate"}, {cert, "/nonexistent/key.pem", "/nonexistent/key.pem"}, {cert, NULL, "both"}};
    status_mute();
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_null(serve_start((http_options){.tls_cert = cases[i].cert, .tls_key = cases[i].key}));
        if (strstr(status_message(), cases[i].says) == NULL)
            fail_msg("%s does not say: %s", status_message(), cases[i].says);
    }
    status_unmute();
}

static void a_unix_socket_stays_plain_beside_tls(void **state)
{
    (void)state;
    char spec[96], path[80];
    snprintf(path, sizeof(path), "%s/sock", dir);
    snprintf(spec, sizeof(spec), "unix:%s", path);
    const char *const listen[] = {"127.0.0.1:0", spec};
    serve *own = serve_start((http_options){.tls_cert = cert, .tls_key = key, .listen = listen, .n_listen = 2});
    assert_non_null(own);
    int fd = client_connect_unix(path);
    mem_str rest = {0};
    client_answer a;
    assert_true(client_text(fd, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"));
    client_read(fd, false, 10000, &rest, &a);
    assert_int_equal(a.status, 200);
    client_answer_free(&a);
    mem_str_free(&rest);
    close(fd);
    serve_stop(&own, 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(answers_and_streams_come_through, setup, teardown),
        cmocka_unit_test_setup_teardown(a_client_that_leaves_is_noticed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_large_refused_body_still_gets_its_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_not_tls_or_too_old_or_too_slow_gets_nothing, setup, teardown),
        cmocka_unit_test(wrong_files_are_named),
        cmocka_unit_test(a_unix_socket_stays_plain_beside_tls),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
