#include "coordinator/client/load.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/mem.h"
#include "coordinator/client/stream.h"

enum { EVENTS = 256, MAX_REFUSAL = 1 << 16, SPARE_FILES = 64 };

/* ---- arrivals ---- */

/* One draw from a gamma distribution of scale 1 (Marsaglia and Tsang, 2000; for shapes below 1 by the power of a uniform). */
static double gamma_draw(double shape, uint64_t seed, uint64_t *i)
{
    double boost = 1;
    if (shape < 1) {
        boost = pow(1 - client_uniform(seed, (*i)++), 1 / shape);
        shape += 1;
    }
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double u1 = 1 - client_uniform(seed, (*i)++), u2 = client_uniform(seed, (*i)++), u = 1 - client_uniform(seed, (*i)++);
        double x = sqrt(-2 * log(u1)) * cos(2 * M_PI * u2), v = 1 + c * x; /* x: normal */
        v = v * v * v;
        if (v > 0 && log(u) < 0.5 * x * x + d - d * v + d * log(v))
            return boost * d * v;
    }
}

void client_arrivals(int32_t n, double rate, double burstiness, uint64_t seed, double *due)
{
    uint64_t draws = 0;
    double at = 0;
    for (int32_t i = 0; i < n; i++) {
        at += gamma_draw(burstiness, seed, &draws);
        due[i] = at;
    }
    for (int32_t i = 0; i < n && at > 0; i++)
        due[i] *= n / rate / at;
}

/* ---- one request under way ---- */

typedef struct slot {
    CURL *curl;
    client_stream stream;
    mem_str body, refusal; /* what was sent; the beginning of an answer that is no stream */
    int32_t index;         /* of the record */
    double sent, first, last, first_choice, last_choice; /* first, last: outputs; 0: none yet */
    client_times itl;
    struct slot *next_free;
} slot;

typedef struct load {
    const client_server *server;
    const client_workload *w;
    const client_load_options *o;
    client_run *run;
    CURLM *multi;
    int epoll, timer;
    double begun, curl_due; /* when libcurl wants to be called; 0: it does not */
    slot **slots;           /* [n_slots] all that were made */
    int32_t n_slots, cap_slots, most_slots, running, next, ended;
    slot *free;
    char *head;             /* a body up to its length and prompt */
} load;

/* ---- the body ---- */

/* Everything but the prompt and the length is the same in all of them. */
static status body_make(load *l)
{
    const client_load_options *o = l->o;
    json_t *all = json_pack("{ss sb s{sb}}", "model", o->model, "stream", 1, "stream_options", "include_usage", 1);
    if (all != NULL && o->temperature >= 0)
        json_object_set_new(all, "temperature", json_real(o->temperature));
    if (all != NULL && o->ignore_eos)
        json_object_set_new(all, "ignore_eos", json_true());
    if (o->extra != NULL)
        json_object_update(all, (json_t *)(uintptr_t)o->extra);
    l->head = all == NULL ? NULL : json_line(all);
    json_decref(all);
    if (l->head == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for a request");
    l->head[strlen(l->head) - 1] = '\0'; /* its closing brace */
    return ST_OK;
}

static void body_put(const load *l, const client_item *item, mem_str *out)
{
    mem_str_clear(out);
    mem_str_printf(out, "%s,\"max_tokens\":%d,", l->head, item->n_output);
    mem_str_puts(out, l->o->chat ? "\"messages\":[{\"role\":\"user\",\"content\":" : "\"prompt\":");
    client_prompt_put(l->w, item, l->o->salt, out);
    mem_str_puts(out, l->o->chat ? "}]}" : "}");
}

/* ---- libcurl's callbacks ---- */

static size_t on_body(char *data, size_t one, size_t n, void *arg)
{
    slot *s = arg;
    long code = 0;
    (void)one;
    curl_easy_getinfo(s->curl, CURLINFO_RESPONSE_CODE, &code);
    if (code != 200) {
        mem_str_append(&s->refusal, data, n < MAX_REFUSAL - s->refusal.len ? n : MAX_REFUSAL - s->refusal.len);
        return n;
    }
    double now = log_clock();
    int32_t choices = s->stream.n_choices, outputs = client_stream_feed(&s->stream, data, n);
    if (s->stream.n_choices > choices) {
        s->first_choice = s->first_choice > 0 ? s->first_choice : now;
        s->last_choice = now;
    }
    for (int32_t i = 0; i < outputs; i++) {
        if (s->first > 0)
            client_times_add(&s->itl, now - s->last);
        else
            s->first = now;
        s->last = now;
    }
    return s->stream.failed ? 0 : n;
}

static int on_socket(CURL *curl, curl_socket_t fd, int what, void *arg, void *known)
{
    load *l = arg;
    struct epoll_event e = {.events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u), .data.fd = fd};
    (void)curl;
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(l->epoll, EPOLL_CTL_DEL, fd, NULL);
        return 0;
    }
    if (known == NULL)
        curl_multi_assign(l->multi, fd, l);
    return epoll_ctl(l->epoll, known == NULL ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &e) == 0 ? 0 : -1;
}

static int on_timer(CURLM *multi, long ms, void *arg)
{
    load *l = arg;
    (void)multi;
    l->curl_due = ms < 0 ? 0 : log_clock() + (double)ms * 1e-3;
    return 0;
}

/* ---- sending ---- */

static status slot_make(load *l, slot **out)
{
    slot *s = NULL;
    if (l->n_slots >= l->most_slots)
        return FAIL(ST_LIMIT, "%d requests under way at once need more open files: raise the limit (ulimit -n %d), or bound them with --max-concurrency", l->n_slots,
                    2 * l->n_slots + SPARE_FILES);
    if (l->n_slots == l->cap_slots) {
        int32_t cap = l->cap_slots * 2 + 64;
        slot **p = realloc(l->slots, (size_t)cap * sizeof(*p));
        if (p == NULL)
            return FAIL(ST_NO_MEMORY, "no memory for %d requests at once", cap);
        l->slots = p;
        l->cap_slots = cap;
    }
    TRY(mem_calloc(1, sizeof(*s), "request", &s));
    l->slots[l->n_slots++] = s;
    s->curl = curl_easy_init();
    if (s->curl == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for %d requests at once", l->n_slots);
    TRY(client_server_setup(l->server, l->o->path, s->curl));
    curl_easy_setopt(s->curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(s->curl, CURLOPT_WRITEDATA, s);
    curl_easy_setopt(s->curl, CURLOPT_PRIVATE, s);
    curl_easy_setopt(s->curl, CURLOPT_TIMEOUT_MS, (long)(l->o->timeout * 1000));
    *out = s;
    return ST_OK;
}

static double due_at(const load *l, int32_t i)
{
    return l->o->due != NULL ? l->o->due[i] : 0;
}

static status send_next(load *l)
{
    slot *s = l->free;
    if (s != NULL)
        l->free = s->next_free;
    else
        TRY(slot_make(l, &s));
    const client_item *item = &l->w->items[l->o->first + l->next];
    client_record *r = &l->run->records[l->next];
    body_put(l, item, &s->body);
    if (s->body.failed)
        return FAIL(ST_NO_MEMORY, "no memory for a prompt of %d tokens", item->n_prompt);
    client_stream_begin(&s->stream);
    mem_str_clear(&s->refusal);
    s->itl.n = 0;
    s->first = s->last = s->first_choice = s->last_choice = 0;
    s->index = l->next++;
    curl_easy_setopt(s->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)s->body.len);
    curl_easy_setopt(s->curl, CURLOPT_POSTFIELDS, s->body.data);
    s->sent = log_clock();
    *r = (client_record){.n_prompt = item->n_prompt, .n_asked = item->n_output, .due = due_at(l, s->index), .sent = s->sent - l->begun};
    if (curl_multi_add_handle(l->multi, s->curl) != CURLM_OK)
        return FAIL(ST_NO_MEMORY, "no memory for %d requests at once", l->running);
    l->running++;
    l->run->peak = l->running > l->run->peak ? l->running : l->run->peak;
    return ST_OK;
}

static bool may_send(const load *l)
{
    return l->next < l->o->n && (l->o->max_concurrency == 0 || l->running < l->o->max_concurrency);
}

/* ---- ends ---- */

/* Why a request that is over did not succeed; false: it did. */
static bool what_failed(slot *s, CURLcode e, double timeout, char *out, size_t cap)
{
    char text[CLIENT_STREAM_ERROR];
    long code = 0;
    curl_easy_getinfo(s->curl, CURLINFO_RESPONSE_CODE, &code);
    client_stream_end(&s->stream);
    if (s->stream.failed) {
        snprintf(out, cap, "in the stream: %s", s->stream.error);
    } else if (e == CURLE_OPERATION_TIMEDOUT) {
        snprintf(out, cap, "not over after %g s", timeout);
    } else if (e != CURLE_OK && !s->stream.done) {
        snprintf(out, cap, "%s", curl_easy_strerror(e));
    } else if (code != 200) {
        client_error_text(s->refusal.data != NULL ? s->refusal.data : "", s->refusal.len, text);
        snprintf(out, cap, "HTTP %ld%s%s", code, text[0] != '\0' ? ": " : "", text);
    } else if (s->stream.n_choices == 0) {
        snprintf(out, cap, "an answer without any output (is it streamed?)");
    } else if (!s->stream.done && !s->stream.finished) {
        snprintf(out, cap, "the stream ended before the answer did");
    } else {
        return false;
    }
    return true;
}

static void take_end(load *l, slot *s, CURLcode e)
{
    client_record *r = &l->run->records[s->index];
    char why[256];
    curl_multi_remove_handle(l->multi, s->curl);
    l->running--;
    l->ended++;
    s->next_free = l->free;
    l->free = s;
    if (l->o->progress != NULL)
        log_progress_update(l->o->progress, (unsigned long long)l->ended);
    if (what_failed(s, e, l->o->timeout, why, sizeof(why))) {
        r->failure = client_failures_add(&l->run->failures, why);
        return;
    }
    const client_stream *t = &s->stream;
    r->ok = true;
    r->n_prompt = t->prompt_tokens >= 0 && t->prompt_tokens <= INT32_MAX ? (int32_t)t->prompt_tokens : r->n_prompt;
    r->n_output = t->completion_tokens >= 0 && t->completion_tokens <= INT32_MAX ? (int32_t)t->completion_tokens : t->n_outputs;
    l->run->counted_by_server = l->run->counted_by_server && t->completion_tokens >= 0;
    /* Tokens without any text are no outputs; where there is nothing else, the event that a choice came with stands for them. */
    r->ttft = (s->first > 0 ? s->first : s->first_choice) - s->sent;
    r->e2e = s->last_choice - s->sent;
    for (size_t i = 0; i < s->itl.n; i++)
        client_times_add(&l->run->itl, s->itl.of[i]);
    l->run->itl.failed = l->run->itl.failed || s->itl.failed;
}

static void take_ends(load *l)
{
    int left;
    for (CURLMsg *m; (m = curl_multi_info_read(l->multi, &left)) != NULL;) {
        slot *s = NULL;
        if (m->msg == CURLMSG_DONE && curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&s) == CURLE_OK)
            take_end(l, s, m->data.result);
    }
}

/* ---- the loop ---- */

static status curl_act(load *l, curl_socket_t fd, int mask)
{
    int running;
    CURLMcode e = curl_multi_socket_action(l->multi, fd, mask, &running);
    return e == CURLM_OK ? ST_OK : FAIL(ST_INTERNAL, "libcurl: %s", curl_multi_strerror(e));
}

static status call_curl_if_due(load *l)
{
    while (l->curl_due > 0 && l->curl_due <= log_clock()) {
        l->curl_due = 0;
        TRY(curl_act(l, CURL_SOCKET_TIMEOUT, 0));
    }
    return ST_OK;
}

/* Wakes the loop when the next thing is due; it never sleeps longer than a second. */
static void arm(const load *l)
{
    double now = log_clock(), at = now + 1;
    if (may_send(l))
        at = fmin(at, l->begun + due_at(l, l->next));
    if (l->curl_due > 0)
        at = fmin(at, l->curl_due);
    at = fmax(at, now + 1e-6); /* zero would disarm it */
    struct itimerspec t = {.it_value = {(time_t)at, (long)((at - floor(at)) * 1e9)}};
    timerfd_settime(l->timer, TFD_TIMER_ABSTIME, &t, NULL);
}

static status wait_and_act(load *l)
{
    struct epoll_event events[EVENTS];
    uint64_t times;
    arm(l);
    int n = epoll_wait(l->epoll, events, EVENTS, -1);
    if (n < 0 && errno != EINTR)
        return FAIL(ST_IO, "epoll: %s", strerror(errno));
    for (int i = 0; i < n; i++) {
        unsigned e = events[i].events;
        if (events[i].data.fd == l->timer) {
            if (read(l->timer, &times, sizeof(times)) < 0 && errno != EAGAIN)
                return FAIL(ST_IO, "timerfd: %s", strerror(errno));
            continue;
        }
        TRY(curl_act(l, events[i].data.fd, (e & EPOLLIN ? CURL_CSELECT_IN : 0) | (e & EPOLLOUT ? CURL_CSELECT_OUT : 0) | (e & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0)));
    }
    return ST_OK;
}

static status loop(load *l)
{
    l->begun = log_clock();
    while (l->ended < l->o->n) {
        while (may_send(l) && l->begun + due_at(l, l->next) <= log_clock()) {
            TRY(send_next(l));
            TRY(call_curl_if_due(l));
        }
        TRY(call_curl_if_due(l));
        int32_t before = l->ended;
        take_ends(l);
        if (l->ended == before) /* else there may be room for the next */
            TRY(wait_and_act(l));
    }
    return ST_OK;
}

/* ---- begin and end ---- */

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

/* As many open files as this process may have. */
static int32_t files_raise(void)
{
    struct rlimit r = {1024, 1024};
    getrlimit(RLIMIT_NOFILE, &r);
    if (r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
        getrlimit(RLIMIT_NOFILE, &r);
    }
    return r.rlim_cur > (rlim_t)INT32_MAX ? INT32_MAX : (int32_t)r.rlim_cur;
}

static status open_all(load *l)
{
    struct epoll_event e = {.events = EPOLLIN};
    l->most_slots = files_raise() - SPARE_FILES;
    l->multi = curl_multi_init();
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (l->multi == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for a client");
    e.data.fd = l->timer;
    if (l->epoll < 0 || l->timer < 0 || epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->timer, &e) != 0)
        return FAIL(ST_IO, "epoll: %s", strerror(errno));
    curl_multi_setopt(l->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(l->multi, CURLMOPT_SOCKETDATA, l);
    curl_multi_setopt(l->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(l->multi, CURLMOPT_TIMERDATA, l);
    curl_multi_setopt(l->multi, CURLMOPT_MAXCONNECTS, (long)l->most_slots); /* connections are kept, however many */
    curl_multi_setopt(l->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
    TRY(body_make(l));
    return mem_calloc((size_t)(l->o->n > 0 ? l->o->n : 1), sizeof(*l->run->records), "requests", &l->run->records);
}

static void close_all(load *l)
{
    for (int32_t i = 0; i < l->n_slots; i++) {
        slot *s = l->slots[i];
        if (s->curl != NULL) {
            curl_multi_remove_handle(l->multi, s->curl);
            curl_easy_cleanup(s->curl);
        }
        client_stream_free(&s->stream);
        client_times_free(&s->itl);
        mem_str_free(&s->body);
        mem_str_free(&s->refusal);
        free(s);
    }
    free(l->slots);
    free(l->head);
    curl_multi_cleanup(l->multi);
    if (l->epoll >= 0)
        close(l->epoll);
    if (l->timer >= 0)
        close(l->timer);
}

status client_load_run(const client_server *server, const client_workload *w, const client_load_options *o, client_run *out)
{
    load l = {.server = server, .w = w, .o = o, .run = out, .epoll = -1, .timer = -1};
    *out = (client_run){.n = o->n, .counted_by_server = true};
    double cpu = cpu_seconds();
    status st = open_all(&l);
    if (st == ST_OK)
        st = loop(&l);
    out->seconds = log_clock() - l.begun;
    out->cpu_seconds = cpu_seconds() - cpu;
    close_all(&l);
    if (st != ST_OK)
        client_run_free(out);
    return st;
}
