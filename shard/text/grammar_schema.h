/* shard/text/grammar_schema.h - JSON schemas on their way to a grammar.
 *
 *   literals (a schema, or that it does not hold)  ─ conjunctions, one rule each
 *   conjunction ─ expand (grammar_shape.c) ─ shapes: alternatives in which every keyword has become a constraint on one type of value
 *   shape ─ expressions by type: grammar_string.c, grammar_number.c, grammar_array.c, grammar_object.c
 *
 * What may be written can be less than a schema allows, never more: negations and overlaps are resolved exactly or by leaving texts out, and a
 * keyword that cannot be kept is refused by name. */
#ifndef SHARD_TEXT_GRAMMAR_SCHEMA_H
#define SHARD_TEXT_GRAMMAR_SCHEMA_H

#include <jansson.h>

#include "shard/text/grammar_json.h"

/* Types of values.  A number is whole (INT) or not (FRACTION). */
enum {
    SCH_NULL = 1, SCH_FALSE = 2, SCH_TRUE = 4, SCH_INT = 8, SCH_FRACTION = 16, SCH_STRING = 32, SCH_ARRAY = 64, SCH_OBJECT = 128,
    SCH_BOOL = SCH_FALSE | SCH_TRUE, SCH_NUMBER = SCH_INT | SCH_FRACTION, SCH_ANY = 255
};

typedef struct sch_lit {
    const json_t *schema; /* an object or a boolean */
    bool negated;
} sch_lit;
/* Sorted, no doubles, nothing that always holds. */
typedef struct sch_conj {
    sch_lit *at;
    size_t n, cap;
    bool never; /* cannot hold */
} sch_conj;

/* Lists are immutable and share their tails; the last thing added comes first. */
typedef struct sch_cell sch_cell;
struct sch_cell {
    const sch_cell *next;
    sch_lit lit;
    const json_t *json;
    const char *text;
    size_t len;
    int kind;
    uint32_t min, max;
};

typedef struct sch_bound {
    const json_t *value; /* NULL: none */
    bool exclusive;
} sch_bound;

typedef struct sch_shape {
    unsigned types;
    bool listed;              /* only `values` */
    const sch_cell *values, *excluded; /* json */
    const sch_cell *done;     /* literals that hold */
    /* strings */
    uint32_t min_length, max_length;
    const sch_cell *patterns; /* text; kind 1: negated */
    const sch_cell *formats;  /* text */
    /* numbers */
    sch_bound low, high;
    const sch_cell *multiples; /* json */
    /* arrays */
    uint32_t min_items, max_items;
    const sch_cell *item_layers; /* json: schemas with items, prefixItems ...; min: scopes */
    const sch_cell *item_scopes; /* json: schemas with unevaluatedItems; min: its scope */
    const sch_cell *item_lits;   /* min: position, lit */
    const sch_cell *contains;    /* lit, min, max */
    bool unique;
    /* objects */
    uint32_t min_properties, max_properties;
    const sch_cell *property_layers; /* json: schemas with properties ...; min: scopes */
    const sch_cell *property_scopes; /* json: schemas with unevaluatedProperties; min: its scope */
    const sch_cell *property_lits;   /* text, lit: where there is such a property */
    const sch_cell *required;        /* text */
    const sch_cell *name_lits;       /* lit on every name */
} sch_shape;
typedef struct sch_shapes {
    sch_shape *at;
    size_t n, cap;
} sch_shapes;

typedef struct sch_rule {
    sch_conj conj;
    uint32_t rule;
    uint64_t hash;
} sch_rule;
typedef struct sch_place { /* a schema and the URI that its references are relative to */
    const json_t *schema;
    const char *base;
} sch_place;
typedef struct sch_name {
    const char *uri;
    const json_t *schema;
} sch_name;
typedef struct sch_pattern {
    const char *text;
    size_t len;
    bool wide;
    gram_dfa dfa;
} sch_pattern;

typedef struct sch_ctx {
    gram_ctx *c;
    const json_t *root;
    bool old;              /* up to draft 7: what stands beside $ref does not count */
    sch_place *places;     /* open addressing by pointer */
    size_t n_places, cap_places;
    sch_name *names;
    size_t n_names, cap_names;
    sch_rule *rules;       /* one for each conjunction met */
    size_t n_rules, cap_rules;
    sch_pattern *patterns;
    size_t n_patterns, cap_patterns;
    const gram_expr *any, *any_object;
    const gram_expr *comma, *colon;
    const json_t *scopes[32]; /* schemas with unevaluated...: a bit each */
    size_t n_scopes;
    char left_out[160];    /* what a negation could not say: why nothing may be left */
    int depth;             /* of values judged */
} sch_ctx;

/* grammar_reference.c */
status sch_index(sch_ctx *s);
status sch_resolve(sch_ctx *s, const json_t *from, const char *ref, const json_t **out);

/* grammar_shape.c */
status sch_cons(sch_ctx *s, const sch_cell **list, sch_cell cell);
status sch_conj_add(sch_ctx *s, sch_conj *conj, sch_lit lit);
status sch_expand(sch_ctx *s, const sch_conj *conj, sch_shapes *out);

/* grammar_schema.c */
status sch_conj_expr(sch_ctx *s, const sch_conj *conj, const gram_expr **out);
status sch_literal(sch_ctx *s, const json_t *value, const gram_expr **out); /* a value as it is written */
status sch_text_key(sch_ctx *s, const char *text, size_t len, const gram_expr **out); /* "text" */

/* grammar_string.c */
status sch_string(sch_ctx *s, const sch_shape *sh, const gram_expr **out);
/* The strings (raw) that the shape allows, as an automaton. */
status sch_string_dfa(sch_ctx *s, const sch_shape *sh, gram_dfa *out);
status sch_string_ok(sch_ctx *s, const sch_shape *sh, const char *text, size_t len, bool *ok);
status sch_pattern_dfa(sch_ctx *s, const char *text, size_t len, bool wide, const gram_dfa **out);
size_t sch_chars(const char *text, size_t len);
/* All texts of min to max characters. */
status sch_length_dfa(sch_ctx *s, uint32_t min, uint32_t max, gram_dfa *out);

/* grammar_number.c */
status sch_number(sch_ctx *s, const sch_shape *sh, const gram_expr **out);
status sch_number_ok(const sch_shape *sh, const json_t *value, bool *ok);
int sch_compare(const json_t *a, const json_t *b); /* numbers */
bool sch_is_whole(const json_t *number);

/* grammar_array.c, grammar_object.c */
status sch_array(sch_ctx *s, const sch_shape *sh, const gram_expr **out);
status sch_array_ok(sch_ctx *s, const sch_shape *sh, const json_t *value, bool *ok);
status sch_object(sch_ctx *s, const sch_shape *sh, const gram_expr **out);
status sch_object_ok(sch_ctx *s, const sch_shape *sh, const json_t *value, bool *ok);

/* grammar_judge.c: does a value satisfy all? */
status sch_conj_ok(sch_ctx *s, const sch_conj *conj, const json_t *value, bool *ok);
status sch_shape_ok(sch_ctx *s, const sch_shape *sh, const json_t *value, bool *ok);
bool sch_equal(const json_t *a, const json_t *b); /* 1 equals 1.0 */
unsigned sch_type_of(const json_t *value);

#endif
