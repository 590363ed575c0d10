/* shard/text/grammar_run.h - a loaded grammar and its run: configurations, interned, with a table of moves that fills as it is used.
 *
 * A stack is a node of interned edges (state to return to, its count, node below): all callers of one rule at one place share a node,
 * so readings that differ below run as one.  An item is (state, count, stack); a configuration is a set of items, all that may
 * be true after the bytes so far, and whether the text may end here. */
#ifndef SHARD_TEXT_GRAMMAR_RUN_H
#define SHARD_TEXT_GRAMMAR_RUN_H

#include "shard/text/grammar_internal.h"

typedef struct run_rule {
    uint32_t first, n; /* states */
    uint32_t min, max; /* counted; max UINT32_MAX: no limit */
    uint32_t rank;     /* above that of every rule which calls it at its start */
    bool counted;
} run_rule;
typedef struct run_state {
    uint32_t edges, calls; /* first; the next state's are the ends */
    uint32_t rule;
    uint32_t height;       /* stack needed to end its rule from here */
    bool final, idle;      /* idle: nothing goes on from it */
} run_state;
typedef struct run_edge {
    uint32_t to;
    uint8_t first, last;
} run_edge;
typedef struct run_call {
    uint32_t rule, to;
} run_call;

typedef struct run_item {
    uint32_t state, count, stack;
} run_item;
typedef struct run_node { /* its edges are items: where to return, with what below */
    uint32_t at, n, depth;
} run_node;
typedef struct run_config {
    uint32_t at, n;    /* items */
    uint32_t row;      /* moves by class of byte; RUN_NONE: none made yet */
    int32_t mask;      /* in the cache, -1 none */
    bool accept;
} run_config;

enum { RUN_MAX_DEPTH = 1000, RUN_MAX_ITEMS = 1024 };
/* Comparisons of items that one mask or token may cost, some 15 ms: a step must not wait for a grammar with thousands of readings. */
enum { RUN_MAX_WORK = 10000000 };
#define RUN_NONE UINT32_MAX
#define RUN_DEAD (-1)
#define RUN_UNKNOWN (-2)
#define RUN_ROOT 0 /* node below the root rule */

/* A set of interned lists of items: open addressing on `slots`. */
typedef struct run_table {
    uint32_t *slots; /* number + 1 */
    size_t n_slots;
} run_table;

typedef struct run_mask { /* tokens that may follow a configuration */
    uint32_t *bits;   /* NULL: `tokens` */
    int32_t *tokens;
    uint32_t n_tokens;
    int32_t slice;    /* -1 none: all of this slice's too */
} run_mask;

struct shard_grammar {
    const shard_grammar_vocab *vocab;
    /* the grammar */
    run_rule *rules;
    run_state *states; /* one more, for ends */
    run_edge *edges;
    run_call *calls;
    uint32_t n_rules, n_states, n_edges, n_calls, n_classes;
    bool empty;
    uint8_t class_of[256], byte_of[256]; /* bytes that no edge tells apart; one byte of each class */
    /* the run */
    run_item *items;   /* of nodes and configurations */
    run_node *nodes;
    run_config *configs;
    int32_t *moves;
    size_t n_items, cap_items, n_nodes, cap_nodes, n_configs, cap_configs, n_moves, cap_moves;
    run_table node_table, config_table;
    run_mask *masks;
    size_t n_masks, cap_masks, mask_bytes;
    struct shard_grammar_state *live; /* all states, for renumbering */
    /* scratch of a move */
    run_item *set;
    size_t n_set;
    uint64_t work;     /* since the mask or token began */
    struct run_push *pushes;
    size_t n_pushes;
    int32_t *path;     /* [max_len + 1] configurations along the trie, and their rows */
    uint32_t *rows;
    uint32_t *bits;    /* [words] */
    int32_t initial;
};

struct shard_grammar_state {
    shard_grammar *grammar;
    struct shard_grammar_state *prev, *next;
    int32_t config, renewed;
    bool done; /* an end token was taken */
};

/* grammar_load.c */
status run_parse(shard_grammar *g, const uint8_t *bytes, size_t len);
void run_free_grammar(shard_grammar *g);

/* grammar_run.c */
status run_begin(shard_grammar *g); /* the initial configuration */
void run_free(shard_grammar *g);
/* Before each mask and token: past its soft bound the run is rebuilt with what states hold. */
status run_tidy(shard_grammar *g);
status run_move_slow(shard_grammar *g, int32_t config, uint8_t class, int32_t *out);
size_t run_sort(run_item *items, size_t n); /* and drops doubles; returns how many are left */
/* items: sorted by run_sort. */
status run_intern_config(shard_grammar *g, const run_item *items, size_t n, bool accept, int32_t *out);

static inline status run_move(shard_grammar *g, int32_t config, uint8_t byte, int32_t *out)
{
    const run_config *c = &g->configs[config];
    uint8_t class = g->class_of[byte];
    if (c->row != RUN_NONE) {
        *out = g->moves[c->row + class];
        if (*out != RUN_UNKNOWN)
            return ST_OK;
    }
    return run_move_slow(g, config, class, out);
}

/* grammar_mask.c */
void run_free_masks(shard_grammar *g);

#endif
