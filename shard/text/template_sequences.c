/* shard/text/template_sequences.c - filters on lists, dicts and other iterables.  Those that are generators in Jinja are lazy here
 * too: they evaluate as they are consumed, once, and have no length. */
#include "shard/text/template_internal.h"

#include <stdio.h>

#define BIND(func, n_required, ...)                                                     \
    static const char *const names_[] = {__VA_ARGS__};                                  \
    tv v[ARRAY_LEN(names_)];                                                            \
    tmpl_bind(r, func, a, names_, (int)ARRAY_LEN(names_), n_required, v)

static void no_args(tmpl_run *r, const char *func, const targs *a)
{
    tmpl_positional(r, func, a, 0, 0);
}

static bool flag(tv v)
{
    return v.type != TV_MISSING && tv_truth(v);
}

static bool absent(tv v)
{
    return v.type == TV_MISSING || v.type == TV_NONE;
}

/* ---- attribute paths ---- */

static tv path_part(tmpl_run *r, const char *p, size_t n)
{
    tv part = tv_view_of(r, p, n);
    int64_t index;
    bool digits = n > 0;
    for (size_t i = 0; i < n; i++)
        digits = digits && p[i] >= '0' && p[i] <= '9';
    return digits && tmpl_parse_int(part.u.s, 10, &index) ? tv_int(index) : part;
}

/* path: none, a dotted string or an index; fallback (if not missing or None) replaces what is undefined on the way */
tv tmpl_attr_path(tmpl_run *r, tv item, tv path, tv fallback)
{
    if (absent(path))
        return item;
    const char *p = path.type == TV_STR ? path.u.s->p : NULL, *end = path.type == TV_STR ? p + path.u.s->len : NULL;
    do {
        const char *dot = p == NULL ? NULL : memchr(p, '.', (size_t)(end - p));
        tv part = p == NULL ? path : path_part(r, p, (size_t)((dot == NULL ? end : dot) - p));
        item = tmpl_getitem(r, item, part);
        if (item.type == TV_UNDEFINED && !absent(fallback))
            item = fallback;
        p = dot == NULL ? NULL : dot + 1;
    } while (p != NULL);
    return item;
}

static tv ignore_case(tmpl_run *r, tv v, bool case_sensitive)
{
    return v.type == TV_STR && !case_sensitive ? tmpl_str_case(r, v.u.s, CASE_LOWER) : v;
}

/* "a.b,c": a list of what each path finds */
static tv multi_path(tmpl_run *r, tv item, tv paths, bool case_sensitive)
{
    tv out = tv_list_of(r, TV_LIST, 0);
    if (paths.type != TV_STR) {
        tv_list_push(r, out, ignore_case(r, tmpl_attr_path(r, item, paths, tv_missing()), case_sensitive));
        return out;
    }
    const char *p = paths.u.s->p, *end = p + paths.u.s->len;
    for (;;) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        tv path = tv_view_of(r, p, (size_t)((comma == NULL ? end : comma) - p));
        tv_list_push(r, out, ignore_case(r, tmpl_attr_path(r, item, path, tv_missing()), case_sensitive));
        if (comma == NULL)
            return out;
        p = comma + 1;
    }
}

/* ---- sorting ---- */

/* Stable merge sort of (key, value) pairs; only "less than" is asked, as Python does. */
static void merge_sort(tmpl_run *r, tv *pairs, tv *scratch, size_t n, bool reverse)
{
    if (n < 2)
        return;
    size_t half = n / 2;
    tmpl_enter(r);
    merge_sort(r, pairs, scratch, half, reverse);
    merge_sort(r, pairs + half, scratch, n - half, reverse);
    tmpl_leave(r);
    memcpy(scratch, pairs, n * sizeof(tv));
    size_t i = 0, j = half, k = 0;
    while (i < half && j < n) {
        tv left = scratch[i].u.l->v[0], right = scratch[j].u.l->v[0];
        bool take_right = reverse ? tv_order(r, TV_LT, left, right) : tv_order(r, TV_LT, right, left);
        pairs[k++] = take_right ? scratch[j++] : scratch[i++];
    }
    while (i < half)
        pairs[k++] = scratch[i++];
    while (j < n)
        pairs[k++] = scratch[j++];
}

static tv sorted(tmpl_run *r, tv pairs, bool reverse)
{
    size_t n = pairs.u.l->n;
    tv scratch = tv_list_of(r, TV_LIST, n), out = tv_list_of(r, TV_LIST, n);
    merge_sort(r, pairs.u.l->v, scratch.u.l->v, n, reverse);
    for (size_t i = 0; i < n; i++)
        out.u.l->v[i] = pairs.u.l->v[i].u.l->v[1];
    return out;
}

static tv f_sort(tmpl_run *r, tv x, const targs *a)
{
    BIND("sort", 0, "reverse", "case_sensitive", "attribute");
    tv pairs = tv_list_of(r, TV_LIST, 0), item;
    titer *it = tv_iterate(r, x);
    while (it->next(r, it, &item))
        tv_list_push(r, pairs, tv_pair(r, multi_path(r, item, v[2], flag(v[1])), item));
    return sorted(r, pairs, flag(v[0]));
}

static tv f_dictsort(tmpl_run *r, tv x, const targs *a)
{
    BIND("dictsort", 0, "case_sensitive", "by", "reverse");
    bool by_value = v[1].type != TV_MISSING && tv_text_is(v[1], "value");
    if (v[1].type != TV_MISSING && !by_value && !tv_text_is(v[1], "key"))
        tmpl_fail(r, ST_INVALID, "You can only sort by either \"key\" or \"value\"");
    if (x.type == TV_UNDEFINED)
        tmpl_fail_undefined(r, x);
    if (x.type != TV_DICT)
        tmpl_fail(r, ST_INVALID, "'%s' object has no attribute 'items'", tv_type_name(x));
    tv pairs = tv_list_of(r, TV_LIST, 0);
    for (size_t i = 0; i < x.u.d->n; i++) {
        const tentry *e = &x.u.d->e[i];
        tv_list_push(r, pairs, tv_pair(r, ignore_case(r, by_value ? e->value : e->key, flag(v[0])), tv_pair(r, e->key, e->value)));
    }
    return sorted(r, pairs, flag(v[2]));
}

static tv f_groupby(tmpl_run *r, tv x, const targs *a)
{
    BIND("groupby", 1, "attribute", "default", "case_sensitive");
    bool sensitive = flag(v[2]);
    tv pairs = tv_list_of(r, TV_LIST, 0), item, out = tv_list_of(r, TV_LIST, 0);
    titer *it = tv_iterate(r, x);
    while (it->next(r, it, &item)) {
        tv key = ignore_case(r, tmpl_attr_path(r, item, v[0], v[1]), sensitive);
        tv_list_push(r, pairs, tv_pair(r, key, tv_pair(r, key, item)));
    }
    pairs = sorted(r, pairs, false);
    for (size_t i = 0; i < pairs.u.l->n;) {
        tv key = pairs.u.l->v[i].u.l->v[0], items = tv_list_of(r, TV_LIST, 0);
        for (; i < pairs.u.l->n && tv_equal(r, pairs.u.l->v[i].u.l->v[0], key); i++)
            tv_list_push(r, items, pairs.u.l->v[i].u.l->v[1]);
        if (items.u.l->n == 0) { /* NaN equals not even itself */
            tv_list_push(r, items, pairs.u.l->v[i++].u.l->v[1]);
        }
        if (!sensitive)
            key = tmpl_attr_path(r, items.u.l->v[0], v[0], v[1]);
        tv group = tv_pair(r, key, items);
        group.u.l->group = true;
        tv_list_push(r, out, group);
    }
    return out;
}

static tv extreme(tmpl_run *r, tv x, const targs *a, const char *name, bool max)
{
    BIND(name, 0, "case_sensitive", "attribute");
    titer *it = tv_iterate(r, x);
    tv best, best_key, item;
    if (!it->next(r, it, &best))
        return tv_undefined_hint(r, "No aggregated item, sequence was empty.");
    best_key = ignore_case(r, tmpl_attr_path(r, best, v[1], tv_missing()), flag(v[0]));
    while (it->next(r, it, &item)) {
        tv key = ignore_case(r, tmpl_attr_path(r, item, v[1], tv_missing()), flag(v[0]));
        if (tv_order(r, max ? TV_GT : TV_LT, key, best_key)) {
            best = item;
            best_key = key;
        }
    }
    return best;
}

static tv f_min(tmpl_run *r, tv x, const targs *a)
{
    return extreme(r, x, a, "min", false);
}
static tv f_max(tmpl_run *r, tv x, const targs *a)
{
    return extreme(r, x, a, "max", true);
}

/* ---- whole sequences ---- */

static tv f_length(tmpl_run *r, tv x, const targs *a)
{
    no_args(r, "len", a);
    return tv_int(tv_length(r, x));
}
static tv f_list(tmpl_run *r, tv x, const targs *a)
{
    no_args(r, "list", a);
    return tv_to_list(r, x);
}

static tv f_first(tmpl_run *r, tv x, const targs *a)
{
    tv v;
    no_args(r, "first", a);
    titer *it = tv_iterate(r, x);
    return it->next(r, it, &v) ? v : tv_undefined_hint(r, "No first item, sequence was empty.");
}

static tv f_last(tmpl_run *r, tv x, const targs *a)
{
    no_args(r, "last", a);
    if (!tv_has_length(x) || x.type == TV_LOOP)
        tmpl_fail(r, ST_INVALID, "'%s' object is not reversible", tv_type_name(x));
    if (tv_length(r, x) == 0)
        return tv_undefined_hint(r, "No last item, sequence was empty.");
    if (x.type == TV_STR || tv_is_seq(x) || x.type == TV_RANGE)
        return tmpl_getitem(r, x, tv_int(-1));
    tv all = tv_to_list(r, x);
    return all.u.l->v[all.u.l->n - 1];
}

static bool next_reversed(tmpl_run *r, titer *it, tv *out)
{
    tmpl_charge(r, 0);
    if (it->i == 0)
        return false;
    *out = it->source.u.l->v[--it->i];
    return true;
}

static tv f_reverse(tmpl_run *r, tv x, const targs *a)
{
    no_args(r, "reverse", a);
    if (x.type == TV_STR)
        return tmpl_slice(r, x, tv_none(), tv_none(), tv_int(-1));
    if (!tv_is_iterable(x))
        tmpl_fail(r, ST_INVALID, "argument must be iterable");
    tv list = tv_to_list(r, x);
    if (x.type == TV_ITER || x.type == TV_LOOP) { /* not reversible: a list turned round */
        for (size_t i = 0, j = list.u.l->n; i + 1 < j; i++) {
            tv swap = list.u.l->v[i];
            list.u.l->v[i] = list.u.l->v[--j];
            list.u.l->v[j] = swap;
        }
        return list;
    }
    tv g = tv_generator(r, "list_reverseiterator", list, next_reversed, NULL);
    g.u.it->i = list.u.l->n;
    return g;
}

static tv f_join(tmpl_run *r, tv x, const targs *a)
{
    BIND("join", 0, "d", "attribute");
    tv sep = v[0].type == TV_MISSING ? tv_text(r, "") : tmpl_str(r, v[0]);
    sep.markup = false;
    if (absent(v[1]))
        return tmpl_str_join(r, sep, x, true);
    tv parts = tv_list_of(r, TV_LIST, 0), item;
    titer *it = tv_iterate(r, x);
    while (it->next(r, it, &item))
        tv_list_push(r, parts, tmpl_attr_path(r, item, v[1], tv_missing()));
    return tmpl_str_join(r, sep, parts, true);
}

static tv f_sum(tmpl_run *r, tv x, const targs *a)
{
    BIND("sum", 0, "attribute", "start");
    tv total = v[1].type == TV_MISSING ? tv_int(0) : v[1], item;
    if (total.type == TV_STR)
        tmpl_fail(r, ST_INVALID, "sum() can't sum strings [use ''.join(seq) instead]");
    titer *it = tv_iterate(r, x);
    while (it->next(r, it, &item))
        total = tmpl_binary(r, OP_ADD, total, tmpl_attr_path(r, item, v[0], tv_missing()));
    return total;
}

/* ---- generators ---- */

typedef struct lazy {
    tv path, fallback, name; /* attribute path; filter or test name */
    targs args;
    bool negate, has_test, use_path;
    tv fill;
    int64_t size, n;
    tv seen;
    bool sensitive;
} lazy;

static titer *inner_of(tmpl_run *r, titer *it)
{
    if (it->inner == NULL)
        it->inner = tv_iterate(r, it->source);
    return it->inner;
}

static targs rest_of(tmpl_run *r, const targs *a, int skip)
{
    targs rest = {.n = a->n - skip, .n_kw = a->n_kw};
    tv *pos = tmpl_alloc(r, (size_t)(rest.n > 0 ? rest.n : 1) * sizeof(tv)), *names = tmpl_alloc(r, ((size_t)a->n_kw + 1) * sizeof(tv));
    tv *values = tmpl_alloc(r, ((size_t)a->n_kw + 1) * sizeof(tv));
    if (rest.n > 0)
        memcpy(pos, a->pos + skip, (size_t)rest.n * sizeof(tv));
    for (int i = 0; i < a->n_kw; i++) {
        names[i] = a->kw_name[i];
        values[i] = a->kw[i];
    }
    rest.pos = pos;
    rest.kw_name = names;
    rest.kw = values;
    return rest;
}

static bool next_mapped(tmpl_run *r, titer *it, tv *out)
{
    lazy *z = it->arg;
    tv item;
    if (!tv_truth(it->source) || !inner_of(r, it)->next(r, it->inner, &item))
        return false;
    *out = z->use_path ? tmpl_attr_path(r, item, z->path, z->fallback) : tmpl_apply_filter(r, z->name, item, &z->args);
    return true;
}

static tv f_map(tmpl_run *r, tv x, const targs *a)
{
    lazy *z = tmpl_alloc(r, sizeof(*z));
    bool attribute = false;
    for (int i = 0; i < a->n_kw; i++)
        attribute = attribute || (a->n == 0 && tv_text_is(a->kw_name[i], "attribute"));
    if (attribute) {
        BIND("map", 0, "attribute", "default");
        z->use_path = true;
        z->path = v[0];
        z->fallback = v[1];
    } else if (a->n == 0) {
        tmpl_fail(r, ST_INVALID, "map requires a filter argument");
    } else {
        z->name = a->pos[0];
        z->args = rest_of(r, a, 1);
    }
    return tv_generator(r, "sync_do_map", x, next_mapped, z);
}

static bool next_selected(tmpl_run *r, titer *it, tv *out)
{
    lazy *z = it->arg;
    tv item;
    if (!tv_truth(it->source))
        return false;
    while (inner_of(r, it)->next(r, it->inner, &item)) {
        tv value = z->use_path ? tmpl_attr_path(r, item, z->path, tv_missing()) : item;
        bool yes = z->has_test ? tmpl_apply_test(r, z->name, value, &z->args) : tv_truth(value);
        if (yes != z->negate) {
            *out = item;
            return true;
        }
    }
    return false;
}

static tv selection(tmpl_run *r, tv x, const targs *a, const char *name, bool negate, bool by_attribute)
{
    lazy *z = tmpl_alloc(r, sizeof(*z));
    int off = by_attribute ? 1 : 0;
    if (by_attribute && a->n == 0)
        tmpl_fail(r, ST_INVALID, "Missing parameter for attribute name");
    z->use_path = by_attribute;
    z->negate = negate;
    if (by_attribute)
        z->path = a->pos[0];
    z->has_test = a->n > off;
    if (z->has_test) {
        z->name = a->pos[off];
        z->args = rest_of(r, a, off + 1);
    }
    return tv_generator(r, name, x, next_selected, z);
}

static tv f_select(tmpl_run *r, tv x, const targs *a)
{
    return selection(r, x, a, "sync_do_select", false, false);
}
static tv f_reject(tmpl_run *r, tv x, const targs *a)
{
    return selection(r, x, a, "sync_do_reject", true, false);
}
static tv f_selectattr(tmpl_run *r, tv x, const targs *a)
{
    return selection(r, x, a, "sync_do_selectattr", false, true);
}
static tv f_rejectattr(tmpl_run *r, tv x, const targs *a)
{
    return selection(r, x, a, "sync_do_rejectattr", true, true);
}

static bool next_unique(tmpl_run *r, titer *it, tv *out)
{
    lazy *z = it->arg;
    while (inner_of(r, it)->next(r, it->inner, out)) {
        tv key = ignore_case(r, tmpl_attr_path(r, *out, z->path, tv_missing()), z->sensitive);
        if (tv_dict_get(r, z->seen.u.d, key) == NULL) {
            tv_dict_set(r, z->seen.u.d, key, tv_none());
            return true;
        }
    }
    return false;
}

static tv f_unique(tmpl_run *r, tv x, const targs *a)
{
    BIND("unique", 0, "case_sensitive", "attribute");
    lazy *z = tmpl_alloc(r, sizeof(*z));
    z->sensitive = flag(v[0]);
    z->path = v[1];
    z->seen = tv_dict_new(r);
    return tv_generator(r, "sync_do_unique", x, next_unique, z);
}

static bool next_item(tmpl_run *r, titer *it, tv *out)
{
    if (it->source.type == TV_UNDEFINED)
        return false;
    if (it->source.type != TV_DICT)
        tmpl_fail(r, ST_INVALID, "Can only get item pairs from a mapping.");
    if (it->i >= it->source.u.d->n)
        return false;
    const tentry *e = &it->source.u.d->e[it->i++];
    *out = tv_pair(r, e->key, e->value);
    return true;
}

static tv f_items(tmpl_run *r, tv x, const targs *a)
{
    no_args(r, "items", a);
    return tv_generator(r, "do_items", x, next_item, NULL);
}

static bool next_batch(tmpl_run *r, titer *it, tv *out)
{
    lazy *z = it->arg;
    tv batch = tv_list_of(r, TV_LIST, 0), item;
    if (z->size < 0 && it->i++ == 0 && z->n == 0) /* a batch that never fills holds everything */
        z->size = INT64_MAX;
    while ((int64_t)batch.u.l->n < z->size && inner_of(r, it)->next(r, it->inner, &item))
        tv_list_push(r, batch, item);
    if (batch.u.l->n == 0)
        return false;
    while (!absent(z->fill) && z->size != INT64_MAX && (int64_t)batch.u.l->n < z->size)
        tv_list_push(r, batch, z->fill);
    *out = batch;
    return true;
}

static tv f_batch(tmpl_run *r, tv x, const targs *a)
{
    BIND("batch", 1, "linecount", "fill_with");
    lazy *z = tmpl_alloc(r, sizeof(*z));
    z->size = tv_to_int(r, v[0], "linecount");
    z->fill = v[1];
    if (z->size == 0)
        tmpl_fail(r, ST_INVALID, "batch: the line count must not be zero");
    return tv_generator(r, "do_batch", x, next_batch, z);
}

static bool next_slice(tmpl_run *r, titer *it, tv *out)
{
    lazy *z = it->arg;
    if (z->n++ == 0)
        it->source = tv_to_list(r, it->source);
    if ((int64_t)it->i >= z->size)
        return false;
    int64_t i = (int64_t)it->i++, n = (int64_t)it->source.u.l->n, each = n / z->size, extra = n % z->size;
    int64_t from = i * each + (i < extra ? i : extra), to = from + each + (i < extra);
    tv part = tv_list_of(r, TV_LIST, (size_t)(to - from));
    if (to > from)
        memcpy(part.u.l->v, it->source.u.l->v + from, (size_t)(to - from) * sizeof(tv));
    if (!absent(z->fill) && i >= extra)
        tv_list_push(r, part, z->fill);
    *out = part;
    return true;
}

static tv f_slice(tmpl_run *r, tv x, const targs *a)
{
    BIND("slice", 1, "slices", "fill_with");
    lazy *z = tmpl_alloc(r, sizeof(*z));
    z->size = tv_to_int(r, v[0], "slices");
    z->fill = v[1];
    if (z->size == 0)
        tmpl_fail(r, ST_INVALID, "integer modulo by zero");
    return tv_generator(r, "sync_do_slice", x, next_slice, z);
}

const tmpl_filter tmpl_sequence_filters[] = {
    {"batch", f_batch}, {"count", f_length}, {"dictsort", f_dictsort}, {"first", f_first}, {"groupby", f_groupby}, {"items", f_items},
    {"join", f_join}, {"last", f_last}, {"length", f_length}, {"list", f_list}, {"map", f_map}, {"max", f_max}, {"min", f_min},
    {"reject", f_reject}, {"rejectattr", f_rejectattr}, {"reverse", f_reverse}, {"select", f_select}, {"selectattr", f_selectattr},
    {"slice", f_slice}, {"sort", f_sort}, {"sum", f_sum}, {"unique", f_unique}, {NULL, NULL},
};
