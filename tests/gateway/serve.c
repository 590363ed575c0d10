#include "tests/gateway/serve.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WORK_ECHO, WORK_STREAM, WORK_HOLD, WORK_FLOOD };

typedef struct work {
    struct work *next;
    http_request *r;
    uint64_t id, due;
    int kind, left, sent, gap_us;
    bool begun, gone;
} work;

struct serve {
    http_server *server;
    pthread_t producer;
    atomic_bool stop;
    pthread_mutex_t lock;
    work *list; /* under lock, but each item is the producer's alone, except gone */
    serve_counts counts;
    double *times;
    int n_times;
};

/* GET handlers answer at once, on the I/O thread. */
static void answer_text(http_request *r, const char *text)
{
    http_respond(&r, &(http_answer){.status = 200, .content_type = "text/plain", .body = text, .body_len = strlen(text)});
}

static void on_hello(void *arg, http_request *r)
{
    (void)arg;
    static const char hello[] = "hello";
    http_respond(&r, &(http_answer){.status = 200, .content_type = "text/plain", .body = hello, .body_len = 5, .body_is_static = true});
}

static void on_param(void *arg, http_request *r)
{
    (void)arg;
    answer_text(r, http_request_param(r));
}

#define BIG_LINES (1 << 16)
static char big_text[BIG_LINES * 16 + 1]; /* made once: this thread serves the others too */

static void big_make(void)
{
    for (int i = 0; i < BIG_LINES; i++)
        snprintf(big_text + i * 16, 17, "%015d\n", i);
}

static void on_big(void *arg, http_request *r)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)arg;
    mem_str body = {0};
    pthread_once(&once, big_make);
    mem_str_append(&body, big_text, sizeof(big_text) - 1);
    http_respond_take(&r, &(http_answer){.status = 200, .content_type = "text/plain"}, &body);
}

static void on_abort(void *arg, http_request *r)
{
    (void)arg;
    static const char one[] = "data: 1\n\n";
    http_stream_begin(r, &(http_answer){.status = 200, .body = one, .body_len = sizeof(one) - 1});
    http_abort(&r);
}

static int query_int(const http_request *r, const char *name, int otherwise)
{
    const char *v = http_request_query(r, name);
    return v != NULL ? atoi(v) : otherwise;
}

static void give(serve *s, http_request *r, int kind)
{
    work *w = calloc(1, sizeof(*w));
    *w = (work){.r = r, .id = http_request_id(r), .kind = kind, .left = query_int(r, "n", 3), .gap_us = query_int(r, "gap_us", 1000), .due = http_now()};
    pthread_mutex_lock(&s->lock);
    w->next = s->list;
    s->list = w;
    s->counts.handled++;
    s->counts.held++;
    pthread_mutex_unlock(&s->lock);
}

static void on_echo(void *arg, http_request *r)
{
    give(arg, r, WORK_ECHO);
}

static void on_stream(void *arg, http_request *r)
{
    give(arg, r, WORK_STREAM);
}

static void on_hold(void *arg, http_request *r)
{
    give(arg, r, WORK_HOLD);
}

static void on_flood(void *arg, http_request *r)
{
    give(arg, r, WORK_FLOOD);
}

static const http_route routes[] = {
    {"GET", "/hello", on_hello, 0, 0},      {"GET", "/big", on_big, 0, 0},       {"GET", "/items/{id}", on_param, 0, 0},
    {"GET", "/files/{*}", on_param, 0, 0},  {"GET", "/abort", on_abort, 0, 0},   {"GET", "/health", on_hello, HTTP_WHILE_DRAINING, 0},
    {"POST", "/echo", on_echo, HTTP_NEEDS_KEY, 0},       {"POST", "/stream", on_stream, 0, 0}, {"POST", "/hold", on_hold, 0, 0},
    {"POST", "/flood", on_flood, 0, 0},     {"POST", "/small", on_echo, 0, 100},
};

static void step_echo(work *w)
{
    size_t n;
    mem_str body = {0};
    const char *text = http_request_body(w->r, &n);
    mem_str_append(&body, text, n);
    http_respond_take(&w->r, &(http_answer){.status = 200, .content_type = "application/octet-stream"}, &body);
}

static void step_stream(work *w, uint64_t now)
{
    char text[64];
    if (!w->begun) {
        w->begun = true;
        http_stream_begin(w->r, &(http_answer){.status = 200});
    }
    if (now < w->due)
        return;
    w->due += (uint64_t)w->gap_us * 1000u;
    int n = w->left > 0 ? snprintf(text, sizeof(text), "data: {\"token\": %d}\n\n", w->sent++) : snprintf(text, sizeof(text), "data: [DONE]\n\n");
    bool last = w->left-- == 0;
    if (http_stream_append(w->r, text, (size_t)n, now) != ST_OK || last)
        http_stream_end(&w->r);
}

static void step_flood(work *w)
{
    char block[4096];
    memset(block, 'x', sizeof(block));
    if (!w->begun) {
        w->begun = true;
        http_stream_begin(w->r, &(http_answer){.status = 200});
    }
    if (http_stream_append(w->r, block, sizeof(block), 0) != ST_OK)
        http_stream_end(&w->r);
}

/* One step of an item; it is over when its request was given back. */
static void work_step(work *w, bool gone, uint64_t now)
{
    if (gone && w->kind != WORK_ECHO) {
        if (w->begun)
            http_stream_end(&w->r);
        else
            http_abort(&w->r);
    } else if (w->kind == WORK_ECHO) {
        step_echo(w);
    } else if (w->kind == WORK_STREAM) {
        step_stream(w, now);
    } else if (w->kind == WORK_FLOOD) {
        step_flood(w);
    }
}

static void produce(serve *s)
{
    pthread_mutex_lock(&s->lock);
    for (work **link = &s->list; *link != NULL;) {
        work *w = *link;
        bool gone = w->gone;
        pthread_mutex_unlock(&s->lock); /* items are added at the head only, and removed here only */
        work_step(w, gone, http_now());
        pthread_mutex_lock(&s->lock);
        if (w->r == NULL) {
            for (link = &s->list; *link != w; link = &(*link)->next)
                ;
            *link = w->next;
            s->counts.held--;
            free(w);
        } else {
            link = &w->next;
        }
    }
    pthread_mutex_unlock(&s->lock);
}

static void *producer(void *arg)
{
    serve *s = arg;
    while (!atomic_load(&s->stop)) {
        produce(s);
        usleep(500);
    }
    return NULL;
}

static bool admit(void *arg, http_request *r, const http_route *route, http_answer *refuse)
{
    static const char no[] = "{\"error\": {\"message\": \"no\"}}";
    static const http_header challenge = {"WWW-Authenticate", "Bearer"};
    (void)arg;
    const char *key = http_request_header(r, "Authorization");
    if ((route->flags & HTTP_NEEDS_KEY) == 0 || (key != NULL && strcmp(key, "Bearer good") == 0)) {
        http_request_caller_set(r, 7);
        return true;
    }
    *refuse = (http_answer){.status = 401, .body = no, .body_len = sizeof(no) - 1, .headers = &challenge, .n_headers = 1};
    return false;
}

static void on_gone(void *arg, uint64_t id)
{
    serve *s = arg;
    pthread_mutex_lock(&s->lock);
    s->counts.gone++;
    for (work *w = s->list; w != NULL; w = w->next)
        w->gone = w->gone || w->id == id;
    pthread_mutex_unlock(&s->lock);
}

static void on_done(void *arg, const http_record *r)
{
    serve *s = arg;
    pthread_mutex_lock(&s->lock);
    s->counts.done++;
    s->counts.incomplete += r->gone;
    s->counts.by_status[r->status >= 0 && r->status < 600 ? r->status : 0]++;
    snprintf(s->counts.last_route, sizeof(s->counts.last_route), "%s", r->route);
    snprintf(s->counts.last_name, sizeof(s->counts.last_name), "%s", r->request_id);
    pthread_mutex_unlock(&s->lock);
}

static void on_written(void *arg, uint64_t received_ns, uint64_t written_ns)
{
    serve *s = arg;
    pthread_mutex_lock(&s->lock);
    s->counts.written += written_ns >= received_ns;
    if (s->n_times < SERVE_TIMES)
        s->times[s->n_times++] = (double)(written_ns - received_ns) * 1e-9;
    pthread_mutex_unlock(&s->lock);
}

serve *serve_start(http_options o)
{
    static const char *const any[] = {"127.0.0.1:0"};
    serve *s = calloc(1, sizeof(*s));
    s->times = calloc(SERVE_TIMES, sizeof(*s->times));
    pthread_mutex_init(&s->lock, NULL);
    if (o.listen == NULL) {
        o.listen = any;
        o.n_listen = 1;
    }
    o.routes = routes;
    o.n_routes = (int)ARRAY_LEN(routes);
    o.arg = s;
    o.admit = admit;
    o.gone = on_gone;
    o.done = on_done;
    o.written = on_written;
    if (http_server_create(&o, &s->server) != ST_OK) {
        free(s->times);
        free(s);
        return NULL;
    }
    pthread_create(&s->producer, NULL, producer, s);
    return s;
}

void serve_stop(serve **sp, int timeout_ms)
{
    serve *s = *sp;
    http_server_destroy(&s->server, timeout_ms); /* the producer is still there to give requests back */
    atomic_store(&s->stop, true);
    pthread_join(s->producer, NULL);
    pthread_mutex_destroy(&s->lock);
    free(s->times);
    free(s);
    *sp = NULL;
}

int serve_port(const serve *s)
{
    return http_server_port(s->server, 0);
}

http_server *serve_server(const serve *s)
{
    return s->server;
}

void serve_counts_get(serve *s, serve_counts *out)
{
    pthread_mutex_lock(&s->lock);
    *out = s->counts;
    pthread_mutex_unlock(&s->lock);
}

const double *serve_write_times(serve *s, int *n)
{
    pthread_mutex_lock(&s->lock);
    *n = s->n_times;
    pthread_mutex_unlock(&s->lock);
    return s->times;
}

bool serve_wait(serve *s, size_t field, int n, int ms)
{
    uint64_t end = http_now() + (uint64_t)ms * 1000000u;
    for (;;) {
        serve_counts c;
        int v;
        serve_counts_get(s, &c);
        memcpy(&v, (const char *)&c + field, sizeof(v));
        if (v >= n || http_now() >= end)
            return v >= n;
        usleep(1000);
    }
}
