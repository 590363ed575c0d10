#include "ops/cuda/cuda_library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

bool cuda_library_load(const char *library, const char *oldest, const cuda_symbol *symbols, size_t n, void *api, char *why, size_t why_bytes)
{
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        snprintf(why, why_bytes, "%s is not installed (%s)", library, dlerror());
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        void *f = dlsym(handle, symbols[i].name);
        if (f == NULL) {
            snprintf(why, why_bytes, "%s has no %s: %s is the oldest that serves", library, symbols[i].name, oldest);
            return false;
        }
        memcpy((char *)api + symbols[i].offset, &f, sizeof(f));
    }
    return true;
}
