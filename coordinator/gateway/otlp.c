#include "coordinator/gateway/otlp.h"

#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/log.h"
#include "base/mem.h"
#include "coordinator/gateway/http.h"

enum { QUEUE_SPANS = 8192, BATCH_SPANS = 512, SEND_MS = 1000, TIMEOUT_MS = 10000, CONNECT_MS = 3000, ATTEMPTS = 3 };
static const double COMPLAIN_SECONDS = 60;

struct otlp {
    otlp_options opt;
    char *url;
    struct curl_slist *headers;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    json_t *spans; /* waiting: an array */
    uint64_t dropped;
    _Atomic bool ends;
    _Atomic double deadline; /* of what is left then */
    double complained;
};

/* ---- attributes ---- */

static void add(json_t *attributes, const char *name, json_t *value)
{
    if (attributes == NULL || json_array_append_new(attributes, json_pack("{ss so}", "key", name, "value", value)) != 0)
        return; /* an attribute less */
}

void otlp_text(json_t *attributes, const char *name, const char *value)
{
    if (value != NULL && value[0] != '\0')
        add(attributes, name, json_pack("{ss}", "stringValue", value));
}

void otlp_int(json_t *attributes, const char *name, int64_t value)
{
    char text[24];
    snprintf(text, sizeof(text), "%" PRId64, value); /* 64 bits are strings in proto3's JSON */
    add(attributes, name, json_pack("{ss}", "intValue", text));
}

void otlp_number(json_t *attributes, const char *name, double value)
{
    add(attributes, name, json_pack("{sf}", "doubleValue", value));
}

/* ---- traces ---- */

static bool hex_parse(const char *text, uint8_t *out, size_t n)
{
    static const char digits[] = "0123456789abcdef"; /* lower case alone is valid */
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        const char *high = text[2 * i] != '\0' ? strchr(digits, text[2 * i]) : NULL, *low = high != NULL && text[2 * i + 1] != '\0' ? strchr(digits, text[2 * i + 1]) : NULL;
        if (low == NULL)
            return false;
        out[i] = (uint8_t)((high - digits) << 4 | (low - digits));
        any = any || out[i] != 0;
    }
    return any;
}

bool otlp_traceparent_parse(const char *text, otlp_context *out)
{
    otlp_context c = {.has_parent = true};
    uint8_t version = 0, flags = 0;
    size_t n = strlen(text);
    bool first = strncmp(text, "00-", 3) == 0;
    if (n < 55 || (first ? n != 55 : n > 55 && text[55] != '-') || text[2] != '-' || text[35] != '-' || text[52] != '-')
        return false;
    if ((!first && !hex_parse(text, &version, 1)) || version == 0xff || !hex_parse(text + 3, c.trace, sizeof(c.trace)) || !hex_parse(text + 36, c.parent, sizeof(c.parent)))
        return false;
    if (!hex_parse(text + 53, &flags, 1) && strncmp(text + 53, "00", 2) != 0)
        return false;
    c.sampled = (flags & 1) != 0;
    *out = c;
    return true;
}

/* The first to be zero would be no id. */
static void draw(uint8_t *out, size_t n)
{
    if (getrandom(out, n, 0) != (ssize_t)n || out[0] == 0)
        out[0] = 1;
}

void otlp_context_make(const otlp *o, const char *traceparent, otlp_context *out)
{
    *out = (otlp_context){0};
    if (o == NULL)
        return;
    if (traceparent == NULL || !otlp_traceparent_parse(traceparent, out)) {
        draw(out->trace, sizeof(out->trace));
        uint64_t number;
        memcpy(&number, out->trace + 8, sizeof(number)); /* whoever else samples by the id decides alike */
        out->sampled = (double)(number >> 11) * 0x1p-53 < o->opt.ratio;
    }
    draw(out->span, sizeof(out->span));
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    out->epoch_ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec - http_now();
}

/* ---- spans ---- */

static const char *hex(const uint8_t *bytes, size_t n, char *text)
{
    for (size_t i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    return text;
}

static json_t *span_json(const otlp_context *c, const otlp_span *s)
{
    char trace[33], id[17], parent[17] = "", begin[24], end[24];
    uint8_t own[8];
    if (!s->root)
        draw(own, sizeof(own));
    if (!s->root || c->has_parent)
        hex(s->root ? c->parent : c->span, 8, parent);
    snprintf(begin, sizeof(begin), "%" PRIu64, c->epoch_ns + s->begin_ns);
    snprintf(end, sizeof(end), "%" PRIu64, c->epoch_ns + (s->end_ns > s->begin_ns ? s->end_ns : s->begin_ns));
    json_t *o = json_pack("{ss ss ss ss si ss ss}", "traceId", hex(c->trace, 16, trace), "spanId", hex(s->root ? c->span : own, 8, id), "parentSpanId", parent, "name", s->name, "kind",
                          s->root ? 2 : 1 /* SERVER, INTERNAL */, "startTimeUnixNano", begin, "endTimeUnixNano", end);
    if (o != NULL && s->error != NULL)
        json_object_set_new(o, "status", json_pack("{si ss}", "code", 2, "message", s->error));
    if (o != NULL && s->attributes != NULL)
        json_object_set(o, "attributes", s->attributes);
    return o;
}

void otlp_put(otlp *o, const otlp_context *c, const otlp_span *span)
{
    if (o != NULL && c->sampled) {
        json_t *one = span_json(c, span);
        pthread_mutex_lock(&o->lock);
        bool full = one == NULL || json_array_size(o->spans) >= QUEUE_SPANS || json_array_append(o->spans, one) != 0;
        o->dropped += full;
        if (json_array_size(o->spans) == BATCH_SPANS)
            pthread_cond_signal(&o->wake);
        pthread_mutex_unlock(&o->lock);
        json_decref(one);
    }
    json_decref(span->attributes);
}

/* ---- sending ---- */

/* Takes up to a batch of them; NULL: there are none. */
static json_t *batch_take(otlp *o)
{
    size_t n = json_array_size(o->spans);
    json_t *batch = n > 0 ? json_array() : NULL;
    if (batch == NULL)
        return NULL;
    n = n < BATCH_SPANS ? n : BATCH_SPANS;
    json_t *rest = json_array();
    for (size_t i = 0; i < json_array_size(o->spans); i++)
        json_array_append(i < n ? batch : rest, json_array_get(o->spans, i));
    if (rest == NULL) {
        json_decref(batch);
        return NULL;
    }
    json_decref(o->spans);
    o->spans = rest;
    return batch;
}

static char *request_text(const otlp *o, json_t *batch)
{
    json_t *about = json_array();
    otlp_text(about, "service.name", o->opt.service);
    otlp_text(about, "service.instance.id", o->opt.instance);
    otlp_text(about, "service.version", o->opt.version);
    json_t *request = json_pack("{s[{s{so} s[{s{ss ss} sO}]}]}", "resourceSpans", "resource", "attributes", about, "scopeSpans", "scope", "name", "trireme.gateway", "version", o->opt.version,
                                "spans", batch);
    char *text = request != NULL ? json_dumps(request, JSON_COMPACT) : NULL;
    json_decref(request);
    return text;
}

static size_t ignore(char *data, size_t size, size_t n, void *arg)
{
    (void)data;
    (void)arg;
    return size * n;
}

static int past_the_end(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const otlp *o = arg;
    (void)a;
    (void)b;
    (void)c;
    (void)d;
    return atomic_load(&o->ends) && log_clock() > atomic_load(&o->deadline);
}

/* True when it was taken, or never will be. */
static bool post(const otlp *o, const char *text, char why[CURL_ERROR_SIZE])
{
    long code = 0;
    CURL *c = curl_easy_init();
    why[0] = '\0';
    if (c == NULL)
        return false;
    curl_easy_setopt(c, CURLOPT_URL, o->url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, o->headers);
    curl_easy_setopt(c, CURLOPT_POSTFIELDS, text);
    curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(text));
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, ignore);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)TIMEOUT_MS);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, past_the_end);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, (void *)(uintptr_t)o);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, why);
    CURLcode rc = curl_easy_perform(c);
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &code);
    curl_easy_cleanup(c);
    if (rc != CURLE_OK) {
        if (why[0] == '\0')
            snprintf(why, CURL_ERROR_SIZE, "%s", curl_easy_strerror(rc));
        return false;
    }
    if (code / 100 != 2)
        snprintf(why, CURL_ERROR_SIZE, "it answers with status %ld", code);
    return code / 100 == 2 || (code / 100 == 4 && code != 429); /* what it calls wrong stays wrong */
}

/* Called without the lock.  Spans that do not arrive are counted. */
static void batch_send(otlp *o, json_t *batch, int attempts)
{
    char why[CURL_ERROR_SIZE] = "no memory";
    size_t n = json_array_size(batch);
    char *text = request_text(o, batch);
    bool over = false;
    for (int i = 0; i < attempts && text != NULL && !over; i++) {
        over = post(o, text, why);
        if (!over && i + 1 < attempts) {
            struct timespec pause = {.tv_nsec = 200000000L << i};
            nanosleep(&pause, NULL);
        }
    }
    free(text);
    pthread_mutex_lock(&o->lock);
    o->dropped += why[0] != '\0' ? n : 0;
    uint64_t dropped = o->dropped;
    pthread_mutex_unlock(&o->lock);
    if (why[0] != '\0' && log_clock() - o->complained > COMPLAIN_SECONDS) {
        o->complained = log_clock();
        log_warn("spans do not reach %s: %s; %" PRIu64 " were dropped so far", o->url, why, dropped);
    }
}

static void *send_loop(void *arg)
{
    otlp *o = arg;
    pthread_mutex_lock(&o->lock);
    while (!atomic_load(&o->ends) || (json_array_size(o->spans) > 0 && log_clock() < atomic_load(&o->deadline))) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += SEND_MS / 1000;
        while (!atomic_load(&o->ends) && json_array_size(o->spans) < BATCH_SPANS && pthread_cond_timedwait(&o->wake, &o->lock, &until) != ETIMEDOUT) {
        }
        json_t *batch = batch_take(o);
        bool ends = atomic_load(&o->ends);
        if (batch == NULL)
            continue;
        pthread_mutex_unlock(&o->lock);
        batch_send(o, batch, ends ? 1 : ATTEMPTS);
        json_decref(batch);
        pthread_mutex_lock(&o->lock);
    }
    pthread_mutex_unlock(&o->lock);
    return NULL;
}

/* ---- life ---- */

/* "http://host:4318" with /v1/traces at its end. */
static status url_make(const char *endpoint, char **out)
{
    static const char path[] = "/v1/traces";
    mem_str url = {0};
    if (strncmp(endpoint, "http://", 7) != 0 && strncmp(endpoint, "https://", 8) != 0)
        return FAIL(ST_INVALID, "traces go to an address as in http://127.0.0.1:4318, not to \"%s\"", endpoint);
    size_t n = strlen(endpoint);
    while (n > 0 && endpoint[n - 1] == '/')
        n--;
    bool whole = n >= sizeof(path) - 1 && strncmp(endpoint + n - (sizeof(path) - 1), path, sizeof(path) - 1) == 0;
    mem_str_append(&url, endpoint, n);
    mem_str_puts(&url, whole ? "" : path);
    if (url.failed) {
        mem_str_free(&url);
        return FAIL(ST_NO_MEMORY, "no memory for an address");
    }
    *out = url.data;
    return ST_OK;
}

/* "a=b,c=d" as headers; values may be percent-encoded. */
static status headers_make(const char *list, struct curl_slist **out)
{
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    char line[2048];
    for (const char *at = list != NULL ? list : ""; *at != '\0' && headers != NULL;) {
        size_t n = strcspn(at, ","), name = strcspn(at, "=");
        int length = 0;
        if (n > 0 && name > 0 && name < n) {
            char *value = curl_easy_unescape(NULL, at + name + 1, (int)(n - name - 1), &length);
            bool clean = value != NULL && strpbrk(value, "\r\n") == NULL && memchr(at, '\r', name) == NULL && memchr(at, '\n', name) == NULL;
            int m = clean ? snprintf(line, sizeof(line), "%.*s: %s", (int)name, at, value) : 0;
            curl_free(value);
            if (!clean || m < 0 || (size_t)m >= sizeof(line)) {
                curl_slist_free_all(headers);
                return FAIL(ST_INVALID, "OTEL_EXPORTER_OTLP_HEADERS: its headers are name=value, with commas between them");
            }
            struct curl_slist *more = curl_slist_append(headers, line);
            if (more == NULL)
                curl_slist_free_all(headers);
            headers = more;
        }
        at += n + (at[n] == ',');
    }
    *out = headers;
    return headers != NULL ? ST_OK : FAIL(ST_NO_MEMORY, "no memory for headers");
}

status otlp_create(const otlp_options *options, otlp **out)
{
    otlp *o;
    pthread_condattr_t monotonic;
    TRY(mem_calloc(1, sizeof(*o), "traces", &o));
    *out = o;
    o->opt = *options;
    o->complained = -COMPLAIN_SECONDS;
    pthread_mutex_init(&o->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&o->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    o->spans = json_array();
    status st = o->spans != NULL ? url_make(options->endpoint, &o->url) : FAIL(ST_NO_MEMORY, "no memory for traces");
    if (st == ST_OK)
        st = headers_make(options->headers, &o->headers);
    if (st == ST_OK && pthread_create(&o->thread, NULL, send_loop, o) != 0)
        st = FAIL(ST_NO_MEMORY, "no thread for traces");
    o->started = st == ST_OK;
    if (st != ST_OK)
        otlp_destroy(out, 0);
    return st;
}

void otlp_destroy(otlp **o_, int timeout_ms)
{
    otlp *o = *o_;
    if (o == NULL)
        return;
    pthread_mutex_lock(&o->lock);
    atomic_store(&o->deadline, log_clock() + timeout_ms * 1e-3);
    atomic_store(&o->ends, true);
    pthread_cond_signal(&o->wake);
    pthread_mutex_unlock(&o->lock);
    if (o->started)
        pthread_join(o->thread, NULL);
    json_decref(o->spans);
    curl_slist_free_all(o->headers);
    pthread_cond_destroy(&o->wake);
    pthread_mutex_destroy(&o->lock);
    free(o->url);
    free(o);
    *o_ = NULL;
}
