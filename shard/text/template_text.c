/* shard/text/template_text.c - the text of values: Python's str() and repr(), json.dumps, HTML escapes. */
#include "shard/text/template_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void tbuf_put(tbuf *b, const char *p, size_t n)
{
    if (n > b->cap - b->len) {
        size_t cap = b->cap < 32 ? 32 : b->cap;
        while (cap - b->len < n) {
            if (cap > SIZE_MAX / 4)
                tmpl_fail(b->r, ST_LIMIT, "makes too long a string");
            cap *= 2;
        }
        char *wider = tmpl_alloc(b->r, cap);
        if (b->len > 0)
            memcpy(wider, b->p, b->len);
        b->p = wider;
        b->cap = cap;
    }
    if (n > 0)
        memcpy(b->p + b->len, p, n);
    b->len += n;
}

void tbuf_puts(tbuf *b, const char *text)
{
    tbuf_put(b, text, strlen(text));
}

void tbuf_putc(tbuf *b, char c)
{
    tbuf_put(b, &c, 1);
}

void tbuf_put_cp(tbuf *b, uint32_t cp)
{
    char bytes[4];
    tbuf_put(b, bytes, (size_t)tmpl_cp_encode(cp, bytes));
}

tv tbuf_take(tbuf *b)
{
    tmpl_charge(b->r, b->len);
    return tv_view_of(b->r, b->len == 0 ? "" : b->p, b->len);
}

/* The shortest digits that read back as v, laid out as Python's repr does. */
void tmpl_put_float(tbuf *b, double v)
{
    if (isnan(v) || isinf(v)) {
        tbuf_puts(b, isnan(v) ? "nan" : v > 0 ? "inf" : "-inf");
        return;
    }
    char text[40], digits[24];
    int precision = 1;
    do
        snprintf(text, sizeof(text), "%.*e", precision - 1, v);
    while (strtod(text, NULL) != v && ++precision <= 17);
    int n = 0, exponent = atoi(strchr(text, 'e') + 1);
    for (const char *p = text; *p != 'e'; p++) {
        if (*p >= '0' && *p <= '9')
            digits[n++] = *p;
    }
    if (signbit(v))
        tbuf_putc(b, '-');
    if (exponent < -4 || exponent >= 16) {
        tbuf_putc(b, digits[0]);
        if (n > 1) {
            tbuf_putc(b, '.');
            tbuf_put(b, digits + 1, (size_t)n - 1);
        }
        snprintf(text, sizeof(text), "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        tbuf_puts(b, text);
        return;
    }
    for (int i = exponent < 0 ? exponent : 0; i < n || i <= exponent + 1; i++) {
        if (i == exponent + 1)
            tbuf_putc(b, '.');
        tbuf_putc(b, i < 0 || i >= n ? '0' : digits[i]);
    }
}

static void put_int(tbuf *b, int64_t v)
{
    char text[24];
    snprintf(text, sizeof(text), "%" PRId64, v);
    tbuf_puts(b, text);
}

static void put_str_repr(tbuf *b, const tstr *s)
{
    const char *end = s->p + s->len;
    char quote = memchr(s->p, '\'', s->len) != NULL && memchr(s->p, '"', s->len) == NULL ? '"' : '\'';
    tbuf_putc(b, quote);
    for (const char *p = s->p; p < end;) {
        uint32_t c = tmpl_cp_next(&p, end);
        char text[16];
        if (c == (uint32_t)quote || c == '\\')
            snprintf(text, sizeof(text), "\\%c", (char)c);
        else if (c == '\n' || c == '\r' || c == '\t')
            snprintf(text, sizeof(text), "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (c != ' ' && !tmpl_cp_printable(c))
            snprintf(text, sizeof(text), c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
        else
            text[tmpl_cp_encode(c, text)] = '\0';
        tbuf_puts(b, text);
    }
    tbuf_putc(b, quote);
}

static void put_items(tbuf *b, const char *open, titer *it, const char *close)
{
    tv v;
    tbuf_puts(b, open);
    for (bool first = true; it->next(b->r, it, &v); first = false) {
        if (!first)
            tbuf_puts(b, ", ");
        tmpl_put_repr(b, v);
    }
    tbuf_puts(b, close);
}

static void put_dict(tbuf *b, const tdict *d)
{
    tbuf_putc(b, '{');
    for (size_t i = 0; i < d->n; i++) {
        if (i > 0)
            tbuf_puts(b, ", ");
        tmpl_put_repr(b, d->e[i].key);
        tbuf_puts(b, ": ");
        tmpl_put_repr(b, d->e[i].value);
    }
    tbuf_putc(b, '}');
}

static void put_range(tbuf *b, const trange *g)
{
    char text[96];
    if (g->step == 1)
        snprintf(text, sizeof(text), "range(%" PRId64 ", %" PRId64 ")", g->start, g->stop);
    else
        snprintf(text, sizeof(text), "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")", g->start, g->stop, g->step);
    tbuf_puts(b, text);
}

void tmpl_put_repr(tbuf *b, tv v)
{
    tmpl_charge(b->r, 0);
    tmpl_enter(b->r);
    switch (v.type) {
    case TV_MISSING:
    case TV_UNDEFINED:
        tbuf_puts(b, "Undefined");
        break;
    case TV_NONE:
        tbuf_puts(b, "None");
        break;
    case TV_BOOL:
        tbuf_puts(b, v.u.b ? "True" : "False");
        break;
    case TV_INT:
        put_int(b, v.u.i);
        break;
    case TV_FLOAT:
        tmpl_put_float(b, v.u.f);
        break;
    case TV_STR:
        if (v.markup)
            tbuf_puts(b, "Markup(");
        put_str_repr(b, v.u.s);
        if (v.markup)
            tbuf_putc(b, ')');
        break;
    case TV_LIST:
        put_items(b, "[", tv_iterate(b->r, v), "]");
        break;
    case TV_TUPLE:
        put_items(b, "(", tv_iterate(b->r, v), v.u.l->n == 1 ? ",)" : ")");
        break;
    case TV_DICT:
        put_dict(b, v.u.d);
        break;
    case TV_VIEW:
        tbuf_puts(b, tv_type_name(v));
        put_items(b, "([", tv_iterate(b->r, v), "])");
        break;
    case TV_RANGE:
        put_range(b, v.u.range);
        break;
    case TV_NAMESPACE:
        tbuf_puts(b, "<Namespace ");
        put_dict(b, v.u.d);
        tbuf_putc(b, '>');
        break;
    case TV_MACRO:
        tbuf_puts(b, "<Macro ");
        if (v.u.macro->name == NULL)
            tbuf_puts(b, "anonymous");
        else
            put_str_repr(b, v.u.macro->name);
        tbuf_putc(b, '>');
        break;
    case TV_LOOP: {
        char text[64];
        snprintf(text, sizeof(text), "<LoopContext %" PRId64 "/%" PRId64 ">", v.u.loop->index0 + 1, tv_length(b->r, v));
        tbuf_puts(b, text);
        break;
    }
    default: /* Python would print an address */
        tbuf_putc(b, '<');
        tbuf_puts(b, tv_type_name(v));
        tbuf_puts(b, " object>");
    }
    tmpl_leave(b->r);
}

void tmpl_put_str(tbuf *b, tv v)
{
    if (v.type == TV_STR)
        tbuf_put(b, v.u.s->p, v.u.s->len);
    else if (v.type != TV_UNDEFINED && v.type != TV_MISSING)
        tmpl_put_repr(b, v);
}

tv tmpl_str(tmpl_run *r, tv v)
{
    if (v.type == TV_STR)
        return v;
    tbuf b = {.r = r};
    tmpl_put_str(&b, v);
    return tbuf_take(&b);
}

tv tmpl_escape(tmpl_run *r, tv v)
{
    if (v.type == TV_STR && v.markup)
        return v;
    const tv text = tmpl_str(r, v);
    tbuf b = {.r = r};
    for (size_t i = 0; i < text.u.s->len; i++) {
        switch (text.u.s->p[i]) {
        case '&':
            tbuf_puts(&b, "&amp;");
            break;
        case '<':
            tbuf_puts(&b, "&lt;");
            break;
        case '>':
            tbuf_puts(&b, "&gt;");
            break;
        case '\'':
            tbuf_puts(&b, "&#39;");
            break;
        case '"':
            tbuf_puts(&b, "&#34;");
            break;
        default:
            tbuf_putc(&b, text.u.s->p[i]);
        }
    }
    tv out = tbuf_take(&b);
    out.markup = true;
    return out;
}

/* ---- json.dumps ---- */

typedef struct jsoner {
    tbuf b;
    bool ascii, sort, pretty;
    const tstr *indent, *item, *colon;
} jsoner;

static void dump_escape(jsoner *j, uint32_t c)
{
    char text[16];
    if (c >= 0x10000)
        snprintf(text, sizeof(text), "\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10), 0xdc00 + (c & 0x3ff));
    else
        snprintf(text, sizeof(text), "\\u%04x", c);
    tbuf_puts(&j->b, text);
}

static void dump_string(jsoner *j, const tstr *s)
{
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    const char *end = s->p + s->len;
    tbuf_putc(&j->b, '"');
    for (const char *p = s->p; p < end;) {
        const char *at = p;
        uint32_t c = tmpl_cp_next(&p, end);
        const char *known = c != 0 && c < 128 ? strchr(from, (int)c) : NULL;
        if (known != NULL) {
            tbuf_putc(&j->b, '\\');
            tbuf_putc(&j->b, to[known - from]);
        } else if (c < 32 || (c > 126 && j->ascii)) {
            dump_escape(j, c);
        } else {
            tbuf_put(&j->b, at, (size_t)(p - at));
        }
    }
    tbuf_putc(&j->b, '"');
}

static void dump_float(jsoner *j, double v)
{
    if (isnan(v))
        tbuf_puts(&j->b, "NaN");
    else if (isinf(v))
        tbuf_puts(&j->b, v > 0 ? "Infinity" : "-Infinity");
    else
        tmpl_put_float(&j->b, v);
}

static void dump_newline(jsoner *j, int level)
{
    if (!j->pretty)
        return;
    tbuf_putc(&j->b, '\n');
    for (int i = 0; i < level; i++)
        tbuf_put(&j->b, j->indent->p, j->indent->len);
}

static void dump_value(jsoner *j, tv v, int level);

static void dump_key(jsoner *j, tv key)
{
    tbuf b = {.r = j->b.r};
    switch (key.type) {
    case TV_STR:
        dump_string(j, key.u.s);
        return;
    case TV_BOOL:
        tbuf_puts(&j->b, key.u.b ? "\"true\"" : "\"false\"");
        return;
    case TV_NONE:
        tbuf_puts(&j->b, "\"null\"");
        return;
    case TV_INT:
    case TV_FLOAT:
        tmpl_put_repr(&b, key);
        dump_string(j, tbuf_take(&b).u.s);
        return;
    default:
        tmpl_fail(j->b.r, ST_INVALID, "keys must be str, int, float, bool or None, not %s", tv_type_name(key));
    }
}

static tv sorted_keys(tmpl_run *r, const tdict *d)
{
    tv keys = tv_list_of(r, TV_LIST, 0);
    for (size_t i = 0; i < d->n; i++)
        tv_list_push(r, keys, tv_pair(r, d->e[i].key, tv_int((int64_t)i)));
    const tmpl_filter *sort = tmpl_filter_find(tv_text(r, "sort").u.s);
    tv names[] = {tv_text(r, "case_sensitive")}, values[] = {tv_bool(true)};
    return sort->fn(r, keys, &(targs){.kw_name = names, .kw = values, .n_kw = 1});
}

static void dump_dict(jsoner *j, const tdict *d, int level)
{
    if (d->n == 0) {
        tbuf_puts(&j->b, "{}");
        return;
    }
    tv order = j->sort ? sorted_keys(j->b.r, d) : tv_none();
    tbuf_putc(&j->b, '{');
    for (size_t i = 0; i < d->n; i++) {
        const tentry *e = &d->e[j->sort ? (size_t)order.u.l->v[i].u.l->v[1].u.i : i];
        if (i > 0)
            tbuf_put(&j->b, j->item->p, j->item->len);
        dump_newline(j, level + 1);
        dump_key(j, e->key);
        tbuf_put(&j->b, j->colon->p, j->colon->len);
        dump_value(j, e->value, level + 1);
    }
    dump_newline(j, level);
    tbuf_putc(&j->b, '}');
}

static void dump_list(jsoner *j, const tlist *l, int level)
{
    if (l->n == 0) {
        tbuf_puts(&j->b, "[]");
        return;
    }
    tbuf_putc(&j->b, '[');
    for (size_t i = 0; i < l->n; i++) {
        if (i > 0)
            tbuf_put(&j->b, j->item->p, j->item->len);
        dump_newline(j, level + 1);
        dump_value(j, l->v[i], level + 1);
    }
    dump_newline(j, level);
    tbuf_putc(&j->b, ']');
}

static void dump_value(jsoner *j, tv v, int level)
{
    tmpl_charge(j->b.r, 0);
    tmpl_enter(j->b.r);
    switch (v.type) {
    case TV_NONE:
        tbuf_puts(&j->b, "null");
        break;
    case TV_BOOL:
        tbuf_puts(&j->b, v.u.b ? "true" : "false");
        break;
    case TV_INT:
        put_int(&j->b, v.u.i);
        break;
    case TV_FLOAT:
        dump_float(j, v.u.f);
        break;
    case TV_STR:
        dump_string(j, v.u.s);
        break;
    case TV_LIST:
    case TV_TUPLE:
        dump_list(j, v.u.l, level);
        break;
    case TV_DICT:
        dump_dict(j, v.u.d, level);
        break;
    default:
        tmpl_fail(j->b.r, ST_INVALID, "Object of type %s is not JSON serializable", tv_type_name(v));
    }
    tmpl_leave(j->b.r);
}

tv tmpl_json(tmpl_run *r, tv v, bool ascii, tv indent, tv separators, bool sort_keys)
{
    jsoner j = {.b = {.r = r}, .ascii = ascii, .sort = sort_keys, .pretty = indent.type != TV_NONE};
    if (indent.type == TV_STR) {
        j.indent = indent.u.s;
    } else if (j.pretty) {
        int64_t n = tv_to_int(r, indent, "indent");
        tbuf blanks = {.r = r};
        if (n > 4096)
            tmpl_fail(r, ST_LIMIT, "indents by more than 4096");
        for (int64_t i = 0; i < n; i++)
            tbuf_putc(&blanks, ' ');
        j.indent = tbuf_take(&blanks).u.s;
    }
    if (separators.type != TV_NONE) {
        tv pair = tv_to_list(r, separators);
        if (pair.u.l->n != 2)
            tmpl_fail(r, ST_INVALID, "separators must be two strings");
        j.item = tv_need_str(r, pair.u.l->v[0], "a separator");
        j.colon = tv_need_str(r, pair.u.l->v[1], "a separator");
    } else {
        j.item = tv_text(r, j.pretty ? "," : ", ").u.s;
        j.colon = tv_text(r, ": ").u.s;
    }
    dump_value(&j, v, 0);
    return tbuf_take(&j.b);
}
