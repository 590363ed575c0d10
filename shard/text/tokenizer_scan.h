/* shard/text/tokenizer_scan.h - a JSON reader for the two large members of a tokenizer.json.
 *
 * vocab and merges hold hundreds of thousands of strings, some with NUL characters in their keys: they are read straight
 * from the text.  Everything else goes through base/json.h. */
#ifndef SHARD_TEXT_TOKENIZER_SCAN_H
#define SHARD_TEXT_TOKENIZER_SCAN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/mem.h"
#include "base/status.h"

typedef struct tok_scan {
    const char *where;
    const char *begin, *at, *end;
} tok_scan;

/* A part of the text: one JSON value.  begin NULL: absent. */
typedef struct tok_span {
    const char *begin;
    size_t len;
} tok_span;

tok_scan tok_scan_start(const char *where, const char *whole, tok_span part);
/* The next character after blanks, '\0' at the end; not consumed. */
char tok_scan_peek(tok_scan *s);
status tok_scan_expect(tok_scan *s, char c);
/* Inside '[' or '{': whether another item comes (consumes the comma, or the closing bracket when none does). */
status tok_scan_more(tok_scan *s, char close, bool first, bool *more);
/* A string, decoded into out (replaced). */
status tok_scan_string(tok_scan *s, mem_str *out);
status tok_scan_number(tok_scan *s, double *out);
/* Any value, unread. */
status tok_scan_skip(tok_scan *s, tok_span *out);
/* The members of an object that are named in names[0..n); absent ones stay NULL.  null counts as absent. */
status tok_scan_members(tok_scan *s, const char *const *names, tok_span *spans, size_t n);
/* ST_FORMAT with the line. */
status tok_scan_bad(const tok_scan *s, const char *what);

#endif
