/* shard/text/template_filters.c - filters on text and numbers. */
#include "shard/text/template_internal.h"

#include <math.h>
#include <stdio.h>

#define BIND(func, n_required, ...)                                                     \
    static const char *const names_[] = {__VA_ARGS__};                                  \
    tv v[ARRAY_LEN(names_)];                                                            \
    tmpl_bind(r, func, a, names_, (int)ARRAY_LEN(names_), n_required, v)

static void no_args(tmpl_run *r, const char *func, const targs *a)
{
    tmpl_positional(r, func, a, 0, 0);
}

static tv given(tv v, tv dflt)
{
    return v.type == TV_MISSING ? dflt : v;
}

static tv marked(tv v, bool markup)
{
    v.markup = markup;
    return v;
}

static tv f_string(tmpl_run *r, tv x, const targs *a)
{
    no_args(r, "string", a);
    return tmpl_str(r, x);
}
static tv f_safe(tmpl_run *r, tv x, const targs *a)
{
    no_args(r, "safe", a);
    return marked(tmpl_str(r, x), true);
}
static tv f_escape(tmpl_run *r, tv x, const targs *a)
{
    no_args(r, "escape", a);
    return tmpl_escape(r, x);
}
static tv f_forceescape(tmpl_run *r, tv x, const targs *a)
{
    no_args(r, "forceescape", a);
    return tmpl_escape(r, marked(tmpl_str(r, x), false));
}
static tv f_upper(tmpl_run *r, tv x, const targs *a)
{
    no_args(r, "upper", a);
    tv s = tmpl_str(r, x);
    return marked(tmpl_str_case(r, s.u.s, CASE_UPPER), s.markup);
}
static tv f_lower(tmpl_run *r, tv x, const targs *a)
{
    no_args(r, "lower", a);
    tv s = tmpl_str(r, x);
    return marked(tmpl_str_case(r, s.u.s, CASE_LOWER), s.markup);
}
static tv f_capitalize(tmpl_run *r, tv x, const targs *a)
{
    no_args(r, "capitalize", a);
    tv s = tmpl_str(r, x);
    return marked(tmpl_str_capitalize(r, s.u.s), s.markup);
}

/* Words begin after blanks, "-" and opening brackets. */
static tv f_title(tmpl_run *r, tv x, const targs *a)
{
    no_args(r, "title", a);
    const tv s = tmpl_str(r, x);
    tbuf b = {.r = r};
    const char *end = s.u.s->p + s.u.s->len;
    for (const char *p = s.u.s->p; p < end;) {
        const char *word = p, *rest;
        uint32_t c = tmpl_cp_next(&p, end);
        if (tmpl_cp_space(c) || (c < 128 && c != 0 && strchr("-({[<", (int)c) != NULL)) {
            tbuf_put(&b, word, (size_t)(p - word));
            continue;
        }
        tmpl_put_cased(&b, c, CASE_UPPER);
        rest = p;
        while (p < end) {
            const char *q = p;
            c = tmpl_cp_next(&q, end);
            if (tmpl_cp_space(c) || (c < 128 && c != 0 && strchr("-({[<", (int)c) != NULL))
                break;
            p = q;
        }
        tmpl_put_lower(&b, rest, (size_t)(p - rest));
    }
    return tbuf_take(&b);
}

static tv f_trim(tmpl_run *r, tv x, const targs *a)
{
    BIND("trim", 0, "chars");
    bool blank = v[0].type == TV_MISSING || v[0].type == TV_NONE;
    return tmpl_str_strip(r, tmpl_str(r, x), blank ? NULL : tv_need_str(r, v[0], "strip arg"), true, true);
}

static tv f_replace(tmpl_run *r, tv x, const targs *a)
{
    BIND("replace", 2, "old", "new", "count");
    int64_t count = v[2].type == TV_MISSING || v[2].type == TV_NONE ? -1 : tv_to_int(r, v[2], "count");
    return marked(tmpl_str_replace(r, tmpl_str(r, x).u.s, tmpl_str(r, v[0]).u.s, tmpl_str(r, v[1]).u.s, count), false);
}

static tv f_center(tmpl_run *r, tv x, const targs *a)
{
    BIND("center", 0, "width");
    tv s = tmpl_str(r, x);
    return marked(tmpl_str_pad(r, s, v[0].type == TV_MISSING ? 80 : tv_to_int(r, v[0], "width"), ' ', '^'), s.markup);
}

static tv blanks(tmpl_run *r, int64_t n)
{
    return tmpl_binary(r, OP_MUL, tv_text(r, " "), tv_int(n));
}

static tv f_indent(tmpl_run *r, tv x, const targs *a)
{
    BIND("indent", 0, "width", "first", "blank");
    tv width = given(v[0], tv_int(4)), by = width.type == TV_STR ? width : blanks(r, tv_to_int(r, width, "width"));
    bool first = v[1].type != TV_MISSING && tv_truth(v[1]), blank = v[2].type != TV_MISSING && tv_truth(v[2]);
    tv lines = tmpl_str_lines(r, tmpl_binary(r, OP_ADD, x, tv_text(r, "\n")).u.s, false);
    tbuf b = {.r = r};
    for (size_t i = 0; i < lines.u.l->n; i++) {
        const tstr *line = lines.u.l->v[i].u.s;
        if (i > 0)
            tbuf_putc(&b, '\n');
        if (i == 0 ? first : blank || line->len > 0)
            tbuf_put(&b, by.u.s->p, by.u.s->len);
        tbuf_put(&b, line->p, line->len);
    }
    return marked(tbuf_take(&b), x.type == TV_STR && x.markup);
}

static tv f_truncate(tmpl_run *r, tv x, const targs *a)
{
    BIND("truncate", 0, "length", "killwords", "end", "leeway");
    int64_t length = v[0].type == TV_MISSING ? 255 : tv_to_int(r, v[0], "length"), leeway = 5;
    tv end = given(v[2], tv_text(r, "..."));
    const tstr *e = tv_need_str(r, end, "end");
    if (v[3].type != TV_MISSING && v[3].type != TV_NONE)
        leeway = tv_to_int(r, v[3], "leeway");
    if (length < tv_chars(e) || leeway < 0)
        tmpl_fail(r, ST_INVALID, "truncate: the length must not be below the end's, nor the leeway negative");
    if (tv_length(r, x) <= length + leeway)
        return x;
    tv_need_str(r, x, "what truncate shortens");
    tv cut = tv_sub(r, x, 0, tv_offset(x.u.s, length - tv_chars(e)));
    if (v[1].type == TV_MISSING || !tv_truth(v[1]))
        cut = tmpl_str_rsplit(r, cut, tv_text(r, " ").u.s, 1).u.l->v[0];
    return tmpl_binary(r, OP_ADD, cut, end);
}

static tv f_wordcount(tmpl_run *r, tv x, const targs *a)
{
    no_args(r, "wordcount", a);
    const tv s = tmpl_str(r, x);
    int64_t n = 0;
    bool in_word = false;
    tmpl_charge(r, s.u.s->len);
    for (const char *p = s.u.s->p, *end = p + s.u.s->len; p < end;) {
        bool word = tmpl_cp_word(tmpl_cp_next(&p, end));
        n += word && !in_word;
        in_word = word;
    }
    return tv_int(n);
}

/* Greedy wrapping of words at blanks (and after hyphens inside words), each line of the input on its own. */
static void wrap_line(tmpl_run *r, tbuf *b, const tstr *line, int64_t width, bool breaks, bool hyphens, const tstr *sep)
{
    tv chunks = tv_list_of(r, TV_LIST, 0);
    const char *p = line->p, *end = p + line->len;
    while (p < end) { /* runs of blanks, and words; a word ends after a hyphen between letters */
        const char *from = p;
        bool blank = *p == ' ' || *p == '\t';
        while (p < end && (*p == ' ' || *p == '\t') == blank) {
            const char *q = p++;
            if (!blank && hyphens && *q == '-' && q > from && p < end && tmpl_cp_alpha((unsigned char)q[-1]) && tmpl_cp_alpha((unsigned char)*p))
                break;
        }
        tv_list_push(r, chunks, tv_view_of(r, from, (size_t)(p - from)));
    }
    bool first_line = true;
    for (size_t i = 0; i < chunks.u.l->n;) {
        tbuf out = {.r = r};
        int64_t used = 0;
        if (!first_line && (chunks.u.l->v[i].u.s->p[0] == ' ' || chunks.u.l->v[i].u.s->p[0] == '\t') && ++i == chunks.u.l->n)
            break;
        while (i < chunks.u.l->n && used + tv_chars(chunks.u.l->v[i].u.s) <= width) {
            const tstr *c = chunks.u.l->v[i++].u.s;
            tbuf_put(&out, c->p, c->len);
            used += tv_chars(c);
        }
        if (i < chunks.u.l->n && tv_chars(chunks.u.l->v[i].u.s) > width) {
            tv c = chunks.u.l->v[i];
            size_t cut = breaks ? tv_offset(c.u.s, width - used < 1 ? (used == 0 ? 1 : 0) : width - used) : used == 0 ? c.u.s->len : 0;
            tbuf_put(&out, c.u.s->p, cut);
            chunks.u.l->v[i] = tv_sub(r, c, cut, c.u.s->len);
            i += cut == c.u.s->len;
        }
        while (out.len > 0 && (out.p[out.len - 1] == ' ' || out.p[out.len - 1] == '\t'))
            out.len--;
        if (out.len == 0)
            continue;
        if (!first_line)
            tbuf_put(b, sep->p, sep->len);
        tbuf_put(b, out.p, out.len);
        first_line = false;
    }
}

static tv f_wordwrap(tmpl_run *r, tv x, const targs *a)
{
    BIND("wordwrap", 0, "width", "break_long_words", "wrapstring", "break_on_hyphens");
    int64_t width = v[0].type == TV_MISSING ? 79 : tv_to_int(r, v[0], "width");
    if (width <= 0)
        tmpl_fail(r, ST_INVALID, "invalid width %lld (must be > 0)", (long long)width);
    const tstr *sep = v[2].type == TV_MISSING || v[2].type == TV_NONE ? tv_text(r, "\n").u.s : tv_need_str(r, v[2], "wrapstring");
    tv lines = tmpl_str_lines(r, tv_need_str(r, x, "what wordwrap wraps"), false);
    tbuf b = {.r = r};
    for (size_t i = 0; i < lines.u.l->n; i++) {
        if (i > 0)
            tbuf_put(&b, sep->p, sep->len);
        wrap_line(r, &b, lines.u.l->v[i].u.s, width, v[1].type == TV_MISSING || tv_truth(v[1]), v[3].type == TV_MISSING || tv_truth(v[3]), sep);
    }
    return tbuf_take(&b);
}

static tv f_striptags(tmpl_run *r, tv x, const targs *a)
{
    static const struct {
        const char *entity, *text;
    } entities[] = {{"&lt;", "<"}, {"&gt;", ">"}, {"&#39;", "'"}, {"&#34;", "\""}, {"&quot;", "\""}, {"&amp;", "&"}};
    no_args(r, "striptags", a);
    tv s = marked(tmpl_str(r, x), false);
    tbuf b = {.r = r};
    const char *p = s.u.s->p, *end = p + s.u.s->len;
    while (p < end) {
        bool comment = end - p >= 4 && memcmp(p, "<!--", 4) == 0;
        const char *close = *p != '<' ? NULL : comment ? memmem(p, (size_t)(end - p), "-->", 3) : memchr(p, '>', (size_t)(end - p));
        tmpl_charge(r, close == NULL && *p == '<' ? (size_t)(end - p) : 0);
        if (close != NULL)
            p = close + (comment ? 3 : 1);
        else
            tbuf_putc(&b, *p++);
    }
    tv words = tmpl_str_method("split", 5, &(const char *){NULL})(r, tbuf_take(&b), &(targs){0}), out = tmpl_str_join(r, tv_text(r, " "), words, false);
    for (size_t i = 0; i < ARRAY_LEN(entities); i++)
        out = tmpl_str_replace(r, out.u.s, tv_text(r, entities[i].entity).u.s, tv_text(r, entities[i].text).u.s, -1);
    return out;
}

static void quote(tbuf *b, tv v, bool query)
{
    tv s = tmpl_str(b->r, v);
    for (size_t i = 0; i < s.u.s->len; i++) {
        unsigned char c = (unsigned char)s.u.s->p[i];
        char hex[4];
        bool plain = (c < 0x80 && tmpl_cp_word(c)) || (c != 0 && strchr(".-~", c) != NULL) || (c == '/' && !query);
        snprintf(hex, sizeof(hex), "%%%02X", c);
        if (plain)
            tbuf_putc(b, (char)c);
        else
            tbuf_puts(b, c == ' ' && query ? "+" : hex);
    }
}

static tv f_urlencode(tmpl_run *r, tv x, const targs *a)
{
    tbuf b = {.r = r};
    no_args(r, "urlencode", a);
    if (x.type == TV_STR || !tv_is_iterable(x)) {
        quote(&b, x, false);
        return tbuf_take(&b);
    }
    tview view = {.d = x.type == TV_DICT ? x.u.d : NULL, .kind = TVIEW_ITEMS};
    titer *it = tv_iterate(r, x.type == TV_DICT ? (tv){.type = TV_VIEW, .u.view = &view} : x);
    tv pair;
    for (bool first = true; it->next(r, it, &pair); first = false) {
        tv kv = tv_to_list(r, pair);
        if (kv.u.l->n != 2)
            tmpl_fail(r, ST_INVALID, "urlencode wants pairs, got %zu values", kv.u.l->n);
        if (!first)
            tbuf_putc(&b, '&');
        quote(&b, kv.u.l->v[0], true);
        tbuf_putc(&b, '=');
        quote(&b, kv.u.l->v[1], true);
    }
    return tbuf_take(&b);
}

static tv f_xmlattr(tmpl_run *r, tv x, const targs *a)
{
    BIND("xmlattr", 0, "autospace");
    tbuf b = {.r = r};
    if (x.type == TV_UNDEFINED)
        tmpl_fail_undefined(r, x);
    if (x.type != TV_DICT)
        tmpl_fail(r, ST_INVALID, "'%s' object has no attribute 'items'", tv_type_name(x));
    bool space = v[0].type == TV_MISSING || tv_truth(v[0]);
    for (size_t i = 0; i < x.u.d->n; i++) {
        const tentry *e = &x.u.d->e[i];
        if (e->value.type == TV_NONE || e->value.type == TV_UNDEFINED)
            continue;
        const tstr *key = tv_need_str(r, e->key, "an attribute name");
        for (size_t k = 0; k < key->len; k++) {
            if (key->p[k] == '\0' || strchr(" \t\n\r\f\v/>=", key->p[k]) != NULL)
                tmpl_fail(r, ST_INVALID, "invalid character in attribute name");
        }
        if (b.len > 0 || space)
            tbuf_putc(&b, ' ');
        tmpl_put_str(&b, tmpl_escape(r, e->key));
        tbuf_puts(&b, "=\"");
        tmpl_put_str(&b, tmpl_escape(r, e->value));
        tbuf_putc(&b, '"');
    }
    return tbuf_take(&b);
}

static tv f_format(tmpl_run *r, tv x, const targs *a)
{
    if (a->n > 0 && a->n_kw > 0)
        tmpl_fail(r, ST_INVALID, "can't handle positional and keyword arguments at the same time");
    tv args;
    if (a->n_kw > 0) {
        args = tv_dict_new(r);
        for (int i = 0; i < a->n_kw; i++)
            tv_dict_set(r, args.u.d, a->kw_name[i], a->kw[i]);
    } else {
        args = tv_list_of(r, TV_TUPLE, (size_t)a->n);
        for (int i = 0; i < a->n; i++)
            args.u.l->v[i] = a->pos[i];
    }
    return tmpl_percent(r, tmpl_str(r, x), args);
}

/* ---- numbers ---- */

static tv f_int(tmpl_run *r, tv x, const targs *a)
{
    BIND("int", 0, "default", "base");
    tv dflt = given(v[0], tv_int(0));
    int64_t i, base = v[1].type == TV_MISSING ? 10 : tv_to_int(r, v[1], "base");
    double f;
    switch (x.type) {
    case TV_UNDEFINED:
        tmpl_fail_undefined(r, x);
    case TV_STR:
        if (base >= 0 && base <= 36 && base != 1 && tmpl_parse_int(x.u.s, (int)base, &i))
            return tv_int(i);
        return tmpl_parse_float(x.u.s, &f) && isfinite(f) ? tmpl_float_to_int(r, f) : dflt;
    case TV_FLOAT:
        return isnan(x.u.f) ? dflt : tmpl_float_to_int(r, x.u.f);
    case TV_INT:
    case TV_BOOL:
        return tv_int(tv_whole(x));
    default:
        return dflt;
    }
}

static tv f_float(tmpl_run *r, tv x, const targs *a)
{
    BIND("float", 0, "default");
    double f;
    if (x.type == TV_UNDEFINED)
        tmpl_fail_undefined(r, x);
    if (x.type == TV_STR && tmpl_parse_float(x.u.s, &f))
        return tv_float(f);
    if (tv_is_number(x))
        return x.type == TV_FLOAT ? x : tv_float((double)tv_whole(x));
    return given(v[0], tv_float(0));
}

static tv f_abs(tmpl_run *r, tv x, const targs *a)
{
    no_args(r, "abs", a);
    if (!tv_is_number(x))
        tmpl_fail(r, ST_INVALID, "bad operand type for abs(): '%s'", tv_type_name(x));
    if (x.type == TV_FLOAT)
        return tv_float(fabs(x.u.f));
    return tv_whole(x) < 0 ? tmpl_negate(r, x, true) : tv_int(tv_whole(x));
}

/* round() of an int: to tens, hundreds ... for negative precisions */
static tv round_int(tmpl_run *r, int64_t i, int64_t digits)
{
    int64_t scale = 1;
    if (digits >= 0)
        return tv_int(i);
    for (; digits < 0; digits++) {
        if (__builtin_mul_overflow(scale, (int64_t)10, &scale))
            return tv_int(0);
    }
    int64_t rest = ((i % scale) + scale) % scale, low = i - rest, q = low / scale;
    bool up = rest > scale - rest || (rest == scale - rest && (q & 1) != 0);
    if (__builtin_add_overflow(low, up ? scale : 0, &low))
        tmpl_fail(r, ST_LIMIT, "integers beyond 64 bits are not supported");
    return tv_int(low);
}

static tv f_round(tmpl_run *r, tv x, const targs *a)
{
    BIND("round", 0, "precision", "method");
    tv method = given(v[1], tv_text(r, "common"));
    bool ceiling = tv_text_is(method, "ceil");
    if (!ceiling && !tv_text_is(method, "floor") && !tv_text_is(method, "common"))
        tmpl_fail(r, ST_INVALID, "method must be common, ceil or floor");
    if (x.type == TV_UNDEFINED)
        tmpl_fail_undefined(r, x);
    if (!tv_is_number(x))
        tmpl_fail(r, ST_INVALID, "type %s doesn't define __round__ method", tv_type_name(x));
    bool whole = x.type != TV_FLOAT;
    if (tv_text_is(method, "common") && v[0].type == TV_NONE)
        return whole ? tv_int(tv_whole(x)) : tmpl_float_to_int(r, tmpl_round(x.u.f, 0));
    int64_t digits = v[0].type == TV_MISSING ? 0 : tv_to_int(r, v[0], "precision");
    if (tv_text_is(method, "common"))
        return whole ? round_int(r, tv_whole(x), digits) : tv_float(tmpl_round(x.u.f, digits));
    tv power = tmpl_binary(r, OP_POW, tv_int(10), tv_int(digits)), scaled = tmpl_binary(r, OP_MUL, x, power);
    if (scaled.type == TV_FLOAT)
        scaled = tmpl_float_to_int(r, ceiling ? ceil(scaled.u.f) : floor(scaled.u.f));
    return tmpl_binary(r, OP_DIV, scaled, power);
}

static tv f_filesizeformat(tmpl_run *r, tv x, const targs *a)
{
    static const char *const decimal[] = {"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"};
    static const char *const binary[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"};
    BIND("filesizeformat", 0, "binary");
    bool bin = v[0].type != TV_MISSING && tv_truth(v[0]);
    double bytes, base = bin ? 1024 : 1000, unit = base;
    char text[64];
    if (x.type == TV_UNDEFINED)
        tmpl_fail_undefined(r, x);
    if (tv_is_number(x))
        bytes = x.type == TV_FLOAT ? x.u.f : (double)tv_whole(x);
    else if (x.type != TV_STR || !tmpl_parse_float(x.u.s, &bytes))
        tmpl_fail(r, ST_INVALID, "could not convert to float: '%s'", tv_type_name(x));
    if (bytes == 1)
        return tv_text(r, "1 Byte");
    if (bytes < base) {
        snprintf(text, sizeof(text), "%lld Bytes", (long long)tmpl_float_to_int(r, bytes).u.i);
        return tv_copy_of(r, text, strlen(text));
    }
    size_t i = 0;
    for (; i + 1 < ARRAY_LEN(decimal) && bytes >= unit * base; i++)
        unit *= base;
    snprintf(text, sizeof(text), "%.1f %s", bytes / unit, bin ? binary[i] : decimal[i]);
    return tv_copy_of(r, text, strlen(text));
}

/* ---- anything ---- */

static tv f_default(tmpl_run *r, tv x, const targs *a)
{
    BIND("default", 0, "default_value", "boolean");
    bool boolean = v[1].type != TV_MISSING && tv_truth(v[1]);
    return x.type == TV_UNDEFINED || (boolean && !tv_truth(x)) ? given(v[0], tv_text(r, "")) : x;
}

static tv f_tojson(tmpl_run *r, tv x, const targs *a)
{
    BIND("tojson", 0, "ensure_ascii", "indent", "separators", "sort_keys");
    return tmpl_json(r, x, v[0].type != TV_MISSING && tv_truth(v[0]), given(v[1], tv_none()), given(v[2], tv_none()),
                     v[3].type != TV_MISSING && tv_truth(v[3]));
}

static tv f_attr(tmpl_run *r, tv x, const targs *a)
{
    BIND("attr", 1, "name");
    tv_need_str(r, v[0], "attribute name");
    if (x.type == TV_UNDEFINED)
        tmpl_fail_undefined(r, x);
    tv found = tmpl_getattr(r, x, v[0]);
    if (x.type == TV_DICT && found.type != TV_METHOD) /* attributes only, not items */
        return found.type == TV_UNDEFINED ? found : tv_undefined_attr(r, x, v[0], false);
    return found;
}

static tv f_pprint(tmpl_run *r, tv x, const targs *a)
{
    tbuf b = {.r = r};
    no_args(r, "pprint", a);
    tmpl_put_repr(&b, x);
    if (memchr(b.p, '{', b.len) != NULL && x.type != TV_STR)
        tmpl_fail(r, ST_UNSUPPORTED, "pprint of dicts is not supported");
    if (b.len > 80 && (tv_is_seq(x) || x.type == TV_DICT))
        tmpl_fail(r, ST_UNSUPPORTED, "pprint of what does not fit on one line is not supported");
    return tbuf_take(&b);
}

static tv f_refused(tmpl_run *r, tv x, const targs *a)
{
    (void)x, (void)a;
    tmpl_fail(r, ST_UNSUPPORTED, "the filters random and urlize are not supported: a prompt is neither random nor HTML");
}

const tmpl_filter tmpl_text_filters[] = {
    {"abs", f_abs}, {"attr", f_attr}, {"capitalize", f_capitalize}, {"center", f_center}, {"d", f_default}, {"default", f_default}, {"e", f_escape},
    {"escape", f_escape}, {"filesizeformat", f_filesizeformat}, {"float", f_float}, {"forceescape", f_forceescape}, {"format", f_format},
    {"indent", f_indent}, {"int", f_int}, {"lower", f_lower}, {"pprint", f_pprint}, {"random", f_refused}, {"replace", f_replace},
    {"round", f_round}, {"safe", f_safe}, {"string", f_string}, {"striptags", f_striptags}, {"title", f_title}, {"tojson", f_tojson},
    {"trim", f_trim}, {"truncate", f_truncate}, {"upper", f_upper}, {"urlencode", f_urlencode}, {"urlize", f_refused},
    {"wordcount", f_wordcount}, {"wordwrap", f_wordwrap}, {"xmlattr", f_xmlattr}, {NULL, NULL},
};

const tmpl_filter *tmpl_filter_find(const tstr *name)
{
    const tmpl_filter *tables[] = {tmpl_text_filters, tmpl_sequence_filters};
    for (size_t t = 0; t < ARRAY_LEN(tables); t++) {
        for (const tmpl_filter *f = tables[t]; f->name != NULL; f++) {
            if (strlen(f->name) == name->len && memcmp(f->name, name->p, name->len) == 0)
                return f;
        }
    }
    return NULL;
}
