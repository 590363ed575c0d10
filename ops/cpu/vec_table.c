/* ops/cpu/vec_table.c - the table of one level's kernels. */
#include "ops/cpu/vec_kernels.h"

const cpu_vec_kernels VEC_TABLE = {
    .norm_row = VEC_NAME(norm_row),
    .sumsq = VEC_NAME(sumsq),
    .to_bf16 = VEC_NAME(to_bf16),
    .scale_add = VEC_NAME(scale_add),
    .gate_row = VEC_NAME(gate_row),
    .softmax = VEC_NAME(softmax),
    .sigmoid = VEC_NAME(sigmoid),
    .sum = VEC_NAME(sum),
    .add_scaled = VEC_NAME(add_scaled),
    .rope_table = VEC_NAME(rope_table),
    .head = VEC_NAME(head),
    .kv_put = VEC_NAME(kv_put),
    .attention_pack = VEC_NAME(attention_pack),
    .attention_chunk = VEC_NAME(attention_chunk),
    .attention_merge = VEC_NAME(attention_merge),
    .attention_finish = VEC_NAME(attention_finish),
    .logits_raw = VEC_NAME(logits_raw),
    .logits_adjust = VEC_NAME(logits_adjust),
    .sum_exp = VEC_NAME(sum_exp),
    .best = VEC_NAME(best),
    .top = VEC_NAME(top),
};
