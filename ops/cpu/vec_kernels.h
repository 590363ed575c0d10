/* ops/cpu/vec_kernels.h - the kernels of one level by name (vec.h's VEC_NAME), for the table in vec_table.c. */
#ifndef OPS_CPU_VEC_KERNELS_H
#define OPS_CPU_VEC_KERNELS_H

#include "ops/cpu/cpu_vec.h"
#include "ops/cpu/vec.h"

void VEC_NAME(norm_row)(const cpu_norm_job *job, int32_t row, float *x, float *s, float *y);
float VEC_NAME(sumsq)(const float *x, int32_t n);
void VEC_NAME(to_bf16)(const float *x, int32_t n, uint16_t *y);
void VEC_NAME(scale_add)(float *x, int32_t n, float scale, const float *add);
void VEC_NAME(gate_row)(ops_activation activation, const float *gate, const float *up, int32_t n, float *y);
void VEC_NAME(softmax)(const float *x, int32_t n, float *y);
void VEC_NAME(sigmoid)(const float *x, int32_t n, float *y);
float VEC_NAME(sum)(const float *x, int32_t n);
void VEC_NAME(add_scaled)(float w, const float *x, int32_t n, float *y);
void VEC_NAME(rope_table)(const float *inv_freq, int32_t n, int32_t position, float factor, float *cosine, float *sine);
void VEC_NAME(head)(const cpu_head_job *job, const float *in, float *out, const float *weight, float inverse, const float *cosine, const float *sine);
void VEC_NAME(kv_put)(const cpu_kv_layout *kv, char *block, int32_t slot, const float *k, const float *v);

void VEC_NAME(attention_pack)(const float *const *q, int32_t n, int32_t head_dim, float *packed);
void VEC_NAME(attention_chunk)(const cpu_attention_tile *tile);
void VEC_NAME(attention_merge)(float *m, float *l, float *o, float chunk_m, float chunk_l, const float *chunk_o, int32_t dim);
void VEC_NAME(attention_finish)(float m, float l, const float *o, const float *sink, int32_t dim, float *y);

float VEC_NAME(logits_raw)(float *l, int32_t n, float multiplier, float softcap);
float VEC_NAME(logits_adjust)(float *l, int32_t n, const uint32_t *allow, int32_t first, float temperature);
float VEC_NAME(sum_exp)(const float *l, int32_t n, float max);
void VEC_NAME(best)(const float *l, int32_t n, int32_t first, bool noise, uint64_t seed, uint32_t choice, int32_t position, ops_candidate *best);
void VEC_NAME(top)(const float *l, int32_t n, int32_t first, cpu_top *top);

#endif
