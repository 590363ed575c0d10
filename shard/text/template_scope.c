/* shard/text/template_scope.c - names to slots, once, before any rendering.
 *
 * Jinja compiles a template to Python functions and works out beforehand which variable each name means (its "id tracking"): a
 * scope that stores a name has its own copy, which starts as the outer scope's value; a name stored in only one branch of an
 * `if` falls back to the context; macros see variables of the scopes around them as they are when called.  This file computes the
 * same: symbols() collects what a scope loads and stores, bind() turns names into (function, slot). */
#include "shard/text/template_internal.h"

typedef struct symbol {
    const tstr *name;
    bool own, stored;      /* own: has a variable at this level */
    int load;              /* LOAD_*, when own */
    const tmpl_fn *from_fn; /* LOAD_ALIAS */
    int32_t from_slot;
} symbol;

typedef struct symbols {
    struct symbols *parent;
    tmpl_fn *fn;
    int level;
    bool soft;             /* inside an if: an unknown filter or test fails only when reached */
    symbol *v;
    int n, cap;
} symbols;

typedef struct scoper {
    tmpl_run *r;
} scoper;

static void bind_body(scoper *x, symbols *s, tmpl_list *body);
static void bind_expr(scoper *x, symbols *s, tmpl_node *n);

static symbol *find_own(scoper *x, const symbols *s, const tstr *name)
{
    tmpl_charge(x->r, (size_t)s->n * 4);
    for (int i = 0; i < s->n; i++) {
        if (s->v[i].name->len == name->len && memcmp(s->v[i].name->p, name->p, name->len) == 0)
            return &s->v[i];
    }
    return NULL;
}

static symbol *entry(scoper *x, symbols *s, const tstr *name)
{
    symbol *e = find_own(x, s, name);
    if (e != NULL)
        return e;
    if (s->n == s->cap) {
        int cap = s->cap == 0 ? 8 : s->cap * 2;
        symbol *wider = tmpl_alloc(x->r, (size_t)cap * sizeof(*wider));
        if (s->n > 0)
            memcpy(wider, s->v, (size_t)s->n * sizeof(*wider));
        s->v = wider;
        s->cap = cap;
    }
    s->v[s->n] = (symbol){.name = name};
    return &s->v[s->n++];
}

/* The scope that holds a variable for name, from s outward; NULL: none. */
static const symbols *find_ref(scoper *x, const symbols *s, const tstr *name)
{
    for (; s != NULL; s = s->parent) {
        const symbol *e = find_own(x, s, name);
        if (e != NULL && e->own)
            return s;
    }
    return NULL;
}

/* The slot of (level, name) in a function; siblings at one level share it, as Python locals of one name do. */
static int32_t slot_of(scoper *x, tmpl_fn *fn, int level, const tstr *name)
{
    tmpl_charge(x->r, (size_t)fn->n_slots * 4);
    for (int32_t i = 0; i < fn->n_slots; i++) {
        const tstr *have = fn->idents[i].name;
        if (fn->idents[i].level == level && have->len == name->len && memcmp(have->p, name->p, name->len) == 0)
            return i;
    }
    if (fn->n_slots == fn->cap) {
        int32_t cap = fn->cap == 0 ? 8 : fn->cap * 2;
        void *wider = tmpl_alloc(x->r, (size_t)cap * sizeof(*fn->idents));
        if (fn->n_slots > 0)
            memcpy(wider, fn->idents, (size_t)fn->n_slots * sizeof(*fn->idents));
        fn->idents = wider;
        fn->cap = cap;
    }
    fn->idents[fn->n_slots].level = level;
    fn->idents[fn->n_slots].name = name;
    return fn->n_slots++;
}

static tmpl_fn *fn_new(scoper *x, tmpl_fn *parent)
{
    tmpl_fn *fn = tmpl_alloc(x->r, sizeof(*fn));
    fn->parent = parent;
    fn->depth = parent == NULL ? 0 : parent->depth + 1;
    return fn;
}

/* ---- collecting: what this scope itself loads and stores ---- */

static void set_alias(symbol *e, scoper *x, const symbols *outer)
{
    e->load = LOAD_ALIAS;
    e->from_fn = outer->fn;
    e->from_slot = slot_of(x, outer->fn, outer->level, e->name);
}

static void sym_load(scoper *x, symbols *s, const tstr *name)
{
    if (find_ref(x, s, name) != NULL)
        return;
    symbol *e = entry(x, s, name);
    e->own = true;
    e->load = LOAD_RESOLVE;
}

static void sym_store(scoper *x, symbols *s, const tstr *name)
{
    symbol *e = entry(x, s, name);
    e->stored = true;
    if (e->own)
        return;
    e->own = true;
    const symbols *outer = find_ref(x, s->parent, name);
    if (outer != NULL)
        set_alias(e, x, outer);
    else
        e->load = LOAD_UNDEFINED;
}

static int32_t sym_param(scoper *x, symbols *s, const tstr *name)
{
    symbol *e = entry(x, s, name);
    e->own = e->stored = true;
    e->load = LOAD_PARAM;
    return slot_of(x, s->fn, s->level, name);
}

static void collect_args(scoper *x, symbols *s, const tmpl_call_args *args);

static void collect_expr(scoper *x, symbols *s, const tmpl_node *n)
{
    if (n == NULL)
        return;
    if (n->kind == N_NAME || n->kind == N_NSREF)
        sym_load(x, s, n->value.u.s);
    if (n->kind == N_NSREF)
        return;
    collect_expr(x, s, n->a);
    collect_expr(x, s, n->b);
    collect_expr(x, s, n->c);
    for (int i = 0; i < n->list.n; i++)
        collect_expr(x, s, n->list.v[i]);
    if (n->args != NULL)
        collect_args(x, s, n->args);
}

static void collect_args(scoper *x, symbols *s, const tmpl_call_args *args)
{
    for (int i = 0; i < args->pos.n; i++)
        collect_expr(x, s, args->pos.v[i]);
    for (int i = 0; i < args->kw.n; i++)
        collect_expr(x, s, args->kw.v[i]);
    collect_expr(x, s, args->star);
    collect_expr(x, s, args->star_star);
}

static void collect_target(scoper *x, symbols *s, const tmpl_node *n, bool param)
{
    if (n->kind == N_TUPLE) {
        for (int i = 0; i < n->list.n; i++)
            collect_target(x, s, n->list.v[i], param);
    } else if (n->kind == N_NSREF) {
        sym_load(x, s, n->value.u.s);
    } else if (param) {
        sym_param(x, s, n->value.u.s);
    } else {
        sym_store(x, s, n->value.u.s);
    }
}

static void collect(scoper *x, symbols *s, const tmpl_node *n);

static void collect_body(scoper *x, symbols *s, const tmpl_list *body)
{
    for (int i = 0; i < body->n; i++)
        collect(x, s, body->v[i]);
}

static symbols copy_of(scoper *x, const symbols *s)
{
    symbols c = *s;
    c.v = c.cap == 0 ? NULL : tmpl_alloc(x->r, (size_t)c.cap * sizeof(*c.v));
    if (c.n > 0)
        memcpy(c.v, s->v, (size_t)c.n * sizeof(*c.v));
    return c;
}

/* Names stored in a branch and not before: what they are when the branch is not taken. */
static void merge_branches(scoper *x, symbols *s, symbols *branches, int n_branches)
{
    symbols before = copy_of(x, s);
    for (int b = 0; b < n_branches; b++) {
        for (int i = 0; i < branches[b].n; i++) {
            const symbol *in = &branches[b].v[i];
            symbol *e = entry(x, s, in->name);
            bool stored = e->stored || in->stored;
            if (in->own)
                *e = *in;
            e->stored = stored;
        }
    }
    for (int i = 0; i < s->n; i++) {
        symbol *e = &s->v[i];
        const symbol *old = find_own(x, &before, e->name);
        if (!e->stored || (old != NULL && old->stored) || !e->own)
            continue;
        const symbols *outer = find_ref(x, s->parent, e->name);
        if (outer != NULL)
            set_alias(e, x, outer);
        else
            e->load = LOAD_RESOLVE;
    }
}

static void collect_if(scoper *x, symbols *s, const tmpl_node *n)
{
    collect_expr(x, s, n->a);
    symbols branches[3] = {copy_of(x, s), copy_of(x, s), copy_of(x, s)};
    collect_body(x, &branches[0], &n->list);
    collect_body(x, &branches[1], &n->list2);
    collect_body(x, &branches[2], &n->list3);
    merge_branches(x, s, branches, 3);
}

/* Statements that open a scope are entered only as far as they are evaluated outside it. */
static void collect(scoper *x, symbols *s, const tmpl_node *n)
{
    switch (n->kind) {
    case N_OUTPUT:
        for (int i = 0; i < n->list.n; i++)
            collect_expr(x, s, n->list.v[i]);
        break;
    case N_IF:
        collect_if(x, s, n);
        break;
    case N_FOR:
        collect_expr(x, s, n->b);
        break;
    case N_SET:
        collect_expr(x, s, n->b);
        collect_target(x, s, n->a, false);
        break;
    case N_SET_BLOCK:
        collect_target(x, s, n->a, false);
        break;
    case N_MACRO:
        sym_store(x, s, n->value.u.s);
        break;
    case N_CALL_BLOCK:
        collect_expr(x, s, n->a);
        break;
    case N_FILTER_BLOCK:
        collect_expr(x, s, n->b);
        break;
    case N_WITH:
        for (int i = 0; i < n->list3.n; i++)
            collect_expr(x, s, n->list3.v[i]);
        break;
    default:
        break;
    }
}

/* ---- binding ---- */

static symbols inner(symbols *s, tmpl_fn *fn)
{
    return (symbols){.parent = s, .fn = fn, .level = s->level + 1};
}

/* Called when a scope's symbols are complete. */
static tmpl_frame frame_of(scoper *x, symbols *s)
{
    tmpl_frame f = {.loads = s->n == 0 ? NULL : tmpl_alloc(x->r, (size_t)s->n * sizeof(tmpl_load))};
    for (int i = 0; i < s->n; i++) {
        const symbol *e = &s->v[i];
        if (!e->own)
            continue;
        tmpl_load load = {.kind = e->load, .slot = slot_of(x, s->fn, s->level, e->name)};
        if (e->load == LOAD_ALIAS)
            load.from = (tmpl_ref){.hops = s->fn->depth - e->from_fn->depth, .slot = e->from_slot};
        if (e->load == LOAD_RESOLVE)
            load.name = (tv){.type = TV_STR, .u.s = (tstr *)e->name};
        if (e->load != LOAD_PARAM)
            f.loads[f.n++] = load;
    }
    return f;
}

static tmpl_ref ref_of(scoper *x, symbols *s, const tstr *name)
{
    const symbols *home = find_ref(x, s, name);
    if (home == NULL)
        tmpl_fail(x->r, ST_INTERNAL, "no variable for '%.*s'", (int)name->len, name->p);
    return (tmpl_ref){.hops = s->fn->depth - home->fn->depth, .slot = slot_of(x, home->fn, home->level, name)};
}

static void bind_args(scoper *x, symbols *s, tmpl_call_args *args)
{
    for (int i = 0; i < args->pos.n; i++)
        bind_expr(x, s, args->pos.v[i]);
    for (int i = 1; i < args->kw.n; i += 2)
        bind_expr(x, s, args->kw.v[i]);
    bind_expr(x, s, args->star);
    bind_expr(x, s, args->star_star);
}

static void check_known(scoper *x, const symbols *s, const tmpl_node *n)
{
    bool unknown = (n->kind == N_FILTER && n->filter == NULL) || (n->kind == N_TEST && n->test == NULL);
    if (!unknown || s->soft)
        return;
    x->r->line = n->line;
    tmpl_fail(x->r, ST_UNSUPPORTED, "no %s named '%.*s'", n->kind == N_FILTER ? "filter" : "test", (int)n->value.u.s->len, n->value.u.s->p);
}

static void bind_expr(scoper *x, symbols *s, tmpl_node *n)
{
    if (n == NULL)
        return;
    tmpl_charge(x->r, 0);
    if (n->kind == N_NAME || n->kind == N_NSREF)
        n->ref = ref_of(x, s, n->value.u.s);
    if (n->kind == N_NSREF)
        return;
    check_known(x, s, n);
    bool soft = s->soft;
    s->soft = soft || n->kind == N_COND;
    bind_expr(x, s, n->a);
    bind_expr(x, s, n->b);
    bind_expr(x, s, n->c);
    for (int i = 0; i < n->list.n; i++)
        bind_expr(x, s, n->list.v[i]);
    if (n->args != NULL)
        bind_args(x, s, n->args);
    s->soft = soft;
}

static tmpl_node *clone_target(scoper *x, const tmpl_node *n)
{
    tmpl_node *c = tmpl_alloc(x->r, sizeof(*c));
    *c = *n;
    if (n->kind == N_TUPLE && n->list.n > 0) {
        c->list.v = tmpl_alloc(x->r, (size_t)n->list.n * sizeof(tmpl_node *));
        for (int i = 0; i < n->list.n; i++)
            c->list.v[i] = clone_target(x, n->list.v[i]);
    }
    return c;
}

static const tstr *literal(scoper *x, const char *text)
{
    return tv_text(x->r, text).u.s;
}

static void bind_for(scoper *x, symbols *s, tmpl_node *n)
{
    if (n->c != NULL) { /* the filter: a function of its own, with its own copy of the target (list3) */
        n->fn2 = fn_new(x, s->fn);
        symbols test = inner(s, n->fn2);
        tmpl_node *target = clone_target(x, n->a);
        n->list3 = (tmpl_list){.v = tmpl_alloc(x->r, sizeof(tmpl_node *)), .n = 1, .cap = 1};
        n->list3.v[0] = target;
        collect_target(x, &test, target, true);
        collect_expr(x, &test, n->c);
        n->frame3 = frame_of(x, &test);
        bind_expr(x, &test, target);
        bind_expr(x, &test, n->c);
    }
    bind_expr(x, s, n->b);
    tmpl_fn *fn = n->flag ? fn_new(x, s->fn) : s->fn;
    n->fn = n->flag ? fn : NULL;
    symbols body = inner(s, fn), other = inner(s, fn);
    n->slot = sym_param(x, &body, literal(x, "loop"));
    collect_target(x, &body, n->a, true);
    collect_body(x, &body, &n->list);
    n->frame = frame_of(x, &body);
    bind_expr(x, &body, n->a);
    bind_body(x, &body, &n->list);
    collect_body(x, &other, &n->list2);
    n->frame2 = frame_of(x, &other);
    bind_body(x, &other, &n->list2);
}

static void bind_function(scoper *x, symbols *s, tmpl_node *n)
{
    n->fn = fn_new(x, s->fn);
    symbols in = inner(s, n->fn);
    for (int i = 0; i < n->list.n; i++)
        sym_param(x, &in, n->list.v[i]->value.u.s);
    bool own_caller = false, own_kwargs = false, own_varargs = false;
    for (int i = 0; i < n->list.n; i++) {
        own_caller = own_caller || tv_text_is(n->list.v[i]->value, "caller");
        own_kwargs = own_kwargs || tv_text_is(n->list.v[i]->value, "kwargs");
        own_varargs = own_varargs || tv_text_is(n->list.v[i]->value, "varargs");
    }
    for (int i = 0; i < n->list2.n; i++)
        collect_expr(x, &in, n->list2.v[i]);
    collect_body(x, &in, &n->list3);
    if (n->uses_caller && !own_caller)
        n->slot = sym_param(x, &in, literal(x, "caller"));
    if (n->uses_kwargs && !own_kwargs)
        n->slot2 = sym_param(x, &in, literal(x, "kwargs"));
    if (n->uses_varargs && !own_varargs)
        n->slot3 = sym_param(x, &in, literal(x, "varargs"));
    n->frame = frame_of(x, &in);
    for (int i = 0; i < n->list.n; i++)
        n->list.v[i]->ref = ref_of(x, &in, n->list.v[i]->value.u.s);
    for (int i = 0; i < n->list2.n; i++)
        bind_expr(x, &in, n->list2.v[i]);
    bind_body(x, &in, &n->list3);
}

static void bind_scope(scoper *x, symbols *s, tmpl_node *n)
{
    symbols in = inner(s, s->fn);
    if (n->kind == N_WITH) {
        for (int i = 0; i < n->list2.n; i++)
            collect_target(x, &in, n->list2.v[i], true);
    }
    if (n->kind == N_FILTER_BLOCK) {
        collect_expr(x, &in, n->b);
        collect_body(x, &in, &n->list);
    } else {
        collect_body(x, &in, &n->list);
    }
    if (n->kind == N_SET_BLOCK) /* its filter is compiled inside */
        collect_expr(x, &in, n->b);
    n->frame = frame_of(x, &in);
    if (n->kind == N_WITH) {
        for (int i = 0; i < n->list2.n; i++) {
            bind_expr(x, &in, n->list2.v[i]);
            bind_expr(x, s, n->list3.v[i]);
        }
    }
    if (n->kind == N_SET_BLOCK)
        bind_expr(x, s, n->a);
    bind_expr(x, &in, n->b);
    bind_body(x, &in, &n->list);
}

static void bind(scoper *x, symbols *s, tmpl_node *n)
{
    switch (n->kind) {
    case N_OUTPUT:
        for (int i = 0; i < n->list.n; i++)
            bind_expr(x, s, n->list.v[i]);
        break;
    case N_IF: {
        bool soft = s->soft;
        s->soft = true;
        bind_expr(x, s, n->a);
        bind_body(x, s, &n->list);
        bind_body(x, s, &n->list2);
        bind_body(x, s, &n->list3);
        s->soft = soft;
        break;
    }
    case N_FOR:
        bind_for(x, s, n);
        break;
    case N_SET:
        bind_expr(x, s, n->b);
        bind_expr(x, s, n->a);
        break;
    case N_MACRO:
        bind_function(x, s, n);
        n->ref = ref_of(x, s, n->value.u.s);
        break;
    case N_GENERATION:
        bind_function(x, s, n);
        break;
    case N_CALL_BLOCK:
        bind_function(x, s, n);
        bind_expr(x, s, n->a);
        break;
    case N_SET_BLOCK:
    case N_FILTER_BLOCK:
    case N_WITH:
    case N_SCOPE:
        bind_scope(x, s, n);
        break;
    case N_BLOCK: { /* sees the context alone, not the scopes around it */
        n->fn = fn_new(x, NULL);
        symbols in = {.fn = n->fn};
        collect_body(x, &in, &n->list);
        n->frame = frame_of(x, &in);
        bind_body(x, &in, &n->list);
        break;
    }
    default:
        break;
    }
}

static void bind_body(scoper *x, symbols *s, tmpl_list *body)
{
    for (int i = 0; i < body->n; i++)
        bind(x, s, body->v[i]);
}

void tmpl_scope(tmpl_run *r, shard_template *t)
{
    scoper x = {.r = r};
    t->fn = fn_new(&x, NULL);
    symbols root = {.fn = t->fn};
    collect_body(&x, &root, &t->body);
    t->frame = frame_of(&x, &root);
    bind_body(&x, &root, &t->body);
}
