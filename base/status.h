/* base/status.h - what every fallible function returns, and how it says why.
 *
 * 0 is success, negatives are errors.  Whoever first knows the cause reports it
 * once with FAIL, which logs one line, keeps it as this thread's last message and
 * yields the code; callers pass the code up with TRY.  Codes are grouped by what
 * broke: the request, the input (checkpoint, file, configuration), this process,
 * a peer.  The coordinator decides from the group what to do. */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

#define STATUS_LIST(X)                                                                  \
    X(ST_OK, 0, "ok")                                                                   \
    X(ST_INVALID, -1, "invalid")          /* wrong use: arguments, a request's fields */ \
    X(ST_FORMAT, -2, "bad format")        /* outside data that is malformed */           \
    X(ST_UNSUPPORTED, -3, "unsupported")  /* well formed, but not something we do */     \
    X(ST_NOT_FOUND, -4, "not found")                                                    \
    X(ST_IO, -5, "i/o error")                                                           \
    X(ST_NO_MEMORY, -6, "out of memory")                                                \
    X(ST_LIMIT, -7, "limit exceeded")     /* a stated bound on time, size or depth */    \
    X(ST_TIMEOUT, -8, "timed out")                                                      \
    X(ST_PEER, -9, "peer failed")         /* another rank or process is gone */          \
    X(ST_ABORTED, -10, "aborted")                                                       \
    X(ST_BUSY, -11, "busy")               /* try again later: backpressure */            \
    X(ST_CORRUPT, -12, "corrupt")         /* a digest does not match */                  \
    X(ST_INTERNAL, -13, "internal error") /* our own bug */

typedef enum status {
#define STATUS_ENUM(name, value, text) name = value,
    STATUS_LIST(STATUS_ENUM)
#undef STATUS_ENUM
} status;

/* The short text of a code; never NULL. */
const char *status_text(status st);

/* The process exit code for a status: 0 done, 2 wrong use or wrong input, 1 failed while running. */
int status_exit_code(status st);

/* The message of the last FAIL on this thread ("" if none).  Valid until the next FAIL. */
const char *status_message(void);

/* Replaces this thread's last message without logging (used when a message came from another rank). */
void status_message_set(const char *text);

/* Logs at error level (unless muted), keeps the message, returns st. */
status status_fail(status st, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* While muted (counted, per thread), FAIL keeps its message but logs nothing: for callers that
 * turn an expected failure into an answer, and for ranks whose errors are reported together. */
void status_mute(void);
void status_unmute(void);

/* The code is the macro's value, so that the compiler sees that what fails sets nothing. */
#define FAIL(st, ...)                                                 \
    __extension__({                                                   \
        const status fail_st_ = (st);                                 \
        (void)status_fail(fail_st_, __FILE__, __LINE__, __VA_ARGS__); \
        fail_st_;                                                     \
    })

#define TRY(expr)                                                                       \
    do {                                                                                \
        status try_st_ = (expr);                                                        \
        if (try_st_ != ST_OK)                                                           \
            return try_st_;                                                             \
    } while (0)

/* As TRY, for functions that must undo: stores into a variable `st` and jumps. */
#define TRY_GOTO(expr, label)                                                           \
    do {                                                                                \
        st = (expr);                                                                    \
        if (st != ST_OK)                                                                \
            goto label;                                                                 \
    } while (0)

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#endif
