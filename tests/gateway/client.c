#include "tests/gateway/client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "coordinator/gateway/http.h"

int client_connect(const char *host, int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    bool is_six = inet_pton(AF_INET, host, &a.sin_addr) != 1 && inet_pton(AF_INET6, host, &six.sin6_addr) == 1;
    int fd = socket(is_six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, is_six ? (struct sockaddr *)&six : (struct sockaddr *)&a, is_six ? sizeof(six) : sizeof(a)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

int client_connect_unix(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

bool client_send(int fd, const void *bytes, size_t n)
{
    const char *p = bytes;
    while (n > 0) {
        struct pollfd w = {fd, POLLOUT, 0};
        if (poll(&w, 1, 10000) <= 0)
            return false;
        ssize_t sent = send(fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (sent <= 0)
            return false;
        p += sent;
        n -= (size_t)sent;
    }
    return true;
}

bool client_text(int fd, const char *text)
{
    return client_send(fd, text, strlen(text));
}

/* Adds what comes to s; 1: something, 0: end of the connection, -1: too late. */
static int more(int fd, uint64_t end, mem_str *s)
{
    char block[16384];
    uint64_t now = http_now();
    struct pollfd p = {fd, POLLIN, 0};
    if (now >= end || poll(&p, 1, (int)((end - now) / 1000000u) + 1) <= 0)
        return -1;
    ssize_t n = recv(fd, block, sizeof(block), 0);
    if (n <= 0)
        return 0;
    mem_str_append(s, block, (size_t)n);
    return 1;
}

static void drop(mem_str *s, size_t n)
{
    memmove(s->data, s->data + n, s->len - n + 1);
    s->len -= n;
}

static const char *find(const mem_str *s, const char *what)
{
    return s->len == 0 ? NULL : memmem(s->data, s->len, what, strlen(what));
}

/* Gets at least n bytes into rest. */
static bool need(int fd, uint64_t end, mem_str *rest, size_t n, client_answer *out)
{
    while (rest->len < n) {
        int got = more(fd, end, rest);
        out->closed |= got == 0;
        if (got <= 0)
            return false;
    }
    return true;
}

static bool need_line(int fd, uint64_t end, mem_str *rest, client_answer *out)
{
    while (find(rest, "\r\n") == NULL) {
        if (!need(fd, end, rest, rest->len + 1, out))
            return false;
    }
    return true;
}

static void read_chunks(int fd, uint64_t end, mem_str *rest, client_answer *out)
{
    for (;;) {
        if (!need_line(fd, end, rest, out))
            return;
        size_t n = strtoul(rest->data, NULL, 16);
        drop(rest, (size_t)(find(rest, "\r\n") - rest->data) + 2);
        if (!need(fd, end, rest, n + 2, out)) {
            mem_str_append(&out->body, rest->data, rest->len < n ? rest->len : n);
            return;
        }
        mem_str_append(&out->body, rest->data, n);
        drop(rest, n + 2);
        if (n == 0) {
            out->complete = true;
            return;
        }
    }
}

static void read_body(int fd, uint64_t end, mem_str *rest, client_answer *out)
{
    const char *coding = client_header(out, "Transfer-Encoding");
    if (coding != NULL && strcasecmp(coding, "chunked") == 0) {
        read_chunks(fd, end, rest, out);
        return;
    }
    const char *length = client_header(out, "Content-Length");
    size_t n = length != NULL ? strtoul(length, NULL, 10) : SIZE_MAX;
    bool all = need(fd, end, rest, n, out);
    n = rest->len < n ? rest->len : n;
    mem_str_append(&out->body, n > 0 ? rest->data : "", n);
    if (n > 0)
        drop(rest, n);
    out->complete = all || (length == NULL && out->closed);
}

void client_read(int fd, bool is_head, int timeout_ms, mem_str *rest, client_answer *out)
{
    uint64_t end = http_now() + (uint64_t)timeout_ms * 1000000u;
    *out = (client_answer){0};
    for (;;) {
        const char *stop = find(rest, "\r\n\r\n");
        if (stop == NULL) {
            if (!need(fd, end, rest, rest->len + 1, out))
                return;
            continue;
        }
        mem_str_clear(&out->head);
        mem_str_append(&out->head, rest->data, (size_t)(stop - rest->data) + 2);
        drop(rest, (size_t)(stop - rest->data) + 4);
        out->status = atoi(out->head.data + 9);
        if (out->status != 100)
            break;
    }
    if (is_head || out->status == 204 || out->status == 304)
        out->complete = true;
    else
        read_body(fd, end, rest, out);
}

void client_answer_free(client_answer *a)
{
    mem_str_free(&a->head);
    mem_str_free(&a->body);
}

const char *client_header(const client_answer *a, const char *name)
{
    static _Thread_local char value[512];
    size_t n = strlen(name);
    for (const char *line = a->head.data; line != NULL && *line != '\0'; line = strstr(line, "\r\n") != NULL ? strstr(line, "\r\n") + 2 : NULL) {
        if (strncasecmp(line, name, n) == 0 && line[n] == ':') {
            const char *v = line + n + 1 + strspn(line + n + 1, " ");
            snprintf(value, sizeof(value), "%.*s", (int)strcspn(v, "\r"), v);
            return value;
        }
    }
    return NULL;
}

bool client_wait_closed(int fd, int timeout_ms)
{
    mem_str waste = {0};
    uint64_t end = http_now() + (uint64_t)timeout_ms * 1000000u;
    int got;
    while ((got = more(fd, end, &waste)) > 0)
        mem_str_clear(&waste);
    mem_str_free(&waste);
    return got == 0;
}

void client_ask(int port, const char *request, client_answer *out)
{
    mem_str rest = {0};
    *out = (client_answer){0};
    int fd = client_connect("127.0.0.1", port);
    if (fd < 0)
        return;
    client_text(fd, request);
    client_read(fd, strncmp(request, "HEAD", 4) == 0, 10000, &rest, out);
    mem_str_free(&rest);
    close(fd);
}
