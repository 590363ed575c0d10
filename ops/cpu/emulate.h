/* ops/cpu/emulate.h - AVX-512 intrinsics in software, for tests on machines that lack the instructions.  Never part of the program. */
#ifndef OPS_CPU_EMULATE_H
#define OPS_CPU_EMULATE_H

#include <immintrin.h>
#define SIMDE_ENABLE_NATIVE_ALIASES
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wundef"
#pragma GCC diagnostic ignored "-Wshadow"
#include <simde/x86/avx512.h>
#pragma GCC diagnostic pop

#endif
