/* shard/text/template_strings.c - the methods of Python's str.  Positions are code points. */
#include "shard/text/template_internal.h"

#include <stdio.h>

static const tstr *arg_str(tmpl_run *r, const targs *a, int i, const char *what)
{
    return tv_need_str(r, a->pos[i], what);
}

static bool in_set(uint32_t c, const tstr *chars)
{
    if (chars == NULL)
        return tmpl_cp_space(c);
    for (const char *p = chars->p, *end = p + chars->len; p < end;) {
        if (tmpl_cp_next(&p, end) == c)
            return true;
    }
    return false;
}

tv tmpl_str_strip(tmpl_run *r, tv s, const tstr *chars, bool left, bool right)
{
    const char *begin = s.u.s->p, *end = begin + s.u.s->len, *p = begin;
    size_t unit = chars == NULL ? 1 : chars->len + 1;
    while (left && p < end) {
        const char *q = p;
        if (!in_set(tmpl_cp_next(&q, end), chars))
            break;
        p = q;
        tmpl_charge(r, unit);
    }
    while (right && end > p) {
        const char *q = end;
        if (!in_set(tmpl_cp_prev(p, &q), chars))
            break;
        end = q;
        tmpl_charge(r, unit);
    }
    return tv_sub(r, s, (size_t)(p - begin), (size_t)(end - begin));
}

static tv strip_method(tmpl_run *r, tv self, const targs *a, const char *name, bool left, bool right)
{
    tmpl_positional(r, name, a, 0, 1);
    const tstr *chars = a->n == 0 || a->pos[0].type == TV_NONE ? NULL : arg_str(r, a, 0, "strip arg");
    return tmpl_str_strip(r, self, chars, left, right);
}

static tv m_strip(tmpl_run *r, tv self, const targs *a)
{
    return strip_method(r, self, a, "strip", true, true);
}
static tv m_lstrip(tmpl_run *r, tv self, const targs *a)
{
    return strip_method(r, self, a, "lstrip", true, false);
}
static tv m_rstrip(tmpl_run *r, tv self, const targs *a)
{
    return strip_method(r, self, a, "rstrip", false, true);
}

/* ---- cases ---- */

tv tmpl_str_case(tmpl_run *r, const tstr *s, int kind)
{
    tbuf b = {.r = r};
    tmpl_charge(r, s->len);
    if (kind == CASE_LOWER) {
        tmpl_put_lower(&b, s->p, s->len);
    } else {
        for (const char *p = s->p, *end = p + s->len; p < end;)
            tmpl_put_cased(&b, tmpl_cp_next(&p, end), kind);
    }
    return tbuf_take(&b);
}

tv tmpl_str_capitalize(tmpl_run *r, const tstr *s)
{
    tbuf b = {.r = r};
    const char *p = s->p, *end = p + s->len;
    if (p < end) {
        tmpl_put_cased(&b, tmpl_cp_next(&p, end), CASE_TITLE);
        tv rest = tmpl_str_case(r, s, CASE_LOWER); /* lowered whole, for the final sigma's sake */
        tv first = tmpl_str_case(r, tv_view_of(r, s->p, (size_t)(p - s->p)).u.s, CASE_LOWER);
        tbuf_put(&b, rest.u.s->p + first.u.s->len, rest.u.s->len - first.u.s->len);
    }
    return tbuf_take(&b);
}

static tv m_upper(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "upper", a, 0, 0);
    return tmpl_str_case(r, self.u.s, CASE_UPPER);
}
static tv m_lower(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "lower", a, 0, 0);
    return tmpl_str_case(r, self.u.s, CASE_LOWER);
}
static tv m_casefold(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "casefold", a, 0, 0);
    return tmpl_str_case(r, self.u.s, CASE_FOLD);
}
static tv m_capitalize(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "capitalize", a, 0, 0);
    return tmpl_str_capitalize(r, self.u.s);
}

static bool cp_cased(uint32_t c)
{
    return tmpl_cp_upper(c) || tmpl_cp_lower(c) || tmpl_cp_title(c);
}

static tv m_title(tmpl_run *r, tv self, const targs *a)
{
    tbuf b = {.r = r};
    bool in_word = false;
    tmpl_positional(r, "title", a, 0, 0);
    for (const char *p = self.u.s->p, *end = p + self.u.s->len; p < end;) {
        const char *at = p;
        uint32_t c = tmpl_cp_next(&p, end);
        if (in_word)
            tmpl_put_lower_at(&b, self.u.s->p, at, end);
        else
            tmpl_put_cased(&b, c, CASE_TITLE);
        in_word = cp_cased(c);
    }
    return tbuf_take(&b);
}

static tv m_swapcase(tmpl_run *r, tv self, const targs *a)
{
    tbuf b = {.r = r};
    tmpl_positional(r, "swapcase", a, 0, 0);
    for (const char *p = self.u.s->p, *end = p + self.u.s->len; p < end;) {
        const char *at = p;
        uint32_t c = tmpl_cp_next(&p, end);
        if (tmpl_cp_upper(c))
            tmpl_put_lower_at(&b, self.u.s->p, at, end);
        else if (tmpl_cp_lower(c))
            tmpl_put_cased(&b, c, CASE_UPPER);
        else
            tbuf_put_cp(&b, c);
    }
    return tbuf_take(&b);
}

/* ---- searching ---- */

/* start and end arguments to byte offsets; false: nothing can be found there. */
static bool bounds(tmpl_run *r, const tstr *s, const targs *a, size_t *from, size_t *to)
{
    int64_t n = tv_chars(s), start = 0, stop = n;
    tmpl_charge(r, s->len);
    if (a->n > 1 && a->pos[1].type != TV_NONE)
        start = tv_to_int(r, a->pos[1], "slice indices");
    if (a->n > 2 && a->pos[2].type != TV_NONE)
        stop = tv_to_int(r, a->pos[2], "slice indices");
    if (start < 0)
        start = start + n < 0 ? 0 : start + n;
    if (stop < 0)
        stop = stop + n < 0 ? 0 : stop + n;
    if (stop > n)
        stop = n;
    if (start > stop)
        return false;
    *from = tv_offset(s, start);
    *to = tv_offset(s, stop);
    return true;
}

static const char *last_of(const char *p, size_t n, const tstr *what)
{
    for (size_t i = n < what->len ? 0 : n - what->len + 1; i > 0; i--) {
        if (memcmp(p + i - 1, what->p, what->len) == 0)
            return p + i - 1;
    }
    return NULL;
}

static tv find_method(tmpl_run *r, tv self, const targs *a, const char *name, bool last, bool must)
{
    tmpl_positional(r, name, a, 1, 3);
    const tstr *s = self.u.s, *what = arg_str(r, a, 0, "the substring");
    size_t from, to;
    const char *at = NULL;
    if (bounds(r, s, a, &from, &to)) {
        tmpl_charge(r, last ? (to - from) * (what->len / 16 + 1) : to - from);
        at = last ? last_of(s->p + from, to - from, what) : memmem(s->p + from, to - from, what->p, what->len);
    }
    if (at == NULL && must)
        tmpl_fail(r, ST_INVALID, "substring not found");
    if (at == NULL)
        return tv_int(-1);
    tstr before = {.p = s->p, .len = (size_t)(at - s->p), .chars = -1};
    return tv_int(tv_chars(&before));
}

static tv m_find(tmpl_run *r, tv self, const targs *a)
{
    return find_method(r, self, a, "find", false, false);
}
static tv m_rfind(tmpl_run *r, tv self, const targs *a)
{
    return find_method(r, self, a, "rfind", true, false);
}
static tv m_index(tmpl_run *r, tv self, const targs *a)
{
    return find_method(r, self, a, "index", false, true);
}
static tv m_rindex(tmpl_run *r, tv self, const targs *a)
{
    return find_method(r, self, a, "rindex", true, true);
}

static tv m_count(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "count", a, 1, 3);
    const tstr *s = self.u.s, *what = arg_str(r, a, 0, "the substring");
    size_t from, to;
    int64_t n = 0;
    if (!bounds(r, s, a, &from, &to))
        return tv_int(0);
    if (what->len == 0) {
        tstr part = {.p = s->p + from, .len = to - from, .chars = -1};
        return tv_int(tv_chars(&part) + 1);
    }
    for (const char *p = s->p + from, *end = s->p + to; (p = memmem(p, (size_t)(end - p), what->p, what->len)) != NULL; p += what->len)
        n++;
    return tv_int(n);
}

static tv affix_method(tmpl_run *r, tv self, const targs *a, const char *name, bool end)
{
    tmpl_positional(r, name, a, 1, 3);
    size_t from, to;
    bool inside = bounds(r, self.u.s, a, &from, &to), found = false;
    tlist one = {.v = (tv *)a->pos, .n = 1}, *choices = a->pos[0].type == TV_TUPLE ? a->pos[0].u.l : &one;
    for (size_t i = 0; i < choices->n; i++) {
        if (choices->v[i].type == TV_UNDEFINED)
            tmpl_fail_undefined(r, choices->v[i]);
        if (choices->v[i].type != TV_STR)
            tmpl_fail(r, ST_INVALID, "%s first arg must be str or a tuple of str, not %s", name, tv_type_name(choices->v[i]));
        const tstr *x = choices->v[i].u.s;
        if (inside && x->len <= to - from && memcmp(end ? self.u.s->p + to - x->len : self.u.s->p + from, x->p, x->len) == 0)
            found = true;
        if (found)
            break;
    }
    return tv_bool(found);
}

static tv m_startswith(tmpl_run *r, tv self, const targs *a)
{
    return affix_method(r, self, a, "startswith", false);
}
static tv m_endswith(tmpl_run *r, tv self, const targs *a)
{
    return affix_method(r, self, a, "endswith", true);
}

static tv m_removeprefix(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "removeprefix", a, 1, 1);
    const tstr *s = self.u.s, *x = arg_str(r, a, 0, "removeprefix() argument");
    bool has = x->len <= s->len && memcmp(s->p, x->p, x->len) == 0;
    return has ? tv_sub(r, self, x->len, s->len) : self;
}
static tv m_removesuffix(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "removesuffix", a, 1, 1);
    const tstr *s = self.u.s, *x = arg_str(r, a, 0, "removesuffix() argument");
    bool has = x->len <= s->len && memcmp(s->p + s->len - x->len, x->p, x->len) == 0;
    return has ? tv_sub(r, self, 0, s->len - x->len) : self;
}

/* ---- taking apart, putting together ---- */

static tv split_blank(tmpl_run *r, tv self, int64_t max)
{
    tv out = tv_list_of(r, TV_LIST, 0);
    const char *begin = self.u.s->p, *end = begin + self.u.s->len, *p = begin;
    for (int64_t n = 0;; n++) {
        while (p < end) {
            const char *q = p;
            if (!tmpl_cp_space(tmpl_cp_next(&q, end)))
                break;
            p = q;
        }
        if (p == end)
            return out;
        const char *word = p;
        if (max >= 0 && n >= max) {
            tv_list_push(r, out, tv_sub(r, self, (size_t)(word - begin), (size_t)(end - begin)));
            return out;
        }
        while (p < end) {
            const char *q = p;
            if (tmpl_cp_space(tmpl_cp_next(&q, end)))
                break;
            p = q;
        }
        tv_list_push(r, out, tv_sub(r, self, (size_t)(word - begin), (size_t)(p - begin)));
    }
}

static tv reversed(tmpl_run *r, tv list)
{
    tv out = tv_list_of(r, TV_LIST, list.u.l->n);
    for (size_t i = 0; i < list.u.l->n; i++)
        out.u.l->v[i] = list.u.l->v[list.u.l->n - 1 - i];
    return out;
}

static tv rsplit_blank(tmpl_run *r, tv self, int64_t max)
{
    tv out = tv_list_of(r, TV_LIST, 0);
    const char *begin = self.u.s->p, *p = begin + self.u.s->len;
    for (int64_t n = 0;; n++) {
        tv left = tmpl_str_strip(r, tv_sub(r, self, 0, (size_t)(p - begin)), NULL, false, true);
        p = begin + left.u.s->len;
        if (left.u.s->len == 0)
            return reversed(r, out);
        if (max >= 0 && n >= max) {
            tv_list_push(r, out, left);
            return reversed(r, out);
        }
        const char *end = p;
        while (p > begin) {
            const char *q = p;
            if (tmpl_cp_space(tmpl_cp_prev(begin, &q)))
                break;
            p = q;
        }
        tv_list_push(r, out, tv_sub(r, self, (size_t)(p - begin), (size_t)(end - begin)));
    }
}

static tv split_on(tmpl_run *r, tv self, const tstr *sep, int64_t max)
{
    tv out = tv_list_of(r, TV_LIST, 0);
    const char *begin = self.u.s->p, *end = begin + self.u.s->len, *p = begin, *at;
    for (int64_t n = 0; (max < 0 || n < max) && (at = memmem(p, (size_t)(end - p), sep->p, sep->len)) != NULL; n++) {
        tv_list_push(r, out, tv_sub(r, self, (size_t)(p - begin), (size_t)(at - begin)));
        p = at + sep->len;
    }
    tv_list_push(r, out, tv_sub(r, self, (size_t)(p - begin), (size_t)(end - begin)));
    return out;
}

tv tmpl_str_rsplit(tmpl_run *r, tv self, const tstr *sep, int64_t max)
{
    tv out = tv_list_of(r, TV_LIST, 0);
    const char *begin = self.u.s->p, *end = begin + self.u.s->len, *at;
    tmpl_charge(r, self.u.s->len * (sep->len / 16 + 1));
    for (int64_t n = 0; (max < 0 || n < max) && (at = last_of(begin, (size_t)(end - begin), sep)) != NULL; n++) {
        tv_list_push(r, out, tv_sub(r, self, (size_t)(at + sep->len - begin), (size_t)(end - begin)));
        end = at;
    }
    tv_list_push(r, out, tv_sub(r, self, 0, (size_t)(end - begin)));
    return reversed(r, out);
}

static tv split_method(tmpl_run *r, tv self, const targs *a, const char *name, bool right)
{
    static const char *const names[] = {"sep", "maxsplit"};
    tv v[2];
    tmpl_bind(r, name, a, names, 2, 0, v);
    int64_t max = v[1].type == TV_MISSING ? -1 : tv_to_int(r, v[1], "maxsplit");
    tmpl_charge(r, self.u.s->len);
    if (v[0].type == TV_MISSING || v[0].type == TV_NONE)
        return right ? rsplit_blank(r, self, max) : split_blank(r, self, max);
    const tstr *sep = tv_need_str(r, v[0], "the separator");
    if (sep->len == 0)
        tmpl_fail(r, ST_INVALID, "empty separator");
    return right ? tmpl_str_rsplit(r, self, sep, max) : split_on(r, self, sep, max);
}

static tv m_split(tmpl_run *r, tv self, const targs *a)
{
    return split_method(r, self, a, "split", false);
}
static tv m_rsplit(tmpl_run *r, tv self, const targs *a)
{
    return split_method(r, self, a, "rsplit", true);
}

static tv partition_method(tmpl_run *r, tv self, const targs *a, const char *name, bool right)
{
    tmpl_positional(r, name, a, 1, 1);
    const tstr *s = self.u.s, *sep = arg_str(r, a, 0, "the separator");
    if (sep->len == 0)
        tmpl_fail(r, ST_INVALID, "empty separator");
    tmpl_charge(r, right ? s->len * (sep->len / 16 + 1) : s->len);
    const char *at = right ? last_of(s->p, s->len, sep) : memmem(s->p, s->len, sep->p, sep->len);
    tv t = tv_list_of(r, TV_TUPLE, 3), empty = tv_text(r, "");
    size_t from = at == NULL ? 0 : (size_t)(at - s->p);
    t.u.l->v[0] = at != NULL ? tv_sub(r, self, 0, from) : right ? empty : self;
    t.u.l->v[1] = at != NULL ? tv_sub(r, self, from, from + sep->len) : empty;
    t.u.l->v[2] = at != NULL ? tv_sub(r, self, from + sep->len, s->len) : right ? self : empty;
    return t;
}

static tv m_partition(tmpl_run *r, tv self, const targs *a)
{
    return partition_method(r, self, a, "partition", false);
}
static tv m_rpartition(tmpl_run *r, tv self, const targs *a)
{
    return partition_method(r, self, a, "rpartition", true);
}

static bool line_break(uint32_t c)
{
    return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

tv tmpl_str_lines(tmpl_run *r, const tstr *s, bool keep)
{
    tv out = tv_list_of(r, TV_LIST, 0);
    const char *end = s->p + s->len, *line = s->p;
    tmpl_charge(r, s->len);
    for (const char *p = s->p; p < end;) {
        const char *at = p;
        uint32_t c = tmpl_cp_next(&p, end);
        if (!line_break(c))
            continue;
        if (c == '\r' && p < end && *p == '\n')
            p++;
        tv_list_push(r, out, tv_view_of(r, line, (size_t)((keep ? p : at) - line)));
        line = p;
    }
    if (line < end)
        tv_list_push(r, out, tv_view_of(r, line, (size_t)(end - line)));
    return out;
}

static tv m_splitlines(tmpl_run *r, tv self, const targs *a)
{
    static const char *const names[] = {"keepends"};
    tv v[1];
    tmpl_bind(r, "splitlines", a, names, 1, 0, v);
    return tmpl_str_lines(r, self.u.s, v[0].type != TV_MISSING && tv_truth(v[0]));
}

tv tmpl_str_join(tmpl_run *r, tv sep, tv items, bool to_str)
{
    tbuf b = {.r = r};
    titer *it = tv_iterate(r, items);
    tv v;
    for (int64_t i = 0; it->next(r, it, &v); i++) {
        if (i > 0)
            tbuf_put(&b, sep.u.s->p, sep.u.s->len);
        if (to_str) {
            tmpl_put_str(&b, v);
            continue;
        }
        if (sep.markup)
            v = tmpl_escape(r, v);
        if (v.type != TV_STR)
            tmpl_fail(r, ST_INVALID, "sequence item %lld: expected str instance, %s found", (long long)i, tv_type_name(v));
        tbuf_put(&b, v.u.s->p, v.u.s->len);
    }
    return tbuf_take(&b);
}

static tv m_join(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "join", a, 1, 1);
    if (!tv_is_iterable(a->pos[0]))
        tmpl_fail(r, ST_INVALID, "can only join an iterable");
    return tmpl_str_join(r, self, a->pos[0], false);
}

tv tmpl_str_replace(tmpl_run *r, const tstr *s, const tstr *old, const tstr *new_, int64_t count)
{
    tbuf b = {.r = r};
    const char *p = s->p, *end = p + s->len, *at;
    int64_t n = 0;
    tmpl_charge(r, s->len);
    if (old->len == 0) { /* before each character and at the end */
        for (; count < 0 || n < count; n++) {
            const char *q = p;
            tbuf_put(&b, new_->p, new_->len);
            if (p == end)
                return tbuf_take(&b);
            tmpl_cp_next(&q, end);
            tbuf_put(&b, p, (size_t)(q - p));
            p = q;
        }
    }
    for (; old->len > 0 && (count < 0 || n < count) && (at = memmem(p, (size_t)(end - p), old->p, old->len)) != NULL; n++) {
        tbuf_put(&b, p, (size_t)(at - p));
        tbuf_put(&b, new_->p, new_->len);
        p = at + old->len;
    }
    if (n == 0)
        return tv_view_of(r, s->p, s->len);
    tbuf_put(&b, p, (size_t)(end - p));
    return tbuf_take(&b);
}

static tv m_replace(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "replace", a, 2, 3);
    int64_t count = a->n > 2 ? tv_to_int(r, a->pos[2], "count") : -1;
    const tstr *old = arg_str(r, a, 0, "replace() argument 1"), *with = arg_str(r, a, 1, "replace() argument 2");
    if (self.markup)
        with = tmpl_escape(r, a->pos[1]).u.s;
    return tmpl_str_replace(r, self.u.s, old, with, count);
}

/* ---- layout ---- */

tv tmpl_str_pad(tmpl_run *r, tv s, int64_t width, uint32_t fill, int align)
{
    int64_t n = tv_chars(s.u.s), pad = width - n;
    if (pad <= 0)
        return s;
    if (pad > (int64_t)1 << 28)
        tmpl_fail(r, ST_LIMIT, "pads too far");
    int64_t left = align == '<' ? 0 : align == '>' ? pad : pad / 2 + (pad & width & 1);
    tbuf b = {.r = r};
    for (int64_t i = 0; i < left; i++)
        tbuf_put_cp(&b, fill);
    tbuf_put(&b, s.u.s->p, s.u.s->len);
    for (int64_t i = left; i < pad; i++)
        tbuf_put_cp(&b, fill);
    return tbuf_take(&b);
}

static tv pad_method(tmpl_run *r, tv self, const targs *a, const char *name, int align)
{
    tmpl_positional(r, name, a, 1, 2);
    int64_t width = tv_to_int(r, a->pos[0], "width");
    uint32_t fill = ' ';
    if (a->n > 1) {
        const tstr *f = arg_str(r, a, 1, "the fill character");
        const char *p = f->p;
        if (tv_chars(f) != 1)
            tmpl_fail(r, ST_INVALID, "the fill character must be exactly one character long");
        fill = tmpl_cp_next(&p, f->p + f->len);
    }
    return tmpl_str_pad(r, self, width, fill, align);
}

static tv m_ljust(tmpl_run *r, tv self, const targs *a)
{
    return pad_method(r, self, a, "ljust", '<');
}
static tv m_rjust(tmpl_run *r, tv self, const targs *a)
{
    return pad_method(r, self, a, "rjust", '>');
}
static tv m_center(tmpl_run *r, tv self, const targs *a)
{
    return pad_method(r, self, a, "center", '^');
}

static tv m_zfill(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "zfill", a, 1, 1);
    const tstr *s = self.u.s;
    bool sign = s->len > 0 && (s->p[0] == '+' || s->p[0] == '-');
    int64_t width = tv_to_int(r, a->pos[0], "width");
    if (!sign || width <= tv_chars(s))
        return tmpl_str_pad(r, self, width, '0', '>');
    tv head = tv_sub(r, self, 0, 1), tail = tmpl_str_pad(r, tv_sub(r, self, 1, s->len), width - 1, '0', '>');
    tbuf b = {.r = r};
    tbuf_put(&b, head.u.s->p, 1);
    tbuf_put(&b, tail.u.s->p, tail.u.s->len);
    return tbuf_take(&b);
}

static tv m_expandtabs(tmpl_run *r, tv self, const targs *a)
{
    static const char *const names[] = {"tabsize"};
    tv v[1];
    tmpl_bind(r, "expandtabs", a, names, 1, 0, v);
    int64_t size = v[0].type == TV_MISSING ? 8 : tv_to_int(r, v[0], "tabsize"), column = 0;
    tbuf b = {.r = r};
    if (size > 4096)
        tmpl_fail(r, ST_LIMIT, "tabs wider than 4096");
    for (const char *p = self.u.s->p, *end = p + self.u.s->len; p < end;) {
        uint32_t c = tmpl_cp_next(&p, end);
        int64_t n = c == '\t' && size > 0 ? size - column % size : 0;
        for (int64_t i = 0; i < n; i++)
            tbuf_putc(&b, ' ');
        if (c != '\t')
            tbuf_put_cp(&b, c);
        column = c == '\n' || c == '\r' ? 0 : c == '\t' ? column + n : column + 1;
    }
    return tbuf_take(&b);
}

/* ---- questions ---- */

static tv all_are(tmpl_run *r, tv self, const targs *a, const char *name, bool (*is)(uint32_t), bool when_empty)
{
    tmpl_positional(r, name, a, 0, 0);
    tmpl_charge(r, self.u.s->len);
    for (const char *p = self.u.s->p, *end = p + self.u.s->len; p < end;) {
        if (!is(tmpl_cp_next(&p, end)))
            return tv_bool(false);
    }
    return tv_bool(self.u.s->len > 0 || when_empty);
}

static bool cp_ascii(uint32_t c)
{
    return c < 128;
}

#define QUESTION(name, test, empty)                                                     \
    static tv m_##name(tmpl_run *r, tv self, const targs *a)                            \
    {                                                                                   \
        return all_are(r, self, a, #name, test, empty);                                 \
    }
QUESTION(isalpha, tmpl_cp_alpha, false)
QUESTION(isalnum, tmpl_cp_alnum, false)
QUESTION(isascii, cp_ascii, true)
QUESTION(isdecimal, tmpl_cp_decimal, false)
QUESTION(isdigit, tmpl_cp_digit, false)
QUESTION(isnumeric, tmpl_cp_numeric, false)
QUESTION(isprintable, tmpl_cp_printable, true)
QUESTION(isspace, tmpl_cp_space, false)

/* Every cased character is of the wanted case, and there is one. */
static tv case_is(tmpl_run *r, tv self, const targs *a, const char *name, bool upper)
{
    bool any = false;
    tmpl_positional(r, name, a, 0, 0);
    tmpl_charge(r, self.u.s->len);
    for (const char *p = self.u.s->p, *end = p + self.u.s->len; p < end;) {
        uint32_t c = tmpl_cp_next(&p, end);
        if (tmpl_cp_title(c) || (upper ? tmpl_cp_lower(c) : tmpl_cp_upper(c)))
            return tv_bool(false);
        any = any || (upper ? tmpl_cp_upper(c) : tmpl_cp_lower(c));
    }
    return tv_bool(any);
}

static tv m_isupper(tmpl_run *r, tv self, const targs *a)
{
    return case_is(r, self, a, "isupper", true);
}
static tv m_islower(tmpl_run *r, tv self, const targs *a)
{
    return case_is(r, self, a, "islower", false);
}

static tv m_istitle(tmpl_run *r, tv self, const targs *a)
{
    bool any = false, previous = false;
    tmpl_positional(r, "istitle", a, 0, 0);
    for (const char *p = self.u.s->p, *end = p + self.u.s->len; p < end;) {
        uint32_t c = tmpl_cp_next(&p, end);
        bool upper = tmpl_cp_upper(c) || tmpl_cp_title(c), lower = tmpl_cp_lower(c);
        if ((upper && previous) || (lower && !previous))
            return tv_bool(false);
        previous = upper || lower;
        any = any || previous;
    }
    return tv_bool(any);
}

static tv m_isidentifier(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "isidentifier", a, 0, 0);
    for (const char *p = self.u.s->p, *end = p + self.u.s->len; p < end;) {
        bool first = p == self.u.s->p;
        if (!tmpl_cp_id(tmpl_cp_next(&p, end), first))
            return tv_bool(false);
    }
    return tv_bool(self.u.s->len > 0);
}

static tv m_format(tmpl_run *r, tv self, const targs *a)
{
    return tmpl_format(r, self, a);
}

static tv m_format_map(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "format_map", a, 1, 1);
    if (a->pos[0].type != TV_DICT)
        tmpl_fail(r, ST_INVALID, "format_map() wants a dict");
    const tdict *d = a->pos[0].u.d;
    tv keys = tv_list_of(r, TV_LIST, 0), values = tv_list_of(r, TV_LIST, 0);
    for (size_t i = 0; i < d->n; i++) {
        if (d->e[i].key.type == TV_STR) {
            tv_list_push(r, keys, d->e[i].key);
            tv_list_push(r, values, d->e[i].value);
        }
    }
    return tmpl_format(r, self, &(targs){.kw_name = keys.u.l->v, .kw = values.u.l->v, .n_kw = (int)keys.u.l->n});
}

static tv m_refused(tmpl_run *r, tv self, const targs *a)
{
    (void)self, (void)a;
    tmpl_fail(r, ST_UNSUPPORTED, "str.encode, str.maketrans and str.translate are not supported");
}

tmpl_method_fn tmpl_str_method(const char *name, size_t len, const char **canonical)
{
    static const struct {
        const char *name;
        tmpl_method_fn fn;
    } methods[] = {
        {"capitalize", m_capitalize}, {"casefold", m_casefold}, {"center", m_center}, {"count", m_count}, {"encode", m_refused},
        {"endswith", m_endswith}, {"expandtabs", m_expandtabs}, {"find", m_find}, {"format", m_format}, {"format_map", m_format_map},
        {"index", m_index}, {"isalnum", m_isalnum}, {"isalpha", m_isalpha}, {"isascii", m_isascii}, {"isdecimal", m_isdecimal},
        {"isdigit", m_isdigit}, {"isidentifier", m_isidentifier}, {"islower", m_islower}, {"isnumeric", m_isnumeric},
        {"isprintable", m_isprintable}, {"isspace", m_isspace}, {"istitle", m_istitle}, {"isupper", m_isupper}, {"join", m_join},
        {"ljust", m_ljust}, {"lower", m_lower}, {"lstrip", m_lstrip}, {"maketrans", m_refused}, {"partition", m_partition},
        {"removeprefix", m_removeprefix}, {"removesuffix", m_removesuffix}, {"replace", m_replace}, {"rfind", m_rfind},
        {"rindex", m_rindex}, {"rjust", m_rjust}, {"rpartition", m_rpartition}, {"rsplit", m_rsplit}, {"rstrip", m_rstrip},
        {"split", m_split}, {"splitlines", m_splitlines}, {"startswith", m_startswith}, {"strip", m_strip}, {"swapcase", m_swapcase},
        {"title", m_title}, {"translate", m_refused}, {"upper", m_upper}, {"zfill", m_zfill},
    };
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        if (strlen(methods[i].name) == len && memcmp(methods[i].name, name, len) == 0) {
            *canonical = methods[i].name;
            return methods[i].fn;
        }
    }
    return NULL;
}
