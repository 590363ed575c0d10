/* shard/text/template_internal.h - inside the Jinja interpreter: values, the syntax tree, a rendering's state.
 *
 *   source --template_lex--> tokens --template_parse--> tree --template_scope--> tree with slots --template_eval--> text
 *
 * Everything lives in one arena for each template (tree) and one for each rendering (values); nothing is freed singly.
 * Errors leave through tmpl_fail's longjmp to the one entry point that owns the arena, so that the interpreter itself reads
 * like the language it interprets.  Values are immutable (the sandbox forbids changing lists and dicts), so slices and
 * splits of a string share its bytes, and appending to the newest string or list extends its buffer in place.
 *
 * The semantics are Python's and Jinja 3.1's: where a line looks odd, it is what they do. */
#ifndef SHARD_TEXT_TEMPLATE_INTERNAL_H
#define SHARD_TEXT_TEMPLATE_INTERNAL_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "shard/text/template.h"

/* ---- state shared by parsing and rendering ---- */

typedef struct tmpl_act tmpl_act;
typedef struct tmpl_node tmpl_node;
typedef struct tmpl_fn tmpl_fn;

typedef struct tmpl_run {
    const char *where;
    mem_arena *arena;
    jmp_buf fail;
    status st;
    bool raised;             /* by the template's own raise_exception */
    int line;                /* of what is being read or evaluated */
    char message[900];
    int64_t steps, max_steps;
    int depth, max_depth;    /* of C recursion */
    /* rendering only */
    int calls, max_calls;    /* nesting of macros and recursive loops */
    mem_str **captures;      /* output buffers; [0] is the caller's */
    int n_captures, cap_captures;
    size_t live, max_output; /* bytes in all buffers */
    struct tdict *globals;
    tmpl_act *root;
    const char *now;
} tmpl_run;

_Noreturn void tmpl_fail(tmpl_run *r, status st, const char *format, ...) __attribute__((format(printf, 3, 4)));
void *tmpl_alloc(tmpl_run *r, size_t bytes);           /* zeroed, 16-byte aligned */
void tmpl_charge(tmpl_run *r, size_t bytes);           /* one step, and one more for each 64 bytes of work */
void tmpl_enter(tmpl_run *r);                          /* one level of C recursion; tmpl_leave undoes it */
static inline void tmpl_leave(tmpl_run *r)
{
    r->depth--;
}

/* ---- values ---- */

typedef enum tv_type {
    TV_MISSING,   /* no value at all: an unset slot, an argument not given */
    TV_UNDEFINED, /* Jinja's Undefined: prints as nothing, fails when used */
    TV_NONE,
    TV_BOOL,
    TV_INT,
    TV_FLOAT,
    TV_STR,
    TV_LIST,
    TV_TUPLE,
    TV_DICT,
    TV_VIEW,      /* dict.keys(), .values(), .items() */
    TV_RANGE,
    TV_ITER,      /* a generator: consumed once */
    TV_NAMESPACE,
    TV_MACRO,
    TV_METHOD,    /* a method bound to its object */
    TV_FUNC,      /* a global function */
    TV_LOOP,
    TV_CYCLER,
    TV_JOINER,
} tv_type;

typedef struct tstr tstr;
typedef struct tlist tlist;
typedef struct tdict tdict;
typedef struct titer titer;
typedef struct tundef tundef;
typedef struct tview tview;
typedef struct trange trange;
typedef struct tmacro tmacro;
typedef struct tmethod tmethod;
typedef struct tfunc tfunc;
typedef struct tloop tloop;
typedef struct tcycler tcycler;
typedef struct tjoiner tjoiner;

typedef struct tv {
    uint8_t type;
    bool markup; /* a string marked safe: what is joined to it gets escaped */
    union {
        bool b;
        int64_t i;
        double f;
        tstr *s;
        tlist *l;
        tdict *d;
        titer *it;
        tundef *undef;
        tview *view;
        trange *range;
        tmacro *macro;
        tmethod *method;
        const tfunc *func;
        tloop *loop;
        tcycler *cycler;
        tjoiner *joiner;
        void *p;
    } u;
} tv;

struct tstr {
    const char *p;
    size_t len;
    int64_t chars;          /* code points, -1 = not counted yet */
    struct tstrbuf *buf;    /* where appending may go on, or NULL */
};

struct tlist { /* lists and tuples */
    tv *v;
    size_t n;
    struct tlistbuf *buf;
    bool group;             /* a groupby pair: has .grouper and .list */
};

typedef struct tentry {
    tv key, value;
    uint64_t hash;
} tentry;

struct tdict {
    tentry *e;
    size_t n, cap;
    uint32_t *index;        /* open addressing, entry + 1; NULL while small */
    size_t index_cap;
};

struct tundef {
    const char *hint;       /* a whole message, or NULL: made from the rest */
    const char *object;     /* type name of the object lacking `name`; NULL: a variable */
    tv name;
    bool unsafe;
};

enum { TVIEW_KEYS, TVIEW_VALUES, TVIEW_ITEMS };
struct tview {
    const tdict *d;
    int kind;
};

struct trange {
    int64_t start, stop, step, n;
};

struct titer {
    bool (*next)(tmpl_run *r, titer *it, tv *out);
    tv source;
    titer *inner;
    size_t i;
    void *arg;
    int64_t left;           /* items remaining where cheaply known, else -1 */
    const char *name;       /* for printing */
};

struct tmacro {
    const tmpl_node *node;
    tmpl_act *scope;
    const tstr *name;       /* NULL: a caller */
};

typedef struct targs {
    const tv *pos;
    int n;
    const tv *kw_name, *kw;
    int n_kw;
} targs;

typedef tv (*tmpl_method_fn)(tmpl_run *r, tv self, const targs *a);
struct tmethod {
    tv self;
    tmpl_method_fn fn;
    const char *name;
};

struct tfunc {
    const char *name;
    tv (*fn)(tmpl_run *r, const targs *a);
};

struct tloop {
    titer *it;
    tv iterable, before, current, after, changed;
    int64_t index0, length; /* length -1: not known yet */
    int depth0;
    const tmpl_node *recursive; /* the for node, when it is recursive */
    tmpl_act *scope;
};

struct tcycler {
    const tv *items;
    int n, pos;
};

struct tjoiner {
    tv sep;
    bool used;
};

static inline tv tv_missing(void)
{
    return (tv){.type = TV_MISSING};
}
static inline tv tv_none(void)
{
    return (tv){.type = TV_NONE};
}
static inline tv tv_bool(bool b)
{
    return (tv){.type = TV_BOOL, .u.b = b};
}
static inline tv tv_int(int64_t i)
{
    return (tv){.type = TV_INT, .u.i = i};
}
static inline tv tv_float(double f)
{
    return (tv){.type = TV_FLOAT, .u.f = f};
}
static inline bool tv_is_number(tv v)
{
    return v.type == TV_BOOL || v.type == TV_INT || v.type == TV_FLOAT;
}
static inline bool tv_is_seq(tv v)
{
    return v.type == TV_LIST || v.type == TV_TUPLE;
}
static inline int64_t tv_whole(tv v) /* of a bool or an int */
{
    return v.type == TV_BOOL ? v.u.b : v.u.i;
}

/* template_value.c */
tv tv_view_of(tmpl_run *r, const char *p, size_t n);          /* a string sharing bytes that outlive the rendering */
tv tv_copy_of(tmpl_run *r, const char *p, size_t n);
tv tv_text(tmpl_run *r, const char *text);                    /* sharing a C string */
tv tv_sub(tmpl_run *r, tv s, size_t from, size_t to);         /* bytes [from, to) of a string */
tv tv_undefined_hint(tmpl_run *r, const char *hint);
tv tv_undefined_name(tmpl_run *r, tv name);
tv tv_undefined_attr(tmpl_run *r, tv object, tv name, bool unsafe);
_Noreturn void tmpl_fail_undefined(tmpl_run *r, tv undefined);
tv tv_list_of(tmpl_run *r, tv_type type, size_t n);           /* of n, to be filled */
void tv_list_push(tmpl_run *r, tv list, tv item);             /* while being built */
tv tv_pair(tmpl_run *r, tv a, tv b);                          /* a tuple */
tv tv_dict_new(tmpl_run *r);
void tv_dict_set(tmpl_run *r, tdict *d, tv key, tv value);
const tv *tv_dict_get(tmpl_run *r, const tdict *d, tv key);   /* NULL: absent */
const tv *tv_dict_get_text(tmpl_run *r, const tdict *d, const char *key);
const char *tv_type_name(tv v);                               /* Python's */
bool tv_truth(tv v);
bool tv_equal(tmpl_run *r, tv a, tv b);
enum { TV_LT, TV_LE, TV_GT, TV_GE };
bool tv_order(tmpl_run *r, int op, tv a, tv b);
bool tv_in(tmpl_run *r, tv item, tv container);
int64_t tv_length(tmpl_run *r, tv v);                         /* fails where Python has no len() */
bool tv_has_length(tv v);
bool tv_is_iterable(tv v);
titer *tv_iterate(tmpl_run *r, tv v);                         /* fails where Python has no iter() */
tv tv_generator(tmpl_run *r, const char *name, tv source, bool (*next)(tmpl_run *, titer *, tv *), void *arg);
tv tv_to_list(tmpl_run *r, tv v);
int64_t tv_chars(const tstr *s);
size_t tv_offset(const tstr *s, int64_t index);               /* byte offset of code point index, 0..chars */
tv tv_concat(tmpl_run *r, tv a, tv b);                        /* two strings */
int64_t tv_to_int(tmpl_run *r, tv v, const char *what);       /* a bool or int, else a TypeError */
const tstr *tv_need_str(tmpl_run *r, tv v, const char *what);
bool tv_text_is(tv v, const char *text);

/* template_access.c: attributes, items, slices, calls of what is not a macro */
tv tmpl_getattr(tmpl_run *r, tv object, tv name);
tv tmpl_getitem(tmpl_run *r, tv object, tv index);
tv tmpl_slice(tmpl_run *r, tv object, tv start, tv stop, tv step);
void tmpl_bind(tmpl_run *r, const char *func, const targs *a, const char *const *names, int n, int required, tv *out);
void tmpl_positional(tmpl_run *r, const char *func, const targs *a, int min, int max);

/* template_number.c */
tv tmpl_binary(tmpl_run *r, int op, tv a, tv b);              /* op: a tmpl_op */
tv tmpl_negate(tmpl_run *r, tv v, bool minus);
bool tmpl_parse_int(const tstr *s, int base, int64_t *out);   /* Python's int(str, base) */
bool tmpl_parse_float(const tstr *s, double *out);            /* Python's float(str) */
double tmpl_round(double v, int64_t digits);
tv tmpl_float_to_int(tmpl_run *r, double v);

/* template_text.c: text of values */
typedef struct tbuf {
    tmpl_run *r;
    char *p;
    size_t len, cap;
} tbuf;
void tbuf_put(tbuf *b, const char *p, size_t n);
void tbuf_puts(tbuf *b, const char *text);
void tbuf_putc(tbuf *b, char c);
void tbuf_put_cp(tbuf *b, uint32_t cp);
tv tbuf_take(tbuf *b);
void tmpl_put_str(tbuf *b, tv v);                             /* str(v) */
void tmpl_put_repr(tbuf *b, tv v);
void tmpl_put_float(tbuf *b, double v);
tv tmpl_str(tmpl_run *r, tv v);                               /* str(v), markup kept on strings */
tv tmpl_escape(tmpl_run *r, tv v);                            /* markupsafe.escape */
tv tmpl_json(tmpl_run *r, tv v, bool ascii, tv indent, tv separators, bool sort_keys);

/* template_format.c */
tv tmpl_percent(tmpl_run *r, tv format, tv args);             /* "..." % args */
tv tmpl_format(tmpl_run *r, tv format, const targs *a);       /* "...".format(...) */

/* template_unicode.c */
uint32_t tmpl_cp_next(const char **p, const char *end);       /* lenient UTF-8 */
uint32_t tmpl_cp_prev(const char *begin, const char **p);
int tmpl_cp_encode(uint32_t cp, char out[4]);
bool tmpl_cp_space(uint32_t cp);
bool tmpl_cp_printable(uint32_t cp);
bool tmpl_cp_alpha(uint32_t cp);
bool tmpl_cp_alnum(uint32_t cp);
bool tmpl_cp_decimal(uint32_t cp);
bool tmpl_cp_digit(uint32_t cp);
bool tmpl_cp_numeric(uint32_t cp);
bool tmpl_cp_upper(uint32_t cp);
bool tmpl_cp_lower(uint32_t cp);
bool tmpl_cp_title(uint32_t cp);
bool tmpl_cp_word(uint32_t cp);                               /* \w */
bool tmpl_cp_id(uint32_t cp, bool first);
enum { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_FOLD };
void tmpl_put_cased(tbuf *b, uint32_t cp, int kind);
void tmpl_put_lower(tbuf *b, const char *p, size_t n);        /* with the final sigma */
void tmpl_put_lower_at(tbuf *b, const char *text, const char *at, const char *end); /* one character of text */

/* template_strings.c: methods of str */
tmpl_method_fn tmpl_str_method(const char *name, size_t len, const char **canonical);
tv tmpl_str_strip(tmpl_run *r, tv s, const tstr *chars, bool left, bool right);
tv tmpl_str_replace(tmpl_run *r, const tstr *s, const tstr *old, const tstr *new_, int64_t count);
tv tmpl_str_join(tmpl_run *r, tv sep, tv items, bool to_str);
tv tmpl_str_case(tmpl_run *r, const tstr *s, int kind);
tv tmpl_str_capitalize(tmpl_run *r, const tstr *s);
tv tmpl_str_lines(tmpl_run *r, const tstr *s, bool keep);
tv tmpl_str_pad(tmpl_run *r, tv s, int64_t width, uint32_t fill, int align); /* align '<' '>' '^' */
tv tmpl_str_rsplit(tmpl_run *r, tv s, const tstr *sep, int64_t max);

/* template_filters.c, template_sequences.c, template_tests.c */
typedef struct tmpl_filter {
    const char *name;
    tv (*fn)(tmpl_run *r, tv value, const targs *a);
} tmpl_filter;
typedef struct tmpl_test {
    const char *name;
    bool (*fn)(tmpl_run *r, tv value, const targs *a);
} tmpl_test;
extern const tmpl_filter tmpl_text_filters[], tmpl_sequence_filters[]; /* end with a NULL name */
extern const tmpl_test tmpl_tests[];
const tmpl_filter *tmpl_filter_find(const tstr *name);
const tmpl_test *tmpl_test_find(const tstr *name);
tv tmpl_attr_path(tmpl_run *r, tv item, tv path, tv fallback); /* "a.b.0": Jinja's attribute arguments */

/* ---- syntax tree ---- */

typedef enum tmpl_kind {
    N_CONST, N_NAME, N_NSREF, N_TUPLE, N_LIST, N_DICT, N_COND, N_OR, N_AND, N_NOT, N_COMPARE, N_BINARY, N_CONCAT, N_NEG, N_POS,
    N_GETATTR, N_GETITEM, N_SLICE, N_CALL, N_FILTER, N_TEST,
    N_OUTPUT, N_IF, N_FOR, N_SET, N_SET_BLOCK, N_MACRO, N_CALL_BLOCK, N_FILTER_BLOCK, N_WITH, N_SCOPE, N_BLOCK, N_GENERATION, N_BREAK, N_CONTINUE,
} tmpl_kind;

typedef enum tmpl_op { OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FLOORDIV, OP_MOD, OP_POW, OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_IN, OP_NOT_IN } tmpl_op;

typedef struct tmpl_list {
    tmpl_node **v;
    int n, cap;
} tmpl_list;

typedef struct tmpl_call_args {
    tmpl_list pos, kw;
    tv *kw_names;
    tmpl_node *star, *star_star;
} tmpl_call_args;

/* A variable: `hops` functions up, slot there. */
typedef struct tmpl_ref {
    int32_t hops, slot;
} tmpl_ref;

enum { LOAD_PARAM, LOAD_RESOLVE, LOAD_ALIAS, LOAD_UNDEFINED };
typedef struct tmpl_load {
    int kind;
    int32_t slot;      /* in the current function */
    tmpl_ref from;     /* LOAD_ALIAS */
    tv name;           /* LOAD_RESOLVE */
} tmpl_load;

/* What happens on entering a scope: Jinja's id tracking, worked out once. */
typedef struct tmpl_frame {
    tmpl_load *loads;
    int n;
} tmpl_frame;

/* A function of its own activation: the template, a macro, a recursive loop, a loop's filter, a block. */
struct tmpl_fn {
    tmpl_fn *parent;
    int depth;
    int32_t n_slots, cap;
    struct tmpl_ident {
        int level;
        const tstr *name;
    } *idents;
};

struct tmpl_node {
    uint8_t kind, op;
    bool flag;              /* N_FOR: recursive; N_TUPLE: a target; N_COND: has an else */
    bool uses_caller, uses_kwargs, uses_varargs; /* N_MACRO, N_CALL_BLOCK */
    int depth, line;
    tv value;               /* N_CONST: the value; names: the name */
    tmpl_ref ref;           /* N_NAME, N_NSREF; N_MACRO: where its name is kept */
    tmpl_node *a, *b, *c;
    tmpl_list list, list2, list3;
    uint8_t *ops;           /* N_COMPARE */
    tmpl_call_args *args;   /* N_CALL, N_FILTER, N_TEST */
    const tmpl_filter *filter;
    const tmpl_test *test;
    /* scopes */
    tmpl_fn *fn, *fn2;      /* own function, or NULL; N_FOR: fn2 of the filter */
    tmpl_frame frame, frame2, frame3;
    int32_t slot, slot2, slot3; /* N_FOR: loop; macros: caller, kwargs, varargs; -1 = none */
};

struct shard_template {
    mem_arena *arena;
    char *where, *source;   /* source as given, for continue_final_message's check */
    size_t source_len;
    tmpl_list body;
    tmpl_fn *fn;
    tmpl_frame frame;
    tmpl_list blocks;       /* N_BLOCK, for duplicate names */
};

/* template_lex.c */
typedef enum tok_type { T_EOF, T_DATA, T_VAR_BEGIN, T_VAR_END, T_BLOCK_BEGIN, T_BLOCK_END, T_NAME, T_STRING, T_INT, T_FLOAT, T_OP } tok_type;
typedef struct tok {
    uint8_t type;
    char op[3];             /* T_OP: the operator's text */
    int line;
    tv value;
} tok;
tok *tmpl_lex(tmpl_run *r, const char *source, size_t len); /* ends with T_EOF */

/* template_parse.c, template_scope.c, template_eval.c */
void tmpl_parse(tmpl_run *r, tok *tokens, shard_template *t);
void tmpl_scope(tmpl_run *r, shard_template *t);
struct tmpl_act {
    tmpl_act *parent;
    const tmpl_fn *fn;
    tv *slots;
};
void tmpl_exec(tmpl_run *r, const shard_template *t);
tv tmpl_call(tmpl_run *r, tv callee, const targs *a);
tv tmpl_apply_filter(tmpl_run *r, tv name, tv value, const targs *a);
bool tmpl_apply_test(tmpl_run *r, tv name, tv value, const targs *a);

/* template_globals.c */
void tmpl_add_globals(tmpl_run *r, tdict *globals);

#endif
