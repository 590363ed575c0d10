# Sources of the products (linear*.c).  COMMON is built once; LEVEL once for every instruction set; the others with the flags of that one only.
set(OPS_LINEAR_COMMON cpu/linear.c cpu/linear_c.c)
set(OPS_LINEAR_LEVEL cpu/linear_quantise.c)
set(OPS_LINEAR_AVX2 cpu/linear_avx2.c)
set(OPS_LINEAR_AVX512 cpu/linear_avx512.c)
set(OPS_LINEAR_AVX512BF16 cpu/linear_avx512bf16.c)
set(OPS_LINEAR_AMX cpu/linear_amx.c)
