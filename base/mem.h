/* base/mem.h - memory: checked sizes, aligned and huge-page blocks, an arena, a growing string. */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* a * b (+ c) without overflow: false when it does not fit. */
static inline bool mem_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool mem_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}
static inline size_t mem_align(size_t n, size_t to) /* to: a power of two */
{
    return (n + to - 1) & ~(to - 1);
}

/* calloc with a message naming `what`; caller frees. */
status mem_calloc(size_t n, size_t size, const char *what, void *out /* T ** */);

/* Room for `need` elements in *array, which has it for *cap: by realloc, at least doubling.  What is new is not zeroed; when it fails, nothing changes. */
status mem_grow(void *array /* T ** */, size_t *cap, size_t need, size_t size, const char *what);

/* A large zeroed block, 2 MiB aligned, backed by transparent huge pages where the kernel grants them.
 * Pages are committed on first touch.  Release with mem_huge_free and the same size. */
status mem_huge_alloc(size_t bytes, const char *what, void **out);
void mem_huge_free(void *block, size_t bytes);
/* Bytes of all such blocks of this process whose pages have been touched, and so are in its resident memory.  Any thread; takes time (a walk over all pages). */
size_t mem_huge_resident(void);

/* Bytes this process may still take: the smaller of MemAvailable and what its cgroup (v1 or v2) leaves. */
size_t mem_available(void);
/* The least limit of its cgroup and of that one's parents; 0: none. */
size_t mem_limit(void);
/* Resident bytes of this process now, and its peak. */
size_t mem_resident(void);
size_t mem_resident_peak(void);

/* Arena: many small blocks freed together.  Not thread-safe.  limit 0 = none; past it ST_LIMIT/NULL. */
typedef struct mem_arena mem_arena;
mem_arena *mem_arena_create(size_t limit_bytes);          /* NULL: out of memory */
void mem_arena_destroy(mem_arena **arena);
void *mem_arena_alloc(mem_arena *arena, size_t bytes);    /* 16-byte aligned, zeroed; NULL past the limit */
char *mem_arena_strndup(mem_arena *arena, const char *s, size_t n);
size_t mem_arena_used(const mem_arena *arena);

/* A growing byte string, always NUL-terminated once anything was appended.  Failure is sticky: check
 * `failed` (out of memory, or past `limit` when that is non-zero) once at the end. */
typedef struct mem_str {
    char *data;
    size_t len, cap, limit;
    bool failed;
} mem_str;
void mem_str_append(mem_str *s, const void *bytes, size_t n);
void mem_str_puts(mem_str *s, const char *text);
void mem_str_putc(mem_str *s, char c);
void mem_str_printf(mem_str *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
void mem_str_clear(mem_str *s);   /* keeps the memory */
void mem_str_free(mem_str *s);    /* frees and zeroes, keeps limit */
char *mem_str_take(mem_str *s);   /* caller owns the result ("" if empty); NULL if failed (then freed) */

#endif
