/* base/log.h - the only place that prints diagnostics: one line each, to standard error.
 *
 * Levels: error (cannot go on), warn, info, debug, trace.  Nothing per token above debug.
 * A line carries time, rank (once known) and module; it is written with one write(2).
 * At the default level (info) a terminal gets short lines without the time. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

typedef enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_TRACE } log_level;

/* Level from its name ("error" ... "trace"); false if unknown.  The program reads TRIREME_LOG at start. */
bool log_level_parse(const char *name, log_level *out);
void log_level_set(log_level level);
log_level log_level_get(void);

/* The rank shown in each line; -1 (the default) shows none. */
void log_rank_set(int rank);

void log_write(log_level level, const char *file, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_at(level, ...)                                                              \
    do {                                                                                \
        if ((level) <= log_level_get())                                                 \
            log_write((level), __FILE__, __VA_ARGS__);                                  \
    } while (0)
#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)
#define log_trace(...) log_at(LOG_TRACE, __VA_ARGS__)

/* A progress line on standard error for long work: redrawn in place on a terminal, at most one line
 * every two seconds elsewhere, nothing for work that ends within 0.3 s.  total 0 = unknown.  One
 * thread at a time.  `unit_bytes`: show amounts as bytes. */
typedef struct log_progress {
    const char *label;
    unsigned long long total, done;
    double started, last;
    bool unit_bytes, shown;
} log_progress;
void log_progress_begin(log_progress *p, const char *label, unsigned long long total, bool unit_bytes);
void log_progress_update(log_progress *p, unsigned long long done);
void log_progress_end(log_progress *p);

/* Seconds on the monotonic clock. */
double log_clock(void);
/* Seconds of processor time that the calling thread has had: what a bound on work is measured in, so that a busy machine refuses no more than an idle one. */
double log_thread_clock(void);

#endif
