/* coordinator/gateway/api_scan.h - tool calls as models write them, scanned byte by byte.
 *
 * A scanner reads the calls of one block (what stands between a format's marks) and says what it has found so far, so that
 * arguments stream before their call is complete:
 *
 *   JSON      {"name": "f", "arguments": {...}}, alone, in a list, or several with blanks, commas or semicolons between; the arguments may be
 *             called "parameters", be a string that holds JSON, or be missing; {"type": "function", "function": {...}} is looked into
 *   NAMED     a name, perhaps with decorations that the formats know, and then the arguments as a JSON object
 *   PYTHONIC  [f(a=1, b="x"), g()]: Python literals become JSON
 *   BARE      the beginning of a message that may be JSON or PYTHONIC without any mark
 *
 * A call is found when its name is complete; what was not one yet can be given back as plain text by the caller. */
#ifndef COORDINATOR_GATEWAY_API_SCAN_H
#define COORDINATOR_GATEWAY_API_SCAN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/mem.h"
#include "base/status.h"

typedef enum api_scan_form { API_SCAN_JSON, API_SCAN_NAMED, API_SCAN_PYTHONIC, API_SCAN_BARE } api_scan_form;

typedef enum api_scan_state {
    API_SCAN_BETWEEN, /* in no call: before the first, or after one that is complete */
    API_SCAN_INSIDE,  /* in a call */
    API_SCAN_BAD,     /* what came is no call; the byte was not taken */
} api_scan_state;

/* What a scanner tells: a call's name (before any of its arguments), then pieces of its arguments, which are JSON. */
typedef struct api_scan_sink {
    status (*call)(void *arg, const char *name, size_t len); /* ST_NOT_FOUND: no tool of that name; the scan turns bad */
    status (*arguments)(void *arg, const char *text, size_t len);
    void *arg;
} api_scan_sink;

typedef struct api_scan api_scan;
status api_scan_create(const api_scan_sink *sink, api_scan **out);
void api_scan_destroy(api_scan **s);
/* Starts a block. */
void api_scan_begin(api_scan *s, api_scan_form form);
/* The next byte.  Between calls: blanks, separators and brackets of a list are taken; any other byte begins a call or is bad. */
status api_scan_byte(api_scan *s, char c, api_scan_state *state);

#endif
