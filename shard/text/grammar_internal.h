/* shard/text/grammar_internal.h - what passes between the parts of the grammar compiler, and the compiled form.
 *
 *   source ─ front end (regex, EBNF, JSON schema, choice) ─ rules of expressions ─ automata with calls ─ bytes
 *
 * An expression is regular but for its calls of rules.  Each rule becomes a deterministic automaton whose alphabet is bytes and calls;
 * then rules are rid of empty matches, of left recursion and of states from which nothing ends (grammar_rules.c).
 *
 * All of a compilation's memory lies in one arena with a bound; work is counted in steps. */
#ifndef SHARD_TEXT_GRAMMAR_INTERNAL_H
#define SHARD_TEXT_GRAMMAR_INTERNAL_H

#include "shard/text/grammar.h"

#define GRAM_NO_LIMIT UINT32_MAX /* of a repeat */
#define GRAM_MAX_DEPTH 200       /* of an expression */

/* ---- automata (grammar_automaton.c) ---- */
typedef struct gram_edge {
    uint32_t to;
    uint8_t first, last;
} gram_edge;
typedef struct gram_call {
    uint32_t rule, to;
} gram_call;
typedef struct gram_dstate {
    const gram_edge *edges; /* ascending, not overlapping */
    const gram_call *calls; /* ascending by rule */
    uint32_t n_edges, n_calls;
    bool final;
} gram_dstate;
/* Deterministic, state 0 is the start, every state reaches a final one.  n = 0: matches nothing. */
typedef struct gram_dfa {
    gram_dstate *states;
    uint32_t n;
} gram_dfa;

typedef struct gram_ctx gram_ctx;
typedef struct gram_expr gram_expr;

/* A nondeterministic one while it is built: edges in any order.  State 0 is the start, 1 the end. */
typedef enum gram_label { GRAM_ON_BYTES, GRAM_ON_CALL, GRAM_ON_NOTHING } gram_label;
typedef struct gram_nedge {
    uint32_t from, to, rule;
    uint8_t label, first, last;
} gram_nedge;
typedef struct gram_nfa {
    gram_ctx *ctx;
    gram_nedge *edges;
    size_t n_edges, cap;
    uint32_t n_states;
    bool regular; /* no calls may arise: counts are written out */
} gram_nfa;

status gram_nfa_init(gram_ctx *c, bool regular, gram_nfa *out);
status gram_nfa_edge(gram_nfa *n, gram_nedge edge);
status gram_nfa_skip(gram_nfa *n, uint32_t from, uint32_t to);
/* All that e matches leads from `from` to `to`. */
status gram_nfa_expr(gram_nfa *n, const gram_expr *e, uint32_t from, uint32_t to);
status gram_nfa_dfa(gram_nfa *n, const gram_dfa *d, uint32_t from, uint32_t to);
/* Determinises, trims and minimises. */
status gram_nfa_finish(gram_nfa *n, gram_dfa *out);
status gram_dfa_of(gram_ctx *c, const gram_expr *e, bool regular, gram_dfa *out);

/* Of automata without calls, over UTF-8 (grammar_algebra.c). */
status gram_dfa_both(gram_ctx *c, const gram_dfa *a, const gram_dfa *b, gram_dfa *out);
status gram_dfa_not(gram_ctx *c, const gram_dfa *a, gram_dfa *out); /* among valid UTF-8 */
/* The texts as JSON writes them between quotes: " \ and control characters escaped, everything else as it is. */
status gram_dfa_json(gram_ctx *c, const gram_dfa *a, gram_dfa *out);
bool gram_dfa_matches(const gram_dfa *d, const char *text, size_t len);

/* ---- expressions (grammar_expr.c) ---- */
typedef struct gram_range {
    uint32_t first, last;
} gram_range;
/* Characters: after gram_set_finish ascending, disjoint, without surrogates. */
typedef struct gram_set {
    gram_range *at;
    size_t n, cap;
} gram_set;
status gram_set_add(gram_ctx *c, gram_set *s, uint32_t first, uint32_t last);
status gram_set_add_all(gram_ctx *c, gram_set *s, const gram_set *other);
void gram_set_finish(gram_set *s);
status gram_set_invert(gram_ctx *c, gram_set *s); /* of a finished one */

typedef enum gram_expr_kind { GRAM_NOTHING, GRAM_EMPTY, GRAM_TEXT, GRAM_CHARS, GRAM_SEQ, GRAM_ALT, GRAM_REPEAT, GRAM_CALL, GRAM_AUTOMATON } gram_expr_kind;
struct gram_expr {
    gram_expr_kind kind;
    uint32_t size, depth;          /* rough count of states; nesting */
    const char *text;              /* TEXT */
    size_t len;
    gram_set chars;                /* CHARS */
    const gram_expr **items;       /* SEQ, ALT; REPEAT: one */
    size_t n;
    uint32_t min, max;             /* REPEAT */
    uint32_t rule;                 /* CALL */
    gram_dfa dfa;                  /* AUTOMATON, without calls */
};
typedef struct gram_list {
    const gram_expr **items;
    size_t n, cap;
} gram_list;
/* Expressions are immutable and may be shared.  Each NULL-free on ST_OK. */
status gram_text(gram_ctx *c, const char *text, size_t len, const gram_expr **out);
status gram_chars(gram_ctx *c, gram_set set, const gram_expr **out);
status gram_push(gram_ctx *c, gram_list *l, const gram_expr *e);
status gram_push_text(gram_ctx *c, gram_list *l, const char *text);
status gram_seq(gram_ctx *c, const gram_list *l, const gram_expr **out);
status gram_alt(gram_ctx *c, const gram_list *l, const gram_expr **out); /* of none: matches nothing */
status gram_repeat(gram_ctx *c, const gram_expr *e, uint32_t min, uint32_t max, const gram_expr **out);
status gram_call_rule(gram_ctx *c, uint32_t rule, const gram_expr **out);
status gram_automaton(gram_ctx *c, gram_dfa dfa, const gram_expr **out);
const gram_expr *gram_empty(void);
const gram_expr *gram_nothing(void);

/* ---- rules (grammar_rules.c) ---- */
typedef struct gram_rule {
    const gram_expr *body;  /* until it is built */
    gram_dfa dfa;
    bool nullable, productive;
    bool counted;           /* its start is the head of a loop that runs min to max times */
    bool recursive;
    uint32_t min, max;
    uint32_t number;        /* in the bytes */
} gram_rule;

typedef struct gram_class {
    gram_set set;
    const gram_expr *expr;
} gram_class;
struct gram_ctx {
    mem_arena *arena;
    gram_class *classes;    /* large sets of characters, and the expressions made of them */
    size_t n_classes, cap_classes;
    gram_rule *rules;
    uint32_t n_rules, cap_rules;
    int64_t steps;          /* left */
    double deadline; /* on log_thread_clock */
    size_t max_bytes;
    const char *why_empty;  /* what was left out, should nothing be left; or NULL */
};
status gram_rule_add(gram_ctx *c, uint32_t *rule); /* body to be set */
/* A rule that matches e min to max times. */
status gram_rule_counted(gram_ctx *c, const gram_expr *e, uint32_t min, uint32_t max, uint32_t *rule);
status gram_rules_write(gram_ctx *c, uint32_t root, mem_str *out);

status gram_work(gram_ctx *c, uint64_t steps);
status gram_alloc(gram_ctx *c, size_t n, size_t size, void *out /* T ** */);
/* Room for one more of `n` elements. */
status gram_grow(gram_ctx *c, void *array /* T ** */, size_t n, size_t *cap, size_t size);

/* ---- front ends: each gives the expression of the whole output ---- */
/* Dialects differ in what \d, \w, \s and . hold beyond ASCII (Python's re and ECMAScript, with and without flag u).  An expression holds
 * only what all of them match; with GRAM_REGEX_WIDE all that any of them matches (what is to be excluded). */
enum {
    GRAM_REGEX_SEARCH = 1, /* it matches somewhere in the text (JSON schema's pattern), else the whole text */
    GRAM_REGEX_WIDE = 2
};
status gram_regex(gram_ctx *c, const char *text, size_t len, int flags, const gram_expr **out);
/* A class after '[' in GBNF or a regular expression, up to and with its ']'. */
typedef struct gram_scan {
    gram_ctx *ctx;
    const char *what, *text; /* "regex", for messages */
    size_t len, pos;
    int depth;
    bool wide;
} gram_scan;
status gram_scan_class(gram_scan *s, gram_set *out);
/* After a backslash: one character; or a set (\d \W \p{L} ...), added to *out, if *found.  inverted: the set is to be excluded. */
status gram_scan_escape(gram_scan *s, uint32_t *out);
status gram_scan_set_escape(gram_scan *s, bool inverted, gram_set *out, bool *found);
/* One character, past it; invalid UTF-8 gives ST_INVALID. */
status gram_scan_char(gram_scan *s, uint32_t *out);
/* {m}, {m,}, {m,n}, {,n} at pos: *found says if there is one; pos behind it. */
status gram_scan_counts(gram_scan *s, bool *found, uint32_t *min, uint32_t *max);
status gram_scan_bad(const gram_scan *s, status st, const char *what);
/* \p{name}: a general category or "Any", "ASCII", "Alphabetic" ...; ST_UNSUPPORTED names it.  \d \w \s: letter d, w, s. */
status gram_property(gram_ctx *c, const char *name, size_t len, gram_set *set);
status gram_letter_class(gram_ctx *c, char letter, bool wide, gram_set *set);
status gram_ebnf(gram_ctx *c, const char *text, size_t len, const gram_expr **out);
status gram_json_schema(gram_ctx *c, const char *text, size_t len, const gram_expr **out);
status gram_json_object(gram_ctx *c, const gram_expr **out);

/* ---- the compiled form ----
 *
 *   "TGRM" version u8, flags u8 (1: the empty text matches), then varints (LEB128):
 *   rules, then for each: states, counted (0 1), min, max (max 0 = no limit); then for each state:
 *     flags (1 final), edges, calls, then edges: first, last - first, to; calls: rule, to   (states numbered from their rule's first)
 *   Rule 0 is the root, a rule's state 0 its start. */
#define GRAM_MAGIC "TGRM"
#define GRAM_VERSION 1
#define GRAM_FLAG_EMPTY 1

/* ---- a vocabulary (grammar_vocab.c) ----
 *
 * A trie in preorder: a node's subtree is at[i + 1 .. end). */
typedef struct gram_trie_node {
    uint32_t end;
    int32_t token; /* -1 none; others with the same bytes: `same` */
    uint16_t depth; /* of the root's children: 1 */
    uint8_t byte;
} gram_trie_node;
typedef struct gram_trie {
    gram_trie_node *at;
    uint32_t n;
} gram_trie;
/* Tokens of at most `chars` characters that may stand inside a JSON string as they are: where all of them are allowed, only the rest
 * need be walked. */
typedef struct gram_slice {
    uint32_t chars;
    uint32_t *mask;
    gram_trie rest;
} gram_slice;
enum { GRAM_SLICES = 5 };
struct shard_grammar_vocab {
    int32_t n_vocab;
    uint32_t words, max_len;  /* words of a mask; bytes of the longest token */
    mem_str text;             /* all tokens */
    uint32_t *offset;         /* [n_vocab + 1] into text; an empty token is never allowed */
    int32_t *same;            /* [n_vocab] next token with the same bytes, -1 none */
    uint32_t *end_mask;       /* end tokens */
    gram_trie all;
    gram_slice slices[GRAM_SLICES]; /* the largest first */
};

#endif
