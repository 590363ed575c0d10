/* worker/worker_internal.h - what the files of worker/ share.  Stays in this folder.
 *
 *   worker.c    life of a worker, and a step from message to result
 *   weights.c   weights read in parallel into one block
 *   sequence.c  the state of each slot: block tables, sampling parameters, token counts
 *   constrain.c which tokens a sequence lets come: bans, allowed tokens, bad words
 *   grammar.c   and by a grammar
 *   forward.c   the forward pass: one for all families
 *   sample.c    choosing tokens from every rank's candidates
 *   pool.c      hidden states instead of tokens */
#ifndef WORKER_WORKER_INTERNAL_H
#define WORKER_WORKER_INTERNAL_H

#include "shard/text/grammar.h"
#include "worker/worker.h"

typedef struct worker_grammar worker_grammar; /* loaded, with its users counted */

typedef struct worker_weights {
    ops_weight matrix[SHARD_ROLES];
    ops_vec vector[SHARD_ROLES];
} worker_weights;

/* A sequence in its slot. */
typedef struct worker_seq {
    bool live;
    int32_t rope_set, n_prompt, n_generated, n_computed, replay_end; /* generated tokens before replay_end were counted at admission's word */
    uint64_t hash;
    step_pooling pooling;
    bool normalize;
    step_sampling sampling; /* its lists lie in `lists`; no grammar: see below */
    void *lists;
    float *inv_freq[OPS_MAX_ROPES]; /* frequencies of its own (dynamic rope scaling), else NULL */
    /* Constraints: biases asked for, then the bans of the moment; the allowed tokens; the last tokens generated, as many as the longest bad word
     * looks back. */
    ops_token_bias *bias;
    uint32_t *allow; /* [vocab / 32] */
    bool allows;     /* allow counts */
    int32_t *tail, n_tail, cap_tail;
    worker_grammar *grammar; /* NULL: none */
    shard_grammar_state *grammar_state;
    bool grammar_lost; /* its tokens left the grammar, or nothing continues it: the sequence ends */
    uint32_t *mask;    /* [vocab / 32] of the moment */
    double *pool;    /* [hidden] sum of the hidden states so far */
    int32_t n_pooled;
    int32_t *table[STEP_MAX_KV_GROUPS];
    int32_t n_table[STEP_MAX_KV_GROUPS];
    /* Only with penalties: counts of tokens, and where each token's count is (index + 1). */
    ops_token_count *counts;
    int32_t n_counts, cap_counts;
    int32_t *count_of; /* [vocab], kept from one sequence of the slot to the next */
} worker_seq;

/* What a row of logits is for. */
typedef struct worker_out {
    int32_t slot;
    int32_t position; /* of the token the logits come from */
    int32_t target;   /* prompt token whose log-probability is wanted; -1: sample */
    bool pool, ends;  /* instead, the hidden state joins the sequence's vector, which is whole then */
} worker_out;

/* A token whose log-probability and rank among all are still to be found. */
typedef struct worker_lookup {
    int32_t row, token; /* of the logits at hand */
    int32_t result;     /* result row */
    int32_t top;        /* in result_tops; -1: the result row's own token */
    float raw;
    double norm;
    int32_t before;     /* tokens of this rank's slice that are likelier */
} worker_lookup;

/* Rows of a step that operations take together: all of them, or some of a step that is cut in two. */
typedef struct worker_piece {
    ops_batch *batch;
    int32_t row, n_rows;  /* its first row in the step */
    int32_t out, n_out;   /* and its first row whose logits are wanted among the step's */
    const float *const *parts; /* partial sums waiting for the next norm */
    int32_t n_parts;
    bool under_way;       /* their sum, which is to be waited for */
} worker_piece;

struct worker {
    worker_options opt;
    const shard_arch *arch;
    const shard_rank_plan *rank;
    const shard_types *types;
    const ops_backend *ops;
    ops_ctx *ctx;
    bool first_stage, last_stage;

    /* weights */
    ops_buf *weight_buf;
    worker_weights outside;  /* embedding, final norm, head */
    worker_weights *layers;  /* [layer_end - layer_begin] */
    ops_vec *mlp_out_bias;   /* per layer: what joins the block's second sum (down's bias; in a parallel block o's and down's together) */

    /* KV cache: a table for each group; layer -> its place in the group's cache */
    ops_kv *kv[STEP_MAX_KV_GROUPS];
    int32_t *kv_layer; /* [layer_end - layer_begin] */
    int32_t table_cap[STEP_MAX_KV_GROUPS];
    ops_vec slopes; /* ALiBi */

    /* buffers of a step */
    ops_buf *scratch;
    ops_mat x[2], h[2], q, k, v, att, gate, up, act, y, logits, adjusted;
    ops_mat own_y, common_h[2], common_y[2]; /* as h and y, of all the stage's ranks, which share the rows of a step's norms; buf NULL: they do not */
    int32_t logits_rows;
    float *sumsq; /* [2 * max rows] for QK_NORM_FULL */
    ops_batch *batch, *batch_more; /* of a step or its first piece, and of the other; NULL: none is cut */
    comm_group *group;  /* this stage's ranks */
    ops_buf *exchange;  /* the group's memory, in which exchange slots lie; of a rank alone on a device, device memory for its one slot */
    char *exchange_base; /* where that lies, on the host or (comm_group_on_device) on the device; NULL: a rank alone on a device */
    ops_buf *peers[COMM_DEVICE_MAX]; /* on devices: the other ranks' slots */
    comm_group *before, *after; /* on devices: this rank and the one that hands it the residual stream, and the one that gets it from here */
    const float *alone; /* its one partial sum */
    comm_request *sent[2]; /* hand-over of x[i] under way */
    char *handed[2];    /* x[i] on the host, where the device's memory has no address there */
    size_t handed_bytes;

    /* the step being computed */
    worker_seq *seqs; /* [max_seqs] */
    ops_span *spans, *spans_more; /* of the other piece */
    int32_t *tokens, *tables[STEP_MAX_KV_GROUPS], *out_rows;
    worker_out *outs;
    int32_t n_rows, n_out, n_spans;
    int32_t n_sampled; /* outs before this one need logits; the others are pooled */
    ops_mat pooled;    /* [n_out, hidden] f32: the final norm's output, where something is pooled */
    worker_piece piece[2], *now; /* now: the one being computed */
    int32_t row_begin, row_end;  /* of the step's norms, where ranks share them; row_end 0: each computes all */
    bool reserving;              /* operations take memory and compute nothing */
    int32_t n_pieces;

    /* sampling */
    ops_sample_row *sample_rows;
    ops_sample_out *sample_outs;
    char *gather_mine, *gather_all;
    size_t gather_bytes;
    float *full_row; /* [2 * vocab] one row of all ranks' logits, and this rank's part */
    ops_candidate *full_sort; /* [vocab] the same, sorted */
    step_result result;
    step_result_row *result_rows;
    step_logprob *result_tops;
    int32_t max_tops;
    worker_lookup *lookups;
    float *lookup_sums;
    int32_t n_lookups, max_lookups;
    shard_grammar_vocab *grammar_vocab;
    worker_grammar **grammars;
    int32_t n_grammars;
    float *embeddings, *pool_row; /* [max_seqs, hidden], [hidden] */

    uint64_t step_number;
    bool tracing; /* this step */
    bool lent;    /* likewise: see step.lent */
    worker_event *events;
    size_t n_events, cap_events;
    int32_t layer; /* being computed */
    worker_operation operation;
    worker_memory memory;
    worker_times times;
};

/* Notes what this rank is at, and marks it. */
void worker_note(worker *w, worker_operation o);
/* What the device is at from here on, with phase_times. */
void worker_mark(worker *w, worker_operation o);

/* weights.c */
status worker_weights_load(worker *w);

/* sequence.c */
status worker_seqs_create(worker *w);
void worker_seqs_destroy(worker *w);
/* Applies retirements, admissions and spans; fills spans, tokens, tables, outs, n_rows, n_out, and the pieces. */
status worker_seqs_apply(worker *w, const step *s);
/* A token of the sequence, in order: of the prompt, sampled, or sampled before and replayed.  Last stage only. */
status worker_seq_saw(worker *w, worker_seq *q, int32_t token, bool in_prompt);

/* constrain.c */
status worker_constrain_admit(worker *w, worker_seq *q, const step_sampling *s);
status worker_constrain_saw(worker_seq *q, int32_t token); /* generated */
status worker_constrain_row(worker *w, worker_seq *q, ops_sample_row *r);
void worker_constrain_retire(worker_seq *q);
void worker_constrain_free(worker_seq *q);

/* grammar.c; n = 0 and sequences without a grammar: nothing happens */
status worker_grammars_prepare(worker *w);
void worker_grammars_destroy(worker *w); /* after the sequences */
status worker_grammar_admit(worker *w, worker_seq *q, const void *bytes, size_t n);
status worker_grammar_saw(worker_seq *q, int32_t token);
status worker_grammar_row(worker *w, worker_seq *q, ops_sample_row *r); /* after r->allow is set */
bool worker_grammar_ended(const worker_seq *q);
bool worker_grammar_ends(const worker *w, const worker_seq *q, int32_t token);
void worker_grammar_retire(worker_seq *q);

/* forward.c */
status worker_forward(worker *w, uint64_t step_number);
/* All scratch that any step may need, taken from the device now; after worker_exchange_create. */
status worker_reserve(worker *w);
/* Rows [begin, begin + n) of y to logits. */
status worker_head(worker *w, int32_t begin, int32_t n);

/* sample.c */
status worker_sample_create(worker *w);
void worker_sample_destroy(worker *w);
status worker_sample_reserve(worker *w); /* for worker_reserve */
/* All n_out rows: logits, candidates, the choice, the result. */
status worker_sample(worker *w, uint64_t step_number);

/* pool.c: outs n_sampled .. n_out, after the sampled ones' results. */
status worker_pool(worker *w);

/* exchange.c */
/* Bytes that the group is to have in common; before it is made. */
size_t worker_common_bytes(const worker *w);
/* Once the group is there: the exchange slots made known to the device, or in the devices' own memory. */
status worker_exchange_create(worker *w);
/* Which rows of the step's norms are this rank's. */
void worker_rows_share(worker *w);
/* Pairs of ranks of neighbouring stages, on devices. */
status worker_stages_create(worker *w);
/* After everything that works in the context, before the context. */
void worker_exchange_destroy(worker *w);
/* The exchange slot of this stage's group, or the piece's share of it, as a matrix [rows, hidden] f32. */
status worker_slot(worker *w, int32_t rows, ops_mat *out);
/* The stage's partial sums in its ranks' slots: the piece's parts and n_parts, for the next norm, which waits for them. */
status worker_slot_sum(worker *w);
/* The stage's ranks have come here: what each wrote into the common buffers is there. */
status worker_meet(worker *w);
status worker_slot_wait(worker *w);
/* x of the step from the stage before; to the stage after. */
status worker_receive(worker *w, ops_mat x);
status worker_hand_on(worker *w, ops_mat x, int which);
/* Waits until x[which] of two steps ago has left. */
status worker_handed_on(worker *w, int which);
/* At a step's end: whether what devices exchanged went well. */
status worker_exchange_check(worker *w);

#endif
