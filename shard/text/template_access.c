/* shard/text/template_access.c - what lies behind a dot or brackets: attributes, methods, items, slices.
 *
 * The sandbox: nothing that starts with an underscore, nothing that changes a list or dict; only what is listed here exists. */
#include "shard/text/template_internal.h"

#include <stdio.h>

/* ---- arguments ---- */

void tmpl_bind(tmpl_run *r, const char *func, const targs *a, const char *const *names, int n, int required, tv *out)
{
    if (a->n > n)
        tmpl_fail(r, ST_INVALID, "%s() takes at most %d arguments (%d given)", func, n, a->n);
    for (int i = 0; i < n; i++)
        out[i] = i < a->n ? a->pos[i] : tv_missing();
    for (int k = 0; k < a->n_kw; k++) {
        int i = 0;
        while (i < n && !tv_text_is(a->kw_name[k], names[i]))
            i++;
        const tstr *name = a->kw_name[k].u.s;
        if (i == n)
            tmpl_fail(r, ST_INVALID, "%s() got an unexpected keyword argument '%.*s'", func, (int)name->len, name->p);
        if (out[i].type != TV_MISSING)
            tmpl_fail(r, ST_INVALID, "%s() got multiple values for argument '%s'", func, names[i]);
        out[i] = a->kw[k];
    }
    for (int i = 0; i < required; i++) {
        if (out[i].type == TV_MISSING)
            tmpl_fail(r, ST_INVALID, "%s() missing required argument: '%s'", func, names[i]);
    }
}

void tmpl_positional(tmpl_run *r, const char *func, const targs *a, int min, int max)
{
    if (a->n_kw > 0)
        tmpl_fail(r, ST_INVALID, "%s() takes no keyword arguments", func);
    if (a->n < min || a->n > max)
        tmpl_fail(r, ST_INVALID, "%s() takes %d to %d arguments (%d given)", func, min, max, a->n);
}

/* ---- methods of dicts, lists, loops ---- */

static tv view(tmpl_run *r, tv dict, int kind)
{
    tview *v = tmpl_alloc(r, sizeof(*v));
    *v = (tview){.d = dict.u.d, .kind = kind};
    return (tv){.type = TV_VIEW, .u.view = v};
}

static tv d_items(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "items", a, 0, 0);
    return view(r, self, TVIEW_ITEMS);
}
static tv d_keys(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "keys", a, 0, 0);
    return view(r, self, TVIEW_KEYS);
}
static tv d_values(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "values", a, 0, 0);
    return view(r, self, TVIEW_VALUES);
}

static tv d_get(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "get", a, 1, 2);
    const tv *v = tv_dict_get(r, self.u.d, a->pos[0]);
    return v != NULL ? *v : a->n > 1 ? a->pos[1] : tv_none();
}

static tv d_copy(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "copy", a, 0, 0);
    return self; /* nothing can tell a copy of what cannot change, but for identity */
}

static tv l_copy(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "copy", a, 0, 0);
    return tv_to_list(r, self);
}

static tv l_count(tmpl_run *r, tv self, const targs *a)
{
    int64_t n = 0;
    tmpl_positional(r, "count", a, 1, 1);
    self = self.type == TV_RANGE ? tv_to_list(r, self) : self;
    for (size_t i = 0; i < self.u.l->n; i++)
        n += tv_equal(r, self.u.l->v[i], a->pos[0]);
    return tv_int(n);
}

static tv l_index(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "index", a, 1, 3);
    self = self.type == TV_RANGE ? tv_to_list(r, self) : self;
    int64_t n = (int64_t)self.u.l->n, from = a->n > 1 ? tv_to_int(r, a->pos[1], "start") : 0, to = a->n > 2 ? tv_to_int(r, a->pos[2], "stop") : n;
    from = from < 0 ? (from + n < 0 ? 0 : from + n) : from;
    to = to < 0 ? to + n : to;
    for (int64_t i = from; i < n && i < to; i++) {
        if (tv_equal(r, self.u.l->v[i], a->pos[0]))
            return tv_int(i);
    }
    tmpl_fail(r, ST_INVALID, "the value is not in the %s", tv_type_name(self));
}

static tv loop_peek(tmpl_run *r, tloop *l)
{
    if (l->after.type == TV_MISSING && !l->it->next(r, l->it, &l->after))
        l->after = tv_missing();
    return l->after;
}

static int64_t loop_length(tmpl_run *r, tloop *l)
{
    if (l->length >= 0)
        return l->length;
    if (tv_has_length(l->iterable))
        return l->length = tv_length(r, l->iterable);
    tv rest = tv_to_list(r, (tv){.type = TV_ITER, .u.it = l->it});
    l->it = tv_iterate(r, rest);
    return l->length = (int64_t)rest.u.l->n + l->index0 + 1 + (l->after.type != TV_MISSING);
}

static tv loop_cycle(tmpl_run *r, tv self, const targs *a)
{
    if (a->n_kw > 0 || a->n == 0)
        tmpl_fail(r, ST_INVALID, "no items for cycling given");
    return a->pos[self.u.loop->index0 % a->n];
}

static tv loop_changed(tmpl_run *r, tv self, const targs *a)
{
    tloop *l = self.u.loop;
    tv now = tv_list_of(r, TV_TUPLE, (size_t)a->n);
    if (a->n_kw > 0)
        tmpl_fail(r, ST_INVALID, "changed() takes no keyword arguments");
    if (a->n > 0)
        memcpy(now.u.l->v, a->pos, (size_t)a->n * sizeof(tv));
    if (l->changed.type != TV_MISSING && tv_equal(r, l->changed, now))
        return tv_bool(false);
    l->changed = now;
    return tv_bool(true);
}

static tv cycler_next(tmpl_run *r, tv self, const targs *a)
{
    tcycler *c = self.u.cycler;
    tmpl_positional(r, "next", a, 0, 0);
    tv v = c->items[c->pos];
    c->pos = (c->pos + 1) % c->n;
    return v;
}

static tv cycler_reset(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "reset", a, 0, 0);
    self.u.cycler->pos = 0;
    return tv_none();
}

/* dict is also the name of a global with one method of its own. */
static tv dict_fromkeys(tmpl_run *r, tv self, const targs *a)
{
    (void)self;
    tmpl_positional(r, "fromkeys", a, 1, 2);
    tv d = tv_dict_new(r), key;
    titer *it = tv_iterate(r, a->pos[0]);
    while (it->next(r, it, &key))
        tv_dict_set(r, d.u.d, key, a->n > 1 ? a->pos[1] : tv_none());
    return d;
}

static tv number_is_integer(tmpl_run *r, tv self, const targs *a)
{
    tmpl_positional(r, "is_integer", a, 0, 0);
    return tv_bool(self.type != TV_FLOAT || (self.u.f == (double)(int64_t)self.u.f));
}

static const struct {
    uint32_t types; /* bit set of tv_type */
    const char *name;
    tmpl_method_fn fn; /* NULL: exists in Python, but the sandbox forbids it */
} methods[] = {
    {1u << TV_DICT, "items", d_items}, {1u << TV_DICT, "keys", d_keys}, {1u << TV_DICT, "values", d_values}, {1u << TV_DICT, "get", d_get},
    {1u << TV_DICT, "copy", d_copy}, {1u << TV_DICT, "fromkeys", dict_fromkeys}, {1u << TV_DICT, "clear", NULL}, {1u << TV_DICT, "pop", NULL},
    {1u << TV_DICT, "popitem", NULL}, {1u << TV_DICT, "setdefault", NULL}, {1u << TV_DICT, "update", NULL},
    {1u << TV_LIST, "copy", l_copy}, {1u << TV_LIST | 1u << TV_TUPLE, "count", l_count}, {1u << TV_LIST | 1u << TV_TUPLE, "index", l_index},
    {1u << TV_LIST, "append", NULL}, {1u << TV_LIST, "clear", NULL}, {1u << TV_LIST, "extend", NULL}, {1u << TV_LIST, "insert", NULL},
    {1u << TV_LIST, "pop", NULL}, {1u << TV_LIST, "remove", NULL}, {1u << TV_LIST, "reverse", NULL}, {1u << TV_LIST, "sort", NULL},
    {1u << TV_RANGE, "count", l_count}, {1u << TV_RANGE, "index", l_index}, {1u << TV_LOOP, "cycle", loop_cycle}, {1u << TV_LOOP, "changed", loop_changed},
    {1u << TV_CYCLER, "next", cycler_next}, {1u << TV_CYCLER, "reset", cycler_reset},
    {1u << TV_FLOAT, "is_integer", number_is_integer},
};

static tv method_of(tmpl_run *r, tv self, tmpl_method_fn fn, const char *name)
{
    tmethod *m = tmpl_alloc(r, sizeof(*m));
    *m = (tmethod){.self = self, .fn = fn, .name = name};
    return (tv){.type = TV_METHOD, .u.method = m};
}

static tv loop_attribute(tmpl_run *r, tv self, const tstr *name)
{
    tloop *l = self.u.loop;
    tv n = {.type = TV_STR, .u.s = (tstr *)name};
    if (tv_text_is(n, "index"))
        return tv_int(l->index0 + 1);
    if (tv_text_is(n, "index0"))
        return tv_int(l->index0);
    if (tv_text_is(n, "first"))
        return tv_bool(l->index0 == 0);
    if (tv_text_is(n, "last"))
        return tv_bool(loop_peek(r, l).type == TV_MISSING);
    if (tv_text_is(n, "length"))
        return tv_int(loop_length(r, l));
    if (tv_text_is(n, "revindex"))
        return tv_int(loop_length(r, l) - l->index0);
    if (tv_text_is(n, "revindex0"))
        return tv_int(loop_length(r, l) - l->index0 - 1);
    if (tv_text_is(n, "depth"))
        return tv_int(l->depth0 + 1);
    if (tv_text_is(n, "depth0"))
        return tv_int(l->depth0);
    if (tv_text_is(n, "previtem"))
        return l->index0 == 0 ? tv_undefined_hint(r, "there is no previous item") : l->before;
    if (tv_text_is(n, "nextitem"))
        return loop_peek(r, l).type == TV_MISSING ? tv_undefined_hint(r, "there is no next item") : l->after;
    return tv_missing();
}

static tv macro_attribute(tmpl_run *r, tv self, tv name)
{
    const tmacro *m = self.u.macro;
    const tmpl_node *n = m->node;
    if (tv_text_is(name, "name"))
        return m->name == NULL ? tv_none() : (tv){.type = TV_STR, .u.s = (tstr *)m->name};
    if (tv_text_is(name, "caller"))
        return tv_bool(n->uses_caller);
    if (tv_text_is(name, "catch_kwargs"))
        return tv_bool(n->uses_kwargs);
    if (tv_text_is(name, "catch_varargs"))
        return tv_bool(n->uses_varargs);
    if (!tv_text_is(name, "arguments"))
        return tv_missing();
    tv list = tv_list_of(r, TV_TUPLE, (size_t)n->list.n);
    for (int i = 0; i < n->list.n; i++)
        list.u.l->v[i] = n->list.v[i]->value;
    return list;
}

static tv plain_attribute(tmpl_run *r, tv self, tv name)
{
    if (self.type == TV_TUPLE && self.u.l->group && tv_text_is(name, "grouper"))
        return self.u.l->v[0];
    if (self.type == TV_TUPLE && self.u.l->group && tv_text_is(name, "list"))
        return self.u.l->v[1];
    if (self.type == TV_RANGE && tv_text_is(name, "start"))
        return tv_int(self.u.range->start);
    if (self.type == TV_RANGE && tv_text_is(name, "stop"))
        return tv_int(self.u.range->stop);
    if (self.type == TV_RANGE && tv_text_is(name, "step"))
        return tv_int(self.u.range->step);
    if (self.type == TV_CYCLER && tv_text_is(name, "items")) {
        tv items = tv_list_of(r, TV_TUPLE, (size_t)self.u.cycler->n);
        memcpy(items.u.l->v, self.u.cycler->items, (size_t)self.u.cycler->n * sizeof(tv));
        return items;
    }
    if (self.type == TV_CYCLER && tv_text_is(name, "pos"))
        return tv_int(self.u.cycler->pos);
    if (self.type == TV_CYCLER && tv_text_is(name, "current"))
        return self.u.cycler->items[self.u.cycler->pos];
    if ((self.type == TV_INT || self.type == TV_BOOL) && (tv_text_is(name, "real") || tv_text_is(name, "numerator")))
        return tv_int(tv_whole(self));
    if (self.type == TV_FLOAT && tv_text_is(name, "real"))
        return self;
    return tv_missing();
}

/* Python's getattr under the sandbox: missing where there is no such attribute, undefined where it is forbidden. */
static tv attribute(tmpl_run *r, tv self, tv name)
{
    static const char *const dunders[] = {"__class__", "__doc__", "__init__", "__dict__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__",
                                          "__hash__", "__repr__", "__str__", "__getattribute__", "__new__", "__reduce__", "__reduce_ex__", "__dir__",
                                          "__sizeof__", "__format__", "__setattr__", "__delattr__", "__subclasshook__", "__init_subclass__"};
    const tstr *s = name.u.s;
    if (self.type == TV_NAMESPACE) {
        const tv *v = tv_dict_get(r, self.u.d, name);
        return v == NULL ? tv_missing() : *v;
    }
    if (s->len > 4 && s->p[0] == '_' && s->p[1] == '_') {
        for (size_t i = 0; i < ARRAY_LEN(dunders); i++) {
            if (tv_text_is(name, dunders[i]))
                return tv_undefined_attr(r, self, name, true);
        }
        return tv_missing();
    }
    if (self.type == TV_STR) {
        const char *canonical;
        tmpl_method_fn fn = tmpl_str_method(s->p, s->len, &canonical);
        return fn == NULL ? tv_missing() : method_of(r, self, fn, canonical);
    }
    if (self.type == TV_LOOP) {
        tv v = loop_attribute(r, self, s);
        if (v.type != TV_MISSING)
            return v;
    }
    if (self.type == TV_MACRO)
        return macro_attribute(r, self, name);
    if (self.type == TV_FUNC)
        return strcmp(self.u.func->name, "dict") == 0 && tv_text_is(name, "fromkeys") ? method_of(r, self, dict_fromkeys, "fromkeys") : tv_missing();
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        if ((methods[i].types >> self.type & 1) != 0 && tv_text_is(name, methods[i].name))
            return methods[i].fn == NULL ? tv_undefined_attr(r, self, name, true) : method_of(r, self, methods[i].fn, methods[i].name);
    }
    return plain_attribute(r, self, name);
}

/* obj[index]: missing on Python's TypeError or LookupError */
static tv item(tmpl_run *r, tv self, tv index)
{
    if (self.type == TV_DICT) {
        if (index.type == TV_LIST || index.type == TV_DICT || index.type == TV_VIEW)
            return tv_missing();
        const tv *v = tv_dict_get(r, self.u.d, index);
        return v == NULL ? tv_missing() : *v;
    }
    bool sequence = self.type == TV_STR || tv_is_seq(self) || self.type == TV_RANGE;
    if (!sequence || (index.type != TV_INT && index.type != TV_BOOL))
        return tv_missing();
    int64_t n = tv_length(r, self), i = tv_whole(index);
    if (i < 0)
        i += n;
    if (i < 0 || i >= n)
        return tv_missing();
    if (self.type == TV_RANGE)
        return tv_int(self.u.range->start + i * self.u.range->step);
    if (tv_is_seq(self))
        return self.u.l->v[i];
    if (n != (int64_t)self.u.s->len)
        tmpl_charge(r, self.u.s->len);
    return tv_sub(r, self, tv_offset(self.u.s, i), tv_offset(self.u.s, i + 1));
}

tv tmpl_getattr(tmpl_run *r, tv object, tv name)
{
    if (object.type == TV_UNDEFINED && tv_text_is(name, "__class__"))
        return tv_undefined_attr(r, object, name, true);
    if (object.type == TV_UNDEFINED)
        tmpl_fail_undefined(r, object);
    tmpl_charge(r, 0);
    tv v = attribute(r, object, name);
    if (v.type == TV_MISSING)
        v = item(r, object, name);
    return v.type == TV_MISSING ? tv_undefined_attr(r, object, name, false) : v;
}

tv tmpl_getitem(tmpl_run *r, tv object, tv index)
{
    if (object.type == TV_UNDEFINED)
        tmpl_fail_undefined(r, object);
    tmpl_charge(r, 0);
    tv v = item(r, object, index);
    if (v.type == TV_MISSING && index.type == TV_STR)
        v = attribute(r, object, index);
    return v.type == TV_MISSING ? tv_undefined_attr(r, object, index, false) : v;
}

/* ---- slices ---- */

static int64_t slice_bound(tmpl_run *r, tv v, int64_t dflt, int64_t n, int64_t low, int64_t high)
{
    if (v.type == TV_NONE)
        return dflt;
    if (v.type == TV_UNDEFINED)
        tmpl_fail(r, ST_INVALID, "slice indices must be integers or None");
    int64_t i = tv_to_int(r, v, "slice indices");
    if (i < 0)
        i = i + n < low ? low : i + n;
    return i > high ? high : i;
}

static tv slice_string(tmpl_run *r, tv self, int64_t from, int64_t step, int64_t count)
{
    const tstr *s = self.u.s;
    if (step == 1)
        return tv_sub(r, self, tv_offset(s, from), tv_offset(s, from + count));
    bool ascii = tv_chars(s) == (int64_t)s->len;
    tmpl_charge(r, s->len);
    size_t *offsets = NULL; /* of every character, for text that is not ASCII */
    if (!ascii) {
        size_t bytes;
        if (!mem_mul((size_t)tv_chars(s) + 1, sizeof(size_t), &bytes))
            tmpl_fail(r, ST_LIMIT, "too long a string");
        offsets = tmpl_alloc(r, bytes);
        size_t n = 0;
        for (const char *p = s->p, *end = p + s->len; p < end && n < (size_t)tv_chars(s); n++) {
            offsets[n] = (size_t)(p - s->p);
            tmpl_cp_next(&p, end);
        }
        offsets[n] = s->len;
    }
    tbuf b = {.r = r};
    for (int64_t i = 0, at = from; i < count; i++, at += step) {
        size_t begin = ascii ? (size_t)at : offsets[at], end = ascii ? (size_t)at + 1 : offsets[at + 1];
        tbuf_put(&b, s->p + begin, end - begin);
    }
    tv out = tbuf_take(&b);
    out.markup = self.markup;
    return out;
}

tv tmpl_slice(tmpl_run *r, tv object, tv start, tv stop, tv step)
{
    if (object.type == TV_UNDEFINED)
        tmpl_fail_undefined(r, object);
    if (object.type == TV_DICT)
        tmpl_fail(r, ST_INVALID, "unhashable type: 'slice'");
    if (object.type != TV_STR && !tv_is_seq(object) && object.type != TV_RANGE)
        tmpl_fail(r, ST_INVALID, "'%s' object is not subscriptable", tv_type_name(object));
    int64_t n = tv_length(r, object), by = step.type == TV_NONE ? 1 : tv_to_int(r, step, "slice indices");
    if (by == 0)
        tmpl_fail(r, ST_INVALID, "slice step cannot be zero");
    int64_t low = by > 0 ? 0 : -1, high = by > 0 ? n : n - 1;
    int64_t from = slice_bound(r, start, by > 0 ? 0 : n - 1, n, low, high), to = slice_bound(r, stop, by > 0 ? n : -1, n, low, high);
    int64_t count = by > 0 ? (from < to ? (to - from - 1) / by + 1 : 0) : from > to ? (from - to - 1) / (by == INT64_MIN ? INT64_MAX : -by) + 1 : 0;
    if (object.type == TV_STR)
        return slice_string(r, object, count == 0 ? 0 : from, by, count);
    if (object.type == TV_RANGE) {
        trange *g = tmpl_alloc(r, sizeof(*g));
        const trange *o = object.u.range;
        *g = (trange){.start = o->start + from * o->step, .stop = o->start + to * o->step, .step = o->step * by, .n = count};
        return (tv){.type = TV_RANGE, .u.range = g};
    }
    tv out = tv_list_of(r, object.type, (size_t)count);
    for (int64_t i = 0; i < count; i++)
        out.u.l->v[i] = object.u.l->v[from + i * by];
    return out;
}
