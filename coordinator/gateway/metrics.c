#include "coordinator/gateway/metrics.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"

enum kind { COUNTER, GAUGE, HISTOGRAM };
enum buckets { NONE, TTFT, ITL, LATENCY, TOKENS, ITERATION, N, FAST, BYTES, HTTP, HIGHR, BUCKETS };

typedef struct family {
    enum kind kind;
    enum buckets buckets;
    const char *name, *old, *labels, *help;
} family;

static const family families[METRICS_N] = {
#define METRICS_ROW(id, k, b, n, o, l, h) {k, b, n, o, l, h},
    METRICS_LIST(METRICS_ROW)
#undef METRICS_ROW
};

#define MAX_BUCKETS 32

static const double fixed[BUCKETS][MAX_BUCKETS] = {
    [TTFT] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560},
    [ITL] = {.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80},
    [LATENCY] = {.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680},
    [ITERATION] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384},
    [N] = {1, 2, 5, 10, 20},
    [FAST] = {.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
    [BYTES] = {100, 1000, 10000, 100000, 1000000, 10000000},
    [HTTP] = {.1, .5, 1},
    [HIGHR] = {.01, .025, .05, .075, .1, .25, .5, .75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60},
};

struct metrics_series {
    const double *bounds; /* of a histogram */
    int n_bounds;
    _Atomic uint64_t value; /* a double's bits: value, or a histogram's sum */
    _Atomic uint64_t *counts; /* n_bounds + 1, not cumulative */
    bool hidden;            /* under lock */
    uint64_t hash;
    char *labels; /* model_name="x",engine="0" */
    char *values[METRICS_MAX_LABELS];
    metrics_series *next;
};

typedef struct list {
    metrics_series *first, *last;
    int n;
} list;

struct metrics {
    metrics_options o;
    pthread_mutex_t lock; /* the lists; values are atomic */
    list lists[METRICS_N];
    double tokens[MAX_BUCKETS]; /* 1, 2, 5, 10 ... */
    metrics_series *sinks[METRICS_N]; /* updated by those who found no room; never shown */
    double started;
};

/* ---- series ---- */

static int count_bounds(const double *b)
{
    int n = 0;
    while (n < MAX_BUCKETS && b[n] > 0)
        n++;
    return n;
}

static metrics_series *series_create(const metrics *m, metrics_id id)
{
    metrics_series *s = calloc(1, sizeof(*s));
    if (s == NULL || families[id].kind != HISTOGRAM)
        return s;
    s->bounds = families[id].buckets == TOKENS ? m->tokens : fixed[families[id].buckets];
    s->n_bounds = count_bounds(s->bounds);
    s->counts = calloc((size_t)s->n_bounds + 1, sizeof(*s->counts));
    if (s->counts == NULL) {
        free(s);
        return NULL;
    }
    return s;
}

static void series_free(metrics_series *s)
{
    if (s == NULL)
        return;
    for (int i = 0; i < METRICS_MAX_LABELS; i++)
        free(s->values[i]);
    free(s->labels);
    free(s->counts);
    free(s);
}

static void series_zero(metrics_series *s)
{
    atomic_store(&s->value, 0);
    for (int i = 0; s->counts != NULL && i <= s->n_bounds; i++)
        atomic_store(&s->counts[i], 0);
}

/* Length of the UTF-8 sequence at p, 0 if it is none. */
static size_t utf8_at(const unsigned char *p)
{
    size_t n = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : p[0] >= 0xe0 && p[0] < 0xf0 ? 3 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    bool bad = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f);
    return bad ? 0 : n;
}

/* A label's value, escaped; what is not UTF-8 becomes U+FFFD. */
static void put_value(mem_str *s, const char *value)
{
    for (const unsigned char *p = (const unsigned char *)value; *p != '\0';) {
        size_t n = utf8_at(p);
        if (*p == '\\' || *p == '"')
            mem_str_putc(s, '\\');
        if (*p == '\n')
            mem_str_puts(s, "\\n");
        else if (n == 0)
            mem_str_puts(s, "\xef\xbf\xbd");
        else
            mem_str_append(s, p, n);
        p += n == 0 ? 1 : n;
    }
}

/* Calls for each label name of a family; returns how many. */
static int label_names(metrics_id id, char names[METRICS_MAX_LABELS][48])
{
    int n = 0;
    for (const char *p = families[id].labels; *p != '\0' && n < METRICS_MAX_LABELS; n++) {
        size_t len = strcspn(p, " ");
        snprintf(names[n], 48, "%.*s", (int)len, p);
        p += len + strspn(p + len, " ");
    }
    return n;
}

static char *render(metrics_id id, const char *const *values, int *n)
{
    char names[METRICS_MAX_LABELS][48];
    mem_str s = {0};
    *n = label_names(id, names);
    for (int i = 0; i < *n; i++) {
        mem_str_printf(&s, "%s%s=\"", i > 0 ? "," : "", names[i]);
        put_value(&s, values[i]);
        mem_str_putc(&s, '"');
    }
    return mem_str_take(&s);
}

static metrics_series *find_locked(metrics *m, metrics_id id, uint64_t hash, const char *labels)
{
    for (metrics_series *s = m->lists[id].first; s != NULL; s = s->next) {
        if (s->hash == hash && strcmp(s->labels, labels) == 0)
            return s;
    }
    return NULL;
}

/* Takes labels. */
static metrics_series *add_locked(metrics *m, metrics_id id, uint64_t hash, char *labels, const char *const *values, int n)
{
    list *l = &m->lists[id];
    metrics_series *s = l->n < m->o.max_series_per_family ? series_create(m, id) : NULL;
    if (s == NULL) {
        free(labels);
        return NULL;
    }
    s->hash = hash;
    s->labels = labels;
    bool whole = true;
    for (int i = 0; i < n; i++)
        whole = (s->values[i] = strdup(values[i])) != NULL && whole;
    if (!whole) {
        series_free(s);
        return NULL;
    }
    *(l->last != NULL ? &l->last->next : &l->first) = s;
    l->last = s;
    l->n++;
    return s;
}

metrics_series *metrics_get(metrics *m, metrics_id id, const char *const *values)
{
    int n;
    char *labels = render(id, values, &n);
    if (labels == NULL)
        return m->sinks[id];
    uint64_t hash = hash_fast(labels, strlen(labels), 0);
    pthread_mutex_lock(&m->lock);
    metrics_series *s = find_locked(m, id, hash, labels);
    if (s != NULL) {
        free(labels);
        if (s->hidden)
            series_zero(s);
        s->hidden = false;
    } else {
        s = add_locked(m, id, hash, labels, values, n);
    }
    pthread_mutex_unlock(&m->lock);
    return s != NULL ? s : m->sinks[id];
}

void metrics_hide(metrics *m, const char *label, const char *value)
{
    char names[METRICS_MAX_LABELS][48];
    pthread_mutex_lock(&m->lock);
    for (int id = 0; id < METRICS_N; id++) {
        int n = label_names((metrics_id)id, names), at = 0;
        while (at < n && strcmp(names[at], label) != 0)
            at++;
        for (metrics_series *s = m->lists[id].first; s != NULL && at < n; s = s->next)
            s->hidden = s->hidden || strcmp(s->values[at], value) == 0;
    }
    pthread_mutex_unlock(&m->lock);
}

/* ---- updates ---- */

static uint64_t bits_of(double v)
{
    uint64_t u;
    memcpy(&u, &v, sizeof(u));
    return u;
}

static double of_bits(uint64_t u)
{
    double v;
    memcpy(&v, &u, sizeof(v));
    return v;
}

void metrics_add(metrics_series *s, double v)
{
    uint64_t old = atomic_load_explicit(&s->value, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&s->value, &old, bits_of(of_bits(old) + v), memory_order_relaxed, memory_order_relaxed))
        ;
}

void metrics_set(metrics_series *s, double v)
{
    atomic_store_explicit(&s->value, bits_of(v), memory_order_relaxed);
}

void metrics_observe(metrics_series *s, double v)
{
    int i = 0;
    if (isnan(v))
        return;
    while (i < s->n_bounds && v > s->bounds[i])
        i++;
    atomic_fetch_add_explicit(&s->counts[i], 1, memory_order_relaxed);
    metrics_add(s, v);
}

/* ---- life ---- */

status metrics_create(const metrics_options *o, metrics **out)
{
    metrics *m = NULL;
    TRY(mem_calloc(1, sizeof(*m), "metrics", &m));
    pthread_mutex_init(&m->lock, NULL);
    m->o = *o;
    if (m->o.max_series_per_family <= 0)
        m->o.max_series_per_family = 2048;
    double most = o->max_model_len > 0 ? (double)o->max_model_len : 1e6;
    int n = 0;
    for (double decade = 1; decade <= most && n + 3 < MAX_BUCKETS; decade *= 10) {
        const double steps[] = {1, 2, 5};
        for (int i = 0; i < 3 && decade * steps[i] <= most; i++)
            m->tokens[n++] = decade * steps[i];
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    m->started = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    for (int id = 0; id < METRICS_N; id++) {
        m->sinks[id] = series_create(m, (metrics_id)id);
        if (m->sinks[id] == NULL) {
            metrics_destroy(&m);
            return FAIL(ST_NO_MEMORY, "no memory for metrics");
        }
    }
    *out = m;
    return ST_OK;
}

void metrics_destroy(metrics **mp)
{
    metrics *m = *mp;
    if (m == NULL)
        return;
    for (int id = 0; id < METRICS_N; id++) {
        for (metrics_series *s = m->lists[id].first, *next; s != NULL; s = next) {
            next = s->next;
            series_free(s);
        }
        series_free(m->sinks[id]);
    }
    pthread_mutex_destroy(&m->lock);
    free(m);
    *mp = NULL;
}

/* ---- what http brings ---- */

static const char *known_method(const char *method)
{
    static const char *const known[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"};
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (strcmp(method, known[i]) == 0)
            return known[i];
    }
    return "other"; /* anything can be sent */
}

void metrics_http(metrics *m, const char *route, const char *method, int http, uint64_t bytes_in, uint64_t bytes_out, double seconds)
{
    char class[8];
    const char *handler = route[0] != '\0' ? route : "none";
    method = known_method(method);
    if (http == 0)
        snprintf(class, sizeof(class), "499");
    else
        snprintf(class, sizeof(class), "%dxx", http / 100 % 10);
    metrics_add(metrics_get(m, METRIC_HTTP_REQUESTS, (const char *const[]){handler, method, class}), 1);
    metrics_observe(metrics_get(m, METRIC_HTTP_REQUEST_SIZE, (const char *const[]){handler}), (double)bytes_in);
    metrics_observe(metrics_get(m, METRIC_HTTP_RESPONSE_SIZE, (const char *const[]){handler}), (double)bytes_out);
    metrics_observe(metrics_get(m, METRIC_HTTP_REQUEST_DURATION, (const char *const[]){handler, method}), seconds);
    metrics_observe(metrics_get(m, METRIC_HTTP_REQUEST_DURATION_HIGHR, NULL), seconds);
}

/* ---- the text ---- */

/* The shortest text that reads back as v; whole numbers with ".0", as both formats take. */
static void put_number(mem_str *s, double v)
{
    char text[32];
    if (isnan(v) || isinf(v)) {
        mem_str_puts(s, isnan(v) ? "NaN" : v > 0 ? "+Inf" : "-Inf");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    mem_str_puts(s, text);
    if (strpbrk(text, ".e") == NULL)
        mem_str_puts(s, ".0");
}

static void put_sample(mem_str *s, const char *prefix, const char *name, const char *suffix, const char *labels, const char *le, double v)
{
    mem_str_printf(s, "%s%s%s", prefix, name, suffix);
    if (labels[0] != '\0' || le != NULL)
        mem_str_printf(s, "{%s%s%s%s%s}", labels, labels[0] != '\0' && le != NULL ? "," : "", le != NULL ? "le=\"" : "", le != NULL ? le : "", le != NULL ? "\"" : "");
    mem_str_putc(s, ' ');
    put_number(s, v);
    mem_str_putc(s, '\n');
}

static void put_histogram(mem_str *s, const char *prefix, const char *name, const metrics_series *x)
{
    uint64_t total = 0;
    for (int i = 0; i <= x->n_bounds; i++) {
        mem_str le = {0};
        put_number(&le, i < x->n_bounds ? x->bounds[i] : INFINITY);
        total += atomic_load_explicit(&x->counts[i], memory_order_relaxed);
        put_sample(s, prefix, name, "_bucket", x->labels, le.failed ? "" : le.data, (double)total);
        mem_str_free(&le);
    }
    put_sample(s, prefix, name, "_count", x->labels, NULL, (double)total);
    put_sample(s, prefix, name, "_sum", x->labels, NULL, of_bits(atomic_load_explicit(&x->value, memory_order_relaxed)));
}

static void put_head(mem_str *s, const char *prefix, const char *name, enum kind kind, const char *help, bool open_metrics)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    const char *suffix = kind == COUNTER && !open_metrics ? "_total" : "";
    mem_str_printf(s, "# HELP %s%s%s %s\n# TYPE %s%s%s %s\n", prefix, name, suffix, help, prefix, name, suffix, kinds[kind]);
}

static void put_family(mem_str *s, const metrics *m, int id, const char *prefix, const char *name, bool open_metrics)
{
    const family *f = &families[id];
    bool headed = false;
    for (const metrics_series *x = m->lists[id].first; x != NULL; x = x->next) {
        if (x->hidden)
            continue;
        if (!headed)
            put_head(s, prefix, name, f->kind, f->help, open_metrics);
        headed = true;
        if (f->kind == HISTOGRAM)
            put_histogram(s, prefix, name, x);
        else
            put_sample(s, prefix, name, f->kind == COUNTER ? "_total" : "", x->labels, NULL, of_bits(atomic_load_explicit(&x->value, memory_order_relaxed)));
    }
}

static void put_old_names(mem_str *s, const metrics *m, int id, bool open_metrics)
{
    char name[64];
    for (const char *p = families[id].old; *p != '\0';) {
        size_t n = strcspn(p, " ");
        snprintf(name, sizeof(name), "%.*s", (int)n, p);
        put_family(s, m, id, "vllm:", name, open_metrics);
        p += n + strspn(p + n, " ");
    }
}

static double open_files(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = -3; /* ".", "..", and the one that reads */
    if (d == NULL)
        return 0;
    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n;
}

static void put_process(mem_str *s, const metrics *m, bool open_metrics)
{
    char text[1024] = "";
    unsigned long user = 0, system = 0, size = 0;
    long resident = 0;
    FILE *f = fopen("/proc/self/stat", "re"); /* its size is said to be 0, so it is read as a stream */
    if (f != NULL) {
        text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
        fclose(f);
        const char *after = strrchr(text, ')'); /* the program's name may hold anything */
        if (after == NULL || sscanf(after, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d %*d %*u %lu %ld", &user, &system, &size, &resident) != 4)
            user = system = 0;
    }
    const struct {
        const char *name, *help;
        enum kind kind;
        double value;
    } all[] = {
        {"process_cpu_seconds", "CPU time of the process.", COUNTER, (double)(user + system) / (double)sysconf(_SC_CLK_TCK)},
        {"process_virtual_memory_bytes", "Address space.", GAUGE, (double)size},
        {"process_resident_memory_bytes", "Memory in use.", GAUGE, (double)resident * (double)sysconf(_SC_PAGESIZE)},
        {"process_start_time_seconds", "When it started.", GAUGE, m->started},
        {"process_open_fds", "Open files.", GAUGE, open_files()},
        {"process_max_fds", "Open files allowed.", GAUGE, (double)sysconf(_SC_OPEN_MAX)},
    };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        put_head(s, "", all[i].name, all[i].kind, all[i].help, open_metrics);
        put_sample(s, "", all[i].name, all[i].kind == COUNTER ? "_total" : "", "", NULL, all[i].value);
    }
}

status metrics_text(metrics *m, const char *accept, mem_str *out, const char **content_type)
{
    bool open_metrics = accept != NULL && strstr(accept, "application/openmetrics-text") != NULL;
    *content_type = open_metrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8" : "text/plain; version=0.0.4; charset=utf-8";
    pthread_mutex_lock(&m->lock);
    for (int id = 0; id < METRICS_N; id++) {
        bool shared = strcmp(families[id].old, "=") == 0, ours = strcmp(families[id].old, "-") == 0;
        put_family(out, m, id, shared ? "" : "trireme:", families[id].name, open_metrics);
        if (m->o.vllm_names && !shared && !ours) {
            put_family(out, m, id, "vllm:", families[id].name, open_metrics);
            put_old_names(out, m, id, open_metrics);
        }
    }
    pthread_mutex_unlock(&m->lock);
    put_process(out, m, open_metrics);
    if (open_metrics)
        mem_str_puts(out, "# EOF\n");
    return out->failed ? FAIL(ST_NO_MEMORY, "no memory for the metrics' text") : ST_OK;
}
