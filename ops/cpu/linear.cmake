# Sources of the products (linear*.c).  COMMON is built once; LEVEL once for every instruction set; the others with the flags of that one only.
set(OPS_LINEAR_COMMON)
set(OPS_LINEAR_LEVEL)
set(OPS_LINEAR_AVX2)
set(OPS_LINEAR_AVX512)
set(OPS_LINEAR_AMX)
