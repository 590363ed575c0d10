/* shard/text/template_eval.c - evaluates a bound tree: expressions, statements, macros.
 *
 * A tmpl_act is one activation of a function (the template, a macro, a recursive loop ...): its variables.  Output goes to the
 * innermost of a stack of buffers; a macro, a set block or a filter pushes one and takes its text as a value. */
#include "shard/text/template_internal.h"

#include <stdio.h>

typedef enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE } flow;

static flow exec_body(tmpl_run *r, tmpl_act *act, const tmpl_list *body);
static tv eval(tmpl_run *r, tmpl_act *act, const tmpl_node *n);

/* ---- output ---- */

static void emit(tmpl_run *r, const char *p, size_t n)
{
    mem_str *out = r->captures[r->n_captures - 1];
    tmpl_charge(r, n);
    if (n > r->max_output - r->live)
        tmpl_fail(r, ST_LIMIT, "writes more than the %zu bytes a template may write", r->max_output);
    r->live += n;
    mem_str_append(out, p, n);
    if (out->failed)
        tmpl_fail(r, ST_NO_MEMORY, "out of memory for the output");
}

static void emit_value(tmpl_run *r, tv v)
{
    if (v.type == TV_UNDEFINED)
        return;
    v = tmpl_str(r, v);
    emit(r, v.u.s->p, v.u.s->len);
}

static void capture_begin(tmpl_run *r)
{
    if (r->n_captures == r->cap_captures) {
        int cap = r->cap_captures * 2;
        mem_str **wider = tmpl_alloc(r, (size_t)cap * sizeof(*wider));
        memcpy(wider, r->captures, (size_t)r->n_captures * sizeof(*wider));
        r->captures = wider;
        r->cap_captures = cap;
    }
    if (r->captures[r->n_captures] == NULL)
        r->captures[r->n_captures] = tmpl_alloc(r, sizeof(mem_str));
    mem_str_clear(r->captures[r->n_captures++]);
}

static tv capture_end(tmpl_run *r)
{
    mem_str *s = r->captures[r->n_captures - 1];
    tv v = tv_copy_of(r, s->data == NULL ? "" : s->data, s->len);
    r->n_captures--;
    r->live -= s->len;
    if (s->cap > (size_t)1 << 16) /* keep small buffers for the next capture */
        mem_str_free(s);
    return v;
}

/* ---- variables ---- */

static tv *slot_at(tmpl_act *act, tmpl_ref ref)
{
    for (int32_t i = 0; i < ref.hops; i++)
        act = act->parent;
    return &act->slots[ref.slot];
}

static tv resolve(tmpl_run *r, const tmpl_act *act, tv name)
{
    const tmpl_act *root = r->root; /* a block sees what the template has set so far */
    if (root != NULL && act->fn->parent == NULL && act->fn != root->fn) {
        for (int32_t i = 0; i < root->fn->n_slots; i++) {
            const struct tmpl_ident *id = &root->fn->idents[i];
            if (id->level == 0 && root->slots[i].type != TV_MISSING && id->name->len == name.u.s->len && memcmp(id->name->p, name.u.s->p, id->name->len) == 0)
                return root->slots[i];
        }
    }
    const tv *v = tv_dict_get(r, r->globals, name);
    return v == NULL ? tv_missing() : *v;
}

static void frame_enter(tmpl_run *r, tmpl_act *act, const tmpl_frame *f)
{
    for (int i = 0; i < f->n; i++) {
        const tmpl_load *l = &f->loads[i];
        tmpl_charge(r, 0);
        act->slots[l->slot] = l->kind == LOAD_RESOLVE ? resolve(r, act, l->name) : l->kind == LOAD_ALIAS ? *slot_at(act, l->from) : tv_missing();
    }
}

static tmpl_act *act_new(tmpl_run *r, tmpl_act *parent, const tmpl_fn *fn)
{
    tmpl_act *act = tmpl_alloc(r, sizeof(*act));
    act->parent = parent;
    act->fn = fn;
    act->slots = tmpl_alloc(r, (size_t)(fn->n_slots > 0 ? fn->n_slots : 1) * sizeof(tv)); /* zero is TV_MISSING */
    return act;
}

static void assign(tmpl_run *r, tmpl_act *act, const tmpl_node *target, tv value)
{
    if (target->kind == N_NAME) {
        *slot_at(act, target->ref) = value;
    } else if (target->kind == N_NSREF) {
        tv ns = *slot_at(act, target->ref), name = target->a->value;
        if (ns.type != TV_NAMESPACE)
            tmpl_fail(r, ST_INVALID, "cannot assign attribute on non-namespace object");
        if (name.u.s->len > 0 && name.u.s->p[0] == '_')
            tmpl_fail(r, ST_INVALID, "a namespace cannot hold '%.*s': names must not start with an underscore", (int)name.u.s->len, name.u.s->p);
        tv_dict_set(r, ns.u.d, name, value);
    } else {
        if (!tv_is_iterable(value))
            tmpl_fail(r, ST_INVALID, "cannot unpack non-iterable %s object", tv_type_name(value));
        titer *it = tv_iterate(r, value);
        tv v;
        tv *values = tmpl_alloc(r, (size_t)(target->list.n > 0 ? target->list.n : 1) * sizeof(tv));
        for (int i = 0; i < target->list.n; i++) {
            if (!it->next(r, it, &values[i]))
                tmpl_fail(r, ST_INVALID, "not enough values to unpack (expected %d, got %d)", target->list.n, i);
        }
        if (it->next(r, it, &v))
            tmpl_fail(r, ST_INVALID, "too many values to unpack (expected %d)", target->list.n);
        for (int i = 0; i < target->list.n; i++)
            assign(r, act, target->list.v[i], values[i]);
    }
}

/* ---- calls ---- */

/* Arguments evaluated in order, into an arena block. */
static targs eval_args(tmpl_run *r, tmpl_act *act, const tmpl_call_args *in)
{
    tv pos = tv_list_of(r, TV_LIST, 0), names = tv_list_of(r, TV_LIST, 0), values = tv_list_of(r, TV_LIST, 0), v;
    for (int i = 0; i < in->pos.n; i++)
        tv_list_push(r, pos, eval(r, act, in->pos.v[i]));
    for (int i = 0; i < in->kw.n; i += 2) {
        tv_list_push(r, names, in->kw.v[i]->value);
        tv_list_push(r, values, eval(r, act, in->kw.v[i + 1]));
    }
    if (in->star != NULL) {
        titer *it = tv_iterate(r, eval(r, act, in->star));
        while (it->next(r, it, &v))
            tv_list_push(r, pos, v);
    }
    if (in->star_star != NULL) {
        tv d = eval(r, act, in->star_star);
        if (d.type != TV_DICT)
            tmpl_fail(r, ST_INVALID, "argument after ** must be a mapping, not %s", tv_type_name(d));
        for (size_t i = 0; i < d.u.d->n; i++) {
            tv_need_str(r, d.u.d->e[i].key, "a keyword");
            if (tv_in(r, d.u.d->e[i].key, names))
                tmpl_fail(r, ST_INVALID, "got multiple values for a keyword argument");
            tv_list_push(r, names, d.u.d->e[i].key);
            tv_list_push(r, values, d.u.d->e[i].value);
        }
    }
    if (pos.u.l->n > INT32_MAX || names.u.l->n > INT32_MAX)
        tmpl_fail(r, ST_LIMIT, "passes too many arguments");
    return (targs){.pos = pos.u.l->v, .n = (int)pos.u.l->n, .kw_name = names.u.l->v, .kw = values.u.l->v, .n_kw = (int)names.u.l->n};
}

static void calls_enter(tmpl_run *r)
{
    if (++r->calls > r->max_calls)
        tmpl_fail(r, ST_LIMIT, "calls macros nested more than %d deep", r->max_calls);
}

/* Takes the keyword argument called name out of a (marks it used); missing if not given. */
static tv take_kw(const targs *a, bool *used, tv name)
{
    for (int i = 0; i < a->n_kw; i++) {
        if (!used[i] && a->kw_name[i].u.s->len == name.u.s->len && memcmp(a->kw_name[i].u.s->p, name.u.s->p, name.u.s->len) == 0) {
            used[i] = true;
            return a->kw[i];
        }
    }
    return tv_missing();
}

static tv rest_kwargs(tmpl_run *r, const targs *a, const bool *used)
{
    tv d = tv_dict_new(r);
    for (int i = 0; i < a->n_kw; i++) {
        if (!used[i])
            tv_dict_set(r, d.u.d, a->kw_name[i], a->kw[i]);
    }
    return d;
}

static void bind_macro(tmpl_run *r, const tmacro *m, tmpl_act *act, const targs *a)
{
    const tmpl_node *n = m->node;
    bool *used = tmpl_alloc(r, (size_t)a->n_kw + 1);
    bool found_caller = a->n >= n->list.n; /* then an explicit caller was given by position */
    for (int i = 0; i < n->list.n; i++) {
        tv name = n->list.v[i]->value;
        act->slots[n->list.v[i]->ref.slot] = i < a->n ? a->pos[i] : take_kw(a, used, name);
        found_caller = found_caller && i >= 0;
    }
    if (n->slot >= 0) {
        tv caller = take_kw(a, used, tv_text(r, "caller"));
        act->slots[n->slot] = caller.type != TV_MISSING && caller.type != TV_NONE ? caller : tv_undefined_hint(r, "No caller defined");
    }
    if (n->slot2 >= 0) {
        act->slots[n->slot2] = rest_kwargs(r, a, used);
    } else {
        for (int i = 0; i < a->n_kw; i++) {
            if (!used[i])
                tmpl_fail(r, ST_INVALID, "macro '%.*s' takes no keyword argument '%.*s'", m->name == NULL ? 6 : (int)m->name->len,
                          m->name == NULL ? "caller" : m->name->p, (int)a->kw_name[i].u.s->len, a->kw_name[i].u.s->p);
        }
    }
    if (n->slot3 >= 0) {
        int extra = a->n > n->list.n ? a->n - n->list.n : 0;
        tv rest = tv_list_of(r, TV_TUPLE, (size_t)extra);
        if (extra > 0)
            memcpy(rest.u.l->v, a->pos + n->list.n, (size_t)extra * sizeof(tv));
        act->slots[n->slot3] = rest;
    } else if (a->n > n->list.n) {
        tmpl_fail(r, ST_INVALID, "macro '%.*s' takes not more than %d argument(s)", m->name == NULL ? 6 : (int)m->name->len,
                  m->name == NULL ? "caller" : m->name->p, n->list.n);
    }
}

static tv call_macro(tmpl_run *r, const tmacro *m, const targs *a)
{
    const tmpl_node *n = m->node;
    tmpl_act *act = act_new(r, m->scope, n->fn);
    calls_enter(r);
    tmpl_enter(r);
    bind_macro(r, m, act, a);
    capture_begin(r);
    frame_enter(r, act, &n->frame);
    for (int i = 0; i < n->list.n; i++) {
        tv *slot = &act->slots[n->list.v[i]->ref.slot];
        int d = i - (n->list.n - n->list2.n);
        if (slot->type != TV_MISSING)
            continue;
        if (d >= 0) {
            *slot = eval(r, act, n->list2.v[d]);
        } else {
            tbuf hint = {.r = r};
            tbuf_puts(&hint, "parameter '");
            tbuf_put(&hint, n->list.v[i]->value.u.s->p, n->list.v[i]->value.u.s->len);
            tbuf_put(&hint, "' was not provided", 19);
            *slot = tv_undefined_hint(r, hint.p);
        }
    }
    exec_body(r, act, &n->list3);
    tv text = capture_end(r);
    tmpl_leave(r);
    r->calls--;
    return text;
}

static void exec_loop(tmpl_run *r, tmpl_act *act, const tmpl_node *n, tv iterable, int depth0);

/* loop(children): the body of a recursive loop, once more */
static tv call_loop(tmpl_run *r, const tloop *l, const targs *a)
{
    if (l->recursive == NULL)
        tmpl_fail(r, ST_INVALID, "The loop must have the 'recursive' marker to be called recursively.");
    tmpl_positional(r, "loop", a, 1, 1);
    calls_enter(r);
    tmpl_enter(r);
    capture_begin(r);
    exec_loop(r, act_new(r, l->scope, l->recursive->fn), l->recursive, a->pos[0], l->depth0 + 1);
    tv text = capture_end(r);
    tmpl_leave(r);
    r->calls--;
    return text;
}

static tv call_method(tmpl_run *r, const tmethod *m, const targs *a)
{
    tv v = m->fn(r, m->self, a);
    if (m->self.type == TV_STR && m->self.markup) {
        if (v.type == TV_STR)
            v.markup = true;
        for (size_t i = 0; tv_is_seq(v) && i < v.u.l->n; i++)
            v.u.l->v[i].markup = v.u.l->v[i].type == TV_STR;
    }
    return v;
}

tv tmpl_call(tmpl_run *r, tv callee, const targs *a)
{
    tmpl_charge(r, 0);
    switch (callee.type) {
    case TV_MACRO:
        return call_macro(r, callee.u.macro, a);
    case TV_METHOD:
        return call_method(r, callee.u.method, a);
    case TV_FUNC:
        return callee.u.func->fn(r, a);
    case TV_LOOP:
        return call_loop(r, callee.u.loop, a);
    case TV_JOINER:
        tmpl_positional(r, "joiner", a, 0, 0);
        if (callee.u.joiner->used)
            return callee.u.joiner->sep;
        callee.u.joiner->used = true;
        return tv_text(r, "");
    case TV_UNDEFINED:
        tmpl_fail_undefined(r, callee);
    default:
        tmpl_fail(r, ST_INVALID, "'%s' object is not callable", tv_type_name(callee));
    }
}

tv tmpl_apply_filter(tmpl_run *r, tv name, tv value, const targs *a)
{
    const tmpl_filter *f = name.type == TV_STR ? tmpl_filter_find(name.u.s) : NULL;
    if (f == NULL)
        tmpl_fail(r, ST_UNSUPPORTED, "no filter named '%.*s'", name.type == TV_STR ? (int)name.u.s->len : 1, name.type == TV_STR ? name.u.s->p : "?");
    tmpl_charge(r, 0);
    return f->fn(r, value, a);
}

bool tmpl_apply_test(tmpl_run *r, tv name, tv value, const targs *a)
{
    const tmpl_test *t = name.type == TV_STR ? tmpl_test_find(name.u.s) : NULL;
    if (t == NULL)
        tmpl_fail(r, ST_UNSUPPORTED, "no test named '%.*s'", name.type == TV_STR ? (int)name.u.s->len : 1, name.type == TV_STR ? name.u.s->p : "?");
    tmpl_charge(r, 0);
    return t->fn(r, value, a);
}

/* ---- expressions ---- */

static tv eval_compare(tmpl_run *r, tmpl_act *act, const tmpl_node *n)
{
    tv left = eval(r, act, n->a);
    for (int i = 0; i < n->list.n; i++) {
        tv right = eval(r, act, n->list.v[i]);
        bool yes;
        r->line = n->line;
        switch (n->ops[i]) {
        case OP_EQ:
        case OP_NE:
            yes = tv_equal(r, left, right) == (n->ops[i] == OP_EQ);
            break;
        case OP_IN:
        case OP_NOT_IN:
            yes = tv_in(r, left, right) == (n->ops[i] == OP_IN);
            break;
        default:
            yes = tv_order(r, n->ops[i] == OP_LT ? TV_LT : n->ops[i] == OP_LE ? TV_LE : n->ops[i] == OP_GT ? TV_GT : TV_GE, left, right);
        }
        if (!yes)
            return tv_bool(false);
        left = right;
    }
    return tv_bool(true);
}

static tv eval_items(tmpl_run *r, tmpl_act *act, const tmpl_node *n)
{
    tv out = tv_list_of(r, n->kind == N_LIST ? TV_LIST : TV_TUPLE, (size_t)n->list.n);
    for (int i = 0; i < n->list.n; i++)
        out.u.l->v[i] = eval(r, act, n->list.v[i]);
    return out;
}

static tv eval_dict(tmpl_run *r, tmpl_act *act, const tmpl_node *n)
{
    tv d = tv_dict_new(r);
    for (int i = 0; i < n->list.n; i += 2) {
        tv key = eval(r, act, n->list.v[i]);
        tv_dict_set(r, d.u.d, key, eval(r, act, n->list.v[i + 1]));
    }
    return d;
}

static tv eval_concat(tmpl_run *r, tmpl_act *act, const tmpl_node *n)
{
    tv text = tmpl_str(r, eval(r, act, n->list.v[0]));
    text.markup = false;
    for (int i = 1; i < n->list.n; i++) {
        tv part = tmpl_str(r, eval(r, act, n->list.v[i]));
        part.markup = false;
        text = tv_concat(r, text, part);
    }
    return text;
}

static tv eval_call(tmpl_run *r, tmpl_act *act, const tmpl_node *n)
{
    tv callee = eval(r, act, n->a);
    targs a = eval_args(r, act, n->args);
    r->line = n->line;
    return tmpl_call(r, callee, &a);
}

static tv eval_filter(tmpl_run *r, tmpl_act *act, const tmpl_node *n, const tv *input)
{
    tv value = n->a == NULL ? *input : n->a->kind == N_FILTER ? eval_filter(r, act, n->a, input) : eval(r, act, n->a);
    targs a = eval_args(r, act, n->args);
    r->line = n->line;
    if (n->filter == NULL)
        return tmpl_apply_filter(r, n->value, value, &a);
    tmpl_charge(r, 0);
    return n->filter->fn(r, value, &a);
}

static tv eval_test(tmpl_run *r, tmpl_act *act, const tmpl_node *n)
{
    tv value = eval(r, act, n->a);
    targs a = eval_args(r, act, n->args);
    r->line = n->line;
    return tv_bool(n->test == NULL ? tmpl_apply_test(r, n->value, value, &a) : n->test->fn(r, value, &a));
}

static tv eval_name(tmpl_run *r, tmpl_act *act, const tmpl_node *n)
{
    tv v = *slot_at(act, n->ref);
    return v.type == TV_MISSING ? tv_undefined_name(r, n->value) : v;
}

static tv eval_slice(tmpl_run *r, tmpl_act *act, const tmpl_node *n)
{
    tv object = eval(r, act, n->a), start = n->b == NULL ? tv_none() : eval(r, act, n->b);
    tv stop = n->list.v[0] == NULL ? tv_none() : eval(r, act, n->list.v[0]), step = n->list.v[1] == NULL ? tv_none() : eval(r, act, n->list.v[1]);
    r->line = n->line;
    return tmpl_slice(r, object, start, stop, step);
}

static tv eval_cond(tmpl_run *r, tmpl_act *act, const tmpl_node *n)
{
    if (tv_truth(eval(r, act, n->a)))
        return eval(r, act, n->b);
    if (n->flag)
        return eval(r, act, n->c);
    return tv_undefined_hint(r, "the inline if-expression evaluated to false and no else section was defined");
}

static tv eval_node(tmpl_run *r, tmpl_act *act, const tmpl_node *n)
{
    tv a, b;
    switch (n->kind) {
    case N_CONST:
        return n->value;
    case N_NAME:
        return eval_name(r, act, n);
    case N_TUPLE:
    case N_LIST:
        return eval_items(r, act, n);
    case N_DICT:
        return eval_dict(r, act, n);
    case N_COND:
        return eval_cond(r, act, n);
    case N_OR:
        a = eval(r, act, n->a);
        return tv_truth(a) ? a : eval(r, act, n->b);
    case N_AND:
        a = eval(r, act, n->a);
        return tv_truth(a) ? eval(r, act, n->b) : a;
    case N_NOT:
        return tv_bool(!tv_truth(eval(r, act, n->a)));
    case N_COMPARE:
        return eval_compare(r, act, n);
    case N_BINARY:
        a = eval(r, act, n->a);
        b = eval(r, act, n->b);
        r->line = n->line;
        return tmpl_binary(r, n->op, a, b);
    case N_CONCAT:
        return eval_concat(r, act, n);
    case N_NEG:
    case N_POS:
        a = eval(r, act, n->a);
        r->line = n->line;
        return tmpl_negate(r, a, n->kind == N_NEG);
    case N_GETATTR:
        a = eval(r, act, n->a);
        r->line = n->line;
        return tmpl_getattr(r, a, n->value);
    case N_GETITEM:
        a = eval(r, act, n->a);
        b = eval(r, act, n->b);
        r->line = n->line;
        return tmpl_getitem(r, a, b);
    case N_SLICE:
        return eval_slice(r, act, n);
    case N_CALL:
        return eval_call(r, act, n);
    case N_FILTER:
        return eval_filter(r, act, n, NULL);
    case N_TEST:
        return eval_test(r, act, n);
    default:
        tmpl_fail(r, ST_INTERNAL, "a statement where an expression belongs");
    }
}

static tv eval(tmpl_run *r, tmpl_act *act, const tmpl_node *n)
{
    tmpl_charge(r, 0);
    tmpl_enter(r);
    tv v = eval_node(r, act, n);
    tmpl_leave(r);
    return v;
}

/* ---- loops ---- */

typedef struct loop_filter {
    const tmpl_node *n;
    tmpl_act *act;
} loop_filter;

static bool next_filtered(tmpl_run *r, titer *it, tv *out)
{
    loop_filter *f = it->arg;
    if (it->inner == NULL) {
        it->inner = tv_iterate(r, it->source);
        frame_enter(r, f->act, &f->n->frame3);
    }
    while (it->inner->next(r, it->inner, out)) {
        const tmpl_node *target = f->n->list3.v[0];
        assign(r, f->act, target, *out);
        if (!tv_truth(eval(r, f->act, f->n->c)))
            continue;
        if (target->kind == N_TUPLE) /* what is handed on is a new tuple, so that a generator taken apart is not taken apart again */
            *out = eval_items(r, f->act, target);
        return true;
    }
    return false;
}

static tv filtered(tmpl_run *r, tmpl_act *act, const tmpl_node *n, tv iterable)
{
    loop_filter *f = tmpl_alloc(r, sizeof(*f));
    *f = (loop_filter){.n = n, .act = act_new(r, act, n->fn2)};
    return tv_generator(r, "generator", iterable, next_filtered, f);
}

/* Runs a loop over iterable.  act is the loop's own activation when it is recursive. */
static void exec_loop(tmpl_run *r, tmpl_act *act, const tmpl_node *n, tv iterable, int depth0)
{
    bool ran_out = true; /* no iteration reached the end of the body: Jinja's condition for the else branch */
    if (n->c != NULL)
        iterable = filtered(r, n->flag ? act->parent : act, n, iterable);
    tloop *l = tmpl_alloc(r, sizeof(*l));
    r->line = n->line;
    *l = (tloop){.it = tv_iterate(r, iterable), .iterable = iterable, .index0 = -1, .length = -1, .depth0 = depth0};
    l->recursive = n->flag ? n : NULL;
    l->scope = n->flag ? act->parent : NULL;
    tv self = {.type = TV_LOOP, .u.loop = l}, item;
    for (;;) {
        if (l->after.type != TV_MISSING) {
            item = l->after;
            l->after = tv_missing();
        } else if (!l->it->next(r, l->it, &item)) {
            break;
        }
        l->index0++;
        l->before = l->current;
        l->current = item;
        r->line = n->line;
        act->slots[n->slot] = self;
        assign(r, act, n->a, item);
        frame_enter(r, act, &n->frame);
        flow f = exec_body(r, act, &n->list);
        if (f == FLOW_BREAK)
            break;
        if (f == FLOW_NEXT)
            ran_out = false;
    }
    if (ran_out && n->list2.n > 0) {
        frame_enter(r, act, &n->frame2);
        exec_body(r, act, &n->list2);
    }
}

/* ---- statements ---- */

static void exec_output(tmpl_run *r, tmpl_act *act, const tmpl_node *n)
{
    for (int i = 0; i < n->list.n; i++)
        emit_value(r, eval(r, act, n->list.v[i]));
}

static flow exec_if(tmpl_run *r, tmpl_act *act, const tmpl_node *n)
{
    if (tv_truth(eval(r, act, n->a)))
        return exec_body(r, act, &n->list);
    for (int i = 0; i < n->list2.n; i++) {
        if (tv_truth(eval(r, act, n->list2.v[i]->a)))
            return exec_body(r, act, &n->list2.v[i]->list);
    }
    return exec_body(r, act, &n->list3);
}

static void check_namespaces(tmpl_run *r, tmpl_act *act, const tmpl_node *target)
{
    if (target->kind == N_NSREF && slot_at(act, target->ref)->type != TV_NAMESPACE)
        tmpl_fail(r, ST_INVALID, "cannot assign attribute on non-namespace object");
    for (int i = 0; target->kind == N_TUPLE && i < target->list.n; i++)
        check_namespaces(r, act, target->list.v[i]);
}

static tv macro_value(tmpl_run *r, tmpl_act *act, const tmpl_node *n, const tstr *name)
{
    tmacro *m = tmpl_alloc(r, sizeof(*m));
    *m = (tmacro){.node = n, .scope = act, .name = name};
    return (tv){.type = TV_MACRO, .u.macro = m};
}

static void exec_call_block(tmpl_run *r, tmpl_act *act, const tmpl_node *n)
{
    tv caller = macro_value(r, act, n, NULL), callee = eval(r, act, n->a->a);
    targs a = eval_args(r, act, n->a->args);
    tv names = tv_list_of(r, TV_LIST, 0), values = tv_list_of(r, TV_LIST, 0);
    for (int i = 0; i < a.n_kw; i++) {
        if (tv_text_is(a.kw_name[i], "caller"))
            tmpl_fail(r, ST_INVALID, "got multiple values for keyword argument 'caller'");
        tv_list_push(r, names, a.kw_name[i]);
        tv_list_push(r, values, a.kw[i]);
    }
    tv_list_push(r, names, tv_text(r, "caller"));
    tv_list_push(r, values, caller);
    a.kw_name = names.u.l->v;
    a.kw = values.u.l->v;
    a.n_kw++;
    r->line = n->line;
    emit_value(r, tmpl_call(r, callee, &a));
}

static flow exec_scope(tmpl_run *r, tmpl_act *act, const tmpl_node *n)
{
    frame_enter(r, act, &n->frame);
    if (n->kind == N_WITH) {
        for (int i = 0; i < n->list2.n; i++)
            assign(r, act, n->list2.v[i], eval(r, act, n->list3.v[i]));
    }
    return exec_body(r, act, &n->list);
}

/* A break or continue inside a captured body leaves the capture as Python would leave the loop: its text is lost. */
static flow exec_captured(tmpl_run *r, tmpl_act *act, const tmpl_node *n)
{
    frame_enter(r, act, &n->frame);
    capture_begin(r);
    flow f = exec_body(r, act, &n->list);
    tv text = capture_end(r);
    if (f != FLOW_NEXT)
        return f;
    if (n->b != NULL)
        text = eval_filter(r, act, n->b, &text);
    if (n->kind == N_SET_BLOCK)
        assign(r, act, n->a, text);
    else
        emit_value(r, text);
    return f;
}

static void exec_function_now(tmpl_run *r, tmpl_act *parent, const tmpl_node *n, const tmpl_list *body)
{
    tmpl_act *act = act_new(r, parent, n->fn);
    if (n->slot >= 0)
        act->slots[n->slot] = tv_undefined_hint(r, "No caller defined");
    if (n->slot2 >= 0)
        act->slots[n->slot2] = tv_dict_new(r);
    if (n->slot3 >= 0)
        act->slots[n->slot3] = tv_list_of(r, TV_TUPLE, 0);
    frame_enter(r, act, &n->frame);
    exec_body(r, act, body);
}

static flow exec(tmpl_run *r, tmpl_act *act, const tmpl_node *n)
{
    tmpl_charge(r, 0);
    r->line = n->line;
    switch (n->kind) {
    case N_OUTPUT:
        exec_output(r, act, n);
        return FLOW_NEXT;
    case N_IF:
        return exec_if(r, act, n);
    case N_FOR:
        exec_loop(r, n->flag ? act_new(r, act, n->fn) : act, n, eval(r, act, n->b), 0);
        return FLOW_NEXT;
    case N_SET: {
        check_namespaces(r, act, n->a);
        tv v = eval(r, act, n->b);
        r->line = n->line;
        assign(r, act, n->a, v);
        return FLOW_NEXT;
    }
    case N_MACRO:
        *slot_at(act, n->ref) = macro_value(r, act, n, n->value.u.s);
        return FLOW_NEXT;
    case N_CALL_BLOCK:
        exec_call_block(r, act, n);
        return FLOW_NEXT;
    case N_SET_BLOCK:
    case N_FILTER_BLOCK:
        return exec_captured(r, act, n);
    case N_WITH:
    case N_SCOPE:
        return exec_scope(r, act, n);
    case N_GENERATION:
        exec_function_now(r, act, n, &n->list3);
        return FLOW_NEXT;
    case N_BLOCK:
        exec_function_now(r, NULL, n, &n->list);
        return FLOW_NEXT;
    case N_BREAK:
        return FLOW_BREAK;
    case N_CONTINUE:
        return FLOW_CONTINUE;
    default:
        tmpl_fail(r, ST_INTERNAL, "an expression where a statement belongs");
    }
}

static flow exec_body(tmpl_run *r, tmpl_act *act, const tmpl_list *body)
{
    flow f = FLOW_NEXT;
    tmpl_enter(r);
    for (int i = 0; i < body->n && f == FLOW_NEXT; i++)
        f = exec(r, act, body->v[i]);
    tmpl_leave(r);
    return f;
}

void tmpl_exec(tmpl_run *r, const shard_template *t)
{
    r->root = act_new(r, NULL, t->fn);
    frame_enter(r, r->root, &t->frame);
    exec_body(r, r->root, &t->body);
}
