/* shard/plan/predict_internal.h - a split got ready, so that batch after batch is predicted in a microsecond.  Stays in this folder. */
#ifndef SHARD_PLAN_PREDICT_INTERNAL_H
#define SHARD_PLAN_PREDICT_INTERNAL_H

#include "shard/plan/plan_internal.h"
#include "shard/plan/predict.h"

enum { MAX_KINDS = 2 * SHARD_MAX_KV_GROUPS };

/* Layers that cost the same: one window, experts or not. */
typedef struct layer_kind {
    int32_t layer, window; /* the first of them */
    bool moe;
    double bytes;          /* of its weights on a rank */
} layer_kind;

/* Stages that cost the same. */
typedef struct stage_shape {
    int32_t n, layers[MAX_KINDS]; /* how many such stages; layers of each kind */
    bool first, last;
} stage_shape;

typedef struct predictor {
    const shard_arch *a;
    shard_serving s;
    /* of the checkpoint */
    layer_kind kinds[MAX_KINDS];
    int32_t n_kinds;
    uint8_t kind_of[SHARD_MAX_LAYERS];
    /* of tp and ep */
    shard_split split;
    int64_t heads, kv_heads, o_cols, channels, vocab_rows, expert_width, shared_width;
    int32_t tp_hosts, stage_hosts;
    double embed_bytes, head_bytes;
    /* of pp */
    stage_shape *shapes; /* room for n_layers of them */
    int32_t n_shapes;
    int32_t crossings;   /* hand-overs between hosts */
} predictor;

/* shapes: room for arch->n_layers. */
void predictor_init(predictor *p, const shard_arch *arch, const shard_serving *s, stage_shape *shapes);
void predictor_ranks(predictor *p, int32_t tp, int32_t ep);
void predictor_stages(predictor *p, int32_t pp);
void predictor_predict(predictor *p, const shard_load *load, shard_prediction *out);
/* The part that does not depend on the batch: a prompt's seconds until its first token, and the share of the replica that it takes. */
typedef struct prompt_time {
    double latency, share;
} prompt_time;
prompt_time predictor_prompt(predictor *p, int32_t tokens);
void predictor_serve(predictor *p, const shard_load *load, prompt_time prompt, shard_prediction *out);
/* The most sequences of so many tokens that fit, up to a limit; 0: none. */
int64_t predictor_room(const predictor *p, int64_t tokens, int64_t limit);

#endif
