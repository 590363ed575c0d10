#include "coordinator/gateway/api_python.h"

#include <ctype.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64 };

typedef struct reader {
    const char *at, *end;
    int depth;
} reader;

static json_t *value(reader *r);

static void skip_blanks(reader *r)
{
    while (r->at < r->end && isspace((unsigned char)*r->at))
        r->at++;
}

static bool take(reader *r, char c)
{
    skip_blanks(r);
    if (r->at == r->end || *r->at != c)
        return false;
    r->at++;
    return true;
}

static size_t name_length(const reader *r)
{
    const char *p = r->at;
    if (p < r->end && (isalpha((unsigned char)*p) || *p == '_'))
        while (p < r->end && (isalnum((unsigned char)*p) || *p == '_' || *p == '.' || *p == '-'))
            p++;
    return (size_t)(p - r->at);
}

static void push_utf8(mem_str *out, uint32_t c)
{
    if (c < 0x80) {
        mem_str_putc(out, (char)c);
    } else if (c < 0x800) {
        mem_str_putc(out, (char)(0xc0 | c >> 6));
        mem_str_putc(out, (char)(0x80 | (c & 0x3f)));
    } else {
        if (c >= 0x10000) {
            mem_str_putc(out, (char)(0xf0 | c >> 18));
            mem_str_putc(out, (char)(0x80 | (c >> 12 & 0x3f)));
        } else {
            mem_str_putc(out, (char)(0xe0 | c >> 12));
        }
        mem_str_putc(out, (char)(0x80 | (c >> 6 & 0x3f)));
        mem_str_putc(out, (char)(0x80 | (c & 0x3f)));
    }
}

static bool hex(reader *r, int digits, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < digits; i++, r->at++) {
        if (r->at == r->end || !isxdigit((unsigned char)*r->at))
            return false;
        char c = (char)tolower((unsigned char)*r->at);
        *out = *out << 4 | (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return *out > 0 && *out < 0x110000 && (*out < 0xd800 || *out >= 0xe000);
}

/* After a backslash. */
static bool escape(reader *r, mem_str *out)
{
    static const char letters[] = "nrtbfav0\\'\"", bytes[] = "\n\r\t\b\f\a\v\0\\'\"";
    uint32_t c;
    char e = *r->at++;
    if (e == 'x' || e == 'u' || e == 'U') {
        if (!hex(r, e == 'x' ? 2 : e == 'u' ? 4 : 8, &c))
            return false;
        push_utf8(out, c);
        return true;
    }
    const char *known = e == '\0' ? NULL : strchr(letters, e);
    if (e == '\n')
        return true; /* a line that goes on */
    if (known == NULL)
        mem_str_putc(out, '\\'); /* as Python keeps it */
    mem_str_putc(out, known == NULL ? e : bytes[known - letters]);
    return known == NULL || e != '0';
}

static json_t *string(reader *r)
{
    char quote = *r->at++;
    mem_str s = {0};
    bool ok = true;
    while (ok && r->at < r->end && *r->at != quote) {
        char c = *r->at++;
        if (c != '\\')
            mem_str_putc(&s, c);
        else
            ok = r->at < r->end && escape(r, &s);
    }
    ok = ok && r->at < r->end && !s.failed;
    r->at += ok;
    json_t *v = ok ? json_stringn(s.len == 0 ? "" : s.data, s.len) : NULL;
    mem_str_free(&s);
    return v;
}

static json_t *number(reader *r)
{
    const char *p = r->at;
    bool real = false;
    while (p < r->end && (isdigit((unsigned char)*p) || strchr("+-.eE_", *p) != NULL) && *p != '\0') {
        real = real || *p == '.' || *p == 'e' || *p == 'E';
        p++;
    }
    char text[64], *end;
    size_t n = 0;
    for (const char *q = r->at; q < p && n + 1 < sizeof(text); q++) {
        if (*q != '_')
            text[n++] = *q;
    }
    text[n] = '\0';
    r->at = p;
    if (real) {
        double d = strtod(text, &end);
        return n > 0 && *end == '\0' ? json_real(d) : NULL; /* NULL too for what is not finite */
    }
    long long v = strtoll(text, &end, 10);
    return n > 0 && *end == '\0' ? json_integer(v) : NULL;
}

static json_t *word(reader *r)
{
    static const struct { const char *text; int what; } words[] = {{"True", 1}, {"true", 1}, {"False", 0}, {"false", 0}, {"None", -1}, {"null", -1}};
    size_t n = name_length(r);
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strlen(words[i].text) == n && memcmp(words[i].text, r->at, n) == 0) {
            r->at += n;
            return words[i].what < 0 ? json_null() : json_boolean(words[i].what);
        }
    }
    return NULL;
}

/* [a, b] or (a, b), with a comma at the end if you like. */
static json_t *list(reader *r, char close)
{
    json_t *out = json_array();
    r->at++;
    while (out != NULL && !take(r, close)) {
        json_t *v = value(r);
        bool more = v != NULL && json_array_append_new(out, v) == 0 && (take(r, ',') || (r->at < r->end && *r->at == close));
        if (!more) {
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

static json_t *dictionary(reader *r)
{
    json_t *out = json_object();
    r->at++;
    while (out != NULL && !take(r, '}')) {
        skip_blanks(r);
        json_t *key = r->at < r->end && (*r->at == '"' || *r->at == '\'') ? string(r) : NULL, *v = NULL;
        bool more = key != NULL && take(r, ':') && (v = value(r)) != NULL;
        more = more && json_object_setn_new(out, json_string_value(key), json_string_length(key), json_incref(v)) == 0;
        more = more && (take(r, ',') || (r->at < r->end && *r->at == '}'));
        json_decref(key);
        json_decref(v);
        if (!more) {
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

static json_t *value(reader *r)
{
    json_t *v = NULL;
    skip_blanks(r);
    if (r->at == r->end || r->depth == MAX_DEPTH)
        return NULL;
    r->depth++;
    char c = *r->at;
    if (c == '"' || c == '\'')
        v = string(r);
    else if (c == '[' || c == '(')
        v = list(r, c == '[' ? ']' : ')');
    else if (c == '{')
        v = dictionary(r);
    else if (isdigit((unsigned char)c) || c == '-' || c == '+' || c == '.')
        v = number(r);
    else
        v = word(r);
    r->depth--;
    return v;
}

static json_t *keywords(reader *r)
{
    json_t *out = json_object();
    while (out != NULL && !take(r, ')')) {
        skip_blanks(r);
        size_t n = name_length(r);
        const char *key = r->at;
        r->at += n;
        json_t *v = n > 0 && take(r, '=') ? value(r) : NULL;
        bool more = v != NULL && json_object_setn_new(out, key, n, v) == 0 && (take(r, ',') || (r->at < r->end && *r->at == ')'));
        if (!more) {
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

json_t *api_python_value(const char *text, size_t len)
{
    reader r = {text, text + len, 0};
    json_t *v = value(&r);
    skip_blanks(&r);
    if (r.at == r.end)
        return v;
    json_decref(v);
    return NULL;
}

status api_python_call(const char *text, size_t len, mem_str *name, mem_str *arguments)
{
    reader r = {text, text + len, 0};
    skip_blanks(&r);
    size_t n = name_length(&r);
    mem_str_append(name, r.at, n);
    r.at += n;
    json_t *o = n > 0 && take(&r, '(') ? keywords(&r) : NULL;
    skip_blanks(&r);
    char *json = o != NULL && r.at == r.end ? json_dumps(o, 0) : NULL;
    if (json != NULL)
        mem_str_puts(arguments, json);
    free(json);
    json_decref(o);
    return json == NULL || name->failed || arguments->failed ? ST_NOT_FOUND : ST_OK;
}
