/* shard/hub_http.c - bytes from the hub, over libcurl.
 *
 * Redirects are followed by hand: the token goes to the endpoint's own scheme, host and port and is left out everywhere else, and https never turns into http.
 * Waits are bounded: connecting, and any stretch without a byte.  Failures that pass (a cut connection, 5xx, 429) are tried again, the wait doubling, as long as
 * attempts bring bytes or few have failed in a row. */
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "shard/hub_internal.h"
#include "trireme_version.h"

enum { MAX_REDIRECTS = 8, MAX_ATTEMPTS = 5, CONNECT_SECONDS = 15, STALL_SECONDS = 30, MAX_WAIT_SECONDS = 60, MAX_ERROR_BODY = 2048 };

struct hub_http {
    CURL *curl;
    const hub_config *config;
    CURLU *origin;
};

/* One transfer: where its body goes, and what its headers said. */
typedef struct transfer {
    hub_http *h;
    mem_str *text;          /* a small body, or NULL */
    int fd;                 /* a file's body, -1 */
    const char *path;       /* of fd, for messages */
    uint64_t at, size;      /* next byte to write; bytes the file must have */
    bool started;           /* the first byte of a good answer was seen */
    status st;              /* what the body's callback found wrong */
    log_progress *progress;
    uint64_t before;
    char error_code[64], etag[128], linked_etag[128];
    int64_t linked_size, content_length, range_begin;
    double retry_after;
} transfer;

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static void curl_start(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

status hub_http_create(const hub_config *config, hub_http **out)
{
    hub_http *h;
    pthread_once(&curl_once, curl_start);
    TRY(mem_calloc(1, sizeof(*h), "hub", &h));
    h->config = config;
    h->curl = curl_easy_init();
    h->origin = curl_url();
    if (h->curl == NULL || h->origin == NULL) {
        hub_http_destroy(&h);
        return FAIL(ST_NO_MEMORY, "hub: out of memory");
    }
    if (curl_url_set(h->origin, CURLUPART_URL, config->endpoint, 0) != CURLUE_OK) {
        hub_http_destroy(&h);
        return FAIL(ST_INVALID, "HF_ENDPOINT=%s: not a URL", config->endpoint);
    }
    *out = h;
    return ST_OK;
}

void hub_http_destroy(hub_http **h)
{
    if (*h == NULL)
        return;
    curl_easy_cleanup((*h)->curl);
    curl_url_cleanup((*h)->origin);
    free(*h);
    *h = NULL;
}

/* ---- origins ---- */

static bool same_part(CURLU *a, CURLU *b, CURLUPart part)
{
    char *x = NULL, *y = NULL;
    bool same = curl_url_get(a, part, &x, CURLU_DEFAULT_PORT) == CURLUE_OK && curl_url_get(b, part, &y, CURLU_DEFAULT_PORT) == CURLUE_OK &&
                strcasecmp(x, y) == 0;
    curl_free(x);
    curl_free(y);
    return same;
}

/* Whether a URL is on the endpoint's scheme, host and port; *downgrade: it is plain http while the endpoint is https. */
static bool is_origin(const hub_http *h, const char *url, bool *downgrade)
{
    CURLU *u = curl_url();
    char *theirs = NULL, *ours = NULL;
    bool same = false;
    *downgrade = true;
    if (u != NULL && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK) {
        same = same_part(u, h->origin, CURLUPART_SCHEME) && same_part(u, h->origin, CURLUPART_HOST) && same_part(u, h->origin, CURLUPART_PORT);
        if (curl_url_get(u, CURLUPART_SCHEME, &theirs, 0) == CURLUE_OK && curl_url_get(h->origin, CURLUPART_SCHEME, &ours, 0) == CURLUE_OK)
            *downgrade = strcasecmp(ours, "https") == 0 && strcasecmp(theirs, "https") != 0;
    }
    curl_free(theirs);
    curl_free(ours);
    curl_url_cleanup(u);
    return same;
}

/* ---- what comes back ---- */

static bool header_is(const char *line, size_t n, const char *name, char *value, size_t size)
{
    size_t len = strlen(name);
    if (n <= len || strncasecmp(line, name, len) != 0 || line[len] != ':')
        return false;
    const char *p = line + len + 1, *end = line + n;
    while (p < end && (*p == ' ' || *p == '\t' || *p == '"'))
        p++;
    if (end - p > 2 && p[0] == 'W' && p[1] == '/') /* a weak validator */
        p += p[2] == '"' ? 3 : 2;
    while (end > p && strchr(" \t\r\n\"", end[-1]) != NULL)
        end--;
    snprintf(value, size, "%.*s", (int)(end - p), p);
    return true;
}

static size_t on_header(char *line, size_t one, size_t n, void *arg)
{
    transfer *t = arg;
    char value[128];
    (void)one;
    if (n > 5 && strncmp(line, "HTTP/", 5) == 0) { /* a new answer: forget the one before */
        t->etag[0] = t->linked_etag[0] = t->error_code[0] = '\0';
        t->linked_size = t->content_length = t->range_begin = -1;
        t->retry_after = 0;
    } else if (header_is(line, n, "X-Error-Code", value, sizeof(value))) {
        snprintf(t->error_code, sizeof(t->error_code), "%.63s", value);
    } else if (header_is(line, n, "ETag", value, sizeof(value))) {
        snprintf(t->etag, sizeof(t->etag), "%s", value);
    } else if (header_is(line, n, "X-Linked-Etag", value, sizeof(value))) {
        snprintf(t->linked_etag, sizeof(t->linked_etag), "%s", value);
    } else if (header_is(line, n, "X-Linked-Size", value, sizeof(value))) {
        t->linked_size = atoll(value);
    } else if (header_is(line, n, "Content-Length", value, sizeof(value))) {
        t->content_length = atoll(value);
    } else if (header_is(line, n, "Content-Range", value, sizeof(value))) {
        if (strncasecmp(value, "bytes ", 6) == 0)
            t->range_begin = atoll(value + 6);
    } else if (header_is(line, n, "Retry-After", value, sizeof(value))) {
        t->retry_after = atof(value);
    }
    return n;
}

static long answer_code(const transfer *t)
{
    long code = 0;
    curl_easy_getinfo(t->h->curl, CURLINFO_RESPONSE_CODE, &code);
    return code;
}

/* The first bytes of a file's answer decide where they go: behind what is there (206), or over it (200: the server does not resume). */
static status file_start(transfer *t)
{
    t->started = true;
    if (answer_code(t) == 206) {
        if (t->range_begin != (int64_t)t->at)
            return FAIL(ST_IO, "%s: the server resumed at byte %lld, not at %llu", t->path, (long long)t->range_begin, (unsigned long long)t->at);
        return ST_OK;
    }
    t->at = 0;
    return ftruncate(t->fd, 0) == 0 ? ST_OK : FAIL(ST_IO, "%s: %s", t->path, strerror(errno));
}

static status file_write(transfer *t, const char *data, size_t n)
{
    if (!t->started)
        TRY(file_start(t));
    if (n > t->size - t->at)
        return FAIL(ST_CORRUPT, "%s: the server sends more than the %llu bytes it announced", t->path, (unsigned long long)t->size);
    TRY(file_write_at(t->fd, t->path, t->at, data, n));
    t->at += n;
    if (t->progress != NULL)
        log_progress_update(t->progress, t->before + t->at);
    return ST_OK;
}

static size_t on_body(char *data, size_t one, size_t n, void *arg)
{
    transfer *t = arg;
    long code = answer_code(t);
    (void)one;
    if (code < 200 || code > 299)
        return n; /* redirects and refusals: the headers say enough */
    if (t->fd >= 0) {
        t->st = file_write(t, data, n);
    } else if (t->text != NULL) {
        mem_str_append(t->text, data, n);
        if (t->text->failed)
            t->st = FAIL(ST_LIMIT, "hub: an answer of more than %zu bytes", t->text->limit);
    }
    return t->st == ST_OK ? n : 0;
}

/* ---- one request ---- */

typedef struct outcome {
    CURLcode curl;
    long code;
    char url[2048];
} outcome;

static status setup(transfer *t, const char *url, bool head, struct curl_slist **headers)
{
    CURL *c = t->h->curl;
    bool downgrade;
    bool ours = is_origin(t->h, url, &downgrade);
    if (downgrade)
        return FAIL(ST_IO, "hub: refused to follow a redirect from https to %.200s", url);
    curl_easy_reset(c);
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)STALL_SECONDS);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "trireme/" TRIREME_VERSION);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
    if (head)
        curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
    if (t->fd >= 0 && t->at > 0) { /* not RESUME_FROM: that fails where a server answers with the whole file */
        char range[32];
        snprintf(range, sizeof(range), "%llu-", (unsigned long long)t->at);
        curl_easy_setopt(c, CURLOPT_RANGE, range);
    }
    if (ours && t->h->config->token != NULL) {
        char *line = NULL;
        if (asprintf(&line, "Authorization: Bearer %s", t->h->config->token) < 0)
            return FAIL(ST_NO_MEMORY, "hub: out of memory");
        *headers = curl_slist_append(NULL, line);
        free(line);
        curl_easy_setopt(c, CURLOPT_HTTPHEADER, *headers);
    }
    return ST_OK;
}

/* Performs the request and, unless `head`, follows its redirects. */
static status request(transfer *t, const char *path, bool head, outcome *out)
{
    snprintf(out->url, sizeof(out->url), "%s%s", t->h->config->endpoint, path);
    t->st = ST_OK;
    t->started = false;
    for (int hop = 0; hop <= MAX_REDIRECTS; hop++) {
        struct curl_slist *headers = NULL;
        char *next = NULL;
        status st = setup(t, out->url, head, &headers);
        if (st == ST_OK) {
            out->curl = curl_easy_perform(t->h->curl);
            out->code = answer_code(t);
            curl_easy_getinfo(t->h->curl, CURLINFO_REDIRECT_URL, &next);
        }
        bool more = st == ST_OK && out->curl == CURLE_OK && out->code >= 300 && out->code < 400 && next != NULL && !(head && t->linked_etag[0] != '\0');
        if (more)
            snprintf(out->url, sizeof(out->url), "%s", next);
        curl_slist_free_all(headers);
        TRY(st);
        if (!more)
            return ST_OK;
    }
    return FAIL(ST_IO, "hub: more than %d redirects", MAX_REDIRECTS);
}

static bool passes(const outcome *o)
{
    return o->curl != CURLE_OK ? o->curl != CURLE_UNSUPPORTED_PROTOCOL && o->curl != CURLE_URL_MALFORMAT && o->curl != CURLE_PEER_FAILED_VERIFICATION
                               : o->code == 408 || o->code == 429 || o->code >= 500;
}

static status fail_outcome(const transfer *t, const outcome *o, const char *what)
{
    if (o->curl == CURLE_OPERATION_TIMEDOUT)
        return FAIL(ST_TIMEOUT, "%s: %s: no answer in time", what, t->h->config->endpoint);
    if (o->curl != CURLE_OK)
        return FAIL(ST_IO, "%s: %s: %s", what, t->h->config->endpoint, curl_easy_strerror(o->curl));
    if (o->code == 401 || o->code == 403)
        return FAIL(ST_NOT_FOUND, "%s: %s answers %ld%s%s: it does not exist, or needs %s: set HF_TOKEN, and accept its conditions on its page", what,
                    t->h->config->endpoint, o->code, t->error_code[0] != '\0' ? " " : "", t->error_code,
                    t->h->config->token == NULL ? "a token" : "more than this token allows");
    if (o->code == 404)
        return FAIL(ST_NOT_FOUND, "%s: not found on %s%s%s", what, t->h->config->endpoint, t->error_code[0] != '\0' ? " " : "", t->error_code);
    return FAIL(ST_IO, "%s: %s answers %ld", what, t->h->config->endpoint, o->code);
}

static void wait_before(int attempt, double retry_after)
{
    double seconds = 0.25 * (double)(1 << attempt);
    if (retry_after > seconds)
        seconds = retry_after < MAX_WAIT_SECONDS ? retry_after : MAX_WAIT_SECONDS;
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

/* The request until it succeeds, fails for good, or has failed too often in a row. */
static status persist(transfer *t, const char *path, const char *what, bool head, outcome *o)
{
    for (int attempt = 0;; attempt++) {
        uint64_t was = t->at;
        TRY(request(t, path, head, o));
        TRY(t->st);
        bool whole = t->fd < 0 || t->at == t->size;
        if (o->curl == CURLE_OK && o->code >= 200 && o->code < (head ? 400 : 300) && (whole || head))
            return ST_OK;
        bool cut = o->curl == CURLE_OK && o->code < 300 && !whole; /* the server closed early */
        if (t->fd >= 0 && o->curl == CURLE_OK && o->code == 416) { /* what lies there is no beginning of the file */
            t->at = 0;
            cut = ftruncate(t->fd, 0) == 0;
        }
        if (t->text != NULL)
            mem_str_clear(t->text);
        attempt = t->at > was ? 0 : attempt;
        if ((!passes(o) && !cut) || attempt + 1 >= MAX_ATTEMPTS)
            return cut ? FAIL(ST_IO, "%s: the server closes the connection after %llu of %llu bytes", what, (unsigned long long)t->at,
                              (unsigned long long)t->size)
                       : fail_outcome(t, o, what);
        log_debug("%s: attempt %d: %s, code %ld", what, attempt + 1, curl_easy_strerror(o->curl), o->code);
        wait_before(attempt, t->retry_after);
    }
}

status hub_http_text(hub_http *h, const char *path, const char *what, size_t limit, char **text, size_t *len)
{
    mem_str body = {.limit = limit};
    transfer t = {.h = h, .text = &body, .fd = -1};
    outcome o;
    status st = persist(&t, path, what, false, &o);
    if (st == ST_OK) {
        *len = body.len;
        *text = mem_str_take(&body);
        st = *text == NULL ? FAIL(ST_NO_MEMORY, "%s: out of memory", what) : ST_OK;
    }
    mem_str_free(&body);
    return st;
}

status hub_http_head(hub_http *h, const char *path, const char *what, char hash[65], int64_t *size)
{
    transfer t = {.h = h, .fd = -1};
    outcome o;
    TRY(persist(&t, path, what, true, &o));
    const char *etag = t.linked_etag[0] != '\0' ? t.linked_etag : t.etag;
    *size = t.linked_size >= 0 ? t.linked_size : t.content_length;
    hash[0] = '\0';
    if (hub_is_hex(etag, 64) || hub_is_hex(etag, 40))
        snprintf(hash, 65, "%.64s", etag);
    return ST_OK;
}

status hub_http_file(hub_http *h, const char *path, const char *what, const char *incomplete, uint64_t size, log_progress *progress, uint64_t before,
                     uint64_t *downloaded)
{
    struct stat sb;
    outcome o;
    transfer t = {.h = h, .path = incomplete, .size = size, .progress = progress, .before = before,
                  .fd = open(incomplete, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644)};
    if (t.fd < 0 || fstat(t.fd, &sb) != 0) {
        status st = FAIL(ST_IO, "%s: %s", incomplete, strerror(errno));
        if (t.fd >= 0)
            close(t.fd);
        return st;
    }
    status st = ST_OK;
    t.at = (uint64_t)sb.st_size;
    if (t.at > size) {
        t.at = 0;
        if (ftruncate(t.fd, 0) != 0)
            st = FAIL(ST_IO, "%s: %s", incomplete, strerror(errno));
    }
    uint64_t had = t.at;
    if (st == ST_OK && t.at < size)
        st = persist(&t, path, what, false, &o);
    if (st == ST_OK && fsync(t.fd) != 0)
        st = FAIL(ST_IO, "%s: %s", incomplete, strerror(errno));
    close(t.fd);
    *downloaded = t.at > had ? t.at - had : t.at;
    return st;
}
