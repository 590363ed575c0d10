/* ops/check.h - what every backend refuses: matrices that leave their buffer, steps that contradict themselves. */
#ifndef OPS_CHECK_H
#define OPS_CHECK_H

#include "ops/ops.h"

/* `rows` rows of at least `cols` columns lie inside a buffer of buf_bytes, at multiples of 64 bytes. */
status ops_mat_check(const char *op, const char *name, const ops_mat *m, size_t buf_bytes, int32_t rows, int32_t cols);
status ops_batch_limits_check(const ops_batch_limits *l);
/* Each row belongs to one span, spans come in the order of their rows, tables reach to the last position. */
status ops_batch_check(const ops_batch_limits *l, const ops_batch_desc *d);
/* qkv against the cache that it writes and the step's spans and block tables (of each group), which came from outside: the blocks that are written exist. */
status ops_qkv_check(const ops_batch_limits *l, const ops_span *spans, int32_t n_spans, const int32_t *const *tables, const ops_kv_spec *kv, const ops_qkv_args *args);

status ops_routing_check(const ops_routing_spec *spec);
/* Rows and options against the routing; the logits' memory is the caller's to look at. */
status ops_route_check(const ops_routing_spec *spec, const ops_route_args *args);
/* Weights i of the call against the routing, x and their buffers (0 bytes where there is none); *l: of one expert's matrix. */
status ops_experts_check(const ops_routing_spec *spec, const ops_experts_args *args, int i, size_t weight_bytes, size_t bias_bytes, packed_layout *l);

#endif
