# Sources of the products (linear*.c).  COMMON is built once; LEVEL once for every instruction set; the others with the flags of that one only.
set(OPS_LINEAR_COMMON cpu/linear.c cpu/linear_c.c)
set(OPS_LINEAR_LEVEL cpu/linear_quantise.c)
set(OPS_LINEAR_AVX2 cpu/linear_avx2.c)
set(OPS_LINEAR_AVX512 cpu/linear_avx512.c)
set(OPS_LINEAR_AMX cpu/linear_amx.c)
# The kernels are loops over constants that must be unrolled into registers, in every build (sanitised ones take minutes to compile that way, and need not).
if(SANITIZE STREQUAL "")
  set_source_files_properties(cpu/linear_avx2.c cpu/linear_avx512.c cpu/linear_amx.c cpu/linear_quantise.c PROPERTIES COMPILE_OPTIONS "-O3")
endif()
