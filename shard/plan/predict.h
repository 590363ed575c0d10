/* shard/plan/predict.h - how fast a checkpoint would be served by a machine, split some way.
 *
 * Pure arithmetic on an architecture, a machine and a split, for checkpoints too that cannot run yet (layers of experts, latent attention).  A replica has tp x ep x pp ranks:
 *
 *   pp  stages of consecutive layers
 *   ep  groups of a stage, each with sequences of its own; the routed experts lie, whole ones, over all tp x ep ranks of the stage (ep 1: sliced by channel over tp)
 *   tp  ranks of a group, which share attention by head, MLP and shared experts by channel, vocabulary by rows
 *
 * A step's time is the sum over the layers of its slowest rank's phases (cost.c) and of what ranks say to each other (machine.h).  With pp stages, pp steps are in flight, each with a part of
 * the sequences: a token comes every max(sum of stages, steps in flight x slowest stage).  Prompts go through in chunks, one stage behind the other.
 *
 * Served: `batch` sequences at once in each replica, a new one as soon as one ends; a sequence is computed as its prompt's chunks and `output` decode steps, and prompts take turns with
 * decode steps.  So a token comes every decode step + batch x prompt's share / output. */
#ifndef SHARD_PLAN_PREDICT_H
#define SHARD_PLAN_PREDICT_H

#include "shard/plan/machine.h"

typedef struct shard_split {
    int32_t tp, pp, ep, replicas;
} shard_split;

typedef struct shard_load {
    int32_t prompt, output; /* tokens of a request */
    int32_t batch;          /* requests at once, in each replica */
} shard_load;

typedef struct shard_serving {
    const shard_machine *machine;
    shard_types types;
    shard_kv_type kv_type;
    int32_t chunk;          /* tokens of a step that computes prompts, in each group; 0 = 512, or 8192 where the device overlaps */
    /* Bytes of an element in sums between ranks and on its way to the next stage (0 = 4: Trireme adds in f32), and on its way to an expert (0 = the same). */
    double sum_bytes, dispatch_bytes;
    int32_t overlap_rows;   /* steps of at least so many tokens are computed in two pieces, one's exchanges behind the other's phases; 0 = never */
} shard_serving;

typedef struct shard_prediction {
    bool fits;
    size_t weight_bytes, kv_bytes, buffer_bytes; /* of the fullest rank, the KV cache that of `batch` whole sequences */
    double ttft;                    /* of a request that comes while the others, if there are any, decode: half a step's wait, and its prompt */
    double tpot;                    /* seconds between tokens, prompts of others included */
    double decode_step;             /* without them */
    double exchange, bubble;        /* parts of the decode step: ranks' exchanges, stages that wait */
    double tokens_per_second;       /* generated, by all replicas */
    double per_device, per_user;    /* the same by device; of one request once it has its first token */
    double decode_rate, prompt_rate; /* tokens/s by all replicas if they did nothing else */
    double price_per_million;       /* of generated tokens; 0 where the machine has no price */
} shard_prediction;

/* Weights of the checkpoint, and those that a token meets (of the experts those it is given; of the embedding one row). */
void shard_arch_weights(const shard_arch *arch, double *total, double *active);

/* Whether arch can be split so on the machine; else ST_INVALID, ST_UNSUPPORTED with the reason and what would work. */
status shard_split_check(const shard_arch *arch, const shard_serving *s, const shard_split *split);
/* The split must have passed the check. */
void shard_predict(const shard_arch *arch, const shard_serving *s, const shard_split *split, const shard_load *load, shard_prediction *out);

/* What `trireme bench` measures: seconds between tokens of `seqs` sequences with `context` tokens behind each, divided among `waves` steps in flight (0: as many as there are
 * stages); seconds until the last of `prompts` prompts has its first token. */
double shard_predict_decode(const shard_arch *arch, const shard_serving *s, const shard_split *split, int32_t seqs, double context, int32_t waves);
double shard_predict_prompts(const shard_arch *arch, const shard_serving *s, const shard_split *split, int32_t prompts, int32_t tokens);

/* ---- every split ---- */

typedef struct shard_point {
    shard_split split;
    int32_t batch;
    shard_prediction p;
} shard_point;

typedef struct shard_sweep_options {
    int32_t n_devices;
    shard_split fixed;          /* what is not 0 is kept; replicas follow from the devices */
    int32_t prompt, output, batch; /* batch 0: 1, 2, 4 ... as long as memory lasts */
    double ttft, tpot;          /* the SLO in seconds; 0 = none */
} shard_sweep_options;

typedef struct shard_sweep {
    int64_t n_splits, n_fit, n_points; /* splits that the checkpoint allows, those that fit, predictions made */
    /* The front: no other split and batch gives both more tokens/s a device and more tokens/s a user; by tokens/s a user, falling. */
    shard_point *front;
    int32_t n_front;
    /* For each split that fits the batch that gives most within the SLO (or at all), in the order tried; only with `every`. */
    shard_point *splits;
    int32_t n_points_kept;
    bool found;                 /* something keeps the SLO */
    shard_point best;           /* the most tokens/s a device within it; if nothing keeps it what comes nearest; batch 0: nothing fits.  A single split and batch that
                                 * was asked for is here though it does not fit */
} shard_sweep;
/* Tries every tp x pp x ep x replicas of at most n_devices; devices left over count as idle ones that are paid for. */
status shard_sweep_create(const shard_arch *arch, const shard_serving *s, const shard_sweep_options *options, bool every, shard_sweep **out);
void shard_sweep_destroy(shard_sweep **sweep);

#endif
