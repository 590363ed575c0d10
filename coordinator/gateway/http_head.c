#include "coordinator/gateway/http_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#define MAX_FIELDS 256

static bool is_token_char(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool is_token(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!is_token_char((unsigned char)s[i]))
            return false;
    }
    return n > 0;
}

static bool is_clean(const char *s, size_t n) /* no control characters but tab */
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

/* Fields as the library hands them out, one by one. */
typedef struct collector {
    http_request *r;
    http_pair *pairs;
    size_t n;
    const char *why;
    bool names_are_tokens;
} collector;

static enum MHD_Result collect(void *arg, enum MHD_ValueKind kind, const char *key, size_t key_len, const char *value, size_t value_len)
{
    collector *c = arg;
    (void)kind;
    if (value == NULL)
        value_len = 0;
    if (c->names_are_tokens && !is_token(key, key_len))
        c->why = "A header has a malformed name.";
    else if (!is_clean(value == NULL ? "" : value, value_len) || memchr(key, '\0', key_len) != NULL)
        c->why = "A header or query field holds control characters.";
    else if (c->n == MAX_FIELDS)
        c->why = "Too many header or query fields.";
    if (c->why != NULL)
        return MHD_NO;
    while (value_len > 0 && (value[value_len - 1] == ' ' || value[value_len - 1] == '\t'))
        value_len--;
    http_pair p = {mem_arena_strndup(c->r->arena, key, key_len), mem_arena_strndup(c->r->arena, value == NULL ? "" : value, value_len)};
    if (p.name == NULL || p.value == NULL) {
        c->why = "Out of memory.";
        return MHD_NO;
    }
    c->pairs[c->n++] = p;
    return MHD_YES;
}

static const char *collect_all(http_request *r, struct MHD_Connection *c, enum MHD_ValueKind kind, http_pair **pairs, size_t *n)
{
    int count = MHD_get_connection_values(c, kind, NULL, NULL);
    if (count > MAX_FIELDS)
        return "Too many header or query fields.";
    collector all = {.r = r, .names_are_tokens = kind == MHD_HEADER_KIND, .pairs = mem_arena_alloc(r->arena, ((size_t)count + 1) * sizeof(http_pair))};
    if (all.pairs == NULL)
        return "Out of memory.";
    MHD_get_connection_values_n(c, kind, collect, &all);
    *pairs = all.pairs;
    *n = all.n;
    return all.why;
}

static size_t count_of(const http_request *r, const char *name)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n_headers; i++)
        n += strcasecmp(r->headers[i].name, name) == 0;
    return n;
}

/* Digits only: no sign, list, or space, which others might read otherwise. */
static bool parse_length(const char *text, uint64_t *out)
{
    uint64_t v = 0;
    if (*text == '\0')
        return false;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9' || v > (UINT64_MAX - 9) / 10)
            return false;
        v = v * 10 + (uint64_t)(*text - '0');
    }
    *out = v;
    return true;
}

/* Where a message ends must be the same to everyone who reads it: a proxy before us and ourselves. */
static int check_length(http_request *r, const char *version, const char **why)
{
    const char *coding = http_request_header(r, "Transfer-Encoding"), *length = http_request_header(r, "Content-Length");
    *why = NULL;
    if (count_of(r, "Content-Length") > 1 || count_of(r, "Transfer-Encoding") > 1)
        *why = "Content-Length or Transfer-Encoding is given more than once.";
    else if (coding != NULL && length != NULL)
        *why = "Both Content-Length and Transfer-Encoding are given.";
    else if (coding != NULL && strcasecmp(coding, "chunked") != 0)
        *why = "The only transfer coding accepted is chunked.";
    else if (coding != NULL && strcmp(version, "HTTP/1.1") != 0)
        *why = "Transfer codings need HTTP/1.1.";
    else if (length != NULL && !parse_length(length, &r->length))
        *why = "Content-Length is not a number.";
    else if (count_of(r, "Host") > 1)
        *why = "Host is given more than once.";
    if (*why != NULL)
        return 400;
    if (coding != NULL)
        r->length = UINT64_MAX;
    return 0;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "http://host/path?query" or "/path?query" -> "/path", decoded. NULL: malformed. */
static const char *decode_path(mem_arena *arena, const char *target)
{
    const char *scheme = strstr(target, "://");
    if (target[0] != '/' && target[0] != '*' && scheme != NULL) {
        target = strchr(scheme + 3, '/');
        if (target == NULL)
            target = "/";
    }
    size_t n = strcspn(target, "?#");
    char *out = mem_arena_alloc(arena, n + 1), *p = out;
    for (size_t i = 0; out != NULL && i < n; i++) {
        int c = (unsigned char)target[i];
        if (c == '%') {
            int high = i + 2 < n ? hex(target[i + 1]) : -1, low = i + 2 < n ? hex(target[i + 2]) : -1;
            if (high < 0 || low < 0)
                return NULL;
            c = high << 4 | low;
            i += 2;
        }
        if (c < 0x20 || c == 0x7f)
            return NULL;
        *p++ = (char)c;
    }
    return out;
}

static void name_request(http_request *r)
{
    const char *given = http_request_header(r, "X-Request-Id");
    size_t n = given != NULL ? strlen(given) : 0;
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-";
    if (n > 0 && n < HTTP_NAME && strspn(given, allowed) == n) {
        memcpy(r->name, given, n + 1);
        return;
    }
    uint64_t random[2] = {r->server->epoch, r->id};
    if (getrandom(random, sizeof(random), GRND_NONBLOCK) != sizeof(random))
        random[1] ^= http_now() << 20;
    snprintf(r->name, sizeof(r->name), "req-%016llx%016llx", (unsigned long long)random[0], (unsigned long long)random[1]);
}

int http_head_read(http_request *r, struct MHD_Connection *c, const char *method, const char *version, const char **why)
{
    const union MHD_ConnectionInfo *size = MHD_get_connection_info(c, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    r->close = true; /* until the head is known to be sound */
    name_request(r);
    if (size != NULL && size->header_size > r->server->o.max_head) {
        *why = "The request's headers are too large.";
        return 431;
    }
    r->method = mem_arena_strndup(r->arena, method, strlen(method));
    if (r->method == NULL || !is_token(method, strlen(method))) {
        r->method = "";
        *why = "The method is malformed.";
        return 400;
    }
    *why = collect_all(r, c, MHD_HEADER_KIND, &r->headers, &r->n_headers);
    if (*why == NULL)
        *why = collect_all(r, c, MHD_GET_ARGUMENT_KIND, &r->query, &r->n_query);
    if (*why != NULL)
        return 400;
    name_request(r);
    int refused = check_length(r, version, why);
    if (refused != 0)
        return refused;
    r->path = decode_path(r->arena, r->target);
    if (r->path == NULL) {
        r->path = "";
        *why = "The path is malformed.";
        return 400;
    }
    r->origin = http_request_header(r, "Origin");
    r->close = false;
    return 0;
}

/* "{id}" takes one segment, "{*}" the rest. */
static bool match(const char *pattern, const char *path, const char **param, size_t *param_len)
{
    *param = "";
    *param_len = 0;
    while (*pattern != '\0') {
        if (*pattern == '{') {
            bool rest = pattern[1] == '*';
            size_t n = rest ? strlen(path) : strcspn(path, "/");
            if (n == 0)
                return false;
            *param = path;
            *param_len = n;
            path += n;
            pattern += strcspn(pattern, "}");
            pattern += *pattern == '}';
        } else if (*pattern++ != *path++) {
            return false;
        }
    }
    return *path == '\0';
}

static bool serves(const http_route *route, const char *method)
{
    return strcmp(route->method, method) == 0 || (strcmp(route->method, "GET") == 0 && strcmp(method, "HEAD") == 0);
}

int http_route_find(http_request *r, const http_route **out, const char **allow)
{
    mem_str methods = {0};
    bool everything = strcmp(r->path, "*") == 0;
    *out = NULL;
    for (int i = 0; i < r->server->o.n_routes; i++) {
        const http_route *route = &r->server->o.routes[i];
        const char *param;
        size_t n;
        if (!match(route->path, r->path, &param, &n))
            continue;
        if (serves(route, r->method)) {
            r->param = mem_arena_strndup(r->arena, param, n);
            *out = route;
            mem_str_free(&methods);
            return r->param != NULL ? 0 : 503;
        }
        if (methods.len == 0)
            r->route = route; /* its path names the exchange in logs */
        mem_str_printf(&methods, "%s%s%s", methods.len > 0 ? ", " : "", route->method, strcmp(route->method, "GET") == 0 ? ", HEAD" : "");
    }
    bool known = methods.len > 0 || everything;
    mem_str_puts(&methods, everything ? "GET, HEAD, POST, OPTIONS" : ", OPTIONS");
    *allow = known && !methods.failed ? mem_arena_strndup(r->arena, methods.data, methods.len) : NULL;
    mem_str_free(&methods);
    return *allow != NULL ? 405 : 404;
}

static bool origin_allowed(const http_request *r, bool *any)
{
    *any = false;
    for (int i = 0; r->origin != NULL && i < r->server->o.n_cors_origins; i++) {
        const char *allowed = r->server->o.cors_origins[i];
        *any = strcmp(allowed, "*") == 0;
        if (*any || strcasecmp(allowed, r->origin) == 0)
            return true;
    }
    return false;
}

void http_cors_add(const http_request *r, struct MHD_Response *response)
{
    bool any;
    if (r->server->o.n_cors_origins == 0)
        return;
    MHD_add_response_header(response, "Vary", "Origin");
    if (!origin_allowed(r, &any))
        return;
    MHD_add_response_header(response, "Access-Control-Allow-Origin", any ? "*" : r->origin);
    MHD_add_response_header(response, "Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
}

void http_options_answer(http_request *r, const char *allow, http_answer *out, http_header headers[5])
{
    bool any;
    int n = 0;
    const char *asked = http_request_header(r, "Access-Control-Request-Headers");
    headers[n++] = (http_header){"Allow", allow};
    if (origin_allowed(r, &any)) {
        headers[n++] = (http_header){"Access-Control-Allow-Methods", allow};
        headers[n++] = (http_header){"Access-Control-Allow-Headers", asked != NULL ? asked : "Authorization, Content-Type, X-Request-Id"};
        headers[n++] = (http_header){"Access-Control-Max-Age", "600"};
    }
    *out = (http_answer){.status = 204, .headers = headers, .n_headers = n};
}
