#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define HUGE_BYTES ((size_t)2 << 20)

status mem_calloc(size_t n, size_t size, const char *what, void *out)
{
    void *p = calloc(n == 0 ? 1 : n, size == 0 ? 1 : size);
    if (p == NULL)
        return FAIL(ST_NO_MEMORY, "%s: cannot get %zu x %zu bytes of memory", what, n, size);
    memcpy(out, &p, sizeof(p));
    return ST_OK;
}

status mem_grow(void *array, size_t *cap, size_t need, size_t size, const char *what)
{
    void *p;
    size_t n = need > 16 ? need : 16, bytes;
    if (need <= *cap)
        return ST_OK;
    n = n / 2 < *cap ? *cap * 2 : n;
    memcpy(&p, array, sizeof(p));
    p = mem_mul(n, size, &bytes) ? realloc(p, bytes) : NULL;
    if (p == NULL)
        return FAIL(ST_NO_MEMORY, "%s: cannot get %zu x %zu bytes of memory", what, n, size);
    memcpy(array, &p, sizeof(p));
    *cap = n;
    return ST_OK;
}

/* Every live huge block: few, large and long-lived. */
typedef struct huge_block {
    char *data;
    size_t size;
    struct huge_block *next;
} huge_block;
static huge_block *huge_blocks;
static pthread_mutex_t huge_lock = PTHREAD_MUTEX_INITIALIZER;

static void huge_note(huge_block *entry, char *data, size_t size)
{
    *entry = (huge_block){data, size, NULL};
    pthread_mutex_lock(&huge_lock);
    entry->next = huge_blocks;
    huge_blocks = entry;
    pthread_mutex_unlock(&huge_lock);
}

static void huge_forget(const void *data)
{
    huge_block *found = NULL;
    pthread_mutex_lock(&huge_lock);
    for (huge_block **at = &huge_blocks; *at != NULL; at = &(*at)->next) {
        if ((*at)->data == data) {
            found = *at;
            *at = found->next;
            break;
        }
    }
    pthread_mutex_unlock(&huge_lock);
    free(found);
}

/* Pages of [data, data + size) that are in memory, piece by piece: mincore writes a byte for each. */
static size_t resident_pages(char *data, size_t size, size_t page)
{
    enum { PAGES = 16384 };
    unsigned char present[PAGES];
    size_t n = 0;
    for (size_t at = 0; at < size; at += PAGES * page) {
        size_t len = size - at < PAGES * page ? size - at : PAGES * page;
        if (mincore(data + at, len, (void *)present) != 0) /* the type of the last argument differs between systems */
            continue;
        for (size_t i = 0; i < (len + page - 1) / page; i++)
            n += present[i] & 1;
    }
    return n;
}

size_t mem_huge_resident(void)
{
    size_t pages = 0, page = (size_t)sysconf(_SC_PAGESIZE);
    pthread_mutex_lock(&huge_lock);
    for (const huge_block *b = huge_blocks; b != NULL; b = b->next)
        pages += resident_pages(b->data, b->size, page);
    pthread_mutex_unlock(&huge_lock);
    return pages * page;
}

status mem_huge_alloc(size_t bytes, const char *what, void **out)
{
    size_t size = mem_align(bytes == 0 ? 1 : bytes, HUGE_BYTES);
    size_t total;
    if (size < bytes || !mem_add(size, HUGE_BYTES, &total))
        return FAIL(ST_NO_MEMORY, "%s: %zu bytes is more than an address space holds", what, bytes);
    huge_block *entry = NULL;
    TRY(mem_calloc(1, sizeof(*entry), what, &entry));
    char *p = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        free(entry);
        return FAIL(ST_NO_MEMORY, "%s: cannot get %zu bytes of memory: %s", what, bytes, strerror(errno));
    }
    char *aligned = (char *)mem_align((size_t)p, HUGE_BYTES);
    if (aligned > p)
        munmap(p, (size_t)(aligned - p));
    if (p + total > aligned + size)
        munmap(aligned + size, (size_t)(p + total - (aligned + size)));
#ifdef MADV_HUGEPAGE
    madvise(aligned, size, MADV_HUGEPAGE);
#endif
    huge_note(entry, aligned, size);
    *out = aligned;
    return ST_OK;
}

void mem_huge_free(void *block, size_t bytes)
{
    if (block == NULL)
        return;
    huge_forget(block);
    munmap(block, mem_align(bytes == 0 ? 1 : bytes, HUGE_BYTES));
}

/* The number after `key` in a /proc or /sys file (key "" = the file's first number); -1 if absent. */
static int64_t file_number(const char *path, const char *key)
{
    char line[256];
    int64_t value = -1;
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return -1;
    while (fgets(line, sizeof(line), f) != NULL) {
        size_t n = strlen(key);
        if (strncmp(line, key, n) == 0 && sscanf(line + n, "%" SCNd64, &value) == 1)
            break;
        value = -1;
    }
    fclose(f);
    return value;
}

/* What the limits of this process's cgroup and of its parents leave, v2 then v1, and the smallest of them; INT64_MAX if unlimited. */
static int64_t cgroup_left(int64_t *smallest)
{
    char line[512], path[1024];
    int64_t left = INT64_MAX;
    *smallest = INT64_MAX;
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (f == NULL)
        return left;
    while (fgets(line, sizeof(line), f) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *sub = NULL;
        bool v2 = strncmp(line, "0::", 3) == 0;
        if (v2)
            sub = line + 3;
        else if (strstr(line, ":memory:") != NULL)
            sub = strstr(line, ":memory:") + 8;
        if (sub == NULL)
            continue;
        for (;;) {
            snprintf(path, sizeof(path), "/sys/fs/cgroup%s%s/%s", v2 ? "" : "/memory", sub,
                     v2 ? "memory.max" : "memory.limit_in_bytes");
            int64_t limit = file_number(path, "");
            snprintf(path, sizeof(path), "/sys/fs/cgroup%s%s/%s", v2 ? "" : "/memory", sub,
                     v2 ? "memory.current" : "memory.usage_in_bytes");
            int64_t used = file_number(path, "");
            if (limit >= 0 && limit < INT64_MAX / 2 && limit < *smallest)
                *smallest = limit;
            if (limit >= 0 && used >= 0 && limit < INT64_MAX / 2 && limit - used < left)
                left = limit > used ? limit - used : 0;
            char *slash = strrchr(sub, '/');
            if (slash == NULL || slash[1] == '\0')
                break;
            slash[slash == sub ? 1 : 0] = '\0';
        }
    }
    fclose(f);
    return left;
}

size_t mem_available(void)
{
    int64_t kib = file_number("/proc/meminfo", "MemAvailable:");
    int64_t system = kib >= 0 ? kib * 1024 : (int64_t)sysconf(_SC_AVPHYS_PAGES) * sysconf(_SC_PAGESIZE);
    int64_t smallest, group = cgroup_left(&smallest);
    return (size_t)(group < system ? group : system);
}

size_t mem_limit(void)
{
    int64_t limit;
    (void)cgroup_left(&limit);
    return limit < INT64_MAX ? (size_t)limit : 0;
}

size_t mem_resident(void)
{
    int64_t kib = file_number("/proc/self/status", "VmRSS:");
    return kib < 0 ? 0 : (size_t)kib * 1024;
}

size_t mem_resident_peak(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (size_t)u.ru_maxrss * 1024 : 0;
}

typedef struct arena_chunk {
    struct arena_chunk *next;
    size_t used, size;
    _Alignas(16) char data[];
} arena_chunk;

struct mem_arena {
    arena_chunk *chunks;
    size_t used, limit;
};

mem_arena *mem_arena_create(size_t limit_bytes)
{
    mem_arena *a = calloc(1, sizeof(*a));
    if (a != NULL)
        a->limit = limit_bytes;
    return a;
}

void mem_arena_destroy(mem_arena **arena)
{
    if (*arena == NULL)
        return;
    for (arena_chunk *c = (*arena)->chunks, *next; c != NULL; c = next) {
        next = c->next;
        free(c);
    }
    free(*arena);
    *arena = NULL;
}

void *mem_arena_alloc(mem_arena *a, size_t bytes)
{
    size_t need = mem_align(bytes == 0 ? 1 : bytes, 16);
    if (need < bytes || (a->limit != 0 && (need > a->limit || a->used > a->limit - need)))
        return NULL;
    arena_chunk *c = a->chunks;
    if (c == NULL || c->size - c->used < need) {
        size_t size = c == NULL ? 4096 : c->size < ((size_t)1 << 20) ? c->size * 2 : c->size;
        if (size < need)
            size = need;
        c = calloc(1, sizeof(*c) + size);
        if (c == NULL)
            return NULL;
        c->size = size;
        c->next = a->chunks;
        a->chunks = c;
    }
    void *p = c->data + c->used;
    c->used += need;
    a->used += need;
    return p;
}

char *mem_arena_strndup(mem_arena *a, const char *s, size_t n)
{
    char *p = mem_arena_alloc(a, n + 1);
    if (p != NULL)
        memcpy(p, s, n);
    return p;
}

size_t mem_arena_used(const mem_arena *a)
{
    return a->used;
}

static bool str_reserve(mem_str *s, size_t more)
{
    size_t need;
    if (s->failed || !mem_add(s->len, more, &need) || (s->limit != 0 && need > s->limit) || need == SIZE_MAX) {
        s->failed = true;
        return false;
    }
    if (need + 1 > s->cap) {
        size_t cap = s->cap == 0 ? 64 : s->cap;
        while (cap < need + 1)
            cap = cap > SIZE_MAX / 2 ? need + 1 : cap * 2;
        char *p = realloc(s->data, cap);
        if (p == NULL) {
            s->failed = true;
            return false;
        }
        s->data = p;
        s->cap = cap;
    }
    return true;
}

void mem_str_append(mem_str *s, const void *bytes, size_t n)
{
    if (!str_reserve(s, n))
        return;
    if (n > 0)
        memcpy(s->data + s->len, bytes, n);
    s->len += n;
    s->data[s->len] = '\0';
}

void mem_str_puts(mem_str *s, const char *text)
{
    mem_str_append(s, text, strlen(text));
}

void mem_str_putc(mem_str *s, char c)
{
    mem_str_append(s, &c, 1);
}

void mem_str_printf(mem_str *s, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n >= 0 && str_reserve(s, (size_t)n)) {
        vsnprintf(s->data + s->len, (size_t)n + 1, format, again);
        s->len += (size_t)n;
    } else {
        s->failed = true;
    }
    va_end(again);
}

void mem_str_clear(mem_str *s)
{
    s->len = 0;
    s->failed = false;
    if (s->data != NULL)
        s->data[0] = '\0';
}

void mem_str_free(mem_str *s)
{
    free(s->data);
    *s = (mem_str){.limit = s->limit};
}

char *mem_str_take(mem_str *s)
{
    if (!s->failed)
        mem_str_append(s, "", 0);
    if (s->failed) {
        mem_str_free(s);
        return NULL;
    }
    char *p = s->data;
    *s = (mem_str){.limit = s->limit};
    return p;
}
