#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

static _Thread_local char last_message[1024];
static _Thread_local int muted;

const char *status_text(status st)
{
    switch (st) {
#define STATUS_CASE(name, value, text)                                                  \
    case name:                                                                          \
        return text;
        STATUS_LIST(STATUS_CASE)
#undef STATUS_CASE
    }
    return "unknown status";
}

int status_exit_code(status st)
{
    switch (st) {
    case ST_OK:
        return 0;
    case ST_INVALID:
    case ST_FORMAT:
    case ST_UNSUPPORTED:
    case ST_NOT_FOUND:
    case ST_CORRUPT:
        return 2;
    default:
        return 1;
    }
}

const char *status_message(void)
{
    return last_message;
}

void status_message_set(const char *text)
{
    snprintf(last_message, sizeof(last_message), "%s", text);
}

status status_fail(status st, const char *file, int line, const char *format, ...)
{
    /* Formatted aside first: an argument may be the previous message itself. */
    char text[sizeof(last_message)];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    memcpy(last_message, text, sizeof(text));
    if (muted == 0 && log_level_get() >= LOG_DEBUG)
        log_write(LOG_ERROR, file, "%s (%s, line %d)", text, status_text(st), line);
    else if (muted == 0)
        log_write(LOG_ERROR, file, "%s", text);
    return st;
}

void status_mute(void)
{
    muted++;
}

void status_unmute(void)
{
    muted--;
}
