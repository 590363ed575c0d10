#include "coordinator/client/server.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "coordinator/client/stream.h"
#include "trireme_version.h"

enum { CONNECT_MS = 10000, MAX_ANSWER = 64 << 20, TOKENIZE_MS = 30000 };

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static void curl_start(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* ---- the address ---- */

/* A scheme where there is none; without slashes at the end and a final /v1, which every path here begins with. */
static char *url_tidy(const char *url)
{
    mem_str s = {0};
    size_t n;
    if (strstr(url, "://") == NULL)
        mem_str_puts(&s, "http://");
    mem_str_puts(&s, url);
    if (s.failed)
        return NULL;
    for (n = s.len; n > 0 && s.data[n - 1] == '/'; n--)
        ;
    if (n > 3 && strncmp(s.data + n - 3, "/v1", 3) == 0)
        n -= 3;
    s.data[n] = '\0';
    s.len = n;
    return mem_str_take(&s);
}

static status url_check(const char *url)
{
    CURLU *u = curl_url();
    char *scheme = NULL, *user = NULL;
    bool ok = u != NULL && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK && curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
              (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0);
    bool named = ok && curl_url_get(u, CURLUPART_USER, &user, 0) == CURLUE_OK;
    curl_free(scheme);
    curl_free(user);
    curl_url_cleanup(u);
    if (named)
        return FAIL(ST_INVALID, "an address with a user's name in it, which would stand in every result: send it as a header instead");
    return ok ? ST_OK : FAIL(ST_INVALID, "%s: not an address of a server: give one such as http://127.0.0.1:8000", url);
}

static status header_add(client_server *s, const char *name, const char *value)
{
    mem_str line = {0};
    mem_str_printf(&line, "%s%s", name, value);
    struct curl_slist *all = line.failed || strpbrk(line.data, "\r\n") != NULL ? NULL : curl_slist_append(s->headers, line.data);
    mem_str_free(&line);
    if (all == NULL)
        return FAIL(ST_INVALID, "a header cannot be sent: it has a line break in it, or there is no memory");
    s->headers = all;
    return ST_OK;
}

static status open_all(const client_server_options *o, client_server *s)
{
    s->insecure = o->insecure;
    s->url = url_tidy(o->url);
    s->curl = curl_easy_init();
    if (s->url == NULL || s->curl == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for a client");
    TRY(url_check(s->url));
    TRY(header_add(s, "Content-Type: ", "application/json"));
    TRY(header_add(s, "Expect:", "")); /* no round trip before a large body */
    if (o->api_key != NULL)
        TRY(header_add(s, "Authorization: Bearer ", o->api_key));
    for (int i = 0; i < o->n_headers; i++)
        TRY(header_add(s, o->headers[i], ""));
    return ST_OK;
}

status client_server_open(const client_server_options *options, client_server *out)
{
    pthread_once(&curl_once, curl_start);
    *out = (client_server){0};
    status st = open_all(options, out);
    if (st != ST_OK)
        client_server_close(out);
    return st;
}

void client_server_close(client_server *s)
{
    curl_easy_cleanup(s->curl);
    curl_slist_free_all(s->headers);
    free(s->url);
    *s = (client_server){0};
}

status client_server_setup(const client_server *s, const char *path, CURL *c)
{
    mem_str url = {0};
    mem_str_printf(&url, "%s%s", s->url, path);
    bool ok = !url.failed && curl_easy_setopt(c, CURLOPT_URL, url.data) == CURLE_OK;
    mem_str_free(&url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "trireme/" TRIREME_VERSION);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, s->headers);
    if (s->insecure) {
        curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 0L);
    }
    return ok ? ST_OK : FAIL(ST_NO_MEMORY, "no memory for a request");
}

/* ---- questions ---- */

static size_t on_body(char *data, size_t one, size_t n, void *arg)
{
    mem_str *body = arg;
    (void)one;
    mem_str_append(body, data, n);
    return body->failed ? 0 : n;
}

status client_ask(client_server *s, const char *path, const json_t *body, int timeout_ms, long *code, json_t **out)
{
    mem_str answer = {.limit = MAX_ANSWER};
    char *text = body == NULL ? NULL : json_line(body);
    *out = NULL;
    *code = 0;
    curl_easy_reset(s->curl); /* keeps the connection */
    status st = body != NULL && text == NULL ? FAIL(ST_NO_MEMORY, "no memory for a request") : client_server_setup(s, path, s->curl);
    if (st == ST_OK) {
        if (text != NULL)
            curl_easy_setopt(s->curl, CURLOPT_POSTFIELDS, text);
        curl_easy_setopt(s->curl, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
        curl_easy_setopt(s->curl, CURLOPT_WRITEFUNCTION, on_body);
        curl_easy_setopt(s->curl, CURLOPT_WRITEDATA, &answer);
        CURLcode e = curl_easy_perform(s->curl);
        if (e == CURLE_OPERATION_TIMEDOUT)
            st = FAIL(ST_TIMEOUT, "%s%s: no answer within %.1f s", s->url, path, timeout_ms * 1e-3);
        else if (e != CURLE_OK)
            st = FAIL(ST_IO, "%s%s: %s", s->url, path, curl_easy_strerror(e));
    }
    if (st == ST_OK) {
        curl_easy_getinfo(s->curl, CURLINFO_RESPONSE_CODE, code);
        *out = json_loadb(answer.data != NULL ? answer.data : "", answer.len, JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
    }
    mem_str_free(&answer);
    free(text);
    return st;
}

status client_tokenize(client_server *s, const char *model, const char *text, bool add_special, int32_t *n, json_t **ids)
{
    json_t *body = json_pack("{ss ss sb}", "model", model, "prompt", text, "add_special_tokens", add_special), *answer = NULL;
    long code = 0;
    if (body == NULL)
        return FAIL(ST_FORMAT, "a prompt that is no UTF-8");
    status st = client_ask(s, "/tokenize", body, TOKENIZE_MS, &code, &answer);
    json_t *tokens = json_object_get(answer, "tokens");
    json_decref(body);
    if (st == ST_OK && (code == 404 || code == 405 || code == 501))
        st = ST_UNSUPPORTED;
    else if (st == ST_OK && (code != 200 || !json_is_array(tokens)))
        st = FAIL(ST_PEER, "%s/tokenize: answers %ld, and no tokens", s->url, code);
    if (st == ST_OK) {
        *n = (int32_t)json_array_size(tokens);
        if (ids != NULL)
            *ids = json_incref(tokens);
    }
    json_decref(answer);
    return st;
}
