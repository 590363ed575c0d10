#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

static _Atomic int current_level = LOG_INFO;
static _Atomic int current_rank = -1;
static const char *const level_names[] = {"error", "warn", "info", "debug", "trace"};

bool log_level_parse(const char *name, log_level *out)
{
    for (int i = LOG_ERROR; i <= LOG_TRACE; i++) {
        if (strcasecmp(name, level_names[i]) == 0) {
            *out = (log_level)i;
            return true;
        }
    }
    return false;
}

void log_level_set(log_level level)
{
    atomic_store(&current_level, (int)level);
}

log_level log_level_get(void)
{
    return (log_level)atomic_load_explicit(&current_level, memory_order_relaxed);
}

void log_rank_set(int rank)
{
    atomic_store(&current_rank, rank);
}

double log_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double log_thread_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Compilers may be given paths relative to the build folder. */
static const char *module_start(const char *file)
{
    while (strncmp(file, "../", 3) == 0)
        file += 3;
    return file;
}

/* "shard/text/bpe.c" -> "shard/text": a module is a folder. */
static const char *module_begin(const char *file)
{
    while (strncmp(file, "../", 3) == 0) /* Ninja names sources relative to the build folder */
        file += 3;
    return file;
}

static int module_length(const char *file)
{
    const char *slash = strrchr(file, '/');
    return slash == NULL ? (int)strlen(file) : (int)(slash - file);
}

void log_write(log_level level, const char *file, const char *format, ...)
{
    file = module_start(file);
    char line[1536];
    int n = 0;
    bool brief = level <= LOG_INFO && log_level_get() <= LOG_INFO && isatty(STDERR_FILENO);
    if (!brief) {
        struct timespec t;
        struct tm tm;
        clock_gettime(CLOCK_REALTIME, &t);
        gmtime_r(&t.tv_sec, &tm);
        n += (int)strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &tm);
        n += snprintf(line + n, sizeof(line) - (size_t)n, ".%03dZ ", (int)(t.tv_nsec / 1000000));
    }
    n += snprintf(line + n, sizeof(line) - (size_t)n, "trireme: %s: ", level_names[level]);
    int rank = atomic_load(&current_rank);
    if (rank >= 0)
        n += snprintf(line + n, sizeof(line) - (size_t)n, "rank %d: ", rank);
    if (!brief)
        n += snprintf(line + n, sizeof(line) - (size_t)n, "%.*s: ", module_length(module_begin(file)), module_begin(file));
    va_list args;
    va_start(args, format);
    int body = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, args);
    va_end(args);
    if (body > 0)
        n += body;
    if (n > (int)sizeof(line) - 2)
        n = (int)sizeof(line) - 2;
    /* Outside text reaches messages: keep a line a line. */
    for (int i = 0; i < n; i++) {
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = ' ';
    }
    line[n++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, (size_t)n);
    (void)ignored;
}

static void amount_format(char *out, size_t size, double v, bool bytes)
{
    static const char *const binary[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    if (!bytes) {
        snprintf(out, size, "%.0f", v);
        return;
    }
    while (v >= 1024 && u < 4) {
        v /= 1024;
        u++;
    }
    snprintf(out, size, u == 0 ? "%.0f %s" : "%.1f %s", v, binary[u]);
}

void log_progress_begin(log_progress *p, const char *label, unsigned long long total, bool unit_bytes)
{
    *p = (log_progress){.label = label, .total = total, .unit_bytes = unit_bytes};
    p->started = p->last = log_clock();
}

static void progress_print(log_progress *p)
{
    char done[32], total[32], line[256];
    bool tty = isatty(STDERR_FILENO);
    double seconds = log_clock() - p->started;
    amount_format(done, sizeof(done), (double)p->done, p->unit_bytes);
    amount_format(total, sizeof(total), (double)p->total, p->unit_bytes);
    int n;
    if (p->total > 0)
        n = snprintf(line, sizeof(line), "%s%s: %s of %s (%.0f %%), %.1f s%s", tty ? "\r\033[K" : "", p->label, done, total,
                     100.0 * (double)p->done / (double)p->total, seconds, tty ? "" : "\n");
    else
        n = snprintf(line, sizeof(line), "%s%s: %s, %.1f s%s", tty ? "\r\033[K" : "", p->label, done, seconds,
                     tty ? "" : "\n");
    ssize_t ignored = write(STDERR_FILENO, line, (size_t)n);
    (void)ignored;
    p->shown = true;
}

void log_progress_update(log_progress *p, unsigned long long done)
{
    double now = log_clock();
    p->done = done;
    if (log_level_get() < LOG_INFO || now - p->started < 0.3 || now - p->last < (isatty(STDERR_FILENO) ? 0.1 : 2.0))
        return;
    p->last = now;
    progress_print(p);
}

void log_progress_end(log_progress *p)
{
    if (!p->shown)
        return;
    progress_print(p);
    if (isatty(STDERR_FILENO)) {
        ssize_t ignored = write(STDERR_FILENO, "\n", 1);
        (void)ignored;
    }
}
