/* shard/text/template_value.c - values of the Jinja interpreter: making, comparing, iterating them. */
#include "shard/text/template_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdarg.h>

#include "base/hash.h"

typedef struct tstrbuf {
    char *data;
    size_t used, cap;
} tstrbuf;

typedef struct tlistbuf {
    tv *data;
    size_t used, cap;
} tlistbuf;

#define SMALL_DICT 8

void tmpl_fail(tmpl_run *r, status st, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(r->message, sizeof(r->message), format, args);
    va_end(args);
    r->st = st;
    longjmp(r->fail, 1);
}

void *tmpl_alloc(tmpl_run *r, size_t bytes)
{
    tmpl_charge(r, bytes / 4);
    void *p = mem_arena_alloc(r->arena, bytes);
    if (p == NULL)
        tmpl_fail(r, ST_LIMIT, "needs more memory than a template may take");
    return p;
}

void tmpl_charge(tmpl_run *r, size_t bytes)
{
    r->steps += 1 + (int64_t)(bytes / 64);
    if (r->steps > r->max_steps)
        tmpl_fail(r, ST_LIMIT, "takes more than the %lld steps a template may take", (long long)r->max_steps);
}

void tmpl_enter(tmpl_run *r)
{
    if (++r->depth > r->max_depth)
        tmpl_fail(r, ST_LIMIT, "is nested deeper than a template may be");
}

/* ---- strings ---- */

tv tv_view_of(tmpl_run *r, const char *p, size_t n)
{
    tstr *s = tmpl_alloc(r, sizeof(*s));
    *s = (tstr){.p = p, .len = n, .chars = -1};
    return (tv){.type = TV_STR, .u.s = s};
}

tv tv_copy_of(tmpl_run *r, const char *p, size_t n)
{
    char *copy = tmpl_alloc(r, n);
    if (n > 0)
        memcpy(copy, p, n);
    return tv_view_of(r, copy, n);
}

tv tv_text(tmpl_run *r, const char *text)
{
    return tv_view_of(r, text, strlen(text));
}

tv tv_sub(tmpl_run *r, tv s, size_t from, size_t to)
{
    if (from == 0 && to == s.u.s->len)
        return s;
    tv v = tv_view_of(r, s.u.s->p + from, to - from);
    if (s.u.s->chars == (int64_t)s.u.s->len)
        v.u.s->chars = (int64_t)(to - from);
    v.markup = s.markup;
    return v;
}

int64_t tv_chars(const tstr *s)
{
    if (s->chars < 0) {
        int64_t n = 0;
        for (size_t i = 0; i < s->len; i++)
            n += ((unsigned char)s->p[i] & 0xc0) != 0x80;
        ((tstr *)s)->chars = n;
    }
    return s->chars;
}

size_t tv_offset(const tstr *s, int64_t index)
{
    if (tv_chars(s) == (int64_t)s->len)
        return (size_t)index;
    size_t i = 0;
    for (; i < s->len; i++) {
        if (((unsigned char)s->p[i] & 0xc0) != 0x80 && index-- == 0)
            break;
    }
    return i;
}

tv tv_concat(tmpl_run *r, tv a, tv b)
{
    const tstr *x = a.u.s, *y = b.u.s;
    if (y->len == 0 && !b.markup)
        return a;
    tmpl_charge(r, y->len);
    tstrbuf *buf = x->buf;
    if (buf == NULL || x->p + x->len != buf->data + buf->used || buf->cap - buf->used < y->len) {
        size_t need;
        if (!mem_add(x->len, y->len, &need) || need > SIZE_MAX / 4)
            tmpl_fail(r, ST_LIMIT, "makes too long a string");
        buf = tmpl_alloc(r, sizeof(*buf));
        buf->cap = need + need / 2;
        buf->data = tmpl_alloc(r, buf->cap);
        memcpy(buf->data, x->p, x->len);
        buf->used = x->len;
    }
    memcpy(buf->data + buf->used, y->p, y->len);
    buf->used += y->len;
    tv v = tv_view_of(r, buf->data + buf->used - x->len - y->len, x->len + y->len);
    v.u.s->buf = buf;
    if (x->chars >= 0 && y->chars >= 0)
        v.u.s->chars = x->chars + y->chars;
    v.markup = a.markup || b.markup;
    return v;
}

bool tv_text_is(tv v, const char *text)
{
    return v.type == TV_STR && v.u.s->len == strlen(text) && memcmp(v.u.s->p, text, v.u.s->len) == 0;
}

/* ---- undefined ---- */

static tv undefined(tmpl_run *r, tundef value)
{
    tundef *u = tmpl_alloc(r, sizeof(*u));
    *u = value;
    return (tv){.type = TV_UNDEFINED, .u.undef = u};
}

tv tv_undefined_hint(tmpl_run *r, const char *hint)
{
    return undefined(r, (tundef){.hint = hint});
}

tv tv_undefined_name(tmpl_run *r, tv name)
{
    return undefined(r, (tundef){.name = name});
}

tv tv_undefined_attr(tmpl_run *r, tv object, tv name, bool unsafe)
{
    return undefined(r, (tundef){.object = tv_type_name(object), .name = name, .unsafe = unsafe});
}

void tmpl_fail_undefined(tmpl_run *r, tv v)
{
    const tundef *u = v.u.undef;
    if (u->hint != NULL)
        tmpl_fail(r, ST_INVALID, "%s", u->hint);
    tbuf b = {.r = r};
    tmpl_put_repr(&b, u->name);
    if (u->unsafe)
        tmpl_fail(r, ST_INVALID, "access to attribute %.*s of '%s' object is unsafe", (int)b.len, b.p, u->object);
    if (u->object == NULL)
        tmpl_fail(r, ST_INVALID, "%.*s is undefined", (int)b.len, b.p);
    const char *kind = strcmp(u->object, "NoneType") == 0 ? "None" : u->object;
    tmpl_fail(r, ST_INVALID, "'%s%s' has no %s %.*s", kind, kind[0] == 'N' ? "" : " object", u->name.type == TV_STR ? "attribute" : "element",
              (int)b.len, b.p);
}

/* ---- lists and dicts ---- */

tv tv_list_of(tmpl_run *r, tv_type type, size_t n)
{
    size_t bytes;
    if (!mem_mul(n, sizeof(tv), &bytes))
        tmpl_fail(r, ST_LIMIT, "makes too long a list");
    tlist *l = tmpl_alloc(r, sizeof(*l));
    l->v = n == 0 ? NULL : tmpl_alloc(r, bytes);
    l->n = n;
    return (tv){.type = (uint8_t)type, .u.l = l};
}

void tv_list_push(tmpl_run *r, tv list, tv item)
{
    tlist *l = list.u.l;
    tmpl_charge(r, 0);
    tlistbuf *buf = l->buf;
    if (buf == NULL || l->v + l->n != buf->data + buf->used || buf->used == buf->cap) {
        buf = tmpl_alloc(r, sizeof(*buf));
        buf->cap = l->n < 4 ? 8 : l->n * 2;
        buf->data = tmpl_alloc(r, buf->cap * sizeof(tv));
        if (l->n > 0)
            memcpy(buf->data, l->v, l->n * sizeof(tv));
        buf->used = l->n;
        l->v = buf->data;
        l->buf = buf;
    }
    buf->data[buf->used++] = item;
    l->n++;
}

tv tv_pair(tmpl_run *r, tv a, tv b)
{
    tv t = tv_list_of(r, TV_TUPLE, 2);
    t.u.l->v[0] = a;
    t.u.l->v[1] = b;
    return t;
}

tv tv_dict_new(tmpl_run *r)
{
    return (tv){.type = TV_DICT, .u.d = tmpl_alloc(r, sizeof(tdict))};
}

static uint64_t hash_of(tmpl_run *r, tv v)
{
    switch (v.type) {
    case TV_STR:
        tmpl_charge(r, v.u.s->len);
        return hash_fast(v.u.s->p, v.u.s->len, 1);
    case TV_BOOL:
    case TV_INT:
        return hash_mix((uint64_t)tv_whole(v) + 2);
    case TV_FLOAT:
        if (v.u.f == trunc(v.u.f) && fabs(v.u.f) < 0x1p62)
            return hash_mix((uint64_t)(int64_t)v.u.f + 2);
        return hash_fast(&v.u.f, sizeof(v.u.f), 3);
    case TV_TUPLE: {
        uint64_t h = 4;
        tmpl_enter(r);
        for (size_t i = 0; i < v.u.l->n; i++)
            h = hash_mix(h ^ hash_of(r, v.u.l->v[i]));
        tmpl_leave(r);
        return h;
    }
    case TV_NONE:
    case TV_UNDEFINED:
    case TV_MISSING:
        return hash_mix(5 + (uint64_t)v.type);
    case TV_RANGE:
        return hash_mix(6 + (uint64_t)v.u.range->n);
    case TV_LIST:
    case TV_DICT:
    case TV_VIEW:
        tmpl_fail(r, ST_INVALID, "unhashable type: '%s'", tv_type_name(v));
    default:
        return hash_mix((uint64_t)(uintptr_t)v.u.p);
    }
}

static tentry *dict_find(tmpl_run *r, const tdict *d, tv key, uint64_t hash)
{
    if (d->index == NULL) {
        for (size_t i = 0; i < d->n; i++) {
            if (d->e[i].hash == hash && tv_equal(r, d->e[i].key, key))
                return &d->e[i];
        }
        return NULL;
    }
    for (size_t at = hash & (d->index_cap - 1); d->index[at] != 0; at = (at + 1) & (d->index_cap - 1)) {
        tentry *e = &d->e[d->index[at] - 1];
        if (e->hash == hash && tv_equal(r, e->key, key))
            return e;
    }
    return NULL;
}

static void dict_index(tmpl_run *r, tdict *d)
{
    d->index_cap = d->cap * 2;
    d->index = tmpl_alloc(r, d->index_cap * sizeof(*d->index));
    for (size_t i = 0; i < d->n; i++) {
        size_t at = d->e[i].hash & (d->index_cap - 1);
        while (d->index[at] != 0)
            at = (at + 1) & (d->index_cap - 1);
        d->index[at] = (uint32_t)i + 1;
    }
}

void tv_dict_set(tmpl_run *r, tdict *d, tv key, tv value)
{
    tmpl_charge(r, 0);
    uint64_t hash = hash_of(r, key);
    tentry *e = dict_find(r, d, key, hash);
    if (e != NULL) {
        e->value = value;
        return;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap == 0 ? SMALL_DICT : d->cap * 2;
        if (cap > (size_t)1 << 28)
            tmpl_fail(r, ST_LIMIT, "makes too large a dict");
        tentry *wider = tmpl_alloc(r, cap * sizeof(*wider));
        if (d->n > 0)
            memcpy(wider, d->e, d->n * sizeof(*wider));
        d->e = wider;
        d->cap = cap;
        if (cap > SMALL_DICT)
            dict_index(r, d);
    }
    d->e[d->n++] = (tentry){.key = key, .value = value, .hash = hash};
    if (d->index != NULL) {
        size_t at = hash & (d->index_cap - 1);
        while (d->index[at] != 0)
            at = (at + 1) & (d->index_cap - 1);
        d->index[at] = (uint32_t)d->n;
    }
}

const tv *tv_dict_get(tmpl_run *r, const tdict *d, tv key)
{
    tentry *e = dict_find(r, d, key, hash_of(r, key));
    return e == NULL ? NULL : &e->value;
}

const tv *tv_dict_get_text(tmpl_run *r, const tdict *d, const char *key)
{
    return tv_dict_get(r, d, tv_text(r, key));
}

const char *tv_type_name(tv v)
{
    static const char *const names[] = {
        [TV_MISSING] = "missing", [TV_UNDEFINED] = "Undefined", [TV_NONE] = "NoneType", [TV_BOOL] = "bool", [TV_INT] = "int",
        [TV_FLOAT] = "float", [TV_STR] = "str", [TV_LIST] = "list", [TV_TUPLE] = "tuple", [TV_DICT] = "dict", [TV_VIEW] = "dict_items",
        [TV_RANGE] = "range", [TV_ITER] = "generator", [TV_NAMESPACE] = "Namespace", [TV_MACRO] = "Macro",
        [TV_METHOD] = "builtin_function_or_method", [TV_FUNC] = "function", [TV_LOOP] = "LoopContext", [TV_CYCLER] = "Cycler", [TV_JOINER] = "Joiner",
    };
    if (v.type == TV_STR && v.markup)
        return "Markup";
    if (v.type == TV_VIEW)
        return v.u.view->kind == TVIEW_KEYS ? "dict_keys" : v.u.view->kind == TVIEW_VALUES ? "dict_values" : "dict_items";
    return names[v.type];
}

/* ---- truth, equality, order ---- */

bool tv_truth(tv v)
{
    switch (v.type) {
    case TV_MISSING:
    case TV_UNDEFINED:
    case TV_NONE:
        return false;
    case TV_BOOL:
        return v.u.b;
    case TV_INT:
        return v.u.i != 0;
    case TV_FLOAT:
        return v.u.f != 0;
    case TV_STR:
        return v.u.s->len > 0;
    case TV_LIST:
    case TV_TUPLE:
        return v.u.l->n > 0;
    case TV_DICT:
        return v.u.d->n > 0;
    case TV_VIEW:
        return v.u.view->d->n > 0;
    case TV_RANGE:
        return v.u.range->n > 0;
    default:
        return true;
    }
}

static bool dict_equal(tmpl_run *r, const tdict *a, const tdict *b)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        const tv *other = tv_dict_get(r, b, a->e[i].key);
        if (other == NULL || !tv_equal(r, a->e[i].value, *other))
            return false;
    }
    return true;
}

static bool seq_equal(tmpl_run *r, const tlist *a, const tlist *b)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        if (!tv_equal(r, a->v[i], b->v[i]))
            return false;
    }
    return true;
}

/* Keys and items compare as sets do, values only with themselves. */
static bool view_equal(tmpl_run *r, tv a, tv b)
{
    const tview *x = a.u.view, *y = b.u.view;
    if (x->kind == TVIEW_VALUES || y->kind == TVIEW_VALUES)
        return x == y;
    if (x->d->n != y->d->n)
        return false;
    if (x->kind == TVIEW_ITEMS && y->kind == TVIEW_ITEMS)
        return dict_equal(r, x->d, y->d);
    titer *it = tv_iterate(r, a);
    tv v;
    while (it->next(r, it, &v)) {
        if (!tv_in(r, v, b))
            return false;
    }
    return true;
}

bool tv_equal(tmpl_run *r, tv a, tv b)
{
    tmpl_charge(r, 0);
    if (tv_is_number(a) && tv_is_number(b)) {
        if (a.type != TV_FLOAT && b.type != TV_FLOAT)
            return tv_whole(a) == tv_whole(b);
        long double x = a.type == TV_FLOAT ? a.u.f : (long double)tv_whole(a), y = b.type == TV_FLOAT ? b.u.f : (long double)tv_whole(b);
        return x == y;
    }
    if (a.type != b.type)
        return false;
    bool equal;
    switch (a.type) {
    case TV_NONE:
    case TV_UNDEFINED:
    case TV_MISSING:
        return true;
    case TV_STR:
        tmpl_charge(r, a.u.s->len);
        return a.u.s->len == b.u.s->len && memcmp(a.u.s->p, b.u.s->p, a.u.s->len) == 0;
    case TV_LIST:
    case TV_TUPLE:
        tmpl_enter(r);
        equal = a.u.l == b.u.l || seq_equal(r, a.u.l, b.u.l);
        tmpl_leave(r);
        return equal;
    case TV_DICT:
        tmpl_enter(r);
        equal = a.u.d == b.u.d || dict_equal(r, a.u.d, b.u.d);
        tmpl_leave(r);
        return equal;
    case TV_RANGE: {
        const trange *x = a.u.range, *y = b.u.range;
        return x->n == y->n && (x->n == 0 || (x->start == y->start && (x->n == 1 || x->step == y->step)));
    }
    case TV_VIEW:
        return view_equal(r, a, b);
    case TV_METHOD:
        return a.u.method->fn == b.u.method->fn && a.u.method->self.u.p == b.u.method->self.u.p;
    default:
        return a.u.p == b.u.p;
    }
}

static bool ordered(int op, int cmp)
{
    return op == TV_LT ? cmp < 0 : op == TV_LE ? cmp <= 0 : op == TV_GT ? cmp > 0 : cmp >= 0;
}

bool tv_order(tmpl_run *r, int op, tv a, tv b)
{
    static const char *const signs[] = {"<", "<=", ">", ">="};
    tmpl_charge(r, 0);
    if (a.type == TV_UNDEFINED || b.type == TV_UNDEFINED)
        tmpl_fail_undefined(r, a.type == TV_UNDEFINED ? a : b);
    if (tv_is_number(a) && tv_is_number(b)) {
        long double x = a.type == TV_FLOAT ? a.u.f : (long double)tv_whole(a), y = b.type == TV_FLOAT ? b.u.f : (long double)tv_whole(b);
        return op == TV_LT ? x < y : op == TV_LE ? x <= y : op == TV_GT ? x > y : x >= y;
    }
    if (a.type == TV_STR && b.type == TV_STR) {
        size_t n = a.u.s->len < b.u.s->len ? a.u.s->len : b.u.s->len;
        tmpl_charge(r, n);
        int cmp = memcmp(a.u.s->p, b.u.s->p, n);
        return ordered(op, cmp != 0 ? cmp : a.u.s->len < b.u.s->len ? -1 : a.u.s->len > b.u.s->len);
    }
    if (tv_is_seq(a) && a.type == b.type) {
        const tlist *x = a.u.l, *y = b.u.l;
        size_t i = 0;
        tmpl_enter(r);
        while (i < x->n && i < y->n && tv_equal(r, x->v[i], y->v[i]))
            i++;
        bool result = i < x->n && i < y->n ? tv_order(r, op, x->v[i], y->v[i]) : ordered(op, x->n < y->n ? -1 : x->n > y->n);
        tmpl_leave(r);
        return result;
    }
    if (a.type == TV_VIEW && b.type == TV_VIEW)
        tmpl_fail(r, ST_UNSUPPORTED, "sets are not supported");
    tmpl_fail(r, ST_INVALID, "'%s' not supported between instances of '%s' and '%s'", signs[op], tv_type_name(a), tv_type_name(b));
}

bool tv_in(tmpl_run *r, tv item, tv c)
{
    switch (c.type) {
    case TV_STR:
        if (item.type != TV_STR)
            tmpl_fail(r, ST_INVALID, "'in <string>' requires string as left operand, not %s", tv_type_name(item));
        tmpl_charge(r, c.u.s->len);
        return memmem(c.u.s->p, c.u.s->len, item.u.s->p, item.u.s->len) != NULL;
    case TV_DICT:
        return tv_dict_get(r, c.u.d, item) != NULL;
    case TV_VIEW:
        if (c.u.view->kind == TVIEW_KEYS)
            return tv_dict_get(r, c.u.view->d, item) != NULL;
        break;
    case TV_RANGE:
        if (item.type == TV_INT || item.type == TV_BOOL) {
            const trange *g = c.u.range;
            int64_t v = tv_whole(item);
            if (g->n == 0 || (g->step > 0 ? v < g->start || v >= g->stop : v > g->start || v <= g->stop))
                return false;
            return (v - g->start) % g->step == 0;
        }
        break;
    default:
        if (!tv_is_iterable(c))
            tmpl_fail(r, ST_INVALID, "argument of type '%s' is not iterable", tv_type_name(c));
    }
    titer *it = tv_iterate(r, c);
    tv v;
    while (it->next(r, it, &v)) {
        if (tv_equal(r, v, item))
            return true;
    }
    return false;
}

/* ---- length and iteration ---- */

bool tv_has_length(tv v)
{
    return v.type == TV_UNDEFINED || v.type == TV_STR || tv_is_seq(v) || v.type == TV_DICT || v.type == TV_VIEW || v.type == TV_RANGE || v.type == TV_LOOP;
}

int64_t tv_length(tmpl_run *r, tv v)
{
    switch (v.type) {
    case TV_UNDEFINED:
        return 0;
    case TV_STR:
        tmpl_charge(r, v.u.s->chars < 0 ? v.u.s->len : 0);
        return tv_chars(v.u.s);
    case TV_LIST:
    case TV_TUPLE:
        return (int64_t)v.u.l->n;
    case TV_DICT:
        return (int64_t)v.u.d->n;
    case TV_VIEW:
        return (int64_t)v.u.view->d->n;
    case TV_RANGE:
        return v.u.range->n;
    case TV_LOOP:
        return tmpl_getattr(r, v, tv_text(r, "length")).u.i;
    default:
        tmpl_fail(r, ST_INVALID, "object of type '%s' has no len()", tv_type_name(v));
    }
}

bool tv_is_iterable(tv v)
{
    return tv_has_length(v) || v.type == TV_ITER;
}

static bool next_in_list(tmpl_run *r, titer *it, tv *out)
{
    tmpl_charge(r, 0);
    if (it->i >= it->source.u.l->n)
        return false;
    *out = it->source.u.l->v[it->i++];
    return true;
}

static bool next_in_string(tmpl_run *r, titer *it, tv *out)
{
    const tstr *s = it->source.u.s;
    if (it->i >= s->len)
        return false;
    const char *p = s->p + it->i, *end = s->p + s->len, *q = p;
    tmpl_cp_next(&q, end);
    *out = tv_view_of(r, p, (size_t)(q - p));
    out->u.s->chars = 1;
    it->i += (size_t)(q - p);
    return true;
}

static bool next_in_dict(tmpl_run *r, titer *it, tv *out)
{
    const tdict *d = it->source.type == TV_DICT ? it->source.u.d : it->source.u.view->d;
    int kind = it->source.type == TV_DICT ? TVIEW_KEYS : it->source.u.view->kind;
    tmpl_charge(r, 0);
    if (it->i >= d->n)
        return false;
    const tentry *e = &d->e[it->i++];
    *out = kind == TVIEW_KEYS ? e->key : kind == TVIEW_VALUES ? e->value : tv_pair(r, e->key, e->value);
    return true;
}

static bool next_in_range(tmpl_run *r, titer *it, tv *out)
{
    tmpl_charge(r, 0);
    if ((int64_t)it->i >= it->source.u.range->n)
        return false;
    *out = tv_int(it->source.u.range->start + (int64_t)it->i++ * it->source.u.range->step);
    return true;
}

static bool next_in_nothing(tmpl_run *r, titer *it, tv *out)
{
    (void)r, (void)it, (void)out;
    return false;
}

/* A loop object is its own iterator: it yields (item, loop). */
static bool next_in_loop(tmpl_run *r, titer *it, tv *out)
{
    tloop *l = it->source.u.loop;
    tv v;
    if (l->after.type != TV_MISSING) {
        v = l->after;
        l->after = tv_missing();
    } else if (!l->it->next(r, l->it, &v)) {
        return false;
    }
    l->index0++;
    l->before = l->current;
    l->current = v;
    *out = tv_pair(r, v, it->source);
    return true;
}

titer *tv_iterate(tmpl_run *r, tv v)
{
    if (v.type == TV_ITER)
        return v.u.it;
    titer *it = tmpl_alloc(r, sizeof(*it));
    it->source = v;
    switch (v.type) {
    case TV_LIST:
    case TV_TUPLE:
        it->next = next_in_list;
        break;
    case TV_STR:
        it->next = next_in_string;
        break;
    case TV_DICT:
    case TV_VIEW:
        it->next = next_in_dict;
        break;
    case TV_RANGE:
        it->next = next_in_range;
        break;
    case TV_UNDEFINED:
        it->next = next_in_nothing;
        break;
    case TV_LOOP:
        it->next = next_in_loop;
        break;
    default:
        tmpl_fail(r, ST_INVALID, "'%s' object is not iterable", tv_type_name(v));
    }
    return it;
}

tv tv_generator(tmpl_run *r, const char *name, tv source, bool (*next)(tmpl_run *, titer *, tv *), void *arg)
{
    titer *it = tmpl_alloc(r, sizeof(*it));
    *it = (titer){.next = next, .source = source, .arg = arg, .name = name};
    return (tv){.type = TV_ITER, .u.it = it};
}

tv tv_to_list(tmpl_run *r, tv v)
{
    if (tv_is_seq(v)) {
        tv list = tv_list_of(r, TV_LIST, v.u.l->n);
        if (v.u.l->n > 0)
            memcpy(list.u.l->v, v.u.l->v, v.u.l->n * sizeof(tv));
        return list;
    }
    tv list = tv_list_of(r, TV_LIST, 0), item;
    titer *it = tv_iterate(r, v);
    while (it->next(r, it, &item))
        tv_list_push(r, list, item);
    return list;
}

int64_t tv_to_int(tmpl_run *r, tv v, const char *what)
{
    if (v.type == TV_UNDEFINED)
        tmpl_fail_undefined(r, v);
    if (v.type != TV_INT && v.type != TV_BOOL)
        tmpl_fail(r, ST_INVALID, "%s: '%s' object cannot be interpreted as an integer", what, tv_type_name(v));
    return tv_whole(v);
}

const tstr *tv_need_str(tmpl_run *r, tv v, const char *what)
{
    if (v.type == TV_UNDEFINED)
        tmpl_fail_undefined(r, v);
    if (v.type != TV_STR)
        tmpl_fail(r, ST_INVALID, "%s must be str, not %s", what, tv_type_name(v));
    return v.u.s;
}
