#include "shard/text/tokenizer_scan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/text/tokenizer_text.h"

enum { MAX_DEPTH = 200 };

tok_scan tok_scan_start(const char *where, const char *whole, tok_span part)
{
    return (tok_scan){.where = where, .begin = whole, .at = part.begin, .end = part.begin + part.len};
}

status tok_scan_bad(const tok_scan *s, const char *what)
{
    size_t line = 1;
    for (const char *p = s->begin; p < s->at && p < s->end; p++)
        line += *p == '\n';
    return FAIL(ST_FORMAT, "%s: %s (line %zu, byte %zu)", s->where, what, line, (size_t)(s->at - s->begin));
}

char tok_scan_peek(tok_scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\r' || *s->at == '\t'))
        s->at++;
    return s->at < s->end ? *s->at : '\0';
}

status tok_scan_expect(tok_scan *s, char c)
{
    if (tok_scan_peek(s) != c) {
        char what[40];
        snprintf(what, sizeof(what), "not valid JSON: '%c' expected", c);
        return tok_scan_bad(s, what);
    }
    s->at++;
    return ST_OK;
}

status tok_scan_more(tok_scan *s, char close, bool first, bool *more)
{
    if (tok_scan_peek(s) == close) {
        s->at++;
        *more = false;
        return ST_OK;
    }
    *more = true;
    return first ? ST_OK : tok_scan_expect(s, ',');
}

static bool read_hex4(tok_scan *s, uint32_t *out)
{
    if (s->end - s->at < 4)
        return false;
    *out = 0;
    for (int i = 0; i < 4; i++) {
        char c = *s->at++;
        uint32_t d = c >= '0' && c <= '9' ? (uint32_t)(c - '0') : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                                                              : c >= 'A' && c <= 'F'   ? (uint32_t)(c - 'A' + 10)
                                                                                       : 16;
        if (d == 16)
            return false;
        *out = *out << 4 | d;
    }
    return true;
}

/* After the backslash. */
static status escape(tok_scan *s, mem_str *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (s->at == s->end)
        return tok_scan_bad(s, "not valid JSON: a string is not closed");
    char c = *s->at++;
    const char *hit = c == '\0' ? NULL : strchr(from, c);
    if (hit != NULL) {
        mem_str_putc(out, to[hit - from]);
        return ST_OK;
    }
    uint32_t high, low;
    if (c != 'u' || !read_hex4(s, &high))
        return tok_scan_bad(s, "not valid JSON: unknown escape in a string");
    if (high >= 0xd800 && high <= 0xdfff) {
        bool pair = high < 0xdc00 && s->end - s->at >= 6 && s->at[0] == '\\' && s->at[1] == 'u';
        s->at += pair ? 2 : 0;
        if (!pair || !read_hex4(s, &low) || low < 0xdc00 || low > 0xdfff)
            return tok_scan_bad(s, "not valid JSON: half a surrogate pair");
        high = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
    }
    tok_utf8_push(out, high);
    return ST_OK;
}

status tok_scan_string(tok_scan *s, mem_str *out)
{
    TRY(tok_scan_expect(s, '"'));
    mem_str_clear(out);
    for (;;) {
        const char *from = s->at;
        while (s->at < s->end && *s->at != '"' && *s->at != '\\' && (unsigned char)*s->at >= 0x20)
            s->at++;
        mem_str_append(out, from, (size_t)(s->at - from));
        if (s->at == s->end || (unsigned char)*s->at < 0x20)
            return tok_scan_bad(s, "not valid JSON: a string is not closed");
        if (*s->at++ == '"')
            break;
        TRY(escape(s, out));
    }
    if (out->failed)
        return FAIL(ST_NO_MEMORY, "%s: no memory for a string", s->where);
    if (!tok_utf8_valid(out->data, out->len))
        return tok_scan_bad(s, "a string is not valid UTF-8");
    return ST_OK;
}

status tok_scan_number(tok_scan *s, double *out)
{
    char text[64], *stop;
    size_t n = 0;
    tok_scan_peek(s);
    while (s->at < s->end && n + 1 < sizeof(text) && *s->at != '\0' && strchr("+-.0123456789eE", *s->at) != NULL)
        text[n++] = *s->at++;
    text[n] = '\0';
    *out = strtod(text, &stop);
    if (n == 0 || *stop != '\0' || text[0] == '+')
        return tok_scan_bad(s, "a number is expected");
    return ST_OK;
}

static status skip_string(tok_scan *s)
{
    s->at++;
    for (; s->at < s->end; s->at++) {
        if (*s->at == '\\')
            s->at++;
        else if (*s->at == '"') {
            s->at++;
            return ST_OK;
        }
    }
    s->at = s->end;
    return tok_scan_bad(s, "not valid JSON: a string is not closed");
}

status tok_scan_skip(tok_scan *s, tok_span *out)
{
    int depth = 0;
    tok_scan_peek(s);
    const char *from = s->at;
    do {
        char c = tok_scan_peek(s);
        if (c == '\0')
            return tok_scan_bad(s, "not valid JSON: it ends too early");
        if (c == '"') {
            TRY(skip_string(s));
        } else if (c == '{' || c == '[') {
            if (++depth > MAX_DEPTH)
                return tok_scan_bad(s, "nested too deeply");
            s->at++;
        } else if (c == '}' || c == ']') {
            if (depth-- == 0)
                return tok_scan_bad(s, "not valid JSON: a value is missing");
            s->at++;
        } else if (c == ',' || c == ':') {
            if (depth == 0)
                return tok_scan_bad(s, "not valid JSON: a value is missing");
            s->at++;
        } else {
            while (s->at < s->end && *s->at != '\0' && strchr(",:[]{}\" \n\r\t", *s->at) == NULL)
                s->at++;
            if (s->at < s->end && *s->at == '\0')
                return tok_scan_bad(s, "not valid JSON: a NUL byte");
        }
    } while (depth > 0);
    *out = (tok_span){.begin = from, .len = (size_t)(s->at - from)};
    return ST_OK;
}

status tok_scan_members(tok_scan *s, const char *const *names, tok_span *spans, size_t n)
{
    mem_str key = {0};
    status st = tok_scan_expect(s, '{');
    bool more = false;
    for (size_t i = 0; i < n; i++)
        spans[i] = (tok_span){0};
    for (bool first = true; st == ST_OK; first = false) {
        tok_span value;
        TRY_GOTO(tok_scan_more(s, '}', first, &more), done);
        if (!more)
            break;
        TRY_GOTO(tok_scan_string(s, &key), done);
        TRY_GOTO(tok_scan_expect(s, ':'), done);
        TRY_GOTO(tok_scan_skip(s, &value), done);
        for (size_t i = 0; i < n; i++) {
            if (key.len == strlen(names[i]) && memcmp(key.data, names[i], key.len) == 0)
                spans[i] = value.len == 4 && memcmp(value.begin, "null", 4) == 0 ? (tok_span){0} : value;
        }
    }
done:
    mem_str_free(&key);
    return st;
}
