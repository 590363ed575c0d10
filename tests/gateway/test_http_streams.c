/* tests/gateway/test_http_streams.c - very many streams at once: every client gets every event, once and in order.
 *
 *     test_http_streams [STREAMS [EVENTS]]      prints memory, processor time, and the way from an event to the socket */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/gateway/client.h"
#include "tests/gateway/serve.h"

#define GAP_US 20000
#define DEADLINE_NS 60000000000ull

typedef struct stream {
    int fd;
    mem_str got; /* all that came */
    bool done;
} stream;

static int n_streams = 1000, n_events = 20;

static bool start(const serve *s, stream *x, int epoll)
{
    char request[160];
    x->fd = client_connect("127.0.0.1", serve_port(s));
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = x};
    snprintf(request, sizeof(request), "POST /stream?n=%d&gap_us=%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", n_events, GAP_US);
    return x->fd >= 0 && client_text(x->fd, request) && epoll_ctl(epoll, EPOLL_CTL_ADD, x->fd, &e) == 0;
}

static void receive(stream *x)
{
    char block[4096];
    ssize_t n = recv(x->fd, block, sizeof(block), MSG_DONTWAIT);
    if (n > 0)
        mem_str_append(&x->got, block, (size_t)n);
    x->done = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
    if (x->done)
        close(x->fd);
}

/* The chunks taken apart must be the events, each once, in order, to the end. */
static bool right(const stream *x)
{
    mem_str body = {0}, want = {0};
    const char *p = strstr(x->got.data, "\r\n\r\n");
    for (p = p != NULL ? p + 4 : ""; *p != '\0' && *p != '0';) {
        char *after;
        size_t n = strtoul(p, &after, 16);
        if ((size_t)(x->got.data + x->got.len - after) < n + 4)
            break;
        mem_str_append(&body, after + 2, n);
        p = after + 2 + n + 2;
    }
    for (int i = 0; i < n_events; i++)
        mem_str_printf(&want, "data: {\"token\": %d}\n\n", i);
    mem_str_puts(&want, "data: [DONE]\n\n");
    bool same = strcmp(p, "0\r\n\r\n") == 0 && body.len == want.len && memcmp(body.data, want.data, want.len) == 0;
    mem_str_free(&body);
    mem_str_free(&want);
    return same;
}

static int run(serve *s, stream *all, int epoll)
{
    int left = n_streams, wrong = 0;
    uint64_t begun = http_now();
    for (int i = 0; i < n_streams; i++) {
        if (!start(s, &all[i], epoll)) {
            printf("stream %d cannot be started: %s\n", i, strerror(errno));
            return 1;
        }
    }
    while (left > 0 && http_now() - begun < DEADLINE_NS) {
        struct epoll_event events[256];
        int n = epoll_wait(epoll, events, ARRAY_LEN(events), 100);
        for (int i = 0; i < n; i++) {
            receive(events[i].data.ptr);
            left -= ((stream *)events[i].data.ptr)->done;
        }
    }
    double seconds = (double)(http_now() - begun) * 1e-9;
    for (int i = 0; i < n_streams; i++)
        wrong += !right(&all[i]);
    printf("%d streams of %d events: %.2f s (%.2f s is the events' own pace), %d wrong, %d unfinished\n", n_streams, n_events, seconds, n_events * GAP_US * 1e-6, wrong, left);
    return wrong != 0 || left != 0;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        n_streams = atoi(argv[1]);
    if (argc > 2)
        n_events = atoi(argv[2]);
    int got, epoll = epoll_create1(EPOLL_CLOEXEC);
    if (http_raise_open_files(2 * n_streams + 1000, &got) != ST_OK || got < 2 * n_streams + 500) {
        printf("skipped: %d open files are too few for %d streams\n", got, n_streams);
        return 77;
    }
    size_t before = mem_resident();
    serve *s = serve_start((http_options){.max_connections = n_streams + 10});
    stream *all = calloc((size_t)n_streams, sizeof(*all));
    int failed = run(s, all, epoll), n;
    size_t clients = 0;
    for (int i = 0; i < n_streams; i++) {
        clients += all[i].got.cap;
        mem_str_free(&all[i].got);
    }
    const double *times = serve_write_times(s, &n);
    double *sorted = malloc((size_t)n * sizeof(*sorted) + 1);
    memcpy(sorted, times, (size_t)n * sizeof(*sorted));
    qsort(sorted, (size_t)n, sizeof(*sorted), compare);
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    printf("memory: peak %.1f MiB more than before, of it %.1f MiB the clients' own; processor: %.2f s, clients and producer included\n",
           (double)(mem_resident_peak() - before) / (1 << 20), (double)clients / (1 << 20), (double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6);
    if (n > 0)
        printf("event appended -> in the socket: p50 %.3f ms, p99 %.3f ms, most %.3f ms (%d events)\n", sorted[n / 2] * 1e3, sorted[(size_t)n * 99 / 100] * 1e3, sorted[n - 1] * 1e3, n);
    free(sorted);
    free(all);
    serve_counts c;
    serve_counts_get(s, &c);
    failed |= c.by_status[200] + c.held < n_streams || c.gone != 0;
    serve_stop(&s, 5000);
    close(epoll);
    return failed;
}
