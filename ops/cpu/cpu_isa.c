/* ops/cpu/cpu_isa.c - what this machine can execute, and has been allowed to by its kernel. */
#include <string.h>

#include "ops/cpu/cpu_vec.h"

static const char *const NAMES[CPU_ISAS] = {[CPU_ISA_C] = "c", [CPU_ISA_AVX2] = "avx2", [CPU_ISA_AVX512] = "avx512", [CPU_ISA_AVX512BF16] = "avx512bf16", [CPU_ISA_AMX] = "amx"};

bool cpu_isa_parse(const char *name, cpu_isa *out)
{
    for (int i = 0; i < CPU_ISAS; i++)
        if (strcmp(name, NAMES[i]) == 0) {
            *out = (cpu_isa)i;
            return true;
        }
    return false;
}

const char *cpu_isa_name(cpu_isa isa)
{
    return NAMES[isa];
}

#ifdef CPU_X86
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define XCR0_AVX 0x6u        /* xmm and ymm state */
#define XCR0_AVX512 0xe0u    /* mask and zmm state */
#define XCR0_AMX 0x60000u    /* tile configuration and data */
#define ARCH_REQ_XCOMP_PERM_ 0x1023
#define XFEATURE_TILE_DATA 18

typedef struct feature {
    cpu_isa isa;
    unsigned leaf, subleaf;
    char reg; /* 'b', 'c', 'd' */
    unsigned bit;
    const char *name;
} feature;

static const feature FEATURES[] = {
    {CPU_ISA_AVX2, 1, 0, 'c', 28, "AVX"},           {CPU_ISA_AVX2, 1, 0, 'c', 12, "FMA"},         {CPU_ISA_AVX2, 1, 0, 'c', 29, "F16C"},
    {CPU_ISA_AVX2, 7, 0, 'b', 5, "AVX2"},           {CPU_ISA_AVX512, 7, 0, 'b', 16, "AVX512F"},   {CPU_ISA_AVX512, 7, 0, 'b', 17, "AVX512DQ"},
    {CPU_ISA_AVX512, 7, 0, 'b', 30, "AVX512BW"},    {CPU_ISA_AVX512, 7, 0, 'b', 31, "AVX512VL"},  {CPU_ISA_AVX512, 7, 0, 'c', 11, "AVX512-VNNI"},
    {CPU_ISA_AVX512BF16, 7, 1, 'a', 5, "AVX512-BF16"}, {CPU_ISA_AMX, 7, 0, 'd', 24, "AMX-TILE"},     {CPU_ISA_AMX, 7, 0, 'd', 25, "AMX-INT8"},
    {CPU_ISA_AMX, 7, 0, 'd', 22, "AMX-BF16"},
};

static bool has_bit(const feature *f)
{
    unsigned a, b, c, d;
    if (!__get_cpuid_count(f->leaf, f->subleaf, &a, &b, &c, &d))
        return false;
    unsigned r = f->reg == 'a' ? a : f->reg == 'b' ? b : f->reg == 'c' ? c : d;
    return r >> f->bit & 1;
}

static unsigned long long enabled_state(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) /* OSXSAVE */
        return 0;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return a | (unsigned long long)d << 32;
}

#ifdef CPU_EMULATE
#define NATIVE_LEVELS CPU_ISA_AVX2 /* what lies above is done in software */
#else
#define NATIVE_LEVELS CPU_ISA_AMX
#endif

const char *cpu_isa_lacks(cpu_isa isa)
{
    cpu_isa need = isa < NATIVE_LEVELS ? isa : NATIVE_LEVELS;
    for (size_t i = 0; i < ARRAY_LEN(FEATURES); i++)
        if (FEATURES[i].isa <= need && !has_bit(&FEATURES[i]))
            return FEATURES[i].name;
    unsigned long long state = need > CPU_ISA_C ? enabled_state() : 0;
    if (need >= CPU_ISA_AVX2 && (state & XCR0_AVX) != XCR0_AVX)
        return "the kernel's support of AVX registers";
    if (need >= CPU_ISA_AVX512 && (state & XCR0_AVX512) != XCR0_AVX512)
        return "the kernel's support of AVX-512 registers";
    if (need >= CPU_ISA_AMX) {
        if ((state & XCR0_AMX) != XCR0_AMX)
            return "the kernel's support of AMX tiles";
        /* Tile data is granted to a process on request; threads started afterwards inherit it. */
        if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM_, XFEATURE_TILE_DATA) != 0)
            return "the kernel's permission to use AMX tiles";
    }
    return NULL;
}
#else
const char *cpu_isa_lacks(cpu_isa isa)
{
    return isa == CPU_ISA_C ? NULL : "an x86-64 processor";
}
#endif

cpu_isa cpu_isa_best(void)
{
    int isa = CPU_ISA_AMX;
    while (isa > CPU_ISA_C && (cpu_isa_lacks((cpu_isa)isa) != NULL || cpu_linear_kernels_of((cpu_isa)isa) == NULL))
        isa--;
    return (cpu_isa)isa;
}
