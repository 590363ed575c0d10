/* coordinator/measure_internal.h - what measuring operations and measuring whole layers share. */
#ifndef COORDINATOR_MEASURE_INTERNAL_H
#define COORDINATOR_MEASURE_INTERNAL_H

#include "coordinator/measure.h"

enum { MANY = 8, MAX_SEQS = 64, PASSES = 7, PROMPT_PASSES = 3, SMALL_PASSES = 100, KV_LAYERS = 32, PROMPT_LAYERS = 2, MAX_PROMPT_ROWS = 8192, MAX_SHAPE = 8192 };

typedef struct bench {
    const ops_backend *ops;
    const shard_arch *a;
    ops_ctx *ctx;
    ops_buf *weights, *rows;     /* rows: x, h, y, q, att */
    ops_mat x, h, y;
    ops_batch *batch;
    ops_kv *kv;
    size_t working_set;
    int32_t out, in;             /* shape of a matrix */
    int32_t seqs, blocks;        /* sequences, and KV blocks of each */
    int32_t chunk, max_rows;     /* rows that each brings; rows of a step, at most */
    int32_t many;                /* rows */
    int32_t kv_layers;
    packed_type type;            /* of most weights: read between two passes over the cache */
} bench;

/* Weights of a type (or activations: PACKED_F32) of ordinary size. */
status measure_fill(const bench *b, packed_type type, ops_buf *buf, size_t bytes);

/* Runs whole layers (of a step of prompts a few) and the head as a step does, for the sequences and context of the bench, and sets d's scales so that the plan's phases take what
 * those took, on average.  Where a layer does not fit into the working set, or the cache holds less than asked for, scales stay 1. */
status measure_layers(bench *b, const coord_measure_options *o, shard_device *d);

#endif
