#include "coordinator/gateway/access.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"

#define QUEUE_BYTES (4u << 20)

struct access_log {
    char *path; /* NULL: standard error, or nothing */
    bool to_stderr;
    pthread_t writer;
    pthread_mutex_t lock;
    pthread_cond_t some;
    mem_str queue; /* under lock */
    bool closing, reopen;
    _Atomic uint64_t dropped;
    int fd; /* the writer's */
};

/* ---- the line ---- */

/* "text" as JSON; bytes that are not UTF-8 become null. */
static void put_text(mem_str *s, const char *name, const char *text)
{
    json_t *value = json_string(text);
    char *quoted = value != NULL ? json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII) : NULL;
    mem_str_printf(s, ", \"%s\": %s", name, quoted != NULL ? quoted : "null");
    free(quoted);
    json_decref(value);
}

static void put_ms(mem_str *s, const char *name, uint64_t from, uint64_t to)
{
    if (from != 0 && to >= from)
        mem_str_printf(s, ", \"%s\": %.3f", name, (double)(to - from) * 1e-6);
}

char *access_note_text(const access_note *n)
{
    mem_str s = {0};
    const struct {
        const char *name, *text;
    } texts[] = {{"model", n->model}, {"digest", n->digest}, {"adapter", n->adapter}, {"build", n->build}, {"split", n->split}, {"replica", n->replica}, {"finish", n->finish}};
    const struct {
        const char *name;
        int32_t value;
    } counts[] = {{"prompt_tokens", n->prompt_tokens}, {"completion_tokens", n->completion_tokens}, {"cached_tokens", n->cached_tokens}, {"n", n->n}, {"replays", n->replays}};
    const struct {
        const char *name;
        double ms;
    } times[] = {{"queue_ms", n->queue_ms}, {"ttft_ms", n->ttft_ms}, {"generation_ms", n->generation_ms}};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        if (texts[i].text != NULL)
            put_text(&s, texts[i].name, texts[i].text);
    }
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        if (counts[i].value >= 0)
            mem_str_printf(&s, ", \"%s\": %" PRId32, counts[i].name, counts[i].value);
    }
    for (size_t i = 0; i < ARRAY_LEN(times); i++) {
        if (times[i].ms >= 0)
            mem_str_printf(&s, ", \"%s\": %.3f", times[i].name, times[i].ms);
    }
    return mem_str_take(&s);
}

static void put_line(mem_str *s, const http_record *r, const char *key)
{
    struct timespec t;
    struct tm tm;
    char when[32];
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
    mem_str_printf(s, "{\"time\": \"%s.%03ldZ\"", when, t.tv_nsec / 1000000);
    put_text(s, "request_id", r->request_id);
    put_text(s, "key", key);
    put_text(s, "address", r->address);
    char method[17];
    snprintf(method, sizeof(method), "%s", r->method);
    put_text(s, "method", method);
    put_text(s, "route", r->route);
    mem_str_printf(s, ", \"status\": %d, \"complete\": %s, \"bytes_in\": %" PRIu64 ", \"bytes_out\": %" PRIu64, r->status, r->gone ? "false" : "true", r->bytes_in, r->bytes_out);
    put_ms(s, "body_ms", r->head_read, r->body_read);
    put_ms(s, "answer_ms", r->body_read, r->first_queued);
    put_ms(s, "write_ms", r->first_queued, r->first_written);
    put_ms(s, "total_ms", r->head_read, r->ended);
    mem_str_puts(s, r->note != NULL ? r->note : "");
    mem_str_puts(s, "}\n");
}

/* ---- the queue and its writer ---- */

static void open_file(access_log *a)
{
    if (a->to_stderr) {
        a->fd = STDERR_FILENO;
        return;
    }
    if (a->fd >= 0)
        close(a->fd);
    a->fd = open(a->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    if (a->fd < 0)
        log_error("%s: %s: no access log is written", a->path, strerror(errno));
}

/* false: could not be written. */
static bool write_out(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, bytes, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return false;
        bytes += done;
        n -= (size_t)done;
    }
    return true;
}

static void *write_queue(void *arg)
{
    access_log *a = arg;
    uint64_t told = 0;
    bool failing = false, done = false;
    sigset_t all;
    sigfillset(&all); /* a reader that is gone is an error, not SIGPIPE */
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    while (!done) {
        pthread_mutex_lock(&a->lock);
        while (a->queue.len == 0 && !a->closing && !a->reopen)
            pthread_cond_wait(&a->some, &a->lock);
        mem_str lines = a->queue;
        bool reopen = a->reopen;
        a->queue = (mem_str){.limit = QUEUE_BYTES};
        a->reopen = false;
        done = a->closing;
        pthread_mutex_unlock(&a->lock);
        bool ok = lines.len == 0 || (a->fd >= 0 && write_out(a->fd, lines.data, lines.len));
        if (!ok && !failing && a->fd >= 0)
            log_error("access log: %s", strerror(errno));
        failing = !ok;
        mem_str_free(&lines);
        if (reopen)
            open_file(a);
        uint64_t dropped = atomic_load(&a->dropped);
        if (dropped != told)
            log_warn("access log: %" PRIu64 " lines found no room", dropped - told);
        told = dropped;
    }
    return NULL;
}

status access_open(const char *path, access_log **out)
{
    access_log *a = NULL;
    TRY(mem_calloc(1, sizeof(*a), "the access log", &a));
    a->fd = -1;
    a->queue.limit = QUEUE_BYTES;
    *out = a;
    if (path == NULL)
        return ST_OK;
    a->to_stderr = strcmp(path, "-") == 0;
    a->path = strdup(path);
    if (a->path != NULL)
        open_file(a);
    if (a->path == NULL || a->fd < 0) {
        free(a->path);
        free(a);
        *out = NULL;
        return FAIL(ST_IO, "the access log %s cannot be opened", path);
    }
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->some, NULL);
    int error = pthread_create(&a->writer, NULL, write_queue, a);
    if (error != 0) {
        if (!a->to_stderr)
            close(a->fd);
        free(a->path);
        a->path = NULL;
        access_close(out);
        return FAIL(ST_IO, "the access log's thread: %s", strerror(error));
    }
    return ST_OK;
}

void access_close(access_log **ap)
{
    access_log *a = *ap;
    if (a == NULL)
        return;
    *ap = NULL;
    if (a->path != NULL) {
        pthread_mutex_lock(&a->lock);
        a->closing = true;
        pthread_cond_signal(&a->some);
        pthread_mutex_unlock(&a->lock);
        pthread_join(a->writer, NULL);
        pthread_mutex_destroy(&a->lock);
        pthread_cond_destroy(&a->some);
        if (!a->to_stderr && a->fd >= 0)
            close(a->fd);
    }
    mem_str_free(&a->queue);
    free(a->path);
    free(a);
}

void access_write(access_log *a, const http_record *r, const char *key)
{
    if (a->path == NULL)
        return;
    mem_str line = {0};
    put_line(&line, r, key);
    pthread_mutex_lock(&a->lock);
    if (line.failed || a->queue.len + line.len > QUEUE_BYTES) {
        atomic_fetch_add(&a->dropped, 1);
    } else {
        mem_str_append(&a->queue, line.data, line.len);
        pthread_cond_signal(&a->some);
    }
    pthread_mutex_unlock(&a->lock);
    mem_str_free(&line);
}

void access_reopen(access_log *a)
{
    if (a->path == NULL)
        return;
    pthread_mutex_lock(&a->lock);
    a->reopen = true;
    pthread_cond_signal(&a->some);
    pthread_mutex_unlock(&a->lock);
}

uint64_t access_dropped(const access_log *a)
{
    return atomic_load(&a->dropped);
}
