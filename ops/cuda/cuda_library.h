/* ops/cuda/cuda_library.h - NVIDIA's libraries, found at run time: the plugin loads where they are missing. */
#ifndef OPS_CUDA_CUDA_LIBRARY_H
#define OPS_CUDA_CUDA_LIBRARY_H

#include <stdbool.h>
#include <stddef.h>

typedef struct cuda_symbol { /* a function, and where its address goes */
    const char *name;
    size_t offset;
} cuda_symbol;

/* Fills `api` with the addresses of n functions of a library, which stays for the life of the process.  False: `why` says what is missing; api is then not to be used.
 * oldest: what would have all, for that message. */
bool cuda_library_load(const char *library, const char *oldest, const cuda_symbol *symbols, size_t n, void *api, char *why, size_t why_bytes);

#endif
