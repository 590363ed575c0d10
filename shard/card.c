#include "shard/card.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { MAX_DEPTH = 24, MAX_LINES = 20000 };

typedef struct line {
    const char *text; /* after the indentation */
    size_t len;
    int indent;
} line;

typedef struct card {
    line *lines;
    int n, at;
} card;

static json_t *parse_block(card *c, int indent, int depth);

static bool is_list_item(const line *l)
{
    return l->len >= 1 && l->text[0] == '-' && (l->len == 1 || l->text[1] == ' ');
}

/* ---- scalars ---- */

static const char *skip_blanks(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t'))
        p++;
    return p;
}

/* A quoted string starting at *p; *p moves past it.  An unfinished one ends with the line. */
static json_t *quoted(const char **p, const char *end)
{
    char quote = *(*p)++;
    mem_str out = {.limit = 1 << 20};
    for (; *p < end; (*p)++) {
        if (**p == quote && quote == '\'' && *p + 1 < end && (*p)[1] == '\'')
            (*p)++;
        else if (**p == quote)
            break;
        if (**p == '\\' && quote == '"' && *p + 1 < end) {
            (*p)++;
            mem_str_putc(&out, **p == 'n' ? '\n' : **p == 't' ? '\t' : **p);
        } else {
            mem_str_putc(&out, **p);
        }
    }
    if (*p < end)
        (*p)++;
    json_t *v = out.failed ? NULL : json_stringn(out.data == NULL ? "" : out.data, out.len);
    mem_str_free(&out);
    return v == NULL ? json_null() : v;
}

static bool same_word(const char *p, size_t n, const char *word)
{
    return n == strlen(word) && strncasecmp(p, word, n) == 0;
}

static json_t *plain(const char *p, size_t n)
{
    char number[64], *stop;
    while (n > 0 && isspace((unsigned char)p[n - 1]))
        n--;
    if (n == 0 || same_word(p, n, "null") || same_word(p, n, "~"))
        return json_null();
    if (same_word(p, n, "true") || same_word(p, n, "false"))
        return json_boolean(n == 4);
    if (n < sizeof(number) && (isdigit((unsigned char)p[0]) || ((p[0] == '-' || p[0] == '+') && n > 1)) && memchr(p, 'x', n) == NULL) {
        memcpy(number, p, n);
        number[n] = '\0';
        long long whole = strtoll(number, &stop, 10);
        if (*stop == '\0' && n < 19)
            return json_integer(whole);
        double real = strtod(number, &stop);
        json_t *v = *stop == '\0' ? json_real(real) : NULL; /* NULL for infinities and NaN */
        if (v != NULL)
            return v;
    }
    json_t *v = json_stringn(p, n);
    return v == NULL ? json_null() : v; /* not UTF-8 */
}

static json_t *flow(const char **p, const char *end, int depth);

static json_t *flow_list(const char **p, const char *end, int depth)
{
    json_t *out = json_array();
    for ((*p)++; (*p = skip_blanks(*p, end)) < end && **p != ']';) {
        json_array_append_new(out, flow(p, end, depth + 1));
        *p = skip_blanks(*p, end);
        if (*p < end && **p == ',')
            (*p)++;
        else if (*p < end && **p != ']')
            (*p)++; /* not understood: go on */
    }
    *p += *p < end;
    return out;
}

static json_t *flow_object(const char **p, const char *end, int depth)
{
    json_t *out = json_object();
    for ((*p)++; (*p = skip_blanks(*p, end)) < end && **p != '}';) {
        const char *key = *p;
        while (*p < end && **p != ':' && **p != ',' && **p != '}')
            (*p)++;
        size_t n = (size_t)(*p - key);
        if (*p < end && **p == ':') {
            (*p)++;
            *p = skip_blanks(*p, end);
            json_object_setn_new(out, key, n, flow(p, end, depth + 1));
            *p = skip_blanks(*p, end);
        }
        if (*p < end && **p != '}')
            (*p)++;
    }
    *p += *p < end;
    return out;
}

static json_t *flow(const char **p, const char *end, int depth)
{
    *p = skip_blanks(*p, end);
    if (depth > MAX_DEPTH || *p >= end) {
        *p = end;
        return json_null();
    }
    if (**p == '[')
        return flow_list(p, end, depth);
    if (**p == '{')
        return flow_object(p, end, depth);
    if (**p == '"' || **p == '\'')
        return quoted(p, end);
    const char *start = *p;
    while (*p < end && strchr(",]}", **p) == NULL)
        (*p)++;
    return plain(start, (size_t)(*p - start));
}

/* A value on one line: flow, quoted or plain up to a comment. */
static json_t *scalar(const char *p, size_t n, int depth)
{
    const char *end = p + n;
    if (n > 0 && (*p == '[' || *p == '{'))
        return flow(&p, end, depth);
    if (n > 0 && (*p == '"' || *p == '\''))
        return quoted(&p, end);
    for (size_t i = 1; i < n; i++) {
        if (p[i] == '#' && (p[i - 1] == ' ' || p[i - 1] == '\t'))
            return plain(p, i);
    }
    return plain(p, n);
}

/* ---- blocks ---- */

/* "| " or ">": the deeper lines that follow, joined by newlines or blanks. */
static json_t *block_scalar(card *c, int indent, char style)
{
    mem_str out = {.limit = 1 << 20};
    while (c->at < c->n && (c->lines[c->at].indent > indent || c->lines[c->at].len == 0)) {
        if (out.len > 0)
            mem_str_putc(&out, style == '|' ? '\n' : ' ');
        mem_str_append(&out, c->lines[c->at].text, c->lines[c->at].len);
        c->at++;
    }
    json_t *v = out.failed ? NULL : json_stringn(out.data == NULL ? "" : out.data, out.len);
    mem_str_free(&out);
    return v == NULL ? json_null() : v;
}

/* The value after "key:" or "-" whose own text is p[0..n). */
static json_t *value(card *c, const char *p, size_t n, int indent, int depth)
{
    const char *end = p + n;
    p = skip_blanks(p, end);
    n = (size_t)(end - p);
    if (n > 0 && (*p == '|' || *p == '>') && n <= 3)
        return block_scalar(c, indent, *p);
    if (n > 0 && *p != '#')
        return scalar(p, n, depth);
    while (c->at < c->n && c->lines[c->at].len == 0)
        c->at++;
    if (c->at >= c->n)
        return json_null();
    const line *next = &c->lines[c->at];
    if (next->indent > indent || (next->indent == indent && is_list_item(next))) /* a list may stand at its key's own indentation */
        return parse_block(c, next->indent, depth + 1);
    return json_null();
}

/* The colon that ends a plain or quoted key, or NULL. */
static const char *key_end(const line *l, const char **key, size_t *key_len)
{
    const char *p = l->text, *end = p + l->len;
    if (l->len > 0 && (*p == '"' || *p == '\'')) {
        const char *close = memchr(p + 1, *p, l->len - 1);
        if (close == NULL || close + 1 >= end || close[1] != ':')
            return NULL;
        *key = p + 1;
        *key_len = (size_t)(close - p - 1);
        return close + 1;
    }
    for (; p < end; p++) {
        if (*p == ':' && (p + 1 == end || p[1] == ' ')) {
            *key = l->text;
            *key_len = (size_t)(p - l->text);
            return p;
        }
    }
    return NULL;
}

static json_t *parse_list(card *c, int indent, int depth)
{
    json_t *out = json_array();
    while (c->at < c->n && c->lines[c->at].indent == indent && is_list_item(&c->lines[c->at])) {
        line *l = &c->lines[c->at];
        const char *key, *p = l->len > 1 ? skip_blanks(l->text + 1, l->text + l->len) : l->text + l->len;
        size_t key_len;
        line rest = {.text = p, .len = (size_t)(l->text + l->len - p), .indent = indent + (int)(p - l->text)};
        if (rest.len > 0 && *p != '[' && *p != '{' && (is_list_item(&rest) || key_end(&rest, &key, &key_len) != NULL)) {
            *l = rest; /* "- key: value": a mapping whose first line stands behind the dash */
            json_array_append_new(out, depth < MAX_DEPTH ? parse_block(c, rest.indent, depth + 1) : json_null());
        } else {
            c->at++;
            json_array_append_new(out, value(c, rest.text, rest.len, indent, depth));
        }
    }
    return out;
}

static json_t *parse_mapping(card *c, int indent, int depth)
{
    json_t *out = json_object();
    while (c->at < c->n) {
        const line *l = &c->lines[c->at];
        const char *key, *colon;
        size_t key_len;
        if (l->len == 0 || l->text[0] == '#') {
            c->at++;
            continue;
        }
        if (l->indent < indent || (l->indent == indent && is_list_item(l)))
            break;
        c->at++;
        colon = key_end(l, &key, &key_len);
        if (l->indent > indent || colon == NULL)
            continue; /* not understood */
        json_t *v = value(c, colon + 1, (size_t)(l->text + l->len - colon - 1), indent, depth);
        json_object_setn_new(out, key, key_len, v);
    }
    return out;
}

static json_t *parse_block(card *c, int indent, int depth)
{
    if (depth > MAX_DEPTH) {
        while (c->at < c->n && c->lines[c->at].indent >= indent)
            c->at++;
        return json_null();
    }
    return is_list_item(&c->lines[c->at]) ? parse_list(c, indent, depth) : parse_mapping(c, indent, depth);
}

/* The lines between the two "---"; false where there are none. */
static bool split_lines(const char *text, size_t len, card *c)
{
    const char *p = text, *end = text + len;
    if (len > 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0)
        p += 3;
    for (bool first = true; p < end && c->n < MAX_LINES; first = false) {
        const char *nl = memchr(p, '\n', (size_t)(end - p)), *stop = nl == NULL ? end : nl;
        size_t n = (size_t)(stop - p);
        while (n > 0 && isspace((unsigned char)p[n - 1]))
            n--;
        bool fence = n == 3 && memcmp(p, "---", 3) == 0;
        if (first != fence && first)
            return false;
        if (!first && fence)
            return true;
        if (!first) {
            size_t indent = 0;
            while (indent < n && p[indent] == ' ')
                indent++;
            c->lines[c->n++] = (line){.text = p + indent, .len = n - indent, .indent = (int)indent};
        }
        p = nl == NULL ? end : nl + 1;
    }
    return false;
}

json_t *shard_card_parse(const char *text, size_t len)
{
    card c = {.lines = calloc(MAX_LINES, sizeof(line))};
    json_t *out = json_object();
    if (c.lines == NULL || out == NULL) {
        free(c.lines);
        json_decref(out);
        return NULL;
    }
    if (split_lines(text, len, &c) && c.n > 0) {
        json_t *v = parse_mapping(&c, 0, 0);
        json_decref(out);
        out = v;
    }
    free(c.lines);
    return out;
}
